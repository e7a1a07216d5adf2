"""Cases beside rules: `cases.yaml`, patients in the short clinical form with what must be found.

A case passes through the very same way as real data: its lines become FHIR R4B (`cds.forms`), its
FHIR files are taken as they are, and what comes out is compared with `expect` by `cds.harness`.
The format is explained for authors in `rulesets/README.md`.
"""

from __future__ import annotations

from cds.cases.case import Case
from cds.cases.expect import Expect
from cds.cases.reading import case_paths, load_cases, load_cases_file
from cds.cases.select import load_tested, matcher
from cds.cases.writing import written

__all__ = [
    "Case",
    "Expect",
    "case_paths",
    "load_cases",
    "load_cases_file",
    "load_tested",
    "matcher",
    "written",
]
