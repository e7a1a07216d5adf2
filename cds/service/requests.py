"""What clients send: the envelope of a hook request with its context, and feedback.

Pydantic looks at the envelope only; `prefetch` and the resources of a context stay as they were
parsed. Unknown members are ignored everywhere (CH-62, CH-152). A fault is said with the path of
its member (``context.patientId``), never with its value.

Where CDS Hooks 2.0 is silent, this module decides:

* `hookInstance` is a UUID in the form 8-4-4-4-12, any version and case, also behind ``urn:uuid:``
  (CH-57).
* `patientId` may be ``Patient/<id>``, and `userId` an absolute URL; both are read with a warning
  (CH-66). `userId` without a type is refused: whom the cards speak to depends on it.
* ``token_type`` is compared without case, as OAuth does (RFC 6749 section 7.1; CH-80).
* `selections` that do not resolve in `draftOrders` give a warning (section 6): every draft order is
  assessed, selected or not.
* `feedback` may be empty (CH-120); an outcome time without an offset is refused (CH-121).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Final, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from cds.service.outcomes import Refusal

__all__ = [
    "CONTEXTS",
    "FeedbackItem",
    "FeedbackRequest",
    "FhirAuthorization",
    "HookContext",
    "HookRequest",
    "OverrideReason",
    "parse_feedback",
    "parse_hook",
]

_UUID: Final = re.compile(r"(?:urn:uuid:)?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})", re.I)
_ID: Final = re.compile(r"[A-Za-z0-9\-.]{1,64}")  # FHIR R4 datatype id
_USER: Final = re.compile(r"(?:https?://\S+/)?([A-Z][A-Za-z]{2,50}/[A-Za-z0-9\-.]{1,64})")
_MANY: Final = 10  # faults that are listed; more help nobody

# Members of CDS Hooks before 1.0 and of early drafts, with what stands in their place now.
_OLD_MEMBERS: Final = {
    "user": "context.userId",
    "patient": "context.patientId",
    "encounter": "context.encounterId",
    "oauth": "fhirAuthorization",
    "preFetchData": "prefetch",
}
_OLD_CONTEXT: Final = {
    "orders": "draftOrders",
    "medications": "draftOrders",
    "patient": "patientId",
    "user": "userId",
    "encounter": "encounterId",
}


def _uuid(value: object) -> str:
    found = _UUID.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("must be a UUID")
    return found[1].lower()


def _bundle(value: object) -> object:
    if not isinstance(value, dict) or value.get("resourceType") != "Bundle":
        raise ValueError("must be a FHIR Bundle")
    entries = value.get("entry", [])
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise ValueError("must be a FHIR Bundle whose 'entry' is a list of objects")
    return value


def _fhir_id(value: str) -> str:
    if not _ID.fullmatch(value):
        raise ValueError("must be the id of a FHIR resource")
    return value


def _patient_id(value: str) -> str:
    return _fhir_id(value.removeprefix("Patient/"))


def _user_id(value: str) -> str:
    found = _USER.fullmatch(value)
    if found is None:
        raise ValueError("must be a type and an id, such as Practitioner/123")
    return found[1]


def _server(value: str) -> str:
    try:
        parts = urlsplit(value)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        raise ValueError("must be the https URL of a FHIR server")
    return value.rstrip("/")


Uuid = Annotated[str, BeforeValidator(_uuid)]
FhirBundle = Annotated[dict[str, Any], BeforeValidator(_bundle)]
PatientId = Annotated[str, AfterValidator(_patient_id)]
UserId = Annotated[str, AfterValidator(_user_id)]
EncounterId = Annotated[
    str, AfterValidator(lambda value: _fhir_id(value.removeprefix("Encounter/")))
]
Text = Annotated[str, Field(min_length=1)]


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class FhirAuthorization(_Shape):
    """The access token of one call (CDS Hooks 2.0, "FHIR Resource Access"; CH-80)."""

    access_token: Text = Field(repr=False)
    token_type: Annotated[
        Literal["Bearer"],
        BeforeValidator(lambda v: "Bearer" if isinstance(v, str) and v.lower() == "bearer" else v),
    ]
    expires_in: int
    scope: str
    subject: Text
    patient: Text | None = None


class HookContext(_Shape):
    """What every hook that is served has: whose record is open, and by whom."""

    BUNDLE: ClassVar[str | None] = None
    """The member that holds resources which are not yet on record."""

    patientId: PatientId
    userId: UserId | None = None
    encounterId: EncounterId | None = None

    @property
    def unrecorded(self) -> list[dict[str, Any]]:
        """The resources of `BUNDLE`."""
        bundle: dict[str, Any] | None = getattr(self, self.BUNDLE) if self.BUNDLE else None
        found = [e.get("resource") for e in bundle.get("entry", ())] if bundle else []
        return [resource for resource in found if isinstance(resource, dict)]


class _WithUser(HookContext):
    userId: UserId


class PatientView(_WithUser):
    """Context of patient-view (CH-70)."""


class OrderSign(_WithUser):
    """Context of order-sign (CH-72)."""

    BUNDLE: ClassVar[str | None] = "draftOrders"
    draftOrders: FhirBundle


class OrderSelect(OrderSign):
    """Context of order-select (CH-71)."""

    selections: list[str]


class AtEncounter(_WithUser):
    """Context of encounter-start and encounter-discharge (CH-73, CH-74)."""

    encounterId: EncounterId


class ProblemListItemCreate(_WithUser):
    """Context of problem-list-item-create (CH-75)."""

    BUNDLE: ClassVar[str | None] = "conditions"
    conditions: FhirBundle


class MedicationRefill(HookContext):
    """Context of medication-refill; it may come without a user (CH-76)."""

    BUNDLE: ClassVar[str | None] = "medications"
    medications: FhirBundle


CONTEXTS: Final[Mapping[str, type[HookContext]]] = {
    "patient-view": PatientView,
    "order-select": OrderSelect,
    "order-sign": OrderSign,
    "encounter-start": AtEncounter,
    "encounter-discharge": AtEncounter,
    "problem-list-item-create": ProblemListItemCreate,
    "medication-refill": MedicationRefill,
}
"""The hooks that are served, with their contexts."""


class _Envelope(_Shape):
    hook: Text
    hookInstance: Uuid
    fhirServer: Annotated[str, AfterValidator(_server)] | None = None
    fhirAuthorization: FhirAuthorization | None = None
    prefetch: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _server_with_token(self) -> _Envelope:
        if self.fhirAuthorization is not None and self.fhirServer is None:
            raise ValueError("fhirServer: is required with fhirAuthorization")
        return self


@dataclass(frozen=True, slots=True)
class HookRequest:
    """One hook request, checked. `warnings` are code words of what was read with leniency."""

    hook: str
    hook_instance: str
    context: HookContext
    server: str | None
    authorization: FhirAuthorization | None
    prefetch: Mapping[str, Any]
    warnings: tuple[str, ...] = ()


def parse_hook(body: object, hook: str, *, plain_http: bool = False) -> HookRequest:
    """Return the request to a service of `hook`.

    `plain_http` allows an http FHIR server (CH-58: never in production).

    Raises: Refusal (400) with the paths of all members at fault.
    """
    if not isinstance(body, dict):
        raise Refusal(400, "the body: must be a JSON object", word="malformed")
    faults = _old(body, hook)
    envelope: _Envelope | None = None
    context: HookContext | None = None
    try:
        envelope = _Envelope.model_validate(body)
    except ValidationError as error:
        faults += _faults(error, "")
    if envelope is not None and envelope.hook != hook:
        # What the context of another hook lacks would only be noise.
        raise Refusal(400, f"hook: must be '{hook}', the hook of this service", word="other-hook")
    sent = body.get("context")
    if isinstance(sent, dict):
        try:
            context = CONTEXTS[hook].model_validate(sent)
        except ValidationError as error:
            faults += _faults(error, "context.")
    else:
        old = " (a list was the form before CDS Hooks 1.0)" if isinstance(sent, list) else ""
        missing = "is required" if "context" not in body else f"must be an object{old}"
        faults.append(f"context: {missing}")
    if envelope is not None and not plain_http and (envelope.fhirServer or "").startswith("http:"):
        faults.append("fhirServer: must begin with https://")
    if faults or envelope is None or context is None:
        raise _refusal(faults)
    return HookRequest(
        hook,
        envelope.hookInstance,
        context,
        envelope.fhirServer,
        envelope.fhirAuthorization,
        envelope.prefetch or {},
        tuple(_warnings(sent, context)),
    )


def _old(body: dict[str, Any], hook: str) -> list[str]:
    """Name members of older versions that stand where one of today is missing."""
    faults = [
        f"{old}: is a member of an older CDS Hooks; send {new}"
        for old, new in _OLD_MEMBERS.items()
        if old in body and new.partition(".")[0] not in body
    ]
    context, shape = body.get("context"), CONTEXTS[hook]
    if isinstance(context, dict):
        faults += [
            f"context.{old}: is a member of an older CDS Hooks; send context.{new}"
            for old, new in _OLD_CONTEXT.items()
            if old in context
            and old not in shape.model_fields
            and new in shape.model_fields
            and new not in context
        ]
    return faults


def _warnings(sent: Any, context: HookContext) -> list[str]:
    found = []
    if sent["patientId"] != context.patientId:
        found.append("patient-id-with-type")
    if context.userId is not None and sent["userId"] != context.userId:
        found.append("user-id-with-server")
    if isinstance(context, OrderSelect):
        known = {f"{r.get('resourceType')}/{r.get('id')}" for r in context.unrecorded}
        if not known.issuperset(context.selections):
            found.append("selection-not-in-draft-orders")
    return found


# ---------------------------------------------------------------- feedback


class Coding(_Shape):
    """A reason that the user picked (CDS Hooks 2.0, "Coding")."""

    code: Text
    system: str | None = None
    display: str | None = None


class OverrideReason(_Shape):
    """Why a card was overridden; `userComment` may hold anything and is never logged (CH-127)."""

    reason: Coding | None = None
    userComment: str | None = Field(default=None, repr=False)


class AcceptedSuggestion(_Shape):
    """A suggestion that the user took, by its uuid."""

    id: Uuid


def _text(value: object) -> object:
    # `strict` reads no time from text; a number must not become one.
    if not isinstance(value, str):
        raise ValueError("must be a time such as 2026-11-01T08:00:00Z")
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        raise ValueError("must be a time such as 2026-11-01T08:00:00Z") from None


class FeedbackItem(_Shape):
    """What became of one card (CDS Hooks 2.0, "Feedback"; CH-121 to CH-123)."""

    card: Uuid
    outcome: Literal["accepted", "overridden"]
    outcomeTimestamp: Annotated[
        AwareDatetime, BeforeValidator(_text), AfterValidator(lambda t: t.astimezone(UTC))
    ]
    acceptedSuggestions: tuple[AcceptedSuggestion, ...] = Field(default=(), strict=False)
    overrideReason: OverrideReason | None = None

    @model_validator(mode="after")
    def _accepted_what(self) -> FeedbackItem:
        if self.outcome == "accepted" and not self.acceptedSuggestions:
            raise ValueError("acceptedSuggestions: is required where outcome is 'accepted'")
        return self


class FeedbackRequest(_Shape):
    """The body of a call to the feedback endpoint (CH-120)."""

    feedback: tuple[FeedbackItem, ...] = Field(strict=False)


def parse_feedback(body: object) -> tuple[FeedbackItem, ...]:
    """Return the items of a feedback call. Raises: Refusal (400)."""
    if not isinstance(body, dict):
        raise Refusal(400, "the body: must be a JSON object with 'feedback'", word="malformed")
    try:
        return FeedbackRequest.model_validate(body).feedback
    except ValidationError as error:
        raise _refusal(_faults(error, "")) from None


# ---------------------------------------------------------------- faults

_WORDS: Final = {
    "missing": "is required",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "int_type": "must be a whole number",
    "timezone_aware": "must have an offset or Z",
}


def _faults(error: ValidationError, prefix: str) -> list[str]:
    """Return "path: what is wrong" for each fault; never a value."""
    found = []
    for fault in error.errors(include_url=False, include_input=False):
        path = prefix + ".".join(str(part) for part in fault["loc"])
        kind = fault["type"]
        if kind == "value_error":
            message = fault["msg"].removeprefix("Value error, ")
            inner, colon, rest = message.partition(": ")
            if colon:  # of several members together; it names the one that has to change
                base = path + "." if fault["loc"] else prefix
                path, message = base + inner, rest
        elif kind == "literal_error":
            message = f"must be {fault['ctx']['expected']}"
        else:
            message = _WORDS.get(kind, "is not valid")
        found.append(f"{path}: {message}")
    return found


def _refusal(faults: list[str]) -> Refusal:
    more = f"; and {len(faults) - _MANY} more" if len(faults) > _MANY else ""
    return Refusal(400, "; ".join(faults[:_MANY]) + more, word="malformed")
