"""Mutants that may live: `mutants.yaml` beside a group's cases, each with its reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from cds.errors import RuleError
from cds.rulefile import Ruleset, Shape, Text
from cds.yamlmodel import load_model

__all__ = ["Accepted", "load_accepted"]


class _Entry(Shape):
    mutant: Text
    reason: Text
    reviewed: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")] | None = None


class _File(Shape):
    accepted: tuple[_Entry, ...] = ()


@dataclass(frozen=True, slots=True)
class Accepted:
    """A mutant that somebody says may live, and why; `reviewed` is when a second one agreed."""

    mutant: str
    reason: str
    reviewed: str | None
    path: str
    line: int


def load_accepted(files: Iterable[Ruleset], faults: list[RuleError]) -> dict[str, Accepted]:
    """Return what `mutants.yaml` beside each of these rule files says, by the id of the mutant.

    What is wrong with a file, and a mutant listed twice, is added to `faults`.
    """
    found: dict[str, Accepted] = {}
    for path in dict.fromkeys(Path(f.path).with_name("mutants.yaml") for f in files):
        if not path.is_file():
            continue
        file, lines = load_model(_File, path, faults)
        for index, entry in enumerate(file.accepted if file else ()):
            line = lines.of(("accepted", index)) if lines else 0
            if entry.mutant in found:
                other = found[entry.mutant]
                message = f"mutant {entry.mutant} is already listed in {other.path}:{other.line}"
                faults.append(RuleError(message, path=str(path), line=line))
                continue
            found[entry.mutant] = Accepted(
                entry.mutant, entry.reason, entry.reviewed, str(path), line
            )
    return found
