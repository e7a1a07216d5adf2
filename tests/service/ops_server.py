"""Server processes for tests of how the service is run, and small applications behind them.

`Running` is any command that serves. Run as a program, this file serves one of the applications
below with the real server, middlewares and log:  ``python ops_server.py NAME SETTINGS_AS_JSON``.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import httpx

HERE = Path(__file__).resolve().parent


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Running:
    """A server process with its output; `url` answers when the `with` begins."""

    def __init__(
        self,
        command: list[str],
        url: str,
        *,
        verify: Any = True,
        env: dict[str, str] | None = None,
        path: str = "/health/live",
    ) -> None:
        self.url = url
        self._command, self._verify, self._path = command, verify, path
        self._env = {k: v for k, v in os.environ.items() if not k.startswith("CDS_SERVICE_")}
        self._env.update(env or {})
        self._ended: tuple[str, str] | None = None

    def __enter__(self) -> Running:
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        try:
            return self._started()
        except BaseException:
            self.__exit__()
            raise

    def _started(self) -> Running:
        self.process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            env=self._env,
            start_new_session=True,
        )
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise AssertionError(f"ended with {self.process.returncode}: {self.stderr}")
            try:
                httpx.get(self.url + self._path, verify=self._verify, timeout=5)
            except httpx.TransportError:
                time.sleep(0.1)
            else:
                return self
        raise AssertionError(f"does not answer: {self.stderr}")

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        finally:
            # What is left of its group, if a test killed only its leader.
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self._ended = self.stdout, self.stderr
            self._out.close()
            self._err.close()

    @property
    def stdout(self) -> str:
        return self._ended[0] if self._ended else self._read(self._out)

    @property
    def stderr(self) -> str:
        return self._ended[1] if self._ended else self._read(self._err)

    @staticmethod
    def _read(file: Any) -> str:
        # Not by seeking: the process writes where the file that it shares with us stands.
        return os.pread(file.fileno(), 100_000_000, 0).decode()

    @property
    def log(self) -> list[dict[str, Any]]:
        """The lines of the log; those of the command itself are left out."""
        lines = self.stderr.splitlines()
        return [json.loads(line) for line in lines if not line.startswith("cds: ")]

    def stopped(self) -> int:
        """Stop it as an operator would, and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def serving(name: str = "application", **settings: Any) -> Running:
    """Return one of the applications below behind the real server, as a process."""
    port = free_port()
    given = {"insecure_demo": True, "port": port, **settings}
    command = [sys.executable, str(HERE / "ops_server.py"), name, json.dumps(given)]
    return Running(command, f"http://127.0.0.1:{port}")


# ---------------------------------------------------------------- applications


def application(settings: Any) -> Any:
    """Several ways to answer, behind our middlewares."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    from cds.service import metrics, server
    from cds.service.cors import Cors
    from cds.service.limits import Limits
    from cds.service.outcomes import Refusal
    from cds.service.requestlog import RequestLog, notes

    server.worker(settings)

    async def live(request: Request) -> Response:
        return JSONResponse({"pid": os.getpid()})

    async def call(request: Request) -> Response:
        notes().service, notes().iss = "twitching", "https://ehr.example.org"
        body = await request.body()
        return JSONResponse({"bytes": len(body), "pid": os.getpid()})

    async def wait(request: Request) -> Response:
        await asyncio.sleep(float(request.query_params["seconds"]))
        return JSONResponse({"pid": os.getpid()})

    async def failing(request: Request) -> Response:
        raise ValueError(f"cannot work with {(await request.body()).decode()}")

    async def refusing(request: Request) -> Response:
        raise Refusal(int(request.path_params["status"]), "no", word="test")

    async def unauthorized(request: Request) -> Response:
        return Response(status_code=401)

    return Starlette(
        middleware=[
            Middleware(Cors, settings=settings),
            Middleware(RequestLog),
            Middleware(Limits, settings=settings),
        ],
        routes=[
            Route("/health/live", live),
            Route("/call/{patient}", call, methods=["GET", "POST"]),
            Route("/wait", wait, methods=["POST"]),
            Route("/failing", failing, methods=["POST"]),
            Route("/refusing/{status}", refusing, methods=["POST"]),
            Route("/unauthorized", unauthorized, methods=["GET", "POST"]),
            Route("/metrics", metrics.MetricsEndpoint(settings)),
        ],
    )


def unstartable(settings: Any) -> Any:
    """The application above, which cannot start while there is the file `settings.site`."""
    if settings.site.exists():
        raise SystemExit(3)  # as uvicorn ends when the start fails
    return application(settings)


def failing_service(settings: Any) -> Any:
    """The service itself, with an engine that fails for some and a route that always does.

    Both say in their exceptions what they were given, as a careless library would.
    """
    from starlette.requests import Request
    from starlette.responses import Response

    from cds.screening import Screener
    from cds.service import server
    from cds.service.app import create_app

    server.worker(settings)
    assess = Screener.assess

    def failing(self: Any, record: Any, *args: Any, **more: Any) -> Any:
        if "explode" in repr(record):
            raise ValueError(f"cannot judge {record!r}")
        return assess(self, record, *args, **more)

    Screener.assess = failing  # type: ignore[method-assign]

    async def unhandled(request: Request) -> Response:
        raise KeyError(str(request.url) + (await request.body()).decode())

    app = create_app(settings)
    app.router.add_route("/unhandled/{what}", unhandled, methods=["POST"])
    return app


if __name__ == "__main__":
    from cds.service import server
    from cds.service.settings import Settings

    server.HEAD_SECONDS = 2.0  # type: ignore[misc]
    wanted = Settings(**json.loads(sys.argv[2]))
    with tempfile.TemporaryDirectory() as folder:
        make = partial(globals()[sys.argv[1]], wanted)
        sys.exit(server.serve(wanted, make, server.bound(wanted), Path(folder)))
