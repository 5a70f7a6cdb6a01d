"""Workers whose memory can be looked at."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import psutil

from tests.support.workers import Worker


def memory_of(processes: Sequence[Any]) -> int:
    """The resident memory of processes, in bytes. Pages that they share count once for each."""
    return sum(process.memory_info().rss for process in processes)


class WatchedWorker(Worker):
    """A `dramatiq` command with one worker process."""

    def processes(self) -> list[Any]:
        """The command's own process and its children, as they are now."""
        if self._process is None:
            raise RuntimeError("this worker hasn't been started")
        command = psutil.Process(self._process.pid)
        return [command, *command.children(recursive=True)]


class CeleryWorker(WatchedWorker):
    """A `celery worker` command with a pool of processes, and with nothing switched on that the work doesn't need."""

    def __init__(self, module: str, *, pool: int, env: Mapping[str, str]) -> None:
        super().__init__(module, env=env)
        self._command = [sys.executable, "-m", "celery", "-A", module, "worker", "--pool=prefork", "-c", str(pool)]
        self._command += ["--loglevel=ERROR", "--without-gossip", "--without-mingle", "--without-heartbeat"]

    def _is_ready(self) -> bool:
        """It says nothing at this log level, so the first answer has to do: see `measure.warmed`."""
        return self.running
