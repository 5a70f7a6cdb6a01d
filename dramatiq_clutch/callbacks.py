"""Callbacks as a user gives them: checked and encoded at once, and made rows of a plan when a clutch is run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from dramatiq import Broker, Message
from dramatiq.errors import ActorNotFound

from .shortening import shortened
from .signatures import RESULT_AND_STATUS, STATUS
from .steps import AnyActor, Description, Encoded, Given, PartialActor, known_brokers, to_encoded
from .stored.messages import row_with_result

#: The callbacks that a user sets, by the names of their options.
CALLBACKS = ("on_failure", "on_death", "on_success", "on_failed", "on_finish")

#: How many callbacks an event may have. The transition that fires the event notes each of them.
MOST_CALLBACKS = 100

ACCEPTED = "an actor, functools.partial(actor, ...), a message or an actor's name; or a list of these"


@dataclass(frozen=True, slots=True)
class WithResult:
    """A callback that gets the run's result, too: see `with_result`."""

    callback: Any

    @property
    def actor_name(self) -> str:
        return f"with_result({getattr(self.callback, 'actor_name', self.callback)})"


#: How a user gives a callback. A message or an actor, perhaps with some of its arguments, is encoded at once and kept
#: so; a name is kept as it is.
Callback: TypeAlias = Message[Any] | AnyActor | PartialActor | str | Encoded

#: What an option takes: one callback, or several; and `on_success` also those that get the result.
Callbacks: TypeAlias = Callback | Sequence[Callback]
OnSuccess: TypeAlias = Callback | WithResult | Sequence[Callback | WithResult]

#: A callback as it is kept. A `WithResult` holds one of the others.
Kept: TypeAlias = Encoded | str | WithResult


def with_result(callback: Callback) -> WithResult:
    """A callback for `on_success` that gets the run's result as the argument before its status:
    ``Clutch(on_success=[with_result(partial(store, "facts")), notify])`` calls ``store("facts", result, status)`` and
    ``notify(status)``. The result is what `Run.get_result()` gives: a value, or a list after a `parallel` or `map`.

    It wraps one callback, because of several only some may want the result; and the status still comes last, as with
    every callback, so that an actor that is given the result can tell which run it is of. (What is to get the result
    alone is better the last stage: ``.then(store, pipe=True)``. Then it is part of the run, whose result it makes.)

    The result travels in the callback's message. One that is larger than the broker takes can't be sent, which
    `Run.status()` then tells in `error`; in a callback for such a run, use ``Run(status["run_id"]).get_result()``.
    """
    return WithResult(callback)


def kept(callbacks: OnSuccess | None, given: Given, *, event: str) -> tuple[Kept, ...] | None:
    """The callbacks of an event as a clutch keeps them; None if the option isn't set. Raises TypeError for what is no
    callback, or doesn't fit its actor, and ValueError for too many of them, for an actor of another broker, or for a
    result that the event doesn't have."""
    if callbacks is None:
        return None
    several: Sequence[Any] = callbacks if isinstance(callbacks, list | tuple) else (callbacks,)
    if len(several) > MOST_CALLBACKS:
        raise ValueError(f"{given.what} takes at most {MOST_CALLBACKS} callbacks, not {len(several):,}")
    if event != "on_success" and any(isinstance(one, WithResult) for one in several):
        raise ValueError(f"{given.what} takes no with_result(...): there is a result only for on_success")
    return tuple(_kept(one, given._replace(extra=STATUS)) for one in several)


def _kept(callback: Any, given: Given) -> Kept:
    if isinstance(callback, WithResult) and not isinstance(callback.callback, WithResult):
        return WithResult(_kept(callback.callback, given._replace(extra=RESULT_AND_STATUS)))
    return callback if isinstance(callback, str | Encoded) else to_encoded(callback, given, accepted=ACCEPTED)


def own(description: Description) -> dict[str, tuple[Kept, ...]]:
    """The callbacks that a description sets, by event. Those of a Dramatiq composition are none."""
    found = ((event, getattr(description, event, None)) for event in CALLBACKS)
    return {event: callbacks for event, callbacks in found if callbacks is not None}


def rows_of(callbacks: Iterable[Kept], broker: Broker, *, what: str, queue: str | None) -> tuple[bytes, ...]:
    """The rows of callbacks, for a run on this broker, and for this `queue` if one is given. Raises ActorNotFound for a
    name that nobody has declared, TypeError for an actor that can't take what it would get, and ValueError for an actor
    of another broker."""
    given = Given(what, broker, known_brokers(broker), STATUS)
    return tuple(_row(callback, given, broker, queue) for callback in callbacks)


def _row(callback: Kept, given: Given, broker: Broker, queue: str | None) -> bytes:
    if isinstance(callback, WithResult):
        return row_with_result(_row(callback.callback, given._replace(extra=RESULT_AND_STATUS), broker, queue))
    if isinstance(callback, str):
        try:
            actor = broker.get_actor(callback)
        except ActorNotFound:
            text = f"{given.what} names the actor {callback!r}, which nobody has declared"
            raise ActorNotFound(text) from None
        callback = to_encoded(actor, given, accepted=ACCEPTED)
    callback.check_broker(broker, what=given.what)
    return callback.row(queue=queue)


def shown(callbacks: Sequence[Kept]) -> str:
    """Callbacks as a `repr` shows them: the actors' names; in brackets unless there is one."""
    names = [shortened(str(getattr(callback, "actor_name", callback)), 20) for callback in callbacks]
    return names[0] if len(names) == 1 else shortened(f"[{', '.join(names)}]", 60)


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the middleware sets for runs whose clutches don't: the callbacks, by event, and the queue of callbacks."""

    callbacks: Mapping[str, tuple[Kept, ...]] = field(default_factory=dict)
    queue: str | None = None

    def __bool__(self) -> bool:
        return bool(self.callbacks or self.queue)

    @classmethod
    def of(cls, callbacks: Mapping[str, OnSuccess | None], queue: str | None) -> Defaults:
        """Those that are given to the middleware. Raises what `kept` raises."""
        given = Given("ClutchMiddleware()", None, known_brokers(None))
        each = {
            event: kept(several, given._replace(what=f"ClutchMiddleware({event}=...)"), event=event)
            for event, several in callbacks.items()
        }
        return cls({event: several for event, several in each.items() if several}, queue)

    def settings(self) -> Iterable[str]:
        """What is set, as the middleware's `repr` shows it."""
        yield from (f"{event}={shown(several)}" for event, several in self.callbacks.items())
        if self.queue is not None:
            yield f"callback_queue={self.queue!r}"
