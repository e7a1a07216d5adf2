"""What trying mutants costs, as a multiple of what the engine costs for one patient."""

from __future__ import annotations

import time

import pytest
from ratios import Bench

from cds import Screener, load_rulesets, mutation
from cds.cases import load_cases
from cds.harness import run

pytestmark = pytest.mark.bench


@pytest.fixture(scope="module")
def screener() -> Screener:
    return Screener(load_rulesets())


def test_trying_a_case_on_a_mutant_costs_at_most_three_runs_of_the_engine(
    bench: Bench, screener: Screener
) -> None:
    results = list(run(screener, load_cases(screener.rulesets)))
    patients = [r.assessment.normalized.facts for r in results if r.assessment is not None]
    # Once: it is the mean of hundreds of thousands of evaluations.
    start = time.process_time()
    report = mutation.test_mutants(screener, results, workers=1)
    one = (time.process_time() - start) / report.evaluations
    start = time.process_time()
    for facts in patients:
        screener.engine.run(facts)
    floor = (time.process_time() - start) / len(patients)
    note = f"{report.evaluations} evaluations, {1 / one:.0f}/s; the engine {floor * 1e6:.0f} µs"
    name = f"a case on a mutant ÷ the engine, {len(results)} cases"
    bench.check(name, one / floor, bound=3, note=note)
