"""Sends the messages of callbacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dramatiq.common import current_millis

from ..about import Context
from ..carrying import laid
from ..courier import Outgoing
from ..engine import Engine
from ..errors import DamagedState, is_final
from ..status import RunStatus, status_from
from ..stored import owners
from ..stored.duties import CallBack
from ..stored.formats import Snapshot
from ..stored.messages import callback_in
from ..stored.places import OPTION, CallbackTag
from ..stored.plan import COMPLETION, StageLine
from .delivery import deliver

#: The events of a stage. Those who hear of them are told whether the stage allows its failures.
ALARMS = ("on_failure", "on_death")


def call_back(engine: Engine, run_id: str, duty: CallBack) -> None:
    """Send the messages that the run's clutch has for the duty's event, in order. One that can't be sent keeps no other
    from being sent; its error is raised in the end. Raises DamagedState for a duty without a snapshot, too."""
    if duty.snapshot is None:
        raise DamagedState(f"the duty {duty.id!r} of run {run_id!r} has no snapshot")
    status = status_from(run_id, duty.snapshot)
    told = status.to_dict() | {"event": duty.event, "stage": duty.stage}
    if duty.event in ALARMS:
        told["allowed"] = _is_allowed(duty.snapshot, duty.stage, status)
    first: Exception | None = None
    spec = engine.reader.spec(run_id, duty.generation)
    for index, row in enumerate(spec.callbacks[duty.event]):
        try:
            message, gets_result = callback_in(row)
            added: list[Any] = [told] if duty.event != COMPLETION else []  # what a group sends takes no status
            if gets_result:
                added.insert(0, _result_of(engine, status, duty))
            tag = CallbackTag(run_id, duty.generation, duty.id, index, message.actor_name)
            deliver(engine, run_id, [_outgoing(message, tag, added, spec.carried)])
        except Exception as error:
            if not is_final(error):
                raise
            first = first or error
            # It isn't waited for. The others are: they may still read the run.
            unsent = CallbackTag(run_id, duty.generation, duty.id, index)
            engine.backend.heard(unsent, engine.caller(owners.HEARD), "unsent")
    if first is not None:
        raise first


def _is_allowed(snapshot: Snapshot, stage: int, status: RunStatus) -> bool:
    """Whether no more members of the stage are dead than may be. It is False where the run fails of an error of its
    own."""
    line = StageLine.parse(snapshot["head"][f"s{stage}"])
    return line.lacks_results and status.stages[stage].dead <= line.most_dead and status.error is None


def _result_of(engine: Engine, status: RunStatus, duty: CallBack) -> Any:
    """The result of a run that has succeeded. Raises ResultsGone or DamagedState."""
    if not status.stages:
        return None
    line, results = engine.reader.stage_results(status.run_id, len(status.stages) - 1, duty.generation)
    return results if line.many else results[0]


def _outgoing(message: Any, tag: CallbackTag, added: Sequence[Any], carried: Context | None) -> Outgoing:
    """A callback's message, ready to be sent, with what is added to its arguments, and to its options."""
    stamped = message.copy(
        args=(*message.args, *added),
        message_id=tag.message_id,
        message_timestamp=current_millis(),
        options={OPTION: tag.to_option()},
    )
    return laid(stamped, carried), stamped.options.get("delay")
