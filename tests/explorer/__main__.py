"""Explores every world within its full bounds, and prints a table: `python -m tests.explorer [--smoke] [world ...]`."""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor

from .search import Explorer, Outcome
from .worlds import WORLDS, Bounds, World

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
    searches = [(name, bounds) for name in names for bounds in bounds_of(WORLDS[name], is_smoke=options.smoke)]
    probes: dict[str, set[str]] = {name: set() for name in names}
    problems: list[str] = []
    with ProcessPoolExecutor(options.processes) as pool:
        for found in pool.map(explored, *zip(*searches, strict=True)):
            print(row_of(found), flush=True)
            probes[found.world] |= found.probes
            if found.violation is not None:
                problems.append(f"{found.world}, {found.bounds}:\n{found.violation}")
    if not options.smoke:
        for name in names:
            missed = sorted(WORLDS[name].probes - probes[name])
            problems += [f"{name}: no search has come to where {probe!r}" for probe in missed]
    print(*problems, sep="\n\n")
    return 1 if problems else 0


def bounds_of(world: World, *, is_smoke: bool) -> tuple[Bounds, ...]:
    small = () if world.smoke is None else (world.smoke,)
    return small if is_smoke else world.full


def explored(name: str, bounds: Bounds) -> Outcome:
    """What a search of a world has found."""
    return Explorer(WORLDS[name], bounds).explore()


def row_of(outcome: Outcome) -> str:
    """The row of a world in the table."""
    bounds = outcome.bounds
    cells = (
        outcome.world + (", early calls" if bounds.early else ""),
        bounds.workers,
        *bounds.faults,
        f"{outcome.states:,}",
        f"{outcome.transitions:,}",
        outcome.rests,
        outcome.deepest,
        f"{outcome.seconds:.1f}",
    )
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    sys.exit(main())
