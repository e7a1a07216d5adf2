"""What criteria on symptoms, conditions and medicines mean, in patients of a few lines."""

from __future__ import annotations

from typing import Any

import pytest

from builders import SNOMED, ago, bundle, condition, statement, symptom
from builders import patient as person
from cds import Assessment, Screener, load_rulesets
from cds.errors import RuleErrors
from cds.evaluate import LeafTrace
from cds.harness import run_case
from cds.rules import Rulesets
from trial_rules import loaded, patient, rule

AS_OF = "2026-11-01T00:00:00Z"


@pytest.fixture(scope="module")
def base() -> Rulesets:
    return load_rulesets()


def state(base: Rulesets, criterion: str, *lines: str) -> str:
    """How a rule of one criterion judges a patient of a few lines: yes, no or unknown."""
    screener = Screener(loaded(base, rule("trial", criterion)))
    result = run_case(screener, patient(*lines))
    assert result.assessment is not None, result.failures
    return result.assessment.explain("trial").when.state


@pytest.mark.parametrize(
    ("criterion", "lines", "expected"),
    [
        # A known beginning, against one that nobody wrote down
        ("{symptom: weakness, onset_within: P4W}", ["symptom: weakness for 28 days"], "yes"),
        ("{symptom: weakness, onset_within: P4W}", ["symptom: weakness for 29 days"], "no"),
        ("{symptom: weakness, onset_within: P4W}", ["symptom: weakness 2 days ago"], "no"),
        ("{symptom: weakness, onset_within: P4W}", [], "unknown"),
        ("{symptom: weakness, onset: unknown}", ["symptom: weakness 2 days ago"], "yes"),
        ("{symptom: weakness, onset: unknown}", ["condition: weakness"], "yes"),
        ("{symptom: weakness, onset: unknown}", ["symptom: weakness for 2 days"], "no"),
        # When it was written down is not when it began
        ("{symptom: weakness, seen_within: P30D}", ["symptom: weakness 30 days ago"], "yes"),
        ("{symptom: weakness, seen_within: P30D}", ["condition: weakness"], "no"),
        (
            "{symptom: weakness, seen_within: P30D}",
            ["symptom: weakness for 900 days, recorded: 3 days ago"],
            "yes",
        ),
        (
            "{symptom: weakness, seen_within: P30D}",
            ["symptom: weakness for 900 days, recorded: 31 days ago"],
            "no",
        ),
        # On several days, at several places
        ("{symptom: weakness, times: 2}", ["symptom: weakness 2 days ago"], "no"),
        (
            "{symptom: weakness, times: 2}",
            ["symptom: weakness 2 days ago", "symptom: weakness 3 days ago"],
            "yes",
        ),
        (
            "{symptom: weakness, times: 2}",
            ["symptom: weakness 50 hours ago", "symptom: weakness 51 hours ago"],
            "no",
        ),
        ("{symptom: twitching, sites: 2}", ["symptom: fasciculation 1 day ago, sites: 1"], "no"),
        ("{symptom: twitching, sites: 2}", ["symptom: fasciculation 1 day ago, sites: 2"], "yes"),
        ("{symptom: twitching, sites: 2}", ["symptom: fasciculation 1 day ago"], "no"),
        (
            "{symptom: twitching, severity: severe}",
            ["symptom: fasciculation for 3 days, severity: severe"],
            "yes",
        ),
        ("{symptom: twitching, severity: severe}", ["symptom: fasciculation for 3 days"], "no"),
        # What began after a medicine was started or stopped
        (
            "{symptom: twitching, after_start_of: ssri}",
            ["symptom: twitching for 5 days", "takes: ssri since 5 days"],
            "yes",
        ),
        (
            "{symptom: twitching, after_start_of: ssri}",
            ["symptom: twitching for 5 days", "takes: ssri since 4 days"],
            "no",
        ),
        (
            "{symptom: twitching, after_start_of: ssri}",
            ["symptom: twitching for 5 days", "takes: ssri"],
            "yes",
        ),
        (
            "{symptom: twitching, after_start_of: ssri, delay: P8W}",
            ["symptom: twitching for 5 days", "takes: ssri"],
            "no",
        ),
        (
            "{symptom: twitching, after_start_of: ssri, delay: P8W}",
            ["symptom: twitching for 5 days", "takes: ssri since 61 days"],
            "yes",
        ),
        (
            "{symptom: twitching, after_start_of: ssri, delay: P8W}",
            ["symptom: twitching for 5 days", "takes: ssri since 62 days"],
            "no",
        ),
        ("{symptom: twitching, after_start_of: ssri}", ["symptom: twitching now"], "unknown"),
        ("{symptom: twitching, after_start_of: ssri}", ["takes: ssri since 4 days"], "unknown"),
        (
            "{symptom: twitching, after_start_of: ssri}",
            ["denies: twitching", "takes: ssri since 4 days"],
            "no",
        ),
        (
            "{symptom: twitching, after_stop_of: benzodiazepine, delay: P4W}",
            ["symptom: twitching for 5 days", "takes: benzodiazepine, until: 10 days ago"],
            "yes",
        ),
        (
            "{symptom: twitching, after_stop_of: benzodiazepine, delay: P4W}",
            ["symptom: twitching for 11 days", "takes: benzodiazepine, until: 10 days ago"],
            "no",
        ),
        # Medicines
        ("{medication: ppi, longer_than: P90D}", ["takes: ppi since 91 days"], "yes"),
        ("{medication: ppi, longer_than: P90D}", ["takes: ppi since 90 days"], "no"),
        ("{medication: ppi, longer_than: P90D}", ["takes: ppi"], "no"),
        ("{medication: ppi, longer_than: P90D}", [], "unknown"),
        (
            "{medication: serotonergic-drug, at_least: 2}",
            ["takes: ssri since 3 days", "takes: RXNORM#10689 tramadol since 3 days"],
            "yes",
        ),
        (
            "{medication: serotonergic-drug, at_least: 2}",
            ["takes: ssri since 3 days", "takes: ssri since 9 days"],
            "no",
        ),
        (
            "{medication: baclofen, stopped_within: P4W}",
            ["takes: baclofen, until: 28 days ago"],
            "yes",
        ),
        (
            "{medication: baclofen, stopped_within: P4W}",
            ["takes: baclofen, until: 29 days ago"],
            "no",
        ),
        (
            "{medication: baclofen, stopped_within: P4W}",
            ["takes: baclofen since 12 months, until: 3 days ago", "takes: baclofen since 2 days"],
            "unknown",
        ),
        (
            "{medication: baclofen, stopped_within: P4W, lasted: P28D}",
            ["takes: baclofen since 32 days, until: 3 days ago"],
            "yes",
        ),
        (
            "{medication: baclofen, stopped_within: P4W, lasted: P28D}",
            ["takes: baclofen since 30 days, until: 3 days ago"],
            "no",
        ),
        (
            "{medication: cyclobenzaprine, being_ordered: true}",
            ["requested: cyclobenzaprine now, status: draft"],
            "yes",
        ),
        (
            "{medication: cyclobenzaprine, being_ordered: true}",
            ["takes: cyclobenzaprine since 3 days"],
            "unknown",
        ),
        # No result since a medicine was started
        (
            "{no_result: lithium, since_start_of: ace-inhibitor}",
            ["takes: ace-inhibitor since 5 days", "lab: lithium 0.8 mmol/L 6 days ago"],
            "yes",
        ),
        (
            "{no_result: lithium, since_start_of: ace-inhibitor}",
            ["takes: ace-inhibitor since 5 days", "lab: lithium 0.8 mmol/L 4 days ago"],
            "no",
        ),
        ("{no_result: lithium, since_start_of: ace-inhibitor}", ["takes: ace-inhibitor"], "no"),
    ],
)
def test_a_criterion_is_judged(
    base: Rulesets, criterion: str, lines: list[str], expected: str
) -> None:
    assert state(base, criterion, *lines) == expected


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        ("{symptom: twitching, delay: P1D}", "'delay' needs"),
        ("{symptom: twitching, after_start_of: ssri, within: P1D}", "takes no other key"),
        ("{symptom: twitching, after_start_of: cramp}", "of kind symptom, not medication"),
        ("{medication: ssri, lasted: P1D}", "'lasted' needs"),
        ("{medication: ssri, stopped_within: P1D, at_least: 2}", "takes no other key"),
        ("{medication: ssri, being_ordered: true, at_least: 2}", "stands alone"),
        ("{no_result: lithium}", "needs one of"),
        ("{no_result: lithium, within: P1D, since_start_of: ssri}", "needs one of"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(
    base: Rulesets, criterion: str, message: str
) -> None:
    with pytest.raises(RuleErrors, match=message):
        loaded(base, rule("trial", criterion))


# ---------------------------------------------------------------- places, periods, own codes


def screened(base: Rulesets, criterion: str, *resources: Any) -> Assessment:
    screener = Screener(loaded(base, rule("trial", criterion)))
    return screener.screen(bundle(person(), *resources), as_of=AS_OF)


EYELID = {"coding": [{"system": "http://snomed.info/sct", "code": "80243003"}]}
LEG = {"coding": [{"system": "http://snomed.info/sct", "code": "61685007"}]}


def test_a_twitch_of_the_eyelid_alone_is_an_eyelid_twitch(base: Rulesets) -> None:
    def fires(finding: str, *sites: Any) -> bool:
        if len(sites) == 1:
            resource = {**symptom("twitching"), "bodySite": sites[0]}
        else:
            resource = {**condition("twitching"), "bodySite": list(sites)}
        return "trial" in screened(base, f"{{symptom: {finding}}}", resource).fired

    assert fires("eyelid-myokymia", EYELID)
    assert not fires("fasciculation", EYELID)
    assert fires("twitching", EYELID)
    assert fires("fasciculation", LEG)
    assert not fires("eyelid-myokymia", LEG)
    assert fires("fasciculation", EYELID, LEG)
    assert not fires("eyelid-myokymia", EYELID, LEG)


def test_what_was_seen_over_a_period_began_at_its_start_and_counts_from_its_end(
    base: Rulesets,
) -> None:
    def fires(criterion: str, **period: str) -> bool:
        seen = symptom("twitching")
        del seen["effectiveDateTime"]
        seen["effectivePeriod"] = period
        return "trial" in screened(base, criterion, seen).fired

    long = "{symptom: twitching, longer_than: P14D}"
    assert fires(long, start=ago(days=60), end=ago(days=2))
    assert fires(long, start=ago(days=60))
    assert not fires(long, start=ago(days=60), end=ago(days=31))
    assert not fires(long, start=ago(days=14), end=ago(days=2))


def test_every_symptom_has_a_code_of_the_projects_own(base: Rulesets) -> None:
    own = {"coding": [{"system": "urn:cds-twitch:concept", "code": "weakness"}]}
    seen = {**symptom("twitching"), "code": own}
    assert "trial" in screened(base, "{symptom: weakness}", seen).fired
    assert "trial" not in screened(base, "{symptom: muscle-weakness}", seen).fired


def test_a_history_is_one_of_the_patient_or_of_a_relative(base: Rulesets) -> None:
    def fires(concept: str, system: str, code: str, *, relative: bool) -> bool:
        coding = {"coding": [{"system": system, "code": code}]}
        if relative:
            resource: Any = {
                "resourceType": "FamilyMemberHistory",
                "id": "f",
                "status": "completed",
                "patient": {"reference": "Patient/p1"},
                "relationship": {"text": "mother"},
                "condition": [{"code": coding}],
            }
        else:
            resource = {**condition("weakness", onset=ago(days=4000)), "code": coding}
        return "trial" in screened(base, f"{{history: {concept}}}", resource).fired

    assert fires("als", SNOMED, "86044005", relative=True)
    assert not fires("als", SNOMED, "86044005", relative=False)
    assert fires("thyroidectomy-history", SNOMED, "428892006", relative=False)
    assert fires("family-history-motor-neuron-disease", SNOMED, "160344000", relative=False)


@pytest.mark.parametrize(
    ("more", "state", "reason"),
    [
        # "Active" says that it is still taken; since when, one date does not say.
        ({"status": "active", "effectiveDateTime": ago(days=300)}, "yes", ""),
        ({"status": "unknown", "effectiveDateTime": ago(days=300)}, "unknown", "date"),
        ({"status": "current"}, "unknown", "status"),
        ({"status": "active", "effectivePeriod": {"start": ago(days=-9)}}, "unknown", "future"),
        ({"status": "not-taken"}, "unknown", "missing"),
        ({"status": "active", "effectivePeriod": {"end": ago(days=9)}}, "unknown", "missing"),
    ],
)
def test_a_medicine_that_may_be_taken_is_used_or_said_to_be_open(
    base: Rulesets, more: dict[str, Any], state: str, reason: str
) -> None:
    taken = {**statement("6448", since=None), **more}  # lithium
    found = screened(base, "{medication: lithium}", taken).explain("trial").when
    assert isinstance(found, LeafTrace)
    assert (found.state, found.reason) == (state, reason)


# ---------------------------------------------------------------- findings that yield, questions


def test_a_finding_that_another_explains_is_listed_as_not_shown(base: Rulesets) -> None:
    known = rule("known", "{condition: als}", more="\n    step: true")
    referral = rule("referral", "{symptom: weakness}", more="\n    yields_to: [known]")
    screener = Screener(loaded(base, known, referral))
    alone = run_case(screener, patient("symptom: weakness now")).assessment
    explained = run_case(screener, patient("symptom: weakness now", "condition: als")).assessment
    assert alone is not None
    assert explained is not None
    assert [f.id for f in alone.findings] == ["referral"]
    assert explained.findings == ()
    assert [(s.finding.id, s.reason) for s in explained.evaluation.suppressed] == [
        ("referral", "explained by known")
    ]


def test_an_emergency_yields_to_nothing(base: Rulesets) -> None:
    known = rule("known", "{condition: als}", more="\n    step: true")
    grave = rule("grave", "{symptom: weakness}", tier="emergency", more="\n    yields_to: [known]")
    with pytest.raises(RuleErrors, match="yields to nothing"):
        loaded(base, known, grave)
    with pytest.raises(RuleErrors, match="no rule asserts it"):
        loaded(base, rule("referral", "{symptom: weakness}", more="\n    yields_to: [nothing]"))


def test_findings_that_yield_in_a_circle_are_refused(base: Rulesets) -> None:
    """Both would hold, each explained by the other, and nobody would be shown either."""
    one = rule("one", "{symptom: weakness}", more="\n    yields_to: [two]")
    two = rule("two", "{symptom: weakness}", more="\n    yields_to: [one]")
    with pytest.raises(RuleErrors, match="circle"):
        loaded(base, one, two)
    with pytest.raises(RuleErrors, match="circle"):
        loaded(base, rule("one", "{symptom: weakness}", more="\n    yields_to: [one]"))


def test_in_a_child_a_finding_for_adults_explains_nothing(base: Rulesets) -> None:
    """It holds, is shown to nobody, and must not take another finding away with it."""
    adult = rule("adult", "{symptom: tremor}", tier="soon")
    any_age = rule(
        "any-age",
        "{symptom: weakness}",
        tier="soon",
        more="\n    population: any\n    yields_to: [adult]",
    )
    screener = Screener(loaded(base, adult, any_age))
    for years, shown in ((17, ["any-age"]), (18, ["adult"])):
        who = patient(f"patient: {years} years", "symptom: weakness", "symptom: tremor")
        result = run_case(screener, who).assessment
        assert result is not None
        assert [f.id for f in result.findings] == shown


def test_what_would_sharpen_the_assessment_is_asked(base: Rulesets) -> None:
    question = "When did the weakness begin?"
    asks = rule("asks", "{symptom: weakness}", more=f'\n    ask: ["{question}"]')
    waits = rule("waits", "{symptom: weakness}", "{lab: potassium, lt: 3, unit: mmol/L}")
    screener = Screener(loaded(base, asks, waits))
    result = run_case(screener, patient("symptom: weakness now")).assessment
    assert result is not None
    asked = result.to_dict()["follow_up"]
    assert asked[0] == {"question": question, "needs": None, "rules": ["asks"]}
    assert asked[1] == {
        "question": "What is the current potassium?",
        "needs": "potassium",
        "rules": ["waits"],
    }
    assert question in result.cards()[0]["detail"]
    assert question not in result.cards("patient")[0]["detail"]


# ------------------------------------------------------------ records that contradict themselves


def problems(assessment: Assessment, code: str) -> list[str]:
    return [p.message for p in assessment.evaluation.problems if p.code == code]


def test_findings_of_the_deceased_are_listed_as_not_shown(base: Rulesets) -> None:
    screener = Screener(loaded(base, rule("trial", "{symptom: weakness}")))

    def assess(seen: str, **death: Any) -> Assessment:
        resources = bundle({**person(), **death}, symptom("weakness", when=seen))
        return screener.screen(resources, as_of=AS_OF)

    for death in ({"deceasedBoolean": True}, {"deceasedDateTime": ago(days=1)}):
        dead = assess(ago(days=2), **death)
        assert dead.tier is None
        assert dead.cards() == []
        assert [s.reason for s in dead.evaluation.suppressed] == ["recorded as deceased"]
        assert len(problems(dead, "deceased")) == 1
    alive = assess(ago(days=1), deceasedDateTime=ago(days=2))
    assert alive.tier is not None
    assert "judged as living" in problems(alive, "deceased")[0]
    assert assess(ago(days=1), deceasedBoolean=False).tier is not None
    assert assess(ago(days=1), deceasedDateTime="2026-11-02").tier is not None


def test_an_active_and_a_resolved_condition_of_one_code_counts_and_is_said(base: Rulesets) -> None:
    active = condition("weakness", id="now")
    resolved = condition("weakness", id="then", clinical="resolved")
    both = screened(base, "{symptom: weakness}", active, resolved)
    assert both.tier is not None
    assert len(problems(both, "conflict")) == 1


def test_the_pregnancy_of_a_man_counts_and_is_said(base: Rulesets) -> None:
    screener = Screener(loaded(base, rule("trial", "{condition: pregnancy}")))
    for sex, said in (("male", 1), ("female", 0), ("other", 0)):
        resources = bundle({**person(), "gender": sex}, condition("pregnancy", onset=ago(days=9)))
        found = screener.screen(resources, as_of=AS_OF)
        assert found.tier is not None
        assert len(problems(found, "conflict")) == said
