"""BullMQ's package for Python: flows. One worker of 8 jobs at a time.

`python -m tests.benchmarks.bullmq_contender` is a worker, with BENCH_BULLMQ set to the server's address; a producer
makes the contender itself.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

from bullmq import FlowProducer, Worker

from tests.benchmarks.contender import NONE_BEFORE, AsyncContender, step
from tests.benchmarks.workers import OtherWorker

QUEUE = "bench"
#: Jobs that follow none: there is nothing that they would ask for.
LEAVES = ("job", "text", "moment", "first")


def node(name: str, value: Any = None, children: Iterable[dict[str, Any]] = ()) -> dict[str, Any]:
    """A job of a flow, and those that it waits for."""
    return {"name": name, "queueName": QUEUE, "data": {"value": value}, "children": [*children]}


def chain(first: dict[str, Any], *later: dict[str, Any]) -> dict[str, Any]:
    for following in later:
        following["children"] = [first]
        first = following
    return first


def fan_of(count: int, callback: str) -> dict[str, Any]:
    return node(callback, children=(node("job", number) for number in range(count)))


class Flows(AsyncContender):
    name = "BullMQ for Python: flow"
    scales = False  # a worker is what one's own program makes of it

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._producer: Any = None

    @classmethod
    def worker(cls, url: str, env: Mapping[str, str], processes: int) -> OtherWorker:
        command = [sys.executable, "-m", "tests.benchmarks.bullmq_contender"]
        return OtherWorker(command, env={**env, "BENCH_BULLMQ": url})

    def stored(self) -> list[bytes]:
        """What is kept of each job: all of its fields."""
        keys = [key for key in self.client.keys(f"bull:{QUEUE}:*") if self.client.type(key) == b"hash"]
        jobs = [self.client.hgetall(key) for key in keys]
        return [b"".join((*fields, *fields.values())) for fields in jobs if b"data" in fields]

    async def disconnect(self) -> None:
        if self._producer is not None:
            await self._producer.close()

    def fan(self, count: int) -> None:
        self.add(fan_of(count, "report"))

    def series(self, beside: int, length: int) -> None:
        for _ in range(beside):
            self.add(chain(node("step", 0), *(node("step") for _ in range(length - 2)), node("last")))

    def nested(self, outer: int, inner: int) -> None:
        self.add(node("report", children=(fan_of(inner, "total") for _ in range(outer))))

    def results(self, count: int, size: int) -> None:
        self.add(node("length", children=(node("text", size) for _ in range(count))))

    def handover(self, hops: int, seconds: float) -> None:
        later = (node("follow", seconds) for _ in range(hops - 1))
        self.add(chain(node("follow", seconds), *later, node("end")))

    def wide(self, members: int) -> None:
        self.add(node("end", children=(node("moment") for _ in range(members))))

    def first(self, asked: float) -> None:
        self.add(node("first", asked))

    def add(self, flow: dict[str, Any]) -> None:
        async def start() -> None:
            if self._producer is None:
                self._producer = FlowProducer(self.url)
            await self._producer.add(flow)

        self.run(start())

    async def process(self, job: Any, token: str) -> Any:
        """What a worker does, whatever the job: its name says what that is."""
        began = time.monotonic()
        value = job.data["value"]
        before = () if job.name in LEAVES else (await job.getChildrenValues()).values()
        match job.name:
            case "job":
                return value
            case "text":
                return "x" * value
            case "moment":
                return time.monotonic()
            case "step":
                return step(*before or [value])
            case "total":
                return sum(before)
            case "report":
                return self.answer(sum(before))
            case "last":
                return self.answer(step(*before))
            case "length":
                return self.answer(sum(map(len, before)))
            case "follow":
                return await self.sleepy_hop(began, max(before, default=NONE_BEFORE), value)
            case "first":
                return self.arrive(began, value)
            case "end":
                return self.arrive(began, max(before))
        raise ValueError(f"no such job: {job.name}")


async def work(url: str) -> None:
    worker = Worker(QUEUE, Flows(url).process, {"connection": url, "concurrency": 8})
    worker.on("error", print)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(work(os.environ["BENCH_BULLMQ"]))
