"""What validators look at: the files as written, and what could be loaded of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from cds.errors import RuleError, RuleErrors, TerminologyError, UsageError
from cds.lint.logic import Logic
from cds.lint.words import Words, WordsFile
from cds.program import CompiledRule, Program, compile_program
from cds.rechecks import Rechecks
from cds.rulefile import CardTexts, Rule, RuleFile, Ruleset
from cds.rules import Rulesets, load_rulesets, shared_folders
from cds.shipped import shipped
from cds.terminology import Terminology, load_terminology
from cds.translation import load_file
from cds.yamlfile import Lines, load_yaml
from cds.yamlmodel import check_model

__all__ = ["SourceFile", "Subject", "read_subject"]

_UNASSERTED: Final = "(no rule asserts it)"
M = TypeVar("M", bound=BaseModel)

# What a folder may hold, by the kind that `SourceFile.kind` names.
_KINDS: Final = {
    "rules": ("rules.yaml", "*/rules.yaml"),
    "cases": ("cases.yaml", "*/cases.yaml"),
    "analytes": ("analytes.yaml",),
    "cards": ("cards.yaml",),
    "valuesets": ("valuesets/*.yaml",),
    "sources": ("sources/*.yaml",),
    "translations": ("translations/*.yaml",),
    "words": ("lint.yaml",),
    "accepted": ("lint-accepted.yaml",),
}
_PLACED: Final = re.compile(r"(?P<path>.+?):(?P<line>\d+)(?::(?P<column>\d+))?: (?P<text>.+)")


@dataclass(frozen=True)
class SourceFile:
    """One file as written: `data` and `lines` of `cds.yamlfile`, or `fault` and neither.

    `root` is the ruleset folder that it belongs to, `kind` what it is by its name: "rules",
    "cases", "analytes", "cards", "valuesets", "sources", "translations", "words" or "accepted".
    """

    path: str
    root: Path
    kind: str
    data: Any
    lines: Lines | None
    fault: RuleError | None = None

    def line(self, *place: str | int) -> int:
        """The line of the key or item at that place, the nearest one above, or 0."""
        return self.lines.of(place) if self.lines else 0

    def items(self, *names: str) -> Iterator[tuple[dict[str, Any], tuple[str | int, ...]]]:
        """Yield each mapping in the lists of these names, with its place; wrong shapes are left."""
        for name in names:
            found = self.data.get(name) if isinstance(self.data, dict) else None
            for number, item in enumerate(found if isinstance(found, list) else ()):
                if isinstance(item, dict):
                    yield item, (name, number)


@dataclass(frozen=True)
class Subject:
    """Everything a validator may look at.

    Args:
        folders: the ruleset folders that are linted.
        files: every file in them, as written. What is wrong elsewhere (in the shipped files that
            a folder of one's own builds on) is not its author's to repair.
        faults: everything that the loader refuses.
        terminology: value sets and analytes, None where they cannot be loaded.
        rulesets: what can be loaded; rules that the loader refuses are missing in it. None where
            no rule can.
        words: the wording and limits of `lint.yaml`.
        against: the git revision with which the files are compared.
        given: whether a person named that revision.
        memo: what a validator keeps for others of its module.
    """

    folders: tuple[Path, ...]
    files: tuple[SourceFile, ...]
    faults: tuple[RuleError, ...]
    terminology: Terminology | None
    rulesets: Rulesets | None
    words: Words
    against: str = "HEAD"
    given: bool = False
    memo: dict[str, Any] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether everything could be loaded, so that what is not there is really missing."""
        return not self.faults and self.rulesets is not None

    def of_kind(self, *kinds: str) -> Iterator[SourceFile]:
        """Yield the files of these kinds that could be read."""
        return (f for f in self.files if f.kind in kinds and f.fault is None)

    @cached_property
    def program(self) -> Program:
        """The compiled rules, companions of `recheck` included; empty where none can be loaded."""
        return self.rulesets.program if self.rulesets else Program((), frozenset(), ())

    @cached_property
    def rules(self) -> tuple[CompiledRule, ...]:
        """The compiled rules that an author wrote, without the companions of `recheck`."""
        return tuple(r for r in self.program.rules if not r.rule.recheck_of)

    @cached_property
    def logic(self) -> Logic:
        """What follows from what in the compiled rules."""
        return Logic(self.program, self.terminology)

    @cached_property
    def _places(self) -> Mapping[str, tuple[SourceFile, int]]:
        return {
            str(item["id"]): (file, int(place[1]))
            for file in self.of_kind("rules")
            for item, place in file.items("rules")
            if "id" in item
        }

    def at(self, rule: Rule, *place: str | int) -> tuple[str, int]:
        """File and line of a rule, or of a place inside it ("card", "summary").

        For a companion of `recheck` that of the rule that asks for it.
        """
        found = self._places.get(rule.recheck_of or rule.id)
        if found is None:
            return "", 0
        file, number = found
        return file.path, file.line("rules", number, *place)


# ---------------------------------------------------------------- reading


def read_subject(
    folders: Sequence[str | Path], against: str = "HEAD", *, given: bool = False
) -> Subject:
    """Read what these folders hold, by default the shipped one; faults are kept, not raised.

    Raises: UsageError where a folder holds no file of a ruleset at all.
    """
    home = shipped("rulesets")
    roots = tuple(Path(f) for f in folders) or (home,)
    files = tuple(file for root in roots for file in _files(root))
    for root in roots:
        if not any(f.root == root for f in files):
            raise UsageError(f"no file of a ruleset (rules.yaml, valuesets/, ...) in {root}")
    faults: list[RuleError] = []
    words = _words(home, files, faults)
    for file in files:
        if file.kind == "translations" and file.fault is None:
            load_file(Path(file.path), faults)
    terminology, rulesets = None, None
    try:
        rulesets = load_rulesets(*roots)
        terminology = rulesets.terminology
    except RuleErrors as error:
        faults += error.errors
    except TerminologyError as error:
        faults += _terminology_faults(error)
    if rulesets is None:
        terminology, rulesets = _what_is_left(roots, files, faults)
    faults += [f.fault for f in files if f.fault and not _said(f.fault, faults)]
    return Subject(roots, files, tuple(faults), terminology, rulesets, words, against, given)


def _files(root: Path, *kinds: str) -> Iterator[SourceFile]:
    for kind in kinds or _KINDS:
        patterns = _KINDS[kind]
        for path in sorted({p for pattern in patterns for p in root.glob(pattern)}):
            try:
                data, lines = load_yaml(path)
            except RuleError as error:
                yield SourceFile(str(path), root, kind, None, None, error)
            else:
                yield SourceFile(str(path), root, kind, data, lines)


def _words(home: Path, files: Sequence[SourceFile], faults: list[RuleError]) -> Words:
    """The shipped words, and those that the folders add; a whole file of them takes their place."""
    words = Words.model_validate(load_yaml(home / "lint.yaml")[0])
    for file in files:
        if file.kind == "words" and file.fault is None and file.root.resolve() != home.resolve():
            if isinstance(file.data, dict) and "max_grade" in file.data:
                words = _shape(Words, file, faults) or words
                continue
            more = _shape(WordsFile, file, faults)
            words = words.with_more(more) if more else words
    return words


def _terminology_faults(error: TerminologyError) -> Iterator[RuleError]:
    """The faults of terminology files, which come as lines of one text."""
    for said in str(error).splitlines():
        match = _PLACED.fullmatch(said)
        if match:
            line, column = int(match["line"]), int(match["column"] or 0) or None
            yield RuleError(match["text"], path=match["path"], line=line, column=column)
        else:
            path, _, text = said.partition(": ")
            yield RuleError(text or said, path=path if text else "")


def _said(fault: RuleError, faults: Sequence[RuleError]) -> bool:
    return any(f.path == fault.path and f.line == fault.line for f in faults)


def _shape(model: type[M], file: SourceFile, faults: list[RuleError]) -> M | None:
    """The file as `model`, or None; what is wrong is added unless that line is known to be."""
    if file.lines is None:
        return None
    found: list[RuleError] = []
    values = check_model(model, file.data, file.lines, file.path, found)
    faults += [f for f in found if not _said(f, faults)]
    return values


def _what_is_left(
    roots: Sequence[Path], sources: Sequence[SourceFile], faults: list[RuleError]
) -> tuple[Terminology | None, Rulesets | None]:
    """Load what can be loaded where something cannot; add the faults that then come to light."""
    shared = shared_folders(roots)
    files = [f for source in sources if source.kind == "rules" for f in _rule_file(source, faults)]
    try:
        terminology = load_terminology(*shared)
    except TerminologyError as error:
        faults += [f for f in _terminology_faults(error) if not _said(f, faults)]
        return None, None
    texts = _texts(shared, faults)
    while files and texts:
        try:
            whole = Rechecks(files, terminology).add(files)
            program = compile_program(whole, terminology)
            return terminology, Rulesets(tuple(whole), terminology, texts, program)
        except RuleErrors as error:
            # A finding may lack its rule only because that rule is among what cannot be loaded.
            new = [f for f in error.errors if not f.message.endswith(_UNASSERTED)]
            faults += [f for f in new if not _said(f, faults)]
            refused = {f.rule.removesuffix("-recheck") for f in error.errors if f.rule}
        before = sum(len(f.rules) for f in files)
        files = [
            replace(f, rules=rules)
            for f in files
            if (rules := tuple(r for r in f.rules if r.id not in refused))
        ]
        if sum(len(f.rules) for f in files) == before:
            break
    return terminology, None


def _rule_file(source: SourceFile, faults: list[RuleError]) -> Iterator[Ruleset]:
    """Yield one file with those of its rules that have the right shape, if there are any."""
    file = _shape(RuleFile, source, faults)
    if file is None and isinstance(source.data, dict):
        rules = [item for item, _ in source.items("rules") if _is_rule(item)]
        try:
            file = RuleFile.model_validate({**source.data, "rules": rules})
        except ValidationError:
            return
    if file is None:
        return
    usable = tuple(
        r for r in file.rules if not (r.recheck and (file.recheck is None or r.card is None))
    )
    lines = {str(item.get("id")): source.line(*place) for item, place in source.items("rules")}
    yield Ruleset(
        file.group, file.title, file.version, "", source.path, usable, lines, file.recheck
    )


def _is_rule(item: dict[str, Any]) -> bool:
    try:
        Rule.model_validate(item)
    except ValidationError:
        return False
    return True


def _texts(roots: Sequence[Path], faults: list[RuleError]) -> CardTexts | None:
    """The card texts of those of the folders whose `cards.yaml` has no fault."""
    merged: CardTexts | None = None
    for source in (f for root in roots for f in _files(root, "cards")):
        texts = _shape(CardTexts, source, faults)
        if texts and merged:
            both = {**merged.suggestions, **texts.suggestions}
            texts = merged.model_copy(update={"suggestions": both})
        merged = texts or merged
    return merged
