"""A message as the user gave it, encoded at once."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import ref

from dramatiq import Broker, Encoder, Message, get_encoder

from ..stored.formats import MESSAGE
from ..stored.messages import changed, to_row

#: The options that brokers give a message when it is sent: a RedisBroker to each, every broker to one with a delay.
MARKS_OF_SENT = ("redis_message_id", "eta")


class Handle:
    """The base class of a run's handle. It is here, so that handles can be found among a message's arguments."""

    run_id: str


@dataclass(frozen=True, slots=True)
class Encoded:
    """A message, encoded when the user gave it. So it makes no difference if, say, a list among its arguments is
    changed later. `home` is the broker that the actor was declared on, as far as that is known in this process."""

    actor_name: str
    data: bytes = field(repr=False)
    encoder: Encoder = field(repr=False, compare=False)
    home: ref[Broker] | None = field(default=None, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.actor_name, self.data, self.encoder)  # another process has other brokers

    def row(self, *, queue: str | None = None) -> bytes:
        """The message as a row of a plan, for this `queue` if one is given. If Dramatiq's encoder was changed since the
        message was encoded, it is decoded by the old one and encoded by the new one."""
        if queue is None and self.encoder is get_encoder():
            return self.data
        message = self._message()
        return to_row(message if queue is None else changed(message, queue_name=queue))

    def fed(self, into: str | None) -> Encoded:
        """The same message, for a place where it gets a value, as the keyword argument `into` or appended. Raises
        ValueError if it has that argument already."""
        if into is not None and into in self._message().kwargs:
            raise ValueError(
                f"the message to {self.actor_name!r} has an argument {into!r} already, so it can't get the result of "
                "the stage before under that name"
            )
        return self

    def check_broker(self, broker: Broker, *, what: str) -> None:
        """Raises ValueError if a run on this broker wouldn't find the actor, because it belongs to another broker. An
        actor that nobody in this process knows may be declared where the workers are."""
        home = None if self.home is None else self.home()
        if home is None or home is broker or self.actor_name in broker.actors:
            return
        raise ValueError(
            f"{what} takes no message to {self.actor_name!r}, because that actor belongs to another broker (a "
            f"{type(home).__name__}) than the clutch is run on (a {type(broker).__name__}), whose workers don't know "
            "it. Say Clutch(broker=...) with the actor's broker, or declare the actor on the other one: "
            "@dramatiq.actor(broker=...)"
        )

    def _message(self) -> Message[Any]:
        return Message(**self.encoder.decode(self.data.removeprefix(MESSAGE)))


def encoded(message: Message[Any], *, what: str, home: ref[Broker] | None = None) -> Encoded:
    """The message, encoded now, and without its option `pipe_target`, by which Dramatiq would send the next step, too.
    Raises TypeError for an argument that can't be encoded, and for a run's handle among the arguments; and ValueError
    for a message that was sent, as far as brokers mark these."""
    if not message.options.keys().isdisjoint(MARKS_OF_SENT):
        raise ValueError(
            f"{what} takes no message to {message.actor_name!r} that was sent already, because it would be done twice: "
            f"write {message.actor_name}.message(...) instead of .send(...), or message_with_options(...) instead of "
            "send_with_options(...)"
        )
    handle = next((place for place, value in _values(message) if _holds_a_handle(value)), None)
    if handle is not None:
        raise TypeError(
            f"{what} takes no message to {message.actor_name!r} with a run's handle in its {handle}: pass run.run_id, "
            "and make a handle of that in the actor, Run(run_id)"
        )
    if "pipe_target" in message.options:
        options = {name: value for name, value in message.options.items() if name != "pipe_target"}
        message = changed(message, options=options)
    encoder = get_encoder()
    try:
        return Encoded(message.actor_name, to_row(message), encoder, home)
    except Exception as error:  # an encoder may raise anything
        raise TypeError(_complaint(message, encoder, error, what)) from error


def _values(message: Message[Any]) -> Iterator[tuple[str, Any]]:
    """Yields the values in a message that an encoder may fail at, each with the name of its place."""
    for index, value in enumerate(message.args):
        yield f"args[{index}]", value
    for name, value in message.kwargs.items():
        yield f"kwargs[{name!r}]", value
    for name, value in message.options.items():
        yield f"options[{name!r}]", value


def _holds_a_handle(value: Any) -> bool:
    """Whether a value is a run's handle, or a list, tuple or dict with a handle in it. One that is nested more deeply
    isn't found here, but by the encoder."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return isinstance(value, Handle)
    return any(issubclass(kind, Handle) for kind in set(map(type, value)))


def _complaint(message: Message[Any], encoder: Encoder, error: Exception, what: str) -> str:
    """The text of an error that names the argument that can't be encoded: the first one that can't be encoded alone."""
    place, culprit = "content", ""
    for place_of_value, value in _values(message):
        try:
            to_row(changed(message, args=(value,), kwargs={}, options={}))
        except Exception as own_error:
            place, culprit, error = place_of_value, f", {reprlib.repr(value)}", own_error
            break
    return (
        f"{what} takes no message to {message.actor_name!r} that {type(encoder).__name__} can't encode. "
        f"Its {place}{culprit}: {error}"
    )
