"""What is stored of a clutch: frozen values, to and from bytes. No I/O."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dramatiq import Message, get_encoder

from .errors import DamagedState

#: The version of the stored format. A worker refuses a plan that is newer than itself, with a clear error.
FORMAT = 1

#: The option under which a message carries its `Tag`.
OPTION = "clutch"

#: What that option is in a callback's message.
CALLBACK = "callback"

#: The callbacks of a clutch, in the order in which one transition fires them.
EVENTS = ("on_failure", "on_death", "completion", "on_success", "on_finish")

#: What a row of a plan begins with: it holds a message, or the plan of a nested run.
MESSAGE, NESTED = b"m", b"r"

#: Between a run's id and the place of a run nested in it. An id that a user gives can't contain it.
BELOW = "~"


@dataclass(frozen=True, slots=True)
class StageLine:
    """One stage, as the scripts see it: where its rows begin in the plan, how many members it has, how it was written.

    `total` is None for a mapped stage until it is opened. `many` says that it was written with `parallel` or `map`,
    never how many members it happens to have. A `tolerant` stage allows failures, a `piped` one appends the result of
    the stage before, `nested` says that some of its rows are runs. No more than `limit` members are to be on their way
    at a time.
    """

    offset: int
    total: int | None
    many: bool = False
    mapped: bool = False
    tolerant: bool = False
    piped: bool = False
    nested: bool = False
    limit: int | None = None

    def __str__(self) -> str:
        total = "?" if self.total is None else self.total
        flags = "".join(letter for letter, name in _FLAGS.items() if getattr(self, name))
        return f"{self.offset} {total} {flags or '-'}" + (f" {self.limit}" if self.limit else "")

    @property
    def batch(self) -> int:
        """How many attempts make it worth while to look for members that may be sent now; 0 without a limit.

        A tenth of the limit, so that little is idle and a look is rare; each attempt of a stage that is kept small.
        """
        return max(1, self.limit // 10) if self.limit else 0

    @classmethod
    def parse(cls, line: str) -> StageLine:
        """Raises DamagedState for a line that `str()` didn't write."""
        try:
            offset, total, flags, *limit = line.split(" ")
            known = {name: letter in flags for letter, name in _FLAGS.items()}
            (most,) = map(int, limit) if limit else (None,)
            return cls(int(offset), None if total == "?" else int(total), **known, limit=most)
        except ValueError:
            raise DamagedState(f"the plan's stage {line!r} can't be read") from None


_FLAGS = {"p": "many", "m": "mapped", "t": "tolerant", "i": "piped", "r": "nested"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a nested run stands: it is this member of its parent. `epoch` is the parent's when it was started."""

    run_id: str
    stage: int
    member: int
    epoch: int = 0

    @property
    def child_id(self) -> str:
        """The id of the run that stands there: derived, so that starting it twice makes one."""
        return f"{self.run_id}{BELOW}{self.stage}.{self.member}"

    @classmethod
    def of_child(cls, run_id: str) -> Place | None:
        """The place that a nested run's id names; None for the id of another run."""
        parent, _, place = run_id.rpartition(BELOW)
        stage, _, member = place.partition(".")
        return cls(parent, int(stage), int(member)) if parent and stage.isdecimal() and member.isdecimal() else None


@dataclass(frozen=True, slots=True)
class Spec:
    """What holds for all stages of a run. Opaque to the scripts.

    `given` is what a mapped run was made for, encoded: its first stage finds it in place of the previous results, which
    a run that `inherits` finds. `yields` is for the runs that a job nested: which of them make the job's result (their
    positions in a list, or one position), else `own` is that result.
    """

    name: str | None = None
    queue: str | None = None
    start_at: int | None = None  # UNIX milliseconds: nothing is to work before
    callbacks: dict[str, tuple[bytes, ...]] = field(default_factory=dict)  # event → encoded messages
    parent: Place | None = None
    inherits: bool = False
    given: bytes | None = None
    yields: int | tuple[int, ...] | None = None
    own: bytes | None = None

    def to_bytes(self) -> bytes:
        parent = self.parent and [self.parent.run_id, self.parent.stage, self.parent.member, self.parent.epoch]
        about = {
            "v": FORMAT,
            "name": self.name,
            "queue": self.queue,
            "start_at": self.start_at,
            "callbacks": [[event, len(self.callbacks[event])] for event in sorted(self.callbacks)],
            "parent": parent,
            "inherits": self.inherits,
            "yields": self.yields,
            "blobs": [self.given is not None, self.own is not None],
        }
        blobs = [row for event in sorted(self.callbacks) for row in self.callbacks[event]]
        return pack(
            [json.dumps(about).encode(), *blobs, *(blob for blob in (self.given, self.own) if blob is not None)]
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Spec:
        """Raises DamagedState for bytes of another format, or of none."""
        try:
            head, *blobs = unpack(data)
            about = json.loads(head)
            if about["v"] != FORMAT:
                raise DamagedState(
                    f"the run's plan has format {about['v']!r}, this dramatiq-clutch reads {FORMAT}: "
                    "let workers of the release that wrote it finish the run"
                )
            left = iter(blobs)
            callbacks = {event: tuple(next(left) for _ in range(count)) for event, count in about["callbacks"]}
            given, own = (next(left) if there else None for there in about["blobs"])
            yields = about["yields"]
            return cls(
                about["name"],
                about["queue"],
                about["start_at"],
                callbacks,
                parent=about["parent"] and Place(*about["parent"]),
                inherits=about["inherits"],
                given=given,
                yields=tuple(yields) if isinstance(yields, list) else yields,
                own=own,
            )
        except (ValueError, KeyError, TypeError, RuntimeError, struct.error) as error:
            raise DamagedState(f"the run's plan can't be read: {error!r}") from error


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole clutch, ready to be stored: its spec, a line for each stage, and the rows of all stages in order."""

    spec: Spec
    lines: tuple[StageLine, ...]
    rows: tuple[bytes, ...]

    def to_bytes(self) -> bytes:
        return pack([self.spec.to_bytes(), "\n".join(map(str, self.lines)).encode(), *self.rows])

    @classmethod
    def from_bytes(cls, data: bytes) -> Plan:
        """Raises DamagedState for what `to_bytes` didn't write."""
        try:
            spec, lines, *rows = unpack(data)
            parsed = tuple(StageLine.parse(line) for line in lines.decode().split("\n") if line)
        except (ValueError, struct.error) as error:
            raise DamagedState(f"the plan of a nested run can't be read: {error!r}") from error
        return cls(Spec.from_bytes(spec), parsed, tuple(rows))

    def to_row(self) -> bytes:
        """The plan as a member of another one."""
        return NESTED + self.to_bytes()

    def at(self, place: Place) -> Plan:
        """The same plan, for the run that stands there."""
        return replace(self, spec=replace(self.spec, parent=place))


def rows_of(lines: Sequence[StageLine]) -> int:
    """How many rows the stages of a plan have; a mapped one has its template."""
    return lines[-1].offset + (1 if lines[-1].mapped else lines[-1].total or 0) if lines else 0


class Fingerprint:
    """What tells two clutches apart that are run under one id. A delay is none of it."""

    def __init__(self) -> None:
        self._rows = hashlib.sha256()

    def add(self, rows: Sequence[bytes]) -> None:
        """The next rows of the plan."""
        self._rows.update(pack(rows))

    def of(self, spec: Spec, lines: Sequence[StageLine]) -> str:
        timeless = pack([replace(spec, start_at=None).to_bytes(), *(str(line).encode() for line in lines)])
        return hashlib.sha256(timeless + self._rows.digest()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Tag:
    """What a job's message says of its place: member `member` of the `of` members of a stage of a run.

    `again` marks a message that may be a second copy, so that its worker asks before it runs it. One that `leads` has
    a share of its stage's release to do. `batch` is its stage's.
    """

    run_id: str
    stage: int
    member: int
    of: int
    epoch: int = 0
    again: bool = False
    leads: bool = False
    batch: int = 0

    @property
    def message_id(self) -> str:
        """The id of the job's message: derived, so that a second copy is known."""
        return f"{self.run_id}/{self.stage}.{self.member}"

    @property
    def owner(self) -> str:
        """Who owns the duties that this job's record causes."""
        return f"{self.stage}.{self.member}"

    def to_option(self) -> dict[str, Any]:
        option: dict[str, Any] = {"run": self.run_id, "stage": self.stage, "member": self.member, "of": self.of}
        for name in ("epoch", "again", "leads", "batch"):
            if value := getattr(self, name):
                option[name] = value
        return option

    @classmethod
    def from_option(cls, option: Any) -> Tag:
        """Raises DamagedState unless the option is one that `to_option` could have written."""
        if not isinstance(option, dict) or not isinstance(option.get("run"), str) or not option["run"]:
            raise DamagedState(f"a message's option {OPTION}={option!r} names no run")
        numbers: list[Any] = [option.get(name) for name in ("stage", "member", "of")]
        numbers += [option.get(name, 0) for name in ("epoch", "batch")]
        if any(type(number) is not int or not 0 <= number < 2**31 for number in numbers):
            raise DamagedState(f"a message's option {OPTION}={option!r} names no place in a run")
        stage, member, of, epoch, batch = numbers
        if member >= of:
            raise DamagedState(f"a message's option {OPTION}={option!r} names a member beyond the end of its stage")
        again, leads = bool(option.get("again")), bool(option.get("leads"))
        return cls(option["run"], stage, member, of, epoch, again, leads, batch)


def to_row(message: Message[Any]) -> bytes:
    """A message as Dramatiq's encoder writes it, without what is given when it is sent: id and timestamp."""
    return MESSAGE + get_encoder().encode({**vars(message), "message_id": "", "message_timestamp": 0})


def changed(message: Message[Any], **fields: Any) -> Message[Any]:
    """`message.copy(**fields)`, but that `options` are the new ones, whole; at a third of its cost."""
    return Message(**{**vars(message), **fields})


def from_row(row: bytes) -> Message[Any] | Plan:
    """Raises DamagedState for a row that holds neither a message nor a plan."""
    kind, data = row[:1], row[1:]
    if kind == NESTED:
        return Plan.from_bytes(data)
    if kind != MESSAGE:
        raise DamagedState(f"a stored row is neither a message nor a plan: {row[:20]!r}")
    return message_from(row)


def message_from(row: bytes) -> Message[Any]:
    """Raises DamagedState for a row that holds no message."""
    try:
        return Message.decode(row.removeprefix(MESSAGE))
    except Exception as error:  # DecodeError since 1.12; a foreign encoder may raise anything
        raise DamagedState(f"a stored message can't be decoded: {error}") from error


def pack(blobs: Sequence[bytes]) -> bytes:
    """Several byte strings as one, each after its length."""
    return b"".join(struct.pack(">I", len(blob)) + blob for blob in blobs)


def unpack(data: bytes) -> list[bytes]:
    """The opposite of `pack`. Raises ValueError or struct.error for what `pack` didn't write."""
    blobs, at = [], 0
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        at += 4
        if at + size > len(data):
            raise ValueError("it is truncated")
        blobs.append(data[at : at + size])
        at += size
    if not blobs:
        raise ValueError("it is empty")
    return blobs
