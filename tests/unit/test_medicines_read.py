"""From what a sender writes of a medicine, and from a line of a case, to what rules see."""

from __future__ import annotations

import csv
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cds.errors import RuleError, TerminologyError
from cds.fhir import Reader, ReadLog
from cds.forms import Takes, parse
from cds.formulary import MedicineFile, load_formulary
from cds.lint.codes import snomed_digit_holds
from cds.medicines import Medicines
from cds.model import MedicationUse
from cds.results import Normalized
from cds.shipped import shipped
from cds.terminology import load_terminology

Json = dict[str, Any]
RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"
SNOMED = "http://snomed.info/sct"
UCUM = "http://unitsofmeasure.org"
AS_OF = 1_793_491_200  # 2026-11-01T00:00:00Z
SUBJECT = "Patient/p"

TERMS = load_terminology(shipped("rulesets"))
SETS = sorted(name for name, v in TERMS.value_sets.items() if v.kind == "medication")
KEYS = frozenset(f"{k}/{name}" for k in ("medication", "stopped", "ordered") for name in SETS)
READER = Medicines(TERMS, KEYS, frozenset())


def read(*resources: Json) -> list[MedicationUse]:
    log = ReadLog()
    patient = {"resourceType": "Patient", "id": "p"}
    (record,) = Reader(TERMS).read([patient, *resources], log)
    assert not log.rejected
    return record.medications


def facts(*resources: Json) -> dict[str, dict[str, int]]:
    out = Normalized()
    READER.read(read(*resources), AS_OF, out)
    return {fact.key: dict(fact.props) for fact in out.facts}


def said(*lines: dict[str, str]) -> dict[str, dict[str, int]]:
    """The facts of the lines of a case."""
    found = [
        parse(line).resources(TERMS, AS_OF, f"r{number}", SUBJECT)
        for number, line in enumerate(lines)
    ]
    return facts(*(resource for resources in found for resource in resources))


def statement(**more: Any) -> Json:
    return {
        "resourceType": "MedicationStatement",
        "id": "m",
        "status": "active",
        "subject": {"reference": SUBJECT},
        "medicationCodeableConcept": {"coding": [{"system": RXNORM, "code": "36437"}]},
        **more,
    }


def dosage(value: object, unit: str = "mg", **repeat: object) -> Json:
    quantity = {"value": value, "unit": unit, "system": UCUM, "code": unit}
    return {"timing": {"repeat": repeat}, "doseAndRate": [{"doseQuantity": quantity}]}


# ---------------------------------------------------------------- dose


@pytest.mark.parametrize(
    ("dosages", "daily"),
    [
        ([dosage(50, frequency=1, period=1, periodUnit="d")], "50"),
        ([dosage(50, frequency=2, period=1, periodUnit="d")], "100"),
        ([dosage(5, frequency=1, period=8, periodUnit="h")], "15"),
        ([dosage(70, frequency=1, period=1, periodUnit="wk")], "10"),
        ([dosage(20, period=1, periodUnit="d")] * 2, "40"),  # morning and evening
        ([dosage(50, frequency=1, period=1, periodUnit="d") | {"asNeededBoolean": True}], None),
        ([dosage(50, frequency=1, period=1, periodUnit="mo")], None),
        ([dosage(50, frequency=1, period=1, periodMax=2, periodUnit="d")], None),
        ([dosage(50)], None),
        ([dosage(50, frequency=1, period=0, periodUnit="d")], None),
        ([{"text": "take one"}], None),
        ([], None),
        (
            [
                dosage(20, period=1, periodUnit="d") | {"sequence": 1},
                dosage(10, period=1, periodUnit="d") | {"sequence": 2},
            ],
            None,  # a taper
        ),
        (
            [dosage(20, period=1, periodUnit="d"), dosage(1, "{tbl}", period=1, periodUnit="d")],
            None,
        ),
        ([dosage(1e300, frequency=1, period=1, periodUnit="d")], None),
    ],
)
def test_the_daily_dose_is_computed_where_it_can_be(dosages: list[Json], daily: str | None) -> None:
    (use,) = read(statement(dosage=dosages))
    assert (use.dose.value if use.dose else None) == (Decimal(daily) if daily else None)


def test_an_older_shape_of_the_dose_is_read() -> None:
    older = dosage(50, frequency=1, period=1, periodUnit="d")
    quantity = older.pop("doseAndRate")[0]["doseQuantity"]
    (use,) = read(statement(dosage=[older | {"doseQuantity": quantity}]))
    assert use.dose is not None
    assert use.dose.value == 50


# ---------------------------------------------------------------- route, order


@pytest.mark.parametrize(
    ("route", "systemic"),
    [
        ({"coding": [{"system": SNOMED, "code": "26643006"}]}, True),
        ({"coding": [{"system": SNOMED, "code": "6064005", "display": "Topical route"}]}, False),
        ({"text": "apply to the skin, topically"}, False),
        ({"coding": [{"system": "urn:x", "code": "7"}], "text": "ophthalmic"}, False),
        ({"coding": [{"system": "urn:x", "code": "7", "display": "Swallow, oral"}]}, True),
        (None, True),
    ],
)
def test_the_route_of_a_dosage_decides(route: Json | None, systemic: bool) -> None:
    steroid = {"coding": [{"system": RXNORM, "code": "8638"}]}
    dose = [{"route": route}] if route else []
    found = facts(statement(medicationCodeableConcept=steroid, dosage=dose))
    assert ("medication/corticosteroid" in found) is systemic


def test_a_request_is_an_order_and_a_statement_is_not() -> None:
    draft = statement(status="draft")
    assert facts(draft) == {}
    order = draft | {"resourceType": "MedicationRequest", "intent": "order"}
    assert "ordered/ssri" in facts(order)


def test_the_ingredients_of_a_medication_are_read() -> None:
    both = {
        "resourceType": "Medication",
        "id": "d",
        "ingredient": [
            {"itemCodeableConcept": {"coding": [{"system": RXNORM, "code": code}]}}
            for code in ("29046", "5487")
        ],
    }
    link = statement(medicationReference={"reference": "#d"}, contained=[both])
    del link["medicationCodeableConcept"]
    found = facts(link)
    assert {"medication/ace-inhibitor", "medication/thiazide-diuretic"} <= set(found)


# ---------------------------------------------------------------- lines of a case


def test_every_set_can_be_said_by_its_name() -> None:
    missing = []
    for name in SETS:
        if f"medication/{name}" not in said({"takes": name}):
            missing.append(name)
    assert missing == []


def test_a_text_of_a_case_is_sent_as_text() -> None:
    form = parse({"takes": "text: water tablet since 3 months"})
    (resource,) = form.resources(TERMS, AS_OF, "r1", SUBJECT)
    assert resource["medicationCodeableConcept"] == {"text": "water tablet"}
    assert "start" in resource["effectivePeriod"]
    assert form.line() == '- takes: "text: water tablet since 3 months"'
    assert "medication/loop-diuretic" in said({"takes": "text: frusemide 40 mg"})


def test_a_line_of_a_case_has_route_and_dose() -> None:
    line = {"takes": "RXNORM#8638 prednisolone", "route": "local"}
    assert "medication/corticosteroid" not in said(line)
    assert parse(line).entry() == line
    raised = said(
        {"takes": "RXNORM#36437 sertraline since 400 days", "dose": "50 mg daily"},
        {"takes": "RXNORM#36437 sertraline since 20 days", "dose": "50 mg 2 times daily"},
    )
    assert raised["medication/ssri"]["since"] == 400 * 86_400
    assert raised["medication/ssri"]["changed"] == 20 * 86_400


@pytest.mark.parametrize(
    ("dose", "daily"),
    [("40 mg daily", "40"), ("2.5 mg 3 times daily", "7.5"), ("5 mg every 12 hours", "10"),
     ("70 mg weekly", "10"), ("1 {tbl} daily", "1")],
)  # fmt: skip
def test_a_dose_is_written_as_people_do(dose: str, daily: str) -> None:
    (resource,) = Takes("ssri", dose=dose).resources(TERMS, AS_OF, "r1", SUBJECT)
    (use,) = read(resource)
    assert use.dose is not None
    assert use.dose.value == Decimal(daily)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"takes": "text:"}, "'text:' says nothing"),
        ({"takes": "ssri", "dose": "lots"}, "dose 'lots' is not understood"),
        ({"takes": "ssri", "dose": "5 mg every 0 hours"}, "is not understood"),
        ({"takes": "ssri", "rout": "oral"}, "did you mean 'route'"),
        ({"requested": "ssri", "until": "2 days ago"}, "unknown key 'until'"),
        ({"takes": "ssri sertraline"}, "is not understood after 'ssri'"),
    ],
)
def test_a_wrong_line_is_refused(entry: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse(entry)


# ---------------------------------------------------------------- the files


def test_every_code_of_a_route_has_a_right_check_digit() -> None:
    file = TERMS.formulary.file
    assert file is not None
    codes = [code for route in file.routes for code in route.codes]
    assert len(codes) == len(set(codes)) > 40
    assert [code for code in codes if not snomed_digit_holds(code)] == []


def test_every_ingredient_of_the_tables_is_of_some_use() -> None:
    """Each is listed by a set, or there to be told from those that are."""
    named = {i for name in _names() for i in name["ingredients"].split()}
    assert {i for i in set(TERMS.formulary.same_as.values()) if i not in named} == set()


def _names() -> list[dict[str, str]]:
    path = shipped("rulesets") / "medicines" / "names.csv"
    return list(csv.DictReader(path.read_text("utf-8").splitlines()))


def _copy(folder: Path) -> MedicineFile:
    (folder / "medicines").mkdir()
    for name in ("ingredients", "names", "products"):
        source = shipped("rulesets") / "medicines" / f"{name}.csv"
        (folder / "medicines" / f"{name}.csv").write_text(source.read_text("utf-8"), "utf-8")
    file = TERMS.formulary.file
    assert file is not None
    return file


@pytest.mark.parametrize(
    ("table", "line", "message"),
    [
        ("products", "4,systemic,99", "'99' is not in ingredients.csv"),
        ("products", "4,sideways,4603", "there is no route 'sideways'"),
        ("products", "197885,systemic,4603", "product 197885 stands twice"),
        ("products", "4,systemic", "2 cells instead of 3"),
        ("names", "Lasix,brand,,4603", "the name 'Lasix' stands twice"),
        ("names", "LA-SIX,medicine,,4603", "'kind' is name or brand"),
        ("names", "--,name,,4603", "a name without a word"),
        ("names", "foo,name,,42351", "the same as another"),
    ],
)
def test_a_wrong_line_of_a_table_is_said_with_its_place(
    tmp_path: Path, table: str, line: str, message: str
) -> None:
    file = _copy(tmp_path)
    path = tmp_path / "medicines" / f"{table}.csv"
    path.write_text(path.read_text("utf-8") + line + "\n", "utf-8")
    faults: list[RuleError] = []
    load_formulary(tmp_path, file, faults)
    (fault,) = faults
    assert message in str(fault)
    assert f"{table}.csv:{len(path.read_text('utf-8').splitlines())}" in str(fault)


def test_a_missing_table_and_wrong_columns_are_said(tmp_path: Path) -> None:
    file = _copy(tmp_path)
    (tmp_path / "medicines" / "names.csv").write_text("a,b\n", "utf-8")
    (tmp_path / "medicines" / "products.csv").unlink()
    faults: list[RuleError] = []
    load_formulary(tmp_path, file, faults)
    assert [str(f).partition(": ")[2][:12] for f in faults] == ["cannot be re", "the columns "]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("routes: [sideways]", "there is no route 'sideways'"),
        ("not_with: [laxativ]", "there is no value set 'laxativ'; did you mean 'laxative'?"),
        (
            "codes: [{system: medicine, code: nothing, display: nothing}]",
            "there is no medicine 'nothing' in medicines/ingredients.csv",
        ),
    ],
)
def test_a_set_that_names_what_is_not_there_is_refused(
    tmp_path: Path, more: str, message: str
) -> None:
    codes = "" if "codes" in more else '\n    codes: [{system: rxnorm, code: "4603", display: x}]'
    (tmp_path / "valuesets").mkdir()
    (tmp_path / "valuesets" / "mine.yaml").write_text(
        "version: 1.0.0\nsource: x\nretrieved: x\nlicense: x\nvalue_sets:\n"
        f"  - id: mine\n    kind: medication\n    name: mine\n    {more}{codes}\n",
        "utf-8",
    )
    with pytest.raises(TerminologyError) as caught:
        load_terminology(shipped("rulesets"), tmp_path)
    assert message in str(caught.value)


def test_a_symptom_has_no_route(tmp_path: Path) -> None:
    (tmp_path / "valuesets").mkdir()
    (tmp_path / "valuesets" / "mine.yaml").write_text(
        "version: 1.0.0\nsource: x\nretrieved: x\nlicense: x\nvalue_sets:\n"
        "  - id: mine\n    kind: symptom\n    name: mine\n    routes: [inhaled]\n"
        '    codes: [{system: snomed, code: "26079004", display: x}]\n',
        "utf-8",
    )
    with pytest.raises(TerminologyError, match="are for medicines"):
        load_terminology(shipped("rulesets"), tmp_path)


def test_every_medicine_of_the_tables_is_known(clinical_data: Path) -> None:
    rows = csv.DictReader((clinical_data / "medication_codes.csv").read_text("utf-8").splitlines())
    unknown = [
        row["ingredient"]
        for row in rows
        if row["rxnorm_ingredient_code"] not in ("", *TERMS.formulary.same_as)
        or not TERMS.formulary.named(row["ingredient"].replace("(NPH) ", "")).ingredients
    ]
    assert unknown == []
