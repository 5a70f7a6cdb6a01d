"""What can go wrong, as one tree.

.. code-block:: text

    ClutchError (dramatiq.DramatiqError)
    ├── NotConfigured         the broker has no ClutchMiddleware, or it has no backend to work with
    ├── RunNotFound           no run has this id (any more)
    ├── RunIdTaken            another clutch was run under this id
    ├── NestingError          nest() outside a clutch job, or waiting for a nested run inside the job
    ├── ResultsGone           results that should be there are not
    ├── DamagedState          what is stored (or came with a message) can't be read
    ├── NewerRelease          a newer release has written it: it is left to that release's workers
    ├── ForeignRun            the run belongs to another application that shares the state store
    ├── HandOverFailed        a duty that waiting doesn't cure; it fails the run
    └── Unavailable           waiting cures it
        ├── StateUnavailable  the state store can't be reached, or refuses to write for now
        ├── BrokerUnavailable the broker can't be reached
        └── OutcomeUnknown    run() got no answer: the run may or may not have started (carries its id)

    RunFailed and RunCancelled (dramatiq.results.ResultFailure) are raised by get_result()
"""

from __future__ import annotations

from dramatiq.errors import DramatiqError
from dramatiq.results import ResultFailure


class ClutchError(DramatiqError):
    """Base class of this package's errors."""

    def __init__(self, message: str) -> None:
        super().__init__(message)  # type: ignore[no-untyped-call]


class NotConfigured(ClutchError):
    """The broker isn't ready for clutches; the message says what to add."""


class RunNotFound(ClutchError):
    """No run has this id: it never existed, has expired, or lives under another namespace."""


class RunIdTaken(ClutchError):
    """Another clutch was run under this id. An id stands for one run of one clutch."""


class NestingError(ClutchError):
    """A run can be nested only by a clutch job, and starts only when that has succeeded."""


class ResultsGone(ClutchError):
    """Results that should be there are not: they expired, or were removed by hand."""


class DamagedState(ClutchError):
    """Stored state, or the clutch options of a message, can't be read."""


class NewerRelease(ClutchError):
    """A newer release has written this state or message. It is left as it is, to workers of that release."""


class ForeignRun(ClutchError):
    """The run belongs to another application that keeps its runs in the same place; only that may change it."""


def foreign_run(run_id: str, its: str, ours: str) -> ForeignRun:
    """What to raise for a run that another application has started."""
    return ForeignRun(
        f"run {run_id!r} belongs to the application {its!r}, and this is {ours!r}: only its own may start, retry, "
        "cancel or sweep it. Where applications share a state store, give each a namespace of its own "
        '(RedisBackend(namespace="...")); where these are one, name them alike (ClutchMiddleware(application="..."))'
    )


class HandOverFailed(ClutchError):
    """A duty can't be done, and waiting doesn't cure it. The run fails with this error."""


class Unavailable(ClutchError):
    """Something is away for now. Workers wait for it and lose nothing."""


class StateUnavailable(Unavailable):
    """The state store can't be reached, or refuses to write for now."""


class BrokerUnavailable(Unavailable):
    """The broker can't be reached."""


class OutcomeUnknown(Unavailable):
    """``run()`` got no answer from the state store: the run may have started, or not.

    ``run_id`` names it: ``Run(run_id).status()`` tells, once the store is back.
    """

    def __init__(self, message: str, run_id: str) -> None:
        super().__init__(message)
        self.run_id = run_id


class RunFailed(ResultFailure):
    """The run has failed, so it has no result; ``Run.status()`` has the details."""

    def __init__(self, message: str, exception_type: str = "", exception_text: str = "") -> None:
        super().__init__(message, exception_type, exception_text)  # type: ignore[no-untyped-call]


class RunCancelled(ResultFailure):
    """The run was cancelled, so it has no result."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "RunCancelled", message)  # type: ignore[no-untyped-call]
