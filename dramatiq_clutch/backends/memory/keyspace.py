"""Keys with their values and expiry times, and the clock by which a key expires."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from ...durations import Duration, milliseconds
from ..redis.lazily import redis

Value = TypeVar("Value")


class Hash(dict[bytes, bytes]):
    """Fields and their values."""


class SortedSet(dict[bytes, float]):
    """Members and their scores."""


class Clock:
    """The clock of a store in memory, in UNIX milliseconds. A test advances it instead of waiting: with
    ``store = StubBackend(clock=Clock(at=0))``, ``store.clock.advance(60_000)`` is a minute.

    Parameters:
      at: the time at which the clock stands still until it is advanced. Without it the clock runs as real time does.
    """

    def __init__(self, at: int | None = None) -> None:
        self._at = at
        self._ahead = 0

    def now(self) -> int:
        """The clock's time, in UNIX milliseconds."""
        base = time.time_ns() // 1_000_000 if self._at is None else self._at
        return base + self._ahead

    def advance(self, by: Duration) -> None:
        """Advance the clock by so many milliseconds, or by a timedelta. Raises ValueError for a negative one: time
        doesn't go back."""
        self._ahead += milliseconds(by, "what a clock is advanced by")

    def reset(self) -> None:
        """Undo all advances."""
        self._ahead = 0

    @property
    def ahead(self) -> int:
        """By how many milliseconds the clock was advanced."""
        return self._ahead

    @ahead.setter
    def ahead(self, ms: int) -> None:
        self._ahead = ms


@dataclass(frozen=True, slots=True)
class Saved:
    """A copy of all keys at one moment, and by how many milliseconds the clock was advanced (`ahead`)."""

    values: dict[bytes, Any]
    expires: dict[bytes, int]
    ahead: int


class Keyspace:
    """Holds all keys. What each command does with them is in `commands`.

    A value is bytes (what the server calls a string), a list or a set of bytes, a Hash or a SortedSet; a key whose
    value gets empty is removed. `now` is set when a client's command or script begins, so that time stands still while
    it works, as it does on the server.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.values: dict[bytes, Any] = {}
        self.expires: dict[bytes, int] = {}
        self.now: int = 0
        self.publish: Callable[[bytes, bytes], int] = lambda _channel, _message: 0

    def begin(self) -> None:
        """Set `now` by the clock, before a command or a script."""
        self.now = self.clock.now()

    def is_there(self, key: bytes) -> bool:
        """Whether a key exists. A key that has expired is removed by asking for it."""
        if key not in self.values:
            return False
        if self.expires.get(key, self.now + 1) > self.now:
            return True
        self.remove(key)
        return False

    def find(self, key: bytes, kind: type[Value]) -> Value | None:
        """A key's value; None if there is none. Raises ResponseError if it is of another kind."""
        if not self.is_there(key):
            return None
        value = self.values[key]
        if not isinstance(value, kind):
            raise redis.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")
        return value

    def find_or_make(self, key: bytes, kind: type[Value]) -> Value:
        """A key's value, which is created if there is none. Raises ResponseError if it is of another kind."""
        found = self.find(key, kind)
        if found is None:
            found = self.values[key] = kind()
        return found

    def remove(self, key: bytes) -> None:
        self.values.pop(key, None)
        self.expires.pop(key, None)

    def remove_if_empty(self, key: bytes) -> None:
        if not self.values.get(key, True):
            self.remove(key)

    def clear(self) -> None:
        self.values.clear()
        self.expires.clear()

    def expire(self) -> None:
        """Remove every key that has expired. Call it before looking at all keys, because an expired key otherwise stays
        until it is asked for."""
        self.begin()
        for key, at in list(self.expires.items()):
            if at <= self.now:
                self.remove(key)

    def save(self) -> Saved:
        self.expire()
        values = {key: copy.copy(value) for key, value in self.values.items()}
        return Saved(values, dict(self.expires), self.clock.ahead)

    def restore(self, saved: Saved) -> None:
        self.values = {key: copy.copy(value) for key, value in saved.values.items()}
        self.expires = dict(saved.expires)
        self.clock.ahead = saved.ahead
