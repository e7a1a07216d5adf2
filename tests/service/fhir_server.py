"""A small FHIR server, a process of its own, that can be told to behave badly.

``running(resources, token=...)`` starts one and stops it. It answers reads and searches of the
resources it was given, with pages, and only with the token. `FhirServer.behave` tells it how to
answer a path ("Observation", "Patient/p1", "*" for all); `FhirServer.requests` says what was asked.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import re
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

Json = dict[str, Any]

BEHAVIORS = frozenset(
    {
        "slow",  # waits `seconds` before it answers
        "drip",  # sends one byte every `seconds`
        "dead",  # closes the connection without an answer
        "cut",  # closes the connection in the middle of the body
        "status",  # answers `status` with `headers`
        "redirect",  # answers 302 to `location`
        "html",  # a page of a login form
        "raw",  # 200 with `body` and `headers` as they are
        "huge",  # `bytes` of JSON, in chunks
        "bomb",  # `bytes` of JSON, as gzip
        "gzip",  # the right answer, as gzip
        "gzip-cut",  # the same without its checksum
        "endless",  # always one more page
        "loop",  # the next page is this page
        "next",  # the next page is at `url`
        "outcome",  # an OperationOutcome in place of the answer
        "outcome-entry",  # an OperationOutcome among the entries
        "extra",  # adds `resources` to the entries
        "total",  # says that there are `total` matches
    }
)

# These change a right answer, the others take its place.
_TRUE = {"good", "slow", "gzip", "gzip-cut", "endless", "loop", "next", "outcome-entry", "extra"}
_TRUE |= {"total"}
_DATES = {
    "date": ("effectiveDateTime", "authored", "dateAsserted", "recordedDate", "onsetDateTime"),
    "effective": ("effectiveDateTime",),
    "authored": ("authored",),
    "authoredon": ("authoredOn",),
    "recorded-date": ("recordedDate",),
    "onset-date": ("onsetDateTime",),
}
_IGNORED = {"_sort", "_format"}


@dataclass
class FhirServer:
    """A running server as its user sees it."""

    base: str
    token: str
    control: str

    def behave(self, path: str, kind: str, *, times: int | None = None, **how: Any) -> None:
        """Answer this path in this way, the next `times` or until told otherwise."""
        assert kind in BEHAVIORS, kind
        self._call("behave", {"path": path, "kind": kind, "times": times, **how})

    def reset(self) -> None:
        """Behave well, and forget what was asked."""
        self._call("reset", {})

    def requests(self) -> list[Json]:
        """What was asked so far: method, target, headers (names in small letters)."""
        answer: list[Json] = self._call("requests", {})
        return answer

    def targets(self) -> list[str]:
        """Paths and queries asked so far, below the base."""
        return [request["target"].removeprefix("/fhir/") for request in self.requests()]

    def _call(self, name: str, body: Json) -> Any:
        request = urllib.request.Request(  # noqa: S310 - our own server
            f"{self.control}/{name}", json.dumps(body).encode(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return json.loads(answer.read())


@contextlib.contextmanager
def running(
    resources: Sequence[Json] = (),
    *,
    token: str = "token-of-the-tests",  # noqa: S107 - no secret
    tls: tuple[Path, Path] | None = None,
    host: str = "127.0.0.1",
) -> Iterator[FhirServer]:
    """Start a server with these resources and stop it at the end."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder, "bundle.json")
        entries = [{"resource": resource} for resource in resources]
        bundle.write_text(json.dumps({"resourceType": "Bundle", "entry": entries}))
        command = [sys.executable, __file__, str(bundle), "--token", token, "--host", host]
        if tls is not None:
            command += ["--certificate", str(tls[0]), "--key", str(tls[1])]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            ports = json.loads(process.stdout.readline())
            scheme = "https" if tls is not None else "http"
            yield FhirServer(
                base=f"{scheme}://{host}:{ports['port']}/fhir",
                token=token,
                control=f"http://127.0.0.1:{ports['control']}",
            )
        finally:
            process.terminate()
            process.wait(timeout=10)
            if process.stdout is not None:
                process.stdout.close()


# ---------------------------------------------------------------- the process


class _State:
    def __init__(self, resources: list[Json], token: str, base: str) -> None:
        self.resources, self.token, self.base = resources, token, base
        self.lock = threading.Lock()
        self.behaviors: dict[str, Json] = {}
        self.requests: list[Json] = []

    def behavior(self, path: str) -> Json:
        with self.lock:
            for key in (path, path.partition("/")[0], "*"):
                how = self.behaviors.get(key)
                if how is not None and how["times"] != 0:
                    if how["times"] is not None:
                        how["times"] -= 1
                    return how
        return {"kind": "good"}


def _outcome(code: str) -> Json:
    issue = {"severity": "error", "code": code}
    return {"resourceType": "OperationOutcome", "issue": [issue]}


class _BadQuery(Exception):
    pass


def _codings(resource: Json, name: str) -> Iterator[Json]:
    value = resource.get("medicationCodeableConcept" if name == "medication" else name)
    for concept in value if isinstance(value, list) else [value]:
        yield from (concept or {}).get("coding", [])


def _matches(resource: Json, name: str, value: str) -> bool:
    if name in ("patient", "subject"):
        wanted = value if "/" in value else f"Patient/{value}"
        subject = resource.get("subject") or resource.get("patient") or {}
        return bool(subject.get("reference") == wanted)
    if name == "_id":
        return str(resource.get("id")) in value.split(",")
    if name == "status":
        return resource.get("status") in value.split(",")
    if name in ("code", "category", "clinical-status"):
        element = {"clinical-status": "clinicalStatus"}.get(name, name)
        for token in value.split(","):
            system, bar, code = token.rpartition("|")
            for coding in _codings(resource, element):
                if coding.get("code") == code and (not bar or coding.get("system") == system):
                    return True
        return False
    if name in _DATES:
        match = re.fullmatch(r"(eq|lt|gt|ge|le)?(\d{4}.*)", value)
        if match is None:
            raise _BadQuery
        prefix, day = match[1] or "eq", match[2]
        for element in _DATES[name]:
            if isinstance(resource.get(element), str):
                found = resource[element][: len(day)]
                return {
                    "eq": found == day,
                    "lt": found < day,
                    "gt": found > day,
                    "ge": found >= day,
                    "le": found <= day,
                }[prefix]
        return False
    raise _BadQuery


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: _State

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        state = self.state
        target = urlsplit(self.path)
        with state.lock:
            headers = {name.lower(): value for name, value in self.headers.items()}
            state.requests.append({"method": "GET", "target": self.path, "headers": headers})
        if self.headers.get("Authorization") != f"Bearer {state.token}":
            return self._send(401, _outcome("login"))
        if not target.path.startswith("/fhir/"):
            return self._send(404, _outcome("not-found"))
        path = target.path.removeprefix("/fhir/")
        how = state.behavior(path)
        if self._misbehave(how):
            return None
        kind, _, key = path.partition("/")
        if key:
            for resource in state.resources:
                if resource["resourceType"] == kind and resource.get("id") == key:
                    return self._send(200, resource, how)
            return self._send(404, _outcome("not-found"))
        try:
            return self._send(200, self._search(kind, target.query, how), how)
        except _BadQuery:
            return self._send(400, _outcome("invalid"))

    def _search(self, kind: str, query: str, how: Json) -> Json:
        parameters = parse_qsl(query, keep_blank_values=True)
        count, offset = 50, 0
        found = [r for r in self.state.resources if r["resourceType"] == kind]
        for name, value in parameters:
            if name == "_count":
                count = min(int(value), 200)
            elif name == "_page":
                offset = int(value)
            elif name not in _IGNORED:
                found = [r for r in found if _matches(r, name, value)]
        page = [{"resource": r, "search": {"mode": "match"}} for r in found[offset:][:count]]
        bundle: Json = {"resourceType": "Bundle", "type": "searchset", "total": len(found)}
        url = f"{self.state.base}/{kind}?{urlencode(parameters)}"
        bundle["link"] = [{"relation": "self", "url": url}]
        rest = [(name, value) for name, value in parameters if name != "_page"]
        following = f"{self.state.base}/{kind}?" + urlencode([*rest, ("_page", offset + count)])
        if offset + count < len(found) or how["kind"] == "endless":
            bundle["link"].append({"relation": "next", "url": following})
        if how["kind"] in ("loop", "next"):
            link = {"relation": "next", "url": how.get("url", url)}
            bundle["link"] = [link]
        if how["kind"] == "outcome-entry":
            page.append({"resource": _outcome("incomplete"), "search": {"mode": "outcome"}})
        if how["kind"] == "extra":
            page += [{"resource": r, "search": {"mode": "match"}} for r in how["resources"]]
        if how["kind"] == "total":
            bundle["total"] = how["total"]
        if page:
            bundle["entry"] = page
        return bundle

    def _misbehave(self, how: Json) -> bool:
        """Answer badly, or leave the answer to others."""
        kind = how["kind"]
        if kind == "slow":
            time.sleep(how["seconds"])
        elif kind == "dead":
            self.close_connection = True
        elif kind == "cut":
            self._head(200, {"Content-Length": "100000"})
            self.wfile.write(b'{"resourceType": "Bundle"')
            self.close_connection = True
        elif kind == "status":
            self._send(how["status"], _outcome("exception"), headers=how.get("headers", {}))
        elif kind == "redirect":
            self._send(302, {}, headers={"Location": how["location"]})
        elif kind == "html":
            self._raw(b"<html><body>Please log in</body></html>", {"Content-Type": "text/html"})
        elif kind == "raw":
            self._raw(how["body"].encode(), how.get("headers", {}))
        elif kind == "outcome":
            self._send(200, _outcome("exception"))
        elif kind == "bomb":
            self._raw(gzip.compress(b" " * how["bytes"]), {"Content-Encoding": "gzip"})
        elif kind in ("huge", "drip"):
            part, parts = (b" " * 65536, how["bytes"] // 65536) if kind == "huge" else (b" ", 9999)
            self._head(200, {"Transfer-Encoding": "chunked"})
            try:
                for _ in range(parts):
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
                    time.sleep(how.get("seconds", 0))
            except OSError:
                pass  # the client has had enough
            self.close_connection = True
        return kind not in _TRUE

    def _head(self, status: int, headers: Json) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _raw(self, body: bytes, headers: Json, status: int = 200) -> None:
        self._head(status, {"Content-Length": str(len(body)), **headers})
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def _send(
        self, status: int, body: Json, how: Json | None = None, headers: Json | None = None
    ) -> None:
        text = json.dumps(body).encode()
        named = {
            "Content-Type": "application/fhir+json",
            "Set-Cookie": "session=1",
            **(headers or {}),
        }
        if how is not None and how["kind"] in ("gzip", "gzip-cut"):
            assert "gzip" in self.headers.get("Accept-Encoding", "")
            text = gzip.compress(text)
            text = text[:-8] if how["kind"] == "gzip-cut" else text
            named["Content-Encoding"] = "gzip"
        self._raw(text, named, status)


class _Control(BaseHTTPRequestHandler):
    state: _State

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer: Any = None
        with self.state.lock:
            if self.path == "/behave":
                self.state.behaviors[body["path"]] = body
            elif self.path == "/reset":
                self.state.behaviors.clear()
                self.state.requests.clear()
            else:
                answer = list(self.state.requests)
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: Any) -> None:
        pass  # clients that go away are what is tested


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--token", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    options = parser.parse_args()
    bundle = json.loads(options.bundle.read_text())
    server = _Server((options.host, 0), _Handler)
    scheme = "http"
    if options.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.certificate, options.key)
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        scheme = "https"
    port = server.server_address[1]
    state = _State(
        [entry["resource"] for entry in bundle["entry"]],
        options.token,
        f"{scheme}://{options.host}:{port}/fhir",
    )
    _Handler.state = _Control.state = state
    control = _Server(("127.0.0.1", 0), _Control)
    threading.Thread(target=control.serve_forever, daemon=True).start()
    sys.stdout.write(json.dumps({"port": port, "control": control.server_address[1]}) + "\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    _main()
