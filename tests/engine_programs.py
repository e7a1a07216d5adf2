"""Small programs and facts for tests of the engines, given or drawn at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from cds.model import Fact, Source
from cds.rules import (
    All,
    Any_,
    Atom,
    CompiledRule,
    Evidence,
    FindingCriterion,
    Leaf,
    Node,
    Program,
    Rule,
    Test,
    leaves,
)

PROPS = ("low", "high", "age", "id", "sid", "$s")
"""Some names are those that durable_rules uses itself."""

NUMBERS = (0, 1, 2, 3, 4, -1, -7, 2**53, -(2**53), 2**53 - 1, 2**31, 2**32 + 1, 2 * 10**12)

_CRITERION = FindingCriterion(finding="any")
_EVIDENCE = (Evidence(source="a test", statement="a test"),)


def leaf(key: str, *alternatives: Sequence[tuple[str, str, int]]) -> Leaf:
    """A criterion over one fact; without alternatives it only has to be there."""
    atoms = tuple(Atom(key, tuple(Test(*t) for t in tests)) for tests in alternatives or ((),))
    return Leaf(_CRITERION, key, atoms)


def rule(
    id_: str,
    when: Node,
    unless: Node | None = None,
    *,
    finding: str | None = None,
    stratum: int = 0,
    stands_in: bool = False,
) -> CompiledRule:
    model = Rule(
        id=id_,
        title=id_,
        review="draft",
        tier="info",
        finding=finding,
        stands_in_from="urgent" if stands_in else None,
        evidence=_EVIDENCE,
    )
    return CompiledRule(model, "group", f"finding/{model.finding_id}", stratum, when, unless)


def program(*rules: CompiledRule) -> Program:
    keys = {leaf.key for r in rules for leaf in (*leaves(r.when), *leaves(r.unless))}
    return Program(rules, frozenset(keys), ())


def fact(key: str, resource: str | None = None, **props: int) -> Fact:
    kind, _, concept = key.partition("/")
    return Fact(key, kind, concept, props, (Source(resource),) if resource else ())


# ---------------------------------------------------------------- drawn at random

_KEYS = tuple(f"lab/{name}" for name in "abcdefgh")


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
            unless = Any_(tuple(_tree(random, below, 1) for _ in range(random.randint(1, 3))))
        when = _tree(random, up_to, random.randint(0, 3))
        rules.append(rule(f"rule-{number}", when, unless, finding=finding, stratum=stratum))
    return program(*rules)


def random_facts(random: Random) -> list[Fact]:
    """Facts in any order, some of which no rule mentions, with some props missing."""
    keys = [key for key in (*_KEYS, "lab/unheard-of") if random.random() < 0.7]
    random.shuffle(keys)
    return [
        fact(key, **{prop: _number(random) for prop in PROPS if random.random() < 0.8})
        for key in keys
    ]


def _tree(random: Random, findings: Sequence[str], depth: int) -> Node:
    if depth and random.random() < 0.8:
        parts = tuple(_tree(random, findings, depth - 1) for _ in range(random.randint(1, 4)))
        return random.choice((All, Any_))(parts)
    if findings and random.random() < 0.3:
        return leaf(f"finding/{random.choice(findings)}")
    alternatives = [
        [
            (random.choice(PROPS), random.choice(("lt", "le", "gt", "ge")), _number(random))
            for _ in range(random.choice((0, 1, 1, 2, 3)))
        ]
        for _ in range(random.choice((1, 1, 1, 2, 3)))
    ]
    return leaf(random.choice(_KEYS), *alternatives)


def _number(random: Random) -> int:
    # Mostly a few small numbers, so that facts meet thresholds and their neighbors.
    return random.randint(-1, 4) if random.random() < 0.8 else random.choice(NUMBERS)


def described(facts: Sequence[Fact]) -> Mapping[str, Mapping[str, int]]:
    """The facts as one reads them in a failure."""
    return {f.key: dict(f.props) for f in facts}
