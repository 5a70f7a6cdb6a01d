"""Where jobs, nested runs and callbacks stand, and the ids that are derived from their places.

Because the ids are derived, sending a message or starting a run twice gives a second copy that can be recognised.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import DamagedState
from . import owners
from .formats import FORMAT, refuse_newer

#: The option under which a message carries its `Tag`, or its `CallbackTag`.
OPTION = "clutch"

#: An id that no run has.
NOBODY = "!nobody"

#: What is between a run's id and the place of a run nested in it, as in `run~1.0`. An id that a user gives can't
#: contain it.
BELOW = "~"

#: How many hexadecimal digits a generation has. Few are enough: they only tell apart the runs that one id has had.
GENERATION_DIGITS = 8


@dataclass(frozen=True, slots=True)
class Place:
    """Where a nested run stands: it is member `member` of stage `stage` of its parent, whose id is `run_id`. `epoch`
    is the parent's epoch when the run was started, and `generation` is the parent's."""

    run_id: str
    stage: int
    member: int
    epoch: int = 0
    generation: str = ""

    @property
    def child_id(self) -> str:
        """The id of the run at this place, such as `run~1.0`. It is derived, so starting it twice makes one run."""
        return f"{self.run_id}{BELOW}{self.stage}.{self.member}"

    @property
    def child_generation(self) -> str:
        """The generation of the run at this place. It is derived from the parent's, so that the run isn't taken for one
        that was nested in another run of the parent's id."""
        return hashlib.sha1(
            f"{self.generation}/{self.stage}.{self.member}".encode(), usedforsecurity=False
        ).hexdigest()[:GENERATION_DIGITS]

    @classmethod
    def of_child(cls, run_id: str) -> Place | None:
        """The place that a nested run's id names; None for the id of a run that isn't nested."""
        parent, _, place = run_id.rpartition(BELOW)
        stage, _, member = place.partition(".")
        return cls(parent, int(stage), int(member)) if parent and stage.isdecimal() and member.isdecimal() else None


def ancestors(run_id: str) -> Iterator[Place]:
    """The places in which a nested run and the runs around it stand, from its own to the one in the outermost run; none
    for the id of a run that isn't nested."""
    place = Place.of_child(run_id)
    while place is not None:
        yield place
        place = Place.of_child(place.run_id)


def new_generation() -> str:
    """A random generation, which tells a run from others that have had, or will have, its id."""
    return secrets.token_hex(GENERATION_DIGITS // 2)


def derived_id(generation: str, place: str) -> str:
    """The id of a message: a UUID (version 5) made of the run's generation and the place."""
    digest = hashlib.sha1(f"{generation}/{place}".encode(), usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"


class Tag(NamedTuple):
    """What a job's message says of its place: it is member `member` of the `of` members of a stage of a run.

    `repeated`: the message may be a second copy, so a worker asks whether it is wanted before it runs the job. `leads`:
    the job has a share of its stage's release to send. `batch`, `wary` and `exact`: the stage's (see `StageLine`).
    `generation`: the run's. `actor`: the name of the message's actor; it isn't part of the option, because the message
    has it anyway. `args`: the run has args, and the job sees them. `timed`: its run keeps when it is at work.
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
    wary: bool = False
    exact: bool = False
    args: bool = False
    timed: bool = False

    @property
    def message_id(self) -> str:
        """The id of the job's message. It is derived, so that a second copy is recognised. A message that has another
        id, or is for another actor, isn't the job's, even if somebody has copied the options to it."""
        return self.id_of(self.member, self.actor)

    def id_of(self, member: int, actor: str) -> str:
        """The id of the message of another member of the same stage, to this actor."""
        return derived_id(self.generation, f"{self.run_id}/{self.stage}.{member}/{actor}")

    @property
    def owner(self) -> str:
        """The owner of the share that the job leads, and of the duties that the record of its first attempt causes."""
        return owners.job(self.stage, self.member)

    def __str__(self) -> str:
        return f"job {self.stage}.{self.member} of run {self.run_id}"

    def to_option(self) -> dict[str, Any]:
        option: dict[str, Any] = {"run": self.run_id, "stage": self.stage, "member": self.member, "of": self.of}
        option["gen"] = self.generation
        for name in ("epoch", "repeated", "leads", "batch", "wary", "exact", "args", "timed"):
            if value := getattr(self, name):
                option[name] = value
        return option if FORMAT == 1 else {**option, "v": FORMAT}

    @classmethod
    def from_option(cls, option: Any, actor: str = "") -> Tag:
        """The tag that an option holds. Raises DamagedState if `to_option` can't have written it, and NewerRelease if a
        newer release has written it."""
        run_id, generation = _names_in(option)
        get = option.get
        stage, member, of = get("stage"), get("member"), get("of")
        epoch, batch = get("epoch", 0), get("batch", 0)
        for number in (stage, member, of, epoch, batch):
            if type(number) is not int or not 0 <= number < 2**31:
                raise DamagedState(f"a message's option {OPTION}={option!r} names no place in a run")
        if member >= of:
            raise DamagedState(f"a message's option {OPTION}={option!r} names a member beyond the end of its stage")
        repeated, leads = bool(get("repeated")), bool(get("leads"))
        terms = bool(get("wary")), bool(get("exact")), bool(get("args")), bool(get("timed"))
        return cls(run_id, stage, member, of, epoch, repeated, leads, batch, generation, actor, *terms)


@dataclass(frozen=True, slots=True)
class CallbackTag:
    """What a callback's message says of itself: which event of which run it tells of. `duty` is the id of the duty that
    sent it, and `index` its position among the messages of that duty. `actor` is as in a `Tag`."""

    run_id: str
    generation: str
    duty: str
    index: int = 0
    actor: str = ""

    @property
    def message_id(self) -> str:
        """The id of the callback's message. It is derived, so that a second copy is recognised."""
        return derived_id(self.generation, f"{self.run_id}/{self.duty}.{self.index}/{self.actor}")

    @property
    def event(self) -> str:
        """Which event: the first word of the duty's id."""
        return self.duty.partition(":")[0]

    def __str__(self) -> str:
        return f"callback {self.duty} of run {self.run_id}"

    def to_option(self) -> dict[str, Any]:
        option = {"run": self.run_id, "gen": self.generation, "callback": self.duty, "index": self.index}
        return option if FORMAT == 1 else {**option, "v": FORMAT}

    @classmethod
    def from_option(cls, option: Any, actor: str = "") -> CallbackTag:
        """The tag that an option holds. Raises what `Tag.from_option` raises."""
        run_id, generation = _names_in(option)
        duty, index = option.get("callback"), option.get("index")
        if not isinstance(duty, str) or type(index) is not int:
            raise DamagedState(f"a message's option {OPTION}={option!r} names no callback")
        return cls(run_id, generation, duty, index, actor)


def tag_of(option: Any, actor: str) -> Tag | CallbackTag:
    """The tag that the option of a message for this actor holds. Raises DamagedState, or NewerRelease."""
    is_callback = isinstance(option, dict) and "callback" in option
    return CallbackTag.from_option(option, actor) if is_callback else Tag.from_option(option, actor)


def _names_in(option: Any) -> tuple[str, str]:
    """The run that an option names, and its generation."""
    if not isinstance(option, dict):
        raise DamagedState(f"a message's option {OPTION}={option!r} names no run")
    if "v" in option:  # otherwise the text of the error needn't be made, for each job comes here
        refuse_newer(option["v"], f"a message's option {OPTION}={option!r}")
    run_id, generation = option.get("run"), option.get("gen")
    if not (isinstance(run_id, str) and run_id and isinstance(generation, str)):
        raise DamagedState(f"a message's option {OPTION}={option!r} names no run")
    return run_id, generation
