"""Has a `RedisBroker` redeliver at once what workers that have died leave unacked.

Dramatiq's script does that whenever it does maintenance, which comes along with one command in a thousand. On an idle
system that takes minutes. So a worker's sweeper looks for workers that have been silent for the heartbeat timeout, and
if one has left anything in a queue, it asks the broker's own script for maintenance of that queue.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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

    def unknown_holders(self, known: Collection[str]) -> Mapping[str, Sequence[str]]:
        """The living workers that hold messages, but for the known ones, each with the queues that these are of.
        Raises what the client raises."""
        client: Any = self._broker.client
        begin = current_millis() - self._broker.heartbeat_timeout
        living = client.zrangebyscore(f"{self._broker.namespace}:__heartbeats__", begin, "+inf")
        others = [name for name in map(_text, living) if name not in known]
        found: dict[str, list[str]] = {}
        for name, queue in self._holding(others, sorted(self._broker.get_declared_queues())):
            found.setdefault(name, []).append(queue)
        return found

    def _left_by(self, workers: Sequence[Any], queues: Sequence[str]) -> list[str]:
        """The queues in which any of these workers has left something unacked. Most of them are producers, which have
        a heartbeat like workers, and nothing to ack."""
        return list(dict.fromkeys(queue for _, queue in self._holding(list(map(_text, workers)), queues)))

    def _holding(self, workers: Sequence[str], queues: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Each of these workers with each of these queues of which it has fetched something that isn't acked."""
        asked = [(worker, queue) for worker in workers for queue in queues]
        for start in range(0, len(asked), CHUNK):
            some = asked[start : start + CHUNK]
            pipe: Any = self._broker.client.pipeline(transaction=False)
            for worker, queue in some:
                pipe.smembers(f"{self._broker.namespace}:__acks__.{worker}.{queue}")
            yield from (one for one, left in zip(some, pipe.execute(), strict=True) if left)


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)
