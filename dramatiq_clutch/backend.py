"""The contract of a state store: one method is one atomic transition of one run.

Every method takes the time (`now`, UNIX milliseconds) from its caller, can be applied twice without harm (a client may
repeat a call whose reply was lost), and raises `StateUnavailable` for every error that isn't known to be final. Those
that are: what the methods name, and `PayloadRefused` for a payload that the store doesn't take, however often it comes.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dramatiq import Encoder, get_encoder
from dramatiq.common import current_millis

from .stored.duties import Duty, OpenStage, SendAgain, SendMembers
from .stored.formats import Snapshot, Standing
from .stored.places import CallbackTag, Tag
from .stored.plan import Plan

#: `working` is a nested run's word: it works again, and has had no attempt since.
Ending = Literal["succeeded", "working", "attempted", "failing", "dead"]

#: What became of a record: it `counts`; it changed nothing, as a `duplicate` or being `stale`; its stage is `over`, or
#: its run cancelled; the place doesn't exist (`refused`); the run isn't there (`unknown`).
RecordWord = Literal["counts", "duplicate", "stale", "over", "refused", "unknown"]

#: Whether to run a job: `go`; its member has succeeded (`done`); its stage is `over`, or its run cancelled; its place
#: doesn't exist, or hasn't been opened (`unknown`).
GuardWord = Literal["go", "done", "over", "unknown"]

#: What else a reply says of the run: it `ends`, for it has succeeded and owes nothing more; it `rests` otherwise, and
#: owes nothing more until somebody has it retry; it was at rest and `wakes`; there are `more` shares, for anybody.
Note = Literal["", "ends", "rests", "wakes", "more"]

#: What sweepers listen for: that there is work for them before their interval is over.
SWEEP = "!sweep"

#: How many members of a stage one caller sends at least. A range of more than twice that is shared out.
SHARE = 250

#: The order of what a gone run would have told: after whatever it did tell. A retry begins a new epoch.
LAST = 2**31


@dataclass(frozen=True, slots=True)
class Reply:
    """A transition's answer: what became of it, and the duties that are now the caller's. What it has `sent` onward by
    itself is nobody's any more."""

    word: str
    duties: tuple[Duty, ...] = ()
    sent: SendMembers | None = None
    note: Note = ""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the `owner` of duties, the time, and the `lease` under which it takes them, for `lease_ms`.

    `touch` says that it's time to put the expiry of the run's keys off, which the common case leaves out. `application`
    is whose runs it may start, sweep and change.
    """

    owner: str
    now: int
    lease: str
    lease_ms: int
    touch: bool = True
    application: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """How one attempt of a job ended, or how a nested run (`of_run`) stands.

    `payload` is the encoded result, or the failure's details; `nested` the plan of the runs that a job which has
    succeeded has started: they take its place. An `attempt` of LAST is the word of a run that is gone: it counts as the
    last one of the present epoch. `due` is when the next attempt comes, in UNIX milliseconds, if one does.
    """

    tag: Tag
    attempt: int
    ending: Ending
    payload: bytes
    nested: bytes = b""
    of_run: bool = False
    due: int = 0

    @property
    def is_common(self) -> bool:
        """Whether nothing but its place may have to change: a job in parallel with others has succeeded."""
        plain = not (self.nested or self.of_run or self.tag.leads)
        return self.ending == "succeeded" and self.tag.of > 1 and plain


class Listener(abc.ABC):
    """Hears what is said of names: ids of runs, and words such as SWEEP. One thread uses it; any may `wake` it.

    `is_deaf` says that the store lets nobody listen, so that the caller has to look by itself now and then; it is known
    once `hear` has been called.
    """

    is_deaf = False

    @abc.abstractmethod
    def add(self, names: Iterable[str]) -> None:
        """Listen for these names, too. Raises StateUnavailable; they are listened for all the same when it is back."""

    @abc.abstractmethod
    def remove(self, names: Iterable[str]) -> None:
        """Don't listen for these names any more. Raises StateUnavailable."""

    @abc.abstractmethod
    def hear(self, timeout: float) -> Sequence[str]:
        """Wait, for `timeout` seconds at most. Returns the names of which something was said, and those for which
        listening has just begun (for the first time, or again after an outage): whatever happened before that wasn't
        heard, so the caller looks once. Raises StateUnavailable."""

    @abc.abstractmethod
    def wake(self) -> None:
        """Have `hear` return soon. That may be lost, like a hint."""

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of the connection."""


class ClutchBackend(abc.ABC):
    """Keeps the state of runs. See the module for what holds for every method."""

    def __init__(self, *, namespace: str = "dramatiq-clutch", encoder: Encoder | None = None) -> None:
        self.namespace = namespace
        self._encoder = encoder

    @property
    def encoder(self) -> Encoder:
        """Encodes results: the one given, or Dramatiq's global one, as set at the time of use."""
        return self._encoder or get_encoder()

    def encode(self, result: Any) -> bytes:
        """A result as bytes: like Dramatiq's Results, whose encoders take any value. Raises what the encoder raises."""
        return self.encoder.encode(result)

    def warnings(self) -> Sequence[str]:
        """What is wrong with how the store is set up, for the log of a worker that boots."""
        return ()

    def now(self) -> int:
        """The time that callers give, in UNIX milliseconds: the system's, unless the store has a clock of its own."""
        return current_millis()

    # Transitions

    @abc.abstractmethod
    def draft(
        self, run_id: str, draft: str, offset: int, rows: Sequence[bytes], caller: Caller, *, run_ttl: int
    ) -> None:
        """Write rows of a plan from `offset` on, under the draft's name, after an entry in the index. They expire
        within minutes of the last such call unless `create` seals them. Raises DamagedState if those before have."""

    @abc.abstractmethod
    def create(
        self,
        run_id: str,
        plan: Plan,
        caller: Caller,
        *,
        run_ttl: int,
        result_ttl: int,
        claim: str = "",
        draft: str = "",
        share: int = SHARE,
    ) -> Reply:
        """Store the plan, then seal it in one step; with a `draft`, its rows are stored already. Nothing is owed before
        the seal. `created`; for a repeated call `exists`, or `taken` if that one's `claim` (a clutch's fingerprint) was
        another, or `foreign` if it is of another application. A claimed id stays so for `run_ttl`, any other for a day
        after success. A nested run takes the place of one that was nested in another run of its parent's id. Raises
        DamagedState if the draft has expired."""

    @abc.abstractmethod
    def guard(self, tag: Tag) -> GuardWord:
        """Say whether a job is still wanted. Changes nothing."""

    @abc.abstractmethod
    def record(self, record: Record, caller: Caller) -> Reply:
        """Record how an attempt ended. A member's first success is final; another record that isn't newer (epoch,
        attempt) than the last one changes nothing. The stage is released by the record that completes it, once,
        and counting is by membership: neither a duplicate nor a missing key can release anything. Of a stage with a
        limit, as many more members are owed as have given up their places: jobs by an attempt, runs by settling.
        In the common case (`Record.is_common`, and the caller has no need to touch) only the place changes, and no
        duties are given."""

    @abc.abstractmethod
    def owed(self, run_id: str, caller: Caller) -> Reply:
        """Look at what the state owes, and give the caller what is its own or whose lease has lapsed; a sweeper also
        gets one share of what anybody may do. `owing` if there is anything to do, be it somebody else's; `clear`, or
        `unknown`. Raises ForeignRun for a run of another application."""

    @abc.abstractmethod
    def sweep(self, run_id: str, caller: Caller, *, stalled_after: int, waits_for_jobs: bool = False) -> Reply:
        """`owed` for a sweeper, who looks at a run at work again and again. `owing`; `rests`, or `unknown`; `works`;
        `stalled`, once: members are unsettled, nothing is owed or delayed, and nothing has happened for
        `stalled_after` milliseconds. `quiet`: so it is, but there are nested runs, and the caller has to see whether it
        `waits_for_jobs` too. Raises ForeignRun."""

    @abc.abstractmethod
    def open(self, run_id: str, duty: OpenStage, total: int, caller: Caller) -> Reply:
        """Say how many members a stage has. An empty one is complete at once. `opened` or `lost`."""

    @abc.abstractmethod
    def confirm(self, run_id: str, duty: Duty, caller: Caller, *, cursor: int | None = None) -> str:
        """The duty is done (or done up to `cursor`: then its lease begins anew). `confirmed`, or `ends` or
        `rests` if the run owes nothing more (see Note); `lost` if the lease has passed to somebody else. When a
        succeeded run owes nothing any more, all but its status and result goes; of a nested one, all but its
        tombstone."""

    @abc.abstractmethod
    def reopen(self, run_id: str, duty: SendAgain, done: int, caller: Caller) -> tuple[int, Sequence[int]] | None:
        """The next members that this duty is to send again, at most 1,000 and no more than there is room for, and the
        epoch in which they work. They are the same until the caller has sent them, which it says by how many times it
        has (`done`). None if there are none, which confirms the duty, or if the lease has passed to somebody else."""

    @abc.abstractmethod
    def fail(self, run_id: str, duty: Duty, details: bytes, caller: Caller) -> Reply:
        """The duty can't be done: the run fails, with these details. `failed` or `lost`. A retry owes it again, unless
        it was a callback."""

    @abc.abstractmethod
    def heard(self, tag: CallbackTag, caller: Caller) -> str:
        """A callback's message has ended, and won't be attempted again: what it may read of a succeeded run goes with
        the last of them. `heard` or `unknown`."""

    @abc.abstractmethod
    def cancel(self, run_id: str, caller: Caller, *, bury: int | None = None, generation: str = "") -> Reply:
        """Bring the run to rest, drop what would send or start anything, and owe the same to the runs nested in it.
        `cancelled`; `over` if it is at rest; `unknown`. `bury` is the epoch of a parent that is cancelled: a run of
        this `generation` that isn't there won't be started by it up to that epoch, and one that it has revived since is
        left alone. Raises ForeignRun."""

    @abc.abstractmethod
    def retry(self, run_id: str, caller: Caller, *, since: int | None = None, generation: str = "") -> Reply:
        """Begin a new epoch in which the dead members work again; of a cancelled run, all that haven't succeeded. That
        is one step, however many they are: `reopen` brings them back, some at a time. Duties that failed are owed
        again, and the alarms rearmed. `retried`; `nothing` if there is nothing dead; `unknown`.

        `since` is the epoch of a parent that revives it: a parent cancelled before doesn't concern it, and what a
        cancelled parent hasn't heard (that it is failing, or was) is told again; once in each of these epochs. Raises
        ForeignRun."""

    @abc.abstractmethod
    def resend(self, run_id: str, caller: Caller, *, generation: str = "") -> Reply:
        """Begin a new epoch in which all unsettled members are sent again. `resent`, `nothing` at rest, `unknown`.
        Raises ForeignRun."""

    @abc.abstractmethod
    def retell(self, run_id: str, caller: Caller, *, generation: str = "") -> Reply:
        """Have a nested run tell its parent again how it stands, unless it has nothing to tell: the parent hasn't heard
        it. `told` or `unknown`."""

    @abc.abstractmethod
    def touch(self, run_id: str, caller: Caller, *, due: int = 0) -> str:
        """Put the expiry of the run's keys off: by its ttl from now on, or from when something of it that is delayed is
        `due` (UNIX milliseconds). `touched` or `unknown`."""

    @abc.abstractmethod
    def write_items(self, run_id: str, duty: OpenStage, offset: int, items: Sequence[bytes], *, run_ttl: int) -> None:
        """Write what the duty's stage is mapped over, encoded, from `offset` on; once, however often it is called. They
        go with the stage. Raises DamagedState if those before are gone."""

    # Looking

    @abc.abstractmethod
    def snapshot(self, run_id: str) -> Snapshot | None:
        """How the run stands, at one moment; None if there is none."""

    # These take the run's `generation`, and find nothing of another one; without it they look it up first.

    @abc.abstractmethod
    def generation(self, run_id: str) -> str | None:
        """What tells the run from others that have had its id; None if there is none."""

    @abc.abstractmethod
    def spec(self, run_id: str, *, generation: str = "") -> bytes | None:
        """The encoded `Spec` of the run, which never changes; None if there is none."""

    @abc.abstractmethod
    def line(self, run_id: str, stage: int, *, generation: str = "") -> str | None:
        """The `StageLine` of a stage, as a string."""

    @abc.abstractmethod
    def rows(self, run_id: str, start: int, end: int, *, generation: str = "") -> Sequence[bytes]:
        """The plan's rows `start` ≤ i < `end`."""

    @abc.abstractmethod
    def items(self, run_id: str, stage: int, start: int, end: int, *, generation: str = "") -> Sequence[bytes]:
        """Of what `write_items` has written, the items `start` ≤ i < `end`."""

    @abc.abstractmethod
    def results(self, run_id: str, stage: int, start: int, end: int, *, generation: str = "") -> Sequence[bytes | None]:
        """What these members have left: `S` and the encoded result; something else for one that has not succeeded;
        None for one of which nothing is known."""

    @abc.abstractmethod
    def standing(
        self, run_id: str, stage: int, members: Sequence[int], *, generation: str = ""
    ) -> Sequence[Standing | None]:
        """How these members stand; None for one that has had no attempt."""

    @abc.abstractmethod
    def failures(self, run_id: str, stage: int, *, generation: str = "") -> Sequence[tuple[int, str]]:
        """The dead members of a stage with their details, in written order."""

    @abc.abstractmethod
    def nested(self, run_id: str, stage: int, members: Sequence[int], *, generation: str = "") -> Mapping[int, bytes]:
        """The plans that jobs of a stage have nested, by member, as far as these have."""

    @abc.abstractmethod
    def at_rest(self, run_ids: Sequence[str]) -> Sequence[bool]:
        """Which of these runs have come to rest, or are gone. Of one that can't be read it says so, too: who reads it
        gets the error."""

    # Hints

    @abc.abstractmethod
    def listen(self) -> Listener:
        """Somebody who hears when something is said of names, by any process. It connects when it first hears."""

    @abc.abstractmethod
    def say(self, name: str) -> None:
        """Have all who listen for this name look at what it stands for. That a run has come to rest is said by the
        transition itself. A hint may be lost, also because the store is away: what is stored tells, and no hint."""

    # The index

    @abc.abstractmethod
    def due(self, now: int, look_again_at: int, limit: int, *, application: str = "") -> Sequence[str]:
        """Runs of the application that a sweeper should look at; they are put down for `look_again_at`."""

    @abc.abstractmethod
    def look_again(
        self, run_id: str, at: int | None, *, run_ttl: int, application: str = "", known: bool = False
    ) -> None:
        """Put a run down in the index for another time; None takes it out. With `known`, only if it is there."""

    @abc.abstractmethod
    def forget(self, run_id: str, at: int, *, application: str = "") -> None:
        """Take a run out of the index unless it is put down for another time than `at`: somebody may be starting it."""
