"""python -m tests.benchmarks: the same work, done by each contender in turn, on one machine, in one sitting.

Prints medians, and ratios to the floor or to the best peer: a table for each shape, or, if hand-overs are among the
shapes, one table of all of them. Every answer is checked. Peers that aren't installed are named, and left out. With
--plot, it draws the time of a fan against its size instead.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import product, starmap
from pathlib import Path

from tests.benchmarks.celery_contender import Chords
from tests.benchmarks.contender import Contender
from tests.benchmarks.contenders import ON_DRAMATIQ
from tests.benchmarks.further import installed
from tests.benchmarks.measure import Measured, Setting, TooLong, measure, pings, weigh
from tests.benchmarks.report import Taken, bare_pings, comparison, overview
from tests.benchmarks.shapes import Fan, First, Gaps, Handover, Nested, Results, Series, Shape, Small, Wide

CONTENDERS: tuple[type[Contender], ...] = (*ON_DRAMATIQ, Chords)
HANDOVERS = (Handover(300, 0), Handover(10, 1), Wide(8, turns=50), First(0.7, turns=8))

SIZES = (100, 1_000, 10_000, 100_000)


def take(kinds: Sequence[type[Contender]], shape: Shape, repeat: int, setting: Setting) -> Taken:
    """Each contender that can, in turn, as often as is said."""
    taken: dict[type[Contender], list[Measured]] = {kind: [] for kind in kinds}
    for _ in range(repeat):
        for kind in able(kinds, shape):
            taken[kind].append(measure(kind, shape, setting))
    return taken


def able(kinds: Sequence[type[Contender]], shape: Shape) -> list[type[Contender]]:
    return [kind for kind in kinds if shape.suits(kind)]


def compare(kinds: Sequence[type[Contender]], shape: Shape, repeat: int, setting: Setting) -> str:
    weights = {kind: weigh(kind, shape) for kind in able(kinds, shape)}
    return comparison(shape, take(kinds, shape, repeat, setting), weights)


def plot(file: Path, kinds: Sequence[type[Contender]], sizes: Sequence[int], setting: Setting) -> None:
    from tests.benchmarks.plot import curves, draw, figures  # the tables don't need matplotlib

    found = curves(kinds, sizes, setting, say=print)
    print(figures(found, sizes))
    draw(found, file)


def all_shapes(fans: Sequence[int], beside: Sequence[int], lengths: Sequence[int]) -> list[Shape]:
    series = starmap(Series, product(beside, lengths))
    return [*map(Fan, fans), *series, Nested(20, 20), Small(200), Results(1_000, 10_000), *HANDOVERS]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = sorted({shape.name for shape in all_shapes([1], [1], [1])})
    alone = [name for name in names if name != Gaps.name]
    parser.add_argument("--shapes", nargs="+", choices=names, default=alone, help="default is all but handover")
    parser.add_argument("--jobs", type=int, nargs="+", default=[500, 5_000], help="sizes of the fan")
    parser.add_argument("--beside", type=int, nargs="+", default=[8, 64], help="how many series side by side")
    parser.add_argument("--length", type=int, nargs="+", default=[100], help="of each of them")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--prefetch", type=int, help="dramatiq_queue_prefetch of all Dramatiq workers; default is 16")
    parser.add_argument("--processes", type=int, default=1, help="worker processes; who has but one is left out")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="contenders whose names have one of these words")
    parser.add_argument("--limit", type=float, default=600, help="seconds that one measurement may take")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw a fan's time against its size instead")
    parser.add_argument("--most", type=int, default=max(SIZES), help="the largest size for --plot")
    return parser.parse_args()


def chosen(words: Sequence[str] | None, processes: int) -> list[type[Contender]]:
    """The contenders that are there, that can have so many worker processes, and that are asked for."""
    there = [kind for kind in (*CONTENDERS, *installed(say=print)) if kind.scales or processes == 1]
    return [kind for kind in there if words is None or any(word.lower() in kind.name.lower() for word in words)]


def environment(prefetch: int | None) -> dict[str, str]:
    """What all workers get, alike.

    Dramatiq's Redis consumer sleeps for 5 to 10 ms each time that it has `prefetch` messages outstanding, by default
    two a thread. So one process with 8 threads gets some 16 jobs per 7.5 ms, about 2,100 a second, whatever they cost:
    what is cheaper than that shows only with a higher prefetch.
    """
    return {} if prefetch is None else {"dramatiq_queue_prefetch": str(prefetch)}


def main() -> None:
    given = arguments()
    setting = Setting(given.limit, environment(given.prefetch), given.processes)
    kinds = chosen(given.only, given.processes)
    if given.plot:
        plot(given.plot, kinds, [size for size in SIZES if size <= given.most], setting)
        return
    prefetch = given.prefetch or "default"
    print(f"Medians of {given.repeat}; Dramatiq's prefetch: {prefetch}; worker processes: {given.processes}")
    shapes = [shape for shape in all_shapes(given.jobs, given.beside, given.length) if shape.name in given.shapes]
    if any(isinstance(shape, Gaps) for shape in shapes):
        print(overview({shape: take(kinds, shape, given.repeat, setting) for shape in shapes}))
        for shape in shapes:
            if isinstance(shape, Handover):
                print(bare_pings(shape.seconds, pings(shape.hops, shape.seconds)))
        return
    for shape in shapes:
        print(compare(kinds, shape, given.repeat, setting), flush=True)


if __name__ == "__main__":
    try:
        main()
    except TooLong as error:
        raise SystemExit(str(error)) from None
