"""Killing cases: for a mutant that nobody noticed, a patient who tells it from the rule.

The goals aim at the very place of the change. Where a patient is found, the case expects what the
rules as they are say of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Final

from cds.cases import Case
from cds.forms import Form, Patient
from cds.harness import own_findings, tier_name
from cds.model import Tier
from cds.mutation.trials import Trial, Trials
from cds.mutation.variants import Variant
from cds.program import AllOf, CompiledRule, Leaf, Program
from cds.screening import Assessment
from cds.synthesis import Goal, Goals, Place, Synthesizer, Wanted, places

__all__ = ["difference", "killing_case"]

_Expect = Mapping[str, Sequence[str] | str]
_CHILD: Final = Patient(years=10)
_FEW: Final = 3  # ways to make a rule fire that are combined with those of another


def killing_case(
    synthesizer: Synthesizer, trials: Trials, variant: Variant, as_of: int
) -> str | None:
    """Return a case in YAML that passes with the rules as they are and fails with the mutant.

    None where none was found: then nobody may be able to tell the two apart.
    """
    found: list[_Expect] = []

    def differs(case: Case, assessment: Assessment) -> bool:
        expect = difference(trials, variant, trials.trial(case, assessment))
        found.extend([expect] if expect else [])
        return expect is not None

    rule = variant.base.program.by_id.get(variant.mutant.rule)
    first: tuple[Form, ...] = (_CHILD,) if rule and rule.rule.stands_in_from else ()
    patient = synthesizer.find(_goals(synthesizer, variant, as_of), as_of, differs, first=first)
    if patient is None:
        return None
    forms, assessment = patient
    expect = found[-1]
    return synthesizer.case(forms, assessment, expect["fires"][0] if "fires" in expect else expect)


def difference(trials: Trials, variant: Variant, trial: Trial) -> _Expect | None:
    """Return what the rules as they are say of a patient and the mutant does not, or None."""
    fired, assessment = trials.fired(variant, trial), trial.assessment
    if not trials.matters(variant, trial, fired):
        return None
    for index, _ in variant.changed:
        id_ = trials.rulesets.program.rules[index].rule.id
        if (id_ in fired) != (id_ in trial.fired):
            return {"fires" if id_ in trial.fired else "not": (id_,)}
    found = trials.findings(variant, trial, fired)
    group = trials.rulesets.program.rules[variant.changed[0][0]].group if variant.changed else ""
    case = replace(trial.case, group=group)
    mutated, now = (own_findings(case, f) for f in (found, assessment.findings))
    if tier_name(mutated) != tier_name(now):
        return {"tier": tier_name(now)}
    if {f.id for f in mutated} != {f.id for f in now}:
        return {"shows": tuple(f.id for f in now)}
    caveats = {(f.id, c.id) for f in mutated for c in f.caveats}
    for finding in now:
        for caveat in finding.caveats:
            if (finding.id, caveat.id) not in caveats:
                return {"card": (caveat.text.partition(". ")[0],)}
    return None


# ---------------------------------------------------------------- what to look for


def _goals(synthesizer: Synthesizer, variant: Variant, as_of: int) -> Iterator[Goal]:
    """Yield goals with which the mutant may come out otherwise."""
    mutant, goals, base = variant.mutant, synthesizer.goals, variant.base.program
    rule = base.by_id.get(mutant.rule)
    if mutant.kind in ("leaf", "analyte"):
        for index, new in variant.changed:
            if new is not None:
                yield from _one_of_two(goals, base.rules[index], new)
    elif rule is None:
        return
    elif mutant.kind in ("removed", "emptied", "swapped"):
        yield from _without(goals, rule, mutant.where, mutant.kind)
    elif mutant.kind == "stand-in":
        yield from _stood_in(goals, rule, variant.program.by_id[mutant.rule])
    elif mutant.kind == "family":
        yield from _in_one_family(goals, rule)
    elif mutant.kind == "yields":
        yield from _explained(goals, rule, variant.program.by_id[mutant.rule])
    else:
        yield from _most_urgent(synthesizer, rule, variant, as_of)


def _one_of_two(goals: Goals, old: CompiledRule, new: CompiledRule) -> Iterator[Goal]:
    """Yield goals with which one criterion holds and that in its place does not."""
    for before, after in zip(places(old), places(new), strict=True):
        a, b = before.node, after.node
        if isinstance(a, Leaf) and isinstance(b, Leaf) and (a.key, a.atoms) != (b.key, b.atoms):
            for around in goals.deciding(old, before):
                yield (Wanted(a, "yes"), Wanted(b, "not"), *around)
                yield (Wanted(a, "not"), Wanted(b, "yes"), *around)


def _without(goals: Goals, rule: CompiledRule, where: str, kind: str) -> Iterator[Goal]:
    """Yield goals with which a criterion, or the word before it, makes the difference."""
    all_ = list(places(rule))
    place = next(p for p in all_ if p.where == where)
    if kind == "swapped":
        own = goals.split
    elif kind == "removed" and _one_of_all(all_, place):
        own = goals.false
    else:
        own = goals.true
    for around in goals.deciding(rule, place):
        for inner in own(place.node):
            yield inner + around


def _one_of_all(all_: Sequence[Place], place: Place) -> bool:
    """Whether a place is one of several that must hold together."""
    above = place.path[:-1]
    return bool(place.path) and any(
        isinstance(p.node, AllOf) for p in all_ if p.side == place.side and p.path == above
    )


def _most_urgent(
    synthesizer: Synthesizer, rule: CompiledRule, variant: Variant, as_of: int
) -> Iterator[Goal]:
    """Yield goals with which a rule holds, and nothing that is as urgent."""
    id_, goals = rule.rule.id, synthesizer.goals
    yield from islice(goals.fires(rule), _FEW)
    if rule.rule.stands_in_from:
        # What it stands in for is not shown itself, but other rules may fire beside each.
        for other in _stood_for(rule, goals.program):
            yield from islice(goals.fires(other), _FEW)
    found = synthesizer.find(goals.fires(rule), as_of, lambda _, a: id_ in a.fired)
    if found is None:
        return
    tiers = [r.rule.tier_value for r in (rule, variant.program.by_id[id_])]
    louder = [
        variant.base.program.by_id[other]
        for finding in found[1].findings
        if finding.tier >= min(tiers)
        for other in finding.rules
        if other != id_
    ]
    for own in islice(goals.fires(rule), _FEW):
        for quiet in goals.none_of(louder):
            yield own + quiet


def _in_one_family(goals: Goals, rule: CompiledRule) -> Iterator[Goal]:
    """Yield goals with which two rules of one family hold, or one with a caveat for it."""
    rules = goals.program.rules
    if rule.rule.stands_in_from:
        # It is shown twice: for results of today, and for older ones of something else.
        stood_for = _stood_for(rule, goals.program)
        today = [r for r in stood_for if not r.rule.recheck_of]
        for older in (r for r in stood_for if r.rule.recheck_of):
            for other in (*today[:1], *today[-1:]):
                yield from _both(goals, other, older)
    family = rule.rule.family
    others = [r for r in rules if r is not rule and r.rule.recheck_of != rule.rule.id]
    for other in sorted(others, key=lambda r: bool(r.rule.recheck_of)):
        if other.rule.family == family or family in other.rule.caveat_for:
            yield from _both(goals, rule, other)


def _explained(goals: Goals, rule: CompiledRule, new: CompiledRule) -> Iterator[Goal]:
    """Yield goals with which a rule holds, and what it only now does not yield to any more."""
    gone = {f"finding/{name}" for name in set(rule.rule.yields_to) - set(new.rule.yields_to)}
    for other in goals.program.rules:
        if other.finding_key in gone:
            yield from _both(goals, rule, other)


def _both(goals: Goals, one: CompiledRule, other: CompiledRule) -> Iterator[Goal]:
    for own in islice(goals.fires(one), _FEW):
        for more in islice(goals.fires(other), _FEW):
            yield own + more


def _stood_in(goals: Goals, rule: CompiledRule, new: CompiledRule) -> Iterator[Goal]:
    """Yield goals for a child with a finding for adults that only one of the two stands in for."""
    wider, narrower = sorted((rule, new), key=_least)
    for other in _stood_for(wider, goals.program):
        if not other.rule.recheck_of and other.rule.tier_value < _least(narrower):
            yield from goals.fires(other)


def _stood_for(rule: CompiledRule, program: Program) -> list[CompiledRule]:
    """The rules for adults that a rule stands in for, and their companions for older results."""
    found = []
    for other in program.rules:
        band = program.by_id[other.rule.recheck_of or other.rule.id].rule
        shown = not other.rule.step and not other.rule.caveat_for
        if shown and other.rule.population == "adult" and band.tier_value >= _least(rule):
            found.append(other)
    return found


def _least(rule: CompiledRule) -> Tier:
    """The tier from which on a rule stands in for others."""
    return Tier[rule.rule.stands_in_from or "emergency"]
