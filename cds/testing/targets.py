"""What to aim at: where the answers of a ruleset change, and what its rules ask for.

Limits, windows, units and value sets all come from the loaded rules; nothing clinical stands here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from typing import Final

from cds.bounds import STEP, number_bounds, window_bounds
from cds.errors import CdsError, UnitError
from cds.facts import Normalizer
from cds.forms import Lab
from cds.program import FOREVER, CompiledRule
from cds.rules import Rulesets
from cds.terminology import SYSTEMS, Analyte, LabCode
from cds.units import UNITS, unit_of

__all__ = ["AS_OF", "DAY", "Targets"]

AS_OF: Final = "2026-11-01T12:00:00Z"
"""The instant for which drawn patients are judged; imprecise dates are drawn around it."""

DAY: Final = 86_400
_SIZES: Final = (-3, 5)  # powers of ten of a limit in a unit that somebody may use
_PLACES, _DIGITS = 12, 15  # after the point, and in all, that a JSON number keeps exactly


@dataclass(frozen=True, slots=True)
class _Sent:
    """How a result of an analyte is sent in one unit: ``canonical = value * slope + offset``."""

    slope: Fraction
    offset: Fraction


class Targets:
    """Where the answers of these rules change; built once for many draws.

    Args:
        rulesets: from `cds.load_rulesets`.

    Attributes:
        labs: the analytes that can be sent and that some rule can use, by id, sorted.
        concepts: the value sets that rules ask for, by kind ("symptom", "medication" ...), with
            those that they include.
        years: ages in completed years at which something may change.
    """

    def __init__(self, rulesets: Rulesets) -> None:
        self.rulesets = rulesets
        self.program, self.terminology = rulesets.program, rulesets.terminology
        self._bounds = number_bounds(self.program)
        self._windows = window_bounds(self.program)
        self._units: dict[str, Mapping[str, _Sent]] = {}
        wanted = Normalizer(self.program, self.terminology).wanted
        known = self.terminology.analytes
        self.labs = tuple(n for n in sorted(wanted) if n in known and self._sendable(n))
        self.concepts = self._concepts(wanted)
        years = {int(b.value) for b in self._bounds.get("patient/age", ())}
        # Whose limits are those of adults: design of the rule format, not of a ruleset.
        self.years = tuple(sorted({y for b in {18, *years} for y in (b - 1, b, b + 1) if y >= 0}))

    def _concepts(self, wanted: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
        found: dict[str, set[str]] = {}
        for key in self.program.keys:
            kind, _, concept = key.partition("/")
            if concept in self.terminology.value_sets:
                found.setdefault(kind, set()).add(concept)
        for name in wanted:
            if name in self.terminology.value_sets:
                found.setdefault(self.terminology.value_sets[name].kind, set()).add(name)
        return {
            kind: tuple(n for n in sorted(names) if self.codes(n))
            for kind, names in sorted(found.items())
        }

    def codes(self, concept: str) -> tuple[tuple[str, str], ...]:
        """Return every code of a value set and those it includes: ``SNOMED#82470000``, display."""
        found: dict[str, str] = {}
        waiting, seen = [concept], set()
        while waiting:
            value_set = self.terminology.value_sets[waiting.pop(0)]
            seen.add(value_set.id)
            found.update((f"{c.system.upper()}#{c.code}", c.display) for c in value_set.codes)
            waiting += [n for n in value_set.includes if n not in seen]
        return tuple(found.items())

    # ------------------------------------------------------------ numbers

    def analyte(self, what: str) -> Analyte:
        """Return the analyte of this id."""
        return self.terminology.analytes[what]

    def last_place(self, what: str) -> Decimal:
        """Return one in the last decimal that is shown of the analyte ("0.1")."""
        return Decimal(1).scaleb(-self.analyte(what).decimals)

    def judged_as(self, what: str) -> tuple[str, ...]:
        """Return the analytes that a result counts for: its own, and those computed from it."""
        adjusted = self.terminology.adjusted_calcium
        names = [what]
        names += [name for name, d in self.terminology.derived.items() if d.of == what]
        if what in (adjusted.total, adjusted.result):
            names.append(adjusted.id)
        return tuple(names)

    def numbers(self, what: str) -> tuple[Decimal, ...]:
        """Return the limits that rules set to the analyte, in its unit, the roundest first."""
        found: set[Decimal] = set()
        for name in self.judged_as(what):
            derived = self.terminology.derived.get(name) if name != what else None
            factor = derived.default if derived else Decimal(1)
            found |= {b.value * factor for b in self._bounds.get(f"lab/{name}", ())}
        return tuple(sorted(found, key=_roundness))

    def limits(self, what: str) -> tuple[Decimal, Decimal]:
        """Return the least and the greatest value that is possible, both included."""
        numbers = self.numbers(what) or (Decimal(1),)
        derived = self.terminology.derived.get(what)
        adjusted = self.terminology.adjusted_calcium
        sent = derived.of if derived else adjusted.result if what == adjusted.id else what
        possible = self.analyte(sent).plausible
        low = _decimal(possible.ge) if possible and possible.ge is not None else None
        high = _decimal(possible.le) if possible and possible.le is not None else None
        if derived:
            low, high = (None if v is None else v / derived.default for v in (low, high))
        return (
            low if low is not None else min(Decimal(0), *numbers),
            high if high is not None else 10 * max(Decimal(1), *numbers),
        )

    @cached_property
    def changes(self) -> Mapping[str, tuple[tuple[str, Decimal, int], ...]]:
        """By analyte: what rules ask of two results: rise or ratio, by how much, over seconds."""
        found: dict[str, list[tuple[str, Decimal, int]]] = {}
        for need in self.program.needs:
            for bound in self._bounds.get(need.key, ()):
                entry = (need.kind, bound.value, need.seconds)
                if entry not in found.setdefault(need.concept, []):
                    found[need.concept].append(entry)
        return {name: tuple(entries) for name, entries in found.items() if name in self.labs}

    def values(self, what: str) -> tuple[Decimal, ...]:
        """Return each limit, one last place and one `STEP` beside it; the roundest first.

        Only what is possible.
        """
        low, high = self.limits(what)
        numbers, place = self.numbers(what), self.last_place(what)
        found = dict.fromkeys(numbers)
        for step in (-place, place, -STEP, STEP):
            found.update(dict.fromkeys(n + step for n in numbers))
        found.update(dict.fromkeys((low, high)))
        return tuple(v for v in found if low <= v <= high)

    @cached_property
    def makers(self) -> Mapping[str, Sequence[CompiledRule]]:
        """By finding key: the rules that engines run and that assert the finding."""
        found: dict[str, list[CompiledRule]] = {}
        for r in self.program.rules:
            if not r.rule.stands_in_from:
                found.setdefault(r.finding_key, []).append(r)
        return found

    # ------------------------------------------------------------ time

    def ages(self, what: str) -> tuple[int, ...]:
        """Return ages of a result, in seconds, at which something may change, youngest first."""
        windows = {self.analyte(what).fresh, self.analyte(what).context}
        for name in self.judged_as(what):
            windows |= {b.seconds for b in self._windows.get(f"lab/{name}", ())}
            windows |= {n.seconds for n in self.program.needs if n.concept == name}
        return _beside(windows - {FOREVER})

    def onsets(self, kind: str, concept: str) -> tuple[int, ...]:
        """Return how long ago, in seconds, what is recorded may have begun so that it matters."""
        windows = {b.seconds for b in self._windows.get(f"{kind}/{concept}", ())}
        if kind != "medication":
            own = self.terminology.value_sets[concept].counts_for
            windows.add(own or self.terminology.symptom_window)
        return _beside(windows - {FOREVER})

    # ------------------------------------------------------------ units

    def units(self, what: str) -> tuple[str, ...]:
        """Return the units that an analyte is likely to be sent in, its own first."""
        return tuple(self._sent(what))

    def sent(self, what: str, value: Decimal, unit: str) -> Decimal | None:
        """Return a value of the analyte's unit in another, or None where no decimal is exact."""
        how = self._sent(what)[unit]
        return _decimal((Fraction(value) - how.offset) / how.slope)

    def sent_nearly(self, what: str, value: Decimal, unit: str) -> Decimal:
        """Return a value of the analyte's unit in another, rounded to many digits."""
        how = self._sent(what)[unit]
        sent = (Fraction(value) - how.offset) / how.slope
        return Decimal(sent.numerator) / Decimal(sent.denominator)

    def canonical(self, what: str, value: Decimal, unit: str) -> Fraction:
        """Return a value as sent in one of `units` in the analyte's own unit, exactly."""
        how = self._sent(what)[unit]
        return Fraction(value) * how.slope + how.offset

    def _sendable(self, what: str) -> bool:
        try:
            Lab(what, Decimal(1)).resources(self.terminology, 0, "x", "Patient/x")
        except (ValueError, CdsError):
            return False
        return True

    def _sent(self, what: str) -> Mapping[str, _Sent]:
        if what not in self._units:
            own = self.analyte(what).unit
            found = {own: _Sent(Fraction(1), Fraction(0))}
            if what not in self.terminology.derived:
                usual = Fraction(next(iter(self.numbers(what)), Decimal(1)) or Decimal(1))
                ranked = []
                for unit in UNITS.values():
                    alike = unit.per == unit_of(own).per and unit.code != own
                    how = self._how(what, unit.code) if alike else None
                    if how is not None:
                        size = math.log10(abs((usual - how.offset) / how.slope) or 1)
                        if _SIZES[0] <= size <= _SIZES[1]:
                            ranked.append((abs(size), unit.code, how))
                found |= {unit: how for _, unit, how in sorted(ranked, key=lambda r: r[:2])}
            self._units[what] = found
        return self._units[what]

    def _how(self, what: str, unit: str) -> _Sent | None:
        """How a line of a case is sent in this unit: its code decides the molar mass."""
        sent = self._coded(what, unit)
        if sent is None:
            return None
        analyte, code = sent
        try:
            offset = analyte.convert(Decimal(0), unit, code)
            slope = analyte.convert(Decimal(1), unit, code) - offset
        except UnitError:
            return None
        return _Sent(slope, offset) if slope > 0 else None

    def _coded(self, what: str, unit: str) -> tuple[Analyte, LabCode] | None:
        line = Lab(what, Decimal(1), unit)
        coding = line.resources(self.terminology, 0, "x", "Patient/x")[0]["code"]["coding"][0]
        name = self.terminology.analyte_of(SYSTEMS["loinc"], coding["code"])
        code = self.terminology.lab_code(SYSTEMS["loinc"], coding["code"])
        return (self.analyte(name), code) if name and code else None


def _beside(windows: Iterable[int]) -> tuple[int, ...]:
    """Now, a day, and each window with the seconds on both sides of it."""
    around = {w + more for w in windows for more in (-1, 0, 1) if w + more >= 0}
    return tuple(sorted({0, DAY, *around}))


def _roundness(value: Decimal) -> tuple[int, Decimal]:
    return len(value.normalize().as_tuple().digits), value


def _decimal(value: Fraction) -> Decimal | None:
    """Return the decimal that is exactly this, if a JSON number can hold it."""
    scaled = value * 10**_PLACES
    if scaled.denominator != 1:
        return None
    short = Decimal(scaled.numerator).scaleb(-_PLACES).normalize() + 0
    return short if len(short.as_tuple().digits) <= _DIGITS else None
