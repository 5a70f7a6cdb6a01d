"""A nightly import: one run for each date, from sources that may be missing, which can be run again on purpose.

    python examples/nightly.py [DATE]

Extract every source, side by side → load what has come into a database (SQLite) → report, with what is missing. Two
machines may start the same night: the second one joins the run of the first. When a source comes late, the night is run
again, under the same id. Sources are CSV files here, which the example writes itself; one of them comes late.
"""

from __future__ import annotations

import csv
import os
import sqlite3
import sys
import tempfile
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Literal

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from running import REDIS_URL, interrupt_at_the_next_pause, server_and_workers

from dramatiq_clutch import Clutch, ClutchMiddleware, Run, current_run, previous_failures, previous_results

broker = RedisBroker(url=REDIS_URL, namespace="nightly")
broker.add_middleware(ClutchMiddleware())
dramatiq.set_broker(broker)

#: Where sources and database are; all processes find it in the environment.
FOLDER = "CLUTCH_EXAMPLE_NIGHTLY"

SOURCES = ("shop", "web", "phone")


@dramatiq.actor(throws=FileNotFoundError)  # a source that isn't there now won't come within some retries
def extract(source: str, date: str) -> list[list[Any]]:
    with source_of(date, source).open(newline="") as file:
        return [[item, int(pieces)] for item, pieces in csv.reader(file)]


@dramatiq.actor
def load() -> list[str]:
    """Put what has come in the place of what is there of this date, so that the night can be loaded any number of
    times. Returns the sources that are missing."""
    date, missing = date_of_night(), [SOURCES[failure.index or 0] for failure in previous_failures()]
    extracted = zip(SOURCES, previous_results(), strict=True)
    orders = [(date, source, *row) for source, rows in extracted if source not in missing for row in rows]
    with closing(sqlite3.connect(database())) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS orders (date, source, item, pieces)")
        connection.execute("DELETE FROM orders WHERE date = ?", (date,))
        connection.executemany("INSERT INTO orders VALUES (?, ?, ?, ?)", orders)
    return missing


@dramatiq.actor
def report(missing: list[str]) -> str:
    date = date_of_night()
    with closing(sqlite3.connect(database())) as connection:
        ((count, pieces),) = connection.execute("SELECT count(*), sum(pieces) FROM orders WHERE date = ?", (date,))
    return f"{date}: {count} orders of {pieces} pieces" + (f"; missing: {', '.join(missing)}" if missing else "")


#: Every night in one clutch. The first stage gets the date as the `args` of its run, the others find it in the context.
NIGHT = (
    Clutch(name="night")
    .parallel([partial(extract, source) for source in SOURCES], pipe="date", allow_failures=True)
    .then(load)
    .then(report, pipe=True)
)


def run_night(date: str, *, if_exists: Literal["join", "restart"] = "join") -> Run:
    """The run of a date. By default it is what a timer calls, on any number of machines: only one of the calls starts
    the run. Who knows that there is something new says "restart"; then a run that is at work is joined all the same."""
    context = {"date": date}
    return NIGHT.run(run_id=f"nightly-{date}", args=date, context=context, tags=["nightly"], if_exists=if_exists)


def date_of_night() -> str:
    run = current_run()
    return str(run.context["date"]) if run else "no date"


def source_of(date: str, source: str) -> Path:
    return Path(os.environ[FOLDER], f"{date}-{source}.csv")


def database() -> Path:
    return Path(os.environ[FOLDER], "orders.sqlite")


def write_source(date: str, source: str, *orders: tuple[str, int]) -> None:
    with source_of(date, source).open("w", newline="") as file:
        csv.writer(file).writerows(orders)


def main() -> int:
    date = sys.argv[1] if len(sys.argv) > 1 else "2026-11-27"
    interrupt_at_the_next_pause()
    with tempfile.TemporaryDirectory(prefix="clutch-nightly-") as folder:
        os.environ[FOLDER] = folder
        with server_and_workers(__file__):
            play_a_night(date)
    return 0


def play_a_night(date: str) -> None:
    write_source(date, "shop", ("tea", 3), ("pot", 1))
    write_source(date, "web", ("tea", 10))

    first, second = run_night(date), run_night(date)
    print(f"1. The timers of two machines: the first {did(first)}, the second {did(second)}.")
    print("  ", first.get_result(block=True, timeout=30_000))
    for failure in first.status().failures:
        print(f"   allowed: {failure.actor}({failure.arguments}), {failure.exception_type}")

    write_source(date, "phone", ("pot", 2))
    again = run_night(date, if_exists="restart")
    print(f"2. The orders of the phone have come, and the night has been {'run again' if again.started else 'joined'}.")
    print("  ", again.get_result(block=True, timeout=30_000))

    late = run_night(date)
    print(f"3. Nothing is new: a timer that is late {did(late)}, and finds its result.")
    print("  ", late.get_result(block=True, timeout=30_000))


def did(run: Run) -> str:
    return "has started the run" if run.started else "has joined it"


if __name__ == "__main__":
    sys.exit(main())
