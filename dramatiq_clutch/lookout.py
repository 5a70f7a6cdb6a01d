"""Looks at a run for all who watch it in this process. One look serves them all, however many they are.

A lookout has the waiter's reader look when there is a hint about the run, when somebody begins to watch, and when its
last look is a second old, which those who watch notice. There is one look at a time: what is asked for before it has
begun is served by it, and what is asked for while it goes on, by the next one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from weakref import WeakKeyDictionary

from .forks import renew_in_children
from .status import RunStatus
from .waiting import LOOK_AGAIN, Waiter

#: How much earlier than after LOOK_AGAIN it may be looked again, in seconds: clocks and timers differ a little.
EARLY = 0.05


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look has found. Looks are counted; `at` is when it ended, by the monotonic clock."""

    number: int
    at: float
    status: RunStatus | None = None
    error: Exception | None = None
    traceback: TracebackType | None = None

    def take(self) -> RunStatus | None:
        """The status. Raises the error, with the traceback of the look: many raise it, and each would add to it."""
        if self.error is not None:
            raise self.error.with_traceback(self.traceback)
        return self.status


class Lookout:
    """Looks at the run `name`. Bells ring after each look, whatever it has found."""

    def __init__(self, name: str, look: Callable[[], RunStatus], waiter: Waiter) -> None:
        self.name: str = name
        self.waiter: Waiter = waiter
        self._look_at_it = look
        self._begun = 0
        self.last: Seen | None = None
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """Begin anew in a forked child, where nobody is about to look."""
        self._lock = threading.Lock()
        self.bells: dict[Callable[[], None], None] = {}
        self._is_asked = self._is_looking = False

    def ask(self) -> None:
        """Have it looked as soon as possible, but not by a look that has begun already."""
        with self._lock:
            is_asked, self._is_asked = self._is_asked, True
            if is_asked or self._is_looking:
                return
        self.waiter.ask(self.name, self._look)

    def next_number(self) -> int:
        """The number that the next look has which begins from now on."""
        with self._lock:
            return self._begun + 1

    def tick(self, bell: Callable[[], None]) -> float:
        """Have it looked if the last look is a second old. Returns after how many seconds this has to be called again,
        if the bell doesn't ring before."""
        with self._lock:
            self.bells[bell] = None  # in a forked child, it isn't there yet
            rest = LOOK_AGAIN if self.last is None else self.last.at + LOOK_AGAIN - time.monotonic()
            is_due = not (self._is_asked or self._is_looking) and (self.last is None or rest < EARLY)
        if is_due:
            self.ask()
        return rest if rest >= EARLY else LOOK_AGAIN

    def _look(self) -> None:
        with self._lock:
            self._is_asked, self._is_looking = False, True
            self._begun += 1
            number = self._begun
        try:
            seen = Seen(number, time.monotonic(), self._look_at_it())
        except Exception as error:  # any error: those who watch raise it
            seen = Seen(number, time.monotonic(), error=error, traceback=error.__traceback__)
        with self._lock:
            self.last, self._is_looking = seen, False
            asks_again, bells = self._is_asked, list(self.bells)
        if asks_again:
            self.waiter.ask(self.name, self._look)
        for bell in bells:
            bell()


class Lookouts:
    """The lookouts of this process."""

    def __init__(self) -> None:
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """Begin anew in a forked child, because those who watch are threads of the parent."""
        self._lock = threading.Lock()
        self._known: WeakKeyDictionary[Waiter, dict[str, Lookout]] = WeakKeyDictionary()

    def join(self, waiter: Waiter, name: str, look: Callable[[], RunStatus], bell: Callable[[], None]) -> Lookout:
        """The lookout for this run, whose looks ring the bell from now on."""
        with self._lock:
            known = self._known.setdefault(waiter, {})
            lookout = known.get(name)
            if lookout is None:
                lookout = known[name] = Lookout(name, look, waiter)
                waiter.watch(name, lookout.ask)
            lookout.bells[bell] = None
            return lookout

    def of(self, waiter: Waiter) -> dict[str, Lookout]:
        """Those for runs that somebody watches, by name."""
        with self._lock:
            return dict(self._known.get(waiter, {}))

    def leave(self, lookout: Lookout, bell: Callable[[], None]) -> None:
        with self._lock:
            lookout.bells.pop(bell, None)
            known = self._known.get(lookout.waiter, {})
            if not lookout.bells:
                lookout.waiter.unwatch(lookout.name, lookout.ask)
                if known.get(lookout.name) is lookout:
                    del known[lookout.name]


LOOKOUTS = Lookouts()


class Watcher:
    """Somebody who watches a run, and whose bell rings when there may be something to take."""

    def __init__(self, waiter: Waiter, name: str, look: Callable[[], RunStatus], bell: Callable[[], None]) -> None:
        self._bell = bell
        self._lookout = LOOKOUTS.join(waiter, name, look, bell)
        self._next = self._lookout.next_number()
        self._lookout.ask()

    def take(self) -> RunStatus | None:
        """What the newest look has found, but for one that was taken before, or had begun before this watcher came:
        then it is None. So whoever comes seldom gets what is new, and nothing in between. Raises what the look has
        raised."""
        seen = self._lookout.last
        if seen is None or seen.number < self._next:
            return None
        self._next = seen.number + 1
        return seen.take()

    def tick(self) -> float:
        """See `Lookout.tick`."""
        return self._lookout.tick(self._bell)

    def leave(self) -> None:
        LOOKOUTS.leave(self._lookout, self._bell)
