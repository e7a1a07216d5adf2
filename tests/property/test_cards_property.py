"""What must hold for the cards of any patient, whatever a sender wrote."""

from __future__ import annotations

import json
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from cds.cards import because, render
from cds.model import Doubt, Evaluation, Fact, NotEvaluated, Source, Suppressed, Tier
from cds.program import grid_code
from cds.rules import Rulesets
from cds.wording import Wording, code_span, escape, one_line, safe_markdown
from conformance.card_examples import (
    AGE,
    GROUPS,
    HOOK,
    evaluation,
    finding,
    lab,
    rule,
    rulesets,
    source,
    text,
)
from conformance.card_invariants import check_cards, shown, tokens

# Pieces that mean something to Markdown, HTML, JSON or a terminal, and any text between them.
_MARKUP = st.sampled_from(
    ["`", "``", "|", "*", "**", "_", "~~", "<", ">", "&", "&lt;", "[x](javascript:a)", "![i](u)",
     "<img src=x onerror=a>", "</details>", "<!--", "https://evil.example", "www.evil.example",
     "a@b.example", "\n", "\r\n", "\n\n", "# ", "- ", "1. ", "---", "\t", "    ", "\\", "{", "}",
     "{potassium}", "\x00", "\x1b[31m", "\u202e", "\u200b", "\ud800", "\U0001f642", "$", ":--|"]
)  # fmt: skip
hostile = st.lists(_MARKUP | st.text(max_size=20), max_size=8).map("".join)
whole_text = hostile.map(lambda t: t.encode("utf-8", "replace").decode())

numbers = st.decimals(allow_nan=False, allow_infinity=False) | st.decimals(
    min_value=0, max_value=200, places=4
)
doubts = st.builds(Doubt, st.just("hemolyzed"), hostile)
sources = st.builds(
    Source,
    resource=st.none() | hostile,
    effective=st.none() | hostile | st.sampled_from(["2026-10-31T08:00:00Z", "2026", "2026-01/"]),
    value=st.none() | numbers,
    unit=st.sampled_from([None, "mmol/L", "1", "mL/min/{1.73_m2}", "10*9/L"]),
    sent=st.none() | hostile,
    laboratory_range=st.none() | hostile,
    doubts=st.lists(doubts, max_size=2).map(tuple),
)
several = st.lists(sources, max_size=3).map(tuple)
props = st.fixed_dictionaries(
    {}, optional={name: st.integers(-(2**52), 2**52) for name in ("low", "high", "age", "years")}
)


def fact(key: str) -> st.SearchStrategy[Fact]:
    kind, concept = key.split("/")[:2]
    return st.builds(Fact, st.just(key), st.just(kind), st.just(concept), props, several)


KEYS = (
    "lab/potassium", "lab/magnesium", "lab/egfr", "rise/potassium/PT12H", "symptom/cramp",
    "no-result/magnesium/P90D", "medication/loop-diuretic", "history/cramp", "sex/female",
    "quality/implausible/potassium", "patient/age",
)  # fmt: skip
facts = st.lists(st.sampled_from(KEYS), unique=True).flatmap(
    lambda keys: st.tuples(*(fact(key) for key in keys))
)
keys = st.lists(st.sampled_from((*KEYS, "finding/f1", "finding/step")), max_size=4).map(tuple)

templates = st.lists(
    st.sampled_from(
        ["{potassium}", "{magnesium.sent}", "{egfr.date}", "{age_days}", "Low", "potassium", ".",
         "<b>", "**bold**", "\U0001f642", "a long word " * 9, "unbreakable" * 20]
    ),
    min_size=1,
    max_size=8,
).map(" ".join)  # fmt: skip


@st.composite
def patients(draw: st.DrawFn) -> tuple[Evaluation, Rulesets]:
    """An evaluation of up to a dozen findings, and rulesets that have all their rules."""
    places = draw(
        st.lists(
            st.tuples(st.sampled_from(GROUPS), st.sampled_from(list(Tier))), min_size=1, max_size=12
        )
    )
    rules, findings = [], []
    for number, (group, tier) in enumerate(places):
        card = text(
            summary=draw(templates),
            detail=draw(templates),
            patient=draw(templates),
            patient_summary=draw(st.none() | templates),
            suggestions=draw(st.sampled_from([(), ("panel",), ("ecg", "panel")])),
        )
        rules.append((group, rule(f"f{number}", tier=tier.name, card=card)))
        findings.append(finding(f"f{number}", tier, group, because=draw(keys)))
    e = evaluation(
        *findings,
        facts=draw(facts),
        patient=draw(st.just("Patient/p1") | hostile.filter(str.strip)),
        suppressed=(Suppressed(finding("step", because=draw(keys)), "superseded"),),
        not_evaluated=tuple(
            NotEvaluated("f0", "missing", name) for name in draw(st.lists(st.sampled_from(GROUPS)))
        ),
    )
    return e, rulesets(rules)


@given(patients(), st.sampled_from(["clinician", "patient"]), st.none() | st.just(HOOK))
def test_every_card_satisfies_every_invariant(patient, audience, hook):
    e, r = patient
    cards = render(e, r, audience=audience, hook_instance=hook)
    assert cards
    assert check_cards(cards) == []


@given(patients(), st.randoms())
def test_the_order_of_facts_changes_no_byte(patient, random):
    e, r = patient
    known = list(e.facts.items())
    random.shuffle(known)
    other = evaluation(
        *e.findings,
        facts=(f for _, f in known),
        patient=e.patient,
        suppressed=e.suppressed,
        not_evaluated=e.not_evaluated,
    )
    assert json.dumps(render(other, r)) == json.dumps(render(e, r))


@given(patients())
def test_findings_stand_on_the_cards_in_their_own_order(patient):
    e, r = patient
    place = {f.id: number for number, f in enumerate(e.findings)}
    cards = render(e, r)
    rules = [c["extension"]["org.cds-twitch.provenance"]["rules"] for c in cards]
    places = [[place[entry["finding"]] for entry in entries] for entries in rules]
    assert all(each == sorted(each) for each in places)
    assert [each[0] for each in places] == sorted(each[0] for each in places)


@given(patients())
def test_every_finding_stands_on_exactly_one_card(patient):
    e, r = patient
    cards = render(e, r)
    provenance = [c["extension"]["org.cds-twitch.provenance"]["rules"] for c in cards]
    on_cards = sorted(entry["finding"] for entries in provenance for entry in entries)
    assert on_cards == sorted(f.id for f in e.findings)
    merged = {"lifestyle", "workup", "education"}
    places = {
        "merged" if f.group in merged and f.tier <= Tier.routine else (f.group, f.tier)
        for f in e.findings
    }
    assert len(cards) == len(places)


@given(templates, st.none() | templates)
def test_no_number_reaches_a_patient_in_an_emergency(detail, summary):
    card = text(patient=detail, patient_summary=summary)
    known = (source("98765.4321"), source("98765.4"))
    e = evaluation(facts=(lab("potassium", *known), lab("magnesium", *known), AGE))
    cards = render(e, rulesets([("electrolyte", rule(card=card))]), audience="patient")
    assert "98765" not in json.dumps(cards)


@given(hostile)
def test_a_senders_text_is_one_code_span_with_exactly_its_words(raw):
    words = one_line(raw)
    found = [t for t in tokens(f"sent as {code_span(raw)}, end") if t.type != "text"]
    spans = [t for t in found if t.type == "code_inline"]
    assert [t.type for t in found if t not in spans] == [
        "paragraph_open", "inline", "paragraph_close",
    ]  # fmt: skip
    if len(words) <= 110:
        assert [t.content for t in spans] == ([words] if words else [])


@given(whole_text)
def test_escaped_text_reads_as_itself(raw):
    assert shown(f"Name: {escape(raw)}.").split() == f"Name: {one_line(raw)}.".split()


@given(hostile)
def test_no_html_survives_in_a_rule_text(raw):
    assert not [t for t in tokens(safe_markdown(raw)) if t.type.startswith("html")]


@given(
    st.decimals(min_value=0, max_value=10, places=12)
    | st.sampled_from(["2.5", "3.5"]).map(Decimal),
    st.integers(-30, 30),
)
def test_a_shown_number_stands_on_the_same_side_of_every_threshold_as_the_exact_one(value, ulps):
    value += Decimal(ulps).scaleb(-9)
    known = lab("potassium", Source("Observation/k", None, value, "mmol/L", "as mg/dL"))
    e = evaluation(facts=(known, AGE))
    r = rulesets([("electrolyte", rule())], limits=("2.5", "3.0", "3.5", "5.5"))
    seen = Decimal(Wording(e, r).result("potassium").text.removesuffix(" mmol/L"))
    (entry,) = because(e, ("lab/potassium",))
    for limit in map(Decimal, ("2.5", "3.0", "3.5", "5.5")):
        assert (seen < limit, seen > limit) == (value < limit, value > limit)
        assert (entry["value"] < limit, entry["value"] > limit) == (value < limit, value > limit)
    assert abs(seen - value) <= Decimal("0.05")
    assert grid_code(Decimal(repr(entry["value"]))) == grid_code(value)
