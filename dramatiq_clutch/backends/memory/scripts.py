"""Runs scripts as the server does: in Lua 5.1 with `redis` and `cjson`, and compiles each script once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any
from weakref import WeakMethod

from ...errors import NotConfigured
from ..redis.lazily import redis
from .commands import Status, execute
from .keyspace import Keyspace
from .numbers import text_of

# It is imported here and not at its first use, because a process that is forked while another thread imports it could
# never do so.
try:
    from lupa import lua51
except ImportError:
    lua51 = None

#: How to install `lupa`, for the text of an error.
INSTALL = 'pip install "dramatiq-clutch[testing]"'

#: How bytes become text and back. Bytes that aren't UTF-8 pass through JSON unchanged, as they do on the server.
UTF8 = ("utf-8", "surrogateescape")

#: What Lua has made of each script of this process, by its SHA. Every store has a Lua of its own, and where each test
#: makes a store, reading the same scripts again and again would be a good part of what it costs.
_byte_codes: dict[str, bytes] = {}


class Scripts:
    """Runs scripts on a keyspace. Only one thread at a time may use it.

    Raises NotConfigured if there is no `lupa`; the message says how to install it.
    """

    def __init__(self, keys: Keyspace) -> None:
        if lua51 is None:
            raise NotConfigured(
                f"StubBackend runs the scripts of RedisBackend in memory by lupa, which isn't installed: {INSTALL}"
            )
        self._keys = keys
        self._lua: Any = lua51.LuaRuntime(
            encoding=None, unpack_returned_tuples=True, register_eval=False, register_builtins=False
        )
        self._type_of: Any = lua51.lua_type
        self._syntax_error: Any = lua51.LuaSyntaxError
        self._compiled: dict[str, Any] = {}
        host = (resources.files(__package__) / "host.lua").read_bytes()
        self._dump: Any = self._lua.eval(b"string.dump")
        self._prepare: Any
        self._run: Any
        # The garbage collector doesn't see what Lua holds. So Lua gets weak methods: it must not hold this object,
        # which holds Lua.
        given = map(_weakly, (self._execute, self._encode, self._decode))
        self._prepare, self._run = self._lua.execute(host, *given)

    def run(self, sha: str, text: bytes, keys: Sequence[bytes], args: Sequence[bytes]) -> Any:
        """Run a script, and return what the server would reply. Raises ResponseError as the server does."""
        script = self._compiled.get(sha)
        if script is None:
            script = self._compiled[sha] = self._compile(sha, text)
        table = self._lua.table_from
        works, found = self._run(script, table(keys), table(args))
        if works:
            return self._reply(found)
        if isinstance(found, BaseException):  # a fault in this program, or an interrupt such as a time limit
            raise found
        words, line = found[b"err"].decode(*UTF8), found[b"line"]
        raise redis.ResponseError(f"{words} script: {sha}, on @user_script:{line}." if line else words)

    def _compile(self, sha: str, text: bytes) -> Any:
        try:
            script = self._lua.compile(_byte_codes.get(sha, text), name=b"@user_script")
        except self._syntax_error as error:
            words = error.args[0].decode(*UTF8)
            raise redis.ResponseError(f"ERR Error compiling script (new function): {words}") from error
        if sha not in _byte_codes:
            _byte_codes[sha] = self._dump(script)
        self._prepare(script)
        return script

    def _execute(self, *command: Any) -> Any:
        """Do a command that a script calls. Returns the reply; or, after an error, None and the error's text."""
        try:
            name, *args = [part if type(part) is bytes else _text_of(part) for part in command]
            reply = execute(self._keys, name, args)
        except redis.ResponseError as error:
            return None, str(error).encode(*UTF8)
        return reply if type(reply) is int or type(reply) is bytes else self._to_lua(reply)

    def _to_lua(self, reply: Any) -> Any:
        if reply is None:
            return False
        if isinstance(reply, list):  # it holds bytes and None only: no command here replies with another list
            return self._lua.table_from([False if part is None else part for part in reply])
        return self._lua.table_from({b"ok": bytes(reply)}) if isinstance(reply, Status) else reply

    def _reply(self, value: Any) -> Any:
        """Convert what a script has returned, as the server does: an array ends before its first nil, and a number
        loses its fraction."""
        if type(value) is bytes:
            return value
        if value is None or value is False:
            return None
        if value is True:
            return 1
        if isinstance(value, int | float):
            return int(value)
        if value[b"err"] is not None:
            raise redis.ResponseError(value[b"err"].decode(*UTF8))
        if value[b"ok"] is not None:
            return value[b"ok"]
        found: list[Any] = []
        while (part := value[len(found) + 1]) is not None:
            found.append(self._reply(part))
        return found

    # JSON, as the server's cjson reads and writes it

    def _encode(self, value: Any) -> bytes:
        text = json.dumps(self._plain(value), separators=(",", ":"), ensure_ascii=False)
        return text.replace("/", "\\/").replace("\x7f", "\\u007f").encode(*UTF8)

    def _plain(self, value: Any) -> Any:
        if type(value) is bytes:
            return value.decode(*UTF8)
        if isinstance(value, float):
            short = float(b"%.14g" % value)  # as many digits as cjson keeps
            return int(short) if short.is_integer() else short
        if self._type_of(value) != "table":
            return value
        pairs = dict(value.items())
        if pairs and all(type(key) is int and key > 0 for key in pairs):
            return [self._plain(pairs.get(index)) for index in range(1, max(pairs) + 1)]
        return {
            (key.decode(*UTF8) if type(key) is bytes else text_of(key).decode()): self._plain(one)
            for key, one in pairs.items()
        }

    def _decode(self, text: bytes) -> Any:
        """The value that a JSON text stands for; or, if the text is wrong, None and the text of the error."""
        try:
            return self._table(json.loads(text.decode(*UTF8)))
        except json.JSONDecodeError as error:
            return None, f"Expected value but found invalid token at character {error.pos + 1}".encode()

    def _table(self, value: Any) -> Any:
        if isinstance(value, str):
            return value.encode(*UTF8)
        if isinstance(value, dict):
            return self._lua.table_from({key.encode(*UTF8): self._table(one) for key, one in value.items()})
        if isinstance(value, list):
            return self._lua.table_from([self._table(one) for one in value])
        if value is None:
            raise NotImplementedError("no script writes null, so cjson.null isn't there in memory")
        return value


def _weakly(method: Callable[..., Any]) -> Callable[..., Any]:
    """A function that calls a method without keeping the method's object alive."""
    found: Any = WeakMethod(method)
    return lambda *args: found()(*args)


def _text_of(argument: Any) -> bytes:
    """A command's argument that isn't bytes, as text: scripts may pass numbers. Raises ResponseError for others."""
    if isinstance(argument, int | float) and not isinstance(argument, bool):
        return text_of(argument)
    raise redis.ResponseError("ERR Command arguments must be strings or integers")
