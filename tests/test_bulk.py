"""Steering many runs: `select_runs`, and the walks through its selection."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker

from dramatiq_clutch import (
    Clutch,
    NotConfigured,
    Run,
    RunAtWork,
    RunOutcome,
    count_runs,
    detached,
    runs,
    select_runs,
)
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.errors import StateUnavailable
from tests.conftest import running_worker
from tests.support.awaiting import wait_until
from tests.support.jobs import Jobs, state_is
from tests.support.keyspace import remove_keys


@pytest.fixture
def stub_jobs(stub_broker: StubBroker) -> Jobs:
    return Jobs(stub_broker)


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dramatiq_clutch.bulk.AT_ONCE", 2)
    monkeypatch.setattr("dramatiq_clutch.bulk.TOGETHER", 5)


def waiting(jobs: Jobs, count: int, **options: Any) -> list[Run]:
    """Runs that no worker takes up."""
    return [Clutch(**options).then(jobs.job.message("waits")).run() for _ in range(count)]


def done(outcomes: Any) -> list[str]:
    """The ids of the runs to which something was done."""
    return [one.run_id for one in outcomes if one.done]


def ids(some: Sequence[Run]) -> list[str]:
    return [run.run_id for run in some]


def states(some: Sequence[Run]) -> list[str]:
    return [run.status().state for run in some]


# What is done to them


def test_the_selected_runs_are_cancelled_retried_and_deleted_and_no_others(jobs: Jobs) -> None:
    mine, others = waiting(jobs, 3, name="mine"), waiting(jobs, 2, name="other")
    found = select_runs(name="mine")
    assert found.count() == 3
    assert sorted(done(found.cancel())) == sorted(ids(mine))
    assert states(mine) == ["cancelled"] * 3
    assert states(others) == ["running"] * 2
    assert done(found.cancel()) == []
    assert sorted(done(select_runs(name="mine", state="cancelled").retry())) == sorted(ids(mine))
    assert states(mine) == ["running"] * 3
    assert len(done(found.resend())) == 3
    assert len(done(found.cancel())) == len(done(found.delete())) == 3
    assert found.count() == 0
    assert {run.run_id for run in runs()} == set(ids(others))


def test_what_has_failed_is_done_again_from_a_stage_of_all_of_them(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["b"] = ["die"] * 3
    clutch = Clutch(keep_results=True).then(jobs.job.message("a")).then(jobs.job.message("b"))
    some = [clutch.run() for _ in range(3)]
    short = Clutch(keep_results=True).then(jobs.job.message("c")).run()
    with running_worker(broker):
        for run in some:
            state_is(run, "failed")
        short.get_result(block=True)
        outcomes = list(select_runs(everything=True).retry(from_stage=1))
        for run in some:
            assert run.get_result(block=True) == "b"
    assert {one.run_id for one in outcomes if one.done} == set(ids(some))
    assert [(one.run_id, type(one.error)) for one in outcomes if not one.done] == [(short.run_id, ValueError)]
    assert jobs.counts()["a"] == 3


def test_an_outcome_tells_what_was_done_what_was_not_and_why(jobs: Jobs) -> None:
    at_rest, at_work = waiting(jobs, 2)
    at_rest.cancel()
    outcomes = {one.run_id: one for one in select_runs(everything=True).delete()}
    assert (outcomes[at_rest.run_id].done, outcomes[at_rest.run_id].error) == (True, None)
    assert not outcomes[at_work.run_id].done
    assert isinstance(outcomes[at_work.run_id].error, RunAtWork)
    assert states([at_work]) == ["running"]


def test_a_run_that_goes_or_ends_meanwhile_is_nothing_to_do(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = engine_of(jobs.broker).backend
    goes, ends = waiting(jobs, 2)
    works = backend.look_at

    def look_at(run_ids: Sequence[str]) -> Any:
        glances = works(run_ids)
        monkeypatch.setattr(backend, "look_at", works)
        remove_keys(backend, goes.run_id)
        ends.cancel()
        return glances

    monkeypatch.setattr(backend, "look_at", look_at)
    outcomes = {one.run_id: (one.done, one.error) for one in select_runs(state="running").cancel()}
    assert outcomes == {goes.run_id: (False, None), ends.run_id: (False, None)}


def test_runs_at_rest_are_left_alone_by_what_is_for_others(stub_jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store isn't even asked: that would have a sweeper look at each of them again."""
    waiting(stub_jobs, 3)
    assert len(done(select_runs(everything=True).cancel())) == 3
    backend = engine_of(stub_jobs.broker).backend
    for verb in ("cancel", "resend", "look_again"):
        monkeypatch.setattr(backend, verb, None)
    for outcomes in (select_runs(everything=True).cancel(), select_runs(everything=True).resend()):
        assert [(one.done, one.error) for one in outcomes] == [(False, None)] * 3


def test_runs_are_steered_without_the_application(stub_jobs: Jobs) -> None:
    some = waiting(stub_jobs, 3)
    engine = engine_of(stub_jobs.broker)
    found = select_runs(broker=detached(engine.backend, application=engine.application), state="running")
    assert found.count() == 3
    assert sorted(done(found.cancel())) == sorted(ids(some))
    assert states(some) == ["cancelled"] * 3


# Which


def test_without_a_filter_runs_are_changed_only_if_everything_is_meant(stub_jobs: Jobs) -> None:
    some, found = waiting(stub_jobs, 2), select_runs()
    assert found.count() == 2
    for verb in (found.cancel, found.retry, found.resend, found.delete):
        with pytest.raises(ValueError, match="everything=True"):
            verb()
    assert states(some) == ["running"] * 2
    assert len(done(select_runs(everything=True).cancel())) == 2


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"state": "waiting"}, "state is 'waiting'"),
        ({"since": 1.5}, "since is 1.5"),
        ({"before": "today"}, "before is 'today'"),
        ({"everything": True, "name": "a"}, "everything"),
    ],
)
def test_what_cannot_be_selected_is_refused(stub_broker: StubBroker, wrong: dict[str, Any], error: str) -> None:
    with pytest.raises((ValueError, TypeError), match=error):
        select_runs(**wrong)


def test_what_cannot_be_asked_of_a_selection_is_refused(stub_broker: StubBroker) -> None:
    with pytest.raises(ValueError, match="up_to is 0"):
        select_runs().count(0)
    with pytest.raises(ValueError, match="cursor 'next'"):
        select_runs(name="a").cancel(cursor="next")
    with pytest.raises(NotConfigured):
        select_runs(broker=StubBroker(middleware=[]))


def test_runs_are_selected_by_when_they_began(jobs: Jobs) -> None:
    (early,) = waiting(jobs, 1)
    began = early.status().created
    wait_until("a millisecond has passed", lambda: engine_of(jobs.broker).now() > began)
    (late,) = waiting(jobs, 1)
    assert [run.run_id for run in runs(before=began + 1)] == [early.run_id]
    assert len(runs(before=began)) == 0
    assert select_runs(before=timedelta(0)).count() >= 1
    assert select_runs(before=timedelta(hours=1)).count() == 0
    assert done(select_runs(before=began + 1).cancel()) == [early.run_id]
    assert done(select_runs(since=began + 1).cancel()) == [late.run_id]


def test_runs_are_counted_up_to_a_limit(jobs: Jobs) -> None:
    waiting(jobs, 5)
    gone = waiting(jobs, 1)[0]
    remove_keys(engine_of(jobs.broker).backend, gone.run_id)
    found = select_runs(state="running")
    assert [found.count(up_to) for up_to in (1, 3, 5, 6)] == [1, 3, 5, 5]
    assert found.count() == 5


def test_a_run_that_is_not_as_wanted_any_more_when_its_turn_comes_is_left_alone(jobs: Jobs, small_steps: None) -> None:
    some = waiting(jobs, 5, name="a")
    assert len(done(select_runs(name="a").cancel())) == 5
    outcomes = iter(select_runs(state="cancelled").delete())
    deleted = {next(outcomes).run_id, next(outcomes).run_id}
    saved = next(run for run in some if run.run_id not in deleted)
    saved.retry()
    assert saved.run_id not in {one.run_id for one in outcomes}
    assert states([saved]) == ["running"]
    assert select_runs(name="a").count() == 1


# A walk


def test_a_run_that_fails_again_at_once_is_retried_once_by_a_walk(
    broker: dramatiq.Broker, jobs: Jobs, small_steps: None
) -> None:
    jobs.script["dies"] = ["die"] * 100
    some = [Clutch().then(jobs.job.message("dies")).run() for _ in range(11)]
    with running_worker(broker):
        wait_until("all have failed", lambda: count_runs()["failed"] == 11)
        retried = list[str]()
        for outcome in select_runs(state="failed").retry():
            assert outcome.done
            retried.append(outcome.run_id)
            wait_until("all have failed again", lambda: count_runs()["failed"] == 11)
    assert sorted(retried) == sorted(ids(some))
    assert jobs.counts()["dies"] == 22


def test_runs_that_begin_meanwhile_are_not_met(jobs: Jobs, small_steps: None) -> None:
    some, met = waiting(jobs, 7), list[str]()
    for outcome in select_runs(state="running").cancel():
        met.append(outcome.run_id)
        waiting(jobs, 1)
    assert sorted(met) == sorted(ids(some))
    assert count_runs()["running"] == 7


def test_a_run_that_has_taken_the_id_of_an_earlier_one_is_not_met(
    stub_jobs: Jobs, small_steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, others = engine_of(stub_jobs.broker).backend, waiting(stub_jobs, 1)
    old = Clutch().then(stub_jobs.job.message("waits")).run(run_id="mine")
    wait_until("others are newer", lambda: engine_of(stub_jobs.broker).now() > old.status().created)
    others += waiting(stub_jobs, 3)
    outcomes = iter(select_runs(everything=True).cancel())
    next(outcomes)
    old.cancel()
    began = engine_of(stub_jobs.broker).now()
    wait_until("the walk is older", lambda: engine_of(stub_jobs.broker).now() > began)
    with monkeypatch.context() as patch:
        patch.setattr(backend, "enlist", lambda *_, **__: ())  # the register hasn't heard of it
        new = Clutch().then(stub_jobs.job.message("waits")).run(run_id="mine", if_exists="restart")
    assert "mine" not in {one.run_id for one in outcomes}
    assert states([new]) == ["running"]


def test_nothing_is_done_before_the_loop_nor_after_it_is_left(jobs: Jobs, small_steps: None) -> None:
    some = waiting(jobs, 9)
    outcomes = select_runs(state="running").cancel()
    assert states(some) == ["running"] * 9
    for _ in outcomes:
        break
    assert states(some).count("cancelled") == 2  # a step
    assert len(done(outcomes)) == 7


def test_a_walk_that_was_left_goes_on_with_the_cursor(jobs: Jobs, small_steps: None) -> None:
    some, met, cursor = waiting(jobs, 9, name="a"), list[str](), None
    for _ in range(4):
        outcomes = iter(select_runs(name="a").resend(cursor=cursor))
        for _ in range(2):
            outcome = next(outcomes)
            met.append(outcome.run_id)
            cursor = outcome.cursor
    rest = list(select_runs(name="a").resend(cursor=cursor))
    met += [one.run_id for one in rest]
    assert sorted(met) == sorted(ids(some))
    assert list(select_runs(name="a").resend(cursor=rest[-1].cursor)) == []


@pytest.mark.parametrize("verb", ["cancel", "delete"])
def test_a_process_that_dies_in_the_middle_leaves_each_run_done_or_to_be_found_again(
    jobs: Jobs, small_steps: None, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    some, acts, cursor = waiting(jobs, 9), list[str](), None
    if verb == "delete":
        assert len(done(select_runs(everything=True).cancel())) == 9
    works = getattr(Run, verb)

    def dies(run: Run) -> bool:
        acts.append(run.run_id)
        if len(acts) == 4:
            raise KeyboardInterrupt
        return bool(works(run))

    def until_it_dies() -> None:
        nonlocal cursor
        for outcome in getattr(select_runs(everything=True), verb)():
            cursor = outcome.cursor

    with monkeypatch.context() as patch:
        patch.setattr(Run, verb, dies)
        with pytest.raises(KeyboardInterrupt):
            until_it_dies()
    assert cursor is not None
    rest = list(getattr(select_runs(everything=True), verb)(cursor=cursor))
    assert len(rest) >= 6
    assert count_runs()["running"] == 0
    assert select_runs(everything=True).count() == (0 if verb == "delete" else len(some))


def test_an_error_of_one_run_stops_no_other(jobs: Jobs, small_steps: None, monkeypatch: pytest.MonkeyPatch) -> None:
    some, works = waiting(jobs, 5), Run.cancel

    def cancel(run: Run) -> bool:
        if run == some[1]:
            raise StateUnavailable("this run's server is away")
        if run == some[3]:
            raise ZeroDivisionError
        return works(run)

    monkeypatch.setattr(Run, "cancel", cancel)
    outcomes = {one.run_id: one for one in select_runs(state="running").cancel()}
    assert [outcomes[run.run_id].done for run in some] == [True, False, True, False, True]
    assert isinstance(outcomes[some[1].run_id].error, StateUnavailable)
    assert isinstance(outcomes[some[3].run_id].error, ZeroDivisionError)


def test_while_the_store_is_away_a_walk_breaks_off_and_its_cursor_leaves_nobody_out(
    jobs: Jobs, small_steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    some, backend, met, cursor = waiting(jobs, 9), engine_of(jobs.broker).backend, list[str](), None

    def away(*_: Any, **__: Any) -> Any:
        raise StateUnavailable("away")

    def one_step(patch: pytest.MonkeyPatch) -> None:
        nonlocal cursor
        for outcome in select_runs(state="running").cancel(cursor=cursor):
            met.append(outcome.run_id)
            cursor = outcome.cursor
            for verb in ("cancel", "count"):
                patch.setattr(backend, verb, away)

    for _ in range(4):
        with monkeypatch.context() as patch, pytest.raises(StateUnavailable, match="away"):
            one_step(patch)
    met += [one.run_id for one in select_runs(state="running").cancel(cursor=cursor)]
    assert sorted(met) == sorted(ids(some))
    assert states(some) == ["cancelled"] * 9


def test_a_short_outage_is_no_error_of_any_run(stub_jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting(stub_jobs, 5)
    backend, calls = engine_of(stub_jobs.broker).backend, list[str]()
    works = backend.cancel

    def cancel(run_id: str, *given: Any, **more: Any) -> Any:
        calls.append(run_id)
        if calls.count(run_id) == 1:
            raise StateUnavailable("away")
        return works(run_id, *given, **more)

    monkeypatch.setattr(backend, "cancel", cancel)
    assert len(done(select_runs(state="running").cancel())) == 5


def test_a_walk_takes_one_page_at_a_time_and_looks_at_runs_just_before_it_does_them(
    stub_jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting(stub_jobs, 130)
    backend, asked, looked = engine_of(stub_jobs.broker).backend, list[int](), list[int]()
    pages, looks = backend.look_through, backend.look_at

    def look_through(labels: Sequence[str], enough: int, **more: Any) -> Any:
        asked.append(enough)
        return pages(labels, enough, **more)

    def look_at(run_ids: Sequence[str]) -> Any:
        looked.append(len(run_ids))
        return looks(run_ids)

    monkeypatch.setattr(backend, "look_through", look_through)
    monkeypatch.setattr(backend, "look_at", look_at)
    outcomes = iter(select_runs(state="running").cancel())
    next(outcomes)
    assert (asked, looked) == ([100], [8])
    assert len(done(outcomes)) == 129
    assert asked == [100, 100]
    assert looked == [8] * 12 + [4] + [8] * 3 + [6]


# In coroutines


async def all_of(outcomes: Any) -> list[RunOutcome]:
    return [outcome async for outcome in outcomes]


def test_a_coroutine_loops_likewise(jobs: Jobs, small_steps: None) -> None:
    some = waiting(jobs, 7)
    outcomes = asyncio.run(all_of(select_runs(state="running").cancel()))
    assert sorted(done(outcomes)) == sorted(ids(some))
    assert asyncio.run(all_of(select_runs(state="running").cancel())) == []


def test_a_coroutine_that_leaves_the_loop_stops_it(stub_jobs: Jobs, small_steps: None) -> None:
    some = waiting(stub_jobs, 7)

    async def leaves() -> RunOutcome:
        outcomes: Any = select_runs(state="running").cancel().__aiter__()
        async for outcome in outcomes:
            await outcomes.aclose()
            return RunOutcome(outcome.run_id, outcome.done, outcome.error, outcome.cursor)
        raise AssertionError

    first = asyncio.run(leaves())
    assert states(some).count("cancelled") == 2
    assert len(done(select_runs(state="running").cancel(cursor=first.cursor))) == 5
