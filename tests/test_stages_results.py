"""Results of earlier stages, of runs that aren't done, and of more members than fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker

from dramatiq_clutch import (
    Clutch,
    ResultsGone,
    Run,
    RunCancelled,
    RunFailed,
    RunNotFound,
    iter_previous_results,
    previous_failures,
    previous_results,
)
from dramatiq_clutch.engine import engine_of
from tests.conftest import running_worker
from tests.support.awaiting import wait_until
from tests.support.jobs import Jobs, actor, state_is


class Asks:
    """An actor that tries something in its job, and writes down what comes of it."""

    def __init__(self, broker: dramatiq.Broker) -> None:
        self.found: list[Any] = []
        self.what: Any = None

        @actor(broker=broker, actor_name="asks")  # type: ignore[untyped-decorator]
        def asks() -> None:
            try:
                self.found.append(self.what())
            except Exception as error:
                self.found.append(error)

        self.actor = asks

    def in_a_job(self, broker: dramatiq.Broker, clutch: Clutch, what: Any) -> Any:
        self.what = what
        run = clutch.then(self.actor).run()
        with running_worker(broker):
            state_is(run, "succeeded")
        return self.found[-1]


@pytest.fixture
def asks(broker: dramatiq.Broker) -> Asks:
    return Asks(broker)


@pytest.fixture
def two_stages(broker: dramatiq.Broker, jobs: Jobs) -> Clutch:
    return (
        Clutch()
        .then(jobs.job.message("a"), name="first")
        .parallel(jobs.job.message("b"), jobs.job.message("c"), name="second")
    )


@pytest.mark.parametrize("stage", [None, 1, "second"])
def test_the_stage_before_is_there_by_its_index_and_by_its_name(
    broker: dramatiq.Broker, asks: Asks, two_stages: Clutch, stage: Any
) -> None:
    assert asks.in_a_job(broker, two_stages, lambda: previous_results(stage=stage)) == ["b", "c"]
    assert asks.in_a_job(broker, two_stages, lambda: list(iter_previous_results(stage=stage))) == ["b", "c"]
    assert asks.in_a_job(broker, two_stages, lambda: previous_failures(stage=stage)) == []


@pytest.mark.parametrize("stage", [0, "first"])
def test_earlier_stages_are_gone_and_the_error_says_how_to_keep_them(
    broker: dramatiq.Broker, asks: Asks, two_stages: Clutch, stage: Any
) -> None:
    for what in (lambda: previous_results(stage=stage), lambda: list(iter_previous_results(stage=stage))):
        error = asks.in_a_job(broker, two_stages, what)
        assert isinstance(error, ResultsGone)
        assert "keep_results=True" in str(error)


@pytest.mark.parametrize("stage", [2, 3, -1, True, "third", "1"])
def test_a_stage_that_is_not_before_is_refused(
    broker: dramatiq.Broker, asks: Asks, two_stages: Clutch, stage: Any
) -> None:
    for read in (previous_results, previous_failures):
        error = asks.in_a_job(broker, two_stages, lambda read=read: read(stage=stage))
        assert isinstance(error, ValueError)
        assert str(error) == f"there is no stage {stage!r} here, but these: 0 ('first'), 1 ('second')"


def test_outside_a_clutch_and_in_a_first_stage_there_are_none(broker: dramatiq.Broker, asks: Asks) -> None:
    assert previous_results(stage="any") == list(iter_previous_results()) == previous_failures(stage=0) == []
    assert asks.in_a_job(broker, Clutch(), lambda: list(iter_previous_results())) == []


def test_the_item_of_a_mapped_clutch_is_iterated_too(broker: dramatiq.Broker, jobs: Jobs) -> None:
    seen: list[Any] = []

    @dramatiq.actor
    def look() -> None:
        seen.append(list(iter_previous_results()))

    run = Clutch().then(jobs.several.message("x", 2)).map(Clutch().then(look)).run()
    with running_worker(broker):
        state_is(run, "succeeded")
    assert sorted(seen) == [["x0"], ["x1"]]


def test_iterating_reads_a_thousand_at_a_time(
    broker: dramatiq.Broker, jobs: Jobs, asks: Asks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dramatiq_clutch.reader.CHUNK", 3)
    backend: Any = engine_of(broker).backend
    asked: list[tuple[int, int]] = []
    results = backend.results

    def counted(run_id: str, stage: int, start: int, end: int, **more: Any) -> Any:
        asked.append((start, end))
        return results(run_id, stage, start, end, **more)

    monkeypatch.setattr(backend, "results", counted)
    names = [str(number) for number in range(8)]
    clutch = Clutch().parallel(jobs.total for _ in range(2)).parallel(jobs.job.message(name) for name in names)
    begun: list[Any] = []

    def first() -> Any:
        each: Iterator[Any] = iter_previous_results()
        begun.append(list(asked))
        assert next(each) == "0"
        begun.append(list(asked))
        return list(each)

    def job_asks() -> Any:
        asked.clear()
        return first()

    assert asks.in_a_job(broker, clutch, job_asks) == names[1:]
    assert begun == [[], [(0, 3)]]
    assert asked == [(0, 3), (3, 6), (6, 8)]


def test_where_some_are_enough_no_more_are_read_to_see_that_results_are_there(
    stub_broker: StubBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dramatiq_clutch.reader.CHUNK", 3)
    jobs, backend = Jobs(stub_broker), engine_of(stub_broker).backend
    run = Clutch().parallel((jobs.job.message(str(number)) for number in range(9)), enough=1, limit=1).run()
    with running_worker(stub_broker):
        state_is(run, "succeeded")
    asked, results = list[int](), backend.results

    def counted(run_id: str, stage: int, start: int, end: int, **more: Any) -> Any:
        asked.append(end - start)
        return results(run_id, stage, start, end, **more)

    monkeypatch.setattr(backend, "results", counted)
    assert list(run.iter_results()) == ["0", *[None] * 8]
    assert asked == [3] * 5  # each of three chunks, and the first one once more for each of the others


def test_the_results_of_a_run_are_iterated(broker: dramatiq.Broker, jobs: Jobs, two_stages: Clutch) -> None:
    jobs.script["bad"] = ["die"]
    run, single, empty = two_stages.run(), Clutch().then(jobs.job.message("a")).run(), Clutch().run()
    failed = Clutch().then(jobs.job.message("bad")).run()
    cancelled = Clutch().then(jobs.job.message("c")).run()
    cancelled.cancel()
    with pytest.raises(dramatiq.results.ResultMissing):
        run.iter_results()
    with running_worker(broker):
        for one in (run, single, empty):
            state_is(one, "succeeded")
        state_is(failed, "failed")
    assert list(run.iter_results()) == ["b", "c"]
    assert list(single.iter_results()) == ["a"]
    assert list(empty.iter_results()) == []
    with pytest.raises(RunFailed):
        failed.iter_results()
    with pytest.raises(RunCancelled):
        cancelled.iter_results()
    with pytest.raises(RunNotFound):
        Run("nobody").iter_results()


@pytest.mark.parametrize("state", ["running", "failed", "cancelled"])
def test_what_there_is_can_be_had_of_a_run_that_has_no_result(broker: dramatiq.Broker, jobs: Jobs, state: str) -> None:
    jobs.script["bad"] = ["die" if state == "failed" else "wait"]
    clutch = Clutch().then(jobs.job.message("a"), name="first")
    clutch = clutch.parallel(*(jobs.job.message(name) for name in ("b", "bad", "c"))).then(jobs.total, name="last")
    run = clutch.run()
    assert run.partial_results() == {}
    with running_worker(broker):
        wait_until("two of three", lambda: run.status().stages[1].succeeded == 2)
        if state == "cancelled":
            assert run.cancel()
        state_is(run, state)
        assert run.partial_results() == run.partial_results(stage=1) == {0: "b", 2: "c"}
        assert run.partial_results(stage=0) == run.partial_results(stage="first") == {0: "a"}
        assert run.partial_results(stage="last") == {}
        with pytest.raises(ValueError, match="no stage 3 here, but these: 0 \\('first'\\), 1, 2 \\('last'\\)"):
            run.partial_results(stage=3)
        jobs.gates["bad"].set()
        run.retry()
        state_is(run, "succeeded")
    assert run.partial_results() == {0: ["b", "bad", "c"]}
    with pytest.raises(ResultsGone, match="keep_results"):
        run.partial_results(stage="first")


def test_partial_results_of_what_has_no_stage_or_is_not_there(broker: dramatiq.Broker, jobs: Jobs) -> None:
    assert Clutch().run().partial_results() == {}
    unopened = Clutch().then(jobs.several.message("x", 2)).map(jobs.job).run()
    assert unopened.partial_results(stage=1) == {}
    with pytest.raises(RunNotFound):
        Run("nobody").partial_results()
