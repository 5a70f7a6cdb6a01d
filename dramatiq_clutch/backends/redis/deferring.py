"""Records the successes of short jobs in a moment, many in one step, while their threads go on with the next jobs.

A thread that has done a job waits for a round trip until the job is recorded, and where jobs are short that is most of
what they take. So the record of a short job of a wide stage is deferred: its thread goes on with the next message, if
the worker has one. Once there are enough of these records, a thread makes them together; and so does one that has
nothing else to do.

Nothing changes that is promised. On the server a message is unacked until its job is recorded, so it comes again if the
process dies before that. It counts as prefetched until then, so not more records are deferred than messages may be
prefetched. Only Dramatiq's own worker takes the message for acked. If a record comes to more than that its member
counts, as that of the last one of a stage does, or if making it meets an error of its own, its message is processed by
Dramatiq's own method, as if its attempt had ended just now.

The record of a long job isn't deferred, and before a job that may be a long one the others are made: one of an actor
whose last job wasn't short. If a job takes long all the same, in each thread of the worker, a thread of our own makes
the records that are older than `DELAY`; it may have to wait for its turn at the interpreter.

What follows from a record may be done by another thread than that which has done the job, and after other jobs. So
nothing is deferred if a middleware of the application has hooks that could notice that.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence

from dramatiq import Worker
from dramatiq.logging import get_logger

from ...backend import Caller, Record
from ...errors import is_expected
from ...forks import renew_in_children
from .bunches import most_for
from .desk import Desk
from .dispatching import Dispatch
from .finishing import Deferred, Finishing, has_started
from .hooks import Hooks
from .lazily import redis
from .rooms import consumer_of
from .store import RedisBackend
from .succeeding import Success, Word

#: How many members a stage has at least whose records are deferred. In a smaller one the last record, after which
#: something follows, is a large part of all, and it takes a round trip more.
WIDE = 16

#: How many bytes the result of such a job may have. The server may refuse a large one, and then its message has to be
#: rejected, for which it is too late if Dramatiq takes it for acked.
SMALL = 1_000

#: How many milliseconds such a job may have taken. Of a longer one the round trip is a small part.
SHORT = 10

#: For how many seconds a record is deferred while no thread of the worker comes along to make it. That is looked at as
#: often, so it may be twice that.
DELAY = 0.005

#: At most how many records are made together.
MOST = 64

#: After how many looks at which nothing was deferred the thread that looks ends.
QUIET = 100

#: How many seconds it waits after an error.
PAUSE = 0.5

#: How often it is logged that records can't be made, in seconds.
TELL_AGAIN = 60.0

#: Hooks that could notice who does what follows from a record, and when.
HOOKS = ("before_enqueue", "after_enqueue", "before_ack", "after_ack", "before_nack", "after_nack")

#: Modules whose hooks don't mind.
OWN = ("dramatiq.", "dramatiq_clutch.middleware", "dramatiq_clutch.metrics")

#: What stands for a word if making the record has met an error.
FAILED = b"failed"

logger: logging.Logger = get_logger(__name__)


class Deferring:
    """Of one broker, in this process. Only one thread at a time makes records.

    Parameters:
      desk: tells which worker a thread works for, and acks.
      store: where the records are made.
      dispatch: the broker's script.
    """

    def __init__(self, desk: Desk, store: RedisBackend, dispatch: Dispatch) -> None:
        self._desk, self._store, self._dispatch = desk, store, dispatch
        self._noticing = Hooks(dispatch.broker, HOOKS, lambda hook: not str(hook.__module__).startswith(OWN))
        self._finishing = Finishing(desk)
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """Begin anew in a forked child: what is deferred is the parent's."""
        self._turn = threading.Lock()
        # The records that are still to be made, in order. Whoever has the turn takes them from here once it is known
        # what has become of them, and not before.
        self._deferred: deque[Deferred] = deque()
        self._short: set[str] = set()  # the actors whose last job was short
        self._starts = threading.Lock()
        self._late: threading.Thread | None = None
        self._told_at = float("-inf")

    @property
    def is_behind(self) -> bool:
        """Whether there is anything that this thread could do."""
        return bool(self._deferred or self._finishing.unfinished) and not self._finishing.here.is_busy

    @property
    def is_due(self) -> bool:
        """Whether this thread should do something now."""
        return self.is_behind and (bool(self._finishing.unfinished) or self._is_time(self._desk.worker(), False))

    @property
    def word(self) -> Word | None:
        """What the record came to that this thread is about to make as a whole, after it was deferred; else None."""
        return self._finishing.here.word

    def defer(self, record: Record, caller: Caller) -> bool:
        """Defer the record of this thread's message, if it is worth while. Returns whether it is deferred: then
        `catch_up` has to be called by this thread, once Dramatiq takes the message for acked."""
        message, worker = self._desk.ending, self._desk.worker()
        if message is None or worker is None or self._finishing.here.is_busy:
            return False
        actor, queue = message.actor_name, message.queue_name
        if not 0 <= caller.now - record.began < SHORT:
            self._short.discard(actor)
            return False
        self._short.add(actor)
        if (
            record.tag.of < WIDE
            or record.tag.timed
            or not record.is_common
            or caller.touch
            or len(record.payload) > SMALL
            or not self._desk.acks_along
            or self._noticing
        ):
            return False
        found = consumer_of(worker, queue)
        if found is None or not self._is_looked_after():
            return False
        in_queue, consumer = message.options["redis_message_id"], found[1]
        one = Deferred(record, caller.now, message, queue, in_queue, worker, consumer, time.monotonic())
        try:
            consumer.queued_message_ids.add(in_queue)  # so that it doesn't fetch another one in its place
            self._deferred.append(one)
            self._desk.note_ack(in_queue)
        except BaseException:  # the attempt is recorded as any other then, perhaps once more
            one.forget()
            raise
        self._is_looked_after()  # the thread may have ended a moment ago
        return True

    def make_way(self, actor: str) -> None:
        """Make the records that are deferred before a job of this actor, unless that is known to be short. Raises what
        `catch_up` raises."""
        if self._deferred and actor not in self._short and not self._finishing.here.is_busy:
            self._catch_up(self._desk.worker(), is_all=True)

    def catch_up(self) -> None:
        """Make the records that are deferred, if it is time and no other thread is at it.

        If the worker of this thread has no messages left, or is told to stop, all of them are made before this returns;
        and in the latter case what follows from them is done, too. Raises StateUnavailable during an outage: then they
        are still deferred."""
        worker = self._desk.worker()
        if worker is None and not self._desk.was_workers:
            return
        self._catch_up(worker)
        if worker is None:
            self._finishing.wait()

    def _catch_up(self, worker: Worker | None, *, is_all: bool = False) -> None:
        while self._is_time(worker, is_all) and (is_all or _is_idle(worker) or not self._turn.locked()):
            with self._turn:
                if self._is_time(worker, is_all):  # another thread may have made them meanwhile
                    self._make()
            self._finishing.finish()
        self._finishing.finish()

    def _is_time(self, worker: Worker | None, is_all: bool) -> bool:
        """Whether this thread should make records: because it wants all of them made, its worker has nothing else for
        it, or there are as many as a bunch has messages. These come with the records, and should come while the worker
        still has some."""
        oldest = _first(self._deferred)
        if oldest is None:
            return False
        return is_all or _is_idle(worker) or len(self._deferred) >= most_for(oldest.consumer)

    def _make(self) -> None:
        """Make some records, as this thread, which has the turn. In the same step their messages are acked, and the
        next ones of the oldest one's queue are fetched. Raises StateUnavailable during an outage."""
        batch = [self._deferred[index] for index in range(min(len(self._deferred), MOST))]  # others may append to it
        self._finishing.here.is_busy = True
        try:
            words = self._words_of(batch)
        finally:
            self._finishing.here.is_busy = False
        self._finishing.unfinished |= {one: word for one, word in zip(batch, words, strict=True) if word != b"counts"}
        for one in batch:
            one.forget()
            self._deferred.popleft()

    def _words_of(self, batch: Sequence[Deferred]) -> Sequence[Word]:
        bunches, queue, worker = self._desk.bunches, batch[0].queue, self._desk.worker()
        found = consumer_of(worker, queue) if worker is not None else None
        try:
            acks = sum(one.queue == queue and one.consumer is found[1] for one in batch) if found is not None else 0
            alongs = {queue: self._dispatch.acking(queue, "", bunches.begin(queue, acks))}
            alongs |= {of: self._dispatch.acking(of, "") for of in {one.queue for one in batch} - {queue}}
            successes = [Success.of(one.record, alongs[one.queue], one.in_queue, one.now) for one in batch]
            return self._store.succeed_together(successes)
        except Exception as error:
            if isinstance(error.__cause__, redis.ConnectionError | redis.TimeoutError):
                raise
            # It may be the fault of one of them, which the others needn't wait for.
            logger.debug("Each of %d records is made by itself: %r", len(batch), error)
            return [FAILED] * len(batch)
        finally:
            bunches.end()

    # Threads of our own, which do what no other does

    def _is_looked_after(self) -> bool:
        """Whether there is a thread that makes late records; it is started unless there is, or this process may start
        no more."""
        if not _is_alive(self._late):
            with self._starts:
                if not _is_alive(self._late):
                    thread = threading.Thread(target=self._look_after, name="clutch-deferring", daemon=True)
                    if not has_started(thread):
                        return False
                    self._late = thread
        return True

    def _look_after(self) -> None:
        pause, looks = threading.Event(), 0  # nobody sets it: it only waits
        try:
            while looks < QUIET:
                pause.wait(DELAY)
                looks = 0 if self._deferred or self._finishing.unfinished else looks + 1
                try:
                    self._make_late()
                except Exception as error:
                    self._tell(error)
                    pause.wait(PAUSE)
        finally:
            self._late = None
        if self._deferred or self._finishing.unfinished:  # by a thread that has seen this one a moment ago
            self._is_looked_after()

    def _make_late(self) -> None:
        """Make the records that are older than `DELAY`, and have what is to be finished done by other threads, because
        that may take long."""
        while (oldest := _first(self._deferred)) and time.monotonic() - oldest.since >= DELAY:
            with self._finishing.at_work_for(oldest.worker), self._desk.serving(oldest.worker):
                with self._turn:
                    if _first(self._deferred) is oldest:  # otherwise another thread has made it meanwhile
                        self._make()
                self._finishing.leave_to_others()
        self._finishing.leave_to_others()

    def _tell(self, error: Exception) -> None:
        """Log that records can't be made."""
        oldest, now = _first(self._deferred), time.monotonic()
        if oldest is not None and now - self._told_at >= TELL_AGAIN:
            self._told_at = now
            logger.warning(
                "The records of %d jobs, the first of which is %s, wait until this is over: %s",
                len(self._deferred),
                oldest.record.tag,
                error,
                exc_info=None if is_expected(error) else error,
            )


def _first(some: deque[Deferred]) -> Deferred | None:
    try:
        return some[0]
    except IndexError:
        return None


def _is_alive(thread: threading.Thread | None) -> bool:
    return thread is not None and thread.is_alive()


def _is_idle(worker: Worker | None) -> bool:
    """Whether there is nothing else to do for a thread of this worker, or of one that is told to stop (None)."""
    return worker is None or not worker.work_queue.queue
