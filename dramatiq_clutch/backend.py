"""The contract of a state store: one method is one atomic transition of one run.

Every method takes the time (`now`, UNIX milliseconds) from its caller, can be applied twice without harm (a client may
repeat a call whose reply was lost), and raises `StateUnavailable` for what waiting cures.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dramatiq import Encoder, get_encoder

from .plan import Plan, Tag
from .status import Snapshot

Ending = Literal["succeeded", "attempted", "failing", "dead"]

#: What became of a record: it `counts`; it changed nothing, as a `duplicate` or being `stale`; its stage is `over`;
#: the place doesn't exist (`refused`); the run isn't there (`unknown`).
RecordWord = Literal["counts", "duplicate", "stale", "over", "refused", "unknown"]

#: Whether to run a job: `go`; its member has succeeded (`done`); its stage is `over`; `unknown` as above.
GuardWord = Literal["go", "done", "over", "unknown"]


@dataclass(frozen=True, slots=True)
class Duty:
    """What a transition obliges its caller to do. Confirming names the duty (`id`) and the `lease` it was given under.

    `kind` is `send` (the members `start` ≤ i < `end` of `stage`, from `cursor` on), `open` (a stage that is empty or
    mapped) or the name of a callback, with the `snapshot` of the moment. `again` says that it was given before.
    """

    id: str
    lease: str
    cursor: int = 0
    again: bool = False
    line: str = ""
    snapshot: Snapshot | None = None

    @property
    def kind(self) -> str:
        return self.id.split(":")[0]

    @property
    def stage(self) -> int:
        return int(self.id.split(":")[1])

    @property
    def start(self) -> int:
        return int(self.id.split(":")[2])

    @property
    def end(self) -> int:
        return int(self.id.split(":")[3])


@dataclass(frozen=True, slots=True)
class Reply:
    """A transition's answer: what became of it, and the duties that are now the caller's."""

    word: str
    duties: tuple[Duty, ...] = ()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the `owner` of duties, the time, and the `lease` under which it takes them, for `lease_ms`.

    At least every `touch_every` milliseconds a transition has to put the expiry of the run's keys off.
    """

    owner: str
    now: int
    lease: str
    lease_ms: int
    touch_every: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """How one attempt of a job ended. `payload` is the encoded result, or the failure's details."""

    tag: Tag
    attempt: int
    ending: Ending
    payload: bytes


class ClutchBackend(abc.ABC):
    """Keeps the state of runs. See the module for what holds for every method."""

    def __init__(self, *, namespace: str = "dramatiq-clutch", encoder: Encoder | None = None) -> None:
        self.namespace = namespace
        self._encoder = encoder

    @property
    def encoder(self) -> Encoder:
        """Encodes results: the one given, or Dramatiq's global one, as set at the time of use."""
        return self._encoder or get_encoder()

    def encode(self, result: Any) -> bytes:
        """A result as bytes: like Dramatiq's Results, whose encoders take any value. Raises what the encoder raises."""
        return self.encoder.encode(result)

    @abc.abstractmethod
    def create(self, run_id: str, plan: Plan, caller: Caller, *, run_ttl: int, result_ttl: int) -> Reply:
        """Store the plan, then seal it in one step. Nothing is owed before the seal, and a plan that is never sealed
        expires within minutes. `created` or, for a repeated call, `exists`."""

    @abc.abstractmethod
    def guard(self, tag: Tag) -> GuardWord:
        """Say whether a job is still wanted. Changes nothing."""

    @abc.abstractmethod
    def record(self, record: Record, caller: Caller) -> Reply:
        """Record how an attempt ended. A member's first success is final; a failing or dead record that isn't newer
        (epoch, attempt) than the last one changes nothing. The stage is released by the record that completes it, once,
        and counting is by membership: neither a duplicate nor a missing key can release anything."""

    @abc.abstractmethod
    def owed(self, run_id: str, caller: Caller) -> Reply:
        """Look at what the state owes, and give the caller what is its own or whose lease has lapsed.
        `running`, `failed`, `succeeded` or `unknown`."""

    @abc.abstractmethod
    def open(self, run_id: str, duty: Duty, total: int, caller: Caller) -> Reply:
        """Say how many members a stage has. An empty one is complete at once. `opened` or `lost`."""

    @abc.abstractmethod
    def confirm(self, run_id: str, duty: Duty, caller: Caller, *, cursor: int | None = None) -> str:
        """The duty is done (or done up to `cursor`: then its lease begins anew). `lost` if the lease has passed to
        somebody else. When a succeeded run owes nothing any more, all but its status and result goes."""

    @abc.abstractmethod
    def fail(self, run_id: str, duty: Duty, details: bytes, caller: Caller) -> Reply:
        """The duty can't be done: the run fails, with these details. `failed` or `lost`."""

    @abc.abstractmethod
    def snapshot(self, run_id: str) -> Snapshot | None:
        """How the run stands, at one moment; None if there is none."""

    @abc.abstractmethod
    def spec(self, run_id: str) -> bytes | None:
        """The encoded `Spec` of the run, which never changes; None if there is none."""

    @abc.abstractmethod
    def line(self, run_id: str, stage: int) -> str | None:
        """The `StageLine` of a stage, as a string."""

    @abc.abstractmethod
    def rows(self, run_id: str, start: int, end: int) -> Sequence[bytes]:
        """The plan's rows `start` ≤ i < `end`."""

    @abc.abstractmethod
    def results(self, run_id: str, stage: int, start: int, end: int) -> Sequence[bytes | None]:
        """The encoded results of these members; None for one that has none."""

    @abc.abstractmethod
    def wait(self, run_id: str, timeout: float) -> None:
        """Return when the run is at rest, or after `timeout` seconds, or earlier: the caller looks again."""

    @abc.abstractmethod
    def due(self, now: int, look_again_at: int, limit: int) -> Sequence[str]:
        """Runs that a sweeper should look at; they are put down for `look_again_at`."""

    @abc.abstractmethod
    def forget(self, run_id: str) -> None:
        """Take a run that owes nothing any more out of the index."""


def decode_snapshot(snapshot: dict[str, Any]) -> Snapshot:
    """A snapshot as the scripts encode it: an empty list comes as an empty dict."""
    return {**snapshot, "failures": list(snapshot["failures"] or ())}
