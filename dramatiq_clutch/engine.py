"""A broker, a state store and their settings; and how long runs live there, and when they are looked at again."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from dramatiq import Broker, Middleware
from dramatiq.logging import get_logger

from .backend import SHARE, SWEEP, Caller, ClutchBackend, Note, Reply
from .courier import Courier
from .errors import NotConfigured
from .forks import cached_property
from .reader import Reader
from .remembered import Remembered
from .stored import owners
from .stored.places import Place
from .stored.plan import Plan
from .tokens import new_token

#: After how long without anything a run at work counts as stalled, in milliseconds: an hour.
DEFAULT_STALLED_AFTER = 3_600_000

logger = get_logger(__name__)


@dataclass(frozen=True)
class Engine:
    """What every transition and every hand-over needs: a broker, where its runs are kept, and for how long; what can be
    read of them, and what this process remembers of them."""

    broker: Broker
    backend: ClutchBackend
    courier: Courier
    run_ttl: int
    result_ttl: int
    lease_ms: int
    share: int = SHARE
    application: str = ""
    stalled_after: int = DEFAULT_STALLED_AFTER
    resend_stalled: bool = False
    remembered: Remembered = field(default_factory=Remembered)

    @cached_property
    def reader(self) -> Reader:
        return Reader(self.backend)

    def create(self, run_id: str, plan: Plan, caller: Caller, *, claim: str = "", draft: str = "") -> Reply:
        """Make a plan a run. Raises DamagedState if its draft has expired."""
        times = {"run_ttl": self.run_ttl, "result_ttl": self.result_ttl}
        return self.backend.create(run_id, plan, caller, **times, claim=claim, draft=draft, share=self.share)

    def now(self) -> int:
        """The present time, in UNIX milliseconds, as the store has it."""
        return self.backend.now()

    def caller(self, owner: str, *, touch: bool = True) -> Caller:
        """Somebody who asks for duties now, under a lease of its own."""
        return Caller(owner, self.now(), new_token(), self.lease_ms, touch, self.application)

    # The index

    def look_again(self, run_id: str, at: int | None, *, known: bool = False) -> None:
        """Put a run down for a sweeper's look, or take it out; with `known`, only if it is there."""
        more = {"run_ttl": self.run_ttl, "application": self.application, "known": known}
        self.backend.look_again(run_id, at, **more)  # type: ignore[arg-type]

    def look_when_quiet(self, run_id: str) -> None:
        """Nothing is owed by a run at work: it is looked at again to see whether anything happens to it."""
        self.look_again(run_id, self.now() + max(self.stalled_after // 2, 50), known=True)

    def note(self, run_id: str, note: Note) -> None:
        """Do what a reply's note says about the index."""
        if note == "ends":
            self.look_again(run_id, None)
        elif note == "rests":
            # Somebody may be about to have it retry, and have put it down for that. So it is a sweeper that takes it
            # out, which knows whether anybody has put it down since.
            self.look_again(run_id, self.now() + self.lease_ms, known=True)
        elif note == "wakes":
            self.look_again(run_id, self.now() + self.lease_ms)
        elif note == "more":
            self.look_again(run_id, self.now())
            self.backend.say(SWEEP)

    def leave_to_newer(self, run_id: str, error: BaseException | None) -> None:
        """Say, once for each run, that it is left to workers of a newer release."""
        if self.remembered.leave(run_id):
            logger.warning(
                "Run %s is left to workers of a newer release: %s. It goes on when one comes; until then its messages "
                "are put back again and again.",
                run_id,
                error,
            )

    # How long runs live

    def is_due(self, run_id: str) -> bool:
        """Whether this process has to put the expiry of the run's keys off: a few times in its `run_ttl`."""
        return self.remembered.is_due(run_id, self.run_ttl // 10, self.now())

    def touch_ancestors(self, run_id: str, *, due: int = 0) -> None:
        """A nested run's activity is its ancestors', and what is delayed until it is `due` is so for them. That is told
        them at once if it may outlast them."""
        place = Place.of_child(run_id)
        while place is not None:
            if due > self.now() + self.run_ttl // 2 or self.is_due(place.run_id):
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
        for run_id in {one.run_id for one in list(self.remembered.at_work.values()) if one.since < since}:
            self.backend.touch(run_id, self.caller(owners.TOUCH))
            place = Place.of_child(run_id)
            while place is not None:
                self.backend.touch(place.run_id, self.caller(owners.TOUCH))
                place = Place.of_child(place.run_id)

    @property
    def pulse(self) -> float:
        """After how many seconds a job at work is told of, and how often."""
        return max(min(self.run_ttl, self.stalled_after) / 4_000, 0.05)


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
