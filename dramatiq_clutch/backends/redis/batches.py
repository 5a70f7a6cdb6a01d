"""Messages that are ready to be sent to a `RedisBroker`: in batches, each of one round trip, and in groups, each of one
call of a script."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from dramatiq import Message
from dramatiq.common import current_millis, dq_name

from ...courier import Outgoing, Written, encoded
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
    """A message that is ready to be sent: the queue that it goes to, the id that this copy gets there, its bytes, and
    its delay; and the message itself, if a hook may have to see it."""

    queue: str
    id: str
    data: bytes
    delay: int | None = None
    message: Message[Any] | None = None

    @classmethod
    def of(cls, message: Message[Any], delay: int | None) -> Ready:
        """Raises HandOverFailed if the message can't be encoded."""
        return cls(message.queue_name, str(message.options["redis_message_id"]), encoded(message), delay, message)

    @classmethod
    def written(cls, one: Written) -> Ready:
        """A copy of a message that is written already."""
        in_queue = _new_id(one.message_id)
        return cls(one.queue, in_queue, b"%b%b%b" % (one.before, in_queue.encode(), one.after))


def prepared(message: Message[Any], delay: int | None) -> Outgoing:
    """A message as `RedisBroker.enqueue` would prepare it: each copy gets an id of its own, and an eta if it is
    delayed."""
    options: dict[str, Any] = {**message.options, "redis_message_id": _new_id(message.message_id)}
    if delay is None:
        return changed(message, options=options), None
    options["eta"] = current_millis() + delay
    return changed(message, queue_name=dq_name(message.queue_name), options=options), delay


def _new_id(message_id: str) -> str:
    """The id that a copy of a message gets in its queue."""
    return f"{message_id}{OWN}{new_token(12)}"


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
        is_other = group and group[0].queue != one.queue
        if group and (is_other or len(group) == TOGETHER or size + length > TOGETHER_BYTES):
            yield group
            group, size = [], 0
        group.append(one)
        size += length
    if group:
        yield group
