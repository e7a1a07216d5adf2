"""What the service keeps: calls, the cards they gave, what became of these, tokens seen.

`Store` asks the database from threads of its own, so that the event loop never waits for it. One
thread writes: whatever waits when a transaction ends goes into the next one together, so that a
call costs little and many calls cost one commit.

Every method either has done it when it returns or raises `StoreDown`, within the waiting time (2 s)
whatever the database does. After an error it recovers by itself. A write that took too long is
dropped if it was still waiting; one that the database was just given may have happened. All of
them can be repeated: the same call, card or feedback again changes nothing.

What stands in no specification is decided here:

* Feedback belongs to a card where client (`iss`), service and uuid are the same; else it is kept
  as unmatched, and counts as soon as the card's row is there (CH-127).
* The same card may be reported again (CH-124). What counts is its latest outcome, by
  `outcomeTimestamp`. A card that nobody reported counts as shown, as nothing else (CH-125).
* Patients, and users who are no practitioners, are kept as keyed hashes only.
* Calls, cards and feedback survive a loss of power when their method returned. Tokens seen and
  findings shown survive the end of the process.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final, Literal, Protocol, Self, TypeVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from cds.service import database as db
from cds.service import storereports as reports
from cds.service.database import StoreDown, StoreUnusable
from cds.service.lanes import Asked, Lane
from cds.service.storereports import Forgotten, Reason, RuleFeedback

__all__ = [
    "CallRecord",
    "FeedbackLike",
    "Forgotten",
    "IssuedCard",
    "Reason",
    "RuleFeedback",
    "ShownFinding",
    "Store",
    "StoreDown",
    "StoreUnusable",
]

_log = logging.getLogger(__name__)

WAIT_SECONDS: Final = 2.0
_REPORT_SECONDS: Final = 20.0  # a summary reads everything
_TOGETHER: Final = 256  # calls of one transaction
_CLEANING_SECONDS: Final = 60.0
_FEEDBACK: Final = 200  # items of one call that are written together


# ---------------------------------------------------------------- what goes in and comes out


@dataclass(frozen=True, slots=True)
class IssuedCard:
    """A card that was given, without its texts. `rules` are ``{"rule": ..., "version": ...}``."""

    uuid: str
    call_id: str
    service: str
    rules: Sequence[Mapping[str, str]]
    tier: str
    group: str
    suggestions: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class CallRecord:
    """What is kept of one hook call. `at` is aware; None is kept as an empty text.

    `rulesets` are ``{"id", "version", "digest"}``, `rules` the ids of the rules of the findings
    shown, `suppressed` what was not shown again (`Repeats.audit` of suppression). `patient_key` is
    that of `Store.patient_key`, never an id.
    """

    id: str
    at: datetime
    request_id: str
    iss: str | None
    user: str | None
    service: str
    hook: str | None
    hook_instance: str | None
    patient_key: str | None
    rulesets: Sequence[Mapping[str, str]]
    rules: Sequence[str]
    status: int
    outcome: Literal["cards", "no-cards", "refused", "failed"]
    suppressed: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class ShownFinding:
    """A finding that was shown, by a keyed hash of what it rests on.

    `tier` is the number of `cds.model.Tier`. It is of use until `keep_until`.
    """

    finding: str
    evidence: str
    tier: int
    at: datetime
    keep_until: datetime
    hook_instance: str = ""


class _CodingLike(Protocol):
    @property
    def code(self) -> str | None: ...
    @property
    def system(self) -> str | None: ...
    @property
    def display(self) -> str | None: ...


class _OverrideLike(Protocol):
    @property
    def reason(self) -> _CodingLike | None: ...
    @property
    def userComment(self) -> str | None: ...


class _AcceptedLike(Protocol):
    @property
    def id(self) -> str: ...


class FeedbackLike(Protocol):
    """What a client says of one card (CDS Hooks 2.0, "Feedback"): a `requests.FeedbackItem`."""

    @property
    def card(self) -> str:
        """The uuid of the card."""

    @property
    def outcome(self) -> str:
        """One of "accepted", "overridden"."""

    @property
    def outcomeTimestamp(self) -> datetime:
        """When; aware."""

    @property
    def acceptedSuggestions(self) -> Sequence[_AcceptedLike]:
        """The suggestions taken."""

    @property
    def overrideReason(self) -> _OverrideLike | None:
        """Why not."""


# ---------------------------------------------------------------- what is written


@dataclass(frozen=True, slots=True)
class _Call:
    call: CallRecord
    cards: Sequence[IssuedCard]
    patient_key: str
    shown: Sequence[ShownFinding]


@dataclass(frozen=True, slots=True)
class _Feedback:
    service: str
    iss: str
    items: Sequence[FeedbackLike]
    at: datetime


@dataclass(frozen=True, slots=True)
class _FirstUse:
    key: str
    now: int
    keep_until: int


@dataclass(frozen=True, slots=True)
class _Shown:
    patient_key: str
    findings: Sequence[ShownFinding]


@dataclass(frozen=True, slots=True)
class _Do:
    """Anything else, by a function of the connection; `durable` as for calls."""

    do: Callable[[Connection], Any]
    durable: bool = False


_DURABLE: Final = (_Call, _Feedback)


@dataclass(slots=True)
class _Rows:
    """The rows of one transaction, by table. In each table they go in by key: no deadlock."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    cards: list[dict[str, Any]] = field(default_factory=list)
    card_rules: list[dict[str, Any]] = field(default_factory=list)
    card_suggestions: list[dict[str, Any]] = field(default_factory=list)
    feedback: list[dict[str, Any]] = field(default_factory=list)
    accepted_suggestions: list[dict[str, Any]] = field(default_factory=list)
    shown: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)
    replays: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add_call(self, what: _Call, user: str) -> None:
        call = what.call
        self.calls.append(
            {
                "id": _clean(call.id),
                "at": _utc(call.at),
                "request_id": _clean(call.request_id),
                "iss": _clean(call.iss),
                "user_ref": user,
                "service": _clean(call.service),
                "hook": _clean(call.hook),
                "hook_instance": _clean(call.hook_instance),
                "patient_key": _clean(call.patient_key),
                "rulesets": [dict(ruleset) for ruleset in call.rulesets],
                "rules": list(call.rules),
                "status": call.status,
                "outcome": call.outcome,
                "suppressed": list(call.suppressed),
            }
        )
        for card in what.cards:
            key = {"call_id": _clean(card.call_id), "uuid": _uuid(card.uuid)}
            texts = {"service": _clean(card.service), "tier": str(card.tier)}
            self.cards.append({**key, **texts, "card_group": _clean(card.group)})
            self.card_rules += [
                {**key, "rule": rule["rule"], "version": rule.get("version", "")}
                for rule in card.rules
            ]
            self.card_suggestions += [{**key, "suggestion": _uuid(s)} for s in card.suggestions]
        self.add_shown(what.patient_key, what.shown)

    def add_feedback(self, what: _Feedback) -> None:
        for item in what.items:
            why = item.overrideReason
            coding = why.reason if why else None
            row = {
                "iss": _clean(what.iss),
                "service": _clean(what.service),
                "card": _uuid(item.card),
                "outcome": item.outcome,
                "outcome_at": _utc(item.outcomeTimestamp),
                "reason_system": _clean(coding.system if coding else ""),
                "reason_code": _clean(coding.code if coding else ""),
                "reason_display": _clean(coding.display if coding else ""),
                "comment": _clean(why.userComment if why else ""),
            }
            accepted = sorted({_uuid(suggestion.id) for suggestion in item.acceptedSuggestions})
            said = json.dumps([*row.values(), accepted], default=str).encode()
            row |= {"id": sha256(said).hexdigest(), "received_at": what.at}
            self.feedback.append(row)
            self.accepted_suggestions += [
                {"feedback_id": row["id"], "suggestion": suggestion} for suggestion in accepted
            ]

    def add_shown(self, patient_key: str, findings: Sequence[ShownFinding]) -> None:
        for one in findings:
            self.shown[(patient_key, one.finding, one.evidence)] = {
                "patient_key": _clean(patient_key),
                "finding": one.finding,
                "evidence": one.evidence,
                "tier": one.tier,
                "hook_instance": _clean(one.hook_instance),
                "at": _utc(one.at),
                "keep_until": _utc(one.keep_until),
            }

    def write(self, connection: Connection) -> set[str]:
        """Write all of it; return the keys of the tokens that were new."""
        for table in (
            db.calls,
            db.cards,
            db.card_rules,
            db.card_suggestions,
            db.feedback,
            db.accepted_suggestions,
        ):
            rows: list[dict[str, Any]] = getattr(self, table.name)
            if rows:
                keys = [column.name for column in table.primary_key]
                rows.sort(key=lambda row: [row[key] for key in keys])
                statement = db.upsert(connection.dialect, table).on_conflict_do_nothing()
                connection.execute(statement, rows)
        if self.shown:
            statement = db.upsert(connection.dialect, db.shown)
            new = {name: statement.excluded[name] for name in _SHOWN_AGAIN}
            statement = statement.on_conflict_do_update(
                index_elements=list(db.shown.primary_key), set_=new
            )
            connection.execute(statement, [self.shown[key] for key in sorted(self.shown)])
        return self._first_uses(connection) if self.replays else set()

    def _first_uses(self, connection: Connection) -> set[str]:
        insert = db.upsert(connection.dialect, db.replays)
        statement = insert.on_conflict_do_update(
            index_elements=[db.replays.c.key],
            set_={"seen": insert.excluded.seen, "keep_until": insert.excluded.keep_until},
            # Only what has had its time: whether it was cleaned away yet must not matter.
            where=db.replays.c.keep_until < insert.excluded.seen,
        ).returning(db.replays.c.key)
        rows = [self.replays[key] for key in sorted(self.replays)]
        return set(connection.execute(statement, rows).scalars())


_SHOWN_AGAIN: Final = ("tier", "hook_instance", "at", "keep_until")


def _clean(text: str | None) -> str:
    """Return a text that every database can hold: no NUL, no half of a surrogate pair."""
    if not text:
        return ""
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _uuid(text: str) -> str:
    """Return a UUID as we write it; what is none as it is, where it fits into an index."""
    try:
        return str(UUID(text))
    except ValueError:
        text = _clean(text)
        return text if len(text) <= 64 else "sha256:" + sha256(text.encode()).hexdigest()


def _utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("a time without zone cannot be kept")
    try:
        return moment.astimezone(UTC)
    except OverflowError:  # the first or the last day that there is
        return moment.replace(tzinfo=UTC)


# ---------------------------------------------------------------- the store

T = TypeVar("T")


class Store:
    """Keeps what happened, in SQLite or PostgreSQL. One for each process, for one event loop.

    Args:
        url: as of SQLAlchemy: ``sqlite:///file.db``, ``postgresql://user@host/name``.
        wait_seconds: how long anything may take before `StoreDown`.
        report_seconds: the same for `summary`.
        clock: seconds since the epoch.

    Raises: StoreUnusable for a URL that cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        wait_seconds: float = WAIT_SECONDS,
        report_seconds: float = _REPORT_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._url: URL = db.parsed(url)
        self._wait_seconds, self._report_seconds = wait_seconds, report_seconds
        self._clock = clock
        self._secret = b""
        self._lanes: list[Lane] = []
        self._engines: list[Engine] = []
        self._down: str | None = None  # why the last write failed
        self._cleaned = 0.0

    async def open(self, *, migrate: bool = True) -> None:
        """Make or renew the tables (in one process of all) and begin.

        Raises: StoreUnusable, also where the database is of a newer version; StoreDown.
        """
        self._secret = await asyncio.to_thread(db.prepare, self._url, migrate=migrate)
        wait, report = self._wait_seconds, self._report_seconds
        self._writing = db.engine(self._url, wait, writes=True)
        self._reading = db.engine(self._url, wait, size=2)
        self._reporting = db.engine(self._url, report)
        self._engines = [self._writing, self._reading, self._reporting]
        self._writer = Lane(
            "writer", self._write, wait_seconds=wait, together=_TOGETHER, idle=self._clean_up
        )
        self._readers = Lane("reader", self._reads(self._reading), wait_seconds=wait, threads=2)
        self._reporter = Lane("report", self._reads(self._reporting), wait_seconds=report)
        self._lanes = [self._writer, self._readers, self._reporter]

    async def close(self) -> None:
        """Write what is waiting, and end."""
        lanes, self._lanes = self._lanes, []
        await asyncio.gather(*(asyncio.to_thread(lane.close, self._wait_seconds) for lane in lanes))
        for engine in self._engines:
            engine.dispose()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    # ------------------------------------------------------------ hashes

    def seal(self, *parts: str) -> str:
        """Return a hash of texts that only this database's secret can make."""
        if not self._secret:
            raise StoreDown("closed")
        return hmac.digest(self._secret, json.dumps(parts).encode(), "sha256").hex()

    def patient_key(self, iss: str | None, patient_id: str) -> str:
        """Return what stands for a patient of a client; the same at every call."""
        return self.seal("patient", iss or "", patient_id.removeprefix("Patient/"))

    def _user(self, call: CallRecord) -> str:
        """Return who asked; a patient or a relative (whose resource names one) as a hash."""
        user = call.user or ""
        kind = user.rpartition("/")[0].rpartition("/")[2]
        if not user or kind in ("Practitioner", "PractitionerRole"):
            return _clean(user)
        kind = kind if kind in ("Patient", "RelatedPerson") else "other"
        return f"{kind}/{self.seal('user', call.iss or '', user)}"

    # ------------------------------------------------------------ writing

    async def record_call(
        self,
        call: CallRecord,
        cards: Sequence[IssuedCard],
        shown: Sequence[ShownFinding] = (),
    ) -> None:
        """Keep a call, its cards and the findings `shown` on them, all or nothing; durable.

        Raises: StoreDown.
        """
        await self._ask_writer(_Call(call, cards, call.patient_key or "", shown))

    async def add_feedback(
        self, service: str, items: Sequence[FeedbackLike], caller_iss: str | None
    ) -> None:
        """Keep what a client says of cards; durable. Said again, it changes nothing (CH-124).

        Raises: StoreDown.
        """
        now = datetime.fromtimestamp(self._clock(), UTC)
        for first in range(0, len(items), _FEEDBACK):
            part = items[first : first + _FEEDBACK]
            await self._ask_writer(_Feedback(service, caller_iss or "", part, now))

    async def first_use(self, iss: str, jti: str, expires: int) -> bool:
        """Return whether a token is seen for the first time, in all processes together (CH-138).

        `expires` is when it may be forgotten, in seconds since the epoch: the token's `exp` and
        whatever leeway its checker allows.

        Raises: StoreDown.
        """
        key = sha256(json.dumps([iss, jti]).encode()).hexdigest()
        first: bool = await self._ask_writer(_FirstUse(key, int(self._clock()), expires))
        return first

    async def remember(self, patient_key: str, findings: Sequence[ShownFinding]) -> None:
        """Keep that findings were shown for a patient. Raises: StoreDown."""
        if findings:
            await self._ask_writer(_Shown(patient_key, findings))

    async def forget_expired(self, now: float | None = None) -> int:
        """Delete tokens and findings whose time is over; return how many.

        The store does so by itself every minute in which anything is asked of it.

        Raises: StoreDown.
        """
        moment = self._clock() if now is None else now
        count: int = await self._ask_writer(_Do(lambda c: reports.forget_expired(c, moment)))
        return count

    async def forget_before(self, before: datetime) -> Forgotten:
        """Delete calls before an instant with all that hangs on them, and feedback of then.

        Feedback on a deleted card goes with it, however new. Others can write meanwhile.

        Raises: StoreDown; what was deleted until then stays so.
        """
        total, before = Forgotten(), _utc(before)
        while True:
            forget = _Do(lambda c: reports.forget_chunk(c, before), durable=True)
            deleted: Forgotten = await self._ask_writer(forget)
            if deleted == Forgotten():
                break
            total += deleted
        await self.forget_expired()
        await self._ask_writer(_Do(reports.overwrite))
        return total

    async def _ask_writer(self, what: Any) -> Any:
        if not self._lanes:
            raise StoreDown("closed")
        return await self._writer.ask(what)

    def _write(self, asked: list[Asked], *, retry: bool = True) -> None:
        """Do it all in one transaction; where one of them is at fault, each in its own."""
        committing = False
        try:
            durable = any(
                isinstance(one.what, _DURABLE) or (isinstance(one.what, _Do) and one.what.durable)
                for one in asked
            )
            with self._writing.connect() as connection:
                with connection.execution_options(durable=durable).begin() as transaction:
                    # Beginning may have taken longer than some of them could wait.
                    self._apply(connection, [one for one in asked if not one.future.done()])
                    committing = True
                    transaction.commit()
        except Exception as error:
            self._failed(error, asked, committing, retry)
        else:
            if self._down is not None:
                _log.warning("store: writing works again")
                self._down = None

    def _failed(self, error: Exception, asked: list[Asked], committing: bool, retry: bool) -> None:
        word = db.reason(error) if isinstance(error, SQLAlchemyError) else None
        if isinstance(error, SQLAlchemyError) and db.again(error) and retry and not committing:
            # The first to notice that the server was started anew need not suffer.
            self._write(asked, retry=False)
        elif word in (None, "refused") and len(asked) > 1:
            for one in asked:
                self._write([one], retry=False)
        else:
            if word is not None and self._down != word:
                _log.warning("store: writing failed: %s", word)
                self._down = word
            # What a connection in an unknown state would do next is not worth finding out.
            self._writing.dispose()
            for one in asked:
                one.error = error if word is None else StoreDown(word)

    def _apply(self, connection: Connection, asked: list[Asked]) -> None:
        rows = _Rows()
        claims: dict[str, Asked] = {}
        for one in asked:
            what = one.what
            if isinstance(what, _Call):
                rows.add_call(what, self._user(what.call))
            elif isinstance(what, _Feedback):
                rows.add_feedback(what)
            elif isinstance(what, _Shown):
                rows.add_shown(what.patient_key, what.findings)
            elif isinstance(what, _FirstUse):
                one.result = False  # unless it is the first of its key, and new
                if what.key not in claims:
                    claims[what.key] = one
                    times = {"seen": what.now, "keep_until": what.keep_until}
                    rows.replays[what.key] = {"key": what.key, **times}
        new = rows.write(connection)
        for key, one in claims.items():
            one.result = key in new
        for one in asked:
            if isinstance(one.what, _Do):
                one.result = one.what.do(connection)

    def _clean_up(self) -> None:
        """Delete what is over, so that what is kept stays small whoever forgets to ask for it."""
        now = time.monotonic()
        if now - self._cleaned < _CLEANING_SECONDS:
            return
        self._cleaned = now
        with self._writing.begin() as connection:
            reports.forget_expired(connection, self._clock())

    # ------------------------------------------------------------ reading

    async def shown(self, patient_key: str, findings: Sequence[str]) -> list[ShownFinding]:
        """Return when these findings were shown for a patient, as far as that is kept.

        Raises: StoreDown.
        """
        t = db.shown
        columns = (t.c.finding, t.c.evidence, t.c.tier, t.c.at, t.c.keep_until, t.c.hook_instance)
        wanted = sa.select(*columns).where(
            t.c.patient_key == patient_key, t.c.finding.in_(list(findings))
        )

        def read(connection: Connection) -> list[ShownFinding]:
            return [ShownFinding(*row) for row in connection.execute(wanted)]

        return await self._ask_reader(read)

    async def summary(self, since: datetime | None = None) -> list[RuleFeedback]:
        """Return what became of the cards shown since then, by rule.

        The entry for unknown cards comes last, where there is any; `since` is when their feedback
        came.

        Raises: StoreDown.
        """
        if not self._lanes:
            raise StoreDown("closed")
        moment = None if since is None else _utc(since)
        found: list[RuleFeedback] = await self._reporter.ask(lambda c: reports.summary(c, moment))
        return found

    async def ready(self) -> bool:
        """Whether calls can be kept now. Never raises."""
        try:
            if self._down is None:
                await self._ask_reader(lambda c: c.execute(sa.select(db.calls.c.id).limit(1)).all())
            else:  # only writing shows whether writing works
                await self._ask_writer(_Do(_probe))
        except StoreDown:
            return False
        return True

    async def _ask_reader(self, read: Callable[[Connection], T]) -> T:
        if not self._lanes:
            raise StoreDown("closed")
        answer: T = await self._readers.ask(read)
        return answer

    @staticmethod
    def _reads(engine: Engine) -> Callable[[list[Asked]], None]:
        def attempt(one: Asked) -> None:
            with engine.connect() as connection:
                one.result = one.what(connection)

        def work(asked: list[Asked]) -> None:
            for one in asked:
                try:
                    try:
                        attempt(one)
                    except SQLAlchemyError as error:
                        if not db.again(error):
                            raise
                        attempt(one)
                except SQLAlchemyError as error:
                    engine.dispose()
                    one.error = StoreDown(db.reason(error))
                except Exception as error:
                    one.error = error

        return work


def _probe(connection: Connection) -> None:
    """Write something that leaves nothing behind."""
    row = {"key": "probe", "seen": 0, "keep_until": 0}
    connection.execute(db.upsert(connection.dialect, db.replays).on_conflict_do_nothing(), row)
    connection.execute(sa.delete(db.replays).where(db.replays.c.key == "probe"))
