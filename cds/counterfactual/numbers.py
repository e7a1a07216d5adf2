"""One number of a record: where an answer may change as it does, and how it would be sent then."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from typing import Final

from cds.bounds import STEP
from cds.model import ChangeOp, Fact, Measurement, Quantity
from cds.program import GRID
from cds.terminology import Analyte, Terminology

__all__ = ["Edit", "Input", "Point", "line"]

_PLACES: Final = 6  # decimals of a number as it would be sent, at most
_OPS: Final[dict[tuple[bool, bool], ChangeOp]] = {  # upwards, with the bound itself
    (True, True): "at or above",
    (True, False): "above",
    (False, True): "at or below",
    (False, False): "below",
}


@dataclass(frozen=True, slots=True)
class Edit:
    """One input changed; what comes of it is not known yet. Members as in `model.Change`."""

    key: str
    op: ChangeOp
    value: Decimal | None = None
    unit: str | None = None
    resource: str | None = None
    value_sent: Decimal | None = None
    unit_sent: str | None = None


@dataclass(frozen=True, slots=True)
class Input:
    """One result whose value can be changed, and the facts that follow from it.

    `scale` and `offset` lead from the unit sent (`unit`, UCUM) to the canonical one.
    """

    measurement: Measurement
    quantity: Quantity
    analyte: Analyte
    unit: str
    scale: Fraction
    offset: Fraction
    facts: tuple[Fact, ...]

    def canonical(self, value: Decimal) -> Fraction:
        """Return a number as sent in the canonical unit."""
        return Fraction(value) * self.scale + self.offset

    def above(self, bound: Fraction, op: str) -> bool:
        """Whether the result lies on the upper side of a bound (`op` lt, le, gt or ge)."""
        q = self.quantity
        value = self.canonical(q.value)
        if op in ("lt", "le"):
            if q.comparator in (">", ">="):
                return True
            top = value if q.high is None else self.canonical(q.high)
            return top >= bound if op == "lt" and q.comparator != "<" else top > bound
        if q.comparator in ("<", "<="):
            return False
        return value > bound if op == "gt" and q.comparator != ">" else value >= bound

    def places(self, exact: Fraction) -> int:
        """Return how many decimals a number in the unit sent needs.

        As many as were sent, at least as fine as the analyte is shown, and in its own unit those
        of `exact`, if they are few.
        """
        places = max(0, -int(self.quantity.value.as_tuple().exponent))
        finest = Fraction(1, 10**self.analyte.decimals)
        short = self.unit == self.analyte.unit and (exact * GRID).denominator == 1
        while places < _PLACES and (
            self.scale / 10**places > finest or (short and (exact * 10**places).denominator > 1)
        ):
            places += 1
        return min(places, _PLACES)

    def changed(self, number: Decimal) -> Measurement:
        """Return the result with another number in the same unit, and without a flag."""
        q = self.quantity
        value = Quantity(number, None, q.unit, q.code, f"{number:f} {q.unit or q.code}")
        return replace(self.measurement, value=value, flags=())


@dataclass(frozen=True, slots=True)
class Point:
    """Where an answer may change: at a bound, or just beyond it.

    `target` is the bound in the canonical unit of the input, `up` the direction from the result,
    `closed` whether the bound itself will do, `rough` whether `target` was computed from rounded
    values. `key` and `shown` say it in terms of a fact.
    """

    target: Fraction
    up: bool
    closed: bool
    rough: bool
    key: str
    shown: Fraction

    @property
    def rank(self) -> tuple[Fraction, bool]:
        """Order of nearness among the points of one direction."""
        return (self.target if self.up else -self.target, not self.closed)

    def tries(self, it: Input) -> Iterator[tuple[Edit, Decimal]]:
        """Yield the change and a number to try it with; a second, a step further, where rough."""
        unit, closed, step = it.analyte.unit, self.closed, 1 if self.up else -1
        if (self.shown * GRID).denominator == 1:
            value = Decimal(self.shown.numerator) / Decimal(self.shown.denominator)
        else:
            value, closed = self._rounded(self.shown, it.analyte.decimals), True
        op = _OPS[self.up, closed]
        edit = Edit(self.key, op, value, unit, it.measurement.resource)
        if it.unit == unit and self.target == self.shown:
            yield edit, value if closed else value + step * STEP
            return
        exact = (self.target - it.offset) / it.scale
        places = it.places(exact)
        number = self._rounded(exact, places)
        yield replace(edit, value_sent=number, unit_sent=it.unit), number
        if self.rough:
            number += Decimal(step).scaleb(-places)
            yield replace(edit, value_sent=number, unit_sent=it.unit), number

    def _rounded(self, exact: Fraction, places: int) -> Decimal:
        """Return the nearest number of so many decimals at the bound `exact` or beyond it."""
        scaled = exact * 10**places
        if abs(scaled - round(scaled)) < Fraction(1, 1000):  # was computed from rounded values
            scaled = Fraction(round(scaled))
        steps = math.ceil(scaled) if self.up else math.floor(scaled)
        if steps == scaled and not self.closed:
            steps += 1 if self.up else -1
        return Decimal(steps).scaleb(-places)


def line(fact: Fact, it: Input, terminology: Terminology) -> tuple[Fraction, Fraction] | None:
    """Return factor and addend that lead from the value of a fact to that of its input.

    None where it does not follow so simply, which is no loss: then no change is named.
    """
    kind, own = fact.key.split("/")[0], it.measurement.analyte
    if kind != "lab":
        before = fact.sources[0].value
        if own != fact.concept or before is None:
            return None
        earlier = Fraction(before)
        return (Fraction(1), earlier) if kind == "rise" else (earlier, Fraction(0))
    if own == fact.concept:
        return Fraction(1), Fraction(0)
    resource = it.measurement.resource
    value = next((s.value for s in fact.sources if s.resource == resource), None)
    if not value:
        return None
    sent = it.canonical(it.quantity.value)
    # Facts say values of many digits rounded; rounding finds the constant between them again.
    if fact.concept == terminology.adjusted_calcium.id:
        return Fraction(1), round(sent - Fraction(value), 5)
    return round(sent / Fraction(value), 3), Fraction(0)
