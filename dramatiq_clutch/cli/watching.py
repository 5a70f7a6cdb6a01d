"""The verb `watch`: a run is followed until it is at rest, in a terminal as a picture that changes, in a pipe line by
line."""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from .completing import ids
from .showing import shown, tree
from .target import Code, Target, target_options
from .text import at, coloured, cut, faint, is_terminal, safe, say, say_json, width, wrapped

if TYPE_CHECKING:
    from dramatiq_clutch import JobFailure, Run, RunStatus

#: How a run ended, as an exit code.
ENDS = {"succeeded": Code.DONE, "failed": Code.REFUSED, "cancelled": Code.CANCELLED}

#: How often the picture is drawn anew, at most and at least, in seconds.
SOONEST, LATEST = 0.2, 1.0


@click.command("watch")
@target_options()
@click.argument("run_id", metavar="RUN", shell_complete=ids)
@click.option("--timeout", type=click.FloatRange(0), metavar="SECONDS", help="Give up after so many seconds.")
@click.pass_obj
def watch_verb(target: Target, /, run_id: str, timeout: float | None) -> None:
    """Follow a run until it is at rest; the exit code says how it ended.

    In a terminal there is a bar for each stage, with nested runs below, and failures as they come. In a pipe there is a
    line for each change; with --json, each is a status.

    \b
    For example:
      dramatiq-clutch -b myapp.tasks watch nightly-2026-11-28 && deploy
    """
    from dramatiq_clutch import Run

    run = Run(run_id, broker=target.broker)
    try:
        status = follow(run, timeout, as_json=target.json)
    except KeyboardInterrupt:
        status = None
    if status is None:
        click.echo(f"{safe(run_id)} is still at work.", err=True)
    sys.exit(ENDS.get(status.state, Code.AT_WORK) if status else Code.AT_WORK)


def follow(run: Run, timeout: float | None = None, *, as_json: bool = False) -> RunStatus | None:
    """Show a run until it is at rest. Returns how it ended; None if that takes too long."""
    first = run.status()  # whatever is wrong is told before anything is drawn
    if as_json:
        return _line_by_line(run, timeout, _as_json)
    if not is_terminal():
        return _line_by_line(run, timeout, _as_line)
    last = _drawn(run, first, timeout)
    if last is not None:
        for line in shown(run, last, most=width()):
            say(line)
    return last


def changes(run: Run, timeout: float | None, tick: float) -> Iterator[RunStatus | None]:
    """The statuses of a run, and None after every `tick` seconds without one; ends when the run is at rest, or after
    the timeout. Raises what watching raises."""
    found: queue.SimpleQueue[RunStatus | Exception | None] = queue.SimpleQueue()

    def look() -> None:
        try:
            for status in run.watch():
                found.put(status)
            found.put(None)
        except Exception as error:  # it is raised where somebody waits for it
            found.put(error)

    threading.Thread(target=look, name="clutch-watch", daemon=True).start()
    end = None if timeout is None else time.monotonic() + timeout
    while end is None or time.monotonic() < end:
        try:
            got = found.get(timeout=tick if end is None else max(min(tick, end - time.monotonic()), 0.01))
        except queue.Empty:
            yield None
            continue
        if got is None:
            return
        if isinstance(got, Exception):
            raise got
        yield got


def _line_by_line(run: Run, timeout: float | None, line: Callable[[RunStatus], str | None]) -> RunStatus | None:
    from dramatiq_clutch import RunStatus

    last, told = None, ""
    for status in changes(run, timeout, LATEST):
        if isinstance(status, RunStatus):
            last, text = status, line(status)
            if text is not None and text != told:
                say(text)
                told = text
            sys.stdout.flush()
    return last if last is not None and last.state in ENDS else None


def _as_line(status: RunStatus) -> str:
    return f"{int(status.progress * 100):3}%  {status.state}: {safe(status.waits_for(at), 2_000)}"


def _as_json(status: RunStatus) -> None:
    say_json({**status.to_dict(), "waits_for": status.waits_for()}, indent=None)


def _drawn(run: Run, status: RunStatus, timeout: float | None) -> RunStatus | None:
    """Draw a run again and again. Returns how it ended."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    known: set[Any] = set()
    console = Console(highlight=False, markup=False, emoji=False)
    drawn_at = 0.0
    with Live(
        console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
    ) as live:
        for changed in changes(run, timeout, SOONEST):
            status = changed or status
            for failure in _new(status, known):
                live.console.print(Text.from_ansi(failure))
            now = time.monotonic()
            if now - drawn_at >= (SOONEST if changed else LATEST):
                drawn_at = now
                live.update(Text.from_ansi("\n".join(_picture(run, status))), refresh=True)
    return status if status.state in ENDS else None


def _picture(run: Run, status: RunStatus) -> Iterator[str]:
    from dramatiq_clutch import RunNotFound

    most = width() or 80
    name = f"  {safe(status.name)}" if status.name else ""
    yield f"{safe(status.run_id)}{name}  {coloured(status.state)}  {int(status.progress * 100)}%"
    with contextlib.suppress(RunNotFound):  # a nested run that has succeeded is gone
        yield from (cut_ansi(line, most) for line in tree(run, status, most))
    yield from (faint(line) for line in wrapped(safe(status.waits_for(at), 2_000), most))


def cut_ansi(line: str, most: int) -> str:
    """A line that isn't too long, whose colours go if it is."""
    plain = click.unstyle(line)
    return line if len(plain) <= most else cut(plain, most)


def _new(status: RunStatus, known: set[Any]) -> Iterator[str]:
    """A line for each failure that hasn't been told yet."""
    for failure in status.failures:
        kind = (failure.stage, failure.index, failure.attempts, failure.failed_at)
        if kind not in known:
            known.add(kind)
            yield cut_ansi(_failure(failure), width() or 80)


def _failure(failure: JobFailure) -> str:
    when = f"{at(failure.failed_at)}  " if failure.failed_at is not None else ""
    where = "the run itself" if failure.index is None else f"{failure.stage}.{failure.index} {failure.actor}"
    text = f"{when}{safe(where)}: {safe(failure.exception_type)}: {safe(failure.exception_text)}"
    return coloured("waiting" if failure.allowed else "failed", text)
