"""Real histories: what a real server was asked, in its order, replayed through the store in memory.

The server is watched with MONITOR, which tells of every command and, tagged `lua`, of those that scripts make. Each
call of one of our scripts is then made on the store in memory, which has to write the same.
"""

from __future__ import annotations

import json
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import pytest

from dramatiq_clutch.backends import StubBackend
from dramatiq_clutch.backends.memory import Clock
from dramatiq_clutch.backends.memory import scripts as memory_scripts
from dramatiq_clutch.backends.memory.commands import execute
from dramatiq_clutch.backends.redis.scripts import script, script_names
from tests.support.server import Server

#: A line of MONITOR: the time, the database and who asks, and the command.
LINE = re.compile(rb"\+(\d+)\.(\d{3})\d* \[\d+ ([^\]]+)\] (.*)")
WORD = re.compile(rb'"((?:[^"\\]|\\.)*)"')
ESCAPED = re.compile(rb"\\(x[0-9a-f]{2}|.)")
LETTERS = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b"}

#: Commands that change something, of all that the scripts and the backend call.
WRITES = frozenset(b"DEL HDEL HINCRBY HSET HSETNX PEXPIRE RENAME RPUSH SADD SET SREM UNLINK ZADD ZREM".split())

#: What all keys of the library begin with, where the broker's namespace is Dramatiq's own.
OURS = b"dramatiq-clutch:"

Command = tuple[bytes, ...]


@dataclass
class Call:
    """A command that a client has sent to the server, at a time (UNIX milliseconds), and what its script did."""

    time: int
    command: Command
    inner: list[Command] = field(default_factory=list)

    @property
    def writes(self) -> Counter[Command]:
        """What it changed of the library's keys."""
        return writes_of(self.inner)


def writes_of(commands: Sequence[Command]) -> Counter[Command]:
    """Those that change a key of the library; in which order a script visits a hash, or writes an object's fields, is
    nobody's business."""
    return Counter(
        (command[0].upper(), *map(_plain, command[1:]))
        for command in commands
        if command[0].upper() in WRITES and command[1].startswith(OURS)
    )


def _plain(word: bytes) -> bytes:
    """The word; a JSON object, and those that are written in its fields, with their fields in order."""
    text = word.decode("utf-8", "surrogateescape")
    return json.dumps(_ordered(text), sort_keys=True).encode() if word.startswith(b"{") else word


def _ordered(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("{"):
        try:
            return _ordered(json.loads(value))
        except ValueError:
            return value
    if isinstance(value, dict):
        return {name: _ordered(one) for name, one in value.items()}
    return [_ordered(one) for one in value] if isinstance(value, list) else value


class Watched:
    """Writes down what a server is asked, for as long as it is open. A context manager."""

    END = b"the history ends here"

    def __init__(self, server: Server) -> None:
        self._server = server
        self._lines: list[bytes] = []

    def __enter__(self) -> Watched:
        self._socket = socket.create_connection(("127.0.0.1", self._server.port))
        self._file = self._socket.makefile("rb")
        self._socket.sendall(b"MONITOR\r\n")
        if self._file.readline() != b"+OK\r\n":
            raise RuntimeError("the server can't be watched")
        self._thread = threading.Thread(target=self._read, name="monitor", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._socket.close()

    def calls(self) -> list[Call]:
        """All that was asked up to now."""
        with self._server.client() as client:
            client.execute_command("ECHO", self.END)
        self._thread.join(30)
        if self._thread.is_alive():
            raise RuntimeError("the history has no end")
        self._socket.shutdown(socket.SHUT_RDWR)
        self._file.close()
        return list(_calls_in(self._lines))

    def _read(self) -> None:
        for line in self._file:
            if self.END in line:
                break
            self._lines.append(line)


def _calls_in(lines: Sequence[bytes]) -> Iterator[Call]:
    last: Call | None = None
    for line in lines:
        found = LINE.match(line)
        if found is None:
            raise RuntimeError(f"a line that MONITOR doesn't write: {line[:100]!r}")
        command = tuple(ESCAPED.sub(_unescaped, word) for word in WORD.findall(found[4]))
        if found[3] == b"lua":
            assert last is not None
            last.inner.append(command)
            continue
        if last is not None:
            yield last
        last = Call(int(found[1]) * 1000 + int(found[2]), command)
    if last is not None:
        yield last


def _unescaped(found: re.Match[bytes]) -> bytes:
    what = found[1]
    if what[:1] == b"x" and len(what) == 3:
        return bytes([int(what[1:], 16)])
    return LETTERS.get(what, what)


@dataclass(frozen=True)
class Difference:
    """What the store in memory did otherwise than the server."""

    script: str
    call: Command
    server_only: Counter[Command]
    memory_only: Counter[Command]


class Replay:
    """Makes a history's calls on the store in memory.

    `counts` says how often which script was called. `dispatch` is the broker's script, which some calls of ours have in
    the middle: what it does to the broker's keys is taken from the history, and not done again.
    """

    def __init__(self, dispatch: str) -> None:
        self.counts: Counter[str] = Counter()
        self._backend = StubBackend(clock=Clock(0))
        self._client: Any = self._backend.client
        self._texts: dict[bytes, tuple[str, str]] = {}
        for name in script_names():
            known = script(name)
            self._texts[known.sha.encode()] = self._texts[known.text.encode()] = name, known.text
        onward = script("record", dispatch)
        quiet = "record, onward", script("record", "return 'it has gone'").text
        self._texts[onward.sha.encode()] = self._texts[onward.text.encode()] = quiet

    def differences(self, calls: Sequence[Call]) -> list[Difference]:
        """Where the store in memory writes something else than the server has written."""
        made: list[Command] = []

        def watched(keys: Any, name: bytes, args: Sequence[bytes]) -> Any:
            made.append((name, *args))
            return execute(keys, name, args)

        found: list[Difference] = []
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(memory_scripts, "execute", watched)
            for call in calls:
                made.clear()
                self._backend.clock.ahead = call.time
                called = self._make(call)
                here = writes_of(made)
                if called and here != call.writes:
                    found.append(Difference(called, call.command, call.writes - here, here - call.writes))
        return found

    def _make(self, call: Call) -> str:
        """Do the same in memory. Returns which script of ours it was."""
        name, *args = call.command
        called = ""
        if name.upper() in (b"EVALSHA", b"EVAL") and args[0] in self._texts:
            called, text = self._texts[args[0]]
            if call.inner or name.upper() == b"EVAL":  # else the server didn't know the script yet
                self.counts[called] += 1
                self._client.execute_command("EVAL", text, *args[1:])
            else:
                called = ""
        elif name.upper() in WRITES and args[0].startswith(OURS):
            self._client.execute_command(name.decode().upper(), *args)
        for inner in (call.command, *call.inner):
            self._follow(inner)
        return called

    def _follow(self, command: Command) -> None:
        """Keep up with the broker's queues, at whose ends the scripts look."""
        name, *args = command
        values = self._backend.keyspace.values
        if not args or args[0].startswith(OURS):
            return
        if name.upper() == b"RPUSH":
            values.setdefault(args[0], []).extend(args[1:])
        elif name.upper() == b"LPOP" and values.get(args[0]):
            values[args[0]].pop(0)
            if not values[args[0]]:
                del values[args[0]]
