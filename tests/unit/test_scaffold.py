"""The skeleton of a new rule: it loads, it asks, and it never spoils what is there."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import assume, given
from hypothesis import strategies as st

from cds import cli, lint
from cds.cases import load_cases_file
from cds.errors import RuleErrors, UsageError
from cds.harness import run_case
from cds.model import Tier
from cds.rulefile import OPS
from cds.rules import Rulesets, load_rulesets
from cds.scaffold import PRESENT, LabTest, NewRule, skeleton
from cds.screening import Screener
from cds.shipped import shipped
from cds.terminology import Terminology, load_terminology
from cds.yamlfile import load_yaml
from small_rules import rules_of

LOW = LabTest("potassium", "lt", Decimal("3.0"))
NEW = NewRule("low-k", "trial", "urgent", LOW)


@pytest.fixture(scope="module")
def base() -> Rulesets:
    return load_rulesets()


@pytest.fixture(scope="module", autouse=True)
def _shipped_rules_are_loaded_once(base: Rulesets) -> Iterator[None]:
    alone = cache(load_terminology)

    def load(*folders: Path) -> Rulesets:
        return load_rulesets(*folders) if folders else base

    def terminology(*folders: Path) -> Terminology:
        own = [f for f in folders if (f / "analytes.yaml").exists() or (f / "valuesets").exists()]
        return (alone if own == [shipped("rulesets")] else load_terminology)(*own)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cds.scaffold.load_rulesets", load)
        for module in ("rules", "scaffold"):
            patch.setattr(f"cds.{module}.load_terminology", terminology)
        yield


def write(folder: Path, new: NewRule = NEW) -> tuple[Path, Path]:
    made = skeleton(new, folder)
    for draft in (made.rules, made.cases):
        draft.path.parent.mkdir(parents=True, exist_ok=True)
        draft.path.write_bytes(draft.text)
    return made.rules.path, made.cases.path


# ------------------------------------------------------------ it loads and asks


@st.composite
def new_rules(draw: st.DrawFn, base: Rulesets) -> NewRule:
    """Whatever an author may ask for: a result, one or two things recorded, or both."""
    terminology = base.terminology
    by_kind = [(s.kind, id_) for id_, s in terminology.value_sets.items() if s.kind in PRESENT]
    present = draw(st.lists(st.sampled_from(sorted(by_kind)), max_size=2, unique=True))
    for part, whole in permutations([id_ for _, id_ in present], 2):
        assume(part not in terminology.included(whole))
    lab = None
    if not present or draw(st.booleans()):
        measured = [a for a in terminology.analytes.values() if a.plausible and a.codes]
        analyte = draw(st.sampled_from(measured))
        assert analyte.plausible
        low = analyte.plausible.ge or 0
        high = analyte.plausible.le or low * 10 + 10
        share = draw(st.integers(1, 99))
        value = Decimal(int((low + (high - low) * share / 100) * 100)) / 100
        lab = LabTest(
            analyte.id, draw(st.sampled_from(OPS)), max(value, Decimal("0.01") + int(low))
        )
    tier = draw(st.sampled_from(list(Tier))).name
    return NewRule("x", "trial", tier, lab, tuple(present), draw(st.sampled_from(["", "Low: k"])))


@given(data=st.data())
def test_whatever_is_asked_for_the_skeleton_loads_and_each_case_waits_for_the_author(
    data: st.DataObject, base: Rulesets, tmp_path_factory: pytest.TempPathFactory
) -> None:
    new = data.draw(new_rules(base))
    folder = tmp_path_factory.mktemp("rules")
    made = skeleton(new, folder)
    rulesets = rules_of(made.rules.text.decode(), base, path=str(made.rules.path))
    made.cases.path.parent.mkdir()
    made.cases.path.write_bytes(made.cases.text)
    cases = load_cases_file(made.cases.path, "trial", rulesets)
    assert len(cases) == made.case_count
    screener = Screener(rulesets, "reference")
    first, *others = (run_case(screener, case) for case in cases)
    # The rule fires where all holds, and its card is to be written; else it does not fire.
    assert [failure.kind for failure in first.failures] == ["card"]
    assert "x" in first.assessment.fired if first.assessment else False
    assert {tuple(f.kind for f in result.failures) for result in others} <= {("fires",)}


def test_two_skeletons_can_wait_side_by_side(tmp_path: Path) -> None:
    write(tmp_path)
    _, cases = write(tmp_path, NewRule("lower-k", "trial", "emergency", LOW))
    rulesets = load_rulesets(tmp_path)
    assert [r.id for r in rulesets.files[0].rules] == ["low-k", "lower-k"]
    assert len(load_cases_file(cases, "trial", rulesets)) == 8


def test_lint_names_each_place_that_is_left_open(tmp_path: Path) -> None:
    rules, cases = write(tmp_path)
    found = [e for e in lint.lint([tmp_path]) if e.id == "CDS605"]
    marked = [
        (str(path), number)
        for path in (cases, rules)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if "TODO" in line
    ]
    assert [(e.path, e.line) for e in found] == marked
    assert len(marked) == 11
    assert {e.severity for e in found} == {"error"}
    assert {e.rule for e in found if e.path == str(rules)} == {"low-k"}


def test_a_comment_may_say_todo(tmp_path: Path) -> None:
    rules, cases = write(tmp_path)
    for path in (rules, cases):
        text = path.read_text(encoding="utf-8").replace("TODO", "Done")
        path.write_text(f"# TODO ask somebody\n{text}", encoding="utf-8")
    assert "CDS605" not in {e.id for e in lint.lint([tmp_path])}


# ------------------------------------------------------------ existing files

OLD = """\
# Ours.
group: trial
title:   'Rules for trying'   # odd spacing
version: 1.2.3
rules:
{indent}- id: old
{indent}  title: Old
{indent}  tier: soon
{indent}  when: [{{symptom: cramp}}]
{indent}  evidence: [{{source: A, statement: b}}]
{indent}  review: draft
{indent}  card: {{summary: A, detail: B, patient: "Call your doctor today.  "}}
"""


@pytest.mark.parametrize("indent", ["", "  ", "    "])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("tail", ["", "{end}", "{end}{end}  # The end.{end}"])
def test_what_stands_in_a_file_stays_byte_for_byte(
    indent: str, end: str, tail: str, tmp_path: Path
) -> None:
    path = tmp_path / "trial" / "rules.yaml"
    path.parent.mkdir()
    old = OLD.format(indent=indent).rstrip("\n").replace("\n", end) + tail.format(end=end)
    path.write_bytes(old.encode())
    made = skeleton(NEW, tmp_path)
    assert path.read_bytes() == old.encode()  # nothing is written yet
    assert made.rules.text.startswith(old.encode())
    added = made.rules.text.removeprefix(old.encode()).decode()
    assert added.replace("\r\n", "").count("\n") == (0 if end == "\r\n" else added.count("\n"))
    assert made.version == "1.2.3"
    write(tmp_path)
    assert [r.id for r in load_rulesets(tmp_path).files[0].rules] == ["old", "low-k"]
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[made.rules.line - 1] == f"{indent}- id: low-k"


def test_cases_are_appended_as_well(tmp_path: Path) -> None:
    _, cases = write(tmp_path, NewRule("old", "trial", "soon", None, (("symptom", "cramp"),)))
    old = cases.read_bytes().replace(b"as_of: 2026-11-01T00:00:00Z\n\n", b"")
    old = old.replace(b"    expect:", b"    as_of: 2026-01-01\n    expect:")
    cases.write_bytes(old)
    write(tmp_path)
    assert cases.read_bytes().startswith(old)
    # Where the file names no instant for all, each case needs its own.
    found = load_cases_file(cases, "trial", load_rulesets(tmp_path))
    assert len({case.as_of for case in found}) == 2


IN_BRACKETS = """\
group: trial
title: T
version: 1.0.0
rules: [{id: old, title: Old, tier: soon, step: true, review: draft, when: [{symptom: cramp}],
  evidence: [{source: A, statement: b}]}]
"""
NOT_LAST = """\
recheck:
  {title: T, summary: S, detail: D, patient: P, evidence: [{source: A, statement: b}]}
"""


@pytest.mark.parametrize(
    ("rules", "cases"),
    [
        pytest.param(OLD.format(indent="") + NOT_LAST, None, id="another key behind the rules"),
        pytest.param(IN_BRACKETS, None, id="rules in brackets"),
        pytest.param(
            OLD.format(indent=""),
            "as_of: 2026-11-01\ncases: [{name: A, expect: {not: [old]}}]\n",
            id="cases in brackets",
        ),
        pytest.param(OLD.format(indent=""), "cases: []\n", id="no case"),
        pytest.param(
            OLD.format(indent=""),
            "cases:\n- name: A\n  expect: {tier: none}\nas_of: 2026-11-01\n",
            id="another key behind the cases",
        ),
    ],
)
def test_a_file_that_cannot_simply_be_appended_to_is_left_alone(
    rules: str, cases: str | None, tmp_path: Path
) -> None:
    folder = tmp_path / "trial"
    folder.mkdir()
    (folder / "rules.yaml").write_text(rules, encoding="utf-8")
    if cases is not None:
        (folder / "cases.yaml").write_text(cases, encoding="utf-8")
    name = "rules" if cases is None else "cases"
    message = rf"{name}\.yaml: nothing can be appended, because the list '{name}' is not"
    with pytest.raises(UsageError, match=message):
        skeleton(NEW, tmp_path)


def test_a_folder_that_does_not_load_is_to_be_repaired_first(tmp_path: Path) -> None:
    (tmp_path / "trial").mkdir()
    text = OLD.format(indent="").replace("tier: soon", "tier: high")
    (tmp_path / "trial" / "rules.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(RuleErrors, match="'high' is none of"):
        skeleton(NEW, tmp_path)


# ------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "hypokalemia-mild"}, r"already the id of rule 'hypokalemia-mild' \(.*:\d+\)"),
        ({"id": "hypokalemia-mild-recheck"}, "already the id of rule"),
        ({"id": "laboratory-finding-wanted"}, "already the finding of rule"),
        ({"id": "Low K"}, "'Low K' cannot be the id of a rule; write small letters"),
        ({"group": "../x"}, r"'\.\./x' cannot be the id of a group"),
        ({"lab": LabTest("potasium", "lt", Decimal(3))}, "did you mean 'potassium'"),
        ({"lab": LabTest("potassium", "lt", Decimal("3.00001"))}, "four decimals at most"),
        ({"lab": LabTest("potassium", "lt", Decimal("NaN"))}, "cannot be a limit"),
        ({"lab": LabTest("potassium", "eq", Decimal(3))}, "'eq' is no comparator"),
        ({"lab": LabTest("potassium", "lt", Decimal(300))}, "300 mmol/L lies outside what is"),
        ({"present": (("symptom", "crmp"),)}, "'crmp' is none; did you mean 'cramp'"),
        ({"present": (("medication", "cramp"),)}, "'cramp' is of kind symptom"),
        ({"present": (("symptom", "cramp"), ("symptom", "cramp"))}, "named twice"),
        (
            {"present": (("symptom", "weakness"), ("symptom", "twitching-numbness-or-weakness"))},
            "'twitching-numbness-or-weakness' holds all that 'weakness' holds",
        ),
        ({"lab": None}, "say what the rule looks for"),
    ],
)
def test_what_cannot_be_a_rule_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    said = {"id": "low-k", "group": "trial", "tier": "urgent", "lab": LOW} | change
    with pytest.raises(UsageError, match=message):
        skeleton(NewRule(**said), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_id_of_the_folder_itself_is_refused_in_any_group(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(
        UsageError, match=r"already the id of rule 'low-k' \(.*trial/rules.yaml:8\)"
    ):
        skeleton(NewRule("low-k", "other", "soon", LOW), tmp_path)


def test_a_folder_that_is_one_group_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(UsageError, match="is one group of rules; name the folder above it"):
        skeleton(NewRule("other", "trial", "soon", LOW), tmp_path / "trial")


def test_a_group_stands_in_the_folder_of_its_name(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "trial").rename(tmp_path / "other")
    with pytest.raises(UsageError, match="is of the group 'trial'"):
        skeleton(NewRule("other", "other", "soon", LOW), tmp_path)


# ------------------------------------------------------------ the command


def command(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, ["new-rule", *arguments], prog_name="cds")


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


USUAL = ("low-k", "--group", "trial", "--dir", "my rules", "--tier", "urgent")


def test_the_author_is_told_what_was_written_and_what_is_next(cwd: Path) -> None:
    result = command(*USUAL, "--lab", "potassium", "--below", "3.0", "--symptom", "cramp")
    assert result.exit_code == 0, result.stderr
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert lines[0] == "rule low-k in my rules/trial/rules.yaml:8 (made)"
    assert lines[1] == "6 cases in my rules/trial/cases.yaml:6 (made)"
    assert "cds lint 'my rules'" in lines
    assert "cds test 'my rules'" in lines
    assert not any("version" in line for line in lines)
    again = command("other", *USUAL[1:], "--medication", "loop-diuretic")
    assert "(appended to)" in again.stdout
    assert "(now 1.0.0): a new rule raises the second number" in " ".join(again.stdout.split())


def test_each_limit_has_its_comparator(cwd: Path) -> None:
    for option, op in (("below", "lt"), ("at-most", "le"), ("above", "gt"), ("at-least", "ge")):
        arguments = ("--group", "trial", "--dir", "r", "--tier", "soon", "--lab", "sodium")
        assert command(f"by-{op}", *arguments, f"--{option}", "130").exit_code == 0
    data, _ = load_yaml(cwd / "r" / "trial" / "rules.yaml")
    assert isinstance(data, dict)
    assert [set(rule["when"][0]) - {"lab", "unit"} for rule in data["rules"]] == [
        {"lt"},
        {"le"},
        {"gt"},
        {"ge"},
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "say what the rule looks for: --lab with a limit, --symptom"),
        (("--lab", "potassium"), "--lab needs one of --below"),
        (("--lab", "potassium", "--below", "3", "--above", "2"), "--lab needs one of --below"),
        (("--below", "3"), "a limit needs --lab"),
        (("--lab", "potassium", "--below", "low"), "'low' is not a number such as 3.5"),
        (("--lab", "potasium", "--below", "3"), "did you mean 'potassium'"),
    ],
)
def test_what_is_not_enough_is_said_and_nothing_is_written(
    arguments: tuple[str, ...], message: str, cwd: Path
) -> None:
    result = command(*USUAL, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert list(cwd.iterdir()) == []


def test_a_tier_has_to_be_decided(cwd: Path) -> None:
    result = command(*USUAL[:-2], "--symptom", "cramp")
    assert result.exit_code == 2
    assert "Missing option '--tier'" in result.stderr


def test_nothing_is_half_written(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(*USUAL, "--symptom", "cramp").exit_code == 0
    before = {p: p.read_bytes() for p in cwd.rglob("*.yaml")}
    put = Path.write_bytes

    def interrupted(self: Path, data: bytes) -> int:
        if "cases" in self.name:
            raise KeyboardInterrupt
        return put(self, data)

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    assert command("other", *USUAL[1:], "--symptom", "tremor").exit_code == 130
    assert {p: p.read_bytes() for p in cwd.rglob("*") if p.is_file()} == before


def test_a_file_that_somebody_else_writes_meanwhile_is_not_overwritten(
    cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = skeleton

    def slow(new: NewRule, folder: Path) -> Any:
        result = made(new, folder)
        (folder / "trial").mkdir(parents=True)
        (folder / "trial" / "cases.yaml").write_text("theirs", encoding="utf-8")
        return result

    monkeypatch.setattr("cds.scaffold.skeleton", slow)
    result = command(*USUAL, "--symptom", "cramp")
    assert result.exit_code == 2
    assert "cases.yaml was changed meanwhile; nothing was written" in result.stderr
    files = [p.name for p in cwd.rglob("*") if p.is_file()]
    assert files == ["cases.yaml"]
