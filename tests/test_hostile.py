"""Hostile input: payloads, names, damaged keys, forged messages. Each is handled, or told; never a crash loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker

from dramatiq_clutch import Clutch, Run, previous_results
from dramatiq_clutch.backends import RedisBackend
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.errors import RunNotFound
from dramatiq_clutch.stored.places import OPTION
from tests.conftest import running_worker
from tests.support.application import application
from tests.support.awaiting import wait_until
from tests.support.jobs import Jobs
from tests.support.keyspace import key_of
from tests.support.messages import dead_letters, on_their_way

NASTY = [
    "'\"`",
    "a\nb\r\n",
    "back\\slash",
    "nul\x00byte",
    "🙂 ünï",
    "{x}",
    "%s %(a)s",
    "S",
    "",
    "]]--",
    "\ud7ff",
    "x" * 10_000,
]


def test_payloads_are_opaque(broker: dramatiq.Broker, jobs: Jobs) -> None:
    run = Clutch(name=NASTY[0]).parallel(jobs.job.message(text) for text in NASTY).then(jobs.total).run()
    with running_worker(broker):
        assert run.get_result(block=True) == NASTY


@pytest.mark.parametrize("text", [*NASTY[:4], *(pytest.param(text, marks=pytest.mark.search) for text in NASTY[4:])])
def test_errors_and_names_are_opaque(broker: dramatiq.Broker, jobs: Jobs, text: str) -> None:
    @dramatiq.actor(max_retries=0)
    def broken(text: str) -> None:
        raise ValueError(text)

    run = Clutch(name=text, **jobs.callbacks("root")).then(broken.message(text)).run()
    with running_worker(broker):
        jobs.wait_fired("root", "F D X E")
    (failure,) = run.status().failures
    assert failure.exception_text == text[:1000]
    assert (run.status().name or "") == text


@pytest.mark.parametrize("name", ["it's", 'a "quoted" name', "new\nline", "🙂", "a/b.c:d~1"])
def test_actors_and_queues_may_have_odd_names(broker: dramatiq.Broker, name: str) -> None:
    @dramatiq.actor(actor_name=name)
    def odd() -> str:
        return "ran"

    child = Clutch().then(odd)
    with running_worker(broker):
        assert Clutch(name=name).parallel(odd, child).run().get_result(block=True) == ["ran", "ran"]
        assert name in Clutch().then(odd).to_mermaid() or "#" in Clutch().then(odd).to_mermaid()


@pytest.mark.heavy
def test_a_result_of_50_megabytes_goes_through(redis_broker: RedisBroker) -> None:
    @dramatiq.actor
    def large() -> str:
        return "x" * 50_000_000

    @dramatiq.actor
    def measures() -> int:
        return len(previous_results()[0])

    run = Clutch().then(large).then(measures).run()
    with running_worker(redis_broker):
        assert run.get_result(block=True, timeout=60_000) == 50_000_000


# Keys that were damaged by hand


def key(run: Run, part: str) -> str:
    broker: Any = dramatiq.get_broker()
    return f"dramatiq-clutch:{{{run.run_id}}}:head" if part == "head" else key_of(broker.client, run.run_id, part)


def put_in_the_way(client: redis.Redis, name: str) -> Callable[[], Any]:
    """Somebody else's key in the place of this one. Returns what removes it and brings back what was there, at once."""
    aside = f"{name}:aside"
    was_there = client.exists(name)
    if was_there:
        client.rename(name, aside)
    client.set(name, "foreign", ex=60)
    return lambda: client.rename(aside, name) if was_there else client.delete(name)


@pytest.mark.parametrize("part", ["head", "members:0", "outbox", "plan"])
def test_a_foreign_key_in_the_way_is_named_and_loses_no_job_and_harms_no_other_run(
    redis_broker: RedisBroker, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = Jobs(redis_broker)
    run = Clutch().parallel(jobs.job.message("a"), jobs.job.message("b")).then(jobs.total).run()
    engine_of(redis_broker).remembered.wanted.clear()  # as in a worker that hasn't sent them itself, or not just now
    remove = put_in_the_way(redis_broker.client, key(run, part))
    with running_worker(redis_broker):
        assert Clutch().then(jobs.job.message("other")).run().get_result(block=True) == "other"
        wait_until("a job waits", lambda: "another program has written to this key: remove it" in caplog.text)
        assert on_their_way(redis_broker) > 0
        assert dead_letters(redis_broker) == 0
    remove()


@pytest.mark.parametrize("part", ["head", "members:0", "outbox", "plan"])
def test_a_run_goes_on_when_the_foreign_key_is_removed(
    redis_broker: RedisBroker, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = Jobs(redis_broker)
    run = Clutch().parallel(jobs.job.message("a"), jobs.job.message("b")).then(jobs.total).run()
    engine_of(redis_broker).remembered.wanted.clear()
    remove = put_in_the_way(redis_broker.client, key(run, part))
    with running_worker(redis_broker):
        wait_until("a job waits", lambda: "waits, unacked" in caplog.text)
        remove()
        assert run.get_result(block=True) == ["a", "b"]
        wait_until("all are acked", lambda: on_their_way(redis_broker) == 0)
    assert dead_letters(redis_broker) == 0
    assert jobs.counts() == {"a": 1, "b": 1, "total": 1}


@pytest.mark.parametrize("part", ["head", "members:0"])
def test_a_key_that_has_expired_releases_nothing(redis_broker: RedisBroker, part: str) -> None:
    jobs = Jobs(redis_broker)
    run = Clutch().parallel(jobs.job.message("a"), jobs.job.message("b")).then(jobs.total).run()
    name = key(run, part)
    redis_broker.client.delete(name)
    with running_worker(redis_broker):
        wait_until(
            "both are off the queue", lambda: redis_broker.client.hlen(f"{redis_broker.namespace}:default.msgs") == 0
        )
    assert "total" not in jobs.began
    if part == "members:0":
        assert not redis_broker.client.exists(name)


def test_a_plan_that_lacks_rows_fails_the_run_and_says_so(redis_broker: RedisBroker) -> None:
    jobs = Jobs(redis_broker)
    run = Clutch().then(jobs.job.message("a")).parallel(jobs.job.message("b"), jobs.job.message("c")).run()
    redis_broker.client.rpop(key(run, "plan"))
    with running_worker(redis_broker):
        wait_until("the run has failed", lambda: run.status().state == "failed")
    error = run.status().error
    assert error is not None
    assert "lacks messages of stage 1" in error.exception_text
    assert jobs.began == ["a"]


@pytest.mark.parametrize("damage", [b"", b"junk", b"m", b"r", b"mjunk", b"r\x00\x00\x00\x05abc"])
def test_a_damaged_plan_fails_the_run_and_says_so(redis_broker: RedisBroker, damage: bytes) -> None:
    jobs = Jobs(redis_broker)
    client = redis_broker.client
    run = Clutch(**jobs.callbacks("root")).then(jobs.job.message("a"), jobs.job.message("b")).run()
    client.lset(key(run, "plan"), 1, damage)  # type: ignore[arg-type]
    with running_worker(redis_broker):
        wait_until("the run has failed", lambda: run.status().state == "failed")
        jobs.wait_fired("root", "F X E")
    error = run.status().error
    assert error is not None
    assert error.exception_type == "DamagedState"


def test_a_plan_of_a_newer_release_is_left_to_its_workers(
    redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    with application(redis_client) as app:
        jobs = Jobs(app.broker)
        run = Clutch().then(jobs.job.message("a"), jobs.job.message("b")).run()
        client: Any = redis_client
        spec = client.hget(key(run, "head"), "spec")
        client.hset(key(run, "head"), "spec", spec.replace(b'"v": 1', b'"v": 9'))
        app.engine.remembered.ahead.clear()  # as in a worker that hasn't sent the first stage itself
        with running_worker(app.broker):
            wait_until("it is left", lambda: "is left to workers of a newer release" in caplog.text)
            assert run.status().state == "running"
            client.hset(key(run, "head"), "spec", spec)  # as if such a worker came
            assert run.get_result(block=True, timeout=60_000) == "b"
        assert jobs.began == ["a", "b"]


# Forged messages


def forged(jobs: Jobs, option: Any) -> dramatiq.Message[Any]:
    message: dramatiq.Message[Any] = jobs.job.message("forged").copy(options={OPTION: option})
    return message


@pytest.mark.parametrize(
    "option",
    [
        "run",
        {"run": 3},
        {"run": "x", "stage": -1, "member": 0, "of": 1},
        {"run": "x", "stage": 0, "member": 2, "of": 1},
        {"run": "x", "stage": 0, "member": 0, "of": "1"},
        {"run": "no-such-run", "stage": 0, "member": 0, "of": 1},
        {"run": "gone~0.0", "stage": 0, "member": 0, "of": 1},
        {"run": "~", "stage": 0, "member": 0, "of": 1},
        [],
    ],
    ids=repr,
)
def test_a_forged_message_goes_to_the_dead_letters_and_does_not_run(redis_broker: RedisBroker, option: Any) -> None:
    jobs = Jobs(redis_broker)
    redis_broker.enqueue(forged(jobs, option))
    with running_worker(redis_broker):
        wait_until("it is a dead letter", lambda: dead_letters(redis_broker) == 1)
    assert jobs.began == []
    assert redis_broker.client.keys("dramatiq-clutch:*{*") == []


def test_a_forged_place_touches_nothing(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["a"] = ["wait"]
    run = Clutch().parallel(jobs.job.message("a"), jobs.job.message("b")).then(jobs.total).run()
    with running_worker(broker):
        wait_until("b has succeeded", lambda: run.status().stages[0].succeeded == 1)
        broker.enqueue(forged(jobs, {"run": run.run_id, "stage": 0, "member": 7, "of": 100}))
        broker.enqueue(forged(jobs, {"run": run.run_id, "stage": 1, "member": 0, "of": 1}))
        broker.enqueue(forged(jobs, {"run": run.run_id, "stage": 99, "member": 0, "of": 1}))
        wait_until("they are off the queue", lambda: on_their_way(broker) == 1)
        jobs.gates["a"].set()
        assert run.get_result(block=True) == ["a", "b"]


def test_a_run_under_another_namespace_is_not_found(redis_client: redis.Redis, redis_broker: RedisBroker) -> None:
    run = Clutch().run()
    assert RedisBackend(client=redis_client, namespace="other").snapshot(run.run_id) is None
    assert engine_of(redis_broker).backend.snapshot(run.run_id) is not None
    with pytest.raises(RunNotFound):
        Run(run.run_id + "x").status()
