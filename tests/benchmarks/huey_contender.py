"""huey 3: chords and pipelines on Redis, one consumer with 8 threads.

A consumer imports this module with BENCH_HUEY set to the server's address; a producer makes the contender itself.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from huey import RedisHuey, chord

from tests.benchmarks.contender import NONE_BEFORE, Handing
from tests.benchmarks.workers import OtherWorker


class HueyChords(Handing):
    name = "huey chord, pipeline"
    scales = False  # more threads, or a process for each job at a time

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.huey: Any = RedisHuey("bench", url=url)
        self.declare()

        def follow(seconds: float, ended: float) -> float:
            return self.hop(time.monotonic(), ended, seconds)

        self.follow = self.task(follow)

    def task(self, function: Any) -> Any:
        return self.huey.task(name=function.__name__)(function)

    @classmethod
    def worker(cls, url: str, env: Mapping[str, str], processes: int) -> OtherWorker:
        command = [sys.executable, "-m", "huey.bin.huey_consumer", "tests.benchmarks.huey_contender.huey"]
        return OtherWorker([*command, "-w", "8", "-k", "thread", "-n", "-q"], env={**env, "BENCH_HUEY": url})

    def stored(self) -> list[bytes]:
        messages: list[bytes] = self.client.lrange(self.huey.storage.queue_key, 0, -1)
        return messages

    def close(self) -> None:
        super().close()
        self.huey.storage.pool.disconnect()

    def fan(self, count: int) -> None:
        self.huey.enqueue(chord(list(map(self.job.s, range(count))), self.report.s()))

    def series(self, beside: int, length: int) -> None:
        for _ in range(beside):
            self.pipeline(self.step.s(0), *(self.step.s() for _ in range(length - 2)), self.last.s())

    def nested(self, outer: int, inner: int) -> None:
        parts = [chord(list(map(self.job.s, range(inner))), self.total.s()) for _ in range(outer)]
        self.huey.enqueue(chord(parts, self.report.s()))

    def results(self, count: int, size: int) -> None:
        self.huey.enqueue(chord([self.text.s(size) for _ in range(count)], self.length.s()))

    def handover(self, hops: int, seconds: float) -> None:
        later = [self.follow.s(seconds) for _ in range(hops - 1)]
        self.pipeline(self.follow.s(seconds, NONE_BEFORE), *later, self.end.s())

    def wide(self, members: int) -> None:
        self.huey.enqueue(chord([self.moment.s() for _ in range(members)], self.gather.s()))

    def first(self, asked: float) -> None:
        self.huey.enqueue(self.end.s(asked))

    def pipeline(self, *tasks: Any) -> None:
        """Put together from its end: `then()` walks to the end of what is there, each time."""
        *before, following = tasks
        for task in reversed(before):
            following = task.then(following)
        self.huey.enqueue(following)


if "BENCH_HUEY" in os.environ:
    huey = HueyChords(os.environ["BENCH_HUEY"]).huey
