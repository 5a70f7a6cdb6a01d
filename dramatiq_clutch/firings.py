"""Tells how the callbacks of a run stand: whom they call, and when they fired."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .engine import Engine
from .stored.firings import Call, Firing, Firings, calls_in_spec
from .stored.plan import EVENTS, Spec

__all__ = ["CallbackState", "CallbackStatus", "callbacks_of"]

#: How a callback stands, as its `CallbackStatus` has it.
CallbackState = Literal["unfired", "owed", "sent", "succeeded", "dead"]


@dataclass(frozen=True, slots=True)
class CallbackStatus:
    """How a callback of a run stands: ``[one.actor for one in run.callbacks() if one.state == "dead"]``.

    `event` is what it is for: on_failure, on_death, on_success, on_failed or on_finish; or `completion`, for what a
    Dramatiq group brings along. `actor` and `queue` are those of its message. `state` is

    - `unfired`: its event hasn't come. At the end of a run it won't, unless the run is taken up again.
    - `owed`: its event has come, and its message isn't sent yet.
    - `sent`: its message is sent, and hasn't ended: it waits in its queue, is at work, or will be attempted again.
    - `succeeded`: its actor has.
    - `dead`: no more attempts will come by themselves. If `sent` is None, it couldn't be sent at all, and
      ``RunStatus.error`` says why.

    An event may come several times: on_failure and on_death once for each stage, and again after a `retry()`; on_failed
    and on_finish each time that the run comes to rest. `count` is how often it has come in this run; `stage` is the
    index of the stage in which it came last, and everything else is about that time. `message_id` is that of its
    message. What is redelivered, or sent twice because a process was killed, counts once.

    `owed` is since when its message is owed, or was; `sent` when it was sent; and `ended` when it succeeded or was
    given up: each in UNIX milliseconds, and None as long as that hasn't happened. A message that is sent by a process
    that is killed right then is sent once more by another one, and that is when it was `sent`: so a callback may have
    succeeded before.

    Of what a release has done that knows nothing of this, nothing is known: then the times are None, and so is a
    `state` that can't be told; of a run that has succeeded, `actor` and `queue`, too.
    """

    event: str
    actor: str | None
    queue: str | None
    state: CallbackState | None
    stage: int | None = None
    count: int = 0
    owed: int | None = None
    sent: int | None = None
    ended: int | None = None
    message_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The callback as a dict that JSON can write, with a field for each of its own. For example,
        ``json.dumps([one.to_dict() for one in run.callbacks()])``."""
        return dataclasses.asdict(self)


def callbacks_of(engine: Engine, run_id: str, generation: str) -> tuple[CallbackStatus, ...] | None:
    """What `Run.callbacks` returns; None if there is no such run."""
    found = engine.backend.firings(run_id, generation=generation)
    if found is None:
        return None
    return tuple(_stand(run_id, found, _named(engine, run_id, found, generation)))


def _named(engine: Engine, run_id: str, found: Firings, generation: str) -> Mapping[str, tuple[Call, ...]]:
    """Whom the callbacks call. If an older release has begun the run, only its spec says that, if it is still there."""
    if all(call != (None, None) for calls in found.calls.values() for call in calls):
        return found.calls
    spec = engine.backend.spec(run_id, generation=generation)
    return calls_in_spec(Spec.from_bytes(spec)) if spec else found.calls


def _stand(run_id: str, found: Firings, named: Mapping[str, tuple[Call, ...]]) -> Iterator[CallbackStatus]:
    for event in EVENTS:
        last = found.last.get(event)
        for index, (actor, queue) in enumerate(named.get(event, ())):
            if last is None:
                yield CallbackStatus(event, actor, queue, "unfired" if found.is_complete else None)
                continue
            state, sent, ended = _came_of(last, index, is_owed=event in found.owed)
            message_id = last.message_id(run_id, event, index, actor) if actor is not None else None
            yield CallbackStatus(event, actor, queue, state, last.stage, last.count, last.owed, sent, ended, message_id)


def _came_of(last: Firing, index: int, *, is_owed: bool) -> tuple[CallbackState, int | None, int | None]:
    """What has come of one callback of an event that has fired: its state, when it was sent, and when it has ended."""
    how, ended = last.ended.get(index, (None, None))
    # If the duty was given up and no message is to blame, none was sent.
    none_sent = last.failed is not None and all(ending != "unsent" for ending, _ in last.ended.values())
    if how == "unsent" or (how is None and none_sent):
        return "dead", None, ended or last.failed
    sent = last.sent or last.failed
    if how is not None:
        return how, sent, ended
    return ("owed", None, None) if is_owed else ("sent", sent, None)
