"""What brokers of other packages do by themselves, with plain Dramatiq, and what becomes of a run on them. The page
`examples/servers` tells users of it: if a test fails, a package has changed, and so must the page.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import dramatiq
import pytest
import redis

from dramatiq_clutch import Clutch, RedisBackend
from tests.conftest import as_global_broker, running_worker
from tests.support.awaiting import wait_until
from tests.support.brokers import Brokers
from tests.support.jobs import Jobs, state_is
from tests.support.messages import dead_letters

pytestmark = pytest.mark.process

#: Those that keep one message under an id, and take a rejection for that of whatever stands under the id by then.
REJECTING = ("pg", "postgres", "sqlite")

Making = Callable[[str], AbstractContextManager[dramatiq.Broker]]


class AgainInTime(dramatiq.Middleware):
    """Does something just before the first message is rejected, as another thread might."""

    def __init__(self, does: Callable[[Any], object]) -> None:
        self.does = does
        self.done = False

    def before_nack(self, broker: dramatiq.Broker, message: Any) -> None:
        if not self.done:
            self.done = True
            self.does(message)


@pytest.fixture
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer fetches nothing more before what it has fetched is acked or rejected."""
    monkeypatch.setattr("dramatiq.worker.QUEUE_PREFETCH", 1)


@pytest.mark.parametrize("name", ["kombu"])
def test_dead_letters_work_again_where_something_was_sent_before_the_worker_started(
    other_brokers: Brokers, name: str
) -> None:
    """Without the middleware. The queue of dead letters is among those that the worker is told to listen on."""
    kind = other_brokers.kind(name)
    broker = kind.plain()
    began: list[str] = []

    @dramatiq.actor(broker=broker, max_retries=0)
    def dies(who: str) -> None:
        began.append(who)
        raise ValueError

    try:
        with running_worker(broker):
            dies.send("sent after the start")
            wait_until("it to be a dead letter", lambda: broker.get_queue_message_counts("default")[2] == 1)
        assert began == ["sent after the start"]
        with running_worker(broker):  # this process has sent something by now
            wait_until("it to work again", lambda: len(began) == 2)
            wait_until("it to be dropped", lambda: broker.get_queue_message_counts("default") == (0, 0, 0))
    finally:
        kind.clear(broker)
        broker.close()


@pytest.mark.parametrize("name", ["kombu"])
def test_a_worker_warns_if_it_is_about_to_work_on_dead_letters(
    other_brokers: Brokers, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    kind = other_brokers.kind(name)
    broker = kind.plain()
    try:
        with as_global_broker(broker, RedisBackend(client=redis_client)):
            jobs = Jobs(broker)
            with running_worker(broker):
                assert Clutch().then(jobs.job.message("a")).run().get_result(block=True) == "a"
            assert "dead letters" not in caplog.text
            with running_worker(broker):
                assert "'default.XQ', which has dead letters" in caplog.text
    finally:
        kind.clear(broker)


@pytest.mark.usefixtures("one_at_a_time")
@pytest.mark.parametrize("name", REJECTING)
def test_what_is_sent_again_just_before_it_is_rejected_is_rejected_too(other_brokers: Brokers, name: str) -> None:
    """Without the middleware. A rejection changes the row of that id, whose message is another one by then."""
    began: list[str] = []
    with other_brokers.broker(name) as broker:

        @dramatiq.actor(broker=broker, throws=LookupError)
        def dies_once(who: str) -> None:
            began.append(who)
            if began.count(who) == 1:
                raise LookupError

        broker.add_middleware(AgainInTime(lambda message: broker.enqueue(message.copy())))
        with running_worker(broker, threads=1):
            dies_once.send("a")
            wait_until("it to be rejected", lambda: dead_letters(broker) == 1)
            dies_once.send("b")  # and what is sent later is worked on
            wait_until("the other one to be rejected", lambda: dead_letters(broker) == 2)
        broker.close()
    assert began == ["a", "b"]


@pytest.mark.usefixtures("one_at_a_time")
@pytest.mark.parametrize("name", REJECTING)
def test_a_run_that_is_retried_too_soon_stands_until_it_is_sent_again(
    other_brokers: Brokers, redis_client: redis.Redis, name: str
) -> None:
    with clutches(other_brokers, redis_client, name) as (broker, jobs):
        jobs.script["a"] = ["die"]
        run = Clutch().then(jobs.job.message("a")).run()
        broker.add_middleware(AgainInTime(lambda _: run.retry()))
        with running_worker(broker, threads=1):
            wait_until("it to be rejected", lambda: dead_letters(broker) == 1)
            assert Clutch().then(jobs.job.message("b")).run().get_result(block=True) == "b"
            assert run.status().state == "running"
            assert jobs.began == ["a", "b"]
            assert run.resend()
            state_is(run, "succeeded")


@pytest.mark.parametrize("name", ["sqlite"])
def test_what_a_dead_worker_has_fetched_does_not_come_again_until_its_run_is_sent_again(
    other_brokers: Brokers, redis_client: redis.Redis, name: str
) -> None:
    """A worker that is killed has consumers that nobody asks any more."""
    with clutches(other_brokers, redis_client, name) as (broker, jobs):
        run = Clutch().then(jobs.job.message("a")).run()
        assert next(broker.consume("default")) is not None
        assert next(broker.consume("default")) is None
        with running_worker(broker):
            assert Clutch().then(jobs.job.message("b")).run().get_result(block=True) == "b"
            assert jobs.began == ["b"]
            assert run.resend()
            assert run.get_result(block=True) == "a"


@pytest.mark.parametrize("name", ["sqlite"])
def test_what_a_worker_has_not_begun_when_it_stops_is_not_put_back(tmp_path: Path, name: str) -> None:
    package = pytest.importorskip(f"dramatiq_{name}")
    broker = package.SQLiteBroker(url=f"sqlite://{tmp_path}/queue.db")
    broker.enqueue(dramatiq.Message(queue_name="default", actor_name="job", args=(), kwargs={}, options={}))
    consumer = broker.consume("default")
    with pytest.raises(sqlite3.OperationalError, match="syntax error"):
        consumer.requeue([next(consumer)])
    assert next(broker.consume("default")) is None


@contextmanager
def clutches(brokers: Brokers, client: redis.Redis, name: str) -> Iterator[tuple[dramatiq.Broker, Jobs]]:
    """A broker with the middleware, and actors."""
    with brokers.broker(name) as broker, as_global_broker(broker, RedisBackend(client=client)):
        yield broker, Jobs(broker)
