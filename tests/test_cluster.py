"""Runs on a Redis Cluster of three nodes: each run is in one slot, and many runs are on all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.redis import RedisBroker

from dramatiq_clutch import Clutch, ClutchMiddleware, Run, count_runs, detached, examine, runs, select_runs, sweep
from dramatiq_clutch.backends import RedisBackend
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.errors import RunFailed
from dramatiq_clutch.register import Keeping
from tests.conftest import running_worker
from tests.support.awaiting import wait_until
from tests.support.cluster import cluster, cluster_client
from tests.support.jobs import Jobs, state_is
from tests.support.keyspace import assert_all_expire
from tests.support.server import Server

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Server]]:
    with cluster(3) as servers:
        yield servers


@pytest.fixture
def jobs(redis_broker: RedisBroker, nodes: list[Server]) -> Iterator[Jobs]:
    """Jobs of a broker on one server, whose runs are on the cluster."""
    redis_broker.middleware[:] = [one for one in redis_broker.middleware if not isinstance(one, ClutchMiddleware)]
    client = cluster_client(nodes[0].url)
    redis_broker.add_middleware(ClutchMiddleware(RedisBackend(client=client)))
    with running_worker(redis_broker):
        yield Jobs(redis_broker)
    client.close()
    for node in nodes:
        with node.client() as known:
            assert_all_expire(known)


def test_each_shape_gives_its_results(jobs: Jobs) -> None:
    job, several = jobs.job, jobs.several
    inner = Clutch().parallel(job.message(name) for name in "xy")
    clutch = Clutch(**jobs.callbacks("root")).then(job.message("a")).parallel(job.message("b"), inner)
    assert clutch.then(jobs.total).run().get_result(block=True) == ["b", ["x", "y"]]
    jobs.wait_fired("root", "S E")
    mapped = Clutch().then(several.message("list", 5)).map(job).then(jobs.total)
    assert mapped.run().get_result(block=True) == [f"list{number}" for number in range(5)]
    wide = Clutch().parallel((job.message(str(number)) for number in range(600)), limit=200).then(jobs.total)
    assert wide.run().get_result(block=True) == [str(number) for number in range(600)]


def test_a_cluster_is_examined_and_steered_without_the_broker(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dramatiq_clutch.patience.ATTENDING", 0.05)
    engine = engine_of(jobs.broker)
    jobs.script["dies"] = ["die"]
    run = Clutch().then(jobs.job.message("dies")).run()
    state_is(run, "failed")
    outside = detached(engine.backend, application=engine.application)
    for broker in (jobs.broker, outside):
        found = examine(broker)
        assert [one.text for one in found if "The server is " in one.text]
        assert [one for one in found if one.severity == "error"] == []
    assert sweep(outside).left_to_workers
    assert Run(run.run_id, broker=outside).retry()
    assert run.get_result(block=True) == "dies"
    assert run.to_mermaid().startswith("flowchart LR")


def test_runs_are_steered(jobs: Jobs) -> None:
    jobs.script["dies"] = ["die"]
    run = Clutch(on_death=jobs.heard.message("root")).then(jobs.job.message("dies")).then(jobs.total).run()
    with pytest.raises(RunFailed):
        run.get_result(block=True)
    jobs.wait_fired("root", "D")
    assert run.retry()
    assert run.get_result(block=True) == ["dies"]

    jobs.script["waits"] = ["wait", "wait"]
    run = Clutch().parallel(jobs.job.message("waits"), Clutch().then(jobs.job.message("nested"))).run()
    wait_until("one has succeeded", lambda: run.status().stages[0].succeeded == 1)
    assert run.resend()
    assert run.cancel()
    state_is(run, "cancelled")
    jobs.gates["waits"].set()
    assert run.retry()
    assert run.get_result(block=True) == ["waits", "nested"]


def test_many_runs_are_on_all_nodes(jobs: Jobs, nodes: list[Server]) -> None:
    runs = [
        Clutch().then(jobs.job.message("a")).parallel(jobs.job.message(name) for name in "bc").run() for _ in range(60)
    ]
    assert [run.get_result(block=True) for run in runs] == [["b", "c"]] * 60
    for node in nodes:
        with node.client() as client:
            found: Any = client.dbsize()
            assert found > 0


def test_a_worker_does_the_next_job_itself_though_the_state_is_elsewhere(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker: Any = jobs.broker
    fetch = broker.do_fetch
    asleep: list[bool] = []

    def fetched(queue_name: str, prefetch: int) -> Any:
        return [] if asleep else fetch(queue_name, prefetch)

    monkeypatch.setattr(broker, "do_fetch", fetched, raising=False)

    @dramatiq.actor
    def first() -> None:
        asleep.append(True)

    run = Clutch().then(first).then(*(jobs.job.message(name) for name in "abc")).run()
    assert run.get_result(block=True) == "c"


def test_runs_are_looked_through_wherever_they_are(jobs: Jobs) -> None:
    jobs.script["dies"] = ["die"]
    done = [Clutch(name="fine").then(jobs.job.message("a")).run() for _ in range(30)]
    dead = Clutch(name="dies").then(jobs.job.message("dies")).run()
    for run in done:
        run.get_result(block=True)
    state_is(dead, "failed")
    wait_until("all have been told", lambda: count_runs()["failed"] == 1 and not runs(state="running").runs)
    page = runs(name="fine", limit=20)
    rest = runs(name="fine", limit=20, cursor=page.cursor)
    assert {run.run_id for run in (*page, *rest)} == {run.run_id for run in done}
    assert [run.run_id for run in runs(state="failed", name="dies")] == [dead.run_id]
    engine = engine_of(jobs.broker)
    left = engine.backend.enlist([], engine.now(), Keeping(1, 10**9, 10**9), application=engine.application)
    engine.backend.shorten(left)
    assert sum(count_runs().values()) < 31


def test_many_runs_are_steered_wherever_they_are(jobs: Jobs) -> None:
    jobs.script["dies"] = ["die"] * 20
    dead = [Clutch(name="many").then(jobs.job.message("dies")).run() for _ in range(20)]
    for run in dead:
        state_is(run, "failed")
    wait_until("all have been told", lambda: select_runs(state="failed", name="many").count() == 20)
    outcomes = list(select_runs(state="failed", name="many").retry())
    assert {one.run_id for one in outcomes if one.done} == {run.run_id for run in dead}
    assert [run.get_result(block=True) for run in dead] == ["dies"] * 20
    assert len([one for one in select_runs(name="many").delete() if one.done]) == 20
    assert select_runs(name="many").count() == 0


@pytest.mark.parametrize("option", ["read_from_replicas", "load_balancing_strategy"])
def test_a_client_that_reads_from_replicas_is_refused(nodes: list[Server], option: str) -> None:
    """One was asked for a plan that had just been written, and hadn't got it yet."""
    client = cluster_client(nodes[0].url)
    vars(client)[option] = True
    with pytest.raises(ValueError, match="reads from primaries"):
        RedisBackend(client=client)
    client.close()


def test_the_members_of_a_stage_are_looked_through(jobs: Jobs) -> None:
    jobs.script["dies"], jobs.script["waits"], jobs.script["z"] = ["die"], ["wait"], ["wait"]
    nested = Clutch().then(jobs.job.message("waits"))
    first = Clutch().parallel(jobs.job.message("a"), jobs.job.message("dies"), nested, allow_failures=True)
    run = first.then(jobs.job.message("z")).run()
    expected = ["succeeded", "dead", "working"]
    wait_until("two are settled", lambda: [member.state for member in run.members()] == expected)
    (dead,) = run.members(state="dead")
    assert (dead.actor, dead.arguments, dead.attempts) == ("job", "'dies'", 1)
    assert [member.state for member in run.members(stage=1)] == ["unsent"]
    page = run.members(limit=2)
    jobs.gates["waits"].set()
    wait_until("the last stage works", lambda: jobs.counts()["z"] == 1)
    (last,) = run.members(cursor=page.cursor)
    assert (last.index, last.state) == (2, "succeeded")
    jobs.gates["z"].set()
    assert run.get_result(block=True) == "z"
