"""Fan out over what a job has found, with a clutch of its own for each item.

    python examples/mapped_packages.py [FOLDER]

List the packages of Python's standard library (or the subfolders of FOLDER) → for each of them a small clutch: list its
modules, then count the lines of each, then add up → the largest packages.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from running import REDIS_URL, interrupt_at_the_next_pause, server_and_workers

from dramatiq_clutch import Clutch, ClutchMiddleware, previous_results

broker = RedisBroker(url=REDIS_URL, namespace="mapped-packages")
broker.add_middleware(ClutchMiddleware())
dramatiq.set_broker(broker)


@dramatiq.actor
def list_packages(folder: str) -> list[str]:
    return sorted(str(path.parent) for path in Path(folder).glob("*/__init__.py"))


@dramatiq.actor
def list_modules() -> list[str]:
    [package] = previous_results()  # the item that this clutch is mapped to
    return sorted(str(path) for path in Path(package).glob("*.py"))


@dramatiq.actor
def count_lines(module: str) -> list[Any]:
    with Path(module).open("rb") as lines:
        return [Path(module).parent.name, sum(1 for _ in lines)]


@dramatiq.actor
def add_up(counts: list[list[Any]]) -> list[Any]:
    """`pipe=True` brings the previous results as the last argument: an actor needn't know of clutches."""
    return [counts[0][0], sum(lines for _, lines in counts)]


@dramatiq.actor
def largest() -> list[list[Any]]:
    return sorted(previous_results(), key=lambda package: -package[1])[:10]


PACKAGE = Clutch().then(list_modules).map(count_lines).then(add_up, pipe=True)


def main() -> int:
    folder = sys.argv[1] if len(sys.argv) > 1 else sysconfig.get_path("stdlib")
    interrupt_at_the_next_pause()
    with server_and_workers(__file__):
        run = Clutch(name="packages").then(list_packages.message(folder)).map(PACKAGE).then(largest).run()
        for package, lines in run.get_result(block=True, timeout=120_000):
            print(f"{lines:>7,} lines in {package}")
        print(f"{run.status().stages[1].total} packages, each a run of its own.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
