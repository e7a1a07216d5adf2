"""What lint calls impossible, implied or exclusive is so for every patient and every program."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from cds.engine import make_engine
from cds.lint.logic import Logic
from cds.model import Fact
from cds.program import AllOf, AnyOf, CompiledRule, Node
from engine_programs import fact, leaf, program, rule

NUMBERS = st.integers(0, 4)
OPS = st.sampled_from(("lt", "le", "gt", "ge"))


def one_sided(key: str, *props: str) -> st.SearchStrategy[Node]:
    test = st.tuples(st.sampled_from(props), OPS, NUMBERS)
    alternatives = st.lists(st.lists(test, max_size=2), min_size=1, max_size=2)
    return alternatives.map(lambda drawn: leaf(key, *drawn))


CRITERIA = (
    one_sided("lab/a", "low", "high", "age")
    | one_sided("lab/b", "low", "high")
    | st.just(leaf("symptom/c"))
    | st.sampled_from([leaf("sex/male"), leaf("sex/female")])
)


def trees(findings: Sequence[str]) -> st.SearchStrategy[Node]:
    node: st.SearchStrategy[Node] = CRITERIA
    if findings:
        node = node | st.sampled_from([leaf(f"finding/{name}") for name in findings])
    parts = st.lists(node, min_size=1, max_size=3).map(tuple)
    return node | parts.map(AllOf) | parts.map(AnyOf)


@st.composite
def rules(draw: st.DrawFn) -> tuple[CompiledRule, ...]:
    """Rules of two strata: those of the second may name findings of the first in `unless`."""
    first = [
        rule(f"f{n}", draw(trees(["f0", "f1"])), finding=f"f{n % 2}")
        for n in range(draw(st.integers(1, 3)))
    ]
    second = [
        rule(
            f"s{n}",
            draw(trees(["f0", "f1"])),
            draw(st.none() | trees(["f0", "f1"]).map(lambda node: AnyOf((node,)))),
            stratum=1,
        )
        for n in range(draw(st.integers(1, 3)))
    ]
    return (*first, *second)


@st.composite
def patients(draw: st.DrawFn) -> list[Fact]:
    """Facts in which a result has one value."""
    facts = [fact(f"sex/{draw(st.sampled_from(('male', 'female')))}")]
    for key in ("lab/a", "lab/b"):
        if draw(st.booleans()):
            value = draw(NUMBERS)
            facts.append(fact(key, low=value, high=value, age=draw(NUMBERS)))
    if draw(st.booleans()):
        facts.append(fact("symptom/c"))
    return facts


@given(rules(), st.lists(patients(), min_size=3, max_size=6))
def test_no_patient_shows_an_answer_of_the_logic_to_be_wrong(
    made: tuple[CompiledRule, ...], cohort: list[list[Fact]]
) -> None:
    loaded = program(*made)
    logic, engine = Logic(loaded, None), make_engine("reference", loaded)
    for facts in cohort:
        fired = {f.rule for f in engine.run(facts)}
        for a in made:
            if a.rule.id not in fired:
                continue
            assert logic.never(a) is None
            for b in made:
                assert logic.together(a, b) or b.rule.id not in fired
                if logic.implies(a, b):
                    assert b.rule.id in fired


def test_too_many_cases_are_left_undecided() -> None:
    """Ten alternatives ten times over would be ten thousand million cases."""
    parts = tuple(AnyOf(tuple(leaf(f"symptom/s{row}x{n}") for n in range(10))) for row in range(10))
    huge = rule("huge", AllOf((*parts, leaf("sex/male"), leaf("sex/female"))))
    logic = Logic(program(huge), None)
    assert logic.never(huge) is None
    assert logic.cases(huge) is None
