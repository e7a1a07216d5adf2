"""Many random programs in a process of their own: a crash of the C library is a failure.

Run as a program it takes a first seed and a number of programs, for as long as one likes:
``python tests/property/test_engine_fuzz.py 1000 20000``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from cds.engine import make_engine
from engine_programs import described, random_facts, random_program

PATIENTS = 10
"""Patients for each program, one after another on the same engine."""


# What malloc fills fresh memory with: zeros mostly, or bytes that are never zero.
@pytest.mark.parametrize("perturb", ["0", "165"])
@pytest.mark.skipif(
    sys.version_info >= (3, 13),
    reason="durable_rules cannot be imported on CPython 3.13 and later",
)
def test_no_program_ends_the_process_or_makes_the_engines_differ(perturb: str) -> None:
    count = 2_000 if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else 150
    run = subprocess.run(
        [sys.executable, __file__, perturb, str(count)],
        env={
            **os.environ,
            "MALLOC_PERTURB_": perturb,
            "PYTHONPATH": os.pathsep.join((str(Path(__file__).parents[1]), *sys.path)),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.startswith(f"{count} programs, {count * PATIENTS} patients, ")


def main(first: int, count: int) -> None:
    """Compare the engines on `count` programs, seeded from `first`; raise at a difference."""
    firings = 0
    for seed in range(first, first + count):
        random = Random(seed)  # noqa: S311 - no secret depends on it
        program = random_program(random)
        durable, reference = make_engine("durable", program), make_engine("reference", program)
        for _ in range(PATIENTS):
            facts = random_facts(random)
            expected = reference.run(facts)
            if durable.run(facts) != expected:
                raise AssertionError(f"seed {seed}: {described(facts)} should give {expected}")
            firings += len(expected)
    sys.stdout.write(f"{count} programs, {count * PATIENTS} patients, {firings} firings agree\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
