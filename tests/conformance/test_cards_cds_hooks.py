"""Cards against CDS Hooks 2.0 and their orders against FHIR R4 (CH numbers: card_invariants)."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from fhir.resources.R4B.servicerequest import ServiceRequest

from cds.cards import render
from cds.model import Evaluation, Fact, Finding, Source, Tier
from cds.rulefile import Evidence
from cds.rules import Rulesets, load_rulesets
from conformance.card_examples import (
    AGE,
    DAY,
    EVIDENCE,
    PATIENT,
    evaluation,
    finding,
    lab,
    rule,
    rulesets,
    text,
)
from conformance.card_invariants import check_card, check_cards, shown

Card = dict[str, Any]


@pytest.fixture
def cards() -> list[Card]:
    """Three cards with everything that a card of ours can have."""
    link = Evidence(source="Second", statement="s", url="https://example.org/second")
    r = rulesets(
        [
            (
                "electrolyte",
                rule(evidence=(EVIDENCE, link), card=text(suggestions=("panel", "ecg"))),
            ),
            ("medication", rule("ask-prescriber", tier="soon", card=text(suggestions=("ecg",)))),
            ("lifestyle", rule("sleep", tier="info")),
        ]
    )
    return render(
        evaluation(
            finding(),
            finding("ask-prescriber", Tier.soon, "medication"),
            finding("sleep", Tier.info, "lifestyle"),
        ),
        r,
    )


def test_our_cards_pass(cards):
    assert check_cards(cards, patient=PATIENT) == []


def faulty(path: str, value: object) -> Callable[[Card], None]:
    """A change to one place of a card: "source.label"; a value of `del` takes it away."""

    def change(card: Card) -> None:
        *way, last = (int(p) if p.isdigit() else p for p in path.split("."))
        place: Any = card
        for step in way:
            place = place[step]
        if value is del_:
            del place[last]
        else:
            place[last] = value

    return change


del_ = object()
RESOURCE = "suggestions.0.actions.0.resource"


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        ("detail", float("nan"), "CH-01"),
        ("links.0.label", None, "CH-03"),
        ("links", [], "CH-04"),
        ("source.label", "  ", "CH-04"),
        ("uuid", "not-a-uuid", "CH-94"),
        ("suggestions.0.uuid", del_, "CH-94"),
        ("summary", del_, "CH-95"),
        ("summary", "x" * 140, "CH-95 summary: code points"),
        ("summary", "\U0001f642" * 70, "CH-95 summary: UTF-16"),
        ("summary", "two\nlines", "CH-95"),
        ("detail", "a <b>bold</b> claim", "CH-96"),
        ("detail", "<div>\nhidden\n</div>", "CH-96"),
        ("detail", "![x](https://evil.example/p.png)", "CH-96"),
        ("detail", "[x](http://plain.example)", "CH-144"),
        ("indicator", "hard-stop", "CH-97"),
        ("source", del_, "CH-98"),
        ("source.label", del_, "CH-99"),
        ("source.url", "/relative", "CH-100"),
        ("source.topic.code", del_, "CH-117"),
        ("selectionBehavior", del_, "CH-103"),
        ("suggestions", del_, "CH-103"),
        ("suggestions.0.label", del_, "CH-104"),
        ("suggestions.0.actions", [], "CH-106"),
        ("suggestions.0.actions.0.type", "Create", "CH-107"),
        ("suggestions.0.actions.0.description", del_, "CH-108"),
        ("suggestions.0.actions.0.resource", "ServiceRequest/1", "CH-109"),
        (f"{RESOURCE}.id", "1", "CH-109 no id"),
        (f"{RESOURCE}.status", "active", "CH-109 draft"),
        (f"{RESOURCE}.subject.reference", "Patient/other", "CH-109 subject"),
        ("overrideReasons.0.display", del_, "CH-117 CH-112"),
        ("links.0.type", "relative", "CH-113"),
        ("links.0.url", "javascript:alert(1)", "CH-113"),
        ("links.0.appContext", "x", "CH-114"),
        ("links.0.autolaunchable", True, "link has unknown members"),
        ("suggestions.0.actionSelectionBehavior", "any", "suggestion has unknown members"),
        ("extension", [1], "CH-150"),
        ("extension", {"provenance": 1}, "CH-151"),
    ],
)
def test_the_checker_finds_a_fault(cards, path, value, fault):
    card = copy.deepcopy(cards[0])
    faulty(path, value)(card)
    assert any(found.startswith(fault) for found in check_card(card, patient=PATIENT))


def test_the_checker_finds_faults_between_cards(cards):
    assert check_cards([cards[1], cards[0]]) == ["CH-118 order: most urgent first"]
    assert check_cards([cards[0], cards[0]]) == ["CH-94 uuids are unique"]
    assert check_cards([[]]) == ["card 0: a card is an object"]


def test_ch_05_optional_members_without_value_are_left_out():
    bare = EVIDENCE.model_copy(update={"url": None})
    r = rulesets([("electrolyte", rule(evidence=(bare,)))])
    (card,) = render(evaluation(), r, audience="patient")
    assert list(card) == ["uuid", "summary", "indicator", "detail", "source", "extension"]


def test_ch_06_ch_109_every_order_is_a_valid_fhir_service_request(cards):
    orders = [
        action["resource"]
        for card in cards
        for suggestion in card.get("suggestions", ())
        for action in suggestion["actions"]
    ]
    assert len(orders) == 4
    for order in orders:
        again = ServiceRequest.model_validate(order)
        assert json.loads(again.model_dump_json()) == order


def test_ch_118_cards_come_the_most_urgent_first(cards):
    assert [c["indicator"] for c in cards] == ["critical", "warning", "info"]


def test_ch_145_every_value_stands_beside_its_date(cards):
    for card in cards:
        assert "Potassium 2.4 mmol/L, 2026-10-31 08:00 UTC" in shown(card["detail"])


def test_ch_154_without_its_extension_a_card_is_still_valid(cards):
    for card in cards:
        del card["extension"]
    assert check_cards(cards, patient=PATIENT) == []


# ---------------------------------------------------------------- the shipped rules


@pytest.fixture(scope="module")
def shipped() -> Rulesets:
    return load_rulesets()


def everything_known(r: Rulesets) -> list[Fact]:
    """A result of every analyte with the longest texts that a laboratory is likely to send."""
    return [
        lab(
            name,
            Source(
                f"Observation/{name}",
                "2026-10-31T08:00:00.000+01:00",
                Decimal("1234.5678"),
                analyte.unit,
                "1234.5678 a unit of theirs",
                "1000.0000 to 1200.0000 a unit of theirs",
            ),
            age=8 * DAY,
        )
        for name, analyte in r.terminology.analytes.items()
    ]


def each_rule(r: Rulesets) -> list[tuple[Evaluation, str]]:
    """One evaluation for each rule that has a card: its finding alone, with all facts known."""
    facts = [*everything_known(r), AGE]
    found = []
    for compiled in r.program.rules:
        own = compiled.rule
        if own.card is None or own.caveat_for:
            continue
        only = Finding(
            id=own.finding_id,
            group=compiled.group,
            tier=own.tier_value,
            title=own.title,
            rules=(own.id,),
            covers=own.covers,
            because=tuple(f.key for f in facts[:3]),
        )
        found.append((evaluation(only, facts=facts), own.id))
    return found


@pytest.mark.parametrize("audience", ["clinician", "patient"])
def test_every_shipped_rule_gives_a_valid_card(shipped, audience):
    entries = each_rule(shipped)
    assert entries
    for e, id_ in entries:
        cards = render(e, shipped, audience=audience)
        assert (id_, check_cards(cards, patient=PATIENT)) == (id_, [])


def test_no_shipped_summary_has_to_be_cut(shipped):
    cut = [id_ for e, id_ in each_rule(shipped) if "…" in render(e, shipped)[0]["summary"]]
    assert cut == []


def test_every_shipped_group_has_a_topic_and_every_tier_a_sentence(shipped):
    assert {file.group for file in shipped.files} <= shipped.texts.groups.keys()
    tiers = {tier.name for tier in Tier}
    assert shipped.texts.tiers.keys() == shipped.texts.patient_tiers.keys() == tiers


def test_every_shipped_order_is_a_valid_fhir_service_request(shipped):
    names = sorted(shipped.texts.suggestions)
    assert names
    r = rulesets([("electrolyte", rule(card=text(suggestions=tuple(names))))], texts=shipped.texts)
    (card,) = render(evaluation(), r)
    for suggestion in card["suggestions"]:
        for action in suggestion["actions"]:
            ServiceRequest.model_validate(action["resource"])
    assert len(card["suggestions"]) == len(names)
