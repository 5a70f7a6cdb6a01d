"""The part of a store's contract that is about looking through runs: the register of an application's runs, and the
members of a run's stages.

The register is only a hint, and the runs are the truth: it may miss a run, have one that is gone, or have it under a
state that it has left. Whoever looks through it therefore looks at the runs, too (`look_at`), and puts right what
differs. What `backend/` says of time, repetition and errors holds here, too.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .errors import DamagedState
from .stored.entries import Entry, Turn

#: Under which state a member of a stage is shown; `members.Member` says what each means.
MemberState = Literal["unsent", "sent", "working", "failing", "dead", "succeeded", "skipped"]


@dataclass(frozen=True, slots=True)
class Enlisted:
    """A run's new entry. `instead`: if it takes the place of an entry of another generation, which was found to be out
    of date, that generation."""

    run_id: str
    entry: Entry
    instead: str = ""


@dataclass(frozen=True, slots=True)
class Keeping:
    """How many runs that have ended are kept, and for how long: those that have succeeded, and those that have failed
    or were cancelled. Times are in milliseconds."""

    most: int
    succeeded: int
    stopped: int


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in the register: runs and their entries, newest first. `left_off` is where to go on, or `''` at
    the end."""

    runs: tuple[tuple[str, Entry], ...] = ()
    left_off: str = ""


@dataclass(frozen=True, slots=True)
class Glance:
    """How a run stands, in brief. `state` is as a status shows it, `turns` counts how often that has changed. The
    numbers are of members of the present `stage`; `total` is None as long as it isn't known. `created`, `updated`,
    `ended` and `stalled` (since when) are UNIX milliseconds."""

    generation: str
    turns: int
    state: str
    stage: int
    stages: int
    created: int
    updated: int
    name: str = ""
    tags: tuple[str, ...] = ()
    ended: int | None = None
    stalled: int | None = None
    total: int | None = None
    succeeded: int = 0
    failing: int = 0
    dead: int = 0
    nested: bool = False

    @property
    def turn(self) -> Turn:
        """What the register has to know of it."""
        stalled = self.stalled is not None
        known = (self.generation, self.turns, self.state, self.created, self.ended, self.name, self.tags, stalled)
        return Turn(*known)


@dataclass(frozen=True, slots=True)
class MemberGlance:
    """How a member of a stage stands. `failure`: the details of its last failure (`failures.failure_details`), or `''`.
    `due`: when it is attempted again, if it is failing and that is known (UNIX milliseconds). `nests`: its job has
    nested runs. `row`: its row in the plan; of a nested run only the first letter of that; empty if the plan is gone,
    and in a mapped stage, whose members have one row. `item`: in a mapped stage, the encoded item that it is called
    with; None if that is gone, or large. `began`, `ended` (UNIX milliseconds) and `worker`: when and where its last
    attempt was at work, as far as that is kept."""

    index: int
    state: MemberState
    failure: str = ""
    due: int | None = None
    nests: bool = False
    row: bytes = b""
    item: bytes | None = None
    began: int | None = None
    ended: int | None = None
    worker: str | None = None


@dataclass(frozen=True, slots=True)
class StageGlance:
    """How some members of a stage stand. `line` is the stage's; None if there is no such stage. `go_on` is the member
    from which on others may be found; None at the end. `dead`: how many members of the stage are dead, if it is the
    present one. `over`: it is complete. `generation` is the run's, and `sender` the one in which the stage's messages
    were sent. `spec`: the run's, or empty if it is gone. `row`: that of all members of a mapped stage. `value`: the
    encoded result of the stage before, if that is a single value and the members are called with it; None if it is
    gone, or large."""

    stage: int
    stages: int
    line: str | None
    members: tuple[MemberGlance, ...] = ()
    go_on: int | None = None
    dead: int = 0
    over: bool = False
    generation: str = ""
    sender: str = ""
    spec: bytes = b""
    row: bytes = b""
    value: bytes | None = None


class Register(abc.ABC):
    """Keeps the register of each application."""

    @abc.abstractmethod
    def enlist(
        self, runs: Sequence[Enlisted], now: int, keeping: Keeping, *, application: str
    ) -> Sequence[tuple[str, str]]:
        """Put runs where they belong in the register. An entry that is older than what is known of its run changes
        nothing; one without labels takes the run out.

        Of the runs that have ended some then leave the register, at most 100 for each of these reasons: they ended too
        long ago, or there are too many. Returns the (id, generation) of those that have succeeded and left because
        there were too many: `shorten` is to be called for them.
        """

    @abc.abstractmethod
    def look_through(
        self, labels: Sequence[str], enough: int, *, after: str = "", since: int = 0, application: str
    ) -> Found:
        """Find runs that have all these labels (see `entries.label`), newest first: `enough` of them, or fewer if
        others have to be looked through for that. `after` is where an earlier call has left off. `since` is when the
        oldest wanted ones began (UNIX milliseconds)."""

    @abc.abstractmethod
    def entries(self, run_ids: Sequence[str], *, application: str) -> Sequence[Entry | None]:
        """The entries of these runs; None for one that isn't in the register."""

    @abc.abstractmethod
    def count(self, labels: Sequence[str], *, application: str) -> Sequence[int]:
        """How many runs have each of these labels. That takes the same time however many they are."""

    @abc.abstractmethod
    def look_at(self, run_ids: Sequence[str]) -> Sequence[Glance | DamagedState | None]:
        """How these runs stand, in two round trips. None for a run that isn't there (any more); an error, which isn't
        raised, for one that can't be read."""

    @abc.abstractmethod
    def nesting(self, run_id: str, stages: Sequence[int], *, generation: str) -> Sequence[int]:
        """How many members of each of these stages may be nested runs, or jobs that have nested some: all, or none. In
        one round trip."""

    @abc.abstractmethod
    def look_into(
        self, run_id: str, stage: int | None, start: int, most: int, *, state: MemberState | None = None
    ) -> StageGlance | None:
        """How members of a stage (None: the present one) stand, from `start` on, in two round trips: at most `most` of
        them, and with a `state` only those that are shown under it. At most 1,000 are looked at, so that fewer, or
        none, may be found although others follow; those that are failing or dead are found without that. None if there
        is no such run. Raises NewerRelease."""

    @abc.abstractmethod
    def shorten(self, runs: Sequence[tuple[str, str]]) -> None:
        """Keep these runs (id, generation), which have succeeded, only as long as their results are kept."""
