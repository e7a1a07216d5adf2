"""Calls from browsers (CH-143), against a real server."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from ops_server import Running, serving

EHR = "https://ehr.example.org"
OTHERS = ["https://evil.example.org", "null", "https://ehr.example.org.evil.org", EHR + "/", "*"]
ASKED = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(cors_origins=[EHR, "http://localhost:3000"]) as found:
        yield found


def of_cors(answer: httpx.Response) -> dict[str, str]:
    return {k: v for k, v in answer.headers.items() if k.startswith("access-control-")}


@pytest.mark.parametrize("origin", [EHR, "http://localhost:3000"])
def test_a_preflight_of_a_named_origin_is_answered_without_a_token(
    running: Running, origin: str
) -> None:
    answer = httpx.options(running.url + "/call/p", headers={"Origin": origin, **ASKED})
    assert (answer.status_code, answer.content) == (204, b"")
    found = of_cors(answer)
    assert found.pop("access-control-allow-origin") == origin
    assert {"authorization", "content-type"} <= set(
        found["access-control-allow-headers"].split(", ")
    )
    assert found["access-control-allow-methods"] == "GET, POST, OPTIONS"
    assert "access-control-allow-credentials" not in found
    assert answer.headers["vary"] == "Origin"


@pytest.mark.parametrize("origin", OTHERS)
def test_a_preflight_of_another_origin_is_refused(running: Running, origin: str) -> None:
    answer = httpx.options(running.url + "/call/p", headers={"Origin": origin, **ASKED})
    assert answer.status_code == 403
    assert of_cors(answer) == {}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/call/p", 200),
        ("/unauthorized", 401),
        ("/refusing/400", 400),
        ("/refusing/412", 412),
        ("/refusing/503", 503),
        ("/failing", 500),
        ("/nowhere", 404),
    ],
)
def test_a_page_of_a_named_origin_can_read_every_answer(
    running: Running, path: str, status: int
) -> None:
    answer = httpx.post(running.url + path, headers={"Origin": EHR}, content=b"[]")
    assert answer.status_code == status
    found = of_cors(answer)
    assert found["access-control-allow-origin"] == EHR
    assert "x-request-id" in found["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in found
    assert "Origin" in answer.headers["vary"]


@pytest.mark.parametrize("origin", [*OTHERS, None])
def test_no_other_page_can(running: Running, origin: str | None) -> None:
    headers = {"Origin": origin} if origin else {}
    answer = httpx.post(running.url + "/call/p", headers=headers, content=b"[]")
    assert answer.status_code == 200
    assert of_cors(answer) == {}
    assert "Origin" in answer.headers["vary"]  # for caches between


def test_a_plain_options_is_no_preflight(running: Running) -> None:
    assert httpx.options(running.url + "/call/p").status_code == 405


def test_nothing_of_it_is_there_where_no_origin_is_named() -> None:
    with serving() as running:
        preflight = httpx.options(running.url + "/call/p", headers={"Origin": EHR, **ASKED})
        answer = httpx.post(running.url + "/call/p", headers={"Origin": EHR}, content=b"[]")
    assert preflight.status_code == 405
    assert of_cors(preflight) == of_cors(answer) == {}
