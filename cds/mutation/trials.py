"""Trials: does a case notice a mutant? Only what changed is tried on what is known already.

Each case is read and normalized once, for the facts that the program and all its mutants ask for.
A mutant is tried on the *known model* of a case: its facts, and the findings that hold. Where no
changed rule comes out otherwise, no rule does. Where one does, all rules that build on it are
chained again, stratum by stratum, with the meaning of `cds.engine.reference`. Findings, tiers and
cards are made only for cases that expect something of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from cds.cards import render
from cds.cases import Case
from cds.engine import because, holds, taken_up
from cds.facts import Normalizer
from cds.fhir import Reader, ReadLog
from cds.harness import (
    CaseResult,
    card_text,
    own_findings,
    plain,
    run_case,
    tier_name,
    waits_for,
)
from cds.model import Finding, Firing
from cds.mutation.operators import AnalyteMutant
from cds.mutation.variants import Variant
from cds.program import CompiledRule, Leaf, Program, leaves
from cds.screening import Assessment, Screener

__all__ = ["Trial", "Trials"]

_NO_PROPS: Final[Mapping[str, int]] = {}
_NEVER: Final = 1 << 60  # farther, in seconds, than any result can be
_AUDIENCES: Final[tuple[Literal["clinician", "patient"], ...]] = ("clinician", "patient")


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A case that passes, with all that is known of its patient.

    `known` holds the props of facts and findings by key; `fired` are the rules that hold.
    `names` are the rules that the case expects something of. `waiting` are, for each thing
    that must be missing, the rules that wait for it.
    """

    case: Case
    assessment: Assessment
    known: Mapping[str, Mapping[str, int]]
    fired: frozenset[str]
    names: frozenset[str]
    waiting: tuple[frozenset[str], ...]
    number: int

    @property
    def asks_for_findings(self) -> bool:
        """Whether it expects a tier, or which findings are shown."""
        expect = self.case.expect
        return bool(expect.tier or expect.patient_tier) or expect.shows is not None

    @property
    def asks_for_cards(self) -> bool:
        """Whether it expects a text on a card."""
        return bool(self.case.expect.card or self.case.expect.patient_card)


class Trials:
    """The trials of one set of cases, for every mutant of a program.

    Args:
        screener: what the cases were run with.
        variants: every mutant that will be tried, for the facts that they ask for.
    """

    def __init__(self, screener: Screener, variants: Iterable[Variant]) -> None:
        self.rulesets = screener.rulesets
        program = screener.rulesets.program
        self._program = program
        keys = set(program.keys)
        needs = {need.key: need for need in program.needs}
        for variant in variants:
            needs |= {need.key: need for need in variant.needs}
            for _, rule in variant.changed:
                if rule is not None:
                    keys |= {leaf.key for leaf in _leaves(rule)}
        self.union = Program(
            program.rules, frozenset(keys), tuple(needs[key] for key in sorted(needs))
        )
        terminology = screener.rulesets.terminology
        self._normalizer = Normalizer(self.union, terminology)
        more = self._normalizer.wanted - screener.normalizer.wanted
        self._reader = Reader(terminology, wanted=self._normalizer.wanted) if more else None
        self._dependents = _Dependents(program)
        self._of_findings: dict[Trial, bool] = {}
        self._order: dict[tuple[str, ...], list[Trial]] = {}
        self.all: list[Trial] = []

    def add(self, result: CaseResult) -> Trial | None:
        """Take up a case that passed; None for one that did not."""
        if not result.passed or result.assessment is None:
            return None
        trial = self.trial(result.case, result.assessment)
        self.all.append(trial)
        self._order.clear()
        return trial

    def trial(self, case: Case, assessment: Assessment) -> Trial:
        """Return what is known of a patient, without adding it to the trials."""
        record = assessment.record
        if self._reader is not None:
            records = list(self._reader.read(case.bundle(self.rulesets.terminology), ReadLog()))
            record = records[0]
        facts = self._normalizer.normalize(record, case.as_of).facts
        known = taken_up(self.union, facts)
        fired = assessment.fired
        rules = self._program.by_id
        known.update((rules[id_].finding_key, _NO_PROPS) for id_ in fired)
        expect = case.expect
        shown = set(expect.shows or ())
        names = {*expect.fires, *expect.not_}
        names |= {r.rule.id for r in self._program.rules if r.rule.finding_id in shown}
        undecided = assessment.evaluation.not_evaluated
        waits = expect.missing if isinstance(expect.missing, Mapping) else {}
        wanted = waits.items() or [("", needs) for needs in expect.missing]
        waiting = tuple(
            frozenset(n.rule for n in undecided if waits_for(n, needs) and rule in ("", n.rule))
            for rule, needs in wanted
        )
        names |= waits.keys()
        return Trial(case, assessment, known, fired, frozenset(names), waiting, len(self.all))

    # ------------------------------------------------------------ the order of trials

    def in_order(self, variant: Variant) -> Sequence[Trial]:
        """The trials, those first that speak of the changed rules, then of what rests on them."""
        ids = tuple(self._program.rules[index].rule.id for index, _ in variant.changed)
        if ids not in self._order:
            behind = {self._program.rules[i].rule.id for i in self._dependents.of(variant)}
            self._order[ids] = sorted(
                self.all,
                key=lambda t: (
                    t.names.isdisjoint(ids),
                    t.names.isdisjoint(behind),
                    t.asks_for_cards,
                    len(t.case.forms),
                    t.number,
                ),
            )
        if isinstance(variant.mutant, AnalyteMutant):
            near = self._distance(variant.mutant)
            return [t for t in sorted(self._order[ids], key=near) if near(t) < _NEVER]
        return self._order[ids]

    def _distance(self, mutant: AnalyteMutant) -> Callable[[Trial], int]:
        """How far, in seconds, the nearest result of the analyte lies from the window's end."""
        terminology = self.rulesets.terminology
        window = getattr(terminology.analytes[mutant.analyte], mutant.field)
        adjusted, derived = terminology.adjusted_calcium, terminology.derived.get(mutant.analyte)
        names = {mutant.analyte}
        if derived is not None:
            names.add(derived.of)
        if mutant.analyte == adjusted.id:
            names |= {adjusted.total, adjusted.result}

        def distance(trial: Trial) -> int:
            ages = [
                abs(trial.case.as_of - m.effective.start - window)
                for m in trial.assessment.record.measurements
                if m.analyte in names and m.effective is not None
            ]
            return min(ages, default=_NEVER)

        return distance

    # ------------------------------------------------------------ one trial

    def notices(self, variant: Variant, trial: Trial) -> bool:
        """Whether a case that passes would fail with the mutant."""
        expect = trial.case.expect
        fired = self.fired(variant, trial)
        if not fired.issuperset(expect.fires) or not fired.isdisjoint(expect.not_):
            return True
        if trial.asks_for_findings and self.matters(variant, trial, fired):
            findings = self.findings(variant, trial, fired)
            own = own_findings(trial.case, findings)
            if expect.tier not in (None, tier_name(own)):
                return True
            if expect.patient_tier not in (None, tier_name(findings)):
                return True
            if expect.shows is not None and {f.id for f in own} != {*expect.shows}:
                return True
        if self._might_wait_otherwise(variant, trial) or (
            trial.asks_for_cards and self._might_say_otherwise(variant, trial, fired)
        ):
            screener = Screener(variant.rulesets, "reference")
            return not run_case(screener, trial.case).passed
        return False

    def fired(self, variant: Variant, trial: Trial) -> frozenset[str]:
        """The rules that hold with the mutant."""
        if isinstance(variant.mutant, AnalyteMutant):
            normalized = variant.normalizer.normalize(trial.assessment.record, trial.case.as_of)
            return frozenset(f.rule for f in variant.engine.run(normalized.facts))
        known, rules = trial.known, self._program.rules
        if not self._dependents.circular(variant) and all(
            _holds(new, known) == (rules[index].rule.id in trial.fired)
            for index, new in variant.changed
        ):
            return trial.fired
        return self._chained(variant, trial)

    def _chained(self, variant: Variant, trial: Trial) -> frozenset[str]:
        """Chain again what builds on the changed rules, as `ReferenceEngine` does."""
        rules, new = self._program.rules, dict(variant.changed)
        again = self._dependents.of(variant)
        ids = {rules[i].rule.id for i in again}
        fired = {id_ for id_ in trial.fired if id_ not in ids}
        kept = {self._program.by_id[id_].finding_key for id_ in fired}
        known = dict(trial.known)
        for index in again:
            if rules[index].finding_key not in kept:
                known.pop(rules[index].finding_key, None)
        waiting = [rule for i in again if (rule := new.get(i, rules[i])) is not None]
        for stratum in sorted({r.stratum for r in waiting}):
            here = [r for r in waiting if r.stratum == stratum]
            while found := [r for r in here if _holds(r, known)]:
                fired.update(r.rule.id for r in found)
                known.update((r.finding_key, _NO_PROPS) for r in found)
                here = [r for r in here if r.rule.id not in fired]
        return frozenset(fired)

    def findings(self, variant: Variant, trial: Trial, fired: frozenset[str]) -> Sequence[Finding]:
        """What is shown with the mutant, given the rules that hold."""
        firings = [Firing(r.rule.id, ()) for r in variant.rules if r.rule.id in fired]
        findings, _, _ = variant.evaluator.findings(firings, trial.assessment.normalized)
        return findings

    def matters(self, variant: Variant, trial: Trial, fired: frozenset[str]) -> bool:
        """Whether findings can differ: something else holds, or what holds is read otherwise."""
        if fired != trial.fired or trial.assessment.normalized.child:
            return True
        if variant.mutant.kind in ("leaf", "removed", "swapped", "emptied", "analyte"):
            return False
        return any(self._program.rules[i].rule.id in fired for i, _ in variant.changed)

    def _might_wait_otherwise(self, variant: Variant, trial: Trial) -> bool:
        """Whether all that waits for something expected to be missing rests on changed rules."""
        if not trial.waiting:
            return False
        if isinstance(variant.mutant, AnalyteMutant):
            return True
        rules = self._program.rules
        ids = {rules[i].rule.id for i in self._dependents.of(variant)}
        return any(waits <= ids for waits in trial.waiting)

    def _might_say_otherwise(self, variant: Variant, trial: Trial, fired: frozenset[str]) -> bool:
        """Whether a fragment that a card must hold could be gone.

        Not where cards say the same of the same findings. What they say besides, of what would
        change an answer and of what could not be judged, counts only where it is asked for.
        """
        if fired != trial.fired or isinstance(variant.mutant, AnalyteMutant):
            return True
        assessment = trial.assessment
        new = {r.rule.id: r for _, r in variant.changed if r is not None}
        firings = [
            Firing(f.rule, because(new[f.rule], trial.known)) if f.rule in new else f
            for f in assessment.firings
        ]
        evaluation, normalized = assessment.evaluation, assessment.normalized
        findings, suppressed, _ = variant.evaluator.findings(firings, normalized)
        same = (
            firings == list(assessment.firings)
            and set(findings) == set(evaluation.findings)
            and set(suppressed) == set(evaluation.suppressed)
        )
        return not same or not self._says_of_findings(trial)

    def _says_of_findings(self, trial: Trial) -> bool:
        """Whether cards hold every fragment in what they say of findings alone."""
        if trial not in self._of_findings:
            evaluation = replace(trial.assessment.evaluation, not_evaluated=())
            expect = trial.case.expect
            texts = [
                card_text(render(evaluation, self.rulesets, audience=audience))
                for audience in _AUDIENCES
            ]
            self._of_findings[trial] = all(
                plain(fragment) in text
                for text, fragments in zip(texts, (expect.card, expect.patient_card), strict=True)
                for fragment in fragments
            )
        return self._of_findings[trial]


def _holds(rule: CompiledRule | None, known: Mapping[str, Mapping[str, int]]) -> bool:
    """Whether a rule holds by itself; a stand-in is never run."""
    return (
        rule is not None
        and not rule.rule.stands_in_from
        and holds(rule.when, known)
        and not (rule.unless is not None and holds(rule.unless, known))
    )


def _leaves(rule: CompiledRule) -> tuple[Leaf, ...]:
    return (*leaves(rule.when), *leaves(rule.unless))


class _Dependents:
    """Which rules build on which, through findings."""

    def __init__(self, program: Program) -> None:
        self._rules = program.rules
        self._users: dict[str, set[int]] = {}
        for index, rule in enumerate(program.rules):
            for leaf in _leaves(rule):
                if leaf.key.startswith("finding/"):
                    self._users.setdefault(leaf.key, set()).add(index)
        self._found: dict[tuple[int, ...], tuple[int, ...]] = {}

    def of(self, variant: Variant) -> tuple[int, ...]:
        """The changed rules and all that build on them, in the order of the program."""
        start = tuple(index for index, _ in variant.changed)
        if start not in self._found:
            self._found[start] = tuple(sorted({*start, *self._behind(start)}))
        return self._found[start]

    def circular(self, variant: Variant) -> bool:
        """Whether a changed rule builds on its own finding: then nothing known may hold it up."""
        return any(index in self._behind((index,)) for index, _ in variant.changed)

    def _behind(self, start: tuple[int, ...]) -> set[int]:
        found: set[int] = set()
        waiting = list(start)
        while waiting:
            new = self._users.get(self._rules[waiting.pop()].finding_key, set()) - found
            found |= new
            waiting += new
        return found
