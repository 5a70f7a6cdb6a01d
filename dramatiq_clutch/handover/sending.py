"""Stages are opened, and their members sent: for the first time, or once more."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any, TypeAlias

from dramatiq import Message

from ..backend import Caller, Reply
from ..courier import Outgoing
from ..engine import Engine
from ..stored.duties import OpenStage, Resend, Resume, Revive, SendAgain, SendMembers
from ..stored.formats import Standing
from ..stored.places import OPTION, Tag
from ..stored.plan import Plan, StageLine
from .delivery import deliver, deliver_all
from .lease import at_present
from .members import Members
from .nesting import revive_run, start_run
from .work import Caused, Work, chunks

#: What is done to some of the members of a range.
Range: TypeAlias = Resume | Resend | Revive


def open_stage(engine: Engine, run_id: str, duty: OpenStage, caller: Caller) -> Reply:
    """Say how many members the stage has."""
    members = Members(engine, run_id, duty)
    total = members.count_items(duty) if members.line.mapped else 0
    return engine.backend.open(run_id, duty, total, at_present(engine, caller))


def send_members(
    engine: Engine, run_id: str, duty: SendMembers, caller: Caller
) -> Generator[Work | Caused, None, bool]:
    """Send and start members, chunk by chunk. Returns whether that has been confirmed."""
    members = Members(engine, run_id, duty)
    if duty.leaders:  # should they come late, a sweeper does what they own
        engine.look_again(run_id, engine.now() + engine.lease_ms)
    for start, end in chunks(max(duty.start, duty.cursor), duty.end):
        outgoing, starting = [], []
        for member, step in enumerate(members.read(start, end), start):
            if isinstance(step, Plan):
                starting.append((member, step))
            else:
                outgoing.append(members.outgoing(member, step, 0, repeated=duty.repeated))
        confirmed = False
        if end == duty.end and not (starting or duty.leaders):
            confirmed = deliver_all(engine, run_id, outgoing, duty, caller)
        else:
            deliver(engine, run_id, outgoing)
        remember(engine, run_id, duty, members.line.total or 0)
        if confirmed:
            return True
        for member, step in starting:
            yield start_run(engine, members.place(member, 0), step)
        yield from _lead_for(engine, run_id, outgoing[: max(duty.start + duty.leaders - start, 0)])
        if end < duty.end and engine.backend.confirm(run_id, duty, at_present(engine, caller), cursor=end) == "lost":
            break  # the lease has passed to somebody else, who sends the rest
    return False


def remember(engine: Engine, run_id: str, sent: SendMembers, total: int) -> None:
    """Remember that these members were sent just now, and what comes after them."""
    engine.remembered.let_go(run_id, sent.generation, sent.stage, total)
    if engine.courier.sends_onward:
        engine.remembered.look_ahead(run_id, sent.ahead)


def _lead_for(engine: Engine, run_id: str, leading: Iterable[Outgoing]) -> Work:
    """A leader with a delayed message would send its share only after its own delay, and the share's delays would begin
    then. So the sender does such a leader's share itself, now."""
    for message, delay in leading:
        if delay is not None:
            caller = engine.caller(Tag.from_option(message.options[OPTION], message.actor_name).owner)
            yield Caused(run_id, engine.backend.owed(run_id, caller), caller)


def send_again(engine: Engine, run_id: str, duty: SendAgain, caller: Caller) -> Work:
    """Send again what waits for that, and have nested runs do the same, some at a time."""
    members, done = Members(engine, run_id, duty), duty.cursor
    while True:
        found = engine.backend.reopen(run_id, duty, done, at_present(engine, caller))
        if found is None:
            return
        epoch, some = found[0], sorted(found[1])
        standing = engine.backend.standing(run_id, duty.stage, some, generation=duty.generation)
        wanted = [member for member, stands in zip(some, standing, strict=True) if stands == "working"]
        outgoing, runs = [], []
        for member, step in zip(wanted, members.pick(wanted), strict=True):
            if isinstance(step, Plan):
                runs.append((member, step))
            else:
                outgoing.append(members.outgoing(member, step, epoch, repeated=True))
        deliver(engine, run_id, outgoing)
        for member, step in runs:
            yield revive_run(engine, members.place(member, epoch), step, by_hand=False)
        done += 1


def send_range(engine: Engine, run_id: str, duty: Range, caller: Caller) -> Work:
    """Send members of a range again, in a new epoch, and have nested runs do the same."""
    members = Members(engine, run_id, duty)
    for start, end in chunks(max(duty.start, duty.cursor), duty.end):
        standing = engine.backend.standing(run_id, duty.stage, range(start, end), generation=duty.generation)
        nested = members.nested(range(start, end))
        outgoing, runs = [], []
        for member, step, stands in zip(range(start, end), members.read(start, end), standing, strict=True):
            step = nested.get(member, step)
            if not _is_wanted(duty, members.line, step, stands):
                continue
            if isinstance(step, Plan):
                runs.append((member, step))
            else:
                outgoing.append(members.outgoing(member, step, duty.epoch, repeated=True))
        deliver(engine, run_id, outgoing)
        for member, step in runs:
            yield revive_run(engine, members.place(member, duty.epoch), step, by_hand=isinstance(duty, Resend))
        if end < duty.end and engine.backend.confirm(run_id, duty, at_present(engine, caller), cursor=end) == "lost":
            return


def _is_wanted(duty: Range, line: StageLine, step: Message[Any] | Plan, stands: Standing | None) -> bool:
    """Whether a duty concerns a member that stands so. What waits to be sent again is a `SendAgain`'s; but nested runs
    are many hands' work, unless it has to be seen what there is room for."""
    if isinstance(step, Plan) and stands == "waiting" and not isinstance(duty, Resend):
        return line.limit is None
    if isinstance(duty, Resume):
        # A nested run may have told only now that it is dead, or failing, for it was cancelled with its parent.
        return stands is None or (isinstance(step, Plan) and stands != "succeeded")
    if isinstance(duty, Revive) and not isinstance(step, Plan):
        return False
    return stands not in ("succeeded", "dead", "waiting")
