"""What observers are shown of runs and jobs, and that nobody pays for it who has none."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker

from dramatiq_clutch import Clutch, ClutchMiddleware, Run, observing, patience, sightings
from dramatiq_clutch.backends import StubBackend
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.errors import StateUnavailable
from dramatiq_clutch.observing import (
    Absorbed,
    AttemptBegan,
    AttemptEnded,
    DutyTakenOver,
    MembersSent,
    Observer,
    RunStalled,
    Sighting,
    WaitBegan,
    WaitEnded,
)
from tests.conftest import running_worker
from tests.support.awaiting import wait_until
from tests.support.jobs import Jobs, state_is


class Sees(Observer):
    def __init__(self) -> None:
        self.sightings: list[Any] = []

    def observe(self, broker: dramatiq.Broker, sighting: Sighting) -> None:
        self.sightings.append(sighting)

    def of(self, kind: type) -> list[Any]:
        return [one for one in self.sightings if isinstance(one, kind)]


@pytest.fixture
def sees(stub_broker: StubBroker) -> Sees:
    observer = Sees()
    stub_broker.add_middleware(observer)
    return observer


def finished(broker: dramatiq.Broker, clutch: Clutch, state: str = "succeeded") -> Run:
    run = clutch.run()
    with running_worker(broker):
        state_is(run, state)
    return run


def test_each_attempt_of_a_job_begins_and_ends(stub_broker: StubBroker, sees: Sees) -> None:
    jobs = Jobs(stub_broker)
    jobs.script["x"] = ["fail"]
    run = finished(stub_broker, Clutch().then(jobs.job.message("x"), jobs.job.message("y")))
    # A retry may overtake the record of the attempt before it.
    began = sees.of(AttemptBegan)
    ended = sorted(sees.of(AttemptEnded), key=lambda one: (one.stage, one.attempt))
    assert [(one.stage, one.member, one.attempt, one.actor, one.queue) for one in began] == [
        (0, 0, 0, "job", "default"),
        (0, 0, 1, "job", "default"),
        (1, 0, 0, "job", "default"),
    ]
    assert [(one.stage, one.attempt, one.ending) for one in ended] == [
        (0, 0, "failing"),
        (0, 1, "succeeded"),
        (1, 0, "succeeded"),
    ]
    assert {one.run_id for one in (*began, *ended)} == {run.run_id}
    assert [one.message_id for one in began] == [one.message_id for one in ended]
    assert all(one.seconds >= 0 for one in ended)


def test_what_is_sent_is_told_once_for_each_stage(stub_broker: StubBroker, sees: Sees) -> None:
    jobs = Jobs(stub_broker)
    finished(stub_broker, Clutch().then(jobs.job.message("x")).parallel([jobs.job.message("y"), jobs.job.message("z")]))
    sent = sees.of(MembersSent)
    assert [one.stage for one in sent] == [0, 1]
    assert all(one.seconds >= 0 for one in sent)
    assert not sees.of(DutyTakenOver)


def waited(sees: Sees) -> float:
    return float(sees.of(AttemptBegan)[-1].waited)


def test_a_job_waits_for_a_worker_since_it_was_sent(stub_broker: StubBroker, sees: Sees) -> None:
    jobs = Jobs(stub_broker)
    run = Clutch().then(jobs.job.message("x")).run()
    assert sees.of(MembersSent)
    began = time.time()
    wait_until("some time to pass", lambda: time.time() - began > 0.06)
    with running_worker(stub_broker):
        run.get_result(block=True)
    assert waited(sees) >= 0.05


def test_a_delay_isnt_waiting_for_a_worker(stub_broker: StubBroker, sees: Sees, monkeypatch: Any) -> None:
    """What was due an hour after it was sent, and half a minute ago, has waited for half a minute."""
    now = 1_700_000_000_000
    message: Any = SimpleNamespace(
        message_timestamp=now - 3_630_000, options={"clutch": {}, "eta": now - 30_000}, queue_name="default"
    )
    tag = SimpleNamespace(run_id="r", stage=0, member=0)
    engine = SimpleNamespace(broker=stub_broker)
    job: Any = SimpleNamespace(engine=engine, tag=tag, attempt=0, message_id="m", actor="job", began=0.0)
    monkeypatch.setattr(sightings, "current_millis", lambda: now)
    sightings.begins(message, job)
    assert waited(sees) == 3_630
    sightings.note_delay(stub_broker, message)
    sightings.begins(message, job)
    assert waited(sees) == 30


def test_a_delayed_job_is_known_when_it_has_moved_to_its_queue(stub_broker: StubBroker, sees: Sees) -> None:
    jobs = Jobs(stub_broker)
    run = Clutch().then(jobs.job.message_with_options(args=("x",), delay=30)).run()
    seen: list[Any] = []

    class Looks(dramatiq.Middleware):
        def before_process_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
            seen.append(message.options[sightings.DUE] - message.message_timestamp)

    stub_broker.add_middleware(Looks())
    with running_worker(stub_broker):
        run.get_result(block=True)
    assert len(seen) == 1
    assert seen[0] >= 30


def test_duplicates_are_absorbed(stub_broker: StubBroker, sees: Sees) -> None:
    jobs = Jobs(stub_broker)
    run = Clutch().then(jobs.job.message("x"), jobs.job.message("y")).run()
    jobs.script["y"] = ["wait"]
    with running_worker(stub_broker):
        wait_until("the second stage to begin", lambda: "y" in jobs.began)
        run.resend()
        (first,) = [one for one in sees.of(AttemptBegan) if one.stage == 1][:1]
        wait_until("the copy", lambda: jobs.counts()["y"] == 2)  # it isn't scripted, and succeeds
        run.get_result(block=True)
        jobs.gates["y"].open() if hasattr(jobs.gates["y"], "open") else jobs.gates["y"].set()
        wait_until("the first to end", lambda: len(sees.of(Absorbed)) == 1)
    (absorbed,) = sees.of(Absorbed)
    assert (absorbed.stage, absorbed.word, absorbed.message_id) == (1, "over", first.message_id)


def test_a_job_that_isnt_wanted_is_absorbed_and_doesnt_begin(stub_broker: StubBroker, sees: Sees) -> None:
    jobs = Jobs(stub_broker)
    run = Clutch().then(jobs.job.message("x")).run()
    run.cancel()
    engine_of(stub_broker).remembered.renew()
    with running_worker(stub_broker):
        wait_until("it to be skipped", lambda: sees.of(Absorbed))
    assert [one.word for one in sees.of(Absorbed)] == ["over"]
    assert not sees.of(AttemptBegan)


def test_a_duty_that_somebody_has_left_is_taken_over(
    stub_broker: StubBroker, sees: Sees, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, engine = Jobs(stub_broker), engine_of(stub_broker)

    def die(*args: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr("dramatiq_clutch.starting.hand_over", die)
        with pytest.raises(SystemExit):
            Clutch().then(jobs.job.message("x")).run(run_id="left")
    assert isinstance(engine.backend, StubBackend)
    engine.backend.clock.advance(engine.lease_ms + 1)
    middleware = next(one for one in stub_broker.middleware if isinstance(one, ClutchMiddleware))
    middleware.sweep(stub_broker)
    assert sees.sightings == [DutyTakenOver(run_id="left", kind="send")]


@pytest.mark.parametrize("resend", [False, True])
def test_a_stalled_run_is_seen(stub_broker: StubBroker, sees: Sees, resend: bool) -> None:
    jobs, engine = Jobs(stub_broker), engine_of(stub_broker)
    object.__setattr__(engine, "resend_stalled", resend)
    run = Clutch().then(jobs.job.message("x")).run()
    middleware = next(one for one in stub_broker.middleware if isinstance(one, ClutchMiddleware))
    assert isinstance(engine.backend, StubBackend)
    for _ in range(3):
        engine.backend.clock.advance(engine.stalled_after + 1)
        middleware.sweep(stub_broker)
        if sees.of(RunStalled):
            break
    assert sees.of(RunStalled) == [RunStalled(run_id=run.run_id, resent=resend)]


def attempt(broker: dramatiq.Broker) -> Any:
    return SimpleNamespace(engine=SimpleNamespace(broker=broker), tag=SimpleNamespace(run_id="r"), message_id="m")


def test_waiting_for_the_store_begins_and_ends(
    stub_broker: StubBroker, sees: Sees, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience.Lives, "_wait", lambda self, seconds: False)
    outcomes: list[Any] = [StateUnavailable("away"), StateUnavailable("away"), "done"]

    def work() -> Any:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    assert patience.Lives().patiently(attempt(stub_broker), work) == "done"
    began, ended = sees.sightings
    assert isinstance(began, WaitBegan)
    assert (began.run_id, began.message_id, str(began.error)) == ("r", "m", "away")
    assert isinstance(ended, WaitEnded)
    assert ended.seconds >= 0
    assert not ended.given_up


def test_waiting_is_given_up_when_the_worker_stops(
    stub_broker: StubBroker, sees: Sees, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience.Lives, "_wait", lambda self, seconds: True)

    def work() -> Any:
        raise StateUnavailable("away")

    with pytest.raises(patience.NotAcked):
        patience.Lives().patiently(attempt(stub_broker), work)
    assert [type(one) for one in sees.sightings] == [WaitBegan, WaitEnded]
    assert sees.sightings[1].given_up


def test_what_works_at_once_hasnt_waited(stub_broker: StubBroker, sees: Sees) -> None:
    assert patience.Lives().patiently(attempt(stub_broker), lambda: 1) == 1
    assert not sees.sightings


def test_an_observer_that_fails_is_logged_and_harms_no_run(
    stub_broker: StubBroker, caplog: pytest.LogCaptureFixture
) -> None:
    class Fails(Observer):
        def __repr__(self) -> str:
            return "Fails()"

        def observe(self, broker: dramatiq.Broker, sighting: Sighting) -> None:
            raise LookupError("broken")

    stub_broker.add_middleware(Fails())
    later = Sees()
    stub_broker.add_middleware(later)
    jobs = Jobs(stub_broker)
    finished(stub_broker, Clutch().then(jobs.job.message("x")))
    assert jobs.counts() == {"x": 1}
    assert len(later.sightings) == 3
    assert [record.message for record in caplog.records if "sighting" in record.message] == [
        f"Fails() couldn't be shown a sighting: {one!r}" for one in later.sightings
    ]


def test_without_an_observer_no_sighting_is_made(stub_broker: StubBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **more: Any) -> Any:
        raise AssertionError("somebody has made a sighting")

    for name in ("AttemptBegan", "AttemptEnded", "Absorbed"):
        monkeypatch.setattr(sightings, name, never)
    for name in ("MembersSent", "DutyTakenOver", "RunStalled", "WaitBegan", "WaitEnded"):
        monkeypatch.setattr(observing, name, never)
    jobs = Jobs(stub_broker)
    jobs.script["x"] = ["fail"]
    run = finished(
        stub_broker, Clutch().then(jobs.job.message_with_options(args=("x",), delay=1), jobs.job.message("y"))
    )
    assert run.get_result() == "y"
    assert jobs.counts() == {"x": 2, "y": 1}


@pytest.mark.parametrize("observed", [False, True])
def test_observing_calls_the_store_as_often_as_not_observing(
    stub_broker: StubBroker, observed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each transition and each look, by its name."""
    calls: list[str] = []
    backend = engine_of(stub_broker).backend

    def counted(name: str, whole: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            calls.append(name)
            return whole(*args, **more)

        return call

    for name in ("create", "guard", "record", "confirm", "owed", "snapshot", "touch", "generation", "standing"):
        monkeypatch.setattr(backend, name, counted(name, getattr(backend, name)))
    if observed:
        stub_broker.add_middleware(Sees())
    jobs = Jobs(stub_broker)
    run = Clutch().then(jobs.job.message("x"), jobs.job.message("y")).run()
    with running_worker(stub_broker):
        wait_until("the last record", lambda: calls.count("record") == 2)
    assert calls == ["create", "confirm", "guard", "record", "confirm", "guard", "record"]
    assert run.get_result() == "y"
