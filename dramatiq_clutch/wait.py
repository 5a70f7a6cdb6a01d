"""One who waits for a run, and how that ends."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dramatiq.results import ResultMissing, ResultTimeout

from .errors import Unavailable


@dataclass(eq=False, slots=True)
class Wait:
    """Somebody who waits for the `outcome`: what `look` returns or raises, in the reader, when the run `name` is at
    rest. It raises ResultMissing if it isn't (any more). `was_asked` says that the store has told of the run once.
    """

    name: str
    look: Callable[[], Any]
    outcome: concurrent.futures.Future[Any] = field(default_factory=concurrent.futures.Future)
    was_asked: bool = False

    def settle(self, value: Any = None, error: Exception | None = None) -> None:
        if not self.outcome.set_running_or_notify_cancel():
            return  # nobody waits any more
        if error is None:
            self.outcome.set_result(value)
        else:
            self.outcome.set_exception(error)


def settle_by_looking(wait: Wait, *, patiently: bool = False) -> None:
    """Settle a wait by looking. If `patiently`, it goes on while the run is at work; raises Unavailable."""
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
    """What a look gives, without waiting. Raises ResultTimeout while the run is at work."""
    try:
        return look()
    except ResultMissing as error:
        raise ResultTimeout(f"run {name!r} is still running") from error
