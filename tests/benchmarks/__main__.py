"""python -m tests.benchmarks: the same work, done by each contender in turn, on one machine, in one sitting.

Prints medians, and ratios to the floor or to the best peer. Every answer is checked. With --plot, it draws the time of
a fan against its size instead.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import product, starmap
from pathlib import Path

from tests.benchmarks.celery_contender import Chords
from tests.benchmarks.contender import Contender
from tests.benchmarks.contenders import ON_DRAMATIQ
from tests.benchmarks.measure import Measured, TooLong, measure, weigh
from tests.benchmarks.report import comparison
from tests.benchmarks.shapes import Fan, Nested, Results, Series, Shape, Small

CONTENDERS: tuple[type[Contender], ...] = (*ON_DRAMATIQ, Chords)

SIZES = (100, 1_000, 10_000, 100_000)


def compare(shape: Shape, repeat: int, env: Mapping[str, str], limit: float) -> str:
    able = [kind for kind in CONTENDERS if shape.suits(kind)]
    taken: dict[type[Contender], list[Measured]] = {kind: [] for kind in CONTENDERS}
    for _ in range(repeat):
        for kind in able:
            taken[kind].append(measure(kind, shape, env, limit))
    return comparison(shape, taken, {kind: weigh(kind, shape) for kind in able})


def plot(file: Path, sizes: Sequence[int], env: Mapping[str, str], limit: float) -> None:
    from tests.benchmarks.plot import curves, draw, figures  # the tables don't need matplotlib

    found = curves(CONTENDERS, sizes, env, limit, say=print)
    print(figures(found, sizes))
    draw(found, file)


def all_shapes(fans: Sequence[int], beside: Sequence[int], lengths: Sequence[int]) -> list[Shape]:
    series = starmap(Series, product(beside, lengths))
    return [*map(Fan, fans), *series, Nested(20, 20), Small(200), Results(1_000, 10_000)]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = sorted({shape.name for shape in all_shapes([1], [1], [1])})
    parser.add_argument("--shapes", nargs="+", choices=names, default=names, help="default is all")
    parser.add_argument("--jobs", type=int, nargs="+", default=[500, 5_000], help="sizes of the fan")
    parser.add_argument("--beside", type=int, nargs="+", default=[8, 64], help="how many series side by side")
    parser.add_argument("--length", type=int, nargs="+", default=[100], help="of each of them")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--prefetch", type=int, help="dramatiq_queue_prefetch of all Dramatiq workers; default is 16")
    parser.add_argument("--limit", type=float, default=600, help="seconds that one measurement may take")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw a fan's time against its size instead")
    parser.add_argument("--most", type=int, default=max(SIZES), help="the largest size for --plot")
    return parser.parse_args()


def environment(prefetch: int | None) -> dict[str, str]:
    """What all workers get, alike.

    Dramatiq's Redis consumer sleeps for 5 to 10 ms each time that it has `prefetch` messages outstanding, by default
    two a thread. So one process with 8 threads gets some 16 jobs per 7.5 ms, about 2,100 a second, whatever they cost:
    what is cheaper than that shows only with a higher prefetch.
    """
    return {} if prefetch is None else {"dramatiq_queue_prefetch": str(prefetch)}


def main() -> None:
    given = arguments()
    env = environment(given.prefetch)
    if given.plot:
        plot(given.plot, [size for size in SIZES if size <= given.most], env, given.limit)
        return
    print(f"Medians of {given.repeat}; Dramatiq's prefetch: {given.prefetch or 'default'}")
    for shape in all_shapes(given.jobs, given.beside, given.length):
        if shape.name in given.shapes:
            print(compare(shape, given.repeat, env, given.limit), flush=True)


if __name__ == "__main__":
    try:
        main()
    except TooLong as error:
        raise SystemExit(str(error)) from None
