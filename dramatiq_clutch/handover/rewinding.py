"""Does stages of runs at rest again, in place."""

from __future__ import annotations

import logging
from dataclasses import replace

from dramatiq.logging import get_logger

from ..engine import Engine
from ..errors import ResultsGone, RunAtWork, foreign_run, is_expected
from ..stored import owners
from ..stored.formats import Snapshot
from ..stored.places import new_generation
from ..stored.plan import Spec, StageLine, stage_in
from .deleting import ask, delete_at, nested_places, still_owing, tries
from .doing import hand_over
from .lease import Lease

logger: logging.Logger = get_logger(__name__)


def rewind(engine: Engine, run_id: str, from_stage: int | str) -> bool:
    """Put a run at rest back to work at a stage, which is an index or a name. If this breaks off, either nothing was
    changed, or the run is at work and a sweeper does what is owed.

    Returns whether there is such a run. What it still owes, such as a callback, is done before, as by `delete`. Raises
    ValueError if there is no such stage, or it hasn't begun; ResultsGone if the run keeps no results; RunAtWork if it
    isn't at rest, or others take too long; ForeignRun; and Unavailable.
    """
    for _ in tries(engine):
        snapshot = engine.backend.snapshot(run_id)
        if snapshot is None:
            return False
        stage = _stage(engine, run_id, snapshot, from_stage)
        word = ask(engine, run_id, snapshot["head"]["gen"], asks=True).word
        if word == "rests":
            word = _rewind(engine, run_id, stage, snapshot)
        if word == "rewound":
            return True
        if word == "works":
            raise _at_work(run_id)
        if word == "expired":
            raise ResultsGone(
                f"the results of stage {stage - 1} of run {run_id!r}, which stage {stage} reads, are gone"
            )
    raise still_owing(run_id)


def _stage(engine: Engine, run_id: str, snapshot: Snapshot, from_stage: int | str) -> int:
    """The index of the stage. Raises what is to be said of a run that can't be done again from there."""
    head = snapshot["head"]
    if head["app"] != engine.application:
        raise foreign_run(run_id, head["app"], engine.application)
    if head.get("keeps") != "1":
        raise ResultsGone(
            f"run {run_id!r} keeps no results of stages that are over, so none can be done again: say "
            "Clutch(keep_results=True) where it is made. retry() without from_stage sends its dead members again"
        )
    stage = stage_in([StageLine.parse(head[f"s{index}"]) for index in range(int(head["stages"]))], from_stage)
    if head["state"] == "running":
        raise _at_work(run_id)
    if stage > int(head["stage"]):
        raise ValueError(
            f"stage {from_stage!r} of run {run_id!r} hasn't begun yet, so it can't be done again: retry() without "
            "from_stage carries on where the run has stopped"
        )
    return stage


def _at_work(run_id: str) -> RunAtWork:
    return RunAtWork(f"run {run_id!r} is at work, so no stage of it can be done again: cancel() it first")


def _rewind(engine: Engine, run_id: str, stage: int, snapshot: Snapshot) -> str:
    """Put the run back to work at the stage, if it is still as in the snapshot. Returns the word for that."""
    generation, backend = snapshot["head"]["gen"], engine.backend
    data = backend.spec(run_id, generation=generation)
    if data is None:
        return "unknown"  # by now there is another run, or another pass
    spec, caller = replace(Spec.from_bytes(data), generation=new_generation()), engine.caller(owners.call("retry"))
    # The index comes first: whatever happens from here on, a sweeper finds what is owed.
    engine.look_again(run_id, caller.now + engine.lease_ms)
    reply = backend.rewind(run_id, stage, spec, caller, generation=generation)
    if reply.word != "rewound":
        return reply.word
    # From here on the run is at work, whatever becomes of this process.
    _drop_pass(engine, run_id, snapshot, stage, Lease(engine, [(run_id, duty, caller) for duty in reply.duties]))
    try:
        hand_over(engine, run_id, reply, caller)
    except Exception as error:  # any error: what is owed is stored, so a sweeper does it
        logger.warning("A worker will finish the retry of run %s: %r", run_id, error, exc_info=not is_expected(error))
    return reply.word


def _drop_pass(engine: Engine, run_id: str, snapshot: Snapshot, stage: int, lease: Lease) -> None:
    """Delete what is left of the earlier pass, from this stage on, the runs that were nested in it included. Those of
    the new pass have other generations, and take the places of any that are left."""
    try:
        for place in nested_places(engine, run_id, snapshot, stage):
            delete_at(engine, place)
            lease.renew()
        engine.backend.drop_pass(run_id, snapshot, stage)
    except Exception as error:  # any error: what isn't deleted expires, and nothing of it counts
        logger.warning(
            "What is left of the earlier pass of run %s is left to expire: %r",
            run_id,
            error,
            exc_info=not is_expected(error),
        )
