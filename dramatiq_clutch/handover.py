"""Does what a transition owes: opens and sends stages, sends callbacks, starts nested runs, tells the parent; then
confirms.

A duty may be done twice (its lease lapsed while its holder slept), so everything here can be: messages and nested runs
have derived ids, and a second copy is known by its member's state.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any

from dramatiq import Message
from dramatiq.common import current_millis
from dramatiq.logging import get_logger

from .backend import LAST, Caller, Confirmation, Duty, Record, Reply, Standing
from .dispatch import Outgoing, send
from .engine import SUCCEEDED, Engine
from .errors import DamagedState, HandOverFailed, Unavailable
from .plan import CALLBACK, EVENTS, OPTION, Place, Plan, Spec, StageLine, Tag, changed, from_row, message_from
from .status import RunStatus, details_of, failure_details, status_from

#: How many members are sent between two confirmations.
CHUNK = 1_000

#: Specs of so many bytes are remembered; one that was given more would take the worker's memory.
LITTLE = 10_000

logger = get_logger(__name__)

#: A duty's work. It yields other runs' work that has to be done before it goes on: what is owed is confirmed only
#: after whatever it has caused is done, however deep runs nest, and without deep recursion.
Work = Iterator["Work"]
Doing = Generator["Work", None, Iterable[Duty]]


def hand_over(engine: Engine, run_id: str, reply: Reply, caller: Caller) -> None:
    """Do a transition's duties, and all that follows from them, in order. Raises Unavailable; they then stay owed."""
    stack: list[Work] = [_all(engine, run_id, reply.duties, caller)]
    while stack:
        deeper = next(stack[-1], None)
        if deeper is None:
            stack.pop()
        else:
            stack.append(deeper)


def sweep(engine: Engine, limit: int = 100) -> int:
    """Finish what is owed and nobody does: duties whose lease has lapsed. Returns how many runs were looked at."""
    now = current_millis()
    due = engine.backend.due(now, now + 2 * engine.lease_ms, limit)
    for run_id in due:
        caller = engine.caller("sweeper")
        reply = engine.backend.owed(run_id, caller)
        hand_over(engine, run_id, reply, caller)
        if reply.word == "unknown":
            engine.backend.look_again(run_id, None, run_ttl=engine.run_ttl)
        elif reply.word == "clear":  # whatever it will owe has an owner with a message, which comes again
            engine.backend.look_again(run_id, now + engine.run_ttl, run_ttl=engine.run_ttl)
    return len(due)


def report_gone(engine: Engine, run_id: str) -> None:
    """Tell the parent of a nested run that it isn't there any more."""
    place = Place.of_child(run_id)
    if place is None:
        return
    details = failure_details(
        None, message_id=run_id, text=f"nested run {run_id} is gone: it has expired or was removed"
    )
    tag, caller = _tag(place), engine.caller(f"gone {place.stage}.{place.member}")
    reply = engine.backend.record(Record(tag, LAST, "dead", details, of_run=True), caller)
    hand_over(engine, place.run_id, reply, caller)


def _all(engine: Engine, run_id: str, duties: Iterable[Duty], caller: Caller) -> Work:
    for duty in duties:
        try:
            more = yield from _do(engine, run_id, duty, caller)
        except Unavailable:
            raise
        except Exception as error:
            reply = engine.backend.fail(run_id, duty, failure_details(error), _now(caller))
            if reply.word == "lost":  # somebody else holds it by now, or has done it
                logger.info("Duty %s of run %s has passed on: %r", duty.id, run_id, error)
            else:
                logger.error("Run %s fails: its duty %s can't be done", run_id, duty.id, exc_info=error)
            more = reply.duties
        if more:
            yield _all(engine, run_id, more, caller)


def _do(engine: Engine, run_id: str, duty: Duty, caller: Caller) -> Doing:
    """Do one duty and confirm it. Returns what comes of it."""
    if duty.kind == "open":
        return _open(engine, run_id, duty, caller)
    if duty.kind in EVENTS:
        _call_back(engine, run_id, duty)
    elif duty.kind == "tell":
        yield from _tell(engine, run_id, duty)
    elif duty.kind == "start":
        yield from _start_nested(engine, run_id, duty)
    elif duty.kind == "halt":
        yield from _halt(engine, run_id, duty)
    elif duty.kind == "send":
        if (yield from _send(engine, run_id, duty, caller)):
            return ()
    else:
        yield from _send_again(engine, run_id, duty, caller)
    engine.backend.confirm(run_id, duty, _now(caller))
    return ()


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
            return self.engine.spec(self.run_id)
        return _spec_from(data) if len(data) <= LITTLE else Spec.from_bytes(data)

    @cached_property
    def nested(self) -> dict[int, Plan]:
        """What jobs of this stage have nested: it stands in their place."""
        found = self.engine.backend.nested(self.run_id, self.stage)
        return {member: Plan.from_bytes(plan) for member, plan in found.items()}

    def count_items(self) -> int:
        """Over how many items a mapped stage is mapped. Raises HandOverFailed if they aren't a list's."""
        line = self._source
        return (line.total or 0) if line and line.many else len(self._list)

    def items(self, start: int, end: int) -> list[Any]:
        """Some of them. Of a stage of many no more is read than that."""
        line = self._source
        if line and line.many:
            return self.engine.results(self.run_id, self.stage - 1, line, start, end)
        return self._list[start:end]

    @cached_property
    def _source(self) -> StageLine | None:
        """The stage before; None where that is no stage of this run."""
        return self.engine.line(self.run_id, self.stage - 1) if self.stage else None

    @property
    def _list(self) -> list[Any]:
        """The list that a stage of one has left. A worker keeps the last one of a stage with a limit, which it comes
        back to for each few members."""
        key, lists = (self.run_id, self.stage), self.engine.lists
        found = lists.get(key)
        if found is None:
            found = self._read_list
            if self.line.limit:
                lists.clear()
                lists[key] = found
        return found

    @cached_property
    def _read_list(self) -> list[Any]:
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
            return StageLine.parse(line).many, [self.engine.backend.encoder.decode(mark[len(SUCCEEDED) :])]
        return self.engine.previous(self.run_id, self.stage)

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

    def runs(self, start: int, end: int) -> list[int]:
        """Which of them are runs."""
        if not self.line.nested:
            written: Iterable[int] = ()
        elif self.line.mapped:
            written = range(start, end)
        else:
            written = [member for member, step in enumerate(self._rows(start, end), start) if isinstance(step, Plan)]
        return sorted({*written, *(member for member in self.nested if start <= member < end)})

    def place(self, member: int, epoch: int) -> Place:
        return Place(self.run_id, self.stage, member, epoch)

    def outgoing(self, member: int, message: Message[Any], epoch: int, *, again: bool) -> Outgoing:
        leads = member < self.duty.start + self.duty.leaders
        tag = Tag(self.run_id, self.stage, member, self.line.total or 0, epoch, again, leads, self.line.batch)
        return job_message(message, tag, self.spec), delay_of(message, self.spec)

    def _fed(self, step: Message[Any] | Plan, value: Any) -> Message[Any] | Plan:
        if isinstance(step, Message):
            return step.copy(args=(*step.args, value))
        if self.line.piped:
            return step  # it inherits the value
        return replace(step, spec=replace(step.spec, given=self.engine.backend.encode(value)))

    def _rows(self, start: int, end: int) -> list[Message[Any] | Plan]:
        if self.duty.rows and len(self.duty.rows) == self.duty.end - self.duty.start:
            return [from_row(row) for row in self.duty.rows[start - self.duty.start : end - self.duty.start]]
        rows = self.engine.backend.rows(self.run_id, self.line.offset + start, self.line.offset + end)
        if len(rows) < end - start:
            raise DamagedState(f"the plan of run {self.run_id!r} lacks messages of stage {self.stage}")
        return [from_row(row) for row in rows]


@lru_cache(maxsize=16)
def _spec_from(data: bytes) -> Spec:
    """The spec that comes along with duty after duty of a series."""
    return Spec.from_bytes(data)


def _open(engine: Engine, run_id: str, duty: Duty, caller: Caller) -> Sequence[Duty]:
    members = Members(engine, run_id, duty)
    total = members.count_items() if members.line.mapped else 0
    return engine.backend.open(run_id, duty, total, _now(caller)).duties


def _send(engine: Engine, run_id: str, duty: Duty, caller: Caller) -> Generator[Work, None, bool]:
    """Send and start members, chunk by chunk. Returns whether that has been confirmed."""
    members = Members(engine, run_id, duty)
    if duty.leaders:  # should they come late, a sweeper does what they own
        engine.backend.look_again(run_id, current_millis() + engine.lease_ms, run_ttl=engine.run_ttl)
    for start, end in _chunks(max(duty.start, duty.cursor), duty.end):
        outgoing, starting = [], []
        for member, step in enumerate(members.read(start, end), start):
            if isinstance(step, Plan):
                starting.append(_start(engine, members.place(member, 0), step))
            else:
                outgoing.append(members.outgoing(member, step, 0, again=duty.again))
        is_all = end == duty.end and not (starting or duty.leaders)
        confirmed = send(engine.broker, outgoing, _confirmation(engine, run_id, duty, caller) if is_all else None)
        remember(engine, run_id, duty, members.line.total or 0)
        if confirmed:
            return True
        yield from starting
        yield from _lead_for(engine, run_id, outgoing[: max(duty.start + duty.leaders - start, 0)])
        if end < duty.end and engine.backend.confirm(run_id, duty, _now(caller), cursor=end) == "lost":
            break  # the lease has passed to somebody else, who sends the rest
    return False


def remember(engine: Engine, run_id: str, sent: Duty, total: int) -> None:
    """Remember that these members were sent just now, and what comes after them."""
    engine.let_go(run_id, sent.stage, total)
    if engine.backend.shares(getattr(engine.broker, "client", None)):
        engine.look_ahead(run_id, sent.ahead)


def _confirmation(engine: Engine, run_id: str, duty: Duty, caller: Caller) -> Confirmation | None:
    return engine.backend.confirmation(run_id, duty, caller, getattr(engine.broker, "client", None))


def _lead_for(engine: Engine, run_id: str, leading: Iterable[Outgoing]) -> Work:
    """Do the shares of those whose own messages are delayed: others' delays begin when they are sent."""
    for message, delay in leading:
        if delay is not None:
            caller = engine.caller(Tag.from_option(message.options[OPTION]).owner)
            yield _all(engine, run_id, engine.backend.owed(run_id, caller).duties, caller)


def _send_again(engine: Engine, run_id: str, duty: Duty, caller: Caller) -> Work:
    """Send members of a stage again, in a new epoch, and have nested runs do the same."""
    members = Members(engine, run_id, duty)
    waits = duty.kind == "resume" and members.line.limit is not None  # the others', for retries as the limit allows
    for start, end in _chunks(max(duty.start, duty.cursor), duty.end):
        standing = engine.backend.standing(run_id, duty.stage, start, end)
        steps, outgoing = members.read(start, end), []
        for member, step, stands in zip(range(start, end), steps, standing, strict=True):
            step = members.nested.get(member, step)
            if stands is not None and (stands.kind == "succeeded" or waits):
                continue
            if isinstance(step, Plan):
                yield _revive(engine, members.place(member, duty.epoch), step, by_hand=duty.kind == "resend")
            elif _is_wanted(duty, stands):
                outgoing.append(members.outgoing(member, step, duty.epoch, again=True))
        send(engine.broker, outgoing)
        if end < duty.end and engine.backend.confirm(run_id, duty, _now(caller), cursor=end) == "lost":
            return


def _is_wanted(duty: Duty, stands: Standing | None) -> bool:
    if duty.kind == "resume":
        return True
    if duty.kind == "resend":
        return stands is None or stands.kind != "dead"
    return stands is not None and stands.kind == "open" and stands.epoch == duty.epoch


def _ignores(step: Message[Any] | Plan) -> bool:
    """Whether a step doesn't want the previous result: Dramatiq's own option for pipelines."""
    return isinstance(step, Message) and bool(step.options.get("pipe_ignore"))


def _chunks(start: int, end: int) -> Iterator[tuple[int, int]]:
    for at in range(start, end, CHUNK):
        yield at, min(at + CHUNK, end)


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
    rest = spec.start_at - current_millis() if spec.start_at else 0
    return max(own, rest, 0) or None


# Callbacks


def _call_back(engine: Engine, run_id: str, duty: Duty) -> None:
    if duty.snapshot is None:
        raise DamagedState(f"the duty {duty.id!r} of run {run_id!r} has no snapshot")
    status = status_from(run_id, duty.snapshot).asdict() | {"event": duty.kind, "stage": duty.stage}
    outgoing: list[Outgoing] = []
    for index, row in enumerate(engine.spec(run_id).callbacks[duty.kind]):
        message = message_from(row)
        args = message.args if duty.kind == "completion" else (*message.args, status)  # a group's take no status
        message_id = f"{run_id}/{duty.id}" + (f".{index}" if index else "")
        stamped = message.copy(
            args=args, message_id=message_id, message_timestamp=current_millis(), options={OPTION: CALLBACK}
        )
        outgoing.append((stamped, stamped.options.get("delay")))
    send(engine.broker, outgoing)


# Nested runs


def _start_nested(engine: Engine, run_id: str, duty: Duty) -> Work:
    """Start what a job has nested, now that it has succeeded."""
    plan = Members(engine, run_id, duty).nested.get(duty.start)
    if plan is not None:  # else its stage is over, or its run cancelled
        yield _start(engine, Place(run_id, duty.stage, duty.start), plan)


def _start(engine: Engine, place: Place, plan: Plan) -> Work:
    """Start the run that stands there. Starting it twice makes one."""
    caller = engine.caller(f"start {place.epoch}")
    reply = engine.create(place.child_id, plan.at(place), caller)
    yield _all(engine, place.child_id, reply.duties, caller)


def _revive(engine: Engine, place: Place, plan: Plan, *, by_hand: bool) -> Work:
    """Have a nested run retry, or send its unsettled members again; start it anew if it is gone."""
    caller = engine.caller(f"revive {place.epoch}")
    child, backend = place.child_id, engine.backend
    reply = backend.resend(child, caller) if by_hand else backend.retry(child, caller, since=place.epoch)
    if reply.word == "unknown":
        yield _start(engine, place, plan)
    else:
        yield _all(engine, child, reply.duties, caller)


def _halt(engine: Engine, run_id: str, duty: Duty) -> Work:
    """Cancel the nested runs of a cancelled one, also those that are just being started."""
    members = Members(engine, run_id, duty)
    for start, end in _chunks(0, members.line.total or 0):
        for member in members.runs(start, end):
            child = members.place(member, duty.epoch).child_id
            caller = engine.caller(f"halt {duty.epoch}")
            reply = engine.backend.cancel(child, caller, bury=duty.epoch)
            yield _all(engine, child, reply.duties, caller)


def _tell(engine: Engine, run_id: str, duty: Duty) -> Work:
    """Say to the parent how this run stands: its present state, with a revision, and its result."""
    spec = engine.spec(run_id)
    if duty.snapshot is None or spec.parent is None:
        raise DamagedState(f"the duty {duty.id!r} of run {run_id!r} has no snapshot, or the run no parent")
    status, ending = status_from(run_id, duty.snapshot), duty.snapshot["head"]["told"]
    payload = b"" if ending == "succeeded" else details_of(status)
    if ending == "succeeded":
        try:
            payload = _result_of(engine, status, spec)
        except Unavailable:
            raise
        except Exception as error:  # else the parent would wait for ever
            logger.exception("The result of nested run %s can't be handed on", run_id)
            ending, payload = "dead", failure_details(error, message_id=run_id)
    place = spec.parent
    caller = engine.caller(f"told {place.stage}.{place.member} {duty.revision}")
    reply = engine.backend.record(Record(_tag(place), duty.revision, ending, payload, of_run=True), caller)
    yield _all(engine, place.run_id, reply.duties, caller)
    if engine.is_due(run_id):
        engine.touch_ancestors(run_id)


def _result_of(engine: Engine, status: RunStatus, spec: Spec) -> bytes:
    """A succeeded run's result as bytes; of runs that a job nested, what the job returned."""
    if spec.own is not None:
        return spec.own
    if not status.stages:
        return engine.backend.encode(None)
    last = len(status.stages) - 1
    line = engine.line(status.run_id, last)
    if not line.many:
        (mark,) = engine.backend.results(status.run_id, last, 0, 1)
        if mark is not None and mark.startswith(SUCCEEDED):
            return mark[len(SUCCEEDED) :]
    _, results = engine.stage_results(status.run_id, last)
    if isinstance(spec.yields, int):
        return engine.backend.encode(results[spec.yields])
    if spec.yields is not None:
        return engine.backend.encode([results[index] for index in spec.yields])
    return engine.backend.encode(results)


def _tag(place: Place) -> Tag:
    return Tag(place.run_id, place.stage, place.member, place.member + 1, place.epoch)


def _now(caller: Caller) -> Caller:
    """The same caller, at the present time."""
    return replace(caller, now=current_millis())
