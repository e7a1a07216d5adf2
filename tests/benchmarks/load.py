"""Put load on one URL from a process of its own; print what came of it as JSON.

    load.py URL REQUESTS.ndjson SECONDS CONNECTIONS [RATE]

Each line of the file is one request: {"headers": {...}, "body": "..."}. They are sent in turn, over
and over, by that many connections that are kept alive: as fast as answers come, or, with RATE,
that many a second at even distances (latency then counts from when a request was due, so that a
stall is not hidden by the requests that it held up). With "once" for SECONDS each line is sent
once. Only the standard library: the client must never be what is measured.

Output: {"requests", "errors", "seconds", "rate", "p50", "p99"}, latencies in milliseconds.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit


class Connection:
    """One kept-alive connection with at most one request under way."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due = 0.0
        self._got = bytearray()

    def send(self, request: bytes, due: float) -> None:
        self.due = due
        self._got.clear()
        self.socket.sendall(request)

    def receive(self) -> int | None:
        """The status of the answer; None while it is not whole."""
        part = self.socket.recv(262_144)
        if not part:
            raise ConnectionError("closed")
        self._got += part
        end = self._got.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = bytes(self._got[:end]).lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0])
        return int(head[9:12]) if len(self._got) >= end + 4 + length else None


def run(
    url: str, requests: Sequence[bytes], seconds: float | None, connections: int, rate: float | None
) -> dict[str, float]:
    parts = urlsplit(url)
    address = (parts.hostname or "", parts.port or 80)
    idle = deque(Connection(address) for _ in range(connections))
    selector = selectors.DefaultSelector()
    for connection in idle:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    latencies: list[float] = []
    errors = sent = waiting = 0
    start = time.perf_counter()
    over = False
    while not over or waiting:
        now = time.perf_counter()
        over = sent >= len(requests) if seconds is None else now - start >= seconds
        while idle and not over and (seconds is not None or sent < len(requests)):
            due = start + sent / rate if rate else time.perf_counter()
            if due > time.perf_counter():
                break
            idle.popleft().send(requests[sent % len(requests)], due)
            sent, waiting = sent + 1, waiting + 1
        for key, _ in selector.select(0.0005 if rate else 1):
            status = key.data.receive()
            if status is not None:
                latencies.append(time.perf_counter() - key.data.due)
                errors += status != 200
                idle.append(key.data)
                waiting -= 1
    took = time.perf_counter() - start
    latencies.sort()
    count = len(latencies)
    return {
        "requests": count,
        "errors": errors,
        "seconds": took,
        "rate": count / took,
        "p50": latencies[count // 2] * 1000,
        "p99": latencies[count * 99 // 100] * 1000,
    }


def whole(url: str, request: dict[str, object]) -> bytes:
    parts = urlsplit(url)
    body = str(request["body"]).encode()
    headers = {
        "Host": parts.netloc,
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **(request.get("headers") or {}),  # type: ignore[dict-item]
    }
    lines = [f"POST {parts.path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items()), "", ""]
    return "\r\n".join(lines).encode() + body


def main(url: str, file: str, seconds: str, connections: str, rate: str = "") -> None:
    texts = Path(file).read_text(encoding="utf-8").splitlines()
    requests = [whole(url, json.loads(text)) for text in texts]
    limit = None if seconds == "once" else float(seconds)
    found = run(url, requests, limit, int(connections), float(rate) if rate else None)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
