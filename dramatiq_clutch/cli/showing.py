"""A run in lines: how it stands, its stages, the runs nested in it, why it fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .text import (
    ago,
    at,
    bar,
    coloured,
    cut,
    faint,
    lasting,
    padded,
    safe,
    safe_lines,
    width_of,
    wrapped,
)

if TYPE_CHECKING:
    from dramatiq_clutch import FailureGroup, Run, RunStatus, RunSummary, StageStatus

#: What stands in the id of a nested run between that of the run around it, and its place there.
BELOW = "~"

#: How many nested runs `show` has, at most, and how many levels of them.
MOST_NESTED, LEVELS = 20, 4

#: How many cells a bar takes, and the name of a stage at most.
BAR, MOST_NAME = 16, 20

#: How many members of a group of failures are named.
MOST_NAMED = 8

#: What comes before a stage, by its state.
MARKS = {"succeeded": "+", "running": ">", "failing": "!", "failed": "x", "cancelled": "-", "waiting": " "}


def percent(progress: float) -> str:
    return f"{int(progress * 100)}%"


def shown(run: Run, status: RunStatus, *, traceback: bool = False, most: int | None) -> Iterator[str]:
    """The lines that tell of a run."""
    yield f"{safe(status.run_id)}  {coloured(status.state)}  {percent(status.progress)}"
    facts = [f"name {safe(status.name)}"] if status.name else []
    facts += [f"tags {', '.join(safe(tag) for tag in status.tags)}"] if status.tags else []
    facts += [f"begun {at(status.created)}, {ago(status.created)} ago", f"changed {ago(status.updated)} ago"]
    facts += [f"took {lasting(status.duration)}"] if status.duration is not None else []
    yield faint("; ".join(facts))
    if status.parent:
        yield faint(f"nested in {safe(status.parent)}")
    yield ""
    yield from wrapped(safe(status.waits_for(at), 2_000), most)
    yield ""
    yield from tree(run, status, most)
    for group in status.grouped_failures():
        yield ""
        yield from _told(group, most, traceback=traceback)
    if len(status.failures) >= 100:
        yield faint("These are the first 100 failures; `members` has all of those of a stage.")


def tree(run: Run, status: RunStatus, most: int | None) -> Iterator[str]:
    """A line for each stage, and below it those of the runs that are nested in it."""
    nested: dict[int, list[RunSummary]] = {}
    more = _nested(run, nested) if len(status.run_id) < 1_000 else False
    digits = len(str(max(len(status.stages) - 1, 0)))
    names = [cut(safe(stage.name or ""), MOST_NAME) for stage in status.stages]
    wide = max(map(width_of, names), default=0)
    for index, (stage, name) in enumerate(zip(status.stages, names, strict=True)):
        mark = coloured(stage.state, MARKS[stage.state])
        yield f"{mark} {index:{digits}}  {padded(name, wide)}{'  ' if wide else ''}{_bar(stage)}  {_counted(stage)}"
        yield from _below(run, nested.get(index, []), "    ", 1, most)
    if more:
        yield faint(f"    there are more nested runs: list --parent {safe(status.run_id)}")


def _nested(run: Run, found: dict[int, list[RunSummary]]) -> bool:
    """The runs that are nested in one, by their stages. Returns whether there are more than are shown."""
    page = run.children(limit=MOST_NESTED)
    for child in page:
        stage = child.run_id.rpartition(BELOW)[2].partition(".")[0]
        found.setdefault(int(stage), []).append(child)
    return page.cursor is not None


def _below(run: Run, children: Sequence[RunSummary], indent: str, level: int, most: int | None) -> Iterator[str]:
    """The lines of nested runs. Their ids begin with that of the run that is shown."""
    from dramatiq_clutch import Run, RunNotFound

    for child in children:
        name = f"  {safe(child.name)}" if child.name else ""
        stage = f"stage {child.stage + 1} of {child.stages}"
        own = safe(child.run_id[child.run_id.rindex(BELOW) :])
        yield f"{indent}{own}  {coloured(child.state)}  {percent(child.progress)}  {stage}{name}"
        if level < LEVELS:
            deeper: dict[int, list[RunSummary]] = {}
            try:
                _nested(Run(child.run_id, broker=run._broker), deeper)  # noqa: SLF001 (the same package)
            except RunNotFound:  # it has succeeded meanwhile
                continue
            for some in deeper.values():
                yield from _below(run, some, indent + "    ", level + 1, most)


def _bar(stage: StageStatus) -> str:
    """How the members of a stage stand, as a bar."""
    parts = [("succeeded", stage.succeeded), ("skipped", stage.skipped), ("dead", stage.dead)]
    return bar([*parts, ("failing", stage.failing)], stage.total or 0, BAR)


def _counted(stage: StageStatus) -> str:
    """How the members of a stage stand, in words."""
    if stage.total is None:
        return faint("waits; how many members it has isn't known yet")
    if stage.state == "waiting":
        return faint(f"waits, {stage.total:,} to do")
    parts = [f"{stage.succeeded:,}/{stage.total:,} succeeded"]
    parts += [coloured("failing", f"{stage.failing:,} failing")] if stage.failing else []
    parts += [coloured("dead", f"{stage.dead:,} dead")] if stage.dead else []
    parts += [faint(f"{stage.skipped:,} skipped")] if stage.skipped else []
    return ", ".join(parts)


def _told(group: FailureGroup, most: int | None, *, traceback: bool) -> Iterator[str]:
    """The lines about failures of one kind."""
    first, count = group.first, len(group.failures)
    where = f" in {safe(group.actor)}" if group.actor else ""
    allowed = " (allowed)" if group.allowed else ""
    times = f"{count} x " if count > 1 else ""
    yield coloured("failed" if not group.allowed else "waiting", f"{times}{safe(group.exception_type)}{where}{allowed}")
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
