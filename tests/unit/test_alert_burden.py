"""Who is alerted: nobody without need, and at most one card for a group and tier."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import yaml

from builders import AS_OF
from cds import Assessment, Rulesets, Screener, Tier, load_rulesets
from cds.model import Evaluation
from populations import SIZE, benign, everything_wrong, real, table, tally

PINS = Path(__file__).resolve().parents[1] / "data" / "alert_burden.yaml"
# A clinician has to look at once, or somebody is sent to a neurologist: never for benign twitching.
NEVER = ("urgent", "emergency")


@pytest.fixture(scope="module")
def rulesets() -> Rulesets:
    return load_rulesets()


@pytest.fixture(scope="module")
def screener(rulesets: Rulesets) -> Screener:
    return Screener(rulesets)


@pytest.fixture(scope="module")
def people(screener: Screener) -> list[Evaluation]:
    return [screener.screen(person, AS_OF).evaluation for person in benign()]


@pytest.fixture(scope="module")
def real_people(screener: Screener, sample_data: Path) -> list[Evaluation]:
    return real(screener, sample_data)


def pinned(name: str, found: list[Evaluation]) -> None:
    """Compare with the pins; on a difference print the table to be read."""
    tallied = tally(found)
    assert tallied == yaml.safe_load(PINS.read_text(encoding="utf-8"))[name], (
        f"the alert burden has changed; see {PINS.name}\n\n{table({name: tallied})}"
    )


# ------------------------------------------------------------ people who need nothing


def test_benign_twitching_alarms_nobody_and_sends_nobody_to_a_neurologist(
    people: list[Evaluation],
) -> None:
    assert len(people) == SIZE
    wrong = Counter(
        f.id
        for e in people
        for f in e.findings
        if f.tier.name in NEVER or f.group == "neurological-referral"
    )
    assert wrong == {}


def test_benign_twitching_makes_at_most_one_card(people: list[Evaluation]) -> None:
    too_many = {
        e.patient: sorted(f.id for f in e.findings) for e in people if len(tally([e])["cards"]) > 1
    }
    assert too_many == {}


def test_the_burden_of_benign_twitching_is_the_one_that_was_read(
    people: list[Evaluation],
) -> None:
    pinned("benign", people)


def test_the_benign_population_is_varied_and_twitches(screener: Screener) -> None:
    persons = list(benign(200))
    assert len({len(person["entry"]) for person in persons}) > 10
    facts = [screener.screen(person, AS_OF).evaluation.facts for person in persons]
    assert all("symptom/twitching" in f for f in facts)
    ages = {f["patient/age"].props["years"] for f in facts}
    assert max(ages) - min(ages) > 50


def test_real_records_without_alarm_have_no_alarm(real_people: list[Evaluation]) -> None:
    assert len(real_people) == 10
    wrong = [(e.patient, f.id) for e in real_people for f in e.findings if f.tier.name in NEVER]
    assert wrong == []
    referred = [f.id for e in real_people for f in e.findings if "neuro" in f.group]
    assert referred == []


def test_the_burden_of_real_records_is_the_one_that_was_read(
    real_people: list[Evaluation],
) -> None:
    pinned("real", real_people)


# ------------------------------------------------------------ a person with everything wrong


@pytest.fixture(scope="module", params=[True, False], ids=["low results", "high results"])
def worst(request: pytest.FixtureRequest, screener: Screener, rulesets: Rulesets) -> Assessment:
    return screener.screen(everything_wrong(rulesets, low=request.param), AS_OF)


def test_everything_wrong_at_once_is_one_card_for_a_group_and_tier(worst: Assessment) -> None:
    cards = worst.cards("patient")
    topics = [(c["source"]["topic"]["code"], c["indicator"]) for c in cards]
    tiers = {(f.group, f.tier) for f in worst.findings}
    assert 1 < len(cards) <= len(tiers)
    assert len({c["uuid"] for c in cards}) == len(cards)
    assert topics[0][1] == "critical"


def test_every_emergency_of_a_person_with_everything_wrong_is_named(
    worst: Assessment, rulesets: Rulesets
) -> None:
    emergencies = [f for f in worst.findings if f.tier is Tier.emergency]
    assert len(emergencies) > 3
    detail = {}
    for card in worst.cards():
        if card["indicator"] == "critical":
            detail[card["source"]["topic"]["code"]] = card["detail"]
    for finding in emergencies:
        said = detail[finding.group].replace("\\", "")
        assert f"**{finding.title}**" in said, finding.id


def test_no_emergency_rule_that_holds_is_lost(worst: Assessment, rulesets: Rulesets) -> None:
    """Each is shown, or stands behind another emergency of its family."""
    shown = {id_ for f in worst.findings for id_ in f.rules}
    suppressed = {id_ for s in worst.evaluation.suppressed for id_ in s.finding.rules}
    families = {
        rulesets.program.by_id[id_].rule.family
        for f in worst.findings
        if f.tier is Tier.emergency
        for id_ in f.rules
    }
    for id_ in worst.fired:
        rule = rulesets.program.by_id[id_].rule
        if rule.tier == "emergency" and not rule.step and not rule.caveat_for and id_ not in shown:
            assert id_ in suppressed, id_
            assert rule.family in families, id_
