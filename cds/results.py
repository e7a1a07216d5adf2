"""One result at a time: checked, converted into its analyte's unit, and what is doubtful of it.

A result that cannot be used is kept with its reason (`Normalized.reject`) and said as a problem;
nothing is guessed and nothing is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction

from cds.errors import UnitError
from cds.model import Doubt, Fact, Instant, Measurement, Problem, Quantity, Source
from cds.program import grid_code
from cds.terminology import Analyte, LabCode, Terminology
from cds.units import ucum_of, unit_of

__all__ = ["Normalized", "Result", "Results", "Unusable", "engine_number", "future"]

DAY = 86_400
UTC_PLUS_14 = 14 * 3600  # the earliest place on earth where a calendar date begins
NO_LIMIT = 1 << 52  # an open end, beyond every grid code that a plausible value can have


@dataclass(frozen=True, slots=True)
class Unusable:
    """Why something recorded could not become a fact; `reason` as in `model.NotEvaluated`.

    `start` is when it was, in seconds, where that is known.
    """

    reason: str
    resource: str | None
    start: int | None = None


@dataclass(slots=True)
class Normalized:
    """The facts of one patient, what could not be used (by fact key), and problems met.

    `denied` are the fact keys that somebody explicitly said to be absent, with the resource.
    `age_years` is None where the birth date is missing or cannot be used; `child` is True
    only where the patient is surely under 18. `deceased`: recorded so, and nothing recorded since.
    """

    facts: list[Fact] = field(default_factory=list)
    unusable: dict[str, list[Unusable]] = field(default_factory=dict)
    denied: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    faults: dict[str, list[Source]] = field(default_factory=dict)
    age_years: int | None = None
    child: bool = False
    deceased: bool = False

    def reject(
        self, key: str, reason: str, resource: str | None, when: Instant | None = None
    ) -> None:
        """Keep why something recorded under this fact key was not used."""
        start = when.start if when else None
        self.unusable.setdefault(key, []).append(Unusable(reason, resource, start))


@dataclass(frozen=True, slots=True)
class Result:
    """One usable result: the exact interval of its value, and when it was."""

    measurement: Measurement
    lo: Fraction | None  # None: no lower end
    hi: Fraction | None
    lo_open: bool
    hi_open: bool
    start: int
    end: int
    flags: tuple[int, int]  # low side, high side
    doubts: tuple[Doubt, ...] = ()
    sent: str = ""

    lo_code: int = field(init=False)
    hi_code: int = field(init=False)

    def __post_init__(self) -> None:
        lo = -NO_LIMIT if self.lo is None else engine_number(self.lo)
        hi = NO_LIMIT if self.hi is None else lo if self.hi == self.lo else engine_number(self.hi)
        # "> 2.0" lies strictly above the step 2.0, "< 2.0" strictly below: on the odd codes.
        object.__setattr__(self, "lo_code", lo | 1 if self.lo_open else lo)
        object.__setattr__(self, "hi_code", hi - 1 if self.hi_open and hi % 2 == 0 else hi)

    @property
    def exact(self) -> Fraction | None:
        """The value where it is one number, None for an interval."""
        return self.lo if self.lo is self.hi or self.lo == self.hi else None


class Results:
    """Reads measurements into results.

    Args:
        terminology: analytes with their units, limits and slips.
        asked: the fact keys that rules mention.
        keys_of: the fact keys that an unusable result of an analyte leaves undecided.
    """

    def __init__(
        self,
        terminology: Terminology,
        asked: frozenset[str],
        keys_of: Callable[[str], list[str]],
    ) -> None:
        self.terminology, self._asked = terminology, asked
        self._keys = {name: keys_of(name) for name in terminology.analytes}
        self._possible = {
            name: tuple(
                None if end is None else Fraction(end)
                for end in (analyte.plausible.ge, analyte.plausible.le)
            )
            for name, analyte in terminology.analytes.items()
            if analyte.plausible is not None
        }

    def read(self, m: Measurement, as_of: int, out: Normalized) -> Result | None:
        """Check one measurement and convert its value; what fails is kept with its reason."""
        analyte = self.terminology.analytes[m.analyte]
        keys = self._keys[m.analyte]

        def reject(reason: str, code: str, path: str, message: str) -> None:
            for key in keys:
                out.reject(key, reason, m.resource, m.effective)
            out.problems.append(Problem("error", code, m.resource, path, message))

        if m.value is None:
            for key in keys:
                out.reject(key, "missing", m.resource, m.effective)
            return None
        when = m.effective
        if when is None:
            reject("date", "date-missing", "effective", "no usable date; the result is not used")
            return None
        if future(when, as_of):
            reject(
                "future",
                "future",
                "effective",
                "dated after the date of assessment; the result is not used",
            )
            return None
        unit = ucum_of(m.value.code, m.value.unit)
        if unit is None:
            what = "no unit" if not (m.value.code or m.value.unit) else "an unknown unit"
            reject(
                "unit",
                "unit-missing" if what == "no unit" else "unit-unknown",
                f"{m.path}.code",
                f"the result has {what}; it is not used. Send a UCUM code such as {analyte.unit}",
            )
            return None
        try:
            absurd = _absurd(m.value)
            lo, hi = (None, None) if absurd else self._interval(m, m.value, unit, analyte)
        except UnitError as error:
            reject("unit", "unit-mismatch", f"{m.path}.code", f"{error}; the result is not used")
            return None
        comparator = m.value.comparator or ""
        if absurd or not _possible(lo, hi, *self._possible.get(m.analyte, (None, None))):
            reject(
                "implausible",
                "implausible",
                f"{m.path}.value",
                "outside the limits of what is possible; the result is not used",
            )
            self._fault("implausible", m, out)
            return None
        return Result(
            m,
            lo,
            hi,
            comparator == ">",
            comparator == "<",
            min(when.start, as_of),
            max(when.end, when.start),
            self._flags(m, lo, hi, unit, analyte, out),
            self._doubts(m, unit, analyte, out),
            m.value.text,
        )

    def _fault(self, code: str, m: Measurement, out: Normalized) -> None:
        """Note a fault of the data; rules may test it as a fact of kind quality."""
        source = Source(
            resource=m.resource,
            effective=m.effective.text if m.effective else None,
            sent=m.value.text if m.value else None,
            concept=m.analyte,
        )
        for key in (f"quality/{code}", f"quality/{code}/{m.analyte}"):
            if key in self._asked:
                out.faults.setdefault(key, []).append(source)

    def _interval(
        self, m: Measurement, q: Quantity, unit: str, analyte: Analyte
    ) -> tuple[Fraction | None, Fraction | None]:
        code = self._code(m)
        value = analyte.convert(q.value, unit, code)
        if q.comparator in ("<", "<="):
            return None, value
        if q.comparator in (">", ">="):
            return value, None
        return value, analyte.convert(q.high, unit, code) if q.high is not None else value

    def _flags(
        self,
        m: Measurement,
        lo: Fraction | None,
        hi: Fraction | None,
        unit: str,
        analyte: Analyte,
        out: Normalized,
    ) -> tuple[int, int]:
        """What the laboratory says of the low and of the high side, see `cds.facts`."""
        low = high = 1
        limit = self.limit(m, m.low, unit, analyte)
        if limit is None and m.low is not None and m.low.value != 0:
            self._unusable_range("low", m, out)
        if limit is not None:
            low = 2 if hi is not None and hi < limit else 0 if lo is not None and lo >= limit else 1
        limit = self.limit(m, m.high, unit, analyte)
        if limit is None and m.high is not None:
            self._unusable_range("high", m, out)
        if limit is not None:
            high = (
                2 if lo is not None and lo > limit else 0 if hi is not None and hi <= limit else 1
            )
        for flag in m.flags:
            if flag in ("N", "H", "HU", "HH") and low == 1:
                low = 0
            if flag in ("N", "L", "LU", "LL") and high == 1:
                high = 0
            if flag in ("L", "LU", "LL"):
                low = 3 if flag == "LL" else max(low, 2)
            if flag in ("H", "HU", "HH"):
                high = 3 if flag == "HH" else max(high, 2)
        return low, high

    def _unusable_range(self, end: str, m: Measurement, out: Normalized) -> None:
        out.problems.append(
            Problem(
                "warning",
                "range-unusable",
                m.resource,
                f"referenceRange.{end}",
                "the laboratory's limit is impossible or in an unknown unit; judged without it",
            )
        )

    def limit(
        self, m: Measurement, q: Quantity | None, unit: str, analyte: Analyte
    ) -> Fraction | None:
        """The laboratory's limit in the canonical unit; its own unit, else the result's."""
        if q is None or _absurd(q):
            return None
        own = ucum_of(q.code, q.unit) if q.code or q.unit else unit
        if own is None:
            return None
        try:
            limit = analyte.convert(q.value, own, self._code(m))
        except UnitError:
            return None
        # A limit of zero or beyond the possible ("0" for none) is no statement of the laboratory.
        return limit if analyte.plausible is None or analyte.plausible.hold(limit) else None

    def _code(self, m: Measurement) -> LabCode | None:
        return self.terminology.lab_code(m.coding.system, m.coding.code)

    def _doubts(
        self,
        m: Measurement,
        unit: str,
        analyte: Analyte,
        out: Normalized,
    ) -> tuple[Doubt, ...]:
        t = self.terminology
        doubts: list[Doubt] = []
        if m.status in ("preliminary", "registered"):
            doubts.append(self.doubt("preliminary"))
        elif m.status not in ("final", "amended", "corrected"):
            doubts.append(self.doubt("status-unknown"))
        if m.conditions and m.analyte in t.hemolysis.raises and self._hemolyzed(m):
            doubts.append(self.doubt("hemolyzed"))
        slip = analyte.slip(m.value.value, unit) if m.value else None
        if slip is not None:
            doubts.append(Doubt(f"{slip.kind}-slip", slip.says))
            out.problems.append(
                Problem(
                    "warning",
                    f"{slip.kind}-slip",
                    m.resource,
                    m.path,
                    f"looks like another {slip.kind} than the label says; judged as sent",
                )
            )
        code = self._code(m)
        if code is not None and unit_of(unit).kind != code.property:
            doubts.append(self.doubt("property-mismatch"))
            out.problems.append(
                Problem(
                    "warning",
                    "property-mismatch",
                    m.resource,
                    "code",
                    "the code and the unit name different properties; the unit was believed",
                )
            )
        return tuple(doubts)

    def doubt(self, code: str) -> Doubt:
        """Return the doubt of this code with its clinical wording."""
        return Doubt(code, self.terminology.doubts[code])

    def _hemolyzed(self, m: Measurement) -> bool:
        known = self.terminology.hemolysis
        marks = {*known.specimen_conditions, *(f"text:{word}" for word in known.words)}
        return not marks.isdisjoint(m.conditions)

    def source(self, name: str, r: Result, more: tuple[Doubt, ...]) -> Source:
        """Return what a fact says of a result it rests on, in the unit of the analyte `name`."""
        m = r.measurement
        value = r.exact if r.exact is not None else r.lo if r.lo is not None else r.hi
        return Source(
            resource=m.resource,
            effective=m.effective.text if m.effective else None,
            value=_decimal(value) if value is not None else None,
            unit=self.terminology.analytes[name].unit,
            sent=r.sent,
            laboratory_range=_range_text(m),
            doubts=(*r.doubts, *more),
        )


def future(when: Instant, as_of: int) -> bool:
    """Whether even the earliest place on earth has not reached that time yet."""
    slack = UTC_PLUS_14 if when.end - when.start >= DAY - 1 else 0
    return when.start - slack > as_of


def engine_number(value: Fraction) -> int:
    """The grid code, kept within what an engine takes; beyond lies nothing that is possible."""
    return max(-NO_LIMIT, min(NO_LIMIT, grid_code(value)))


def _absurd(q: Quantity) -> bool:
    """Whether a number is too large or too small to be a measurement, or to be computed with."""
    return any(v != 0 and abs(v.adjusted()) > 15 for v in (q.value, q.high) if v is not None)


def _possible(
    lo: Fraction | None, hi: Fraction | None, low: Fraction | None, high: Fraction | None
) -> bool:
    """Whether the interval of a value lies within the limits of what is possible.

    "<2.0" and ">90" are open to one side: only the known end can be beyond the limits.
    """
    if lo is None:
        return hi is not None and (low is None or hi > low)
    if hi is None:
        return high is None or lo < high
    return (low is None or lo >= low) and (high is None or hi <= high)


def _decimal(value: Fraction) -> Decimal:
    """The exact decimal where there is a short one, else six significant digits more than shown."""
    exact = Decimal(value.numerator) / Decimal(value.denominator)
    if exact.as_tuple().exponent and len(exact.as_tuple().digits) > 12:
        return round(exact, 6).normalize() + 0
    return exact


def _range_text(m: Measurement) -> str | None:
    low, high = (q.text if q else "" for q in (m.low, m.high))
    if low and high:
        return f"{low} to {high}"
    return f"at least {low}" if low else f"at most {high}" if high else None
