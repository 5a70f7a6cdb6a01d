"""Sweeps by hand, as an operator does it."""

from __future__ import annotations

from dataclasses import dataclass

from dramatiq import Broker, get_broker

from .backend import SWEEP
from .engine import engine_of
from .handover import sweep as look_at_all


@dataclass(frozen=True, slots=True)
class SweepOutcome:
    """What came of a sweep, such as ``sweep().looked_at``.

    `looked_at` is how many runs were due and looked at, and `failed` how many of them couldn't be, for reasons that are
    logged; they are looked at again later. `left_to_workers` says that nothing was done here, because the broker is a
    detached one: the sweepers of the workers were called instead.
    """

    looked_at: int = 0
    failed: int = 0
    left_to_workers: bool = False


def sweep(broker: Broker | None = None) -> SweepOutcome:
    """Look once for runs whose duties nobody does, for deadlines that are over and for runs that are stalled, and have
    the broker redeliver what dead workers have left: ``sweep()`` does what a worker's sweeper does once in its
    interval. Any number of processes may do it at the same time.

    Raises NotConfigured; StateUnavailable or BrokerUnavailable: what was owed stays owed.
    """
    engine = engine_of(broker or get_broker())
    if engine.is_detached:
        engine.backend.now()
        engine.backend.say(SWEEP)
        return SweepOutcome(left_to_workers=True)
    swept = look_at_all(engine)
    engine.courier.redeliver()
    return SweepOutcome(swept.looked_at, swept.failed)
