"""The contract of a courier, which takes messages to a broker; and the courier for any broker, which enqueues them one
by one. `dramatiq_clutch.backends.redis.courier` has a faster one for Redis.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields
from typing import Any, NamedTuple, TypeVar

from dramatiq import Broker, Message, MessageProxy, Worker, get_encoder
from dramatiq.middleware import MiddlewareError

from .backend import Caller, Record, Reply
from .errors import BrokerUnavailable, HandOverFailed, HookFailed, NotConfigured, PayloadRefused, is_final
from .outages import in_words, is_outage, refuses, way_out
from .stored.duties import SendMembers

#: A message, and its delay in milliseconds, or None.
Outgoing = tuple[Message[Any], int | None]

Hook = TypeVar("Hook", bound=Callable[..., None])

#: The fields of a message.
FIELDS = fields(Message)

#: The ids of messages that a broker has begun to work on inside its `enqueue`, while this thread is in there.
_begun: ContextVar[list[str] | None] = ContextVar("dramatiq_clutch_begun", default=None)


class Written(NamedTuple):
    """A message as bytes, to be sent at once. A courier may put an id for this copy of it between `before` and
    `after`."""

    queue: str
    message_id: str
    before: bytes
    after: bytes


class Courier:
    """Takes messages to one broker by the broker's own `enqueue`.

    `takes_written` says that it takes messages as bytes at present, because no hook is to see them. `records` says that
    it has the store record attempts, for it can do more in the same step; `sends_onward`, that it can also send a
    message in the step that records the job before it.
    """

    def __init__(self, broker: Broker) -> None:
        self.broker = broker

    @property
    def takes_written(self) -> bool:
        return False

    @property
    def records(self) -> bool:
        return False

    @property
    def sends_onward(self) -> bool:
        return False

    def send(self, outgoing: Sequence[Outgoing]) -> None:
        """Enqueue messages, each after its delay. All hooks of all middlewares are called for each of them.

        Raises (some may have been sent then):
          BrokerUnavailable: the broker is away, or has met any error that isn't known to be final.
          PayloadRefused: the broker's server takes messages, but not one of this size.
          HookFailed: a middleware doesn't let a message through.
          HandOverFailed: a message can't be encoded, or can't be delayed for so long.
          ActorNotFound, QueueNotFound: nobody has declared the actor or the queue.
        """
        with self.translated():
            for message, delay in outgoing:
                self.enqueue(message, delay)

    def send_written(self, messages: Sequence[Written]) -> None:
        """Send messages as they are written. Only for a courier who `takes_written`. Raises BrokerUnavailable and
        PayloadRefused."""
        raise NotImplementedError

    def send_and_confirm(self, outgoing: Sequence[Outgoing], run_id: str, duty: SendMembers, caller: Caller) -> bool:  # noqa: ARG002
        """Enqueue the messages that a duty asks for. A courier may confirm the duty in the same round trip, if the
        messages have arrived. Returns whether nothing is left to confirm, because the duty is confirmed or another
        caller holds it by now. Raises what `send` raises."""
        self.send(outgoing)
        return False

    def record(
        self, record: Record, caller: Caller, duty: SendMembers | None = None, outgoing: Outgoing | None = None
    ) -> Reply:
        """Record an attempt. In the same step, send the message of the duty that this causes, if it causes that one,
        and ack the message whose attempt it was, if nothing is left to do for it: the reply says what of that was done.
        Only for a courier who `records`, and who `sends_onward` if there is a duty. Raises what the store raises, and
        BrokerUnavailable."""
        raise NotImplementedError

    def attend(self, worker: Worker) -> None:
        """A worker of this process boots."""

    def leave(self, worker: Worker) -> None:
        """It is told to stop."""

    def begins(self, message: MessageProxy) -> None:
        """This thread is about to work on a message. Raises NotConfigured if the broker has it do so inside `enqueue`,
        for then the message isn't acked, and the end of its job would never be recorded."""
        begun = _begun.get()
        if begun is not None:
            begun.append(message.message_id)
            raise works_inside(self.broker)

    def ends(self, message: MessageProxy | None) -> None:
        """This thread is about to record how the attempt of this message has ended, until this is called with None."""

    def begin_next(self) -> None:
        """Have this thread's worker begin with the message that was fetched for it in the step that recorded this
        thread's job, if any was."""

    def look_for_more(self) -> None:
        """A thread of a worker has nothing to do: it may fetch what is known to be left in its queues. Raises what the
        broker raises."""

    @property
    def is_behind(self) -> bool:
        """Whether records are deferred: the replies to them said that they count, but they are still to be made."""
        return False

    @property
    def is_due(self) -> bool:
        """Whether this thread should make records that are deferred now: it has nothing better to do, or there are
        enough of them."""
        return False

    def catch_up(self) -> None:
        """Make records that are deferred, if that is due. Raises what the store raises; then they are still to be
        made."""

    def make_way(self, message: MessageProxy) -> None:
        """Make records that are deferred before this message is worked on, unless that is known not to take long.
        Raises what `catch_up` raises."""

    def redeliver(self) -> None:
        """Have the broker redeliver what dead workers have left unacked, where it doesn't see to that soon enough by
        itself. Each worker's sweeper calls this once in its interval. Raises BrokerUnavailable."""

    def unknown_holders(self, known: Collection[str]) -> Mapping[str, Sequence[str]]:  # noqa: ARG002
        """The ids of brokers that hold messages of queues of ours, and aren't among the `known` ones, each with those
        queues, as far as the broker's server can tell. Raises BrokerUnavailable."""
        return {}

    def is_first_copy(self, message: Any) -> bool:  # noqa: ARG002
        """Whether a message certainly isn't a second copy of one that is or was at work elsewhere. False if in doubt:
        then it is asked whether the job is still wanted."""
        return False

    # For couriers of certain brokers

    def enqueue(self, message: Message[Any], delay: int | None) -> None:
        """Have the broker enqueue a message in its own way. Raises HandOverFailed if the message itself is the reason
        for an error, NotConfigured if the broker works on it in there, and what the broker raises otherwise."""
        token = _begun.set([])
        try:
            self.broker.enqueue(message, delay=delay)
            if _begun.get():  # it has kept the error of `begins` to itself
                raise works_inside(self.broker)
        except ValueError as error:
            if delay is None:
                raise
            # Dramatiq's brokers raise ValueError for a delay that is longer than they support.
            raise HandOverFailed(f"the broker doesn't take a delay of {delay} ms: {error}") from error
        except Exception:
            encoded(message)  # raises HandOverFailed if the message can't be encoded, which was the reason then
            raise
        finally:
            _begun.reset(token)

    def way_out(self, error: Exception) -> str:
        """What the operator can do about an error of the broker that workers wait for."""
        return way_out(error)

    def is_outage(self, error: Exception) -> bool:
        """Whether an error is of a kind that the broker's server or the network causes. Any other is taken for a fault
        in a program."""
        return is_outage(error)

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn every error of a broker that isn't known to be final into BrokerUnavailable, because workers wait for
        that."""
        try:
            yield
        except NotConfigured:
            raise
        except MiddlewareError as error:
            raise HookFailed(f"a middleware's before_enqueue doesn't let the message through: {error!r}") from error
        except Exception as error:
            if is_final(error):
                raise
            is_known = self.is_outage(error)
            words = in_words(error, is_known=is_known)
            if refuses(error):
                raise PayloadRefused(f"the broker refuses a message of this size (see its limits): {words}") from error
            text = f"the broker can't be used for now ({self.way_out(error)}): {words}"
            raise BrokerUnavailable(text, is_known=is_known) from error


def of_others(hook: Hook) -> Hook:
    """Marks a hook that is called for what others enqueue. A courier needn't call it for what it sends."""
    hook.of_others = True  # type: ignore[attr-defined]
    return hook


def works_inside(broker: Broker) -> NotConfigured:
    """The error of a broker that is its own worker."""
    return NotConfigured(
        f"{type(broker).__name__} works on a message where it is enqueued, and acks none, so the end of no job could "
        "be recorded. In tests, `with dramatiq_clutch.testing.stubbed():` works without workers, too"
    )


def encoded(message: Message[Any]) -> bytes:
    """A message as bytes. Raises HandOverFailed if that can't be done."""
    try:
        if type(message) is Message and len(vars(message)) == len(FIELDS):
            return get_encoder().encode(vars(message))  # as `Message.encode` does, which looks for the fields first
        return message.encode()
    except Exception as error:
        raise HandOverFailed(
            f"message {message.message_id} for actor {message.actor_name!r} can't be encoded: {error!r}"
        ) from error
