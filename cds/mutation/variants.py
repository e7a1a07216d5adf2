"""Variants: the program of a mutant, of which only the changed rules are compiled again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from cds.engine.reference import ReferenceEngine
from cds.evaluate import Evaluator
from cds.facts import Normalizer
from cds.mutation.operators import AnalyteMutant, Mutant
from cds.program import (
    AllOf,
    AnyOf,
    CompiledRule,
    Leaf,
    Need,
    Node,
    Program,
    compile_rule,
    leaves,
)
from cds.rechecks import Rechecks, measured
from cds.rulefile import AllCriterion, AnyCriterion, FindingCriterion, Rule, Ruleset
from cds.rules import Rulesets
from cds.terminology import Terminology

__all__ = ["Variant", "Variants", "canonical"]


@dataclass(frozen=True)
class Variant:
    """What a mutant changes of a program: rules by their place, None for one that is gone.

    The strata are those of the program: no mutant adds a criterion over a finding, so that an order
    that was right stays right. `terminology` is another one only for mutants of analytes.
    """

    base: Rulesets
    mutant: Mutant | AnalyteMutant
    changed: tuple[tuple[int, CompiledRule | None], ...]
    needs: tuple[Need, ...]
    terminology: Terminology

    @cached_property
    def rules(self) -> tuple[CompiledRule, ...]:
        """All rules of the mutant, in the order of the program."""
        new = dict(self.changed)
        return tuple(
            rule
            for i, old in enumerate(self.base.program.rules)
            if (rule := new.get(i, old)) is not None
        )

    @cached_property
    def program(self) -> Program:
        """The whole program of the mutant."""
        keys = {leaf.key for r in self.rules for leaf in (*leaves(r.when), *leaves(r.unless))}
        needs = {n.key: n for n in (*self.base.program.needs, *self.needs) if n.key in keys}
        return Program(self.rules, frozenset(keys), tuple(needs[key] for key in sorted(needs)))

    @cached_property
    def rulesets(self) -> Rulesets:
        """The mutant as if it had been loaded."""
        new = {r.rule.id: r.rule for r in self.rules}
        files = tuple(
            replace(f, rules=tuple(new[r.id] for r in f.rules if r.id in new))
            for f in self.base.files
        )
        return replace(self.base, files=files, terminology=self.terminology, program=self.program)

    @cached_property
    def evaluator(self) -> Evaluator:
        """Judges the findings of the mutant."""
        return Evaluator(replace(self.base.program, rules=self.rules), self.terminology)

    @cached_property
    def engine(self) -> ReferenceEngine:
        """Runs the whole program of the mutant."""
        return ReferenceEngine(self.program)

    @cached_property
    def normalizer(self) -> Normalizer:
        """Makes the facts of the mutant."""
        return Normalizer(self.program, self.terminology)


class Variants:
    """Makes the variants of one set of rules."""

    def __init__(self, rulesets: Rulesets) -> None:
        self.base = rulesets
        self._index = {r.rule.id: i for i, r in enumerate(rulesets.program.rules)}
        self._written = [
            replace(f, rules=tuple(r for r in f.rules if not r.recheck_of)) for f in rulesets.files
        ]
        self._file_of = {r.id: f for f in self._written for r in f.rules}
        self._rechecks = Rechecks(self._written, rulesets.terminology)

    def of(self, mutant: Mutant | AnalyteMutant) -> Variant:
        """Return the variant of one mutant."""
        if isinstance(mutant, AnalyteMutant):
            return self._of_analyte(mutant)
        base, old = self.base, self._file_of[mutant.rule]
        written = base.program.rules[self._index[mutant.rule]].rule
        if _rests_on(mutant.mutated) == _rests_on(written):
            new: dict[str, Rule | None] = {mutant.rule: mutant.mutated}
            made = self._companion(mutant.mutated, old, self._rechecks)
            if made is not None:
                new[made.id] = made
        else:
            # What older results mean for other rules may be different now.
            before = {r.id: r for f in base.files for r in f.rules}
            files = self._derived(mutant)
            after = {r.id: r for f in files for r in f.rules}
            new = {id_: after.get(id_) for id_, rule in before.items() if after.get(id_) != rule}
        changed: list[tuple[int, CompiledRule | None]] = []
        needs: list[Need] = []
        for id_, rule in new.items():
            index = self._index[id_]
            if rule is None:
                changed.append((index, None))
                continue
            compiled, more = compile_rule(rule, old.group, base.terminology)
            same = base.program.rules[index]
            changed.append((index, replace(compiled, group=same.group, stratum=same.stratum)))
            needs += more
        return Variant(base, mutant, tuple(changed), tuple(needs), base.terminology)

    def _companion(self, rule: Rule, file: Ruleset, rechecks: Rechecks) -> Rule | None:
        if f"{rule.id}-recheck" not in self._index:
            return None
        if rule.recheck and file.recheck:
            return rechecks.companion(rule, file.recheck)
        return rechecks.wider_step(rule)

    def _derived(self, mutant: Mutant) -> tuple[Ruleset, ...]:
        written = [
            replace(f, rules=tuple(mutant.mutated if r.id == mutant.rule else r for r in f.rules))
            for f in self._written
        ]
        return tuple(Rechecks(written, self.base.terminology).add(written))

    def _of_analyte(self, mutant: AnalyteMutant) -> Variant:
        """Compile again what tests the analyte; companions have its context in their criteria."""
        old = self.base.terminology
        window: dict[str, Any] = {mutant.field: mutant.seconds}
        analyte = replace(old.analytes[mutant.analyte], **window)
        terminology = replace(old, analytes={**old.analytes, mutant.analyte: analyte})
        rechecks = Rechecks(self._written, terminology)
        own = tuple(f"{kind}/{mutant.analyte}/" for kind in ("lab", "rise", "ratio"))
        changed: list[tuple[int, CompiledRule | None]] = []
        needs: list[Need] = []
        for index, same in enumerate(self.base.program.rules):
            keys = {leaf.key for leaf in (*leaves(same.when), *leaves(same.unless))}
            if not any(f"{key}/".startswith(own) for key in keys):
                continue
            rule, file = same.rule, self._file_of[same.rule.recheck_of or same.rule.id]
            if rule.recheck_of:
                written = self.base.program.by_id[rule.recheck_of].rule
                made = self._companion(written, file, rechecks)
                rule = made or rule
            compiled, more = compile_rule(rule, same.group, terminology)
            compiled = replace(compiled, stratum=same.stratum)
            needs += more
            if canonical(compiled) != canonical(same):
                changed.append((index, compiled))
        return Variant(self.base, mutant, tuple(changed), tuple(needs), terminology)


def _rests_on(rule: Rule) -> tuple[bool, set[str]]:
    """Whether a rule tests results itself, and the findings that it builds on."""
    criteria = list(_flat(rule.when))
    findings = {c.finding for c in criteria if isinstance(c, FindingCriterion)}
    return any(measured(c) for c in criteria), findings


def _flat(criteria: Iterable[Any]) -> Iterator[Any]:
    for c in criteria:
        if isinstance(c, (AnyCriterion, AllCriterion)):
            yield from _flat(c.any if isinstance(c, AnyCriterion) else c.all)
        else:
            yield c


def canonical(rule: CompiledRule | None) -> Any:
    """Return what a rule means, so that two rules that mean the same give equal values."""
    if rule is None:
        return None
    r = rule.rule
    words = (r.id, r.tier, r.family, r.caveat_for, r.stands_in_from)
    return words, _meaning(rule.when), _meaning(rule.unless) if rule.unless else _meaning(AnyOf(()))


def _meaning(node: Node) -> Any:
    if isinstance(node, Leaf):
        return node.key, frozenset(frozenset(atom.tests) for atom in node.atoms)
    word = "all" if isinstance(node, AllOf) else "any"
    parts: set[Any] = set()
    for part in map(_meaning, node.parts):
        # `any` in `any`, `all` in `all`
        parts |= set(part[1]) if part[0] == word else {part}
    never: tuple[str, frozenset[Any]] = ("any", frozenset())
    if word == "all" and never in parts:
        return never
    parts.discard(never)
    return next(iter(parts)) if len(parts) == 1 else (word, frozenset(parts))
