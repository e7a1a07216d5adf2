"""Calls from browsers: which pages may make them (CH-143).

Only origins that the configuration names; with none, nothing is answered to any of them. A token
travels in the header Authorization, which the page sets itself: no cookie is ever used, so
Access-Control-Allow-Credentials is never sent and "*" never stands for an origin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from cds.service.settings import Settings

__all__ = ["Cors"]

_PREFLIGHT: Final = [
    (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
    (b"access-control-allow-headers", b"authorization, content-type, x-request-id"),
    (b"access-control-max-age", b"600"),
]
_EXPOSED: Final = (b"access-control-expose-headers", b"x-request-id, retry-after")
_VARY: Final = (b"vary", b"Origin")


class Cors:
    """Answers preflights, which carry no token, and marks every other answer for its page.

    The outermost middleware: whatever the answer is, 401, 412 and 500 included, a page of a named
    origin can read it. A preflight of any other origin is refused with 403; any other request of
    it is answered as usual, without a header that would let the page read the answer.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._origins = frozenset(origin.encode() for origin in settings.cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or not self._origins:
            await self._app(scope, receive, send)
            return
        origin, asked = b"", False
        for name, value in scope["headers"]:
            if name == b"origin":
                origin = value
            elif name == b"access-control-request-method":
                asked = True
        allowed = (
            [(b"access-control-allow-origin", origin), _VARY]
            if origin in self._origins
            else [_VARY]
        )
        if origin and asked and scope["method"] == "OPTIONS":
            ok = origin in self._origins
            headers = [*allowed, *(_PREFLIGHT if ok else ())]
            if not ok:
                headers.append((b"content-length", b"0"))
            await send(
                {
                    "type": "http.response.start",
                    "status": 204 if ok else 403,
                    "headers": headers,
                }
            )
            await send({"type": "http.response.body", "body": b""})
            return
        if origin in self._origins:
            allowed.append(_EXPOSED)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *allowed]
            await send(message)

        await self._app(scope, receive, answer)
