"""Findings that reassure because something is not there, where nobody knows whether it is.

"Isolated twitching, no red flag" and "food with more minerals is fine" hold unless something else
is found. Where the data in which it would be found were not there, that is no finding but a guess,
and it is withheld (CH-43, CH-49: a key that is absent is unknown, never "no data").

Withheld are only findings on cards of `info`: an alarm is never silenced because data are missing.
What a rule rests on is read from the rules themselves, through all findings that it builds on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import cached_property
from typing import Final

from cds.cards import card_place
from cds.model import Evaluation, Finding, Suppressed, Tier
from cds.program import CompiledRule, Leaf, Node, Program, leaves

__all__ = ["Absences"]

_RECORDED: Final = frozenset({"signs", "conditions", "questionnaireResponses"})
_TAKEN: Final = frozenset({"medicines", "medicationStatements", "medicationRequests"})
_RESULTS: Final = frozenset({"laboratory", "questionnaireResponses"})
# The kinds of data in which facts of a kind would be found (`cds.facts`, `cds.medicines`).
_WHERE: Final = {
    "lab": _RESULTS,
    "rise": _RESULTS,
    "ratio": _RESULTS,
    "no-result": _RESULTS,
    "quality": _RESULTS | _TAKEN,
    "symptom": _RECORDED,
    "condition": _RECORDED,
    "lifestyle": _RECORDED,
    "history": _RECORDED | {"familyHistory"},
    "medication": _TAKEN,
    "stopped": _TAKEN,
    "ordered": frozenset[str](),
    "after": _RECORDED | _TAKEN,
}


class Absences:
    """Knows which data must be known to be absent for a rule to hold; build once."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def withhold(self, evaluation: Evaluation, missing: Collection[str]) -> Evaluation:
        """Return the evaluation without findings that rest on the absence of what is missing.

        `missing` are kinds of data. What is withheld stands among `suppressed`.
        """
        gone = [f for f in evaluation.findings if self._guessed(f, missing)] if missing else []
        if not gone:
            return evaluation
        return replace(
            evaluation,
            findings=tuple(f for f in evaluation.findings if f not in gone),
            suppressed=(
                *evaluation.suppressed,
                *(Suppressed(f, "not all data were there") for f in gone),
            ),
        )

    def _guessed(self, finding: Finding, missing: Collection[str]) -> bool:
        if card_place(finding)[1] is not Tier.info:
            return False
        return any(not self._absent[rule].isdisjoint(missing) for rule in finding.rules)

    @cached_property
    def _absent(self) -> dict[str, frozenset[str]]:
        """For each rule the kinds of data in which something must not be."""
        found: dict[str, frozenset[str]] = {}
        for rule in self._program.rules:
            kinds: set[str] = set()
            for built_on in self._built_on(rule):
                for leaf in leaves(built_on.unless):
                    kinds |= self._kinds(leaf)
            found[rule.rule.id] = frozenset(kinds)
        return found

    def _kinds(self, leaf: Leaf) -> set[str]:
        """The kinds of data in which a criterion, or what a finding rests on, would be found."""
        kinds: set[str] = set()
        for inner in self._facts(leaf):
            kinds |= _WHERE.get(inner.key.partition("/")[0], frozenset())
        return kinds

    def _facts(self, leaf: Leaf) -> Iterator[Leaf]:
        if not leaf.key.startswith("finding/"):
            yield leaf
            return
        for rule in self._program.makers.get(leaf.key, ()):
            for built_on in self._built_on(rule):
                for node in (built_on.when, built_on.unless):
                    yield from _own(node)

    def _built_on(self, rule: CompiledRule) -> list[CompiledRule]:
        """The rule and all whose findings it asks for, at any depth."""
        reached = {rule.rule.id: rule}
        waiting = [rule]
        while waiting:
            for leaf in leaves(waiting.pop().when):
                for maker in self._program.makers.get(leaf.key, ()):
                    if maker.rule.id not in reached:
                        reached[maker.rule.id] = maker
                        waiting.append(maker)
        return list(reached.values())


def _own(node: Node | None) -> Iterator[Leaf]:
    return (leaf for leaf in leaves(node) if not leaf.key.startswith("finding/"))
