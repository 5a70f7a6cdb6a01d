"""A worker fetches bunches of messages in steps that ack one of their queue: whatever happens in between, none is lost,
and its consumer fetches what nobody else does."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from queue import PriorityQueue
from types import SimpleNamespace
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Shutdown

from dramatiq_clutch import Clutch
from dramatiq_clutch.backends.redis import deferring, resp
from dramatiq_clutch.backends.redis.along import Bunch
from dramatiq_clutch.backends.redis.astray import Missing
from dramatiq_clutch.backends.redis.batches import prepared
from dramatiq_clutch.backends.redis.bunches import Bunches, Left
from dramatiq_clutch.backends.redis.combining import Combining
from dramatiq_clutch.backends.redis.courier import RedisCourier
from dramatiq_clutch.backends.redis.desk import Desk
from dramatiq_clutch.backends.redis.store import RedisBackend
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.errors import PayloadRefused
from tests.conftest import running_worker
from tests.support.awaiting import PATIENCE, wait_until
from tests.support.jobs import Jobs
from tests.test_desk import in_queue, unacked

QUEUE = "default"


class Here:
    """A worker of two threads that only takes what it is given, and the bunches of its broker."""

    def __init__(self, broker: RedisBroker, prefetch: int = 16) -> None:
        self.consumer: Any = broker.consume(QUEUE, prefetch=prefetch)
        self.given: list[str] = []
        self.put: Any = lambda message: self.given.append(message.message_id)
        thread = SimpleNamespace(
            consumer=self.consumer, paused=False, running=True, handle_message=lambda message: self.put(message)
        )
        worker: Any = SimpleNamespace(worker_threads=2, work_queue=PriorityQueue(), consumers={QUEUE: thread})
        self.left, self.astray = Left(), dict[str, Missing]()
        self.left.add(QUEUE)
        self.bunches = Bunches(lambda: worker, self.left, self)  # type: ignore[arg-type]
        self.messages = [dramatiq.Message[Any](QUEUE, "job", (), {}, {}) for _ in range(3)]
        ready = [prepared(message, None)[0] for message in self.messages]
        self.ids = [str(one.options["redis_message_id"]) for one in ready]
        self.data = [one.encode() for one in ready]

    def add(self, missing: Mapping[str, Missing]) -> None:
        """Messages are astray."""
        self.astray |= missing

    def look(self) -> None:
        """A step tells which messages are first."""
        bunch = self.bunches.begin(QUEUE)
        assert bunch is not None
        bunch.done, bunch.first = True, self.ids
        self.bunches.end()

    def begin(self) -> Bunch:
        """This thread has its turn, and the bunch of what is first."""
        self.look()
        bunch = self.bunches.begin(QUEUE)
        assert bunch is not None
        assert bunch.ids == self.ids
        return bunch

    def arrive(self) -> None:
        """The messages of a bunch have come."""
        bunch = self.begin()
        bunch.asked = bunch.done = True
        bunch.messages = self.data

    def is_free(self) -> bool:
        """Whether the next thread can have its turn, and the consumer counts what the worker has, and nothing else."""
        assert self.consumer.outstanding_message_count == len(self.given)
        found = self.bunches.begin(QUEUE)
        self.bunches.end()
        return found is not None


@pytest.fixture
def here(redis_broker: RedisBroker) -> Here:
    return Here(redis_broker)


def test_a_turn_ends_whatever_happens_in_it(here: Here) -> None:
    here.begin()
    here.bunches.end()  # as after an error before the server was asked
    assert here.is_free()
    assert not here.astray


def test_a_bunch_whose_reply_is_lost_is_astray(here: Here) -> None:
    here.begin().asked = True
    here.bunches.end()
    assert {one: missing.message_id for one, missing in here.astray.items()} == {
        one: message.message_id for one, message in zip(here.ids, here.messages, strict=True)
    }
    assert here.is_free()


def test_what_cannot_be_given_to_the_worker_is_astray_and_the_turn_ends(here: Here) -> None:
    """An interrupt may come between two messages of a bunch."""
    here.arrive()
    taken = here.put

    def put(message: Any) -> None:
        taken(message)
        raise Shutdown("as it is raised in a job's thread, at any moment")

    here.put = put
    with pytest.raises(Shutdown):
        here.bunches.end()
    assert here.given == [here.messages[0].message_id]
    assert set(here.astray) == set(here.ids)  # that the consumer has the first one shows when they are looked after
    assert here.is_free()


def test_messages_of_a_bunch_count_as_prefetched_all_the_time(here: Here) -> None:
    """Otherwise the consumer, or the next thread, would fetch others in their place."""
    here.arrive()
    counts, others, taken = list[int](), list[Bunch | None](), here.put

    def put(message: Any) -> None:
        counts.append(here.consumer.outstanding_message_count)
        other = threading.Thread(target=lambda: others.append(here.bunches.begin(QUEUE)))
        other.start()
        other.join()
        taken(message)

    here.put = put
    here.bunches.end()
    assert min(counts) >= len(here.data)
    assert others == [None] * len(here.data)


@pytest.mark.parametrize(("has", "acks", "fetched"), [(15, 1, 2), (16, 1, None), (16, 2, 2), (16, 4, 3), (14, 1, 3)])
def test_no_more_is_fetched_than_there_is_place_for(here: Here, has: int, acks: int, fetched: int | None) -> None:
    """Of a prefetch of 16, once the messages are acked in the same step."""
    here.look()
    here.consumer.queued_message_ids = {str(number) for number in range(has)}
    bunch = here.bunches.begin(QUEUE, acks)
    assert (bunch and len(bunch.ids)) == fetched
    here.bunches.end()
    here.consumer.queued_message_ids = set()


def test_a_consumer_leaves_it_to_threads_only_if_they_have_just_been_told_what_is_next(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise no step may come that fetches anything, and the consumer would wait for it in vain."""
    here.consumer.queued_message_ids = {str(number) for number in range(8)}
    assert not here.bunches.are_enough(QUEUE, here.consumer)
    here.look()
    assert here.bunches.are_enough(QUEUE, here.consumer)
    monkeypatch.setattr("dramatiq_clutch.backends.redis.bunches.JUST", 0)
    assert not here.bunches.are_enough(QUEUE, here.consumer)
    monkeypatch.undo()
    here.ids = ["that of a message that something else has sent"]
    here.look()
    assert not here.bunches.are_enough(QUEUE, here.consumer)
    here.consumer.queued_message_ids = set()


def test_an_interrupt_between_the_step_and_its_end_leaves_no_turn_behind(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, broken, note_ack = Jobs(redis_broker), list[str](), Desk.note_ack

    def breaks(desk: Desk, in_queue: str) -> None:
        note_ack(desk, in_queue)
        if not broken and desk.bunches._turns:  # noqa: SLF001
            broken.append(in_queue)
            raise Shutdown("as it is raised in a job's thread, at any moment")

    monkeypatch.setattr(Desk, "note_ack", breaks)
    names = [f"job {number}" for number in range(60)]
    with running_worker(redis_broker, threads=2):
        run = Clutch().then(jobs.job.message("first")).parallel(map(jobs.job.message, names)).then(jobs.total).run()
        wait_until("the interrupt", lambda: broken)
        assert run.get_result(block=True) == names
        courier: Any = engine_of(redis_broker).courier
        assert isinstance(courier, RedisCourier)
        wait_until("no turn is left behind", lambda: not courier._desk.bunches._turns)  # noqa: SLF001


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("error", [PayloadRefused("too much at once"), Shutdown("at any moment"), None])
def test_a_bunch_is_not_lost_if_the_step_that_has_fetched_it_is_done_again(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch, error: BaseException | None, deferred: bool
) -> None:
    """It travels with the steps of others, which are done again if one of them is refused or interrupted."""
    monkeypatch.setattr(deferring, "SHORT", 3_600_000)  # however busy the machine is
    monkeypatch.setattr(deferring, "WIDE", 16 if deferred else 100)
    # Nothing interrupts the thread that makes late records.
    monkeypatch.setattr(deferring.Deferring, "_make_late", lambda one: None)
    jobs, broken, backend = Jobs(redis_broker), list[int](), engine_of(redis_broker).backend
    assert isinstance(backend, RedisBackend)
    together = backend.succeed_together

    def breaks(common: Sequence[Any]) -> Sequence[bytes]:
        words = together(common)
        if not broken and any(along and along.bunch and along.bunch.messages for _, along, *_ in common):
            broken.append(len(common))
            if error is None:  # another thread has made the round trip, was interrupted, and leaves it to the next
                return together(common)
            raise error
        return words

    if deferred:
        monkeypatch.setattr(backend, "succeed_together", breaks)
    else:
        monkeypatch.setattr(backend._succeed, "_perform", breaks)  # noqa: SLF001
    names = [f"job {number}" for number in range(60)]
    with running_worker(redis_broker, threads=2):
        run = Clutch().then(jobs.job.message("first")).parallel(map(jobs.job.message, names)).then(jobs.total).run()
        assert run.get_result(block=True) == names
        assert broken


def test_a_prefetch_of_no_more_than_the_threads_is_used_to_the_full(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No thread fetches bunches then, so the consumer has to."""
    monkeypatch.setattr("dramatiq.worker.QUEUE_PREFETCH", 4)
    jobs = Jobs(redis_broker)
    names = [f"job {number}" for number in range(8)]
    jobs.script.update({name: ["wait"] for name in names})
    try:
        with running_worker(redis_broker, threads=4):
            Clutch().then(jobs.job.message("first")).parallel(map(jobs.job.message, names)).run()
            wait_until("all threads are at work", lambda: len(jobs.began) == 5)
            jobs.gates[jobs.began[-1]].set()
            wait_until("the next one has begun", lambda: len(jobs.began) == 6)
            open_all(jobs, names)
    finally:
        open_all(jobs, names)


def open_all(jobs: Jobs, names: Sequence[str]) -> None:
    for name in names:
        jobs.gates[name].set()


def test_a_consumer_fetches_messages_that_are_not_of_clutches_as_ever(redis_broker: RedisBroker) -> None:
    """They stand behind a stage that this process has sent; no step of theirs fetches anything."""
    jobs, plain = Jobs(redis_broker), [f"plain {number}" for number in range(10)]
    gates = {name: threading.Event() for name in plain}
    began: list[str] = []

    @dramatiq.actor(priority=1)  # of messages that have come at once, older releases run any first
    def waits(name: str) -> None:
        began.append(name)
        gates[name].wait(PATIENCE)

    @dramatiq.actor
    def first() -> None:
        Clutch().parallel(jobs.job.message(f"job {number}") for number in range(6)).run()
        for name in plain:
            waits.send(name)

    try:
        with running_worker(redis_broker, threads=2):
            Clutch().then(first).run()
            wait_until("all threads are at work", lambda: len(began) == 2)
            wait_until("all jobs are acked", lambda: len(unacked(redis_broker)) + in_queue(redis_broker) == 10)
            gates[began[0]].set()
            wait_until("its message is acked", lambda: len(unacked(redis_broker)) + in_queue(redis_broker) == 9)
            wait_until("as many are fetched as may be", lambda: len(unacked(redis_broker)) >= 4)
            for gate in gates.values():
                gate.set()
    finally:
        for gate in gates.values():
            gate.set()


def test_a_thread_whose_call_was_taken_by_one_that_was_interrupted_makes_it_itself() -> None:
    performed: list[Sequence[str]] = []

    def perform(items: Sequence[str]) -> Sequence[str]:
        performed.append(items)
        return [item.upper() for item in items]

    combining: Combining[str, str] = Combining(perform)

    class Taken(deque[Any]):
        def popleft(self) -> Any:
            super().popleft()
            raise Shutdown("right after it was taken")

    combining._waiting = Taken()  # noqa: SLF001
    with pytest.raises(Shutdown):
        combining("a")
    with combining._turn:  # noqa: SLF001
        answers: list[str] = []
        other = threading.Thread(target=lambda: answers.append(combining("b")))
        other.start()
        wait_until("the call waits", lambda: len(combining._waiting) == 1)  # noqa: SLF001
        combining._waiting = deque()  # noqa: SLF001
    other.join()
    assert answers == ["B"]


@pytest.fixture
def own_client(redis_client: redis.Redis) -> Iterator[redis.Redis]:
    """A client of the same server, with a pool of its own."""
    pool = redis.ConnectionPool(**redis_client.connection_pool.connection_kwargs)
    yield redis.Redis(connection_pool=pool)
    pool.disconnect()


def test_a_connection_that_was_closed_while_it_was_kept_is_not_used(
    redis_client: redis.Redis, own_client: redis.Redis
) -> None:
    """A pool finds that out when it gives a connection, and so nobody sees it."""
    client = own_client
    assert resp.send(client, [("PING",)]) == [b"PONG"]
    kill = partial(redis_client.execute_command, "CLIENT", "KILL", "ID")
    kill(*resp.send(client, [("CLIENT", "ID")]))
    assert resp.send(client, [("PING",)]) == [b"PONG"]


def test_no_connection_is_kept_of_a_client_that_is_gone(own_client: redis.Redis) -> None:
    """Others may share its pool."""
    pool: Any = own_client.connection_pool
    for _ in range(3):
        client: Any = redis.Redis(connection_pool=pool)
        assert resp.send(client, [("PING",)]) == [b"PONG"]
        del client
    assert pool._created_connections == 1  # noqa: SLF001
