"""A real PostgreSQL on loopback, for brokers that keep their messages there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from tests.support.awaiting import wait_until
from tests.support.programs import Missing
from tests.support.server import free_port


class Postgres:
    """The PostgreSQL of this machine with a folder and a port of its own. A context manager.

    Raises:
      programs.Missing: There is none on this machine.
    """

    def __init__(self) -> None:
        self._programs = programs()
        self.port = free_port()
        self._folder = tempfile.TemporaryDirectory(prefix="clutch-postgres-")
        self._data, self._log = Path(self._folder.name, "data"), Path(self._folder.name, "server.log")
        # It refuses to be root's.
        self._user = "nobody" if os.geteuid() == 0 else None
        if self._user is not None:
            shutil.chown(self._folder.name, self._user)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://clutch@127.0.0.1:{self.port}/postgres"

    def execute(self, sql: str) -> None:
        command = [str(self._programs / "psql"), self.url, "-q", "-v", "ON_ERROR_STOP=1"]
        subprocess.run(command, input=sql, text=True, check=True, capture_output=True)

    def start(self) -> None:
        options = ["-A", "trust", "-U", "clutch", "--no-sync", "-E", "UTF8", "--locale", "C"]
        if not self._data.exists():
            self._popen("initdb", "-D", str(self._data), *options).wait()
        listens = ["-h", "127.0.0.1", "-p", str(self.port), "-k", self._folder.name]
        self._process = self._popen("postgres", "-D", str(self._data), *listens, "-F")
        wait_until(f"an answer from PostgreSQL (its log: {self._log})", self._answers)

    def restart(self) -> None:
        """End it at once, and bring it back with what it has kept."""
        self._end(signal.SIGQUIT)
        self.start()

    def close(self) -> None:
        self._end(signal.SIGQUIT)
        self._folder.cleanup()

    def __enter__(self) -> Postgres:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def _popen(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [str(self._programs / program), *arguments]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command, cwd=self._folder.name, stdout=log, stderr=log, user=self._user, start_new_session=True
            )

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"PostgreSQL ended while starting:\n{self._log.read_text()}")
        asks = [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(asks).returncode == 0


def programs() -> Path:
    """The folder of the newest PostgreSQL's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        raise Missing("there is no PostgreSQL on this machine")
    return found[-1].parent
