"""Real workers, a real server, hundreds of runs; kills, pauses and outages at random moments; then the verdict."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import redis

from dramatiq_clutch import Run
from tests.chaos.actors import (
    ABSORBED,
    EXECUTIONS,
    GOES,
    HEARD,
    HEARTBEAT,
    RELEASES,
    REPEATED,
    SHAPES,
    SUCCESSES,
    Jobs,
)
from tests.chaos.producer import CANCELLED, STARTED
from tests.support.awaiting import wait_until
from tests.support.keyspace import clutch_keys, keys_without_expiry
from tests.support.server import Server
from tests.support.workers import ROOT, Worker

#: What a run that is over may leave until its results expire; and what a killed process was writing, for some minutes.
MAY_STAY = ("head", "bell", "mark", "marks", "standing", "details", "draft")


@dataclass
class Verdict:
    """What has happened, and what is wrong with it: nothing, if `wrong` is empty."""

    seed: int
    seconds: float
    events: Counter[str]
    runs: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    executions: int = 0
    absorbed: int = 0
    repeated: int = 0
    callbacks: int = 0
    duplicate_callbacks: int = 0
    wrong: list[str] = field(default_factory=list)

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
            ("lost, stuck, wrong or out of place", len(self.wrong)),
        ]
        return "\n".join(["| | |", "|---|---|", *(f"| {what} | {count} |" for what, count in rows)])


class Chaos:
    """Parameters: `seed` decides what happens and when, though not what the machine makes of it; `seconds` how long;
    `pause` how many seconds a producer rests between two runs."""

    def __init__(self, seed: int, seconds: float, *, workers: int = 3, pause: float = 0.05) -> None:
        self.seed, self.seconds, self.pause = seed, seconds, pause
        self.random = random.Random(seed)
        self.events: Counter[str] = Counter()
        self.server = Server(durable=True)
        env = {"CHAOS_URL": self.server.url}
        self.env = {**os.environ, **env}
        self.workers = [Worker("tests.chaos.actors", env=env, threads=4) for _ in range(workers)]
        self.log = tempfile.NamedTemporaryFile("w+", prefix="chaos-producer-")  # noqa: SIM115
        self.producer: subprocess.Popen[bytes] | None = None

    def run(self) -> Verdict:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.log)
            stack.enter_context(self.server)
            for worker in self.workers:
                stack.enter_context(worker)
            stack.callback(self.kill_producer)
            self.start_producer()
            began = time.monotonic()
            while time.monotonic() - began < self.seconds:
                time.sleep(self.random.uniform(0.3, 1.2))  # nothing to wait for: the moment is what is random
                self.random.choice(self.mischief())()
            self.kill_producer()
            self.recover()
            return self.judge(time.monotonic() - began)

    # Mischief

    def mischief(self) -> list[Callable[[], None]]:
        often = [self.kill_worker] * 6 + [self.kill_the_producer] * 3 + [self.flush_scripts, self.cut_connections] * 2
        return [*often, self.pause_worker, self.pause_worker, self.restart_server, self.kill_server]

    def kill_worker(self) -> None:
        worker = self.random.choice(self.workers)
        worker.kill()
        worker.start()
        self.events["workers killed (-9)"] += 1

    def kill_the_producer(self) -> None:
        self.kill_producer()
        self.start_producer()
        self.events["producers killed (-9)"] += 1

    def pause_worker(self) -> None:
        """Longer than the heartbeat: what it works on is given to others, and then it wakes up."""
        worker = self.random.choice(self.workers)
        worker.pause()
        time.sleep(HEARTBEAT / 1000 + 0.5)
        worker.resume()
        self.events["workers paused, longer than their heartbeat"] += 1

    def restart_server(self) -> None:
        self.server.stop()
        self.server.start()
        self.events["servers stopped and started"] += 1

    def kill_server(self) -> None:
        self.server.kill()
        self.server.start()
        self.events["servers killed (-9)"] += 1

    def flush_scripts(self) -> None:
        with self.server.client() as client:
            client.script_flush()
        self.events["SCRIPT FLUSH"] += 1

    def cut_connections(self) -> None:
        with self.server.client() as client:
            client.client_kill_filter(_type="normal", skipme=True)
        self.events["all connections cut"] += 1

    def start_producer(self) -> None:
        command = [sys.executable, "-m", "tests.chaos.producer", str(self.pause)]
        self.producer = subprocess.Popen(command, cwd=ROOT, env=self.env, stdout=self.log, stderr=self.log)

    def kill_producer(self) -> None:
        if self.producer is not None:
            self.producer.kill()
            self.producer.wait()
            self.producer = None

    # The verdict

    def recover(self) -> None:
        """Restart all workers: what a live one had fetched without getting the reply is never delivered again."""
        for worker in self.workers:
            worker.kill()
            worker.start()

    def judge(self, seconds: float) -> Verdict:
        jobs = Jobs(self.server.url)
        verdict = Verdict(self.seed, seconds, self.events)
        started = int(jobs.client.get(STARTED) or 0)
        runs = [Run(f"chaos-{number}", broker=jobs.broker) for number in range(started)]
        with contextlib.suppress(AssertionError):  # those that don't are told one by one
            wait_until("all runs to end", lambda: all(map(is_over, runs)), timeout=120)
        cancelled = {int(number) for number in jobs.client.smembers(CANCELLED)}
        shapes = list(SHAPES)
        for number, run in enumerate(runs):
            shape = shapes[number % len(shapes)]
            verdict.runs[shape] += 1
            verdict.wrong += wrong_with(run, shape, cancelled=number in cancelled)
        with contextlib.suppress(AssertionError):
            wait_until("the last duties to be done", lambda: not list(left_over(jobs.client)), timeout=30)
        verdict.wrong += [f"left over: {key}" for key in left_over(jobs.client)]
        verdict.wrong += [f"without an expiry: {key}" for key in keys_without_expiry(jobs.client)]
        self.look_at_the_jobs(jobs.client, verdict)
        self.listen(jobs.client, runs, verdict)
        jobs.broker.close()
        return verdict

    def look_at_the_jobs(self, client: Any, verdict: Verdict) -> None:
        successes = {name.decode(): int(moment) for name, moment in client.hgetall(SUCCESSES).items()}
        for entry in client.lrange(GOES, 0, -1):
            name, moment = entry.decode().rsplit(" ", 1)
            if int(moment) > successes.get(name, int(moment)):
                verdict.wrong.append(f"job {name} was let go after its success")
        for where, count in client.hgetall(RELEASES).items():
            if int(count) > 1:
                verdict.wrong.append(f"{where.decode()} was given {int(count)} times as if it were new")
        executions = [int(count) for count in client.hvals(EXECUTIONS)]
        verdict.jobs, verdict.executions = len(executions), sum(executions)
        verdict.absorbed = int(client.get(ABSORBED) or 0)
        verdict.repeated = sum(map(int, client.hvals(REPEATED)))

    def listen(self, client: Any, runs: list[Run], verdict: Verdict) -> None:
        """Every callback that is due was sent at least once. Two with the same id are one that was sent twice."""

        def heard() -> list[list[str]]:
            return [entry.decode().split(" ") for entry in client.lrange(HEARD, 0, -1)]

        due = {(run.run_id, event) for run in runs if is_over(run) for event in events_of(run)}
        with contextlib.suppress(AssertionError):
            wait_until("the callbacks", lambda: due <= {(name, event) for name, event, _ in heard()}, timeout=30)
        all_heard = heard()
        missing = due - {(name, event) for name, event, _ in all_heard}
        verdict.wrong += [f"run {name}: {event} was never sent" for name, event in sorted(missing)]
        verdict.callbacks = len({message_id for _, _, message_id in all_heard})
        verdict.duplicate_callbacks = len(all_heard) - verdict.callbacks


def is_over(run: Run) -> bool:
    return run.status().state not in ("running", "failing")


def events_of(run: Run) -> list[str]:
    state = run.status().state
    if state == "failed":
        return ["on_failure", "on_death", "on_finish"]
    return ["on_finish"] if state == "cancelled" else ["on_success", "on_finish"]


def wrong_with(run: Run, shape: str, *, cancelled: bool) -> Iterator[str]:
    status, expected = run.status(), SHAPES[shape]
    if status.error:
        yield f"run {run.run_id} ({shape}): {status.error}"
    if expected == "failed" or cancelled:
        state = "cancelled" if cancelled else "failed"
        if status.state != state:
            yield f"run {run.run_id} ({shape}) is {status.state}, not {state}"
    elif expected == "cancelled" and status.state == "cancelled":
        return  # the producer was killed before it could say so
    elif status.state != "succeeded":
        yield f"run {run.run_id} ({shape}) is {status.state}: {status.stages}"
    elif expected != "cancelled" and run.get_result() != expected:
        yield f"run {run.run_id} ({shape}) has the result {run.get_result()!r}, not {expected!r}"


def left_over(client: redis.Redis) -> Iterator[str]:
    """The keys of succeeded runs that should be gone."""
    for key in clutch_keys(client):
        if "}:" in key and key.rsplit("}:")[1].split(":")[0] not in MAY_STAY:
            head = key.rsplit("}:")[0] + "}:head"
            if client.hget(head, "state") == b"succeeded":
                yield key
