"""The results of a run: those that there are, or all, waited for."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic

from dramatiq.logging import get_logger
from dramatiq.results import ResultMissing

from ..asynchronous import for_coroutines
from ..durations import Duration, milliseconds
from ..errors import NestingError, ResultsGone, RunCancelled, RunFailed
from ..reader import expired
from ..status import RunStatus, first_failure
from ..typed import R
from ..working import in_worker, is_part_of
from .looking import RunView

#: How long `get_result(block=True)` waits by default, in milliseconds; as long as Dramatiq's own results.
DEFAULT_TIMEOUT = 10_000

logger: logging.Logger = get_logger(__name__)


class RunResults(RunView, Generic[R]):
    """Reads results, and waits for them."""

    def get_result(self, *, block: bool = False, timeout: Duration | None = None) -> R:
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
        result: R
        if not block:
            result = self._look()
        elif (seconds := _seconds(timeout)) and self._is_waited_for_in_vain():
            with self._refusing_to_wait():
                result = self._look()
        else:
            result = self._waiter.result(self.run_id, self._look, seconds)
        return result

    async def get_result_async(self, *, block: bool = True, timeout: Duration | None = None) -> R:
        """`get_result` for coroutines: it doesn't block the event loop. For example, ``await
        run.get_result_async(timeout=30_000)`` waits for half a minute at most. Raises what `get_result` raises."""
        result: R
        if not block:
            result = await self._waiter.look_async(self.run_id, self._look)
        elif (seconds := _seconds(timeout)) and self._is_waited_for_in_vain():
            with self._refusing_to_wait():
                result = await self._waiter.look_async(self.run_id, self._look)
        else:
            result = await self._waiter.result_async(self.run_id, self._look, seconds)
        return result

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
            raise self._expired() from error
        return results if line.many else results[0]

    def _expired(self) -> ResultsGone:
        (found,) = self._engine.backend.occupants([self.run_id])
        return expired(self.run_id, claimed=found is not None and found.claimed)

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
        return self._each(self._engine.reader.iter_results(self.run_id, len(status.stages) - 1, generation))

    def _each(self, results: Iterator[Any]) -> Iterator[Any]:
        try:
            yield from results
        except ResultsGone as error:
            raise self._expired() from error


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
    where += f", {first.actor or 'a nested run'} (member {first.index})" if first.index is not None else ""
    others = f", and {count - 1:,} more" if count > 1 else ""
    text = f"run {status.run_id!r} has failed at {where}: {first.exception_type}: {first.exception_text}{others}"
    return RunFailed(text, status, reasons, count, first.exception_type, first.exception_text)
