"""Records that contradict themselves: judged by stated rules, and every contradiction is said.

Each rule is the one of rulesets/README.md, "Records that contradict themselves". In whatever order
the resources come, the answer is the same to the byte.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from builders import AS_OF, Json, ago, bundle, condition, lab, patient, statement, symptom
from cds import Assessment, Rulesets, Screener, load_rulesets
from trial_rules import loaded, rule

FUROSEMIDE, FUROSEMIDE_TABLET = "4603", "313988"

Judge = Callable[..., Assessment]


@pytest.fixture(scope="module")
def base() -> Rulesets:
    return load_rulesets()


@pytest.fixture(scope="module")
def judge(base: Rulesets) -> Judge:
    """Assess the resources by the shipped rules, in both orders; what comes out must not differ."""
    return _both_ways(Screener(base))


@pytest.fixture(scope="module")
def takes_diuretic(base: Rulesets) -> Judge:
    """Assess by one rule, which fires where a loop diuretic is taken."""
    return _both_ways(Screener(loaded(base, rule("trial", "{medication: loop-diuretic}"))))


def _both_ways(screener: Screener) -> Judge:
    def assess(*resources: Json, who: Json | None = None) -> Assessment:
        all_ = [who or patient(), *resources]
        found = screener.screen(bundle(*all_), AS_OF)
        reversed_ = screener.screen(bundle(*reversed(all_)), AS_OF)
        assert json.dumps(found.to_dict()) == json.dumps(reversed_.to_dict())
        return found

    return assess


def said(found: Assessment, code: str) -> list[str]:
    """The resources of which this problem is said, with its severity."""
    problems = found.evaluation.problems
    return [f"{p.severity} {p.resource}" for p in problems if p.code == code]


def tier(found: Assessment) -> str | None:
    return None if found.tier is None else found.tier.name


# ---------------------------------------------------------------- one medicine, two statuses


def medicine(id: str, status: str, code: str = FUROSEMIDE, **more: Any) -> Json:
    return {**statement(code, id=id, since=None), "status": status, **more}


def period(start: str | None = None, end: str | None = None) -> Json:
    times = {"start": start, "end": end}
    return {"effectivePeriod": {name: time for name, time in times.items() if time}}


def order(id: str, status: str, when: str, code: str = FUROSEMIDE) -> Json:
    """A prescription of that day."""
    return {
        "resourceType": "MedicationRequest",
        "id": id,
        "status": status,
        "intent": "order",
        "medicationCodeableConcept": statement(code)["medicationCodeableConcept"],
        "subject": {"reference": "Patient/p1"},
        "authoredOn": when,
    }


OLD, NEW = ago(days=200), ago(days=10)


@pytest.mark.parametrize(
    ("one", "other", "taken"),
    [
        pytest.param(
            medicine("a", "active", **period(OLD)),
            medicine("b", "stopped", **period(OLD, NEW)),
            False,
            id="stopped since",
        ),
        pytest.param(
            medicine("a", "stopped", **period(OLD, ago(days=100))),
            medicine("b", "active", **period(NEW)),
            True,
            id="begun anew since: no contradiction",
        ),
        pytest.param(
            medicine("a", "active", **period(OLD)),
            medicine("b", "not-taken", dateAsserted=NEW),
            False,
            id="later said not to be taken",
        ),
        pytest.param(
            medicine("a", "active", **period(OLD)),
            medicine("b", "on-hold", code=FUROSEMIDE_TABLET, dateAsserted=NEW),
            False,
            id="later on hold, under the code of a product",
        ),
        pytest.param(
            medicine("a", "active"), medicine("b", "stopped"), True, id="without any date"
        ),
        pytest.param(
            medicine("a", "active", dateAsserted=NEW),
            medicine("b", "stopped", dateAsserted=NEW),
            True,
            id="of the same time",
        ),
        pytest.param(
            order("a", "active", OLD),
            medicine("b", "not-taken", dateAsserted=NEW),
            False,
            id="prescribed, and later not taken",
        ),
        pytest.param(
            medicine("a", "not-taken", dateAsserted=OLD),
            order("b", "active", NEW),
            True,
            id="not taken, and prescribed since: no contradiction",
        ),
    ],
)
def test_of_two_records_of_a_medicine_the_newer_counts_and_the_conflict_is_said(
    one: Json, other: Json, taken: bool, takes_diuretic: Judge, request: pytest.FixtureRequest
) -> None:
    found = takes_diuretic(one, other)
    assert (found.tier is not None) == taken
    agree = "no contradiction" in request.node.callspec.id
    conflicts = said(found, "conflict")
    assert conflicts == ([] if agree else [f"warning MedicationStatement/{denier(one, other)}"])
    if not taken:
        assert [n.reason for n in found.evaluation.not_evaluated] == ["conflict"]


def denier(*resources: Json) -> str:
    """The record that says that the medicine is not taken."""
    return str(next(r["id"] for r in resources if r["status"] != "active"))


def test_three_records_of_one_medicine_are_judged_by_the_newest(takes_diuretic: Judge) -> None:
    old = medicine("a", "active", **period(OLD))
    stopped = medicine("b", "stopped", **period(OLD, ago(days=50)))
    again = medicine("c", "active", **period(NEW))
    assert takes_diuretic(old, stopped).tier is None
    assert takes_diuretic(old, stopped, again).tier is not None


def test_two_records_that_agree_are_no_conflict(takes_diuretic: Judge) -> None:
    found = takes_diuretic(
        medicine("a", "active", **period(OLD)), medicine("b", "active", **period(NEW))
    )
    assert found.tier is not None
    assert said(found, "conflict") == []


# ---------------------------------------------------------------- the deceased


@pytest.mark.parametrize(
    ("death", "shown", "message"),
    [
        ({"deceasedBoolean": True}, False, "listed as not shown"),
        ({"deceasedDateTime": ago(hours=1)}, False, "listed as not shown"),
        ({"deceasedDateTime": "2026"}, False, "listed as not shown"),
        # The result of a day ago is later than this death: one of the two is wrong.
        ({"deceasedDateTime": ago(days=3)}, True, "judged as living"),
        ({"deceasedDateTime": "2025-12"}, True, "judged as living"),
        ({"deceasedBoolean": False}, True, ""),
        # Who dies tomorrow is alive.
        ({"deceasedDateTime": ago(days=-1)}, True, ""),
    ],
)
def test_the_deceased_get_no_finding_unless_a_later_result_denies_it(
    death: Json, shown: bool, message: str, judge: Judge
) -> None:
    found = judge(lab("potassium", "2.4", when=ago(days=1)), who={**patient(), **death})
    assert tier(found) == ("emergency" if shown else None)
    assert bool(found.cards("patient")) == shown
    hidden = [s.finding.id for s in found.evaluation.suppressed]
    assert ("hypokalemia-severe" in hidden) != shown
    texts = [p.message for p in found.evaluation.problems if p.code == "deceased"]
    assert len(texts) == bool(message)
    assert all(message in text for text in texts)


# ---------------------------------------------------------------- birth


@pytest.mark.parametrize(
    ("birth", "expected", "problems"),
    [
        ("2026-11-02", "emergency", ["warning Patient/p1"]),  # tomorrow: unknown, so adult
        ("2027", "emergency", ["warning Patient/p1"]),
        ("2026-11-01", "urgent", []),  # today: a newborn, so pediatric advice
        ("2026", "urgent", []),  # some day of this year that has begun
        ("1826-01-01", "emergency", []),
    ],
)
def test_a_birth_after_the_assessment_leaves_the_age_unknown_and_is_said(
    birth: str, expected: str, problems: list[str], judge: Judge
) -> None:
    found = judge(lab("potassium", "2.4"), who=patient(birth=birth))
    assert tier(found) == expected
    assert said(found, "birth-in-future") == problems
    if problems:
        assert said(found, "age-unknown") == ["info Patient/p1"]


# ---------------------------------------------------------------- conditions and symptoms


@pytest.mark.parametrize("ended", ["resolved", "inactive", "remission"])
def test_beside_an_ended_episode_the_active_one_counts_and_it_is_said(
    ended: str, judge: Judge
) -> None:
    mild = lab("potassium", "3.4")
    then = condition("cramp", id="then", clinical=ended, onset=ago(days=400))
    now = condition("cramp", id="now", onset=ago(days=5))
    assert tier(judge(mild)) is None
    assert tier(judge(mild, then)) is None
    found = judge(mild, then, now)
    assert tier(found) == "soon"
    assert said(found, "conflict") == ["warning Condition/now"]
    assert said(judge(mild, now), "conflict") == []


def test_an_ended_condition_of_another_code_is_no_contradiction(judge: Judge) -> None:
    found = judge(condition("tremor", clinical="resolved"), condition("cramp"))
    assert said(found, "conflict") == []


@pytest.mark.parametrize(
    ("present", "absent", "expected"),
    [
        (ago(days=9), ago(days=2), "urgent"),  # the newer one says absent
        (ago(days=2), ago(days=9), "emergency"),
        (ago(days=2), ago(days=2), "emergency"),  # of the same time: present counts
    ],
)
def test_a_sign_both_seen_and_denied_is_judged_by_the_newer_record(
    present: str, absent: str, expected: str, judge: Judge
) -> None:
    found = judge(
        lab("potassium", "2.9"),
        symptom("palpitations", id="yes", when=present),
        symptom("palpitations", id="no", when=absent, present=False),
    )
    assert tier(found) == expected
    assert said(found, "conflict") == ["warning Observation/no"]


@pytest.mark.parametrize(
    ("gender", "problems"),
    [("male", ["warning Condition/pregnancy"]), ("female", []), ("other", []), ("unknown", [])],
)
def test_a_pregnancy_counts_whatever_the_administrative_gender_and_a_mans_is_said(
    gender: str, problems: list[str], judge: Judge
) -> None:
    """In pregnancy a rule of its own takes the place of the first band of potassium."""
    found = judge(
        lab("potassium", "3.3", low="3.4", high="5.0"),
        condition("cramp"),
        condition("pregnancy", onset=ago(days=100)),
        who=patient(gender=gender),
    )
    assert "hypokalemia-mild-pregnancy" in {f.id for f in found.findings}
    assert said(found, "conflict") == problems


def test_of_two_results_of_the_same_time_the_more_severe_counts(judge: Judge) -> None:
    found = judge(lab("potassium", "4.2", id="a"), lab("potassium", "2.4", id="b"))
    assert tier(found) == "emergency"
    newer = judge(lab("potassium", "4.2", id="a", when=ago(hours=1)), lab("potassium", "2.4"))
    assert tier(newer) is None


# ---------------------------------------------------------------- everything at once


def contradictory() -> list[Json]:
    """Everything that a record can contradict itself in, beside a potassium of 2.4."""
    return [
        lab("potassium", "2.4", when=ago(days=1)),
        medicine("m1", "active", **period(OLD)),
        medicine("m2", "stopped", code=FUROSEMIDE_TABLET, **period(OLD, NEW)),
        condition("cramp", id="c1", clinical="resolved", onset=ago(days=400)),
        condition("cramp", id="c2", onset=ago(days=5)),
        condition("pregnancy", onset=ago(days=100)),
        symptom("palpitations", id="s1", when=ago(days=3)),
        symptom("palpitations", id="s2", when=ago(days=2), present=False),
    ]


WHO = {**patient(birth="2031-07-04", gender="male"), "deceasedDateTime": ago(days=20)}


def test_a_record_with_every_contradiction_is_assessed_and_each_is_said(base: Rulesets) -> None:
    both = loaded(base, rule("trial", "{medication: loop-diuretic}"))
    assert said(Screener(both).screen(bundle(WHO, *contradictory()), AS_OF), "conflict")
    found = Screener(base).screen(bundle(WHO, *contradictory()), AS_OF)
    assert tier(found) == "emergency"
    codes = {p.code for p in found.evaluation.problems}
    assert codes >= {"birth-in-future", "age-unknown", "deceased", "conflict"}
    conflicts = {resource.partition(" ")[2] for resource in said(found, "conflict")}
    assert conflicts >= {"Condition/c2", "Condition/pregnancy", "Observation/s2"}


def test_no_order_of_contradictory_records_changes_a_byte(base: Rulesets) -> None:
    screener = Screener(base)
    draw = random.Random(7)  # noqa: S311 - the same orders on every run
    resources = [WHO, *contradictory()]
    first = json.dumps(screener.screen(bundle(*resources), AS_OF).to_dict())
    for _ in range(20):
        draw.shuffle(resources)
        assert json.dumps(screener.screen(bundle(*resources), AS_OF).to_dict()) == first


def test_no_message_about_a_contradiction_carries_data_of_the_patient(base: Rulesets) -> None:
    found = Screener(base).screen(bundle(WHO, *contradictory()), AS_OF)
    texts = " ".join(p.message for p in found.evaluation.problems)
    assert not any(word in texts for word in words_of([WHO, *contradictory()]))


def words_of(resources: Iterable[Json]) -> set[str]:
    """Codes, dates and values of the record."""
    found: set[str] = set()
    for resource in resources:
        found |= {resource[k] for k in ("birthDate", "deceasedDateTime") if k in resource}
        found |= {resource[k][:10] for k in ("effectiveDateTime", "onsetDateTime") if k in resource}
        named = resource.get("code") or resource.get("medicationCodeableConcept") or {}
        found |= {coding["code"] for coding in named.get("coding", ())}
        if "valueQuantity" in resource:
            found.add(str(resource["valueQuantity"]["value"]))
    return found
