"""Real worker processes, one at a time, so that a test can kill each by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tests.support.awaiting import PATIENCE, wait_until
from tests.support.prepared import ROOT, Prepared

#: What a worker process says once it takes jobs.
READY = "Worker process is ready for action."

#: What is run, unless a test says otherwise.
USUAL = ("-m", "dramatiq")

#: Those that have not been closed: a test that fails shows their logs.
OPEN: weakref.WeakSet[Worker] = weakref.WeakSet()


class Worker:
    """One `dramatiq` command with one worker process, in a process group of its own. A context manager.

    The command is two processes, a supervisor and its worker, and `dramatiq -p 2` would stop both workers
    when one dies: so a test starts as many of these as it needs, and every signal goes to a whole group.

    Parameters:
      module: The module with the broker and the actors, as imported from the root.
      threads: How many jobs it works on at a time.
      env: Added to this process's own environment.
      root: The folder from which it imports.
      python: What it is run by, such as the Python of another environment.
      command: What it runs, such as `dramatiq-gevent`.
      options: More options of the command, which go before those above.
      processes: How many worker processes it has.
      prepared: Whether it may be a process that has imported the library already (see `Prepared`), where that makes no
        difference but the time it takes.
    """

    def __init__(
        self,
        module: str,
        *,
        threads: int = 4,
        env: Mapping[str, str] | None = None,
        root: Path = ROOT,
        python: Path | str = sys.executable,
        command: Sequence[str] = USUAL,
        options: Sequence[str] = (),
        processes: int = 1,
        prepared: bool = True,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="clutch-worker-")
        arguments = (module, "-p", str(processes), "-t", str(threads), *options)
        self._command = [str(python), *command, *arguments]
        # As it is by default, a process is as well one that has imported the library already.
        usual = (root, str(python), tuple(command)) == (ROOT, sys.executable, USUAL) and not options
        self._prepared = arguments if usual and prepared else None
        self._env, self._root = {**os.environ, **(env or {})}, root
        self._process: subprocess.Popen[bytes] | Prepared | None = None
        self._starts = 0
        self._log = Path(self._folder.name, "worker.log")
        OPEN.add(self)

    @property
    def log(self) -> str:
        """What it has written so far, over all its starts."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> Worker:
        """Start it, for the first time or again. It isn't ready yet."""
        if self._process is not None:
            raise RuntimeError("this worker has been started already")
        self._starts += 1
        if self._prepared is not None:
            self._process = Prepared("dramatiq", *self._prepared, env=self._env, log=self._log)
            return self
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._root, env=self._env, stdout=log, stderr=log, start_new_session=True
            )
        return self

    def wait_ready(self, timeout: float = PATIENCE) -> Worker:
        """Wait until it takes jobs: it has said so as often as it has been started."""
        wait_until("the worker to be ready", self._is_ready, timeout)
        return self

    def reload(self) -> None:
        """Have it start its worker processes anew, in the middle of what they do, and wait until they are ready."""
        assert self._process is not None
        self._starts = self.log.count(READY) + 1
        self._process.send_signal(signal.SIGHUP)
        self.wait_ready()

    def wait_anew(self) -> None:
        """Wait until it has started its worker processes anew by itself, and takes jobs again."""
        self._starts += 1
        self.wait_ready()

    def kill(self) -> None:
        """End both processes at once, with whatever they were doing."""
        self._signal(signal.SIGKILL)
        self._reap()

    def stop(self, timeout: float = PATIENCE) -> None:
        """Let it finish its jobs and end by itself, then make sure that nothing is left."""
        if self._process is None:
            return
        self.resume()
        self._process.terminate()
        try:
            self._process.wait(timeout)
        finally:
            self.kill()

    def pause(self) -> None:
        """Freeze both processes in the middle of what they do."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill it and remove its log. It can't be started again."""
        self.kill()
        self._folder.cleanup()
        OPEN.discard(self)

    def __enter__(self) -> Worker:
        try:
            return self.start().wait_ready()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def _is_ready(self) -> bool:
        if not self.running:
            raise RuntimeError(f"the worker ended while starting:\n{self.log}")
        return self.log.count(READY) >= self._starts

    def _signal(self, number: signal.Signals) -> None:
        """Signal the whole group, or what is left of it."""
        if self._process is not None:
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:  # it has ended; or has just begun, and has no group yet
                self._process.send_signal(number)

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait()
            self._process = None
