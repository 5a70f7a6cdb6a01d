"""A proxy between clients and a server that answers any chosen call with any chosen error.

It speaks RESP, the servers' protocol, well enough to know each call by its name:

- a plain command by its own name, in capitals: `"PING"`, `"HGET"`, `"BLMOVE"`;
- one of this package's scripts by the script's name, whether it is called by its text or by its hash: `"record"`,
  `"succeed"`, `"confirm"`, `"owed"`, `"guard"` ...;
- the script of Dramatiq's Redis broker by what it is told to do: `"enqueue"`, `"fetch"`, `"ack"`, `"nack"` ...;
- `"*"` is any call.

It lives in the process that makes it and is told there what to do; clients of any process connect to its `url`.

    with Proxy(server.port) as proxy:
        rule = proxy.answer("record", "-NOPERM this user has no permissions")   # until it is lifted
        proxy.cut("succeed", times=2)                                           # closes the connection, twice
        proxy.cut("confirm", times=1, applied=True)                             # the server does it, the answer is lost
        proxy.latency = 0.02                                                    # seconds, for each round trip
        ...
        wait_until("the error has been met", lambda: rule.met)
        rule.lift()
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import Any

import redis
from dramatiq.brokers import redis as dramatiq_redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from dramatiq_clutch.backends.redis.scripts import WITH_BROKER, script, script_names
from tests.support.server import free_port

#: After these a server sends without being asked, so the rest of the connection is passed on as it comes.
PUSHING = {"SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "MONITOR"}

#: The kinds of replies that consist of others: how many, for each that is counted.
NESTED = {b"*": 1, b"~": 1, b">": 1, b"%": 2, b"|": 2}

#: The kinds of replies that are followed by as many bytes as they say.
BULK = (b"$", b"!", b"=")


@dataclass(eq=False)
class Rule:
    """What is done to a call. `met` counts how often that has been."""

    call: str
    reply: bytes | None = None
    seconds: float = 0.0
    times: int | None = None
    applied: bool = False
    met: int = 0
    lifted: bool = False

    def lift(self) -> None:
        """The call goes through again."""
        self.lifted = True

    @property
    def holds(self) -> bool:
        return not self.lifted and (self.times is None or self.met < self.times)


class Proxy:
    """A proxy on loopback before a server on loopback. A context manager; see the module for what calls are named.

    `latency` is added to each round trip, in seconds: once for all commands that a client sends at a time. `calls`
    counts the calls that have come, by name.
    """

    def __init__(self, server_port: int) -> None:
        self.port = free_port()
        self.latency = 0.0
        self.calls: Counter[str] = Counter()
        self._server_port = server_port
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._closed = False

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        """A client of the server behind this proxy, which the caller closes. It repeats nothing by itself, so that a
        test sees each error that it has ordered."""
        return redis.Redis.from_url(self.url, retry=Retry(NoBackoff(), 0))

    # What to do

    def answer(self, call: str, reply: str, *, times: int | None = None, applied: bool = False) -> Rule:
        """Answer a call with a line of RESP, such as `"-ERR upstream failure"`, and don't pass it on.

        Parameters:
          times: how often; None is until the rule is lifted.
          applied: pass it on, and answer so instead of what the server says.
        """
        return self._add(Rule(call, reply=reply.encode() + b"\r\n", times=times, applied=applied))

    def cut(self, call: str, *, times: int | None = None, applied: bool = False) -> Rule:
        """Close the connection instead of answering a call. The parameters are those of `answer`."""
        return self._add(Rule(call, times=times, applied=applied))

    def delay(self, call: str, seconds: float, *, times: int | None = None) -> Rule:
        """Pass a call on only after so many seconds."""
        return self._add(Rule(call, seconds=seconds, times=times))

    def lift(self) -> None:
        """All calls go through again, at once."""
        with self._lock:
            self._rules.clear()
        self.latency = 0.0

    def close(self) -> None:
        """Stop listening, and close all connections."""
        self._closed = True
        self._listener.close()
        with self._lock:
            sockets = list(self._sockets)
        for one in sockets:
            _shut(one)

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._listen, name="proxy", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    # How it is done

    def _add(self, rule: Rule) -> Rule:
        with self._lock:
            self._rules.append(rule)
        return rule

    def _rule_for(self, call: str) -> Rule | None:
        with self._lock:
            self.calls[call] += 1
            rule = next((rule for rule in self._rules if rule.call in (call, "*") and rule.holds), None)
            if rule is not None:
                rule.met += 1
            return rule

    def _listen(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:  # it has been closed
                return
            threading.Thread(target=self._serve, args=(client,), name="proxy-connection", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(_shut, client)
            # Either end may go away at any time: then so does the other.
            stack.enter_context(contextlib.suppress(OSError, EOFError))
            server = socket.create_connection(("127.0.0.1", self._server_port))
            stack.callback(_shut, server)
            with self._lock:
                self._sockets |= {client, server}
            stack.callback(self._forget, client, server)
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pass_on(client, server)

    def _forget(self, *sockets: socket.socket) -> None:
        with self._lock:
            self._sockets -= set(sockets)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        asking, answering = Stream(client), Stream(server)
        while not self._closed:
            is_new_trip = not asking.has_more
            command, raw = asking.read_command()
            if is_new_trip and self.latency:
                time.sleep(self.latency)
            call = name_of(command)
            rule = self._rule_for(call)
            if rule is not None and rule.seconds:
                time.sleep(rule.seconds)
                rule = None
            if rule is None or rule.applied:
                server.sendall(raw)
                if call in PUSHING:
                    threading.Thread(target=_pipe, args=(asking, server), name="proxy-pipe", daemon=True).start()
                    _pipe(answering, client)
                    return
                reply = answering.read_reply()
                if rule is None:
                    client.sendall(reply)
                    continue
            if rule.reply is None:
                return
            client.sendall(rule.reply)


class Stream:
    """What comes over a connection, read command by command or reply by reply. Raises EOFError at its end."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._buffer = bytearray()

    @property
    def has_more(self) -> bool:
        """Whether something is here already."""
        return bool(self._buffer)

    def read_command(self) -> tuple[list[bytes], bytes]:
        """A command's parts, and all of it as it came."""
        head = self._line()
        if not head.startswith(b"*"):
            return head.split(), head
        raw, parts = [head], list[bytes]()
        for _ in range(int(head[1:])):
            line = self._line()
            part = self._take(int(line[1:]) + 2)
            raw += (line, part)
            parts.append(part[:-2])
        return parts, b"".join(raw)

    def read_reply(self) -> bytes:
        """One whole reply as it came, with whatever is pushed or told about it before it."""
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind in BULK:
            return line if rest.startswith(b"-1") else line + self._take(int(rest) + 2)
        if kind not in NESTED or rest.startswith(b"-1"):
            return line
        whole = line + b"".join(self.read_reply() for _ in range(NESTED[kind] * int(rest)))
        return whole + self.read_reply() if kind in (b">", b"|") else whole

    def rest(self) -> Iterator[bytes]:
        """All that comes from now on, as it comes."""
        if self._buffer:
            yield self._take(len(self._buffer))
        while data := self.connection.recv(65_536):
            yield data

    def _line(self) -> bytes:
        searched = 0
        while (end := self._buffer.find(b"\r\n", searched)) < 0:
            searched = max(len(self._buffer) - 1, 0)
            self._fill()
        return self._take(end + 2)

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._fill()
        taken = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        return taken

    def _fill(self) -> None:
        data = self.connection.recv(262_144)
        if not data:
            raise EOFError("the connection is closed")
        self._buffer += data


def name_of(command: Sequence[Any]) -> str:
    """The name of a call, as the module's docstring tells. The parts of the command are bytes, text or numbers."""
    parts = [part if isinstance(part, bytes) else str(part).encode() for part in command[:5]]
    word = parts[0].decode(errors="replace").upper() if parts else ""
    if word not in ("EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO"):
        return word
    sha = parts[1].decode(errors="replace").lower()
    if not word.startswith("EVALSHA"):
        sha = hashlib.sha1(parts[1], usedforsecurity=False).hexdigest()
    name = _names().get(sha)
    if name == "dispatch":  # of one key, which is followed by what to do
        return parts[4].decode(errors="replace")
    return name or word


@cache
def _names() -> dict[str, str]:
    """Scripts' names by their hashes: all of this package's, in each of their forms, and the broker's."""
    broker_scripts: dict[str, bytes] = dramatiq_redis._scripts  # noqa: SLF001
    texts = {name: [text] for name, text in broker_scripts.items()}
    dispatch = broker_scripts["dispatch"].decode()
    texts |= {name: [script(name).text.encode()] for name in script_names()}
    for name in WITH_BROKER:
        texts[name].append(script(name, dispatch).text.encode())
    return {hashlib.sha1(text, usedforsecurity=False).hexdigest(): name for name in texts for text in texts[name]}


def _pipe(source: Stream, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        for data in source.rest():
            target.sendall(data)
    _shut(target)


def _shut(connection: socket.socket) -> None:
    """End a connection, also for a thread that reads from it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
