"""Validators CDS401 to CDS407: rules that can never hold, never show, or contradict each other."""

from __future__ import annotations

from collections.abc import Iterator

from cds.catalog import criterion_text
from cds.lint.bands import bands, family_pairs, same_conclusion, same_criteria
from cds.lint.registry import Spot, validator
from cds.lint.subject import Subject
from cds.program import CompiledRule, leaves
from cds.rulefile import FindingCriterion

__all__: list[str] = []


@validator(
    "CDS401",
    "error",
    "a rule that can never hold",
    fix="change the criteria that exclude each other, or remove the rule",
)
def unreachable(subject: Subject) -> Iterator[Spot]:
    """Criteria that exclude each other: limits or times that no result meets, both sexes at once.

    Also a finding whose rules can all never hold, and an `unless` that holds wherever `when` does.
    """
    for rule in subject.rules:
        why = subject.logic.never(rule)
        if why:
            yield Spot(*subject.at(rule.rule, "when"), f"can never hold: {why}", rule.rule.id)


@validator(
    "CDS402",
    "warning",
    "a rule that is never shown",
    fix="raise its tier, give it criteria of its own, or take it out of the family",
)
def shadowed(subject: Subject) -> Iterator[Spot]:
    """A rule that holds only where another one of its family holds that is at least as urgent.

    A family shows its most urgent finding, among equals the first in the file: never this one.
    """
    falling = {
        (bad.id, mild.id)
        for group in bands(subject).values()
        for bad in group
        for mild in group
        if bad.tier < mild.tier
    }
    for first, second in family_pairs(subject):
        for rule, other in ((first, second), (second, first)):
            higher = other.rule.tier_value - rule.rule.tier_value
            if higher < 0 or (higher == 0 and rule is first):
                continue
            if (rule.rule.id, other.rule.id) in falling or not _only(subject, rule, other):
                continue
            message = f"holds only where '{other.rule.id}' ({other.rule.tier}) holds and is shown"
            yield Spot(*subject.at(rule.rule), message, rule.rule.id)


def _only(subject: Subject, rule: CompiledRule, other: CompiledRule) -> bool:
    """Whether a rule implies another one, and not the other way round."""
    return subject.logic.implies(rule, other) and not subject.logic.implies(other, rule)


@validator(
    "CDS403",
    "error",
    "rules that contradict each other",
    fix="decide which of the two is right, and remove the other",
)
def contradiction(subject: Subject) -> Iterator[Spot]:
    """Two rules of a family with the same criteria and another tier or another finding."""
    for a, b in same_criteria(subject):
        if not same_conclusion(a, b):
            one, other = (f"'{r.rule.finding_id}' ({r.rule.tier})" for r in (a, b))
            message = f"holds exactly where '{a.rule.id}' does: {other} here, {one} there"
            yield Spot(*subject.at(b.rule), message, b.rule.id)


@validator(
    "CDS404",
    "warning",
    "an alternative that can never hold",
    fix="correct the criterion, or remove it from `any`",
)
def dead_alternative(subject: Subject) -> Iterator[Spot]:
    """A part of `any` that cannot hold together with the rest of the rule."""
    if subject.rulesets is None:
        return
    for rule in subject.rules:
        if subject.logic.never(rule) is None:
            for leaf, why in subject.logic.never_part(rule):
                words = criterion_text(leaf.criterion, subject.rulesets)
                message = f"an alternative ('{words}') can never hold: {why}"
                yield Spot(*subject.at(rule.rule, "when"), message, rule.rule.id)


@validator(
    "CDS405",
    "warning",
    "a recheck that can never hold",
    fix="leave out `recheck: true`, or the `within` of every result that the rule tests",
)
def idle_recheck(subject: Subject) -> Iterator[Spot]:
    """A rule with `recheck: true` whose companion for older results can never hold.

    Criteria with a `within` of their own keep it, and so does a test whose `context` is its
    `fresh`: then the companion holds only where the rule itself does, and is blocked there.
    """
    for rule in subject.program.rules:
        if rule.rule.recheck_of and not rule.rule.step and not rule.rule.stands_in_from:
            origin = subject.program.by_id.get(rule.rule.recheck_of)
            if origin is None or subject.logic.never(origin):
                continue
            why = subject.logic.never(rule)
            if why:
                place = subject.at(rule.rule, "recheck")
                yield Spot(*place, f"'{rule.rule.id}' can never hold: {why}", origin.rule.id)


@validator(
    "CDS406",
    "error",
    "a caveat for a family that does not exist",
    fix="correct the name of the family",
)
def caveat_without_family(subject: Subject) -> Iterator[Spot]:
    """A name in `caveat_for` that no rule has as its `family`. The caveat is never shown there."""
    families = {r.rule.family for r in subject.program.rules if not r.rule.caveat_for}
    for rule in subject.rules if subject.complete else ():
        for number, family in enumerate(rule.rule.caveat_for):
            if family not in families:
                place = subject.at(rule.rule, "caveat_for", number)
                yield Spot(*place, f"no rule is of the family '{family}'", rule.rule.id)


@validator(
    "CDS407",
    "warning",
    "a step that nobody uses",
    fix="use the finding in a rule, or remove the step",
)
def unused_step(subject: Subject) -> Iterator[Spot]:
    """A rule with `step: true` whose finding no criterion and no `yields_to` names.

    Nobody is shown a step, so it has no effect at all.
    """
    used = {key for rule in subject.program.rules for key in _named(rule)}
    used |= {f"finding/{id_}" for r in subject.program.rules for id_ in r.rule.yields_to}
    for rule in subject.rules if subject.complete else ():
        if rule.rule.step and rule.finding_key not in used:
            message = f"no rule names the finding '{rule.rule.finding_id}'"
            yield Spot(*subject.at(rule.rule), message, rule.rule.id)


def _named(rule: CompiledRule) -> Iterator[str]:
    for leaf in (*leaves(rule.when), *leaves(rule.unless)):
        # The companion of a rule names the finding of the rule itself; that is no use.
        own = rule.rule.recheck_of and leaf.key.removeprefix("finding/") == rule.rule.recheck_of
        if isinstance(leaf.criterion, FindingCriterion) and not own:
            yield leaf.key
