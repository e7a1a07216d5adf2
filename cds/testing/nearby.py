"""What brings one rule near: statements that meet each of its criteria, by as little as possible.

Of alternatives one is taken, of findings one of the rules that make them; what stands behind
`unless` is left out. What cannot be said in a case is left out as well, so a rule does not always
fire.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_FLOOR, Decimal
from typing import TYPE_CHECKING, Any, Final

from hypothesis import strategies as st

from cds.bounds import STEP
from cds.forms import NOW, Form, Lab, Patient, Presence, Takes, When, ago
from cds.program import AllOf, Leaf, Node
from cds.rulefile import (
    AgeCriterion,
    FindingCriterion,
    HistoryCriterion,
    LabCriterion,
    MedicationCriterion,
    PresenceCriterion,
    QualityCriterion,
    RatioCriterion,
    RiseCriterion,
    SexCriterion,
)
from cds.terminology import seconds_of
from cds.testing.targets import DAY

if TYPE_CHECKING:
    from cds.testing.drawing import Drawing

__all__ = ["Near"]

_HOLDS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}


@dataclass(slots=True)
class _Course:
    """What the results of one analyte must be: the latest, and how it rose before."""

    bounds: list[tuple[str, Decimal]] = field(default_factory=list)
    within: int = 0  # seconds; the least of what criteria ask for
    older_than: int = -1
    side: str = ""  # what the laboratory calls it
    rise: tuple[str, str, Decimal, int] | None = None  # kind, op, amount, seconds


@dataclass(slots=True)
class _Wanted:
    """What must be said of the patient so that some criteria hold."""

    courses: dict[str, _Course] = field(default_factory=dict)
    forms: list[Form] = field(default_factory=list)
    sex: str | None = None
    years: int | None = None
    about: bool = False  # whether sex or age matter


class Near:
    """Draws what makes one rule hold. Args: the strategies to draw from, and the rule's id."""

    def __init__(self, drawing: Drawing, rule: str) -> None:
        self.drawing, self.rule = drawing, drawing.program.by_id[rule]
        self.makers = drawing.targets.makers

    def draw(self, draw: st.DrawFn) -> list[Form]:
        """Return the statements, the patient's first where age or sex matter."""
        wanted = _Wanted()
        self._node(draw, self.rule.when, wanted, (self.rule.rule.id,))
        forms: list[Form] = [Patient(wanted.sex, wanted.years)] if wanted.about else []
        for what, course in wanted.courses.items():
            forms += self._results(draw, what, course)
        return list(dict.fromkeys([*forms, *wanted.forms]))

    def _node(self, draw: st.DrawFn, node: Node, wanted: _Wanted, above: tuple[str, ...]) -> None:
        if isinstance(node, Leaf):
            self._leaf(draw, node, wanted, above)
        elif isinstance(node, AllOf):
            for part in node.parts:
                self._node(draw, part, wanted, above)
        elif node.parts:
            self._node(draw, draw(st.sampled_from(node.parts)), wanted, above)

    def _leaf(self, draw: st.DrawFn, leaf: Leaf, wanted: _Wanted, above: tuple[str, ...]) -> None:
        c: Any = leaf.criterion
        match c:
            case FindingCriterion():
                makers = [r for r in self.makers.get(leaf.key, ()) if r.rule.id not in above]
                if makers:
                    maker = draw(st.sampled_from(makers))
                    self._node(draw, maker.when, wanted, (*above, maker.rule.id))
            case LabCriterion() | RiseCriterion() | RatioCriterion():
                self._course(c, wanted)
            case PresenceCriterion():
                wanted.forms += self._present(draw, c)
            case HistoryCriterion():
                wanted.forms.append(Presence("history", c.history))
            case MedicationCriterion():
                wanted.forms.append(self._taken(draw, c))
            case SexCriterion():
                wanted.sex, wanted.about = None if c.sex == "unknown" else c.sex, True
            case AgeCriterion():
                op, years = c.bound or ("ge", Decimal(0))
                wanted.years = int(years) + {"lt": -1, "gt": 1}.get(op, 0)
                wanted.about = True
            case QualityCriterion():
                wanted.forms += self._impossible(c)

    # ------------------------------------------------------------ results

    def _course(self, c: LabCriterion | RiseCriterion | RatioCriterion, wanted: _Wanted) -> None:
        what = (
            c.lab
            if isinstance(c, LabCriterion)
            else c.rise
            if isinstance(c, RiseCriterion)
            else c.ratio
        )
        if what not in self.drawing.targets.labs:
            return
        fresh = self.drawing.targets.analyte(what).fresh
        within = seconds_of(c.within) if c.within else fresh
        course = wanted.courses.setdefault(what, _Course(within=within))
        course.within = min(course.within, within)
        if self.rule.rule.recheck_of:  # where the rule itself holds, its companion does not
            course.older_than = fresh
        if isinstance(c, LabCriterion):
            if c.older_than:
                course.older_than = max(course.older_than, seconds_of(c.older_than))
            course.side = c.laboratory or course.side
            if c.bound:
                course.bounds.append(c.bound)
        elif c.bound:
            kind = "rise" if isinstance(c, RiseCriterion) else "ratio"
            course.rise = (kind, *c.bound, seconds_of(c.over))

    def _results(self, draw: st.DrawFn, what: str, course: _Course) -> list[Lab]:
        targets = self.drawing.targets
        unit, place = self.drawing.unit(what), targets.last_place(what)
        values = [v for v in targets.values(what) if _meets(v, course.bounds)]
        rising = [v for v in values if self._before(what, v, course, place) is not None]
        value = draw(st.sampled_from(rising or values or list(targets.limits(what))))
        ages = [a for a in targets.ages(what) if course.older_than < a <= course.within]
        age = draw(st.sampled_from(ages or [course.within]))
        latest = Lab(what, value, unit, ago(age), flag=_flag(course.side))
        before = self._before(what, value, course, place)
        if before is None or course.rise is None:
            return [latest]
        gap = draw(st.sampled_from([course.rise[3], course.rise[3] // 2]))
        return [latest, Lab(what, before, unit, ago(age + gap))]

    def _before(self, what: str, value: Decimal, course: _Course, place: Decimal) -> Decimal | None:
        """Return what the analyte must have risen from, or None where it cannot."""
        if course.rise is None:
            return None
        kind, op, amount, _ = course.rise
        start = value - amount if kind == "rise" else value / amount
        if op == "gt" or kind == "ratio":
            start = start.quantize(place, ROUND_FLOOR) - (STEP if op == "gt" else 0)
        return start if start >= self.drawing.targets.limits(what)[0] and start > 0 else None

    def _impossible(self, c: QualityCriterion) -> Sequence[Lab]:
        targets = self.drawing.targets
        for what in (c.lab,) if c.lab else targets.labs:
            if what in targets.labs and targets.analyte(what).plausible is not None:
                high = targets.limits(what)[1]
                return [Lab(what, high + targets.last_place(what), self.drawing.unit(what))]
        return []

    # ------------------------------------------------------------ time

    def _onset(self, draw: st.DrawFn, c: PresenceCriterion, kind: str, concept: str) -> When:
        if c.onset_within:
            return ago(draw(st.sampled_from([DAY, seconds_of(c.onset_within)])), lasting=True)
        if c.seen_within:
            return ago(draw(st.sampled_from([0, seconds_of(c.seen_within)])))
        longer_than = c.longer_than
        if longer_than:
            begun = seconds_of(longer_than)
            last = seconds_of(c.within) if c.within else begun + DAY
            return ago(draw(st.sampled_from([begun + 1, last])), lasting=True)
        ages = self.drawing.targets.onsets(kind, concept)
        last = seconds_of(c.within) if c.within else DAY
        return draw(st.sampled_from([NOW, *(ago(a) for a in ages if 0 < a <= last)]))

    def _present(self, draw: st.DrawFn, c: PresenceCriterion) -> Sequence[Form]:
        """Return the records, and the medicine that they come after."""
        if c.medicine is None:
            when = self._onset(draw, c, c.kind, c.concept)
            if c.severity and not when.lasting:
                when = ago(DAY, lasting=True)
            again = [ago(DAY * n) for n in range(1, c.times or 1)]
            first = Presence(c.kind, c.concept, when, severity=c.severity or "", sites=c.sites or 0)
            return [first, *(Presence(c.kind, c.concept, w) for w in again)]
        event, medicine = c.medicine
        age = draw(st.sampled_from([DAY, 10 * DAY]))
        before = draw(st.sampled_from([DAY, seconds_of(c.delay) if c.delay else 30 * DAY]))
        begun = Presence(c.kind, c.concept, ago(age, lasting=True))
        if event == "start":
            return [begun, Takes(medicine, ago(age + before, lasting=True))]
        return [begun, Takes(medicine, until=str(ago(age + before)))]

    def _taken(self, draw: st.DrawFn, c: MedicationCriterion) -> Takes:
        if c.being_ordered:
            return Takes(c.medication, request=True, status="draft")
        if c.stopped_within:
            last = seconds_of(c.stopped_within)
            lasted = seconds_of(c.lasted) if c.lasted else DAY
            end = draw(st.sampled_from([DAY, last]))
            return Takes(c.medication, ago(end + lasted, lasting=True), until=str(ago(end)))
        span = c.started_within or c.changed_within
        if span:
            return Takes(
                c.medication, ago(draw(st.sampled_from([DAY, seconds_of(span)])), lasting=True)
            )
        return Takes(
            c.medication,
            ago(seconds_of(c.longer_than) + 1, lasting=True) if c.longer_than else None,
        )


def _meets(value: Decimal, bounds: Sequence[tuple[str, Decimal]]) -> bool:
    return all(_HOLDS[op](value, bound) for op, bound in bounds)


def _flag(side: str) -> str:
    return {"below": "L", "above": "H", "critical-low": "LL", "critical-high": "HH"}.get(side, "")
