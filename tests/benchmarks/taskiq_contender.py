"""taskiq-pipelines, on the broker of taskiq-redis that acknowledges. Worker processes of 8 tasks at a time each.

A worker imports this module with BENCH_TASKIQ set to the server's address; a producer makes the contender itself.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from taskiq_pipelines import Pipeline, PipelineMiddleware
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from tests.benchmarks.contender import NONE_BEFORE, AsyncContender, step
from tests.benchmarks.workers import OtherWorker


class Pipelines(AsyncContender):
    """A `map` needs a job before it that returns what it maps over, and a job after it looks for the results twice a
    second, by default. Both are left as they are."""

    name = "taskiq-pipelines"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        backend: Any = RedisAsyncResultBackend(url)
        self.broker: Any = RedisStreamBroker(url).with_result_backend(backend)
        self.broker.add_middlewares(PipelineMiddleware())
        self._started = False

        async def numbers(count: int) -> list[int]:
            return list(range(count))

        async def job(number: int) -> int:
            return number

        async def add_one(value: int) -> int:
            return step(value)

        async def report(values: list[int]) -> None:
            self.answer(sum(values))

        async def last(value: int) -> None:
            self.answer(step(value))

        async def follow(ended: float, seconds: float) -> float:
            return await self.sleepy_hop(time.monotonic(), ended, seconds)

        async def end(ended: float) -> None:
            self.arrive(time.monotonic(), ended)

        async def moment(number: int) -> float:
            return time.monotonic()

        async def gather(moments: list[float]) -> None:
            self.arrive(time.monotonic(), max(moments))

        self.numbers, self.job, self.step, self.report = map(self.task, (numbers, job, add_one, report))
        self.last, self.follow, self.end = map(self.task, (last, follow, end))
        self.moment, self.gather = self.task(moment), self.task(gather)

    def task(self, function: Any) -> Any:
        return self.broker.task(task_name=function.__name__)(function)

    @classmethod
    def worker(cls, url: str, env: Mapping[str, str], processes: int) -> OtherWorker:
        command = [sys.executable, "-m", "taskiq", "worker", "tests.benchmarks.taskiq_contender:broker"]
        command += ["--workers", str(processes), "--max-async-tasks", "8", "--log-level", "WARNING"]
        return OtherWorker(command, env={**env, "BENCH_TASKIQ": url})

    def stored(self) -> list[bytes]:
        return [fields[b"data"] for _, fields in self.client.xrange(self.broker.queue_name)]

    async def disconnect(self) -> None:
        if self._started:
            await self.broker.shutdown()

    def fan(self, count: int) -> None:
        self.kick(Pipeline(self.broker, self.numbers).map(self.job).call_next(self.report), count)

    def series(self, beside: int, length: int) -> None:
        for _ in range(beside):
            pipeline: Any = Pipeline(self.broker, self.step)
            for _ in range(length - 2):
                pipeline.call_next(self.step)
            self.kick(pipeline.call_next(self.last), 0)

    def handover(self, hops: int, seconds: float) -> None:
        pipeline: Any = Pipeline(self.broker, self.follow)
        for _ in range(hops - 1):
            pipeline.call_next(self.follow, seconds=seconds)
        self.kick(pipeline.call_next(self.end), NONE_BEFORE, seconds)

    def wide(self, members: int) -> None:
        self.kick(Pipeline(self.broker, self.numbers).map(self.moment).call_next(self.gather), members)

    def first(self, asked: float) -> None:
        self.kick(Pipeline(self.broker, self.end), asked)

    def kick(self, pipeline: Any, *arguments: Any) -> None:
        async def start() -> None:
            if not self._started:
                await self.broker.startup()
                self._started = True
            await pipeline.kiq(*arguments)

        self.run(start())


if "BENCH_TASKIQ" in os.environ:
    broker = Pipelines(os.environ["BENCH_TASKIQ"]).broker
