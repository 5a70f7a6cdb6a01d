"""Celery: chords and chains, with Redis as broker and as result backend, and two worker processes or more.

A worker imports this module with BENCH_CELERY set to the server's address; a producer makes the contender itself.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

import celery

from tests.benchmarks.contender import NONE_BEFORE, Handing
from tests.benchmarks.workers import OtherWorker


class Chords(Handing):
    name = "Celery chord, chain"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.app = celery.Celery("bench", broker=url, backend=url)
        self.declare()

        def follow(ended: float, seconds: float) -> float:
            return self.hop(time.monotonic(), ended, seconds)

        self.follow = self.task(follow)

    def task(self, function: Any) -> Any:
        return self.app.task(function, name=function.__name__)

    @classmethod
    def worker(cls, url: str, env: Mapping[str, str], processes: int) -> OtherWorker:
        """A pool of processes, with nothing switched on that the work doesn't need. Its default is one for each core;
        it is given two at least, for each of them does one job at a time."""
        command = [sys.executable, "-m", "celery", "-A", "tests.benchmarks.celery_contender", "worker"]
        command += ["--pool=prefork", "-c", str(max(2, processes)), "--loglevel=ERROR"]
        command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        return OtherWorker(command, env={**env, "BENCH_CELERY": url})

    def stored(self) -> list[bytes]:
        messages: list[bytes] = self.client.lrange("celery", 0, -1)
        return messages

    def close(self) -> None:
        super().close()
        # Or each result would look for the server, which is gone when the result is collected, in order to unsubscribe.
        consumer = self.app.backend.result_consumer
        consumer.stop()
        consumer.subscribed_to.clear()
        self.app.close()

    def fan(self, count: int) -> None:
        celery.chord(map(self.job.s, range(count)), self.report.s()).apply_async()

    def series(self, beside: int, length: int) -> None:
        for _ in range(beside):
            later = [self.step.s() for _ in range(length - 2)]
            celery.chain(self.step.s(0), *later, self.last.s()).apply_async()

    def nested(self, outer: int, inner: int) -> None:
        parts = [celery.chord(map(self.job.s, range(inner)), self.total.s()) for _ in range(outer)]
        celery.chord(parts, self.report.s()).apply_async()

    def small(self, runs: int) -> None:
        for _ in range(runs):
            # Immutable, or each would get the results of the stage before.
            stages = [celery.group(map(self.job.si, range(3))) for _ in range(3)]
            celery.chain(*stages, self.report.s()).apply_async()

    def results(self, count: int, size: int) -> None:
        celery.chord((self.text.s(size) for _ in range(count)), self.length.s()).apply_async()

    def handover(self, hops: int, seconds: float) -> None:
        later = [self.follow.s(seconds) for _ in range(hops - 1)]
        celery.chain(self.follow.s(NONE_BEFORE, seconds), *later, self.end.s()).apply_async()

    def wide(self, members: int) -> None:
        celery.chord((self.moment.s() for _ in range(members)), self.gather.s()).apply_async()

    def first(self, asked: float) -> None:
        self.end.s(asked).apply_async()


if "BENCH_CELERY" in os.environ:
    app = Chords(os.environ["BENCH_CELERY"]).app
