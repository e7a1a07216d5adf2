"""The log: one JSON object a line, on standard error, for all loggers; and one for each request.

What a line may hold: ids that we made or that have the shape of one, path templates, statuses,
times, code words, `iss` of a caller whose token was proven. It never holds patient data, a token,
a query string or the text of a card (CH-84, CH-142). So that this holds whatever goes wrong:

- an exception stands as its type and the places it went through; its text only where it is one of
  `cds.errors`, which never carry patient data;
- of loggers that are neither ours nor uvicorn's (whose lines were read) no message stands, only
  where it was logged: an HTTP client logs URLs, a database driver parameters;
- uvicorn's access log, which has query strings, is off.

Middlewares, from the outside in: `cors.Cors`, `RequestLog`, `limits.Limits`, the application.
"""

from __future__ import annotations

import asyncio
import json
import logging
import logging.config
import os
import re
import sys
import threading
import traceback
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from cds.errors import CdsError
from cds.service import metrics
from cds.service.outcomes import JSON, Refusal, operation_outcome

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = [
    "JsonFormatter",
    "Notes",
    "RequestLog",
    "configure",
    "log_config",
    "notes",
    "refuse",
]

_LOG: Final = logging.getLogger("cds.service.requests")
# An id that others chose is logged only if it cannot be a name, a number of a record or a token.
_ID: Final = re.compile(rb"[0-9A-Fa-f-]{16,64}")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_FRAMES: Final = 12
CLIENT_GONE: Final = 499
"""Status in the log of a request whose client went away before it was answered."""


@dataclass(slots=True)
class Notes:
    """What becomes known of a request while it is answered, for its line in the log."""

    request_id: str
    service: str | None = None
    """Id of the service called, set only where that service exists and its hook is called."""
    iss: str | None = None
    """Who calls, set only where the token was proven."""
    words: list[str] = field(default_factory=list)
    """Code words: what was special about it."""
    figures: dict[str, int] = field(default_factory=dict)
    """Counts, such as those of cards."""


_CURRENT: ContextVar[Notes | None] = ContextVar("cds_request", default=None)


def notes() -> Notes:
    """Return the notes of the request that is being answered, or unused ones outside of any."""
    return _CURRENT.get() or Notes("")


# ---------------------------------------------------------------- lines


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON; see the module for what it leaves out."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if record.name.partition(".")[0] in ("cds", "uvicorn"):
            line["message"] = _message(record)
        else:
            line["at"] = f"{os.path.basename(record.pathname)}:{record.lineno}"
        current = _CURRENT.get()
        if current is not None:
            line["request_id"] = current.request_id
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            line.update(fields)
        if record.exc_info and record.exc_info[1] is not None:
            line.update(_described(record.exc_info[1]))
        return json.dumps(line, default=lambda value: type(value).__name__)


def _message(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage().strip()
    except (TypeError, ValueError):  # its arguments do not fit it
        return "?"
    if "\n" in text:
        # A traceback as text (uvicorn, when the start fails): only what kind of error it was.
        return text.splitlines()[-1].partition(":")[0]
    return text


def _described(error: BaseException) -> dict[str, Any]:
    """Return an exception without its text, which may quote what the caller sent."""
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    found: dict[str, Any] = {
        "error": type(error).__name__,
        "trace": [f"{os.path.basename(f.filename)}:{f.lineno} {f.name}" for f in frames],
    }
    if isinstance(error, CdsError):
        found["reason"] = str(error)
    before = error.__cause__ or error.__context__
    if before is not None:
        found["after"] = type(before).__name__
    return found


def log_config(level: str) -> dict[str, Any]:
    """Return the configuration of all loggers, for `logging.config.dictConfig` and uvicorn."""
    quiet = "CRITICAL" if level == "critical" else "ERROR" if level == "error" else "WARNING"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": "cds.service.requestlog.JsonFormatter"}},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stderr",
                "formatter": "json",
            }
        },
        # Loggers of others say at lower levels what must not be said, and nothing that is needed.
        "root": {"handlers": ["stderr"], "level": quiet},
        "loggers": {
            "cds": {"level": level.upper()},
            "uvicorn": {
                "level": "INFO" if level in ("debug", "info") else quiet,
                "handlers": [],
                "propagate": True,
            },
            "uvicorn.access": {"level": "CRITICAL", "handlers": [], "propagate": False},
        },
    }


def configure(level: str) -> None:
    """Make this process write its log as described; also what would be printed past the log."""
    logging.config.dictConfig(log_config(level))
    logging.captureWarnings(True)
    # A line that cannot be written would be printed with its arguments, past the formatter.
    logging.raiseExceptions = False
    log = logging.getLogger("cds.service")

    def of_process(
        kind: type[BaseException], error: BaseException, _: TracebackType | None
    ) -> None:
        if not isinstance(error, KeyboardInterrupt):
            log.critical("the process ends with an exception", exc_info=error)

    def of_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            log.error("a thread ended with an exception", exc_info=args.exc_value)

    def unraisable(args: Any) -> None:
        log.error("an exception could not be raised", exc_info=args.exc_value)

    sys.excepthook = of_process
    threading.excepthook = of_thread
    sys.unraisablehook = unraisable


# ---------------------------------------------------------------- requests


async def refuse(send: Send, refusal: Refusal, request_id: str) -> None:
    """Answer with an OperationOutcome; 401 stays bare (CH-50, CH-128)."""
    body = b""
    headers = [(k.lower().encode(), v.encode()) for k, v in refusal.headers.items()]
    if refusal.status != 401:
        body = operation_outcome(refusal.status, refusal.code, refusal.message, request_id)
        headers.append((b"content-type", JSON.encode()))
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class RequestLog:
    """Gives each request an id and a line in the log, counts it, and answers what went wrong.

    The id is the header X-Request-Id of the answer. One that the caller sent is taken if it looks
    like a UUID or another number in hexadecimal digits (16 to 64, hyphens allowed); any other
    might be a number of a patient and would stand in our log.

    An exception that nobody else answered is answered with 500 and an OperationOutcome (CH-64),
    one that stopped the call because the service ends with 503.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = perf_counter()
        now = Notes(_request_id(scope))
        scope.setdefault("state", {})["notes"] = now
        token = _CURRENT.set(now)
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = (b"x-request-id", now.request_id.encode())
                message["headers"] = [*message.get("headers", ()), own]
            await send(message)

        try:
            try:
                await self._app(scope, receive, answer)
            except Exception as error:
                if _is_disconnect(error):
                    status = status or CLIENT_GONE
                    return
                now.words.append("unhandled")
                metrics.failed()
                _LOG.error("unhandled exception", exc_info=error)
                if status:  # part of the answer is out; the connection has to break
                    raise
                failure = Refusal(500, "the call could not be answered", code="exception")
                await refuse(answer, failure, now.request_id)
            except asyncio.CancelledError:
                now.words.append("stopped")
                if status:
                    raise
                ending = Refusal(503, "the service is shutting down", headers={"Retry-After": "5"})
                await refuse(answer, ending, now.request_id)
        finally:
            _said(scope, now, status, perf_counter() - begun)
            _CURRENT.reset(token)


def _is_disconnect(error: Exception) -> bool:
    from starlette.requests import ClientDisconnect

    return isinstance(error, ClientDisconnect)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _ID.fullmatch(value):
            return str(value.decode())
    return os.urandom(16).hex()


def _said(scope: Scope, now: Notes, status: int, seconds: float) -> None:
    """Log and count a request that is over."""
    path = getattr(scope.get("route"), "path", None) or "?"
    fields: dict[str, Any] = {
        "method": scope["method"] if scope["method"] in _METHODS else "?",
        "path": path,
        "status": status,
        "ms": round(seconds * 1000, 1),
    }
    if now.service is not None:
        fields["service"] = now.service
        metrics.call(now.service, status, seconds)
    if now.iss is not None:
        fields["iss"] = now.iss
    if now.words:
        fields["words"] = now.words
    fields.update(now.figures)
    metrics.request(path, status)
    level = logging.DEBUG if "/health/" in path and status < 500 else logging.INFO
    _LOG.log(logging.ERROR if status == 500 else level, "request", extra={"fields": fields})
