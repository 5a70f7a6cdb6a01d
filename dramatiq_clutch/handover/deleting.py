"""Deletes what is kept of runs at rest, those that are nested in them included, and so frees their ids."""

from __future__ import annotations

import time
from collections.abc import Iterator

from ..backend import Reply
from ..engine import Engine
from ..errors import RunAtWork
from ..stored import owners
from ..stored.formats import Snapshot, present_stage
from ..stored.places import Place
from ..stored.plan import StageLine
from .doing import hand_over
from .work import chunks

#: How many seconds pass before it is looked again whether others have done what a run owes.
PAUSE = 0.02


def delete(engine: Engine, run_id: str, generation: str) -> str:
    """Delete the run of this generation, and all that are nested in it. If this breaks off, it can be called again: the
    run itself goes last, and in one step.

    Returns `deleted`; `freed` if only a tombstone was left of the run; or `unknown` if there is no such run. What it
    still owes, such as a callback, is done first; what another process is about to do is waited for, and done here if
    that process doesn't. Raises RunAtWork if the run isn't at rest, or if others take too long; ForeignRun; and
    Unavailable.
    """
    for _ in tries(engine):
        word = ask(engine, run_id, generation, asks=True).word
        if word == "rests":
            _delete_nested(engine, run_id, generation)
            word = ask(engine, run_id, generation).word
        if word == "works":
            raise RunAtWork(f"run {run_id!r} is at work, so it can't be deleted: cancel() it first")
        if word != "owing":
            return word
    raise still_owing(run_id)


def still_owing(run_id: str) -> RunAtWork:
    """The error for a run whose callbacks, say, another process hasn't sent in time."""
    return RunAtWork(
        f"run {run_id!r} is at rest, but what follows from that, such as a callback, isn't sent yet: try again"
    )


def tries(engine: Engine) -> Iterator[None]:
    """Yields now and then, for longer than others may hold the lease of what a run owes."""
    for tried in range(2 + int((2 * engine.lease_ms / 1000 + 1) / PAUSE)):
        if tried:
            time.sleep(PAUSE)
        yield


def ask(engine: Engine, run_id: str, generation: str, *, asks: bool = False, bury: int | None = None) -> Reply:
    """Delete the run, or ask whether that could be done; and do what it still owes, as far as that is for anybody."""
    caller = engine.caller(owners.call("delete"))
    reply = engine.backend.delete(run_id, caller, generation=generation, asks=asks, bury=bury)
    if reply.word == "owing" and not reply.duties:  # there may be shares for anybody, which only sweepers are given
        caller = engine.caller(owners.SWEEPER)
        reply = engine.backend.delete(run_id, caller, generation=generation, asks=asks, bury=bury)
    if reply.word == "owing":
        hand_over(engine, run_id, reply, caller)
    return reply


def _delete_nested(engine: Engine, run_id: str, generation: str) -> None:
    """Delete the runs that are nested in this one."""
    snapshot = engine.backend.snapshot(run_id)
    if snapshot is not None and snapshot["head"].get("gen", "") == generation:
        for place in nested_places(engine, run_id, snapshot):
            delete_at(engine, place)


def delete_at(engine: Engine, place: Place) -> None:
    """Delete the run that is nested at this place. If it is still at work, it is cancelled before: a run comes to rest
    before all of its nested runs do. Raises RunAtWork if that takes too long."""
    child, generation = place.child_id, place.child_generation
    for _ in tries(engine):
        word = ask(engine, child, generation, asks=True, bury=place.epoch).word
        if word == "works":
            caller = engine.caller(owners.parent("halt", place.epoch))
            reply = engine.backend.cancel(child, caller, generation=generation)
            hand_over(engine, child, reply, caller)
        if word == "rests":
            _delete_nested(engine, child, generation)
            word = ask(engine, child, generation, bury=place.epoch).word
        if word in ("deleted", "unknown"):
            return
    raise RunAtWork(f"run {child!r}, which is nested in {place.run_id!r}, doesn't come to rest: try again")


def nested_places(engine: Engine, run_id: str, snapshot: Snapshot, first: int = 0) -> Iterator[Place]:
    """The places at which something is left of runs that are nested in the stages of this one, from the stage `first`
    on; the snapshot says how it stood.

    Of those in stages that are complete only a tombstone is left, unless they are dead or were skipped, or callbacks of
    theirs are still to end. In the present stage they may be anywhere.
    """
    backend, head, (present, _, _) = engine.backend, snapshot["head"], present_stage(snapshot)
    generation, epoch = head.get("gen", ""), int(head.get("epoch", 0))
    for stage in range(first, present + 1):
        line = StageLine.parse(head.get(f"s{stage}", "0 0 -"))
        anywhere = line.nested or any(int(head.get(f"{count}{stage}", 0)) for count in ("d", "k"))
        if stage < present and not anywhere:
            continue
        for start, end in chunks(0, line.total or 0):
            members = range(start, end)
            some = members if anywhere else sorted(backend.nested(run_id, stage, members, generation=generation))
            places = [Place(run_id, stage, member, epoch, generation) for member in some]
            found = backend.occupants([place.child_id for place in places])
            for place, occupant in zip(places, found, strict=True):
                if occupant and occupant.state != "gone" and occupant.generation == place.child_generation:
                    yield place
