"""The running job: what it can ask, what it nested, and how its attempt ended."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

from dramatiq import Message, MessageProxy

from .engine import Engine
from .errors import NestingError, NewerRelease
from .run import NestedRun, Run
from .status import JobFailure
from .stored import owners
from .stored.places import OPTION, CallbackTag, Place, Tag, tag_of
from .stored.plan import Plan, Spec, StageLine

#: Where a job is kept with the message it belongs to: the next message can't find it.
ATTRIBUTE = "_clutch_job"

Exit = Literal["returned", "raised", "skipped", "done", "over", "unknown", "abandoned", "newer"]


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One attempt of a message of ours, a job or a callback, from its opening to its ack.

    `exit` is None until one of the hooks has told. `done`, `over` and `unknown` are what we skip it for; `abandoned`
    means that it stays unacked, as its worker was told to stop before anything could be known, and `newer` that it is
    put back for a worker of a newer release. `retry_sent` says that Retries got the next attempt sent, which is `due`
    then (UNIX milliseconds). `tag` is what the message says of itself; None if a newer release has written that.
    `put_back` says that this has been done, and `options` are those that the message came with.
    """

    engine: Engine
    message_id: str
    actor: str
    attempt: int
    tag: Tag | CallbackTag | None
    exit: Exit | None = None
    error: BaseException | None = None
    retry_sent: bool = False
    due: int = 0
    put_back: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """How it is named to people: by its message's id, which says nothing, and by its place."""
        return f"{self.message_id} ({self.tag})" if self.tag else self.message_id

    def is_next(self, message: Message[Any]) -> bool:
        """Whether a message that is enqueued meanwhile is another attempt of it."""
        return message.message_id == self.message_id and message.actor_name == self.actor


@dataclass(slots=True, kw_only=True)
class Job(Attempt):
    """One attempt of a job. `nested` is what it starts if it succeeds, `wrapper` the run of all those that then stands
    in its place."""

    tag: Tag
    result: bytes = b""
    nested: list[Plan] = field(default_factory=list)
    wrapper: bytes = b""

    @property
    def owner(self) -> str:
        """Who owns the duties that this attempt's record causes. Should its worker die, the same message comes again
        and may do them at once. Another attempt's, which may be at its end in another thread at this very moment, may
        not: both would do them."""
        return owners.job(self.tag.stage, self.tag.member, self.tag.epoch, self.attempt)

    def nest(self, plan: Plan) -> NestedRun:
        """Have a run start when this attempt succeeds. Raises NestingError once it has ended."""
        if self.exit is not None:
            raise NestingError(f"{self.tag} has ended; nest() belongs into the actor")
        self.nested.append(plan)
        return NestedRun(self._nested_id(len(self.nested) - 1), broker=self.engine.broker)

    def conclude(self, value: Any) -> None:
        """Note what the actor has returned. Raises what the encoder raises."""
        backend = self.engine.backend
        if not self.nested:
            self.result = backend.encode(value)
            return
        yields = self._yields(value)
        spec = Spec(yields=yields, own=backend.encode(value) if yields is None else None)
        line = StageLine(0, len(self.nested), many=True, nested=True)
        self.wrapper = Plan(spec, (line,), tuple(plan.to_row() for plan in self.nested)).to_bytes()

    def _yields(self, value: Any) -> int | tuple[int, ...] | None:
        """Which of the nested runs make the job's result: the one whose handle was returned, or those of a list."""
        places = {self._nested_id(index): index for index in range(len(self.nested))}
        if isinstance(value, NestedRun):
            return places.get(value.run_id)
        if isinstance(value, list | tuple) and value and all(isinstance(one, NestedRun) for one in value):
            found = [places.get(one.run_id) for one in value]
            return tuple(place for place in found if place is not None) if None not in found else None
        return None

    def _nested_id(self, index: int) -> str:
        wrapper = Place(self.tag.run_id, self.tag.stage, self.tag.member).child_id
        return Place(wrapper, 0, index).child_id


#: What this thread (or coroutine) works on, if it is of ours.
working: ContextVar[Attempt | None] = ContextVar("dramatiq_clutch_attempt", default=None)


def attempt_of(message: MessageProxy, engine: Engine) -> Attempt | None:
    """The attempt that a message is, made when first asked for: the opening hook may never have run. None for one that
    isn't of a clutch, be it that it has been given the options of one that is: only the message whose id is derived
    from its place counts there. Raises DamagedState."""
    attempt: Attempt | None = message.__dict__.get(ATTRIBUTE)
    if attempt is not None:
        return attempt
    options, message_id, actor = message.options, message.message_id, message.actor_name
    option = options.get(OPTION)
    if option is None:
        return None
    retries = options.get("retries", 0)
    number = retries if isinstance(retries, int) else 0
    common: dict[str, Any] = {"engine": engine, "message_id": message_id, "attempt": number, "actor": actor}
    try:
        tag = tag_of(option, actor)
    except NewerRelease as error:
        attempt = Attempt(**common, tag=None, exit="newer", error=error, options=dict(options))
    else:
        if tag.message_id != message_id:
            return None
        attempt = Job(**common, tag=tag) if isinstance(tag, Tag) else Attempt(**common, tag=tag)
    setattr(message, ATTRIBUTE, attempt)
    return attempt


def current_job() -> Job | None:
    """The running job; None outside a clutch, and in a callback."""
    attempt = working.get()
    return attempt if isinstance(attempt, Job) else None


def current_run() -> Run | None:
    """The run that the running job is part of; None outside a clutch."""
    job = current_job()
    return Run(job.tag.run_id, broker=job.engine.broker) if job else None


def previous_results() -> list[Any]:
    """The results of the stage before, one value per member, in the order in which the members were written.

    Always a list, also after a series step. `[]` in the first stage, and outside a clutch; nothing is looked up there.
    In the first stage of a run that is written down in another one it is what the enclosing stage sees; of one that is
    mapped, the item. After a stage with `allow_failures`, None stands for a dead member: see `previous_failures`.

    The results are read when asked for, each time. In an async actor the read holds up the event loop for its moment;
    ``await asyncio.to_thread(previous_results)`` doesn't.

    Raises:
      ResultsGone: they should be there and are not.
      DamagedState: they can't be decoded.
      StateUnavailable: the state store is away.
    """
    job = current_job()
    return job.engine.reader.previous(job.tag.run_id, job.tag.stage, job.tag.generation)[1] if job else []


def previous_failures() -> list[JobFailure]:
    """Why members of the stage before are missing, in written order; each has the `index` of its member.

    `[]` unless that stage was written with `allow_failures`. Raises StateUnavailable if the state store is away.
    """
    job = current_job()
    return job.engine.reader.previous_failures(job.tag.run_id, job.tag.stage, job.tag.generation) if job else []
