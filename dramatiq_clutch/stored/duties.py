"""The duties that transitions owe: one class for each kind, and the only place in Python that writes and reads their
ids.

A duty is in its run's outbox under its id. The scripts write these ids, too:

    id       = kind *( ":" number )
    number   = decimal digits, without a sign and without leading zeros

    send:STAGE:START:END[:LEADERS]    SendMembers     send:1:0:500:7
    open:STAGE                        OpenStage       open:2
    start:STAGE:MEMBER                StartNested     start:0:3
    retry:STAGE:NUMBER:EPOCH          SendAgain       retry:0:1:3
    resume:STAGE:START:END:EPOCH      Resume          resume:0:0:20:3
    resend:STAGE:START:END:EPOCH      Resend          resend:0:0:20:3
    revive:STAGE:START:END:EPOCH      Revive          revive:0:0:20:3
    halt:STAGE:START:END:EPOCH        Halt            halt:0:0:20:3
    tell:REVISION                     Tell            tell:3
    EVENT:STAGE:NUMBER                CallBack        on_death:0:4

The id identifies a duty within its run. Everything else comes along when a caller is given the duty.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, TypeAlias

from ..errors import DamagedState
from .formats import Snapshot
from .plan import EVENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Owed:
    """What comes along with every duty.

    `lease`: the token under which it was given, which is needed to confirm it. `cursor`: how far a former holder has
    come, as the first member that isn't sent yet; of a `SendAgain`, as how many times members were sent. `repeated`:
    the duty was given to somebody before, so its messages may be second copies. `generation`: the run's.
    """

    WORD: ClassVar[str]

    lease: str = ""
    cursor: int = 0
    repeated: bool = False
    generation: str = ""

    @property
    def kind(self) -> str:
        """The first word of the id."""
        return self.WORD

    @property
    def id(self) -> str:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class OfStage(Owed):
    """A duty that concerns a `stage`; `line` is the `StageLine` of that stage, as it is stored."""

    stage: int
    line: str = field(default="", kw_only=True)


@dataclass(frozen=True, slots=True)
class SendMembers(OfStage):
    """Send or start the members `start` ≤ i < `end`, from `cursor` on. The first `leaders` of them own the shares that
    follow, and send these as soon as they are at work.

    Four fields may come along, to save reading what they hold. `spec`: the encoded spec. `rows`: the members' rows.
    `previous`: the line of the stage before, and the field of its only member. `ahead`: the duty that will follow, if
    this stage and the next one have one job each.
    """

    WORD: ClassVar[str] = "send"

    start: int
    end: int
    leaders: int = 0
    spec: bytes = field(default=b"", kw_only=True)
    rows: tuple[bytes, ...] = field(default=(), kw_only=True)
    previous: tuple[str, bytes] | None = field(default=None, kw_only=True)
    ahead: SendMembers | None = field(default=None, kw_only=True)

    @property
    def id(self) -> str:
        known = f"{self.WORD}:{self.stage}:{self.start}:{self.end}"
        return f"{known}:{self.leaders}" if self.leaders else known

    def before(self, ahead: SendMembers | None) -> SendMembers:
        """This duty, with that one `ahead` of it. `dataclasses.replace` does it, too, but takes three times as long for
        each job of a series."""
        return SendMembers(
            self.stage,
            self.start,
            self.end,
            self.leaders,
            line=self.line,
            spec=self.spec,
            rows=self.rows,
            previous=self.previous,
            ahead=ahead,
            lease=self.lease,
            cursor=self.cursor,
            repeated=self.repeated,
            generation=self.generation,
        )


@dataclass(frozen=True, slots=True)
class OpenStage(OfStage):
    """Find out how many members a stage has that is empty or mapped, and store that."""

    WORD: ClassVar[str] = "open"

    @property
    def id(self) -> str:
        return f"{self.WORD}:{self.stage}"


@dataclass(frozen=True, slots=True)
class StartNested(OfStage):
    """Start the runs that a job, which is this `member`, has nested. `epoch` is that in which the duty is given; it
    isn't part of the id."""

    WORD: ClassVar[str] = "start"

    member: int
    epoch: int = field(default=0, kw_only=True)

    @property
    def id(self) -> str:
        return f"{self.WORD}:{self.stage}:{self.member}"


@dataclass(frozen=True, slots=True)
class SendAgain(OfStage):
    """Send the members again that wait for it since a `retry()`; the store's `reopen` gives some of them at a time.
    `number` counts a run's duties of this kind; `epoch` is the epoch that the retry has begun."""

    WORD: ClassVar[str] = "retry"

    number: int
    epoch: int

    @property
    def id(self) -> str:
        return f"{self.WORD}:{self.stage}:{self.number}:{self.epoch}"


@dataclass(frozen=True, slots=True)
class OfRange(OfStage):
    """A duty that concerns the members `start` ≤ i < `end`, in an `epoch`."""

    start: int
    end: int
    epoch: int

    @property
    def id(self) -> str:
        return f"{self.WORD}:{self.stage}:{self.start}:{self.end}:{self.epoch}"


@dataclass(frozen=True, slots=True)
class Resume(OfRange):
    """Send the members that had had no attempt when their run was cancelled."""

    WORD: ClassVar[str] = "resume"


@dataclass(frozen=True, slots=True)
class Resend(OfRange):
    """Send all unsettled members again, because somebody has called `resend()`."""

    WORD: ClassVar[str] = "resend"


@dataclass(frozen=True, slots=True)
class Revive(OfRange):
    """Have the nested runs among these members retry."""

    WORD: ClassVar[str] = "revive"


@dataclass(frozen=True, slots=True)
class Halt(OfRange):
    """Cancel the nested runs among these members."""

    WORD: ClassVar[str] = "halt"


@dataclass(frozen=True, slots=True)
class Tell(Owed):
    """Tell the parent how the run stands; `snapshot` has it. What is told with a higher `revision` is newer."""

    WORD: ClassVar[str] = "tell"

    revision: int
    snapshot: Snapshot | None = field(default=None, kw_only=True)

    @property
    def id(self) -> str:
        return f"{self.WORD}:{self.revision}"


@dataclass(frozen=True, slots=True)
class CallBack(OfStage):
    """Send the callbacks for an `event`, with the `snapshot` of the run at that moment. `number` counts a run's duties
    of this kind."""

    event: str
    number: int
    snapshot: Snapshot | None = field(default=None, kw_only=True)

    @property
    def kind(self) -> str:
        return self.event

    @property
    def id(self) -> str:
        return f"{self.event}:{self.stage}:{self.number}"


@dataclass(frozen=True, slots=True)
class Unknown(Owed):
    """A duty of a kind that this release doesn't know. It is left to a newer release."""

    unread: str

    @property
    def kind(self) -> str:
        return self.unread.split(":")[0]

    @property
    def id(self) -> str:
        return self.unread


#: Every kind of duty. mypy reports a `match` that leaves one out.
Duty: TypeAlias = (
    SendMembers | OpenStage | StartNested | SendAgain | Resume | Resend | Revive | Halt | Tell | CallBack | Unknown
)

#: The duties whose ids begin with a word of their own.
KINDS: tuple[type[Duty], ...] = (
    SendMembers,
    OpenStage,
    StartNested,
    SendAgain,
    Resume,
    Resend,
    Revive,
    Halt,
    Tell,
)


def parse(
    id: str,  # noqa: A002
    *,
    lease: str = "",
    cursor: int = 0,
    repeated: bool = False,
    generation: str = "",
    line: str = "",
    **more: Any,
) -> Duty:
    """The duty that an id names, with what comes along with it. `more` has the fields that only some kinds have; `line`
    is ignored for a kind that concerns no stage. Raises DamagedState for an id that no release writes."""
    kind, *numbers = id.split(":")
    reader = _READERS.get(kind)
    if reader is None:
        return Unknown(id, lease=lease, cursor=cursor, repeated=repeated, generation=generation)
    if reader is not Tell:
        more["line"] = line
    try:
        duty = reader(*map(int, numbers), lease=lease, cursor=cursor, repeated=repeated, generation=generation, **more)
    except (ValueError, TypeError) as error:  # a part isn't a number, or there are too many or too few of them
        raise DamagedState(f"the duty {id!r} can't be read: {error}") from error
    if "-" in id or duty.id != id:
        raise DamagedState(f"the duty {id!r} can't be read: no release writes such an id")
    return duty


def _call_back(event: str, stage: int, number: int, **along: Any) -> CallBack:
    return CallBack(stage, event, number, **along)


_READERS: Mapping[str, Callable[..., Duty]] = {
    **{kind.WORD: kind for kind in KINDS},
    **{event: partial(_call_back, event) for event in EVENTS},
}
