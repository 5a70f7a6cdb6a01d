"""Whether an attempt begins: its job is still wanted, and the share that it leads is sent."""

from __future__ import annotations

from typing import Any

from dramatiq import MessageProxy

from .backend import GuardWord
from .errors import NewerRelease
from .handover import hand_over
from .job import Job
from .patience import Lives, NotAcked
from .stored.attendance import worker_name


class Beginning:
    """Asks before an attempt, and does what comes before it; it waits through outages until the worker stops (see
    `Lives.patiently`)."""

    def __init__(self, lives: Lives) -> None:
        self._lives = lives

    def guard(self, job: Job) -> Any:
        """The guard's word on the job, or `abandoned` if the worker stops before there is one. It waits through any
        error, because a job shouldn't run whose end couldn't be recorded either."""
        try:
            word = self._lives.patiently(job, lambda: self._ask(job))
        except NotAcked:
            return "abandoned"
        tag, remembered = job.tag, job.engine.remembered
        if word == "go":
            note = remembered.expect_copies if tag.repeated else remembered.note_wanted
            note(tag.run_id, tag.generation, tag.stage, tag.of)
        return word

    def _ask(self, job: Job) -> GuardWord:
        backend, now = job.engine.backend, job.engine.now()
        if not job.tag.timed:
            return backend.guard(job.tag, now)
        job.began_at = now  # what is noted here, and by this its end is known to be that of the same attempt
        return backend.guard(job.tag, now, attempt=job.attempt, worker=worker_name())

    def lead(self, job: Job) -> Any:
        """Send the share of its stage that a leader owns. This is done before the job runs, because the job may take
        long. Returns `go`, or `abandoned` if the worker stops first."""

        def share() -> None:
            caller = job.engine.caller(job.tag.owner)
            reply = job.engine.backend.owed(job.tag.run_id, caller, generation=job.tag.generation)
            hand_over(job.engine, job.tag.run_id, reply, caller)

        try:
            self._lives.patiently(job, share)
        except NotAcked:
            return "abandoned"
        except NewerRelease as error:
            job.engine.leave_to_newer(job.tag.run_id, error)
        return "go"


def is_fresh(message: MessageProxy, job: Job) -> bool:
    """Whether the guard needn't be asked: the message can't be a second copy, and its run wasn't cancelled, except
    within the last second. Second copies that this package sends are marked as `repeated`, and those that Retries sends
    are later attempts. Jobs of a wary stage may not be wanted any more at any moment; and those of a run with timings
    tell when they begin."""
    if job.attempt or job.tag.repeated or job.tag.leads or job.tag.wary or job.tag.timed:
        return False
    return job.engine.courier.is_first_copy(message) and job.engine.remembered.was_wanted(job.tag)
