"""Duties are done by who holds them, in full, and by nobody else; and what is over isn't begun."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.redis import RedisBroker

from dramatiq_clutch import Clutch, starting
from dramatiq_clutch.backend import Caller, Record, Reply
from dramatiq_clutch.engine import Engine, engine_of
from dramatiq_clutch.handover import hand_over, lease, work
from dramatiq_clutch.job import Job
from dramatiq_clutch.stored.duties import Duty
from dramatiq_clutch.stored.owners import SWEEPER
from tests.support.jobs import Jobs
from tests.support.messages import on_their_way
from tests.support.tags import tag_in


@pytest.fixture
def jobs(broker: dramatiq.Broker) -> Jobs:
    return Jobs(broker)


def queued(broker: dramatiq.Broker) -> int:
    """How many messages no worker has taken."""
    if isinstance(broker, RedisBroker):
        length: Any = broker.client.llen(f"{broker.namespace}:default")
        return int(length)
    return on_their_way(broker)


@pytest.mark.parametrize("cancelled", [False, True], ids=["at work", "cancelled"])
def test_a_nested_run_that_is_started_after_its_parent_was_cancelled_does_not_begin(
    broker: dramatiq.Broker, jobs: Jobs, monkeypatch: pytest.MonkeyPatch, cancelled: bool
) -> None:
    """Its sender was slow: it had read what to start before, and goes on."""
    late: list[tuple[Engine, str, Reply, Caller]] = []
    monkeypatch.setattr(starting, "hand_over", lambda *given: late.append(given))
    run = Clutch().then(Clutch().then(jobs.job.message("a"))).run()
    if cancelled:
        assert run.cancel()
    hand_over(*late[0])
    assert queued(broker) == (0 if cancelled else 1)


def test_what_one_attempt_causes_is_not_given_to_another_one_that_ends_late(
    broker: dramatiq.Broker, jobs: Jobs
) -> None:
    """Retries sends the next attempt before the one that has failed is recorded. Both may be at their ends at once, and
    what follows would be sent by both. The same message may ask again: its worker may have died."""
    run = Clutch().then(jobs.job.message("a")).then(jobs.job.message("b")).run()
    engine, tag = engine_of(broker), tag_in(broker, run)
    first, second = (
        Job(engine=engine, message_id=tag.message_id, actor=tag.actor, attempt=number, tag=tag) for number in range(2)
    )
    backend = engine.backend
    caused = backend.record(Record(tag, 1, "succeeded", b"1"), engine.caller(second.owner))
    assert [duty.id for duty in caused.duties] == ["send:1:0:1"]
    late = backend.record(Record(tag, 0, "failing", b"{}"), engine.caller(first.owner))
    assert late.duties == ()
    assert [duty.id for duty in backend.owed(run.run_id, engine.caller(second.owner)).duties] == ["send:1:0:1"]


def test_a_sender_whose_lease_has_passed_on_stops_in_the_middle_of_its_stage(
    broker: dramatiq.Broker, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(broker)
    backend, taken = engine.backend, list[Duty]()
    works = backend.confirm

    def confirm(run_id: str, duty: Duty, caller: Caller, *, cursor: int | None = None) -> str:
        if not taken:  # the sender has slept for a lease, and a sweeper has come by
            now = caller.now + engine.lease_ms
            sweeper = Caller(SWEEPER, now, "a sweeper's", engine.lease_ms, application=engine.application)
            taken.extend(backend.owed(run_id, sweeper).duties)
        return works(run_id, duty, caller, cursor=cursor)

    monkeypatch.setattr(backend, "confirm", confirm)
    monkeypatch.setattr(work, "CHUNK", 2)
    Clutch().parallel(jobs.job.message(str(number)) for number in range(7)).run()
    assert [duty.kind for duty in taken] == ["send"]
    assert queued(broker) == 2


def test_a_hand_over_that_takes_long_renews_the_lease_of_what_it_holds(
    broker: dramatiq.Broker, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(broker)
    backend, passed, taken = engine.backend, [0], list[Duty]()
    works, clock = backend.create, backend.now
    monkeypatch.setattr(backend, "now", lambda: clock() + passed[0])
    monkeypatch.setattr(lease, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + passed[0] / 1000))

    def create(run_id: str, *given: Any, **more: Any) -> Reply:
        if run_id != "slow":  # each nested run takes two fifths of a lease to start, and a sweeper comes by
            passed[0] += engine.lease_ms * 2 // 5
            sweeper = Caller(SWEEPER, backend.now(), "a sweeper's", engine.lease_ms, application=engine.application)
            taken.extend(backend.owed("slow", sweeper).duties)
        return works(run_id, *given, **more)

    monkeypatch.setattr(backend, "create", create)
    Clutch().parallel(Clutch().then(jobs.job.message(str(number))) for number in range(5)).run(run_id="slow")
    assert passed[0] == 2 * engine.lease_ms
    assert not taken
    assert queued(broker) == 5


def test_a_retry_of_a_cancelled_run_sends_what_has_not_succeeded_and_nothing_else(
    broker: dramatiq.Broker, jobs: Jobs
) -> None:
    engine = engine_of(broker)
    run = Clutch().parallel(jobs.job.message(name) for name in "abcd").run()
    for member, ending in enumerate(("succeeded", "failing")):
        tag = tag_in(broker, run, of=4)._replace(member=member)
        record = Record(tag, 0, ending, b"1" if ending == "succeeded" else b"{}")  # type: ignore[arg-type]
        engine.backend.record(record, engine.caller(tag.owner))
    run.cancel()
    assert queued(broker) == 4
    assert run.retry()
    assert queued(broker) == 4 + 3
