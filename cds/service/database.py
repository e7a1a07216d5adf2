"""The database of the service: its tables, how it is reached, its versions, what goes wrong.

SQLite (one machine, several processes) and PostgreSQL (several machines). What is asked of it
stands in `cds.service.store`; nobody else uses this module.

No patient's id, name or value has a column here. A patient is a keyed hash, whose key lies in the
same database: it keeps ids out of extracts and logs, not from somebody who has the whole file.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Connection, Dialect, Engine
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError

from cds.errors import CdsError, UsageError

__all__ = [
    "SCHEMA",
    "VERSION_TABLE",
    "StoreDown",
    "StoreUnusable",
    "accepted_suggestions",
    "again",
    "calls",
    "card_rules",
    "card_suggestions",
    "cards",
    "engine",
    "feedback",
    "metadata",
    "parsed",
    "prepare",
    "reason",
    "replays",
    "shown",
    "upsert",
]

SCHEMA: Final = "0001"
"""The newest version of the tables, the one that this code works with."""

VERSION_TABLE: Final = "cds_service_version"
"""Where the database says which version it has; its own name, so that others fit beside it."""

_MIGRATION_LOCK: Final = 0x6364_735F_7376_6301  # an advisory lock of PostgreSQL: any own number
_MIGRATION_SECONDS: Final = 60


class StoreDown(CdsError):
    """The database cannot do it now; the same may well work later.

    Args:
        reason: a code word, safe to log: "locked", "full", "read-only", "gone", "timeout",
            "overloaded", "closed", "io", "refused", "unreachable" or "damaged".
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the database cannot be used now ({reason})")


class StoreUnusable(UsageError):
    """The database cannot be used until somebody changes something: its URL, its version."""


# ---------------------------------------------------------------- tables


class Utc(sa.types.TypeDecorator[datetime]):
    """An instant. SQLite, which knows no zones, holds it as text in UTC that sorts by time."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return what goes to the database."""
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return what came from the database as an aware time in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = sa.MetaData()


def _text(name: str, *, key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, primary_key=key, nullable=False)


calls = sa.Table(
    "calls",
    metadata,
    _text("id", key=True),
    sa.Column("at", Utc, nullable=False, index=True),
    _text("request_id"),
    _text("iss"),
    # Not "user": in PostgreSQL that word, unquoted, is another thing.
    _text("user_ref"),
    _text("service"),
    _text("hook"),
    _text("hook_instance"),
    _text("patient_key"),
    sa.Column("rulesets", sa.JSON, nullable=False),
    sa.Column("rules", sa.JSON, nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    _text("outcome"),
    sa.Column("suppressed", sa.JSON, nullable=False),
)
cards = sa.Table(
    "cards",
    metadata,
    sa.Column("call_id", sa.Text, sa.ForeignKey("calls.id", ondelete="CASCADE"), primary_key=True),
    _text("uuid", key=True),
    _text("service"),
    _text("tier"),
    _text("card_group"),
    sa.Index("ix_cards_uuid", "uuid"),
)


def _of_card(name: str, *more: sa.Column[Any]) -> sa.Table:
    return sa.Table(
        name,
        metadata,
        _text("call_id", key=True),
        _text("uuid", key=True),
        *more,
        sa.ForeignKeyConstraint(
            ["call_id", "uuid"], ["cards.call_id", "cards.uuid"], ondelete="CASCADE"
        ),
    )


card_rules = _of_card("card_rules", _text("rule", key=True), _text("version"))
card_suggestions = _of_card("card_suggestions", _text("suggestion", key=True))
feedback = sa.Table(
    "feedback",
    metadata,
    # A hash of all that the client said: the same said again is the same row.
    _text("id", key=True),
    _text("iss"),
    _text("service"),
    _text("card"),
    _text("outcome"),
    sa.Column("outcome_at", Utc, nullable=False),
    _text("reason_system"),
    _text("reason_code"),
    _text("reason_display"),
    _text("comment"),
    sa.Column("received_at", Utc, nullable=False, index=True),
    sa.Index("ix_feedback_card", "card"),
)
accepted_suggestions = sa.Table(
    "accepted_suggestions",
    metadata,
    sa.Column(
        "feedback_id", sa.Text, sa.ForeignKey("feedback.id", ondelete="CASCADE"), primary_key=True
    ),
    _text("suggestion", key=True),
)
replays = sa.Table(
    "replays",
    metadata,
    _text("key", key=True),
    sa.Column("seen", sa.BigInteger, nullable=False),
    sa.Column("keep_until", sa.BigInteger, nullable=False, index=True),
)
shown = sa.Table(
    "shown",
    metadata,
    _text("patient_key", key=True),
    _text("finding", key=True),
    _text("evidence", key=True),
    sa.Column("tier", sa.Integer, nullable=False),
    _text("hook_instance"),
    sa.Column("at", Utc, nullable=False),
    sa.Column("keep_until", Utc, nullable=False, index=True),
)
_secrets = sa.Table("secrets", metadata, _text("name", key=True), _text("value"))


def upsert(dialect: Dialect, table: sa.Table) -> Any:
    """Return an INSERT that knows ON CONFLICT, in the dialect of the database."""
    return postgresql.insert(table) if dialect.name == "postgresql" else sqlite.insert(table)


# ---------------------------------------------------------------- connections


def parsed(url: str) -> URL:
    """Return the URL of a database that can be used. Raises: StoreUnusable."""
    try:
        found = sa.make_url(url)
        kind = found.get_backend_name()
    except (ArgumentError, ValueError):
        raise StoreUnusable(
            "the database's URL cannot be read; write for example sqlite:///cds-service.db or "
            "postgresql://user@host/name"
        ) from None
    if kind == "sqlite" and not (found.database and found.database != ":memory:"):
        raise StoreUnusable("a SQLite database needs a file: sqlite:///cds-service.db")
    if kind == "postgresql":
        return found.set(drivername="postgresql+psycopg")
    if kind != "sqlite":
        raise StoreUnusable(f"a database '{kind}' cannot be used; use sqlite or postgresql")
    return found.set(drivername="sqlite", query={})


def engine(url: URL, wait_seconds: float, *, size: int = 1, writes: bool = False) -> Engine:
    """Return an engine with at most `size` connections that wait about `wait_seconds`.

    With the execution option `durable`, SQLite waits at a commit until the disk has it; PostgreSQL
    always does (synchronous_commit), unless its owner wants otherwise.
    """
    shared: dict[str, Any] = {
        "poolclass": sa.QueuePool,
        "pool_size": size,
        "max_overflow": 0,
        "pool_timeout": wait_seconds,
        # What a statement was given may be a clinician's comment.
        "hide_parameters": True,
        "json_serializer": lambda value: orjson.dumps(value).decode(),
        "json_deserializer": orjson.loads,
    }
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url, wait_seconds, writes, shared)
    milliseconds = int(wait_seconds * 1000)
    options = f"-c statement_timeout={milliseconds} -c timezone=UTC"
    given = url.query.get("options")
    if isinstance(given, str):
        options = f"{given} {options}"
    return sa.create_engine(
        url.difference_update_query(["options"]),
        connect_args={
            "options": options,
            "connect_timeout": max(2, min(10, int(wait_seconds))),  # libpq knows no less than 2
            "tcp_user_timeout": milliseconds,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "application_name": "cds-service",
        },
        **shared,
    )


def _sqlite_engine(url: URL, wait_seconds: float, writes: bool, shared: dict[str, Any]) -> Engine:
    # mode=rw: a file that was taken away is missed, and no empty one made in its place.
    uri = f"file:{quote(os.path.abspath(url.database or ''))}?mode=rw"

    def connect() -> sqlite3.Connection:
        # isolation_level None: transactions begin where we say so, also for PRAGMA and DDL.
        # The waiting ends before that of the caller, who then hears "locked" and not "timeout".
        connection = sqlite3.connect(
            uri,
            uri=True,
            timeout=wait_seconds * 0.75,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA foreign_keys=ON")
        return connection

    made = sa.create_engine("sqlite://", creator=connect, **shared)

    @sa.event.listens_for(made, "begin")
    def _begin(connection: Connection) -> None:
        if not writes:
            connection.exec_driver_sql("BEGIN")
            return
        # NORMAL loses the last transactions with the power, never with the process.
        durable = connection.get_execution_options().get("durable", False)
        connection.exec_driver_sql(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        # IMMEDIATE: waits for its turn; a reader that begins to write could only fail.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return made


def reason(error: SQLAlchemyError) -> str:
    """Return the code word of an error; its own text may quote what was written."""
    if isinstance(error, sa.exc.TimeoutError):
        return "timeout"
    if not isinstance(error, DBAPIError):
        return "refused"
    code = getattr(error.orig, "sqlite_errorname", None)
    if isinstance(code, str):
        for beginning, word in _SQLITE_REASONS.items():
            if code.startswith(beginning):
                return word
        return "refused"
    state = getattr(error.orig, "sqlstate", None)
    if error.connection_invalidated or (isinstance(error, OperationalError) and state is None):
        return "gone"
    return _POSTGRES_REASONS.get(state or "", "refused")


_SQLITE_REASONS: Final = {
    "SQLITE_BUSY": "locked",
    "SQLITE_LOCKED": "locked",
    "SQLITE_FULL": "full",
    "SQLITE_READONLY": "read-only",
    "SQLITE_PERM": "read-only",
    "SQLITE_IOERR": "io",
    "SQLITE_CANTOPEN": "unreachable",
    "SQLITE_CORRUPT": "damaged",
    "SQLITE_NOTADB": "damaged",
}
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_POSTGRES_REASONS: Final = {
    "25006": "read-only",
    "40001": "locked",
    "40P01": "locked",
    "53100": "full",
    "53200": "full",
    "53300": "unreachable",
    "55P03": "locked",
    "57014": "timeout",
    "57P01": "gone",
    "57P02": "gone",
    "57P03": "unreachable",
}


def again(error: SQLAlchemyError) -> bool:
    """Whether to try once more: the connection was lost, or two transactions were in a deadlock."""
    return isinstance(error, DBAPIError) and (
        error.connection_invalidated or getattr(error.orig, "sqlstate", None) in ("40001", "40P01")
    )


# ---------------------------------------------------------------- versions


def prepare(url: URL, *, migrate: bool = True) -> bytes:
    """Make or renew the tables, and return the database's secret.

    Several processes may do this at once: one does it, the others wait for it. Without
    `migrate` nothing is made and nothing changed.

    Raises: StoreUnusable where its version is newer than this code, or it is none of ours;
    StoreDown where it cannot be reached.
    """
    where = url.render_as_string(hide_password=True)
    if url.get_backend_name() == "sqlite":
        _make_file(url, migrate)
    preparing = engine(url, _MIGRATION_SECONDS, writes=migrate)
    try:
        with preparing.connect() as connection:
            if _version(connection, where) == SCHEMA:
                return _secret(connection)
        if not migrate:
            raise StoreUnusable(
                f"{where}: the database has no tables of this version; "
                "'cds serve' with this database makes them"
            )
        if url.get_backend_name() == "sqlite":
            _use_wal(preparing)
        with preparing.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(
                    sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK}
                )
            if _version(connection, where) != SCHEMA:
                _upgrade(connection)
            statement = upsert(connection.dialect, _secrets).on_conflict_do_nothing()
            connection.execute(statement, {"name": "hmac", "value": secrets.token_hex(32)})
            return _secret(connection)
    except DBAPIError as error:
        raise StoreDown(reason(error)) from None
    finally:
        preparing.dispose()


def _make_file(url: URL, migrate: bool) -> None:
    """Make an empty file that only its owner can read; what clinicians wrote will stand in it."""
    path = Path(url.database or "")
    if path.exists():
        return
    if not migrate:
        raise StoreUnusable(f"{path}: there is no such database")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise StoreUnusable(f"{path}: the database cannot be made: {error.strerror}") from None


def _use_wal(preparing: Engine) -> None:
    """Let readers not wait for writers; SQLite's own waiting does not cover this switch."""
    last = time.monotonic() + _MIGRATION_SECONDS
    while True:
        raw = preparing.raw_connection()
        try:
            raw.cursor().execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > last:
                raise StoreDown(
                    _SQLITE_REASONS.get(error.sqlite_errorname or "", "refused")
                ) from None
        finally:
            raw.close()
        time.sleep(0.02)


def _version(connection: Connection, where: str) -> str | None:
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    found = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalar()  # noqa: S608
    version = None if found is None else str(found)
    if version is not None and version > SCHEMA:
        raise StoreUnusable(
            f"{where}: the database has version {version} of the tables, this program knows them "
            f"up to {SCHEMA}; install the newer program again, or use another database"
        )
    return version


def _upgrade(connection: Connection) -> None:
    # Needed once in the life of a database, and slow to load.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "cds.service:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _secret(connection: Connection) -> bytes:
    return bytes.fromhex(
        connection.execute(
            sa.select(_secrets.c.value).where(_secrets.c.name == "hmac")
        ).scalar_one()
    )
