"""Looks through the runs of an application: those that are at work, and those that have ended."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Literal, get_args

from dramatiq import Broker, get_broker

from .durations import milliseconds
from .engine import Engine, engine_of
from .enlisting import look_at_found
from .errors import DamagedState, RunNotFound
from .register import Glance
from .status import ALMOST, State
from .stored.entries import DIGITS, Entry, label, place_of, time_of
from .stored.places import Place

#: What `runs` may be asked for: a state as a status shows it, or `stalled`.
Wanted = Literal["running", "failing", "failed", "succeeded", "cancelled", "stalled"]

#: The version of what `RunPage.to_dict` gives.
SCHEMA = 1

#: How many runs a page has, at most.
MOST = 1_000

#: How many members are looked at together, of one stage or of several, to see which of them are nested runs.
CHUNK = 250

#: How often the register is asked for one page, at most, where runs that it has aren't as wanted.
ROUNDS = 10

AFTER = re.compile(rf"\d{{{DIGITS}}}.+", re.ASCII | re.DOTALL)
MEMBER = re.compile(r"(\d{1,9})\.(\d{1,9})", re.ASCII)


@dataclass(frozen=True, slots=True)
class RunSummary:
    """How a run stands, in brief; ``Run(summary.run_id).status()`` says more.

    `name` is that of its clutch, and `tags` are those that it was given; `state` is as in a status. `created`,
    `updated`, `ended` and `stalled_since` are UNIX milliseconds; `ended` is None as long as the run is at work. `stage`
    is the index of the present stage, of `stages`. `total`, `succeeded`, `failing` and `dead` are numbers of its
    members; `total` is None as long as it isn't known. Of a run that has succeeded these are None and 0.

    `progress` goes from 0.0 to 1.0, which it is when the run has succeeded and not before. All stages weigh the same,
    and a nested run counts when it has succeeded.
    """

    run_id: str
    name: str | None
    tags: tuple[str, ...]
    state: State
    created: int
    updated: int
    ended: int | None
    stage: int
    stages: int
    total: int | None
    succeeded: int
    failing: int
    dead: int
    progress: float
    stalled_since: int | None

    def to_dict(self) -> dict[str, Any]:
        """The summary as a dict that JSON can write, with a field for each of its own: ``summary.to_dict()["state"]``.
        The fields are those of ``RunPage.to_dict()``."""
        return {**dataclasses.asdict(self), "tags": list(self.tags)}


@dataclass(frozen=True, slots=True)
class RunPage:
    """Some of the runs that were asked for. For example, ``[run.run_id for run in page]`` are their ids.

    `runs` has a summary of each. `cursor` is where the next page begins: ``runs(cursor=page.cursor)``, with the same
    filters; None if there is none. A page may have fewer runs than were asked for, although there is a next one.
    """

    runs: tuple[RunSummary, ...]
    cursor: str | None = None

    def __iter__(self) -> Iterator[RunSummary]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    def to_dict(self) -> dict[str, Any]:
        """The page as a dict that JSON can write: ``{"schema": 1, "runs": […], "cursor": null}``, where each run is as
        ``RunSummary.to_dict()`` has it. `schema` gets higher when a field goes, or changes its meaning; fields may be
        added at any time."""
        return {"schema": SCHEMA, "runs": [run.to_dict() for run in self.runs], "cursor": self.cursor}


def runs(
    *,
    broker: Broker | None = None,
    state: Wanted | None = None,
    name: str | None = None,
    tag: str | None = None,
    since: datetime | timedelta | int | None = None,
    before: datetime | timedelta | int | None = None,
    parent: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> RunPage:
    """The runs of this application, newest first, one page at a time. A page costs a few round trips to the state
    store, however many runs there are. For example, what has failed since yesterday::

        page = runs(state="failed", since=timedelta(days=1))
        for run in page:
            print(run.run_id, run.name, run.progress)
        older = runs(state="failed", since=timedelta(days=1), cursor=page.cursor)

    While runs come and go, a page has each run once, and those that were there all the time are on one of the pages.
    A run that has ended is there for the middleware's `history_ttl` if it has succeeded, for its `run_ttl` if it has
    failed or was cancelled; and as long as `history_max` others haven't ended after it.

    Parameters:
      broker: default is the global broker.
      state: only runs that are shown under this state; or those that are `stalled`, which are running or failing, too.
      name: only runs of clutches with this name.
      tag: only runs that were given this tag.
      since: only runs that began then or later: a datetime, UNIX milliseconds, or how long ago as a timedelta.
      before: only runs that began earlier than that, which is said in the same way.
      parent: the id of a run: only runs that are nested in it and are still there, in written order. Of a nested run
        that has succeeded nothing stays. Without this, only runs that aren't nested are listed.
      limit: how many runs the page may have, from 1 to 1,000.
      cursor: where the page begins, from the page before.

    Raises:
      ValueError: a `state` that there isn't, a `limit` out of range, or a `cursor` that no page has given.
      TypeError: `since` or `before` isn't a time.
      RunNotFound: there is no run `parent`.
      NotConfigured: the broker has no ClutchMiddleware, or that has no backend.
      StateUnavailable: the state store is away.
    """
    engine = engine_of(broker or get_broker())
    if type(limit) is not int or not 1 <= limit <= MOST:
        raise ValueError(f"limit is {limit!r}; it is how many runs the page may have, from 1 to {MOST:,}")
    filters = filters_of(engine, state=state, name=name, tag=tag, since=since, before=before)
    if cursor is not None and not (AFTER if parent is None else MEMBER).fullmatch(cursor):
        raise ValueError(f"no page has given the cursor {cursor!r}: it takes the cursor of a page, with its filters")
    if parent is not None:
        return _nested(engine, parent, filters, limit, cursor or "0.0")
    return _listed(engine, filters, limit, filters.after(cursor))


def count_runs(broker: Broker | None = None) -> dict[str, int]:
    """How many runs of this application `runs` would find in each state, such as ``{"running": 3, "failing": 1,
    "failed": 0, "succeeded": 9120, "cancelled": 2, "stalled": 0}``. A run that is `stalled` is also counted as running
    or failing. This takes one round trip, however many runs there are.

    It counts what is known of the runs without looking at them. Where a process was killed, or a run has expired, that
    is put right when `runs` or a sweeper comes by.

    Raises NotConfigured or StateUnavailable.
    """
    engine = engine_of(broker or get_broker())
    labels = [_label_of(state) for state in get_args(Wanted)]
    return dict(zip(get_args(Wanted), engine.backend.count(labels, application=engine.application), strict=True))


@dataclass(frozen=True, slots=True)
class Filters:
    """Which runs are wanted. `since` and `before` are UNIX milliseconds."""

    state: Wanted | None
    name: str | None
    tag: str | None
    since: int
    before: int | None = None

    @property
    def labels(self) -> list[str]:
        """What the register has the wanted runs under."""
        labels = [_label_of(self.state)] if self.state else []
        labels += [label("name", self.name)] if self.name is not None else []
        labels += [label("tag", self.tag)] if self.tag is not None else []
        return labels or [label("all")]

    def after(self, cursor: str | None = None) -> str:
        """Where to begin to look through the register: at the cursor, but not at runs that are too new. Of two places
        the one that comes first as a text has the older run."""
        latest = "" if self.before is None else time_of(self.before)
        return min(filter(None, (cursor, latest)), default="")

    def want(self, glance: Glance) -> bool:
        """Whether a run is wanted that stands like this."""
        return (
            (
                self.state is None
                or glance.state == self.state
                or (self.state == "stalled" and glance.stalled is not None)
            )
            and (self.name is None or glance.name == self.name)
            and (self.tag is None or self.tag in glance.tags)
            and glance.created >= self.since
            and (self.before is None or glance.created < self.before)
        )


def filters_of(
    engine: Engine,
    *,
    state: Wanted | None,
    name: str | None,
    tag: str | None,
    since: datetime | timedelta | int | None,
    before: datetime | timedelta | int | None,
) -> Filters:
    """The filters that a user asks for, checked. Raises ValueError or TypeError."""
    earliest, latest = _time(engine, since, "since"), _time(engine, before, "before")
    return Filters(_valid(state), name, tag, earliest or 0, latest)


def looked_through(
    engine: Engine, filters: Filters, after: str, together: int
) -> Iterator[Sequence[tuple[str, Entry]]]:
    """What the register has of the wanted runs, newest first, some of them at a time, at most so many `together`. Each
    lot is asked for when it is wanted, and begins at the place where the one before has ended. So runs that come, go or
    turn meanwhile change nothing, and each is there once. Raises StateUnavailable."""
    while True:
        found = engine.backend.look_through(
            filters.labels, together, after=after, since=filters.since, application=engine.application
        )
        yield found.runs
        after = found.left_off
        if not after:
            return


def _listed(engine: Engine, filters: Filters, limit: int, after: str) -> RunPage:
    shown: list[RunSummary] = []
    for _ in range(ROUNDS):
        free = limit - len(shown)
        found = engine.backend.look_through(
            filters.labels, free + 1, after=after, since=filters.since, application=engine.application
        )
        some, after = found.runs, found.left_off
        if len(some) > free:  # it is known now that there are more
            some = some[:free]
            after = place_of(*some[-1])
        glances = look_at_found(engine, some)
        shown += [_summary(run_id, glance) for run_id, glance in glances if filters.want(glance)]
        if not after or len(shown) == limit:
            break
    return RunPage(tuple(shown), after or None)


def _nested(engine: Engine, parent: str, filters: Filters, limit: int, cursor: str) -> RunPage:
    """The runs nested in one: their ids are derived from it, and those that are there are shown. At most `MOST` are
    looked at for a page, in `MOST` stages at most, and no stage that has none."""
    backend = engine.backend
    (head,) = backend.look_at([parent])
    if isinstance(head, DamagedState):
        raise head
    if head is None:
        raise RunNotFound(f"there is no run {parent!r}: it never was, or has expired")
    stage, member = map(int, cursor.split("."))
    begun = min(head.stage + 1, head.stages)
    stages = range(stage, min(stage + MOST, begun))
    places = (
        Place(parent, one, index, 0, head.generation)
        for one, total in zip(stages, backend.nesting(parent, stages, generation=head.generation), strict=True)
        for index in range(member if one == stage else 0, total)
    )
    shown: list[RunSummary] = []
    for _ in range(MOST // CHUNK):
        some = list(islice(places, CHUNK))
        if not some:
            break
        for place, glance in zip(some, backend.look_at([place.child_id for place in some]), strict=True):
            if not isinstance(glance, Glance) or glance.generation != place.child_generation:
                continue  # it is a job, hasn't begun, has succeeded, or can't be read
            if len(shown) == limit:
                return RunPage(tuple(shown), f"{place.stage}.{place.member}")
            if filters.want(glance):
                shown.append(_summary(place.child_id, glance))
    left = next(places, None)
    if left is not None:
        return RunPage(tuple(shown), f"{left.stage}.{left.member}")
    return RunPage(tuple(shown), f"{stages.stop}.0" if stages.stop < begun else None)


def _summary(run_id: str, glance: Glance) -> RunSummary:
    state: State = glance.state  # type: ignore[assignment]
    done = glance.stage + (glance.succeeded / glance.total if glance.total else 0.0)
    return RunSummary(
        run_id=run_id,
        name=glance.name or None,
        tags=glance.tags,
        state=state,
        created=glance.created,
        updated=glance.updated,
        ended=glance.ended,
        stage=glance.stage,
        stages=glance.stages,
        total=glance.total,
        succeeded=glance.succeeded,
        failing=glance.failing,
        dead=glance.dead,
        progress=1.0 if state == "succeeded" else min(done / max(glance.stages, 1), ALMOST),
        stalled_since=glance.stalled,
    )


def _label_of(state: Wanted) -> str:
    return label("stalled") if state == "stalled" else label("state", state)


def _valid(state: Wanted | None) -> Wanted | None:
    if state is not None and state not in get_args(Wanted):
        raise ValueError(f"state is {state!r}; it takes one of {', '.join(get_args(Wanted))}")
    return state


def _time(engine: Engine, time: datetime | timedelta | int | None, what: str) -> int | None:
    """The time in UNIX milliseconds."""
    if time is None:
        return None
    given: Any = time
    if isinstance(given, datetime):
        return int(given.timestamp() * 1000)
    if isinstance(given, timedelta):
        return engine.now() - milliseconds(given, what)
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    raise TypeError(f"{what} is {time!r}; it takes a datetime, UNIX milliseconds, or how long ago as a timedelta")
