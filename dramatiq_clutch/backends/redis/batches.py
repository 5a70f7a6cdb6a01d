"""Messages that are ready to be sent to a `RedisBroker`: in batches, each of one round trip, and in groups, each of one
call of a script."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from dramatiq import Message
from dramatiq.common import current_millis, dq_name

from ...courier import Outgoing, encoded
from ...stored.messages import changed
from ...tokens import new_token
from .bunches import OWN

#: How many messages travel in one round trip at most, and how many bytes (a single message may have more). So the
#: memory that sending takes doesn't grow with the number of messages to send.
CHUNK, MOST_BYTES = 500, 1_000_000

#: How many messages one call of a script sends at most, and how many bytes of them (a single message may have more).
#: So the server is never busy for long with one call, and no call is so large that the server may refuse it.
TOGETHER, TOGETHER_BYTES = 100, 100_000

#: The position, among what the broker's script takes, of whether it maintains the queue, too; counted from 1.
MAINTAINS = 7


class Ready(NamedTuple):
    """A message that is ready to be sent: with its delay, and its bytes."""

    message: Message[Any]
    delay: int | None
    data: bytes

    @property
    def id(self) -> str:
        """The id that this copy of the message gets in its queue."""
        return str(self.message.options["redis_message_id"])

    @classmethod
    def of(cls, message: Message[Any], delay: int | None) -> Ready:
        """Raises HandOverFailed if the message can't be encoded."""
        return cls(message, delay, encoded(message))


def prepared(message: Message[Any], delay: int | None) -> Outgoing:
    """A message as `RedisBroker.enqueue` would prepare it: each copy gets an id of its own, and an eta if it is
    delayed."""
    in_queue = f"{message.message_id}{OWN}{new_token(12)}"
    options: dict[str, Any] = {**message.options, "redis_message_id": in_queue}
    if delay is None:
        return changed(message, options=options), None
    options["eta"] = current_millis() + delay
    return changed(message, queue_name=dq_name(message.queue_name), options=options), delay


def batches(ready: Iterable[Ready]) -> Iterator[Sequence[Ready]]:
    """The messages in batches, each of which is sent in one round trip."""
    batch, size = list[Ready](), 0
    for one in ready:
        batch.append(one)
        size += len(one.data)
        if len(batch) == CHUNK or size >= MOST_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def groups(ready: Iterable[Ready]) -> Iterator[Sequence[Ready]]:
    """The messages in the groups that are sent by one call each: they follow one another, and go to one queue."""
    group, size = list[Ready](), 0
    for one in ready:
        length = len(one.data)
        is_other = group and group[0].message.queue_name != one.message.queue_name
        if group and (is_other or len(group) == TOGETHER or size + length > TOGETHER_BYTES):
            yield group
            group, size = [], 0
        group.append(one)
        size += length
    if group:
        yield group
