"""`cds rules --coverage`: what of the sources is implemented, left out, or missing."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import yaml

from cds import Rulesets, load_rulesets
from cds.coverage import coverage, rows
from cds.errors import RuleError
from cds.shipped import shipped

SOURCES = """\
version: 1.0.0
claims:
  - {id: X-01, text: A claim}
  - {id: X-02, text: Another, scope: out, scope_reason: not our matter}
  - {id: X-03, text: One more, scope: out}
  - {id: X-04, text: "About cards, not patients", disagreement: X-01 says otherwise}
  - {id: X-05, text: A product}
"""
REVIEWED = """\
by_feature:
  - {ids: [X-04], feature: cards for two audiences, where: cds screen --audience}
not_covered:
  - {ids: [X-05], reason: promotion, reviewed: 2026-11-01}
"""
RULE = """\
group: trial
title: Trial
version: 1.0.0
rules:
  - id: small
    title: A cramp
    review: draft
    tier: info
    when: [{symptom: cramp}]
    covers: [X-04]
    evidence: [{source: Ourselves, statement: we think so}]
    card: {summary: Cramp, detail: Look., patient: Ask.}
"""
TABLES = {
    "claims": "claim_id",
    "red_flags": "id",
    "medication_rules": "rule_id",
}


@pytest.fixture(scope="module")
def shipped_rules() -> Rulesets:
    return load_rulesets()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "claims.yaml").write_text(SOURCES, encoding="utf-8")
    return tmp_path


def review(folder: Path, text: str) -> None:
    (folder / "coverage.yaml").write_text(text, encoding="utf-8")


# ------------------------------------------------------------ how rows are decided


def test_rows_are_covered_left_out_or_missing(folder: Path, shipped_rules: Rulesets) -> None:
    review(folder, REVIEWED)
    found = coverage(shipped_rules, folder)
    assert list(found) == ["covered", "not_covered", "missing"]
    assert "hypokalemia-severe" in found["covered"]["RF27"]
    assert found["covered"]["X-04"] == ["feature: cards for two audiences"]
    assert found["not_covered"]["X-02"] == "not our matter"
    assert found["not_covered"]["X-03"] == "out of scope"
    assert found["not_covered"]["X-05"] == "promotion"
    assert [id_ for id_ in found["missing"] if id_.startswith("X-")] == ["X-01"]


def test_a_rule_and_a_feature_may_share_a_row(folder: Path) -> None:
    review(folder, REVIEWED)
    (folder / "trial").mkdir()
    (folder / "trial" / "rules.yaml").write_text(RULE, encoding="utf-8")
    found = coverage(load_rulesets(folder), folder)
    assert found["covered"]["X-04"] == ["small", "feature: cards for two audiences"]


def test_a_limit_that_stands_with_the_analytes_is_covered_by_that_file(
    shipped_rules: Rulesets,
) -> None:
    covered = coverage(shipped_rules)["covered"]
    assert [id_ for id_, rules in covered.items() if "analytes.yaml" in rules]


def test_questions_of_the_intake_cover_rows_at_any_depth(
    folder: Path, shipped_rules: Rulesets
) -> None:
    text = "covers: [X-01]\nitems:\n  - url: u\n    parts:\n      - covers: [X-05, X-05]\n"
    (folder / "questionnaires.yaml").write_text(text, encoding="utf-8")
    covered = coverage(shipped_rules, folder)["covered"]
    assert covered["X-01"] == ["questionnaires.yaml"]
    assert covered["X-05"] == ["questionnaires.yaml"]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("not_covered:\n  - {ids: [X-99], reason: r, reviewed: 2026-11-01}\n", 2, "row X-99"),
        (
            "by_feature:\n  - ids: [X-01]\n    feature: f\n    where: w\n"
            "not_covered:\n  - ids: [X-05, X-01]\n    reason: r\n    reviewed: 2026-11-01\n",
            6,
            "X-01 stands twice; first on line 2",
        ),
        (
            "not_covered:\n  - {ids: [RF27], reason: r, reviewed: 2026-11-01}\n",
            2,
            "RF27 is left out here and covered by ",
        ),
        ("not_covered:\n  - {ids: [X-01], reason: r, reviewed: today}\n", 2, "reviewed"),
        ("not_covered:\n  - {ids: [], reason: r, reviewed: 2026-11-01}\n", 2, "at least one"),
        ("left_out: []\n", 1, "unknown key 'left_out'"),
    ],
)
def test_a_faulty_review_is_refused_with_its_line(
    folder: Path, shipped_rules: Rulesets, text: str, line: int, message: str
) -> None:
    review(folder, text)
    with pytest.raises(RuleError, match=re.escape(message)) as refused:
        coverage(shipped_rules, folder)
    assert refused.value.line == line
    assert refused.value.path.endswith("coverage.yaml")


def test_an_unknown_row_of_a_question_is_refused_with_its_line(
    folder: Path, shipped_rules: Rulesets
) -> None:
    path = folder / "questionnaires.yaml"
    path.write_text("questionnaires:\n  - url: u\n    covers: [X-98]\n", encoding="utf-8")
    with pytest.raises(RuleError, match=r"the row X-98") as refused:
        coverage(shipped_rules, folder)
    assert refused.value.line == 3


def test_two_rows_of_one_id_are_refused(folder: Path) -> None:
    (folder / "sources" / "more.yaml").write_text("claims:\n  - {id: X-01}\n", encoding="utf-8")
    with pytest.raises(RuleError, match="the row X-01 stands twice"):
        rows(folder)


def test_a_file_of_sources_that_is_none_is_refused_with_its_name(folder: Path) -> None:
    (folder / "sources" / "list.yaml").write_text("- S0-01\n", encoding="utf-8")
    with pytest.raises(RuleError, match=r"list\.yaml: a file of sources holds keys"):
        rows(folder)


# ------------------------------------------------------------ the shipped rules


def table(clinical_data: Path, name: str) -> list[dict[str, str]]:
    with (clinical_data / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_nothing_is_missing(shipped_rules: Rulesets) -> None:
    assert coverage(shipped_rules)["missing"] == []


def test_every_row_of_the_tables_is_decided_exactly_once(
    clinical_data: Path, shipped_rules: Rulesets
) -> None:
    found = coverage(shipped_rules)
    named = [*found["covered"], *found["not_covered"], *found["missing"]]
    assert len(named) == len(set(named))
    wanted = {row[key] for name, key in TABLES.items() for row in table(clinical_data, name)}
    wanted |= {f"TH-{n:03}" for n, _ in enumerate(table(clinical_data, "thresholds"), 1)}
    assert set(named) == wanted


@pytest.mark.parametrize("name", ["red_flags", "medication_rules", "thresholds"])
def test_the_sources_say_what_the_tables_say_of_scope_tier_and_gate(
    clinical_data: Path, name: str
) -> None:
    path = shipped("rulesets") / "sources" / f"{name}.yaml"
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))[name]
    for row, entry in zip(table(clinical_data, name), entries, strict=True):
        id_ = row[TABLES[name]] if name in TABLES else entry["id"]
        tier = row.get("severity_tier") or row.get("urgency_tier")
        assert (entry["id"], entry["scope"]) == (id_, row["scope"])
        assert entry.get("tier") == ("info" if tier == "self-care" else tier), id_
        for column in ("scope_reason", "gate"):  # worded in our spelling
            assert bool(entry.get(column)) is bool(row[column]), (id_, column)


def test_where_the_sources_disagree_the_answer_taken_is_said(
    clinical_data: Path, shipped_rules: Rulesets
) -> None:
    disagreed = {r["claim_id"] for r in table(clinical_data, "claims") if r["disagreement"]}
    disagreed |= {r["id"] for r in table(clinical_data, "red_flags") if r["seed_disagreement"]}
    unsaid(disagreed, shipped_rules)


def test_where_the_shipped_sources_disagree_the_answer_taken_is_said(
    shipped_rules: Rulesets,
) -> None:
    disagreed = {id_ for id_, row in rows().items() if row.disagreement}
    assert len(disagreed) > 100
    unsaid(disagreed, shipped_rules)


def unsaid(disagreed: set[str], rulesets: Rulesets) -> None:
    """Fail where a disputed row is covered only by rules that do not say why they are so."""
    covered = coverage(rulesets)["covered"]
    by_id = {rule.id: rule for file in rulesets.files for rule in file.rules}
    for id_ in sorted(disagreed & covered.keys()):
        makers = [by_id[name] for name in covered[id_] if name in by_id]
        if len(makers) < len(covered[id_]):  # a feature, the analytes or a question
            continue
        # An answer that names no source needs its reason; one with a source has it as evidence.
        said = [r.note or [e for e in r.evidence if not e.from_knowledge] for r in makers]
        assert any(said), f"{id_}: the sources disagree, and {covered[id_]} do not say why so"
