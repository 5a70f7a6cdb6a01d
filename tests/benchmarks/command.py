"""How long the command `list` takes to answer: whole processes, from their start to their end, with many runs on the
server.

python -m tests.benchmarks.command --runs 10000
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from dramatiq_clutch import Clutch, ClutchMiddleware
from tests.support.server import Server


def begin_runs(url: str, runs: int) -> None:
    broker = RedisBroker(url=url)
    broker.add_middleware(ClutchMiddleware())

    @dramatiq.actor(broker=broker)
    def job() -> None: ...

    for _ in range(runs):
        Clutch(broker=broker).then(job).run()


def taken(command: list[str], environ: dict[str, str]) -> tuple[float, float]:
    """The wall clock of a process and its processor time, user and system, in milliseconds."""
    begun = perf_counter()
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return wall * 1000, (usage.ru_utime + usage.ru_stime) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.command", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=21, help="how many of each")
    options = parser.parse_args()
    with Server() as server, tempfile.TemporaryDirectory() as compiled:
        environ = {**os.environ, "PYTHONPYCACHEPREFIX": compiled, "PYTHONDONTWRITEBYTECODE": ""}
        begin_runs(server.url, options.runs)
        for verb in (["list"], ["list", "--json"]):
            command = [str(Path(sys.executable).with_name("dramatiq-clutch")), "--url", server.url, *verb]
            taken(command, environ)  # the first one compiles
            walls, processors = zip(*(taken(command, environ) for _ in range(options.processes)), strict=True)
            told = f"{median(walls):.0f} ms of wall clock ({min(walls):.0f} to {max(walls):.0f})"
            print(f"{' '.join(verb)}: {told}, {median(processors):.0f} ms of processor time")


if __name__ == "__main__":
    main()
