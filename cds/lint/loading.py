"""Validators CDS101 to CDS107: what the loader refuses. Nothing is judged here a second time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from cds.errors import RuleError
from cds.lint.registry import Spot, validator
from cds.lint.subject import Subject

__all__ = ["id_of"]

# The loader's own words for what has an id of its own, each with the validator that speaks for it.
_SAID: Final = (
    (re.compile(r"stands in a cycle through 'unless'"), "CDS104"),
    (re.compile(r"the id is already used in |^'.+' stands twice; first at "), "CDS105"),
    (re.compile(r"\(no rule asserts it\)$"), "CDS106"),
    (re.compile(r"^code \S+ stands already in "), "CDS203"),
    (re.compile(r"is not a known UCUM unit"), "CDS205"),
    (re.compile(r"write the (threshold|rise) of |does not convert into "), "CDS206"),
    (re.compile(r"^'system': use one of "), "CDS208"),
    (re.compile(r"is empty: give it codes or leave it out$"), "CDS209"),
    (re.compile(r"\.card: key 'patient' is missing|\.card\.patient: "), "CDS703"),
)


def id_of(fault: RuleError, unreadable: frozenset[str]) -> str:
    """The id of the validator that reports a fault; `unreadable` are files that are no YAML."""
    if fault.path in unreadable:
        return "CDS101"
    for pattern, id_ in _SAID:
        if pattern.search(fault.message):
            return id_
    if re.match(
        r"unknown (analyte|value set)|value set '.+' is of kind|there is no ", fault.message
    ):
        return "CDS107"
    return "CDS103" if fault.rule else "CDS102"


def faults(subject: Subject, id_: str) -> Iterator[RuleError]:
    """Yield the faults that the validator with this id reports."""
    unreadable = frozenset(f.path for f in subject.files if f.fault)
    return (fault for fault in subject.faults if id_of(fault, unreadable) == id_)


def _spots(subject: Subject, id_: str) -> Iterator[Spot]:
    for fault in faults(subject, id_):
        place = (fault.path, fault.line or 0)
        yield Spot(*place, fault.message, fault.rule or "", column=fault.column or 0)


@validator(
    "CDS101",
    "error",
    "the file is not readable as YAML",
    fix="correct the file at that line; anchors, tags and merge keys are to be written out",
)
def not_yaml(subject: Subject) -> Iterator[Spot]:
    """A file that is not readable as the strict part of YAML that rule files use.

    Nothing in it counts, so nothing in it can be checked either.
    """
    return _spots(subject, "CDS101")


@validator(
    "CDS102",
    "error",
    "an unknown key, a missing one, or a value of the wrong kind",
    fix="see the table of keys in rulesets/README.md, or a rule of the shipped files",
)
def wrong_shape(subject: Subject) -> Iterator[Spot]:
    """A file that does not have the shape of its format.

    Every key is known and typed, so that a misspelled one can never be silently without effect.
    """
    return _spots(subject, "CDS102")


@validator(
    "CDS103",
    "error",
    "a rule that the loader refuses",
    fix="change the rule as the message says",
)
def refused(subject: Subject) -> Iterator[Spot]:
    """A rule whose keys are right, and whose meaning the loader cannot accept.

    No limit or more than one, a limit finer than the grid, a rule without criteria or card.
    """
    return _spots(subject, "CDS103")


@validator(
    "CDS104",
    "error",
    "a cycle through 'unless'",
    fix="take one of these rules out of the circle: let its 'unless' name facts, not a finding",
)
def cycle(subject: Subject) -> Iterator[Spot]:
    """Rules that wait for each other, with an `unless` among them.

    Whether one of them holds would depend on whether it holds. The loader refuses them.
    """
    rules = [
        (source.path, source.line("rules", number), item)
        for source in subject.of_kind("rules")
        for number, item in enumerate(_rules(source.data))
    ]
    for fault in faults(subject, "CDS104"):
        circle = _circle(fault.rule or "", [item for _, _, item in rules])
        text = f"stands in a cycle through 'unless': {' -> '.join(circle)}" if circle else ""
        yield Spot(fault.path, fault.line or 0, text or fault.message, fault.rule or "")


def _rules(data: object) -> Iterator[Mapping[str, object]]:
    found = data.get("rules") if isinstance(data, dict) else None
    for item in found if isinstance(found, list) else ():
        yield item if isinstance(item, dict) else {}


def _circle(start: str, rules: list[Mapping[str, object]]) -> list[str]:
    """The shortest way from a rule back to itself that goes through an `unless`; [] if none."""
    makers: dict[object, list[str]] = {}
    for rule in rules:
        makers.setdefault(rule.get("finding") or rule.get("id"), []).append(str(rule.get("id")))
    waits = {
        str(rule.get("id")): [
            (maker, word == "unless")
            for word in ("when", "unless")
            for finding in _findings(rule.get(word))
            for maker in makers.get(finding, ())
        ]
        for rule in rules
    }
    ways = [([start], False)]
    seen = {(start, False)}
    for way, through in ways:  # grows while it is read: breadth first
        for maker, unless in waits.get(way[-1], ()):
            state = (maker, through or unless)
            if maker == start and state[1]:
                return [*way, start]
            if state not in seen:
                seen.add(state)
                ways.append(([*way, maker], state[1]))
    return []


def _findings(criteria: object) -> Iterator[str]:
    if isinstance(criteria, list):
        for criterion in criteria:
            yield from _findings(criterion)
    elif isinstance(criteria, dict):
        if isinstance(criteria.get("finding"), str):
            yield criteria["finding"]
        yield from _findings(criteria.get("any"))
        yield from _findings(criteria.get("all"))


@validator(
    "CDS105",
    "error",
    "an id that is used twice",
    fix="give one of them an id of its own, which no rule has ever had",
)
def id_twice(subject: Subject) -> Iterator[Spot]:
    """Two rules, value sets or analytes with one id.

    Ids are for ever and unique: assessments, cases and overrides of cards name them.
    """
    return _spots(subject, "CDS105")


@validator(
    "CDS106",
    "error",
    "a finding that no rule asserts",
    fix="correct the name, or write the rule that asserts it",
)
def finding_without_maker(subject: Subject) -> Iterator[Spot]:
    """A criterion that waits for a finding which no rule comes to.

    A `when` with it never holds, an `unless` with it never blocks.
    """
    return _spots(subject, "CDS106")


@validator(
    "CDS107",
    "error",
    "a value set or analyte that nobody knows",
    fix="correct the name, or add the set in valuesets/ or the test in analytes.yaml",
)
def unknown_name(subject: Subject) -> Iterator[Spot]:
    """The name of a value set or analyte that is in no file, or of a set of another kind."""
    return _spots(subject, "CDS107")
