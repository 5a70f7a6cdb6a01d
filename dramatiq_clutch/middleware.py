"""Dramatiq's hooks → job, record. Holds no state of a run.

An attempt can end in many ways (`_ending` has them all), and only before the ack or nack it is decided which: that is
where it is recorded, and where a message stays unacked until it is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

from dramatiq import Broker, Message, MessageProxy, RateLimitExceeded, Retry, Worker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.common import compute_backoff, current_millis
from dramatiq.errors import ConnectionFailed
from dramatiq.logging import get_logger
from dramatiq.middleware import MiddlewareError, Retries, Shutdown, SkipMessage
from dramatiq.middleware.retries import DEFAULT_MAX_BACKOFF
from dramatiq.threading import Interrupt

from . import job as jobs
from .backend import SWEEP, Caller, ClutchBackend, Ending, Record, Reply
from .backends import RedisBackend, RedisCourier, StubBackend
from .courier import Courier
from .engine import DEFAULT_STALLED_AFTER, AtWork, Engine, EngineMiddleware
from .errors import ClutchError, DamagedState, NewerRelease, NotConfigured, PayloadRefused, Unavailable, is_final
from .forks import renew_in_children
from .handover import hand_over, report_gone, sweep
from .job import Attempt, Job, attempt_of
from .onward import record_onward
from .status import failure_details
from .stored import owners
from .stored.places import OPTION, CallbackTag
from .stored.plan import changed
from .waiting import waiter_of

#: How long a run's keys live after its last activity, in milliseconds: 60 days. Dramatiq's default retries take up
#: to 46 days, and a run must outlive them.
DEFAULT_RUN_TTL = 60 * 86_400_000

#: How long a succeeded run's status and result stay, in milliseconds: as in Dramatiq's Results.
DEFAULT_RESULT_TTL = 600_000

#: How long the holder of a duty has it to itself, in milliseconds.
DEFAULT_LEASE = 30_000

#: How often a worker process looks for runs whose duties nobody does, in milliseconds.
DEFAULT_SWEEP_INTERVAL = 15_000

#: How long a message is put back for, in milliseconds, that is left to a worker of a newer release.
LEFT_FOR = 1_000

#: How long to wait between two tries while something is away, in milliseconds, and at most.
BACKOFF, MAX_BACKOFF = 100, 3_000

#: How often it is told that a message still waits, in seconds.
TELL_AGAIN = 60.0

logger = get_logger(__name__)


class NotAcked(MiddlewareError):
    """Raised before an ack to keep the message unacked; it comes again when the broker redelivers it."""


class WorkerLife:
    """From a worker's boot to its shutdown. Several workers in one process have one each."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.bell = threading.Event()  # rung to have its sweeper look at once

    def end(self) -> None:
        self.stopping.set()
        self.bell.set()

    def goes_on(self, seconds: float) -> bool:
        """Whether it does, after so many seconds, or when the bell rings."""
        self.bell.wait(seconds)
        self.bell.clear()
        return not self.stopping.is_set()


class FailedAfterAll(ConnectionFailed, MiddlewareError):
    """Raised before the ack of a message that has failed just now: it is to be rejected, and so a dead letter.

    Dramatiq has decided to ack it by then. For a connection error it decides again, five seconds later.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)  # type: ignore[no-untyped-call]


class AckedAfterAll(FailedAfterAll):
    """Raised before the nack of a message that has been put back, and so is to be acked."""


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
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """Begin anew in a forked child: the parent's workers aren't there."""
        self._lives: WeakKeyDictionary[Worker, WorkerLife] = WeakKeyDictionary()
        self._lives_lock = threading.Lock()
        self._all_stopped = threading.Event()

    def engine(self, broker: Broker) -> Engine:
        """What works for this broker. Raises NotConfigured if there is no backend for it."""
        engine = self._engines.get(broker)
        if engine is None:
            backend = self.backend or _backend_of(broker)
            engine = Engine(
                broker,
                backend,
                _courier_of(broker, backend),
                self.run_ttl,
                self.result_ttl,
                self.lease,
                application=_application_of(broker) if self.application is None else self.application,
                stalled_after=self.stalled_after,
                resend_stalled=self.resend_stalled,
            )
            engine = self._engines.setdefault(broker, engine)
        return engine

    # The worker's life

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        life = WorkerLife()
        with self._lives_lock:
            self._lives[worker] = life
            self._all_stopped.clear()
        for name in ("dramatiq.worker.WorkerThread", "dramatiq.results.middleware.Results"):
            logging.getLogger(name).addFilter(_is_true)
        engine = self.engine(broker)
        for warning in (*engine.backend.warnings(), *_warnings_of(broker)):
            logger.warning("Runs of clutches are at risk: %s.", warning)
        if self.sweep_interval is not None:
            interval = self.sweep_interval / 1000
            threading.Thread(target=_sweep, args=(engine, interval, life), name="clutch-sweeper", daemon=True).start()
        threading.Thread(target=_beat, args=(engine, life), name="clutch-beat", daemon=True).start()

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        with self._lives_lock:
            if worker in self._lives:
                self._lives[worker].end()
            if all(life.stopping.is_set() for life in self._lives.values()):
                self._all_stopped.set()

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
        job.engine.at_work[id(job)] = AtWork(job.tag.run_id, time.monotonic())
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
            attempt.due = current_millis() + (delay or 0)

    def before_ack(self, broker: Broker, message: MessageProxy) -> None:
        self._close(broker, message)

    def before_nack(self, broker: Broker, message: MessageProxy) -> None:
        self._close(broker, message)

    # Recording

    def _close(self, broker: Broker, message: MessageProxy) -> None:
        """Record how the attempt ended and do what that owes, before the message is acked. Raises nothing but what
        keeps it from being acked: Dramatiq would log any other error, and ack."""
        jobs.working.set(None)
        try:
            job = self._attempt_if_any(broker, message)
            if job is not None and job.exit == "newer":
                self._leave_to_newer(broker, message, job)
            elif isinstance(job, Job):
                job.engine.at_work.pop(id(job), None)
                self._close_job(broker, message, job)
            elif job is not None:
                self._close_callback(broker, message, job)
        except (NotAcked, FailedAfterAll):
            raise
        except (Exception, Interrupt) as error:
            raise NotAcked(f"message {message.message_id} isn't acked, for this isn't over: {error!r}") from error

    def _close_job(self, broker: Broker, message: MessageProxy, job: Job) -> None:
        if job.exit == "unknown":
            self._finish(job, lambda: report_gone(job.engine, job.tag.run_id, job.tag.generation))
            return
        if job.exit == "abandoned":
            raise NotAcked(f"message {job} comes again: nothing could be known of its run")
        if job.exit is None and not message.failed:
            if "eta" in message.options:
                return  # on its way from the delay queue: nothing was processed
            raise NotAcked(f"no hook has told how the attempt of message {job} ended")
        is_acked = not message.failed
        self._finish(job, lambda: self._settle(broker, message, job))
        if is_acked and message.failed:
            raise FailedAfterAll(f"message {job} is rejected in a moment: {job.error}")

    def _finish(self, job: Job, work: Callable[[], Any]) -> None:
        """Do it, as often as it takes. What comes of it, and only a newer release can read, has been left to that."""
        try:
            self._patiently(job, work)
        except NewerRelease as error:
            job.engine.leave_to_newer(job.tag.run_id, error)

    def _leave_to_newer(self, broker: Broker, message: MessageProxy, attempt: Attempt) -> None:
        """Put a message back, as it came and a little later, for a worker of a newer release; there may be none yet."""
        if "eta" in message.options and not message.failed:
            return  # on its way from the delay queue: it has been put into its queue
        if not attempt.put_back:
            option = attempt.options[OPTION]
            attempt.engine.leave_to_newer(str(option.get("run")), attempt.error)
            copy = changed(message._message, options=attempt.options)
            self._patiently(attempt, lambda: attempt.engine.courier.send([(copy, LEFT_FOR)]))
            attempt.put_back = True
        if message.failed:  # it has come to a consumer that doesn't know its actor
            message.failed = False
            raise AckedAfterAll(f"message {attempt} has been put back, and is acked in a moment")

    def _close_callback(self, broker: Broker, message: MessageProxy, callback: Attempt) -> None:
        """A callback is an ordinary message, but that it gets the attempt that Retries couldn't send, and that its run
        keeps what it may read until it has ended."""
        if callback.exit is None and not message.failed:
            return  # on its way from the delay queue
        if callback.exit == "raised" and not (message.failed or callback.retry_sent):
            self._send_owed_callback(broker, message, callback)
        self._patiently(callback, lambda: self._let_go_of(message, callback))

    def _let_go_of(self, message: MessageProxy, callback: Attempt) -> None:
        tag, engine = callback.tag, callback.engine
        if not isinstance(tag, CallbackTag):
            return
        if callback.retry_sent and not message.failed:
            engine.wait_for(tag.run_id, callback.due)
        elif tag.index == 0:
            engine.backend.heard(tag, engine.caller(owners.HEARD))

    def _send_owed_callback(self, broker: Broker, message: MessageProxy, callback: Attempt) -> None:
        try:
            delay = self._owed_delay(broker, message, callback)
        except Exception as error:  # retry_when raises: nobody can say whether another attempt should come
            self._give_up(message, callback, error)
        if delay is None:
            return

        def attempt() -> Exception | None:
            try:
                self._send_owed_attempt(broker, message, callback, delay)
            except Exception as error:
                if not is_final(error):
                    raise
                return error
            return None

        final = self._patiently(callback, attempt)
        if final is not None:
            self._give_up(message, callback, final)

    def _give_up(self, message: MessageProxy, callback: Attempt, error: Exception) -> NoReturn:
        logger.error("Message %s goes to the dead-letter queue: %r", callback, error)
        message.fail()
        raise FailedAfterAll(f"message {callback} is rejected in a moment: {error!r}") from error

    def _settle(self, broker: Broker, message: MessageProxy, job: Job) -> None:
        engine, run_id = job.engine, job.tag.run_id
        touch = engine.is_due(run_id)
        caller = engine.caller(job.tag.owner, touch=touch)
        if job.exit in ("done", "over"):
            reply = engine.backend.owed(run_id, caller)
        else:
            reply = self._record(broker, message, job, caller)
            if reply.word in ("unknown", "refused"):
                logger.error("Message %s has worked for nothing: its place is %s.", job, reply.word)
        hand_over(engine, run_id, reply, caller)
        if touch or job.due:
            engine.touch_ancestors(run_id, due=job.due)

    def _record(self, broker: Broker, message: MessageProxy, job: Job, caller: Caller) -> Reply:
        """Record how the attempt ended. A result, or the plan of what the job has nested, that the store doesn't take
        makes the job dead with the store's error, like a result that can't be encoded."""
        ending, payload = self._ending(broker, message, job)
        nested = job.wrapper if ending == "succeeded" else b""
        try:
            due = job.due if ending in ("failing", "attempted") else 0
            return record_onward(job.engine, Record(job.tag, job.attempt, ending, payload, nested, due=due), caller)
        except PayloadRefused as error:
            if ending != "succeeded":
                raise
            logger.error("The result of message %s can't be stored: %s", job, error)
            job.error = error
            message.fail()
            details = _details(message, job)
            return job.engine.backend.record(Record(job.tag, job.attempt, "dead", details), caller)

    def _ending(self, broker: Broker, message: MessageProxy, job: Job) -> tuple[Ending, bytes]:
        """How the attempt is recorded."""
        if message.failed:
            return "dead", _details(message, job, text="" if job.error or message._exception else "message.fail()")
        if job.exit in ("returned", "skipped"):
            return "succeeded", job.result
        if not job.retry_sent:
            try:
                delay = self._owed_delay(broker, message, job)
            except Exception as error:  # retry_when raises: nobody can say whether another attempt should come
                job.error = error
                delay = None
            if delay is None:
                return "dead", _details(message, job)
            try:
                self._send_owed_attempt(broker, message, job, delay)
            except Exception as error:
                if not is_final(error):
                    raise
                job.error = error
                return "dead", _details(message, job)
        polite = isinstance(job.error, Retry | RateLimitExceeded | Shutdown)
        return "attempted" if polite else "failing", _details(message, job)

    def _owed_delay(self, broker: Broker, message: MessageProxy, job: Attempt) -> int | None:
        """After how many milliseconds the attempt is to come that Retries has decided on, or would have; None if none
        is. Raises what `retry_when` raises, and what an option makes of itself that Retries couldn't use."""
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

    def _send_owed_attempt(self, broker: Broker, message: MessageProxy, job: Attempt, delay: int) -> None:
        """Send the attempt that Retries couldn't send: the broker was away."""
        attempt = message.copy(options={"retries": job.attempt + 1})
        job.engine.courier.send([(attempt, delay)])
        job.retry_sent, job.due = True, current_millis() + delay

    # Waiting

    def _is_fresh(self, message: MessageProxy, job: Job) -> bool:
        """Whether the guard needn't be asked: this can't be a second copy, and its run wasn't cancelled a second ago.
        Second copies that we send are marked, and those of Retries are later attempts."""
        if job.attempt or job.tag.again or job.tag.leads:
            return False
        return job.engine.courier.is_first_copy(message) and job.engine.was_let_go(job.tag)

    def _guard(self, job: Job) -> Any:
        """Whether to run the job. Whatever error there is, it waits: what can't be recorded is better not run."""
        try:
            word = self._patiently(job, lambda: job.engine.backend.guard(job.tag))
        except NotAcked:
            return "abandoned"
        if word == "go":
            job.engine.let_go(job.tag.run_id, job.tag.generation, job.tag.stage, job.tag.of)
        return word

    def _lead(self, job: Job) -> Any:
        """Do the share of its stage's release that a job has, before it runs: that may take long."""

        def share() -> None:
            caller = job.engine.caller(job.tag.owner)
            hand_over(job.engine, job.tag.run_id, job.engine.backend.owed(job.tag.run_id, caller), caller)

        try:
            self._patiently(job, share)
        except NotAcked:
            return "abandoned"
        except NewerRelease as error:
            job.engine.leave_to_newer(job.tag.run_id, error)
        return "go"

    def _patiently(self, job: Attempt, work: Callable[[], Any]) -> Any:
        """Do it, as often as it takes. Raises NotAcked as soon as the worker is to stop, or NewerRelease, and nothing
        else: an error that is final for a run is handled where it is known to be, and whatever comes here is waited
        for."""
        tries, began, tell_at = 0, time.monotonic(), 0.0
        while True:
            try:
                return work()
            except NewerRelease:
                raise
            except Exception as error:
                now = time.monotonic()
                if now >= tell_at:
                    _tell_of_waiting(job, error, now - began if tries else None)
                    tell_at = now + TELL_AGAIN
                tries, backoff = compute_backoff(tries, factor=BACKOFF, max_backoff=MAX_BACKOFF)
                if self._wait(backoff / 1000):
                    raise NotAcked(f"the worker stops: message {job} comes again") from error

    def _wait(self, seconds: float) -> bool:
        """Whether the worker was told to stop. A time limit that strikes while nothing runs yet is not the job's."""
        stopping = self._stopping
        try:
            return stopping.wait(seconds)
        except Shutdown:
            return True
        except Interrupt:
            return stopping.is_set()

    @property
    def _stopping(self) -> threading.Event:
        """What tells this thread to stop: that its own worker does or, if it is no worker's, that all do."""
        thread = threading.current_thread()
        with self._lives_lock:
            for worker, life in self._lives.items():
                if thread in worker.workers or thread in worker.consumers.values():
                    return life.stopping
        return self._all_stopped

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


def _sweep(engine: Engine, interval: float, life: WorkerLife) -> None:
    """Look every `interval` seconds, or when somebody says so, until the worker stops."""
    waiter = waiter_of(engine.backend)
    waiter.watch(SWEEP, life.bell.set)
    try:
        while life.goes_on(interval):
            try:
                sweep(engine, is_stopping=life.stopping.is_set)
            except Unavailable as error:
                logger.warning("The sweeper waits: %s", error)
            except Exception:
                logger.exception("The sweeper met an error; it goes on.")
    finally:
        waiter.unwatch(SWEEP, life.bell.set)


def _beat(engine: Engine, life: WorkerLife) -> None:
    """Tell now and then of what this process works on, for a job may take longer than anything else happens."""
    while not life.stopping.wait(engine.pulse):
        try:
            engine.beat()
        except Unavailable as error:
            logger.debug("Nobody can be told what is at work: %s", error)  # those who wait have said so
        except Exception:
            logger.exception("Telling what is at work met an error; it is tried again.")


def _backend_of(broker: Broker) -> ClutchBackend:
    if isinstance(broker, RedisBroker):
        return RedisBackend(client=broker.client, namespace=f"{broker.namespace}-clutch")
    if isinstance(broker, StubBroker):
        return StubBackend()
    raise NotConfigured(
        f"ClutchMiddleware() can't tell where to keep the state of runs: {type(broker).__name__} has no Redis client. "
        'Pass a backend: ClutchMiddleware(RedisBackend(url="redis://..."))'
    )


def _courier_of(broker: Broker, backend: ClutchBackend) -> Courier:
    return RedisCourier(broker, backend) if isinstance(broker, RedisBroker) else Courier(broker)


def _application_of(broker: Broker) -> str:
    """By what a broker tells its messages from those of others on the same server."""
    if isinstance(broker, RedisBroker):
        return str(broker.namespace)
    parameters: Any = getattr(broker, "parameters", None)  # a RabbitmqBroker's: one, or several
    first = parameters[0] if isinstance(parameters, list | tuple) and parameters else parameters
    host = first.get("virtual_host", "") if isinstance(first, dict) else getattr(first, "virtual_host", "")
    return str(host)


def _warnings_of(broker: Broker) -> Iterator[str]:
    if getattr(broker, "confirm_delivery", None) is False:
        yield (
            f"{type(broker).__name__} publishes without confirmation, so what its server doesn't take is lost. "
            "Create it with confirm_delivery=True"
        )


def _retries_of(broker: Broker) -> Retries | None:
    return next((known for known in broker.middleware if isinstance(known, Retries)), None)


def _tell_of_waiting(job: Attempt, error: Exception, seconds: float | None) -> None:
    """Tell that a message waits, and for how long it has if that isn't new. What no server causes comes with its
    traceback."""
    is_known = error.is_known if isinstance(error, Unavailable) else isinstance(error, OSError)
    how = "waits" if seconds is None else f"still waits, after {seconds:.0f} s"
    logger.warning(
        "Message %s %s, unacked, until this is over: %s",
        job,
        how,
        error if isinstance(error, ClutchError) else repr(error),
        exc_info=None if is_known else error,
    )


def _details(message: MessageProxy, job: Job, text: str = "") -> bytes:
    return failure_details(
        job.error or message._exception,
        actor=message.actor_name,
        message_id=message.message_id,
        attempts=job.attempt + 1,
        text=text,
    )


def _is_true(record: logging.LogRecord) -> bool:
    """Dramatiq warns of values that are discarded for want of Results; a clutch job's value isn't discarded."""
    return jobs.current_job() is None or "returned a value that is not None" not in str(record.msg)
