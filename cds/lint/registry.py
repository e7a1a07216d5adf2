"""What a lint is, and the table of validators that find them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from cds.lint.subject import Subject

__all__ = ["VALIDATORS", "Lint", "Severity", "Spot", "Validator", "validator"]

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True, slots=True)
class Lint:
    """One fault or remark about rule files.

    Args:
        id: stable, never used again for something else ("CDS402").
        severity: "error", "warning" or "info".
        path: the file, as its folder was given.
        line: 1-based, 0 where the whole file is meant.
        column: 1-based, 0 where the whole line is meant.
        rule: id of the rule, value set, analyte or suggestion that it is about, or "".
        message: what is wrong.
        fix: what to do.
        accepted: the reason why a reviewed exception accepts it, or "".
    """

    id: str
    severity: Severity
    path: str
    line: int
    rule: str
    message: str
    fix: str
    accepted: str = ""
    column: int = 0

    @property
    def place(self) -> str:
        """Line and column as they follow the path (":12:3", ":12", "")."""
        return "".join(f":{n}" for n in (self.line, self.column) if n)


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a validator found something; `fix` only where the validator's own is too general."""

    path: str
    line: int
    message: str
    rule: str = ""
    fix: str = ""
    column: int = 0


Finder = Callable[["Subject"], Iterable[Spot]]


@dataclass(frozen=True, slots=True)
class Validator:
    """One validator: called with a `Subject`, it yields lints of its own id and severity.

    `why` is what ``cds lint --explain`` shows: the docstring of its function.
    """

    id: str
    severity: Severity
    title: str
    fix: str
    why: str
    find: Finder

    def __call__(self, subject: Subject) -> Iterator[Lint]:
        """Yield what it finds."""
        return (self.lint(spot) for spot in self.find(subject))

    def lint(self, spot: Spot) -> Lint:
        """Return a lint of this validator at that place."""
        fix = spot.fix or self.fix
        place, what = (spot.path, spot.line), (spot.rule, spot.message, fix)
        return Lint(self.id, self.severity, *place, *what, column=spot.column)


VALIDATORS: Final[dict[str, Validator]] = {}
"""Those that come with the package, by id; filled when their modules are imported."""


def validator(
    id: str, severity: Severity, title: str, *, fix: str
) -> Callable[[Finder], Validator]:
    """Make a validator of a function that takes a `Subject` and yields `Spot`.

    Its docstring says what it finds and why that matters. Ids that begin with "CDS" are those of
    this package.

    Raises: ValueError where one of our ids is used twice, or the docstring is missing.
    """

    def make(find: Finder) -> Validator:
        if not find.__doc__:
            raise ValueError(f"the validator {id} needs a docstring that says why")
        made = Validator(id, severity, title, fix, inspect.cleandoc(find.__doc__), find)
        if id.startswith("CDS") and VALIDATORS.setdefault(id, made) is not made:
            raise ValueError(f"the id {id} is already used by '{VALIDATORS[id].title}'")
        return made

    return make
