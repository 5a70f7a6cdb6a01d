"""A broker that has the state store alone: it looks and steers, and workers do what follows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dramatiq
import pytest
import redis

from dramatiq_clutch import Clutch, NotConfigured, Run, RunAtWork, RunStatus, detached, runs
from dramatiq_clutch.backends import RedisBackend
from dramatiq_clutch.engine import engine_of
from tests.conftest import ONCE_MORE, running_worker
from tests.support.application import A_DAY, Application, application
from tests.support.awaiting import wait_until
from tests.support.jobs import Jobs, state_is


@pytest.fixture(params=["redis", ONCE_MORE])
def app(request: pytest.FixtureRequest) -> Iterator[Application]:
    """An application whose sweeper looks only when it is told to."""
    client = request.getfixturevalue("redis_client") if request.param == "redis" else None
    with application(client, sweep_interval=A_DAY * 1_000, lease=600_000) as app:
        yield app


@pytest.fixture
def jobs(app: Application) -> Jobs:
    return Jobs(app.broker)


@pytest.fixture
def outside(app: Application) -> dramatiq.Broker:
    return detached(app.engine.backend, application=app.engine.application)


def failed(app: Application, jobs: Jobs) -> Run:
    """A run that has failed of its only job, which would succeed by now."""
    jobs.script["a"] = ["die"]
    run = Clutch().then(jobs.job.message("a")).then(jobs.job.message("b")).run()
    with running_worker(app.broker):
        state_is(run, "failed")
    return run


def test_a_run_is_looked_at(app: Application, jobs: Jobs, outside: dramatiq.Broker) -> None:
    run = Clutch().then(jobs.job.message("a")).run()
    assert Run(run.run_id, broker=outside).status() == run.status()
    assert [one.run_id for one in runs(broker=outside)] == [run.run_id]


def test_a_cancel_takes_effect_and_a_worker_sends_the_callback(
    app: Application, jobs: Jobs, outside: dramatiq.Broker
) -> None:
    run = Clutch(on_finish=jobs.heard.message("who")).then(jobs.job.message("a")).run()
    assert Run(run.run_id, broker=outside).cancel()
    assert run.status().state == "cancelled"
    with running_worker(app.broker):
        app.sweep()
        jobs.wait_fired("who", "E")


def test_a_worker_does_at_once_what_a_retry_by_it_owes(app: Application, jobs: Jobs, outside: dramatiq.Broker) -> None:
    """The worker's own interval is a day, and the lease ten minutes: it has heard of the retry."""
    run = failed(app, jobs)
    with running_worker(app.broker):
        wait_until("the worker's sweeper to listen", lambda: _is_heard(app))
        assert Run(run.run_id, broker=outside).retry()
        assert run.get_result(block=True) == "b"


def _is_heard(app: Application) -> bool:
    """Whether a sweeper listens: it looks at a run that is due when it is told to."""
    app.engine.look_again("!nothing", app.engine.now())
    app.engine.backend.say("!sweep")
    return "!nothing" in app.sweeps


def test_what_it_has_begun_is_owed_if_no_worker_hears_of_it(
    app: Application, jobs: Jobs, outside: dramatiq.Broker
) -> None:
    run = failed(app, jobs)
    assert Run(run.run_id, broker=outside).retry()
    assert run.status().state == "running"
    assert app.sweep() == 1
    with running_worker(app.broker):
        assert run.get_result(block=True) == "b"


def test_members_are_sent_again_by_a_worker(app: Application, jobs: Jobs, outside: dramatiq.Broker) -> None:
    run = Clutch().parallel([jobs.job.message("a"), jobs.job.message("b")]).run()
    app.broker.flush_all()
    assert Run(run.run_id, broker=outside).resend()
    app.sweep()
    with running_worker(app.broker):
        assert run.get_result(block=True) == ["a", "b"]


def test_nested_runs_are_cancelled_by_a_worker(app: Application, jobs: Jobs, outside: dramatiq.Broker) -> None:
    nested = Clutch().then(jobs.job.message("a"))
    run = Clutch().parallel([nested, nested]).run()
    children = list(run.children())
    assert Run(run.run_id, broker=outside).cancel()
    app.sweep()
    assert {Run(child.run_id).status().state for child in children} == {"cancelled"}


def test_a_stage_is_done_again(app: Application, jobs: Jobs, outside: dramatiq.Broker) -> None:
    run = Clutch(keep_results=True).then(jobs.job.message("a")).then(jobs.job.message("b")).run()
    with running_worker(app.broker):
        run.get_result(block=True)
    assert Run(run.run_id, broker=outside).retry(from_stage=1)
    app.sweep()
    with running_worker(app.broker):
        assert run.get_result(block=True) == "b"
    assert jobs.began == ["a", "b", "b"]


def test_a_run_is_deleted(app: Application, jobs: Jobs, outside: dramatiq.Broker) -> None:
    run = failed(app, jobs)
    with pytest.raises(RunAtWork):
        Run(Clutch().then(jobs.job.message("b")).run().run_id, broker=outside).delete()
    assert Run(run.run_id, broker=outside).delete()
    assert [one.state for one in runs(broker=outside)] == ["running"]


def test_a_run_that_owes_a_callback_is_deleted_once_a_worker_has_sent_it(
    app: Application, jobs: Jobs, outside: dramatiq.Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Clutch(on_finish=jobs.heard.message("who")).then(jobs.job.message("a")).run()
    ours = Run(run.run_id, broker=outside)
    ours.cancel()
    monkeypatch.setattr("dramatiq_clutch.handover.deleting.time.sleep", lambda _: app.sweep())
    assert ours.delete()
    with running_worker(app.broker):
        jobs.wait_fired("who", "E")


def test_looking_lets_go_of_no_run(jobs: Jobs, app: Application, outside: dramatiq.Broker) -> None:
    """It doesn't know how many runs the application keeps, and for how long."""
    for count in range(3):
        failed_run = Clutch().then(jobs.job.message("a")).run(run_id=f"run-{count}")
        Run(failed_run.run_id, broker=outside).cancel()
    engine = engine_of(outside)
    assert engine.history_max > 10**6
    assert min(engine.run_ttl, engine.history_ttl) > 10 * 365 * 86_400_000 - 1
    assert len(runs(broker=outside, state="cancelled")) == 3


def test_nothing_is_sent_by_it(outside: dramatiq.Broker, jobs: Jobs) -> None:
    message: Any = jobs.job.message("a")
    with pytest.raises(NotConfigured, match="the application's own broker"):
        outside.enqueue(message)


def test_the_application_follows_from_the_store(redis_client: redis.Redis, stub_broker: dramatiq.Broker) -> None:
    store = RedisBackend(client=redis_client, namespace="shop-clutch")
    assert engine_of(detached(store)).application == "shop"
    assert engine_of(detached(store, application="other")).application == "other"
    assert engine_of(detached(engine_of(stub_broker).backend)).application == ""


def test_what_is_no_backend_is_refused_and_not_shown() -> None:
    given: Any = "redis://:secret@localhost"
    with pytest.raises(TypeError, match="type str") as refused:
        detached(given)
    assert "secret" not in str(refused.value)


def test_a_status_needs_no_application(outside: dramatiq.Broker, app: Application, jobs: Jobs) -> None:
    run = failed(app, jobs)
    status: RunStatus = Run(run.run_id, broker=outside).status()
    assert status.waits_for().startswith("It has failed in stage 0 (1 of 2): 1 of 1 member dead.")
