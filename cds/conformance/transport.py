"""Checks of transport and JSON (CH-01 to CH-08; CDS Hooks 2.0, "Overview" and "HTTPS")."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

from cds.conformance.checks import Found, check, failed, faults, passed, skipped
from cds.conformance.client import Answer
from cds.conformance.run import Run, walk

__all__: list[str] = []

_QUICK_SECONDS: Final = 0.5
_MAY_BE_EMPTY: Final = ("services", "cards")
_OPTIONAL: Final = {
    "title", "usageRequirements", "prefetch", "detail", "uuid", "icon", "topic", "suggestions",
    "selectionBehavior", "overrideReasons", "links", "isRecommended", "actions", "appContext",
    "systemActions", "extension", "display",
}  # fmt: skip


def _bodies(run: Run) -> Iterator[tuple[str, Answer]]:
    if run.discovery.status == 200:
        yield "discovery", run.discovery
    if run.listed:
        for asked in run.good:
            if asked.answer.status == 200:
                yield f"{asked.service} with {asked.about}", asked.answer


def _elements(run: Run) -> Iterator[tuple[str, str, Any]]:
    for name, answer in _bodies(run):
        for path, value in walk(answer.value):
            yield name, path, value


def _in_resource(path: str) -> bool:
    return ".resource." in path


@check("CH-01", "SHALL", "every body is JSON (RFC 8259) and says so")
def _json(run: Run) -> Found:
    seen = list(_bodies(run))
    return faults(
        (
            f"{name}: {fault}"
            for name, answer in seen
            for fault in (
                "" if answer.media_type == "application/json"
                else f"Content-Type is {answer.media_type or 'missing'}",
                answer.not_json,
            )
            if fault
        ),
        f"{len(seen)} bodies of discovery and calls are JSON",
    )  # fmt: skip


@check("CH-02", "SHALL", "production runs over TLS, discovery too")
def _tls(run: Run) -> Found:
    parts = urlsplit(run.client.base)
    if parts.scheme == "http":
        if run.loopback:
            return skipped("plain HTTP on this machine only, which is no production")
        return failed("the service is called over plain HTTP")
    plain = run.client.request("GET", "http" + run.client.discovery_url[5:], token=None)
    if plain.status == 200:
        return failed("the same port answers discovery over plain HTTP, too")
    return passed(f"TLS with a certificate that is trusted; plain HTTP there: {plain}")


@check("CH-03", "SHALL", "no element of an answer is null")
def _null(run: Run) -> Found:
    elements = list(_elements(run))
    return faults(
        (f"{name}: {path} is null" for name, path, value in elements if value is None),
        f"no null among {len(elements)} elements",
    )


@check("CH-04", "SHALL", "no element is empty but 'services' and 'cards'")
def _empty(run: Run) -> Found:
    elements = list(_elements(run))
    return faults(
        (
            f"{name}: {path} is empty"
            for name, path, value in elements
            if value in ("", [], {})
            and not isinstance(value, bool | int | float)
            and not (path in _MAY_BE_EMPTY and value == [])
        ),
        f"nothing empty among {len(elements)} elements",
    )


@check("CH-05", "SHALL", "optional elements without a value are left out")
def _left_out(run: Run) -> Found:
    present = [
        (name, path, value)
        for name, path, value in _elements(run)
        if path.rpartition(".")[2] in _OPTIONAL and not _in_resource(path)
    ]
    return faults(
        (
            f"{name}: {path} is there without a value"
            for name, path, value in present
            if not isinstance(value, bool | int | float)
            and (value is None or not (value.strip() if isinstance(value, str) else value))
        ),
        f"each of {len(present)} optional elements has a value",
    )


@check("CH-08", "SHOULD", "an answer comes within about 500 ms")
def _quick(run: Run) -> Found:
    times = [asked.answer.seconds for asked in run.answers]
    middle = statistics.median(times)
    seen = (
        f"{len(times)} valid calls: median {middle * 1000:.0f} ms, slowest {max(times) * 1000:.0f}"
        " ms"
    )
    return passed(seen) if middle <= _QUICK_SECONDS else failed(seen)
