"""The library's own entrance: one patient, many patients, and input that cannot be read."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from cds import Screener, Tier, load_rulesets
from cds.cases import Case, Expect
from cds.errors import FhirInputError, UsageError
from cds.fhir import ReadLog
from cds.forms import parse
from tests.builders import bundle, lab, patient

AS_OF = "2026-11-01T00:00:00Z"


@pytest.fixture(scope="module")
def screener() -> Screener:
    return Screener(load_rulesets())


def of(patient_id: str, *resources: dict[str, Any]) -> list[dict[str, Any]]:
    """Resources of a patient other than the usual one."""
    subject = {"reference": f"Patient/{patient_id}"}
    return [
        {**patient(), "id": patient_id},
        *({**r, "id": f"{patient_id}-{r['id']}", "subject": subject} for r in resources),
    ]


def test_the_instant_may_be_text_or_an_aware_datetime(screener: Screener) -> None:
    record = bundle(patient(), lab("potassium", "2.4"))
    text = screener.screen(record, as_of=AS_OF)
    assert (
        text.to_dict() == screener.screen(record, as_of=datetime(2026, 11, 1, tzinfo=UTC)).to_dict()
    )
    assert text.tier is Tier.emergency
    assert f"{text.tier}" == str(text.tier) == "emergency"


@pytest.mark.parametrize("as_of", ["yesterday", "2026-11-01T00:00:00", datetime(2026, 11, 1)])  # noqa: DTZ001
def test_an_instant_without_offset_is_refused(screener: Screener, as_of: Any) -> None:
    with pytest.raises(UsageError, match="2026-11-01T00:00:00Z"):
        screener.screen(bundle(patient()), as_of=as_of)


def test_one_patient_is_expected_and_the_others_are_named(screener: Screener) -> None:
    both = bundle(*of("anna"), *of("ben"))
    with pytest.raises(UsageError, match="Patient/anna, Patient/ben"):
        screener.screen(both, as_of=AS_OF)
    assert [a.patient for a in screener.screen_all(both, as_of=AS_OF)] == [
        "Patient/anna",
        "Patient/ben",
    ]


def test_what_could_not_be_read_is_a_problem_of_the_last_assessment(screener: Screener) -> None:
    broken = bundle(*of("anna"), *of("ben"))
    broken["entry"].append({"resource": {"resourceType": "Observation", "id": "x", "code": 7}})
    orphan = {**lab("potassium", "2.4"), "id": "nobody"}
    del orphan["subject"]
    broken["entry"].append({"resource": orphan})
    first, last = screener.screen_all(broken, as_of=AS_OF)
    assert "rejected" not in {p.code for p in first.evaluation.problems}
    assert "rejected" in {p.code for p in last.evaluation.problems}


def test_with_a_log_the_assessments_stay_as_they_are(screener: Screener) -> None:
    log = ReadLog()
    text = json.dumps(bundle(patient(), lab("potassium", "2.4"))).encode() + b"\n{broken"
    found = list(screener.screen_all(text, as_of=AS_OF, log=log))
    assert log.rejected
    assert all(p.code != "rejected" for a in found for p in a.evaluation.problems)


def test_unreadable_input_without_any_patient_is_an_error_that_says_where(
    screener: Screener,
) -> None:
    with pytest.raises(FhirInputError, match="input"):
        screener.screen(b"{broken", as_of=AS_OF)


def test_an_unknown_rule_cannot_be_explained(screener: Screener) -> None:
    assessment = screener.screen(bundle(patient()), as_of=AS_OF)
    with pytest.raises(UsageError, match="cds rules"):
        assessment.explain("no-such-rule")


def test_everything_lists_rules_that_came_nowhere_near(screener: Screener) -> None:
    assessment = screener.screen(bundle(patient()), as_of=AS_OF)
    assert assessment.to_dict()["not_evaluated"] == []
    everything = assessment.to_dict(everything=True)["not_evaluated"]
    assert {"hypokalemia-severe", "hyponatremia-severe"} <= {n["rule"] for n in everything}


# ------------------------------------------------------------ results that were not sent


def of_lines(screener: Screener, *lines: dict[str, str], all_results: bool) -> Any:
    """Assess a patient of these lines; `all_results` says whether all results were sent."""
    as_of = 1_793_491_200  # 2026-11-01T00:00:00Z
    case = Case("x", as_of, tuple(map(parse, lines)), Expect(), "", 0)
    (record,) = screener.reader.read(case.bundle(screener.rulesets.terminology), ReadLog())
    return screener.assess(record, as_of, all_results=all_results)


def test_an_alarm_over_a_missing_result_stays_where_results_were_not_sent(
    screener: Screener,
) -> None:
    lines = ({"takes": "insulin"}, {"symptom": "tremor 2 hours ago"})
    for all_results in (True, False):
        assessment = of_lines(screener, *lines, all_results=all_results)
        assert assessment.tier is Tier.urgent
        assert "insulin-possible-hypoglycemia" in {f.id for f in assessment.findings}


def test_nothing_milder_is_concluded_from_results_that_were_not_sent(screener: Screener) -> None:
    lines = ({"symptom": "twitching 2 days ago"},)
    missing = {f.id for f in of_lines(screener, *lines, all_results=True).findings}
    assert "electrolyte-panel-missing" in missing
    unknown = of_lines(screener, *lines, all_results=False)
    assert "electrolyte-panel-missing" not in {f.id for f in unknown.findings}
