"""What a clutch is made of: steps and stages; and what becomes of Dramatiq's own compositions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Union

from dramatiq import Actor, Broker, GenericActor, Message, group, pipeline

from .plan import changed

#: A class-based actor is a class only to the eyes of a type checker.
AnyActor = Actor[..., Any] | GenericActor | type[GenericActor]
Source = Callable[[], "Iterable[Step]"]
Step = Union[Message[Any], AnyActor, pipeline, group, "Description"]

ACCEPTED = "a message (actor.message(...)), an actor, a Clutch, or a Dramatiq pipeline or group"


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a clutch, as it was written. Each member is a message or the description of a nested run; those of a
    stage with a `source` are what that returns when the clutch is run."""

    members: tuple[Message[Any] | Description, ...]
    many: bool = False
    mapped: bool = False
    tolerant: bool = False
    piped: bool = False
    limit: int | None = None
    source: Source | None = None

    def read(self) -> Iterator[Message[Any] | Description]:
        """The members. Raises TypeError for what isn't a step."""
        if self.source is None:
            yield from self.members
            return
        name = name_of(self.source)
        steps: Any = self.source()
        if not isinstance(steps, Iterable):
            raise TypeError(f"{name}() was given to parallel() and must return an iterable of steps, not {steps!r}")
        for step in steps:
            member = to_member(step, what=f"parallel({name})")
            yield member.fed() if self.piped and isinstance(member, Description) else member


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """Stages, and what is sent when they have succeeded. `composed`: it was a Dramatiq composition, whose first
    messages are to get the value that they are piped or mapped."""

    queue: str | None = None
    name: str | None = None
    stages: tuple[Stage, ...] = ()
    completions: tuple[Message[Any], ...] = ()
    composed: bool = False

    def fed(self) -> Description:
        """The same, for a place where a value is piped or mapped into it."""
        if not self.composed or not self.stages:
            return self
        first, *others = self.stages
        members = tuple(member.fed() if isinstance(member, Description) else member for member in first.members)
        return replace(self, stages=(replace(first, members=members, piped=True), *others))


def name_of(source: Source) -> str:
    return str(getattr(source, "__qualname__", type(source).__qualname__))


def is_step(value: object) -> bool:
    return isinstance(value, Message | Actor | GenericActor | Description | pipeline | group)


def to_member(step: Any, *, what: str) -> Message[Any] | Description:
    """A step as a stage holds it. Raises TypeError, naming what was given."""
    if isinstance(step, Description):
        return step
    if isinstance(step, pipeline):
        return _from_pipeline(step)
    if isinstance(step, group):
        return _from_group(step)
    return to_message(step, what=what, accepted=ACCEPTED)


def to_message(step: Any, *, what: str, accepted: str) -> Message[Any]:
    """A copy of the message, or the actor's message without arguments. Raises TypeError, naming what was given."""
    if isinstance(step, Message):
        return _plain(step)
    if isinstance(step, Actor | GenericActor):
        actor: Any = step  # a GenericActor hands on what its actor has
        message: Message[Any] = actor.message()
        return message
    raise TypeError(f"{what} takes {accepted}, not {step!r}")


def members_of(steps: tuple[Any, ...], *, what: str) -> tuple[Message[Any] | Description, ...]:
    """The members of a parallel stage: steps, or one iterable of steps, which is read at once."""
    given: Iterable[Any] = steps
    if len(steps) == 1 and not is_step(steps[0]):
        (only,) = steps
        if isinstance(only, str | bytes | dict) or not isinstance(only, Iterable):
            raise TypeError(
                f"{what} takes steps, one iterable of steps, or one callable that returns one, not {only!r}; "
                f"a step is {ACCEPTED}"
            )
        given = only
    return tuple(to_member(step, what=what) for step in given)


def _plain(message: Message[Any]) -> Message[Any]:
    """A copy without `pipe_target`, or Dramatiq would send the next step as well."""
    return changed(message, options={name: value for name, value in message.options.items() if name != "pipe_target"})


def _from_pipeline(composition: pipeline) -> Description:
    """A series whose results are piped. `pipe_ignore` counts on the step and on the actor before it."""
    stages: list[Stage] = []
    for index, message in enumerate(composition.messages):
        plain = _plain(message)
        if index and _produces_nothing(composition.broker, composition.messages[index - 1]):
            plain = plain.copy(options={"pipe_ignore": True})
        stages.append(Stage((plain,), piped=index > 0))
    return Description(stages=tuple(stages), composed=True)


def _from_group(composition: group) -> Description:
    members = tuple(to_member(child, what="a group") for child in composition.children)
    completions = tuple(_plain(Message(**message)) for message in composition.completion_callbacks)
    return Description(stages=(Stage(members, many=True),), completions=completions, composed=True)


def _produces_nothing(broker: Broker, message: Message[Any]) -> bool:
    actor = broker.actors.get(message.actor_name)
    return actor is not None and bool(actor.options.get("pipe_ignore"))
