"""What all worlds have in common: real workers and producers, mischief at random moments, then the verdict."""

from __future__ import annotations

import contextlib
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import redis

from tests.chaos.actors import HEARTBEAT, SHAPES
from tests.chaos.app import App
from tests.chaos.processes import Producer
from tests.chaos.producer import STARTED
from tests.chaos.recorded import RecordedServer
from tests.chaos.verdict import Verdict
from tests.support.prepared import ROOT
from tests.support.server import Server
from tests.support.workers import Worker

#: Where redis-py itself waits in a child for its pool's lock, if a thread of the parent held that: with `send()`, too.
IN_THE_CLIENT = re.compile(r'[^\n]*\n[^\n]*\n  File "[^"]*/redis/connection\.py", line \d+ in reset\n')

#: Every so many seconds all keys are listed, to be compared with those in memory.
LISTED_EVERY = 10.0

#: After how many seconds more a world is judged though something that has to happen hasn't; a verdict tells more.
AT_MOST_MORE = 120.0

Mischief = Sequence[Callable[[], None]]


class World:
    """A subclass fills `around` (servers and the like, in the order in which they start), `apps` (as they are seen
    with nothing in between), `recorded` (the servers that keep runs), `workers` and `producers`, and says what mischief
    there is.

    Parameters:
      seed: Decides what happens and when, though not what the machine makes of it.
      seconds: For how long things happen; for longer, if by then something that has to happen hasn't.
    """

    title: ClassVar[str]
    #: The events that have to happen.
    has_to_see: ClassVar[tuple[str, ...]] = ()
    lenient: ClassVar[bool] = False

    def __init__(self, seed: int, seconds: float) -> None:
        self.seed, self.seconds = seed, seconds
        self.random = random.Random(f"{self.title} {seed}")
        self.events: Counter[str] = Counter()
        self.around: list[AbstractContextManager[Any]] = []
        self.apps: list[App] = []
        self.recorded: list[RecordedServer] = []
        self.workers: list[Worker] = []
        self.producers: list[Producer] = []

    def run(self) -> Verdict:
        with contextlib.ExitStack() as stack:
            for member in (*self.around, *self.workers, *self.producers):
                stack.enter_context(member)
            began = listed = time.monotonic()
            while (lasted := time.monotonic() - began) < self.seconds or not (
                self.has_seen_enough() or lasted > self.seconds + AT_MOST_MORE
            ):
                time.sleep(self.random.uniform(0.3, 1.2))  # nothing to wait for: the moment is what is random
                self.random.choice(self.mischief())()
                if time.monotonic() - listed > LISTED_EVERY:
                    listed = time.monotonic()
                    self.list_keys()
            self.recover()
            verdict = self.judge(time.monotonic() - began)
            self.list_keys()
            for worker in self.workers:
                worker.kill()
            verdict.replay(self.recorded)
            processes: list[Worker | Producer] = [*self.workers, *self.producers]
            verdict.logs = {f"{number}.log": process.log for number, process in enumerate(processes)}
            return verdict

    def has_seen_enough(self) -> bool:
        """Whether runs of each shape were started, and what has to happen has. Much of it takes longer on a machine
        that is busy."""
        return all(map(self.events.__getitem__, self.has_to_see)) and self.started() >= len(SHAPES)

    def started(self) -> int:
        """How many runs the lane has started that has started most; it goes through the shapes one by one."""
        notes: list[Any] = [redis.Redis.from_url(app.notes) for app in self.apps]  # its types know nothing of scores
        last = [client.zrange(STARTED, -1, -1, withscores=True) for client in notes]
        return max((int(score) for found in last for _, score in found), default=0)

    def mischief(self) -> Mischief:
        """What may happen, as often in here as it is likely."""
        raise NotImplementedError

    def recover(self) -> None:
        """Restart all workers: what a live one had fetched without getting the reply is never delivered again."""
        for producer in self.producers:
            producer.kill()
        for worker in self.workers:
            worker.kill()
            worker.start()

    def judge(self, seconds: float) -> Verdict:
        verdict = Verdict(self.title, self.seed, seconds, self.events, self.lenient)
        for app in self.apps:
            verdict.judge(app)
        for trace in (trace for producer in self.producers for trace in producer.stuck()):
            if IN_THE_CLIENT.match(trace):
                verdict.events["forked children stuck in redis-py's own pool"] += 1
            else:
                verdict.wrong.append(f"a forked child was stuck: {trace}")
        return verdict

    def list_keys(self) -> None:
        """Keep what the servers have now, to be compared with what comes of their histories in memory."""
        for server in self.recorded:
            server.list_keys()

    # What a world is made of

    def worker(self, app: App, *, root: Path = ROOT) -> Worker:
        return Worker("tests.chaos.actors", env=app.to_env(), threads=4, root=root)

    # What can happen in any world

    def kill_worker(self) -> None:
        worker = self.random.choice(self.workers)
        worker.kill()
        worker.start()
        self.events["workers killed (-9)"] += 1

    def pause_worker(self) -> None:
        """Longer than the heartbeat: what it works on is given to others, and then it wakes up."""
        worker = self.random.choice(self.workers)
        worker.pause()
        time.sleep(HEARTBEAT / 1000 + 0.5)
        worker.resume()
        self.events["workers paused, longer than their heartbeat"] += 1

    def kill_producer(self) -> None:
        producer = self.random.choice(self.producers)
        producer.kill()
        producer.start()
        self.events["producers killed (-9)"] += 1


def notes_of(server: Server, number: int) -> str:
    """The URL of a database of its own for what is written down."""
    return f"{server.url.rpartition('/')[0]}/{number}"
