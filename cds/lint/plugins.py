"""Validators of other packages, and CDS907 for those that fail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from cds.lint.registry import VALIDATORS, Lint, Spot, Validator, validator
from cds.lint.subject import Subject

__all__ = ["GROUP", "Plugin", "installed", "run"]

GROUP = "cds.validators"
"""The group of entry points that is looked at."""


@dataclass(frozen=True)
class Plugin:
    """An entry point with what it leads to, or why it cannot be used."""

    name: str
    found: Any = None
    fault: str = ""


@validator(
    "CDS907",
    "error",
    "a validator of another package that fails",
    fix="update or remove that package, or tell its author",
)
def failing_plugin(subject: Subject) -> Iterator[Spot]:
    """An entry point of the group `cds.validators` that cannot be loaded, run, or told apart.

    What it would have found is not known.
    """
    return iter(())  # known only when they are run: see `run`


def installed() -> list[Plugin]:
    """Return the validators that other packages offer, in the order of their names."""
    result = []
    for entry in sorted(entry_points(group=GROUP), key=lambda e: (e.name, e.value)):
        try:
            found = entry.load()
        except Exception as error:  # whatever their import raises
            result.append(Plugin(entry.name, fault=f"cannot be loaded: {_said(error)}"))
            continue
        if isinstance(found, Validator) and VALIDATORS.get(found.id, found) is not found:
            result.append(Plugin(entry.name, fault=f"uses the id {found.id}, which is ours"))
        else:
            result.append(Plugin(entry.name, found))
    return result


def run(plugins: Sequence[Plugin], subject: Subject) -> list[Lint]:
    """Return what other packages' validators find; one that fails is a lint of its own."""
    result: list[Lint] = []
    for plugin in plugins:
        fault = plugin.fault
        if not fault:
            try:
                lints = list(plugin.found(subject))
            except Exception as error:  # theirs, so it says nothing of the rules
                fault = f"fails: {_said(error)}"
            else:
                result += (entry for entry in lints if isinstance(entry, Lint))
                if not all(isinstance(entry, Lint) for entry in lints):
                    fault = "yields something that is no Lint"
        if fault:
            place = str(subject.folders[0])
            message = f"the validator '{plugin.name}' {fault}"
            result.append(failing_plugin.lint(Spot(place, 0, message)))
    return result


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
