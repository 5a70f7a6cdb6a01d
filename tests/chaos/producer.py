"""Starts the runs of the chaos run, one after the other. Killed and started again, it goes on where it was: each run
has an id, so starting it again starts it once."""

from __future__ import annotations

import os
import sys
import time

from dramatiq_clutch.errors import ClutchError
from tests.chaos.actors import SHAPES, Jobs

STARTED, CANCELLED = "chaos:started", "chaos:cancelled"


def main() -> None:
    jobs, pause = Jobs(os.environ["CHAOS_URL"]), float(sys.argv[1])
    shapes = list(SHAPES)
    while True:
        try:
            number = int(jobs.client.get(STARTED) or 0)
            shape = shapes[number % len(shapes)]
            run = jobs.clutch(f"chaos-{number}", shape).run(run_id=f"chaos-{number}")
            if shape == "cancelled" and run.cancel():
                jobs.client.sadd(CANCELLED, number)
            jobs.client.set(STARTED, number + 1)
        except (ClutchError, ConnectionError, TimeoutError, OSError) as error:
            print(f"again: {error!r}", flush=True)
        except Exception as error:  # redis-py's own errors, of a server that is starting or stopping
            if not type(error).__module__.startswith("redis"):
                raise
            print(f"again: {error!r}", flush=True)
        time.sleep(pause)


if __name__ == "__main__":
    main()
