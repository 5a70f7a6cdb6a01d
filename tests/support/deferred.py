"""A worker process whose records are deferred for as long as a test wants, so that it can be killed meanwhile.

A worker that imports this module (`Worker(deferred.__name__, env=deferred.env(url, held=True))`) has the broker and the
actor.
"""

from __future__ import annotations

import os
from typing import Any

import dramatiq
import dramatiq.worker
from dramatiq.brokers.redis import RedisBroker

from dramatiq_clutch import Clutch, ClutchMiddleware
from dramatiq_clutch.backends.redis import deferring
from dramatiq_clutch.backends.redis.deferring import Deferring

URL, HELD = "TESTS_DEFERRED_URL", "TESTS_DEFERRED_HELD"

#: A hash: how often each job has begun. And how many records are deferred.
BEGAN, DEFERRED = "began", "deferred"

#: How many jobs the stage has.
COUNT = 20


def env(url: str, *, held: bool = False) -> dict[str, str]:
    return {URL: url, HELD: "1" if held else ""}


def make_broker(url: str) -> Any:
    broker = RedisBroker(url=url, heartbeat_timeout=2_000, maintenance_chance=1_000_000)
    broker.add_middleware(ClutchMiddleware(sweep_interval=100, lease=1_000))

    @dramatiq.actor(broker=broker)
    def job(number: int) -> int:
        broker.client.hincrby(BEGAN, str(number), 1)
        return number

    return broker


def clutch(broker: Any) -> Clutch:
    job = broker.get_actor("job")
    return Clutch(broker=broker).parallel(job.message(number) for number in range(COUNT))


def _hold(broker: Any) -> None:
    """Have the worker prefetch all messages. Nobody makes its records, but it is told how many there are."""

    def tell(one: Deferring) -> None:
        broker.client.set(DEFERRED, len(one._deferred), ex=3_600)  # noqa: SLF001

    patched: Any = Deferring
    patched._is_time, patched._make_late = lambda one, worker, is_all: False, tell  # noqa: SLF001
    deferring.SHORT = 3_600_000
    dramatiq.worker.QUEUE_PREFETCH = 2 * COUNT


if URL in os.environ:
    the_broker = make_broker(os.environ[URL])
    dramatiq.set_broker(the_broker)
    if os.environ[HELD]:
        _hold(the_broker)
