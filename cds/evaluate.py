"""Evaluate: from firings to ranked findings, and what could not be decided and why.

Firings of one finding merge; within a family only the most urgent finding is shown; findings
of adult rules become one finding for a child. Then every rule that did not fire is judged
in three values (Kleene): *unknown* where a criterion's fact is missing, too old or only partly
known. Here are also the values behind `cds explain`, one `RuleTrace` a rule.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from cds.model import (
    Caveat,
    Evaluation,
    Fact,
    Finding,
    Firing,
    NotEvaluated,
    Record,
    Suppressed,
    Tier,
)
from cds.program import AllOf, CompiledRule, Leaf, Node, Program
from cds.results import Normalized
from cds.terminology import Terminology

__all__ = ["Evaluator", "LeafTrace", "NodeTrace", "RuleTrace", "State"]

State = Literal["yes", "no", "unknown"]

_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
# Which end of an uncertain value could still pass the test that the sure end fails.
_DOUBTFUL_END = {"low": "low_min", "high": "high_max"}
# Reasons that name a datum which somebody recorded and we could not use.
_RECORDED = frozenset(
    {"unit", "implausible", "comparator", "status", "future", "date", "conflict", "stale"}
)

# What a finding can wait for: a result, or a finding that waits for one.
_RESULTS = ("lab/", "rise/", "ratio/", "finding/")
# What holds for everybody, or is the lack of something, brings no rule near.
_NO_LEAD = ("sex/", "patient/", "no-result/")


@dataclass(frozen=True, slots=True)
class LeafTrace:
    """One criterion judged: the fact it looked at, and why where it is not yes.

    `needs` names the concept that an unknown criterion waits for.
    """

    leaf: Leaf
    state: State
    reason: str = ""
    resource: str | None = None
    fact: Fact | None = None
    needs: str = ""


@dataclass(frozen=True, slots=True)
class NodeTrace:
    """`all` or `any` over judged parts."""

    word: Literal["all", "any"]
    state: State
    parts: tuple[NodeTrace | LeafTrace, ...]


@dataclass(frozen=True, slots=True)
class RuleTrace:
    """Why a rule fired or did not: its criteria judged, and what became of its finding."""

    rule: CompiledRule
    fired: bool
    when: NodeTrace | LeafTrace
    unless: NodeTrace | LeafTrace | None
    outcome: str


_Judge = Callable[[Leaf], LeafTrace]


class Evaluator:
    """Judges firings for one program; build once, use for every patient."""

    def __init__(self, program: Program, terminology: Terminology) -> None:
        self.program, self.terminology = program, terminology
        self._order = {r.rule.id: i for i, r in enumerate(program.rules)}
        self._stand_ins = [r for r in program.rules if r.rule.stands_in_from]
        self.makers: dict[str, list[CompiledRule]] = {}
        for rule in program.rules:
            self.makers.setdefault(rule.finding_key, []).append(rule)
        self._caveats = [r for r in program.rules if r.rule.caveat_for]
        # What is said of a criterion without a fact is the same for every patient.
        self._lacking: dict[tuple[int, str], LeafTrace] = {}

    @cached_property
    def _leads(self) -> dict[str, list[tuple[int, Leaf]]]:
        """The criteria that can bring a rule near, by fact key."""
        rules = self.program.rules
        return {
            key: [(i, leaf) for i, leaf in entries if rules[i].rule.missing == "report"]
            for key, entries in self.program.leaves_by_key.items()
            if not key.startswith(_NO_LEAD)
        }

    def evaluate(
        self, record: Record, normalized: Normalized, firings: Sequence[Firing], as_of: int
    ) -> Evaluation:
        """Rank, merge and suppress the findings of one patient, and list what is undecided."""
        facts = {fact.key: fact for fact in normalized.facts}
        findings, suppressed, population = self.findings(firings, normalized)
        fired = {f.rule for f in firings}
        near = self._undecided(facts, normalized, firings, fired)
        return Evaluation(
            patient=record.patient,
            as_of=as_of,
            facts=facts,
            findings=self.ranked(findings),
            suppressed=tuple(sorted(suppressed, key=lambda s: self._rank(s.finding))),
            not_evaluated=tuple(sorted({*population, *near}, key=_undecided_rank)),
            problems=tuple(
                sorted(
                    {*record.problems, *normalized.problems},
                    key=lambda p: (p.resource or "", p.code, p.path, p.message),
                )
            ),
            steps=self._steps(firings),
        )

    def ranked(self, findings: Sequence[Finding]) -> tuple[Finding, ...]:
        """Return findings in the order in which they are shown."""
        return tuple(sorted(findings, key=self._rank))

    def _rank(self, finding: Finding) -> tuple[int, str, int]:
        """Order by tier and group, then as the rules stand in their file: the author's order."""
        return -finding.tier, finding.group, self._order[finding.rules[0]]

    def _steps(self, firings: Sequence[Firing]) -> dict[str, tuple[str, ...]]:
        """Return what each intermediate finding rests on."""
        steps: dict[str, set[str]] = {}
        for firing in firings:
            rule = self._rule(firing).rule
            if rule.step:
                steps.setdefault(rule.finding_id, set()).update(firing.because)
        return {id_: tuple(sorted(keys)) for id_, keys in sorted(steps.items())}

    # ------------------------------------------------------------ findings

    def findings(
        self, firings: Sequence[Firing], normalized: Normalized
    ) -> tuple[list[Finding], list[Suppressed], list[NotEvaluated]]:
        """Return what firings come to: findings shown, those not shown, rules not for a child."""
        shown, population = self._population(firings, normalized.child)
        merged, explained = self._yielding(self._merge(shown), firings)
        findings, superseded = self._most_urgent_of_family(merged)
        findings, suppressed = self._with_caveats(findings, firings), explained + superseded
        if normalized.deceased:
            suppressed += [Suppressed(finding, "recorded as deceased") for finding in findings]
            findings = []
        return findings, suppressed, population

    def _yielding(
        self, findings: Sequence[Finding], firings: Sequence[Firing]
    ) -> tuple[list[Finding], list[Suppressed]]:
        """Put aside what another finding, a step too, explains (`Rule.yields_to`).

        A finding that is not for this patient explains nothing: in a child an adult rule holds
        without anybody being shown it.
        """
        found = {f.id for f in findings}
        found |= {rule.finding_id for f in firings if (rule := self._rule(f).rule).step}
        kept: list[Finding] = []
        suppressed: list[Suppressed] = []
        for finding in findings:
            yields_to = self.program.by_id[finding.rules[0]].rule.yields_to
            reason = next((id_ for id_ in yields_to if id_ in found), None)
            if reason is None:
                kept.append(finding)
            else:
                suppressed.append(Suppressed(finding, f"explained by {reason}"))
        return kept, suppressed

    def _population(
        self, firings: Sequence[Firing], child: bool
    ) -> tuple[list[Firing], list[NotEvaluated]]:
        """For a child, put the stand-in in place of adult findings of its tier or above."""
        if not child:
            return [f for f in firings if not self._rule(f).rule.step], []
        shown: list[Firing] = []
        not_evaluated: list[NotEvaluated] = []
        because: dict[str, set[str]] = {}
        for firing in firings:
            rule = self._rule(firing).rule
            if rule.step or rule.caveat_for:
                continue
            if rule.population == "any":
                shown.append(firing)
                continue
            not_evaluated.append(_for_adults(rule.id))
            band = self.program.by_id[rule.recheck_of].rule if rule.recheck_of else rule
            for stand_in in self._stand_ins:
                # An old result of that band asks for the recheck of the stand-in.
                alike = bool(stand_in.rule.recheck_of) == bool(rule.recheck_of)
                if alike and band.tier_value >= Tier[stand_in.rule.stands_in_from or "emergency"]:
                    because.setdefault(stand_in.rule.id, set()).update(firing.because)
        shown += [Firing(rule, tuple(sorted(keys))) for rule, keys in because.items()]
        return shown, not_evaluated

    def _rule(self, firing: Firing) -> CompiledRule:
        return self.program.by_id[firing.rule]

    def _merge(self, firings: Sequence[Firing]) -> list[Finding]:
        """Make one finding of all firings that assert it; the most urgent rule names it."""
        by_finding: dict[str, list[Firing]] = {}
        for firing in firings:
            if not self._rule(firing).rule.caveat_for:
                by_finding.setdefault(self._rule(firing).rule.finding_id, []).append(firing)
        findings = []
        for id_, group in by_finding.items():
            group.sort(key=lambda f: (-self._rule(f).rule.tier_value, self._order[f.rule]))
            top = self._rule(group[0])
            findings.append(
                Finding(
                    id=id_,
                    group=top.group,
                    tier=top.rule.tier_value,
                    title=top.rule.title,
                    rules=tuple(f.rule for f in group),
                    covers=tuple(
                        dict.fromkeys(c for f in group for c in self._rule(f).rule.covers)
                    ),
                    because=tuple(sorted({key for f in group for key in f.because})),
                    family=top.rule.family,
                )
            )
        return findings

    def _most_urgent_of_family(
        self, findings: Sequence[Finding]
    ) -> tuple[list[Finding], list[Suppressed]]:
        """Keep the most urgent finding of each family; the first in file order among equals."""
        best: dict[str, Finding] = {}
        for finding in findings:
            if finding.family is not None:
                other = best.get(finding.family)
                if other is None or self._urgency(finding) > self._urgency(other):
                    best[finding.family] = finding
        kept: list[Finding] = []
        suppressed: list[Suppressed] = []
        for finding in findings:
            top = best.get(finding.family) if finding.family is not None else None
            if top is None or top is finding:
                kept.append(finding)
            else:
                suppressed.append(Suppressed(finding, f"superseded by {top.id}"))
        return kept, suppressed

    def _urgency(self, finding: Finding) -> tuple[Tier, Tier]:
        """Order findings of a family: by tier, among rechecks by the tier of the band itself."""
        rule = self.program.by_id[finding.rules[0]].rule
        band = self.program.by_id[rule.recheck_of].rule if rule.recheck_of else rule
        return finding.tier, band.tier_value

    def _with_caveats(self, findings: list[Finding], firings: Sequence[Firing]) -> list[Finding]:
        """Attach the caveats that fired to the findings of the families they are for."""
        fired = {f.rule: f for f in firings}
        active = [r for r in self._caveats if r.rule.id in fired]
        if not active:
            return findings
        result = []
        for finding in findings:
            own = tuple(
                Caveat(
                    r.rule.finding_id,
                    r.rule.title,
                    r.rule.card.detail if r.rule.card else r.rule.title,
                    (r.rule.id,),
                    fired[r.rule.id].because,
                )
                for r in active
                if finding.family in r.rule.caveat_for
            )
            result.append(replace(finding, caveats=own) if own else finding)
        return result

    # ------------------------------------------------------------ three values

    def _undecided(
        self,
        facts: Mapping[str, Fact],
        normalized: Normalized,
        firings: Sequence[Firing],
        fired: set[str],
    ) -> list[NotEvaluated]:
        """Return the undecided rules that came close: a criterion met, or a datum unusable."""
        judge = self.judge_for(facts, normalized, firings)
        keys = (*facts, *normalized.unusable, *(self._rule(f).finding_key for f in firings))
        close: set[int] = set()
        for key in keys:
            for index, leaf in self._leads.get(key, ()):
                if index not in close:
                    trace = judge(leaf)
                    if trace.state == "yes" or (
                        trace.state == "unknown" and trace.reason in _RECORDED
                    ):
                        close.add(index)
        near: list[NotEvaluated] = []
        for index in close:
            rule = self.program.rules[index]
            if rule.rule.id in fired:
                continue
            reasons = self._reasons(rule, judge)
            if reasons and normalized.child and rule.rule.population == "adult":
                reasons = [_for_adults(rule.rule.id)]
            near += reasons
        return near

    def everything_undecided(
        self, evaluation: Evaluation, normalized: Normalized, firings: Sequence[Firing]
    ) -> list[NotEvaluated]:
        """Return every rule that lacks a datum, near or far (`cds screen --all`)."""
        judge = self.judge_for(evaluation.facts, normalized, firings)
        fired = {f.rule for f in firings}
        entries = set(evaluation.not_evaluated)
        for rule in self.program.rules:
            if rule.rule.id not in fired and not rule.rule.stands_in_from:
                entries.update(self._reasons(rule, judge))
        return sorted(entries, key=_undecided_rank)

    def judge_for(
        self,
        facts: Mapping[str, Fact],
        normalized: Normalized,
        firings: Sequence[Firing],
    ) -> _Judge:
        """Return the function that judges a criterion for this patient, each only once."""
        found = frozenset(self._rule(f).finding_key for f in firings)
        return _Patient(self, facts, normalized, found).judge

    def _reasons(self, rule: CompiledRule, judge: _Judge) -> list[NotEvaluated]:
        """Why an undecided rule is undecided; nothing where it is decided."""
        if _state(rule.when, judge) != "unknown":
            return []
        unknown = _unknowns(rule.when, judge)
        return [NotEvaluated(rule.rule.id, t.reason, t.needs, t.resource) for t in unknown]

    def judge_fact(
        self, leaf: Leaf, facts: Mapping[str, Fact], normalized: Normalized
    ) -> LeafTrace:
        """Judge one criterion over a fact in three values."""
        key = leaf.key
        fact = facts.get(key)
        if fact is None:
            if key.startswith(("no-result/", "sex/", "quality/")):
                return LeafTrace(leaf, "no")
            lost = normalized.unusable.get(key)
            if lost:
                first = min(lost, key=lambda u: (u.resource or "", u.reason))
                return LeafTrace(leaf, "unknown", first.reason, first.resource, needs=_needs(leaf))
            if key in normalized.denied:
                return LeafTrace(leaf, "no", resource=normalized.denied[key])
            needs = self._missing(leaf, facts)
            trace = self._lacking.get((id(leaf), needs))
            if trace is None:
                value_set = self.terminology.value_sets.get(needs)
                uncoded = value_set is not None and value_set.uncoded is not None
                why = "unknown-code" if uncoded else "missing"
                trace = LeafTrace(leaf, "unknown", why, needs=needs)
                self._lacking[id(leaf), needs] = trace
            return trace
        reason = self._why_not(leaf, fact)
        if reason is None:
            return LeafTrace(leaf, "yes", fact=fact)
        if not reason:
            return LeafTrace(leaf, "no", fact=fact)
        resource = fact.sources[0].resource if fact.sources else None
        return LeafTrace(leaf, "unknown", reason, resource, fact, _needs(leaf))

    def _why_not(self, leaf: Leaf, fact: Fact) -> str | None:
        """Return None where the criterion holds, "" where it does not, else why that is open.

        "comparator": it holds for some of the values that were sent, such as "<2.9";
        "stale": it would hold, but the result is too old even as context.
        """
        open_, props = "", fact.props
        for atom in leaf.atoms:
            aged = doubtful = False
            for test in atom.tests:
                passes = _COMPARE[test.op]
                if passes(props[test.prop], test.value):
                    continue
                if test.prop == "age":
                    aged = True
                elif test.prop in _DOUBTFUL_END and passes(
                    props[_DOUBTFUL_END[test.prop]], test.value
                ):
                    doubtful = True
                else:
                    break
            else:
                if not aged and not doubtful:
                    return None
                if not aged:
                    open_ = "comparator"
                elif self._is_stale(leaf, fact):
                    open_ = open_ or "stale"
        return open_

    def _missing(self, leaf: Leaf, facts: Mapping[str, Fact]) -> str:
        """Name what a criterion without a fact waits for."""
        kind, needs, *aspect = leaf.key.split("/")
        if kind in ("rise", "ratio") and f"lab/{needs}" in facts:
            return f"earlier {needs}"
        if kind == "after" and f"{self.terminology.kind_of(needs)}/{needs}" in facts:
            return aspect[-1]  # what began is known; whether after a medicine is not
        return needs

    def _is_stale(self, leaf: Leaf, fact: Fact) -> bool:
        """Whether a result is too old even as context.

        Between fresh and context it is decided: the companion for older results judges it.
        """
        known = self.terminology.analytes.get(_needs(leaf))
        return known is None or fact.props["age"] > known.context

    # ------------------------------------------------------------ explanation

    def trace(
        self,
        rule_id: str,
        evaluation: Evaluation,
        normalized: Normalized,
        firings: Sequence[Firing],
    ) -> RuleTrace:
        """Return why the rule fired or did not. Raises: KeyError for an unknown rule."""
        rule = self.program.by_id[rule_id]
        judge = self.judge_for(evaluation.facts, normalized, firings)
        fired = any(f.rule == rule_id for f in firings)
        when = _trace(rule.when, judge)
        unless = _trace(rule.unless, judge) if rule.unless is not None else None
        return RuleTrace(rule, fired, when, unless, _outcome(rule, fired, when, unless, evaluation))


class _Patient:
    """Judges the criteria for one patient, each only once; `found` are keys of findings."""

    def __init__(
        self,
        evaluator: Evaluator,
        facts: Mapping[str, Fact],
        normalized: Normalized,
        found: frozenset[str],
    ) -> None:
        self._evaluator, self._facts, self._normalized = evaluator, facts, normalized
        self._found = found
        self._judged: dict[int, LeafTrace] = {}
        self._waiting: dict[str, LeafTrace | None] = {}  # None while looked for, against circles

    def judge(self, leaf: Leaf) -> LeafTrace:
        """Judge one criterion in three values."""
        trace = self._judged.get(id(leaf))
        if trace is None:
            if leaf.key.startswith("finding/"):
                trace = self._finding(leaf)
            else:
                trace = self._evaluator.judge_fact(leaf, self._facts, self._normalized)
            self._judged[id(leaf)] = trace
        return trace

    def _finding(self, leaf: Leaf) -> LeafTrace:
        """A finding is open where a result that it rests on is missing or unusable."""
        key = leaf.key
        if key in self._found:
            return LeafTrace(leaf, "yes")
        if key not in self._waiting:
            self._waiting[key] = None
            self._waiting[key] = self._waits_for(key)
        lost = self._waiting[key]
        if lost is None:
            return LeafTrace(leaf, "no")
        return LeafTrace(leaf, "unknown", lost.reason, lost.resource, needs=lost.needs)

    def _waits_for(self, key: str) -> LeafTrace | None:
        for rule in self._evaluator.makers.get(key, ()):
            for lost in _unknowns(rule.when, self.judge):
                if lost.reason in _RECORDED or lost.leaf.key.startswith(_RESULTS):
                    return lost
        return None


def _trace(node: Node, judge: _Judge) -> NodeTrace | LeafTrace:
    if isinstance(node, Leaf):
        return judge(node)
    parts = tuple(_trace(part, judge) for part in node.parts)
    states = {part.state for part in parts}
    state: State
    if isinstance(node, AllOf):
        state = "no" if "no" in states else "unknown" if "unknown" in states else "yes"
        return NodeTrace("all", state, parts)
    state = "yes" if "yes" in states else "unknown" if "unknown" in states else "no"
    return NodeTrace("any", state, parts)


def _state(node: Node, judge: _Judge) -> State:
    """Return the state that `_trace` gives a node, looking no further than it takes."""
    if isinstance(node, Leaf):
        return judge(node).state
    decides: State = "no" if isinstance(node, AllOf) else "yes"
    otherwise: State = "yes" if decides == "no" else "no"
    for part in node.parts:
        state = _state(part, judge)
        if state == decides:
            return state
        if state == "unknown":
            otherwise = state
    return otherwise


def _unknowns(node: Node, judge: _Judge) -> Iterator[LeafTrace]:
    """Yield the criteria that leave a node, or parts of it, unknown."""
    if isinstance(node, Leaf):
        trace = judge(node)
        if trace.state == "unknown":
            yield trace
        return
    for part in node.parts:
        if _state(part, judge) == "unknown":
            yield from _unknowns(part, judge)


def _needs(leaf: Leaf) -> str:
    return leaf.key.split("/")[1]


def _outcome(
    rule: CompiledRule,
    fired: bool,
    when: NodeTrace | LeafTrace,
    unless: NodeTrace | LeafTrace | None,
    evaluation: Evaluation,
) -> str:
    """Say in a few words what became of the rule."""
    if not fired:
        if when.state == "yes":
            return "blocked by 'unless'" if unless is not None else "not fired"
        return "criteria not met" if when.state == "no" else "cannot be decided"
    for finding in evaluation.findings:
        if rule.rule.id in finding.rules:
            return f"finding '{finding.id}', tier {finding.tier.name}"
        if any(rule.rule.id in c.rules for c in finding.caveats):
            return f"caveat on finding '{finding.id}'"
    for hidden in evaluation.suppressed:
        if rule.rule.id in hidden.finding.rules:
            return f"finding '{hidden.finding.id}' not shown: {hidden.reason}"
    if rule.rule.step:
        return "an intermediate step that other rules build on"
    if any(n.rule == rule.rule.id and n.reason == "population" for n in evaluation.not_evaluated):
        return "not shown: the rule is for adults"
    return "fired; there is no finding that its caveat belongs to"


def _for_adults(rule_id: str) -> NotEvaluated:
    return NotEvaluated(rule_id, "population", "age of 18 years or more")


def _undecided_rank(entry: NotEvaluated) -> tuple[str, str, str, str]:
    return (entry.rule, entry.reason, entry.needs, entry.resource or "")
