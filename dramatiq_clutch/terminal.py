"""Texts for a terminal: escaped, as wide as they may be, coloured by the states of runs; bars; times on its clock.

Names, arguments and errors are texts of the application's, in which anything may stand. So whatever is shown is escaped
first: it can neither steer the terminal nor be taken for markup.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TextIO

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
    "unfired": "bright_black",
    "owed": "yellow",
    "unknown": "bright_black",
    "working": "blue",
    "dead": "red",
    "skipped": "bright_black",
    "error": "red",
    "warning": "yellow",
    "info": "bright_black",
}

#: The numbers by which terminals know these colours.
NUMBERS = {"red": 31, "green": 32, "yellow": 33, "blue": 34, "magenta": 35, "bright_black": 90}

#: Of which characters a bar is made: where it is full, and where it isn't; and the same for a terminal that knows few.
LETTERS, FEW_LETTERS = ("━", "─"), ("=", ".")


def safe(text: object, most: int = 1_000) -> str:
    """A text of the application's, such as a name or an error, as it may be shown: what isn't printable, such as a
    control character or one that turns the direction of writing, is written as an escape. It stays in one line."""
    shown = str(text)
    return escaped(shown if len(shown) <= most else shown[: most - 1] + "…")


def escaped(text: str) -> str:
    """The same, of any length."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def encodable(text: str, file: TextIO) -> str:
    """A text of which the file's encoding has all characters; the others are escaped."""
    encoding = getattr(file, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


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


def folded(text: str, most: int) -> Iterator[str]:
    """A text in lines that are short enough, broken between words where there are any; all but the first are
    indented."""
    indent = ""
    while width_of(text) > most - len(indent):
        end = len(text)
        while width_of(text[:end]) > most - len(indent):
            end -= 1
        space = text.rfind(" ", end // 2, end + 1)
        end = space if space > 0 else end
        yield indent + text[:end]
        text, indent = text[end:].lstrip(" "), "    "
    yield indent + text


# Colours


def coloured(state: str, text: str | None = None) -> str:
    """A text in the colour of a state; of a state that has none, as it is."""
    text, colour = state if text is None else text, COLOURS.get(state)
    return text if colour is None else f"\x1b[{NUMBERS[colour]}m{text}\x1b[0m"


def faint(text: str) -> str:
    return coloured("info", text)


def plain(line: str) -> str:
    """A line without its colours."""
    return re.sub(r"\x1b\[\d+m", "", line)


def cut_line(line: str, most: int) -> str:
    """A line that isn't too long, whose colours go if it is."""
    return line if width_of(plain(line)) <= most else cut(plain(line), most)


def bar(parts: Sequence[tuple[str, int]], total: int, cells: int, letters: tuple[str, str] = LETTERS) -> str:
    """A bar whose parts are as long as their shares of the total, each in the colour of its state. What there is any
    of can be seen."""
    full, empty = letters
    drawn, done, end = "", 0, 0
    for state, count in parts:
        done += count
        length = min(max(round(done * cells / max(total, 1)) - end, 1 if count else 0), cells - end)
        drawn, end = drawn + (coloured(state, full * length) if length else ""), end + length
    return drawn + (faint(empty * (cells - end)) if end < cells else "")


def at(then: int) -> str:
    """A time (UNIX milliseconds) on the clock of whoever looks, with the date if it isn't today."""
    moment = datetime.fromtimestamp(then / 1000).astimezone()
    today = moment.date() == datetime.now().astimezone().date()
    return f"{moment:%H:%M:%S}" if today else f"{moment:%Y-%m-%d %H:%M:%S}"
