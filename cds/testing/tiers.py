"""Properties of urgency: a worse value is never less urgent, and emergencies never cancel out.

**Worse value.** Along the axis of one analyte, all else being equal, the tier may fall and then
rise as the value rises, never the other way round: there is no value at which the patient is more
urgent than at some lower *and* at some higher value. Between too low and too high lies what is
normal, so such a peak is a band whose far side falls silent, or a tier that falls as the value
gets worse. It is looked for in the tier of the patient and in the highest tier of the findings,
shown or superseded, that rest on the analyte; at each limit of the rules, of the laboratory and
of the rises from earlier results, and one step beside it.

What albumin and eGFR decide is how another result is judged, so they are varied only where there
is no calcium.

**Emergencies.** Two records of one adult, each an emergency by itself and with no result of the
same analyte, are an emergency together. A rule that made one of them emergent may stop only
because its own `unless`, or that of a finding it builds on, holds now, or because a result that
it found missing is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Final

from hypothesis import strategies as st

from cds.bounds import STEP, number_bounds
from cds.evaluate import LeafTrace, NodeTrace
from cds.forms import Form, Lab, Patient
from cds.model import Tier
from cds.program import Program, leaves
from cds.screening import Assessment
from cds.testing.drawing import Drawing, Record, joined
from cds.testing.subject import Counterexample, Property, Subject, case, tier_name
from cds.testing.targets import Targets
from cds.wording import Wording

__all__ = ["EMERGENCIES", "MONOTONE"]

_NONE: Final = -1  # the rank of no finding at all


# ---------------------------------------------------------------- a worse value


@st.composite
def _axes(draw: st.DrawFn, drawing: Drawing) -> tuple[Lab, Record]:
    """Draw a result whose value is to be varied, and the rest of the record."""
    what = draw(st.sampled_from(_varied(drawing.targets)))
    about = _rules_about(drawing, what)
    near = draw(drawing.near(draw(st.sampled_from(about)), wholly=True)) if about else ()
    own = next((f for f in near if isinstance(f, Lab) and f.what == what), None)
    lab = own
    if lab is None or not draw(st.booleans()):
        lab = draw(drawing.labs(what))
    if lab.unit != drawing.unit(what):
        lab = replace(lab, unit=drawing.unit(what), range="")
    who = draw(st.none() | drawing.patients)
    others = draw(drawing.few(drawing.anything, 2))
    rest = [f for f in (*near, who, *others) if f is not None and f is not own]
    return lab, joined(_without_dependents(drawing.targets, what, rest))


def _varied(targets: Targets) -> list[str]:
    return [what for what in targets.labs if targets.numbers(what) or what in targets.changes]


def _rules_about(drawing: Drawing, what: str) -> list[str]:
    """The rules that test the analyte itself."""
    return drawing.once(
        ("rules about", what),
        lambda: [
            r.rule.id
            for r in drawing.program.rules
            if any(leaf.key.split("/")[1] == what for leaf in leaves(r.when))
        ],
    )


def _without_dependents(targets: Targets, what: str, forms: Iterable[Form]) -> list[Form]:
    """Leave out results that are judged otherwise because of the varied one."""
    adjusted = targets.terminology.adjusted_calcium
    if what not in (adjusted.albumin, adjusted.egfr):
        return list(forms)
    dependent = (adjusted.id, adjusted.total, adjusted.result)
    coded = {targets.analyte(name).id for name in dependent}
    return [f for f in forms if not (isinstance(f, Lab) and f.what in coded)]


def _peak(subject: Subject, drawn: tuple[Lab, Record]) -> Counterexample | None:
    lab, rest = drawn
    axis = _Axis(subject, lab, rest)
    found = axis.peak(axis.values(finer=False))
    if found is None:
        return None
    low, top, high, about = axis.peak(axis.values(finer=True)) or found
    worse = low if _lower_is_worse(subject.drawing.targets, lab.what, top) else high
    said = [f"{axis.tier(v, about)} at {v:f}" for v in (low, top, high)]
    unit = f" {lab.unit}" if lab.unit else ""
    message = (
        f"{lab.what}: {said[1]}{unit}, but {said[0]} and {said[2]}; a worse value must not be "
        "less urgent"
    )
    expect: dict[str, Sequence[str] | str] = {"tier": axis.tier(top, False)}
    if about:
        expect = {"fires": axis.rules(top)}
    return Counterexample(
        message,
        (
            case(f"{lab.what} {top:f}{unit}, as it is judged now", axis.record(top), expect),
            case(
                f"{lab.what} {worse:f}{unit} is not less urgent than {top:f}{unit}",
                axis.record(worse),
                expect,
            ),
        ),
    )


class _Axis:
    """One result with any value, the rest of the record being the same."""

    def __init__(self, subject: Subject, lab: Lab, rest: Record) -> None:
        self.subject, self.lab, self.rest = subject, lab, rest
        self.targets = subject.drawing.targets
        self.names = set(self.targets.judged_as(lab.what))
        self.assessed: dict[Decimal, Assessment] = {}

    def values(self, *, finer: bool) -> list[Decimal]:
        """The values to try, rising; `finer`: also those a last place away from the limits."""
        targets, what = self.targets, self.lab.what
        low, high = targets.limits(what)
        numbers = {*targets.numbers(what), *self._ends(), *self._risen()}
        steps = {Decimal(0), STEP, -STEP}
        if finer:
            place = targets.last_place(what)
            steps |= {place, -place}
        tried = {n + step for n in numbers for step in steps}
        inside = {v for v in tried if low < v < high}
        # "Below the least that is possible" is a fault of the data, not a worse value.
        return sorted(inside if self.lab.comparator else inside | {low, high})

    def _ends(self) -> list[Decimal]:
        words = self.lab.range.split()
        return [Decimal(w) for w in words if w[0].isdigit()]

    def _risen(self) -> Iterable[Decimal]:
        """The values at which a rise from an earlier result of the record reaches a limit."""
        known = self.targets.changes.get(self.lab.what, ())
        for form in self.rest:
            if isinstance(form, Lab) and form.what == self.lab.what:
                yield form.value
                for kind, amount, _ in known:
                    risen = form.value + amount if kind == "rise" else form.value * amount
                    yield risen.quantize(STEP)

    def record(self, value: Decimal) -> Record:
        return joined(self.rest, [replace(self.lab, value=value)])

    def at(self, value: Decimal) -> Assessment:
        if value not in self.assessed:
            self.assessed[value] = self.subject.assess(self.record(value))
        return self.assessed[value]

    def rank(self, value: Decimal, about: bool) -> int:
        """How urgent the patient is, or the findings about the analyte; -1: not at all."""
        assessment = self.at(value)
        if not about:
            return _NONE if assessment.tier is None else int(assessment.tier)
        evaluation = assessment.evaluation
        wording = Wording(evaluation, self.subject.screener.rulesets)
        findings = (*evaluation.findings, *(s.finding for s in evaluation.suppressed))
        resting = (
            int(f.tier)
            for f in findings
            if any(fact.concept in self.names for fact in wording.facts(f.because))
        )
        return max(resting, default=_NONE)

    def tier(self, value: Decimal, about: bool) -> str:
        rank = self.rank(value, about)
        return "none" if rank == _NONE else Tier(rank).name

    def rules(self, value: Decimal) -> list[str]:
        """The most urgent rules about the analyte at a value."""
        evaluation, top = self.at(value).evaluation, self.rank(value, True)
        wording = Wording(evaluation, self.subject.screener.rulesets)
        findings = (*evaluation.findings, *(s.finding for s in evaluation.suppressed))
        return sorted(
            rule
            for f in findings
            if f.tier == top
            and any(fact.concept in self.names for fact in wording.facts(f.because))
            for rule in f.rules
        )

    def peak(self, values: Sequence[Decimal]) -> tuple[Decimal, Decimal, Decimal, bool] | None:
        """Three rising values of which the middle one is the most urgent, as round as there are.

        And whether it is the findings about the analyte that say so, not the whole patient.
        """
        for about in (False, True):
            ranks = [self.rank(v, about) for v in values]
            found = []
            for j, top in enumerate(values):
                below = [v for v, rank in zip(values[:j], ranks, strict=False) if rank < ranks[j]]
                above = [
                    v for v, rank in zip(values[j:], ranks[j:], strict=True) if rank < ranks[j]
                ]
                if below and above:
                    plain = (
                        min(below, key=self._plain(top)),
                        top,
                        min(above, key=self._plain(top)),
                    )
                    found.append(plain)
            if found:
                return (*min(found, key=lambda vs: (sum(map(_digits, vs)), vs)), about)
        return None

    def _plain(self, top: Decimal) -> Callable[[Decimal], tuple[bool, Decimal]]:
        """Order values: those with no more digits than are shown first, then the nearest."""
        place = self.targets.last_place(self.lab.what)
        return lambda value: (value % place != 0, abs(value - top))


def _digits(value: Decimal) -> int:
    return len(value.normalize().as_tuple().digits)


def _lower_is_worse(targets: Targets, what: str, value: Decimal) -> bool:
    """On which side of normal a value lies, going by rules that test one side only."""
    sides: dict[str, set[str]] = {}
    bounds = [
        b
        for name in targets.judged_as(what)
        for b in number_bounds(targets.program).get(f"lab/{name}", ())
    ]
    for bound in bounds:
        sides.setdefault(bound.rule, set()).add("low" if bound.op in ("lt", "le") else "high")
    one_sided = [b for b in bounds if len(sides[b.rule]) == 1]
    low = [b.value for b in one_sided if b.op in ("lt", "le")]
    high = [b.value for b in one_sided if b.op in ("gt", "ge")]
    too_low, too_high = any(value < v for v in low), any(value > v for v in high)
    return too_low if too_low != too_high else len(low) >= len(high)


def _without_numbers(subject: Subject) -> str:
    return "" if _varied(subject.drawing.targets) else "no rule has a number to compare with"


MONOTONE: Final = Property(
    "worse-value",
    "A worse value never makes the patient less urgent.",
    _axes,
    _peak,
    share=0.5,
    skipped=_without_numbers,
)


# ---------------------------------------------------------------- two emergencies


@st.composite
def _emergencies(draw: st.DrawFn, drawing: Drawing) -> tuple[Record, Record]:
    """Draw two records of one adult that say nothing of the same analyte or concept twice."""
    rules = st.sampled_from(_emergent(drawing))
    first, second = (draw(drawing.near(draw(rules), wholly=True)) for _ in range(2))
    more = draw(drawing.few(drawing.presences("symptom") | drawing.medications(), 2))
    first = tuple(form for form in joined(first, more) if not isinstance(form, Patient))
    said = {_subject_of(drawing, form) for form in first}
    rest = [f for f in second if not isinstance(f, Patient) and _subject_of(drawing, f) not in said]
    return first, tuple(rest)


def _emergent(drawing: Drawing) -> list[str]:
    """The rules that make an emergency."""
    emergent = (r.rule for r in drawing.program.rules if r.rule.tier_value is Tier.emergency)
    return [rule.id for rule in emergent if not (rule.step or rule.stands_in_from)]


def _without_emergencies(subject: Subject) -> str:
    return "" if _emergent(subject.drawing) else "no rule makes an emergency"


def _subject_of(drawing: Drawing, form: Form) -> str:
    """What a statement is about; results that are judged together are about one thing."""
    what = getattr(form, "what", "")
    adjusted = drawing.terminology.adjusted_calcium
    calcium = (adjusted.id, adjusted.total, adjusted.result, adjusted.albumin, adjusted.egfr)
    if what in (*calcium, adjusted.ionized):
        return adjusted.id
    derived = drawing.terminology.derived.get(what)
    return derived.of if derived else what


def _lost(subject: Subject, drawn: tuple[Record, Record]) -> Counterexample | None:
    first, second = drawn
    program = subject.screener.rulesets.program
    alone = [subject.assess(forms) for forms in drawn]
    if any(a.tier is not Tier.emergency for a in alone):
        return None
    both = (*first, *second)
    together = subject.assess(both)
    cases = [
        case(f"The {word} by itself is an emergency", forms, {"tier": "emergency"})
        for word, forms in zip(("first", "second"), drawn, strict=True)
    ]
    if together.tier is not Tier.emergency:
        message = f"two emergencies are together only '{tier_name(together)}'"
        last = case("Both together are an emergency", both, {"tier": "emergency"})
        return Counterexample(message, (*cases, last))
    for assessment, shown in zip(alone, cases, strict=True):
        lost = sorted(
            rule
            for rule in assessment.fired - together.fired
            if program.by_id[rule].rule.tier_value is Tier.emergency
            and not _excused(program, together, rule)
        )
        if lost:
            message = f"rule {lost[0]} stops beside another emergency, and no 'unless' says so"
            last = case("Both together", both, {"fires": lost})
            return Counterexample(message, (shown, last))
    return None


def _excused(
    program: Program, together: Assessment, rule: str, above: tuple[str, ...] = ()
) -> bool:
    """Whether an `unless` that holds now, or a result that is no longer missing, stopped a rule."""
    trace = together.explain(rule)
    if trace.unless is not None and trace.unless.state == "yes":
        return True
    for leaf in _not_met(trace.when):
        if leaf.leaf.key.startswith(("no-result/", "sex/")):
            return True
        if leaf.leaf.key.startswith("finding/"):
            makers = [
                r.rule.id
                for r in program.rules
                if r.finding_key == leaf.leaf.key and r.rule.id not in above
            ]
            if any(_excused(program, together, m, (*above, m)) for m in makers):
                return True
    return False


def _not_met(trace: NodeTrace | LeafTrace) -> Iterable[LeafTrace]:
    if trace.state == "yes":
        return
    if isinstance(trace, LeafTrace):
        yield trace
    else:
        for part in trace.parts:
            yield from _not_met(part)


EMERGENCIES: Final = Property(
    "emergencies",
    "Two emergencies of one patient are an emergency together; only an 'unless' stops a rule.",
    _emergencies,
    _lost,
    skipped=_without_emergencies,
)
