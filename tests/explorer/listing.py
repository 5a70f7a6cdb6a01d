"""All keys of a server at one moment, and how they differ from those in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import redis

from dramatiq_clutch.backends.memory.keyspace import Hash, SortedSet

#: Lists all keys in one step. What it is told is for who reads of it in a history.
LIST = b"""
local found = {}
for index, key in ipairs(redis.call('KEYS', '*')) do
  local kind, value = redis.call('TYPE', key).ok, false
  if kind == 'hash' then value = redis.call('HGETALL', key)
  elseif kind == 'list' then value = redis.call('LRANGE', key, 0, -1)
  elseif kind == 'set' then value = redis.call('SMEMBERS', key)
  elseif kind == 'zset' then value = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  elseif kind == 'string' then value = redis.call('GET', key) end
  found[index] = {key, kind, redis.call('PTTL', key), value}
end
return {redis.call('TIME'), found}
"""

#: By how many milliseconds a key may expire earlier or later in memory.
CLOSE = 1_000


def is_ours(key: bytes) -> bool:
    """Whether it is a key of the library, whatever its broker's namespace."""
    return key.partition(b":")[0].endswith(b"-clutch")


@dataclass(frozen=True, slots=True)
class Listing:
    """The keys at a `time` (UNIX milliseconds), with their values as the store in memory keeps them."""

    time: int
    values: dict[bytes, Any]
    expires: dict[bytes, int]

    @property
    def ours(self) -> set[bytes]:
        """The library's keys. One that is about to expire may be gone elsewhere, so it doesn't count."""
        return {key for key in self.values if is_ours(key) and not self.is_going(key)}

    def is_going(self, key: bytes) -> bool:
        return key in self.expires and self.expires[key] - self.time < CLOSE


def list_keys(client: redis.Redis, told: bytes = b"") -> Listing:
    """All that the client's database has now."""
    caller: Any = client  # redis-py's types take no script of bytes
    (seconds, micros), found = caller.eval(LIST, 0, told)
    time = int(seconds) * 1000 + int(micros) // 1000
    values = {key: _value(kind, value) for key, kind, _, value in found}
    return Listing(time, values, {key: time + left for key, _, left, _ in found if left >= 0})


def _value(kind: bytes, value: Any) -> Any:
    if kind == b"hash":
        return Hash(zip(value[::2], value[1::2], strict=True))
    if kind == b"zset":
        return SortedSet(zip(value[::2], map(float, value[1::2]), strict=True))
    return set(value) if kind == b"set" else value


def differing(server: Listing, memory: Listing) -> Iterator[tuple[bytes, Any, Any, Any]]:
    """Each key and field that isn't the same, and how it is on the server and in memory; None if it isn't there."""
    for key in sorted(server.ours | memory.ours):
        if server.is_going(key) or memory.is_going(key):
            continue
        there, here = _fields(server.values.get(key)), _fields(memory.values.get(key))
        yield from (
            (key, name, there.get(name), here.get(name))
            for name in dict.fromkeys([*there, *here])
            if there.get(name) != here.get(name)
        )
        if there and here and abs(server.expires.get(key, 0) - memory.expires.get(key, 0)) > CLOSE:
            yield key, "its expiry", server.expires.get(key), memory.expires.get(key)


def _fields(value: Any) -> dict[Any, Any]:
    """The fields of a value of any kind, each with what can be compared."""
    if value is None:
        return {}
    if isinstance(value, SortedSet):
        return dict(value)
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, set):
        return dict.fromkeys(value, True)
    return {index: plain(one) for index, one in enumerate(value)} if isinstance(value, list) else {"value": value}


def plain(word: bytes) -> bytes:
    """The word; a JSON object, and those that are written in its fields, with their fields in order."""
    if not word.startswith(b"{"):
        return word
    return json.dumps(_ordered(word.decode("utf-8", "surrogateescape")), sort_keys=True).encode()


def _ordered(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("{"):
        try:
            return _ordered(json.loads(value))
        except ValueError:
            return value
    if isinstance(value, dict):
        return {name: _ordered(one) for name, one in value.items()}
    return [_ordered(one) for one in value] if isinstance(value, list) else value
