"""Explores every world within its full bounds, and prints a table: `python -m tests.explorer [--smoke] [world ...]`."""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor

from .search import Explorer, Outcome
from .worlds import WORLDS

HEADINGS = (
    "world", "workers", "kills", "lapses", "lost replies", "redeliveries", "states", "transitions", "rests", "deepest",
    "seconds",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.explorer", description=__doc__)
    parser.add_argument("world", nargs="*", help="which worlds; default is all of them")
    parser.add_argument("--smoke", action="store_true", help="within the small bounds of the suite")
    parser.add_argument("--processes", type=int, default=1, help="how many worlds are explored at a time")
    options = parser.parse_args()
    unknown = sorted(set(options.world) - set(WORLDS))
    if unknown:
        parser.error(f"there is no world {unknown[0]!r}; there are: {', '.join(WORLDS)}")
    names = options.world or list(WORLDS)
    print(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}", flush=True)
    found: list[Outcome] = []
    with ProcessPoolExecutor(options.processes) as pool:
        for outcome in pool.map(explored, names, [options.smoke] * len(names)):
            print(row_of(outcome), flush=True)
            found.append(outcome)
    wrong = [outcome for outcome in found if outcome.problems]
    for outcome in wrong:
        print(f"\n{outcome.world}:\n" + "\n".join(outcome.problems))
    return 1 if wrong else 0


def explored(name: str, smoke: bool) -> Outcome:
    """What a search of a world has found."""
    world = WORLDS[name]
    return Explorer(world, world.smoke if smoke else world.full).explore()


def row_of(outcome: Outcome) -> str:
    """The row of a world in the table."""
    bounds = outcome.bounds
    cells = (
        outcome.world, bounds.workers, bounds.kills, bounds.lapses, bounds.lost, bounds.doubles, f"{outcome.states:,}",
        f"{outcome.transitions:,}", outcome.rests, outcome.deepest, f"{outcome.seconds:.1f}",
    )  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    sys.exit(main())
