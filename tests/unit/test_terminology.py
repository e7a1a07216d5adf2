"""Terminology: the shipped codes are right, look-ups find them, and faulty files are refused."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cds import facts, medicines, results
from cds.errors import TerminologyError, UnitError
from cds.shipped import shipped
from cds.terminology import (
    SYSTEMS,
    Analyte,
    LabCode,
    Limits,
    Terminology,
    canonical_system,
    load_terminology,
    seconds_of,
)
from cds.units import unit_of
from cds.yamlfile import load_yaml

SNOMED, LOINC, ICD, RXNORM = (SYSTEMS[s] for s in ("snomed", "loinc", "icd10cm", "rxnorm"))
RULESETS = shipped("rulesets")
DAY = 86_400


@pytest.fixture(scope="module")
def terms() -> Terminology:
    return load_terminology(RULESETS)


# ------------------------------------------------------------------------- shipped analytes

# How much of the canonical unit one unit is, by the usual factors of laboratory handbooks.
USUAL_FACTORS = [
    ("potassium", "meq/L", "1"),
    ("magnesium", "mg/dL", "0.4114"),
    ("magnesium", "meq/L", "0.5"),
    ("calcium-total", "mg/dL", "0.2495"),
    ("calcium-adjusted", "mg/dL", "0.2495"),
    ("calcium-ionized", "meq/L", "0.5"),
    ("albumin", "g/dL", "10"),
    ("sodium", "meq/L", "1"),
    ("phosphate", "mg/dL", "0.3229"),
    ("creatinine", "mg/dL", "88.42"),
    ("urea", "mg/dL", "0.1665"),
    ("vitamin-d", "ng/mL", "2.496"),
    ("vitamin-b12", "pmol/L", "1.355"),
    ("vitamin-b12", "pg/mL", "1"),
    ("ferritin", "ng/mL", "1"),
    ("tsh", "u[IU]/mL", "1"),
    ("free-t4", "ng/dL", "12.87"),
    ("creatine-kinase", "ukat/L", "60"),
    ("glucose", "mg/dL", "0.0555"),
    ("pth", "pg/mL", "0.1060"),
    ("hemoglobin", "mmol/L", "16.11"),
    ("hemoglobin", "g/dL", "10"),
    ("crp", "mg/dL", "10"),
    ("digoxin", "nmol/L", "0.781"),
    ("lithium", "meq/L", "1"),
    ("qtc", "s", "1000"),
    ("body-weight", "[lb_av]", "0.45359237"),
]


@pytest.mark.parametrize(("analyte", "unit", "factor"), USUAL_FACTORS)
def test_molar_masses_give_the_usual_factors(
    terms: Terminology, analyte: str, unit: str, factor: str
) -> None:
    got = terms.analytes[analyte].convert(Decimal(1), unit)

    assert float(got) == pytest.approx(float(factor), rel=0.005)


def test_urea_nitrogen_counts_the_nitrogen_only(terms: Terminology) -> None:
    urea = terms.analytes["urea"]
    bun, whole = terms.lab_code(LOINC, "3094-0"), terms.lab_code(LOINC, "3091-6")

    assert float(urea.convert(Decimal(28), "mg/dL", bun)) == pytest.approx(10.0, rel=0.005)
    assert float(urea.convert(Decimal(60), "mg/dL", whole)) == pytest.approx(10.0, rel=0.005)


def test_what_is_asked_for_is_there(terms: Terminology) -> None:
    measured = """potassium magnesium calcium-total calcium-adjusted calcium-ionized albumin sodium
        phosphate creatinine egfr urea osmolality vitamin-d vitamin-b12 ferritin tsh free-t4
        creatine-kinase glucose hba1c bicarbonate pth hemoglobin crp qtc body-weight heart-rate
        body-temperature respiratory-rate oxygen-saturation lithium digoxin caffeine-intake
        fluid-intake alcohol-drinks sleep-duration audit-c""".split()

    assert {name for name in measured if not terms.analytes[name].codes} == set()
    assert {"calcium", "creatine-kinase-ratio"} <= terms.analytes.keys()


def test_a_result_counts_for_a_week_and_as_context_for_90_days_or_a_year(
    terms: Terminology,
) -> None:
    for name in ("potassium", "calcium", "creatine-kinase-ratio", "qtc", "glucose"):
        assert (terms.analytes[name].fresh, terms.analytes[name].context) == (7 * DAY, 90 * DAY)
    for name in ("vitamin-d", "vitamin-b12", "tsh", "egfr"):
        assert (terms.analytes[name].fresh, terms.analytes[name].context) == (7 * DAY, 365 * DAY)


@pytest.mark.parametrize(
    ("analyte", "possible", "impossible"),
    [
        ("potassium", ["0.5", "2.4", "9.9", "15"], ["0.49", "15.01", "45"]),
        ("magnesium", ["0.1", "10.65", "12"], ["0.09", "12.1"]),
        ("sodium", ["80", "155", "220"], ["79", "221"]),
        ("tsh", ["0", "0.01", "1000"], ["-0.1", "1001"]),
        ("vitamin-b12", ["10", "99999"], ["9"]),
    ],
)
def test_the_limits_of_what_is_possible_are_possible_themselves(
    terms: Terminology, analyte: str, possible: list[str], impossible: list[str]
) -> None:
    limits = terms.analytes[analyte].plausible
    assert limits is not None
    assert [v for v in possible if not limits.hold(Decimal(v))] == []
    assert [v for v in impossible if limits.hold(Fraction(v))] == []


@pytest.mark.parametrize(
    ("analyte", "value", "unit", "kind"),
    [
        pytest.param("magnesium", "1.9", "mmol/L", "unit", id="mg/dL sent as mmol/L"),
        pytest.param("magnesium", "0.8", "mg/dL", "unit", id="mmol/L sent as mg/dL"),
        pytest.param("magnesium", "1.9", "mg/dL", None, id="an ordinary mg/dL"),
        pytest.param("calcium-total", "1.2", "mmol/L", "analyte", id="ionized sent as total"),
        pytest.param("calcium-ionized", "2.3", "mmol/L", "analyte", id="total sent as ionized"),
        pytest.param("albumin", "4.1", "g/L", "unit", id="g/dL sent as g/L"),
        pytest.param("qtc", "0.42", "ms", "unit", id="seconds sent as milliseconds"),
        pytest.param("creatinine", "1.1", "umol/L", "unit", id="mg/dL sent as umol/L"),
        pytest.param("potassium", "2.4", "mmol/L", None, id="potassium has no twin"),
    ],
)
def test_numbers_that_look_like_a_slip_are_doubted(
    terms: Terminology, analyte: str, value: str, unit: str, kind: str | None
) -> None:
    slip = terms.analytes[analyte].slip(Decimal(value), unit)

    assert (slip.kind if slip else None) == kind


def test_the_default_upper_limit_is_the_one_that_the_doubt_names(terms: Terminology) -> None:
    ratio = terms.derived["creatine-kinase-ratio"]

    assert (ratio.of, ratio.default) == ("creatine-kinase", 200)
    assert f"{ratio.default} U/L" in terms.doubts["upper-limit-assumed"]


def test_adjusted_calcium_is_the_formula_of_the_table(terms: Terminology) -> None:
    spec = terms.adjusted_calcium
    adjusted = Fraction(2) + spec.coefficient * (spec.reference_albumin - 30)

    assert adjusted == Fraction("2.2")
    assert [a for a in (19, 20, 50, 51) if spec.albumin_range.hold(Fraction(a))] == [20, 50]
    assert spec.same_draw_within == DAY


def test_every_doubt_that_is_raised_has_a_wording_and_every_wording_is_used(
    terms: Terminology,
) -> None:
    code = "".join(
        Path(module.__file__ or "").read_text() for module in (facts, medicines, results)
    )

    assert set(re.findall(r'doubt\("([a-z-]+)"\)', code)) == set(terms.doubts)
    assert [code for code, says in terms.doubts.items() if not says.endswith(".")] == []


@pytest.mark.parametrize(
    "trap",
    [
        pytest.param("18281-6", id="calcium corrected for total protein"),
        pytest.param("8634-8", id="QT that is not corrected"),
        pytest.param("62290-2", id="1,25-dihydroxyvitamin D"),
        pytest.param("26746-8", id="magnesium of red cells"),
        pytest.param("57333-7", id="ionized calcium at pH 7.4"),
    ],
)
def test_codes_of_another_quantity_are_no_analyte(terms: Terminology, trap: str) -> None:
    assert terms.analyte_of(LOINC, trap) is None


def test_a_code_knows_whether_it_means_mass_or_moles(terms: Terminology) -> None:
    assert terms.coding_property(LOINC, "19123-9") == unit_of("mg/dL").kind
    assert terms.coding_property(LOINC, "2601-3") == unit_of("mmol/L").kind
    assert terms.coding_property(LOINC, "0-0") is None
    # Mislabeled in much public software: total calcium, and the mass code of magnesium.
    assert terms.analyte_of(LOINC, "2000-8") == "calcium-total"
    assert terms.coding_property(LOINC, "2593-2") == "substance"


# ------------------------------------------------------------------------- check digits


def _every_code(terms: Terminology) -> Iterator[tuple[str, str]]:
    for analyte in terms.analytes.values():
        yield from ((code.system, code.code) for code in analyte.codes)
    for value_set in terms.value_sets.values():
        yield from ((entry.system, entry.code) for entry in value_set.codes)
    for path in sorted((RULESETS / "valuesets").glob("*.yaml")):
        data, _ = load_yaml(path)
        for asked in data.get("answers", []):  # type: ignore[attr-defined]
            for entry in (asked["question"], *asked["when"]):
                yield entry["system"], entry["code"]


def _loinc_is_valid(code: str) -> bool:
    """The last digit by mod 10 (LOINC Users' Guide, "Check digits")."""
    digits, _, check = code.rpartition("-")
    doubled = str(int(digits[::-2][::-1]) * 2)
    total = sum(map(int, doubled)) + sum(map(int, digits[-2::-2]))
    return (10 - total % 10) % 10 == int(check)


_D5 = [
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
    [1, 2, 3, 4, 0, 6, 7, 8, 9, 5],
    [2, 3, 4, 0, 1, 7, 8, 9, 5, 6],
    [3, 4, 0, 1, 2, 8, 9, 5, 6, 7],
    [4, 0, 1, 2, 3, 9, 5, 6, 7, 8],
    [5, 9, 8, 7, 6, 0, 4, 3, 2, 1],
    [6, 5, 9, 8, 7, 1, 0, 4, 3, 2],
    [7, 6, 5, 9, 8, 2, 1, 0, 4, 3],
    [8, 7, 6, 5, 9, 3, 2, 1, 0, 4],
    [9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
]
_PERMUTED = [
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
    [1, 5, 7, 6, 2, 8, 3, 0, 9, 4],
    [5, 8, 0, 3, 7, 9, 6, 1, 4, 2],
    [8, 9, 1, 6, 0, 4, 3, 5, 2, 7],
    [9, 4, 5, 3, 1, 2, 6, 8, 7, 0],
    [4, 2, 8, 6, 5, 7, 3, 9, 0, 1],
    [2, 7, 9, 3, 8, 0, 6, 4, 1, 5],
    [7, 0, 4, 6, 9, 1, 3, 2, 5, 8],
]


def _snomed_is_valid(code: str) -> bool:
    """The last digit by Verhoeff's method, the partition being a concept's (SNOMED CT, SCTID)."""
    check = 0
    for place, digit in enumerate(reversed(code)):
        check = _D5[check][_PERMUTED[place % 8][int(digit)]]
    return check == 0 and code[-3:-1] in ("00", "10")


FORMS = {
    "icd10cm": re.compile(r"[A-Z]\d[0-9A-Z](\.[0-9A-Z]{1,4})?"),
    "hpo": re.compile(r"HP:\d{7}"),
    "mondo": re.compile(r"MONDO:\d{7}"),
    "rxnorm": re.compile(r"[1-9]\d{0,7}"),
    "medicine": re.compile(r"[a-z]+(-[a-z]+)*"),
    "loinc": re.compile(r"(LA)?[1-9]\d{0,5}-\d"),
    "snomed": re.compile(r"[1-9]\d{5,17}"),
}


def test_every_code_is_well_formed_and_its_check_digit_is_right(terms: Terminology) -> None:
    codes = set(_every_code(terms))
    bad = {(system, code) for system, code in codes if not FORMS[system].fullmatch(code)}
    # Answer codes (LA...) have a check digit by another, unpublished rule.
    terms_of_loinc = {c for s, c in codes if s == "loinc" and not c.startswith("LA")}
    bad |= {("loinc", c) for c in terms_of_loinc if not _loinc_is_valid(c)}
    bad |= {(s, c) for s, c in codes if s == "snomed" and not _snomed_is_valid(c)}

    assert bad == set()
    assert {system for system, _ in codes} == set(FORMS)


@pytest.mark.parametrize("wrong", ["2823-4", "2832-3", "1751-8"])
def test_a_mistyped_loinc_code_would_be_noticed(wrong: str) -> None:
    assert not _loinc_is_valid(wrong)


@pytest.mark.parametrize("wrong", ["82470001", "84270000", "13753080"])
def test_a_mistyped_snomed_code_would_be_noticed(wrong: str) -> None:
    assert not _snomed_is_valid(wrong)


# ------------------------------------------------------------------------- look-ups


@pytest.mark.parametrize(
    ("sent", "canonical"),
    [
        ("http://loinc.org", LOINC),
        ("https://loinc.org", LOINC),
        ("http://loinc.org/", LOINC),
        ("http://loinc.org|2.77", LOINC),
        ("urn:oid:2.16.840.1.113883.6.1", LOINC),
        ("urn:oid:2.16.840.1.113883.6.96", SNOMED),
        ("http://snomed.info/sct/731000124108/version/20230901", SNOMED),
        ("urn:oid:2.16.840.1.113883.6.88", RXNORM),
        ("urn:oid:2.16.840.1.113883.6.90", ICD),
        ("http://hl7.org/fhir/sid/icd-10", ICD),
        ("https://hl7.org/fhir/sid/icd-10-cm/", ICD),
        ("http://example.org/codes", "http://example.org/codes"),
        ("", ""),
    ],
)
def test_a_code_system_is_known_under_each_of_its_names(
    terms: Terminology, sent: str, canonical: str
) -> None:
    assert canonical_system(sent) == terms.canonical_system(sent) == canonical


@pytest.mark.parametrize(
    ("system", "code", "among", "not_among"),
    [
        pytest.param(SNOMED, "82470000", "fasciculation twitching", "weakness", id="fasciculation"),
        pytest.param(ICD, "R25.3", "fasciculation twitching", "cramp", id="twitching in ICD"),
        pytest.param(ICD, "G12.21", "als motor-neuron-disease", "", id="code and category"),
        pytest.param(ICD, "G12.29", "motor-neuron-disease", "als", id="category only"),
        pytest.param(ICD, "G1221", "als motor-neuron-disease", "", id="ICD without its dot"),
        pytest.param(ICD, "g12.21", "als", "", id="ICD in small letters"),
        pytest.param(ICD, "G35.A", "multiple-sclerosis", "", id="a child that came later"),
        pytest.param(ICD, "M62.561", "muscle-atrophy", "muscle-weakness", id="five characters"),
        pytest.param(ICD, "R53.1", "weakness-nonspecific", "weakness", id="feeling weak"),
        pytest.param(SNOMED, "95635002", "caffeine-withdrawal", "caffeine-excess", id="withdrawal"),
        pytest.param(SNOMED, "260912008", "", "fasciculation twitching", id="broad parent"),
        pytest.param(SNOMED, "1141007", "circumoral-paresthesia paresthesia", "", id="circumoral"),
        pytest.param(ICD, "Z99.2", "dialysis", "pregnancy", id="dialysis"),
        pytest.param(RXNORM, "6448", "lithium other-serotonergic serotonergic-drug", "", id="drug"),
    ],
)
def test_a_code_stands_for_its_concept_and_for_those_that_include_it(
    terms: Terminology, system: str, code: str, among: str, not_among: str
) -> None:
    concepts = terms.concepts_of(system, code)

    assert set(among.split()) <= set(concepts)
    assert not set(not_among.split()) & set(concepts)
    assert len(set(concepts)) == len(concepts)


@pytest.mark.parametrize(
    ("system", "code"),
    [
        (ICD, "Z00.00"),
        (ICD, "R2"),
        (ICD, ""),
        (SNOMED, "R25.3"),
        (ICD, "82470000"),
        ("http://example.org", "82470000"),
    ],
)
def test_an_unknown_code_stands_for_nothing(terms: Terminology, system: str, code: str) -> None:
    assert terms.concepts_of(system, code) == ()
    assert terms.own_concepts_of(system, code) == ()


def test_a_denial_denies_no_more_than_its_own_concept(terms: Terminology) -> None:
    assert terms.own_concepts_of(SNOMED, "1070000") == ("facial-myokymia",)
    assert terms.own_concepts_of(ICD, "G1221") == ("als",)
    assert terms.own_concepts_of(ICD, "G12.29") == ()


def test_answers_say_present_or_absent(terms: Terminology) -> None:
    def said(question: str, system: str, answer: str) -> tuple[tuple[str, bool], ...]:
        assert (LOINC, question) in terms.questions
        return terms.answer_of(LOINC, question, system, answer)

    assert said("82810-3", SNOMED, "77386006") == (("pregnancy", True),)
    assert said("82810-3", LOINC, "LA26683-5") == (("pregnancy", False),)
    assert said("72166-2", SNOMED, "449868002") == (("smoking", True),)
    assert set(said("72166-2", SNOMED, "8517006")) == {("smoking", False), ("former-smoking", True)}
    assert said("82810-3", LOINC, "LA4489-6") == ()


def test_an_answer_that_is_present_brings_the_wider_concept(tmp_path: Path) -> None:
    answers = """
        answers:
          - question: {system: loinc, code: "1-8", display: How is your calf?}
            when:
              - {system: loinc, code: LA6-2, display: Twitching, concept: calf, present: true}
              - {system: loinc, code: LA7-0, display: Quiet, concept: calf, present: false}
        """
    small = load(tmp_path, valuesets=VALUE_SETS.replace("value_sets:", undented(answers) + SETS))

    assert small.answer_of(LOINC, "1-8", LOINC, "LA6-2") == (("calf", True), ("twitch", True))
    assert small.answer_of(LOINC, "1-8", LOINC, "LA7-0") == (("calf", False),)


def test_the_kind_of_a_concept_is_known(terms: Terminology) -> None:
    assert terms.kind_of("twitching") == "symptom"
    assert terms.kind_of("loop-diuretic") == "medication"
    with pytest.raises(KeyError):
        terms.kind_of("potassium")


def test_a_pregnancy_lasts_42_weeks_and_a_symptom_30_days(terms: Terminology) -> None:
    assert terms.value_sets["pregnancy"].counts_for == 294 * DAY
    assert terms.value_sets["als"].counts_for is None
    assert terms.symptom_window == 30 * DAY


def test_words_for_a_hemolyzed_specimen_are_found_in_both_spellings(terms: Terminology) -> None:
    assert {"hemolyzed", "haemolysed", "hemolysis", "haemolysis"} <= set(terms.note_words)
    assert "HEM" in terms.hemolysis.specimen_conditions
    assert {"potassium", "phosphate", "magnesium"} <= set(terms.hemolysis.raises)
    assert "sodium" not in terms.hemolysis.raises


@given(st.sampled_from([*SYSTEMS.values(), ""]), st.text(max_size=12))
def test_a_look_up_never_fails(system: str, code: str) -> None:
    terms = _SHIPPED()
    known = terms.concepts_of(system, code)
    assert set(known) <= terms.value_sets.keys()
    assert set(terms.own_concepts_of(system, code)) <= set(known)
    assert terms.analyte_of(system, code) is None or terms.lab_code(system, code) is not None


@given(st.data())
def test_every_code_below_a_category_belongs_to_it(data: st.DataObject) -> None:
    terms = _SHIPPED()
    name, entry = data.draw(
        st.sampled_from(
            [
                (name, entry)
                for name, value_set in terms.value_sets.items()
                for entry in value_set.codes
                if entry.match == "prefix"
            ]
        )
    )
    rest = data.draw(st.text("0123456789ABX", max_size=3))
    code = entry.code + (rest if "." in entry.code or not rest else f".{rest}")
    assert name in terms.concepts_of(ICD, code)
    assert name in terms.concepts_of(ICD, code.replace(".", ""))


class _Once:
    loaded: Terminology | None = None

    def __call__(self) -> Terminology:
        self.loaded = self.loaded or load_terminology(RULESETS)
        return self.loaded


_SHIPPED = _Once()

# ------------------------------------------------------------------------- durations, limits


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("P7D", 7 * DAY), ("P42W", 294 * DAY), ("PT24H", DAY), ("P1DT12H", 36 * 3600)],
)
def test_durations_are_seconds(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "P", "PT", "7D", "P1M", "P1Y", "P1W2D", "P-1D", "P1.5D", "p7d"]
)
def test_a_duration_of_no_fixed_length_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        seconds_of(text)


@given(
    st.decimals(-100, 100, places=2),
    *(st.none() | st.decimals(-100, 0, places=2) for _ in range(2)),
    *(st.none() | st.decimals(0, 100, places=2) for _ in range(2)),
)
def test_limits_hold_what_every_bound_allows(
    value: Decimal, ge: Decimal | None, gt: Decimal | None, le: Decimal | None, lt: Decimal | None
) -> None:
    if ge is gt is le is lt is None:
        return
    bounds = [None if b is None else Fraction(b) for b in (ge, gt, le, lt)]
    limits = Limits(ge=bounds[0], gt=bounds[1], le=bounds[2], lt=bounds[3])
    expected = (
        (ge is None or value >= ge)
        and (gt is None or value > gt)
        and (le is None or value <= le)
        and (lt is None or value < lt)
    )
    assert limits.hold(value) == limits.hold(Fraction(value)) == expected


# ------------------------------------------------------------------------- faulty files

ANALYTES = """\
version: 1.0.0
source: test
retrieved: "2026-11-21"
license: none
analytes:
  - id: potassium
    name: potassium
    unit: mmol/L
    decimals: 1
    fresh: P7D
    context: P90D
    codes:
      - {code: "2823-3", property: substance, display: Potassium}
  - id: calcium
    name: calcium
    unit: mmol/L
    decimals: 2
    fresh: P7D
    context: P90D
adjusted_calcium:
  id: calcium
  result: potassium
  ionized: potassium
  total: potassium
  albumin: potassium
  egfr: potassium
  coefficient: 0.02
  reference_albumin: 40
  albumin_range: {ge: 20, le: 50}
  unreliable_egfr_lt: 60
  same_draw_within: PT24H
  source: test
derived: []
doubts: {preliminary: Preliminary.}
hemolysis:
  specimen_conditions: [HEM]
  words: [hemolyzed]
  negations: [not]
  raises: [potassium]
  source: test
symptom_window: P30D
"""
SETS = """
value_sets:
  - id: twitch
    kind: symptom
    name: twitch
    includes: [calf]
  - id: calf
    kind: symptom
    name: calf twitch
    codes:
      - {system: icd10cm, code: R25.3, display: Fasciculation}
"""
VALUE_SETS = "version: 1.0.0\nsource: test\nretrieved: today\nlicense: none\nvalue_sets:\n"
GOOD_SETS = VALUE_SETS.replace("value_sets:\n", SETS)


def undented(text: str) -> str:
    lines = text.splitlines()
    return "\n".join(line[8:] for line in lines)


def load(folder: Path, *, analytes: str = ANALYTES, valuesets: str = GOOD_SETS) -> Terminology:
    (folder / "valuesets").mkdir(parents=True)
    (folder / "analytes.yaml").write_text(analytes, encoding="utf-8")
    (folder / "valuesets" / "symptoms.yaml").write_text(valuesets, encoding="utf-8")
    return load_terminology(folder)


def test_a_small_set_of_files_is_enough(tmp_path: Path) -> None:
    small = load(tmp_path)

    assert small.analyte_of(LOINC, "2823-3") == "potassium"
    assert small.concepts_of(ICD, "R25.3") == ("calf", "twitch")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "name: potassium",
            "nam: potassium",
            "analytes.yaml:7: unknown key 'nam'; did you mean 'name'?",
        ),
        ("    name: potassium\n", "", "analytes.yaml:6: key 'name' is missing"),
        ("decimals: 1", "decimals: 1\n    decimals: 2", "key 'decimals' stands twice"),
        ('"2823-3"', "28233", "analytes.yaml:13: 'code' must be text; put a number"),
        ("unit: mmol/L\n    decimals: 1", "unit: mEq/l\n    decimals: 1", "did you mean 'meq/L'?"),
        ("fresh: P7D", "fresh: P1M", "analytes.yaml:10: 'fresh': 'P1M' is not a duration"),
        ("decimals: 1", "decimals: 9", "analytes.yaml:9: 'decimals': Input should be less"),
        ("property: substance", "property: mass", "property 'mass' of 2823-3 does not convert"),
        ("id: calcium\n    name", "id: potassium\n    name", "'potassium' stands twice; first at"),
        ("  egfr: potassium", "  egfr: kidney", "analytes.yaml:26: there is no analyte 'kidney'"),
        ("{ge: 20, le: 50}", "{ge: 50, le: 20}", "no number fits"),
        ("{ge: 20, le: 50}", "{}", "'albumin_range': no limit is given"),
        ("coefficient: 0.02", "coefficient: '0.02'", "'coefficient': must be a number"),
        ("symptom_window: P30D\n", "", "no analytes.yaml has the block 'symptom_window'"),
        ("derived: []", "derived: [1]", "analytes.yaml:33: '0': must be keys with values"),
        ("raises: [potassium]", "raises: [zinc]", "there is no analyte 'zinc'"),
        ("  result: potassium", "  result: [x", "not valid YAML"),
        (
            "  - id: calcium\n",
            "  - id: extra\n    name: extra\n    unit: '1'\n    decimals: 0\n"
            "    fresh: P1D\n    context: P1D\n  - id: calcium\n",
            "analytes.yaml:14: analyte 'extra' has no codes and is not computed",
        ),
        (
            "display: Potassium}\n",
            'display: Potassium}\n      - {code: "2823-3", property: substance, display: Again}\n',
            "analytes.yaml:14: code 2823-3 stands already in 'potassium' at",
        ),
        (
            "derived: []",
            "derived:\n  - {id: a, of: b, divided_by: upper-limit, default: 1, source: test}",
            "analytes.yaml:34: there is no analyte 'b'",
        ),
    ],
)
def test_a_fault_in_the_analytes_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    assert old in ANALYTES
    with pytest.raises(TerminologyError) as refused:
        load(tmp_path, analytes=ANALYTES.replace(old, new, 1))

    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("kind: symptom", "kind: sign", "symptoms.yaml:8: 'kind': 'sign' is none of symptom,"),
        ("[calf]", "[leg]", "symptoms.yaml:10: there is no value set 'leg'"),
        ("    includes: [calf]\n", "", "symptoms.yaml:7: value set 'twitch' is empty"),
        ("[calf]", "[twitch]", "symptoms.yaml:10: value set 'twitch' includes itself"),
        ("system: icd10cm", "system: icd", "symptoms.yaml:15: 'system': use one of snomed,"),
        ("display: F", "match: prefix, display: F", ""),
        ("system: icd10cm, code: R25.3", "system: hpo, match: prefix, code: x", "only codes of"),
        ("system: icd10cm, code: R25.3", 'system: loinc, code: "2823-3"', "'potassium' at"),
        ("id: twitch", "id: Twitch", "symptoms.yaml:7: 'id': 'Twitch': write small letters"),
        ("display: Fasciculation", "display: 1", "'display' must be text"),
        ("version: 1.0.0\n", "", "symptoms.yaml:1: key 'version' is missing"),
    ],
)
def test_a_fault_in_a_value_set_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    assert old in GOOD_SETS
    changed = GOOD_SETS.replace(old, new, 1)
    if not says:
        assert load(tmp_path, valuesets=changed).concepts_of(ICD, "R25.31") == ("calf", "twitch")
        return
    with pytest.raises(TerminologyError) as refused:
        load(tmp_path, valuesets=changed)

    assert says in str(refused.value)


def test_an_answer_about_an_unknown_concept_is_refused(tmp_path: Path) -> None:
    answers = """
        answers:
          - question: {system: loinc, code: "1-8", display: How is your calf?}
            when:
              - {system: loinc, code: LA6-2, display: Twitching, concept: leg, present: true}
        """
    with pytest.raises(TerminologyError, match=r"symptoms\.yaml:19: there is no value set 'leg'"):
        load(tmp_path, valuesets=GOOD_SETS + undented(answers).lstrip("\n"))


def test_every_fault_is_reported_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    broken = ANALYTES.replace("decimals: 1", "decimals: x").replace("P90D", "P9M")
    with pytest.raises(TerminologyError) as refused:
        load(tmp_path, analytes=broken)

    lines = [int(re.findall(r":(\d+): ", line)[0]) for line in str(refused.value).splitlines()]
    assert lines == [9, 11, 19]


def test_two_folders_add_up_but_never_replace_one_another(tmp_path: Path) -> None:
    load(tmp_path / "one")
    other = tmp_path / "two"
    (other / "valuesets").mkdir(parents=True)
    more = GOOD_SETS.replace("id: twitch", "id: jerk").replace("calf", "thigh")
    (other / "valuesets" / "more.yaml").write_text(more, encoding="utf-8")

    both = load_terminology(tmp_path / "one", other)

    assert both.concepts_of(ICD, "R25.3") == ("calf", "thigh", "jerk", "twitch")
    (other / "valuesets" / "more.yaml").write_text(GOOD_SETS, encoding="utf-8")
    with pytest.raises(
        TerminologyError, match=r"more\.yaml:7: 'twitch' stands twice; first at .*one"
    ):
        load_terminology(tmp_path / "one", other)


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TerminologyError, match=r"no analytes\.yaml has the block 'doubts'"):
        load_terminology(tmp_path)


# ------------------------------------------------------------------------- against the tables


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _verified(row: dict[str, str]) -> bool:
    return "PARTIAL" not in row["verified_by"] and "UNVERIFIED" not in row["verified_by"]


# Seen with their names in published sources beyond the tables; analytes.yaml says in which.
LOOKED_UP = {"4049-3", "14915-3", "11253-2", "77348-1", "3520-4", "53828-0"}


def test_every_laboratory_code_is_a_verified_row_and_none_is_forgotten(
    terms: Terminology, clinical_data: Path
) -> None:
    rows = _rows(clinical_data / "lab_codes.csv")
    findings = _rows(clinical_data / "finding_codes.csv")
    ours = {code.code for analyte in terms.analytes.values() for code in analyte.codes}
    verified = {row["code"] for row in rows if _verified(row)}

    assert ours - verified - {r["code"] for r in findings if _verified(r)} == LOOKED_UP
    assert verified - ours == {"18281-6"}  # calcium corrected for total protein


def _factors(text: str) -> Iterator[tuple[str, Decimal]]:
    for part in text.split(";"):
        match = re.fullmatch(r"([^*]+)\*([\d.]+)", part)
        if match:
            yield match[1], Decimal(match[2])


def test_every_conversion_agrees_with_the_table(terms: Terminology, clinical_data: Path) -> None:
    seen = 0
    for row in _rows(clinical_data / "lab_codes.csv"):
        name = terms.analyte_of(LOINC, row["code"])
        if name is None:
            continue
        analyte, code = terms.analytes[name], terms.lab_code(LOINC, row["code"])
        preferred = row["preferred_ucum"].removesuffix(" urea")
        if row["code"] == "69405-9":  # not indexed: converts only where the unit says so
            continue
        assert analyte.convert(Decimal(1), preferred, code) == 1, row["code"]
        for unit, factor in _factors(row["conversion_to_preferred"]):
            got = analyte.convert(Decimal(1), unit, code)
            assert float(got) == pytest.approx(float(factor), rel=0.005), (row["code"], unit)
            seen += 1
    assert seen > 60


def test_every_unit_that_was_seen_converts(terms: Terminology, clinical_data: Path) -> None:
    refused = []
    for row in _rows(clinical_data / "lab_codes.csv"):
        name = terms.analyte_of(LOINC, row["code"])
        for unit in row["ucum_units_seen"].split(";") if name else ():
            analyte: Analyte = terms.analytes[str(name)]
            code: LabCode | None = terms.lab_code(LOINC, row["code"])
            try:
                analyte.convert(Decimal(1), unit, code)
            except UnitError:
                refused.append((row["code"], unit))
    assert refused == [("69405-9", "mL/min")]


def test_every_plausibility_limit_is_the_one_of_the_table(
    terms: Terminology, clinical_data: Path
) -> None:
    rows = _rows(clinical_data / "thresholds.csv")
    checked = 0
    for name, analyte in terms.analytes.items():
        row_id = analyte.plausible.row if analyte.plausible else None
        if analyte.plausible is None or row_id is None:
            continue
        row = rows[int(row_id.removeprefix("TH-")) - 1]
        assert (row["direction"], row["severity"]) == ("plausibility", "reject as data error"), name
        bound = re.fullmatch(r"<([\d.]+)(?: or >([\d.]+))?", row["bound"])
        assert bound is not None
        assert row["unit"] == analyte.unit
        expected = (Fraction(bound[1]), Fraction(bound[2]) if bound[2] else None)
        assert (analyte.plausible.ge, analyte.plausible.le) == expected, name
        checked += 1
    assert checked == sum("reject as data error" == row["severity"] for row in rows) + 1


def test_every_finding_code_is_a_verified_row_and_none_is_forgotten(
    terms: Terminology, clinical_data: Path
) -> None:
    rows = _rows(clinical_data / "finding_codes.csv")
    verified = {(row["system"], row["code"]): row for row in rows if row["code"] and _verified(row)}
    ours = {
        (SYSTEMS[entry.system], entry.code): entry
        for value_set in terms.value_sets.values()
        if value_set.kind != "medication"
        for entry in value_set.codes
    }

    # Beyond the table: each was seen with its name where the head of its value-set file says. A new
    # code has to be added to the list, by somebody who has looked it up.
    with (Path(__file__).parent.parent / "data" / "codes_looked_up.csv").open(newline="") as file:
        looked_up = {(SYSTEMS[row["system"]], row["code"]) for row in csv.DictReader(file)}
    assert ours.keys() - verified.keys() == looked_up
    by_prefix = {key for key, entry in ours.items() if entry.match == "prefix"} - looked_up
    assert by_prefix == {key for key, row in verified.items() if "match by prefix" in row["notes"]}
    quantities = {(LOINC, code.code) for a in terms.analytes.values() for code in a.codes}
    left_out = verified.keys() - ours.keys() - quantities - terms.questions
    assert left_out == {
        (SNOMED, "255641001"),  # caffeine, the substance
        (SNOMED, "266919005"),  # an answer: never smoked
        (SNOMED, "266927001"),  # an answer: unknown if ever smoked
        (SNOMED, "308474002"),  # an order
        (LOINC, "11331-6"),  # a question answered by text
        (LOINC, "72109-2"),  # a panel
        (LOINC, "77592-4"),  # exercise habits
        (LOINC, "77593-2"),
        (LOINC, "89555-7"),
        (LOINC, "68516-4"),
        ("http://terminology.hl7.org/CodeSystem/v2-0493", "HEM"),  # in the block hemolysis
    }


def test_every_medicine_is_in_its_class(terms: Terminology, clinical_data: Path) -> None:
    names = {
        "cisplatin": "platinum-drug",
        "dopaminergic_and_motor_neurone": "dopaminergic-or-riluzole",
        "nicotine": "nicotine-or-varenicline",
    }
    rows = [r for r in _rows(clinical_data / "medication_codes.csv") if r["rxnorm_ingredient_code"]]
    for row in rows:
        concept = names.get(row["drug_class"], row["drug_class"].replace("_", "-"))
        assert concept in terms.own_concepts_of(RXNORM, row["rxnorm_ingredient_code"])
    ours = {e.code for v in terms.value_sets.values() for e in v.codes if e.system == "rxnorm"}
    # Carvedilol, a beta blocker that only explains a slow pulse; seen where workup.yaml says.
    assert ours == {row["rxnorm_ingredient_code"] for row in rows} | {"20352"}


@pytest.mark.parametrize(
    ("file", "table", "column"),
    [
        ("claims", "claims.csv", "claim_id"),
        ("red_flags", "red_flags.csv", "id"),
        ("medication_rules", "medication_rules.csv", "rule_id"),
        ("thresholds", "thresholds.csv", None),
    ],
)
def test_every_row_of_the_sources_has_its_id(
    clinical_data: Path, file: str, table: str, column: str | None
) -> None:
    rows = _rows(clinical_data / table)
    data, _ = load_yaml(RULESETS / "sources" / f"{file}.yaml")
    ours = [item["id"] for item in data[file]]  # type: ignore[index]

    if column is None:
        assert ours == [f"TH-{number:03}" for number in range(1, len(rows) + 1)]
    else:
        assert ours == [row[column] for row in rows]


def test_the_tiers_of_the_sources_are_those_of_the_vocabulary() -> None:
    tiers = {"info", "routine", "soon", "urgent", "emergency"}
    for file in ("red_flags", "medication_rules"):
        data, _ = load_yaml(RULESETS / "sources" / f"{file}.yaml")
        assert {item["tier"] for item in data[file]} == tiers  # type: ignore[index]
