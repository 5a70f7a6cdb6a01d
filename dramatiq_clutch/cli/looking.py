"""The verbs that look: `list`, `show` and `members`."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dramatiq_clutch.following import MOST_NESTED
from dramatiq_clutch.terminal import at, coloured, cut, faint, safe

from .completing import ids
from .showing import percent, shown
from .target import Code, Refusal, Target, target_options
from .text import ago, is_terminal, lasting, named, say, say_json, table, tell, when, width

if TYPE_CHECKING:
    from dramatiq_clutch import Member, Run, RunPage, RunSummary

Function = TypeVar("Function", bound=Callable[..., Any])

STATES = ("running", "failing", "failed", "succeeded", "cancelled", "stalled")
MEMBER_STATES = ("unsent", "sent", "working", "failing", "dead", "succeeded", "skipped")

#: The columns of tables.
RUN_HEADS = ("RUN", "STATE", "STAGE", "DONE", "AGE", "NAME")
MEMBER_HEADS = ("MEMBER", "STATE", "ACTOR", "TRIED", "CALLED WITH, OR NESTED RUN; ERROR")

#: The columns that a run with timings has, too, before the last one.
TIMED_HEADS = ("BEGAN", "TOOK", "WORKER")

#: The version of the documents that `list` prints as JSON.
SCHEMA = 1

#: How many cells the name of a worker takes in a terminal.
MOST_WORKER = 20


def filter_options(function: Function) -> Function:
    """The options that select runs."""
    for add in reversed(
        (
            click.option("--state", type=click.Choice(STATES), help="Only runs in this state."),
            click.option("--name", metavar="NAME", help="Only runs of clutches with this name."),
            click.option("--tag", metavar="TAG", help="Only runs with this tag."),
            click.option(
                "--since", callback=when, metavar="WHEN", help="Only runs begun since: 15m, 2h, 7d, or a time."
            ),
        )
    ):
        function = add(function)
    return function


# list


@click.command("list")
@target_options()
@filter_options
@click.option("--parent", metavar="RUN", help="Runs that are nested in this one.")
@click.option("--limit", type=click.IntRange(1, 1_000), default=50, show_default=True, help="How many at most.")
@click.option("--cursor", metavar="CURSOR", help="Go on where an earlier list has ended.")
@click.option("--ids", "only_ids", is_flag=True, help="Print only the ids, one a line.")
@click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.option("--interval", type=click.FloatRange(0.1), default=2.0, show_default=True, help="Seconds between looks.")
@click.pass_obj
def list_verb(target: Target, /, only_ids: bool, watch: bool, interval: float, **filters: Any) -> None:
    """List runs, newest first.

    \b
    For example:
      dramatiq-clutch -b myapp.tasks list --state failed --since 1d
      dramatiq-clutch -b myapp.tasks list --name nightly --watch
    """
    from dramatiq_clutch import runs

    def look() -> RunPage:
        try:
            return runs(broker=target.broker, **filters)
        except ValueError as error:  # of a cursor that is none
            raise Refusal(str(error), Code.USAGE) from error

    if not watch:
        _print_page(target, look(), only_ids)
        return
    try:
        for page in _again(look, interval):
            if is_terminal() and not target.json:
                click.clear()
                say(faint(f"every {interval:g} s; Ctrl-C ends"))
            _print_page(target, page, only_ids, indent=None)
    except KeyboardInterrupt:
        sys.exit(Code.DONE)


def _again(look: Callable[[], RunPage], interval: float) -> Iterator[RunPage]:
    """Looks, of which the first one has to succeed. That the state store is away later is told, and waited for."""
    from dramatiq_clutch import Unavailable

    yield look()
    while True:
        time.sleep(interval)
        try:
            page = look()
        except Unavailable as error:
            tell(coloured("error", safe(error)))
        else:
            yield page


def _print_page(target: Target, page: RunPage, only_ids: bool, indent: int | None = 2) -> None:
    if target.json:
        say_json(
            {"schema": SCHEMA, "runs": [dataclasses.asdict(run) for run in page], "cursor": page.cursor}, indent=indent
        )
        return
    if only_ids:
        for run in page:
            say(safe(run.run_id))
    elif page.runs:
        for line in table(RUN_HEADS, map(run_row, page), states=1, most=width()):
            say(line)
    else:
        tell(f"No such runs of {target.whose}.")
    if page.cursor:
        tell(faint(f"There are more: --cursor {page.cursor}"))


def run_row(run: RunSummary) -> Sequence[str]:
    """The cells of a run."""
    stage = f"{run.stage + 1}/{run.stages}" if run.stages else "-"
    state = "stalled" if run.stalled_since is not None else run.state
    return run.run_id, state, stage, percent(run.progress), ago(run.created), run.name or ""


# show


@click.command("show")
@target_options()
@click.argument("run_id", metavar="RUN", callback=named, shell_complete=ids)
@click.option("--traceback", "-t", is_flag=True, help="Also the traceback of the first failure of each kind.")
@click.pass_obj
def show_verb(target: Target, /, run_id: str, traceback: bool) -> None:
    """Show a run: its stages, what it waits for, and why it fails.

    Nested runs stand below their stage. Failures are grouped by exception and actor; what happened first comes first.
    Then come the callbacks: how they stand, and when they were sent.

    \b
    For example:
      dramatiq-clutch -b myapp.tasks show nightly-2026-11-28
    """
    from dramatiq_clutch import Run

    run = Run(run_id, broker=target.broker)
    status = run.status()
    if target.json:
        say_json({**status.to_dict(), "waits_for": status.waits_for(), **_around(run)})
        return
    for line in shown(run, status, traceback=traceback, most=width()):
        say(line)


def _around(run: Run) -> dict[str, Any]:
    """What `show` tells as JSON beside the status: the nested runs, where there are more of them, the callbacks."""
    page = run.children(limit=MOST_NESTED)
    return {
        "children": [dataclasses.asdict(child) for child in page],
        "children_cursor": page.cursor,
        "callbacks": [one.to_dict() for one in run.callbacks()],
    }


def stage_of(given: str | None) -> int | str | None:
    """A stage as it is given on the command line: its index or its name."""
    return int(given) if given is not None and given.isdecimal() else given


# members


@click.command("members")
@target_options()
@click.argument("run_id", metavar="RUN", callback=named, shell_complete=ids)
@click.option("--stage", metavar="STAGE", help="The index or the name of a stage (the present one).")
@click.option("--state", type=click.Choice(MEMBER_STATES), help="Only members in this state.")
@click.option("--limit", type=click.IntRange(1, 1_000), default=50, show_default=True, help="How many at most.")
@click.option("--cursor", metavar="CURSOR", help="Go on where an earlier list has ended.")
@click.pass_obj
def members_verb(target: Target, /, run_id: str, stage: str | None, **filters: Any) -> None:
    """List the members of a stage of a run.

    \b
    For example:
      dramatiq-clutch -b myapp.tasks members nightly-2026-11-28 --state dead
    """
    from dramatiq_clutch import Run

    run = Run(run_id, broker=target.broker)
    try:
        page = run.members(stage=stage_of(stage), **filters)
    except ValueError as error:
        raise Refusal(str(error), Code.USAGE) from error
    if target.json:
        say_json(page.to_dict())
        return
    if page.members:
        heads, rows = member_table(page.members, most=width())
        for line in table(heads, rows, states=1, most=width()):
            say(line)
    else:
        tell("No such members.")
    if page.cursor:
        tell(faint(f"There are more: --cursor {page.cursor}"))


def member_table(members: Sequence[Member], *, most: int | None) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """The heads and the rows of members: with when, for how long and where they were at work, if that is known of any.
    Where a line may only have so many cells, a long name of a worker loses its beginning."""
    if all(member.began is None for member in members):
        return MEMBER_HEADS, [member_row(member) for member in members]
    rows = [(*row[:-1], *_at_work(member, most), row[-1]) for member in members for row in [member_row(member)]]
    return (*MEMBER_HEADS[:-1], *TIMED_HEADS, MEMBER_HEADS[-1]), rows


def member_row(member: Member) -> Sequence[str]:
    """The cells of a member."""
    last = cut(member.run_id or member.arguments, 60)
    if member.error is not None:
        last += f"; {member.error.exception_type}: {member.error.exception_text}"
    if member.retry_at is not None:
        last = f"again at {at(member.retry_at)}; {last}"
    tried = str(member.attempts) if member.attempts else ""
    return f"{member.stage}.{member.index}", member.state, member.actor or "", tried, last


def _at_work(member: Member, most: int | None) -> tuple[str, str, str]:
    """The cells that say when, for how long and where a member was at work, or is: `14:02:07`, `12s`, `host:12`."""
    if member.began is None:
        return "", "", ""
    worker = member.worker or ""
    if most is not None and len(worker) > MOST_WORKER:
        worker = "…" + worker[1 - MOST_WORKER :]
    if member.ended is not None:
        took = lasting((member.ended - member.began) / 1000)
    else:  # of what is at work although its stage is complete, or its run rests, it isn't known for how long
        took = ago(member.began) if member.state in ("working", "failing") else ""
    return at(member.began), took, worker
