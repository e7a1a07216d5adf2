"""Rules that other installed packages bring: found, and never silently passed over."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cds.errors import RuleErrors
from cds.rules import load_rulesets
from cds.shipped import installed, shipped

ROOT = Path(__file__).resolve().parents[2]
RULES = """\
group: acme
title: Rules of Acme
version: 2.0.0
rules:
  - id: acme-low-sodium
    title: Low sodium
    tier: soon
    review: draft
    when: [{lab: sodium, lt: 134, unit: mmol/L}]
    evidence: [{source: Acme, statement: it is so}]
    card: {summary: Low, detail: It is low., patient: Call in the next few days.}
"""


def install(home: Path, entry: str, code: str = "", rules: str = "acme_rules/acme") -> None:
    """Put a distribution with one entry point into a folder of the search path."""
    (home / rules).mkdir(parents=True)
    (home / rules / "rules.yaml").write_text(RULES, encoding="utf-8")
    (home / "acme_rules" / "__init__.py").write_text(code, encoding="utf-8")
    info = home / "acme_rules-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-rules\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text(f"[cds.rulesets]\nacme = {entry}\n", encoding="utf-8")


def cds(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = [str(home), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, "-m", "cds", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the search path."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("acme")]:
        del sys.modules[name]


def test_rules_of_an_installed_package_are_run_beside_the_shipped_ones(tmp_path: Path) -> None:
    install(tmp_path, "acme_rules")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = subprocess.run(
        [sys.executable, "-m", "cds", "rules"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert "\nacme-low-sodium\n" in run.stdout
    assert "\nhypokalemia-severe\n" in run.stdout


@pytest.mark.parametrize(
    ("entry", "code", "rules"),
    [
        ("acme_rules", "", "acme_rules/acme"),  # the package's own folder
        ("acme_rules:FOLDER", "FOLDER = 'data'", "acme_rules/data/acme"),
        (
            "acme_rules:folder",
            "from pathlib import Path\ndef folder():\n    return Path(__file__).parent / 'data'",
            "acme_rules/data/acme",
        ),
    ],
    ids=["package", "path", "function"],
)
def test_a_package_announces_its_own_folder_or_any_other(
    home: Path, entry: str, code: str, rules: str
) -> None:
    install(home, entry, code, rules)
    assert installed() == ((home / rules).parent,)


def test_folders_that_are_named_are_the_only_ones(home: Path) -> None:
    install(home, "acme_rules")
    named = load_rulesets(shipped("rulesets")).program.by_id
    assert "hypokalemia-severe" in named
    assert "acme-low-sodium" not in named


@pytest.mark.parametrize(
    ("entry", "code", "said"),
    [
        ("acme_rules", "raise RuntimeError('no license')", "RuntimeError: no license"),
        ("acme_gone", "", "ModuleNotFoundError: No module named 'acme_gone'"),
        ("acme_rules:FOLDER", "FOLDER = 'gone'", "there is no folder"),
        ("acme_rules:FOLDER", "FOLDER = 7", "TypeError"),
    ],
)
def test_an_installed_package_whose_rules_cannot_be_found_is_an_error_that_names_it(
    home: Path, entry: str, code: str, said: str
) -> None:
    install(home, entry, code)
    with pytest.raises(RuleErrors) as error:
        load_rulesets()
    assert "the installed package acme-rules 2.0 announces rules 'acme'" in str(error.value)
    assert said in str(error.value)
    assert "repair or uninstall it" in str(error.value)


def test_a_fault_in_the_rules_of_an_installed_package_names_its_file(home: Path) -> None:
    install(home, "acme_rules")
    file = home / "acme_rules" / "acme" / "rules.yaml"
    file.write_text(RULES.replace("acme-low-sodium", "hypokalemia-mild"), encoding="utf-8")
    with pytest.raises(RuleErrors) as error:
        load_rulesets()
    assert f"{file}:5: rule 'hypokalemia-mild': the id is already used in" in str(error.value)
