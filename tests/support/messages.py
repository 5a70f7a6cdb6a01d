"""What a broker has, of any kind."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.common import q_name


class Ledger(dramatiq.Middleware):
    """What was sent through a broker and not acked yet, for brokers that don't tell themselves. Whoever sends or works
    uses this very broker."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.unacked: Counter[str] = Counter()
        self.dead: Counter[str] = Counter()

    def after_enqueue(self, broker: dramatiq.Broker, message: Any, delay: int | None) -> None:
        with self._lock:
            self.unacked[q_name(message.queue_name)] += 1

    def after_ack(self, broker: dramatiq.Broker, message: Any) -> None:
        with self._lock:
            self.unacked[q_name(message.queue_name)] -= 1

    def after_nack(self, broker: dramatiq.Broker, message: Any) -> None:
        with self._lock:
            self.unacked[q_name(message.queue_name)] -= 1
            self.dead[q_name(message.queue_name)] += 1


def on_their_way(broker: dramatiq.Broker, queue: str = "default") -> int:
    """How many messages of a queue are queued, or at work."""
    if isinstance(broker, StubBroker):
        return int(broker.queues[queue].unfinished_tasks)
    if isinstance(broker, RedisBroker):
        return int(broker.client.hlen(f"{broker.namespace}:{queue}.msgs"))
    return _ledger(broker).unacked[queue]


def dead_letters(broker: dramatiq.Broker, queue: str = "default") -> int:
    """How many messages of a queue are dead letters."""
    if isinstance(broker, StubBroker):
        return len(broker.dead_letters_by_queue[queue])
    if isinstance(broker, RedisBroker):
        return int(broker.client.zcard(f"{broker.namespace}:{queue}.XQ"))
    return _ledger(broker).dead[queue]


def _ledger(broker: dramatiq.Broker) -> Ledger:
    (ledger,) = (one for one in broker.middleware if isinstance(one, Ledger))
    return ledger
