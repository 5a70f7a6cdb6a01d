"""Watches a run: yields its status whenever that has changed, until the run is at rest."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from dramatiq.logging import get_logger

from .errors import Unavailable
from .status import RunStatus
from .waiting import LOOK_AGAIN, PIECE, Waiter

logger = get_logger(__name__)


@dataclass(frozen=True)
class Watch:
    """The statuses of a run, for a ``for`` or an ``async for``: see `Run.watch`. Each loop begins with the present
    one. For example, ``[status.progress for status in run.watch()]`` are all that it has come to."""

    run_id: str
    look: Callable[[], RunStatus]
    waiter: Waiter

    def __iter__(self) -> Iterator[RunStatus]:
        bell, changes = threading.Event(), Changes()
        self.waiter.watch(self.run_id, bell.set)
        try:
            while not changes.are_over:
                bell.clear()
                try:
                    status = self.waiter.look(self.run_id, self.look)
                except Unavailable as error:
                    changes.are_late(error)
                else:
                    if changes.are_in(status):
                        yield status
                if not changes.are_over:
                    _wait(bell, LOOK_AGAIN)
        finally:
            self.waiter.unwatch(self.run_id, bell.set)

    async def __aiter__(self) -> AsyncIterator[RunStatus]:
        bell, changes, loop = asyncio.Event(), Changes(), asyncio.get_running_loop()

        def ring() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(bell.set)

        self.waiter.watch(self.run_id, ring)
        try:
            while not changes.are_over:
                bell.clear()
                try:
                    status = await self.waiter.look_async(self.run_id, self.look)
                except Unavailable as error:
                    changes.are_late(error)
                else:
                    if changes.are_in(status):
                        yield status
                if not changes.are_over:
                    with suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(bell.wait(), LOOK_AGAIN)
        finally:
            self.waiter.unwatch(self.run_id, ring)


@dataclass
class Changes:
    """What a watch has seen so far."""

    last: RunStatus | None = None

    @property
    def are_over(self) -> bool:
        return self.last is not None and self.last.state not in ("running", "failing")

    def are_in(self, status: RunStatus) -> bool:
        """Whether a status is another one than the last, which it then is."""
        is_new, self.last = status != self.last, status
        return is_new

    def are_late(self, error: Unavailable) -> None:
        """The store is away. That is waited through, but not by somebody who hasn't seen anything yet."""
        if self.last is None:
            raise error
        logger.debug("A watch goes on while the state store can't be read: %s", error)


def _wait(bell: threading.Event, seconds: float) -> None:
    """Wait for the bell, in pieces, between which Dramatiq's interrupts are raised."""
    end = time.monotonic() + seconds
    while not bell.is_set() and time.monotonic() < end:
        bell.wait(min(PIECE, max(end - time.monotonic(), 0)))
