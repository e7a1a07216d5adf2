"""What stands in the log and in the figures, and that no patient data and no token ever does."""

from __future__ import annotations

import base64
import json
import logging
import re
import socket
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hook_records import bundle, fasciculation, order, potassium
from ops_server import Running, serving

from cds.errors import UsageError
from cds.service.requestlog import JsonFormatter

KEY = ec.generate_private_key(ec.SECP384R1())
ISS = "https://ehr.example.org"
OPERATOR = "operator-0123456789"
SERVICE = "twitching-patient-view"

CANARY = "canary"
"""Stands in everything that is the patient's, secret, or free text."""
COMMENT = "kanarie"
"""Stands in what a user wrote: kept in the database and nowhere else."""
USER = "serinus"
"""Stands in the id of the user: kept in the database for the audit, not logged."""


# ---------------------------------------------------------------- lines


def line_of(name: str, message: str, *args: object, error: Exception | None = None) -> Any:
    info = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord(name, logging.ERROR, "/a/b.py", 7, message, args, info)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    return json.loads(text)


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    try:
        raise error from cause
    except Exception as caught:
        return caught


def test_a_line_of_ours_has_its_message() -> None:
    line = line_of("cds.service.x", "stopped %s", "soon")
    assert line["message"] == "stopped soon"
    assert (line["level"], line["logger"]) == ("error", "cds.service.x")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["time"])


def test_a_line_of_another_library_has_only_its_place() -> None:
    line = line_of("httpx", "GET https://a/Patient?name=%s", CANARY)
    assert line["at"] == "b.py:7"
    assert CANARY not in json.dumps(line)


def test_an_exception_has_its_type_and_its_way_but_no_text() -> None:
    error = raised(ValueError(CANARY), KeyError(CANARY))
    line = line_of("cds.service.x", "failed", error=error)
    assert (line["error"], line["after"]) == ("ValueError", "KeyError")
    assert line["trace"][-1].endswith(" raised")
    assert CANARY not in json.dumps(line)


def test_an_error_of_ours_keeps_its_text() -> None:
    line = line_of("cds.service.x", "failed", error=raised(UsageError("no folder")))
    assert line["reason"] == "no folder"


def test_a_traceback_that_comes_as_text_is_cut_to_its_kind() -> None:
    text = f"Traceback (most recent call last):\n  File x\nsqlalchemy.exc.Error: {CANARY}\n"
    assert line_of("uvicorn.error", text)["message"] == "sqlalchemy.exc.Error"


def test_arguments_that_do_not_fit_are_not_shown() -> None:
    assert CANARY not in json.dumps(line_of("cds.service.x", "%d", CANARY))


def test_nothing_is_printed_past_the_log() -> None:
    program = f"""
import logging, sys, threading, warnings
from cds.service.requestlog import configure
configure("debug")
class Bad:
    def __str__(self): raise RuntimeError("{CANARY}")
    def __del__(self): raise ValueError("{CANARY}")
logging.getLogger("cds.service").error("%s", Bad())
logging.getLogger("httpx").info("{CANARY}")
logging.getLogger("uvicorn.access").info("{CANARY}")
warnings.warn("{CANARY}")
def fail(): raise ValueError("{CANARY}")
thread = threading.Thread(target=fail); thread.start(); thread.join()
fail()
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert CANARY not in done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    messages = [line.get("message", line["logger"]) for line in lines]
    assert messages[-3:] == [
        "py.warnings",
        "a thread ended with an exception",
        "the process ends with an exception",
    ]
    assert "an exception could not be raised" in messages


# ---------------------------------------------------------------- requests


@pytest.fixture(scope="module")
def plain() -> Iterator[Running]:
    with serving() as running:
        yield running


def logged(running: Running, request_id: str) -> dict[str, Any]:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        for line in running.log:
            if line.get("request_id") == request_id and line.get("message") == "request":
                return line
        time.sleep(0.05)
    raise AssertionError("the request is not in the log")


def test_each_request_has_one_line(plain: Running) -> None:
    answer = httpx.post(f"{plain.url}/call/{CANARY}?q={CANARY}", content=b"[]")
    line = logged(plain, answer.headers["x-request-id"])
    assert line.pop("time")
    assert 0 < line.pop("ms") < 10_000
    assert line == {
        "level": "info",
        "logger": "cds.service.requests",
        "message": "request",
        "request_id": answer.headers["x-request-id"],
        "method": "POST",
        "path": "/call/{patient}",
        "status": 200,
        "service": "twitching",
        "iss": ISS,
    }


@pytest.mark.parametrize(
    ("sent", "taken"),
    [
        ("0b0e6f9c-7d7c-4f0e-9a40-0d5b5e1f1a11", True),
        ("4BF92F3577B34DA6A3CE929D0E0E4736", True),
        (CANARY, False),
        ("12345", False),
        ("a" * 65, False),
        ("aaaaaaaaaaaaaaaa bbbb", False),
        ('aaaaaaaaaaaaaaaa"', False),
    ],
)
def test_an_id_that_can_only_be_an_id_is_taken(plain: Running, sent: str, taken: bool) -> None:
    answer = httpx.get(plain.url + "/health/live", headers={"X-Request-Id": sent})
    found = answer.headers["x-request-id"]
    assert (found == sent) is taken
    assert re.fullmatch(r"[0-9A-Fa-f-]{16,64}", found)


def test_an_unhandled_exception_is_answered_and_logged(plain: Running) -> None:
    answer = httpx.post(plain.url + "/failing", content=CANARY.encode())
    assert answer.status_code == 500
    assert answer.json()["resourceType"] == "OperationOutcome"
    line = logged(plain, answer.headers["x-request-id"])
    assert (line["level"], line["words"]) == ("error", ["unhandled"])
    failure = [x for x in plain.log if x.get("message") == "unhandled exception"][-1]
    assert failure["request_id"] == answer.headers["x-request-id"]
    assert failure["error"] == "ValueError"
    assert failure["trace"][-1].endswith(" failing")


def test_a_client_that_goes_away_is_no_failure_of_ours(plain: Running) -> None:
    host, port = plain.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        head = "POST /call/p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n"
        rid = uuid.uuid4().hex
        client.sendall(f"{head}X-Request-Id: {rid}\r\n\r\n[".encode())
        time.sleep(0.2)
    line = logged(plain, rid)
    assert (line["status"], line["level"]) == (499, "info")


def test_figures_are_counted_by_service_path_and_status(plain: Running) -> None:
    before = figures(plain)
    for _ in range(3):
        httpx.post(f"{plain.url}/call/{CANARY}", content=b"[]")
    httpx.get(f"{plain.url}/{CANARY}")
    httpx.request("PROPFIND", f"{plain.url}/{CANARY}")
    after = figures(plain)

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert grown('cds_calls_total{service="twitching",status="200"}') == 3
    assert grown('cds_call_seconds_count{service="twitching"}') == 3
    assert grown('cds_http_requests_total{path="/call/{patient}",status="200"}') == 3
    assert grown('cds_http_requests_total{path="?",status="404"}') == 2
    assert CANARY not in "".join(after)


def figures(running: Running, **headers: str) -> dict[str, float]:
    answer = httpx.get(running.url + "/metrics", headers=headers)
    assert answer.status_code == 200
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_figures_are_for_this_machine_and_not_for_what_is_forwarded_to_it(plain: Running) -> None:
    for name in ("X-Forwarded-For", "Forwarded", "X-Forwarded-Host"):
        answer = httpx.get(plain.url + "/metrics", headers={name: "for=203.0.113.9"})
        assert (answer.status_code, answer.content) == (401, b"")


# ---------------------------------------------------------------- the whole service


def signed(path: str, url: str, **changes: Any) -> str:
    now = int(time.time())
    claims = {
        "iss": ISS,
        "aud": url + path,
        "iat": now,
        "exp": now + 300,
        "jti": str(uuid.uuid4()),
        "sub": f"{CANARY}-subject",
        **changes,
    }
    return jwt.encode(claims, KEY, algorithm="ES384", headers={"kid": "1"})


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="module")
def service(records: Path) -> Iterator[Running]:
    public = jwt.algorithms.ECAlgorithm.to_jwk(KEY.public_key(), as_dict=True)
    (records / "keys.json").write_text(json.dumps({"keys": [{**public, "kid": "1"}]}))
    (records / "token").write_text(OPERATOR)
    client = {
        "iss": ISS,
        "jwks_file": str(records / "keys.json"),
        "client_id": "cds",
        "fhir_servers": ["http://127.0.0.1:9/fhir"],  # nobody answers there
    }
    with serving(
        "failing_service",
        auth="required",
        clients=[client],
        database_url=f"sqlite:///{records}/cds.db",
        operator_token_file=str(records / "token"),
        body_limit_bytes=200_000,
        log_level="debug",
    ) as running:
        yield running


def patient(**more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Patient",
        "id": f"{CANARY}-id",
        "gender": "female",
        "birthDate": "1960-01-01",
        "name": [{"family": f"{CANARY}-name"}],
        "identifier": [{"system": f"urn:{CANARY}", "value": f"{CANARY}-mrn"}],
        **more,
    }


def request(hook: str = "patient-view", **changes: Any) -> dict[str, Any]:
    subject = {"reference": f"Patient/{CANARY}-id"}
    more = {"subject": subject, "note": [{"text": f"{CANARY}-note"}]}
    draft = order("5487", subject=subject, note=[{"text": f"{CANARY}-draft"}])
    context = {"userId": f"Practitioner/{USER}", "patientId": f"{CANARY}-id"}
    if hook == "order-sign":
        context["draftOrders"] = bundle(draft)  # type: ignore[assignment]
    return {
        "hook": hook,
        "hookInstance": str(uuid.uuid4()),
        "fhirServer": f"http://127.0.0.1:9/fhir/{CANARY}",
        "fhirAuthorization": {
            "access_token": f"{CANARY}-access-token",
            "token_type": "Bearer",
            "expires_in": 300,
            "scope": "user/*.read",
            "subject": "cds",
        },
        "context": context,
        "prefetch": {
            "patient": patient(),
            "laboratory": bundle(
                potassium(2.1, **more),
                potassium(3.1, days=3, valueString=f"{CANARY}-value", **more),
            ),
            "signs": bundle(),
            "conditions": bundle(fasciculation(subject=subject, note=more["note"])),
            "medicationStatements": None,
            "medicationRequests": None,
            "questionnaireResponses": None,
            f"{CANARY}-key": {"resourceType": f"{CANARY}-type"},
        },
        "extension": {f"{CANARY}.extension": CANARY},
        **changes,
    }


def send(
    service: Running, path: str, body: object, *, token: str | None = None, **more: str
) -> httpx.Response:
    head = {
        "Content-Type": "application/json",
        "Authorization": f"Bearer {token or signed(path, service.url)}",
        "X-Request-Id": f"{CANARY}-request",
        "X-Forwarded-For": f"{CANARY}-address",
        "User-Agent": f"{CANARY}-agent",
        "Cookie": f"{CANARY}-cookie=1",
        **more,
    }
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    query = f"?q={CANARY}-query"
    return httpx.post(service.url + path + query, content=content, headers=head, timeout=60)


def test_no_canary_gets_out(service: Running, records: Path) -> None:
    path = f"/cds-services/{SERVICE}"
    url = service.url
    tokens: list[str] = []

    def token(of: str = path, **changes: Any) -> str:
        tokens.append(signed(of, url, **changes))
        return tokens[-1]

    shown = send(service, path, request(), token=token())
    assert shown.status_code == 200
    cards = shown.json()["cards"]
    assert cards, "without cards this would show little"
    signing = "/cds-services/twitching-order-sign"
    assert send(service, signing, request("order-sign")).status_code == 200

    without_patient = request()
    del without_patient["prefetch"]["patient"]
    elsewhere = request(fhirServer=f"http://{CANARY}.example.org/fhir")
    del elsewhere["prefetch"]["patient"]
    exploding = request()
    exploding["prefetch"]["patient"]["identifier"][0]["value"] = f"{CANARY} explode"
    exploding["prefetch"]["patient"]["id"] = exploding["context"]["patientId"] = f"{CANARY}-explode"
    for lab in exploding["prefetch"]["laboratory"]["entry"]:
        lab["resource"]["subject"]["reference"] = f"Patient/{CANARY}-explode"
    feedback = {
        "card": cards[0]["uuid"],
        "outcome": "overridden",
        "outcomeTimestamp": "2026-11-01T00:00:00Z",
        "overrideReason": {"userComment": f"{COMMENT} {COMMENT}"},
    }
    bad = {**feedback, "outcome": CANARY, "overrideReason": {"userComment": COMMENT}}
    other = "/cds-services/" + f"{CANARY}-service"
    wrong_patient = request(context={"userId": f"Practitioner/{USER}", "patientId": [CANARY]})
    wrong_value = request()
    wrong_value["prefetch"]["laboratory"] = f"{CANARY}-text"

    cases: list[tuple[int, httpx.Response]] = [
        (400, send(service, path, f'{{"{CANARY}": '.encode())),
        (400, send(service, path, [CANARY])),
        (400, send(service, path, request(hook=CANARY))),
        (400, send(service, path, request(hookInstance=CANARY))),
        (400, send(service, path, request(fhirServer=CANARY))),
        (400, send(service, path, wrong_patient)),
        (400, send(service, path, wrong_value)),
        (400, send(service, path, b"[" * 100 + CANARY.encode())),
        (401, send(service, path, request(), token=token(aud=CANARY))),
        (401, send(service, path, request(), token=token(iss=CANARY))),
        (401, send(service, path, request(), token=token() + "x")),
        (401, send(service, path, request(), token=f"{CANARY}.{CANARY}.{CANARY}")),
        (401, send(service, path, request(), token=tokens[0])),
        (404, send(service, other, request())),
        (404, send(service, f"/cds-services/{CANARY}/%00{CANARY}/feedback", request())),
        (404, send(service, f"/{CANARY}/{CANARY}", request())),
        (400, httpx.request(CANARY.upper(), url + path)),
        (405, httpx.request("PROPFIND", url + path)),
        (412, send(service, path, without_patient)),
        (412, send(service, path, elsewhere)),
        (413, send(service, path, f'"{CANARY * 40_000}"'.encode())),
        (415, send(service, path, request(), **{"Content-Type": CANARY})),
        (415, send(service, path, request(), **{"Content-Encoding": CANARY})),
        (500, send(service, path, exploding)),
        (500, send(service, f"/unhandled/{CANARY}", request())),
        (400, send(service, path + "/feedback", {"feedback": [bad]})),
        (200, send(service, path + "/feedback", {"feedback": [feedback]})),
    ]
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as client:
        client.sendall(f"{CANARY} / HTTP/9.9 {CANARY}\r\n{CANARY}: {CANARY}\r\n\r\n".encode())
        assert client.recv(2_000).startswith(b"HTTP/1.1 400 ")
    found = figures(service, Authorization=f"Bearer {OPERATOR}")
    assert [answer.status_code for _, answer in cases] == [status for status, _ in cases]
    assert service.stopped() == 0

    secret = [CANARY, COMMENT, USER, OPERATOR]
    secret += [part for token in tokens for part in token.split(".")[1:]]
    secret += [base64.urlsafe_b64encode(CANARY.encode()).decode().rstrip("=")]

    def clean(text: str, besides: tuple[str, ...] = ()) -> None:
        small = text.lower()
        assert [word for word in secret if word.lower() in small and word not in besides] == []

    for status, answer in cases:
        if status >= 400:
            clean(answer.text + str(answer.headers.multi_items()))
    clean(service.stdout)
    clean(service.stderr)
    clean("\n".join(found))
    kept = b"".join(file.read_bytes() for file in records.glob("cds.db*")).decode("latin1")
    clean(kept, besides=(COMMENT, USER))
    with sqlite3.connect(records / "cds.db") as database:
        dump = "\n".join(database.iterdump())
    clean(dump, besides=(COMMENT, USER))
    assert COMMENT in dump

    # And it is all there that may be.
    lines = [line for line in service.log if line.get("message") == "request"]
    statuses = {line["status"] for line in lines}
    assert statuses >= {200, 400, 401, 404, 405, 412, 413, 415, 500}
    assert {line.get("path") for line in lines} >= {"/cds-services/{service_id}", "?"}
    assert {line["words"][0] for line in lines if line["status"] == 401} >= {"audience", "replay"}
    assert found[f'cds_calls_total{{service="{SERVICE}",status="412"}}'] == 2
    assert found['cds_cards_total{indicator="critical"}'] >= 1
    assert sum(v for k, v in found.items() if k.startswith("cds_unauthorized_total")) == 5
    assert any(k.startswith("cds_fetches_total{") for k in found)
    assert found["cds_failures_total"] == 2
