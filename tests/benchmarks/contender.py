"""What every contender is, and the jobs that all of them run."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Mapping
from typing import Any, ClassVar

import redis

from tests.benchmarks.workers import WatchedWorker

#: The list that the last job of a piece of work pushes its answer onto.
ANSWER = "bench:answer"
#: The list of gaps, in seconds: how long after the end of what it follows a job began.
GAPS = "bench:gaps"
#: What a job that follows none is given for the moment at which the one before it ended.
NONE_BEFORE = 0.0


def job(number: int) -> int:
    return number


def step(value: int) -> int:
    return value + 1


def text(size: int) -> str:
    return "x" * size


def moment() -> float:
    """The moment at which this job ends."""
    return time.monotonic()


class Contender(ABC):
    """One way of doing the work. It has a method for each shape that it can express, named after the shape, which
    starts it. Producers and workers make one each; tasks are registered while it is made."""

    name: ClassVar[str]
    #: Whether it hands results on. One that doesn't does less work; all that it can answer is that it has come: 0.
    hands_on: ClassVar[bool] = True
    #: Whether it can be measured with several worker processes.
    scales: ClassVar[bool] = True

    def __init__(self, url: str) -> None:
        self.url = url
        self.client: Any = redis.Redis.from_url(url)

    def answer(self, value: int = 0) -> None:
        self.client.rpush(ANSWER, value)

    def note(self, began: float, ended: float) -> None:
        """Of a job that has begun, and of the end of what it follows: both by `time.monotonic()`, which all processes
        of a Linux share. It is noted by the job itself, after its beginning and before its end, so that no gap has it.
        """
        if ended != NONE_BEFORE:
            self.client.rpush(GAPS, began - ended)

    def hop(self, began: float, ended: float, seconds: float) -> float:
        """What a job in a series does whose gaps are measured; the moment at which it ends."""
        self.note(began, ended)
        time.sleep(seconds)
        return time.monotonic()

    def arrive(self, began: float, ended: float) -> None:
        """What the last one does: the answer is how many gaps there are."""
        self.note(began, ended)
        self.answer(self.client.llen(GAPS))

    def producers(self) -> list[Any]:
        """The processes that start the work, besides this one."""
        return []

    @classmethod
    @abstractmethod
    def worker(cls, url: str, env: Mapping[str, str], processes: int) -> WatchedWorker:
        """A worker of this contender, which isn't started yet."""

    @abstractmethod
    def stored(self) -> list[bytes]:
        """The messages of jobs, as they lie in the broker."""

    def close(self) -> None:
        self.client.close()


class Handing(Contender):
    """One whose tasks get what comes before them as their last argument."""

    @abstractmethod
    def task(self, function: Any) -> Any:
        """A task that does what the function does, and has its name."""

    def declare(self) -> None:
        """Make the tasks. In which order `follow` takes its arguments differs, so each contender makes its own."""

        def total(values: list[int]) -> int:
            return sum(values)

        def report(values: list[int]) -> None:
            self.answer(sum(values))

        def last(value: int) -> None:
            self.answer(step(value))

        def length(texts: list[str]) -> None:
            self.answer(sum(map(len, texts)))

        def end(ended: float) -> None:
            self.arrive(time.monotonic(), ended)

        def gather(moments: list[float]) -> None:
            self.arrive(time.monotonic(), max(moments))

        self.job, self.step, self.text, self.moment = map(self.task, (job, step, text, moment))
        self.total, self.report, self.last, self.length = map(self.task, (total, report, last, length))
        self.end, self.gather = map(self.task, (end, gather))


class AsyncContender(Contender):
    """One that is started from an event loop."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def sleepy_hop(self, began: float, ended: float, seconds: float) -> float:
        """As `hop`, and other jobs of the same loop go on meanwhile."""
        self.note(began, ended)
        await asyncio.sleep(seconds)
        return time.monotonic()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """In a loop that stays: connections belong to the loop that has made them."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop.run_until_complete(work)

    async def disconnect(self) -> None:
        """Close what belongs to the loop."""

    def close(self) -> None:
        if self._loop is not None:
            self._loop.run_until_complete(self.disconnect())
            self._loop.close()
        super().close()
