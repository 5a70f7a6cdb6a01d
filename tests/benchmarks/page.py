"""python -m tests.benchmarks.page: how long the page of runs takes, and how soon all its viewers have a change.

A list and a run, as a browser asks for them, among so many runs, and with so many jobs in the run; then viewers, each
with a connection of its own, while a member succeeds now and then. The server of the page, its viewers and this script
share one process.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import dramatiq
import httpx
from dramatiq.brokers.redis import RedisBroker

from dramatiq_clutch import Clutch, ClutchMiddleware, Run
from dramatiq_clutch.web import app
from tests.benchmarks.looking import large_stage, milliseconds
from tests.benchmarks.report import table
from tests.support.browser import served
from tests.support.jobs import Jobs
from tests.support.server import Server
from tests.support.viewers import all_see, viewing
from tests.test_listing import fill
from tests.test_web_viewers import MEMBERS, done_of, finish


@contextmanager
def populated(number: int, size: int) -> Iterator[tuple[RedisBroker, str]]:
    """A broker with so many runs, the id of one with a stage of so many jobs, and a run `busy` that is at work."""
    with Server() as server:
        broker = RedisBroker(url=server.url)
        broker.add_middleware(ClutchMiddleware())
        dramatiq.set_broker(broker)
        jobs = Jobs(broker)
        fill(jobs, number)
        large = large_stage(jobs, size)
        Clutch(name="busy").parallel([jobs.job.message(str(number)) for number in range(MEMBERS)]).run(run_id="busy")
        try:
            yield broker, large.run_id
        finally:
            broker.close()


def pages(address: str, run_id: str) -> Iterator[list[str]]:
    """The rows of what a browser asks for: its name, milliseconds, kilobytes."""
    asked = {
        "a list": {"url": f"{address}/"},
        "a list by name and state": {"url": f"{address}/", "params": {"name": "rare", "state": "running"}},
        "the run": {"url": f"{address}/run", "params": {"id": run_id}},
        "the run, its dead members": {"url": f"{address}/run", "params": {"id": run_id, "state": "dead"}},
    }
    with httpx.Client(timeout=60) as client:
        for name, request in asked.items():
            answer = client.get(**request).raise_for_status()  # type: ignore[arg-type]
            yield [
                name,
                f"{milliseconds(lambda request=request: client.get(**request)):.1f}",  # type: ignore[misc]
                f"{len(answer.content) / 1_000:.0f}",
            ]


def changes(broker: RedisBroker, address: str, viewers: int) -> list[str]:
    """The row of so many viewers: how long after a change the first and the last of them has it, how much of that is
    between the two, and what of the processor a change takes."""
    first, last, busy = list[float](), list[float](), list[float]()
    run = Run("busy", broker=broker)
    with viewing(address, ["/run-events?id=busy"] * viewers, done_of) as those:
        all_see(those, "0")
        for done in range(1, MEMBERS):
            began, worked = time.perf_counter(), time.process_time()
            finish(broker, run, done)
            all_see(those, str(done))
            first.append(min(one.at[-1] for one in those) - began)
            last.append(max(one.at[-1] for one in those) - began)
            busy.append(time.process_time() - worked)
    apart = [late - early for early, late in zip(first, last, strict=True)]
    return [f"{viewers:,}", *(f"{1_000 * statistics.median(some):.0f}" for some in (first, last, apart, busy))]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.page", description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000, help="how many runs there are")
    parser.add_argument("--jobs", type=int, default=100_000, help="how many jobs the run has that is looked at")
    parser.add_argument("--viewers", type=int, default=200, help="how many view a run")
    given = parser.parse_args()
    with populated(given.runs, given.jobs) as (broker, run_id), served(app(broker)) as address:
        heads = [f"among {given.runs:,} runs, one of {given.jobs:,} jobs", "ms", "kB"]
        print(table(heads, list(pages(address, run_id))), end="\n\n")
        heads = ["viewers", "the first has a change after (ms)", "the last", "between them", "processor (ms)"]
        print(table(heads, [changes(broker, address, given.viewers)]))


if __name__ == "__main__":
    main()
