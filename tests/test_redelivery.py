"""What a dead worker leaves unacked comes again soon, on an idle system, too; and looking for it costs little."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import MessageProxy
from dramatiq.brokers.redis import RedisBroker
from dramatiq.common import current_millis, dq_name

from dramatiq_clutch import Clutch, ClutchMiddleware
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.errors import BrokerUnavailable
from tests.conftest import running_worker
from tests.support import actors
from tests.support.awaiting import wait_until
from tests.support.commands import executed
from tests.support.server import Server
from tests.support.workers import Worker

#: In milliseconds. Whoever has been silent for so long counts as dead: it is longer than any of these tests.
HEARTBEAT = 600_000


class Place:
    """Brokers of one namespace, whose own scripts never do maintenance; each of them is another process's."""

    def __init__(self, server: Server) -> None:
        self.server, self.namespace = server, f"idle-{uuid.uuid4().hex[:8]}"
        self.clients: list[redis.Redis] = []

    def broker(self, **settings: Any) -> RedisBroker:
        client = self.server.client()
        self.clients.append(client)
        broker = RedisBroker(client=client, namespace=self.namespace, heartbeat_timeout=HEARTBEAT, maintenance_chance=0)
        broker.add_middleware(ClutchMiddleware(**{"sweep_interval": 100, **settings}))
        broker.emit_after("process_boot")
        broker.declare_queue("default")
        return broker

    def redeliver(self, broker: RedisBroker) -> None:
        engine_of(broker).courier.redeliver()


@pytest.fixture
def place(server: Server, redis_client: redis.Redis) -> Iterator[Place]:
    place = Place(server)
    yield place
    redis_client.flushall()  # Dramatiq's heartbeats never expire
    for client in place.clients:
        client.close()


def fetch(broker: RedisBroker, queue: str = "default") -> list[MessageProxy]:
    found: Any = broker.do_fetch(queue, 10)
    return [MessageProxy(dramatiq.Message.decode(data)) for data in found]


def fall_silent(broker: RedisBroker, *, ago: int = HEARTBEAT) -> None:
    """As if its process had died so many milliseconds ago."""
    broker.client.zadd(f"{broker.namespace}:__heartbeats__", {broker.broker_id: current_millis() - ago})


def message(queue: str = "default") -> dramatiq.Message[Any]:
    return dramatiq.Message(queue_name=queue, actor_name="job", args=(), kwargs={}, options={})


@pytest.mark.parametrize("delay", [None, 60_000])
def test_what_a_silent_worker_has_fetched_comes_again_of_delay_queues_too(place: Place, delay: int | None) -> None:
    dead, other = place.broker(), place.broker()
    queue = "default" if delay is None else dq_name("default")
    dead.enqueue(message(), delay=delay)
    (fetched,) = fetch(dead, queue)
    place.redeliver(other)
    assert fetch(other, queue) == []
    fall_silent(dead)
    place.redeliver(other)
    assert [one.message_id for one in fetch(other, queue)] == [fetched.message_id]


def test_what_a_live_worker_works_on_stays_its_own(place: Place) -> None:
    live, other = place.broker(), place.broker()
    live.enqueue(message())
    assert fetch(live)
    fall_silent(live)
    place.redeliver(live)  # it isn't silent: it says so with this very call
    place.redeliver(other)
    assert fetch(other) == []


def test_an_idle_look_is_one_command_however_many_producers_there_were(place: Place, redis_client: redis.Redis) -> None:
    producers, other = [place.broker() for _ in range(5)], place.broker()
    for producer in producers:
        producer.enqueue(message())
        fall_silent(producer, ago=10 * HEARTBEAT)
    place.redeliver(other)
    before = executed(redis_client)
    for _ in range(10):
        place.redeliver(other)
    assert executed(redis_client) - before == {"zrangebyscore": 10}


def test_a_look_that_fails_is_repeated_by_the_next_one(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    dead, other = place.broker(), place.broker()
    dead.enqueue(message())
    fetch(dead)
    fall_silent(dead)
    works = other.client.pipeline

    def broken(**_: Any) -> Any:
        raise redis.ConnectionError("gone")

    monkeypatch.setattr(other.client, "pipeline", broken)
    with pytest.raises(BrokerUnavailable, match="gone"):
        place.redeliver(other)
    monkeypatch.setattr(other.client, "pipeline", works)
    place.redeliver(other)
    assert len(fetch(other)) == 1


def test_a_queue_that_is_declared_later_is_looked_after_from_then_on(place: Place) -> None:
    dead, other = place.broker(), place.broker()
    dead.declare_queue("later")
    dead.enqueue(message("later"))
    fetch(dead, "later")
    fall_silent(dead)
    place.redeliver(other)
    other.declare_queue("later")
    place.redeliver(other)
    assert len(fetch(other, "later")) == 1


def test_an_idle_worker_takes_over_what_a_dead_one_had_begun(place: Place) -> None:
    dead, other = place.broker(), place.broker()
    ran: list[str] = []

    def job() -> str:
        ran.append("job")
        return "done"

    for broker in (dead, other):
        dramatiq.actor(broker=broker)(job)
    run = Clutch(broker=dead).then(dead.get_actor("job")).run()
    assert fetch(dead)
    fall_silent(dead)
    with running_worker(other, timeout=1_000):
        assert run.get_result(block=True) == "done"
    assert ran == ["job"]


def test_where_nobody_sweeps_nobody_looks(place: Place) -> None:
    dead, other = place.broker(), place.broker(sweep_interval=None)
    looks: list[int] = []
    engine_of(other).courier.redeliver = lambda: looks.append(1)  # type: ignore[method-assign]
    with running_worker(other):
        other.enqueue(message())
        wait_until("it has been fetched", lambda: not dead.client.llen(f"{place.namespace}:default"))
    assert looks == []


@pytest.mark.process
def test_a_worker_that_is_killed_on_an_idle_system_is_replaced_within_the_heartbeat_timeout(
    server: Server, redis_client: redis.Redis
) -> None:
    """Dramatiq's own script would never look: it is asked to by the other worker's sweeper."""
    setting = actors.Setting(server.url, heartbeat=2_000, chance=0, options={"sweep_interval": 200, "lease": 1_000})
    here = actors.Actors(setting)
    with Worker(actors.__name__, env=setting.to_env()) as worker:
        run = here.clutch("nesting").run()
        wait_until("both have begun", lambda: {"n", "b"} <= here.began().keys())
        wait_until("the nested run's job has begun", lambda: "n's own" in here.began())
        worker.kill()
    with Worker(actors.__name__, env=setting.to_env()):
        here.open(actors.GATE)
        assert run.get_result(block=True)
    assert here.began()["n's own"] == 2
    here.broker.close()
