"""Compose Dramatiq actors in series and in parallel, hand each stage's results to the next, lose nothing."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .callbacks import with_result
from .clutch import Clutch
from .detached import detached
from .errors import (
    BrokerUnavailable,
    ClutchError,
    DamagedState,
    ForeignRun,
    HandOverFailed,
    HookFailed,
    NestingError,
    NewerRelease,
    NotConfigured,
    NotInAJob,
    OutcomeUnknown,
    PayloadRefused,
    ResultsGone,
    RunAtWork,
    RunCancelled,
    RunFailed,
    RunIdTaken,
    RunNotFound,
    StateUnavailable,
    Unavailable,
)
from .explaining import FailureGroup
from .failures import JobFailure
from .findings import Finding
from .firings import CallbackStatus
from .job import current_run, iter_previous_results, previous_failures, previous_results
from .listing import RunPage, RunSummary, count_runs, runs
from .members import Member, MemberPage
from .middleware import ClutchMiddleware
from .run import Run
from .status import RunStatus, StageStatus

if TYPE_CHECKING:
    from .backends import RedisBackend, StubBackend
    from .bulk import RunOutcome, RunSelection, select_runs
    from .examining import examine
    from .sweeper import SweepOutcome, sweep

__all__ = [
    "BrokerUnavailable",
    "CallbackStatus",
    "Clutch",
    "ClutchError",
    "ClutchMiddleware",
    "DamagedState",
    "FailureGroup",
    "Finding",
    "ForeignRun",
    "HandOverFailed",
    "HookFailed",
    "JobFailure",
    "Member",
    "MemberPage",
    "NestingError",
    "NewerRelease",
    "NotConfigured",
    "NotInAJob",
    "OutcomeUnknown",
    "PayloadRefused",
    "RedisBackend",
    "ResultsGone",
    "Run",
    "RunAtWork",
    "RunCancelled",
    "RunFailed",
    "RunIdTaken",
    "RunNotFound",
    "RunOutcome",
    "RunPage",
    "RunSelection",
    "RunStatus",
    "RunSummary",
    "StageStatus",
    "StateUnavailable",
    "StubBackend",
    "SweepOutcome",
    "Unavailable",
    "count_runs",
    "current_run",
    "detached",
    "examine",
    "iter_previous_results",
    "previous_failures",
    "previous_results",
    "runs",
    "select_runs",
    "sweep",
    "with_result",
]

#: The release. Nothing else says it: the wheel's metadata is made of this line.
__version__ = "0.1.0"

#: What is imported when it is first asked for, by its module: the stores, because they import redis, which is a large
#: part of what an import takes; and what only an operator uses, so that no worker and no web process imports it.
_LATER = {
    "RedisBackend": ".backends",
    "RunOutcome": ".bulk",
    "RunSelection": ".bulk",
    "StubBackend": ".backends",
    "SweepOutcome": ".sweeper",
    "examine": ".examining",
    "select_runs": ".bulk",
    "sweep": ".sweeper",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
