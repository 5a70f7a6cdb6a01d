"""Draws a run's statuses in a terminal as they come: with rich if that is installed, otherwise with tqdm, otherwise as
plain lines, which a pipe always gets.

What is drawn is the same everywhere: lines of text, a bar for each stage, and below it the runs that are nested in it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from .errors import RunNotFound, Unavailable
from .explaining import present
from .failures import JobFailure
from .status import RunStatus, StageStatus
from .stored.places import BELOW, Place
from .terminal import LETTERS, at, bar, coloured, cut, cut_line, encodable, faint, folded, padded, plain, safe, width_of

if TYPE_CHECKING:
    from .listing import RunPage, RunSummary

#: How many cells of a terminal a line has where nobody says how wide that is; and the bar and the name of a stage.
WIDTH, BAR, NAME = 79, 16, 20

#: How few cells a name has where there is little room.
LEAST_NAME = 6

#: How many lines of stages and nested runs a picture has at most, and of how many stages: those around the present one.
MOST_LINES, MOST_BARS = 30, 12

#: How many runs nested in one are shown, how many levels of them, and how often it is looked for them in one picture.
MOST_NESTED, LEVELS, LOOKS = 20, 4, 30

#: How many characters of an application's text are shown at most, and of a sentence.
MOST_TEXT, MOST_SENTENCE = 300, 2_000

#: What comes before a stage, by its state.
MARKS = {"succeeded": "+", "running": ">", "failing": "!", "failed": "x", "cancelled": "-", "waiting": " "}

#: Finds the runs that are nested in the one of this id: `MOST_NESTED` of them.
Children = Callable[[str], "RunPage"]


def follow(
    statuses: Iterable[RunStatus], *, children: Children | None = None, file: TextIO | None = None, stays: bool = True
) -> RunStatus | None:
    """Draw statuses until there are no more, and return the last one: ``follow(run.watch())``. Failures are told as
    they come, each once. What the iterable raises goes through, a KeyboardInterrupt too, once the terminal is as it
    was; nothing is drawn before its first status.

    Parameters:
      statuses: those of one run, as `Run.watch` yields them.
      children: finds nested runs; otherwise none are shown.
      file: where to draw; default is stderr.
      stays: whether the last picture stays, with a line below it that says how the run ended.
    """
    file = file or sys.stderr
    drawing: Drawing | None = None
    last, known = None, set[tuple[Any, ...]]()
    with ExitStack() as stack:
        for last in statuses:
            drawing = drawing or drawing_for(file, stack, stays=stays)
            for failure in last.failures:
                kind = (failure.stage, failure.index, failure.attempts, failure.failed_at)
                if kind not in known:
                    known.add(kind)
                    drawing.tell(failure_line(failure))
            drawing.draw(Picture(last, children))
    if last is not None and stays:
        Lines(file).tell(f"{safe(last.run_id)}: {last.state}")
    return last


# Where it is drawn


class Drawing(Protocol):
    """Where a run is drawn. All lines that it is given may be shown as they are, but for the width of the terminal."""

    def draw(self, picture: Picture) -> None: ...

    def tell(self, line: str) -> None:
        """Show a line that stays."""


def drawing_for(file: TextIO, stack: ExitStack, *, stays: bool = True) -> Drawing:
    """The best drawing for a file; what has to be put right in the end is left to the stack."""
    letters = "".join((*LETTERS, "…"))
    if file.isatty() and os.environ.get("TERM") != "dumb" and encodable(letters, file) == letters:
        for make in (RichPicture, TqdmPicture):
            try:
                return make(file, stack, stays=stays)
            except ImportError:
                continue
    return Lines(file)


class Lines:
    """Plain lines: one for each change of what the run waits for."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._last = file, ""

    def draw(self, picture: Picture) -> None:
        line = f"{picture.percent:>4}  {picture.status.state}: {picture.sentence}"
        if line != self._last:
            self._last = line
            self.tell(line)

    def tell(self, line: str) -> None:
        shown = encodable(plain(line), self._file)
        for part in folded(shown, WIDTH) if self._file.isatty() else [shown]:
            self._file.write(part + "\n")
        self._file.flush()


class RichPicture:
    """A picture that changes, by rich. Raises ImportError without it."""

    def __init__(self, file: TextIO, stack: ExitStack, *, stays: bool) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        self._text: Any = Text.from_ansi
        self._console = Console(file=file, markup=False, highlight=False, emoji=False)
        self._live = stack.enter_context(Live(console=self._console, auto_refresh=False, transient=not stays))

    def draw(self, picture: Picture) -> None:
        lines = picture.lines(self._console.width - 1)
        self._live.update(self._text("\n".join(lines)), refresh=True)

    def tell(self, line: str) -> None:
        self._console.print(self._text(line), overflow="fold")


class TqdmPicture:
    """The same by tqdm, one line of which is one of its bars. Raises ImportError without it."""

    def __init__(self, file: TextIO, stack: ExitStack, *, stays: bool) -> None:
        from tqdm import tqdm

        self._file, self._stack, self._stays = file, stack, stays
        self._lines: list[tqdm[Any]] = []
        self._make: Callable[..., tqdm[Any]] = tqdm
        self._write = tqdm.write

    def draw(self, picture: Picture) -> None:
        lines = picture.lines(WIDTH)
        while len(self._lines) < len(lines):
            line = self._make(
                file=self._file, position=len(self._lines), ncols=WIDTH, bar_format="{desc}", leave=self._stays
            )
            self._lines.append(line)
            self._stack.callback(line.close)
        for slot, line in enumerate(self._lines):
            line.set_description_str(lines[slot] if slot < len(lines) else "")

    def tell(self, line: str) -> None:
        for part in folded(plain(line), WIDTH):
            self._write(part, file=self._file)


# What is drawn


@dataclass(frozen=True, slots=True)
class Picture:
    """How a run stands at one moment: what is drawn of it."""

    status: RunStatus
    children: Children | None = None

    @property
    def percent(self) -> str:
        return f"{int(self.status.progress * 100)}%"

    @property
    def sentence(self) -> str:
        """What the run waits for."""
        return safe(self.status.waits_for(at), MOST_SENTENCE)

    def lines(self, most: int) -> list[str]:
        """All of it, in lines that aren't longer than `most`."""
        status = self.status
        name = f"  {safe(status.name, MOST_TEXT)}" if status.name else ""
        title = f"{safe(status.run_id, MOST_TEXT)}{name}  {coloured(status.state)}  {self.percent}"
        try:
            stages = self._stages(self.children, most)
        except (RunNotFound, Unavailable):  # the next picture looks for nested runs again, if there are any
            stages = self._stages(None, most)
        return [cut_line(line, most) for line in (title, *stages, *map(faint, folded(self.sentence, most)))]

    def _stages(self, children: Children | None, most: int) -> list[str]:
        index, _ = present(self.status)
        first = max(min(index - MOST_BARS // 2, len(self.status.stages) - MOST_BARS), 0)
        shown = tree(self.status, children, stages=range(first, first + MOST_BARS), most=most)
        return list(islice(shown, MOST_LINES))


@dataclass(slots=True)
class Looks:
    """How often it may still be looked for nested runs, so that a wide tree costs no more than a narrow one; and
    whether some weren't looked into."""

    left: int = LOOKS
    missed: bool = False

    def at(self, run_id: str, children: Children) -> tuple[dict[int, list[RunSummary]], bool]:
        """The runs that are nested in one, by their stages, and whether there are more."""
        self.left -= 1
        page, found = children(run_id), dict[int, list["RunSummary"]]()
        for child in page:
            place = Place.of_child(child.run_id)
            if place is not None:
                found.setdefault(place.stage, []).append(child)
        return found, page.cursor is not None


def tree(
    status: RunStatus,
    children: Children | None = None,
    *,
    stages: range | None = None,
    letters: tuple[str, str] = LETTERS,
    more: str = "there are more nested runs",
    most: int | None = None,
) -> Iterator[str]:
    """A line for each stage, or for those that are asked for, and below it those of the runs that are nested in it.
    `letters` are those of bars, and `more` is what it says if not all nested runs are shown. Names of stages are cut
    off so that their lines aren't longer than `most`."""
    nested, has_more, looks = dict[int, list["RunSummary"]](), False, Looks()
    if children is not None and len(status.run_id) < 1_000:
        nested, has_more = looks.at(status.run_id, children)
    digits = len(str(max(len(status.stages) - 1, 0)))
    shown = [(index, stage) for index, stage in enumerate(status.stages) if stages is None or index in stages]
    room = _room([stage for _, stage in shown], digits, most)
    names = [cut(safe(stage.name or ""), room) for _, stage in shown]
    wide = max(map(width_of, names), default=0)
    for (index, stage), name in zip(shown, names, strict=True):
        mark = coloured(stage.state, MARKS[stage.state])
        parts = [(part, getattr(stage, part)) for part in ("succeeded", "skipped", "dead", "failing")]
        drawn = bar(parts, stage.total or 0, BAR, letters)
        yield f"{mark} {index:{digits}}  {padded(name, wide)}{'  ' if wide else ''}{drawn}  {counted(stage)}"
        yield from _below(nested.get(index, []), children, 1, looks)
    if looks.missed:
        yield faint("    not all of these were looked into for runs nested in them")
    if has_more:
        yield faint(f"    {more}")


def _room(stages: Sequence[StageStatus], digits: int, most: int | None) -> int:
    """How many cells there are for the name of a stage."""
    if most is None:
        return NAME
    counts = max((width_of(plain(counted(stage))) for stage in stages), default=0)
    blank = len("+ " + "  " * 3)
    return min(max(most - digits - BAR - counts - blank, LEAST_NAME), NAME)


def _below(nested: Sequence[RunSummary], children: Children | None, level: int, looks: Looks) -> Iterator[str]:
    """The lines of nested runs. Their ids begin with that of the run around them."""
    for child in nested:
        name = f"  {safe(child.name)}" if child.name else ""
        own = safe(child.run_id[child.run_id.rindex(BELOW) :])
        how_far = f"{int(child.progress * 100)}%  stage {child.stage + 1} of {child.stages}"
        yield f"{'    ' * level}{own}  {coloured(child.state)}  {how_far}{name}"
        if children is None:
            continue
        if level == LEVELS or looks.left <= 0:
            looks.missed = True
            continue
        try:
            deeper, has_more = looks.at(child.run_id, children)
        except RunNotFound:  # it has succeeded meanwhile
            continue
        looks.missed |= has_more
        for some in deeper.values():
            yield from _below(some, children, level + 1, looks)


def counted(stage: StageStatus) -> str:
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


def failure_line(failure: JobFailure) -> str:
    """What is told of a failure when it comes."""
    where = "the run itself"
    if failure.index is not None:
        called = f"{safe(failure.actor, MOST_TEXT)}({safe(failure.arguments, MOST_TEXT)})"
        where = f"member {failure.stage}.{failure.index}, {called}"
        where += f", attempt {failure.attempts}" if failure.attempts > 1 else ""
    line = f"{where}: {safe(failure.exception_type, MOST_TEXT)}: {safe(failure.exception_text, MOST_TEXT)}"
    return coloured("waiting", f"{line} (allowed)") if failure.allowed else coloured("failed", line)
