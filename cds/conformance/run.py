"""One run of the checks against one service: what they share is asked for once."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from ipaddress import ip_address
from typing import Any, Final, TypeGuard
from urllib.parse import urlsplit
from uuid import uuid4

from cds.conformance.checks import CHECKS, Check, Outcome, Skip
from cds.conformance.client import Answer, Client
from cds.conformance.fhirserver import FhirServer, Seen
from cds.conformance.records import HOOKS, PATIENT, Records, is_search

__all__ = [
    "Asked",
    "Run",
    "Service",
    "bare",
    "chosen",
    "is_uuid",
    "items",
    "objects",
    "text",
    "walk",
]

CANARY: Final = "cds-conformance-access-token"
_CALLS: Final = timedelta(minutes=10)  # longer than the checks take
_INSTANT: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?)(?: ?(?:UTC|Z)|([+-]\d\d:\d\d))?"
)
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclass(frozen=True)
class Service:
    """A well-formed entry of discovery."""

    id: str
    hook: str
    prefetch: Mapping[str, str] = field(default_factory=dict)

    @property
    def searches(self) -> dict[str, str]:
        """The templates that ask for a search."""
        return {key: query for key, query in self.prefetch.items() if is_search(query)}

    def __str__(self) -> str:
        return f"{self.id} ({self.hook})"


@dataclass(frozen=True)
class Asked:
    """A call that was made, and its answer."""

    service: Service
    body: dict[str, Any]
    answer: Answer
    about: str = ""


# ---------------------------------------------------------------- looking into answers


def objects(value: Any) -> list[dict[str, Any]]:
    """Return the objects of a list; nothing for anything else."""
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []


def items(value: Any) -> list[Any]:
    """Return a list as it is; nothing for anything else."""
    return value if isinstance(value, list) else []


def text(value: Any) -> TypeGuard[str]:
    """Whether this is text with something to read in it."""
    return isinstance(value, str) and bool(value.strip())


def is_uuid(value: Any) -> bool:
    """Whether this is a UUID as text."""
    return isinstance(value, str) and _UUID.fullmatch(value) is not None


def walk(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each element with its path, the whole first."""
    yield path or "the body", value
    if isinstance(value, dict):
        for name, part in value.items():
            yield from walk(part, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from walk(part, f"{path}[{number}]")


def bare(cards: Any) -> Any:
    """Return cards without what may differ from call to call: uuids, extensions, the time."""
    if isinstance(cards, dict):
        return {k: bare(v) for k, v in cards.items() if k not in ("uuid", "extension")}
    if isinstance(cards, list):
        return [bare(card) for card in cards]
    return _INSTANT.sub(_now, cards) if isinstance(cards, str) else cards


def _now(found: re.Match[str]) -> str:
    """Return "now" for the moment of the call, which a card may tell; any other as it is."""
    day, time, zone = found.groups()
    try:
        told = datetime.fromisoformat(f"{day}T{time}{zone or 'Z'}")
    except ValueError:
        return found[0]
    return "now" if abs(datetime.now(UTC) - told) < _CALLS else found[0]


# ---------------------------------------------------------------- the run


class Run:
    """What all checks ask one service.

    Args:
        client: calls it.
        requests: hook requests of the user, used in place of made ones for services of their hook.
        records: the patient of made requests.
        fhir: a FHIR server that the service may try to read; None: there is none.
        fhir_promised: the user says that the service may call it.
        elsewhere: a server that nobody may call.
        subject: the service's id at the authorization server (`fhirAuthorization.subject`).
        origin: an origin whose browser pages may call the service (CORS); None: none is known.
        thorough: also what is heavy for the service.
    """

    def __init__(
        self,
        client: Client,
        *,
        records: Records,
        requests: Sequence[Mapping[str, Any]] = (),
        fhir: FhirServer | None = None,
        fhir_promised: bool = False,
        elsewhere: FhirServer | None = None,
        subject: str = "cds-conformance",
        origin: str | None = None,
        thorough: bool = False,
    ) -> None:
        self.client, self.records, self.requests = client, records, requests
        self.fhir_server, self.fhir_promised, self.strange_server = fhir, fhir_promised, elsewhere
        self.subject, self.origin, self.thorough = subject, origin, thorough
        self._full: dict[tuple[str, str], Asked] = {}

    def checked(self, checks: Iterable[Check]) -> Iterator[Outcome]:
        """Make the checks one by one."""
        for each in checks:
            try:
                found = each.look(self)
            except Skip as skip:
                found = skip.found
            yield Outcome(each, found)

    @property
    def loopback(self) -> bool:
        """Whether the service runs on this machine and is called so."""
        host = (urlsplit(self.client.base).hostname or "").strip("[]")
        try:
            return host == "localhost" or ip_address(host).is_loopback
        except ValueError:
            return False

    # ------------------------------------------------------------ discovery

    @cached_property
    def discovery(self) -> Answer:
        """The answer of discovery."""
        return self.client.request("GET", self.client.discovery_url)

    @cached_property
    def listed(self) -> list[Any]:
        """The entries of discovery as they are. Raises: Skip if there are none to look at."""
        value = self.discovery.value
        listed = value.get("services") if isinstance(value, dict) else None
        if self.discovery.status != 200 or not isinstance(listed, list):
            raise Skip(f"discovery could not be read: {self.discovery}")
        if not listed:
            raise Skip("no service is advertised", applicable=False)
        return listed

    @cached_property
    def services(self) -> list[Service]:
        """The entries that have what a call needs. Raises: Skip if there are none."""
        good = []
        for entry in objects(self.listed):
            id_, hook, prefetch = entry.get("id"), entry.get("hook"), entry.get("prefetch", {})
            if text(id_) and text(hook):
                templates = prefetch if isinstance(prefetch, dict) else {}
                sound = {k: v for k, v in templates.items() if isinstance(v, str)}
                good.append(Service(id_, hook, sound))
        if not good:
            raise Skip("no entry of discovery has both an id and a hook")
        return good

    # ------------------------------------------------------------ calls

    def request(self, service: Service, *, optional: bool = False) -> dict[str, Any] | None:
        """Return a valid request with all that the service asks for; None for an unknown hook."""
        for given in self.requests:
            if given["hook"] == service.hook:
                request = copy.deepcopy(dict(given))
                # Nobody answers at the FHIR server of a recorded call any more.
                request.pop("fhirServer", None)
                request.pop("fhirAuthorization", None)
                return {**request, "hookInstance": str(uuid4())}
        context = self.records.context(service.hook, optional=optional)
        if context is None:
            return None
        request = {"hook": service.hook, "hookInstance": str(uuid4()), "context": context}
        if service.prefetch:
            request["prefetch"] = self.records.prefetch(service.prefetch, context)
        return request

    def post(self, service: Service, body: Any, **more: Any) -> Answer:
        """Call a service."""
        return self.client.request("POST", self.client.service_url(service.id), body=body, **more)

    def full(self, service: Service) -> Asked:
        """Return the call of a service with all that it asks for. Raises: Skip."""
        key = service.id, service.hook
        if key not in self._full:
            body = self.request(service)
            if body is None:
                raise Skip(f"no request is known for the hook {service.hook} (--request)")
            self._full[key] = Asked(service, body, self.post(service, body), "all data")
        return self._full[key]

    @cached_property
    def callable(self) -> list[Service]:
        """The services for which we have a request. Raises: Skip if there are none."""
        good = [each for each in self.services if self.request(each) is not None]
        if not good:
            hooks = sorted({each.hook for each in self.services})
            raise Skip(f"no request is known for the hooks {', '.join(hooks)} (--request)")
        return good

    @cached_property
    def first(self) -> Asked:
        """A call that went well, with all data; further ones are variants of it. Raises: Skip."""
        for each in sorted(self.callable, key=lambda service: service.hook != "patient-view"):
            if self.full(each).answer.status == 200:
                return self.full(each)
        seen = self.full(self.callable[0]).answer
        raise Skip(f"no valid request was answered with 200 (seen: {seen})")

    @cached_property
    def with_prefetch(self) -> Asked:
        """As `first`, of a service that asks for prefetch. Raises: Skip."""
        asking = [each for each in self.callable if each.prefetch]
        if not asking:
            raise Skip("no service asks for prefetch", applicable=False)
        if self.first.service.prefetch:
            return self.first
        for each in asking:
            if self.full(each).answer.status == 200:
                return self.full(each)
        raise Skip("no valid request with prefetch was answered with 200")

    def changed(self, asked: Asked | None = None, **members: Any) -> dict[str, Any]:
        """Return the request of a good call with some members changed; None takes one away."""
        body = copy.deepcopy((asked or self.first).body)
        body["hookInstance"] = str(uuid4())
        for name, value in members.items():
            if value is None:
                body.pop(name, None)
            else:
                body[name] = value
        return body

    def again(self, asked: Asked | None = None, **members: Any) -> Answer:
        """Make a good call once more with some members changed; None takes one away."""
        asked = asked or self.first
        return self.post(asked.service, self.changed(asked, **members))

    def with_key(self, asked: Asked, key: str, value: Any) -> dict[str, Any]:
        """Return the prefetch of a call with one key changed."""
        return {**copy.deepcopy(asked.body.get("prefetch") or {}), key: value}

    def without_key(self, asked: Asked, key: str) -> dict[str, Any]:
        """Return the prefetch of a call without one key."""
        prefetch = copy.deepcopy(asked.body.get("prefetch") or {})
        return {name: value for name, value in prefetch.items() if name != key}

    @cached_property
    def good(self) -> list[Asked]:
        """Valid calls of every service: with all data, with all that is optional, with none found.

        Raises: Skip if there are none.
        """
        calls = []
        for service in self.callable:
            calls.append(self.full(service))
            body = self.request(service, optional=True)
            if body is None or service.hook not in HOOKS:
                continue
            if body["context"] != self.full(service).body["context"]:
                calls.append(Asked(service, body, self.post(service, body), "optional context"))
            if service.searches:
                nothing = {key: None for key in service.searches}
                body = self.changed(self.full(service))
                body["prefetch"] = {**(body.get("prefetch") or {}), **nothing}
                calls.append(Asked(service, body, self.post(service, body), "nothing found"))
        return calls

    @cached_property
    def answers(self) -> list[Asked]:
        """The calls of `good` that were answered with an object. Raises: Skip if none was."""
        calls = [
            a for a in self.good if a.answer.status == 200 and isinstance(a.answer.value, dict)
        ]
        if not calls:
            raise Skip(f"no valid request was answered with 200 (seen: {self.good[0].answer})")
        return calls

    @cached_property
    def cards(self) -> list[dict[str, Any]]:
        """Every card that was seen. Raises: Skip if there was none."""
        cards = [c for asked in self.answers for c in objects(asked.answer.cards)]
        if not cards:
            raise Skip("no card was given for the invented patient (--request may bring some)")
        return cards

    def parts(self, of: Callable[[dict[str, Any]], Any], what: str) -> list[dict[str, Any]]:
        """Return such parts of all cards. Raises: Skip, not applicable, if no card has any."""
        found = [part for card in self.cards for part in objects(of(card))]
        if not found:
            raise Skip(f"no card has {what}", applicable=False)
        return found

    @cached_property
    def suggestions(self) -> list[dict[str, Any]]:
        """Every suggestion that was seen. Raises: Skip."""
        return self.parts(lambda card: card.get("suggestions"), "suggestions")

    @cached_property
    def actions(self) -> list[dict[str, Any]]:
        """Every action that was seen, system actions too. Raises: Skip."""
        found = [
            *(
                a
                for asked in self.answers
                for a in objects(asked.answer.value.get("systemActions"))
            ),
            *(
                action
                for card in objects([c for asked in self.answers for c in asked.answer.cards])
                for suggestion in objects(card.get("suggestions"))
                for action in objects(suggestion.get("actions"))
            ),
        ]
        if not found:
            raise Skip("no card has actions", applicable=False)
        return found

    @cached_property
    def links(self) -> list[dict[str, Any]]:
        """Every link that was seen. Raises: Skip."""
        return self.parts(lambda card: card.get("links"), "links")

    # ------------------------------------------------------------ the FHIR server

    @property
    def fhir(self) -> FhirServer:
        """The FHIR server. Raises: Skip if there is none."""
        if self.fhir_server is None:
            raise Skip("the service was given no FHIR server that it can call (--fhir-base)")
        return self.fhir_server

    @property
    def elsewhere(self) -> FhirServer:
        """A server that nobody may call. Raises: Skip if there is none."""
        if self.strange_server is None:
            raise Skip("no server that must not be called can be reached from the service")
        return self.strange_server

    def authorization(self, **changes: Any) -> dict[str, Any]:
        """Return a valid `fhirAuthorization`; a change to None takes a member away."""
        members = {
            "access_token": CANARY,
            "token_type": "Bearer",
            "expires_in": 300,
            "scope": "patient/*.read user/*.read",
            "subject": self.subject,
            "patient": self.patient,
            **changes,
        }
        return {name: value for name, value in members.items() if value is not None}

    @property
    def patient(self) -> str:
        """The patient of the calls."""
        context = self.first.body.get("context")
        patient = context.get("patientId") if isinstance(context, dict) else None
        return str(patient or PATIENT).removeprefix("Patient/")

    def reading(
        self, prefetch: Mapping[str, Any] | None = None, **authorization: Any
    ) -> dict[str, Any]:
        """Return a request that lets the service read the FHIR server; no prefetch by default."""
        body = self.changed(
            self.with_prefetch,
            fhirServer=self.fhir.url,
            fhirAuthorization=self.authorization(**authorization),
        )
        body.pop("prefetch", None)
        if prefetch is not None:
            body["prefetch"] = dict(prefetch)
        return body

    @cached_property
    def read(self) -> tuple[Answer, list[Seen]]:
        """A call without prefetch, and what the service then read itself."""
        with self.fhir.behaving() as seen:
            answer = self.post(self.with_prefetch.service, self.reading())
        return answer, list(seen)

    def must_read(self) -> list[Seen]:
        """Return what the service reads. Raises: Skip if it does not read."""
        _, seen = self.read
        if not seen:
            where = "" if self.fhir_promised else "; is it registered there? (--fhir-base)"
            raise Skip(f"the service did not read the FHIR server {self.fhir.url}{where}")
        return seen


def chosen(only: Iterable[str] = ()) -> list[Check]:
    """Return the checks with these ids or of these rows; all without any. Raises: KeyError."""
    wanted = set(only)
    found = [each for each in CHECKS if not wanted or each.id in wanted or each.row in wanted]
    unknown = wanted - {each.id for each in CHECKS} - {each.row for each in CHECKS}
    if unknown:
        raise KeyError(sorted(unknown)[0])
    return found
