"""A broker, a state store and their settings; and what can be read of a run with them."""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from dramatiq import Broker, Middleware
from dramatiq.common import current_millis

from .backend import SHARE, Caller, ClutchBackend, Duty, Reply
from .errors import NotConfigured, ResultsGone, RunNotFound
from .plan import BELOW, Place, Plan, Spec, StageLine, Tag
from .status import JobFailure, failure_from

#: Of how many runs a process remembers when it put their expiry off.
MOST_TOUCHED = 10_000

#: Of how many runs it remembers the job that comes next.
MOST_AHEAD = 1_000

#: For how long a run that was not cancelled is taken for that, in seconds.
REMEMBERED = 1.0

#: What the mark of a member that has succeeded begins with; its result follows.
SUCCEEDED = b"S"


@dataclass(frozen=True)
class Engine:
    """What every transition and every hand-over needs."""

    broker: Broker
    backend: ClutchBackend
    run_ttl: int
    result_ttl: int
    lease_ms: int
    stopping: threading.Event = field(default_factory=threading.Event)
    touched: dict[str, int] = field(default_factory=dict)
    wanted: dict[tuple[str, int, int], float] = field(default_factory=dict)
    lists: dict[tuple[str, int], list[Any]] = field(default_factory=dict)
    ahead: dict[tuple[str, int], Duty] = field(default_factory=dict)
    share: int = SHARE

    def create(self, run_id: str, plan: Plan, caller: Caller, *, claim: str = "", draft: str = "") -> Reply:
        """Make a plan a run. Raises DamagedState if its draft has expired."""
        times = {"run_ttl": self.run_ttl, "result_ttl": self.result_ttl}
        return self.backend.create(run_id, plan, caller, **times, claim=claim, draft=draft, share=self.share)

    def caller(self, owner: str, *, touch: bool = True) -> Caller:
        """Somebody who asks for duties now, under a lease of its own."""
        return Caller(owner, current_millis(), secrets.token_hex(8), self.lease_ms, touch)

    # What this process remembers

    def let_go(self, run_id: str, stage: int, total: int) -> None:
        """Remember that jobs of this stage are wanted now: one was let go, or they are being sent."""
        if len(self.wanted) >= MOST_TOUCHED:
            self.wanted.clear()
        self.wanted[run_id, stage, total] = time.monotonic()

    def was_let_go(self, tag: Tag) -> bool:
        """Whether one was within the last second: then the stage has as many members as the message says, and the run
        can't have been cancelled for longer."""
        return time.monotonic() - self.wanted.get((tag.run_id, tag.stage, tag.of), -REMEMBERED) < REMEMBERED

    def look_ahead(self, run_id: str, duty: Duty | None) -> None:
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

    def touch_ancestors(self, run_id: str) -> None:
        """A nested run's activity is its ancestors'."""
        place = Place.of_child(run_id)
        while place is not None:
            if self.is_due(place.run_id):
                self.backend.touch(place.run_id, self.caller("touch"))
            place = Place.of_child(place.run_id)

    # What is stored

    def spec(self, run_id: str) -> Spec:
        """Raises RunNotFound, or DamagedState."""
        data = self.backend.spec(run_id)
        if data is None:
            raise RunNotFound(f"there is no run {run_id!r} (any more)")
        return Spec.from_bytes(data)

    def line(self, run_id: str, stage: int) -> StageLine:
        """Raises ResultsGone, or DamagedState."""
        line = self.backend.line(run_id, stage)
        if line is None:
            raise ResultsGone(f"the results of stage {stage} of run {run_id!r} are gone: it has expired")
        return StageLine.parse(line)

    def stage_results(self, run_id: str, stage: int) -> tuple[StageLine, list[Any]]:
        """The decoded results of a stage that is complete, in written order. Raises ResultsGone."""
        line = self.line(run_id, stage)
        return line, self.results(run_id, stage, line, 0, line.total or 0)

    def results(self, run_id: str, stage: int, line: StageLine, start: int, end: int) -> list[Any]:
        """Those of the members `start` ≤ i < `end`."""
        marks = self.backend.results(run_id, stage, start, end)
        return [self._result(run_id, stage, index, mark, line) for index, mark in enumerate(marks, start)]

    def _result(self, run_id: str, stage: int, index: int, mark: bytes | None, line: StageLine) -> Any:
        if mark is not None and mark.startswith(SUCCEEDED):
            return self.backend.encoder.decode(mark[len(SUCCEEDED) :])
        if mark is not None and line.tolerant:
            return None
        raise ResultsGone(f"result {index} of stage {stage} of run {run_id!r} is not there (any more)")

    def previous_stage(self, run_id: str, stage: int) -> tuple[str, int] | Spec | None:
        """Whose results a stage sees: another stage's (run, stage); what its run was given (in the spec); or nobody's.

        A run that is written down in another one sees, in its first stage, what the enclosing stage sees.
        """
        while stage == 0:
            if BELOW not in run_id:
                return None
            spec = self.spec(run_id)
            if spec.given is not None:
                return spec
            if spec.parent is None or not spec.inherits:
                return None
            run_id, stage = spec.parent.run_id, spec.parent.stage
        return run_id, stage - 1

    def previous(self, run_id: str, stage: int) -> tuple[bool, list[Any]]:
        """What a stage sees: whether it's from a stage of many, and the results. Raises ResultsGone."""
        found = self.previous_stage(run_id, stage)
        if found is None:
            return True, []
        if isinstance(found, Spec):
            return False, [self.backend.encoder.decode(found.given or b"")]
        line, results = self.stage_results(*found)
        return line.many, results

    def previous_failures(self, run_id: str, stage: int) -> list[JobFailure]:
        """Why members of the stage that this one sees are missing."""
        found = self.previous_stage(run_id, stage)
        if found is None or isinstance(found, Spec):
            return []
        return [failure_from(found[1], member, details) for member, details in self.backend.failures(*found)]


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
