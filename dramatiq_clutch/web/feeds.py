"""Looks at a thing for all who view it: one look a second serves them all, however many they are.

A feed begins with its first viewer and ends with its last. It looks in a thread, and tells of what has changed only.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any

from dramatiq.logging import get_logger
from starlette.concurrency import run_in_threadpool

from ..errors import ClutchError, Unavailable

#: How often a feed looks, in seconds.
LOOK_AGAIN: float = 1.0

#: After how many seconds without news a viewer is sent a line all the same, so that what is between doesn't hang up.
HEARTBEAT: float = 15.0

logger: logging.Logger = get_logger(__name__)


class Feed:
    """Looks at one thing. Looks are counted when they begin, and `looked` is the number of the last that has ended.
    `number` counts what was told, and `event` is the last of it, as it is sent."""

    def __init__(self, look: Callable[[], Any], render: Callable[[Any], str]) -> None:
        self._look: Callable[[], Any] = look
        self._render: Callable[[Any], str] = render
        self.viewers: int = 0
        self.begun: int = 0
        self.looked: int = 0
        self.number: int = 0
        self.event: str = ""
        self.has_ended: bool = False
        self._changed: asyncio.Condition = asyncio.Condition()
        self.task: asyncio.Task[None] | None = None

    async def work(self) -> None:
        """Look until nobody views it any more, or there is nothing left to be looked at."""
        last: Any = None
        while self.viewers:
            self.begun += 1
            try:
                view = await run_in_threadpool(self._look)
                changed = await run_in_threadpool(self._render, view) if view != last else None
                last = view
                await self._tell(self.event if changed is None else event("view", changed))
            except Unavailable:  # the page tells so, and goes on when it is back
                last = None
                await self._tell(event("away", ""))
            except ClutchError as error:  # it has gone, or can't be read any more; a reload says which
                logger.debug("A page isn't live any more: %r", error)
                self.has_ended = True
                await self._tell(event("gone", ""))
                return
            await asyncio.sleep(LOOK_AGAIN)

    async def _tell(self, event: str) -> None:
        async with self._changed:
            self.looked = self.begun
            self.number += event != self.event
            self.event = event
            self._changed.notify_all()

    async def next(self, seen: int, since: int) -> int:
        """Wait until there is something newer than what was `seen`, of a look after the one with the number `since`; or
        for a heartbeat. Returns what is seen then."""
        try:
            async with self._changed:
                await asyncio.wait_for(
                    self._changed.wait_for(lambda: self.number > seen and self.looked > since), HEARTBEAT
                )
        except asyncio.TimeoutError:
            return seen  # nothing has changed, which the viewer is told
        return self.number


class Feeds:
    """The feeds of one application, by what they look at and the event loop that they work in."""

    def __init__(self) -> None:
        self._feeds: dict[Any, Feed] = {}

    async def follow(
        self, key: Any, look: Callable[[], Any], render: Callable[[Any], str]
    ) -> AsyncGenerator[str, None]:
        """What one viewer is sent, for as long as it listens."""
        key = (asyncio.get_running_loop(), key)
        feed = self._feeds.get(key)
        if feed is None:
            feed = self._feeds[key] = Feed(look, render)
        feed.viewers += 1
        since = feed.begun  # an older look may be older than the page that the viewer has
        if feed.task is None:
            feed.task = asyncio.create_task(feed.work())
        try:
            seen = 0
            yield "retry: 2000\n\n"
            while True:
                if feed.task.done() and not feed.has_ended:
                    feed.task.result()  # raises what has ended it
                    return
                number = await feed.next(seen, since)
                yield feed.event if number > seen else ": still here\n\n"
                seen = number
                if feed.has_ended:
                    return
        finally:
            feed.viewers -= 1
            if not feed.viewers:
                self._feeds.pop(key, None)
                feed.task.cancel()

    def __len__(self) -> int:
        return len(self._feeds)


def event(name: str, data: str) -> str:
    """A server-sent event. Its data is JSON in ASCII on one line, which no text can get out of."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
