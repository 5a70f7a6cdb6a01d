"""The running job: what it can ask, what it nested, and how its attempt ended."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

from dramatiq import MessageProxy

from .engine import Engine
from .errors import NestingError
from .plan import OPTION, Place, Plan, Spec, StageLine, Tag
from .run import NestedRun, Run
from .status import JobFailure

#: Where a job is kept with the message it belongs to: the next message can't find it.
ATTRIBUTE = "_clutch_job"

Exit = Literal["returned", "raised", "skipped", "done", "over", "unknown", "abandoned"]


@dataclass(slots=True)
class Job:
    """One attempt of a job, from its opening to its ack.

    `exit` is None until one of the hooks has told. `done`, `over` and `unknown` are what we skip it for; `abandoned`
    means that it stays unacked, as its worker was told to stop before anything could be known. `nested` is what it
    starts if it succeeds, `wrapper` the run of all those that then stands in its place.
    """

    engine: Engine
    tag: Tag
    attempt: int
    exit: Exit | None = None
    result: bytes = b""
    error: BaseException | None = None
    retry_sent: bool = False
    nested: list[Plan] = field(default_factory=list)
    wrapper: bytes = b""

    def nest(self, plan: Plan) -> NestedRun:
        """Have a run start when this attempt succeeds. Raises NestingError once it has ended."""
        if self.exit is not None:
            raise NestingError(f"job {self.tag.message_id} has ended; nest() belongs into the actor")
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


current: ContextVar[Job | None] = ContextVar("dramatiq_clutch_job", default=None)


def tag_of(message: Any) -> Tag | None:
    """The place of a message in a run; None for one that isn't of a clutch. Raises DamagedState."""
    option = message.options.get(OPTION)
    return None if option is None else Tag.from_option(option)


def job_of(message: MessageProxy, engine: Engine) -> Job | None:
    """The job of a message, made when first asked for: the opening hook may never have run. Raises DamagedState."""
    job: Job | None = message.__dict__.get(ATTRIBUTE)
    if job is None and (tag := tag_of(message)):
        retries = message.options.get("retries", 0)
        job = Job(engine, tag, attempt=retries if isinstance(retries, int) else 0)
        setattr(message, ATTRIBUTE, job)
    return job


def current_run() -> Run | None:
    """The run that the running job is part of; None outside a clutch."""
    job = current.get()
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
      StateUnavailable: the state store is away.
    """
    job = current.get()
    return job.engine.previous(job.tag.run_id, job.tag.stage)[1] if job else []


def previous_failures() -> list[JobFailure]:
    """Why members of the stage before are missing, in written order; each has the `index` of its member.

    `[]` unless that stage was written with `allow_failures`. Raises StateUnavailable if the state store is away.
    """
    job = current.get()
    return job.engine.previous_failures(job.tag.run_id, job.tag.stage) if job else []
