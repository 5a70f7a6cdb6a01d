"""Where one job follows another, its message goes in the very step that records the success before it.

The process that sends a job's message is told what will follow it (`SendMembers.ahead`), and very often does that job
itself. It then has the next message ready when it records the job's end: no round trip lies between the two any more,
and no moment in which the message is owed. Where it isn't so, or the state is on another server than the broker, what
the record owes is handed over as ever.
"""

from __future__ import annotations

from dataclasses import replace

from dramatiq import Message
from dramatiq.logging import get_logger

from .backend import Caller, Record, Reply
from .courier import Outgoing
from .engine import Engine
from .handover.members import Members
from .handover.sending import remember
from .stored.duties import SendMembers
from .stored.formats import success

logger = get_logger(__name__)


def record_onward(engine: Engine, record: Record, caller: Caller) -> Reply:
    """Record how a job's attempt ended. Where one job follows it, and this process knows which, that is sent in the
    same step: then there is no moment in which it is owed."""
    duty, outgoing = _next_of(engine, record) or (None, None)
    if duty is None or outgoing is None:
        return engine.backend.record(record, caller)
    reply = engine.courier.record_and_send(record, caller, duty, outgoing)
    if reply.sent is not None:
        remember(engine, record.tag.run_id, reply.sent, 1)
    return reply


def _next_of(engine: Engine, record: Record) -> tuple[SendMembers, Outgoing] | None:
    """The duty that this record may cause, and the message that it asks for."""
    run_id, stage = record.tag.run_id, record.tag.stage + 1
    duty = engine.remembered.ahead.pop((run_id, stage), None)
    if (
        duty is None
        or duty.generation != record.tag.generation
        or duty.previous is None
        or record.ending != "succeeded"
        or record.nested
        or not engine.courier.sends_onward
    ):
        return None
    try:
        members = Members(engine, run_id, replace(duty, previous=(duty.previous[0], success(record.payload))))
        (step,) = members.read(0, 1)
        assert isinstance(step, Message)
        return duty, members.outgoing(0, step, 0, repeated=False)
    except Exception as error:  # once it is owed, this is met again, and the run fails of it
        logger.debug("Stage %d of run %s isn't sent with the record before it: %r", stage, run_id, error)
        return None
