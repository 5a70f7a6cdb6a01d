"""Workers whose memory and processor time can be looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psutil

from tests.support.workers import Worker


def memory_of(processes: Sequence[Any]) -> int:
    """The resident memory of processes, in bytes. Pages that they share count once for each."""
    return sum(process.memory_info().rss for process in processes)


def processor_of(processes: Sequence[Any]) -> float:
    """The processor time of processes since each was started, in seconds; the system counts it in hundredths."""
    times = [process.cpu_times() for process in processes]
    return float(sum(time.user + time.system for time in times))


class WatchedWorker(Worker):
    """A `dramatiq` command with worker processes, one by default."""

    def __init__(self, module: str, *, threads: int = 8, processes: int = 1, env: Mapping[str, str]) -> None:
        super().__init__(module, threads=threads, processes=processes, env=env, prepared=False)
        self._processes = processes

    def processes(self) -> list[Any]:
        """The command's own process and its children, as they are now."""
        if self._process is None:
            raise RuntimeError("this worker hasn't been started")
        command = psutil.Process(self._process.pid)
        return [command, *command.children(recursive=True)]

    def _is_ready(self) -> bool:
        return super()._is_ready() and self.log.count("Worker process is ready for action.") >= self._processes


class OtherWorker(WatchedWorker):
    """What another command starts: a peer's workers."""

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str]) -> None:
        super().__init__("", env=env)
        self._command = [*command]

    def _is_ready(self) -> bool:
        """What each says when it is, if it says anything, differs. So the first answer has to do: see
        `measure.warmed`."""
        return self.running
