"""Records how an attempt ended before its message is acked, and does the duties that the record causes.

An attempt can end in many ways; `Closing._ending` has all of them. Which one it is isn't decided before the hooks
`before_ack` and `before_nack`, so it is recorded there, and the message stays unacked until it is recorded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NoReturn

from dramatiq import Broker, MessageProxy, RateLimitExceeded, Retry
from dramatiq.common import compute_backoff
from dramatiq.errors import ConnectionFailed
from dramatiq.logging import get_logger
from dramatiq.middleware import MiddlewareError, Retries, Shutdown
from dramatiq.middleware.retries import DEFAULT_MAX_BACKOFF
from dramatiq.threading import Interrupt

from . import sightings
from .aborts import is_abort
from .backend import Caller, Ending, Record, Reply
from .engine import Engine
from .errors import NewerRelease, PayloadRefused, Unavailable, is_final
from .failures import arguments_in, failure_details
from .handover import hand_over, report_gone
from .job import Attempt, Job
from .onward import record_onward
from .patience import Lives, NotAcked
from .stored import owners
from .stored.attendance import worker_name
from .stored.messages import changed
from .stored.places import OPTION, CallbackTag

#: By how many milliseconds a message is delayed when it is put back for a worker of a newer release.
LEFT_FOR = 1_000

logger: logging.Logger = get_logger(__name__)


class FailedAfterAll(ConnectionFailed, MiddlewareError):
    """Raised before the ack of a message that has to be rejected, because it was marked as failed only now.

    Dramatiq has decided to ack the message by then. But after a connection error it calls the hooks again, five seconds
    later, and decides again: then it rejects the message, which becomes a dead letter.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)  # type: ignore[no-untyped-call]


class AckedAfterAll(FailedAfterAll):
    """Raised before the nack of a message that has to be acked, because it was put back into its queue."""


class Closing:
    """Closes attempts: records them, and waits through outages until their worker stops (see `Lives.patiently`)."""

    def __init__(self, lives: Lives) -> None:
        self._lives = lives

    def close(self, message: MessageProxy, attempt_of: Callable[[], Attempt | None]) -> None:
        """Record how the attempt ended, and do the duties that follow, before the message is acked. Raises only
        NotAcked, FailedAfterAll and AckedAfterAll, which change what Dramatiq does: after any other error it would
        ack."""
        try:
            job = attempt_of()
            if job is not None and job.exit == "newer":
                self._leave_to_newer(message, job)
            elif job is not None:
                self._close(message, job)
        except (NotAcked, FailedAfterAll):
            raise
        except (Exception, Interrupt) as error:
            raise NotAcked(f"message {message.message_id} isn't acked: its end isn't recorded: {error!r}") from error

    def make_way(self, engine: Engine | None, message: MessageProxy) -> None:
        """Make records that are deferred before a message is worked on that may take long."""
        if engine is not None and engine.courier.is_behind:
            try:
                engine.courier.make_way(message)
            except Unavailable as error:
                logger.debug("What is deferred isn't recorded yet: %s", error)

    def catch_up(self, engine: Engine | None, attempt: Attempt | None) -> None:
        """Make records that are deferred, if this thread has nothing better to do, whatever it has worked on. After an
        `attempt` of a clutch, it waits through outages, as it would to record that. Raises nothing: what isn't made
        stays deferred, and if its worker stops, it stays unacked."""
        if engine is None or not engine.courier.is_due:
            return
        try:
            if attempt is None:
                engine.courier.catch_up()
            else:
                self._lives.patiently(attempt, engine.courier.catch_up)
        except (Exception, Interrupt) as error:
            logger.debug("What is deferred isn't recorded yet: %r", error)

    def _close(self, message: MessageProxy, attempt: Attempt) -> None:
        courier = attempt.engine.courier
        courier.ends(message)
        try:
            if isinstance(attempt, Job):
                attempt.engine.remembered.at_work.pop(id(attempt), None)
                self._close_job(message, attempt)
            else:
                self._close_callback(message, attempt)
        finally:
            courier.ends(None)

    def _close_job(self, message: MessageProxy, job: Job) -> None:
        if job.exit == "unknown":
            self._finish(job, lambda: _tell_if_gone(job))
            return
        if job.exit == "abandoned":
            raise NotAcked(f"message {job} stays unacked: the worker stops before its run could be read")
        if job.exit in (None, "later") and not message.failed:
            if "eta" in message.options:
                return  # it moves from the delay queue to its own queue, and wasn't processed
            if job.retry_sent:  # another middleware has put it back, or has let no attempt begin: it comes again
                sightings.ended(message, job, "attempted", "later")
                self._finish(job, lambda: job.engine.wait_for(job.tag.run_id, job.due))
                return
            raise NotAcked(f"no hook has told how the attempt of message {job} ended")
        is_acked = not message.failed
        self._finish(job, lambda: self._settle(message, job))
        if is_acked and message.failed:
            raise FailedAfterAll(f"message {job} is rejected in a moment: {job.error}")

    def _finish(self, job: Job, work: Callable[[], Any]) -> None:
        """Do the work, as often as it takes. If it meets something that only a newer release can read, that is left to
        workers of the newer release, and the message is acked."""
        try:
            self._lives.patiently(job, work)
        except NewerRelease as error:
            job.engine.leave_to_newer(job.tag.run_id, error)

    def _leave_to_newer(self, message: MessageProxy, attempt: Attempt) -> None:
        """Put a message back into its queue as it came, with a short delay, for a worker of a newer release. There may
        be none yet, so this may happen many times."""
        if "eta" in message.options and not message.failed:
            return  # it moves from the delay queue to its own queue, and needn't be put back
        if not attempt.put_back:
            option = attempt.options[OPTION]
            attempt.engine.leave_to_newer(str(option.get("run")), attempt.error)
            copy = changed(message._message, options=attempt.options)
            self._lives.patiently(attempt, lambda: attempt.engine.courier.send([(copy, LEFT_FOR)]))
            attempt.put_back = True
        if message.failed:  # a consumer that doesn't know the actor rejects it, although it was put back
            message.failed = False
            raise AckedAfterAll(f"message {attempt} has been put back, and is acked in a moment")

    def _close_callback(self, message: MessageProxy, callback: Attempt) -> None:
        """Close an attempt of a callback. In two ways a callback isn't an ordinary message: the next attempt is sent if
        Retries couldn't send it, and the run keeps what the callback may read until it has ended."""
        if callback.exit is None and not message.failed:
            return  # it moves from the delay queue to its own queue, and wasn't processed
        if callback.exit == "raised" and not (message.failed or callback.retry_sent):
            self._send_owed_callback(message, callback)
        self._lives.patiently(callback, lambda: self._let_go_of(message, callback))

    def _let_go_of(self, message: MessageProxy, callback: Attempt) -> None:
        tag, engine = callback.tag, callback.engine
        if not isinstance(tag, CallbackTag):
            return
        if callback.retry_sent and not message.failed:
            engine.wait_for(tag.run_id, callback.due)
        else:
            is_dead = message.failed or callback.exit == "raised"
            engine.backend.heard(tag, engine.caller(owners.HEARD), "dead" if is_dead else "succeeded")

    def _send_owed_callback(self, message: MessageProxy, callback: Attempt) -> None:
        try:
            delay = self._owed_delay(message, callback)
        except Exception as error:  # `retry_when` has raised, so it isn't known whether another attempt should come
            self._give_up(message, callback, error)
        if delay is None:
            return

        def attempt() -> Exception | None:
            try:
                self._send_owed_attempt(message, callback, delay)
            except Exception as error:
                if not is_final(error):
                    raise
                return error
            return None

        final = self._lives.patiently(callback, attempt)
        if final is not None:
            self._give_up(message, callback, final)

    def _give_up(self, message: MessageProxy, callback: Attempt, error: Exception) -> NoReturn:
        logger.error("Message %s goes to the dead-letter queue: %r", callback, error)
        message.fail()
        raise FailedAfterAll(f"message {callback} is rejected in a moment: {error!r}") from error

    def _settle(self, message: MessageProxy, job: Job) -> None:
        engine, run_id = job.engine, job.tag.run_id
        touch = engine.is_due(run_id)
        caller = engine.caller(job.owner, touch=touch)
        if job.exit in ("done", "over"):
            reply = engine.backend.owed(run_id, caller, generation=job.tag.generation)
        else:
            reply = self._record(message, job, caller)
            if reply.word in ("unknown", "refused"):
                logger.error("Message %s has worked for nothing: its place is %s.", job, reply.word)
        hand_over(engine, run_id, reply, caller)
        if touch or job.due:
            engine.touch_ancestors(run_id, due=job.due)

    def _record(self, message: MessageProxy, job: Job, caller: Caller) -> Reply:
        """Record how the attempt ended. If the store refuses the result, or the plan of what the job has nested, the
        job is dead with the store's error, as it is if its result can't be encoded."""
        ending, payload = self._ending(message, job)
        nested = job.wrapper if ending == "succeeded" else b""
        try:
            due = job.due if ending in ("failing", "attempted") else 0
            record = Record(job.tag, job.attempt, ending, payload, nested, due=due, **_when(job))
            reply = record_onward(job.engine, record, caller)
            sightings.ended(message, job, ending, reply.word, deferred=reply.deferred)
            return reply
        except PayloadRefused as error:
            if ending != "succeeded":
                raise
            logger.error("The result of message %s can't be stored: %s", job, error)
            job.error = error
            message.fail()
            details = _details(message, job)
            record = Record(job.tag, job.attempt, "dead", details, **_when(job))
            reply = job.engine.backend.record(record, caller)
            sightings.ended(message, job, "dead", reply.word)
            return reply

    def _ending(self, message: MessageProxy, job: Job) -> tuple[Ending, bytes]:
        """How the attempt is recorded: its ending, and the encoded result or the failure's details. Sends the next
        attempt if one is due that Retries hasn't sent."""
        if message.failed:
            return "dead", _details(message, job, text="" if job.error or message._exception else "message.fail()")
        if job.exit in ("returned", "skipped"):
            return "succeeded", job.result
        if is_abort(job.error):
            return "dead", _details(message, job)  # if Retries has sent another attempt, that is skipped
        if not job.retry_sent:
            try:
                delay = self._owed_delay(message, job)
            except Exception as error:  # `retry_when` has raised, so it isn't known whether another attempt should come
                job.error = error
                delay = None
            if delay is None:
                return "dead", _details(message, job)
            try:
                self._send_owed_attempt(message, job, delay)
            except Exception as error:
                if not is_final(error):
                    raise
                job.error = error
                return "dead", _details(message, job)
        polite = isinstance(job.error, Retry | RateLimitExceeded | Shutdown)
        return "attempted" if polite else "failing", _details(message, job)

    def _owed_delay(self, message: MessageProxy, job: Attempt) -> int | None:
        """After how many milliseconds the next attempt is to come, by the rules of Retries; None if none is to come.
        Raises what `retry_when` raises, and what an option with a wrong type causes."""
        broker = job.engine.broker
        retries = _retries_of(broker)
        if retries is None:
            return None
        options = broker.get_actor(message.actor_name).options
        retry_when = options.get("retry_when", retries.retry_when)
        if retry_when is not None and not retry_when(job.attempt, job.error):
            return None
        delay = job.error.delay if isinstance(job.error, Retry) else None
        if delay is None:
            least = message.options.get("min_backoff", options.get("min_backoff", retries.min_backoff))
            most = message.options.get("max_backoff", options.get("max_backoff", retries.max_backoff))
            _, delay = compute_backoff(job.attempt, factor=least, max_backoff=min(most, DEFAULT_MAX_BACKOFF))
        return int(delay)

    def _send_owed_attempt(self, message: MessageProxy, job: Attempt, delay: int) -> None:
        """Send the next attempt, which Retries couldn't send because the broker was away."""
        attempt = message.copy(options={"retries": job.attempt + 1})
        job.engine.courier.send([(attempt, delay)])
        job.sent_on(delay)


def _tell_if_gone(job: Job) -> None:
    """Tell the parent of a nested run that the run is gone, whose job has no place. It may be there all the same: after
    a failover the store may have forgotten that the run has come to the job's stage, and then it comes there again."""
    if job.engine.backend.generation(job.tag.run_id) != job.tag.generation:
        report_gone(job.engine, job.tag.run_id, job.tag.generation)


def _retries_of(broker: Broker) -> Retries | None:
    return next((known for known in broker.middleware if isinstance(known, Retries)), None)


def _when(job: Job) -> dict[str, Any]:
    """When and where a job has begun, as it is recorded."""
    return {"began": job.began_at, "worker": worker_name() if job.tag.timed else ""}


def _details(message: MessageProxy, job: Job, text: str = "") -> bytes:
    return failure_details(
        job.error or message._exception,
        actor=message.actor_name,
        message_id=message.message_id,
        attempts=job.attempt + 1,
        text=text,
        arguments=arguments_in(message.args, message.kwargs),
        failed_at=job.engine.now(),
    )
