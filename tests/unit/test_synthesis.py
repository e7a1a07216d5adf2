"""Patients made for rules: as few statements as needed, and each criterion judged as wanted."""

from __future__ import annotations

import pytest

from cds import Screener
from cds.fhir import ReadLog
from cds.forms import Form, Patient
from cds.harness import run_case
from cds.program import CompiledRule
from cds.rules import Rulesets, load_rulesets
from cds.synthesis import Goal, Synthesizer, Wanted, places
from trial_rules import AS_OF, loaded, patient, rule

LOW = "{lab: potassium, lt: 3.0, unit: mmol/L}"


@pytest.fixture(scope="module")
def shipped() -> Rulesets:
    return load_rulesets()


def lines(forms: tuple[Form, ...] | None) -> list[str] | None:
    return None if forms is None else [form.line().removeprefix("- ") for form in forms]


def firing(rulesets: Rulesets, id_: str = "trial") -> list[str] | None:
    """The lines of the first patient for whom a rule fires, tried by assessing it."""
    synthesizer = Synthesizer(Screener(rulesets))
    goals = synthesizer.goals.fires(rulesets.program.by_id[id_])
    found = synthesizer.find(goals, AS_OF, lambda _, a: id_ in a.fired)
    return lines(found[0]) if found else None


@pytest.mark.parametrize(
    ("criteria", "forms"),
    [
        ([LOW], ["lab: potassium 2.9 mmol/L now"]),
        (["{lab: potassium, le: 3.0, unit: mmol/L}"], ["lab: potassium 3 mmol/L now"]),
        (["{lab: potassium, gt: 5.5, unit: mmol/L}"], ["lab: potassium 5.6 mmol/L now"]),
        (["{lab: sodium, lt: 130, unit: mmol/L}"], ["lab: sodium 129 mmol/L now"]),
        (
            [LOW, "{lab: potassium, ge: 2.5, unit: mmol/L}"],
            ["lab: potassium 2.5 mmol/L now"],
        ),
        (
            ["{lab: potassium, lt: 3.0, unit: mmol/L, within: P30D, older_than: P7D}"],
            ["lab: potassium 2.9 mmol/L 30 days ago"],
        ),
        (
            ["{lab: potassium, laboratory: critical-low}"],
            ["{lab: potassium 3 mmol/L now, flag: LL}"],
        ),
        (["{lab: creatine-kinase-ratio, ge: 4, unit: '1'}"], ["lab: creatine-kinase 800 U/L now"]),
        (
            ["{rise: potassium, gt: 0.5, unit: mmol/L, over: PT12H}"],
            ["lab: potassium 3.7 mmol/L 12 hours ago", "lab: potassium 4.3 mmol/L now"],
        ),
        (["{no_result: magnesium, within: P90D}"], []),
        (["{symptom: cramp, longer_than: P14D}"], ["symptom: cramp for 15 days"]),
        (["{symptom: cramp, within: P14D}"], ["symptom: cramp"]),
        (
            ["{condition: pregnancy}", "{symptom: cramp}"],
            ["symptom: cramp", "condition: pregnancy"],
        ),
        (["{lifestyle: smoking}"], ["lifestyle: smoking"]),
        (["{history: tremor}"], ["history: tremor"]),
        (["{medication: loop-diuretic}"], ["takes: loop-diuretic"]),
        (
            ["{medication: loop-diuretic, started_within: P2W}"],
            ["takes: loop-diuretic for 14 days"],
        ),
        (
            [
                "{medication: loop-diuretic, changed_within: P8W}",
                "{medication: loop-diuretic, longer_than: P90D}",
            ],
            [
                "{takes: loop-diuretic for 421 days, dose: 10 mg daily, until: 56 days ago}",
                "{takes: loop-diuretic for 56 days, dose: 20 mg daily}",
            ],
        ),
        (["{sex: male}"], ["patient: male, 50 years"]),
        (["{sex: unknown}"], []),
        (["{age: years, ge: 65}"], ["patient: unknown sex, 65 years"]),
        (["{age: years, lt: 50}", "{sex: female}"], ["patient: female, 49 years"]),
        (["{quality: implausible, lab: potassium}"], ["lab: potassium 15.1 mmol/L now"]),
        (
            ["any: [{rise: potassium, gt: 0.5, unit: mmol/L, over: PT12H}, {symptom: cramp}]"],
            ["symptom: cramp"],
        ),
    ],
)
def test_a_rule_fires_for_the_shortest_patient_at_its_limit(
    shipped: Rulesets, criteria: list[str], forms: list[str]
) -> None:
    # Another rule with both limits of potassium, so that there is a value that nobody asks about.
    limits = rule("limits", "{lab: potassium, lt: 3.0, unit: mmol/L}")
    assert firing(loaded(shipped, rule("trial", *criteria), limits)) == forms


def test_every_shipped_rule_fires_for_some_patient_without_any_problem(shipped: Rulesets) -> None:
    screener = Screener(shipped)
    synthesizer = Synthesizer(screener)
    for compiled in shipped.program.rules:
        if compiled.rule.stands_in_from:
            continue
        id_ = compiled.rule.id
        goals = synthesizer.goals.fires(compiled)
        found = synthesizer.find(goals, AS_OF, lambda _, a, id_=id_: id_ in a.fired)
        assert found is not None, id_
        severities = {p.severity for p in found[1].evaluation.problems}
        assert "error" not in severities or id_ == "implausible-result", id_


def test_a_finding_is_reached_by_its_shortest_rule(shipped: Rulesets) -> None:
    rules = loaded(
        shipped,
        rule("long", LOW, "{symptom: cramp}", more="\n    finding: reached"),
        rule("short", "{symptom: tremor}", more="\n    finding: reached"),
        rule("trial", "{finding: reached}"),
    )
    assert firing(rules) == ["symptom: tremor"]


def test_what_unless_names_stays_away(shipped: Rulesets) -> None:
    no_test = "{no_result: magnesium, within: P90D}"
    rules = loaded(
        shipped,
        rule("first", "{symptom: cramp}", no_test),
        rule("trial", "{symptom: cramp}", more="\n    unless:\n      - {finding: first}"),
        rule("magnesium", "{lab: magnesium, lt: 0.7, unit: mmol/L}"),
    )
    assert firing(rules) == ["lab: magnesium 0.85 mmol/L now", "symptom: cramp"]


def test_no_patient_is_given_for_what_cannot_be(shipped: Rulesets) -> None:
    rules = loaded(shipped, rule("trial", LOW, "{lab: potassium, gt: 5.5, unit: mmol/L}"))
    assert firing(rules) is None


def test_findings_in_a_circle_lead_to_no_patient_and_to_an_end(shipped: Rulesets) -> None:
    rules = loaded(shipped, rule("trial", "{finding: other}"), rule("other", "{finding: trial}"))
    assert firing(rules) is None


def place(compiled: CompiledRule, where: str) -> Wanted:
    found = next(p for p in places(compiled) if p.where == where)
    return Wanted(found.node, "yes")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("criterion", "want", "forms"),
    [
        ("{symptom: cramp}", "no", ["denies: cramp now"]),
        ("{symptom: cramp}", "unknown", []),
        ("{symptom: cramp, within: P14D}", "no", ["symptom: cramp for 15 days"]),
        # A set of other sets is denied by denying each of them.
        (
            "{symptom: weakness}",
            "no",
            [
                "denies: muscle-weakness now",
                "denies: limb-weakness now",
                "denies: proximal-weakness now",
                "denies: distal-weakness now",
                "denies: hand-weakness now",
            ],
        ),
        ("{lab: potassium, lt: 3.0, unit: mmol/L}", "no", ["lab: potassium 3 mmol/L now"]),
        ("{lab: potassium, lt: 3.0, unit: mmol/L}", "unknown", []),
        ("{medication: loop-diuretic, started_within: P2W}", "no", ["takes: loop-diuretic"]),
        ("{no_result: potassium, within: P90D}", "no", ["lab: potassium 3.7 mmol/L now"]),
        ("{sex: male}", "no", []),
        ("{age: years, ge: 65}", "unknown", ["patient: unknown sex, unknown age"]),
        ("{age: years, ge: 65}", "no", []),
        ("{symptom: cramp}", "unusable", ["symptom: cramp in 2 days"]),
    ],
)
def test_a_criterion_can_be_had_in_each_of_its_states(
    shipped: Rulesets, criterion: str, want: str, forms: list[str]
) -> None:
    rules = loaded(shipped, rule("trial", criterion), rule("limits", LOW))
    leaf = place(rules.program.by_id["trial"], "when.0").leaf
    goal: Goal = (Wanted(leaf, want),)  # type: ignore[arg-type]
    synthesizer = Synthesizer(Screener(rules))
    found = synthesizer.find([goal], AS_OF, lambda _, a: _state(a, leaf) == want)
    assert found is not None
    assert lines(found[0]) == forms


def _state(assessment: object, leaf: object) -> str:
    trace = assessment.judge()(leaf)  # type: ignore[attr-defined]
    return "unusable" if trace.reason == "future" else str(trace.state)


def test_a_code_is_chosen_that_does_not_bring_what_must_stay_away(shipped: Rulesets) -> None:
    rules = loaded(
        shipped,
        rule(
            "trial",
            "{symptom: twitching}",
            more="\n    unless:\n      - {symptom: fasciculation}",
        ),
    )
    (line,) = firing(rules) or [""]
    assert line.startswith("symptom: ")
    case = patient(line.replace('"', ""))
    records = list(Screener(rules).reader.read(case.bundle(shipped.terminology), ReadLog()))
    concepts = {p.concept for p in records[0].presences}
    assert "twitching" in concepts
    assert "fasciculation" not in concepts


@pytest.mark.parametrize(
    ("forms", "name"),
    [
        ([], "trial does not fire for a patient of whom nothing is recorded"),
        (["symptom: cramp"], "trial does not fire with cramp"),
        (
            ["lab: potassium 2.9 mmol/L, flag: LL", "denies: cramp", "takes: loop-diuretic"],
            "trial fires with potassium 2.9 mmol/L (flag LL), no cramp and taking loop-diuretic",
        ),
    ],
)
def test_a_case_is_named_by_what_it_shows(shipped: Rulesets, forms: list[str], name: str) -> None:
    screener = Screener(loaded(shipped, rule("trial", LOW)))
    case = patient(*forms)
    assessment = run_case(screener, case).assessment
    assert assessment is not None
    text = Synthesizer(screener).case(case.forms, assessment, "trial")
    assert text.splitlines()[0] == f"  - name: {name}"


def test_the_age_of_a_case_that_names_none_is_the_one_that_is_reckoned_with(
    shipped: Rulesets,
) -> None:
    screener = Screener(loaded(shipped, rule("trial", "{age: years, le: 50}")))
    assert run_case(screener, patient()).assessment.fired == {"trial"}  # type: ignore[union-attr]
    screener = Screener(loaded(shipped, rule("trial", "{age: years, le: 49}")))
    assert firing(screener.rulesets) == ["patient: unknown sex, 49 years"]
    assert Patient(years=49).line() == "- patient: unknown sex, 49 years"
