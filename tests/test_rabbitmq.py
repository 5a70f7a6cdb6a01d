"""What is RabbitMQ's own, on a real server: a restart, redelivery, delay queues, priorities. What holds on every broker
is shown with `CLUTCH_TESTS_BROKERS=rabbitmq`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from dramatiq_clutch import Clutch, RedisBackend, previous_results
from tests.conftest import as_global_broker, running_worker
from tests.support.awaiting import wait_until
from tests.support.jobs import Jobs
from tests.support.programs import Missing
from tests.support.rabbitmq import RabbitMQ

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def rabbitmq() -> Iterator[RabbitMQ]:
    try:
        server = RabbitMQ()
    except Missing as error:
        pytest.skip(str(error))
    with server:
        yield server


@pytest.fixture
def rabbitmq_broker(rabbitmq: RabbitMQ, redis_client: redis.Redis) -> Iterator[RabbitmqBroker]:
    with on(rabbitmq, redis_client) as broker:
        yield broker


@contextmanager
def on(rabbitmq: RabbitMQ, client: redis.Redis, **options: Any) -> Iterator[RabbitmqBroker]:
    """A broker with the middleware, and no queue when it is over. Runs are kept on the session's server."""
    broker = rabbitmq.broker(confirm_delivery=True, **options)
    with as_global_broker(broker, RedisBackend(client=client)):
        yield broker
    with rabbitmq.channel() as channel:
        for queue in broker.get_declared_queues():
            for name in (queue, f"{queue}.DQ", f"{queue}.XQ"):
                channel.queue_delete(name)


def test_a_restart_of_the_server_in_the_middle_loses_no_run(
    rabbitmq: RabbitMQ, rabbitmq_broker: RabbitmqBroker
) -> None:
    """Killed, as by a power cut: its queues are durable, its messages persistent, and publishing is confirmed."""

    @dramatiq.actor
    def number(value: int) -> int:
        time.sleep(0.01)  # so that the server is killed while jobs are at work
        return value

    @dramatiq.actor
    def total() -> int:
        return sum(previous_results())

    clutch = Clutch().parallel(number.message(value) for value in range(4)).then(total).then(number, pipe=True)
    with running_worker(rabbitmq_broker, threads=4):
        runs = [clutch.run() for _ in range(30)]
        wait_until("a few to have ended", lambda: sum(run.status().state == "succeeded" for run in runs) > 3)
        rabbitmq.restart()
        runs += [clutch.run() for _ in range(3)]
        assert [run.get_result(block=True) for run in runs] == [6] * 33


def test_what_a_consumer_leaves_unacked_comes_again_and_counts_once(rabbitmq_broker: RabbitmqBroker) -> None:
    jobs = Jobs(rabbitmq_broker)
    run = Clutch().parallel(jobs.job.message(name) for name in "ab").then(jobs.total).run()
    consumer = rabbitmq_broker.consume("default", prefetch=2)
    fetched: list[Any] = []
    while len(fetched) < 2:
        fetched += [message for message in [next(consumer)] if message is not None]
    consumer.close()
    with running_worker(rabbitmq_broker):
        assert run.get_result(block=True) == ["a", "b"]
    assert jobs.counts() == Counter(["a", "b", "total"])


def test_an_ack_that_is_lost_after_the_success_brings_the_message_again_and_it_is_skipped(
    rabbitmq_broker: RabbitmqBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = Jobs(rabbitmq_broker)
    skipped: list[str] = []

    class Notes(dramatiq.Middleware):
        def after_skip_message(self, broker: dramatiq.Broker, message: Any) -> None:
            skipped.append(message.args[0])

    rabbitmq_broker.add_middleware(Notes())
    kind: Any = rabbitmq_broker.consumer_class
    ack, lost = kind.ack, list[str]()

    def loses(consumer: Any, message: Any) -> None:
        if not lost and message.args[:1] == ("a",):
            lost.append("a")
            # What is unacked comes again. A worker's thread may not close it itself: pika's connections are of one
            # thread, and one that two of them close at once can leave the consumer's waiting for ever.
            consumer.connection.add_callback_threadsafe(consumer.connection.close)
            return
        ack(consumer, message)

    monkeypatch.setattr(kind, "ack", loses)
    run = Clutch().parallel(jobs.job.message(name) for name in "ab").then(jobs.total).run()
    with running_worker(rabbitmq_broker):
        assert run.get_result(block=True) == ["a", "b"]
        wait_until("the copy to be skipped", lambda: "a" in skipped)
    assert jobs.counts() == Counter(["a", "b", "total"])


def test_delayed_runs_jobs_and_retries_wait_in_the_delay_queue(rabbitmq_broker: RabbitmqBroker) -> None:
    jobs = Jobs(rabbitmq_broker)
    jobs.script["again"] = ["fail"]
    delayed = jobs.job.message_with_options(args=("delayed",), delay=300)
    began = time.monotonic()
    clutch = Clutch().then(jobs.job.message("again")).parallel(delayed, jobs.job.message("beside")).then(jobs.total)
    run = clutch.run(delay=300)
    assert rabbitmq_broker.get_queue_message_counts("default")[0] == 0
    with running_worker(rabbitmq_broker):
        assert run.get_result(block=True) == ["delayed", "beside"]
    assert time.monotonic() - began >= 0.6
    assert jobs.counts()["again"] == 2


def test_priorities_of_the_server_are_those_of_its_jobs(rabbitmq: RabbitMQ, redis_client: redis.Redis) -> None:
    with on(rabbitmq, redis_client, max_priority=10) as broker:
        jobs = Jobs(broker)
        steps = [jobs.job.message_with_options(args=(str(one),), broker_priority=one) for one in (1, 5, 9)]
        run = Clutch().parallel(steps).run()
        wait_until("all are queued", lambda: broker.get_queue_message_counts("default")[0] == 3)
        with running_worker(broker, threads=1):
            assert run.get_result(block=True) == ["1", "5", "9"]
        assert jobs.began == ["9", "5", "1"]
