"""The server that keeps the runs is killed and another one takes its place, by Sentinel and in a cluster; a slot of a
cluster moves; and all of a cluster is away. Jobs are at work meanwhile, and end when nobody is there to tell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from dramatiq.brokers.stub import StubBroker
from redis import sentinel as redis_sentinel
from redis.exceptions import RedisClusterException

from dramatiq_clutch import Clutch, RedisBackend, Run
from dramatiq_clutch.backends.redis import calls
from dramatiq_clutch.backends.redis.outages import is_outage
from tests.conftest import as_global_broker, running_worker
from tests.support.awaiting import wait_until
from tests.support.cluster import cluster, cluster_client
from tests.support.jobs import Jobs
from tests.support.server import Server

pytestmark = pytest.mark.heavy

Sentinel: Any = redis_sentinel.Sentinel  # which has no types

#: How many runs are at work when it happens.
RUNS = 12


@contextmanager
def runs_in_the_middle(client: Any, more: int = 10) -> Iterator[tuple[Jobs, list[Run]]]:
    """Runs whose first stage is over, and whose second one is at work, in a nested run, too, until the gate opens. Then
    `more` runs begin to work that have been started, too."""
    broker = StubBroker()
    with as_global_broker(broker, RedisBackend(client=client)):
        jobs = Jobs(broker)
        for number in range(RUNS):
            jobs.script[f"late {number}"] = ["wait"]
        with running_worker(broker, threads=RUNS):
            runs = [clutch(jobs, number).run() for number in range(RUNS)]
            wait_until("all to be in the middle", lambda: sum(name.startswith("late") for name in jobs.began) == RUNS)
            wait_until("the rest to be told", lambda: all(run.status().stages[1].succeeded == 1 for run in runs))
            yield jobs, [*runs, *(clutch(jobs, number).run() for number in range(RUNS, RUNS + more))]
    client.close()


def clutch(jobs: Jobs, number: int) -> Clutch:
    first, late = (jobs.job.message(f"{when} {number}") for when in ("first", "late"))
    return Clutch().then(first).parallel(jobs.job.message("beside"), Clutch().then(late)).then(jobs.total)


def go_on(jobs: Jobs) -> None:
    for number in range(RUNS):
        jobs.gates[f"late {number}"].set()


def all_are_right(runs: list[Run]) -> None:
    assert [run.get_result(block=True) for run in runs] == [["beside", f"late {at}"] for at in range(len(runs))]


def is_over(run: Run) -> bool:
    return run.status().state == "succeeded"


def is_copied(primary: Server) -> None:
    """A replica has all that was written so far: what it hasn't, a failover loses."""
    with primary.client() as client:
        copies: Any = client.wait(1, 10_000)
        assert copies == 1


def test_a_failover_by_sentinel_in_the_middle_loses_no_run() -> None:
    with ExitStack() as stack:
        primary = stack.enter_context(Server())
        replica = stack.enter_context(Server(config=(f"replicaof 127.0.0.1 {primary.port}",)))
        with replica.client() as client:
            wait_until("the replica to be in sync", lambda: client.info()["master_link_status"] == "up")
        watched = [f"monitor clutches 127.0.0.1 {primary.port} 1", "down-after-milliseconds clutches 1000"]
        lines = [f"sentinel {line}" for line in (*watched, "failover-timeout clutches 5000")]
        guard = stack.enter_context(Server(sentinel=True, config=lines))
        sentinel = Sentinel([("127.0.0.1", guard.port)])
        wait_until("sentinel to know the replica", lambda: sentinel.discover_slaves("clutches"))
        with runs_in_the_middle(sentinel.master_for("clutches", socket_timeout=3)) as (jobs, runs):
            is_copied(primary)
            primary.kill()
            go_on(jobs)
            all_are_right(runs)
            with replica.client() as client:
                assert client.info()["role"] == "master"


def test_a_primary_of_a_cluster_that_is_killed_in_the_middle_loses_no_run() -> None:
    with cluster(3, replicas=3) as nodes, runs_in_the_middle(cluster_client(nodes[1].url), 200) as (jobs, runs):
        is_copied(nodes[0])
        nodes[0].kill()
        go_on(jobs)
        all_are_right(runs)


def test_a_cluster_of_which_nothing_answers_in_the_middle_loses_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client then raises what is no `RedisError`. The nodes forget nothing that they have answered."""
    errors: list[BaseException] = []

    def noted(error: BaseException) -> bool:
        errors.append(error)
        return is_outage(error)

    monkeypatch.setattr(calls, "is_outage", noted)
    durable = ("appendonly yes", "appendfsync always")
    with cluster(3, config=durable) as nodes, runs_in_the_middle(cluster_client(nodes[1].url)) as (jobs, runs):
        for node in nodes:
            node.kill()
        go_on(jobs)
        wait_until(
            "it to be noticed that the whole cluster is away", lambda: RedisClusterException in set(map(type, errors))
        )
        for node in nodes:
            node.start()
        all_are_right(runs)


def test_a_slot_that_moves_in_the_middle_loses_no_run() -> None:
    with cluster(3) as nodes, ExitStack() as stack:
        client: Any = cluster_client(nodes[0].url)
        with runs_in_the_middle(client) as (jobs, runs):
            slots = {run.run_id: client.keyslot(f"dramatiq-clutch:{{{run.run_id}}}:head") for run in runs}
            slot = slots[runs[0].run_id]
            elsewhere = [run for run in runs if slots[run.run_id] != slot]
            clients: list[Any] = [stack.enter_context(node.client()) for node in nodes]
            ids = [one.execute_command("CLUSTER", "MYID") for one in clients]
            at = next(number for number in range(3) if slot < (number + 1) * 16_384 // 3)
            source, target, to = clients[at], clients[(at + 1) % 3], nodes[(at + 1) % 3]
            target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[at])
            source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[(at + 1) % 3])
            keys = source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100)
            assert len(keys) > 2
            for number, key in enumerate(keys):
                source.execute_command("MIGRATE", "127.0.0.1", to.port, key, 0, 10_000)
                if number == len(keys) // 2:
                    go_on(jobs)  # its keys are on two nodes now, and neither runs a script on them
                    wait_until("those of other slots to be over", lambda: all(is_over(run) for run in elsewhere))
            for one in clients:
                one.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[(at + 1) % 3])
            all_are_right(runs)
