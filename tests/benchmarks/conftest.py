"""The benchmarks' instrument as a fixture, and its table at the end of the run."""

from __future__ import annotations

import os
import platform

import pytest
from ratios import Bench

_BENCH = pytest.StashKey[Bench]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_BENCH] = Bench()


@pytest.fixture(scope="session")
def bench(pytestconfig: pytest.Config) -> Bench:
    """The one instrument of this run."""
    return pytestconfig.stash[_BENCH]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    figures = config.stash[_BENCH].figures
    if not figures:
        return
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
    terminalreporter.section(f"ratios on {machine}, Python {platform.python_version()}")
    width = max(len(f.name) for f in figures)
    terminalreporter.line(f"{'name':{width}}  {'ratio':>7}  {'bound':>6}")
    for f in figures:
        bound = "" if f.bound is None else f"{f.bound:g}"
        mark = " ABOVE" if f.bound is not None and f.value > f.bound else ""
        terminalreporter.line(f"{f.name:{width}}  {f.value:7.2f}  {bound:>6}{mark}  {f.note}")
