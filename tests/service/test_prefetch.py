"""What a prefetched value is, and what follows where some of them are not there."""

from __future__ import annotations

from itertools import chain, combinations
from typing import Any

import pytest
from hook_records import (
    LITHIUM,
    THIAZIDE,
    bundle,
    fasciculation,
    lab,
    order,
    potassium,
    rules_on,
    statement,
    summaries,
)

from cds.service.outcomes import Refusal
from cds.service.prefetch import classify, is_of_another
from conftest import PATIENT, Answer

OUTCOME = {
    "resourceType": "OperationOutcome",
    "issue": [{"severity": "error", "code": "exception"}],
}
HINT = {"resourceType": "OperationOutcome", "issue": [{"severity": "information", "code": "x"}]}
NEXT = [{"relation": "self", "url": "https://x/1"}, {"relation": "next", "url": "https://x/2"}]
MODE = {"mode": "outcome"}
ONE = potassium(4.0)


@pytest.mark.parametrize(
    ("value", "state", "entries"),
    [
        (None, "empty", 0),
        ({"resourceType": "Bundle", "type": "searchset"}, "empty", 0),
        ({"resourceType": "Bundle", "type": "searchset", "entry": []}, "empty", 0),
        ({"resourceType": "Bundle", "type": "searchset", "total": 0}, "empty", 0),
        (OUTCOME, "unavailable", 0),
        (HINT, "unavailable", 0),  # in the place of the data
        ({"resourceType": "OperationOutcome"}, "unavailable", 0),
        (bundle(OUTCOME), "unavailable", 0),
        (bundle(ONE, OUTCOME), "unavailable", 1),
        (bundle(ONE, HINT), "data", 1),
        (
            {
                "resourceType": "Bundle",
                "entry": [{"search": {"mode": "outcome"}, "resource": HINT}],
            },
            "empty",
            0,
        ),
        (bundle(ONE), "data", 1),
        (bundle(ONE, total=1), "data", 1),
        (bundle(ONE, total=2), "incomplete", 1),
        (bundle(ONE, link=NEXT), "incomplete", 1),
        (bundle(ONE, link=NEXT[:1]), "data", 1),
        (ONE, "data", 1),
    ],
)
def test_what_a_value_is(value: Any, state: str, entries: int) -> None:
    found = classify({"laboratory": value, "unknown": 5}, ["laboratory"])
    assert list(found) == ["laboratory"]
    assert found["laboratory"].state == state
    assert len(found["laboratory"].entries) == entries


def test_an_absent_key_is_unknown_not_empty() -> None:
    assert classify({}, ["laboratory"])["laboratory"].state == "absent"


@pytest.mark.parametrize(
    "value",
    [
        5,
        "text",
        [],
        {},
        {"resourceType": 5},
        {"response": {"status": "200"}, "resource": ONE},
        {"resourceType": "Bundle", "entry": {}},
        {"resourceType": "Bundle", "entry": [5]},
    ],
)
def test_a_value_that_is_no_resource_is_refused_with_its_key(value: Any) -> None:
    with pytest.raises(Refusal, match=r"prefetch\.laboratory") as refused:
        classify({"laboratory": value}, ["laboratory"])
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("resource", "another"),
    [
        ({"resourceType": "Patient", "id": "p1"}, False),
        ({"resourceType": "Patient", "id": "p2"}, True),
        ({"subject": {"reference": "Patient/p1"}}, False),
        ({"subject": {"reference": "Patient/p1/_history/2"}}, False),
        ({"subject": {"reference": "Patient/p2"}}, True),
        ({"patient": {"reference": "Patient/p2"}}, True),
        ({"subject": {"reference": "Group/p1"}}, True),
        ({"subject": {"reference": "https://ehr.example.org/r4/Patient/p1"}}, False),
        ({"subject": {"reference": "https://other.example.org/r4/Patient/p1"}}, True),
        ({"subject": {"reference": "https://ehr.example.org/r4/Patient/p2"}}, True),
        ({"subject": {"reference": "urn:uuid:d1577c69-dfbe-44ad-ba6d-3e05e953b2ea"}}, False),
        ({"resourceType": "Medication", "id": "m"}, False),
    ],
)
def test_whose_a_resource_is(resource: dict[str, Any], another: bool) -> None:
    server = "https://ehr.example.org/r4"
    own = {"Patient/p1", f"{server}/Patient/p1"}
    assert is_of_another(resource, "p1", own, server) is another


# ---------------------------------------------------------------- what is missing

KEYS = {
    "laboratory": ("laboratory", "laboratoryAnyDate"),
    "signs": ("signs", "signs2"),
    "conditions": ("conditions",),
    "medicationStatements": ("medicationStatements",),
    "medicationRequests": ("medicationRequests",),
    "questionnaireResponses": ("questionnaireResponses",),
    "familyHistory": ("familyHistory",),
}
WORDS = {
    "laboratory": "laboratory results",
    "signs": "recorded signs and habits",
    "conditions": "conditions",
}
SUBSETS = list(chain.from_iterable(combinations(KEYS, n) for n in range(len(KEYS) + 1)))


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    return {
        "laboratory": bundle(potassium(2.2), lab("2601-3", 0.8, "mmol/L")),
        "conditions": bundle(fasciculation()),
        "medicationRequests": bundle(order(THIAZIDE, status="active", id="r1")),
        "medicationStatements": bundle(statement(LITHIUM)),
    }


@pytest.mark.parametrize("missing", SUBSETS, ids=lambda keys: "-".join(keys) or "nothing")
def test_every_subset_of_keys_is_answered_and_says_what_was_missing(
    answer: Answer, request_of: Answer, data: dict[str, Any], missing: tuple[str, ...]
) -> None:
    left_out = tuple(key for kind in missing for key in KEYS[kind])
    found = answer(request_of(leave_out=left_out, **data))
    said = [text for text in summaries(found) if text.startswith("Not all data")]
    expected = [WORDS[kind] for kind in WORDS if kind in missing]
    if {"medicationStatements", "medicationRequests"} <= set(missing):
        expected.append("medicines")
    assert len(said) == bool(expected)
    if said:
        # Last, for information, without anything that a rule says.
        assert found["cards"][-1]["summary"] == said[0]
        assert found["cards"][-1]["indicator"] == "info"
        assert "extension" not in found["cards"][-1]
        for word in expected:
            assert word in said[0]
    rules = rules_on(found)
    severe = "hypokalemia-severe" in " ".join(rules)
    assert severe is ("laboratory" not in missing)
    # Nothing is concluded from what is not there.
    if "laboratory" in missing:
        assert not {rule for rule in rules if "missing" in rule or "unknown" in rule}
        assert "lithium-interaction-unchecked" not in rules
    if expected:
        assert "isolated-twitching" not in rules


def test_that_nothing_is_on_record_is_concluded_only_from_complete_results(
    answer: Answer, request_of: Answer
) -> None:
    conditions = bundle(fasciculation())
    rule = "electrolyte-panel-missing"
    assert rule in rules_on(answer(request_of(conditions=conditions)))
    for value in (OUTCOME, bundle(link=NEXT), bundle(OUTCOME), bundle(total=3)):
        found = answer(request_of(conditions=conditions, laboratory=value))
        assert rule not in rules_on(found)
        assert "laboratory results" in summaries(found)[-1]
    left_out = answer(request_of(conditions=conditions, leave_out=("laboratory",)))
    assert rule not in rules_on(left_out)


def test_an_unreadable_result_is_no_missing_one(answer: Answer, request_of: Answer) -> None:
    broken = {**potassium(4.0), "code": 5}
    found = answer(
        request_of(conditions=bundle(fasciculation()), laboratory=bundle(broken, potassium(4.0)))
    )
    assert "electrolyte-panel-missing" not in rules_on(found)
    assert "could not be read" in found["cards"][-1]["detail"]


def test_what_is_there_of_an_incomplete_key_is_used(answer: Answer, request_of: Answer) -> None:
    for value in (bundle(potassium(2.2), OUTCOME), bundle(potassium(2.2), link=NEXT)):
        found = answer(request_of(laboratory=value))
        assert found["cards"][0]["indicator"] in ("critical", "warning")
        assert "Potassium 2.2" in found["cards"][0]["summary"]


def test_nothing_missing_and_nothing_found_gives_no_card(
    answer: Answer, request_of: Answer
) -> None:
    assert answer(request_of()) == {"cards": []}


def test_a_failed_query_is_said_also_for_what_most_systems_do_not_have(
    answer: Answer, request_of: Answer
) -> None:
    found = answer(request_of(questionnaireResponses=OUTCOME))
    assert "answers to questionnaires" in summaries(found)[-1]


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (None, 412),
        (OUTCOME, 412),
        (bundle(), 412),
        ({**PATIENT, "id": "p2"}, 412),
        (fasciculation(), 412),
        (PATIENT, 200),
        (bundle(PATIENT), 200),
    ],
)
def test_only_the_patient_is_required(
    answer: Answer, request_of: Answer, value: Any, status: int
) -> None:
    if status == 200:
        assert answer(request_of(patient=value)) == {"cards": []}
        return
    with pytest.raises(Refusal, match=r"prefetch\.patient") as refused:
        answer(request_of(patient=value))
    assert refused.value.status == status


def test_resources_of_others_are_not_used_and_counted(answer: Answer, request_of: Answer) -> None:
    other = {**potassium(2.2), "subject": {"reference": "Patient/p2"}}
    alone = answer(request_of(laboratory=bundle(potassium(4.0), other)))
    assert len(alone["cards"]) == 1
    assert "1 of the records that were sent" in alone["cards"][0]["detail"]
    # Also where only the rest of the data says whose it is.
    urn = "urn:uuid:d1577c69-dfbe-44ad-ba6d-3e05e953b2ea"
    hidden = {**potassium(2.2), "subject": {"reference": urn}}
    found = answer(request_of(laboratory=bundle(potassium(4.0, days=2), hidden)))
    assert "2.2" not in str(found)
    assert "of another person" in found["cards"][0]["detail"]
