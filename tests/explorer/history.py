"""Real histories: what a real server was asked, in its order, replayed through the store in memory.

The server is watched with MONITOR, which tells of every command and, tagged `lua`, of those that scripts make. Each
call of one of our scripts is then made on the store in memory, where it has to read and write the same. Where the
server's keys were listed in between (`listing.py`), those in memory have to be the same, too.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
import tempfile
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import pytest
import redis

from dramatiq_clutch.backends import StubBackend
from dramatiq_clutch.backends.memory import Clock
from dramatiq_clutch.backends.memory import scripts as memory_scripts
from dramatiq_clutch.backends.memory.commands import execute
from dramatiq_clutch.backends.redis.scripts import WITH_BROKER, script, script_names
from tests.explorer.listing import LIST, Listing, differing, is_ours, plain
from tests.explorer.promises import Promises
from tests.support.awaiting import PATIENCE
from tests.support.server import Server

#: A line of MONITOR: the time, the database and who asks, and the command.
LINE = re.compile(rb"\+(\d+)\.(\d{3})\d* \[(\d+) ([^\]]+)\] (.*)")
WORD = re.compile(rb'"((?:[^"\\]|\\.)*)"')
ESCAPED = re.compile(rb"\\(x[0-9a-f]{2}|.)")
LETTERS = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b"}

#: Commands that change something, of all that the scripts and the backend call.
WRITES = frozenset(b"DEL HDEL HINCRBY HSET HSETNX PEXPIRE RENAME RPUSH SADD SET SREM UNLINK ZADD ZREM".split())

#: Those scripts in which the broker's own may do something, too. They are scripts of their own then, under these names.
ALONG = {f"{name}, along": name for name in WITH_BROKER}

#: What stands in those for the broker's own.
QUIET = "return 'it is done'"

#: How many of the calls that have written a key are told, if it differs.
LAST = 3

#: Of a script's list of arguments so many are told.
MOST_ARGUMENTS = 6

Command = tuple[bytes, ...]

NO_LISTINGS: Mapping[bytes, Callable[[], Listing]] = {}


@dataclass
class Call:
    """A command that a client has sent to the server, at a time (UNIX milliseconds), and what its script did."""

    time: int
    command: Command
    inner: list[Command] = field(default_factory=list)

    @property
    def writes(self) -> set[bytes]:
        """The library's keys that its script has changed."""
        return {command[1] for command in self.inner if command[0].upper() in WRITES and is_ours(command[1])}


def on_ours(commands: Sequence[Command]) -> Counter[Command]:
    """Those that read or change a key of the library; in which order a script visits a hash, or writes an object's
    fields, is nobody's business."""
    return Counter(
        (command[0].upper(), *map(plain, command[1:]))
        for command in commands
        if len(command) > 1 and is_ours(command[1])
    )


class Watched:
    """Writes down what a server is asked, until it is killed or the history is ended. A context manager."""

    END = b"the history ends here"

    def __init__(self, server: Server) -> None:
        self._server = server
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # open for as long as this object is
        self._cut_off = True

    def __enter__(self) -> Watched:
        self._socket = self._server.connect()
        self._socket.sendall(b"MONITOR\r\n")
        if self._socket.recv(5) != b"+OK\r\n":
            raise RuntimeError("the server can't be watched")
        self._thread = threading.Thread(target=self._read, name="monitor", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Forget what was written down."""
        with contextlib.suppress(OSError):  # the server has closed its end
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        self._file.close()

    def end(self) -> None:
        """End the history of a server that is still there."""
        with self._server.client() as client:
            client.execute_command("ECHO", self.END)
        self.wait()
        if self._cut_off:
            raise RuntimeError("the server has cut off who watches it")

    def wait(self) -> None:
        """Wait until all is written down, up to the end of the history or of the server."""
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            raise RuntimeError("the history has no end")

    def calls(self) -> Iterator[Call]:
        """All that was asked, once the history is at its end."""
        self._file.seek(0)
        lines = itertools.takewhile(lambda line: self.END not in line, self._file)
        return calls_in(lines, cut_off=self._cut_off)

    def _read(self) -> None:
        tail = b""
        with contextlib.suppress(ConnectionError):  # the server was killed
            while some := self._socket.recv(1 << 20):
                self._file.write(some)
                tail += some
                if self.END in tail:
                    self._cut_off = False
                    return
                tail = tail[-len(self.END) :]


def calls_in(lines: Iterable[bytes], *, cut_off: bool = False) -> Iterator[Call]:
    """The calls that these lines tell of, of the first database alone.

    Of a history that is `cut_off`, because its server was killed, the last call is left out: what is told of it may be
    only a part.
    """
    last: Call | None = None
    for line in lines:
        found = LINE.match(line)
        if found is None:
            if cut_off and not line.endswith(b"\n"):
                break
            raise RuntimeError(f"a line that MONITOR doesn't write: {line[:100]!r}")
        if found[3] != b"0":
            continue
        words = WORD.findall(found[5])
        command = tuple(ESCAPED.sub(_unescaped, word) if b"\\" in word else word for word in words)
        if found[4] == b"lua":
            assert last is not None
            last.inner.append(command)
            continue
        if last is not None:
            yield last
        last = Call(int(found[1]) * 1000 + int(found[2]), command)
    if last is not None and not cut_off:
        yield last


def _unescaped(found: re.Match[bytes]) -> bytes:
    what = found[1]
    if what[:1] == b"x" and len(what) == 3:
        return bytes([int(what[1:], 16)])
    return LETTERS.get(what, what)


@dataclass(frozen=True)
class Difference:
    """What the store in memory did otherwise than the server, or what neither should have done. Its text is for people.

    `script` is empty if it was none that is known.
    """

    script: str
    call: str
    server_only: Counter[Command]
    memory_only: Counter[Command]
    what: str = "the script does something else in memory than on the server"

    def __str__(self) -> str:
        sides = (("the server", self.server_only), ("in memory", self.memory_only))
        lines = [f"  {side}: {_short(command)}" for side, commands in sides for command in commands.elements()]
        return "\n".join([f"{self.call}: {self.what}", *lines])


@dataclass(frozen=True)
class KeyDifference:
    """A key's field that isn't the same on the server and in memory. `calls` were the last to write the key."""

    key: bytes
    field: Any
    on_server: Any
    in_memory: Any
    calls: Sequence[str]

    def __str__(self) -> str:
        where = f"{_text(self.key)}, {self.field if isinstance(self.field, str) else _text(self.field)}"
        told = f"{where}: {_text(self.on_server)} on the server, {_text(self.in_memory)} in memory"
        return "\n".join([told, *(f"  written by {call}" for call in self.calls)])


def _short(command: Command) -> str:
    return " ".join(map(_text, command))


def _text(value: Any, most: int = 200) -> str:
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else repr(value)
    return text if len(text) <= most else f"{text[:most]}…"


class Replay:
    """Makes a history's calls on the store in memory.

    `counts` says how often which script was called, `compared` how many keys were compared, `refused` how many commands
    were answered with an error. `dispatch` is the broker's script, which some calls of ours have in the middle: what it
    does to the broker's keys is taken from the history, and not done again.
    """

    def __init__(self, dispatch: str) -> None:
        self.counts: Counter[str] = Counter()
        self.compared = self.refused = 0
        self._backend = StubBackend(clock=Clock(0))
        self._client: Any = self._backend.client
        self._promises = Promises()
        self._written_by: defaultdict[bytes, deque[str]] = defaultdict(lambda: deque(maxlen=LAST))
        self._texts: dict[bytes, tuple[str, str]] = {}
        for name in script_names():
            known = script(name)
            self._texts[known.sha.encode()] = self._texts[known.text.encode()] = name, known.text
        for told, name in ALONG.items():
            known = script(name, dispatch)
            quiet = told, script(name, QUIET).text
            self._texts[known.sha.encode()] = self._texts[known.text.encode()] = quiet

    def begin(self, found: Listing) -> None:
        """Begin with what a server had when it was listed."""
        keyspace = self._backend.keyspace
        keyspace.values, keyspace.expires = deepcopy(found.values), dict(found.expires)
        self._promises = Promises.of(found.values)
        self._written_by.clear()

    def differences(
        self, calls: Iterable[Call], listings: Mapping[bytes, Callable[[], Listing]] = NO_LISTINGS
    ) -> Generator[Difference | KeyDifference, None, None]:
        """Where a script reads or writes something else in memory than on the server, or there is something else when
        the server was listed, or where a promise is broken that no history may break. After the first difference,
        others may follow from it.

        Parameters:
          listings: What came of the calls of `LIST`, by what they were told.
        """
        made: list[Command] = []
        done: list[tuple[Command, Any]] = []

        def watched(keys: Any, name: bytes, args: Sequence[bytes]) -> Any:
            made.append((name, *args))
            reply = execute(keys, name, args)
            done.append((made[-1], reply))
            return reply

        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(memory_scripts, "execute", watched)
            for call in calls:
                if LIST in call.command:
                    if call.command[-1] in listings:
                        yield from self._compare(listings[call.command[-1]]())
                    continue
                made.clear()
                done.clear()
                self._backend.clock.ahead = call.time
                called = self._make(call)
                on_server, in_memory = on_ours(call.inner), on_ours(made)
                if not on_server and not in_memory:
                    continue
                told = self._note(called, call, call.writes)
                if on_server != in_memory:
                    yield Difference(called, told, on_server - in_memory, in_memory - on_server)
                for broken in self._promises.broken_by(done):
                    yield Difference(called, told, Counter(), Counter(), broken)

    def _compare(self, found: Listing) -> Iterator[KeyDifference]:
        keyspace = self._backend.keyspace
        self._backend.clock.ahead = found.time
        keyspace.expire()
        here = Listing(found.time, keyspace.values, keyspace.expires)
        self.compared += len(found.ours)
        for key, where, on_server, in_memory in differing(found, here):
            yield KeyDifference(key, where, on_server, in_memory, [*self._written_by.get(key, ())])

    def _note(self, called: str, call: Call, keys: Iterable[bytes]) -> str:
        """Remember who has written which key. Returns the call as it is told."""
        told = _told(called, call)
        for key in keys:
            self._written_by[key].append(told)
        return told

    def _make(self, call: Call) -> str:
        """Do the same in memory. Returns which script of ours it was."""
        name, *args = call.command
        called = ""
        if name.upper() in (b"EVALSHA", b"EVAL") and args[0] in self._texts:
            known, text = self._texts[args[0]]
            if call.inner:  # else the server didn't know the script yet
                called = known
                self.counts[called] += 1
                self._ask("EVAL", text, *args[1:])
        elif name.upper() in WRITES and is_ours(args[0]):
            self._ask(name.decode().upper(), *args)
            self._note("", call, [args[0]])
        for inner in (call.command, *call.inner):
            self._keep_up(inner)
        return called

    def _ask(self, *command: Any) -> None:
        """What is refused here was refused by the server, too, or else what it has written tells."""
        try:
            self._client.execute_command(*command)
        except redis.ResponseError:
            self.refused += 1

    def _keep_up(self, command: Command) -> None:
        """Keep up with the broker's queues, at whose ends the scripts look."""
        name, *args = command
        values = self._backend.keyspace.values
        if not args or is_ours(args[0]):
            return
        if name.upper() == b"RPUSH":
            values.setdefault(args[0], []).extend(args[1:])
        elif name.upper() == b"LPOP" and values.get(args[0]):
            values[args[0]].pop(0)
            if not values[args[0]]:
                del values[args[0]]


def _told(called: str, call: Call) -> str:
    """A call with its arguments' names, as it can be read."""
    moment, command = f"at {call.time}", call.command
    if not called:
        return f"{moment}, {_short(command[:12])}"
    known, count = script(ALONG[called], QUIET) if called in ALONG else script(called), int(command[2])
    run = command[3].decode(errors="replace").removesuffix(":head")
    names, values = known.arguments, command[3 + count :]
    given = [f"{name}={_text(value, 40)}" for name, value in zip(names, values, strict=False) if value]
    given += [_text(value, 40) for value in values[len(names) :][:MOST_ARGUMENTS]]
    return f"{moment}, {called} of {run} ({', '.join(given)})"
