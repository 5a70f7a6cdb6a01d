"""One piece of work, done once by one contender: a server and a worker of its own, warmed, watched, and its answer
checked."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.benchmarks.contender import ANSWER, Contender
from tests.benchmarks.peak import Peak
from tests.benchmarks.shapes import Shape
from tests.benchmarks.workers import WatchedWorker, memory_of
from tests.support.server import Server

#: The server notes its own peak of memory this often a second.
CONFIG = ["hz 100"]


class TooLong(Exception):
    """The answer hasn't come within the time limit."""


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
      busy: seconds a job that the server's processor worked, the broker's part included.
    """

    rate: float
    seconds: float
    start: float
    commands: float
    worker: float
    server: float
    busy: float


@dataclass(frozen=True)
class Bench:
    """A contender at work on a server of its own."""

    contender: Contender
    client: Any
    worker: WatchedWorker
    limit: float

    def do(self, shape: Shape) -> tuple[float, float]:
        """Do the work; return the seconds until it was started, and until it was done."""
        began = time.perf_counter()
        shape.start(self.contender)
        started = time.perf_counter()
        answers = [self.answer(began + self.limit) for _ in shape.answers]
        ended = time.perf_counter()
        expected = shape.expected(type(self.contender))
        if sorted(answers) != sorted(expected):
            raise SystemExit(f"{self.contender.name}: wrong answers to {shape}: {answers}, not {expected}")
        return started - began, ended - began

    def answer(self, deadline: float) -> int:
        """Wait for an answer until `time.perf_counter()` is at the deadline, and take it. Raises TooLong."""
        while (found := self.client.blpop(ANSWER, timeout=1)) is None:
            if not self.worker.running:
                raise SystemExit(f"{self.contender.name}: its worker has ended:\n{self.worker.log}")
            if time.perf_counter() > deadline:
                raise TooLong(f"{self.contender.name}: no answer within {self.limit:g} s. {self.worker.log[-2_000:]}")
        return int(found[1])


@contextmanager
def warmed(kind: type[Contender], few: Shape, env: Mapping[str, str], limit: float) -> Iterator[Bench]:
    """A worker that has done a little of the work: everything is imported, all its processes are there."""
    with Server(config=CONFIG) as server, server.client() as client, closing(kind(server.url)) as contender:
        worker = kind.worker(server.url, env)
        with worker:
            bench = Bench(contender, client, worker, limit)
            bench.do(few)
            yield bench


def measure(kind: type[Contender], shape: Shape, env: Mapping[str, str], limit: float) -> Measured:
    """Raises TooLong. The call that starts the work isn't cut short."""
    with warmed(kind, shape.few(), env, limit) as bench:
        before = bench.client.info()
        with Peak(partial(memory_of, bench.worker.processes())) as worker:
            started, ended = bench.do(shape)
        after = bench.client.info()
    commands = after["total_commands_processed"] - before["total_commands_processed"]
    server = after["used_memory_peak"] - before["used_memory"]
    busy = sum(after[kind] - before[kind] for kind in ("used_cpu_user", "used_cpu_sys"))
    return Measured(
        rate=shape.jobs / ended,
        seconds=ended,
        start=started,
        commands=commands / shape.jobs,
        worker=worker.growth,
        server=server / shape.jobs,
        busy=busy / shape.jobs,
    )


def weigh(kind: type[Contender], shape: Shape) -> float:
    """The average length of what lies in the broker when the work has been started, and no worker is
    there. In a series that is its first message."""
    with Server() as server, closing(kind(server.url)) as contender:
        shape.few().start(contender)
        return statistics.mean(map(len, contender.stored()))
