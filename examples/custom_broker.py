"""A clutch on a broker of your own, which `sqlite_broker.py` has. The state of runs is kept by Redis or Valkey.

python examples/custom_broker.py
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import dramatiq
from running import REDIS_URL, interrupt_at_the_next_pause, server_and_workers
from sqlite_broker import SQLiteBroker

from dramatiq_clutch import Clutch, ClutchMiddleware, RedisBackend, previous_results

# The workers import this module as well, and find the file where the first process has put it for them.
FOLDER = "CLUTCH_EXAMPLE_QUEUE"
if FOLDER not in os.environ:
    os.environ[FOLDER] = tempfile.mkdtemp(prefix="clutch-example-")

broker = SQLiteBroker(str(Path(os.environ[FOLDER], "queue.sqlite")))
broker.add_middleware(ClutchMiddleware(RedisBackend(url=REDIS_URL, namespace="weather-clutch"), application="weather"))
dramatiq.set_broker(broker)


@dramatiq.actor
def list_stations() -> list[str]:
    return ["harbour", "hill", "airport"]


@dramatiq.actor(min_backoff=50, max_backoff=50)
def measure(station: str) -> int:
    """The one at the hill answers at the second attempt. The broker keeps the message until its delay is over."""
    asked = Path(os.environ[FOLDER], station)
    if station == "hill" and not asked.exists():
        asked.touch()
        raise ConnectionError("no answer")
    return len(station)


@dramatiq.actor
def average() -> str:
    degrees = previous_results()
    return f"{sum(degrees) / len(degrees):.1f} degrees at {len(degrees)} stations"


def main() -> int:
    interrupt_at_the_next_pause()
    try:
        with server_and_workers(__file__):
            run = Clutch(name="weather").then(list_stations).map(measure).then(average).run()
            print(run.get_result(block=True, timeout=30_000))
        print("left in the file:", *broker.execute("SELECT count(*) FROM messages")[0], "messages")
    finally:
        shutil.rmtree(os.environ[FOLDER])
    return 0


if __name__ == "__main__":
    sys.exit(main())
