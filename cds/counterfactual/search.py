"""The search for changes: which are tried, and what becomes of the answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from itertools import islice
from typing import Final, Literal

from cds.bounds import number_bounds
from cds.counterfactual.numbers import Edit, Input, Point, line
from cds.counterfactual.records import (
    RECORDED,
    age_limit,
    feeders,
    fresher,
    measured,
    recorded,
    taken_away,
    with_any_result,
    with_result,
)
from cds.engine import make_engine
from cds.errors import UnitError
from cds.evaluate import Evaluator, LeafTrace, NodeTrace, RuleTrace
from cds.facts import Normalizer
from cds.model import (
    Change,
    Evaluation,
    Fact,
    Finding,
    Firing,
    Measurement,
    Record,
    Tier,
)
from cds.program import CompiledRule, Leaf, Program, leaves
from cds.results import Normalized
from cds.rules import Rulesets
from cds.terminology import Terminology
from cds.units import ucum_of
from cds.wording import Wording

__all__ = ["Counterfactuals", "open_criteria"]

_INPUTS: Final = 4  # results of one finding that are tried
_HUGE: Final = 15  # digits of a number that is no limit of a laboratory

_Bounds = Mapping[str, tuple[tuple[Fraction, str], ...]]
"""By fact key, the numbers it is compared with, in its unit, with lt, le, gt or ge."""


class Counterfactuals:
    """Finds changes for the patients of one program; build once, when the first is wanted."""

    def __init__(self, rulesets: Rulesets) -> None:
        self.rulesets = rulesets
        self._parts: dict[str, _Part] = {}

    def of_finding(
        self, finding: Finding, record: Record, evaluation: Evaluation
    ) -> tuple[Change, ...]:
        """Return what would change the tier of a finding that is shown.

        For each result that it rests on: the nearest value with a milder tier, the nearest one
        where nothing of the finding's family is left, and the nearest one with a higher tier.
        """
        rule = self.rulesets.program.by_id[finding.rules[0]]
        search = self._search(rule, record, evaluation)
        return tuple(search.tiers_by_value(finding, self._facts(finding, evaluation)))

    def of_rule(self, rule_id: str, record: Record, evaluation: Evaluation) -> tuple[Change, ...]:
        """Return what would stop a rule that fired, or make one fire that did not.

        Where its finding is shown, also what would give that another tier. Empty where no single
        change of one input does it.
        """
        rule = self.rulesets.program.by_id[rule_id]
        search = self._search(rule, record, evaluation)
        found: list[Change] = []
        if not rule.rule.stands_in_from:  # it never fires, it is put in the place of others
            found += search.of_rule(rule)
        for finding in evaluation.findings:
            if rule_id in finding.rules:
                found += search.tiers_by_value(finding, self._facts(finding, evaluation))
                found += search.more_urgent(finding)
        return tuple(_each_once(found))

    def _facts(self, finding: Finding, evaluation: Evaluation) -> list[Fact]:
        return list(Wording(evaluation, self.rulesets).facts(finding.because))

    def _search(self, rule: CompiledRule, record: Record, evaluation: Evaluation) -> _Search:
        """Return a search among the rules that can bear on a rule's finding and its family."""
        name, program = _family(rule), self.rulesets.program
        if name not in self._parts:
            aims = [r for r in program.rules if _family(r) == name]
            explaining = {id_ for r in aims for id_ in r.rule.yields_to}
            aims += [r for r in program.rules if r.rule.finding_id in explaining]
            if any(r.rule.stands_in_from for r in aims):
                aims = list(program.rules)  # it can stand in for any of them
            self._parts[name] = _Part(_with_makers(program, aims), self.rulesets.terminology)
        return _Search(self._parts[name], name, record, evaluation)


def open_criteria(trace: RuleTrace) -> int:
    """Return how many criteria, at least, keep a rule from firing."""
    blocking = trace.unless.parts if isinstance(trace.unless, NodeTrace) else ()
    return _open(trace.when) + sum(part.state == "yes" for part in blocking)


def _open(trace: NodeTrace | LeafTrace) -> int:
    if trace.state == "yes":
        return 0
    if isinstance(trace, LeafTrace):
        return 1
    counts = [_open(part) for part in trace.parts]
    return sum(counts) if trace.word == "all" else min(counts, default=1)


# ---------------------------------------------------------------- the rules that matter


class _Part:
    """Some rules of a program with all that they build on, ready to assess by themselves.

    The plain engine serves: it needs no building, and every engine gives the same answers.
    """

    def __init__(self, program: Program, terminology: Terminology) -> None:
        self.program, self.terminology = program, terminology
        self.normalizer = Normalizer(program, terminology)
        self.wanted = self.normalizer.wanted
        self.engine = make_engine("reference", program)
        self.evaluator = Evaluator(program, terminology)
        self.bounds = _bounds(program)
        self.flagged = frozenset(
            leaf.key
            for rule in program.rules
            for leaf in _leaves(rule)
            for atom in leaf.atoms
            if any(test.prop.endswith("_flag") for test in atom.tests)
        )

    def makers(self, key: str) -> Sequence[CompiledRule]:
        """Return the rules that assert a finding."""
        return self.program.makers.get(key, ())


def _with_makers(program: Program, aims: Iterable[CompiledRule]) -> Program:
    """Return these rules of a program with all rules whose findings they name, at any depth."""
    wanted: set[str] = set()
    waiting = list(aims)
    while waiting:
        rule = waiting.pop()
        if rule.rule.id not in wanted:
            wanted.add(rule.rule.id)
            for key in {leaf.key for leaf in _leaves(rule)}:
                waiting += program.makers.get(key, ())
    rules = tuple(r for r in program.rules if r.rule.id in wanted)
    keys = frozenset(leaf.key for r in rules for leaf in _leaves(r))
    return Program(rules, keys, tuple(n for n in program.needs if n.key in keys))


def _bounds(program: Program) -> _Bounds:
    """Return every number that rules compare a fact with, each once."""
    return {
        key: tuple(dict.fromkeys((Fraction(b.value), b.op) for b in bounds))
        for key, bounds in number_bounds(program).items()
    }


def _family(rule: CompiledRule) -> str:
    """Return of what the most urgent finding is shown: a family, else the finding alone."""
    return rule.rule.family or rule.finding_key


def _leaves(rule: CompiledRule) -> list[Leaf]:
    return [*leaves(rule.when), *leaves(rule.unless)]


# ---------------------------------------------------------------- one patient


@dataclass(frozen=True, slots=True)
class _Answer:
    """What an assessment gave: the rules that hold, and the tier of the family looked at."""

    normalized: Normalized
    firings: Sequence[Firing]
    fired: frozenset[str]
    tier: Tier | None


_Tried = Iterator[tuple[Edit, _Answer]]


class _Search:
    """Changes one input of one patient after the other, and looks what becomes of a family."""

    def __init__(self, part: _Part, family: str, record: Record, evaluation: Evaluation) -> None:
        self.part, self.family, self.as_of = part, family, evaluation.as_of
        self.terminology = part.terminology
        used = [m for m in record.measurements if m.analyte in part.wanted]
        self.record = replace(record, measurements=used, problems=[], skipped={})
        known = sorted(part.program.keys & evaluation.facts.keys())
        self.facts = {key: evaluation.facts[key] for key in known}
        self.by_resource: defaultdict[str | None, list[Measurement]] = defaultdict(list)
        for m in used:
            self.by_resource[m.resource].append(m)

    def after(self, record: Record) -> _Answer:
        """Assess the record again."""
        part = self.part
        normalized = part.normalizer.normalize(record, self.as_of)
        firings = part.engine.run(normalized.facts)
        findings, _, _ = part.evaluator.findings(firings, normalized)
        by_id = part.program.by_id
        tiers = (f.tier for f in findings if _family(by_id[f.rules[0]]) == self.family)
        fired = frozenset(f.rule for f in firings)
        return _Answer(normalized, firings, fired, max(tiers, default=None))

    @cached_property
    def now(self) -> _Answer:
        """The answer for the record as it is."""
        return self.after(self.record)

    @cached_property
    def evaluation(self) -> Evaluation:
        """The record as it is, judged by these rules alone."""
        now = self.now
        return self.part.evaluator.evaluate(self.record, now.normalized, now.firings, self.as_of)

    # ------------------------------------------------------------ answers

    def tiers_by_value(self, finding: Finding, facts: Iterable[Fact]) -> Iterator[Change]:
        """Yield what gives a finding another tier, by the value of one result behind `facts`."""
        for it in self.inputs(facts)[:_INPUTS]:
            found: list[Change] = []
            alike: set[Tier | None] = {finding.tier}
            for edit, answer in self.unflagged(it):
                if answer.tier not in alike:
                    found.append(_of_finding(edit, answer, finding))
                    alike.add(answer.tier)
            for points in self.points(it, self.part.bounds):
                seen = {*alike}
                for edit, answer in self.values(it, points):
                    if answer.tier not in seen:
                        found.append(_of_finding(edit, answer, finding))
                        if answer.tier is None or answer.tier > finding.tier:
                            break
                        seen |= set(Tier)  # it was milder; now only the end is wanted
            yield from sorted(found, key=lambda c: _rank(c, finding.tier))

    def more_urgent(self, finding: Finding) -> Iterator[Change]:
        """Yield what else, recorded in addition or fresh, gives a finding a higher tier."""
        for rule in self.part.program.rules:
            higher = _family(rule) == self.family and rule.rule.tier_value > finding.tier
            if higher and rule.rule.id not in self.now.fired:
                for edit, record in self.additions(rule, set()):
                    answer = self.after(record)
                    if answer.tier is not None and answer.tier > finding.tier:
                        yield _of_finding(edit, answer, finding)

    def of_rule(self, rule: CompiledRule) -> Iterator[Change]:
        """Yield what makes a rule stop that fired, or fire that did not."""
        fired = rule.rule.id in self.now.fired
        own = _with_makers(self.part.program, [rule])
        facts = self.behind([rule.rule.id]) if fired else self.facts.values()
        inputs = self.inputs(f for f in facts if f.key in own.keys)
        bounds = _bounds(own)

        def turned(tried: Iterable[tuple[Edit, _Answer]]) -> Iterator[Change]:
            for edit, answer in tried:
                if (rule.rule.id in answer.fired) != fired:
                    yield _of_rule(edit, answer, rule, fired)

        for it in inputs:
            found = [*turned(self.unflagged(it))]
            if not found:  # else any other value would do as well
                for points in self.points(it, bounds):
                    found += islice(turned(self.values(it, points)), 1)
            yield from found
        more = self.removals(facts) if fired else self.additions(rule, set())
        yield from turned((edit, self.after(record)) for edit, record in more)

    def behind(self, rules: Iterable[str]) -> list[Fact]:
        """Return the facts that rules which fired rest on, through findings in between."""
        because = {f.rule: f.because for f in self.now.firings}
        found: dict[str, Fact] = {}
        seen: set[str] = set()
        waiting = [key for id_ in rules for key in because.get(id_, ())]
        while waiting:
            key = waiting.pop()
            if key in self.facts:
                found[key] = self.facts[key]
            elif key not in seen:
                seen.add(key)
                waiting += [k for r in self.part.makers(key) for k in because.get(r.rule.id, ())]
        return [found[key] for key in sorted(found)]

    # ------------------------------------------------------------ the value of a result

    def inputs(self, facts: Iterable[Fact]) -> list[Input]:
        """Return the results behind these facts, each once; the first facts first."""
        found: dict[int, Input] = {}
        for fact in facts:
            for m in self.results_of(fact):
                if id(m) not in found and (it := self.input(m)) is not None:
                    found[id(m)] = it
        return list(found.values())

    def results_of(self, fact: Fact) -> Iterator[Measurement]:
        """Yield the results that a fact is the value of; of a rise and a ratio the latest."""
        if fact.kind in ("lab", "trend"):
            names = feeders(fact.concept, self.terminology)
            for source in fact.sources if fact.kind == "lab" else fact.sources[-1:]:
                same = [m for m in self.by_resource[source.resource] if m.analyte in names]
                if len(same) == 1:  # else nobody knows which of them is meant
                    yield same[0]

    def input(self, m: Measurement) -> Input | None:
        """Return a result with its unit and what follows from it; None where it has no value."""
        q, analyte = m.value, self.terminology.analytes[m.analyte]
        if q is None:
            return None
        # A fact rests on it, so its unit is known and converts.
        unit = ucum_of(q.code, q.unit) or analyte.unit
        code = self.terminology.lab_code(m.coding.system, m.coding.code)
        offset = analyte.convert(Decimal(0), unit, code)
        scale = analyte.convert(Decimal(1), unit, code) - offset
        facts = tuple(f for f in self.facts.values() if any(r is m for r in self.results_of(f)))
        return Input(m, q, analyte, unit, scale, offset, facts)

    def points(self, it: Input, bounds: _Bounds) -> tuple[list[Point], list[Point]]:
        """Return where an answer may change as the value rises, and as it falls, nearest first.

        At the bounds of rules, and at the laboratory's own limits where rules heed these.
        """
        found: dict[tuple[Fraction, bool, bool], Point] = {}
        for fact in it.facts:
            way = line(fact, it, self.terminology)
            if way is None or fact.key not in bounds:
                continue
            factor, addend = way
            plain = factor == 1 and not addend
            ends = bounds[fact.key]
            if plain and fact.key in self.part.flagged:
                ends = (*ends, *self.own_limits(it))
            for end, op in ends:
                target = end * factor + addend
                down = it.above(target, op)
                closed = op in (("le", "gt") if down else ("lt", "ge"))
                said = (fact.key, end) if fact.kind == "lab" and factor == 1 else None
                key, shown = said or (f"lab/{it.measurement.analyte}", target)
                point = Point(target, not down, closed, not plain, key, shown)
                found.setdefault((target, point.up, closed), point)
        ordered = sorted(found.values(), key=lambda p: p.rank)
        return [p for p in ordered if p.up], [p for p in ordered if not p.up]

    def own_limits(self, it: Input) -> Iterator[tuple[Fraction, str]]:
        """Yield the laboratory's own limits in the canonical unit, as bounds."""
        m = it.measurement
        code = self.terminology.lab_code(m.coding.system, m.coding.code)
        for q, op in ((m.low, "lt"), (m.high, "gt")):
            unit = ucum_of(q.code, q.unit) if q and (q.code or q.unit) else it.unit
            if q is not None and unit is not None and abs(q.value.adjusted()) < _HUGE:
                try:
                    yield it.analyte.convert(q.value, unit, code), op
                except UnitError:
                    continue

    def values(self, it: Input, points: Iterable[Point]) -> _Tried:
        """Yield what comes of each value, in turn; nothing where it could not be used."""
        m = it.measurement
        for point in points:
            for edit, number in point.tries(it):
                answer = self.after(measured(self.record, m, it.changed(number)))
                lost = answer.normalized.unusable.get(point.key, ())
                if all(u.resource != m.resource for u in lost):
                    yield edit, answer

    def unflagged(self, it: Input) -> _Tried:
        """Yield what comes of the value without the laboratory's flag, where it has one."""
        m = it.measurement
        key = next((f.key for f in it.facts if f.key in self.part.flagged), None)
        if m.flags and key is not None:
            answer = self.after(measured(self.record, m, replace(m, flags=())))
            yield Edit(key, "unflagged", resource=m.resource), answer

    # ------------------------------------------------------------ more, less, newer

    def removals(self, facts: Iterable[Fact]) -> Iterator[tuple[Edit, Record]]:
        """Yield the record without each thing recorded, and with each result that is missing."""
        for fact in facts:
            if fact.kind in RECORDED:
                yield taken_away(self.record, fact)
            elif fact.kind == "absence":
                yield with_any_result(self.record, fact.concept, self.as_of, self.terminology)

    def additions(self, rule: CompiledRule, seen: set[str]) -> Iterator[tuple[Edit, Record]]:
        """Yield records in which one open criterion of a rule may be met, or a blocking one gone.

        Of a finding that does not hold, those of the rules that assert it; `seen` are rules done.
        """
        seen.add(rule.rule.id)
        normalized, firings = self.now.normalized, self.now.firings
        trace = self.part.evaluator.trace(rule.rule.id, self.evaluation, normalized, firings)
        for leaf in _flat(trace.when):
            if leaf.state == "yes":
                continue
            for maker in self.part.makers(leaf.leaf.key):
                if maker.rule.id not in seen:
                    yield from self.additions(maker, seen)
            yield from self.supplied(leaf)
        blocking = {leaf.leaf.key for leaf in _flat(trace.unless) if leaf.state == "yes"}
        makers = [r.rule.id for key in blocking for r in self.part.makers(key)]
        direct = [fact for key, fact in self.facts.items() if key in blocking]
        yield from self.removals([*direct, *self.behind(makers)])

    def supplied(self, trace: LeafTrace) -> Iterator[tuple[Edit, Record]]:
        """Yield the record with what a criterion misses: a record, a result, or a newer one."""
        leaf, fact = trace.leaf, trace.fact
        kind = leaf.key.split("/")[0]
        limit = age_limit(leaf)
        if fact is None and kind == "lab":
            more = with_result(self.record, leaf, self.as_of, self.terminology)
            yield from [more] if more else []
        elif fact is None and kind in RECORDED:
            yield recorded(self.record, leaf, self.as_of, self.terminology)
        elif fact is not None and limit is not None and fact.props["age"] > limit:
            for m in self.results_of(fact):
                yield fresher(self.record, m, fact.key, limit, self.as_of)


def _flat(trace: NodeTrace | LeafTrace | None) -> Iterator[LeafTrace]:
    if isinstance(trace, LeafTrace):
        yield trace
    elif trace is not None:
        for part in trace.parts:
            yield from _flat(part)


# ---------------------------------------------------------------- changes with their outcome


def _of_finding(edit: Edit, answer: _Answer, finding: Finding) -> Change:
    outcome: Literal["stops", "tier"] = "stops" if answer.tier is None else "tier"
    return _change(edit, outcome, answer, finding.id, "")


def _of_rule(edit: Edit, answer: _Answer, rule: CompiledRule, fired: bool) -> Change:
    return _change(edit, "stops" if fired else "fires", answer, rule.rule.finding_id, rule.rule.id)


def _change(
    edit: Edit,
    outcome: Literal["stops", "fires", "tier"],
    answer: _Answer,
    finding: str,
    rule: str,
) -> Change:
    return Change(
        edit.key,
        edit.op,
        outcome,
        answer.tier,
        finding,
        rule,
        edit.value,
        edit.unit,
        edit.resource,
        edit.value_sent,
        edit.unit_sent,
    )


def _each_once(changes: Iterable[Change]) -> Iterable[Change]:
    """Return each change once, of a result that is missing only the least that will do."""
    found: dict[tuple[object, ...], Change] = {}
    for change in changes:
        added = change.resource is None
        name = (change.key, change.op, change.tier, None if added else change.value)
        other = found.setdefault(name, change)
        if change.value is not None and other.value is not None:
            low = change.op in ("below", "at or below")
            if change.value > other.value if low else change.value < other.value:
                found[name] = change
    return found.values()


def _rank(change: Change, now: Tier) -> int:
    """Milder first, then the end, then more urgent."""
    return 1 if change.tier is None else 0 if change.tier < now else 2
