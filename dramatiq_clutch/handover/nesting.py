"""Starts, revives and cancels nested runs, and tells their parents how they stand."""

from __future__ import annotations

import logging
from dataclasses import replace

from dramatiq.logging import get_logger

from ..backend import LAST, Record, Reply
from ..engine import Engine
from ..errors import DamagedState, PayloadRefused, is_final
from ..failures import failure_details
from ..status import RunStatus, details_of, status_from
from ..stored import owners
from ..stored.duties import Halt, StartNested, Tell
from ..stored.formats import result_in, since_of, told_in
from ..stored.places import Place, Tag
from ..stored.plan import Plan, Spec
from .members import Members
from .work import Caused, Work, chunks

logger: logging.Logger = get_logger(__name__)


def start_nested(engine: Engine, run_id: str, duty: StartNested) -> Work:
    """Start the runs that a job has nested, after the job has succeeded. They are of the present epoch, so that a
    `Halt` of an earlier one, which may still be under way, leaves them alone."""
    members = Members(engine, run_id, duty)
    plan = members.nested([duty.member]).get(duty.member)
    if plan is not None:  # otherwise its stage is over, or its run was cancelled
        yield start_run(engine, members.place(duty.member, duty.epoch), members.starting(plan))


def start_run(engine: Engine, place: Place, plan: Plan) -> Work:
    """Start the nested run that stands at a place. If that is done twice, there is still one run, for its id is
    derived."""
    caller = engine.caller(owners.parent("start", place.epoch))
    reply = engine.create(place.child_id, plan.at(place), caller)
    yield Caused(place.child_id, reply, caller)


def revive_run(engine: Engine, place: Place, plan: Plan, *, by_hand: bool) -> Work:
    """Have a nested run retry, or `by_hand` send its unsettled members again. If it is gone, start it anew.

    Another process that was to start it in an earlier epoch may do so between the two calls here, and the run may then
    be cancelled for that epoch. So if it exists when it is to be started, it is revived again.

    If it has succeeded, though the parent doesn't have that (its result couldn't be stored there, or a failover has
    lost it), it is gone.
    """
    caller = engine.caller(owners.parent("revive", place.epoch))
    child, generation, backend = place.child_id, place.child_generation, engine.backend
    engine.look_again(child, engine.now() + engine.lease_ms)

    def revived() -> Reply:
        if by_hand:
            return backend.resend(child, caller, generation=generation)
        return backend.retry(child, caller, since=place.epoch, generation=generation)

    reply = revived()
    if reply.word == "unknown":
        reply = engine.create(child, plan.at(place), caller)
        if reply.word == "exists":
            reply = revived()
    yield Caused(child, reply, caller)
    if reply.word == "unknown":
        (found,) = backend.occupants([child])
        if found is not None and (found.generation, found.state) == (generation, "gone"):
            yield gone(engine, place, "has succeeded, and its result isn't there any more")


def gone(engine: Engine, place: Place, how: str) -> Caused:
    """Record that the run at a place is gone; the text tells `how`. It is a dead member of its parent then, unless the
    parent has recorded its success."""
    text, caller = f"nested run {place.child_id} {how}", engine.caller(owners.gone(place.stage, place.member))
    details = failure_details(None, message_id=place.child_id, text=text, failed_at=engine.now())
    reply = engine.backend.record(Record(tag_of_run(place), LAST, "dead", details, of_run=True), caller)
    return Caused(place.run_id, reply, caller)


def halt(engine: Engine, run_id: str, duty: Halt) -> Work:
    """Cancel the nested runs of a cancelled run. One that doesn't exist yet is kept from being started (see
    `cancel.lua`, `bury`)."""
    members = Members(engine, run_id, duty)
    for start, end in chunks(duty.start, duty.end):
        for member in members.runs(start, end):
            place = members.place(member, duty.epoch)
            caller = engine.caller(owners.parent("halt", duty.epoch))
            reply = engine.backend.cancel(place.child_id, caller, bury=duty.epoch, generation=place.child_generation)
            yield Caused(place.child_id, reply, caller)


def tell(engine: Engine, run_id: str, duty: Tell) -> Work:
    """Tell the parent how this run stood when the duty was caused, and its result or its first failure. If the result
    can't be stored with the parent, the run is recorded there as dead."""
    spec = engine.reader.spec(run_id, duty.generation)
    if duty.snapshot is None or spec.parent is None:
        raise DamagedState(f"the duty {duty.id!r} of run {run_id!r} has no snapshot, or the run no parent")
    status, ending = status_from(run_id, duty.snapshot), told_in(duty.snapshot)
    payload = b"" if ending == "succeeded" else details_of(status)
    if ending == "succeeded":
        try:
            payload = _result_of(engine, status, spec)
        except Exception as error:
            if not is_final(error):
                raise
            # The run has succeeded and won't tell again, so the parent has to hear that it is dead.
            logger.exception("The result of nested run %s can't be handed on", run_id)
            ending, payload = "dead", failure_details(error, message_id=run_id, failed_at=engine.now())
    # The epoch is that in which the parent has started it, or revived it last.
    place = replace(spec.parent, epoch=max(spec.parent.epoch, since_of(duty.snapshot)))
    caller = engine.caller(owners.child(place.stage, place.member, duty.revision))
    record = Record(tag_of_run(place), duty.revision, ending, payload, of_run=True, began=status.created)
    try:
        reply = engine.backend.record(record, caller)
    except PayloadRefused as error:
        logger.exception("The result of nested run %s can't be handed on", run_id)
        details = failure_details(error, message_id=run_id, failed_at=engine.now())
        refused = record._replace(ending="dead", payload=details)
        reply = engine.backend.record(refused, caller)
    yield Caused(place.run_id, reply, caller)
    if engine.is_due(run_id):
        engine.touch_ancestors(run_id)


def _result_of(engine: Engine, status: RunStatus, spec: Spec) -> bytes:
    """A succeeded run's result as bytes. The result of a wrapper, which has all runs that a job has nested, is that of
    the job: what the job returned, or the results of the handles that it returned."""
    if spec.own is not None:
        return spec.own
    if not status.stages:
        return engine.reader.encode(None)
    last, generation = len(status.stages) - 1, spec.generation
    line = engine.reader.line(status.run_id, last, generation)
    if not line.many:
        (field,) = engine.backend.results(status.run_id, last, 0, 1, generation=generation)
        result = result_in(field)
        if result is not None:
            return result
    _, results = engine.reader.stage_results(status.run_id, last, generation)
    if isinstance(spec.yields, int):
        return engine.reader.encode(results[spec.yields])
    if spec.yields is not None:
        return engine.reader.encode([results[index] for index in spec.yields])
    return engine.reader.encode(results)


def tag_of_run(place: Place) -> Tag:
    """The tag under which the run at this place is recorded with its parent."""
    return Tag(place.run_id, place.stage, place.member, place.member + 1, place.epoch, generation=place.generation)
