"""What every contender is, and the jobs that all of them run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import redis

from tests.benchmarks.workers import WatchedWorker

#: The list that the last job of a piece of work pushes its answer onto.
ANSWER = "bench:answer"


def job(number: int) -> int:
    return number


def step(value: int) -> int:
    return value + 1


def text(size: int) -> str:
    return "x" * size


class Contender(ABC):
    """One way of doing the work. It has a method for each shape that it can express, named after the shape, which
    starts it. Producers and workers make one each; tasks are registered while it is made."""

    name: ClassVar[str]
    #: Whether it hands results on. One that doesn't does less work; all that it can answer is that it has come: 0.
    hands_on: ClassVar[bool] = True

    def __init__(self, url: str) -> None:
        self.url = url
        self.client: Any = redis.Redis.from_url(url)

    def answer(self, value: int = 0) -> None:
        self.client.rpush(ANSWER, value)

    @classmethod
    @abstractmethod
    def worker(cls, url: str, env: Mapping[str, str]) -> WatchedWorker:
        """A worker of this contender, which isn't started yet."""

    @abstractmethod
    def stored(self) -> list[bytes]:
        """The messages of jobs, as they lie in the broker."""

    def close(self) -> None:
        self.client.close()
