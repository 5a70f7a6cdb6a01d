"""What a broker does in the very step that records how a job ended, by its own script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...stored.duties import SendMembers


@dataclass(slots=True)
class Bunch:
    """Messages that a worker fetches along with a record, if they still are the first in their queue; and what has come
    of it.

    Parameters:
      queue: the name of the queue.
      ids: the ids in that queue of the messages, in order. If there are none, nothing is fetched.
      looks: how many of those that are first in the queue afterwards are told.

    `asked`: whether the server may have been asked; it is asked only once, though a record may be made again. `done`:
    whether it has answered. Then `messages` are those that it has fetched (None for one of which only the id was
    there): all of them or none; and `first` has the ids that are first in the queue now.
    """

    queue: str
    ids: Sequence[str]
    looks: int
    asked: bool = False
    done: bool = False
    messages: Sequence[bytes | None] = ()
    first: Sequence[str] = ()

    def answer(self, told: bytes) -> None:
        """The server has answered in three lines: with the ids that are first in the queue; with the lengths of the
        messages that it has fetched, "-" for one that wasn't there; and with these messages, one behind the other."""
        first, lengths, found = told.split(b"\n", 2)
        messages, at = list[bytes | None](), 0
        for length in lengths.split():
            end = at if length == b"-" else at + int(length)
            messages.append(None if length == b"-" else found[at:end])
            at = end
        self.messages, self.first, self.done = messages, first.decode().split(), True


class Along(NamedTuple):
    """What goes along with a record: the broker's own `script` is called, with one `key`, once for each of the lists of
    arguments that isn't empty.

    Parameters:
      ack: arguments to ack the message whose attempt is recorded. The last of them is its id in its queue.
      acked_in: the name of that queue.
      duty: the duty that the record may cause, and whose message is then sent.
      enqueue: arguments to send the duty's message.
      fetch: arguments to fetch it at once, for a worker of this process; or to fetch the `bunch`.
      queue: the key of the list in which the duty's message then stands, or those of the `bunch` do.
      in_queue: the id of the duty's message in that list.
      bunch: the messages that are fetched along with a record in the common case.
    """

    script: str
    key: str
    ack: Sequence[Any] = ()
    acked_in: str = ""
    duty: SendMembers | None = None
    enqueue: Sequence[Any] = ()
    fetch: Sequence[Any] = ()
    queue: str = ""
    in_queue: str = ""
    bunch: Bunch | None = None
