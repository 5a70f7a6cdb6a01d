"""Reads the members of a stage from the plan, and makes them ready to be sent or started."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from dramatiq import JSONEncoder, Message
from dramatiq.common import current_millis

from ..about import Context
from ..carrying import check_size, laid
from ..courier import Outgoing, Written
from ..engine import Engine
from ..errors import DamagedState, HandOverFailed, ResultsGone
from ..forks import cached_property
from ..shortening import beginning_of
from ..stored.duties import OfStage, OpenStage, SendMembers
from ..stored.formats import result_in
from ..stored.messages import changed, plain
from ..stored.places import OPTION, Place, Tag
from ..stored.plan import Plan, Spec, StageLine, from_row
from .work import CHUNK

#: How many bytes of a mapped stage's items are written at a time.
MOST_BYTES = 1_000_000

#: How many bytes a spec may have at most to be cached. Larger ones would take too much of the worker's memory.
LITTLE = 10_000


class Members:
    """The members of the stage that a duty concerns. What came along with the duty isn't read again. Nor is `result`,
    the encoded result of the only member of the stage before, if it is given and what came along lacks it."""

    def __init__(self, engine: Engine, run_id: str, duty: OfStage, *, result: bytes | None = None) -> None:
        self.engine: Engine = engine
        self.run_id: str = run_id
        self.duty: OfStage = duty
        self.stage: int = duty.stage
        self.sent: SendMembers | None = duty if isinstance(duty, SendMembers) else None
        self.line: StageLine = StageLine.parse(duty.line)
        self._read: tuple[int, int] = 0, 0  # from where to where the rows were read last, which are
        self._found: Sequence[bytes] = ()
        self._result = result

    @cached_property
    def spec(self) -> Spec:
        data = self.sent.spec if self.sent else b""
        if not data:
            return self.engine.reader.spec(self.run_id, self.duty.generation)
        return _spec_from(data) if len(data) <= LITTLE else Spec.from_bytes(data)

    @cached_property
    def context(self) -> Context:
        """The run's context. The spec tells whether there is one."""
        has_one = self.spec.context is not None
        return self.engine.reader.context(self.run_id, self.duty.generation) if has_one else Context()

    def nested(self, members: Sequence[int]) -> dict[int, Plan]:
        """The plans of the runs that jobs among these members have nested, by member."""
        found = self.engine.backend.nested(self.run_id, self.stage, members, generation=self.duty.generation)
        return {member: Plan.from_bytes(plan) for member, plan in found.items()}

    def count_items(self, duty: OpenStage) -> int:
        """How many items a mapped stage has.

        If the stage before has one member, its result must be a list; the items are then written down one by one, so
        that a share needn't read all of them. Raises HandOverFailed if the result isn't a list, or an item can't be
        encoded.
        """
        if self._source:
            return self._source[-1].total or 0
        items, backend = self._read_list(), self.engine.backend
        for start, encoded in _batches(map(backend.encode, items)):
            backend.write_items(self.run_id, duty, start, encoded, run_ttl=self.engine.run_ttl)
        return len(items)

    def items(self, start: int, end: int) -> list[Any]:
        """The items `start` ≤ i < `end` of a mapped stage. Only these are read. Raises ResultsGone."""
        if self._source:
            return self.engine.reader.results(*self._source, start, end)
        decode = self.engine.backend.encoder.decode
        found = self.engine.backend.items(self.run_id, self.stage, start, end, generation=self.duty.generation)
        if len(found) < end - start:
            raise ResultsGone(f"the items of stage {self.stage} of run {self.run_id!r} are gone: they have expired")
        return [decode(item) for item in found]

    @cached_property
    def _source(self) -> tuple[str, int, str, StageLine] | None:
        """The stage over whose results this one maps, if that is a `parallel` or `map` stage: its run, its index, its
        generation and its line. For the first stage of a nested run it is a stage of one of the runs around it."""
        found = self.engine.reader.previous_stage(self.run_id, self.stage, self.duty.generation)
        if not isinstance(found, tuple):
            return None
        line = self.engine.reader.line(*found)
        return (*found, line) if line.many else None

    def _read_list(self) -> list[Any]:
        """The items, if they aren't the results of a `parallel` or `map` stage: the list that is the only result, or
        the item that this run was made for. Raises HandOverFailed if that isn't a list."""
        many, results = self._previous
        if many:
            return results  # there are none: the first stage of a run that sees nothing
        (value,) = results
        if not isinstance(value, list):
            what = f"the result of stage {self.stage - 1}" if self.stage else "what the stage around it sees"
            raise HandOverFailed(
                f"stage {self.stage} maps over {what}, which must be a list; it is a {type(value).__name__}: "
                + beginning_of(repr(value), 100)
            )
        return value

    @cached_property
    def _previous(self) -> tuple[bool, list[Any]]:
        if self.sent and self.sent.previous:
            line, field = self.sent.previous
            result = result_in(field) if self._result is None else self._result
            if result is not None:
                return StageLine.parse(line).many, [self.engine.reader.decode(result)]
        return self.engine.reader.previous(self.run_id, self.stage, self.duty.generation)

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
        """These members, which must be in ascending order. A job that has nested runs is replaced by the plan of
        these."""
        steps: dict[int, Message[Any] | Plan] = {}
        for start, end in _spans(members):
            steps |= zip(range(start, end), self.read(start, end), strict=True)
        steps |= self.nested(members)
        return [steps[member] for member in members]

    def runs(self, start: int, end: int) -> list[int]:
        """Which of the members `start` ≤ i < `end` are nested runs, or jobs that have nested runs."""
        if not self.line.nested:
            written: Iterable[int] = ()
        elif self.line.mapped:
            written = range(start, end)
        else:
            written = [member for member, step in enumerate(self._rows(start, end), start) if isinstance(step, Plan)]
        return sorted({*written, *self.nested(range(start, end))})

    def place(self, member: int, epoch: int) -> Place:
        return Place(self.run_id, self.stage, member, epoch, self.duty.generation)

    def outgoing(self, member: int, message: Message[Any], epoch: int, *, repeated: bool) -> Outgoing:
        leads = self.sent is not None and member < self.sent.start + self.sent.leaders
        tag = self._tag(member, message.actor_name, epoch, repeated=repeated, leads=leads)
        delay = delay_of(message, self.spec, self.line, self.engine.now())
        return job_message(message, tag, self.spec, self.line), delay

    def written(self, start: int, end: int) -> list[Written] | None:
        """The members `start` ≤ i < `end` as the bytes that `outgoing` would come to, which takes a fifth of the time.
        None unless all of them are jobs that can be sent at once, and without being decoded. Raises DamagedState."""
        line, spec, sent = self.line, self.spec, self.sent
        if sent is None or sent.repeated or start < sent.start + sent.leaders or line.mapped or line.piped:
            return None
        if spec.queue or spec.carried or spec.start_at or line.start_at:
            return None
        rows = [found for row in self._bytes(start, end) if (found := plain(row))]
        if len(rows) < end - start:
            return None
        tag, now = self._tag(start, "", 0, repeated=False, leads=False), current_millis()
        before, after = _around_member(tag)
        messages = list[Written]()
        for member, (queue, actor, body) in enumerate(rows, start):
            message_id = tag.id_of(member, actor)
            begins = b'%b,"options":%b%d%b,"redis_message_id":"' % (body, before, member, after)
            ends = b'"},"message_id":"%b","message_timestamp":%d}' % (message_id.encode(), now)
            messages.append(Written(queue, message_id, begins, ends))
        return messages

    def _tag(self, member: int, actor: str, epoch: int, *, repeated: bool, leads: bool) -> Tag:
        """What the message of a member to this actor says of its place."""
        line, place = self.line, (self.run_id, self.stage, member, self.line.total or 0)
        has_args = self.stage == 0 and self.spec.parent is None and self.spec.item is not None
        terms = line.wary or self.spec.deadline is not None, line.exact, has_args, self.spec.timed
        return Tag(*place, epoch, repeated, leads, line.batch, self.duty.generation, actor, *terms)

    def starting(self, plan: Plan) -> Plan:
        """The plan of a nested run among the members, as it is started: it begins when its stage does, and not before
        its parent; and its context is laid over that of its parent. Raises HandOverFailed if that is too large."""
        times = (plan.spec.start_at, self.line.start_at, self.spec.start_at)
        start_at, context = max(time or 0 for time in times) or None, self.context.overlaid(plan.spec.context)
        if plan.spec.context:
            try:
                context.check_size(f"the context of a run nested in {self.run_id!r}")
            except ValueError as error:
                raise HandOverFailed(str(error)) from error
        spec = replace(plan.spec, start_at=start_at, context=context or None, carried=self._carried(plan.spec))
        return replace(plan, spec=spec)

    def _carried(self, nested: Spec) -> Context | None:
        """What the messages of a nested run carry: its own options over those of its parent. Raises HandOverFailed if
        these are too large together."""
        if not (nested.carried and self.spec.carried):
            return nested.carried or self.spec.carried
        carried = self.spec.carried.overlaid(nested.carried)
        try:
            check_size(carried)
        except ValueError as error:
            raise HandOverFailed(f"run nested in {self.run_id!r}: {error}") from error
        return carried

    def _fed(self, step: Message[Any] | Plan, value: Any) -> Message[Any] | Plan:
        if isinstance(step, Message):
            into = self.line.into
            into_it = {"kwargs": {**step.kwargs, into: value}} if into else {"args": (*step.args, value)}
            return changed(step, **into_it)
        if self.line.piped:
            return step  # a nested run reads the value by itself (`Spec.inherits`)
        return replace(step, spec=replace(step.spec, item=self.engine.reader.encode(value)))

    def _rows(self, start: int, end: int) -> list[Message[Any] | Plan]:
        return [from_row(row) for row in self._bytes(start, end)]

    def _bytes(self, start: int, end: int) -> Sequence[bytes]:
        sent = self.sent
        if sent and sent.rows and len(sent.rows) == sent.end - sent.start:
            return sent.rows[start - sent.start : end - sent.start]
        if (start, end) == self._read:
            return self._found
        first, generation = self.line.offset, self.duty.generation
        rows = self.engine.backend.rows(self.run_id, first + start, first + end, generation=generation)
        if len(rows) < end - start:
            raise DamagedState(f"the plan of run {self.run_id!r} lacks messages of stage {self.stage}")
        self._read, self._found = (start, end), rows
        return rows


@lru_cache(maxsize=16)
def _spec_from(data: bytes) -> Spec:
    """The decoded spec. It is cached, because it comes along with each duty of a series."""
    return Spec.from_bytes(data)


def _around_member(tag: Tag) -> tuple[bytes, bytes]:
    """What stands in a message before and behind the number of the member, from its options on: what all members of the
    stage have in common."""
    option, encode = tag.to_option(), JSONEncoder().encode
    names = list(option)
    at = names.index("member")
    before, after = [{name: option[name] for name in some} for some in (names[:at], names[at + 1 :])]
    return b'{"%b":%b,"member":' % (OPTION.encode(), encode(before)[:-1]), b",%b" % encode(after)[1:]


def _ignores(step: Message[Any] | Plan) -> bool:
    """Whether a step doesn't want the previous result: Dramatiq's own option for pipelines."""
    return isinstance(step, Message) and bool(step.options.get("pipe_ignore"))


def _spans(members: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The ranges `start` ≤ i < `end` that consecutive members make. The members must be in ascending order."""
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
    """Yields the items in batches, each with the index of its first item."""
    start, batch, size = 0, list[bytes](), 0
    for item in items:
        batch.append(item)
        size += len(item)
        if len(batch) == CHUNK or size >= MOST_BYTES:
            yield start, batch
            start, batch, size = start + len(batch), [], 0
    if batch:
        yield start, batch


def job_message(message: Message[Any], tag: Tag, spec: Spec, line: StageLine) -> Message[Any]:
    """A plan's message, ready to be sent: with its tag, its derived id, the run's queue and carried options, and as its
    timestamp the present time, or when its stage begins, because AgeLimit looks at that: a job isn't too old for having
    waited."""
    ready = changed(
        message,
        queue_name=spec.queue or message.queue_name,
        message_id=tag.message_id,
        message_timestamp=max(current_millis(), line.start_at or 0, spec.start_at or 0),
        options={**message.options, OPTION: tag.to_option()},
    )
    return laid(ready, spec.carried)


def delay_of(message: Message[Any], spec: Spec, line: StageLine, now: int) -> int | None:
    """For how many milliseconds from now a message is delayed, or None. Its own delay counts from when its stage
    begins: now, when it is released, or when its wait is over. The delay of the run counts from `run()`. Raises
    HandOverFailed for a delay that isn't a number."""
    own = message.options.get("delay") or 0
    if not isinstance(own, int | float):
        raise HandOverFailed(f"the delay of message {message.message_id} isn't a number of milliseconds: {own!r}")
    waits = max((line.start_at or 0) - now, 0)
    rest = spec.start_at - now if spec.start_at else 0
    return max(int(own) + waits, rest, 0) or None
