"""`Run.watch()`, and the runs around a run: `parent`, `root`, `children()`."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.redis import RedisBroker

from dramatiq_clutch import Clutch, NestingError, Run, RunNotFound, RunStatus
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.errors import StateUnavailable
from dramatiq_clutch.waiting import waiter_of
from tests.conftest import running_worker
from tests.support.awaiting import PATIENCE, wait_until
from tests.support.jobs import Jobs
from tests.support.keyspace import remove_keys


async def all_of(run: Run) -> list[RunStatus]:
    return [status async for status in run.watch()]


def watched(run: Run, how: str) -> list[RunStatus]:
    return list(run.watch()) if how == "for" else asyncio.run(all_of(run))


HOWS = pytest.mark.parametrize("how", ["for", "async for"])


@HOWS
def test_a_watch_begins_with_the_present_status_and_ends_with_the_runs_rest(
    broker: dramatiq.Broker, jobs: Jobs, how: str
) -> None:
    jobs.script["b"] = ["wait"]
    run = Clutch().then(jobs.job.message("a")).then(jobs.job.message("b")).then(jobs.job.message("c")).run()
    with running_worker(broker), ThreadPoolExecutor() as pool:
        wait_until("b works", lambda: "b" in jobs.began)
        seen = pool.submit(watched, run, how)
        waiter = waiter_of(engine_of(broker).backend)
        wait_until("somebody watches", lambda: run.run_id in waiter._watches)  # noqa: SLF001
        jobs.gates["b"].set()
        statuses = seen.result(PATIENCE)
    assert statuses[-1] == run.status()
    assert statuses[-1].state == "succeeded"
    assert [one.progress for one in statuses] == sorted({one.progress for one in statuses})
    assert run.run_id not in waiter._watches  # noqa: SLF001


@HOWS
def test_of_a_run_at_rest_there_is_one_status(broker: dramatiq.Broker, jobs: Jobs, how: str) -> None:
    run = Clutch().then(jobs.job.message("a")).run()
    run.cancel()
    assert watched(run, how) == [run.status()]


@HOWS
def test_a_run_that_is_not_there_cannot_be_watched(broker: dramatiq.Broker, how: str) -> None:
    with pytest.raises(RunNotFound):
        watched(Run("nobody"), how)


def test_a_run_that_goes_while_it_is_watched_is_an_error(broker: dramatiq.Broker, jobs: Jobs) -> None:
    run = Clutch().then(jobs.job.message("a")).run()
    statuses = iter(run.watch())
    assert next(statuses).state == "running"
    remove_keys(engine_of(broker).backend, run.run_id)
    with pytest.raises(RunNotFound):
        next(statuses)


@HOWS
def test_an_outage_is_waited_through_but_not_at_the_beginning(
    broker: dramatiq.Broker, jobs: Jobs, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    backend = engine_of(broker).backend
    run = Clutch().then(jobs.job.message("a")).run()
    works, looks = backend.snapshot, list[int]()

    def snapshot(run_id: str) -> Any:
        looks.append(1)
        if len(looks) == 1:
            raise StateUnavailable("away")
        if len(looks) == 3:
            run.cancel()
            raise StateUnavailable("away")
        return works(run_id)

    monkeypatch.setattr(backend, "snapshot", snapshot)
    with pytest.raises(StateUnavailable):
        watched(run, how)
    assert [status.state for status in watched(run, how)] == ["running", "cancelled"]


def test_a_job_cannot_watch_its_own_run(broker: dramatiq.Broker) -> None:
    caught: list[Exception] = []

    @dramatiq.actor
    def watches(run_id: str) -> None:
        try:
            Run(run_id).watch()
        except NestingError as error:
            caught.append(error)

    run = Clutch().then(watches.message("mine")).run(run_id="mine")
    with running_worker(broker):
        run.get_result(block=True)
    assert len(caught) == 1


def test_all_who_watch_share_two_threads(redis_broker: RedisBroker) -> None:
    jobs = Jobs(redis_broker)
    run = Clutch().then(jobs.job.message("a")).run()
    before = {thread.name for thread in threading.enumerate()}
    iterators = [iter(run.watch()) for _ in range(20)]
    for statuses in iterators:
        next(statuses)
    threads = {thread.name for thread in threading.enumerate()} - before
    assert threads <= {"clutch-reader", "clutch-ear"}
    for statuses in iterators:
        statuses.close()  # type: ignore[attr-defined]
    assert run.run_id not in waiter_of(engine_of(redis_broker).backend)._watches  # noqa: SLF001


def test_a_nested_run_knows_what_it_is_nested_in(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["x"] = ["wait"]
    inner = Clutch(name="inner").then(jobs.job.message("x"))
    run = Clutch().parallel(Clutch(name="outer").then(inner), jobs.job.message("a")).run()
    with running_worker(broker):
        wait_until("it works", lambda: "x" in jobs.began)
        (outer,) = run.children()
        (found,) = Run(outer.run_id).children()
        nested = Run(found.run_id)
        assert (outer.name, found.name) == ("outer", "inner")
        assert (nested.parent, nested.root) == (Run(outer.run_id), run)
        assert (Run(outer.run_id).parent, Run(outer.run_id).root) == (run, run)
        assert (run.parent, run.root) == (None, None)
        jobs.gates["x"].set()
        run.get_result(block=True)
