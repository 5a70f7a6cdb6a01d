"""Workers that a test has shared work done by. Their sweepers look when somebody says so, and never by themselves."""

from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from dramatiq_clutch import ClutchMiddleware
from dramatiq_clutch.backends import RedisBackend


def make_broker(url: str) -> RedisBroker:
    broker = RedisBroker(url=url)
    broker.add_middleware(ClutchMiddleware(RedisBackend(client=broker.client), sweep_interval=3_600_000))
    return broker


if "REDIS_URL" in os.environ:
    broker = make_broker(os.environ["REDIS_URL"])
    dramatiq.set_broker(broker)

    @dramatiq.actor(broker=broker)
    def idle() -> None:
        """The workers listen to its queue, and not to the one that the test's jobs are in."""
