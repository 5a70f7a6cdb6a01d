"""What sweepers go by: which runs are to be looked at, and which workers are there."""

from __future__ import annotations

import abc
from collections.abc import Sequence

from ..stored.attendance import Attendance


class Index(abc.ABC):
    """The part of a store that says where there may be work which nobody does."""

    @abc.abstractmethod
    def due(self, now: int, look_again_at: int, limit: int, *, application: str = "") -> Sequence[str]:
        """The ids of at most `limit` runs of the application that are due at `now`. They are put down for
        `look_again_at`, so that they are looked at again even if the caller dies."""

    @abc.abstractmethod
    def count_due(self, now: int, *, application: str = "") -> int:
        """How many runs of the application are due at `now`. This changes nothing."""

    @abc.abstractmethod
    def look_again(
        self,
        run_id: str,
        at: int | None,
        *,
        run_ttl: int,
        application: str = "",
        known: bool = False,
        instead: int | None = None,
    ) -> None:
        """Put a run down in the index, to be looked at `at` that time (UNIX milliseconds); None takes it out. With
        `known`, a run that isn't in the index stays out of it. With `instead`, nothing changes unless it is put down
        for that time: otherwise somebody has put it down since, who may be starting it, or about to change it."""

    @abc.abstractmethod
    def attend(self, worker: Attendance, until: int, now: int, *, application: str = "") -> None:
        """Write down that a worker of the application is there `until` that time (UNIX milliseconds); it isn't any
        more, if that is over. What is over of others is let go of."""

    @abc.abstractmethod
    def attending(self, now: int, *, application: str = "") -> Sequence[Attendance]:
        """The workers of the application that have told of themselves, and are still there as far as that goes."""
