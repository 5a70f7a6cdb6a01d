"""Opens stages, and sends their members for the first time or again."""

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

#: How many messages are worth not being decoded.
MANY = 20

#: The duties that `send_range` does: each concerns some of the members of a range.
Range: TypeAlias = Resume | Resend | Revive


def open_stage(engine: Engine, run_id: str, duty: OpenStage, caller: Caller) -> Reply:
    """Find out how many members the stage has, and store that."""
    members = Members(engine, run_id, duty)
    total = members.count_items(duty) if members.line.mapped else 0
    return engine.backend.open(run_id, duty, total, at_present(engine, caller))


def send_members(
    engine: Engine, run_id: str, duty: SendMembers, caller: Caller
) -> Generator[Work | Caused, None, bool]:
    """Send jobs and start nested runs, chunk by chunk. Returns whether the duty has been confirmed with its last
    messages, or has turned out to be another caller's."""
    members = Members(engine, run_id, duty)
    if duty.leaders:  # if a leader doesn't send its share within the lease, a sweeper does
        engine.look_again(run_id, engine.now() + engine.lease_ms)
    for start, end in chunks(max(duty.start, duty.cursor), duty.end):
        outgoing, starting = [], []
        written = members.written(start, end) if end - start >= MANY and engine.courier.takes_written else None
        for member, step in enumerate(members.read(start, end) if written is None else (), start):
            if isinstance(step, Plan):
                starting.append((member, step))
            else:
                outgoing.append(members.outgoing(member, step, 0, repeated=duty.repeated))
        confirmed = False
        if written is not None:
            engine.courier.send_written(written)
        elif end == duty.end and not (starting or duty.leaders):
            confirmed = deliver_all(engine, run_id, outgoing, duty, caller)
        else:
            deliver(engine, run_id, outgoing)
        remember(engine, run_id, duty, members.line.total or 0)
        if confirmed:
            return True
        for member, step in starting:
            yield start_run(engine, members.place(member, 0), members.starting(step))
        yield from _lead_for(engine, run_id, outgoing[: max(duty.start + duty.leaders - start, 0)])
        if end < duty.end and engine.backend.confirm(run_id, duty, at_present(engine, caller), cursor=end) == "lost":
            break  # the lease has passed to another caller, which sends the rest
    return False


def remember(engine: Engine, run_id: str, sent: SendMembers, total: int) -> None:
    """Remember that members of this stage were sent just now, perhaps again, and which duty follows."""
    note = engine.remembered.expect_copies if sent.repeated else engine.remembered.note_wanted
    note(run_id, sent.generation, sent.stage, total)
    if engine.courier.sends_onward:
        engine.remembered.look_ahead(run_id, sent.ahead)


def _lead_for(engine: Engine, run_id: str, leading: Iterable[Outgoing]) -> Work:
    """Send the shares of leaders whose messages are delayed. Such a leader would send its share only after its own
    delay, and the delays in the share would begin then. So the sender of the leaders does it at once."""
    for message, delay in leading:
        if delay is not None:
            tag = Tag.from_option(message.options[OPTION], message.actor_name)
            caller = engine.caller(tag.owner)
            yield Caused(run_id, engine.backend.owed(run_id, caller, generation=tag.generation), caller)


def send_again(engine: Engine, run_id: str, duty: SendAgain, caller: Caller) -> Work:
    """Send the waiting members again, some at a time, and have nested runs retry. `reopen` gives the members, and
    confirms the duty when there are no more."""
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
            yield revive_run(engine, members.place(member, epoch), members.starting(step), by_hand=False)
        done += 1


def send_range(engine: Engine, run_id: str, duty: Range, caller: Caller) -> Work:
    """Send those members of a range that the duty concerns, in a new epoch; nested runs retry or resend instead."""
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
            place, plan = members.place(member, duty.epoch), members.starting(step)
            yield revive_run(engine, place, plan, by_hand=isinstance(duty, Resend))
        if end < duty.end and engine.backend.confirm(run_id, duty, at_present(engine, caller), cursor=end) == "lost":
            return


def _is_wanted(duty: Range, line: StageLine, step: Message[Any] | Plan, stands: Standing | None) -> bool:
    """Whether a duty concerns a member that stands so.

    Members that wait to be sent again are left to a `SendAgain` duty. Nested runs that wait are done here, too, because
    there are shares for them; except in a stage with a limit, where only `reopen` knows how many there is room for.
    """
    if isinstance(step, Plan) and stands == "waiting" and not isinstance(duty, Resend):
        return line.limit is None
    if isinstance(duty, Resume):
        # A nested run that was cancelled with its parent may tell after the parent's retry that it is dead or failing.
        return stands is None or (isinstance(step, Plan) and stands != "succeeded")
    if isinstance(duty, Revive) and not isinstance(step, Plan):
        return False
    return stands not in ("succeeded", "dead", "waiting")
