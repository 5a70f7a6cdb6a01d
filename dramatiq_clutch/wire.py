"""Commands straight over one of a client's connections, several threads' in one round trip.

What the client itself does for each command costs as much again as the command, and it repeats one whose reply is lost,
when nobody can tell whether it was done twice. Here an error is the caller's to handle.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice
from typing import Any
from weakref import WeakKeyDictionary, ref

import redis

from .forks import renew_in_children
from .together import Together

Command = Sequence[Any]

#: How many commands may travel with those of others. More go by themselves: nobody else is to wait for them.
FEW = 10

_wires: WeakKeyDictionary[redis.Redis, Together[Sequence[Command], list[Any]]] = WeakKeyDictionary()


def send(client: redis.Redis, commands: Sequence[Command]) -> list[Any]:
    """The answers to commands that are sent in one round trip; an error of the server is an answer, too.

    Raises ConnectionError or TimeoutError: then some may have been done.
    """
    wire = _wires.get(client)
    if wire is None:
        the_client = ref(client)  # a wire that held its client would keep it for ever
        wire = _wires.setdefault(client, Together(lambda batches: _send_all(the_client(), batches), _interrupted))
    return wire(commands) if len(commands) <= FEW else _send(client, commands)


def ask(client: redis.Redis, command: Command, *, alone: bool = False) -> Any:
    """The answer to one command; `alone` waits for nobody else's. Raises what the server answers, besides."""
    (answer,) = (_send if alone else send)(client, [command])
    if isinstance(answer, Exception):
        raise answer
    return answer


def renew_pool(client: redis.Redis) -> None:
    """Begin a client's pool anew in a forked child, in place, for others may share it.

    A pool notices a fork by itself and drops its connections, but newer ones (redis-py 8.1) take their lock for that,
    which another thread of the parent may have held. Pools of other classes are left as they are: nobody knows what
    they were made of.
    """
    pool: Any = client.connection_pool
    made_of = {"connection_class": pool.connection_class, "max_connections": pool.max_connections}
    if type(pool) is redis.BlockingConnectionPool:
        made_of |= {"timeout": pool.timeout, "queue_class": pool.queue_class}
    elif type(pool) is not redis.ConnectionPool:
        return
    type(pool).__init__(pool, **made_of, **pool.connection_kwargs)


class _Pools:
    """Those of all clients that send over a wire."""

    def renew(self) -> None:
        for client in list(_wires):
            renew_pool(client)


_pools = _Pools()
renew_in_children(_pools)


def _send_all(client: redis.Redis | None, batches: Sequence[Sequence[Command]]) -> list[list[Any]]:
    assert client is not None  # whoever calls holds it
    answers = iter(_send(client, list(chain(*batches))))
    return [list(islice(answers, len(batch))) for batch in batches]


def _interrupted() -> Exception:
    return redis.ConnectionError("a round trip was interrupted: nobody can tell what was done")


def _send(client: redis.Redis, commands: Sequence[Command]) -> list[Any]:
    pool: Any = client.connection_pool
    connection = pool.get_connection() if redis.VERSION >= (5, 3) else pool.get_connection("EVALSHA")
    try:
        connection.send_packed_command([b"".join(map(packed, commands))])
        return [_answer(connection) for _ in commands]
    except BaseException:
        connection.disconnect()  # or the next one to use it would read our answers
        raise
    finally:
        pool.release(connection)


def packed(command: Command) -> bytes:
    """A command as RESP, the servers' protocol; a client's own packing takes four times as long."""
    values: list[Any] = [len(command)]
    for part in command:
        blob = part if type(part) is bytes else str(part).encode()
        values += (len(blob), blob)
    return (b"*%d\r\n" + b"$%d\r\n%b\r\n" * len(command)) % tuple(values)


def _answer(connection: Any) -> Any:
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error
