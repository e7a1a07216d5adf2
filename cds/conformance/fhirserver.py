"""A small FHIR server in a thread: it answers searches, can misbehave, and knows who called it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

from cds.conformance.records import Records, bundle
from cds.errors import UsageError

__all__ = ["Behavior", "FhirServer", "Seen"]

_REASON: Final = {401: "login", 403: "forbidden", 404: "not-found"}


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that came in: what was asked for, below the base, and with which token."""

    path: str
    authorization: str | None

    @property
    def kind(self) -> str:
        """The resource type that was asked for."""
        return self.path.lstrip("/").partition("?")[0].partition("/")[0]


@dataclass(frozen=True, slots=True)
class Behavior:
    """How the server answers.

    Args:
        status: the status of every answer; None: as a good server.
        forbidden: the resource type for which it answers 403.
        closes: it ends the connection without an answer.
        redirect: base URL to which it redirects everything.
        next_base: gives each search one resource a page; the base URL of the next page.
    """

    status: int | None = None
    forbidden: str | None = None
    closes: bool = False
    redirect: str | None = None
    next_base: str | None = None


@dataclass
class FhirServer:
    """Serves records below a base URL, as a context manager.

    Args:
        records: what it serves; None: nothing is ever asked here, unless a service is misled.
        base: its URL as services call it; None: a free port of this machine only.
        listen: host and port where it really is, for a base that a proxy serves.

    Raises: UsageError if it cannot listen there.
    """

    records: Records | None
    base: str | None = None
    listen: tuple[str, int] | None = None
    behavior: Behavior = field(default_factory=Behavior)
    seen: list[Seen] = field(default_factory=list)

    def __enter__(self) -> Self:
        where = self.listen
        if where is None and self.base is not None:
            parts = urlsplit(self.base)
            if parts.scheme != "http":
                raise UsageError(
                    "a FHIR base with https needs a proxy that ends TLS, and --fhir-listen"
                )
            where = (parts.hostname or "", parts.port or 80)
        try:
            server = _Server(where or ("127.0.0.1", 0), _Handler)
        except OSError as error:
            raise UsageError(
                f"no FHIR server can listen at {(where or ('?', 0))[0]}: {error.strerror}"
            ) from None
        if self.base is None:
            self.base = f"http://127.0.0.1:{server.server_address[1]}/fhir"
        self.base = self.base.rstrip("/")
        server.fhir = self
        self._server = server
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """The base URL. Only while the server runs."""
        assert self.base is not None  # noqa: S101 - set when it starts
        return self.base

    @contextmanager
    def behaving(self, **how: Any) -> Iterator[list[Seen]]:
        """Answer so for a while; gives the list of what comes in meanwhile."""
        before, self.behavior = self.behavior, replace(self.behavior, **how)
        before_seen, self.seen = self.seen, []
        try:
            yield self.seen
        finally:
            self.behavior, self.seen = before, before_seen

    def answer(self, path: str) -> tuple[int, dict[str, str], Any]:
        """Return status, headers and body for a path below the base."""
        how = self.behavior
        if how.redirect is not None:
            return 302, {"Location": how.redirect + path}, None
        kind = path.lstrip("/").partition("?")[0].partition("/")[0]
        status = 403 if kind == how.forbidden else how.status
        if status is not None and status != 200:
            return status, {}, _outcome(_REASON.get(status, "exception"))
        if self.records is None:
            return 404, {}, _outcome("not-found")
        path, _, query = path.lstrip("/").partition("?")
        if "/" in path:
            found = self.records.find(path)
            return (200, {}, found) if found else (404, {}, _outcome("not-found"))
        return 200, {}, self._page(path, query)

    def _page(self, kind: str, query: str) -> dict[str, Any]:
        second = query.endswith("page=2")
        found = self.records.search(kind, query) if self.records else []
        if self.behavior.next_base is None:
            return bundle(found, "searchset")
        page = bundle(found[1:] if second else found[:1], "searchset")
        page["total"] = len(found)
        if not second:
            url = f"{self.behavior.next_base}/{kind}?{query}&page=2"
            page["link"] = [{"relation": "next", "url": url}]
        return page


def _outcome(code: str) -> dict[str, Any]:
    return {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": code}]}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    fhir: FhirServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a service that ends a connection early."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 5
    wbufsize = -1  # head and body in one packet, or each answer waits for the other side

    def do_GET(self) -> None:
        fhir = self.server.fhir
        path = self.path.removeprefix(urlsplit(fhir.url).path)
        fhir.seen.append(Seen(path, self.headers.get("Authorization")))
        if fhir.behavior.closes:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        status, headers, body = fhir.answer(path)
        content = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/fhir+json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet; what came in is in `seen`."""
