"""What an institution writes: the shape of a site profile, and `Profile` for one that was read.

The format is explained in `rulesets/README.md`; what it may and may not do in `cds.site`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from cds.emergencies import Use
from cds.errors import RuleError, RuleErrors
from cds.rulefile import Duration, Id, Shape, Text
from cds.yamlmodel import VERSION, load_model

__all__ = [
    "AddedCode",
    "At",
    "ChangedSet",
    "Disabled",
    "Lookback",
    "Profile",
    "RaisedTier",
    "RemovedCode",
    "SiteFile",
]

At = tuple[str | int, ...]
"""A place in the file: keys and indexes, as `cds.yamlfile.Lines` takes them."""


class Disabled(Shape):
    """A rule that is not to be run; `by` names who decided it."""

    rule: Id
    reason: Text
    by: Text | None = None


class AddedCode(Shape):
    """A code that is to count for a value set; as in the files of value sets."""

    system: str
    code: Text
    display: Text
    match: Literal["exact", "prefix"] = "exact"
    reason: Text


class RemovedCode(Shape):
    """A code of a value set that is to count no more."""

    system: str
    code: Text
    reason: Text


class ChangedSet(Shape):
    """The changes of one value set."""

    add: tuple[AddedCode, ...] = ()
    remove: tuple[RemovedCode, ...] = ()


class RaisedTier(Shape):
    """A higher tier for a rule, with texts that fit it.

    `patient` is needed wherever the rule has a card: its own text names the time of its tier.
    """

    tier: Literal["info", "routine", "soon", "urgent", "emergency"]
    reason: Text
    summary: Text | None = None
    detail: Text | None = None
    patient: Text | None = None
    patient_summary: Text | None = None


class Lookback(Shape):
    """How long something counts: `within` of a rule's criteria, `fresh`, `context` of an analyte.

    `of` names the analyte or value set whose criteria are meant; without it all that the rule
    writes a `within` for.
    """

    reason: Text
    within: Duration | None = None
    of: Id | None = None
    fresh: Duration | None = None
    context: Duration | None = None


class SiteFile(Shape):
    """A whole site profile."""

    site: Id
    title: Text
    version: Annotated[str, Field(pattern=VERSION)]
    disable: tuple[Disabled, ...] = ()
    value_sets: Mapping[Id, ChangedSet] = {}
    tiers: Mapping[Id, RaisedTier] = {}
    lookbacks: Mapping[Id, Lookback] = {}
    require_review: Literal["under-review", "approved"] | None = None


class Profile:
    """A profile as read from its file, and the faults found in it so far.

    Raises: RuleErrors where the file is no profile.
    """

    def __init__(self, path: Path) -> None:
        self.errors: list[RuleError] = []
        file, lines = load_model(SiteFile, path, self.errors)
        if file is None or lines is None:
            raise RuleErrors(self.errors)
        self.file, self._lines, self._path = file, lines, path
        self.digest = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"site '{self.file.site}'"

    def fault(self, at: At, message: str) -> None:
        """Note a fault at a place of the file."""
        self.errors.append(RuleError(message, path=str(self._path), line=self._lines.of(at)))

    def spares(self, uses: Iterable[Use], at: At, what: str) -> bool:
        """Whether no emergency rests on any of these criteria; else that is a fault."""
        for use in uses:
            how = "rests on it" if use.helps else "depends on it through 'unless'"
            self.fault(at, f"{what}: the emergency rule '{use.emergency}' {how}")
            return False
        return True

    def stop(self) -> None:
        """Raise RuleErrors with all faults, if there are any."""
        if self.errors:
            raise RuleErrors(self.errors)
