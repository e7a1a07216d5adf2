"""`cases.yaml`: what may stand in it, and how every fault is said."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
import pytest

from builders import bundle, lab, patient
from cds import Screener
from cds.cases import Case, Expect, load_cases, load_cases_file, load_tested, matcher, written
from cds.cli.test import test as cds_test
from cds.errors import RuleErrors, UsageError
from cds.fhir import ReadLog
from cds.forms import KEYS, Patient, parse
from cds.harness import run
from cds.rules import Rulesets, load_rulesets
from cds.shipped import shipped

AS_OF = 1_793_534_400  # 2026-11-01T12:00:00Z


@pytest.fixture(scope="module")
def rulesets() -> Rulesets:
    return load_rulesets()


@pytest.fixture(scope="module")
def screener(rulesets: Rulesets) -> Screener:
    return Screener(rulesets)


@pytest.fixture
def read(rulesets: Rulesets, tmp_path: Path) -> Any:
    """The cases of a file with this text."""

    def load(text: str) -> list[Case]:
        path = tmp_path / "cases.yaml"
        path.write_text(text, encoding="utf-8")
        return load_cases_file(path, "electrolyte", rulesets)

    return load


@pytest.fixture
def faults(read: Any) -> Any:
    """The faults of a file with this text, each as line and message."""

    def found(text: str) -> list[str]:
        with pytest.raises(RuleErrors) as caught:
            read(text)
        return [f"{error.line}: {error.message}" for error in caught.value.errors]

    return found


# ------------------------------------------------------------ reading


def test_a_case_has_a_name_a_time_lines_and_what_must_come_out(read: Any) -> None:
    (case,) = read(
        """
as_of: 2026-11-01
cases:
  - name: Potassium below 2.5 is an
      emergency
    as_of: 2026-11-01T12:00:00Z
    note: For readers.
    data:
      - patient: female, 56 years
      - lab: potassium 2.4 mmol/L 2 days ago
        range: 3.5 to 5.1
    expect:
      fires: [hypokalemia-severe]
      not: [hypokalemia-mild]
      tier: emergency
      missing: {hypokalemia-severe: magnesium}
      card: ["Potassium 2.4"]
"""
    )
    assert case.name == "Potassium below 2.5 is an emergency"
    assert (case.as_of, case.line, case.group) == (AS_OF, 4, "electrolyte")
    first, second = case.forms
    assert first == parse({"patient": "female, 56 years"})
    assert second == parse({"lab": "potassium 2.4 mmol/L 2 days ago", "range": "3.5 to 5.1"})
    assert case.expect.fires == ("hypokalemia-severe",)
    assert case.expect.not_ == ("hypokalemia-mild",)
    assert case.expect.missing == {"hypokalemia-severe": "magnesium"}


def test_the_time_of_the_file_is_that_of_every_case_without_its_own(read: Any) -> None:
    cases = read(
        """
as_of: 2026-11-01T12:00:00+00:00
cases:
  - {name: One, data: [], expect: {tier: none}}
  - {name: Other, as_of: 2026-11-02, data: [], expect: {tier: none}}
"""
    )
    assert [case.as_of for case in cases] == [AS_OF, AS_OF + 43_200]


def test_each_row_fills_its_words_in_and_adds_to_what_is_expected(read: Any) -> None:
    cases = read(
        """
as_of: 2026-11-01T12:00:00Z
cases:
  - name: Potassium of {x} mmol/L
    data: [{lab: "potassium {x} mmol/L {when}"}]
    expect: {not: [hyperkalemia-mild], card: ["Potassium {x} mmol/L"]}
    each:
      - {x: 2.40, when: now, fires: [hypokalemia-severe], tier: emergency}
      - {x: 3.4, when: 2 days ago, fires: [hypokalemia-mild], card: [Replace only]}
"""
    )
    assert [case.name for case in cases] == ["Potassium of 2.40 mmol/L", "Potassium of 3.4 mmol/L"]
    assert [case.line for case in cases] == [8, 9]
    assert cases[0].forms == (parse({"lab": "potassium 2.40 mmol/L now"}),)
    assert cases[1].forms == (parse({"lab": "potassium 3.4 mmol/L 2 days ago"}),)
    assert cases[0].expect.tier == "emergency"
    assert cases[1].expect.fires == ("hypokalemia-mild",)
    assert cases[1].expect.not_ == ("hyperkalemia-mild",)
    assert cases[1].expect.card == ("Potassium 3.4 mmol/L", "Replace only")


def test_rows_without_a_placeholder_in_the_name_are_told_apart_by_their_words(read: Any) -> None:
    cases = read(
        """
as_of: 2026-11-01
cases:
  - name: Low
    data: [{lab: "potassium {x}"}]
    each: [{x: 2.4, tier: emergency}, {x: 2.3, tier: emergency}]
"""
    )
    assert [case.name for case in cases] == ["Low (x 2.4)", "Low (x 2.3)"]


def test_braces_of_units_are_no_placeholders(read: Any) -> None:
    (case,) = read(
        """
as_of: 2026-11-01
cases:
  - name: Drinks
    data: [{lab: "alcohol-drinks 2 {drinks}/d"}, {lab: "audit-c 3 {score}"}]
    expect: {tier: none}
"""
    )
    assert [getattr(form, "unit", "") for form in case.forms] == ["{drinks}/d", "{score}"]


def test_a_case_of_whom_nothing_is_told_is_an_adult_of_50(rulesets: Rulesets) -> None:
    case = Case("Nobody", AS_OF, (), Expect(), "cases.yaml", 1)
    (entry,) = case.bundle(rulesets.terminology)["entry"]
    assert entry["resource"] == {
        "resourceType": "Patient",
        "id": "nobody",
        "birthDate": "1976-11-01",
    }


# ------------------------------------------------------------ FHIR files


def case_with(read: Any, tmp_path: Path, resource: Any, *lines: str) -> Case:
    (tmp_path / "record.json").write_text(json.dumps(resource))
    data = "".join(f"      - {line}\n" for line in ("file: record.json", *lines))
    text = f"as_of: 2026-11-01T12:00:00Z\ncases:\n  - name: From a file\n    data:\n{data}"
    (case,) = read(text + "    expect: {tier: none}\n")
    return case


def patients_of(case: Case, screener: Screener) -> list[Any]:
    log = ReadLog()
    records = list(screener.reader.read(case.bundle(screener.rulesets.terminology), log))
    assert log.rejected == []
    return records


EHR = "https://ehr.example.org/r4"
URN = "urn:uuid:0f8f0d0c-6a55-4c47-9a39-0d5b1f3f8c55"


def linked(who: str, what: str) -> dict[str, Any]:
    """A transaction Bundle as servers write it, with full URLs."""
    id_ = re.split("[/:]", who)[-1]
    result = lab("potassium", "2.4", subject=id_)
    if who.startswith("urn:"):
        result["subject"] = {"reference": who}
    return {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [
            {"fullUrl": url, "resource": resource, "request": {"method": "POST", "url": "x"}}
            for url, resource in ((who, patient(id_)), (what, result))
        ],
    }


@pytest.mark.parametrize(
    "resource",
    [
        bundle(patient("p1"), lab("potassium", "2.4")),
        linked(URN, "urn:uuid:1"),
        linked(f"{EHR}/Patient/p1", f"{EHR}/Observation/k"),
        bundle(lab("potassium", "2.4")),
        lab("potassium", "2.4"),
    ],
    ids=["a Bundle", "with URNs", "with URLs", "without a Patient", "one resource"],
)
def test_lines_beside_a_file_are_of_the_same_patient(
    read: Any, screener: Screener, tmp_path: Path, resource: Any
) -> None:
    case = case_with(read, tmp_path, resource, "lab: magnesium 0.6", "symptom: cramp")
    (record,) = patients_of(case, screener)
    assert {m.analyte for m in record.measurements} == {"potassium", "magnesium"}
    assert len(record.presences) > 0
    for told in ("patient: male, 30 years", "patient: female, born 2020"):
        case = case_with(read, tmp_path, resource, told, "lab: magnesium 0.6")
        (record,) = patients_of(case, screener)
        form = case.forms[0]
        assert isinstance(form, Patient)
        assert record.sex == form.sex
        assert {m.analyte for m in record.measurements} == {"potassium", "magnesium"}


@pytest.mark.parametrize(
    "path", sorted(shipped("fhir_examples").glob("*.json")), ids=lambda p: p.stem
)
def test_every_shipped_example_can_be_a_case_and_means_the_same(
    read: Any, rulesets: Rulesets, screener: Screener, path: Path
) -> None:
    (case,) = read(
        f"as_of: 2026-11-01\ncases: [{{name: x, data: [{{file: {path}}}], expect: {{tier: none}}}}]"
    )
    as_of = "2026-11-01T00:00:00Z"
    bundle = case.bundle(rulesets.terminology)
    one, other = (screener.screen(source, as_of).to_dict() for source in (bundle, path))
    assert one["findings"] == other["findings"]
    assert one["not_evaluated"] == other["not_evaluated"]


def test_a_file_without_a_patient_has_no_known_age(
    read: Any, rulesets: Rulesets, screener: Screener, tmp_path: Path
) -> None:
    case = case_with(read, tmp_path, bundle(lab("potassium", "2.4")))
    (record,) = patients_of(case, screener)
    assert (record.patient, record.birth) == ("Patient/p1", None)
    request = case.hook_request(rulesets.terminology)
    assert request["prefetch"]["patient"] == {"resourceType": "Patient", "id": "p1"}


def test_lines_never_take_the_place_of_a_resource_of_a_file(
    read: Any, screener: Screener, tmp_path: Path
) -> None:
    record = bundle(patient("p1"), lab("potassium", "2.4", id="r1"), lab("sodium", "140", id="rr1"))
    case = case_with(read, tmp_path, record, "lab: magnesium 0.6")
    (found,) = patients_of(case, screener)
    assert len(found.measurements) == 3


def test_specimens_and_medications_go_with_what_refers_to_them_in_a_hook_request(
    rulesets: Rulesets,
) -> None:
    forms = (parse({"lab": "potassium 6.6", "specimen": "HEM"}),)
    case = Case("x", AS_OF, forms, Expect(), "cases.yaml", 1)
    request = case.hook_request(rulesets.terminology)
    found = request["prefetch"]["observations"]
    modes = [(e["resource"]["resourceType"], e["search"]["mode"]) for e in found["entry"]]
    assert modes == [("Observation", "match"), ("Specimen", "include")]
    assert found["total"] == 1
    assert request["prefetch"]["conditions"]["total"] == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "record.json cannot be read: No such file or directory"),
        ("{", "record.json is not JSON"),
        ("[]", "record.json holds no FHIR resource"),
        ("7", "record.json holds no FHIR resource"),
        ('{"resourceType": 5}', "record.json holds no FHIR resource"),
        ('{"resourceType": ""}', "record.json holds no FHIR resource"),
        ('{"resourceType": "Bundle", "entry": {}}', "record.json: Bundle.entry is not a list"),
        ('{"resourceType": "Bundle", "entry": null}', "record.json: Bundle.entry is not a list"),
        ('{"resourceType": "Bundle", "entry": [5]}', "record.json entry[0] holds no FHIR resource"),
        (
            json.dumps(bundle({**bundle(), "entry": [{}]})),
            "record.json entry[0] entry[0] holds no FHIR resource",
        ),
        (
            json.dumps({**bundle(), "entry": [{"fullUrl": 5, "resource": patient()}]}),
            "record.json entry[0].fullUrl is not text",
        ),
        ('{"resourceType": "Patient"}', "the Patient of a file has no id"),
        (
            json.dumps(bundle(patient("p1"), patient("p2"))),
            "its files have several: https://example.org/fhir/Patient/p1, https://exam",
        ),
    ],
)
def test_a_file_that_is_no_record_of_one_patient_is_a_fault(
    faults: Any, tmp_path: Path, content: str | None, said: str
) -> None:
    if content is not None:
        (tmp_path / "record.json").write_text(content)
    text = "as_of: 2026-11-01\ncases:\n  - name: x\n    data:\n      - file: record.json\n"
    (fault,) = faults(text + "    expect: {tier: none}\n")
    assert said in fault
    assert re.match("[35]: ", fault)


@pytest.mark.parametrize(
    "resource",
    [
        {"resourceType": "Observation", "id": ["x"], "subject": []},
        {"resourceType": "Patient", "id": "p", "birthDate": {"x": 1}, "gender": 5},
        {"resourceType": "Observation", "subject": {"reference": 7}, "code": []},
        {"resourceType": "X", "id": ""},
        {"resourceType": "Bundle"},
    ],
)
def test_resources_of_any_shape_break_nothing(
    read: Any, rulesets: Rulesets, tmp_path: Path, resource: Any
) -> None:
    case = case_with(read, tmp_path, resource, "lab: potassium 2.4")
    assert case.bundle(rulesets.terminology)["resourceType"] == "Bundle"
    assert case.hook_request(rulesets.terminology)["hook"] == "patient-view"


# ------------------------------------------------------------ faults

HEAD = "as_of: 2026-11-01\ncases:\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty"),
        ("cases: []", "1: holds no case"),
        ("as_of: 2026-11-01", "1: key 'cases' is missing"),
        ("cases: 5", "1: cases: must be a list"),
        ("cases: [5]", "1: cases.0: must be keys with values"),
        ("as_of: &x 2026", "1: anchor '&x' is not accepted"),
        ("cases:\n  - name: x\n  bad", "4: not valid YAML"),
        ("case: []\ncases: []", "1: unknown key 'case'; did you mean 'cases'?"),
        (HEAD + "  - {nam: x}", "3: cases.0: unknown key 'nam'; did you mean 'name'?"),
        (HEAD + "  - {name: x, data: lab}", "3: cases.0.data: must be a list"),
        (HEAD + "  - {name: x, data: [lab]}", "3: cases.0.data.0: must be keys with values"),
        (HEAD + "  - {name: '  ', expect: {tier: none}}", "3: 'name' says nothing"),
        (HEAD + "  - {name: x}", "3: expects nothing; write 'expect' with at least one of card"),
        (HEAD + "  - {name: x, expect: {}}", "3: expects nothing"),
        (HEAD + "  - {name: x, expect: {fire: [a]}}", "unknown key 'fire'; did you mean 'fires'?"),
        (HEAD + "  - {name: x, expect: {tier: sooon}}", "did you mean 'soon'?"),
        (HEAD + "  - {name: x, expect: {fires: hypokalemia-mild}}", "fires: must be a list"),
        (
            HEAD + "  - {name: x, expect: {fires: [hypokalemia-mil]}}",
            "3: there is no rule 'hypokalemia-mil'; did you mean 'hypokalemia-mild'?",
        ),
        (
            HEAD + "  - {name: x, expect: {shows: [hypokalemia-mil]}}",
            "3: there is no finding 'hypokalemia-mil'; did you mean 'hypokalemia-mild'?",
        ),
        (
            HEAD + "  - {name: x, expect: {missing: [magnesum]}}",
            "3: no rule can wait for 'magnesum'; did you mean 'magnesium'?",
        ),
        (
            HEAD + "  - {name: x, expect: {missing: {hypokalemia: magnesium}}}",
            "3: there is no rule 'hypokalemia'",
        ),
        (
            HEAD + "  - {name: x, expect: {fires: [hypokalemia-mild], not: [hypokalemia-mild]}}",
            "3: rule 'hypokalemia-mild' stands in 'fires' and in 'not'",
        ),
        ("cases:\n  - {name: x, expect: {tier: none}}", "2: has no 'as_of', neither here nor at"),
        (
            "as_of: 1.11.2026\ncases:\n  - {name: x, expect: {tier: none}}",
            "3: as_of '1.11.2026': write a day such as 2026-11-01",
        ),
        (
            "as_of: 2026-11-01T12:00:00\ncases:\n  - {name: x, expect: {tier: none}}",
            "or a time with its zone: 2026-11-01T12:00:00Z",
        ),
        (
            HEAD + "  - {name: x, expect: {tier: none}}\n  - {name: x, expect: {tier: none}}",
            "4: the name is already used on line 3: x",
        ),
        (
            HEAD + "  - name: x\n    data:\n      - lab: potasium 4\n    expect: {tier: none}",
            "5: there is no analyte 'potasium'; did you mean 'potassium'?",
        ),
        (
            HEAD + "  - name: x\n    data:\n      - patient: male, 5 years\n"
            "      - patient: male, 6 years\n    expect: {tier: none}",
            "3: a case has one patient",
        ),
        (
            HEAD + "  - name: x\n    data: [{file: a.json, lab: x}]\n    expect: {tier: none}",
            "4: an entry with 'file' has nothing but the path",
        ),
        (
            HEAD + "  - {name: 'Of {x}', expect: {tier: none}}",
            "3: nothing fills {x}; give 'x' in a",
        ),
        (HEAD + "  - {name: x, each: [], expect: {tier: none}}", "3: 'each' holds no row"),
        (
            HEAD + "  - name: x\n    data: [{lab: 'potassium {y}'}]\n    each:\n"
            "      - {x: 4, tier: none}",
            "6: 'x' is neither used as {x} nor something to expect",
        ),
        (
            HEAD + "  - name: Of {x}\n    each:\n      - {x: 4, fire: [hypokalemia-mild]}",
            "5: 'fire' must be text or a number; did you mean 'fires'?",
        ),
        (
            HEAD + "  - name: Of {x}\n    each:\n      - {x: [4], tier: none}",
            "5: 'x' must be text or a number",
        ),
        (
            HEAD + "  - name: Of {x}\n    each:\n      - {x: 4, tier: sooon}",
            "5: tier: 'sooon' is none of none, info, routine, soon, urgent, emergency; did you m",
        ),
        (
            HEAD + "  - name: Of {score}\n    each:\n      - {score: 4, tier: none}",
            "5: {score} is part of a unit; give 'score' another name",
        ),
        (
            HEAD + "  - name: x\n    expect: {missing: [magnesium]}\n    each:\n"
            "      - {missing: {hypokalemia-mild: magnesium}}",
            "6: write 'missing' in the same way above and in 'each'",
        ),
    ],
)
def test_a_fault_is_said_with_its_line_and_the_nearest_known_word(
    faults: Any, text: str, said: str
) -> None:
    assert any(said in fault for fault in faults(text)), faults(text)


def test_all_faults_of_a_file_are_said_at_once_and_each_only_once(faults: Any) -> None:
    found = faults(
        HEAD
        + """
  - name: Potassium of {x}
    data:
      - lab: potasium {x}
      - symptom: twiching
    each:
      - {x: 4, fires: [no-such-rule]}
      - {x: 5, tier: none}
"""
    )
    assert found == [
        "6: there is no analyte 'potasium'; did you mean 'potassium'?",
        "7: there is no value set 'twiching'; did you mean 'twitching'?",
        "9: there is no rule 'no-such-rule'",
    ]


def test_every_group_has_its_own_file_and_all_faults_name_theirs(tmp_path: Path) -> None:
    for group in ("one", "other"):
        folder = tmp_path / group
        folder.mkdir()
        folder.joinpath("rules.yaml").write_text(rules_of(group))
        folder.joinpath("cases.yaml").write_text("cases: []\n")
    rulesets = load_rulesets(tmp_path)
    with pytest.raises(RuleErrors) as caught:
        load_cases(rulesets)
    assert [Path(e.path).parent.name for e in caught.value.errors] == ["one", "other"]
    with pytest.raises(RuleErrors) as caught:
        load_cases(rulesets, ["other"])
    assert [Path(e.path).parent.name for e in caught.value.errors] == ["other"]


def rules_of(group: str) -> str:
    return f"""
group: {group}
title: {group}
version: 1.0.0
rules:
  - id: {group}-rule
    title: Cramp
    tier: soon
    when: [{{symptom: cramp}}]
    evidence: [{{source: s, statement: t}}]
    review: draft
    card: {{summary: s, detail: d, patient: p}}
"""


# ------------------------------------------------------------ which cases


def test_a_group_is_loaded_with_the_groups_beside_it_and_tested_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for group in ("one", "other"):
        tmp_path.joinpath(group).mkdir()
        tmp_path.joinpath(group, "rules.yaml").write_text(rules_of(group))
    assert load_tested(tmp_path)[1] == ("one", "other")
    rulesets, groups = load_tested(tmp_path / "other")
    assert (len(rulesets.files), groups) == (2, ("other",))
    assert load_tested(tmp_path / "other", tmp_path / "one")[1] == ("one", "other")
    monkeypatch.chdir(tmp_path / "one")
    assert load_tested(".")[1] == ("one",)
    assert load_tested("../other")[1] == ("other",)
    monkeypatch.chdir(tmp_path)
    rulesets, groups = load_tested("one")
    assert (rulesets.files[0].path, groups) == ("one/rules.yaml", ("one",))
    assert load_tested(shipped("rulesets") / "electrolyte")[1] == ("electrolyte",)


@pytest.mark.parametrize(
    ("words", "matches"),
    [
        ("potassium", True),
        ("POTASSIUM 2.4", True),
        ("potassium and sodium", False),
        ("potassium or sodium", True),
        ("not potassium", False),
        ("not sodium and low", True),
        ('"low potassium"', True),
        ("'potassium low'", False),
        ("hypokalemia-severe", True),
        ("electrolyte", True),
        ("sodium or not sodium", True),
    ],
)
def test_cases_are_chosen_by_words_of_name_group_file_and_rules(words: str, matches: bool) -> None:
    expect = Expect(fires=("hypokalemia-severe",))
    case = Case("Low potassium of 2.4", AS_OF, (), expect, "rules/cases.yaml", 1, "electrolyte")
    assert matcher(words)(case) is matches


@pytest.mark.parametrize(
    "words", ["", "  ", "and x", "x and", "x or or y", "not", "not not x", "'x"]
)
def test_words_that_make_no_sense_are_refused(words: str) -> None:
    with pytest.raises(UsageError, match="-k"):
        matcher(words)


# ------------------------------------------------------------ names, writing


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Potassium below 2.5 mmol/L", "potassium-below-2.5-mmol-l"),
        ("Crème brûlée", "creme-brulee"),
        ("../../etc/passwd", "etc-passwd"),
        ("...", "case"),
        ("калій", "case"),
        ("a" * 100, "a" * 60),
    ],
)
def test_a_name_becomes_a_safe_file_name_and_fhir_id(name: str, slug: str) -> None:
    case = Case(name, AS_OF, (), Expect(), "cases.yaml", 1)
    assert case.slug == slug
    assert re.fullmatch(r"[A-Za-z0-9.-]{1,64}", case.slug)


def test_what_is_written_can_be_pasted_and_read(read: Any) -> None:
    forms = [
        parse({"lab": "potassium 2.4 now", "range": "3.5 to 5.1"}),
        parse({"symptom": "cramp"}),
    ]
    expect = {
        "fires": ["hypokalemia-severe"],
        "tier": "emergency",
        "missing": {"hypokalemia-severe": "magnesium"},
    }
    text = written("Potassium: low", "2026-11-01T12:00:00Z", forms, expect)
    nothing = written("Nothing", "2026-11-01T12:00:00Z", [], {"tier": "none"})
    one, other = read("cases:\n" + text + nothing)
    assert one.name == "Potassium: low"
    assert list(one.forms) == forms
    assert one.expect.missing == {"hypokalemia-severe": "magnesium"}
    assert (other.forms, other.expect.tier) == ((), "none")


# ------------------------------------------------------------ what authors are told


@pytest.fixture(scope="module")
def readme() -> str:
    """The part of `rulesets/README.md` that is about cases."""
    text = (shipped("rulesets") / "README.md").read_text(encoding="utf-8")
    found = re.search(r"^## Cases$.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[0]


def test_the_cases_in_the_readme_come_true(readme: str, screener: Screener, read: Any) -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    cases = read(text.replace("../../fhir_examples", str(shipped("fhir_examples"))))
    assert len(cases) > 1
    assert [result.failures for result in run(screener, cases)] == [()] * len(cases)


def test_every_line_in_the_readme_can_be_written(readme: str, rulesets: Rulesets) -> None:
    keys = "|".join(KEYS)
    found = re.findall(rf"`((?:{keys}): [^`]+)`", readme)
    assert {line.split(":")[0] for line in found} == set(KEYS)
    for line in found:
        key, _, text = line.partition(": ")
        assert parse({key: text}).resources(rulesets.terminology, AS_OF, "r", "Patient/p")


def test_every_key_and_word_of_the_format_stands_in_the_readme(readme: str) -> None:
    words = {*Expect.model_fields, "not"} - {"not_"}
    words |= {"name", "as_of", "data", "expect", "each", "note", "file"}
    words |= {"range", "flag", "status", "specimen", "clinical", "verification", "until"}
    assert [word for word in sorted(words) if f"`{word}" not in readme] == []
    options = [p.opts[0] for p in cds_test.params if isinstance(p, click.Option)]
    assert len(options) > 5
    assert [o for o in options if f"`{o}" not in readme and o != "--engine"] == []
