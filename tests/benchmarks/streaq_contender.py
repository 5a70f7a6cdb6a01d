"""streaQ: tasks that wait for others, and chains. Worker processes of 8 tasks at a time each.

A worker imports this module with BENCH_STREAQ set to the server's address; a producer makes the contender itself.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from streaq import Worker

from tests.benchmarks.contender import NONE_BEFORE, AsyncContender, job, moment, step, text
from tests.benchmarks.workers import OtherWorker


class Streaqs(AsyncContender):
    name = "streaQ: after, then"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.queue: Any = Worker(redis_url=url, concurrency=8)
        # Coroutines, which it runs in its loop: functions would each take a thread.
        self.job, self.step, self.text, self.moment = map(self.task, map(coroutine, (job, step, text, moment)))

        async def total(ids: list[str]) -> int:
            return sum(await self.read(ids))

        async def report(ids: list[str]) -> None:
            self.answer(sum(await self.read(ids)))

        async def last(value: int) -> None:
            self.answer(step(value))

        async def length(ids: list[str]) -> None:
            self.answer(sum(map(len, await self.read(ids))))

        async def follow(ended: float, seconds: float) -> float:
            return await self.sleepy_hop(time.monotonic(), ended, seconds)

        async def end(ended: float) -> None:
            self.arrive(time.monotonic(), ended)

        async def gather(ids: list[str]) -> None:
            began = time.monotonic()
            self.arrive(began, max(await self.read(ids)))

        self.total, self.report, self.last, self.length = map(self.task, (total, report, last, length))
        self.follow, self.end, self.gather = map(self.task, (follow, end, gather))

    def task(self, function: Any) -> Any:
        return self.queue.task(name=function.__name__, silent=True)(function)

    async def read(self, ids: Iterable[str]) -> list[Any]:
        """Results all at once. `result_by_id()` subscribes to a channel before it reads, for each anew."""
        stored = await self.queue.redis.mget([self.queue.results_key + one for one in ids])
        return [(await self.queue.deserialize(result))["r"] for result in stored]

    @classmethod
    def worker(cls, url: str, env: Mapping[str, str], processes: int) -> OtherWorker:
        command = [sys.executable, "-m", "streaq", "run", "tests.benchmarks.streaq_contender:queue"]
        return OtherWorker([*command, "--workers", str(processes)], env={**env, "BENCH_STREAQ": url})

    def stored(self) -> list[bytes]:
        found: list[bytes] = self.client.mget(self.client.keys(f"{self.queue.task_key}*"))
        return found

    def fan(self, count: int) -> None:
        self.start(self.gathered(map(self.job.enqueue, range(count)), self.report))

    def series(self, beside: int, length: int) -> None:
        async def chains() -> None:
            for _ in range(beside):
                chain = self.step.enqueue(0)
                for _ in range(length - 2):
                    chain = chain.then(self.step)
                await chain.then(self.last)

        self.start(chains())

    def nested(self, outer: int, inner: int) -> None:
        async def fans() -> None:
            parts = [await self.gathered(map(self.job.enqueue, range(inner)), self.total) for _ in range(outer)]
            await self.after(parts, self.report)

        self.start(fans())

    def results(self, count: int, size: int) -> None:
        self.start(self.gathered((self.text.enqueue(size) for _ in range(count)), self.length))

    def handover(self, hops: int, seconds: float) -> None:
        async def one() -> None:
            chain = self.follow.enqueue(NONE_BEFORE, seconds)
            for _ in range(hops - 1):
                chain = chain.then(self.follow, seconds=seconds)
            await chain.then(self.end)

        self.start(one())

    def wide(self, members: int) -> None:
        self.start(self.gathered((self.moment.enqueue() for _ in range(members)), self.gather))

    def first(self, asked: float) -> None:
        async def one() -> None:
            await self.end.enqueue(asked)

        self.start(one())

    async def gathered(self, tasks: Iterable[Any], callback: Any) -> Any:
        """All of them, and one that waits for them and reads their results."""
        members = list(tasks)
        await self.queue.enqueue_many(members)
        return await self.after(members, callback)

    async def after(self, members: Iterable[Any], callback: Any) -> Any:
        ids = [member.id for member in members]
        return await callback.enqueue(ids).start(after=ids)

    def start(self, work: Coroutine[Any, Any, Any]) -> None:
        async def connected() -> None:
            async with self.queue:
                await work

        self.run(connected())


def coroutine(function: Any) -> Callable[..., Coroutine[Any, Any, Any]]:
    async def called(*arguments: Any) -> Any:
        return function(*arguments)

    called.__name__ = function.__name__
    return called


if "BENCH_STREAQ" in os.environ:
    queue = Streaqs(os.environ["BENCH_STREAQ"]).queue
