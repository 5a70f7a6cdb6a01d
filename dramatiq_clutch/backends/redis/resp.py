"""Sends commands straight over one of a client's connections, those of several threads in one round trip.

There are two reasons not to let the client send them. Its own work for a command takes as long as the command itself;
and it repeats a command whose reply was lost, so that nobody can tell whether the command was done twice. Here the
caller handles every error.

A large command travels alone, so that no other command is lost if it is refused. Servers and proxies often don't say
that they refuse it: they close the connection in the middle of it. That is told from an outage by a small call right
afterwards: if the server answers the small call each time, several times in a row, it has refused the large one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import chain, groupby, islice
from typing import Any
from weakref import WeakKeyDictionary, finalize, ref

from ...errors import PayloadRefused
from ...forks import renew_in_children
from .combining import Combining
from .lazily import redis
from .outages import LARGE, LENGTH, LIMITS, in_words, refuses

Command = Sequence[Any]

#: How many commands, and how many bytes, a call may have to share a round trip with those of other threads. A larger
#: call makes a round trip of its own, so that nobody else waits for it.
FEW, FEW_BYTES = 10, 20_000

#: How long to wait between two tries to send a large command, in seconds. If the connection is closed at the last try,
#: too, the server has refused the command.
PAUSES = (0.1, 0.5)

#: For how many seconds at most a connection is kept from one round trip to the next, without being given back to its
#: pool. What the pool does for that takes a quarter of a round trip's processor time. Whether the server has closed the
#: connection is looked at here, too. One that was kept for longer is given back after the round trip that needs it,
#: because after a pause somebody may be waiting for that.
KEPT_FOR = 1.0

#: How many connections a pool may have at least, if one is kept. A pool with fewer may have been counted out.
MANY = 100

#: A command as it goes over the wire.
Packed = bytes

_wires: WeakKeyDictionary[redis.Redis, Combining[Sequence[Packed], list[Any]]] = WeakKeyDictionary()

#: The connection that is kept of each client's pool, if one is, and until when (of the monotonic clock).
_kept: WeakKeyDictionary[redis.Redis, list[tuple[Any, float]]] = WeakKeyDictionary()


def send(client: redis.Redis, commands: Sequence[Command]) -> list[Any]:
    """Send commands in one round trip, and return their answers; an error of the server is an answer, too. A large
    command makes a round trip of its own, between the commands before it and those behind it.

    Raises ConnectionError or TimeoutError: then some of the commands may have been done. Raises PayloadRefused if the
    server doesn't take a large command: then those before it have been done.
    """
    ready = [packed(command) for command in commands]
    if any(len(one) >= LARGE for one in ready):
        return _send_apart(client, commands, ready)
    if len(ready) > FEW or sum(map(len, ready)) > FEW_BYTES:
        return _send(client, ready)
    wire = _wires.get(client)
    if wire is None:
        the_client = ref(client)  # a strong reference from the value would keep the weak dictionary's key for ever
        wire = _wires.setdefault(client, Combining(lambda batches: _send_all(the_client(), batches), _interrupted))
    return wire(ready)


def ask(client: redis.Redis, command: Command, *, alone: bool = False) -> Any:
    """Send one command, and return its answer. With `alone` it doesn't wait for, or travel with, other threads'
    commands. Raises what `send` raises, and an error that the server answers."""
    (answer,) = _send_alone(client, command, packed(command)) if alone else send(client, [command])
    if isinstance(answer, Exception):
        raise answer
    return answer


def own_connection(client: redis.Redis, **settings: Any) -> Any:
    """A new connection to a client's server, which isn't one of the client's pool, and by which nothing is repeated; it
    connects when it is used. With these `settings` in place of the pool's."""
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    pool: Any = client.connection_pool
    return pool.connection_class(**{**pool.connection_kwargs, "retry": Retry(NoBackoff(), 0), **settings})


def renew_pool(client: redis.Redis) -> None:
    """Begin a client's pool anew in a forked child; in place, because other clients may share the pool.

    A pool notices a fork by itself and drops its connections. But since redis-py 8.1 it takes its lock to do so, which
    another thread of the parent may have held when the process forked. Pools of other classes are left as they are,
    because it isn't known with which parameters they were made.
    """
    pool: Any = client.connection_pool
    made_of = {"connection_class": pool.connection_class, "max_connections": pool.max_connections}
    if type(pool) is redis.BlockingConnectionPool:
        made_of |= {"timeout": pool.timeout, "queue_class": pool.queue_class}
    elif type(pool) is not redis.ConnectionPool:
        return
    type(pool).__init__(pool, **made_of, **pool.connection_kwargs)


class _Pools:
    """The pools of all clients that commands were sent for, to be renewed in forked children."""

    def renew(self) -> None:
        for kept in list(_kept.values()):
            kept.clear()  # they are the parent's
        for client in list(_wires):
            renew_pool(client)


_pools = _Pools()
renew_in_children(_pools)


def size_of(parts: Sequence[Any]) -> int:
    """About how many bytes a command, or a part of one, takes on the wire. The estimate is never too high: it leaves
    out numbers and the protocol's own bytes."""
    return sum(len(part) for part in parts if isinstance(part, bytes | str))


def carry(size: int, call: Callable[[], Any], works: Callable[[], bool]) -> Any:
    """Make a call that carries a payload of `size` bytes, and return what it returns.

    Parameters:
      works: says whether the server answers a small call. If it does, while the connection is closed on the large call
        three times in a row, the server has refused the large one.

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
            # Subclasses of ConnectionError don't mean that the connection was closed: they are answers (LOADING,
            # NOAUTH), or say that the pool has no connection left.
            if type(error) is not redis.ConnectionError or not works():
                raise
            if pause is None:
                raise _refused(size, error) from error
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def small_call(command: Command) -> Command:
    """A small script on the first key of a large one: a proxy sends both to the same server, and a user that may call
    one may call the other."""
    return "EVAL", "return 1", 1, command[3]


def _refused(size: int, error: Exception) -> PayloadRefused:
    closed = f"the connection was closed {len(PAUSES) + 1} times, while a small call worked; "
    how = "" if isinstance(error, redis.ResponseError) else closed
    return PayloadRefused(f"the server refuses a payload of {size:,} bytes ({LIMITS}): {how}{in_words(error)}")


def _send_alone(client: redis.Redis, command: Command, ready: Packed) -> list[Any]:
    return [_send_large(client, command, ready)] if len(ready) >= LARGE else _send(client, [ready])


def _send_apart(client: redis.Redis, commands: Sequence[Command], ready: Sequence[Packed]) -> list[Any]:
    """Send each large command in a round trip of its own, and those between two large ones together; all in order."""
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
    """Whether the server answers this call, which is made over a new connection."""
    connection = own_connection(client)
    try:
        connection.send_packed_command([packed(command)])
        return bool(connection.read_response() == 1)
    except redis.exceptions.NoPermissionError:
        return True  # the server has answered, though it doesn't allow the call
    except (redis.RedisError, OSError):
        return False
    finally:
        connection.disconnect()


def _send_all(client: redis.Redis | None, batches: Sequence[Sequence[Packed]]) -> list[list[Any]]:
    assert client is not None  # `send` holds the client while this runs
    answers = iter(_send(client, list(chain(*batches))))
    return [list(islice(answers, len(batch))) for batch in batches]


def _interrupted() -> Exception:
    return redis.ConnectionError("a round trip was interrupted: nobody can tell what was done")


def _send(client: redis.Redis, ready: Sequence[Packed]) -> list[Any]:
    connection, until = _connection(client)
    try:
        connection.send_packed_command([b"".join(ready)])
        answers = [_answer(connection) for _ in ready]
    except BaseException:
        connection.disconnect()  # otherwise the next user of the connection would read these answers
        until = 0.0
        raise
    else:
        if isinstance(answers[-1], redis.ResponseError) and LENGTH.search(str(answers[-1])):
            connection.disconnect()  # after a protocol error the server closes its end, too
            until = 0.0
        return answers
    finally:
        _give_back(client, connection, until)


def _connection(client: redis.Redis) -> tuple[Any, float]:
    """A connection for a round trip, and until when it may be kept: the one that is kept, or else one of the pool."""
    pool: Any = client.connection_pool
    kept, now = _kept_of(client), time.monotonic()
    try:
        connection, until = kept.pop()
    except IndexError:
        pass
    else:
        try:
            if not connection.can_read():  # otherwise the server has closed it, or has sent what nobody has asked for
                return connection, until if now < until else 0.0
        except (redis.ConnectionError, redis.TimeoutError, OSError):
            connection.disconnect()  # the server has closed it while it was kept; the pool opens it again
        except BaseException:
            pool.release(connection)
            raise
        pool.release(connection)
    connection = pool.get_connection() if redis.VERSION >= (5, 3) else pool.get_connection("EVALSHA")
    return connection, now + KEPT_FOR if pool.max_connections >= MANY else 0.0


def _give_back(client: redis.Redis, connection: Any, until: float) -> None:
    """Keep a connection, unless another one is kept or it may not be; then the pool gets it back."""
    kept = _kept_of(client)
    if until and not kept:
        kept.append((connection, until))
    else:
        client.connection_pool.release(connection)


def _kept_of(client: redis.Redis) -> list[tuple[Any, float]]:
    """The connection that is kept of a client's pool, if one is. Once the client is gone, its pool, which others may
    share, gets it back."""
    kept = _kept.get(client)
    if kept is None:
        new: list[tuple[Any, float]] = []
        kept = _kept.setdefault(client, new)
        if kept is new:
            finalize(client, _let_go, client.connection_pool, kept).atexit = False
    return kept


def _let_go(pool: Any, kept: list[tuple[Any, float]]) -> None:
    while kept:
        connection, _ = kept.pop()
        pool.release(connection)


def packed(command: Command) -> Packed:
    """A command in RESP, the protocol of Redis. The client's own packing takes four times as long."""
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
