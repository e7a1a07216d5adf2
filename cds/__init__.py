"""Clinical decision support for muscle twitching: from FHIR to CDS Hooks cards.

    from cds import Screener, load_rulesets
    assessment = Screener(load_rulesets()).screen("patient.json", as_of="2026-11-01T00:00:00Z")

The public names are loaded when they are first used, so that a command that needs none of
them (``cds --version``, a usage error) answers at once.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cds.errors import CdsError
    from cds.model import Tier
    from cds.rules import Rulesets, load_rulesets
    from cds.screening import Assessment, Screener

__all__ = ["Assessment", "CdsError", "Rulesets", "Screener", "Tier", "__version__", "load_rulesets"]

__version__ = "0.1.0"

_HOME = {
    "Assessment": "cds.screening",
    "CdsError": "cds.errors",
    "Rulesets": "cds.rules",
    "Screener": "cds.screening",
    "Tier": "cds.model",
    "load_rulesets": "cds.rules",
}


def __getattr__(name: str) -> object:
    """Load a public name from the module that defines it (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'cds' has no attribute '{name}'")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
