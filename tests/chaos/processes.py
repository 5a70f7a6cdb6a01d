"""The processes of a world that the other tests don't need: producers, and a server that forgets."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from types import TracebackType

from tests.chaos.app import App
from tests.chaos.producer import STUCK
from tests.chaos.recorded import RecordedServer
from tests.support.awaiting import wait_until
from tests.support.prepared import ROOT


class Producer:
    """A process that starts runs. A context manager.

    Parameters:
      name: Of the first letters of its lanes.
      threads: How many of its threads start runs.
      forks: Whether it has children start some, too.
      pause: How many seconds a lane rests between two runs.
      root: The folder from which it imports.
    """

    def __init__(
        self,
        app: App,
        *,
        name: str = "p",
        threads: int = 1,
        forks: bool = False,
        forgetful: bool = False,
        pause: float,
        root: Path = ROOT,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="chaos-producer-")
        self._children = Path(self._folder.name, "children")
        self._children.mkdir()
        self._log = Path(self._folder.name, "producer.log")
        self._env, self._root = {**os.environ, **app.to_env()}, root
        self._command = [sys.executable, "-m", "tests.chaos.producer", "--name", name]
        self._command += ["--threads", str(threads), "--pause", str(pause)]
        self._command += [f"--children={self._children}"] if forks else []
        self._command += ["--forgetful"] if forgetful else []
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._root, env=self._env, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        """End it at once; a child that it has forked goes on to its own end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stuck(self) -> list[str]:
        """Wait for the children of a producer that was killed. Returns where those were that didn't end as they should;
        one that was well has removed its file."""

        def traces() -> list[str]:
            return [trace.read_text() for trace in self._children.iterdir() if trace.exists()]

        wait_until("the children to end", lambda: all(traces()), timeout=STUCK + 10)
        return traces()

    def __enter__(self) -> Producer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.kill()
        self._folder.cleanup()


class ForgetfulServer(RecordedServer):
    """A server that comes back as it was a while ago: like one whose replica, a little behind, takes over.

    It remembers how long its append-only file was when, and cuts it off there.
    """

    def __init__(self) -> None:
        super().__init__(config=["auto-aof-rewrite-percentage 0"])
        self._lengths: deque[tuple[float, int]] = deque(maxlen=200)
        self._over = threading.Event()
        self._remembering = threading.Thread(target=self._remember, daemon=True)

    def start(self) -> None:
        super().start()
        self._lengths.clear()
        if not self._remembering.is_alive():
            self._remembering.start()

    def fail_over(self, seconds: float) -> None:
        """Kill it and bring it back without what it has been told in the last so many seconds."""
        self.kill()
        then = time.monotonic() - seconds
        lengths = [length for moment, length in self._lengths if moment <= then]
        if lengths:
            os.truncate(self._file, lengths[-1])
        self.start()

    def close(self) -> None:
        self._over.set()
        super().close()

    @property
    def _file(self) -> Path:
        (file,) = Path(self._folder.name, "appendonlydir").glob("*.incr.aof")
        return file

    def _remember(self) -> None:
        while not self._over.wait(0.02):
            if self.running:
                self._lengths.append((time.monotonic(), self._file.stat().st_size))
