"""Threshold scales: which values of a result reach which tier, as bands on an axis.

One `Scale` for each kind of value that rules compare with numbers, one `Lane` on it for each
circumstance that rules ask for besides the value, so that a lane says what becomes of a patient
in that circumstance. Only drawing uses binary fractions; the bounds are the exact ones of the
rules.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import pairwise
from typing import Any, Final

from cds.catalog import concept_name, criterion_text, span_text
from cds.model import Tier
from cds.program import AllOf, AnyOf, CompiledRule, Leaf, Node
from cds.rulefile import Bound, LabCriterion
from cds.rules import Rulesets
from cds.terminology import seconds_of

__all__ = ["Axis", "Band", "Cut", "Lane", "Mention", "Scale", "Stretch", "Tick", "scales"]

Cut = tuple[Decimal, int]
"""A place between values: (2.5, 0) just below 2.5, (2.5, 1) just above it. They sort."""

_PAD: Final = 0.18  # of the distance between the outermost bounds, beyond each of them
_CROWDED: Final = 10.0  # percent of the width: bounds closer than that are hard to tell apart


@dataclass(frozen=True, slots=True)
class Stretch:
    """The values for which one criterion of a rule holds: from `start` to `end`, None for no end.

    `criterion` is the criterion in words, `title` and `tier` are those of the rule.
    """

    rule: str
    title: str
    tier: Tier
    criterion: str
    start: Cut | None
    end: Cut | None

    def holds(self, band: Band) -> bool:
        """Whether it holds for every value of the band."""
        return (self.start is None or (band.start is not None and self.start <= band.start)) and (
            self.end is None or (band.end is not None and band.end <= self.end)
        )


@dataclass(frozen=True, slots=True)
class Band:
    """The values from `start` to `end` with their most urgent tier; None: no rule speaks."""

    start: Cut | None
    end: Cut | None
    tier: Tier | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """A bound on the axis: `number` as the rule writes it; `sign` is "" where two rules differ."""

    value: Decimal
    sign: str
    number: str


@dataclass(frozen=True)
class Axis:
    """From values to percent of the width; `log` is a logarithmic axis."""

    low: float
    high: float
    log: bool

    def at(self, value: Decimal | float) -> float:
        """Return where a value stands, 0 at the left end and 100 at the right one."""
        number = math.log(value) if self.log else float(value)
        return 100 * (number - self.low) / (self.high - self.low)

    def ends(self, stretch: Stretch | Band) -> tuple[float, float]:
        """Return where a stretch or band begins and ends."""
        start = self.at(stretch.start[0]) if stretch.start else 0.0
        return start, self.at(stretch.end[0]) if stretch.end else 100.0


@dataclass(frozen=True)
class Lane:
    """What values mean in one circumstance.

    `beside` and `unless` are what the rules ask for besides the value, in the words of
    `catalog.catalog`; both empty: whatever else is recorded. `stretches` are of the rules that
    ask for just that; `bands` and `ticks` also take in the rules that ask for less.
    """

    beside: tuple[Any, ...]
    unless: tuple[Any, ...]
    stretches: tuple[Stretch, ...]
    bands: tuple[Band, ...]
    ticks: tuple[Tick, ...]


@dataclass(frozen=True, slots=True)
class Mention:
    """A criterion over the same result that makes no band: of a step, of a warning, or a flag."""

    rule: str
    title: str
    criterion: str


@dataclass(frozen=True)
class Scale:
    """All bands of one kind of value. `key` is that of its facts ("lab/potassium").

    `possible` are the limits of the possible of a result, both included, None where none is.
    """

    key: str
    title: str
    unit: str
    possible: tuple[Decimal | None, Decimal | None]
    axis: Axis
    lanes: tuple[Lane, ...]
    mentions: tuple[Mention, ...]


def scales(rulesets: Rulesets) -> list[Scale]:
    """Return the scale of every kind of value that a rule with a finding compares with a number.

    In the order of the rules, the scales of one analyte side by side. The companions for older
    results are left out: they have the numbers of the rules they belong to.
    """
    drafts: dict[str, _Draft] = {}
    mentions: dict[str, list[Mention]] = {}
    for compiled in rulesets.program.rules:
        rule = compiled.rule
        if rule.recheck_of is not None:
            continue
        for leaf, beside in _leaves(compiled.when, ()):
            bounded = _bound(leaf) is not None
            if bounded and not rule.step and not rule.caveat_for:
                drafts.setdefault(leaf.key, _Draft()).add(compiled, leaf, beside, rulesets)
            elif bounded or isinstance(leaf.criterion, LabCriterion):
                words = criterion_text(leaf.criterion, rulesets)
                mentions.setdefault(leaf.key, []).append(Mention(rule.id, rule.title, words))
    concepts = list(dict.fromkeys(_concept(key) for key in drafts))
    keys = sorted(drafts, key=lambda key: concepts.index(_concept(key)))
    return [drafts[key].scale(key, mentions.get(key, ()), rulesets) for key in keys]


# ---------------------------------------------------------------- from rules to lanes


@dataclass
class _Circumstance:
    """A lane that is being gathered: what rules ask for besides the value, and their stretches."""

    beside: tuple[Any, ...]
    unless: tuple[Any, ...]
    stretches: list[Stretch] = field(default_factory=list)

    def includes(self, other: _Circumstance) -> bool:
        """Whether whoever is in this circumstance is in the other one too."""
        return all(w in self.beside for w in other.beside) and all(
            w in self.unless for w in other.unless
        )


@dataclass
class _Draft:
    """A scale that is being gathered: its lanes, and each number as rules write it."""

    lanes: dict[str, _Circumstance] = field(default_factory=dict)
    written: dict[Decimal, str] = field(default_factory=dict)

    def add(
        self, compiled: CompiledRule, leaf: Leaf, beside: Sequence[Node], rulesets: Rulesets
    ) -> None:
        """Take in one criterion of a rule, with what must hold beside it."""
        rule = compiled.rule
        start, end = self._interval(leaf)
        others = []
        for node in beside:
            if isinstance(node, Leaf) and node.key == leaf.key and _bound(node):
                # A second bound on the same value narrows the stretch.
                low, high = self._interval(node)
                start = max(filter(None, (start, low)), default=None)
                end = min(filter(None, (end, high)), default=None)
            else:
                others.append(_words(node, rulesets))
        barred = compiled.unless.parts if isinstance(compiled.unless, AnyOf) else ()
        unless = [_words(node, rulesets) for node in barred]
        others.sort(key=repr)
        unless.sort(key=repr)
        lane = self.lanes.setdefault(
            repr((others, unless)), _Circumstance(tuple(others), tuple(unless))
        )
        words = criterion_text(leaf.criterion, rulesets)
        stretch = Stretch(rule.id, rule.title, rule.tier_value, words, start, end)
        if stretch not in lane.stretches:
            lane.stretches.append(stretch)

    def _interval(self, leaf: Leaf) -> tuple[Cut | None, Cut | None]:
        op, value = _bound(leaf) or ("ge", Decimal(0))
        self.written[value] = max(self.written.get(value, ""), format(value, "f"), key=len)
        cut = (value, int(op in ("le", "gt")))
        return (cut, None) if op in ("gt", "ge") else (None, cut)

    def scale(self, key: str, mentions: Sequence[Mention], rulesets: Rulesets) -> Scale:
        """Return what was gathered as a scale."""
        lanes = sorted(
            (self._lane(lane) for lane in self.lanes.values()),
            key=lambda lane: bool(lane.beside or lane.unless),
        )
        axis = _axis([[tick.value for tick in lane.ticks] for lane in lanes])
        analyte = rulesets.terminology.analytes.get(_concept(key))
        limits = analyte.plausible if analyte and key.startswith("lab/") else None
        possible = (_decimal(limits.ge), _decimal(limits.le)) if limits else (None, None)
        title, unit = _title(key, rulesets)
        return Scale(key, title, unit, possible, axis, tuple(lanes), tuple(mentions))

    def _lane(self, lane: _Circumstance) -> Lane:
        every = [s for o in self.lanes.values() if lane.includes(o) for s in o.stretches]
        own = {cut for s in lane.stretches for cut in (s.start, s.end)}
        cuts = sorted({cut for s in every for cut in (s.start, s.end) if cut})
        bands: list[Band] = []
        for start, end in pairwise([None, *cuts, None]):
            band = Band(start, end)
            tier = max((s.tier for s in every if s.holds(band)), default=None)
            # A bound of another lane that changes nothing here would only be in the way.
            if bands and bands[-1].tier == tier and start not in own:
                bands[-1] = Band(bands[-1].start, end, tier)
            else:
                bands.append(Band(start, end, tier))
        shown = {band.start for band in bands}
        signs: dict[Decimal, set[str]] = {}
        for s in every:
            for cut, words in ((s.start, "≥>"), (s.end, "<≤")):
                if cut and cut in shown:
                    signs.setdefault(cut[0], set()).add(words[cut[1]])
        ticks = tuple(
            Tick(value, found.pop() if len(found) == 1 else "", self.written[value])
            for value, found in sorted(signs.items())
        )
        return Lane(lane.beside, lane.unless, tuple(lane.stretches), tuple(bands), ticks)


def _bound(leaf: Leaf) -> tuple[str, Decimal] | None:
    """Return comparator and number of a criterion, None where it has none."""
    return leaf.criterion.bound if isinstance(leaf.criterion, Bound) else None


def _leaves(node: Node, beside: tuple[Node, ...]) -> Iterator[tuple[Leaf, tuple[Node, ...]]]:
    """Yield each criterion of a tree with the parts that must hold beside it."""
    if isinstance(node, Leaf):
        yield node, beside
        return
    for part in node.parts:
        others = tuple(p for p in node.parts if p is not part) if isinstance(node, AllOf) else ()
        yield from _leaves(part, (*beside, *others))


def _words(node: Node, rulesets: Rulesets) -> Any:
    if isinstance(node, Leaf):
        return criterion_text(node.criterion, rulesets)
    parts = [_words(part, rulesets) for part in node.parts]
    return {"all" if isinstance(node, AllOf) else "any": parts}


# ---------------------------------------------------------------- titles and axes


def _concept(key: str) -> str:
    return key.split("/")[1]


def _title(key: str, rulesets: Rulesets) -> tuple[str, str]:
    """Return what a scale shows, and its unit ("" for a mere number)."""
    kind, concept, *window = key.split("/")
    analyte = rulesets.terminology.analytes.get(concept)
    name = concept_name(concept, rulesets)
    unit = "" if analyte is None or analyte.unit == "1" else analyte.unit
    match kind:
        case "rise":
            return f"rise of {name} within {span_text(seconds_of(window[0]))}", unit
        case "ratio":
            return f"{name}, times the lowest of the {span_text(seconds_of(window[0]))} before", ""
        case "patient":
            return name, "years"
    return name, unit


def _decimal(limit: Any) -> Decimal | None:
    return None if limit is None else Decimal(limit.numerator) / Decimal(limit.denominator)


def _axis(lanes: Sequence[Sequence[Decimal]]) -> Axis:
    """Choose a linear axis, or a logarithmic one where bounds would crowd or zero be passed."""
    bounds = sorted({value for lane in lanes for value in lane})
    linear = _padded(bounds, log=False)
    if bounds[0] <= 0:
        return linear
    log = _padded(bounds, log=True)
    if linear.low < 0:
        return log
    gap = _closest(linear, lanes)
    return log if gap < _CROWDED and _closest(log, lanes) > 1.5 * gap else linear


def _padded(bounds: Sequence[Decimal], *, log: bool) -> Axis:
    low, high = (math.log(b) if log else float(b) for b in (bounds[0], bounds[-1]))
    pad = _PAD * (high - low) or abs(low) or 1.0
    return Axis(low - pad, high + pad, log)


def _closest(axis: Axis, lanes: Sequence[Sequence[Decimal]]) -> float:
    """Return the least distance of two bounds of one lane, in percent of the width."""
    gaps = (axis.at(b) - axis.at(a) for lane in lanes for a, b in pairwise(lane))
    return min(gaps, default=100.0)
