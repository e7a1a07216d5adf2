"""What testing rules costs, as a multiple of screening the same patients."""

from __future__ import annotations

import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from ratios import Bench

from cds import Screener, load_rulesets
from cds.bounds import STEP, number_bounds
from cds.cases import Case, Expect, load_cases, written
from cds.forms import Lab, Patient, ago, parse
from cds.harness import run_case
from cds.rules import Rulesets
from cds.shipped import shipped

pytestmark = pytest.mark.bench

AS_OF = 1_793_491_200  # 2026-11-01T00:00:00Z
SIGNS = ([], [{"symptom": "twitching 2 days ago"}], [{"takes": "loop-diuretic since 3 months"}])


@pytest.fixture(scope="module")
def rulesets() -> Rulesets:
    return load_rulesets()


def at_the_bounds(rulesets: Rulesets) -> str:
    """Cases for a result at each bound of the rules, and one step to both sides."""
    screener = Screener(rulesets)
    cases = ["cases:"]
    results = {
        (key.split("/")[1], bound.value + step)
        for key, bounds in number_bounds(rulesets.program).items()
        if key.startswith("lab/")
        for bound in bounds
        for step in (-STEP, Decimal(0), STEP)
    }
    for analyte, value in sorted(results):
        for number, signs in enumerate(SIGNS):
            forms = (
                Patient("female", 56),
                Lab(analyte, value, when=ago(86_400)),
                *map(parse, signs),
            )
            case = Case("x", AS_OF, forms, Expect(), "", 0)
            assessment = run_case(screener, case).assessment
            assert assessment is not None
            # Of all groups, as the patient is judged by all.
            tier = "none" if assessment.tier is None else assessment.tier.name
            expect = {"patient_tier": tier}
            name = f"{analyte} {value} with other data {number}"
            cases.append(written(name, "2026-11-01T00:00:00Z", forms, expect))
    return "\n".join(cases)


@pytest.mark.parametrize("which", ["shipped", "at every bound"])
def test_testing_cases_takes_at_most_twice_as_long_as_screening_their_bundles(
    bench: Bench, rulesets: Rulesets, tmp_path: Path, which: str
) -> None:
    folder = shipped("rulesets")
    if which == "shipped" and not load_cases(rulesets):
        pytest.skip("no case is shipped")
    if which != "shipped":
        for path in folder.glob("*/rules.yaml"):
            group = tmp_path / "rulesets" / path.parent.name
            group.mkdir(parents=True)
            group.joinpath("rules.yaml").write_bytes(path.read_bytes())
        folder = tmp_path / "rulesets"
        cases = at_the_bounds(load_rulesets(folder))
        folder.joinpath("electrolyte", "cases.yaml").write_text(cases)
    cds = Path(sys.executable).with_name("cds")
    assert cds.is_file(), "install the package first: the console script is what is measured"
    bundles = tmp_path / "bundles"

    def run(*command: str | Path) -> None:
        subprocess.run([cds, *command], check=True, capture_output=True)

    run("test", folder, "--no-mutation", "--export", bundles)
    for request in bundles.glob("*/*.hook.json"):
        request.unlink()
    count = len(list(bundles.glob("*/*.json")))
    bench.ratio(
        f"cds test ÷ cds screen, {count} cases {which}",
        lambda: run("test", folder, "--no-mutation"),
        lambda: run("screen", bundles, "--as-of", "2026-11-01"),
        repeats=1,  # each run is thousands of patients
        bound=2,
        clock=_children,  # the work is done in other processes
    )


def _children() -> float:
    """Seconds of processor time that ended child processes took."""
    times = os.times()
    return times.children_user + times.children_system
