"""Waiting for a run: in the server, by many, and never for ever."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import ResultFailure, ResultMissing, ResultTimeout

from dramatiq_clutch import Clutch, Run
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.errors import ResultsGone, RunFailed
from tests.conftest import running_worker
from tests.support.awaiting import PATIENCE, wait_until
from tests.support.commands import executed
from tests.support.keyspace import key_of


@pytest.fixture
def gate() -> threading.Event:
    return threading.Event()


@pytest.fixture
def gated(broker: dramatiq.Broker, gate: threading.Event) -> dramatiq.Actor[..., Any]:
    @dramatiq.actor
    def gated() -> str:
        gate.wait(PATIENCE)
        return "through"

    return gated


def test_a_result_that_is_not_there_yet_is_missing(gated: dramatiq.Actor[..., Any]) -> None:
    with pytest.raises(ResultMissing, match="is running"):
        Clutch().then(gated).run().get_result()


def test_a_timeout_is_in_milliseconds_and_dramatiqs_own_error(gated: dramatiq.Actor[..., Any]) -> None:
    began = time.monotonic()
    with pytest.raises(ResultTimeout, match="still running"):
        Clutch().then(gated).run().get_result(block=True, timeout=100)
    assert 0.1 <= time.monotonic() - began < PATIENCE / 2  # it would be 100 s


def test_a_failed_run_raises_at_once_what_failed(broker: dramatiq.Broker) -> None:
    @dramatiq.actor(max_retries=0)
    def broken() -> None:
        raise LookupError("no page")

    run = Clutch().then(broken).run()
    with (
        running_worker(broker),
        pytest.raises(RunFailed, match=r"stage 0, broken .member 0.: LookupError: no page") as got,
    ):
        run.get_result(block=True, timeout=60_000)
    assert isinstance(got.value, ResultFailure)
    with pytest.raises(RunFailed):
        run.get_result()


def test_many_waiters_are_all_woken(
    broker: dramatiq.Broker, gate: threading.Event, gated: dramatiq.Actor[..., Any]
) -> None:
    run = Clutch().then(gated).run()
    with running_worker(broker), ThreadPoolExecutor(20) as pool:
        waiters = [pool.submit(run.get_result, block=True, timeout=60_000) for _ in range(20)]
        wait_until("it works", lambda: run.status().state == "running")
        gate.set()
        assert [waiter.result(PATIENCE) for waiter in waiters] == ["through"] * 20


def test_waiting_does_not_poll(redis_broker: RedisBroker) -> None:
    @dramatiq.actor
    def never() -> None: ...

    run = Clutch().then(never).run()
    before = executed(redis_broker.client)
    with pytest.raises(ResultTimeout):
        run.get_result(block=True, timeout=3_000)
    asked = executed(redis_broker.client) - before
    assert asked.total() <= 12, asked


def test_a_result_that_was_removed_by_hand_is_told(redis_broker: RedisBroker) -> None:
    @dramatiq.actor
    def job() -> int:
        return 1

    run = Clutch().then(job).run()
    with running_worker(redis_broker):
        assert run.get_result(block=True) == 1
    redis_broker.client.delete(key_of(redis_broker.client, run.run_id, "members:0"))
    with pytest.raises(ResultsGone, match=run.run_id):
        run.get_result()


def test_the_first_stage_looks_nothing_up(redis_broker: RedisBroker) -> None:
    engine, asked = engine_of(redis_broker), []

    def results(*args: Any, **more: Any) -> Any:
        asked.append(args)
        return type(engine.backend).results(engine.backend, *args, **more)

    from dramatiq_clutch import previous_results

    @dramatiq.actor
    def job() -> list[Any]:
        asked.clear()
        found = previous_results()
        assert asked == []
        return found

    engine.backend.results = results  # type: ignore[method-assign]
    run = Clutch().then(job).run()
    with running_worker(redis_broker):
        assert run.get_result(block=True) == []


def test_a_message_of_a_later_stage_has_a_fresh_timestamp(broker: dramatiq.Broker) -> None:
    @dramatiq.actor(max_age=60_000)
    def job() -> str:
        return "young"

    old = job.message().copy(message_timestamp=1)
    run = Clutch().then(old).parallel(old, old).then(old).run()
    with running_worker(broker):
        assert run.get_result(block=True) == "young"


def test_the_delay_of_a_run_holds_its_first_job_back(broker: dramatiq.Broker) -> None:
    began: list[float] = []

    @dramatiq.actor
    def job() -> None:
        began.append(time.monotonic())

    now = time.monotonic()
    run = Clutch().then(job, job).run(delay=300)
    with running_worker(broker):
        run.get_result(block=True)
    assert began[0] - now >= 0.3
    assert began[1] - began[0] < PATIENCE / 2


def test_a_handle_works_in_any_process_that_knows_the_id(broker: dramatiq.Broker) -> None:
    run = Clutch(name="nightly").run()
    again = Run(run.run_id)
    assert again.get_result() is None
    assert again.status().name == "nightly"
    assert again.status().to_dict()["stages"] == []
