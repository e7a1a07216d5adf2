"""For all programs and facts: both engines mean the same, and remember nothing."""

from __future__ import annotations

import sys
from random import Random

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from cds.engine import make_engine
from cds.rules import leaves
from engine_programs import described, random_facts, random_program

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 13),
    reason="durable_rules cannot be imported on CPython 3.13 and later",
)

# Hypothesis makes every choice of these, so it also finds the smallest program that fails.
randoms = st.randoms(use_true_random=False)


@given(randoms)
def test_durable_gives_what_the_reference_gives(random: Random) -> None:
    program = random_program(random)
    durable, reference = make_engine("durable", program), make_engine("reference", program)
    for _ in range(3):
        facts = random_facts(random)
        note(f"{program.rules}\n{described(facts)}")
        assert durable.run(facts) == reference.run(facts)


@given(randoms)
def test_the_order_of_facts_and_a_second_run_change_nothing(random: Random) -> None:
    engine = make_engine("durable", random_program(random))
    facts = random_facts(random)
    first = engine.run(facts)
    assert engine.run(facts) == first
    random.shuffle(facts)
    assert engine.run(facts) == first


@given(randoms)
def test_nothing_of_one_patient_is_left_for_the_next(random: Random) -> None:
    program = random_program(random)
    used = make_engine("durable", program)
    for _ in range(3):
        facts = random_facts(random)
        assert used.run(facts) == make_engine("durable", program).run(facts)
    assert used.run([]) == make_engine("durable", program).run([])


@given(randoms)
def test_every_firing_rests_on_criteria_of_its_rule_that_are_known(random: Random) -> None:
    program = random_program(random)
    facts = random_facts(random)
    firings = make_engine("durable", program).run(facts)
    known = {f.key for f in facts} | {program.by_id[f.rule].finding_key for f in firings}
    for firing in firings:
        asked = {leaf.key for leaf in leaves(program.by_id[firing.rule].when)}
        assert firing.because, firing.rule
        assert set(firing.because) <= asked & known
