"""How messages get to a `RedisBroker`: many in a round trip, the confirmation of their duty in the same one, and where
one job follows another, in the very step that records the first. In that step the first one's message is acked, too,
and the next one is fetched for the worker that sends it, if that has a thread for it: see `desk`. Of jobs side by side
the next ones are fetched in the step that records one: see `bunches`.

Every hook of every middleware is called for every message, as it is when the broker enqueues a message itself.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dramatiq import JSONEncoder, Message, MessageProxy, Worker, get_encoder
from dramatiq.brokers.redis import RedisBroker
from dramatiq.common import current_millis
from dramatiq.logging import get_logger
from redis.exceptions import NoScriptError

from ...backend import Caller, ClutchBackend, Record, Reply
from ...courier import Courier, Outgoing, Written, encoded
from ...stored.duties import SendMembers
from ...stored.formats import is_done
from . import resp
from .along import Along
from .batches import MAINTAINS, Ready, batches, groups, prepared
from .bunches import OWN
from .deferring import Deferring
from .desk import Desk, Offer
from .dispatching import Dispatch
from .doorbells import Doorbells
from .hooks import Hooks, awaits_enqueue
from .outages import is_outage, way_out
from .redelivery import Redelivery
from .scripts import WITH_BROKER, Script, script
from .store import RedisBackend

#: The scripts that a worker needs for its first jobs.
AT_WORK = ("guard", "owed", "record", "succeed", "confirm", "enqueue", "keep")

#: The reply to a record that is deferred.
DEFERRED = Reply("counts", acked=True, deferred=True)

logger: logging.Logger = get_logger(__name__)


class RedisCourier(Courier):
    """Takes messages to a `RedisBroker` through the broker's own script. If the broker is of a subclass with an
    `enqueue` of its own, that is called instead, for one message after another.

    Parameters:
      broker: the broker that gets the messages.
      store: where the runs are kept. If store and broker share a client of a single server, a message and the
        confirmation of its duty go in one round trip, and a record and the next job's message in one step.
    """

    broker: RedisBroker

    def __init__(self, broker: RedisBroker, store: ClutchBackend) -> None:
        super().__init__(broker)
        self._before = Hooks(broker, ["before_enqueue"], awaits_enqueue)
        self._after = Hooks(broker, ["after_enqueue"], awaits_enqueue)
        self._dispatch = Dispatch(broker)
        self._desk = Desk(broker, self._dispatch.fetch)
        self._doorbells = Doorbells(broker, self._desk)
        self._redelivery = Redelivery(broker, self._dispatch.maintain)
        self._store: RedisBackend | None = None
        self._deferring: Deferring | None = None
        if isinstance(store, RedisBackend) and store.client is broker.client and store.calls.is_single:
            self._store = store
            self._deferring = Deferring(self._desk, store, self._dispatch)

    @property
    def records(self) -> bool:
        return self._store is not None

    @property
    def sends_onward(self) -> bool:
        return self._store is not None and self._enqueues_as_ever

    @property
    def _enqueues_as_ever(self) -> bool:
        return type(self.broker).enqueue is RedisBroker.enqueue

    def send(self, outgoing: Sequence[Outgoing]) -> None:
        if not self._enqueues_as_ever:
            super().send(outgoing)
            return
        with self.translated():
            for batch in batches(self._ready(outgoing)):
                self._send(batch, [])

    @property
    def takes_written(self) -> bool:
        return self._enqueues_as_ever and not (self._before or self._after)

    def send_written(self, messages: Sequence[Written]) -> None:
        with self.translated():
            for batch in batches(map(Ready.written, messages)):
                self._send(batch, [])

    def send_and_confirm(self, outgoing: Sequence[Outgoing], run_id: str, duty: SendMembers, caller: Caller) -> bool:
        queues = {message.queue_name for message, _ in outgoing}
        if not self.sends_onward or self._store is None or len(outgoing) >= resp.FEW or len(queues) != 1:
            self.send(outgoing)
            return False
        confirmed = False
        with self.translated():
            for batch in batches(self._ready(outgoing)):
                along: list[resp.Command] = []
                if len(batch) == len(outgoing):
                    queue = f"{self.broker.namespace}:{batch[0].queue}"
                    along.append(self._store.confirmation(run_id, duty, caller, queue, [one.id for one in batch]))
                (answer,) = self._send(batch, along) or [None]
                confirmed = is_done(answer)
        return confirmed

    def record(
        self, record: Record, caller: Caller, duty: SendMembers | None = None, outgoing: Outgoing | None = None
    ) -> Reply:
        assert self._store is not None  # `records` says so
        if self._deferring is not None and duty is None and self._deferring.defer(record, caller):
            return DEFERRED
        along, offer, ready = self._ack_of(record), None, None
        if duty is not None and outgoing is not None:
            try:
                ready = prepared(*outgoing)
                if self._before:
                    self.broker.emit_before("enqueue", *ready)
                along, offer = self._onward(along, duty, ready)
            except Exception as error:
                # The duty is then owed, and whoever does it meets the error, which fails the run.
                logger.debug("The message of duty %s can't go with the record before it: %r", duty.id, error)
        if along is None:
            return self._store.record(record, caller)
        if along.duty is None:
            return self._record_and_fetch(record, caller, along)
        try:
            reply = self._store.record(record, caller, along)
            if reply.acked:
                self._desk.note_ack(along.ack[-1])
            if reply.sent is not None and offer is not None:
                if reply.kept:
                    self._desk.hold(offer, self._as_it_comes(ready))
                elif self._desk.take(offer, 0):
                    self._doorbells.ring([offer.queue])
        except BaseException:
            self._desk.note_unknown(offer)
            raise
        if reply.sent is not None and ready is not None:
            if offer is None:
                self._desk.note_left([ready[0].queue_name])
                self._doorbells.ring([ready[0].queue_name])
            self._announce_sent([ready])
        return reply

    def _record_and_fetch(self, record: Record, caller: Caller, along: Along) -> Reply:
        """Record an attempt, and ack its message. If other messages of its queue are next, this worker fetches a bunch
        of them in the same step."""
        assert self._store is not None
        try:
            if self._deferring is not None and (word := self._deferring.word) is not None:
                reply = self._store.record(record, caller, along, is_common=False)
                if word == b"last":  # it has counted before, and this tells what follows
                    reply = replace(reply, word="counts")
            else:
                bunch = self._desk.bunches.begin(along.acked_in) if record.is_common and not caller.touch else None
                along = along if bunch is None else self._dispatch.fetching(along, bunch)
                reply = self._store.record(record, caller, along)
            if reply.acked:
                self._desk.note_ack(along.ack[-1])
            return reply
        finally:
            self._desk.bunches.end()

    def _ack_of(self, record: Record) -> Along | None:
        """What acks the message whose attempt this thread records: a success, for any other may be a dead letter."""
        ended = self._desk.ending
        if ended is None or record.ending != "succeeded" or not self._desk.acks_along:
            return None
        return self._dispatch.acking(ended.queue_name, ended.options["redis_message_id"])

    def _onward(self, along: Along | None, duty: SendMembers, ready: Outgoing) -> tuple[Along, Offer | None]:
        """What sends the message of a duty with the record before it, and offers it to this thread's worker."""
        message = ready[0]
        arguments = self._enqueue(message)
        sent = (message.queue_name, message.options["redis_message_id"], arguments[-1])
        offer = next(iter(self._desk.offers([sent], acks=along is not None)), None)
        fetch = self._dispatch.arguments("fetch", message.queue_name, 1, maintains=0) if offer is not None else ()
        queue, in_queue = f"{self.broker.namespace}:{message.queue_name}", message.options["redis_message_id"]
        known = along or Along(self._dispatch.text, self.broker.namespace)
        return Along(known.script, known.key, known.ack, known.acked_in, duty, arguments, fetch, queue, in_queue), offer

    # The workers of this process

    def attend(self, worker: Worker) -> None:
        for name in AT_WORK:  # now, and not by each thread when the first job waits for it
            script(name, self._dispatch.text if name in WITH_BROKER else "")
        if self._desk.attend(worker):
            self._doorbells.attend(worker)

    def leave(self, worker: Worker) -> None:
        self._desk.leave(worker)
        self._doorbells.leave(worker)

    def ends(self, message: MessageProxy | None) -> None:
        self._desk.ending = message
        if message is None:
            self.begin_next()

    def begin_next(self) -> None:
        self._desk.give_held()

    @property
    def is_behind(self) -> bool:
        return self._deferring is not None and self._deferring.is_behind

    @property
    def is_due(self) -> bool:
        return self._deferring is not None and self._deferring.is_due

    def catch_up(self) -> None:
        if self._deferring is not None:
            self._deferring.catch_up()

    def make_way(self, message: MessageProxy) -> None:
        if self._deferring is not None:
            self._deferring.make_way(message.actor_name)

    def look_for_more(self) -> None:
        if self._desk.may_look:
            with self.translated():
                self._desk.look_for_more()

    def redeliver(self) -> None:
        with self.translated():
            self._redelivery.look()

    def unknown_holders(self, known: Collection[str]) -> Mapping[str, Sequence[str]]:
        with self.translated():
            return self._redelivery.unknown_holders(known)

    def is_first_copy(self, message: Any) -> bool:
        """Whether a message can't be a second copy: this package has enqueued it, less than half a heartbeat timeout
        ago.

        Dramatiq gives a message to another worker only when the first one has been silent for the heartbeat timeout;
        the other half leaves room for clocks that differ. A copy that something else enqueues, such as the delay queue,
        has an id in its queue that doesn't begin as this package's ids do.
        """
        if not str(message.options.get("redis_message_id")).startswith(f"{message.message_id}{OWN}"):
            return False
        age = current_millis() - message.message_timestamp
        return bool(0 <= age < self.broker.heartbeat_timeout / 2)

    def way_out(self, error: Exception) -> str:
        return way_out(error)

    def is_outage(self, error: Exception) -> bool:
        return is_outage(error)

    # Batches, and the wire

    def _ready(self, outgoing: Sequence[Outgoing]) -> Iterator[Ready]:
        """The messages, ready to be sent. Calls the hook `before_enqueue`."""
        for message, delay in outgoing:
            one = prepared(message, delay)
            if self._before:
                self.broker.emit_before("enqueue", *one)
            yield Ready.of(*one)

    def _send(self, ready: Sequence[Ready], along: Sequence[resp.Command]) -> list[Any]:
        """Send messages in one round trip, and what goes along with them, whose answers it returns.

        This thread's worker fetches in the same round trip what it has threads for."""
        at_once = [(one.queue, one.id, one.data) for one in ready if one.delay is None]
        offers = self._desk.offers(at_once)
        left = Counter(queue for queue, _, _ in at_once) - Counter({one.queue: len(one.ids) for one in offers})
        behind = [*along, *map(self._keep, offers), *self._doorbells.rings(left)]
        try:
            answers = self._enqueue_all(ready, behind)
            self._desk.note_left(left)
            self._doorbells.heed(answers[len(along) + len(offers) :])
            kept = zip(offers, answers[len(along) :], strict=False)
            if others := {offer.queue for offer, count in kept if self._take(offer, count)} - left.keys():
                self._doorbells.ring(others)
        except BaseException:
            self._desk.note_unknown(*offers)
            raise
        self._announce_sent((one.message, one.delay) for one in ready if one.message is not None)
        return answers[: len(along)]

    def _enqueue_all(self, ready: Sequence[Ready], behind: Sequence[resp.Command]) -> list[Any]:
        """Send messages, and the commands that stand `behind` them, whose answers it returns. After a SCRIPT FLUSH,
        calls that found no script have done nothing and are repeated."""
        client, called = self.broker.client, script("enqueue", self._dispatch.text)
        calls = [("EVALSHA", called.sha, *self._call_of(called, group)) for group in groups(ready)]
        for last_try in (False, True):
            answers = resp.send(client, [*calls, *behind])
            answers, others = answers[: len(calls)], answers[len(calls) :]
            errors = [answer for answer in answers if isinstance(answer, Exception)]
            calls = [call for call, answer in zip(calls, answers, strict=True) if isinstance(answer, NoScriptError)]
            if len(errors) > len(calls) or (last_try and errors):
                raise next(error for error in errors if last_try or not isinstance(error, NoScriptError))
            if not calls:
                break
            client.script_load(called.text)
        return others

    def _call_of(self, called: Script, group: Sequence[Ready]) -> tuple[Any, ...]:
        """What sends messages of one queue in one call."""
        common = self._dispatch.arguments("enqueue", group[0].queue)
        messages = [part for one in group for part in (one.id, one.data)]
        given = {"common": len(common), "once": MAINTAINS}
        return called.call({"broker": self.broker.namespace}, given, [*common, *messages])

    def _keep(self, offer: Offer) -> tuple[Any, ...]:
        """What fetches offered messages, right behind them: as long as they are the first in their queue."""
        fetch = self._dispatch.arguments("fetch", offer.queue, 1)
        keys = {"queue": f"{self.broker.namespace}:{offer.queue}", "broker": self.broker.namespace}
        keep = script("keep", self._dispatch.text)
        return ("EVALSHA", keep.sha, *keep.call(keys, {"fetches": len(fetch)}, [*fetch, *offer.ids]))

    def _take(self, offer: Offer, kept: Any) -> bool:
        """Give the worker what was fetched for it. Returns whether something is left."""
        if isinstance(kept, NoScriptError):
            text = script("keep", self._dispatch.text).text
            kept = resp.ask(self.broker.client, ("EVAL", text, *self._keep(offer)[2:]))
        if isinstance(kept, Exception):
            raise kept
        return self._desk.take(offer, kept)

    def _enqueue(self, message: Message[Any]) -> list[Any]:
        in_queue = message.options["redis_message_id"]
        return self._dispatch.arguments("enqueue", message.queue_name, in_queue, encoded(message))

    def _announce_sent(self, messages: Iterable[Outgoing]) -> None:
        if self._after:
            for message, delay in messages:
                self.broker.emit_after("enqueue", message, delay)

    def _as_it_comes(self, ready: Outgoing | None) -> Message[Any] | None:
        """The message that was sent just now, if decoding it would make one just like it: it has been JSON before, and
        nobody else has any of it, or changes it."""
        is_so = type(get_encoder()) is JSONEncoder and not (self._before or self._after)
        return ready[0] if is_so and ready is not None and type(ready[0]) is Message else None
