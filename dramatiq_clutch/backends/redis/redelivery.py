"""Has a `RedisBroker` redeliver at once what workers that have died leave unacked.

Dramatiq's script does that whenever it does maintenance, which comes along with one command in a thousand. On an idle
system that takes minutes. So a worker's sweeper looks for workers that have been silent for the heartbeat timeout, and
if one has left anything in a queue, it asks the broker's own script for maintenance of that queue.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dramatiq.brokers.redis import RedisBroker
from dramatiq.common import current_millis

#: How many questions go in one round trip.
CHUNK = 500


class Redelivery:
    """Looks after the queues that a broker has declared, and their delay queues. It only uses commands that Dramatiq's
    script calls, too, so that whoever may use the broker may do this.

    Parameters:
      broker: the broker.
      maintain: has the broker's script do maintenance of the queue with this name.
    """

    def __init__(self, broker: RedisBroker, maintain: Callable[[str], object]) -> None:
        self._broker, self._maintain = broker, maintain
        self._seen: tuple[Sequence[str], int] = ((), 0)  # the queues, and until when silent workers were looked for

    def look(self) -> None:
        """Look for workers that have fallen silent since the last look, or ever if there are other queues now. That is
        one command as long as there are none. Raises what the client raises; the next look then repeats this one."""
        broker = self._broker
        queues = sorted(broker.get_declared_queues() | broker.get_declared_delay_queues())
        silent_at = current_millis() - broker.heartbeat_timeout
        since = self._seen[1] if self._seen[0] == queues else 0
        client: Any = broker.client
        silent = client.zrangebyscore(f"{broker.namespace}:__heartbeats__", since, silent_at)
        for queue in self._left_by(silent, queues):
            self._maintain(queue)
        self._seen = queues, silent_at

    def _left_by(self, workers: Sequence[Any], queues: Sequence[str]) -> list[str]:
        """The queues in which any of these workers has left something unacked. Most of them are producers, which have
        a heartbeat like workers, and nothing to ack."""
        names = [worker.decode() if isinstance(worker, bytes) else worker for worker in workers]
        asked = [(f"{self._broker.namespace}:__acks__.{name}.{queue}", queue) for name in names for queue in queues]
        found: dict[str, None] = {}
        for start in range(0, len(asked), CHUNK):
            pipe: Any = self._broker.client.pipeline(transaction=False)
            for key, _ in asked[start : start + CHUNK]:
                pipe.smembers(key)
            answers = pipe.execute()
            found |= dict.fromkeys(
                queue for (_, queue), left in zip(asked[start : start + CHUNK], answers, strict=True) if left
            )
        return list(found)
