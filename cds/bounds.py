"""Where answers change: the numbers and windows of a program, by the fact that they test.

What counterfactuals, synthesized cases and test strategies aim at, and what pictures of bands show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from cds.program import GRID, Program, leaves

__all__ = ["STEP", "NumberBound", "WindowBound", "number_bounds", "window_bounds"]

STEP = Decimal(1) / GRID
"""The smallest difference, in the canonical unit, that a threshold can be written with."""

# What a lab or trend fact calls its value, and a patient's age in years.
_VALUES = {"low": 2 * GRID, "high": 2 * GRID, "amount": 2 * GRID, "years": 1}
_AGES = ("age", "newest", "oldest", "since")


@dataclass(frozen=True, slots=True, order=True)
class NumberBound:
    """A number that a rule compares a value with: `value` in the canonical unit, `op` lt ... ge."""

    value: Decimal
    op: str
    rule: str


@dataclass(frozen=True, slots=True, order=True)
class WindowBound:
    """An age in seconds that a rule compares with; `op` le ("within") or gt ("longer than")."""

    seconds: int
    op: str
    rule: str


def number_bounds(program: Program) -> Mapping[str, tuple[NumberBound, ...]]:
    """Return, by fact key ("lab/potassium", "rise/potassium/PT12H"), every number, rising."""
    found: dict[str, set[NumberBound]] = {}
    for rule in program.rules:
        for leaf in (*leaves(rule.when), *leaves(rule.unless)):
            for test in (t for atom in leaf.atoms for t in atom.tests if t.prop in _VALUES):
                value = Decimal(test.value) / _VALUES[test.prop]
                found.setdefault(leaf.key, set()).add(NumberBound(value, test.op, rule.rule.id))
    return {key: tuple(sorted(bounds)) for key, bounds in sorted(found.items())}


def window_bounds(program: Program) -> Mapping[str, tuple[WindowBound, ...]]:
    """Return, by fact key, every window (age of a result, onset, start of a medicine), rising."""
    found: dict[str, set[WindowBound]] = {}
    for rule in program.rules:
        for leaf in (*leaves(rule.when), *leaves(rule.unless)):
            for test in (t for atom in leaf.atoms for t in atom.tests if t.prop in _AGES):
                bound = WindowBound(test.value, test.op, rule.rule.id)
                found.setdefault(leaf.key, set()).add(bound)
    return {key: tuple(sorted(bounds)) for key, bounds in sorted(found.items())}
