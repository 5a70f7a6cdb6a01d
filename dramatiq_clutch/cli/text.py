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
from typing import Any

import click

from dramatiq_clutch.terminal import FEW_LETTERS, LETTERS, coloured, cut, faint, padded, safe, width_of

#: The widest that a text is made for, where nobody says how wide the terminal is.
WIDTH = 80

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
    return sys.stdout.isatty()


def width() -> int | None:
    """How wide a line may be; None in a pipe, where nothing is cut off."""
    return max(shutil.get_terminal_size((WIDTH, 24)).columns, 40) if is_terminal() else None


def table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, states: int | None = None, most: int | None
) -> list[str]:
    """Lines with the heads and the rows, in columns as wide as they have to be. Where that is more than `most`, the
    last column is cut off. `states` is the column that has states, which are coloured. All cells are escaped."""
    cells = [list(heads), *([safe(cell) for cell in row] for row in rows)]
    widths = [max(width_of(row[column]) for row in cells) for column in range(len(heads))]
    room = None if most is None else max(most - sum(widths[:-1]) - 2 * (len(widths) - 1), 8)
    lines = []
    for number, row in enumerate(cells):
        last = row[-1] if room is None else cut(row[-1], room)
        shown = [padded(cell, wide) for cell, wide in zip(row[:-1], widths, strict=False)] + [last]
        if number == 0:
            shown = [faint(cell) for cell in shown]
        elif states is not None:
            shown[states] = coloured(row[states], shown[states])
        lines.append("  ".join(shown).rstrip())
    return lines


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
    if found := re.fullmatch(r"(\d+)([smhdw])", value, re.ASCII):
        return timedelta(seconds=int(found[1]) * UNITS[found[2]])
    try:
        return datetime.fromisoformat(re.sub("[Zz]$", "+00:00", value)).astimezone()  # Python 3.10 knows no Z
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither how long ago, such as 90s, 15m, 2h or 7d, nor a time") from None
