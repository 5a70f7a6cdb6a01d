"""What the command prints: lines, tables, JSON; and durations as people say them."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, TextIO, TypeVar

import click

from dramatiq_clutch.terminal import FEW_LETTERS, LETTERS, coloured, cut, faint, padded, safe, width_of

Given = TypeVar("Given", bound=str | tuple[str, ...])

#: The widest that a text is made for, where nobody says how wide the terminal is.
WIDTH = 80

#: How narrow a column may become before the last one, which has the longest texts, does; and at all.
ENOUGH, LEAST = 24, 8

UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def safe_lines(text: str) -> list[str]:
    """A text of the application's of several lines, such as a traceback, as it may be shown."""
    return [safe(line) for line in re.split(r"\r?\n", text.rstrip("\n"))]


def say(text: str = "") -> None:
    """Print a line. Colours are left out where the output is no terminal, or NO_COLOR is set."""
    click.echo(text, color=None if colours() else False)


def tell(text: str) -> None:
    """Print a line that is no part of the answer, to stderr."""
    click.echo(text, err=True, color=None if colours() else False)


def colours() -> bool:
    return not os.environ.get("NO_COLOR")


def say_json(value: Any, *, indent: int | None = 2) -> None:
    """Print JSON in ASCII: nothing in it can do anything to a terminal."""
    click.echo(json.dumps(value, indent=indent, ensure_ascii=True))


def is_terminal() -> bool:
    """Whether somebody sees what is printed."""
    return at_a_terminal(sys.stdout)


def at_a_terminal(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal's; it is None if the command was started with a closed one."""
    return stream is not None and stream.isatty()


def width() -> int | None:
    """How wide a line may be; None in a pipe, where nothing is cut off."""
    return max(shutil.get_terminal_size((WIDTH, 24)).columns, 40) if is_terminal() else None


def table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, states: int | None = None, most: int | None
) -> list[str]:
    """Lines with the heads and the rows, in columns as wide as they have to be. Where that is more than `most`, wide
    cells are cut off, but for those of the first column, by which a row is known, and of `states`, the column that has
    states, which are coloured. All cells are escaped."""
    cells = [list(heads), *([safe(cell) for cell in row] for row in rows)]
    widths = [max(width_of(row[column]) for row in cells) for column in range(len(heads))]
    if most is not None:
        _narrow(widths, [column for column in range(1, len(heads)) if column != states], most - 2 * (len(heads) - 1))
    lines = []
    for number, row in enumerate(cells):
        shown = [padded(cut(cell, wide), wide) for cell, wide in zip(row, widths, strict=True)]
        shown[-1] = shown[-1].rstrip()
        if number == 0:
            shown = [faint(cell) for cell in shown]
        elif states is not None:
            shown[states] = coloured(row[states], shown[states])
        lines.append("  ".join(shown).rstrip())
    return lines


def _narrow(widths: list[int], columns: Sequence[int], room: int) -> None:
    """Make columns narrower until all fit into the room, or it is enough: the widest first, and the last one only when
    the others are no wider than `ENOUGH`."""
    for some, least in ((columns[:-1], ENOUGH), (columns, LEAST)):
        while sum(widths) > room and some:
            widest = max(some, key=lambda column: widths[column])
            if widths[widest] <= least:
                break
            widths[widest] -= 1


def wrapped(text: str, most: int | None) -> list[str]:
    """A text in lines that aren't longer than `most`; in one, if there is no such."""
    return [text] if most is None else textwrap.wrap(text, most, break_long_words=False, break_on_hyphens=False)


def letters() -> tuple[str, str]:
    """The letters of which bars are made: those that the output has."""
    stream = sys.stdout if hasattr(sys.stdout, "encoding") else sys.__stdout__  # Textual has put another in its place
    return LETTERS if "utf" in (getattr(stream, "encoding", None) or "").lower() else FEW_LETTERS


# Times


def ago(then: int | None, now: float | None = None) -> str:
    """How long ago a time was (UNIX milliseconds), such as `3m`; `-` if it isn't known."""
    if then is None:
        return "-"
    return lasting((time.time() if now is None else now) - then / 1000)


def lasting(seconds: float) -> str:
    """A duration in its two largest units, such as `2h5m`."""
    left, parts = max(int(seconds), 0), list[str]()
    for unit in ("d", "h", "m", "s"):
        count, left = divmod(left, UNITS[unit])
        if count or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
    return "".join(parts[:2])


def when(_ctx: click.Context, _param: click.Parameter, value: str | None) -> datetime | timedelta | None:
    """What an option says: how long ago, such as `90s`, `15m`, `2h`, `7d`; or a date, or a time such as
    `2026-11-28T14:00`."""
    if value is None:
        return None
    try:
        if found := re.fullmatch(r"(\d+)([smhdw])", value, re.ASCII):
            return timedelta(seconds=int(found[1]) * UNITS[found[2]])
        return datetime.fromisoformat(re.sub("[Zz]$", "+00:00", value)).astimezone()  # Python 3.10 knows no Z
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{value!r} is neither how long ago, such as 90s, 15m, 2h or 7d, nor a time") from None


def named(_ctx: click.Context, _param: click.Parameter, given: Given) -> Given:
    """The id of a run, or several, none of which is empty: a variable of a script's may be."""
    if "" in ((given,) if isinstance(given, str) else given):
        raise click.BadParameter("the id of a run is empty")
    return given
