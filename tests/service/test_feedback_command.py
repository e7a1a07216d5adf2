"""`cds feedback`: the command, on a real database."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cds import cli
from cds.service.requests import parse_feedback
from cds.service.store import CallRecord, IssuedCard, Store

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
SYSTEM = "https://example.org/reasons"


def cards_of(call: CallRecord, count: int, *rules: str) -> list[IssuedCard]:
    return [
        IssuedCard(
            f"{call.id:0>8}-0000-4000-8000-{number:012}",
            call.id,
            "twitch",
            [{"rule": rule, "version": "1.0.0"} for rule in rules],
            "urgent",
            "electrolytes",
        )
        for number in range(count)
    ]


def call(id_: str, at: datetime) -> CallRecord:
    return CallRecord(
        id_, at, "r", "i", None, "twitch", "patient-view", None, None, [], [], 200, "cards"
    )


async def _fill(url: str) -> None:
    new, old = call("1", NOW), call("2", NOW - timedelta(days=40))
    cards = cards_of(new, 4, "low-potassium")
    override = {"outcome": "overridden", "outcomeTimestamp": "2026-11-01T12:00:00Z"}
    reason = {"code": "=wrong", "system": SYSTEM, "display": "=wrong\x1b[31m, patient"}
    items = [
        {**override, "card": cards[0].uuid, "overrideReason": {"reason": reason}},
        {**override, "card": cards[1].uuid, "overrideReason": {"userComment": "canary"}},
        {
            "card": cards[2].uuid,
            "outcome": "accepted",
            "outcomeTimestamp": "2026-11-01T12:00:00Z",
            "acceptedSuggestions": [{"id": "00000000-0000-4000-8000-00000000000a"}],
        },
        {**override, "card": "00000000-0000-4000-8000-00000000000b"},
    ]
    async with Store(url, clock=NOW.timestamp) as store:
        await store.record_call(new, cards)
        await store.record_call(old, cards_of(old, 1, "low-potassium", "tremor"))
        await store.add_feedback("twitch", parse_feedback({"feedback": items}), "i")


@pytest.fixture
def database(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/store.db"
    asyncio.run(_fill(url))
    return url


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(cli.main, ["feedback", *arguments], prog_name="cds")


def test_text_says_what_became_of_the_cards_of_each_rule(database: str) -> None:
    result = run("--database", database)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        "low-potassium\n"
        "  shown 5, accepted 1, overridden 2, not reported 2\n"
        "    - 1: no reason picked\n"
        "    - 1: =wrong\\x1b[31m, patient (=wrong)\n"
        "    comments: 1 (they are in the database only)\n"
        "    accepted suggestions that the cards do not have: 1\n"
        "tremor\n"
        "  shown 1, accepted 0, overridden 0, not reported 1\n"
        "\n"
        "Cards reported that are not in this database: 1\n"
    )
    assert "canary" not in result.stdout


def test_json_has_all_of_it(database: str) -> None:
    rules = json.loads(run("--database", database, "--format", "json").stdout)["rules"]
    assert [rule["rule"] for rule in rules] == ["low-potassium", "tremor", None]
    assert rules[0]["reasons"][1] == {
        "system": SYSTEM,
        "code": "=wrong",
        "display": "=wrong\x1b[31m, patient",
        "count": 1,
    }
    assert rules[2]["unmatched"] == 1


def test_csv_has_a_line_for_each_rule_and_no_formula(database: str) -> None:
    lines = list(csv.DictReader(io.StringIO(run("--database", database, "--format", "csv").stdout)))
    assert [line["rule"] for line in lines] == ["low-potassium", "tremor", ""]
    assert (lines[0]["shown"], lines[0]["overridden"], lines[2]["unmatched"]) == ("5", "2", "1")
    assert not any(str(value).startswith(("=", "+", "-", "@")) for value in lines[0].values())


def test_since_counts_only_what_was_shown_since_then(database: str) -> None:
    rules = json.loads(
        run("--database", database, "--since", "2026-10-31", "--format", "json").stdout
    )
    assert [(r["rule"], r["shown"]) for r in rules["rules"]] == [("low-potassium", 4), (None, 0)]
    later = run("--database", database, "--since", "2026-11-02")
    assert later.stdout == "No card was recorded.\n"


def test_what_is_older_is_forgotten_and_counted(database: str, tmp_path: Path) -> None:
    result = run("--database", database, "--forget-before", "2026-10-01")
    assert " ".join(result.stdout.split()) == (
        "deleted what was recorded before 2026-10-01 00:00 UTC: 1 calls, 1 cards, "
        "0 reports of feedback"
    )
    again = run("--database", database, "--forget-before", "2026-10-01", "--format", "json")
    assert json.loads(again.stdout)["forgotten"] == {"calls": 0, "cards": 0, "feedback": 0}
    connection = sqlite3.connect(tmp_path / "store.db")
    assert connection.execute("SELECT id FROM calls").fetchall() == [("1",)]
    connection.close()


def test_the_database_may_be_named_elsewhere(database: str, tmp_path: Path) -> None:
    assert "low-potassium" in run(CDS_SERVICE_DATABASE_URL=database).stdout
    config = tmp_path / "service.toml"
    config.write_text(f'insecure_demo = true\ndatabase_url = "{database}"\n')
    assert "low-potassium" in run("--config", str(config)).stdout
    assert "low-potassium" in run(CDS_SERVICE_CONFIG=str(config)).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "which database?"),
        (("--database", "sqlite:////no/such.db"), "/no/such.db: there is no such database"),
        (("--database", "oracle://x/y"), "a database 'oracle' cannot be used"),
        (("--database", "x", "--config", __file__), "exclude each other"),
        (("--database", "x", "--since", "yesterday"), "is not a time"),
        (("--database", "x", "--forget-before", "2999-01-01"), "lies in the future"),
        (("--database", "x", "--forget-before", "2020-01-01", "--since", "2020-01-01"), "exclude"),
        (("--database", "x", "--forget-before", "2020-01-01", "--format", "csv"), "text or json"),
    ],
)
def test_what_cannot_be_used_is_said(arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_a_file_that_is_no_database_is_said(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("canary " * 500)
    result = run("--database", f"sqlite:///{path}")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "cds: the database cannot be used now (damaged)\n"


def test_without_the_packages_of_the_service_it_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['sqlalchemy'] = None; from cds.cli import main; "
        "main(['feedback', '--database', 'x'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("cds: 'cds feedback' needs sqlalchemy; install the service")
