"""Does the duties of a reply one after the other, each by the function for its kind, and confirms them."""

from __future__ import annotations

import logging
from collections.abc import Generator
from typing import NoReturn, cast

from dramatiq.logging import get_logger

from .. import observing
from ..backend import Caller, Note, Reply
from ..engine import Engine
from ..enlisting import enlist
from ..errors import NewerRelease, is_final
from ..failures import failure_details
from ..news import log
from ..stored import owners
from ..stored.duties import (
    CallBack,
    Duty,
    Halt,
    OpenStage,
    Resend,
    Resume,
    Revive,
    SendAgain,
    SendMembers,
    StartNested,
    Tell,
    Unknown,
)
from .callbacks import call_back
from .lease import Lease, at_present
from .nesting import halt, start_nested, tell
from .sending import open_stage, send_again, send_members, send_range
from .work import Caused, Work

#: The work of one duty. It returns the reply of the transition that the duty has caused in its own run, if any.
Doing = Generator["Work | Caused", None, Reply | None]

logger: logging.Logger = get_logger(__name__)


def hand_over(engine: Engine, run_id: str, reply: Reply, caller: Caller) -> None:
    """Log what a transition has done, and do its duties, and all duties that follow from them, in order.

    An error that is known to be final fails the run. All other errors are raised: Unavailable, NewerRelease, and faults
    in this package or in a hook. What wasn't done then stays owed. A detached broker leaves all duties to workers.
    """
    if reply.asks_for_nothing:  # as for most jobs in parallel
        return
    if not reply.duties:
        _tell(engine, run_id, reply, caller)
        _heed(engine, run_id, reply, caller)
        return
    if engine.is_detached:
        _tell(engine, run_id, reply, caller)
        engine.leave_to_workers(run_id)
        return
    lease = Lease(engine)
    stack: list[Work] = [_all(lease, Caused(run_id, reply, caller))]
    while stack:
        deeper = next(stack[-1], None)
        lease.renew()
        if deeper is None:
            stack.pop()
        else:
            stack.append(_all(lease, deeper) if isinstance(deeper, Caused) else deeper)


def _all(lease: Lease, caused: Caused) -> Work:
    """Do the duties of a reply, and then what its note asks for."""
    engine, run_id, reply, caller = lease.engine, caused.run_id, caused.reply, caused.caller
    _tell(engine, run_id, reply, caller)
    mine = [(run_id, duty, caller) for duty in reply.duties]
    lease.held += mine
    try:
        for held in mine:
            _, duty, _ = held
            try:
                more = yield from _do(engine, run_id, duty, caller)
            except NewerRelease:
                lease.give_back()
                raise
            except Exception as error:
                if not is_final(error):
                    raise
                more = engine.backend.fail(
                    run_id, duty, failure_details(error, failed_at=engine.now()), at_present(engine, caller)
                )
                if more.word == "lost":  # another caller holds the duty by now, or has done it
                    logger.info("Duty %s of run %s has passed on: %r", duty.id, run_id, error)
                else:
                    logger.error("Run %s fails: its duty %s can't be done", run_id, duty.id, exc_info=error)
            else:
                _show(engine, run_id, duty, caller)
            lease.held.remove(held)
            if more is not None:
                yield Caused(run_id, more, caller)
    finally:
        lease.held[:] = [held for held in lease.held if held not in mine]
    _heed(engine, run_id, reply, caller)


def _tell(engine: Engine, run_id: str, reply: Reply, caller: Caller) -> None:
    """Tell the log, observers and the register what a transition has done, before anything that may have to wait for a
    broker. Where the next job's message was sent and fetched by the transition, that begins before anything that may
    have to wait for the store."""
    log(run_id, reply.news, caller.now)
    observing.tell(engine.broker, run_id, reply.news, caller.now)
    engine.courier.begin_next()
    if reply.turn is not None:
        enlist(engine, run_id, reply.turn)


def _show(engine: Engine, run_id: str, duty: Duty, caller: Caller) -> None:
    """Show observers that a duty was done. How long a duty has been owed that was somebody else's isn't known."""
    if duty.repeated or isinstance(duty, SendMembers):
        if not observing.is_observed(engine.broker):
            return
        if duty.repeated:
            observing.show(engine.broker, observing.DutyTakenOver(run_id=run_id, kind=duty.kind))
        elif isinstance(duty, SendMembers):
            seconds = max(engine.now() - caller.now, 0) / 1000
            observing.show(engine.broker, observing.MembersSent(run_id=run_id, stage=duty.stage, seconds=seconds))


def _heed(engine: Engine, run_id: str, reply: Reply, caller: Caller) -> None:
    """Do what a reply's note asks for. A sweeper ignores `rests`, because it takes the run out of the index itself."""
    if not (reply.note == "rests" and caller.owner == owners.SWEEPER):
        engine.note(run_id, reply.note, reply.by)


def _do(engine: Engine, run_id: str, duty: Duty, caller: Caller) -> Doing:
    """Do one duty and confirm it. Returns the reply of the transition that it has caused in the same run, if any."""
    match duty:
        case SendMembers():
            if (yield from send_members(engine, run_id, duty, caller)):
                return None
        case OpenStage():
            return open_stage(engine, run_id, duty, caller)
        case CallBack():
            call_back(engine, run_id, duty)
        case Tell():
            yield from tell(engine, run_id, duty)
        case StartNested():
            yield from start_nested(engine, run_id, duty)
        case Halt():
            yield from halt(engine, run_id, duty)
        case SendAgain():
            yield from send_again(engine, run_id, duty, caller)
            return None  # `reopen` has confirmed it
        case Resume() | Resend() | Revive():
            yield from send_range(engine, run_id, duty, caller)
        case Unknown():
            raise NewerRelease(f"run {run_id!r} owes {duty.id!r}, a duty that only a newer release knows")
        case _:
            _never(duty)
    word = engine.backend.confirm(run_id, duty, at_present(engine, caller))
    if word in ("ends", "rests"):
        engine.note(run_id, cast(Note, word))
    return None


def _never(duty: NoReturn) -> NoReturn:
    """Raises TypeError. mypy accepts a call of it only if the `match` above it leaves no kind of duty out."""
    raise TypeError(f"{duty!r} is no duty")
