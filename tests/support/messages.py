"""What a broker has, of either kind."""

from __future__ import annotations

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker


def on_their_way(broker: dramatiq.Broker, queue: str = "default") -> int:
    """How many messages of a queue are queued, or at work."""
    if isinstance(broker, StubBroker):
        return int(broker.queues[queue].unfinished_tasks)
    assert isinstance(broker, RedisBroker)
    return int(broker.client.hlen(f"{broker.namespace}:{queue}.msgs"))


def dead_letters(broker: dramatiq.Broker, queue: str = "default") -> int:
    """How many messages of a queue are dead letters."""
    if isinstance(broker, StubBroker):
        return len(broker.dead_letters_by_queue[queue])
    assert isinstance(broker, RedisBroker)
    return int(broker.client.zcard(f"{broker.namespace}:{queue}.XQ"))
