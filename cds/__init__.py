"""Clinical decision support for muscle twitching: from FHIR to CDS Hooks cards.

from cds import Screener, load_rulesets
assessment = Screener(load_rulesets()).screen("patient.json", as_of="2026-11-01T00:00:00Z")
"""

from cds.errors import CdsError
from cds.model import Tier
from cds.rules import Rulesets, load_rulesets
from cds.screening import Assessment, Screener

__all__ = ["Assessment", "CdsError", "Rulesets", "Screener", "Tier", "__version__", "load_rulesets"]

__version__ = "0.1.0"
