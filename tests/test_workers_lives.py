"""Several workers in one process: the life of each is its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker

from dramatiq_clutch import Clutch, ClutchMiddleware, Run
from dramatiq_clutch.backend import SWEEP
from dramatiq_clutch.backends import RedisBackend, StubBackend
from dramatiq_clutch.engine import engine_of
from tests.conftest import running_worker
from tests.support.awaiting import PATIENCE, wait_until
from tests.support.server import Server


def sweepers() -> int:
    return sum(thread.name == "clutch-sweeper" for thread in threading.enumerate())


@contextmanager
def broker_with(middleware: ClutchMiddleware) -> Iterator[StubBroker]:
    broker = StubBroker()
    broker.add_middleware(middleware)
    broker.emit_after("process_boot")
    yield broker
    broker.flush_all()
    broker.close()


def test_each_worker_has_a_sweeper_that_ends_with_it(broker: dramatiq.Broker) -> None:
    wait_until("those of other tests to end", lambda: sweepers() == 0)
    with running_worker(broker, threads=1):
        with running_worker(broker, threads=1):
            assert sweepers() == 2
        wait_until("the second one's to end", lambda: sweepers() == 1)
        with running_worker(broker, threads=1):
            assert sweepers() == 2
        wait_until("the third one's to end", lambda: sweepers() == 1)
    wait_until("the first one's to end", lambda: sweepers() == 0)


def test_a_worker_that_is_started_again_has_a_life_again(broker: dramatiq.Broker) -> None:
    wait_until("those of other tests to end", lambda: sweepers() == 0)
    worker = dramatiq.Worker(broker, worker_timeout=20, worker_threads=1)
    for _ in range(2):
        worker.start()
        assert sweepers() == 1
        worker.stop()
        wait_until("its sweeper to end", lambda: sweepers() == 0)


def test_a_message_that_waits_for_the_store_is_acked_though_another_worker_stops(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Server(durable=True) as server, broker_with(ClutchMiddleware(RedisBackend(url=server.url))) as broker:
        at_work: list[threading.Thread] = []
        go_on = threading.Event()

        @dramatiq.actor(broker=broker)
        def job() -> str:
            at_work.append(threading.current_thread())
            assert go_on.wait(PATIENCE)
            return "done"

        with running_worker(broker, threads=1) as one, running_worker(broker, threads=1) as other:
            run = Clutch(broker=broker).then(job).run()
            wait_until("one of them works", lambda: at_work)
            server.kill()
            go_on.set()
            wait_until("its message waits", lambda: "waits, unacked" in caplog.text)
            (other if at_work[0] in one.workers else one).stop()
            server.start()
            assert run.get_result(block=True, timeout=60_000) == "done"


def test_a_worker_that_stops_leaves_its_message_at_once(caplog: pytest.LogCaptureFixture) -> None:
    with Server() as server, broker_with(ClutchMiddleware(RedisBackend(url=server.url))) as broker:

        @dramatiq.actor(broker=broker)
        def job() -> None:
            server.kill()

        Clutch(broker=broker).then(job).run()
        with running_worker(broker, threads=1) as worker, running_worker(broker, threads=1) as other:
            wait_until("it waits", lambda: "waits, unacked" in caplog.text)
            began = time.monotonic()
            for one in (worker, other):
                one.stop(timeout=2 * int(PATIENCE) * 1_000)
            assert time.monotonic() - began < PATIENCE


def lost_run(broker: dramatiq.Broker) -> Run:
    """A run whose producer was killed before it had sent anything."""
    engine = engine_of(broker)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dramatiq_clutch.starting.hand_over", lambda *_: None)
        run = Clutch(broker=broker).then(broker.get_actor("job")).run()
    engine.look_again(run.run_id, 0)
    return run


def test_a_hint_has_the_sweeper_look_at_once(server: Server, redis_broker: RedisBroker) -> None:
    redis_broker.middleware[:] = [one for one in redis_broker.middleware if not isinstance(one, ClutchMiddleware)]
    redis_broker.add_middleware(ClutchMiddleware(lease=1, sweep_interval=600_000))
    _hint(redis_broker)


def test_a_hint_has_the_sweeper_look_at_once_in_memory() -> None:
    with broker_with(ClutchMiddleware(StubBackend(), lease=1, sweep_interval=600_000)) as broker:
        _hint(broker)


def _hint(broker: dramatiq.Broker) -> None:
    @dramatiq.actor(broker=broker)
    def job() -> str:
        return "done"

    with running_worker(broker):
        run, backend = lost_run(broker), engine_of(broker).backend

        def result_after_a_hint() -> Any:
            backend.say(SWEEP)
            return run.status().state == "succeeded"

        wait_until("the sweeper has been told", result_after_a_hint)
        assert run.get_result() == "done"
