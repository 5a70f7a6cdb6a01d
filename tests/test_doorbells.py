"""A worker that has nothing to do begins with what others send at once, though its consumers sleep."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker

from dramatiq_clutch import Clutch, ClutchMiddleware
from dramatiq_clutch.backends import RedisBackend
from dramatiq_clutch.backends.redis import doorbells, resp
from dramatiq_clutch.backends.redis.desk import Desk
from dramatiq_clutch.backends.redis.dispatching import Dispatch
from dramatiq_clutch.backends.redis.doorbells import Doorbells
from dramatiq_clutch.engine import engine_of
from tests.conftest import running_worker
from tests.support.awaiting import PATIENCE, wait_until
from tests.support.consumers import Consumers
from tests.support.jobs import Jobs
from tests.support.server import Server

THREAD = "clutch-doorbell"


@pytest.fixture
def consumers(redis_broker: RedisBroker) -> Iterator[Consumers]:
    """They find nothing, so whatever comes has been rung for."""
    found = Consumers(redis_broker)
    found.sleep()
    yield found
    assert found.fetched["consumer"] == 0


def key_of(broker: RedisBroker, queue: str = "default") -> str:
    return f"{broker.namespace}:__doorbell__.{queue}"


def waiting(broker: RedisBroker) -> list[dict[str, str]]:
    """The connections of workers that wait for a token, in the order in which they will get one."""
    client: Any = broker.client
    return [one for one in client.client_list() if one["cmd"] == "blpop" and "b" in one["flags"]]


def waits(broker: RedisBroker, workers: int = 1) -> None:
    """Wait until so many workers wait for a token."""
    wait_until(f"{workers} workers wait", lambda: len(waiting(broker)) == workers)


def asked(broker: RedisBroker) -> int:
    """How often workers have asked for tokens."""
    client: Any = broker.client
    return int(client.info("commandstats")["cmdstat_blpop"]["calls"])


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


def unacked(broker: RedisBroker) -> int:
    client: Any = broker.client
    return int(client.scard(f"{broker.namespace}:__acks__.{broker.broker_id}.default"))


@contextmanager
def other_process(broker: RedisBroker) -> Iterator[RedisBroker]:
    """A broker as another process would have it, with the same actors, whose consumers find nothing either."""
    other = RedisBroker(client=broker.client, namespace=broker.namespace)
    other.add_middleware(ClutchMiddleware(RedisBackend(client=broker.client)))
    for actor in broker.actors.values():
        other.declare_queue(actor.queue_name)
        other.actors[actor.actor_name] = actor
    consumers = Consumers(other)
    consumers.sleep()
    yield other
    assert consumers.fetched["consumer"] == 0


# Who is woken


def test_the_first_job_of_a_run_begins_though_no_consumer_looks(
    redis_broker: RedisBroker, consumers: Consumers
) -> None:
    jobs = Jobs(redis_broker)
    with running_worker(redis_broker):
        for name in "abc":
            waits(redis_broker)
            assert Clutch().then(jobs.job.message(name)).run().get_result(block=True) == name
    assert jobs.began == ["a", "b", "c"]


def test_a_wide_stage_is_fetched_bit_by_bit(redis_broker: RedisBroker, consumers: Consumers) -> None:
    jobs, names = Jobs(redis_broker), [f"job {number}" for number in range(50)]
    with running_worker(redis_broker, threads=2):
        run = Clutch().parallel(jobs.job.message(name) for name in names).then(jobs.total).run()
        assert run.get_result(block=True) == names
    assert set(jobs.counts().values()) == {1}


def test_each_worker_wakes_the_next_one_if_it_leaves_something(redis_broker: RedisBroker, consumers: Consumers) -> None:
    """The stage only goes on if so many jobs are at work at the same time as only all workers have threads for."""
    together = threading.Barrier(6, timeout=PATIENCE)

    @dramatiq.actor
    def meet(number: int) -> int:
        together.wait()
        return number

    with ExitStack() as workers:
        brokers = [redis_broker, *(workers.enter_context(other_process(redis_broker)) for _ in range(2))]
        for broker in brokers:
            workers.enter_context(running_worker(broker, threads=2))
        waits(redis_broker, 3)
        run = Clutch().parallel(meet.message(number) for number in range(12)).run()
        assert run.get_result(block=True) == [*range(12)]


def test_a_worker_without_a_free_thread_leaves_it_to_another(redis_broker: RedisBroker, consumers: Consumers) -> None:
    """It has waited for longer, so it gets the token first; and it takes no other until it has a thread again."""
    jobs = Jobs(redis_broker)
    jobs.script["long"] = ["wait"]

    @dramatiq.actor(queue_name="of_one")
    def long() -> None:
        jobs.began.append("long")
        assert jobs.gates["long"].wait(PATIENCE)

    with ExitStack() as workers:
        workers.enter_context(running_worker(redis_broker, threads=1))
        waits(redis_broker)
        begun = Clutch().then(long).run()
        wait_until("its thread is at work", lambda: jobs.began == ["long"])
        waits(redis_broker, 0)  # it steps aside by itself: it asks for tokens only as long as it has place
        other = workers.enter_context(other_process(redis_broker))
        workers.enter_context(running_worker(other, threads=1, queues={"default"}))
        waits(redis_broker)
        assert Clutch().then(jobs.job.message("short")).run().get_result(block=True) == "short"
        jobs.gates["long"].set()
        begun.get_result(block=True)
        waits(redis_broker, 2)


def test_a_worker_that_got_busy_while_it_waited_passes_the_token_on(
    redis_broker: RedisBroker, consumers: Consumers
) -> None:
    jobs = Jobs(redis_broker)
    with ExitStack() as workers:
        busy = workers.enter_context(running_worker(redis_broker))
        waits(redis_broker)
        other = workers.enter_context(other_process(redis_broker))
        workers.enter_context(running_worker(other))
        waits(redis_broker, 2)
        busy.pause()  # Dramatiq's own; it then takes nothing, as if it had no place
        assert Clutch().then(jobs.job.message("one")).run().get_result(block=True) == "one"
        waits(redis_broker)
        busy.resume()
        waits(redis_broker, 2)


def test_a_job_in_the_queue_of_another_worker_follows_at_once(redis_broker: RedisBroker, consumers: Consumers) -> None:
    began: list[str] = []

    @dramatiq.actor(queue_name="here")
    def here(value: str) -> str:
        began.append(value)
        return f"{value}, and on"

    @dramatiq.actor(queue_name="there")
    def there(value: str) -> str:
        began.append(value)
        return value

    with ExitStack() as workers:
        other = workers.enter_context(other_process(redis_broker))
        workers.enter_context(running_worker(redis_broker, queues={"here"}))
        workers.enter_context(running_worker(other, queues={"there"}))
        waits(redis_broker, 2)
        clutch = Clutch().then(here.message("on")).then(here, pipe=True).then(there, pipe=True)
        assert clutch.run().get_result(block=True) == "on, and on, and on"
    assert began == ["on", "on, and on", "on, and on, and on"]


# What a worker takes


def test_a_worker_takes_no_more_than_it_may_prefetch(
    redis_broker: RedisBroker, consumers: Consumers, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, names = Jobs(redis_broker), [f"job {number}" for number in range(20)]
    jobs.script.update({name: ["wait"] for name in names})
    with running_worker(redis_broker, threads=2) as worker:
        waits(redis_broker)
        run = Clutch().parallel(jobs.job.message(name) for name in names).run()
        wait_until("both threads are at work", lambda: len(jobs.began) == 2)
        waits(redis_broker, 0)
        consumer: Any = worker.consumers["default"]
        assert unacked(redis_broker) == consumer.consumer.prefetch == 4
        assert redis_broker.client.llen(key_of(redis_broker)) == 1  # that it could take
        tokens, looks = asked(redis_broker), list[str]()
        has_place = Desk.has_place

        def noted(self: Desk, worker: dramatiq.Worker, queue: str) -> bool:
            looks.append(queue)
            return has_place(self, worker, queue)

        monkeypatch.setattr(Desk, "has_place", noted)
        wait_until("it has looked a few times", lambda: len(looks) > 3)
        assert asked(redis_broker) == tokens
        for name in names:
            jobs.gates[name].set()
        assert run.get_result(block=True) == names


def test_a_prefetch_that_only_the_consumer_can_keep_to_is_left_to_it(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dramatiq.worker.QUEUE_PREFETCH", 1)
    jobs, has_place, found = Jobs(redis_broker), Desk.has_place, list[bool]()

    def noted(self: Desk, worker: dramatiq.Worker, queue: str) -> bool:
        found.append(has_place(self, worker, queue))
        return found[-1]

    with running_worker(redis_broker, threads=2):
        assert Clutch().then(jobs.job.message("one")).run().get_result(block=True) == "one"
        monkeypatch.setattr(Desk, "has_place", noted)
        wait_until("it has looked a few times", lambda: len(found) > 2)
        assert not any(found)
        assert waiting(redis_broker) == []


def test_only_what_a_worker_doesnt_take_itself_is_rung_for(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung, rings = list[str](), Doorbells.rings

    def noted(self: Doorbells, queues: Any) -> Any:
        if threading.current_thread().name != THREAD:  # that one passes on what it finds
            rung.extend(queues)
        return rings(self, queues)

    jobs = Jobs(redis_broker)
    jobs.script["a"] = ["wait"]
    with running_worker(redis_broker):
        waits(redis_broker)
        monkeypatch.setattr(Doorbells, "rings", noted)
        run = Clutch().then(*map(jobs.job.message, "abc")).parallel(*map(jobs.job.message, "de")).then(jobs.total).run()
        wait_until("the first job has begun", lambda: jobs.began)
        waits(redis_broker)  # while it looks, there is no place for what its threads send
        jobs.gates["a"].set()
        assert run.get_result(block=True) == ["d", "e"]
        assert rung == ["default"]  # by `run()`, which is in no worker


# What is left behind


def test_a_token_that_nobody_takes_goes_by_itself(redis_broker: RedisBroker) -> None:
    jobs, client = Jobs(redis_broker), redis_broker.client
    for _ in range(3):
        Clutch().then(jobs.job.message("one")).run()
    assert client.llen(key_of(redis_broker)) == 1
    assert 0 < client.pttl(key_of(redis_broker)) <= doorbells.LINGERS
    client.pexpire(key_of(redis_broker), doorbells.LINGERS // 4)
    Clutch().then(jobs.job.message("one")).run()  # it has the same right to be waited for
    assert client.pttl(key_of(redis_broker)) > doorbells.LINGERS // 4


def test_a_worker_that_stops_waits_no_more_and_leaves_what_came_to_others(
    redis_broker: RedisBroker, consumers: Consumers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorbells, "WAIT", 10 * PATIENCE)  # so it is told, and doesn't just look
    before, jobs = threads(), Jobs(redis_broker)
    with running_worker(redis_broker):
        waits(redis_broker)
        assert len(threads()) == len(before) + 1
    wait_until("its thread has ended", lambda: threads() == before)
    assert waiting(redis_broker) == []
    Clutch().then(jobs.job.message("one")).run()
    assert redis_broker.client.llen(key_of(redis_broker)) == 1


def test_a_token_that_comes_while_a_worker_stops_is_given_back(
    redis_broker: RedisBroker, consumers: Consumers, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait: Any = vars(Doorbells)["_wait"]
    has_come, goes_on = threading.Event(), threading.Event()

    def late(self: Doorbells, *given: Any) -> Any:
        queue = wait(self, *given)
        if queue == "default":
            has_come.set()
            assert goes_on.wait(PATIENCE)
        return queue

    monkeypatch.setattr(Doorbells, "_wait", late)
    jobs, client = Jobs(redis_broker), redis_broker.client
    with running_worker(redis_broker):
        waits(redis_broker)
        Clutch().then(jobs.job.message("one")).run()
        assert has_come.wait(PATIENCE)
        client.delete(key_of(redis_broker))  # `run()` rings twice if the server has to be given the script first
    goes_on.set()
    wait_until("it is given back", lambda: client.llen(key_of(redis_broker)) == 1)
    assert jobs.began == []


def test_a_worker_that_is_told_to_stop_looks_no_more(redis_broker: RedisBroker, consumers: Consumers) -> None:
    """So the token is given to another one, also where it comes before its thread has been told."""
    jobs = Jobs(redis_broker)
    with running_worker(redis_broker) as worker:
        desk: Any = vars(engine_of(redis_broker).courier)["_desk"]
        desk.leave(worker)
        Clutch().then(jobs.job.message("one")).run()
        assert desk.answer(worker, "default") is False
    assert jobs.began == []


def test_a_worker_that_stops_does_not_wait_for_the_server(
    redis_broker: RedisBroker, consumers: Consumers, monkeypatch: pytest.MonkeyPatch
) -> None:
    Jobs(redis_broker)
    ring, goes_on = Doorbells.ring, threading.Event()

    def slow(self: Doorbells, queues: Any) -> None:
        assert goes_on.wait(PATIENCE)
        ring(self, queues)

    with running_worker(redis_broker) as worker:
        waits(redis_broker)
        monkeypatch.setattr(Doorbells, "ring", slow)
        leaving = threading.Thread(target=engine_of(redis_broker).courier.leave, args=(worker,))
        leaving.start()
        wait_until("it has been told", lambda: not leaving.is_alive())
        assert len(waiting(redis_broker)) == 1
        goes_on.set()
    wait_until("its thread has ended", lambda: waiting(redis_broker) == [])


def test_what_is_fetched_while_a_worker_stops_is_put_back(
    redis_broker: RedisBroker, consumers: Consumers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for the thread that fetches it."""
    fetch, has_come, goes_on = Dispatch.fetch, threading.Event(), threading.Event()

    def late(self: Dispatch, queue: str, count: int) -> Any:
        found = fetch(self, queue, count)
        has_come.set()
        assert goes_on.wait(PATIENCE)
        return found

    jobs, client = Jobs(redis_broker), redis_broker.client
    with running_worker(redis_broker):
        waits(redis_broker)
        desk = vars(engine_of(redis_broker).courier)["_desk"]
        monkeypatch.setattr(desk, "_fetch", partial(late, vars(desk)["_fetch"].__self__))
        Clutch().then(jobs.job.message("one")).run()
        assert has_come.wait(PATIENCE)
        assert unacked(redis_broker) == 1
    goes_on.set()
    wait_until("it is put back", lambda: unacked(redis_broker) == 0)
    assert client.llen(f"{redis_broker.namespace}:default") == 1
    assert jobs.began == []


def test_what_stands_behind_other_messages_begins_at_once(redis_broker: RedisBroker, consumers: Consumers) -> None:
    """The worker is offered a message that it sends, and doesn't get it out of its turn."""
    began = threading.Event()

    @dramatiq.actor
    def plain() -> None: ...

    @dramatiq.actor
    def child() -> None:
        began.set()

    @dramatiq.actor
    def parent() -> bool:
        waits(redis_broker)  # again, after it was woken for this job
        plain.send()
        Clutch().then(child).run()
        return began.wait(PATIENCE / 4)

    with running_worker(redis_broker, threads=2):
        waits(redis_broker)
        assert Clutch().then(parent).run().get_result(block=True) is True


def test_a_worker_without_place_for_some_queues_asks_again_soon(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its consumers come up one after the other, and the token of a queue may be there before its consumer."""
    wait: Any = vars(Doorbells)["_wait"]
    has_place, asked_for, has_all = Desk.has_place, list[tuple[int, float]](), threading.Event()

    def noted(self: Doorbells, connection: Any, queues: Any, seconds: float) -> Any:
        asked_for.append((len(queues), seconds))
        return wait(self, connection, queues, seconds)

    monkeypatch.setattr(Doorbells, "_wait", noted)
    monkeypatch.setattr(
        Desk, "has_place", lambda *given: (given[-1] == "default" or has_all.is_set()) and has_place(*given)
    )
    for queue in ("default", "late"):
        redis_broker.declare_queue(queue)
    with running_worker(redis_broker):
        wait_until("it waits for one queue", lambda: (2, doorbells.SHORT) in asked_for)
        has_all.set()
        wait_until("it waits for both", lambda: (3, doorbells.WAIT) in asked_for)


def test_a_worker_waits_for_tokens_of_a_queue_that_is_declared_later(
    redis_broker: RedisBroker, consumers: Consumers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorbells, "WAIT", 0.1)
    Jobs(redis_broker)
    with running_worker(redis_broker):
        waits(redis_broker)

        @dramatiq.actor(queue_name="late")
        def late() -> str:
            return "late"

        assert Clutch().then(late).run().get_result(block=True) == "late"


# Faults


def test_a_worker_waits_again_after_its_connection_was_lost(
    redis_broker: RedisBroker, consumers: Consumers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorbells, "PAUSE", 0.01)
    jobs, client = Jobs(redis_broker), redis_broker.client
    with running_worker(redis_broker):
        waits(redis_broker)
        (lost,) = waiting(redis_broker)
        client.client_kill_filter(_id=lost["id"])
        wait_until("another one waits", lambda: [one["id"] for one in waiting(redis_broker)] not in ([], [lost["id"]]))
        assert Clutch().then(jobs.job.message("one")).run().get_result(block=True) == "one"


def test_a_worker_that_cannot_look_leaves_the_token_to_others(
    redis_broker: RedisBroker, consumers: Consumers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the reason, it comes again a while later; and then it can."""
    monkeypatch.setattr(doorbells, "PAUSE", 0.01)
    jobs, failing = Jobs(redis_broker), [RuntimeError("an error"), redis.ConnectionError("another one")]
    answer = Desk.answer

    def faulty(self: Any, worker: Any, queue: str) -> bool:
        if failing:
            raise failing.pop()
        return answer(self, worker, queue)

    monkeypatch.setattr(Desk, "answer", faulty)
    with running_worker(redis_broker):
        waits(redis_broker)
        assert Clutch().then(jobs.job.message("one")).run().get_result(block=True) == "one"
    assert failing == []


def test_a_doorbell_that_cannot_be_rung_stops_nothing(redis_broker: RedisBroker) -> None:
    """Neither where it would ring along with messages, nor where it rings by itself."""
    client: Any = redis_broker.client
    client.set(key_of(redis_broker), "another program's", px=60_000)
    client.set(key_of(redis_broker, "there"), "another program's", px=60_000)

    @dramatiq.actor(queue_name="there")
    def there() -> str:
        return "there"

    @dramatiq.actor
    def here() -> None: ...

    run = Clutch().then(here).then(there).run()
    with running_worker(redis_broker, queues={"default"}), running_worker(redis_broker, queues={"there"}):
        assert run.get_result(block=True) == "there"


def test_a_server_that_is_away_stops_nobody_who_rings(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> Any:
        raise redis.ConnectionError("away")

    bells = Doorbells(redis_broker, None)  # type: ignore[arg-type] # nobody is to look
    monkeypatch.setattr(resp, "send", away)
    bells.ring(["default"])


def test_a_worker_whose_connection_is_cut_again_and_again_waits_each_time(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has waited for a while each time, so there is no reason to pause for longer and longer."""
    monkeypatch.setattr(doorbells, "PAUSE", 0.01)
    monkeypatch.setattr(doorbells, "LONGEST", 10 * PATIENCE)
    Jobs(redis_broker)
    cut = list[float]()

    def wait(self: Doorbells, *_: Any) -> Any:
        time.sleep(2 * doorbells.PAUSE)  # as long as the network bears it
        cut.append(time.monotonic())
        raise redis.ConnectionError("cut")

    monkeypatch.setattr(Doorbells, "_wait", wait)
    with running_worker(redis_broker):
        wait_until("it has waited often", lambda: len(cut) > 15)


def test_a_worker_whose_pool_makes_no_connections_here_looks_as_ever(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strange(*_: Any, **__: Any) -> Any:
        raise AttributeError("'StrangePool' object has no attribute 'connection_kwargs'")

    monkeypatch.setattr(resp, "own_connection", strange)
    jobs = Jobs(redis_broker)
    with running_worker(redis_broker):
        assert Clutch().then(jobs.job.message("one")).run().get_result(block=True) == "one"


def test_who_may_not_ring_says_so_once(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    with server.client() as admin:
        admin.acl_setuser("sender", enabled=True, nopass=True, keys=["*"], channels=["*"], categories=["+@all"])
        admin.acl_setuser("sender", enabled=True, commands=["-llen"])
        try:
            broker = RedisBroker(url=server.url.replace("redis://", "redis://sender:none@"), namespace="doorbells")
            broker.add_middleware(ClutchMiddleware(RedisBackend(client=admin)))
            jobs = Jobs(broker)
            for _ in range(3):
                Clutch(broker=broker).then(jobs.job.message("one")).run()
            broker.close()
        finally:
            admin.acl_deluser("sender")
    (told,) = [record for record in caplog.records if "by looking" in record.getMessage()]
    assert told.levelname == "WARNING"


def test_workers_that_may_not_wait_look_as_ever_and_say_so_once(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with server.client() as admin:
        admin.acl_setuser("looker", enabled=True, nopass=True, keys=["*"], channels=["*"], categories=["+@all"])
        admin.acl_setuser("looker", enabled=True, commands=["-blpop"])
        try:
            broker = RedisBroker(url=server.url.replace("redis://", "redis://looker:none@"), namespace="doorbells")
            broker.add_middleware(ClutchMiddleware())
            jobs = Jobs(broker)
            with running_worker(broker), running_worker(broker):
                run = Clutch(broker=broker).then(jobs.job.message("one")).run()
                assert run.get_result(block=True) == "one"
                wait_until("they say so", lambda: "by looking" in caplog.text)
                wait_until("both have given up", lambda: threads() == [])
            broker.close()
        finally:
            admin.acl_deluser("looker")
    (told,) = [record for record in caplog.records if "by looking" in record.getMessage()]
    assert told.levelname == "WARNING"
    assert "doorbells:__doorbell__.*" in told.getMessage()
