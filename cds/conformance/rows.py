"""Rows of the checklist that cannot be checked from outside, or are no part of CDS Hooks 2.0."""

from __future__ import annotations

from typing import Final

__all__ = ["LEFT_OUT", "NOT_CHECKED"]

NOT_CHECKED: Final = {
    "CH-25": "what client and service agreed on about hooks for safe use is seen nowhere",
    "CH-64": "a failure inside the service cannot be caused from outside",
    "CH-89": "registration at the client's authorization server is not seen from outside",
    "CH-125": "that silence is not counted as an answer shows only in the service's own figures",
    "CH-140": "how keys were exchanged is seen nowhere",
    "CH-141": "mutual TLS is an alternative that discovery does not tell of",
    "CH-144": "which links were reviewed is seen nowhere; their form is CH-113",
    "CH-145": "whether values are too old to be used is a matter of the service's subject",
    "CH-155": "removing earlier cards is the client's part",
}
"""Why a row of CDS Hooks 2.0 has no check."""

LEFT_OUT: Final = {
    "CH-06": "FHIR JSON of resources in actions",
    "CH-07": "no comments and trailing commas",
    "CH-09": "documentation for people",
    "CH-21": "version in discovery",
    "CH-22": "hookVersion in discovery",
    "CH-38": "FHIRPath in prefetch tokens",
    "CH-39": "templates that depend on others",
    "CH-50": "OperationOutcome as the body of a failure",
    "CH-115": "autolaunchable links",
    "CH-116": "actionSelectionBehavior",
}
"""Rows that only the ballot of version 3.0 has."""
