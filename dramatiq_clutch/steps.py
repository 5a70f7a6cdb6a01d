"""What a clutch is made of: steps and stages. Dramatiq's own compositions are turned into these here."""

from __future__ import annotations

import reprlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import GeneratorType
from typing import Any, NamedTuple, Union
from weakref import ref

import dramatiq.broker
from dramatiq import Actor, Broker, Encoder, GenericActor, Message, get_encoder, group, pipeline

from .durations import Duration, in_words, milliseconds
from .signatures import Extra, check_call, piped
from .stored.formats import MESSAGE
from .stored.plan import changed, to_row

#: At run time a class-based actor is an instance of GenericActor; a type checker sees its class.
AnyActor = Actor[..., Any] | GenericActor | type[GenericActor]

#: An actor with some of its arguments, ``functools.partial(actor, 1, page=2)``. A type checker lets others be missing;
#: in `actor.message(...)` it doesn't, because that is typed like a call of the actor.
PartialActor = partial[Any]

Source = Callable[[], "Iterable[Step]"]
Step = Union[Message[Any], AnyActor, PartialActor, pipeline, group, "Description"]

ACCEPTED = (
    "a message (actor.message(...)), an actor, functools.partial(actor, ...), a Clutch, or a Dramatiq pipeline or group"
)

#: How many levels of clutches and compositions may be nested in a clutch. Python's recursion limit leaves room for so
#: many, wherever they are written, drawn or pickled. (Runs that jobs nest while they run aren't counted.)
MOST_LEVELS = 100

#: How many characters a `repr` has at most; and how many kinds of members it names in a stage.
MOST_SHOWN, MOST_KINDS = 200, 3

#: The options that brokers give a message when it is sent: a RedisBroker to each, every broker to one with a delay.
MARKS_OF_SENT = ("redis_message_id", "eta")

#: How many iterators are remembered as read that don't allow weak references.
MOST_KEPT = 100


class Given(NamedTuple):
    """How steps were given: `what`, the text of an error, says where; `broker` is the one that they will be run on, if
    that is certain; `brokers` are those that may know their actors; `extra` is what they get beside their own
    arguments."""

    what: str
    broker: Broker | None
    brokers: tuple[Broker, ...]
    extra: Extra | None = None


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


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a clutch, as it was written. Each member is a message or the description of a nested run. A stage
    with a `source` gets its members by calling that when the clutch is run. The other fields are those of
    `stored.plan.StageLine`. `levels` is how many levels are nested in its members.

    Raises ValueError for too many levels.
    """

    members: tuple[Encoded | Description, ...]
    many: bool = False
    mapped: bool = False
    tolerant: bool = False
    piped: bool = False
    limit: int | None = None
    into: str | None = None
    fail_fast: bool = False
    allowed: int | float | None = None
    enough: int | None = None
    wait: int = 0
    deadline: int | None = None
    name: str | None = None
    source: Source | None = None
    levels: int = field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        levels = max((levels_of(member) + 1 for member in self.members if isinstance(member, Description)), default=0)
        check_levels(levels)
        object.__setattr__(self, "levels", levels)

    def __repr__(self) -> str:
        return shortened(f"<Stage {self}>")

    def __str__(self) -> str:
        """The stage much as it was written, with counts instead of all members: ``parallel(1,000 of fetch)``."""
        if self.source is not None:
            inside = [f"{name_of(self.source)}()"]
        else:
            kinds = Counter(shortened(label_of(member), 40) for member in self.members)
            shown = list(kinds.items())[:MOST_KINDS]
            inside = [label if count == 1 else f"{count:,} of {label}" for label, count in shown]
            others = len(self.members) - sum(count for _, count in shown)
            inside += [f"{others:,} more"] if others else []
        inside += [f"{name}={value}" for name, value in self.settings()]
        before = f"{_waiting(self.wait)}, " if self.wait else ""
        return before + f"{'map' if self.mapped else 'parallel' if self.many else 'then'}({', '.join(inside)})"

    def settings(self) -> Iterator[tuple[str, Any]]:
        """What was said of the stage as a whole, by the names of the options."""
        allowed = True if self.tolerant else self.allowed
        options = {"limit": self.limit, "allow_failures": allowed, "enough": self.enough, "deadline": self.deadline}
        yield from ((name, value) for name, value in options.items() if value is not None)
        if self.fail_fast:
            yield "fail_fast", True
        if self.name is not None:
            yield "name", shortened(repr(self.name), 40)

    def read(self, broker: Broker) -> Iterator[Encoded | Description]:
        """Yields the members, for a run on this broker. Raises TypeError for what isn't a step, or doesn't fit its
        actor, and ValueError for an iterator that is used up."""
        if self.source is None:
            yield from self.members
            return
        name = name_of(self.source)
        steps: Any = self.source()
        if not isinstance(steps, Iterable):
            raise TypeError(f"{name}() was given to parallel() and must return an iterable of steps, not {steps!r}")
        given = Given(f"parallel({name})", broker, known_brokers(broker), piped(self.into) if self.piped else None)
        for step in read_once(steps, what=f"{name}() was given to parallel() and has returned"):
            member = to_member(step, given)
            yield fed(member, self.into) if self.piped else member


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A description of work, in stages. What is public here is what a user sees of a clutch."""

    queue: str | None = None
    name: str | None = None
    deadline: Duration | None = None
    stages: tuple[Stage, ...] = ()
    pending: int = 0
    context: Mapping[str, Any] | None = None

    def __repr__(self) -> str:
        """What it is made of, in short, however large it is: how many stages, and each of them in a few words."""
        count = len(self.stages)
        stages = "no stages" if not count else "1 stage: " if count == 1 else f"{count:,} stages: "
        written = [*map(str, self.stages[:MOST_SHOWN]), *([_waiting(self.pending)] if self.pending else [])]
        stages += ", ".join(written)
        return shortened(f"{type(self).__name__}({', '.join([*self._settings(), stages])})")

    def _settings(self) -> Iterator[str]:
        """What holds for all stages, as `repr` shows it."""
        if self.name is not None:
            yield f"name={shortened(repr(self.name), 40)}"
        if self.queue is not None:
            yield f"queue={shortened(repr(self.queue), 40)}"
        if self.deadline is not None:
            yield f"deadline={self.deadline}"
        if self.context is not None:
            yield f"context={{{shortened(', '.join(self.context), 40)}}}"  # values may be none of a log's business


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Composition(Description):
    """A Dramatiq pipeline or group, with the messages (`completions`) that a group sends when it has completed. If a
    value is piped or mapped into one, its first messages get the value as an argument."""

    completions: tuple[Encoded, ...] = ()


def label_of(member: Encoded | Description) -> str:
    """How a member is named where its stage is shown."""
    if isinstance(member, Encoded):
        return member.actor_name
    if isinstance(member, Composition):
        return "group" if member.stages and member.stages[0].many else "pipeline"
    return f"{type(member).__name__}({member.name!r})" if member.name is not None else type(member).__name__


def levels_of(description: Description) -> int:
    """How many levels of descriptions are nested in this one."""
    return max((stage.levels for stage in description.stages), default=0)


def soonest_of(description: Description) -> int | None:
    """The shortest deadline of a description and its stages, in milliseconds; None if there is none."""
    known = (description.deadline, *(stage.deadline for stage in description.stages))
    return min((milliseconds(one, "deadline") for one in known if one is not None), default=None)


def fed(member: Encoded | Description, into: str | None) -> Encoded | Description:
    """The same member, for a place where a value is piped or mapped into it, as the keyword argument `into` or
    appended. Raises ValueError for a clutch that is to get the value by a name, and for a message that has that
    argument already."""
    if isinstance(member, Encoded):
        return member.fed(into)
    if into is not None and not isinstance(member, Composition):
        raise ValueError(
            f"a nested clutch takes no argument {into!r}: its first stage finds the value by previous_results()"
        )
    if not isinstance(member, Composition) or not member.stages:
        return member
    first, *others = member.stages
    members = tuple(fed(one, into) for one in first.members)
    return replace(member, stages=(replace(first, members=members, piped=True, into=into), *others))


def check_levels(levels: int) -> None:
    """Raises ValueError for more levels than can be nested."""
    if levels > MOST_LEVELS:
        raise ValueError(
            f"more than {MOST_LEVELS} levels of clutches, pipelines and groups can't be nested in each other; "
            "a job can start what is nested more deeply while it runs, with nest()"
        )


def _waiting(wait: int) -> str:
    return f"wait({in_words(wait)})"


def shortened(text: str, most: int = MOST_SHOWN) -> str:
    """A text of `most` characters at most: the middle of a longer one is left out."""
    end = most // 4
    return text if len(text) <= most else f"{text[: most - end - 1]}…{text[-end:]}"


def name_of(source: Source) -> str:
    return str(getattr(source, "__qualname__", type(source).__qualname__))


def is_step(value: object) -> bool:
    return isinstance(value, Description | pipeline | group) or message_of(value) is not None


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


# Messages


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


# Iterators


def read_once(steps: Iterable[Any], *, what: str) -> Iterator[Any]:
    """An iterator over the steps of an iterable. Raises ValueError if that is itself an iterator that was read before,
    here or elsewhere: it holds only a rest of the steps, and mostly none."""
    iterator = iter(steps)
    is_over = isinstance(iterator, GeneratorType) and iterator.gi_frame is None
    if is_over or (iterator is steps and not _begins(iterator)):
        raise ValueError(
            f"{what} an iterator that is used up, or has been read before: {reprlib.repr(steps)}. "
            "Give a list, or a new iterator each time"
        )
    return iterator


#: The iterators that have been read, by their ids. The value is a weak reference, whose callback removes the entry when
#: the iterator is gone; or a tuple with the iterator, if it allows no weak reference. It is changed only by single
#: operations of a dict, which need no lock: several threads may change it, and one of them may fork.
_begun: dict[int, Any] = {}

#: The tuples among these values, the oldest first.
_kept: deque[tuple[Any]] = deque()


def _begins(iterator: Iterator[Any]) -> bool:
    """Remember that an iterator is read. Returns whether this is the first time."""
    key, mark = id(iterator), (iterator,)
    try:
        reference: Any = ref(iterator, lambda _: _begun.pop(key, None))
    except TypeError:
        if _begun.setdefault(key, mark) is not mark:
            return False
        _kept.append(mark)
        if len(_kept) > MOST_KEPT:
            _begun.pop(id(_kept.popleft()[0]), None)
        return True
    return _begun.setdefault(key, reference) is reference
