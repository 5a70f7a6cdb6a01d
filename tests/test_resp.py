"""Round trips over a connection that is kept for a moment."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from dramatiq_clutch.backends.redis import resp
from tests.support.awaiting import PATIENCE, wait_until
from tests.support.server import Server


class Watched:
    """A client, and how often its pool has given a connection."""

    def __init__(self, url: str, **options: Any) -> None:
        self.client: Any = redis.Redis.from_url(url, **options)
        self.given = 0
        pool: Any = self.client.connection_pool
        works = pool.get_connection

        def get_connection(*args: Any, **more: Any) -> Any:
            self.given += 1
            return works(*args, **more)

        pool.get_connection = get_connection

    def ping(self) -> Any:
        return resp.ask(self.client, ("PING",))

    def id(self) -> int:
        return int(resp.ask(self.client, ("CLIENT", "ID")))


@pytest.fixture
def watched(server: Server, redis_client: redis.Redis) -> Iterator[Watched]:
    found = Watched(server.url)
    yield found
    found.client.close()


def test_a_connection_is_kept_from_one_round_trip_to_the_next(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resp, "KEPT_FOR", 3_600.0)
    assert len({watched.id() for _ in range(5)}) == 1
    assert watched.given == 1


def test_a_connection_goes_back_to_its_pool_which_looks_at_it(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first round trip that comes when it was kept for long enough."""
    monkeypatch.setattr(resp, "KEPT_FOR", 0.0)
    assert len({watched.id() for _ in range(5)}) == 1
    assert watched.given == 3


def test_a_small_pool_gets_each_connection_back_at_once(server: Server, redis_client: redis.Redis) -> None:
    watched = Watched(server.url, max_connections=1)
    watched.ping()
    assert watched.client.ping()  # by the client, which has no other connection
    watched.ping()
    watched.client.close()


def test_a_connection_that_breaks_in_a_round_trip_is_not_kept(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(connection: Any) -> Any:
        raise redis.ConnectionError("it is lost")

    with monkeypatch.context() as patch:
        patch.setattr(resp, "_answer", answer)
        with pytest.raises(redis.ConnectionError):
            watched.ping()
    assert watched.ping() == b"PONG"
    assert watched.given == 2


def test_a_client_that_was_closed_connects_again(watched: Watched) -> None:
    watched.ping()
    watched.client.close()
    assert watched.ping() == b"PONG"


def test_a_round_trip_that_takes_long_keeps_no_other_waiting(watched: Watched) -> None:
    answers: list[Any] = []
    waits = threading.Thread(target=lambda: answers.append(resp.ask(watched.client, ("BLPOP", "bell", 0), alone=True)))
    other = redis.Redis(connection_pool=watched.client.connection_pool)
    waits.start()
    wait_until("it waits", lambda: any(one["cmd"] == "blpop" for one in other.client_list()))
    assert watched.ping() == b"PONG"
    resp.ask(watched.client, ("RPUSH", "bell", "rung"))
    waits.join(PATIENCE)
    assert answers == [[b"bell", b"rung"]]
