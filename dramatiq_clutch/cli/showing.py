"""A run in lines: how it stands, its stages, the runs nested in it, why it fails, its callbacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from dramatiq_clutch.following import MOST_NESTED, tree
from dramatiq_clutch.terminal import at, coloured, cut_line, faint, safe

from .callbacks import callback_lines
from .text import ago, lasting, letters, safe_lines, wrapped

if TYPE_CHECKING:
    from dramatiq_clutch import CallbackStatus, FailureGroup, Run, RunPage, RunStatus

#: How many members of a group of failures are named.
MOST_NAMED = 8


def percent(progress: float) -> str:
    return f"{int(progress * 100)}%"


def shown(run: Run, status: RunStatus, *, traceback: bool = False, most: int | None) -> Iterator[str]:
    """The lines that tell of a run."""
    yield f"{safe(status.run_id)}  {coloured(status.state)}  {percent(status.progress)}"
    facts = [f"name {safe(status.name)}"] if status.name else []
    facts += [f"tags {', '.join(safe(tag) for tag in status.tags)}"] if status.tags else []
    facts += [f"begun {at(status.created)}, {ago(status.created)} ago", f"changed {ago(status.updated)} ago"]
    facts += [f"took {lasting(status.duration)}"] if status.duration is not None else []
    yield from map(faint, wrapped("; ".join(facts), most))
    if status.parent:
        yield faint(f"nested in {safe(status.parent)}")
    yield ""
    yield from wrapped(safe(status.waits_for(at), 2_000), most)
    yield ""
    more = f"there are more nested runs: list --parent {safe(status.run_id)}"
    lines = tree(status, partial(nested_in, run), letters=letters(), more=more, most=most)
    yield from lines if most is None else (cut_line(line, most) for line in lines)
    for group in status.grouped_failures():
        yield ""
        yield from _told(group, most, traceback=traceback)
    if len(status.failures) >= 100:
        yield faint("These are the first 100 failures; `members` has all of those of a stage.")
    yield from callback_lines(_callbacks(run), most)


def _callbacks(run: Run) -> Sequence[CallbackStatus]:
    """How its callbacks stand; none if it is gone, as a nested run is soon after it has succeeded."""
    from dramatiq_clutch import RunNotFound

    try:
        return run.callbacks()
    except RunNotFound:
        return ()


def nested_in(run: Run, run_id: str) -> RunPage:
    """The runs that are nested in this one, or in the one of this id that is nested in it."""
    from dramatiq_clutch import Run

    around = run if run_id == run.run_id else Run(run_id, broker=run._broker)  # noqa: SLF001 (the same package)
    return around.children(limit=MOST_NESTED)


def _told(group: FailureGroup, most: int | None, *, traceback: bool) -> Iterator[str]:
    """The lines about failures of one kind."""
    first, count = group.first, len(group.failures)
    where = f" in {safe(group.actor)}" if group.actor else ""
    allowed = " (allowed)" if group.allowed else ""
    times = f"{count} x " if count > 1 else ""
    kind, title = "waiting" if group.allowed else "failed", f"{times}{safe(group.exception_type)}{where}{allowed}"
    yield from (coloured(kind, line) for line in wrapped(title, most))
    yield from (f"  {line}" for line in wrapped(safe(first.exception_text), None if most is None else most - 2))
    facts = [_members(group)] if first.index is not None else ["the run itself"]
    facts += [f"{first.attempts} attempts" if first.attempts != 1 else "1 attempt"] if first.attempts else []
    facts += [f"first at {at(first.failed_at)}"] if first.failed_at is not None else []
    facts += [f"called with {safe(first.arguments)}"] if first.arguments else []
    yield from (faint(f"  {line}") for line in wrapped("; ".join(facts), None if most is None else most - 2))
    if traceback and first.traceback:
        yield from (f"    {line}" for line in safe_lines(first.traceback))


def _members(group: FailureGroup) -> str:
    places = [f"{failure.stage}.{failure.index}" for failure in group.failures]
    more = f" and {len(places) - MOST_NAMED} more" if len(places) > MOST_NAMED else ""
    return f"member{'s' if len(places) > 1 else ''} {', '.join(places[:MOST_NAMED])}{more}"
