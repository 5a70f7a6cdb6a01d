"""Sends the messages of callbacks."""

from __future__ import annotations

from dramatiq.common import current_millis

from ..courier import Outgoing
from ..engine import Engine
from ..errors import DamagedState
from ..status import status_from
from ..stored.duties import CallBack
from ..stored.places import OPTION, CallbackTag
from ..stored.plan import COMPLETION, message_from
from .delivery import deliver


def call_back(engine: Engine, run_id: str, duty: CallBack) -> None:
    """Send the messages that the run's clutch has for the duty's event. Raises DamagedState for a duty without a
    snapshot."""
    if duty.snapshot is None:
        raise DamagedState(f"the duty {duty.id!r} of run {run_id!r} has no snapshot")
    status = status_from(run_id, duty.snapshot).asdict() | {"event": duty.event, "stage": duty.stage}
    outgoing: list[Outgoing] = []
    for index, row in enumerate(engine.reader.spec(run_id, duty.generation).callbacks[duty.event]):
        message = message_from(row)
        args = message.args if duty.event == COMPLETION else (*message.args, status)  # a group's callbacks take none
        tag = CallbackTag(run_id, duty.generation, duty.id, index, message.actor_name)
        stamped = message.copy(
            args=args,
            message_id=tag.message_id,
            message_timestamp=current_millis(),
            options={OPTION: tag.to_option()},
        )
        outgoing.append((stamped, stamped.options.get("delay")))
    deliver(engine, run_id, outgoing)
