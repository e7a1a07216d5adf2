"""Reading what a call lacks from the client's FHIR server (CDS Hooks 2.0, "FHIR Resource Access").

The address comes from whoever calls, and the answer from a server that is not ours. So nothing is
asked but servers that the operator has listed for this very client, within one budget of time and
bytes for the whole call, and what comes back is believed only as far as it is what was asked for.
`FhirReader.read` raises nothing for what a server does: it says, for each query, what came and
whether that is all of it.

Rows of the conformance list that are decided here:

* CH-81: a token limited to another patient than that of the call is not used ("other-patient").
* CH-83, CH-84: the token is in the ``Authorization`` header of each request of this one call and
  nowhere else: in no URL, log, error, cookie or cache. Connections are kept, tokens are not.
* CH-85: 401 and 403 are final for their query; the other queries go on.
* CH-86: SMART v1 (``patient/Observation.read``, ``.*``) and v2 (``.rs``, ``.cruds``) scopes.
  Without one for the type and the interaction nothing is asked ("no-scope"). A v2 scope with a
  query (``?category=...``) lets the server leave things out unseen: asked, but never complete.
* CH-87: `FhirReader.read` says which URLs are asked. Redirects are not followed.
* CH-88: a token that may lapse before the time for reading is over is not used ("expired").
* CH-89: the token's ``subject`` must be the client's configured ``client_id``, else the token is
  not used ("not-allowed"). In `insecure_demo` a caller without ``client_id`` is not compared.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import socket
import ssl
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal, NamedTuple, Protocol

import httpcore
import httpx
import orjson

from cds.errors import UsageError
from cds.service.settings import Client, Settings

__all__ = [
    "Authorization",
    "Calling",
    "Fetched",
    "FhirReader",
    "GuardedNetwork",
    "GuardedTransport",
    "Pages",
    "Reason",
    "Unreadable",
]

_log: Final = logging.getLogger(__name__)

Reason = Literal[
    "not-allowed",  # this URL, token or redirect is not for us to follow
    "no-scope",
    "unauthorized",
    "forbidden",
    "not-found",
    "server-error",  # also an OperationOutcome, and less than the server itself counts
    "timeout",
    "unreachable",
    "too-large",
    "not-fhir",
    "too-many-pages",
    "expired",
    "other-patient",
]
"""Why something could not be read, or not all of it. For logs and metrics: no value is in it."""


class Pages(NamedTuple):
    """What was read of one query.

    Attributes:
        resources: those of the patient of the call, and those that name no patient, in order.
        complete: whether this is all there is; where it is not, absence says nothing.
        reason: why it is not complete; None where it is.
        foreign: how many resources of other patients were dropped (CH-48).
    """

    resources: list[dict[str, Any]]
    complete: bool
    reason: Reason | None = None
    foreign: int = 0


class Unreadable(NamedTuple):
    """Nothing could be read of one query, why, and the HTTP status if one was answered."""

    reason: Reason
    status: int | None = None


Fetched = Pages | Unreadable


class Authorization(Protocol):
    """What is needed of ``fhirAuthorization`` (CH-80)."""

    @property
    def access_token(self) -> str:
        """The token."""

    @property
    def expires_in(self) -> int:
        """Its lifetime, in seconds."""

    @property
    def scope(self) -> str:
        """The scopes granted, with blanks between them."""

    @property
    def subject(self) -> str:
        """Our id at the client's authorization server."""

    @property
    def patient(self) -> str | None:
        """The patient to whom the token is limited, if it is."""


class Calling(Protocol):
    """What is needed of the caller."""

    @property
    def client(self) -> Client | None:
        """The configured client; None only in `insecure_demo`."""


# ---------------------------------------------------------------- which URLs


# Narrower than RFC 3986 on purpose. What two parsers may read differently is in no sound base URL:
# user names, fragments, backslashes, blanks, escapes in the path, parameters of a path segment.
_URL_PATTERN: Final = re.compile(
    r"(?P<scheme>https?)://"
    r"(?P<host>\[[0-9a-f:.]{2,45}\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>(?:/[a-z0-9._~$-]+)*)"
    r"(?P<rest>/?(?:\?[!$-;=?-\[\]^_`a-z{|}~]*)?)",
    re.IGNORECASE | re.ASCII,
)
_QUERY_PATTERN: Final = re.compile(
    r"(?P<type>[A-Z][A-Za-z]{1,63})(?:/(?P<id>[A-Za-z0-9.-]{1,64}))?(?:\?.*)?", re.ASCII
)
_USUAL_PORT: Final = {"http": 80, "https": 443}
_URL_LENGTH_MAX: Final = 16_384


class _Url(NamedTuple):
    """A URL in pieces: `rest` is a slash at the end of the path, if any, and the query."""

    scheme: str
    host: str
    port: int
    path: str
    rest: str = ""

    @property
    def text(self) -> str:
        """The URL as it is sent."""
        return f"{self.scheme}://{self.host}:{self.port}{self.path}{self.rest}"

    def within(self, base: _Url) -> bool:
        """Whether this stands at or under the path of `base` on the same server."""
        return self[:3] == base[:3] and f"{self.path}/".startswith(f"{base.path}/")


def _url(text: str) -> _Url | None:
    """Return the URL in pieces, or None where it is not of the narrow kind that we ask for."""
    if len(text) > _URL_LENGTH_MAX:
        return None
    match = _URL_PATTERN.fullmatch(text)
    if match is None or any(not part.strip(".") for part in match["path"].split("/")[1:]):
        return None
    scheme = match["scheme"].lower()
    port = int(match["port"] or _USUAL_PORT[scheme])
    if not 0 < port < 65536:
        return None
    return _Url(scheme, match["host"].lower(), port, match["path"], match["rest"])


def _base_url(text: str) -> _Url | None:
    """Return the base URL of a server in pieces, without a slash at its end."""
    url = _url(text)
    return url._replace(rest="") if url is not None and url.rest in ("", "/") else None


# ---------------------------------------------------------------- which addresses

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_CONNECT_SECONDS: Final = 0.5
"""For all addresses of a host but the last: one that is dead must not use up the budget."""


class _Refused(httpcore.ConnectError):
    """A name leads to an address that must not be called."""


def _address(text: str) -> _Address | None:
    try:
        return ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None


def _unwrapped(address: _Address) -> _Address:
    """Return the IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return inner or address
    return address


async def _resolve(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(item[4][0]) for item in found]


class GuardedNetwork(httpcore.AsyncNetworkBackend):
    """Connects only to addresses that may be called, whatever a name server says (CH-87).

    A name is resolved once, all its addresses are judged, and the connection goes to one of those
    that were judged. In `insecure_demo` an address must be a loopback one. In production it must
    be a public one, or stand itself, as an address, as host of a listed FHIR server: for a server
    inside a private network the operator lists ``https://fhir.example.org/r4`` by name and
    ``https://10.1.2.3/`` too, so that no name can lead elsewhere in that network.

    Args:
        settings: who may be called.
        resolve: gives the addresses of a host (a test gives another one).
        inner: makes the connections.
    """

    def __init__(
        self,
        settings: Settings,
        resolve: Callable[[str, int], Awaitable[list[str]]] = _resolve,
        inner: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        self._loopback_only = settings.insecure_demo
        hosts = [base.host for client in settings.clients for base in _listed(client)]
        self._listed = frozenset(map(_address, hosts)) - {None}
        self._resolve = resolve
        self._inner = inner or httpcore.AnyIOBackend()

    def permits(self, text: str) -> bool:
        """Whether this address may be called."""
        address = _address(text)
        if address is None:
            return False
        inner = _unwrapped(address)
        if self._loopback_only:
            return inner.is_loopback
        if address in self._listed or inner in self._listed:
            return True
        return inner.is_global and not inner.is_multicast and not inner.is_reserved

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to one of the host's addresses; `_Refused` if any of them must not be called."""
        try:
            addresses = list(dict.fromkeys(await self._resolve(host, port)))
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError("the name cannot be resolved") from error
        if not addresses:
            raise httpcore.ConnectError("the name has no address")
        if not all(map(self.permits, addresses)):
            raise _Refused("the name leads to an address that is not allowed")
        for address in addresses[:-1]:
            try:
                return await self._inner.connect_tcp(
                    address, port, _CONNECT_SECONDS, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._inner.connect_tcp(
            addresses[-1], port, timeout, local_address, socket_options
        )

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Refuse."""
        raise _Refused("no server is reached in this way")

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await self._inner.sleep(seconds)


def _listed(client: Client) -> list[_Url]:
    """Return the base URLs of the client's servers; what is none is refused at the start."""
    return [base for text in client.fhir_servers if (base := _base_url(text)) is not None]


class _Body(httpx.AsyncByteStream):
    """The body of an answer as httpx wants it."""

    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._response.aiter_stream():
            yield part

    async def aclose(self) -> None:
        await self._response.aclose()


class GuardedTransport(httpx.AsyncBaseTransport):
    """HTTP/1.1 over guarded connections.

    httpx's own transport takes no network backend. Cookies and redirects of an answer are dropped
    here: nothing of one call may reach another, and no other URL is ever followed.
    """

    _DROPPED: Final = (b"set-cookie", b"location")

    def __init__(self, network: GuardedNetwork) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            # The system's authorities; SSL_CERT_FILE and SSL_CERT_DIR change them.
            ssl_context=ssl.create_default_context(),
            # The number of calls is limited elsewhere: one slow server must not block others.
            max_connections=None,
            max_keepalive_connections=64,
            keepalive_expiry=15,
            network_backend=network,
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request and return its answer, the body still to come."""
        response = await self._pool.handle_async_request(
            httpcore.Request(
                request.method,
                httpcore.URL(
                    scheme=request.url.raw_scheme,
                    host=request.url.raw_host,
                    port=request.url.port,
                    target=request.url.raw_path,
                ),
                headers=request.headers.raw,
                extensions=request.extensions,
            )
        )
        return httpx.Response(
            response.status,
            headers=[
                (name, value)
                for name, value in response.headers
                if name.lower() not in self._DROPPED
            ],
            stream=_Body(response),
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()


_FAILURES: Final = (
    httpx.HTTPError,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
    httpcore.UnsupportedProtocol,
    OSError,
)


# ---------------------------------------------------------------- which scopes

_SCOPE: Final = re.compile(
    r"(?:patient|user|system)/(?P<type>\*|[A-Z][A-Za-z]*)"
    r"\.(?P<rights>\*|read|write|c?r?u?d?s?)(?P<part>\?.*)?",
    re.ASCII,
)


def _granted(scopes: str, kind: str | None, right: Literal["r", "s"]) -> bool | None:
    """Return whether all of a type may be read; None where only some of it may (CH-86).

    Args:
        scopes: as in the token.
        kind: the type of resource; None where a URL does not say it.
        right: "r" for one resource by id, "s" for a search (SMART v2; v1 has "read" for both).
    """
    part: bool | None = False
    for scope in scopes.split():
        match = _SCOPE.fullmatch(scope)
        if match is None or not (kind is None or match["type"] in ("*", kind)):
            continue
        rights = match["rights"]
        if rights in ("*", "read") or (rights != "write" and right in rights):
            if match["part"] is None:
                return True
            part = None
    return part


# ---------------------------------------------------------------- reading

# RFC 6750 section 2.1; anything else would not survive in a header.
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]{1,16384}=*", re.ASCII)
_SECONDS: Final = re.compile(r"[0-9]{1,6}", re.ASCII)
_SUSPICIOUS: Final = ("not-allowed", "other-patient")
_BY_STATUS: Final[dict[int, Reason]] = {
    401: "unauthorized",
    403: "forbidden",
    404: "not-found",
    410: "not-found",
}


class _Stop(Exception):
    """One query ends here."""

    def __init__(self, reason: Reason, status: int | None = None) -> None:
        self.reason: Reason = reason
        self.status = status


class FhirReader:
    """Reads from clients' FHIR servers; one for each worker.

    Args:
        settings: servers, budgets.
        transport: what to send requests with; by default guarded connections of its own.

    Raises: UsageError where a client's FHIR server is no base URL that could ever be asked.
    """

    def __init__(
        self, settings: Settings, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._settings = settings
        for number, client in enumerate(settings.clients):
            for index, text in enumerate(client.fhir_servers):
                base = _base_url(text)
                if base is None or (base.scheme != "https" and not settings.insecure_demo):
                    raise UsageError(
                        f"clients.{number}.fhir_servers.{index}: must be a base URL such as "
                        "https://fhir.example.org/r4, its path of letters, digits and . _ ~ $ -"
                    )
        # They log URLs, and with them the patient's id.
        for name in ("httpx", "httpcore"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self._client = httpx.AsyncClient(
            transport=transport or GuardedTransport(GuardedNetwork(settings)),
            # No proxy, .netrc or certificate file that the environment names.
            trust_env=False,
            follow_redirects=False,
            timeout=None,  # noqa: S113 - one deadline holds for a whole call
            headers={
                "Accept": "application/fhir+json",
                "Accept-Encoding": "gzip",
                # Some servers keep the results of a search for a while.
                "Cache-Control": "no-cache",
                "User-Agent": "cds-twitch",
            },
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def read(
        self,
        wanted: Mapping[str, str],
        server: str,
        authorization: Authorization,
        caller: Calling,
        deadline: float,
        *,
        patient: str,
    ) -> dict[str, Fetched]:
        """Read all queries at once and return what came of each.

        Asked are only URLs at or under `server`, and `server` only where it stands at or under
        one that the operator listed for this client: same scheme, host and port, path compared by
        segments. Anything but https needs `insecure_demo`, where the host must be this machine
        (and one of the client's servers where it has a list). See `GuardedNetwork` for addresses.

        429 and 503 are asked once more if ``Retry-After`` is given and ends before the deadline.

        Args:
            wanted: by key the query relative to the server's base ("Observation?patient=1"), or
                the absolute URL of a further page of a prefetched Bundle (CH-46).
            server: ``fhirServer`` of the call.
            authorization: ``fhirAuthorization`` of the call.
            caller: who calls.
            deadline: time of the event loop by which this returns; `fetch_timeout_seconds` from
                now if that is sooner.
            patient: ``context.patientId`` ("1" or "Patient/1").
        """
        now = asyncio.get_running_loop().time()
        deadline = min(deadline, now + self._settings.fetch_timeout_seconds)
        patient = patient.removeprefix("Patient/")
        base = self._base(server, caller.client)
        refusal = self._refusal(base, authorization, caller.client, patient, deadline - now)
        fetched: dict[str, Fetched]
        if base is None or refusal is not None:
            fetched = dict.fromkeys(wanted, Unreadable(refusal or "not-allowed"))
        else:
            call = _Call(
                self._client, self._settings, base, authorization, patient, deadline=deadline
            )
            async with asyncio.TaskGroup() as group:
                tasks = {key: group.create_task(call.read(text)) for key, text in wanted.items()}
            fetched = {key: task.result() for key, task in tasks.items()}
        for key, result in fetched.items():
            if result.reason is not None:
                status = result.status if isinstance(result, Unreadable) else None
                level = logging.WARNING if result.reason in _SUSPICIOUS else logging.INFO
                told = {"key": key, "reason": result.reason, "status": status}
                _log.log(level, "fhir-read", extra={"fields": told})
        return fetched

    def _base(self, server: str, client: Client | None) -> _Url | None:
        """Return the server's base URL, or None where it is not this client's (CH-87)."""
        base = _base_url(server)
        if base is None:
            return None
        listed = _listed(client) if client is not None else []
        ours = any(base.within(one) for one in listed)
        if not self._settings.insecure_demo:
            return base if ours and base.scheme == "https" else None
        address = _address(base.host)
        here = address.is_loopback if address is not None else base.host == "localhost"
        return base if here and (ours or not listed) else None

    def _refusal(
        self,
        base: _Url | None,
        authorization: Authorization,
        client: Client | None,
        patient: str,
        seconds: float,
    ) -> Reason | None:
        """Return why this token is not used at all (CH-81, CH-88, CH-89), or None."""
        expected = client.client_id if client is not None else None
        unchecked = expected is None and self._settings.insecure_demo
        if base is None or not (unchecked or authorization.subject == expected):
            return "not-allowed"
        limited = authorization.patient
        if limited is not None and limited.removeprefix("Patient/") != patient:
            return "other-patient"
        if seconds <= 0:
            return "timeout"
        if authorization.expires_in <= seconds:
            return "expired"
        if _TOKEN.fullmatch(authorization.access_token) is None:
            return "unauthorized"
        return None


@dataclass(slots=True)
class _Reading:
    """What one query has given so far."""

    resources: list[dict[str, Any]]
    pages: int = 0
    matches: int = 0
    foreign: int = 0
    doubt: Reason | None = None
    retried: bool = False


class _Call:
    """All reading for one call: its token, its deadline, and the bytes that it may still read."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        settings: Settings,
        base: _Url,
        authorization: Authorization,
        patient: str,
        *,
        deadline: float,
    ) -> None:
        self._client, self._base, self._patient = client, base, patient
        self._deadline = deadline
        self._scopes = authorization.scope
        self._headers = {"Authorization": f"Bearer {authorization.access_token}"}
        self._pages_max = settings.fetch_pages_limit
        self._bytes_left = settings.fetch_limit_bytes
        self._entries_left = settings.entry_limit

    async def read(self, query: str) -> Fetched:
        """Read one query, with all its pages."""
        reading = _Reading([])
        try:
            async with asyncio.timeout_at(self._deadline):
                await self._read(query, reading)
            stop = None
        except _Stop as error:
            stop = error
        except (TimeoutError, httpcore.TimeoutException):
            stop = _Stop("timeout")
        except _Refused:
            stop = _Stop("not-allowed")
        except _FAILURES:
            stop = _Stop("unreachable")
        reason = stop.reason if stop is not None else reading.doubt
        if stop is not None and not reading.pages:
            return Unreadable(stop.reason, stop.status)
        if reading.foreign and not reading.resources:
            return Unreadable("other-patient", 200)
        return Pages(reading.resources, reason is None, reason, reading.foreign)

    async def _read(self, query: str, reading: _Reading) -> None:
        match = _QUERY_PATTERN.fullmatch(query)
        if match is not None:
            url = self._under_base(f"{self._base.text}/{query}")
            kind, single = match["type"], match["id"] is not None
        else:
            # A page of a Bundle that we did not ask for ourselves; its URL need not say the type.
            url, single = self._under_base(query), False
            first = url.path[len(self._base.path) + 1 :].partition("/")[0]
            kind = first if re.fullmatch(r"[A-Z][A-Za-z]+", first) else None
        granted = _granted(self._scopes, kind, "r" if single else "s")
        if granted is False:
            raise _Stop("no-scope")
        if granted is None:
            reading.doubt = "no-scope"
        if single:
            await self._single(url, kind, reading)
        else:
            await self._search(url, reading)

    def _under_base(self, text: str) -> _Url:
        url = _url(text)
        if url is None or not url.within(self._base):
            raise _Stop("not-allowed")
        return url

    async def _single(self, url: _Url, kind: str | None, reading: _Reading) -> None:
        """Read one resource by its id."""
        body = await self._get(url, reading)
        found = body.get("resourceType")
        if found == "OperationOutcome":
            raise _Stop("server-error", 200)
        if found != kind:
            raise _Stop("not-fhir", 200)
        reading.pages = 1
        self._keep(body, reading)

    async def _search(self, url: _Url, reading: _Reading) -> None:
        """Read a Bundle of results and those that follow it."""
        seen: set[str] = set()
        total: int | None = None
        while True:
            if len(seen) == self._pages_max or url.text in seen:
                raise _Stop("too-many-pages")
            seen.add(url.text)
            body = await self._get(url, reading)
            if body.get("resourceType") == "OperationOutcome":
                raise _Stop("server-error", 200)
            if body.get("resourceType") != "Bundle" or body.get("type") != "searchset":
                raise _Stop("not-fhir", 200)
            self._take(body, reading)
            if total is None and type(body.get("total")) is int:
                total = body["total"]
            following = self._next(body)
            if following is None:
                break
            url = following
        if total is not None and reading.matches < total:
            # It counts more than it gave, and names no further page.
            reading.doubt = reading.doubt or "server-error"

    def _take(self, bundle: dict[str, Any], reading: _Reading) -> None:
        """Take in one page."""
        entries = bundle.get("entry", [])
        if not isinstance(entries, list):
            raise _Stop("not-fhir", 200)
        if len(entries) > self._entries_left:
            raise _Stop("too-large", 200)
        self._entries_left -= len(entries)
        reading.pages += 1
        for entry in entries:
            resource = entry.get("resource") if isinstance(entry, dict) else None
            search = entry.get("search") if isinstance(entry, dict) else None
            mode = search.get("mode") if isinstance(search, dict) else None
            if not isinstance(resource, dict) or not isinstance(resource.get("resourceType"), str):
                reading.doubt = reading.doubt or "not-fhir"
            elif mode == "outcome" or resource["resourceType"] == "OperationOutcome":
                # It says what the server did not do: left out, not understood, not permitted.
                reading.doubt = reading.doubt or "server-error"
            else:
                reading.matches += mode != "include"
                self._keep(resource, reading)

    def _next(self, bundle: dict[str, Any]) -> _Url | None:
        """Return the URL of the next page, which must be under the same base."""
        links = bundle.get("link", [])
        if not isinstance(links, list) or not all(isinstance(link, dict) for link in links):
            raise _Stop("not-fhir", 200)
        for link in links:
            if link.get("relation") == "next":
                text = link.get("url")
                if not isinstance(text, str):
                    raise _Stop("not-fhir", 200)
                if re.match(r"[a-z][a-z0-9+.-]*:|//", text, re.IGNORECASE) is None:
                    # Relative: to the server, or to its base (FHIR R4, Bundle.link).
                    origin = self._base._replace(path="").text
                    text = f"{origin if text.startswith('/') else self._base.text + '/'}{text}"
                return self._under_base(text)
        return None

    def _keep(self, resource: dict[str, Any], reading: _Reading) -> None:
        """Keep a resource unless it is of another patient (CH-48)."""
        if self._is_foreign(resource):
            reading.foreign += 1
            # A server that answers what was not asked may also leave out what was.
            reading.doubt = reading.doubt or "other-patient"
        else:
            reading.resources.append(resource)

    def _is_foreign(self, resource: dict[str, Any]) -> bool:
        if resource["resourceType"] == "Patient":
            return resource.get("id") != self._patient
        for name in ("subject", "patient"):
            subject = resource.get(name)
            reference = subject.get("reference") if isinstance(subject, dict) else None
            if isinstance(reference, str) and not self._is_patient(reference):
                return True
        return False

    def _is_patient(self, reference: str) -> bool:
        url = _url(reference)
        if url is not None:
            if not url.within(self._base) or url.rest:
                return False
            reference = url.path[len(self._base.path) + 1 :]
        return reference.partition("/_history/")[0] == f"Patient/{self._patient}"

    async def _get(self, url: _Url, reading: _Reading) -> dict[str, Any]:
        """Return the JSON object that the server answers."""
        while True:
            async with self._client.stream("GET", url.text, headers=self._headers) as response:
                status = response.status_code
                if status == 200:
                    body = await self._body(response)
                    break
                wait = _retry_after(response)
            if status not in (429, 503) or reading.retried or wait is None:
                raise _Stop(_reason(status), status)
            if asyncio.get_running_loop().time() + wait >= self._deadline:
                raise _Stop(_reason(status), status)
            reading.retried = True
            await asyncio.sleep(wait)
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise _Stop("not-fhir", 200) from None
        if not isinstance(value, dict):
            raise _Stop("not-fhir", 200)
        return value

    async def _body(self, response: httpx.Response) -> bytearray:
        """Return the body, unpacked; what it takes is counted after unpacking."""
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("identity", "gzip", "x-gzip"):
            raise _Stop("not-fhir", 200)
        inflate = None if encoding == "identity" else zlib.decompressobj(wbits=31)
        body = bytearray()
        async for part in response.aiter_raw():
            if inflate is not None:
                try:
                    # One more than is left, and never 0, which would be without a limit.
                    part = inflate.decompress(part, self._bytes_left + 1)
                except zlib.error:
                    raise _Stop("not-fhir", 200) from None
            if len(part) > self._bytes_left:
                # Nothing more is read of the other queries either.
                self._bytes_left = 0
                raise _Stop("too-large", 200)
            self._bytes_left -= len(part)
            body += part
        if inflate is not None and (not inflate.eof or inflate.unused_data):
            raise _Stop("not-fhir", 200)
        return body


def _reason(status: int) -> Reason:
    if status < 300:
        return "not-fhir"
    return _BY_STATUS.get(status, "server-error" if status >= 400 else "not-allowed")


def _retry_after(response: httpx.Response) -> float | None:
    """Return for how many seconds the server asks to wait; None where it does not say."""
    text = response.headers.get("Retry-After", "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError, OSError):
        return None
