"""For all programs and facts: both engines mean the same, and remember nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from cds.engine import MAX_NUMBER, make_engine
from cds.model import Fact
from cds.program import AllOf, AnyOf, CompiledRule, Leaf, Node, Program, leaves
from engine_programs import fact, leaf, program, rule

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 13),
    reason="durable_rules cannot be imported on CPython 3.13 and later",
)

# Few keys and props, and mostly small numbers, so that facts meet thresholds and neighbors.
KEYS, PROPS = ("lab/a", "lab/b", "lab/c", "lab/d"), ("low", "age", "id")
small = st.integers(0, 2)
large = st.sampled_from((-1, MAX_NUMBER, -MAX_NUMBER, MAX_NUMBER - 1, 2**32 + 1, -(2**31) - 1))
numbers = small | small | small | large
tests = st.tuples(st.sampled_from(PROPS), st.sampled_from(("lt", "le", "gt", "ge")), numbers)
criteria = st.builds(
    lambda key, alternatives: leaf(key, *alternatives),
    st.sampled_from(KEYS),
    st.lists(st.lists(tests, max_size=3), min_size=1, max_size=2),
)
STRATA = 3
FINDINGS = 2 * STRATA
"""Finding n belongs to stratum n // 2, so that no circle leads through an `unless`."""


def trees(findings: range, depth: int) -> st.SearchStrategy[Node]:
    """Nested criteria over facts and these findings."""
    node: st.SearchStrategy[Node] = criteria
    if findings:
        node = node | st.sampled_from([leaf(f"finding/f{n}") for n in findings])
    for _ in range(depth):
        parts = st.lists(node, min_size=1, max_size=3).map(tuple)
        node = node | parts.map(AllOf) | parts.map(AnyOf)
    return node


def rules_of(finding: int) -> st.SearchStrategy[tuple[int, Node, Node | None]]:
    below, up_to = range(finding // 2 * 2), range(finding // 2 * 2 + 2)
    unless = st.lists(trees(below, 1), min_size=1, max_size=2).map(tuple).map(AnyOf)
    return st.tuples(st.just(finding), trees(up_to, 2), st.none() | unless)


programs = st.lists(
    st.one_of([rules_of(finding) for finding in range(FINDINGS)]), min_size=2, max_size=7
).map(
    lambda drawn: program(
        *(
            rule(f"r{number}", when, unless, finding=f"f{finding}", stratum=finding // 2)
            for number, (finding, when, unless) in enumerate(drawn)
        )
    )
)
values = st.fixed_dictionaries(dict.fromkeys(PROPS, numbers | numbers | st.none()))
patients = st.fixed_dictionaries(
    dict.fromkeys((*KEYS, "lab/unheard-of"), values | values | st.none())
).map(
    lambda table: [
        fact(key, **{prop: number for prop, number in held.items() if number is not None})
        for key, held in table.items()
        if held is not None
    ]
)


@settings(max_examples=10 * settings().max_examples)
@given(programs, st.lists(patients, min_size=1, max_size=4))
def test_durable_gives_what_the_reference_gives(
    program: Program, several: Sequence[list[Fact]]
) -> None:
    note(shown(program))
    durable, reference = make_engine("durable", program), make_engine("reference", program)
    for facts in several:
        note(str({f.key: f.props for f in facts}))
        assert durable.run(facts) == reference.run(facts)


@given(programs, patients, st.randoms(use_true_random=False))
def test_the_order_of_facts_and_a_second_run_change_nothing(
    program: Program, facts: list[Fact], random: Any
) -> None:
    engine = make_engine("durable", program)
    first = engine.run(facts)
    assert engine.run(facts) == first
    random.shuffle(facts)
    assert engine.run(facts) == first


@given(programs, st.lists(patients, min_size=2, max_size=4))
def test_nothing_of_one_patient_is_left_for_the_next(
    program: Program, several: Sequence[list[Fact]]
) -> None:
    used = make_engine("durable", program)
    for facts in [*several, []]:
        assert used.run(facts) == make_engine("durable", program).run(facts)


@given(programs, patients)
def test_every_firing_rests_on_criteria_of_its_rule_that_are_known(
    program: Program, facts: list[Fact]
) -> None:
    firings = make_engine("durable", program).run(facts)
    known = {f.key for f in facts} | {program.by_id[f.rule].finding_key for f in firings}
    for firing in firings:
        asked = {leaf.key for leaf in leaves(program.by_id[firing.rule].when)}
        assert firing.because, firing.rule
        assert set(firing.because) <= asked & known


def shown(program: Program) -> str:
    """The rules in short, for the report of a failure."""

    def tree(node: Node | None) -> str:
        if node is None:
            return "-"
        if isinstance(node, Leaf):
            tests = (" & ".join(f"{t.prop} {t.op} {t.value}" for t in a.tests) for a in node.atoms)
            return f"{node.key}[{' | '.join(tests)}]"
        return f"{type(node).__name__}({', '.join(map(tree, node.parts))})"

    def line(r: CompiledRule) -> str:
        return f"{r.rule.id}: {tree(r.when)} unless {tree(r.unless)} => {r.finding_key}"

    return "\n".join(map(line, program.rules))
