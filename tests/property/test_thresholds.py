"""For all values: the tier is the table's, in every unit, and worse is never less urgent."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from builders import AS_OF, Json, bundle, condition, lab, patient, rank, tier_about
from cds import Screener
from clinical_table import ANALYTES, PLAUSIBLE, TABLE, expected, row_cells
from strategies import (
    PATIENTS,
    examples,
    measured,
    numbered,
    results,
    signs,
    values,
)

# Signs of which the table names some; the rest unlock or do nothing.
_SIGNS = st.lists(
    st.sampled_from(
        [
            "twitching",
            "cramp",
            "weakness",
            "tetany",
            "seizure",
            "palpitations",
            "confusion",
            "dark-urine",
            "acute-kidney-injury",
            "eating-disorder",
            "headache",
        ]
    ),
    max_size=2,
    unique=True,
)


def screen(screener: Screener, *resources: Json) -> Json:
    return screener.screen(bundle(*resources), AS_OF).to_dict()


@examples(8)
@given(data=st.data(), analyte=st.sampled_from(ANALYTES), present=_SIGNS)
def test_any_value_in_any_unit_has_the_tier_of_the_table(
    screener: Screener, data: st.DataObject, analyte: str, present: list[str]
) -> None:
    sent, unit, exact = data.draw(measured(analyte))
    assessment = screen(
        screener, patient(), lab(analyte, sent, unit), *(condition(s) for s in present)
    )
    assert tier_about(assessment, analyte) == expected(row_cells(analyte), exact, present)


_USUAL = {  # in the middle of what is normal, in the analyte's usual unit
    "potassium": "4.2",
    "magnesium": "0.9",
    "calcium": "2.4",
    "calcium-ionized": "1.2",
    "sodium": "140",
    "phosphate": "1.1",
    "qtc": "400",
    "creatine-kinase": "100",
    "glucose": "5",
    "bicarbonate": "25",
    "tsh": "2",
    "vitamin-d": "100",
    "vitamin-b12": "600",
    "ferritin": "100",
    "egfr": "95",
}


@examples(4)
@given(
    data=st.data(),
    row=st.sampled_from(sorted(TABLE)),
    who=PATIENTS,
    oddities=results(),
    others=st.lists(st.one_of(results(), signs()), max_size=4),
)
def test_a_worse_value_is_never_less_urgent(
    screener: Screener,
    data: st.DataObject,
    row: tuple[str, str],
    who: Json,
    oddities: Json,
    others: list[Json],
) -> None:
    analyte, side = row
    low, high = PLAUSIBLE[analyte]
    within = (low, _USUAL[analyte]) if side == "low" else (_USUAL[analyte], high)
    pair = sorted(
        (data.draw(values(analyte, within=within)) for _ in range(2)), reverse=side == "low"
    )
    rest = numbered([r for r in others if r["code"] != lab(analyte, 1)["code"]])
    # Whatever is odd about the result (time, flag, status) is so for both values.
    odd = {
        k: oddities[k] for k in ("effectiveDateTime", "interpretation", "status") if k in oddities
    }
    # "Below the least that is possible" would be a data error, so never at a limit.
    inside = all(Decimal(low) < value < Decimal(high) for value in pair)
    comparator = oddities["valueQuantity"].get("comparator") if inside else None
    tiers = []
    for value in pair:
        result = lab(analyte, value, comparator=_outward(side, comparator)) | odd
        assessment = screen(screener, who, *rest, result)
        tiers.append((rank(assessment["tier"]), rank(tier_about(assessment, analyte))))
    milder, worse = tiers
    assert worse[0] >= milder[0]
    assert worse[1] >= milder[1]


def _outward(side: str, comparator: str | None) -> str | None:
    """The comparator if it opens to the worse side; else none, so that "worse" has a meaning."""
    return comparator if comparator and (comparator[0] == "<") == (side == "low") else None


@examples(2)
@given(
    analyte=st.sampled_from(["potassium", "magnesium", "calcium", "sodium"]),
    places=st.integers(1, 4),
    symptomatic=st.booleans(),
    data=st.data(),
)
def test_the_last_place_before_a_bound_is_on_the_other_side_of_it(
    screener: Screener, analyte: str, places: int, symptomatic: bool, data: st.DataObject
) -> None:
    present = ["twitching"] if symptomatic else []
    cell = data.draw(st.sampled_from([c for c in row_cells(analyte) if not c.signs]))
    step = Decimal(1).scaleb(-places)
    bound = Decimal(cell.bound.lstrip("<>="))
    inside = bound if "=" in cell.bound else bound - step if "<" in cell.bound else bound + step
    outside = inside + step if "<" in cell.bound else inside - step
    tiers = [
        tier_about(
            screen(screener, patient(), lab(analyte, value), *(condition(s) for s in present)),
            analyte,
        )
        for value in (outside, inside)
    ]
    assert tiers == [expected(row_cells(analyte), v, present) for v in (outside, inside)]
    assert rank(tiers[1]) >= rank(tiers[0])
