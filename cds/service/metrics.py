"""Figures for Prometheus, across all workers, and who may read them.

Where several processes answer, `server.run` names in PROMETHEUS_MULTIPROC_DIR a private folder
before this module is imported; each process writes its figures there and whichever is asked adds
them up (prometheus-client's multiprocess mode). Without the folder each process counts for itself.

No label holds what a caller chose: services and paths are those that exist, words are code words
of ours. None can thus hold patient data, and their number is bounded.
"""

from __future__ import annotations

import hmac
import os
import re
from collections import Counter as Counts
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram
from prometheus_client import generate_latest as _text
from prometheus_client.multiprocess import MultiProcessCollector

from cds.errors import UsageError
from cds.service.settings import Settings, is_loopback

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

__all__ = [
    "MetricsEndpoint",
    "Operator",
    "call",
    "cards",
    "failed",
    "fetched",
    "request",
    "store_failed",
    "suppressed",
    "unauthorized",
    "written",
]

_REGISTRY: Final = CollectorRegistry()

_REQUESTS: Final = Counter(
    "cds_http_requests",
    "Requests, by path template and status",
    ["path", "status"],
    registry=_REGISTRY,
)
_CALLS: Final = Counter(
    "cds_calls", "Hook calls, by service and status", ["service", "status"], registry=_REGISTRY
)
_SECONDS: Final = Histogram(
    "cds_call_seconds",
    "Time from the request's head to the last byte of the answer of a hook call, by service",
    ["service"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    registry=_REGISTRY,
)
_CARDS: Final = Counter("cds_cards", "Cards shown, by indicator", ["indicator"], registry=_REGISTRY)
_FETCHED: Final = Counter(
    "cds_fetches", "Queries to FHIR servers, by outcome", ["outcome"], registry=_REGISTRY
)
_STORE: Final = Counter("cds_store_failures", "Calls that the database failed", registry=_REGISTRY)
_SUPPRESSED: Final = Counter(
    "cds_suppressed", "Findings not repeated for a patient", registry=_REGISTRY
)
_UNAUTHORIZED: Final = Counter(
    "cds_unauthorized", "Requests refused for their token, by cause", ["cause"], registry=_REGISTRY
)
_FAILED: Final = Counter(
    "cds_failures", "Failures of a rule, the engine or the service", registry=_REGISTRY
)

_WORD: Final = re.compile(r"[a-z][a-z0-9-]{0,39}")


def _word(word: str) -> str:
    """Return a code word, or "other" for what is none."""
    return word if _WORD.fullmatch(word) else "other"


def request(path: str, status: int) -> None:
    """Count a request. `path` is the template of its route, never the path itself."""
    _REQUESTS.labels(path, str(status)).inc()


def call(service: str, status: int, seconds: float) -> None:
    """Count a hook call of a service that exists, and the time it took."""
    _CALLS.labels(service, str(status)).inc()
    _SECONDS.labels(service).observe(seconds)


def cards(indicators: Iterable[str]) -> None:
    """Count the cards of an answer by their indicators."""
    for indicator, number in Counts(indicators).items():
        _CARDS.labels(_word(indicator)).inc(number)


def fetched(outcome: str) -> None:
    """Count a query to a FHIR server: "complete", "incomplete" or why it could not be read."""
    _FETCHED.labels(_word(outcome)).inc()


def store_failed() -> None:
    """Count a call that the database failed."""
    _STORE.inc()


def suppressed(number: int) -> None:
    """Count findings that were not repeated."""
    _SUPPRESSED.inc(number)


def unauthorized(cause: str) -> None:
    """Count a request that was refused for its token."""
    _UNAUTHORIZED.labels(_word(cause)).inc()


def failed() -> None:
    """Count a failure of ours, whatever it was answered with (CH-64)."""
    _FAILED.inc()


def written() -> bytes:
    """Return the figures of all workers as Prometheus reads them."""
    registry = _REGISTRY
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return _text(registry)


# ---------------------------------------------------------------- who may read them


class Operator:
    """Knows the operator of the service by the token in `operator_token_file`.

    Raises: UsageError where that file cannot be read or its token is too short to be one.
    """

    def __init__(self, settings: Settings) -> None:
        self._token = b""
        self._believe_address = not settings.behind_proxy
        self.everybody = settings.insecure_demo
        """Whether anybody may do what the operator may: on one's own machine."""
        path = settings.operator_token_file
        if path is None:
            return
        try:
            self._token = path.read_bytes().strip()
        except OSError as error:
            raise UsageError(
                f"operator_token_file: {path} cannot be read: {error.strerror}"
            ) from None
        if len(self._token) < 16 or len(self._token.split()) != 1:
            raise UsageError(
                f"operator_token_file: {path} must hold one token of at least 16 characters"
            )

    def shows_token(self, scope: Scope) -> bool:
        """Whether the request carries the operator's token (Authorization: Bearer)."""
        for name, value in scope["headers"]:
            if name == b"authorization":
                kind, _, token = value.partition(b" ")
                if kind.lower() == b"bearer" and self._token:
                    return hmac.compare_digest(token.strip(), self._token)
        return False

    def is_here(self, scope: Scope) -> bool:
        """Whether the request comes from this very machine and was not forwarded to it."""
        client = scope.get("client")
        if not self._believe_address or client is None or not is_loopback(client[0]):
            return False
        return not any(
            name == b"forwarded" or name.startswith(b"x-forwarded-") for name, _ in scope["headers"]
        )


class MetricsEndpoint:
    """ASGI application of ``GET /metrics``: for the operator and for this machine.

    Everybody else gets a bare 401, unless `metrics_public`. Behind a proxy no address counts as
    this machine: all calls may seem to come from there.
    """

    def __init__(self, settings: Settings) -> None:
        self._operator = Operator(settings)
        self._public = settings.metrics_public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        operator = self._operator
        if self._public or operator.shows_token(scope) or operator.is_here(scope):
            status, body = 200, written()
            headers = [(b"content-type", CONTENT_TYPE_LATEST.encode())]
        else:
            status, body = 401, b""
            headers = [(b"www-authenticate", b"Bearer")]
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
