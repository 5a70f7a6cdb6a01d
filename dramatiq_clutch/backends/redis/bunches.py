"""Fetches what is left in a queue in bunches, each in a step that acks a message of this queue anyway.

When a process has sent a wide stage, its worker would fetch the members by round trips of its own: a consumer asks for
as many messages as there is place for at that moment, and so mostly for one or two. Instead, the step that records a
job of the stage, and acks its message, also fetches the next ones.

It fetches them by their ids, and only if they still are the first in the queue; each step tells which ones are first
afterwards. So it is known which messages are astray if a reply is lost. That works for copies that this package has
sent, whose ids in the queue tell which messages they are; others are left to the consumer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from dramatiq import Worker

from .along import Bunch
from .astray import Astray, Missing
from .rooms import Room, consumer_of

#: What stands, in the id that a message has in its queue, behind the message's own id, if this package has put it
#: there. It tells these copies from those that anything else enqueues.
OWN = ":"

#: A bunch is fetched once there is place for one message in so many of the worker's prefetch. Fewer messages at a time
#: would cost more steps.
PORTION = 8

#: How many messages a bunch has at most, and how large a part of the worker's prefetch it is at most: each call that
#: fetches one carries their ids.
MOST, PART = 32, 5 / 8

#: For how many seconds a consumer leaves it to threads to fetch what they were told comes next. A step fetches it if it
#: records a success in a clutch; if there is none for so long, the consumer mustn't wait for it.
JUST = 0.05

#: What is known of a queue of which nothing is known.
NOTHING: tuple[float, Sequence[str]] = (float("-inf"), ())

#: The only key of the dict that has the turn.
TURN = "turn"


def most_for(consumer: Any) -> int:
    """How many messages a bunch for this consumer has at most."""
    return min(max(int(consumer.prefetch * PART), 1), MOST)


class Left:
    """The queues in which messages are left, as far as this process knows: it has sent them, or was told of them."""

    def __init__(self) -> None:
        self._marks: dict[str, object] = {}
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._marks)

    def __contains__(self, queue: str) -> bool:
        return queue in self._marks

    def queues(self) -> list[str]:
        return list(self._marks)

    def add(self, queue: str) -> None:
        """Messages are left in a queue now."""
        with self._lock:
            self._marks[queue] = object()

    def mark(self, queue: str) -> object | None:
        """What `discard` takes later."""
        return self._marks.get(queue)

    def discard(self, queue: str, mark: object | None) -> None:
        """Nothing was left in a queue, unless something was added to it since it had this mark."""
        with self._lock:
            if self._marks.get(queue) is mark:
                self._marks.pop(queue, None)


class FetchTurn(NamedTuple):
    """A thread's turn to fetch a bunch, for a room. `mark` is what the queue had among those with messages left."""

    thread: int
    bunch: Bunch
    room: Room
    mark: object | None


class Bunches:
    """Of one broker, in this process. Only one thread at a time fetches a bunch.

    Parameters:
      worker: gives the worker of the calling thread, or None.
      left: where messages are left.
      astray: looks after messages of which it isn't known whether they were fetched.
    """

    def __init__(self, worker: Callable[[], Worker | None], left: Left, astray: Astray) -> None:
        self._worker, self._left, self._astray = worker, left, astray
        # What is first in a queue, as the server has told last, and when that was (of the monotonic clock).
        self._first: dict[str, tuple[float, Sequence[str]]] = {}
        # The turn, if a thread has it. A lock wouldn't tell whose it is, and an interrupt may come right after a thread
        # has taken it. `setdefault` takes it, and says who has it, in a single step.
        self._turns: dict[str, FetchTurn] = {}

    def begin(self, queue: str, acks: int = 1) -> Bunch | None:
        """What this thread's worker may fetch in the step that acks so many messages of this queue; None if it has no
        place for more, or nothing is known to be left there. Whoever calls this calls `end` later, whatever happens.

        A prefetch of no more messages than there are threads is kept to exactly, and that only the consumer can do."""
        worker = self._worker() if queue in self._left and not self._turns else None
        found = consumer_of(worker, queue) if worker is not None else None
        if worker is None or found is None or found[1].prefetch <= worker.worker_threads:
            return None
        thread, consumer = found
        # A consumer that was restarted doesn't know what the one before has fetched, so the worker is asked, too.
        has = max(consumer.outstanding_message_count, worker.work_queue.unfinished_tasks)
        place = consumer.prefetch + acks - has
        if place < max(consumer.prefetch // PORTION, 1):
            return None
        _, first = self._first.get(queue, NOTHING)
        bunch = Bunch(queue, first[:place], most_for(consumer))
        turn = FetchTurn(threading.get_ident(), bunch, Room(thread, consumer, 0, place), self._left.mark(queue))
        if self._turns.setdefault(TURN, turn) is not turn:
            return None
        consumer.queued_message_ids.update(bunch.ids)  # so that the consumer doesn't fetch others in their place
        return bunch

    def end(self) -> None:
        """If it is this thread's turn, give its worker what was fetched. If it isn't known whether the messages of its
        bunch were fetched, they may be astray. Then the next thread may have its turn."""
        turn = self._turns.get(TURN)
        if turn is None or turn.thread != threading.get_ident():
            return
        bunch, missing = turn.bunch, set[str]()
        if bunch.asked and (bunch.messages or not bunch.done):
            missing.update(bunch.ids)
        bunch.asked = True  # another thread may do this thread's step again, which must not fetch anything now
        try:
            for in_queue, message in zip(bunch.ids, bunch.messages, strict=False):
                if message is not None:
                    turn.room.put(message)
                missing.discard(in_queue)
            self._heed(turn)
        finally:
            turn.room.consumer.queued_message_ids.difference_update(bunch.ids)
            self._astray.add({one: Missing(bunch.queue, one, one.partition(OWN)[0]) for one in missing})
            self._turns.pop(TURN, None)

    def are_enough(self, queue: str, consumer: object) -> bool:
        """Whether a consumer needn't fetch anything of its queue, because threads of its worker do that: they have just
        been told what comes next, and it has half of what it may have, at least. So it doesn't take what they are about
        to fetch."""
        told, _ = self._first.get(queue, NOTHING)
        has, may_have = getattr(consumer, "outstanding_message_count", 0), getattr(consumer, "prefetch", 0)
        return has >= max(may_have // 2, 1) and time.monotonic() - told < JUST

    def _heed(self, turn: FetchTurn) -> None:
        """Keep what the server has told."""
        bunch = turn.bunch
        self._first.pop(bunch.queue, None)
        if bunch.first and all(OWN in one for one in bunch.first):
            self._first[bunch.queue] = time.monotonic(), bunch.first
        elif bunch.done and not bunch.first:
            self._left.discard(bunch.queue, turn.mark)
