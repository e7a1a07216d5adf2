"""What all tests share: Hypothesis profiles, and the folders of real records."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# For the tests of our own plugin.
pytest_plugins = ["pytester"]

# The same examples on every run and every machine: a failure here is never a matter of luck,
# and no deadline, because other work on the machine says nothing about the code.
settings.register_profile("ci", derandomize=True, deadline=None, max_examples=50, database=None)
# HYPOTHESIS_PROFILE=thorough looks for new counterexamples, other ones each time.
settings.register_profile(
    "thorough",
    deadline=None,
    max_examples=2_000,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def _folder(variable: str) -> Path:
    name = os.environ.get(variable)
    if not name:
        pytest.skip(f"{variable} does not name a folder of real records")
    folder = Path(name)
    if not folder.is_dir():
        # Set but wrong is a mistake, not a reason to test less.
        pytest.fail(f"{variable} names {name}, which is not a folder")
    return folder


@pytest.fixture(scope="session")
def sample_data() -> Path:
    """Folder of real FHIR records (CDS_SAMPLE_DATA); the test is skipped without it."""
    return _folder("CDS_SAMPLE_DATA")


@pytest.fixture(scope="session")
def clinical_data() -> Path:
    """Folder of the clinical tables rules were written from (CDS_CLINICAL_DATA), or skipped."""
    return _folder("CDS_CLINICAL_DATA")
