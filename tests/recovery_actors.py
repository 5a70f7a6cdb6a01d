"""Actors for real worker processes that get killed. Their broker finds dead workers within two seconds."""

from __future__ import annotations

import os
import time

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from dramatiq_clutch import ClutchMiddleware, previous_results


def make_broker(url: str) -> RedisBroker:
    broker = RedisBroker(url=url, heartbeat_timeout=2_000, maintenance_chance=1_000_000)
    broker.add_middleware(ClutchMiddleware(lease=1_000, sweep_interval=200))
    return broker


if "REDIS_URL" in os.environ:
    broker = make_broker(os.environ["REDIS_URL"])
    dramatiq.set_broker(broker)

    @dramatiq.actor(broker=broker)
    def count() -> int:
        time.sleep(0.05)  # the work
        broker.client.incr("counted")
        return 1

    @dramatiq.actor(broker=broker)
    def add() -> int:
        return sum(previous_results())
