"""The clinical ground rules: who gets a finding, how old a result may be, and what is doubtful."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from builders import (
    LOINC,
    SNOMED,
    UCUM,
    Json,
    about,
    ago,
    card_text,
    condition,
    lab,
    patient,
    problem_codes,
    quantity,
    rank,
    reasons,
    specimen,
    symptom,
    tier_about,
)

Judge = Callable[..., Json]

CHILD = patient(birth="2016-05-01")
TWITCHING = condition("twitching")
KNOWN = (lab("potassium", "4.1"), lab("magnesium", "0.85"), lab("calcium", "2.35"))


def says(text: str, *patterns: str) -> bool:
    """Whether a text matches one of the patterns, whatever the case."""
    return any(re.search(p, text, re.IGNORECASE | re.DOTALL) for p in patterns)


# ------------------------------------------------------------ 1. adults only


@pytest.mark.parametrize("value", ["2.2", "2.9", "6.0", "7.5"])
def test_a_child_with_an_urgent_adult_value_gets_one_urgent_finding(
    judge: Judge, value: str
) -> None:
    assessment = judge(CHILD, lab("potassium", value), TWITCHING)
    assert assessment["tier"] == "urgent"
    (finding,) = (f for f in assessment["findings"] if f["tier"] == "urgent")
    assert says(finding["title"], "pediatric advice")
    assert [f["id"] for f in about(assessment, "potassium")] == [finding["id"]]
    assert "population" in reasons(assessment)


@pytest.mark.parametrize("value", ["3.2", "5.7"])
def test_a_child_in_an_adult_soon_band_gets_none_and_the_reason_is_said(
    judge: Judge, value: str
) -> None:
    assessment = judge(CHILD, lab("potassium", value), TWITCHING)
    assert rank(assessment["tier"]) < rank("soon")
    assert about(assessment, "potassium") == []
    assert "population" in reasons(assessment)


def test_a_child_with_several_severe_values_still_gets_one_finding(judge: Judge) -> None:
    labs = [lab("potassium", "2.2"), lab("sodium", 115), lab("magnesium", "0.3")]
    assessment = judge(CHILD, *labs)
    assert [f["tier"] for f in assessment["findings"]] == ["urgent"]
    seen = {b["concept"] for b in assessment["findings"][0]["because"] if b["kind"] == "lab"}
    assert seen == {"potassium", "sodium", "magnesium"}


@pytest.mark.parametrize(
    ("birth", "adult"),
    [
        ("2008-11-01", True),  # the eighteenth birthday
        ("2008-11-02", False),
        ("2008-10-31", True),
        ("1936", True),
        ("2012", False),
    ],
)
def test_adult_limits_begin_at_eighteen(judge: Judge, birth: str, adult: bool) -> None:
    assessment = judge(patient(birth=birth), lab("potassium", "2.2"))
    assert assessment["tier"] == ("emergency" if adult else "urgent")


@pytest.mark.parametrize("value", ["0.35", "0.45"])
def test_an_unknown_age_counts_as_adult_and_is_said(judge: Judge, value: str) -> None:
    assessment = judge(patient(birth=None), lab("magnesium", value))
    assert assessment["tier"] == judge(lab("magnesium", value))["tier"]
    assert says(card_text(assessment), r"\bage\b[^.]*(unknown|not known|not recorded|missing)")
    assert not says(card_text(judge(lab("magnesium", value))), r"\bage\b[^.]*unknown")


# ------------------------------------------------------------ 2. who gets a finding: calcium


def calcium(total: object, albumin: object = None, egfr: object = None, **more: Any) -> list[Json]:
    resources = [lab("calcium-total", total, **more)]
    if albumin is not None:
        resources.append(lab("albumin", albumin))
    return resources + ([] if egfr is None else [lab("egfr", egfr)])


@pytest.mark.parametrize(
    ("total", "albumin", "egfr", "tier"),
    [
        ("2.0", "25", None, None),  # adjusted 2.30
        ("2.2", "45", None, "soon"),  # adjusted 2.10
        ("2.19", "45", None, "urgent"),  # adjusted 2.09
        ("1.99", "45", None, "emergency"),  # adjusted 1.89
        ("2.0", "45", None, "urgent"),  # adjusted 1.90, which is not below 1.9
        ("2.5", "30", None, "soon"),  # adjusted 2.70
        ("2.4", "30", None, None),  # adjusted 2.60
        ("3.0", "40", None, "urgent"),  # adjusted 3.00
        ("1.8", "20", None, None),  # albumin just usable: adjusted 2.20
        ("1.8", "19.9", None, "emergency"),  # too low to adjust: 1.80 as it is
        ("2.35", "50", None, "soon"),  # albumin just usable: adjusted 2.15
        ("2.35", "50.1", None, None),  # too high to adjust: 2.35 as it is
        ("1.8", "20", "60", None),  # kidney function just good enough to adjust
        ("1.8", "20", "59.9", "emergency"),  # not good enough: 1.80 as it is
        ("2.35", "50", "30", None),
        ("2.15", None, None, "soon"),
        ("2.05", None, None, "urgent"),
        ("1.89", None, None, "emergency"),
    ],
)
def test_total_calcium_is_adjusted_for_albumin_where_that_is_reliable(
    judge: Judge, total: str, albumin: str | None, egfr: str | None, tier: str | None
) -> None:
    assert tier_about(judge(*calcium(total, albumin, egfr), TWITCHING), "calcium") == tier


@pytest.mark.parametrize(
    ("albumin", "egfr"), [(None, None), ("15", None), ("55", None), ("40", "40")]
)
def test_an_unadjusted_calcium_is_labeled_and_ionized_calcium_recommended(
    judge: Judge, albumin: str | None, egfr: str | None
) -> None:
    text = card_text(judge(*calcium("1.8", albumin, egfr)))
    assert says(text, "unadjusted|not adjusted")
    assert says(text, "ionized calcium")


def test_an_adjusted_calcium_of_ours_is_labeled_as_calculated(judge: Judge) -> None:
    text = card_text(judge(*calcium("1.7", "40")))
    assert says(text, "calculat")
    assert not says(text, "unadjusted")


def test_albumin_in_other_units_adjusts_alike(judge: Judge) -> None:
    grams_per_deciliter = lab("albumin", "2.5", "g/dL")
    total = lab("calcium-total", "8.0", "mg/dL", code="17861-6")  # 1.996; adjusted 2.296
    assert judge(total, grams_per_deciliter)["tier"] is None
    assert tier_about(judge(total, grams_per_deciliter, TWITCHING), "calcium") is None
    assert tier_about(judge(total, TWITCHING), "calcium") == "urgent"


def test_albumin_of_another_draw_does_not_adjust(judge: Judge) -> None:
    total = lab("calcium-total", "1.8", when=ago(days=1))
    near = lab("albumin", 20, when=ago(days=2))  # 24 hours: the same draw
    far = lab("albumin", 20, when=ago(days=2, seconds=1))
    assert tier_about(judge(total, near), "calcium") is None
    assert tier_about(judge(total, far), "calcium") == "emergency"
    same = {"specimen": {"reference": "Specimen/s1"}}
    assert tier_about(judge(total | same, far | same, specimen("s1")), "calcium") is None


def test_albumin_sent_in_the_wrong_unit_does_not_hide_a_low_calcium(judge: Judge) -> None:
    # 4.5 g/dL labeled g/L would add 0.7 mmol/L; 5.5 g/L is possible, and too low to adjust with.
    for value in ("4.5", "5.5"):
        assessment = judge(*calcium("2.0", value), TWITCHING)
        assert tier_about(assessment, "calcium") == "urgent"
        assert problem_codes(assessment, "Observation/albumin")


def test_an_outdated_kidney_function_does_not_forbid_adjusting(judge: Judge) -> None:
    resources = calcium("1.8", "20")  # adjusted 2.20
    outdated = lab("egfr", 40, when=ago(days=366))
    assert tier_about(judge(*resources, outdated), "calcium") is None
    assert tier_about(judge(*resources, lab("egfr", 40, when=ago(days=365))), "calcium") == (
        "emergency"
    )


def test_the_adjusted_value_of_the_laboratory_wins_and_is_not_adjusted_again(
    judge: Judge,
) -> None:
    # Adjusting 1.8 would give 2.0, adjusting 2.3 again would give 2.5.
    resources = [lab("calcium", "2.3"), lab("calcium-total", "1.8"), lab("albumin", 30)]
    assert judge(*resources)["tier"] is None
    assert tier_about(judge(*resources, TWITCHING), "calcium") is None
    resources = [lab("calcium", "1.85"), lab("calcium-total", "2.3"), lab("albumin", 40)]
    assert tier_about(judge(*resources), "calcium") == "emergency"


def test_ionized_calcium_has_its_own_bands_beside_total_calcium(judge: Judge) -> None:
    assessment = judge(lab("calcium-ionized", "0.85"), lab("calcium", "2.3"))
    assert tier_about(assessment, "calcium-ionized") == "emergency"
    assert assessment["tier"] == "emergency"


# ------------------------------------------------------------ 2. who gets a finding: signs


@pytest.mark.parametrize(
    ("analyte", "value", "sign", "recent", "old"),
    [
        ("potassium", "2.8", "weakness", "emergency", "urgent"),
        ("potassium", "5.6", "weakness", "emergency", "soon"),
        ("sodium", "127", "confusion", "emergency", None),
    ],
)
def test_only_a_new_sign_raises_the_tier_where_the_table_says_new(
    judge: Judge, analyte: str, value: str, sign: str, recent: str, old: str | None
) -> None:
    new = condition(sign, onset=ago(days=3))
    long_known = condition(sign, onset=ago(days=700))
    assert tier_about(judge(lab(analyte, value), new), analyte) == recent
    assert tier_about(judge(lab(analyte, value), long_known), analyte) == old


def test_a_sign_that_nobody_dated_counts_as_new(judge: Judge) -> None:
    # The cautious reading: nothing says that it is old.
    undated = condition("weakness", onset=None)
    assert tier_about(judge(lab("potassium", "2.8"), undated), "potassium") == "emergency"


# ------------------------------------------------------------ 3. isolated twitching


@pytest.mark.parametrize(
    "resources",
    [
        [],
        [*KNOWN],
        [lab("potassium", "3.2"), lab("magnesium", "0.85"), lab("calcium", "2.35")],
        [*KNOWN, condition("cramp"), condition("tremor")],
    ],
)
def test_isolated_twitching_is_never_referred(judge: Judge, resources: list[Json]) -> None:
    assessment = judge(TWITCHING, *resources)
    assert [f for f in assessment["findings"] if f["group"] == "neurological-referral"] == []
    suggested = str([c.get("suggestions") for c in assessment["cards"]])
    assert not says(suggested, "neurolog", "308474002")
    assert rank(assessment["tier"]) <= rank("soon")


@pytest.mark.parametrize("missing", ["potassium", "magnesium", "calcium"])
def test_twitching_without_potassium_magnesium_or_calcium_asks_for_them(
    judge: Judge, missing: str
) -> None:
    assessment = judge(TWITCHING, *(r for r in KNOWN if r["id"] != missing))
    assert assessment["tier"] == "routine"
    assert says(card_text(assessment), missing)
    nothing = judge(TWITCHING)
    assert nothing["tier"] == "routine"
    assert says(card_text(nothing), "magnesium")


def test_with_potassium_magnesium_and_calcium_known_missing_tests_are_info(judge: Judge) -> None:
    assert judge(TWITCHING, *KNOWN)["tier"] in (None, "info")


def test_a_test_within_its_window_is_not_missing_and_a_stale_one_is(judge: Judge) -> None:
    potassium, magnesium, calcium = ({**r, "effectiveDateTime": ago(days=90)} for r in KNOWN)
    assert judge(TWITCHING, potassium, magnesium, calcium)["tier"] in (None, "info")
    stale = {**magnesium, "effectiveDateTime": ago(days=90, seconds=1)}
    assert judge(TWITCHING, potassium, stale, calcium)["tier"] == "routine"


def test_nobody_without_a_symptom_is_asked_for_tests(judge: Judge) -> None:
    assert judge(condition("headache"))["tier"] is None
    assert judge()["tier"] is None


# ------------------------------------------------------------ 5. doubtful values


@pytest.mark.parametrize(
    ("analyte", "value"),
    [
        ("potassium", "0.49"),
        ("potassium", "15.1"),
        ("potassium", "45"),
        ("magnesium", "0.09"),
        ("magnesium", "12.1"),
        ("calcium-total", "6.1"),
        ("calcium-total", "0.49"),
        ("calcium-ionized", "4.1"),
        ("sodium", "79.9"),
        ("sodium", "221"),
        ("phosphate", "0.04"),
        ("glucose", "0.09"),
        ("qtc", "801"),
        ("qtc", "199"),
        ("creatine-kinase", "0.9"),
    ],
)
def test_an_impossible_value_is_neither_used_nor_dropped(
    judge: Judge, analyte: str, value: str
) -> None:
    assessment = judge(lab(analyte, value), TWITCHING)
    assert rank(assessment["tier"]) <= rank("routine")
    assert problem_codes(assessment, f"Observation/{analyte}")
    assert "implausible" in reasons(assessment)
    # Somebody is told, and the value is not divided by ten in silence.
    alone = judge(lab(analyte, value))
    assert alone["tier"] in ("info", "routine")
    assert analyte.split("-")[0] in card_text(alone).casefold() or alone["cards"]


@pytest.mark.parametrize(
    ("analyte", "value"),
    [
        ("potassium", "0.5"),
        ("potassium", "15"),
        ("magnesium", "0.1"),
        ("magnesium", "12"),
        ("calcium-total", "0.5"),
        ("calcium-total", "6.0"),
        ("calcium-ionized", "0.2"),
        ("sodium", "80"),
        ("sodium", "220"),
        ("phosphate", "0.05"),
        ("glucose", "0.1"),
        ("qtc", "800"),
        ("creatine-kinase", "1000000"),
    ],
)
def test_the_most_extreme_possible_value_is_an_emergency(
    judge: Judge, analyte: str, value: str
) -> None:
    assert judge(lab(analyte, value))["tier"] == "emergency"


def test_an_impossible_newer_value_does_not_hide_an_older_severe_one(judge: Judge) -> None:
    older = lab("potassium", "2.2", when=ago(days=2))
    slip = lab("potassium", "45", id="slip", when=ago(days=1))
    assert tier_about(judge(older, slip), "potassium") == "emergency"


@pytest.mark.parametrize(
    ("analyte", "value", "unit", "tier"),
    [
        ("magnesium", "2.0", "mmol/L", "urgent"),  # a normal value in mg/dL
        ("magnesium", "0.8", "mg/dL", "emergency"),  # a normal value in mmol/L
        ("calcium-total", "2.4", "mg/dL", "emergency"),  # a normal value in mmol/L
        ("calcium-total", "1.2", "mmol/L", "emergency"),  # probably ionized calcium
        ("calcium-ionized", "2.3", "mmol/L", None),  # probably total calcium
    ],
)
def test_a_likely_slip_is_judged_as_sent_with_the_doubt_on_the_card(
    judge: Judge, analyte: str, value: str, unit: str, tier: str | None
) -> None:
    assessment = judge(lab(analyte, value, unit))
    concept = "calcium" if analyte == "calcium-total" else analyte
    assert tier_about(assessment, concept) == tier
    assert problem_codes(assessment, f"Observation/{analyte}") & {"unit-slip", "analyte-slip"}
    if tier:
        assert says(card_text(assessment), r"\bunit\b", "ionized")


HEMOLYSIS = [
    pytest.param({"specimen": {"reference": "Specimen/s1"}}, id="specimen condition"),
    pytest.param({"note": [{"text": "Sample grossly hemolysed, please repeat"}]}, id="note"),
    pytest.param({"note": [{"text": "Hemolyzed specimen"}]}, id="note, American"),
    pytest.param({"note": [{"text": "Marked haemolysis."}]}, id="note, British"),
    pytest.param({"interpretation": [{"text": "Hemolyzed"}]}, id="interpretation"),
]


@pytest.mark.parametrize("mark", HEMOLYSIS)
@pytest.mark.parametrize(("value", "tier"), [("6.8", "emergency"), ("6.2", "urgent")])
def test_a_severe_value_of_a_hemolyzed_specimen_is_shown_with_the_caveat(
    judge: Judge, mark: Json, value: str, tier: str
) -> None:
    assessment = judge(lab("potassium", value) | mark, specimen("s1", "HEM"))
    assert tier_about(assessment, "potassium") == tier
    assert says(card_text(assessment), "h[a]?emoly")


def test_a_specimen_that_is_not_hemolyzed_raises_no_doubt(judge: Judge) -> None:
    for mark in ({"note": [{"text": "Not hemolyzed"}]}, {"note": [{"text": "No haemolysis"}]}):
        assert not says(card_text(judge(lab("potassium", "6.8") | mark)), r"hemoly[sz]ed specimen")
    clear = lab("potassium", "6.8", specimen={"reference": "Specimen/s1"})
    plain = card_text(judge(lab("potassium", "6.8")))
    assert card_text(judge(clear, specimen("s1", "CLOT"))) == plain


def test_potassium_high_with_calcium_low_warns_of_edta_and_hides_nothing(judge: Judge) -> None:
    assessment = judge(lab("potassium", "7.0"), lab("calcium", "1.6"))
    assert tier_about(assessment, "potassium") == "emergency"
    assert tier_about(assessment, "calcium") == "emergency"
    assert says(card_text(assessment), "EDTA")
    assert not says(card_text(judge(lab("potassium", "7.0"), lab("calcium", "2.3"))), "EDTA")


# ------------------------------------------------------------ 6. recency

SEVERE, MILD, NORMAL_POTASSIUM = "2.2", "3.2", "4.0"


@pytest.mark.parametrize(
    ("age", "fresh"),
    [
        ({"hours": 1}, True),
        ({"days": 7}, True),
        ({"days": 7, "seconds": 1}, False),
        ({"days": 8}, False),
        ({"days": 90}, False),
    ],
)
@pytest.mark.parametrize(
    ("value", "tier", "later"),
    [
        (SEVERE, "emergency", "soon"),
        ("2.9", "urgent", "soon"),
        (MILD, "soon", "routine"),
        ("6.5", "emergency", "soon"),
        ("5.5", "soon", "routine"),
    ],
)
def test_after_seven_days_a_result_is_only_a_reason_to_recheck(
    judge: Judge, age: dict[str, int], fresh: bool, value: str, tier: str, later: str
) -> None:
    assessment = judge(lab("potassium", value, when=ago(**age)), TWITCHING)
    assert tier_about(assessment, "potassium") == (tier if fresh else later)
    for finding in about(assessment, "potassium"):
        assert finding["id"].endswith("-recheck") != fresh


def test_an_older_severe_result_needs_no_symptom_and_an_older_mild_one_does(judge: Judge) -> None:
    assert judge(lab("potassium", "2.9", when=ago(days=30)))["tier"] == "soon"
    assert judge(lab("potassium", MILD, when=ago(days=30)))["tier"] is None
    # Below 2.1 mmol/L calcium is urgent only with twitching.
    low = lab("calcium", "2.05", when=ago(days=30))
    assert judge(low)["tier"] is None
    assert tier_about(judge(low, TWITCHING), "calcium") == "soon"
    assert tier_about(judge(low, condition("cramp")), "calcium") == "routine"


@pytest.mark.parametrize(
    "resources",
    [
        pytest.param(
            [
                lab("creatinine", 80, id="before", when=ago(days=21)),
                lab("creatinine", 130, when=ago(days=20)),
            ],
            id="kidney injury by creatinine",
        ),
        pytest.param(
            [
                lab("potassium", "4.6", id="before", when=ago(days=20, hours=6)),
                lab("potassium", "5.6", when=ago(days=20)),
            ],
            id="potassium rising",
        ),
        pytest.param(
            [lab("qtc", 470, when=ago(days=20)), lab("potassium", "3.2", when=ago(days=20))],
            id="prolonged QTc with low potassium",
        ),
    ],
)
def test_an_older_urgent_finding_of_two_results_is_rechecked_too(
    judge: Judge, resources: list[Json]
) -> None:
    recent = [{**r, "effectiveDateTime": _later(r["effectiveDateTime"])} for r in resources]
    assert judge(*recent)["tier"] == "urgent"
    assessment = judge(*resources)
    assert assessment["tier"] == "soon"
    assert [f["id"].endswith("-recheck") for f in assessment["findings"]] == [True]


def _later(when: str) -> str:
    """The same time of day nineteen days later."""
    moved = datetime.fromisoformat(when) + timedelta(days=19)
    return moved.strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize(
    ("analyte", "value", "days"),
    [
        ("potassium", SEVERE, 90),
        ("sodium", "118", 90),
        ("phosphate", "0.25", 90),
        ("tsh", "12", 365),
        ("egfr", "20", 365),
        ("vitamin-d", "20", 365),
        ("vitamin-b12", "100", 365),
    ],
)
def test_a_result_older_than_its_window_is_stale(
    judge: Judge, analyte: str, value: str, days: int
) -> None:
    last = judge(lab(analyte, value, when=ago(days=days)), TWITCHING)
    severe = days == 90
    assert tier_about(last, analyte) == ("soon" if severe else "routine")
    stale = judge(lab(analyte, value, when=ago(days=days, seconds=1)), TWITCHING)
    assert tier_about(stale, analyte) is None
    assert "stale" in reasons(stale)
    assert any(
        n["reason"] == "stale" and n["resource"] == f"Observation/{analyte}"
        for n in stale["not_evaluated"]
    )


@pytest.mark.parametrize("later", [{"seconds": -1}, {"days": -3}, {"days": -4000}])
def test_a_result_after_the_instant_of_judgment_is_not_used(
    judge: Judge, later: dict[str, int]
) -> None:
    assessment = judge(lab("potassium", SEVERE, when=ago(**later)))
    assert assessment["tier"] is None
    assert "future" in reasons(assessment)
    assert problem_codes(assessment, "Observation/potassium")


def test_a_result_of_the_very_instant_of_judgment_is_used(judge: Judge) -> None:
    assert judge(lab("potassium", SEVERE, when=ago()))["tier"] == "emergency"


@pytest.mark.parametrize(
    ("when", "tier"),
    [
        ("2026-11-01", "emergency"),  # today
        ("2026-10-26", "emergency"),  # begins six days and a half ago
        ("2026-10-25", "soon"),  # begins seven days and a half ago
        ("2026-10", "soon"),  # begins a month ago
        ("2026-11", "emergency"),  # this month: begins today
        ("2026", None),  # begins in January
        ("2026-11-05", None),
    ],
)
def test_an_imprecise_date_counts_as_its_earliest_instant(
    judge: Judge, when: str, tier: str | None
) -> None:
    assert tier_about(judge(lab("potassium", SEVERE, when=when)), "potassium") == tier


@pytest.mark.parametrize(
    ("day_only", "timed", "tier"), [(SEVERE, "4.0", "emergency"), ("4.0", SEVERE, "emergency")]
)
@pytest.mark.parametrize("hour", ["01", "12", "23"])
def test_where_an_imprecise_date_overlaps_another_result_the_more_severe_value_counts(
    judge: Judge, day_only: str, timed: str, tier: str, hour: str
) -> None:
    assessment = judge(
        lab("potassium", day_only, id="day", when="2026-10-31"),
        lab("potassium", timed, id="timed", when=f"2026-10-31T{hour}:00:00Z"),
    )
    assert tier_about(assessment, "potassium") == tier


def test_two_results_of_the_same_instant_overlap(judge: Judge) -> None:
    pair = [lab("potassium", SEVERE, id="a"), lab("potassium", "4.0", id="b")]
    assert tier_about(judge(*pair), "potassium") == "emergency"
    pair = [lab("potassium", "4.0", id="a"), lab("potassium", "7.0", id="b")]
    assert tier_about(judge(*pair), "potassium") == "emergency"


def test_the_time_zone_in_which_a_time_is_written_does_not_matter(judge: Judge) -> None:
    # Seven days before, to the second, and one second more.
    for when, tier in (
        ("2026-10-25T17:30:00+05:30", "emergency"),
        ("2026-10-25T07:00:00-05:00", "emergency"),
        ("2026-10-25T17:29:59+05:30", "soon"),
        ("2026-10-25T06:59:59-05:00", "soon"),
    ):
        assert judge(lab("potassium", SEVERE, when=when))["tier"] == tier
    resource = lab("potassium", SEVERE)
    assert judge(resource, as_of="2026-11-01T13:00:00+01:00") == judge(resource)


def test_the_newest_result_counts(judge: Judge) -> None:
    older = lab("potassium", SEVERE, id="older", when=ago(days=2))
    newer = lab("potassium", "4.0", id="newer", when=ago(days=1))
    assert judge(older, newer)["tier"] is None
    assert judge(older, newer | {"effectiveDateTime": ago(days=3)})["tier"] == "emergency"
    # The date alone, of a day later, is later.
    assert judge(older, newer | {"effectiveDateTime": "2026-10-31"})["tier"] is None


def test_an_old_normal_result_does_not_hide_a_newer_severe_one_of_another_code(
    judge: Judge,
) -> None:
    serum = lab("potassium", "4.0", id="serum", when=ago(days=2))
    blood = lab("potassium", SEVERE, id="blood", code="6298-4", when=ago(days=1))
    assert judge(serum, blood)["tier"] == "emergency"


@pytest.mark.parametrize(
    ("clinical", "verification", "counts"),
    [
        ("active", "confirmed", True),
        ("recurrence", "confirmed", True),
        ("relapse", "confirmed", True),
        (None, "confirmed", True),
        (None, None, True),
        ("inactive", "confirmed", False),
        ("remission", "confirmed", False),
        ("resolved", "confirmed", False),
        ("active", "refuted", False),
        (None, "entered-in-error", False),
    ],
)
@pytest.mark.parametrize("onset", [ago(days=3), "1999", None])
def test_a_coded_condition_counts_by_its_status_whatever_its_onset(
    judge: Judge, clinical: str | None, verification: str | None, counts: bool, onset: str | None
) -> None:
    coded = condition("twitching", clinical=clinical, verification=verification, onset=onset)
    tier = tier_about(judge(lab("potassium", MILD), coded), "potassium")
    assert tier == ("soon" if counts else None)


@pytest.mark.parametrize(
    ("observation", "counts"),
    [
        (symptom("twitching"), True),
        (symptom("twitching", when=ago(days=30)), True),
        (symptom("twitching", when=ago(days=30, seconds=1)), False),
        (symptom("twitching", when=ago(days=-3)), False),
        (symptom("twitching", present=False), False),
        (symptom("twitching", status="entered-in-error"), False),
        (symptom("twitching", status="cancelled"), False),
    ],
)
def test_an_observed_symptom_counts_for_thirty_days(
    judge: Judge, observation: Json, counts: bool
) -> None:
    tier = tier_about(judge(lab("potassium", MILD), observation), "potassium")
    assert tier == ("soon" if counts else None)


# ------------------------------------------------------------ 7. pregnancy


@pytest.mark.parametrize(
    ("value", "limits", "tier"),
    [
        ("3.4", {}, None),  # ours does not count, the laboratory sent none
        ("3.4", {"low": "3.3", "high": "5.0"}, None),
        ("3.2", {"low": "3.3", "high": "5.0"}, "soon"),
        ("5.6", {"low": "3.3", "high": "5.8"}, None),
        ("5.2", {"low": "3.3", "high": "5.0"}, "soon"),
        ("2.9", {}, "urgent"),
        ("2.9", {"low": "2.8", "high": "5.0"}, "urgent"),
        ("2.4", {}, "emergency"),
        ("6.0", {}, "urgent"),
    ],
)
def test_in_pregnancy_the_laboratorys_range_replaces_the_first_potassium_band(
    judge: Judge, value: str, limits: dict[str, str], tier: str | None
) -> None:
    pregnant = condition("pregnancy", onset=ago(days=100))
    sent = lab("potassium", value, **limits)
    assert tier_about(judge(sent, pregnant, TWITCHING), "potassium") == tier


@pytest.mark.parametrize(
    ("answer", "days", "pregnant"),
    [
        ("77386006", 70, True),  # pregnant
        ("77386006", 301, False),  # longer ago than a pregnancy lasts
        ("60001007", 7, False),  # not pregnant
    ],
)
def test_a_recent_answer_about_pregnancy_counts(
    judge: Judge, answer: str, days: int, pregnant: bool
) -> None:
    status = {
        "resourceType": "Observation",
        "id": "status",
        "status": "final",
        "code": {"coding": [{"system": LOINC, "code": "82810-3"}]},
        "subject": {"reference": "Patient/p1"},
        "effectiveDateTime": ago(days=days),
        "valueCodeableConcept": {"coding": [{"system": SNOMED, "code": answer}]},
    }
    tier = tier_about(judge(lab("potassium", "3.4"), status, TWITCHING), "potassium")
    assert tier == (None if pregnant else "soon")


def test_in_pregnancy_tsh_is_judged_by_the_laboratory_and_b12_not_at_all(judge: Judge) -> None:
    pregnant = condition("pregnancy", onset=ago(days=100))
    context = (pregnant, TWITCHING)
    assert tier_about(judge(lab("tsh", 12), *context), "tsh") is None
    assert tier_about(judge(lab("tsh", 12, low="0.1", high=15), *context), "tsh") is None
    assert tier_about(judge(lab("tsh", 5, low="0.1", high=4), *context), "tsh") == "routine"
    assert tier_about(judge(lab("tsh", 12), TWITCHING), "tsh") == "routine"
    signs = (*context, condition("numbness"))
    assert tier_about(judge(lab("vitamin-b12", 100), *signs), "vitamin-b12") is None


# ------------------------------------------------------------ 8. units


def with_quantity(analyte: str, **fields: Any) -> Json:
    return lab(analyte, 1) | {"valueQuantity": fields}


@pytest.mark.parametrize(
    ("resource", "analyte", "tier"),
    [
        (with_quantity("potassium", value=2.2, unit="mEq/L"), "potassium", "emergency"),
        (with_quantity("potassium", value=2.2, unit="mmol/l"), "potassium", "emergency"),
        (with_quantity("magnesium", value=0.9, unit="mg/dl"), "magnesium", "emergency"),
        (with_quantity("magnesium", value=0.9, unit="mEq/L"), "magnesium", "urgent"),
        (with_quantity("calcium-total", value=7.5, unit="mg/dL"), "calcium", "emergency"),
        (
            with_quantity("creatine-kinase", value=11000, unit="IU/L"),
            "creatine-kinase",
            "emergency",
        ),
        # The code wins over the text.
        (
            with_quantity("magnesium", value=0.9, unit="mmol/L", system=UCUM, code="mg/dL"),
            "magnesium",
            "emergency",
        ),
        (
            with_quantity("magnesium", value=0.9, unit="mg/dL", system=UCUM, code="mmol/L"),
            "magnesium",
            None,
        ),
        # A code of another system than UCUM is no unit; the text is read.
        (
            with_quantity("potassium", value=2.2, unit="mmol/L", system="urn:x:units", code="17"),
            "potassium",
            "emergency",
        ),
    ],
)
def test_the_ucum_code_wins_and_without_it_the_text_is_read(
    judge: Judge, resource: Json, analyte: str, tier: str | None
) -> None:
    assert tier_about(judge(resource), analyte) == tier


@pytest.mark.parametrize(
    "fields",
    [
        {"value": 2.2},
        {"value": 2.2, "unit": "furlong"},
        {"value": 2.2, "unit": "mmol/L", "system": UCUM, "code": "qq/L"},
        {"value": 2.2, "unit": "mg", "system": UCUM, "code": "mg"},
        {"value": 2.2, "unit": "mL/min", "system": UCUM, "code": "mL/min"},
        {"value": 2.2, "unit": ""},
    ],
)
def test_an_unknown_unit_is_never_guessed_but_reported(judge: Judge, fields: Json) -> None:
    assessment = judge(with_quantity("potassium", **fields))
    assert about(assessment, "potassium") == []
    assert "unit" in reasons(assessment)
    assert problem_codes(assessment, "Observation/potassium")


def test_an_unusable_newer_result_does_not_hide_a_severe_one(judge: Judge) -> None:
    newer = with_quantity("potassium", value=4.0, unit="furlong") | {"id": "newer"}
    older = lab("potassium", SEVERE, when=ago(days=3))
    assert tier_about(judge(older, newer), "potassium") == "emergency"


def test_a_unit_of_the_reference_range_of_its_own_is_read(judge: Judge) -> None:
    sent = lab("magnesium", "0.68")
    own = [{"low": quantity("1.6", "mg/dL"), "high": quantity("2.6", "mg/dL")}]  # 0.658 mmol/L
    assert tier_about(judge(sent | {"referenceRange": own}, TWITCHING), "magnesium") is None


# ------------------------------------------------------------ what does not count at all


@pytest.mark.parametrize("status", ["entered-in-error", "cancelled"])
def test_a_result_entered_in_error_does_not_count(judge: Judge, status: str) -> None:
    wrong = lab("potassium", SEVERE, id="wrong", status=status)
    assert judge(wrong)["tier"] is None
    older = lab("potassium", "2.9", when=ago(days=2))
    assert tier_about(judge(wrong, older), "potassium") == "urgent"


@pytest.mark.parametrize("status", ["final", "amended", "corrected", "preliminary"])
def test_results_of_every_other_status_count(judge: Judge, status: str) -> None:
    assert judge(lab("potassium", SEVERE, status=status))["tier"] == "emergency"


def test_missing_is_not_normal(judge: Judge) -> None:
    empty = {k: v for k, v in lab("potassium", 1).items() if k != "valueQuantity"}
    reason = {
        "coding": [
            {"system": "http://terminology.hl7.org/CodeSystem/data-absent-reason", "code": "error"}
        ]
    }
    missing = empty | {"id": "newer", "dataAbsentReason": reason, "effectiveDateTime": ago()}
    older = lab("potassium", SEVERE, when=ago(days=2))
    assert tier_about(judge(missing, older), "potassium") == "emergency"
    assert judge(missing, TWITCHING, KNOWN[1], KNOWN[2])["tier"] == "routine"


# ------------------------------------------------------------ 4, 9, 10. what cards say

URGENT_CASES = [
    [lab("potassium", "2.2")],
    [lab("potassium", "7.0")],
    [lab("magnesium", "0.3")],
    [lab("magnesium", "3.5")],
    [lab("calcium", "1.7")],
    [lab("calcium", "3.7")],
    [lab("calcium-ionized", "0.8")],
    [lab("sodium", 115)],
    [lab("sodium", 165)],
    [lab("phosphate", "0.2")],
    [lab("qtc", 520)],
    [lab("creatine-kinase", 20000)],
    [lab("glucose", "2.0")],
]
OTHER_CASES = [
    [lab("potassium", "2.8")],
    [lab("potassium", "3.2"), lab("magnesium", "0.6"), TWITCHING],
    [lab("magnesium", "0.45"), lab("phosphate", "0.7"), TWITCHING],
    [lab("calcium", "2.0"), lab("vitamin-d", 20), TWITCHING],
    [lab("tsh", 15), lab("ferritin", 10), lab("egfr", 20), TWITCHING],
    [TWITCHING],
]


@pytest.mark.parametrize("resources", [*URGENT_CASES, *OTHER_CASES])
@pytest.mark.parametrize("audience", ["clinician", "patient"])
def test_no_card_advises_stopping_a_medicine_or_a_supplement_without_a_kidney_check(
    judge: Judge, resources: list[Json], audience: str
) -> None:
    text = card_text(judge(*resources, audience=audience))
    assert text
    stop = r"(?<!not )(?<!never )(?<!don't )\bstop(ping)? (taking|the|your|this|any|all)\b"
    assert not says(text, stop, r"\bdiscontinue\b", r"\bwithhold\b")
    if says(text, r"supplement|replac(e|ing|ement)|potassium by mouth|magnesium by mouth"):
        assert says(text, r"kidney|renal|eGFR|creatinine")


@pytest.mark.parametrize("resources", URGENT_CASES)
def test_a_patients_emergency_card_names_an_action_and_no_number(
    judge: Judge, resources: list[Json]
) -> None:
    assessment = judge(*resources, audience="patient")
    assert assessment["tier"] == "emergency"
    text = card_text(assessment)
    assert says(text, "emergency number")
    sent = str(resources[0]["valueQuantity"]["value"])
    assert not re.search(rf"\b{re.escape(sent)}\b", text)
    assert not says(text, r"mmol|\bU/L", "no problem", "nothing (is )?wrong")


@pytest.mark.parametrize("resources", [*URGENT_CASES, *OTHER_CASES])
def test_cards_say_that_no_clinician_has_signed_the_rules(
    judge: Judge, resources: list[Json]
) -> None:
    assert says(card_text(judge(*resources)), r"\bdraft\b")


def test_there_is_one_card_for_each_group_and_tier_the_most_urgent_first(judge: Judge) -> None:
    assessment = judge(
        lab("potassium", "2.2"),
        lab("sodium", 115),
        lab("magnesium", "0.45"),
        lab("calcium", "2.05"),
        lab("phosphate", "0.7"),
        lab("glucose", "3.5"),
        TWITCHING,
    )
    merged = {"lifestyle", "workup", "education"}  # their info and routine findings share a card
    places: dict[tuple[str, str], list[Json]] = {}
    for finding in assessment["findings"]:
        shared = finding["group"] in merged and finding["tier"] in ("info", "routine")
        place = ("+".join(merged), "info") if shared else (finding["group"], finding["tier"])
        places.setdefault(place, []).append(finding)
    assert len({group for group, _ in places}) > 1
    tiers = [tier for _, tier in places]
    assert tiers == sorted(tiers, key=rank, reverse=True)
    indicator = {
        "emergency": "critical",
        "urgent": "warning",
        "soon": "warning",
        "routine": "info",
        "info": "info",
    }
    assert [c["indicator"] for c in assessment["cards"]] == [indicator[t] for t in tiers]
    for here, card in zip(places.values(), assessment["cards"], strict=True):
        assert says(card["summary"], rf"and {len(here) - 1} more") == (len(here) > 1)
        assert len(card["summary"]) < 140
        for finding in here:
            assert finding["title"] in card["detail"] or len(here) == 1


def test_a_card_shows_value_date_and_conversion(judge: Judge) -> None:
    text = card_text(judge(lab("magnesium", "0.9", "mg/dL", code="19123-9")))
    assert says(text, r"0\.9 ?mg/dL")
    assert says(text, r"0\.37")
    assert "2026-10-31" in text


# ------------------------------------------------------------ comparing like with like


def test_a_child_with_an_old_urgent_adult_value_is_rechecked(judge: Judge) -> None:
    assessment = judge(CHILD, lab("potassium", "2.2", when=ago(days=20)))
    assert assessment["tier"] == "soon"
    (finding,) = assessment["findings"]
    assert says(finding["title"], "pediatric advice")


@pytest.mark.parametrize(("second", "tier"), [("76634-5", "urgent"), ("76635-2", None)])
def test_a_qtc_rise_needs_the_same_correction_formula_twice(
    judge: Judge, second: str, tier: str | None
) -> None:
    before = lab("qtc", 370, code="76634-5", id="before", when=ago(days=30))
    assert judge(before, lab("qtc", 440, code=second))["tier"] == tier


@pytest.mark.parametrize("limit", [0, -5])
def test_an_upper_limit_that_is_impossible_says_nothing(judge: Judge, limit: int) -> None:
    assessment = judge(lab("creatine-kinase", 100, high=limit), TWITCHING)
    assert about(assessment, "creatine-kinase") == []
    assessment = judge(lab("creatine-kinase", 900, high=limit), TWITCHING)
    assert tier_about(assessment, "creatine-kinase") == "soon"  # against the assumed limit
    assert "range-unusable" in problem_codes(assessment, "Observation/creatine-kinase")


def test_a_total_calcium_beside_an_ionized_one_is_said_not_to_be_judged(judge: Judge) -> None:
    assessment = judge(lab("calcium-total", "1.8"), lab("calcium-ionized", "1.2"))
    assert about(assessment, "calcium") == []
    assert "total-not-judged" in problem_codes(assessment, "Observation/calcium-total")


# ------------------------------------------------------------ records that disagree


@pytest.mark.parametrize(("denied", "counts"), [(ago(days=2), False), (ago(days=20), True)])
def test_of_a_denial_and_a_record_the_newer_counts_and_the_conflict_is_said(
    judge: Judge, denied: str, counts: bool
) -> None:
    recorded = condition("twitching", onset=ago(days=10))
    no = symptom("twitching", when=denied, present=False)
    assessment = judge(recorded, no, lab("potassium", "3.2"))
    assert tier_about(assessment, "potassium") == ("soon" if counts else None)
    assert "conflict" in {p["code"] for p in assessment["problems"]}


def test_a_resolved_episode_denies_no_other_one(judge: Judge) -> None:
    gone = condition("twitching", id="gone", clinical="resolved", onset=ago(days=1))
    assessment = judge(condition("twitching", onset=ago(days=10)), gone, lab("potassium", "3.2"))
    assert tier_about(assessment, "potassium") == "soon"


# ------------------------------------------------------------ nothing older silences a newer result


@pytest.mark.parametrize(("other", "normal"), [("calcium", "2.35"), ("calcium-ionized", "1.2")])
def test_a_newer_total_calcium_is_judged_whatever_an_older_draw_said(
    judge: Judge, other: str, normal: str
) -> None:
    older = lab(other, normal, when=ago(hours=20))
    newer = lab("calcium-total", "1.7", when=ago(hours=2))
    assert judge(older, newer)["tier"] == "emergency"
    same_time = lab(other, normal, when=ago(hours=2))
    assert judge(same_time, newer)["tier"] is None


def test_a_rise_is_seen_beside_another_result_of_the_same_instant(judge: Judge) -> None:
    before = lab("potassium", "4.6", id="before", when=ago(hours=8))
    twin = lab("potassium", "4.5", id="twin", when=ago(hours=2))
    for name in ("a", "z"):  # whichever of the two stands first
        risen = lab("potassium", "5.6", id=name, when=ago(hours=2))
        assert judge(before, twin, risen)["tier"] == "urgent"
