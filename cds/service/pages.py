"""The page at `/` and the page of feedback, with the example patients that they offer.

The pages are plain files of the package (`page/`). Their Content-Security-Policy lets the browser
load and call nothing but this service and run no inline script, and demands trusted types, of
which the pages make none: text of a card or a record cannot become markup.

Where no specification speaks, this module decides: the example patients are served in every mode,
because they are invented; what the page calls are the real endpoints, with the client's token
where calls need one. The summary of feedback wants the operator's token, except with
`insecure_demo` (CH-127: feedback is access-controlled).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from cds import __version__
from cds.service.metrics import Operator
from cds.service.outcomes import JSON, issue_code, operation_outcome
from cds.service.store import StoreDown
from cds.shipped import shipped
from cds.yamlfile import load_yaml

if TYPE_CHECKING:
    from starlette.types import Scope

    from cds.service.settings import Settings

__all__ = ["POLICY", "Summaries", "page_routes"]

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""The Content-Security-Policy of everything that is served here (CSP level 3)."""

_HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_FOLDER: Final = Path(__file__).with_name("page")
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": JSON,
}
_PAGES: Final = {"index.html": "/", "feedback.html": "/feedback"}
_ROW: Final = re.compile(r"\| `(?P<name>[a-z0-9-]+)` \| (?P<title>.+?) \| (?P<tier>[a-z]+) \|")
_DECIMAL: Final = re.compile(r"(?<![a-z0-9])(\d+)-(\d+)(?![0-9])")
_DATE: Final = re.compile(r"(\d{4}-\d\d-\d\d)(T\d\d:\d\d.*)?")
_MONTH: Final = re.compile(r"\d{4}-\d\d")

Handler = Callable[[Request], Awaitable[Response]]


class Summaries(Protocol):
    """What the page of feedback needs of the store."""

    async def summary(self, since: datetime | None = None) -> Sequence[Any]:
        """Return dataclasses, one for each rule. Raises: StoreDown."""


class _PageRoute(Route):
    """A route that the log of requests can name, as it can those of FastAPI."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Add the route itself to what the request is to be handled with."""
        match, found = super().matches(scope)
        return match, {**found, "route": self} if found else found


def page_routes(settings: Settings, store: Summaries, *, base_path: str = "") -> list[Route]:
    """Return the routes of the pages, their files and their data, each for GET and HEAD.

    Every address in the pages is relative to theirs, so that they work under any base path.
    """
    routes = [
        *(_file_route(path) for path in sorted(_FOLDER.iterdir()) if path.suffix in _TYPES),
        ("/page.json", _answering(lambda _: _config(settings))),
        ("/demo/patients", _answering(lambda _: {"patients": _patients()})),
        ("/demo/patients/{name}", _patient),
        ("/feedback.json", _feedback(settings, store)),
    ]
    return [
        _PageRoute(base_path + path, handler, methods=["GET"], include_in_schema=False)
        for path, handler in routes
    ]


def _respond(body: bytes, *, status: int = 200, media: str = JSON, **more: str) -> Response:
    headers = {**_HEADERS, "Cache-Control": "no-store"}
    headers.update({name.replace("_", "-"): value for name, value in more.items()})
    return Response(body, status, headers=headers, media_type=media)


def _refusal(status: int, message: str) -> Response:
    return _respond(operation_outcome(status, issue_code(status), message), status=status)


def _answering(make: Callable[[Request], Any]) -> Handler:
    """Return a handler that answers with what `make` returns, as JSON."""

    async def handler(request: Request) -> Response:
        return _respond(orjson.dumps(make(request)))

    return handler


def _file_route(path: Path) -> tuple[str, Handler]:
    """Return path and handler of a file of the page; the browser asks whether it has changed."""
    body = path.read_bytes()
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'

    async def handler(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(None, 304, headers={**_HEADERS, "ETag": tag})
        return _respond(body, media=_TYPES[path.suffix], Cache_Control="no-cache", ETag=tag)

    return _PAGES.get(path.name, f"/{path.name}"), handler


def _config(settings: Settings) -> dict[str, Any]:
    """Return what the page says of the service; nothing that only clients may know."""
    return {
        "auth": settings.auth,
        "demo": settings.insecure_demo,
        "public_url": settings.public_url,
        "version": __version__,
    }


# ---------------------------------------------------------------- example patients


@dataclass(frozen=True, slots=True)
class _Example:
    """A shipped example patient; `tier` is what its sheet expects, for the instant `as_of`."""

    name: str
    label: str
    title: str
    group: str
    tier: str | None
    as_of: datetime
    record: Any


@cache
def _examples() -> Mapping[str, _Example]:
    """Read the examples that have a record and a sheet, in the order of their README."""
    folder = shipped("fhir_examples")
    found = {}
    for name, title, group in _titles((folder / "README.md").read_text(encoding="utf-8")):
        record, sheet = folder / f"{name}.json", folder / "expected" / f"{name}.yaml"
        if not record.is_file() or not sheet.is_file():
            continue
        expected: Any = load_yaml(sheet)[0]
        found[name] = _Example(
            name=name,
            label=_DECIMAL.sub(r"\1.\2", name).replace("-", " ").capitalize(),
            title=title,
            group=group,
            tier=expected["tier"],
            as_of=datetime.fromisoformat(expected["as_of"]),
            record=orjson.loads(record.read_bytes()),
        )
    return found


def _titles(readme: str) -> Iterator[tuple[str, str, str]]:
    """Return name, title and heading of each row of the tables of examples."""
    group = ""
    for line in readme.splitlines():
        if line.startswith("## "):
            group = line[3:].strip()
        elif row := _ROW.fullmatch(line.strip()):
            yield row["name"], row["title"], group


def _patients() -> list[dict[str, Any]]:
    return [
        {"name": e.name, "label": e.label, "title": e.title, "group": e.group, "tier": e.tier}
        for e in _examples().values()
    ]


async def _patient(request: Request) -> Response:
    example = _examples().get(request.path_params["name"])
    if example is None:
        return _refusal(404, "there is no example of this name")
    # Judged later than it was meant for, a record would be out of date; whole days keep times.
    days = (datetime.now(UTC) - example.as_of).days
    return _respond(orjson.dumps(_moved(example.record, timedelta(days=days))))


def _moved(value: Any, by: timedelta) -> Any:
    """Return a copy of the JSON with every FHIR date moved, birth dates too (ages stay)."""
    if isinstance(value, dict):
        return {name: _moved(member, by) for name, member in value.items()}
    if isinstance(value, list):
        return [_moved(member, by) for member in value]
    if isinstance(value, str):
        if found := _DATE.fullmatch(value):
            return (date.fromisoformat(found[1]) + by).isoformat() + (found[2] or "")
        if _MONTH.fullmatch(value):
            return (date.fromisoformat(f"{value}-15") + by).isoformat()[:7]
    return value


# ---------------------------------------------------------------- feedback


def _feedback(settings: Settings, store: Summaries) -> Handler:
    """Return the handler of the summary per rule; ``?since=`` is a date (UTC)."""
    operator = Operator(settings)

    async def handler(request: Request) -> Response:
        if not operator.everybody and not operator.shows_token(request.scope):
            return _respond(b"", status=401, WWW_Authenticate="Bearer")
        since = None
        if text := request.query_params.get("since"):
            try:
                since = datetime.combine(date.fromisoformat(text), time.min, UTC)
            except ValueError:
                return _refusal(400, "since: must be a date such as 2026-11-01")
        try:
            rules = await store.summary(since)
        except StoreDown:
            return _refusal(503, "the database does not answer")
        return _respond(orjson.dumps({"rules": rules}))

    return handler
