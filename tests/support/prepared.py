"""Python programs in processes that begin with the library and Dramatiq imported: to import them takes longer than most
of what a test wants of a process. They are forked by a server of the standard library's, which has one thread."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: What the server imports. `tests` is the first, for it plants a fault in the library where one is wanted.
IMPORTED = ("tests", "dramatiq.__main__", "dramatiq.brokers.redis", "dramatiq_clutch", "tests.support.crashing")


@cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    return context


class Prepared:
    """`python -m module argument ...` from the root, in a session of its own. What it says is added to the log. It is
    to be handled as a `subprocess.Popen`."""

    def __init__(self, module: str, *arguments: str, env: Mapping[str, str], log: Path) -> None:
        command = [sys.executable, "-m", module, *arguments]
        sys.audit("subprocess.Popen", sys.executable, command, str(ROOT), None)  # as a start of it would
        self.args = command
        self._process = _context().Process(target=_become, args=(module, arguments, dict(env), str(log)))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, when it has ended. Raises `subprocess.TimeoutExpired`."""
        self._process.join(timeout)
        code = self.returncode
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended in this moment
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def _become(module: str, arguments: Sequence[str], env: Mapping[str, str], log: str) -> None:
    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for known in (sys.stdout, sys.stderr):
        os.dup2(file, known.fileno())
    os.close(file)
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(env)
    multiprocessing.set_start_method(None, force=True)  # the one that it would have by itself
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
