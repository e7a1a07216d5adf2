"""Small programs and facts for tests of the engines, written by hand."""

from __future__ import annotations

from collections.abc import Sequence

from cds.model import Fact, Source
from cds.program import Atom, CompiledRule, Leaf, Node, Program, Test, leaves
from cds.rulefile import Evidence, FindingCriterion, Rule

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
