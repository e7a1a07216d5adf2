"""What trying mutants costs, as a multiple of what the engine costs for one patient."""

from __future__ import annotations

import re
import statistics
import time
from pathlib import Path

import pytest
from ratios import Bench

from cds import Screener, load_rulesets, mutation
from cds.cases import load_cases, load_cases_file
from cds.harness import CaseResult, run
from cds.mcdc import measure, suggest

pytestmark = pytest.mark.bench

AS_OF = 1_793_491_200  # 2026-11-01T00:00:00Z
REPEATS = 3


@pytest.fixture(scope="module")
def screener() -> Screener:
    return Screener(load_rulesets())


def suggested(screener: Screener, folder: Path) -> list[CaseResult]:
    """The cases that the tool itself suggests for every criterion of the shipped rules."""
    open_ = measure([], screener.rulesets).open
    text = "cases:\n" + "".join(filter(None, (suggest(screener, o, AS_OF) for o in open_)))
    numbers = iter(range(text.count("- name:")))
    path = folder / "cases.yaml"
    path.write_text(re.sub(r"(?m)^  - name: .*$", lambda _: f"  - name: c{next(numbers)}", text))
    return list(run(screener, load_cases_file(path, "electrolyte", screener.rulesets)))


@pytest.mark.parametrize("which", ["shipped", "suggested"])
def test_trying_a_case_on_a_mutant_costs_at_most_three_runs_of_the_engine(
    bench: Bench, screener: Screener, tmp_path: Path, which: str
) -> None:
    if which == "suggested":
        results = suggested(screener, tmp_path)
    else:
        results = list(run(screener, load_cases(screener.rulesets)))
        if not results:
            pytest.skip("no case is shipped")
    patients = [r.assessment.normalized.facts for r in results if r.assessment is not None]
    trying, engine, evaluations = [], [], 0
    for _ in range(REPEATS):  # in turn, so that neither always runs on the warmer machine
        start = time.process_time()
        report = mutation.test_mutants(screener, results, workers=1)
        trying.append((time.process_time() - start) / report.evaluations)
        evaluations = report.evaluations
        start = time.process_time()
        for facts in patients:
            screener.engine.run(facts)
        engine.append((time.process_time() - start) / len(patients))
    one, floor = statistics.median(trying), statistics.median(engine)
    note = f"{evaluations} evaluations, {1 / one:.0f} a second; the engine {floor * 1e6:.0f} µs"
    bench.check(
        f"a case on a mutant ÷ the engine, {len(results)} cases {which}",
        one / floor,
        bound=3,
        note=note,
    )
