"""Validators CDS901 to CDS904: what git knows of the files: versions, reviews, ids of the past.

Git is asked as a program, with fixed arguments, and only reads. A folder in no git checkout is
said once, as CDS904, and nothing else is found there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cds.errors import RuleError, UsageError
from cds.lint.registry import Spot, validator
from cds.lint.subject import SourceFile, Subject
from cds.yamlfile import parse_yaml

__all__ = ["Repository", "needed_part", "repository"]

_SECONDS: Final = 60
_PARTS: Final = ("first", "second", "third")
_VERSION: Final = re.compile(r"(\d+)\.(\d+)\.(\d+)")
# What of a rule is wording, and what of its review: the rest changes what it does.
_WORDING: Final = ("title", "note", "evidence", "covers")
_REVIEW: Final = ("review", "last_reviewed")
_ID: Final = re.compile(r"([+-])\s*- id: [\"']?([a-z0-9-]+)")
_TITLE: Final = re.compile(r"([+-])\s+title: (.+)")


@dataclass(frozen=True)
class Repository:
    """The git checkout that a folder lies in. `why` says why there is none to ask."""

    folder: Path
    top: Path | None
    shallow: bool = False
    why: str = ""

    def run(self, *arguments: str) -> str | None:
        """Return what git prints, or None where it fails."""
        return _git(self.folder, *arguments)[0]

    def at(self, revision: str, path: Path) -> str | None:
        """Return a file as it was at a revision, or None where there was none."""
        if self.top is None:
            return None
        inside = path.resolve().relative_to(self.top).as_posix()
        return self.run("show", "--no-textconv", f"{revision}:{inside}")


def _git(folder: Path, *arguments: str) -> tuple[str | None, str]:
    """What git prints, or None and its last words."""
    program = shutil.which("git")
    if program is None:
        return None, "git is not installed"
    # Inside a hook these would lead git to another repository than the folder's.
    env = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        done = subprocess.run(  # noqa: S603 - fixed program, no shell, no option of a caller's
            [program, "-C", str(folder), "--no-pager", *arguments],
            capture_output=True,
            env={**env, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"},
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"git does not answer ({type(error).__name__})"
    if done.returncode:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return None, words[0] if words else "git failed"
    return done.stdout.decode("utf-8", "replace"), ""


def repository(folder: Path) -> Repository:
    """Return the checkout that a folder lies in."""
    said, why = _git(folder, "rev-parse", "--show-toplevel", "--is-shallow-repository")
    if said is None:
        return Repository(folder, None, why=why)
    top, shallow = said.splitlines()[:2]
    return Repository(folder, Path(top).resolve(), shallow == "true")


@dataclass(frozen=True)
class _Past:
    """What git says of one linted folder, asked once."""

    repo: Repository
    commit: str | None
    before: Mapping[str, tuple[SourceFile, Any]] = field(default_factory=dict)


def _pasts(subject: Subject) -> list[_Past]:
    """What git says of each linted folder; kept, because several validators ask."""
    if "history" not in subject.memo:
        subject.memo["history"] = [_past(subject, folder) for folder in subject.folders]
    kept: list[_Past] = subject.memo["history"]
    return kept


def _past(subject: Subject, folder: Path) -> _Past:
    repo = repository(folder)
    if repo.top is None:
        if subject.given:  # a comparison that somebody asked for is not left out quietly
            raise UsageError(f"{folder} cannot be compared with '{subject.against}': {repo.why}")
        return _Past(repo, None)
    wanted = ("--verify", "--quiet", "--end-of-options", f"{subject.against}^{{commit}}")
    commit = (repo.run("rev-parse", *wanted) or "").strip()
    if not commit:
        if subject.given:
            raise UsageError(f"git knows no revision '{subject.against}' in {repo.top}")
        return _Past(repo, None)
    # -z: names as they are, whatever characters they have.
    names = ("diff", "--name-only", "--no-relative", "--no-ext-diff", "-z", commit, "--", ".")
    changed = {repo.top / name for name in (repo.run(*names) or "").split("\0") if name}
    before = {}
    for file in subject.files:
        if file.root == folder and file.fault is None and Path(file.path).resolve() in changed:
            text = repo.at(commit, Path(file.path))
            old = _parsed(text)
            if isinstance(old, dict):
                before[file.path] = (file, old)
    return _Past(repo, commit, before)


def _parsed(text: str | None) -> object:
    try:
        return parse_yaml(text)[0] if text is not None else None
    except RuleError:
        return None  # it could not be loaded then; there is nothing to compare with


def _changes(subject: Subject, *kinds: str) -> Iterator[tuple[SourceFile, Any]]:
    """Yield the files of these kinds that differ from the revision, with their data there."""
    for past in _pasts(subject):
        yield from ((f, old) for f, old in past.before.values() if f.kind in kinds)


# ---------------------------------------------------------------- versions


def needed_part(old: Mapping[str, Any], new: Mapping[str, Any]) -> int | None:
    """Which part of the version of a rule file a change has to raise: 0, 1, 2; None for none.

    The first where ids disappear, the second for a new or changed rule, the third for wording
    (rulesets/README.md, "Evidence, review, version"). Comments and layout are no change.
    """
    before, after = _by_id(old), _by_id(new)
    if before.keys() - after.keys() or old.get("group") != new.get("group"):
        return 0
    if list(after) != list(before):
        return 1  # new ones, or another order: of equals the first in the file is shown
    if any(_essence(before[id_]) != _essence(after[id_]) for id_ in before):
        return 1
    rest = [{k: v for k, v in data.items() if k != "version"} for data in (old, new)]
    return None if rest[0] == rest[1] else 2


def _by_id(data: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    rules = data.get("rules")
    found = rules if isinstance(rules, list) else []
    return {str(r["id"]): r for r in found if isinstance(r, dict) and "id" in r}


def _essence(rule: Mapping[str, Any]) -> dict[str, Any]:
    """What a rule does: all but its wording and its review."""
    card = rule.get("card")
    kept = {k: v for k, v in rule.items() if k not in (*_WORDING, *_REVIEW, "card")}
    return {**kept, "suggestions": card.get("suggestions") if isinstance(card, dict) else None}


@validator(
    "CDS901",
    "error",
    "a change without a new version",
    fix="raise `version`: third number for wording, second for rules, first when ids disappear",
)
def version_not_raised(subject: Subject) -> Iterator[Spot]:
    """A file that differs from the revision of --against, with a version that does not say so.

    Each assessment names the version of the rules that made it; two contents of one version
    could not be told apart.
    """
    for file, old in _changes(subject, "rules", "analytes", "valuesets", "sources"):
        if not isinstance(file.data, dict) or "version" not in old:
            continue
        if file.kind == "rules":
            part = needed_part(old, file.data)
        else:
            part = None if {**old, "version": 0} == {**file.data, "version": 0} else 2
        was, now = str(old["version"]), str(file.data.get("version", ""))
        if part is not None and not _raised(was, now, part):
            which = "its version" if part == 2 else f"the {_PARTS[part]} number of its version"
            message = f"differs from {subject.against}; raise {which} ({was}, now {now})"
            yield Spot(file.path, file.line("version"), message)


def _raised(was: str, now: str, part: int) -> bool:
    """Whether a version was raised in that part or in one before it."""
    old, new = _VERSION.fullmatch(was), _VERSION.fullmatch(now)
    if old is None or new is None:
        return was != now
    before = tuple(int(n) for n in old.groups())
    after = tuple(int(n) for n in new.groups())
    return after[: part + 1] > before[: part + 1]


@validator(
    "CDS902",
    "error",
    "an id that was used before for something else",
    fix="give the rule an id that no rule has ever had",
)
def id_reused(subject: Subject) -> Iterator[Spot]:
    """A rule whose id was removed in the past and now stands for another group or title.

    Old assessments, overrides of cards and exceptions name the id, and mean the old rule.
    """
    for past in _pasts(subject):
        gone, reused = _former_ids(past.repo)
        for file in (f for f in subject.of_kind("rules") if f.root == past.repo.folder):
            group = Path(file.path).resolve().parent.name
            for item, place in file.items("rules"):
                id_, title = str(item.get("id")), str(item.get("title"))
                was = reused.get(id_) or gone.get(id_)
                if was and (id_ in reused or (was.group, was.title) != (group, title)):
                    message = f"'{id_}' was '{was.title}' in {was.group} until {was.commit[:9]}"
                    yield Spot(file.path, file.line(*place), message, id_)


@dataclass(frozen=True)
class _Former:
    """A rule that a commit removed."""

    commit: str
    group: str
    title: str


def _former_ids(repo: Repository) -> tuple[dict[str, _Former], dict[str, _Former]]:
    """Return the rules that are gone, and those whose id came back as something else, by id.

    What comes back with its old group and title was only away for a while.
    """
    gone: dict[str, _Former] = {}
    reused: dict[str, _Former] = {}
    for commit, removed, added in _commits(repo):
        for id_ in removed.keys() - added.keys():
            gone[id_] = _Former(commit, *removed[id_])
        for id_ in added.keys() - removed.keys() & gone.keys():
            was = gone.pop(id_, None)
            if was and added[id_] != (was.group, was.title):
                reused[id_] = was
    return gone, reused


_Rules = dict[str, tuple[str, str]]  # group (the folder's name) and title of rules, by id


def _commits(repo: Repository) -> Iterator[tuple[str, _Rules, _Rules]]:
    """Yield each commit that removed or added rules, the oldest first, with these rules."""
    history = None if repo.top is None else repo.run(
        "-c", "core.quotePath=false", "log", "--reverse", "--no-renames", "--no-ext-diff",
        "--no-textconv", "--no-color", "--no-prefix", "-p", "-U0", "--format=commit %H",
        "-G- id: ", "--", "rules.yaml", "*/rules.yaml",
    )  # fmt: skip
    commit = ""
    sides: dict[str, _Rules] = {"-": {}, "+": {}}
    folders = {"-": "", "+": ""}
    last: tuple[str, str] | None = None  # side and id of the rule whose title comes next
    for line in (history or "").splitlines():
        if line.startswith("commit "):
            if commit:
                yield commit, sides["-"], sides["+"]
            commit, sides = line[7:], {"-": {}, "+": {}}
        elif line.startswith(("--- ", "+++ ")):
            folders[line[0]] = ((repo.top or Path()) / line[4:]).parent.name
        elif found := _ID.match(line):
            last = (found[1], found[2])
            sides[found[1]][found[2]] = (folders[found[1]], "")
        elif last and (title := _TITLE.match(line)) and title[1] == last[0]:
            side, id_ = last
            sides[side][id_] = (folders[side], title[2].strip().strip("\"'"))
            last = None
    if commit:
        yield commit, sides["-"], sides["+"]


@validator(
    "CDS903",
    "error",
    "a reviewed rule that was changed",
    fix="set `review` back to draft, or have the rule reviewed again and write the day down",
)
def review_outdated(subject: Subject) -> Iterator[Spot]:
    """A rule that was `approved` at the revision of --against, was changed, and still says so.

    The signature belongs to the text that was signed.
    """
    for file, old in _changes(subject, "rules"):
        before = _by_id(old)
        for item, place in file.items("rules"):
            was = before.get(str(item.get("id")), {})
            if was.get("review") != "approved" or item.get("review") != "approved":
                continue
            same_day = was.get("last_reviewed") == item.get("last_reviewed")
            changed = {k: v for k, v in was.items() if k not in _REVIEW} != {
                k: v for k, v in item.items() if k not in _REVIEW
            }
            if changed and same_day:
                message = f"was changed since {subject.against} and is still approved"
                yield Spot(file.path, file.line(*place, "review"), message, str(item["id"]))


@validator(
    "CDS904",
    "info",
    "nothing to compare with",
    fix="keep rule files in git, with their whole history (git fetch --unshallow)",
)
def no_history(subject: Subject) -> Iterator[Spot]:
    """A folder in no git checkout, without the revision of --against, or with a cut history.

    Versions (CDS901), reused ids (CDS902) and outdated reviews (CDS903) were not checked there.
    """
    for past in _pasts(subject):
        if past.repo.top is None:
            yield Spot(str(past.repo.folder), 0, f"versions were not compared: {past.repo.why}")
        elif past.commit is None:
            message = f"versions were not compared: there is no {subject.against}"
            yield Spot(str(past.repo.folder), 0, message)
        elif past.repo.shallow:
            yield Spot(str(past.repo.folder), 0, "the history is cut, so old ids are not all known")
