"""Tells the register of runs how they stand, and puts right what it has wrong (see `register.py`)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from dramatiq.logging import get_logger

from .engine import Engine
from .errors import DamagedState, Unavailable
from .register import Enlisted, Glance, Keeping
from .stored.entries import Entry, Turn

logger: logging.Logger = get_logger(__name__)


def enlist(engine: Engine, run_id: str, turn: Turn) -> None:
    """Tell the register that a run has turned. If that can't be done now, a sweeper does it: nobody has to wait."""
    try:
        _put(engine, [Enlisted(run_id, turn.entry())])
    except Unavailable as error:
        logger.warning("The register hears of run %s later, from a sweeper: %s", run_id, error)
        engine.remembered.unlisted[run_id] = True


def look_at_found(engine: Engine, found: Sequence[tuple[str, Entry]]) -> list[tuple[str, Glance]]:
    """How the runs stand that were found in the register, with their ids; those that are gone are left out, and so are
    those that can't be read. What the register has wrong is put right."""
    shown, wrong = list[tuple[str, Glance]](), list[Enlisted]()
    for (run_id, entry), glance in zip(found, engine.backend.look_at([run_id for run_id, _ in found]), strict=True):
        if isinstance(glance, DamagedState):
            logger.warning("A run is left out: %s", glance)
        elif glance is None or glance.nested:  # the id of a nested run may have been given to another run before
            wrong.append(Enlisted(run_id, Entry(entry.generation, entry.turns, entry.created)))
        else:
            shown.append((run_id, glance))
            if glance.turn.entry() != entry:
                wrong.append(Enlisted(run_id, glance.turn.entry(), instead=entry.generation))
    if wrong:
        try:
            _put(engine, wrong)
        except Unavailable as error:
            logger.debug("The register stays as it is: %s", error)
    return shown


def strike_out(engine: Engine, run_id: str) -> None:
    """Take a run that is gone out of the register. If that can't be done now, it leaves when somebody meets it."""
    try:
        (entry,) = engine.backend.entries([run_id], application=engine.application)
        if entry is not None:
            look_at_found(engine, [(run_id, entry)])
    except Unavailable as error:
        logger.debug("Run %s stays in the register: %s", run_id, error)


def _put(engine: Engine, runs: Sequence[Enlisted]) -> None:
    keeping = Keeping(engine.history_max, max(engine.history_ttl, engine.result_ttl), engine.run_ttl)
    backend = engine.backend
    leaving = backend.enlist(runs, engine.now(), keeping, application=engine.application)
    if leaving:
        backend.shorten(leaving)
