"""The handle of a run: status and result."""

from __future__ import annotations

import time
from typing import Any

from dramatiq import Broker, get_broker
from dramatiq.results import ResultMissing, ResultTimeout

from .errors import RunFailed, RunNotFound
from .handover import Engine, engine_of
from .status import RunStatus, status_from

#: How long `get_result(block=True)` waits unless told, in milliseconds: Dramatiq's own default.
DEFAULT_TIMEOUT = 10_000


class Run:
    """One execution of a clutch. Any process with the same broker can make a handle of a run whose id it knows."""

    def __init__(self, run_id: str, *, broker: Broker | None = None) -> None:
        self.run_id = run_id
        self._broker = broker

    def status(self) -> RunStatus:
        """How the run stands, at one moment. Raises RunNotFound."""
        snapshot = self._engine.backend.snapshot(self.run_id)
        if snapshot is None:
            raise RunNotFound(f"there is no run {self.run_id!r}: it never was, or has expired")
        return status_from(self.run_id, snapshot)

    def get_result(self, *, block: bool = False, timeout: int | None = None) -> Any:
        """The last stage's value, or list of values for a `parallel` or `map`; None for an empty clutch.

        Parameters:
          block: wait for it, in the state store and without polling.
          timeout: how long to wait at most, in milliseconds; default is 10 s, as everywhere in Dramatiq.

        Raises:
          ResultMissing: the run is at work, and `block` is False.
          ResultTimeout: it is still at work after `timeout`.
          RunFailed: it has failed (a `ResultFailure`); at once, nobody is left waiting.
          RunNotFound: there is no such run, or it has succeeded and its result has expired; at once.
          ResultsGone: the result was removed by hand.
        """
        deadline = time.monotonic() + (DEFAULT_TIMEOUT if timeout is None else timeout) / 1000
        while (status := self.status()).state in ("running", "failing"):
            if not block:
                raise ResultMissing(f"run {self.run_id!r} is {status.state}")
            rest = deadline - time.monotonic()
            if rest <= 0:
                raise ResultTimeout(f"run {self.run_id!r} is still {status.state}")
            self._engine.backend.wait(self.run_id, rest)
        if status.state == "failed":
            raise _failure(status)
        if not status.stages:
            return None
        line, results = self._engine.stage_results(self.run_id, len(status.stages) - 1)
        return results if line.many else results[0]

    @property
    def _engine(self) -> Engine:
        return engine_of(self._broker or get_broker())

    def __repr__(self) -> str:
        return f"Run({self.run_id!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and other.run_id == self.run_id

    def __hash__(self) -> int:
        return hash(self.run_id)


def _failure(status: RunStatus) -> RunFailed:
    first = status.error or next(iter(status.failures), None)
    if first is None:
        return RunFailed(f"run {status.run_id!r} has failed")
    where = f"stage {first.stage}" + (f", {first.actor} (member {first.index})" if first.index is not None else "")
    text = f"run {status.run_id!r} has failed at {where}: {first.exception_type}: {first.exception_text}"
    return RunFailed(text, first.exception_type, first.exception_text)
