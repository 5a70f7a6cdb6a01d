"""The contract of a state store: each method under *Transitions* is one atomic transition of one run.

Every method takes the time (`now`, in UNIX milliseconds) from its caller. Every method can be applied twice without
harm, because a client may repeat a call whose reply was lost. Every method raises `StateUnavailable` for an error that
isn't known to be final. Final errors are those that a method's docstring names, and `PayloadRefused` for a payload that
the store will never take.

Most transitions return a `Reply` or a word. The words are quoted in the docstrings, and `backends/README.md` has them
all, with a table of what each call does in each state of a run.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dramatiq import Encoder, get_encoder
from dramatiq.common import current_millis

from .findings import Finding
from .news import News
from .register import Register
from .stored.attendance import Attendance
from .stored.duties import Duty, OpenStage, SendAgain, SendMembers
from .stored.entries import Turn
from .stored.formats import Snapshot, Standing
from .stored.places import CallbackTag, Place, Tag
from .stored.plan import Plan, Spec

#: How an attempt ended, or how a nested run tells that it stands. Only a nested run tells `working`: it is at work, and
#: hasn't told that it is failing since it began or was retried.
Ending = Literal["succeeded", "working", "attempted", "failing", "dead"]

#: What became of a record. It `counts`; or it changed nothing, because the member has succeeded already (`duplicate`),
#: because a newer attempt is recorded (`stale`), because its stage is over, or its run has succeeded or was cancelled
#: (`over`), because the stage has no such member (`refused`), or because there is no such run (`unknown`).
RecordWord = Literal["counts", "duplicate", "stale", "over", "refused", "unknown"]

#: Whether to run a job. `go` means yes. The job isn't wanted if its member has succeeded (`done`), if its stage is
#: over, its run has succeeded, was cancelled or has broken off, or a deadline is over (`over`), or if there is no such
#: run or no such place in it (`unknown`).
GuardWord = Literal["go", "done", "over", "unknown"]

#: What else a reply says of the run. `ends`: it has succeeded and owes nothing more, and nothing will work under its
#: id.
#: `rests`: it is at rest otherwise, and owes nothing more until somebody retries it, or runs a clutch under its id.
#: `wakes`: it was at rest, and works or owes something again. `more`: there are shares for anybody that the caller
#: wasn't given.
Note = Literal["", "ends", "rests", "wakes", "more"]

#: The name under which sweepers listen for hints that there is work for them before their interval is over.
SWEEP = "!sweep"

#: How many members of a large stage one caller sends at least. A stage with more than twice as many is shared out.
SHARE = 250

#: The attempt under which it is recorded that a nested run is gone. It is higher than any revision that the run can
#: have told, so `dead` is the last word on it until a retry begins the next epoch.
LAST = 2**31


@dataclass(frozen=True, slots=True)
class Reply:
    """A transition's answer.

    `word`: what became of the call. `duties`: those that the caller is given, in the order in which it is to do them.
    `note`: see `Note`; for the word `foreign`, the name of the run's application. If the broker took part in the step,
    `sent` is a duty that was done in it, so nobody has to do it; `kept` says that its message was fetched for the
    caller's worker; and `acked`, that the message was acked whose attempt was recorded. `news`: what this call has done
    to the run, for the log; nothing if an earlier call has done it, so that it is logged once. `by`: when a sweeper has
    to look at the run at the latest (UNIX milliseconds), because a deadline of it may be over then; 0 if it has none,
    or the index needn't be changed. `turn`: what the register has to know of the run, if that has changed, or may not
    have been told.
    """

    word: str
    duties: tuple[Duty, ...] = ()
    sent: SendMembers | None = None
    note: Note = ""
    kept: bool = False
    acked: bool = False
    news: tuple[News, ...] = ()
    by: int = 0
    turn: Turn | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks the store for something.

    `owner`: the name under which it is given duties (see `stored/owners.py`). `now`: the time, in UNIX milliseconds.
    `lease`: the token under which it takes duties, for `lease_ms` milliseconds. `touch`: the call is to put off the
    expiry of the run's keys; the common case of a record doesn't. `application`: whose runs it may start and change.
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

    `tag`: the place of the job or nested run. `attempt`: its number, or the revision of what a nested run tells; LAST
    records that a nested run is gone, in the present epoch. `payload`: the encoded result, or the failure's details
    (`failures.failure_details`). `nested`: the plan of the wrapper of all runs that a succeeded job has nested, which
    takes the job's place. `due`: when the next attempt comes, in UNIX milliseconds, or 0 if none does. `began`: when
    the attempt began to work, or the nested run was started, by the clock of `now()`; 0 if that isn't known. The first
    record of a stage says when the stage began. `worker`: the name of the worker; it is kept if the job is `timed`.
    """

    tag: Tag
    attempt: int
    ending: Ending
    payload: bytes
    nested: bytes = b""
    of_run: bool = False
    due: int = 0
    began: int = 0
    worker: str = ""

    @property
    def is_common(self) -> bool:
        """Whether this is the common case: one of several jobs in parallel has succeeded. Recording it usually changes
        its member only, so a store may have a cheaper way for it."""
        plain = not (self.nested or self.of_run or self.tag.leads or self.tag.exact)
        return self.ending == "succeeded" and self.tag.of > 1 and plain


@dataclass(frozen=True, slots=True)
class Occupant:
    """Who has an id: a run, or what is left of one.

    `generation` and `application`: the run's. `state`: its state; or `gone` if it has succeeded and expired, so that
    only its tombstone is left. `claimed`: its id was given by the user. `frees`: the id is free for another run as soon
    as this one is at rest.
    """

    generation: str
    state: Literal["running", "failed", "succeeded", "cancelled", "gone"]
    application: str = ""
    claimed: bool = False
    frees: bool = False


class Listener(abc.ABC):
    """Listens for hints about names, which are ids of runs, or SWEEP. One thread uses it; any thread may call `wake`.

    `is_deaf` says that the store lets nobody listen, so that the caller has to look by itself now and then. It is valid
    after the first call of `hear`.
    """

    is_deaf = False

    @abc.abstractmethod
    def add(self, names: Iterable[str]) -> None:
        """Listen for these names as well. Raises StateUnavailable; the names are listened for all the same, once the
        store is back."""

    @abc.abstractmethod
    def remove(self, names: Iterable[str]) -> None:
        """Stop listening for these names. Raises StateUnavailable."""

    @abc.abstractmethod
    def hear(self, timeout: float) -> Sequence[str]:
        """Wait for hints, for `timeout` seconds at most.

        Returns the names about which there was a hint, and the names for which listening has just begun, for the first
        time or after an outage. Earlier hints about these weren't heard, so the caller looks at them once. Raises
        StateUnavailable.
        """

    @abc.abstractmethod
    def wake(self) -> None:
        """Make `hear` return soon, in whichever thread it waits. Like a hint, this may be lost."""

    @abc.abstractmethod
    def close(self) -> None:
        """Give back the connection."""


class ClutchBackend(Register):
    """Keeps the state of runs. The module's docstring says what holds for every method."""

    def __init__(self, *, namespace: str = "dramatiq-clutch", encoder: Encoder | None = None) -> None:
        self.namespace = namespace
        self._encoder = encoder

    @property
    def encoder(self) -> Encoder:
        """The encoder of results: the one that was given, or else Dramatiq's global encoder at the time of use."""
        return self._encoder or get_encoder()

    def encode(self, result: Any) -> bytes:
        """A result as bytes. Like those of Dramatiq's Results, it may be any value. Raises what the encoder raises."""
        return self.encoder.encode(result)

    def warnings(self) -> Sequence[str]:
        """What is wrong with the settings of the store's server. A worker logs each text when it boots. Raises
        NotConfigured if the server can't keep runs at all; then the worker doesn't boot."""
        return ()

    def fitness(self) -> Iterable[Finding]:
        """What there is to be said of the store's server, good or bad, for `examine`. It takes what the server lets its
        user ask. Raises StateUnavailable."""
        return [Finding("warning", text) for text in self.warnings()]

    def now(self) -> int:
        """The time that callers pass as `now`, in UNIX milliseconds: the system's, unless the store has a clock of its
        own."""
        return current_millis()

    # Transitions

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
    ) -> None:
        """Put the run down in the index, for when a lease has lapsed or its `soonest` deadline may be over; then write
        rows of its plan from `offset` on, under the draft's name. They expire within minutes of the last such call,
        unless `create` seals them. Raises DamagedState if earlier rows have expired."""

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
        If the plan's spec is `timed`, it is kept when each member was at work, for as long as the members are.
        The context in the plan's spec is kept by itself, for as long as the status is. `history_ttl` is for how long
        the status of a run that has succeeded is kept, if that is longer than for its result.

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
        more members are owed as were settled.

        In the common case (`Record.is_common`, and the caller doesn't touch) a store may change the member only and
        give no duties, as long as the stage isn't complete.
        """

    @abc.abstractmethod
    def owed(self, run_id: str, caller: Caller, *, generation: str = "") -> Reply:
        """Write down what follows from the run's state, and give the caller the duties that it owns and those whose
        lease has lapsed. A sweeper is also given one share for anybody, if there is one.

        The word is `owing` if anything is owed, also to others; `clear` if not; `unknown` if there is no such run.
        Raises ForeignRun for a run of another application.
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
    def heard(self, tag: CallbackTag, caller: Caller) -> str:
        """Note that a callback's message has ended, and won't be attempted again. When the last one has, what callbacks
        may read of a succeeded run needn't stay. Returns `heard` or `unknown`."""

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

    # Looking

    @abc.abstractmethod
    def snapshot(self, run_id: str) -> Snapshot | None:
        """How the run stands at one moment; None if there is no such run. Of a stage that has nested runs, the first
        100 members that aren't settled are its `unsettled`."""

    @abc.abstractmethod
    def how_far(self, places: Sequence[Place]) -> Sequence[float]:
        """How far the runs nested at these places are, each by itself: 0.0 for one that hasn't started, or for a place
        where a job stands; 1.0 for one that has succeeded, also if it is gone since (see `status.part_done`)."""

    # The following methods take the run's `generation`, and find nothing of another one. Without it they first look up
    # the generation of the run that has the id.

    @abc.abstractmethod
    def generation(self, run_id: str) -> str | None:
        """The run's generation, which tells it from others that have had its id; None if there is no such run."""

    @abc.abstractmethod
    def spec(self, run_id: str, *, generation: str = "") -> bytes | None:
        """The run's encoded `Spec`, which never changes; None if there is no such run."""

    @abc.abstractmethod
    def context(self, run_id: str, *, generation: str = "") -> bytes | None:
        """The run's context as JSON; empty if it has none, and None if there is no such run."""

    @abc.abstractmethod
    def line(self, run_id: str, stage: int, *, generation: str = "") -> str | None:
        """The `StageLine` of a stage, as a string; None if there is none."""

    @abc.abstractmethod
    def lines(self, run_id: str, count: int, *, generation: str = "") -> Sequence[str]:
        """The lines of the first stages, so many of them; none if there is no such run."""

    @abc.abstractmethod
    def keeps(self, run_id: str, *, generation: str = "") -> bool:
        """Whether the results of all stages stay as long as the run, and not only as long as a stage may read them."""

    @abc.abstractmethod
    def rows(self, run_id: str, start: int, end: int, *, generation: str = "") -> Sequence[bytes]:
        """The rows `start` ≤ i < `end` of the run's plan; fewer if they are gone."""

    @abc.abstractmethod
    def items(self, run_id: str, stage: int, start: int, end: int, *, generation: str = "") -> Sequence[bytes]:
        """The items `start` ≤ i < `end` that `write_items` has written; fewer if they are gone."""

    @abc.abstractmethod
    def results(
        self, run_id: str, stage: int, start: int, end: int, *, generation: str = "", halted: bool = False
    ) -> Sequence[bytes | None]:
        """The fields of the members `start` ≤ i < `end`: `S` and the encoded result of one that has succeeded; another
        value for one that had an attempt without success; None for one that had no attempt (see
        `stored/formats.py`). Those of a cancelled run's present stage are `halted`: without that they aren't found."""

    @abc.abstractmethod
    def standing(
        self, run_id: str, stage: int, members: Sequence[int], *, generation: str = ""
    ) -> Sequence[Standing | None]:
        """How these members stand; None for one that has had no attempt."""

    @abc.abstractmethod
    def failures(self, run_id: str, stage: int, *, generation: str = "") -> Sequence[tuple[int, str]]:
        """The dead members of a stage, each with the details of its failure, in the order in which they were written.
        Of a stage that was over before the last one, only those that a status lists: a run keeps its first 100."""

    @abc.abstractmethod
    def nested(self, run_id: str, stage: int, members: Sequence[int], *, generation: str = "") -> Mapping[int, bytes]:
        """The plans that these members of a stage have nested, by member. Members that have nested none are left
        out."""

    @abc.abstractmethod
    def at_rest(self, run_ids: Sequence[str]) -> Sequence[bool]:
        """Whether each of these runs is at rest or gone. It is also true for a run of a newer format, because reading
        such a run raises the error that says so."""

    @abc.abstractmethod
    def occupants(self, run_ids: Sequence[str]) -> Sequence[Occupant | None]:
        """Who has each of these ids; None for an id that is free, or that a run is only kept from starting under."""

    # Hints

    @abc.abstractmethod
    def listen(self) -> Listener:
        """A new listener for the hints of all processes. It connects when its `hear` is first called."""

    @abc.abstractmethod
    def say(self, name: str) -> None:
        """Give a hint about a name to all who listen for it, so that they look at what it stands for. The transition
        that brings a run to rest gives a hint by itself. Hints may be lost, so this raises nothing if the store is
        away."""

    # The index

    @abc.abstractmethod
    def due(self, now: int, look_again_at: int, limit: int, *, application: str = "") -> Sequence[str]:
        """The ids of at most `limit` runs of the application that are due at `now`. They are put down for
        `look_again_at`, so that they are looked at again even if the caller dies."""

    @abc.abstractmethod
    def count_due(self, now: int, *, application: str = "") -> int:
        """How many runs of the application are due at `now`. This changes nothing."""

    @abc.abstractmethod
    def look_again(
        self, run_id: str, at: int | None, *, run_ttl: int, application: str = "", known: bool = False
    ) -> None:
        """Put a run down in the index, to be looked at `at` that time (UNIX milliseconds); None takes it out. With
        `known`, a run that isn't in the index stays out of it."""

    @abc.abstractmethod
    def forget(self, run_id: str, at: int, *, application: str = "") -> None:
        """Take a run out of the index, unless it is put down for another time than `at`: then somebody may be starting
        it."""

    # Workers

    @abc.abstractmethod
    def attend(self, worker: Attendance, until: int, now: int, *, application: str = "") -> None:
        """Write down that a worker of the application is there `until` that time (UNIX milliseconds); it isn't any
        more, if that is over. What is over of others is let go of."""

    @abc.abstractmethod
    def attending(self, now: int, *, application: str = "") -> Sequence[Attendance]:
        """The workers of the application that have told of themselves, and are still there as far as that goes."""
