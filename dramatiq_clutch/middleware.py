"""Dramatiq's hooks: what is done when a worker boots, when a message comes, and when it goes. The middleware holds no
state of runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from threading import Thread
from typing import Any
from weakref import WeakKeyDictionary

from dramatiq import Broker, Message, MessageProxy, Worker
from dramatiq.logging import get_logger
from dramatiq.middleware import SkipMessage

from . import carrying, remarks, sightings
from . import job as jobs
from .aborts import Aborted, skip_is_an_abort
from .backend import ClutchBackend
from .beginning import Beginning, is_fresh
from .brokers import application_of, backend_of, check, courier_of, warnings_at_boot
from .callbacks import CALLBACKS, Callbacks, Defaults, OnSuccess
from .courier import of_others
from .durations import Duration, milliseconds
from .ending import Closing
from .engine import DEFAULT_HISTORY_MAX, DEFAULT_STALLED_AFTER, Engine, EngineMiddleware
from .errors import DamagedState, Unavailable
from .handover import sweep
from .job import Attempt, Job, attempt_of
from .patience import Lives, begin_beating, begin_sweeping
from .remembered import AtWork
from .settings import (
    DEFAULT_HISTORY_TTL,
    DEFAULT_LEASE,
    DEFAULT_RESULT_TTL,
    DEFAULT_RUN_TTL,
    DEFAULT_SWEEP_INTERVAL,
    changed_settings,
    valid_backend,
    valid_history_max,
    valid_run_ttl,
)
from .shortening import shortened
from .stored.places import OPTION
from .working import begin, end, enqueued, note_enqueued, worker_boots, worker_stops, working

logger: logging.Logger = get_logger(__name__)


class ClutchMiddleware(EngineMiddleware):
    """Makes a broker ready for clutches: ``broker.add_middleware(ClutchMiddleware())``. Add it anywhere in the stack,
    in producers and workers alike.

    All times are milliseconds or timedeltas: ``ClutchMiddleware(result_ttl=timedelta(hours=1))`` keeps results for an
    hour, as ``result_ttl=3_600_000`` does.

    Parameters:
      backend: where the state of runs is kept. Without it, a `RedisBroker`'s runs are kept by the broker's own client,
        and a `StubBroker`'s in memory. Any other broker needs a backend.
      run_ttl: how long a run's keys live after its last activity, at least a minute; the same in producers and workers,
        for these put it off once in a tenth of theirs. Default is 60 days, longer than Dramatiq's default retries take.
      result_ttl: how long a succeeded run's result stays. Default is 10 minutes.
      history_ttl: how long its status stays, at least, for who looks through runs (see `runs`); None or 0: as long as
        its result. Default is 7 days. A run that has failed or was cancelled stays for `run_ttl`.
      history_max: how many runs that have ended are kept for that, at most; the oldest leave first, and of those that
        have succeeded only the result stays for its `result_ttl`. Default is 10,000.
      lease: how long the holder of a duty has it to itself. Default is 30 s.
      sweep_interval: how often a worker process looks for runs whose duties nobody does, and for deadlines that are
        over; None switches that off. Then a deadline takes effect only when a message of its run comes, or by
        `sweep()`. Default is 15 s.
      stalled_after: after how long a time in which nothing happens to a run (members are unsettled, but none is at work
        or delayed) it counts as stalled. Its messages may be lost then, or wait in a queue that no worker listens to. A
        sweeper logs that, and `Run.status()` says it in `stalled_since`. Default is an hour.
      resend_stalled: whether the sweeper then sends its unsettled members again, as `Run.resend()` does.
      application: the name of the application, if several applications keep their runs in one store. Default is a
        `RedisBroker`'s namespace, or the virtual host of a `RabbitmqBroker`.
      on_failure, on_death, on_success, on_failed, on_finish: callbacks for all runs, except for those whose clutches
        set others for the event, or none (``on_failed=()``), and for nested ones. They are given as to a `Clutch`;
        names, of actors that are declared later, are looked up when a clutch is run, in the process that runs it.
      callback_queue: the queue of all callbacks of these runs, unless a clutch sets another one. It must be declared
        when a clutch is run.
      carry: the names of message options that reach all messages of a run, those of nested runs and callbacks too,
        though another process sends them: ``carry=["correlation_id"]``. Their values are what the `before_enqueue` of
        another middleware puts into a message where `run()` or `nest()` is called (it is shown a copy of the first
        job's message for that, which isn't sent); else those of the message that is worked on there; and ``run(carry=
        {"correlation_id": "f00"})`` gives them by itself. They are kept in the run, up to 4,096 bytes as JSON. A
        message that is written with such an option keeps its own value; what a `before_enqueue` makes of a carried one
        later isn't sent.

    Raises ValueError for a time that is too short, and TypeError for what isn't a time, or not a backend; and both for
    callbacks, as a `Clutch` does.
    """

    def __init__(
        self,
        backend: ClutchBackend | None = None,
        *,
        run_ttl: Duration = DEFAULT_RUN_TTL,
        result_ttl: Duration = DEFAULT_RESULT_TTL,
        history_ttl: Duration | None = DEFAULT_HISTORY_TTL,
        history_max: int = DEFAULT_HISTORY_MAX,
        lease: Duration = DEFAULT_LEASE,
        sweep_interval: Duration | None = DEFAULT_SWEEP_INTERVAL,
        stalled_after: Duration = DEFAULT_STALLED_AFTER,
        resend_stalled: bool = False,
        application: str | None = None,
        on_failure: Callbacks | None = None,
        on_death: Callbacks | None = None,
        on_success: OnSuccess | None = None,
        on_failed: Callbacks | None = None,
        on_finish: Callbacks | None = None,
        callback_queue: str | None = None,
        carry: Iterable[str] = (),
    ) -> None:
        self.backend: ClutchBackend | None = valid_backend(backend)
        self.resend_stalled: bool = resend_stalled
        self.application: str | None = application
        self.run_ttl: int = valid_run_ttl(run_ttl)
        self.result_ttl: int = milliseconds(result_ttl, "result_ttl", least=1)
        self.history_ttl: int = 0 if history_ttl is None else milliseconds(history_ttl, "history_ttl")
        self.history_max: int = valid_history_max(history_max)
        self.lease: int = milliseconds(lease, "lease", least=1)
        self.sweep_interval: int | None = (
            None if sweep_interval is None else milliseconds(sweep_interval, "sweep_interval", least=1)
        )
        self.stalled_after: int = milliseconds(stalled_after, "stalled_after", least=1)
        callbacks = (on_failure, on_death, on_success, on_failed, on_finish)
        self._defaults = Defaults.of(dict(zip(CALLBACKS, callbacks, strict=True)), callback_queue)
        self.carry: tuple[str, ...] = carrying.valid_names(carry)
        self._engines: WeakKeyDictionary[Broker, Engine] = WeakKeyDictionary()
        self._lives = Lives()
        self._beginning = Beginning(self._lives)
        self._closing = Closing(self._lives)

    def __repr__(self) -> str:
        """The kind of store, which has the address for itself, and the settings that aren't the defaults."""
        shown = [] if self.backend is None else [type(self.backend).__name__]
        shown += changed_settings(self)
        shown += self._defaults.settings()
        return shortened(f"{type(self).__name__}({', '.join(shown)})")

    def _engine(self, broker: Broker) -> Engine:
        """The engine for this broker. Raises NotConfigured if there is no backend for it."""
        engine = self._engines.get(broker)
        if engine is None:
            check(broker)
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
                defaults=self._defaults,
                history_ttl=self.history_ttl,
                history_max=self.history_max,
                carry=self.carry,
            )
            engine = self._engines.setdefault(broker, engine)
        return engine

    # The worker's life

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        life = self._lives.begin(worker)
        remarks.listen()
        engine = self._engine(broker)
        engine.courier.attend(worker)
        worker_boots(worker, engine.remembered.at_work)
        for warning in (*engine.backend.warnings(), *warnings_at_boot(broker)):
            logger.warning("Runs of clutches are at risk: %s.", warning)
        if self.sweep_interval is not None:
            begin_sweeping(engine, worker, self.sweep_interval / 1000, life)
        begin_beating(engine, life)

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        self._lives.end(worker)
        worker_stops(worker)
        if broker in self._engines:
            self._engines[broker].courier.leave(worker)

    def sweep(self, broker: Broker) -> int:
        """Look once for runs whose duties nobody does, and do them: ``middleware.sweep(broker)``. Every worker process
        does so by itself, once in `sweep_interval`, unless that is None. Any number of processes may do it at the same
        time.

        Returns how many runs were looked at. Raises StateUnavailable or BrokerUnavailable; what was owed stays owed.
        """
        return sweep(self._engine(broker)).looked_at

    # A message's life

    def before_delay_message(self, broker: Broker, message: MessageProxy) -> None:
        sightings.note_delay(broker, message)
        carrying.keep(message)

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        self._closing.make_way(self._engines.get(broker), message)
        begin(None)
        carrying.keep(message)
        carrying.begin(message)
        try:
            job = self._attempt(broker, message)
        except DamagedState as error:
            logger.error("Message %s goes to the dead-letter queue: %s", message.message_id, error)
            message.fail()
            raise SkipMessage(str(error)) from error
        if job is not None:
            job.engine.courier.begins(message)
        begin(job)
        if job is not None and job.exit == "newer":
            message.options["store_results"] = False
            raise SkipMessage(str(job.error))
        if not isinstance(job, Job):
            return
        job.engine.remembered.at_work[id(job)] = AtWork(job.tag.run_id, time.monotonic())
        word: Any = "go" if is_fresh(message, job) else self._beginning.guard(job)
        if word == "go" and job.tag.leads:
            word = self._beginning.lead(job)
        if word == "go":
            job.began_at = job.began_at or job.engine.now()
            sightings.begins(message, job)
            return
        # Otherwise Results would overwrite the stored result with None.
        message.options["store_results"] = False
        job.exit = word
        sightings.absorbed(message, job, word)
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
            # It is put back, whatever other middleware has skipped it for. So it must become neither a dead letter, nor
            # a stored result of None.
            message.failed = False
            message.options["store_results"] = False
        elif job is not None and job.exit is None and skip_is_an_abort():
            job.exit, job.error = "raised", Aborted(f"message {message.message_id} was aborted before it began")
            message.fail()
        elif job is not None and job.exit is None and job.retry_sent:
            job.exit = "later"
        elif job is not None and job.exit is None:
            job.exit = "skipped"
            if isinstance(job, Job) and not message.failed:
                job.conclude(None)

    @of_others
    def after_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
        attempt: Attempt | None = working.get()
        if attempt is not None and attempt.is_next(message):
            attempt.sent_on(delay or 0)
        elif attempt is None and OPTION in message.options:
            note_enqueued(message, delay or 0)

    def before_ack(self, broker: Broker, message: MessageProxy) -> None:
        self._close(broker, message)

    def after_nack(self, broker: Broker, message: MessageProxy) -> None:
        self._closing.catch_up(self._engines.get(broker), message.__dict__.get(jobs.ATTRIBUTE))

    def after_ack(self, broker: Broker, message: MessageProxy) -> None:
        attempt: Attempt | None = message.__dict__.get(jobs.ATTRIBUTE)
        self._closing.catch_up(self._engines.get(broker), attempt)
        if attempt is None:
            return
        try:
            attempt.engine.courier.look_for_more()
        except Unavailable as error:
            logger.debug("A worker couldn't look for more; its consumers will: %s", error)

    def before_nack(self, broker: Broker, message: MessageProxy) -> None:
        self._close(broker, message)

    def before_worker_thread_shutdown(self, broker: Broker, thread: Thread) -> None:
        self._closing.catch_up(self._engines.get(broker), None)

    # What the hooks do

    def _close(self, broker: Broker, message: MessageProxy) -> None:
        end()
        carrying.begin(message)  # what follows from its end is due to it
        try:
            self._closing.close(message, lambda: self._attempt_if_any(broker, message))
        finally:
            enqueued.set(None)
            carrying.begin(None)

    def _attempt(self, broker: Broker, message: MessageProxy) -> Attempt | None:
        """The attempt that belongs to a message; None for a message that isn't of a clutch. Only a clutch's message
        needs the engine, so others are processed even if there is no backend. Raises DamagedState."""
        known: Attempt | None = message.__dict__.get(jobs.ATTRIBUTE)
        if known is not None or message.options.get(OPTION) is None:
            return known
        return attempt_of(message, self._engine(broker))

    def _attempt_if_any(self, broker: Broker, message: MessageProxy) -> Attempt | None:
        try:
            attempt = self._attempt(broker, message)
        except DamagedState:
            return None  # `before_process_message` has skipped it, and it becomes a dead letter
        sent = enqueued.get()
        if attempt is not None and sent is not None and attempt.is_next(sent[0]):
            attempt.sent_on(sent[1])  # by a middleware that comes before this one, or because that has raised an error
        return attempt
