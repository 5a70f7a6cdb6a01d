"""Calls the server, by the client or straight over the wire (`resp`), and translates its errors."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any, TypeVar, cast

from ...errors import ClutchError, PayloadRefused, StateUnavailable
from ...forks import renew_in_children
from . import resp
from .lazily import redis
from .outages import LARGE, LIMITS, in_words, is_outage, refuses, way_out
from .scripts import Script

Answer = TypeVar("Answer")


class _Translated(AbstractContextManager[None]):
    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, ClutchError):
            return
        if isinstance(error, UnicodeEncodeError):
            raise PayloadRefused(f"what is to be stored is text that can't be encoded: {error}") from error
        if refuses(error):
            raise PayloadRefused(f"the state store refuses a payload ({LIMITS}): {in_words(error)}") from error
        text = f"the state store can't be used for now ({way_out(error)}): {in_words(error)}"
        raise StateUnavailable(text, is_known=is_outage(error)) from error


_translated = _Translated()


def translated() -> AbstractContextManager[None]:
    """Turn every error that isn't known to be final into StateUnavailable, because the caller waits for that.

    Two kinds of errors are final: this package's own, which are raised as they are; and a payload that the server
    refuses, or text that can't be encoded, which become PayloadRefused.
    """
    return _translated


class Calls:
    """Makes calls by one client. `is_single` says that the client is of one server, and not of a cluster."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        module = sys.modules.get("redis")  # unless it is imported, nobody has made a client of it
        self.is_single: bool = module is not None and isinstance(client, module.Redis)
        renew_in_children(self)

    def renew(self) -> None:
        """Begin the client's pool anew in a forked child."""
        if self.is_single:
            resp.renew_pool(self.client)

    def ask(self, call: Callable[[], Answer]) -> Answer:
        """Return what a call of the client returns. Raises StateUnavailable or PayloadRefused."""
        with translated():
            return call()

    def run(self, script: Script, arguments: tuple[Any, ...], *, by_worker: bool = False, alone: bool = False) -> Any:
        """Call a script, and return what it returns.

        A call `by_worker` goes straight over the wire, without the client's own repeats, because a worker waits and
        repeats by itself. It shares a round trip with other threads' calls, unless it is to go `alone`. Raises
        StateUnavailable or PayloadRefused.
        """
        direct = by_worker and self.is_single
        with translated():
            try:
                return self._evaluate("EVALSHA", script.sha, *arguments, direct=direct, alone=alone)
            except redis.exceptions.NoScriptError:
                pass
            except redis.ResponseError as error:
                raise located(error, script) from error
            try:
                return self._evaluate("EVAL", script.text, *arguments, direct=direct, alone=alone)
            except redis.ResponseError as error:
                raise located(error, script) from error

    def evaluate(self, script: Script, arguments: tuple[Any, ...]) -> Any:
        """Call a script by its text, in a round trip of its own, because its payload is large. Returns what it
        returns. Raises StateUnavailable or PayloadRefused."""
        with translated():
            return self._evaluate("EVAL", script.text, *arguments, direct=False, alone=True)

    def _evaluate(self, *command: Any, direct: bool, alone: bool) -> Any:
        client: Any = self.client
        if direct:
            return resp.ask(client, command, alone=alone)
        size = resp.size_of(command)
        if size < LARGE:
            return client.execute_command(*command)
        if self.is_single:
            # It goes over the wire first: by its own repeats the client would take a refusal for an outage, and wait.
            with suppress(redis.ConnectionError):
                return resp.ask(client, command, alone=True)
            return client.execute_command(*command)  # it was an outage, so the client may repeat the call
        call = resp.small_call(command)
        return resp.carry(size, lambda: client.execute_command(*command), lambda: self._works(call))

    def _works(self, call: resp.Command) -> bool:
        """Whether the cluster answers this small call."""
        try:
            return bool(cast(Any, self.client).execute_command(*call) == 1)
        except (redis.RedisError, redis.exceptions.RedisClusterException, OSError):
            return False


def located(error: redis.ResponseError, script: Script) -> redis.ResponseError:
    """The error with the script's file and line in its text. It keeps its class, because callers go by that."""
    text = str(error)
    told = script.located(text)
    return type(error)(told) if told != text else error
