"""A fake of the running job, for an actor that is called directly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import dramatiq.broker
from dramatiq.asyncio import EventLoopThread, get_event_loop_thread, set_event_loop_thread

from ..about import Context
from ..backend import Record
from ..clutch import Clutch
from ..engine import Engine, engine_of
from ..failures import failure_details
from ..job import Job
from ..run import NestedRun, Run
from ..steps import Description
from ..stored import owners
from ..stored.places import Tag, new_generation
from ..stored.plan import Plan, Spec, StageLine
from ..working import in_worker, working
from .broker import ClutchBroker, stubbed


@dataclass(frozen=True)
class FakeJob:
    """What a test sees of the job that it plays: ``with job() as played: crawl(3)``.

    `run` is what `current_run()` is in the job. `nested` are the clutches that the job has nested so far, in order; a
    clutch equals another one that says the same.
    """

    run: Run
    nested: list[Clutch]


@dataclass(kw_only=True)
class Played(Job):
    """An attempt that collects what it nests. Nothing of that starts, because the attempt never ends."""

    clutches: list[Any] = field(default_factory=list)

    def nest(self, description: Description) -> NestedRun:
        handle = super().nest(description)
        self.clutches.append(description)
        return handle


@contextmanager
def job(
    *,
    previous_results: Sequence[Any] | Mapping[str, Sequence[Any]] = (),
    run_id: str | None = None,
    name: str | None = None,
    context: Mapping[str, Any] | None = None,
) -> Iterator[FakeJob]:
    """Have an actor that is called directly find what it would find as a job of a clutch::

        with job(previous_results=["north", ConnectionError("closed")]):
            assert report() == {"sales": ["north", None], "missing": ["closed"]}

    So `previous_results()`, `previous_failures()` and `current_run()` work, and `nest()` is noted:
    ``with job() as played: crawl(3)`` and then ``assert played.nested == [Clutch().then(crawl.message(2))]``.

    A class-based actor and an async one are called in the same way. In a test that is a coroutine itself, await the
    function of an async actor: ``await report.fn.__wrapped__()``.

    There is a run behind it, in the memory of the global broker, if that is a `ClutchBroker`; otherwise of one that the
    actors use as long as the block lasts. So what an actor sends reaches no server, and ``current_run().status()`` can
    be asked.

    Parameters:
      previous_results: what the members of the stage before have returned. They are encoded and decoded, as real ones
        are: a tuple becomes a list. An exception stands for a dead member: its result is None, and it is one of the
        `previous_failures()`. None of them make the job one of a first stage. A dict has those of several stages, by
        their names, and the stage before last: with ``{"list": ["a"], "load": [1, 2]}``, `previous_results()` is
        ``[1, 2]``, and ``previous_results(stage="list")`` is ``["a"]``.
      run_id: the run's id. Default is a random one.
      name: the run's name.
      context: the run's context, as ``current_run().context`` finds it.

    Raises ValueError if there is a run of that id already, TypeError for what is no context, and what the encoder
    raises for a result.
    """
    with ExitStack() as stack:
        broker = dramatiq.broker.global_broker
        if not isinstance(broker, ClutchBroker):
            broker = stack.enter_context(stubbed())
        stack.enter_context(_event_loop(broker))
        engine, run_id = engine_of(broker), str(uuid4()) if run_id is None else run_id
        spec = Spec(name, context=Context.given(context or {}, "context"), generation=new_generation())
        tag = _begin_run(engine, run_id, spec, previous_results)
        played = Played(engine=engine, message_id=tag.message_id, actor="", attempt=0, tag=tag)
        attempt, inside = working.set(played), in_worker.set(True)
        stack.callback(in_worker.reset, inside)
        stack.callback(working.reset, attempt)
        yield FakeJob(Run(run_id, broker=broker), played.clutches)


def _begin_run(engine: Engine, run_id: str, spec: Spec, given: Sequence[Any] | Mapping[str, Sequence[Any]]) -> Tag:
    """Write a run in which the stages before have come to the given results, and whose present stage has one member.
    Returns the place of that. Nothing is owed then, so that no sweeper does anything."""
    generation, caller = spec.generation, engine.caller(owners.call("run"))
    stages = list(given.items()) if isinstance(given, Mapping) else [(None, given)] if given else []
    rows, lines, records = 0, list[StageLine](), list[list[Record]]()
    for stage, (name, results) in enumerate(stages):
        lines.append(StageLine(rows, len(results), many=True, tolerant=True, name=name))
        tags = (Tag(run_id, stage, member, len(results), generation=generation) for member in range(len(results)))
        records.append([_record(engine, tag, result) for tag, result in zip(tags, results, strict=True)])
        rows += len(results)
    lines.append(StageLine(rows, 1))
    reply = engine.create(run_id, Plan(spec, tuple(lines), (b"",) * (rows + 1)), caller, keeps=True)
    if reply.word != "created":
        raise ValueError(f"there is a run {run_id!r} already on this broker: give another run_id, or reset() it")
    duties = list(reply.duties)
    for several in records:
        for record in several:
            duties += engine.backend.record(record, caller).duties
        if not several:  # such a stage is complete for whoever looks
            duties += engine.backend.owed(run_id, caller, generation=generation).duties
    for duty in duties:
        engine.backend.confirm(run_id, duty, caller)
    return Tag(run_id, len(stages), 0, 1, generation=generation)


def _record(engine: Engine, tag: Tag, result: Any) -> Record:
    """How a member has ended that has returned this, or has raised it."""
    if isinstance(result, BaseException):
        return Record(tag, 0, "dead", failure_details(result, message_id=tag.message_id, attempts=1))
    return Record(tag, 0, "succeeded", engine.backend.encode(result))


@contextmanager
def _event_loop(broker: ClutchBroker) -> Iterator[None]:
    """Have an event loop for async actors, unless a worker has made one."""
    if get_event_loop_thread() is not None:
        yield
        return
    thread = EventLoopThread(broker.logger)
    thread.start(timeout=10)
    set_event_loop_thread(thread)
    try:
        yield
    finally:
        set_event_loop_thread(None)
        thread.stop()
