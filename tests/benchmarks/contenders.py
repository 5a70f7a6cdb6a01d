"""The same work, done by each: `count` jobs side by side that do nothing, then one that puts their results together.

A worker process imports this module with BENCH_URL and BENCH_WHO set; a producer makes the contenders itself.
"""

from __future__ import annotations

import os
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker

ANSWER = "bench:answer"


class Contender:
    """`start` sends the work; the answer is pushed onto ANSWER when all of it is done."""

    def __init__(self, url: str) -> None:
        self.broker = RedisBroker(url=url)
        self.client: Any = self.broker.client
        dramatiq.set_broker(self.broker)
        self.set_up()

    def set_up(self) -> None:
        raise NotImplementedError

    def start(self, count: int) -> None:
        raise NotImplementedError

    def answer(self, count: int) -> int:
        """What has to come out."""
        return sum(range(count))


class Floor(Contender):
    """Plain `send()`: no group, no results, nobody who waits. The last job to end says so."""

    def set_up(self) -> None:
        @dramatiq.actor
        def job(number: int, count: int) -> None:
            if self.client.incr("bench:done") == count:
                self.client.rpush(ANSWER, sum(range(count)))

        self.job = job

    def start(self, count: int) -> None:
        for number in range(count):
            self.job.send(number, count)


class Clutches(Contender):
    def set_up(self) -> None:
        from dramatiq_clutch import Clutch, ClutchMiddleware, previous_results

        self.broker.add_middleware(ClutchMiddleware())

        @dramatiq.actor
        def job(number: int) -> int:
            return number

        @dramatiq.actor
        def total() -> None:
            self.client.rpush(ANSWER, sum(previous_results()))

        self.work: Any = lambda count: Clutch().parallel(job.message(number) for number in range(count)).then(total)

    def start(self, count: int) -> None:
        self.work(count).run()


class Groups(Contender):
    """Dramatiq's own group, with a completion callback that reads the results."""

    def set_up(self) -> None:
        from dramatiq.middleware import GroupCallbacks
        from dramatiq.rate_limits.backends import RedisBackend as RateLimits
        from dramatiq.results import Results
        from dramatiq.results.backends import RedisBackend as Stored

        self.broker.add_middleware(GroupCallbacks(RateLimits(client=self.client)))
        stored = Stored(client=self.client)
        self.broker.add_middleware(Results(backend=stored))

        @dramatiq.actor(store_results=True)
        def job(number: int) -> int:
            return number

        @dramatiq.actor
        def total(message_ids: list[str]) -> None:
            messages = (job.message(0).copy(message_id=message_id) for message_id in message_ids)
            self.client.rpush(ANSWER, sum(message.get_result(backend=stored) for message in messages))

        self.job, self.total = job, total

    def start(self, count: int) -> None:
        messages = [self.job.message(number) for number in range(count)]
        group = dramatiq.group(messages)
        group.add_completion_callback(self.total.message([message.message_id for message in messages]))
        group.run()


class Workflows(Contender):
    """dramatiq-workflow. It hands no results on, so its last job only says that it has come."""

    def set_up(self) -> None:
        from dramatiq.rate_limits.backends import RedisBackend as RateLimits
        from dramatiq_workflow import Chain, Group, Workflow, WorkflowMiddleware

        self.broker.add_middleware(WorkflowMiddleware(RateLimits(client=self.client)))

        @dramatiq.actor
        def job(number: int) -> None: ...

        @dramatiq.actor
        def total() -> None:
            self.client.rpush(ANSWER, 0)

        self.work: Any = lambda count: Workflow(Chain(Group(*map(job.message, range(count))), total.message()))

    def start(self, count: int) -> None:
        self.work(count).run()

    def answer(self, count: int) -> int:
        return 0


CONTENDERS: dict[str, type[Contender]] = {
    "floor: plain send()": Floor,
    "dramatiq-clutch": Clutches,
    "group + callback + Results": Groups,
    "dramatiq-workflow": Workflows,
}

if "BENCH_WHO" in os.environ:
    contender = CONTENDERS[os.environ["BENCH_WHO"]](os.environ["BENCH_URL"])
    broker = contender.broker
    broker.emit_after("process_boot")
