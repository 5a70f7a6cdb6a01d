"""Draws a run's statuses in a terminal as they come: with rich if that is installed, otherwise with tqdm, otherwise as
plain lines, which a pipe always gets.

Names, arguments and errors are texts of the application's, in which anything may stand. So whatever is shown is escaped
first: it can neither steer the terminal nor be taken for markup.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any, Protocol, TextIO

from .explaining import present
from .failures import JobFailure
from .status import RunStatus, StageStatus

#: How many cells of a terminal a line has at most, and those of its parts that a bar stands between.
WIDTH, NAME, BAR, COUNTS = 79, 24, 20, 32

#: Of which characters bars are made, and what they are cut off with.
DRAWN = "━█▏…"

#: How many bars are shown at most. Of more stages those around the present one are shown.
MOST_BARS = 12

#: How many characters of an application's text are shown at most.
MOST_TEXT = 300


class Drawing(Protocol):
    """Where statuses are drawn. All texts that it is given may be shown as they are."""

    def draw(self, status: RunStatus) -> None: ...

    def tell(self, line: str) -> None:
        """Show a line that stays."""


def follow(statuses: Iterable[RunStatus], *, file: TextIO | None = None) -> RunStatus | None:
    """Draw statuses until there are no more, and return the last one: ``follow(run.watch())``. Failures are told as
    they come, each once. What the iterable raises goes through, a KeyboardInterrupt too, once the terminal is as it
    was.

    Parameters:
      statuses: those of one run, as `Run.watch` yields them.
      file: where to draw; default is stderr.
    """
    file = file or sys.stderr
    last, known = None, set[tuple[Any, ...]]()
    with ExitStack() as stack:
        drawing = drawing_for(file, stack)
        for last in statuses:
            for failure in last.failures:
                kind = (failure.stage, failure.index, failure.attempts, failure.failed_at)
                if kind not in known:
                    known.add(kind)
                    drawing.tell(failure_line(last, failure))
            drawing.draw(last)
    if last is not None:
        Lines(file).tell(f"{safe(last.run_id)}: {last.state}")
    return last


def drawing_for(file: TextIO, stack: ExitStack) -> Drawing:
    """The best drawing for a file; what has to be put right in the end is left to the stack."""
    if file.isatty() and os.environ.get("TERM") != "dumb" and encodable(DRAWN, file) == DRAWN:
        for make in (RichBars, TqdmBars):
            try:
                return make(file, stack)
            except ImportError:
                continue
    return Lines(file)


class Lines:
    """Plain lines: one for each change of what is shown."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._last = file, ""

    def draw(self, status: RunStatus) -> None:
        index, stage = present(status)
        line = f"{int(status.progress * 100):3}% {status.state}"
        if stage is not None:
            line += f": stage {name_of(index, stage, len(status.stages))}: {counts_of(stage)}"
        if line != self._last:
            self._last = line
            self.tell(line)

    def tell(self, line: str) -> None:
        for part in folded(encodable(line, self._file), WIDTH):
            self._file.write(part + "\n")
        self._file.flush()


class RichBars:
    """A bar a stage, by rich. Raises ImportError without it."""

    def __init__(self, file: TextIO, stack: ExitStack) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.text import Text

        self._text = Text
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(BAR),
            TextColumn("{task.fields[counts]}", markup=False),
            console=Console(file=file, markup=False, highlight=False, emoji=False),
        )
        self._tasks: list[Any] = []
        stack.enter_context(self._progress)

    def draw(self, status: RunStatus) -> None:
        for slot, (name, counts, done, total) in enumerate(bars_of(status)):
            if slot == len(self._tasks):
                self._tasks.append(self._progress.add_task(name, total=total, counts=counts))
            self._progress.update(self._tasks[slot], description=name, completed=done, total=total, counts=counts)

    def tell(self, line: str) -> None:
        self._progress.console.print(self._text(line, overflow="fold"))


class TqdmBars:
    """A bar a stage, by tqdm. Raises ImportError without it."""

    def __init__(self, file: TextIO, stack: ExitStack) -> None:
        from tqdm import tqdm

        self._file, self._stack = file, stack
        self._bars: list[tqdm[Any]] = []
        self._make: Callable[..., tqdm[Any]] = tqdm
        self._write = tqdm.write

    def draw(self, status: RunStatus) -> None:
        for slot, (name, counts, done, total) in enumerate(bars_of(status)):
            if slot == len(self._bars):
                bar = self._make(
                    file=self._file, position=slot, ncols=WIDTH, bar_format="{desc} |{bar}| {unit}", leave=True
                )
                self._bars.append(bar)
                self._stack.callback(bar.close)
            bar = self._bars[slot]
            bar.desc, bar.unit, bar.n, bar.total = padded(name, NAME), padded(counts, COUNTS), done, total
            bar.refresh()

    def tell(self, line: str) -> None:
        for part in folded(line, WIDTH):
            self._write(part, file=self._file)


def bars_of(status: RunStatus) -> Iterator[tuple[str, str, int, int | None]]:
    """Of each bar: what stands before it and after it, how many are done, and of how many."""
    current, _ = present(status)
    count = len(status.stages)
    first = max(min(current - MOST_BARS // 2, count - MOST_BARS), 0)
    for index, stage in enumerate(status.stages[first : first + MOST_BARS], first):
        whole = stage.total or (1 if stage.total == 0 or stage.state in ("succeeded", "waiting") else None)
        done = whole or 0 if stage.state == "succeeded" else stage.succeeded  # it may be complete without all
        yield cut(name_of(index, stage, count), NAME), cut(counts_of(stage), COUNTS), done, whole


def name_of(index: int, stage: StageStatus, count: int) -> str:
    return f"{index + 1}/{count}" + (f" {safe(stage.name)}" if stage.name else "")


def counts_of(stage: StageStatus) -> str:
    if stage.state == "waiting":
        return "waiting"
    parts = [f"{stage.succeeded:,} of {stage.total:,}" if stage.total is not None else "not counted yet"]
    parts += [f"{count:,} {what}" for what in ("failing", "dead", "skipped") if (count := getattr(stage, what))]
    return ", ".join(parts)


def failure_line(status: RunStatus, failure: JobFailure) -> str:
    where = "the run itself"
    if failure.index is not None:
        stage = name_of(failure.stage, status.stages[failure.stage], len(status.stages))
        where = f"{stage}, member {failure.index}, {safe(failure.actor)}({safe(failure.arguments)})"
        where += f", attempt {failure.attempts}" if failure.attempts > 1 else ""
    line = f"{where}: {safe(failure.exception_type)}: {safe(failure.exception_text)}"
    return line + (" (allowed)" if failure.allowed else "")


# Texts


def safe(text: str) -> str:
    """An application's text, as it may be shown: in one line, shortened, and what isn't printable as an escape. That
    takes in control characters, and what turns the direction of writing."""
    shown = text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 1] + "…"
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in shown)


def encodable(text: str, file: TextIO) -> str:
    """A text of which the file's encoding has all characters; the others are escaped."""
    encoding = getattr(file, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def cells(text: str) -> int:
    """How many cells of a terminal a text takes."""
    return sum(2 if unicodedata.east_asian_width(one) in "WF" else unicodedata.combining(one) == 0 for one in text)


def cut(text: str, most: int) -> str:
    if cells(text) <= most:
        return text
    while cells(text) >= most:
        text = text[:-1]
    return text + "…"


def padded(text: str, width: int) -> str:
    return text + " " * (width - cells(text))


def folded(text: str, most: int) -> Iterator[str]:
    """A text in lines that are short enough, broken between words where there are any; all but the first are
    indented."""
    indent = ""
    while cells(text) > most - len(indent):
        end = len(text)
        while cells(text[:end]) > most - len(indent):
            end -= 1
        space = text.rfind(" ", end // 2, end + 1)
        end = space if space > 0 else end
        yield indent + text[:end]
        text, indent = text[end:].lstrip(" "), "    "
    yield indent + text
