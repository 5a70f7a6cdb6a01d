"""How the templates write times, durations, numbers and a job's texts. Everything that comes from a job is escaped."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from datetime import datetime, timezone
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from ..shortening import beginning_of
from ..status import RunStatus, StageStatus
from ..terminal import safe

#: How many characters of a name, an id or a tag are shown, and how many of a longer text.
SHORT: int = 120
LONG: int = 4_000

#: A sign for each state, so that none is told by its colour alone. The word stands beside it.
SIGNS: dict[str, str] = {
    "succeeded": "✓",
    "running": "●",
    "working": "●",
    "failing": "!",
    "stalled": "!",
    "failed": "✕",
    "dead": "✕",
    "cancelled": "⊘",
    "skipped": "⤼",
    "waiting": "○",
    "unsent": "○",
    "sent": "»",
    "unfired": "○",
    "owed": "…",
    "unknown": "?",
}

#: The parts of a bar, in order: how a member may have ended, or stands.
PARTS: tuple[str, ...] = ("succeeded", "skipped", "dead", "failing")


@cache
def environment() -> Environment:
    """The templates, in which everything is escaped unless it is said not to be. They are compiled once a process."""
    made = Environment(
        loader=PackageLoader(__package__ or "dramatiq_clutch.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "time": time_tag,
        "text": text,
        "line": line,
        "long": long_text,
        "count": lambda number: f"{number:,}",
        "percent": percent,
        "span": span,
    }
    made.globals |= {"sign": sign, "bar": bar, "waits_for": waits_for, "parts": parts_of, "plural": plural}
    made.globals |= {"label_of": label_of}
    return made


def asset(name: str) -> bytes:
    """A file that the page loads."""
    return (resources.files(__package__) / "static" / name).read_bytes()


def cut(given: str, most: int) -> str:
    return beginning_of(given.encode(errors="replace").decode(), most)


def text(given: Any, most: int = SHORT) -> Markup:
    """A text of the application's: cut, escaped, and kept to itself, whichever way it is written."""
    return Markup("<bdi>{}</bdi>").format(cut(str(given), most))


def line(given: str) -> str:
    """A text of the application's for a place that takes no markup, such as the title of a window: there, what isn't
    printable, such as what turns the direction of writing, is written as an escape."""
    return safe(given, SHORT)


def long_text(given: Any) -> Markup:
    return text(given, LONG)


def sign(state: str) -> Markup:
    """A state, as a sign and a word."""
    return Markup('<span class="state {0}"><span class="sign" aria-hidden="true">{1}</span>{0}</span>').format(
        state, SIGNS.get(state, "·")
    )


def time_tag(at: int | None) -> Markup:
    """A time in UNIX milliseconds. The script writes it anew in the viewer's zone."""
    if at is None:
        return Markup("")
    moment = datetime.fromtimestamp(at / 1000, timezone.utc)
    return Markup('<time datetime="{}">{}</time>').format(
        moment.isoformat(timespec="milliseconds"), f"{moment:%Y-%m-%d %H:%M:%S} UTC"
    )


def span(began: int | None, ended: int | None, now: int) -> Markup:
    """How long something took, or takes; the script has it go on."""
    if began is None:
        return Markup("")
    taken = duration(max((now if ended is None else ended) - began, 0))
    if ended is not None:
        return Markup("<span>{}</span>").format(taken)
    return Markup('<span data-from="{}">{}</span>').format(began, taken)


def duration(milliseconds: float) -> str:
    seconds = milliseconds / 1000
    if milliseconds < 100:
        return f"{milliseconds:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3_600} h {whole % 3_600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3_600} h"


def percent(part: float) -> str:
    """A progress, which is 100 % at the end and not before."""
    return f"{int(part * 100)} %"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def parts_of(one: Any) -> list[tuple[str, int]]:
    """How the members of a stage stand: the parts that there are, and how many members each has."""
    return [(part, count) for part in PARTS if (count := getattr(one, part, 0))]


def bar(parts: Sequence[tuple[str, int]], total: int | None) -> Markup:
    """A stacked bar. What it shows stands in words beside it, so that it is hidden from screen readers."""
    at, drawn = 0.0, Markup("")
    for part, count in parts:
        wide = 100 * count / total if total else 0
        drawn += Markup('<rect class="{}" x="{:.2f}" width="{:.2f}" height="8"/>').format(part, at, wide)
        at += wide
    return Markup(
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true" focusable="false">{}</svg>'
    ).format(drawn)


def waits_for(status: RunStatus) -> Markup:
    """What a run waits for, with times that the script writes anew. The mark around a time can't be guessed, so that no
    text of a job is taken for one."""
    mark = secrets.token_hex(8)
    sentence = escape(cut(status.waits_for(lambda at: f"{mark}{at}{mark}"), LONG))
    return Markup(re.sub(rf"{mark}(\d+){mark}", lambda found: time_tag(int(found[1])), str(sentence)))


def label_of(index: int, stage: StageStatus) -> str:
    """What a stage is called."""
    return stage.name or f"stage {index}"
