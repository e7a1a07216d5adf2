"""What screening costs, as multiples of work that nobody can avoid."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from ratios import Bench

from cds import Screener, load_rulesets
from cds.program import compile_program
from cds.rulefile import Rule
from cds.rules import Rulesets
from cds.shipped import shipped

pytestmark = pytest.mark.bench

AS_OF = "2026-11-01T00:00:00Z"
LABS = (
    ("2823-3", "mmol/L", 4.1),  # potassium
    ("2601-3", "mmol/L", 0.85),  # magnesium
    ("2000-8", "mmol/L", 2.35),  # calcium
    ("2951-2", "mmol/L", 139),  # sodium
    ("2157-6", "U/L", 120),  # creatine kinase
)


@pytest.fixture(scope="module")
def rulesets() -> Rulesets:
    return load_rulesets()


def patient_with(observations: int) -> bytes:
    """A Bundle of one patient with that many results, one for each hour before AS_OF."""
    entries: list[Any] = [{"resource": {"resourceType": "Patient", "id": "p"}}]
    for i in range(observations):
        code, unit, value = LABS[i % len(LABS)]
        effective = datetime.fromisoformat(AS_OF) - timedelta(hours=i)
        entries.append(
            {
                "resource": {
                    "resourceType": "Observation",
                    "id": f"o{i}",
                    "status": "final",
                    "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
                    "subject": {"reference": "Patient/p"},
                    "effectiveDateTime": effective.isoformat(),
                    "valueQuantity": {
                        "value": value,
                        "unit": unit,
                        "system": "http://unitsofmeasure.org",
                        "code": unit,
                    },
                }
            }
        )
    return json.dumps({"resourceType": "Bundle", "type": "collection", "entry": entries}).encode()


def test_one_patient_costs_at_most_twice_the_parsing_of_the_record(
    bench: Bench, rulesets: Rulesets, sample_data: Path
) -> None:
    screener = Screener(rulesets)
    ratios = []
    for path in sorted(sample_data.joinpath("synthea").glob("*.json")):
        record = path.read_bytes()
        # The day of the last result: what is fresh is more work than what is stale.
        as_of = max(
            entry["resource"].get("effectiveDateTime", "")
            for entry in orjson.loads(record)["entry"]
        )
        ratios.append(
            bench.ratio(
                f"screen ÷ orjson.loads, record of {len(record) / 1e6:.1f} MB",
                lambda record=record, as_of=as_of: screener.screen(record, as_of=as_of),
                lambda record=record: orjson.loads(record),
                repeats=11,
            )
        )
    assert ratios, f"no record in {sample_data}/synthea"
    name = f"screen ÷ orjson.loads, median of {len(ratios)} records"
    bench.check(name, statistics.median(ratios), bound=2.0)


def test_ten_times_the_results_cost_at_most_twelve_times_the_work(
    bench: Bench, rulesets: Rulesets
) -> None:
    screener = Screener(rulesets)
    few, many = patient_with(100), patient_with(1_000)
    bench.ratio(
        "1,000 results ÷ 100 results",
        lambda: screener.screen(many, as_of=AS_OF),
        lambda: screener.screen(few, as_of=AS_OF),
        repeats=15,
        bound=12,
    )


def test_four_times_the_rules_cost_at_most_five_times_the_work(
    bench: Bench, rulesets: Rulesets
) -> None:
    copies = -(-100 // sum(len(f.rules) for f in rulesets.files))
    few, many = multiplied(rulesets, copies), multiplied(rulesets, 4 * copies)
    small, large = Screener(few), Screener(many)
    examples = [p.read_bytes() for p in sorted(shipped("fhir_examples").glob("*.json"))]
    assert examples

    def screen_all(screener: Screener) -> None:
        for example in examples:
            screener.screen(example, as_of=AS_OF)

    bench.ratio(
        f"{len(many.program.rules)} rules ÷ {len(few.program.rules)} rules",
        lambda: screen_all(large),
        lambda: screen_all(small),
        repeats=9,
        bound=5,
    )


def multiplied(rulesets: Rulesets, copies: int) -> Rulesets:
    """The same rules so many times over, each copy with ids and findings of its own."""
    files = [
        replace(
            file,
            group=f"{file.group}-{i}" if i else file.group,
            rules=tuple(copied(rule, i) for rule in file.rules),
            line_of={},
        )
        for i in range(copies)
        for file in rulesets.files
    ]
    return replace(
        rulesets, files=tuple(files), program=compile_program(files, rulesets.terminology)
    )


def copied(rule: Rule, number: int) -> Rule:
    if number == 0:
        return rule
    names = {"id", "finding", "family", "caveat_for"}

    def walk(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {k: walk(v, k) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return tuple(walk(v, key) for v in value)
        if isinstance(value, str) and key in names:
            return f"{value}-{number}"
        return value

    return Rule.model_validate(walk(rule.model_dump(exclude_unset=True)))


def test_a_whole_run_takes_at_most_three_times_an_import_of_fhir_resources(
    bench: Bench, tmp_path: Path
) -> None:
    example = shipped("fhir_examples") / "potassium-2-4-with-palpitations.json"
    cds = Path(sys.executable).with_name("cds")
    assert cds.is_file(), "install the package first: the console script is what is measured"
    # Both with modules compiled once, as after an installation: this shell may forbid to keep them.
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    kept["PYTHONPYCACHEPREFIX"] = str(tmp_path)

    def run(*command: str | Path) -> None:
        subprocess.run(command, check=True, capture_output=True, env=kept)

    def floor() -> None:
        run(sys.executable, "-c", "import fhir.resources.R4B.observation")

    bench.ratio(
        "process: cds screen ÷ import fhir.resources",
        lambda: run(cds, "screen", example, "--as-of", AS_OF),
        floor,
        repeats=11,
        bound=3,
        clock=time.perf_counter,  # the work is done in other processes
    )
    bench.ratio(
        "process: load and compile all rulesets ÷ import fhir.resources",
        lambda: run(sys.executable, "-c", "from cds import load_rulesets; load_rulesets()"),
        floor,
        repeats=11,
        bound=4,
        clock=time.perf_counter,
    )


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc/self/statm")
def test_memory_grows_by_at_most_5_mb_over_50_000_patients(bench: Bench) -> None:
    # In a process of its own: what other tests left behind would hide growth.
    script = Path(__file__).with_name("many_patients.py")
    output = subprocess.run(
        [sys.executable, script, "2000", "50000"], check=True, capture_output=True, text=True
    ).stdout
    before, after, rate = (float(word) for word in output.split())
    note = f"{before:.1f} to {after:.1f} MB, {rate:.0f} patients/s"
    bench.check("MB grown from patient 2,000 to 50,000", after - before, bound=5, note=note)
