"""Contenders on Dramatiq: plain `send()`, and dramatiq-clutch.

What only one of them needs, only that one imports: the others' workers don't hold it in memory.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from tests.benchmarks.contender import NONE_BEFORE, Contender, job, moment, step, text
from tests.benchmarks.workers import WatchedWorker

#: The list of the waiting messages' ids, and the hash of all messages that aren't acked, by Dramatiq's Redis broker.
QUEUE, MESSAGES = "dramatiq:default", "dramatiq:default.msgs"


class OnDramatiq(Contender):
    """Worker processes with 8 threads each."""

    #: Actors that are called with fewer arguments than they take: the value before is appended.
    step: Any
    last: Any
    follow: Any
    end: Any

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.broker = RedisBroker(url=url)
        dramatiq.set_broker(self.broker)
        self.set_up()

    @abstractmethod
    def set_up(self) -> None:
        """Add the middleware and declare the actors."""

    @classmethod
    def worker(cls, url: str, env: Mapping[str, str], processes: int) -> WatchedWorker:
        env = {**env, "BENCH_WHO": cls.__name__, "BENCH_URL": url}
        return WatchedWorker("tests.benchmarks.contenders", processes=processes, threads=8, env=env)

    def stored(self) -> list[bytes]:
        messages: list[bytes] = self.client.hvals(MESSAGES)
        return messages

    def close(self) -> None:
        super().close()
        self.broker.close()


class Floor(OnDramatiq):
    """No group, no results, nobody who waits. The last job to end says so; in a series each job sends the next."""

    name = "floor: plain send()"
    hands_on = False

    def set_up(self) -> None:
        @dramatiq.actor(actor_name="job")
        def count_down(number: int, count: int) -> None:
            if self.client.incr("bench:done") == count:
                self.answer()

        @dramatiq.actor
        def hop(left: int) -> None:
            if left:
                self.step.send(left - 1)
            else:
                self.answer()

        @dramatiq.actor
        def follow(seconds: float, left: int, ended: float) -> None:
            ended = self.hop(time.monotonic(), ended, seconds)
            if left > 1:
                self.follow.send(seconds, left - 1, ended)
            else:
                self.end.send(ended)

        @dramatiq.actor
        def member(count: int) -> None:
            ended = time.monotonic()
            if self.client.incr("bench:done") == count:
                self.end.send(ended)

        @dramatiq.actor
        def end(ended: float) -> None:
            self.arrive(time.monotonic(), ended)

        self.job, self.step, self.follow, self.member, self.end = count_down, hop, follow, member, end

    def fan(self, count: int) -> None:
        self.client.delete("bench:done")
        for number in range(count):
            self.job.send(number, count)

    def series(self, beside: int, length: int) -> None:
        for _ in range(beside):
            self.step.send(length - 1)

    def handover(self, hops: int, seconds: float) -> None:
        self.follow.send(seconds, hops, NONE_BEFORE)

    def wide(self, members: int) -> None:
        self.client.delete("bench:done")
        for _ in range(members):
            self.member.send(members)

    def first(self, asked: float) -> None:
        self.end.send(asked)


class Clutches(OnDramatiq):
    name = "dramatiq-clutch"

    def set_up(self) -> None:
        from dramatiq_clutch import Clutch, ClutchMiddleware, previous_results

        self.broker.add_middleware(ClutchMiddleware())
        self.clutch: Any = Clutch()
        self.job, self.step, self.text = dramatiq.actor(job), dramatiq.actor(step), dramatiq.actor(text)

        @dramatiq.actor
        def total() -> int:
            return sum(previous_results())

        @dramatiq.actor
        def report() -> None:
            self.answer(sum(previous_results()))

        @dramatiq.actor
        def last(value: int) -> None:
            self.answer(step(value))

        @dramatiq.actor
        def length() -> None:
            self.answer(sum(map(len, previous_results())))

        @dramatiq.actor
        def number() -> None:
            self.answer(len(previous_results()))

        self.total, self.report, self.last, self.length, self.number = total, report, last, length, number

        @dramatiq.actor
        def follow(seconds: float, ended: float) -> float:
            return self.hop(time.monotonic(), ended, seconds)

        @dramatiq.actor
        def end(ended: float) -> None:
            self.arrive(time.monotonic(), ended)

        @dramatiq.actor
        def gather() -> None:
            self.arrive(time.monotonic(), max(previous_results()))

        self.follow, self.end, self.moment, self.gather = follow, end, dramatiq.actor(moment), gather

    def fan(self, count: int) -> None:
        self.clutch.parallel(map(self.job.message, range(count))).then(self.report).run()

    def series(self, beside: int, length: int) -> None:
        for _ in range(beside):
            later = [self.step.message() for _ in range(length - 2)]
            self.clutch.then(self.step.message(0)).then(*later, self.last, pipe=True).run()

    def nested(self, outer: int, inner: int) -> None:
        parts = [self.clutch.parallel(map(self.job.message, range(inner))).then(self.total) for _ in range(outer)]
        self.clutch.parallel(parts).then(self.report).run()

    def small(self, runs: int) -> None:
        for _ in range(runs):
            clutch = self.clutch
            for _ in range(3):
                clutch = clutch.parallel(map(self.job.message, range(3)))
            clutch.then(self.report).run()

    def results(self, count: int, size: int) -> None:
        self.clutch.parallel(self.text.message(size) for _ in range(count)).then(self.length).run()

    def handover(self, hops: int, seconds: float) -> None:
        later = [self.follow.message(seconds) for _ in range(hops - 1)]
        self.clutch.then(self.follow.message(seconds, NONE_BEFORE)).then(*later, self.end, pipe=True).run()

    def wide(self, members: int) -> None:
        self.clutch.parallel(self.moment.message() for _ in range(members)).then(self.gather).run()

    def first(self, asked: float) -> None:
        self.clutch.then(self.end.message(asked)).run()

    def stream(self, count: int, limit: int) -> None:
        """A stage that is never in memory as a whole, and of which no more than `limit` jobs are sent at a time."""
        self.clutch.parallel(lambda: map(self.job.message, range(count)), limit=limit).then(self.number).run()
