"""The exceptions of this package, as one tree.

.. code-block:: text

    ClutchError (dramatiq.DramatiqError)
    ├── NotConfigured         the broker has no ClutchMiddleware, or it has no backend to work with (a MiddlewareError)
    ├── RunNotFound           no run has this id (any more)
    ├── RunIdTaken            another clutch was run under this id; or any was, and this one was to be refused then
    ├── RunAtWork             the run has to be at rest for that: cancel it first
    ├── NestingError          nest() outside a clutch job, or waiting in a job for its own run or a nested one
    ├── NotInAJob             previous_results() in a callback, or in a thread that isn't known to be a job's
    ├── ResultsGone           results that should be there are not
    ├── DamagedState          what is stored (or came with a message) can't be read
    ├── NewerRelease          a newer release has written a run or a message, which is left to that release's workers
    ├── ForeignRun            the run belongs to another application that shares the state store
    ├── HandOverFailed        a duty can't be done, and waiting doesn't cure that; it fails the run
    ├── HookFailed            another middleware's hook doesn't let a message through; it fails the run
    ├── PayloadRefused        the server works, but doesn't take a payload of this size
    ├── RunFailed             get_result(): the run has failed, so it has no result (a dramatiq.results.ResultFailure)
    ├── RunCancelled          get_result(): the run was cancelled, so it has no result (a ResultFailure, too)
    └── Unavailable           any error that isn't known to be final: workers wait for its end
        ├── StateUnavailable  the state store can't be reached, refuses to work for now, or answers something unknown
        ├── BrokerUnavailable the broker can't be reached, refuses to work for now, or answers something unknown
        └── OutcomeUnknown    run() got no answer: the run may or may not have started (carries its id)

All of them are imported from `dramatiq_clutch`. `get_result()` also raises Dramatiq's own ResultMissing and
ResultTimeout, for a run that is still at work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dramatiq.errors import ActorNotFound, DramatiqError, QueueNotFound
from dramatiq.middleware import MiddlewareError
from dramatiq.results import ResultFailure

if TYPE_CHECKING:
    from .failures import JobFailure
    from .status import RunStatus


class ClutchError(DramatiqError):
    """Base class of all errors of this package: ``except ClutchError`` catches whatever it raises, but for the
    built-in TypeError and ValueError of wrong arguments, and for what Dramatiq defines."""

    def __init__(self, message: str) -> None:
        super().__init__(message)  # type: ignore[no-untyped-call]


class NotConfigured(ClutchError, MiddlewareError):
    """The broker isn't ready for clutches; the message says what to add, mostly
    ``broker.add_middleware(ClutchMiddleware())``. It is a MiddlewareError, so that it stops a worker that boots:
    Dramatiq only logs other errors of a hook."""


class RunNotFound(ClutchError):
    """No run has this id: it never existed, has expired, or lives under another namespace. ``Run("gone").status()``
    raises it."""


class RunIdTaken(ClutchError):
    """Another clutch was run under this id: ``clutch.run(run_id="invoices-2026-11")`` raises it where that is in use.
    An id stands for one run of one clutch. With ``if_exists="refuse"``, any run that has the id raises it."""


class RunAtWork(ClutchError):
    """The run has to be at rest (succeeded, failed or cancelled) for what was asked, and is at work: ``run.delete()``
    raises it, say. `cancel()` the run first. Or it is at rest, and another process still does what follows from that,
    such as sending a callback: try again."""


class NestingError(ClutchError):
    """`nest()` was called outside a clutch job; or a job waits for a run that it has nested, for its own run, or for
    one that is nested in that or that it is nested in, as by ``current_run().get_result(block=True)``. That would last
    for ever, because a run ends, and a nested one starts, only when the job has succeeded. Or something was asked of a
    nested run that only the outermost one can do: ``run.delete()``, or ``run.retry(from_stage=1)``."""


class NotInAJob(ClutchError):
    """`previous_results()`, `iter_previous_results()` or `previous_failures()` was called where it would have to guess:
    in a callback, which is in no stage; or in a thread that may be one that a job has started, and that hasn't got the
    job's context, as ``pool.submit(contextvars.copy_context().run, work)`` gives it. The text says what to do
    instead."""


class ResultsGone(ClutchError):
    """The results are not there (any more): they have expired, as a run's own do after the middleware's `result_ttl`;
    their stage is over, and the run isn't one of a ``Clutch(keep_results=True)``; or they were removed by hand.
    ``run.get_result()`` and ``previous_results()`` raise it, for example."""


class DamagedState(ClutchError):
    """Stored state, or the clutch options of a message, can't be read. ``run.get_result()`` raises it for a result that
    another encoder has written, for example."""


class NewerRelease(ClutchError):
    """A newer release has written this state or message, so it is left to workers of that release. ``run.status()``
    raises it, for example."""


class ForeignRun(ClutchError):
    """The run belongs to another application that keeps its runs in the same store. Only that application may change
    it: ``run.cancel()`` raises this in any other."""


def foreign_run(run_id: str, its: str, ours: str) -> ForeignRun:
    """The ForeignRun to raise for a run of the application `its`, for a caller of the application `ours`."""
    its, ours = (f"the application {name!r}" if name else "an application without a name" for name in (its, ours))
    return ForeignRun(
        f"run {run_id!r} belongs to {its}, and this is {ours}: only its own may start, retry, resend, cancel or "
        "delete it. Where these are two applications, give each a state store of its own "
        '(RedisBackend(namespace="...")), or this run another id; where they are one, name them alike '
        '(ClutchMiddleware(application="..."))'
    )


class HandOverFailed(ClutchError):
    """A duty can't be done, and waiting doesn't cure that. The run fails with this error: ``run.status().error`` tells
    of it."""


class HookFailed(ClutchError):
    """A hook of another middleware doesn't let a message through: its ``before_enqueue`` has raised a MiddlewareError,
    which is the cause of this one. The run fails with it."""


class PayloadRefused(ClutchError):
    """The server works, but doesn't take a payload of this size, however often it is sent: ``clutch.run()`` raises it,
    and a job dies whose result is so large. The text has the size, the server's answer, and the settings to look at."""


class Unavailable(ClutchError):
    """The store or the broker is away, or answers with an error that isn't known to be final. Workers wait until it
    works again; meanwhile they keep their messages unacked, so nothing is lost. Others may say ``except Unavailable``,
    and try again later.

    The original error is the `__cause__`. `is_known` is True if it is of a kind that servers or the network cause;
    otherwise it may be a fault in a program.
    """

    def __init__(self, message: str, *, is_known: bool = True) -> None:
        super().__init__(message)
        self.is_known = is_known


class StateUnavailable(Unavailable):
    """The state store can't be reached, refuses to work for now, or answers something unknown: ``run.status()`` raises
    it, for example. The original error is the `__cause__`."""


class BrokerUnavailable(Unavailable):
    """The broker can't be reached, refuses to work for now, or answers something unknown: ``middleware.sweep(broker)``
    raises it, for example. The original error is the `__cause__`."""


class OutcomeUnknown(Unavailable):
    """``run()`` got no answer from the state store: the run may have started, or not.

    ``run_id`` is the run's id: once the store is back, ``Run(run_id).status()`` raises RunNotFound if it hasn't
    started.
    """

    def __init__(self, message: str, run_id: str) -> None:
        super().__init__(message)
        self.run_id = run_id


class RunFailed(ClutchError, ResultFailure):
    """The run has failed, so it has no result: ``run.get_result()`` raises it. For example:

    .. code-block:: python

        try:
            run.get_result(block=True)
        except RunFailed as error:
            print(f"{error.run_id} ({error.status.name}): {error.failure_count} failures, such as {error.failures[0]}")

    `run_id` is the run's id, and `status` its `RunStatus` at that moment. `failures` are the reasons: those of its
    failures that aren't allowed, the first 100; and `failure_count` is how many there are of them in all. As in
    Dramatiq, `orig_exc_type` and `orig_exc_msg` are the type and the text of the first one's exception.
    """

    def __init__(
        self,
        message: str,
        status: RunStatus,
        failures: tuple[JobFailure, ...] = (),
        failure_count: int = 0,
        exception_type: str = "",
        exception_text: str = "",
    ) -> None:
        ResultFailure.__init__(self, message, exception_type, exception_text)
        self.run_id: str = status.run_id
        self.status = status
        self.failures = failures
        self.failure_count = failure_count

    def __reduce__(self) -> tuple[Any, ...]:
        why = (self.failures, self.failure_count, self.orig_exc_type, self.orig_exc_msg)
        return type(self), (str(self), self.status, *why)


class RunCancelled(ClutchError, ResultFailure):
    """The run was cancelled, so it has no result: ``run.get_result()`` raises it."""

    def __init__(self, message: str) -> None:
        ResultFailure.__init__(self, message, "RunCancelled", message)


def is_expected(error: BaseException) -> bool:
    """Whether an error is of a kind that servers or the network cause, or tells of a newer release. Any other error may
    be a fault in a program, so it is logged with its traceback."""
    if isinstance(error, Unavailable):
        return error.is_known
    return isinstance(error, NewerRelease | OSError)


def is_final(error: BaseException) -> bool:
    """Whether an error is known to come again, however long one waits. Workers wait for the end of all others, even of
    errors that may be faults in this package, because what isn't recorded isn't acked. NewerRelease isn't final: what a
    newer release has written is left to its workers."""
    known = isinstance(error, ClutchError | ActorNotFound | QueueNotFound)
    return known and not isinstance(error, Unavailable | NewerRelease)
