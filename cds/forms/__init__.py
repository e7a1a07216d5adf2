"""The short clinical form: one line of a case, such as ``lab: potassium 2.4 mmol/L 2 days ago``.

A *form* is one statement about a patient, as a rule author writes it. `parse` reads a line,
`Form.entry` writes it again, `Form.resources` expands it into valid FHIR R4B, so that what an
author writes passes through the very same way as what a record system sends. What may stand in a
line is explained for authors in `rulesets/README.md`.

What is named is an analyte or value set by its id (then its first code is used), or one code as
``SYSTEM#code`` with any words after it: ``SNOMED#82470000 muscle fasciculation``. A form that
cannot be sent as FHIR cannot be made: ValueError says what is wrong and how it is written.
"""

from __future__ import annotations

from cds.forms.lab import Lab
from cds.forms.patient import Patient
from cds.forms.presence import Presence
from cds.forms.reading import KEYS, parse
from cds.forms.statement import Form, scalar
from cds.forms.takes import Takes
from cds.forms.when import NOW, UNDATED, When, ago

__all__ = [
    "KEYS",
    "NOW",
    "UNDATED",
    "Form",
    "Lab",
    "Patient",
    "Presence",
    "Takes",
    "When",
    "ago",
    "parse",
    "scalar",
]
