"""Listens to hints over Redis's pub/sub."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from dramatiq.logging import get_logger

from ...backend import Listener
from ...errors import StateUnavailable
from .lazily import redis
from .outages import refuses_command

#: How many channels are subscribed to in one command, and how many names one call of `hear` returns at most.
CHUNK, MOST = 500, 1_000

#: A pool with fewer connections than this has none to spare for listening, which keeps one all the time.
LEAST_POOL = 3

logger: logging.Logger = get_logger(__name__)


def channel(namespace: str, name: str) -> str:
    """The channel for hints about a name. The scripts publish there that a run has come to rest."""
    return f"{namespace}:{{{name}}}:bell"


class RedisListener(Listener):
    """Listens over one connection of its own, which it keeps while it listens.

    Parameters:
      client: the client, as whose pool makes connections it makes its own.
      namespace: what the names of all channels begin with.
      told: the reasons for deafness that were logged already, since each is logged once. It is shared by all listeners
        of a store, and added to.
    """

    def __init__(self, client: Any, namespace: str, told: set[str]) -> None:
        self._client, self._namespace, self._told = client, namespace, told
        self._ears = _with_own_pool(client)
        self._own = channel(namespace, f"!listener-{secrets.token_hex(8)}")
        self._names: dict[bytes, str] = {}
        self._pubsub: Any = None
        self._woken = threading.Event()
        self._is_barred = False
        pool = getattr(client, "connection_pool", None)  # a RedisCluster has none of its own
        if getattr(pool, "max_connections", LEAST_POOL) < LEAST_POOL:
            self._bar("its client has fewer than 3 connections, and none to spare for listening; raise max_connections")

    def add(self, names: Iterable[str]) -> None:
        added = {channel(self._namespace, name).encode(): name for name in names}
        self._names |= added
        if self._pubsub is not None:
            with self._connected() as pubsub:
                _in_chunks(pubsub.subscribe, added)

    def remove(self, names: Iterable[str]) -> None:
        removed = [channel(self._namespace, name).encode() for name in names]
        for name in removed:
            self._names.pop(name, None)
        if self._pubsub is not None:
            with self._connected() as pubsub:
                _in_chunks(pubsub.unsubscribe, removed)

    def hear(self, timeout: float) -> Sequence[str]:
        heard: dict[str, None] = {}
        if not self._is_barred:
            with self._connected() as pubsub:
                message = pubsub.get_message(timeout=timeout)
                while message is not None:
                    name = self._names.get(message["channel"])
                    if name is not None and message["type"] in ("message", "subscribe"):
                        heard[name] = None
                    message = pubsub.get_message(timeout=0) if len(heard) < MOST else None
        elif self._woken.wait(timeout):
            self._woken.clear()
        return list(heard)

    def wake(self) -> None:
        self._woken.set()
        if self._pubsub is None:  # not connected yet: `hear` returns soon anyway, once the subscriptions have begun
            return
        try:
            self._client.publish(self._own, "")
        except (redis.RedisError, redis.exceptions.RedisClusterException) as error:
            if refuses_command(error):
                self._is_deaf_because(f"publishing isn't allowed: {error}")
            else:
                logger.debug("A listener couldn't be woken: %s", error)

    def close(self) -> None:
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            pubsub.close()

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """The subscription to all names, which is made anew if it was lost. If the server refuses it for good, this
        listener is deaf from then on."""
        try:
            if self._pubsub is None:
                self._pubsub = self._ears.pubsub()
                _in_chunks(self._pubsub.subscribe, [self._own.encode(), *self._names])
            yield self._pubsub
        except (redis.RedisError, redis.exceptions.RedisClusterException) as error:
            self.close()
            if refuses_command(error):
                self._bar(f"subscribing isn't allowed: {error}")
                return
            raise StateUnavailable(f"the state store can't be listened to for now: {error}") from error
        except BaseException:
            self.close()
            raise

    def _bar(self, reason: str) -> None:
        self._is_barred = True
        self._is_deaf_because(reason)

    def _is_deaf_because(self, reason: str) -> None:
        self.is_deaf = True
        if reason not in self._told:
            self._told.add(reason)
            logger.warning(
                "Results are waited for by looking several times a second, and not by listening to %s:*, because %s",
                self._namespace,
                reason,
            )


def _with_own_pool(client: Any) -> Any:
    """A client whose connections are like this one's, but aren't closed with it.

    Whoever closes a client closes all connections of its pool, also one on which another thread of this process
    listens. The system may then give the number of that socket to another one, whose bytes the listening thread would
    take. Pools of other classes than redis-py's own can't be made again, for nobody knows what they were made of: there
    the client itself is used.
    """
    pool: Any = getattr(client, "connection_pool", None)
    if pool is None or type(pool) not in (redis.ConnectionPool, redis.BlockingConnectionPool):
        return client
    return redis.Redis(connection_pool=redis.ConnectionPool(pool.connection_class, **pool.connection_kwargs))


def _in_chunks(command: Any, channels: Iterable[bytes]) -> None:
    rest = iter(channels)
    while chunk := list(islice(rest, CHUNK)):
        command(*chunk)
