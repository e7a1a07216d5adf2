"""Coverage: which rows of the sources are implemented, left out on purpose, or still missing.

A row is covered by rules (`covers`), by the limits of `analytes.yaml`, by the questions of
`questionnaires.yaml`, or by a feature of the software that the reviewed `coverage.yaml` names.
The same file says which rows are left out, and why. Nothing here judges a rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field

from cds.errors import RuleError
from cds.rulefile import Shape, Text
from cds.rules import Rulesets
from cds.shipped import shipped
from cds.yamlfile import Lines, load_yaml
from cds.yamlmodel import check_model

__all__ = ["CoverageFile", "Feature", "LeftOut", "Row", "coverage", "rows"]

_THRESHOLD: Final = re.compile(r"\bTH-\d{3}\b")
_Ids = Annotated[tuple[Text, ...], Field(min_length=1)]


class Feature(Shape):
    """Rows that a feature of the software implements; `where` is how to see it."""

    ids: _Ids
    feature: Text
    where: Text


class LeftOut(Shape):
    """Rows that are left out on purpose; `reviewed` is when somebody last looked at them."""

    ids: _Ids
    reason: Text
    reviewed: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]


class CoverageFile(Shape):
    """`coverage.yaml`."""

    by_feature: tuple[Feature, ...] = ()
    not_covered: tuple[LeftOut, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One row of `sources/`: its table, and what it says, in one line.

    `out` is why the source itself leaves the row out, "" where it does not. `disagreement` is
    where the sources contradict each other.
    """

    id: str
    table: str
    text: str
    out: str
    disagreement: str


def rows(*folders: str | Path) -> dict[str, Row]:
    """Return every row of `sources/*.yaml` in the shipped rulesets and `folders`, by id.

    Raises: RuleError if a file of sources cannot be read, or two rows have one id.
    """
    found: dict[str, Row] = {}
    for home in _homes(folders):
        for path in sorted((home / "sources").glob("*.yaml")):
            data, lines = load_yaml(path)
            if not isinstance(data, dict):
                raise RuleError("a file of sources holds keys", path=str(path))
            for table, number, entry in _entries(data):
                row = _row(table, entry)
                if row.id in found:
                    at = lines.of((table, number))
                    raise RuleError(f"the row {row.id} stands twice", path=str(path), line=at)
                found[row.id] = row
    return found


def _entries(data: Mapping[str, Any]) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    for table, entries in data.items():
        for number, entry in enumerate(entries if isinstance(entries, list) else ()):
            yield table, number, entry


def _row(table: str, entry: Mapping[str, Any]) -> Row:
    out = str(entry.get("scope_reason") or "out of scope") if entry.get("scope") == "out" else ""
    parts = (entry.get(k) for k in ("analyte", "direction", "severity", "bound", "unit"))
    text = entry.get("text") or " ".join(str(part) for part in parts if part)
    return Row(str(entry["id"]), table, str(text), out, str(entry.get("disagreement") or ""))


def coverage(rulesets: Rulesets, *folders: str | Path) -> dict[str, Any]:
    """Return which claims, red flags, thresholds and medication rules are covered.

    ``{"covered": {id: [rule ids]}, "not_covered": {id: reason}, "missing": [ids]}`` over every
    id of `sources/*.yaml` in the shipped rulesets and `folders`. In place of rule ids stand
    "analytes.yaml" or "questionnaires.yaml" for what these files implement, and "feature: ..."
    for a feature that `coverage.yaml` names. Missing is all that nobody has decided on.

    Raises: RuleError, with file and line, if a file cannot be read, `coverage.yaml` or
    `questionnaires.yaml` names an unknown row, a row is decided twice, or a row that is covered
    is also said to be left out.
    """
    known = rows(*folders)
    decided = _Decided(known)
    for file in rulesets.files:
        for rule in file.rules:
            decided.by_rule(rule.id, rule.covers)
    for home in _homes(folders):
        decided.by_limits(home / "analytes.yaml")
        decided.by_questions(home / "questionnaires.yaml")
        decided.by_review(home / "coverage.yaml")
    decided.check()
    return {
        "covered": {id_: decided.covered[id_] for id_ in known if id_ in decided.covered},
        "not_covered": {
            id_: reason
            for id_, row in known.items()
            if id_ not in decided.covered and (reason := decided.reason(row))
        },
        "missing": [
            id_
            for id_, row in known.items()
            if id_ not in decided.covered and not decided.reason(row)
        ],
    }


def _homes(folders: Sequence[str | Path]) -> list[Path]:
    return list(dict.fromkeys(Path(f).resolve() for f in (shipped("rulesets"), *folders)))


@dataclass
class _Decided:
    """What has been decided on each row so far."""

    known: Mapping[str, Row]
    covered: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, tuple[str, str, int]] = field(default_factory=dict)  # reason, path, line

    def reason(self, row: Row) -> str:
        """Return why a row is not covered, "" where nobody has decided so."""
        return self.left_out[row.id][0] if row.id in self.left_out else row.out

    def by_rule(self, rule: str, ids: Sequence[str]) -> None:
        """Add what one rule covers; an unknown row there is for `cds lint` (CDS506)."""
        for id_ in ids:
            self.covered.setdefault(id_, []).append(rule)

    def by_limits(self, path: Path) -> None:
        """Add the rows that `analytes.yaml` names: limits and windows that no rule repeats."""
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        for id_ in sorted(set(_THRESHOLD.findall(text))):
            self.covered.setdefault(id_, []).append(path.name)

    def by_questions(self, path: Path) -> None:
        """Add the rows that any `covers` of `questionnaires.yaml` names."""
        if not path.is_file():
            return
        data, lines = load_yaml(path)
        for id_, place in _covers(data, ()):
            self.must_exist(id_, path, lines.of(place))
            if path.name not in self.covered.setdefault(id_, []):
                self.covered[id_].append(path.name)

    def by_review(self, path: Path) -> None:
        """Add what `coverage.yaml` decides."""
        if not path.is_file():
            return
        data, lines = load_yaml(path)
        errors: list[RuleError] = []
        file = check_model(CoverageFile, data, lines, path, errors)
        if file is None:
            raise errors[0]
        said: dict[str, int] = {}
        for id_, line, entry in _decisions(file, lines):
            self.must_exist(id_, path, line)
            if id_ in said:
                message = f"{id_} stands twice; first on line {said[id_]}"
                raise RuleError(message, path=str(path), line=line)
            said[id_] = line
            if isinstance(entry, Feature):
                self.covered.setdefault(id_, []).append(f"feature: {entry.feature}")
            else:
                self.left_out[id_] = (entry.reason, str(path), line)

    def must_exist(self, id_: str, path: Path, line: int) -> None:
        if id_ not in self.known:
            raise RuleError(f"no file of sources/ has the row {id_}", path=str(path), line=line)

    def check(self) -> None:
        """Refuse a row that is both covered and left out."""
        for id_, (_, path, line) in self.left_out.items():
            if id_ in self.covered:
                by = ", ".join(self.covered[id_])
                raise RuleError(f"{id_} is left out here and covered by {by}", path=path, line=line)


def _decisions(file: CoverageFile, lines: Lines) -> Iterator[tuple[str, int, Feature | LeftOut]]:
    lists: tuple[tuple[str, Sequence[Feature | LeftOut]], ...] = (
        ("by_feature", file.by_feature),
        ("not_covered", file.not_covered),
    )
    for key, entries in lists:
        for number, entry in enumerate(entries):
            for place, id_ in enumerate(entry.ids):
                yield id_, lines.of((key, number, "ids", place)), entry


def _covers(
    data: object, place: tuple[str | int, ...]
) -> Iterator[tuple[str, tuple[str | int, ...]]]:
    """Yield each id in a list named `covers`, at any depth, with its place."""
    items: Iterator[tuple[str | int, object]] = iter(())
    if isinstance(data, dict):
        items = iter(data.items())
        covers = data.get("covers")
        for number, id_ in enumerate(covers if isinstance(covers, list) else ()):
            yield str(id_), (*place, "covers", number)
    elif isinstance(data, list):
        items = iter(enumerate(data))
    for key, value in items:
        yield from _covers(value, (*place, key))
