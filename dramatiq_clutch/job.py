"""The running job: what it can ask, and how its attempt ended."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

from dramatiq import MessageProxy

from .handover import Engine
from .plan import OPTION, Tag
from .run import Run

#: Where a job is kept with the message it belongs to: the next message can't find it.
ATTRIBUTE = "_clutch_job"

Exit = Literal["returned", "raised", "skipped", "done", "over", "unknown", "abandoned"]


@dataclass(slots=True)
class Job:
    """One attempt of a job, from its opening to its ack.

    `exit` is None until one of the hooks has told. `done`, `over` and `unknown` are what we skip it for; `abandoned`
    means that it stays unacked, as its worker was told to stop before anything could be known.
    """

    engine: Engine
    tag: Tag
    attempt: int
    exit: Exit | None = None
    result: bytes = b""
    error: BaseException | None = None
    retry_sent: bool = False


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
    The results are read when asked for, each time. In an async actor the read holds up the event loop for its moment;
    ``await asyncio.to_thread(previous_results)`` doesn't.

    Raises:
      ResultsGone: they should be there and are not.
      StateUnavailable: the state store is away.
    """
    job = current.get()
    if job is None or job.tag.stage == 0:
        return []
    _, results = job.engine.stage_results(job.tag.run_id, job.tag.stage - 1)
    return results
