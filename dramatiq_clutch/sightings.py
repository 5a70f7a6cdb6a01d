"""What observers see of the jobs of this process: when they begin, how they end, and what changes nothing."""

from __future__ import annotations

import time
from typing import Any

from dramatiq import Broker, MessageProxy
from dramatiq.common import current_millis

from .job import Job
from .observing import Absorbed, AttemptBegan, AttemptEnded, is_observed, show
from .stored.places import OPTION

#: The option in which a delayed message has when it was due, once it is (UNIX milliseconds): its `eta` is taken off it
#: when it moves to its queue, and its timestamp is that of its sending. Only observers make workers add it.
DUE = "clutch_due"

#: The words of a reply, or of the guard, by which a message has changed nothing.
ABSORBED = ("done", "over", "duplicate", "stale")


def note_delay(broker: Broker, message: MessageProxy) -> None:
    """Note on a delayed message of a clutch when it is due."""
    if OPTION in message.options and is_observed(broker):
        message.options[DUE] = message.options.get("eta", 0)


def begins(message: MessageProxy, job: Job) -> None:
    """Show that a job begins."""
    broker = job.engine.broker
    if is_observed(broker):
        job.shown_at = time.monotonic()
        since = max(message.message_timestamp, message.options.get(DUE, 0))
        show(broker, AttemptBegan(**_about(message, job), waited=max(current_millis() - since, 0) / 1000))


def ended(message: MessageProxy, job: Job, ending: str, word: str, *, deferred: bool = False) -> None:
    """Show that an attempt was recorded, and whether that has changed nothing. If its record is `deferred`, that isn't
    known yet: this is called once more, unless it simply counts."""
    if job.shown_at:
        seconds = time.monotonic() - job.shown_at
        job.shown_at = 0.0  # a record may be repeated, for the sake of what follows
        show(job.engine.broker, AttemptEnded(**_about(message, job), ending=ending, seconds=seconds))
    elif not job.deferred:
        return
    job.deferred = deferred
    absorbed(message, job, word)


def absorbed(message: MessageProxy, job: Job, word: str) -> None:
    """Show that a message has changed nothing, if its word says so."""
    broker = job.engine.broker
    if word in ABSORBED and is_observed(broker):
        show(broker, Absorbed(**_about(message, job), word=word))


def _about(message: MessageProxy, job: Job) -> dict[str, Any]:
    return {
        "run_id": job.tag.run_id,
        "stage": job.tag.stage,
        "member": job.tag.member,
        "attempt": job.attempt,
        "message_id": job.message_id,
        "actor": job.actor,
        "queue": message.queue_name,
    }
