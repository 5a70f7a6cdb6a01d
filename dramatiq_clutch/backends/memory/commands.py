"""The Redis commands that the scripts and the store call, on a keyspace. Other commands aren't implemented.

Every argument is bytes. A command returns what the server replies: None, an int, bytes, a Status, or a list of these.
It raises ResponseError with the same text as the server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..redis.lazily import redis
from .keyspace import Hash, Keyspace, SortedSet
from .numbers import between, between_names, in_order, integer_of, range_of, score_of, text_of

Command = Callable[..., Any]

COMMANDS: dict[bytes, Command] = {}


class Status(bytes):
    """A status reply, such as OK, which scripts see as a table."""


class UnknownCommand(NotImplementedError):
    """The store in memory doesn't implement the command: it has to be added to this module."""


OK = Status(b"OK")


def command(function: Command) -> Command:
    """Register a function as the command of its name. Use it as a decorator."""
    COMMANDS[function.__name__.strip("_").upper().encode()] = function
    return function


def execute(keys: Keyspace, name: bytes, args: Sequence[bytes]) -> Any:
    """Run a command, whose name is in capitals.

    Raises UnknownCommand with its name, and ResponseError with the server's text.
    """
    found = COMMANDS.get(name)
    if found is None:
        raise UnknownCommand(f"the store in memory has no command {name.decode()}: add it to {__name__}")
    return found(keys, *args)


# Keys


@command
def exists(keys: Keyspace, *names: bytes) -> int:
    return sum(keys.is_there(name) for name in names)


@command
def unlink(keys: Keyspace, *names: bytes) -> int:
    there = [name for name in dict.fromkeys(names) if keys.is_there(name)]
    for name in there:
        keys.remove(name)
    return len(there)


COMMANDS[b"DEL"] = COMMANDS[b"UNLINK"]


@command
def rename(keys: Keyspace, old: bytes, new: bytes) -> Status:
    if not keys.is_there(old):
        raise redis.ResponseError("ERR no such key")
    value, at = keys.values[old], keys.expires.get(old)
    keys.remove(old)
    keys.remove(new)
    keys.values[new] = value
    if at is not None:
        keys.expires[new] = at
    return OK


@command
def pexpire(keys: Keyspace, key: bytes, ms: bytes) -> int:
    life = integer_of(ms)
    if not keys.is_there(key):
        return 0
    keys.expires[key] = keys.now + life
    return int(keys.is_there(key) or life <= 0)


@command
def pttl(keys: Keyspace, key: bytes) -> int:
    if not keys.is_there(key):
        return -2
    return keys.expires[key] - keys.now if key in keys.expires else -1


# Strings


@command
def get(keys: Keyspace, key: bytes) -> bytes | None:
    return keys.find(key, bytes)


@command
def set_(keys: Keyspace, key: bytes, value: bytes, *options: bytes) -> Status:
    if options and options[0].upper() != b"PX":
        raise redis.ResponseError("ERR syntax error")
    life = integer_of(options[1]) if options else None
    if life is not None and life <= 0:
        raise redis.ResponseError("ERR invalid expire time in 'set' command")
    keys.remove(key)
    keys.values[key] = value
    if life is not None:
        keys.expires[key] = keys.now + life
    return OK


# Hashes


@command
def hget(keys: Keyspace, key: bytes, field: bytes) -> bytes | None:
    found = keys.find(key, Hash)
    return found.get(field) if found else None


@command
def hmget(keys: Keyspace, key: bytes, *fields: bytes) -> list[bytes | None]:
    found = keys.find(key, Hash) or Hash()
    return [found.get(field) for field in fields]


@command
def hgetall(keys: Keyspace, key: bytes) -> list[bytes]:
    return [part for pair in (keys.find(key, Hash) or {}).items() for part in pair]


@command
def hkeys(keys: Keyspace, key: bytes) -> list[bytes]:
    return list(keys.find(key, Hash) or ())


@command
def hlen(keys: Keyspace, key: bytes) -> int:
    return len(keys.find(key, Hash) or ())


@command
def hexists(keys: Keyspace, key: bytes, field: bytes) -> int:
    return int(field in (keys.find(key, Hash) or ()))


@command
def hstrlen(keys: Keyspace, key: bytes, field: bytes) -> int:
    found = keys.find(key, Hash)
    return len(found.get(field, b"")) if found else 0


@command
def hset(keys: Keyspace, key: bytes, *pairs: bytes) -> int:
    if not pairs or len(pairs) % 2:
        raise redis.ResponseError("ERR wrong number of arguments for 'hset' command")
    fields = keys.find_or_make(key, Hash)
    before = len(fields)
    fields.update(zip(pairs[::2], pairs[1::2], strict=True))
    return len(fields) - before


@command
def hsetnx(keys: Keyspace, key: bytes, field: bytes, value: bytes) -> int:
    fields = keys.find_or_make(key, Hash)
    if field in fields:
        return 0
    fields[field] = value
    return 1


@command
def hdel(keys: Keyspace, key: bytes, *fields: bytes) -> int:
    return _take_out(keys, key, Hash, fields)


@command
def hincrby(keys: Keyspace, key: bytes, field: bytes, increment: bytes) -> int:
    by, before = integer_of(increment), hget(keys, key, field)
    value = by if before is None else by + integer_of(before, "ERR hash value is not an integer")
    keys.find_or_make(key, Hash)[field] = b"%d" % value
    return value


# Lists


@command
def llen(keys: Keyspace, key: bytes) -> int:
    return len(keys.find(key, list) or ())


@command
def rpush(keys: Keyspace, key: bytes, *values: bytes) -> int:
    found: list[bytes] = keys.find_or_make(key, list)
    found += values
    return len(found)


@command
def lrange(keys: Keyspace, key: bytes, start: bytes, stop: bytes) -> list[bytes]:
    return range_of(keys.find(key, list) or [], start, stop)


# Sets


@command
def sadd(keys: Keyspace, key: bytes, *members: bytes) -> int:
    found: set[bytes] = keys.find_or_make(key, set)
    before = len(found)
    found.update(members)
    return len(found) - before


@command
def srem(keys: Keyspace, key: bytes, *members: bytes) -> int:
    found: set[bytes] = keys.find(key, set) or set()
    before = len(found)
    found.difference_update(members)
    keys.remove_if_empty(key)
    return before - len(found)


# Sorted sets


@command
def zadd(keys: Keyspace, key: bytes, *args: bytes) -> int:
    only_there = args[0].upper() == b"XX"
    pairs = args[only_there:]
    if not pairs or len(pairs) % 2:
        raise redis.ResponseError("ERR syntax error")
    scores = {member: score_of(score) for score, member in zip(pairs[::2], pairs[1::2], strict=True)}
    if only_there:
        there = keys.find(key, SortedSet) or SortedSet()
        there.update((member, score) for member, score in scores.items() if member in there)
        return 0
    found = keys.find_or_make(key, SortedSet)
    before = len(found)
    found.update(scores)
    return len(found) - before


@command
def zrem(keys: Keyspace, key: bytes, *members: bytes) -> int:
    return _take_out(keys, key, SortedSet, members)


@command
def zcard(keys: Keyspace, key: bytes) -> int:
    return len(keys.find(key, SortedSet) or ())


@command
def zcount(keys: Keyspace, key: bytes, least: bytes, most: bytes) -> int:
    return sum(1 for _ in between(keys.find(key, SortedSet), least, most))


@command
def zrange(keys: Keyspace, key: bytes, start: bytes, stop: bytes) -> list[bytes]:
    return range_of(in_order((keys.find(key, SortedSet) or {}).items()), start, stop)


@command
def zrangebyscore(keys: Keyspace, key: bytes, least: bytes, most: bytes, *options: bytes) -> list[bytes]:
    found = in_order(between(keys.find(key, SortedSet), least, most))
    if not options:
        return found
    if options[0].upper() != b"LIMIT" or len(options) != 3:
        raise redis.ResponseError("ERR syntax error")
    offset, count = integer_of(options[1]), integer_of(options[2])
    if offset < 0:
        return []
    return found[offset:] if count < 0 else found[offset : offset + count]


@command
def zlexcount(keys: Keyspace, key: bytes, least: bytes, most: bytes) -> int:
    return len(between_names(keys.find(key, SortedSet), least, most))


@command
def zrevrangebylex(
    keys: Keyspace, key: bytes, most: bytes, least: bytes, _limit: bytes, offset: bytes, count: bytes
) -> list[bytes]:
    found = between_names(keys.find(key, SortedSet), least, most)[::-1]
    return found[integer_of(offset) : integer_of(offset) + integer_of(count)]


@command
def zscore(keys: Keyspace, key: bytes, member: bytes) -> bytes | None:
    score = (keys.find(key, SortedSet) or SortedSet()).get(member)
    return None if score is None else text_of(score)


@command
def zmscore(keys: Keyspace, key: bytes, *members: bytes) -> list[bytes | None]:
    found = keys.find(key, SortedSet) or SortedSet()
    scores = (found.get(member) for member in members)
    return [None if score is None else text_of(score) for score in scores]


# Channels


@command
def publish(keys: Keyspace, channel: bytes, message: bytes) -> int:
    return keys.publish(channel, message)


def _take_out(keys: Keyspace, key: bytes, kind: type[Hash] | type[SortedSet], names: Iterable[bytes]) -> int:
    found = keys.find(key, kind)
    if not found:
        return 0
    before = len(found)
    for name in names:
        found.pop(name, None)
    keys.remove_if_empty(key)
    return before - len(found)
