"""The store, with real databases: SQLite, and PostgreSQL where CDS_TEST_DATABASE_URL names it."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa

from cds.service import database as db
from cds.service.requests import FeedbackItem, parse_feedback
from cds.service.store import (
    CallRecord,
    Forgotten,
    IssuedCard,
    Reason,
    RuleFeedback,
    ShownFinding,
    Store,
    StoreDown,
    StoreUnusable,
)

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
EHR = "https://ehr.example.org"
VERSIONS = sa.Table(db.VERSION_TABLE, sa.MetaData(), sa.Column("version_num", sa.Text))
TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
_numbers = itertools.count()


def _postgres(statement: str, url: str | None = None) -> list[tuple[object, ...]]:
    """Run one statement, in the database that tests are given or in another."""
    psycopg = pytest.importorskip("psycopg")
    place = db.parsed(url or os.environ["CDS_TEST_DATABASE_URL"]).set(drivername="postgresql")
    text = place.render_as_string(hide_password=False)
    with psycopg.connect(text, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def postgres() -> Iterator[str]:
    """URL of an empty database of PostgreSQL, which is gone afterwards."""
    given = os.environ.get("CDS_TEST_DATABASE_URL")
    if not given:
        pytest.skip("CDS_TEST_DATABASE_URL names no PostgreSQL")
    name = f"cds_store_{os.getpid()}_{next(_numbers)}"
    _postgres(f"CREATE DATABASE {name}")
    try:
        yield db.parsed(given).set(database=name).render_as_string(hide_password=False)
    finally:
        _postgres(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db"


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    """An empty database of each kind."""
    found: str = request.getfixturevalue(request.param)
    return found


def run(url: str, use: Callable[[Store], Awaitable[None]], **options: object) -> None:
    """Use an open store."""

    async def main() -> None:
        async with Store(url, **options) as store:  # type: ignore[arg-type]
            await use(store)

    asyncio.run(main())


def rows(url: str, statement: str | sa.Table) -> list[tuple[object, ...]]:
    """Return what a statement gives, or all of a table."""
    wanted = sa.text(statement) if isinstance(statement, str) else sa.select(statement)
    engine = sa.create_engine(db.parsed(url))
    try:
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(wanted)]
    finally:
        engine.dispose()


def call(at: datetime = NOW, **changes: object) -> CallRecord:
    return CallRecord(
        **{
            "id": str(uuid4()),
            "at": at,
            "request_id": "r-1",
            "iss": EHR,
            "user": "Practitioner/7",
            "service": "twitch",
            "hook": "patient-view",
            "hook_instance": str(uuid4()),
            "patient_key": "k" * 64,
            "rulesets": [{"id": "electrolytes", "version": "1.0.0", "digest": "d"}],
            "rules": ["low-potassium"],
            "status": 200,
            "outcome": "cards",
            **changes,
        }  # type: ignore[arg-type]
    )


def card(of: CallRecord, *rules: str, **changes: object) -> IssuedCard:
    return IssuedCard(
        **{
            "uuid": str(uuid4()),
            "call_id": of.id,
            "service": of.service,
            "rules": [{"rule": rule, "version": "1.0.0"} for rule in rules or ("low-potassium",)],
            "tier": "urgent",
            "group": "electrolytes",
            **changes,
        }  # type: ignore[arg-type]
    )


def said(
    card: str, outcome: str = "overridden", at: str = "2026-11-01T12:30:00Z", **more: object
) -> FeedbackItem:
    item = {"card": card, "outcome": outcome, "outcomeTimestamp": at, **more}
    if outcome == "accepted":
        item.setdefault("acceptedSuggestions", [{"id": str(uuid4())}])
    return parse_feedback({"feedback": [item]})[0]


def because(code: str, comment: str | None = None) -> dict[str, object]:
    reason = {"code": code, "system": "https://example.org/reasons", "display": f"It is {code}"}
    return {"reason": reason, **({"userComment": comment} if comment else {})}


# ---------------------------------------------------------------- what is kept


def test_a_call_and_its_cards_stand_in_the_database(url: str) -> None:
    one = call(suppressed=[{"finding": "f"}], at=NOW.astimezone(_hours(-5)))
    issued = card(one, "low-potassium", "cramp", suggestions=[str(uuid4())])

    async def use(store: Store) -> None:
        await store.record_call(one, [issued])
        await store.record_call(one, [issued])  # again: nothing changes

    run(url, use)
    (found,) = rows(url, "SELECT id, at, user_ref, rulesets, suppressed FROM calls")
    assert found[0] == one.id
    assert "2026-11-01 12:00" in str(found[1])
    assert found[2] == "Practitioner/7"
    assert _json(found[3]) == one.rulesets
    assert _json(found[4]) == [{"finding": "f"}]
    assert rows(url, "SELECT call_id, uuid, tier, card_group FROM cards") == [
        (one.id, issued.uuid, "urgent", "electrolytes")
    ]
    assert rows(url, "SELECT rule FROM card_rules ORDER BY rule") == [
        ("cramp",),
        ("low-potassium",),
    ]
    assert len(rows(url, db.card_suggestions)) == 1


def _json(value: object) -> object:
    return json.loads(value) if isinstance(value, str) else value


def _hours(hours: int) -> timezone:
    return timezone(timedelta(hours=hours))


def test_no_id_of_a_patient_or_relative_is_kept(url: str) -> None:
    keys = []

    async def use(store: Store) -> None:
        keys.append(store.patient_key(EHR, "canary"))
        keys.append(store.patient_key(EHR, "Patient/canary"))
        keys.append(store.patient_key("https://other.example.org", "canary"))
        for user in ("Patient/canary", "RelatedPerson/canary", "canary", None):
            await store.record_call(call(patient_key=keys[0], user=user), [])
        await store.first_use("canary", "canary", int(time.time()) + 60)
        shown = ShownFinding("f", store.seal("canary"), 2, NOW, NOW + timedelta(hours=1))
        await store.remember(keys[0], [shown])

    run(url, use)
    assert keys[0] == keys[1] != keys[2]

    async def later(store: Store) -> None:
        assert store.patient_key(EHR, "canary") == keys[0]  # the secret is that of the database

    run(url, later)
    everything = [row for table in db.metadata.tables.values() for row in rows(url, table)]
    assert len(everything) >= 7
    assert "canary" not in str(everything)
    users = {str(user[0]) for user in rows(url, "SELECT user_ref FROM calls")}
    assert {user.partition("/")[0] for user in users} == {"Patient", "RelatedPerson", "other", ""}


def test_the_file_is_for_its_owner_only(sqlite: str, tmp_path: Path) -> None:
    async def use(store: Store) -> None:
        await store.record_call(call(), [])
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}

    run(sqlite, use)


def test_texts_that_databases_cannot_hold_are_kept_as_far_as_they_can(url: str) -> None:
    one = call()
    issued = card(one)

    class Odd:
        card, outcome, outcomeTimestamp = issued.uuid.upper(), "overridden", NOW
        acceptedSuggestions = ()

        class overrideReason:
            reason = None
            userComment = "a\0b\ud800c ✓"

    async def use(store: Store) -> None:
        await store.record_call(one, [issued])
        await store.add_feedback("twitch", [Odd()], EHR)
        (rule,) = await store.summary()
        assert (rule.overridden, rule.comments) == (1, 1)

    run(url, use)
    assert rows(url, "SELECT comment FROM feedback") == [("a\ufffdb\ufffdc ✓",)]


# ---------------------------------------------------------------- many at once


def test_many_calls_share_transactions_and_each_gets_its_own_answer(url: str) -> None:
    async def use(store: Store) -> None:
        commits = itertools.count()
        sa.event.listen(store._writing, "commit", lambda connection: next(commits))
        calls = [call() for _ in range(200)]
        soon = int(time.time()) + 60
        tokens = [store.first_use(EHR, str(n % 50), soon) for n in range(200)]
        answers = await asyncio.gather(
            *(store.record_call(one, [card(one)]) for one in calls), *tokens
        )
        assert answers[:200] == [None] * 200
        assert sum(answers[200:]) == 50
        assert next(commits) < 100
        assert (await store.summary())[0].shown == 200

    run(url, use)


def test_one_that_is_at_fault_does_not_spoil_the_others(url: str) -> None:
    async def use(store: Store) -> None:
        good = [call() for _ in range(20)]
        bad = call(at=datetime(2026, 11, 1))  # noqa: DTZ001 - that is its fault
        answers = await asyncio.gather(
            *(store.record_call(one, []) for one in [*good[:10], bad, *good[10:]]),
            return_exceptions=True,
        )
        assert isinstance(answers.pop(10), ValueError)
        assert answers == [None] * 20
        assert await store.ready()

    run(url, use)
    assert rows(url, "SELECT count(*) FROM calls") == [(20,)]


_PROCESS = """
import asyncio, json, sys, time
from datetime import UTC, datetime
from uuid import uuid4
from cds.service.store import CallRecord, IssuedCard, Store

async def main(url, jtis):
    async with Store(url) as store:
        async def one(jti):
            id_ = str(uuid4())
            await store.record_call(
                CallRecord(id_, datetime.now(UTC), "r", "i", None, "s", "h", None, None, [], [],
                           200, "cards"),
                [IssuedCard(str(uuid4()), id_, "s", [{"rule": "r", "version": "1"}], "soon", "g")],
            )
            return await store.first_use("i", str(jti), int(time.time()) + 600)
        won = await asyncio.gather(*(one(jti) for jti in range(jtis)))
        print(json.dumps([jti for jti, first in enumerate(won) if first]))

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


@pytest.mark.slow
def test_several_processes_make_and_use_one_database_at_once(url: str) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", _PROCESS, url, "60"], stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    won = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert sorted(itertools.chain(*won)) == list(range(60))
    assert rows(url, "SELECT count(*) FROM calls") == [(240,)]
    assert rows(url, VERSIONS) == [(db.SCHEMA,)]
    assert rows(url, "SELECT count(*) FROM secrets") == [(1,)]


def test_sqlite_waits_for_the_disk_where_it_has_to(sqlite: str) -> None:
    async def use(store: Store) -> None:
        levels: list[int] = []

        @sa.event.listens_for(store._writing, "commit")
        def _note(connection: sa.Connection) -> None:
            levels.append(connection.exec_driver_sql("PRAGMA synchronous").scalar_one())

        await store.record_call(call(), [])
        await store.first_use(EHR, "j", int(time.time()) + 60)
        await store.add_feedback("twitch", [said(str(uuid4()))], EHR)
        full, normal = 2, 1
        assert [level for level in levels if level == full] == [full, full]
        assert normal in levels
        (mode,) = rows(sqlite, "PRAGMA journal_mode")[0]
        assert mode == "wal"

    run(sqlite, use)


@pytest.mark.slow
def test_what_was_recorded_outlives_a_killed_process(url: str) -> None:
    script = _PROCESS.replace("won = await", "print('begun', flush=True); won = await").replace(
        "return await store", "print(id_, flush=True); await asyncio.sleep(60); await store"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, url, "5"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    ids = {process.stdout.readline().strip() for _ in range(5)}
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert {row[0] for row in rows(url, "SELECT id FROM calls")} == ids

    async def use(store: Store) -> None:
        assert await store.ready()

    run(url, use)


# ---------------------------------------------------------------- versions of the tables


def test_the_migrations_make_the_tables_that_the_code_knows(url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    db.prepare(db.parsed(url))
    config = Config()
    config.set_main_option("script_location", "cds.service:migrations")
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [db.SCHEMA]
    engine = sa.create_engine(db.parsed(url))
    with engine.connect() as connection:
        options = {"version_table": db.VERSION_TABLE, "compare_type": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, db.metadata) == []
    engine.dispose()


def test_a_newer_version_of_the_tables_is_refused_with_words(url: str) -> None:
    db.prepare(db.parsed(url))
    engine = sa.create_engine(db.parsed(url))
    with engine.begin() as connection:
        connection.execute(sa.update(VERSIONS).values(version_num="0999"))
    engine.dispose()
    with pytest.raises(StoreUnusable, match=r"version 0999 .* up to 0001; install the newer"):
        asyncio.run(Store(url).open())
    assert rows(url, VERSIONS) == [("0999",)]


def test_without_migrating_nothing_is_made(url: str, tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable, match=r"no such database|no tables of this version"):
        asyncio.run(Store(url).open(migrate=False))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
        ("mysql://root:canary@host/name", "'mysql' cannot be used"),
        ("canary", "cannot be read"),
        ("sqlite:////no/such/folder/x.db", "No such file"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str, message: str) -> None:
    with pytest.raises(StoreUnusable, match=message) as caught:
        asyncio.run(Store(url).open())
    assert "canary" not in str(caught.value)


def test_an_unreachable_server_is_said_without_its_password(postgres: str) -> None:
    place = db.parsed(postgres)
    closed = f"postgresql://{place.username}:canary@{place.host}:1/{place.database}"
    with pytest.raises(StoreDown, match="gone") as caught:
        asyncio.run(Store(closed).open())
    assert "canary" not in str(caught.value)


# ---------------------------------------------------------------- the database fails


async def _down(awaitable: Awaitable[object], reason: str, seconds: float = 2.6) -> None:
    begun = time.monotonic()
    with pytest.raises(StoreDown) as caught:
        await awaitable
    assert caught.value.reason == reason
    assert time.monotonic() - begun < seconds


@pytest.mark.slow
def test_a_locked_file_is_waited_for_and_then_said(sqlite: str, tmp_path: Path) -> None:
    async def use(store: Store) -> None:
        other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        await _down(store.record_call(call(), []), "locked")
        assert await store.summary() == []  # readers need not wait
        assert not await store.ready()
        waiting = asyncio.create_task(store.record_call(call(), []))
        await asyncio.sleep(0.3)
        other.execute("ROLLBACK")
        await waiting
        assert await store.ready()
        other.close()

    run(sqlite, use)
    assert rows(sqlite, "SELECT count(*) FROM calls") == [(1,)]


@pytest.mark.slow
def test_a_locked_table_is_waited_for_and_then_said(postgres: str) -> None:
    async def use(store: Store) -> None:
        engine = sa.create_engine(db.parsed(postgres))
        with engine.begin() as other:
            other.execute(sa.text("LOCK TABLE calls, replays IN ACCESS EXCLUSIVE MODE"))
            await _down(store.record_call(call(), []), "timeout")
            await _down(store.record_call(call(), []), "timeout")
            assert not await store.ready()
        await asyncio.sleep(0.3)
        await store.record_call(call(), [])
        assert await store.ready()
        engine.dispose()

    run(postgres, use)
    # Whoever heard "down" may rely on it where the write was still waiting.
    assert rows(postgres, "SELECT count(*) FROM calls") == [(1,)]


_FULL = """
import asyncio, os, resource, sys
from datetime import UTC, datetime
from uuid import uuid4
from cds.service.store import CallRecord, Store, StoreDown

def call():
    return CallRecord(str(uuid4()), datetime.now(UTC), "r", "i", None, "s", "h", None, None, [],
                      ["x" * 100_000], 200, "no-cards")

async def main(url, path):
    async with Store(url) as store:
        await store.record_call(call(), [])
        limit = os.path.getsize(path + "-wal") + 4096
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        for _ in range(2):
            try:
                await store.record_call(call(), [])
            except StoreDown as error:
                print(error.reason, await store.ready())
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        await store.record_call(call(), [])
        print("again", await store.ready())

asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


@pytest.mark.slow
def test_a_full_disk_is_said_and_room_is_enough_to_go_on(sqlite: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _FULL, sqlite, str(tmp_path / "store.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    first, second, last = done.stdout.splitlines() or pytest.fail(done.stderr)
    assert {first.split()[0], second.split()[0]} <= {"full", "io"}
    assert last == "again True"
    assert rows(sqlite, "SELECT count(*) FROM calls") == [(2,)]


_READ_ONLY = """
import asyncio, os, sys
from datetime import UTC, datetime
from uuid import uuid4
from cds.service.store import CallRecord, Store, StoreDown

def call():
    return CallRecord(str(uuid4()), datetime.now(UTC), "r", "i", None, "s", "h", None, None, [],
                      [], 200, "no-cards")

async def main(url, path):
    async with Store(url) as store:
        await store.record_call(call(), [])
        os.chmod(path, 0o444)
        if not os.geteuid():
            os.chmod(os.path.dirname(path), 0o777)
            for name in os.listdir(os.path.dirname(path)):
                os.chmod(os.path.join(os.path.dirname(path), name), 0o444)
            os.seteuid(65534)  # root may write anything
        store._writing.dispose()
        try:
            await store.record_call(call(), [])
        except StoreDown as error:
            print(error.reason, await store.ready())
        if not os.getuid():
            os.seteuid(0)
        os.chmod(path, 0o600)
        await store.record_call(call(), [])
        print("again", await store.ready())

asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


@pytest.mark.slow
def test_a_file_that_cannot_be_written_is_said() -> None:
    # Not tmp_path: root lets nobody else into it.
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/store.db"
        command = [sys.executable, "-c", _READ_ONLY, f"sqlite:///{path}", path]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    first, last = done.stdout.splitlines() or pytest.fail(done.stderr)
    assert first in ("read-only False", "unreachable False")
    assert last == "again True"


@pytest.mark.slow
def test_a_lost_connection_is_made_anew_unseen(postgres: str) -> None:
    async def use(store: Store) -> None:
        await store.record_call(call(), [])
        for _ in range(2):
            _postgres(TERMINATE, postgres)
            await store.record_call(call(), [])
            assert await store.shown("nobody", ["f"]) == []
            assert await store.ready()

    run(postgres, use)
    assert rows(postgres, "SELECT count(*) FROM calls") == [(3,)]


@pytest.mark.slow
def test_a_server_that_is_gone_is_said_and_used_again_when_it_is_back(postgres: str) -> None:
    name = db.parsed(postgres).database

    async def use(store: Store) -> None:
        await store.record_call(call(), [])
        _postgres(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        _postgres(TERMINATE.replace("current_database()", f"'{name}'"))
        for asked in (
            store.record_call(call(), []),
            store.first_use("i", "j", int(time.time()) + 60),
            store.shown("nobody", ["f"]),
            store.summary(),
        ):
            await _down(asked, "gone")
        assert not await store.ready()
        _postgres(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        assert await store.ready()
        assert await store.first_use("i", "j", int(time.time()) + 60)
        await store.record_call(call(), [])
        assert await store.summary() == []

    run(postgres, use)
    assert rows(postgres, "SELECT count(*) FROM calls") == [(2,)]


@pytest.mark.slow
def test_more_than_can_wait_are_told_at_once(sqlite: str, tmp_path: Path) -> None:
    async def use(store: Store) -> None:
        other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        answers = await asyncio.gather(
            *(store.record_call(call(), []) for _ in range(1500)), return_exceptions=True
        )
        reasons = [one.reason for one in answers if isinstance(one, StoreDown)]
        assert len(reasons) == 1500
        assert reasons.count("overloaded") >= 200
        other.execute("ROLLBACK")
        other.close()
        await asyncio.sleep(0.5)
        await store.record_call(call(), [])

    run(sqlite, use)
    assert rows(sqlite, "SELECT count(*) FROM calls") == [(1,)]


def test_who_gave_up_is_not_recorded_later(sqlite: str, tmp_path: Path) -> None:
    async def use(store: Store) -> None:
        other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        first = asyncio.create_task(store.record_call(call(), []))  # holds up the writer
        await asyncio.sleep(0.1)
        second = asyncio.create_task(store.record_call(call(), []))
        await asyncio.sleep(0.1)
        second.cancel()
        other.execute("ROLLBACK")
        other.close()
        await first
        await store.record_call(call(), [])

    run(sqlite, use)
    assert rows(sqlite, "SELECT count(*) FROM calls") == [(2,)]


def test_a_closed_store_says_so_and_has_written_what_waited(url: str) -> None:
    async def main() -> None:
        store = Store(url)
        await _down(store.record_call(call(), []), "closed")
        await store.open()
        waiting = [asyncio.create_task(store.record_call(call(), [])) for _ in range(50)]
        await asyncio.sleep(0)
        await store.close()
        await asyncio.gather(*waiting)
        await _down(store.record_call(call(), []), "closed")
        assert not await store.ready()

    asyncio.run(main())
    assert rows(url, "SELECT count(*) FROM calls") == [(50,)]


# ---------------------------------------------------------------- tokens seen


def test_a_token_is_new_once_until_its_time_is_over(url: str) -> None:
    now = [1_000_000.0]

    async def use(store: Store) -> None:
        async def first(jti: str, iss: str = EHR) -> bool:
            return await store.first_use(iss, jti, 1_000_100)

        assert await first("a")
        assert not await first("a")
        assert await first("a", iss="https://other.example.org")
        assert await first("b\0\ud800" + "long" * 5000)
        assert sum(await asyncio.gather(*(first("c") for _ in range(50)))) == 1
        now[0] = 1_000_100.0
        assert not await first("a")
        now[0] = 1_000_101.0
        assert await first("a")  # cleaned away or not

    run(url, use, clock=lambda: now[0])


def test_what_is_over_is_forgotten_and_by_the_store_itself(url: str) -> None:
    now = [1_000_000.0]
    moment = datetime.fromtimestamp(now[0], UTC)

    async def use(store: Store) -> None:
        for number in range(20):
            await store.first_use(EHR, str(number), 1_000_000 + number * 10)
        shown = [
            ShownFinding(str(n), "e", 2, moment, moment + timedelta(seconds=n * 10))
            for n in range(20)
        ]
        await store.remember("p", shown)
        assert await store.forget_expired(1_000_095) == 20
        assert len(rows(url, db.replays)) == 10
        now[0] = 1_000_185.0
        store._cleaned = 0.0  # a minute later
        await store.first_use(EHR, "new", 2_000_000)
        async with asyncio.timeout(5):
            while len(rows(url, db.replays)) > 2:
                await asyncio.sleep(0.05)
        assert len(rows(url, db.shown)) == 1

    run(url, use, clock=lambda: now[0])


# ---------------------------------------------------------------- feedback


def test_feedback_said_again_changes_nothing_also_at_once(url: str) -> None:
    one = call()
    issued = card(one)
    item = said(issued.uuid, overrideReason=because("wrong", "I know better"))

    async def use(store: Store) -> None:
        await store.record_call(one, [issued])
        await asyncio.gather(*(store.add_feedback("twitch", [item, item], EHR) for _ in range(20)))
        first = await store.summary()
        await store.add_feedback("twitch", [item], EHR)
        assert await store.summary() == first
        assert first == [
            RuleFeedback(
                "low-potassium",
                shown=1,
                overridden=1,
                reasons=(Reason("https://example.org/reasons", "wrong", "It is wrong", 1),),
                comments=1,
            )
        ]

    run(url, use)
    assert rows(url, "SELECT comment FROM feedback") == [("I know better",)]


@pytest.mark.slow
def test_the_same_feedback_by_several_processes_is_one(url: str) -> None:
    script = """
import asyncio, sys
from cds.service.requests import parse_feedback
from cds.service.store import Store

async def main():
    items = parse_feedback({"feedback": [
        {"card": f"00000000-0000-4000-8000-{n:012}", "outcome": "overridden",
         "outcomeTimestamp": "2026-11-01T12:00:00Z"} for n in range(40)]})
    async with Store(sys.argv[1]) as store:
        await asyncio.gather(*(store.add_feedback("twitch", items[::-1], "i") for _ in range(5)))
        await asyncio.gather(*(store.add_feedback("twitch", [item], "i") for item in items))

asyncio.run(main())
"""
    db.prepare(db.parsed(url))
    processes = [subprocess.Popen([sys.executable, "-c", script, url]) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert rows(url, "SELECT count(*) FROM feedback") == [(40,)]


def test_many_items_of_one_call_are_all_kept(url: str) -> None:
    items = [said(str(uuid4())) for _ in range(450)]
    run(url, lambda store: store.add_feedback("twitch", items, EHR))
    assert rows(url, "SELECT count(*) FROM feedback") == [(450,)]


def test_times_with_an_offset_are_kept_in_utc(url: str) -> None:
    async def use(store: Store) -> None:
        items = [
            said(str(uuid4()), at="2026-11-01T07:30:00-05:00"),
            said(str(uuid4()), at="2026-11-01T12:30:00.5Z"),
        ]
        await store.add_feedback("twitch", items, EHR)

    run(url, use)
    found = sorted(str(row[0])[:19] for row in rows(url, "SELECT outcome_at FROM feedback"))
    assert found == ["2026-11-01 12:30:00"] * 2


def test_feedback_that_comes_before_its_card_counts_when_the_card_is_there(url: str) -> None:
    one = call()
    taken = str(uuid4())
    issued = card(one, suggestions=[taken])

    async def use(store: Store) -> None:
        item = said(issued.uuid, "accepted", acceptedSuggestions=[{"id": taken}])
        await store.add_feedback("twitch", [item], EHR)
        assert await store.summary() == [RuleFeedback(None, unmatched=1)]
        await store.record_call(one, [issued])
        assert await store.summary() == [RuleFeedback("low-potassium", shown=1, accepted=1)]

    run(url, use)


def test_feedback_belongs_to_a_card_of_the_same_client_and_service(url: str) -> None:
    one = call()
    issued = card(one)

    async def use(store: Store) -> None:
        await store.record_call(one, [issued])
        await store.add_feedback("twitch", [said(issued.uuid)], "https://other.example.org")
        await store.add_feedback("another", [said(issued.uuid)], EHR)
        assert await store.summary() == [
            RuleFeedback("low-potassium", shown=1),
            RuleFeedback(None, unmatched=2),
        ]

    run(url, use)


def test_the_latest_outcome_counts_and_silence_is_neither(url: str) -> None:
    one, two = call(), call(at=NOW - timedelta(days=9))
    first, second, third = card(one, "a", "b"), card(one, "b"), card(two, "b")
    taken = {"acceptedSuggestions": [{"id": str(uuid4())}]}  # one that no card has

    async def use(store: Store) -> None:
        await store.record_call(one, [first, second])
        await store.record_call(two, [third])
        await store.record_call(
            call(id="again", hook_instance=one.hook_instance),
            [card(one, "a", "b", uuid=first.uuid, call_id="again")],
        )
        items = [
            said(
                first.uuid,
                "accepted",
                "2026-11-01T14:00:00Z",
                **taken,
            ),
            said(first.uuid, "overridden", "2026-11-01T13:00:00Z", overrideReason=because("old")),
            said(second.uuid, overrideReason=because("late")),
            said(third.uuid),
        ]
        await store.add_feedback("twitch", items, EHR)
        system = "https://example.org/reasons"
        late, none = Reason(system, "late", "It is late", 1), Reason("", "", "", 1)
        assert await store.summary() == [
            RuleFeedback("a", shown=1, accepted=1, unknown_suggestions=1),
            RuleFeedback("b", 3, 1, 2, (none, late), unknown_suggestions=1),
        ]
        assert await store.summary(NOW - timedelta(days=1)) == [
            RuleFeedback("a", shown=1, accepted=1, unknown_suggestions=1),
            RuleFeedback("b", 2, 1, 1, (late,), unknown_suggestions=1),
        ]

    run(url, use)


def test_what_is_older_is_forgotten_with_all_that_hangs_on_it(url: str) -> None:
    old = [call(at=NOW - timedelta(days=30)) for _ in range(700)]  # more than one transaction
    young, twice = call(), call(at=NOW - timedelta(days=29))
    kept = card(young, suggestions=[str(uuid4())])
    received = [NOW - timedelta(days=29)]

    async def use(store: Store) -> None:
        cards = [card(one, suggestions=[str(uuid4())]) for one in old]
        for part in (slice(0, 400), slice(400, None)):
            pairs = zip(old[part], cards[part], strict=True)
            await asyncio.gather(*(store.record_call(one, [its]) for one, its in pairs))
        await store.record_call(young, [kept])
        await store.record_call(twice, [card(twice, uuid=kept.uuid)])
        await store.add_feedback("twitch", [said(str(uuid4()))], EHR)  # on an unknown card
        received[0] = NOW
        await store.add_feedback("twitch", [said(str(uuid4()))], EHR)
        items = [said(one.uuid, overrideReason=because("x", "canary")) for one in cards[:10]]
        await store.add_feedback("twitch", [*items, said(kept.uuid)], EHR)
        assert await store.forget_before(NOW - timedelta(days=1)) == Forgotten(701, 701, 11)
        assert await store.forget_before(NOW - timedelta(days=1)) == Forgotten()
        assert await store.summary() == [
            RuleFeedback("low-potassium", 1, 0, 1, (Reason("", "", "", 1),)),
            RuleFeedback(None, unmatched=1),
        ]
        assert len(rows(url, db.card_suggestions)) == 1

    run(url, use, clock=lambda: received[0].timestamp())
    if url.startswith("sqlite"):
        assert b"canary" not in Path(url.removeprefix("sqlite:///")).read_bytes()


# ---------------------------------------------------------------- what it costs


@pytest.mark.bench
def test_a_call_costs_the_event_loop_less_than_a_tenth_of_a_millisecond(sqlite: str) -> None:
    async def use(store: Store) -> None:
        calls = iter([call() for _ in range(2000)])

        async def some() -> None:
            for one in calls:
                await store.record_call(one, [card(one)])

        begun = time.thread_time()
        await asyncio.gather(*(some() for _ in range(200)))
        assert (time.thread_time() - begun) / 2000 < 100e-6

    run(sqlite, use)
