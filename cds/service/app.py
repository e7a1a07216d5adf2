"""The HTTP application: routes, who may call them, what they share, its beginning and its end.

CDS Hooks 2.0; rows CH-01, CH-10 to CH-13, CH-50, CH-55, CH-90, CH-119, CH-128, CH-136. Decided
here:

* Paths have no slash at their end; with one they are not found (404).
* An unknown service is 404, another method 405 (also HEAD), another media type than
  ``application/json`` or ``application/fhir+json`` 415. Before all of these comes the token: who
  has none learns nothing (401, bare).
* Feedback is answered with 200 and how many items were taken. The audience of its token is the
  feedback URL, nothing else (CH-126).
* ``/health/live`` answers while the process does, ``/health/ready`` 503 while calls would fail.
"""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import orjson
from fastapi import APIRouter, FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.routing import Route

from cds import __version__
from cds.rules import Rulesets, load_rulesets
from cds.screening import Screener
from cds.service import metrics
from cds.service.auth import Authenticator, Caller, HttpJwks, ReplayStoreDown, Unauthorized
from cds.service.calls import Calls, HookAnswer
from cds.service.cors import Cors
from cds.service.fhirclient import FhirReader
from cds.service.limits import Limits, resources_in
from cds.service.outcomes import JSON, Refusal, operation_outcome
from cds.service.pages import page_routes
from cds.service.requestlog import Notes, RequestLog, notes
from cds.service.requests import (
    CONTEXTS,
    FeedbackRequest,
    FhirAuthorization,
    HookContext,
    parse_feedback,
)
from cds.service.store import Store, StoreDown

if TYPE_CHECKING:
    from cds.service.settings import Settings

__all__ = ["create_app"]

_MEDIA: Final = frozenset({JSON, "application/fhir+json"})
_LATER: Final = {"Retry-After": "5"}


def create_app(settings: Settings, *, rulesets: Rulesets | None = None) -> FastAPI:
    """Return the application; rules are loaded (unless given) and compiled before it returns.

    Raises: UsageError, RuleErrors and the like where it could never answer.
    """
    service = _Service(settings, rulesets or _loaded(settings))
    app = FastAPI(
        title="CDS Hooks service for muscle twitching",
        version=__version__,
        lifespan=service.lifespan,
        openapi_url=f"{settings.base_path}/openapi.json",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        # It would send texts of exceptions, which may quote what the caller sent.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.include_router(service.router())
    base = settings.base_path
    app.router.routes.append(
        Route(f"{base}/metrics", metrics.MetricsEndpoint(settings), include_in_schema=False)
    )
    app.router.routes.extend(page_routes(settings, service.store, base_path=base))
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _not_routed)
    # From the inside out.
    app.add_middleware(Limits, settings=settings)
    app.add_middleware(RequestLog)
    app.add_middleware(Cors, settings=settings)
    described = app.openapi

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            schema = described()
            schema.setdefault("components", {}).setdefault("schemas", {}).update(_SCHEMAS)
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def _loaded(settings: Settings) -> Rulesets:
    return load_rulesets(*settings.rulesets, site=settings.site, language=settings.language)


class _Service:
    """What the routes share, in one worker process."""

    def __init__(self, settings: Settings, rulesets: Rulesets) -> None:
        self.settings = settings
        self.store = Store(settings.database_url)
        self.fhir = FhirReader(settings)
        screener = Screener(rulesets, settings.engine)
        self.calls = Calls(settings, rulesets, screener, self.store, self.fhir)
        self.authenticator = Authenticator(settings, self.store, HttpJwks())
        self.running = False

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Open the database, and close everything at the end."""
        async with AsyncExitStack() as stack:
            stack.callback(self.calls.close)
            stack.push_async_callback(self.fhir.aclose)
            stack.push_async_callback(self.authenticator.aclose)
            await stack.enter_async_context(self.store)
            # The rules live as long as the process: looking through them for garbage is in vain.
            gc.collect()
            gc.freeze()
            self.running = True
            try:
                yield
            finally:
                self.running = False

    # ------------------------------------------------------------ routes

    def router(self) -> APIRouter:
        """Return the routes of the service."""
        router = APIRouter(prefix=self.settings.base_path)
        add = router.add_api_route
        add(
            "/cds-services",
            self.discovery,
            methods=["GET"],
            summary="Discovery",
            description="The CDS Services that can be called.",
            response_class=Response,
            responses=_answers("Discovery", 401, 503),
        )
        add(
            "/cds-services/{service_id}",
            self.hook,
            methods=["POST"],
            summary="Call a CDS Service",
            description="Answer a hook with cards.",
            response_class=Response,
            responses=_answers("Cards", 400, 401, 404, 412, 413, 415, 500, 503),
            openapi_extra=_body("HookRequest"),
        )
        add(
            "/cds-services/{service_id}/feedback",
            self.feedback,
            methods=["POST"],
            summary="Feedback",
            description="What clinicians did with cards.",
            response_class=Response,
            responses=_answers("Recorded", 400, 401, 404, 413, 415, 503),
            openapi_extra=_body("FeedbackRequest"),
        )
        for path, handler in (("live", self.live), ("ready", self.ready)):
            add(
                f"/health/{path}",
                handler,
                methods=["GET"],
                summary=f"Health: {path}",
                response_class=Response,
                responses=_answers("Health", *([503] if path == "ready" else [])),
            )
        return router

    async def discovery(self, request: Request) -> Response:
        """Answer GET /cds-services."""
        if not self.settings.open_discovery:
            caller = await self._caller(request, "/cds-services")
            if isinstance(caller, Response):
                return caller
        return _json(self.calls.discovery.document(datetime.now(UTC)))

    async def hook(self, request: Request) -> Response:
        """Answer POST /cds-services/{id}."""
        service_id = request.path_params["service_id"]
        caller = await self._caller(request, f"/cds-services/{service_id}")
        if isinstance(caller, Response):
            return caller
        now = notes()
        self._known(service_id, now)
        raw, body = await self._body(request)
        answer = await self.calls.answer(service_id, body, caller, now.request_id, size=len(raw))
        self._note(answer, now)
        return _json(answer.payload, answer.status)

    async def feedback(self, request: Request) -> Response:
        """Answer POST /cds-services/{id}/feedback."""
        service_id = request.path_params["service_id"]
        caller = await self._caller(request, f"/cds-services/{service_id}/feedback")
        if isinstance(caller, Response):
            return caller
        self._known(service_id, None)
        _, body = await self._body(request)
        items = parse_feedback(body)
        try:
            await self.store.add_feedback(service_id, items, caller.iss)
        except StoreDown:
            metrics.store_failed()
            raise Refusal(
                503, "feedback cannot be kept now", word="store-down", headers=_LATER
            ) from None
        return _json(orjson.dumps({"recorded": len(items)}))

    async def live(self, request: Request) -> Response:
        """Answer GET /health/live."""
        return _json(b'{"status":"live"}')

    async def ready(self, request: Request) -> Response:
        """Answer GET /health/ready: whether calls can be answered and kept now."""
        if not self.running:
            why = "stopping"
        elif not await self.store.ready():
            why = "no-database"
        else:
            return _json(b'{"status":"ready"}')
        return _json(orjson.dumps({"status": why}), 503)

    # ------------------------------------------------------------ their parts

    async def _caller(self, request: Request, path: str) -> Caller | Response:
        """Return who calls, or the bare 401 that every fault of a token gets (CH-128)."""
        sent = request.headers.getlist("authorization")
        try:
            url = f"{self.settings.url}{path}"
            caller = await self.authenticator.check(sent[0] if len(sent) == 1 else None, url)
        except Unauthorized as fault:
            metrics.unauthorized(fault.cause)
            notes().words.append(fault.cause)
            return Response(status_code=401, headers={"WWW-Authenticate": "Bearer"})
        except ReplayStoreDown:
            metrics.store_failed()
            raise Refusal(
                503, "tokens cannot be checked now", word="store-down", headers=_LATER
            ) from None
        notes().iss = caller.iss
        return caller

    def _known(self, service_id: str, now: Notes | None) -> None:
        if service_id not in self.calls.discovery.services:
            raise Refusal(404, "no CDS Service has this id", word="unknown-service")
        if now is not None:
            now.service = service_id

    async def _body(self, request: Request) -> tuple[bytes, Any]:
        """Return the body, and what is in it. Raises: Refusal (400, 413, 415)."""
        media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media not in _MEDIA:
            raise Refusal(415, f"Content-Type: must be {JSON}", word="media-type")
        raw = await request.body()
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            where = f"line {error.lineno}, column {error.colno}"
            raise Refusal(400, f"the body: is not JSON ({where})", word="not-json") from None
        if isinstance(body, dict) and resources_in(body) > self.settings.entry_limit:
            most = self.settings.entry_limit
            raise Refusal(413, f"the body: has more than {most} resources", word="too-many")
        return raw, body

    def _note(self, answer: HookAnswer, now: Notes) -> None:
        """Log and count what became of a call."""
        now.words += answer.words
        now.figures["cards"] = len(answer.indicators)
        metrics.cards(answer.indicators)
        for outcome in answer.fetched:
            metrics.fetched(outcome)
        if answer.suppressed:
            now.figures["suppressed"] = answer.suppressed
            metrics.suppressed(answer.suppressed)
        if answer.failed:
            metrics.failed()
        if answer.store_failed:
            metrics.store_failed()


# ---------------------------------------------------------------- answers


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type=JSON)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)  # noqa: S101 - it is registered for nothing else
    now = notes()
    now.words.append(error.word)
    if error.word == "failed":
        metrics.failed()
    elif error.word == "store-down":
        metrics.store_failed()
    return _outcome(error.status, error.code, error.message, error.headers)


async def _not_routed(request: Request, error: Exception) -> Response:
    """Answer what no route takes: a wrong path or method."""
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for nothing else
    refusal = Refusal(error.status_code, _ROUTING.get(error.status_code, "the call is not valid"))
    headers = dict(error.headers or {})
    return _outcome(refusal.status, refusal.code, refusal.message, headers)


_ROUTING: Final = {
    404: "nothing is at this address",
    405: "this address does not take this method",
}


def _outcome(status: int, code: str, message: str, headers: Mapping[str, str]) -> Response:
    body = operation_outcome(status, code, message, notes().request_id)
    return Response(body, status, headers=dict(headers), media_type=JSON)


# ---------------------------------------------------------------- what OpenAPI says


class _Described(BaseModel):
    model_config = ConfigDict(extra="allow")


class Prefetch(_Described):
    """Data by the keys of discovery: a resource, a Bundle, or null."""


class HookRequest(_Described):
    """A call of a hook (CDS Hooks 2.0, "HTTP Request")."""

    hook: Literal[tuple(CONTEXTS)]  # type: ignore[valid-type]
    hookInstance: str = Field(json_schema_extra={"format": "uuid"})
    fhirServer: str | None = None
    fhirAuthorization: FhirAuthorization | None = None
    context: HookContext
    prefetch: Prefetch | None = None


class Source(_Described):
    """The primary source of a card's guidance."""

    label: str
    url: str | None = None
    topic: dict[str, Any] | None = None


class Card(_Described):
    """A card (CDS Hooks 2.0, "Card Attributes")."""

    uuid: str
    summary: Annotated[str, Field(max_length=139)]
    indicator: Literal["info", "warning", "critical"]
    detail: str
    source: Source
    suggestions: list[dict[str, Any]] | None = None
    selectionBehavior: Literal["at-most-one", "any"] | None = None
    overrideReasons: list[dict[str, Any]] | None = None
    links: list[dict[str, Any]] | None = None


class Cards(_Described):
    """The answer to a hook; no card means that the service has nothing to say, no more."""

    cards: list[Card]


class OfferedService(_Described):
    """A CDS Service (CDS Hooks 2.0, "Discovery")."""

    hook: str
    title: str
    description: str
    id: str
    prefetch: dict[str, str]
    usageRequirements: str


class Discovery(_Described):
    """The answer of discovery."""

    services: list[OfferedService]


class Recorded(_Described):
    """How many items of feedback were taken."""

    recorded: int


class Health(_Described):
    """Whether the service can answer."""

    status: str


class OperationOutcome(_Described):
    """FHIR R4B OperationOutcome: why a call was refused."""

    resourceType: Literal["OperationOutcome"]
    issue: list[dict[str, Any]]


_REF: Final = "#/components/schemas/{model}"
_MODELS: Final = (
    HookRequest,
    FeedbackRequest,
    Cards,
    Discovery,
    Recorded,
    Health,
    OperationOutcome,
)
_SCHEMAS: Final[dict[str, Any]] = models_json_schema(
    [(model, "validation") for model in _MODELS], ref_template=_REF
)[1]["$defs"]
_STATUS: Final = {
    400: "The call is malformed",
    401: "The token does not convince (no body)",
    404: "Unknown service",
    412: "The patient is not there and could not be read",
    413: "Too large",
    415: "Not JSON",
    500: "The rules could not be evaluated",
    503: "Try again later",
}


def _content(model: str) -> dict[str, Any]:
    return {JSON: {"schema": {"$ref": _REF.format(model=model)}}}


def _answers(model: str, *statuses: int) -> dict[int | str, dict[str, Any]]:
    found: dict[int | str, dict[str, Any]] = {
        200: {"description": "Success", "content": _content(model)}
    }
    for status in statuses:
        found[status] = {"description": _STATUS[status]}
        if status != 401 and model != "Health":
            found[status]["content"] = _content("OperationOutcome")
    return found


def _body(model: str) -> dict[str, Any]:
    parameter = {"name": "service_id", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "requestBody": {"required": True, "content": _content(model)},
        "parameters": [parameter],
    }
