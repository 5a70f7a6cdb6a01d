"""What a broker does in the very step that records how a job ended, by its own script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...stored.duties import SendMembers


@dataclass(frozen=True, slots=True)
class Along:
    """What goes along with a record: the broker's own `script` is called, with one `key`, once for each of the lists of
    arguments that isn't empty.

    Parameters:
      ack: arguments to ack the message whose attempt is recorded. The last of them is its id in its queue.
      acked_in: the name of that queue.
      duty: the duty that the record may cause, and whose message is then sent.
      enqueue: arguments to send the duty's message.
      fetch: arguments to fetch it at once, for a worker of this process.
      queue: the key of the list in which the duty's message then stands.
      in_queue: its id in that list.
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
