"""Answers that are no cards: refusals, as FHIR OperationOutcome.

Every answer of 400 and above but a 401 carries an OperationOutcome for troubleshooting (CH-50; the
401 stays bare, CH-128). Its text names what is wrong by member path, never by value, so that
neither patient data nor a token can stand in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import orjson

__all__ = ["JSON", "Refusal", "issue_code", "operation_outcome"]

JSON: Final = "application/json"
"""Media type of every JSON body, in and out (CH-01)."""

_NONE: Final[Mapping[str, str]] = MappingProxyType({})

# HTTP status to FHIR IssueType (R4B value set issue-type), where a refusal names none itself.
_CODES: Final = {
    400: "invalid",
    401: "login",
    403: "forbidden",
    404: "not-found",
    405: "not-supported",
    412: "required",
    413: "too-long",
    415: "not-supported",
    503: "transient",
}


class Refusal(Exception):
    """A call that is answered with an HTTP status of 400 or above.

    Args:
        status: the HTTP status.
        message: what is wrong, by member path; no value of the caller's.
        code: FHIR IssueType; by default the one that fits the status.
        word: code word for the log; by default `code`.
        headers: further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str = "",
        word: str = "",
        headers: Mapping[str, str] = _NONE,
    ) -> None:
        self.status, self.message, self.headers = status, message, headers
        self.code = code or issue_code(status)
        self.word = word or self.code
        super().__init__(message)


def issue_code(status: int) -> str:
    """Return the FHIR IssueType for an HTTP status."""
    return _CODES.get(status, "exception" if status >= 500 else "processing")


def operation_outcome(status: int, code: str, message: str, request_id: str = "") -> bytes:
    """Return an OperationOutcome (FHIR R4B) as JSON.

    `request_id` stands in ``diagnostics``: with it the operator finds the lines of the log.
    """
    issue = {
        "severity": "fatal" if status >= 500 else "error",
        "code": code,
        "details": {"text": message},
    }
    if request_id:
        issue["diagnostics"] = f"request {request_id}"
    return orjson.dumps({"resourceType": "OperationOutcome", "issue": [issue]})
