"""Nested runs are started, revived and cancelled; and tell their parents how they stand."""

from __future__ import annotations

from dataclasses import replace

from dramatiq.logging import get_logger

from ..backend import Record, Reply
from ..engine import Engine
from ..errors import DamagedState, PayloadRefused, is_final
from ..status import RunStatus, details_of, failure_details, status_from
from ..stored import owners
from ..stored.duties import Halt, StartNested, Tell
from ..stored.formats import result_in, told_in
from ..stored.places import Place, Tag
from ..stored.plan import Plan, Spec
from .members import Members
from .work import Caused, Work, chunks

logger = get_logger(__name__)


def start_nested(engine: Engine, run_id: str, duty: StartNested) -> Work:
    """Start what a job has nested, now that it has succeeded."""
    plan = Members(engine, run_id, duty).nested([duty.member]).get(duty.member)
    if plan is not None:  # else its stage is over, or its run cancelled
        yield start_run(engine, Place(run_id, duty.stage, duty.member, generation=duty.generation), plan)


def start_run(engine: Engine, place: Place, plan: Plan) -> Work:
    """Start the run that stands there. Starting it twice makes one."""
    caller = engine.caller(owners.parent("start", place.epoch))
    reply = engine.create(place.child_id, plan.at(place), caller)
    yield Caused(place.child_id, reply, caller)


def revive_run(engine: Engine, place: Place, plan: Plan, *, by_hand: bool) -> Work:
    """Have a nested run retry, or send its unsettled members again; start it anew if it is gone.

    Somebody else who was to start it in an earlier epoch may do so at this very moment, and it may then be cancelled
    for that epoch. So one that is there by now is asked again.
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


def halt(engine: Engine, run_id: str, duty: Halt) -> Work:
    """Cancel the nested runs of a cancelled one, also those that are just being started."""
    members = Members(engine, run_id, duty)
    for start, end in chunks(duty.start, duty.end):
        for member in members.runs(start, end):
            place = members.place(member, duty.epoch)
            caller = engine.caller(owners.parent("halt", duty.epoch))
            reply = engine.backend.cancel(place.child_id, caller, bury=duty.epoch, generation=place.child_generation)
            yield Caused(place.child_id, reply, caller)


def tell(engine: Engine, run_id: str, duty: Tell) -> Work:
    """Say to the parent how this run stands: its present state, with a revision, and its result."""
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
            # The parent would wait for ever.
            logger.exception("The result of nested run %s can't be handed on", run_id)
            ending, payload = "dead", failure_details(error, message_id=run_id)
    place = spec.parent
    caller = engine.caller(owners.child(place.stage, place.member, duty.revision))
    record = Record(tag_of_run(place), duty.revision, ending, payload, of_run=True)
    try:
        reply = engine.backend.record(record, caller)
    except PayloadRefused as error:
        logger.exception("The result of nested run %s can't be handed on", run_id)
        refused = replace(record, ending="dead", payload=failure_details(error, message_id=run_id))
        reply = engine.backend.record(refused, caller)
    yield Caused(place.run_id, reply, caller)
    if engine.is_due(run_id):
        engine.touch_ancestors(run_id)


def _result_of(engine: Engine, status: RunStatus, spec: Spec) -> bytes:
    """A succeeded run's result as bytes; of runs that a job nested, what the job returned."""
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
    """The tag under which the run that stands there is recorded with its parent."""
    return Tag(place.run_id, place.stage, place.member, place.member + 1, place.epoch, generation=place.generation)
