"""Running cases: what makes one fail, and what is said of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builders import bundle, lab, patient
from cds import Screener
from cds.cases import Case, Expect, load_cases_file
from cds.errors import EngineError
from cds.harness import CaseResult, run, run_case
from cds.rules import Rulesets, load_rulesets

HEAD = "as_of: 2026-11-01T12:00:00Z\ncases:\n"


@pytest.fixture(scope="module")
def rulesets() -> Rulesets:
    return load_rulesets()


@pytest.fixture(scope="module")
def screener(rulesets: Rulesets) -> Screener:
    return Screener(rulesets)


@pytest.fixture
def result(screener: Screener, tmp_path: Path) -> Any:
    """The result of one case with these lines and expectations."""

    def of(expect: str, *lines: str) -> CaseResult:
        data = "".join(f"      - {line}\n" for line in lines) or "      []\n"
        text = f"{HEAD}  - name: x\n    data:\n{data}    expect: {{{expect}}}\n"
        path = tmp_path / "cases.yaml"
        path.write_text(text)
        (case,) = load_cases_file(path, "electrolyte", screener.rulesets)
        return run_case(screener, case)

    return of


LOW = ("lab: potassium 2.4 mmol/L 2 days ago", "symptom: twitching for 20 days")


@pytest.mark.parametrize(
    "expect",
    [
        "fires: [hypokalemia-severe, hypokalemia-mild]",
        "fires: [twitching-related-symptom]",
        "not: [hyperkalemia-mild, hypokalemia-severe-recheck]",
        "tier: emergency",
        "missing: [magnesium]",
        "missing: {hypomagnesemia-mild: magnesium}",
        "card: [Potassium 2.4 mmol/L]",
        "patient_card: [emergency]",
    ],
)
def test_what_is_expected_comes_true(result: Any, expect: str) -> None:
    assert result(expect, *LOW).failures == ()


def test_a_patient_of_whom_nothing_is_known_has_no_finding(result: Any) -> None:
    assert result("tier: none, shows: []").passed


def test_every_finding_shown_is_to_be_named_by_shows(result: Any) -> None:
    (failure,) = result("shows: [hyperkalemia-mild]", *LOW).failures
    assert failure.message == "other findings are shown"
    assert "hyperkalemia-mild should be shown" in failure.why
    assert "hypokalemia-severe should not be shown" in failure.why


def test_a_rule_that_does_not_fire_is_explained_by_the_criteria_that_do_not_hold(
    result: Any,
) -> None:
    (failure,) = result(
        "fires: [hypokalemia-severe]", "lab: potassium 2.6 mmol/L 2 days ago"
    ).failures
    assert (failure.kind, failure.subject) == ("fires", "hypokalemia-severe")
    assert failure.message == "hypokalemia-severe should fire and does not"
    (line,) = failure.why
    assert line.startswith("NO ")
    assert "2.5 mmol/L" in line
    assert "2.6 mmol/L" in line
    assert str(failure) == f"{failure.message}\n  {line}"


def test_what_a_finding_rests_on_is_explained_with_it(result: Any) -> None:
    (failure,) = result("fires: [hypokalemia-mild]", "lab: potassium 3.4 mmol/L").failures
    assert any("twitching-related-symptom: UNKNOWN" in line for line in failure.why)
    (failure,) = result("not: [hypokalemia-mild]", "lab: potassium 3.4 mmol/L", LOW[1]).failures
    assert failure.message == "hypokalemia-mild should not fire and does"
    assert any(line.startswith("YES ") and "3.4 mmol/L" in line for line in failure.why)
    assert any("twitching-related-symptom: YES" in line for line in failure.why)


def test_what_blocks_a_rule_is_named(result: Any) -> None:
    lines = (
        "lab: potassium 3.4 mmol/L",
        LOW[1],
        "condition: pregnancy",
        "patient: female, 30 years",
    )
    (failure,) = result("fires: [hypokalemia-mild]", *lines).failures
    assert any(line.startswith("unless: YES") and "pregnan" in line for line in failure.why)


def test_a_missing_datum_or_card_text_is_said_with_what_there_is(result: Any) -> None:
    tier, missing, card = result(
        "tier: soon, missing: {hypokalemia-mild: potassium}, card: [Sodium]", *LOW
    ).failures
    assert tier.message == "the tier should be soon and is emergency"
    assert any(line.startswith("emergency: hypokalemia-severe") for line in tier.why)
    assert missing.message == "hypokalemia-mild should wait for potassium and does not"
    assert missing.why == ("nothing is waited for",)
    assert card.message == "no card says 'Sodium'"


def test_a_rule_for_adults_waits_for_an_adult(result: Any) -> None:
    lines = ("patient: male, 9 years", *LOW)
    assert result("missing: {hypokalemia-mild: adult}", *lines).passed
    assert not result("missing: {hypokalemia-mild: adult}", *LOW).passed


def test_text_of_a_card_is_compared_without_bold_and_line_breaks(result: Any) -> None:
    lines = ("lab: potassium 3.4 mmol/L", LOW[1])
    assert result(
        'card: ["Caution: Kidney function is not known. No creatinine or"]', *lines
    ).passed
    assert result("card: [Potassium low at 3.4 mmol/L]", *lines).passed
    assert not result("patient_card: [Potassium low at 3.4 mmol/L]", *lines).passed


def test_a_record_that_cannot_be_read_fails_its_case_and_no_other(
    screener: Screener, tmp_path: Path
) -> None:
    two = bundle(patient("p1"), lab("potassium", "2.4"), lab("sodium", "140", subject="p2"))
    (tmp_path / "two.json").write_text(json.dumps(two))
    path = tmp_path / "cases.yaml"
    path.write_text(
        HEAD + "  - {name: Two, data: [{file: two.json}], expect: {tier: none}}\n"
        "  - {name: None, data: [], expect: {tier: none}}\n"
    )
    cases = load_cases_file(path, "electrolyte", screener.rulesets)
    first, second = run(screener, cases)
    assert first.failures[0].kind == "error"
    assert first.failures[0].message == "could not be assessed: 2 patients instead of one"
    assert first.assessment is None
    assert second.passed


def test_a_failure_of_the_engine_is_internal_and_never_a_passed_case(rulesets: Rulesets) -> None:
    class Broken(Screener):
        def assess(self, record: Any, as_of: int) -> Any:
            raise EngineError("the engines differ")

    case = Case("x", 0, (), Expect(tier="none"), "cases.yaml", 1)
    found = run_case(Broken(rulesets), case)
    assert [f.kind for f in found.failures] == ["internal"]
    assert not found.passed


def test_a_rule_that_a_site_leaves_out_fails_its_case_with_the_reason(tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(
        "site: our-hospital\ntitle: Ours\nversion: 1.0.0\n"
        "disable:\n  - {rule: hyponatremia-mild, reason: handled by the ward}\n"
    )
    rulesets = load_rulesets(site=site)
    path = tmp_path / "cases.yaml"
    path.write_text(
        HEAD + "  - name: x\n    data: [{lab: sodium 133}, {symptom: cramp}]\n"
        "    expect: {fires: [hyponatremia-mild]}\n"
        "  - name: other\n    data: []\n    expect: {not: [hyponatremia-mild]}\n"
    )
    first, second = run(Screener(rulesets), load_cases_file(path, "electrolyte", rulesets))
    (failure,) = first.failures
    assert failure.why == ("disabled by site 'our-hospital': handled by the ward",)
    assert second.passed


# ------------------------------------------------------------ whose findings a case speaks of


@pytest.mark.parametrize(
    ("group", "expect"),
    [
        ("electrolyte", "tier: emergency, patient_tier: emergency"),
        ("other", "tier: none, shows: [], patient_tier: emergency"),
    ],
)
def test_a_case_speaks_of_the_findings_of_its_own_group(
    screener: Screener, tmp_path: Path, group: str, expect: str
) -> None:
    path = tmp_path / "cases.yaml"
    path.write_text(f"{HEAD}  - name: x\n    data: [{{{LOW[0]}}}]\n    expect: {{{expect}}}\n")
    (case,) = load_cases_file(path, group, screener.rulesets)
    assert run_case(screener, case).failures == ()
    (failure,) = run_case(screener, replace(case, expect=Expect(patient_tier="none"))).failures
    assert failure.message == "the patient tier should be none and is emergency"
