"""What changed between two versions of rules: said in words, weighed, counted on patients."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from builders import AS_OF, Json, bundle, condition, lab, patient, statement, symptom
from cds import cli
from cds.diff import Change, CohortDiff, Version, compare, load_version
from cds.diff.layout import Report, markdown, to_dict, write_text
from cds.diff.words import word_diff
from cds.errors import RuleErrors, TerminologyError, UsageError
from cds.fhir import ReadLog
from cds.model import Tier
from cds.report import Page
from cds.rulefile import CardText, Evidence, Rule
from cds.rules import Rulesets, load_rulesets
from cds.screening import Screener, instant
from cds.shipped import shipped
from cds.terminology import (
    Analyte,
    CodeEntry,
    Limits,
    Slip,
    Terminology,
    ValueSet,
    load_terminology,
)
from small_rules import rules_of

HEAD = """\
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
LOW = """\
- id: low
  title: Low potassium
  tier: urgent
  family: potassium
  recheck: true
  when:
    - {lab: potassium, lt: 3.0, unit: mmol/L}
    - any:
        - {symptom: cramp}
        - {symptom: tremor, within: P7D}
  unless:
    - {condition: pregnancy}
  evidence: [{source: A guideline, statement: below 3.0 is low}]
  review: draft
  card:
    summary: Low
    detail: It is low. Look for the cause and repeat the test.
    patient: Call your doctor today.
"""
PLAIN = """\
- id: {id}
  title: Low {lab}
  tier: {tier}
  when: [{{lab: {lab}, lt: {limit}, unit: mmol/L}}]
  evidence: [{{source: A guideline, statement: that is low}}]
  review: draft
  card: {{summary: Low, detail: It is low., patient: Call your doctor today.}}
"""


@pytest.fixture(scope="module")
def base() -> Rulesets:
    return load_rulesets()


@pytest.fixture(scope="module", autouse=True)
def _shipped_terminology_is_read_once() -> Iterator[None]:
    """Folders that have only rules share it; nobody changes it."""
    alone = cache(load_terminology)

    def load(*folders: Path) -> Terminology:
        own = [f for f in folders if (f / "analytes.yaml").exists() or (f / "valuesets").exists()]
        return (alone if own == [shipped("rulesets")] else load_terminology)(*own)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cds.rules.load_terminology", load)
        yield


Make = Callable[..., Rulesets]


@pytest.fixture(scope="module")
def make(base: Rulesets) -> Make:
    """Rules of these texts, with the shipped terminology and card texts."""

    def make(*rules: str, head: str = HEAD, **more: Any) -> Rulesets:
        return rules_of(head + "".join(rules), base, **more)

    return make


def plain(id_: str, lab: str = "potassium", limit: str = "3.0", tier: str = "urgent") -> str:
    return PLAIN.format(id=id_, lab=lab, limit=limit, tier=tier)


def said(old: Rulesets, new: Rulesets) -> list[tuple[str, str, str | None, str | None]]:
    return [(c.where, c.what, c.old, c.new) for c in compare(old, new)]


# ------------------------------------------------------------ criteria


@pytest.mark.parametrize(
    ("old", "new", "change"),
    [
        pytest.param(
            "lt: 3.0",
            "lt: 3.5",
            ("when", "threshold", "potassium < 3.0 mmol/L", "potassium < 3.5 mmol/L"),
            id="a number moved",
        ),
        pytest.param(
            "lt: 3.0",
            "le: 3.0",
            ("when", "threshold", "potassium < 3.0 mmol/L", "potassium <= 3.0 mmol/L"),
            id="the same number with another comparator",
        ),
        pytest.param(
            "unit: mmol/L}",
            "unit: mmol/L, within: P30D}",
            (
                "when",
                "window",
                "potassium: at most 7 days old, as every result of it",
                "potassium: at most 30 days old",
            ),
            id="a window in place of the usual one of the test",
        ),
        pytest.param(
            ", within: P7D",
            "",
            ("when, any of", "window", "tremor: at most 7 days old", None),
            id="a window gone, inside any",
        ),
        pytest.param(
            "unit: mmol/L}",
            "unit: mmol/L, first_band: true}",
            ("when", "first_band", "potassium: no", "potassium: yes"),
            id="a flag of the criterion",
        ),
        pytest.param(
            "        - {symptom: cramp}\n",
            "        - {symptom: cramp}\n        - {symptom: fever}\n",
            ("when, any of", "criterion", None, "symptom: fever"),
            id="one more alternative",
        ),
        pytest.param(
            "- any:",
            "- all:",
            (
                "when",
                "criterion",
                "any of (symptom: muscle cramp; symptom: tremor, not known to be older than"
                " 7 days)",
                "all of (symptom: muscle cramp; symptom: tremor, not known to be older than"
                " 7 days)",
            ),
            id="any became all",
        ),
        pytest.param(
            "  unless:\n    - {condition: pregnancy}\n",
            "",
            ("unless", "criterion", "condition: pregnancy", None),
            id="an exclusion gone",
        ),
        pytest.param(
            "{condition: pregnancy}",
            "{sex: male}",
            ("unless", "criterion", "condition: pregnancy", None),
            id="an exclusion replaced",
        ),
    ],
)
def test_each_difference_of_criteria_is_said_in_words(
    old: str, new: str, change: tuple[str, str, str | None, str | None], make: Make
) -> None:
    assert LOW.count(old) == 1
    changes = compare(make(LOW), make(LOW.replace(old, new)))
    assert (changes[0].where, changes[0].what, changes[0].old, changes[0].new) == change
    assert {c.weight for c in changes} == {"found"}


def test_an_order_of_criteria_that_changed_is_not_silent(make: Make) -> None:
    other = LOW.replace("{symptom: cramp}", "X").replace("{symptom: tremor, within: P7D}", "Y")
    other = other.replace("X", "{symptom: tremor, within: P7D}").replace("Y", "{symptom: cramp}")
    (change,) = compare(make(LOW), make(other))
    assert (change.where, change.what) == ("when, any of", "order of criteria")


def test_a_criterion_of_the_other_direction_is_another_threshold_not_another_test(
    make: Make,
) -> None:
    high = LOW.replace("lt: 3.0", "gt: 5.5")
    assert said(make(LOW), make(high)) == [
        ("when", "threshold", "potassium < 3.0 mmol/L", "potassium > 5.5 mmol/L")
    ]


# ------------------------------------------------------------ whole rules


def test_the_same_rules_do_not_differ(base: Rulesets) -> None:
    assert compare(base, base) == []


def test_rules_that_came_and_went_are_shown_with_their_criteria(make: Make) -> None:
    old = make(plain("low-potassium"))
    new = make(plain("low-magnesium", "magnesium", "0.7", "soon"))
    gone, come = compare(old, new)
    assert (gone.id, gone.old, gone.new) == (
        "low-potassium",
        "urgent: Low potassium (trial)",
        None,
    )
    assert (come.id, come.old, come.new) == ("low-magnesium", None, "soon: Low magnesium (trial)")
    assert come.more == ("when magnesium < 0.7 mmol/L, at most 7 days old",)


def test_a_rule_under_another_id_with_the_same_criteria_is_called_renamed(make: Make) -> None:
    new = make(plain("low-k").replace("Low potassium", "Too little potassium"))
    assert said(make(plain("low")), new) == [
        ("", "id", "low", "low-k"),
        ("", "title", "Low potassium", "Too little potassium"),
    ]


def test_two_rules_with_the_same_criteria_are_not_guessed_to_be_renamed(make: Make) -> None:
    new = make(plain("one"), plain("other"))
    assert [c.what for c in compare(make(plain("low")), new)] == ["rule", "rule", "rule"]


def test_companions_are_not_listed_beside_the_rule_that_makes_them(make: Make) -> None:
    changes = compare(make(LOW), make(LOW.replace("recheck: true", "recheck: false")))
    assert [(c.id, c.what, c.old, c.new) for c in changes] == [("low", "recheck", "yes", "no")]


def test_two_bands_of_one_family_and_tier_that_changed_places_are_told(make: Make) -> None:
    rules = [plain(id_, "potassium", limit) for id_, limit in (("a", "3.0"), ("b", "2.9"))]
    rules = [rule.replace("  tier:", "  family: low\n  tier:") for rule in rules]
    (change,) = compare(make(*rules), make(*reversed(rules)))
    assert (change.weight, change.old, change.new) == ("found", "a, b", "b, a")


OTHER: dict[str, Any] = {
    "title": "Something else",
    "review": "approved",
    "last_reviewed": "2026-11-01",
    "tier": "emergency",
    "finding": "another",
    "family": "another",
    "step": True,
    "caveat_for": ("potassium",),
    "population": "any",
    "stands_in_from": "urgent",
    "recheck": False,
    "missing": "silent",
    "yields_to": ("another",),
    "ask": ("Since when?",),
    "when": (),
    "unless": (),
    "covers": ("S1-01",),
    "evidence": (Evidence(source="Another", statement="another"),),
    "note": "Why",
    "card": None,
}
FOUND = {
    "tier",
    "finding",
    "family",
    "step",
    "caveat_for",
    "population",
    "stands_in_from",
    "recheck",
    "yields_to",
    "when",
    "unless",
}


@pytest.mark.parametrize("name", [n for n in Rule.model_fields if n not in ("id", "recheck_of")])
def test_no_part_of_a_rule_can_change_in_silence(name: str, make: Make, base: Rulesets) -> None:
    old = make(LOW)
    rule = old.files[0].rules[0]
    changed = rule.model_copy(update={name: OTHER[name]})
    file = dataclasses.replace(old.files[0], rules=(changed,))
    changes = compare(old, dataclasses.replace(old, files=(file,)))
    assert changes
    assert {c.id for c in changes} == {"low"}
    assert {c.weight == "found" for c in changes} == {name in FOUND}


@given(data=st.data())
def test_any_two_rules_under_one_id_differ_in_words_unless_they_are_the_same(
    data: st.DataObject, base: Rulesets
) -> None:
    rules = [r for r in base.files[0].rules if not r.recheck_of]
    one, other = (data.draw(st.sampled_from(rules)) for _ in "ab")
    file = base.files[0]
    old, new = (
        dataclasses.replace(
            base, files=(dataclasses.replace(file, rules=(r.model_copy(update={"id": "x"}),)),)
        )
        for r in (one, other)
    )
    same = one.model_copy(update={"id": "x"}) == other.model_copy(update={"id": "x"})
    assert (compare(old, new) == []) == (same or one.id == other.id)


def test_texts_of_cards_come_after_what_can_change_who_is_found(make: Make) -> None:
    new = LOW.replace("summary: Low", "summary: Too low").replace("tier: urgent", "tier: soon")
    new = new.replace("review: draft", "review: approved")
    changes = compare(make(LOW), make(new))
    assert [(c.weight, c.where, c.what) for c in changes] == [
        ("found", "", "tier"),
        ("shown", "card", "summary"),
        ("record", "", "review"),
    ]


@pytest.mark.parametrize("name", CardText.model_fields)
def test_each_text_of_a_card_is_compared(name: str, make: Make) -> None:
    old = make(LOW)
    rule = old.files[0].rules[0]
    assert rule.card
    card = rule.card.model_copy(update={name: ("magnesium",) if name == "suggestions" else "New"})
    file = dataclasses.replace(old.files[0], rules=(rule.model_copy(update={"card": card}),))
    (change,) = compare(old, dataclasses.replace(old, files=(file,)))
    assert (change.weight, change.where, change.what) == ("shown", "card", name)


def test_evidence_of_the_same_source_is_shown_as_changed(make: Make) -> None:
    new = LOW.replace("statement: below 3.0 is low", "statement: below 3.0 is too low, year: 2024")
    (change,) = compare(make(LOW), make(new))
    assert (change.what, change.old, change.new) == (
        "evidence",
        "A guideline: below 3.0 is low",
        "A guideline (2024): below 3.0 is too low",
    )


def test_group_version_and_the_wording_of_rechecks_are_compared(make: Make) -> None:
    head = HEAD.replace("version: 1.0.0", "version: 1.1.0").replace("Repeat it.", "Repeat.")
    changes = compare(make(LOW), make(LOW, head=head))
    assert [(c.weight, c.subject, c.id, c.where, c.what) for c in changes] == [
        ("shown", "group", "trial", "recheck", "detail"),
        ("record", "group", "trial", "", "version"),
    ]


# ------------------------------------------------------------ analytes, value sets, card texts


def with_terms(old: Rulesets, **more: Any) -> Rulesets:
    return dataclasses.replace(old, terminology=dataclasses.replace(old.terminology, **more))


def with_set(old: Rulesets, id_: str, **more: Any) -> Rulesets:
    sets = dict(old.terminology.value_sets)
    return with_terms(old, value_sets={**sets, id_: dataclasses.replace(sets[id_], **more)})


def with_analyte(old: Rulesets, id_: str, **more: Any) -> Rulesets:
    tests = dict(old.terminology.analytes)
    return with_terms(old, analytes={**tests, id_: dataclasses.replace(tests[id_], **more)})


def test_a_code_more_in_a_value_set_names_the_rules_that_it_touches(make: Make) -> None:
    old = make(LOW)
    code = CodeEntry(system="snomed", code="123", display="Something")
    codes = (*old.terminology.value_sets["cramp-lower-leg"].codes, code)
    (change,) = compare(old, with_set(old, "cramp-lower-leg", codes=codes))
    assert (change.weight, change.subject, change.id) == ("found", "value set", "cramp-lower-leg")
    assert (change.what, change.old, change.new) == ("code", None, "snomed 123 Something")
    # Through the set that includes it, which is the one the rule names.
    assert change.used_by == ("low",)


def test_what_no_rule_uses_cannot_change_who_is_found(make: Make) -> None:
    old = make(LOW)
    (change,) = compare(old, with_set(old, "fever", codes=()[:0], includes=("cramp",)))[-1:]
    assert (change.weight, change.used_by) == ("record", ())


def test_another_display_of_a_code_changes_nobody_found(make: Make) -> None:
    old = make(LOW)
    first, *rest = old.terminology.value_sets["cramp"].codes
    codes = (dataclasses.replace(first, display="Muscle cramps"), *rest)
    (change,) = compare(old, with_set(old, "cramp", codes=codes))
    assert (change.weight, change.what) == ("record", "code")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kind", "condition"),
        ("name", "another"),
        ("codes", ()),
        ("includes", ()),
        ("counts_for", 86_400),
    ],
)
def test_no_part_of_a_value_set_can_change_in_silence(name: str, value: Any, make: Make) -> None:
    assert {"id", name} <= {field.name for field in dataclasses.fields(ValueSet)}
    old = make(LOW)
    assert compare(old, with_set(old, "cramp", **{name: value}))


ANALYTE: dict[str, Any] = {
    "name": "another",
    "decimals": 3,
    "fresh": 86_400,
    "context": 40 * 86_400,
    "molar_mass": Decimal("40"),
    "valence": 2,
    "plausible": Limits(ge=Fraction(1), le=Fraction(8)),
    "slips": (Slip(kind="unit", unit="mg/dL", within=Limits(ge=Fraction(9)), says="Odd."),),
    "compare_within_code": True,
    "codes": (),
}


@pytest.mark.parametrize(
    "name", [f.name for f in dataclasses.fields(Analyte) if f.name not in ("id", "unit")]
)
def test_no_part_of_an_analyte_can_change_in_silence(name: str, make: Make) -> None:
    old = make(LOW)
    changes = compare(old, with_analyte(old, "potassium", **{name: ANALYTE[name]}))
    assert changes
    assert {c.used_by for c in changes} == {("low",)}


def test_another_unit_is_told_with_the_thresholds_in_it(make: Make, base: Rulesets) -> None:
    old = make(plain("low"))
    tests = dict(base.terminology.analytes)
    tests["potassium"] = dataclasses.replace(tests["potassium"], unit="umol/L")
    terms = dataclasses.replace(base.terminology, analytes=tests)
    new = make(plain("low", limit="3000").replace("mmol/L", "umol/L"), terminology=terms)
    assert said(old, new) == [
        ("when", "threshold", "potassium < 3.0 mmol/L", "potassium < 3000 umol/L"),
        ("", "unit", "mmol/L", "umol/L"),
    ]


def test_how_old_a_result_may_be_is_said_in_days(make: Make) -> None:
    old = make(LOW)
    (change,) = compare(old, with_analyte(old, "potassium", fresh=30 * 86_400))
    assert (change.what, change.old, change.new) == ("fresh", "7 days", "30 days")


def test_a_test_behind_a_computed_one_touches_the_rules_of_the_computed_one(make: Make) -> None:
    old = make(plain("low-calcium", "calcium", "1.9"))
    (change,) = compare(old, with_analyte(old, "albumin", fresh=86_400))
    assert change.used_by == ("low-calcium",)


def test_shared_texts_and_terms_are_compared_entry_by_entry(make: Make, base: Rulesets) -> None:
    old = make(LOW)
    texts = base.texts.model_copy(update={"tiers": {**base.texts.tiers, "soon": "Soon: act."}})
    new = dataclasses.replace(
        with_terms(old, symptom_window=86_400, doubts={"hemolyzed": "Doubtful."}), texts=texts
    )
    changes = {(c.subject, c.id, c.what): c for c in compare(old, new)}
    assert changes["terminology", "symptom_window", "symptom_window"].old == "30 days"
    assert changes["terminology", "doubts", "hemolyzed"].new == "Doubtful."
    assert changes["cards", "tiers", "soon"].weight == "shown"


# ------------------------------------------------------------ words


@given(*[st.lists(st.sampled_from("abcd"), max_size=5)] * 2)
def test_a_word_diff_holds_both_texts(old: list[str], new: list[str]) -> None:
    pieces = word_diff(" ".join(old), " ".join(new))
    for side, words in (("old", old), ("new", new)):
        kept = [text for kind, text in pieces if kind in ("same", side)]
        assert " ".join(kept).split() == words


def test_long_equal_stretches_of_a_text_are_cut() -> None:
    before = " ".join(f"w{n}" for n in range(40))
    assert word_diff(before, before.replace("w20", "new")) == [
        ("same", "... w16 w17 w18 w19"),
        ("old", "w20"),
        ("new", "new"),
        ("same", "w21 w22 w23 w24 ..."),
    ]


# ------------------------------------------------------------ folders and revisions

GIT = {
    **{k: v for k, v in os.environ.items() if not k.startswith("GIT_")},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    **{
        f"GIT_{who}_{what}": "a@example.org"
        for who in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    },
}


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, env=GIT, check=True, capture_output=True)  # noqa: S607


def write(folder: Path, *rules: str) -> None:
    (folder / "trial").mkdir(parents=True, exist_ok=True)
    (folder / "trial" / "rules.yaml").write_text(HEAD + "".join(rules), encoding="utf-8")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with two revisions: tag v1 with 3.0, then 3.5."""
    git(tmp_path, "init", "--quiet")
    for limit, tag in (("3.0", "v1"), ("3.5", "v2")):
        write(tmp_path / "rulesets", plain("low", limit=limit))
        git(tmp_path, "add", ".")
        git(tmp_path, "commit", "--quiet", "--message", tag)
        git(tmp_path, "tag", tag)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_revision_is_compared_with_the_folder_as_it_is_now(checkout: Path) -> None:
    write(checkout / "rulesets", plain("low", limit="2.5"))
    old, new = load_version("v1"), load_version("rulesets")
    assert old.commit
    assert (new.name, new.commit) == ("rulesets", "")
    assert said(old.rulesets, new.rulesets) == [
        ("when", "threshold", "potassium < 3.0 mmol/L", "potassium < 2.5 mmol/L")
    ]


def test_a_revision_is_found_from_any_folder_of_the_checkout(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout / "rulesets" / "trial")
    assert load_version("HEAD~1").rulesets.program.by_id["low"]


def test_a_name_that_is_both_has_to_be_told_apart(checkout: Path) -> None:
    write(checkout / "v1", plain("other"))
    with pytest.raises(UsageError, match=r"write ./v1 for the folder, git:v1 for the revision"):
        load_version("v1")
    assert "other" in load_version("./v1").rulesets.program.by_id
    assert "low" in load_version("git:v1").rulesets.program.by_id


@pytest.mark.parametrize("name", ["nope", "git:nope", "", "-x", "--output=x", "v1:rulesets"])
def test_a_name_that_is_neither_is_refused(name: str, checkout: Path) -> None:
    with pytest.raises(UsageError, match=r"is (neither a folder nor|not) a git revision"):
        load_version(name)
    assert not (checkout / "x").exists()


def test_outside_a_checkout_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(UsageError, match=r"'HEAD' is neither .*; you are in no git checkout"):
        load_version("HEAD")


def test_without_git_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="git is not installed"):
        load_version("HEAD")


def test_another_folder_of_the_checkout_can_hold_the_rules(checkout: Path) -> None:
    with pytest.raises(UsageError, match=r"revision v1 has no folder 'ours'; .* --rules-path"):
        load_version("v1", "ours")
    git(checkout, "mv", "rulesets", "ours")
    git(checkout, "commit", "--quiet", "--message", "moved")
    assert load_version("HEAD", "ours/").rulesets.program.by_id["low"]


def test_faults_of_a_revision_are_placed_in_it_and_nothing_is_left_behind(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkout / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    write(checkout / "rulesets", plain("low").replace("tier: urgent", "tier: high"))
    git(checkout, "commit", "--quiet", "--all", "--message", "broken")
    with pytest.raises(TerminologyError, match=r"^HEAD:rulesets/trial/rules.yaml:13: .*'high'"):
        load_version("HEAD")
    assert list(folder.iterdir()) == []


def test_each_revision_is_read_with_its_own_analytes_and_value_sets(checkout: Path) -> None:
    """The folder that came with the package has the same ids, and must not be mixed in."""
    shutil.copytree(shipped("rulesets"), checkout / "whole")
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "--message", "whole")
    analytes = checkout / "whole" / "analytes.yaml"
    text = analytes.read_text(encoding="utf-8")
    assert "fresh: P7D" in text
    analytes.write_text(text.replace("fresh: P7D", "fresh: P9D", 1), encoding="utf-8")
    old, new = load_version("HEAD", "whole").rulesets, load_version("./whole").rulesets
    assert old.digest == load_rulesets(shipped("rulesets")).digest
    (change,) = compare(old, new)
    assert (change.subject, change.what, change.old, change.new) == (
        "analyte",
        "fresh",
        "7 days",
        "9 days",
    )


def test_a_broken_copy_of_the_shipped_folder_is_told_only_its_own_faults(tmp_path: Path) -> None:
    shutil.copytree(shipped("rulesets"), tmp_path / "copy")
    cards = tmp_path / "copy" / "cards.yaml"
    cards.write_text(cards.read_text(encoding="utf-8") + "nonsense: 1\n", encoding="utf-8")
    with pytest.raises(RuleErrors) as error:
        load_rulesets(tmp_path / "copy")
    assert len(error.value.errors) == 1


# ------------------------------------------------------------ a cohort


def record(id_: str, *resources: Json) -> Json:
    return bundle(patient(id_), *resources)


def save(folder: Path, *records: Json) -> Path:
    folder.mkdir(exist_ok=True)
    for number, each in enumerate(records):
        (folder / f"{number:02}.json").write_bytes(orjson.dumps(each))
    return folder


def people(folder: Path) -> Path:
    values = {"a": "2.4", "b": "2.9", "c": "3.2", "d": "3.4", "e": "4.0"}
    records = [record(id_, lab("potassium", k, subject=id_)) for id_, k in values.items()]
    return save(folder, *records)


def ran(old: Rulesets, new: Rulesets, *paths: Path) -> CohortDiff:
    cohort = CohortDiff(old, new)
    assert len(list(cohort.run(paths, instant(AS_OF)))) == cohort.total + len(cohort.failed)
    return cohort


def banded(make: Make, urgent: str, soon: str | None) -> Rulesets:
    rules = [plain("low", limit=urgent), plain("mild", limit=soon or "0.1", tier="soon")]
    return make(*(r.replace("  tier:", "  family: low\n  tier:") for r in rules))


def test_patients_newly_and_no_longer_flagged_and_of_another_tier_are_named(
    tmp_path: Path, make: Make
) -> None:
    old, new = banded(make, "3.0", "3.3"), banded(make, "2.5", "3.5")
    there = ran(old, new, people(tmp_path / "people"))
    assert there.newly_flagged == ["Patient/d"]
    assert there.no_longer_flagged == []
    assert there.moved == {
        (None, Tier.soon): ["Patient/d"],
        (Tier.urgent, Tier.soon): ["Patient/b"],
    }
    back = ran(new, old, tmp_path / "people")
    assert (back.newly_flagged, back.no_longer_flagged) == ([], ["Patient/d"])
    assert back.moved[Tier.soon, Tier.urgent] == ["Patient/b"]


def test_other_findings_of_the_same_tier_are_told_as_well(tmp_path: Path, make: Make) -> None:
    new = make(plain("low"), plain("lower", limit="2.5"))
    cohort = ran(make(plain("low")), new, people(tmp_path / "people"))
    assert (cohort.moved, cohort.otherwise) == ({}, ["Patient/a"])


def test_nobody_is_told_where_nothing_changed(tmp_path: Path, make: Make) -> None:
    rules = banded(make, "3.0", "3.3")
    cohort = ran(rules, rules, people(tmp_path / "people"))
    assert (cohort.total, cohort.moved, cohort.otherwise) == (5, {}, [])
    assert cohort.before == cohort.after


def test_alerts_are_the_cards_and_the_rules_on_them(base: Rulesets, make: Make) -> None:
    """Counted without writing the cards, so compared with the cards that are written."""
    new = make(LOW, plain("other", "magnesium", "0.7"))
    examples = shipped("fhir_examples")
    cohort = ran(base, new, examples)
    assert cohort.total > 40
    for rulesets, alerts in ((base, cohort.before), (new, cohort.after)):
        log = ReadLog()
        found = list(Screener(rulesets).screen_paths([examples], AS_OF, log=log))
        assert alerts.cards.total() == sum(len(a.cards()) for a in found)
        assert alerts.patients.total() == len(found)
        shown = [r for a in found for r in {r for f in a.findings for r in f.rules}]
        assert alerts.rules.total() == len(shown)
        for card in ("critical", "warning", "info"):
            written = sum(c["indicator"] == card for a in found for c in a.cards())
            assert sum(n for t, n in alerts.cards.items() if t.indicator == card) == written


def test_each_version_reads_patients_with_its_own_codes(tmp_path: Path, make: Make) -> None:
    rule = plain("cramps").replace("{lab: potassium, lt: 3.0, unit: mmol/L}", "{symptom: cramp}")
    old = make(rule)
    codes = tuple(c for c in old.terminology.value_sets["cramp"].codes if c.system != "snomed")
    new = with_set(old, "cramp", codes=codes)
    # Its look-up tables are made when it is loaded.
    concepts = {k: v for k, v in old.terminology._concepts.items() if k[1] != "55300003"}
    new = with_terms(new, _concepts=concepts)
    cohort = ran(old, new, save(tmp_path / "p", record("a", symptom("cramp", subject="a"))))
    assert cohort.no_longer_flagged == ["Patient/a"]


def test_a_patient_of_whom_only_one_version_can_use_anything_counts_for_both(
    tmp_path: Path, make: Make
) -> None:
    path = tmp_path / "loose.ndjson"
    path.write_bytes(orjson.dumps(lab("magnesium", "0.3", subject="only")))
    old, new = make(plain("low")), make(plain("low-magnesium", "magnesium", "0.7"))
    cohort = ran(old, new, path)
    assert (cohort.total, cohort.newly_flagged) == (1, ["Patient/only"])


def test_both_versions_see_what_each_of_them_reads_alone(
    sample_data: Path, base: Rulesets, make: Make
) -> None:
    new = make(LOW)
    paths = [sample_data / "synthea", sample_data / "bulk"]
    cohort = CohortDiff(base, new)
    pairs = list(cohort.records(paths))
    for side, rulesets in enumerate((base, new)):
        screener = Screener(rulesets)
        alone = {r.patient: r for r in screener.reader.read_paths(paths, ReadLog())}
        assert {pair[side].patient: pair[side] for pair in pairs} == alone


def test_many_resources_of_a_patient_are_put_together_in_both(tmp_path: Path, make: Make) -> None:
    lines = [
        patient("a"),
        lab("potassium", "2.4", subject="a"),
        condition("pregnancy", subject="b"),
        statement("4603", subject="b"),
        lab("magnesium", "0.3", subject="c"),
    ]
    path = tmp_path / "loose.ndjson"
    path.write_bytes(b"\n".join(map(orjson.dumps, lines)))
    cohort = ran(make(plain("low")), make(plain("low-mg", "magnesium", "0.7")), path)
    assert cohort.total == 3
    assert (cohort.newly_flagged, cohort.no_longer_flagged) == (["Patient/c"], ["Patient/a"])


def test_what_cannot_be_read_is_listed_once(tmp_path: Path, make: Make) -> None:
    folder = people(tmp_path / "people")
    (folder / "x.json").write_bytes(b"{nonsense")
    nobody = lab("potassium", "2.4")
    del nobody["subject"]
    (folder / "y.json").write_bytes(orjson.dumps(nobody))
    rules = make(plain("low"))
    cohort = ran(rules, rules, folder)
    assert [where.removeprefix(f"{folder}/") for where, _ in cohort.rejected] == [
        "x.json:1",
        "y.json Observation/potassium",
    ]
    assert cohort.total == 5


# ------------------------------------------------------------ the command


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two versions, v1 and v2, and people."""
    for name, limit in (("v1", "3.0"), ("v2", "3.5")):
        write(tmp_path / name, plain("low", limit=limit))
    people(tmp_path / "people")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    environment = {"COLUMNS": "100"}
    return CliRunner().invoke(cli.main, ["diff", *arguments], prog_name="cds", env=environment)


def test_the_difference_is_printed_for_people(two: Path) -> None:
    result = run("v1", "v2", "--cohort", "people", "--as-of", AS_OF)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "From v1: trial 1.0.0",
        "To   v2: trial 1.0.0 (other content under the same version: trial)",
        "",
        "1 rule changed.",
        "",
        "What can change who is found",
        "",
        "  rule low",
        "    threshold (when): potassium < 3.0 mmol/L -> potassium < 3.5 mmol/L",
        "",
        "On 5 patients, as of 2026-11-01T12:00:00Z",
        "",
        "  Newly flagged: 2: Patient/c, Patient/d",
        "  No longer flagged: nobody",
        "  Tier changed: nobody",
        "  Other findings of the same tier: nobody",
        "",
        "  Cards per 1,000 patients   before    after   change",
        "  all cards                   400.0    800.0   +400.0",
        "  urgent                      400.0    800.0   +400.0",
        "",
        "  Patients per 1,000 with an alert of the rule   before    after   change",
        "  low                                             400.0    800.0   +400.0",
        "",
        "  0 other rules alert as often as before.",
    ]


def test_the_difference_is_printed_for_programs(two: Path) -> None:
    result = run("v1", "v2", "--cohort", "people", "--as-of", AS_OF, "--format", "json")
    said = orjson.loads(result.stdout)
    assert said["old"]["name"] == "v1"
    assert said["new"]["rulesets"][0]["digest"].startswith("sha256:")
    assert [c["what"] for c in said["changes"]] == ["threshold"]
    assert said["cohort"]["newly_flagged"] == [
        {"patient": "Patient/c", "tier": "urgent"},
        {"patient": "Patient/d", "tier": "urgent"},
    ]
    assert said["cohort"]["alerts_per_1000"]["rules"] == {"low": {"before": 400.0, "after": 800.0}}
    assert (said["cohort"]["patients"], said["cohort"]["rejected"]) == (5, [])


def test_the_difference_is_printed_for_the_description_of_a_change(two: Path) -> None:
    result = run("v1", "v2", "--cohort", "people", "--as-of", AS_OF, "--format", "md")
    lines = result.stdout.splitlines()
    assert "- threshold (when): potassium \\< 3.0 mmol/L → **potassium \\< 3.5 mmol/L**" in lines
    assert "- Newly flagged: 2: `Patient/c`, `Patient/d`" in lines
    assert "| urgent | 400.0 | 800.0 | +400.0 |" in lines


def test_without_a_cohort_only_the_rules_are_compared(two: Path) -> None:
    assert orjson.loads(run("v1", "v2", "--format", "json").stdout)["cohort"] is None


def test_files_that_differ_only_in_comments_are_said_to(two: Path) -> None:
    path = two / "v1" / "trial" / "rules.yaml"
    write(two / "v2", plain("low"))
    path.write_text("# For trying.\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    assert "No difference; the files differ in comments or layout only." in run("v1", "v2").stdout


def test_long_texts_are_shown_word_by_word(make: Make) -> None:
    sentence = "Look for the cause and repeat the test within a few days, and tell the prescriber."
    new = LOW.replace("Look for the cause and repeat the test.", sentence)
    old, rules = make(LOW), make(new)
    report = Report(Version("a", old), Version("b", rules), compare(old, rules))
    text = StringIO()
    write_text(Page(text, width=200, color=False), report)
    change = (
        "... cause and repeat the [-test.-] {+test within a few days, and tell the prescriber.+}"
    )
    assert f"    card detail: {change}\n" in text.getvalue()
    assert "~~test.~~ **test within a few days, and tell the prescriber.**" in markdown(report)


def test_more_than_ten_patients_are_counted_and_all_are_in_json(tmp_path: Path, make: Make) -> None:
    records = [record(f"p{n:02}", lab("potassium", "3.2", subject=f"p{n:02}")) for n in range(12)]
    old, new = make(plain("low")), make(plain("low", limit="3.5"))
    cohort = ran(old, new, save(tmp_path / "people", *records))
    report = Report(Version("a", old), Version("b", new), compare(old, new), cohort)
    text = StringIO()
    write_text(Page(text, width=300, color=False), report)
    assert "Newly flagged: 12: Patient/p00, " in text.getvalue()
    assert ", Patient/p09 and 2 more\n" in text.getvalue()
    assert len(to_dict(report)["cohort"]["newly_flagged"]) == 12


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("v1", "nope"), 2, "'nope' is neither a folder nor a git revision"),
        (("v1", "people"), 2, "people: no <group>/rules.yaml in this folder"),
        (("v1", "v2", "--cohort", "nope"), 2, "'nope' does not exist"),
        (("v1", "v2", "--cohort", "v1"), 2, "nothing at all could be read"),
        (("v1", "v2", "--cohort", "bad.json"), 2, "nothing at all could be read"),
        (("v1", "v2", "--cohort", "people", "--cohort", "bad.json"), 3, "rejected: bad.json"),
        (("v1", "v2", "--cohort", "people", "--as-of", "yesterday"), 2, "is not a time"),
    ],
)
def test_how_it_ends(arguments: tuple[str, ...], code: int, message: str, two: Path) -> None:
    (two / "bad.json").write_bytes(b"{nonsense")
    result = run(*arguments)
    assert result.exit_code == code
    assert message in result.stderr


def test_an_error_of_one_patient_loses_only_that_patient(
    two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assess = Screener.assess

    def failing(self: Screener, record: Any, as_of: int) -> Any:
        if record.patient == "Patient/b":
            raise ValueError("secret 2.9")
        return assess(self, record, as_of)

    monkeypatch.setattr(Screener, "assess", failing)
    result = run("v1", "v2", "--cohort", "people", "--as-of", AS_OF, "--format", "json")
    assert result.exit_code == 4
    assert "internal error, so Patient/b has no result: ValueError" in result.stderr
    assert "secret" not in result.stderr
    said = orjson.loads(result.stdout)["cohort"]
    assert (said["patients"], said["failed"]) == (4, ["Patient/b"])


def test_the_profile_of_a_site_is_applied_to_both_versions(two: Path) -> None:
    (two / "site.yaml").write_text(
        "site: clinic\ntitle: A clinic\nversion: 1.0.0\n"
        "tiers: {low: {tier: emergency, reason: we are far away, "
        "patient: Call your local emergency number now.}}\n",
        encoding="utf-8",
    )
    result = run("v1", "v2", "--site", "site.yaml", "--cohort", "people", "--as-of", AS_OF)
    assert result.exit_code == 0, result.stderr
    assert "  emergency                   400.0    800.0   +400.0" in result.stdout


def test_every_change_has_a_weight_that_has_a_heading() -> None:
    from cds.diff.changes import WEIGHTS

    assert list(WEIGHTS) == ["found", "shown", "record"]
    assert {f.name for f in dataclasses.fields(Change)} >= {"weight", "old", "new"}
