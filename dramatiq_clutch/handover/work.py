"""How the work of a duty is written: as generators that yield what has to be done before they go on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from ..backend import Caller, Reply

#: How many members are sent between two confirmations of a duty, at most.
CHUNK = 1_000


@dataclass(frozen=True, slots=True)
class Caused:
    """A transition that doing a duty has caused, of this or another run. Its `reply` has duties for this `caller`."""

    run_id: str
    reply: Reply
    caller: Caller


#: The work of a duty. It yields other work, or a transition that it has caused, and goes on when all that follows from
#: that is done. So a duty is confirmed only after everything that it causes, and runs may be nested deeply, because
#: `doing.hand_over` keeps the work on a list and doesn't recurse.
Work: TypeAlias = "Iterator[Work | Caused]"


def chunks(start: int, end: int) -> Iterator[tuple[int, int]]:
    """The range `start` ≤ i < `end` in pieces of at most CHUNK."""
    for at in range(start, end, CHUNK):
        yield at, min(at + CHUNK, end)
