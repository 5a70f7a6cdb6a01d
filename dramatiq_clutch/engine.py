"""Puts a broker, a state store and their settings together; and decides how long runs live, and when sweepers look at
them again."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from dramatiq import Broker, Middleware, Worker
from dramatiq.common import q_name
from dramatiq.logging import get_logger

from .backend import SHARE, SWEEP, Caller, ClutchBackend, Note, Reply
from .callbacks import Defaults
from .courier import Courier
from .errors import NotConfigured
from .forks import cached_property
from .reader import Reader
from .remembered import Remembered
from .stored import owners
from .stored.attendance import Attendance, worker_name
from .stored.places import ancestors
from .stored.plan import Plan
from .tokens import new_token

#: After how many milliseconds in which nothing happens to it a run at work counts as stalled: an hour.
DEFAULT_STALLED_AFTER = 3_600_000

#: Within how many milliseconds a detached broker has to have changed a run that it has put down in the index.
DETACHED_LEASE = 5_000

#: Since how many milliseconds the lease has lapsed under which a detached broker is given duties: longer than clocks
#: differ, so that a sweeper can take them at once.
LAPSED = 60_000

#: How many runs that have ended are kept to be looked through, at most.
DEFAULT_HISTORY_MAX = 10_000

logger: logging.Logger = get_logger(__name__)


@dataclass(frozen=True)
class Engine:
    """What every transition and every hand-over needs: a broker, the store of its runs, the courier between them, and
    the settings (times in milliseconds); and what this process remembers of the runs. `is_detached` says that nothing
    can be sent from here, so that what a transition owes is left to workers."""

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
    defaults: Defaults = field(default_factory=Defaults)
    history_ttl: int = 0
    history_max: int = DEFAULT_HISTORY_MAX
    is_detached: bool = False
    carry: tuple[str, ...] = ()
    remembered: Remembered = field(default_factory=Remembered)

    @cached_property
    def reader(self) -> Reader:
        return Reader(self.backend)

    def create(
        self,
        run_id: str,
        plan: Plan,
        caller: Caller,
        *,
        claim: str = "",
        draft: str = "",
        tags: Sequence[str] = (),
        **says: bool,
    ) -> Reply:
        """Make a plan a run, with the settings' times. It `says` whether it `frees` its id and `keeps` its results.
        Raises DamagedState if the plan's draft has expired."""
        times = {"run_ttl": self.run_ttl, "result_ttl": self.result_ttl, "history_ttl": self.history_ttl}
        more = {"claim": claim, "draft": draft, "tags": tags, "share": self.share, **says}
        return self.backend.create(run_id, plan, caller, **times, **more)  # type: ignore[arg-type]

    def now(self) -> int:
        """The present time in UNIX milliseconds, by the store's clock."""
        return self.backend.now()

    def caller(self, owner: str, *, touch: bool = True) -> Caller:
        """A caller for this owner, with the present time and a new lease; of a detached broker it has lapsed."""
        lease_ms = -LAPSED if self.is_detached else self.lease_ms
        return Caller(owner, self.now(), new_token(), lease_ms, touch, self.application)

    # The index

    def look_again(self, run_id: str, at: int | None, *, known: bool = False, instead: int | None = None) -> None:
        """Put a run down in the index, to be looked at `at` that time (UNIX milliseconds); None takes it out. With
        `known`, a run that isn't in the index stays out of it. With `instead`, nothing changes unless it is put down
        for that time."""
        more = {"run_ttl": self.run_ttl, "application": self.application, "known": known, "instead": instead}
        self.backend.look_again(run_id, at, **more)  # type: ignore[arg-type]

    def look_when_quiet(self, run_id: str, by: int, *, instead: int) -> None:
        """Put down a run at work that owes nothing, so that a sweeper finds out later whether anything happens to it;
        sooner if a deadline of it may be over `by` then (see `backend.Reply`). The caller has put it down for the time
        `instead`. If another has put it down since, that stays, because the run may owe something again by now."""
        quiet = self.now() + max(self.stalled_after // 2, 50)
        self.look_again(run_id, min(quiet, by or quiet), instead=instead)

    def note(self, run_id: str, note: Note, by: int = 0) -> None:
        """Change the index as a reply's `note` and its `by` ask (see `backend.Note` and `backend.Reply`)."""
        lapses = self.now() + self.lease_ms
        if note in ("ends", "rests") and self.remembered.unlisted.pop(run_id, False):
            self.look_again(run_id, lapses)  # the register hasn't heard of it, and a sweeper tells it
        elif note == "ends":
            self.look_again(run_id, None)
        elif note == "rests":
            # It isn't taken out here, because somebody may be about to retry it, and have put it down for that. A
            # sweeper takes it out, which can tell whether anybody has put it down since.
            self.look_again(run_id, lapses, known=True)
        elif note == "wakes":
            self.look_again(run_id, min(lapses, by or lapses))
        elif note == "more":
            self.look_again(run_id, self.now())
            self.backend.say(SWEEP)
        elif by and by < lapses:  # somebody may have put it down for when the lease lapses
            self.look_again(run_id, by, known=True)

    def leave_to_workers(self, run_id: str) -> None:
        """Have a worker's sweeper do at once what a run owes."""
        self.look_again(run_id, max(self.now() - LAPSED, 0))
        self.backend.say(SWEEP)

    def leave_to_newer(self, run_id: str, error: BaseException | None) -> None:
        """Log that a run is left to workers of a newer release, once for each run."""
        if self.remembered.leave(run_id):
            logger.warning(
                "Run %s is left to workers of a newer release: %s. It goes on when one comes; until then its messages "
                "are put back again and again.",
                run_id,
                error,
            )

    # Who is there

    def attend(self, worker: Worker, for_ms: int) -> None:
        """Tell that a worker is there, for so many milliseconds. Raises StateUnavailable."""
        queues = {q_name(queue) for queue in list(worker.consumers)}
        broker_id = str(getattr(self.broker, "broker_id", ""))
        now = self.now()
        told = Attendance(worker_name(), broker_id, tuple(sorted(queues)))
        self.backend.attend(told, now + for_ms, now, application=self.application)

    # How long runs live

    def is_due(self, run_id: str) -> bool:
        """Whether this process should put off the expiry of the run's keys. It does so once in a tenth of the
        `run_ttl`."""
        return self.remembered.is_due(run_id, self.run_ttl // 10, self.now())

    def touch_ancestors(self, run_id: str, *, due: int = 0) -> None:
        """Put off the expiry of all runs that this run is nested in, because its activity is theirs, too. `due` is
        until when something of it is delayed (UNIX milliseconds), or 0. This is done seldom, like `touch` for the run
        itself; but at once if `due` is so late that an ancestor might expire before."""
        for place in ancestors(run_id):
            if due > self.now() + self.run_ttl // 2 or self.is_due(place.run_id):
                self.backend.touch(place.run_id, self.caller(owners.TOUCH), due=due)

    def wait_for(self, run_id: str, due: int) -> None:
        """Note that something of a run is delayed until `due` (UNIX milliseconds). The run, and the runs that it is
        nested in, don't expire and aren't stalled before."""
        self.backend.touch(run_id, self.caller(owners.TOUCH), due=due)
        self.touch_ancestors(run_id, due=due)

    def beat(self) -> None:
        """Put off the expiry of the runs whose jobs have been at work in this process for longer than a `pulse`. So a
        run doesn't expire while a job of it works, however long that takes. Raises StateUnavailable."""
        since = time.monotonic() - self.pulse
        for run_id in {one.run_id for one in list(self.remembered.at_work.values()) if one.since < since}:
            for touched in (run_id, *(place.run_id for place in ancestors(run_id))):
                self.backend.touch(touched, self.caller(owners.TOUCH))

    @property
    def pulse(self) -> float:
        """After how many seconds, and then every how many, the store is told that a job is at work (see `beat`)."""
        return max(min(self.run_ttl, self.stalled_after) / 4_000, 0.05)


class EngineMiddleware(Middleware):
    """The base class by which `engine_of` finds the middleware. `ClutchMiddleware` is the one to add to a broker."""

    def _engine(self, broker: Broker) -> Engine:
        raise NotImplementedError


def engine_of(broker: Broker) -> Engine:
    """The engine of a broker. Raises NotConfigured for a broker without the middleware."""
    for middleware in broker.middleware:
        if isinstance(middleware, EngineMiddleware):
            return middleware._engine(broker)  # noqa: SLF001 (private, so that help() leaves it out)
    raise NotConfigured(
        f"{type(broker).__name__} has no ClutchMiddleware: call broker.add_middleware(ClutchMiddleware()) where the "
        "broker is set up, in the producer and in the workers alike"
    )
