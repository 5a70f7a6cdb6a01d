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
    header = ["", "jobs/s", "of the floor", "of the best peer with results", "Redis commands a job", "time to start"]
    header += ["bytes a message", "worker's memory grew by", "server's memory, a job", "server's processor, a job"]
    rates = _floors(taken), _best_peers(taken)
    rows = [
        [kind.name, *(_cells(measured, weights[kind], rates) if measured else [NOTHING] * (len(header) - 1))]
        for kind, measured in taken.items()
    ]
    return f"\n**{shape.title}**\n\n{table(header, rows)}\n"


def _cells(measured: Sequence[Measured], weight: float, yardsticks: Iterable[float]) -> list[str]:
    return [
        f"{of(measured, 'rate'):,.0f}",
        *(f"{of(measured, 'rate') / yardstick:.2f}" if yardstick else NOTHING for yardstick in yardsticks),
        f"{of(measured, 'commands'):.1f}",
        f"{of(measured, 'start'):.2f} s",
        f"{weight:,.0f}",
        f"{of(measured, 'worker') / 1e6:.1f} MB",
        f"{of(measured, 'server'):,.0f} B",
        f"{of(measured, 'busy') * 1e6:,.0f} µs",
    ]


def _floors(taken: Taken) -> float:
    return of(taken[Floor], "rate") if taken.get(Floor) else 0


def _best_peers(taken: Taken) -> float:
    """The rate of the fastest other one that hands results on."""
    peers = [measured for kind, measured in taken.items() if measured and kind.hands_on and kind is not Clutches]
    return max((of(measured, "rate") for measured in peers), default=0)
