"""Screen many patients in one process; print its memory after the first ones and at the end.

Started by test_speed.py: many_patients.py FIRST TOTAL. Output: MB, MB, patients a second.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import orjson

from cds import Screener, load_rulesets


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def patient(number: int) -> bytes:
    """A small record, unlike that of any other number: own ids, values and times."""
    subject = {"reference": f"Patient/p{number}"}
    ill, share = number % 10 == 0, number % 50_021 / 50_021

    def result(code: str, unit: str, value: float) -> dict[str, object]:
        return {
            "resourceType": "Observation",
            "id": f"{code}-{number}",
            "status": "final",
            "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
            "subject": subject,
            "effectiveDateTime": f"2026-10-{1 + number % 31:02}T08:{number % 60:02}:00Z",
            "valueQuantity": {"value": round(value, 6), "unit": unit, "code": unit},
        }

    resources: list[dict[str, object]] = [
        {
            "resourceType": "Patient",
            "id": f"p{number}",
            "birthDate": f"{1930 + number % 90}-{1 + number % 12:02}",
        },
        # One patient in ten is ill; of each potassium and magnesium.
        result("2823-3", "mmol/L", 2.0 + share * 5 if ill else 3.7 + share),
        result("2601-3", "mmol/L", 0.3 + share if ill else 0.8 + share / 10),
        {
            "resourceType": "Condition",
            "id": f"c{number}",
            # Twitching, or a cold.
            "code": {
                "coding": [
                    {
                        "system": "http://snomed.info/sct",
                        "code": "82470000" if ill else "82272006",
                    }
                ]
            },
            "subject": subject,
        },
        {
            "resourceType": "MedicationStatement",
            "id": f"m{number}",
            "status": "active",
            "medicationCodeableConcept": {"text": f"product {number}"},
            "subject": subject,
        },
    ]
    bundle = {"resourceType": "Bundle", "type": "collection"}
    return orjson.dumps({**bundle, "entry": [{"resource": r} for r in resources]})


def main(first: int, total: int) -> None:
    screener = Screener(load_rulesets())
    start, before = time.perf_counter(), 0.0
    for number in range(total):
        if number == first:
            before = resident_mb()
        screener.screen(patient(number), as_of="2026-11-01T00:00:00Z")
    rate = total / (time.perf_counter() - start)
    sys.stdout.write(f"{before} {resident_mb()} {rate}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
