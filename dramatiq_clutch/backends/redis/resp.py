"""Commands straight over one of a client's connections, several threads' in one round trip.

What the client itself does for each command costs as much again as the command, and it repeats one whose reply is lost,
when nobody can tell whether it was done twice. Here an error is the caller's to handle.

A large command travels alone, so that nobody else's suffers if it is refused. Servers and proxies often don't say that
they refuse it: they close the connection in the middle of it. What tells that from an outage is that the server does a
small call right afterwards, several times in a row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import chain, groupby, islice
from typing import Any
from weakref import WeakKeyDictionary, ref

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ...errors import PayloadRefused
from ...forks import renew_in_children
from .combining import Combining
from .outages import LARGE, LENGTH, LIMITS, in_words, refuses

Command = Sequence[Any]

#: How many commands may travel with those of others. More go by themselves: nobody else is to wait for them.
FEW = 10

#: How long to wait between the tries to get a large command through, in seconds. The server has refused it when it has
#: closed the connection once more than that.
PAUSES = (0.1, 0.5)

#: A command as it goes over the wire.
Packed = bytes

_wires: WeakKeyDictionary[redis.Redis, Combining[Sequence[Packed], list[Any]]] = WeakKeyDictionary()


def send(client: redis.Redis, commands: Sequence[Command]) -> list[Any]:
    """The answers to commands that are sent in one round trip; an error of the server is an answer, too. A large one
    makes a round trip of its own, between those before and those behind it.

    Raises ConnectionError or TimeoutError: then some may have been done. Raises PayloadRefused if the server doesn't
    take a large one; those before it have been done.
    """
    ready = [packed(command) for command in commands]
    if any(len(one) >= LARGE for one in ready):
        return _send_apart(client, commands, ready)
    if len(ready) > FEW:
        return _send(client, ready)
    wire = _wires.get(client)
    if wire is None:
        the_client = ref(client)  # a wire that held its client would keep it for ever
        wire = _wires.setdefault(client, Combining(lambda batches: _send_all(the_client(), batches), _interrupted))
    return wire(ready)


def ask(client: redis.Redis, command: Command, *, alone: bool = False) -> Any:
    """The answer to one command; `alone` waits for nobody else's. Raises what the server answers, besides."""
    (answer,) = _send_apart(client, [command], [packed(command)]) if alone else send(client, [command])
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


def size_of(parts: Sequence[Any]) -> int:
    """About how many bytes a command, or a part of one, takes on the wire; never more."""
    return sum(len(part) for part in parts if isinstance(part, bytes | str))


def carry(size: int, call: Callable[[], Any], works: Callable[[], bool]) -> Any:
    """What a call returns that carries a payload of `size` bytes.

    Parameters:
      works: Says whether the server does a small call. Where it does, a connection that it closes on the large one is
        taken for a refusal, if that happens three times in a row.

    Raises PayloadRefused, and what the call raises.
    """
    for pause in (*PAUSES, None):
        try:
            return call()
        except redis.ResponseError as error:
            if refuses(error, size):
                raise _refused(size, error) from error
            raise
        except redis.ConnectionError as error:
            # Its subclasses are answers (LOADING, NOAUTH), or no connection is left in the pool.
            if type(error) is not redis.ConnectionError or not works():
                raise
            if pause is None:
                raise _refused(size, error) from error
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def small_call(command: Command) -> Command:
    """A small script on the first key of a large one: a proxy sends it to the same server, and whoever may call the
    one may call the other."""
    return "EVAL", "return 1", 1, command[3]


def _refused(size: int, error: Exception) -> PayloadRefused:
    closed = f"the connection was closed {len(PAUSES) + 1} times, while a small call worked; "
    how = "" if isinstance(error, redis.ResponseError) else closed
    return PayloadRefused(f"the server refuses a payload of {size:,} bytes ({LIMITS}): {how}{in_words(error)}")


def _send_apart(client: redis.Redis, commands: Sequence[Command], ready: Sequence[Packed]) -> list[Any]:
    """The large ones one by one, and the others as they stand between them."""
    answers: list[Any] = []
    for is_large, group in groupby(zip(commands, ready, strict=True), key=lambda pair: len(pair[1]) >= LARGE):
        if is_large:
            answers += [_send_large(client, *pair) for pair in group]
        else:
            answers += _send(client, [one for _, one in group])
    return answers


def _send_large(client: redis.Redis, command: Command, ready: Packed) -> Any:
    def call() -> Any:
        (answer,) = _send(client, [ready])
        if isinstance(answer, redis.ResponseError) and refuses(answer, len(ready)):
            raise answer
        return answer

    return carry(len(ready), call, lambda: _works(client, small_call(command)))


def _works(client: redis.Redis, command: Command) -> bool:
    """Whether the server does this call, over a connection of its own."""
    pool: Any = client.connection_pool
    connection = pool.connection_class(**{**pool.connection_kwargs, "retry": Retry(NoBackoff(), 0)})
    try:
        connection.send_packed_command([packed(command)])
        return bool(connection.read_response() == 1)
    except redis.exceptions.NoPermissionError:
        return True  # its own word, too
    except (redis.RedisError, OSError):
        return False
    finally:
        connection.disconnect()


def _send_all(client: redis.Redis | None, batches: Sequence[Sequence[Packed]]) -> list[list[Any]]:
    assert client is not None  # whoever calls holds it
    answers = iter(_send(client, list(chain(*batches))))
    return [list(islice(answers, len(batch))) for batch in batches]


def _interrupted() -> Exception:
    return redis.ConnectionError("a round trip was interrupted: nobody can tell what was done")


def _send(client: redis.Redis, ready: Sequence[Packed]) -> list[Any]:
    pool: Any = client.connection_pool
    connection = pool.get_connection() if redis.VERSION >= (5, 3) else pool.get_connection("EVALSHA")
    try:
        connection.send_packed_command([b"".join(ready)])
        answers = [_answer(connection) for _ in ready]
    except BaseException:
        connection.disconnect()  # or the next one to use it would read our answers
        raise
    else:
        if isinstance(answers[-1], redis.ResponseError) and LENGTH.search(str(answers[-1])):
            connection.disconnect()  # the server closes it now
        return answers
    finally:
        pool.release(connection)


def packed(command: Command) -> Packed:
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
