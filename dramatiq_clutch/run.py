"""The handle of a run: what is done with it (cancel, retry, resend, delete), and whom it is related to."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from dramatiq import Broker
from dramatiq.logging import get_logger

from .asynchronous import for_coroutines
from .backend import Caller, Reply
from .durations import Duration
from .enlisting import strike_out
from .errors import NestingError, foreign_run, is_expected
from .handle.results import RunResults
from .handover import delete, hand_over, rewind
from .listing import RunPage, runs
from .stored import owners
from .stored.places import CallbackTag, Place, Tag, ancestors
from .typed import R

#: What to do when a coroutine that changes a run was cancelled.
AGAIN = (
    "It may be called again: what was done already isn't done a second time, but for a `resend`, and for a "
    "`retry(from_stage=…)` whose run is at rest again."
)

logger: logging.Logger = get_logger(__name__)


class Run(RunResults[R]):
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
        around = [place.run_id for place in ancestors(self.run_id)]
        return Run(around[-1], broker=self._broker) if around else None

    def children(self, *, limit: int = 50, cursor: str | None = None) -> RunPage:
        """The runs that are nested in this one and are still there, in written order, one page at a time: those that
        haven't succeeded. For example, ``[run.run_id for run in run.children()]``. `runs` also takes filters.

        Raises RunNotFound, ValueError or StateUnavailable.
        """
        return runs(broker=self._broker, parent=self.run_id, limit=limit, cursor=cursor)

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
        ``run.delete()``. What has failed, or was cancelled, inside a nested run that got along without it and has
        succeeded isn't found: it stays until it expires.

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


def run_of(tag: Tag | CallbackTag, broker: Broker) -> Run:
    """The handle of the run that a message belongs to, and of no other one that has its id."""
    run = Run(tag.run_id, broker=broker)
    vars(run)["_generation"] = tag.generation
    return run


class NestedRun(Run[Any], str):
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
