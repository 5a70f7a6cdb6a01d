"""Waits for results. Each process has one waiter for a store, which serves all threads and coroutines that wait.

The waiter has two threads, however many wait. The *ear* listens, over a connection of its own, for hints that runs have
come to rest, and does nothing else. The *reader* looks at runs and reads their results, over another connection. So a
thread or coroutine that waits never calls the store itself, and its timeout or an interrupt takes effect at once, even
while the store is away. Both threads begin when somebody waits, and end when nobody has waited for a few seconds.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary, ref

from dramatiq.logging import get_logger
from dramatiq.results import ResultTimeout

from .backend import ClutchBackend, Listener
from .forks import renew_in_children
from .wait import Wait, now_or_never, settle_by_looking

#: How often the reader looks at all runs, in seconds. If a hint is lost, a result comes late by no more than that.
LOOK_AGAIN = 1.0

#: How often the reader looks if no hints can be heard, in seconds: the first pause, the longest pause, and the factor
#: by which pauses grow.
SOON, SELDOM, GROWTH = 0.02, 0.25, 1.5

#: How many runs the reader looks at each time, at most. If there are more, it looks at each of them less often.
MOST_LOOKED_AT = 1_000

#: How many looks of those who watch the reader takes before it looks whether runs are at rest for which somebody waits.
#: If there are always more, nobody is kept waiting for a result.
MOST_LOOKS = 50

#: How long to wait between two tries while the store is away, in seconds: at first, and at most.
BACKOFF, MAX_BACKOFF = 0.05, 1.0

#: How long an answer of the store may take, in seconds, before the store counts as away.
PATIENCE = 1.0

#: How long the threads stay when nobody waits, in seconds.
IDLE = 3.0

#: How long a thread waits in one piece at most, in seconds. Dramatiq's interrupts (a time limit, a shutdown) are raised
#: between two pieces.
PIECE = 0.5

logger: logging.Logger = get_logger(__name__)


class Waiter:
    """Serves all waits of this process for runs in one store. It holds the store by a weak reference only.

    Timeouts are in seconds from the call.
    """

    def __init__(self, backend: ClutchBackend) -> None:
        self._backend = ref(backend)
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """Begin anew in a forked child, because all waits are of threads of the parent."""
        self._changed = threading.Condition()
        self._waits: dict[str, dict[Wait, None]] = {}  # by name, in the order in which they are looked at next
        self._watches: dict[str, list[Callable[[], None]]] = {}
        self._fresh: dict[str, None] = {}  # names to look at now
        self._once: deque[Wait] = deque()  # waits that end with one look, whether the run is at rest or not
        self._news: dict[str, bool] = {}  # for the ear: whether to listen for a name from now on, or to stop that
        self._reader: threading.Thread | None = None
        self._ear: threading.Thread | None = None
        self._listener: Listener | None = None  # the ear's listener, while it works
        self._called: Listener | None = None  # the last listener that was woken
        self._error: Exception | None = None  # why the store can't be read, while it can't
        self._asked_at: float | None = None  # when the store was asked something that it hasn't answered yet
        self._pause = SOON

    # For those who wait

    def result(self, name: str, look: Callable[[], Any], timeout: float) -> Any:
        """Wait in a thread until the run is at rest, and return what `look` returns then. Raises what it raises, or
        ResultTimeout."""
        if timeout <= 0:
            return now_or_never(name, look)
        wait, deadline = Wait(name, look), time.monotonic() + timeout
        try:
            self._enter(wait)
            while True:
                rest = deadline - time.monotonic()
                concurrent.futures.wait([wait.outcome], max(min(rest, PIECE), 0))
                if wait.outcome.done() or (rest <= 0 and not wait.outcome.cancel()):
                    return wait.outcome.result()
                if rest <= 0:
                    error = self._too_late(wait)
                    raise error from error.__cause__
        finally:
            self._leave(wait)

    async def result_async(self, name: str, look: Callable[[], Any], timeout: float) -> Any:
        """Like `result`, for a coroutine. It doesn't block the event loop, nor does it take a thread of the loop's
        default executor."""
        if timeout <= 0:
            return await self.look_async(name, lambda: now_or_never(name, look))
        wait = Wait(name, look)
        try:
            self._enter(wait)
            return await asyncio.wait_for(asyncio.wrap_future(wait.outcome), timeout)
        except asyncio.TimeoutError:
            if not wait.outcome.cancelled():
                raise  # `look` has raised it
            error = self._too_late(wait)
            raise error from error.__cause__
        finally:
            self._leave(wait)

    async def look_async(self, name: str, look: Callable[[], Any]) -> Any:
        """What `look` returns or raises at present, for a coroutine; the reader calls it."""
        return await asyncio.wrap_future(self.ask(name, look).outcome)

    def ask(self, name: str, look: Callable[[], Any]) -> Wait:
        """Have the reader call `look()` as soon as possible: so all who look share its connection."""
        wait = Wait(name, look)
        with self._changed:
            self._once.append(wait)
            self._start_reader()
            self._changed.notify_all()
        return wait

    def watch(self, name: str, call: Callable[[], None]) -> None:
        """Have `call()` called, in the ear's thread, at each hint about a name. `call` must be quick and raise nothing.
        Hints in the first second, or while the store is away, may be missed."""
        with self._changed:
            self._watches.setdefault(name, []).append(call)
            self._news[name] = True
            self._start_ear()

    def unwatch(self, name: str, call: Callable[[], None]) -> None:
        with self._changed:
            calls = self._watches.get(name, [])
            if call in calls:
                calls.remove(call)
            if not calls and self._watches.pop(name, None) is not None:
                self._news[name] = False

    def _enter(self, wait: Wait) -> None:
        with self._changed:
            if wait.name not in self._waits:
                self._waits[wait.name] = {}
                self._news[wait.name] = True
            self._waits[wait.name][wait] = None
            self._fresh[wait.name] = None
            self._pause = SOON
            self._start_reader()
            self._changed.notify_all()

    def _leave(self, wait: Wait) -> None:
        wait.outcome.cancel()
        with self._changed:
            waits = self._waits.get(wait.name)
            if waits is None:
                return
            waits.pop(wait, None)
            if not waits:
                del self._waits[wait.name]
                self._fresh.pop(wait.name, None)
                self._news[wait.name] = False

    def _too_late(self, wait: Wait) -> ResultTimeout:
        is_silent = self._asked_at is not None and time.monotonic() - self._asked_at > PATIENCE
        if self._error is None and wait.was_asked and not is_silent:
            return ResultTimeout(f"run {wait.name!r} is still running")
        why = self._error or "it hasn't answered"
        error = ResultTimeout(f"how run {wait.name!r} stands isn't known: the state store can't be reached: {why}")
        error.__cause__ = self._error
        return error

    # The reader

    def _start_reader(self) -> None:
        if self._reader is None:
            self._reader = _started("clutch-reader", self._read)

    def _read(self) -> None:
        next_round, backoff = 0.0, 0.0
        while self._await_work():
            names = self._next_names(next_round, is_away=backoff > 0)
            try:
                self._look_at(names)
                backoff = 0.0
            except Exception as error:  # any error, even if it doesn't seem to pass: each wait has its own timeout
                logger.debug("Waits go on while the state store can't be read: %r", error)
                backoff = min(backoff * 2 or BACKOFF, MAX_BACKOFF)
                next_round = time.monotonic() + backoff
            else:
                if time.monotonic() >= next_round:
                    next_round = time.monotonic() + self._next_pause()

    def _await_work(self) -> bool:
        """Wait for work for the reader. Returns False if none has come for a few seconds: the reader then ends."""
        with self._changed:
            if self._changed.wait_for(lambda: self._waits or self._once, IDLE):
                return True
            self._reader = None
            return False

    def _next_names(self, next_round: float, *, is_away: bool) -> Collection[str]:
        """Wait for names to look at, and return them: names about which there was a hint, or for which somebody has
        just begun to wait; and, when the next round is due, those whose turn it is. While the store is away, it always
        waits for the next round."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._once or (self._fresh and not is_away), max(next_round - time.monotonic(), 0)
            )
            is_time = time.monotonic() >= next_round
            if not is_time and is_away:
                return ()
            names, self._fresh = self._fresh, {}
            for name in list(islice(self._waits, MOST_LOOKED_AT)) if is_time else ():
                self._waits[name] = self._waits.pop(name)
                names[name] = None
            return names

    def _next_pause(self) -> float:
        if self._listener is not None and not self._listener.is_deaf:
            return LOOK_AGAIN
        self._pause = min(self._pause * GROWTH, SELDOM)
        return self._pause

    def _look_at(self, names: Collection[str]) -> None:
        """Settle the waits for those of these runs that are at rest. Raises what the store raises; then the waits go
        on."""
        try:
            for _ in range(min(len(self._once), MOST_LOOKS)):
                self._asked_at = time.monotonic()
                settle_by_looking(self._once.popleft())
            self._asked_at = time.monotonic()
            backend, listing = self._backend(), list(names)
            if backend is None or not listing:
                return  # without a backend, nobody waits
            for name, is_over in zip(listing, backend.at_rest(listing), strict=True):
                self._give(name, is_over=is_over)
            self._error = None
        except Exception as error:
            self._error = error
            with self._changed:
                self._fresh |= {name: None for name in names if name in self._waits}
            raise
        finally:
            self._asked_at = None
        self._call_ear()

    def _give(self, name: str, *, is_over: bool) -> None:
        with self._changed:
            waits = list(self._waits.get(name, ()))
        for wait in waits:
            wait.was_asked = True
            if is_over and not wait.outcome.done():
                self._asked_at = time.monotonic()
                settle_by_looking(wait, patiently=True)
            if wait.outcome.done():
                self._leave(wait)

    def _call_ear(self) -> None:
        """Have the ear listen for the runs that must still be waited for. It is called only after the first look,
        because listening isn't worth it for a run that is at rest already. A listener that has just begun is woken once
        in any case, because only that shows whether it can be woken."""
        with self._changed:
            has_news = any(self._news.get(name) for name in self._waits.keys() & self._news.keys())
            if has_news:
                self._start_ear()
            listener, was_called = self._listener, self._listener is self._called
        if listener is not None and (has_news or not was_called):
            self._called = listener
            listener.wake()

    # The ear

    def _start_ear(self) -> None:
        backend = self._backend()
        if self._ear is None and backend is not None:
            listener = backend.listen()
            self._ear = _started("clutch-ear", lambda: self._hear(listener))

    def _hear(self, listener: Listener) -> None:
        listening, silent = set[str](), set[str]()  # `silent`: names for which the listener hasn't begun to listen yet
        backoff, needed_at = 0.0, time.monotonic()
        while True:
            with self._changed:
                added, removed = self._take_news(listening)
                if self._waits or self._watches:
                    needed_at = time.monotonic()
                elif backoff or time.monotonic() - needed_at > IDLE:
                    self._ear = self._listener = self._called = None
                    break
                self._changed.wait_for(lambda: not (self._waits or self._watches), backoff)
            listening, silent = listening - removed | added, silent - removed | added
            try:
                listener.add(added)
                listener.remove(removed)
                heard = listener.hear(LOOK_AGAIN)
            except Exception as error:
                logger.debug("Nothing can be heard for now: %r", error)
                self._listener, backoff = None, min(backoff * 2 or BACKOFF, MAX_BACKOFF)
                continue
            self._listener, backoff = listener, 0.0
            self._pass_on(heard, silent)
            silent.difference_update(heard)
        listener.close()

    def _take_news(self, listening: set[str]) -> tuple[set[str], set[str]]:
        """The names that the ear begins to listen for, and those that it stops listening for."""
        news, self._news = self._news, {}
        wanted = {name for name, is_wanted in news.items() if is_wanted}
        return wanted - listening, (news.keys() - wanted) & listening

    def _pass_on(self, heard: Iterable[str], silent: Collection[str]) -> None:
        with self._changed:
            self._fresh |= {name: None for name in heard if name in self._waits}
            calls = [call for name in heard if name not in silent for call in self._watches.get(name, ())]
            self._changed.notify_all()
        for call in calls:
            call()


_waiters: WeakKeyDictionary[ClutchBackend, Waiter] = WeakKeyDictionary()


def waiter_of(backend: ClutchBackend) -> Waiter:
    """The waiter that serves this process's waits for runs in this store."""
    waiter = _waiters.get(backend)
    return waiter if waiter is not None else _waiters.setdefault(backend, Waiter(backend))


def _started(name: str, target: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    return thread
