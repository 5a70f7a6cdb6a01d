"""Measure a folder with jobs that start jobs: each folder is a job, which nests one for each of its subfolders.

    python examples/nested_folders.py [FOLDER]

A job that nests runs and returns their handles results in their results; the stage waits for all of them, however
deep they go.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from running import REDIS_URL, interrupt_at_the_next_pause, server_and_workers

from dramatiq_clutch import Clutch, ClutchMiddleware, Run, previous_results

broker = RedisBroker(url=REDIS_URL, namespace="nested-folders")
broker.add_middleware(ClutchMiddleware())
dramatiq.set_broker(broker)


@dramatiq.actor
def measure(folder: str) -> Run:
    """The bytes of a folder: of its files, and of its subfolders, each a job of its own."""
    entries = sorted(Path(folder).iterdir())
    own = sum(entry.stat().st_size for entry in entries if entry.is_file())
    subfolders = [measure.message(str(entry)) for entry in entries if entry.is_dir() and not entry.is_symlink()]
    return Clutch().parallel(subfolders).then(add.message(own)).nest()


@dramatiq.actor
def add(own: int) -> int:
    total: int = own + sum(previous_results())
    return total


def plainly(folder: Path) -> int:
    """The same in this process alone."""
    entries = list(folder.iterdir())
    own = sum(entry.stat().st_size for entry in entries if entry.is_file())
    return own + sum(plainly(entry) for entry in entries if entry.is_dir() and not entry.is_symlink())


def main() -> int:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(sysconfig.get_path("stdlib"), "email")).resolve()
    interrupt_at_the_next_pause()
    with server_and_workers(__file__):
        run = Clutch(name="folders").then(measure.message(str(folder))).run()
        total = run.get_result(block=True, timeout=60_000)
    print(f"{folder} has {total:,} bytes; a plain count says {plainly(folder):,}.")
    return 0 if total == plainly(folder) else 1


if __name__ == "__main__":
    sys.exit(main())
