"""A worker that fetches for itself what it sends is to everything else what a plain one is: to other queues and other
priorities, to who pauses, stops or joins it, and to other workers and brokers in its process."""

from __future__ import annotations

import dataclasses
import re
import threading
import uuid
from collections.abc import Callable
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import CurrentMessage
from dramatiq.rate_limits import ConcurrentRateLimiter
from dramatiq.rate_limits.backends import StubBackend as RateLimits
from dramatiq.worker import _ConsumerThread  # as it is called in Dramatiq 1, and may be called in 2

from dramatiq_clutch import Clutch, ClutchMiddleware, Run
from dramatiq_clutch.backends.redis.rooms import Fetched
from tests.conftest import as_global_broker, running_worker
from tests.support.application import close
from tests.support.awaiting import PATIENCE, wait_until
from tests.support.jobs import Jobs
from tests.support.messages import on_their_way
from tests.support.server import Server

#: How long a series is that a worker could keep to itself.
LONG = 40


def unacked(broker: RedisBroker, queue: str = "default") -> int:
    """How many messages this process has fetched and not acked."""
    client: Any = broker.client
    return int(client.scard(f"{broker.namespace}:__acks__.{broker.broker_id}.{queue}"))


def in_queue(broker: RedisBroker, queue: str = "default") -> int:
    """How many messages nobody has fetched."""
    client: Any = broker.client
    return int(client.llen(f"{broker.namespace}:{queue}"))


def series(jobs: Jobs, *, length: int = LONG) -> Clutch:
    return Clutch().then(*(jobs.job.message(str(number)) for number in range(length)))


def waits_in(worker: dramatiq.Worker, count: int) -> None:
    """Wait until a worker has so many messages in its own queue."""
    wait_until(f"{count} in the worker's queue", lambda: worker.work_queue.qsize() == count)


def consumers_of(worker: dramatiq.Worker) -> list[Any]:
    return list(worker.consumers.values())


class Consumers:
    """The consumers of a broker's workers. They find nothing while they are `asleep`, and fail in an `outage`; threads
    that work do neither."""

    def __init__(self, broker: RedisBroker) -> None:
        self.asleep, self.outage = threading.Event(), threading.Event()
        self._looks = threading.Lock()
        self._fetch: Any = broker.do_fetch
        broker.do_fetch = self  # type: ignore[attr-defined]

    def __call__(self, queue_name: str, prefetch: int) -> Any:
        if not isinstance(threading.current_thread(), _ConsumerThread):
            return self._fetch(queue_name, prefetch)
        if self.outage.is_set():
            raise redis.ConnectionError("an outage")
        with self._looks:
            return [] if self.asleep.is_set() else self._fetch(queue_name, prefetch)

    def sleep(self) -> None:
        """From now on they find nothing: none of them is in the midst of a look."""
        with self._looks:
            self.asleep.set()

    def fail(self, worker: dramatiq.Worker) -> None:
        """Begin an outage, and wait until all consumers of a worker have been replaced."""
        before = {known.consumer for known in consumers_of(worker)}
        self.outage.set()
        wait_until("they have failed", lambda: before.isdisjoint(known.consumer for known in consumers_of(worker)))


@pytest.fixture
def consumers(redis_broker: RedisBroker) -> Consumers:
    return Consumers(redis_broker)


# Other messages


@pytest.mark.parametrize("priority", [-1, 0, pytest.param(100, marks=pytest.mark.search)])
@pytest.mark.parametrize("queue", ["default", pytest.param("elsewhere", marks=pytest.mark.search)])
def test_a_series_lets_others_pass_on_a_worker_with_one_thread(
    redis_broker: RedisBroker, consumers: Consumers, queue: str, priority: int
) -> None:
    """Whatever has come to the worker goes first, also if it has a lower priority: that counts only where both wait."""
    workers: list[dramatiq.Worker] = []
    began: list[str] = []

    @dramatiq.actor(queue_name=queue, priority=priority)
    def other(number: int) -> None:
        began.append(f"other {number}")
        consumers.asleep.clear()

    @dramatiq.actor
    def job(number: int) -> None:
        began.append(f"job {number}")
        if number % 10 == 5:
            other.send(number)
            waits_in(workers[0], 1)
            consumers.sleep()  # so that the series' next job can't have come to wait, too

    with running_worker(redis_broker, threads=1) as worker:
        workers.append(worker)
        run = Clutch().then(*(job.message(number) for number in range(LONG))).run()
        run.get_result(block=True)
    for number in range(5, LONG, 10):
        assert began.index(f"other {number}") == began.index(f"job {number}") + 1
    assert len(began) == LONG + LONG // 10


def test_two_series_in_two_queues_share_a_worker_with_one_thread(redis_broker: RedisBroker) -> None:
    """The one that has begun lets the other one begin, and then both go on."""
    workers: list[dramatiq.Worker] = []
    began: list[str] = []
    runs: list[Run] = []

    @dramatiq.actor(queue_name="elsewhere")
    def second(number: int) -> None:
        began.append("second")

    @dramatiq.actor
    def first(number: int) -> None:
        began.append("first")
        if number == 5:
            runs.append(Clutch().then(*(second.message(number) for number in range(LONG))).run())
            waits_in(workers[0], 1)

    with running_worker(redis_broker, threads=1) as worker:
        workers.append(worker)
        runs.append(Clutch().then(*(first.message(number) for number in range(LONG))).run())
        for run in (runs[0], wait_until("the second to begin", lambda: runs[-1])):
            run.get_result(block=True)
        wait_until("both to be over", lambda: len(began) == 2 * LONG)
    assert began[6] == "second"
    assert began.count("second") == LONG


def test_a_job_over_its_rate_limit_comes_again_and_its_series_goes_on(redis_broker: RedisBroker) -> None:
    limiter = ConcurrentRateLimiter(RateLimits(), "one-at-a-time", limit=1)
    jobs, attempts = Jobs(redis_broker), list[int]()

    @dramatiq.actor(max_retries=None, min_backoff=1, max_backoff=1)
    def limited() -> str:
        attempts.append(len(attempts))
        with limiter.acquire():
            return "limited"

    with running_worker(redis_broker, threads=1):
        with limiter.acquire():
            run = Clutch().then(jobs.job.message("a")).then(limited).then(jobs.total).run()
            wait_until("some attempts", lambda: len(attempts) >= 3)
        assert run.get_result(block=True) == ["limited"]
        wait_until("everything is acked", lambda: not on_their_way(redis_broker))
    assert jobs.counts()["a"] == 1


# Pausing, stopping, joining


def test_a_paused_worker_leaves_what_comes_next_to_others(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dramatiq.worker.CONSUMER_RESTART_DELAY_SECS", 0.01)
    jobs = Jobs(redis_broker)
    jobs.script["1"] = ["wait"]
    with running_worker(redis_broker, threads=2) as worker:
        run = series(jobs, length=4).run()
        wait_until("it is at work", lambda: "1" in jobs.began)
        pausing = threading.Thread(target=worker.pause)
        pausing.start()
        wait_until("consumers rest", lambda: all(known.paused_event.is_set() for known in consumers_of(worker)))
        jobs.gates["1"].set()
        pausing.join(PATIENCE)
        assert jobs.began == ["0", "1"]
        assert (in_queue(redis_broker), unacked(redis_broker)) == (1, 0)
        with running_worker(redis_broker, threads=1):
            assert run.get_result(block=True) == "3"
        worker.resume()
        assert series(jobs, length=4).run().get_result(block=True) == "3"
        wait_until("everything is acked", lambda: not on_their_way(redis_broker))


def _running(worker: dramatiq.Worker) -> list[bool]:
    return [thread.running for thread in worker.workers]


@pytest.mark.parametrize("threads", [1, 4])
def test_a_worker_that_is_stopped_in_the_middle_leaves_the_rest_to_the_next_one(
    redis_broker: RedisBroker, threads: int
) -> None:
    """At once: nothing stays fetched by the one that has stopped."""
    workers: list[dramatiq.Worker] = []
    began: list[int] = []

    @dramatiq.actor
    def job(number: int) -> int:
        began.append(number)
        if number == 5:
            wait_until("all threads to be told to stop", lambda: workers and not any(_running(workers[0])))
        return number

    run = Clutch().then(*(job.message(number) for number in range(LONG))).run()
    with running_worker(redis_broker, threads=threads) as worker:
        workers.append(worker)
        wait_until("it is in the middle", lambda: 5 in began)
    assert len(began) <= 6 + threads  # a thread that waits for a message while it is stopped runs that one
    assert (in_queue(redis_broker), unacked(redis_broker)) == (1, 0)
    with running_worker(redis_broker, threads=threads):
        assert run.get_result(block=True) == LONG - 1
    assert began == list(range(LONG))


@pytest.mark.parametrize("threads", [1, 4])
def test_a_join_waits_until_the_run_is_over(redis_broker: RedisBroker, threads: int) -> None:
    jobs = Jobs(redis_broker)
    clutch = series(jobs, length=10).parallel(jobs.job.message(name) for name in "abcdef").then(jobs.total)
    with running_worker(redis_broker, threads=threads) as worker:
        run = clutch.run()
        redis_broker.join("default", interval=1, timeout=int(PATIENCE * 1_000))
        worker.join()
        assert run.status().state == "succeeded"
        assert all(known.consumer.outstanding_message_count == 0 for known in consumers_of(worker))


# Middleware that changes the message it is given


class Opening(dramatiq.Middleware):
    """Puts what is meant in place of what was sent: the whole message, as it can't be changed, or one field."""

    def __init__(self, way: str) -> None:
        self.way = way

    def before_process_message(self, broker: dramatiq.Broker, message: Any) -> None:
        args = tuple(f"open {one}" for one in message.args)
        if self.way == "a field":
            message.args = args
        else:
            message._message = message.copy(args=args)  # noqa: SLF001 (as `carrying` does)


@pytest.mark.parametrize("way", ["a field", "the whole"])
def test_a_middleware_may_change_each_message(redis_broker: RedisBroker, way: str) -> None:
    """However it was fetched: a wide stage comes in bunches."""

    @dramatiq.actor
    def say(value: str) -> str:
        return value

    redis_broker.add_middleware(Opening(way))
    run = Clutch().parallel(say.message(str(number)) for number in range(100)).run()
    with running_worker(redis_broker, threads=2):
        assert run.get_result(block=True) == [f"open {number}" for number in range(100)]


def test_a_fetched_message_is_as_dramatiqs_own() -> None:
    known: dramatiq.Message[Any] = dramatiq.Message(
        queue_name="default", actor_name="act", args=(1,), kwargs={"two": 2}, options={"three": 3}
    )
    ours, dramatiqs = Fetched(known), dramatiq.MessageProxy(known)
    assert isinstance(ours, dramatiq.MessageProxy)
    assert [str(ours), ours.failed] == [str(dramatiqs), dramatiqs.failed]
    for field in dataclasses.fields(known):
        assert getattr(ours, field.name) is getattr(dramatiqs, field.name)
    proxy: Any
    for proxy in (ours, dramatiqs):
        proxy._message = known.copy(args=(4,))  # noqa: SLF001
        assert proxy.args == (4,)
        proxy.args = (5,)
        assert proxy.args == (5,)
        assert proxy.copy().args == (4,)
        with pytest.raises(AttributeError, match="elsewhere"):
            _ = proxy.elsewhere


@pytest.mark.parametrize("hook", ["before_enqueue", "after_enqueue", "none"])
def test_a_job_in_series_gets_its_message_as_it_was_sent(redis_broker: RedisBroker, hook: str) -> None:
    """It is the worker's that sends it, but what a hook has put into it comes as from the server; and what it does to
    the message after that, doesn't come at all."""

    class Adding(dramatiq.Middleware): ...

    def add(_: Any, broker: dramatiq.Broker, message: dramatiq.Message[Any], delay: int | None) -> None:
        message.options[hook] = (1, 2)

    if hook != "none":
        setattr(Adding, hook, add)
    redis_broker.add_middleware(Adding())
    redis_broker.add_middleware(CurrentMessage())

    @dramatiq.actor
    def shown(*values: Any) -> Any:
        message: Any = CurrentMessage.get_current_message()
        return [type(message.args).__name__, values, message.options.get(hook), message.message_id]

    run = Clutch().then(shown.message((3, 4))).then(*[shown.message((3, 4))] * 3, pipe=True).run()
    with running_worker(redis_broker, threads=2):
        found = run.get_result(block=True)
    added = [1, 2] if hook == "before_enqueue" else None
    for _ in range(3):
        name, (given, before), got, message_id = found
        assert (name, given, got) == ("tuple", [3, 4], added)
        assert re.fullmatch("[-0-9a-f]{36}", message_id)
        found = before
    assert found[:3] == ["tuple", [[3, 4]], added]


def test_what_a_job_does_to_its_message_stays_with_it(redis_broker: RedisBroker) -> None:
    """Though the next one's carries the same, and is sent and fetched in one step."""
    redis_broker.add_middleware(CurrentMessage())

    @dramatiq.actor
    def add(seen: list[Any], *_: Any) -> Any:
        message: Any = CurrentMessage.get_current_message()
        seen.append(list(message.options["trace"]))
        message.options["trace"].append("b")
        return seen

    run = Clutch().then(add.message([])).then(*[add] * 3, pipe=True).run(carry={"trace": ["a"]})
    with running_worker(redis_broker, threads=2):
        assert run.get_result(block=True) == [["a"]] * 4


# Consumers that fail


def test_a_series_goes_on_while_its_consumer_is_restarted(
    redis_broker: RedisBroker, consumers: Consumers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dramatiq.worker.CONSUMER_RESTART_DELAY_SECS", 0.01)
    jobs = Jobs(redis_broker)
    jobs.script["5"] = ["wait"]
    with running_worker(redis_broker, threads=2) as worker:
        run = series(jobs).run()
        wait_until("it is in the middle", lambda: "5" in jobs.began)
        consumers.fail(worker)
        jobs.gates["5"].set()
        assert run.get_result(block=True) == str(LONG - 1)
        consumers.outage.clear()
        again = series(jobs).run()
        assert again.get_result(block=True) == str(LONG - 1)
        wait_until("everything is acked", lambda: not on_their_way(redis_broker))
        wait_until(  # which the consumer notes a moment after the server
            "the consumers to know",
            lambda: not any(one.consumer.outstanding_message_count for one in consumers_of(worker)),
        )
    assert set(jobs.counts().values()) == {2}


def test_what_a_consumer_has_fetched_before_it_was_restarted_still_goes_first(
    redis_broker: RedisBroker, consumers: Consumers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new one doesn't know of it; and the series has a higher priority, which counts only where both wait."""
    monkeypatch.setattr("dramatiq.worker.CONSUMER_RESTART_DELAY_SECS", 0.01)
    monkeypatch.setattr("dramatiq.worker.QUEUE_PREFETCH", 8)  # so the consumer wants more, and meets the outage
    workers, began = list[dramatiq.Worker](), list[str]()

    @dramatiq.actor(priority=100)
    def low() -> None:
        began.append("low")
        consumers.outage.clear()

    @dramatiq.actor
    def high(number: int) -> None:
        began.append(f"high {number}")
        if number == 1:
            low.send()
            waits_in(workers[0], 1)
            consumers.fail(workers[0])

    with running_worker(redis_broker, threads=1) as worker:
        workers.append(worker)
        run = Clutch().then(*(high.message(number) for number in range(10))).run()
        wait_until("it has begun", lambda: "low" in began)
        run.get_result(block=True)
        wait_until("everything is acked", lambda: not on_their_way(redis_broker))
    assert began[:4] == ["high 0", "high 1", "low", "high 2"]


# Other workers, other brokers


def test_of_two_workers_in_a_process_each_runs_what_is_in_its_own_queue(redis_broker: RedisBroker) -> None:
    ran_in: dict[str, set[Any]] = {"left": set(), "right": set()}

    def actor_of(queue: str) -> Callable[..., Any]:
        @dramatiq.actor(queue_name=queue, actor_name=queue)
        def actor() -> None:
            ran_in[queue].add(threading.current_thread())

        return actor

    actors: list[Any] = [actor_of(queue) for queue in ran_in]
    clutch = Clutch()
    for _ in range(10):
        clutch = clutch.then(*actors).parallel([actor.message() for actor in actors for _ in range(3)])
    with (
        running_worker(redis_broker, threads=1, queues={"left"}) as left,
        running_worker(redis_broker, threads=1, queues={"right"}) as right,
    ):
        clutch.run().get_result(block=True)
        assert ran_in == {"left": set(left.workers), "right": set(right.workers)}
        wait_until("everything is acked", lambda: not any(on_their_way(redis_broker, queue) for queue in ran_in))


def test_two_workers_on_one_queue_run_each_job_once(redis_broker: RedisBroker) -> None:
    jobs = Jobs(redis_broker)
    names = [f"job {number}" for number in range(LONG)]
    with running_worker(redis_broker, threads=1), running_worker(redis_broker, threads=3):
        run = series(jobs).parallel(jobs.job.message(name) for name in names).then(jobs.total).run()
        assert run.get_result(block=True) == names
        wait_until("everything is acked", lambda: not on_their_way(redis_broker))
    assert set(jobs.counts().values()) == {1}


def test_two_brokers_with_one_client_keep_their_messages_apart(redis_broker: RedisBroker, server: Server) -> None:
    """A worker's thread that sends something to the other broker doesn't take it."""
    other = RedisBroker(client=redis_broker.client, namespace=f"other-{uuid.uuid4().hex[:8]}")
    other.add_middleware(ClutchMiddleware())
    here, there = Jobs(redis_broker), Jobs(other)
    there.script["a"] = ["wait"]

    @dramatiq.actor
    def starts() -> str:
        return Clutch(broker=other).then(*(there.job.message(name) for name in "abc")).run().run_id

    try:
        with running_worker(redis_broker, threads=2):
            started = Clutch().then(here.job.message("x")).then(starts).then(here.total).run()
            (run_id,) = started.get_result(block=True)
            assert (in_queue(other), there.began) == (1, [])
            with running_worker(other, threads=1):
                there.gates["a"].set()
                assert Run(run_id, broker=other).get_result(block=True) == "c"
                wait_until("everything is acked", lambda: not any(map(on_their_way, (redis_broker, other))))
        assert there.counts() == dict.fromkeys("abc", 1)
    finally:
        close(other)


# Brokers that do something in a way of their own


class Own(RedisBroker):
    """Notes the messages that are acked or fetched in its way."""

    def __init__(self, **parameters: Any) -> None:
        super().__init__(**parameters)  # type: ignore[no-untyped-call]
        self.seen: list[Any] = []


class OwnAcks(Own):
    def do_ack(self, queue_name: str, message_id: str) -> Any:
        self.seen.append(message_id)
        works: Any = self._dispatch
        return works("ack")(queue_name, message_id)


class OwnFetches(Own):
    def do_fetch(self, queue_name: str, prefetch: int) -> Any:
        works: Any = self._dispatch
        found = works("fetch")(queue_name, prefetch)
        self.seen.extend(found)
        return found


class OwnConsumers(Own):
    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Any:
        consumer: Any = super().consume(queue_name, prefetch, timeout)
        works = consumer.ack

        def ack(message: Any) -> None:
            """Reads the message before it goes."""
            self.seen += self.client.hmget(f"{self.namespace}:{queue_name}.msgs", message.options["redis_message_id"])
            works(message)

        consumer.ack = ack
        return consumer


@pytest.mark.parametrize("kind", [OwnAcks, OwnFetches, OwnConsumers])
def test_a_broker_that_fetches_or_acks_in_a_way_of_its_own_does_so_with_every_message(
    redis_client: redis.Redis, kind: type[Own]
) -> None:
    broker = kind(client=redis_client, namespace=f"own-{uuid.uuid4().hex[:8]}")
    with as_global_broker(broker), running_worker(broker, threads=2):
        jobs = Jobs(broker)
        run = series(jobs, length=5).parallel(jobs.job.message(name) for name in "abcde").then(jobs.total).run()
        run.get_result(block=True)
        wait_until("everything is acked", lambda: not on_their_way(broker))
    assert len(broker.seen) == 11
    assert None not in broker.seen
