"""What this thread (or coroutine) works on. It stands this low so that a run's handle can tell whether a job is about
to wait for it."""

from __future__ import annotations

import threading
from collections.abc import Sized
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary, WeakSet

from dramatiq import Message, Worker

from .stored.places import CallbackTag, Tag, ancestors


class Working(Protocol):
    """What is asked of an attempt here."""

    @property
    def tag(self) -> Tag | CallbackTag | None: ...


#: The attempt (`job.Attempt`) that is worked on; None if its message isn't of a clutch.
working: ContextVar[Any] = ContextVar("dramatiq_clutch_attempt", default=None)

#: The message of a clutch that this worker's thread has enqueued last, and its delay in milliseconds; None unless that
#: was while it worked on a message whose attempt hasn't begun.
enqueued: ContextVar[tuple[Message[Any], int] | None] = ContextVar("dramatiq_clutch_enqueued", default=None)

#: Whether a message is worked on, of a clutch or not. It then holds a worker's thread.
in_worker: ContextVar[bool] = ContextVar("dramatiq_clutch_in_worker", default=False)


def begin(attempt: Working | None) -> None:
    """Note that the attempt at a message begins; None stands for a message that isn't of a clutch."""
    working.set(attempt)
    in_worker.set(True)
    enqueued.set(None)


def end() -> None:
    working.set(None)
    in_worker.set(False)


def note_enqueued(message: Message[Any], delay: int) -> None:
    """Note that a message of a clutch is enqueued while no attempt is worked on. If a worker's thread does that, it may
    be the very message that it works on, which a middleware that comes before ours has put back, or has not let
    begin."""
    if _consumers_of(threading.current_thread()) is not None:
        enqueued.set((message, delay))


def is_part_of(run_id: str) -> bool:
    """Whether a job is worked on whose run is this one, or one that this one is nested in, or one that is nested in
    this one. A callback isn't part of a run: no run waits for it."""
    attempt: Working | None = working.get()
    if attempt is None or not isinstance(attempt.tag, Tag):
        return False
    own = attempt.tag.run_id
    return own == run_id or _is_nested(own, run_id) or _is_nested(run_id, own)


def _is_nested(run_id: str, ancestor: str) -> bool:
    return any(place.run_id == ancestor for place in ancestors(run_id))


# Threads that jobs start


class Boot(NamedTuple):
    """What is kept of a worker's boot: the jobs that are at work, and the threads that there were before."""

    at_work: Sized
    before: WeakSet[threading.Thread]


_boots: WeakKeyDictionary[Worker, Boot] = WeakKeyDictionary()


def worker_boots(worker: Worker, at_work: Sized) -> None:
    """Note that a worker boots, whose jobs of clutches are in `at_work` while they work."""
    _boots[worker] = Boot(at_work, WeakSet(threading.enumerate()))


def worker_stops(worker: Worker) -> None:
    _boots.pop(worker, None)


def works_for(worker: Worker, thread: threading.Thread) -> bool:
    """Whether a thread is one of those that work on a worker's messages. They are known by the consumers that they
    share: a thread is put on its worker's list only after it has started, and may have worked by then."""
    return _consumers_of(thread) is worker.consumers


def is_of(worker: Worker, thread: threading.Thread) -> bool:
    """Whether a thread is one of a worker's: one that works on its messages, or one of its consumers."""
    return works_for(worker, thread) or thread in worker.consumers.values()


def _consumers_of(thread: threading.Thread) -> Any:
    """The consumers of the worker on whose messages a thread works; None for any other thread."""
    return getattr(thread, "consumers", None)


def may_be_a_jobs() -> bool:
    """Whether this may be a thread that a job of a clutch has started, though nothing says so: it has no job's context,
    and jobs of clutches are at work in this process.

    It is none if it is a worker's own, or older than the workers, as the main thread is. Nothing more is known of a
    thread, so the answer may be wrong for one that something else has started since.
    """
    if in_worker.get():
        return False
    thread = threading.current_thread()
    boots = list(_boots.items())
    if any(is_of(worker, thread) for worker, _ in boots):
        return False
    return any(boot.at_work and thread not in boot.before for _, boot in boots)
