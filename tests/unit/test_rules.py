"""Rule files: what a rule author writes, what is refused and how that is said."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from textwrap import dedent, indent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cds.errors import RuleErrors
from cds.program import GRID, grid_code, leaves
from cds.rules import Rulesets, load_rulesets

HEADER = """\
group: trial
title: Rules for trying
version: 1.0.0
recheck:
  title: "{title}: old result"
  summary: Old result
  detail: Repeat it.
  patient: Ask for a new blood test within two weeks.
  evidence: [{source: A guideline, statement: old results are repeated}]
rules:
"""

RULE = """\
- id: low
  title: Low potassium
  review: draft
  tier: urgent
  when:
    - {lab: potassium, lt: 3.0, unit: mmol/L}
  evidence: [{source: A guideline, statement: below 3.0 is low}]
  card: {summary: Low, detail: It is low., patient: Call your doctor today.}
"""


def load(tmp_path: Path, *rules: str) -> Rulesets:
    folder = tmp_path / "trial"
    folder.mkdir(exist_ok=True)
    body = "".join(indent(dedent(rule), "  ") for rule in rules)
    (folder / "rules.yaml").write_text(HEADER + body, encoding="utf-8")
    return load_rulesets(tmp_path)


def faults(tmp_path: Path, *rules: str) -> str:
    with pytest.raises(RuleErrors) as error:
        load(tmp_path, *rules)
    return str(error.value)


@given(
    st.fractions(min_value=-50, max_value=2_000, max_denominator=10**7),
    st.integers(min_value=-50 * GRID, max_value=2_000 * GRID),
)
def test_a_grid_code_keeps_the_order_of_every_value_against_every_threshold(
    value: Fraction, steps: int
) -> None:
    threshold = Fraction(steps, GRID)
    assert (value < threshold) == (grid_code(value) < grid_code(threshold))
    assert (value <= threshold) == (grid_code(value) <= grid_code(threshold))
    assert (value > threshold) == (grid_code(value) > grid_code(threshold))
    assert (value >= threshold) == (grid_code(value) >= grid_code(threshold))


def test_a_threshold_is_read_exactly_as_written(tmp_path: Path) -> None:
    program = load(tmp_path, RULE).program
    (leaf,) = leaves(program.by_id["low"].when)
    assert leaf.atoms[0].tests[0].value == grid_code(Decimal("3.0"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("tier: urgent", "tier: high", "rules.0.tier"),
        ("tier: urgent", "tier: urgent\n  colour: red", "unknown key"),
        ("tier: urgent", "tier: urgent\n  tier: soon", "twice"),
        ("lt: 3.0", "lt: 3.0, le: 3.1", "one comparator word"),
        (", lt: 3.0, unit: mmol/L", ", unit: mmol/L", "needs one of lt, le, gt, ge"),
        ("unit: mmol/L", "unit: mg/dL", "write the threshold of potassium in 'mmol/L'"),
        ("lab: potassium", "lab: potasium", "did you mean 'potassium'?"),
        ("lt: 3.0", "lt: 3.00001", "finer than"),
        ("{lab: potassium", "{labb: potassium", "a criterion needs one of"),
        ("  card:", "  cart:", "unknown key"),
        ("evidence: [{source: A guideline, statement: below 3.0 is low}]", "evidence: []", "evid"),
        ("- {lab: potassium, lt: 3.0, unit: mmol/L}", "- {symptom: hiccup-x}", "unknown value set"),
        ("- {lab: potassium, lt: 3.0, unit: mmol/L}", "- {finding: gone}", "no rule asserts it"),
    ],
)
def test_a_wrong_rule_is_refused_with_file_line_and_reason(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert old in RULE
    text = faults(tmp_path, RULE.replace(old, new))
    assert said in text
    assert "rules.yaml:" in text


def test_every_fault_of_a_file_is_named_at_once(tmp_path: Path) -> None:
    text = faults(tmp_path, RULE.replace("tier: urgent", "tier: high").replace("review: draft", ""))
    assert "tier" in text
    assert "review" in text


def test_an_id_is_used_once(tmp_path: Path) -> None:
    assert "already used" in faults(tmp_path, RULE, RULE)


def test_a_rule_whose_negation_depends_on_itself_is_refused(tmp_path: Path) -> None:
    other = RULE.replace("id: low", "id: other").replace(
        "when:\n", "unless: [{finding: low}]\n  when:\n"
    )
    circular = RULE.replace("when:\n", "unless: [{finding: other}]\n  when:\n")
    assert "cycle through 'unless'" in faults(tmp_path, circular, other)


def test_a_rule_stands_behind_the_rules_that_its_unless_names(tmp_path: Path) -> None:
    other = RULE.replace("id: low", "id: other").replace(
        "when:\n", "unless: [{finding: low}]\n  when:\n"
    )
    program = load(tmp_path, RULE, other).program
    assert program.by_id["low"].stratum < program.by_id["other"].stratum


def test_recheck_adds_a_companion_for_older_results(tmp_path: Path) -> None:
    program = load(tmp_path, RULE.replace("tier: urgent", "tier: urgent\n  recheck: true")).program
    companion = program.by_id["low-recheck"]
    assert companion.rule.tier == "soon"
    (leaf,) = leaves(companion.when)
    ages = {(t.op, t.value) for t in leaf.atoms[0].tests if t.prop == "age"}
    assert ages == {("le", 90 * 86_400)}
    assert [leaf.key for leaf in leaves(companion.unless)] == ["finding/low"]


def test_a_companion_builds_on_older_steps_too(tmp_path: Path) -> None:
    step = RULE.replace("id: low", "id: step").replace("tier: urgent", "tier: info\n  step: true")
    shown = RULE.replace("tier: urgent", "tier: urgent\n  recheck: true").replace(
        "{lab: potassium, lt: 3.0, unit: mmol/L}", "{finding: step}"
    )
    program = load(tmp_path, step, shown).program
    companion = program.by_id["low-recheck"]
    assert {leaf.key for leaf in leaves(companion.when)} == {"finding/step", "finding/step-recheck"}
    assert program.by_id["step-recheck"].rule.step


def test_the_digest_changes_with_the_rules(tmp_path: Path) -> None:
    before = load(tmp_path, RULE).digest
    assert load(tmp_path, RULE).digest == before
    assert load(tmp_path, RULE.replace("3.0, unit", "3.1, unit")).digest != before


def test_a_folder_without_rules_is_said(tmp_path: Path) -> None:
    with pytest.raises(RuleErrors, match=r"no <group>/rules\.yaml"):
        load_rulesets(tmp_path)
