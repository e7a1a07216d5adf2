"""Validators CDS905 and CDS906: exceptions that a person has reviewed, `lint-accepted.yaml`.

The file stands in a ruleset folder::

    accepted:
      - id: CDS402
        rule: hypokalemia-mild      # what the lint is about; left out, where it is about nothing
        reason: The milder band is kept for its card text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from cds.errors import RuleError
from cds.lint.registry import Lint, Spot, validator
from cds.lint.subject import SourceFile, Subject
from cds.rulefile import Shape, Text
from cds.yamlmodel import check_model

__all__ = ["accept"]


class Accepted(Shape):
    """One exception."""

    id: Text
    rule: str = ""
    reason: Text


class AcceptedFile(Shape):
    """A whole `lint-accepted.yaml`."""

    accepted: tuple[Accepted, ...]


@validator(
    "CDS905",
    "error",
    "an exception that cannot be made",
    fix="write a list `accepted` of entries with `id`, `rule` and `reason`",
)
def unusable_exception(subject: Subject) -> Iterator[Spot]:
    """A `lint-accepted.yaml` of another shape, or an exception from what the loader refuses.

    What cannot be loaded cannot be run, whoever accepts it.
    """
    for file in subject.of_kind("accepted"):
        faults: list[RuleError] = []
        _entries(file, faults)
        for fault in faults:
            yield Spot(fault.path, fault.line or 0, fault.message)


@validator(
    "CDS906",
    "warning",
    "an exception that accepts nothing",
    fix="remove the entry, or correct its `id` and `rule`",
)
def idle_exception(subject: Subject) -> Iterator[Spot]:
    """An entry of `lint-accepted.yaml` that no lint matches any more."""
    return iter(())  # known only after all others have run: see `accept`


def accept(subject: Subject, lints: Sequence[Lint]) -> list[Lint]:
    """Return the lints, those that an exception accepts with its reason, and what is wrong there.

    An exception accepts every lint of its folder with its id that is about its rule.
    """
    result = list(lints)
    refused = {(fault.path, fault.line or 0) for fault in subject.faults}
    for file in subject.of_kind("accepted"):
        for number, entry in enumerate(_entries(file, [])):
            line = file.line("accepted", number)
            about = f"{entry.id} of '{entry.rule}'" if entry.rule else entry.id
            matching = [
                place
                for place, lint in enumerate(result)
                if (lint.id, lint.rule) == (entry.id, entry.rule)
                and file.root in (Path(lint.path), *Path(lint.path).parents)
            ]
            if not matching:
                spot = Spot(file.path, line, f"no {about} is found", entry.rule)
                result.append(idle_exception.lint(spot))
            for place in matching:
                if (result[place].path, result[place].line) in refused:
                    message = f"{about} cannot be accepted: the loader refuses it"
                    spot = Spot(file.path, line, message, entry.rule)
                    result.append(unusable_exception.lint(spot))
                else:
                    result[place] = replace(result[place], accepted=entry.reason)
    return result


def _entries(file: SourceFile, faults: list[RuleError]) -> tuple[Accepted, ...]:
    if file.lines is None:
        return ()
    whole = check_model(AcceptedFile, file.data, file.lines, file.path, faults)
    return whole.accepted if whole else ()
