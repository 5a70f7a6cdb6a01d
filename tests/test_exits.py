"""Every way in which an attempt can end, and what is recorded of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import dramatiq
import pytest
from dramatiq.common import current_millis
from dramatiq.middleware import AsyncIO, Middleware, MiddlewareError, Retries, SkipMessage
from dramatiq.rate_limits import ConcurrentRateLimiter
from dramatiq.rate_limits.backends import StubBackend as RateLimits
from dramatiq.results import Results
from dramatiq.results.backends import StubBackend as ResultsInMemory

from dramatiq_clutch import Clutch, ClutchMiddleware, Run, previous_results
from dramatiq_clutch.backend import Caller, Record, Reply
from dramatiq_clutch.engine import Engine, engine_of
from dramatiq_clutch.handover.members import job_message
from dramatiq_clutch.stored.places import Tag
from dramatiq_clutch.stored.plan import Spec, StageLine
from tests.conftest import running_worker
from tests.support.awaiting import wait_until
from tests.support.jobs import QUICK, actor
from tests.support.messages import dead_letters, on_their_way
from tests.support.tags import tag_in

Records = list[tuple[str, int]]


@pytest.fixture
def engine(broker: dramatiq.Broker) -> Engine:
    return engine_of(broker)


@pytest.fixture
def records(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Records:
    """What is recorded, as (ending, attempt)."""
    seen: Records = []
    works = engine.backend.record

    def record(record: Record, caller: Caller, *along: Any) -> Reply:
        seen.append((record.ending, record.attempt))
        return works(record, caller, *along)

    monkeypatch.setattr(engine.backend, "record", record)
    return seen


def at_rest(run: Run) -> str:
    def state() -> str:
        now = run.status().state
        return "" if now in ("running", "failing") else now

    return wait_until("the run is at rest", state)


def work_off(broker: dramatiq.Broker, run: Run) -> str:
    with running_worker(broker):
        return at_rest(run)


# The actors of the table: (actor, recorded, the run's state at the end, dead letters)


def returns(broker: dramatiq.Broker) -> Any:
    @dramatiq.actor
    def job() -> int:
        return 1

    return job


def raises_then_returns(broker: dramatiq.Broker) -> Any:
    tries: list[int] = []

    @actor(**QUICK)  # type: ignore[untyped-decorator]
    def job() -> int:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError("the first time")
        return 1

    return job


def asks_for_a_retry(broker: dramatiq.Broker) -> Any:
    tries: list[int] = []

    @actor(**QUICK)  # type: ignore[untyped-decorator]
    def job() -> int:
        tries.append(1)
        if len(tries) == 1:
            raise dramatiq.Retry("not yet", delay=1)
        return 1

    return job


def is_rate_limited(broker: dramatiq.Broker) -> Any:
    tries: list[int] = []
    limiter = ConcurrentRateLimiter(RateLimits(), "one-at-a-time", limit=1)

    @actor(**QUICK)  # type: ignore[untyped-decorator]
    def job() -> int:
        tries.append(1)
        with limiter.acquire():
            if len(tries) == 1:
                with limiter.acquire():
                    pass
        return 1

    return job


def is_shut_down(broker: dramatiq.Broker) -> Any:
    tries: list[int] = []

    @actor(**QUICK)  # type: ignore[untyped-decorator]
    def job() -> int:
        tries.append(1)
        if len(tries) == 1:
            raise dramatiq.middleware.Shutdown()
        return 1

    return job


def exhausts_its_retries(broker: dramatiq.Broker) -> Any:
    @actor(max_retries=1, **QUICK)  # type: ignore[untyped-decorator]
    def job() -> None:
        raise ValueError("always")

    return job


def throws(broker: dramatiq.Broker) -> Any:
    @dramatiq.actor(throws=ValueError)
    def job() -> None:
        raise ValueError("expected")

    return job


def works_without_retries(broker: dramatiq.Broker) -> Any:
    broker.middleware[:] = [middleware for middleware in broker.middleware if not isinstance(middleware, Retries)]
    return exhausts_its_retries_silently(broker)


def exhausts_its_retries_silently(broker: dramatiq.Broker) -> Any:
    @dramatiq.actor
    def job() -> None:
        raise ValueError("always")

    return job


def has_a_retry_when_that_raises(broker: dramatiq.Broker) -> Any:
    def undecided(retries: int, error: BaseException) -> bool:
        raise LookupError("cannot say")

    @dramatiq.actor(retry_when=undecided)
    def job() -> None:
        raise ValueError("always")

    return job


def returns_what_cannot_be_encoded(broker: dramatiq.Broker) -> Any:
    @dramatiq.actor
    def job() -> object:
        return object()

    return job


def fails_its_message(broker: dramatiq.Broker) -> Any:
    @dramatiq.actor
    def job() -> None:
        message: Any = dramatiq.middleware.CurrentMessage.get_current_message()
        message.fail()

    if not any(isinstance(known, dramatiq.middleware.CurrentMessage) for known in broker.middleware):
        broker.add_middleware(dramatiq.middleware.CurrentMessage())
    return job


def skips_itself(broker: dramatiq.Broker) -> Any:
    @dramatiq.actor
    def job() -> None:
        raise SkipMessage("not today")

    return job


def is_skipped_by_a_middleware(broker: dramatiq.Broker) -> Any:
    class Skips(Middleware):
        def before_process_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
            raise SkipMessage("not here")

    broker.add_middleware(Skips())
    return returns(broker)


def is_skipped_before_we_see_it(broker: dramatiq.Broker) -> Any:
    is_skipped_by_a_middleware(broker)
    broker.middleware.insert(0, broker.middleware.pop())
    return broker.get_actor("job")


def is_put_back_by_a_middleware(broker: dramatiq.Broker) -> Any:
    class Throttles(Middleware):
        times = 0

        def before_process_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
            self.times += 1
            if self.times <= 2:
                broker.enqueue(message, delay=1)  # type: ignore[arg-type]
                raise SkipMessage("too many are at work")

    broker.add_middleware(Throttles())
    return throws(broker)


def is_put_back_before_we_see_it(broker: dramatiq.Broker) -> Any:
    job = is_put_back_by_a_middleware(broker)
    broker.middleware.insert(0, broker.middleware.pop())
    return job


def meets_an_error_before_we_see_it(broker: dramatiq.Broker) -> Any:
    class Refuses(Middleware):
        times = 0

        def before_process_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
            self.times += 1
            if self.times == 1:
                raise MiddlewareError("not yet")

    broker.middleware.insert(0, Refuses())

    @actor(**QUICK)  # type: ignore[untyped-decorator]
    def job() -> int:
        return 1

    return job


def is_too_old(broker: dramatiq.Broker) -> Any:
    @dramatiq.actor(max_age=100)
    def job() -> None:
        raise AssertionError("it is too old to work")

    class Ages(Middleware):
        def before_enqueue(self, broker: dramatiq.Broker, message: Any, delay: int | None) -> None:
            object.__setattr__(message, "message_timestamp", current_millis() - 10_000)

    broker.add_middleware(Ages())
    return job


def waits_in_the_delay_queue(broker: dramatiq.Broker) -> Any:
    @dramatiq.actor
    def job() -> int:
        return 1

    return job.message_with_options(delay=20)


def is_async(broker: dramatiq.Broker) -> Any:
    broker.add_middleware(AsyncIO())

    @dramatiq.actor
    async def job() -> int:
        await asyncio.sleep(0)
        return 1

    return job


TABLE: list[tuple[Callable[[dramatiq.Broker], Any], Records, str, int]] = [
    (returns, [("succeeded", 0)], "succeeded", 0),
    (is_async, [("succeeded", 0)], "succeeded", 0),
    (raises_then_returns, [("failing", 0), ("succeeded", 1)], "succeeded", 0),
    (asks_for_a_retry, [("attempted", 0), ("succeeded", 1)], "succeeded", 0),
    (is_rate_limited, [("attempted", 0), ("succeeded", 1)], "succeeded", 0),
    (is_shut_down, [("attempted", 0), ("succeeded", 1)], "succeeded", 0),
    (exhausts_its_retries, [("failing", 0), ("dead", 1)], "failed", 1),
    (throws, [("dead", 0)], "failed", 1),
    (works_without_retries, [("dead", 0)], "failed", 0),
    (has_a_retry_when_that_raises, [("dead", 0)], "failed", 0),
    (returns_what_cannot_be_encoded, [("dead", 0)], "failed", 1),
    (fails_its_message, [("dead", 0)], "failed", 1),
    (skips_itself, [("succeeded", 0)], "succeeded", 0),
    (is_skipped_by_a_middleware, [("succeeded", 0)], "succeeded", 0),
    (is_skipped_before_we_see_it, [("succeeded", 0)], "succeeded", 0),
    (is_put_back_by_a_middleware, [("dead", 0)], "failed", 1),
    (is_put_back_before_we_see_it, [("dead", 0)], "failed", 1),
    (meets_an_error_before_we_see_it, [("succeeded", 1)], "succeeded", 0),
    (is_too_old, [("dead", 0)], "failed", 1),
    (waits_in_the_delay_queue, [("succeeded", 0)], "succeeded", 0),
]


@pytest.mark.parametrize(
    "place",
    [pytest.param("last", id="added last"), pytest.param("first", marks=pytest.mark.twice, id="added first")],
)
@pytest.mark.parametrize(
    ("make", "recorded", "state", "letters"), TABLE, ids=[make.__name__.replace("_", " ") for make, *_ in TABLE]
)
def test_an_attempt_that(
    broker: dramatiq.Broker,
    engine: Engine,
    records: Records,
    make: Callable[[dramatiq.Broker], Any],
    recorded: Records,
    state: str,
    letters: int,
    place: str,
) -> None:
    if place == "first":  # in the stack
        ours = next(known for known in broker.middleware if isinstance(known, ClutchMiddleware))
        broker.middleware.remove(ours)
        broker.middleware.insert(0, ours)
    run = Clutch().then(make(broker)).run()

    assert work_off(broker, run) == state
    wait_until("all is recorded", lambda: len(records) >= len(recorded))
    # Retries sends the next attempt before the present one is recorded, so they may come in another order.
    assert sorted(records, key=lambda record: record[1]) == recorded
    assert dead_letters(broker) == letters
    failures = run.status().failures
    assert len(failures) == (state == "failed")
    assert all(failure.exception_text and failure.message_id and failure.actor == "job" for failure in failures)


def test_an_unencodable_result_tells_the_encoders_error_and_fires_on_failure(
    broker: dramatiq.Broker, engine: Engine
) -> None:
    alerts: list[Any] = []

    @dramatiq.actor
    def alert(status: Any) -> None:
        alerts.append(status)

    run = Clutch(on_failure=alert).then(returns_what_cannot_be_encoded(broker)).run()
    with running_worker(broker):
        at_rest(run)
        wait_until("the alert", lambda: alerts)
    assert "not JSON serializable" in alerts[0]["failures"][0]["exception_text"]


@pytest.mark.parametrize("make", [is_put_back_before_we_see_it, meets_an_error_before_we_see_it])
def test_no_message_stays_unacked_that_comes_again_before_we_see_it(
    broker: dramatiq.Broker, engine: Engine, make: Callable[[dramatiq.Broker], Any]
) -> None:
    """It would count as prefetched for as long as its worker lives, which would then fetch ever less."""
    run = Clutch().then(make(broker)).run()
    with running_worker(broker):
        at_rest(run)
        queue_is_empty(broker)


def test_a_callback_that_a_middleware_puts_back_has_not_ended(broker: dramatiq.Broker, engine: Engine) -> None:
    class Throttles(Middleware):
        times = 0

        def before_process_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
            if message.actor_name == "tell" and self.times < 2:
                self.times += 1
                broker.enqueue(message, delay=1)  # type: ignore[arg-type]
                raise SkipMessage("too many are at work")

    @dramatiq.actor(max_retries=0)
    def tell(status: Any) -> None:
        raise ValueError("nobody is told")

    job = returns(broker)
    broker.middleware.insert(0, Throttles())
    run = Clutch(on_finish=tell).then(job).run()
    with running_worker(broker):
        at_rest(run)
        wait_until("the callback has ended", lambda: run.callbacks()[0].state not in ("owed", "sent"))
    assert run.callbacks()[0].state == "dead"


def test_a_message_without_an_actor_here_is_dead(broker: dramatiq.Broker, engine: Engine, records: Records) -> None:
    elsewhere: dramatiq.Message[None] = dramatiq.Message("default", "nobody", (), {}, {})
    broker.declare_queue("default")
    run = Clutch().then(elsewhere).run()
    assert work_off(broker, run) == "failed"
    assert records == [("dead", 0)]
    assert dead_letters(broker) == 1


def test_an_interrupt_during_the_after_hooks_decides(broker: dramatiq.Broker, engine: Engine, records: Records) -> None:
    class Interrupted(Middleware):
        times = 0

        def after_process_message(self, broker: Any, message: Any, **_: Any) -> None:
            self.times += 1
            if self.times == 1:
                raise dramatiq.middleware.TimeLimitExceeded()

    @dramatiq.actor(max_retries=0)
    def job() -> int:
        return 1

    broker.middleware.insert(0, Interrupted())  # after-hooks run in reverse order: ours has been told of the result
    run = Clutch().then(job).run()
    assert work_off(broker, run) == "failed"
    assert records == [("dead", 0)]
    assert run.status().failures[0].exception_type == "TimeLimitExceeded"


def copy_of(run: Run, message: dramatiq.Message[Any], tag: Tag) -> dramatiq.Message[Any]:
    """What a redelivery brings: the same message again. (Its worker has been silent for a minute; `again` says so.)"""
    return job_message(message, tag._replace(repeated=True, actor=message.actor_name), Spec(), StageLine(0, 1))


def test_a_job_delivered_again_after_its_success_is_skipped(
    broker: dramatiq.Broker, engine: Engine, records: Records
) -> None:
    runs: list[int] = []

    @dramatiq.actor
    def job(number: int) -> int:
        runs.append(number)
        if number == 1:
            wait_until("the gate", lambda: len(gate) > 0)
        return number

    gate: list[int] = []
    run = Clutch().parallel(job.message(0), job.message(1)).run()
    with running_worker(broker, threads=2):
        wait_until("0 has succeeded", lambda: run.status().stages[0].succeeded == 1)
        broker.enqueue(copy_of(run, job.message(0), tag_in(broker, run, of=2)))
        queue_is_empty(broker, beside=1)
        gate.append(1)
        assert run.get_result(block=True) == [0, 1]
        broker.enqueue(copy_of(run, job.message(0), tag_in(broker, run, of=2)))  # its run is over
        queue_is_empty(broker)
    assert sorted(runs) == [0, 1]
    assert records == [("succeeded", 0)] * 2
    assert dead_letters(broker) == 0


def queue_is_empty(broker: dramatiq.Broker, beside: int = 0) -> None:
    wait_until("all messages are acked", lambda: on_their_way(broker) <= beside)


def test_a_job_of_a_stage_that_is_over_is_skipped(broker: dramatiq.Broker, engine: Engine, records: Records) -> None:
    began: list[int] = []
    gate: list[int] = []

    @dramatiq.actor
    def job() -> None: ...

    @dramatiq.actor
    def last() -> None:
        began.append(1)
        wait_until("the gate", lambda: len(gate) > 0)

    run = Clutch().then(job, last).run()
    with running_worker(broker):
        wait_until("the next stage is at work", lambda: began)
        queue_is_empty(
            broker, beside=1
        )  # else the copy is the same attempt, still at work, and does what that owes, too
        broker.enqueue(copy_of(run, job.message(), tag_in(broker, run)))
        queue_is_empty(broker, beside=1)
        gate.append(1)
        at_rest(run)
    assert records == [("succeeded", 0)] * 2


def test_a_job_of_an_unknown_run_goes_to_the_dead_letters_and_the_log_names_the_run(
    broker: dramatiq.Broker, engine: Engine, records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    @dramatiq.actor
    def job() -> None:
        raise AssertionError("nothing is known of its run")

    broker.enqueue(copy_of(Run("gone"), job.message(), Tag("run-that-never-was", 0, 0, 1)))
    with running_worker(broker):
        wait_until("it is a dead letter", lambda: dead_letters(broker) == 1)
    assert records == []
    assert any(
        record.levelno == logging.ERROR and "run-that-never-was" in record.getMessage() for record in caplog.records
    )


def test_a_skipped_duplicate_leaves_the_stored_result_alone(broker: dramatiq.Broker, engine: Engine) -> None:
    kept = ResultsInMemory()
    broker.add_middleware(Results(backend=kept, store_results=True))
    gate: list[int] = []

    @dramatiq.actor(store_results=True)
    def job(number: int) -> int:
        if number == 1:
            wait_until("the gate", lambda: len(gate) > 0)
        return number + 10

    run = Clutch().parallel(job.message(0), job.message(1)).run()
    with running_worker(broker, threads=2):
        wait_until("0 has succeeded", lambda: run.status().stages[0].succeeded == 1)
        again = copy_of(run, job.message(0), tag_in(broker, run, of=2))
        broker.enqueue(again)
        queue_is_empty(broker, beside=1)
        assert again.get_result(backend=kept) == 10
        gate.append(1)
        at_rest(run)


def test_a_dead_letter_put_back_by_hand_heals_its_run(broker: dramatiq.Broker, engine: Engine) -> None:
    broken = [True]

    @dramatiq.actor(max_retries=0)
    def job() -> str:
        if broken:
            raise ValueError("broken")
        return "healed"

    run = Clutch().then(job).run()
    with running_worker(broker):
        wait_until("the run has failed", lambda: run.status().state == "failed")
        broken.clear()
        broker.enqueue(copy_of(run, job.message(), tag_in(broker, run)))
        assert wait_until("it is healed", lambda: run.status().state == "succeeded")
    assert run.get_result() == "healed"


def test_a_run_logs_a_line_per_transition_and_none_per_job_and_no_warning(
    broker: dramatiq.Broker, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    @dramatiq.actor
    def job(number: int) -> int:
        return number

    run = Clutch().parallel(job.message(n) for n in range(20)).then(job.message(1)).run()
    with caplog.at_level(logging.INFO):
        work_off(broker, run)
    ours = [record for record in caplog.records if record.name.startswith("dramatiq_clutch")]
    assert [vars(record)["event"] for record in ours] == ["released", "succeeded"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_dramatiqs_warning_of_a_discarded_value_stays_for_other_jobs(
    broker: dramatiq.Broker, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[int] = []

    @dramatiq.actor
    def job() -> int:
        done.append(1)
        return 1

    with caplog.at_level(logging.WARNING), running_worker(broker):
        job.send()
        wait_until("it has run", lambda: done)
        queue_is_empty(broker)
    assert any("not None" in record.getMessage() for record in caplog.records)


def test_async_and_class_based_actors_see_the_results_of_the_stage_before(
    broker: dramatiq.Broker, engine: Engine
) -> None:
    broker.add_middleware(AsyncIO())

    @dramatiq.actor
    def first(number: int) -> int:
        return number

    @dramatiq.actor
    async def second(number: int) -> list[Any]:
        return [number, *await asyncio.to_thread(previous_results), *previous_results()]

    class Third(dramatiq.GenericActor):
        def perform(self) -> Any:
            return previous_results()

    run = Clutch().parallel(first.message(1), first.message(2)).parallel([second.message(3)]).then(Third).run()
    assert work_off(broker, run) == "succeeded"
    assert run.get_result() == [[3, 1, 2, 1, 2]]
