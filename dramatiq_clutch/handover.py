"""Does what a transition owes: opens and sends stages, sends callbacks, starts nested runs, tells the parent; then
confirms.

A duty may be done twice (its lease lapsed while its holder slept), so everything here can be: messages and nested runs
have derived ids, and a second copy is known by its member's state.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from dramatiq import Message
from dramatiq.common import current_millis
from dramatiq.logging import get_logger

from .backend import LAST, SWEEPER, Caller, Duty, Record, Reply, Standing
from .courier import Outgoing
from .engine import SUCCEEDED, Engine
from .errors import (
    DamagedState,
    ForeignRun,
    HandOverFailed,
    NewerRelease,
    PayloadRefused,
    ResultsGone,
    StateUnavailable,
    Unavailable,
    is_final,
)
from .forks import cached_property
from .status import RunStatus, details_of, failure_details, status_from
from .stored.places import OPTION, CallbackTag, Place, Tag
from .stored.plan import EVENTS, Plan, Spec, StageLine, changed, from_row, message_from

#: How many members are sent between two confirmations.
CHUNK = 1_000

#: After how many runs in a row for which it can't send anything a sweeper takes the broker for away.
PATIENCE = 5

#: The id of no run.
NOBODY = "!nobody"

#: How many bytes of what a stage is mapped over are written at a time.
MOST_BYTES = 1_000_000

#: Specs of so many bytes are remembered; one that was given more would take the worker's memory.
LITTLE = 10_000

logger = get_logger(__name__)

#: A duty's work. It yields other runs' work that has to be done before it goes on: what is owed is confirmed only
#: after whatever it has caused is done, however deep runs nest, and without deep recursion.
Work = Iterator["Work"]
Doing = Generator["Work", None, Reply | None]


@dataclass(slots=True)
class Lease:
    """The duties that one hand-over holds and hasn't done yet. What holds them up, be it hundreds of nested runs, must
    not make them lapse, or others would do them once more: so their lease is renewed by time."""

    engine: Engine
    held: list[tuple[str, Duty, Caller]] = field(default_factory=list)
    renewed: float = field(default_factory=time.monotonic)

    def renew(self) -> None:
        """Do so, if a third of it has passed."""
        if time.monotonic() - self.renewed < self.engine.lease_ms / 3_000:
            return
        for run_id, duty, caller in self.held:
            self.engine.backend.confirm(run_id, duty, _now(caller), cursor=duty.cursor)
        self.renewed = time.monotonic()

    def give_back(self) -> None:
        """Leave all of them to others, at once: to sweepers of a newer release."""
        for run_id, duty, caller in self.held:
            self.engine.backend.confirm(run_id, duty, replace(_now(caller), lease_ms=0), cursor=duty.cursor)
            self.engine.look_again(run_id, current_millis())


def hand_over(engine: Engine, run_id: str, reply: Reply, caller: Caller) -> None:
    """Do a transition's duties, and all that follows from them, in order.

    A run fails with an error that is known to be final. Raises all others: Unavailable, NewerRelease, and those of our
    own code; what is owed then stays owed.
    """
    if not reply.duties:  # as for most jobs
        engine.note(run_id, reply.note)
        return
    lease = Lease(engine)
    stack: list[Work] = [_all(engine, lease, run_id, reply, caller)]
    while stack:
        deeper = next(stack[-1], None)
        lease.renew()
        if deeper is None:
            stack.pop()
        else:
            stack.append(deeper)


def sweep(engine: Engine, limit: int = 100, is_stopping: Callable[[], bool] = lambda: False) -> int:
    """Finish what is owed and nobody does, until nothing is left of what was due at the beginning: duties whose lease
    has lapsed, shares that are for anybody, runs to which nothing happens. Returns how many runs were looked at."""
    looked, began = 0, current_millis()
    while True:
        due = engine.backend.due(began, current_millis() + 2 * engine.lease_ms, limit, application=engine.application)
        in_vain = 0
        for position, run_id in enumerate(due, 1):
            try:
                _look_at(engine, run_id, is_stopping)
                in_vain = 0
            except NewerRelease as error:
                engine.leave_to_newer(run_id, error)
                engine.look_again(run_id, current_millis() + 1)  # whoever comes next may be newer
            except ForeignRun as error:  # somebody has tried to start it here, or to change it
                logger.info("The sweeper lets go of run %s: %s", run_id, error)
                engine.look_again(run_id, None)
            except Exception as error:  # one run must not stop the others; it is looked at again later
                if isinstance(error, Unavailable):
                    answers = _answers(engine)
                    in_vain += not (answers and isinstance(error, StateUnavailable))
                    if in_vain == PATIENCE or not answers:
                        _put_back(engine, due[position:])
                        raise
                shown = None if isinstance(error, Unavailable) else error
                logger.error("The sweeper can't look at run %s, and goes on: %s", run_id, error, exc_info=shown)
        looked += len(due)
        if not due or is_stopping():
            return looked


def _answers(engine: Engine) -> bool:
    """Whether the state store can be used at all, though it can't for some run: it does the same for a run that isn't
    there."""
    try:
        engine.backend.sweep(NOBODY, engine.caller(SWEEPER), stalled_after=engine.stalled_after)
    except Unavailable:
        return False
    return True


def _put_back(engine: Engine, run_ids: Sequence[str]) -> None:
    """Have the next sweep begin with these: those that held this one up would hold up every other one, too."""
    try:
        for run_id in run_ids:
            engine.look_again(run_id, current_millis(), known=True)
    except Unavailable as error:
        logger.debug("They are looked at later: %s", error)  # so they are put down already


def _look_at(engine: Engine, run_id: str, is_stopping: Callable[[], bool], *, waits_for_jobs: bool = False) -> None:
    while True:
        caller = engine.caller(SWEEPER)
        reply = engine.backend.sweep(run_id, caller, stalled_after=engine.stalled_after, waits_for_jobs=waits_for_jobs)
        hand_over(engine, run_id, reply, caller)
        if reply.note != "more" or is_stopping():
            break  # there is no share left for this sweeper
    if reply.word == "unknown":
        engine.look_again(run_id, None)
    elif reply.word == "quiet":
        if not waits_for_jobs and _waits_for_jobs(engine, run_id):
            _look_at(engine, run_id, is_stopping, waits_for_jobs=True)
        else:
            engine.look_when_quiet(run_id)
    elif reply.word == "works":
        if engine.resend_stalled and _is_stalled(engine, run_id):
            _tell_stalled(engine, run_id)
        engine.look_when_quiet(run_id)
    elif reply.word == "stalled":
        _tell_stalled(engine, run_id)
        engine.look_when_quiet(run_id)


def _is_stalled(engine: Engine, run_id: str) -> bool:
    """Whether that has been found out before, and nothing has happened since: whoever did so may have died before
    anything was sent again, or the state store may have forgotten that it was."""
    snapshot = engine.backend.snapshot(run_id)
    return snapshot is not None and bool(snapshot["head"].get("stalled"))


def _tell_stalled(engine: Engine, run_id: str) -> None:
    """Nothing has happened to a run for too long, though members are unsettled: their messages may be lost."""
    seconds = engine.stalled_after / 1000
    if not engine.resend_stalled:
        logger.warning(
            "Run %s is stalled: for %g s nothing has happened to it, though members are unsettled and none is delayed. "
            "Their messages may be lost, or wait in a queue that no worker listens to. Run(%r).resend() sends them "
            "again; ClutchMiddleware(resend_stalled=True) would do so by itself.",
            run_id,
            seconds,
            run_id,
        )
        return
    logger.warning(
        "Run %s is stalled: for %g s nothing has happened to it. Its members are sent again.", run_id, seconds
    )
    caller = engine.caller(SWEEPER)
    hand_over(engine, run_id, engine.backend.resend(run_id, caller), caller)


def _waits_for_jobs(engine: Engine, run_id: str) -> bool:
    """Whether a stage with nested runs waits for a job, too. A run that it waits for has an eye on itself; one that is
    gone is told of, and so is one at rest whose word was lost."""
    backend = engine.backend
    snapshot, generation = backend.snapshot(run_id), backend.generation(run_id)
    if snapshot is None or generation is None:
        return False
    stage = int(snapshot["head"]["stage"])
    line = StageLine.parse(snapshot["head"][f"s{stage}"])
    sent = int(snapshot["head"].get("sent", 0)) if line.limit else line.total or 0
    members = Members(
        engine, run_id, Duty(f"send:{stage}:0:{line.total or 0}", "", line=str(line), generation=generation)
    )
    waits = False
    for start, end in _chunks(0, sent):
        marks = backend.results(run_id, stage, start, end, generation=generation)
        standing = backend.standing(run_id, stage, range(start, end), generation=generation)
        runs = set(members.runs(start, end))
        for member, mark, stands in zip(range(start, end), marks, standing, strict=True):
            if (mark is not None and mark.startswith(SUCCEEDED)) or stands == "dead":
                continue
            if member in runs:
                _ask_after(engine, members.place(member, 0))
            else:
                waits = True
    return waits


def _ask_after(engine: Engine, place: Place) -> None:
    """Make sure that a nested run is there, and that its parent knows how it stands."""
    child, backend = place.child_id, engine.backend
    if backend.generation(child) != place.child_generation:
        report_gone(engine, child, place.child_generation)
        return
    caller = engine.caller(SWEEPER)
    hand_over(engine, child, backend.retell(child, caller, generation=place.child_generation), caller)


def report_gone(engine: Engine, run_id: str, generation: str) -> None:
    """Tell the parent of a nested run that it isn't there any more, if that is the one that it was nested in."""
    place = Place.of_child(run_id)
    if place is None:
        return
    place = replace(place, generation=engine.backend.generation(place.run_id) or "")
    if place.child_generation != generation:
        return
    details = failure_details(
        None, message_id=run_id, text=f"nested run {run_id} is gone: it has expired or was removed"
    )
    tag, caller = _tag(place), engine.caller(f"gone {place.stage}.{place.member}")
    reply = engine.backend.record(Record(tag, LAST, "dead", details, of_run=True), caller)
    hand_over(engine, place.run_id, reply, caller)


def _all(engine: Engine, lease: Lease, run_id: str, reply: Reply, caller: Caller) -> Work:
    """Do the duties of a reply, and then what its note asks for."""
    mine = [(run_id, duty, caller) for duty in reply.duties]
    lease.held += mine
    try:
        for held in mine:
            _, duty, _ = held
            try:
                more = yield from _do(engine, lease, run_id, duty, caller)
            except NewerRelease:
                lease.give_back()
                raise
            except Exception as error:
                if not is_final(error):
                    raise
                more = engine.backend.fail(run_id, duty, failure_details(error), _now(caller))
                if more.word == "lost":  # somebody else holds it by now, or has done it
                    logger.info("Duty %s of run %s has passed on: %r", duty.id, run_id, error)
                else:
                    logger.error("Run %s fails: its duty %s can't be done", run_id, duty.id, exc_info=error)
            lease.held.remove(held)
            if more is not None:
                yield _all(engine, lease, run_id, more, caller)
    finally:
        lease.held[:] = [held for held in lease.held if held not in mine]
    engine.note(run_id, reply.note)


def _do(engine: Engine, lease: Lease, run_id: str, duty: Duty, caller: Caller) -> Doing:
    """Do one duty and confirm it. Returns what comes of it."""
    if duty.kind == "open":
        return _open(engine, run_id, duty, caller)
    if duty.kind in EVENTS:
        _call_back(engine, run_id, duty)
    elif duty.kind == "tell":
        yield from _tell(engine, lease, run_id, duty)
    elif duty.kind == "start":
        yield from _start_nested(engine, lease, run_id, duty)
    elif duty.kind == "halt":
        yield from _halt(engine, lease, run_id, duty)
    elif duty.kind == "retry":
        yield from _retry(engine, lease, run_id, duty, caller)
        return None  # `reopen` has confirmed it
    elif duty.kind == "send":
        if (yield from _send(engine, lease, run_id, duty, caller)):
            return None
    else:
        yield from _send_again(engine, lease, run_id, duty, caller)
    if engine.backend.confirm(run_id, duty, _now(caller)) == "rests":
        engine.note(run_id, "rests")
    return None


# Stages


class Members:
    """The members of a stage as they were written, ready to be sent or started."""

    def __init__(self, engine: Engine, run_id: str, duty: Duty) -> None:
        self.engine, self.run_id, self.stage, self.duty = engine, run_id, duty.stage, duty
        self.line = StageLine.parse(duty.line)

    @cached_property
    def spec(self) -> Spec:
        data = self.duty.spec
        if not data:
            return self.engine.spec(self.run_id, self.duty.generation)
        return _spec_from(data) if len(data) <= LITTLE else Spec.from_bytes(data)

    def nested(self, members: Sequence[int]) -> dict[int, Plan]:
        """What jobs among these members have nested: it stands in their place."""
        found = self.engine.backend.nested(self.run_id, self.stage, members, generation=self.duty.generation)
        return {member: Plan.from_bytes(plan) for member, plan in found.items()}

    def count_items(self) -> int:
        """Over how many items a mapped stage is mapped. Those of a list are written down, each by itself, for whoever
        sends some of them. Raises HandOverFailed if it isn't a list."""
        line = self._source
        if line and line.many:
            return line.total or 0
        items, backend = self._read_list(), self.engine.backend
        for start, encoded in _batches(map(backend.encode, items)):
            backend.write_items(self.run_id, self.duty, start, encoded, run_ttl=self.engine.run_ttl)
        return len(items)

    def items(self, start: int, end: int) -> list[Any]:
        """Some of them; no more is read than that. Raises ResultsGone."""
        generation, line = self.duty.generation, self._source
        if line and line.many:
            return self.engine.results(self.run_id, self.stage - 1, generation, line, start, end)
        decode = self.engine.backend.encoder.decode
        found = self.engine.backend.items(self.run_id, self.stage, start, end, generation=generation)
        if len(found) < end - start:
            raise ResultsGone(f"what stage {self.stage} of run {self.run_id!r} is mapped over is gone")
        return [decode(item) for item in found]

    @cached_property
    def _source(self) -> StageLine | None:
        """The stage before; None where that is no stage of this run."""
        return self.engine.line(self.run_id, self.stage - 1, self.duty.generation) if self.stage else None

    def _read_list(self) -> list[Any]:
        """The list that a stage of one has left."""
        many, results = self._previous
        if many:
            return results
        (value,) = results
        if not isinstance(value, list):
            shown = repr(value)
            shown = shown if len(shown) <= 100 else shown[:100] + "…"
            raise HandOverFailed(
                f"stage {self.stage} maps over the result of stage {self.stage - 1}, which must be a list; "
                f"it is a {type(value).__name__}: {shown}"
            )
        return value

    @cached_property
    def _previous(self) -> tuple[bool, list[Any]]:
        if self.duty.previous is not None and self.duty.previous[1].startswith(SUCCEEDED):
            line, mark = self.duty.previous
            return StageLine.parse(line).many, [self.engine.decode(mark[len(SUCCEEDED) :])]
        return self.engine.previous(self.run_id, self.stage, self.duty.generation)

    def read(self, start: int, end: int) -> list[Message[Any] | Plan]:
        """The members `start` ≤ i < `end`. Raises DamagedState if the plan lacks them."""
        if self.line.mapped:
            (template,) = self._rows(0, 1)
            return [self._fed(template, item) for item in self.items(start, end)]
        steps = self._rows(start, end)
        if self.line.piped:
            many, results = self._previous
            value = results if many else results[0]
            return [step if _ignores(step) else self._fed(step, value) for step in steps]
        return steps

    def pick(self, members: Sequence[int]) -> list[Message[Any] | Plan]:
        """These members, in ascending order, wherever they are in their stage; what their jobs have nested, instead of
        those."""
        steps: dict[int, Message[Any] | Plan] = {}
        for start, end in _spans(members):
            steps |= zip(range(start, end), self.read(start, end), strict=True)
        steps |= self.nested(members)
        return [steps[member] for member in members]

    def runs(self, start: int, end: int) -> list[int]:
        """Which of them are runs."""
        if not self.line.nested:
            written: Iterable[int] = ()
        elif self.line.mapped:
            written = range(start, end)
        else:
            written = [member for member, step in enumerate(self._rows(start, end), start) if isinstance(step, Plan)]
        return sorted({*written, *self.nested(range(start, end))})

    def place(self, member: int, epoch: int) -> Place:
        return Place(self.run_id, self.stage, member, epoch, self.duty.generation)

    def outgoing(self, member: int, message: Message[Any], epoch: int, *, again: bool) -> Outgoing:
        leads = member < self.duty.start + self.duty.leaders
        total, generation = self.line.total or 0, self.duty.generation
        place = (self.run_id, self.stage, member, total)
        tag = Tag(*place, epoch, again, leads, self.line.batch, generation, message.actor_name)
        return job_message(message, tag, self.spec), delay_of(message, self.spec)

    def _fed(self, step: Message[Any] | Plan, value: Any) -> Message[Any] | Plan:
        if isinstance(step, Message):
            return step.copy(args=(*step.args, value))
        if self.line.piped:
            return step  # it inherits the value
        return replace(step, spec=replace(step.spec, given=self.engine.encode(value)))

    def _rows(self, start: int, end: int) -> list[Message[Any] | Plan]:
        if self.duty.rows and len(self.duty.rows) == self.duty.end - self.duty.start:
            return [from_row(row) for row in self.duty.rows[start - self.duty.start : end - self.duty.start]]
        first, generation = self.line.offset, self.duty.generation
        rows = self.engine.backend.rows(self.run_id, first + start, first + end, generation=generation)
        if len(rows) < end - start:
            raise DamagedState(f"the plan of run {self.run_id!r} lacks messages of stage {self.stage}")
        return [from_row(row) for row in rows]


@lru_cache(maxsize=16)
def _spec_from(data: bytes) -> Spec:
    """The spec that comes along with duty after duty of a series."""
    return Spec.from_bytes(data)


def _open(engine: Engine, run_id: str, duty: Duty, caller: Caller) -> Reply:
    members = Members(engine, run_id, duty)
    total = members.count_items() if members.line.mapped else 0
    return engine.backend.open(run_id, duty, total, _now(caller))


def _send(engine: Engine, lease: Lease, run_id: str, duty: Duty, caller: Caller) -> Generator[Work, None, bool]:
    """Send and start members, chunk by chunk. Returns whether that has been confirmed."""
    members = Members(engine, run_id, duty)
    if duty.leaders:  # should they come late, a sweeper does what they own
        engine.look_again(run_id, current_millis() + engine.lease_ms)
    for start, end in _chunks(max(duty.start, duty.cursor), duty.end):
        outgoing, starting = [], []
        for member, step in enumerate(members.read(start, end), start):
            if isinstance(step, Plan):
                starting.append((member, step))
            else:
                outgoing.append(members.outgoing(member, step, 0, again=duty.again))
        _expect_delays(engine, run_id, outgoing)
        is_all = end == duty.end and not (starting or duty.leaders)
        confirmed = False
        if is_all:
            confirmed = engine.courier.send_and_confirm(outgoing, run_id, duty, caller)
        else:
            engine.courier.send(outgoing)
        remember(engine, run_id, duty, members.line.total or 0)
        if confirmed:
            return True
        for member, step in starting:
            yield _start(engine, lease, members.place(member, 0), step)
        yield from _lead_for(engine, lease, run_id, outgoing[: max(duty.start + duty.leaders - start, 0)])
        if end < duty.end and engine.backend.confirm(run_id, duty, _now(caller), cursor=end) == "lost":
            break  # the lease has passed to somebody else, who sends the rest
    return False


def _expect_delays(engine: Engine, run_id: str, outgoing: Sequence[Outgoing]) -> None:
    """Have the run live until the last of these messages is due, and its keys' time to live from then on."""
    longest = max((delay for _, delay in outgoing if delay is not None), default=0)
    if longest:
        engine.wait_for(run_id, current_millis() + longest)


def remember(engine: Engine, run_id: str, sent: Duty, total: int) -> None:
    """Remember that these members were sent just now, and what comes after them."""
    engine.let_go(run_id, sent.generation, sent.stage, total)
    if engine.courier.sends_onward:
        engine.look_ahead(run_id, sent.ahead)


def _lead_for(engine: Engine, lease: Lease, run_id: str, leading: Iterable[Outgoing]) -> Work:
    """A leader with a delayed message would send its share only after its own delay, and the share's delays would begin
    then. So the sender does such a leader's share itself, now."""
    for message, delay in leading:
        if delay is not None:
            caller = engine.caller(Tag.from_option(message.options[OPTION], message.actor_name).owner)
            yield _all(engine, lease, run_id, engine.backend.owed(run_id, caller), caller)


def _retry(engine: Engine, lease: Lease, run_id: str, duty: Duty, caller: Caller) -> Work:
    """Send again what waits for that, and have nested runs do the same, some at a time."""
    members, done = Members(engine, run_id, duty), duty.cursor
    while True:
        found = engine.backend.reopen(run_id, duty, done, _now(caller))
        if found is None:
            return
        epoch, some = found[0], sorted(found[1])
        standing = engine.backend.standing(run_id, duty.stage, some, generation=duty.generation)
        wanted = [member for member, stands in zip(some, standing, strict=True) if stands == "open"]
        outgoing, runs = [], []
        for member, step in zip(wanted, members.pick(wanted), strict=True):
            if isinstance(step, Plan):
                runs.append((member, step))
            else:
                outgoing.append(members.outgoing(member, step, epoch, again=True))
        _expect_delays(engine, run_id, outgoing)
        engine.courier.send(outgoing)
        for member, step in runs:
            yield _revive(engine, lease, members.place(member, epoch), step, by_hand=False)
        done += 1


def _send_again(engine: Engine, lease: Lease, run_id: str, duty: Duty, caller: Caller) -> Work:
    """Send members of a range again, in a new epoch, and have nested runs do the same."""
    members = Members(engine, run_id, duty)
    for start, end in _chunks(max(duty.start, duty.cursor), duty.end):
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
                outgoing.append(members.outgoing(member, step, duty.epoch, again=True))
        _expect_delays(engine, run_id, outgoing)
        engine.courier.send(outgoing)
        for member, step in runs:
            yield _revive(engine, lease, members.place(member, duty.epoch), step, by_hand=duty.kind == "resend")
        if end < duty.end and engine.backend.confirm(run_id, duty, _now(caller), cursor=end) == "lost":
            return


def _is_wanted(duty: Duty, line: StageLine, step: Message[Any] | Plan, stands: Standing | None) -> bool:
    """Whether a duty concerns a member that stands so. What waits to be sent again is a `retry`'s; but nested runs are
    many hands' work, unless it has to be seen what there is room for."""
    if isinstance(step, Plan) and stands == "waiting" and duty.kind != "resend":
        return line.limit is None
    if duty.kind == "resume":
        return stands is None
    if duty.kind == "revive" and not isinstance(step, Plan):
        return False
    return stands not in ("succeeded", "dead", "waiting")


def _ignores(step: Message[Any] | Plan) -> bool:
    """Whether a step doesn't want the previous result: Dramatiq's own option for pipelines."""
    return isinstance(step, Message) and bool(step.options.get("pipe_ignore"))


def _chunks(start: int, end: int) -> Iterator[tuple[int, int]]:
    for at in range(start, end, CHUNK):
        yield at, min(at + CHUNK, end)


def _spans(members: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Members in ascending order as ranges `start` ≤ i < `end`."""
    start = end = -1
    for member in members:
        if member == end:
            end += 1
            continue
        if start >= 0:
            yield start, end
        start, end = member, member + 1
    if start >= 0:
        yield start, end


def _batches(items: Iterable[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """The items, some at a time, each time with the index of the first."""
    start, batch, size = 0, list[bytes](), 0
    for item in items:
        batch.append(item)
        size += len(item)
        if len(batch) == CHUNK or size >= MOST_BYTES:
            yield start, batch
            start, batch, size = start + len(batch), [], 0
    if batch:
        yield start, batch


def job_message(message: Message[Any], tag: Tag, spec: Spec) -> Message[Any]:
    """A plan's message, ready to be sent: in its place, with a derived id, the run's queue and a fresh timestamp
    (AgeLimit looks at it)."""
    return changed(
        message,
        queue_name=spec.queue or message.queue_name,
        message_id=tag.message_id,
        message_timestamp=current_millis(),
        options={**message.options, OPTION: tag.to_option()},
    )


def delay_of(message: Message[Any], spec: Spec) -> int | None:
    """How long a message is to wait: its own delay counts from now, its stage's release; the run's from `run()`."""
    own = message.options.get("delay") or 0
    if not isinstance(own, int | float):
        raise HandOverFailed(f"the delay of message {message.message_id} isn't a number of milliseconds: {own!r}")
    rest = spec.start_at - current_millis() if spec.start_at else 0
    return max(int(own), rest, 0) or None


# Callbacks


def _call_back(engine: Engine, run_id: str, duty: Duty) -> None:
    if duty.snapshot is None:
        raise DamagedState(f"the duty {duty.id!r} of run {run_id!r} has no snapshot")
    status = status_from(run_id, duty.snapshot).asdict() | {"event": duty.kind, "stage": duty.stage}
    outgoing: list[Outgoing] = []
    for index, row in enumerate(engine.spec(run_id, duty.generation).callbacks[duty.kind]):
        message = message_from(row)
        args = message.args if duty.kind == "completion" else (*message.args, status)  # a group's take no status
        tag = CallbackTag(run_id, duty.generation, duty.id, index, message.actor_name)
        stamped = message.copy(
            args=args,
            message_id=tag.message_id,
            message_timestamp=current_millis(),
            options={OPTION: tag.to_option()},
        )
        outgoing.append((stamped, stamped.options.get("delay")))
    _expect_delays(engine, run_id, outgoing)
    engine.courier.send(outgoing)


# Nested runs


def _start_nested(engine: Engine, lease: Lease, run_id: str, duty: Duty) -> Work:
    """Start what a job has nested, now that it has succeeded."""
    plan = Members(engine, run_id, duty).nested([duty.start]).get(duty.start)
    if plan is not None:  # else its stage is over, or its run cancelled
        yield _start(engine, lease, Place(run_id, duty.stage, duty.start, generation=duty.generation), plan)


def _start(engine: Engine, lease: Lease, place: Place, plan: Plan) -> Work:
    """Start the run that stands there. Starting it twice makes one."""
    caller = engine.caller(f"start {place.epoch}")
    reply = engine.create(place.child_id, plan.at(place), caller)
    yield _all(engine, lease, place.child_id, reply, caller)


def _revive(engine: Engine, lease: Lease, place: Place, plan: Plan, *, by_hand: bool) -> Work:
    """Have a nested run retry, or send its unsettled members again; start it anew if it is gone."""
    caller = engine.caller(f"revive {place.epoch}")
    child, generation, backend = place.child_id, place.child_generation, engine.backend
    engine.look_again(child, current_millis() + engine.lease_ms)
    if by_hand:
        reply = backend.resend(child, caller, generation=generation)
    else:
        reply = backend.retry(child, caller, since=place.epoch, generation=generation)
    if reply.word == "unknown":
        yield _start(engine, lease, place, plan)
    else:
        yield _all(engine, lease, child, reply, caller)


def _halt(engine: Engine, lease: Lease, run_id: str, duty: Duty) -> Work:
    """Cancel the nested runs of a cancelled one, also those that are just being started."""
    members = Members(engine, run_id, duty)
    for start, end in _chunks(duty.start, duty.end):
        for member in members.runs(start, end):
            place = members.place(member, duty.epoch)
            caller = engine.caller(f"halt {duty.epoch}")
            reply = engine.backend.cancel(place.child_id, caller, bury=duty.epoch, generation=place.child_generation)
            yield _all(engine, lease, place.child_id, reply, caller)


def _tell(engine: Engine, lease: Lease, run_id: str, duty: Duty) -> Work:
    """Say to the parent how this run stands: its present state, with a revision, and its result."""
    spec = engine.spec(run_id, duty.generation)
    if duty.snapshot is None or spec.parent is None:
        raise DamagedState(f"the duty {duty.id!r} of run {run_id!r} has no snapshot, or the run no parent")
    status, ending = status_from(run_id, duty.snapshot), duty.snapshot["head"]["told"]
    payload = b"" if ending == "succeeded" else details_of(status)
    if ending == "succeeded":
        try:
            payload = _result_of(engine, status, spec)
        except Exception as error:
            if not is_final(error):
                raise
            # The parent would wait for ever.
            logger.exception("The result of nested run %s can't be handed on", run_id)
            ending, payload = "dead", failure_details(error, message_id=run_id)
    place = spec.parent
    caller = engine.caller(f"told {place.stage}.{place.member} {duty.revision}")
    record = Record(_tag(place), duty.revision, ending, payload, of_run=True)
    try:
        reply = engine.backend.record(record, caller)
    except PayloadRefused as error:
        logger.exception("The result of nested run %s can't be handed on", run_id)
        refused = replace(record, ending="dead", payload=failure_details(error, message_id=run_id))
        reply = engine.backend.record(refused, caller)
    yield _all(engine, lease, place.run_id, reply, caller)
    if engine.is_due(run_id):
        engine.touch_ancestors(run_id)


def _result_of(engine: Engine, status: RunStatus, spec: Spec) -> bytes:
    """A succeeded run's result as bytes; of runs that a job nested, what the job returned."""
    if spec.own is not None:
        return spec.own
    if not status.stages:
        return engine.encode(None)
    last, generation = len(status.stages) - 1, spec.generation
    line = engine.line(status.run_id, last, generation)
    if not line.many:
        (mark,) = engine.backend.results(status.run_id, last, 0, 1, generation=generation)
        if mark is not None and mark.startswith(SUCCEEDED):
            return mark[len(SUCCEEDED) :]
    _, results = engine.stage_results(status.run_id, last, generation)
    if isinstance(spec.yields, int):
        return engine.encode(results[spec.yields])
    if spec.yields is not None:
        return engine.encode([results[index] for index in spec.yields])
    return engine.encode(results)


def _tag(place: Place) -> Tag:
    return Tag(place.run_id, place.stage, place.member, place.member + 1, place.epoch, generation=place.generation)


def _now(caller: Caller) -> Caller:
    """The same caller, at the present time."""
    return replace(caller, now=current_millis())
