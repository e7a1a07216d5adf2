"""What emergencies rest on: every rule and criterion that can make or prevent one.

A criterion *helps* an emergency where its holding can only bring the emergency about, and
*hinders* it where it stands behind an `unless`; through findings of other rules, at any depth,
each `unless` on the way turns one into the other. Who changes rules from outside (`cds.site`)
asks here what must stay as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from cds.model import Tier
from cds.program import CompiledRule, Leaf, Program, leaves
from cds.rulefile import MedicationCriterion, NoResultCriterion, PresenceCriterion
from cds.terminology import SYSTEMS, Terminology, ValueSet, seconds_of

__all__ = ["RESULTS", "Emergencies", "Use", "analyte_of", "sets_of"]

_MEDICINES: Final = ("medication", "stopped", "ordered")
_PRESENT: Final = ("symptom", "condition", "lifestyle", "history", *_MEDICINES)

RESULTS: Final = ("lab", "rise", "ratio")
"""Kinds of facts that results of an analyte make."""

_RESULT_KEYS: Final = tuple(f"{kind}/" for kind in (*RESULTS, "no-result"))


def sets_of(key: str) -> tuple[str, ...]:
    """Return the value sets whose codes decide about a fact; for a sequence, both of them.

    >>> sets_of("after/tremor/start/ssri"), sets_of("no-result/lithium/since/ace-inhibitor")
    (('tremor', 'ssri'), ('ace-inhibitor',))
    """
    kind, concept, *rest = key.split("/")
    if kind == "after":
        return concept, rest[1]
    if kind == "no-result":
        return tuple(rest[1:])
    return (concept,) if kind in _PRESENT else ()


def analyte_of(key: str) -> str | None:
    """Return the analyte of whose results a fact is made, or None."""
    kind, concept = key.split("/")[:2]
    return concept if kind in RESULTS else None


@dataclass(frozen=True, slots=True)
class Use:
    """One criterion of `rule`, which `emergency` (the id of a rule) rests on."""

    leaf: Leaf
    rule: CompiledRule
    emergency: str
    helps: bool

    @property
    def kind(self) -> str:
        """Kind of the fact that is tested ("lab", "symptom")."""
        return self.leaf.key.split("/")[0]

    @property
    def concept(self) -> str:
        """Analyte or value set that is tested, the first one of a sequence."""
        return self.leaf.key.split("/")[1]

    @property
    def sets(self) -> tuple[str, ...]:
        """Value sets that are tested."""
        return sets_of(self.leaf.key)

    @property
    def undone_by_more(self) -> bool:
        """Whether one record more, beside those for which it holds, could make it not hold.

        That is so of a beginning that nobody knows, and of what stopped last after a long time.
        """
        c = self.leaf.criterion
        if isinstance(c, PresenceCriterion):
            return c.onset is not None
        return isinstance(c, MedicationCriterion) and c.lasted is not None


class Emergencies:
    """What the emergencies of one program rest on."""

    def __init__(self, program: Program, terminology: Terminology) -> None:
        self.program, self.terminology = program, terminology
        self._makers: dict[str, list[CompiledRule]] = {}
        for rule in program.rules:
            self._makers.setdefault(rule.finding_key, []).append(rule)
        self.uses: list[Use] = []
        self._beside: dict[str, frozenset[str]] = {}
        # Rules whose firing helps (True) or hinders (False), with an emergency that it does so to.
        self._reached: dict[tuple[str, bool], str] = {}
        for root in self._roots():
            self._visit(root, True, root.rule.id)

    def _roots(self) -> Iterator[CompiledRule]:
        """Yield the rules that make emergencies, for adults or through a stand-in for children."""
        stand_ins = [r.rule for r in self.program.rules if r.rule.stands_in_from]
        least = min(
            (Tier[r.stands_in_from or ""] for r in stand_ins if r.tier_value is Tier.emergency),
            default=Tier.emergency,
        )
        for rule in self.program.rules:
            if rule.rule.tier_value >= least and not rule.rule.step:
                yield rule

    def _visit(self, rule: CompiledRule, helps: bool, emergency: str) -> None:
        if (rule.rule.id, helps) in self._reached:
            return
        self._reached[rule.rule.id, helps] = emergency
        for tree, same in ((rule.when, helps), (rule.unless, not helps)):
            for leaf in leaves(tree):
                self.uses.append(Use(leaf, rule, emergency, same))
                for maker in self._makers.get(leaf.key, ()):
                    self._visit(maker, same, emergency)

    # ------------------------------------------------------------ rules

    def needing(self, rule_id: str) -> str | None:
        """Return an emergency that could be missed if this rule were not run, or None.

        That is the rule itself, one that builds on its finding, or one that it lends its
        records to: `symptom: x` denied is only read while some rule asks for `x`.
        """
        rule = self.program.by_id[rule_id]
        if rule.rule.stands_in_from:
            return next(iter(self._reached.values()), None)
        found = self._reached.get((rule_id, True))
        if found is not None:
            return found
        for leaf in (*leaves(rule.when), *leaves(rule.unless)):
            if leaf.key.startswith(_RESULT_KEYS):
                # An impossible result is only seen where some rule asks for its analyte.
                for use in self.uses:
                    if use.kind == "quality" and use.helps:
                        return use.emergency
            for concept in sets_of(leaf.key):
                for use in () if self._is_medicine(concept) else self.sharing(concept):
                    if not use.helps and concept not in use.sets:
                        return use.emergency
        return None

    # ------------------------------------------------------------ value sets

    def with_set(self, concept: str) -> list[Use]:
        """Return the criteria that a code of this set satisfies."""
        return self._over(self._sets_above[concept])

    def sharing(self, concept: str) -> list[Use]:
        """Return the criteria over sets that have a code in common with this one."""
        return self._over(self.beside(concept))

    def _over(self, concepts: Collection[str]) -> list[Use]:
        return [use for use in self._present if any(name in concepts for name in use.sets)]

    @cached_property
    def _present(self) -> list[Use]:
        return [use for use in self.uses if use.sets]

    @cached_property
    def _tested(self) -> frozenset[str]:
        return frozenset(name for use in self._present for name in use.sets)

    def _is_medicine(self, concept: str) -> bool:
        return self.terminology.kind_of(concept) == "medication"

    def at_places(self, concept: str, *, more: bool) -> list[Use]:
        """Return the criteria that more codes of this set (or fewer) could turn at some place.

        A finding at a place of the body can become another one, in its stead.
        """
        turned: list[Use] = []
        for (finding, _, _), (lost, won) in self.terminology.sites.items():
            if concept in self._sets_in(finding):
                turned += [use for use in self._over(lost) if use.helps == more]
                turned += [use for use in self._over(won) if use.helps != more]
        return turned

    def misread(self, concept: str, system: str, code: str) -> list[Use]:
        """Return the criteria that could be lost with how the code of a medicine is read.

        A code that comes to be a medicine, or is none any more, may then contradict the text
        beside it, and nothing of that record counts. Nothing of that kind happens where another
        set, of the same routes, lists the code too. A set that others name in `not_with` decides
        about what is in the same product.
        """
        sets = self.terminology.value_sets
        if not self._is_medicine(concept):
            return []
        own = sets[concept]
        listed = self.terminology.own_concepts_of(SYSTEMS[system], code)
        known = any(name != concept and _alike(sets[name], own) for name in listed)
        if known and not any(concept in each.not_with for each in sets.values()):
            return []
        return self._over({name for name in self._tested if self._is_medicine(name)})

    def _sets_in(self, concept: str) -> set[str]:
        return {concept, *self.terminology.included(concept)}

    @cached_property
    def _sets_above(self) -> dict[str, set[str]]:
        """For each set itself and those that include it."""
        above: dict[str, set[str]] = {}
        for name in self.terminology.value_sets:
            for inner in self._sets_in(name):
                above.setdefault(inner, set()).add(name)
        return above

    def beside(self, concept: str) -> frozenset[str]:
        """Return every set that a code of this one, or of one that it includes, counts for."""
        if concept not in self._beside:
            self._beside[concept] = frozenset(self._find_beside(concept))
        return self._beside[concept]

    def _find_beside(self, concept: str) -> set[str]:
        found = set(self._sets_above[concept])
        for name in self._sets_in(concept):
            value_set = self.terminology.value_sets[name]
            codes = [(SYSTEMS[entry.system], entry.code) for entry in value_set.codes]
            for system, code in (*codes, *filter(None, [value_set.own_code])):
                found |= set(self.terminology.concepts_of(system, code))
        return found

    # ------------------------------------------------------------ results

    def measuring(self, analyte: str) -> list[Use]:
        """Return the criteria over the results of an analyte, or over their change."""
        return [u for u in self.uses if u.kind in RESULTS and u.concept == analyte]

    def frozen_context(self, analyte: str, context: int) -> Use | None:
        """Return a criterion that a change of the analyte's context to this could turn, or None.

        `context` is in seconds. It decides how far back results are read at all, which results
        another analyte is computed from, and what companions for older results look at.
        """
        shortest = min(context, self.terminology.analytes[analyte].context)
        for use in self.uses:
            if use.kind == "quality" or analyte in self._inputs_of(use.concept):
                return use
            if use.kind in RESULTS and use.concept == analyte:
                if use.rule.rule.recheck_of or self._reach(use) > shortest:
                    return use
        return None

    def _inputs_of(self, concept: str) -> set[str]:
        adjusted = self.terminology.adjusted_calcium
        if concept == adjusted.id:
            parts = (adjusted.result, adjusted.ionized, adjusted.total, adjusted.albumin)
            return {*parts, adjusted.egfr}
        derived = self.terminology.derived.get(concept)
        return {derived.of} if derived else set()

    def _reach(self, use: Use) -> int:
        """How far back, in seconds, a criterion over results looks."""
        analyte = self.terminology.analytes[use.concept]
        within = getattr(use.leaf.criterion, "within", None)
        reach = seconds_of(within) if within else analyte.fresh
        return reach if use.kind == "lab" else reach + analyte.fresh

    # ------------------------------------------------------------ windows

    def turned_to(self, use: Use, seconds: int) -> bool:
        """Whether this window for a criterion could take an emergency away."""
        c = use.leaf.criterion
        within = getattr(c, "within", None)
        before = seconds_of(within) if within else self.terminology.analytes[use.concept].fresh
        if seconds == before:
            return False
        # A longer window lets a criterion hold more often, but for "no result within".
        more_often = (seconds > before) != isinstance(c, NoResultCriterion)
        return more_often != use.helps

    def turned_by_fresh(self, analyte: str, seconds: int) -> list[Use]:
        """Return the criteria that this `fresh` for an analyte could turn against an emergency."""
        before = self.terminology.analytes[analyte].fresh
        return [
            use
            for use in self.measuring(analyte)
            # How long ago a rise may have ended is always `fresh`.
            if (use.kind != "lab" or not getattr(use.leaf.criterion, "within", None))
            and seconds != before
            and (seconds > before) != use.helps
        ]


def _alike(one: ValueSet, other: ValueSet) -> bool:
    """Whether two sets count the medicines that they list in the same records."""
    return (one.kind, one.routes, one.route_must_be_known, one.not_with) == (
        other.kind,
        other.routes,
        other.route_must_be_known,
        other.not_with,
    )
