"""A broker, a state store and their settings; and what can be read of a run with them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from dramatiq import Broker, Middleware
from dramatiq.common import current_millis
from dramatiq.logging import get_logger

from .backend import SHARE, SWEEP, Caller, ClutchBackend, Note, Reply
from .courier import Courier
from .errors import DamagedState, HandOverFailed, NotConfigured, ResultsGone, RunNotFound
from .forks import renew_in_children
from .status import JobFailure, failure_from
from .stored import owners
from .stored.duties import SendMembers
from .stored.formats import result_in
from .stored.places import BELOW, Place, Tag
from .stored.plan import Plan, Spec, StageLine
from .tokens import new_token

#: Of how many runs a process remembers when it put their expiry off.
MOST_TOUCHED = 10_000

#: Of how many runs it remembers the job that comes next.
MOST_AHEAD = 1_000

#: After how long without anything a run at work counts as stalled, in milliseconds: an hour.
DEFAULT_STALLED_AFTER = 3_600_000

#: For how long a run that was not cancelled is taken for that, in seconds.
REMEMBERED = 1.0

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AtWork:
    """A job that this process works on, and since when (monotonic seconds)."""

    run_id: str
    since: float


@dataclass(frozen=True)
class Engine:
    """What every transition and every hand-over needs."""

    broker: Broker
    backend: ClutchBackend
    courier: Courier
    run_ttl: int
    result_ttl: int
    lease_ms: int
    touched: dict[str, int] = field(default_factory=dict)
    wanted: dict[tuple[str, str, int, int], float] = field(default_factory=dict)
    ahead: dict[tuple[str, int], SendMembers] = field(default_factory=dict)
    share: int = SHARE
    application: str = ""
    stalled_after: int = DEFAULT_STALLED_AFTER
    resend_stalled: bool = False
    at_work: dict[int, AtWork] = field(default_factory=dict)
    left: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        renew_in_children(self)

    def renew(self) -> None:
        """Forget, in a forked child, what its parent remembers: the child does other work."""
        for remembered in (self.touched, self.wanted, self.ahead, self.at_work, self.left):
            remembered.clear()

    def create(self, run_id: str, plan: Plan, caller: Caller, *, claim: str = "", draft: str = "") -> Reply:
        """Make a plan a run. Raises DamagedState if its draft has expired."""
        times = {"run_ttl": self.run_ttl, "result_ttl": self.result_ttl}
        return self.backend.create(run_id, plan, caller, **times, claim=claim, draft=draft, share=self.share)

    def caller(self, owner: str, *, touch: bool = True) -> Caller:
        """Somebody who asks for duties now, under a lease of its own."""
        return Caller(owner, current_millis(), new_token(), self.lease_ms, touch, self.application)

    # The index

    def look_again(self, run_id: str, at: int | None, *, known: bool = False) -> None:
        """Put a run down for a sweeper's look, or take it out; with `known`, only if it is there."""
        more = {"run_ttl": self.run_ttl, "application": self.application, "known": known}
        self.backend.look_again(run_id, at, **more)  # type: ignore[arg-type]

    def look_when_quiet(self, run_id: str) -> None:
        """Nothing is owed by a run at work: it is looked at again to see whether anything happens to it."""
        self.look_again(run_id, current_millis() + max(self.stalled_after // 2, 50), known=True)

    def note(self, run_id: str, note: Note) -> None:
        """Do what a reply's note says about the index."""
        if note == "rests":
            self.look_again(run_id, None)
        elif note == "wakes":
            self.look_again(run_id, current_millis() + self.lease_ms)
        elif note == "more":
            self.look_again(run_id, current_millis())
            self.backend.say(SWEEP)

    # What this process remembers

    def leave_to_newer(self, run_id: str, error: BaseException | None) -> None:
        """Say, once for each run, that it is left to workers of a newer release."""
        if run_id not in self.left:
            if len(self.left) >= MOST_AHEAD:
                self.left.clear()
            self.left.add(run_id)
            logger.warning(
                "Run %s is left to workers of a newer release: %s. It goes on when one comes; until then its messages "
                "are put back again and again.",
                run_id,
                error,
            )

    def let_go(self, run_id: str, generation: str, stage: int, total: int) -> None:
        """Remember that jobs of this stage are wanted now: one was let go, or they are being sent."""
        if len(self.wanted) >= MOST_TOUCHED:
            self.wanted.clear()
        self.wanted[run_id, generation, stage, total] = time.monotonic()

    def was_let_go(self, tag: Tag) -> bool:
        """Whether this process has sent or started a job of this stage within the last second. Then the stage has as
        many members as the message says, and a cancel is at most a second old."""
        key = (tag.run_id, tag.generation, tag.stage, tag.of)
        return time.monotonic() - self.wanted.get(key, -REMEMBERED) < REMEMBERED

    def look_ahead(self, run_id: str, duty: SendMembers | None) -> None:
        """Remember what the stage that is now at work will owe, for the process that does its job."""
        if duty is not None:
            if len(self.ahead) >= MOST_AHEAD:
                self.ahead.clear()
            self.ahead[run_id, duty.stage] = duty

    def is_due(self, run_id: str) -> bool:
        """Whether this process has to put the expiry of the run's keys off: a few times in its `run_ttl`."""
        now = current_millis()
        if now - self.touched.get(run_id, 0) < self.run_ttl // 10:
            return False
        if len(self.touched) >= MOST_TOUCHED:
            self.touched.clear()
        self.touched[run_id] = now
        return True

    def touch_ancestors(self, run_id: str, *, due: int = 0) -> None:
        """A nested run's activity is its ancestors', and what is delayed until it is `due` is so for them. That is told
        them at once if it may outlast them."""
        place = Place.of_child(run_id)
        while place is not None:
            if due > current_millis() + self.run_ttl // 2 or self.is_due(place.run_id):
                self.backend.touch(place.run_id, self.caller(owners.TOUCH), due=due)
            place = Place.of_child(place.run_id)

    def wait_for(self, run_id: str, due: int) -> None:
        """Something of a run is delayed until it is `due` (UNIX milliseconds): the run, and those that it is nested in,
        live until then, and are not stalled before."""
        self.backend.touch(run_id, self.caller(owners.TOUCH), due=due)
        self.touch_ancestors(run_id, due=due)

    def beat(self) -> None:
        """Put off the expiry of the runs whose jobs this process works on: a job at work is activity, however long it
        takes. Raises StateUnavailable."""
        since = time.monotonic() - self.pulse
        for run_id in {one.run_id for one in list(self.at_work.values()) if one.since < since}:
            self.backend.touch(run_id, self.caller(owners.TOUCH))
            place = Place.of_child(run_id)
            while place is not None:
                self.backend.touch(place.run_id, self.caller(owners.TOUCH))
                place = Place.of_child(place.run_id)

    @property
    def pulse(self) -> float:
        """After how many seconds a job at work is told of, and how often."""
        return max(min(self.run_ttl, self.stalled_after) / 4_000, 0.05)

    # What is stored

    def spec(self, run_id: str, generation: str) -> Spec:
        """Raises RunNotFound, DamagedState or NewerRelease."""
        data = self.backend.spec(run_id, generation=generation)
        if data is None:
            raise RunNotFound(f"there is no run {run_id!r} (any more)")
        return Spec.from_bytes(data)

    def line(self, run_id: str, stage: int, generation: str) -> StageLine:
        """Raises ResultsGone, or DamagedState."""
        line = self.backend.line(run_id, stage, generation=generation)
        if line is None:
            raise ResultsGone(f"the results of stage {stage} of run {run_id!r} are gone: it has expired")
        return StageLine.parse(line)

    def stage_results(self, run_id: str, stage: int, generation: str) -> tuple[StageLine, list[Any]]:
        """The decoded results of a stage that is complete, in written order. Raises ResultsGone."""
        line = self.line(run_id, stage, generation)
        return line, self.results(run_id, stage, generation, line, 0, line.total or 0)

    def results(self, run_id: str, stage: int, generation: str, line: StageLine, start: int, end: int) -> list[Any]:
        """Those of the members `start` ≤ i < `end`."""
        found = self.backend.results(run_id, stage, start, end, generation=generation)
        return [self._result(run_id, stage, index, field, line) for index, field in enumerate(found, start)]

    def decode(self, result: bytes) -> Any:
        """A stored result. Raises DamagedState."""
        try:
            return self.backend.encoder.decode(result)
        except Exception as error:
            raise DamagedState(f"a stored result of {len(result):,} bytes can't be decoded: {error!r}") from error

    def encode(self, result: Any) -> bytes:
        """A result that one run hands to another, as bytes. Raises HandOverFailed."""
        try:
            return self.backend.encode(result)
        except Exception as error:
            raise HandOverFailed(f"a result of type {type(result).__name__} can't be encoded: {error!r}") from error

    def _result(self, run_id: str, stage: int, index: int, field: bytes | None, line: StageLine) -> Any:
        result = result_in(field)
        if result is not None:
            return self.decode(result)
        if field is not None and line.tolerant:
            return None
        raise ResultsGone(f"result {index} of stage {stage} of run {run_id!r} is not there (any more)")

    def previous_stage(self, run_id: str, stage: int, generation: str) -> tuple[str, int, str] | Spec | None:
        """Whose results a stage sees: another stage's (run, stage, generation); what its run was given (in the spec);
        or nobody's.

        A run that is written down in another one sees, in its first stage, what the enclosing stage sees.
        """
        while stage == 0:
            if BELOW not in run_id:
                return None
            spec = self.spec(run_id, generation)
            if spec.given is not None:
                return spec
            if spec.parent is None or not spec.inherits:
                return None
            run_id, stage, generation = spec.parent.run_id, spec.parent.stage, spec.parent.generation
        return run_id, stage - 1, generation

    def previous(self, run_id: str, stage: int, generation: str) -> tuple[bool, list[Any]]:
        """What a stage sees: whether it's from a stage of many, and the results. Raises ResultsGone."""
        found = self.previous_stage(run_id, stage, generation)
        if found is None:
            return True, []
        if isinstance(found, Spec):
            return False, [self.decode(found.given or b"")]
        line, results = self.stage_results(*found)
        return line.many, results

    def previous_failures(self, run_id: str, stage: int, generation: str) -> list[JobFailure]:
        """Why members of the stage that this one sees are missing."""
        found = self.previous_stage(run_id, stage, generation)
        if found is None or isinstance(found, Spec):
            return []
        its_run, its_stage, its_generation = found
        failures = self.backend.failures(its_run, its_stage, generation=its_generation)
        return [failure_from(its_stage, member, details) for member, details in failures]


class EngineMiddleware(Middleware):
    """What makes a broker ready for clutches; `ClutchMiddleware` is the one to add."""

    def engine(self, broker: Broker) -> Engine:
        raise NotImplementedError


def engine_of(broker: Broker) -> Engine:
    """Raises NotConfigured for a broker without the middleware."""
    for middleware in broker.middleware:
        if isinstance(middleware, EngineMiddleware):
            return middleware.engine(broker)
    raise NotConfigured(
        f"{type(broker).__name__} has no ClutchMiddleware: call broker.add_middleware(ClutchMiddleware()) where the "
        "broker is set up, in the producer and in the workers alike"
    )
