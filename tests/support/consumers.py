"""Consumers that find only what a test lets them find."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

from dramatiq.brokers.redis import RedisBroker
from dramatiq.worker import _ConsumerThread  # as it is called in Dramatiq 1, and may be called in 2

from tests.support.awaiting import PATIENCE


class Consumers:
    """The consumers of a broker's workers, which look for messages only as long as the test lets them; and when they
    have slept for a long time, for Dramatiq's own don't sleep for ever either."""

    def __init__(self, broker: RedisBroker) -> None:
        self._asleep_until = 0.0
        self._lock = threading.Lock()
        self.fetched: Counter[str] = Counter()
        self._fetch: Any = broker.do_fetch
        broker.do_fetch = self  # type: ignore[attr-defined]

    def __call__(self, queue_name: str, prefetch: int) -> Any:
        """What Dramatiq asks for messages by. A worker's threads are no consumers."""
        is_consumer = isinstance(threading.current_thread(), _ConsumerThread)
        with self._lock:
            found = [] if is_consumer and time.monotonic() < self._asleep_until else self._fetch(queue_name, prefetch)
            self.fetched["consumer" if is_consumer else "other"] += len(found)
        return found

    def sleep(self) -> None:
        """From now on they find nothing."""
        with self._lock:
            self._asleep_until = time.monotonic() + PATIENCE / 3

    def wake(self) -> None:
        self._asleep_until = 0.0
