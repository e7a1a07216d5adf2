"""Hypothesis strategies: results, signs and whole patients as FHIR JSON.

Values gather at the bounds of the table of tiers, where mistakes live; everything else is drawn
freely within what is possible.
"""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from builders import SIGNS, Json, ago, condition, lab, patient, statement, symptom
from clinical_table import ANALYTES, OTHER_UNITS, PLAUSIBLE, row_cells

_ADULTS = [
    patient(birth="1970-05-01", gender="male"),
    patient(birth="1970-05-01", gender="female"),
    patient(birth=None, gender="unknown"),
    patient(birth="1941", gender="other"),
]
ADULTS = st.sampled_from(_ADULTS)
PATIENTS = st.sampled_from([*_ADULTS, patient(birth="2016-05-01", gender="male")])
# Twitching often: it brings out what is silent without it.
SIGN_NAMES = st.sampled_from(["twitching"] * 10 + sorted(SIGNS))


def examples(factor: float) -> settings:
    """That many times the examples of the profile in use."""
    return settings(max_examples=max(1, round(factor * settings().max_examples)))


@st.composite
def values(draw: st.DrawFn, analyte: str, *, within: tuple[str, str] | None = None) -> Decimal:
    """A possible value in the analyte's usual unit, often at a bound or just beside it."""
    low, high = (Decimal(limit) for limit in within or PLAUSIBLE[analyte])
    places = draw(st.integers(0, 4))
    if draw(st.integers(0, 2)):
        bound = Decimal(draw(st.sampled_from([c.bound for c in row_cells(analyte)])).lstrip("<>="))
        value = bound + draw(st.integers(-2, 2)) * Decimal(1).scaleb(-places)
        return min(max(value, low), high)
    share = Decimal(draw(st.integers(0, 10_000))) / 10_000
    return min(max(round(low + share * (high - low), places), low), high)


@st.composite
def measured(draw: st.DrawFn, analyte: str) -> tuple[Decimal, str | None, Fraction]:
    """A value as sent, its UCUM code (None: the usual one), and the exact value in the usual unit.

    In a unit of mass the value has at most four digits after the point, beside a bound or not;
    no such number is a bound of the table itself.
    """
    value = draw(values(analyte))
    unit = draw(st.sampled_from([None, *OTHER_UNITS.get(analyte, ())]))
    if unit is None:
        return value, None, Fraction(value)
    factor = OTHER_UNITS[analyte][unit]
    sent = Fraction(value) / factor
    if (sent * 10**8).denominator != 1:
        scale = 10 ** draw(st.integers(1, 4))
        sent = Fraction(math.floor(sent * scale) + draw(st.integers(0, 1)), scale)
        low, high = (Fraction(limit) for limit in PLAUSIBLE[analyte])
        if not low <= sent * factor <= high:
            return value, None, Fraction(value)
    return Decimal(sent.numerator) / Decimal(sent.denominator), unit, sent * factor


# Ages in seconds, often at the ends of the windows of recency.
_DAY = 86_400
AGES = st.one_of(
    st.integers(0, 6 * _DAY),
    st.sampled_from([0, -1, *(d * _DAY + s for d in (7, 30, 90, 365) for s in (0, 1))]),
    st.integers(7 * _DAY, 400 * _DAY),
)


# Analytes without a row of their own: least and greatest value, and by what to divide them.
_OTHERS = {"calcium-total": (8, 35, 10), "albumin": (100, 600, 10), "creatinine": (30, 400, 1)}


@st.composite
def results(draw: st.DrawFn, analytes: tuple[str, ...] = (*ANALYTES, *_OTHERS)) -> Json:
    """A laboratory Observation with the oddities that senders have."""
    analyte = draw(st.sampled_from(analytes))
    if analyte in PLAUSIBLE:
        value, unit, _ = draw(measured(analyte))
    else:
        spread = {
            "calcium-total": (8, 35, 10),
            "albumin": (100, 600, 10),
            "creatinine": (30, 400, 1),
        }
        low, high, scale = spread[analyte]
        value, unit = Decimal(draw(st.integers(low, high))) / scale, None
    when = ago(seconds=draw(AGES))
    when = draw(st.sampled_from([when, when, when, when[:10], when[:7]]))
    usually_none = st.sampled_from([None, None, None])
    limits: dict[str, Any] = {}
    if draw(st.integers(0, 3)) == 0 and unit is None and value > 0:
        limits = {"low": value * Decimal("0.98"), "high": value * Decimal("1.02")}
        del limits[draw(st.sampled_from(["low", "high"]))]
    return lab(
        analyte,
        value,
        unit,
        when=when,
        comparator=draw(usually_none | st.sampled_from(["<", "<=", ">=", ">", None])),
        flag=draw(usually_none | st.sampled_from(["N", "L", "LL", "H", "HH", None])),
        status=draw(st.sampled_from(["final", "final", "final", "preliminary", "unknown"])),
        **limits,
    )


@st.composite
def signs(draw: st.DrawFn) -> Json:
    """A Condition or an Observation of a sign."""
    sign = draw(SIGN_NAMES)
    when = draw(st.one_of(st.none(), AGES.map(lambda s: ago(seconds=s))))
    if draw(st.booleans()):
        clinical = draw(st.sampled_from(["active", "active", "resolved", "relapse", None]))
        return condition(sign, clinical=clinical, onset=when)
    return symptom(sign, present=draw(st.sampled_from([True, True, False])), when=when)


# Magnesium sulfate, furosemide, digoxin and one that is nothing to the rules.
MEDICINES = st.sampled_from(["6585", "4603", "3407", "161"]).map(statement)


def numbered(resources: list[Json], prefix: str = "r") -> list[Json]:
    """The same resources under ids of their own."""
    return [{**r, "id": f"{prefix}{n}"} for n, r in enumerate(resources)]


@st.composite
def records(draw: st.DrawFn, who: st.SearchStrategy[Json] = PATIENTS) -> list[Json]:
    """Everything of one patient ("Patient/p1"), the Patient first, each under an id of its own."""
    rest = [
        *draw(st.lists(results(), max_size=5)),
        *draw(st.lists(signs(), max_size=3)),
        *draw(st.lists(MEDICINES, max_size=1)),
    ]
    return [draw(who), *numbered(rest)]


# ------------------------------------------------------------ any JSON at all

_KEYS = st.one_of(
    st.text(max_size=5),
    st.sampled_from(
        [
            "resourceType",
            "entry",
            "resource",
            "code",
            "coding",
            "system",
            "value",
            "status",
            "valueQuantity",
            "effectiveDateTime",
            "subject",
            "reference",
            "component",
            "id",
            "unit",
        ]
    ),
)
JSON_VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=8),
        st.sampled_from(
            ["Bundle", "Observation", "Patient/p1", "2026-10-31", "9999-99-99", "mmol/L", "#x"]
        ),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=8,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of every value inside a JSON value."""
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [path, *(p for key, part in inner for p in places(part, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], by: Any) -> Any:
    """A copy of a JSON value with the part at `path` replaced."""
    if not path:
        return by
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], by)
    return copy
