"""What must hold for every line that an author can write, and for every case made of lines."""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from fhir.resources.R4B import get_fhir_model_class
from hypothesis import event, example, given
from hypothesis import strategies as st

from cds import Screener, load_rulesets
from cds.cases import Case, Expect, load_cases_file, written
from cds.errors import RuleError, RuleErrors
from cds.facts import Normalizer
from cds.fhir import Reader, ReadLog
from cds.forms import KEYS, NOW, UNDATED, Form, Lab, Patient, Presence, Takes, When, parse, scalar
from cds.harness import run
from cds.terminology import Analyte
from cds.units import UNITS
from cds.yamlfile import parse_yaml
from strategies import JSON_VALUES, examples, places, replaced

AS_OF = 1_793_534_400  # 2026-11-01T12:00:00Z
DAY = 86_400
RULESETS = load_rulesets()
TERMINOLOGY = RULESETS.terminology
SETS = TERMINOLOGY.value_sets


def of_kind(*kinds: str) -> list[str]:
    return sorted(name for name, value_set in SETS.items() if value_set.kind in kinds)


# ------------------------------------------------------------ strategies

past = st.builds(When, st.integers(0, 400 * DAY), months=st.integers(0, 500))
dates = st.dates(datetime.date(1900, 1, 1)).map(datetime.date.isoformat)
dated = st.one_of(
    dates.map(lambda day: When(date=day)),
    dates.map(lambda day: When(date=day[:7])),
    dates.map(lambda day: When(date=day[:4])),
    dates.map(lambda day: When(date=f"{day}T08:30:00+01:00")),
)
moments = st.one_of(
    st.just(NOW), st.just(UNDATED), past, st.builds(When, st.integers(-DAY, -1)), dated
)
lasting = st.one_of(
    st.builds(When, st.integers(0, 400 * DAY), lasting=st.just(True), months=st.integers(0, 99)),
    dated.map(lambda when: When(date=when.date, lasting=True)),
)
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).map(
    lambda text: " ".join(text.split()) or "x"
)
words = st.sampled_from(["", "furosemide 40 MG oral tablet", "Vitamin B 12 [Mass/volume]", "a: #b"])
numbers = st.decimals(-10_000, 10_000, places=4)


def maybe(strategy: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.just("") | strategy


patients = st.one_of(
    st.builds(
        Patient, st.sampled_from([None, "male", "female", "other"]), st.none() | st.integers(0, 120)
    ),
    st.builds(Patient, st.just("male"), born=dates | dates.map(lambda day: day[:7])),
)
labs = st.builds(
    Lab,
    st.sampled_from([name for name in TERMINOLOGY.analytes if name not in TERMINOLOGY.derived]),
    numbers,
    maybe(st.sampled_from([*UNITS, '"mmol per liter"'])),
    moments,
    maybe(st.sampled_from(["<", "<=", ">=", ">"])),
    maybe(st.sampled_from(["3.5 to 5.1", "from -1", "up to 10"])),
    maybe(st.sampled_from(["N", "L", "LL", "HH"])),
    maybe(st.sampled_from(["final", "preliminary", "entered-in-error"])),
    maybe(st.sampled_from(["HEM", "draw-1"])),
    maybe(texts),
) | st.builds(
    Lab,
    st.sampled_from(["LOINC#2823-3", "loinc#99999-9"]),
    numbers,
    st.just("mmol/L"),
    moments,
    words=words,
)
ratios = st.builds(Lab, st.sampled_from(sorted(TERMINOLOGY.derived)), numbers, when=moments)
seen = st.one_of(
    st.builds(
        Presence,
        st.just("symptom"),
        st.sampled_from(of_kind("symptom")),
        st.none() | moments,
    ),
    st.builds(Presence, st.just("lifestyle"), st.sampled_from(of_kind("lifestyle")), moments),
    st.builds(
        Presence,
        st.just("denies"),
        st.sampled_from(
            [
                n
                for n in of_kind("symptom", "condition", "lifestyle")
                if n != "twitching-questionnaire"
            ]
        ),
        st.none() | moments,
    ),
    st.builds(Presence, st.just("history"), st.sampled_from(of_kind("history", "condition"))),
    st.builds(Presence, st.just("symptom"), st.just("SNOMED#82470000"), moments, words=words),
)
conditions = st.builds(
    Presence,
    st.just("condition"),
    st.sampled_from([n for n in of_kind("condition", "symptom") if n != "twitching-questionnaire"]),
    st.none() | moments | lasting,
    maybe(st.sampled_from(["active", "resolved"])),
    maybe(st.sampled_from(["confirmed", "refuted", "provisional"])),
)
lasts = st.builds(Presence, st.just("symptom"), st.sampled_from(["cramp", "twitching"]), lasting)
taken = st.builds(
    Takes,
    st.sampled_from(of_kind("medication")) | st.just("RXNORM#4603"),
    st.none() | lasting,
    maybe(st.sampled_from(["active", "stopped", "not-taken"])),
)
ended = st.builds(
    Takes, st.just("loop-diuretic"), st.none(), until=st.sampled_from(["2 days ago", "on 2026-10"])
)
requested = st.builds(
    Takes,
    st.sampled_from(of_kind("medication")),
    st.none() | past | dated,
    maybe(st.sampled_from(["draft", "completed"])),
    request=st.just(True),
)
forms = st.one_of(patients, labs, ratios, seen, conditions, lasts, taken, ended, requested)


def sendable(form: Form) -> bool:
    """Numbers of that many digits and years before the first have no FHIR."""
    try:
        form.resources(TERMINOLOGY, AS_OF, "r1", "Patient/p")
    except ValueError:
        return False
    return True


# ------------------------------------------------------------ forms


def check_fhir(resource: dict[str, Any]) -> None:
    get_fhir_model_class(resource["resourceType"]).model_validate(resource)


@given(forms)
def test_a_form_written_as_a_line_is_read_as_the_same_form(form: Form) -> None:
    assert parse(form.entry()) == form
    data, _ = parse_yaml(form.line())
    assert data == [form.entry()]


@given(forms)
def test_every_line_becomes_valid_fhir_r4b_with_ids_of_its_own(form: Form) -> None:
    resources = form.resources(TERMINOLOGY, AS_OF, "r1", "Patient/p")
    for resource in resources:
        check_fhir(resource)
    assert len({(r["resourceType"], r["id"]) for r in resources}) == len(resources)


@given(st.text() | texts, st.booleans())
@example("~", False)
@example("-", False)
@example("007", True)
@example("1.50", False)
@example("null", True)
@example("\x7f\x85\u2028", False)
def test_any_text_written_as_a_yaml_scalar_is_read_as_that_text(text: str, flow: bool) -> None:
    text = text.encode("utf-8", "replace").decode()
    written = f"[{scalar(text, flow=True)}]" if flow else f"- {scalar(text)}"
    assert parse_yaml(written)[0] == [text]


HEADS = st.sampled_from(
    [
        *("potassium", "calcium", "creatine-kinase-ratio", "LOINC#2823-3", "LOINC#2132-9 B 12"),
        *("twitching", "SNOMED#82470000", "SNOMED#82470000 x 3", "pregnancy", "smoking"),
        *("loop-diuretic", "RXNORM#4603", "female,", "unknown sex,", "FOO#1", "#", "²"),
    ]
)
MIDDLES = st.sampled_from(
    '3.5 -1 <2.9 >= 4 ٣ mmol/L mg/dL "x" 5 years born 1970 unknown age for 2 HEM'.split()
)
TAILS = st.sampled_from(
    [
        *("", "", "now", "undated", "2 days ago", "1 month ago", "99999999 years ago", "in 3 days"),
        *("for 20 days", "since 3 months", "since 2026-10", "on 2026-13-01", "on 2026-10-30"),
        *("at 2026-10-30T08:30:00Z", "at 2026-10-30T08Z", "56 years", "up to 5", "3.5 to 5", "HEM"),
    ]
)
lines = st.builds(
    lambda *parts: " ".join([parts[0], *parts[1], parts[2]]),
    HEADS,
    st.lists(MIDDLES, max_size=2),
    TAILS,
)


@given(
    st.sampled_from(KEYS),
    lines,
    st.just({})
    | st.builds(
        lambda key, text: {key: text},
        st.sampled_from(["range", "flag", "status", "specimen", "until", "clinical", "x"]),
        TAILS,
    ),
)
@examples(5)
@example("patient", "female, 3000 years", {})
@example("lab", "potassium 4 99999999 years ago", {})
@example("lab", "potassium 4", {"range": "3.5.1 to 5"})
def test_whatever_is_written_is_either_refused_with_words_or_sent_as_valid_fhir(
    key: str, text: str, more: dict[str, str]
) -> None:
    refused = ""
    try:
        form = parse({key: text, **more})
        resources = form.resources(TERMINOLOGY, AS_OF, "r1", "Patient/p")
    except ValueError as error:
        refused = str(error)
        event("refused")
    else:
        event("sent")
        assert parse(form.entry()) == form
        for resource in resources:
            check_fhir(resource)
        return
    assert refused


# ------------------------------------------------------------ read without a problem


def possible(analyte: Analyte) -> Decimal:
    """A value that no limit and no likely slip of the unit speaks against."""
    limits = analyte.plausible
    low = Decimal(int(limits.ge or 0)) if limits else Decimal(0)
    return next(
        value
        for tenths in range(1, 10_000)
        if (value := low + Decimal(tenths) / 10)
        and (limits is None or limits.hold(value))
        and analyte.slip(value, analyte.unit) is None
    )


good_times = st.integers(0, 6 * DAY).map(When)
good = st.one_of(
    st.builds(Patient, st.sampled_from(["male", "female"]), st.integers(0, 120)),
    st.sampled_from([a for a in TERMINOLOGY.analytes.values() if a.codes]).flatmap(
        lambda analyte: st.builds(
            Lab,
            st.just(analyte.id),
            st.just(possible(analyte)),
            when=good_times,
            specimen=maybe(st.just("HEM")),
        )
    ),
    st.builds(Lab, st.sampled_from(["calcium", "creatine-kinase-ratio"]), st.just(Decimal("2.3"))),
    seen.filter(lambda form: form.when is None or (form.when.seconds or -1) >= 0),
    st.builds(Presence, st.just("condition"), st.sampled_from(of_kind("condition")), good_times),
    lasts,
    st.builds(Takes, st.sampled_from(of_kind("medication")), st.none() | good_times),
    st.builds(Takes, st.sampled_from(of_kind("medication")), good_times, request=st.just(True)),
)


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader(TERMINOLOGY, strict=True)


@pytest.fixture(scope="module")
def normalizer() -> Normalizer:
    return Normalizer(RULESETS.program, TERMINOLOGY)


@examples(2)
@given(good)
def test_what_is_written_well_is_read_and_used_without_any_problem(
    reader: Reader, normalizer: Normalizer, form: Form
) -> None:
    case = Case("x", AS_OF, (form,), Expect(), "cases.yaml", 1)
    log = ReadLog()
    (record,) = reader.read(case.bundle(TERMINOLOGY), log)
    assert log.rejected == []
    assert log.problems == []
    assert [p for p in record.problems if p.severity != "info"] == []
    normalized = normalizer.normalize(record, AS_OF)
    assert [p for p in normalized.problems if p.severity != "info"] == []
    said = record.measurements or record.presences or record.medications
    assert said or isinstance(form, Patient)


# ------------------------------------------------------------ cases

records = st.lists(st.one_of(good, labs, seen, conditions), max_size=6).map(
    lambda found: [f for f in found if not isinstance(f, Patient) and sendable(f)]
)


@given(st.text(), records)
def test_a_case_is_one_valid_bundle_of_one_patient_whatever_its_name(
    reader: Reader, name: str, forms: list[Form]
) -> None:
    case = Case(name, AS_OF, tuple(forms), Expect(), "cases.yaml", 1, "electrolyte")
    bundle = case.bundle(TERMINOLOGY)
    check_fhir(bundle)
    log = ReadLog()
    assert len(list(reader.read(bundle, log))) == 1
    assert log.rejected == []


@given(st.text(), records)
def test_a_case_as_a_hook_request_is_as_cds_hooks_2_0_demands(name: str, forms: list[Form]) -> None:
    case = Case(name, AS_OF, tuple(forms), Expect(), "cases.yaml", 1, "electrolyte")
    request = case.hook_request(TERMINOLOGY)
    assert request["hook"] == "patient-view"
    assert str(uuid.UUID(request["hookInstance"])) == request["hookInstance"]
    assert request["context"]["userId"].split("/")[0] == "Practitioner"
    patient = request["prefetch"]["patient"]
    assert patient["resourceType"] == "Patient"
    assert request["context"]["patientId"] == patient["id"]
    assert set(request) == {"hook", "hookInstance", "context", "prefetch"}
    for value in request["prefetch"].values():
        check_fhir(value)
    assert [path for path, value in walk(request) if value in (None, "", [], {})] == []


@given(records)
def test_a_hook_request_says_the_same_of_the_patient_as_the_bundle(
    screener: Screener, forms: list[Form]
) -> None:
    case = Case("x", AS_OF, tuple(forms), Expect(), "cases.yaml", 1)
    bundle, request = case.bundle(TERMINOLOGY), case.hook_request(TERMINOLOGY)
    searchsets = [v for v in request["prefetch"].values() if v["resourceType"] == "Bundle"]
    together = [{"resource": request["prefetch"]["patient"]}]
    together += [entry for found in searchsets for entry in found.get("entry", ())]
    asked = {"resourceType": "Bundle", "type": "collection", "entry": together}
    as_of = "2026-11-01T12:00:00Z"
    one, other = (screener.screen(source, as_of).to_dict() for source in (bundle, asked))
    assert one == other


def walk(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    yield path, value
    if isinstance(value, dict | list):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in inner:
            yield from walk(each, f"{path}/{key}")


@given(texts, records, texts)
def test_a_case_that_is_written_out_says_what_it_was_written_from(
    name: str, forms: list[Form], fragment: str
) -> None:
    expect = {"fires": ["hypokalemia-mild"], "tier": "none", "card": [fragment]}
    text = written(name, "2026-11-01T12:00:00Z", forms, expect)
    data, _ = parse_yaml("cases:\n" + text)
    assert isinstance(data, dict)
    (case,) = data["cases"]
    assert (case["name"], case["expect"]) == (name, expect)
    assert [parse(entry) for entry in case["data"]] == forms


FILE = {
    "as_of": "2026-11-01",
    "cases": [
        {
            "name": "Potassium of {x}",
            "data": [
                {"lab": "potassium {x} mmol/L 2 days ago", "range": "3.5 to 5.1"},
                {"symptom": "cramp for 3 days"},
                {"file": "record.json"},
            ],
            "each": [{"x": 2, "fires": ["hypokalemia-severe"]}, {"x": "3", "tier": "soon"}],
            "expect": {"not": ["hyperkalemia-mild"], "missing": ["magnesium"]},
        }
    ],
}
RECORD = {
    "resourceType": "Bundle",
    "entry": [
        {"fullUrl": "urn:uuid:1", "resource": {"resourceType": "Patient", "id": "p"}},
        {
            "resource": {
                "resourceType": "Observation",
                "code": {"coding": [{"system": "http://loinc.org", "code": "2823-3"}]},
                "subject": {"reference": "Patient/p"},
                "valueQuantity": {"value": 2.4, "unit": "mmol/L"},
            }
        },
    ],
}
changes = st.tuples(st.integers(0, 1000), JSON_VALUES)


@examples(2)
@given(st.just([]) | st.lists(changes, max_size=2), st.lists(changes, max_size=2))
def test_whatever_a_case_file_or_its_record_holds_is_read_or_refused_with_its_line(
    tmp_path_factory: pytest.TempPathFactory,
    screener: Screener,
    in_file: list[tuple[int, Any]],
    in_record: list[tuple[int, Any]],
) -> None:
    file, record = changed(FILE, in_file), changed(RECORD, in_record)
    folder = tmp_path_factory.getbasetemp()
    (folder / "cases.yaml").write_text(json.dumps(file))
    (folder / "record.json").write_text(json.dumps(record))
    faults: list[RuleError] = []
    cases: list[Case] = []
    try:
        cases = load_cases_file(folder / "cases.yaml", "electrolyte", RULESETS)
    except RuleErrors as error:
        faults = error.errors
    event("refused" if faults else "read")
    assert all(fault.message and fault.path for fault in faults)
    assert cases or faults
    for result in run(screener, cases):
        assert result.case.hook_request(TERMINOLOGY)["prefetch"]
        assert "internal" not in [failure.kind for failure in result.failures]


def changed(value: Any, changes: list[tuple[int, Any]]) -> Any:
    for number, other in changes:
        all_places = places(value)
        value = replaced(value, all_places[number % len(all_places)], other)
    return value
