"""A broker in memory on which nothing works, and no time passes, unless a test says so."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import dramatiq.broker
from dramatiq import Broker, Message, Middleware, Worker
from dramatiq.brokers.stub import StubBroker
from dramatiq.common import current_millis, dq_name
from dramatiq.errors import QueueJoinTimeout, QueueNotFound
from dramatiq.middleware import AsyncIO, CurrentMessage, default_middleware
from dramatiq.results import ResultMissing, ResultTimeout

from ..backends.memory import Clock, StubBackend
from ..clutch import Clutch
from ..durations import Duration, milliseconds
from ..errors import RunFailed
from ..middleware import ClutchMiddleware
from ..run import Run

if TYPE_CHECKING:
    from ..typed import T

#: How long to wait by default until everything is done, in milliseconds of real time.
DEFAULT_TIMEOUT = 10_000

#: How long a worker's threads wait for messages before they look whether they are to stop, in milliseconds; how many
#: threads there are, and how long a worker that stops waits for jobs that don't end.
IDLE, THREADS, STOP = 10, 4, 2_000

#: Dramatiq's default middleware, without the one of older releases that counts for a server which no test has; and what
#: a broker for tests takes over from the application's, with its settings.
DEFAULT: tuple[type[Middleware], ...] = tuple(kind for kind in default_middleware if kind.__name__ != "Prometheus")
TAKEN_OVER: tuple[type[Middleware], ...] = (*DEFAULT, CurrentMessage, AsyncIO)

#: What a broker for tests takes over of the application's ClutchMiddleware: whom runs call, what they carry, and how
#: long they are kept.
OF_RUNS = ("_defaults", "carry", "run_ttl", "result_ttl", "history_ttl", "history_max")


class ClutchBroker(StubBroker):
    """A StubBroker with a ClutchMiddleware that keeps runs in memory. For tests::

        with stubbed() as broker:
            run = Clutch().then(fetch.message(2)).run()
            broker.work()
            assert run.get_result() == "text of page 2"

    Jobs work only while `work`, `working` or `run_to_end` says so, in threads of a real worker. Time stands still: that
    of the store (`backend.clock`), and that of messages with a delay, such as those of retries. `advance` moves both.

    Parameters:
      middleware: other middleware than Dramatiq's default. A ClutchMiddleware is added to it; so are AsyncIO and
        CurrentMessage, if they aren't there, for jobs may need them.

    Raises NotConfigured if `lupa`, which runs the store's scripts, isn't installed.
    """

    def __init__(self, middleware: list[Middleware] | None = None) -> None:
        super().__init__([kind() for kind in DEFAULT] if middleware is None else middleware)
        self._lock = threading.Lock()
        self._sent = 0
        self._held: list[tuple[int, int, Message[Any]]] = []  # a heap: when it is due, a running number, the message
        self._numbers = itertools.count()
        self._worker: Worker | None = None
        self.backend: StubBackend = StubBackend(clock=Clock(at=current_millis()))
        self._clutches = ClutchMiddleware(self.backend, sweep_interval=None)
        for kind in (CurrentMessage, AsyncIO):
            if not any(isinstance(known, kind) for known in self.middleware):
                self.add_middleware(kind())
        self.add_middleware(self._clutches)

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        """Put a message into its queue: ``broker.enqueue(fetch.message(2))``. One with a `delay` (in milliseconds) is
        kept until `advance` has moved the time so far. Raises QueueNotFound."""
        if message.queue_name not in self.queues:
            raise QueueNotFound(message.queue_name)
        if delay is None:
            with self._lock:
                self._sent += 1
            return super().enqueue(message)
        due = self.backend.now() + delay
        delayed = message.copy(queue_name=dq_name(message.queue_name), options={"eta": due})  # what hooks are to see
        self.emit_before("enqueue", delayed, delay)
        with self._lock:
            heapq.heappush(self._held, (due, next(self._numbers), message))
        self.emit_after("enqueue", delayed, delay)
        return delayed

    def work(self, *, timeout: Duration = DEFAULT_TIMEOUT) -> None:
        """Work until nothing is left to do at the present time: ``broker.work()``. Callbacks have been called then, and
        what is delayed still waits.

        Parameters:
          timeout: how long to wait at most, in real time: milliseconds or a timedelta.

        Raises QueueJoinTimeout if jobs are still at work then.
        """
        longest = milliseconds(timeout, "timeout")
        until = time.monotonic() + longest / 1000
        with self.working():
            while True:
                self._send_due()
                sent = self._sent
                for queue in list(self.queues.values()):
                    with queue.all_tasks_done:
                        while queue.unfinished_tasks:
                            if not queue.all_tasks_done.wait(until - time.monotonic()):
                                raise QueueJoinTimeout(f"jobs are still at work after {longest} ms")
                # A queue that was seen empty may have been sent to since, by a job of another one.
                if sent == self._sent and not self._is_due():
                    return

    @contextmanager
    def working(self) -> Iterator[None]:
        """Have a worker as long as a block lasts::

            with broker.working():
                assert run.get_result(block=True) == 3

        This is for code that waits for its results itself.
        """
        if self._worker is not None:
            yield
            return
        self._worker = worker = Worker(self, worker_timeout=IDLE, worker_threads=THREADS)
        worker.start()
        try:
            yield
        finally:
            self._worker = None
            worker.stop(timeout=STOP)
            # Dramatiq leaves its hook behind, which would start a consumer of this worker for each new queue.
            self.middleware[:] = [hook for hook in self.middleware if getattr(hook, "worker", None) is not worker]

    def advance(self, by: Duration) -> None:
        """Move the time: ``broker.advance(60_000)``. Messages that are due by then are sent, and it is looked once
        after all runs, as a sweeper does. What has been sent works with the next `work()`.

        Parameters:
          by: milliseconds or a timedelta.
        """
        self.backend.clock.advance(by)
        self._clutches.sweep(self)
        self._send_due()

    def reset(self) -> None:
        """Forget all messages, dead letters and runs, and how far the time was moved: ``broker.reset()``, between tests
        that share a broker."""
        self.flush_all()
        self._held.clear()
        self.backend.reset()

    def _send_due(self) -> None:
        while self._is_due():
            with self._lock:
                _, _, message = heapq.heappop(self._held)
            self.enqueue(message)

    def _is_due(self) -> bool:
        next_due = self._next_due()
        return next_due is not None and next_due <= self.backend.now()

    def _next_due(self) -> int | None:
        """When the next of the delayed messages is due, in UNIX milliseconds; None if there are none."""
        with self._lock:
            return self._held[0][0] if self._held else None

    def _advance_to_next(self) -> bool:
        """Move the time to when the next delayed message is due. Returns whether there was one."""
        due = self._next_due()
        if due is None:
            return False
        self.advance(max(due - self.backend.now(), 0))
        return True

    def _exception_of(self, message_id: str) -> BaseException | None:
        """What the job has raised whose message this is, if that is a dead letter."""
        for message in self.dead_letters:
            if message.message_id == message_id:
                found: BaseException | None = message._exception  # noqa: SLF001 (StubBroker.join raises it as well)
                return found
        return None


def run_to_end(clutch: Clutch[T] | Run[T], *, timeout: Duration = DEFAULT_TIMEOUT) -> T:
    """Run a clutch to its end, and return its result: ``assert run_to_end(Clutch().then(fetch.message(2))) == "two"``.

    All of its jobs and callbacks have worked then, those of nested runs, too. What is delayed is waited for by moving
    the time and not by waiting: a job with 20 retries that all fail is dead at once.

    Parameters:
      clutch: a clutch, on a `ClutchBroker`, mostly the global one; or the handle of a run that has begun, for example
        after a ``run.retry()``.
      timeout: how long to wait at most, in real time: milliseconds or a timedelta.

    Raises:
      RunFailed: the run has failed. Its `__cause__` is the exception of the first dead job, with its traceback; none
        that a stage has allowed.
      RunCancelled: the run was cancelled.
      ResultMissing: nothing is left to do, and the run isn't at rest; a message may have been dropped.
      ResultTimeout: jobs are still at work after `timeout`.
      TypeError: the broker isn't a `ClutchBroker`.
    """
    broker = clutch.broker if isinstance(clutch, Clutch) and clutch.broker else dramatiq.broker.global_broker
    if not isinstance(broker, ClutchBroker):
        raise TypeError(
            f"run_to_end() needs a ClutchBroker, and this is a {type(broker).__name__}: let the test use the fixture "
            "clutch_broker, or run it in a block `with stubbed():`"
        )
    run = clutch.run() if isinstance(clutch, Clutch) else clutch
    longest = milliseconds(timeout, "timeout")
    until = time.monotonic() + longest / 1000
    with broker.working():
        while True:
            try:
                broker.work(timeout=max(int((until - time.monotonic()) * 1000), 0))
            except QueueJoinTimeout as error:
                state = run.status().state
                raise ResultTimeout(f"run {run.run_id!r} is {state}, with jobs at work after {longest} ms") from error
            if run.status().state not in ("running", "failing") or not broker._advance_to_next():  # noqa: SLF001
                break
    try:
        return run.get_result()
    except ResultMissing as error:
        raise ResultMissing(f"{error}, though nothing is left to do for it") from None
    except RunFailed as error:
        reasons = error.failures  # what the stages allow is none
        raise error from (broker._exception_of(reasons[0].message_id) if reasons else None)  # noqa: SLF001


@contextmanager
def stubbed(like: Broker | None = None) -> Iterator[ClutchBroker]:
    """Have all actors of a broker use a `ClutchBroker` as long as a block lasts, which is the global broker meanwhile::

        with stubbed() as broker:
            fetch.send(2)
            broker.work()

    The new broker knows the same actors and queues, and has those of Dramatiq's own default middleware that the broker
    has, with their settings. Of the broker's ClutchMiddleware it has the callbacks, what runs carry, and how long they
    are kept. Add what else its jobs need: ``broker.add_middleware(...)``.

    Parameters:
      like: the broker whose actors these are. Default is the global broker, if there is one.
    """
    before = dramatiq.broker.global_broker
    known = before if like is None else like
    broker = ClutchBroker(None if known is None else [hook for hook in known.middleware if type(hook) in TAKEN_OVER])
    for hook in () if known is None else known.middleware:
        if isinstance(hook, ClutchMiddleware):
            vars(broker._clutches).update({name: vars(hook)[name] for name in OF_RUNS})  # noqa: SLF001
    dramatiq.broker.global_broker = broker
    try:
        with nullcontext() if known is None else _borrowed(known, broker):
            yield broker
    finally:
        dramatiq.broker.global_broker = before
        broker.close()


@contextmanager
def _borrowed(known: Broker, broker: ClutchBroker) -> Iterator[None]:
    """Have the actors of one broker use another one."""
    actors = list(known.actors.values())
    for queue in known.get_declared_queues():
        broker.declare_queue(queue)
    for actor in actors:
        actor.broker = broker
        broker.declare_actor(actor)
    try:
        yield
    finally:
        for actor in actors:
            actor.broker = known
