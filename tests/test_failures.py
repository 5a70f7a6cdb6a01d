"""What is told of failures, by whom, and for how long."""

from __future__ import annotations

import json
import pickle
from typing import Any

import dramatiq
import pytest

from dramatiq_clutch import Clutch, JobFailure, RunFailed, previous_failures, previous_results
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.failures import arguments_in, failure_details, failure_from, traceback_of
from tests.conftest import running_worker
from tests.support.jobs import Jobs, actor, state_is


def test_a_failure_tells_what_was_called_when_and_where_it_went_wrong(broker: dramatiq.Broker) -> None:
    @actor(max_retries=1, min_backoff=1, max_backoff=1)  # type: ignore[untyped-decorator]
    def resize(page: int, *, size: str, names: list[str]) -> None:
        deeper(page)

    def deeper(page: int) -> None:
        raise OSError(f"disk full at page {page}")

    before = engine_of(broker).now()
    run = Clutch().parallel(resize.message(3, size="small", names=["x" * 500])).run()
    with running_worker(broker, threads=1):
        state_is(run, "failed")
    (failure,) = run.status().failures
    assert (failure.actor, failure.exception_type, failure.attempts) == ("resize", "OSError", 2)
    assert failure.arguments.startswith("3, size='small', names=['xxx")
    assert len(failure.arguments) <= 200
    assert failure.failed_at is not None
    assert before <= failure.failed_at <= engine_of(broker).now()
    assert not failure.allowed
    assert failure.traceback.startswith("Traceback (most recent call last)")
    assert failure.traceback.index("in resize") < failure.traceback.index("in deeper")
    assert failure.traceback.endswith("OSError: disk full at page 3\n")


def deep(levels: int) -> None:
    if levels:
        deep(levels - 1)  # the frames differ in nothing else
    else:
        raise ValueError("at the bottom" * 1_000)


def shallow(levels: int) -> None:
    try:
        deep(levels)
    except ValueError as error:
        raise KeyError("on top") from error


@pytest.mark.parametrize("levels", [0, 1, 20, 500])
def test_a_traceback_keeps_the_innermost_frames_and_is_short(levels: int) -> None:
    try:
        shallow(levels)
    except KeyError as error:
        text = traceback_of(error)
    assert len(text) <= 4_000
    assert text.endswith("KeyError: 'on top'\n")
    assert "in shallow" in text
    assert ("at the bottom" in text) == (levels < 500 or "…" in text)


class Broken(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_whatever_an_exception_or_an_argument_holds_its_failure_can_be_told() -> None:
    try:
        raise Broken
    except Broken as error:
        details = failure_details(error, arguments=arguments_in([Unspeakable()], {"x": Unspeakable()}))
    failure = failure_from(0, 0, details.decode())
    assert "can't be read" in failure.exception_text
    assert "Unspeakable" in failure.arguments
    assert "Broken" in failure.traceback


def test_details_of_an_older_release_are_read() -> None:
    old = {"actor": "a", "message_id": "m", "type": "ValueError", "text": "t", "attempts": 1}
    assert failure_from(1, 2, json.dumps(old)) == JobFailure(1, 2, "a", "m", "ValueError", "t", 1)


def test_failures_that_were_allowed_are_told_two_stages_later_and_when_the_run_has_succeeded(
    broker: dramatiq.Broker, jobs: Jobs
) -> None:
    told: list[Any] = []

    @dramatiq.actor
    def last() -> None:
        told.extend([previous_failures(), previous_failures(stage=1), previous_failures(stage=0)])

    jobs.script["bad"], jobs.script["worse"] = ["die"], ["die"]
    clutch = Clutch().parallel(*(jobs.job.message(name) for name in ("good", "bad", "worse")), allow_failures=True)
    run = clutch.then(jobs.total).then(last).run()
    with running_worker(broker):
        state_is(run, "succeeded")
    assert told[:2] == [[], []]
    assert [(one.stage, one.index, one.exception_text, one.allowed) for one in told[2]] == [
        (0, 1, "bad dies", True),
        (0, 2, "worse dies", True),
    ]
    status = run.status()
    assert [one.exception_text for one in status.failures] == ["bad dies", "worse dies"]
    assert status.failure_counts == {"LookupError": 2}
    assert status.stages[0].dead == 2


@pytest.mark.parametrize("stage", [1, 2, -1, True, "0"])
def test_failures_of_a_stage_that_is_not_before_are_refused(broker: dramatiq.Broker, jobs: Jobs, stage: Any) -> None:
    refused: list[str] = []

    @dramatiq.actor
    def asks() -> None:
        try:
            previous_failures(stage=stage)
        except ValueError as error:
            refused.append(str(error))

    run = Clutch().then(jobs.job.message("a"), asks).run()
    with running_worker(broker, threads=1):
        state_is(run, "succeeded")
    (text,) = refused
    assert repr(stage) in text


def test_an_item_that_failed_is_told_from_one_that_returned_nothing(broker: dramatiq.Broker, jobs: Jobs) -> None:
    seen: list[Any] = []

    @dramatiq.actor(throws=LookupError)
    def half(number: int) -> int | None:
        if number == 1:
            raise LookupError("odd")
        return None if number == 2 else number // 2

    @dramatiq.actor
    def last() -> None:
        failed = {failure.index for failure in previous_failures()}
        seen.extend((index, value, index in failed) for index, value in enumerate(previous_results()))

    @dramatiq.actor
    def numbers() -> list[int]:
        return [0, 1, 2, 4]

    run = Clutch().then(numbers).map(half, allow_failures=True).then(last).run()
    with running_worker(broker):
        state_is(run, "succeeded")
    assert seen == [(0, 0, False), (1, None, True), (2, None, False), (3, 2, False)]


def test_a_nested_run_tells_its_parent_what_it_has_died_of_and_not_what_was_allowed(
    broker: dramatiq.Broker, jobs: Jobs
) -> None:
    jobs.script["allowed"], jobs.script["bad"] = ["die"], ["die"]
    child = Clutch().parallel(jobs.job.message("allowed"), allow_failures=True).then(jobs.job.message("bad"))
    run = Clutch().then(child).run()
    with running_worker(broker):
        state_is(run, "failed")
    (failure,) = run.status().failures
    assert (failure.stage, failure.index, failure.exception_text) == (0, 0, "bad dies")
    assert failure.arguments == "'bad'"
    assert "in act" in failure.traceback
    assert failure.failed_at is not None
    assert not failure.allowed


def test_the_error_of_a_failed_run_tells_why_and_how_much_more_there_is(broker: dramatiq.Broker, jobs: Jobs) -> None:
    for name in ("allowed", "x", "y", "z"):
        jobs.script[name] = ["die"]
    clutch = Clutch(name="nightly").parallel(jobs.job.message("allowed"), allow_failures=True, name="load")
    run = clutch.parallel(*(jobs.job.message(name) for name in ("a", "x", "y", "z")), name="thumbnails").run()
    with running_worker(broker), pytest.raises(RunFailed) as caught:
        run.get_result(block=True)
    error = pickle.loads(pickle.dumps(caught.value))
    assert str(error) == (
        f"run {run.run_id!r} has failed at stage 1 ('thumbnails'), job (member 1): LookupError: x dies, and 2 more"
    )
    assert (error.run_id, error.status, error.failure_count) == (run.run_id, run.status(), 3)
    assert [failure.index for failure in error.failures] == [1, 2, 3]
    assert (error.orig_exc_type, error.orig_exc_msg) == ("LookupError", "x dies")


def test_the_error_of_a_run_that_failed_of_its_own_says_so(broker: dramatiq.Broker, jobs: Jobs) -> None:
    run = Clutch().then(jobs.job.message("a")).map(jobs.job, name="each").run()
    with (
        running_worker(broker),
        pytest.raises(RunFailed, match=r"at stage 1 \('each'\): HandOverFailed: .*list") as caught,
    ):
        run.get_result(block=True)
    assert caught.value.failure_count == 1
    assert caught.value.failures == (caught.value.status.error,)
