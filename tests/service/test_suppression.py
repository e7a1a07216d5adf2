"""What is not shown again, with a real database; above all: what must be shown."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cds import load_rulesets
from cds.model import Caveat, Evaluation, Fact, Finding, Source, Tier
from cds.program import FOREVER
from cds.screening import Screener
from cds.service.store import CallRecord, Store
from cds.service.suppression import Repeats, fingerprint, without_repeats
from cds.shipped import shipped

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
MEASURED = NOW - timedelta(hours=1)


@pytest.fixture
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def store(loop: asyncio.Runner, tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path}/store.db", clock=NOW.timestamp)
    loop.run(store.open())
    yield store
    loop.run(store.close())


def finding(id_: str = "low-potassium", tier: Tier = Tier.urgent, key: str = "lab/x") -> Finding:
    return Finding(id_, "electrolytes", tier, "Title", (f"{id_}-rule",), (), (key,))


def lab(version: int, measured: datetime, now: datetime, key: str = "lab/x") -> Fact:
    """A result whose age grows with `now`, as those of `cds.facts` do."""
    age = int((now - measured).total_seconds())
    value = Decimal(version)
    source = Source(f"Observation/{version}", measured.isoformat(), value, "mmol/L", str(value))
    return Fact(key, "lab", "x", {"low": version, "age": age}, (source,))


def evaluation(findings: list[Finding], facts: list[Fact], now: datetime) -> Evaluation:
    by_key = {fact.key: fact for fact in facts}
    return Evaluation("Patient/1", int(now.timestamp()), by_key, tuple(findings), (), (), ())


async def shown(store: Store, found: Evaluation, at: datetime, **more: object) -> Repeats:
    """Ask, then keep what is shown, as the service does it."""
    options = {"patient_key": "p", "hours": 24.0, **more}
    repeats = await without_repeats(found, store, now=at, **options)  # type: ignore[arg-type]
    key = str(options["patient_key"])
    call = CallRecord(str(uuid4()), at, "r", None, None, "s", None, None, key, [], [], 200, "cards")
    await store.record_call(replace(call, suppressed=repeats.audit()), [], repeats.remember)
    return repeats


# ---------------------------------------------------------------- one at a time


def test_the_same_is_not_shown_again_and_stands_in_the_record(
    loop: asyncio.Runner, store: Store, tmp_path: Path
) -> None:
    async def use() -> None:
        later = NOW + timedelta(hours=5)
        first = await shown(store, evaluation([finding()], [lab(1, MEASURED, NOW)], NOW), NOW)
        assert [f.id for f in first.findings] == ["low-potassium"]
        assert first.audit() == []
        again = await shown(store, evaluation([finding()], [lab(1, MEASURED, later)], later), later)
        assert again.findings == ()
        (hidden,) = again.evaluation.suppressed
        assert hidden.reason == "shown already at 2026-11-01 12:00 UTC"
        assert again.audit() == [
            {
                "finding": "low-potassium",
                "tier": "urgent",
                "rules": ["low-potassium-rule"],
                "shown_at": "2026-11-01T12:00:00+00:00",
            }
        ]
        assert again.remember == ()

    loop.run(use())
    with sqlite3.connect(tmp_path / "store.db") as connection:
        kept = connection.execute("SELECT suppressed FROM calls ORDER BY at").fetchall()
    connection.close()
    assert orjson.loads(kept[0][0]) == []
    assert orjson.loads(kept[1][0])[0]["finding"] == "low-potassium"


_LAST = NOW + timedelta(hours=1)


@pytest.mark.parametrize(
    ("first", "second", "more"),
    [
        pytest.param({}, {"version": 2}, {}, id="another result"),
        pytest.param({}, {"measured": NOW - timedelta(1)}, {}, id="another time"),
        pytest.param({"tier": Tier.soon}, {}, {}, id="a higher tier"),
        pytest.param({}, {"patient_key": "another"}, {}, id="another patient"),
        pytest.param({}, {"scope": ("another user",)}, {}, id="another user"),
        pytest.param({}, {"hours": 1.0}, {}, id="longer ago than the hours"),
        pytest.param({}, {"hours": 0.0}, {}, id="turned off"),
        pytest.param({}, {"hours": -5.0}, {}, id="less than nothing"),
        pytest.param({"at": NOW + timedelta(hours=2)}, {}, {}, id="shown in the future"),
        pytest.param({"tier": Tier.emergency}, {"tier": Tier.emergency}, {}, id="an emergency"),
        pytest.param({"hook": "h"}, {"hook": "h"}, {}, id="the same call sent again"),
        pytest.param({}, {}, {"rules": ("another",)}, id="another rule"),
        pytest.param({}, {}, {"covers": ("more",)}, id="it covers more"),
        pytest.param(
            {}, {}, {"caveats": (Caveat("c", "", "", ("r",), ("lab/x",)),)}, id="a new caveat"
        ),
    ],
)
def test_it_is_shown_wherever_anything_differs(
    loop: asyncio.Runner,
    store: Store,
    first: dict[str, object],
    second: dict[str, object],
    more: dict[str, object],
) -> None:
    def ask(at: datetime, changes: dict[str, object], **fields: object) -> Repeats:
        values = {"version": 1, "measured": MEASURED, "tier": Tier.urgent, "at": at, **changes}
        moment: datetime = values["at"]  # type: ignore[assignment]
        one = replace(finding(tier=values["tier"]), **fields)  # type: ignore[arg-type]
        fact = lab(values["version"], values["measured"], moment)  # type: ignore[arg-type]
        options = {k: v for k, v in changes.items() if k in ("patient_key", "scope", "hours")}
        options["hook_instance"] = changes.get("hook")
        return loop.run(shown(store, evaluation([one], [fact], moment), moment, **options))

    ask(NOW, first)
    assert len(ask(_LAST, second, **more).findings) == 1


def test_being_withheld_does_not_prolong_the_hours(loop: asyncio.Runner, store: Store) -> None:
    counts = []
    for hour in range(0, 60, 5):
        at = NOW + timedelta(hours=hour)
        found = evaluation([finding()], [lab(1, MEASURED, at)], at)
        counts.append(len(loop.run(shown(store, found, at)).findings))
    assert counts == [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]


def test_the_others_of_a_call_are_shown(loop: asyncio.Runner, store: Store) -> None:
    both = [finding("a"), finding("b", key="lab/y")]
    facts = [lab(1, MEASURED, NOW), lab(1, MEASURED, NOW, "lab/y")]
    loop.run(shown(store, evaluation(both, facts, NOW), NOW))
    facts[1] = lab(2, MEASURED, NOW, "lab/y")
    repeats = loop.run(shown(store, evaluation(both, facts, NOW), NOW))
    assert [f.id for f in repeats.findings] == ["b"]
    assert [r.finding.id for r in repeats.repeated] == ["a"]


def test_where_the_store_is_down_everything_is_shown(loop: asyncio.Runner, store: Store) -> None:
    found = evaluation([finding()], [lab(1, MEASURED, NOW)], NOW)
    loop.run(shown(store, found, NOW))
    loop.run(store.close())
    repeats = loop.run(without_repeats(found, store, "p", 24, NOW))
    assert repeats == Repeats(found, store_down=True)


def test_nobody_known_nothing_withheld(loop: asyncio.Runner, store: Store) -> None:
    found = evaluation([finding()], [lab(1, MEASURED, NOW)], NOW)
    for _ in range(2):
        repeats = loop.run(shown(store, found, NOW, patient_key=""))
        assert repeats.findings == found.findings


# ---------------------------------------------------------------- evidence


def test_evidence_reaches_through_earlier_findings() -> None:
    def print_of(step: tuple[str, ...], *facts: Fact) -> str:
        found = replace(evaluation([], list(facts), NOW), steps={"step": step})
        return fingerprint(found, replace(finding(), because=("finding/step",)))

    first = print_of(("lab/x",), lab(1, MEASURED, NOW))
    assert first == print_of(("lab/x",), lab(1, MEASURED, NOW), lab(5, MEASURED, NOW, "lab/other"))
    assert first != print_of(("lab/x",), lab(2, MEASURED, NOW))
    assert first != print_of(
        ("lab/x", "lab/y"), lab(1, MEASURED, NOW), lab(1, MEASURED, NOW, "lab/y")
    )


def test_findings_that_rest_on_each_other_end() -> None:
    one = replace(finding("a"), because=("finding/b",))
    two = replace(finding("b"), because=("finding/a", "lab/x"))
    found = evaluation([one, two], [lab(1, MEASURED, NOW)], NOW)
    other = evaluation([one, two], [lab(2, MEASURED, NOW)], NOW)
    assert fingerprint(found, one) != fingerprint(other, one)


@pytest.mark.parametrize("name", ["age", "onset", "since"])
@pytest.mark.parametrize("value", [0, FOREVER])
def test_a_time_of_which_nothing_is_known_does_not_run(name: str, value: int) -> None:
    def print_at(now: datetime) -> str:
        fact = Fact("symptom/x", "symptom", "x", {name: value})
        return fingerprint(evaluation([], [fact], now), replace(finding(), because=("symptom/x",)))

    assert print_at(NOW) == print_at(NOW + timedelta(hours=3))


def test_real_findings_are_recognized_hours_later_and_after_a_new_result_are_not() -> None:
    screener = Screener(load_rulesets())
    seen = 0
    for path in sorted(shipped("fhir_examples").glob("*.json")):
        early, late = (
            screener.screen(path, NOW.replace(day=1, hour=hour)).evaluation for hour in (12, 17)
        )
        for one in early.findings:
            if one in late.findings:
                seen += 1
                assert fingerprint(early, one) == fingerprint(late, one), (path.name, one.id)
                for key in one.because:
                    fact = early.facts.get(key)
                    if fact is None or not fact.sources:
                        continue
                    source = replace(fact.sources[0], resource="Observation/new")
                    changed = replace(fact, sources=(source, *fact.sources[1:]))
                    newer = replace(early, facts={**early.facts, key: changed})
                    assert fingerprint(newer, one) != fingerprint(early, one)
    assert seen > 100


# ---------------------------------------------------------------- any course of events


@dataclass(frozen=True)
class Event:
    """A call: whose, when, what is found on which result."""

    patient: str
    minutes: int
    hook: str
    found: tuple[tuple[str, Tier, int], ...]


TIERS = st.sampled_from([Tier.soon, Tier.urgent, Tier.emergency])
EVENTS = st.lists(
    st.builds(
        Event,
        patient=st.sampled_from("AB"),
        minutes=st.sampled_from([0, 1, 10, 20, 89, 90, 91]),
        hook=st.sampled_from("12345678"),
        found=st.lists(
            st.tuples(st.sampled_from(["f", "g"]), TIERS, st.integers(1, 2)),
            unique_by=lambda one: one[0],
            min_size=1,
            max_size=2,
        ).map(tuple),
    ),
    min_size=6,
    max_size=12,
)


def test_whatever_happens_only_what_was_just_shown_is_withheld(
    loop: asyncio.Runner, store: Store
) -> None:
    hours, numbers, withheld = 1.5, iter(range(10**9)), [0]

    @given(events=EVENTS)
    @settings(max_examples=40)
    def check(events: list[Event]) -> None:
        run, now = str(next(numbers)), NOW
        history: list[tuple[Event, datetime, str, Tier, int]] = []
        for event in events:
            now += timedelta(minutes=event.minutes)
            facts = [lab(version, MEASURED, now, f"lab/{id_}") for id_, _, version in event.found]
            findings = [finding(id_, tier, f"lab/{id_}") for id_, tier, _ in event.found]
            repeats = loop.run(
                shown(
                    store,
                    evaluation(findings, facts, now),
                    now,
                    patient_key=event.patient + run,
                    hours=hours,
                    hook_instance=event.hook,
                )
            )
            shown_ids = {f.id for f in repeats.findings}
            assert shown_ids | {r.finding.id for r in repeats.repeated} == {f.id for f in findings}
            for id_, tier, version in event.found:
                # The latest showing of the same patient, finding and result decides.
                before = [
                    h
                    for h in history
                    if (h[0].patient, h[2], h[4]) == (event.patient, id_, version)
                    and h[3] < Tier.emergency
                ]
                last = before[-1] if before else None
                may = (
                    last is not None
                    and tier < Tier.emergency
                    and tier <= last[3]
                    and now - last[1] < timedelta(hours=hours)
                    and last[0].hook != event.hook
                )
                assert (id_ not in shown_ids) == may
                if id_ in shown_ids:
                    history.append((event, now, id_, tier, version))
                withheld[0] += may

    check()
    assert withheld[0] > 10  # else nothing was tried
