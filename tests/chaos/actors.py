"""The jobs of the chaos run, and a state store that writes down what it does, for the verdict."""

from __future__ import annotations

import os
import time
from typing import Any, cast

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker

from dramatiq_clutch import Clutch, ClutchMiddleware, Run, previous_results
from dramatiq_clutch.backend import Caller, Duty, GuardWord, Onward, Record, Reply
from dramatiq_clutch.backends import RedisBackend
from dramatiq_clutch.plan import Tag

HOUR = 3_600_000

#: How long a worker may be silent before its messages are given to others, in milliseconds.
HEARTBEAT = 3_000

# What is written down, each entry in the order in which the server took it.
CLOCK, SUCCESSES, GOES, EXECUTIONS = "chaos:clock", "chaos:successes", "chaos:goes", "chaos:executions"
RELEASES, REPEATED, HEARD, ABSORBED = "chaos:releases", "chaos:repeated", "chaos:heard", "chaos:absorbed"


class WatchedBackend(RedisBackend):
    """Says, by the server's own order of events, when a job was let go and when a success was recorded."""

    def _note(self, write: Any) -> Any:
        return self._ask(write)

    def guard(self, tag: Tag) -> GuardWord:
        moment = self._note(lambda: self.client.incr(CLOCK))
        word = super().guard(tag)
        if word == "go":
            self._note(lambda: self.client.rpush(GOES, f"{tag.message_id} {moment}"))
        else:
            self._note(lambda: self.client.incr(ABSORBED))
        return word

    def record(self, record: Record, caller: Caller, onward: Onward | None = None) -> Reply:
        reply = super().record(record, caller, onward)
        if record.ending == "succeeded" and reply.word in ("counts", "duplicate") and not record.of_run:
            moment = self._note(lambda: self.client.incr(CLOCK))
            self._note(lambda: self.client.hsetnx(SUCCESSES, record.tag.message_id, moment))
        return self._watched(record.tag.run_id, reply)

    def open(self, run_id: str, duty: Duty, total: int, caller: Caller) -> Reply:
        return self._watched(run_id, super().open(run_id, duty, total, caller))

    def owed(self, run_id: str, caller: Caller) -> Reply:
        return self._watched(run_id, super().owed(run_id, caller))

    def _watched(self, run_id: str, reply: Reply) -> Reply:
        for duty in (*reply.duties, *([reply.sent] if reply.sent else ())):
            if duty.kind == "send":
                where = RELEASES if not duty.again else REPEATED
                self._note(lambda where=where, duty=duty: self.client.hincrby(where, f"{run_id} {duty.id}", 1))
        return reply


class Jobs:
    def __init__(self, url: str) -> None:
        self.broker = RedisBroker(url=url, heartbeat_timeout=HEARTBEAT, maintenance_chance=1_000_000)
        self.client: redis.Redis = self.broker.client
        backend = WatchedBackend(url=url)
        ours = ClutchMiddleware(backend, lease=2_000, sweep_interval=500, result_ttl=HOUR)
        self.broker.add_middleware(ours)
        object.__setattr__(ours.engine(self.broker), "share", 8)  # wide stages are shared out
        client = self.client
        for middleware in self.broker.middleware:
            if isinstance(middleware, dramatiq.middleware.Retries):
                middleware.min_backoff, middleware.max_backoff = 20, 100

        def executed(name: str) -> int:
            """How often this job has begun. The server may be away: then it has not been counted, and fails."""
            return int(client.hincrby(EXECUTIONS, name, 1))

        @dramatiq.actor(broker=self.broker)
        def add(name: str, number: int) -> int:
            executed(name)
            time.sleep(0.01)  # the work
            total: int = number + sum(previous_results())
            return total

        @dramatiq.actor(broker=self.broker)
        def numbers(name: str, count: int) -> list[int]:
            executed(name)
            return list(range(count))

        @dramatiq.actor(broker=self.broker)
        def double(name: str, number: int) -> int:
            executed(f"{name} {number}")
            time.sleep(0.01)
            return 2 * number

        @dramatiq.actor(broker=self.broker, max_retries=50)
        def heals(name: str, after: int) -> str:
            if executed(name) <= after:
                raise ValueError(f"{name} isn't healed yet")
            return "healed"

        @dramatiq.actor(broker=self.broker, throws=LookupError)
        def dies(name: str) -> None:
            executed(name)
            raise LookupError(f"{name} dies")

        @dramatiq.actor(broker=self.broker)
        def collect(name: str) -> list[Any]:
            executed(name)
            return previous_results()

        @dramatiq.actor(broker=self.broker)
        def nests(name: str, count: int) -> list[Run]:
            executed(name)
            return [
                Clutch(broker=self.broker).parallel(double.message(f"{name}/{n}", n) for n in range(3)).nest()
                for _ in range(count)
            ]

        @dramatiq.actor(broker=self.broker)
        def heard(name: str, status: dict[str, Any]) -> None:
            message: Any = dramatiq.middleware.CurrentMessage.get_current_message()
            while True:  # not by raising: what Retries can't send again while the server is away, Dramatiq loses
                try:
                    client.rpush(HEARD, f"{name} {status['event']} {message.message_id}")
                    return
                except (redis.ConnectionError, redis.TimeoutError):
                    time.sleep(0.1)

        self.add, self.numbers, self.double, self.heals, self.dies = add, numbers, double, heals, dies
        self.collect, self.nests, self.heard = collect, nests, heard
        if not any(isinstance(known, dramatiq.middleware.CurrentMessage) for known in self.broker.middleware):
            self.broker.add_middleware(dramatiq.middleware.CurrentMessage())

    def clutch(self, name: str, shape: str) -> Clutch:
        """One of the `SHAPES`, every job named after the run."""
        events = ("on_failure", "on_death", "on_success", "on_finish")
        heard: Any = self.heard
        callbacks: Any = {event: heard.message(name) for event in events}
        root, add = Clutch(broker=self.broker, name=shape, **callbacks), self.add.message
        if shape in ("series", "cancelled"):
            return root.then(*(add(f"{name} {n}", 1) for n in range(5)))
        if shape == "wide":
            return root.parallel(add(f"{name} {n}", n) for n in range(20)).then(add(f"{name} end", 0))
        if shape == "nested":
            plain = Clutch(broker=self.broker)
            child = [plain.then(add(f"{name} {n}", n), add(f"{name} {n}b", n)) for n in range(3)]
            return root.parallel(Clutch(broker=self.broker).then(one) for one in child).then(
                self.collect.message(f"{name} end")
            )
        if shape == "nesting":
            return root.then(self.nests.message(f"{name} nests", 2)).then(self.collect.message(f"{name} end"))
        if shape == "limited":
            steps: Any = lambda: (add(f"{name} {n}", n) for n in range(20))  # noqa: E731
            return root.parallel(steps, limit=3).then(add(f"{name} end", 0))
        if shape == "mapped":
            three, double = root.then(self.numbers.message(f"{name} list", 10)), cast(Any, self.double)
            return three.map(double.message(f"{name} map")).then(add(f"{name} end", 0))
        if shape == "healing":
            return root.parallel(self.heals.message(f"{name} {n}", n) for n in range(3))
        if shape == "tolerant":
            members = [add(f"{name} a", 1), self.dies.message(f"{name} b")]
            return root.parallel(members, allow_failures=True).then(self.collect.message(f"{name} end"))
        return root.parallel(add(f"{name} a", 1), self.dies.message(f"{name} b"))


#: The shapes, and what comes of each: a result, or the state in which it ends.
SHAPES: dict[str, Any] = {
    "series": 5,
    "wide": sum(range(20)),
    "limited": sum(range(20)),
    "nested": [0, 2, 4],
    "nesting": [[[0, 2, 4], [0, 2, 4]]],
    "mapped": 90,
    "healing": ["healed"] * 3,
    "tolerant": [1, None],
    "dying": "failed",
    "cancelled": "cancelled",
}

if "CHAOS_URL" in os.environ:
    jobs = Jobs(os.environ["CHAOS_URL"])
    broker = jobs.broker
    dramatiq.set_broker(broker)
