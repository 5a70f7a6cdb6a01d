"""What a status tells: how far a run is, what it is part of, and what JSON gets of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.redis import RedisBroker

from dramatiq_clutch import Clutch, JobFailure, Run, RunStatus, StageStatus
from dramatiq_clutch.backend import Ending, Record
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.status import part_done
from dramatiq_clutch.stored import owners
from dramatiq_clutch.stored.places import Tag
from dramatiq_clutch.stored.plan import StageLine
from tests.conftest import running_worker
from tests.support.awaiting import wait_until
from tests.support.jobs import Jobs, state_is
from tests.test_listing import cost_of


def example_in(documented: Any) -> Any:
    """The JSON that a docstring gives as an example."""
    return json.JSONDecoder().raw_decode(documented.__doc__.split(".. code-block:: json")[1].strip())[0]


def times(released: int, began: int, settled: int | None = None) -> dict[str, Any]:
    at = 1_700_000_000_000
    return {"released": at + released, "began": at + began, "settled": settled and at + settled}


def the_example() -> RunStatus:
    stages = (
        StageStatus("succeeded", 1, 1, name="load", **times(0, 100, 2_600)),
        StageStatus("failing", 4, 2, failing=1, next_attempt=1_700_000_019_000, **times(2_600, 2_900)),
    )
    failure = JobFailure(1, 3, "resize", "1f0c3a52-6a4f-5d6c-9d3e-0a4b5c6d7e8f", "OSError", "disk full", 2)
    failure = replace(
        failure,
        arguments="3, size='small'",
        failed_at=1_700_000_004_000,
        traceback="Traceback (most recent call last): ...",
    )
    return RunStatus(
        run_id="nightly~1.0",
        name="thumbnails",
        state="failing",
        stages=stages,
        failures=(failure,),
        error=None,
        created=1_700_000_000_000,
        updated=1_700_000_004_200,
        progress=0.75,
        tags=("customer-7",),
    )


def test_the_dict_of_a_status_is_what_its_documentation_shows() -> None:
    shown, given = example_in(RunStatus.to_dict), the_example().to_dict()
    assert json.loads(json.dumps(given)) == shown
    assert given["schema"] == 1  # if a field has gone, or means something else, this is to be counted up


def test_each_member_is_counted_once() -> None:
    stage = StageStatus("failing", 10, succeeded=3, failing=2, dead=1, skipped=4)
    assert stage.pending == 2
    assert stage.succeeded + stage.dead + stage.skipped + stage.pending == stage.total
    assert StageStatus("waiting", None).pending == 0


@pytest.mark.parametrize(
    ("line", "succeeded", "dead", "far"),
    [
        (StageLine(0, 10), 5, 5, 0.5),
        (StageLine(0, 10, tolerant=True), 5, 4, 0.9),
        (StageLine(0, 10, allowed=2), 5, 1, 0.6),
        (StageLine(0, 10, allowed=2), 5, 5, 0.7),  # three of them are too many
        (StageLine(0, 10, allowed=0.29), 5, 4, 0.7),
        (StageLine(0, 10, enough=4), 1, 5, 0.25),
        (StageLine(0, 10, enough=4), 5, 0, 1.0),
        (StageLine(0, 3, enough=4), 1, 0, 1 / 3),
        (StageLine(0, None, mapped=True), 0, 0, 0.0),
        (StageLine(0, 0), 0, 0, 0.0),
    ],
)
def test_how_far_a_stage_is_goes_by_what_completes_it(line: StageLine, succeeded: int, dead: int, far: float) -> None:
    assert part_done(line, succeeded, dead) == pytest.approx(far)


@pytest.mark.parametrize(
    ("run_id", "parent", "root"),
    [
        ("run", None, None),
        ("run~1.0", "run", "run"),
        ("run~1.0~0.12", "run~1.0", "run"),
    ],
)
def test_a_status_tells_what_its_run_is_nested_in(run_id: str, parent: str | None, root: str | None) -> None:
    status = RunStatus(run_id, None, "running", (), (), None, 0, 0)
    assert (status.parent, status.root) == (parent, root)


def test_workers_tell_when_a_stage_began_and_nested_runs_when_they_were_started(
    broker: dramatiq.Broker, jobs: Jobs
) -> None:
    nested = Clutch().then(jobs.job.message("b"))
    with running_worker(broker, threads=1):
        run = Clutch().then(jobs.job.message("a")).then(nested).parallel(*(jobs.job.message(at) for at in "cde")).run()
        state_is(run, "succeeded")
    status, at = run.status(), list[int | None]()
    for stage in status.stages:
        at += [stage.released, stage.began, stage.settled]
    assert None not in at
    assert at == sorted(at, key=int)  # type: ignore[arg-type]
    assert at[-1] == status.ended
    assert at[0] == status.created


def test_a_callback_gets_the_dict_of_the_status_and_what_it_is_about(broker: dramatiq.Broker, jobs: Jobs) -> None:
    with running_worker(broker, threads=1):
        run = Clutch(name="nightly", **jobs.callbacks("root")).then(jobs.job.message("a"), jobs.job.message("b")).run()
        jobs.wait_fired("root", "S E")
    told = dict(jobs.statuses[-1])
    assert (told.pop("event"), told.pop("stage")) == ("on_finish", 1)
    assert told == json.loads(json.dumps(run.status().to_dict()))


def test_progress_is_that_of_the_stages_and_of_the_runs_nested_in_the_present_one(
    broker: dramatiq.Broker, jobs: Jobs
) -> None:
    for name in ("first", "second", "third"):
        jobs.script[name] = ["wait"]
    child = Clutch().then(*(jobs.job.message(name) for name in ("first", "second")))
    clutch = Clutch().then(jobs.several.message("pages", 2)).parallel(child, jobs.job.message("third"))
    clutch = clutch.map(jobs.job).then(jobs.job.message("last"))
    run = clutch.run()
    assert run.status().progress == 0
    with running_worker(broker):
        wait_until("the second stage", lambda: "first" in jobs.began)
        assert run.status().progress == pytest.approx(1 / 4)
        jobs.gates["first"].set()
        wait_until("half of the nested run", lambda: run.status().progress == pytest.approx((1 + 1 / 4) / 4))
        wait_until("the job that waits", lambda: {"second", "third"} <= set(jobs.began))
        jobs.gates["third"].set()
        wait_until("three quarters of the stage", lambda: run.status().progress == pytest.approx((1 + 3 / 4) / 4))
        jobs.gates["second"].set()
        state_is(run, "succeeded")
    assert run.status().progress == 1


def test_a_run_that_has_failed_is_not_done_and_goes_on_from_where_it_was(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["bad"] = ["die"]
    run = Clutch().parallel(jobs.job.message("good"), jobs.job.message("bad")).run()
    with running_worker(broker, threads=1):
        state_is(run, "failed")
        assert run.status().progress == 1 / 2
        run.retry()
        state_is(run, "succeeded")
    assert run.status().progress == 1


def test_a_map_over_what_is_no_list_is_among_the_failures(broker: dramatiq.Broker, jobs: Jobs) -> None:
    run = Clutch().then(jobs.job.message("a")).map(jobs.job).run()
    with running_worker(broker, threads=1):
        state_is(run, "failed")
    status = run.status()
    assert status.error is not None
    assert status.failures == (status.error,)
    assert (status.error.stage, status.error.index) == (1, None)
    assert "must be a list" in status.error.exception_text


def test_looking_at_a_run_of_many_nested_runs_asks_for_at_most_100(
    broker: dramatiq.Broker, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Clutch().parallel(Clutch().then(jobs.job.message("a")) for _ in range(150)).run()
    backend: Any = engine_of(broker).backend
    asked: list[int] = []
    how_far = backend.how_far

    def counted(places: Any) -> Any:
        asked.append(len(places))
        return how_far(places)

    monkeypatch.setattr(backend, "how_far", counted)
    assert Run(run.run_id).status().progress == 0
    assert asked == [100]


@pytest.mark.parametrize("many", [3_000, pytest.param(20_000, marks=pytest.mark.heavy)])
def test_a_status_costs_the_same_however_large_the_stage_is(redis_broker: RedisBroker, many: int) -> None:
    """A watch looks no otherwise."""
    jobs, engine, costs = Jobs(redis_broker), engine_of(redis_broker), list[Any]()
    for size in (30, many):
        redis_broker.client.flushall()
        run = Clutch().parallel((jobs.job.message(str(one)) for one in range(size)), limit=10).run()
        generation = engine.backend.generation(run.run_id) or ""
        endings: tuple[Ending, ...] = ("failing", "dead", "succeeded")
        for member, ending in enumerate(endings):
            tag = Tag(run.run_id, 0, member, size, generation=generation)
            engine.backend.record(Record(tag, 0, ending, engine.backend.encode("x")), engine.caller(owners.TOUCH))
        costs.append(cost_of(redis_broker.client, run.status))
    assert costs[0] == costs[1]
    trips, commands = costs[0]
    assert trips <= 2
    assert commands.total() < 40
