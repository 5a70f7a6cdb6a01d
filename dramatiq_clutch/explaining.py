"""Says in words how a run stands: what it waits for, and why its members fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from .failures import JobFailure
from .shortening import beginning_of

if TYPE_CHECKING:
    from .status import RunStatus, StageStatus

#: How many characters of a text of the user's a sentence has, at most.
MOST_TEXT = 200


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failures of the same kind: jobs of one `actor` have raised the same `exception_type`. For example,
    ``[(len(group.failures), group.exception_type) for group in status.grouped_failures()]``.

    `failures` are in the order in which they happened, as far as that is known, and otherwise in written order.
    `first` is the first of them. `allowed` says that none of them keeps the run from succeeding.
    """

    actor: str
    exception_type: str
    failures: tuple[JobFailure, ...]

    @property
    def first(self) -> JobFailure:
        """The failure that happened first."""
        return self.failures[0]

    @property
    def allowed(self) -> bool:
        """Whether the stages of all of them allow failures."""
        return all(failure.allowed for failure in self.failures)


def grouped(failures: Iterable[JobFailure]) -> tuple[FailureGroup, ...]:
    """Failures by their actor and the type of their exception. First comes the failure of the run itself, then what
    keeps the run from succeeding, then what is allowed; of these, the group whose first failure happened first."""
    groups: dict[tuple[bool, str, str], list[JobFailure]] = {}
    for failure in failures:
        kind = (failure.index is None, failure.actor, failure.exception_type)
        groups.setdefault(kind, []).append(failure)
    made = [
        FailureGroup(actor, exception_type, tuple(sorted(found, key=_when)))
        for (_, actor, exception_type), found in groups.items()
    ]
    return tuple(sorted(made, key=lambda group: (group.first.index is not None, group.allowed, _when(group.first))))


def _when(failure: JobFailure) -> float:
    return float("inf") if failure.failed_at is None else failure.failed_at


def in_utc(time: int) -> str:
    """A time in UNIX milliseconds as a text, such as `2026-11-28 14:02:07 UTC`."""
    return f"{datetime.fromtimestamp(time / 1000, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def waits_for(status: RunStatus, at: Callable[[int], str] = in_utc) -> str:
    """What a run waits for, in a sentence or two. `at` makes a text of a time in UNIX milliseconds."""
    if status.state == "succeeded":
        return _succeeded(status)
    index, stage = present(status)
    if stage is None:
        return f"It is {status.state}, and has no stages."
    where = _named(index, stage, len(status.stages))
    if status.state == "cancelled":
        return f"It was cancelled in {where}{_left(stage, ' with ')}. It waits for a retry."
    if status.state == "failed":
        return f"{_failed(status, stage, where)} It waits for a retry."
    sentence = _at_work(stage, where, at)
    if status.stalled_since is not None:
        sentence += (
            f" Nothing has happened since {at(status.stalled_since)}: its messages may be lost, or no worker listens "
            "to their queue."
        )
    return sentence


def present(status: RunStatus) -> tuple[int, StageStatus | None]:
    """The index of the present stage, and the stage; None for a run without stages. Stages before it have succeeded,
    and those after it wait."""
    begun = [index for index, stage in enumerate(status.stages) if stage.state != "waiting"]
    return (begun[-1], status.stages[begun[-1]]) if begun else (0, None)


def _succeeded(status: RunStatus) -> str:
    dead = sum(stage.dead for stage in status.stages)
    skipped = sum(stage.skipped for stage in status.stages)
    parts = [f"{_members(dead)} failed, which was allowed"] if dead else []
    parts += [f"{_members(skipped)} {_were(skipped)} not needed"] if skipped else []
    return "It has succeeded" + "".join(f"; {part}" for part in parts) + "."


def _failed(status: RunStatus, stage: StageStatus, where: str) -> str:
    if status.error is not None:
        text = f"{status.error.exception_type}: {status.error.exception_text}"
        return f"It has failed in {where}, not of a job, but of {beginning_of(text, MOST_TEXT)}."
    return f"It has failed in {where}{_left(stage, ': ')}."


def _at_work(stage: StageStatus, where: str, at: Callable[[int], str]) -> str:
    if stage.total is None:
        return f"It waits for {where}, of which isn't known yet how many members it has."
    if not stage.pending and not stage.dead:
        return f"It waits for {where} to begin or to end: no member of it is left to be done."
    sentence = f"It waits for {where}{_left(stage, ': ')}"
    again: int | None = stage.next_attempt
    if stage.failing:
        sentence += f", {stage.failing:,} of them to be attempted again"
        sentence += f" (the first at {at(again)})" if again is not None else ""
    return sentence + "."


def _left(stage: StageStatus, before: str) -> str:
    """How many members aren't done, and how many are dead; nothing if all are done."""
    of = f" of {_members(stage.total or 0)}"
    parts = [f"{stage.pending:,}{of} not done"] if stage.pending else []
    parts += [f"{stage.dead:,}{'' if parts else of} dead"] if stage.dead else []
    return before + " and ".join(parts) if parts else ""


def _named(index: int, stage: StageStatus, stages: int) -> str:
    """Which stage this is: its index, by which it is asked for, its name, and how far that is."""
    name = f"{beginning_of(stage.name, MOST_TEXT)!r}, " if stage.name else ""
    return f"stage {index} ({name}{index + 1} of {stages})"


def _members(count: int) -> str:
    return f"{count:,} member" if count == 1 else f"{count:,} members"


def _were(count: int) -> str:
    return "was" if count == 1 else "were"
