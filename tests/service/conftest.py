"""What tests of the service share: one running server, and `Calls` without a server."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hook_records import HOOK_INSTANCE, PATIENT, Answer, Demo, Json
from ops_server import Running, free_port

from cds import load_rulesets
from cds.rules import Rulesets
from cds.screening import Screener
from cds.service.auth import Caller
from cds.service.calls import Calls
from cds.service.settings import Settings


@pytest.fixture(scope="session")
def server() -> Iterator[Demo]:
    """The real server as a process of its own, without authentication; `url` is its address."""
    port = free_port()
    command = [sys.executable, "-m", "cds", "serve", "--insecure-demo", "--port", str(port)]
    with Running(command, f"http://127.0.0.1:{port}") as running:
        demo = Demo(running)
        yield demo
        demo.client.close()


@pytest.fixture(scope="session")
def rulesets() -> Rulesets:
    return load_rulesets()


@pytest.fixture(scope="session")
def screener(rulesets: Rulesets) -> Screener:
    return Screener(rulesets)


@pytest.fixture(scope="session")
def calls(rulesets: Rulesets, screener: Screener) -> Calls:
    """Answers calls in this process: nothing is recorded, nothing is read elsewhere."""
    return Calls(Settings(insecure_demo=True), rulesets, screener, None, None)


@pytest.fixture(scope="session")
def answer(calls: Calls) -> Answer:
    """Answer one hook call; a `Refusal` goes through."""

    def one(body: Json, **more: Any) -> Json:
        service = f"twitching-{body['hook']}"
        found = asyncio.run(calls.answer(service, body, Caller.anonymous, "r1", **more))
        answered: Json = orjson.loads(found.payload)
        return answered

    return one


@pytest.fixture(scope="session")
def request_of(calls: Calls) -> Answer:
    """Make a request: `prefetch` by key, null for all others, `leave_out` for keys not sent."""

    def one(
        hook: str = "patient-view",
        context: Json | None = None,
        *,
        leave_out: tuple[str, ...] = (),
        **prefetch: object,
    ) -> Json:
        values: Json = dict.fromkeys(calls.discovery.prefetch(datetime.now(UTC)))
        values["patient"] = PATIENT
        values.update(prefetch)
        return {
            "hook": hook,
            "hookInstance": HOOK_INSTANCE,
            "context": {"userId": "Practitioner/a", "patientId": "p1", **(context or {})},
            "prefetch": {k: v for k, v in values.items() if k not in leave_out},
        }

    return one
