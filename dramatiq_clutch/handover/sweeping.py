"""Sweeps: does duties that nobody else does, and finds runs that are stalled or gone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dramatiq.logging import get_logger

from .. import observing
from ..engine import Engine
from ..enlisting import strike_out
from ..errors import ForeignRun, NewerRelease, StateUnavailable, Unavailable, is_expected
from ..stored.duties import SendMembers
from ..stored.formats import is_stalled, present_stage, result_in
from ..stored.owners import SWEEPER
from ..stored.places import NOBODY, Place
from ..stored.plan import StageLine
from .doing import hand_over
from .members import Members
from .nesting import gone
from .work import chunks

#: A sweep ends after so many runs in a row for which nothing could be sent, because then the broker is away.
MOST_IN_VAIN = 5

logger: logging.Logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Swept:
    """How many runs a sweep has looked at, and how many of them it couldn't."""

    looked_at: int
    failed: int


def sweep(engine: Engine, limit: int = 100, is_stopping: Callable[[], bool] = lambda: False) -> Swept:
    """Look at all runs that are due in the index at the beginning, at most `limit` at a time, until none is left or
    `is_stopping()`. Duties whose lease has lapsed are done, and shares that are for anybody; stalled runs are reported,
    or sent again.

    Raises StateUnavailable or BrokerUnavailable.
    """
    looked, failed, began = 0, 0, engine.now()
    while True:
        at = engine.now() + 2 * engine.lease_ms
        due = engine.backend.due(began, at, limit, application=engine.application)
        in_vain = 0
        for position, run_id in enumerate(due, 1):
            try:
                _look_at(engine, run_id, at, is_stopping)
                in_vain = 0
            except NewerRelease as error:
                engine.leave_to_newer(run_id, error)
                engine.look_again(run_id, engine.now() + 1)  # the next sweeper may be of the newer release
            except ForeignRun as error:  # it got into this index when this application tried to start or change it
                logger.info("The sweeper lets go of run %s: %s", run_id, error)
                engine.look_again(run_id, None, instead=at)
            except Exception as error:  # one run must not stop the others; it is looked at again later
                failed += 1
                if isinstance(error, Unavailable):
                    answers = _answers(engine)
                    in_vain += not (answers and isinstance(error, StateUnavailable))
                    if in_vain == MOST_IN_VAIN or not answers:
                        _put_back(engine, due[position:])
                        raise
                shown = None if is_expected(error) else error
                logger.error("The sweeper can't look at run %s, and goes on: %s", run_id, error, exc_info=shown)
        looked += len(due)
        if not due or is_stopping():
            return Swept(looked, failed)


def _answers(engine: Engine) -> bool:
    """Whether the state store works, although it has failed for one run. It is asked to sweep a run that doesn't
    exist."""
    try:
        engine.backend.sweep(NOBODY, engine.caller(SWEEPER), stalled_after=engine.stalled_after)
    except Unavailable:
        return False
    return True


def _put_back(engine: Engine, run_ids: Sequence[str]) -> None:
    """Make these runs due at once. The next sweep then begins with them, and not with the runs that this one has failed
    at, and which could hold up every sweep."""
    try:
        for run_id in run_ids:
            engine.look_again(run_id, engine.now(), known=True)
    except Unavailable as error:
        logger.debug("They are looked at later: %s", error)  # `due` has put all of them down for a later time


def _look_at(
    engine: Engine, run_id: str, at: int, is_stopping: Callable[[], bool], *, waits_for_jobs: bool = False
) -> None:
    """Sweep one run. It stays in the index for another look `at` a later time, in case this one breaks off."""
    while True:
        caller = engine.caller(SWEEPER)
        reply = engine.backend.sweep(run_id, caller, stalled_after=engine.stalled_after, waits_for_jobs=waits_for_jobs)
        hand_over(engine, run_id, reply, caller)
        if reply.note != "more" or is_stopping():
            break  # no share is left, or this worker stops
    if engine.remembered.unlisted.pop(run_id, False):
        return  # it stays in the index, so the register is told another time
    if reply.word == "unknown":
        strike_out(engine, run_id)
    if reply.word in ("unknown", "rests"):
        engine.look_again(run_id, None, instead=at)
    elif reply.word == "quiet":
        if not waits_for_jobs and _waits_for_jobs(engine, run_id):
            _look_at(engine, run_id, at, is_stopping, waits_for_jobs=True)
        else:
            engine.look_when_quiet(run_id, reply.by, instead=at)
    elif reply.word == "works":
        if engine.resend_stalled and _is_stalled(engine, run_id):
            _tell_stalled(engine, run_id)
        engine.look_when_quiet(run_id, reply.by, instead=at)
    elif reply.word == "stalled":
        _tell_stalled(engine, run_id)
        engine.look_when_quiet(run_id, reply.by, instead=at)
    elif reply.by and reply.by < at:  # others owe something, and a deadline may be over before the next look
        engine.look_again(run_id, reply.by, instead=at)


def _is_stalled(engine: Engine, run_id: str) -> bool:
    """Whether the run was found to be stalled before, and nothing has happened since. Then it is sent again: the
    process that found it may have died first, or the state store may have lost what followed."""
    snapshot = engine.backend.snapshot(run_id)
    return snapshot is not None and is_stalled(snapshot)


def _tell_stalled(engine: Engine, run_id: str) -> None:
    """Log that a run is stalled, and send its unsettled members again if the settings say so."""
    seconds = engine.stalled_after / 1000
    if observing.is_observed(engine.broker):
        observing.show(engine.broker, observing.RunStalled(run_id=run_id, resent=engine.resend_stalled))
    if not engine.resend_stalled:
        logger.warning(
            "Run %s is stalled: for %g s nothing has happened to it, though members are unsettled and none is delayed. "
            "Their messages may be lost, or wait in a queue that no worker listens to. Run(%r).resend() sends them "
            "again; ClutchMiddleware(resend_stalled=True) would do so by itself.",
            run_id,
            seconds,
            run_id,
        )
        return
    logger.warning(
        "Run %s is stalled: for %g s nothing has happened to it. Its members are sent again.", run_id, seconds
    )
    caller = engine.caller(SWEEPER)
    hand_over(engine, run_id, engine.backend.resend(run_id, caller), caller)


def _waits_for_jobs(engine: Engine, run_id: str) -> bool:
    """Whether the present stage of a run with nested runs also waits for a job. Sweepers look at each nested run by
    itself, so here it is only made sure that the parent has heard how it stands, or that it is gone."""
    backend = engine.backend
    snapshot, generation = backend.snapshot(run_id), backend.generation(run_id)
    if snapshot is None or generation is None:
        return False
    stage, stored, sent = present_stage(snapshot)
    line = StageLine.parse(stored)
    total = line.total or 0
    members = Members(engine, run_id, SendMembers(stage, 0, total, line=stored, generation=generation))
    waits = False
    for start, end in chunks(0, sent if line.limit else total):
        fields = backend.results(run_id, stage, start, end, generation=generation)
        standing = backend.standing(run_id, stage, range(start, end), generation=generation)
        runs = set(members.runs(start, end))
        for member, field, stands in zip(range(start, end), fields, standing, strict=True):
            if result_in(field) is not None or stands == "dead":
                continue
            if member in runs:
                _ask_after(engine, members.place(member, 0))
            else:
                waits = True
    return waits


def _ask_after(engine: Engine, place: Place) -> None:
    """Have a nested run tell its parent again how it stands; if it is gone, tell the parent that."""
    child, backend = place.child_id, engine.backend
    if backend.generation(child) != place.child_generation:
        report_gone(engine, child, place.child_generation)
        return
    caller = engine.caller(SWEEPER)
    hand_over(engine, child, backend.retell(child, caller, generation=place.child_generation), caller)


def report_gone(engine: Engine, run_id: str, generation: str) -> None:
    """Tell the parent of a nested run that the run is gone. A parent of another generation isn't told, because the run
    wasn't nested in that one."""
    place = Place.of_child(run_id)
    if place is None:
        return
    place = replace(place, generation=engine.backend.generation(place.run_id) or "")
    if place.child_generation != generation:
        return
    told = gone(engine, place, "is gone: it has expired or was removed")
    hand_over(engine, told.run_id, told.reply, told.caller)
