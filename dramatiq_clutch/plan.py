"""What is stored of a clutch: frozen values, to and from bytes. No I/O."""

from __future__ import annotations

import hashlib
import json
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dramatiq import Message, get_encoder

from .canonical import canonical
from .errors import DamagedState, NewerRelease

#: The version of the stored format. A worker leaves a run, a duty or a message of a newer format to newer workers.
FORMAT = 1

#: The option under which a message carries its `Tag`, or its `CallbackTag`.
OPTION = "clutch"

#: The callbacks of a clutch, in the order in which one transition fires them.
EVENTS = ("on_failure", "on_death", "completion", "on_success", "on_finish")

#: What a row of a plan begins with: it holds a message, or the plan of a nested run.
MESSAGE, NESTED = b"m", b"r"

#: Between a run's id and the place of a run nested in it. An id that a user gives can't contain it.
BELOW = "~"

#: How many hexadecimal digits tell the runs apart that one id has had. A run has its id for itself at any one time, so
#: these need not be unique in the world.
GENERATION_DIGITS = 8


@dataclass(frozen=True, slots=True)
class StageLine:
    """One stage, as the scripts see it: where its rows begin in the plan, how many members it has, how it was written.

    `total` is None for a mapped stage until it is opened. `many` says that it was written with `parallel` or `map`,
    never how many members it happens to have. A `tolerant` stage allows failures, a `piped` one appends the result of
    the stage before, `nested` says that some of its rows are runs. No more than `limit` members are to be unsettled at
    a time. `unknown_flags` and `unknown_words` are what a newer release of the same format has added: they are kept.
    """

    offset: int
    total: int | None
    many: bool = False
    mapped: bool = False
    tolerant: bool = False
    piped: bool = False
    nested: bool = False
    limit: int | None = None
    unknown_flags: str = ""
    unknown_words: tuple[str, ...] = ()

    def __str__(self) -> str:
        total = "?" if self.total is None else self.total
        flags = "".join(letter for letter, name in _FLAGS.items() if getattr(self, name)) + self.unknown_flags
        words = (str(self.limit or 0), *self.unknown_words) if self.limit or self.unknown_words else ()
        return " ".join((str(self.offset), str(total), flags or "-", *words))

    @property
    def batch(self) -> int:
        """How many successes make it worth while to look for members that may be sent now; 0 without a limit.

        A tenth of the limit, so that little is idle and a look is rare; each success of a stage that is kept small.
        """
        return max(1, self.limit // 10) if self.limit else 0

    @classmethod
    def parse(cls, line: str) -> StageLine:
        """Raises DamagedState for a line that `str()` didn't write."""
        try:
            offset, total, flags, *words = line.split(" ")
            known = {name: letter in flags for letter, name in _FLAGS.items()}
            unknown = "".join(letter for letter in flags if letter not in _FLAGS and letter != "-")
            limit = int(words[0]) or None if words else None
            size = None if total == "?" else int(total)
            return cls(int(offset), size, **known, limit=limit, unknown_flags=unknown, unknown_words=tuple(words[1:]))
        except ValueError:
            raise DamagedState(f"the plan's stage {line!r} can't be read") from None


_FLAGS = {"p": "many", "m": "mapped", "t": "tolerant", "i": "piped", "r": "nested"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a nested run stands: it is this member of its parent. `epoch` is the parent's when it was started, and
    `generation` tells the parent from other runs that have had its id."""

    run_id: str
    stage: int
    member: int
    epoch: int = 0
    generation: str = ""

    @property
    def child_id(self) -> str:
        """The id of the run that stands there: derived, so that starting it twice makes one."""
        return f"{self.run_id}{BELOW}{self.stage}.{self.member}"

    @property
    def child_generation(self) -> str:
        """The generation of that run: derived too, so that it belongs to this parent and not to one of its name."""
        return hashlib.sha1(
            f"{self.generation}/{self.stage}.{self.member}".encode(), usedforsecurity=False
        ).hexdigest()[:GENERATION_DIGITS]

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
    positions in a list, or one position), else `own` is that result. `generation` tells the run from others that have
    had its id. `unknown` are the fields that a newer release of the same format has added: they are kept.
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
    generation: str = ""
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
            refuse_newer(about["v"], "the run's plan")
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
                generation=about["generation"],
                unknown={name: value for name, value in about.items() if name not in _SPEC_FIELDS},
            )
        except (ValueError, KeyError, TypeError, RuntimeError, struct.error) as error:
            raise DamagedState(f"the run's plan can't be read: {error!r}") from error


_SPEC_FIELDS = frozenset(
    ("v", "generation", "name", "queue", "start_at", "callbacks", "parent", "inherits", "yields", "blobs")
)


def refuse_newer(version: Any, what: str) -> None:
    """Raises NewerRelease for a format that is newer than this release reads, DamagedState for what is none."""
    if type(version) is not int or version < 1:
        raise DamagedState(f"{what} has the format {version!r}, which no release writes")
    if version > FORMAT:
        raise NewerRelease(
            f"{what} has format {version}, and this dramatiq-clutch reads {FORMAT}: a newer release has written it"
        )


def new_generation() -> str:
    """What tells a run from others that have had, or will have, its id."""
    return secrets.token_hex(GENERATION_DIGITS // 2)


def derived_id(generation: str, place: str) -> str:
    """The id of a message: a UUID (version 5) made of the run's generation and the place."""
    digest = hashlib.sha1(f"{generation}/{place}".encode(), usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"


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
        return replace(self, spec=replace(self.spec, parent=place, generation=place.child_generation))


def rows_of(lines: Sequence[StageLine]) -> int:
    """How many rows the stages of a plan have; a mapped one has its template."""
    return lines[-1].offset + (1 if lines[-1].mapped else lines[-1].total or 0) if lines else 0


class Fingerprint:
    """What tells two clutches apart that are run under one id: what their messages say, and not how that is encoded (in
    which order a dict's keys come, or a set's members, which goes by a hash seed). A delay is none of it."""

    def __init__(self) -> None:
        self._rows = hashlib.sha256()

    def add(self, rows: Sequence[bytes]) -> None:
        """The next rows of the plan. Raises what the encoder raises."""
        for row in rows:
            self._rows.update(_meaning(row))

    def of(self, spec: Spec, lines: Sequence[StageLine]) -> str:
        return self.digest(spec, lines).hex()[:32]

    def digest(self, spec: Spec, lines: Sequence[StageLine]) -> bytes:
        callbacks = {event: [_meaning(row).hex() for row in rows] for event, rows in sorted(spec.callbacks.items())}
        about = json.dumps([spec.name, spec.queue, callbacks, spec.inherits, list(map(str, lines))])
        return hashlib.sha256(about.encode() + self._rows.digest()).digest()


def _meaning(row: bytes) -> bytes:
    """The digest of what a row says."""
    kind, data = row[:1], row[1:]
    if kind != NESTED:
        return hashlib.sha256(kind + canonical(data, get_encoder())).digest()
    plan, nested = Plan.from_bytes(data), Fingerprint()
    nested.add(plan.rows)
    return nested.digest(plan.spec, plan.lines)


@dataclass(frozen=True, slots=True)
class Tag:
    """What a job's message says of its place: member `member` of the `of` members of a stage of a run, of which
    `generation` tells it from others that have had its id.

    `again` marks a message that may be a second copy, so that its worker asks before it runs it. One that `leads` has
    a share of its stage's release to do. `batch` is its stage's. `actor` is whose message it is: the message says that
    by itself, so the option doesn't.
    """

    run_id: str
    stage: int
    member: int
    of: int
    epoch: int = 0
    again: bool = False
    leads: bool = False
    batch: int = 0
    generation: str = ""
    actor: str = ""

    @property
    def message_id(self) -> str:
        """The id of the job's message: derived, so that a second copy is known, and a stranger that has been given the
        same options, or is a copy for another actor, isn't taken for it."""
        return derived_id(self.generation, f"{self.run_id}/{self.stage}.{self.member}/{self.actor}")

    @property
    def owner(self) -> str:
        """Who owns the duties that this job's record causes."""
        return f"{self.stage}.{self.member}"

    def __str__(self) -> str:
        return f"job {self.stage}.{self.member} of run {self.run_id}"

    def to_option(self) -> dict[str, Any]:
        option: dict[str, Any] = {"run": self.run_id, "stage": self.stage, "member": self.member, "of": self.of}
        option["gen"] = self.generation
        for name in ("epoch", "again", "leads", "batch"):
            if value := getattr(self, name):
                option[name] = value
        return option if FORMAT == 1 else {**option, "v": FORMAT}

    @classmethod
    def from_option(cls, option: Any, actor: str = "") -> Tag:
        """Raises DamagedState unless the option is one that `to_option` could have written, and NewerRelease if that
        of a newer release has."""
        run_id, generation = _names_in(option)
        numbers: list[Any] = [option.get(name) for name in ("stage", "member", "of")]
        numbers += [option.get(name, 0) for name in ("epoch", "batch")]
        if any(type(number) is not int or not 0 <= number < 2**31 for number in numbers):
            raise DamagedState(f"a message's option {OPTION}={option!r} names no place in a run")
        stage, member, of, epoch, batch = numbers
        if member >= of:
            raise DamagedState(f"a message's option {OPTION}={option!r} names a member beyond the end of its stage")
        again, leads = bool(option.get("again")), bool(option.get("leads"))
        return cls(run_id, stage, member, of, epoch, again, leads, batch, generation, actor)


@dataclass(frozen=True, slots=True)
class CallbackTag:
    """What a callback's message says of itself: which event of which run it tells of. `duty` is the id of the duty that
    has sent it, and `index` its place among the messages for that event. `actor` is as in a `Tag`."""

    run_id: str
    generation: str
    duty: str
    index: int = 0
    actor: str = ""

    @property
    def message_id(self) -> str:
        """The id of the callback's message: derived, so that a second copy is known."""
        return derived_id(self.generation, f"{self.run_id}/{self.duty}.{self.index}/{self.actor}")

    def __str__(self) -> str:
        return f"callback {self.duty} of run {self.run_id}"

    def to_option(self) -> dict[str, Any]:
        option = {"run": self.run_id, "gen": self.generation, "callback": self.duty, "index": self.index}
        return option if FORMAT == 1 else {**option, "v": FORMAT}

    @classmethod
    def from_option(cls, option: Any, actor: str = "") -> CallbackTag:
        """Raises what `Tag.from_option` raises."""
        run_id, generation = _names_in(option)
        duty, index = option.get("callback"), option.get("index")
        if not isinstance(duty, str) or type(index) is not int:
            raise DamagedState(f"a message's option {OPTION}={option!r} names no callback")
        return cls(run_id, generation, duty, index, actor)


def tag_of(option: Any, actor: str) -> Tag | CallbackTag:
    """What the option of a message for this actor says. Raises DamagedState, or NewerRelease."""
    is_callback = isinstance(option, dict) and "callback" in option
    return CallbackTag.from_option(option, actor) if is_callback else Tag.from_option(option, actor)


def _names_in(option: Any) -> tuple[str, str]:
    """The run that an option names, and its generation."""
    if not isinstance(option, dict):
        raise DamagedState(f"a message's option {OPTION}={option!r} names no run")
    refuse_newer(option.get("v", 1), f"a message's option {OPTION}={option!r}")
    run_id, generation = option.get("run"), option.get("gen")
    if not (isinstance(run_id, str) and run_id and isinstance(generation, str)):
        raise DamagedState(f"a message's option {OPTION}={option!r} names no run")
    return run_id, generation


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
