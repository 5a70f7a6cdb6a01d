"""A real PostgreSQL on loopback, for brokers that keep their messages there."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from tests.support.awaiting import wait_until
from tests.support.programs import Missing, own_suite, unpacked
from tests.support.server import free_port


def release() -> str:
    """As "PostgreSQL 15.14". Raises Missing."""
    env = {**os.environ, "LD_LIBRARY_PATH": libraries(programs())}
    said = subprocess.run([programs() / "postgres", "--version"], env=env, capture_output=True, text=True, check=True)
    return f"PostgreSQL {said.stdout.split()[2]}"


class Postgres:
    """The PostgreSQL of this machine, or else Debian's, with a folder and a port of its own. A context manager.

    Raises:
      programs.Missing: Neither can be had.
    """

    def __init__(self) -> None:
        self._programs = programs()
        self._env = {**os.environ, "LD_LIBRARY_PATH": libraries(self._programs)}
        self._as_user = as_user()
        self.port = free_port()
        self._folder = tempfile.TemporaryDirectory(prefix="clutch-postgres-")
        self._data, self._log = Path(self._folder.name, "data"), Path(self._folder.name, "server.log")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://clutch@127.0.0.1:{self.port}/postgres"

    def execute(self, sql: str) -> None:
        command = [str(self._programs / "psql"), self.url, "-q", "-v", "ON_ERROR_STOP=1"]
        subprocess.run(command, input=sql, text=True, check=True, capture_output=True, env=self._env)

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
        command = [*self._as_user, str(self._programs / program), *arguments]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command, cwd=self._folder.name, env=self._env, stdout=log, stderr=log, start_new_session=True
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
        return subprocess.run(asks, env=self._env).returncode == 0


def programs() -> Path:
    """The folder of the newest PostgreSQL's programs: of this machine, or else of Debian's package."""
    if newest := _newest(Path("/")) or _newest(unpacked(own_suite(), "postgresql")):
        return newest
    raise Missing("Debian's package has no PostgreSQL")


def _newest(root: Path) -> Path | None:
    found = (root / "usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(found, key=lambda path: int(path.parts[-3]), default=None)
    return newest.parent if newest else None


def libraries(programs: Path) -> str:
    """Where the programs find theirs, if they were only unpacked."""
    root = programs.parents[4]
    return os.pathsep.join(map(str, [*root.glob("usr/lib/*-linux-gnu*"), *root.glob("lib/*-linux-gnu*")]))


def as_user() -> list[str]:
    """What a command begins with so that it isn't root's, which PostgreSQL refuses to be, though it may read what root
    may."""
    if os.geteuid() != 0:
        return []
    command = ["unshare", "--user", "--map-user=65534"]
    if subprocess.run([*command, "true"], capture_output=True).returncode:
        raise Missing("PostgreSQL can't be root's, and there are no user namespaces on this machine")
    return command
