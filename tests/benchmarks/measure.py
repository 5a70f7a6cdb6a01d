"""One piece of work, done once by one contender: a server and a worker of its own, warmed, watched, and its answer
checked."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.benchmarks.contender import ANSWER, GAPS, Contender
from tests.benchmarks.peak import Peak
from tests.benchmarks.shapes import Shape
from tests.benchmarks.workers import WatchedWorker, memory_of, processor_of
from tests.support.server import Server

#: The server notes its own peak of memory this often a second.
CONFIG = ["hz 100"]


class TooLong(Exception):
    """The answer hasn't come within the time limit."""


@dataclass(frozen=True)
class Setting:
    """What is alike for all contenders.

    Parameters:
      limit: seconds that one measurement may take.
      env: what is added to a worker's environment.
      processes: how many worker processes there are.
    """

    limit: float
    env: Mapping[str, str] = field(default_factory=dict)
    processes: int = 1


@dataclass(frozen=True)
class Measured:
    """One time.

    Parameters:
      rate: jobs a second, from the first call of `start` to the answer.
      seconds: that time.
      start: seconds until the call that starts the work returned.
      commands: Redis commands a job, those in scripts, too.
      worker: how many bytes the worker's processes grew at most, over what they had when warm.
      server: the same for the server, in bytes a job.
      working: seconds a job that processors worked in the worker's processes.
      serving: the same in the server, the broker's part included.
      producing: the same where the work was started and its answer awaited.
      gaps: seconds from the end of what a job follows to its beginning, of those that note it.
    """

    rate: float
    seconds: float
    start: float
    commands: float
    worker: float
    server: float
    working: float
    serving: float
    producing: float
    gaps: Sequence[float]

    @property
    def processor(self) -> float:
        """Seconds a job that processors worked, wherever."""
        return self.working + self.serving + self.producing

    @property
    def middle_gap(self) -> float:
        return middle(self.gaps)

    @property
    def long_gap(self) -> float:
        return long(self.gaps)

    @property
    def longest_gap(self) -> float:
        return max(self.gaps)


@dataclass(frozen=True)
class Bench:
    """A contender at work on a server of its own."""

    contender: Contender
    client: Any
    worker: WatchedWorker
    limit: float

    def do(self, shape: Shape) -> tuple[float, float]:
        """Do the work, as often as it says; return the seconds that starting it took, and until it was done."""
        self.client.delete(GAPS)
        began, started, answers = time.perf_counter(), 0.0, list[int]()
        for _ in range(shape.turns):
            starts = time.perf_counter()
            shape.start(self.contender)
            started += time.perf_counter() - starts
            answers += [self.answer(began + self.limit) for _ in range(len(shape.answers) // shape.turns)]
        ended = time.perf_counter()
        expected = shape.expected(type(self.contender))
        if sorted(answers) != sorted(expected):
            raise SystemExit(f"{self.contender.name}: wrong answers to {shape}: {answers}, not {expected}")
        return started, ended - began

    def gaps(self) -> list[float]:
        return [float(gap) for gap in self.client.lrange(GAPS, 0, -1)]

    def answer(self, deadline: float) -> int:
        """Wait for an answer until `time.perf_counter()` is at the deadline, and take it. Raises TooLong."""
        while (found := self.client.blpop(ANSWER, timeout=1)) is None:
            if not self.worker.running:
                raise SystemExit(f"{self.contender.name}: its worker has ended:\n{self.worker.log}")
            if time.perf_counter() > deadline:
                raise TooLong(f"{self.contender.name}: no answer within {self.limit:g} s. {self.worker.log[-2_000:]}")
        return int(found[1])


class Spent:
    """Processor time in seconds, from when this is made, of who works and of who starts the work."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._worker, self._producer = self._now()

    def by_worker(self) -> float:
        return self._now()[0] - self._worker

    def by_producer(self) -> float:
        return self._now()[1] - self._producer

    def _now(self) -> tuple[float, float]:
        producers = processor_of(self._bench.contender.producers())
        return processor_of(self._bench.worker.processes()), time.process_time() + producers


@contextmanager
def warmed(kind: type[Contender], few: Shape, setting: Setting) -> Iterator[Bench]:
    """A worker that has done a little of the work: everything is imported, all its processes are there."""
    with Server(config=CONFIG) as server, server.client() as client, closing(kind(server.url)) as contender:
        worker = kind.worker(server.url, setting.env, setting.processes)
        with worker:
            bench = Bench(contender, client, worker, setting.limit)
            bench.do(few)
            yield bench


def measure(kind: type[Contender], shape: Shape, setting: Setting) -> Measured:
    """Raises TooLong. The call that starts the work isn't cut short."""
    with warmed(kind, shape.few(), setting) as bench:
        before, spent = bench.client.info(), Spent(bench)
        with Peak(partial(memory_of, bench.worker.processes())) as worker:
            started, ended = bench.do(shape)
        working, producing = spent.by_worker(), spent.by_producer() - worker.spent
        after, gaps = bench.client.info(), bench.gaps()
    commands = after["total_commands_processed"] - before["total_commands_processed"]
    server = after["used_memory_peak"] - before["used_memory"]
    serving = sum(after[kind] - before[kind] for kind in ("used_cpu_user", "used_cpu_sys"))
    return Measured(
        rate=shape.jobs / ended,
        seconds=ended,
        start=started,
        commands=commands / shape.jobs,
        worker=worker.growth,
        server=server / shape.jobs,
        working=working / shape.jobs,
        serving=serving / shape.jobs,
        producing=producing / shape.jobs,
        gaps=gaps,
    )


def pings(times: int, seconds: float) -> list[float]:
    """How many seconds a bare PING takes, each time that nothing has happened for so many `seconds`. A machine that
    sleeps takes a while to wake up, and a hand-over needs a round trip, so it can hardly take less than that."""
    found = list[float]()
    with Server() as server, server.client() as client:
        client.ping()
        for _ in range(times):
            time.sleep(seconds)
            began = time.perf_counter()
            client.ping()
            found.append(time.perf_counter() - began)
    return found


def middle(times: Sequence[float]) -> float:
    return statistics.median(times)


def long(times: Sequence[float]) -> float:
    """No more than one in a hundred is longer."""
    return statistics.quantiles(times, n=100, method="inclusive")[-1]


def weigh(kind: type[Contender], shape: Shape) -> float:
    """The average length of what lies in the broker when the work has been started, and no worker is
    there. In a series that is its first message."""
    with Server() as server, closing(kind(server.url)) as contender:
        shape.few().start(contender)
        return statistics.mean(map(len, contender.stored()))
