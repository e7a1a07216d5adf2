"""What became of a rule: every way in which a rule can end is said in words."""

from __future__ import annotations

import pytest

from builders import Json, ago, bundle, condition, lab, patient, symptom
from cds import Assessment, Screener, load_rulesets
from cds.evaluate import LeafTrace, NodeTrace

AS_OF = "2026-11-01T00:00:00Z"
TWITCHING = condition("twitching")
LOW_BOTH = (lab("potassium", "2.4"), lab("magnesium", "0.45"))


@pytest.fixture(scope="module")
def screener() -> Screener:
    return Screener(load_rulesets())


def assess(screener: Screener, *resources: Json, who: Json | None = None) -> Assessment:
    return screener.screen(bundle(who or patient(), *resources), as_of=AS_OF)


@pytest.mark.parametrize(
    ("resources", "rule", "outcome"),
    [
        (LOW_BOTH, "hypokalemia-severe", "finding 'hypokalemia-severe', tier emergency"),
        (LOW_BOTH, "hypokalemia-moderate", "superseded by hypokalemia-severe"),
        (LOW_BOTH, "caveat-low-magnesium-with-low-potassium", "caveat on finding 'hypokalemia"),
        ((lab("magnesium", "0.45"),), "any-low-magnesium", "intermediate step"),
        (LOW_BOTH, "hypokalemia-severe-recheck", "blocked by 'unless'"),
        ((lab("potassium", "4.1"),), "hypokalemia-severe", "criteria not met"),
        ((), "hypokalemia-severe", "cannot be decided"),
        ((TWITCHING,), "caveat-kidney-function-unknown", "no finding that its caveat belongs to"),
    ],
)
def test_an_explanation_says_what_became_of_the_rule(
    screener: Screener, resources: tuple[Json, ...], rule: str, outcome: str
) -> None:
    assert outcome in assess(screener, *resources).explain(rule).outcome


def test_the_explanation_for_a_child_says_that_the_rule_is_for_adults(screener: Screener) -> None:
    child = patient(birth="2016-05-01")
    low = assess(screener, lab("potassium", "2.4"), who=child)
    assert low.explain("hypokalemia-severe").outcome == "not shown: the rule is for adults"


def test_a_finding_waits_for_the_result_that_its_step_needs(screener: Screener) -> None:
    """Potassium 5.7 is urgent with kidney injury, which nobody can judge without creatinine."""
    undecided = assess(screener, lab("potassium", "5.7")).evaluation.not_evaluated
    waiting = [n for n in undecided if n.rule == "hyperkalemia-with-kidney-injury"]
    assert {(n.reason, n.needs) for n in waiting} == {("missing", "creatinine")}


def test_a_missing_earlier_result_is_called_earlier(screener: Screener) -> None:
    labs = (lab("potassium", "5.7"), lab("creatinine", 90))
    undecided = assess(screener, *labs).evaluation.not_evaluated
    needs = {n.needs for n in undecided if n.rule == "hyperkalemia-with-kidney-injury"}
    assert needs == {"earlier creatinine"}


def test_an_old_result_within_its_context_is_decided_and_an_older_one_is_stale(
    screener: Screener,
) -> None:
    for days, reasons in ((30, set()), (100, {"stale"})):
        low = lab("potassium", "2.4", when=ago(days=days))
        undecided = assess(screener, low).evaluation.not_evaluated
        assert {n.reason for n in undecided if n.rule == "hypokalemia-severe"} == reasons


# ------------------------------------------------------------ the author's order


def test_findings_stand_by_tier_and_group_and_then_as_their_rules_stand_in_the_files(
    screener: Screener,
) -> None:
    labs = {"potassium": "2.3", "calcium": "1.6", "magnesium": "0.4", "sodium": "115", "tsh": "0"}
    ordered = [r.rule.finding_id for r in screener.rulesets.program.rules]
    found = assess(
        screener,
        *(lab(analyte, value) for analyte, value in labs.items()),
        *(condition(name) for name in ("twitching", "weakness", "seizure")),
    )
    shown = found.evaluation.findings
    hidden = [s.finding for s in found.evaluation.suppressed]
    for findings in (list(shown), hidden):
        ranks = [(-f.tier, f.group, ordered.index(f.id)) for f in findings]
        assert ranks == sorted(ranks)
        # Nothing but the order of the rules explains it.
        assert [f.id for f in findings] != [
            f.id for f in sorted(findings, key=lambda f: (-f.tier, f.group, f.id))
        ]
    on_cards = [
        entry["finding"]
        for card in found.cards()
        for entry in card["extension"]["org.cds-twitch.provenance"]["rules"]
    ]
    ids = [f.id for f in shown]
    assert [id_ for id_ in dict.fromkeys(on_cards) if id_ in ids] == ids  # the rest are caveats


def test_signs_of_a_stroke_stand_before_other_signs(screener: Screener) -> None:
    weak = condition("weakness", onset="2026-10-31T08:00:00Z")
    urgent = assess(screener, weak, TWITCHING).evaluation.findings
    referrals = [f.id for f in urgent if f.group == "neurological-referral"]
    assert referrals[:2] == ["stroke-signs", "acute-weakness"]


# ------------------------------------------------------------ what somebody denied is known


def states(assessment: Assessment, rule: str) -> dict[str, str]:
    """The state of each criterion of a rule, by the fact that it tests."""
    found: dict[str, str] = {}

    def walk(trace: NodeTrace | LeafTrace) -> None:
        if isinstance(trace, LeafTrace):
            found[trace.leaf.key] = trace.state
        else:
            for part in trace.parts:
                walk(part)

    walk(assessment.explain(rule).when)
    return found


@pytest.mark.parametrize(
    ("days", "state"), [(2, "no"), (30, "no"), (31, "unknown"), (-1, "unknown")]
)
def test_a_denied_symptom_is_absent_for_as_long_as_an_observed_one_counts(
    screener: Screener, days: int, state: str
) -> None:
    denied = symptom("tremor", when=ago(days=days), present=False)
    found = states(assess(screener, denied), "twitching-related-symptom")
    assert found["symptom/tremor"] == state
    assert found["symptom/cramp"] == "unknown"


def test_a_refuted_condition_is_absent_for_good(screener: Screener) -> None:
    refuted = condition("tremor", verification="refuted", onset=ago(days=400))
    found = states(assess(screener, refuted), "twitching-related-symptom")
    assert found["symptom/tremor"] == "no"


def test_who_denies_one_kind_of_twitching_does_not_deny_all(screener: Screener) -> None:
    denied = symptom("twitching", present=False)
    found = states(assess(screener, denied), "symptom-beyond-eyelid")
    assert found["symptom/fasciculation"] == "no"
    assert states(assess(screener, denied), "twitching") == {"symptom/twitching": "unknown"}


def test_a_result_that_did_not_rise_is_known_not_to_have_risen(screener: Screener) -> None:
    labs = (
        lab("potassium", "5.7", id="a", when=ago(hours=19)),
        lab("potassium", "5.6", id="b", when=ago(hours=12)),
    )
    found = states(assess(screener, *labs), "potassium-rising")
    assert found["rise/potassium/PT12H"] == "no"
