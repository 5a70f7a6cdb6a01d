"""The handle of a run: status, result, cancel, retry, resend."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, TextIO

from dramatiq import Broker, get_broker
from dramatiq.logging import get_logger
from dramatiq.results import ResultMissing

from .asynchronous import for_coroutines
from .backend import Caller, Reply
from .durations import Duration, milliseconds
from .engine import Engine, engine_of
from .enlisting import strike_out
from .errors import (
    NestingError,
    ResultsGone,
    RunCancelled,
    RunFailed,
    RunNotFound,
    Unavailable,
    foreign_run,
    is_expected,
)
from .following import follow
from .handover import delete, hand_over, rewind
from .listing import RunPage, runs
from .members import MemberPage, MemberState, members_of
from .picturing import picture_of
from .status import RunStatus, first_failure
from .steps import Handle, shortened
from .stored import owners
from .stored.places import CallbackTag, Place, Tag
from .waiting import Waiter, waiter_of
from .watching import Watch
from .working import in_worker, is_part_of

#: How long `get_result(block=True)` waits by default, in milliseconds; as long as Dramatiq's own results.
DEFAULT_TIMEOUT = 10_000

#: What to do when a coroutine that changes a run was cancelled.
AGAIN = (
    "It may be called again: what was done already isn't done a second time, but for a `resend`, and for a "
    "`retry(from_stage=…)` whose run is at rest again."
)

logger: logging.Logger = get_logger(__name__)


class Run(Handle):
    """The handle of a run, which is one execution of a clutch. Any process that has the same broker and knows the id
    can make one: ``Run(run_id).status()``.

    A handle is pickled as its id. When it is unpickled, its broker is the global one.

    Of a handle that `Clutch.run()` has returned, `started` says whether that call has started the run: it is False if
    the call has joined one. It is None of every other handle, and doesn't count when handles are compared.

    Parameters:
      run_id: the run's id.
      broker: default is the global broker, at each call.

    Raises TypeError for an id that isn't a string, and ValueError for an empty one.
    """

    #: Which of the runs that have had the id this is the handle of; if it is empty, of whichever has it.
    _generation: str = ""

    def __init__(self, run_id: str, *, broker: Broker | None = None) -> None:
        self.run_id: str = _valid(run_id)
        self._broker = broker
        self.started: bool | None = None

    @property
    def context(self) -> Mapping[str, Any]:
        """The run's context, which can't be changed: what `Clutch(context=…)` and `run(context=…)` were given, for a
        nested run laid over that of the run around it. It is empty if there is none.

        Each look reads it from the store, so that ``tenant = run.context["tenant"]`` is read once; a coroutine says
        ``await asyncio.to_thread(lambda: run.context)``. It is there for as long as the run's status. Raises
        RunNotFound; or StateUnavailable, if the state store is away.
        """
        return self._engine.reader.context(self.run_id, self._generation)

    def status(self) -> RunStatus:
        """How the run stands at one moment. For example, ``run.status().progress`` is how far it is, and
        ``run.status().to_dict()`` is what an API may answer.

        It takes as long for a stage of 100,000 members as for one of two. Where members are nested runs, these are
        looked at, too, to tell how far they are: at most 100, all together.

        Raises:
          RunNotFound: there is no such run (any more).
          NewerRelease: a newer release has started it.
          StateUnavailable: the state store is away.
        """
        return self._status(look_inside=True)

    def _status(self, *, look_inside: bool = False) -> RunStatus:
        status = self._engine.reader.status(self.run_id, look_inside=look_inside)
        if status is None:
            raise self._not_found()
        return status

    @for_coroutines(status)
    def status_async(self) -> Any: ...

    def watch(self) -> Watch:
        """The run's statuses: the present one, then one whenever it has changed, until the run is at rest::

            for status in run.watch():
                print(f"{status.progress:.0%}")

        In a coroutine, ``async for status in run.watch()``. That the run has come to rest is heard at once; otherwise
        it is looked at once a second. All who watch in a process share two threads and at most two connections, and one
        look serves all who watch the same run. Whoever comes late sees the newest status, and none in between. If the
        state store goes away meanwhile, this goes on when it is back. It looks for as long as the run is at work,
        stalled or not; end the loop when you have seen enough.

        Raises NestingError in a job of the run, which would watch for ever. The loop raises RunNotFound, also if the
        run goes meanwhile, as a nested one does that has succeeded; and StateUnavailable, if the state store is away
        when it begins.
        """
        if is_part_of(self.run_id):
            raise NestingError(f"a job of run {self.run_id!r} can't watch it: the run is at work as long as the job is")
        return Watch(self.run_id, self.status, self._waiter)

    def follow(self, *, file: TextIO | None = None) -> RunStatus:
        """Draw in the terminal how far the run is, until it is at rest: a bar for each stage, and failures as they
        come. For example, ``clutch.run().follow()``. In a pipe there are plain lines; in a terminal it is drawn by rich
        if that is installed, otherwise by tqdm, otherwise in plain lines, too.

        Returns the status in which the run has come to rest; of a run that has failed, too. A Ctrl-C ends this with a
        KeyboardInterrupt, and leaves the run alone. `file` is where to draw; default is stderr. Raises what `watch()`
        and its loop raise. It blocks: a coroutine loops over `watch()`.
        """
        with closing(iter(self.watch())) as statuses:
            status = follow(statuses, file=file)
        if status is None:
            raise self._not_found()
        return status

    def children(self, *, limit: int = 50, cursor: str | None = None) -> RunPage:
        """The runs that are nested in this one and are still there, in written order, one page at a time: those that
        haven't succeeded. For example, ``[run.run_id for run in run.children()]``. `runs` also takes filters.

        Raises RunNotFound, ValueError or StateUnavailable.
        """
        return runs(broker=self._broker, parent=self.run_id, limit=limit, cursor=cursor)

    def members(
        self,
        *,
        stage: int | str | None = None,
        state: MemberState | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> MemberPage:
        """How the members of a stage stand, one page at a time, in the order of the stage. For example, which jobs are
        dead, and of what::

            for member in run.members(state="dead"):
                print(member.actor, member.arguments, member.error)

        A page costs a few round trips to the state store, however large the stage is. With a `state`, those that are
        failing or dead are found at once; for any other state at most 1,000 members are looked at for a page, so that
        it may have few or none although others follow: go on as long as there is a `cursor`. While a stage is worked
        on, its pages have each member once.

        Of a stage that is complete, less is known. As long as its results are kept (those of the last stage, and of the
        one before the present one while the run is at work; of all stages of a ``Clutch(keep_results=True)``), each
        member is `succeeded`, `dead` or `skipped`. After that, the members whose failures are kept (see
        ``RunStatus.failures``) are `dead`, and all others are shown as `succeeded`, also if some of them were dead or
        skipped: how many, the status says. A mapped stage has no members before it is opened, which it is when the
        stage before is complete.

        Parameters:
          stage: the index or the name of a stage; default is the present one, which is the last that has begun.
          state: only members that are shown under this state: unsent, sent, working, failing, dead, succeeded or
            skipped (see `Member`).
          limit: how many members the page may have, from 1 to 1,000.
          cursor: where the page begins, from the page before. With it, the default for `stage` is that page's stage.

        Raises:
          ValueError: the run has no such stage; a `state` that there isn't, a `limit` out of range, or a `cursor` that
            no page of this stage has given.
          RunNotFound: there is no such run (any more).
          NewerRelease: a newer release has started it.
          DamagedState: it can't be read.
          StateUnavailable: the state store is away.
        """
        found = members_of(self._engine, self.run_id, stage, state, limit, cursor)
        if found is None:
            raise self._not_found()
        return found

    @for_coroutines(members)
    def members_async(self) -> Any: ...

    def to_mermaid(self) -> str:
        """A picture of the run as a Mermaid flowchart: its stages and how they stand, and the runs nested in it that
        are still there, the first of each stage and three levels of them: ``print(run.to_mermaid())``. That of a clutch
        is drawn by `Clutch.to_mermaid`. Raises RunNotFound or StateUnavailable."""
        return picture_of(self._engine, self._status())

    @property
    def parent(self) -> Run | None:
        """A handle of the run that this one is nested in; None if it isn't nested. It is derived from the id, so
        ``run.parent.status()`` may find that the run has gone."""
        place = Place.of_child(self.run_id)
        return Run(place.run_id, broker=self._broker) if place else None

    @property
    def root(self) -> Run | None:
        """A handle of the outermost run that this one is nested in, as in ``run.root.cancel()``; None if it isn't
        nested."""
        place = Place.of_child(self.run_id)
        while place is not None and (above := Place.of_child(place.run_id)) is not None:
            place = above
        return Run(place.run_id, broker=self._broker) if place else None

    def get_result(self, *, block: bool = False, timeout: Duration | None = None) -> Any:
        """The result of the last stage: a value, or a list of values after a `parallel` or `map`; None for an empty
        clutch. For example, ``run.get_result(block=True, timeout=60_000)`` waits for a minute at most.

        Parameters:
          block: wait for the result, without polling. All who wait in a process share two threads and at most two
            connections. If the state store is away meanwhile, this waits until it is back.
          timeout: how long to wait at most, from the call: milliseconds or a timedelta. Default is 10 s, as everywhere
            in Dramatiq. It is only looked at if `block` is True.

        Raises:
          ResultMissing: the run is at work, and `block` is False.
          ResultTimeout: the run is still at work after `timeout`, or the state store can't be reached; the text says
            which.
          RunFailed: the run has failed. It is raised at once, without waiting for the timeout; it is a `ResultFailure`.
          RunCancelled: the run was cancelled. It is raised at once, and is a `ResultFailure`.
          RunNotFound: there is no such run (any more). It is raised at once.
          ResultsGone: it has succeeded, and its result has expired, though its status is still there. It is raised at
            once.
          NestingError: a job would wait for its own run, for one that this is nested in, or for one that is nested in
            it. It is raised at once.
          StateUnavailable: the state store is away, and `block` is False, or a NestingError may be due.
          DamagedState: the result can't be decoded.
          TypeError, ValueError: the `timeout` isn't a time, or is negative.
        """
        if not block:
            return self._look()
        seconds = _seconds(timeout)
        if seconds and self._is_waited_for_in_vain():
            with self._refusing_to_wait():
                return self._look()
        return self._waiter.result(self.run_id, self._look, seconds)

    async def get_result_async(self, *, block: bool = True, timeout: Duration | None = None) -> Any:
        """`get_result` for coroutines: it doesn't block the event loop. For example, ``await
        run.get_result_async(timeout=30_000)`` waits for half a minute at most. Raises what `get_result` raises."""
        if not block:
            return await self._waiter.look_async(self.run_id, self._look)
        seconds = _seconds(timeout)
        if seconds and self._is_waited_for_in_vain():
            with self._refusing_to_wait():
                return await self._waiter.look_async(self.run_id, self._look)
        return await self._waiter.result_async(self.run_id, self._look, seconds)

    def _is_waited_for_in_vain(self) -> bool:
        """Whether a job is about to wait for a run that may itself wait for the job. In any other job this logs a
        warning, once: workers have few threads, and nothing tells whether the others wait, too."""
        if is_part_of(self.run_id):
            return True
        if in_worker.get() and self._engine.remembered.is_first_wait():
            logger.warning(
                "A job waits for run %s, and holds its worker's thread meanwhile. If all threads are held by jobs that "
                "wait, they wait for each other until their timeouts are over. Put what follows into the next stage "
                "instead, or return Clutch(...).nest(). This is said once.",
                self.run_id,
            )
        return False

    @contextmanager
    def _refusing_to_wait(self) -> Iterator[None]:
        try:
            yield
        except ResultMissing as error:
            raise NestingError(
                f"a job of run {self.run_id!r}, or of one that is nested in it or that it is nested in, can't wait for "
                "it: either may wait for the other. Put what needs the result into the next stage, where "
                "previous_results() has it, or return the handle that nest() gives"
            ) from error

    def _succeeded(self) -> RunStatus:
        """The status of a run that has a result. Raises what `get_result` raises of one that has none."""
        status = self._status()
        if status.state in ("running", "failing"):
            raise ResultMissing(f"run {self.run_id!r} is {status.state}")
        if status.state == "failed":
            raise _failure(status)
        if status.state == "cancelled":
            raise RunCancelled(f"run {self.run_id!r} was cancelled")
        return status

    def _look(self) -> Any:
        """The result as it is now. Raises what `get_result` raises."""
        status = self._succeeded()
        if not status.stages:
            return None
        generation = self._engine.backend.generation(self.run_id) or ""
        try:
            line, results = self._engine.reader.stage_results(self.run_id, len(status.stages) - 1, generation)
        except ResultsGone as error:
            raise ResultsGone(
                f"run {self.run_id!r} has succeeded, and its result has expired: it is kept for the result_ttl of the "
                "middleware, and the status for longer"
            ) from error
        return results if line.many else results[0]

    def partial_results(self, *, stage: int | str | None = None) -> dict[int, Any]:
        """The results that there are of a stage of a run which has failed, was cancelled, or is at work: a dict with
        the result of each member that has succeeded, by the member's index. For example, ``run.partial_results()`` is
        ``{0: "text of page 1", 2: "text of page 3"}`` while member 1 is failing.

        Parameters:
          stage: the index or the name of a stage; default is the present one, which is the last that has begun. The
            results of the one before are there, too; of earlier ones in a run of a ``Clutch(keep_results=True)``.

        Raises:
          ValueError: the run has no such stage.
          ResultsGone: the results of the stage are gone, because it is over.
          RunNotFound: there is no such run (any more).
          DamagedState: a result can't be decoded.
          StateUnavailable: the state store is away.
        """
        found = self._engine.reader.partial_results(self.run_id, stage)
        if found is None:
            raise self._not_found()
        return found

    @for_coroutines(partial_results)
    def partial_results_async(self) -> Any: ...

    def iter_results(self) -> Iterator[Any]:
        """The results of the last stage's members, one after the other: 1,000 are read at a time, so they needn't fit
        into memory together. For example, ``for page in run.iter_results(): ...``. It doesn't wait, and there is one
        value also if the last stage was written with `then`.

        Raises, when it is called, what `get_result()` raises; and when it is iterated ResultsGone, DamagedState or
        StateUnavailable.
        """
        status = self._succeeded()
        if not status.stages:
            return iter(())
        generation = self._engine.backend.generation(self.run_id) or ""
        return self._engine.reader.iter_results(self.run_id, len(status.stages) - 1, generation)

    def cancel(self) -> bool:
        """Bring the run to rest at once: ``Run(run_id).cancel()``. Jobs that are queued are skipped when a worker gets
        them. Running jobs finish, and their results are dropped. No further stage is released, nested runs are
        cancelled, too, and `on_finish` is sent.

        Returns whether this call has cancelled the run: one that is at rest already (succeeded, failed or cancelled)
        stays as it is. A cancelled run can be taken up again with `retry()`.

        Raises:
          RunNotFound: there is no such run (any more).
          ForeignRun: it belongs to another application that keeps its runs in the same place.
          NewerRelease: a newer release has started it; only that can change it.
          StateUnavailable: the state store is away; try again.
        """
        return self._change("cancel", self._engine.backend.cancel).word == "cancelled"

    @for_coroutines(cancel, after=AGAIN)
    def cancel_async(self) -> Any: ...

    def retry(self, *, from_stage: int | str | None = None) -> bool:
        """Send the dead members again, and only them, with fresh retries; those of nested runs, too:
        ``Run(run_id).retry()``. A failed run is then at work again, and `on_failure` and `on_death` may be sent again.

        In a cancelled run, all members that haven't succeeded are sent again. In a run that failed with an error of its
        own (`status().error`), the duty that failed is done again.

        With `from_stage`, stages of a run at rest are done again, in place, whether it has succeeded, failed or was
        cancelled: ``run.retry(from_stage="resize")``. It has to be a run of a ``Clutch(keep_results=True)``. That stage
        and all after it begin anew, without the wait before that stage; the stages before it keep their results, which
        the new jobs see. The status tells nothing any more of how the stages were done before, so `progress` goes back.
        What is left of their messages is skipped, and the runs nested in them are deleted. All callbacks may be sent
        again. One of the earlier pass that is attempted later has its status, but finds no result or context any more.

        Parameters:
          from_stage: the index or the name of a stage that has begun; default is to send the dead members again.

        Returns whether there was anything to do again. It is False for a run that has succeeded, and for one without
        dead members; these stay as they are. With `from_stage` it is True.

        Raises:
          RunNotFound: there is no such run (any more).
          ForeignRun: it belongs to another application that keeps its runs in the same place.
          NewerRelease: a newer release has started it; only that can change it.
          StateUnavailable: the state store is away; try again.

        With `from_stage` also:
          ValueError: there is no such stage, or it hasn't begun yet, so that a `retry()` without `from_stage` does it.
          ResultsGone: the run doesn't keep its results, or those of the stage before are gone.
          RunAtWork: the run is at work: cancel it first. Or another process still sends a callback of it: try again.
          NestingError: it is a nested run, which keeps no results.
          BrokerUnavailable: the broker is away, and a callback is still to be sent; try again.
        """
        if from_stage is not None:
            return self._retry_from(from_stage)
        return self._change("retry", self._engine.backend.retry).word == "retried"

    @for_coroutines(retry, after=AGAIN)
    def retry_async(self) -> Any: ...

    def _retry_from(self, stage: int | str) -> bool:
        if Place.of_child(self.run_id) is not None:
            raise NestingError(
                f"run {self.run_id!r} is nested in another one, and keeps no results, so no stage of it can be done "
                "again by itself: retry the run around it from the stage in which this one is"
            )
        if not rewind(self._engine, self.run_id, stage):
            raise self._not_found()
        return True

    def resend(self) -> bool:
        """Send all unsettled members of the present stage again, because their messages were lost (say, by purging a
        queue): ``Run(run_id).resend()``. If a message wasn't lost, its job may run a second time, but only one success
        counts.

        Returns whether there was anything to send; False for a run at rest. Raises what `retry()` raises.
        """
        return self._change("resend", self._engine.backend.resend).word == "resent"

    @for_coroutines(resend, after=AGAIN)
    def resend_async(self) -> Any: ...

    def delete(self) -> bool:
        """Delete everything that is kept of a run at rest, the runs that are nested in it included, and free its id.
        What is left of its messages is skipped. Callbacks of it that are still to be sent are sent first; one that is
        attempted later has its status, but finds no result any more. For example, ``run.cancel()``, then
        ``run.delete()``.

        Returns whether there was a run; False if it had succeeded and expired before, and only its id was still
        claimed. If this is broken off in the middle, call it again.

        Raises:
          RunAtWork: the run is at work: cancel it first. Or another process still sends a callback of it: try again.
          RunNotFound: there is no such run (any more), and its id is free.
          NestingError: it is a nested run, which is deleted with the one that it is nested in.
          ForeignRun: it belongs to another application that keeps its runs in the same place.
          NewerRelease: a newer release has started it; only that can change it.
          StateUnavailable, BrokerUnavailable: the state store is away, or the broker is and a callback is still to be
            sent; try again.
        """
        engine = self._engine
        if Place.of_child(self.run_id) is not None:
            raise NestingError(f"run {self.run_id!r} is nested in another one, and is deleted with that")
        (found,) = engine.backend.occupants([self.run_id])
        if found is not None and found.application != engine.application:
            raise foreign_run(self.run_id, found.application, engine.application)
        word = "unknown" if found is None else delete(engine, self.run_id, found.generation)
        if word == "unknown":
            raise self._not_found()
        strike_out(engine, self.run_id)
        return word == "deleted"

    @for_coroutines(delete, after=AGAIN)
    def delete_async(self) -> Any: ...

    def _change(self, verb: str, transition: Callable[[str, Caller], Reply]) -> Reply:
        engine = self._engine
        caller = engine.caller(owners.call(verb))
        # The index comes first: whatever happens from here on, a sweeper finds what is owed.
        engine.look_again(self.run_id, caller.now + engine.lease_ms)
        reply = transition(self.run_id, caller)
        if reply.word == "unknown":
            raise self._not_found()
        try:
            hand_over(engine, self.run_id, reply, caller)
        except Exception as error:  # any error: what is owed is stored, so a sweeper does it
            logger.warning(
                "A worker will finish the %s of run %s: %r", verb, self.run_id, error, exc_info=not is_expected(error)
            )
        return reply

    @property
    def _engine(self) -> Engine:
        return engine_of(self._broker or get_broker())

    @property
    def _waiter(self) -> Waiter:
        return waiter_of(self._engine.backend)

    def _not_found(self) -> RunNotFound:
        try:
            (found,) = self._engine.backend.occupants([self.run_id])
        except Unavailable:
            found = None
        if found is None or found.state != "gone":
            return RunNotFound(f"there is no run {self.run_id!r}: it never was, or has expired")
        if Place.of_child(self.run_id) is not None:
            return RunNotFound(f"run {self.run_id!r} has succeeded, and what it had went to the run it was nested in")
        text = f"run {self.run_id!r} has succeeded, and its result expired (the middleware's result_ttl)"
        again = f"; run(run_id={self.run_id!r}, if_exists='restart') runs it again" if found.claimed else ""
        return RunNotFound(text + again)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.run_id,)

    def __copy__(self) -> Run:
        copied = type(self)(self.run_id, broker=self._broker)
        vars(copied).update(vars(self))
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> Run:
        return self.__copy__()  # the broker is shared, and not copied

    def __repr__(self) -> str:
        return shortened(f"Run({self.run_id!r})")  # the id of a run nested in many others is long

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and other.run_id == self.run_id

    def __hash__(self) -> int:
        return hash(self.run_id)


def run_of(tag: Tag | CallbackTag, broker: Broker) -> Run:
    """The handle of the run that a message belongs to, and of no other one that has its id."""
    run = Run(tag.run_id, broker=broker)
    vars(run)["_generation"] = tag.generation
    return run


class NestedRun(Run, str):
    """The handle that `nest()` returns, of a run that starts when the job that nests it has succeeded.

    It is also a string, the run's id. An actor may return it, and other middleware (Results, for example) encodes what
    an actor returns: so every encoder can write it, as the id. It is pickled as a plain string for the same reason.
    """

    def __new__(cls, run_id: str, *, broker: Broker | None = None) -> NestedRun:  # noqa: ARG004
        return str.__new__(cls, run_id)

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (self.run_id,)

    def get_result(self, *, block: bool = False, timeout: Duration | None = None) -> Any:  # noqa: ARG002
        """Raises NestingError, because the run starts after the job: a job that waited for it would wait for ever."""
        raise self._not_for_waiting()

    async def get_result_async(self, *, block: bool = True, timeout: Duration | None = None) -> Any:  # noqa: ARG002
        """Raises NestingError, for the same reason as `get_result`."""
        raise self._not_for_waiting()

    def _not_for_waiting(self) -> NestingError:
        return NestingError(
            f"nested run {self.run_id!r} starts when the job that nests it has succeeded, so the job can't wait for "
            "it: return the handle, and the nested result becomes the job's"
        )


def _valid(run_id: Any) -> str:
    if not isinstance(run_id, str):
        raise TypeError(f"Run() takes the id of a run, a string like run.run_id, not {run_id!r}")
    if not run_id:
        raise ValueError("Run() takes the id of a run, and the given one is empty: no run has that")
    return run_id


def _seconds(timeout: Duration | None) -> float:
    return (DEFAULT_TIMEOUT if timeout is None else milliseconds(timeout, "timeout")) / 1000


def _failure(status: RunStatus) -> RunFailed:
    """The error that says why a run has failed: the first reason in words, and how many there are beside it."""
    first, reasons = first_failure(status), tuple(failure for failure in status.failures if not failure.allowed)
    if first is None:
        return RunFailed(f"run {status.run_id!r} has failed", status)
    stages = [status.stages[stage] for stage in {failure.stage for failure in reasons if failure.index is not None}]
    count = sum(stage.failing + stage.dead for stage in stages) + (status.error is not None)
    name = status.stages[first.stage].name
    where = f"stage {first.stage}" + (f" ({name!r})" if name else "")
    where += f", {first.actor} (member {first.index})" if first.index is not None else ""
    others = f", and {count - 1:,} more" if count > 1 else ""
    text = f"run {status.run_id!r} has failed at {where}: {first.exception_type}: {first.exception_text}{others}"
    return RunFailed(text, status, reasons, count, first.exception_type, first.exception_text)
