"""Chain: from facts to firings, by an engine that can be exchanged.

`make_engine` gives one of three engines for a compiled `Program`: *durable* (the C library
durable_rules), *reference* (plain Python, the meaning of a program written down) and *verify*,
which runs both and accepts no difference. What all of them share stands here: which facts
are accepted, and when a criterion holds. No engine knows FHIR, time, units or wording.

The meaning of a program: a rule holds when its `when` holds over the facts and the findings of
rules that hold, and its `unless` does not. Rules of a stratum wait until all lower strata
have nothing new to say, so that a finding can no longer turn up behind an `unless` that named
it (stratified negation; Apt, Blair and Walker 1988). A rule with `stands_in_from` is never
run: evaluate puts it in the place of others.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from operator import ge, gt, le, lt
from typing import Protocol

from cds.errors import EngineError, UsageError
from cds.model import Fact, Firing
from cds.program import AllOf, CompiledRule, Leaf, Node, Program

__all__ = [
    "ENGINES",
    "MAX_NUMBER",
    "Engine",
    "Known",
    "because",
    "holds",
    "make_engine",
    "taken_up",
]

ENGINES = ("auto", "durable", "reference", "verify")

MAX_NUMBER = 2**53
"""No number that an engine sees is larger: JSON readers keep whole numbers exact up to here."""

Known = Mapping[str, Mapping[str, int]]
"""What holds for one patient: keys of facts and findings to their props; findings have none."""

_OPERATORS = {"lt": lt, "le": le, "gt": gt, "ge": ge}


class Engine(Protocol):
    """Runs one program for one patient after another; keeps nothing between them."""

    name: str

    def run(self, facts: Sequence[Fact]) -> list[Firing]:
        """Return the rules that hold for one patient, in the order of the program.

        `because` has the keys of the criteria that make `when` hold, of alternatives all that
        hold. The order of the facts makes no difference.

        Raises: EngineError where two facts have one key, a prop is no whole number within
        ±2**53, or the engine failed. It never means "no finding".
        """
        ...


def make_engine(name: str, program: Program) -> Engine:
    """Return the engine of this name for a program.

    "auto" is durable on CPython up to 3.12 and reference where durable_rules cannot be
    imported by design: CPython 3.13 and later.

    Raises: UsageError for an unknown name; EngineError where durable_rules cannot be imported
    or cannot hold the program.
    """
    if name == "auto":
        old = sys.implementation.name == "cpython" and sys.version_info < (3, 13)
        name = "durable" if old else "reference"
    if name == "reference":
        from cds.engine.reference import ReferenceEngine

        return ReferenceEngine(program)
    if name == "verify":
        return _BothEngines(make_engine("durable", program), make_engine("reference", program))
    if name != "durable":
        raise UsageError(f"there is no engine '{name}'; take one of {', '.join(ENGINES)}")
    try:
        from cds.engine.durable import DurableEngine
    except ImportError as error:
        raise EngineError(
            f"the engine 'durable' needs durable_rules, which cannot be imported ({error}); "
            "install it with a C compiler on CPython 3.11 or 3.12, or take the engine 'reference'"
        ) from error
    return DurableEngine(program)


class _BothEngines:
    """Runs two engines and accepts no difference."""

    name = "verify"

    def __init__(self, first: Engine, second: Engine) -> None:
        self._first, self._second = first, second

    def run(self, facts: Sequence[Fact]) -> list[Firing]:
        first, second = self._first.run(facts), self._second.run(facts)
        if first != second:
            rules = ", ".join(sorted({f.rule for f in {*first} ^ {*second}})) or "their order"
            raise EngineError(
                f"the engines {self._first.name} and {self._second.name} disagree on: {rules}; "
                "no result of this patient can be trusted"
            )
        return first


# ---------------------------------------------------------------- what engines share


def taken_up(program: Program, facts: Sequence[Fact]) -> dict[str, Mapping[str, int]]:
    """Return the facts that some rule of the program mentions, by key.

    Raises: EngineError where two facts have one key, where a fact claims to be a finding, and
    where a prop is no whole number within ±2**53 (True and 3.0 are none).
    """
    keys: set[str] = set()
    known: dict[str, Mapping[str, int]] = {}
    for fact in facts:
        if fact.key in keys:
            raise EngineError(f"{_named(fact)} has the key of another fact of this patient")
        keys.add(fact.key)
        if fact.key.startswith("finding/"):
            raise EngineError(f"{_named(fact)} claims to be a finding; only rules make findings")
        if fact.key not in program.keys:
            continue
        for prop, value in fact.props.items():
            if type(value) is not int or not -MAX_NUMBER <= value <= MAX_NUMBER:
                raise EngineError(f"{_named(fact)}: '{prop}' is no whole number within ±2**53")
        known[fact.key] = fact.props
    return known


def holds(node: Node, known: Known) -> bool:
    """Whether a tree of criteria holds; a missing fact or prop satisfies nothing."""
    if isinstance(node, Leaf):
        props = known.get(node.key)
        return props is not None and any(
            all(t.prop in props and _OPERATORS[t.op](props[t.prop], t.value) for t in atom.tests)
            for atom in node.atoms
        )
    parts = (holds(part, known) for part in node.parts)
    return all(parts) if isinstance(node, AllOf) else any(parts)


def because(rule: CompiledRule, known: Known) -> tuple[str, ...]:
    """Return the sorted keys of the criteria of `when` that make it hold.

    Of alternatives all that hold count, but no part of a conjunction that does not.
    """
    return tuple(sorted(set(_support(rule.when, known))))


def _support(node: Node, known: Known) -> Iterator[str]:
    if not holds(node, known):
        return
    if isinstance(node, Leaf):
        yield node.key
    else:
        for part in node.parts:
            yield from _support(part, known)


def _named(fact: Fact) -> str:
    """Name a fact without its content: its kind and the resources that it rests on."""
    resources = ", ".join(s.resource for s in fact.sources if s.resource)
    return f"a fact of kind '{fact.kind}'" + (f" ({resources})" if resources else "")
