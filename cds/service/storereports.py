"""The longer statements of the store: what became of cards, rule by rule, and forgetting."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cds.service import database as db

__all__ = [
    "Forgotten",
    "Reason",
    "RuleFeedback",
    "forget_chunk",
    "forget_expired",
    "overwrite",
    "summary",
]

_CHUNK: Final = 500  # calls forgotten in one transaction, so that a running service can go on


@dataclass(frozen=True, slots=True)
class Reason:
    """Why cards were overridden, and how many; without a code where the user picked none."""

    system: str
    code: str
    display: str
    count: int


@dataclass(frozen=True, slots=True)
class RuleFeedback:
    """What became of the cards that a rule stands on.

    Args:
        rule: its id; None in the one entry for feedback on cards that nobody knows.
        shown: cards; `accepted` and `overridden` are those with that latest outcome, the others
            were never reported.
        reasons: of the overridden ones, the most frequent first.
        comments: how many of the reported ones have a user's comment.
        unknown_suggestions: suggestions accepted that the card does not have.
        unmatched: cards reported that nobody knows; 0 where there is a rule.
    """

    rule: str | None
    shown: int = 0
    accepted: int = 0
    overridden: int = 0
    reasons: tuple[Reason, ...] = ()
    comments: int = 0
    unknown_suggestions: int = 0
    unmatched: int = 0


@dataclass(frozen=True, slots=True)
class Forgotten:
    """How many rows were deleted."""

    calls: int = 0
    cards: int = 0
    feedback: int = 0

    def __add__(self, other: Forgotten) -> Forgotten:
        return Forgotten(
            self.calls + other.calls, self.cards + other.cards, self.feedback + other.feedback
        )


def forget_expired(connection: Connection, now: float) -> int:
    """Delete tokens and findings shown whose time is over; return how many."""
    count = 0
    moment = datetime.fromtimestamp(now, UTC)
    for statement in (
        sa.delete(db.replays).where(db.replays.c.keep_until < int(now)),
        sa.delete(db.shown).where(db.shown.c.keep_until < moment),
    ):
        count += connection.execute(statement).rowcount
    return count


def _issued(*, at_least: datetime | None = None) -> sa.Select[Any]:
    """Select the cards given (iss, service, uuid), each once: the same call gives the same card."""
    wanted = sa.select(db.calls.c.iss, db.cards.c.service, db.cards.c.uuid).join_from(
        db.cards, db.calls, db.cards.c.call_id == db.calls.c.id
    )
    if at_least is not None:
        wanted = wanted.where(db.calls.c.at >= at_least)
    return wanted.distinct()


def _same_card(issued: sa.FromClause, said: sa.FromClause) -> sa.ColumnElement[bool]:
    return sa.and_(
        issued.c.iss == said.c.iss,
        issued.c.service == said.c.service,
        issued.c.uuid == said.c.card,
    )


def forget_chunk(connection: Connection, before: datetime) -> Forgotten:
    """Delete some of what is older; return how much it was, at last nothing."""
    old = [
        id_
        for (id_,) in connection.execute(
            sa.select(db.calls.c.id)
            .where(db.calls.c.at < before)
            .order_by(db.calls.c.at)
            .limit(_CHUNK)
        )
    ]
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA secure_delete=ON")
    if not old:
        connection.execute(sa.delete(db.shown).where(db.shown.c.at < before))
        ids = (
            sa.select(db.feedback.c.id).where(db.feedback.c.received_at < before).limit(_CHUNK * 4)
        )
        statement = sa.delete(db.feedback).where(db.feedback.c.id.in_(ids.scalar_subquery()))
        return Forgotten(feedback=connection.execute(statement).rowcount)
    gone = sa.select(db.calls.c.iss, db.cards.c.service, db.cards.c.uuid).join_from(
        db.cards, db.calls, db.cards.c.call_id == db.calls.c.id
    )
    going = gone.where(db.calls.c.id.in_(old)).subquery()
    staying = gone.where(db.calls.c.at >= before).subquery()
    feedback = connection.execute(
        sa.delete(db.feedback).where(
            sa.exists().where(_same_card(going, db.feedback)),
            ~sa.exists().where(_same_card(staying, db.feedback)),
        )
    ).rowcount
    count = sa.select(sa.func.count()).select_from(db.cards).where(db.cards.c.call_id.in_(old))
    cards = connection.execute(count).scalar_one()
    calls = connection.execute(sa.delete(db.calls).where(db.calls.c.id.in_(old))).rowcount
    return Forgotten(calls, cards, feedback)


def overwrite(connection: Connection) -> None:
    """Empty SQLite's log of writes, in which deleted rows still stand."""
    if connection.dialect.name == "sqlite":
        # It cannot be done inside of the transaction that we are given.
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def summary(connection: Connection, since: datetime | None) -> list[RuleFeedback]:
    """Return what became of the cards since then, by rule; see `Store.summary`."""
    ranked = sa.select(
        db.feedback,
        sa.func.row_number()
        .over(
            partition_by=(db.feedback.c.iss, db.feedback.c.service, db.feedback.c.card),
            order_by=(
                db.feedback.c.outcome_at.desc(),
                db.feedback.c.received_at.desc(),
                db.feedback.c.id,
            ),
        )
        .label("place"),
    ).subquery()
    latest = sa.select(ranked).where(ranked.c.place == 1).cte("latest")
    issued = _issued(at_least=since).add_columns(db.card_rules.c.rule)
    issued = issued.join(
        db.card_rules,
        sa.and_(
            db.card_rules.c.call_id == db.cards.c.call_id, db.card_rules.c.uuid == db.cards.c.uuid
        ),
    )
    given = issued.cte("given")
    counts = _counts(connection, given, latest)
    reasons = _reasons(connection, given, latest)
    unknown = _unknown_suggestions(connection, given, latest)
    found = [
        RuleFeedback(
            rule,
            shown=numbers[0],
            accepted=numbers[1],
            overridden=numbers[2],
            reasons=tuple(reasons.get(rule, ())),
            comments=numbers[3],
            unknown_suggestions=unknown.get(rule, 0),
        )
        for rule, numbers in sorted(counts.items())
    ]
    unmatched = _unmatched(connection, latest, since)
    return [*found, RuleFeedback(None, unmatched=unmatched)] if unmatched else found


def _counts(connection: Connection, given: sa.CTE, latest: sa.CTE) -> dict[str, tuple[int, ...]]:
    def many(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
        return sa.func.sum(sa.case((condition, 1), else_=0))

    wanted = (
        sa.select(
            given.c.rule,
            sa.func.count(),
            many(latest.c.outcome == "accepted"),
            many(latest.c.outcome == "overridden"),
            many(latest.c.comment != ""),
        )
        .join_from(given, latest, _same_card(given, latest), isouter=True)
        .group_by(given.c.rule)
    )
    return {row[0]: tuple(int(n) for n in row[1:]) for row in connection.execute(wanted)}


def _reasons(connection: Connection, given: sa.CTE, latest: sa.CTE) -> dict[str, list[Reason]]:
    code = (latest.c.reason_system, latest.c.reason_code)
    wanted = (
        sa.select(given.c.rule, *code, sa.func.max(latest.c.reason_display), sa.func.count())
        .join_from(given, latest, _same_card(given, latest))
        .where(latest.c.outcome == "overridden")
        .group_by(given.c.rule, *code)
    )
    found: dict[str, list[Reason]] = {}
    for rule, *reason in connection.execute(wanted):
        found.setdefault(rule, []).append(Reason(*reason))
    for reasons in found.values():
        reasons.sort(key=lambda reason: (-reason.count, reason.system, reason.code))
    return found


def _unknown_suggestions(connection: Connection, given: sa.CTE, latest: sa.CTE) -> dict[str, int]:
    taken = db.accepted_suggestions
    known = (
        sa.exists()
        .where(db.card_suggestions.c.uuid == latest.c.card)
        .where(db.card_suggestions.c.suggestion == taken.c.suggestion)
    )
    wanted = (
        sa.select(given.c.rule, sa.func.count())
        .join_from(given, latest, _same_card(given, latest))
        .join(taken, taken.c.feedback_id == latest.c.id)
        .where(~known)
        .group_by(given.c.rule)
    )
    return {rule: count for rule, count in connection.execute(wanted)}


def _unmatched(connection: Connection, latest: sa.CTE, since: datetime | None) -> int:
    issued = _issued().subquery()
    wanted = (
        sa.select(sa.func.count())
        .select_from(latest)
        .where(~sa.exists().where(_same_card(issued, latest)))
    )
    if since is not None:
        wanted = wanted.where(latest.c.received_at >= since)
    return int(connection.execute(wanted).scalar_one())
