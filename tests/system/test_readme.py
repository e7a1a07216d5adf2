"""The README tells the truth: what its examples show is what the commands print."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = re.findall(r"```text\n\$ cds (.+)\n((?:.*\n)+?)```", (ROOT / "README.md").read_text())


def test_the_readme_has_examples() -> None:
    assert len(EXAMPLES) >= 2


@pytest.mark.parametrize(("command", "output"), EXAMPLES)
def test_an_example_of_the_readme_prints_what_stands_there(command: str, output: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "cds", *command.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert output in run.stdout
