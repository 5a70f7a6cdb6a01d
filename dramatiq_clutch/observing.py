"""Who is told what happens to runs: middlewares that are observers, in the process in which it happens.

For example, for a service that counts::

    from dramatiq_clutch.observing import AttemptBegan, Observer

    class Counts(Observer):
        def after_transition(self, broker, run_id, news, at):
            statsd.increment("runs", tags=[f"event:{news.event}", f"clutch:{news.name}"])

        def observe(self, broker, sighting):
            match sighting:
                case AttemptBegan(queue=queue, waited=float(seconds)):
                    statsd.timing("waited", seconds * 1000, tags=[f"queue:{queue}"])

    broker.add_middleware(ClutchMiddleware())
    broker.add_middleware(Counts())

Observers are called on the thread that works on the run, so they should be quick. None costs the state store anything:
they are told what is known anyway. Where a broker has none, a job pays less than three microseconds for that.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from dramatiq import Broker, Middleware
from dramatiq.logging import get_logger

from .news import News

logger: logging.Logger = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class OfRun:
    """What every sighting says: the id of the run that it is about."""

    run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OfJob(OfRun):
    """A sighting of one job: its member of its stage (both from 0), its `attempt` (from 0), and its message."""

    stage: int
    member: int
    attempt: int
    message_id: str
    actor: str
    queue: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptBegan(OfJob):
    """A job begins here. `waited`: for how many seconds its message waited for a worker: since it was sent, or since
    its delay was over. Clocks of two machines may differ; it is never negative."""

    waited: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEnded(OfJob):
    """An attempt has ended and is recorded, or will be in a moment. `ending`: `succeeded`, `failing` (it will be
    attempted again), `attempted` (the same, and the job has asked for it) or `dead`. `seconds`: from its beginning to
    that moment."""

    ending: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Absorbed(OfJob):
    """A message, or the end of an attempt, has changed nothing. `word`: `done` (the job wasn't run, because its member
    has succeeded), `over` (its stage or run is over, whether it was run or not), `duplicate` (it was run, and its
    member had succeeded) or `stale` (it was run, and a newer attempt was recorded, or another member has its place)."""

    word: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MembersSent(OfRun):
    """The messages of members of a stage were sent for the first time. `seconds`: since the call began that caused it,
    such as the record of the job that completed the stage before; 0.0 where that record and the message are one step.
    """

    stage: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DutyTakenOver(OfRun):
    """A duty was done here that had been given to somebody before, who hasn't confirmed it: a process that was killed,
    or that couldn't reach the broker (perhaps this one, a moment ago). `kind`: the first word of the duty's id, such as
    `send` or `tell`."""

    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStalled(OfRun):
    """A sweeper has found a stalled run. `resent`: it sends the run's unsettled members again."""

    resent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitBegan(OfRun):
    """A message waits, unacked, until the store or the broker works again. `error`: what it has met."""

    message_id: str
    error: Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitEnded(OfRun):
    """That wait is over, after so many `seconds`; or the worker stops, and has `given_up`: the message comes again."""

    message_id: str
    seconds: float
    given_up: bool


#: What an observer is told beside transitions. More kinds may be added.
Sighting: TypeAlias = (
    AttemptBegan | AttemptEnded | Absorbed | MembersSent | DutyTakenOver | RunStalled | WaitBegan | WaitEnded
)


class Observer(Middleware):
    """A middleware that is also told what happens to runs: ``broker.add_middleware(MyObserver())``."""

    def after_transition(self, broker: Broker, run_id: str, news: News, at: int) -> None:
        """A call of this process has done this to a run, `at` this time (UNIX milliseconds), and nothing that follows
        from it is sent yet. Each of the events that the log of runs has (see `dramatiq_clutch.news`) is told once,
        unless the reply of the call was lost. An error that this raises is logged, and changes nothing."""

    def observe(self, broker: Broker, sighting: Sighting) -> None:
        """This has been seen in this process, just now. Ignore a kind that you don't know. An error that this raises is
        logged, and changes nothing."""


def is_observed(broker: Broker) -> bool:
    """Whether it is worth while to make a sighting."""
    return bool([known for known in broker.middleware if isinstance(known, Observer)])  # faster than `any`


def tell(broker: Broker, run_id: str, news: Sequence[News], at: int) -> None:
    """Tell the broker's observers, in the order in which they were added."""
    for observer in broker.middleware if news else ():
        if isinstance(observer, Observer):
            for one in news:
                try:
                    observer.after_transition(broker, run_id, one, at)
                except Exception:
                    logger.exception("%r couldn't be told that run %s %s", observer, run_id, one.event)


def show(broker: Broker, sighting: Sighting) -> None:
    """Show the broker's observers what has been seen, in the order in which they were added."""
    for observer in broker.middleware:
        if isinstance(observer, Observer):
            try:
                observer.observe(broker, sighting)
            except Exception:
                logger.exception("%r couldn't be shown a sighting: %r", observer, sighting)
