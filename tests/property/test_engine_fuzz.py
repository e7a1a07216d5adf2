"""Many random programs in a process of their own: a crash of the C library is a failure.

Run as a program it takes a first seed and a number of programs, for as long as one likes:
``python tests/property/test_engine_fuzz.py 1000 20000``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from cds.engine import make_engine
from cds.model import Fact
from cds.program import AllOf, AnyOf, Node, Program
from engine_programs import fact, leaf, program, rule

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
        drawn = random_program(random)
        durable, reference = make_engine("durable", drawn), make_engine("reference", drawn)
        for _ in range(PATIENTS):
            facts = random_facts(random)
            expected = reference.run(facts)
            if durable.run(facts) != expected:
                raise AssertionError(f"seed {seed}: {facts} should give {expected}")
            firings += len(expected)
    sys.stdout.write(f"{count} programs, {count * PATIENTS} patients, {firings} firings agree\n")


PROPS = ("low", "high", "age", "id", "sid", "$s")
NUMBERS = (0, 1, 2**53, -(2**53), 2**53 - 1, 2**31, 2**32 + 1, 2 * 10**12)
KEYS = tuple(f"lab/{name}" for name in "abcdefgh")


def random_program(random: Random) -> Program:
    """Rules with nested trees, alternatives, chains, circles and stratified `unless`."""
    strata = {f"finding-{n}": random.randrange(3) for n in range(random.randint(1, 6))}
    rules = []
    for number in range(random.randint(1, 10)):
        finding, stratum = random.choice(sorted(strata.items()))
        below = [f for f in sorted(strata) if strata[f] < stratum]
        up_to = [f for f in sorted(strata) if strata[f] <= stratum]
        unless = None
        if random.random() < 0.4:
            unless = AnyOf(tuple(_tree(random, below, 1) for _ in range(random.randint(1, 3))))
        when = _tree(random, up_to, random.randint(0, 3))
        rules.append(rule(f"rule-{number}", when, unless, finding=finding, stratum=stratum))
    return program(*rules)


def random_facts(random: Random) -> list[Fact]:
    """Facts in any order, some of which no rule mentions, with some props missing."""
    keys = [key for key in (*KEYS, "lab/unheard-of") if random.random() < 0.7]
    random.shuffle(keys)
    return [
        fact(key, **{prop: _number(random) for prop in PROPS if random.random() < 0.8})
        for key in keys
    ]


def _tree(random: Random, findings: Sequence[str], depth: int) -> Node:
    if depth and random.random() < 0.8:
        parts = tuple(_tree(random, findings, depth - 1) for _ in range(random.randint(1, 4)))
        return random.choice((AllOf, AnyOf))(parts)
    if findings and random.random() < 0.3:
        return leaf(f"finding/{random.choice(findings)}")
    alternatives = [
        [
            (random.choice(PROPS), random.choice(("lt", "le", "gt", "ge")), _number(random))
            for _ in range(random.choice((0, 1, 1, 2, 3)))
        ]
        for _ in range(random.choice((1, 1, 1, 2, 3)))
    ]
    return leaf(random.choice(KEYS), *alternatives)


def _number(random: Random) -> int:
    # Mostly a few small numbers, so that facts meet thresholds and their neighbors.
    return random.randint(-1, 4) if random.random() < 0.8 else random.choice(NUMBERS)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
