"""The floor of a service: parse the body with orjson, answer one card that never changes."""

from __future__ import annotations

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_CARD = {
    "uuid": "5b0d7c1e-6f0c-4d0e-8a8e-0f6d2f8d9a51",
    "summary": "A card",
    "indicator": "info",
    "source": {"label": "bare"},
    "detail": "x" * 1500,
}
_ANSWER = orjson.dumps({"cards": [_CARD]})


async def _answer(request: Request) -> Response:
    orjson.loads(await request.body())
    return Response(_ANSWER, media_type="application/json")


app = Starlette(routes=[Route("/cds-services/bare", _answer, methods=["POST"])])
