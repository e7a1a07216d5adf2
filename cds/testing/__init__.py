"""Testing rules: Hypothesis strategies for patients, properties of rules, and a pytest plugin.

The strategies draw what a rule author writes in a case (`cds.forms`), so that a counterexample
prints as one, and they aim at the limits, windows and value sets of the rules they are given. A
property of one's own reads like this:

    from decimal import Decimal

    from hypothesis import given

    from cds import Screener, Tier, load_rulesets
    from cds.forms import Lab
    from cds.testing import assess, records, values

    rules = load_rulesets()  # or load_rulesets("my-rules")
    screener = Screener(rules)
    severe = values("potassium", rulesets=rules).filter(lambda value: value < Decimal("2.5"))

    @given(record=records(rulesets=rules), value=severe)
    def test_severely_low_potassium_is_for_today_whatever_else_is_recorded(record, value):
        assessment = assess(screener, [*record, Lab("potassium", value, "mmol/L")])
        assert assessment.tier >= Tier.urgent

What must hold for every ruleset, and is checked by ``cds check``, is in `cds.testing.properties`;
what must change nothing, as functions on FHIR resources, in `cds.testing.laws`. The pytest plugin
(`cds.testing.plugin`) runs cases. Nothing is imported before it is used: only the strategies and
properties need Hypothesis (``pip install 'cds-twitch[test]'``).
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cds.testing.strategies import (
        assess,
        bundle_of,
        bundles,
        conditions,
        denials,
        histories,
        labs,
        medications,
        near,
        patients,
        records,
        symptoms,
        values,
    )
    from cds.testing.targets import AS_OF, Targets

__all__ = [
    "AS_OF",
    "Targets",
    "assess",
    "bundle_of",
    "bundles",
    "conditions",
    "denials",
    "histories",
    "labs",
    "medications",
    "near",
    "patients",
    "records",
    "symptoms",
    "values",
]

_TARGETS = ("AS_OF", "Targets")


def __getattr__(name: str) -> object:
    """Load a public name from the module that defines it (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'cds.testing' has no attribute '{name}'")
    from importlib import import_module

    home = "cds.testing.targets" if name in _TARGETS else "cds.testing.strategies"
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
