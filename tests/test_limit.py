"""Stages of which no more than a limit is on its way, and stages that are read when the clutch is run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker

from dramatiq_clutch import Clutch, ClutchMiddleware, Run, current_run, planning
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.errors import DamagedState, RunFailed, RunIdTaken
from dramatiq_clutch.stored.duties import SendMembers
from tests.conftest import running_worker
from tests.support.awaiting import wait_until
from tests.support.jobs import Jobs
from tests.support.keyspace import clutch_keys
from tests.support.messages import on_their_way
from tests.support.server import Server


def named(jobs: Jobs, count: int) -> list[dramatiq.Message[Any]]:
    return [jobs.job.message(f"{number}") for number in range(count)]


# On their way


@pytest.mark.parametrize("limit", [1, 3, *(pytest.param(limit, marks=pytest.mark.search) for limit in (20, 100))])
def test_no_more_than_the_limit_are_on_their_way_and_all_work_once(
    broker: dramatiq.Broker, jobs: Jobs, limit: int
) -> None:
    seen: list[int] = []

    @dramatiq.actor(broker=broker)
    def look(number: int) -> int:
        seen.append(on_their_way(broker))
        return number

    run = Clutch().parallel((look.message(number) for number in range(60)), limit=limit).then(jobs.total).run()
    assert on_their_way(broker) == min(limit, 60)
    with running_worker(broker):
        assert run.get_result(block=True) == list(range(60))
    # One whose attempt was recorded, and its successor sent, has still to be acked: one in each thread.
    assert len(seen) == 60
    assert max(seen) <= limit + 4


def test_the_results_of_a_mapped_stage_with_a_limit_are_in_order(broker: dramatiq.Broker, jobs: Jobs) -> None:
    of_one = Clutch().then(jobs.several.message("x", 25)).map(jobs.job.message("m"), limit=2)
    of_many = Clutch().parallel(named(jobs, 25)).map(jobs.job.message("m"), limit=2)
    with running_worker(broker):
        assert of_one.run().get_result(block=True) == [["m", f"x{number}"] for number in range(25)]
        assert of_many.run().get_result(block=True) == [["m", f"{number}"] for number in range(25)]


def test_a_job_holds_its_place_until_it_settles(broker: dramatiq.Broker, jobs: Jobs) -> None:
    """A limit is a cap: what struggles isn't to be called more often for it."""
    jobs.script["0"] = ["fail", "wait"]
    run = Clutch().parallel(named(jobs, 3), limit=1).run()
    with running_worker(broker):
        wait_until("its retry to work", lambda: jobs.began == ["0", "0"])
        wait_until("its first attempt to be acked", lambda: on_their_way(broker) == 1)
        assert jobs.began == ["0", "0"]
        jobs.gates["0"].set()
        assert run.get_result(block=True) == ["0", "1", "2"]


def test_a_dead_job_gives_its_place_up(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["0"] = ["die"]
    run = Clutch().parallel(named(jobs, 3), limit=1, allow_failures=True).run()
    with running_worker(broker):
        assert run.get_result(block=True) == [None, "1", "2"]


def test_a_nested_run_holds_its_place_until_it_settles(broker: dramatiq.Broker, jobs: Jobs) -> None:
    """Also while a job of it waits for its retry."""
    jobs.script["slow"] = ["fail", "wait"]
    child = Clutch().then(jobs.job.message("slow"))
    run = Clutch().parallel([child, jobs.job.message("next")], limit=1).run()
    with running_worker(broker):
        wait_until("its retry to work", lambda: jobs.began == ["slow", "slow"])
        wait_until("its failure to be told", lambda: run.status().stages[0].failing == 1)
        wait_until("its first attempt to be acked", lambda: on_their_way(broker) == 1)
        assert jobs.began == ["slow", "slow"]
        jobs.gates["slow"].set()
        assert run.get_result(block=True) == ["slow", "next"]
    assert jobs.began == ["slow", "slow", "next"]


def test_what_a_job_nests_holds_the_jobs_place(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["inner"] = ["wait"]

    @dramatiq.actor(broker=broker)
    def nests() -> Run:
        return Clutch().then(jobs.job.message("inner")).nest()

    run = Clutch().parallel([nests, jobs.job.message("next")], limit=1).run()
    with running_worker(broker):
        wait_until("the inner one works", lambda: jobs.began == ["inner"])
        wait_until("nothing else is on its way", lambda: on_their_way(broker) == 1)
        jobs.gates["inner"].set()
        assert run.get_result(block=True) == ["inner", "next"]


def test_a_retry_sends_the_dead_as_the_limit_allows(broker: dramatiq.Broker, jobs: Jobs) -> None:
    for number in range(6):
        jobs.script[f"{number}"] = ["die"]
    run = Clutch().parallel(named(jobs, 6), limit=2).run()
    with running_worker(broker), pytest.raises(RunFailed):
        run.get_result(block=True)
    assert run.retry()
    assert on_their_way(broker) == 2
    assert run.status().stages[0].dead == 0
    with running_worker(broker):
        assert run.get_result(block=True) == [f"{number}" for number in range(6)]
    assert set(jobs.counts().values()) == {2}


def test_a_second_retry_takes_along_what_the_first_has_not_come_to(broker: dramatiq.Broker, jobs: Jobs) -> None:
    for number in range(4):
        jobs.script[f"{number}"] = ["die"]
    jobs.script["0"] = ["die", "die"]
    jobs.script["1"] = ["die", "wait"]
    run = Clutch().parallel(named(jobs, 4), limit=1).run()
    with running_worker(broker), pytest.raises(RunFailed):
        run.get_result(block=True)
    run.retry()
    with running_worker(broker):
        wait_until("0 has died again, and 1 works", lambda: jobs.began.count("1") == 2)
        assert run.retry()
        jobs.gates["1"].set()
        assert run.get_result(block=True) == ["0", "1", "2", "3"]
    assert jobs.counts() == {"0": 3, "1": 2, "2": 2, "3": 2}


def test_a_cancelled_stage_with_a_limit_is_taken_up_where_it_was(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["0"] = ["die"]
    jobs.script["1"] = ["wait"]
    run = Clutch().parallel(named(jobs, 5), limit=1).run()
    with running_worker(broker, threads=1):
        wait_until("1 works", lambda: jobs.began == ["0", "1"])
        assert run.cancel()
        jobs.gates["1"].set()
        wait_until("nothing is on its way", lambda: on_their_way(broker) == 0)
        assert run.retry()
        assert run.get_result(block=True) == ["0", "1", "2", "3", "4"]
    assert jobs.counts() == {"0": 2, "1": 2, "2": 1, "3": 1, "4": 1}


@pytest.mark.parametrize("limit", [0, -1, 1.5, "3", True])
@pytest.mark.parametrize("add", ["parallel", "map"])
def test_a_limit_is_a_number_of_members(jobs: Jobs, add: str, limit: Any) -> None:
    with pytest.raises(ValueError, match=r"limit is .* at least 1"):
        getattr(Clutch().then(jobs.total), add)(jobs.job, limit=limit)


def test_a_limit_is_drawn(jobs: Jobs) -> None:
    picture = Clutch().then(jobs.total).parallel(jobs.total, limit=7).to_mermaid()
    assert "limit 7" in picture


# Read at run()


def test_a_stage_from_a_callable_is_read_at_each_run(
    broker: dramatiq.Broker, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "CHUNK", 100)
    counts = [3, 0, 110]
    read: list[int] = []

    def steps() -> Iterator[dramatiq.Message[Any]]:
        read.append(counts[len(read)])
        return iter(named(jobs, read[-1]))

    lazy = Clutch().parallel(steps, limit=5).then(jobs.total)
    assert read == []
    with running_worker(broker):
        for count in counts:
            assert lazy.run().get_result(block=True, timeout=60_000) == [f"{number}" for number in range(count)]
    assert read == counts


def test_what_a_callable_returns_may_be_any_steps(broker: dramatiq.Broker, jobs: Jobs) -> None:
    child = Clutch().then(jobs.job.message("in"), jobs.job.message("deep"))
    lazy = Clutch().then(jobs.job.message("before")).parallel(lambda: [child, jobs.job.message("x")], pipe=True)
    outer = Clutch().then(lazy)
    with running_worker(broker):
        assert lazy.run().get_result(block=True) == ["deep", ["x", "before"]]
        assert outer.run().get_result(block=True) == ["deep", ["x", "before"]]


def test_a_stage_from_a_callable_is_written_in_chunks_and_never_held_as_a_whole(
    broker: dramatiq.Broker, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "CHUNK", 10)
    backend, yielded, written = engine_of(broker).backend, [0], [0]
    draft: Callable[..., int] = backend.draft

    def watched(run_id: str, name: str, offset: int, rows: Any, *args: Any, **kwargs: Any) -> int:
        assert yielded[0] - written[0] <= 10
        written[0] = offset + len(rows)
        return draft(run_id, name, offset, rows, *args, **kwargs)

    def steps() -> Iterator[dramatiq.Message[Any]]:
        for message in named(jobs, 95):
            yielded[0] += 1
            yield message

    monkeypatch.setattr(backend, "draft", watched)
    run = Clutch().parallel(steps).run()
    assert written == [95]
    with running_worker(broker):
        assert len(run.get_result(block=True)) == 95


@pytest.mark.parametrize("wrong", [[3], None, "text"])
def test_a_callable_that_returns_no_steps_is_named_at_run_and_starts_nothing(
    broker: dramatiq.Broker, jobs: Jobs, wrong: Any
) -> None:
    def my_steps() -> Any:
        return wrong

    lazy = Clutch().then(jobs.job.message("first")).parallel(my_steps)
    with pytest.raises(TypeError, match="my_steps"):
        lazy.run()
    assert on_their_way(broker) == 0


def test_one_id_is_one_run_of_what_a_callable_returns(broker: dramatiq.Broker, jobs: Jobs) -> None:
    names = ["a", "b"]
    lazy = Clutch().parallel(lambda: [jobs.job.message(name) for name in names])
    assert lazy.run(run_id="one") == lazy.run(run_id="one")
    names.append("c")
    with pytest.raises(RunIdTaken):
        lazy.run(run_id="one")
    assert on_their_way(broker) == 2


def test_steps_that_come_slowly_are_written_before_the_others_expire(
    broker: dramatiq.Broker, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "PATIENCE", 0.0)
    offsets: list[int] = []
    backend = engine_of(broker).backend
    draft: Callable[..., int] = backend.draft

    def watched(run_id: str, name: str, offset: int, *args: Any, **kwargs: Any) -> int:
        offsets.append(offset)
        return draft(run_id, name, offset, *args, **kwargs)

    monkeypatch.setattr(backend, "draft", watched)
    run = Clutch().parallel(lambda: named(jobs, 3)).run()
    assert offsets == [0, 1, 2]
    with running_worker(broker):
        assert run.get_result(block=True) == ["0", "1", "2"]


@pytest.mark.parametrize("when", ["between two chunks", "before the seal"])
def test_a_draft_that_expires_starts_nothing_and_says_so(redis_broker: RedisBroker, when: str) -> None:
    jobs, client = Jobs(redis_broker), redis_broker.client
    count = 1_500 if when == "between two chunks" else 1_000

    def steps() -> Iterator[dramatiq.Message[Any]]:
        for number, message in enumerate(named(jobs, 2_000)):
            if number == count:
                (draft,) = client.scan_iter("*:draft:*", count=1_000)
                client.delete(draft)
            yield message

    def with_end() -> Iterator[dramatiq.Message[Any]]:
        yield from named(jobs, 1_000)
        (draft,) = client.scan_iter("*:draft:*", count=1_000)
        client.delete(draft)

    with pytest.raises(DamagedState, match="expired before it was complete"):
        Clutch().parallel(steps if when == "between two chunks" else with_end).run()
    assert on_their_way(redis_broker) == 0


def test_a_repeated_write_of_rows_counts_once(redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a client repeats a call whose reply was lost."""
    monkeypatch.setattr(planning, "CHUNK", 100)
    jobs, engine = Jobs(redis_broker), engine_of(redis_broker)
    backend, draft = engine.backend, engine.backend.draft

    def twice(*args: Any, **kwargs: Any) -> int:
        draft(*args, **kwargs)
        return draft(*args, **kwargs)

    backend.draft = twice  # type: ignore[method-assign]
    run = Clutch().parallel(lambda: named(jobs, 101)).run()
    with running_worker(redis_broker):
        assert run.get_result(block=True, timeout=60_000) == [f"{number}" for number in range(101)]


@pytest.mark.process
def test_a_producer_killed_while_it_writes_leaves_what_expires_and_starts_nothing(
    server: Server, redis_client: redis.Redis
) -> None:
    script = """
        import sys, time, dramatiq
        from dramatiq.brokers.redis import RedisBroker
        from dramatiq_clutch import Clutch, ClutchMiddleware
        broker = RedisBroker(url=sys.argv[1])
        broker.add_middleware(ClutchMiddleware())
        dramatiq.set_broker(broker)
        job = dramatiq.actor(lambda number: number, actor_name="job")
        def steps():
            for number in range(2_500):
                yield job.message(number)
            print("half", flush=True)
            time.sleep(60)
        Clutch().parallel(steps).run()
    """
    command = [sys.executable, "-c", textwrap.dedent(script), server.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as producer:
        assert producer.stdout is not None
        assert producer.stdout.readline() == b"half\n"
        os.kill(producer.pid, signal.SIGKILL)
    (draft,) = [key for key in clutch_keys(redis_client) if ":draft:" in key]
    assert redis_client.llen(draft) == 2_000
    assert 0 < redis_client.pttl(draft) <= 300_000
    assert not any(":head" in key for key in clutch_keys(redis_client))
    assert not redis_client.exists("dramatiq:default")


# A large release is shared out


@pytest.mark.heavy
@pytest.mark.parametrize(("members", "sent"), [(500, 500), (501, 100)])
def test_a_stage_of_more_than_500_is_shared_out(broker: dramatiq.Broker, jobs: Jobs, members: int, sent: int) -> None:
    run = Clutch().parallel(named(jobs, members)).run()
    assert on_their_way(broker) == sent
    with running_worker(broker):
        assert len(run.get_result(block=True, timeout=60_000)) == members


@pytest.fixture
def shares(broker: dramatiq.Broker) -> list[SendMembers]:
    """Who sends more than 20 members shares them out. Returns the duties to send that were given to anybody."""
    engine, given = engine_of(broker), list[SendMembers]()
    object.__setattr__(engine, "share", 10)
    owed: Callable[..., Any] = engine.backend.owed

    def watched(*args: Any, **more: Any) -> Any:
        reply = owed(*args, **more)
        given.extend(duty for duty in reply.duties if isinstance(duty, SendMembers))
        return reply

    engine.backend.owed = watched  # type: ignore[method-assign]
    return given


def test_the_first_jobs_of_a_large_stage_send_the_others(
    broker: dramatiq.Broker, jobs: Jobs, shares: list[SendMembers]
) -> None:
    run = Clutch().parallel(named(jobs, 100)).then(jobs.total).run()
    assert on_their_way(broker) == 4  # the leaders
    with running_worker(broker):
        assert run.get_result(block=True) == [f"{number}" for number in range(100)]
    assert [(duty.start, duty.end) for duty in sorted(shares, key=lambda duty: duty.start)] == [
        (4, 28),
        (28, 52),
        (52, 76),
        (76, 100),
    ]
    assert set(jobs.counts().values()) == {1}


def test_a_leader_sends_its_share_before_it_works(
    broker: dramatiq.Broker, jobs: Jobs, shares: list[SendMembers]
) -> None:
    for leader in range(4):
        jobs.script[f"{leader}"] = ["wait"]
    run = Clutch().parallel(named(jobs, 100)).run()
    with running_worker(broker, threads=5):
        wait_until("all others are done", lambda: run.status().stages[0].succeeded == 96)
        for leader in range(4):
            jobs.gates[f"{leader}"].set()
        run.get_result(block=True)
    assert len(shares) == 4


def test_the_share_of_a_leader_that_is_delayed_is_sent_at_once(broker: dramatiq.Broker, jobs: Jobs) -> None:
    """Its own delay is none of the others'."""
    object.__setattr__(engine_of(broker), "share", 10)
    members = named(jobs, 50)
    members[0] = jobs.job.message_with_options(args=("0",), delay=3_600_000)
    run = Clutch().parallel(members).run()
    with running_worker(broker):
        wait_until("all others are done", lambda: run.status().stages[0].succeeded == 49)
    run.cancel()


def test_what_no_leader_sends_is_sent_when_its_lease_has_lapsed(server: Server, redis_client: redis.Redis) -> None:
    with server.client() as client, pytest.MonkeyPatch.context() as patch:
        broker = RedisBroker(client=client)
        patch.setattr("dramatiq.broker.global_broker", broker)
        middleware = ClutchMiddleware(lease=300, sweep_interval=100)
        broker.add_middleware(middleware)
        object.__setattr__(engine_of(broker), "share", 10)
        jobs = Jobs(broker)
        broker.declare_queue("nobody's")
        first = [jobs.job.message_with_options(args=(f"{n}",)).copy(queue_name="nobody's") for n in range(4)]
        run = Clutch().parallel([*first, *named(jobs, 50)[4:]]).run()
        consumers = broker.queues - {"nobody's"}
        worker = dramatiq.Worker(broker, queues=consumers, worker_timeout=20, worker_threads=4)
        worker.start()
        try:
            wait_until("all others are done", lambda: run.status().stages[0].succeeded == 46)
        finally:
            worker.stop()
        run.cancel()


def test_shares_of_a_cancelled_run_are_sent_by_nobody_until_it_is_taken_up(broker: dramatiq.Broker, jobs: Jobs) -> None:
    object.__setattr__(engine_of(broker), "share", 10)
    run = Clutch().parallel(named(jobs, 100)).run()
    assert run.cancel()
    engine_of(broker).remembered.wanted.clear()
    with running_worker(broker):
        wait_until("the leaders are off the queue", lambda: on_their_way(broker) == 0)
        assert jobs.began == []
        assert run.retry()
        assert run.get_result(block=True) == [f"{number}" for number in range(100)]
    assert set(jobs.counts().values()) == {1}


def test_a_leader_knows_its_run(broker: dramatiq.Broker) -> None:
    """It leads before it works, and works as any other job."""
    object.__setattr__(engine_of(broker), "share", 10)

    @dramatiq.actor(broker=broker)
    def who() -> str:
        run = current_run()
        assert run is not None
        return run.run_id

    run = Clutch().parallel(who for _ in range(50)).run()
    with running_worker(broker):
        assert set(run.get_result(block=True)) == {run.run_id}
