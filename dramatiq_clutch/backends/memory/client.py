"""The part of a Redis client that the store uses, on a keyspace in this process."""

from __future__ import annotations

import abc
import hashlib
import threading
from collections.abc import Mapping, Sequence
from queue import Empty, SimpleQueue
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

from ..redis.lazily import redis
from .commands import execute
from .keyspace import Keyspace
from .scripts import Scripts


class Commands(abc.ABC):
    """A method for each command that the store calls by name, as in `redis.Redis`."""

    @abc.abstractmethod
    def execute_command(self, name: str, *args: Any) -> Any:
        """Do one command, or put it in the pipeline."""

    def hmget(self, key: str, fields: Any, *more: str) -> Any:
        return self.execute_command("HMGET", key, *([fields] if isinstance(fields, str) else fields), *more)

    def zadd(self, key: str, scores: Mapping[Any, float], *, xx: bool = False) -> Any:
        pairs = [part for member, score in scores.items() for part in (score, member)]
        return self.execute_command("ZADD", key, *(["XX"] if xx else []), *pairs)

    def zrangebyscore(self, key: str, least: Any, most: Any, start: int, num: int) -> Any:
        return self.execute_command("ZRANGEBYSCORE", key, least, most, "LIMIT", start, num)

    def zcount(self, key: str, least: Any, most: Any) -> Any:
        return self.execute_command("ZCOUNT", key, least, most)

    def exists(self, *keys: str) -> Any:
        return self.execute_command("EXISTS", *keys)

    def get(self, key: str) -> Any:
        return self.execute_command("GET", key)

    def hget(self, key: str, field: str) -> Any:
        return self.execute_command("HGET", key, field)

    def hlen(self, key: str) -> Any:
        return self.execute_command("HLEN", key)

    def zcard(self, key: str) -> Any:
        return self.execute_command("ZCARD", key)

    def lrange(self, key: str, start: int, stop: int) -> Any:
        return self.execute_command("LRANGE", key, start, stop)

    def pexpire(self, key: str, ms: int) -> Any:
        return self.execute_command("PEXPIRE", key, ms)

    def pttl(self, key: str) -> Any:
        return self.execute_command("PTTL", key)

    def unlink(self, *keys: str) -> Any:
        return self.execute_command("UNLINK", *keys)

    def publish(self, channel: str, message: str) -> Any:
        return self.execute_command("PUBLISH", channel, message)

    def zrange(self, key: str, start: int, stop: int) -> Any:
        return self.execute_command("ZRANGE", key, start, stop)

    def zrem(self, key: str, *members: Any) -> Any:
        return self.execute_command("ZREM", key, *members)


class MemoryClient(Commands):
    """Does one command at a time, for any number of threads."""

    def __init__(self, keys: Keyspace) -> None:
        self.keys = keys
        self.renew()

    def renew(self) -> None:
        """Begin anew in a forked child, with a copy of the parent's keys: nobody listens yet, and no lock is held."""
        self.lock: Any = threading.RLock()
        self._scripts = Scripts(self.keys)
        self._texts: dict[str, bytes] = {}
        self.listeners: WeakSet[MemoryPubSub] = WeakSet()
        self.keys.publish = self._tell

    def knows(self, sha: str) -> bool:
        """Whether a script was sent, so that it may be called by its SHA."""
        return sha in self._texts

    def get_encoder(self) -> SimpleNamespace:
        """Says, as a client's encoder does, that replies are bytes."""
        return SimpleNamespace(decode_responses=False)

    def execute_command(self, name: str, *args: Any) -> Any:
        """Do one command. Raises the error that the server would answer."""
        ready = [arg if type(arg) is bytes else str(arg).encode() for arg in args]
        with self.lock:
            self.keys.begin()
            try:
                return self._reply(name, ready)
            except redis.ResponseError as error:
                raise type(error)(str(error).removeprefix("ERR ")) from None  # redis-py drops this prefix, too

    def hgetall(self, key: str) -> dict[bytes, bytes]:
        parts = self.execute_command("HGETALL", key)
        return dict(zip(parts[::2], parts[1::2], strict=True))

    def _reply(self, name: str, args: Sequence[bytes]) -> Any:
        if name == "EVAL":
            sha = hashlib.sha1(args[0], usedforsecurity=False).hexdigest()
            self._texts[sha] = args[0]
            return self._evaluate(sha, args)
        if name == "EVALSHA":
            return self._evaluate(args[0].decode(), args)
        return execute(self.keys, name.encode(), args)

    def _evaluate(self, sha: str, args: Sequence[bytes]) -> Any:
        if sha not in self._texts:
            raise redis.exceptions.NoScriptError("No matching script. Please use EVAL.")
        last = 2 + int(args[1])
        return self._scripts.run(sha, self._texts[sha], args[2:last], args[last:])

    def pipeline(self, transaction: bool = True) -> MemoryPipeline:  # noqa: ARG002
        return MemoryPipeline(self)

    def pubsub(self) -> MemoryPubSub:
        return MemoryPubSub(self.listeners)

    def _tell(self, channel: bytes, message: bytes) -> int:
        return sum(listener.tell(channel, message) for listener in list(self.listeners))


class MemoryPipeline(Commands):
    """Collects commands, and does them one after the other when `execute` is called."""

    def __init__(self, client: MemoryClient) -> None:
        self._client = client
        self._commands: list[tuple[Any, ...]] = []

    def execute_command(self, name: str, *args: Any) -> Any:
        self._commands.append((name, *args))
        return self

    def execute(self, *, raise_on_error: bool = True) -> list[Any]:
        """Do all commands, and return their replies. With `raise_on_error` it raises the first error; otherwise errors
        are among the replies."""
        replies = [self._reply(*command) for command in self._commands]
        for reply in replies:
            if raise_on_error and isinstance(reply, Exception):
                raise reply
        return replies

    def _reply(self, *command: Any) -> Any:
        try:
            return self._client.execute_command(*command)
        except redis.ResponseError as error:
            return error


class MemoryPubSub:
    """Receives what is published on the channels that it is subscribed to. Any thread may call `tell`, and one thread
    reads."""

    def __init__(self, listeners: WeakSet[MemoryPubSub]) -> None:
        self._channels: frozenset[bytes] = frozenset()
        self._messages: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._listeners = listeners
        listeners.add(self)

    def subscribe(self, *channels: bytes) -> None:
        self._channels |= frozenset(channels)
        for channel in channels:
            self._messages.put({"type": "subscribe", "channel": channel, "data": 0})

    def unsubscribe(self, *channels: bytes) -> None:
        self._channels -= frozenset(channels)

    def tell(self, channel: bytes, message: bytes) -> bool:
        is_heard = channel in self._channels
        if is_heard:
            self._messages.put({"type": "message", "channel": channel, "data": message})
        return is_heard

    def get_message(self, *, timeout: float = 0) -> dict[str, Any] | None:
        """Return the next message, after waiting for it for `timeout` seconds at most; None if there is none."""
        try:
            return self._messages.get(block=timeout > 0, timeout=timeout if timeout > 0 else None)
        except Empty:
            return None

    def close(self) -> None:
        self._listeners.discard(self)
