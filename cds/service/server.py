"""The running server: what is checked before it starts, its processes, how it stops.

One worker runs in this process. Of several, uvicorn's supervisor keeps the number: this process
holds the socket and starts a worker again that died, while the port goes on taking connections.
Rules are loaded and linted once, before anything listens; every worker gets those very rules, also
one that is started again after somebody has changed the files.

On SIGTERM or SIGINT no new connection is taken, calls that run may end within `graceful_seconds`
(then they are answered 503), and the exit code is 0.

Decided here, where no specification speaks: production starts only with TLS or a trusted proxy
(CH-02, see `settings`), with clients that may call, and with rules in which lint finds no error.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from multiprocessing import connection, parent_process
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from uvicorn import Config, Server
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from cds.errors import CdsError, UsageError
from cds.service import requestlog

if TYPE_CHECKING:
    from asyncio import TimerHandle, Transport

    from starlette.types import ASGIApp

    from cds.rules import Rulesets
    from cds.service.settings import Settings

__all__ = ["HEAD_BYTES", "HEAD_SECONDS", "bound", "check", "run", "serve", "worker"]

HEAD_SECONDS: Final = 10.0
"""How long the head of a request may take to come, and what is left of a body after its answer."""

HEAD_BYTES: Final = 65_536
"""Largest head of a request (its line and headers)."""

_KEEP_ALIVE_SECONDS: Final = 30
_KILL_SECONDS: Final = 5  # after the graceful ones
_HUNG_SECONDS: Final = 60
_METRICS: Final = "PROMETHEUS_MULTIPROC_DIR"
_LOG: Final = logging.getLogger("cds.service.server")


# ---------------------------------------------------------------- before the start


def check(settings: Settings) -> None:
    """See whether the service can start with these settings.

    Reads certificate, keys of clients, the operator's token and the rules, which are linted, and
    opens the database, whose tables are made or renewed as at any start.

    Raises: UsageError with a line for every fault.
    """
    with _folder(settings) as (_, settings):
        _checked(settings)


@contextmanager
def _folder(settings: Settings) -> Iterator[tuple[Path, Settings]]:
    """Give a private folder, gone at the end, and settings whose database lies there in a demo."""
    with TemporaryDirectory(prefix="cds-service-") as name:
        if settings.insecure_demo and "database_url" not in settings.model_fields_set:
            url = f"sqlite:///{Path(name, 'cds-service.db')}"
            settings = settings.model_copy(update={"database_url": url})
        yield Path(name), settings


def _checked(settings: Settings) -> Rulesets:
    """Return the rules to run with. Raises: as `check`."""
    faults: list[str] = []
    rulesets: Rulesets | None = None
    for part in (_tls, _callers, _operator, _rules, _database):
        try:
            found = part(settings)
        except CdsError as error:
            faults.extend(str(error).splitlines())
        else:
            rulesets = found or rulesets
    if faults or rulesets is None:
        raise UsageError("\n".join(faults))
    return rulesets


def _tls(settings: Settings) -> None:
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None or key is None:
        return
    from cryptography import x509

    def no_password() -> str:
        raise ValueError

    for name, path in (("tls_certificate", certificate), ("tls_key", key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise UsageError(f"{name}: {path} cannot be read: {error.strerror}") from None
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key, password=no_password)
    except ssl.SSLError as error:
        why = (error.reason or "unreadable").replace("_", " ").lower()
        raise UsageError(f"tls_certificate: {certificate} with {key}: {why}") from None
    except ValueError:
        raise UsageError(f"tls_key: {key} has a password, which nobody could enter") from None
    first = x509.load_pem_x509_certificates(certificate.read_bytes())[0]
    if first.not_valid_after_utc < datetime.now(UTC):
        raise UsageError(f"tls_certificate: {certificate} is no longer valid")


def _callers(settings: Settings) -> None:
    if settings.auth == "off":
        return
    if not settings.clients:
        raise UsageError("clients: none is named, so nobody could call the service")
    from cds.service.auth import Authenticator

    async def unused(*_: Any) -> Any:
        raise AssertionError

    # Making it reads the key files; nothing is asked of it.
    Authenticator(settings, replays=unused, fetch_jwks=unused)  # type: ignore[arg-type]


def _operator(settings: Settings) -> None:
    from cds.service.metrics import Operator

    Operator(settings)


def _rules(settings: Settings) -> Rulesets:
    from cds.lint import lint
    from cds.rules import load_rulesets
    from cds.screening import Screener
    from cds.shipped import installed, shipped

    folders = settings.rulesets or (shipped("rulesets"), *installed())
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"rulesets: there is no folder {folder}")
    errors = [e for e in lint(folders) if e.severity == "error" and not e.accepted]
    if errors:
        lines = [f"{e.path}{e.place}: error {e.id} {e.rule}: {e.message}" for e in errors]
        raise UsageError("\n".join(["the rules fail lint, see `cds lint`:", *lines]))
    rulesets = load_rulesets(*settings.rulesets, site=settings.site, language=settings.language)
    Screener(rulesets, engine=settings.engine)
    return rulesets


def _database(settings: Settings) -> None:
    from cds.service.store import Store

    async def opened() -> None:
        async with Store(settings.database_url) as store:
            if not await store.ready():
                raise UsageError("database_url: the database does not answer")

    try:
        asyncio.run(opened())
    except CdsError as error:
        raise UsageError(f"database_url: {error}") from None


# ---------------------------------------------------------------- running


def run(settings: Settings, say: Callable[[str], None]) -> int:
    """Serve until a signal ends it, and return the exit code.

    Args:
        settings: all of them.
        say: is told, once everything is checked, where the service will answer.

    Raises: UsageError where it cannot start (see `check`), also where the port is taken.
    """
    os.environ.pop(_METRICS, None)
    with _folder(settings) as (folder, settings):
        rulesets = _checked(settings)
        listener = bound(settings)
        say(f"serving {settings.url}/cds-services")
        return serve(settings, partial(_application, settings, rulesets), listener, folder)


def serve(
    settings: Settings, application: Callable[[], ASGIApp], listener: socket.socket, folder: Path
) -> int:
    """Serve an application without checking anything; `run` for what has been checked.

    Args:
        settings: how to listen and to stop.
        application: makes it, in each worker; can be pickled.
        listener: the bound socket.
        folder: where this process may keep files while it runs.
    """
    config = _config(settings, application)
    if settings.workers == 1:
        return _run_alone(config, listener)
    metrics = folder / "metrics"
    metrics.mkdir()
    os.environ[_METRICS] = str(metrics)
    try:
        return _Workers(config, listener, settings.graceful_seconds).serve()
    finally:
        del os.environ[_METRICS]


def bound(settings: Settings) -> socket.socket:
    """Return a socket with the address, on which nothing listens until a worker is ready."""
    where = f"{settings.host}, port {settings.port}"
    try:
        info = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = info[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise UsageError(f"{where}: cannot be listened on: {error.strerror}") from None
    listener.set_inheritable(True)
    return listener


def _config(settings: Settings, application: Callable[[], ASGIApp]) -> Config:
    tls: dict[str, Any] = {}
    if settings.tls_certificate is not None:
        tls = {"ssl_certfile": settings.tls_certificate, "ssl_keyfile": settings.tls_key}
    return Config(
        application,
        factory=True,
        interface="asgi3",
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        http=Guarded,
        ws="none",
        lifespan="on",
        log_config=requestlog.log_config(settings.log_level),
        access_log=False,
        server_header=False,
        proxy_headers=settings.behind_proxy,
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.graceful_seconds,
        timeout_worker_healthcheck=_HUNG_SECONDS,
        # No call context leaks from one request of a connection into the next.
        reset_contextvars=True,
        **tls,
    )


def _application(settings: Settings, rulesets: Rulesets) -> ASGIApp:
    """Make the application in the process that serves it."""
    worker(settings)
    from cds.service.app import create_app

    return create_app(settings, rulesets=rulesets)


def worker(settings: Settings) -> None:
    """Prepare a process for serving: its log, and that it ends when its parent was killed."""
    requestlog.configure(settings.log_level)
    _end_with_parent(settings.graceful_seconds)


def _end_with_parent(graceful: float) -> None:
    """Let a worker end when the process that holds the socket was killed: it could not be told."""
    parent = parent_process()
    if parent is None:
        return

    def wait() -> None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(graceful + _KILL_SECONDS)
        os._exit(1)

    threading.Thread(target=wait, name="cds-parent", daemon=True).start()


def _run_alone(config: Config, listener: socket.socket) -> int:
    server = Server(config)
    with _signals_end_quietly():
        try:
            server.run(sockets=[listener])
        except SystemExit:  # uvicorn, when the start failed; the log says why
            return 4
    return 0 if server.started else 4


@contextmanager
def _signals_end_quietly() -> Iterator[None]:
    """Let a stop that was asked for be a success.

    uvicorn raises the signal once more when it has stopped, for whoever handled it before.
    """
    before = {s: signal.signal(s, lambda *_: None) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Workers(Multiprocess):
    """Several workers, as uvicorn has them, with these differences.

    Stopping closes the socket first, so that a new caller is refused at once, and kills a worker
    that does not stop in time. A worker that cannot start again (the database is down just then)
    is tried further: uvicorn would end the others, which may still answer. A worker is not killed
    for being slow to start.
    """

    def __init__(self, config: Config, listener: socket.socket, graceful: float) -> None:
        super().__init__(config, sockets=[listener])
        self._graceful = graceful
        self._served = self._failed = False
        self._heard: dict[int, float] = {}

    def serve(self) -> int:
        """Run until a signal ends it, and return the exit code."""
        self.run()
        return 4 if self._failed else 0

    def keep_subprocess_alive(self) -> None:
        """Start workers again that are dead or have not answered for long."""
        for index, process in enumerate(self.processes):
            if self.should_exit.is_set() or self._lives(process):
                continue
            process.kill()
            process.join()
            if process.exitcode == STARTUP_FAILURE and not self._served:
                _LOG.error("a worker could not start", extra={"fields": {"pid": process.pid}})
                self._failed = True
                self.should_exit.set()
                return
            died = {"pid": process.pid, "exit": process.exitcode}
            _LOG.error("a worker died and is started again", extra={"fields": died})
            self.processes[index] = new = Process(self.config, self.sockets)
            new.start()

    def _lives(self, process: Process) -> bool:
        if not process.process.is_alive():
            return False
        if not self._served:
            self._served = process.is_ready(timeout=0.1)
        now = time.monotonic()
        since = self._heard.setdefault(process.pid or 0, now)
        if process.ping(timeout=0.1):
            self._heard[process.pid or 0] = now
            return True
        return now - since < _HUNG_SECONDS

    def terminate_all(self) -> None:
        """Refuse new connections, then tell the workers to end."""
        for listener in self.sockets:
            listener.close()
        super().terminate_all()

    def join_all(self) -> None:
        """Wait for the workers to end, and kill those that do not."""
        last = time.monotonic() + self._graceful + _KILL_SECONDS
        for process in self.processes:
            process.process.join(max(0.0, last - time.monotonic()))
            if process.process.is_alive():
                _LOG.error("a worker does not stop", extra={"fields": {"pid": process.pid}})
                process.process.kill()
        super().join_all()


# ---------------------------------------------------------------- connections


class Guarded(HttpToolsProtocol):
    """A connection that may not dawdle: uvicorn limits neither the time nor the size of a head.

    It is closed when the head of a request is longer than `HEAD_BYTES`, or is not whole after
    `HEAD_SECONDS`; and when a body still comes so long after it was answered (413).
    """

    _timer: TimerHandle | None = None
    _head = True
    _head_bytes = 0

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()

    def on_message_begin(self) -> None:
        """Begin with the head of a request."""
        self._head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Go on with its body."""
        self._head, self._head_bytes = False, 0
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Take what came, and see whether it belongs to a request that is being answered."""
        # Counted before it is parsed, and again from 0 with the next head.
        self._head_bytes += len(data) if self._head else 0
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._head and self._head_bytes > HEAD_BYTES:
            self.transport.close()
        elif self._busy():
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        elif self._timer is None:
            self._watch()

    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _watch(self) -> None:
        self._timer = self.loop.call_later(HEAD_SECONDS, self._late)

    def _late(self) -> None:
        self._timer = None
        if not self._busy() and not self.transport.is_closing():
            self.transport.close()
