"""What a user sees of a run: frozen values, which are made of a snapshot that the store takes in one step."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal

from .stored.formats import Snapshot
from .stored.plan import StageLine

State = Literal["waiting", "running", "failing", "failed", "succeeded", "cancelled"]

#: How many failures a status lists, at most.
MOST_FAILURES = 100

#: How many characters of an exception's text are kept, at most.
MOST_TEXT = 1000


@dataclass(frozen=True, slots=True)
class JobFailure:
    """Why a member is failing or dead; for a nested run, the first failure in it.

    `stage` is the stage's index. `index` is the member's index in its stage; None if the run itself has failed, because
    a duty couldn't be done. `attempts` is how many attempts the job has had.
    """

    stage: int
    index: int | None
    actor: str
    message_id: str
    exception_type: str
    exception_text: str
    attempts: int


@dataclass(frozen=True, slots=True)
class StageStatus:
    """How a stage stands. The numbers are of members. `total` is None as long as it isn't known, which is the case for
    a mapped stage before it is opened. A stage with `allow_failures` may have succeeded with dead members. `skipped`:
    how many will never be done, because `enough` others had succeeded."""

    state: State
    total: int | None
    succeeded: int = 0
    failing: int = 0
    dead: int = 0
    skipped: int = 0

    @property
    def pending(self) -> int:
        """How many members have not yet succeeded: waiting, working, failing or dead."""
        return (self.total or 0) - self.succeeded - self.skipped


@dataclass(frozen=True, slots=True)
class RunStatus:
    """How a run stands at one moment. `created`, `updated` and `stalled_since` are UNIX milliseconds. `failures` are
    those of members of the present stage, at most 100. `error` is the failure of the run itself: a duty that couldn't
    be done. `tags` are those that were given to `run()`.

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

    def asdict(self) -> dict[str, Any]:
        """The status as a dict that JSON can write; each stage has its `pending`, too."""
        data = dataclasses.asdict(self)
        data["stages"] = [{**dataclasses.asdict(stage), "pending": stage.pending} for stage in self.stages]
        data |= {"failures": list(data["failures"]), "tags": list(data["tags"])}
        return data


def failure_details(
    error: BaseException | None, *, actor: str = "", message_id: str = "", attempts: int = 0, text: str = ""
) -> bytes:
    """The details of a failure as they are stored: JSON in ASCII, whatever the exception holds."""
    try:
        text = text or str(error)
    except Exception as broken:  # the __str__ of a user's exception may raise anything
        text = f"(its text can't be read: {type(broken).__name__})"
    kind = type(error).__name__ if error is not None else "Failed"
    details = {"actor": actor, "message_id": message_id, "type": kind, "text": text[:MOST_TEXT], "attempts": attempts}
    return json.dumps(details).encode()


def details_of(status: RunStatus) -> bytes:
    """The details that a nested run with this status tells its parent: its first failure, unchanged."""
    first = status.error or next(iter(status.failures), None)
    if first is None:
        return failure_details(None, message_id=status.run_id, text=f"nested run {status.run_id} was {status.state}")
    details = {
        "actor": first.actor,
        "message_id": first.message_id or status.run_id,
        "type": first.exception_type,
        "text": first.exception_text,
        "attempts": first.attempts,
    }
    return json.dumps(details).encode()


def status_from(run_id: str, snapshot: Snapshot) -> RunStatus:
    """The status that a snapshot shows."""
    head, counts = snapshot["head"], snapshot["counts"]
    current, state = int(head["stage"]), head["state"]
    failing, dead = int(counts["failing"]), int(counts["dead"])
    shown: State = "failing" if state == "running" and failing + dead else state
    stages = []
    for index in range(int(head["stages"])):
        line = StageLine.parse(head[f"s{index}"])
        if state == "succeeded" or index < current:
            lost, skipped = int(head.get(f"d{index}", 0)), int(head.get(f"k{index}", 0))
            done = (line.total or 0) - lost - skipped
            stages.append(StageStatus("succeeded", line.total, done, dead=lost, skipped=skipped))
        elif index == current:
            succeeded = int(counts["recorded"]) - int(counts["working"]) - int(counts["attempted"]) - failing - dead
            stages.append(StageStatus(shown, line.total, succeeded, failing, dead))
        else:
            stages.append(StageStatus("waiting", line.total))
    error = head.get("error")
    return RunStatus(
        run_id=run_id,
        name=head.get("name") or None,
        state=shown,
        stages=tuple(stages),
        failures=tuple(failure_from(current, int(member), details) for member, details in snapshot["failures"]),
        error=failure_from(current, None, error) if error else None,
        created=int(head["created"]),
        updated=int(head["updated"]),
        stalled_since=int(head["stalled"]) if head.get("stalled") else None,
        tags=tuple(json.loads(head.get("tags") or "[]")),
    )


def failure_from(stage: int, index: int | None, stored: str) -> JobFailure:
    """The failure that stored details describe. Details that can't be read are shown as such and raise nothing, because
    they only inform."""
    try:
        details = json.loads(stored)
        return JobFailure(
            stage,
            index,
            str(details["actor"]),
            str(details["message_id"]),
            str(details["type"]),
            str(details["text"]),
            int(details["attempts"]),
        )
    except (ValueError, KeyError, TypeError):
        return JobFailure(stage, index, "", "", "DamagedState", f"details that can't be read: {stored[:100]!r}", 0)
