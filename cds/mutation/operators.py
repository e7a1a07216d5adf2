"""Operators: the small mistakes that are made in a rule on purpose, one in each mutant.

What is changed is the rule as written; nothing here compiles or runs it. The ids are made of the
rule, the place and the operator ("hypokalemia-mild/when.0/lt+step"), so that they stay the same
as long as the place does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from math import log
from typing import Any, Final

from cds.bounds import STEP
from cds.errors import UnitError
from cds.model import Tier
from cds.rulefile import (
    AgeCriterion,
    AllCriterion,
    AnyCriterion,
    Bound,
    LabCriterion,
    RatioCriterion,
    RiseCriterion,
    Rule,
    SexCriterion,
)
from cds.terminology import Analyte, Terminology, seconds_of

__all__ = ["AnalyteMutant", "Mutant", "analyte_mutants", "mutants_of"]

_HOUR: Final = 3600
_DAY: Final = 24 * _HOUR
_WINDOWS: Final = (
    *("within", "older_than", "longer_than", "over", "onset_within", "seen_within", "delay"),
    *("started_within", "changed_within", "stopped_within", "lasted"),
)
_COUNTS: Final = ("times", "sites", "at_least")
_FURTHER: Final = (
    *("longer_than", "onset_within", "onset", "seen_within", "severity", "delay"),
    *("started_within", "changed_within", "lasted", "being_ordered"),
)
"""Keys that narrow a criterion, and without which it still is one."""
_NEIGHBOR: Final = {"lt": "le", "le": "lt", "gt": "ge", "ge": "gt"}
_OPPOSITE: Final = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}
_CONCEPTS: Final = ("symptom", "condition", "lifestyle", "history", "medication")
_CODED: Final = {"below": "critical-low", "above": "critical-high"}
_SIDES: Final = {
    "below": "above",
    "above": "below",
    "critical-low": "critical-high",
    "critical-high": "critical-low",
}
# What laboratories report in. Of those that convert, the one most like the right one is meant.
_REPORTED: Final = (
    *("mol/L", "mmol/L", "umol/L", "nmol/L", "pmol/L", "meq/L", "mmol/kg"),
    *("g/L", "g/dL", "mg/L", "mg/dL", "ug/L", "ug/dL", "ng/L", "ng/mL", "ng/dL", "pg/mL"),
    *("U/L", "mU/L", "ukat/L", "s", "ms", "%", "mL/s/{1.73_m2}", "/min", "/s", "/h", "kg", "g"),
)
_NEVER: Final = AnyCriterion.model_construct(any=())
"""A criterion that never holds: that of an emptied value set."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A rule with one mistake in it.

    `where` is the place of the change in the rule ("when.0"), "" for the rule as a whole.
    `kind` says what has to be different in a patient who shows it: "leaf" (one criterion is
    another one), "removed", "swapped" (`any` for `all`), "emptied", or what of the rule
    was changed: "tier", "family", "yields", "caveat", "stand-in".
    """

    id: str
    rule: str
    where: str
    kind: str
    description: str
    mutated: Rule


@dataclass(frozen=True, slots=True)
class AnalyteMutant:
    """An analyte whose results count a day longer or shorter; `field` is fresh or context."""

    id: str
    analyte: str
    field: str
    seconds: int
    description: str

    rule = ""
    where = ""
    kind = "analyte"


_Put = Callable[[Any], Rule]
"""Returns the rule with another criterion in a place."""


def mutants_of(
    rule: Rule, terminology: Terminology, used: Mapping[str, Sequence[str]]
) -> Iterator[Mutant]:
    """Yield every mutant of one written rule.

    Args:
        rule: not a companion that `recheck` made.
        terminology: its analytes and value sets.
        used: the value sets that the loaded rules ask for, by kind; one of these takes the place
            of another, if there is one.
    """
    yield from _of_the_whole(rule)
    if rule.stands_in_from:
        return
    for side in ("when", "unless"):
        entries = getattr(rule, side)
        if entries:
            yield from _Side(rule, side, terminology, used).mutants(entries)


def _of_the_whole(rule: Rule) -> Iterator[Mutant]:
    def mutant(op: str, kind: str, text: str, **change: Any) -> Mutant:
        return Mutant(f"{rule.id}/{op}", rule.id, "", kind, text, rule.model_copy(update=change))

    if not rule.step and not rule.caveat_for:
        for more in (1, -1):
            value = rule.tier_value + more
            if 0 <= value < len(Tier):
                name = Tier(value).name
                yield mutant(
                    f"tier{more:+d}", "tier", f"tier {name} instead of {rule.tier}", tier=name
                )
        if rule.family:
            yield mutant(
                "family-removed", "family", f"not of the family {rule.family}", family=None
            )
        for name in rule.yields_to:
            others = tuple(other for other in rule.yields_to if other != name)
            text = f"shown also where {name} holds"
            yield mutant(f"yields_to-{name}-removed", "yields", text, yields_to=others)
    if rule.caveat_for:
        text = "a finding of its own instead of a caveat"
        yield mutant("caveat_for-emptied", "caveat", text, caveat_for=())
    if rule.stands_in_from:
        for name in ("soon", "urgent", "emergency"):
            if name != rule.stands_in_from:
                text = f"stands in from {name} instead of {rule.stands_in_from}"
                yield mutant(f"stands_in_from-to-{name}", "stand-in", text, stands_in_from=name)


class _Side:
    """Mutants of the criteria in `when` or in `unless`."""

    def __init__(
        self, rule: Rule, side: str, terminology: Terminology, used: Mapping[str, Sequence[str]]
    ) -> None:
        self.rule, self.side = rule, side
        self.terminology, self.used = terminology, used
        self.own = {c for entries in (rule.when, rule.unless) for c in _concepts_of(entries)}

    def mutant(self, where: str, op: str, kind: str, text: str, mutated: Rule) -> Mutant:
        return Mutant(f"{self.rule.id}/{where}/{op}", self.rule.id, where, kind, text, mutated)

    def put(self, entries: tuple[Any, ...]) -> Rule:
        return self.rule.model_copy(update={self.side: entries})

    def mutants(self, entries: tuple[Any, ...]) -> Iterator[Mutant]:
        if len(entries) > 1:
            if self.side == "when":
                yield self.mutant(
                    "when",
                    "all-to-any",
                    "swapped",
                    "one criterion is enough",
                    self.put((AnyCriterion(any=entries),)),
                )
            else:
                yield self.mutant(
                    "unless",
                    "any-to-all",
                    "swapped",
                    "all of 'unless' must hold to block",
                    self.put((AllCriterion(all=entries),)),
                )
                yield self.mutant("unless", "removed", "removed", "without 'unless'", self.put(()))
        yield from self.parts(self.side, entries, self.put, removable=self.side == "unless")

    def parts(
        self,
        where: str,
        entries: tuple[Any, ...],
        put: Callable[[tuple[Any, ...]], Rule],
        *,
        removable: bool = False,
    ) -> Iterator[Mutant]:
        """Yield the mutants of each entry; `put` returns the rule with other entries."""
        for index, entry in enumerate(entries):
            before, after = entries[:index], entries[index + 1 :]

            def put_one(
                new: Any, before: tuple[Any, ...] = before, after: tuple[Any, ...] = after
            ) -> Rule:
                return put((*before, new, *after))

            here = f"{where}.{index}"
            yield from self.entry(here, entry, put_one)
            if len(entries) > 1 or removable:
                text = f"without {_named(entry)}"
                yield self.mutant(here, "removed", "removed", text, put((*before, *after)))

    def entry(self, where: str, c: Any, put: _Put) -> Iterator[Mutant]:
        if isinstance(c, AnyCriterion):
            if len(c.any) > 1:
                yield self.mutant(
                    where,
                    "any-to-all",
                    "swapped",
                    "all of these must hold",
                    put(AllCriterion(all=c.any)),
                )
            yield from self.parts(
                f"{where}.any", c.any, lambda e: put(AnyCriterion.model_construct(any=e))
            )
        elif isinstance(c, AllCriterion):
            if len(c.all) > 1:
                yield self.mutant(
                    where,
                    "all-to-any",
                    "swapped",
                    "one of these is enough",
                    put(AnyCriterion(any=c.all)),
                )
            yield from self.parts(
                f"{where}.all", c.all, lambda e: put(AllCriterion.model_construct(all=e))
            )
        else:
            for op, text, new in self.changed(c):
                kind = "emptied" if new is _NEVER else "leaf"
                yield self.mutant(where, op, kind, text, put(new))

    def changed(self, c: Any) -> Iterator[tuple[str, str, Any]]:
        """Yield every other criterion that could stand there by mistake: operator, words, it."""
        if isinstance(c, Bound) and c.bound:
            yield from self.numbers(c)
        yield from self.windows(c)
        if isinstance(c, LabCriterion):
            for flag in ("first_band", "critical_flag"):
                if getattr(c, flag):
                    yield f"{flag}-removed", f"without {flag}", c.model_copy(update={flag: False})
            if c.laboratory:
                for other in (_SIDES[c.laboratory], *_level(c.laboratory)):
                    text = f"the laboratory's {other} instead of {c.laboratory}"
                    yield f"laboratory-to-{other}", text, c.model_copy(update={"laboratory": other})
        elif isinstance(c, SexCriterion):
            for sex in ("male", "female", "unknown"):
                if sex != c.sex:
                    yield f"sex-to-{sex}", f"sex {sex} instead of {c.sex}", SexCriterion(sex=sex)
        else:
            yield from self.concepts(c)
            yield from self.further(c)

    def further(self, c: Any) -> Iterator[tuple[str, str, Any]]:
        """Yield it with another count, and without a key that narrows it."""
        for name in _COUNTS:
            count = getattr(c, name, None)
            if count is not None:
                more = c.model_copy(update={name: count + 1})
                yield f"{name}+1", f"{name} {count + 1} instead of {count}", more
                fewer = count - 1 if count > 2 else None
                words = f"{name} {fewer} instead of {count}" if fewer else f"without {name}"
                yield f"{name}-1", words, c.model_copy(update={name: fewer})
        for name in _FURTHER:
            if getattr(c, name, None) is not None:
                yield f"{name}-removed", f"without {name}", c.model_copy(update={name: None})

    # ------------------------------------------------------------ numbers

    def numbers(self, c: Any) -> Iterator[tuple[str, str, Any]]:
        op, value = c.bound
        step, last = self.steps(c, value)
        shifts = {"step": step, "last": last} if step != last else {"step": step}
        for name, by in shifts.items():
            for sign, new in (("+", value + by), ("-", value - by)):
                text = f"{op} {new:f} instead of {value:f}"
                yield f"{op}{sign}{name}", text, _bounded(c, op, new)
        changes = isinstance(c, (RiseCriterion, RatioCriterion))
        for other in (_NEIGHBOR[op], *(() if changes else (_OPPOSITE[op],))):
            yield f"{op}-to-{other}", f"{other} instead of {op}", _bounded(c, other, value)
        unit = getattr(c, "unit", None)
        if unit:
            name = c.lab if isinstance(c, LabCriterion) else c.rise
            yield from self.units(c, op, value, self.terminology.analytes[name])

    def steps(self, c: Any, value: Decimal) -> tuple[Decimal, Decimal]:
        """The smallest step, and the last place of the number as written or as reported."""
        if isinstance(c, AgeCriterion):
            return Decimal(1), Decimal(1)
        written = Decimal(1).scaleb(min(0, int(value.as_tuple().exponent)))
        if isinstance(c, RatioCriterion):
            return STEP, written
        name = c.lab if isinstance(c, LabCriterion) else c.rise
        return STEP, max(written, Decimal(1).scaleb(-self.terminology.analytes[name].decimals))

    def units(
        self, c: Any, op: str, value: Decimal, analyte: Analyte
    ) -> Iterator[tuple[str, str, Any]]:
        unlike: dict[str, float] = {}  # by how much a number would be off, as a logarithm
        for unit in _REPORTED:
            try:
                one = analyte.convert(Decimal(1), unit)
            except UnitError:
                continue
            if one != 1:
                unlike[unit] = abs(log(one))
        if unlike:
            unit = min(unlike, key=lambda name: unlike[name])
            new = Decimal(round(analyte.convert(value, unit) / Fraction(STEP))) * STEP
            text = f"{value} {analyte.unit} taken as {unit}: {op} {new.normalize():f}"
            yield f"unit-{unit}", text, _bounded(c, op, new)

    # ------------------------------------------------------------ windows

    def windows(self, c: Any) -> Iterator[tuple[str, str, Any]]:
        for name in _WINDOWS:
            text = getattr(c, name, None)
            if text is None:
                continue
            seconds = seconds_of(text)
            by, word = (_DAY, "1d") if seconds > _DAY else (_HOUR, "1h")
            for sign, new in (("+", seconds + by), ("-", seconds - by)):
                if new > 0:
                    written = f"PT{new // _HOUR}H" if new % _DAY else f"P{new // _DAY}D"
                    words = f"{name} {_span(new)} instead of {_span(seconds)}"
                    yield f"{name}{sign}{word}", words, c.model_copy(update={name: written})

    # ------------------------------------------------------------ value sets

    def concepts(self, c: Any) -> Iterator[tuple[str, str, Any]]:
        for kind in _CONCEPTS:
            concept = getattr(c, kind, None)
            if concept is None:
                continue
            other = self.another(kind, concept)
            if other is not None:
                # Which set it is can change with the rules that are loaded; the id must not.
                swapped = c.model_copy(update={kind: other})
                yield "swapped", f"{other} instead of {concept}", swapped
            yield "emptied", f"{concept} without any code", _NEVER

    def another(self, kind: str, concept: str) -> str | None:
        """The next set of the same kind that neither includes this one nor is included."""
        sets = self.terminology.value_sets
        own = sets[concept].kind
        related = _within(concept, sets) | {n for n in sets if concept in _within(n, sets)}
        fitting = [n for n, s in sets.items() if s.kind == own and n not in related]
        # One that stands in the rule already would be no other rule than without this one.
        others = [n for n in fitting if n not in self.own] or fitting
        among = sorted([n for n in others if n in self.used.get(kind, ())] or others)
        return next((n for n in among if n > concept), among[0]) if among else None


def analyte_mutants(terminology: Terminology, asked: Sequence[str]) -> Iterator[AnalyteMutant]:
    """Yield the mutants of these analytes: `fresh` and `context`, a day longer and shorter."""
    for name in asked:
        analyte = terminology.analytes[name]
        for field in ("fresh", "context"):
            seconds = getattr(analyte, field)
            for sign, new in (("+", seconds + _DAY), ("-", seconds - _DAY)):
                if new > 0:
                    text = f"{field} {_span(new)} instead of {_span(seconds)}"
                    yield AnalyteMutant(f"analytes/{name}/{field}{sign}1d", name, field, new, text)


def _concepts_of(entries: Sequence[Any]) -> Iterator[str]:
    for c in entries:
        if isinstance(c, (AnyCriterion, AllCriterion)):
            yield from _concepts_of(c.any if isinstance(c, AnyCriterion) else c.all)
        else:
            yield from (v for kind in _CONCEPTS if (v := getattr(c, kind, None)))


def _level(laboratory: str) -> tuple[str, ...]:
    """The milder or graver statement of the same side."""
    both = {**_CODED, **{v: k for k, v in _CODED.items()}}
    return (both[laboratory],)


def _bounded(c: Any, op: str, value: Decimal) -> Any:
    return c.model_copy(update={"lt": None, "le": None, "gt": None, "ge": None, op: value})


def _within(name: str, sets: Mapping[str, Any]) -> set[str]:
    found, waiting = set(), [name]
    while waiting:
        each = waiting.pop()
        if each not in found:
            found.add(each)
            waiting += sets[each].includes
    return found


def _span(seconds: int) -> str:
    hours = seconds // _HOUR
    count, unit = (hours // 24, "day") if hours % 24 == 0 else (hours, "hour")
    return f"{count} {unit}{'s' * (count != 1)}"


def _named(c: Any) -> str:
    """Name a criterion shortly."""
    if isinstance(c, (AnyCriterion, AllCriterion)):
        parts = c.any if isinstance(c, AnyCriterion) else c.all
        word = "any" if isinstance(c, AnyCriterion) else "all"
        return f"{word} of {len(parts)} criteria"
    kind, value = next(iter(c.model_dump(exclude_unset=True).items()))
    return f"{kind}: {value}"
