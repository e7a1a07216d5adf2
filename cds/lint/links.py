"""Validators CDS501 to CDS507: names that rules use of each other's files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from cds.cards import placeholders
from cds.cases import Case, load_cases_file
from cds.errors import RuleError, RuleErrors
from cds.lint.logic import always
from cds.lint.registry import Spot, validator
from cds.lint.subject import SourceFile, Subject
from cds.program import CompiledRule
from cds.rulefile import CardText
from cds.shipped import shipped
from cds.yamlfile import load_yaml

__all__ = ["TEXTS", "cases_of", "texts_of"]

TEXTS = ("summary", "detail", "patient", "patient_summary")
"""The texts of a card, by key."""


def texts_of(card: CardText) -> Iterator[tuple[str, str]]:
    """Yield the texts of a card that are written, each with its key."""
    for key in TEXTS:
        text = getattr(card, key)
        if text:
            yield key, text


@validator(
    "CDS501",
    "error",
    "a suggestion that cards.yaml does not have",
    fix="correct the name, or add the suggestion to cards.yaml",
)
def unknown_suggestion(subject: Subject) -> Iterator[Spot]:
    """A card that offers a suggestion which does not exist. Such a card cannot be made."""
    known = subject.rulesets.texts.suggestions if subject.rulesets else {}
    for rule in subject.rules:
        for number, name in enumerate(rule.rule.card.suggestions if rule.rule.card else ()):
            if name not in known:
                place = subject.at(rule.rule, "card", "suggestions", number)
                yield Spot(*place, f"there is no suggestion '{name}'", rule.rule.id)


@validator(
    "CDS502",
    "info",
    "a suggestion that no card offers",
    fix="name it in the card of a rule, or remove it",
)
def unused_suggestion(subject: Subject) -> Iterator[Spot]:
    """A suggestion of cards.yaml that no rule of the loaded files names."""
    used = {s for r in subject.program.rules if r.rule.card for s in r.rule.card.suggestions}
    for file in subject.of_kind("cards") if subject.complete else ():
        offered = file.data.get("suggestions") if isinstance(file.data, dict) else None
        for name in offered if isinstance(offered, dict) else ():
            if name not in used:
                line = file.line("suggestions", name)
                yield Spot(file.path, line, f"no rule offers '{name}'", name)


@validator(
    "CDS503",
    "error",
    "an unknown placeholder",
    fix="name an analyte of analytes.yaml, alone or with .date or .sent, or age_days",
)
def unknown_placeholder(subject: Subject) -> Iterator[Spot]:
    """A name in braces that stands for nothing. A card with it cannot be made."""
    for rule, key, name in _placeholders(subject):
        if not _known(subject, name):
            place = subject.at(rule.rule, "card", key)
            yield Spot(*place, f"nothing is known as {{{name}}}", rule.rule.id)


@validator(
    "CDS504",
    "error",
    "a placeholder whose result may be missing",
    fix="name only tests that the rule cannot hold without",
)
def unsure_placeholder(subject: Subject) -> Iterator[Spot]:
    """A value in a card text that the rule can do without. The card would say "(no result)"."""
    for rule, key, name in _placeholders(subject):
        if not _known(subject, name):
            continue
        there = always(rule.when, subject.logic.makers)
        measured = {k.split("/")[1] for k in there if k.startswith(("lab/", "rise/", "ratio/"))}
        sure = measured if name == "age_days" else measured & {name.partition(".")[0]}
        if not sure and not rule.rule.stands_in_from:
            place = subject.at(rule.rule, "card", key)
            message = f"{{{name}}} may be missing: the rule can hold without such a result"
            yield Spot(*place, message, rule.rule.id)


def _placeholders(subject: Subject) -> Iterator[tuple[CompiledRule, str, str]]:
    """Yield each placeholder of each card, those of the companions of `recheck` included."""
    for rule in subject.program.rules:
        for key, text in texts_of(rule.rule.card) if rule.rule.card else ():
            for name in sorted(placeholders(text)):
                yield rule, key, name


def _known(subject: Subject, name: str) -> bool:
    analyte, _, part = name.partition(".")
    analytes = subject.terminology.analytes if subject.terminology else {}
    return name == "age_days" or (analyte in analytes and part in ("", "date", "sent"))


@validator(
    "CDS505",
    "info",
    "a value set that no rule uses",
    fix="use it in a rule, or remove it; sets that wait for rules to come may stay",
)
def unused_value_set(subject: Subject) -> Iterator[Spot]:
    """A value set that no criterion names, nor a set that one names includes.

    What is recorded under its codes is read by nobody.
    """
    if subject.terminology is None or not subject.complete:
        return
    sets = subject.terminology.value_sets
    used = {name for key in subject.program.keys for name in key.split("/")[1:]} & set(sets)
    used |= {inner for name in used for inner in subject.terminology.included(name)}
    for file in subject.of_kind("valuesets"):
        for item, place in file.items("value_sets"):
            name = str(item.get("id"))
            if name not in used:
                yield Spot(file.path, file.line(*place), f"no rule uses '{name}'", name)


@validator(
    "CDS506",
    "error",
    "a row in `covers` that no source has",
    fix="correct the id, or add the row to sources/",
)
def unknown_row(subject: Subject) -> Iterator[Spot]:
    """An id in `covers` that stands in no file of sources/. Coverage would count it as nothing."""
    rows = _rows(subject.of_kind("sources"))
    named = {row for rule in subject.rules for row in rule.rule.covers}
    if named - rows:
        rows |= _rows(_shipped_sources(subject))
    for rule in subject.rules:
        for number, row in enumerate(rule.rule.covers):
            if row not in rows:
                place = subject.at(rule.rule, "covers", number)
                yield Spot(*place, f"no file of sources/ has the row {row}", rule.rule.id)


def _rows(files: Iterable[SourceFile]) -> set[str]:
    return {
        str(item.get("id"))
        for file in files
        for item, _ in file.items(*(file.data if isinstance(file.data, dict) else ()))
    }


def _shipped_sources(subject: Subject) -> Iterator[SourceFile]:
    home = shipped("rulesets")
    if any(folder.resolve() == home.resolve() for folder in subject.folders):
        return
    for path in sorted((home / "sources").glob("*.yaml")):
        try:
            data, lines = load_yaml(path)
        except RuleError:
            continue  # that is for those who lint the shipped rules
        yield SourceFile(str(path), home, "sources", data, lines)


@validator(
    "CDS507",
    "error",
    "a case that cannot be used",
    fix="write the case as rulesets/README.md says",
)
def unusable_case(subject: Subject) -> Iterator[Spot]:
    """A case that `cds test` would refuse: it names an unknown rule, or a line is not understood.

    An expectation of a rule that is not there would, under `not`, come true for ever.
    """
    for file in subject.of_kind("cases") if subject.complete else ():
        for fault in cases_of(subject, file)[1]:
            yield Spot(file.path, fault.line or 0, fault.message)


def cases_of(subject: Subject, file: SourceFile) -> tuple[list[Case], list[RuleError]]:
    """Return the cases of a file, rows of `each` written out, or the faults in it.

    Nothing of either where the rules beside it could not be loaded.
    """
    key = f"cases {file.path}"
    if key not in subject.memo:
        here, rulesets = Path(file.path).parent, subject.rulesets
        groups = (
            [f.group for f in rulesets.files if Path(f.path).parent == here] if rulesets else []
        )
        found: tuple[list[Case], list[RuleError]] = ([], [])
        if rulesets and groups:
            try:
                found = (load_cases_file(Path(file.path), groups[0], rulesets), [])
            except RuleErrors as error:
                found = ([], error.errors)
        subject.memo[key] = found
    cases: tuple[list[Case], list[RuleError]] = subject.memo[key]
    return cases
