"""One wait for a run, and the ways in which it ends."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dramatiq.results import ResultMissing, ResultTimeout

from .errors import Unavailable


@dataclass(eq=False, slots=True)
class Wait:
    """A thread or coroutine that waits for the run `name` to come to rest.

    The waiter's reader then calls `look`, and the `outcome` is what that returns or raises. `look` raises ResultMissing
    if the run is at work (again). `was_asked`: the store has answered at least once how the run stands.
    """

    name: str
    look: Callable[[], Any]
    outcome: concurrent.futures.Future[Any] = field(default_factory=concurrent.futures.Future)
    was_asked: bool = False

    def settle(self, value: Any = None, error: Exception | None = None) -> None:
        if not self.outcome.set_running_or_notify_cancel():
            return  # the wait was cancelled
        if error is None:
            self.outcome.set_result(value)
        else:
            self.outcome.set_exception(error)


def settle_by_looking(wait: Wait, *, patiently: bool = False) -> None:
    """Settle a wait with what its `look` returns or raises. If `patiently`, the wait goes on while the run is at work,
    and an Unavailable is raised and doesn't settle it."""
    try:
        value = wait.look()
    except Exception as error:
        if patiently and isinstance(error, Unavailable):
            raise
        if not (patiently and isinstance(error, ResultMissing)):
            wait.settle(error=error)
    else:
        wait.settle(value)


def now_or_never(name: str, look: Callable[[], Any]) -> Any:
    """What `look` returns, without waiting. Raises ResultTimeout if the run is at work, and what `look` raises."""
    try:
        return look()
    except ResultMissing as error:
        raise ResultTimeout(f"run {name!r} is still running") from error
