"""Records of short jobs are made in a moment, many in one step: whatever happens meanwhile, nothing that was promised
changes."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import Middleware
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Shutdown
from dramatiq.worker import _ConsumerThread  # as it is called in Dramatiq 1, and may be called in 2

from dramatiq_clutch import Clutch
from dramatiq_clutch.backend import Caller, Record
from dramatiq_clutch.backends import RedisBackend
from dramatiq_clutch.backends.redis import bunches, deferring
from dramatiq_clutch.backends.redis.astray import Astray, Missing
from dramatiq_clutch.backends.redis.deferring import Deferring
from dramatiq_clutch.backends.redis.finishing import Deferred
from dramatiq_clutch.backends.redis.succeeding import Success, Word
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.errors import StateUnavailable
from dramatiq_clutch.observing import Absorbed, AttemptEnded
from tests.conftest import as_global_broker, running_worker
from tests.support import deferred as elsewhere
from tests.support.awaiting import PATIENCE, wait_until
from tests.support.jobs import Jobs, state_is
from tests.support.server import Server
from tests.support.workers import Worker
from tests.test_desk import in_queue, unacked
from tests.test_forks import fork, logs, outcome  # noqa: F401
from tests.test_observing import Sees

#: So many messages may a worker of these tests prefetch, unless a test says otherwise.
PREFETCH = 64

QUEUE = "default"


@pytest.fixture(autouse=True)
def all_jobs_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is."""
    monkeypatch.setattr(deferring, "SHORT", 3_600_000)
    monkeypatch.setattr("dramatiq.worker.QUEUE_PREFETCH", PREFETCH)


class Held:
    """Records stay deferred until `go`, or until their worker is told to stop. `late` holds only the thread that makes
    late ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._go, self._late = threading.Event(), threading.Event()
        is_time, make_late = Deferring._is_time, Deferring._make_late  # noqa: SLF001
        monkeypatch.setattr(
            Deferring,
            "_is_time",
            lambda one, worker, is_all: (self._go.is_set() or worker is None) and is_time(one, worker, is_all),
        )
        monkeypatch.setattr(Deferring, "_make_late", lambda one: make_late(one) if self._late.is_set() else None)

    def go(self, *, late: bool = True) -> None:
        self._go.set()
        if late:
            self._late.set()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(monkeypatch)


@pytest.fixture
def nobody_late(held: Held) -> None:
    """Only the worker's threads make records."""
    held.go(late=False)


class Stage:
    """A run of a wide stage, whose first job waits until the worker has all others; and its worker's records."""

    def __init__(self, broker: RedisBroker, count: int = 40, jobs: Jobs | None = None) -> None:
        self.broker, self.jobs = broker, jobs or Jobs(broker)
        self.names = [f"job {number}" for number in range(count)]
        self.jobs.script[self.names[0]] = ["wait"]
        self.run = Clutch().parallel(map(self.jobs.job.message, self.names)).run()

    @property
    def deferring(self) -> Any:
        found: Any = engine_of(self.broker).courier
        return found._deferring  # noqa: SLF001

    @property
    def count(self) -> int:
        """How many records are deferred."""
        return len(self.deferring._deferred)  # noqa: SLF001

    @property
    def succeeded(self) -> int:
        return self.run.status().stages[0].succeeded

    def begin(self, worker: dramatiq.Worker, has: int | None = None) -> None:
        """Have the first job end once the worker has all messages, or so many. Its record isn't deferred, because it
        puts off the run's expiry."""
        has = len(self.names) if has is None else has
        began = self.jobs.began
        wait_until("the worker has its messages", lambda: len(began) + worker.work_queue.qsize() >= has)
        self.jobs.gates[self.names[0]].set()

    def defer_all(self, worker: dramatiq.Worker) -> None:
        """Have all jobs end, whose records are held."""
        self.begin(worker)
        wait_until("all records are deferred", lambda: self.count == len(self.names) - 1)

    def assert_done(self) -> None:
        """Every job has run once, and nothing is left."""
        assert self.run.get_result(block=True) == self.names
        wait_until("everything is acked", lambda: not unacked(self.broker) and not in_queue(self.broker))
        assert self.jobs.counts() == dict.fromkeys(self.names, 1)
        self.assert_at_rest()

    def assert_at_rest(self) -> None:
        known = self.deferring
        wait_until("nothing is deferred", lambda: not known.is_behind)
        assert not known._finishing._claims  # noqa: SLF001
        assert not known._turn.locked()  # noqa: SLF001
        assert not known._desk.bunches._turns  # noqa: SLF001


def watch(monkeypatch: pytest.MonkeyPatch, broker: RedisBroker, around: Callable[..., list[Word]]) -> None:
    """Have records that were deferred made by `around(make, successes)`."""
    backend = engine_of(broker).backend
    assert isinstance(backend, RedisBackend)
    monkeypatch.setattr(backend, "succeed_together", partial(around, backend.succeed_together))


def counted(monkeypatch: pytest.MonkeyPatch, broker: RedisBroker) -> list[int]:
    """How many of them are made in each call."""
    calls = list[int]()

    def count(make: Callable[..., list[Word]], successes: Sequence[Success]) -> list[Word]:
        calls.append(len(successes))
        return make(successes)

    watch(monkeypatch, broker, count)
    return calls


def processed_later(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Have whoever processes a message once more wait for the second of these; the first is set once somebody does."""
    entered, leave, process = threading.Event(), threading.Event(), Deferred.process

    def later(one: Deferred) -> None:
        entered.set()
        assert leave.wait(PATIENCE)
        process(one)

    monkeypatch.setattr(Deferred, "process", later)
    return entered, leave


# Many in one call


def test_short_jobs_are_recorded_many_in_a_call(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch, nobody_late: None
) -> None:
    stage = Stage(redis_broker, PREFETCH)
    calls = counted(monkeypatch, redis_broker)
    with running_worker(redis_broker, threads=1) as worker:
        stage.begin(worker)
        stage.assert_done()
    assert sum(calls) == PREFETCH - 1
    assert len(calls) <= PREFETCH // bunches.MOST + 1


def test_no_more_are_made_in_a_call_than_are_good_for_the_server(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch, held: Held
) -> None:
    monkeypatch.setattr(deferring, "MOST", 30)
    stage = Stage(redis_broker)
    calls = counted(monkeypatch, redis_broker)
    with running_worker(redis_broker, threads=2) as worker:
        stage.defer_all(worker)
        held.go()
        stage.assert_done()
    assert calls == [30, 9]


def test_who_joins_a_worker_finds_everything_recorded_and_acked(redis_broker: RedisBroker, nobody_late: None) -> None:
    stage = Stage(redis_broker)
    with running_worker(redis_broker, threads=2) as worker:
        stage.begin(worker)
        worker.join()
        assert stage.run.status().state == "succeeded"
        assert not unacked(redis_broker)
        assert not stage.deferring.is_behind
    stage.assert_done()


def test_records_are_made_after_a_message_that_is_rejected(redis_broker: RedisBroker, nobody_late: None) -> None:
    stage = Stage(redis_broker)
    stage.jobs.script["last"] = ["die"]
    stage.jobs.job.send("last")
    with running_worker(redis_broker, threads=1) as worker:
        stage.begin(worker, len(stage.names) + 1)
        worker.join()
        assert stage.jobs.began[-1] == "last"
        assert stage.run.status().state == "succeeded"


def test_who_joins_a_worker_waits_for_the_thread_that_makes_late_records(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, leave = processed_later(monkeypatch)
    held = Held(monkeypatch)
    stage = Stage(redis_broker)
    stage.jobs.script["long"] = ["wait"]
    with running_worker(redis_broker, threads=1) as worker:
        stage.defer_all(worker)
        stage.jobs.job.send("long")
        wait_until("the long job is at work", lambda: stage.jobs.began[-1] == "long")
        held.go()
        assert entered.wait(PATIENCE)  # the stage's last record comes to more than that it counts
        stage.jobs.gates["long"].set()
        wait_until("its message is acked", lambda: len(unacked(redis_broker)) == 1)
        joins = threading.Thread(target=worker.join)
        joins.start()
        wait_until("no thread of the worker is busy", lambda: worker.work_queue.unfinished_tasks <= 1)
        assert worker.work_queue.unfinished_tasks == 1
        assert joins.is_alive()
        leave.set()
        joins.join()
        assert stage.run.status().state == "succeeded"
        assert not unacked(redis_broker)


def test_a_record_is_made_while_long_jobs_are_at_work_in_all_threads(redis_broker: RedisBroker) -> None:
    jobs = Jobs(redis_broker)
    names, long = [f"job {number}" for number in range(20)], ["long 0", "long 1"]
    jobs.script |= {name: ["wait"] for name in long}
    run = Clutch().parallel(map(jobs.job.message, [*names, *long])).run()
    with running_worker(redis_broker, threads=2):
        try:
            wait_until("the long ones are at work", lambda: set(long) <= set(jobs.began))
            # They would give up after three times as long.
            wait_until("the others are recorded", lambda: run.status().stages[0].succeeded == 20, PATIENCE / 3)
            wait_until("their messages are acked", lambda: len(unacked(redis_broker)) == 2)
        finally:
            for name in long:
                jobs.gates[name].set()
        assert run.get_result(block=True) == [*names, *long]


def test_the_thread_that_makes_late_records_ends_and_another_one_begins(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deferring, "QUIET", 2)
    threads = set[threading.Thread]()
    make_late = Deferring._make_late  # noqa: SLF001

    def late(one: Deferring) -> None:
        threads.add(threading.current_thread())
        make_late(one)

    monkeypatch.setattr(Deferring, "_make_late", late)
    stage = Stage(redis_broker)
    with running_worker(redis_broker, threads=1) as worker:
        stage.begin(worker)
        stage.assert_done()
        wait_until("it ends", lambda: threads and not any(thread.is_alive() for thread in threads))
        before = len(threads)
        stage.jobs.began.clear()
        again = Stage(redis_broker, jobs=stage.jobs)
        again.begin(worker)
        again.assert_done()
        assert len(threads) > before


def test_nothing_is_deferred_if_no_thread_can_be_started(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch, asked: list[bool]
) -> None:
    def start(thread: threading.Thread) -> None:
        if thread.name == "clutch-deferring":
            raise RuntimeError("can't start new thread")
        works(thread)

    works = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", start)
    stage = Stage(redis_broker)
    with running_worker(redis_broker, threads=1) as worker:
        stage.begin(worker)
        stage.assert_done()
    assert asked
    assert not any(asked)


# Whatever happens meanwhile


def test_a_worker_that_stops_records_what_is_deferred(redis_broker: RedisBroker, held: Held) -> None:
    jobs = Jobs(redis_broker)
    names = [f"job {number}" for number in range(26)]
    jobs.script[names[20]] = ["wait"]
    run = Clutch().parallel(map(jobs.job.message, names)).run()
    known: Any = engine_of(redis_broker).courier
    worker = dramatiq.Worker(redis_broker, worker_timeout=10, worker_threads=1)
    worker.start()
    stops = threading.Thread(target=worker.stop)
    wait_until("one waits", lambda: jobs.began[-1:] == [names[20]] and worker.work_queue.qsize() == 5)
    assert len(known._deferring._deferred) == 19  # noqa: SLF001
    stops.start()
    wait_until("it is told to stop", lambda: worker not in known._desk._workers)  # noqa: SLF001
    jobs.gates[names[20]].set()
    stops.join()
    assert not known.is_behind
    assert not unacked(redis_broker)
    assert in_queue(redis_broker) == 5
    assert run.status().stages[0].succeeded == 21
    held.go()
    with running_worker(redis_broker, threads=1):
        assert run.get_result(block=True) == names
    assert jobs.counts() == dict.fromkeys(names, 1)


def test_a_worker_that_is_paused_and_stops_records_what_is_deferred(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch, held: Held
) -> None:
    """None of its threads ends a job after it is told to stop."""
    monkeypatch.setattr("dramatiq.worker.CONSUMER_RESTART_DELAY_SECS", 0.01)
    stage = Stage(redis_broker)
    with running_worker(redis_broker, threads=1) as worker:
        stage.defer_all(worker)
        worker.pause()
        assert stage.count == len(stage.names) - 1
    assert not stage.deferring.is_behind
    assert not unacked(redis_broker)
    stage.assert_done()


def test_a_worker_that_stops_waits_for_the_thread_that_makes_late_records(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the process would end in the midst of that, and the message would come again a minute later."""
    entered, leave = processed_later(monkeypatch)
    monkeypatch.setattr("dramatiq_clutch.backends.redis.finishing.PATIENCE", PATIENCE)
    held = Held(monkeypatch)
    stage = Stage(redis_broker)
    with running_worker(redis_broker, threads=1) as worker:
        stage.jobs.script["long"] = ["wait"]
        stage.defer_all(worker)
        stage.jobs.job.send("long")
        wait_until("the long job is at work", lambda: stage.jobs.began[-1] == "long")
        held.go()
        assert entered.wait(PATIENCE)
        (thread,) = worker.workers
        stops = threading.Thread(target=worker.stop)
        stops.start()
        wait_until("it is told to stop", lambda: not thread.running)
        stage.jobs.gates["long"].set()
        wait_until("its thread is about to end", lambda: len(unacked(redis_broker)) == 1)
        assert thread.is_alive()
        leave.set()
        stops.join()
        assert not unacked(redis_broker)
        assert stage.run.status().state == "succeeded"


def test_while_the_server_is_away_records_wait(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, nobody_late: None
) -> None:
    """One reply is lost, too, of a call that the server has done."""
    failures = ["before", "before", "before", "after"]

    def fails(make: Callable[..., list[Word]], successes: Sequence[Success]) -> list[Word]:
        if failures and failures.pop(0) == "before":
            raise StateUnavailable("the server is away") from redis.ConnectionError()
        words = make(successes)
        if failures == [] and not lost:
            lost.append(len(words))
            raise StateUnavailable("the reply is lost") from redis.ConnectionError()
        return words

    lost = list[int]()
    stage = Stage(redis_broker)
    watch(monkeypatch, redis_broker, fails)
    with running_worker(redis_broker, threads=1) as worker:
        stage.begin(worker)
        stage.assert_done()
    assert lost
    assert sum("waits, unacked" in record.getMessage() for record in caplog.records) == 1


def test_the_thread_that_makes_late_records_outlives_an_outage(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch, held: Held
) -> None:
    monkeypatch.setattr(deferring, "PAUSE", 0.01)
    monkeypatch.setattr(deferring, "TELL_AGAIN", 0.0)
    failures = 2

    def fails(make: Callable[..., list[Word]], successes: Sequence[Success]) -> list[Word]:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise StateUnavailable("the server is away") from redis.ConnectionError()
        return make(successes)

    stage = Stage(redis_broker)
    watch(monkeypatch, redis_broker, fails)
    with running_worker(redis_broker, threads=1) as worker:
        stage.defer_all(worker)
        held.go()
        stage.assert_done()


@pytest.mark.parametrize("moment", ["before the call", "after the call", "before it is finished", "after that"])
def test_an_interrupt_loses_nothing(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch, nobody_late: None, moment: str
) -> None:
    interrupts, process = [moment], Deferred.process

    def interrupt(here: str) -> None:
        if interrupts == [here]:
            interrupts.clear()
            raise Shutdown("as it is raised in a job's thread, at any moment")

    def make_them(make: Callable[..., list[Word]], successes: Sequence[Success]) -> list[Word]:
        interrupt("before the call")
        words = make(successes)
        interrupt("after the call")
        return words

    def finish(one: Deferred) -> None:
        interrupt("before it is finished")
        process(one)
        interrupt("after that")

    monkeypatch.setattr(Deferred, "process", finish)
    stage = Stage(redis_broker)
    watch(monkeypatch, redis_broker, make_them)
    with running_worker(redis_broker, threads=1) as worker:
        stage.begin(worker)
        wait_until("the interrupt", lambda: not interrupts)
        # Its thread lives on, and sees to what is left with the next message of any kind.
        stage.jobs.job.send("another")
        state_is(stage.run, "succeeded")
        wait_until("the other is done", lambda: stage.jobs.began[-1] == "another")
        wait_until("everything is acked", lambda: not unacked(redis_broker))
        stage.assert_at_rest()
        thread: Any = worker.consumers[QUEUE]
        wait_until("nothing counts as prefetched", lambda: not thread.consumer.outstanding_message_count)
    assert stage.jobs.counts() == dict.fromkeys([*stage.names, "another"], 1)


def test_scripts_may_go_while_records_are_deferred(redis_broker: RedisBroker, held: Held) -> None:
    stage = Stage(redis_broker)
    with running_worker(redis_broker, threads=1) as worker:
        stage.defer_all(worker)
        redis_broker.client.script_flush()
        held.go()
        stage.assert_done()


@pytest.mark.process
def test_a_forked_child_makes_none_of_its_parent_s_records(redis_broker: RedisBroker, held: Held, logs: Any) -> None:  # noqa: F811
    stage = Stage(redis_broker)
    with running_worker(redis_broker, threads=1) as worker:
        stage.defer_all(worker)

        def look() -> None:
            assert not stage.deferring.is_behind
            held.go()
            engine_of(redis_broker).courier.catch_up()
            assert stage.succeeded == 1

        assert outcome(fork(look, logs / "child")) == 0, (logs / "child").read_text()
        assert stage.count == len(stage.names) - 1
        held.go()
        stage.assert_done()


@pytest.mark.process
def test_a_killed_worker_s_deferred_records_are_made_by_another(server: Server, redis_client: redis.Redis) -> None:
    """Their jobs are done again."""
    broker = elsewhere.make_broker(server.url)
    with Worker(elsewhere.__name__, env=elsewhere.env(server.url, held=True), threads=1) as worker:
        run = elsewhere.clutch(broker).run()
        deferred = b"%d" % (elsewhere.COUNT - 1)
        wait_until("their records are deferred", lambda: redis_client.get(elsewhere.DEFERRED) == deferred)
        worker.kill()
    assert run.status().stages[0].succeeded == 1
    with Worker(elsewhere.__name__, env=elsewhere.env(server.url), threads=2):
        assert run.get_result(block=True, timeout=int(PATIENCE * 1_000)) == list(range(elsewhere.COUNT))
    began: Any = redis_client.hvals(elsewhere.BEGAN)
    assert sorted(began) == [b"1", *[b"2"] * (elsewhere.COUNT - 1)]
    redis_client.flushall()
    broker.close()


# What doesn't simply count


def test_the_next_stage_follows_at_once(redis_broker: RedisBroker, nobody_late: None) -> None:
    jobs = Jobs(redis_broker)
    names = [f"job {number}" for number in range(40)]
    clutch = Clutch().parallel(map(jobs.job.message, names)).parallel(map(jobs.job.message, names)).then(jobs.total)
    with running_worker(redis_broker, threads=2):
        assert clutch.run().get_result(block=True) == names
        wait_until("everything is acked", lambda: not unacked(redis_broker))
    assert jobs.counts() == {**dict.fromkeys(names, 2), "total": 1}


def observed(broker: RedisBroker) -> Sees:
    sees = Sees()
    broker.add_middleware(sees)
    return sees


def test_a_message_that_is_delivered_twice_counts_once(redis_broker: RedisBroker, held: Held) -> None:
    """Though the record of each is deferred. Observers are told of the second one."""
    sees, stage = observed(redis_broker), Stage(redis_broker)
    client: Any = redis_broker.client
    stored = client.hgetall(f"{redis_broker.namespace}:{QUEUE}.msgs")
    copy = next(one for one in map(dramatiq.Message.decode, stored.values()) if one.args[0] == "job 7")
    stage.jobs.script["job 39"] = ["wait"]
    with running_worker(redis_broker, threads=2) as worker:
        stage.begin(worker)
        wait_until("all records are deferred but of the last, which is at work", lambda: stage.count == 38)
        redis_broker.enqueue(copy)
        wait_until("the copy is deferred, too", lambda: stage.count == 39)
        held.go()
        wait_until("it is absorbed", lambda: sees.of(Absorbed))
        stage.jobs.gates["job 39"].set()
        assert stage.run.get_result(block=True) == stage.names
        wait_until("everything is acked", lambda: not unacked(redis_broker))
        stage.assert_at_rest()
    assert stage.jobs.counts() == {**dict.fromkeys(stage.names, 1), "job 7": 2}
    (absorbed,) = sees.of(Absorbed)
    assert (absorbed.word, absorbed.member, absorbed.message_id) == ("duplicate", 7, copy.message_id)
    ended = [one.member for one in sees.of(AttemptEnded)]
    assert sorted(ended) == sorted([*range(len(stage.names)), 7])


def test_the_end_of_each_job_is_shown_once(redis_broker: RedisBroker) -> None:
    sees, stage = observed(redis_broker), Stage(redis_broker)
    with running_worker(redis_broker, threads=2) as worker:
        stage.begin(worker)
        stage.assert_done()
    ended = sees.of(AttemptEnded)
    assert sorted(one.member for one in ended) == list(range(len(stage.names)))
    assert {one.ending for one in ended} == {"succeeded"}
    assert not sees.of(Absorbed)


def test_a_stage_with_a_limit_goes_on(redis_broker: RedisBroker, nobody_late: None) -> None:
    """One of several successes tells that more may be sent; it isn't taken for a duplicate."""
    sees, jobs = observed(redis_broker), Jobs(redis_broker)
    names = [f"job {number}" for number in range(100)]
    with running_worker(redis_broker, threads=2):
        run = Clutch().parallel(map(jobs.job.message, names), limit=40).run()
        assert run.get_result(block=True) == names
        wait_until("everything is acked", lambda: not unacked(redis_broker))
    assert jobs.counts() == dict.fromkeys(names, 1)
    assert not sees.of(Absorbed)


def test_of_a_run_that_is_cancelled_meanwhile_nothing_counts(redis_broker: RedisBroker, held: Held) -> None:
    stage = Stage(redis_broker)
    with running_worker(redis_broker, threads=1) as worker:
        stage.defer_all(worker)
        assert stage.run.cancel()
        held.go()
        wait_until("everything is acked", lambda: not unacked(redis_broker))
        stage.assert_at_rest()
        status = stage.run.status()
        assert (status.state, status.stages[0].succeeded) == ("cancelled", 1)
        assert stage.run.retry()
        assert stage.run.get_result(block=True) == stage.names
    assert stage.jobs.counts() == {**dict.fromkeys(stage.names, 2), stage.names[0]: 1}


def test_a_job_that_is_retried_counts(redis_broker: RedisBroker) -> None:
    stage = Stage(redis_broker)
    stage.jobs.script["job 7"] = ["fail"]
    with running_worker(redis_broker, threads=2) as worker:
        stage.begin(worker)
        assert stage.run.get_result(block=True) == stage.names
        wait_until("everything is acked", lambda: not unacked(redis_broker))
    assert stage.jobs.counts() == {**dict.fromkeys(stage.names, 1), "job 7": 2}


# What isn't deferred


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the records were deferred that this was asked of."""
    answers, defer = list[bool](), Deferring.defer

    def watched(one: Deferring, record: Record, caller: Caller) -> bool:
        answers.append(defer(one, record, caller))
        return answers[-1]

    monkeypatch.setattr(Deferring, "defer", watched)
    return answers


@pytest.mark.parametrize(
    "why", ["nothing", "large results", "long jobs", "a narrow stage", "timings", "a stop", "own acks"]
)
def test_a_record_is_made_at_once_where_it_must_or_should_be(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch, asked: list[bool], why: str
) -> None:
    if why == "long jobs":
        monkeypatch.setattr(deferring, "SHORT", 0)
    if why == "own acks":
        works: Any = redis_broker.do_ack
        redis_broker.do_ack = lambda *which: works(*which)  # type: ignore[attr-defined]
    jobs, count = Jobs(redis_broker), deferring.WIDE - (why == "a narrow stage")
    names = [f"job {number}" + "x" * (deferring.SMALL if why == "large results" else 0) for number in range(count)]
    jobs.script[names[0]] = ["wait"]
    run = Clutch(timings=why == "timings").parallel(map(jobs.job.message, names)).run()
    with running_worker(redis_broker, threads=1) as worker:
        wait_until("the worker has its messages", lambda: worker.work_queue.qsize() == count - 1)
        if why == "a stop":
            redis_broker.emit_before("worker_shutdown", worker)
        jobs.gates[names[0]].set()
        assert run.get_result(block=True) == names
        wait_until("everything is acked", lambda: not unacked(redis_broker))
    assert any(asked) == (why == "nothing")
    assert len(asked) >= count


def test_a_broker_that_acks_in_a_way_of_its_own_acks_every_message(
    redis_client: redis.Redis, asked: list[bool]
) -> None:
    seen: list[str] = []

    class Own(RedisBroker):
        def do_ack(self, queue_name: str, message_id: str) -> Any:
            seen.append(message_id)
            works: Any = self._dispatch
            return works("ack")(queue_name, message_id)

    broker: Any = Own(client=redis_client, namespace=f"own-{uuid.uuid4().hex[:8]}")  # type: ignore[no-untyped-call]
    with as_global_broker(broker), running_worker(broker, threads=2):
        jobs = Jobs(broker)
        names = [f"job {number}" for number in range(20)]
        assert Clutch().parallel(map(jobs.job.message, names)).run().get_result(block=True) == names
        wait_until("everything is acked", lambda: len(seen) == 20)
    assert not any(asked)


# What else counts on it


def test_what_is_deferred_counts_as_prefetched(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch, held: Held
) -> None:
    """Otherwise a worker would fetch, and lose if it is killed, more than it may."""
    monkeypatch.setattr("dramatiq.worker.QUEUE_PREFETCH", 8)
    stage, most = Stage(redis_broker, 60), list[int]()
    works = stage.jobs.job.fn

    def job(name: str) -> Any:
        most.append(len(unacked(redis_broker)))
        return works(name)

    stage.jobs.job.fn = job
    with running_worker(redis_broker, threads=1) as worker:
        stage.begin(worker, 8)
        wait_until("as many are deferred as may be", lambda: stage.count == 8)
        thread: Any = worker.consumers[QUEUE]
        assert thread.consumer.outstanding_message_count == 8
        fetches, fetch = list[str](), redis_broker.do_fetch

        def watched(queue: str, count: int) -> Any:
            fetches.append(queue)
            return fetch(queue, count)

        redis_broker.do_fetch = watched  # type: ignore[attr-defined]
        misses = thread.consumer.misses
        wait_until("the consumer has looked again", lambda: thread.consumer.misses > misses)
        assert QUEUE not in fetches
        assert len(unacked(redis_broker)) == 8
        redis_broker.do_fetch = fetch  # type: ignore[attr-defined]
        held.go()
        stage.assert_done()
        wait_until("nothing counts any more", lambda: not thread.consumer.outstanding_message_count)
    assert max(most) <= 8


def test_only_a_worker_s_own_threads_make_records(redis_broker: RedisBroker, held: Held) -> None:
    """A consumer's has its messages to look for; any other has to do with a worker only by chance."""
    stage, came, catch_up = Stage(redis_broker), set[str](), Deferring.catch_up
    stage.jobs.script["long"] = ["wait"]

    def watched(one: Deferring) -> None:
        came.add(type(threading.current_thread()).__name__)
        catch_up(one)

    with pytest.MonkeyPatch.context() as patch, running_worker(redis_broker, threads=1) as worker:
        patch.setattr(Deferring, "catch_up", watched)
        stage.defer_all(worker)
        stage.jobs.job.send("long")
        wait_until("the long job is at work", lambda: stage.jobs.began[-1] == "long")
        held.go(late=False)
        engine_of(redis_broker).courier.catch_up()
        stage.jobs.job.send_with_options(args=("later",), delay=1)
        wait_until("a delayed message is acked", lambda: _ConsumerThread.__name__ in came)
        wait_until("it is in its queue", lambda: worker.work_queue.qsize() == 1)
        assert stage.count == len(stage.names) - 1
        stage.jobs.gates["long"].set()
        assert stage.run.get_result(block=True) == stage.names


def test_a_message_whose_record_is_deferred_is_not_astray(redis_broker: RedisBroker) -> None:
    """It may be one whose fetching wasn't answered; but another fetch has brought it, and its job is done."""
    known = {("a queue", "in the queue")}
    client: Any = SimpleNamespace(sismember=lambda *which: True)
    put_back = list[str]()
    broker: Any = SimpleNamespace(
        namespace="", broker_id="", client=client, do_requeue=lambda queue, in_queue: put_back.append(in_queue)
    )
    astray = Astray(broker, lambda queue, one: (queue, one) in known)
    astray._known["in the queue"] = Missing("a queue", "in the queue", "an id")  # noqa: SLF001
    assert astray.look(astray.look(set())) == set()
    assert not put_back
    known.clear()
    astray.look(astray.look(set()))
    assert put_back == ["in the queue"]


def test_a_worker_looks_for_more_while_a_late_record_is_made(redis_broker: RedisBroker) -> None:
    """The thread that makes it is none that could work on a message; but its worker has that one, too."""
    desk: Any = engine_of(redis_broker).courier._desk  # type: ignore[attr-defined]  # noqa: SLF001
    queue = SimpleNamespace(unfinished_tasks=0, all_tasks_done=threading.Condition())

    def task_done() -> None:
        queue.unfinished_tasks -= 1

    queue.task_done = task_done
    consumer = SimpleNamespace(outstanding_message_count=0, prefetch=2, queued_message_ids=set())
    thread = SimpleNamespace(consumer=consumer, paused=False, running=True)
    worker: Any = SimpleNamespace(work_queue=queue, worker_threads=1, consumers={QUEUE: thread})
    desk._workers.append(worker)  # noqa: SLF001
    redis_broker.declare_queue(QUEUE)
    leave, entered, rooms = threading.Event(), threading.Event(), list[Any]()

    def late() -> None:
        with desk.occupying(worker), desk.serving(worker):
            rooms.append(desk._room(QUEUE, acked=True))  # noqa: SLF001
            entered.set()
            leave.wait(PATIENCE)

    other = threading.Thread(target=late)
    other.start()
    assert entered.wait(PATIENCE)
    desk._here.worker, queue.unfinished_tasks = worker, queue.unfinished_tasks + 1  # noqa: SLF001
    rooms.append(desk._room(QUEUE, acked=True))  # noqa: SLF001
    leave.set()
    other.join()
    assert [room and room.threads for room in rooms] == [1, 1]
    assert queue.unfinished_tasks == 1


def test_a_thread_goes_on_with_the_next_message_at_once(redis_broker: RedisBroker, held: Held) -> None:
    """That is what it is all for."""
    stage = Stage(redis_broker)
    with running_worker(redis_broker, threads=1) as worker:
        stage.defer_all(worker)
        wait_until("Dramatiq takes all of them for acked", lambda: not worker.work_queue.unfinished_tasks)
        assert stage.succeeded == 1
        assert len(unacked(redis_broker)) == len(stage.names) - 1  # so they come again if this process dies
        held.go()
        stage.assert_done()


# What others could notice, or would have to wait for


@pytest.mark.parametrize("hook", [*deferring.HOOKS, "before_process_message"])
def test_nothing_is_deferred_if_a_hook_of_the_application_could_notice(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch, nobody_late: None, hook: str
) -> None:
    """It may go by what the same thread has worked on, such as whose job that was."""

    class Own(Middleware):
        pass

    setattr(Own, hook, lambda *args, **kwargs: None)
    calls = counted(monkeypatch, redis_broker)
    stage = Stage(redis_broker)
    with running_worker(redis_broker, threads=1) as worker:
        redis_broker.add_middleware(Own())
        monkeypatch.setattr(stage.deferring._store._succeed, "_perform", lambda common: [b"look"] * len(common))  # noqa: SLF001
        stage.begin(worker)
        stage.assert_done()
    assert bool(calls) == (hook == "before_process_message")


def test_a_message_that_is_rejected_while_records_are_made_stops_nobody(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch, nobody_late: None
) -> None:
    """One of an unknown actor may come with them, and is rejected at once."""

    def reject(make: Callable[..., list[Word]], successes: Sequence[Success]) -> list[Word]:
        message = dramatiq.Message[Any](QUEUE, "unknown", (), {}, {})
        redis_broker.emit_after("nack", dramatiq.MessageProxy(message))
        return make(successes)

    stage = Stage(redis_broker)
    watch(monkeypatch, redis_broker, reject)
    with running_worker(redis_broker, threads=1) as worker:
        stage.begin(worker)
        stage.assert_done()


def test_the_records_of_a_damaged_run_hold_up_no_others(
    redis_broker: RedisBroker, held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    """Each blocks a thread, as if it weren't deferred, and waits under its own name."""
    client: Any = redis_broker.client
    stage = Stage(redis_broker)
    with running_worker(redis_broker, threads=4) as worker:
        stage.defer_all(worker)
        (key,) = (key for key in client.keys("*") if b"members:0" in key and stage.run.run_id.encode() in key)
        client.delete(key)
        client.set(key, "not a hash", ex=600)
        stage.deferring._deferred.rotate(-1)  # noqa: SLF001
        while stage.count > 1:
            stage.deferring._deferred.pop().forget()  # noqa: SLF001
        held.go()
        healthy = Clutch().parallel(stage.jobs.job.message(f"healthy {number}") for number in range(40)).run()
        assert healthy.get_result(block=True) == [f"healthy {number}" for number in range(40)]
        wait_until("it waits", lambda: any("waits, unacked" in one.getMessage() for one in caplog.records))
        assert all(stage.run.run_id in one.getMessage() for one in caplog.records if "waits" in one.getMessage())


def test_that_records_wait_is_logged(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch, held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    """Though no thread waits, because the last message was none of a clutch."""
    monkeypatch.setattr(deferring, "PAUSE", 0.01)
    away = threading.Event()

    def fails(make: Callable[..., list[Word]], successes: Sequence[Success]) -> list[Word]:
        if not away.is_set():
            raise StateUnavailable("the server is away") from redis.ConnectionError()
        return make(successes)

    stage = Stage(redis_broker)
    watch(monkeypatch, redis_broker, fails)
    with running_worker(redis_broker, threads=1) as worker:
        stage.defer_all(worker)
        held.go()
        wait_until("it is logged", lambda: "wait until this is over" in caplog.text)
        away.set()
        stage.assert_done()
    told = [one.getMessage() for one in caplog.records if "wait until this is over" in one.getMessage()]
    assert len(told) == 1
    assert f"job 0.1 of run {stage.run.run_id}" in told[0]


def test_what_follows_from_a_late_record_keeps_no_other_waiting(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch, held: Held
) -> None:
    """It may take long."""
    entered, leave = processed_later(monkeypatch)
    stage = Stage(redis_broker)
    with running_worker(redis_broker, threads=1) as worker:
        stage.defer_all(worker)
        stage.jobs.script["long"] = ["wait"]
        stage.jobs.job.send("long")
        wait_until("the long job is at work", lambda: stage.jobs.began[-1] == "long")
        held.go()
        assert entered.wait(PATIENCE)
        known = stage.deferring
        one = Deferred(*(getattr(next(iter(known._finishing.unfinished)), name) for name in Deferred.__slots__))  # noqa: SLF001
        known._deferred.append(one)  # noqa: SLF001
        wait_until("the other is made", lambda: not known._deferred, PATIENCE / 3)  # noqa: SLF001
        leave.set()
        stage.jobs.gates["long"].set()
        assert stage.run.get_result(block=True) == stage.names


def test_records_are_made_before_a_job_that_may_take_long(redis_broker: RedisBroker, nobody_late: None) -> None:
    """It may hold the interpreter, so that no other thread could make them."""
    found = list[int]()

    @dramatiq.actor
    def other() -> None:
        found.append(stage.count)

    @dramatiq.actor(priority=100)
    def later() -> None:
        found.append(stage.count)

    stage = Stage(redis_broker)
    with running_worker(redis_broker, threads=1) as worker:
        wait_until("the worker has its messages", lambda: worker.work_queue.qsize() >= len(stage.names) - 1)
        other.send()
        later.send()
        wait_until("those, too", lambda: worker.work_queue.qsize() >= len(stage.names) + 1)
        stage.jobs.gates[stage.names[0]].set()
        stage.assert_done()
        wait_until("they are done", lambda: len(found) == 2)
    assert found == [0, 0]
