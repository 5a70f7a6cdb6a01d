"""Steers many runs: those that filters select are cancelled, retried, sent again or deleted, a few at a time.

A walk goes through the register from the newest run to the oldest, from place to place. A run's place is when it began,
which nothing changes that is done to it. So whatever runs turn to meanwhile, each is met at most once, and a run that
fails again as soon as it was retried makes no walk endless. What is remembered of a walk is only its place, which each
outcome has as its `cursor`: whoever has that can go on, in any process.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from dramatiq import Broker, get_broker

from .asynchronous import in_a_thread
from .engine import Engine, engine_of
from .enlisting import look_at_found
from .errors import RunNotFound, StateUnavailable
from .listing import AFTER, Filters, Wanted, filters_of, looked_through
from .register import Glance
from .run import Run
from .stored.entries import Entry, label, place_of
from .waiting import PIECE

#: How many runs are steered at once. Each of the threads that do it holds one connection to the store.
AT_ONCE = 8

#: How many runs the register is asked for together: by a walk, and when runs are only counted.
TOGETHER, COUNTED = 100, 1_000

#: States in which there is something to cancel or to send, and those in which there is something to retry.
AT_WORK, NOT_DONE = frozenset({"running", "failing"}), frozenset({"running", "failing", "failed", "cancelled"})
ANY = frozenset({*NOT_DONE, "succeeded"})


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What came of one run that was selected. For example, ``[one.run_id for one in found.retry() if one.done]``.

    `done` says whether something was done: it is False, without an `error`, if there was nothing to do any more, as for
    a run that has succeeded meanwhile, or has gone. `error` is what the method of the handle has raised, such as a
    RunAtWork; the runs after it are done nevertheless. `cursor` is where to go on after this run:
    ``found.retry(cursor=outcome.cursor)``.
    """

    run_id: str
    done: bool
    error: Exception | None
    cursor: str


@dataclass(frozen=True)
class Outcomes:
    """The outcomes of a walk, for a ``for`` or an ``async for``. Each loop is a walk, from the cursor on."""

    _begin: Callable[[], Walk]

    def __iter__(self) -> Iterator[RunOutcome]:
        going = self._begin()
        try:
            for step in going.steps:
                yield from step
        finally:
            going.end()

    async def __aiter__(self) -> AsyncIterator[RunOutcome]:
        going = await in_a_thread(self._begin)
        try:
            while step := await in_a_thread(partial(next, going.steps, None)):
                for outcome in step:
                    yield outcome
        finally:
            going.end(waits=False)


@dataclass(frozen=True)
class RunSelection:
    """The runs that filters select, as they are when they are looked for; see `select_runs`.

    Its methods return the outcomes to loop over, with ``for`` or ``async for``, and nothing is done before the loop, or
    after it is left::

        for outcome in select_runs(state="failed", name="invoices").retry():
            print(outcome.run_id, outcome.error or outcome.done)

    A loop takes the newest run first, and each run once: those that had begun when the loop began, and are as wanted
    when their turn comes. Eight are done at once, so up to seven others may be done when the loop is left after a run.
    If a process dies, the next one goes on with the `cursor` of the last outcome that is known: whatever comes after
    that is done already, or is found again.

    An error of one run stops no other: it is in the outcome. But if the state store is away, the loop raises
    StateUnavailable, and goes on with the `cursor` later.
    """

    _broker: Broker | None
    _filters: Filters
    _is_bounded: bool

    def count(self, up_to: int = 10_000) -> int:
        """How many runs are selected at present; `up_to` if there are at least so many. For example,
        ``select_runs(state="failed").count()``. It looks at each of them and changes none.

        Raises ValueError for an `up_to` below 1; NotConfigured or StateUnavailable.
        """
        if type(up_to) is not int or up_to < 1:
            raise ValueError(f"up_to is {up_to!r}; it is how many runs are counted at most, from 1 on")
        engine, filters, counted = self._engine, self._filters, 0
        for found in looked_through(engine, filters, filters.after(), min(up_to, COUNTED)):
            counted += sum(filters.want(glance) for _, glance in look_at_found(engine, found))
            if counted >= up_to:
                return up_to
        return counted

    def cancel(self, *, cursor: str | None = None) -> Outcomes:
        """Cancel them, as `Run.cancel` does: ``for outcome in select_runs(tag="customer-7").cancel(): ...``. There is
        nothing to do for runs at rest.

        Parameters:
          cursor: where to go on, from the last outcome of a loop that was left.

        Raises ValueError for a selection without filters that isn't said to be of everything, or for a `cursor` that no
        outcome has given. The loop raises NotConfigured or StateUnavailable.
        """
        return self._outcomes(Run.cancel, AT_WORK, cursor)

    def retry(self, *, from_stage: int | str | None = None, cursor: str | None = None) -> Outcomes:
        """Retry them, as `Run.retry` does: ``for outcome in select_runs(state="failed").retry(): ...``. A run that
        fails again at once isn't retried again by the same loop.

        `from_stage` is that of `Run.retry`; a run without this stage, or one at work, has an `error`. `cursor` is where
        to go on, from the last outcome of a loop that was left. Raises what `cancel` raises.
        """
        return self._outcomes(
            partial(Run.retry, from_stage=from_stage), NOT_DONE if from_stage is None else ANY, cursor
        )

    def resend(self, *, cursor: str | None = None) -> Outcomes:
        """Send their unsettled members again, as `Run.resend` does, because a queue was lost, say:
        ``for outcome in select_runs(state="stalled").resend(): ...``. There is nothing to do for runs at rest.

        `cursor` is where to go on, from the last outcome of a loop that was left. Raises what `cancel` raises.
        """
        return self._outcomes(Run.resend, AT_WORK, cursor)

    def delete(self, *, cursor: str | None = None) -> Outcomes:
        """Delete them and what is nested in them, as `Run.delete` does:
        ``for outcome in select_runs(state="failed", before=timedelta(days=3)).delete(): ...``. A run at work isn't
        deleted: the `error` of its outcome is a RunAtWork.

        `cursor` is where to go on, from the last outcome of a loop that was left. Raises what `cancel` raises.
        """
        return self._outcomes(Run.delete, ANY, cursor)

    @property
    def _engine(self) -> Engine:
        return engine_of(self._broker or get_broker())

    def _outcomes(self, act: Callable[[Run], bool], states: frozenset[str], cursor: str | None) -> Outcomes:
        if not self._is_bounded:
            raise ValueError(
                "select_runs() without a filter would change all runs of the application: give it a filter, or say "
                "select_runs(everything=True)"
            )
        if cursor is not None and not AFTER.fullmatch(cursor):
            raise ValueError(f"no outcome has given the cursor {cursor!r}: it takes that of an outcome")
        return Outcomes(lambda: Walk(self._engine, self._filters, act, states, cursor))


class Walk:
    """Goes through the selected runs once, and does something to each that stands in one of the `states`."""

    def __init__(
        self,
        engine: Engine,
        filters: Filters,
        act: Callable[[Run], bool],
        states: frozenset[str],
        cursor: str | None,
    ) -> None:
        self._engine, self._filters, self._act, self._states = engine, filters, act, states
        self._began = engine.now()
        latest = Filters(None, None, None, 0, self._began + 1).after(cursor)
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="clutch-bulk")
        #: Outcomes, as many at a time as are done at once. It is lazy, and may be asked for the next in any thread.
        self.steps: Iterator[Sequence[RunOutcome]] = self._go(filters.after(latest))

    def end(self, *, waits: bool = True) -> None:
        """Begin nothing more. It is waited for what has begun, unless this is called by an event loop."""
        self._pool.shutdown(wait=waits, cancel_futures=True)

    def _go(self, after: str) -> Iterator[Sequence[RunOutcome]]:
        for found in looked_through(self._engine, self._filters, after, TOGETHER):
            for at in range(0, len(found), AT_ONCE):
                outcomes, error = self._step(found[at : at + AT_ONCE])
                if outcomes:
                    yield outcomes
                if error is not None:
                    raise error

    def _step(self, found: Sequence[tuple[str, Entry]]) -> tuple[Sequence[RunOutcome], Exception | None]:
        """The outcomes of some runs, in their order, which are looked at just before. If the store goes away, only
        those of the runs before, and the error: so a cursor never goes beyond a run that was left out for that."""
        cursors, outcomes = {run_id: place_of(run_id, entry) for run_id, entry in found}, list[RunOutcome]()
        wanted = [(run_id, glance) for run_id, glance in look_at_found(self._engine, found) if self._wants(glance)]
        doing = [self._pool.submit(copy_context().run, partial(self._do, *one)) for one in wanted]
        for (run_id, glance), future in zip(wanted, doing, strict=True):
            done, error = _outcome(future)
            if isinstance(error, StateUnavailable):
                try:
                    self._engine.backend.count([label("all")], application=self._engine.application)
                except StateUnavailable as away:
                    _wait(doing)
                    return outcomes, away
                done, error = self._do(run_id, glance)  # it is back, or that is about this one run
            outcomes.append(RunOutcome(run_id, done, error, cursors[run_id]))
        return outcomes, None

    def _wants(self, glance: Glance) -> bool:
        """Whether a run is as wanted. One that began after the walk has taken the id of an earlier one."""
        return self._filters.want(glance) and glance.created <= self._began

    def _do(self, run_id: str, glance: Glance) -> tuple[bool, Exception | None]:
        if glance.state not in self._states:
            return False, None  # the store isn't asked, which would have a sweeper look at the run again
        try:
            return self._act(Run(run_id, broker=self._engine.broker)), None
        except RunNotFound:
            return False, None  # it has gone meanwhile
        except Exception as error:  # any error: it is told with the run, and the others go on
            return False, error


def select_runs(
    *,
    broker: Broker | None = None,
    state: Wanted | None = None,
    name: str | None = None,
    tag: str | None = None,
    since: datetime | timedelta | int | None = None,
    before: datetime | timedelta | int | None = None,
    everything: bool = False,
) -> RunSelection:
    """Runs of this application that are to be cancelled, retried, sent again or deleted together. For example, what
    has failed since yesterday is retried::

        found = select_runs(state="failed", since=timedelta(days=1))
        print(found.count(), "runs")
        for outcome in found.retry():
            print(outcome.run_id, outcome.error or outcome.done)

    The filters are those of `runs`, but for `parent`. This call looks at nothing: runs are looked for by each method of
    the selection. Without any filter the runs can be counted; to change all of them, say ``everything=True`` instead.
    Runs that are nested in others aren't selected: what is done to a run is done to those, too.

    Raises ValueError for a `state` that there isn't, or for `everything` with filters; TypeError if `since` or `before`
    isn't a time; NotConfigured or StateUnavailable.
    """
    is_filtered = any(one is not None for one in (state, name, tag, since, before))
    if everything and is_filtered:
        raise ValueError("everything=True is for a selection without filters: leave it out, or the filters")
    engine = engine_of(broker or get_broker())
    filters = filters_of(engine, state=state, name=name, tag=tag, since=since, before=before)
    return RunSelection(broker, filters, everything or is_filtered)


def _outcome(future: Future[tuple[bool, Exception | None]]) -> tuple[bool, Exception | None]:
    _wait([future])
    return future.result()


def _wait(futures: Sequence[Future[tuple[bool, Exception | None]]]) -> None:
    """Wait for them, in pieces, between which Dramatiq's interrupts are raised."""
    while concurrent.futures.wait(futures, PIECE).not_done:
        pass
