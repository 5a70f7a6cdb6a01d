"""Whose handle it is: the id of a run, the broker by which it is reached, and the error if it isn't there."""

from __future__ import annotations

from typing import Any, TypeVar

from dramatiq import Broker, get_broker

from ..engine import Engine, engine_of
from ..errors import RunNotFound, Unavailable
from ..shortening import shortened
from ..steps import Handle
from ..stored.places import Place
from ..waiting import Waiter, waiter_of

_Same = TypeVar("_Same", bound="RunIdentity")


class RunIdentity(Handle):
    """Says which run is meant. Two handles are equal if they have the same id; a handle is pickled as its id."""

    #: Which of the runs that have had the id this is the handle of; if it is empty, of whichever has it.
    _generation: str = ""

    def __init__(self, run_id: str, *, broker: Broker | None = None) -> None:
        self.run_id: str = _valid(run_id)
        self._broker = broker
        self.started: bool | None = None

    @property
    def _engine(self) -> Engine:
        return engine_of(self._broker or get_broker())

    @property
    def _waiter(self) -> Waiter:
        return waiter_of(self._engine.backend)

    def _not_found(self) -> RunNotFound:
        try:
            (found,) = self._engine.backend.occupants([self.run_id])
        except Unavailable:
            found = None
        if found is None or found.state != "gone":
            return RunNotFound(f"there is no run {self.run_id!r}: it never was, or has expired")
        if Place.of_child(self.run_id) is not None:
            return RunNotFound(f"run {self.run_id!r} has succeeded, and what it had went to the run it was nested in")
        text = f"run {self.run_id!r} has succeeded, and its result expired (the middleware's result_ttl)"
        again = f"; run(run_id={self.run_id!r}, if_exists='restart') runs it again" if found.claimed else ""
        return RunNotFound(text + again)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.run_id,)

    def __copy__(self: _Same) -> _Same:
        copied = type(self)(self.run_id, broker=self._broker)
        vars(copied).update(vars(self))
        return copied

    def __deepcopy__(self: _Same, memo: dict[int, Any]) -> _Same:
        return self.__copy__()  # the broker is shared, and not copied

    def __repr__(self) -> str:
        return shortened(f"Run({self.run_id!r})")  # the id of a run nested in many others is long

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunIdentity) and other.run_id == self.run_id

    def __hash__(self) -> int:
        return hash(self.run_id)


def _valid(run_id: Any) -> str:
    if not isinstance(run_id, str):
        raise TypeError(f"Run() takes the id of a run, a string like run.run_id, not {run_id!r}")
    if not run_id:
        raise ValueError("Run() takes the id of a run, and the given one is empty: no run has that")
    return run_id
