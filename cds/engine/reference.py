"""The reference engine: what a program means, in as few lines as possible.

It is the oracle that the durable engine is compared with, and the engine on interpreters for
which durable_rules does not exist. It must stay independent of `cds.engine.durable`.
"""

from __future__ import annotations

from collections.abc import Sequence

from cds.engine import because, holds, taken_up
from cds.model import Fact, Firing
from cds.program import Program

__all__ = ["ReferenceEngine"]


class ReferenceEngine:
    """Tries all rules of a stratum until none of them adds anything; then the next stratum."""

    name = "reference"

    def __init__(self, program: Program) -> None:
        self._program = program
        self._rules = [r for r in program.rules if not r.rule.stands_in_from]

    def run(self, facts: Sequence[Fact]) -> list[Firing]:
        """Return the rules that hold; see `Engine.run`."""
        known = taken_up(self._program, facts)
        fired: set[str] = set()
        for stratum in sorted({r.stratum for r in self._rules}):
            waiting = [r for r in self._rules if r.stratum == stratum]
            while new := [
                r
                for r in waiting
                if holds(r.when, known) and not (r.unless and holds(r.unless, known))
            ]:
                fired.update(r.rule.id for r in new)
                known.update((r.finding_key, {}) for r in new)
                waiting = [r for r in waiting if r.rule.id not in fired]
        return [Firing(r.rule.id, because(r, known)) for r in self._rules if r.rule.id in fired]
