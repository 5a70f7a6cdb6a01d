"""Messages to the broker, many at a time, with every hook of every middleware called for every message."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeGuard

from dramatiq import Broker, Message, Middleware
from dramatiq.brokers.redis import RedisBroker
from dramatiq.common import current_millis, dq_name
from dramatiq.middleware import MiddlewareError
from redis.exceptions import NoScriptError

from . import wire
from .backend import Confirmation, Duty, Onward
from .errors import BrokerUnavailable, HandOverFailed, HookFailed, PayloadRefused, is_final
from .outages import LIMITS, in_words, refuses, way_out
from .plan import changed
from .tokens import new_token

#: How many messages travel in one round trip, and how many bytes of them, unless a single one has more. So the memory
#: that sending takes doesn't grow with what there is to send.
CHUNK, MOST_BYTES = 500, 1_000_000

Outgoing = tuple[Message[Any], int | None]


def send(broker: Broker, outgoing: Sequence[Outgoing], confirmation: Confirmation | None = None) -> bool:
    """Enqueue messages, each with its delay in milliseconds (or None).

    A `RedisBroker` takes them in one round trip a chunk, through its own script; any other broker, and a subclass with
    an `enqueue` of its own, one by one. A few take the `confirmation` of their duty along. Returns whether it has been
    confirmed.

    Raises (some may have been sent then):
      BrokerUnavailable: the broker is away, or has met any error that isn't known to be final.
      PayloadRefused: the broker's server takes messages, but not one of this size.
      HookFailed: a middleware doesn't let a message through.
      HandOverFailed: a message can't be encoded, or not be delayed for so long.
      ActorNotFound, QueueNotFound: nobody has declared it.
    """
    confirmed = False
    with translated():
        if is_plain(broker):
            along = confirmation if len(outgoing) < wire.FEW else None
            for prepared, calls in _batches(broker, outgoing):
                is_all = len(prepared) == len(outgoing)
                confirmed = _send_pipelined(broker, prepared, calls, along if is_all else None)
        else:
            for message, delay in outgoing:
                _enqueue(broker, message, delay)
    return confirmed


def is_plain(broker: Broker) -> TypeGuard[RedisBroker]:
    """Whether a broker enqueues as a `RedisBroker` does."""
    return isinstance(broker, RedisBroker) and type(broker).enqueue is RedisBroker.enqueue


def own_copy(message_id: str) -> str:
    """How the id begins that a message has in its queue, if it was put there by this package: it tells our copies from
    those that somebody else enqueues."""
    return f"{message_id}:"


def make_ready(broker: RedisBroker, duty: Duty, outgoing: Outgoing) -> tuple[Onward, Outgoing]:
    """A message that the state store is to enqueue, and what to call `has_gone` with when it has."""
    prepared = _prepare(*outgoing)
    _announce(broker, "before", [prepared])
    script: Any = broker.scripts["dispatch"].script
    text = script.decode() if isinstance(script, bytes) else script
    return Onward(duty, text, broker.namespace, _arguments(broker, prepared[0])), prepared


def has_gone(broker: Broker, prepared: Outgoing) -> None:
    """Tell the hooks that the state store has enqueued it."""
    _announce(broker, "after", [prepared])


@contextmanager
def translated() -> Iterator[None]:
    """Turn every error of a broker that isn't known to be final into BrokerUnavailable: it is waited for."""
    try:
        yield
    except MiddlewareError as error:
        raise HookFailed(f"a middleware's before_enqueue doesn't let the message through: {error!r}") from error
    except Exception as error:
        if is_final(error):
            raise
        if refuses(error):
            raise PayloadRefused(f"the broker refuses a message of this size ({LIMITS}): {in_words(error)}") from error
        raise BrokerUnavailable(f"the broker can't be used for now ({way_out(error)}): {in_words(error)}") from error


def _enqueue(broker: Broker, message: Message[Any], delay: int | None) -> None:
    """Have a broker enqueue a message in its own way, and tell the errors that are the message's own."""
    try:
        broker.enqueue(message, delay=delay)
    except ValueError as error:
        if delay is None:
            raise
        # Dramatiq's brokers raise it for a delay that is longer than what they can keep.
        raise HandOverFailed(f"the broker doesn't take a delay of {delay} ms: {error}") from error
    except Exception:
        _encoded(message)  # if that can't be done, it has been the reason
        raise


def _encoded(message: Message[Any]) -> bytes:
    try:
        return message.encode()
    except Exception as error:
        raise HandOverFailed(
            f"message {message.message_id} for actor {message.actor_name!r} can't be encoded: {error!r}"
        ) from error


def _batches(broker: RedisBroker, outgoing: Sequence[Outgoing]) -> Iterator[tuple[Sequence[Outgoing], list[list[Any]]]]:
    """The messages, some at a time, ready to be sent, and with what the broker's script takes for each."""
    prepared, calls, size = list[Outgoing](), list[list[Any]](), 0
    is_awaited = _is_awaited(broker, "before_enqueue")
    for message, delay in outgoing:
        one = _prepare(message, delay)
        if is_awaited:
            broker.emit_before("enqueue", *one)
        prepared.append(one)
        calls.append(_arguments(broker, one[0]))
        size += len(calls[-1][-1])
        if len(calls) == CHUNK or size >= MOST_BYTES:
            yield prepared, calls
            prepared, calls, size = [], [], 0
    if calls:
        yield prepared, calls


def _send_pipelined(
    broker: RedisBroker, prepared: Sequence[Outgoing], calls: list[list[Any]], confirmation: Confirmation | None
) -> bool:
    queues = {message.queue_name for message, _ in prepared}
    along: list[wire.Command] = []
    if confirmation is not None and len(queues) == 1:
        ids = [message.options["redis_message_id"] for message, _ in prepared]
        along.append(confirmation(f"{broker.namespace}:{queues.pop()}", ids))
    (answer,) = _execute(broker, calls, along) or [None]
    _announce(broker, "after", prepared)
    return answer in (b"confirmed", b"lost")


def _prepare(message: Message[Any], delay: int | None) -> Outgoing:
    """What `RedisBroker.enqueue` does to a message: an id of its own for each copy, and an eta if it is delayed."""
    in_queue = own_copy(message.message_id) + new_token(12)
    options: dict[str, Any] = {**message.options, "redis_message_id": in_queue}
    if delay is None:
        return changed(message, options=options), None
    options["eta"] = current_millis() + delay
    return changed(message, queue_name=dq_name(message.queue_name), options=options), delay


def _arguments(broker: RedisBroker, message: Message[Any]) -> list[Any]:
    return [
        "enqueue",
        current_millis(),
        message.queue_name,
        broker.broker_id,
        broker.heartbeat_timeout,
        broker.dead_message_ttl,
        broker._should_do_maintenance("enqueue"),
        broker._max_unpack_size(),
        message.options["redis_message_id"],
        _encoded(message),
    ]


def _execute(broker: RedisBroker, calls: list[list[Any]], along: Sequence[wire.Command]) -> list[Any]:
    """Run the broker's script for all calls in one round trip, and what goes along with it, whose answers it returns.
    After a SCRIPT FLUSH, those that found no script have done nothing and are repeated."""
    dispatch = broker.scripts["dispatch"]
    for last_try in (False, True):
        commands = [("EVALSHA", dispatch.sha, 1, broker.namespace, *arguments) for arguments in calls]
        answers = wire.send(broker.client, [*commands, *along])
        answers, others = answers[: len(calls)], answers[len(calls) :]
        errors = [answer for answer in answers if isinstance(answer, Exception)]
        calls = [call for call, answer in zip(calls, answers, strict=True) if isinstance(answer, NoScriptError)]
        if len(errors) > len(calls) or (last_try and errors):
            raise next(error for error in errors if last_try or not isinstance(error, NoScriptError))
        if not calls:
            break
        broker.client.script_load(dispatch.script)
    return others


def _announce(broker: Broker, when: Literal["before", "after"], prepared: Sequence[Outgoing]) -> None:
    emit = broker.emit_before if when == "before" else broker.emit_after
    if _is_awaited(broker, f"{when}_enqueue"):
        for message, delay in prepared:
            emit("enqueue", message, delay)


def _is_awaited(broker: Broker, hook: str) -> bool:
    """Whether any middleware does something there: calling 10 empty methods costs more than sending a message."""
    return any(getattr(type(middleware), hook) is not getattr(Middleware, hook) for middleware in broker.middleware)
