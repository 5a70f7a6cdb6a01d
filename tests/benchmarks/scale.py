"""python -m tests.benchmarks.scale: from which size on the server is the limit, and what then helps.

Many runs at once, done by 8 worker processes, with the state on the broker's server, on a server of its own, and on a
cluster of three. What a job costs each server's processor tells how many jobs a second it can carry, on whatever
machine: with more cores there are more workers, but a server works on one.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any

import dramatiq

from dramatiq_clutch import ClutchMiddleware
from dramatiq_clutch.backends import RedisBackend
from tests.benchmarks.on_dramatiq import Clutches
from tests.benchmarks.report import of, table
from tests.benchmarks.shapes import Fan, Shape, Small
from tests.benchmarks.workers import WatchedWorker
from tests.support.cluster import cluster, cluster_client
from tests.support.server import Server

PROCESSES, THREADS = 8, 4

#: Where the state is, by how many servers it has to itself.
PLACES = {0: "the broker's server", 1: "a server of its own", 3: "a cluster of three"}


class Elsewhere(Clutches):
    """The state is on a server of its own, or on a cluster, if `BENCH_STATE` says so."""

    def set_up(self) -> None:
        super().set_up()
        kind, _, url = os.environ.get("BENCH_STATE", "").partition(" ")
        if kind:
            backend = RedisBackend(client=cluster_client(url)) if kind == "cluster" else RedisBackend(url=url)
            kept = [known for known in self.broker.middleware if not isinstance(known, ClutchMiddleware)]
            self.broker.middleware[:] = kept
            self.broker.add_middleware(ClutchMiddleware(backend))


class Workers(WatchedWorker):
    """One `dramatiq` command with many processes."""

    def __init__(self, url: str, state: str) -> None:
        env = {"BENCH_SCALE": url, "BENCH_STATE": state}
        super().__init__("tests.benchmarks.scale", threads=THREADS, env=env)
        self._command = [sys.executable, "-m", "dramatiq", "tests.benchmarks.scale"]
        self._command += ["-p", str(PROCESSES), "-t", str(THREADS)]

    def _is_ready(self) -> bool:
        if not self.running:
            raise RuntimeError(f"the workers ended while starting:\n{self.log}")
        return self.log.count("Worker process is ready for action.") >= PROCESSES

    def seconds(self) -> float:
        """How long the processors have worked for all processes, in seconds."""
        return sum(sum(process.cpu_times()[:2]) for process in self.processes())


@dataclass(frozen=True)
class Scaled:
    """`rate` in jobs a second; `worker`, `broker` and `state` (of the busiest server) in seconds of a processor a job.

    The state has no server of its own where `state` is 0.
    """

    rate: float
    worker: float
    broker: float
    state: float


@contextmanager
def state_on(nodes: int) -> Iterator[tuple[str, Sequence[Server]]]:
    """The servers of the state, and how workers are told of them."""
    with ExitStack() as stack:
        if nodes == 0:
            yield "", []
        elif nodes == 1:
            server = stack.enter_context(Server())
            yield f"server {server.url}", [server]
        else:
            servers = stack.enter_context(cluster(nodes))
            yield f"cluster {servers[0].url}", servers


def worked(server: Server) -> float:
    """How long its processor has worked, in seconds."""
    with server.client() as client:
        found: Any = client.info("cpu")
    return float(found["used_cpu_user"] + found["used_cpu_sys"])


def scaled(shape: Shape, nodes: int, limit: float) -> Scaled:
    with Server() as server, server.client() as client, state_on(nodes) as (state, others):
        os.environ["BENCH_STATE"] = state
        with closing(Elsewhere(server.url)) as contender, Workers(server.url, state) as workers:
            everything: list[tuple[Any, ...]] = []
            for work in (shape.few(), shape):
                everything.append((time.perf_counter(), workers.seconds(), worked(server), [*map(worked, others)]))  # type: ignore[attr-defined]
                work.start(contender)
                answers = [client.blpop(["bench:answer"], timeout=limit) for _ in work.answers]
                if None in answers or sorted(int(found[1]) for found in answers if found) != sorted(work.answers):
                    raise SystemExit(f"wrong answers, or none within {limit:g} s: {answers}\n{workers.log[-2_000:]}")
            ended = time.perf_counter(), workers.seconds(), worked(server), [*map(worked, others)]  # type: ignore[attr-defined]
    began, jobs = everything[-1], shape.jobs
    busiest = max((after - before for before, after in zip(began[3], ended[3], strict=True)), default=0.0)
    return Scaled(
        jobs / (ended[0] - began[0]), (ended[1] - began[1]) / jobs, (ended[2] - began[2]) / jobs, busiest / jobs
    )


def rows(taken: Mapping[int, Sequence[Scaled]]) -> Iterator[Sequence[str]]:
    for nodes, found in taken.items():
        worker, broker, state = (of(found, figure) for figure in ("worker", "broker", "state"))
        most = max(broker, state)
        yield [
            PLACES[nodes],
            f"{of(found, 'rate'):,.0f}",
            *(f"{cost * 1e6:,.0f} µs" if cost else "—" for cost in (worker, broker, state)),
            f"{1 / most:,.0f}",
            f"{worker / most:.1f}",
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500, help="how many runs of ten jobs at once")
    parser.add_argument("--fan", type=int, default=5_000, help="jobs of the fan")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--limit", type=int, default=300, help="seconds that one measurement may take")
    given = parser.parse_args()
    header = ["the state is on", "jobs/s here", "workers, a job", "the broker's server, a job"]
    header += ["the busiest server of the state, a job", "jobs/s that the busiest server can carry"]
    header += ["cores of workers that keep it busy"]
    for shape in (Small(given.runs), Fan(given.fan)):
        taken: dict[int, list[Scaled]] = {nodes: [] for nodes in PLACES}
        for _ in range(given.repeat):
            for nodes, found in taken.items():
                found.append(scaled(shape, nodes, given.limit))
        print(
            f"\n**{shape.title}; {PROCESSES} processes of {THREADS} threads**\n\n{table(header, rows(taken))}\n",
            flush=True,
        )


if "BENCH_SCALE" in os.environ:
    broker: dramatiq.Broker = Elsewhere(os.environ["BENCH_SCALE"]).broker
elif __name__ == "__main__":
    main()
