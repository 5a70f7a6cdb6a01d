"""The life of a run after it was started: cancelled, retried, sent again, started once only."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import ResultFailure, ResultTimeout

from dramatiq_clutch import Clutch, Run
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.errors import RunCancelled, RunFailed, RunIdTaken, RunNotFound
from dramatiq_clutch.remembered import REMEMBERED
from tests.conftest import running_worker
from tests.support.awaiting import PATIENCE, wait_until
from tests.support.jobs import Jobs, actor, state_is
from tests.support.keyspace import key_of
from tests.support.messages import on_their_way

# cancel


def test_cancelling_skips_what_is_queued_drops_what_runs_and_releases_nothing(
    broker: dramatiq.Broker, jobs: Jobs
) -> None:
    jobs.script["a"] = ["wait"]
    run = Clutch().parallel(jobs.job.message("a") for _ in range(21)).then(jobs.total).run()
    with running_worker(broker, threads=1):
        wait_until("a works", lambda: jobs.began == ["a"])
        assert run.cancel()
        wanted = engine_of(broker).remembered.wanted
        for key in list(wanted):
            wanted[key] -= REMEMBERED  # for so long a worker may take the run for what it was; that is over now
        jobs.gates["a"].set()
        wait_until("the queue is empty", lambda: on_their_way(broker) == 0)
    assert jobs.began == ["a"]
    status = run.status()
    assert [stage.state for stage in status.stages] == ["cancelled", "waiting"]
    assert status.stages[0].succeeded == 0


def test_a_waiter_of_a_cancelled_run_is_told_at_once(broker: dramatiq.Broker, jobs: Jobs) -> None:
    run = Clutch().then(jobs.total).run()
    with ThreadPoolExecutor(1) as pool:
        waiter = pool.submit(run.get_result, block=True, timeout=60_000)
        run.cancel()
        with pytest.raises(RunCancelled, match="was cancelled"):
            waiter.result(PATIENCE)
    assert issubclass(RunCancelled, ResultFailure)


def test_cancelling_reaches_nested_runs_of_both_kinds_at_any_depth(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["written"], jobs.script["nested"] = ["wait"], ["wait"]

    @dramatiq.actor
    def nests() -> Run:
        return Clutch(**jobs.callbacks("nested")).then(jobs.job.message("nested"), jobs.job.message("never")).nest()

    written = Clutch(**jobs.callbacks("written")).then(jobs.job.message("written"), jobs.job.message("never"))
    run = Clutch(**jobs.callbacks("root")).parallel(Clutch().then(written), nests).then(jobs.total).run()
    with running_worker(broker):
        wait_until("both work", lambda: {"written", "nested"} <= set(jobs.began))
        assert run.cancel()
        for name in ("written", "nested"):
            jobs.gates[name].set()
        for who in ("root", "written", "nested"):
            jobs.wait_fired(who, "E")
        wait_until("the queue is empty", lambda: on_their_way(broker) == 0)
    assert sorted(jobs.began) == ["nested", "written"]
    assert run.status().state == "cancelled"


def test_cancelling_a_nested_run_makes_it_a_dead_member_of_its_parent(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["b"] = ["wait"]
    run = Clutch().parallel(jobs.job.message("a"), Clutch().then(jobs.job.message("b"))).run()
    child = Run(f"{run.run_id}~0.1")
    with running_worker(broker):
        wait_until("b works", lambda: "b" in jobs.began)
        assert child.cancel()
        jobs.gates["b"].set()
        state_is(run, "failed")
        assert "was cancelled" in run.status().failures[0].exception_text
        assert run.retry()  # and it recovers as one
        assert run.get_result(block=True) == ["a", "b"]


@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled"])
def test_cancelling_a_run_at_rest_changes_nothing(broker: dramatiq.Broker, jobs: Jobs, end: str) -> None:
    jobs.script["a"] = ["die"] if end == "failed" else []
    run = Clutch(**jobs.callbacks("root")).then(jobs.job.message("a")).run()
    if end == "cancelled":
        run.cancel()
    with running_worker(broker):
        state_is(run, end)
        assert not run.cancel()
        assert run.status().state == end


@pytest.mark.parametrize("change", [Run.cancel, Run.retry, Run.resend])
def test_an_unknown_run_cannot_be_changed(broker: dramatiq.Broker, change: Any) -> None:
    with pytest.raises(RunNotFound, match="'nobody'"):
        change(Run("nobody"))


def test_a_cancelled_run_is_taken_up_again_by_a_retry(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["b"] = ["wait"]
    run = Clutch().parallel(jobs.job.message(name) for name in "abc").then(jobs.total).run()
    with running_worker(broker):
        wait_until("a and c have run", lambda: run.status().stages[0].succeeded == 2)
        wait_until("b to have begun", lambda: "b" in jobs.began)
        run.cancel()
        jobs.gates["b"].set()
        wait_until("the queue is empty", lambda: on_their_way(broker) == 0)
        assert run.retry()
        assert run.get_result(block=True) == ["a", "b", "c"]
    assert jobs.counts() == {"a": 1, "b": 2, "c": 1, "total": 1}


def test_cancelled_nested_runs_are_taken_up_again_with_their_root(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["b"] = ["wait"]
    child = Clutch().then(jobs.job.message("a"), jobs.job.message("b"), jobs.job.message("c"))
    run = Clutch().parallel(child, jobs.job.message("d")).then(jobs.total).run()
    with running_worker(broker):
        wait_until("b works", lambda: "b" in jobs.began)
        run.cancel()
        jobs.gates["b"].set()
        wait_until("the queue is empty", lambda: on_their_way(broker) == 0)
        assert run.retry()
        assert run.get_result(block=True) == ["c", "d"]
    assert jobs.counts()["a"] == 1


# retry


def test_a_retry_sends_the_dead_members_and_only_them_with_fresh_retries(broker: dramatiq.Broker, jobs: Jobs) -> None:
    tries: list[str] = []

    @actor(max_retries=1, min_backoff=1, max_backoff=1)  # type: ignore[untyped-decorator]
    def stubborn(name: str) -> str:
        tries.append(name)
        if tries.count(name) <= 3:
            raise ValueError(f"{name} is stubborn")
        return name

    run = Clutch().parallel(stubborn.message("a"), jobs.job.message("b"), stubborn.message("c")).run()
    with running_worker(broker):
        state_is(run, "failed")
        assert sorted(tries) == ["a", "a", "c", "c"]
        assert run.retry()
        assert run.get_result(block=True) == ["a", "b", "c"]
    assert sorted(tries) == ["a"] * 4 + ["c"] * 4
    assert jobs.began == ["b"]


@pytest.mark.parametrize("state", ["running", "succeeded"])
def test_retrying_a_run_without_a_dead_member_changes_nothing(broker: dramatiq.Broker, jobs: Jobs, state: str) -> None:
    jobs.script["a"] = ["wait"]
    run = Clutch().then(jobs.job.message("a")).run()
    with running_worker(broker):
        if state == "succeeded":
            jobs.gates["a"].set()
        wait_until("it began", lambda: jobs.began)
        state_is(run, state)
        assert not run.retry()
        jobs.gates["a"].set()
        state_is(run, "succeeded")
    assert jobs.began == ["a"]


def test_a_dead_member_can_be_retried_while_others_work(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["a"], jobs.script["b"] = ["die"], ["wait"]
    run = Clutch().parallel(jobs.job.message("a"), jobs.job.message("b")).run()
    with running_worker(broker):
        wait_until("a is dead", lambda: run.status().stages[0].dead == 1)
        assert run.retry()
        wait_until("a has succeeded", lambda: run.status().stages[0].succeeded == 1)
        jobs.gates["b"].set()
        assert run.get_result(block=True) == ["a", "b"]
    assert jobs.counts() == {"a": 2, "b": 1}


def test_a_retry_reaches_dead_members_of_nested_runs_at_any_depth(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["bad"] = ["die", "die"]

    @dramatiq.actor
    def nests() -> Run:
        return Clutch().parallel(jobs.job.message("bad"), jobs.job.message("good")).nest()

    run = Clutch().then(Clutch().then(Clutch().parallel(nests))).run()
    with running_worker(broker):
        for _ in range(2):
            state_is(run, "failed")
            assert run.retry()
        assert run.get_result(block=True) == [["bad", "good"]]
    assert jobs.counts() == {"bad": 3, "good": 1}


def test_a_retry_of_a_run_that_failed_by_itself_does_again_what_failed(broker: dramatiq.Broker, jobs: Jobs) -> None:
    refuses = [True]

    class Picky(dramatiq.Middleware):
        def before_enqueue(self, broker: Any, message: Any, delay: Any) -> None:
            if message.actor_name == "total" and refuses:
                raise dramatiq.middleware.MiddlewareError("not now")

    broker.add_middleware(Picky())
    run = Clutch(**jobs.callbacks("root")).then(jobs.job.message("a")).then(jobs.total).run()
    with running_worker(broker):
        with pytest.raises(RunFailed, match=r"HookFailed: .*MiddlewareError\('not now'\)"):
            run.get_result(block=True)
        jobs.wait_fired("root", "F X E")
        refuses.clear()
        assert run.retry()
        assert run.get_result(block=True) == ["a"]
        jobs.wait_fired("root", "F X E S E")
    assert run.status().error is None


def test_a_stale_death_does_not_undo_a_retry(broker: dramatiq.Broker, jobs: Jobs) -> None:
    """The dead letter of the first epoch, delivered again while the second one works."""
    jobs.script["a"] = ["die", "wait"]
    run = Clutch().then(jobs.job.message("a")).run()
    with running_worker(broker):
        state_is(run, "failed")
        run.retry()
        wait_until("it works again", lambda: jobs.counts()["a"] == 2)
        assert run.status().state == "running"
        assert run.status().stages[0].dead == 0
        jobs.gates["a"].set()
        assert run.get_result(block=True) == "a"


# Sent again by hand


def test_messages_that_were_lost_are_sent_again_by_hand(broker: dramatiq.Broker, jobs: Jobs) -> None:
    run = Clutch().parallel(jobs.job.message("a"), Clutch().then(jobs.job.message("b"))).then(jobs.total).run()
    broker.flush("default")
    with running_worker(broker):
        with pytest.raises(ResultTimeout):
            run.get_result(block=True, timeout=300)
        assert run.resend()
        assert run.get_result(block=True) == ["a", "b"]


def test_second_copies_are_absorbed(broker: dramatiq.Broker, jobs: Jobs) -> None:
    run = Clutch().parallel(jobs.job.message(name) for name in "abc").then(jobs.total).run()
    assert run.resend()
    assert run.resend()
    with running_worker(broker, threads=1):
        assert run.get_result(block=True) == ["a", "b", "c"]
        wait_until("the queue is empty", lambda: on_their_way(broker) == 0)
    assert jobs.counts() == {"a": 1, "b": 1, "c": 1, "total": 1}
    assert not run.resend()


# One run under one id


def test_run_under_one_id_a_clutch_starts_one_run(broker: dramatiq.Broker, jobs: Jobs) -> None:
    clutch = Clutch().then(jobs.job.message("a"))
    first, second = clutch.run(run_id="invoices-2026-11"), clutch.run(run_id="invoices-2026-11", delay=5_000)
    assert first == second == Run("invoices-2026-11")
    with running_worker(broker):
        assert second.get_result(block=True) == "a"
        assert clutch.run(run_id="invoices-2026-11").get_result() == "a"  # claimed, also after success
        wait_until("the queue is empty", lambda: on_their_way(broker) == 0)
    assert jobs.began == ["a"]


def test_another_clutch_under_a_known_id_is_an_error(broker: dramatiq.Broker, jobs: Jobs) -> None:
    clutch = Clutch().then(jobs.job.message("a"))
    clutch.run(run_id="one")
    for other in (clutch.then(jobs.total), Clutch().then(jobs.job.message("b")), Clutch(name="x").then(jobs.total)):
        with pytest.raises(RunIdTaken, match="'one'"):
            other.run(run_id="one")


def test_a_run_id_stays_claimed_when_the_result_has_expired(redis_broker: RedisBroker) -> None:
    jobs = Jobs(redis_broker)
    clutch = Clutch().then(jobs.job.message("a"))
    run = clutch.run(run_id="one")
    client = redis_broker.client
    with running_worker(redis_broker):
        run.get_result(block=True)
        wait_until("its duties are done", lambda: client.exists("dramatiq-clutch:{one}:tombstone"))
    client.delete("dramatiq-clutch:{one}:head", key_of(client, "one", "members:0"))
    assert clutch.run(run_id="one") == run
    assert not client.exists("dramatiq-clutch:{one}:head")
    with pytest.raises(RunIdTaken):
        clutch.then(jobs.total).run(run_id="one")
    assert client.pttl("dramatiq-clutch:{one}:tombstone") > 59 * 86_400_000


@pytest.mark.parametrize("run_id", ["", "a b", "a~0.1", "{a}", "a" * 201, "ä", "a\n"])
def test_what_is_no_id_is_an_error(broker: dramatiq.Broker, jobs: Jobs, run_id: str) -> None:
    with pytest.raises(ValueError, match="isn't one"):
        Clutch().then(jobs.total).run(run_id=run_id)


def test_threads_that_race_for_an_id_start_one_run(broker: dramatiq.Broker, jobs: Jobs) -> None:
    clutch = Clutch().parallel(jobs.job.message(str(n)) for n in range(5))
    start = threading.Barrier(8)

    def race() -> Run:
        start.wait(PATIENCE)
        return clutch.run(run_id="race")

    with ThreadPoolExecutor(8) as pool:
        runs = [future.result() for future in [pool.submit(race) for _ in range(8)]]
    assert set(runs) == {Run("race")}
    with running_worker(broker):
        assert runs[0].get_result(block=True) == list("01234")
        wait_until("the queue is empty", lambda: on_their_way(broker) == 0)
    assert set(jobs.counts().values()) == {1}


# Results for coroutines


def test_a_coroutine_waits_without_holding_up_the_event_loop(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["a"] = ["wait"]
    run = Clutch().then(jobs.job.message("a")).run()

    async def main() -> Any:
        waiters = [asyncio.create_task(run.get_result_async(timeout=2 * int(PATIENCE) * 1_000)) for _ in range(5)]
        began = time.monotonic()
        for _ in range(10):
            await asyncio.sleep(0.01)
        assert time.monotonic() - began < PATIENCE / 2  # and not until they are given the result
        jobs.gates["a"].set()
        return await asyncio.gather(*waiters)

    with running_worker(broker):
        assert asyncio.run(main()) == ["a"] * 5


# Options on their way through the plan


def test_the_options_of_a_message_survive(broker: dramatiq.Broker, jobs: Jobs) -> None:
    seen: list[dict[str, Any]] = []

    class Sees(dramatiq.Middleware):
        @property
        def actor_options(self) -> set[str]:
            return {"custom"}

        def before_process_message(self, broker: Any, message: Any) -> None:
            seen.append(message.options)

    broker.add_middleware(Sees())

    @dramatiq.actor
    def exhausted(message: Any, info: Any) -> None: ...

    options: dict[str, Any] = {
        "max_retries": 7,
        "time_limit": 12_345,
        "max_age": 60_000,
        "on_retry_exhausted": "exhausted",
        "custom": {"trace": 1},
    }
    message = jobs.job.message_with_options(args=("a",), **options)
    with running_worker(broker):
        run = Clutch().then(message).parallel(Clutch().then(message)).run()
        run.get_result(block=True)
    assert len(seen) == 2
    assert all({name: one.get(name) for name in options} == options for one in seen)


def test_the_delay_of_a_message_counts_from_its_stages_release(broker: dramatiq.Broker, jobs: Jobs) -> None:
    began: dict[str, float] = {}

    @dramatiq.actor
    def note(name: str) -> None:
        began[name] = time.monotonic()

    run = (
        Clutch()
        .then(note.message_with_options(args=("a",), delay=150))
        .then(note.message_with_options(args=("b",), delay=150))
    )
    with running_worker(broker):
        run.run().get_result(block=True)
    assert began["b"] - began["a"] >= 0.15
