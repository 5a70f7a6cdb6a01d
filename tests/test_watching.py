"""`Run.watch()`, and the runs around a run: `parent`, `root`, `children()`."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker

from dramatiq_clutch import Clutch, NestingError, Run, RunNotFound, RunStatus
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.errors import StateUnavailable
from dramatiq_clutch.lookout import LOOKOUTS, Lookout, Seen
from dramatiq_clutch.waiting import waiter_of
from tests.conftest import running_worker
from tests.support.application import application
from tests.support.awaiting import PATIENCE, wait_until
from tests.support.jobs import Jobs
from tests.support.keyspace import remove_keys
from tests.support.server import Server


@pytest.fixture(autouse=True)
def it_is_looked_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dramatiq_clutch.lookout.LOOK_AGAIN", 0.1)


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
@pytest.mark.parametrize("timeout", [0, 0.05])
def test_a_watch_with_a_timeout_has_a_status_and_ends(stub_broker: StubBroker, how: str, timeout: float) -> None:
    run = Clutch().then(Jobs(stub_broker).job.message("a")).run()
    short: Any = replace(run.watch(), timeout=timeout)

    async def all_of_it() -> list[RunStatus]:
        return [status async for status in short]

    assert (list(short) if how == "for" else asyncio.run(all_of_it())) == [run.status()]
    with pytest.raises(RunNotFound):
        list(replace(Run("nobody").watch(), timeout=0))


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
        statuses.close()
    assert run.run_id not in waiter_of(engine_of(redis_broker).backend)._watches  # noqa: SLF001


# Many who watch


MANY = 500


class Counted(redis.Connection):
    """A connection to the server that counts itself, and how often anything is sent by any."""

    made = sent = 0

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)  # type: ignore[no-untyped-call]
        Counted.made += 1

    def send_packed_command(self, *given: Any, **more: Any) -> None:
        Counted.sent += 1
        super().send_packed_command(*given, **more)  # type: ignore[no-untyped-call]


@pytest.fixture
def counted(server: Server, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    """Jobs whose store is reached over connections that are counted. It is looked again only if that is asked for."""
    pool = redis.ConnectionPool(connection_class=Counted, port=server.port)
    monkeypatch.setattr("dramatiq_clutch.lookout.LOOK_AGAIN", 10 * PATIENCE)
    with redis.Redis(connection_pool=pool) as client, application(client, sweep_interval=None) as app:
        yield Jobs(app.broker)
    pool.disconnect()


def lookout_of(run: Run) -> Lookout:
    waiter = waiter_of(engine_of(dramatiq.get_broker()).backend)
    wait_until("somebody watches", lambda: run.run_id in LOOKOUTS.of(waiter))
    return LOOKOUTS.of(waiter)[run.run_id]


def all_watch(run: Run, how: str, pool: ThreadPoolExecutor) -> Future[list[list[RunStatus]]]:
    """What many see, each in a thread of its own or all in coroutines."""

    async def in_coroutines() -> list[list[RunStatus]]:
        return await asyncio.gather(*(all_of(run) for _ in range(MANY)))

    def in_threads() -> list[list[RunStatus]]:
        with ThreadPoolExecutor(MANY) as threads:
            return list(threads.map(lambda _: list(run.watch()), range(MANY)))

    return pool.submit(in_threads if how == "for" else lambda: asyncio.run(in_coroutines()))


@HOWS
def test_one_look_serves_all_who_watch_and_they_share_two_connections(
    counted: Jobs, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    run = Clutch().then(counted.job.message("a")).run()
    backend, gate, looks = engine_of(counted.broker).backend, threading.Event(), list[int]()
    works, ticks, waiting = backend.snapshot, Lookout.tick, set[Callable[[], None]]()

    def snapshot(run_id: str) -> Any:
        looks.append(1)
        assert gate.wait(PATIENCE)
        return works(run_id)

    def tick(lookout: Lookout, bell: Callable[[], None]) -> float:
        waiting.add(bell)
        return ticks(lookout, bell)

    monkeypatch.setattr(backend, "snapshot", snapshot)
    monkeypatch.setattr(Lookout, "tick", tick)
    made, sent = Counted.made, Counted.sent
    with ThreadPoolExecutor() as pool:
        seen = all_watch(run, how, pool)
        lookout = lookout_of(run)
        try:
            wait_until("all wait", lambda: len(waiting) == MANY)
            gate.set()
            wait_until("it was looked", lambda: lookout.last)
        finally:
            gate.set()
            run.cancel()
            lookout.ask()  # nothing is heard in the first second
        states = [tuple(status.state for status in statuses) for statuses in seen.result(PATIENCE)]
    assert len(looks) <= 4  # for the first, for those who came during that look, for the hint, and as it was asked for
    assert Counted.made - made <= 2
    assert Counted.sent - sent < 40
    assert len(states) == MANY
    assert set(states) <= {("running", "cancelled"), ("cancelled",)}  # who was slow has missed the first
    assert not lookout.bells


def test_a_hint_that_is_lost_costs_a_second_and_one_look(
    stub_broker: StubBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looks are counted and compared with the time that has passed, however slow the machine is."""
    jobs, looks = Jobs(stub_broker), list[float]()
    run = Clutch().then(jobs.job.message("a")).run()
    backend = engine_of(stub_broker).backend
    works = backend.snapshot

    def snapshot(run_id: str) -> Any:
        looks.append(time.monotonic())
        return works(run_id)

    monkeypatch.setattr(backend, "snapshot", snapshot)
    monkeypatch.setattr(backend, "say", lambda *_: None)
    monkeypatch.setattr(waiter_of(backend), "watch", lambda *_: None)
    with ThreadPoolExecutor() as pool:
        seen = all_watch(run, "async for", pool)
        lookout = lookout_of(run)
        wait_until("all have come", lambda: len(lookout.bells) == MANY)
        joined = len(looks)
        wait_until("it was looked several times", lambda: len(looks) > joined + 3)
        run.cancel()
        assert {statuses[-1].state for statuses in seen.result(PATIENCE)} == {"cancelled"}
    later = looks[joined + 1 :]
    assert len(later) <= 2 + (later[-1] - later[0]) / 0.04


def test_it_is_looked_again_when_the_last_look_is_a_second_old(
    stub_broker: StubBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiter, asked = waiter_of(engine_of(stub_broker).backend), list[str]()
    monkeypatch.setattr(waiter, "ask", lambda name, look: asked.append(name))
    monkeypatch.setattr("dramatiq_clutch.lookout.LOOK_AGAIN", 1_000)
    lookout = Lookout("a run", lambda: Run("a run").status(), waiter)
    lookout.last = Seen(1, time.monotonic() - 500)
    assert 400 < lookout.tick(asked.clear) <= 500
    assert asked == []
    lookout.last = Seen(1, time.monotonic() - 1_000)
    assert lookout.tick(asked.clear) == lookout.tick(asked.clear) == 1_000
    assert asked == ["a run"]


@pytest.mark.parametrize("how", ["the server ends it", "the client is closed"])
def test_a_watch_whose_connection_is_lost_hears_of_its_run_again(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """It isn't looked again meanwhile, unless something was heard."""
    monkeypatch.setattr("dramatiq_clutch.lookout.LOOK_AGAIN", 10 * PATIENCE)
    jobs, client = Jobs(redis_broker), redis_broker.client
    run = Clutch().then(jobs.job.message("a")).run()
    statuses = iter(replace(run.watch(), timeout=PATIENCE))
    assert next(statuses).state == "running"
    backend, lookout = engine_of(redis_broker).backend, lookout_of(run)

    def hears() -> bool:
        backend.say(run.run_id)
        return lookout.last is not None and lookout.last.number > 1

    wait_until("hints are heard", hears)
    if how == "the server ends it":
        assert client.client_kill_filter(_type="pubsub") > 0
    else:
        client.close()
        client.connection_pool.disconnect()
    run.cancel()
    assert [status.state for status in statuses] == ["cancelled"]


def test_who_comes_seldom_gets_what_is_new_and_nothing_in_between(broker: dramatiq.Broker, jobs: Jobs) -> None:
    run = Clutch().then(jobs.job.message("a")).run()
    statuses = iter(run.watch())
    assert next(statuses).state == "running"
    lookout = lookout_of(run)

    def looked(state: str) -> None:
        lookout.ask()
        wait_until(f"{state} is seen", lambda: lookout.last and lookout.last.status == run.status())
        assert run.status().state == state

    run.cancel()
    looked("cancelled")
    run.retry()
    looked("running")
    run.cancel()
    looked("cancelled")
    assert list(statuses) == [run.status()]


def test_who_begins_to_watch_sees_nothing_older(stub_broker: StubBroker) -> None:
    jobs = Jobs(stub_broker)
    run = Clutch().then(jobs.job.message("a")).run()
    first = iter(run.watch())
    assert next(first).state == "running"
    run.cancel()
    assert [status.state for status in run.watch()] == ["cancelled"]
    first.close()


def test_an_error_of_a_look_is_raised_by_all_who_watch(stub_broker: StubBroker) -> None:
    jobs = Jobs(stub_broker)
    run = Clutch().then(jobs.job.message("a")).run()
    iterators = [iter(run.watch()) for _ in range(3)]
    for statuses in iterators:
        next(statuses)
    remove_keys(engine_of(stub_broker).backend, run.run_id)
    for statuses in iterators:
        with pytest.raises(RunNotFound) as caught:
            next(statuses)
        assert len(caught.traceback) < 12


# The reader of the parent, which a child doesn't have, may meet what is renewed under its feet.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_forked_child_goes_on_with_a_watch(stub_broker: StubBroker) -> None:
    jobs = Jobs(stub_broker)
    run = Clutch().then(jobs.job.message("a")).run()
    statuses = iter(run.watch())
    assert next(statuses).state == "running"
    lookout = lookout_of(run)
    lookout._is_looking = lookout._is_asked = True  # noqa: SLF001 (as if the parent's reader were about to look)
    LOOKOUTS.renew()
    lookout.renew()
    run.cancel()
    assert [status.state for status in statuses] == ["cancelled"]


# Runs around a run


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
