"""What a process remembers of the runs that it works on, so that it needn't ask the store again. No run depends on it:
what is remembered may be old or missing. All of it is bounded."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from .forks import renew_in_children
from .stored.duties import SendMembers
from .stored.places import Tag

#: For how many seconds it is assumed that a run that was not cancelled still isn't.
REMEMBERED = 1.0

Key = TypeVar("Key")
Value = TypeVar("Value")


class Bounded(dict[Key, Value], Generic[Key, Value]):
    """A dict that is cleared when it holds `most` entries and gets another one."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def __setitem__(self, key: Key, value: Value) -> None:
        if len(self) >= self.most and key not in self:
            self.clear()
        super().__setitem__(key, value)


@dataclass(frozen=True, slots=True)
class AtWork:
    """The run of a job that this process works on, and since when it does (monotonic seconds)."""

    run_id: str
    since: float


@dataclass(eq=False)
class Remembered:
    """What this process remembers of the runs of one broker.

    `touched`: when it has put off the expiry of a run (UNIX milliseconds). `wanted`: when it has last sent or
    started a job of a stage (monotonic seconds). `copied`: of which stages there may be second copies. `ahead`:
    which duty follows the stage that is at work. `left`: for which runs it has logged that they are left to newer
    releases. `unlisted`: which runs it couldn't tell the register of. `at_work`: the jobs that it works on.
    `has_waited`: one of them has waited for a run.
    """

    touched: Bounded[str, int] = field(default_factory=lambda: Bounded(10_000))
    wanted: Bounded[tuple[str, str, int, int], float] = field(default_factory=lambda: Bounded(10_000))
    copied: Bounded[tuple[str, str, int, int], bool] = field(default_factory=lambda: Bounded(1_000))
    ahead: Bounded[tuple[str, int], SendMembers] = field(default_factory=lambda: Bounded(1_000))
    left: Bounded[str, bool] = field(default_factory=lambda: Bounded(1_000))
    unlisted: Bounded[str, bool] = field(default_factory=lambda: Bounded(1_000))
    has_waited: bool = False
    at_work: dict[int, AtWork] = field(default_factory=dict)  # no more than there are worker threads

    def __post_init__(self) -> None:
        renew_in_children(self)

    def renew(self) -> None:
        """Forget everything in a forked child, because the child does other work than its parent."""
        bounded = (self.touched, self.wanted, self.copied, self.ahead, self.left, self.unlisted)
        for known in (*bounded, self.at_work):
            known.clear()
        self.has_waited = False

    def note_wanted(self, run_id: str, generation: str, stage: int, total: int) -> None:
        """Remember that jobs of this stage, which has `total` members, are wanted at present: the guard has just said
        so of one, or this process has just sent some. Where there may be second copies, each is asked for."""
        key = (run_id, generation, stage, total)
        if key not in self.copied:
            self.wanted[key] = time.monotonic()

    def expect_copies(self, run_id: str, generation: str, stage: int, total: int) -> None:
        """Remember that jobs of this stage were sent again. The first copies don't say so, as the second ones do: they
        may still be in their queue, and come after the second ones are done."""
        self.copied[run_id, generation, stage, total] = True
        self.wanted.pop((run_id, generation, stage, total), None)

    def was_wanted(self, tag: Tag) -> bool:
        """Whether this process has sent or started a job of this stage within the last second. Then the stage has as
        many members as the message says, and a cancel is at most a second old."""
        key = (tag.run_id, tag.generation, tag.stage, tag.of)
        return time.monotonic() - self.wanted.get(key, -REMEMBERED) < REMEMBERED

    def look_ahead(self, run_id: str, duty: SendMembers | None) -> None:
        """Remember the duty that follows the stage at work, in case this process does that stage's job."""
        if duty is not None:
            self.ahead[run_id, duty.stage] = duty

    def is_due(self, run_id: str, every: int, now: int) -> bool:
        """Whether `every` milliseconds have passed since this process has put off the expiry of the run's keys. If so,
        the caller has to do that, and it is remembered as done."""
        if now - self.touched.get(run_id, 0) < every:
            return False
        self.touched[run_id] = now
        return True

    def leave(self, run_id: str) -> bool:
        """Remember that this run is left to workers of a newer release. Returns whether that is new."""
        if run_id in self.left:
            return False
        self.left[run_id] = True
        return True

    def is_first_wait(self) -> bool:
        """Remember that a job waits for a run. Returns whether that is new."""
        was_first, self.has_waited = not self.has_waited, True
        return was_first
