"""A server that has all it executes written down, and the replay of that in the store in memory."""

from __future__ import annotations

import contextlib
import itertools
import pickle
import signal
import socket
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import redis
from dramatiq.brokers import redis as dramatiq_redis

from tests.explorer.history import Difference, KeyDifference, Replay, Watched
from tests.explorer.listing import Listing, list_keys
from tests.support.server import Server

#: The broker's own script.
DISPATCH: str = dramatiq_redis._scripts["dispatch"].decode()  # noqa: SLF001

#: How many differences of one life of a server are told: after the first, the others may follow from it.
MOST = 5


@dataclass
class Replayed:
    """What has come of replaying histories. Its text is one sentence."""

    transitions: int = 0
    compared: int = 0
    lives: int = 0
    seconds: float = 0.0
    differences: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        found = f"{len(self.differences)} differences" if self.differences else "no difference"
        return f"{self.transitions} transitions replayed in memory, {self.compared} keys compared, {found}"

    def rows(self) -> Sequence[tuple[str, int]]:
        return [
            ("lives of servers replayed in memory", self.lives),
            ("transitions replayed in memory", self.transitions),
            ("keys compared with those in memory", self.compared),
            ("seconds of replaying", round(self.seconds)),
        ]


@dataclass
class Life:
    """A server from a start to its end: what it began with, what it was asked, and its keys in between."""

    begins: Listing
    watched: Watched
    listings: dict[bytes, Callable[[], Listing]] = field(default_factory=dict)

    def differences(self, replay: Replay) -> Generator[Difference | KeyDifference, None, None]:
        """What the store in memory makes otherwise."""
        replay.begin(self.begins)
        return replay.differences(self.watched.calls(), self.listings)


class RecordedServer(Server):
    """Keeps its data over every end, and has all that it executes written down, in the order in which it does.

    It opens its port only when it is watched, so that nothing is missed; until then it answers at a door of its own, a
    socket in its folder. What it has done when it is killed, and couldn't tell of any more, is in what it begins with
    the next time. Older servers than Redis 7 can't open a port later.
    """

    def __init__(self, *, config: Sequence[str] = ()) -> None:
        super().__init__(durable=True, config=[*config, "port 0", "unixsocket door"])
        self.lives: list[Life] = []
        self._numbers = itertools.count()

    def __enter__(self) -> RecordedServer:
        super().__enter__()
        return self

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self._socket))
        return connection

    def start(self) -> None:
        super().start()
        with self._client_inside() as client:
            self.lives.append(Life(list_keys(client), Watched(self).__enter__()))
            client.config_set("port", self.port)

    def close(self) -> None:
        super().close()
        for life in self.lives:
            life.watched.close()
        self.lives.clear()

    def cut_connections(self) -> None:
        """Those of all that have come by its port."""
        with self._client_inside() as client:
            client.client_kill_filter(_type="normal", laddr=f"127.0.0.1:{self.port}")

    def list_keys(self) -> None:
        """Keep what it has now, for the replay."""
        told = b"listing %d" % next(self._numbers)
        file = Path(self._folder.name, told.decode())
        with self._client_inside() as client:
            file.write_bytes(pickle.dumps(list_keys(client, told)))
        self.lives[-1].listings[told] = partial(_read, file)

    def end(self) -> None:
        """End the history. What the server is asked after this isn't written down."""
        self.lives[-1].watched.end()

    def replay(self, replayed: Replayed) -> None:
        """Add what comes of replaying the history, which has been ended."""
        began = time.monotonic()
        for life in self.lives:
            replay = Replay(DISPATCH)
            replayed.lives += 1
            with contextlib.closing(life.differences(replay)) as found:
                for difference in itertools.islice(found, MOST):
                    replayed.differences.append(f"life {replayed.lives}: {difference}")
            replayed.transitions += replay.counts.total()
            replayed.compared += replay.compared
        replayed.seconds += time.monotonic() - began

    @property
    def _socket(self) -> Path:
        return Path(self._folder.name, "door")

    @property
    def _door(self) -> str:
        return f"unix://{self._socket}"

    def _client_inside(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self._socket))

    def _end(self, number: signal.Signals) -> None:
        super()._end(number)
        if self.lives:
            self.lives[-1].watched.wait()


def _read(file: Path) -> Listing:
    found: Listing = pickle.loads(file.read_bytes())
    return found
