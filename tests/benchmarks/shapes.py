"""The pieces of work. Each is started by the contender's method of the same name, which gets the shape's fields."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from tests.benchmarks.contender import Contender


class Shape(ABC):
    name: ClassVar[str]

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

    def start(self, contender: Contender) -> None:
        getattr(contender, self.name)(**vars(self))

    def suits(self, kind: type[Contender]) -> bool:
        return hasattr(kind, self.name)

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
