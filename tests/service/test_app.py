"""The application with authentication and a base path, in this process."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hook_records import Answer

from cds.rules import Rulesets
from cds.service.app import create_app
from cds.service.settings import Settings

ISS = "https://ehr.example.org"
URL = "https://cds.example.org/base"
KEY = ec.generate_private_key(ec.SECP384R1())


def token(path: str, **changes: Any) -> dict[str, str]:
    now = int(time.time())
    claims = {"iss": ISS, "aud": f"{URL}{path}", "iat": now, "exp": now + 300, "jti": str(uuid4())}
    made = jwt.encode({**claims, **changes}, KEY, "ES384", headers={"kid": "k1"})
    return {"authorization": f"Bearer {made}"}


@pytest.fixture
def asked(rulesets: Rulesets, tmp_path: Path) -> Callable[..., list[httpx.Response]]:
    """Ask the application in turn: (method, path, headers, body)."""
    jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(KEY.public_key()))
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [{**jwk, "kid": "k1", "alg": "ES384"}]}))

    def run(*requests: tuple[str, str, dict[str, str], Any], **more: Any) -> list[httpx.Response]:
        settings = Settings(
            insecure_demo=True,
            auth="required",
            base_path="/base",
            public_url=URL,
            clients=[{"iss": ISS, "jwks_file": keys}],
            database_url=f"sqlite:///{tmp_path}/a.db",
            **more,
        )
        app = create_app(settings, rulesets=rulesets)

        async def ask() -> list[httpx.Response]:
            transport = httpx.ASGITransport(app)
            async with (
                app.router.lifespan_context(app),
                httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
            ):
                return [
                    await client.request(method, f"/base{path}", headers=headers, json=body)
                    for method, path, headers, body in requests
                ]

        work: Coroutine[Any, Any, list[httpx.Response]] = ask()
        return asyncio.run(work)

    return run


VIEW = "/cds-services/twitching-patient-view"


def test_a_call_needs_a_token_for_its_own_address(
    asked: Callable[..., list[httpx.Response]], request_of: Answer
) -> None:
    body = request_of()
    once = token(VIEW)
    answers = asked(
        ("GET", "/cds-services", {}, None),
        ("GET", "/cds-services", token("/cds-services"), None),
        ("POST", VIEW, {}, body),
        ("POST", VIEW, once, body),
        ("POST", VIEW, once, body),  # a token is for one call
        ("POST", VIEW, token("/cds-services"), body),
        ("POST", f"{VIEW}/feedback", token(VIEW), {"feedback": []}),
        ("POST", f"{VIEW}/feedback", token(f"{VIEW}/feedback"), {"feedback": []}),
        ("POST", "/cds-services/other", {}, body),
        ("POST", "/cds-services/other", token("/cds-services/other"), body),
    )
    assert [a.status_code for a in answers] == [401, 200, 401, 200, 401, 401, 401, 200, 401, 404]
    for answer in answers:
        if answer.status_code == 401:
            assert answer.content == b""
            assert answer.headers["www-authenticate"] == "Bearer"


def test_discovery_can_be_open(asked: Callable[..., list[httpx.Response]]) -> None:
    discovery, call = asked(
        ("GET", "/cds-services", {}, None), ("POST", VIEW, {}, {}), open_discovery=True
    )
    assert (discovery.status_code, call.status_code) == (200, 401)


def test_too_many_resources_are_refused(
    asked: Callable[..., list[httpx.Response]], request_of: Answer
) -> None:
    entries = [{"resource": {"resourceType": "Observation", "id": f"o{n}"}} for n in range(30)]
    body = request_of(laboratory={"resourceType": "Bundle", "entry": entries})
    (found,) = asked(("POST", VIEW, token(VIEW), body), entry_limit=20)
    assert found.status_code == 413
