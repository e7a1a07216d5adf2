"""How the service is started, kept running and stopped: real processes, real signals, real TLS."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from ops_server import Running, free_port, serving

from cds.shipped import shipped

CDS = [sys.executable, "-m", "cds", "serve"]


def certificate(folder: Path, days: int = 1) -> tuple[Path, Path]:
    """Make a self-signed certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cds")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=10))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    paths = folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


def jwks(folder: Path) -> Path:
    import jwt

    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    found = jwt.algorithms.ECAlgorithm.to_jwk(key, as_dict=True)
    path = folder / "keys.json"
    path.write_text(json.dumps({"keys": [{**found, "kid": "1", "alg": "ES384", "use": "sig"}]}))
    return path


def production(folder: Path, port: int, **changes: Any) -> Path:
    """Write a configuration with which the service starts in production."""
    cert, key = certificate(folder)
    values = {
        "port": port,
        "public_url": f"https://127.0.0.1:{port}",
        "tls_certificate": str(cert),
        "tls_key": str(key),
        "database_url": f"sqlite:///{folder}/cds.db",
        **changes,
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items() if value is not None]
    client = f'[[clients]]\niss = "https://ehr.example.org"\njwks_file = "{jwks(folder)}"\n'
    file = folder / "cds.toml"
    file.write_text("\n".join(lines) + "\n" + client)
    return file


def refused(*options: str, env: dict[str, str] | None = None) -> str:
    """Return what a start says that is refused."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("CDS_SERVICE_")}
    done = subprocess.run(
        [*CDS, *options], capture_output=True, text=True, timeout=90, env={**clean, **(env or {})}
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    return done.stderr


# ---------------------------------------------------------------- refused


def test_production_without_tls_is_refused(tmp_path: Path) -> None:
    file = production(tmp_path, free_port(), tls_certificate=None, tls_key=None)
    assert "tls_certificate: production needs TLS" in refused("--config", str(file))


def test_production_without_tokens_is_refused(tmp_path: Path) -> None:
    file = production(tmp_path, free_port(), auth="off")
    assert 'auth: "off" is possible only with insecure_demo' in refused("--config", str(file))


def test_a_demo_for_others_is_refused() -> None:
    assert "option --host: " in refused("--insecure-demo", "--host", "0.0.0.0")  # noqa: S104


@pytest.fixture(scope="module")
def bad_rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rules that load, with an error that only lint finds."""
    folder = tmp_path_factory.mktemp("rules") / "rulesets"
    shutil.copytree(shipped("rulesets"), folder)
    (folder / "lint-accepted.yaml").write_text("accepted: 3\n")
    return folder


@pytest.mark.slow
def test_rules_that_fail_lint_are_refused_with_their_places(
    tmp_path: Path, bad_rules: Path
) -> None:
    env = {"CDS_SERVICE_RULESETS": str(bad_rules)}
    said = refused("--insecure-demo", "--port", str(free_port()), env=env)
    assert "the rules fail lint" in said
    assert str(bad_rules) in said
    assert ": error CDS" in said


def test_every_fault_of_a_start_is_said_at_once(tmp_path: Path) -> None:
    file = production(
        tmp_path,
        free_port(),
        database_url=f"sqlite:///{tmp_path}/no/such/folder/cds.db",
        operator_token_file=str(tmp_path / "no-token"),
        rulesets=[str(tmp_path / "no-rules")],
    )
    (tmp_path / "keys.json").write_text("{}")
    (tmp_path / "key.pem").write_text("no key")
    said = refused("--config", str(file), "--check")
    for word in ("tls_certificate: ", "keys.json", "no-token", "no-rules", "database_url: "):
        assert word in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_certificate_that_is_over_is_refused(tmp_path: Path) -> None:
    file = production(tmp_path, free_port())
    certificate(tmp_path, days=-1)
    assert "is no longer valid" in refused("--config", str(file), "--check")


@pytest.mark.slow
def test_production_that_nobody_may_call_is_refused(tmp_path: Path) -> None:
    file = production(tmp_path, free_port())
    file.write_text(file.read_text().partition("[[clients]]")[0])
    assert "clients: none is named" in refused("--config", str(file), "--check")


@pytest.mark.slow
def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port}: cannot be listened on" in refused(
            "--insecure-demo", "--port", str(port)
        )


@pytest.mark.slow
def test_what_can_start_is_said_so_and_nothing_is_left(tmp_path: Path) -> None:
    done = subprocess.run(
        [*CDS, "--insecure-demo", "--check"],
        capture_output=True,
        text=True,
        timeout=90,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0
    assert "the service can start" in done.stderr
    assert "INSECURE DEMO" in done.stderr
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- running


@pytest.fixture(scope="module")
def demo() -> Iterator[Running]:
    port = free_port()
    with Running([*CDS, "--insecure-demo", "--port", str(port)], f"http://127.0.0.1:{port}") as r:
        yield r


def test_a_demo_answers_and_says_what_it_is(demo: Running) -> None:
    answer = httpx.get(demo.url + "/cds-services")
    assert answer.status_code == 200
    assert answer.json()["services"]
    assert "server" not in answer.headers
    said = demo.stderr.splitlines()
    assert said[0].startswith("cds: INSECURE DEMO: ")
    assert f"cds: serving {demo.url}/cds-services" in said
    assert httpx.get(demo.url + "/health/ready").status_code == 200
    assert demo.stdout == ""


@pytest.mark.slow
def test_production_is_served_over_tls(tmp_path: Path) -> None:
    port = free_port()
    file = production(tmp_path, port)
    trust = ssl.create_default_context(cafile=tmp_path / "cert.pem")
    url = f"https://127.0.0.1:{port}"
    with Running([*CDS, "--config", str(file)], url, verify=trust) as running:
        answer = httpx.get(url + "/cds-services", verify=trust)
        assert (answer.status_code, answer.content) == (401, b"")
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"http://127.0.0.1:{port}/cds-services")
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(httpx.ConnectError):
            httpx.get(url, verify=old)
        assert running.stopped() == 0


@pytest.mark.slow
def test_only_a_trusted_proxy_is_believed(tmp_path: Path) -> None:
    """Seen at /metrics, which nobody behind a proxy reads without the operator's token."""
    token = tmp_path / "token"
    token.write_text("operator-token-0123456789\n")
    port = free_port()
    file = production(
        tmp_path,
        port,
        tls_certificate=None,
        tls_key=None,
        behind_proxy=True,
        trusted_proxies=["127.0.0.1"],
        operator_token_file=str(token),
    )
    with Running([*CDS, "--config", str(file)], f"http://127.0.0.1:{port}") as running:
        metrics = running.url + "/metrics"
        for address in ("203.0.113.9", "127.0.0.1", "::1"):
            answer = httpx.get(metrics, headers={"X-Forwarded-For": address})
            assert (answer.status_code, answer.content) == (401, b"")
        assert httpx.get(metrics).status_code == 401
        bearer = {"Authorization": "Bearer operator-token-0123456789"}
        assert httpx.get(metrics, headers=bearer).status_code == 200
        wrong = {"Authorization": "Bearer operator-token-0123456780"}
        assert httpx.get(metrics, headers=wrong).status_code == 401


def workers_of(running: Running) -> set[int]:
    """The processes that answer, asked often enough to meet each."""
    pids = {httpx.get(running.url + "/health/live").json()["pid"] for _ in range(60)}
    return pids


@pytest.mark.slow
def test_a_worker_that_is_killed_is_started_again_and_the_port_stays_open() -> None:
    with serving(workers=2) as running:
        end = time.monotonic() + 30
        while len(before := workers_of(running)) < 2:
            assert time.monotonic() < end
        refusals: list[str] = []
        broken, answered = [0], [0]
        done = threading.Event()

        def call() -> None:
            while not done.is_set():
                try:
                    httpx.post(running.url + "/call/p", content=b"[]", timeout=20)
                    answered[0] += 1
                except httpx.ConnectError as error:
                    refusals.append(str(error))
                except httpx.TransportError:
                    broken[0] += 1  # it was in the worker that died

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        for victim in before:  # all of them, one after the other
            os.kill(victim, signal.SIGKILL)
            time.sleep(1)
        end = time.monotonic() + 30
        while True:
            now = workers_of(running)
            if len(now) == 2 and not now & before:
                break
            assert time.monotonic() < end, (now, before)
        done.set()
        for thread in threads:
            thread.join()
        assert refusals == []
        assert broken[0] <= 8
        assert answered[0] > 50
        died = [line for line in running.log if line.get("exit") == -signal.SIGKILL]
        assert {line["pid"] for line in died} == before
        # Figures of both, and of those that are gone.
        text = httpx.get(running.url + "/metrics").text
        counted = [x for x in text.splitlines() if x.startswith("cds_calls_total")]
        assert sum(float(x.split()[-1]) for x in counted) >= answered[0]
        assert running.stopped() == 0
    assert not os.path.exists(f"/proc/{now.pop()}")


@pytest.mark.slow
def test_workers_that_cannot_start_again_are_tried_until_they_can(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    with serving("unstartable", workers=2, site=str(flag)) as running:
        end = time.monotonic() + 30
        while len(before := workers_of(running)) < 2:
            assert time.monotonic() < end
        flag.touch()
        os.kill(victim := before.pop(), signal.SIGKILL)
        end = time.monotonic() + 30
        while not any(line.get("exit") == 3 for line in running.log):
            assert time.monotonic() < end
            assert victim not in workers_of(running)  # the other goes on answering
        flag.unlink()
        end = time.monotonic() + 30
        while len(workers_of(running)) < 2:
            assert time.monotonic() < end
        assert running.stopped() == 0


def test_workers_that_cannot_start_at_all_end_it(tmp_path: Path) -> None:
    (tmp_path / "flag").touch()
    running = serving("unstartable", workers=2, site=str(tmp_path / "flag"))
    with pytest.raises(AssertionError, match="ended with 4"), running:
        pass
    assert "a worker could not start" in running.stderr


@pytest.mark.slow
def test_workers_end_with_the_process_that_holds_the_socket() -> None:
    with serving(workers=2, graceful_seconds=1) as running:
        pids = workers_of(running)
        running.process.kill()
        running.process.wait(10)
        end = time.monotonic() + 20
        while any(os.path.exists(f"/proc/{pid}") for pid in pids):
            assert time.monotonic() < end
            time.sleep(0.1)


# ---------------------------------------------------------------- stopping


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_calls_that_run_are_answered_before_it_ends(workers: int, number: int) -> None:
    with serving(workers=workers, graceful_seconds=8) as running:
        answers: list[int] = []

        def call() -> None:
            answers.append(httpx.post(running.url + "/wait?seconds=3", timeout=30).status_code)

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        running.process.send_signal(number)
        time.sleep(1.2)
        with pytest.raises(httpx.ConnectError):
            httpx.get(running.url + "/health/live")
        for thread in threads:
            thread.join()
        assert answers == [200] * 4
        assert running.process.wait(15) == 0


@pytest.mark.slow
def test_calls_that_run_too_long_are_told_so() -> None:
    with serving(graceful_seconds=1, call_timeout_seconds=60) as running:
        answers: list[httpx.Response] = []

        def call() -> None:
            answers.append(httpx.post(running.url + "/wait?seconds=50", timeout=30))

        thread = threading.Thread(target=call)
        thread.start()
        time.sleep(1)
        assert running.stopped() == 0
        thread.join()
    assert answers[0].status_code == 503
    assert answers[0].json()["resourceType"] == "OperationOutcome"
    assert [line["words"] for line in running.log if line.get("status") == 503] == [["stopped"]]
