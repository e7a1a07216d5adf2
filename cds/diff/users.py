"""Which rules a value set or an analyte touches, directly or through what is made from it."""

from __future__ import annotations

from cds.program import leaves
from cds.rules import Rulesets

__all__ = ["Users"]

_LABS = ("lab", "rise", "ratio", "no-result")


class Users:
    """The written rules of several versions by what their criteria ask for."""

    def __init__(self, *versions: Rulesets) -> None:
        self._by_concept: dict[str, dict[str, None]] = {}
        self._above: dict[str, set[str]] = {}
        for rulesets in versions:
            self._add(rulesets)

    def _add(self, rulesets: Rulesets) -> None:
        for r in rulesets.program.rules:
            for leaf in (*leaves(r.when), *leaves(r.unless)):
                kind, concept, *aspect = leaf.key.split("/")
                if kind == "quality":  # of one analyte, or of any
                    kind, concept = "lab", aspect[0] if aspect else concept
                place = f"lab/{concept}" if kind in _LABS else concept
                written = r.rule.recheck_of or r.rule.id
                self._by_concept.setdefault(place, {})[written] = None
        terminology = rulesets.terminology
        for name, value_set in terminology.value_sets.items():
            for inner in value_set.includes:
                self._above.setdefault(inner, set()).add(name)
        calcium = terminology.adjusted_calcium
        for part in (
            calcium.result,
            calcium.ionized,
            calcium.total,
            calcium.albumin,
            calcium.egfr,
        ):
            self._above.setdefault(f"lab/{part}", set()).add(f"lab/{calcium.id}")
        for ratio in terminology.derived.values():
            self._above.setdefault(f"lab/{ratio.of}", set()).add(f"lab/{ratio.id}")

    def of_value_set(self, id_: str) -> tuple[str, ...]:
        """Return the rules that ask for a value set or for one that includes it."""
        return self._of(id_)

    def of_analyte(self, id_: str) -> tuple[str, ...]:
        """Return the rules that ask for an analyte or for one that is computed from it."""
        return self._of(f"lab/{id_}")

    def _of(self, place: str) -> tuple[str, ...]:
        seen: set[str] = set()
        waiting = [place]
        while waiting:
            each = waiting.pop()
            if each not in seen:
                seen.add(each)
                waiting += self._above.get(each, ())
        found = {rule: None for each in sorted(seen) for rule in self._by_concept.get(each, ())}
        return tuple(sorted(found))
