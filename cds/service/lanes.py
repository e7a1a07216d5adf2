"""Threads that do what an event loop asks of them, and answer it within a bounded time.

`cds.service.store` asks the database so. Who has waited long enough is told `StoreDown`, whatever
the thread does meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Final

from cds.service.database import StoreDown

__all__ = ["Asked", "Lane"]

_log = logging.getLogger(__name__)

_WAITING: Final = 1_000  # whoever comes when so many wait is told at once that we are overloaded
_IDLE_SECONDS: Final = 60.0


@dataclass(slots=True, eq=False)
class Asked:
    """Something asked of the database, and who waits for the answer."""

    what: Any
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    result: Any = None
    error: Exception | None = None


def _expire(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(StoreDown("timeout"))


def _deliver(asked: Iterable[Asked]) -> None:
    for one in asked:
        if one.future.done():
            continue
        if one.error is not None:
            one.future.set_exception(one.error)
        else:
            one.future.set_result(one.result)


class Lane:
    """Threads that take what is asked, in turn. They are daemons: none can hold up the end."""

    def __init__(
        self,
        name: str,
        work: Callable[[list[Asked]], None],
        *,
        wait_seconds: float,
        threads: int = 1,
        together: int = 1,
        idle: Callable[[], None] | None = None,
    ) -> None:
        self._work, self._together, self._idle = work, together, idle
        self._wait_seconds = wait_seconds
        self._queue: SimpleQueue[Asked | None] = SimpleQueue()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._run, name=f"cds-store-{name}", daemon=True)
            for _ in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def ask(self, what: Any) -> Any:
        """Have it done and return the answer. Raises: StoreDown, or what doing it raised."""
        if self._closed:
            raise StoreDown("closed")
        if self._queue.qsize() >= _WAITING:
            raise StoreDown("overloaded")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        timer = loop.call_later(self._wait_seconds, _expire, future)
        self._queue.put(Asked(what, future, loop))
        try:
            return await future
        finally:
            timer.cancel()

    def close(self, seconds: float) -> None:
        """Do what is waiting, then end."""
        self._closed = True
        for _ in self._threads:
            self._queue.put(None)
        last = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, last - time.monotonic()))

    def _run(self) -> None:
        while True:
            try:
                first = self._queue.get(timeout=_IDLE_SECONDS)
            except Empty:
                self._rest()
                continue
            asked, ended = self._more(first)
            # Who has given up is not to be answered; his write would surprise him.
            asked = [one for one in asked if not one.future.done()]
            if asked:
                try:
                    self._work(asked)
                except Exception as error:  # a mistake of ours must not end the thread
                    for one in asked:
                        one.error = one.error or error
                self._answer(asked)
                self._rest()
            if ended:
                return

    def _more(self, first: Asked | None) -> tuple[list[Asked], bool]:
        asked: list[Asked] = []
        item = first
        while item is not None:
            asked.append(item)
            if len(asked) == self._together:
                return asked, False
            try:
                item = self._queue.get_nowait()
            except Empty:
                return asked, False
        return asked, True

    @staticmethod
    def _answer(asked: list[Asked]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[Asked]] = {}
        for one in asked:
            by_loop.setdefault(one.loop, []).append(one)
        for loop, ones in by_loop.items():
            try:
                loop.call_soon_threadsafe(_deliver, ones)
            except RuntimeError:  # the loop is closed; nobody waits any more
                _log.debug("answer after the end of the loop")

    def _rest(self) -> None:
        if self._idle is not None:
            try:
                self._idle()
            except Exception as error:
                _log.warning("store: cleaning failed: %s", type(error).__name__)
