"""A worker fetches what it sends itself, and acks what it records, without its consumer: in the same step."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Shutdown

from dramatiq_clutch import Clutch, Run, previous_results
from dramatiq_clutch.backend import Caller, Record, Reply
from dramatiq_clutch.backends.redis import bunches, resp
from dramatiq_clutch.backends.redis.along import Along, Bunch
from dramatiq_clutch.backends.redis.astray import Astray
from dramatiq_clutch.backends.redis.bunches import Left
from dramatiq_clutch.backends.redis.desk import Desk
from dramatiq_clutch.backends.redis.dispatching import Dispatch
from dramatiq_clutch.backends.redis.doorbells import Doorbells
from dramatiq_clutch.backends.redis.scripts import script
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.stored.places import Tag
from tests.conftest import running_worker
from tests.support.awaiting import PATIENCE, wait_until
from tests.support.consumers import Consumers
from tests.support.jobs import Jobs


@pytest.fixture
def consumers(redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch) -> Consumers:
    """Nobody else looks either: no worker is woken by a doorbell."""
    monkeypatch.setattr(Doorbells, "attend", lambda self, worker: None)
    return Consumers(redis_broker)


def in_queue(broker: RedisBroker, queue: str = "default") -> int:
    """How many messages wait in a queue, which nobody has fetched."""
    client: Any = broker.client
    return int(client.llen(f"{broker.namespace}:{queue}"))


def unacked(broker: RedisBroker, queue: str = "default") -> set[bytes]:
    """The messages that this process has fetched and not acked, by the ids that they have in their queue."""
    client: Any = broker.client
    return set(client.smembers(f"{broker.namespace}:__acks__.{broker.broker_id}.{queue}"))


def falls_asleep(broker: RedisBroker, consumers: Consumers) -> Any:
    """A job that sees to it that no consumer finds anything after it."""

    @dramatiq.actor
    def first() -> str:
        consumers.sleep()
        return "first"

    return first


@pytest.mark.parametrize("threads", [1, pytest.param(4, marks=pytest.mark.search)])
@pytest.mark.parametrize("shape", ["a series", "piped", "parallel", "nested", "callbacks"])
def test_what_follows_a_job_begins_though_no_consumer_looks(
    redis_broker: RedisBroker, consumers: Consumers, shape: str, threads: int
) -> None:
    jobs, first = Jobs(redis_broker), falls_asleep(redis_broker, consumers)
    begun = Clutch().then(first)
    names = ["a", "b", "c", "d", "e", "f"]
    clutch = {
        "a series": begun.then(*(jobs.job.message(name) for name in names)).then(jobs.total),
        "piped": begun.then(jobs.job, jobs.job, jobs.job, pipe=True).then(jobs.total),
        "parallel": begun.parallel(jobs.job.message(name) for name in names).then(jobs.total),
        "nested": begun.parallel(Clutch().then(jobs.job.message(name)) for name in names).then(jobs.total),
        "callbacks": Clutch(on_success=jobs.heard.message("root")).then(first).then(jobs.total),
    }[shape]
    with running_worker(redis_broker, threads=threads):
        run = clutch.run()
        expected = {"a series": ["f"], "piped": ["first"], "callbacks": ["first"]}.get(shape, names)
        assert run.get_result(block=True) == expected
        if shape == "callbacks":
            jobs.wait_fired("root", "S")
        wait_until("everything is acked", lambda: not unacked(redis_broker))
    assert consumers.fetched["consumer"] == 1
    assert max(jobs.counts().values()) == (3 if shape == "piped" else 1)


def test_a_stage_that_is_wider_than_the_worker_is_fetched_bit_by_bit(
    redis_broker: RedisBroker, consumers: Consumers
) -> None:
    """By threads that have nothing to do, for as long as there is more."""
    jobs, first = Jobs(redis_broker), falls_asleep(redis_broker, consumers)
    names = [f"job {number}" for number in range(50)]
    with running_worker(redis_broker, threads=2):
        run = Clutch().then(first).parallel(jobs.job.message(name) for name in names).then(jobs.total).run()
        assert run.get_result(block=True) == names
    assert set(jobs.counts().values()) == {1}
    assert consumers.fetched["consumer"] == 1
    assert in_queue(redis_broker) == 0


def test_what_a_thread_looks_for_counts_as_prefetched_meanwhile(
    redis_broker: RedisBroker, consumers: Consumers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise others fetch in its place, and the worker has more than it may."""
    jobs, first, fetch, counts = Jobs(redis_broker), falls_asleep(redis_broker, consumers), Dispatch.fetch, list[int]()

    def watched(dispatch: Dispatch, queue: str, count: int) -> Sequence[bytes]:
        counts.append(consumer().outstanding_message_count)
        return fetch(dispatch, queue, count)

    def consumer() -> Any:
        thread: Any = worker.consumers["default"]
        return thread.consumer

    monkeypatch.setattr(Dispatch, "fetch", watched)
    names = [f"job {number}" for number in range(12)]
    with running_worker(redis_broker, threads=1) as worker:
        run = Clutch().then(first).parallel(map(jobs.job.message, names)).then(jobs.total).run()
        assert run.get_result(block=True) == names
        wait_until("nothing counts any more", lambda: not consumer().outstanding_message_count)
    assert set(counts) == {2}


def test_the_next_job_is_given_to_the_worker_once_the_log_has_its_line(
    redis_broker: RedisBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise another thread takes it in the midst of that, and the two are in each other's way."""
    jobs, given = Jobs(redis_broker), list[tuple[int, int]]()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            thread: Any = threading.current_thread()
            if record.event == "released":  # type: ignore[attr-defined]
                prefetched = thread.consumers["default"].consumer.outstanding_message_count
                given.append((thread.work_queue.unfinished_tasks, prefetched))

    handler, logger = Handler(), logging.getLogger("dramatiq_clutch.runs")
    run = Clutch().then(*(jobs.job.message(name) for name in "abc")).run()
    logger.addHandler(handler)
    try:
        with caplog.at_level("INFO", logger.name), running_worker(redis_broker, threads=4):
            assert run.get_result(block=True) == "c"
    finally:
        logger.removeHandler(handler)
    # The worker doesn't have the next message yet, though it counts as prefetched. Another thread may still be busy
    # with the message before, and the first hand-over is a step of its own.
    ((unfinished, prefetched),) = given[1:]
    assert prefetched == unfinished + 1


def test_a_message_that_is_held_is_given_to_the_worker_whatever_happens(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, broken = Jobs(redis_broker), list[str]()

    def log(run_id: str, news: Sequence[Any], *more: Any) -> None:
        if not broken and any(one.event == "released" and one.stage == 1 for one in news):
            broken.append(run_id)
            raise Shutdown("as it is raised in a job's thread, at any moment")

    monkeypatch.setattr("dramatiq_clutch.handover.doing.log", log)
    run = Clutch().then(*(jobs.job.message(name) for name in "abc")).run()
    with running_worker(redis_broker, threads=2):
        assert run.get_result(block=True) == "c"
    assert broken


def test_what_a_worker_fetches_by_itself_is_unacked_on_the_server_until_it_has_ended(
    redis_broker: RedisBroker, consumers: Consumers
) -> None:
    """So it is redelivered when the process dies."""
    jobs, first = Jobs(redis_broker), falls_asleep(redis_broker, consumers)
    jobs.script["a"] = ["wait"]
    with running_worker(redis_broker, threads=1):
        run = Clutch().then(first).then(jobs.job.message("a")).run()
        wait_until("it is at work", lambda: jobs.began == ["a"])
        wait_until("the first is acked", lambda: len(unacked(redis_broker)) == 1)
        (message,) = redis_broker.client.hgetall(f"{redis_broker.namespace}:default.msgs").items()
        assert {message[0]} == unacked(redis_broker)
        assert in_queue(redis_broker) == 0
        jobs.gates["a"].set()
        run.get_result(block=True)
        wait_until("everything is acked", lambda: not unacked(redis_broker))


def test_what_waits_in_the_queue_comes_first(redis_broker: RedisBroker, consumers: Consumers) -> None:
    """A worker takes nothing that isn't the first in its queue."""
    began: list[str] = []

    @dramatiq.actor(priority=-1)  # of two messages that have come at once, older releases run either first
    def plain() -> None:
        began.append("plain")

    @dramatiq.actor
    def first() -> None:
        consumers.sleep()
        plain.send()

    @dramatiq.actor
    def last() -> None:
        began.append("last")

    run = Clutch().then(first).then(last).run()  # as in another process: the worker doesn't know what is in the queue
    with running_worker(redis_broker, threads=1):
        run.get_result(block=True)
    assert began == ["plain", "last"]
    assert consumers.fetched["consumer"] == 1


@pytest.mark.parametrize("busy", ["a thread", "the worker's queue"])
def test_a_worker_that_has_no_thread_for_a_message_leaves_it_to_others(redis_broker: RedisBroker, busy: str) -> None:
    jobs = Jobs(redis_broker)
    jobs.script["a"] = ["wait"]
    began, alone, sent, gate = (threading.Event() for _ in range(4))

    @dramatiq.actor
    def sends() -> None:
        """While it runs, its thread isn't free."""
        began.set()
        assert alone.wait(PATIENCE)
        Clutch().then(jobs.job.message("b")).run()
        sent.set()
        assert gate.wait(PATIENCE)

    consumers = Consumers(redis_broker)
    with running_worker(redis_broker, threads=2 if busy == "a thread" else 1):
        if busy == "a thread":
            jobs.job.send("a")
            wait_until("one thread is at work", lambda: jobs.began == ["a"])
        sends.send()
        assert began.wait(PATIENCE)
        if busy != "a thread":
            jobs.job.send("c")
            wait_until("one waits", lambda: consumers.fetched["consumer"] == 2)
        consumers.sleep()
        alone.set()
        assert sent.wait(PATIENCE)
        assert in_queue(redis_broker) == 1
        consumers.wake()
        gate.set()
        jobs.gates["a"].set()
        wait_until("all have begun", lambda: jobs.counts()["b"] == 1)


def test_a_worker_that_does_not_listen_on_a_queue_fetches_nothing_from_it(
    redis_broker: RedisBroker, consumers: Consumers
) -> None:
    first = falls_asleep(redis_broker, consumers)

    @dramatiq.actor(queue_name="elsewhere")
    def last() -> str:
        return "last"

    run = Clutch().then(first).then(last).run()
    worker = dramatiq.Worker(redis_broker, queues={"default"}, worker_timeout=50, worker_threads=2)
    worker.start()
    try:
        wait_until("the message is there", partial(in_queue, redis_broker, "elsewhere"))
        wait_until("the first is acked", lambda: not unacked(redis_broker))
    finally:
        worker.stop()
    assert in_queue(redis_broker, "elsewhere") == 1
    consumers.wake()
    with running_worker(redis_broker):
        assert run.get_result(block=True) == "last"


def test_a_thread_fetches_what_its_very_first_job_sends(redis_broker: RedisBroker, consumers: Consumers) -> None:
    """Dramatiq puts it on its worker's list only after it has started."""
    jobs, first = Jobs(redis_broker), falls_asleep(redis_broker, consumers)
    run = Clutch().then(first).then(jobs.job.message("a")).run()

    class Listed(list[Any]):
        def append(self, thread: Any) -> None:
            wait_until("the run is done", lambda: run.status().state == "succeeded")
            super().append(thread)

    worker = dramatiq.Worker(redis_broker, worker_timeout=50, worker_threads=1)
    worker.workers = Listed()
    worker.start()
    worker.stop()
    assert consumers.fetched["consumer"] == 1


def test_a_prefetch_of_one_is_kept_to(redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """With it, Dramatiq fetches a message only when the one before is done."""
    monkeypatch.setattr("dramatiq.worker.QUEUE_PREFETCH", 1)
    most: list[int] = []

    @dramatiq.actor
    def job(number: int) -> int:
        most.append(len(unacked(redis_broker)))
        return number

    clutch = Clutch().then(job.message(0)).parallel(job.message(number) for number in range(5)).then(job.message(1))
    with running_worker(redis_broker, threads=4):
        assert clutch.then(job.message(2)).run().get_result(block=True) == 2
    assert set(most) == {1}
    assert len(most) == 8


def test_a_worker_that_is_told_to_stop_takes_nothing_more(redis_broker: RedisBroker, consumers: Consumers) -> None:
    """What its last jobs cause is left to other workers, at once."""
    jobs = Jobs(redis_broker)
    jobs.script["a"] = ["wait"]
    run = Clutch().then(jobs.job.message("a")).then(jobs.job.message("b")).run()
    with running_worker(redis_broker, threads=1) as worker:
        wait_until("the first is at work", lambda: jobs.began == ["a"])
        consumers.sleep()
        redis_broker.emit_before("worker_shutdown", worker)
        jobs.gates["a"].set()
        wait_until("the next is sent", partial(in_queue, redis_broker))
    assert jobs.began == ["a"]
    assert not unacked(redis_broker)
    consumers.wake()
    with running_worker(redis_broker):
        assert run.get_result(block=True) == "b"


@pytest.mark.parametrize("lost", ["of a record", "of a hand-over"])
def test_what_was_fetched_without_the_sender_knowing_is_given_back(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """The reply to the step that sent and fetched it was lost. It would only come again when the process has ended."""
    jobs = Jobs(redis_broker)
    losses: list[str] = []
    backend: Any = engine_of(redis_broker).backend
    records: Any = backend.record
    sends = resp.send

    def record(record: Record, caller: Caller, along: Along | None = None) -> Reply:
        reply: Reply = records(record, caller, along)
        if lost == "of a record" and reply.kept and not losses:
            losses.append(lost)
            raise redis.ConnectionError("the reply is lost")
        return reply

    def send(client: redis.Redis, commands: Sequence[resp.Command]) -> list[Any]:
        answers = sends(client, commands)
        if lost == "of a hand-over" and answers[-1] == 1 and not losses:
            losses.append(lost)
            raise redis.ConnectionError("the reply is lost")
        return answers

    monkeypatch.setattr(backend, "record", record)
    monkeypatch.setattr(resp, "send", send)
    with running_worker(redis_broker, threads=1):
        run = Clutch().then(*(jobs.job.message(name) for name in "abcd")).run()
        assert run.get_result(block=True) == "d"
        wait_until("everything is acked", lambda: not unacked(redis_broker))
    assert losses == [lost]
    assert jobs.counts() == dict.fromkeys("abcd", 1)


def test_what_a_consumer_has_fetched_stays_its_own_though_a_reply_was_lost(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the server it looks the same: the message is unacked, and the sender doesn't know of it."""
    jobs = Jobs(redis_broker)
    jobs.script["b"] = ["wait"]
    losses, looks = list[str](), list[int]()
    sends, look = resp.send, Astray.look
    dispatch: Any = redis_broker.scripts["dispatch"].script
    keep = script("keep", dispatch.decode()).sha

    def send(client: redis.Redis, commands: Sequence[resp.Command]) -> list[Any]:
        if losses or keep not in commands[-1]:
            return sends(client, commands)
        losses.append("all replies")
        sends(client, commands[:-1])  # nothing fetches it in the same step, and so the consumer does
        wait_until("the consumer has fetched it", lambda: len(unacked(redis_broker)) == 2)
        raise redis.ConnectionError("the replies are lost")

    def count(astray: Astray, unknown: set[str]) -> set[str]:
        looks.append(len(unknown))
        return look(astray, unknown)

    monkeypatch.setattr(resp, "send", send)
    monkeypatch.setattr(Astray, "look", count)
    monkeypatch.setattr("dramatiq_clutch.backends.redis.astray.PAUSE", 0.02)
    run = Clutch().then(jobs.job.message("a")).parallel(jobs.job.message("b"), jobs.job.message("c"), limit=1).run()
    with running_worker(redis_broker, threads=1):
        wait_until("it was looked for", lambda: len(looks) > 5)
        jobs.gates["b"].set()
        assert run.get_result(block=True) == ["b", "c"]
        wait_until("everything is acked", lambda: not unacked(redis_broker))
    assert losses
    assert jobs.counts() == dict.fromkeys("abc", 1)


# Bunches


@pytest.fixture
def looks(redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many messages each fetch has found that a thread of a worker has made by itself, in no other step."""
    found: list[int] = []
    fetch = Dispatch.fetch

    def watched(dispatch: Dispatch, queue: str, count: int) -> Sequence[bytes]:
        messages = fetch(dispatch, queue, count)
        found.append(len(messages))
        return messages

    monkeypatch.setattr(Dispatch, "fetch", watched)
    return found


@pytest.mark.parametrize("threads", [1, 4])
def test_the_next_messages_of_a_wide_stage_come_in_the_steps_that_ack_one(
    redis_broker: RedisBroker, consumers: Consumers, looks: list[int], threads: int
) -> None:
    jobs, most = 200, list[int]()
    first = falls_asleep(redis_broker, consumers)

    @dramatiq.actor
    def job(number: int) -> int:
        most.append(len(unacked(redis_broker)))
        return number

    with running_worker(redis_broker, threads=threads):
        run = Clutch().then(first).parallel(job.message(number) for number in range(jobs)).run()
        assert run.get_result(block=True) == list(range(jobs))
        wait_until("everything is acked", lambda: not unacked(redis_broker))
    assert consumers.fetched["consumer"] == 1
    assert len(most) == jobs
    assert max(most) <= 2 * threads  # Dramatiq's prefetch
    assert sum(looks) < jobs / 2
    if threads == 1:
        assert len(looks) <= 3


def test_a_consumer_leaves_to_its_worker_s_threads_what_they_fetch(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it takes what they are about to fetch, a message or two at a time."""
    monkeypatch.setattr(bunches, "JUST", 3_600.0)
    asked: list[str] = []

    def fetch(queue: str, count: int) -> Sequence[bytes]:
        asked.append(queue)
        return [b"a message"] * count

    desk: Any = Desk(redis_broker, fetch)
    has = SimpleNamespace(outstanding_message_count=8, prefetch=16)
    worker: Any = SimpleNamespace(consumers={"default": threading.current_thread()})
    desk.attend(worker)
    desk._fetch_on_server = fetch  # noqa: SLF001
    ask: Any = redis_broker.do_fetch
    threading.current_thread().consumer = has  # type: ignore[attr-defined]
    try:
        assert ask("default", 2) == [b"a message"] * 2  # no thread was told what comes next
        desk.bunches._first["default"] = time.monotonic(), ("an id",)  # noqa: SLF001
        assert ask("default", 2) == []
        assert ask("other", 2) == [b"a message"] * 2
        has.outstanding_message_count = 7
        assert ask("default", 2) == [b"a message"] * 2
    finally:
        del threading.current_thread().consumer  # type: ignore[attr-defined]
    assert asked == ["default", "other", "default"]


def test_a_bunch_whose_reply_is_lost_is_put_back(
    redis_broker: RedisBroker, consumers: Consumers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise these messages would come again only when the process has ended."""
    monkeypatch.setattr("dramatiq_clutch.backends.redis.astray.PAUSE", 0.02)
    jobs, first, lost = Jobs(redis_broker), falls_asleep(redis_broker, consumers), list[str]()
    backend: Any = engine_of(redis_broker).backend
    runs: Any = backend._run  # noqa: SLF001

    def run_script(name: str, keys: Any, given: Any, *rest: Any, **more: Any) -> Any:
        answer = runs(name, keys, given, *rest, **more)
        if name == "succeed" and given["fetches"] and answer.split(b"\n", 3)[-1] and not lost:
            lost.append(given["first"])
            raise redis.ConnectionError("the reply is lost")
        return answer

    monkeypatch.setattr(backend, "_run", run_script)
    names = [f"job {number}" for number in range(20)]
    with running_worker(redis_broker, threads=1):
        run = Clutch().then(first).parallel(jobs.job.message(name) for name in names).then(jobs.total).run()
        wait_until("a reply was lost", lambda: bool(lost))
        consumers.wake()
        assert run.get_result(block=True) == names
        wait_until("everything is acked", lambda: not unacked(redis_broker))
    assert set(jobs.counts().values()) == {1}


def test_a_worker_goes_on_with_what_others_have_put_between_its_messages(
    redis_broker: RedisBroker, consumers: Consumers
) -> None:
    """Of those it doesn't know which messages they are by the ids that they have in their queue."""
    began, first = list[str](), falls_asleep(redis_broker, consumers)

    @dramatiq.actor
    def plain() -> None:
        began.append("plain")
        consumers.wake()  # after a message of no clutch, it is the consumer that looks for more

    @dramatiq.actor
    def job(number: int) -> int:
        if number == 3:
            for _ in range(3):
                plain.send()
            Clutch().parallel(late.message() for _ in range(10)).run()
        began.append(str(number))
        return number

    @dramatiq.actor
    def late() -> None:
        began.append("late")

    with running_worker(redis_broker, threads=1):
        Clutch().then(first).parallel(job.message(number) for number in range(20)).run()
        wait_until("the jobs of both runs have begun", lambda: began.count("late") == 10)
        wait_until("everything is acked", lambda: not unacked(redis_broker))
    assert began == [*map(str, range(20)), *["plain"] * 3, *["late"] * 10]


DISPATCH = """
redis.call('RPUSH', 'called', ARGV[1])
if ARGV[1] == 'fetch' then return {redis.call('LPOP', 'list'), redis.call('LPOP', 'list')} end
"""


@pytest.mark.parametrize("ids", [("one", "two"), ("two", "three"), ()])
def test_a_bunch_is_fetched_only_while_it_is_first(redis_broker: RedisBroker, ids: tuple[str, ...]) -> None:
    """By the script for the common case, and by no other."""

    @dramatiq.actor
    def job() -> None: ...

    backend: Any = engine_of(redis_broker).backend
    run = Clutch().parallel(job.message(), job.message()).run()
    place: Any = {"of": 2, "generation": backend.generation(run.run_id), "actor": "job"}
    records = [Record(Tag(run.run_id, 0, index, **place), 0, "succeeded", b"null") for index in range(2)]
    redis_broker.client.rpush("list", "one", "two", "three", "four")
    caller, bunch = engine_of(redis_broker).caller("somebody", touch=True), Bunch("queue", ids, 3)
    fetch = ("fetch", len(ids)) if ids else ()
    along = Along(DISPATCH, "key", ("ack", "an id"), "queue", fetch=fetch, queue="list", bunch=bunch)
    assert backend.record(records[0], caller, along).acked
    assert (bunch.done, bunch.messages) == (False, ())
    backend.record(records[1], caller._replace(touch=False), along)
    is_first = ids == ("one", "two")
    assert (bunch.done, bunch.messages) == (True, [b"one", b"two"] if is_first else [])
    assert bunch.first == (["three", "four"] if is_first else ["one", "two", "three"])
    assert redis_broker.client.lrange("called", 0, -1) == [b"ack", *[b"fetch"] * is_first]


def test_what_is_sent_while_a_queue_is_looked_at_isn_t_forgotten() -> None:
    left = Left()
    left.add("default")
    mark = left.mark("default")
    left.add("default")  # by another thread
    left.discard("default", mark)
    assert left.queues() == ["default"]
    left.discard("default", left.mark("default"))
    assert not left


# Acks


@pytest.fixture
def acks(redis_broker: RedisBroker) -> list[str]:
    """What Dramatiq acks in a round trip of its own."""
    seen: list[str] = []
    works: Callable[..., Any] = redis_broker.do_ack

    def ack(queue_name: str, message_id: str) -> Any:
        seen.append(message_id)
        return works(queue_name, message_id)

    redis_broker.do_ack = ack  # type: ignore[attr-defined]
    return seen


@pytest.fixture
def alone(redis_broker: RedisBroker) -> list[str]:
    """The ids of the messages that are acked by Dramatiq, and not with their record."""
    desk: Any = engine_of(redis_broker).courier._desk  # type: ignore[attr-defined]  # noqa: SLF001
    seen: list[str] = []

    def ack(queue_name: str, message_id: str, works: Any = redis_broker.do_ack) -> Any:
        seen.append(message_id)
        return works(queue_name, message_id)

    desk._ack_on_server = ack  # noqa: SLF001
    redis_broker.do_ack = desk._ack  # type: ignore[attr-defined]  # noqa: SLF001
    return seen


@pytest.mark.parametrize("timings", [False, True], ids=["the common step", "the whole transition"])
def test_the_message_of_a_job_is_acked_with_its_record(
    redis_broker: RedisBroker, alone: list[str], timings: bool
) -> None:
    jobs = Jobs(redis_broker)
    clutch = Clutch(timings=timings).parallel(jobs.job.message(str(number)) for number in range(20))
    with running_worker(redis_broker, threads=4):
        run = clutch.then(*(jobs.job.message(name) for name in "abcdef")).run()
        assert run.get_result(block=True) == "f"
        wait_until("everything is acked", lambda: not unacked(redis_broker))
    # Alone: the one that completed the wide stage, the first of the series, which another process might have sent, and
    # the last one, which tells that the run has ended.
    assert len(alone) <= 3
    assert not redis_broker.client.hlen(f"{redis_broker.namespace}:default.msgs")


def test_a_message_is_not_acked_before_what_its_end_causes_is_done(redis_broker: RedisBroker, alone: list[str]) -> None:
    """So whoever it is redelivered to does it, should the process die."""
    jobs = Jobs(redis_broker)
    with running_worker(redis_broker, threads=1):
        run = Clutch().then(jobs.job.message("a")).parallel(jobs.job.message(name) for name in "bc").run()
        run.get_result(block=True)
        wait_until("everything is acked", lambda: not unacked(redis_broker))
    assert len(alone) == 2  # a, which sends b and c, and the last


@pytest.mark.parametrize("ending", ["fail", "die"])
def test_what_has_not_succeeded_is_acked_or_rejected_by_dramatiq(
    redis_broker: RedisBroker, alone: list[str], ending: str
) -> None:
    jobs = Jobs(redis_broker)
    jobs.script["a"] = [ending]
    with running_worker(redis_broker, threads=1):
        run = Clutch().parallel([jobs.job.message("a"), jobs.job.message("b")], allow_failures=True).run()
        run.get_result(block=True)
        wait_until("everything is acked", lambda: not unacked(redis_broker))
    letters = redis_broker.client.zcard(f"{redis_broker.namespace}:default.XQ")
    assert letters == (ending == "die")


def test_a_second_copy_is_acked_by_dramatiq(redis_broker: RedisBroker, alone: list[str]) -> None:
    """It changes nothing, and so it isn't recorded in the common way."""
    jobs = Jobs(redis_broker)
    jobs.script["b"] = ["wait"]
    run = Clutch().parallel([jobs.job.message("a"), jobs.job.message("b")]).run()
    client: Any = redis_broker.client
    ids = client.lrange(f"{redis_broker.namespace}:default", 0, -1)
    copies = [dramatiq.Message.decode(data) for data in client.hmget(f"{redis_broker.namespace}:default.msgs", ids)]
    with running_worker(redis_broker, threads=2):
        wait_until("one has succeeded", lambda: run.status().stages[0].succeeded == 1)
        redis_broker.enqueue(next(copy for copy in copies if copy.args[0] == "a"))
        wait_until("the copy is acked", lambda: len(alone) == 1)
        jobs.gates["b"].set()
        run.get_result(block=True)


def test_a_broker_whose_acks_somebody_else_watches_acks_each_message(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch, acks: list[str]
) -> None:
    jobs = Jobs(redis_broker)
    with running_worker(redis_broker, threads=2):
        run = Clutch().parallel(jobs.job.message(name) for name in "abc").run()
        run.get_result(block=True)
        wait_until("everything is acked", lambda: not unacked(redis_broker))
    assert len(acks) == 3


def test_results_are_handed_on_in_order_however_messages_have_come(redis_broker: RedisBroker) -> None:
    @dramatiq.actor
    def job(number: int) -> list[Any]:
        return [number, sum(len(result) for result in previous_results())]

    clutch = Clutch()
    for _ in range(10):
        clutch = clutch.parallel(job.message(number) for number in range(7))
    with running_worker(redis_broker, threads=3):
        runs: list[Run] = [clutch.run() for _ in range(5)]
        for run in runs:
            assert run.get_result(block=True) == [[number, 14] for number in range(7)]
