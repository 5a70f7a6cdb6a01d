"""What is stored of a clutch: a plan, with its spec, stage lines and rows."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote

from dramatiq import Message

from ..about import Context
from ..errors import DamagedState
from .formats import FORMAT, MESSAGE, NESTED, pack, refuse_newer, unpack
from .messages import message_from
from .places import Place

#: The event of the callbacks that a Dramatiq group brings along. They take no status.
COMPLETION = "completion"

#: The events for which a clutch may have callbacks, in the order in which one transition fires them.
EVENTS = ("on_failure", "on_death", COMPLETION, "on_success", "on_failed", "on_finish")


@dataclass(frozen=True, slots=True)
class StageLine:
    """One stage, as the scripts see it: where its rows begin in the plan, how many members it has, how it was written.

    `offset` is the index of its first row in the plan, and `total` how many members it has; None for a mapped stage
    until it is opened. `many`: it was written with `parallel` or `map`, however many members it has. `mapped`: it was
    written with `map`. `tolerant`: any number of its members may die. `piped`: the result of the stage before is
    appended to its members' arguments. `nested`: some of its rows are runs. `limit`: how many members may be unsettled
    at a time. `into`: the name of the keyword argument that a piped result, or an item, is given as instead of being
    appended. `fail_fast`: the run fails at once when more members are dead than may be. `allowed`: how many may be; a
    float is a share of them. `enough`: how many successes complete the stage. `deadline`: how many milliseconds it may
    take, from when it begins, or the last retry. `wait`: for how many milliseconds it waits before it begins; and
    `start_at`, once it is released: when it begins (UNIX milliseconds), if that is later. `name`: how the user has
    named it; in the line it is percent-encoded. `unknown_flags` and `unknown_words`: what a newer release of the same
    format has added, which is kept.

    For example, `0 3 pm 20 into=page name=fetch%20all` is ``StageLine(0, 3, many=True, mapped=True, limit=20,
    into="page", name="fetch all")``, and `0 1 - 0 wait=5000 from=1700000005000` is a stage that was released at
    1700000000000.
    """

    offset: int
    total: int | None
    many: bool = False
    mapped: bool = False
    tolerant: bool = False
    piped: bool = False
    nested: bool = False
    limit: int | None = None
    into: str | None = None
    fail_fast: bool = False
    allowed: int | float | None = None
    enough: int | None = None
    deadline: int | None = None
    wait: int | None = None
    start_at: int | None = None
    name: str | None = None
    unknown_flags: str = ""
    unknown_words: tuple[str, ...] = ()

    def __str__(self) -> str:
        total = "?" if self.total is None else self.total
        flags = "".join(letter for letter, name in _FLAGS.items() if getattr(self, name)) + self.unknown_flags
        said = ((word, write, getattr(self, name)) for word, (name, _, write) in _WORDS.items())
        words = (*(f"{word}={write(value)}" for word, write, value in said if value is not None), *self.unknown_words)
        limit = (str(self.limit or 0),) if self.limit or words else ()
        return " ".join((str(self.offset), str(total), flags or "-", *limit, *words))

    @property
    def batch(self) -> int:
        """After how many successes it is worth looking whether more members may be sent; 0 without a limit.

        It is a tenth of the limit, so that few places are idle and looks are rare; and 1 if the limit is below 20.
        """
        return max(1, self.limit // 10) if self.limit else 0

    @property
    def lacks_results(self) -> bool:
        """Whether it may be complete although some of its members have no result."""
        return self.tolerant or self.allowed is not None or self.enough is not None

    @property
    def most_dead(self) -> int:
        """How many of its members may die, as `terms.lua` says."""
        total = self.total or 0
        if self.enough is not None:
            return max(total - self.enough, 0)
        if self.tolerant:
            return total
        allowed = self.allowed or 0
        return math.floor(allowed * total + 1e-9) if allowed < 1 else int(allowed)

    @property
    def wary(self) -> bool:
        """Whether its members may not be wanted any more at any moment, so that a worker asks before each job."""
        return self.fail_fast or self.exact or self.deadline is not None

    @property
    def exact(self) -> bool:
        """Whether it is complete with a certain success, however many come. Then each is recorded by the whole
        transition, which looks whether the stage is over."""
        return self.enough is not None

    @classmethod
    def parse(cls, line: str) -> StageLine:
        """The opposite of `str()`. Raises DamagedState for a line that `str()` didn't write."""
        return _parsed(line)


def _number(text: str) -> int | float:
    return int(text) if text.isdecimal() else float(text)


#: The flags of a stage line, and the words such as `into=page`: each with its field, and words with what reads and what
#: writes a value.
_FLAGS = {"p": "many", "m": "mapped", "t": "tolerant", "i": "piped", "r": "nested", "f": "fail_fast"}
_WORDS: dict[str, tuple[str, Callable[[str], Any], Callable[[Any], str]]] = {
    "into": ("into", str, str),
    "allow": ("allowed", _number, str),
    "enough": ("enough", int, str),
    "deadline": ("deadline", int, str),
    "wait": ("wait", int, str),
    "from": ("start_at", int, str),
    "name": ("name", unquote, quote),
}


@lru_cache(maxsize=64)
def _parsed(line: str) -> StageLine:
    """It is cached, because the line of each stage of a series is read when its job is sent, and again for the next."""
    try:
        offset, total, flags, *words = line.split(" ")
        known: dict[str, Any] = {name: letter in flags for letter, name in _FLAGS.items()}
        unknown = "".join(letter for letter in flags if letter not in _FLAGS and letter != "-")
        limit = int(words[0]) or None if words else None
        size = None if total == "?" else int(total)
        said: dict[str, Any] = {}
        rest = list[str]()
        for word in words[1:]:
            key, is_known, value = word.partition("=")
            if is_known and key in _WORDS:
                name, read, _ = _WORDS[key]
                said[name] = read(value)
            else:
                rest.append(word)
        given = {**known, **said, "limit": limit}
        return StageLine(int(offset), size, **given, unknown_flags=unknown, unknown_words=tuple(rest))
    except ValueError:
        raise DamagedState(f"the plan's stage {line!r} can't be read") from None


@dataclass(frozen=True, slots=True)
class Spec:
    """What holds for all stages of a run. The scripts don't look into it.

    `item`: in a run that is a member of a mapped stage, the encoded item that it was made for, which its first stage
    sees as previous result; in a run that isn't nested, its encoded `args`. `inherits`: the first stage of this nested
    run sees what its parent's stage sees. `yields` and `own` are for a wrapper, which has the runs that a job nested:
    `yields` says which of their results make the job's result (one position, or several for a list); if it is None,
    `own` is the encoded result of the job. `context`: in the plan of a nested run, its own one, which is laid over that
    of its parent when it starts. In the spec of a run it is empty if the run has one, which is kept beside the spec,
    and None if it has none. `generation` tells the run from others that have had its id. `deadline`: how many
    milliseconds the run may take, from its start or the last retry. `carried`: options that all messages of the run
    carry; in the plan of a nested run its own ones, which are laid over those of its parent when it starts, and None if
    there are none. `timed`: it is kept when each member is at work. `unknown` are the fields that a newer release of
    the same format has added, which are kept.
    """

    name: str | None = None
    queue: str | None = None
    start_at: int | None = None  # UNIX milliseconds, before which no job is to work
    callbacks: dict[str, tuple[bytes, ...]] = field(default_factory=dict)  # event → encoded messages
    parent: Place | None = None
    inherits: bool = False
    item: bytes | None = None
    yields: int | tuple[int, ...] | None = None
    own: bytes | None = None
    context: Context | None = None
    generation: str = ""
    deadline: int | None = None
    carried: Context | None = None
    timed: bool = False
    unknown: dict[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        place = self.parent
        parent = place and [place.run_id, place.stage, place.member, place.epoch, place.generation]
        about = {
            **self.unknown,
            "v": FORMAT,
            "generation": self.generation,
            "name": self.name,
            "queue": self.queue,
            "start_at": self.start_at,
            "callbacks": [[event, len(self.callbacks[event])] for event in sorted(self.callbacks)],
            "parent": parent,
            "inherits": self.inherits,
            "yields": self.yields,
            "blobs": [self.item is not None, self.own is not None],
            **({} if self.context is None else {"context": dict(self.context)}),
            **({} if self.deadline is None else {"deadline": self.deadline}),
            **({"carried": dict(self.carried)} if self.carried else {}),
            **({"timed": True} if self.timed else {}),
        }
        blobs = [row for event in sorted(self.callbacks) for row in self.callbacks[event]]
        return pack([json.dumps(about).encode(), *blobs, *(blob for blob in (self.item, self.own) if blob is not None)])

    @classmethod
    def from_bytes(cls, data: bytes) -> Spec:
        """The opposite of `to_bytes`. Raises DamagedState for bytes that it didn't write, and NewerRelease for those
        that a newer release has written."""
        try:
            head, *blobs = unpack(data)
            about = json.loads(head)
            refuse_newer(about["v"], "the run's plan")
            left = iter(blobs)
            callbacks = {event: tuple(next(left) for _ in range(count)) for event, count in about["callbacks"]}
            item, own = (next(left) if there else None for there in about["blobs"])
            yields, context, carried = about["yields"], about.get("context"), about.get("carried")
            return cls(
                about["name"],
                about["queue"],
                about["start_at"],
                callbacks,
                parent=about["parent"] and Place(*about["parent"]),
                inherits=about["inherits"],
                item=item,
                yields=tuple(yields) if isinstance(yields, list) else yields,
                own=own,
                context=None if context is None else Context.given(context, "the context"),
                generation=about["generation"],
                deadline=about.get("deadline"),
                carried=None if carried is None else Context.given(carried, "what its messages carry"),
                timed=bool(about.get("timed")),
                unknown={name: value for name, value in about.items() if name not in _SPEC_FIELDS},
            )
        except (ValueError, KeyError, TypeError, RuntimeError, struct.error) as error:
            raise DamagedState(f"the run's plan can't be read: {error!r}") from error


_SPEC_FIELDS = frozenset(
    (
        *("v", "generation", "name", "queue", "start_at", "callbacks", "parent", "inherits", "yields", "blobs"),
        *("context", "deadline", "carried", "timed"),
    )
)


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole clutch, ready to be stored: its spec, a line for each stage, and the rows of all stages in order."""

    spec: Spec
    lines: tuple[StageLine, ...]
    rows: tuple[bytes, ...]

    @property
    def soonest(self) -> int | None:
        """The shortest of its deadlines, in milliseconds: those of the run and of its stages. None without any."""
        known = (self.spec.deadline, *(line.deadline for line in self.lines))
        return min((deadline for deadline in known if deadline is not None), default=None)

    def to_bytes(self) -> bytes:
        return pack([self.spec.to_bytes(), "\n".join(map(str, self.lines)).encode(), *self.rows])

    @classmethod
    def from_bytes(cls, data: bytes) -> Plan:
        """The opposite of `to_bytes`. Raises DamagedState for bytes that it didn't write."""
        try:
            spec, lines, *rows = unpack(data)
            parsed = tuple(StageLine.parse(line) for line in lines.decode().split("\n") if line)
        except (ValueError, struct.error) as error:
            raise DamagedState(f"the plan of a nested run can't be read: {error!r}") from error
        return cls(Spec.from_bytes(spec), parsed, tuple(rows))

    def to_row(self) -> bytes:
        """The plan as a row of another plan, in which it is a member."""
        return NESTED + self.to_bytes()

    def at(self, place: Place) -> Plan:
        """The same plan for the nested run at this place: with the place as its parent, and with its generation."""
        return replace(self, spec=replace(self.spec, parent=place, generation=place.child_generation))


def stage_in(lines: Sequence[StageLine], stage: int | str) -> int:
    """The index of the stage that has this index or name. Raises ValueError if there is none among these."""
    names = [line.name for line in lines]
    if isinstance(stage, str) and stage in names:
        return names.index(stage)
    if type(stage) is int and 0 <= stage < len(lines):
        return stage
    known = ", ".join(f"{index} ({name!r})" if name else str(index) for index, name in enumerate(names))
    raise ValueError(f"there is no stage {stage!r} here, but these: {known or 'none'}")


def count_rows(lines: Sequence[StageLine]) -> int:
    """How many rows the stages of a plan have. A mapped stage has one, its template."""
    return lines[-1].offset + (1 if lines[-1].mapped else lines[-1].total or 0) if lines else 0


def from_row(row: bytes) -> Message[Any] | Plan:
    """The message or the plan that a row holds. Raises DamagedState for a row that holds neither."""
    kind, data = row[:1], row[1:]
    if kind == NESTED:
        return Plan.from_bytes(data)
    if kind != MESSAGE:
        raise DamagedState(f"a stored row is neither a message nor a plan: {row[:20]!r}")
    return message_from(row)
