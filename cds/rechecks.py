"""Companion rules for results that are too old for their full tier.

A rule with `recheck: true` gets one, see `rulesets/README.md`, "Bands, flags, older results".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from cds.model import Tier
from cds.rulefile import (
    AllCriterion,
    AnyCriterion,
    CardText,
    FindingCriterion,
    LabCriterion,
    RatioCriterion,
    RecheckText,
    RiseCriterion,
    Rule,
    Ruleset,
)
from cds.terminology import Terminology

__all__ = ["Rechecks", "measured"]


class Rechecks:
    """Makes the companions that judge results too old for their full tier.

    A companion has the criteria of its rule with every result up to its context window, and
    does not hold where the rule itself does. A step that such a rule builds on gets a wider
    companion too, so that "low potassium" may then be an old one.
    """

    def __init__(self, files: Sequence[Ruleset], terminology: Terminology) -> None:
        self.terminology = terminology
        self.makers: dict[str, list[Rule]] = {}
        for rule in (rule for file in files for rule in file.rules):
            self.makers.setdefault(rule.finding_id, []).append(rule)
        # By identity, for ids may still stand twice; `makers` holds the rules.
        self._rests_on: dict[int, tuple[set[str], list[str]]] = {}
        self.widened: dict[str, None] = {}  # findings of steps that need a wider companion

    def add(self, files: Sequence[Ruleset]) -> list[Ruleset]:
        """Return the files with the companions behind their rules."""
        made: dict[str, Rule] = {}
        for file in files:
            for rule in file.rules:
                if rule.recheck and file.recheck:
                    made[rule.id] = self.companion(rule, file.recheck)
        # Steps may need steps: `widened` grows while it is worked off.
        done: set[str] = set()
        while waiting := [f for f in self.widened if f not in done]:
            for finding in waiting:
                done.add(finding)
                for rule in self.makers[finding]:
                    if rule.step:
                        made[rule.id] = self.wider_step(rule)
        result = []
        for file in files:
            rules: list[Rule] = []
            lines = dict(file.line_of)
            for rule in file.rules:
                rules.append(rule)
                if rule.id in made:
                    rules.append(made[rule.id])
                    lines[made[rule.id].id] = file.line_of.get(rule.id, 0)
            result.append(replace(file, rules=tuple(rules), line_of=lines))
        return result

    def companion(self, rule: Rule, text: RecheckText) -> Rule:
        """Make the companion that is shown: milder, and only where the rule does not hold."""
        card = rule.card
        words = {"{title}": rule.title, "{fresh}": _span(self.fresh(rule))}

        def filled(template: str) -> str:
            for name, word in words.items():
                template = template.replace(name, word)
            return template

        return rule.model_copy(
            update={
                "id": f"{rule.id}-recheck",
                "finding": f"{rule.finding}-recheck" if rule.finding else None,
                "title": filled(text.title),
                "tier": "soon" if rule.tier_value >= Tier.urgent else "routine",
                "recheck": False,
                "recheck_of": rule.id,
                "missing": "silent",
                "when": tuple(self.wide(c) for c in rule.when),
                "unless": (*rule.unless, FindingCriterion(finding=rule.finding_id)),
                "evidence": (*text.evidence, *rule.evidence),
                "card": CardText(
                    summary=filled(text.summary),
                    detail=filled(text.detail),
                    patient=text.patient,
                    patient_summary=text.patient_summary,
                    suggestions=text.suggestions or (card.suggestions if card else ()),
                ),
            }
        )

    def wider_step(self, rule: Rule) -> Rule:
        """Make the companion of a step: the same over results up to their context window."""
        return rule.model_copy(
            update={
                "id": f"{rule.id}-recheck",
                "finding": f"{rule.finding_id}-recheck",
                "recheck_of": rule.id,
                "missing": "silent",
                "when": tuple(self.wide(c) for c in rule.when),
            }
        )

    def wide(self, c: Any) -> Any:
        """Widen a criterion to results of the whole context window."""
        if isinstance(c, AnyCriterion):
            return c.model_copy(update={"any": tuple(self.wide(p) for p in c.any)})
        if isinstance(c, AllCriterion):
            return c.model_copy(update={"all": tuple(self.wide(p) for p in c.all)})
        concept = measured(c)
        if concept and not c.within and concept in self.terminology.analytes:
            context = self.terminology.analytes[concept].context
            return c.model_copy(update={"within": _days(context)})
        if isinstance(c, FindingCriterion) and self.ages(c.finding, frozenset()):
            shown = any(r.recheck for r in self.makers[c.finding])
            if any(r.step for r in self.makers[c.finding]):
                self.widened[c.finding] = None
            elif not shown:
                return c
            old = FindingCriterion(finding=f"{c.finding}-recheck")
            return AnyCriterion.model_construct(any=(c, old))  # both parts are checked already
        return c

    def fresh(self, rule: Rule) -> int:
        """Return the shortest `fresh`, in seconds, of the results that a rule rests on.

        One of them is older than that where its companion holds. A rule that stands in for others
        rests on the results of all these.
        """
        names: set[str] = set()
        waiting, seen = [rule], {rule.id}
        if rule.stands_in_from:
            others = (r for makers in self.makers.values() for r in makers)
            waiting += [r for r in others if r.tier_value >= Tier[rule.stands_in_from]]
        while waiting:
            results, findings = self.rests_on(waiting.pop())
            names |= results
            for finding in findings:
                new = [r for r in self.makers.get(finding, ()) if r.id not in seen]
                seen |= {r.id for r in new}
                waiting += new
        return min((self.terminology.analytes[name].fresh for name in names), default=0)

    def rests_on(self, rule: Rule) -> tuple[set[str], list[str]]:
        """Return the analytes whose fresh results a rule tests, and the findings it builds on."""
        known = self._rests_on.get(id(rule))
        if known is None:
            criteria = list(_flat(rule.when))
            names = {name for c in criteria if (name := measured(c)) and not c.within}
            findings = [c.finding for c in criteria if isinstance(c, FindingCriterion)]
            known = names & self.terminology.analytes.keys(), findings
            self._rests_on[id(rule)] = known
        return known

    def ages(self, finding: str, above: frozenset[str]) -> bool:
        """Whether a finding rests on results, directly or through other findings."""
        if finding in above:
            return False
        return any(
            bool(measured(c))
            or (isinstance(c, FindingCriterion) and self.ages(c.finding, above | {finding}))
            for rule in self.makers.get(finding, ())
            for c in _flat(rule.when)
        )


def measured(c: Any) -> str | None:
    """Return the analyte whose results a criterion tests, or None."""
    if isinstance(c, LabCriterion):
        return c.lab
    if isinstance(c, RiseCriterion):
        return c.rise
    return c.ratio if isinstance(c, RatioCriterion) else None


def _flat(criteria: Sequence[Any]) -> Iterator[Any]:
    """Yield the criteria without `any` and `all` around them."""
    for c in criteria:
        if isinstance(c, AnyCriterion):
            yield from _flat(c.any)
        elif isinstance(c, AllCriterion):
            yield from _flat(c.all)
        else:
            yield c


def _span(seconds: int) -> str:
    """Write seconds in words ("7 days")."""
    hours = seconds // 3600
    count, unit = (hours, "hour") if hours % 24 else (hours // 24, "day")
    return f"{count} {unit}" + ("" if count == 1 else "s")


def _days(seconds: int) -> str:
    """Write seconds as an ISO 8601 duration, as rule files do."""
    days, rest = divmod(seconds, 86_400)
    return f"P{days}D" if not rest else f"PT{seconds // 3600}H"
