"""Watches a run: yields its status whenever that has changed, until the run is at rest."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import suppress
from dataclasses import dataclass

from dramatiq.logging import get_logger

from .errors import Unavailable
from .lookout import Watcher
from .status import RunStatus
from .waiting import PIECE, Waiter

logger: logging.Logger = get_logger(__name__)


@dataclass(frozen=True)
class Watch:
    """The statuses of a run, for a ``for`` or an ``async for``: see `Run.watch`. Each loop begins with the present
    one. For example, ``[status.progress for status in run.watch()]`` are all that it has come to."""

    run_id: str
    look: Callable[[], RunStatus]
    waiter: Waiter
    timeout: float | None = None  # after how many seconds a loop ends, if it isn't over; it has one status at least

    def __iter__(self) -> Generator[RunStatus, None, None]:
        bell, changes = threading.Event(), Changes.within(self.timeout)
        watcher = Watcher(self.waiter, self.run_id, self.look, bell.set)
        try:
            while not changes.are_over:
                bell.clear()
                status = changes.taken(watcher)
                if status is not None:
                    yield status
                if not changes.are_over:
                    _wait(bell, min(watcher.tick(), changes.rest))
        finally:
            watcher.leave()

    async def __aiter__(self) -> AsyncIterator[RunStatus]:
        bell, changes, loop = asyncio.Event(), Changes.within(self.timeout), asyncio.get_running_loop()

        def ring() -> None:
            with suppress(RuntimeError):  # the loop was closed before this watch
                loop.call_soon_threadsafe(bell.set)

        watcher = Watcher(self.waiter, self.run_id, self.look, ring)
        try:
            while not changes.are_over:
                bell.clear()
                status = changes.taken(watcher)
                if status is not None:
                    yield status
                if not changes.are_over:
                    with suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(bell.wait(), min(watcher.tick(), changes.rest))
        finally:
            watcher.leave()


@dataclass
class Changes:
    """What a watch has seen so far."""

    end: float
    last: RunStatus | None = None

    @classmethod
    def within(cls, timeout: float | None) -> Changes:
        return cls(math.inf if timeout is None else time.monotonic() + timeout)

    @property
    def are_over(self) -> bool:
        return self.last is not None and (self.last.state not in ("running", "failing") or not self.rest)

    @property
    def rest(self) -> float:
        """How many seconds there are left; until there is a status, it is waited for that."""
        return math.inf if self.last is None else max(self.end - time.monotonic(), 0)

    def taken(self, watcher: Watcher) -> RunStatus | None:
        """The status that the watcher finds, if that is another one than the last. If the store is away, that is waited
        through, but not by somebody who hasn't seen anything yet."""
        try:
            status = watcher.take()
        except Unavailable as error:
            if self.last is None:
                raise
            logger.debug("A watch goes on while the state store can't be read: %s", error)
            return None
        if status is None or status == self.last:
            return None
        self.last = status
        return status


def _wait(bell: threading.Event, seconds: float) -> None:
    """Wait for the bell, in pieces, between which Dramatiq's interrupts are raised."""
    end = time.monotonic() + seconds
    while not bell.is_set() and time.monotonic() < end:
        bell.wait(min(PIECE, max(end - time.monotonic(), 0)))
