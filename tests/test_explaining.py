"""What a status says in words: what the run waits for, and its failures by kind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dramatiq_clutch import JobFailure, RunStatus, StageStatus

OVER = StageStatus("succeeded", 1, 1)
WAITS = StageStatus("waiting", 1)


def status(state: Any, *stages: StageStatus, **more: Any) -> RunStatus:
    made = RunStatus("run", None, "running", stages, (), None, created=0, updated=0)
    return replace(made, state=state, **more)


def failure(index: int | None, actor: str = "load", kind: str = "OSError", **more: Any) -> JobFailure:
    return replace(JobFailure(1, index, actor, "id", kind, "disk full", 1), **more)


def stage(state: Any, **more: Any) -> StageStatus:
    return replace(StageStatus("running", 500, name="load"), state=state, **more)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            status("running", OVER, stage("running", succeeded=497), WAITS),
            "It waits for stage 1 ('load', 2 of 3): 3 of 500 members not done.",
        ),
        (
            status("failing", stage("failing", succeeded=496, failing=2, dead=1)),
            "It waits for stage 0 ('load', 1 of 1): 3 of 500 members not done and 1 dead, 2 of them to be attempted "
            "again.",
        ),
        (
            status("failing", stage("failing", succeeded=498, failing=2, next_attempt=1_700_000_000_000)),
            "It waits for stage 0 ('load', 1 of 1): 2 of 500 members not done, 2 of them to be attempted again (the "
            "first at <1700000000000>).",
        ),
        (
            status("running", OVER, StageStatus("running", None)),
            "It waits for stage 1 (2 of 2), of which isn't known yet how many members it has.",
        ),
        (
            status("running", replace(OVER, state="running")),
            "It waits for stage 0 (1 of 1) to begin or to end: no member of it is left to be done.",
        ),
        (
            status("running", StageStatus("running", 1), stalled_since=1_700_000_000_000),
            "It waits for stage 0 (1 of 1): 1 of 1 member not done. Nothing has happened since <1700000000000>: its "
            "messages may be lost, or no worker listens to their queue.",
        ),
        (
            status("failed", stage("failed", succeeded=400, dead=100)),
            "It has failed in stage 0 ('load', 1 of 1): 100 of 500 members dead. It waits for a retry.",
        ),
        (
            status("failed", OVER, StageStatus("failed", None), error=failure(None, "", "HandOverFailed")),
            "It has failed in stage 1 (2 of 2), not of a job, but of HandOverFailed: disk full. It waits for a retry.",
        ),
        (
            status("cancelled", stage("cancelled", succeeded=499)),
            "It was cancelled in stage 0 ('load', 1 of 1) with 1 of 500 members not done. It waits for a retry.",
        ),
        (status("succeeded", OVER), "It has succeeded."),
        (
            status("succeeded", stage("succeeded", succeeded=497, dead=2, skipped=1)),
            "It has succeeded; 2 members failed, which was allowed; 1 member was not needed.",
        ),
        (status("running"), "It is running, and has no stages."),
    ],
)
def test_a_status_says_what_its_run_waits_for(given: RunStatus, said: str) -> None:
    assert given.waits_for(lambda time: f"<{time}>") == said


def test_a_time_is_in_utc_unless_the_caller_makes_a_text_of_it() -> None:
    given = status("running", StageStatus("running", 1), stalled_since=1_700_000_000_000)
    assert "since 2023-11-14 22:13:20 UTC" in given.waits_for()


def test_a_long_text_is_shortened() -> None:
    long = failure(None, "", "HandOverFailed", exception_text="x" * 10_000)
    assert len(status("failed", stage("failed"), error=long).waits_for()) < 400


def test_failures_are_grouped_by_actor_and_exception_the_first_cause_first() -> None:
    late, early, other, allowed, unknown = (
        failure(0, failed_at=30),
        failure(1, failed_at=10),
        failure(2, kind="ValueError", failed_at=5),
        failure(3, kind="KeyError", failed_at=1, allowed=True),
        failure(4, "save"),
    )
    own = failure(None, "", "HandOverFailed")
    given = status("failed", failures=(allowed, late, early, other, unknown, own))
    assert [(group.actor, group.exception_type, group.failures) for group in given.grouped_failures()] == [
        ("", "HandOverFailed", (own,)),
        ("load", "ValueError", (other,)),
        ("load", "OSError", (early, late)),
        ("save", "OSError", (unknown,)),
        ("load", "KeyError", (allowed,)),
    ]
    groups = given.grouped_failures()
    assert groups[2].first == early
    assert [group.allowed for group in groups] == [False, False, False, False, True]
