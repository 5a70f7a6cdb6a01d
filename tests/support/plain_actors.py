"""Plain Dramatiq actors, for worker processes that have never heard of the library."""

from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker

NOTES = "notes"
GATE = "gate"

broker = RedisBroker(url=os.environ["REDIS_URL"])
dramatiq.set_broker(broker)


@dramatiq.actor
def note(text: str) -> None:
    broker.client.rpush(NOTES, text)


@dramatiq.actor
def note_twice(text: str) -> None:
    """Note that it has begun, wait for somebody to open the gate, note that it's done."""
    broker.client.rpush(NOTES, f"{text} begun")
    while not broker.client.get(GATE):
        broker.client.blpop("nothing", timeout=0.05)
    broker.client.rpush(NOTES, f"{text} done")
