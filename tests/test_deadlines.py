"""Deadlines of runs and of stages: they are kept though no message comes, and whoever waits is told at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import dramatiq
import pytest

from dramatiq_clutch import Clutch, Run
from dramatiq_clutch.errors import RunFailed, RunIdTaken
from dramatiq_clutch.testing import run_to_end, stubbed
from tests.conftest import running_worker
from tests.support.application import Application
from tests.support.awaiting import wait_until
from tests.support.jobs import Jobs, state_is
from tests.support.messages import on_their_way

Make = Callable[..., AbstractContextManager[Application]]

#: In milliseconds: so short that a test waits for it, and never longer than a queue is left alone.
SHORT = 300

#: So long that it isn't over while a test lasts.
LONG = timedelta(hours=1)


def lonely(broker: dramatiq.Broker) -> Any:
    """An actor whose queue has no worker."""

    @dramatiq.actor(broker=broker, queue_name="lonely")
    def nobody_works() -> None: ...

    return nobody_works


def fails_late(run: Run, whose: str) -> None:
    with pytest.raises(RunFailed, match=rf"DeadlineExceeded: the deadline of {whose} \({SHORT} ms\) was over before"):
        run.get_result(block=True)


# Nobody comes by but a sweeper


@pytest.mark.parametrize("whose", ["the run", "stage 0"])
def test_a_deadline_is_kept_though_no_worker_listens_to_the_queue(make: Make, whose: str) -> None:
    with make() as app:
        jobs, actor = Jobs(app.broker), lonely(app.broker)
        if whose == "the run":
            run = Clutch(**jobs.callbacks("root"), deadline=SHORT).then(actor).run()
        else:
            run = Clutch(**jobs.callbacks("root")).parallel([actor, actor], deadline=SHORT).run()
        with running_worker(app.broker, queues={"default"}):
            fails_late(run, whose)
            jobs.wait_fired("root", "F X E")
    error = run.status().error
    assert error is not None
    assert error.exception_type == "DeadlineExceeded"


def test_the_deadline_of_a_stage_is_kept_that_another_job_has_released(make: Make) -> None:
    """The index was written before: it says by when a sweeper has to look at the latest."""
    with make() as app:
        jobs, actor = Jobs(app.broker), lonely(app.broker)
        run = Clutch().then(jobs.job.message("first")).then(actor, deadline=SHORT).run()
        with running_worker(app.broker, queues={"default"}):
            fails_late(run, "stage 1")
    assert jobs.began == ["first"]


def test_a_nested_run_that_is_late_is_dead_for_its_parent(make: Make) -> None:
    with make() as app:
        jobs, actor = Jobs(app.broker), lonely(app.broker)
        late = Clutch(name="late", deadline=SHORT).then(actor)
        run = Clutch().parallel(late, jobs.job.message("other"), allow_failures=True).run()
        with running_worker(app.broker, queues={"default"}):
            assert run.get_result(block=True) == [None, "other"]


def test_nested_runs_are_cancelled_with_a_run_that_is_late(make: Make) -> None:
    with make() as app:
        actor = lonely(app.broker)
        Jobs(app.broker)
        run = Clutch(deadline=SHORT).parallel(Clutch().then(actor), Clutch().then(actor)).run()
        with running_worker(app.broker, queues={"default"}):
            fails_late(run, "the run")
            for member in range(2):
                state_is(Run(f"{run.run_id}~0.{member}"), "cancelled")


def test_a_run_that_is_retried_is_late_once_more(make: Make) -> None:
    with make() as app:
        jobs, actor = Jobs(app.broker), lonely(app.broker)
        run = Clutch(**jobs.callbacks("root"), deadline=SHORT).then(actor).run()
        with running_worker(app.broker, queues={"default"}):
            fails_late(run, "the run")
            jobs.wait_fired("root", "F X E")
            assert run.retry()
            jobs.wait_fired("root", "F X E F X E")


@pytest.mark.parametrize("held", ["by a wait", "by the delay of the run"])
@pytest.mark.parametrize("of_stage", [True, False])
def test_the_deadline_of_a_nested_clutch_begins_when_that_does(held: str, *, of_stage: bool) -> None:
    with stubbed() as broker:
        job = Jobs(broker).job.message
        nested = Clutch().then(job("a"), deadline=SHORT) if of_stage else Clutch(deadline=SHORT).then(job("a"))
        outer = Clutch().wait(LONG) if held == "by a wait" else Clutch()
        run = outer.parallel(Clutch().then(nested), job("b")).run(delay=None if held == "by a wait" else LONG)
        assert run_to_end(run) == ["a", "b"]
        late = outer.parallel(nested).run(delay=None if held == "by a wait" else LONG)
        broker.advance(LONG + timedelta(milliseconds=SHORT))
        with pytest.raises(
            RunFailed, match=f"DeadlineExceeded: the deadline of {'stage 0' if of_stage else 'the run'}"
        ):
            run_to_end(late)


# No sweeper, but a message


def test_a_job_that_comes_after_the_deadline_is_skipped_and_fails_its_run(make: Make) -> None:
    with make(sweep_interval=None) as app:
        jobs = Jobs(app.broker)
        for number in range(3):
            jobs.script[f"{number}"] = ["wait"]
        run = Clutch().parallel([jobs.job.message(f"{number}") for number in range(3)], deadline=SHORT).run()
        began = app.engine.now()
        with running_worker(app.broker, threads=1):
            wait_until("one of them to work", lambda: jobs.began)
            wait_until("the deadline to be over", lambda: app.engine.now() > began + SHORT)
            for number in range(3):
                jobs.gates[f"{number}"].set()
            fails_late(run, "stage 0")
            wait_until("all messages to be acked", lambda: on_their_way(app.broker) == 0)
    assert len(jobs.began) == 1
    stage = run.status().stages[0]
    assert (stage.succeeded, stage.failing, stage.dead) == (1, 0, 0)  # its success is kept for a retry


def test_a_success_that_comes_too_late_is_not_done_again(make: Make) -> None:
    with make(sweep_interval=None) as app:
        jobs = Jobs(app.broker)
        jobs.script["slow"] = ["wait"]
        run = Clutch(deadline=SHORT).then(jobs.job.message("slow")).then(jobs.total).run()
        began = app.engine.now()
        with running_worker(app.broker):
            wait_until("it to work", lambda: jobs.began)
            wait_until("the deadline to be over", lambda: app.engine.now() > began + SHORT)
            jobs.gates["slow"].set()
            fails_late(run, "the run")
            assert run.status().stages[0].succeeded == 1
            assert run.retry()
            wait_until("the next stage to be sent, or skipped", lambda: on_their_way(app.broker) == 0)
    assert jobs.counts()["slow"] == 1
    assert jobs.counts()["total"] <= 1


def test_a_deadline_that_is_kept_changes_nothing(broker: dramatiq.Broker, jobs: Jobs) -> None:
    clutch = Clutch(**jobs.callbacks("root"), deadline=LONG).then(jobs.job.message("a"), deadline=LONG)
    run = clutch.parallel([jobs.job.message("b")], deadline=LONG).map(jobs.job.message("c"), deadline=LONG).run()
    with running_worker(broker):
        assert run.get_result(block=True) == [["c", "b"]]
        jobs.wait_fired("root", "S E")


# What is said


@pytest.mark.parametrize("wrong", [0, -1, timedelta(0)], ids=repr)
def test_a_deadline_that_is_over_at_once_is_an_error(stub_broker: Any, wrong: Any) -> None:
    jobs, text = Jobs(stub_broker), f"deadline is {re.escape(repr(wrong))}; it is a number of milliseconds"
    with pytest.raises(ValueError, match=text):
        Clutch(deadline=wrong)
    with pytest.raises(ValueError, match=text):
        Clutch().then(jobs.total, deadline=wrong)
    with pytest.raises(ValueError, match=text):
        Clutch().parallel([], deadline=wrong)
    with pytest.raises(ValueError, match=text):
        Clutch().then(jobs.total).map(jobs.job, deadline=wrong)


@pytest.mark.parametrize("wrong", [1.5, "1 h", True], ids=repr)
def test_a_deadline_that_is_no_time_is_an_error(stub_broker: Any, wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"deadline is .*; it takes a whole number of milliseconds"):
        Clutch(deadline=wrong)


def test_a_delay_beyond_the_deadline_is_an_error(stub_broker: Any) -> None:
    jobs = Jobs(stub_broker)
    over = "and by then the deadline of the run is over: 5,000 ms"
    with pytest.raises(ValueError, match=f"delay and waits are 5,000 ms, {over}"):
        Clutch(deadline=5_000).then(jobs.total).run(delay=5_000)
    with pytest.raises(ValueError, match=r"delay is 6,000 ms, .* the deadline of its first stage is over"):
        Clutch().then(jobs.total, deadline=5_000).then(jobs.total).run(delay=timedelta(seconds=6))
    waits = Clutch(deadline=5_000).then(jobs.total).wait(3_000).then(jobs.total)
    with pytest.raises(ValueError, match=f"delay and waits are 5,000 ms, {over}"):
        waits.run(delay=2_000)
    waits.run(delay=1_999)
    Clutch(deadline=5_001).then(jobs.total, deadline=5_001).then(jobs.total, deadline=1).run(delay=5_000)
    Clutch().wait(1).then(jobs.total, deadline=1).run(delay=5_000)  # counts from when the stage begins


def test_a_deadline_tells_clutches_under_one_id_apart(stub_broker: Any) -> None:
    jobs = Jobs(stub_broker)
    Clutch(deadline=LONG).then(jobs.total).run(run_id="mine")
    Clutch(deadline=3_600_000).then(jobs.total).run(run_id="mine")
    for other in (Clutch(), Clutch(deadline=5_000)):
        with pytest.raises(RunIdTaken):
            other.then(jobs.total).run(run_id="mine")


def test_a_picture_and_a_repr_show_deadlines(stub_broker: Any) -> None:
    jobs = Jobs(stub_broker)
    clutch = Clutch(deadline=timedelta(minutes=2)).then(jobs.total, deadline=60_000)
    assert repr(clutch) == "Clutch(deadline=120000, 1 stage: then(total, deadline=60000))"
    assert re.findall(r'\|"(.*?)"\|', clutch.to_mermaid()) == ["deadline 1 min"]
