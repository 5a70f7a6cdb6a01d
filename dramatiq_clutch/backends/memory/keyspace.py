"""Keys with their values and expiry times, and the clock by which a key expires."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import redis

Value = TypeVar("Value")


class Hash(dict[bytes, bytes]):
    """A field, and its value."""


class SortedSet(dict[bytes, float]):
    """A member, and its score."""


class Clock:
    """The time of a store in memory, in UNIX milliseconds.

    Parameters:
      at: The time at which it stands still until it is advanced. Without one it goes as real time does.
    """

    def __init__(self, at: int | None = None) -> None:
        self._at = at
        self._ahead = 0

    def now(self) -> int:
        """The time, in UNIX milliseconds."""
        base = time.time_ns() // 1_000_000 if self._at is None else self._at
        return base + self._ahead

    def advance(self, ms: int) -> None:
        """Move on by so many milliseconds. Raises ValueError for a negative number: time doesn't go back."""
        if ms < 0:
            raise ValueError(f"a clock can't be advanced by {ms} ms: time doesn't go back")
        self._ahead += ms

    def reset(self) -> None:
        """Forget how far it was advanced."""
        self._ahead = 0

    @property
    def ahead(self) -> int:
        """By how many milliseconds it was advanced."""
        return self._ahead

    @ahead.setter
    def ahead(self, ms: int) -> None:
        self._ahead = ms


@dataclass(frozen=True, slots=True)
class Saved:
    """A copy of all keys at one moment, and by how much the clock was advanced then."""

    values: dict[bytes, Any]
    expires: dict[bytes, int]
    ahead: int


class Keyspace:
    """All keys. What each command does with them is in `commands`.

    A value is bytes (what the server calls a string), a list or a set of bytes, a Hash or a SortedSet; one that gets
    empty goes. `now` is set once for each command of a client or script, so that time stands still while it works, as
    on the server.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.values: dict[bytes, Any] = {}
        self.expires: dict[bytes, int] = {}
        self.now = 0
        self.publish: Callable[[bytes, bytes], int] = lambda _channel, _message: 0

    def begin(self) -> None:
        """Look at the clock, before a command or a script."""
        self.now = self.clock.now()

    def is_there(self, key: bytes) -> bool:
        """Whether a key is there; one whose time has come goes at this."""
        if key not in self.values:
            return False
        if self.expires.get(key, self.now + 1) > self.now:
            return True
        self.remove(key)
        return False

    def find(self, key: bytes, kind: type[Value]) -> Value | None:
        """A key's value, or None. Raises ResponseError if it is of another kind."""
        if not self.is_there(key):
            return None
        value = self.values[key]
        if not isinstance(value, kind):
            raise redis.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")
        return value

    def find_or_make(self, key: bytes, kind: type[Value]) -> Value:
        """A key's value, which is made if there is none. Raises ResponseError if it is of another kind."""
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
        """Remove every key whose time has come. A key goes when it is asked for, so this is for who looks at all."""
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
