"""The command `cds lint`: formats, exit codes, what it explains."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result

from cds import cli
from lint_folder import USUAL, rule, write

IDLE = rule("idle", "[{symptom: weakness}]", step="true", card="")
WRONG = rule("x", "[{sex: male}, {sex: female}]", family=None)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, ["lint", *arguments], prog_name="cds")


def write_here(*rules: str) -> None:
    write(Path("mine"), *rules)


def test_a_folder_without_fault_ends_with_0_and_a_summary() -> None:
    write_here()
    result = run("mine")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "0 errors, 0 warnings, 1 info, 0 accepted"


def test_an_error_is_shown_with_place_rule_and_remedy_and_ends_with_1() -> None:
    write_here(*USUAL, WRONG)
    result = run("mine")
    assert result.exit_code == 1
    head, text, fix, *_ = result.stdout.splitlines()
    lines = Path("mine/trial/rules.yaml").read_text().splitlines()
    number = next(n for n, line in enumerate(lines, 1) if "female" in line)
    assert head == f"mine/trial/rules.yaml:{number}: error CDS401"
    assert text == "    x: can never hold: the sex cannot be female and male at once"
    assert fix.startswith("    -> ")


def test_warnings_fail_only_where_that_is_asked_for() -> None:
    write_here(*USUAL, IDLE)
    assert run("mine").exit_code == 0
    assert run("mine", "--strict").exit_code == 1


def test_infos_are_counted_and_listed_on_demand() -> None:
    write_here()
    assert "Not listed without --all: CDS904 1" in run("mine").stdout
    assert "mine: info CDS904" in run("mine", "--all").stdout


def test_json_has_every_lint_with_its_place() -> None:
    write_here(*USUAL, IDLE)
    result = run("mine", "--format", "json")
    values = orjson.loads(result.stdout)
    assert (values["errors"], values["warnings"], values["infos"]) == (0, 1, 1)
    (lint,) = (e for e in values["lints"] if e["severity"] == "warning")
    assert lint["id"] == "CDS407"
    assert (lint["path"], lint["rule"]) == ("mine/trial/rules.yaml", "idle")
    assert {"line", "message", "fix", "accepted"} <= lint.keys()


def test_github_gets_one_annotation_for_each_lint() -> None:
    write_here(*USUAL, IDLE, WRONG)
    lines = run("mine", "--format", "github").stdout.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("::warning file=mine/trial/rules.yaml,line=")
    assert "title=CDS401::x: can never hold" in lines[1]
    assert "%0A" in lines[1]


def test_a_fault_of_yaml_is_a_lint_and_no_crash() -> None:
    write(Path("mine"), change=("trial/rules.yaml", "title: Rules", "title: [Rules"))
    result = run("mine")
    assert result.exit_code == 1
    assert "CDS101" in result.stdout
    assert result.stderr == ""


def test_what_cannot_be_linted_ends_with_2() -> None:
    Path("empty").mkdir()
    write(Path("mine"))
    subprocess.run(["git", "init", "--quiet", "mine"], check=True)  # noqa: S607
    unknown = ("mine", "--against", "no-rev")
    for arguments in (("empty",), ("nowhere",), ("--explain", "CDS999"), unknown):
        result = run(*arguments)
        assert result.exit_code == 2, arguments
        assert result.stderr


def test_every_lint_is_listed_and_explained() -> None:
    listed: list[dict[str, Any]] = orjson.loads(run("--list", "--format", "json").stdout)
    assert [e["id"] for e in listed] == sorted(e["id"] for e in listed)
    text = run("--list").stdout
    for entry in listed:
        assert entry["id"] in text
        explained = run("--explain", entry["id"].lower())
        assert explained.exit_code == 0
        assert explained.stdout.startswith(f"{entry['id']} ({entry['severity']})")
        assert "-> " in explained.stdout


def test_an_explanation_can_be_had_as_json() -> None:
    values = orjson.loads(run("--explain", "CDS301", "--format", "json").stdout)
    assert set(values) == {"id", "severity", "title", "why", "fix"}
