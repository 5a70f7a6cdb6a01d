"""What was measured, as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from tests.benchmarks.contender import Contender
from tests.benchmarks.measure import Measured
from tests.benchmarks.on_dramatiq import Clutches, Floor
from tests.benchmarks.shapes import Shape

Taken = Mapping[type[Contender], Sequence[Measured]]

#: Where there is nothing to show.
NOTHING = "—"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def of(measured: Sequence[Measured], figure: str) -> float:
    """The median of one figure."""
    values: list[float] = [getattr(one, figure) for one in measured]
    return statistics.median(values)


def comparison(shape: Shape, taken: Taken, weights: Mapping[type[Contender], float]) -> str:
    """One row a contender; one that can't express the shape has no measurements."""
    yardstick, rate = _yardstick(taken)
    header = ["", "jobs/s", yardstick, "Redis commands a job", "time to start", "bytes a message"]
    header += ["worker's memory grew by", "server's memory, a job", "server's processor, a job"]
    rows = [
        [kind.name, *(_cells(measured, weights[kind], rate) if measured else [NOTHING] * 8)]
        for kind, measured in taken.items()
    ]
    return f"\n**{shape.title}**\n\n{table(header, rows)}\n"


def _cells(measured: Sequence[Measured], weight: float, yardstick: float) -> list[str]:
    return [
        f"{of(measured, 'rate'):,.0f}",
        f"{of(measured, 'rate') / yardstick:.2f}" if yardstick else NOTHING,
        f"{of(measured, 'commands'):.1f}",
        f"{of(measured, 'start'):.2f} s",
        f"{weight:,.0f}",
        f"{of(measured, 'worker') / 1e6:.1f} MB",
        f"{of(measured, 'server'):,.0f} B",
        f"{of(measured, 'busy') * 1e6:,.0f} µs",
    ]


def _yardstick(taken: Taken) -> tuple[str, float]:
    """What the rates are compared to: the floor's, or that of the fastest other one that hands results on."""
    if taken.get(Floor):
        return "of the floor", of(taken[Floor], "rate")
    peers = [measured for kind, measured in taken.items() if measured and kind.hands_on and kind is not Clutches]
    return "of the best peer with results", max((of(measured, "rate") for measured in peers), default=0)
