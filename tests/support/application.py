"""A broker with the middleware on it and settings of the test's own, the global one for as long as it is needed."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import TimeLimit

from dramatiq_clutch import ClutchMiddleware
from dramatiq_clutch.backend import ClutchBackend
from dramatiq_clutch.backends import RedisBackend, StubBackend
from dramatiq_clutch.engine import Engine, engine_of
from tests.support.keyspace import NAMESPACE

#: In seconds.
A_DAY = 86_400


@dataclass(frozen=True)
class Application:
    """The broker with its middleware; `sweeps` has the id of a run for each look that a sweeper takes at it."""

    broker: Any
    middleware: ClutchMiddleware
    sweeps: list[str]

    @property
    def engine(self) -> Engine:
        return engine_of(self.broker)

    def sweep(self) -> int:
        return self.middleware.sweep(self.broker)

    def index(self) -> dict[str, float]:
        """The runs that a sweeper will look at, and when."""
        backend = self.engine.backend
        if isinstance(backend, StubBackend):
            found = backend.keyspace.values.get(self.index_key.encode(), {}).items()
        else:
            found = self.broker.client.zrange(self.index_key, 0, -1, withscores=True)
        return {run_id.decode(): at for run_id, at in found}

    @property
    def index_key(self) -> str:
        return f"{NAMESPACE}:index:{self.engine.application}"


@contextmanager
def application(client: redis.Redis | None, **settings: Any) -> Iterator[Application]:
    """A real broker over this client, or one in memory without one. A sweeper's lease and interval are short, unless
    the settings of the middleware say otherwise."""
    broker: dramatiq.Broker
    backend: ClutchBackend
    if client is None:
        broker, backend = StubBroker(), StubBackend()
    else:
        broker, backend = (
            RedisBroker(client=client, namespace=f"app-{uuid.uuid4().hex[:8]}"),
            RedisBackend(client=client),
        )
    middleware = ClutchMiddleware(backend, **{"lease": 300, "sweep_interval": 100, **settings})
    broker.add_middleware(middleware)
    sweeps: list[str] = []
    works = backend.sweep

    def sweep(run_id: str, *args: Any, **more: Any) -> Any:
        sweeps.append(run_id)
        return works(run_id, *args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dramatiq.broker.global_broker", broker)
        patch.setattr(backend, "sweep", sweep)
        broker.emit_after("process_boot")
        yield Application(broker, middleware, sweeps)
        close(broker)


def close(broker: dramatiq.Broker) -> None:
    """Close a broker, and have the thread of its TimeLimit sleep, if it has begun: Dramatiq lets it look for late jobs
    every second for as long as the process lives."""
    broker.close()
    for hook in broker.middleware:
        if isinstance(hook, TimeLimit):
            manager: Any = hook.manager
            manager.interval = A_DAY
