"""The fixtures that Dramatiq's tests ask for. Its source distribution has the tests without them, and so this file
becomes their `conftest.py`. What needs RabbitMQ is skipped."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.rate_limits import RateLimiterBackend
from dramatiq.rate_limits import backends as limits
from dramatiq.results import ResultBackend
from dramatiq.results import backends as results

StartCli = Callable[..., "subprocess.Popen[Any]"]


def in_use(broker: dramatiq.Broker) -> Iterator[Any]:
    """A broker that is the global one for a test."""
    dramatiq.set_broker(broker)
    broker.emit_after("process_boot")
    yield broker
    broker.flush_all()
    broker.close()


def at_work(broker: dramatiq.Broker) -> Iterator[dramatiq.Worker]:
    worker = dramatiq.Worker(broker, worker_timeout=100, worker_threads=32)
    worker.start()
    yield worker
    worker.stop()


@pytest.fixture
def stub_broker() -> Iterator[StubBroker]:
    yield from in_use(StubBroker())


@pytest.fixture
def stub_worker(stub_broker: StubBroker) -> Iterator[dramatiq.Worker]:
    yield from at_work(stub_broker)


@pytest.fixture
def redis_broker() -> Iterator[RedisBroker]:
    broker = RedisBroker()
    broker.client.flushall()
    yield from in_use(broker)


@pytest.fixture
def redis_worker(redis_broker: RedisBroker) -> Iterator[dramatiq.Worker]:
    yield from at_work(redis_broker)


@pytest.fixture
def rabbitmq_broker() -> None:
    pytest.skip("there is no RabbitMQ")


@pytest.fixture
def rabbitmq_worker(rabbitmq_broker: None) -> None:
    """Skipped with its broker."""


@pytest.fixture
def redis_result_backend() -> ResultBackend:
    backend: ResultBackend = results.RedisBackend()
    return backend


@pytest.fixture(params=["redis", "stub"])
def result_backend(request: pytest.FixtureRequest) -> ResultBackend:
    backend: ResultBackend = results.RedisBackend() if request.param == "redis" else results.StubBackend()
    return backend


@pytest.fixture(params=["redis", "stub"])
def rate_limiter_backend(request: pytest.FixtureRequest) -> RateLimiterBackend:
    if request.param == "stub":
        return limits.StubBackend()
    backend: Any = limits.RedisBackend()
    backend.client.flushall()
    return backend  # type: ignore[no-any-return]


@pytest.fixture
def start_cli() -> Iterator[StartCli]:
    """Starts Dramatiq's command line for a broker, by its name."""
    started: list[subprocess.Popen[Any]] = []

    def start(broker: str, *, extra_args: Sequence[str] = (), **options: Any) -> subprocess.Popen[Any]:
        started.append(subprocess.Popen([sys.executable, "-m", "dramatiq", broker, *extra_args], **options))
        return started[-1]

    yield start
    for process in started:
        process.terminate()
        process.wait()
