"""Starts runs, from several threads, and from children that it forks while these are at it.

Each thread, and the row of children, is a lane: its runs are numbered, and have ids. Killed and started again, a
producer goes on where each lane was, and starting a run again starts it once.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import os
import random
import threading
import time
import traceback
from pathlib import Path

import redis

from dramatiq_clutch.errors import RunNotFound, Unavailable
from tests.chaos.actors import SHAPES, Jobs
from tests.chaos.app import App

#: How many runs of each lane were started; which of them were cancelled; what must not happen; runs started again.
STARTED, CANCELLED, TROUBLE, AGAIN = "started", "cancelled", "trouble", "again"

#: After how many seconds a forked child counts as stuck. An outage lasts one or two; clients wait between their tries.
STUCK = 20.0

#: How many messages may wait when a run is started: the verdict is on what is lost, and not on what is slow.
ENOUGH = 200

#: How far back a lane looks for runs that the state store has forgotten.
RECENT = 20


class Lane:
    """Starts one run after the other."""

    def __init__(self, jobs: Jobs, name: str, *, forgetful: bool) -> None:
        self.jobs, self.notes, self.name, self.forgetful = jobs, jobs.notes, name, forgetful

    def go_on(self, pause: float) -> None:
        while True:
            if self.has_room():
                self.step()
            time.sleep(pause)

    def has_room(self) -> bool:
        """Whether workers can do with more; not, if nobody can tell."""
        try:
            return int(self.jobs.broker.do_qsize("default")) < ENOUGH
        except (redis.RedisError, OSError):
            return False

    def step(self) -> bool:
        """Start the next run; the same one the next time, if that fails because something is away. Returns whether it
        has."""
        try:
            number = int(self.notes.zscore(STARTED, self.name) or 0)
            if self.forgetful and number:
                self._start_again(random.randrange(max(0, number - RECENT), number))
            self._start(number)
            self.notes.zadd(STARTED, {self.name: number + 1}, gt=True)
            return True
        except (Unavailable, redis.RedisError, OSError) as error:
            os.write(1, f"again: {error!r}\n".encode())  # and not print: a child must not wait for a thread's lock
        except Exception as error:
            with contextlib.suppress(redis.RedisError):  # it will happen again, with the same run
                self.notes.sadd(TROUBLE, f"lane {self.name}: {error!r}")
        return False

    def _start(self, number: int) -> None:
        run_id, shape = f"{self.name}/{number}", SHAPES[number % len(SHAPES)]
        run = self.jobs.run(run_id, shape)
        if shape == "cancelled" and run.cancel():
            self.notes.sadd(CANCELLED, run_id)

    def _start_again(self, number: int) -> None:
        """Start a run again whose creation is among what the state store has lost."""
        try:
            self.jobs.handle(f"{self.name}/{number}").status()
        except RunNotFound:
            self._start(number)
            self.notes.incr(AGAIN)


def fork(lane: Lane, folder: Path) -> None:
    """Have a child start a run. What it leaves in the folder is where it was stuck, or its error."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return
    trace = folder / str(os.getpid())
    # The notes are no business of the library: a lock of their pool that a thread held at the fork doesn't count.
    lane.notes.connection_pool = redis.ConnectionPool.from_url(lane.jobs.app.notes)
    with trace.open("w") as file:
        faulthandler.dump_traceback_later(STUCK, exit=True, file=file)
        try:
            lane.step()
        except BaseException:
            file.write(traceback.format_exc())
        else:
            trace.unlink()
        faulthandler.cancel_dump_traceback_later()
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True, help="of the producer; its lanes' begin with it")
    parser.add_argument("--threads", type=int, required=True, help="how many start runs")
    parser.add_argument("--pause", type=float, required=True, help="how many seconds a lane rests between two runs")
    parser.add_argument("--children", type=Path, help="fork children, and keep here what they leave")
    parser.add_argument("--forgetful", action="store_true", help="the state store may forget runs: start them again")
    arguments = parser.parse_args()
    jobs = Jobs(App.from_env())

    def lane(which: str) -> Lane:
        return Lane(jobs, f"{arguments.name}{which}", forgetful=arguments.forgetful)

    threads = [
        threading.Thread(target=lane(str(index)).go_on, args=[arguments.pause]) for index in range(arguments.threads)
    ]
    # What is imported and made when it is first needed is there before any fork: a child would wait for ever for a
    # thread that was importing it, or held Dramatiq's own lock for it.
    while not lane("0").step():
        time.sleep(arguments.pause)
    for thread in threads:
        thread.start()
    of_children = lane("c")
    while arguments.children:
        if of_children.has_room():
            fork(of_children, arguments.children)
        time.sleep(arguments.pause)


if __name__ == "__main__":
    main()
