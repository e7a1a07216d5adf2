"""One screener an engine for all property tests."""

from __future__ import annotations

import importlib.util

import pytest

from cds import Screener, load_rulesets
from cds.rules import Rulesets


@pytest.fixture(scope="session")
def rulesets() -> Rulesets:
    return load_rulesets()


@pytest.fixture(scope="session")
def screener(rulesets: Rulesets) -> Screener:
    return Screener(rulesets)


@pytest.fixture(scope="session")
def engines(rulesets: Rulesets) -> tuple[Screener, Screener]:
    """The same rules on durable_rules and on the plain evaluator."""
    if importlib.util.find_spec("durable") is None:
        pytest.skip("durable_rules does not install on this Python")
    return Screener(rulesets, "durable"), Screener(rulesets, "reference")
