"""Count the words of thousands of files, with real workers.

    python examples/word_count.py [FOLDER] [--files '*.py']

Four stages: list the files, count the words of each (one job a file, in parallel), merge the counts, pick
the most frequent words. Without a folder, the files are the sources of Python's own standard library. The
server is the one at REDIS_URL or, without that, an embedded Valkey that lives as long as this command.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from running import REDIS_URL, interrupt_at_the_next_pause, pause, server_and_workers

from dramatiq_clutch import Clutch, ClutchMiddleware, Run, RunStatus, previous_results

broker = RedisBroker(url=REDIS_URL, namespace="word-count")
broker.add_middleware(ClutchMiddleware())
dramatiq.set_broker(broker)


# The work: four actors, one clutch.


@dramatiq.actor
def list_files(folder: str, pattern: str) -> list[str]:
    return find_files(folder, pattern)


@dramatiq.actor(max_retries=3, min_backoff=100)
def count_words(path: str) -> dict[str, int]:
    return words_of(path)


@dramatiq.actor
def merge_counts() -> dict[str, int]:
    return add_up(previous_results())


@dramatiq.actor
def top_words() -> dict[str, Any]:
    [counts] = previous_results()
    return summary_of(counts)


STAGES = ("list the files", "count the words", "merge the counts", "pick the top words")


def word_count(folder: str, pattern: str) -> Clutch:
    return (
        Clutch(name="word-count")
        .then(list_files.message(folder, pattern))
        .map(count_words)
        .then(merge_counts)
        .then(top_words)
    )


# What the actors are made of: plain functions, so that the result can be checked without any worker.


def find_files(folder: str, pattern: str) -> list[str]:
    """The files that match, in order, without those of installed packages."""
    found = (path for path in Path(folder).rglob(pattern) if path.is_file())
    return sorted(str(path) for path in found if "site-packages" not in path.parts)


def words_of(path: str) -> Counter[str]:
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    return Counter(re.findall(r"[^\W\d]\w*", text.lower()))


def add_up(counts: Iterable[dict[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total


def summary_of(counts: dict[str, int]) -> dict[str, Any]:
    """The number of words, that of different words, and the most frequent with their counts."""
    top = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:15]
    return {"words": sum(counts.values()), "different": len(counts), "top": [list(item) for item in top]}


# What there is to see.


def follow(run: Run, show: Callable[[RunStatus], None], check: Callable[[], None]) -> RunStatus:
    """Show the run's status until it's at rest."""
    while True:
        status = run.status()
        show(status)
        if status.state not in ("running", "failing"):
            return status
        check()
        pause(0.1)


@contextmanager
def live_progress(console: Console) -> Iterator[Callable[[RunStatus], None]]:
    """A bar a stage on a terminal, a line now and then elsewhere."""
    if not console.is_terminal:
        yield line_printer(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bars = [progress.add_task(name, total=None) for name in STAGES]

        def show(status: RunStatus) -> None:
            for bar, stage in zip(bars, status.stages, strict=True):
                progress.update(bar, total=stage.total, completed=stage.succeeded)

        yield show


def line_printer(console: Console) -> Callable[[RunStatus], None]:
    """Print a line for a stage when its state has changed, and for each tenth of its jobs."""
    printed = [("waiting", 0)] * len(STAGES)

    def show(status: RunStatus) -> None:
        for index, stage in enumerate(status.stages):
            news = (stage.state, 10 * stage.succeeded // (stage.total or 1))
            if news != printed[index]:
                printed[index] = news
                console.print(f"{STAGES[index]}: {stage.state}, {stage.succeeded} of {stage.total}")

    return show


def print_result(console: Console, result: dict[str, Any]) -> None:
    table = Table("word", "times")
    table.columns[1].justify = "right"
    for word, times in result["top"]:
        table.add_row(word, f"{times:,}")
    console.print(table)


def print_failures(console: Console, status: RunStatus) -> None:
    console.print(f"The run has {status.state}.")
    for failure in status.failures:
        console.print(f"{failure.actor}: {failure.exception_type}: {failure.exception_text}", markup=False)


def count_plainly(folder: str, pattern: str) -> dict[str, Any]:
    """The same in this process alone, by the same functions."""

    def counts() -> Iterator[Counter[str]]:
        for path in find_files(folder, pattern):
            pause()
            yield words_of(path)

    return summary_of(add_up(counts()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default=sysconfig.get_path("stdlib"), type=os.path.abspath)
    parser.add_argument("--files", default="*.py", metavar="PATTERN", help="which files (default: %(default)s)")
    arguments = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    interrupt_at_the_next_pause()
    try:
        return count_and_compare(console, arguments.folder, arguments.files)
    except KeyboardInterrupt:
        console.print("Interrupted; no process is left behind.")
        return 128 + signal.SIGINT


def count_and_compare(console: Console, folder: str, pattern: str) -> int:
    console.print(f"Counting the words of {folder}/**/{pattern}", markup=False)
    with server_and_workers(__file__) as check, live_progress(console) as show:
        begun = time.monotonic()
        run = word_count(folder, pattern).run()
        status = follow(run, show, check)
        seconds = time.monotonic() - begun
        result = run.get_result() if status.state == "succeeded" else None
    if result is None:
        print_failures(console, status)
        return 1

    print_result(console, result)
    files = status.stages[1].total
    console.print(
        f"{result['words']:,} words, {result['different']:,} of them different, in {files:,} files: "
        f"{seconds:.1f} s with 2 worker processes."
    )
    if result != count_plainly(folder, pattern):
        console.print("A plain count in one process DISAGREES.")
        return 1
    console.print(f"A plain count in one process says the same: {result['words']:,} words.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
