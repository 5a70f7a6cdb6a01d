"""The running job: what it can ask of its run, which runs it has nested, and how its attempt ended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from dramatiq import Message, MessageProxy

from .about import Context
from .carrying import captured
from .engine import Engine
from .errors import NestingError, NewerRelease, NotInAJob
from .failures import JobFailure
from .planning import plan_of
from .run import NestedRun, Run, run_of
from .steps import Description
from .stored import owners
from .stored.places import OPTION, CallbackTag, Place, Tag, tag_of
from .stored.plan import COMPLETION, Plan, Spec, StageLine
from .working import may_be_a_jobs, working

#: The attribute of a `MessageProxy` that holds the message's attempt. It is kept with the message, so that an attempt
#: can't be taken for that of the thread's next message.
ATTRIBUTE = "_clutch_job"

Exit = Literal["returned", "raised", "skipped", "later", "done", "over", "unknown", "abandoned", "newer"]


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One attempt of a message of this package, a job or a callback, from its opening to its ack.

    `message_id` and `actor` (a name) are the message's, and `attempt` counts its attempts from 0. `tag`: what the
    message says of itself; None if a newer release has written that. `exit`: how the attempt ended, or None until a
    hook has told. `done`, `over` and `unknown` are the guard's words for a job that is skipped; `abandoned` means that
    the message stays unacked, because its worker was told to stop before the guard could be asked; `newer` means that
    the message is put back for a worker of a newer release; and `later` that a middleware has enqueued it again before
    it skipped it. `error`: the exception that was raised. `retry_sent`: the next attempt was sent, or the same one
    again, and is `due` then (UNIX milliseconds). `put_back`: the message was put back for a newer release, with the
    `options` that it came with. `shown_at`: when observers were shown that it began, by this process's monotonic
    clock; 0.0 if they weren't, or know how it ended.
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
    shown_at: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """The attempt as logs name it: by its message's id, and by its place, which says more."""
        return f"{self.message_id} ({self.tag})" if self.tag else self.message_id

    def is_next(self, message: Message[Any]) -> bool:
        """Whether a message that is enqueued during this attempt is the next attempt of the same message."""
        return message.message_id == self.message_id and message.actor_name == self.actor

    def sent_on(self, delay: int) -> None:
        """Note that the next attempt has been enqueued, with a delay of so many milliseconds."""
        self.retry_sent, self.due = True, self.engine.now() + delay


@dataclass(slots=True, kw_only=True)
class Job(Attempt):
    """One attempt of a job. `result`: the encoded result. `nested`: the plans of the runs that it starts if it
    succeeds. `wrapper`: the encoded plan of a run that has all of these in one stage, and then stands in the job's
    place. `began_at`: when it began to work, by the store's clock in UNIX milliseconds; 0 if it hasn't. `deferred`: its
    record was shown to observers, and is still to be made."""

    tag: Tag
    result: bytes = b""
    nested: list[Plan] = field(default_factory=list)
    wrapper: bytes = b""
    began_at: int = 0
    deferred: bool = False

    @property
    def owner(self) -> str:
        """The owner of the duties that this attempt's record causes. If the worker dies, the same message comes again,
        has the same owner, and so may do them at once. Another attempt has another owner, because it may be ending in
        another thread at the same moment, and both would do the duties."""
        return owners.job(self.tag.stage, self.tag.member, self.tag.epoch, self.attempt)

    def nest(self, description: Description) -> NestedRun:
        """Have a run start when this attempt succeeds. Raises NestingError if the attempt has ended; StateUnavailable
        if the context around it can't be read; and what `plan_of` and `captured` raise."""
        if self.exit is not None:
            raise NestingError(f"{self.tag} has ended: call nest() in the actor, before it returns")
        around = None if description.context is None else self.context()
        plan = plan_of(description, self.engine.broker, inherits=False, around=around, timed=self.tag.timed)
        carried = captured(self.engine.broker, self.engine.carry, plan.rows[0] if plan.rows else None)
        self.nested.append(replace(plan, spec=replace(plan.spec, carried=carried or None)))
        return NestedRun(self._nested_id(len(self.nested) - 1), broker=self.engine.broker)

    @property
    def sees_nothing(self) -> bool:
        """Whether nothing comes before the job, as its message tells: it is in the first stage of a run that has no
        args and isn't nested."""
        return self.tag.stage == 0 and not self.tag.args and Place.of_child(self.tag.run_id) is None

    def context(self) -> Context:
        """The context of the job's run. Raises StateUnavailable."""
        return self.engine.reader.context(self.tag.run_id, self.tag.generation)

    def conclude(self, value: Any) -> None:
        """Note what the actor has returned. Raises what the encoder raises."""
        backend = self.engine.backend
        if not self.nested:
            self.result = backend.encode(value)
            return
        yields = self._yields(value)
        spec = Spec(yields=yields, own=backend.encode(value) if yields is None else None, timed=self.tag.timed)
        line = StageLine(0, len(self.nested), many=True, nested=True)
        self.wrapper = Plan(spec, (line,), tuple(plan.to_row() for plan in self.nested)).to_bytes()

    def _yields(self, value: Any) -> int | tuple[int, ...] | None:
        """Which of the nested runs' results make the job's result, by their positions: that of the run whose handle the
        actor returned, or those of a list of handles. None if it returned anything else."""
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


def attempt_of(message: MessageProxy, engine: Engine) -> Attempt | None:
    """The attempt that belongs to a message. It is made when it is first asked for, because the hook that opens
    attempts may never have run.

    None for a message that isn't of a clutch. A message that was given the options of a clutch's message isn't either:
    its id isn't the one that is derived from the place. Raises DamagedState.
    """
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
    """The run that the running job is part of, or that the running callback tells of; None outside a clutch.

    For example, ``current_run().context["tenant"]`` is what ``run(context={"tenant": 7})`` was given, in each job of
    the run and of those nested in it, and in their callbacks.
    """
    attempt = working.get()
    if not isinstance(attempt, Attempt) or attempt.tag is None:
        return None
    return run_of(attempt.tag, attempt.engine.broker)


def previous_results(*, stage: int | str | None = None) -> list[Any]:
    """The results of the stage before, one value per member, in the order in which the members were written.

    An actor calls it: ``pages = previous_results()``.

    It is always a list: ``[value]`` after a stage of one member, and `[]` in the first stage and outside a clutch. In
    the first stage of a run that was given `args`, it is ``[args]``. In the first stage of a clutch that is a step of
    another clutch, it is what the enclosing stage sees; if that is a `map`, it is ``[item]``. After a stage with
    `allow_failures` or `enough`, None stands for a member that is dead, or was skipped: see `previous_failures`.

    A thread that the job starts is part of the job if it gets its context, in a copy for each thread:
    ``pool.submit(contextvars.copy_context().run, previous_results)``.

    Each call reads the results from the store, and so blocks the event loop if an async actor makes it. There, use
    ``await asyncio.to_thread(previous_results)``. For more results than fit into memory there is
    `iter_previous_results`.

    Parameters:
      stage: the index or the name of an earlier stage of the run, whose results are wanted instead:
        ``previous_results(stage="load")``. Those of the stage before are there in any case, all others in a run of a
        ``Clutch(keep_results=True)``.

    Raises:
      NotInAJob: this is called in a callback; or, while this process works on jobs of clutches, in a thread that has no
        job's context, and may be one that a job has started.
      ResultsGone: results that should be there are not; or those of the `stage` aren't kept.
      ValueError: the run has no such `stage` before the running job's.
      DamagedState: a result can't be decoded.
      StateUnavailable: the state store is away.
    """
    job = _asking("previous_results")
    if job is None or (stage is None and job.sees_nothing):
        return []
    if stage is None:
        return job.engine.reader.previous(job.tag.run_id, job.tag.stage, job.tag.generation)[1]
    return list(job.engine.reader.iter_earlier(job.tag.run_id, job.tag.stage, job.tag.generation, stage))


def iter_previous_results(*, stage: int | str | None = None) -> Iterator[Any]:
    """What `previous_results` gives, one after the other: 1,000 are read at a time, so they needn't fit into memory
    together. For example, ``total = sum(len(page) for page in iter_previous_results())``.

    It raises what `previous_results` raises: NotInAJob at once, and all else when it is iterated. It is to be iterated
    in the job: when the job's stage is over, the results go.
    """
    job = _asking("iter_previous_results")
    if job is None or (stage is None and job.sees_nothing):
        return iter(())
    place = (job.tag.run_id, job.tag.stage, job.tag.generation)
    reader = job.engine.reader
    return reader.iter_previous(*place) if stage is None else reader.iter_earlier(*place, stage)


def previous_failures(*, stage: int | str | None = None) -> list[JobFailure]:
    """The failures of the dead members of the stage before, in written order. Each has the `index` of its member, which
    is None at that index of `previous_results()`. That tells a member that is dead from one that has returned None,
    and after a `map` also which item it was that failed::

        failed = {failure.index for failure in previous_failures()}
        pages = [page for index, page in enumerate(previous_results()) if index not in failed]

    It is `[]` unless that stage was written with `allow_failures`, or with `enough`. Of the latter, members that were
    skipped have no failure, and None as their result, too.

    Parameters:
      stage: the index or the name of an earlier stage of the run, whose failures are wanted instead. Of a stage that
        isn't the one before, only those are there that `Run.status()` lists: a run keeps the first 100.

    Raises:
      NotInAJob: as for `previous_results`.
      ValueError: the run has no such stage before the running job's.
      StateUnavailable: the state store is away.
    """
    job = _asking("previous_failures")
    if job is None or (stage is None and job.sees_nothing):
        return []
    tag, reader = job.tag, job.engine.reader
    if stage is None:
        return reader.previous_failures(tag.run_id, tag.stage, tag.generation)
    index = reader.earlier_stage(tag.run_id, tag.stage, tag.generation, stage)
    return reader.failures(tag.run_id, index, tag.generation)


def _asking(what: str) -> Job | None:
    """The running job, which calls the function of this name; None outside a clutch, as where a Dramatiq group has
    completed: what that sends is an ordinary message. Raises NotInAJob."""
    attempt = working.get()
    if isinstance(attempt, Job):
        return attempt
    tag = attempt.tag if attempt is not None else None
    if isinstance(tag, CallbackTag) and tag.event != COMPLETION:
        raise NotInAJob(
            f"{what}() was called in a callback, which is in no stage, so nothing is before it. The results of the run "
            'are read by Run(status["run_id"]).get_result(); a callback of on_success also gets them if it is given as '
            "with_result(actor)"
        )
    if may_be_a_jobs():
        raise NotInAJob(
            f"{what}() was called in a thread of which nothing tells whether a job has started it, while this process "
            "works on jobs of clutches. Give the thread the job's context, in a copy of its own: "
            "threading.Thread(target=contextvars.copy_context().run, args=(work,)), or "
            "pool.submit(contextvars.copy_context().run, work). Or call it in the job, and pass on what it returns"
        )
    return None
