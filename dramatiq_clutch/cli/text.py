"""Texts for a terminal: escaped, in columns, coloured; and times as people say them."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
import time
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

import click

#: The colour of each state.
COLOURS = {
    "running": "blue",
    "failing": "yellow",
    "failed": "red",
    "succeeded": "green",
    "cancelled": "magenta",
    "stalled": "yellow",
    "waiting": "bright_black",
    "unsent": "bright_black",
    "sent": "blue",
    "working": "blue",
    "dead": "red",
    "skipped": "bright_black",
    "error": "red",
    "warning": "yellow",
    "info": "bright_black",
}

#: The widest that a text is made for, where nobody says how wide the terminal is.
WIDTH = 80

UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def safe(text: object, most: int = 1_000) -> str:
    """A text of the application's, such as a name or an error, as it may be shown: what isn't printable, such as a
    control character or one that turns the direction of writing, is written as an escape. It stays in one line."""
    shown = str(text)
    return escaped(shown[: most - 1] + "…" if len(shown) > most else shown)


def escaped(text: str) -> str:
    """The same, of any length."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def safe_lines(text: str) -> list[str]:
    """The same for a text of several lines, such as a traceback."""
    return [safe(line) for line in re.split(r"\r?\n", text.rstrip("\n"))]


def width_of(text: str) -> int:
    """How many cells of a terminal a text takes that has nothing to be escaped."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(one) in "WF" for one in text)
    return len(text) + wide - sum(unicodedata.combining(one) > 0 for one in text)


def cut(text: str, width: int) -> str:
    """The beginning of a text, with a mark where something was cut off."""
    if width_of(text) <= width:
        return text
    while text and width_of(text) > width - 1:
        text = text[:-1]
    return text + "…" if width > 0 else ""


def padded(text: str, width: int) -> str:
    return text + " " * max(width - width_of(text), 0)


def coloured(state: str, text: str | None = None) -> str:
    return click.style(state if text is None else text, fg=COLOURS.get(state))


def faint(text: str) -> str:
    return click.style(text, fg="bright_black")


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


def bar(parts: Sequence[tuple[str, int]], total: int, cells: int) -> str:
    """A bar whose parts are as long as their shares of the total, each in the colour of its state. What there is any
    of can be seen."""
    full, empty = ("━", "─") if can_draw() else ("=", ".")
    drawn, done, end = "", 0, 0
    for state, count in parts:
        done += count
        length = min(max(round(done * cells / max(total, 1)) - end, 1 if count else 0), cells - end)
        drawn, end = drawn + (coloured(state, full * length) if length else ""), end + length
    return drawn + (faint(empty * (cells - end)) if end < cells else "")


def can_draw() -> bool:
    """Whether the output has more letters than those of ASCII."""
    stream = sys.stdout if hasattr(sys.stdout, "encoding") else sys.__stdout__  # Textual has put another in its place
    return "utf" in (getattr(stream, "encoding", None) or "").lower()


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


def at(then: int) -> str:
    """A time (UNIX milliseconds) on the clock of whoever looks, with the date if it isn't today."""
    moment = datetime.fromtimestamp(then / 1000).astimezone()
    today = moment.date() == datetime.now().astimezone().date()
    return f"{moment:%H:%M:%S}" if today else f"{moment:%Y-%m-%d %H:%M:%S}"


def when(_ctx: click.Context, _param: click.Parameter, value: str | None) -> datetime | timedelta | None:
    """What an option says: how long ago, such as `90s`, `15m`, `2h`, `7d`; or a date, or a time such as
    `2026-11-28T14:00`."""
    if value is None:
        return None
    if found := re.fullmatch(r"(\d+)([smhdw])", value, re.ASCII):
        return timedelta(seconds=int(found[1]) * UNITS[found[2]])
    try:
        return datetime.fromisoformat(value).astimezone()
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither how long ago, such as 90s, 15m, 2h or 7d, nor a time") from None
