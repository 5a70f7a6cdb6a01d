"""What is found when a system is examined, and a sweep by hand."""

from __future__ import annotations

import os
import socket
import threading
import time
from types import SimpleNamespace
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker

from dramatiq_clutch import Clutch, Finding, NotConfigured, detached, examine, sweep
from dramatiq_clutch.backend import ClutchBackend
from dramatiq_clutch.backends import RedisBackend
from dramatiq_clutch.backends.redis import fitness, store
from dramatiq_clutch.backends.redis.fitness import of_clock, of_eviction, of_persistence, of_version
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.examining import OVERDUE
from tests.conftest import running_worker
from tests.support.application import application, close
from tests.support.awaiting import PATIENCE, wait_until
from tests.support.jobs import Jobs
from tests.support.server import Server, free_port
from tests.test_operations import acl_of_the_readme


def texts(found: list[Finding], severity: str | None = None) -> str:
    return "\n".join(one.text for one in found if severity in (None, one.severity))


def test_a_server_is_told_by_its_version(redis_broker: dramatiq.Broker) -> None:
    assert "The server is Valkey" in texts(examine(), "info")


def test_the_most_serious_comes_first(stub_broker: StubBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    told = [Finding("info", "i"), Finding("error", "e"), Finding("warning", "w")]
    monkeypatch.setattr(engine_of(stub_broker).backend, "fitness", lambda: told)
    assert [finding.text for finding in examine()][:2] == ["e", "w"]


@pytest.mark.parametrize(
    ("server", "severity"),
    [
        ({"redis_version": "6.0.16"}, "error"),
        ({"redis_version": "6.2.0"}, "info"),
        ({"redis_version": "8.2.1"}, "info"),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.2"}, "info"),
        ({}, "info"),
    ],
)
def test_a_server_that_is_too_old_is_an_error(server: dict[str, Any], severity: str) -> None:
    assert [finding.severity for finding in of_version(server)] == [severity]


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ({}, None),
        ({"server_time_usec": 100_500_000}, None),
        ({"server_time_usec": 94_900_000}, "5 s ahead of"),
        ({"server_time_usec": 95_100_000}, None),
        ({"server_time_usec": 160_900_000}, None),
        ({"server_time_usec": 420_000_000}, "264 s behind"),
    ],
)
def test_clocks_that_differ_are_told_however_long_the_answer_takes(server: dict[str, Any], said: str | None) -> None:
    found = list(of_clock(server, asked=100.0, answered=156.0))
    assert len(found) == (said is not None)
    for finding in found:
        assert finding.severity == "warning"
        assert f"The clock of this host is {said} that of the state store's server" in finding.text


@pytest.mark.parametrize("ahead", [0, 3_605, -3_605])
def test_a_worker_and_an_examination_tell_of_a_clock_that_differs(
    redis_broker: dramatiq.Broker, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    clock = SimpleNamespace(time=lambda: time.time() + ahead)
    for module in (store, fitness):
        monkeypatch.setattr(module, "time", clock)
    for told in (" ".join(engine_of(redis_broker).backend.warnings()), texts(examine(), "warning")):
        assert ("he clock of this host is 3,60" in told) == bool(ahead)
        assert (" s ahead of that of the state store's server" in told) == (ahead > 0)


@pytest.mark.parametrize(
    ("memory", "severities"),
    [
        ({}, []),
        ({"maxmemory": 0, "maxmemory_policy": "allkeys-lru", "used_memory": 5}, []),
        ({"maxmemory": 100, "maxmemory_policy": "noeviction", "used_memory": 90}, []),
        ({"maxmemory": 100, "maxmemory_policy": "allkeys-lru", "used_memory": 5}, ["error"]),
        ({"maxmemory": 100, "maxmemory_policy": "noeviction", "used_memory": 95}, ["warning"]),
    ],
)
def test_a_server_that_may_evict_runs_is_an_error(memory: dict[str, Any], severities: list[str]) -> None:
    assert [finding.severity for finding in of_eviction(memory)] == severities


@pytest.mark.parametrize(
    ("persistence", "save", "fsync", "said"),
    [
        ({"aof_enabled": 1}, "", "always", ["info append-only file (appendfsync always)"]),
        ({"aof_enabled": 0}, "", None, ["warning a restart loses all runs"]),
        ({"aof_enabled": 0}, "3600 1", None, ["warning a crash loses what was done"]),
        ({"aof_enabled": 0}, None, None, ["warning a crash loses what was done"]),
        ({"aof_enabled": 1, "aof_last_write_status": "err"}, "", None, ["info append-only", "error can't write"]),
        ({"aof_enabled": 1, "rdb_last_bgsave_status": "err"}, "", None, ["info append-only", "error can't write"]),
    ],
)
def test_what_a_restart_leaves_is_told(
    persistence: dict[str, Any], save: str | None, fsync: str | None, said: list[str]
) -> None:
    found = list(of_persistence(persistence, save, fsync))
    assert len(found) == len(said)
    for finding, expected in zip(found, said, strict=True):
        severity, _, text = expected.partition(" ")
        assert finding.severity == severity
        assert text in finding.text


def test_with_the_fewest_rights_it_is_told_what_could_not_be_asked() -> None:
    with Server(config=(f"user clutch {acl_of_the_readme()}",)) as server, server.client() as master:
        url = server.url.replace("redis://", "redis://clutch:secret@")
        broker = detached(RedisBackend(url=url))
        found = examine(broker)
        assert "Valkey" in texts(found, "info")
        assert "append-only" in texts(found, "warning")
        master.execute_command("ACL SETUSER clutch -info")
        assert "can't be asked about itself" in texts(examine(broker), "info")
        master.execute_command("ACL SETUSER clutch -subscribe")
        assert "lets nobody listen" in texts(examine(broker), "warning")
        master.execute_command("ACL SETUSER clutch -evalsha -eval")
        (last,) = examine(broker)
        assert last.severity == "error"
        assert "evalsha" in last.text.lower()


def test_a_server_that_is_away_is_an_error() -> None:
    store = RedisBackend(url=f"redis://127.0.0.1:{free_port()}/0")
    (finding,) = examine(detached(store))
    assert finding.severity == "error"
    assert finding.way_out


def test_a_broker_at_risk_is_told(redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_broker, "maintenance_chance", 0)
    assert "maintenance_chance is 0" in texts(examine(), "warning")
    monkeypatch.setattr("dramatiq_clutch.examining.warnings_of", lambda _: ["this is bad. Change it"])
    assert Finding("warning", "this is bad", "Change it") in examine()
    engine = engine_of(redis_broker)
    assert "wasn't looked at" in texts(examine(detached(engine.backend, application=engine.application)), "info")


def test_a_worker_tells_of_itself_until_it_stops(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dramatiq_clutch.patience.ATTENDING", 0.05)
    with application(redis_client) as app:
        Jobs(app.broker)
        assert "No worker with ClutchMiddleware" in texts(examine(), "warning")
        with running_worker(app.broker):
            wait_until("it is told", lambda: f"{socket.gethostname()}:{os.getpid()}" in texts(examine(), "info"))
            assert texts(examine(), "info").count("on the queues default") == 1
            assert "without ClutchMiddleware" not in texts(examine())
        wait_until("it has gone", lambda: "No worker with ClutchMiddleware" in texts(examine(), "warning"))


def test_a_worker_that_lacks_the_middleware_is_told(redis_broker: RedisBroker, server: Server) -> None:
    jobs = Jobs(redis_broker)
    jobs.script["a"] = ["wait"]
    other = RedisBroker(url=server.url, namespace=redis_broker.namespace)
    began = threading.Event()

    @dramatiq.actor(broker=other, actor_name="job")
    def job(name: str) -> None:
        began.set()
        assert jobs.gates[name].wait(PATIENCE)

    jobs.job.send("a")
    with running_worker(other):
        assert began.wait(PATIENCE)
        told = texts(examine(), "warning")
        jobs.gates["a"].set()
    assert f"holds messages of the queues default (its broker's id is {other.broker_id})" in told
    close(other)


def test_runs_that_nobody_sweeps_are_an_error(stub_broker: StubBroker) -> None:
    Jobs(stub_broker)
    engine = engine_of(stub_broker)
    engine.look_again("late", engine.now() - OVERDUE - 1)
    engine.look_again("soon", engine.now())
    assert "Nobody sweeps: 1 runs" in texts(examine(), "error")
    assert "Nobody sweeps: 1 runs" in texts(examine(), "error")  # looking changes nothing
    sweep()
    assert texts(examine(), "error") == ""


def test_stalled_runs_are_an_error() -> None:
    with application(None, stalled_after=1, sweep_interval=None) as app:
        run = Clutch().then(Jobs(app.broker).job.message("a")).run()
        assert texts(examine(), "error") == ""

        def is_found() -> bool:
            app.engine.look_again(run.run_id, 1)
            app.sweep()
            return run.run_id in texts(examine(), "error")

        wait_until("it is found", is_found)


def test_a_broker_without_the_middleware_is_refused() -> None:
    with pytest.raises(NotConfigured):
        examine(StubBroker(middleware=[]))


def test_a_store_of_another_kind_tells_its_warnings(stub_broker: StubBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    store = engine_of(stub_broker).backend
    monkeypatch.setattr(store, "warnings", lambda: ["beware"])
    assert list(ClutchBackend.fitness(store)) == [Finding("warning", "beware")]


# A sweep by hand


def test_a_sweep_by_hand_does_what_is_owed(stub_broker: StubBroker) -> None:
    jobs = Jobs(stub_broker)
    run = Clutch().then(jobs.job.message("a")).run()
    engine = engine_of(stub_broker)
    engine.look_again(run.run_id, engine.now())
    assert sweep().looked_at == 1
    assert sweep().looked_at == 0


def test_a_sweep_by_hand_counts_what_it_could_not_look_at(
    stub_broker: StubBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(stub_broker)
    engine.look_again("broken", engine.now())

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("it can't be read")

    monkeypatch.setattr(engine.backend, "sweep", broken)
    outcome = sweep()
    assert (outcome.looked_at, outcome.failed, outcome.left_to_workers) == (1, 1, False)


def test_a_sweep_without_the_broker_calls_the_workers(stub_broker: StubBroker) -> None:
    engine = engine_of(stub_broker)
    engine.look_again("due", engine.now())
    outcome = sweep(detached(engine.backend))
    assert (outcome.looked_at, outcome.left_to_workers) == (0, True)
    assert engine.backend.count_due(engine.now()) == 1
    assert not sweep(stub_broker).left_to_workers
