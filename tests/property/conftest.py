"""One screener an engine for all property tests."""

from __future__ import annotations

import pytest

from cds import Screener, load_rulesets
from cds.rules import Rulesets


@pytest.fixture(scope="session")
def rulesets() -> Rulesets:
    return load_rulesets()


@pytest.fixture(scope="session")
def screener(rulesets: Rulesets) -> Screener:
    return Screener(rulesets)
