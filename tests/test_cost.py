"""What a job costs: numbers that don't vary with the machine."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median
from types import SimpleNamespace
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker

from dramatiq_clutch import Clutch, previous_results
from dramatiq_clutch.backend import Ending, Record
from dramatiq_clutch.backends.redis import courier, resp
from dramatiq_clutch.backends.redis.combining import Combining
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.stored.places import Tag
from tests.conftest import running_worker
from tests.support.awaiting import PATIENCE, wait_until
from tests.support.commands import executed


def test_a_job_of_a_wide_stage_costs_at_most_13_redis_commands(redis_broker: RedisBroker) -> None:
    """With what Dramatiq itself needs for a message, 10.2; and counting what scripts call."""

    @dramatiq.actor
    def job(number: int) -> int:
        return number

    @dramatiq.actor
    def total() -> int:
        return sum(previous_results())

    jobs = 1_000
    before = redis_broker.client.info("stats")["total_commands_processed"]
    run = Clutch().parallel(job.message(number) for number in range(jobs)).then(total).run()
    # Idle consumers ask for messages about once a second, so that on a busy machine their questions count for little.
    with running_worker(redis_broker, threads=8, timeout=1_000):
        assert run.get_result(block=True) == sum(range(jobs))
        assert (redis_broker.client.info("stats")["total_commands_processed"] - before) / jobs <= 13


def test_a_job_of_a_series_costs_at_most_23_redis_commands(redis_broker: RedisBroker) -> None:
    """With what Dramatiq itself needs for a message, 22; and counting what scripts call."""

    @dramatiq.actor
    def job(number: int) -> int:
        return number + 1

    counts = list[int]()
    # Idle consumers ask for messages about once a second, and a run costs something itself, however long it is.
    with running_worker(redis_broker, threads=2, timeout=1_000):
        for jobs in (10, 210):
            before = redis_broker.client.info("stats")["total_commands_processed"]
            run = Clutch().then(job.message(0)).then(*(job for _ in range(jobs - 1)), pipe=True).run()
            assert run.get_result(block=True) == jobs
            counts.append(redis_broker.client.info("stats")["total_commands_processed"] - before)
    assert (counts[1] - counts[0]) / 200 <= 23, counts


@pytest.mark.parametrize(("shape", "most"), [("a wide stage", 1.0), ("a series", 1.3)])
def test_a_job_costs_few_round_trips_beside_dramatiqs_own(
    redis_broker: RedisBroker, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, shape: str, most: float
) -> None:
    """Counted where ours go: over the wire, and by the client, which the broker has its own script run by, too."""
    trips: list[str] = []
    client, send, dispatch = redis_broker.client, resp._send, redis_broker.scripts["dispatch"].sha  # noqa: SLF001
    execute = client.execute_command

    def watched_send(client: redis.Redis, commands: Sequence[resp.Packed]) -> list[Any]:
        trips.append("wire")
        return send(client, commands)

    def watched_execute(*command: Any, **options: Any) -> Any:
        if command[:2] != ("EVALSHA", dispatch):
            trips.append(str(command[0]))
        return execute(*command, **options)

    monkeypatch.setattr(resp, "_send", watched_send)
    monkeypatch.setattr(client, "execute_command", watched_execute)

    @dramatiq.actor
    def job(number: int) -> int:
        return number + 1

    jobs = 1_000 if shape == "a wide stage" else 50
    wide = Clutch().parallel(job.message(number) for number in range(jobs))
    series = Clutch().then(job.message(0)).then(*(job for _ in range(jobs - 1)), pipe=True)
    counts = list[int]()
    with running_worker(redis_broker, threads=8):
        for _ in range(5):  # where threads are woken late, what could have travelled together goes alone
            run = (wide if shape == "a wide stage" else series).run()
            trips.clear()
            mark = f"dramatiq-clutch:{{{run.run_id}}}:tombstone"
            wait_until("it has succeeded", partial(redis_client.exists, mark))
            counts.append(len(trips))
            if jobs / 10 < counts[-1] <= most * jobs:
                break
    assert jobs / 10 < min(counts) <= most * jobs


@pytest.mark.parametrize("sent_by", ["this process", "another process"])
def test_a_fresh_job_of_a_run_that_was_at_work_a_moment_ago_asks_for_nothing(
    redis_broker: RedisBroker, sent_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if all of it took less than the second that counts as a moment, however busy the machine is.
    monkeypatch.setattr("dramatiq_clutch.remembered.REMEMBERED", 3_600.0)
    redis_broker.heartbeat_timeout = 3_600_000
    engine, asked = engine_of(redis_broker), []
    works = engine.backend.guard

    def guard(tag: Tag, now: int, **more: Any) -> Any:
        asked.append(tag.member)
        return works(tag, now, **more)

    engine.backend.guard = guard  # type: ignore[method-assign]

    @dramatiq.actor
    def job(number: int) -> int:
        return number

    run = Clutch().parallel(job.message(number) for number in range(50)).run()
    if sent_by == "another process":
        engine.remembered.wanted.clear()
    with running_worker(redis_broker, threads=1):
        run.get_result(block=True)
    assert len(asked) == (sent_by == "another process")


@pytest.mark.parametrize("sender", ["somebody else", "this package"])
@pytest.mark.parametrize("change", ["age", "attempt", "repeated", "forged"])
def test_what_may_be_a_second_copy_asks(redis_broker: RedisBroker, change: str, sender: str) -> None:
    engine = engine_of(redis_broker)
    runs: list[int] = []

    @dramatiq.actor
    def job(number: int) -> int:
        runs.append(number)
        return number

    gate = threading.Event()

    @dramatiq.actor
    def wait() -> None:
        gate.wait(PATIENCE)

    run = Clutch().parallel(job.message(0), wait).run()
    generation = engine.backend.generation(run.run_id) or ""
    tag = Tag(run.run_id, 0, 0, 2, generation=generation, actor="job")
    with running_worker(redis_broker, threads=2):
        wait_until("it has succeeded", lambda: run.status().stages[0].succeeded == 1)
        engine.remembered.note_wanted(tag.run_id, generation, tag.stage, tag.of)
        of = 3 if change == "forged" else 2
        option = Tag(run.run_id, 0, 0, of, repeated=change == "repeated", generation=generation).to_option()
        copy = job.message(0).copy(message_id=tag.message_id, options={"clutch": option})
        if change == "age":
            copy = copy.copy(message_timestamp=copy.message_timestamp - redis_broker.heartbeat_timeout)
        if change == "attempt":
            copy = copy.copy(options={"retries": 1})
        if sender == "this package":
            engine.courier.send([(copy, None)])
        else:
            redis_broker.enqueue(copy)
        queue = f"{redis_broker.namespace}:default.msgs"
        wait_until("it is off the queue", lambda: redis_broker.client.hlen(queue) == 1)
        gate.set()
        run.get_result(block=True)
    assert runs == [0]


def test_the_first_copies_ask_too_once_jobs_of_their_stage_were_sent_again(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They don't say that there are others, and may come after these are done."""
    monkeypatch.setattr("dramatiq_clutch.remembered.REMEMBERED", 3_600.0)  # however busy the machine is
    engine, asked = engine_of(redis_broker), list[tuple[int, bool]]()
    works = engine.backend.guard

    def guard(tag: Tag, now: int, **more: Any) -> Any:
        asked.append((tag.member, tag.repeated))
        return works(tag, now, **more)

    engine.backend.guard = guard  # type: ignore[method-assign]

    @dramatiq.actor
    def job(number: int) -> int:
        return number

    run = Clutch().parallel(job.message(number) for number in range(4)).run()
    generation = engine.backend.generation(run.run_id) or ""
    option = Tag(run.run_id, 0, 3, 4, repeated=True, generation=generation, actor="job")
    copy = job.message(3).copy(message_id=option.message_id, options={"clutch": option.to_option()})
    queue = f"{redis_broker.namespace}:default"
    engine.courier.send([(copy, None)])
    redis_broker.client.rpoplpush(queue, queue)  # it comes first
    with running_worker(redis_broker, threads=1):
        assert run.get_result(block=True) == [0, 1, 2, 3]
        wait_until("all copies are done", lambda: redis_broker.client.hlen(f"{queue}.msgs") == 0)
    assert asked == [(3, True), (0, False), (1, False), (2, False), (3, False)]


def test_a_message_whose_enqueue_lost_its_reply_is_sent_again_as_what_may_be_a_copy(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client doesn't repeat it by itself: then nobody would know. The first copies, which say nothing of the
    second ones, ask, too, whichever come first."""
    runs: list[int] = []

    @dramatiq.actor
    def first() -> None: ...

    @dramatiq.actor
    def job(number: int) -> int:
        runs.append(number)
        return number

    lost: list[int] = []

    def send(client: redis.Redis, commands: Sequence[resp.Packed]) -> list[Any]:
        answers = resp.send(client, commands)
        if len(commands) >= 2 and not lost:  # the duty's confirmation goes with them, and what fetches one of them
            lost.append(3)
            raise redis.ConnectionError("the replies are lost")
        return answers

    run = Clutch().then(first).parallel(job.message(n) for n in range(3)).run()
    monkeypatch.setattr(courier, "resp", SimpleNamespace(send=send, ask=resp.ask, FEW=resp.FEW))
    with running_worker(redis_broker, threads=1):
        assert run.get_result(block=True) == [0, 1, 2]
    assert sorted(runs) == [0, 1, 2]
    assert lost


@pytest.mark.parametrize("timed", [False, True])
def test_timings_take_three_commands_of_a_job_and_without_them_none(
    redis_broker: RedisBroker, redis_client: redis.Redis, timed: bool
) -> None:
    @dramatiq.actor
    def job(number: int) -> int:
        return number

    run = Clutch(timings=timed).parallel(job.message(number) for number in range(6)).run()
    engine = engine_of(redis_broker)
    more: dict[str, Any] = {"worker": "host:1"}
    backend, generation = engine.backend, engine.backend.generation(run.run_id) or ""
    tags = [Tag(run.run_id, 0, member, 6, generation=generation, timed=timed) for member in range(6)]
    caller = partial(engine.caller, "somebody", touch=False)

    def asked(call: Callable[[], Any]) -> Counter[str]:
        before = executed(redis_client)
        call()
        return executed(redis_client) - before

    def begin(member: int, attempt: int = 0) -> Counter[str]:
        return asked(lambda: backend.guard(tags[member], engine.now(), attempt=attempt, **more))

    def end(member: int, ending: Ending, attempt: int = 0) -> Counter[str]:
        record = Record(tags[member], attempt, ending, b"1" if ending == "succeeded" else b"{}", began=1, **more)
        return asked(lambda: backend.record(record, caller()))

    begin(0)  # the first of a stage also gives the key its time to live
    end(0, "succeeded")
    extra = Counter[str]
    assert begin(1) == Counter(evalsha=1, hmget=1, hget=1) + (extra(hsetnx=1, hlen=1) if timed else extra())
    assert end(1, "succeeded") == Counter(evalsha=1, hsetnx=1, hlen=1) + (extra(hset=1) if timed else extra())
    begin(2)
    end(2, "failing")  # the first failure of a stage also rings the alarm
    again = begin(2, attempt=1)
    assert again == Counter(evalsha=1, hmget=1, hget=1) + (extra(hget=1, hset=1) if timed else extra())
    begin(3)
    failed = end(3, "failing")
    touched = asked(lambda: backend.touch(run.run_id, caller()))
    assert (failed["hget"], failed["hset"], touched["pexpire"]) == ((2, 4, 20) if timed else (1, 3, 18))


# Several threads' calls in one round trip


def test_whoever_comes_while_a_round_trip_is_under_way_is_taken_along_by_the_next() -> None:
    trips: list[list[int]] = []
    gate, under_way = threading.Event(), threading.Event()

    def perform(items: Sequence[int]) -> Sequence[int]:
        trips.append(list(items))
        under_way.set()
        gate.wait(PATIENCE)
        return [10 * item for item in items]

    together: Combining[int, int] = Combining(perform)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(together, 0)
        assert under_way.wait(PATIENCE)
        others = [pool.submit(together, number) for number in range(1, 8)]
        wait_until("all others wait", lambda: len(together._waiting) == 7)  # noqa: SLF001
        gate.set()
        assert [future.result(PATIENCE) for future in (first, *others)] == [10 * number for number in range(8)]
    assert [sorted(trip) for trip in trips] == [[0], [1, 2, 3, 4, 5, 6, 7]]


def test_an_error_is_everybodys_and_an_interrupt_only_the_threads_it_struck() -> None:
    class Interrupted(BaseException): ...

    errors: list[BaseException] = [ValueError("away"), Interrupted()]

    def perform(items: Sequence[int]) -> Sequence[int]:
        if errors:
            raise errors.pop(0)
        return items

    together: Combining[int, int] = Combining(perform)
    with pytest.raises(ValueError, match="away"):
        together(1)
    with pytest.raises(Interrupted):
        together(2)
    assert together(3) == 3  # and takes the abandoned call along


def test_what_must_not_be_done_twice_unknowingly_is_an_error_of_those_it_was_done_for() -> None:
    class Interrupted(BaseException): ...

    under_way, all_wait = threading.Event(), threading.Event()
    trips: list[list[int]] = []

    def perform(items: Sequence[int]) -> Sequence[int]:
        trips.append(list(items))
        under_way.set()
        assert all_wait.wait(PATIENCE)
        if len(trips) == 2:
            raise Interrupted
        return items

    together: Combining[int, int] = Combining(perform, lambda: ConnectionError("interrupted"))
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(together, 0)
        assert under_way.wait(PATIENCE)
        others = [pool.submit(together, number) for number in range(1, 4)]
        wait_until("all others wait", lambda: len(together._waiting) == 3)  # noqa: SLF001
        all_wait.set()
        assert first.result(PATIENCE) == 0
        errors = [future.exception(PATIENCE) for future in others]
    assert sorted(type(error).__name__ for error in errors) == ["ConnectionError", "ConnectionError", "Interrupted"]
    assert sorted(map(sorted, trips)) == [[0], [1, 2, 3]]


def test_a_lone_call_goes_at_once() -> None:
    together: Combining[int, int] = Combining(lambda items: items)
    took = []
    for number in range(100):
        began = time.monotonic()
        assert together(number) == number
        took.append(time.monotonic() - began)
    assert median(took) < 0.005  # of a hundred, for the machine may be busy when it comes to some of them
