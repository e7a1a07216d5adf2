"""From nothing to a rule whose cases pass, with the commands that an author types."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

ROOT = Path(__file__).resolve().parents[2]

# What the author writes in place of what says TODO, in the order of the files.
RULE = {
    "TODO what was found, in a few words that are true in every case": (
        "Low potassium with muscle cramps"
    ),
    "TODO name of the guideline, article or site": "RCEM Learning, disorders of potassium balance",
    "TODO what it says about this rule, in your own words": (
        "Moderate hypokalemia, below 3.0 mmol/L, can cause cramps."
    ),
    '"TODO one line: what was found at {potassium}"': '"Potassium low at {potassium}, with cramps"',
    "TODO what to look for, and what to do next": (
        "Check magnesium and kidney function before potassium is replaced."
    ),
    "TODO what to do, and by when, in short plain sentences": (
        "The potassium in your blood is low. Call your doctor's office today."
    ),
}
FIRES = "fires: [low-potassium-cramp]"
NOT = "not: [low-potassium-cramp]"
CASES = {
    "TODO low-potassium-cramp: potassium of 2.9999 mmol/L, 7 days ago": (
        "Just below 3.0 and a week old, with a cramp, is urgent",
        FIRES,
    ),
    "TODO low-potassium-cramp: potassium of 3.0 mmol/L, 7 days ago": (
        "At 3.0 it is not low enough",
        NOT,
    ),
    "TODO low-potassium-cramp: potassium of 2.9999 mmol/L, 7 days 1 second ago": (
        "A result of more than a week ago says nothing of today",
        NOT,
    ),
    "TODO low-potassium-cramp: no potassium": ("A cramp alone is not enough", NOT),
    "TODO low-potassium-cramp: no record of muscle cramp": (
        "Low potassium alone is for another rule",
        NOT,
    ),
    "TODO low-potassium-cramp: muscle cramp denied": ("Nor with a cramp denied", NOT),
}


def cds(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command as it is typed, in the author's folder."""
    return subprocess.run(
        [sys.executable, "-m", "cds", *command.split()],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"},
        timeout=300,
    )


@pytest.mark.slow
def test_from_nothing_to_a_passing_rule(tmp_path: Path) -> None:
    group = tmp_path / "my-rules" / "trial"

    # 1. A skeleton.
    made = cds(
        tmp_path,
        "new-rule low-potassium-cramp --group trial --dir my-rules --tier urgent "
        "--lab potassium --below 3.0 --symptom cramp",
    )
    assert (made.returncode, made.stderr) == (0, "")
    assert "cds lint my-rules" in made.stdout
    assert "cds test my-rules" in made.stdout

    # 2. It loads, and nothing passes until the author has thought.
    failed = cds(tmp_path, "test my-rules")
    assert failed.returncode == 1
    assert "low-potassium-cramp should fire and does not" in failed.stdout
    assert failed.stdout.count("FAILED") == 6
    refused = cds(tmp_path, "lint my-rules")
    assert refused.returncode == 1
    assert refused.stdout.count("error CDS605") == len(RULE) + len(CASES) + 1

    # 3. The author fills in the rule and answers the cases.
    rules = (group / "rules.yaml").read_text(encoding="utf-8")
    for todo, text in RULE.items():
        assert rules.count(todo) == 1
        rules = rules.replace(todo, text)
    (group / "rules.yaml").write_text(rules, encoding="utf-8")
    head, *cases = (group / "cases.yaml").read_text(encoding="utf-8").split("  - name: ")
    answered = [head.partition("  # Does")[0]]
    for case, (todo, (name, answer)) in zip(cases, CASES.items(), strict=True):
        assert todo in case
        assert case.count(FIRES) == 1
        answered.append(case.replace(f'"{todo}"', name).replace(FIRES, answer))
    answered[1] = answered[1].replace("TODO words of the card", "Check magnesium")
    (group / "cases.yaml").write_text("  - name: ".join(answered), encoding="utf-8")

    # 4. Nothing is left open, and the cases would notice every small change of the rule.
    clean = cds(tmp_path, "lint my-rules")
    assert clean.returncode == 0, clean.stdout
    passed = cds(tmp_path, "test my-rules --fail-under 100")
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert "6 cases: 6 passed" in passed.stdout.splitlines()[-1]

    # 5. The card of the first case, and why the second one has none.
    assert cds(tmp_path, "test my-rules --export out").returncode == 0
    bundles = [p for p in (tmp_path / "out").rglob("*.json") if not p.name.endswith(".hook.json")]
    assert len(bundles) == 6
    shown = cds(tmp_path, "screen out --rulesets my-rules --as-of 2026-11-01 --format json")
    assert shown.returncode == 0, shown.stderr
    (card,) = (card for found in orjson.loads(shown.stdout) for card in found["cards"])
    assert card["summary"] == "Potassium low at 2.9999 mmol/L, with cramps"
    assert card["indicator"] == "warning"
    second = next(path for path in bundles if path.stem.startswith("at-3.0"))
    why = cds(
        tmp_path,
        f"explain {second} --rule low-potassium-cramp --rulesets my-rules --as-of 2026-11-01",
    )
    assert "NO      potassium < 3.0 mmol/L, at most 7 days old" in why.stdout
    assert "YES     symptom: muscle cramp" in why.stdout
