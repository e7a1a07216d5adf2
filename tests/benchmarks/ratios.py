"""The measuring instrument of the benchmarks: how many times as long as something known.

Seconds say more about a machine than about a program, so each benchmark sets its work against
a floor that is measured in the same run, sample by sample in turn, and judges the ratio of the
two medians. All ratios are printed at the end, with their bounds.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

SAMPLE_SECONDS = 0.005  # shorter samples measure the clock


@dataclass(frozen=True)
class Figure:
    """One line of the table; `bound` None stands for a figure that is only shown."""

    name: str
    value: float
    bound: float | None
    note: str


class Bench:
    """Measures, keeps what was measured for the table, and fails what is above its bound."""

    def __init__(self) -> None:
        self.figures: list[Figure] = []

    def ratio(
        self,
        name: str,
        work: Callable[[], object],
        floor: Callable[[], object],
        *,
        repeats: int,
        bound: float | None = None,
        clock: Callable[[], float] = time.process_time,
    ) -> float:
        """Time `work` and `floor` in turn, `repeats` times each; return median ÷ median.

        The default clock counts this process's own time, so that its neighbors do not matter.
        Garbage is collected before each sample and not during it. Work shorter than
        SAMPLE_SECONDS is repeated within a sample.
        """
        samples: dict[Callable[[], object], list[float]] = {work: [], floor: []}
        loops = {}
        for call in (work, floor):
            call()  # caches of the first call are not what is measured
            loops[call] = max(1, math.ceil(SAMPLE_SECONDS / _seconds(call, 1, clock)))
        for i in range(repeats):
            # In turn, so that neither always runs on the warmer machine.
            for call in (work, floor) if i % 2 else (floor, work):
                samples[call].append(_seconds(call, loops[call], clock))
        took, least = (statistics.median(samples[call]) for call in (work, floor))
        note = f"{_short(took)} ÷ {_short(least)}, medians of {repeats}"
        return self.check(name, took / least, bound=bound, note=note)

    def check(
        self, name: str, value: float, *, bound: float | None = None, note: str = ""
    ) -> float:
        """Put a figure into the table; fail the test if it is above its bound."""
        self.figures.append(Figure(name, value, bound, note))
        assert bound is None or value <= bound, f"{name}: {value:.2f} is above {bound:g}"
        return value


def _seconds(call: Callable[[], object], loops: int, clock: Callable[[], float]) -> float:
    gc.collect()
    gc.disable()
    try:
        start = clock()
        for _ in range(loops):
            call()
        return (clock() - start) / loops
    finally:
        gc.enable()


def _short(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.2f} ms"
