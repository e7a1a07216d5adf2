"""Units: what must hold for every value and every unit."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from cds.errors import UnitError
from cds.units import UNITS, Unit, convert, ucum_of

numbers = st.decimals(min_value=-(10**9), max_value=10**9, places=6)
units = st.sampled_from(sorted(UNITS.values(), key=lambda unit: unit.code))
molar_masses = st.decimals(min_value="0.001", max_value=10**6, places=3)
AMOUNTS = {"substance", "mass"}


def exact(value: Fraction) -> Decimal | None:
    """The decimal equal to a fraction, if there is one that Decimal can hold."""
    decimal = Decimal(value.numerator) / Decimal(value.denominator)
    return decimal if Fraction(decimal) == value else None


def like(unit: Unit) -> st.SearchStrategy[Unit]:
    def sort(u: Unit) -> tuple[str, str, bool]:
        return u.kind, u.per, u.charges

    return st.sampled_from([u for u in UNITS.values() if sort(u) == sort(unit)])


@given(st.data(), numbers, units)
def test_there_and_back_gives_the_same_number(data: st.DataObject, value: Decimal, unit: Unit):
    other = data.draw(like(unit))
    there = convert(value, unit.code, other.code)
    decimal = exact(there)
    if decimal is not None:
        assert convert(decimal, other.code, unit.code) == Fraction(value)


@given(st.data(), numbers, numbers, units)
def test_conversion_keeps_the_order_of_values(
    data: st.DataObject, one: Decimal, two: Decimal, unit: Unit
):
    other = data.draw(like(unit))
    before = (one > two) - (one < two)
    a, b = (convert(v, unit.code, other.code) for v in (one, two))
    assert (a > b) - (a < b) == before


@given(st.data(), numbers, units)
def test_a_detour_through_a_third_unit_changes_nothing(
    data: st.DataObject, value: Decimal, unit: Unit
):
    second, third = data.draw(like(unit)), data.draw(like(unit))
    between = exact(convert(value, unit.code, second.code))
    if between is not None:
        direct = convert(value, unit.code, third.code)
        assert convert(between, second.code, third.code) == direct


@given(numbers, molar_masses, st.integers(min_value=1, max_value=4))
def test_mass_moles_and_charges_are_one_amount(value: Decimal, molar_mass: Decimal, valence: int):
    def get(amount: Decimal, unit: str, to: str) -> Fraction:
        return convert(amount, unit, to, molar_mass=molar_mass, valence=valence)

    moles = get(value, "mg/L", "mmol/L")
    assert moles * Fraction(molar_mass) == Fraction(value)
    assert get(value, "mmol/L", "meq/L") == Fraction(value) * valence
    assert get(value, "meq/L", "mg/L") * valence == Fraction(value) * Fraction(molar_mass)


@given(units, units, molar_masses)
def test_units_of_different_things_never_convert(one: Unit, two: Unit, molar_mass: Decimal):
    alike = one.kind == two.kind or {one.kind, two.kind} <= AMOUNTS
    if one.per != two.per or not alike:
        try:
            got = convert(Decimal(1), one.code, two.code, molar_mass=molar_mass, valence=1)
        except UnitError:
            return
        raise AssertionError(f"{one.code} became {two.code}: {got}")


@given(units, st.sampled_from([str.upper, str.lower, str.swapcase, str.title]))
def test_the_case_of_a_text_never_changes_the_unit(unit: Unit, change):  # type: ignore[no-untyped-def]
    found = ucum_of(None, change(unit.code))
    assert found is not None
    read = UNITS[found]
    assert (read.kind, read.per, read.factor, read.offset) == (
        unit.kind,
        unit.per,
        unit.factor,
        unit.offset,
    )


@given(st.none() | st.text(max_size=20), st.none() | st.text(max_size=20))
def test_any_text_is_a_known_unit_or_none(code: str | None, text: str | None):
    found = ucum_of(code, text)
    assert found is None or found in UNITS
