"""The jobs of the chaos run, and a state store that writes down what it does, for the verdict."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker

from dramatiq_clutch import Clutch, ClutchMiddleware, Run, ending, previous_results
from dramatiq_clutch.backend import Caller, GuardWord, Record, Reply
from dramatiq_clutch.backends import RedisBackend
from dramatiq_clutch.backends.redis.along import Along
from dramatiq_clutch.backends.redis.succeeding import Success, Word
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.errors import StateUnavailable
from dramatiq_clutch.stored import formats
from dramatiq_clutch.stored.duties import OpenStage
from dramatiq_clutch.stored.places import Tag
from tests.chaos.app import VARIABLE, App

T = TypeVar("T")

HOUR = 3_600_000

#: How long a worker may be silent before its messages are given to others, in milliseconds.
HEARTBEAT = 3_000

#: Short times, so that much can happen in a minute.
OPTIONS = {"lease": 2_000, "sweep_interval": 500, "result_ttl": HOUR}

# What is written down, each entry in the order in which the server took it.
CLOCK, SUCCESSES, GOES, EXECUTIONS = "clock", "successes", "goes", "executions"
RELEASES, REPEATED, HEARD, ABSORBED, MIXED_UP, FORMATS = "releases", "repeated", "heard", "absorbed", "mixed", "formats"


class WatchedBackend(RedisBackend):
    """Says, by the notes' own order of events, when a job was let run and when a success was recorded."""

    def __init__(self, watched: RedisBackend, notes: redis.Redis) -> None:
        super().__init__(client=watched.client, namespace=watched.namespace)
        self.notes = notes

    def _note(self, write: Callable[[], T]) -> T:
        try:
            return write()
        except redis.RedisError as error:
            raise StateUnavailable(f"nothing can be written down for now: {error}") from error

    def guard(self, tag: Tag, now: int, **more: Any) -> GuardWord:
        moment = self._note(lambda: self.notes.incr(CLOCK))
        word = super().guard(tag, now, **more)
        if word == "go":
            self._note(lambda: self.notes.rpush(GOES, f"{tag.message_id} {moment}"))
        else:
            self._note(lambda: self.notes.incr(ABSORBED))
        return word

    def record(self, record: Record, caller: Caller, along: Along | None = None, **more: Any) -> Reply:
        reply = super().record(record, caller, along, **more)
        if record.ending == "succeeded" and reply.word in ("counts", "duplicate") and not record.of_run:
            self._note_success(record)
        return self._watched(record.tag.run_id, reply)

    def succeed_together(self, successes: Sequence[Success]) -> list[Word]:
        words = super().succeed_together(successes)
        for (record, *_), word in zip(successes, words, strict=True):
            if word != b"look":
                self._note_success(record)
        return words

    def _note_success(self, record: Record) -> None:
        moment: Any = self._note(lambda: self.notes.incr(CLOCK))
        self._note(lambda: self.notes.hsetnx(SUCCESSES, record.tag.message_id, moment))

    def open(self, run_id: str, duty: OpenStage, total: int, caller: Caller) -> Reply:
        return self._watched(run_id, super().open(run_id, duty, total, caller))

    def owed(self, run_id: str, caller: Caller, *, generation: str = "") -> Reply:
        return self._watched(run_id, super().owed(run_id, caller, generation=generation))

    def sweep(self, run_id: str, caller: Caller, *, stalled_after: int, waits_for_jobs: bool = False) -> Reply:
        reply = super().sweep(run_id, caller, stalled_after=stalled_after, waits_for_jobs=waits_for_jobs)
        return self._watched(run_id, reply)

    def _watched(self, run_id: str, reply: Reply) -> Reply:
        for duty in (*reply.duties, *([reply.sent] if reply.sent else ())):
            if duty.kind == "send":
                where, what = RELEASES if not duty.repeated else REPEATED, f"{run_id} {duty.id}"
                self._note(lambda where=where, what=what: self.notes.hincrby(where, what, 1))  # type: ignore[misc]
        return reply


class Jobs:
    """An application's broker with its actors, and the clutches that it runs."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.broker = RedisBroker(
            url=app.broker, namespace=app.namespace, heartbeat_timeout=HEARTBEAT, maintenance_chance=1_000_000
        )
        self.notes: redis.Redis = redis.Redis.from_url(app.notes)
        self.backend = self._make_ready()
        notes = self.notes

        def executed(name: str) -> int:
            """How often this job has begun. The notes may be away: then it has not been counted, and fails."""
            owner, lane = name.split(" ")[0].split("/")[:2]
            if owner != app.name:
                notes.rpush(MIXED_UP, f"job {name} was executed by a worker of {app.name}")
            with notes.pipeline(transaction=False) as pipe:
                pipe.hincrby(EXECUTIONS, name, 1)
                pipe.hincrby(FORMATS, f"{lane} {formats.FORMAT}", 1)
                return int(pipe.execute()[0])

        @dramatiq.actor(broker=self.broker)
        def add(name: str, number: int) -> int:
            executed(name)
            time.sleep(0.01)  # the work
            total: int = number + sum(previous_results())
            return total

        @dramatiq.actor(broker=self.broker)
        def numbers(name: str, count: int) -> list[int]:
            executed(name)
            return [number * app.unit for number in range(count)]

        @dramatiq.actor(broker=self.broker)
        def double(name: str, number: int) -> int:
            executed(f"{name} {number}")
            time.sleep(0.01)
            return 2 * number

        @dramatiq.actor(broker=self.broker)
        def heals(name: str, after: int) -> str:
            if executed(name) <= after:
                raise ValueError(f"{name} isn't healed yet")
            return f"healed by {app.name}"

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
                Clutch(broker=self.broker)
                .parallel(double.message(f"{name} {index}", n * app.unit) for n in range(3))
                .nest()
                for index in range(count)
            ]

        @dramatiq.actor(broker=self.broker)
        def heard(name: str, status: dict[str, Any]) -> None:
            message: Any = dramatiq.middleware.CurrentMessage.get_current_message()
            while True:  # not by raising: what Retries can't send again while the server is away, Dramatiq loses
                try:
                    if not name.startswith(f"{app.name}/"):
                        notes.rpush(MIXED_UP, f"{status['event']} of {name} was heard by {app.name}")
                    notes.rpush(HEARD, f"{name} {status['event']} {message.message_id}")
                    return
                except (redis.ConnectionError, redis.TimeoutError):
                    time.sleep(0.1)

        self.add, self.numbers, self.double, self.heals, self.dies = add, numbers, double, heals, dies
        self.collect, self.nests, self.heard = collect, nests, heard

    def _make_ready(self) -> WatchedBackend:
        store = RedisBackend(url=self.app.state) if self.app.state else None
        ours = ClutchMiddleware(store, **{**OPTIONS, **self.app.options})
        self.broker.add_middleware(ours)
        engine = engine_of(self.broker)
        assert isinstance(engine.backend, RedisBackend)
        backend = WatchedBackend(engine.backend, self.notes)
        object.__setattr__(engine, "backend", backend)
        object.__setattr__(engine, "share", 8)  # wide stages are shared out
        ending.LEFT_FOR = 200  # two of three workers may have to put it back, and a series is five messages
        for known in self.broker.middleware:
            if isinstance(known, dramatiq.middleware.Retries):
                # A job fails while the notes are away, or the state store when it reads: nothing of that is final.
                known.min_backoff, known.max_backoff, known.max_retries = 20, 100, 10_000
        if not any(isinstance(known, dramatiq.middleware.CurrentMessage) for known in self.broker.middleware):
            self.broker.add_middleware(dramatiq.middleware.CurrentMessage())
        return backend

    def run(self, run_id: str, shape: str) -> Run:
        """Start a run of one of the `SHAPES`, every job named after it; again, if it isn't the first time."""
        return self._clutch(f"{self.app.name}/{run_id}", shape).run(run_id=run_id)

    def handle(self, run_id: str) -> Run:
        return Run(run_id, broker=self.broker)

    def close(self) -> None:
        self.broker.close()
        self.notes.close()

    def _clutch(self, name: str, shape: str) -> Clutch:
        events = ("on_failure", "on_death", "on_success", "on_failed", "on_finish")
        heard: Any = self.heard
        callbacks: Any = {event: heard.message(name) for event in events}
        root, add, one = Clutch(broker=self.broker, name=shape, **callbacks), self.add.message, self.app.unit
        if shape in ("series", "cancelled"):
            return root.then(*(add(f"{name} {n}", one) for n in range(5)))
        if shape == "wide":
            return root.parallel(add(f"{name} {n}", n * one) for n in range(20)).then(add(f"{name} end", 0))
        if shape == "nested":
            plain = Clutch(broker=self.broker)
            child = [plain.then(add(f"{name} {n}", n * one), add(f"{name} {n}b", n * one)) for n in range(3)]
            return root.parallel(plain.then(two) for two in child).then(self.collect.message(f"{name} end"))
        if shape == "nesting":
            return root.then(self.nests.message(f"{name} nests", 2)).then(self.collect.message(f"{name} end"))
        if shape == "limited":
            steps: Any = lambda: (add(f"{name} {n}", n * one) for n in range(20))  # noqa: E731
            return root.parallel(steps, limit=3).then(add(f"{name} end", 0))
        if shape == "mapped":
            ten, double = root.then(self.numbers.message(f"{name} list", 10)), cast(Any, self.double)
            return ten.map(double.message(f"{name} map")).then(add(f"{name} end", 0))
        if shape == "healing":
            return root.parallel(self.heals.message(f"{name} {n}", n) for n in range(3))
        if shape == "tolerant":
            members = [add(f"{name} a", one), self.dies.message(f"{name} b")]
            return root.parallel(members, allow_failures=True).then(self.collect.message(f"{name} end"))
        return root.parallel(add(f"{name} a", one), self.dies.message(f"{name} b"))


#: What each run has of these is decided by its number.
SHAPES = ("series", "wide", "limited", "nested", "nesting", "mapped", "healing", "tolerant", "dying", "cancelled")


def expected_of(app: App, shape: str) -> Any:
    """What comes of a shape: a result, or the state in which it ends."""
    one = app.unit
    return {
        "series": 5 * one,
        "wide": sum(range(20)) * one,
        "limited": sum(range(20)) * one,
        "nested": [0, 2 * one, 4 * one],
        "nesting": [[[0, 2 * one, 4 * one]] * 2],
        "mapped": 90 * one,
        "healing": [f"healed by {app.name}"] * 3,
        "tolerant": [one, None],
        "dying": "failed",
        "cancelled": "cancelled",
    }[shape]


if VARIABLE in os.environ:
    jobs = Jobs(App.from_env())
    broker = jobs.broker
    dramatiq.set_broker(broker)
