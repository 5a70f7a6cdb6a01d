"""BullMQ on Node: flows. `bullmq.js` is the program that starts the work, and the one worker, of 8 jobs at a time."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.contender import Contender
from tests.benchmarks.further import NODE_MODULES
from tests.benchmarks.workers import OtherWorker

SCRIPT = Path(__file__).with_name("bullmq.js")
QUEUE = "bench"


def command(role: str, url: str) -> list[str]:
    return ["node", str(SCRIPT), role, url]


def node_env() -> dict[str, str]:
    return {"NODE_PATH": str(NODE_MODULES.resolve())}


class NodeFlows(Contender):
    name = "BullMQ on Node: flow"
    scales = False  # a worker is what one's own program makes of it

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._producer = subprocess.Popen(
            command("producer", url),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **node_env()},
        )

    def producers(self) -> list[Any]:
        return [psutil.Process(self._producer.pid)]

    @classmethod
    def worker(cls, url: str, env: Mapping[str, str], processes: int) -> OtherWorker:
        return OtherWorker(command("worker", url), env={**env, **node_env()})

    def stored(self) -> list[bytes]:
        """What is kept of each job: all of its fields."""
        keys = [key for key in self.client.keys(f"bull:{QUEUE}:*") if self.client.type(key) == b"hash"]
        jobs = [self.client.hgetall(key) for key in keys]
        return [b"".join((*fields, *fields.values())) for fields in jobs if b"data" in fields]

    def close(self) -> None:
        self._producer.communicate()  # the end of its input is its own
        super().close()

    def fan(self, count: int) -> None:
        self.add("fan", count)

    def series(self, beside: int, length: int) -> None:
        self.add("series", beside, length)

    def nested(self, outer: int, inner: int) -> None:
        self.add("nested", outer, inner)

    def results(self, count: int, size: int) -> None:
        self.add("results", count, size)

    def handover(self, hops: int, seconds: float) -> None:
        self.add("handover", hops, seconds)

    def wide(self, members: int) -> None:
        self.add("wide", members)

    def first(self, asked: float) -> None:
        self.add("first", asked)

    def add(self, shape: str, *sizes: float) -> None:
        """Have it added, and wait until it is."""
        if self._producer.stdin is None or self._producer.stdout is None:
            raise RuntimeError("the producer has no pipes")
        print(json.dumps([shape, *sizes]), file=self._producer.stdin, flush=True)
        if self._producer.stdout.readline() != "added\n":
            raise RuntimeError(f"BullMQ on Node couldn't add {shape}")
