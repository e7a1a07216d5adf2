"""Tokens of clients (CH-128 to CH-142): what is let in, and that everything else looks alike."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import hmac
import json
import logging
import os
import ssl
import statistics
import threading
import time
import traceback
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from jwt import PyJWS

from cds.errors import UsageError
from cds.service.auth import (
    Authenticator,
    Caller,
    HttpJwks,
    JwksUnavailable,
    ReplayStoreDown,
    Unauthorized,
)
from cds.service.settings import Client, Settings
from cds.service.store import Store

NOW = 1_793_534_400
ISS = "https://ehr.example.org"
OTHER_ISS = "https://other.example.org"
BASE = "https://cds.example.org/cds"
URL = f"{BASE}/cds-services/twitching"

_JWS = PyJWS()
_BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
KEYS: dict[str, Any] = {
    "es": ec.generate_private_key(ec.SECP384R1()),
    "es-new": ec.generate_private_key(ec.SECP384R1()),
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "rs": rsa.generate_private_key(65537, 2048),
    "ed": ed25519.Ed25519PrivateKey.generate(),
}
KTY = {"es": "ES384", "es-new": "ES384", "p256": "ES256", "rs": "RS384", "ed": "EdDSA"}


# ---------------------------------------------------------------- making tokens and key sets


def jwk(key: str, **members: Any) -> dict[str, Any]:
    made = _JWS.get_algorithm_by_name(KTY[key]).to_jwk(KEYS[key].public_key(), as_dict=True)
    made.pop("key_ops", None)
    return {**made, "kid": key, **members}


def jwks(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


def b64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(segment: str) -> bytes:
    return urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


def changed(given: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """With these members; those that are given as ... are left out."""
    return {name: value for name, value in {**given, **changes}.items() if value is not ...}


def header_of(key: str = "es", **changes: Any) -> dict[str, Any]:
    return changed({"alg": KTY[key], "typ": "JWT", "kid": key}, changes)


def claims_of(**changes: Any) -> dict[str, Any]:
    given = {"iss": ISS, "aud": URL, "exp": NOW + 300, "iat": NOW, "jti": "jti-1"}
    return changed(given, changes)


def signed(header: str | dict[str, Any], claims: str | dict[str, Any], key: str = "es") -> str:
    """A token; header and claims may be texts that json would never write."""
    texts = [part if isinstance(part, str) else json.dumps(part) for part in (header, claims)]
    head = ".".join(b64(text.encode()) for text in texts)
    algorithm = header.get("alg") if isinstance(header, dict) else None
    if algorithm not in ("RS256", "RS384", "PS384", "ES256", "ES384", "EdDSA"):
        algorithm = KTY[key]
    signature = _JWS.get_algorithm_by_name(algorithm).sign(head.encode(), KEYS[key])
    return f"{head}.{b64(signature)}"


def token(key: str = "es", header: dict[str, Any] | None = None, **claims: Any) -> str:
    return signed(header_of(key, **(header or {})), claims_of(**claims), key)


# ---------------------------------------------------------------- what a check needs


class Replays:
    """The smallest ReplayStore; `used` is what was asked for."""

    def __init__(self) -> None:
        self.used: list[tuple[str, str, int]] = []

    async def first_use(self, iss: str, jti: str, expires: int) -> bool:
        await asyncio.sleep(0)
        first = all((iss, jti) != earlier[:2] for earlier in self.used)
        self.used.append((iss, jti, expires))
        return first


class Clock:
    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


async def no_fetch(url: str, /) -> bytes:
    raise AssertionError("nothing may be fetched")


def settings_with(*clients: Client, **changes: Any) -> Settings:
    given = {
        "public_url": BASE,
        "behind_proxy": True,
        "trusted_proxies": ("10.0.0.7",),
        "clients": clients,
    }
    return Settings(**{**given, **changes})


def demo_with(*clients: Client, **changes: Any) -> Settings:
    """As production, but a `jku` may be plain HTTP on this machine."""
    return Settings(insecure_demo=True, auth="required", clients=clients, **changes)


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "ehr.json"
    file.write_bytes(jwks(jwk("es"), jwk("rs"), jwk("p256")))
    return file


@pytest.fixture(scope="module")
def other_key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "other.json"
    file.write_bytes(jwks({**jwk("es-new"), "kid": "es"}))
    return file


@pytest.fixture
def replays() -> Replays:
    return Replays()


@pytest.fixture
def auth(key_file: Path, other_key_file: Path, replays: Replays) -> Authenticator:
    clients = [Client(iss=ISS, jwks_file=key_file), Client(iss=OTHER_ISS, jwks_file=other_key_file)]
    return Authenticator(settings_with(*clients), replays, no_fetch, clock=Clock())


def checked(auth: Authenticator, token: str, url: str = URL) -> Caller:
    return asyncio.run(auth.check(f"Bearer {token}", url))


def cause(auth: Authenticator, token: str, url: str = URL) -> str:
    with pytest.raises(Unauthorized) as refused:
        checked(auth, token, url)
    return refused.value.cause


# ---------------------------------------------------------------- who is let in


@pytest.mark.parametrize("key", ["es", "rs"])
def test_es384_and_rs384_are_accepted_without_configuration(auth: Authenticator, key: str) -> None:
    caller = checked(auth, token(key, tenant="ward-3"))
    assert (caller.iss, caller.jti, caller.tenant) == (ISS, "jti-1", "ward-3")
    assert caller.client is not None
    assert caller.client.iss == ISS


@pytest.mark.parametrize("authorization", [None, ""])
def test_a_call_without_a_token_is_refused(auth: Authenticator, authorization: str | None) -> None:
    with pytest.raises(Unauthorized) as refused:
        asyncio.run(auth.check(authorization, URL))
    assert refused.value.cause == "no-token"


@pytest.mark.parametrize(
    "authorization",
    [
        "Basic dXNlcjpwYXNz",
        "Bearer",
        "Bearer ",
        "{}",
        "Token {}",
        "Bearer {}, Bearer {}",
        "Bearer {}.",
    ],
)
def test_what_is_no_bearer_token_is_refused(auth: Authenticator, authorization: str) -> None:
    with pytest.raises(Unauthorized) as refused:
        asyncio.run(auth.check(authorization.replace("{}", token()), URL))
    assert refused.value.cause == "malformed"


def test_the_scheme_is_known_in_any_case(auth: Authenticator) -> None:
    assert asyncio.run(auth.check(f"bEARER {token()}", URL)).iss == ISS


def test_with_authentication_off_everybody_is_anonymous(replays: Replays) -> None:
    auth = Authenticator(Settings(insecure_demo=True), replays, no_fetch)
    assert asyncio.run(auth.check(None, URL)) is Caller.anonymous
    assert Caller.anonymous.client is None


def test_authentication_is_off_in_a_demo_only(replays: Replays) -> None:
    settings = settings_with().model_copy(update={"auth": "off"})
    with pytest.raises(UsageError):
        Authenticator(settings, replays, no_fetch)


# ---------------------------------------------------------------- signatures and algorithms


def test_a_signature_of_another_key_is_refused(auth: Authenticator) -> None:
    assert cause(auth, signed(header_of("es"), claims_of(), "es-new")) == "signature"


def test_a_client_cannot_speak_for_another(auth: Authenticator) -> None:
    assert cause(auth, signed(header_of("es"), claims_of(iss=OTHER_ISS), "es")) == "signature"
    assert cause(auth, signed(header_of("es"), claims_of(), "es-new")) == "signature"
    assert checked(auth, signed(header_of(), claims_of(iss=OTHER_ISS), "es-new")).iss == OTHER_ISS


def test_a_signed_token_with_other_claims_is_refused(auth: Authenticator) -> None:
    head, _, signature = token().split(".")
    forged = b64(json.dumps(claims_of(exp=NOW + 3000)).encode())
    assert cause(auth, f"{head}.{forged}.{signature}") == "signature"


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", "", None, ..., 0, ["ES384"]])
@pytest.mark.parametrize("signature", ["", "AAAA", "real"])
def test_a_token_without_a_signature_is_refused(
    auth: Authenticator, alg: object, signature: str
) -> None:
    whole = token(header={"alg": alg})
    if signature != "real":
        whole = whole.rpartition(".")[0] + "." + signature
    assert cause(auth, whole) == ("malformed" if signature == "" else "algorithm")


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
@pytest.mark.parametrize("key", ["es", "rs"])
@pytest.mark.parametrize("form", ["pem", "der", "jwk"])
def test_a_public_key_is_no_secret_to_sign_with(
    auth: Authenticator, key: str, algorithm: str, form: str
) -> None:
    public = KEYS[key].public_key()
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    secret = {
        "pem": public.public_bytes(serialization.Encoding.PEM, info),
        "der": public.public_bytes(serialization.Encoding.DER, info),
        "jwk": json.dumps(jwk(key)).encode(),
    }[form]
    head = signed(header_of(key, alg=algorithm), claims_of(), key).rpartition(".")[0]
    mac = hmac.new(secret, head.encode(), getattr(hashlib, f"sha{algorithm[2:]}")).digest()
    assert cause(auth, f"{head}.{b64(mac)}") == "algorithm"


@pytest.mark.parametrize("algorithm", ["none", "HS256", "ES256K", "RS1"])
def test_neither_none_nor_a_symmetric_algorithm_can_be_configured(
    key_file: Path, replays: Replays, algorithm: str
) -> None:
    # Past the validation of settings, which refuses them too.
    client = Client.model_construct(
        iss=ISS, jwks_file=key_file, jku=None, algorithms=("ES384", algorithm), tenants=()
    )
    settings = settings_with().model_copy(update={"clients": (client,)})
    with pytest.raises(UsageError, match="algorithms must be of"):
        Authenticator(settings, replays, no_fetch)


@pytest.mark.parametrize(("key", "alg"), [("p256", "ES256"), ("rs", "RS256"), ("rs", "PS384")])
def test_other_algorithms_only_where_the_client_has_them(
    auth: Authenticator, key_file: Path, replays: Replays, key: str, alg: Any
) -> None:
    made = signed(header_of(key, alg=alg), claims_of(), key)
    assert cause(auth, made) == "algorithm"
    client = Client(iss=ISS, jwks_file=key_file, algorithms=("ES384", alg))
    assert checked(Authenticator(settings_with(client), replays, no_fetch, clock=Clock()), made)


def test_ed25519_is_accepted_where_the_client_has_it(tmp_path: Path, replays: Replays) -> None:
    auth = with_keys(tmp_path, replays, jwk("ed"), algorithms=("EdDSA",))
    assert checked(auth, token("ed")).iss == ISS


@pytest.mark.parametrize(
    ("kid", "alg", "signing", "expected"),
    [
        ("es", "RS384", "rs", "algorithm"),
        ("rs", "ES384", "es", "algorithm"),
        # Not one that this client may sign with, so it has no such key.
        ("p256", "ES384", "es", "unknown-key"),
    ],
)
def test_an_algorithm_that_does_not_fit_the_key_is_refused(
    auth: Authenticator, kid: str, alg: str, signing: str, expected: str
) -> None:
    assert cause(auth, signed(header_of(kid, alg=alg), claims_of(), signing)) == expected


def test_the_algorithm_of_the_key_counts(tmp_path: Path, replays: Replays) -> None:
    auth = with_keys(tmp_path, replays, jwk("rs", alg="RS256"), algorithms=("RS256", "RS384"))
    assert cause(auth, token("rs")) == "algorithm"
    assert checked(auth, token("rs", header={"alg": "RS256"})).iss == ISS


@pytest.mark.parametrize("kid", ["other", "ES", "es ", "", ..., None, 1, "k" * 300, "e\x00s"])
def test_an_unknown_key_is_refused(auth: Authenticator, kid: object) -> None:
    assert cause(auth, token(header={"kid": kid})) == "unknown-key"


@pytest.mark.parametrize("typ", ["jwt", "at+jwt", "", None, ..., ["JWT"]])
def test_the_type_is_jwt_letter_by_letter(auth: Authenticator, typ: object) -> None:
    assert cause(auth, token(header={"typ": typ})) == "type"


@pytest.mark.parametrize(
    "extension",
    [{"crit": ["exp"]}, {"crit": []}, {"b64": False, "crit": ["b64"]}, {"b64": True}],
)
def test_extensions_are_refused(auth: Authenticator, extension: dict[str, Any]) -> None:
    assert cause(auth, token(header=extension)) == "type"


def test_keys_inside_of_a_token_count_for_nothing(auth: Authenticator) -> None:
    own = {"jwk": {**jwk("es-new"), "kid": "es"}, "x5c": ["AAAA"], "x5u": "https://evil.example"}
    assert cause(auth, signed(header_of("es", **own), claims_of(), "es-new")) == "signature"
    assert checked(auth, token(header=own)).iss == ISS


def test_what_is_no_strict_json_is_refused(auth: Authenticator) -> None:
    header, claims = json.dumps(header_of()), json.dumps(claims_of())
    for bad in ("[]", "1", '"JWT"', "{", "", "\ufeff" + header, header[:-1] + ', "kid": "es"}'):
        assert cause(auth, signed(bad, claims)) == "malformed"
    deep = "[" * 2_000 + "]" * 2_000
    for bad in (
        "[]",
        "null",
        claims[:-1] + ', "jti": "jti-2"}',
        claims[:-1] + ', "x": NaN}',
        claims[:-1] + ', "x": ' + "9" * 5_000 + "}",
        claims[:-1] + f', "x": {deep}, "y": 1}}' + " ]",
    ):
        assert cause(auth, signed(header, bad)) == "malformed"


def test_a_token_can_be_written_in_one_way_only(auth: Authenticator) -> None:
    made = token("rs")  # its signature has room for four bits that say nothing
    last = _BASE64.index(made[-1])
    for other in (made + "==", made[:-1] + _BASE64[last + 1], made + "\n", made + "."):
        assert cause(auth, other) == "malformed"
    assert checked(auth, made).iss == ISS


def test_a_token_that_is_too_long_is_refused(auth: Authenticator) -> None:
    assert checked(auth, token(padding="x" * 5_000)).iss == ISS
    assert cause(auth, token(padding="x" * 8_192, jti="2")) == "malformed"


# ---------------------------------------------------------------- claims


@pytest.mark.parametrize("value", [..., None])
@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        ("iss", "unknown-issuer"),
        ("aud", "audience"),
        ("exp", "claims"),
        ("iat", "claims"),
        ("jti", "claims"),
    ],
)
def test_every_claim_is_required(
    auth: Authenticator, claim: str, expected: str, value: object
) -> None:
    assert cause(auth, token(**{claim: value})) == expected


@pytest.mark.parametrize("claim", ["exp", "iat"])
@pytest.mark.parametrize("value", ["1793534500", True, [], -1, 2**53, 10**400])
def test_times_are_numbers(auth: Authenticator, claim: str, value: object) -> None:
    assert cause(auth, token(**{claim: value})) == "claims"


def test_a_time_beyond_all_numbers_is_refused(auth: Authenticator) -> None:
    text = json.dumps(claims_of()).replace(str(NOW + 300), "1e999")
    assert cause(auth, signed(header_of(), text)) == "claims"


@pytest.mark.parametrize("value", ["", 7, ["jti-1"], "j" * 257, "a\nb", "a\x00b", "\ud800"])
def test_a_jti_is_a_short_plain_text(auth: Authenticator, value: object) -> None:
    assert cause(auth, token(jti=value)) == "claims"


@pytest.mark.parametrize("iss", [OTHER_ISS + "/", "https://evil.example", "", [ISS], 1])
def test_an_issuer_that_is_not_configured_is_refused(auth: Authenticator, iss: object) -> None:
    assert cause(auth, token(iss=iss)) == "unknown-issuer"


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"exp": NOW - 29, "iat": NOW - 300}, None),
        ({"exp": NOW - 30, "iat": NOW - 300}, "expired"),
        ({"exp": NOW - 29.5, "iat": NOW - 300.5}, None),
        ({"iat": NOW + 30}, None),
        ({"iat": NOW + 31}, "not-yet-valid"),
        ({"nbf": NOW + 30}, None),
        ({"nbf": NOW + 31}, "not-yet-valid"),
        ({"nbf": "soon"}, "not-yet-valid"),
        ({"exp": NOW + 3600}, None),
        ({"exp": NOW + 3601}, "lifetime"),
        ({"exp": NOW + 10, "iat": NOW + 10}, "lifetime"),
        ({"exp": NOW + 10, "iat": NOW + 20}, "lifetime"),
    ],
)
def test_times_count_to_the_second(
    auth: Authenticator, claims: dict[str, Any], expected: str | None
) -> None:
    if expected is None:
        assert checked(auth, token(**claims)).iss == ISS
    else:
        assert cause(auth, token(**claims)) == expected


@pytest.mark.parametrize(
    "aud", [URL, URL + "/", [URL], ["https://elsewhere.example", URL], [URL + "/", "x"]]
)
def test_the_audience_is_the_url_called(auth: Authenticator, aud: object) -> None:
    assert checked(auth, token(aud=aud)).iss == ISS


@pytest.mark.parametrize("url", [URL, URL + "/"])
def test_one_slash_at_the_end_does_not_count(auth: Authenticator, url: str) -> None:
    assert checked(auth, token(), url).iss == ISS


@pytest.mark.parametrize(
    "aud",
    [
        BASE,
        f"{BASE}/cds-services",
        f"{URL}/feedback",
        f"{URL}x",
        f"{URL}//",
        f"{URL}?a=b",
        f"{URL}#a",
        URL.upper(),
        URL.replace("https", "http"),
        URL.replace("cds.example.org", "evil.example"),
        URL.replace("cds.example.org", "CDS.example.org"),
        URL.replace(".org", ".org:443"),
        URL.replace("/cds/", "/"),
        URL.replace("twitching", "%74witching"),
        f"{BASE}/x/../cds-services/twitching",
        "",
        [],
        [f"{URL}x"],
        [URL, 1],
        [[URL]],
        {URL: URL},
        1,
    ],
)
def test_no_other_audience_will_do(auth: Authenticator, aud: object) -> None:
    assert cause(auth, token(aud=aud)) == "audience"


def test_a_token_for_the_service_does_not_open_its_feedback(auth: Authenticator) -> None:
    assert cause(auth, token(), f"{URL}/feedback") == "audience"
    assert checked(auth, token(aud=f"{URL}/feedback"), f"{URL}/feedback").iss == ISS


@pytest.mark.parametrize("tenant", ["ward-1", "ward-2"])
def test_a_tenant_of_the_list_is_accepted(key_file: Path, replays: Replays, tenant: str) -> None:
    client = Client(iss=ISS, jwks_file=key_file, tenants=("ward-1", "ward-2"))
    auth = Authenticator(settings_with(client), replays, no_fetch, clock=Clock())
    assert checked(auth, token(tenant=tenant)).tenant == tenant


@pytest.mark.parametrize("tenant", ["ward-3", "", ..., None, ["ward-1"], 1, "Ward-1"])
def test_no_other_tenant_will_do(key_file: Path, replays: Replays, tenant: object) -> None:
    client = Client(iss=ISS, jwks_file=key_file, tenants=("ward-1", "ward-2"))
    auth = Authenticator(settings_with(client), replays, no_fetch, clock=Clock())
    assert cause(auth, token(tenant=tenant)) == "tenant"


# ---------------------------------------------------------------- each token once


def test_a_token_is_good_for_one_call(auth: Authenticator) -> None:
    made = token()
    assert checked(auth, made).jti == "jti-1"
    assert cause(auth, made) == "replay"
    # Nor is a new one with the same jti; that of another client is another one.
    assert cause(auth, token(iat=NOW - 1)) == "replay"
    assert checked(auth, signed(header_of(), claims_of(iss=OTHER_ISS), "es-new")).jti == "jti-1"


def test_of_fifty_uses_at_the_same_time_in_two_workers_one_wins(
    tmp_path: Path, key_file: Path
) -> None:
    settings = settings_with(Client(iss=ISS, jwks_file=key_file))
    url = f"sqlite:///{tmp_path / 'replays.db'}"

    async def all_at_once() -> list[Caller | BaseException]:
        # Two stores with one database are what two workers have.
        async with Store(url, clock=Clock()) as one, Store(url, clock=Clock()) as two:
            workers = [
                Authenticator(settings, store, no_fetch, clock=Clock()) for store in (one, two)
            ]
            calls = [workers[i % 2].check(f"Bearer {token()}", URL) for i in range(50)]
            return await asyncio.gather(*calls, return_exceptions=True)

    answers = asyncio.run(all_at_once())
    assert sum(isinstance(answer, Caller) for answer in answers) == 1
    refused = [answer for answer in answers if isinstance(answer, Unauthorized)]
    assert [answer.cause for answer in refused] == ["replay"] * 49


def test_a_restart_makes_no_token_good_again(tmp_path: Path, key_file: Path) -> None:
    settings = settings_with(Client(iss=ISS, jwks_file=key_file))
    clock = Clock()

    async def use(made: str) -> Caller:
        async with Store(f"sqlite:///{tmp_path / 'replays.db'}", clock=clock) as store:
            auth = Authenticator(settings, store, no_fetch, clock=clock)
            try:
                return await auth.check(f"Bearer {made}", URL)
            finally:
                await store.forget_expired()

    made = token()
    assert asyncio.run(use(made)).jti == "jti-1"
    # Up to the last moment of its life with leeway, and after it.
    for seconds, expected in [(0, "replay"), (329.9, "replay"), (330, "expired")]:
        clock.now = NOW + seconds
        with pytest.raises(Unauthorized) as refused:
            asyncio.run(use(made))
        assert refused.value.cause == expected


def test_nobody_can_use_up_the_jti_of_another(auth: Authenticator, replays: Replays) -> None:
    wrong = [
        signed(header_of(), claims_of(), "es-new"),
        token(aud=BASE),
        token(exp=NOW - 100, iat=NOW - 200),
        token(iat=NOW + 100),
        token(exp=NOW + 9_000),
        token(tenant=1),
    ]
    for made in wrong:
        cause(auth, made)
    assert replays.used == []
    assert checked(auth, token()).jti == "jti-1"


@pytest.mark.parametrize("exp", [NOW + 300, NOW + 300.5])
def test_a_jti_is_remembered_for_longer_than_its_token_lives(
    auth: Authenticator, replays: Replays, exp: float
) -> None:
    checked(auth, token(exp=exp))
    ((_, _, expires),) = replays.used
    assert isinstance(expires, int)
    assert exp + 30 < expires <= exp + 30 + 61


def test_without_the_store_of_used_tokens_nobody_gets_in(tmp_path: Path, key_file: Path) -> None:
    settings = settings_with(Client(iss=ISS, jwks_file=key_file))

    async def run() -> None:
        store = Store(f"sqlite:///{tmp_path / 'replays.db'}")
        await store.open()
        await store.close()
        auth = Authenticator(settings, store, no_fetch, clock=Clock())
        with pytest.raises(ReplayStoreDown):
            await auth.check(f"Bearer {token()}", URL)

    asyncio.run(run())


# ---------------------------------------------------------------- all refusals look alike


def refusals() -> dict[str, tuple[str, str]]:
    """A token, and the endpoint it is used at, for every cause."""
    return {
        "malformed": ("a.b", URL),
        "type": (token(header={"typ": "x"}), URL),
        "unknown-issuer": (token(iss="https://evil.example"), URL),
        "algorithm": (token(header={"alg": "HS256"}), URL),
        "jku": (token(header={"jku": "https://evil.example/canary-jku"}), URL),
        "unknown-key": (token(header={"kid": "canary-kid"}), URL),
        "signature": (signed(header_of(), claims_of(jti="canary-jti"), "es-new"), URL),
        "claims": (token(jti=1), URL),
        "audience": (token(aud="https://canary-aud.example"), URL),
        "expired": (token(iat=NOW - 90, exp=NOW - 60), URL),
        "not-yet-valid": (token(iat=NOW + 60), URL),
        "lifetime": (token(exp=NOW + 9_000), URL),
        "tenant": (token(tenant=["canary-tenant"]), URL),
    }


def test_a_refusal_says_a_code_word_and_nothing_of_the_token(
    auth: Authenticator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for expected, (made, url) in refusals().items():
        with pytest.raises(Unauthorized) as refused:
            checked(auth, made, url)
        error = refused.value
        assert (error.cause, str(error), error.args) == (expected, expected, (expected,))
        assert error.iss in (ISS, None)
        written = "".join(traceback.format_exception(error)) + repr(error)
        assert made not in written
        assert "canary" not in written
        assert "evil" not in written
    logged = "".join(str(vars(record)) for record in caplog.records)
    assert "canary" not in logged
    assert b64(json.dumps(header_of()).encode()) not in logged


def test_refusals_that_tell_who_is_registered_take_the_same_time(auth: Authenticator) -> None:
    names = ["unknown-issuer", "jku", "unknown-key", "signature", "audience"]
    tokens = {name: refusals()[name][0] for name in names}
    spent: dict[str, list[float]] = {name: [] for name in names}

    async def refused(made: str) -> float:
        start = time.thread_time()  # of this thread only: others may be busy
        with pytest.raises(Unauthorized):
            await auth.check(f"Bearer {made}", URL)
        return time.thread_time() - start

    async def in_turn() -> None:
        for _ in range(25):
            for name, made in tokens.items():
                spent[name].append(await refused(made))

    asyncio.run(in_turn())
    medians = {name: statistics.median(times) for name, times in spent.items()}
    # Without a signature check a refusal takes less than a fifth of one with it.
    assert max(medians.values()) < 1.5 * min(medians.values()), medians


class _First:
    """A store for which everything is new: so what should be refused shows where it is not."""

    async def first_use(self, iss: str, jti: str, expires: int) -> bool:
        return True


MUTATED = {key: token(key) for key in ("es", "rs")}


@given(
    key=st.sampled_from(sorted(MUTATED)),
    kind=st.sampled_from(["replace", "insert", "delete", "cut", "append", "swap"]),
    at=st.integers(0, 10_000),
    text=st.text(_BASE64 + ".=+/ ~\n%é", min_size=1, max_size=3),
)
def test_a_token_changed_in_any_way_is_refused(
    tolerant: Authenticator, key: str, kind: str, at: int, text: str
) -> None:
    made = MUTATED[key]
    at %= len(made)
    mutant = {
        "replace": made[:at] + text + made[at + len(text) :],
        "insert": made[:at] + text + made[at:],
        "delete": made[:at] + made[at + len(text) :],
        "cut": made[:at],
        "append": made + text,
        "swap": ".".join(made.split(".")[i] for i in [(1, 0, 2), (0, 2, 1), (2, 1, 0)][at % 3]),
    }[kind]
    if mutant != made and mutant.strip(" ") != made:
        cause(tolerant, mutant)


@given(
    key=st.sampled_from(sorted(MUTATED)),
    part=st.sampled_from([0, 1, 2]),
    bit=st.integers(0, 10_000),
)
def test_every_bit_of_a_token_counts(
    tolerant: Authenticator, key: str, part: int, bit: int
) -> None:
    parts = MUTATED[key].split(".")
    data = bytearray(unb64(parts[part]))
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    parts[part] = b64(bytes(data))
    cause(tolerant, ".".join(parts))


@given(
    name=st.sampled_from(["alg", "typ", "kid", "iss", "aud", "exp", "iat", "jti", "tenant"]),
    value=st.none() | st.booleans() | st.integers() | st.text("eE3J", max_size=3) | st.just([URL]),
)
def test_no_member_can_be_changed_under_a_signature(
    tolerant: Authenticator, name: str, value: object
) -> None:
    head, body, signature = MUTATED["es"].split(".")
    header, claims = json.loads(unb64(head)), json.loads(unb64(body))
    (header if name in header else claims)[name] = value
    changed_parts = [b64(json.dumps(part).encode()) for part in (header, claims)]
    if changed_parts != [head, body]:
        cause(tolerant, ".".join([*changed_parts, signature]))


@pytest.fixture(scope="module")
def tolerant(key_file: Path) -> Authenticator:
    settings = settings_with(Client(iss=ISS, jwks_file=key_file))
    auth = Authenticator(settings, _First(), no_fetch, clock=Clock())
    for made in MUTATED.values():
        assert checked(auth, made)
    return auth


# ---------------------------------------------------------------- keys in a file


def with_keys(
    folder: Path, replays: Replays, *keys: dict[str, Any], data: bytes | None = None, **client: Any
) -> Authenticator:
    file = folder / "keys.json"
    file.write_bytes(jwks(*keys) if data is None else data)
    settings = settings_with(Client(iss=ISS, jwks_file=file, **client))
    return Authenticator(settings, replays, no_fetch, clock=Clock())


SMALL_RSA = rsa.RSAPublicNumbers(65537, 1 << 1023 | 1).public_key()
SMALL = _JWS.get_algorithm_by_name("RS384").to_jwk(SMALL_RSA, as_dict=True)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no JSON object"),
        (b"[]", "is no JSON object"),
        (b'{"keys": [], "keys": []}', "member twice"),
        (b"{}", "'keys' must be a list"),
        (b'{"keys": [1]}', "'keys' must be a list"),
        (jwks(jwk("es"), jwk("rs", kid="es")), r"keys\[1\] has the kid of another key"),
        (jwks(jwk("es"), {"kty": "oct", "kid": "x", "k": "AAAA"}), r"keys\[1\] is secret"),
        (jwks(jwk("es", d="AAAA")), r"keys\[0\] is secret"),
        (jwks(jwk("es", kid=5)), r"keys\[0\] has no kid"),
        (jwks(jwk("es", use="enc")), "is not for signatures"),
        (jwks(jwk("es", key_ops=["sign"])), "is not for signatures"),
        (jwks(jwk("es", key_ops=7)), "is not for signatures"),
        (jwks(jwk("es", alg="ES256")), "is for none of ES384, RS384"),
        (jwks(jwk("p256")), "is for none of ES384, RS384"),
        (jwks(jwk("es", crv="P-256K")), "is for none of ES384, RS384"),
        (jwks(jwk("es", x="AAAA")), "is no valid key"),
        (jwks(jwk("es", x=5)), "is no valid key"),
        (jwks(jwk("es", y=jwk("es")["x"])), "is no valid key"),
        (jwks({**SMALL, "kid": "small", "key_ops": ["verify"]}), "has 1024 bits"),
        (jwks(*[jwk("es", kid=str(i)) for i in range(101)]), "more than 100 keys"),
        (b" " * 300_000, "has more than"),
    ],
)
def test_a_file_of_keys_that_cannot_be_used_ends_the_start(
    tmp_path: Path, replays: Replays, data: bytes, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        with_keys(tmp_path, replays, data=data)
    assert str(tmp_path / "keys.json") in str(refused.value)
    assert ISS in str(refused.value)
    assert jwk("es")["x"] not in "".join(traceback.format_exception(refused.value))


def test_a_file_of_keys_that_is_not_there_ends_the_start(replays: Replays, tmp_path: Path) -> None:
    settings = settings_with(Client(iss=ISS, jwks_file=tmp_path / "none.json"))
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        Authenticator(settings, replays, no_fetch)


def test_keys_that_are_not_understood_are_passed_over(tmp_path: Path, replays: Replays) -> None:
    others = [{"kty": "AKP", "kid": "new", "alg": "ML-DSA-44"}, {"kty": "EC"}, jwk("p256")]
    assert checked(with_keys(tmp_path, replays, *others, jwk("es")), token()).iss == ISS


class Rotating:
    """A client's file of keys with clocks that a test sets."""

    def __init__(self, file: Path, replays: Replays) -> None:
        self.file = file
        self.clock = Clock()
        file.write_bytes(jwks(jwk("es")))
        settings = settings_with(Client(iss=ISS, jwks_file=file))
        self.auth = Authenticator(
            settings, replays, no_fetch, clock=lambda: NOW, monotonic=self.clock
        )
        self.number = 0

    def write(self, data: bytes) -> None:
        fresh = self.file.with_suffix(".new")
        fresh.write_bytes(data)
        fresh.replace(self.file)

    def knows(self, key: str) -> bool:
        self.number += 1
        made = token(key, jti=f"rotating-{self.number}")
        answer = asyncio.run(self._answer(made))
        assert answer in (None, "unknown-key")
        return answer is None

    async def _answer(self, made: str) -> str | None:
        try:
            await self.auth.check(f"Bearer {made}", URL)
        except Unauthorized as error:
            return error.cause
        return None


@pytest.fixture
def rotating(tmp_path: Path, replays: Replays) -> Rotating:
    return Rotating(tmp_path / "keys.json", replays)


def test_a_changed_file_is_read_again_at_most_once_a_second(rotating: Rotating) -> None:
    rotating.write(jwks(jwk("es-new")))
    rotating.clock.now += 0.9
    assert (rotating.knows("es"), rotating.knows("es-new")) == (True, False)
    rotating.clock.now += 0.2
    assert (rotating.knows("es"), rotating.knows("es-new")) == (False, True)


def test_an_unchanged_file_is_not_read_again(
    rotating: Rotating, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("it did not change")

    monkeypatch.setattr(Path, "open", refuse)
    rotating.clock.now += 5
    assert rotating.knows("es")


@pytest.mark.parametrize(
    "data", [b"", b'{"keys": [', jwks(jwk("es-new"), jwk("es-new")), jwks(jwk("es-new", d="A"))]
)
def test_a_file_that_became_wrong_changes_nothing_and_is_said_once(
    rotating: Rotating, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    rotating.write(data)
    for _ in range(3):
        rotating.clock.now += 2
        assert (rotating.knows("es"), rotating.knows("es-new")) == (True, False)
    assert [record.message for record in caplog.records] == ["jwks-unusable"]
    rotating.write(jwks(jwk("es-new")))
    rotating.clock.now += 2
    assert (rotating.knows("es"), rotating.knows("es-new")) == (False, True)


def test_a_file_that_went_away_changes_nothing(
    rotating: Rotating, caplog: pytest.LogCaptureFixture
) -> None:
    rotating.file.unlink()
    for _ in range(3):
        rotating.clock.now += 2
        assert rotating.knows("es")
    assert [record.message for record in caplog.records] == ["jwks-unusable"]


@pytest.mark.parametrize("data", [jwks(), jwks(jwk("p256"))])
def test_a_file_without_any_usable_key_withdraws_all(rotating: Rotating, data: bytes) -> None:
    rotating.write(data)
    rotating.clock.now += 2
    assert not rotating.knows("es")


def test_a_client_may_have_no_keys_yet(
    tmp_path: Path, replays: Replays, caplog: pytest.LogCaptureFixture
) -> None:
    assert cause(with_keys(tmp_path, replays), token()) == "unknown-key"
    assert [record.levelname for record in caplog.records] == ["WARNING"]


# ---------------------------------------------------------------- keys behind a URL


class KeyServer:
    """A real HTTP server that counts what it is asked and answers what the test says."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[str] = []
        self.body = jwks(jwk("es"))
        self.status = 200
        self.headers: dict[str, str] = {}
        self.delay = 0.0
        self.seen: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                outer.seen.append({name.lower(): value for name, value in self.headers.items()})
                time.sleep(outer.delay)
                self.send_response(outer.status)
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(outer.body)))
                self.end_headers()
                try:
                    self.wfile.write(outer.body)
                except OSError:
                    pass  # the reader had enough

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                pass  # a reader that went away, or does not trust us

        self._server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._server.server_port}/keys"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def key_server() -> Iterator[KeyServer]:
    server = KeyServer()
    yield server
    server.close()


class Fetching:
    """An authenticator for a client with a `jku`, all in one event loop."""

    def __init__(self, url: str, *, seconds: float = 2.0, **client: Any) -> None:
        self.url = url
        self.clock = Clock()
        settings = demo_with(Client(iss=ISS, jku=url, **client))
        self.auth = Authenticator(
            settings, _First(), HttpJwks(seconds=seconds), clock=lambda: NOW, monotonic=self.clock
        )

    async def knows(self, key: str = "es", **header: Any) -> str | None:
        """None, or the cause of the refusal."""
        try:
            await self.auth.check(f"Bearer {token(key, header=header)}", URL)
        except Unauthorized as error:
            return error.cause
        return None


def test_keys_are_fetched_once_and_again_when_a_new_one_is_named(key_server: KeyServer) -> None:
    async def run() -> None:
        keys = Fetching(key_server.url)
        assert key_server.asked == []
        assert [await keys.knows() for _ in range(3)] == [None] * 3
        assert len(key_server.asked) == 1
        key_server.body = jwks(jwk("es-new"))
        keys.clock.now += 59
        assert await keys.knows("es-new") == "unknown-key"
        assert len(key_server.asked) == 1
        keys.clock.now += 2
        assert await keys.knows("es-new") is None
        # The old one was withdrawn with it.
        assert await keys.knows("es") == "unknown-key"
        assert [await keys.knows(kid=f"made-up-{i}") for i in range(20)] == ["unknown-key"] * 20
        assert key_server.asked == ["/keys"] * 2

    asyncio.run(run())


def test_many_who_wait_for_keys_cause_one_request(key_server: KeyServer) -> None:
    key_server.delay = 0.2

    async def run() -> None:
        keys = Fetching(key_server.url)
        assert await asyncio.gather(*[keys.knows() for _ in range(20)]) == [None] * 20
        assert len(key_server.asked) == 1

    asyncio.run(run())


def test_a_caller_that_goes_away_does_not_end_the_fetch(key_server: KeyServer) -> None:
    key_server.delay = 0.2

    async def run() -> None:
        keys = Fetching(key_server.url)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await keys.knows()
        assert await keys.knows() is None
        assert len(key_server.asked) == 1

    asyncio.run(run())


def test_a_service_that_ends_ends_its_fetch(key_server: KeyServer) -> None:
    key_server.delay = 0.3

    async def run() -> None:
        keys = Fetching(key_server.url)
        waiting = asyncio.create_task(keys.knows())
        await asyncio.sleep(0.05)
        start = time.monotonic()
        await keys.auth.aclose()
        assert time.monotonic() - start < 0.2
        assert await waiting == "unknown-key"

    asyncio.run(run())


def test_old_keys_are_fetched_again_while_nobody_waits(key_server: KeyServer) -> None:
    async def run() -> None:
        keys = Fetching(key_server.url)
        assert await keys.knows() is None
        key_server.delay = 0.3
        keys.clock.now += 601
        start = time.monotonic()
        assert await keys.knows() is None
        assert time.monotonic() - start < 0.2
        await asyncio.sleep(0.5)
        assert len(key_server.asked) == 2
        assert await keys.knows() is None
        assert len(key_server.asked) == 2

    asyncio.run(run())


def broken(**changes: Any) -> Callable[[KeyServer], None]:
    def change(server: KeyServer) -> None:
        for name, value in changes.items():
            setattr(server, name, value)

    return change


BROKEN = {
    "status 500": broken(status=500),
    "status 404": broken(status=404),
    "status 302": broken(status=302, headers={"Location": "/elsewhere"}),
    "status 307": broken(status=307, headers={"Location": "http://127.0.0.1:9/"}),
    "too large": broken(body=jwks(jwk("es")) + b" " * 300_000),
    "compressed": broken(body=gzip.compress(jwks(jwk("es"))), headers={"Content-Encoding": "gzip"}),
    "timeout": broken(delay=0.6),
    "is no JSON object (or has a member twice)": broken(body=b"<html>"),
    "keys[1] has the kid of another key": broken(body=jwks(jwk("es"), jwk("es"))),
    "keys[0] is secret (private or symmetric): public keys only": broken(
        body=jwks({"kty": "oct", "kid": "es", "k": "AAAA"})
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_keys_that_cannot_be_had_let_nobody_in(
    key_server: KeyServer, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    BROKEN[fault](key_server)

    async def run() -> None:
        keys = Fetching(key_server.url, seconds=0.3)
        assert [await keys.knows() for _ in range(3)] == ["unknown-key"] * 3
        assert key_server.asked == ["/keys"]

    asyncio.run(run())
    faults = [vars(r)["fields"]["fault"] for r in caplog.records if r.message == "jwks-unusable"]
    assert faults == [fault]


@pytest.mark.parametrize("fault", BROKEN)
def test_keys_that_were_had_hold_for_an_hour(key_server: KeyServer, fault: str) -> None:
    async def run() -> None:
        keys = Fetching(key_server.url, seconds=0.3)
        assert await keys.knows() is None
        BROKEN[fault](key_server)
        keys.clock.now += 3_599
        assert await keys.knows(kid="made-up") == "unknown-key"  # waits for the refresh
        assert len(key_server.asked) == 2
        assert await keys.knows() is None
        keys.clock.now += 1
        assert await keys.knows() == "unknown-key"

    asyncio.run(run())


def test_a_server_that_drips_is_given_up() -> None:
    """The limit is on all of it, not on the time between two bytes."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        try:
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)
        except OSError:
            writer.close()
            gone.set()

    gone = asyncio.Event()

    async def run() -> None:
        server = await asyncio.start_server(drip, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        start = time.monotonic()
        with pytest.raises(JwksUnavailable, match="timeout"):
            await HttpJwks(seconds=0.3)(f"http://127.0.0.1:{port}/")
        assert time.monotonic() - start < 2
        await gone.wait()
        server.close()

    asyncio.run(run())


def test_a_fetch_sends_nothing_that_is_secret(
    key_server: KeyServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password canary")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")

    async def run() -> None:
        assert await Fetching(key_server.url).knows() is None

    asyncio.run(run())
    (sent,) = key_server.seen
    assert "authorization" not in sent
    assert "canary" not in str(sent)


def test_the_configured_jku_may_stand_in_the_token(key_server: KeyServer) -> None:
    async def run() -> None:
        assert await Fetching(key_server.url).knows(jku=key_server.url) is None

    asyncio.run(run())


@pytest.mark.parametrize("configured", ["jku", "file", "both"])
def test_another_jku_causes_no_request_at_all(
    key_server: KeyServer, key_file: Path, configured: str
) -> None:
    attacker = KeyServer()
    attacker.body = jwks({**jwk("es-new"), "kid": "es"})
    given: dict[str, Any] = {
        "jku": {"jku": key_server.url},
        "file": {"jwks_file": key_file},
        "both": {"jku": key_server.url, "jwks_file": key_file},
    }[configured]
    auth = Authenticator(
        demo_with(Client(iss=ISS, **given)), _First(), HttpJwks(), clock=lambda: NOW
    )
    jkus: list[object] = [
        attacker.url,
        key_server.url + "/",
        key_server.url + "#",
        key_server.url.replace("127.0.0.1", "localhost"),
        key_server.url + "?x=" + attacker.url,
        "file:///etc/passwd",
        "",
        None,
        [key_server.url],
    ]

    async def run() -> None:
        for jku in jkus:
            for key in ("es", "es-new"):
                made = signed(header_of("es", jku=jku), claims_of(), key)
                with pytest.raises(Unauthorized) as refused:
                    await auth.check(f"Bearer {made}", URL)
                assert refused.value.cause == "jku"

    try:
        asyncio.run(run())
    finally:
        attacker.close()
    assert attacker.asked == []
    assert key_server.asked == []


def test_a_client_with_a_file_is_never_asked(key_server: KeyServer, key_file: Path) -> None:
    settings = demo_with(Client(iss=ISS, jku=key_server.url, jwks_file=key_file))
    auth = Authenticator(settings, _First(), HttpJwks(), clock=lambda: NOW)
    assert checked(auth, token(header={"jku": key_server.url})).iss == ISS
    assert cause(auth, token(header={"kid": "made-up"})) == "unknown-key"
    assert key_server.asked == []


def test_an_unknown_issuer_causes_no_request(key_server: KeyServer) -> None:
    async def run() -> None:
        keys = Fetching(key_server.url)
        with pytest.raises(Unauthorized):
            await keys.auth.check(f"Bearer {token(iss='https://evil.example')}", URL)
        assert await keys.knows(alg="HS256") == "algorithm"
        assert await keys.knows(typ="x") == "type"

    asyncio.run(run())
    assert key_server.asked == []


@pytest.mark.parametrize("jku", ["http://ehr.example.org/keys", "file:///etc/keys.json"])
def test_in_production_a_jku_is_https(replays: Replays, jku: str) -> None:
    # Past the validation of settings, which refuses it too.
    client = Client.model_construct(
        iss=ISS, jwks_file=None, jku=jku, algorithms=("ES384",), tenants=()
    )
    settings = settings_with().model_copy(update={"clients": (client,)})
    with pytest.raises(UsageError, match="https"):
        Authenticator(settings, replays, no_fetch)


def certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "tls.pem", folder / "tls.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


def test_only_a_server_that_the_system_trusts_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, key = certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(chain, key)
    server = KeyServer(tls)
    try:
        with pytest.raises(JwksUnavailable, match="ConnectError"):
            asyncio.run(HttpJwks()(server.url))
        assert server.asked == []
        monkeypatch.setenv("SSL_CERT_FILE", os.fspath(chain))
        assert asyncio.run(HttpJwks()(server.url)) == server.body
    finally:
        server.close()
