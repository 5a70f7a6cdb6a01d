"""The table in tests/README.md: what was run, with which versions, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.matrix.environments import ENVIRONMENTS

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- matrix: begin -->", "<!-- matrix: end -->"

#: Of an environment: with which versions, and what came of it.
Found = Mapping[str, tuple[str, str]]


def table(found: Found) -> str:
    """One line for each environment that has been run."""
    lines = ["| environment | what is tried | versions | result |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {environment.about} | {found[name][0]} | {found[name][1]} |"
        for name, environment in ENVIRONMENTS.items()
        if name in found
    ]
    return "\n".join(lines)


def rows(text: str) -> dict[str, tuple[str, str]]:
    """What the page says already."""
    inside = text.partition(BEGIN)[2].partition(END)[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in inside.splitlines() if line[:1] == "|"]
    return {row[0]: (row[2], row[3]) for row in cells[2:]}


def written(text: str, found: Found) -> str:
    """The page with these results in the place of its own."""
    before, mark, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (mark and end):
        raise LookupError(f"{README} has no marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{table(found)}\n\n{END}{after}"
