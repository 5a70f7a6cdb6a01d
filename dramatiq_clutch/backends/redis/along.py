"""What a broker does in the very step that records how a job ended, by its own script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...stored.duties import SendMembers


@dataclass(frozen=True, slots=True)
class Along:
    """What goes along with a record: the broker's own `script` is called, with one `key` and the arguments for each of
    these, unless there are none.

    Parameters:
      ack: to ack the message whose attempt is recorded. The last of them is its id in its queue,
      acked_in: which has this name.
      duty: the duty that the record may cause, whose message is then sent.
      enqueue: to send that.
      fetch: to fetch it at once, for a worker of this process.
      queue: the key of the list in which it then stands,
      in_queue: and its id there.
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
