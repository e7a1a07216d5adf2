"""What the service costs, as multiples of an endpoint that only parses and answers.

Both run as processes of their own with one worker, the load comes from a third one, in turn.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from ratios import Bench

pytest.importorskip("uvicorn", reason="needs the extra [service]")

pytestmark = pytest.mark.bench

HERE = Path(__file__).parent
SECONDS, ROUNDS, CONNECTIONS = 3.0, 5, 8
ISS, AUDIENCE = "https://ehr.example.org", "https://cds.example.org"


# ------------------------------------------------------------ the request

# All that discovery asks for: what is left out would be asked for, or named on a card.
KEYS = (
    *("laboratory", "laboratoryAnyDate", "signs", "signs2", "familyHistory"),
    *("medicationStatements", "medicationRequests", "conditions", "questionnaireResponses"),
)


def request(number: int) -> dict[str, Any]:
    """A patient-view call of about 17 KB: 30 results and 8 medicines of an ordinary patient."""
    now = time.time()
    loinc = [
        *(("2823-3", "mmol/L", 4.1), ("2601-3", "mmol/L", 0.85), ("2951-2", "mmol/L", 139)),
        *(("2000-8", "mmol/L", 2.35), ("2157-6", "U/L", 120), ("2345-7", "mg/dL", 98)),
    ]
    subject = {"reference": "Patient/p"}
    results = [
        {
            "resourceType": "Observation",
            "id": f"o{i}",
            "status": "final",
            "category": [
                {
                    "coding": [
                        {
                            "system": "http://terminology.hl7.org/CodeSystem/observation-category",
                            "code": "laboratory",
                        }
                    ]
                }
            ],
            "code": {
                "coding": [{"system": "http://loinc.org", "code": code}],
                "text": f"Result {code}",
            },
            "subject": subject,
            "effectiveDateTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - 86400 * i)),
            "valueQuantity": {
                "value": value,
                "unit": unit,
                "system": "http://unitsofmeasure.org",
                "code": unit,
            },
        }
        for i in range(30)
        for code, unit, value in [loinc[i % len(loinc)]]
    ]
    rxnorm = ["4603", "36567", "6918", "10582", "29046", "83367", "17767", "7646"]
    medicines = [
        {
            "resourceType": "MedicationStatement",
            "id": f"m{i}",
            "status": "active",
            "medicationCodeableConcept": {
                "coding": [{"system": "http://www.nlm.nih.gov/research/umls/rxnorm", "code": code}]
            },
            "subject": subject,
            "effectivePeriod": {"start": "2026-01-10"},
        }
        for i, code in enumerate(rxnorm)
    ]

    def found(resources: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "resourceType": "Bundle",
            "type": "searchset",
            "total": len(resources),
            "entry": [
                {
                    "fullUrl": f"https://ehr.example.org/fhir/{r['resourceType']}/{r['id']}",
                    "resource": r,
                }
                for r in resources
            ],
        }

    return {
        "hook": "patient-view",
        "hookInstance": str(uuid.UUID(int=number + 2**100)),
        "context": {"userId": "Practitioner/u", "patientId": "p"},
        "prefetch": {
            **dict.fromkeys(KEYS),
            "patient": {
                "resourceType": "Patient",
                "id": "p",
                "gender": "female",
                "birthDate": "1960-05-01",
            },
            "laboratory": found(results),
            "medicationStatements": found(medicines),
        },
    }


def written(path: Path, count: int, tokens: Sequence[str] = ()) -> Path:
    lines = [
        json.dumps(
            {
                "headers": {"Authorization": f"Bearer {tokens[i]}"} if tokens else {},
                "body": json.dumps(request(i)),
            }
        )
        for i in range(count)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


# ------------------------------------------------------------ processes


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def running(command: Sequence[str | Path], port: int, **more: str) -> Iterator[str]:
    """A server process, once it answers; ended at the end."""
    process = subprocess.Popen(
        [str(c) for c in command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **more},
    )
    try:
        for _ in range(300):
            if process.poll() is not None:
                raise AssertionError(f"{command} ended with {process.returncode}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@contextlib.contextmanager
def bare() -> Iterator[str]:
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "bare_service:app",
        "--app-dir",
        HERE,
        "--port",
        str(port),
        "--no-access-log",
        "--log-level",
        "error",
    ]
    with running(command, port) as url:
        yield f"{url}/cds-services/bare"


@contextlib.contextmanager
def service(folder: Path, *options: str | Path, **more: str) -> Iterator[str]:
    port = free_port()
    cds = Path(sys.executable).with_name("cds")
    database = f"sqlite:///{folder / 'service.db'}"
    command = [cds, "serve", "--port", str(port), *options]
    with running(command, port, CDS_SERVICE_DATABASE_URL=database, **more) as url:
        yield f"{url}/cds-services/twitching-patient-view"


def load(
    url: str,
    file: Path,
    seconds: float | str = SECONDS,
    connections: int = CONNECTIONS,
    rate: float | None = None,
) -> dict[str, float]:
    command = [
        sys.executable,
        HERE / "load.py",
        url,
        file,
        str(seconds),
        str(connections),
        *([str(rate)] if rate else []),
    ]
    found: dict[str, float] = json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout
    )
    assert found["errors"] == 0, found
    return found


# ------------------------------------------------------------ what is measured


def test_calls_a_second_are_at_least_two_fifths_of_a_bare_endpoint(
    bench: Bench, tmp_path: Path
) -> None:
    calls = written(tmp_path / "calls.ndjson", 50)
    size = len(json.dumps(request(0)))
    with bare() as floor, service(tmp_path, "--insecure-demo") as ours:
        load(floor, calls, 1), load(ours, calls, 1)
        rounds = [(load(floor, calls), load(ours, calls)) for _ in range(ROUNDS)]
        least, most = (statistics.median(r[i]["rate"] for r in rounds) for i in (0, 1))
        note = f"{least:.0f} ÷ {most:.0f} calls/s of {size / 1000:.1f} KB"
        bench.check(
            "bare endpoint ÷ patient-view, calls a second", least / most, bound=1 / 0.4, note=note
        )
        half = [load(ours, calls, 5, rate=most / 2) for _ in range(3)]
        p99 = statistics.median(h["p99"] for h in half)
        p50 = statistics.median(r[0]["p50"] for r in rounds)
        note = f"{p99:.2f} ms ÷ {p50:.2f} ms"
        bench.check(
            "p99 at half of the peak rate ÷ p50 of the bare endpoint", p99 / p50, bound=8, note=note
        )


@pytest.mark.parametrize("algorithm", ["RS384", "ES384"])
def test_with_tokens_they_are_at_least_a_quarter(
    bench: Bench, tmp_path: Path, algorithm: str
) -> None:
    key, jwk = keys(algorithm)
    jwks = tmp_path / "jwks.json"
    jwks.write_text(json.dumps({"keys": [jwk]}))
    config = tmp_path / "cds.toml"
    config.write_text(
        f"""public_url = "{AUDIENCE}"
behind_proxy = true
trusted_proxies = ["127.0.0.1"]
[[clients]]
iss = "{ISS}"
jwks_file = "{jwks}"
"""
    )
    count = 2_500
    calls = [
        written(tmp_path / f"{i}.ndjson", count, tokens(key, algorithm, count)) for i in range(4)
    ]
    with bare() as floor, service(tmp_path, "--config", config) as ours:
        load(floor, calls[0], 1), load(ours, calls[0], "once")
        rounds = [(load(floor, each), load(ours, each, "once")) for each in calls[1:]]
    least, most = (statistics.median(r[i]["rate"] for r in rounds) for i in (0, 1))
    note = f"{least:.0f} ÷ {most:.0f} calls/s"
    name = f"bare endpoint ÷ patient-view with {algorithm}, calls a second"
    bench.check(name, least / most, bound=1 / 0.25, note=note)


def test_memory_stays_over_100_000_calls(bench: Bench, tmp_path: Path) -> None:
    calls = written(tmp_path / "calls.ndjson", 500)
    with service(tmp_path, "--insecure-demo") as ours:
        pid = listening(ours)
        load(ours, calls, "10")
        before, done = resident_mb(pid), 0
        while done < 100_000:
            done += int(load(ours, calls, "20")["requests"])
        after = resident_mb(pid)
    note = f"{before:.1f} to {after:.1f} MB over {done} calls"
    bench.check("MB grown over 100,000 calls", after - before, bound=10, note=note)


def keys(algorithm: str) -> tuple[Any, dict[str, Any]]:
    """A private key and its public JWK."""
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from jwt.algorithms import ECAlgorithm, RSAAlgorithm

    key: Any
    if algorithm == "RS384":
        key = rsa.generate_private_key(65537, 2048)
        jwk = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        key = ec.generate_private_key(ec.SECP384R1())
        jwk = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return key, {**jwk, "kid": "k", "alg": algorithm, "use": "sig"}


def tokens(key: Any, algorithm: str, count: int) -> list[str]:
    import jwt

    now = int(time.time())
    endpoint = f"{AUDIENCE}/cds-services/twitching-patient-view"
    claims = {"iss": ISS, "aud": endpoint, "iat": now, "exp": now + 3000}
    return [
        jwt.encode({**claims, "jti": str(uuid.uuid4())}, key, algorithm, headers={"kid": "k"})
        for _ in range(count)
    ]


def listening(url: str) -> int:
    """The process that answers at this address, found by its socket."""
    port = f"{int(url.split(':')[2].split('/')[0]):04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        parts = line.split()
        if parts[1].endswith(f":{port}") and parts[3] == "0A":
            inode = f"socket:[{parts[9]}]"
            for link in Path("/proc").glob("[0-9]*/fd/*"):
                with contextlib.suppress(OSError):
                    if os.readlink(link) == inode:
                        return int(link.parts[2])
    raise AssertionError(f"nothing listens at {url}")


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
