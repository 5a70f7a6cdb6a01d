"""Looks through the members of a stage: how each of them stands."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from dramatiq import Message

from .engine import Engine
from .errors import DamagedState
from .failures import JobFailure, arguments_in, failure_from
from .reader import Reader
from .register import MemberGlance, MemberState, StageGlance
from .stored.formats import NESTED
from .stored.messages import message_from
from .stored.places import Place, Tag
from .stored.plan import Spec, StageLine, stage_in

__all__ = ["Member", "MemberPage", "MemberState", "members_of"]

#: The version of what `MemberPage.to_dict` gives. It gets higher when a field goes, or changes its meaning.
SCHEMA = 1

#: How many members a page has, at most.
MOST = 1_000

#: Stands for a stage of a run that isn't there.
NO_RUN = -1

PLACE = re.compile(r"(\d{1,9})\.(\d{1,9})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Member:
    """How a member of a stage stands: ``[member.index for member in run.members(state="dead")]``.

    `stage` is the index of the stage, `index` that of the member in it. `state` is

    - `unsent`: its message isn't sent yet, or it waits to be sent again by a retry. So are all members of a stage that
      hasn't begun; and whatever isn't settled or failing in a run that was cancelled or has broken off, where nothing
      is done any more before a `retry()`.
    - `sent`: its message is on its way, or its job is at work; these can't be told apart, unless the run has timings:
      then it is on its way.
    - `working`: it is a nested run that is at work, or a job whose nested runs are; in a run with timings also a job
      that has begun and not ended, be it in its first attempt or in a later one.
    - `failing`: its last attempt has failed, and another one is to come.
    - `dead`: no more attempts will come by themselves.
    - `succeeded`.
    - `skipped`: its stage is complete without it, because `enough` others have succeeded.

    `actor`, `queue` and `message_id` are those of its message. `arguments` is what its job is called with, as in a
    `JobFailure`, such as ``"3, page=2"``, of 200 characters at most; what isn't kept any more, or is large, or comes
    from many results, is shown as ``…``. `run_id` is the id of the run that stands in this place, or that its job has
    nested; ``Run(member.run_id).status()`` finds it unless it hasn't begun, or has succeeded. A nested run has no
    message. When a run has succeeded, its messages aren't kept, unless it is one of a ``Clutch(keep_results=True)``:
    then `actor`, `queue` and `message_id` are None, and `arguments` is empty, but for what a failure says.

    `error` is why its last attempt has failed; None if none has, or it has succeeded since. `attempts` is how many it
    had when it failed last; 0 if it never has, or has succeeded since. `retry_at` is when a failing member is attempted
    again, in UNIX milliseconds: its message comes no earlier, so a time that has passed says that it waits for a worker
    or is at work. It is None for a nested run.

    In a run of a ``Clutch(timings=True)``, `began` and `ended` say when its last attempt began and ended, in UNIX
    milliseconds by the workers' clocks, and `worker` where, such as ``"host:12"`` (host and process), of 64 characters
    at most. They are kept as long as the results of the stage; before, afterwards and in any other run they are None. A
    next attempt begins anew; once a member has succeeded, they are those of the attempt that has. If a worker is
    killed, its member stays `working` until its message is redelivered and the attempt begins anew. A job that has
    nested runs ends when these do. A nested run has no worker; it began when it was started, which is known here once
    it has told how it stands, and has ended when it is succeeded or dead. What is at work when its stage is complete
    without it, or its run is cancelled, ends when its worker says so; an attempt of before a cancel isn't shown as
    `working` after a `retry()`.
    """

    stage: int
    index: int
    state: MemberState
    actor: str | None
    queue: str | None
    message_id: str | None
    arguments: str
    attempts: int
    retry_at: int | None
    error: JobFailure | None
    run_id: str | None
    began: int | None = None
    ended: int | None = None
    worker: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The member as a dict that JSON can write, with a field for each of its own; `error` is null, or like one of
        the failures in ``RunStatus.to_dict()``. For example, ``json.dumps(member.to_dict())``."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class MemberPage:
    """Some of the members of a stage. For example, ``{member.index: member.state for member in page}``.

    `members` are in the order of the stage. `cursor` is where the next page begins: ``run.members(cursor=page.cursor)``
    with the same `stage` and `state`; None if there is none. A page may have fewer members than were asked for, or
    none, although there is a next one.
    """

    members: tuple[Member, ...]
    cursor: str | None = None

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)

    def to_dict(self) -> dict[str, Any]:
        """The page as a dict that JSON can write: ``{"schema": 1, "members": […], "cursor": null}``, where each member
        is as ``Member.to_dict()`` has it. `schema` gets higher when a field goes, or changes its meaning; fields may be
        added at any time."""
        return {"schema": SCHEMA, "members": [member.to_dict() for member in self.members], "cursor": self.cursor}


def members_of(
    engine: Engine, run_id: str, stage: int | str | None, state: MemberState | None, limit: int, cursor: str | None
) -> MemberPage | None:
    """What `Run.members` returns; None if there is no such run."""
    if type(limit) is not int or not 1 <= limit <= MOST:
        raise ValueError(f"limit is {limit!r}; it is how many members the page may have, from 1 to {MOST:,}")
    if state is not None and state not in get_args(MemberState):
        raise ValueError(f"state is {state!r}; it takes one of {', '.join(get_args(MemberState))}")
    index = _index(engine, run_id, stage)
    if index == NO_RUN:
        return None
    index, start = _beginning(index, cursor)
    found = engine.backend.look_into(run_id, index, start, limit, state=state)
    if found is None:
        return None
    if found.line is None and cursor is not None:
        raise _never_given(cursor)
    if found.line is None:
        return MemberPage(())  # a clutch without stages
    line = StageLine.parse(found.line)
    told = Telling(engine.reader, run_id, found, line)
    shown = tuple(map(told.member, found.members))
    return MemberPage(shown, None if found.go_on is None else f"{found.stage}.{found.go_on}")


def _index(engine: Engine, run_id: str, stage: int | str | None) -> int | None:
    """Which stage is wanted; None for the present one, and NO_RUN if there is no such run. Raises ValueError if the run
    has no such stage."""
    if stage is None:
        return None
    (glance,) = engine.backend.look_at([run_id])
    if isinstance(glance, DamagedState):
        raise glance
    if glance is None:
        return NO_RUN
    lines = engine.backend.lines(run_id, glance.stages, generation=glance.generation)
    return stage_in([StageLine.parse(line) for line in lines], stage)


def _beginning(index: int | None, cursor: str | None) -> tuple[int | None, int]:
    """Which stage and member a page begins with. Raises ValueError."""
    if cursor is None:
        return index, 0
    place = PLACE.fullmatch(str(cursor))
    if place is None or index not in (None, int(place[1])):
        raise _never_given(cursor)
    return int(place[1]), int(place[2])


def _never_given(cursor: Any) -> ValueError:
    return ValueError(f"no page of this stage has given the cursor {cursor!r}")


class Unread:
    """Stands for a value that isn't read."""

    def __repr__(self) -> str:
        return "…"


class Telling:
    """Tells of the members of a stage what the store has found."""

    def __init__(self, reader: Reader, run_id: str, found: StageGlance, line: StageLine) -> None:
        self.reader: Reader = reader
        self.run_id: str = run_id
        self.found: StageGlance = found
        self.line: StageLine = line
        self.spec: Spec = Spec.from_bytes(found.spec) if found.spec else Spec()
        self.allowed: bool = found.over or 0 < line.most_dead >= found.dead
        self.value: Any = self._value(found.value)
        if found.stage == 0 and line.piped and found.value is None and self.spec.item is not None:
            self.value = self._value(self.spec.item)

    def member(self, one: MemberGlance) -> Member:
        error = failure_from(self.found.stage, one.index, one.failure, self.allowed) if one.failure else None
        row = one.row or self.found.row
        is_run = row[:1] == NESTED or (self.line.nested and self.line.mapped)
        actor = queue = message_id = None
        arguments = ""
        if row and not is_run:
            actor, queue, arguments = self._written(row, one)
        if not (row or self.line.nested) and error is not None and error.actor:  # the plan is gone
            actor, message_id, arguments = error.actor, error.message_id, error.arguments
        if actor is not None and message_id is None:
            message_id = self._tag(one, actor).message_id
        return Member(
            stage=self.found.stage,
            index=one.index,
            state=one.state,
            actor=actor,
            queue=queue,
            message_id=message_id,
            arguments=arguments,
            attempts=error.attempts if error else 0,
            retry_at=one.due,
            error=error,
            run_id=Place(self.run_id, self.found.stage, one.index).child_id if is_run or one.nests else None,
            began=one.began,
            ended=one.ended,
            worker=one.worker,
        )

    def _tag(self, one: MemberGlance, actor: str) -> Tag:
        total, sender = self.line.total or 0, self.found.sender
        return Tag(self.run_id, self.found.stage, one.index, total, generation=sender, actor=actor)

    def _written(self, row: bytes, one: MemberGlance) -> tuple[str | None, str | None, str]:
        """The actor, the queue and the arguments of a member's message, which only inform: so one that can't be read
        is no error."""
        try:
            message = message_from(row)
        except DamagedState as error:
            return None, None, f"({error})"[:200]
        args, kwargs = self._fed(message, one)
        return str(message.actor_name), str(self.spec.queue or message.queue_name), arguments_in(args, kwargs)

    def _fed(self, message: Message[Any], one: MemberGlance) -> tuple[Any, Any]:
        """What a job is called with: what its message was written with, and the value that it gets, as
        `handover.members` adds it."""
        ignores = self.line.piped and message.options.get("pipe_ignore")
        if ignores or not (self.line.mapped or self.line.piped):
            return message.args, message.kwargs
        value = self._value(one.item) if self.line.mapped else self.value
        if self.line.into:
            return message.args, {**message.kwargs, self.line.into: value}
        return (*message.args, value), message.kwargs

    def _value(self, encoded: bytes | None) -> Any:
        if encoded is None:
            return Unread()
        try:
            return self.reader.decode(encoded)
        except DamagedState:  # it is shown as one that isn't read, because it only informs
            return Unread()
