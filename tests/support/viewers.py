"""Viewers of the page of runs: many connections that are told how it changes, as browsers are."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.support.awaiting import PATIENCE, wait_until

#: How large an event may be, in bytes.
LARGEST = 2**24


@dataclass
class Viewer:
    """One who views a page. `seen` has what was read from each event, and `at` when that came (seconds)."""

    path: str
    seen: list[str] = field(default_factory=list)
    at: list[float] = field(default_factory=list)

    async def view(self, address: str, read: Callable[[str], str]) -> None:
        """Listen, until somebody cancels it."""
        server = urlsplit(address)
        reader, writer = await asyncio.open_connection(server.hostname, server.port, limit=LARGEST)
        try:
            # The older protocol, in which an answer isn't in chunks.
            writer.write(f"GET {self.path} HTTP/1.0\r\nHost: {server.netloc}\r\n\r\n".encode())
            async for line in reader:
                if line.startswith(b"data: ") and (data := json.loads(line[6:])):
                    self.seen.append(read(data))
                    self.at.append(time.perf_counter())
        finally:
            writer.close()


@contextmanager
def viewing(address: str, paths: Sequence[str], read: Callable[[str], str]) -> Iterator[list[Viewer]]:
    """A viewer for each of the paths, each with a connection of its own; until the end of the block. `read` makes of a
    page what is kept of it. What a connection raises is raised at the end."""
    viewers = [Viewer(path) for path in paths]
    loop = asyncio.new_event_loop()

    async def all_of_them() -> None:
        await asyncio.gather(*(viewer.view(address, read) for viewer in viewers))

    async def until_it_is_cancelled() -> None:
        try:
            await task
        except asyncio.CancelledError:
            return

    task = loop.create_task(all_of_them())
    thread = threading.Thread(target=loop.run_until_complete, args=(until_it_is_cancelled(),), name="viewers")
    thread.start()
    try:
        yield viewers
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(PATIENCE)
        loop.close()
    if not task.cancelled():
        task.result()


def all_see(viewers: Sequence[Viewer], what: str) -> None:
    """Wait until that is the last that each of them has seen."""
    wait_until(f"all to see {what!r}", lambda: all(viewer.seen[-1:] == [what] for viewer in viewers))
