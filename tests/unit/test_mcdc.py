"""Coverage by criterion: what cases have tried, and cases for what they have not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from cds import Screener
from cds.cases import load_cases_file
from cds.harness import CaseResult, run, run_case
from cds.mcdc import Coverage, OpenCriterion, measure, suggest
from cds.program import leaves
from cds.rules import Rulesets, load_rulesets
from trial_rules import AS_OF, expecting, loaded, patient, rule, written


@pytest.fixture(scope="module")
def shipped() -> Rulesets:
    return load_rulesets()


def results(rulesets: Rulesets, *patients: Sequence[str]) -> list[CaseResult]:
    """Patients of these lines, who are expected to be without any finding."""
    screener, expect = Screener(rulesets), expecting(tier="none")
    return [run_case(screener, patient(*lines, expect=expect)) for lines in patients]


def covered(rulesets: Rulesets, *patients: Sequence[str]) -> Coverage:
    return measure(results(rulesets, *patients), rulesets)


def left(coverage: Coverage) -> dict[str, str]:
    return {f"{o.rule}/{o.where}": o.lacks for o in coverage.open}


LOW = "{lab: potassium, lt: 3.0, unit: mmol/L}"
CRAMP, PREGNANCY = "{symptom: cramp}", "{condition: pregnancy}"
K_LOW, K_NORMAL = "lab: potassium 2.9 mmol/L", "lab: potassium 3.0 mmol/L"
HAS_CRAMP, NO_CRAMP = "symptom: cramp", "denies: cramp"
PREGNANT, NOT_PREGNANT = "condition: pregnancy", "denies: pregnancy"


def test_a_criterion_is_covered_once_it_was_true_false_and_unknown(shipped: Rulesets) -> None:
    coverage = covered(loaded(shipped, rule("low", LOW)), [K_LOW], [K_NORMAL], [])
    assert (coverage.total, coverage.covered, coverage.percent) == (1, 1, 100)
    assert coverage.open == ()
    assert coverage.by_rule["low"].total == coverage.by_rule["low"].covered == 1


@pytest.mark.parametrize(
    ("patients", "lacks"),
    [
        ([[K_LOW], [K_NORMAL]], "never seen unknown"),
        ([[K_LOW], []], "never seen false"),
        ([[K_NORMAL], []], "never seen true"),
        (
            [],
            "never seen true, never seen false, never seen unknown, never decided while not true",
        ),
    ],
)
def test_what_was_never_seen_is_named(
    shipped: Rulesets, patients: list[list[str]], lacks: str
) -> None:
    assert left(covered(loaded(shipped, rule("low", LOW)), *patients)) == {"low/when.0": lacks}


def test_an_open_criterion_is_named_in_words_with_the_line_of_its_rule(tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    folder.mkdir()
    folder.joinpath("rules.yaml").write_text(written(rule("low", LOW)))
    (open_,) = measure([], load_rulesets(tmp_path)).open
    assert (open_.rule, open_.where) == ("low", "when.0")
    assert open_.criterion == "potassium < 3.0 mmol/L, at most 7 days old"
    assert open_.path == str(folder / "rules.yaml")
    lines = folder.joinpath("rules.yaml").read_text().splitlines()
    assert "id: low" in lines[open_.line - 1]


def test_of_two_criteria_that_hold_at_once_neither_decides_an_any(shipped: Rulesets) -> None:
    rules = loaded(shipped, rule("low", f"any: [{LOW}, {CRAMP}]"))
    patients = ([K_NORMAL], [], [NO_CRAMP], [K_LOW, HAS_CRAMP])
    never = "never decided while true"
    assert left(covered(rules, *patients)) == {"low/when.0.any.0": never, "low/when.0.any.1": never}
    assert left(covered(rules, *patients, [K_LOW])) == {"low/when.0.any.1": never}


def test_a_criterion_of_an_all_decides_only_where_the_others_hold(shipped: Rulesets) -> None:
    rules = loaded(shipped, rule("low", LOW, PREGNANCY))
    never = "never decided while not true"
    coverage = covered(rules, [K_LOW, PREGNANT], [K_NORMAL], [NOT_PREGNANT], [])
    assert left(coverage) == {"low/when.0": never, "low/when.1": never}
    each = ([K_LOW, PREGNANT], [K_NORMAL, PREGNANT], [K_LOW, NOT_PREGNANT], [])
    assert covered(rules, *each).percent == 100


def test_a_criterion_of_unless_decides_only_where_when_holds(shipped: Rulesets) -> None:
    rules = loaded(shipped, rule("low", LOW, more=f"\n    unless:\n      - {PREGNANCY}"))
    patients = ([K_LOW], [K_NORMAL], [], [PREGNANT], [NOT_PREGNANT])
    assert left(covered(rules, *patients)) == {"low/unless.0": "never decided while true"}
    assert covered(rules, *patients, [K_LOW, PREGNANT]).percent == 100


@pytest.mark.parametrize(
    ("criterion", "asked"),
    [
        ("{sex: male}", {"yes", "no"}),
        ("{no_result: magnesium, within: P90D}", {"yes", "no"}),
        ("{quality: implausible}", {"yes", "no"}),
        ("{history: tremor}", {"yes", "unknown"}),
        ("{medication: loop-diuretic}", {"yes", "unknown"}),
        ("{medication: loop-diuretic, started_within: P30D}", {"yes", "no", "unknown"}),
        ("{symptom: twitching}", {"yes", "no", "unknown"}),
        ("{condition: pregnancy}", {"yes", "no", "unknown"}),
        ("{age: years, ge: 65}", {"yes", "no", "unknown"}),
        ("{rise: potassium, gt: 0.5, unit: mmol/L, over: PT12H}", {"yes", "no", "unknown"}),
        ("{finding: of-a-result}", {"yes", "no", "unknown"}),
        ("{finding: of-a-symptom}", {"yes", "no", "unknown"}),
        ("{finding: of-a-medicine}", {"yes", "no"}),
        ("{finding: of-no-result}", {"yes", "no"}),
    ],
)
def test_only_states_that_are_possible_are_asked_for(
    shipped: Rulesets, criterion: str, asked: set[str]
) -> None:
    step = "\n    step: true"
    rules = loaded(
        shipped,
        rule("asking", criterion, tier="info", more=step),
        rule("of-a-result", LOW, tier="info", more=step),
        rule("of-a-symptom", CRAMP, tier="info", more=step),
        rule("of-a-medicine", "{medication: loop-diuretic}", tier="info", more=step),
        rule("of-no-result", "{no_result: magnesium, within: P90D}", tier="info", more=step),
    )
    open_ = next(o for o in measure([], rules).open if o.rule == "asking")
    assert set(open_.duties) == {*asked, "decides-not"}


def test_companions_and_rules_that_stand_in_are_left_out(shipped: Rulesets) -> None:
    coverage = measure([], shipped)
    written = [
        r for r in shipped.program.rules if not r.rule.recheck_of and not r.rule.stands_in_from
    ]
    assert set(coverage.by_rule) == {r.rule.id for r in written}
    assert len(written) < len(shipped.program.rules)
    assert coverage.total == sum(len([*leaves(r.when), *leaves(r.unless)]) for r in written)


def test_a_case_that_fails_has_tried_its_criteria_all_the_same(shipped: Rulesets) -> None:
    rules = loaded(shipped, rule("low", LOW))
    tried = results(rules, [K_LOW], [K_NORMAL], [])
    assert not tried[0].passed  # it fires, and is expected not to
    assert measure(tried, rules).percent == 100


def test_a_case_that_could_not_be_assessed_has_tried_nothing(shipped: Rulesets) -> None:
    rules = loaded(shipped, rule("low", LOW))
    unknown = results(rules, ["lab: unheard-of 2.9 mmol/L"])
    assert unknown[0].assessment is None
    assert measure(unknown, rules).covered == 0


@pytest.mark.slow
def test_the_cases_suggested_for_what_is_open_cover_every_criterion_of_the_shipped_rules(
    shipped: Rulesets, tmp_path: Path
) -> None:
    screener = Screener(shipped)

    def ours(coverage: Coverage) -> list[OpenCriterion]:
        rules = shipped.program.by_id
        return [o for o in coverage.open if rules[o.rule].group == "electrolyte"]

    open_ = ours(measure([], shipped))
    assert len(open_) > 200
    suggested = [suggest(screener, o, AS_OF) for o in open_]
    assert None not in suggested
    text = "cases:\n" + "".join(filter(None, suggested))
    numbers = iter(range(text.count("- name:")))
    path = tmp_path / "cases.yaml"
    path.write_text(re.sub(r"(?m)^  - name: .*$", lambda _: f"  - name: c{next(numbers)}", text))
    tried = list(run(screener, load_cases_file(path, "electrolyte", shipped)))
    assert [str(f) for r in tried for f in r.failures] == []
    assert ours(measure(tried, shipped)) == []


def test_a_suggestion_reads_as_an_author_would_write_it(shipped: Rulesets) -> None:
    rules = loaded(shipped, rule("low", LOW, PREGNANCY))
    open_ = measure([], rules).open[0]
    text = suggest(Screener(rules), open_, AS_OF)
    assert text is not None
    assert text.startswith(
        """\
  - name: low fires with potassium 2.9 mmol/L and pregnancy
    as_of: 2026-11-01T00:00:00Z
    data:
      - lab: potassium 2.9 mmol/L now
      - condition: pregnancy
    expect:
      fires: [low]
      tier: urgent
"""
    )


def test_for_a_criterion_that_cannot_decide_there_is_no_case_that_makes_it(
    shipped: Rulesets,
) -> None:
    # Whatever is below 2.5 is below 3.0 as well.
    lower = "{lab: potassium, lt: 2.5, unit: mmol/L}"
    rules = loaded(shipped, rule("low", f"any: [{LOW}, {lower}]"))
    seen = covered(rules, [K_LOW], ["lab: potassium 2.4 mmol/L"], [K_NORMAL], [])
    (open_,) = seen.open
    assert (open_.where, open_.lacks) == ("when.0.any.1", "never decided while true")
    assert suggest(Screener(rules), open_, AS_OF) is None
