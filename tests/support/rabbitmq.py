"""A real RabbitMQ on loopback, which a test can kill and bring back with what it has kept."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from dramatiq.brokers.rabbitmq import RabbitmqBroker

from tests.support.awaiting import wait_until
from tests.support.programs import own_suite, unpacked
from tests.support.server import free_port


def release() -> str:
    """As "RabbitMQ 3.10.8". Raises Missing."""
    (folder,) = unpacked(own_suite(), "rabbitmq-server").glob("usr/lib/rabbitmq/lib/rabbitmq_server-*")
    return f"RabbitMQ {folder.name.partition('-')[2]}"


class RabbitMQ:
    """Debian's RabbitMQ, with a folder, a name and ports of its own, which are kept over restarts. A context manager.

    Erlang's directory of nodes is one of its own, too, so that neither meets another of this machine.

    Raises:
      programs.Missing: Debian's packages can't be had.
    """

    def __init__(self) -> None:
        self._root = unpacked(own_suite(), "rabbitmq-server")
        self.port = free_port()
        self._folder = tempfile.TemporaryDirectory(prefix="clutch-rabbitmq-")
        self._log = Path(self._folder.name, "server.log")
        self._env = self._environment()
        self._directory: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/%2F"

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def broker(self, **options: Any) -> RabbitmqBroker:
        """A broker of this server, which the caller closes."""
        return RabbitmqBroker(url=self.url, **options)

    @contextmanager
    def channel(self) -> Iterator[Any]:
        """A channel of its own, for what is done beside a broker."""
        import pika

        connection = pika.BlockingConnection(pika.URLParameters(self.url))
        try:
            yield connection.channel()
        finally:
            connection.close()

    def start(self) -> None:
        """Start it, for the first time or again, and wait until it answers."""
        if self._directory is None:
            self._directory = self._popen("usr/lib/erlang/bin/epmd")
        (program,) = self._root.glob("usr/lib/rabbitmq/lib/*/sbin/rabbitmq-server")
        self._process = self._popen(str(program.relative_to(self._root)))
        wait_until(f"an answer from RabbitMQ (its log: {self._log})", self._answers)

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Kill it and bring it back."""
        self.kill()
        self.start()

    def close(self) -> None:
        """Kill it and remove its folder. It can't be started again."""
        self.kill()
        if self._directory is not None:
            self._directory.kill()
            self._directory.wait()
        self._folder.cleanup()

    def __enter__(self) -> RabbitMQ:
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

    def _environment(self) -> dict[str, str]:
        folder = Path(self._folder.name)
        settings = folder / "environment"
        settings.touch()
        return {
            "PATH": f"{self._erl().parent}:{os.environ['PATH']}",
            "HOME": str(folder),  # the cookie
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(free_port()),
            "RABBITMQ_CONF_ENV_FILE": str(settings),
            "RABBITMQ_NODENAME": f"clutch{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_LOGS": "-",
            # Its threads look for work where there is none, which costs the tests a processor.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +S 2:2",
        }

    def _erl(self) -> Path:
        """Debian's own command would look for Erlang where it is installed, and there only."""
        erlang = self._root / "usr/lib/erlang"
        (programs,) = erlang.glob("erts-*/bin")
        command = Path(self._folder.name, "bin", "erl")
        command.parent.mkdir()
        command.write_text(
            f'#!/bin/sh\nexport EMU=beam PROGNAME=erl ROOTDIR="{erlang}" BINDIR="{programs}"\n'
            'exec "$BINDIR/erlexec" "$@"\n'
        )
        command.chmod(0o755)
        return command

    def _popen(self, program: str) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [self._root / program], env=self._env, stdout=log, stderr=log, start_new_session=True
            )

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"RabbitMQ ended while starting:\n{self.log}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")  # what a client begins with; the answer is a frame
            return bool(connection.recv(1))
        return False
