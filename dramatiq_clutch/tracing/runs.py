"""What trace a run is part of, what is worked on here, and what comes before a stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dramatiq import MessageProxy
from opentelemetry.trace import Link

from .. import carrying
from ..engine import Engine
from ..job import ATTRIBUTE, Attempt
from ..stored.places import BELOW, CallbackTag, Place, Tag
from ..stored.plan import Spec, StageLine
from .carried import OPTION, Carried, attempt_span, run_span, stage_span

#: How many jobs of the stage before a span links, at most: as many as OpenTelemetry takes by default.
MOST_LINKS = 128


class Traced(NamedTuple):
    """A run that is traced: what it has `carried`, and the id of the span that its own one is a child of, or 0."""

    carried: Carried
    parent: int


def carried_by(message: MessageProxy | None) -> Carried | None:
    return None if message is None else Carried.from_option(message.options.get(OPTION))


def tag_here() -> Tag | CallbackTag | None:
    message = carrying.present()
    attempt: Attempt | None = None if message is None else message.__dict__.get(ATTRIBUTE)
    return None if attempt is None else attempt.tag


def sent_at(run_id: str, stage: int | None = None) -> int | None:
    """When the message was sent that is worked on here, if it is a job of this run, and of this stage."""
    tag, message = tag_here(), carrying.present()
    its = isinstance(tag, Tag) and tag.run_id == run_id and stage in (None, tag.stage)
    return int(message.message_timestamp) if its and message is not None else None


def epoch_here(run_id: str) -> int:
    """In which epoch of the run the job was sent that is worked on here."""
    tag = tag_here()
    return tag.epoch if isinstance(tag, Tag) and tag.run_id == run_id else 0


def generation_of(run_id: str, head: Mapping[str, str]) -> str:
    """The generation of the run that something is told of: that of the job which is worked on here, if it is of this
    run. The run may have been taken up anew since, under another generation, which its head shows then."""
    tag = tag_here()
    return tag.generation if isinstance(tag, Tag) and tag.run_id == run_id and tag.generation else head["gen"]


def root_of(run_id: str) -> str:
    return run_id.partition(BELOW)[0]


def parent_of_root(carried: Carried, run_id: str) -> int:
    """The id of the span in which the outermost run of this id was started, or 0; by what a message carries that is of
    that run, or of one nested in it."""
    in_a_job = carried.wrapper and root_of(carried.wrapper) != run_id
    return carried.caller if in_a_job else carried.parent


def traced(engine: Engine, run_id: str) -> Traced | None:
    """What trace a run is part of; None if it is part of none, or stands in the place of a job that has nested runs.

    A run that isn't nested may have no spec any more when it has succeeded. But then one of its jobs is worked on here,
    or one of a run that is nested in it.
    """
    tag, here = tag_here(), carried_by(carrying.present())
    if tag is not None and here is not None and BELOW not in run_id and root_of(tag.run_id) == run_id:
        return Traced(here, parent_of_root(here, run_id))
    data = engine.backend.spec(run_id)
    spec = None if data is None else Spec.from_bytes(data)
    carried = None if spec is None or spec.carried is None else Carried.from_option(spec.carried.get(OPTION))
    if spec is None or carried is None or spec.own is not None or spec.yields is not None:
        return None
    if spec.parent is None:
        return Traced(carried, parent_of_root(carried, run_id))
    place = spec.parent
    by_a_job = place.run_id == carried.wrapper
    return Traced(carried, carried.caller if by_a_job else stage_span(place.run_id, place.generation, place.stage))


def before(carried: Carried, run_id: str, generation: str, stage: int, head: Mapping[str, str]) -> Sequence[Link]:
    """Links to what the stage before consists of: its jobs, by their first attempts, or its nested runs. Where these
    are mixed, a link to that stage."""
    if not stage:
        return ()
    line = StageLine.parse(head[f"s{stage - 1}"])
    members = range(min(line.total or 0, MOST_LINKS))
    if line.nested and not line.mapped:
        found = [stage_span(run_id, generation, stage - 1)]
    elif line.nested:
        places = [Place(run_id, stage - 1, member, generation=generation) for member in members]
        found = [run_span(place.child_id, place.child_generation) for place in places]
    else:
        tags = [Tag(run_id, stage - 1, member, member + 1, generation=generation) for member in members]
        found = [attempt_span(tag, 0) for tag in tags]
    return [Link(carried.span(one)) for one in found]
