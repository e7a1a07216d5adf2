"""Who calls: the JSON Web Token that a CDS client sends with every call.

CDS Hooks 2.0, "Trusting CDS Clients"; RFC 7515 (JWS), 7517 (JWK), 7519 (JWT), 8725 (practice);
rows CH-128 to CH-142. PyJWT proves the signature with a key that was bound to one algorithm when
it was read; everything else about a token is decided here, because PyJWT is more lenient than a
service may be (it takes ``=`` at the end of a signature, ``"exp": "12"``, members given twice).

What the specification leaves open is decided so:

* Every refusal is the same `Unauthorized`; only its code word, for the log, says why (CH-128).
  Refusals that tell who is registered come after a signature check of the same cost, so that
  time does not tell either. Only the call that waits for keys being fetched takes longer.
* `typ` is ``JWT``, letter by letter. A token with `crit` or `b64` is refused: no extension is
  understood here (RFC 7515 section 4.1.11). Keys inside of a token (`jwk`, `x5c`, ...) are never
  looked at.
* `aud` has to name the URL of the endpoint that is called, as `public_url` and the path make it,
  in a string or in a list that may hold others (CH-136). One slash at the end does not count, on
  either side; everything else does (scheme, case of the host, port, query): the URL of a service
  does not open its feedback, nor that of discovery a service (CH-126).
* Times are numbers. `exp` and `iat` may be off by `clock_leeway_seconds`; `nbf` is heeded where
  there is one; `exp` is later than `iat`, by `token_lifetime_max_seconds` at most (CH-137).
* A `jti` counts once for each `iss`, and only after everything else about its token was found
  right, so that nobody can use up the `jti` of somebody else (CH-138).
* `tenant` must be one of the client's `tenants`, where it has any; else it may be any or none
  (CH-139).
* A `jku` in a token has to be the client's configured one and is otherwise refused before
  anything is looked up. A client with `jwks_file` is never asked for keys, with a `jku` or
  without (CH-139, CH-140).
* Mutual TLS (CH-141) is up to what ends TLS; it does not take the place of a token.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import re
import ssl
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, NoReturn, Protocol, TypeGuard

import httpx
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt import PyJWK, PyJWS, PyJWTError

from cds.errors import UsageError
from cds.service.settings import Client, Settings

__all__ = [
    "Authenticator",
    "Caller",
    "Cause",
    "HttpJwks",
    "JwksFetcher",
    "JwksUnavailable",
    "ReplayStore",
    "ReplayStoreDown",
    "Unauthorized",
]

_log = logging.getLogger(__name__)

Cause = Literal[
    "no-token",
    "malformed",
    "type",
    "unknown-issuer",
    "algorithm",
    "jku",
    "unknown-key",
    "signature",
    "claims",
    "audience",
    "expired",
    "not-yet-valid",
    "lifetime",
    "tenant",
    "replay",
]
"""Why a call was refused; for the log only."""

_TOKEN_LENGTH_MAX: Final = 8_192
_TEXT_LENGTH_MAX: Final = 256  # of a jti, a kid, a tenant
_JWKS_BYTES_MAX: Final = 256 * 1024
_JWKS_KEYS_MAX: Final = 100
_JWKS_FETCH_SECONDS: Final = 3.0
_FILE_LOOK_SECONDS: Final = 1.0
_FETCH_INTERVAL_SECONDS: Final = 60.0
_JWKS_FRESH_SECONDS: Final = 600.0
_JWKS_USABLE_SECONDS: Final = 3_600.0
# How much longer a jti is remembered than its token lives: for clocks of other hosts.
_REPLAY_MARGIN_SECONDS: Final = 60

# Each algorithm (RFC 7518 section 3.1, RFC 8037) with the `kty` and `crv` of its keys.
_KEY_OF: Final[Mapping[str, tuple[str, str | None]]] = {
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "RS256": ("RSA", None),
    "RS384": ("RSA", None),
    "RS512": ("RSA", None),
    "PS256": ("RSA", None),
    "PS384": ("RSA", None),
    "PS512": ("RSA", None),
    "EdDSA": ("OKP", "Ed25519"),
}
_SECRET: Final = {"k", "d", "p", "q", "dp", "dq", "qi", "oth"}  # RFC 7518 section 6
_RSA_BITS: Final = range(2048, 8192 + 1)  # RFC 7518 section 3.3; more only costs time

# RFC 6750 section 2.1; a token is three segments of base64url without padding (RFC 7515).
_BEARER: Final = re.compile(
    r"bearer +([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)", re.ASCII | re.IGNORECASE
)


class Unauthorized(Exception):
    """A call whose token does not convince: 401, the same for every cause (CH-128).

    Args:
        cause: the code word for the log; never for the answer.
        iss: the configured client that the token claims to come from, which may be untrue; None
            where it names none. Nothing else of the token is kept (CH-142).
    """

    def __init__(self, cause: Cause, iss: str | None = None) -> None:
        super().__init__(cause)
        self.cause: Cause = cause
        self.iss = iss


class ReplayStoreDown(Exception):
    """Whether a token was used before cannot be said now: 503, never a call let through."""


class JwksUnavailable(Exception):
    """The client's keys cannot be had from its `jku`; the text is a code word."""


class ReplayStore(Protocol):
    """Remembers, for all workers together, which tokens were used (CH-138)."""

    async def first_use(self, iss: str, jti: str, expires: int) -> bool:
        """Return whether this is the first time; `expires`: when it may be forgotten."""


class JwksFetcher(Protocol):
    """Reads a JWK Set; raises `JwksUnavailable`."""

    def __call__(self, url: str, /) -> Awaitable[bytes]:
        """Return the body at the configured URL."""


@dataclass(frozen=True)
class Caller:
    """Who calls, proven (or `anonymous`, where no authentication is asked for)."""

    iss: str
    client: Client | None = field(repr=False)
    jti: str
    tenant: str | None = None

    anonymous: ClassVar[Caller]


Caller.anonymous = Caller(iss="anonymous", client=None, jti="")


# ---------------------------------------------------------------- the check


class Authenticator:
    """Checks the tokens of calls; one for each worker.

    Args:
        settings: who may call, and how strictly times are taken.
        replays: where used tokens are remembered.
        fetch_jwks: how the keys of a client with a `jku` and no file are read.
        clock: the time since 1970 in seconds.
        monotonic: a clock that is never set.

    Raises: UsageError where a file of keys cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        replays: ReplayStore,
        fetch_jwks: JwksFetcher,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._off = settings.auth == "off"
        self._leeway = settings.clock_leeway_seconds
        self._lifetime_max = settings.token_lifetime_max_seconds
        self._replays = replays
        self._clock = clock
        self._clients: dict[str, tuple[Client, _FileKeys | _FetchedKeys]] = {}
        self._decoys: dict[str, PyJWK] = {}
        if self._off:
            if not settings.insecure_demo:
                raise UsageError('auth: "off" is possible only with insecure_demo')
            return
        algorithms = {"ES384"}.union(*(client.algorithms for client in settings.clients))
        if not algorithms <= _KEY_OF.keys():
            # Never "none", never a symmetric one (CH-131, CH-132).
            raise UsageError(f"clients: algorithms must be of {', '.join(_KEY_OF)}")
        faults = []
        for client in settings.clients:
            try:
                keys = _keys_of(client, fetch_jwks, monotonic, demo=settings.insecure_demo)
            except _JwksFault as fault:
                faults.append(f"{client.jwks_file}: keys of {client.iss}: {fault}")
            else:
                self._clients[client.iss] = client, keys
        if faults:
            raise UsageError("\n".join(faults))
        self._decoys = {algorithm: _decoy(algorithm) for algorithm in algorithms}
        self._jws = PyJWS(algorithms=sorted(algorithms))

    async def check(self, authorization: str | None, endpoint_url: str) -> Caller:
        """Return who calls this endpoint.

        Args:
            authorization: the value of the one header `Authorization`.
            endpoint_url: the URL of the endpoint as clients know it: `public_url` and the path.

        Raises: Unauthorized, whatever is wrong with the token; ReplayStoreDown.
        """
        if self._off:
            return Caller.anonymous
        parts = _BEARER.fullmatch(authorization or "")
        if parts is None:
            raise Unauthorized("malformed" if authorization else "no-token")
        if len(parts[0]) > _TOKEN_LENGTH_MAX:
            raise Unauthorized("malformed")
        token = ".".join(parts.groups())
        header, claimed = _json_object(_decoded(parts[1])), _json_object(_decoded(parts[2]))
        if header is None or claimed is None or _decoded(parts[3]) is None:
            raise Unauthorized("malformed")

        try:
            client, key = await self._key(header, claimed)
        except Unauthorized:
            self._prove(token, self._decoy_for(header))
            raise
        payload = self._prove(token, key)
        if payload is None:
            raise Unauthorized("signature", client.iss)
        # From here on only what was signed is believed.
        claims = _json_object(payload)
        if claims is None or claims.get("iss") != client.iss:
            raise Unauthorized("malformed", client.iss)
        return await self._caller(client, claims, endpoint_url)

    async def aclose(self) -> None:
        """End fetches that are under way."""
        for _, keys in self._clients.values():
            await keys.aclose()

    async def _key(
        self, header: Mapping[str, Any], claimed: Mapping[str, Any]
    ) -> tuple[Client, PyJWK]:
        """Return the key that has to have signed this; what was read is not proven yet."""
        if header.get("typ") != "JWT" or "crit" in header or "b64" in header:
            raise Unauthorized("type")
        iss, kid, algorithm = claimed.get("iss"), header.get("kid"), header.get("alg")
        if not isinstance(iss, str) or iss not in self._clients:
            raise Unauthorized("unknown-issuer")
        client, keys = self._clients[iss]
        if not isinstance(algorithm, str) or algorithm not in client.algorithms:
            raise Unauthorized("algorithm", iss)
        # Before any key is looked for: another URL must not cause a request (CH-139).
        if "jku" in header and (client.jku is None or header["jku"] != client.jku):
            raise Unauthorized("jku", iss)
        if not _is_text(kid):
            raise Unauthorized("unknown-key", iss)
        by_algorithm = await keys.find(kid)
        if by_algorithm is None:
            raise Unauthorized("unknown-key", iss)
        if algorithm not in by_algorithm:
            raise Unauthorized("algorithm", iss)
        return client, by_algorithm[algorithm]

    def _prove(self, token: str, key: PyJWK) -> bytes | None:
        """Return the payload if this key signed it.

        Not in a thread: the cryptography library keeps the interpreter's lock while it computes,
        so that a thread costs its start and saves nothing.
        """
        try:
            verified = self._jws.decode_complete(token, key, algorithms=[key.algorithm_name])
        except (PyJWTError, ValueError):
            return None
        payload: bytes = verified["payload"]
        return payload

    def _decoy_for(self, header: Mapping[str, Any]) -> PyJWK:
        algorithm = header.get("alg")
        if isinstance(algorithm, str) and algorithm in self._decoys:
            return self._decoys[algorithm]
        return self._decoys["ES384"]

    async def _caller(self, client: Client, claims: Mapping[str, Any], endpoint_url: str) -> Caller:
        def refuse(cause: Cause) -> NoReturn:
            raise Unauthorized(cause, client.iss)

        jti, exp, iat, nbf = (claims.get(name) for name in ("jti", "exp", "iat", "nbf"))
        if not _is_text(jti) or not _is_time(exp) or not _is_time(iat):
            refuse("claims")
        if not _names(claims.get("aud"), endpoint_url):
            refuse("audience")
        now = self._clock()
        if exp <= now - self._leeway:
            refuse("expired")
        if iat > now + self._leeway:
            refuse("not-yet-valid")
        if nbf is not None and not (_is_time(nbf) and nbf <= now + self._leeway):
            refuse("not-yet-valid")
        if not 0 < exp - iat <= self._lifetime_max:
            refuse("lifetime")
        tenant = claims.get("tenant")
        if tenant is not None and not _is_text(tenant):
            refuse("tenant")
        if client.tenants and tenant not in client.tenants:
            refuse("tenant")
        expires = math.ceil(exp + self._leeway) + _REPLAY_MARGIN_SECONDS
        try:
            first = await self._replays.first_use(client.iss, jti, expires)
        except Exception as error:
            # Whatever is wrong with the store: nobody gets in unchecked.
            raise ReplayStoreDown from error
        if not first:
            refuse("replay")
        return Caller(iss=client.iss, client=client, jti=jti, tenant=tenant)


def _decoded(segment: str) -> bytes | None:
    """Return what base64url says, if it is the one way to say it (RFC 7515 section 2)."""
    try:
        data = urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except ValueError:
        return None
    return data if urlsafe_b64encode(data).rstrip(b"=") == segment.encode() else None


def _json_object(data: bytes | None) -> dict[str, Any] | None:
    """Return the JSON object, no member of it given twice (RFC 7515 section 4); else None."""
    if data is None:
        return None
    try:
        value = json.loads(
            data.decode(), object_pairs_hook=_members, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is given twice")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _is_text(value: object) -> TypeGuard[str]:
    """Whether a log and a database can hold it: no control characters, no half characters."""
    return isinstance(value, str) and 0 < len(value) <= _TEXT_LENGTH_MAX and value.isprintable()


def _is_time(value: object) -> TypeGuard[int | float]:
    """Whether it is a NumericDate (RFC 7519 section 2) that can be reckoned with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**53


def _names(audience: object, endpoint_url: str) -> bool:
    """Whether this `aud` names the endpoint (RFC 7519 section 4.1.3)."""
    named = audience if isinstance(audience, list) else [audience]
    texts = [url.removesuffix("/") for url in named if isinstance(url, str)]
    return len(texts) == len(named) and endpoint_url.removesuffix("/") in texts


def _decoy(algorithm: str) -> PyJWK:
    """Return a key whose private half nobody has: it costs what another costs, and fits nothing."""
    kty, crv = _KEY_OF[algorithm]
    public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey
    if kty == "EC":
        curves = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
        public = ec.generate_private_key(curves[crv or ""]).public_key()
    elif kty == "RSA":
        # To find primes takes long, and a check needs none.
        number = int.from_bytes(os.urandom(256), "big") | 1 | 1 << 2047
        public = rsa.RSAPublicNumbers(65537, number).public_key()
    else:
        public = ed25519.Ed25519PrivateKey.generate().public_key()
    jwk = PyJWS().get_algorithm_by_name(algorithm).to_jwk(public, as_dict=True)
    return PyJWK(jwk, algorithm)


# ---------------------------------------------------------------- keys

_Keys = Mapping[str, Mapping[str, PyJWK]]  # by kid, then by algorithm


class _JwksFault(Exception):
    """What is wrong with a JWK Set; without any value of a key."""


def _read_jwks(data: bytes, algorithms: tuple[str, ...]) -> tuple[_Keys, list[str]]:
    """Return the keys of a JWK Set that can prove a signature, and why the others cannot.

    Keys that are not understood are passed over (RFC 7517 section 5). A set with a secret in it
    or with two keys of one name is refused as a whole (CH-130, CH-132).
    """
    if len(data) > _JWKS_BYTES_MAX:
        raise _JwksFault(f"has more than {_JWKS_BYTES_MAX} bytes")
    jwks = _json_object(data)
    if jwks is None:
        raise _JwksFault("is no JSON object (or has a member twice)")
    members = jwks.get("keys")
    if not isinstance(members, list) or not all(isinstance(jwk, dict) for jwk in members):
        raise _JwksFault("is no JWK Set: 'keys' must be a list of objects (RFC 7517)")
    if len(members) > _JWKS_KEYS_MAX:
        raise _JwksFault(f"has more than {_JWKS_KEYS_MAX} keys")
    keys: dict[str, dict[str, PyJWK]] = {}
    passed_over = []
    seen: set[str] = set()
    for index, jwk in enumerate(members):
        if jwk.get("kty") == "oct" or _SECRET & jwk.keys():
            raise _JwksFault(f"keys[{index}] is secret (private or symmetric): public keys only")
        kid = jwk.get("kid")
        if not _is_text(kid):
            passed_over.append(f"keys[{index}] has no kid")
            continue
        if kid in seen:
            raise _JwksFault(f"keys[{index}] has the kid of another key")
        seen.add(kid)
        try:
            keys[kid] = _usable(jwk, algorithms)
        except _JwksFault as fault:
            passed_over.append(f"keys[{index}] {fault}")
    return keys, passed_over


def _usable(jwk: dict[str, Any], algorithms: tuple[str, ...]) -> dict[str, PyJWK]:
    """Return this key for every algorithm that it, and the client, may sign with (CH-133)."""
    operations = jwk.get("key_ops", ["verify"])
    may_verify = isinstance(operations, list) and "verify" in operations
    if jwk.get("use", "sig") != "sig" or not may_verify:
        raise _JwksFault("is not for signatures (use, key_ops)")
    fitting = [
        algorithm
        for algorithm in algorithms
        if (jwk.get("kty"), jwk.get("crv")) == _KEY_OF[algorithm]
        and jwk.get("alg", algorithm) == algorithm
    ]
    if not fitting:
        raise _JwksFault(f"is for none of {', '.join(algorithms)} (kty, crv, alg)")
    try:
        found = {algorithm: PyJWK(jwk, algorithm) for algorithm in fitting}
    except Exception:
        # Many kinds come through PyJWT; some repeat the key in their message.
        raise _JwksFault("is no valid key") from None
    key = found[fitting[0]].key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size not in _RSA_BITS:
        raise _JwksFault(f"has {key.key_size} bits: {_RSA_BITS[0]} to {_RSA_BITS[-1]} are allowed")
    return found


def _keys_of(
    client: Client, fetch: JwksFetcher, monotonic: Callable[[], float], *, demo: bool
) -> _FileKeys | _FetchedKeys:
    if client.jwks_file is not None:
        return _FileKeys(client, client.jwks_file, monotonic)
    if client.jku is None:
        raise UsageError(f"client {client.iss}: needs jwks_file or jku")
    if not (client.jku.startswith("https://") or (demo and client.jku.startswith("http://"))):
        raise UsageError(f"client {client.iss}: jku must begin with https://")
    return _FetchedKeys(client, client.jku, fetch, monotonic)


class _FileKeys:
    """Keys exchanged out of band (CH-140), read again when their file changes.

    While the service runs a file that cannot be used changes nothing: the earlier keys hold, and
    the log says so. One without any usable key does count: so all keys are withdrawn.
    """

    def __init__(self, client: Client, file: Path, monotonic: Callable[[], float]) -> None:
        self._client, self._file, self._monotonic = client, file, monotonic
        self._looked = monotonic()
        self._stamp, data = self._read()
        self._keys, passed_over = _read_jwks(data, client.algorithms)
        if not self._keys and passed_over:
            raise _JwksFault("no key can be used: " + "; ".join(passed_over))
        _log_keys(client, "jwks-read", self._keys, passed_over)

    async def find(self, kid: str) -> Mapping[str, PyJWK] | None:
        """Return this key by algorithm, None if there is none."""
        now = self._monotonic()
        if now - self._looked >= _FILE_LOOK_SECONDS:
            self._looked = now
            self._look_again()
        return self._keys.get(kid)

    async def aclose(self) -> None:
        """Nothing is under way, ever."""

    def _look_again(self) -> None:
        try:
            if self._stamp_now() == self._stamp:
                return
            # Kept even where the content is wrong, which is then said once and not every second.
            self._stamp, data = self._read()
            self._keys, passed_over = _read_jwks(data, self._client.algorithms)
        except _JwksFault as fault:
            _log_fault(self._client, str(fault))
        else:
            _log_keys(self._client, "jwks-read", self._keys, passed_over)

    def _stamp_now(self) -> tuple[int, ...]:
        try:
            status = self._file.stat()
        except OSError:
            return ()
        return status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev

    def _read(self) -> tuple[tuple[int, ...], bytes]:
        # The stamp first: what is written after it is seen at the next look.
        stamp = self._stamp_now()
        try:
            with self._file.open("rb") as stream:
                return stamp, stream.read(_JWKS_BYTES_MAX + 1)
        except OSError as error:
            self._stamp = stamp
            raise _JwksFault(f"cannot be read: {error.strerror}") from None


class _FetchedKeys:
    """Keys read from the client's configured `jku`.

    Fetched when the first token comes, then when they are older than ten minutes or a token names
    a key that is not among them, but at most once a minute, and once for all who wait. Where that
    fails, earlier keys hold for an hour.
    """

    def __init__(
        self, client: Client, url: str, fetch: JwksFetcher, monotonic: Callable[[], float]
    ) -> None:
        self._client, self._url, self._fetch, self._monotonic = client, url, fetch, monotonic
        self._keys: _Keys = {}
        self._fetched = self._tried = -math.inf
        self._under_way: asyncio.Task[None] | None = None

    async def find(self, kid: str) -> Mapping[str, PyJWK] | None:
        """Return this key by algorithm, None if there is none."""
        now = self._monotonic()
        if now - self._fetched >= _JWKS_USABLE_SECONDS:
            self._keys = {}
        wanted = kid not in self._keys or now - self._fetched >= _JWKS_FRESH_SECONDS
        if wanted and self._under_way is None and now - self._tried >= _FETCH_INTERVAL_SECONDS:
            self._tried = now
            self._under_way = asyncio.create_task(self._refresh())
        if kid not in self._keys and self._under_way is not None:
            # Only waits: a caller that goes away does not end the fetch for the others.
            await asyncio.wait([self._under_way])
        return self._keys.get(kid)

    async def aclose(self) -> None:
        """End a fetch that is under way."""
        if self._under_way is not None:
            self._under_way.cancel()
            await asyncio.wait([self._under_way])

    async def _refresh(self) -> None:
        """Fetch; never raises but when it is cancelled."""
        try:
            data = await self._fetch(self._url)
            self._keys, passed_over = _read_jwks(data, self._client.algorithms)
        except (JwksUnavailable, _JwksFault) as error:
            _log_fault(self._client, str(error))
        except Exception as error:
            _log_fault(self._client, type(error).__name__)
        else:
            self._fetched = self._monotonic()
            _log_keys(self._client, "jwks-fetched", self._keys, passed_over)
        finally:
            self._under_way = None


def _log_keys(client: Client, event: str, keys: _Keys, passed_over: list[str]) -> None:
    fields = {"iss": client.iss, "keys": len(keys), "passed_over": passed_over}
    _log.log(logging.INFO if keys else logging.WARNING, event, extra={"fields": fields})


def _log_fault(client: Client, fault: str) -> None:
    _log.error("jwks-unusable", extra={"fields": {"iss": client.iss, "fault": fault}})


class HttpJwks:
    """The `JwksFetcher` of the service: one GET, with limits, no redirects, no compression.

    Certificates are those that the system trusts (SSL_CERT_FILE and SSL_CERT_DIR change them);
    other variables of the environment (proxies, .netrc) do not count.
    """

    def __init__(self, *, seconds: float = _JWKS_FETCH_SECONDS) -> None:
        self._seconds = seconds
        self._tls: ssl.SSLContext | None = None

    async def __call__(self, url: str, /) -> bytes:
        """Return the body; raises JwksUnavailable."""
        if self._tls is None:
            self._tls = ssl.create_default_context()
        try:
            async with (
                asyncio.timeout(self._seconds),
                httpx.AsyncClient(
                    verify=self._tls,
                    trust_env=False,
                    follow_redirects=False,
                    timeout=self._seconds,
                    headers={
                        "Accept": "application/jwk-set+json, application/json",
                        "Accept-Encoding": "identity",
                    },
                ) as http,
                http.stream("GET", url) as response,
            ):
                return await self._body(response)
        except TimeoutError:
            raise JwksUnavailable("timeout") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise JwksUnavailable(type(error).__name__) from None

    async def _body(self, response: httpx.Response) -> bytes:
        if response.status_code != 200:
            raise JwksUnavailable(f"status {response.status_code}")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            # It could be of any size when unpacked.
            raise JwksUnavailable("compressed")
        body = bytearray()
        async for part in response.aiter_raw():
            body += part
            if len(body) > _JWKS_BYTES_MAX:
                raise JwksUnavailable("too large")
        return bytes(body)
