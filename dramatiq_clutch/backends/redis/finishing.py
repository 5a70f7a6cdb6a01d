"""Has messages processed whose deferred records come to more than it seemed: by Dramatiq's own method, as if their
attempts had ended just now."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dramatiq import MessageProxy, Worker
from dramatiq.logging import get_logger

from ...backend import Record
from ...forks import renew_in_children
from .desk import Desk
from .succeeding import Word

#: For how many seconds at most a worker that stops waits for what others still do for it.
PATIENCE = 60.0

logger: logging.Logger = get_logger(__name__)


@dataclass(slots=True, eq=False)
class Deferred:
    """A record that is still to be made, as at the time `now` (UNIX milliseconds): of the attempt at a `message`, which
    has the id `in_queue` in its `queue`, and which this worker's `consumer` counts as prefetched; and `since` when
    (monotonic seconds)."""

    record: Record
    now: int
    message: MessageProxy
    queue: str
    in_queue: str
    worker: Worker
    consumer: Any
    since: float

    def forget(self) -> None:
        """The consumer needn't count it any more."""
        self.consumer.queued_message_ids.discard(self.in_queue)

    def process(self) -> None:
        """Have Dramatiq process the message as if its attempt had ended just now."""
        thread: Any = self.worker.consumers[self.queue]
        thread.post_process_message(self.message)


class _Here(threading.local):
    """Whether this thread makes or finishes records (`is_busy`), inside of which it does neither; and what the one came
    to that it finishes (`word`)."""

    is_busy = False
    word: Word | None = None


class Finishing:
    """Of one broker, in this process.

    Parameters:
      desk: tells which worker a thread works for.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """Begin anew in a forked child: what is unfinished is the parent's."""
        self.here: _Here = _Here()
        # Those whose messages Dramatiq is to process, and what each came to, until that is done; and which thread is at
        # it. So a thread that is interrupted forgets none.
        self.unfinished: dict[Deferred, Word] = {}
        self._claims: dict[Deferred, threading.Thread] = {}
        # How many threads of our own are at work.
        self._ours, self._changed = 0, threading.Condition()

    def finish(self) -> None:
        """Have those messages processed that are to be, and that no other thread is at."""
        this = threading.current_thread()
        for one, word in list(self.unfinished.items()):
            if self._claims.setdefault(one, this) is this:
                self._process(one, word)

    def _process(self, one: Deferred, word: Word) -> None:
        """Have this message processed, which this thread has claimed."""
        try:
            if one in self.unfinished:
                self.here.is_busy, self.here.word = True, word
                one.process()
                del self.unfinished[one]
        finally:
            self.here.is_busy, self.here.word = False, None
            self._claims.pop(one, None)

    def leave_to_others(self) -> None:
        """Have those that no thread is at processed by threads of our own, because that may take long."""
        for one, word in list(self.unfinished.items()):
            begun = threading.Event()
            thread = threading.Thread(
                target=self._process_for, args=(one, word, begun), name="clutch-finishing", daemon=True
            )
            if self._claims.setdefault(one, thread) is thread:
                if not has_started(thread):
                    self._claims.pop(one, None)
                    return
                begun.wait()

    def _process_for(self, one: Deferred, word: Word, begun: threading.Event) -> None:
        with self.at_work_for(one.worker), self._desk.serving(one.worker):
            begun.set()
            self._process(one, word)

    @contextmanager
    def at_work_for(self, worker: Worker) -> Iterator[None]:
        """Meanwhile this thread, which is one of our own, is at work for that worker. Whoever waits until the worker
        has done all its work, or has stopped, waits for this, too."""
        with self._changed:
            self._ours += 1
        try:
            with self._desk.occupying(worker):
                yield
        finally:
            with self._changed:
                self._ours -= 1
                self._changed.notify_all()

    def wait(self) -> None:
        """Wait until no thread of our own is at work."""
        with self._changed:
            self._changed.wait_for(lambda: not self._ours, PATIENCE)


def has_started(thread: threading.Thread) -> bool:
    """Start a thread. Returns whether that could be done."""
    try:
        thread.start()
    except RuntimeError as error:
        logger.debug("%s can't be started: %s", thread.name, error)
        return False
    return True
