"""Units: what a sender wrote is read as meant or not at all, and conversion is exact."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from ucumvert import PintUcumRegistry

from cds import units
from cds.errors import UnitError
from cds.units import UNITS, Unit, convert, ucum_of, unit_of

MG = Decimal("24.305")
CA = Decimal("40.078")


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        pytest.param("mmol/L", "mmol/L", "mmol/L", id="code and text agree"),
        pytest.param("mmol/L", "mg/dL", "mmol/L", id="the code wins over the text"),
        pytest.param("mg/dl", None, "mg/dL", id="UCUM has l and L for the liter"),
        pytest.param(
            "MMOL/L", "mmol/L", None, id="codes are case-sensitive, the text does not help"
        ),
        pytest.param("mmol", "mmol/L", None, id="an unknown code is not replaced by the text"),
        pytest.param("K/uL", None, None, id="K is the kelvin in a code"),
        pytest.param("mEq/L", None, "meq/L", id="mEq/L in the code can mean only one thing"),
        pytest.param("\u00b5mol/L", None, "umol/L", id="micro sign in the code"),
        pytest.param(None, "mEq/L", "meq/L", id="mEq/L"),
        pytest.param(None, "mg/dl", "mg/dL", id="mg/dl"),
        pytest.param(None, "MG/DL", "mg/dL", id="capitals in the text"),
        pytest.param("", "mmol/l", "mmol/L", id="an empty code is no code"),
        pytest.param(None, "mcg/L", "ug/L", id="mcg"),
        pytest.param(None, "\u00b5mol/L", "umol/L", id="micro sign"),
        pytest.param(None, "\u03bcmol/l", "umol/L", id="Greek mu"),
        pytest.param(None, " mmol / L ", "mmol/L", id="spaces"),
        pytest.param(None, "IU/L", "[IU]/L", id="IU without brackets"),
        pytest.param(None, "uIU/mL", "u[IU]/mL", id="micro-units"),
        pytest.param(None, "mL/min/1.73m2", "mL/min/{1.73_m2}", id="indexed clearance"),
        pytest.param(None, "ml/min/1.73 m\u00b2", "mL/min/{1.73_m2}", id="indexed, superscript"),
        pytest.param(None, "mL/min", "mL/min", id="clearance that is not indexed"),
        pytest.param(None, "x10^9/L", "10*9/L", id="powers of ten"),
        pytest.param(None, "K/uL", "10*3/uL", id="K for thousand in a text"),
        pytest.param(None, "lbs", "[lb_av]", id="pounds"),
        pytest.param(None, "\u00b0F", "[degF]", id="degrees Fahrenheit"),
        pytest.param(None, "bpm", "/min", id="beats per minute"),
        pytest.param(None, "msec", "ms", id="milliseconds"),
        pytest.param(None, "mg/24h", "mg/(24.h)", id="in 24 hours"),
        pytest.param(None, "mOsm/kg H2O", "mosm/kg", id="osmolality"),
        pytest.param(None, "stone", None, id="an unknown text"),
        pytest.param(None, "mmol/L fasting", None, id="a unit and more"),
        pytest.param(None, None, None, id="no unit at all"),
        pytest.param("", "", None, id="empty elements"),
    ],
)
def test_a_unit_is_read_as_it_was_meant_or_not_at_all(
    code: str | None, text: str | None, expected: str | None
) -> None:
    assert ucum_of(code, text) == expected


def test_no_spelling_could_mean_two_different_units() -> None:
    meant: dict[str, set[tuple[object, ...]]] = {}
    for code, unit in UNITS.items():
        for text in units._spellings(code):
            same = (unit.kind, unit.per, unit.factor, unit.offset, unit.charges)
            meant.setdefault(text.casefold(), set()).add(same)

    assert {text: many for text, many in meant.items() if len(many) > 1} == {}


@pytest.mark.parametrize(
    ("value", "unit", "to", "molar_mass", "valence", "expected"),
    [
        pytest.param("2.4", "meq/L", "mmol/L", None, 1, Fraction(12, 5), id="potassium in mEq/L"),
        pytest.param("1.4", "meq/L", "mmol/L", None, 2, Fraction(7, 10), id="magnesium in mEq/L"),
        pytest.param(
            "1.70135", "mg/dL", "mmol/L", MG, None, Fraction(7, 10), id="0.7 to the digit"
        ),
        pytest.param(
            "8.81716", "mg/dL", "mmol/L", CA, None, Fraction(11, 5), id="2.2 to the digit"
        ),
        pytest.param("4.0", "g/dL", "g/L", None, None, Fraction(40), id="albumin"),
        pytest.param("133", "pmol/L", "ng/L", Decimal("1355.37"), None, None, id="B12 in pmol/L"),
        pytest.param("1", "ukat/L", "U/L", None, None, Fraction(60), id="katal"),
        pytest.param("180", "[IU]/L", "U/L", None, None, Fraction(180), id="IU is U"),
        pytest.param("0.1", "u[IU]/mL", "m[IU]/L", None, None, Fraction(1, 10), id="TSH"),
        pytest.param("0.42", "s", "ms", None, None, Fraction(420), id="QTc in seconds"),
        pytest.param("98.6", "[degF]", "Cel", None, None, Fraction(37), id="Fahrenheit"),
        pytest.param(
            "-40", "Cel", "[degF]", None, None, Fraction(-40), id="where both scales meet"
        ),
        pytest.param("150", "[lb_av]", "kg", None, None, Fraction("68.0388555"), id="pounds"),
        pytest.param("72", "{beats}/min", "/min", None, None, Fraction(72), id="annotated rate"),
        pytest.param("290", "mmol/kg", "mosm/kg", None, None, Fraction(290), id="osmolality"),
        pytest.param("450", "10*3/uL", "10*9/L", None, None, Fraction(450), id="platelets"),
        pytest.param("420", "min", "h", None, None, Fraction(7), id="sleep"),
        pytest.param("1.5", "L/d", "mL/d", None, None, Fraction(1500), id="fluid"),
        pytest.param(
            "400", "mg/(24.h)", "mg/d", None, None, Fraction(400), id="24 hours are a day"
        ),
        pytest.param("0.97", "1", "%", None, None, Fraction(97), id="fraction"),
    ],
)
def test_conversion_is_exact(
    value: str,
    unit: str,
    to: str,
    molar_mass: Decimal | None,
    valence: int | None,
    expected: Fraction | None,
) -> None:
    got = convert(Decimal(value), unit, to, molar_mass=molar_mass, valence=valence)

    if expected is None:
        expected = Fraction(value) * Fraction(str(molar_mass)) / 1000
    assert got == expected
    assert isinstance(got, Fraction)


@pytest.mark.parametrize(
    ("unit", "to", "says"),
    [
        pytest.param("mg/dL", "mmol/L", "without a molar mass", id="mass without molar mass"),
        pytest.param("meq/L", "mmol/L", "without a valence", id="charges without valence"),
        pytest.param("mL/min", "mL/min/{1.73_m2}", "different things", id="clearance, not indexed"),
        pytest.param("mL/min/{1.73_m2}", "mL/min", "different things", id="clearance, indexed"),
        pytest.param("mmol/mol", "%", "different things", id="HbA1c has two calibrations"),
        pytest.param("mmol/L", "mmol/kg", "different things", id="per volume and per mass"),
        pytest.param("kg", "s", "different things", id="mass and time"),
        pytest.param("MMOL/L", "mmol/L", "did you mean 'mmol/L'?", id="wrong case"),
        pytest.param("mcg/L", "mmol/L", "did you mean 'ug/L'?", id="alias instead of a code"),
        pytest.param(
            "mmol/L", "furlong", "'furlong' is not a known UCUM unit", id="unknown target"
        ),
    ],
)
def test_what_does_not_convert_is_refused_with_a_reason(unit: str, to: str, says: str) -> None:
    with pytest.raises(UnitError, match=r"^unit '") as refused:
        convert(Decimal(1), unit, to)

    assert says in str(refused.value)


def test_molar_mass_and_valence_do_not_make_a_rate_of_a_mass() -> None:
    with pytest.raises(UnitError, match="different things"):
        convert(Decimal(1), "U/L", "mmol/L", molar_mass=MG, valence=2)


def test_a_molar_mass_or_valence_of_nothing_is_none() -> None:
    for wrong in ({"molar_mass": Decimal(0)}, {"molar_mass": Decimal(-1)}):
        with pytest.raises(UnitError, match="without a molar mass"):
            convert(Decimal(1), "mg/dL", "mmol/L", **wrong)
    with pytest.raises(UnitError, match="without a valence"):
        convert(Decimal(1), "meq/L", "mmol/L", valence=0)


def _group(unit: Unit) -> tuple[str, str, bool]:
    # For UCUM, [IU] is a dimension of its own; that it counts as U here is on purpose.
    return unit.kind, unit.per, "[IU]" in unit.code


def test_the_table_agrees_with_an_independent_reading_of_ucum() -> None:
    registry = PintUcumRegistry()
    first: dict[tuple[str, str, bool], tuple[Unit, object]] = {}
    for code, unit in UNITS.items():
        if code in ("{score}", "{titer}"):  # annotations alone, which ucumvert cannot read
            assert (unit.factor, unit.kind) == (1, "number")
            continue
        if unit.kind == "temperature":  # a scale with an offset, checked in full below
            continue
        theirs = registry.from_ucum(code).to_base_units()
        reference, base = first.setdefault(_group(unit), (unit, theirs))
        assert theirs.dimensionality == base.dimensionality, code  # type: ignore[attr-defined]
        ratio = float(unit.factor / reference.factor)
        assert theirs.magnitude / base.magnitude == pytest.approx(ratio, rel=1e-12), code  # type: ignore[attr-defined]


def test_temperatures_agree_with_an_independent_reading_of_ucum() -> None:
    registry = PintUcumRegistry()
    for value in ("-273.15", "0", "36.6", "38.0", "451"):
        for code, name in (("Cel", "degC"), ("[degF]", "degF"), ("K", "kelvin")):
            theirs = registry.Quantity(float(value), name).to("kelvin").magnitude
            assert float(convert(Decimal(value), code, "K")) == pytest.approx(theirs, abs=1e-9)


def test_every_unit_is_found_by_its_own_code() -> None:
    for code, unit in UNITS.items():
        assert unit_of(code) is unit
        assert ucum_of(code, None) == code
        assert ucum_of(None, code) == code


def test_equivalents_are_an_amount_of_substance() -> None:
    assert unit_of("meq/L").kind == unit_of("mmol/L").kind == "substance"
    assert unit_of("mg/dL").kind == "mass"
