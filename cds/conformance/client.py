"""A small HTTP client that never raises for what a server does, and the signer of its tokens."""

from __future__ import annotations

import base64
import json
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn
from urllib.parse import urlsplit
from uuid import uuid4

import httpx

from cds import __version__
from cds.errors import UsageError

if TYPE_CHECKING:
    import jwt

__all__ = ["Answer", "Client", "Signer", "base_of", "strict_json"]

_SIZE_LIMIT: Final = 20_000_000
_DEPTH_LIMIT: Final = 100
_SIGNED: Final = "signed"
_ALGORITHMS: Final = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA"}


def base_of(url: str) -> str:
    """Return the base URL of a service, given as such or as the URL of its discovery."""
    try:
        urlsplit(url)
        parts = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise UsageError(f"{url!a} is not a URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.host:
        raise UsageError(f"{url!a} is not a URL such as https://cds.example.org/base")
    if parts.query or parts.fragment or parts.userinfo:
        raise UsageError("the URL must have no query, no fragment and no user name")
    return str(parts).rstrip("/").removesuffix("/cds-services").rstrip("/")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _no_twins(members: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(members)
    if len(value) < len(members):
        raise ValueError("a member stands twice in one object")
    return value


def strict_json(content: bytes) -> Any:
    """Parse JSON as RFC 8259 has it: UTF-8, no NaN, no member twice. Raises: ValueError."""
    try:
        value = json.loads(
            content.decode(), parse_constant=_no_constant, object_pairs_hook=_no_twins
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level, depth = [value], 0
    while level := [part for each in level for part in _parts(each)]:
        depth += 1
        if depth > _DEPTH_LIMIT:
            raise ValueError("nested too deeply")
    return value


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


@dataclass(frozen=True)
class Answer:
    """What a server answered; status 0 if it did not, and `fault` then says why."""

    method: str
    url: str
    status: int = 0
    headers: httpx.Headers = field(default_factory=httpx.Headers)
    content: bytes = b""
    seconds: float = 0.0
    fault: str = ""

    @cached_property
    def _parsed(self) -> tuple[Any, str]:
        try:
            return strict_json(self.content), ""
        except ValueError as error:
            return None, str(error)

    @property
    def value(self) -> Any:
        """The body as JSON; None where it is not."""
        return self._parsed[0]

    @property
    def not_json(self) -> str:
        """Why the body is not JSON; "" where it is."""
        return self._parsed[1]

    @property
    def media_type(self) -> str:
        """The media type without its parameters, in lower case."""
        return str(self.headers.get("content-type", "")).partition(";")[0].strip().lower()

    @property
    def cards(self) -> list[Any]:
        """The cards of a good answer; none where there is no such array."""
        cards = self.value.get("cards") if isinstance(self.value, dict) else None
        return cards if self.status == 200 and isinstance(cards, list) else []

    @property
    def clean(self) -> bool:
        """Whether the server answered at all, and not with a failure of its own."""
        return 200 <= self.status < 500

    @property
    def refused(self) -> bool:
        """Whether the server says that the request was at fault."""
        return 400 <= self.status < 500

    def __str__(self) -> str:
        return str(self.status) if self.status else f"no answer ({self.fault})"


class Signer:
    """Makes the JWT of a call (CDS Hooks 2.0, "Trusting CDS Clients").

    Args:
        jwk: the private key as a JWK; its `alg`, else the usual one of its kind.
        iss: the claim `iss`.
        jku: where the public key can be fetched, if that is how the service gets it.

    Raises: UsageError if the key cannot be used.
    """

    def __init__(self, jwk: Mapping[str, Any], iss: str, jku: str | None = None) -> None:
        import jwt

        kind = jwk.get("kty")
        if kind not in ("EC", "RSA", "OKP"):
            raise UsageError("the JWK is not a key of the type EC, RSA or OKP")
        usual = "RS384" if kind == "RSA" else _ALGORITHMS.get(str(jwk.get("crv")), "ES384")
        self.algorithm = str(jwk.get("alg") or usual)
        self.kid = str(jwk.get("kid") or "")
        if not self.kid:
            raise UsageError("the JWK has no 'kid', which the header of a token needs")
        if "d" not in jwk:
            raise UsageError("the JWK has no private part ('d'), so nothing can be signed")
        try:
            self.key = jwt.PyJWK(dict(jwk), self.algorithm)
        except (jwt.exceptions.PyJWTError, ValueError, TypeError) as error:
            raise UsageError(f"the JWK cannot be used: {error}") from None
        self.jwk, self.iss, self.jku = dict(jwk), iss, jku

    @classmethod
    def read(cls, path: str | Path, iss: str, jku: str | None = None) -> Signer:
        """Read the first private key of a JWK or JWK Set."""
        try:
            value = json.loads(Path(path).read_bytes())
        except (OSError, ValueError) as error:
            raise UsageError(f"{path}: no JWK can be read: {error}") from None
        keys = value.get("keys", [value]) if isinstance(value, dict) else []
        private = [key for key in keys if isinstance(key, dict) and "d" in key]
        if not private:
            raise UsageError(f"{path}: there is no JWK with a private part ('d')")
        return cls(private[0], iss, jku)

    def claims(self, audience: str, **changes: Any) -> dict[str, Any]:
        """Return the claims for a call of this URL; a change to None takes a claim away."""
        now = int(time.time())
        claims = {"iss": self.iss, "aud": audience, "exp": now + 300, "iat": now}
        changed = {**claims, "jti": str(uuid4()), **changes}
        return {name: value for name, value in changed.items() if value is not None}

    def header(self, **changes: Any) -> dict[str, Any]:
        """Return the header of a token; a change to None takes a member away."""
        header = {"alg": self.algorithm, "typ": "JWT", "kid": self.kid, "jku": self.jku}
        return {name: value for name, value in {**header, **changes}.items() if value is not None}

    def token(
        self,
        claims: Mapping[str, Any],
        header: Mapping[str, Any] | None = None,
        *,
        key: jwt.PyJWK | None = None,
    ) -> str:
        """Sign claims under a header; both are taken as they are, faults included."""
        key = key or self.key
        signing = f"{_coded(header or self.header())}.{_coded(claims)}"
        signature = key.Algorithm.sign(signing.encode(), key.key)
        return f"{signing}.{_base64(signature)}"

    def unsigned(self, claims: Mapping[str, Any], algorithm: str) -> str:
        """Return a token that nobody signed."""
        return f"{_coded(self.header(alg=algorithm))}.{_coded(claims)}."

    def symmetric(self, claims: Mapping[str, Any], algorithm: str, secret: bytes) -> str:
        """Return a token whose signature is made with a secret that everybody can know."""
        import hmac

        signing = f"{_coded(self.header(alg=algorithm))}.{_coded(claims)}"
        digest = hmac.digest(secret, signing.encode(), "sha" + algorithm[2:])
        return f"{signing}.{_base64(digest)}"

    def public_pem(self) -> bytes:
        """Return the public key as it would be written into a file."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        pem: bytes = self.key.key.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )
        return pem

    def stranger(self) -> jwt.PyJWK:
        """Return a key of the same kind that is not the client's."""
        import jwt
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

        kind = self.jwk["kty"]
        if kind == "RSA":
            other = jwt.algorithms.RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 2048))
        elif kind == "OKP":
            other = jwt.algorithms.OKPAlgorithm.to_jwk(ed25519.Ed25519PrivateKey.generate())
        else:
            other = jwt.algorithms.ECAlgorithm.to_jwk(ec.generate_private_key(self.key.key.curve))
        return jwt.PyJWK(json.loads(other), self.algorithm)


def _base64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def _coded(value: Mapping[str, Any]) -> str:
    return _base64(json.dumps(value).encode())


class Client:
    """Calls one service.

    Args:
        base: its base URL, without /cds-services.
        signer: signs each call; None: none is signed.
        timeout: seconds that one call may take in all.
        ca: file of the certificates that are trusted besides the usual ones.
        transport: another way to the server, for tests.
    """

    def __init__(
        self,
        base: str,
        *,
        signer: Signer | None = None,
        timeout: float = 10.0,
        ca: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        context: ssl.SSLContext | bool = False
        if base.startswith("https:"):
            context = ssl.create_default_context()
            try:
                context.load_verify_locations(ca) if ca else None
            except (OSError, ssl.SSLError) as error:
                raise UsageError(f"{ca}: no certificates can be read: {error}") from None
        self.base, self.signer, self.timeout = base, signer, timeout
        self.discovery_url = f"{base}/cds-services"
        self._http = httpx.Client(
            verify=context,
            timeout=timeout,
            follow_redirects=False,
            trust_env=False,
            transport=transport,
            headers={"User-Agent": f"cds-conformance/{__version__}", "Accept": "application/json"},
        )

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def service_url(self, service: str) -> str:
        """Return the URL of a service (CH-17)."""
        return f"{self.discovery_url}/{service}"

    def request(
        self,
        method: str,
        url: str,
        *,
        content: bytes | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = _SIGNED,
    ) -> Answer:
        """Send a request, signed for its URL unless `token` says otherwise (None: without)."""
        sent = dict(headers or {})
        if body is not None:
            content = json.dumps(body).encode()
        if content is not None:
            sent.setdefault("Content-Type", "application/json")
        if token == _SIGNED:
            token = self.signer.token(self.signer.claims(url)) if self.signer else None
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        started = time.perf_counter()
        received = bytearray()
        try:
            with self._http.stream(method, url, content=content, headers=sent) as response:
                for chunk in response.iter_bytes():
                    received += chunk
                    if len(received) > _SIZE_LIMIT:
                        return Answer(method, url, fault=f"more than {_SIZE_LIMIT} bytes")
                    if time.perf_counter() - started > self.timeout:
                        return Answer(method, url, fault=f"not whole after {self.timeout:g} s")
        except httpx.TimeoutException:
            return Answer(method, url, fault=f"nothing after {self.timeout:g} s")
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            return Answer(method, url, fault=str(error) or type(error).__name__)
        seconds = time.perf_counter() - started
        return Answer(method, url, response.status_code, response.headers, bytes(received), seconds)
