"""What must hold of reading for all input: no traceback, nothing lost, nobody mixed up."""

from __future__ import annotations

import copy
import json
import random
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cds.fhir import Reader, ReadLog
from cds.model import Record
from cds.shipped import shipped
from cds.terminology import load_terminology

TERMS = load_terminology(shipped("rulesets"))
READER = Reader(TERMS)
STRICT = Reader(TERMS, strict=True)

SNOMED, LOINC = "http://snomed.info/sct", "http://loinc.org"


def concept(system: str, code: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code, "display": "d"}], "text": "t"}


def quantity(value: float) -> dict[str, Any]:
    ucum = "http://unitsofmeasure.org"
    return {"value": value, "unit": "mmol/L", "system": ucum, "code": "mmol/L"}


POTASSIUM, TWITCH = concept(LOINC, "2823-3"), concept(SNOMED, "82470000")
SUBJECT = {"subject": {"reference": "Patient/p"}}
PERIOD = {"start": "2025-01-01", "end": "2025-02-01T10:00:00Z"}

RESOURCES: list[dict[str, Any]] = [
    {
        "resourceType": "Patient",
        "id": "p",
        "birthDate": "1960-05-01",
        "gender": "male",
        "deceasedBoolean": False,
    },
    {
        "resourceType": "Observation",
        "id": "k",
        "meta": {"versionId": "1", "lastUpdated": "2026-01-01T00:00:00Z"},
        "status": "final",
        "code": POTASSIUM,
        **SUBJECT,
        "effectiveDateTime": "2026-01-01T08:00:00Z",
        "issued": "2026-01-01T09:00:00Z",
        "valueQuantity": {**quantity(2.4), "comparator": "<"},
        "referenceRange": [{"low": quantity(3.5), "high": quantity(5.1), "type": TWITCH}],
        "interpretation": [concept("v3", "LL")],
        "note": [{"text": "not hemolyzed"}],
        "specimen": {"reference": "Specimen/s", "display": "serum"},
    },
    {
        "resourceType": "Observation",
        "id": "panel",
        "status": "preliminary",
        "code": concept(LOINC, "24326-1"),
        **SUBJECT,
        "effectivePeriod": PERIOD,
        "component": [
            {"code": POTASSIUM, "valueString": "4.1 mmol/L"},
            {"code": POTASSIUM, "valueRange": {"low": quantity(1), "high": quantity(2)}},
            {"code": TWITCH, "valueBoolean": True},
            {"code": TWITCH, "valueCodeableConcept": concept(SNOMED, "2667000")},
        ],
    },
    {
        "resourceType": "Observation",
        "id": "pregnancy",
        "status": "final",
        "code": concept(LOINC, "82810-3"),
        "contained": [{"resourceType": "Patient", "id": "x", "birthDate": "1990"}],
        "subject": {"reference": "#x"},
        "effectiveTiming": {"event": ["2026-01-01", "2026-01-02"]},
        "valueCodeableConcept": concept(SNOMED, "77386006"),
        "bodySite": TWITCH,
    },
    {
        "resourceType": "Condition",
        "id": "c",
        "clinicalStatus": concept(
            "http://terminology.hl7.org/CodeSystem/condition-clinical", "active"
        ),
        "verificationStatus": concept("v", "confirmed"),
        "code": TWITCH,
        **SUBJECT,
        "onsetPeriod": PERIOD,
        "recordedDate": "2025",
        "severity": TWITCH,
        "bodySite": [TWITCH],
        "abatementDateTime": "2026",
    },
    {
        "resourceType": "MedicationStatement",
        "id": "ms",
        "status": "recorded",
        **SUBJECT,
        "medication": {"reference": {"reference": "Medication/d", "display": "x"}},
        "adherence": {"code": concept("a", "taking")},
        "effectivePeriod": PERIOD,
        "dateAsserted": "2025-01",
        "dosage": [{"route": TWITCH, "timing": {"repeat": {"boundsPeriod": PERIOD}}}],
    },
    {
        "resourceType": "MedicationRequest",
        "id": "mr",
        "status": "active",
        "intent": "order",
        **SUBJECT,
        "contained": [
            {
                "resourceType": "Medication",
                "id": "d",
                "code": TWITCH,
                "ingredient": [{"itemCodeableConcept": TWITCH, "isActive": True}],
            }
        ],
        "medicationReference": {"reference": "#d"},
        "authoredOn": "2025-01-01",
        "dosageInstruction": [{"timing": {"repeat": {"boundsPeriod": PERIOD}}}],
    },
    {
        "resourceType": "Medication",
        "id": "d",
        "code": TWITCH,
        "ingredient": [{"itemReference": {"reference": "Medication/e"}}],
    },
    {
        "resourceType": "Specimen",
        "id": "s",
        **SUBJECT,
        "condition": [concept("http://terminology.hl7.org/CodeSystem/v2-0493", "HEM")],
        "note": [{"text": "x"}],
    },
    {
        "resourceType": "QuestionnaireResponse",
        "id": "q",
        "status": "completed",
        **SUBJECT,
        "authored": "2026-01-01",
        "item": [
            {"answer": [{"valueCoding": TWITCH["coding"][0], "item": [{"answer": []}]}]},
        ],
    },
    {
        "resourceType": "FamilyMemberHistory",
        "id": "f",
        "status": "completed",
        "patient": {"reference": "Patient/p"},
        "date": "2025",
        "condition": [{"code": TWITCH}],
    },
    {"resourceType": "Claim", "id": "claim"},
]

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(
        [
            "Patient/p",
            "Patient/q",
            "#x",
            "#",
            "",
            "2026",
            "9999-99-99",
            "final",
            "<",
            "Bundle",
            "1e9",
        ]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=3)
            | st.sampled_from(["resourceType", "coding", "reference", "value", "start", "entry"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all elements below a JSON value."""
    inner = enumerate(value) if isinstance(value, list) else value.items()
    found = []
    for key, each in inner:
        found.append((*path, key))
        if isinstance(each, list | dict):
            found += places(each, (*path, key))
    return found


@st.composite
def damaged(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Real-looking resources of which some elements were replaced by any JSON value."""
    sent = draw(st.lists(st.sampled_from(RESOURCES), min_size=1, max_size=5))
    resources = [copy.deepcopy(resource) for resource in sent]
    for _ in range(draw(st.integers(1, 4))):
        holder: Any = draw(st.sampled_from(resources))
        found = places(holder)
        if not found:
            continue
        *above, last = draw(st.sampled_from(found))
        for key in above:
            holder = holder[key]
        replacement = draw(ANYTHING)
        if draw(st.booleans()):
            holder[last] = replacement
        elif isinstance(holder, list):
            holder.insert(last, replacement)
        else:
            del holder[last]
    return resources


def check(source: Any, count: int | None, reader: Reader) -> list[Record]:
    """Read, and check that nothing vanished; `count` is how many resources were sent."""
    log = ReadLog()
    records = list(reader.read(source, log))
    assert log.resources == log.used + sum(log.skipped.values()) + len(log.rejected)
    if count is not None:
        assert log.resources == count
    return records


@given(damaged())
def test_damaged_resources_are_used_skipped_or_rejected_one_by_one(
    resources: list[dict[str, Any]],
) -> None:
    whole = not any("entry" in str(r) or "Bundle" in str(r) for r in resources)
    check(resources, len(resources) if whole else None, READER)
    entries = [{"resource": resource} for resource in resources]
    bundle = {"resourceType": "Bundle", "type": "batch", "entry": entries}
    check(bundle, len(resources) if whole else None, READER)


@given(damaged())
def test_damaged_resources_never_break_strict_reading(resources: list[dict[str, Any]]) -> None:
    check(resources, None, STRICT)


@given(ANYTHING)
@example([[[[]]]])
@example({"resourceType": ["Patient"]})
@example({"resourceType": "Bundle", "entry": [{"resource": {"resourceType": {}}}]})
def test_any_json_value_gives_a_result_or_a_stated_problem(value: Any) -> None:
    if not isinstance(value, str):
        check(value, None, READER)
    check(json.dumps(value).encode(), None, READER)


WHOLLY = Reader(TERMS)  # reads as orjson parses, without leaving anything out
WHOLLY._parse = orjson.loads
# Below this size nothing is left out, so texts are made as long by blanks.
ROOM = b" " * 40_000


def same_of(data: bytes) -> None:
    """Assert that a text read sparsely gives what it gives read wholly."""
    sparse, whole = ReadLog(), ReadLog()
    assert list(READER.read(data, sparse)) == list(WHOLLY.read(data, whole))
    assert sparse == whole


@given(damaged(), st.lists(ANYTHING, max_size=2), st.sampled_from(["Claim", "Basic", "Bundle"]))
def test_what_is_left_out_of_a_large_bundle_changes_nothing(
    resources: list[dict[str, Any]], loose: list[Any], other: str
) -> None:
    more = [{"resourceType": other, "contained": resources[:1], "x": loose, "value": 1e20}]
    entries = [*({"fullUrl": "urn:a", "resource": r} for r in [*resources, *more]), *loose]
    bundle = {"resourceType": "Bundle", "type": "batch", "entry": entries}
    same_of(json.dumps(bundle).encode() + ROOM)


@given(st.binary(max_size=60), st.integers(0, 400))
def test_a_large_bundle_that_is_damaged_is_read_as_one_that_is_not_left_out(
    by: bytes, place: int
) -> None:
    entries = [
        {"resource": {"resourceType": "Claim", "id": "é\u20ac"}},
        *({"resource": r} for r in RESOURCES),
    ]
    text = json.dumps({"resourceType": "Bundle", "entry": entries}, ensure_ascii=False).encode()
    same_of(text[:place] + by + text[place + len(by) // 2 :] + ROOM)


@given(st.binary(max_size=200) | st.text(alphabet='{}[]",:\\ \n0aé', max_size=60).map(str.encode))
def test_any_bytes_give_a_result_or_a_stated_problem(data: bytes) -> None:
    log = ReadLog()
    list(READER.read(data, log))
    assert log.resources > 0
    assert log.resources == log.used + sum(log.skipped.values()) + len(log.rejected)


@given(st.data())
def test_a_text_cut_off_anywhere_keeps_all_whole_entries(data: st.DataObject) -> None:
    entries = ",\n".join(json.dumps({"resource": resource}) for resource in RESOURCES)
    text = f'{{"resourceType": "Bundle", "entry": [\n{entries}\n]}}'
    ends = [i + 1 for i, char in enumerate(text) if text.startswith("},\n", i)]
    cut = data.draw(st.integers(text.index("[") + 1, len(text) - 1))
    log = ReadLog()
    list(READER.read(text[:cut].encode(), log))
    assert log.used + sum(log.skipped.values()) >= sum(end <= cut for end in ends)
    assert len(log.rejected) == 1


@given(st.randoms(use_true_random=False), st.data())
def test_order_and_repetition_change_nothing(rng: random.Random, data: st.DataObject) -> None:
    def seen(resources: list[dict[str, Any]], bundled: bool) -> list[str]:
        entries = [{"resource": resource} for resource in resources]
        source = {"resourceType": "Bundle", "entry": entries} if bundled else resources
        records = check(source, None, READER)
        for record in records:
            record.skipped = {}  # how often a useless resource was sent may be seen
        # A Bundle that came twice is assessed twice.
        return sorted(set(map(repr, records)))

    resources = data.draw(damaged())
    shuffled = resources + data.draw(st.lists(st.sampled_from(resources), max_size=3))
    rng.shuffle(shuffled)
    for bundled in (False, True):
        assert seen(resources, bundled) == seen(shuffled, bundled)


NAMES = ("a", "b", "c")


@given(st.data())
def test_facts_of_one_patient_never_reach_another(data: st.DataObject) -> None:
    """Whatever form ids, URLs and references take, a value stays with the patient it names."""
    server = data.draw(st.sampled_from(["", "https://h.org/fhir"]))
    entries: list[dict[str, Any]] = []
    for name in data.draw(st.permutations(NAMES)):
        patient = {"resourceType": "Patient", "id": name, "birthDate": f"19{ord(name)}"[:4]}
        forms = [f"Patient/{name}"]
        url = data.draw(st.sampled_from(["", f"urn:uuid:{name}", f"{server}/Patient/{name}"]))
        if url.startswith(("urn:", "http")):
            forms.append(url)
            entries.append({"fullUrl": url, "resource": patient})
        elif data.draw(st.booleans()):
            entries.append({"resource": patient})
        for number in range(data.draw(st.integers(0, 3))):
            result = {
                **RESOURCES[1],
                "id": data.draw(st.sampled_from(["same", f"{name}{number}"])),
                "subject": {"reference": data.draw(st.sampled_from(forms))},
                "valueQuantity": quantity(ord(name)),
            }
            entries.append({"resource": result})
    sent = data.draw(st.permutations(entries)) if entries else []
    for record in check({"resourceType": "Bundle", "entry": sent}, None, READER):
        name = record.patient.removeprefix("Patient/")
        assert name in NAMES
        assert {m.value.value for m in record.measurements if m.value} <= {ord(name)}


@given(
    st.datetimes(
        datetime(1, 1, 2),  # noqa: DTZ001  zones are added below
        datetime(9999, 12, 30),  # noqa: DTZ001
        timezones=st.integers(-14 * 60, 14 * 60).map(
            lambda minutes: timezone(timedelta(minutes=minutes))
        ),
    )
)
def test_a_time_is_the_instant_that_python_reads(when: datetime) -> None:
    when = when.replace(microsecond=0)
    text = when.isoformat()
    if len(text) == 25:
        (record,) = check({**RESOURCES[1], "effectiveDateTime": text}, 1, READER)
        effective = record.measurements[0].effective
        assert effective is not None
        assert effective.start == effective.end
        origin = datetime(1970, 1, 1, tzinfo=UTC)
        assert timedelta(seconds=effective.start) == when - origin


@given(st.decimals(-10_000, 10_000, allow_nan=False, places=6))
def test_a_number_arrives_exactly_as_written(value: Any) -> None:
    text = json.dumps([RESOURCES[1]]).replace('"value": 2.4', f'"value": {value}')
    (record,) = check(text, 1, READER)
    assert record.measurements[0].value is not None
    assert record.measurements[0].value.value == value


@pytest.mark.parametrize("folder", ["synthea"])
def test_real_bundles_survive_damage_anywhere(sample_data: Path, folder: str) -> None:
    rng = random.Random(20261101)  # noqa: S311  reproducible damage, not a secret
    path = min((sample_data / folder).glob("*.json"), key=lambda p: p.stat().st_size)
    data = path.read_bytes()
    for _ in range(25):
        start = rng.randrange(len(data))
        hurt = data[:start] + bytes(rng.choices(b'{}[]",0x\xff', k=3)) + data[start + 3 :]
        log = ReadLog()
        list(READER.read(hurt, log))
        assert log.resources == log.used + sum(log.skipped.values()) + len(log.rejected)
        assert log.resources >= 1
        same_of(hurt)
    same_of(data)
