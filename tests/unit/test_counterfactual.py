"""What would change an answer: said on cards, in explanations, and as data."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from decimal import Decimal

import orjson
import pytest

from builders import (
    AS_OF,
    Json,
    ago,
    bundle,
    condition,
    lab,
    patient,
    quantity,
    statement,
    symptom,
)
from cds import Screener, load_rulesets
from cds.catalog import explanation_dict
from cds.errors import UsageError
from cds.fhir import ReadLog
from cds.model import Change, Tier
from cds.report import Page, write_explanation
from cds.screening import instant
from cds.wording import Wording

TRIAL = """\
group: trial
title: Rules for trying
version: 1.0.0
rules:
  - id: sodium-at-most
    title: Sodium at most 130
    review: draft
    tier: urgent
    when: [{lab: sodium, le: 130, unit: mmol/L}]
    unless: [{lab: potassium, gt: 6, unit: mmol/L}]
    evidence: [{source: Ourselves, statement: we think so}]
    card: {summary: Sodium, detail: Look., patient: Call today.}
  - id: long-cramp
    title: Cramp for weeks
    review: draft
    tier: soon
    when: [{symptom: cramp, longer_than: P14D}]
    evidence: [{source: Ourselves, statement: we think so}]
    card: {summary: Cramp, detail: Look., patient: Call today.}
  - id: diuretic-without-magnesium
    title: Diuretic and no magnesium
    review: draft
    tier: soon
    when:
      - {medication: loop-diuretic}
      - {no_result: magnesium, within: P90D}
    evidence: [{source: Ourselves, statement: we think so}]
    card: {summary: Magnesium, detail: Look., patient: Call today.}
  - id: circumstances
    title: Circumstances
    review: draft
    tier: info
    when:
      - any:
          - {lifestyle: stress}
          - {history: family-history-motor-neuron-disease}
    evidence: [{source: Ourselves, statement: we think so}]
    card: {summary: Life, detail: Look., patient: Call today.}
  - id: needs-much
    title: Needs much
    review: draft
    tier: info
    when:
      - {symptom: tremor}
      - {condition: pregnancy}
      - any:
          - {symptom: seizure}
          - all:
              - {symptom: syncope}
              - {symptom: palpitations}
    evidence: [{source: Ourselves, statement: we think so}]
    card: {summary: Much, detail: Look., patient: Call today.}
"""


@pytest.fixture(scope="module")
def screener() -> Screener:
    return Screener(load_rulesets())


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Screener:
    folder = tmp_path_factory.mktemp("rulesets") / "trial"
    folder.mkdir()
    (folder / "rules.yaml").write_text(TRIAL, encoding="utf-8")
    return Screener(load_rulesets(folder.parent))


@pytest.fixture(scope="module")
def line(screener: Screener) -> Callable[..., str]:
    """What the card of a lone finding says would change it."""

    def line(*resources: Json) -> str:
        found = screener.screen(bundle(patient(), *resources), AS_OF)
        lines = [
            block.removeprefix("This finding: ")
            for card in found.cards()
            for block in card["detail"].split("\n\n")
            if block.startswith("This finding: ")
        ]
        assert len(lines) == 1
        return lines[0]

    return line


def explained(
    screener: Screener, rule: str, *resources: Json, who: Json | None = None
) -> list[str]:
    """What an explanation says would change the answer of a rule."""
    found = screener.screen(bundle(who or patient(), *resources), AS_OF)
    wording = Wording(found.evaluation, screener.rulesets)
    return [wording.change(change) for change in found.changes(rule)]


def page(screener: Screener, rule: str, *resources: Json) -> str:
    """The explanation as people read it, without line breaks."""
    found = screener.screen(bundle(patient(), *resources), AS_OF)
    stream = io.StringIO()
    explanation = explanation_dict(
        found.explain(rule), found.evaluation, screener.rulesets, found.changes(rule)
    )
    write_explanation(Page(stream, width=100), explanation)
    return " ".join(stream.getvalue().split())


# ------------------------------------------------------------ on a clinician's card


@pytest.mark.parametrize(
    ("resources", "says"),
    [
        (
            [lab("potassium", "2.8")],
            "stops at potassium 3.0 mmol/L; emergency below 2.5 mmol/L.",
        ),
        (
            [lab("potassium", "2.8"), condition("cramp")],
            "soon at potassium 3.0 mmol/L; stops at 3.5 mmol/L; emergency below 2.5 mmol/L.",
        ),
        (
            [lab("potassium", "2.9"), condition("palpitations")],
            "stops at potassium 3.0 mmol/L.",
        ),
        (
            [lab("potassium", "6.2")],
            "stops below potassium 6.0 mmol/L; emergency at 6.5 mmol/L.",
        ),
        (
            [lab("magnesium", "3.4")],
            "urgent at magnesium 3.30 mmol/L; stops below 2.00 mmol/L.",
        ),
    ],
)
def test_a_card_names_the_nearest_value_of_each_other_answer(
    line: Callable[..., str], resources: list[Json], says: str
) -> None:
    assert line(*resources) == says


def test_the_value_is_also_said_in_the_unit_that_was_sent(line: Callable[..., str]) -> None:
    # 2.5 mmol/L are 9.774575 mg/dL, 3.0 mmol/L are 11.72949 mg/dL.
    assert line(lab("potassium", "10.0", "mg/dL")) == (
        "stops at potassium 3.0 mmol/L (sent as 11.8 mg/dL); "
        "emergency below 2.5 mmol/L (sent as 9.7 mg/dL)."
    )


def test_an_adjusted_calcium_follows_the_total_that_was_sent(line: Callable[..., str]) -> None:
    # 1.95 + 0.02 * (40 - 35) = 2.05
    assert line(lab("calcium-total", "1.95"), lab("albumin", 35), condition("twitching")) == (
        "soon at calcium 2.10 mmol/L (sent as 2.00 mmol/L); "
        "stops at 2.20 mmol/L (sent as 2.10 mmol/L); "
        "emergency below 1.90 mmol/L (sent as 1.79 mmol/L)."
    )


def test_a_multiple_of_the_upper_limit_is_said_as_the_result_itself(
    line: Callable[..., str],
) -> None:
    assert line(lab("creatine-kinase", 1950, high=195)) == (
        "stops below creatine kinase 1950 U/L; emergency above 9750 U/L."
    )


def test_of_a_rise_the_later_result_is_named(line: Callable[..., str]) -> None:
    assert line(
        lab("potassium", "4.9", id="k1", when=ago(hours=9)),
        lab("potassium", "5.7", id="k2", when=ago(hours=2)),
    ) == ("stops below potassium 5.5 mmol/L; emergency at 6.5 mmol/L.")
    assert line(
        lab("creatinine", 80, id="c1", when=ago(hours=40)),
        lab("creatinine", 130, id="c2", when=ago(hours=2)),
    ) == ("stops below creatinine 106 umol/L.")


def test_the_limits_of_the_laboratory_itself_count_as_the_rules_heed_them(
    line: Callable[..., str],
) -> None:
    low = lab("potassium", "3.4", low="3.7", high="5.0")
    assert line(low, condition("cramp")) == (
        "stops at potassium 3.7 mmol/L; urgent below 3.0 mmol/L."
    )


def test_where_the_laboratorys_flag_alone_decides_the_flag_is_named_and_no_value(
    line: Callable[..., str],
) -> None:
    assert line(lab("potassium", "3.1", flag="LL")) == (
        "stops without the laboratory's flag on potassium; emergency below 2.5 mmol/L."
    )


def test_a_flag_that_changes_nothing_is_not_named(line: Callable[..., str]) -> None:
    assert line(lab("potassium", "2.8", flag="L")) == line(lab("potassium", "2.8"))


def test_an_old_result_is_changed_among_the_rules_for_old_results(
    line: Callable[..., str],
) -> None:
    assert line(lab("potassium", "2.8", when=ago(days=20))) == "stops at potassium 3.0 mmol/L."


def test_a_value_sent_as_below_a_number_is_changed_to_one_that_is_known(
    line: Callable[..., str],
) -> None:
    assert line(lab("potassium", "2.4", comparator="<")) == (
        "urgent at potassium 2.5 mmol/L; stops at 3.0 mmol/L."
    )
    assert line(lab("potassium", "6.5", comparator=">=")) == (
        "urgent below potassium 6.5 mmol/L; stops below 6.0 mmol/L."
    )


def test_a_child_is_judged_again_as_a_child(screener: Screener) -> None:
    child = patient(birth="2016-05-01")
    found = screener.screen(bundle(child, lab("potassium", "2.2")), AS_OF)
    assert "This finding: stops at potassium 3.0 mmol/L." in found.cards()[0]["detail"]


def test_two_results_of_which_nobody_knows_the_later_are_changed_by_no_single_value(
    screener: Screener,
) -> None:
    both = [lab("potassium", v, id=f"k{v}", when="2026-10") for v in ("2.2", "2.3")]
    found = screener.screen(bundle(patient(), *both), AS_OF)
    assert [f.id for f in found.findings] != []
    assert all("stops" not in card["detail"] for card in found.cards())


def test_a_finding_without_a_number_says_nothing_of_values(screener: Screener) -> None:
    found = screener.screen(bundle(patient(), condition("cramp")), AS_OF)
    assert [f.id for f in found.findings] == ["electrolyte-panel-missing"]
    (card,) = found.cards()
    assert "This finding" not in card["detail"]
    assert "changes" not in card["extension"]["org.cds-twitch.provenance"]


def test_a_patients_card_names_no_change(screener: Screener) -> None:
    found = screener.screen(bundle(patient(), lab("potassium", "2.8")), AS_OF)
    (card,) = found.cards(audience="patient")
    assert "finding" not in card["detail"]
    assert "changes" not in card["extension"]["org.cds-twitch.provenance"]


def test_a_program_reads_the_same_changes_from_the_card(screener: Screener) -> None:
    found = screener.screen(bundle(patient(), lab("potassium", "9.0", "mg/dL")), AS_OF)
    (card,) = found.to_dict()["cards"]
    assert card["extension"]["org.cds-twitch.provenance"]["changes"] == [
        {
            "outcome": "tier",
            "tier": "urgent",
            "finding": "hypokalemia-severe",
            "kind": "lab",
            "concept": "potassium",
            "op": "at or above",
            "value": 2.5,
            "unit": "mmol/L",
            "value_sent": 9.8,
            "unit_sent": "mg/dL",
            "resource": "Observation/potassium",
        },
        {
            "outcome": "stops",
            "finding": "hypokalemia-severe",
            "kind": "lab",
            "concept": "potassium",
            "op": "at or above",
            "value": 3,
            "unit": "mmol/L",
            "value_sent": 11.8,
            "unit_sent": "mg/dL",
            "resource": "Observation/potassium",
        },
    ]


# ------------------------------------------------------------ of a rule that fired


def test_an_explanation_says_what_would_stop_a_rule_and_which_tier_would_be_left(
    screener: Screener,
) -> None:
    weak = condition("weakness")
    assert explained(screener, "hypokalemia-with-danger-signs", lab("potassium", "2.9"), weak) == [
        "stops at potassium 3.0 mmol/L (then soon)",
        "stops without muscle weakness on record (then urgent)",
        "finding stops at potassium 3.5 mmol/L",
    ]


def test_an_explanation_says_what_would_make_a_finding_more_urgent(screener: Screener) -> None:
    says = explained(screener, "hypokalemia-moderate", lab("potassium", "2.8"))
    assert says[:2] == [
        "stops at potassium 3.0 mmol/L",
        "finding is emergency below potassium 2.5 mmol/L",
    ]
    assert "finding is emergency with palpitations on record" in says
    # 450 ms counts for men alone.
    assert "finding is emergency with a result of QTc at or above 460 ms" in says


def test_a_record_that_several_resources_make_goes_as_one(screener: Screener) -> None:
    weak = [condition("weakness"), symptom("weakness")]
    says = explained(screener, "hypokalemia-with-danger-signs", lab("potassium", "2.9"), *weak)
    assert "stops without muscle weakness on record (then urgent)" in says


def test_a_missing_result_that_is_the_reason_would_end_it(trial: Screener) -> None:
    diuretic = statement("4603")
    assert explained(trial, "diuretic-without-magnesium", diuretic) == [
        "stops without loop diuretic on record",
        "stops with a result of magnesium",
    ]


def test_a_medicine_that_is_not_recorded_would_do(trial: Screener) -> None:
    assert explained(trial, "diuretic-without-magnesium") == ["fires with loop diuretic on record"]


def test_the_first_value_on_the_other_side_is_named_for_each_comparator(trial: Screener) -> None:
    assert explained(trial, "sodium-at-most", lab("sodium", 128)) == [
        "stops above sodium 130 mmol/L",
    ]
    assert explained(trial, "sodium-at-most", lab("sodium", 131)) == [
        "fires at sodium 130 mmol/L",
    ]


def test_a_result_that_blocks_a_rule_is_named(trial: Screener) -> None:
    both = (lab("sodium", 128), lab("potassium", "6.4"))
    assert explained(trial, "sodium-at-most", *both) == ["fires at potassium 6.0 mmol/L"]
    low = (lab("sodium", 128), lab("potassium", "4"))
    assert "stops above potassium 6.0 mmol/L" not in explained(trial, "sodium-at-most", *low)


# ------------------------------------------------------------ of a rule that did not fire


def test_the_value_that_would_make_a_rule_fire_is_named(screener: Screener) -> None:
    assert explained(screener, "hypokalemia-severe", lab("potassium", "2.5")) == [
        "fires below potassium 2.5 mmol/L"
    ]


def test_a_missing_result_would_do(screener: Screener) -> None:
    assert explained(screener, "hyponatremia-severe") == [
        "fires with a result of sodium below 120 mmol/L"
    ]
    assert explained(screener, "creatine-kinase-very-high") == [
        "fires with a result of creatine kinase at or above 2000 U/L"
    ]


def test_a_missing_symptom_would_do_through_the_steps_in_between(screener: Screener) -> None:
    says = explained(screener, "hypokalemia-mild", lab("potassium", "3.2"))
    assert {"fires with muscle cramp on record", "fires with muscle twitching on record"} <= {*says}


def test_a_denied_symptom_would_do_if_it_were_recorded_now(screener: Screener) -> None:
    denied = symptom("cramp", present=False)
    says = explained(screener, "hypokalemia-mild", lab("potassium", "3.2"), denied)
    assert "fires with muscle cramp on record" in says


def test_what_blocks_a_rule_would_have_to_go(screener: Screener) -> None:
    record = (lab("potassium", "3.2"), condition("cramp"), condition("pregnancy"))
    assert explained(screener, "hypokalemia-mild", *record) == ["fires without pregnancy on record"]


def test_a_result_that_is_too_old_would_have_to_be_fresh(screener: Screener) -> None:
    old = lab("potassium", "2.3", when=ago(days=20))
    assert explained(screener, "hypokalemia-severe", old) == [
        "fires if potassium is at most 7 days old"
    ]
    assert "finding is emergency if potassium is at most 7 days old" in explained(
        screener, "hypokalemia-severe-recheck", old
    )


def test_a_result_called_normal_would_count_without_that_flag(screener: Screener) -> None:
    normal = lab("potassium", "3.4", flag="N")
    assert explained(screener, "hypokalemia-mild", normal, condition("cramp")) == [
        "fires without the laboratory's flag on potassium"
    ]


def test_circumstances_and_relatives_can_be_recorded(trial: Screener) -> None:
    assert explained(trial, "circumstances") == [
        "fires with stress on record",
        "fires with family history of motor neuron disease on record",
    ]


def test_a_symptom_that_has_to_last_is_named_with_its_time(trial: Screener) -> None:
    assert explained(trial, "long-cramp") == [
        "fires with muscle cramp for more than 14 days on record"
    ]


def test_where_no_single_change_does_the_open_criteria_are_counted(trial: Screener) -> None:
    assert explained(trial, "needs-much") == []
    assert (
        "What would change this No single change that was tried makes it fire; "
        "3 criteria are open." in page(trial, "needs-much")
    )
    one_less = page(trial, "needs-much", condition("tremor"), condition("seizure"))
    assert "What would change this - fires with pregnancy on record" in one_less


def test_the_open_criteria_count_what_blocks(screener: Screener) -> None:
    found = screener.screen(
        bundle(patient(), lab("potassium", "3.6"), condition("pregnancy")), AS_OF
    )
    explanation = explanation_dict(
        found.explain("hypokalemia-mild"), found.evaluation, screener.rulesets
    )
    assert explanation["open_criteria"] == 3
    assert "counterfactuals" not in explanation


def test_the_rule_that_stands_in_for_others_answers_with_its_finding(screener: Screener) -> None:
    child = patient(birth="2016-05-01")
    low = lab("potassium", "2.2")
    assert explained(screener, "pediatric-advice-needed", low, who=child) == [
        "finding stops at potassium 3.0 mmol/L"
    ]
    assert "What would change this" not in page(screener, "pediatric-advice-needed", low)


def test_a_step_and_a_caveat_are_explained_like_other_rules(screener: Screener) -> None:
    assert explained(screener, "twitching", condition("twitching")) == [
        "stops without muscle twitching on record"
    ]
    record = (lab("magnesium", "0.6"), lab("potassium", "2.2"))
    assert "stops at magnesium 0.70 mmol/L" in explained(
        screener, "caveat-low-magnesium-with-low-potassium", *record
    )


def test_an_explanation_shows_the_resource_to_be_changed(screener: Screener) -> None:
    text = page(screener, "hypokalemia-severe", lab("potassium", "2.5"))
    assert (
        "What would change this - fires below potassium 2.5 mmol/L [Observation/potassium]" in text
    )


def test_an_explanation_is_json_as_it_stands(screener: Screener) -> None:
    found = screener.screen(bundle(patient(), lab("potassium", "2.5")), AS_OF)
    changes = found.changes("hypokalemia-severe")
    explanation = explanation_dict(
        found.explain("hypokalemia-severe"), found.evaluation, screener.rulesets, changes
    )
    assert orjson.loads(orjson.dumps(explanation))["counterfactuals"] == [
        {
            "outcome": "fires",
            "tier": "emergency",
            "finding": "hypokalemia-severe",
            "rule": "hypokalemia-severe",
            "kind": "lab",
            "concept": "potassium",
            "aspect": None,
            "op": "below",
            "value": 2.5,
            "unit": "mmol/L",
            "value_sent": None,
            "unit_sent": None,
            "resource": "Observation/potassium",
            "text": "fires below potassium 2.5 mmol/L",
        }
    ]


def test_an_unknown_rule_has_no_changes(screener: Screener) -> None:
    found = screener.screen(bundle(patient()), AS_OF)
    with pytest.raises(UsageError, match="no rule 'no-such-rule'"):
        found.changes("no-such-rule")


# ------------------------------------------------------------ what must not happen


def test_the_record_stays_as_it_was_read(screener: Screener) -> None:
    source = orjson.dumps(bundle(patient(), lab("potassium", "2.8"), condition("weakness")))
    (record,) = screener.reader.read(source, ReadLog())
    before = copy.deepcopy(record)
    found = screener.assess(record, instant(AS_OF))
    found.cards()
    for rule in ("hypokalemia-moderate", "hypokalemia-severe", "hyponatremia-severe"):
        found.changes(rule)
    assert record == before


def test_a_patient_without_a_finding_costs_no_search(screener: Screener) -> None:
    unused = Screener(screener.rulesets)
    unused.screen(bundle(patient(), lab("potassium", "4.2")), AS_OF).to_dict()
    assert "counterfactuals" not in vars(unused)


def test_a_result_that_two_observations_claim_to_be_is_left_alone(screener: Screener) -> None:
    twice = {
        **lab("potassium", "2.8"),
        "component": [
            {
                "code": lab("potassium", 1)["code"],
                "valueQuantity": quantity("2.7", "mmol/L"),
            }
        ],
    }
    found = screener.screen(bundle(patient(), twice), AS_OF)
    assert [f.id for f in found.findings] == ["hypokalemia-moderate"]
    assert all("This finding" not in card["detail"] for card in found.cards())


@pytest.mark.parametrize(
    ("value", "unit"), [(0, "mmol/L"), (1e300, "mmol/L"), (5, "parsec"), (5, "s")]
)
def test_a_senseless_limit_of_the_laboratory_does_no_harm(
    screener: Screener, value: float, unit: str
) -> None:
    limit = {**quantity(1, unit), "value": value}
    low = lab("potassium", "2.8", referenceRange=[{"low": limit, "high": limit}])
    found = screener.screen(bundle(patient(), low), AS_OF)
    assert "emergency below 2.5 mmol/L." in found.cards()[0]["detail"]


def test_a_change_in_words_counts_hours_where_days_do_not_fit(screener: Screener) -> None:
    found = screener.screen(bundle(patient()), AS_OF)
    wording = Wording(found.evaluation, screener.rulesets)
    change = Change(
        "lab/potassium", "within", "fires", Tier.soon, "f", "r", Decimal(12), "h", "Observation/k"
    )
    assert wording.change(change) == "fires if potassium is at most 12 hours old"
    assert wording.changes([]) == ""
