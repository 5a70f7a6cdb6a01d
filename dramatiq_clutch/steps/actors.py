"""The actor that a step says, as far as it is known, and the message to it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import dramatiq.broker
from dramatiq import Actor, Broker, GenericActor, Message

from ..stored.messages import changed

#: At run time a class-based actor is an instance of GenericActor; a type checker sees its class.
AnyActor = Actor[..., Any] | GenericActor | type[GenericActor]

#: An actor with some of its arguments, ``functools.partial(actor, 1, page=2)``. A type checker lets others be missing;
#: in `actor.message(...)` it doesn't, because that is typed like a call of the actor.
PartialActor = partial[Any]


def message_of(value: object) -> Message[Any] | None:
    """The message that a value says: it is one; or it is an actor, or an actor with some of its arguments, and the
    message has these. None for anything else, also for a partial of something that isn't an actor."""
    if isinstance(value, Message):
        return value
    if isinstance(value, Actor | GenericActor) or is_lazy_actor(value):
        actor: Any = value  # a GenericActor has the attributes of its actor
        message: Message[Any] = actor.message()
        return message
    if isinstance(value, partial):  # a partial with attributes of its own may hold another one
        begun = message_of(value.func)
        return begun and changed(begun, args=(*begun.args, *value.args), kwargs={**begun.kwargs, **value.keywords})
    return None


def is_lazy_actor(value: object) -> bool:
    """Whether a value stands for an actor which it declares once the application is set up, as those of flask-dramatiq
    do. It has the attributes of an actor, once that is declared."""
    return isinstance(getattr(value, "actor", None), Actor) and callable(getattr(value, "message", None))


def actor_of(step: Any, message: Message[Any], brokers: Iterable[Broker]) -> Any:
    """The actor that the `message` of a step is for, as far as it is known: by the step, or by one of the brokers.
    Otherwise None."""
    while isinstance(step, partial):
        step = step.func
    if not isinstance(step, Message):
        return step
    for broker in brokers:
        if message.actor_name in broker.actors:
            return broker.actors[message.actor_name]
    return None


def known_brokers(broker: Broker | None) -> tuple[Broker, ...]:
    """The brokers that may know the actors of a clutch: its own, then the global one, as far as there are any. Unlike
    Dramatiq's `get_broker`, this makes none."""
    either = (broker, dramatiq.broker.global_broker)
    return tuple(dict.fromkeys(one for one in either if one is not None))
