"""The command `feedback`: what clinicians did with the cards of `cds serve`, rule by rule."""

from __future__ import annotations

import asyncio
import csv
import io
import os
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from cds.cli.common import moment, on_terminal, page, print_json, say, unusable

if TYPE_CHECKING:
    from cds.service.store import Forgotten, Reason, RuleFeedback, Store

__all__ = ["feedback"]

_DATABASE = "CDS_SERVICE_DATABASE_URL"
_CONFIG = "CDS_SERVICE_CONFIG"
_SECONDS = 600.0  # nobody waits for a card here
_NUMBERS = ("shown", "accepted", "overridden", "comments", "unknown_suggestions", "unmatched")


@click.command()
@click.option(
    "--database",
    metavar="URL",
    help=f"Database of the service, such as sqlite:///cds-service.db. Default: {_DATABASE}, else "
    "the one of the configuration.",
)
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help=f"Configuration of the service (TOML). Default: the one that {_CONFIG} names.",
)
@click.option(
    "--since",
    callback=moment,
    metavar="DATE",
    help="Count only cards shown since then, ISO 8601; a plain date means 00:00 UTC.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "csv"]),
    default="text",
    show_default=True,
)
@click.option(
    "--forget-before",
    callback=moment,
    metavar="DATE",
    help="Delete for good what was recorded before then: calls, their cards and the feedback on "
    "them. Says how many, and shows nothing else.",
)
def feedback(
    database: str | None,
    config: str | None,
    since: datetime | None,
    form: str,
    forget_before: datetime | None,
) -> None:
    """Show what clinicians did with the cards, rule by rule.

    A card counts for every rule that it stands on, and once, with the latest that was reported of
    it. A card of which nothing was reported may have been read or not.
    """
    if database is not None and config is not None:
        raise click.UsageError("--database and --config exclude each other")
    if forget_before is not None and since is not None:
        raise click.UsageError("--forget-before and --since exclude each other")
    if forget_before is not None and form == "csv":
        raise click.UsageError("--forget-before answers as text or json")
    if forget_before is not None and forget_before > datetime.now(UTC):
        raise click.BadParameter("lies in the future", param_hint="'--forget-before'")
    store = _store(database, config)
    if forget_before is not None:
        _print_forgotten(asyncio.run(_forget(store, forget_before)), forget_before, form)
        return
    rules = asyncio.run(_summary(store, since))
    match form:
        case "json":
            print_json({"rules": [asdict(rule) for rule in rules]})
        case "csv":
            click.echo(_csv(rules), nl=False)
        case _:
            _write(rules)


def _store(database: str | None, config: str | None) -> Store:
    """Return the store that the options and the environment name."""
    try:
        from cds.service.store import Store
    except ImportError as error:
        unusable(
            f"'cds feedback' needs {error.name}; install the service: pip install "
            "'cds-twitch[service]'"
        )
    if database is None and config is None:
        database = os.environ.get(_DATABASE)
        config = os.environ.get(_CONFIG)
    if not database:
        if not config:
            unusable(f"which database? Give --database or --config, or set {_DATABASE}")
        from cds.service.settings import load

        database = load(config).database_url
    return Store(database, wait_seconds=_SECONDS, report_seconds=_SECONDS)


async def _summary(store: Store, since: datetime | None) -> list[RuleFeedback]:
    await store.open(migrate=False)
    try:
        return await store.summary(since)
    finally:
        await store.close()


async def _forget(store: Store, before: datetime) -> Forgotten:
    await store.open(migrate=False)
    try:
        if on_terminal():
            say("deleting")
        return await store.forget_before(before)
    finally:
        await store.close()


# ---------------------------------------------------------------- layout


def _print_forgotten(forgotten: Forgotten, before: datetime, form: str) -> None:
    if form == "json":
        print_json({"before": before.isoformat(), "forgotten": asdict(forgotten)})
        return
    page().line(
        f"deleted what was recorded before {before:%Y-%m-%d %H:%M} UTC: {forgotten.calls} calls, "
        f"{forgotten.cards} cards, {forgotten.feedback} reports of feedback"
    )


def _write(rules: Sequence[RuleFeedback]) -> None:
    to = page()
    known = [rule for rule in rules if rule.rule is not None]
    if not known:
        to.line("No card was recorded.")
    for rule in known:
        silent = rule.shown - rule.accepted - rule.overridden
        to.line(rule.rule or "", style="bold")
        numbers = f"shown {rule.shown}, accepted {rule.accepted}, overridden {rule.overridden}"
        to.line(f"{numbers}, not reported {silent}", indent=2)
        for reason in rule.reasons:
            to.line(f"{reason.count}: {_reason(reason)}", indent=4, label="- ")
        if rule.comments:
            to.line(f"comments: {rule.comments} (they are in the database only)", indent=4)
        if rule.unknown_suggestions:
            to.line(
                f"accepted suggestions that the cards do not have: {rule.unknown_suggestions}",
                indent=4,
            )
    unmatched = sum(rule.unmatched for rule in rules)
    if unmatched:
        to.line()
        to.line(f"Cards reported that are not in this database: {unmatched}")


def _reason(reason: Reason) -> str:
    if not (reason.code or reason.display):
        return "no reason picked"
    code = f" ({reason.code})" if reason.display and reason.code else ""
    return f"{reason.display or reason.code}{code}"


def _csv(rules: Sequence[RuleFeedback]) -> str:
    """Return one line for each rule; that of unknown cards has no rule."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["rule", *_NUMBERS, "reasons"])
    for rule in rules:
        reasons = "; ".join(
            f"{reason.count} {_reason(reason)}" for reason in rule.reasons
        )  # begins with a digit: what a client wrote can be no formula of a spreadsheet
        writer.writerow([rule.rule or "", *(getattr(rule, n) for n in _NUMBERS), reasons])
    return out.getvalue()
