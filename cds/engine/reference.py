"""The reference engine: what a program means, in as few lines as possible.

It is the oracle that the durable engine is compared with, and the engine on interpreters for
which durable_rules does not exist. It must stay independent of `cds.engine.durable`.
"""

from __future__ import annotations

from collections.abc import Sequence

from cds.engine import because, holds, taken_up
from cds.model import Fact, Firing
from cds.program import Program, leaves

__all__ = ["ReferenceEngine"]


class ReferenceEngine:
    """Tries all rules of a stratum until none of them adds anything; then the next stratum."""

    name = "reference"

    def __init__(self, program: Program) -> None:
        self._program = program
        self._rules = [r for r in program.rules if not r.rule.stands_in_from]
        # With each rule the keys of its `when`: where none of these is known, it cannot hold.
        keys = [(r, frozenset(leaf.key for leaf in leaves(r.when))) for r in self._rules]
        strata = sorted({r.stratum for r in self._rules})
        self._strata = [[each for each in keys if each[0].stratum == s] for s in strata]

    def run(self, facts: Sequence[Fact]) -> list[Firing]:
        """Return the rules that hold; see `Engine.run`."""
        known = taken_up(self._program, facts)
        fired: set[str] = set()
        for stratum in self._strata:
            waiting = stratum
            while new := [
                r
                for r, keys in waiting
                if not keys.isdisjoint(known)
                and holds(r.when, known)
                and not (r.unless and holds(r.unless, known))
            ]:
                fired.update(r.rule.id for r in new)
                known.update((r.finding_key, {}) for r in new)
                waiting = [each for each in waiting if each[0].rule.id not in fired]
        return [Firing(r.rule.id, because(r, known)) for r in self._rules if r.rule.id in fired]
