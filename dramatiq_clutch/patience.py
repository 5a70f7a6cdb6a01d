"""What lasts as long as a worker: waiting for something to work again, and the threads that sweep and tell what is at
work.

An attempt that can't be recorded isn't acked. So whatever goes wrong is tried again and again, until it works or the
worker is told to stop. In the latter case the broker redelivers the message.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from dramatiq import Worker
from dramatiq.common import compute_backoff
from dramatiq.logging import get_logger
from dramatiq.middleware import MiddlewareError, Shutdown
from dramatiq.threading import Interrupt

from . import observing
from .backend import SWEEP
from .engine import Engine
from .errors import ClutchError, NewerRelease, Unavailable, is_expected
from .forks import renew_in_children
from .handover import sweep
from .job import Attempt
from .waiting import waiter_of
from .working import is_of

#: How long to wait between two tries while something is away, in milliseconds: at first, and at most.
BACKOFF, MAX_BACKOFF = 100, 3_000

#: How often it is logged that a message still waits, in seconds.
TELL_AGAIN = 60.0

#: How often a worker tells that it is there, at most, in seconds.
ATTENDING = 5.0

logger: logging.Logger = get_logger(__name__)


class NotAcked(MiddlewareError):
    """Raised before an ack to keep the message unacked; it comes again when the broker redelivers it."""


class WorkerLife:
    """The time from a worker's boot to its shutdown. If there are several workers in one process, each has its own."""

    def __init__(self) -> None:
        self.stopping: threading.Event = threading.Event()
        self.bell: threading.Event = threading.Event()  # set to make the worker's sweeper look at once

    def end(self) -> None:
        self.stopping.set()
        self.bell.set()

    def goes_on(self, seconds: float) -> bool:
        """Wait for so many seconds, or until the bell is rung. Returns whether the worker goes on."""
        self.bell.wait(seconds)
        self.bell.clear()
        return not self.stopping.is_set()


class Lives:
    """The lives of all workers in this process."""

    def __init__(self) -> None:
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """Begin anew in a forked child, in which the parent's workers don't exist."""
        self._lives: WeakKeyDictionary[Worker, WorkerLife] = WeakKeyDictionary()
        self._lock = threading.Lock()
        self._all_stopped = threading.Event()

    def begin(self, worker: Worker) -> WorkerLife:
        """Begin the life of a worker that boots."""
        life = WorkerLife()
        with self._lock:
            self._lives[worker] = life
            self._all_stopped.clear()
        return life

    def end(self, worker: Worker) -> None:
        """End the life of a worker, which is told to stop."""
        with self._lock:
            if worker in self._lives:
                self._lives[worker].end()
            if all(life.stopping.is_set() for life in self._lives.values()):
                self._all_stopped.set()

    def patiently(self, job: Attempt, work: Callable[[], Any]) -> Any:
        """Do the work, and repeat it until it raises nothing. Returns what it returns.

        It waits through every error, also those that are final: `work` has to handle these itself. Raises NotAcked if
        the worker is told to stop meanwhile, and NewerRelease.
        """
        tries, began, tell_at, given_up = 0, time.monotonic(), 0.0, False
        try:
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
                    if not tries:
                        _show_waiting(job, error)
                    tries, backoff = compute_backoff(tries, factor=BACKOFF, max_backoff=MAX_BACKOFF)
                    if self._wait(backoff / 1000):
                        given_up = True
                        raise NotAcked(f"the worker stops: message {job} comes again") from error
        finally:
            if tries:
                _show_end_of_waiting(job, time.monotonic() - began, given_up)

    def _wait(self, seconds: float) -> bool:
        """Wait, and return whether the worker was told to stop. A time limit that is raised here is ignored, because
        this isn't the job's time."""
        stopping = self._stopping
        try:
            return stopping.wait(seconds)
        except Shutdown:
            return True
        except Interrupt:
            return stopping.is_set()

    @property
    def _stopping(self) -> threading.Event:
        """The event that tells this thread to stop: that of its worker; or, if it isn't a worker's thread, the event
        that is set when all workers have stopped."""
        thread = threading.current_thread()
        with self._lock:
            for worker, life in self._lives.items():
                if is_of(worker, thread):
                    return life.stopping
        return self._all_stopped


def _show_waiting(job: Attempt, error: Exception) -> None:
    broker = job.engine.broker
    if job.tag is not None and observing.is_observed(broker):
        observing.show(broker, observing.WaitBegan(run_id=job.tag.run_id, message_id=job.message_id, error=error))


def _show_end_of_waiting(job: Attempt, seconds: float, given_up: bool) -> None:
    broker = job.engine.broker
    if job.tag is not None and observing.is_observed(broker):
        ended = observing.WaitEnded(
            run_id=job.tag.run_id, message_id=job.message_id, seconds=seconds, given_up=given_up
        )
        observing.show(broker, ended)


def _tell_of_waiting(job: Attempt, error: Exception, seconds: float | None) -> None:
    """Log that a message waits, and for how long it has been waiting (`seconds`, None at the first time). An error that
    no server causes is logged with its traceback."""
    how = "waits" if seconds is None else f"still waits, after {seconds:.0f} s"
    logger.warning(
        "Message %s %s, unacked, until this is over: %s",
        job,
        how,
        error if isinstance(error, ClutchError) else repr(error),
        exc_info=None if is_expected(error) else error,
    )


def begin_sweeping(engine: Engine, worker: Worker, seconds: float, life: WorkerLife) -> None:
    """Start a worker's sweeper: a thread that sweeps every so many seconds until the worker stops."""
    threading.Thread(target=_sweep, args=(engine, worker, seconds, life), name="clutch-sweeper", daemon=True).start()


def begin_beating(engine: Engine, life: WorkerLife) -> None:
    """Start a thread that calls `Engine.beat` once in a `pulse`, until the worker stops."""
    threading.Thread(target=_beat, args=(engine, life), name="clutch-beat", daemon=True).start()


def _sweep(engine: Engine, worker: Worker, interval: float, life: WorkerLife) -> None:
    """Sweep every `interval` seconds, and at each hint about SWEEP, until the worker stops. Every `interval` seconds,
    also have the broker redeliver what dead workers have left, and tell that this worker is there."""
    waiter, redeliver_at, tell_at = waiter_of(engine.backend), 0.0, 0.0
    waiter.watch(SWEEP, life.bell.set)
    try:
        while life.goes_on(interval):
            _work_off(lambda: sweep(engine, is_stopping=life.stopping.is_set))
            now = time.monotonic()
            if now >= redeliver_at:  # hints may come much more often
                redeliver_at = now + interval
                _work_off(engine.courier.redeliver)
            if now >= tell_at:
                tell_at = now + max(interval, ATTENDING)
                _work_off(lambda: engine.attend(worker, int(3_000 * max(interval, ATTENDING))))
    finally:
        waiter.unwatch(SWEEP, life.bell.set)
        if tell_at:
            _work_off(lambda: engine.attend(worker, 0))


def _work_off(work: Callable[[], object]) -> None:
    """Do a part of the sweeper's work. If that can't be done, the next time is soon enough."""
    try:
        work()
    except Unavailable as error:
        logger.warning("The sweeper waits: %s", error)
    except Exception:
        logger.exception("The sweeper met an error; it goes on.")


def _beat(engine: Engine, life: WorkerLife) -> None:
    """Tell the store, once in a pulse, which runs this process works on: a job may take so long that nothing else
    happens to its run, which would then expire or count as stalled."""
    while not life.stopping.wait(engine.pulse):
        try:
            engine.beat()
        except Unavailable as error:
            logger.debug("Nobody can be told what is at work: %s", error)  # jobs that wait for the store log a warning
        except Exception:
            logger.exception("Telling what is at work met an error; it is tried again.")
