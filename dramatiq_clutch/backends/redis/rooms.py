"""What place a worker has for messages that are fetched for it, and how it gets them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from dramatiq import Message, MessageProxy, Worker


class Fetched(MessageProxy):
    """A message that was fetched for a worker. A plain `MessageProxy` asks its message for a field only after it has
    looked for an attribute of its own, and has made an error because there is none: 35 times for each job. This one has
    the fields of its message as attributes of its own. As with a plain one, they can be assigned."""

    @property
    def _message(self) -> Message[Any]:
        message: Message[Any] = vars(self)["_message"]
        return message

    @_message.setter
    def _message(self, message: Message[Any]) -> None:
        """A middleware may put another message in the place of the first."""
        vars(self).update(vars(message), _message=message)


class Room(NamedTuple):
    """Place that a worker has for messages of one queue: so many `threads` have nothing to do, or are about to, and its
    consumer may fetch so many `ahead`."""

    consumer_thread: Any
    consumer: Any
    threads: int
    ahead: int

    @contextmanager
    def reserved(self) -> Iterator[None]:
        """Meanwhile all of the place ahead counts as prefetched, so that nobody else fetches anything for it."""
        places: set[Any] = {object() for _ in range(self.ahead)}
        self.consumer.queued_message_ids.update(places)
        try:
            yield
        finally:
            self.consumer.queued_message_ids.difference_update(places)

    def hold(self, message: Message[Any]) -> MessageProxy:
        """Count a message that has been fetched for the worker as prefetched."""
        self.consumer.queued_message_ids.add(message.message_id)
        self.consumer.misses = 0  # as if it had found the message itself: so it looks again soon
        return Fetched(message)

    def put(self, message: bytes) -> None:
        """Give the worker a message that has been fetched for it."""
        self.give(self.hold(Message.decode(message)))

    def give(self, held: MessageProxy) -> None:
        """Give the worker a message that is held for it."""
        self.consumer_thread.handle_message(held)


def consumer_of(worker: Worker, queue: str) -> tuple[Any, Any] | None:
    """The thread of a worker's consumer of a queue, and the consumer; None if there is none, or it doesn't fetch at
    present."""
    thread: Any = worker.consumers.get(queue)
    consumer: Any = getattr(thread, "consumer", None)
    is_there = hasattr(consumer, "queued_message_ids") and not thread.paused and thread.running
    return (thread, consumer) if is_there else None
