"""Draws what the command shows in a terminal of 80 columns, of real runs, in SVG: `python -m tests.pictures.terminal
[FILE]` writes `examples/pictures/terminal.svg`, or that file."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path

from tests.pictures.page import played
from tests.support.server import Server
from tests.test_cli_processes import COLUMNS, at_a_terminal

PICTURE = Path(__file__).parents[2] / "examples" / "pictures" / "terminal.svg"

#: In pixels: a cell of the terminal, and the margin around all of them.
CELL, LINE, MARGIN = 8.4, 18, 20

#: What the numbers of colours look like.
COLOURS = {"31": "#ff8f86", "32": "#6cc993", "33": "#eab455", "34": "#8fb1ff", "35": "#c5abea", "90": "#a1a5ac"}

STYLE = "text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;fill:#e8e8e6;white-space:pre}"


def said(url: str, *arguments: str) -> Iterator[str]:
    """What is entered, and the lines that come of it."""
    yield f"\x1b[90m$ dramatiq-clutch -b shop.tasks {' '.join(arguments)}\x1b[0m"
    with at_a_terminal(*arguments, "--url", url, "--namespace", "shop-clutch") as terminal:
        terminal.end()
    yield from terminal.said.replace("\r", "").rstrip("\n").split("\n")
    yield ""


def drawn(line: str, y: int) -> Iterator[str]:
    """The texts of a line, each in its colour and at its place: fonts aren't alike in how wide lines of boxes are."""
    colour, column = "", 0
    for text, number in re.findall(r"([^\x1b]+)|\x1b\[(\d+)m", line):
        if number:
            colour = COLOURS.get(number, "")
            continue
        fill = f' style="fill:{colour}"' if colour else ""
        wide = f'textLength="{len(text) * CELL:.1f}" lengthAdjust="spacingAndGlyphs"'
        yield f'<text x="{MARGIN + column * CELL:.1f}" y="{y}" {wide}{fill}>{escape(text)}</text>'
        column += len(text)


def draw(lines: list[str]) -> str:
    """The terminal as SVG."""
    width, height = round(2 * MARGIN + COLUMNS * CELL), 2 * MARGIN + LINE * len(lines)
    size = f'width="{width}" height="{height}"'
    texts = [text for number, line in enumerate(lines) for text in drawn(line, MARGIN + LINE * number + 14)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {size}>',
            f"<style>{STYLE}</style>",
            f'<rect {size} rx="9" fill="#131416"/>',
            *texts,
            "</svg>\n",
        ]
    )


def main() -> int:
    file = Path(sys.argv[1]) if sys.argv[1:] else PICTURE
    with Server() as server, played(server.url) as (_, ids):
        verbs = (("list", "--limit", "8"), ("show", ids["run"]), ("show", ids["failed"]))
        lines = [line for verb in verbs for line in said(server.url, *verb)]
    file.write_text(draw(lines[:-1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
