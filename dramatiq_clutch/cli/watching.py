"""The verb `watch`: a run is followed until it is at rest, in a terminal as a picture that changes, in a pipe line by
line."""

from __future__ import annotations

import sys
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import click

from dramatiq_clutch import following
from dramatiq_clutch.terminal import safe

from .completing import ids
from .showing import nested_in, shown
from .target import Code, Target, target_options
from .text import is_terminal, named, say, say_json, width

if TYPE_CHECKING:
    from dramatiq_clutch import Run, RunStatus

#: How a run ended, as an exit code.
ENDS = {"succeeded": Code.DONE, "failed": Code.REFUSED, "cancelled": Code.CANCELLED}


@click.command("watch")
@target_options()
@click.argument("run_id", metavar="RUN", callback=named, shell_complete=ids)
@click.option("--timeout", type=click.FloatRange(0), metavar="SECONDS", help="Give up after so many seconds.")
@click.pass_obj
def watch_verb(target: Target, /, run_id: str, timeout: float | None) -> None:
    """Follow a run until it is at rest; the exit code says how it ended.

    In a terminal there is a bar for each stage, with nested runs below, and failures as they come. In a pipe there is a
    line for each change and each failure; with --json, each change is a status.

    \b
    For example:
      dramatiq-clutch -b myapp.tasks watch nightly-2026-11-28 && deploy
    """
    from dramatiq_clutch import Run

    run = Run(run_id, broker=target.broker)
    code = Code.AT_WORK
    with suppress(KeyboardInterrupt):
        status = follow(run, timeout, as_json=target.json)
        code = ENDS.get(status.state, code) if status is not None else code
    if code == Code.AT_WORK:
        click.echo(f"{safe(run_id)} is still at work.", err=True)
    sys.exit(code)


def follow(run: Run, timeout: float | None = None, *, as_json: bool = False) -> RunStatus | None:
    """Show a run until it is at rest, or for so many seconds. Returns how it stands then."""
    last = None
    with closing(iter(replace(run.watch(), timeout=timeout))) as statuses:
        if not as_json:
            last = following.follow(statuses, children=partial(nested_in, run), file=sys.stdout, stays=False)
        for last in statuses:
            say_json({**last.to_dict(), "waits_for": last.waits_for()}, indent=None)
            sys.stdout.flush()
    if last is not None and last.state in ENDS and is_terminal() and not as_json:
        for line in shown(run, last, most=width()):
            say(line)
    return last
