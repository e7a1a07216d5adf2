"""What a caller may ask of us at most (CH-63): size, nesting, time, calls at once.

The specification names no limits and no statuses for them; ours:

- a body above `body_limit_bytes`, declared or found while it comes in chunks: 413;
- JSON nested more deeply than `depth_limit`: 400, found in the bytes before they are parsed;
- a body that is encoded (gzip): 415, so that a small one cannot become large;
- a body that is not there within `call_timeout_seconds`: 408; an answer that is not: 503;
- more than `concurrent_calls_limit` calls at once in one worker: 503 with Retry-After;
- more than `entry_limit` resources: `resources_in` counts them for who has parsed the body.

The body is read only when the application asks for it: a caller without a valid token makes us
read none.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from cds.service.outcomes import Refusal
from cds.service.requestlog import notes, refuse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from cds.service.settings import Settings

__all__ = ["Limits", "nested_within", "resources_in"]

_BODIES: Final = frozenset({"POST", "PUT", "PATCH"})
# Of JSON only brackets and quotes stay, and brackets all alike: [ for { and ] for }.
_ALIKE: Final = bytes.maketrans(b"{}", b"[]")
_OTHERS: Final = bytes(set(range(256)) - set(b'[]{}"'))
_CLOSE: Final = {"Connection": "close"}  # the rest of the body is not waited for


def nested_within(body: bytes, limit: int) -> bool:
    """Whether no part of this JSON lies deeper than `limit` arrays and objects.

    Also False where brackets do not match, which no JSON has. Nothing is parsed: all but brackets
    and quotes is thrown away, then what stands between quotes, then pairs of brackets from the
    inside out; all of it by the functions of `bytes`, so that it costs less than parsing.
    """
    if b"\\" in body:  # \" ends no string, but \\" does
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Two quotes side by side change nothing for the brackets before and after them.
    brackets = body.translate(_ALIKE, _OTHERS).replace(b'""', b"")
    if b'"' in brackets:
        brackets = b"".join(brackets.split(b'"')[::2])
    for left in range(limit, 0, -1):
        if not brackets:
            return True
        if b"[" * (left + 1) in brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    return not brackets


def resources_in(body: dict[str, Any]) -> int:
    """Return how many resources a call brings: those in its prefetch and in its context.

    A Bundle counts as its entries, those of Bundles within it included.
    """
    number = 0
    parts: list[Any] = []
    for member in ("prefetch", "context"):
        values = body.get(member)
        if isinstance(values, dict):
            parts.extend(values.values())
    while parts:
        part = parts.pop()
        if isinstance(part, list):
            parts.extend(p for p in part if isinstance(p, dict))
        elif isinstance(part, dict):
            entries = part.get("entry")
            if isinstance(entries, list):
                number += len(entries)
                for entry in entries:
                    inner = entry.get("resource") if isinstance(entry, dict) else None
                    if isinstance(inner, dict) and "entry" in inner:
                        parts.append(inner)
            elif "resourceType" in part:
                number += 1
    return number


class Limits:
    """Holds every request with a body to the limits of the module.

    What is beyond one is raised as `Refusal` where the application reads the body; a handler of
    its own may answer it, else it is answered here.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._bytes = settings.body_limit_bytes
        self._depth = settings.depth_limit
        self._seconds = settings.call_timeout_seconds
        self._most = settings.concurrent_calls_limit
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] not in _BODIES:
            await self._app(scope, receive, send)
            return
        body = _Body(receive, self._bytes, self._depth)
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            body.declared(scope)
            if self._running >= self._most:
                raise Refusal(
                    503,
                    "too many calls at once",
                    code="throttled",
                    word="overloaded",
                    headers={"Retry-After": "1"},
                )
            self._running += 1
            try:
                async with asyncio.timeout(self._seconds):
                    await self._app(scope, body.receive, answer)
            finally:
                self._running -= 1
        except TimeoutError:
            # Only ours comes up to here; what the application waits for it handles itself.
            if started:
                raise
            await _refuse(send, self._too_late(body))
        except Refusal as refusal:
            if started:
                raise
            await _refuse(send, refusal)

    def _too_late(self, body: _Body) -> Refusal:
        if body.reading:
            message = f"the body did not come within {self._seconds:g} seconds"
            return Refusal(408, message, code="timeout", word="slow-body", headers=_CLOSE)
        message = f"the call was not answered within {self._seconds:g} seconds"
        return Refusal(503, message, code="timeout", word="timeout", headers={"Retry-After": "5"})


async def _refuse(send: Send, refusal: Refusal) -> None:
    now = notes()
    now.words.append(refusal.word)
    await refuse(send, refusal, now.request_id)


class _Body:
    """The body of one request, given to the application as a whole."""

    def __init__(self, receive: Receive, limit: int, depth: int) -> None:
        self._receive, self._limit, self._depth = receive, limit, depth
        self._done = False
        self.reading = False

    def declared(self, scope: Scope) -> None:
        """Refuse what the request's head says of its body."""
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > self._limit:
                raise self._too_large()
            if name == b"content-encoding" and value.lower() not in (b"", b"identity"):
                message = "the body must not be encoded (Content-Encoding)"
                raise Refusal(415, message, word="encoded", headers=_CLOSE)

    async def receive(self) -> Message:
        """Return the whole body as one message, later what comes after it."""
        if self._done:
            return await self._receive()
        self.reading = True
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await self._receive()
            if message["type"] != "http.request":
                return message  # the client is gone
            part = message.get("body", b"")
            more = message.get("more_body", False)
            size += len(part)
            if size > self._limit:
                raise self._too_large()
            parts.append(part)
        self.reading, self._done = False, True
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        if not nested_within(body, self._depth):
            message_ = f"the body is nested more than {self._depth} deep, or is no JSON"
            raise Refusal(400, message_, code="structure", word="nesting")
        return {"type": "http.request", "body": body, "more_body": False}

    def _too_large(self) -> Refusal:
        message = f"the body is larger than {self._limit} bytes"
        return Refusal(413, message, word="too-large", headers=_CLOSE)
