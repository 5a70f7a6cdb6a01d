"""If one job follows another, sends the second job's message in the same step that records the first job's success.

The process that sends a job's message is told which duty will follow (`SendMembers.ahead`), and very often it does that
job itself. Then it can prepare the next message, and give it to the script that records the job's end. That saves a
round trip, and there is no moment in which the message is owed but not sent. If another process does the job, or the
state is on another server than the broker, the record owes the duty, and the hand-over does it.
"""

from __future__ import annotations

import logging

from dramatiq import Message
from dramatiq.logging import get_logger

from . import observing
from .backend import Caller, Record, Reply
from .courier import Outgoing
from .engine import Engine
from .handover.members import Members
from .handover.sending import remember
from .stored.duties import SendMembers

logger: logging.Logger = get_logger(__name__)


def record_onward(engine: Engine, record: Record, caller: Caller) -> Reply:
    """Record how a job's attempt ended. Where one job follows it, and this process knows which, that is sent in the
    same step: then there is no moment in which it is owed."""
    if not engine.courier.records:
        return engine.backend.record(record, caller)
    duty, outgoing = _next_of(engine, record) or (None, None)
    reply = engine.courier.record(record, caller, duty, outgoing)
    if reply.sent is not None:
        remember(engine, record.tag.run_id, reply.sent, 1)
        if observing.is_observed(engine.broker):
            sent = observing.MembersSent(run_id=record.tag.run_id, stage=reply.sent.stage, seconds=0.0)
            observing.show(engine.broker, sent)
    return reply


def _next_of(engine: Engine, record: Record) -> tuple[SendMembers, Outgoing] | None:
    """The duty that this record may cause, and its message; None if this process doesn't know it, or it can't be sent
    in the same step."""
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
        members = Members(engine, run_id, duty, result=record.payload)
        (step,) = members.read(0, 1)
        assert isinstance(step, Message)
        outgoing = members.outgoing(0, step, 0, repeated=False)
        return (duty, outgoing) if outgoing[1] is None else None  # the hand-over has the run live until it is due
    except Exception as error:  # the duty is then owed, and whoever does it meets the error, which fails the run
        logger.debug("Stage %d of run %s isn't sent with the record before it: %r", stage, run_id, error)
        return None
