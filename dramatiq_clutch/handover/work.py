"""What doing a duty is made of: steps that yield what has to be done before they go on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from ..backend import Caller, Reply

#: How many members are sent between two confirmations.
CHUNK = 1_000


@dataclass(frozen=True, slots=True)
class Caused:
    """What doing a duty has caused: a transition of a run, whose `reply` has duties for this `caller`."""

    run_id: str
    reply: Reply
    caller: Caller


#: A duty's work. It yields what has to be done before it goes on, be it other work or what that has caused: what is
#: owed is confirmed only after all that follows from it is done, however deep runs nest, and without deep recursion.
Work: TypeAlias = "Iterator[Work | Caused]"


def chunks(start: int, end: int) -> Iterator[tuple[int, int]]:
    for at in range(start, end, CHUNK):
        yield at, min(at + CHUNK, end)
