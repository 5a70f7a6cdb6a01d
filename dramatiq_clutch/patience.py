"""The lives of a process's workers: until when a message waits, and what else is done meanwhile.

What can't be recorded isn't acked. So whatever goes wrong on the way is tried again and again, until it works or the
worker is told to stop; then the broker redelivers the message.
"""

from __future__ import annotations

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

from .backend import SWEEP
from .engine import Engine
from .errors import ClutchError, NewerRelease, Unavailable, is_expected
from .forks import renew_in_children
from .handover import sweep
from .job import Attempt
from .waiting import waiter_of

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


class Lives:
    """Those of the workers in this process."""

    def __init__(self) -> None:
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """Begin anew in a forked child: the parent's workers aren't there."""
        self._lives: WeakKeyDictionary[Worker, WorkerLife] = WeakKeyDictionary()
        self._lock = threading.Lock()
        self._all_stopped = threading.Event()

    def begin(self, worker: Worker) -> WorkerLife:
        """A worker boots."""
        life = WorkerLife()
        with self._lock:
            self._lives[worker] = life
            self._all_stopped.clear()
        return life

    def end(self, worker: Worker) -> None:
        """It is told to stop."""
        with self._lock:
            if worker in self._lives:
                self._lives[worker].end()
            if all(life.stopping.is_set() for life in self._lives.values()):
                self._all_stopped.set()

    def patiently(self, job: Attempt, work: Callable[[], Any]) -> Any:
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
        with self._lock:
            for worker, life in self._lives.items():
                if thread in worker.workers or thread in worker.consumers.values():
                    return life.stopping
        return self._all_stopped


def _tell_of_waiting(job: Attempt, error: Exception, seconds: float | None) -> None:
    """Tell that a message waits, and for how long it has if that isn't new. What no server causes comes with its
    traceback."""
    how = "waits" if seconds is None else f"still waits, after {seconds:.0f} s"
    logger.warning(
        "Message %s %s, unacked, until this is over: %s",
        job,
        how,
        error if isinstance(error, ClutchError) else repr(error),
        exc_info=None if is_expected(error) else error,
    )


def begin_sweeping(engine: Engine, seconds: float, life: WorkerLife) -> None:
    """Have a thread of a worker look for runs whose duties nobody does, every so many seconds, until it stops."""
    threading.Thread(target=_sweep, args=(engine, seconds, life), name="clutch-sweeper", daemon=True).start()


def begin_beating(engine: Engine, life: WorkerLife) -> None:
    """Have another one tell now and then of what the process works on."""
    threading.Thread(target=_beat, args=(engine, life), name="clutch-beat", daemon=True).start()


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
