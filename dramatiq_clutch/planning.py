"""Reads a description of work into what is stored: a spec, a line for each stage, and the rows of all stages.

Steps may come from generators, so they are read once, in order, and some at a time. The line of a stage is known only
when its last row has been read.
"""

from __future__ import annotations

import reprlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from dramatiq import Broker

from .about import Context
from .callbacks import Defaults, own, rows_of
from .durations import in_words, milliseconds
from .steps import Composition, Description, Stage, check_levels, members_in
from .stored.plan import COMPLETION, Plan, Spec, StageLine


class Sees(NamedTuple):
    """What a first stage sees: `anything` at all; and if it is certainly `no_list`, what it is, for an error's text."""

    anything: bool
    no_list: str = ""

    @classmethod
    def args(cls, args: Any) -> Sees:
        """What the first stage of a run sees that has these args."""
        return cls(True, "" if isinstance(args, list) else f"a {type(args).__name__}: {reprlib.repr(args)}")


NOTHING, SOMETHING = Sees(False), Sees(True)

#: How many rows of a plan are written at a time, at most; and after how many seconds fewer rows are written, because
#: the rows written before would expire if the steps come slowly.
CHUNK, PATIENCE = 1_000, 30.0


class Queues(NamedTuple):
    """The queues that a description sets, or inherits: of everything, and of its callbacks; None where it sets none."""

    all: str | None = None
    callbacks: str | None = None

    def of(self, description: Description) -> Queues:
        """Those of a description that inherits these."""
        its = getattr(description, "callback_queue", None)  # a Dramatiq composition has no such option
        return Queues(description.queue or self.all, its or self.callbacks)

    @property
    def of_callbacks(self) -> str | None:
        return self.callbacks or self.all

    def check(self, broker: Broker) -> None:
        """Raises ValueError for a queue that nobody has declared."""
        for queue in self:
            if queue is not None and queue not in broker.get_declared_queues():
                raise ValueError(
                    f"no actor has declared the queue {queue!r}, so no worker would listen to it; declare it where "
                    f"the broker is set up: broker.declare_queue({queue!r})"
                )


#: Where nothing is inherited.
NO_QUEUES = Queues()


def chunks(rows: Iterable[bytes]) -> Iterator[tuple[int, Sequence[bytes]]]:
    """Yields the rows in chunks, each with the offset of its first row. If there are no rows, it yields one empty
    chunk."""
    offset, chunk, began = 0, list[bytes](), time.monotonic()
    for row in rows:
        chunk.append(row)
        if len(chunk) == CHUNK or time.monotonic() - began > PATIENCE:
            yield offset, chunk
            offset, chunk, began = offset + len(chunk), [], time.monotonic()
    if chunk or not offset:
        yield offset, chunk


def plan_of(
    description: Description,
    broker: Broker,
    *,
    queues: Queues = NO_QUEUES,
    start_at: int | None = None,
    inherits: bool,
    sees: Sees = NOTHING,
    around: Context | None = None,
    timed: bool = False,
    where: str = "",
    level: int = 0,
) -> Plan:
    """The description as a whole, ready to be stored in a row."""
    spec, lines, rows = read(
        description,
        broker,
        queues=queues,
        start_at=start_at,
        inherits=inherits,
        sees=sees,
        around=around,
        timed=timed,
        where=where,
        level=level,
    )
    whole = tuple(rows)  # this has to come first: reading the rows fills `lines`
    return Plan(spec, tuple(lines), whole)


def read(
    description: Description,
    broker: Broker,
    *,
    queues: Queues = NO_QUEUES,
    start_at: int | None = None,
    inherits: bool = False,
    sees: Sees = NOTHING,
    context: Context | None = None,
    around: Context | None = None,
    timed: bool = False,
    where: str = "",
    level: int = 0,
) -> tuple[Spec, Sequence[StageLine], Iterator[bytes]]:
    """The spec, the lines and the rows of a description. Consume the rows first: that fills the lines.

    Descriptions nested in it inherit its queues; `queues` are those that it inherits itself. `sees` says what its first
    stage sees, by what encloses it, or by the run's args. `context`, if given, is laid over the description's own one,
    and both over what is `around` it. `timed`: it has timings, unless it says otherwise. `where`, for an error's text,
    is where it is written, and `level` the level on which it is nested itself; that is checked here, because what
    callables return isn't known before. Raises ValueError for too many levels, for a queue that nobody has declared,
    for an actor of another broker, for a wait with no stage after it, for a first stage that pipes or maps and sees
    nothing, or maps and sees no list, and for a context that is too large.
    """
    check_levels(level)
    if description.pending:
        raise ValueError(
            f"wait({in_words(description.pending)}) is the last thing in {_named(where)}: there is no stage after it "
            "that could begin later. Put it before a stage, or leave it out"
        )
    if description.stages:
        _check_first(description.stages[0], sees, where)
    if description.context is not None:
        context = Context.given(description.context, "context").overlaid(context)
    around = (around or Context()).overlaid(context)
    if context:
        more = ", with what is around it," if context != around else ""
        around.check_size(f"the context of {_named(where)}{more}")
    queues = queues.of(description)
    queues.check(broker)
    deadline = None if description.deadline is None else milliseconds(description.deadline, "deadline")
    callbacks = _callbacks(description, broker, queues)
    spec = Spec(description.name, queues.all, start_at, callbacks, inherits=inherits, context=context)
    its = getattr(description, "timings", None)  # a Dramatiq composition has no such option
    spec = replace(spec, deadline=deadline, timed=timed if its is None else its)
    lines = list[StageLine]()
    return spec, lines, _rows(description, broker, queues, spec, lines, sees, around, where, level)


def _rows(
    description: Description,
    broker: Broker,
    queues: Queues,
    spec: Spec,
    lines: list[StageLine],
    sees: Sees,
    around: Context,
    where: str,
    level: int,
) -> Iterator[bytes]:
    """Yields the rows of all stages in order. After the rows of a stage, its line is appended to `lines`."""
    offset = 0
    for index, stage in enumerate(description.stages):
        count, nested = 0, False
        for member in members_in(stage, broker):
            if isinstance(member, Description):
                nested = True
                plan = plan_of(
                    member,
                    broker,
                    queues=queues,
                    start_at=spec.start_at,
                    inherits=True,
                    sees=SOMETHING if index or stage.mapped else sees,
                    around=around,
                    timed=spec.timed,
                    where=f"member {count} of stage {index}" + (f" of {where}" if where else ""),
                    level=level + 1,
                )
                yield plan.to_row()
            else:
                member.check_broker(broker, what="run()")
                yield member.row()
            count += 1
        lines.append(_line_of(stage, offset, count, nested=nested))
        offset += count


def _line_of(stage: Stage, offset: int, count: int, *, nested: bool) -> StageLine:
    """The line of a stage whose `count` rows begin at `offset`. `nested`: whether some of them are clutches."""
    return StageLine(
        offset=offset,
        total=None if stage.mapped else count,
        many=stage.many,
        mapped=stage.mapped,
        tolerant=stage.tolerant,
        piped=stage.piped,
        nested=nested,
        limit=stage.limit,
        into=stage.into,
        fail_fast=stage.fail_fast,
        allowed=stage.allowed,
        enough=stage.enough,
        wait=stage.wait or None,
        deadline=stage.deadline,
        name=stage.name,
    )


def _check_first(first: Stage, sees: Sees, where: str) -> None:
    """Raises ValueError if the first stage pipes or maps, and sees nothing; or maps, and sees what is no list."""
    what = f"{first} is the first stage of {_named(where)}, and "
    if not sees.anything and (first.piped or first.mapped):
        around = ", nor before what it is nested in" if where else ""
        raise ValueError(
            f"{what}can't {'map over' if first.mapped else 'pipe in'} the results of a stage before: there is none"
            f"{around}. Put a stage before it, or give the clutch's run what it is to see: run(args=...)"
        )
    if first.mapped and sees.no_list:
        raise ValueError(f"{what}maps over args, which must be a list; it is {sees.no_list}")


def _named(where: str) -> str:
    """How an error's text names a clutch."""
    return f"the clutch that is {where}" if where else "the clutch"


def _callbacks(description: Description, broker: Broker, queues: Queues) -> dict[str, tuple[bytes, ...]]:
    """The rows of the callbacks, by event. Raises what `callbacks.rows_of` raises."""
    queue = queues.of_callbacks
    rows = {event: rows_of(kept, broker, what=event, queue=queue) for event, kept in own(description).items() if kept}
    if isinstance(description, Composition) and description.completions:
        # What a Dramatiq group sends when it has completed goes on with its work: it is in the queue of its jobs.
        rows[COMPLETION] = rows_of(description.completions, broker, what=COMPLETION, queue=queues.all)
    return rows


def with_defaults(spec: Spec, description: Description, broker: Broker, defaults: Defaults) -> Spec:
    """The spec of a run that isn't nested, with the middleware's callbacks for the events for which the description
    sets none, and with all callbacks in the middleware's queue if the description sets none. Raises what `read`
    raises."""
    if not defaults:
        return spec
    queues = Queues(spec.queue, defaults.queue).of(description)
    queues.check(broker)
    rows, mine = _callbacks(description, broker, queues), own(description)
    for event, kept in defaults.callbacks.items():
        if kept and event not in mine:
            what = f"ClutchMiddleware({event}=...)"
            rows[event] = rows_of(kept, broker, what=what, queue=queues.of_callbacks)
    return replace(spec, callbacks=rows)
