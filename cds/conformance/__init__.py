"""Numbered checks of any CDS Hooks 2.0 service, from outside, over HTTP.

    with session("https://cds.example.org") as run:
        for outcome in run.checked(chosen()):
            print(outcome.about.id, outcome.found.result)

What a check is stands in `checks.py`; the checks stand in modules by subject: `transport`,
`discovery`, `missing` (prefetch), `calls`, `access` (the FHIR server), `cards`, `feedback`,
`security`. Nothing here knows how our own service is made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any

from cds.conformance import (
    access,
    calls,
    cards,
    discovery,
    feedback,
    missing,
    security,
    transport,
)
from cds.conformance.checks import (
    CHECKS,
    COUNTED,
    LEVELS,
    Check,
    Found,
    Level,
    Outcome,
    Result,
)
from cds.conformance.client import Client, Signer, base_of
from cds.conformance.fhirserver import FhirServer
from cds.conformance.records import Records
from cds.conformance.rows import LEFT_OUT, NOT_CHECKED
from cds.conformance.run import Run, chosen

__all__ = [
    "CHECKS",
    "COUNTED",
    "LEFT_OUT",
    "LEVELS",
    "NOT_CHECKED",
    "Check",
    "Found",
    "Level",
    "Outcome",
    "Result",
    "Run",
    "Signer",
    "access",
    "calls",
    "cards",
    "chosen",
    "discovery",
    "feedback",
    "missing",
    "security",
    "session",
    "transport",
]


def _number(each: Check) -> tuple[int, str]:
    found = re.search(r"\d+", each.id)
    return int(found[0]) if found else 0, each.id


CHECKS.sort(key=_number)


@contextmanager
def session(
    url: str,
    *,
    signer: Signer | None = None,
    requests: Sequence[Mapping[str, Any]] = (),
    fhir_base: str | None = None,
    fhir_listen: tuple[str, int] | None = None,
    subject: str = "cds-conformance",
    origin: str | None = None,
    ca: str | None = None,
    timeout: float = 10.0,
    thorough: bool = False,
) -> Iterator[Run]:
    """Prepare the checks of the service at a base URL.

    A service on this machine gets a FHIR server on a free port, which it may not know. With
    `fhir_base` it is there that our FHIR server is, and the service is expected to read it.

    Raises: UsageError if the arguments cannot be used.
    """
    client = Client(base_of(url), signer=signer, ca=ca, timeout=timeout)
    records = Records(datetime.now(UTC))
    with ExitStack() as stack:
        stack.callback(client.close)
        run = Run(
            client,
            records=records,
            requests=requests,
            fhir_promised=fhir_base is not None,
            subject=subject,
            origin=origin,
            thorough=thorough,
        )
        if fhir_base is not None or run.loopback:
            run.fhir_server = stack.enter_context(FhirServer(records, fhir_base, fhir_listen))
        if run.loopback:
            run.strange_server = stack.enter_context(FhirServer(None))
        yield run
