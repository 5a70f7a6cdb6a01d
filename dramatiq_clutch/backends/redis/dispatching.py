"""What a `RedisBroker` does by its own script, and what that script takes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from dramatiq.brokers.redis import RedisBroker
from dramatiq.common import current_millis
from redis.exceptions import NoScriptError

from . import resp
from .along import Along, Bunch


class Dispatch:
    """The script of one broker, which is called `dispatch` there.

    Parameters:
      broker: the broker.
    """

    def __init__(self, broker: RedisBroker) -> None:
        self.broker = broker

    def fetch(self, queue: str, count: int) -> Sequence[bytes]:
        """Fetch messages of a queue. In a round trip with what other threads send, for these threads record what they
        have done at that moment."""
        broker = self.broker
        script = broker.scripts["dispatch"].sha
        try:
            found = resp.ask(
                broker.client, ("EVALSHA", script, 1, broker.namespace, *self.arguments("fetch", queue, count))
            )
        except NoScriptError:
            found = broker.do_fetch(queue, count)
        return [message for message in found if message is not None]

    def acking(self, queue: str, in_queue: str, bunch: Bunch | None = None) -> Along:
        """What acks the message with this id in its queue, along with the record of its attempt; and fetches a bunch,
        if one is given."""
        ack = self.arguments("ack", queue, in_queue, maintains=0)  # as for the broker's acks
        along = Along(self.text, self.broker.namespace, ack, queue)
        return along if bunch is None else self.fetching(along, bunch)

    def fetching(self, along: Along, bunch: Bunch) -> Along:
        """What goes along with a record, and also fetches a bunch."""
        fetch = self.arguments("fetch", bunch.queue, len(bunch.ids)) if bunch.ids else ()
        return along._replace(bunch=bunch, fetch=fetch, queue=f"{self.broker.namespace}:{bunch.queue}")

    def maintain(self, queue: str) -> None:
        """Do maintenance of a queue, by a command of the broker's script that does nothing else here: there are no
        messages to put back."""
        arguments = self.arguments("requeue", queue, maintains=1)
        self.broker.scripts["dispatch"](keys=[self.broker.namespace], args=arguments)

    def arguments(self, command: str, queue: str, *more: Any, maintains: int | None = None) -> list[Any]:
        """What the broker's script takes for a command. Whether it `maintains` the queue, too, is 1 or 0; by default
        that is left to chance, as the broker does."""
        broker = self.broker
        return [
            command,
            current_millis(),
            queue,
            broker.broker_id,
            broker.heartbeat_timeout,
            broker.dead_message_ttl,
            broker._should_do_maintenance(command) if maintains is None else maintains,
            broker._max_unpack_size(),
            *more,
        ]

    @property
    def text(self) -> str:
        """The text of the broker's script; the same object each time, for it is looked up by it."""
        text: Any = self.broker.scripts["dispatch"].script
        return _decoded(text) if isinstance(text, bytes) else text


@cache
def _decoded(text: bytes) -> str:
    return text.decode()
