"""Where one job follows another, its message goes in the very step that records the success before it.

The process that sends a job's message is told what will follow it (`Duty.ahead`), and very often does that job itself.
It then has the next message ready when it records the job's end: no round trip lies between the two any more, and no
moment in which the message is owed. Where it isn't so, or the state is on another server than the broker, what the
record owes is handed over as ever.
"""

from __future__ import annotations

from dataclasses import replace

from dramatiq import Message
from dramatiq.logging import get_logger

from .backend import Caller, Onward, Record, Reply
from .dispatch import Outgoing, has_gone, is_plain, make_ready
from .engine import SUCCEEDED, Engine
from .handover import Members, remember

logger = get_logger(__name__)


def record_onward(engine: Engine, record: Record, caller: Caller) -> Reply:
    """Record how a job's attempt ended. Where one job follows it, and this process knows which, that is sent in the
    same step: then there is no moment in which it is owed."""
    onward, prepared = _make_ready(engine, record) or (None, None)
    reply = engine.backend.record(record, caller, onward)
    if reply.sent is not None and prepared is not None:
        has_gone(engine.broker, prepared)
        remember(engine, record.tag.run_id, reply.sent, 1)
    return reply


def _make_ready(engine: Engine, record: Record) -> tuple[Onward, Outgoing] | None:
    """The message of the stage that this record may release."""
    run_id, stage, broker = record.tag.run_id, record.tag.stage + 1, engine.broker
    duty = engine.ahead.pop((run_id, stage), None)
    if (
        duty is None
        or duty.generation != record.tag.generation
        or duty.previous is None
        or record.ending != "succeeded"
        or record.nested
        or not is_plain(broker)
    ):
        return None
    try:
        members = Members(engine, run_id, replace(duty, previous=(duty.previous[0], SUCCEEDED + record.payload)))
        (step,) = members.read(0, 1)
        assert isinstance(step, Message)
        return make_ready(broker, duty, members.outgoing(0, step, 0, again=False))
    except Exception as error:  # once it is owed, this is met again, and the run fails of it
        logger.debug("Stage %d of run %s isn't sent with the record before it: %r", stage, run_id, error)
        return None
