"""The errors of the package: one root, children by what the reader can do about them.

Every message says what is wrong, where, and what to do. No message carries patient
data: resources are named by reference (``Observation/k1``), never by content.
"""

from __future__ import annotations

__all__ = [
    "CardError",
    "CdsError",
    "EngineError",
    "FhirInputError",
    "RuleError",
    "RuleErrors",
    "TerminologyError",
    "UnitError",
    "UsageError",
]


class CdsError(Exception):
    """Root of every error that this package raises on purpose."""


class UsageError(CdsError):
    """The caller's arguments cannot be used (a path, an engine name, a date)."""


class RuleError(CdsError):
    """A rule file is wrong; for its author.

    Args:
        message: what is wrong, what was expected, what to do.
        path: the file, as given by the caller.
        line: 1-based line in that file, or None where the whole file is meant.
        column: 1-based column in that line, where it helps to find the fault (YAML itself).
        rule: id of the rule, where one is known.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str = "",
        line: int | None = None,
        column: int | None = None,
        rule: str | None = None,
    ) -> None:
        self.message, self.path, self.line, self.rule = message, path, line, rule
        self.column = column
        place = [str(part) for part in (path, line, column) if part] if path else []
        where = ":".join(place) + ": " if place else ""
        who = f"rule '{rule}': " if rule else ""
        super().__init__(f"{where}{who}{message}")


class RuleErrors(CdsError):
    """Every error that loading a set of rule files found, in file order."""

    def __init__(self, errors: list[RuleError]) -> None:
        self.errors = sorted(errors, key=lambda e: (e.path, e.line or 0, e.message))
        super().__init__("\n".join(str(e) for e in self.errors))


class TerminologyError(CdsError):
    """A value set or the table of analytes is wrong or names something unknown."""


class UnitError(CdsError):
    """A unit is unknown, or cannot be converted into the one that is needed."""


class FhirInputError(CdsError):
    """Input that cannot be read at all; for its sender.

    Args:
        message: what is wrong and what to do.
        where: file with line, byte offset or entry index ("a.ndjson:3", "b.json entry[4]").
    """

    def __init__(self, message: str, *, where: str = "") -> None:
        self.message, self.where = message, where
        super().__init__(f"{where}: {message}" if where else message)


class EngineError(CdsError):
    """The rules engine failed; never to be read as "no finding"."""


class CardError(CdsError):
    """A card cannot be built as CDS Hooks 2.0 requires; a defect of a rule text or of us."""
