"""What a caller may ask at most (CH-63), against a real server; and how nesting is found."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ops_server import Running, serving

from cds.service.limits import nested_within, resources_in
from cds.service.server import HEAD_BYTES

LIMIT = 100_000


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    limits = {
        "body_limit_bytes": LIMIT,
        "depth_limit": 20,
        "call_timeout_seconds": 1.5,
        "fetch_timeout_seconds": 1,
        "concurrent_calls_limit": 4,
    }
    with serving(**limits) as found:
        yield found


def connect(running: Running) -> socket.socket:
    parts = urlsplit(running.url)
    assert parts.hostname
    return socket.create_connection((parts.hostname, parts.port or 0), timeout=20)


def assert_outcome(answer: httpx.Response, status: int, code: str) -> None:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    outcome = answer.json()
    assert outcome["resourceType"] == "OperationOutcome"
    assert [issue["code"] for issue in outcome["issue"]] == [code]
    assert answer.headers["x-request-id"] in outcome["issue"][0]["diagnostics"]


# ---------------------------------------------------------------- size


@pytest.mark.parametrize(
    ("size", "status"), [(0, 400), (2, 200), (LIMIT, 200), (LIMIT + 1, 413), (50 * LIMIT, 413)]
)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_may_have_so_many_bytes(
    running: Running, size: int, status: int, chunked: bool
) -> None:
    body = b"[" + b" " * (size - 2) + b"]" if size else b""
    parts = (body[i : i + 7_000] for i in range(0, size, 7_000))
    answer = httpx.post(running.url + "/call/p", content=parts if chunked else body)
    if status == 413:
        assert_outcome(answer, 413, "too-long")
    elif size:
        assert answer.json()["bytes"] == size


def test_a_body_that_is_said_to_be_too_large_is_not_waited_for(running: Running) -> None:
    with connect(running) as client:
        head = f"POST /call/p HTTP/1.1\r\nHost: a\r\nContent-Length: {LIMIT + 1}\r\n\r\n"
        client.sendall(head.encode())
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")


def test_an_encoded_body_is_refused(running: Running) -> None:
    answer = httpx.post(running.url + "/call/p", content=b"x", headers={"Content-Encoding": "gzip"})
    assert_outcome(answer, 415, "not-supported")


# ---------------------------------------------------------------- nesting


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"\\"]":'])
@pytest.mark.parametrize("deep", [21, 10_000])
def test_a_deep_body_is_refused(running: Running, opening: str, deep: int) -> None:
    closing = {"[": "]", '{"a":': "}", '[{"\\"]":': "}]"}[opening]
    times = deep // len(closing) + 1
    body = opening * times + "1" + closing * times
    assert_outcome(httpx.post(running.url + "/call/p", content=body), 400, "structure")


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


TEXTS = st.text(alphabet='[]{}"\\ab,:é', max_size=8)
VALUES = st.recursive(
    TEXTS | st.integers() | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=20,
)


@given(VALUES, st.booleans(), st.integers(0, 2))
@example([["]"], "[", {"\\": '"]['}], True, 0)
@example([["\\"], ["\\\\"], '\\"'], False, 1)
def test_nesting_is_found_as_a_parser_would_find_it(value: Any, spaced: bool, off: int) -> None:
    body = json.dumps(value, ensure_ascii=spaced, indent=1 if spaced else None).encode()
    deepest = depth(orjson.loads(body))
    limit = max(1, deepest - 1 + off)
    assert nested_within(body, limit) is (deepest <= limit)


def test_what_is_no_json_is_never_taken_for_flat() -> None:
    for body in (b"[" * 10_000, b"[[]" * 10_000, b'["]' * 9_999, b"[" * 21):
        assert not nested_within(body, 20)


# ---------------------------------------------------------------- how many


def test_resources_are_counted_wherever_they_are() -> None:
    patient = {"resourceType": "Patient"}
    bundle = {"resourceType": "Bundle", "entry": [{"resource": patient}, {"resource": patient}]}
    nested = {"resourceType": "Bundle", "entry": [{"resource": bundle}]}
    body = {
        "context": {"patientId": "p", "draftOrders": bundle, "selections": ["a/b"]},
        "prefetch": {"a": patient, "b": nested, "c": None, "d": {"entry": "x"}, "e": [patient]},
    }
    assert resources_in(body) == 2 + 1 + 3 + 1
    assert resources_in({"prefetch": [], "context": None}) == 0


# ---------------------------------------------------------------- time


def test_a_body_that_does_not_come_is_not_waited_for(running: Running) -> None:
    with connect(running) as client:
        client.sendall(b"POST /call/p HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n[")
        begun = time.monotonic()
        answer = client.recv(2_000)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"code":"timeout"' in answer + client.recv(2_000)
        assert 1 < time.monotonic() - begun < 5
        assert client.recv(100) == b""


def test_an_answer_that_does_not_come_is_503(running: Running) -> None:
    answer = httpx.post(running.url + "/wait?seconds=20", timeout=30)
    assert_outcome(answer, 503, "timeout")
    assert answer.headers["retry-after"]


@pytest.mark.parametrize("before", [False, True])
def test_a_head_that_does_not_come_is_not_waited_for(running: Running, before: bool) -> None:
    with connect(running) as client:
        if before:  # also on a connection that has served a request
            client.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = client.recv(2_000)
            assert answer.startswith(b"HTTP/1.1 200 ")
            while not answer.endswith(b"}"):  # head and body may come apart
                answer += client.recv(2_000)
        client.sendall(b"GET /health/live HTTP/1.1\r\n")
        begun = time.monotonic()
        assert client.recv(100) == b""
        assert 1 < time.monotonic() - begun < 8


def test_a_head_may_be_so_long(running: Running) -> None:
    line = b"X-Long: " + b"a" * 1_000 + b"\r\n"
    with connect(running) as client:
        few = line * 30
        client.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n" + few + b"\r\n")
        assert client.recv(2_000).startswith(b"HTTP/1.1 200 ")
    with connect(running) as client:
        client.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n")
        try:
            for _ in range(HEAD_BYTES // len(line) * 4):
                client.sendall(line)
                time.sleep(0.001)
            last = client.recv(100)
        except ConnectionError:
            last = b""
        assert last == b""


def test_requests_on_one_connection_are_answered_in_turn(running: Running) -> None:
    parts = urlsplit(running.url)
    client = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    for size in (10, 60_000, 20):
        client.request("POST", "/call/p", body=b"[" + b" " * size + b"]")
        answer = client.getresponse()
        assert json.loads(answer.read())["bytes"] == size + 2
    client.close()


# ---------------------------------------------------------------- at once


def test_so_many_calls_are_answered_at_once(running: Running) -> None:
    statuses: list[int] = []
    answers: list[httpx.Response] = []

    def call() -> None:
        answer = httpx.post(running.url + "/wait?seconds=1", timeout=30)
        statuses.append(answer.status_code)
        answers.append(answer)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    # What is no call is answered all the same.
    assert httpx.get(running.url + "/health/live").status_code == 200
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] * 4 + [503] * 4
    for answer in answers:
        if answer.status_code == 503:
            assert_outcome(answer, 503, "throttled")
            assert answer.headers["retry-after"] == "1"
    # And the places are free again.
    assert httpx.post(running.url + "/wait?seconds=0").status_code == 200
