"""The worlds that are explored: a clutch each, what may happen to it, and how it must end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import dramatiq

from dramatiq_clutch import Clutch, previous_results
from dramatiq_clutch.job import current_job

from .processes import Laboratory


class Fails(Exception):
    """An attempt fails, and another one comes."""


class Dies(Exception):
    """An attempt fails, and no other comes by itself."""


class Actors:
    """What the clutches of the worlds are made of. A job's result is its name, with what it has seen in brackets: so a
    run's result tells which jobs it is made of, and in which order."""

    def __init__(self, laboratory: Laboratory) -> None:
        self.laboratory = laboratory
        self.step = self._actor("step", _step)
        self.listing = self._actor("listing", _listing)
        self.nesting = self._actor("nesting", self._nesting)
        self.callback = self._actor("callback", _callback)

    def _actor(self, name: str, function: Callable[..., Any]) -> Any:
        return dramatiq.actor(actor_name=name, broker=self.laboratory.broker, throws=Dies)(function)

    def clutch(self, **more: Any) -> Clutch:
        return Clutch(broker=self.laboratory.broker, **more)

    def loud(self) -> Clutch:
        """A clutch with all callbacks."""
        return self.clutch(
            **dict.fromkeys(("on_failure", "on_death", "on_success", "on_failed", "on_finish"), self.callback)
        )

    def _nesting(self, name: str, *inner: str) -> Any:
        return self.clutch().parallel([self.step.message(one) for one in inner]).nest()


def _step(name: str, *given: Any, sees: bool = False, fails: int = 0, dies: int = 0) -> str:
    """A job that fails in its first so many attempts, or dies in its run's first so many epochs."""
    job = current_job()
    assert job is not None
    if job.attempt < fails:
        raise Fails(name)
    if job.tag.epoch < dies:
        raise Dies(name)
    seen = [*given, *(previous_results() if sees else ())]
    return f"{name}({','.join(map(str, seen))})" if seen else name


def _listing(*names: str) -> list[str]:
    return list(names)


def _callback(status: dict[str, Any]) -> None:
    pass


@dataclass(frozen=True)
class Bounds:
    """How much may happen in a world. `early`: other calls may come while `run()` is still at work, as they may where
    its id is known before."""

    workers: int = 2
    sweepers: int = 1
    kills: int = 0
    lapses: int = 0
    lost: int = 0
    doubles: int = 0
    early: bool = False

    @property
    def faults(self) -> tuple[int, int, int, int]:
        return self.kills, self.lapses, self.lost, self.doubles


#: Builds the clutch of a world.
Build = Callable[[Actors], Clutch]


@dataclass(frozen=True)
class World:
    """A clutch and what may happen to it.

    `ends` has the states in which its run may come to rest, each with the result (None: there is none), and `events`
    how often which callback must have been sent by then. `calls` are made besides `run()`, each once, at any moment.
    `pauses_before_seal` says that leases may lapse before its run is sealed; `deletes`, that a run may make room for
    another one, but not before its `on_finish` is sent. Unless it `waits_for_all`, its first stage may be complete
    while members are unsettled; if it `fails_fast`, no job is wanted after a death; if it is `timed`, its run has
    timings and keeps its results, and so all of them. The suite explores it within the `smoke` bounds, if there are any
    that take a few seconds, and the command within each of the `full` ones. `probes` must be reached by these together,
    or the searches prove nothing.
    """

    name: str
    build: Build
    ends: Mapping[str, Any]
    smoke: Bounds | None = None
    full: tuple[Bounds, ...] = ()
    calls: tuple[str, ...] = ()
    events: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    share: int | None = None
    limit: int | None = None
    waits_for_all: bool = True
    fails_fast: bool = False
    timed: bool = False
    probes: frozenset[str] = frozenset()
    pauses_before_seal: bool = False
    deletes: bool = False


#: For small worlds: a search for each kind of fault, one for two that go together, and one with a third worker. All at
#: once would be too many states.
FAULTS = (
    Bounds(kills=2),
    Bounds(lapses=1),
    Bounds(workers=1, kills=1, lapses=1),
    Bounds(lost=1),
    Bounds(doubles=1),
    Bounds(workers=3, kills=1),
)

#: For larger ones.
FEWER = (
    Bounds(kills=1),
    Bounds(workers=1, lapses=1),
    Bounds(workers=1, lost=1),
    Bounds(workers=1, doubles=1),
)

#: For those in which others call, too.
CALLS = (
    Bounds(),
    Bounds(workers=1, kills=1),
    Bounds(workers=1, doubles=1),
    Bounds(workers=1, early=True),
)

WORLDS: dict[str, World] = {}


def _world(name: str, **more: Any) -> Callable[[Build], Build]:
    """Add a world whose clutch the function builds."""

    def add(build: Build) -> Build:
        WORLDS[name] = World(name, build, **more)
        return build

    return add


class Either(tuple[Any, ...]):
    """What a run may come to, where that depends on which of its jobs is first."""


#: How often each callback is sent where nothing goes wrong.
QUIET = {"on_failure": 0, "on_death": 0, "on_success": 1, "on_failed": 0, "on_finish": 1}


@_world(
    "two stages",
    ends={"succeeded": "c(a,b)"},
    smoke=Bounds(kills=1),
    full=FAULTS,
    probes=frozenset({"guard says done", "record says duplicate", "confirm says lost", "a duty was taken over"}),
)
def _two_stages(actors: Actors) -> Clutch:
    step = actors.step.message
    return actors.clutch().parallel(step("a"), step("b")).then(step("c", sees=True))


@_world(
    "series",
    ends={"succeeded": "c(b(a))"},
    events={"succeeded": QUIET},
    smoke=Bounds(workers=1, kills=1),
    full=FEWER,
)
def _series(actors: Actors) -> Clutch:
    step = actors.step.message
    return actors.loud().then(step("a")).then(step("b"), pipe=True).then(step("c"), pipe=True)


@_world(
    "limit",
    ends={"succeeded": ["a", "b", "c"]},
    limit=1,
    smoke=Bounds(workers=1, kills=1),
    full=FEWER,
)
def _limit(actors: Actors) -> Clutch:
    step = actors.step.message
    return actors.clutch().parallel(step("a"), step("b", fails=1), step("c"), limit=1)


@_world(
    "map",
    ends={"succeeded": ["m(1)", "m(2)"]},
    smoke=Bounds(workers=1, kills=1),
    full=FAULTS,
)
def _map(actors: Actors) -> Clutch:
    return actors.clutch().then(actors.listing.message(1, 2)).map(actors.step.message("m"))


@_world(
    "nested, written down",
    ends={"succeeded": ["a", "c(b)"]},
    smoke=Bounds(workers=1, kills=1),
    full=FEWER,
    probes=frozenset({"create says exists", "confirm says lost", "a duty was taken over"}),
)
def _nested(actors: Actors) -> Clutch:
    step = actors.step.message
    inner = actors.clutch().then(step("b")).then(step("c"), pipe=True)
    return actors.clutch().parallel(step("a"), inner)


@_world(
    "nested, its first stage maps",
    ends={"succeeded": ["m(1)", "m(2)"]},
    smoke=Bounds(workers=1, kills=1),
    full=FEWER,
    probes=frozenset({"create says exists", "confirm says lost", "a duty was taken over"}),
)
def _nested_map(actors: Actors) -> Clutch:
    inner = actors.clutch().map(actors.step.message("m"))
    return actors.clutch().then(actors.listing.message(1, 2)).then(inner)


@_world(
    "nested, from a running job",
    ends={"succeeded": "c(['a'])"},
    smoke=Bounds(workers=1, kills=1),
    full=FEWER,
)
def _nesting(actors: Actors) -> Clutch:
    return actors.clutch().then(actors.nesting.message("n", "a")).then(actors.step.message("c"), pipe=True)


@_world(
    "retry of a failed run",
    ends={"succeeded": "c(a,b)", "failed": None},
    events={"succeeded": {"on_failure": 1, "on_failed": 1, "on_finish": 2}},
    calls=("retry",),
    smoke=Bounds(workers=1, kills=0),
    full=CALLS,
)
def _retry(actors: Actors) -> Clutch:
    step = actors.step.message
    callbacks = dict.fromkeys(("on_failure", "on_failed", "on_finish"), actors.callback)
    return actors.clutch(**callbacks).parallel(step("a"), step("b", dies=1)).then(step("c", sees=True))


@_world(
    "resend",
    ends={"succeeded": "c(a,b)"},
    calls=("resend",),
    smoke=Bounds(workers=1),
    full=CALLS,
)
def _resend(actors: Actors) -> Clutch:
    step = actors.step.message
    return actors.clutch().parallel(step("a"), step("b")).then(step("c", sees=True))


@_world(
    "cancel",
    ends={"succeeded": ["a", "b"], "cancelled": None},
    events={"succeeded": {"on_finish": 1}, "cancelled": {"on_finish": 1}},
    calls=("cancel",),
    smoke=Bounds(workers=1),
    full=CALLS,
)
def _cancel(actors: Actors) -> Clutch:
    step = actors.step.message
    return actors.clutch(on_finish=actors.callback).parallel(step("a"), actors.clutch().then(step("b")))


@_world(
    "cancel, then retry",
    ends={"succeeded": "c(a,b)", "cancelled": None},
    calls=("cancel", "retry"),
    smoke=Bounds(workers=1),
    full=CALLS,
)
def _cancel_and_retry(actors: Actors) -> Clutch:
    step = actors.step.message
    return actors.clutch().parallel(step("a"), step("b")).then(step("c", sees=True))


@_world(
    "cancel nested, then retry",
    ends={"succeeded": ["b"], "cancelled": None},
    calls=("cancel", "retry"),
    smoke=Bounds(workers=1),
    full=CALLS,
    probes=frozenset({"create says exists", "retry says retried"}),
)
def _cancel_nested_and_retry(actors: Actors) -> Clutch:
    return actors.clutch().parallel(actors.clutch().then(actors.step.message("b")))


@_world(
    "replace",
    ends={"succeeded": ["a", "b"], "cancelled": None},
    events={"succeeded": {"on_finish": 1}, "cancelled": {"on_finish": 1}},
    calls=("replace",),
    smoke=Bounds(workers=1),
    full=(Bounds(), Bounds(workers=1, kills=1), Bounds(workers=1, lost=1)),
    probes=frozenset({"delete says deleted", "delete says owing", "guard says over"}),
    deletes=True,
)
def _replace(actors: Actors) -> Clutch:
    step = actors.step.message
    return actors.clutch(on_finish=actors.callback).parallel(step("a"), step("b"))


@_world(
    "replace, twice",
    ends={"succeeded": "a", "cancelled": None},
    events={"succeeded": {"on_finish": 1}, "cancelled": {"on_finish": 1}},
    calls=("replace", "replace"),
    full=(Bounds(workers=1, sweepers=0),),
    probes=frozenset({"delete says deleted", "delete says owing", "create says exists", "guard says over"}),
    deletes=True,
)
def _replace_twice(actors: Actors) -> Clutch:
    return actors.clutch(on_finish=actors.callback).then(actors.step.message("a"))


@_world(
    "replace nested",
    ends={"succeeded": ["a", "b"], "cancelled": None},
    events={"succeeded": {"on_finish": 1}, "cancelled": {"on_finish": 1}},
    calls=("replace",),
    smoke=Bounds(workers=1),
    full=(Bounds(), Bounds(workers=1, kills=1)),
    probes=frozenset({"delete says deleted", "guard says over"}),
    deletes=True,
)
def _replace_nested(actors: Actors) -> Clutch:
    step = actors.step.message
    return actors.clutch(on_finish=actors.callback).parallel(step("a"), actors.clutch().then(step("b")))


@_world(
    "shares",
    ends={"succeeded": list("abcde")},
    share=2,
    smoke=Bounds(workers=1),
    full=(Bounds(), Bounds(workers=1, kills=1), Bounds(workers=1, lost=1)),
    probes=frozenset({"a message says leads", "a duty was taken over"}),
)
def _shares(actors: Actors) -> Clutch:
    return actors.clutch().parallel([actors.step.message(name) for name in "abcde"])


@_world(
    "allow_failures",
    ends={"succeeded": "c([None, 'b'])"},
    events={"succeeded": {"on_failure": 1, "on_death": 1, "on_success": 1, "on_finish": 1}},
    smoke=Bounds(workers=1),
    full=(Bounds(), Bounds(workers=1, lost=1), Bounds(workers=1, doubles=1)),
)
def _allow_failures(actors: Actors) -> Clutch:
    step = actors.step.message
    members = step("a", dies=1), step("b", fails=1)
    return actors.loud().parallel(*members, allow_failures=True).then(step("c"), pipe=True)


@_world(
    "fail fast",
    ends={"failed": None},
    events={"failed": {"on_failure": 1, "on_death": 1, "on_success": 0, "on_finish": 1}},
    limit=2,
    fails_fast=True,
    smoke=Bounds(workers=1),
    full=(Bounds(), Bounds(workers=1, kills=1)),
    probes=frozenset({"guard says over", "record says over"}),
)
@_world(
    "fail fast, then retry",
    ends={"failed": None, "succeeded": ["a", "b", "c"]},
    events={"failed": {"on_failure": 1, "on_death": 1, "on_success": 0, "on_finish": 1}},
    calls=("retry",),
    limit=2,
    fails_fast=True,
    full=(Bounds(workers=1), Bounds(), Bounds(workers=1, early=True)),
    probes=frozenset({"guard says over", "record says over", "retry says retried"}),
)
def _fail_fast(actors: Actors) -> Clutch:
    step = actors.step.message
    nested = actors.clutch().then(step("b"))
    return actors.loud().parallel(step("a", dies=1), nested, step("c"), limit=2, fail_fast=True)


@_world(
    "enough",
    ends={"succeeded": Either(("d(a,None)", "d(None,b)"))},
    events={"succeeded": {"on_success": 1, "on_failed": 0, "on_finish": 1}},  # `d` fails if a reply is lost to it
    waits_for_all=False,
    smoke=Bounds(workers=1),
    full=FEWER,
    probes=frozenset({"guard says over", "record says over", "cancel says cancelled"}),
)
def _enough(actors: Actors) -> Clutch:
    step = actors.step.message
    return actors.loud().parallel(step("a"), actors.clutch().then(step("b")), enough=1).then(step("d", sees=True))


@_world(
    "deadline",
    ends={"failed": None, "succeeded": "c(a,b)"},
    events={"failed": {"on_failure": 1, "on_death": 0, "on_success": 0, "on_finish": 1}, "succeeded": QUIET},
    smoke=Bounds(workers=1, sweepers=0, lapses=1),
    full=(Bounds(workers=1, lapses=1), Bounds(workers=2, lapses=1)),
    probes=frozenset({"guard says over", "record says over", "cancel says cancelled"}),
)
def _deadline(actors: Actors) -> Clutch:
    step = actors.step.message
    begun = actors.loud().parallel(step("a"), actors.clutch().then(step("b")), deadline=60_000)
    return begun.then(step("c", sees=True), deadline=60_000)


@_world(
    "deadline, then retry",
    ends={"failed": None, "succeeded": "c(a)"},
    calls=("retry",),
    smoke=Bounds(workers=1, lapses=1),
    full=(Bounds(workers=1, lapses=1), Bounds(workers=2, lapses=1)),  # a killed retry() is late once more
    probes=frozenset({"guard says over", "retry says retried"}),
)
def _deadline_and_retry(actors: Actors) -> Clutch:
    step = actors.step.message
    return actors.clutch(deadline=60_000).then(step("a")).then(step("c", sees=True))


@_world(
    "timings",
    ends={"succeeded": [["c"], "b"]},
    smoke=Bounds(workers=1),
    full=FEWER,
    timed=True,
)
def _timings(actors: Actors) -> Clutch:
    members = actors.nesting.message("n", "c"), actors.step.message("b", fails=1)
    return actors.clutch(timings=True, keep_results=True).parallel(*members)


@_world(
    "timings, cancel, then retry",
    ends={"succeeded": ["a", "b"], "cancelled": None},
    calls=("cancel", "retry"),
    smoke=Bounds(workers=1),
    full=(Bounds(), Bounds(workers=1, kills=1)),
    timed=True,
    probes=frozenset({"cancel says cancelled", "record says stale", "retry says retried", "guard says over"}),
)
def _timings_cancel_and_retry(actors: Actors) -> Clutch:
    step = actors.step.message
    return actors.clutch(timings=True, keep_results=True).parallel(step("a"), step("b", fails=1))


#: Where runs were lost once, for they were taken out of the index while somebody brought them to work, and that one
#: died before it had done what the run then owed.
#:
#: A producer pauses for longer than a lease between the last row of its plan and the seal, and meets a sweeper that has
#: found no run. And `retry()` puts the run down in the index before its transition, and meets a `cancel()` that takes
#: it out, for the run has come to rest.
ONCE_LOST = (
    World(
        "a pause before the seal",
        _two_stages,
        ends={"succeeded": "c(a,b)"},
        smoke=Bounds(workers=1, kills=1, lapses=1),
        pauses_before_seal=True,
    ),
    World(
        "a retry whose caller dies meets a cancel",
        _cancel_and_retry,
        ends={"succeeded": "c(a,b)", "cancelled": None},
        calls=("cancel", "retry"),
        smoke=Bounds(workers=1, kills=1),
    ),
)
