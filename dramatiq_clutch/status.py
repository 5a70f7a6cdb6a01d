"""What a user sees of a run: frozen values, which are made of a snapshot that the store takes in one step."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .explaining import FailureGroup, grouped, in_utc, waits_for
from .failures import JobFailure, failure_details, failure_from, stored_under, unescaped
from .stored.formats import Snapshot
from .stored.places import BELOW, Place
from .stored.plan import StageLine

State = Literal["waiting", "running", "failing", "failed", "succeeded", "cancelled"]

#: The version of what `RunStatus.to_dict` gives. It gets higher when a field goes, or changes its meaning. Fields may
#: be added at any time.
SCHEMA = 1

#: The progress of a run that hasn't succeeded, at most: so 1.0 says that it has.
ALMOST = 0.999999

#: How many failures a status lists, at most.
MOST_FAILURES = 100

#: How many of the failures in a callback's status have their tracebacks, at most: that status is stored and sent.
MOST_TRACEBACKS = 10


@dataclass(frozen=True, slots=True)
class StageStatus:
    """How a stage stands: ``run.status().stages[0].succeeded`` is how many members of the first one have succeeded.

    `state` is waiting, running, failing, failed, succeeded or cancelled. The numbers are of members. `total` is None as
    long as it isn't known, which is the case for a mapped stage before it is opened. A stage with `allow_failures` may
    have succeeded with dead members. `skipped`: how many will never be done, because `enough` others had succeeded.
    `name` is None for a stage without one. `next_attempt` is when the first of its failing jobs is attempted again, of
    those whose next attempt hasn't come yet, in UNIX milliseconds; None if there is none.

    `released`, `began` and `settled` are UNIX milliseconds, or None. `released`: when its sending was owed, so that its
    `wait` comes after that. `began`: when an attempt of it first began to work, or a nested run was started, as the
    first record of the stage has told; so it is None until an attempt has ended, and another one may have begun
    earlier that ends later. A retry doesn't change it. `settled`: when the stage was complete, or its run came to rest
    in it; None while it works, also after a retry. A stage without members never begins; a rewind begins anew with all
    three. They are None for what an older release has done.

    Each member is counted once in `succeeded`, `dead`, `skipped` or `pending`: together they are the `total`. The
    `failing` members are among the pending ones.
    """

    state: State
    total: int | None
    succeeded: int = 0
    failing: int = 0
    dead: int = 0
    skipped: int = 0
    name: str | None = None
    next_attempt: int | None = None
    released: int | None = None
    began: int | None = None
    settled: int | None = None

    @property
    def waited(self) -> float | None:
        """How many seconds passed from when the stage was released until it began to work; None if it hasn't begun."""
        return _seconds(self.released, self.began)

    @property
    def duration(self) -> float | None:
        """How many seconds passed from when the stage began, or was released if it never began, until it was settled;
        None if it isn't. What it rested before a retry is part of it."""
        return _seconds(self.released if self.began is None else self.began, self.settled)

    @property
    def pending(self) -> int:
        """How many members are not settled: waiting, working or failing. It is 0 while the `total` isn't known."""
        return (self.total or 0) - self.succeeded - self.dead - self.skipped


@dataclass(frozen=True, slots=True)
class RunStatus:
    """How a run stands at one moment: ``Run(run_id).status()``.

    `state` is running, failing, failed, succeeded or cancelled, and `stages` has a `StageStatus` for each stage. `name`
    is the clutch's, or None; `tags` are those that were given to `run()`. `created`, `updated`, `stalled_since` and
    `ended` are UNIX milliseconds; `ended` is when the run has come to rest last, and None while it is at work. `error`
    is the failure of the run itself: a duty that couldn't be done.

    `failures` are those of the present stage's failing and dead members, and those that earlier stages have allowed, in
    written order: the first 100, those of the present stage before others. `error` is one of them, too: the one whose
    `index` is None. `failure_counts` says of how many dead members each type of exception is the reason, in all stages,
    such as ``{"TimeoutError": 12}``; the run's `error` counts, too. Beyond 1,000 types, the others count as `other`. A
    member that succeeds after a retry is no failure any more.

    `progress` goes from 0.0 to 1.0, which it is when the run has succeeded and not before. All stages weigh the same,
    so that it doesn't go back when it becomes known how many members a mapped stage has. A member counts when it has
    succeeded, was skipped, or is dead where failures are allowed. `Run.status()` also counts the nested runs of the
    present stage by how far they are, at most 100 of them; a callback's status doesn't.

    A run is stalled if nothing has happened to it for the middleware's `stalled_after`, although members are unsettled
    and none is delayed: their messages may be lost. A sweeper finds that out, and sets `stalled_since`; otherwise it is
    None.
    """

    run_id: str
    name: str | None
    state: State
    stages: tuple[StageStatus, ...]
    failures: tuple[JobFailure, ...]
    error: JobFailure | None
    created: int
    updated: int
    stalled_since: int | None = None
    tags: tuple[str, ...] = ()
    progress: float = 0.0
    failure_counts: Mapping[str, int] = field(default_factory=dict, hash=False)
    ended: int | None = None

    @property
    def duration(self) -> float | None:
        """How many seconds passed from when the run was created until it came to rest last; None if it is at work. What
        it rested before a retry or a rewind is part of it."""
        return _seconds(self.created, self.ended)

    @property
    def parent(self) -> str | None:
        """The id of the run that this one is nested in; None if it isn't nested. Where a job has nested this run, that
        is a run which stands in the job's place, and its parent is the job's run."""
        place = Place.of_child(self.run_id)
        return place.run_id if place else None

    @property
    def root(self) -> str | None:
        """The id of the outermost run that this one is nested in; None if it isn't nested."""
        return self.run_id.partition(BELOW)[0] if self.parent else None

    def waits_for(self, at: Callable[[int], str] = in_utc) -> str:
        """What the run waits for, in a sentence or two, such as `It waits for stage 1 ('load', 2 of 4): 3 of 500
        members not done, 2 of them to be attempted again.` It holds names and texts of the application's, which whoever
        shows it has to escape. For example, ``print(run.status().waits_for())``.

        Parameters:
          at: makes a text of a time in UNIX milliseconds. Default is like `2026-11-28 14:02:07 UTC`.
        """
        return waits_for(self, at)

    def grouped_failures(self) -> tuple[FailureGroup, ...]:
        """The failures by their actor and the type of their exception: first that of the run itself, then what keeps it
        from succeeding, then what is allowed, each time in the order in which they began. For example,
        ``[group.first.exception_text for group in run.status().grouped_failures()]``."""
        return grouped(self.failures)

    def to_dict(self) -> dict[str, Any]:
        """The status as a dict that JSON can write: ``json.dumps(run.status().to_dict())``.

        Callbacks get the same, with the `event` and the index of the `stage` that it is about, and those of
        `on_failure` and `on_death` also whether that is `allowed`. For example:

        .. code-block:: json

            {
                "schema": 1,
                "run_id": "nightly~1.0",
                "name": "thumbnails",
                "parent": "nightly",
                "root": "nightly",
                "state": "failing",
                "progress": 0.75,
                "stages": [
                    {
                        "state": "succeeded",
                        "total": 1,
                        "succeeded": 1,
                        "failing": 0,
                        "dead": 0,
                        "skipped": 0,
                        "name": "load",
                        "next_attempt": null,
                        "released": 1700000000000,
                        "began": 1700000000100,
                        "settled": 1700000002600,
                        "pending": 0,
                        "waited": 0.1,
                        "duration": 2.5
                    },
                    {
                        "state": "failing",
                        "total": 4,
                        "succeeded": 2,
                        "failing": 1,
                        "dead": 0,
                        "skipped": 0,
                        "name": null,
                        "next_attempt": 1700000019000,
                        "released": 1700000002600,
                        "began": 1700000002900,
                        "settled": null,
                        "pending": 2,
                        "waited": 0.3,
                        "duration": null
                    }
                ],
                "failures": [
                    {
                        "stage": 1,
                        "index": 3,
                        "actor": "resize",
                        "message_id": "1f0c3a52-6a4f-5d6c-9d3e-0a4b5c6d7e8f",
                        "exception_type": "OSError",
                        "exception_text": "disk full",
                        "attempts": 2,
                        "arguments": "3, size='small'",
                        "failed_at": 1700000004000,
                        "allowed": false,
                        "traceback": "Traceback (most recent call last): ..."
                    }
                ],
                "failure_counts": {},
                "error": null,
                "tags": ["customer-7"],
                "created": 1700000000000,
                "updated": 1700000004200,
                "stalled_since": null,
                "ended": null,
                "duration": null
            }

        `error` is null, or like one of the `failures`. `schema` is the version of all this: it gets higher when a field
        goes, or changes its meaning. Fields may be added at any time.
        """
        data = {**dataclasses.asdict(self), "parent": self.parent, "root": self.root, "duration": self.duration}
        data["stages"] = [
            {**dataclasses.asdict(stage), "pending": stage.pending, "waited": stage.waited, "duration": stage.duration}
            for stage in self.stages
        ]
        data |= {"failures": list(data["failures"]), "tags": list(data["tags"])}
        return {"schema": SCHEMA, **data}


def first_failure(status: RunStatus) -> JobFailure | None:
    """Why a run isn't succeeding: its own error, or the first failure that isn't allowed. If all are allowed, the first
    one; but none in a cancelled run, because that isn't the reason."""
    wrong = status.error or next((failure for failure in status.failures if not failure.allowed), None)
    return wrong or next((failure for failure in status.failures if status.state != "cancelled"), None)


def details_of(status: RunStatus) -> bytes:
    """The details that a nested run with this status tells its parent: its first failure, unchanged."""
    first = first_failure(status)
    if first is None:
        return failure_details(None, message_id=status.run_id, text=f"nested run {status.run_id} was {status.state}")
    return stored_under(first.message_id or status.run_id, first)


def status_from(run_id: str, snapshot: Snapshot, *, nested: float = 0.0) -> RunStatus:
    """The status that a snapshot shows. `nested` is how far the unsettled nested runs of the present stage are, all
    together: each counts from 0.0 to 1.0."""
    head, counts = snapshot["head"], snapshot["counts"]
    current, state = int(head["stage"]), head["state"]
    failing, dead = int(counts["failing"]), int(counts["dead"])
    shown: State = "failing" if state == "running" and failing + dead else state
    stages, done = [], 0.0
    lines = [StageLine.parse(head[f"s{index}"]) for index in range(int(head["stages"]))]
    ended = int(head["ended"]) if state != "running" and head.get("ended") else None
    for index, line in enumerate(lines):
        if state == "succeeded" or index < current:
            lost, skipped = int(head.get(f"d{index}", 0)), int(head.get(f"k{index}", 0))
            succeeded = (line.total or 0) - lost - skipped
            times = _times(head, index)
            stages.append(StageStatus("succeeded", line.total, succeeded, 0, lost, skipped, line.name, None, *times))
            done += 1.0
        elif index == current:
            succeeded = int(counts["recorded"]) - int(counts["working"]) - int(counts["attempted"]) - failing - dead
            again = int(counts["next"]) if counts.get("next") else None
            began = int(counts.get("began") or 0) or None
            times = (_times(head, index)[0], began, ended)
            stages.append(StageStatus(shown, line.total, succeeded, failing, dead, 0, line.name, again, *times))
            done += part_done(line, succeeded, dead, nested)
        else:
            stages.append(StageStatus("waiting", line.total, name=line.name))
    error = failure_from(current, None, head["error"]) if head.get("error") else None
    return RunStatus(
        run_id=run_id,
        name=head.get("name") or None,
        state=shown,
        stages=tuple(stages),
        failures=_failures(current, lines, snapshot, error),
        error=error,
        created=int(head["created"]),
        updated=int(head["updated"]),
        stalled_since=int(head["stalled"]) if head.get("stalled") else None,
        tags=tuple(json.loads(head.get("tags") or "[]")),
        progress=1.0 if state == "succeeded" else min(done / len(stages), ALMOST),
        failure_counts=_failure_counts(snapshot, error),
        ended=ended,
    )


def _times(head: Mapping[str, str], index: int) -> tuple[int | None, int | None, int | None]:
    """When a stage was released, began and was settled, as its field of the head says; an older release has none."""
    times = [int(time) if time != "-" else None for time in head.get(f"t{index}", "").split()]
    released, began, settled = (*times, None, None, None)[:3]
    return released, began, settled


def _seconds(since: int | None, until: int | None) -> float | None:
    """The time between two moments. Different clocks may have told them, so it is 0.0 if the second one is earlier."""
    return None if since is None or until is None else max(until - since, 0) / 1000


def _failures(
    current: int, lines: Sequence[StageLine], snapshot: Snapshot, error: JobFailure | None
) -> tuple[JobFailure, ...]:
    """The first failures, in written order. Those of the present stage come before others where there are too many."""
    most_dead = lines[current].most_dead if lines else 0
    allows = 0 < most_dead >= int(snapshot["counts"]["dead"])
    present = [failure_from(current, int(member), details, allows) for member, details in snapshot["failures"]]
    if error:
        present.insert(0, error)
    places = sorted((tuple(map(int, place.split("."))), details) for place, details in snapshot.get("kept", ()))
    kept = [failure_from(stage, member, details, allowed=True) for (stage, member), details in places]
    chosen = [*kept[: max(MOST_FAILURES - len(present), 0)], *present[:MOST_FAILURES]]
    return tuple(sorted(chosen, key=lambda one: (one.stage, -1 if one.index is None else one.index)))


def _failure_counts(snapshot: Snapshot, error: JobFailure | None) -> dict[str, int]:
    counts = Counter[str]()
    for field_of_tally, count in snapshot.get("tally", {}).items():
        counts[unescaped(field_of_tally.partition(" ")[2]) or "other"] += count
    if error:
        counts[error.exception_type] += 1
    return dict(sorted(counts.items()))


def part_done(line: StageLine, succeeded: int, dead: int, nested: float = 0.0) -> float:
    """How far a stage at work is, from 0.0 to 1.0. A dead member counts only if it is one that may die: otherwise the
    stage isn't complete before the member is retried. Where some successes are enough, only these count."""
    if not line.total:
        return 0.0
    if line.enough is not None:
        return min((succeeded + nested) / min(line.enough, line.total), 1.0)
    return min((succeeded + min(dead, line.most_dead) + nested) / line.total, 1.0)
