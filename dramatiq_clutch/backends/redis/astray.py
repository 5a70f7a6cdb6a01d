"""Messages that may have been fetched for a worker that doesn't know it, because the reply was lost.

Nobody works on such a message, and Dramatiq would redeliver it only when this process has ended. So it is put back into
its queue. But a consumer of this process may have fetched it by itself meanwhile, which looks the same on the server:
the message is among those that the process hasn't acked. Then it is being worked on, and would be done twice. The
consumer tells which messages it has, but only when the reply to its own fetch has come. So a message is put back when
it was unacked, and no consumer knew of it, at two looks that are longer apart than such a reply takes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dramatiq.brokers.redis import RedisBroker
from dramatiq.logging import get_logger

#: How many seconds lie between two looks. A fetch is a call of one short script, whose reply takes a millisecond or so.
PAUSE = 0.5

logger: logging.Logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Missing:
    """A message that may be astray: its queue, and its id there and elsewhere."""

    queue: str
    in_queue: str
    message_id: str


class Astray:
    """The messages of one broker that may be astray, and a thread that looks after them as long as there are any.

    Parameters:
      broker: the broker.
      has: whether a consumer of this process has the message with this id, of this queue. It knows a message whose
        record is deferred by the id in its queue.
    """

    def __init__(self, broker: RedisBroker, has: Callable[[str, str], bool]) -> None:
        self._broker, self._has = broker, has
        self._lock = threading.Lock()
        self._known: dict[str, Missing] = {}
        self._thread: threading.Thread | None = None

    def add(self, missing: Mapping[str, Missing]) -> None:
        """Look after these, by their ids in their queues."""
        if not missing:
            return
        with self._lock:
            self._known |= missing
            if self._thread is None:
                self._thread = threading.Thread(target=self._look_after, name="clutch-astray", daemon=True)
                self._thread.start()

    def _look_after(self) -> None:
        unknown, pause = set[str](), threading.Event()  # nobody sets it: it only waits
        while True:
            pause.wait(PAUSE)
            try:
                unknown = self.look(unknown)
            except Exception as error:  # whatever it is, these messages are looked after until it is over
                logger.debug("Messages that may be astray are looked at again later: %r", error)
            with self._lock:
                if not self._known:
                    self._thread = None
                    return

    def look(self, unknown: set[str]) -> set[str]:
        """Put back the messages that nobody knew of at the last look, either. Returns those that nobody knows of now.
        Raises what the broker raises."""
        found = set[str]()
        for one in list(self._known.values()):
            if not self._is_unacked(one):
                self._known.pop(one.in_queue)
            elif self._has(one.queue, one.message_id) or self._has(one.queue, one.in_queue):
                continue
            elif one.in_queue in unknown:
                self._broker.do_requeue(one.queue, one.in_queue)
                self._known.pop(one.in_queue)
            else:
                found.add(one.in_queue)
        return found

    def _is_unacked(self, one: Missing) -> bool:
        unacked = f"{self._broker.namespace}:__acks__.{self._broker.broker_id}.{one.queue}"
        return bool(self._broker.client.sismember(unacked, one.in_queue))
