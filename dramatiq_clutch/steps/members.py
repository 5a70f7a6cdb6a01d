"""What becomes of a step: a member of a stage, also of a Dramatiq pipeline or group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Union
from weakref import ref

from dramatiq import Broker, Message, group, pipeline

from ..signatures import Extra, check_call, piped
from .actors import AnyActor, PartialActor, actor_of, known_brokers, message_of
from .encoded import Encoded, encoded
from .once import read_once
from .stages import Composition, Description, Stage, check_levels, fed, name_of

if TYPE_CHECKING:
    from ..typed import Typed

Step = Union[Message[Any], AnyActor, PartialActor, pipeline, group, Description, "Typed[Any]"]
Source = Callable[[], Iterable[Step]]

ACCEPTED = (
    "a message (actor.message(...)), an actor, functools.partial(actor, ...), a Clutch, or a Dramatiq pipeline or group"
)


class Given(NamedTuple):
    """How steps were given: `what`, the text of an error, says where; `broker` is the one that they will be run on, if
    that is certain; `brokers` are those that may know their actors; `extra` is what they get beside their own
    arguments."""

    what: str
    broker: Broker | None
    brokers: tuple[Broker, ...]
    extra: Extra | None = None


def is_step(value: object) -> bool:
    return isinstance(value, Description | pipeline | group) or message_of(value) is not None


def to_member(step: Any, given: Given, level: int = 0) -> Encoded | Description:
    """A step as a stage holds it. `level` is the level on which it is nested. Raises TypeError for what isn't a step,
    or doesn't fit its actor, and ValueError for too many levels."""
    if isinstance(step, Description):
        return step
    if isinstance(step, pipeline):
        return _from_pipeline(step, given)
    if isinstance(step, group):
        return _from_group(step, given, level + 1)
    return to_encoded(step, given, accepted=ACCEPTED)


def to_encoded(step: Any, given: Given, *, accepted: str) -> Encoded:
    """The message that a step says, encoded (see `message_of`). Raises TypeError for anything else, where `accepted` is
    taken, and for a message that its actor can't be called with; and ValueError for an actor of another broker."""
    message = message_of(step)
    if message is None:
        raise TypeError(f"{given.what} takes {accepted}, not {step!r}")
    actor = actor_of(step, message, given.brokers)
    if actor is None:
        return encoded(message, what=given.what)
    found = encoded(message, what=given.what, home=ref(actor.broker))
    if given.broker is not None:
        found.check_broker(given.broker, what=given.what)
    check_call(actor, message, given.extra, what=given.what)
    return found


def members_of(steps: tuple[Any, ...], given: Given) -> tuple[Encoded | Description, ...]:
    """The members of a parallel stage: steps, or one iterable of steps, which is read at once."""
    what, each = given.what, iter(steps)
    if len(steps) == 1 and not is_step(steps[0]):
        (only,) = steps
        if isinstance(only, str | bytes | dict) or not isinstance(only, Iterable):
            raise TypeError(
                f"{what} takes steps, one iterable of steps, or one callable that returns one, not {only!r}; "
                f"a step is {ACCEPTED}"
            )
        each = read_once(only, what=f"{what} was given")
    return tuple(to_member(step, given) for step in each)


def members_in(stage: Stage, broker: Broker) -> Iterator[Encoded | Description]:
    """Yields the members of a stage, for a run on this broker. Raises TypeError for what isn't a step, or doesn't fit
    its actor, and ValueError for an iterator that is used up."""
    if stage.source is None:
        yield from stage.members
        return
    name = name_of(stage.source)
    steps: Any = stage.source()
    if not isinstance(steps, Iterable):
        raise TypeError(f"{name}() was given to parallel() and must return an iterable of steps, not {steps!r}")
    given = Given(f"parallel({name})", broker, known_brokers(broker), piped(stage.into) if stage.piped else None)
    for step in read_once(steps, what=f"{name}() was given to parallel() and has returned"):
        member = to_member(step, given)
        yield fed(member, stage.into) if stage.piped else member


# Compositions


def _from_pipeline(composition: pipeline, given: Given) -> Description:
    """A Dramatiq pipeline as a description: a series in which each step's result is piped into the next one. As in
    Dramatiq, a step doesn't get it if the step, or the actor of the step before, has the option `pipe_ignore`."""
    stages: list[Stage] = []
    first, later = _inside(given, "a pipeline"), given._replace(what="a pipeline", extra=piped())
    for index, message in enumerate(composition.messages):
        if index and _produces_nothing(composition.broker, composition.messages[index - 1]):
            message = message.copy(options={"pipe_ignore": True})
        member = to_encoded(message, later if index else first, accepted=ACCEPTED)
        stages.append(Stage((member,), piped=index > 0))
    return Composition(stages=tuple(stages))


def _from_group(composition: group, given: Given, level: int) -> Description:
    check_levels(level)
    inside, after = _inside(given, "a group"), given._replace(what="a group", extra=None)
    members = tuple(to_member(child, inside, level) for child in composition.children)
    completions = (
        to_encoded(Message(**message), after, accepted=ACCEPTED) for message in composition.completion_callbacks
    )
    return Composition(stages=(Stage(members, many=True),), completions=tuple(completions))


def _inside(given: Given, what: str) -> Given:
    """How the first messages of a composition are given: they get what the composition gets, and as by `pipe`, also
    where that is an item."""
    extra = given.extra
    return given._replace(what=what, extra=None if extra is None else replace(extra, ignorable=True))


def _produces_nothing(broker: Broker, message: Message[Any]) -> bool:
    actor = broker.actors.get(message.actor_name)
    return actor is not None and bool(actor.options.get("pipe_ignore"))
