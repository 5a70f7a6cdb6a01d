"""Stages, and descriptions of work that are made of stages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..durations import Duration, in_words, milliseconds
from ..shortening import MOST_SHOWN, shortened
from .encoded import Encoded

#: How many levels of clutches and compositions may be nested in a clutch. Python's recursion limit leaves room for so
#: many, wherever they are written, drawn or pickled. (Runs that jobs nest while they run aren't counted.)
MOST_LEVELS = 100

#: How many kinds of members a `repr` names in a stage.
MOST_KINDS = 3


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
    source: Callable[[], Iterable[Any]] | None = None
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


def name_of(source: Callable[[], Any]) -> str:
    return str(getattr(source, "__qualname__", type(source).__qualname__))
