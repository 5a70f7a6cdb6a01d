"""What the pages show, read through the public names: frozen values, so that two looks can be compared.

Each view takes a bounded number of reads, however many jobs or runs there are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, get_args
from urllib.parse import urlencode

from dramatiq import Broker

from ..errors import RunNotFound
from ..firings import CallbackStatus
from ..listing import RunPage, RunSummary, Wanted, count_runs, runs
from ..members import MemberPage, MemberState
from ..run import Run
from ..status import RunStatus
from ..stored.places import Place
from .hiding import Hiding

#: How many runs, members and callbacks a page has.
RUNS, MEMBERS, CALLBACKS = 25, 25, 25

#: How many nested runs are unfolded in one run, of how many runs they are looked for, and how many levels of them.
MOST_NESTED, MOST_UNFOLDED, LEVELS = 12, 6, 3

#: How many stages are drawn, at most.
MOST_STAGES = 60

#: How long a value in an address may be: as long as an id, or a name that somebody would search for.
LONGEST = 2_000

#: How many characters of a run's context are shown.
MOST_CONTEXT = 2_000

#: What may be chosen as the time since when runs began, and what the page calls it.
SINCE: dict[str, tuple[timedelta, str]] = {
    "15m": (timedelta(minutes=15), "15 minutes"),
    "1h": (timedelta(hours=1), "hour"),
    "24h": (timedelta(days=1), "24 hours"),
    "7d": (timedelta(days=7), "7 days"),
}


def chosen(params: Mapping[str, str], name: str) -> str | None:
    """A value of an address; None if it is missing or empty. Raises ValueError if it is too long."""
    value = params.get(name) or None
    if value is not None and len(value) > LONGEST:
        raise ValueError(f"{name} is too long: it takes {LONGEST:,} characters at most")
    return value


@dataclass(frozen=True, slots=True)
class ListWish:
    """Which runs are wanted. It is the address of a list."""

    state: str | None = None
    name: str | None = None
    tag: str | None = None
    since: str | None = None
    parent: str | None = None
    cursor: str | None = None

    @classmethod
    def of(cls, params: Mapping[str, str]) -> ListWish:
        """Raises ValueError."""
        wish = cls(*(chosen(params, name) for name in ("state", "name", "tag", "since", "parent", "cursor")))
        if wish.state is not None and wish.state not in get_args(Wanted):
            raise ValueError(f"there is no state {wish.state!r}; there are {', '.join(get_args(Wanted))}")
        if wish.since is not None and wish.since not in SINCE:
            raise ValueError(f"since is {wish.since!r}; it takes one of {', '.join(SINCE)}")
        return wish

    def address(self, page: str = "./", **changes: str | None) -> str:
        """The address of a list that differs from this one in some values. It begins anew unless a cursor is given."""
        wish = replace(self, **{"cursor": None, **changes})
        given = {name: value for name in wish.__slots__ if (value := getattr(wish, name)) is not None}
        return f"{page}?{urlencode(given, errors='replace')}" if given else page

    @property
    def filters(self) -> dict[str, str]:
        """The filters that are set, without the state."""
        named = {name: getattr(self, name) for name in ("name", "tag", "since", "parent")}
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True, slots=True)
class ListView:
    """A page of the list of runs, and how many runs there are in each state."""

    wish: ListWish
    counts: Mapping[str, int]
    page: RunPage


def list_view(broker: Broker, wish: ListWish) -> ListView:
    """Raises ValueError, RunNotFound, NotConfigured or StateUnavailable."""
    state: Any = wish.state
    page = runs(
        broker=broker,
        state=state,
        name=wish.name,
        tag=wish.tag,
        since=SINCE[wish.since][0] if wish.since else None,
        parent=wish.parent,
        limit=RUNS,
        cursor=wish.cursor,
    )
    return ListView(wish, count_runs(broker), page)


def found(broker: Broker, text: str) -> str | None:
    """The address of what a search finds: the run of this id, or the runs of this name, or those with this tag; None if
    there is nothing. Raises StateUnavailable."""
    try:
        Run(text, broker=broker).status()
        return RunWish(text).address()
    except RunNotFound:
        pass
    for filter_, page in (("name", runs(broker=broker, name=text, limit=1)), ("tag", None)):
        page = runs(broker=broker, tag=text, limit=1) if page is None else page
        if page.runs or page.cursor:
            return ListWish(**{filter_: text}).address()
    return None


@dataclass(frozen=True, slots=True)
class RunWish:
    """Which run is wanted, and which of its members. It is the address of a run's page."""

    id: str
    stage: str | None = None
    state: str | None = None
    cursor: str | None = None

    @classmethod
    def of(cls, params: Mapping[str, str]) -> RunWish:
        """Raises ValueError."""
        run_id = chosen(params, "id")
        if run_id is None:
            raise ValueError("the address lacks the id of a run: run?id=…")
        wish = cls(run_id, *(chosen(params, name) for name in ("stage", "state", "cursor")))
        if wish.state is not None and wish.state not in get_args(MemberState):
            raise ValueError(f"there is no state {wish.state!r}; there are {', '.join(get_args(MemberState))}")
        if wish.stage is not None and not (wish.stage.isascii() and wish.stage.isdecimal() and len(wish.stage) < 10):
            raise ValueError(f"stage is {wish.stage!r}; it takes the index of a stage")
        return wish

    def address(self, page: str = "run", **changes: str | None) -> str:
        """The address of a run's page that differs from this one in some values."""
        other: dict[str, Any] = {"cursor": None, **changes}
        wish = replace(self, **other)
        given = {name: value for name in wish.__slots__ if (value := getattr(wish, name)) is not None}
        return f"{page}?{urlencode(given, errors='replace')}"


@dataclass(frozen=True, slots=True)
class Nested:
    """A nested run, and those that are nested in it, as far as they are unfolded. `is_missed` says that nobody has
    looked for them."""

    summary: RunSummary
    below: tuple[Nested, ...] = ()
    has_more: bool = False
    is_missed: bool = False


@dataclass(frozen=True, slots=True)
class RunView:
    """A run's page. `nested` has the runs that are nested in it, by the index of their stage; `more_callbacks` says how
    many callbacks there are beyond those that are shown."""

    wish: RunWish
    status: RunStatus
    present: int
    stage: int
    nested: Mapping[int, tuple[Nested, ...]]
    has_more_nested: bool
    members: MemberPage
    context: str
    parents: tuple[str, ...] = ()
    callbacks: tuple[CallbackStatus, ...] = ()
    more_callbacks: int = 0

    @property
    def is_over(self) -> bool:
        """Whether the run is at rest."""
        return self.status.state in ("succeeded", "failed", "cancelled")

    @property
    def drawn(self) -> range:
        """The stages that are drawn: of many, those around the one that is looked at."""
        count = len(self.status.stages)
        first = max(min(self.stage - MOST_STAGES // 2, count - MOST_STAGES), 0)
        return range(first, min(first + MOST_STAGES, count))

    @property
    def misses_nested(self) -> bool:
        """Whether there may be runs nested in those that are shown for which nobody has looked."""
        return any(map(_misses, (one for some in self.nested.values() for one in some)))


def _misses(nested: Nested) -> bool:
    return nested.is_missed or any(map(_misses, nested.below))


def run_view(broker: Broker, wish: RunWish, hiding: Hiding) -> RunView:
    """Raises ValueError, RunNotFound, NewerRelease, DamagedState, NotConfigured or StateUnavailable."""
    run = Run(wish.id, broker=broker)
    status = hiding.status(run.status())
    begun = [index for index, stage in enumerate(status.stages) if stage.state != "waiting"]
    present = begun[-1] if begun else 0
    shown = present if wish.stage is None else int(wish.stage)
    if status.stages and shown >= len(status.stages):
        raise ValueError(f"the run has no stage {shown}: it has {len(status.stages)}, from 0 on")
    state: Any = wish.state
    members = (
        run.members(stage=shown, state=state, limit=MEMBERS, cursor=wish.cursor) if status.stages else MemberPage(())
    )
    callbacks = run.callbacks()
    below, has_more = _nested(broker, wish.id, 1, [MOST_UNFOLDED])
    nested: dict[int, tuple[Nested, ...]] = {}
    for one in below:
        place = Place.of_child(one.summary.run_id)
        if place is not None:
            nested[place.stage] = (*nested.get(place.stage, ()), one)
    return RunView(
        wish=wish,
        status=status,
        present=present,
        stage=shown,
        nested=nested,
        has_more_nested=has_more,
        members=MemberPage(tuple(map(hiding.member, members)), members.cursor),
        context=_context(run, hiding),
        parents=_parents(run),
        callbacks=callbacks[:CALLBACKS],
        more_callbacks=max(len(callbacks) - CALLBACKS, 0),
    )


def _nested(broker: Broker, run_id: str, level: int, left: list[int]) -> tuple[tuple[Nested, ...], bool]:
    """The runs that are nested in one, and whether there are more. `left` says in how many runs it may be looked for
    others, so that a wide tree doesn't cost more than a narrow one."""
    left[0] -= 1
    page = runs(broker=broker, parent=run_id, limit=MOST_NESTED)
    unfolded: list[Nested] = []
    for child in page:
        if level == LEVELS or left[0] <= 0:
            unfolded.append(Nested(child, is_missed=True))
            continue
        try:
            unfolded.append(Nested(child, *_nested(broker, child.run_id, level + 1, left)))
        except RunNotFound:  # it has succeeded meanwhile
            continue
    return tuple(unfolded), page.cursor is not None


def _parents(run: Run) -> tuple[str, ...]:
    """The ids of the runs around one, the outermost first."""
    above: list[str] = []
    parent = run.parent
    while parent is not None:
        above.append(parent.run_id)
        parent = parent.parent
    return tuple(reversed(above))


def _context(run: Run, hiding: Hiding) -> str:
    if hiding.everything:
        return ""
    context = dict(run.context)
    return (
        hiding.text(json.dumps(context, ensure_ascii=False, default=repr, indent=1))[:MOST_CONTEXT] if context else ""
    )
