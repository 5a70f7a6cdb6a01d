"""Combines the calls of several threads into one round trip."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from ...forks import renew_in_children

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(slots=True, eq=False)
class Call(Generic[Item, Answer]):
    item: Item
    done: bool = False
    answer: Answer | None = None
    error: Exception | None = None


class Combining(Generic[Item, Answer]):
    """Threads that call while a round trip is under way wait for its end; the first of them then makes one round trip
    for all. A call is never delayed to wait for others: if no round trip is under way, it goes at once.

    Parameters:
      perform: does several calls, and returns an answer for each.
      interrupted: makes the error that the other threads' calls raise if `perform` is interrupted (by a time limit, for
        example) in the thread that makes the round trip. Without it their calls are done again in the next round trip;
        so give it if a call must not be done twice without its caller knowing.
    """

    def __init__(
        self,
        perform: Callable[[Sequence[Item]], Sequence[Answer]],
        interrupted: Callable[[], Exception] | None = None,
    ) -> None:
        self._perform, self._interrupted = perform, interrupted
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """Begin anew in a forked child: the threads whose calls waited don't exist there."""
        self._turn = threading.Lock()
        self._waiting: deque[Call[Item, Answer]] = deque()

    def __call__(self, item: Item) -> Answer:
        """Have `perform` called with this item, and return its answer. Raises what `perform` raises."""
        call: Call[Item, Answer] = Call(item)
        self._waiting.append(call)
        with self._turn:
            if not call.done:
                self._go(call)
        if call.error is not None:
            raise call.error
        return cast(Answer, call.answer)

    def _go(self, own: Call[Item, Answer]) -> None:
        calls = [self._waiting.popleft() for _ in range(len(self._waiting))]  # others may append meanwhile
        if own not in calls:  # a thread that was interrupted in the line above has taken it away
            calls.append(own)
        try:
            answers = self._perform([call.item for call in calls])
        except Exception as error:
            for call in calls:
                call.error = error
        except BaseException:  # an interrupt concerns this thread only, so it must not become the others' error
            if self._interrupted is None:
                self._waiting.extendleft(reversed(calls))
            else:
                for call in calls:
                    call.done, call.error = True, self._interrupted()
            raise
        else:
            for call, answer in zip(calls, answers, strict=True):
                call.answer = answer
        for call in calls:
            call.done = True
