"""python -m tests.benchmarks.large: what becomes of dramatiq-clutch when a stage is large.

Two tables: fans of several sizes, and one stage that is never in memory as a whole, from a generator with a limit.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import psutil

from tests.benchmarks.measure import Measured, Setting, TooLong, measure, warmed
from tests.benchmarks.on_dramatiq import MESSAGES, QUEUE, Clutches
from tests.benchmarks.peak import Peak
from tests.benchmarks.report import table
from tests.benchmarks.shapes import Fan
from tests.benchmarks.workers import memory_of
from tests.support.awaiting import wait_until
from tests.support.server import Server


@dataclass(frozen=True)
class Pending:
    """A fan that has been started, and that no worker has touched.

    Parameters:
      state: bytes that the run's own keys take, a job.
      message: the average length of a message in the broker.
    """

    state: float
    message: float


@dataclass(frozen=True)
class Released:
    """A fan with a worker at work: seconds until `run()` returned, and until the last message was in the broker."""

    returned: float
    released: float


@dataclass(frozen=True)
class Produced:
    """What starting a stage from a generator took, in a process of its own; `began` by its `time.perf_counter()`."""

    began: float
    returned: float
    memory: int


@dataclass(frozen=True)
class Streamed:
    """A stage from a generator: the most that was in the broker at any time, bytes that the worker grew, seconds."""

    produced: Produced
    queued: int
    messages: int
    worker: int
    seconds: float


def pending(count: int) -> Pending:
    """The first jobs of a large stage send the others: those that are there before any has worked."""
    with Server() as server, server.client() as client, closing(Clutches(server.url)) as contender:
        contender.fan(count)
        message = statistics.mean(map(len, contender.stored()))
        return Pending(state_of(client) / count, message)


def released(count: int, patience: float) -> Released:
    """A run owes nothing (its outbox is gone) when all of its present stage is sent."""
    with warmed(Clutches, Fan(20), Setting(patience)) as bench:
        bench.client.flushdb()
        began = time.perf_counter()
        contender: Any = bench.contender
        contender.fan(count)
        returned = time.perf_counter()
        (head,) = bench.client.keys("dramatiq-clutch:*:head")
        outbox = head.replace(b":head", b":outbox")
        wait_until("the stage to be released", lambda: not bench.client.exists(outbox), patience)
        return Released(returned - began, time.perf_counter() - began)


def state_of(client: Any) -> int:
    """Bytes that the keys of dramatiq-clutch take, every element of each looked at."""
    return sum(client.memory_usage(key, samples=0) for key in client.scan_iter("dramatiq-clutch:*", count=1_000))


def fans(sizes: Sequence[int], patience: float) -> str:
    done = {size: measure(Clutches, Fan(size), Setting(patience)) for size in sizes}
    shortest = time_a_job(done[sizes[0]])
    header = ["jobs", "time a job", "of the first", "worker's memory grew by", "run's keys, a job", "bytes a message"]
    header += ["run() returns after", "last message is in the broker after"]
    rows = (cells(done[size], shortest, pending(size), released(size, patience)) for size in sizes)
    return table(header, rows)


def cells(done: Measured, shortest: float, waiting: Pending, sent: Released) -> list[str]:
    return [
        f"{done.rate * done.seconds:,.0f}",
        f"{time_a_job(done) * 1e6:,.0f} µs",
        f"{time_a_job(done) / shortest:.2f}",
        f"{done.worker / 1e6:.1f} MB",
        f"{waiting.state:,.0f} B",
        f"{waiting.message:,.0f}",
        f"{sent.returned:.2f} s",
        f"{sent.released:.2f} s",
    ]


def time_a_job(done: Measured) -> float:
    return 1 / done.rate


def produce(url: str, members: int, limit: int) -> Produced:
    own = [psutil.Process(os.getpid())]
    with closing(Clutches(url)) as contender, Peak(partial(memory_of, own)) as memory:
        began = time.perf_counter()
        contender.stream(members, limit)
        returned = time.perf_counter()
    return Produced(began, returned - began, memory.growth)


def stream(members: int, limit: int, patience: float) -> Streamed:
    """Raises TooLong, and whatever the producer raises."""
    with warmed(Clutches, Fan(20), Setting(patience)) as bench, ProcessPoolExecutor(1, get_context("spawn")) as pool:
        processes = bench.worker.processes()
        queue, messages = Peak(lambda: bench.client.llen(QUEUE)), Peak(lambda: bench.client.hlen(MESSAGES))
        with queue, messages, Peak(lambda: memory_of(processes)) as worker:
            produced = pool.submit(produce, bench.contender.url, members, limit).result()
            answer = bench.answer(produced.began + patience)
            ended = time.perf_counter()
    if answer != members:
        raise SystemExit(f"wrong answer to a stage from a generator: {answer:,}, not {members:,}")
    return Streamed(produced, queue.highest, messages.highest, worker.growth, ended - produced.began)


def generated(members: int, limit: int, patience: float) -> str:
    found = stream(members, limit, patience)
    return table(["", ""], rows_of(found, members, limit))


def rows_of(found: Streamed, members: int, limit: int) -> Iterable[Sequence[str]]:
    yield "members", f"{members:,}"
    yield "limit", f"{limit:,}"
    yield "longest queue in the broker", f"{found.queued:,}"
    yield "most messages in the broker", f"{found.messages:,}"
    yield "producer's memory grew by", f"{found.produced.memory / 1e6:.1f} MB"
    yield "worker's memory grew by", f"{found.worker / 1e6:.1f} MB"
    yield "run() returns after", f"{found.produced.returned:.2f} s"
    yield "all of it done after", f"{found.seconds:.1f} s"
    yield "time a job", f"{found.seconds / members * 1e6:,.0f} µs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[5_000, 100_000], help="sizes of the fans")
    parser.add_argument("--members", type=int, default=1_000_000, help="of the stage from a generator; 0 for none")
    parser.add_argument("--limit", type=int, default=1_000, help="how many of them are sent at a time")
    parser.add_argument("--patience", type=float, default=3_600, help="seconds that one measurement may take")
    given = parser.parse_args()
    print(fans(given.sizes, given.patience), flush=True)
    if given.members:
        print(f"\n{generated(given.members, given.limit, given.patience)}")


if __name__ == "__main__":
    try:
        main()
    except TooLong as error:
        raise SystemExit(str(error)) from None
