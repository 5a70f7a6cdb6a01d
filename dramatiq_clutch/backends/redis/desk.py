"""What the workers of this process take without their consumers, and have acked without them.

Dramatiq's consumer looks for messages again and again, and sleeps between two looks, for up to a second when there was
nothing; and it acks each message in a round trip of its own. A worker that sends a job and has a thread for it fetches
the message in the very step that sends it, and one that records how a job ended acks its message in that step.

All else is as the consumer does it. The message is unacked on the server until then, so that it is redelivered when the
process dies. It counts as prefetched, and comes into the worker's own queue by the consumer's own method. It is fetched
only while it is the first in its queue and the worker has a thread for it, so nothing else has to wait for longer.
Those that follow it are fetched as the consumer would, up to its prefetch (see `bunches`).
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from dramatiq import Message, MessageProxy, Worker
from dramatiq.brokers.redis import RedisBroker

from ...forks import renew_in_children
from ...working import works_for
from .astray import Astray, Missing
from .bunches import Bunches, Left
from .rooms import Room, consumer_of

#: A message that is being sent: its queue, the id that it gets there, and its bytes.
Sent: TypeAlias = tuple[str, str, bytes]


@dataclass(frozen=True, slots=True)
class Offer:
    """Messages that are offered to a worker: their ids in the queue, in which they stand in this order, and their
    bytes."""

    room: Room
    queue: str
    ids: Sequence[str]
    messages: Sequence[bytes]

    def missing(self) -> Iterator[Missing]:
        for in_queue, message in zip(self.ids, self.messages, strict=True):
            yield Missing(self.queue, in_queue, Message.decode(message).message_id)


class _Here(threading.local):
    """What is known of this thread: the `worker` that it is one of; the message whose attempt it is about to record
    (`ending`); the id, in its queue, of the message that was `acked` with its record, and which Dramatiq is about to
    ack once more; and the next message, which was fetched in the same step, and is `held` for its room. A thread
    `is_extra` if it serves the worker without being one of those that work on its messages."""

    worker: Worker | None = None
    is_extra: bool = False
    ending: MessageProxy | None = None
    acked: str | None = None
    held: tuple[Room, MessageProxy] | None = None


class Desk:
    """Of one broker, in this process.

    Parameters:
      broker: the broker.
      fetch: fetches so many messages of a queue at most, as the broker's consumers do.
    """

    def __init__(self, broker: RedisBroker, fetch: Callable[[str, int], Sequence[bytes]]) -> None:
        self._broker, self._fetch = broker, fetch
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """Begin anew in a forked child: the parent's workers aren't there."""
        self._workers: list[Worker] = []
        self._occupied: list[Worker] = []  # by tasks that aren't messages
        self._here = _Here()
        self._astray = Astray(self._broker, self._has)
        self._left = Left()
        self.bunches: Bunches = Bunches(self.worker, self._left, self._astray)
        self._looking, self._giving = threading.Lock(), threading.Lock()

    def attend(self, worker: Worker) -> bool:
        """A worker boots. If its broker is of a subclass that fetches or acks in a way of its own, that is left to it:
        there is no worker for this desk, and so nothing is fetched or acked here. Returns whether it is for this
        desk."""
        if not _fetches_and_acks_as_ever(type(self._broker)):
            return False
        self._workers.append(worker)
        if "do_ack" not in vars(self._broker):
            self._ack_on_server: Any = self._broker.do_ack
            self._broker.do_ack = self._ack  # type: ignore[attr-defined]
        if "do_fetch" not in vars(self._broker):
            self._fetch_on_server: Any = self._broker.do_fetch
            self._broker.do_fetch = self._fetch_if_needed  # type: ignore[attr-defined]
        return True

    def leave(self, worker: Worker) -> None:
        """It is told to stop: it takes nothing more."""
        with self._giving:  # nothing that takes long is done with it
            if worker in self._workers:
                self._workers.remove(worker)

    # This thread

    def worker(self) -> Worker | None:
        """The worker of this thread, unless it is told to stop."""
        if self._here.worker is None:
            thread = threading.current_thread()
            self._here.worker = next((worker for worker in self._workers if works_for(worker, thread)), None)
        return self._here.worker if self._here.worker in self._workers else None

    @property
    def was_workers(self) -> bool:
        """Whether this thread has ever been told its `worker`. That worker may be told to stop by now."""
        return self._here.worker is not None

    @contextmanager
    def serving(self, worker: Worker) -> Iterator[None]:
        """Meanwhile this thread works for that worker, though it isn't one of its threads."""
        self._here.worker, self._here.is_extra = worker, True
        try:
            yield
        finally:
            self._here.worker, self._here.is_extra = None, False

    @contextmanager
    def occupying(self, worker: Worker) -> Iterator[None]:
        """Meanwhile that worker has another task: whoever waits until it has done all its work (`Worker.join`) waits
        for that, too."""
        with worker.work_queue.all_tasks_done:
            worker.work_queue.unfinished_tasks += 1
        self._occupied.append(worker)
        try:
            yield
        finally:
            self._occupied.remove(worker)
            worker.work_queue.task_done()

    # Acks

    @property
    def ending(self) -> MessageProxy | None:
        """The message whose attempt this thread is about to record, if it is a worker's."""
        return self._here.ending

    @ending.setter
    def ending(self, message: MessageProxy | None) -> None:
        self._here.ending = message

    @property
    def acks_along(self) -> bool:
        """Whether a message may be acked with its record: then Dramatiq's own ack is answered here."""
        return vars(self._broker).get("do_ack") == self._ack

    def note_ack(self, in_queue: str) -> None:
        """The message that has this id in its queue has been acked. Dramatiq is about to ack it on this thread."""
        self._here.acked = in_queue

    def _ack(self, queue_name: str, in_queue: str) -> Any:
        acked, self._here.acked = self._here.acked, None
        return None if acked == in_queue else self._ack_on_server(queue_name, in_queue)

    # Messages for this thread's worker

    def _fetch_if_needed(self, queue_name: str, count: int) -> Any:
        """What a consumer fetches: nothing where threads of its worker fetch bunches."""
        thread = threading.current_thread()
        is_asking = any(worker.consumers.get(queue_name) is thread for worker in list(self._workers))
        if is_asking and self.bunches.are_enough(queue_name, getattr(thread, "consumer", None)):
            return []
        return self._fetch_on_server(queue_name, count)

    def offers(self, sent: Iterable[Sent], *, acks: bool = False) -> list[Offer]:
        """Which of the messages that are being sent, in this order, are offered to this thread's worker.

        Parameters:
          acks: whether the message whose attempt this thread is about to record is acked in the same step.
        """
        if not self._workers:
            return []
        queues: dict[str, list[tuple[str, bytes]]] = defaultdict(list)
        for queue, in_queue, data in sent:
            queues[queue].append((in_queue, data))
        offers, taken = list[Offer](), 0
        for queue, messages in queues.items():
            room = self._room(queue, acks=acks)
            chosen = messages[: room.threads - taken] if room and room.threads > taken else []
            if room and chosen:
                offers.append(Offer(room, queue, *zip(*chosen, strict=True)))
                taken += len(chosen)
        return offers

    def note_left(self, queues: Iterable[str]) -> None:
        """Not all of the messages that were just sent to these queues were offered, or others have sent some. It is
        told only once they are there: whoever looks before that finds nothing, and notes that nothing is left."""
        for queue in queues:
            if any(queue in worker.consumers for worker in self._workers):
                self._left.add(queue)

    def note_unknown(self, *offers: Offer | None) -> None:
        """It isn't known whether what was offered was fetched: these messages may be astray."""
        self._astray.add({one.in_queue: one for offer in offers if offer for one in offer.missing()})

    def take(self, offer: Offer, count: int) -> bool:
        """So many of these messages have been fetched for the worker. Of a queue in which others stood before them,
        something is left: returns whether it is so."""
        for message in offer.messages[:count]:
            offer.room.put(message)
        is_left = count < len(offer.messages)
        if is_left:
            self._left.add(offer.queue)
        return is_left

    def hold(self, offer: Offer, message: Message[Any] | None = None) -> None:
        """The only message of this offer has been fetched for the worker of this thread, which has something to do
        before it is free. It is given the message then (`give_held`). Otherwise another thread would take it, and the
        two would be in each other's way: that made the job begin later, and not sooner. If the decoded `message` is
        given, it needn't be decoded."""
        self._here.held = offer.room, offer.room.hold(message or Message.decode(offer.messages[0]))

    def give_held(self) -> None:
        """Give this thread's worker the message that is held for it, if there is one."""
        held, self._here.held = self._here.held, None
        if held is not None:
            room, message = held
            room.give(message)

    @property
    def may_look(self) -> bool:
        """Whether this thread's worker has nothing to do, though something is left in a queue."""
        worker = self.worker() if self._left else None
        return worker is not None and worker.work_queue.empty()

    def look_for_more(self, *, waits: bool = False) -> None:
        """Fetch what is left in queues, as far as that is known, if this thread's worker has nothing else to do: its
        consumer may sleep. A prefetch of no more messages than there are threads is kept to exactly, and that only
        the consumer can do. While another thread is at it, nothing is done, unless this one `waits` for its turn.

        Raises what the broker raises. What was fetched without a reply comes again when this process has ended, as it
        is with the consumer."""
        worker = self.worker() if self._left else None
        if worker is None or not self._looking.acquire(blocking=waits):
            return
        try:
            for queue in self._left.queues():
                room = self._room(queue, acked=True)
                if room is None or room.consumer.prefetch <= worker.worker_threads:
                    continue
                mark, held = self._left.mark(queue), list[MessageProxy]()
                try:
                    with room.reserved():
                        found = self._fetch(queue, room.ahead)
                        if len(found) < room.ahead:
                            self._left.discard(queue, mark)
                        for message in found:
                            held.append(room.hold(Message.decode(message)))
                finally:  # and not before: what follows a short job would find no place while all of it is reserved
                    self._give(room, held)
        finally:
            self._looking.release()

    def has_place(self, worker: Worker, queue: str) -> bool:
        """Whether this worker, of which no thread is calling, may be given messages of a queue at present."""
        with self.serving(worker):
            room = self._room(queue)
        return room is not None and room.consumer.prefetch > worker.worker_threads

    def answer(self, worker: Worker, queue: str) -> bool:
        """Somebody has put messages into a queue: fetch what there is for this worker, of which no thread is calling.
        Returns whether nothing is left, as far as that was looked at: a worker that is told to stop doesn't look.
        Raises what the broker raises."""
        with self.serving(worker):
            if self.worker() is None:
                return False
            self.note_left([queue])
            self.look_for_more(waits=True)
        return queue not in self._left

    def _give(self, room: Room, held: Sequence[MessageProxy]) -> None:
        """Give this thread's worker what was fetched for it. If it has been told to stop meanwhile, that is put back:
        the worker puts back what it has, but it doesn't wait for a thread that isn't one of its own."""
        with self._giving:
            is_there = self.worker() is not None
            for one in held if is_there else ():
                room.give(one)
        if held and not is_there:
            room.consumer.requeue(held)

    def _room(self, queue: str, *, acks: bool = False, acked: bool = False) -> Room | None:
        """What place this thread's worker has for messages of a queue, if any. Its thread is about to be free, and its
        consumer may fetch another message once the present one is acked.

        A consumer that was restarted after a connection error doesn't know of the messages that the one before has
        fetched. So the worker is asked, too, how many it has, of which the present one may be `acked` already."""
        worker, ending = self.worker(), self._here.ending
        if worker is None:
            return None
        found = consumer_of(worker, queue)
        if found is None:
            return None
        thread, consumer = found
        busy = 0
        for name in self._broker.queues:
            known = getattr(worker.consumers.get(name), "consumer", None)
            busy += 0 if known is None else known.outstanding_message_count
        unfinished = worker.work_queue.unfinished_tasks - self._occupied.count(worker)
        busy = max(busy, unfinished - (acked and not self._here.is_extra))
        ahead = consumer.prefetch - consumer.outstanding_message_count
        threads = worker.worker_threads - busy
        if ending is not None:
            ahead, threads = ahead + (acks and ending.queue_name == queue), threads + (not self._here.is_extra)
        threads = min(threads, ahead)
        return Room(thread, consumer, threads, ahead) if threads > 0 else None

    def _has(self, queue: str, message_id: str) -> bool:
        """Whether a consumer of this process has this message of the queue."""
        consumers = (getattr(worker.consumers.get(queue), "consumer", None) for worker in list(self._workers))
        return any(message_id in getattr(consumer, "queued_message_ids", ()) for consumer in consumers)


def _fetches_and_acks_as_ever(kind: type[RedisBroker]) -> bool:
    """Whether a class of brokers fetches and acks as `RedisBroker` does, which has no methods for the two commands, but
    makes them when it is asked."""
    methods = ("consume", "consumer_class", "_dispatch")
    inherits = all(getattr(kind, name) is getattr(RedisBroker, name) for name in methods)
    return inherits and not any(hasattr(kind, name) for name in ("do_ack", "do_fetch"))
