"""Each way to reach the server that keeps the runs: by socket, user, database, protocol, pool and timeout."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import dramatiq
import pytest
import redis
from dramatiq.brokers.stub import StubBroker
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from dramatiq_clutch import Clutch, RedisBackend, RunFailed, StateUnavailable
from tests.conftest import as_global_broker, running_worker
from tests.support.awaiting import wait_until
from tests.support.jobs import Jobs
from tests.support.server import Server

pytestmark = pytest.mark.heavy

T = TypeVar("T")


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A server that has a user, and listens on a socket of the file system, too."""
    socket = tmp_path_factory.mktemp("socket") / "s"
    with Server(config=(f"unixsocket {socket}", "user clutch on >secret ~* &* +@all")) as server:
        yield server, socket


@contextmanager
def jobs_on(client: redis.Redis) -> Iterator[Jobs]:
    with as_global_broker(StubBroker(), RedisBackend(client=client)):
        yield Jobs(dramatiq.get_broker())
    client.close()


def from_url(url: str) -> Any:
    return lambda server, socket: redis.Redis.from_url(url.format(port=server.port, socket=socket))


def client(**options: Any) -> Any:
    return lambda server, socket: redis.Redis(port=server.port, **options)


def pool(kind: type[redis.ConnectionPool], size: int) -> Any:
    return lambda server, socket: redis.Redis(connection_pool=kind(port=server.port, max_connections=size))


WAYS: dict[str, Any] = {
    "a unix socket": from_url("unix://{socket}"),
    "a unix socket and a database": from_url("unix://{socket}?db=3"),
    "a user and a password": from_url("redis://clutch:secret@127.0.0.1:{port}/0"),
    "a database": from_url("redis://127.0.0.1:{port}/5"),
    "RESP2": client(protocol=2),
    "RESP3": client(protocol=3),
    "retries": client(retry=Retry(ExponentialBackoff(cap=0.1, base=0.01), 6), health_check_interval=1),
    "one connection": client(single_connection_client=True),
    "a pool of 2": pool(redis.ConnectionPool, 2),
    "a blocking pool of 1": pool(redis.BlockingConnectionPool, 1),
    "a blocking pool of 3": pool(redis.BlockingConnectionPool, 3),
    "a short socket timeout": client(socket_timeout=0.5, socket_connect_timeout=0.5),
}


@pytest.mark.parametrize("way", WAYS)
def test_runs_live_whatever_way_the_server_is_reached(own_server: tuple[Server, Path], way: str) -> None:
    client, at = WAYS[way](*own_server), way.replace(" ", "-")
    if way == "one connection" and not hasattr(client, "single_connection_lock"):
        pytest.skip("in this release of redis-py such a client is for one thread only")
    with jobs_on(client) as jobs, running_worker(jobs.broker):
        inner = Clutch().parallel(jobs.job.message(name) for name in "xy")
        # Where a call of the worker's finds no connection, what it belongs to is done again, and messages are sent
        # twice: so b dies however often it is executed, and callbacks may be heard twice.
        jobs.script["b"] = ["fail", *["die"] * 50]
        clutch = Clutch(**jobs.callbacks("root")).then(jobs.job.message("a")).parallel(jobs.job.message("b"), inner)
        clutch.then(jobs.total)
        run = answer(lambda: clutch.run(run_id=f"root/{at}"))
        with pytest.raises(RunFailed):
            run.get_result(block=True)
        wait_until("the callbacks", lambda: set(jobs.fired("root").split()) == {"D", "E", "F", "X"})
        jobs.script["b"].clear()
        answer(run.retry)
        assert run.get_result(block=True) == ["b", ["x", "y"]]
        jobs.script["late"] = ["wait"] * 50
        late = Clutch().parallel(jobs.job.message("late"), jobs.job.message("beside"))
        other = answer(lambda: late.run(run_id=f"other/{at}"))
        answer(other.cancel)
        wait_until("the run to be cancelled", lambda: answer(other.status).state == "cancelled")
        jobs.gates["late"].set()
        answer(other.retry)
        assert other.get_result(block=True) == ["late", "beside"]


def answer(call: Callable[[], T]) -> T:
    """What a call says in the end: as long as others have all connections of a small pool, it has to be made again."""
    answers: list[T] = []

    def is_there() -> bool:
        with suppress(StateUnavailable):
            answers.append(call())
        return bool(answers)

    wait_until("an answer", is_there)
    return answers[0]


def test_a_result_is_waited_for_longer_than_the_socket_timeout(own_server: tuple[Server, Path]) -> None:
    way = client(socket_timeout=0.1)
    with jobs_on(way(*own_server)) as jobs, running_worker(jobs.broker):
        jobs.script["long"] = ["wait"]
        run = Clutch().then(jobs.job.message("long")).run()
        opener = threading.Timer(0.5, jobs.gates["long"].set)
        opener.start()
        assert run.get_result(block=True) == "long"
        opener.join()
