"""The store in memory: RedisBackend on a keyspace in this process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

from dramatiq import Encoder

from ...findings import Finding
from ...forks import renew_in_children
from ..redis import RedisBackend
from ..redis.calls import Calls, located, translated
from ..redis.lazily import redis
from ..redis.scripts import Script
from .client import MemoryClient
from .keyspace import Clock, Keyspace, Saved


class MemoryCalls(Calls):
    """Calls scripts in memory: by their texts the first time, which saves asking whether they are known, and so
    redis-py's error that they aren't."""

    client: Any

    def run(self, script: Script, arguments: tuple[Any, ...], *, by_worker: bool = False, alone: bool = False) -> Any:  # noqa: ARG002
        call = ("EVALSHA", script.sha) if self.client.knows(script.sha) else ("EVAL", script.text)
        with translated():
            try:
                return self.client.execute_command(*call, *arguments)
            except redis.ResponseError as error:
                raise located(error, script) from error


class StubBackend(RedisBackend):
    """Keeps runs in this process, by the same scripts as RedisBackend. It is meant for tests, which then need no
    server: ``broker.add_middleware(ClutchMiddleware(StubBackend()))``.

    It does everything that a server does, expiry included, with one exception: a job's record doesn't send the next
    job's message in the same step, because no broker shares this store.

    Parameters:
      namespace: what all keys begin with.
      encoder: encodes results; default is Dramatiq's global encoder.
      clock: gives the time to everything: expiry, leases, the sweeper. Default is a clock that runs as real time does,
        and can be advanced.

    Raises NotConfigured if `lupa`, which runs the scripts, isn't installed.
    """

    _made_by = MemoryCalls

    def __init__(
        self, *, namespace: str = "dramatiq-clutch", encoder: Encoder | None = None, clock: Clock | None = None
    ) -> None:
        self.clock: Clock = clock or Clock()
        self.keyspace: Keyspace = Keyspace(self.clock)
        self._memory = MemoryClient(self.keyspace)
        super().__init__(client=cast(Any, self._memory), namespace=namespace, encoder=encoder)
        renew_in_children(self)

    @staticmethod
    def _takes(client: object) -> bool:
        return isinstance(client, MemoryClient)

    def now(self) -> int:
        return self.clock.now()

    def renew(self) -> None:
        """Begin anew in a forked child, with locks that nobody holds. A child of ``os.fork()`` does so by itself."""
        self._memory.renew()

    def warnings(self) -> Sequence[str]:
        return ()

    def fitness(self) -> Iterable[Finding]:
        return [Finding("info", "Runs are kept in this process alone, and end with it")]

    def reset(self) -> None:
        """Forget all runs, and how far the clock was advanced: ``backend.reset()`` between two tests."""
        with self._memory.lock:
            self.keyspace.clear()
            self.clock.reset()

    def save(self) -> Saved:
        """A copy of the whole store, and of how far its clock was advanced: ``saved = backend.save()``."""
        with self._memory.lock:
            return self.keyspace.save()

    def restore(self, saved: Saved) -> None:
        """Put the store and its clock back to what they were: ``backend.restore(saved)``. What was saved can be used
        again."""
        with self._memory.lock:
            self.keyspace.restore(saved)
