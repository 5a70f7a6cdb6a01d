"""Messages to the broker, many at a time, with every hook of every middleware called for every message."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeGuard
from uuid import uuid4

from dramatiq import Broker, Message, Middleware
from dramatiq.brokers.redis import RedisBroker
from dramatiq.common import current_millis, dq_name
from dramatiq.errors import ConnectionClosed, ConnectionFailed
from redis.exceptions import NoScriptError, RedisError

from . import wire
from .backend import Confirmation, Duty, Onward
from .errors import BrokerUnavailable
from .outages import way_out
from .plan import changed

#: How many messages travel in one round trip.
CHUNK = 500

Outgoing = tuple[Message[Any], int | None]


def send(broker: Broker, outgoing: Sequence[Outgoing], confirmation: Confirmation | None = None) -> bool:
    """Enqueue messages, each with its delay in milliseconds (or None).

    A `RedisBroker` takes them in one round trip a chunk, through its own script; any other broker, and a subclass with
    an `enqueue` of its own, one by one. A few take the `confirmation` of their duty along. Returns whether it has been
    confirmed. Raises BrokerUnavailable if the broker is away: some may have been sent then.
    """
    confirmed = False
    with translated():
        if is_plain(broker):
            for at in range(0, len(outgoing), CHUNK):
                chunk = outgoing[at : at + CHUNK]
                confirmed = _send_pipelined(broker, chunk, confirmation if len(outgoing) < wire.FEW else None)
        else:
            for message, delay in outgoing:
                broker.enqueue(message, delay=delay)
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
    """Turn the errors of a broker that is away into BrokerUnavailable; waiting cures those, and only those."""
    try:
        yield
    except (ConnectionClosed, ConnectionFailed) as error:
        raise BrokerUnavailable(f"the broker can't be reached: {error}") from error
    except RedisError as error:
        hint = way_out(error)
        if hint is None:
            raise
        raise BrokerUnavailable(f"the broker can't be used for now ({hint}): {error}") from error


def _send_pipelined(broker: RedisBroker, outgoing: Sequence[Outgoing], confirmation: Confirmation | None) -> bool:
    prepared = [_prepare(message, delay) for message, delay in outgoing]
    _announce(broker, "before", prepared)
    queues = {message.queue_name for message, _ in prepared}
    along: list[wire.Command] = []
    if confirmation is not None and len(queues) == 1:
        ids = [message.options["redis_message_id"] for message, _ in prepared]
        along.append(confirmation(f"{broker.namespace}:{queues.pop()}", ids))
    (answer,) = _execute(broker, [_arguments(broker, message) for message, _ in prepared], along) or [None]
    _announce(broker, "after", prepared)
    return answer in (b"confirmed", b"lost")


def _prepare(message: Message[Any], delay: int | None) -> Outgoing:
    """What `RedisBroker.enqueue` does to a message: an id of its own for each copy, and an eta if it is delayed."""
    in_queue = own_copy(message.message_id) + uuid4().hex[:12]
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
        message.encode(),
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
    """Call the hooks, if any middleware does something there: 10 empty methods cost more than sending a message."""
    hook, emit = f"{when}_enqueue", broker.emit_before if when == "before" else broker.emit_after
    if any(getattr(type(middleware), hook) is not getattr(Middleware, hook) for middleware in broker.middleware):
        for message, delay in prepared:
            emit("enqueue", message, delay)
