"""Dramatiq's hooks: what is done when a worker boots, a message comes, a message goes. No state of a run is here."""

from __future__ import annotations

import logging
import time
from typing import Any
from weakref import WeakKeyDictionary

from dramatiq import Broker, Message, MessageProxy, Worker
from dramatiq.logging import get_logger
from dramatiq.middleware import SkipMessage

from . import job as jobs
from .backend import ClutchBackend
from .brokers import application_of, backend_of, courier_of, warnings_of
from .ending import Closing
from .engine import DEFAULT_STALLED_AFTER, Engine, EngineMiddleware
from .errors import DamagedState, NewerRelease
from .handover import hand_over, sweep
from .job import Attempt, Job, attempt_of
from .patience import Lives, NotAcked, begin_beating, begin_sweeping
from .remembered import AtWork
from .stored.places import OPTION

#: How long a run's keys live after its last activity, in milliseconds: 60 days. Dramatiq's default retries take up
#: to 46 days, and a run must outlive them.
DEFAULT_RUN_TTL = 60 * 86_400_000

#: How long a succeeded run's status and result stay, in milliseconds: as in Dramatiq's Results.
DEFAULT_RESULT_TTL = 600_000

#: How long the holder of a duty has it to itself, in milliseconds.
DEFAULT_LEASE = 30_000

#: How often a worker process looks for runs whose duties nobody does, in milliseconds.
DEFAULT_SWEEP_INTERVAL = 15_000

logger = get_logger(__name__)


class ClutchMiddleware(EngineMiddleware):
    """Makes a broker ready for clutches. Add it anywhere in the stack, in producers and workers alike.

    Parameters:
      backend: where the state of runs is kept. Without one it is what the broker offers: a `RedisBroker`'s own client,
        memory for a `StubBroker`; any other broker needs one.
      run_ttl: how long a run's keys live after its last activity, in milliseconds.
      result_ttl: how long a succeeded run's status and result stay, in milliseconds.
      lease: how long the holder of a duty has it to itself, in milliseconds.
      sweep_interval: how often a worker process looks for runs whose duties nobody does, in milliseconds;
        None switches that off.
      stalled_after: after how many milliseconds in which nothing happens to a run (members are unsettled, none is at
        work or delayed) it counts as stalled: its messages may be lost, or wait in a queue that nobody listens to. A
        sweeper says so in the log, and `Run.status()` in `stalled_since`.
      resend_stalled: whether the sweeper then sends its unsettled members again, as `Run.resend()` does.
      application: whose runs these are, where several applications keep theirs in one place. Default is what the broker
        goes by: a `RedisBroker`'s namespace, a virtual host of RabbitMQ.
    """

    def __init__(
        self,
        backend: ClutchBackend | None = None,
        *,
        run_ttl: int = DEFAULT_RUN_TTL,
        result_ttl: int = DEFAULT_RESULT_TTL,
        lease: int = DEFAULT_LEASE,
        sweep_interval: int | None = DEFAULT_SWEEP_INTERVAL,
        stalled_after: int = DEFAULT_STALLED_AFTER,
        resend_stalled: bool = False,
        application: str | None = None,
    ) -> None:
        times = {"run_ttl": run_ttl, "result_ttl": result_ttl, "lease": lease, "stalled_after": stalled_after}
        for name, value in times.items():
            if value <= 0:
                raise ValueError(f"{name} is {value!r}; it is a number of milliseconds above 0")
        self.backend = backend
        self.run_ttl, self.result_ttl, self.lease, self.sweep_interval = run_ttl, result_ttl, lease, sweep_interval
        self.stalled_after, self.resend_stalled, self.application = stalled_after, resend_stalled, application
        self._engines: WeakKeyDictionary[Broker, Engine] = WeakKeyDictionary()
        self._lives = Lives()
        self._closing = Closing(self._lives)

    def engine(self, broker: Broker) -> Engine:
        """What works for this broker. Raises NotConfigured if there is no backend for it."""
        engine = self._engines.get(broker)
        if engine is None:
            backend = self.backend or backend_of(broker)
            engine = Engine(
                broker,
                backend,
                courier_of(broker, backend),
                self.run_ttl,
                self.result_ttl,
                self.lease,
                application=application_of(broker) if self.application is None else self.application,
                stalled_after=self.stalled_after,
                resend_stalled=self.resend_stalled,
            )
            engine = self._engines.setdefault(broker, engine)
        return engine

    # The worker's life

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        life = self._lives.begin(worker)
        for name in ("dramatiq.worker.WorkerThread", "dramatiq.results.middleware.Results"):
            logging.getLogger(name).addFilter(_is_true)
        engine = self.engine(broker)
        for warning in (*engine.backend.warnings(), *warnings_of(broker)):
            logger.warning("Runs of clutches are at risk: %s.", warning)
        if self.sweep_interval is not None:
            begin_sweeping(engine, self.sweep_interval / 1000, life)
        begin_beating(engine, life)

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        self._lives.end(worker)

    def sweep(self, broker: Broker) -> int:
        """Look once for runs whose duties nobody does, and do them: what every worker process does now and then by
        itself, unless `sweep_interval` is None. Any number of processes may do it at once.

        Returns how many runs were looked at. Raises StateUnavailable or BrokerUnavailable; what was owed stays owed.
        """
        return sweep(self.engine(broker))

    # A message's life

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        jobs.working.set(None)
        try:
            job = self._attempt(broker, message)
        except DamagedState as error:
            logger.error("Message %s goes to the dead-letter queue: %s", message.message_id, error)
            message.fail()
            raise SkipMessage(str(error)) from error
        jobs.working.set(job)
        if job is not None and job.exit == "newer":
            message.options["store_results"] = False
            raise SkipMessage(str(job.error))
        if not isinstance(job, Job):
            return
        job.engine.remembered.at_work[id(job)] = AtWork(job.tag.run_id, time.monotonic())
        word: Any = "go" if self._is_fresh(message, job) else self._guard(job)
        if word == "go" and job.tag.leads:
            word = self._lead(job)
        if word == "go":
            return
        # Results would overwrite the stored result with None.
        message.options["store_results"] = False
        job.exit = word
        if word == "unknown":
            logger.error(
                "Message %s goes to the dead-letter queue: its run isn't there (any more). A run that has the same id "
                "now is another one.",
                job,
            )
            message.fail()
        raise SkipMessage(f"its place in run {job.tag.run_id} is {word}")

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        job: Attempt | None = message.__dict__.get(jobs.ATTRIBUTE)
        if job is None or job.exit in ("done", "over", "unknown", "abandoned", "newer"):
            return
        if exception is not None:
            job.exit, job.error = "raised", exception
            return
        job.exit = "returned"
        if not isinstance(job, Job):
            return
        try:
            job.conclude(result)
        except Exception as error:
            logger.error("The result of message %s can't be encoded: %r", job, error)
            job.error = error
            message.fail()

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        job = self._attempt_if_any(broker, message)
        if job is not None and job.exit == "newer":
            # Whatever it is skipped for, it is put back, and neither a dead letter nor a result of None.
            message.failed = False
            message.options["store_results"] = False
        elif job is not None and job.exit is None:
            job.exit = "skipped"
            if isinstance(job, Job) and not message.failed:
                job.conclude(None)

    def after_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
        attempt = jobs.working.get()
        if attempt is not None and attempt.is_next(message):
            attempt.retry_sent = True
            attempt.due = attempt.engine.now() + (delay or 0)

    def before_ack(self, broker: Broker, message: MessageProxy) -> None:
        self._close(broker, message)

    def before_nack(self, broker: Broker, message: MessageProxy) -> None:
        self._close(broker, message)

    # What they do

    def _close(self, broker: Broker, message: MessageProxy) -> None:
        jobs.working.set(None)
        self._closing.close(message, lambda: self._attempt_if_any(broker, message))

    def _is_fresh(self, message: MessageProxy, job: Job) -> bool:
        """Whether the guard needn't be asked: this can't be a second copy, and its run wasn't cancelled a second ago.
        Second copies that we send are marked, and those of Retries are later attempts."""
        if job.attempt or job.tag.repeated or job.tag.leads:
            return False
        return job.engine.courier.is_first_copy(message) and job.engine.remembered.was_let_go(job.tag)

    def _guard(self, job: Job) -> Any:
        """Whether to run the job. Whatever error there is, it waits: what can't be recorded is better not run."""
        try:
            word = self._lives.patiently(job, lambda: job.engine.backend.guard(job.tag))
        except NotAcked:
            return "abandoned"
        if word == "go":
            job.engine.remembered.let_go(job.tag.run_id, job.tag.generation, job.tag.stage, job.tag.of)
        return word

    def _lead(self, job: Job) -> Any:
        """Do the share of its stage's release that a job has, before it runs: that may take long."""

        def share() -> None:
            caller = job.engine.caller(job.tag.owner)
            hand_over(job.engine, job.tag.run_id, job.engine.backend.owed(job.tag.run_id, caller), caller)

        try:
            self._lives.patiently(job, share)
        except NotAcked:
            return "abandoned"
        except NewerRelease as error:
            job.engine.leave_to_newer(job.tag.run_id, error)
        return "go"

    def _attempt(self, broker: Broker, message: MessageProxy) -> Attempt | None:
        """The attempt that a message is; None for one that isn't of a clutch, which takes nothing that we have to be
        set up for. Raises DamagedState."""
        known: Attempt | None = message.__dict__.get(jobs.ATTRIBUTE)
        if known is not None or message.options.get(OPTION) is None:
            return known
        return attempt_of(message, self.engine(broker))

    def _attempt_if_any(self, broker: Broker, message: MessageProxy) -> Attempt | None:
        try:
            return self._attempt(broker, message)
        except DamagedState:
            return None  # it was skipped, and is on its way to the dead-letter queue


def _is_true(record: logging.LogRecord) -> bool:
    """Dramatiq warns of values that are discarded for want of Results; a clutch job's value isn't discarded."""
    return jobs.current_job() is None or "returned a value that is not None" not in str(record.msg)
