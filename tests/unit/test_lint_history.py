"""Lint against git: versions, reviews, ids of the past; reviewed exceptions; other packages."""

from __future__ import annotations

import shutil
import subprocess
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from cds import lint as linting
from cds.errors import UsageError
from cds.lint import Lint, Spot, Subject, plugins, validator
from lint_folder import MILD, MODERATE, SEVERE, USUAL, rule, write

RULE_FILE = "trial/rules.yaml"


GIT = shutil.which("git") or "git"


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run([GIT, *who, *arguments], cwd=folder, check=True, capture_output=True)


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "A change", "--allow-empty")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which nothing is wrong, committed to git."""
    write(tmp_path)
    git(tmp_path, "init", "-q")
    commit(tmp_path)
    return tmp_path


def change(folder: Path, old: str, new: str, file: str = RULE_FILE) -> None:
    path = folder / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def ids(folder: Path, against: str | None = None) -> list[tuple[str, str]]:
    return [(e.id, e.rule) for e in linting.lint([folder], against=against) if not e.accepted]


# ------------------------------------------------------------ versions


def test_nothing_is_found_where_nothing_was_changed(folder: Path) -> None:
    assert ids(folder) == []


@pytest.mark.parametrize(
    ("old", "new", "enough", "too_little"),
    [
        ("title: Title of severe", "title: Another title", "1.0.1", None),
        ("detail: Long.", "detail: Longer.", "1.0.1", None),
        ("lt: 2.5", "lt: 2.4", "1.1.0", "1.0.1"),
        ("tier: emergency", "tier: urgent", "1.1.0", "1.0.9"),
        ("suggestions: [repeat-potassium]", "suggestions: []", "1.1.0", "1.0.1"),
        ("- id: severe", "- id: severest", "2.0.0", "1.1.0"),
    ],
)
def test_a_change_needs_a_version_that_says_how_much_was_changed(
    folder: Path, old: str, new: str, enough: str, too_little: str | None
) -> None:
    change(folder, old, new)
    change(folder, "severe]", "severest]" if "severest" in new else "severe]", "trial/cases.yaml")
    for version in ("1.0.0", too_little):
        if version:
            change(folder, "version: 1.0.0", f"version: {version}")
            assert ("CDS901", "") in ids(folder)
            change(folder, f"version: {version}", "version: 1.0.0")
    change(folder, "version: 1.0.0", f"version: {enough}")
    assert ("CDS901", "") not in ids(folder)


def test_a_comment_needs_no_version(folder: Path) -> None:
    change(folder, "rules:\n", "# Rules.\nrules:\n")
    assert ids(folder) == []


def test_a_version_is_compared_with_the_revision_that_is_named(folder: Path) -> None:
    change(folder, "lt: 2.5", "lt: 2.4")
    commit(folder)
    assert ids(folder) == []
    assert ids(folder, "HEAD~1") == [("CDS901", "")]
    with pytest.raises(UsageError, match="no revision 'HEAD~9'"):
        linting.lint([folder], against="HEAD~9")


def test_a_revision_that_looks_like_an_option_is_no_option(folder: Path) -> None:
    with pytest.raises(UsageError, match="no revision"):
        linting.lint([folder], against="--output=stolen")
    assert not (folder / "stolen").exists()


def test_value_sets_need_a_new_version_too(folder: Path) -> None:
    change(folder, 'display: "furosemide"', 'display: "frusemide"', "valuesets/all.yaml")
    assert ids(folder) == [("CDS901", "")]
    change(folder, "version: 1.0.0", "version: 1.0.1", "valuesets/all.yaml")
    assert ids(folder) == []


def test_a_reviewed_rule_that_was_changed_needs_another_review(folder: Path) -> None:
    change(folder, "review: draft", "review: approved\n    last_reviewed: 2026-10-01")
    commit(folder)
    change(folder, "version: 1.0.0", "version: 1.1.0")
    assert ids(folder) == []
    change(folder, "symptom: weakness", "symptom: fasciculation")
    found = ids(folder)
    assert ("CDS903", "wanted") in found
    change(folder, "last_reviewed: 2026-10-01", "last_reviewed: 2026-11-01")
    assert "CDS903" not in {id_ for id_, _ in ids(folder)}


# ------------------------------------------------------------ ids of the past


def test_an_id_that_meant_something_else_is_not_used_again(folder: Path) -> None:
    write(folder, MILD, MODERATE)
    commit(folder)
    write(folder, MILD, MODERATE, SEVERE.replace("Title of severe", "Something else"))
    assert ("CDS902", "severe") in ids(folder)
    commit(folder)
    assert ids(folder) == [("CDS902", "severe")]


def test_a_rule_that_comes_back_as_it_was_keeps_its_id(folder: Path) -> None:
    write(folder, MILD, MODERATE)
    commit(folder)
    write(folder)
    commit(folder)
    change(folder, "Title of severe", "A better title")
    commit(folder)
    assert ids(folder) == []


def test_an_id_that_moves_to_another_place_in_its_file_is_not_used_again(folder: Path) -> None:
    write(folder, SEVERE, MODERATE, MILD)
    commit(folder)
    assert ids(folder) == []


def test_an_id_in_another_group_is_another_rule(folder: Path) -> None:
    write(folder, MILD, MODERATE)
    commit(folder)
    other = (folder / RULE_FILE).read_text().split("rules:\n")[0].replace("trial", "other")
    (folder / "other").mkdir()
    (folder / "other" / "rules.yaml").write_text(
        other + "rules:\n" + "  " + SEVERE.replace("\n", "\n  ") + "\n"
    )
    assert ("CDS902", "severe") in ids(folder)


# ------------------------------------------------------------ no git


def test_a_folder_outside_git_says_that_versions_were_not_compared(tmp_path: Path) -> None:
    (found,) = linting.lint([write(tmp_path)])
    assert (found.id, found.severity) == ("CDS904", "info")
    assert "not a git repository" in found.message


def test_a_checkout_without_any_commit_says_so(tmp_path: Path) -> None:
    git(write(tmp_path), "init", "-q")
    (found,) = linting.lint([tmp_path])
    assert found.id == "CDS904"
    assert "there is no HEAD" in found.message


def test_a_machine_without_git_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    (found,) = linting.lint([folder])
    assert "git is not installed" in found.message


def test_a_cut_history_is_said(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    commit(folder)
    shallow = tmp_path_factory.mktemp("shallow") / "clone"
    git(folder, "clone", "-q", "--depth=1", f"file://{folder}", str(shallow))
    assert [id_ for id_, _ in ids(shallow)] == ["CDS904"]


def test_git_variables_of_a_hook_do_not_lead_to_another_repository(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert ids(folder) == []


# ------------------------------------------------------------ exceptions

IDLE = rule("idle", "[{symptom: weakness}]", step="true", card="")
ENTRY = "{{id: {}, rule: {}, reason: The rule is to come.}}"


def accepted(*entries: tuple[str, str]) -> str:
    return f"accepted: [{', '.join(ENTRY.format(*entry) for entry in entries)}]\n"


def test_a_reviewed_exception_accepts_a_lint_with_its_reason(folder: Path) -> None:
    write(folder, *USUAL, IDLE, **{"lint-accepted": accepted(("CDS407", "idle"))})
    commit(folder)
    assert [(e.id, e.accepted) for e in linting.lint([folder])] == [
        ("CDS407", "The rule is to come.")
    ]


def test_an_exception_that_accepts_nothing_is_a_lint_itself(folder: Path) -> None:
    write(folder, **{"lint-accepted": accepted(("CDS407", "idle"))})
    assert ids(folder) == [("CDS906", "idle")]


@pytest.mark.parametrize(
    "text",
    [
        "accepted: [{id: CDS407, rule: idle}]\n",
        "accept: []\n",
        accepted(("CDS103", "severe")),
    ],
)
def test_an_exception_without_reason_or_from_what_cannot_be_loaded_is_refused(
    folder: Path, text: str
) -> None:
    write(folder, **{"lint-accepted": text})
    if "CDS103" in text:
        change(folder, "lt: 2.5", "lt: 2.55555")
    assert {id_ for id_, _ in ids(folder)} - {"CDS103", "CDS901"} == {"CDS905"}


# ------------------------------------------------------------ other packages


@validator("ACME001", "warning", "a rule without a note", fix="say in `note` why it is so")
def no_note(subject: Subject) -> list[Spot]:
    """A rule that does not say why it is written as it is."""
    return [Spot(*subject.at(r.rule), "has no note", r.rule.id) for r in subject.rules]


def broken(subject: Subject) -> list[Lint]:
    raise ZeroDivisionError("oh")


def wrong(subject: Subject) -> list[str]:
    return ["no lint"]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """The entry points that installed packages would have."""
    entries: list[EntryPoint] = []
    monkeypatch.setattr(plugins, "entry_points", lambda *, group: entries)
    return entries


def test_a_validator_of_another_package_takes_part(
    folder: Path, installed: list[EntryPoint]
) -> None:
    installed.append(EntryPoint("notes", f"{__name__}:no_note", plugins.GROUP))
    assert ids(folder) == [("ACME001", id_) for id_ in ("wanted", "mild", "moderate", "severe")]
    assert linting.validators()["ACME001"].title == "a rule without a note"


@pytest.mark.parametrize("name", ["broken", "wrong", "missing"])
def test_a_validator_that_fails_is_a_lint_and_no_crash(
    folder: Path, installed: list[EntryPoint], name: str
) -> None:
    installed.append(EntryPoint(name, f"{__name__}:{name}", plugins.GROUP))
    (found,) = linting.lint([folder])
    assert found.id == "CDS907"
    assert f"'{name}'" in found.message


# ------------------------------------------------------------ reading level without its library


def test_a_reading_level_that_was_not_measured_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cds.lint.patient.find_spec", lambda name: None)
    assert ids(folder) == [("CDS802", "")]


def test_a_comparison_that_is_asked_for_outside_a_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be compared with 'v1'"):
        linting.lint([write(tmp_path)], against="v1")
