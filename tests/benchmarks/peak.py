"""The highest value of a figure, while something else goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

#: In seconds.
INTERVAL = 0.02


class Peak:
    """A context manager that looks at a figure again and again, in a thread, and keeps the highest and the first.

    Looking takes processor time, which isn't that of whoever is looked at: `spent`, in seconds, when it is over.
    """

    def __init__(self, figure: Callable[[], int]) -> None:
        self._figure = figure
        self.first = self.highest = figure()
        self.spent = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def growth(self) -> int:
        return self.highest - self.first

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(INTERVAL):
            self.highest = max(self.highest, self._figure())
        self.spent = time.thread_time()
