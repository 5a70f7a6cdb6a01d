"""The time of a fan against its size: figures, and a picture of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

from tests.benchmarks.contender import Contender
from tests.benchmarks.measure import Setting, TooLong, measure
from tests.benchmarks.report import NOTHING, table
from tests.benchmarks.shapes import Fan

mpl.use("Agg")  # there needn't be a display

#: Seconds, by the size of the fan.
Curve = dict[int, float]


def curves(
    kinds: Sequence[type[Contender]],
    sizes: Sequence[int],
    setting: Setting,
    say: Callable[[str], None],
) -> dict[str, Curve]:
    """Each contender in turn at each size. One that took longer than the limit is left out from there on."""
    found: dict[str, Curve] = {kind.name: {} for kind in kinds}
    left = list(kinds)
    for size in sizes:
        for kind in tuple(left):
            try:
                found[kind.name][size] = seconds = measure(kind, Fan(size), setting).seconds
                late = seconds > setting.limit
            except TooLong:
                late = True
            if late:
                left.remove(kind)
                limit = f"{setting.limit:g} s"
                say(f"{kind.name} took more than {limit} for {size:,} jobs; it is left out where there are more")
    return found


def figures(found: Mapping[str, Curve], sizes: Sequence[int]) -> str:
    rows = [
        [who, *(f"{curve[size]:.2f} s" if size in curve else NOTHING for size in sizes)] for who, curve in found.items()
    ]
    return table(["jobs", *(f"{size:,}" for size in sizes)], rows)


def draw(found: Mapping[str, Curve], file: Path) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for who, curve in found.items():
        axes.loglog(list(curve), list(curve.values()), marker="o", label=who)
    axes.set_title("Jobs that do nothing, side by side, and one that comes after them")
    axes.set_xlabel("jobs")
    axes.set_ylabel("seconds from the call that starts them to the answer")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(which="both", alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=150)
    plt.close(figure)
