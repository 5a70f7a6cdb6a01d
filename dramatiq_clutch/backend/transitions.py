"""What changes a run: one method, one atomic transition of one run."""

from __future__ import annotations

import abc
from collections.abc import Sequence

from ..stored.duties import Duty, OpenStage, SendAgain
from ..stored.firings import CallbackEnding
from ..stored.formats import Snapshot
from ..stored.places import CallbackTag, Tag
from ..stored.plan import Plan, Spec
from .values import SHARE, Caller, GuardWord, Record, Reply


class Transitions(abc.ABC):
    """The part of a store that changes runs."""

    @abc.abstractmethod
    def draft(
        self,
        run_id: str,
        draft: str,
        offset: int,
        rows: Sequence[bytes],
        caller: Caller,
        *,
        run_ttl: int,
        soonest: int | None = None,
    ) -> int:
        """Put the run down in the index, for when a lease has lapsed or its `soonest` deadline may be over; then write
        rows of its plan from `offset` on, under the draft's name. They expire within minutes of the last such call,
        unless `create` seals them. Returns for when the run is put down. Raises DamagedState if earlier rows have
        expired."""

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
        tags: Sequence[str] = (),
        share: int = SHARE,
        frees: bool = False,
        keeps: bool = False,
        history_ttl: int = 0,
    ) -> Reply:
        """Store the plan, then seal it in one step, before which nothing is owed. With a `draft`, the plan's rows are
        stored already. `run_ttl` and `result_ttl` are in milliseconds; `claim` is the clutch's fingerprint if the user
        gave the id, else `''`; `tags` are the run's; `share` is how many members of a large stage one caller sends;
        `frees` says that the id is free for another run as soon as this one is at rest and `delete`d, or has expired;
        `keeps`, that the results of all stages stay as long as the run, and the plan, too. A nested run keeps nothing.
        If the plan's spec is `timed`, it is kept when each member was at work, for as long as the members are. The
        context in the plan's spec is kept by itself, for as long as the status is. `history_ttl` is for how long the
        status of a run that has succeeded is kept, if that is longer than for its result.

        The word is `created`, also when the same call is repeated. If the id is in use, it is `exists`, `taken` if the
        run there has another claim, or `foreign` if it is of another application. A claimed id is in use for `run_ttl`
        after success, any other for a day. A nested run replaces one that was nested in another run of its parent's id,
        unless that is the later one. What has had the id before is remembered: its late messages are `over`. Raises
        DamagedState if the draft has expired.
        """

    @abc.abstractmethod
    def guard(self, tag: Tag, now: int, *, attempt: int = 0, worker: str = "") -> GuardWord:
        """Say whether a job is still wanted. If it is, and the job is `timed`, note that this attempt begins now, and
        on which worker; unless a later one has begun. Nothing else is changed: where a job isn't wanted because a
        deadline is over, `owed` lets the run fail of that."""

    @abc.abstractmethod
    def record(self, record: Record, caller: Caller) -> Reply:
        """Record how an attempt ended, or how a nested run stands. The word is a `RecordWord`.

        A member's first success is final. Any other record changes nothing unless its (epoch, attempt) is higher than
        the last one's. The record that completes a stage releases the next one, once. Members are counted by what is
        stored of each, so neither a duplicate nor a missing key can release anything. In a stage with a limit, as many
        more members are owed as were settled; and a job that is to be attempted again is `stale` if its member is dead
        or waits, because another copy of its message has ended before: its place isn't its own any more.

        In the common case (`Record.is_common`, and the caller doesn't touch) a store may change the member only and
        give no duties, as long as the stage isn't complete.
        """

    @abc.abstractmethod
    def owed(self, run_id: str, caller: Caller, *, generation: str = "") -> Reply:
        """Write down what follows from the run's state, and give the caller the duties that it owns and those whose
        lease has lapsed. A sweeper is also given one share for anybody, if there is one.

        The word is `owing` if anything is owed, also to others; `clear` if not; `unknown` if there is no such run.
        Raises ForeignRun for a run of another application, unless the caller names the `generation`, as one does that
        has a message or a duty of the run; and so do `cancel`, `retry` and `resend`.
        """

    @abc.abstractmethod
    def sweep(self, run_id: str, caller: Caller, *, stalled_after: int, waits_for_jobs: bool = False) -> Reply:
        """Do what `owed` does, and find out whether the run is stalled.

        The word is `owing` if anything is owed; `rests` if the run is at rest; `unknown` if there is no such run;
        `works` if it is at work. It is `stalled`, once, if members are unsettled, nothing is owed or delayed, and
        nothing has happened for `stalled_after` milliseconds. It is `quiet` instead of `stalled` if there are nested
        runs, unless the caller says that the stage also `waits_for_jobs`: the caller has to find that out, and call
        again if so. Raises ForeignRun.
        """

    @abc.abstractmethod
    def open(self, run_id: str, duty: OpenStage, total: int, caller: Caller) -> Reply:
        """Store how many members a mapped or empty stage has. An empty stage is complete at once. The word is `opened`;
        or `lost`, if the lease has passed to another caller."""

    @abc.abstractmethod
    def confirm(self, run_id: str, duty: Duty, caller: Caller, *, cursor: int | None = None) -> str:
        """Confirm that a duty is done; or, with a `cursor`, that it is done up to there: then its lease begins anew.

        Returns `confirmed`; `ends` or `rests` if the run owes nothing more (see `Note`); or `lost` if the lease has
        passed to another caller. When a succeeded run owes nothing more, everything but its status and result is
        deleted; of a nested run everything but its tombstone.
        """

    @abc.abstractmethod
    def reopen(self, run_id: str, duty: SendAgain, done: int, caller: Caller) -> tuple[int, Sequence[int]] | None:
        """The next members that this duty is to send again: the epoch in which they work, and the members, at most
        1,000 and no more than the stage's limit leaves room for.

        `done` is how many times the caller has sent the members that it got. As long as that doesn't change, it gets
        the same members. Returns None if there are no more, which confirms the duty, or if the lease has passed to
        another caller.
        """

    @abc.abstractmethod
    def fail(self, run_id: str, duty: Duty, details: bytes, caller: Caller) -> Reply:
        """Let the run fail, because a duty can't be done; `details` says why (`failures.failure_details`). A retry owes
        the duty again, unless it is a callback. The word is `failed`; or `lost`, if the lease has passed to another
        caller."""

    @abc.abstractmethod
    def heard(self, tag: CallbackTag, caller: Caller, ending: CallbackEnding = "succeeded") -> str:
        """Note how a callback's message has ended, and that it won't be attempted again. When the last one has, what
        callbacks may read of a succeeded run needn't stay. Of an event that has fired several times, only how the
        messages of its last firing end is kept; and of a message that ends twice, that it has succeeded. Returns
        `heard` or `unknown`."""

    @abc.abstractmethod
    def cancel(self, run_id: str, caller: Caller, *, bury: int | None = None, generation: str = "") -> Reply:
        """Bring the run to rest, drop the duties that would send or start anything, and owe that the runs nested in it
        are cancelled, too. The word is `cancelled`; `over` if the run is at rest already; `unknown`.

        A parent that cancels a nested run gives the `generation` of that run, and its own epoch as `bury`. If the
        nested run doesn't exist, the parent can't start it in that epoch or an earlier one; if the parent has revived
        it in a later epoch, it is left alone. Raises ForeignRun.
        """

    @abc.abstractmethod
    def retry(self, run_id: str, caller: Caller, *, since: int | None = None, generation: str = "") -> Reply:
        """Begin a new epoch in which the dead members work again; in a cancelled run, all members that haven't
        succeeded. This is one step, however many they are, because `reopen` brings them back some at a time. Duties
        that couldn't be done are owed again, and `on_failure` and `on_death` may fire again. The word is `retried`;
        `nothing` if there is nothing to send or do again; `unknown`.

        A parent that revives a nested run gives its own epoch as `since`. Then a cancel of the parent in an earlier
        epoch doesn't cancel this run any more; and the run tells again that it is or was failing, because a cancelled
        parent hasn't heard it. Both happen once for each epoch of the parent. Raises ForeignRun.
        """

    @abc.abstractmethod
    def rewind(self, run_id: str, stage: int, spec: Spec, caller: Caller, *, generation: str) -> Reply:
        """Put a run at rest that keeps its results back to work at a stage that has begun before. That stage and all
        after it begin anew, and those before it keep what they have. The run of this `generation` gets that of the
        `spec`, which is otherwise its spec; the earlier one is remembered: its late messages are `over`.

        The word is `rewound`, also when the same call is repeated; `works` if the run isn't at rest; `owing` if it owes
        something that others wait for, as for `delete`; `refused` if it keeps no results, or hasn't come to that stage;
        `expired` if the results of the stage before are gone; `unknown` if there is no run of this `generation`. What
        was nested in the earlier pass stays, and its plans, until they are deleted. Raises ForeignRun.
        """

    @abc.abstractmethod
    def drop_pass(self, run_id: str, snapshot: Snapshot, stage: int) -> None:
        """Delete what the stages from this one on have kept in an earlier pass, of which this is a snapshot, after
        `rewind` has begun the next one. If nobody calls this, it expires."""

    @abc.abstractmethod
    def resend(self, run_id: str, caller: Caller, *, generation: str = "") -> Reply:
        """Begin a new epoch in which all unsettled members are sent again. The word is `resent`; `nothing` if the run
        is at rest; `unknown`. Raises ForeignRun."""

    @abc.abstractmethod
    def retell(self, run_id: str, caller: Caller, *, generation: str = "") -> Reply:
        """Have a nested run tell its parent again how it stands, because the parent hasn't heard it; nothing is told by
        a run that last told `working`. The word is `told` or `unknown`."""

    @abc.abstractmethod
    def delete(
        self, run_id: str, caller: Caller, *, generation: str, bury: int | None = None, asks: bool = False
    ) -> Reply:
        """Delete what is kept of a run at rest, but for the runs that are nested in it, and free its id. Late messages
        of it are `over` from then on, for a day after the last of them is due.

        The word is `deleted`; `freed` if the run had expired, and only its tombstone was left; `works` if the run isn't
        at rest; `owing` if it owes something that others wait for, such as a callback, of which the caller is given
        what `owed` would give it; `unknown` if there is no run of this `generation`. With `asks` nothing is deleted,
        and the word is `rests` where the run could be.

        A parent that is deleted gives its epoch as `bury`, as for `cancel`: it can't start the run in that epoch any
        more. Raises ForeignRun.
        """

    @abc.abstractmethod
    def touch(self, run_id: str, caller: Caller, *, due: int = 0) -> str:
        """Put off the expiry of the run's keys: they live for its ttl from now, or from `due` (UNIX milliseconds), if
        something of the run is delayed until then. Returns `touched` or `unknown`."""

    @abc.abstractmethod
    def write_items(self, run_id: str, duty: OpenStage, offset: int, items: Sequence[bytes], *, run_ttl: int) -> None:
        """Write encoded items of a mapped stage from `offset` on, once however often it is called. They are deleted
        when the stage is complete. Raises DamagedState if earlier items are gone."""
