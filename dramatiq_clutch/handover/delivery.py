"""A run's messages on their way to the broker."""

from __future__ import annotations

from collections.abc import Sequence

from ..backend import Caller
from ..courier import Outgoing
from ..engine import Engine
from ..stored.duties import SendMembers


def deliver(engine: Engine, run_id: str, outgoing: Sequence[Outgoing]) -> None:
    """Send messages of a run. It lives until the last of them is due, and its keys for their time to live from then."""
    _expect(engine, run_id, outgoing)
    engine.courier.send(outgoing)


def deliver_all(engine: Engine, run_id: str, outgoing: Sequence[Outgoing], duty: SendMembers, caller: Caller) -> bool:
    """The same with all messages of a duty, so that its confirmation may go along. Returns whether it has."""
    _expect(engine, run_id, outgoing)
    return engine.courier.send_and_confirm(outgoing, run_id, duty, caller)


def _expect(engine: Engine, run_id: str, outgoing: Sequence[Outgoing]) -> None:
    longest = max((delay for _, delay in outgoing if delay is not None), default=0)
    if longest:
        engine.wait_for(run_id, engine.now() + longest)
