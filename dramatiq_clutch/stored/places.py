"""Where something stands: a job or a nested run in its stage, a callback in its run; and the ids that follow from it.

All ids are derived, so that doing something twice makes one. No I/O.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Any

from ..errors import DamagedState
from . import owners
from .formats import FORMAT, refuse_newer

#: The option under which a message carries its `Tag`, or its `CallbackTag`.
OPTION = "clutch"

#: Between a run's id and the place of a run nested in it. An id that a user gives can't contain it.
BELOW = "~"

#: How many hexadecimal digits tell the runs apart that one id has had. A run has its id for itself at any one time, so
#: these need not be unique in the world.
GENERATION_DIGITS = 8


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


def new_generation() -> str:
    """What tells a run from others that have had, or will have, its id."""
    return secrets.token_hex(GENERATION_DIGITS // 2)


def derived_id(generation: str, place: str) -> str:
    """The id of a message: a UUID (version 5) made of the run's generation and the place."""
    digest = hashlib.sha1(f"{generation}/{place}".encode(), usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"


@dataclass(frozen=True, slots=True)
class Tag:
    """What a job's message says of its place: member `member` of the `of` members of a stage of a run, of which
    `generation` tells it from others that have had its id.

    `repeated` says that the message may be a second copy, so that its worker asks before it runs it. One that `leads`
    has a share of its stage's release to do. `batch` is its stage's. `actor` is whose message it is: the message says
    that by itself, so the option doesn't.
    """

    run_id: str
    stage: int
    member: int
    of: int
    epoch: int = 0
    repeated: bool = False
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
        """Who owns a share of its stage's release, and what the record of its first attempt causes."""
        return owners.job(self.stage, self.member)

    def __str__(self) -> str:
        return f"job {self.stage}.{self.member} of run {self.run_id}"

    def to_option(self) -> dict[str, Any]:
        option: dict[str, Any] = {"run": self.run_id, "stage": self.stage, "member": self.member, "of": self.of}
        option["gen"] = self.generation
        for name in ("epoch", "repeated", "leads", "batch"):
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
        repeated, leads = bool(option.get("repeated")), bool(option.get("leads"))
        return cls(run_id, stage, member, of, epoch, repeated, leads, batch, generation, actor)


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
