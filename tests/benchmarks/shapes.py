"""The pieces of work. Each is started by a method of the contender, which has the shape's name if nothing else is said,
and gets the shape's fields."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from tests.benchmarks.contender import Contender


class Shape(ABC):
    #: By which it is chosen.
    name: ClassVar[str]
    #: How often it is done, one after the other.
    turns: int = 1

    @property
    @abstractmethod
    def title(self) -> str: ...

    @property
    @abstractmethod
    def jobs(self) -> int:
        """How many jobs it is; in a fan the one at the end doesn't count."""

    @property
    @abstractmethod
    def answers(self) -> list[int]:
        """What has to come out."""

    @abstractmethod
    def few(self) -> Shape:
        """Less of it, of messages of the same size: to warm a worker, and to weigh messages."""

    @property
    def method(self) -> str:
        return self.name

    def start(self, contender: Contender) -> None:
        getattr(contender, self.method)(**vars(self))

    def suits(self, kind: type[Contender]) -> bool:
        return hasattr(kind, self.method)

    def expected(self, kind: type[Contender]) -> list[int]:
        return self.answers if kind.hands_on else [0] * len(self.answers)


@dataclass(frozen=True)
class Fan(Shape):
    name = "fan"
    count: int

    @property
    def title(self) -> str:
        return f"fan: {self.count:,} jobs side by side, and one that adds up what they return"

    @property
    def jobs(self) -> int:
        return self.count

    @property
    def answers(self) -> list[int]:
        return [sum(range(self.count))]

    def few(self) -> Fan:
        return Fan(20)


@dataclass(frozen=True)
class Series(Shape):
    name = "series"
    beside: int
    length: int

    @property
    def title(self) -> str:
        return f"series: {self.beside} side by side, each of {self.length} jobs that add 1 to the value before"

    @property
    def jobs(self) -> int:
        return self.beside * self.length

    @property
    def answers(self) -> list[int]:
        return [self.length] * self.beside

    def few(self) -> Series:
        return Series(1, self.length)


@dataclass(frozen=True)
class Nested(Shape):
    name = "nested"
    outer: int
    inner: int

    @property
    def title(self) -> str:
        return f"nested: {self.outer} side by side, each a fan of {self.inner} with its sum, and the sum of the sums"

    @property
    def jobs(self) -> int:
        return self.outer * (self.inner + 1) + 1

    @property
    def answers(self) -> list[int]:
        return [self.outer * sum(range(self.inner))]

    def few(self) -> Nested:
        return Nested(5, self.inner)


@dataclass(frozen=True)
class Small(Shape):
    name = "small"
    runs: int

    @property
    def title(self) -> str:
        return f"small: {self.runs} at once, each of three stages of three jobs, and a job that reports"

    @property
    def jobs(self) -> int:
        return self.runs * 10

    @property
    def answers(self) -> list[int]:
        return [0 + 1 + 2] * self.runs

    def few(self) -> Small:
        return Small(5)


@dataclass(frozen=True)
class Results(Shape):
    name = "results"
    count: int
    size: int

    @property
    def title(self) -> str:
        return f"results: {self.count:,} jobs that return {self.size / 1000:g} kB each, and one that reads them all"

    @property
    def jobs(self) -> int:
        return self.count

    @property
    def answers(self) -> list[int]:
        return [self.count * self.size]

    def few(self) -> Results:
        return Results(20, self.size)


class Gaps(Shape):
    """Work of which it is measured how long after the end of what it follows a job begins. There is nothing else to do
    meanwhile. Each answer is how many such gaps there have been."""

    name = "handover"

    @property
    def method(self) -> str:
        return type(self).__name__.lower()

    @property
    @abstractmethod
    def follows(self) -> str:
        """What the jobs follow, for the head of a column."""

    def expected(self, kind: type[Contender]) -> list[int]:
        return self.answers


@dataclass(frozen=True)
class Handover(Gaps):
    hops: int
    seconds: float

    @property
    def title(self) -> str:
        return f"hand-over: a series of {self.hops + 1} jobs, all but the last of {self.seconds:g} s"

    @property
    def follows(self) -> str:
        return f"a job of {self.seconds:g} s"

    @property
    def jobs(self) -> int:
        return self.hops + 1

    @property
    def answers(self) -> list[int]:
        return [self.hops]

    def few(self) -> Handover:
        return Handover(10, 0)


@dataclass(frozen=True)
class Wide(Gaps):
    members: int
    turns: int

    @property
    def title(self) -> str:
        return f"hand-over: {self.turns} times, {self.members} jobs of 0 s side by side and one after them"

    @property
    def follows(self) -> str:
        return f"the last of {self.members} side by side"

    @property
    def jobs(self) -> int:
        return self.turns * (self.members + 1)

    @property
    def answers(self) -> list[int]:
        return list(range(1, self.turns + 1))

    def few(self) -> Wide:
        return Wide(self.members, 3)

    def start(self, contender: Contender) -> None:
        getattr(contender, self.method)(self.members)


@dataclass(frozen=True)
class First(Gaps):
    """What is measured is how long after the call that starts it a job begins."""

    idle: float
    turns: int

    @property
    def title(self) -> str:
        return f"start: {self.turns} times, one job, after {self.idle:g} s in which there was nothing to do"

    @property
    def follows(self) -> str:
        return f"the call that starts it, after {self.idle:g} s of nothing"

    @property
    def jobs(self) -> int:
        return self.turns

    @property
    def answers(self) -> list[int]:
        return list(range(1, self.turns + 1))

    def few(self) -> First:
        return First(self.idle, 2)

    def start(self, contender: Contender) -> None:
        time.sleep(self.idle)  # it isn't waited for anything: that nothing happens is what is measured
        getattr(contender, self.method)(time.monotonic())
