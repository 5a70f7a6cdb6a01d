"""Draws a trace as a waterfall, in SVG: `python -m tests.pictures.waterfall [FILE]` records a run of two workers and
writes `examples/pictures/trace.svg`, or that file."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from tests.pictures.traced import record

PICTURE = Path(__file__).parents[2] / "examples" / "pictures" / "trace.svg"

#: In pixels: the picture, its column of names, a row, and the margins.
WIDTH, NAMES, ROW, MARGIN, TOP = 960, 250, 22, 16, 44

#: What the bars are filled with, and what the legend says of them.
COLOURS = {
    "run": ("#3d4f8a", "run"),
    "stage": ("#9aa8d8", "stage"),
    "process": ("#2f9e83", "attempt of a job, or a callback"),
    "failed": ("#c8443f", "failed attempt"),
    "other": ("#8a8f98", "the request"),
}

STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1f2430}.faint{fill:#6a7080;font-size:11px}.grid{stroke:#e4e7ee}"
    ".head{font-weight:600;font-size:13px}"
)


class Bar(NamedTuple):
    """A span as it is drawn; times in nanoseconds."""

    depth: int
    name: str
    kind: str
    start: int
    end: int
    where: str


def nanoseconds(text: str) -> int:
    return int(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1e6) * 1_000


def bars(spans: Sequence[dict[str, Any]], parent: str | None = None, depth: int = 0) -> Iterator[Bar]:
    """The spans as a tree, those of one parent in the order in which they began."""
    for span in sorted(spans, key=lambda one: one["start_time"]):
        if span["parent_id"] == parent:
            about, (first, _, rest) = span["attributes"], span["name"].partition(" ")
            kind = first if first in COLOURS else "other"
            name = f"{rest} {about.get('dramatiq_clutch.member', '')}".strip() if kind == "process" else span["name"]
            if span["status"]["status_code"] == "ERROR" and kind == "process":
                kind = "failed"
            start, end = nanoseconds(span["start_time"]), nanoseconds(span["end_time"])
            yield Bar(depth, name, kind, start, end, span["resource"]["attributes"]["service.name"])
            yield from bars(spans, span["context"]["span_id"], depth + 1)


def draw(spans: Sequence[dict[str, Any]]) -> str:
    """The picture, as the text of an SVG file."""
    rows = list(bars(spans))
    first, last = min(row.start for row in rows), max(row.end for row in rows)
    room = WIDTH - NAMES - 2 * MARGIN - 90
    height = TOP + ROW * len(rows) + 44

    def at(time: int) -> float:
        return NAMES + MARGIN + (time - first) / (last - first) * room

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'role="img" aria-label="The spans of one run, over the time">',
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text class="head" x="{MARGIN}" y="22">One run, one trace</text>',
    ]
    step = next(step for step in (50, 100, 200, 500, 1_000) if (last - first) / 1e6 / step <= 10)
    for mark in range(0, int((last - first) / 1e6) + 1, step):
        x = at(first + mark * 1_000_000)
        lines.append(f'<path class="grid" d="M{x:.1f} {TOP - 12}V{height - 34}"/>')
        lines.append(f'<text class="faint" x="{x:.1f}" y="{TOP - 18}" text-anchor="middle">{mark} ms</text>')
    for index, row in enumerate(rows):
        y, (x, end) = TOP + ROW * index, (at(row.start), at(row.end))
        width = max(end - x, 2)
        took = f"{(row.end - row.start) / 1e6:.0f} ms"
        lines += [
            f'<text x="{MARGIN + 14 * row.depth}" y="{y + 12}">{escape(row.name)}</text>',
            f'<rect x="{x:.1f}" y="{y + 1}" width="{width:.1f}" height="14" rx="2" fill="{COLOURS[row.kind][0]}"/>',
            f'<text class="faint" x="{x + width + 5:.1f}" y="{y + 12}">'
            f"{took}{f' · {escape(row.where)}' if row.kind in ('process', 'failed', 'other') else ''}</text>",
        ]
    x = MARGIN
    for colour, says in COLOURS.values():
        lines.append(f'<rect x="{x}" y="{height - 24}" width="12" height="12" rx="2" fill="{colour}"/>')
        lines.append(f'<text class="faint" x="{x + 17}" y="{height - 14}">{says}</text>')
        x += 34 + 6 * len(says)
    return "\n".join([*lines, "</svg>", ""])


def main(file: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spans = record(Path(folder))
    file.parent.mkdir(exist_ok=True)
    file.write_text(draw(spans))
    print(f"{file}: {len(spans)} spans")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else PICTURE)
