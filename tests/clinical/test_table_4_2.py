"""Every cell of the table of laboratory tiers: at its bound and one last place beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from decimal import Decimal
from fractions import Fraction

import pytest

from builders import (
    Json,
    about,
    ago,
    card_text,
    condition,
    highest,
    lab,
    patient,
    rank,
    reasons,
    tier_about,
)
from clinical_table import (
    CONTEXT_DAYS,
    OTHER_UNITS,
    PLAUSIBLE,
    STEPS,
    TABLE,
    UNLOCKING,
    Cell,
    expected,
    expected_recheck,
    row_cells,
)

Judge = Callable[..., Json]

ROWS = [pytest.param(*row, id=f"{row[0]} {row[1]}") for row in TABLE]


def beside_bounds(analyte: str, cells: Iterable[Cell]) -> list[Decimal]:
    """Each bound, and one in the last place below and above it for each usual last place."""
    values: set[Decimal] = set()
    for bound in {cell.bound.lstrip("<>=") for cell in cells}:
        values.add(Decimal(bound))
        for step in STEPS[analyte]:
            values |= {Decimal(bound) - Decimal(step), Decimal(bound) + Decimal(step)}
    low, high = (Decimal(limit) for limit in PLAUSIBLE[analyte])
    return sorted(v for v in values if low <= v <= high)


def contexts(cells: Iterable[Cell]) -> list[str]:
    """No sign, each symptom that unlocks, and each sign that a cell of the row names."""
    named = {sign for cell in cells for sign in cell.signs}
    return ["", *sorted(UNLOCKING | named)]


def differences(
    judge: Judge, analyte: str, values: Iterable[Decimal], signs: tuple[str, ...]
) -> list[str]:
    """Where the software's tier of the analyte is not the table's."""
    found = []
    for value in values:
        assessment = judge(lab(analyte, value), *(condition(s) for s in signs))
        want, got = expected(row_cells(analyte), value, signs), tier_about(assessment, analyte)
        if want != got:
            found.append(f"{analyte} {value} with {signs}: {got}, the table says {want}")
        elif rank(assessment["tier"]) < rank(want):
            found.append(f"{analyte} {value} with {signs}: the patient is {assessment['tier']}")
    return found


@pytest.mark.parametrize(("analyte", "side"), ROWS)
def test_every_bound_is_exact_whatever_else_is_known(judge: Judge, analyte: str, side: str) -> None:
    cells = TABLE[analyte, side]
    values = beside_bounds(analyte, cells)
    faults = [
        fault
        for sign in contexts(cells)
        for fault in differences(judge, analyte, values, (sign,) if sign else ())
    ]
    assert faults == []


@pytest.mark.parametrize(("analyte", "side"), ROWS)
def test_a_sign_that_raises_a_tier_does_so_beside_twitching_too(
    judge: Judge, analyte: str, side: str
) -> None:
    cells = TABLE[analyte, side]
    signs = {sign for cell in cells for sign in cell.signs} - {"twitching"}
    values = beside_bounds(analyte, (cell for cell in cells if cell.signs))
    faults = [
        fault
        for sign in sorted(signs)
        for fault in differences(judge, analyte, values, (sign, "twitching"))
    ]
    assert faults == []


@pytest.mark.parametrize(
    ("analyte", "unit"), [(a, u) for a, units in OTHER_UNITS.items() for u in units]
)
def test_every_bound_is_exact_in_every_unit_that_laboratories_use(
    judge: Judge, analyte: str, unit: str
) -> None:
    # The last value below a bound and the first above it, at four significant digits or more.
    factor = OTHER_UNITS[analyte][unit]
    cells = row_cells(analyte)
    faults = []
    for cell in cells:
        exact = cell.number / factor
        places = max(0, 3 - math.floor(math.log10(float(exact))))
        scale = 10**places
        below = Fraction(math.floor(exact * scale - Fraction(1, 2)), scale)
        for value in {below, Fraction(math.floor(exact * scale), scale), exact, 2 * exact - below}:
            if (value * 10**8).denominator != 1:
                continue  # a bound that no decimal in this unit hits
            sent = Decimal(value.numerator) / Decimal(value.denominator)
            for signs in ((), ("twitching",)):
                assessment = judge(lab(analyte, sent, unit), *(condition(s) for s in signs))
                want = expected(cells, value * factor, signs)
                if tier_about(assessment, analyte) != want:
                    faults.append(
                        f"{analyte} {sent} {unit} with {signs}: "
                        f"{tier_about(assessment, analyte)}, the table says {want}"
                    )
    assert faults == []


@pytest.mark.parametrize(
    ("analyte", "value", "unit", "code", "tier"),
    [
        ("potassium", "11.3", "mg/dL", "75940-7", "urgent"),  # 2.89 mmol/L
        ("potassium", "2.4", "meq/L", "6298-4", "emergency"),
        ("magnesium", "1.2", "mg/dL", "19123-9", "urgent"),  # 0.494 mmol/L
        ("magnesium", "0.9", "mg/dL", "21377-7", "emergency"),  # 0.370 mmol/L
        ("magnesium", "0.9", "meq/L", "2601-3", "urgent"),  # 0.45 mmol/L
        ("calcium", "7.6", "mg/dL", "46099-8", "emergency"),  # 1.896 mmol/L
        ("calcium-total", "7.6", "mg/dL", "17861-6", "emergency"),
        ("calcium-total", "7.6", "mg/dL", "49765-1", "emergency"),
        ("calcium-ionized", "3.6", "mg/dL", "17863-2", "emergency"),  # 0.898 mmol/L
        ("calcium-ionized", "0.89", "mmol/L", "1994-3", "emergency"),
        ("phosphate", "0.9", "mg/dL", "2777-1", "emergency"),  # 0.291 mmol/L
        ("phosphate", "1.0", "mg/dL", "2777-1", "urgent"),  # 0.323 mmol/L
        ("sodium", "119", "meq/L", "2947-0", "emergency"),
        ("glucose", "45", "mg/dL", "2345-7", "emergency"),  # 2.498 mmol/L
        ("glucose", "46", "mg/dL", "2339-0", "urgent"),  # 2.553 mmol/L
        ("qtc", "0.501", "s", "76635-2", "emergency"),
        ("creatine-kinase", "166.8", "ukat/L", "2157-6", "emergency"),  # 10,008 U/L
    ],
)
def test_other_codes_and_units_of_an_analyte_reach_the_same_cells(
    judge: Judge, analyte: str, value: str, unit: str, code: str, tier: str
) -> None:
    about_what = "calcium" if analyte == "calcium-total" else analyte
    assert tier_about(judge(lab(analyte, value, unit, code=code)), about_what) == tier


# ------------------------------------------------------------ the same rows, later


def just_inside(analyte: str, cell: Cell) -> Decimal:
    """The value in the cell that is nearest to its bound."""
    step = Decimal(STEPS[analyte][0])
    bound = Decimal(cell.bound.lstrip("<>="))
    return bound if "=" in cell.bound else bound - step if "<" in cell.bound else bound + step


@pytest.mark.parametrize(("analyte", "side"), ROWS)
def test_every_cell_is_rechecked_until_the_end_of_its_window(
    judge: Judge, analyte: str, side: str
) -> None:
    cells = row_cells(analyte)
    faults = []
    for cell in TABLE[analyte, side]:
        value = just_inside(analyte, cell)
        for sign in {"", "twitching", *cell.signs}:
            present = (sign,) if sign else ()
            for days in (8, CONTEXT_DAYS[analyte]):
                old = lab(analyte, value, when=ago(days=days))
                got = tier_about(judge(old, *(condition(s) for s in present)), analyte)
                want = expected_recheck(cells, value, present)
                if got != want:
                    faults.append(f"{analyte} {value}, {days} d, {present}: {got} and not {want}")
    assert faults == []


# ------------------------------------------------------------ what the patient is told overall


@pytest.mark.parametrize(
    "resources",
    [
        [lab("potassium", "3.2")],
        [lab("potassium", "5.7"), lab("magnesium", "0.6"), lab("calcium", "2.05")],
        [lab("sodium", 127), lab("phosphate", "0.5"), lab("glucose", "3.5")],
        [lab("qtc", 480), lab("creatine-kinase", 900), lab("tsh", "0.05")],
        [lab("vitamin-d", 20), lab("vitamin-b12", 100), lab("ferritin", 5), lab("egfr", 12)],
        [lab("calcium", "2.8"), lab("sodium", 152), lab("bicarbonate", 12)],
        [lab("potassium", "3.2"), condition("headache"), condition("palpitations")],
    ],
)
def test_soon_and_routine_values_are_silent_without_a_symptom_of_the_complaint(
    judge: Judge, resources: list[Json]
) -> None:
    assessment = judge(*resources)
    assert assessment["tier"] is None
    assert assessment["findings"] == assessment["cards"] == []


NORMAL = {
    "potassium": "4.1",
    "magnesium": "0.85",
    "calcium": "2.35",
    "sodium": "139",
    "phosphate": "1.1",
    "qtc": "420",
    "creatine-kinase": "120",
    "glucose": "5.2",
    "bicarbonate": "25",
    "tsh": "2.1",
    "vitamin-d": "80",
    "vitamin-b12": "500",
    "ferritin": "90",
    "egfr": "95",
}


def test_normal_results_make_no_finding(judge: Judge) -> None:
    assessment = judge(*(lab(analyte, value) for analyte, value in NORMAL.items()))
    assert assessment["tier"] is None


def test_normal_results_make_no_laboratory_finding_in_a_patient_who_twitches(judge: Judge) -> None:
    labs = [lab(analyte, value) for analyte, value in NORMAL.items()]
    assessment = judge(condition("twitching"), *labs)
    assert [f["id"] for analyte in NORMAL for f in about(assessment, analyte)] == []


@pytest.mark.parametrize("analyte", [a for a, side in TABLE if side == "low"])
def test_each_analyte_counts_for_itself_and_the_patient_has_the_highest_tier(
    judge: Judge, analyte: str
) -> None:
    # Potassium 2.9 is urgent; the other analyte is at the worst value that is possible.
    worst = PLAUSIBLE[analyte][0]
    other = lab("potassium", "2.9", id="second") if analyte != "potassium" else lab("sodium", 124)
    assessment = judge(lab(analyte, worst), other, condition("twitching"))
    want = expected(row_cells(analyte), Decimal(worst), ("twitching",))
    assert tier_about(assessment, analyte) == want
    assert assessment["tier"] == highest([want, "urgent"])


# ------------------------------------------------------------ cells that need a second result


@pytest.mark.parametrize(
    ("gender", "value", "tier"),
    [
        ("male", "449.9", None),
        ("male", "450", "soon"),
        ("female", "459.9", None),
        ("female", "460", "soon"),
        ("unknown", "459.9", None),
        ("unknown", "460", "soon"),
        ("other", "459.9", None),
        ("other", "460", "soon"),
        ("male", "500", "soon"),
        ("male", "500.1", "emergency"),
    ],
)
def test_qtc_is_prolonged_from_450_ms_in_men_and_460_ms_in_others(
    judge: Judge, gender: str, value: str, tier: str | None
) -> None:
    who = patient(gender=gender)
    assert tier_about(judge(who, lab("qtc", value), condition("twitching")), "qtc") == tier
    silent = judge(who, lab("qtc", value))
    assert tier_about(silent, "qtc") == (tier if tier == "emergency" else None)


def test_a_qtc_judged_without_knowing_the_sex_says_so(judge: Judge) -> None:
    for gender, said in (("unknown", True), ("other", True), ("male", False), ("female", False)):
        who = patient(gender=gender)
        text = card_text(judge(who, lab("qtc", 480), condition("twitching")))
        assert ("Sex is not recorded, so" in text) == said


@pytest.mark.parametrize(
    ("analyte", "low", "not_low"),
    [
        ("potassium", "3.4", "3.5"),
        ("magnesium", "0.69", "0.7"),
        ("calcium", "2.19", "2.2"),
        ("calcium-ionized", "1.09", "1.10"),
    ],
)
def test_a_prolonged_qtc_with_low_potassium_magnesium_or_calcium_is_urgent(
    judge: Judge, analyte: str, low: str, not_low: str
) -> None:
    for who, prolonged, not_prolonged in (
        (patient(), "460", "459.9"),
        (patient(gender="unknown"), "460", "459.9"),
        (patient(gender="male"), "450", "449.9"),
    ):
        assert judge(who, lab("qtc", prolonged), lab(analyte, low))["tier"] == "urgent"
        assert judge(who, lab("qtc", prolonged), lab(analyte, not_low))["tier"] is None
        assert judge(who, lab("qtc", not_prolonged), lab(analyte, low))["tier"] is None


@pytest.mark.parametrize(
    ("before", "now", "tier"),
    [("400", "460.1", "urgent"), ("400", "460", None), ("405", "461", None)],
)
def test_a_qtc_that_rose_by_more_than_60_ms_is_urgent(
    judge: Judge, before: str, now: str, tier: str | None
) -> None:
    earlier = lab("qtc", before, id="before", when=ago(days=3))
    assert tier_about(judge(earlier, lab("qtc", now)), "qtc") == tier


@pytest.mark.parametrize(
    ("before", "now", "hours", "tier"),
    [
        ("4.9", "5.5", 6, "urgent"),  # rise of 0.6
        ("4.99", "5.5", 12, "urgent"),  # the window's last moment
        ("5.0", "5.5", 6, None),  # rise of 0.5, not more
        ("4.7", "5.4", 6, None),  # not to 5.5
        ("4.9", "5.5", 13, None),  # too slow
    ],
)
def test_potassium_rising_fast_to_a_high_value_is_urgent(
    judge: Judge, before: str, now: str, hours: int, tier: str | None
) -> None:
    earlier = lab("potassium", before, id="before", when=ago(hours=24 + hours))
    assert tier_about(judge(earlier, lab("potassium", now)), "potassium") == tier


@pytest.mark.parametrize(
    ("before", "now", "hours", "tier"),
    [
        ("80", "106", 48, "urgent"),  # rise of 26 within 48 h
        ("80", "105.9", 48, None),
        ("80", "106", 49, None),
        ("80", "120", 168, "urgent"),  # 1.5 times within 7 d
        ("80", "119.9", 168, None),
        ("80", "120", 169, None),
    ],
)
def test_acute_kidney_injury_is_told_from_creatinine(
    judge: Judge, before: str, now: str, hours: int, tier: str | None
) -> None:
    earlier = lab("creatinine", before, id="before", when=ago(hours=1 + hours))
    later = lab("creatinine", now, when=ago(hours=1))
    assert tier_about(judge(earlier, later), "creatinine") == tier


def test_acute_kidney_injury_is_told_across_units(judge: Judge) -> None:
    earlier = lab("creatinine", "0.9", "mg/dL", code="2160-0", id="before", when=ago(days=3))
    later = lab("creatinine", "107", when=ago(days=2))
    assert tier_about(judge(earlier, later), "creatinine") == "urgent"


def test_kidney_injury_by_creatinine_raises_potassium_and_creatine_kinase(judge: Judge) -> None:
    creatinine = [
        lab("creatinine", 80, id="before", when=ago(days=2)),
        lab("creatinine", 130, when=ago(days=1)),
    ]
    assert tier_about(judge(lab("potassium", "5.5"), *creatinine), "potassium") == "urgent"
    assert tier_about(judge(lab("potassium", "5.4"), *creatinine), "potassium") is None
    kinase = judge(lab("creatine-kinase", 2000), *creatinine)
    assert tier_about(kinase, "creatine-kinase") == "emergency"
    kinase = judge(lab("creatine-kinase", 1999), *creatinine)
    assert tier_about(kinase, "creatine-kinase") is None


@pytest.mark.parametrize(("analyte", "value"), [("heart-rate", "38"), ("respiratory-rate", "6")])
def test_high_magnesium_with_slow_pulse_or_slow_breathing_is_an_emergency(
    judge: Judge, analyte: str, value: str
) -> None:
    vital = lab(analyte, value)
    assert tier_about(judge(lab("magnesium", "2.5"), vital), "magnesium") == "emergency"
    assert tier_about(judge(lab("magnesium", "2.4"), vital), "magnesium") == "urgent"
    normal = lab(analyte, {"heart-rate": 75, "respiratory-rate": 15}[analyte])
    assert tier_about(judge(lab("magnesium", "2.5"), normal), "magnesium") == "urgent"


@pytest.mark.parametrize(
    ("value", "limit", "tier"),
    [
        ("150", "150", None),
        ("150.1", "150", "routine"),
        ("599", "150", "routine"),
        ("600", "150", "soon"),
        ("1499", "150", "soon"),
        ("1500", "150", "urgent"),
        ("7500", "150", "urgent"),
        ("7501", "150", "emergency"),
        ("1500", "310", "soon"),
    ],
)
def test_creatine_kinase_is_judged_by_the_upper_limit_that_was_sent(
    judge: Judge, value: str, limit: str, tier: str | None
) -> None:
    sent = lab("creatine-kinase", value, high=limit)
    assert tier_about(judge(sent, condition("twitching")), "creatine-kinase") == tier


def test_an_assumed_upper_limit_of_creatine_kinase_is_said(judge: Judge) -> None:
    text = card_text(judge(lab("creatine-kinase", 2500))).casefold()
    assert "assum" in text
    assert "200" in text
    assert "assum" not in card_text(judge(lab("creatine-kinase", 2500, high=150))).casefold()


# ------------------------------------------------------------ comparators

COMPARATORS = [
    # analyte, comparator, value: tier without symptom, tier with twitching, is a rest unknown?
    ("potassium", "<", "2.5", "emergency", "emergency", False),
    ("potassium", "<=", "2.5", "urgent", "urgent", True),
    ("potassium", "<", "2.6", "urgent", "urgent", True),
    ("potassium", "<", "3.0", "urgent", "urgent", True),
    ("potassium", "<=", "3.0", None, "soon", True),
    ("potassium", "<", "3.5", None, "soon", True),
    ("potassium", "<", "3.6", None, None, True),
    ("potassium", ">", "2.4", None, None, True),
    ("potassium", ">", "6.5", "emergency", "emergency", False),
    ("potassium", ">=", "6.5", "emergency", "emergency", False),
    ("potassium", ">=", "6.0", "urgent", "urgent", True),
    ("potassium", ">", "5.9", None, "soon", True),
    ("calcium", ">", "3.5", "emergency", "emergency", False),
    ("calcium", ">=", "3.5", "urgent", "urgent", True),
    ("sodium", ">", "160", "emergency", "emergency", False),
    ("sodium", ">=", "160", "urgent", "urgent", True),
    ("creatine-kinase", ">", "10000", "emergency", "emergency", False),
    ("creatine-kinase", ">=", "10000", "urgent", "urgent", True),
    ("magnesium", ">", "3.3", "emergency", "emergency", False),
    ("tsh", "<", "0.01", None, "soon", False),
    ("tsh", "<", "0.1", None, "soon", False),
    ("tsh", "<=", "0.1", None, None, True),
    ("tsh", ">", "100", None, "routine", False),
    ("egfr", ">", "90", None, None, False),
    ("egfr", "<", "15", None, "routine", False),
    ("vitamin-d", "<", "10", None, "routine", False),
    ("vitamin-b12", ">", "1500", None, None, False),
]


@pytest.mark.parametrize(
    ("analyte", "comparator", "value", "alone", "twitching", "unknown"), COMPARATORS
)
def test_a_cell_holds_if_it_holds_for_every_value_that_the_comparator_allows(
    judge: Judge,
    analyte: str,
    comparator: str,
    value: str,
    alone: str | None,
    twitching: str | None,
    unknown: bool,
) -> None:
    sent = lab(analyte, value, comparator=comparator)
    assert tier_about(judge(sent), analyte) == alone
    assessment = judge(sent, condition("twitching"))
    assert tier_about(assessment, analyte) == twitching
    # A cell that holds for some of the values only is reported, not forgotten.
    assert ("comparator" in reasons(assessment)) == unknown


def test_a_card_shows_the_comparator(judge: Judge) -> None:
    findings = about(judge(lab("potassium", "2.5", comparator="<")), "potassium")
    assert findings[0]["because"][0]["sent"].startswith("<")


# ------------------------------------------------------------ the laboratory's own range and flags


@pytest.mark.parametrize(
    ("analyte", "value", "limits", "tier"),
    [
        # Outside the laboratory's range and inside ours: our first band.
        ("potassium", "3.6", {"low": "3.7"}, "soon"),
        ("potassium", "3.7", {"low": "3.7"}, None),
        ("potassium", "5.3", {"low": "3.5", "high": "5.1"}, "soon"),
        ("magnesium", "0.72", {"low": "0.75", "high": "1.05"}, "soon"),
        ("sodium", "136", {"low": "137", "high": "145"}, "routine"),
        ("sodium", "145", {"low": "135", "high": "144"}, "routine"),
        ("phosphate", "0.82", {"low": "0.87"}, "routine"),
        ("calcium", "2.65", {"low": "2.1", "high": "2.7"}, None),
        ("calcium", "2.58", {"low": "2.1", "high": "2.55"}, "soon"),
        # Called normal by the laboratory: the first band does not count.
        ("potassium", "3.4", {"low": "3.3", "high": "5.1"}, None),
        ("potassium", "5.6", {"low": "3.5", "high": "5.7"}, None),
        ("magnesium", "0.68", {"low": "0.65", "high": "1.05"}, None),
        ("sodium", "134", {"low": "133", "high": "146"}, None),
        ("phosphate", "0.75", {"low": "0.7"}, None),
        # ... but never an urgent or emergency cell.
        ("potassium", "2.9", {"low": "2.5", "high": "5.1"}, "urgent"),
        ("potassium", "2.4", {"low": "2.0", "high": "5.1"}, "emergency"),
        ("potassium", "6.1", {"low": "3.5", "high": "6.5"}, "urgent"),
        ("magnesium", "0.45", {"low": "0.4", "high": "1.05"}, "urgent"),
        ("sodium", "119", {"low": "110", "high": "146"}, "emergency"),
        ("calcium", "1.85", {"low": "1.8", "high": "2.6"}, "emergency"),
        # Calcium below the laboratory's limit, with twitching, is urgent.
        ("calcium", "2.15", {"low": "2.2", "high": "2.6"}, "urgent"),
        ("calcium", "2.25", {"low": "2.3", "high": "2.6"}, "urgent"),
        ("calcium", "2.15", {"low": "2.1", "high": "2.6"}, None),
    ],
)
def test_the_laboratorys_own_range_decides_the_first_band_only(
    judge: Judge, analyte: str, value: str, limits: dict[str, str], tier: str | None
) -> None:
    sent = lab(analyte, value, **limits)
    assert tier_about(judge(sent, condition("twitching")), analyte) == tier


# Rows with a first band. The laboratory's limit of creatine kinase is its unit of measure.
FIRST_BANDS = [
    pytest.param(analyte, side, cells[0], id=f"{analyte} {side}")
    for (analyte, side), cells in TABLE.items()
    if rank(cells[0].tier) < rank("urgent") and analyte != "creatine-kinase"
]


@pytest.mark.parametrize(("analyte", "side", "first"), FIRST_BANDS)
def test_a_value_outside_the_laboratorys_range_and_inside_ours_is_in_the_first_band(
    judge: Judge, analyte: str, side: str, first: Cell
) -> None:
    inside = just_inside(analyte, first)
    away = Decimal(STEPS[analyte][0]) * (2 if side == "low" else -2)
    value, limit = inside + away, inside + 2 * away
    sent = lab(analyte, value, **{side: limit})
    got = tier_about(judge(sent, condition("twitching")), analyte)
    # Calcium below the laboratory's limit, with twitching, is in the second.
    assert got == ("urgent" if (analyte, side) == ("calcium", "low") else first.tier)
    assert tier_about(judge(sent), analyte) is None


@pytest.mark.parametrize(("analyte", "side", "first"), FIRST_BANDS)
def test_a_laboratorys_normal_lowers_the_first_band_and_no_other(
    judge: Judge, analyte: str, side: str, first: Cell
) -> None:
    others = [cell for cell in row_cells(analyte) if cell != first]
    for cell in TABLE[analyte, side]:
        value = just_inside(analyte, cell)
        called_normal = lab(analyte, value, **{side: value})
        got = tier_about(judge(called_normal, condition("twitching")), analyte)
        assert got == expected(others, value, ["twitching"])


@pytest.mark.parametrize(("analyte", "side"), ROWS)
def test_a_critical_flag_makes_any_value_beyond_a_first_bound_urgent(
    judge: Judge, analyte: str, side: str
) -> None:
    value = just_inside(analyte, TABLE[analyte, side][0])
    flagged = lab(analyte, value, flag="LL" if side == "low" else "HH")
    assert tier_about(judge(flagged), analyte) == "urgent"
    old = flagged | {"effectiveDateTime": ago(days=30)}
    assert tier_about(judge(old), analyte) == "soon"


def test_without_a_symptom_the_laboratorys_range_makes_no_finding(judge: Judge) -> None:
    assert judge(lab("potassium", "3.6", low="3.7"))["tier"] is None
    assert judge(lab("calcium", "2.15", low="2.2"))["tier"] is None


def test_the_laboratorys_range_is_shown_where_it_differs(judge: Judge) -> None:
    text = card_text(judge(lab("potassium", "2.9", low="3.7", high="5.2")))
    assert "3.7" in text
    assert "5.2" in text


@pytest.mark.parametrize(
    ("analyte", "value", "flag", "alone", "twitching"),
    [
        ("potassium", "3.4", "LL", "urgent", "urgent"),
        ("potassium", "3.7", "LL", "urgent", "urgent"),
        ("potassium", "2.4", "LL", "emergency", "emergency"),
        ("potassium", "5.6", "HH", "urgent", "urgent"),
        ("magnesium", "0.65", "LL", "urgent", "urgent"),
        ("calcium", "2.15", "LL", "urgent", "urgent"),
        ("calcium", "2.7", "HH", "urgent", "urgent"),
        ("calcium-ionized", "1.05", "LL", "urgent", "urgent"),
        ("sodium", "132", "LL", "urgent", "urgent"),
        ("sodium", "147", "HH", "urgent", "urgent"),
        ("phosphate", "0.65", "LL", "urgent", "urgent"),
        ("glucose", "3.5", "LL", "urgent", "urgent"),
        ("creatine-kinase", "700", "HH", "urgent", "urgent"),
        # The analyte has no urgent cell; the laboratory's word still counts.
        ("bicarbonate", "17", "LL", "urgent", "urgent"),
        ("bicarbonate", "31", "HH", "urgent", "urgent"),
        # Flagged on the other side: nothing of this side.
        ("potassium", "4.0", "N", None, None),
        ("potassium", "3.6", "L", None, "soon"),
        ("potassium", "5.3", "H", None, "soon"),
        ("potassium", "3.4", "N", None, None),
        ("potassium", "2.9", "N", "urgent", "urgent"),
    ],
)
def test_a_critical_flag_counts_as_at_least_urgent(
    judge: Judge, analyte: str, value: str, flag: str, alone: str | None, twitching: str | None
) -> None:
    sent = lab(analyte, value, flag=flag)
    assert tier_about(judge(sent), analyte) == alone
    assert tier_about(judge(sent, condition("twitching")), analyte) == twitching


# ------------------------------------------------------------ shape of what is found


@pytest.mark.parametrize(("analyte", "side"), ROWS)
def test_a_finding_names_its_evidence(judge: Judge, analyte: str, side: str) -> None:
    worst = PLAUSIBLE[analyte][0 if side == "low" else 1]
    findings = about(judge(lab(analyte, worst), condition("twitching")), analyte)
    assert findings
    for finding in findings:
        entry = next(b for b in finding["because"] if b.get("resource") == f"Observation/{analyte}")
        assert entry["sent"]
        assert entry["effective"] == ago(days=1)
        assert finding["rules"]
        assert "aemia" not in f"{finding['id']} {finding['title']}"


def test_findings_of_one_analyte_are_not_repeated_band_by_band(judge: Judge) -> None:
    assessment = judge(lab("potassium", "2.2"), condition("twitching"))
    assert len(about(assessment, "potassium")) == 1
    assert all(f["reason"] for f in assessment["suppressed"])


def test_emergency_values_are_marked_as_the_emergency_electrolyte_flag(judge: Judge) -> None:
    for resource in (
        lab("potassium", "2.4"),
        lab("potassium", "6.5"),
        lab("magnesium", "0.39"),
        lab("calcium", "1.89"),
        lab("sodium", 119),
        lab("phosphate", "0.29"),
        lab("qtc", 501),
    ):
        assert any("RF27" in f["covers"] for f in judge(resource)["findings"])
    # Magnesium from 0.4 to 0.49 is urgent and no emergency.
    assert not any("RF27" in f["covers"] for f in judge(lab("magnesium", "0.45"))["findings"])
