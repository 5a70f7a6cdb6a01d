"""Gives a run's messages to the courier, and keeps the run alive until the last of them is due."""

from __future__ import annotations

from collections.abc import Sequence

from ..backend import Caller
from ..courier import Outgoing
from ..engine import Engine
from ..stored.duties import SendMembers


def deliver(engine: Engine, run_id: str, outgoing: Sequence[Outgoing]) -> None:
    """Send messages of a run. If some are delayed, the run's time to live counts from when the last of them is due."""
    _expect(engine, run_id, outgoing)
    engine.courier.send(outgoing)


def deliver_all(engine: Engine, run_id: str, outgoing: Sequence[Outgoing], duty: SendMembers, caller: Caller) -> bool:
    """Send all messages of a duty. The courier may confirm the duty in the same round trip: returns whether nothing is
    left to confirm."""
    _expect(engine, run_id, outgoing)
    return engine.courier.send_and_confirm(outgoing, run_id, duty, caller)


def _expect(engine: Engine, run_id: str, outgoing: Sequence[Outgoing]) -> None:
    longest = max((delay for _, delay in outgoing if delay is not None), default=0)
    if longest:
        engine.wait_for(run_id, engine.now() + longest)
