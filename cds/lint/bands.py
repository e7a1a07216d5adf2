"""Validators CDS301 to CDS307: the bands of one test in one family.

A band is a rule of a family whose `when` tests the number of one analyte at its top level. Bands
are best written one-sided (rulesets/README.md, "Limits"); two-sided ones are checked for what
one-sided ones cannot get wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import combinations, pairwise
from typing import Any, Final

from cds.lint.registry import Spot, validator
from cds.lint.subject import Subject
from cds.model import Tier
from cds.program import CompiledRule, leaves
from cds.rulefile import AllCriterion, LabCriterion

__all__ = ["Band", "bands"]

# A point on the scale of values: the number, and -1, 0 or 1 for just below, at, just above it.
_Point = tuple[Decimal, int]
_BELOW: Final[_Point] = (Decimal("-Infinity"), 0)
_ABOVE: Final[_Point] = (Decimal("Infinity"), 0)


@dataclass(frozen=True)
class Band:
    """The values of one analyte for which a rule holds, if all else does.

    `low` and `high` are the outermost points that still belong to it. `rest` are the rule's other
    criteria and `window` the ages that its results may have. `worse` is "low" or "high": on
    which side its values get worse; "" for a two-sided band whose family does not tell.
    """

    rule: CompiledRule
    analyte: str
    low: _Point
    high: _Point
    worse: str
    first: bool
    rest: frozenset[Any]
    window: tuple[str | None, str | None]

    @property
    def id(self) -> str:
        """Id of the rule."""
        return self.rule.rule.id

    @property
    def tier(self) -> Tier:
        """Tier of the rule."""
        return self.rule.rule.tier_value

    @property
    def two_sided(self) -> bool:
        """Whether it has both a lower and an upper limit."""
        return self.low != _BELOW and self.high != _ABOVE

    @property
    def context(self) -> tuple[Any, ...]:
        """What two bands must share to be compared number by number."""
        return self.rest, frozenset(self.rule.rule.unless), self.window

    @property
    def severity(self) -> tuple[Decimal, int]:
        """How far it lies on the worse side; higher is worse, for one-sided bands."""
        number, side = self.high if self.worse == "low" else self.low
        return (-number, -side) if self.worse == "low" else (number, side)

    def holds(self, point: _Point) -> bool:
        """Whether a value belongs to the band."""
        return self.low <= point <= self.high


def bands(subject: Subject) -> dict[tuple[str, str, str], list[Band]]:
    """Return the bands of each family, analyte and worse side, in file order."""
    found: dict[tuple[str, str], list[Band]] = {}
    for rule in subject.rules:
        if rule.rule.family and not (rule.rule.step or rule.rule.caveat_for):
            for band in _of_rule(rule):
                found.setdefault((rule.rule.family, band.analyte), []).append(band)
    sided: dict[tuple[str, str, str], list[Band]] = {}
    for (family, analyte), group in found.items():
        for band in group:
            worse = band.worse or _side(band, group)
            settled = Band(**{**band.__dict__, "worse": worse})
            sided.setdefault((family, analyte, worse), []).append(settled)
    return sided


def _of_rule(rule: CompiledRule) -> Iterator[Band]:
    criteria = list(_flat(rule.rule.when))
    tested: dict[str, list[LabCriterion]] = {}
    for c in criteria:
        if isinstance(c, LabCriterion) and c.bound:
            tested.setdefault(c.lab, []).append(c)
    for analyte, tests in tested.items():
        low, high = _BELOW, _ABOVE
        for c in tests:
            assert c.bound  # noqa: S101 - chosen above
            op, number = c.bound
            if op in ("lt", "le"):
                high = min(high, (number, -1 if op == "lt" else 0))
            else:
                low = max(low, (number, 1 if op == "gt" else 0))
        worse = "high" if high == _ABOVE else "low" if low == _BELOW else ""
        first = any(c.first_band for c in tests)
        rest = frozenset(c for c in criteria if c not in tests)
        window = (tests[0].within, tests[0].older_than)
        yield Band(rule, analyte, low, high, worse, first, rest, window)


def _flat(criteria: Iterable[Any]) -> Iterator[Any]:
    for c in criteria:
        if isinstance(c, AllCriterion):
            yield from _flat(c.all)
        else:
            yield c


def _side(band: Band, group: list[Band]) -> str:
    """The worse side of a two-sided band: that of one-sided ones, else where tiers are higher."""
    sides = {b.worse for b in group if b.worse}
    if len(sides) == 1:
        return sides.pop()
    if sides:  # both: the nearer one
        low = max(b.high[0] for b in group if b.worse == "low")
        high = min(b.low[0] for b in group if b.worse == "high")
        return "low" if abs(band.high[0] - low) <= abs(high - band.low[0]) else "high"
    ordered = sorted(group, key=lambda b: b.low)
    first, last = ordered[0].tier, ordered[-1].tier
    return "" if first == last else "low" if first > last else "high"


def _spot(subject: Subject, band: Band, message: str) -> Spot:
    return Spot(*subject.at(band.rule.rule, "when"), message, band.id)


def _text(point: _Point) -> str:
    words = {-1: "just below ", 0: "", 1: "just above "}
    return f"{words[point[1]]}{point[0]:f}"


@validator(
    "CDS301",
    "error",
    "a tier that falls as the value gets worse",
    fix="give the worse band the higher tier, and write bands one-sided, so that none ends",
)
def falling_tier(subject: Subject) -> Iterator[Spot]:
    """A band that is worse than another one of its family and less urgent.

    Either the tiers are mixed up, or a two-sided band ends where values get worse still.
    """
    for (_, analyte, worse), group in bands(subject).items():
        for mild, bad in _ordered_pairs(group):
            if bad.tier < mild.tier and subject.logic.implies(bad.rule, mild.rule):
                yield _spot(
                    subject,
                    bad,
                    f"is {bad.tier}, but the milder band '{mild.id}' of {analyte} is {mild.tier}",
                )
        if worse and any(b.two_sided for b in group):
            yield from _falls(subject, analyte, worse, group)


def _ordered_pairs(group: list[Band]) -> Iterator[tuple[Band, Band]]:
    """Pairs of one-sided bands, the milder one first."""
    for a, b in combinations((b for b in group if not b.two_sided and b.worse), 2):
        if a.severity != b.severity:
            yield (a, b) if a.severity < b.severity else (b, a)


def _falls(subject: Subject, analyte: str, worse: str, group: list[Band]) -> Iterator[Spot]:
    """Where the most urgent band that holds gets milder on the way to worse values."""
    for context in dict.fromkeys(b.context for b in group):
        rest, unless, window = context
        there = [
            b
            for b in group
            if b.rest <= rest and set(b.rule.rule.unless) <= unless and b.window == window
        ]
        numbers = sorted({p[0] for b in there for p in (b.low, b.high) if p[0].is_finite()})
        points = [(n, side) for n in numbers for side in (-1, 0, 1)]
        scale = points[::-1] if worse == "low" else points
        held = [max((b for b in there if b.holds(p)), key=_tier, default=None) for p in scale]
        for place, (before, now) in enumerate(pairwise(held), start=1):
            if before is None or not before.two_sided or _tier(now) >= before.tier:
                continue
            # What was there before, and goes on beyond the hole, is no tier that falls: CDS304.
            beyond = max((_tier(b) for b in held[place:]), default=-1)
            if (now is None or now in held[:place]) and beyond >= before.tier:
                continue
            after = f"{now.tier} ('{now.id}')" if now else "nothing"
            where = f"{analyte} {_text(scale[place])}"
            message = f"is {before.tier}, and at {where} comes {after}"
            yield _spot(subject, before, message)


def _tier(band: Band | None) -> int:
    return -1 if band is None else band.tier


@validator(
    "CDS302",
    "error",
    "two rules that say the same",
    fix="remove one of them, or write down in which criterion they differ",
)
def duplicate(subject: Subject) -> Iterator[Spot]:
    """Two rules of a family with the same criteria, tier and finding. One of them is too many."""
    for a, b in same_criteria(subject):
        if same_conclusion(a, b):
            message = f"holds exactly where '{a.rule.id}' does, with the same tier"
            yield Spot(*subject.at(b.rule), message, b.rule.id)


def same_criteria(subject: Subject) -> Iterator[tuple[CompiledRule, CompiledRule]]:
    """Yield the pairs of shown rules of one family of which each implies the other."""
    for a, b in family_pairs(subject):
        if subject.logic.implies(a, b) and subject.logic.implies(b, a):
            yield a, b


def same_conclusion(a: CompiledRule, b: CompiledRule) -> bool:
    """Whether two rules have one tier, and one finding, if they say which."""
    same_finding = a.finding_key == b.finding_key or a.rule.finding == b.rule.finding
    return same_finding and a.rule.tier == b.rule.tier


def family_pairs(subject: Subject) -> Iterator[tuple[CompiledRule, CompiledRule]]:
    """Yield pairs of rules of one family, population and kind, in file order."""
    families: dict[tuple[Any, ...], list[CompiledRule]] = {}
    for rule in subject.rules:
        r = rule.rule
        if r.family and not (r.step or r.caveat_for or r.stands_in_from):
            families.setdefault((r.family, r.population), []).append(rule)
    for group in families.values():
        yield from combinations(group, 2)


@validator(
    "CDS303",
    "warning",
    "two-sided bands that overlap",
    fix="write bands one-sided (`lt: 3.0`); the family picks the most urgent one",
)
def overlap(subject: Subject) -> Iterator[Spot]:
    """Two bands of which at least one is two-sided, with values that belong to both.

    Which of them is meant for these values, only the author knows.
    """
    for a, b in _neighbors(subject):
        if a.high >= b.low and not (a.low <= b.low and a.high >= b.high):
            message = f"overlaps with '{a.id}' from {_text(b.low)} to {_text(a.high)}"
            yield _spot(subject, b, message)


@validator(
    "CDS304",
    "warning",
    "a gap between two-sided bands",
    fix="write bands one-sided (`lt: 3.0`); then no value falls between two of them",
)
def gap(subject: Subject) -> Iterator[Spot]:
    """Two bands, at least one of them two-sided, with values between them that belong to neither.

    A value there is no finding at all, however bad.
    """
    for a, b in _neighbors(subject):
        (end, its), (start, other) = a.high, b.low
        touching = start == end and (its == 0 or other == 0)
        if a.high < b.low and not touching:
            message = f"leaves a gap to '{a.id}' between {_text(a.high)} and {_text(b.low)}"
            yield _spot(subject, b, message)


def _neighbors(subject: Subject) -> Iterator[tuple[Band, Band]]:
    """Bands with the same other criteria that follow each other, one of them two-sided."""
    for group in bands(subject).values():
        for context in dict.fromkeys(b.context for b in group):
            rising = sorted(
                (b for b in group if b.context == context), key=lambda b: (b.low, b.high)
            )
            for a, b in pairwise(rising):
                if a.two_sided or b.two_sided:
                    yield a, b


@validator(
    "CDS305",
    "warning",
    "a mildest band without first_band",
    fix="add `first_band: true` to the mildest band of the test",
)
def first_band_missing(subject: Subject) -> Iterator[Spot]:
    """A family whose mildest band does not let the laboratory's own range decide.

    What the laboratory calls normal makes a finding, and what it calls low makes none.
    """
    for (_, analyte, _), group in bands(subject).items():
        mildest = _mildest(group)
        if mildest and mildest.tier < Tier.urgent and not any(b.first for b in group):
            yield _spot(subject, mildest, f"is the mildest band of {analyte} without first_band")


@validator(
    "CDS306",
    "warning",
    "first_band where it does not belong",
    fix="leave `first_band: true` to the mildest band alone",
)
def first_band_misplaced(subject: Subject) -> Iterator[Spot]:
    """`first_band` on a band that is not the mildest for the same person, or on an urgent one.

    The laboratory's "normal" may lower the first band and nothing else.
    """
    for group in bands(subject).values():
        for band in (b for b in group if b.first and b.worse):
            milder = [
                b
                for b in group
                if b.worse
                and b.severity < band.severity
                and subject.logic.together(b.rule, band.rule)
            ]
            if band.tier >= Tier.urgent:
                yield _spot(subject, band, f"has first_band and is {band.tier}")
            elif milder:
                yield _spot(subject, band, f"has first_band, but '{milder[0].id}' is milder")


def _mildest(group: list[Band]) -> Band | None:
    return min((b for b in group if b.worse), key=lambda b: b.severity, default=None)


@validator(
    "CDS307",
    "warning",
    "a critical flag of the laboratory that no rule heeds",
    fix="add `critical_flag: true` to the urgent band, or a rule with `laboratory: critical-low`",
)
def critical_flag_missing(subject: Subject) -> Iterator[Spot]:
    """A test with bands and no rule that heeds LL (for low bands) or HH (for high ones).

    What the laboratory calls critical is at least urgent, whatever the limits of our bands.
    """
    heeded = {
        (leaf.key.removeprefix("lab/"), test.prop.removesuffix("_flag"))
        for rule in subject.rules
        if rule.rule.tier_value >= Tier.urgent
        for leaf in leaves(rule.when)
        for atom in leaf.atoms
        for test in atom.tests
        if test.prop.endswith("_flag") and test.value >= 3
    }
    for (family, analyte, worse), group in bands(subject).items() if subject.complete else ():
        if worse and (analyte, worse) not in heeded:
            urgent = [b for b in group if b.tier >= Tier.urgent]
            band = min(urgent or group, key=lambda b: b.tier)
            flag = "LL" if worse == "low" else "HH"
            message = f"no rule heeds {flag} of {analyte}, family '{family}'"
            yield _spot(subject, band, message)
