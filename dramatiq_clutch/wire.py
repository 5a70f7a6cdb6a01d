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

from .together import Together

Command = Sequence[Any]

#: How many commands may travel with those of others. More go by themselves: nobody else is to wait for them.
FEW = 10

_wires: WeakKeyDictionary[redis.Redis, Together[Sequence[Command], list[Any]]] = WeakKeyDictionary()


def send(client: redis.Redis, commands: Sequence[Command]) -> list[Any]:
    """The answers to commands that are sent in one round trip; an error of the server is an answer, too.

    Raises ConnectionError or TimeoutError: then some may have been done.
    """
    if len(commands) > FEW:
        return _send(client, commands)
    wire = _wires.get(client)
    if wire is None:
        the_client = ref(client)  # a wire that held its client would keep it for ever
        wire = _wires.setdefault(client, Together(lambda batches: _send_all(the_client(), batches), _interrupted))
    return wire(commands)


def ask(client: redis.Redis, command: Command, *, alone: bool = False) -> Any:
    """The answer to one command; `alone` waits for nobody else's. Raises what the server answers, besides."""
    (answer,) = (_send if alone else send)(client, [command])
    if isinstance(answer, Exception):
        raise answer
    return answer


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
