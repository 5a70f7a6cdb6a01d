"""The handle of a run: status, result, cancel, retry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dramatiq import Broker, get_broker
from dramatiq.logging import get_logger
from dramatiq.results import ResultMissing

from .backend import Caller, Reply
from .engine import Engine, engine_of
from .errors import NestingError, RunCancelled, RunFailed, RunNotFound, is_expected
from .handover import hand_over
from .status import RunStatus, status_from
from .steps import Handle
from .stored import owners
from .waiting import Waiter, waiter_of

#: How long `get_result(block=True)` waits unless told, in milliseconds: Dramatiq's own default.
DEFAULT_TIMEOUT = 10_000

logger = get_logger(__name__)


class Run(Handle):
    """One execution of a clutch. Any process with the same broker can make a handle of a run whose id it knows.

    A handle that is pickled is its id: where it is unpickled it finds the global broker.
    """

    def __init__(self, run_id: str, *, broker: Broker | None = None) -> None:
        self.run_id = run_id
        self._broker = broker

    def status(self) -> RunStatus:
        """How the run stands, at one moment. Raises RunNotFound, or NewerRelease."""
        snapshot = self._engine.backend.snapshot(self.run_id)
        if snapshot is None:
            raise self._not_found()
        return status_from(self.run_id, snapshot)

    def get_result(self, *, block: bool = False, timeout: int | None = None) -> Any:
        """The last stage's value, or list of values for a `parallel` or `map`; None for an empty clutch.

        Parameters:
          block: wait for it, without polling. One waiter a process serves all who wait; an outage of the state store is
            waited through.
          timeout: how long to wait at most, in milliseconds from the call; default is 10 s, as everywhere in Dramatiq.

        Raises:
          ResultMissing: the run is at work, and `block` is False.
          ResultTimeout: it is still at work after `timeout`, or the state store can't be reached; the text says which.
          RunFailed: it has failed (a `ResultFailure`); at once, nobody is left waiting.
          RunCancelled: it was cancelled (a `ResultFailure`); at once.
          RunNotFound: there is no such run, or it has succeeded and its result has expired; at once.
          ResultsGone: the result was removed by hand.
          StateUnavailable: the state store is away, and `block` is False.
          DamagedState: it can't be decoded.
        """
        if not block:
            return self._look()
        return self._waiter.result(self.run_id, self._look, _seconds(timeout))

    async def get_result_async(self, *, block: bool = True, timeout: int | None = None) -> Any:
        """`get_result` for coroutines: the event loop goes on meanwhile. Raises the same."""
        if not block:
            return await self._waiter.look_async(self.run_id, self._look)
        return await self._waiter.result_async(self.run_id, self._look, _seconds(timeout))

    def _look(self) -> Any:
        """The result as it is now. Raises what `get_result` raises."""
        status = self.status()
        if status.state in ("running", "failing"):
            raise ResultMissing(f"run {self.run_id!r} is {status.state}")
        if status.state == "failed":
            raise _failure(status)
        if status.state == "cancelled":
            raise RunCancelled(f"run {self.run_id!r} was cancelled")
        if not status.stages:
            return None
        generation = self._engine.backend.generation(self.run_id) or ""
        line, results = self._engine.reader.stage_results(self.run_id, len(status.stages) - 1, generation)
        return results if line.many else results[0]

    def cancel(self) -> bool:
        """Bring the run to rest, at once: jobs that are queued are skipped when they arrive, running ones finish and
        their results are dropped, nothing more is released, nested runs are cancelled too. `on_finish` fires.

        Returns whether this call has done it: a run that is at rest already (succeeded, failed or cancelled) stays as
        it is. A cancelled run can be taken up again with `retry()`.

        Raises:
          RunNotFound: there is no such run (any more).
          ForeignRun: it belongs to another application that keeps its runs in the same place.
          NewerRelease: a newer release has started it; only that can change it.
          StateUnavailable: the state store is away; try again.
        """
        return self._change("cancel", self._engine.backend.cancel).word == "cancelled"

    def retry(self) -> bool:
        """Send the dead members again, and only them, with fresh retries; those of nested runs likewise. A failed run
        is back at work then, and its `on_failure` and `on_death` are armed again.

        Of a cancelled run, all members that haven't succeeded are sent again. Of one that failed with an error of its
        own (`status().error`), what failed is done again.

        Returns whether there was anything to send again: False for a run with no dead member, and for one that has
        succeeded; they stay as they are.

        Raises:
          RunNotFound: there is no such run (any more).
          ForeignRun: it belongs to another application that keeps its runs in the same place.
          NewerRelease: a newer release has started it; only that can change it.
          StateUnavailable: the state store is away; try again.
        """
        return self._change("retry", self._engine.backend.retry).word == "retried"

    def resend(self) -> bool:
        """Send all unsettled members of the present stage again, by hand, because their messages were lost (a purged
        queue). Where they weren't, the second copies are absorbed, but may work a second time.

        Returns whether there was anything to send: False for a run at rest. Raises what `retry()` raises.
        """
        return self._change("resend", self._engine.backend.resend).word == "resent"

    def _change(self, verb: str, transition: Callable[[str, Caller], Reply]) -> Reply:
        engine = self._engine
        caller = engine.caller(owners.call(verb))
        # The index first: whatever happens from here on, a sweeper finds what is owed.
        engine.look_again(self.run_id, caller.now + caller.lease_ms)
        reply = transition(self.run_id, caller)
        if reply.word == "unknown":
            raise self._not_found()
        try:
            hand_over(engine, self.run_id, reply, caller)
        except Exception as error:  # what is owed is stored, whatever it was
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
        return RunNotFound(f"there is no run {self.run_id!r}: it never was, or has expired")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.run_id,)

    def __copy__(self) -> Run:
        return type(self)(self.run_id, broker=self._broker)

    def __deepcopy__(self, memo: dict[int, Any]) -> Run:
        return self.__copy__()  # a broker is where the run lives, and no part of the handle

    def __repr__(self) -> str:
        return f"Run({self.run_id!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and other.run_id == self.run_id

    def __hash__(self) -> int:
        return hash(self.run_id)


class NestedRun(Run, str):
    """What `nest()` returns: a run that starts when the job that nests it has succeeded.

    It is its id, a string, for other middleware is given what the actor returns, too, and encodes it: so every encoder
    writes the run's id. It is pickled as a plain string, so that all of them write the same.
    """

    def __new__(cls, run_id: str, *, broker: Broker | None = None) -> NestedRun:  # noqa: ARG004
        return str.__new__(cls, run_id)

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (self.run_id,)

    def get_result(self, *, block: bool = False, timeout: int | None = None) -> Any:  # noqa: ARG002
        """Raises NestingError: a job that waited for what starts after it would wait for ever."""
        raise self._not_for_waiting()

    async def get_result_async(self, *, block: bool = True, timeout: int | None = None) -> Any:  # noqa: ARG002
        """Raises NestingError, too."""
        raise self._not_for_waiting()

    def _not_for_waiting(self) -> NestingError:
        return NestingError(
            f"nested run {self.run_id!r} starts when the job that nests it has succeeded, so the job can't wait for "
            "it: return the handle, and the nested result becomes the job's"
        )


def _seconds(timeout: int | None) -> float:
    return (DEFAULT_TIMEOUT if timeout is None else timeout) / 1000


def _failure(status: RunStatus) -> RunFailed:
    first = status.error or next(iter(status.failures), None)
    if first is None:
        return RunFailed(f"run {status.run_id!r} has failed")
    where = f"stage {first.stage}" + (f", {first.actor} (member {first.index})" if first.index is not None else "")
    text = f"run {status.run_id!r} has failed at {where}: {first.exception_type}: {first.exception_text}"
    return RunFailed(text, first.exception_type, first.exception_text)
