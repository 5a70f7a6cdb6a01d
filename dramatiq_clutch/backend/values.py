"""What a store is told, and what it answers: values that know no store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from ..news import News
from ..stored.duties import Duty, SendMembers
from ..stored.entries import Turn
from ..stored.places import Tag

#: How an attempt ended, or how a nested run tells that it stands. Only a nested run tells `working`: it is at work, and
#: hasn't told that it is failing since it began or was retried.
Ending = Literal["succeeded", "working", "attempted", "failing", "dead"]

#: What became of a record. It `counts`; or it changed nothing, because the member has succeeded already (`duplicate`),
#: because a newer attempt is recorded or another member has its place (`stale`), because its stage is over, or its run
#: has succeeded or was cancelled (`over`), because the stage has no such member (`refused`), or because there is no
#: such run (`unknown`).
RecordWord = Literal["counts", "duplicate", "stale", "over", "refused", "unknown"]

#: Whether to run a job. `go` means yes. The job isn't wanted if its member has succeeded (`done`), if its stage is
#: over, its run has succeeded, was cancelled or has broken off, or a deadline is over (`over`), or if there is no such
#: run or no such place in it (`unknown`).
GuardWord = Literal["go", "done", "over", "unknown"]

#: What else a reply says of the run. `ends`: it has succeeded and owes nothing more, and nothing will work under its
#: id. `rests`: it is at rest otherwise, and owes nothing more until somebody retries it, or runs a clutch under its id.
#: `wakes`: it was at rest, and works or owes something again. `more`: there are shares for anybody that the caller
#: wasn't given.
Note = Literal["", "ends", "rests", "wakes", "more"]

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
    have been told. `deferred`: the record isn't made yet, and the answer is what it will most likely come to.
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
    deferred: bool = False

    @property
    def asks_for_nothing(self) -> bool:
        """Whether nothing has to be done, or to be told to anybody, because of it."""
        return not (self.duties or self.note or self.news or self.by or self.turn or self.kept)


class Caller(NamedTuple):
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


class Record(NamedTuple):
    """How one attempt of a job ended, or how a nested run (`of_run`) stands.

    `tag`: the place of the job or nested run. `attempt`: its number, or the revision of what a nested run tells; LAST
    records that a nested run is gone, in the present epoch; of a job it is an attempt like any other. `payload`: the
    encoded result, or the failure's details (`failures.failure_details`). `nested`: the plan of the wrapper of all runs
    that a succeeded job has nested, which takes the job's place. `due`: when the next attempt comes, in UNIX
    milliseconds, or 0 if none does. `began`: when the attempt began to work, or the nested run was started, by the
    clock of `now()`; 0 if that isn't known. The first record of a stage says when the stage began. `worker`: the name
    of the worker; it is kept if the job is `timed`.
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
