"""The lines of a case: what each becomes in FHIR, and how a wrong one is refused."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from builders import LOINC, RXNORM, SNOMED, UCUM, Json
from cds import Screener
from cds.cases import Case, Expect
from cds.forms import NOW, UNDATED, Lab, Patient, Presence, Takes, When, ago, parse
from cds.rules import Rulesets, load_rulesets

AS_OF = 1_793_534_400  # 2026-11-01T12:00:00Z
DAY = 86_400


@pytest.fixture(scope="module")
def rulesets() -> Rulesets:
    return load_rulesets()


@pytest.fixture
def fhir(rulesets: Rulesets) -> Any:
    """What a line becomes: all its resources, in FHIR."""

    def expand(**entry: str) -> list[Json]:
        return parse(entry).resources(rulesets.terminology, AS_OF, "r1", "Patient/p")

    return expand


# ------------------------------------------------------------ time


@pytest.mark.parametrize(
    ("written", "time"),
    [
        ("now", "2026-11-01T12:00:00Z"),
        ("2 days ago", "2026-10-30T12:00:00Z"),
        ("1 day 1 second ago", "2026-10-31T11:59:59Z"),
        ("6 weeks ago", "2026-09-20T12:00:00Z"),
        ("3 months ago", "2026-08-01T12:00:00Z"),
        ("1 year 2 days ago", "2025-10-30T12:00:00Z"),
        ("in 3 hours", "2026-11-01T15:00:00Z"),
        ("on 2026-10-30", "2026-10-30"),
        ("on 2026-10", "2026-10"),
        ("on 2026", "2026"),
        ("at 2026-10-30T08:30:00+01:00", "2026-10-30T08:30:00+01:00"),
    ],
)
def test_the_time_of_a_result_is_counted_from_as_of_or_sent_as_written(
    fhir: Any, written: str, time: str
) -> None:
    (result,) = fhir(lab=f"potassium 4 mmol/L {written}")
    assert result["effectiveDateTime"] == time


def test_a_result_without_a_time_is_of_now_and_undated_sends_none(fhir: Any) -> None:
    assert fhir(lab="potassium 4")[0]["effectiveDateTime"] == "2026-11-01T12:00:00Z"
    assert "effectiveDateTime" not in fhir(lab="potassium 4 undated")[0]


def test_a_month_before_the_31st_is_the_last_day_of_a_shorter_month() -> None:
    october_31 = AS_OF - DAY
    assert When(0, months=1).fhir(october_31) == "2026-09-30T12:00:00Z"
    assert When(0, months=8).fhir(october_31) == "2026-02-28T12:00:00Z"


def test_a_time_made_in_python_is_written_in_words_that_mean_the_same() -> None:
    assert str(ago(7 * DAY + 1)) == "7 days 1 second ago"
    assert str(ago(20 * DAY, lasting=True)) == "for 20 days"
    assert str(ago(-3600)) == "in 1 hour"
    assert str(When(0, months=15)) == "1 year 3 months ago"
    assert (str(NOW), str(UNDATED)) == ("now", "undated")


@pytest.mark.parametrize(
    "arguments",
    [
        {"lasting": True},
        {"months": 3},
        {"seconds": -1, "lasting": True},
        {"seconds": -1, "months": 1},
        {"seconds": 0, "months": -1},
        {"seconds": 0, "date": "2026"},
        {"date": "2026-13"},
    ],
)
def test_a_time_that_contradicts_itself_cannot_be_made(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        When(**arguments)


# ------------------------------------------------------------ the patient


def test_a_patient_has_completed_the_years_on_the_very_day(fhir: Any) -> None:
    (patient,) = fhir(patient="female, 56 years")
    assert patient == {
        "resourceType": "Patient",
        "id": "p",
        "gender": "female",
        "birthDate": "1970-11-01",
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("male, born 1970-05", {"gender": "male", "birthDate": "1970-05"}),
        ("other, 1 year", {"gender": "other", "birthDate": "2025-11-01"}),
        ("40 years", {"birthDate": "1986-11-01"}),
        ("female, unknown age", {"gender": "female"}),
        ("unknown sex, unknown age", {}),
    ],
)
def test_what_is_not_told_of_a_patient_is_not_sent(fhir: Any, text: str, told: Json) -> None:
    (patient,) = fhir(patient=text)
    assert patient == {"resourceType": "Patient", "id": "p", **told}


# ------------------------------------------------------------ laboratory


def test_a_result_is_an_observation_under_the_first_code_of_its_analyte(fhir: Any) -> None:
    (result,) = fhir(
        lab="potassium <2.9 mmol/L 2 days ago", range="3.5 to 5.1", flag="LL", note="repeated"
    )
    assert result == {
        "resourceType": "Observation",
        "id": "r1",
        "status": "final",
        "category": [
            {
                "coding": [
                    {
                        "system": "http://terminology.hl7.org/CodeSystem/observation-category",
                        "code": "laboratory",
                    }
                ]
            }
        ],
        "code": {
            "coding": [
                {
                    "system": LOINC,
                    "code": "2823-3",
                    "display": "Potassium [Moles/volume] in Serum or Plasma",
                }
            ]
        },
        "subject": {"reference": "Patient/p"},
        "effectiveDateTime": "2026-10-30T12:00:00Z",
        "valueQuantity": {
            "value": 2.9,
            "comparator": "<",
            "unit": "mmol/L",
            "system": UCUM,
            "code": "mmol/L",
        },
        "interpretation": [
            {
                "coding": [
                    {
                        "system": "http://terminology.hl7.org/CodeSystem/"
                        "v3-ObservationInterpretation",
                        "code": "LL",
                    }
                ]
            }
        ],
        "note": [{"text": "repeated"}],
        "referenceRange": [
            {
                side: {"value": value, "unit": "mmol/L", "system": UCUM, "code": "mmol/L"}
                for side, value in (("low", 3.5), ("high", 5.1))
            }
        ],
    }


def test_the_unit_is_that_of_the_analyte_and_decides_the_code(fhir: Any) -> None:
    def sent(line: str) -> tuple[str, str]:
        (result,) = fhir(lab=line)
        return result["code"]["coding"][0]["code"], result["valueQuantity"]["code"]

    assert sent("magnesium 0.8") == ("2601-3", "mmol/L")
    assert sent("magnesium 1.9 mg/dL") == ("19123-9", "mg/dL")
    assert sent("egfr 59") == ("98979-8", "mL/min/{1.73_m2}")


def test_a_unit_in_quotes_is_sent_as_text_as_some_senders_do(fhir: Any) -> None:
    (result,) = fhir(lab='potassium 4 "mEq per L" now')
    assert result["valueQuantity"] == {"value": 4, "unit": "mEq per L"}


def test_a_code_can_stand_for_the_analyte_with_words_for_the_reader(fhir: Any) -> None:
    (result,) = fhir(lab="LOINC#2132-9 Vitamin B 12 in Serum 150 ng/L 3 days ago")
    coding = {"system": LOINC, "code": "2132-9", "display": "Vitamin B 12 in Serum"}
    assert result["code"] == {"coding": [coding]}
    assert result["valueQuantity"]["value"] == 150
    assert fhir(lab="snomed#365760004 4 mmol/L")[0]["code"]["coding"][0]["system"] == SNOMED


def test_results_of_one_specimen_refer_to_it_and_its_condition_is_coded(fhir: Any) -> None:
    result, specimen = fhir(lab="potassium 6.6", specimen="HEM")
    assert result["specimen"] == {"reference": f"Specimen/{specimen['id']}"}
    assert specimen["condition"][0]["coding"][0]["code"] == "HEM"
    one = fhir(lab="calcium-total 2.0", specimen="draw-1")[1]
    other = fhir(lab="albumin 30", specimen="draw-1")[1]
    assert one == other
    assert "condition" not in one


def test_a_computed_result_is_sent_as_what_it_is_computed_from(
    rulesets: Rulesets, fhir: Any
) -> None:
    screener = Screener(rulesets)
    for line, key, value in (
        ("calcium 2.05", "lab/calcium", Decimal("2.05")),
        ("creatine-kinase-ratio 4.5", "lab/creatine-kinase-ratio", Decimal("4.5")),
    ):
        case = Case("x", AS_OF, (parse({"lab": line}),), Expect(), "", 1)
        bundle = case.bundle(rulesets.terminology)
        (assessment,) = screener.screen_all(bundle, "2026-11-01T12:00:00Z")
        assert assessment.evaluation.facts[key].sources[0].value == value


# ------------------------------------------------------------ symptoms, conditions, life


def test_a_symptom_that_is_seen_is_an_observation_and_one_that_lasts_a_condition(fhir: Any) -> None:
    (seen,) = fhir(symptom="cramp 2 days ago")
    assert (seen["resourceType"], seen["valueBoolean"]) == ("Observation", True)
    assert seen["effectiveDateTime"] == "2026-10-30T12:00:00Z"
    (lasting,) = fhir(symptom="SNOMED#82470000 muscle fasciculation for 20 days")
    assert lasting["resourceType"] == "Condition"
    assert lasting["onsetDateTime"] == "2026-10-12T12:00:00Z"
    assert lasting["code"]["coding"][0]["display"] == "muscle fasciculation"
    assert fhir(symptom="cramp")[0]["effectiveDateTime"] == "2026-11-01T12:00:00Z"


def test_a_condition_is_active_and_confirmed_unless_it_says_otherwise(fhir: Any) -> None:
    def statuses(**more: str) -> dict[str, str]:
        (condition,) = fhir(condition="pregnancy", **more)
        return {
            key: condition[key]["coding"][0]["code"]
            for key in ("clinicalStatus", "verificationStatus")
            if key in condition
        }

    assert statuses() == {"clinicalStatus": "active", "verificationStatus": "confirmed"}
    assert statuses(clinical="resolved")["clinicalStatus"] == "resolved"
    assert statuses(verification="refuted") == {"verificationStatus": "refuted"}
    assert statuses(verification="entered-in-error") == {"verificationStatus": "entered-in-error"}


def test_a_history_is_that_of_a_relative(fhir: Any) -> None:
    (family,) = fhir(history="SNOMED#86044005 ALS")
    assert family["resourceType"] == "FamilyMemberHistory"
    assert family["condition"][0]["code"]["coding"][0]["code"] == "86044005"


def test_a_denial_denies_all_that_a_value_set_without_codes_of_its_own_includes(
    rulesets: Rulesets, fhir: Any
) -> None:
    (cramp,) = fhir(denies="cramp 1 day ago")
    assert cramp["valueBoolean"] is False
    several = fhir(denies="weakness")
    assert [r["id"] for r in several] == ["r1", "r1b", "r1c", "r1d", "r1e"]
    form = parse({"denies": "twitching"})
    case = Case("x", AS_OF, (form,), Expect(), "", 1)
    screener = Screener(rulesets)
    (record,) = screener.reader.read(case.bundle(rulesets.terminology), _log())
    assert "symptom/twitching" in screener.normalizer.normalize(record, AS_OF).denied


def test_a_value_set_that_only_answers_name_is_answered(rulesets: Rulesets, fhir: Any) -> None:
    (answer,) = fhir(symptom="twitching-questionnaire")
    code, value = answer["code"]["coding"][0], answer["valueCodeableConcept"]["coding"][0]
    said = rulesets.terminology.answer_of(
        code["system"], code["code"], value["system"], value["code"]
    )
    assert ("twitching-questionnaire", True) in said


def _log() -> Any:
    from cds.fhir import ReadLog

    return ReadLog()


# ------------------------------------------------------------ medicines


def test_a_medicine_is_taken_since_and_until(fhir: Any) -> None:
    (statement,) = fhir(takes="RXNORM#4603 furosemide since 3 months", until="2 days ago")
    assert statement["resourceType"] == "MedicationStatement"
    assert statement["status"] == "active"
    coding = {"system": RXNORM, "code": "4603", "display": "furosemide"}
    assert statement["medicationCodeableConcept"] == {"coding": [coding]}
    assert statement["effectivePeriod"] == {
        "start": "2026-08-01T12:00:00Z",
        "end": "2026-10-30T12:00:00Z",
    }
    assert "effectivePeriod" not in fhir(takes="loop-diuretic")[0]


def test_a_request_is_an_order_written_at_one_time(fhir: Any) -> None:
    (request,) = fhir(requested="loop-diuretic 2 days ago", status="draft")
    assert (request["resourceType"], request["intent"]) == ("MedicationRequest", "order")
    assert (request["status"], request["authoredOn"]) == ("draft", "2026-10-30T12:00:00Z")


def test_a_medicine_made_in_python_lasts_and_a_request_does_not() -> None:
    assert Takes("loop-diuretic", ago(DAY)).entry() == {"takes": "loop-diuretic for 1 day"}
    assert Takes("loop-diuretic", ago(-DAY)).entry() == {"takes": "loop-diuretic in 1 day"}
    request = Takes("loop-diuretic", ago(DAY, lasting=True), request=True)
    assert request.entry() == {"requested": "loop-diuretic 1 day ago"}


# ------------------------------------------------------------ how a line is written


def test_a_line_with_further_keys_is_written_on_one_line() -> None:
    form = Lab("potassium", Decimal("2.40"), "mmol/L", ago(DAY), range="3.5 to 5.1", note="a, b: c")
    assert form.line() == (
        '- {lab: potassium 2.40 mmol/L 1 day ago, range: 3.5 to 5.1, note: "a, b: c"}'
    )
    assert Patient("female", 56).line() == "- patient: female, 56 years"
    assert Presence("symptom", "cramp", ago(DAY)).line() == "- symptom: cramp 1 day ago"


# ------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        # the key
        ({}, "an entry needs one of patient, lab, symptom"),
        ({"labb": "potassium 4"}, "did you mean 'lab'?"),
        ({"lab": "potassium 4", "symptom": "cramp"}, "lab and symptom are two entries"),
        ({"lab": None}, "'lab' must be text"),
        ({"lab": ["potassium 4"]}, "'lab' must be text"),
        ({"symptom": True}, "'symptom' must be text"),
        ({"lab": " "}, "'lab' says nothing"),
        (
            {"lab": "potassium 4", "flags": "LL"},
            "'flags' beside 'lab'; did you mean 'flag'?",
        ),
        ({"lab": "potassium 4", "note": ""}, "'note' says nothing"),
        ({"symptom": "cramp", "until": "now"}, "unknown key 'until' beside 'symptom'; use sites"),
        ({"requested": "ppi", "until": "now"}, "unknown key 'until' beside 'requested'; use statu"),
        ({"patient": "male, 5 years", "id": "x"}, "unknown key 'id' beside 'patient'"),
        # names
        ({"lab": "potasium 4"}, "there is no analyte 'potasium'; did you mean 'potassium'?"),
        ({"symptom": "twiching"}, "there is no value set 'twiching'; did you mean 'twitching'?"),
        ({"symptom": "pregnancy"}, "value set 'pregnancy' is of kind condition, not symptom"),
        ({"takes": "cramp"}, "value set 'cramp' is of kind symptom, not medication"),
        ({"symptom": "SNOMD#82470000"}, "there is no code system 'SNOMD'; did you mean 'snomed'?"),
        ({"takes": "FOO#1"}, "there is no code system 'FOO'; use one of SNOMED, LOINC"),
        ({"takes": "RXNORM#"}, "'RXNORM#' is not a code; write SYSTEM#code"),
        ({"condition": "twitching-questionnaire"}, "has no code, only answers to questions"),
        ({"denies": "twitching-questionnaire 4 days ago 2"}, "is not understood after"),
        # lab
        ({"lab": "potassium"}, "write for example 'potassium 2.4 mmol/L 2 days ago'"),
        ({"lab": "potassium 2,4 mmol/L"}, "write for example 'potassium 2.4 mmol/L 2 days ago'"),
        ({"lab": "potassium serum 2.4"}, "'serum' is not understood after 'potassium'"),
        ({"lab": "potassium 4 mmoll/L"}, "'mmoll/L' is not a known UCUM unit; did you mean 'mmol/"),
        ({"lab": "potassium 4 MMOL/L"}, "did you mean 'mmol/L'?; in double quotes it is sent as"),
        ({"lab": "LOINC#2823-3 4"}, "give a unit to LOINC#2823-3"),
        ({"lab": "potassium 4 for 2 days"}, "a result has one time"),
        ({"lab": "potassium 4", "flag": "low"}, "flag 'low' is none of N, L, LU, LL"),
        ({"lab": "potassium 4", "status": "finale"}, "did you mean 'final'?"),
        ({"lab": "potassium 4", "specimen": "HEMO"}, "did you mean 'HEM'?"),
        ({"lab": "potassium 4", "specimen": "draw 1"}, "name it with small letters"),
        ({"lab": "potassium 4", "range": Decimal("3.5")}, "write '3.5 to 5.1', 'from 3.5' or"),
        ({"lab": "potassium 4", "range": "3.5.1 to 5"}, "write '3.5 to 5.1', 'from 3.5' or"),
        ({"lab": "potassium 4", "range": "5 to 3.5"}, "the first number must be the smaller"),
        ({"lab": "creatine-kinase-ratio 4 U/L"}, "give it neither unit nor range"),
        ({"lab": "creatine-kinase-ratio 4", "range": "up to 1"}, "give it neither unit nor range"),
        ({"lab": "potassium 4.0000000000000001"}, "more digits than are sent exactly"),
        # time
        ({"lab": "potassium 4 on 2026-13-01"}, "'2026-13-01' is not a date such as 2026-10-30"),
        ({"lab": "potassium 4 at 2026-10-30T08:30"}, "not a time with seconds and time zone"),
        ({"lab": "potassium 4 at 2026-10-30T08:30:00"}, "not a time with seconds and time zone"),
        ({"lab": "potassium 4 in 2 months"}, "count the time after as_of in days"),
        ({"lab": "potassium 4 9000 years ago"}, "does not lie in the years 1 to 9999"),
        ({"patient": "female, 3000 years"}, "does not lie in the years 1 to 9999"),
        # the rest
        ({"patient": "femal, 5 years"}, "write for example 'female, 56 years'"),
        ({"patient": "female"}, "write for example 'female, 56 years'"),
        ({"patient": "female, born 1970-13"}, "'1970-13' is not a date"),
        ({"symptom": "cramp yesterday"}, "'yesterday' is not understood after 'cramp'"),
        ({"symptom": "2 days ago"}, "names nothing"),
        ({"takes": "since 3 months"}, "names nothing"),
        ({"history": "tremor for 3 years"}, "a relative's condition has no time"),
        ({"denies": "cramp for 3 days"}, "a denial has one time"),
        ({"condition": "cramp", "clinical": "activ"}, "did you mean 'active'?"),
        ({"condition": "cramp", "verification": "no"}, "verification 'no' is none of unconfirmed"),
        (
            {"condition": "cramp", "clinical": "active", "verification": "entered-in-error"},
            "has no clinical status",
        ),
        ({"takes": "loop-diuretic 3 days ago"}, "say since when it is taken: 'since 3 months'"),
        ({"takes": "loop-diuretic 3 months ago"}, "say since when it is taken: 'since 3 months'"),
        ({"takes": "loop-diuretic", "until": "soon"}, "until 'soon' is not a time such as"),
        ({"takes": "loop-diuretic", "until": "undated"}, "is not a time such as '2 days ago'"),
        ({"takes": "loop-diuretic", "status": "draft"}, "status 'draft' is none of active"),
        (
            {"takes": "loop-diuretic since 2 days", "until": "5 days ago"},
            "until '5 days ago' lies before the start",
        ),
        ({"requested": "loop-diuretic for 3 days"}, "a request has one time"),
    ],
)
def test_a_wrong_line_is_refused_with_what_is_wrong_and_how_it_is_written(
    rulesets: Rulesets, entry: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        parse(entry).resources(rulesets.terminology, AS_OF, "r1", "Patient/p")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Lab("potassium", Decimal("NaN")),
        lambda: Lab("potassium", Decimal(4), comparator="=="),
        lambda: Patient("female", 3, "1970"),
        lambda: Patient("female", -1),
        lambda: Patient(born="1970-05-01T08:00:00Z"),
        lambda: Presence("sign", "cramp"),
        lambda: Presence("symptom", "cramp", clinical="active"),
        lambda: Takes("loop-diuretic", until="2 days ago", request=True),
    ],
)
def test_a_form_that_no_line_can_say_cannot_be_made(make: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        make()


def test_the_end_of_a_medicine_may_lie_on_the_day_it_was_started(fhir: Any) -> None:
    (statement,) = fhir(takes="loop-diuretic since 2026-10", until="on 2026-10-30")
    assert statement["effectivePeriod"] == {"start": "2026-10", "end": "2026-10-30"}
    (other,) = fhir(takes="loop-diuretic since 2 hours", until="1 hour ago")
    assert other["effectivePeriod"]["end"] == "2026-11-01T11:00:00Z"
