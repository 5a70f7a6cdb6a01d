"""python -m tests.benchmarks [--jobs N ...] [--repeat R]: fan out and come back, by each contender in turn, on one
machine, in one sitting. Prints medians, and ratios to the floor. One worker process with 8 threads; no-op jobs."""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.contenders import ANSWER, CONTENDERS
from tests.support.server import Server
from tests.support.workers import Worker


@dataclass(frozen=True)
class Measured:
    """One time: jobs a second, Redis commands a job (those in scripts, too), seconds until `start` returned."""

    rate: float
    commands: float
    start: float


def measure(who: str, count: int) -> Measured:
    with Server() as server, server.client() as client:
        contender = CONTENDERS[who](server.url)
        with Worker("tests.benchmarks.contenders", threads=8, env={"BENCH_WHO": who, "BENCH_URL": server.url}):
            work(contender, client, 20)  # warm
            client.delete("bench:done")
            before = client.info("stats")["total_commands_processed"]
            began = time.perf_counter()
            started, ended = work(contender, client, count)
            commands = client.info("stats")["total_commands_processed"] - before
        contender.broker.close()
    return Measured(count / (ended - began), commands / count, started - began)


def work(contender: Any, client: Any, count: int) -> tuple[float, float]:
    contender.start(count)
    started = time.perf_counter()
    answer = None
    while answer is None:
        answer = client.blpop(ANSWER, timeout=2)
    ended = time.perf_counter()
    if int(answer[1]) != contender.answer(count):
        raise SystemExit(f"{contender}: the answer is {answer[1]!r}, not {contender.answer(count)}")
    return started, ended


def median(measured: list[Measured], figure: str) -> float:
    figures: list[float] = [getattr(one, figure) for one in measured]
    return statistics.median(figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, nargs="*", default=[500, 5_000])
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    for count in arguments.jobs:
        taken: dict[str, list[Measured]] = {who: [] for who in CONTENDERS}
        for _ in range(arguments.repeat):
            for who in CONTENDERS:
                taken[who].append(measure(who, count))
        floor = median(taken["floor: plain send()"], "rate")
        print(f"\n{count:,} jobs and back, medians of {arguments.repeat}\n")
        print("| | jobs/s | of the floor | Redis commands a job | time to start |\n|---|---|---|---|---|")
        for who, measured in taken.items():
            rate, commands, start = (median(measured, figure) for figure in ("rate", "commands", "start"))
            print(f"| {who} | {rate:,.0f} | {rate / floor:.2f} | {commands:.1f} | {start:.2f} s |")


if __name__ == "__main__":
    main()
