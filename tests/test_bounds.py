"""No step works on more than a thousand members, whatever there is of them; memory and bytes go by the chunk."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import Message
from dramatiq.brokers.redis import RedisBroker

from dramatiq_clutch import Clutch, ClutchMiddleware, Run, handover
from dramatiq_clutch.backend import Record
from dramatiq_clutch.backends import RedisBackend
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.failures import failure_details
from dramatiq_clutch.stored.messages import to_row
from dramatiq_clutch.stored.places import Tag
from dramatiq_clutch.stored.plan import Plan, Spec, StageLine
from tests.conftest import running_worker
from tests.support import actors
from tests.support.application import application
from tests.support.awaiting import wait_until
from tests.support.jobs import Jobs
from tests.support.keyspace import NAMESPACE, key_of
from tests.support.proxy import Proxy, name_of
from tests.support.server import Server
from tests.support.tags import tag_in
from tests.support.workers import Worker

#: No call of a script is to take longer, in microseconds. None needs 20 ms; the rest is for a machine that is so busy
#: that the server itself has to wait for its turn. A retry in one step was three seconds.
MOST = 1_000_000

MANY, HALF = 100_000, 50_000


@contextlib.contextmanager
def scripts_timed(client: redis.Redis) -> Iterator[dict[str, list[int]]]:
    """How long, in microseconds, the server has worked on each call of a script that took it more than a millisecond,
    by the script's name."""
    client.config_set("slowlog-log-slower-than", 1_000)
    client.config_set("slowlog-max-len", 100_000)
    client.slowlog_reset()
    found: dict[str, list[int]] = defaultdict(list)
    yield found
    slow: Any = client.slowlog_get(100_000)
    for entry in slow:
        if entry["command"].startswith(b"EVALSHA"):
            found[name_of(entry["command"].split(b" "))].append(entry["duration"])
    client.config_set("slowlog-log-slower-than", 10_000)


def show(what: str, micros: dict[str, list[int]]) -> int:
    """Print the times, for Sizing in tests/benchmarks/README.md (seen with `pytest -s`). Returns the longest."""
    for name, times in sorted(micros.items()):
        shown = f"{len(times)} over 1 ms, median {median(times) / 1_000:.1f} ms, max {max(times) / 1_000:.1f} ms"
        print(f"{what}: {name}, {shown}")
    return max((max(times) for times in micros.values()), default=0)


def many_dead(broker: RedisBroker, count: int) -> Run:
    """A failed run with a stage of as many dead members, as if each had been recorded."""
    engine, client = engine_of(broker), broker.client
    row = to_row(Message("default", "job", ("a",), {}, {}))
    plan = Plan(Spec(generation="0123abcd"), (StageLine(0, count, many=True),), (row,) * count)
    engine.backend.create("many", plan, engine.caller("test"), run_ttl=600_000, result_ttl=600_000)
    client.unlink(key_of(client, "many", "outbox"))
    marks, dead, details = (key_of(client, "many", f"{part}:0") for part in ("members", "dead", "attempts"))
    text = b"0 0 " + failure_details(ValueError("no"), actor="job", message_id="m", attempts=1)
    for at in range(0, count, 5_000):
        members = [str(member) for member in range(at, at + 5_000)]
        pipe = client.pipeline(transaction=False)
        pipe.hset(marks, mapping=dict.fromkeys(members, ""))
        pipe.zadd(dead, {member: int(member) for member in members})
        pipe.hset(details, mapping=dict.fromkeys(members, text))
        pipe.execute()
    for key in (marks, dead, details):
        client.pexpire(key, 600_000)
    client.hset(f"{NAMESPACE}:{{many}}:head", mapping={"state": "failed", "alarmed": "1", "mourned": "1"})
    return Run("many")


@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_a_retry_of_100_000_dead_members_holds_nobody_up_and_sends_each_once(
    server: Server, redis_client: redis.Redis
) -> None:
    with application(redis_client, sweep_interval=None, lease=30_000) as app:
        Jobs(app.broker)
        run = many_dead(app.broker, MANY)
        assert run.status().stages[0].dead == MANY
        done, waits = threading.Event(), list[float]()

        def be_served() -> None:
            with server.client() as other:
                while not done.is_set():
                    began = time.monotonic()
                    other.get("anything")
                    waits.append(time.monotonic() - began)
                    done.wait(0.01)

        other = threading.Thread(target=be_served)
        other.start()
        try:
            with scripts_timed(redis_client) as micros:
                assert run.retry()
        finally:
            done.set()
            other.join(60)
        assert show("retry() of 100,000 dead members", micros) < MOST
        assert len(waits) > 20  # others are served in between
        assert median(waits) < 0.25
        keys: Any = redis_client.hkeys(f"{app.broker.namespace}:default.msgs")
        ids = Counter(key.partition(b":")[0] for key in keys)
        assert len(ids) == MANY
        assert set(ids.values()) == {1}
        assert run.status().stages[0].dead == 0


@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_a_stage_of_50_000_is_started_worked_on_cancelled_and_taken_up_again_in_small_steps(
    redis_client: redis.Redis,
) -> None:
    with application(redis_client, sweep_interval=None, lease=30_000) as app:
        jobs = Jobs(app.broker)
        row = jobs.job.message("a")
        with scripts_timed(redis_client) as micros:
            run = Clutch().parallel(lambda: (row for _ in range(HALF))).run()
            assert run.status().stages[0].total == HALF
            assert run.cancel()
            assert run.retry()
            assert run.resend()
            assert run.status().state == "running"
        assert show("run(), cancel(), retry() and resend() of 50,000 jobs", micros) < MOST


# Many nested runs


def patient(server: Server) -> actors.Setting:
    """Its sweepers look when somebody says so, and never by themselves."""
    return actors.Setting(server.url, options={"sweep_interval": 3_600_000})


@pytest.fixture
def nested(server: Server, redis_client: redis.Redis) -> Iterator[RedisBroker]:
    """The broker of a producer; its jobs are in a queue that no worker listens to."""
    with pytest.MonkeyPatch.context() as patch:
        broker = actors.make_broker(patient(server))
        patch.setattr("dramatiq.broker.global_broker", broker)
        broker.declare_queue("elsewhere")
        yield broker
        broker.close()


def start(broker: RedisBroker, count: int) -> Run:
    job: Message[Any] = Message("elsewhere", "job", (), {}, {})
    return Clutch().parallel(Clutch().then(job) for _ in range(count)).run()


def states(broker: RedisBroker, run: Run, count: int) -> Counter[str]:
    """How many of the nested runs are in which state."""
    pipe = broker.client.pipeline(transaction=False)
    for member in range(count):
        pipe.hget(f"{NAMESPACE}:{{{run.run_id}~0.{member}}}:head", "state")
    return Counter((state or b"gone").decode() for state in pipe.execute())


def make_dead(broker: RedisBroker, run: Run, count: int) -> None:
    """The jobs of all nested runs die."""
    engine = engine_of(broker)
    for member in range(count):
        child = f"{run.run_id}~0.{member}"
        tag = Tag(child, 0, 0, 1, generation=engine.backend.generation(child) or "")
        caller = engine.caller(tag.owner)
        record = Record(tag, 0, "dead", failure_details(ValueError("no"), actor="job"))
        handover.hand_over(engine, child, engine.backend.record(record, caller), caller)


class Changed:
    """A run with a thousand nested runs, which have been cancelled, or are dead."""

    def __init__(self, broker: RedisBroker, change: str, count: int) -> None:
        self.broker, self.change, self.count = broker, change, count
        self.run = start(broker, count)
        (self.ours,) = [one for one in broker.middleware if isinstance(one, ClutchMiddleware)]
        if change == "retry what died":
            make_dead(broker, self.run, count)
            assert self.states() == {"failed": count}
        elif change == "retry what was cancelled":
            self.run.cancel()
            self.ours.sweep(broker)
            assert self.states() == {"cancelled": count}

    def states(self) -> Counter[str]:
        return states(self.broker, self.run, self.count)

    def apply(self) -> int:
        """Do it, and return how many the call itself has done."""
        began = time.monotonic()
        assert self.run.cancel() if self.change == "cancel" else self.run.retry()
        print(f"{self.change}: {time.monotonic() - began:.3f} s for {self.count} nested runs")
        return self.states()[self.end]

    @property
    def end(self) -> str:
        return "cancelled" if self.change == "cancel" else "running"


CHANGES = ["cancel", "retry what died", "retry what was cancelled"]


@pytest.mark.heavy
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_done_to_1_000_nested_runs_is_shared_out_and_a_sweep_does_what_is_left(
    nested: RedisBroker, change: str
) -> None:
    changed = Changed(nested, change, 1_000)
    with scripts_timed(nested.client) as micros:
        assert changed.apply() <= 100  # the rest is for whoever comes
        changed.ours.sweep(nested)
        assert changed.states() == {changed.end: 1_000}
    assert show(f"{change}, 1,000 nested runs", micros) < MOST


@pytest.mark.process
@pytest.mark.parametrize("change", CHANGES)
def test_workers_change_600_nested_runs_as_soon_as_they_are_told(
    nested: RedisBroker, server: Server, change: str
) -> None:
    changed, env = Changed(nested, change, 600), patient(server).to_env()
    with Worker(actors.__name__, env=env) as one, Worker(actors.__name__, env=env) as two:
        assert changed.apply() <= 600
        wait_until("all of it", lambda: changed.states() == {changed.end: 600})
        assert one.running
        assert two.running


# A slow network


@pytest.mark.heavy
def test_a_hand_over_that_outlasts_its_lease_is_not_begun_again_by_others(
    server: Server, redis_client: redis.Redis
) -> None:
    """300 nested runs, at 20 ms a round trip, take many times the lease of a second."""
    with Proxy(server.port) as proxy, proxy.client() as slow, application(redis_client, lease=1_000) as app:
        job = Jobs(app.broker).job.message("a")
        begun, again = Counter[str](), list[str]()
        backend = RedisBackend(client=slow)
        engine = app.engine
        create, sweep = backend.create, engine.backend.sweep

        def counting(run_id: str, *args: Any, **more: Any) -> Any:
            begun[run_id] += 1
            return create(run_id, *args, **more)

        def looking(run_id: str, *args: Any, **more: Any) -> Any:
            reply = sweep(run_id, *args, **more)
            again.extend(duty.id for duty in reply.duties)
            return reply

        backend.create = counting  # type: ignore[method-assign]
        engine.backend.sweep = looking  # type: ignore[method-assign]
        producer = RedisBroker(client=slow, namespace=app.broker.namespace)
        producer.add_middleware(ClutchMiddleware(backend, lease=1_000))
        producer.declare_queue("default")
        producer.actors.update(app.broker.actors)
        proxy.latency = 0.02
        began = time.monotonic()
        done = threading.Event()
        sweeper = threading.Thread(target=lambda: [app.sweep() for _ in iter(lambda: done.wait(0.2), True)])
        sweeper.start()
        try:
            Clutch(broker=producer).parallel(Clutch().then(job) for _ in range(300)).run()
        finally:
            done.set()
            sweeper.join(60)
        assert time.monotonic() - began > 5
        assert set(begun.values()) == {1}
        assert len(begun) == 301
        assert again == []


# Bytes and memory


@pytest.mark.heavy
def test_a_map_over_one_jobs_list_reads_each_item_a_few_times(redis_client: redis.Redis) -> None:
    with application(redis_client, lease=30_000) as app:
        items = 5_000
        total: list[int] = []

        @dramatiq.actor(broker=app.broker)
        def lists() -> list[str]:
            return [f"{index:400d}" for index in range(items)]

        @dramatiq.actor(broker=app.broker)
        def take(item: str) -> None:
            total.append(len(item))

        size = items * 400
        with running_worker(app.broker, threads=8):
            before = sent_and_received(redis_client)
            run = Clutch().then(lists).map(take).run()
            run.get_result(block=True, timeout=100_000)
            out, into = (after - start for after, start in zip(sent_and_received(redis_client), before, strict=True))
        print(f"map over {size:,} bytes: {out:,} bytes read, {into:,} written")
        assert len(total) == items
        # The list by who opens the stage, the items by who sends them, and the jobs' own messages.
        assert out < 8 * size
        assert into < 8 * size


def sent_and_received(client: redis.Redis) -> tuple[int, int]:
    stats: Any = client.info("stats")
    return stats["total_net_output_bytes"], stats["total_net_input_bytes"]


PIPED = """
import json, sys, tracemalloc
import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq_clutch import ClutchMiddleware
from dramatiq_clutch.backends import RedisBackend, RedisCourier
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.handover import hand_over

url, namespace, run_id = sys.argv[1:]
broker = RedisBroker(url=url, namespace=namespace)
broker.add_middleware(ClutchMiddleware(RedisBackend(client=broker.client)))
broker.declare_queue("default")
engine, largest = engine_of(broker), [0]
works = RedisCourier._send


def send(courier, ready, along):
    sizes = [len(one.data) for one in ready]
    largest[0] = max(largest[0], sum(sizes) - sizes[-1])
    return works(courier, ready, along)


RedisCourier._send = send
caller = engine.caller("0.149")
reply = engine.backend.owed(run_id, caller)
tracemalloc.start()
hand_over(engine, run_id, reply, caller)
print(json.dumps({"peak": tracemalloc.get_traced_memory()[1], "largest": largest[0], "duties": len(reply.duties)}))
"""


@pytest.mark.process
def test_a_piped_stage_takes_the_memory_of_a_message_and_not_of_all(server: Server, redis_client: redis.Redis) -> None:
    """150 results of 10 kB each make a message of 1.5 MB for each of 150 members."""
    with application(redis_client, sweep_interval=None) as app:
        job, engine = Jobs(app.broker).job, app.engine
        run = (
            Clutch()
            .parallel(job.message("a") for _ in range(150))
            .parallel([job.message("b") for _ in range(150)], pipe=True)
            .run()
        )
        result = json.dumps("x" * 10_000).encode()
        for member in range(150):
            tag = tag_in(app.broker, run, member=member, of=150)
            engine.backend.record(Record(tag, 0, "succeeded", result), engine.caller(tag.owner))
        arguments = [sys.executable, "-c", PIPED, server.url, app.broker.namespace, run.run_id]
        done = subprocess.run(
            arguments, cwd=Path(__file__).parents[1], check=False, timeout=100, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        print(f"150 messages of 1.5 MB: {found}")
        assert found["duties"] == 1
        assert redis_client.hlen(f"{app.broker.namespace}:default.msgs") == 300  # those of the first stage, too
        assert found["peak"] < 60_000_000  # the process grew by 629 MB
        assert found["largest"] <= 1_000_000  # of a batch, but for its last message
