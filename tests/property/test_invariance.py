"""For all patients: what must change nothing changes nothing, and nothing leaks or breaks."""

from __future__ import annotations

import contextlib
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from builders import AS_OF, Json, ago, bundle, condition, lab, patient, rank, tier_about
from cds import Screener
from cds.errors import FhirInputError, UsageError
from cds.fhir import ReadLog
from cds.testing.laws import as_error, as_patient, renamed
from clinical_table import ANALYTES, OTHER_UNITS
from strategies import (
    ADULTS,
    JSON_VALUES,
    examples,
    measured,
    numbered,
    places,
    records,
    replaced,
    signs,
)


def screen(screener: Screener, resources: list[Json]) -> Json:
    return screener.screen(bundle(*resources), AS_OF).to_dict()


def as_bytes(assessment: Json) -> bytes:
    return orjson.dumps(assessment)


# ------------------------------------------------------------ order, duplicates, the unrelated


@examples(2)
@given(record=records(), data=st.data())
def test_order_and_repetition_of_resources_change_nothing(
    screener: Screener, record: list[Json], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(record))
    repeated = shuffled + data.draw(st.lists(st.sampled_from(record), max_size=3))
    assert as_bytes(screen(screener, repeated)) == as_bytes(screen(screener, record))


UNRELATED: list[Json] = [
    {"resourceType": "Immunization", "id": "u1", "status": "completed"},
    {"resourceType": "Encounter", "id": "u2", "status": "finished"},
    {"resourceType": "Claim", "id": "u3", "status": "active"},
    {"resourceType": "CarePlan", "id": "u4", "status": "active", "title": "potassium 2.2 mmol/L"},
    lab("potassium", "2.2", id="u5", code="8302-2"),  # body height, if anything
    lab("potassium", "2.2", id="u6") | {"code": {"text": "Potassium"}},
    {
        "resourceType": "Condition",
        "id": "u7",
        "code": {"coding": [{"system": "http://snomed.info/sct", "code": "195967001"}]},
    },
    {"resourceType": "Organization", "id": "u8", "name": "General"},
]


@examples(2)
@given(
    record=records(),
    others=st.lists(st.sampled_from(UNRELATED), min_size=1, unique_by=lambda r: r["id"]),
)
def test_a_resource_that_no_rule_can_use_changes_nothing(
    screener: Screener, record: list[Json], others: list[Json]
) -> None:
    subject = {"subject": {"reference": "Patient/p1"}, "patient": {"reference": "Patient/p1"}}
    more = [r if r["resourceType"] == "Organization" else {**r, **subject} for r in others]
    assert as_bytes(screen(screener, [*record, *more])) == as_bytes(screen(screener, record))


@examples(2)
@given(record=records(), data=st.data())
def test_what_is_for_people_to_read_changes_nothing_but_what_is_read(
    screener: Screener, record: list[Json], data: st.DataObject
) -> None:
    display = data.draw(st.text(max_size=30))
    changed = [renamed(resource, display) for resource in record]
    assert as_bytes(screen(screener, changed)) == as_bytes(screen(screener, record))


# ------------------------------------------------------------ units


@examples(4)
@given(
    data=st.data(),
    analyte=st.sampled_from(sorted(OTHER_UNITS)),
    others=st.lists(signs(), max_size=2),
)
def test_the_unit_in_which_a_result_is_sent_changes_no_conclusion(
    screener: Screener, data: st.DataObject, analyte: str, others: list[Json]
) -> None:
    sent, unit, exact = data.draw(measured(analyte))
    usual = round(Decimal(exact.numerator) / Decimal(exact.denominator), 12)
    conclusions = []
    for value, code in ((sent, unit), (usual, None)):
        assessment = screen(screener, [patient(), lab(analyte, value, code), *numbered(others)])
        conclusions.append(
            (
                assessment["tier"],
                [(f["id"], f["tier"], f["covers"]) for f in assessment["findings"]],
                [(n["rule"], n["reason"]) for n in assessment["not_evaluated"]],
            )
        )
    assert conclusions[0] == conclusions[1]


# ------------------------------------------------------------ adding and taking away

_SEVERE = [
    ("potassium", "2.2"),
    ("potassium", "7.1"),
    ("magnesium", "0.3"),
    ("magnesium", "4"),
    ("calcium", "1.7"),
    ("calcium", "3.8"),
    ("calcium-ionized", "0.7"),
    ("sodium", "112"),
    ("sodium", "170"),
    ("phosphate", "0.2"),
    ("qtc", "530"),
    ("creatine-kinase", "20000"),
    ("glucose", "1.9"),
]


@examples(2)
@given(record=records(), severe=st.sampled_from(_SEVERE))
def test_a_new_severe_result_never_lowers_the_tier(
    screener: Screener, record: list[Json], severe: tuple[str, str]
) -> None:
    before = screen(screener, record)["tier"]
    after = screen(screener, [*record, lab(*severe, id="severe", when=ago())])["tier"]
    assert rank(after) >= rank(before)
    child = record[0].get("birthDate", "").startswith("2016")
    assert rank(after) >= rank("urgent" if child else "emergency")


@examples(2)
@given(record=records(), sign=signs())
def test_another_recorded_sign_never_lowers_the_tier_of_an_adult_emergency(
    screener: Screener, record: list[Json], sign: Json
) -> None:
    before = screen(screener, record)
    after = screen(screener, [*record, {**sign, "id": "more"}])
    if before["tier"] == "emergency":
        assert after["tier"] == "emergency"


@examples(3)
@given(record=records(), data=st.data())
def test_marking_a_resource_as_entered_in_error_is_like_leaving_it_out(
    screener: Screener, record: list[Json], data: st.DataObject
) -> None:
    if len(record) == 1:
        return
    index = data.draw(st.integers(1, len(record) - 1))
    wrong = as_error(record[index])
    reference = f"{wrong['resourceType']}/{wrong['id']}"
    marked = screen(screener, [*record[:index], wrong, *record[index + 1 :]])
    without = screen(screener, [*record[:index], *record[index + 1 :]])
    marked["problems"] = [p for p in marked["problems"] if p["resource"] != reference]
    assert marked == without


# ------------------------------------------------------------ one patient and another


@examples(2)
@given(first=records(), second=records(), data=st.data())
def test_nothing_of_one_patient_reaches_another(
    screener: Screener, first: list[Json], second: list[Json], data: st.DataObject
) -> None:
    first, second = as_patient(first, "a"), as_patient(second, "b")
    together = data.draw(st.permutations(first + second))
    found = {
        a.patient: as_bytes(a.to_dict()) for a in screener.screen_all(bundle(*together), AS_OF)
    }
    alone = {f"Patient/{r[0]['id']}": as_bytes(screen(screener, r)) for r in (first, second)}
    assert found == alone


@examples(1)
@given(first=records(), second=records())
def test_a_screener_remembers_nothing(
    screener: Screener, first: list[Json], second: list[Json]
) -> None:
    before = as_bytes(screen(screener, first))
    screen(screener, second)
    assert as_bytes(screen(screener, first)) == before


# ------------------------------------------------------------ engines


@examples(4)
@given(record=records())
def test_both_engines_come_to_the_same_assessment(
    engines: tuple[Screener, Screener], record: list[Json]
) -> None:
    durable, reference = engines
    assert as_bytes(screen(durable, record)) == as_bytes(screen(reference, record))


# ------------------------------------------------------------ cards

_MARKDOWN = MarkdownIt("gfm-like", {"linkify": False})


def _tokens(text: str) -> list[Token]:
    """Every token of a text in GitHub Flavored Markdown, also those inside others."""
    return [t for block in _MARKDOWN.parse(text) for t in (block, *(block.children or ()))]


@examples(4)
@given(record=records(), audience=st.sampled_from(["clinician", "patient"]))
def test_every_card_is_one_that_clients_can_show(
    screener: Screener, record: list[Json], audience: Any
) -> None:
    assessment = screener.screen(bundle(*record), AS_OF)
    cards = assessment.cards(audience)
    assert bool(cards) == bool(assessment.findings)
    indicators = ["critical", "warning", "info"]
    assert [indicators.index(c["indicator"]) for c in cards] == sorted(
        indicators.index(c["indicator"]) for c in cards
    )
    if cards:
        assert assessment.tier is not None
        assert cards[0]["indicator"] == assessment.tier.indicator
    uuids = [c["uuid"] for c in cards]
    for card in cards:
        assert 0 < len(card["summary"].encode("utf-16-le")) // 2 < 140
        assert card["source"]["label"].strip()
        assert not [t for t in _tokens(card.get("detail", "")) if t.type.startswith("html")]
        assert ("suggestions" in card) <= (card.get("selectionBehavior") in ("any", "at-most-one"))
        for suggestion in card.get("suggestions", ()):
            uuids.append(suggestion["uuid"])
            assert suggestion["label"].strip()
            for action in suggestion["actions"]:
                assert action["type"] == "create"
                assert action["resource"]["subject"]["reference"] == "Patient/p1"
        assert all(link["url"].startswith("https://") for link in card.get("links", ()))
        assert all(
            reason["code"] and reason["display"] for reason in card.get("overrideReasons", ())
        )
    assert len(set(uuids)) == len(uuids)


@examples(1)
@given(record=records(ADULTS))
def test_every_finding_rests_on_resources_of_the_record(
    screener: Screener, record: list[Json]
) -> None:
    known = {f"{r['resourceType']}/{r['id']}" for r in record}
    assessment = screen(screener, record)
    ids = {f["id"] for f in assessment["findings"] + assessment["suppressed"]}
    assert len(ids) == len(assessment["findings"]) + len(assessment["suppressed"])
    for finding in assessment["findings"]:
        assert finding["rules"]
        assert finding["because"]
        used = {b["resource"] for b in finding["because"] if b.get("resource")}
        assert used <= known
    for problem in assessment["problems"]:
        assert problem["resource"] in known | {None}


# ------------------------------------------------------------ any input at all


def assess_anything(screener: Screener, source: Any) -> tuple[int, ReadLog]:
    """Assess whatever is there; only the input may be blamed, nothing else may be raised."""
    log = ReadLog()
    count = 0
    with contextlib.suppress(FhirInputError, UsageError):
        for assessment in screener.screen_all(source, AS_OF, log=log):
            assert orjson.loads(as_bytes(assessment.to_dict()))["patient"]
            count += 1
    return count, log


@examples(6)
@given(value=JSON_VALUES)
def test_any_json_gives_a_result_or_says_what_is_wrong(screener: Screener, value: Any) -> None:
    try:
        source = orjson.dumps(value)
    except TypeError:  # whole numbers beyond 64 bits and lone surrogates
        return
    assess_anything(screener, source)
    if isinstance(value, dict):
        assess_anything(screener, value)


@examples(8)
@given(record=records(), by=JSON_VALUES, data=st.data())
def test_a_bundle_with_anything_in_it_gives_a_result_or_says_what_is_wrong(
    screener: Screener, record: list[Json], by: Any, data: st.DataObject
) -> None:
    whole = bundle(*record, lab("potassium", "2.2", id="intact", when=ago()))
    path = data.draw(st.sampled_from(places(whole)))
    count, log = assess_anything(screener, replaced(whole, path, by))
    if len(path) > 1:
        # Whatever was put in place of a part of one resource, the others are still assessed.
        assert count >= 1 or log.rejected


@pytest.mark.parametrize("analyte", [*ANALYTES, "albumin", "creatinine", "calcium-total"])
@pytest.mark.parametrize("value", [1e308, -1e308, 5e-324, 0, -0.0, 2**63, 10**18])
def test_an_absurd_number_costs_nobody_the_assessment_of_the_rest(
    screener: Screener, analyte: str, value: float
) -> None:
    absurd = lab(analyte, 1, id="absurd")
    absurd["valueQuantity"]["value"] = value
    severe = ("sodium", "112") if analyte == "potassium" else ("potassium", "2.2")
    assessment = screen(screener, [patient(), absurd, lab(*severe), condition("twitching")])
    assert tier_about(assessment, severe[0]) == "emergency"


@pytest.mark.parametrize("limit", ["1e-15", "1e300", "-1e300"])
def test_an_absurd_laboratory_limit_costs_nobody_the_assessment_of_the_rest(
    screener: Screener, limit: str
) -> None:
    absurd = [
        lab("creatine-kinase", 100, high=limit),
        lab("magnesium", "0.9", low=limit, high=limit),
    ]
    assessment = screen(screener, [patient(), *absurd, lab("potassium", "2.2")])
    assert tier_about(assessment, "potassium") == "emergency"
