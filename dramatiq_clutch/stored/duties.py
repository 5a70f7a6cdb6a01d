"""What a transition obliges its caller to do: one class a kind of duty, and the one place that writes and reads ids.

A duty stands in its run's outbox under its id, which the scripts write, too:

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

The id is all that tells one duty of a run from another. The rest comes along when a caller is given the duty.
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

    Confirming a duty names its `id` and the `lease` under which it was given. `cursor` says how far whoever had it
    before has come: the first member that isn't sent yet; of a `SendAgain`, how many times it has sent members.
    `repeated` says that the duty was handed out before, so that messages may be second copies. `generation` is the
    run's.
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
    """A duty that concerns a `stage`; `line` is its `StageLine`, as it is stored."""

    stage: int
    line: str = field(default="", kw_only=True)


@dataclass(frozen=True, slots=True)
class SendMembers(OfStage):
    """Send, or start, the members `start` ≤ i < `end`, from `cursor` on. The first `leaders` of them own the shares
    that follow, and send those as soon as they are at work.

    What that needs may come along, to save reading it: the encoded `spec`, the `rows`, and `previous`, the result of a
    stage of one (its line, and the field of its member). So may `ahead`, the duty that follows, where one job comes
    after another.
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


@dataclass(frozen=True, slots=True)
class OpenStage(OfStage):
    """Find out how many members a stage has that is empty or mapped, and say so."""

    WORD: ClassVar[str] = "open"

    @property
    def id(self) -> str:
        return f"{self.WORD}:{self.stage}"


@dataclass(frozen=True, slots=True)
class StartNested(OfStage):
    """Start the runs that a job has nested, which is this `member`."""

    WORD: ClassVar[str] = "start"

    member: int

    @property
    def id(self) -> str:
        return f"{self.WORD}:{self.stage}:{self.member}"


@dataclass(frozen=True, slots=True)
class SendAgain(OfStage):
    """Send again what waits for that since a `retry()`, some at a time, as the store's `reopen` gives it. `number`
    counts a run's duties of this kind; `epoch` is the one that the retry has begun."""

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
    """Send the members that aren't settled once more: somebody has asked for it by hand."""

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
    """Say to the parent how the run stands, which is in the `snapshot`. Of two words the one with the higher `revision`
    is the newer."""

    WORD: ClassVar[str] = "tell"

    revision: int
    snapshot: Snapshot | None = field(default=None, kw_only=True)

    @property
    def id(self) -> str:
        return f"{self.WORD}:{self.revision}"


@dataclass(frozen=True, slots=True)
class CallBack(OfStage):
    """Send the callbacks for an `event`, with the `snapshot` of its moment. `number` counts those of a run."""

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
    """A duty of a kind that this release doesn't know: it is left to a newer one."""

    unread: str

    @property
    def kind(self) -> str:
        return self.unread.split(":")[0]

    @property
    def id(self) -> str:
        return self.unread


#: Every duty that there is; a `match` over them that leaves one out is an error of types.
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
    """The duty that an id names, with what comes along with it; `more` is what only some kinds have. A `line` is left
    out where it is none of the duty's. Raises DamagedState for an id that no release writes."""
    kind, *numbers = id.split(":")
    reader = _READERS.get(kind)
    if reader is None:
        return Unknown(id, lease=lease, cursor=cursor, repeated=repeated, generation=generation)
    if reader is not Tell:
        more["line"] = line
    try:
        duty = reader(*map(int, numbers), lease=lease, cursor=cursor, repeated=repeated, generation=generation, **more)
    except (ValueError, TypeError) as error:  # something is no number; there are too many of them, or too few
        raise DamagedState(f"the duty {id!r} can't be read: {error}") from error
    if "-" in id or duty.id != id:
        raise DamagedState(f"the duty {id!r} can't be read: no release writes it so")
    return duty


def _call_back(event: str, stage: int, number: int, **along: Any) -> CallBack:
    return CallBack(stage, event, number, **along)


_READERS: Mapping[str, Callable[..., Duty]] = {
    **{kind.WORD: kind for kind in KINDS},
    **{event: partial(_call_back, event) for event in EVENTS},
}
