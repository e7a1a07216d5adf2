"""One screener for all clinical tests, and the way they ask it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from builders import AS_OF, Json, bundle, patient
from cds import Screener, load_rulesets

Judge = Callable[..., Json]


@pytest.fixture(scope="session")
def judge() -> Judge:
    """Assess resources of one patient: a woman of 56 where no Patient is among them."""
    screener = Screener(load_rulesets())

    def ask(*resources: Json, as_of: str = AS_OF, audience: str = "clinician") -> Json:
        if not any(r["resourceType"] == "Patient" for r in resources):
            resources = (patient(), *resources)
        return screener.screen(bundle(*resources), as_of).to_dict(audience=audience)

    return ask
