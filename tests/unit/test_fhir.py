"""Reading: what senders really send becomes one Record a patient, and nothing is lost unsaid."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from cds.errors import UsageError
from cds.fhir import Reader, ReadLog
from cds.model import Coding, Instant, Measurement, MedicationUse, Quantity, Record
from cds.questionnaires import Questionnaire

LOINC, SNOMED = "http://loinc.org", "http://snomed.info/sct"
RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"
HL7 = "http://terminology.hl7.org/CodeSystem"
UCUM = "http://unitsofmeasure.org"
POTASSIUM, MAGNESIUM = (LOINC, "2823-3"), (LOINC, "19123-9")
TWITCH, EYELID, CRAMP = (SNOMED, "82470000"), (SNOMED, "11111111"), (SNOMED, "55300003")
PREGNANCY = (LOINC, "82810-3")


YES_NO = {
    **dict.fromkeys([(SNOMED, "52101004"), (SNOMED, "373066001"), (LOINC, "LA33-6")], True),
    **dict.fromkeys([(SNOMED, "2667000"), (SNOMED, "373067005"), (LOINC, "LA32-8")], False),
    (f"{HL7}/v2-0136", "Y"): True,
    (f"{HL7}/v2-0136", "N"): False,
    (f"{HL7}/v3-ObservationInterpretation", "NEG"): False,
}


@dataclass(frozen=True)
class FakeTerms:
    """A terminology of two analytes, a few findings and one question."""

    questions: frozenset[tuple[str, str]] = frozenset({PREGNANCY})
    note_words: tuple[str, ...] = ("hemolyzed", "hemolysis")
    yes_no: Mapping[tuple[str, str], bool] = field(default_factory=lambda: YES_NO)
    questionnaires: Mapping[str, Questionnaire] = field(default_factory=dict)
    nothing: frozenset[str] = frozenset()
    severities: Mapping[tuple[str, str], str] = field(
        default_factory=lambda: {(SNOMED, "24484000"): "severe"}
    )
    sites: Mapping[tuple[str, str, str], tuple[frozenset[str], tuple[str, ...]]] = field(
        default_factory=dict
    )

    def canonical_system(self, uri: str) -> str:
        return LOINC if uri == "urn:oid:2.16.840.1.113883.6.1" else uri

    def analyte_of(self, system: str, code: str) -> str | None:
        return {POTASSIUM: "potassium", MAGNESIUM: "magnesium"}.get((system, code))

    def concepts_of(self, system: str, code: str) -> tuple[str, ...]:
        own = self.own_concepts_of(system, code)
        return (*own, "twitching") if "eyelid" in own else own

    def own_concepts_of(self, system: str, code: str) -> tuple[str, ...]:
        return {TWITCH: ("twitching",), EYELID: ("eyelid",), CRAMP: ("cramp",)}.get(
            (system, code), ()
        )

    def kind_of(self, concept: str) -> str:
        return "symptom"

    def answer_of(self, *key: str) -> tuple[tuple[str, bool], ...]:
        pregnant = (*PREGNANCY, SNOMED, "77386006")
        not_pregnant = (*PREGNANCY, SNOMED, "60001007")
        return {pregnant: (("pregnancy", True),), not_pregnant: (("pregnancy", False),)}.get(
            key, ()
        )


READER = Reader(FakeTerms())
STRICT = Reader(FakeTerms(), strict=True)
PATIENT = {"resourceType": "Patient", "id": "p", "birthDate": "1960-05-01", "gender": "female"}


def code(*codings: tuple[str, str], text: str | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"coding": [{"system": s, "code": c} for s, c in codings]}
    return {**found, "text": text} if text else found


def observation(of: tuple[str, str] = POTASSIUM, **more: Any) -> dict[str, Any]:
    """An ordinary potassium result; a member given as None is left out."""
    ordinary = {
        "resourceType": "Observation",
        "id": "k",
        "status": "final",
        "code": code(of),
        "subject": {"reference": "Patient/p"},
        "effectiveDateTime": "2026-01-01T08:00:00Z",
        "valueQuantity": {"value": 2.4, "unit": "mmol/L", "system": UCUM, "code": "mmol/L"},
    }
    if any(key.startswith("value") for key in more):
        del ordinary["valueQuantity"]
    if any(key.startswith("effective") for key in more):
        del ordinary["effectiveDateTime"]
    return {key: value for key, value in {**ordinary, **more}.items() if value is not None}


def condition(of: tuple[str, str] = TWITCH, **more: Any) -> dict[str, Any]:
    ordinary = {
        "resourceType": "Condition",
        "id": "c",
        "code": code(of),
        "subject": {"reference": "Patient/p"},
    }
    return {**ordinary, **more}


def statement(**more: Any) -> dict[str, Any]:
    ordinary = {
        "resourceType": "MedicationStatement",
        "id": "m",
        "status": "active",
        "subject": {"reference": "Patient/p"},
    }
    return {**ordinary, **more}


def bundle(*resources: dict[str, Any], urls: tuple[str, ...] = ()) -> dict[str, Any]:
    entries: list[dict[str, Any]] = [{"resource": resource} for resource in resources]
    for entry, url in zip(entries, urls, strict=False):
        entry["fullUrl"] = url
    return {"resourceType": "Bundle", "type": "collection", "entry": entries}


def read_all(source: Any, reader: Reader = READER) -> tuple[list[Record], ReadLog]:
    log = ReadLog()
    records = list(reader.read(source, log))
    assert log.resources == log.used + sum(log.skipped.values()) + len(log.rejected)
    return records, log


def read(*resources: dict[str, Any]) -> Record:
    """The one Record of loose resources, all of which must be usable."""
    records, log = read_all([PATIENT, *resources])
    assert not log.rejected
    (record,) = records
    return record


def measured(**more: Any) -> tuple[Measurement, list[str]]:
    record = read(observation(**more))
    (measurement,) = record.measurements
    return measurement, [problem.code for problem in record.problems]


def stated(*resources: dict[str, Any]) -> dict[str, bool | None]:
    return {presence.concept: presence.present for presence in read(*resources).presences}


def used(**more: Any) -> MedicationUse:
    (use,) = read(statement(**more)).medications
    return use


def seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


# ---------------------------------------------------------------- the ordinary result


def test_an_ordinary_result_arrives_whole() -> None:
    measurement, problems = measured()
    eight = seconds("2026-01-01T08:00:00")
    assert measurement == Measurement(
        resource="Observation/k",
        analyte="potassium",
        coding=Coding(*POTASSIUM),
        status="final",
        effective=Instant(eight, eight, "2026-01-01T08:00:00Z"),
        value=Quantity(Decimal("2.4"), None, "mmol/L", "mmol/L", "2.4 mmol/L"),
    )
    assert problems == []


def test_the_patient_arrives_with_birth_and_sex() -> None:
    record = read()
    assert (record.patient, record.sex, record.deceased) == ("Patient/p", "female", None)
    assert record.birth == Instant(
        seconds("1960-05-01T00:00:00"), seconds("1960-05-01T23:59:59"), "1960-05-01"
    )


@pytest.mark.parametrize(
    ("died", "expected"),
    [
        ({"deceasedBoolean": True}, True),
        ({"deceasedBoolean": False}, False),
        (
            {"deceasedDateTime": "2020"},
            Instant(seconds("2020-01-01T00:00:00"), seconds("2020-12-31T23:59:59"), "2020"),
        ),
    ],
)
def test_death_arrives_as_sent(died: dict[str, Any], expected: object) -> None:
    (record,), _ = read_all({**PATIENT, **died})
    assert record.deceased == expected


def test_what_no_rule_can_use_is_counted_and_not_rejected() -> None:
    records, log = read_all(
        [PATIENT, {"resourceType": "Claim"}, observation((LOINC, "1-8")), {"a": 1}, 7]
    )
    assert log.skipped == {"not FHIR": 2, "Claim": 1, "Observation": 1}
    assert log.rejected == []
    assert records[0].skipped == {"Observation": 1}


def test_what_a_caller_gives_is_left_as_it_is_and_reads_the_same_as_its_text() -> None:
    inner = bundle({**PATIENT, "id": "q"}, observation(id="2", subject={"reference": "Patient/q"}))
    whole = bundle(PATIENT, observation(), inner)
    text = json.dumps(whole).encode()
    from_text, _ = read_all(text)
    assert [len(record.measurements) for record in from_text] == [1, 1]
    for source in (whole, [whole], (whole,)):
        for _ in range(2):
            assert read_all(source)[0] == from_text
        assert json.dumps(whole).encode() == text


def test_only_wanted_codes_are_read_but_every_conflict_is_seen() -> None:
    reader = Reader(FakeTerms(), wanted={"potassium", "twitching"})
    conflict = observation(id="x", code=code(POTASSIUM, MAGNESIUM))
    other = observation(MAGNESIUM, id="mg")
    (record,), log = read_all(
        [PATIENT, observation(), conflict, other, condition(CRAMP), condition(EYELID, id="e")],
        reader,
    )
    assert [m.resource for m in record.measurements] == ["Observation/k"]
    assert [p.code for p in record.problems] == ["code-conflict"]
    assert [p.concept for p in record.presences] == ["twitching"]
    assert log.skipped == {"Observation": 1, "Condition": 1}


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"value": 2.0, "comparator": "<", "code": "mmol/L"}, "<2.0 mmol/L"),
        ({"value": 90, "comparator": ">", "unit": "mL/min"}, ">90 mL/min"),
        ({"value": 4.1}, "4.1"),
        ({"value": 0.1, "unit": "a"}, "0.1 a"),
    ],
)
def test_a_quantity_arrives_as_sent(sent: dict[str, Any], expected: str) -> None:
    measurement, problems = measured(valueQuantity=sent)
    assert measurement.value is not None
    assert (measurement.value.text, problems) == (expected, [])
    assert measurement.value.value == Decimal(str(sent["value"]))


def test_a_code_of_another_system_is_no_ucum_code() -> None:
    quantity = {"value": 1, "unit": "mmol/L", "system": "urn:local", "code": "X"}
    measurement, _ = measured(valueQuantity=quantity)
    assert measurement.value == Quantity(Decimal(1), None, "mmol/L", None, "1 mmol/L")


@pytest.mark.parametrize(
    ("more", "value", "problem"),
    [
        ({"valueInteger": 4}, Quantity(Decimal(4), None, None, None, "4"), None),
        (
            {"valueString": " <0.01 mIU/L "},
            Quantity(Decimal("0.01"), "<", "mIU/L", None, "<0.01 mIU/L"),
            "value-from-text",
        ),
        (
            {"valueString": "2.4 mmol/L"},
            Quantity(Decimal("2.4"), None, "mmol/L", None, "2.4 mmol/L"),
            "value-from-text",
        ),
        (
            {"valueQuantity": {"value": "2.4", "unit": "mmol/L"}},
            Quantity(Decimal("2.4"), None, "mmol/L", None, "2.4 mmol/L"),
            "value-as-text",
        ),
        (
            {"valueRange": {"low": {"value": 1, "unit": "g/L"}, "high": {"value": 2}}},
            Quantity(Decimal(1), None, "g/L", None, "1 to 2 g/L", Decimal(2)),
            None,
        ),
        (
            {"valueRange": {"low": {"value": 5, "unit": "g/L"}}},
            Quantity(Decimal(5), ">=", "g/L", None, ">=5 g/L"),
            None,
        ),
        (
            {"valueRange": {"high": {"value": 5, "unit": "g/L"}}},
            Quantity(Decimal(5), "<=", "g/L", None, "<=5 g/L"),
            None,
        ),
    ],
)
def test_every_kind_of_number_is_read(
    more: dict[str, Any], value: Quantity, problem: str | None
) -> None:
    measurement, problems = measured(**more)
    assert measurement.value == value
    assert measurement.path == next(iter(more))
    assert problems == ([problem] if problem else [])


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"valueRatio": {"numerator": {"value": 1}}}, "not-numeric"),
        ({"valueSampledData": {"data": "1 2"}}, "not-numeric"),
        ({"valueCodeableConcept": {"text": "clotted"}}, "not-numeric"),
        ({"valueString": "2,4 mmol/L"}, "not-numeric"),  # or 2400?
        ({"valueString": "see note"}, "not-numeric"),
        ({"valueString": "2.4 or 2.5"}, "not-numeric"),
        ({"valueQuantity": {"value": "high"}}, "not-numeric"),
        ({"valueQuantity": {"value": True}}, "not-numeric"),
        ({"valueQuantity": {"unit": "mmol/L"}}, "not-numeric"),
        ({"valueQuantity": [2.4]}, "wrong-type"),
        ({"valueQuantity": {"value": 2.4, "comparator": "~"}}, "comparator-unknown"),
        ({"valueRange": {"low": {"value": 3}, "high": {"value": 2}}}, "not-numeric"),
        (
            {"valueRange": {"low": {"value": 1, "unit": "g"}, "high": {"value": 2, "unit": "L"}}},
            "not-numeric",
        ),
        ({"valueRange": {}}, "not-numeric"),
    ],
)
def test_what_is_no_number_is_said_and_not_guessed(more: dict[str, Any], code: str) -> None:
    measurement, problems = measured(**more)
    assert (measurement.value, measurement.missing) == (None, "not-numeric")
    assert problems == [code]


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), Decimal("1e9999"), 10**5000],
    ids=["NaN", "infinity", "huge decimal", "huge integer"],
)
def test_a_number_from_python_that_no_result_can_have_is_refused(value: object) -> None:
    measurement, problems = measured(valueQuantity={"value": value, "unit": "mmol/L"})
    assert (measurement.missing, problems) == ("not-numeric", ["not-numeric"])


def test_a_reason_for_absence_is_not_a_value() -> None:
    reason = {"coding": [{"code": "not-performed"}]}
    measurement, problems = measured(valueQuantity=None, dataAbsentReason=reason)
    assert (measurement.missing, problems) == ("dataAbsentReason", [])
    measurement, problems = measured(
        valueQuantity={"value": 0, "unit": "mmol/L"}, dataAbsentReason=reason
    )
    assert (measurement.value, measurement.missing) == (None, "dataAbsentReason")
    assert problems == ["value-and-absent-reason"]


def test_a_result_without_value_is_kept_as_missing() -> None:
    measurement, problems = measured(valueQuantity=None)
    assert (measurement.missing, problems) == ("no-value", ["no-value"])


def test_components_are_results_of_their_own_and_the_panel_is_none() -> None:
    parts = [
        {"code": code(POTASSIUM), "valueQuantity": {"value": 4, "unit": "mmol/L"}},
        {"code": code((LOINC, "1-8")), "valueQuantity": {"value": 4}},
        {"code": code(MAGNESIUM), "dataAbsentReason": {"text": "clotted"}},
        {"code": code(TWITCH), "valueBoolean": True},
    ]
    panel = observation((LOINC, "24326-1"), valueQuantity=None, component=parts)
    record = read(panel)
    assert [(m.analyte, m.path, m.missing) for m in record.measurements] == [
        ("potassium", "component[0].valueQuantity", ""),
        ("magnesium", "component[2].valueQuantity", "dataAbsentReason"),
    ]
    assert [(p.concept, p.present) for p in record.presences] == [("twitching", True)]


def test_the_laboratorys_own_range_is_its_normal_one() -> None:
    ranges = [
        {"type": code(("x", "therapeutic")), "low": {"value": 1}},
        {"text": "see leaflet"},
        {"low": {"value": 3.5, "unit": "mmol/L"}, "high": {"value": 5.1, "unit": "mmol/L"}},
        {"low": {"value": 9}},
    ]
    measurement, _ = measured(referenceRange=ranges)
    assert measurement.low is not None
    assert measurement.high is not None
    assert (measurement.low.text, measurement.high.text) == ("3.5 mmol/L", "5.1 mmol/L")


def test_interpretation_is_read_in_its_old_and_new_shape() -> None:
    new, old = (
        measured(interpretation=[code(("v3", "LL"))]),
        measured(interpretation=code(("v2", "LL"))),
    )
    assert new[0].flags == old[0].flags == ("LL",)
    assert new[1] == old[1] == []


def test_two_codes_for_two_analytes_are_a_conflict_and_not_used() -> None:
    record = read(observation(code=code(POTASSIUM, MAGNESIUM)))
    assert record.measurements == []
    assert [(p.severity, p.code) for p in record.problems] == [("error", "code-conflict")]


def test_a_code_system_sent_as_oid_is_the_same_system() -> None:
    measurement, _ = measured(code=code(("urn:oid:2.16.840.1.113883.6.1", "2823-3")))
    assert measurement.coding == Coding(*POTASSIUM)


# ---------------------------------------------------------------- specimen and remarks


@pytest.mark.parametrize(
    ("remark", "found"),
    [
        ("Sample HEMOLYZED, please repeat", True),
        ("not hemolyzed", False),
        ("non-hemolyzed serum", False),
        ("No hemolysis", False),
        ("without hemolysis; later slightly hemolyzed", True),
        ("fine", False),
    ],
)
def test_words_in_a_note_count_unless_they_are_denied(remark: str, found: bool) -> None:
    for more in ({"note": [{"text": remark}]}, {"interpretation": [{"text": remark}]}):
        measurement, _ = measured(**more)
        assert any(c.startswith("text:hemoly") for c in measurement.conditions) == found


def test_a_specimen_tells_its_condition_wherever_it_stands() -> None:
    hemolyzed = {
        "resourceType": "Specimen",
        "id": "s",
        "condition": [code(("http://terminology.hl7.org/CodeSystem/v2-0493", "HEM"))],
        "note": [{"text": "slight hemolysis"}],
    }
    loose = read(observation(specimen={"reference": "Specimen/s"}), hemolyzed).measurements[0]
    assert (loose.specimen, loose.conditions) == ("Specimen/s", ("HEM", "text:hemolysis"))
    inside, _ = measured(contained=[hemolyzed], specimen={"reference": "#s"})
    assert (inside.specimen, inside.conditions) == ("Observation/k#s", loose.conditions)
    elsewhere, _ = measured(specimen={"reference": "Specimen/s", "display": "hemolyzed serum"})
    assert (elsewhere.specimen, elsewhere.conditions) == ("Specimen/s", ("text:hemolyzed",))


def test_another_patients_specimen_says_nothing_of_this_one() -> None:
    theirs = {
        "resourceType": "Specimen",
        "id": "s",
        "subject": {"reference": "Patient/other"},
        "condition": [code(("v2", "HEM"))],
    }
    record = read(observation(specimen={"reference": "Specimen/s"}), theirs)
    assert record.measurements[0].conditions == ()
    assert [p.code for p in record.problems] == ["reference-conflict"]


# ---------------------------------------------------------------- times


@pytest.mark.parametrize(
    ("sent", "start", "end"),
    [
        ("2024", "2024-01-01T00:00:00", "2024-12-31T23:59:59"),
        ("2024-02", "2024-02-01T00:00:00", "2024-02-29T23:59:59"),
        ("2023-12", "2023-12-01T00:00:00", "2023-12-31T23:59:59"),
        ("9999-12", "9999-12-01T00:00:00", "9999-12-31T23:59:59"),
        ("2024-02-29", "2024-02-29T00:00:00", "2024-02-29T23:59:59"),
        ("2024-03-01T10:15:30.987+02:00", "2024-03-01T08:15:30", "2024-03-01T08:15:30"),
        ("2024-03-01T10:15:30-05:30", "2024-03-01T15:45:30", "2024-03-01T15:45:30"),
        ("2024-03-01T10:15Z", "2024-03-01T10:15:00", "2024-03-01T10:15:59"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00", "2017-01-01T00:00:00"),
    ],
)
def test_a_time_of_any_precision_is_an_interval(sent: str, start: str, end: str) -> None:
    measurement, problems = measured(effectiveDateTime=sent)
    assert measurement.effective == Instant(seconds(start), seconds(end), sent)
    assert problems == []


def test_a_time_without_zone_is_read_as_utc_and_said() -> None:
    measurement, problems = measured(effectiveDateTime="2024-03-01T10:15:30")
    assert measurement.effective is not None
    assert measurement.effective.start == seconds("2024-03-01T10:15:30")
    assert problems == ["time-zone-missing"]


@pytest.mark.parametrize(
    "sent",
    [
        "9999-99-99",
        "2023-02-29",
        "2024-13",
        "0000",
        "2024-03-01T24:00:00Z",
        "2024-03-01T10:60:00Z",
        "2024-03-01T10:15:61Z",
        "2024-03-01T10:15:30+15:00",
        "2024-03-01T10:15:30+01:75",
        "01.03.2024",
        "2024-W10",
        "20240301",
        "yesterday",
        "",
        20240301,
        ["2024"],
    ],
)
def test_an_invalid_time_is_no_time(sent: object) -> None:
    measurement, problems = measured(effectiveDateTime=sent, issued="2024-03-01T10:00:00Z")
    assert measurement.effective is None
    assert problems == ["date-invalid"]


def test_periods_instants_and_timings_are_read() -> None:
    def effective(**more: Any) -> Instant | None:
        return measured(**more)[0].effective

    day, hour = seconds("2024-03-01T00:00:00"), seconds("2024-03-02T10:00:00")
    assert effective(effectivePeriod={"start": "2024-03-01", "end": "2024-03-02T10:00:00Z"}) == (
        Instant(day, hour, "2024-03-01/2024-03-02T10:00:00Z")
    )
    assert effective(effectivePeriod={"start": "2024-03-01"}) == (
        Instant(day, day + 86_399, "2024-03-01/", open=True)
    )
    # Something measured by then was not measured in the year 1.
    assert effective(effectivePeriod={"end": "2024-03-01"}) == (
        Instant(day, day + 86_399, "/2024-03-01")
    )
    assert effective(effectiveInstant="2024-03-02T10:00:00Z") == (
        Instant(hour, hour, "2024-03-02T10:00:00Z")
    )
    assert effective(effectiveTiming={"event": ["2024-03-02T10:00:00Z", "2024-03-01"]}) == (
        Instant(day, hour, "2024-03-01/2024-03-02T10:00:00Z")
    )
    bounds = {"repeat": {"boundsPeriod": {"start": "2024-03-01"}}}
    assert effective(effectiveTiming=bounds) == Instant(day, day + 86_399, "2024-03-01/", open=True)


@pytest.mark.parametrize(
    "period",
    [
        {"start": "2024-03-02", "end": "2024-03-01"},
        {"start": "2024-03-02", "end": "9999-99-99"},
        "2024",
    ],
)
def test_an_impossible_period_is_no_time(period: object) -> None:
    measurement, problems = measured(effectivePeriod=period)
    assert measurement.effective is None
    assert problems in (["date-invalid"], ["wrong-type"])


def test_without_effective_time_the_time_of_issue_counts_and_is_said() -> None:
    measurement, problems = measured(effectiveDateTime=None, issued="2024-03-01T10:00:00Z")
    assert measurement.effective is not None
    assert problems == ["date-from-issued"]
    measurement, problems = measured(effectiveDateTime=None)
    assert (measurement.effective, problems) == (None, [])


# ---------------------------------------------------------------- status


@pytest.mark.parametrize("status", ["entered-in-error", "cancelled"])
def test_a_withdrawn_result_has_no_effect_but_is_said(status: str) -> None:
    record = read(observation(status=status))
    assert record.measurements == []
    assert [(p.severity, p.code) for p in record.problems] == [("info", "dropped-by-status")]


@pytest.mark.parametrize(
    ("status", "kept", "problems"),
    [
        ("preliminary", "preliminary", []),
        ("corrected", "corrected", []),
        ("unknown", "unknown", []),
        ("bogus", "bogus", ["status-unknown"]),
        (None, "", ["status-unknown"]),
        (7, "", ["status-unknown", "wrong-type"]),
    ],
)
def test_any_other_status_is_kept(status: object, kept: str, problems: list[str]) -> None:
    measurement, found = measured(status=status)
    assert measurement.status == kept
    assert sorted(found) == problems


# ---------------------------------------------------------------- present or absent


def _word(*codes: str) -> dict[str, Any]:
    return {"coding": [{"system": "http://terminology.hl7.org/x", "code": c} for c in codes]}


@pytest.mark.parametrize(
    ("more", "present", "status"),
    [
        ({}, True, ""),
        ({"clinicalStatus": _word("active")}, True, "active"),
        (
            {"clinicalStatus": _word("recurrence"), "verificationStatus": _word("confirmed")},
            True,
            "confirmed",
        ),
        ({"verificationStatus": _word("provisional")}, True, "provisional"),
        ({"verificationStatus": _word("refuted")}, False, "refuted"),
        ({"clinicalStatus": _word("resolved")}, False, "resolved"),
        (
            {"clinicalStatus": _word("remission"), "verificationStatus": _word("confirmed")},
            False,
            "remission",
        ),
        ({"clinicalStatus": _word("inactive")}, False, "inactive"),
        ({"clinicalStatus": _word("unknown")}, None, "unknown"),  # R5
        ({"abatementDateTime": "2020"}, False, "resolved"),
        ({"clinicalStatus": _word("active"), "abatementDateTime": "2020"}, True, "active"),
        ({"abatementBoolean": False}, True, ""),
        ({"clinicalStatus": "active"}, True, "active"),  # a plain code as in STU3
        ({"clinicalStatus": "resolved"}, False, "resolved"),
        ({"clinicalStatus": _word("bogus")}, True, ""),
    ],
)
def test_a_condition_is_present_unless_it_says_otherwise(
    more: dict[str, Any], present: bool | None, status: str
) -> None:
    (presence,) = read(condition(**more)).presences
    assert (presence.present, presence.status, presence.lasting) == (present, status, True)


def test_a_condition_entered_in_error_has_no_effect() -> None:
    record = read(condition(verificationStatus=_word("entered-in-error")))
    assert record.presences == []
    assert [p.code for p in record.problems] == ["dropped-by-status"]


def test_a_condition_brings_onset_site_and_severity() -> None:
    (presence,) = read(
        condition(
            onsetPeriod={"start": "2020"},
            recordedDate="2021",
            bodySite=[code((SNOMED, "1"))],
            severity=code((SNOMED, "24484000")),
        )
    ).presences
    assert presence.onset is not None
    assert presence.recorded is not None
    assert (presence.onset.text, presence.recorded.text) == ("2020/", "2021")
    assert presence.sites == (Coding(SNOMED, "1"),)
    assert presence.severity == "severe"
    (mild,) = read(condition(severity=code((SNOMED, "255604002")))).presences
    assert mild.severity is None


def test_a_denial_denies_only_what_the_code_itself_names() -> None:
    present = condition(EYELID)
    absent = condition(EYELID, verificationStatus=_word("refuted"))
    assert stated(present) == {"eyelid": True, "twitching": True}
    assert stated(absent) == {"eyelid": False}


def _value(system: str, value: str) -> dict[str, Any]:
    return {"valueCodeableConcept": code((system, value))}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, True),
        ({"valueBoolean": True}, True),
        ({"valueBoolean": False}, False),
        (_value(SNOMED, "52101004"), True),
        (_value(SNOMED, "2667000"), False),
        (_value(SNOMED, "373066001"), True),
        (_value(SNOMED, "373067005"), False),
        (_value(LOINC, "LA33-6"), True),
        (_value(LOINC, "LA32-8"), False),
        (_value("http://terminology.hl7.org/CodeSystem/v2-0136", "Y"), True),
        (_value("http://terminology.hl7.org/CodeSystem/v2-0136", "N"), False),
        (
            _value("http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation", "NEG"),
            False,
        ),
        ({"interpretation": [code(("v3", "NEG"))]}, False),
        ({"dataAbsentReason": {"text": "asked, unknown"}}, None),
    ],
)
def test_an_observed_finding_is_present_absent_or_unknown(
    more: dict[str, Any], expected: bool | None
) -> None:
    assert stated(observation(TWITCH, valueQuantity=None, **more)) == {"twitching": expected}


@pytest.mark.parametrize(
    "more", [_value(SNOMED, "7"), {"valueQuantity": {"value": 3}}, {"valueString": "perhaps"}]
)
def test_an_answer_that_is_neither_is_said_and_not_guessed(more: dict[str, Any]) -> None:
    record = read(observation(TWITCH, **more))
    assert record.presences == []
    assert [p.code for p in record.problems] == ["value-not-understood"]


def test_a_finding_as_value_is_present_whatever_was_asked() -> None:
    assert stated(observation((LOINC, "8-6"), **_value(*EYELID))) == {
        "eyelid": True,
        "twitching": True,
    }


def test_a_question_says_what_its_answer_means() -> None:
    assert stated(observation(PREGNANCY, **_value(SNOMED, "77386006"))) == {"pregnancy": True}
    assert stated(observation(PREGNANCY, **_value(SNOMED, "60001007"))) == {"pregnancy": False}
    _, log = read_all([observation(PREGNANCY, **_value(SNOMED, "1"))])
    assert log.skipped == {"Observation": 1}


def test_a_symptom_is_of_its_time_and_place() -> None:
    (presence,) = read(
        observation(TWITCH, valueQuantity=None, bodySite=code((SNOMED, "80243003")))
    ).presences
    assert presence.recorded is not None
    assert presence.recorded.text == "2026-01-01T08:00:00Z"
    assert (presence.lasting, presence.onset) == (False, None)
    assert presence.sites == (Coding(SNOMED, "80243003"),)


def test_answers_that_are_findings_are_read_at_any_depth() -> None:
    def coding(of: tuple[str, str]) -> dict[str, Any]:
        return {"valueCoding": {"system": of[0], "code": of[1]}}

    deep = {"item": [{"answer": [coding(CRAMP)]}]}
    response = {
        "resourceType": "QuestionnaireResponse",
        "id": "q",
        "status": "completed",
        "authored": "2026-01-01",
        "subject": {"reference": "Patient/p"},
        "item": [{"answer": [{**coding(TWITCH), **deep}]}, {"answer": [{"valueBoolean": True}]}],
    }
    record = read(response)
    assert [(p.concept, p.present, p.lasting) for p in record.presences] == [
        ("twitching", True, False),
        ("cramp", True, False),
    ]


def test_a_relatives_condition_is_marked_as_theirs() -> None:
    history = {
        "resourceType": "FamilyMemberHistory",
        "id": "f",
        "status": "completed",
        "patient": {"reference": "Patient/p"},
        "condition": [{"code": code(TWITCH)}, {"code": code((SNOMED, "0"))}],
    }
    (presence,) = read(history).presences
    assert (presence.concept, presence.relative) == ("twitching", True)


@pytest.mark.parametrize("kind", ["QuestionnaireResponse", "FamilyMemberHistory"])
def test_answers_and_family_history_entered_in_error_have_no_effect(kind: str) -> None:
    sent = {
        "resourceType": kind,
        "id": "x",
        "status": "entered-in-error",
        "subject": {"reference": "Patient/p"},
        "patient": {"reference": "Patient/p"},
        "condition": [{"code": code(TWITCH)}],
        "item": [{"answer": [{"valueCoding": {"system": TWITCH[0], "code": TWITCH[1]}}]}],
    }
    record = read(sent)
    assert record.presences == []
    assert [p.code for p in record.problems] == ["dropped-by-status"]


# ---------------------------------------------------------------- elements of a wrong type


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"component": 7}, "component"),
        ({"component": {"code": code((LOINC, "1-8"))}}, "component"),
        ({"component": [7]}, "component"),
        ({"component": [{"code": 7, "valueCodeableConcept": code(TWITCH)}]}, "component[0].code"),
        ({"referenceRange": {"low": {"value": 1}}}, "referenceRange"),
        ({"referenceRange": [{"type": 7}]}, "referenceRange[0].type"),
        ({"interpretation": [{"coding": [{"code": 7}]}]}, "interpretation.coding.code"),
        ({"specimen": "Specimen/s"}, "specimen"),
        ({"specimen": {"reference": 7}}, "specimen.reference"),
        ({"bodySite": 7}, "bodySite"),
        ({"valueQuantity": {"value": 1, "unit": 7}}, "valueQuantity.unit"),
        ({"valueQuantity": {"value": 1, "code": 7}}, "valueQuantity.code"),
        ({"valueRange": 7}, "valueRange"),
        ({"valueRange": {"low": {"value": 1}, "high": 7}}, "valueRange.high"),
    ],
)
def test_an_element_of_the_wrong_type_is_named_and_the_rest_is_used(
    more: dict[str, Any], path: str
) -> None:
    record = read(observation(**more))
    assert len(record.measurements) == 1
    assert [(p.code, p.path) for p in record.problems] == [("wrong-type", path)]


@pytest.mark.parametrize(
    ("resource", "message"),
    [
        (observation(code=None), "it has no code"),
        (observation(code="2823-3"), "its code is not a CodeableConcept"),
        (observation(code={"coding": "2823-3"}), "its code is not a CodeableConcept"),
        (observation(code={"coding": ["2823-3"]}), "its code is not a CodeableConcept"),
        (
            observation(code={"coding": [{"system": LOINC, "code": 2823}]}),
            "its code is not a CodeableConcept",
        ),
        (condition(code=[TWITCH]), "its code is not a CodeableConcept"),
    ],
)
def test_a_resource_whose_code_cannot_be_read_is_rejected(
    resource: dict[str, Any], message: str
) -> None:
    _, log = read_all([resource])
    assert [r.message for r in log.rejected] == [message]


def test_a_modifier_that_nobody_knows_is_said() -> None:
    _, problems = measured(modifierExtension=[{"url": "https://h.org/negated"}])
    assert problems == ["modifier-extension"]


# ---------------------------------------------------------------- medicines

DRUG = {"coding": [{"system": RXNORM, "code": "4603", "display": "furosemide"}]}
FUROSEMIDE = Coding(RXNORM, "4603", "furosemide")


def test_a_medicine_is_read_coded_contained_referenced_or_as_text() -> None:
    medication = {"resourceType": "Medication", "id": "d", "code": DRUG}
    coded = used(medicationCodeableConcept=DRUG)
    inside = used(contained=[medication], medicationReference={"reference": "#d"})
    r5 = used(medication={"concept": DRUG})
    for use in (coded, inside, r5):
        assert (use.codings, use.unresolved) == ((FUROSEMIDE,), None)
    (loose,) = read(
        statement(medicationReference={"reference": "Medication/d"}), medication
    ).medications
    (r5_loose,) = read(
        statement(medication={"reference": {"reference": "Medication/d"}}), medication
    ).medications
    assert loose.codings == r5_loose.codings == (FUROSEMIDE,)
    text = used(medicationCodeableConcept={"text": "water tablet"})
    assert (text.codings, text.text) == ((), "water tablet")


def test_a_medication_is_found_by_the_url_of_its_entry() -> None:
    urn, absolute = "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0", "https://h.org/Medication/d"
    for url in (urn, absolute):
        sent = bundle(
            PATIENT,
            statement(medicationReference={"reference": url}),
            {"resourceType": "Medication", "code": DRUG},
            urls=("https://h.org/Patient/p", "https://h.org/MedicationStatement/m", url),
        )
        (record,), _ = read_all(sent)
        assert record.medications[0].codings == (FUROSEMIDE,)


def test_a_medication_of_another_server_is_another_medication() -> None:
    sent = bundle(
        statement(medicationReference={"reference": "https://a.org/Medication/d"}),
        {"resourceType": "Medication", "id": "d", "code": DRUG},
        urls=("https://a.org/MedicationStatement/m", "https://b.org/Medication/d"),
    )
    (record,), _ = read_all(sent)
    assert record.medications[0].codings == ()
    assert record.medications[0].unresolved == "https://a.org/Medication/d"


def test_active_ingredients_count_as_codes_of_the_product() -> None:
    salt = {"coding": [{"system": RXNORM, "code": "8591", "display": "potassium chloride"}]}
    medication = {
        "resourceType": "Medication",
        "id": "d",
        "code": {"text": "Combination"},
        "ingredient": [
            {"itemCodeableConcept": DRUG},
            {"item": {"concept": salt}},  # R5
            {"itemCodeableConcept": {"coding": [{"code": "filler"}]}, "isActive": False},
        ],
    }
    use = used(contained=[medication], medicationReference={"reference": "#d"})
    assert [c.code for c in use.codings] == ["4603", "8591"]
    assert use.text == "Combination"


def test_a_product_made_of_other_medications_has_their_codes() -> None:
    kit = {
        "resourceType": "Medication",
        "id": "kit",
        "contained": [{"resourceType": "Medication", "id": "in", "code": code((RXNORM, "1"))}],
        "ingredient": [
            {"itemReference": {"reference": "#in"}},
            {"item": {"reference": {"reference": "Medication/d"}}},
            {"itemReference": {"display": "water"}},
        ],
    }
    part = {"resourceType": "Medication", "id": "d", "code": DRUG}
    record = read(statement(medicationReference={"reference": "Medication/kit"}), kit, part)
    assert [c.code for c in record.medications[0].codings] == ["1", "4603"]


@pytest.mark.parametrize(
    ("link", "code"),
    [
        ({"reference": "Medication/d"}, "reference-unresolved"),
        ({"reference": "#gone"}, "reference-unresolved"),
        ({"reference": "Lasix 40"}, "reference-invalid"),
        ({}, None),
    ],
)
def test_where_the_medication_is_not_certain_its_display_is_used(
    link: dict[str, Any], code: str | None
) -> None:
    differing = [{"resourceType": "Medication", "id": "d", "code": {"text": t}} for t in "ab"]
    record = read(statement(medicationReference={**link, "display": "Lasix"}), *differing)
    assert [(use.codings, use.text) for use in record.medications] == [((), "Lasix")]
    assert [p.code for p in record.problems] == ([code] if code else [])


def test_a_medication_that_is_not_there_is_named() -> None:
    link = {"reference": "Medication/gone", "display": "Lasix"}
    record = read(statement(medicationReference=link))
    (use,) = record.medications
    assert (use.codings, use.text, use.unresolved) == ((), "Lasix", "Medication/gone")
    assert [p.code for p in record.problems] == ["reference-unresolved"]


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"status": "not-taken"}, "not-taken"),
        ({"status": "on-hold"}, "on-hold"),
        ({"status": "intended"}, "intended"),
        ({"status": "recorded"}, "recorded"),  # R5
        ({"status": "recorded", "adherence": {"code": code(("x", "not-taking"))}}, "not-taken"),
        ({"status": "recorded", "adherence": {"code": code(("x", "taking"))}}, "active"),
        (
            {"status": "recorded", "adherence": {"code": code(("x", "on-hold-as-directed"))}},
            "on-hold",
        ),
        ({"status": "active", "taken": "n"}, "not-taken"),  # STU3
        ({"status": "active", "taken": "y"}, "active"),
    ],
)
def test_the_status_of_a_statement_has_one_meaning_in_every_version(
    more: dict[str, Any], status: str
) -> None:
    assert used(medicationCodeableConcept=DRUG, **more).status == status


def test_a_medicine_entered_in_error_or_not_to_be_given_has_no_effect() -> None:
    error = statement(medicationCodeableConcept=DRUG, status="entered-in-error")
    order = {
        "resourceType": "MedicationRequest",
        "id": "r",
        "status": "active",
        "intent": "order",
        "doNotPerform": True,
        "subject": {"reference": "Patient/p"},
        "medicationCodeableConcept": DRUG,
    }
    record = read(error, order)
    assert record.medications == []
    assert [p.code for p in record.problems] == ["dropped-by-status"] * 2


def test_a_request_brings_intent_period_route_and_date() -> None:
    dose = {
        "route": code((SNOMED, "26643006")),
        "timing": {"repeat": {"boundsPeriod": {"start": "2026-01-01", "end": "2026-02-01"}}},
    }
    request = {
        "resourceType": "MedicationRequest",
        "id": "r",
        "status": "active",
        "intent": "order",
        "authoredOn": "2025-12-31",
        "subject": {"reference": "Patient/p"},
        "medicationCodeableConcept": DRUG,
        "dosageInstruction": [dose, {"text": "with food"}],
    }
    (use,) = read(request).medications
    assert use.period is not None
    assert use.authored is not None
    assert (use.intent, use.period.text, use.authored.text) == (
        "order",
        "2026-01-01/2026-02-01",
        "2025-12-31",
    )
    assert use.route == Coding(SNOMED, "26643006")


def test_a_statement_that_names_no_medicine_is_rejected() -> None:
    _, log = read_all([statement()])
    assert [r.where for r in log.rejected] == ["input[0] MedicationStatement/m"]


# ---------------------------------------------------------------- whose it is


def owners(source: Any) -> dict[str, list[str]]:
    records, _ = read_all(source)
    return {r.patient: [m.resource for m in r.measurements] for r in records}


def test_each_result_reaches_its_own_patient_and_no_other() -> None:
    other = observation(id="k2", subject={"reference": "Patient/q"})
    assert owners([PATIENT, observation(), other]) == {
        "Patient/p": ["Observation/k"],
        "Patient/q": ["Observation/k2"],
    }


@pytest.mark.parametrize(
    ("url", "subject"),
    [
        ("urn:uuid:AB3151bd-1cbf-4d64-b04d-cd9187a4c6e0",) * 2,
        ("urn:uuid:AB3151bd-1cbf-4d64-b04d-cd9187a4c6e0", "Patient/p"),
        ("https://h.org/fhir/Patient/p", "https://h.org/fhir/Patient/p"),
        ("https://h.org/fhir/Patient/p", "https://h.org/fhir/Patient/p/_history/3"),
        ("https://h.org/fhir/Patient/p", "Patient/p"),
        ("", "Patient/p/_history/1"),
        ("", "https://h.org/fhir/Patient/p"),
    ],
)
def test_a_patient_is_found_by_every_form_of_reference(url: str, subject: str) -> None:
    sent = bundle(PATIENT, observation(subject={"reference": subject}), urls=(url,))
    assert owners(sent) == {"Patient/p": ["Observation/k"]}


def test_a_patient_without_id_goes_by_the_url_of_the_entry() -> None:
    urn = "urn:uuid:ab3151bd-1cbf-4d64-b04d-cd9187a4c6e0"
    nameless = {"resourceType": "Patient", "birthDate": "1960"}
    sent = bundle(nameless, observation(subject={"reference": urn}), urls=(urn,))
    assert owners(sent) == {urn: ["Observation/k"]}


def test_the_same_id_on_two_servers_is_two_patients() -> None:
    a, b = "https://a.org/Patient/p", "https://b.org/Patient/p"
    sent = bundle(
        PATIENT,
        {**PATIENT, "birthDate": "2020"},
        observation(subject={"reference": a}),
        observation(id="k2", subject={"reference": "Patient/p"}),
        urls=(a, b, "https://a.org/Observation/k", "https://b.org/Observation/k2"),
    )
    assert owners(sent) == {a: ["Observation/k"], b: ["Observation/k2"]}


def test_two_entries_of_one_id_are_kept_apart_and_a_plain_reference_is_refused() -> None:
    one, two = "urn:uuid:00000000-0000-4000-8000-000000000001", "urn:uuid:2"
    sent = bundle(
        PATIENT,
        {**PATIENT, "birthDate": "2020"},
        observation(subject={"reference": two}),
        observation(id="k2"),
        urls=(one, two),
    )
    records, log = read_all(sent)
    assert {r.patient: len(r.measurements) for r in records} == {one: 0, two: 1}
    assert [r.where for r in log.rejected] == ["input entry[3] Observation/k2"]


def test_a_contained_patient_belongs_to_its_resource_alone() -> None:
    inside = observation(contained=[PATIENT], subject={"reference": "#p"})
    records, _ = read_all([PATIENT, inside, {**inside, "id": "k2"}])
    assert {r.patient: r.sex for r in records} == {
        "Patient/p": "female",
        "Observation/k#p": "female",
        "Observation/k2#p": "female",
    }
    assert [len(r.measurements) for r in records] == [1, 1, 0]


def test_a_patient_never_sent_is_assessed_with_unknown_age() -> None:
    (record,), _ = read_all(observation())
    assert (record.patient, record.birth) == ("Patient/p", None)
    assert [(p.severity, p.code) for p in record.problems] == [("info", "patient-missing")]


def test_a_patient_of_only_useless_results_is_still_somebody() -> None:
    (record,), log = read_all(observation((LOINC, "1-8")))
    assert (record.patient, record.skipped) == ("Patient/p", {"Observation": 1})
    assert log.rejected == []


def test_without_subject_the_only_patient_of_a_bundle_is_meant() -> None:
    (record,), log = read_all(bundle(PATIENT, observation(subject=None)))
    assert len(record.measurements) == 1
    assert [p.code for p in record.problems] == ["subject-missing"]
    assert log.rejected == []


@pytest.mark.parametrize(
    "source",
    [
        [PATIENT, observation(subject=None)],  # no Bundle
        bundle(PATIENT, {**PATIENT, "id": "q"}, observation(subject=None)),
        bundle(observation(subject=None)),
        bundle(
            PATIENT,
            observation(subject=None),
            observation(id="k2", subject={"reference": "Patient/q"}),
        ),
        bundle(PATIENT, observation(subject={"reference": "Group/g"})),
        bundle(PATIENT, observation(subject={"reference": "Location/l"})),
        bundle(PATIENT, observation(subject={"display": "the patient"})),
        bundle(PATIENT, observation(subject={"reference": "#p"})),
        bundle(PATIENT, observation(subject={"reference": "Patient?identifier=1"})),
        bundle(PATIENT, observation(subject="Patient/p")),
    ],
)
def test_an_orphan_is_rejected_and_reaches_nobody(source: Any) -> None:
    records, log = read_all(source)
    assert sum(len(r.measurements) for r in records) == sum(
        r.patient == "Patient/q" and bool(r.measurements) for r in records
    )
    (rejected,) = log.rejected
    assert "Observation/k" in rejected.where
    assert rejected.message.startswith("orphan: ")


def test_a_reference_to_an_entry_that_is_no_patient_is_an_orphan() -> None:
    urn = "urn:uuid:00000000-0000-4000-8000-000000000001"
    device = {"resourceType": "Device", "id": "d"}
    sent = bundle(device, observation(subject={"reference": urn}), urls=(urn,))
    records, log = read_all(sent)
    assert records == []
    assert len(log.rejected) == 1


def test_an_id_sent_as_number_is_still_that_id() -> None:
    sent = bundle({**PATIENT, "id": 5}, observation(id=7, subject={"reference": "Patient/5"}))
    (record,), _ = read_all(sent)
    assert (record.patient, record.sex) == ("Patient/5", "female")
    assert [m.resource for m in record.measurements] == ["Observation/7"]
    assert [p.code for p in record.problems] == ["wrong-type", "wrong-type"]


# ---------------------------------------------------------------- order and repetition


def test_order_and_repetition_change_nothing() -> None:
    resources = [
        PATIENT,
        observation(),
        observation(MAGNESIUM, id=None, note=[{"text": "hemolyzed"}]),
        condition(),
        statement(medicationReference={"reference": "Medication/d"}),
        {"resourceType": "Medication", "id": "d", "code": DRUG},
    ]
    expected, _ = read_all(resources)
    assert len(expected[0].measurements) == 2
    for order in [*permutations(resources)][::37]:
        assert read_all([*order, *order[:3], *order])[0] == expected


def test_the_highest_version_counts() -> None:
    def version(number: str, value: float, updated: str = "2026-01-01") -> dict[str, Any]:
        meta = {"versionId": number, "lastUpdated": f"{updated}T00:00:00Z"}
        return observation(meta=meta, valueQuantity={"value": value, "unit": "mmol/L"})

    for order in permutations([version("9", 3.0), version("10", 4.0), version("2", 5.0)]):
        (measurement,) = read_all([*order])[0][0].measurements
        assert measurement.value is not None
        assert measurement.value.value == Decimal("4.0")
    letters = [version("b", 3.0, "2026-01-03"), version("a", 4.0, "2026-01-02")]
    (measurement,) = read_all(letters)[0][0].measurements
    assert measurement.value is not None
    assert measurement.value.value == Decimal("3.0")


def test_a_withdrawal_in_a_later_version_counts() -> None:
    first = observation(meta={"versionId": "1"})
    later = observation(meta={"versionId": "2"}, status="entered-in-error")
    assert read(first, later).measurements == []


def test_two_versions_of_which_none_is_newer_are_both_used_and_said() -> None:
    other = observation(valueQuantity={"value": 5, "unit": "mmol/L"})
    one, two = read(observation(), other), read(other, observation())
    assert one == two
    assert len(one.measurements) == 2
    assert [p.code for p in one.problems] == ["duplicate-id"]


def test_patients_that_disagree_leave_unknown_what_they_disagree_on() -> None:
    (record,), _ = read_all([PATIENT, {**PATIENT, "birthDate": "2020"}])
    assert (record.birth, record.sex) == (None, "female")
    assert [p.code for p in record.problems] == ["duplicate-id"]


def test_a_resource_without_id_goes_by_the_url_of_its_entry_or_by_its_content() -> None:
    urn = "urn:uuid:00000000-0000-4000-8000-000000000001"
    named = bundle(PATIENT, observation(id=None), urls=("", urn))
    assert owners(named) == {"Patient/p": [urn]}
    once, again = (owners([PATIENT, observation(id=None)] * n) for n in (1, 2))
    assert once == again
    assert once["Patient/p"][0].startswith("Observation/sha256-")
    other = observation(id=None, effectiveDateTime="2026-01-02")
    assert len(owners([observation(id=None), other])["Patient/p"]) == 2


# ---------------------------------------------------------------- Bundles


def test_each_bundle_is_a_scope_of_its_own_also_inside_another() -> None:
    inner = bundle({**PATIENT, "birthDate": "2020"}, observation())
    outer = bundle(PATIENT, inner, bundle(inner))
    records, _ = read_all([outer, bundle(PATIENT)])
    assert [(r.patient, r.birth.text if r.birth else "", len(r.measurements)) for r in records] == [
        ("Patient/p", "1960-05-01", 0),
        ("Patient/p", "2020", 1),
        ("Patient/p", "2020", 1),
        ("Patient/p", "1960-05-01", 0),
    ]


def test_bundles_nested_ever_so_deep_are_read() -> None:
    deep = bundle(PATIENT)
    for _ in range(5_000):
        deep = bundle(deep)
    records, log = read_all(deep)
    assert len(records) == 1
    assert log.rejected == []


def test_entries_without_resource_and_outcomes_are_no_patient_data() -> None:
    sent = bundle(PATIENT)
    sent["entry"] += [
        {"response": {"status": "201 Created"}},
        {"response": {"status": "404"}},
        {"search": {"mode": "outcome"}, "resource": {"resourceType": "OperationOutcome"}},
        {},
        7,
        {"resource": 7},
        None,
    ]
    records, log = read_all(sent)
    assert len(records) == 1
    assert log.skipped == {"OperationOutcome": 1, "not FHIR": 3}
    assert [p.code for p in log.problems] == ["server-outcome"] * 2


def test_an_empty_bundle_is_said_and_a_broken_one_rejected() -> None:
    assert read_all({"resourceType": "Bundle"})[1].skipped == {"Bundle": 1}
    (rejected,) = read_all({"resourceType": "Bundle", "entry": "x"})[1].rejected
    assert rejected.message == "Bundle.entry is not a list"
    single = {"resourceType": "Bundle", "entry": {"resource": PATIENT}}
    records, log = read_all(single)
    assert len(records) == 1
    assert [p.code for p in log.problems] == ["wrong-type"]


def test_the_records_of_a_bundle_come_as_soon_as_it_is_read() -> None:
    def bundles() -> Iterator[dict[str, Any]]:
        yield bundle(PATIENT)
        raise AssertionError("the second Bundle was read too early")

    assert next(READER.read(bundles(), ReadLog())).patient == "Patient/p"


# ---------------------------------------------------------------- versions of FHIR


def test_a_shape_of_an_older_version_is_used_where_it_can_be_read() -> None:
    old = condition(clinicalStatus="active", patient={"reference": "Patient/p"})
    del old["subject"]
    record = read(old, observation(related=[{"target": {"reference": "Observation/x"}}]))
    assert len(record.presences) == len(record.measurements) == 1
    assert {p.code for p in record.problems} == {"fhir-version"}


def test_a_shape_that_cannot_be_read_names_the_version() -> None:
    response = {"resourceType": "QuestionnaireResponse", "id": "q", "group": {}}
    _, log = read_all([{"resourceType": "MedicationOrder", "id": "o"}, response])
    assert [r.where for r in log.rejected] == [
        "input[0] MedicationOrder/o",
        "input[1] QuestionnaireResponse/q",
    ]
    assert all("DSTU2" in r.message and "R4" in r.message for r in log.rejected)


# ---------------------------------------------------------------- forms of input


def test_the_same_comes_of_bytes_text_dict_file_and_objects(tmp_path: Path) -> None:
    from fhir.resources.R4B.bundle import Bundle

    sent = bundle(PATIENT, observation(), condition(), statement(medicationCodeableConcept=DRUG))
    text = json.dumps(sent)
    path = tmp_path / "sent"  # read whatever its name
    path.write_text(text)
    expected = read_all(sent)[0]
    assert expected[0].measurements
    objects = Bundle.model_validate(sent)
    loose = [entry.resource for entry in objects.entry]
    for source in (text, f"\n {text}", text.encode(), bytearray(text.encode()), path, str(path)):
        assert read_all(source)[0] == expected
    for source in (objects, loose, [sent]):
        assert read_all(source)[0] == expected


def test_objects_of_r5_are_read_too() -> None:
    from fhir.resources.medicationstatement import MedicationStatement

    r5 = MedicationStatement.model_validate(
        statement(status="recorded", medication={"concept": DRUG})
    )
    (record,), _ = read_all([r5])
    assert record.medications[0].codings == (FUROSEMIDE,)


def test_dicts_made_from_objects_keep_their_dates() -> None:
    (record,), _ = read_all(observation(effectiveDateTime=datetime(2026, 1, 1, 8, tzinfo=UTC)))
    effective = record.measurements[0].effective
    assert effective is not None
    assert effective.start == seconds("2026-01-01T08:00:00")


def test_an_object_that_cannot_be_written_is_rejected() -> None:
    class Broken:
        def model_dump_json(self) -> str:
            raise ValueError("secret")

    _, log = read_all([Broken()])
    assert [r.message for r in log.rejected] == ["this object cannot be written as JSON"]


def test_any_other_object_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="cannot read a object"):
        list(READER.read(object(), ReadLog()))


@pytest.mark.parametrize("value", [None, 7, 2.5, True, b"7", b'"text"', b"null"])
def test_json_that_is_no_resource_is_skipped(value: object) -> None:
    records, log = read_all(value)
    assert (records, log.skipped, log.rejected) == ([], {"not FHIR": 1}, [])


def test_a_folder_is_read_in_order_compressed_files_and_links_included(tmp_path: Path) -> None:
    def patient(name: str) -> bytes:
        return json.dumps({"resourceType": "Patient", "id": name}).encode()

    (tmp_path / "b.json").write_bytes(patient("b"))
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(patient("a")))
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "c.ndjson").write_bytes(patient("c") + b"\n\n" + patient("d") + b"\r\n")
    (tmp_path / "deep" / "e.ndjson.gz").write_bytes(gzip.compress(patient("e")))
    (tmp_path / "deep" / "up").symlink_to(tmp_path)
    (tmp_path / "deep" / "again.json").symlink_to(tmp_path / "b.json")
    (tmp_path / "notes.txt").write_text("not read")
    log = ReadLog()
    records = list(READER.read_paths([tmp_path, tmp_path / "b.json"], log))
    assert [r.patient for r in records] == [f"Patient/{name}" for name in "abcde"]
    assert (log.files, log.rejected) == (4, [])


def test_standard_input_and_files_are_one_scope(tmp_path: Path) -> None:
    path = tmp_path / "k.json"
    path.write_text(json.dumps(observation()))
    log = ReadLog()
    stdin = io.BytesIO(json.dumps(PATIENT).encode())
    (record,) = READER.read_paths(["-", path], log, stdin=stdin)
    assert (record.sex, len(record.measurements), log.files) == ("female", 1, 2)


# ---------------------------------------------------------------- strictness


def test_strict_reading_accepts_what_is_valid_in_r4b_or_r5() -> None:
    r5 = statement(status="recorded", medication={"concept": DRUG})
    r4 = statement(id="m4", medicationCodeableConcept=DRUG)
    (record,), log = read_all([PATIENT, observation(), r5, r4], STRICT)
    assert log.rejected == []
    assert (len(record.measurements), len(record.medications)) == (1, 2)


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"status": "bogus"}, "status"),
        ({"comment": "not an element"}, "Observation.comment"),
        (
            {"referenceRange": [{"low": {"value": "few"}}]},
            "Observation.referenceRange[0].low.value",
        ),
        ({"effectiveDateTime": "2026-01-01T10:00:00"}, "Observation.effectiveDateTime"),
        ({"status": None}, "Observation.status"),
    ],
)
def test_strict_reading_rejects_with_the_path_and_without_the_data(
    more: dict[str, Any], path: str
) -> None:
    records, log = read_all([observation(**more)], STRICT)
    assert records == []
    (rejected,) = log.rejected
    assert rejected.where == "input[0] Observation/k"
    assert path in rejected.message
    assert not any(word in rejected.message for word in ("bogus", "few", "not an element:"))
    assert len(read_all([observation(**more)])[0][0].measurements) == 1


def test_a_key_written_twice_is_found_only_by_strict_reading() -> None:
    text = json.dumps(observation()).replace('"unit":', '"unit": "g", "unit":')
    for source in (text, f'{{"resourceType": "Bundle", "entry": [{{"resource": {text}}}]}}'):
        assert read_all(source)[1].rejected == []
        _, log = read_all(source, STRICT)
        (rejected,) = log.rejected
        assert "Observation.valueQuantity: a key is written twice" in rejected.message
    entry = f'{{"resource": {json.dumps(PATIENT)}, "resource": {text}}}'
    _, log = read_all(f'{{"resourceType": "Bundle", "entry": [{entry}]}}', STRICT)
    assert [r.message for r in log.rejected] == ["a key of the entry is written twice"]
    _, log = read_all(f'{{"type": "a", "type": "b", {json.dumps(bundle(PATIENT))[1:]}', STRICT)
    assert [r.message.partition(";")[0] for r in log.rejected] == [
        "a key of the Bundle is written twice"
    ]
    assert log.used == 1


# ---------------------------------------------------------------- real records


def test_real_records_are_read_without_loss(sample_data: Path) -> None:
    log = ReadLog()
    records = list(READER.read_paths([sample_data / "synthea"], log))
    assert len(records) == log.files == 10
    assert log.rejected == []
    assert all(record.birth is not None for record in records)
    assert all(not record.problems for record in records)
    bulk = ReadLog()
    same = {r.patient: r for r in READER.read_paths([sample_data / "bulk"], bulk)}
    assert bulk.rejected == []
    for record in records:
        assert record.measurements == same[record.patient].measurements
        assert record.presences == same[record.patient].presences
        assert len(record.medications) == len(same[record.patient].medications)


def test_real_single_resources_are_one_patient(sample_data: Path) -> None:
    log = ReadLog()
    (record,) = READER.read_paths([sample_data / "us-core"], log)
    assert (record.patient, log.rejected) == ("Patient/example", [])
    assert [m.resource for m in record.measurements] == ["Observation/serum-potassium"]
    assert len(record.medications) == 4
    unresolved = [use.unresolved for use in record.medications if use.unresolved]
    assert unresolved == ["Medication/uscore-med2"]


def test_requests_to_a_service_are_not_resources(sample_data: Path) -> None:
    log = ReadLog()
    assert list(READER.read_paths([sample_data / "hooks"], log)) == []
    assert log.rejected == []
    assert log.skipped == {"not FHIR": log.files}
