"""How many members of a stage must succeed, how many may die, and what comes of the others: on each broker, with real
workers."""

from __future__ import annotations

import re
from typing import Any

import dramatiq
import pytest

from dramatiq_clutch import Clutch, Run
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.errors import RunFailed
from tests.conftest import running_worker
from tests.support.awaiting import wait_until
from tests.support.jobs import Jobs, state_is
from tests.support.messages import on_their_way


def named(jobs: Jobs, count: int) -> list[dramatiq.Message[Any]]:
    return [jobs.job.message(f"{number}") for number in range(count)]


def nothing_is_queued(broker: dramatiq.Broker) -> None:
    wait_until("all messages to be acked", lambda: on_their_way(broker) == 0)


# A run fails at once


@pytest.mark.parametrize("how", ["of the stage", "of the clutch", "of a mapped stage"])
def test_what_is_queued_when_a_run_fails_fast_is_skipped(broker: dramatiq.Broker, jobs: Jobs, how: str) -> None:
    for number in range(5):
        jobs.script[f"{number}"] = ["die"]
    clutch = Clutch(**jobs.callbacks("root"), fail_fast=how == "of the clutch")
    if how == "of a mapped stage":
        jobs.script["first"] = ["ok"]
        for number in range(5):
            jobs.script[f"first{number}"] = ["die"]
        mapped = clutch.then(jobs.several.message("first", 5)).map(jobs.job, fail_fast=True)
        run = mapped.then(jobs.total).run()
    else:
        fails_fast = True if how == "of the stage" else None
        run = clutch.parallel(named(jobs, 5), fail_fast=fails_fast).then(jobs.total).run()
    with running_worker(broker, threads=1):
        with pytest.raises(RunFailed, match="dies"):
            run.get_result(block=True)
        jobs.wait_fired("root", "F D X E")
        nothing_is_queued(broker)
    assert len([name for name in jobs.began if name != "first"]) == 1
    stage = run.status().stages[-2]
    assert (stage.state, stage.dead, stage.succeeded) == ("failed", 1, 0)


def test_a_stage_may_wait_for_all_in_a_clutch_that_fails_fast(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["0"], jobs.script["1"] = ["die"], ["die"]
    run = Clutch(fail_fast=True).parallel(named(jobs, 2), fail_fast=False).run()
    with running_worker(broker, threads=1):
        state_is(run, "failed")
    assert run.status().stages[0].dead == 2


def test_a_job_that_is_at_work_when_its_run_fails_fast_is_not_done_again(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["0"] = ["wait"]
    jobs.script["1"] = ["wait and die"]
    run = Clutch().parallel(named(jobs, 4), fail_fast=True, limit=2).then(jobs.total).run()
    with running_worker(broker, threads=2):
        wait_until("both to work", lambda: sorted(jobs.began) == ["0", "1"])
        jobs.gates["1"].set()
        state_is(run, "failed")
        jobs.gates["0"].set()
        wait_until("the other one to have succeeded", lambda: run.status().stages[0].succeeded == 1)
        nothing_is_queued(broker)
        assert sorted(jobs.began) == ["0", "1"]
        assert run.retry()
        assert run.get_result(block=True) == ["0", "1", "2", "3"]
    assert jobs.counts() == {"0": 1, "1": 2, "2": 1, "3": 1, "total": 1}


def test_nested_runs_are_cancelled_when_their_parent_fails_fast_and_work_again_with_it(
    broker: dramatiq.Broker, jobs: Jobs
) -> None:
    jobs.script["waits"], jobs.script["gate"] = ["wait"], ["wait"]
    jobs.script["dies"] = ["die"]
    waiting = Clutch().then(jobs.job.message("waits"), jobs.job.message("next"))
    dying = Clutch().then(jobs.job.message("gate")).parallel(jobs.job.message("dies"), fail_fast=True)
    run = Clutch(**jobs.callbacks("root")).parallel(waiting, dying, fail_fast=True).run()
    with running_worker(broker, threads=3):
        wait_until("both to work", lambda: {"waits", "gate"} <= set(jobs.began))
        jobs.gates["gate"].set()
        jobs.wait_fired("root", "F D X E")
        assert run.status().state == "failed"
        state_is(Run(f"{run.run_id}~0.0"), "cancelled")
        state_is(Run(f"{run.run_id}~0.1"), "failed")
        jobs.gates["waits"].set()
        nothing_is_queued(broker)
        assert "next" not in jobs.began
        assert run.retry()
        assert run.get_result(block=True) == ["next", ["dies"]]
        jobs.wait_fired("root", "F D X E S E")
    assert jobs.counts() == {"waits": 2, "gate": 1, "dies": 2, "next": 1}


# Enough


def test_a_success_completes_a_stage_for_which_it_is_enough(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["1"] = ["wait"]
    run = Clutch().parallel(named(jobs, 3), enough=2).then(jobs.total).run()
    with running_worker(broker, threads=3):
        assert run.get_result(block=True) == ["0", None, "2"]
        jobs.gates["1"].set()
        nothing_is_queued(broker)
    stage = run.status().stages[0]
    assert (stage.succeeded, stage.dead, stage.skipped, stage.total) == (2, 0, 1, 3)


def test_a_late_success_is_in_no_result(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["slow"], jobs.script["0"] = ["wait"], ["wait"]
    run = Clutch().parallel(*named(jobs, 2), jobs.job.message("slow"), enough=2).run()
    with running_worker(broker, threads=3):
        wait_until("the slow one to work", lambda: "slow" in jobs.began)
        jobs.gates["0"].set()
        assert run.get_result(block=True) == ["0", "1", None]
        jobs.gates["slow"].set()
        nothing_is_queued(broker)
        assert run.get_result() == ["0", "1", None]
    assert jobs.counts()["slow"] == 1


def test_what_is_queued_when_enough_have_succeeded_is_skipped(broker: dramatiq.Broker, jobs: Jobs) -> None:
    run = Clutch().parallel(named(jobs, 20), enough=3, limit=5).run()
    with running_worker(broker, threads=1):
        results = run.get_result(block=True)
        nothing_is_queued(broker)
    assert len(jobs.began) == 3
    assert [result for result in results if result is not None] == sorted(jobs.began, key=int)


def test_nested_runs_are_cancelled_when_enough_others_have_succeeded(broker: dramatiq.Broker, jobs: Jobs) -> None:
    """Those that are written down, and those that a job has nested; also in the last stage."""
    jobs.script["written"], jobs.script["inner"] = ["wait"], ["wait"]

    @dramatiq.actor(broker=broker)
    def nests() -> Run:
        return Clutch().then(jobs.job.message("inner"), jobs.job.message("after inner")).nest()

    written = Clutch().then(jobs.job.message("written"), jobs.job.message("after written"))
    quick = Clutch().then(jobs.job.message("quick"))
    jobs.script["quick"] = ["wait"]
    run = Clutch(**jobs.callbacks("root")).parallel(quick, written, nests, enough=1).run()
    with running_worker(broker, threads=4):
        wait_until("all to work", lambda: {"quick", "written", "inner"} <= set(jobs.began))
        jobs.gates["quick"].set()
        assert run.get_result(block=True) == ["quick", None, None]
        jobs.wait_fired("root", "S E")
        for child in (f"{run.run_id}~0.1", f"{run.run_id}~0.2~0.0"):
            state_is(Run(child), "cancelled")
        jobs.gates["written"].set()
        jobs.gates["inner"].set()
        nothing_is_queued(broker)
    assert set(jobs.began) == {"quick", "written", "inner"}
    backend = engine_of(broker).backend
    wait_until("the run to be tidied up", lambda: backend.spec(run.run_id) is None)


def test_all_items_must_succeed_if_there_are_fewer_than_are_enough(broker: dramatiq.Broker, jobs: Jobs) -> None:
    run = Clutch().then(jobs.several.message("x", 2)).map(jobs.job, enough=5).run()
    with running_worker(broker):
        assert run.get_result(block=True) == ["x0", "x1"]


def test_a_stage_maps_over_the_places_that_were_skipped_too(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["0"] = ["wait"]
    run = Clutch().parallel(named(jobs, 2), enough=1).map(jobs.job.message("m")).run()
    with running_worker(broker):
        assert run.get_result(block=True) == [["m", None], ["m", "1"]]
        jobs.gates["0"].set()


def test_a_run_whose_members_are_too_many_to_lack_fails(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["0"], jobs.script["1"] = ["die"], ["die"]
    run = Clutch().parallel(named(jobs, 3), enough=2).run()
    with running_worker(broker):
        state_is(run, "failed")
    stage = run.status().stages[0]
    assert (stage.succeeded, stage.dead, stage.skipped) == (1, 2, 0)


@pytest.mark.parametrize(("allowed", "ends"), [(2, "succeeded"), (1, "failed"), (0.5, "succeeded"), (0.49, "failed")])
def test_so_many_failures_are_allowed(broker: dramatiq.Broker, jobs: Jobs, allowed: float, ends: str) -> None:
    jobs.script["0"], jobs.script["2"] = ["die"], ["die"]
    run = Clutch().parallel(named(jobs, 4), allow_failures=allowed).then(jobs.total).run()
    with running_worker(broker):
        state_is(run, ends)
    if ends == "succeeded":
        assert run.get_result() == [None, "1", None, "3"]


# What is said when a stage is added


@pytest.mark.parametrize("wrong", [-1, 0.0, 1.0, 1.5, -0.5, float("nan"), None, "all"], ids=repr)
def test_what_allows_no_failures_is_an_error(stub_broker: Any, wrong: Any) -> None:
    with pytest.raises(ValueError, match=f"allow_failures is {re.escape(repr(wrong))}; it is how many members may die"):
        Clutch().parallel([], allow_failures=wrong)


@pytest.mark.parametrize("wrong", [0, -1, 0.5, True, "2"], ids=repr)
def test_what_is_never_enough_is_an_error(stub_broker: Any, wrong: Any) -> None:
    with pytest.raises(ValueError, match=f"enough is {re.escape(repr(wrong))}; it is how many successes complete"):
        Clutch().parallel([], enough=wrong)


def test_more_than_there_is_can_not_be_enough(stub_broker: Any) -> None:
    jobs = Jobs(stub_broker)
    Clutch().parallel(named(jobs, 3), enough=3)
    Clutch().parallel(lambda: named(jobs, 1), enough=3)
    Clutch().then(jobs.total).map(jobs.job, enough=3)
    with pytest.raises(ValueError, match="enough is 4, and the stage has only 3 members"):
        Clutch().parallel(named(jobs, 3), enough=4)


@pytest.mark.parametrize("allowed", [True, 0, 1, 0.5], ids=repr)
def test_enough_says_already_how_many_may_die(stub_broker: Any, allowed: Any) -> None:
    jobs = Jobs(stub_broker)
    with pytest.raises(ValueError, match=f"enough=1 and allow_failures={allowed!r} can't go together: where 1"):
        Clutch().parallel(named(jobs, 3), enough=1, allow_failures=allowed)
    with pytest.raises(ValueError, match="can't go together"):
        Clutch().then(jobs.total).map(jobs.job, enough=1, allow_failures=allowed)


def test_a_picture_and_a_repr_show_what_is_said_of_a_stage(stub_broker: Any) -> None:
    jobs = Jobs(stub_broker)
    begun = Clutch(fail_fast=True).parallel(named(jobs, 3), allow_failures=2)
    clutch = begun.map(jobs.job, allow_failures=0.25, fail_fast=False).map(jobs.job, enough=2, limit=3, fail_fast=False)
    assert repr(clutch) == (
        "Clutch(fail_fast=True, 3 stages: parallel(3 of job, allow_failures=2, fail_fast=True), "
        "map(job, allow_failures=0.25), map(job, limit=3, enough=2))"
    )
    assert re.findall(r'\|"(.*?)"\|', clutch.to_mermaid())[2:] == [
        "2 failures allowed, fail fast",
        "map, 25#37; failures allowed",
        "map, enough 2, limit 3",
    ]
