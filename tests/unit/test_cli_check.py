"""The command `cds check`: its options, what it prints and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result

from bad_rules import HEAD, below, folder, rule
from cds import cli
from cds.testing.properties import PROPERTIES

BAD = HEAD + rule("low", "soon", below("sodium", "135"), "lab: sodium, ge: 130, unit: mmol/L")
IDS = [each.id for each in PROPERTIES]


def check(*arguments: str | Path) -> Result:
    arguments = ("check", *arguments)
    return CliRunner().invoke(cli.main, [str(a) for a in arguments], prog_name="cds")


def test_sound_rules_end_with_a_line_for_each_property_and_a_summary(tmp_path: Path) -> None:
    result = check(folder(tmp_path), "--examples", "2")
    assert result.exit_code == 0
    assert [id for id in IDS if f"ok    {id}" not in result.stdout] == []
    assert f"{len(IDS)} of {len(IDS)} properties hold; " in result.stdout.splitlines()[-1]
    assert result.stdout.endswith("(seed 0)\n")


def test_a_fault_ends_with_1_and_prints_cases_to_paste(tmp_path: Path) -> None:
    result = check(folder(tmp_path, BAD), "--only", "worse-value", "--examples", "40")
    assert result.exit_code == 1
    assert "FAIL  worse-value" in result.stdout
    assert "none at 129 and none at 135" in result.stdout
    assert "      - lab: sodium 129 mmol/L now\n    expect:\n      tier: soon\n" in result.stdout
    assert "0 of 1 properties hold" in result.stdout


def test_json_holds_the_same(tmp_path: Path) -> None:
    result = check(
        folder(tmp_path, BAD),
        *("--only", "worse-value", "--only", "emergencies"),
        *("--examples", "40", "--seed", "7", "--format", "json"),
    )
    assert result.exit_code == 1
    said = orjson.loads(result.stdout)
    assert said["seed"] == 7
    worse, emergencies = said["properties"]
    assert worse["id"] == "worse-value"
    assert worse["holds"] is False
    assert worse["message"].startswith("sodium: soon at 130 mmol/L")
    assert all(case.startswith("  - name: ") for case in worse["cases"])
    assert emergencies["holds"] is None
    assert emergencies["skipped"] == "no rule makes an emergency"
    assert {"id", "sentence", "holds", "examples"} <= emergencies.keys()


def test_a_group_is_checked_with_the_groups_beside_it(tmp_path: Path) -> None:
    folder(tmp_path, HEAD + rule("other", "soon", "finding: low"), group="other")
    folder(tmp_path)
    result = check(tmp_path / "other", "--only", "order", "--examples", "2")
    assert result.exit_code == 0


def test_the_list_says_what_must_hold_and_checks_nothing(tmp_path: Path) -> None:
    result = check("--list")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == IDS
    listed = orjson.loads(check("--list", "--format", "json", "--only", "order").stdout)
    assert listed == [{"id": "order", "sentence": "The order of the resources changes nothing."}]


def test_a_random_seed_is_shown_so_that_the_run_can_be_repeated(tmp_path: Path) -> None:
    result = check(folder(tmp_path), "--only", "order", "--examples", "1", "--seed", "random")
    assert result.exit_code == 0
    assert "(seed " in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "worse-valu"], "there is no property 'worse-valu'; did you mean 'worse-value'"),
        (["--seed", "x"], "neither a whole number nor 'random'"),
        (["--examples", "0"], "0 is not in the range"),
        (["no-such-folder"], "does not exist"),
    ],
)
def test_arguments_that_cannot_be_used_end_with_2(arguments: list[str], said: str) -> None:
    result = check(*arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())


def test_rules_that_do_not_load_end_with_2(tmp_path: Path) -> None:
    home = folder(tmp_path, BAD.replace("sodium", "sodiun"))
    result = check(home)
    assert result.exit_code == 2
    assert "unknown analyte 'sodiun'" in result.stderr
    assert "rules.yaml:" in result.stderr


def test_a_site_profile_is_checked_with_the_rules_that_it_changes(tmp_path: Path) -> None:
    profile = tmp_path / "site.yaml"
    profile.write_text(
        "site: clinic\ntitle: A clinic\nversion: 1.0.0\n"
        "disable: [{rule: low, reason: Not wanted here}]\n",
        encoding="utf-8",
    )
    home = folder(tmp_path / "rules", BAD + rule("twitch", "soon", "symptom: twitching"))
    result = check(home, "--site", profile, "--only", "worse-value")
    assert result.exit_code == 0
    assert "not checked: no rule has a number to compare with" in result.stdout


def test_ctrl_c_ends_it_and_nothing_is_left_in_the_folder_of_whoever_runs_it(
    tmp_path: Path,
) -> None:
    home, here, scratch = folder(tmp_path / "rules"), tmp_path / "here", tmp_path / "scratch"
    here.mkdir()
    scratch.mkdir()
    command = [sys.executable, "-m", "cds", "check", str(home), "--examples", "100000"]
    environment = {**os.environ, "TMPDIR": str(scratch)}
    with subprocess.Popen(command, cwd=here, stdout=subprocess.PIPE, env=environment) as running:
        try:
            limit = time.monotonic() + 30
            while not list(scratch.glob("cds-check-*/*")) and time.monotonic() < limit:
                time.sleep(0.05)  # until Hypothesis has written something
            running.send_signal(signal.SIGINT)
            assert running.communicate(timeout=30)[0] == b""
        finally:
            running.kill()
    assert time.monotonic() < limit
    assert running.returncode == 130
    assert list(here.iterdir()) == []
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("module", ["hypothesis", "markdown_it"])
def test_without_its_libraries_it_says_what_to_install(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    result = check()
    assert result.exit_code == 2
    assert f"missing: {module}" in result.stderr
    assert "pip install 'cds-twitch[test]'" in result.stderr
