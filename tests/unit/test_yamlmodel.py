"""Faults of a file's shape: each with its line, and in words that help its author."""

from __future__ import annotations

from pathlib import Path

import pytest

from cds.errors import RuleError
from cds.rulefile import RuleFile
from cds.yamlmodel import load_model

FILE = """\
group: trial
title: Rules for trying
version: 1.0.0
rules:
  - id: low
    title: Low potassium
    review: draft
    tier: urgent
    family: hypokalemia
    when:
      - {lab: potassium, lt: 3.0, unit: mmol/L, within: P7D}
      - any:
          - {symptom: cramp, within: P30D}
          - all:
              - {lab: potassium, laboratory: below}
    evidence: [{source: A guideline, statement: below 3.0 is low}]
    card: {summary: Low, detail: It is low., patient: Call your doctor today.}
"""


def faults(path: Path, text: str) -> list[str]:
    """What is said of a file, each with the line it is said of."""
    path.write_text(text, encoding="utf-8")
    errors: list[RuleError] = []
    model, _ = load_model(RuleFile, path, errors)
    assert (model is None) == bool(errors)
    return [f"{e.line}: {e.message}" for e in errors]


def test_a_file_of_the_right_shape_is_read_with_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(FILE, encoding="utf-8")
    errors: list[RuleError] = []
    model, lines = load_model(RuleFile, path, errors)
    assert errors == []
    assert model is not None
    assert lines is not None
    assert [rule.id for rule in model.rules] == ["low"]
    assert lines.of(("rules", 0, "when", 1)) == 12


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        # an unknown key names the nearest key of that very place
        ("title: Rules", "titel: Rules", "2: unknown key 'titel'; did you mean 'title'?"),
        ("family", "famly", "9: rules.0: unknown key 'famly'; did you mean 'family'?"),
        (
            "lt: 3.0, unit",
            "lt: 3.0, unitt",
            "11: rules.0.when.0: unknown key 'unitt'; did you mean 'unit'?",
        ),
        (
            "cramp, within",
            "cramp, withn",
            "13: rules.0.when.1.any.0: unknown key 'withn'; did you mean 'within'?",
        ),
        (
            "laboratory: below",
            "laboratry: below",
            "15: rules.0.when.1.any.1.all.0: unknown key 'laboratry'; did you mean 'laboratory'?",
        ),
        ("family", "colour", "9: rules.0: unknown key 'colour'"),
        ("cramp, within", "cramp, over", "13: rules.0.when.1.any.0: unknown key 'over'"),
        ("source: A", "sources: A", "16: rules.0.evidence.0: unknown key 'sources'"),
        # an unknown word names the nearest word that may stand there
        (
            "tier: urgent",
            "tier: urgnt",
            "8: rules.0.tier: 'urgnt' is none of info, routine, soon, urgent, emergency; "
            "did you mean 'urgent'?",
        ),
        ("review: draft", "review: 7", "7: rules.0.review: '7' is none of draft, under-review"),
        ("below}", "belw}", "15: rules.0.when.1.any.1.all.0.laboratory: 'belw' is none of below"),
        ("{lab: potassium, lt", "{labb: potassium, lt", "11: rules.0.when.0: a criterion needs"),
        ("{lab: potassium, lt", "{labb: potassium, lt", "(for 'labb'; did you mean 'lab'?)"),
        # and the rest is said without the words of a programmer
        ("version: 1.0.0", "version: one", "3: version: 'one': write three numbers: 1.0.0"),
        ("within: P7D", "within: 7 days", "'7 days': write whole weeks, days or hours"),
        ("id: low", "id: Low_K", "5: rules.0.id: 'Low_K': write small letters, digits"),
        ("title: Low potassium", "title: 3.0", "6: rules.0: 'title' must be text; put a number"),
        ("    review: draft\n", "", "5: rules.0: key 'review' is missing"),
        ("card: {", "card: [{", None),
        ("evidence: [{source: A", "evidence: {source: A", None),
        ("lt: 3.0", "lt: three", "11: rules.0.when.0.lt: input should be a valid decimal"),
    ],
)
def test_a_fault_is_said_with_its_line_and_what_was_likely_meant(
    tmp_path: Path, old: str, new: str, said: str | None
) -> None:
    assert FILE.count(old) == 1
    found = faults(tmp_path / "rules.yaml", FILE.replace(old, new))
    if said is None:  # not YAML any more
        assert "not valid YAML" in found[0]
    else:
        assert any(said in fault for fault in found), found


def test_a_list_that_is_empty_or_none_is_said(tmp_path: Path) -> None:
    evidence = "[{source: A guideline, statement: below 3.0 is low}]"
    path = tmp_path / "rules.yaml"
    assert faults(path, FILE.replace(evidence, "[]")) == [
        "16: rules.0.evidence: needs at least one entry"
    ]
    assert faults(path, FILE.replace(evidence, "none")) == ["16: rules.0.evidence: must be a list"]
    assert faults(path, "- a list\n") == ["1: must be keys with values (key: value)"]


def test_a_list_of_one_faulty_entry_is_not_called_empty_as_well(tmp_path: Path) -> None:
    text = FILE.replace("source: A guideline, statement", "source: A guideline, year: x, statement")
    (fault,) = faults(tmp_path / "rules.yaml", text)
    assert fault.startswith("16: rules.0.evidence.0.year:")


def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    text = FILE.replace("tier: urgent", "tier: high").replace("lt: 3.0", "below: 3.0")
    assert len(faults(tmp_path / "rules.yaml", text)) == 2


def test_a_file_that_is_no_yaml_gives_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("group: trial\n  title: x\n", encoding="utf-8")
    errors: list[RuleError] = []
    assert load_model(RuleFile, path, errors) == (None, None)
    assert str(errors[0]).startswith(f"{path}:2:8: not valid YAML: mapping values are not")
