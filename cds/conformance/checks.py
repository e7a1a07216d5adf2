"""What a check is, what it may find, and the list of all checks.

Rows are those of a checklist of CDS Hooks 2.0 ("CH-95"), see `rows.py`. A row may have several
checks: the one that is numbered like the row asks what the specification asks, those with a further
number ("CH-56.1") what it leaves open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from cds.conformance.run import Run

__all__ = [
    "CHECKS",
    "COUNTED",
    "LEVELS",
    "Check",
    "Found",
    "Level",
    "Outcome",
    "Result",
    "Skip",
    "check",
    "failed",
    "faults",
    "not_applicable",
    "passed",
    "skipped",
]

Level = Literal["SHALL", "STR", "SHOULD", "MAY", "BP", "LOCAL"]
LEVELS: Final[dict[Level, str]] = {
    "SHALL": "the specification says SHALL or MUST",
    "STR": "a member, its type and whether it is required",
    "SHOULD": "the specification says SHOULD or recommends",
    "MAY": "optional; how it is done where it is done",
    "BP": "best practice, not part of the specification",
    "LOCAL": "the specification is silent",
}
COUNTED: Final[tuple[Level, ...]] = ("SHALL", "STR")
"""The levels of which a failure makes the service non-conformant."""

Result = Literal["pass", "fail", "skip", "n/a"]


@dataclass(frozen=True, slots=True)
class Found:
    """What one check says: its result, and what was seen or why nothing could be."""

    result: Result
    seen: str


class Skip(Exception):
    """Ends a check that has nothing to look at; the text is the reason."""

    def __init__(self, reason: str, *, applicable: bool = True) -> None:
        self.found = Found("skip" if applicable else "n/a", reason)
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Check:
    """One numbered check."""

    id: str
    level: Level
    requirement: str
    look: Callable[[Run], Found]

    @property
    def row(self) -> str:
        """The row of the checklist to which the check belongs."""
        return self.id.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A check, and what it found."""

    about: Check
    found: Found


CHECKS: Final[list[Check]] = []
"""All checks, in the order of the checklist once `cds.conformance` is imported."""


def check(
    id: str, level: Level, requirement: str
) -> Callable[[Callable[[Run], Found]], Callable[[Run], Found]]:
    """Put a function on the list of checks."""

    def add(look: Callable[[Run], Found]) -> Callable[[Run], Found]:
        CHECKS.append(Check(id, level, requirement, look))
        return look

    return add


def passed(seen: str) -> Found:
    """Return that all is as required."""
    return Found("pass", seen)


def failed(seen: str) -> Found:
    """Return that something is not as required."""
    return Found("fail", seen)


def skipped(reason: str) -> Found:
    """Return that the check could not be done here."""
    return Found("skip", reason)


def not_applicable(reason: str) -> Found:
    """Return that the service has nothing to which the requirement applies."""
    return Found("n/a", reason)


def faults(found: Iterable[str], seen: str) -> Found:
    """Return a failure that names the first few faults, or else a pass with what was seen."""
    all_ = list(dict.fromkeys(found))
    if not all_:
        return passed(seen)
    more = f"; and {len(all_) - 3} more" if len(all_) > 3 else ""
    return failed("; ".join(all_[:3]) + more)
