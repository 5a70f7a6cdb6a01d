"""How the callbacks of a run stand, as `show` prints them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dramatiq_clutch.terminal import at, cut, faint

from .text import table

if TYPE_CHECKING:
    from dramatiq_clutch import CallbackStatus

HEADS = ("CALLBACK", "STATE", "ACTOR", "WHEN")

#: How many are printed, at most, and how many cells an actor takes.
MOST, MOST_NAME = 20, 40

#: The events that come once for each stage.
OF_STAGES = ("on_failure", "on_death")


def callback_lines(callbacks: Sequence[CallbackStatus], most: int | None) -> Iterator[str]:
    """A line for each callback, with an empty one before them; nothing if there are none."""
    if callbacks:
        yield ""
        yield from table(HEADS, map(callback_row, callbacks[:MOST]), states=1, most=most)
    if len(callbacks) > MOST:
        yield faint(f"and {len(callbacks) - MOST:,} more callbacks: --json has them all")


def callback_row(one: CallbackStatus) -> Sequence[str]:
    """The cells of a callback."""
    queue = f" (queue {one.queue})" if one.queue not in (None, "default") else ""
    return one.event, one.state or "unknown", cut(one.actor or "?", MOST_NAME) + queue, _when(one)


def _when(one: CallbackStatus) -> str:
    """When it was sent, or since when it is owed; when it has ended; and how often its event has come."""
    said = [f"since {at(one.owed)}"] if one.state == "owed" and one.owed is not None else []
    said += [f"sent {at(one.sent)}"] if one.sent is not None else []
    said += ["couldn't be sent"] if one.state == "dead" and one.sent is None else []
    said += [f"ended {at(one.ended)}"] if one.ended is not None else []
    said += [f"{one.count:,} times so far"] if one.count > 1 else []
    said += [f"in stage {one.stage}"] if one.event in OF_STAGES and one.stage is not None else []
    return ", ".join(said)
