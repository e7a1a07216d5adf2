"""Units of measure: which UCUM unit was sent, and exact conversion between units.

A table of whole unit strings (composed below from parts) gives each unit a dimension and an
exact factor to the base unit of that dimension, so that nothing is parsed while a patient is
assessed. A unit that is not in the table is unknown and never guessed. Which molar mass or
valence an analyte has does not belong here.

Source: UCUM 2.1, sections 2.1 (case sensitivity), 4.2 to 4.5 (base, derived and special
units). Two departures, both on purpose: ``{1.73_m2}`` is not dropped as an annotation (an
indexed clearance is not a clearance), and ``[IU]`` counts as ``U``, because laboratories
write one for the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Final

from cds.errors import UnitError

__all__ = ["UNITS", "Unit", "convert", "ucum_of", "unit_of"]


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit: ``base = (value + offset) * factor``.

    `kind` is what is measured ("substance", "mass", "catalytic", "time", ...) and `per` what it
    is divided by ("volume", "mass", "time" or ""); two units convert directly if both agree.
    `charges` marks a substance counted in equivalents. Base units: mol (of particles or of
    charges), g, U, L, s, K, 1.
    """

    code: str
    kind: str
    per: str
    factor: Fraction
    offset: Fraction = Fraction(0)
    charges: bool = False


# ------------------------------------------------------------------------- the table

_PREFIX: Final = {
    "": Fraction(1),
    "k": Fraction(1000),
    "d": Fraction(1, 10),
    "m": Fraction(1, 10**3),
    "u": Fraction(1, 10**6),
    "n": Fraction(1, 10**9),
    "p": Fraction(1, 10**12),
    "f": Fraction(1, 10**15),
}
_MINUTE, _HOUR, _DAY = 60, 3600, 86400

# unit -> (kind, factor to the base unit, prefixes in use)
_AMOUNTS: Final = {
    "mol": ("substance", Fraction(1), ("", "m", "u", "n", "p", "f")),
    "eq": ("substance", Fraction(1), ("", "m", "u")),
    "g": ("mass", Fraction(1), ("k", "", "m", "u", "n", "p", "f")),
    "U": ("catalytic", Fraction(1), ("k", "", "m", "u")),
    "[IU]": ("catalytic", Fraction(1), ("k", "", "m", "u")),
    # 1 kat = 1 mol/s and 1 U = 1 umol/min, so 1 kat = 60 000 000 U.
    "kat": ("catalytic", Fraction(60 * 10**6), ("u", "n")),
}
_VOLUMES: Final = {f"{p}L": _PREFIX[p] for p in ("", "d", "m", "u")}
_PER_TIME: Final = {
    "s": _PREFIX[""],
    "min": Fraction(_MINUTE),
    "h": Fraction(_HOUR),
    "d": Fraction(_DAY),
    "(24.h)": Fraction(_DAY),
    "wk": Fraction(7 * _DAY),
}


def _units() -> Iterator[Unit]:
    """Every unit of the table, once, under its usual UCUM code."""
    amounts = [
        (prefix + base, kind, factor * _PREFIX[prefix])
        for base, (kind, factor, prefixes) in _AMOUNTS.items()
        for prefix in prefixes
    ]
    for code, kind, factor in amounts:
        for volume, size in _VOLUMES.items():
            charges = code.endswith("eq")
            yield Unit(f"{code}/{volume}", kind, "volume", factor / size, charges=charges)
    for code, kind, factor in amounts:
        if kind == "mass":
            yield Unit(code, kind, "", factor)
            for time in ("d", "(24.h)"):
                yield Unit(f"{code}/{time}", kind, "time", factor / _PER_TIME[time])
    yield Unit("[lb_av]", "mass", "", Fraction("453.59237"))
    yield Unit("[oz_av]", "mass", "", Fraction("28.349523125"))
    for prefix in ("", "m"):
        # One osmole is one mole of particles; British laboratories write mmol/kg.
        for amount in ("mol", "osm"):
            yield Unit(f"{prefix}{amount}/kg", "substance", "mass", _PREFIX[prefix] / 1000)
    for volume, size in _VOLUMES.items():
        yield Unit(volume, "volume", "", size)
        for time, seconds in _PER_TIME.items():
            yield Unit(f"{volume}/{time}", "volume", "time", size / seconds)
    yield Unit("mL/min/{1.73_m2}", "clearance", "body surface", _PREFIX["m"] / _MINUTE)
    yield Unit("mL/s/{1.73_m2}", "clearance", "body surface", _PREFIX["m"])
    for prefix in ("", "m", "u"):
        yield Unit(f"{prefix}s", "time", "", _PREFIX[prefix])
    for time in ("min", "h", "d", "wk"):
        yield Unit(time, "time", "", _PER_TIME[time])
    # UCUM section 4.3: the Julian year of 365.25 d and its twelfth part.
    yield Unit("mo", "time", "", Fraction("30.4375") * _DAY)
    yield Unit("a", "time", "", Fraction("365.25") * _DAY)
    # How much of the time; not a plain number, so that neither converts into the other's like.
    yield Unit("min/d", "time", "day", Fraction(_MINUTE))
    yield Unit("h/d", "time", "day", Fraction(_HOUR))
    yield Unit("d/wk", "days", "week", Fraction(1))
    for time in ("s", "min", "h", "d", "wk"):
        yield Unit(f"/{time}", "number", "time", 1 / _PER_TIME[time])
    for counted, times in (("beats", ("min",)), ("breaths", ("min",)), ("drinks", ("d", "wk"))):
        for time in times:
            yield Unit(f"{{{counted}}}/{time}", "number", "time", 1 / _PER_TIME[time])
    for power in ("", "10*3", "10*6", "10*9", "10*12"):
        count = Fraction(10 ** int(power[3:])) if power else Fraction(1)
        for volume, size in _VOLUMES.items():
            yield Unit(f"{power}/{volume}", "number", "volume", count / size)
    for code in ("1", "{score}", "{titer}"):
        yield Unit(code, "number", "", Fraction(1))
    yield Unit("%", "number", "", Fraction(1, 100))
    # Not a number of per mille: HbA1c in mmol/mol and in % are two calibrations, not two units.
    yield Unit("mmol/mol", "substance", "substance", Fraction(1, 1000))
    yield Unit("K", "temperature", "", Fraction(1))
    yield Unit("Cel", "temperature", "", Fraction(1), Fraction("273.15"))
    yield Unit("[degF]", "temperature", "", Fraction(5, 9), Fraction("459.67"))


UNITS: Final[dict[str, Unit]] = {unit.code: unit for unit in _units()}
"""Every known unit under its usual UCUM code."""

# ------------------------------------------------------------------------- names of units

# What people write for a part of a unit; compared without regard to case.
_WORDS: Final = {
    "eq": ("Eq",),
    "meq": ("mEq",),
    "ueq": ("uEq",),
    "umol": ("mcmol", "micromol"),
    "mosm": ("mOsm",),
    "ug": ("mcg",),
    "g": ("gm", "gram", "grams"),
    "[IU]": ("IU",),
    "k[IU]": ("kIU",),
    "m[IU]": ("mIU",),
    "u[IU]": ("uIU", "mcIU"),
    "L": ("liter", "litre"),
    "dL": ("100mL",),
    "min": ("minute", "minutes"),
    "h": ("hr", "hrs", "hour", "hours"),
    "s": ("sec", "second", "seconds"),
    "ms": ("msec", "milliseconds"),
    "d": ("day", "days"),
    "(24.h)": ("24h", "24hr", "24hours"),
    "wk": ("week", "weeks"),
    "mo": ("month", "months"),
    "a": ("yr", "year", "years"),
    "kg": ("kgs", "kg{H2O}", "kgH2O"),
    "[lb_av]": ("lb", "lbs", "pound", "pounds"),
    "[oz_av]": ("oz", "ounces"),
    "10*3": ("10^3", "x10^3", "10E3", "x10E3", "x10*3", "10\u00b3"),
    "10*6": ("10^6", "x10^6", "10E6", "x10E6", "x10*6", "10\u2076"),
    "10*9": ("10^9", "x10^9", "10E9", "x10E9", "x10*9", "10\u2079"),
    "10*12": ("10^12", "x10^12", "10E12", "x10E12", "x10*12", "10\u00b9\u00b2"),
    "{1.73_m2}": (
        "1.73_m2",
        "1.73m2",
        "1.73m^2",
        "1.73m\u00b2",
        "1.73sqm",
        "{1.73m2}",
        "{1.73m^2}",
        "1.73.m2",
    ),
    "{beats}": ("beats",),
    "{breaths}": ("breaths",),
    "{drinks}": ("drinks",),
    "{score}": ("score", "points", "{points}"),
    "{titer}": ("titer", "titre"),
    "%": ("percent",),
    "Cel": ("degC", "\u00b0C", "\u00baC", "celsius"),
    "[degF]": ("degF", "\u00b0F", "\u00baF", "fahrenheit"),
}
# Read only where no code was sent: as a code, K is the kelvin.
_WHOLE: Final = {"bpm": "/min", "K/uL": "10*3/uL", "K/mcL": "10*3/uL"}


def _spellings(code: str) -> Iterator[str]:
    """A unit's own code and every way to write it with the words above."""
    heads = [""]
    for place, part in enumerate(code.split("/")):
        slash = "/" if place else ""
        heads = [head + slash + word for head in heads for word in (part, *_WORDS.get(part, ()))]
    return iter(heads)


# UCUM has both l and L for the liter (section 4.3), so mg/dl is a second code for mg/dL.
_CODES: Final = {code.replace("L", "l"): code for code in UNITS} | {code: code for code in UNITS}
_SPELLINGS: Final = {text: code for code in UNITS for text in _spellings(code)}
_TEXTS: Final = {text.casefold(): code for text, code in (_SPELLINGS | _WHOLE).items()}
_MICRO: Final = str.maketrans({"\u00b5": "u", "\u03bc": "u", " ": None, "\u00a0": None})


def ucum_of(quantity_code: str | None, quantity_unit: str | None) -> str | None:
    """The UCUM code of a quantity, or None where its unit is unknown.

    The code wins, and is case-sensitive as UCUM demands; only a listed spelling that is no
    UCUM at all (``mEq/L``, ``mcg/L``) is read as what it says. Without a code the text for
    people is read as UCUM or a listed spelling, whatever its case where only one unit fits.

    >>> ucum_of("mg/dl", "anything"), ucum_of(None, "mEq/L"), ucum_of("MMOL/L", "mmol/L")
    ('mg/dL', 'meq/L', None)
    """
    if quantity_code:
        return _CODES.get(quantity_code) or _SPELLINGS.get(quantity_code.translate(_MICRO))
    if not quantity_unit:
        return None
    text = quantity_unit.translate(_MICRO)
    return _CODES.get(text) or _TEXTS.get(text.casefold())


def unit_of(code: str) -> Unit:
    """The unit with this UCUM code.

    Raises:
        UnitError: the code is not known; names a likely one where there is one.
    """
    known = _CODES.get(code)
    if known is None:
        likely = ucum_of(None, code)
        hint = f"; did you mean '{likely}'?" if likely else ""
        raise UnitError(f"unit '{code}' is not a known UCUM unit{hint}")
    return UNITS[known]


# ------------------------------------------------------------------------- conversion


def convert(
    value: Decimal,
    unit: str,
    to: str,
    *,
    molar_mass: Decimal | None = None,
    valence: int | None = None,
) -> Fraction:
    """`value` in `unit` expressed in `to`, exactly.

    Args:
        value: a finite number.
        unit: UCUM code of `value`.
        to: UCUM code of the result.
        molar_mass: g/mol; needed between mass and substance.
        valence: charges per particle; needed between equivalents and anything else.

    Raises:
        UnitError: a unit is unknown, or `unit` does not convert into `to`.

    >>> convert(Decimal("1.8"), "mg/dL", "mmol/L", molar_mass=Decimal("24.305"))
    Fraction(3600, 4861)
    """
    factor, offset = _line(unit, to, molar_mass, valence)
    result = Fraction(value) * factor
    return result + offset if offset else result


@lru_cache(maxsize=1024)
def _line(
    unit: str, to: str, molar_mass: Decimal | None, valence: int | None
) -> tuple[Fraction, Fraction]:
    """Factor and offset of the line from `unit` to `to`."""
    source, target = unit_of(unit), unit_of(to)
    factor = source.factor / target.factor
    alike = source.kind == target.kind or {source.kind, target.kind} == {"mass", "substance"}
    if source.per != target.per or not alike:
        raise UnitError(
            f"unit '{unit}' does not convert into '{to}': they measure different things"
        )
    if source.kind != target.kind:
        if molar_mass is None or molar_mass <= 0:
            raise UnitError(f"unit '{unit}' does not convert into '{to}' without a molar mass")
        grams = Fraction(molar_mass)
        factor *= grams if target.kind == "mass" else 1 / grams
    if source.charges != target.charges:
        if valence is None or valence <= 0:
            raise UnitError(f"unit '{unit}' does not convert into '{to}' without a valence")
        factor *= valence if target.charges else Fraction(1, valence)
    return factor, source.offset * factor - target.offset
