"""python -m tests.benchmarks.looking: what it costs to look at a stage of any size, and among any number of runs.

Commands and round trips, which are the same on every machine, and milliseconds, which aren't. The server has half of
the work done: a tenth of a stage has succeeded, ten members are failing and ten dead.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from dramatiq_clutch import Clutch, ClutchMiddleware, Run, count_runs, runs
from dramatiq_clutch.backend import Record
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.failures import failure_details
from dramatiq_clutch.stored import owners
from dramatiq_clutch.stored.places import Tag
from tests.benchmarks.report import table
from tests.support.jobs import Jobs
from tests.support.server import Server
from tests.test_listing import cost_of, fill

#: How often each thing is looked at, for the median.
LOOKS = 31

#: How many members of a stage have had an attempt, at most, and how many of those are failing, and dead.
TRIED, FAILING, DEAD = 1_000, 10, 10


def looks_at(run: Run) -> dict[str, Callable[[], Any]]:
    return {
        "`run.status()`, which a watch does whenever something changes": run.status,
        "`run.members()`, 50 of them": run.members,
        '`run.members(state="dead")`': partial(run.members, state="dead"),
        '`run.members(state="unsent")`': partial(run.members, state="unsent"),
    }


def among_runs(jobs: Jobs, number: int) -> dict[str, Callable[[], Any]]:
    fill(jobs, number)
    return looks_through()


def looks_through() -> dict[str, Callable[[], Any]]:
    return {
        "`runs()`, 50 of them": runs,
        '`runs(name="rare")`, a hundredth of them': partial(runs, name="rare"),
        '`runs(name="rare", state="running")`': partial(runs, name="rare", state="running"),
        "`count_runs()`": count_runs,
    }


def milliseconds(look: Callable[[], Any]) -> float:
    taken = []
    for _ in range(LOOKS):
        began = time.perf_counter()
        look()
        taken.append(1_000 * (time.perf_counter() - began))
    return statistics.median(taken)


def large_stage(jobs: Jobs, size: int) -> Run:
    """A stage of so many members, some of which have had an attempt."""
    run = Clutch().parallel(lambda: (jobs.job.message("x") for _ in range(size))).run()
    engine = engine_of(jobs.broker)
    generation = engine.backend.generation(run.run_id) or ""
    for member in range(min(size // 2, TRIED)):
        ending: Any = "failing" if member < FAILING else "dead" if member < FAILING + DEAD else "succeeded"
        tag = Tag(run.run_id, 0, member, size, generation=generation)
        payload = engine.backend.encode("x") if ending == "succeeded" else failure_details(ValueError("x"), actor="job")
        engine.backend.record(Record(tag, 0, ending, payload), engine.caller(owners.TOUCH))
    return run


def measured(client: Any, looks: dict[str, Callable[[], Any]]) -> list[list[str]]:
    rows = []
    for name, look in looks.items():
        trips, commands = cost_of(client, look)
        rows.append([name, str(trips), str(commands.total()), f"{milliseconds(look):.1f}"])
    return rows


def side_by_side(of_sizes: Sequence[list[list[str]]]) -> list[list[str]]:
    """One row for each look: its name, then round trips, commands and milliseconds for each size."""
    return [
        [same[0][0], *(" / ".join(one[column] for one in same) for column in (1, 2, 3))]
        for same in zip(*of_sizes, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, nargs="+", default=[10, 10_000, 1_000_000], help="sizes of the stage")
    parser.add_argument("--runs", type=int, nargs="+", default=[10, 10_000, 100_000], help="how many runs there are")
    arguments = parser.parse_args()
    with Server() as server:
        broker = RedisBroker(url=server.url)
        broker.add_middleware(ClutchMiddleware())
        dramatiq.set_broker(broker)
        jobs = Jobs(broker)
        made: Sequence[tuple[str, Sequence[int], Callable[[int], dict[str, Callable[[], Any]]]]] = (
            ("jobs in the stage", arguments.jobs, lambda size: looks_at(large_stage(jobs, size))),
            ("runs", arguments.runs, lambda size: among_runs(jobs, size)),
        )
        for what, sizes, make in made:
            found = []
            for size in sizes:
                broker.client.flushall()
                found.append(measured(broker.client, make(size)))
            shown = " / ".join(f"{size:,}" for size in sizes)
            print(table([f"{shown} {what}", "round trips", "commands", "ms"], side_by_side(found)), end="\n\n")
        broker.close()


if __name__ == "__main__":
    main()
