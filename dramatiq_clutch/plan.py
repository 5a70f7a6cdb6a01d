"""What is stored of a clutch: frozen values, to and from bytes. No I/O."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import Any

from dramatiq import Message

from .errors import DamagedState

#: The version of the stored format. A worker refuses a plan that is newer than itself, with a clear error.
FORMAT = 1

#: The option under which a message carries its `Tag`.
OPTION = "clutch"


@dataclass(frozen=True, slots=True)
class StageLine:
    """One stage, as the scripts see it: where its rows begin in the plan and how many members it has.

    `total` is None for a mapped stage until it is opened. `many` says how the stage was written (`parallel`, `map`),
    never how many members it happens to have.
    """

    offset: int
    total: int | None
    many: bool = False
    mapped: bool = False

    def __str__(self) -> str:
        total = "?" if self.total is None else self.total
        flags = ("p" if self.many else "") + ("m" if self.mapped else "")
        return f"{self.offset} {total} {flags or '-'}"

    @classmethod
    def parse(cls, line: str) -> StageLine:
        """Raises DamagedState for a line that `str()` didn't write."""
        try:
            offset, total, flags = line.split(" ")
            return cls(int(offset), None if total == "?" else int(total), "p" in flags, "m" in flags)
        except ValueError:
            raise DamagedState(f"the plan's stage {line!r} can't be read") from None


@dataclass(frozen=True, slots=True)
class Spec:
    """What holds for all stages of a run. Opaque to the scripts."""

    name: str | None = None
    queue: str | None = None
    start_at: int | None = None  # UNIX milliseconds: nothing is to work before
    callbacks: dict[str, bytes] = field(default_factory=dict)  # event → encoded message

    def to_bytes(self) -> bytes:
        events = sorted(self.callbacks)
        about = {"v": FORMAT, "name": self.name, "queue": self.queue, "start_at": self.start_at, "events": events}
        return pack([json.dumps(about).encode(), *(self.callbacks[event] for event in events)])

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
            callbacks = dict(zip(about["events"], blobs, strict=True))
            return cls(about["name"], about["queue"], about["start_at"], callbacks)
        except (ValueError, KeyError, TypeError, struct.error) as error:
            raise DamagedState(f"the run's plan can't be read: {error!r}") from error


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole clutch, ready to be stored: its spec, a line for each stage, and the rows of all stages in order."""

    spec: Spec
    lines: tuple[StageLine, ...]
    rows: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Tag:
    """What a job's message says of its place: member `member` of the `of` members of a stage of a run.

    `again` marks a message that may be a second copy, so that its worker asks before it runs it.
    """

    run_id: str
    stage: int
    member: int
    of: int
    epoch: int = 0
    again: bool = False

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
        return option | ({"epoch": self.epoch} if self.epoch else {}) | ({"again": True} if self.again else {})

    @classmethod
    def from_option(cls, option: Any) -> Tag:
        """Raises DamagedState unless the option is one that `to_option` could have written."""
        if not isinstance(option, dict) or not isinstance(option.get("run"), str) or not option["run"]:
            raise DamagedState(f"a message's option {OPTION}={option!r} names no run")
        numbers: list[Any] = [option.get(name) for name in ("stage", "member", "of")] + [option.get("epoch", 0)]
        if any(type(number) is not int or not 0 <= number < 2**31 for number in numbers):
            raise DamagedState(f"a message's option {OPTION}={option!r} names no place in a run")
        stage, member, of, epoch = numbers
        if member >= of:
            raise DamagedState(f"a message's option {OPTION}={option!r} names a member beyond the end of its stage")
        return cls(option["run"], stage, member, of, epoch, again=bool(option.get("again")))


def to_row(message: Message[Any]) -> bytes:
    """A message as Dramatiq's encoder writes it, without what is given when it is sent: id and timestamp."""
    return message.copy(message_id="", message_timestamp=0).encode()


def from_row(row: bytes) -> Message[Any]:
    """Raises DamagedState for bytes that Dramatiq's encoder doesn't take for a message."""
    try:
        return Message.decode(row)
    except Exception as error:  # DecodeError since 1.12; a foreign encoder may raise anything
        raise DamagedState(f"a stored message can't be decoded: {error}") from error


def pack(blobs: list[bytes]) -> bytes:
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
