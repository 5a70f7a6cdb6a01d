"""What has happened in a world, and what is wrong with it."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import redis
from dramatiq import DramatiqError

from dramatiq_clutch import Run
from dramatiq_clutch.errors import RunNotFound
from dramatiq_clutch.status import RunStatus
from dramatiq_clutch.stored.places import BELOW
from tests.chaos.actors import (
    ABSORBED,
    EXECUTIONS,
    FORMATS,
    GOES,
    HEARD,
    MIXED_UP,
    RELEASES,
    REPEATED,
    SHAPES,
    SUCCESSES,
    Jobs,
    expected_of,
)
from tests.chaos.app import App
from tests.chaos.producer import AGAIN, CANCELLED, STARTED, TROUBLE
from tests.chaos.recorded import RecordedServer, Replayed
from tests.support.awaiting import wait_until
from tests.support.keyspace import clutch_keys, keys_without_expiry

#: What a succeeded run may leave until its results expire; one that was nested; and what a killed process was writing.
MAY_STAY = ("head", "tombstone", "members", "standing", "dead", "attempts", "times", "failures", "tally", "draft")
OF_NESTED = ("tombstone", "draft")

#: For how long the runs may go on after the last mischief, in seconds.
PATIENCE = 120


@dataclass
class Verdict:
    """Nothing is wrong if `wrong` is empty.

    Parameters:
      lenient: The state store has forgotten things: a job may work again after its success, a stage be released again,
        a run that was cancelled succeed; and a run that isn't there is started again.
    """

    title: str
    seed: int
    seconds: float
    events: Counter[str]
    lenient: bool = False
    runs: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    executions: int = 0
    absorbed: int = 0
    repeated: int = 0
    callbacks: int = 0
    duplicate_callbacks: int = 0
    formats: Counter[tuple[str, int]] = field(default_factory=Counter)
    replayed: Replayed = field(default_factory=Replayed)
    wrong: list[str] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict, repr=False)

    def table(self) -> str:
        rows = [("seed", self.seed), ("seconds of chaos", round(self.seconds)), *sorted(self.events.items())]
        rows += [("runs", sum(self.runs.values())), *((f"… {shape}", count) for shape, count in self.runs.items())]
        rows += [
            ("jobs", self.jobs),
            ("executions of jobs", self.executions),
            ("deliveries of finished jobs, skipped", self.absorbed),
            ("duties taken over or repeated", self.repeated),
            ("callbacks", self.callbacks),
            ("callbacks delivered twice", self.duplicate_callbacks),
            *self.replayed.rows(),
            ("lost, stuck, wrong, mixed up or out of place", len(self.wrong)),
        ]
        return "\n".join([f"| {self.title} | |", "|---|---|", *(f"| {what} | {count} |" for what, count in rows)])

    def judge(self, app: App) -> None:
        """Add what has become of an application's runs."""
        case = Case(app, self.lenient)
        try:
            self.wrong += [f"{app.name}: {wrong}" for wrong in self._look_at(case)]
        finally:
            case.jobs.close()

    def replay(self, servers: Sequence[RecordedServer]) -> None:
        """Add what the store in memory makes of the servers' histories."""
        for server in servers:
            server.end()
            server.replay(self.replayed)
        self.wrong += self.replayed.differences

    def _look_at(self, case: Case) -> Iterator[str]:
        notes = case.notes
        case.wait_until_over()
        yield from case.wrong_runs()
        yield from case.leavings()
        yield from case.wrong_jobs()
        yield from case.wrong_callbacks()
        yield from (what.decode() for what in sorted(notes.smembers(TROUBLE)))
        yield from (what.decode() for what in notes.lrange(MIXED_UP, 0, -1))
        self.runs.update(case.shapes.values())
        executions = [int(count) for count in notes.hvals(EXECUTIONS)]
        self.jobs += len(executions)
        self.executions += sum(executions)
        self.absorbed += int(notes.get(ABSORBED) or 0)
        self.repeated += sum(map(int, notes.hvals(REPEATED)))
        for entry, count in notes.hgetall(FORMATS).items():
            lane, version = entry.decode().split(" ")
            self.formats[lane.rstrip("0123456789"), int(version)] += int(count)
        heard = case.heard()
        callbacks = len({message_id for _, _, message_id in heard})
        self.callbacks += callbacks
        self.duplicate_callbacks += len(heard) - callbacks
        if self.lenient:
            self.events["runs started again, that were forgotten"] += int(notes.get(AGAIN) or 0) + case.again


class Case:
    """An application's runs, and what was written down of them."""

    def __init__(self, app: App, lenient: bool) -> None:
        self.app, self.lenient, self.again = app, lenient, 0
        self.jobs = Jobs(app)
        self.notes = cast(Any, self.jobs.notes)  # redis-py's types know nothing of bytes
        lanes = [(name.decode(), int(count)) for name, count in self.notes.zrange(STARTED, 0, -1, withscores=True)]
        numbers = [(lane, number) for lane, count in lanes for number in range(count)]
        self.shapes = {f"{lane}/{number}": SHAPES[number % len(SHAPES)] for lane, number in numbers}
        self.cancelled = {run_id.decode() for run_id in self.notes.smembers(CANCELLED)}
        self.statuses: dict[str, RunStatus | None] = {}

    def wait_until_over(self) -> None:
        """Those that aren't when the time is up are told one by one."""
        left = list(self.shapes)

        def are_over() -> bool:
            left[:] = [run_id for run_id in left if not self._is_over(run_id)]
            return not left

        with contextlib.suppress(AssertionError):
            wait_until("all runs to end", are_over, timeout=PATIENCE)
        self.statuses = {run_id: self._status(run_id) for run_id in self.shapes}

    def _is_over(self, run_id: str) -> bool:
        status = self._status(run_id)
        if status is None and self.lenient:
            self.jobs.run(run_id, self.shapes[run_id])
            self.again += 1
            return False
        return status is None or status.state not in ("running", "failing")

    def _status(self, run_id: str) -> RunStatus | None:
        try:
            return self.jobs.handle(run_id).status()
        except RunNotFound:
            return None

    def wrong_runs(self) -> Iterator[str]:
        for run_id, shape in self.shapes.items():
            for wrong in self._wrong_with(self.jobs.handle(run_id), shape):
                yield f"run {run_id} ({shape}) {wrong}"

    def _wrong_with(self, run: Run, shape: str) -> Iterator[str]:
        status, expected = self.statuses[run.run_id], expected_of(self.app, shape)
        if status is None:
            yield "is gone"
            return
        if status.error:
            yield f"has the error {status.error}"
        if expected == "cancelled":  # a producer that was killed couldn't say so
            must = run.run_id in self.cancelled and not self.lenient
            if status.state != "cancelled" and (must or status.state != "succeeded"):
                yield f"is {status.state}, not cancelled"
        elif expected == "failed":
            if status.state != "failed":
                yield f"is {status.state}, not failed"
        elif status.state != "succeeded":
            yield f"is {status.state}: {status.stages}"
        else:
            yield from _wrong_result(run, expected)

    def leavings(self) -> Iterator[str]:
        """The keys of succeeded runs that should be gone, and those that would stay for ever."""
        client, namespace = self.jobs.backend.client, self.jobs.backend.namespace

        def left_over() -> list[str]:
            left = [key for key in clutch_keys(client, namespace) if _is_left_over(client, key)]
            return [key for key in left if not (self.lenient and "}:callbacks:" in key)]  # forgotten: one has ended

        with contextlib.suppress(AssertionError):
            wait_until("the last duties to be done", lambda: not left_over(), timeout=30)
        yield from (f"left over: {key}" for key in left_over())
        yield from (f"without an expiry: {key}" for key in keys_without_expiry(client, namespace))

    def wrong_jobs(self) -> Iterator[str]:
        if self.lenient:
            return
        successes = {name.decode(): int(moment) for name, moment in self.notes.hgetall(SUCCESSES).items()}
        for entry in self.notes.lrange(GOES, 0, -1):
            name, moment = entry.decode().rsplit(" ", 1)
            if int(moment) > successes.get(name, int(moment)):
                yield f"job {name} was let run after its success"
        for where, count in self.notes.hgetall(RELEASES).items():
            if int(count) > 1:
                yield f"{where.decode()} was given {int(count)} times as if it were new"

    def heard(self) -> list[tuple[str, str, str]]:
        """Each callback that was heard: of which run, which event, and the id of its message."""
        entries = (entry.decode().split(" ") for entry in self.notes.lrange(HEARD, 0, -1))
        return [(name.partition("/")[2], event, message_id) for name, event, message_id in entries]

    def wrong_callbacks(self) -> Iterator[str]:
        """Every callback that is due was sent at least once. Two with the same id are one that was sent twice."""
        due = {(run_id, event) for run_id, status in self.statuses.items() for event in _events_of(status)}

        def missing() -> set[tuple[str, str]]:
            return due - {(run_id, event) for run_id, event, _ in self.heard()}

        with contextlib.suppress(AssertionError):
            wait_until("the callbacks", lambda: not missing(), timeout=30)
        yield from (f"run {run_id}: {event} was never sent" for run_id, event in sorted(missing()))


def _wrong_result(run: Run, expected: Any) -> Iterator[str]:
    try:
        result = run.get_result()
    except DramatiqError as error:
        yield f"has no result: {error!r}"
    else:
        if result != expected:
            yield f"has the result {result!r}, not {expected!r}"


def _events_of(status: RunStatus | None) -> list[str]:
    events = {
        "succeeded": ["on_success", "on_finish"],
        "failed": ["on_failure", "on_death", "on_failed", "on_finish"],
        "cancelled": ["on_finish"],
    }
    return events.get(status.state, []) if status else []


def _is_left_over(client: redis.Redis, key: str) -> bool:
    run, _, part = key.rpartition("}:")
    may_stay = OF_NESTED if BELOW in run else MAY_STAY
    return bool(run) and part.split(":")[0] not in may_stay and client.hget(f"{run}}}:head", "state") == b"succeeded"
