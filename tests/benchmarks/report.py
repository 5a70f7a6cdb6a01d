"""What was measured, as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

from tests.benchmarks.contender import Contender
from tests.benchmarks.measure import Measured, long, middle
from tests.benchmarks.on_dramatiq import Clutches, Floor
from tests.benchmarks.shapes import Gaps, Shape

Taken = Mapping[type[Contender], Sequence[Measured]]
#: The head of a column, and what it has for each contender.
Column = tuple[str, Mapping[type[Contender], str]]

#: Where there is nothing to show.
NOTHING = "—"

PROCESSORS = {"working": "worker", "serving": "server", "producing": "producer", "processor": "sum"}


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def of(measured: Sequence[object], figure: str) -> float:
    """The median of one figure."""
    values: list[float] = [getattr(one, figure) for one in measured]
    return statistics.median(values)


def comparison(shape: Shape, taken: Taken, weights: Mapping[type[Contender], float]) -> str:
    """One row a contender; one that can't express the shape has no measurements."""
    best = _best_peers(taken)
    columns = [
        *_work(taken),
        _column("of the best peer with results", taken, lambda one: _ratio(of(one, "rate"), best)),
        _column("time to start", taken, lambda one: f"{of(one, 'start'):.2f} s"),
        ("bytes a message", {kind: f"{weight:,.0f}" for kind, weight in weights.items()}),
        _column("worker's memory grew by", taken, lambda one: f"{of(one, 'worker') / 1e6:.1f} MB"),
        _column("server's memory, a job", taken, lambda one: f"{of(one, 'server'):,.0f} B"),
    ]
    return f"\n**{shape.title}**\n\n{_table(list(taken), columns)}\n"


def overview(taken: Mapping[Shape, Taken]) -> str:
    """One table of several shapes, side by side: of each what it tells most of."""
    kinds = list(next(iter(taken.values())))
    columns = [column for shape, of_shape in taken.items() for column in _columns(shape, of_shape)]
    titles = "\n".join(f"- {shape.title}" for shape in taken)
    return f"\n{titles}\n\n{_table(kinds, columns)}\n"


def bare_pings(seconds: float, times: Sequence[float]) -> str:
    """How long a bare PING takes on this machine, each time after so many seconds: to compare a hand-over with."""
    found = " / ".join(f"{figure(times) * 1e3:.1f}" for figure in (middle, long, max))
    return f"For comparison, a bare PING after {seconds:g} s in which nothing happens: {found} ms."


def _table(kinds: Sequence[type[Contender]], columns: Sequence[Column]) -> str:
    rows = [[kind.name, *(cells.get(kind, NOTHING) for _, cells in columns)] for kind in kinds]
    return table(["", *(head for head, _ in columns)], rows)


def _column(head: str, taken: Taken, cell: Callable[[Sequence[Measured]], str]) -> Column:
    return head, {kind: cell(measured) for kind, measured in taken.items() if measured}


def _columns(shape: Shape, taken: Taken) -> Iterator[Column]:
    if isinstance(shape, Gaps):
        yield _column(f"ms after {shape.follows}: p50 / p99 / max", taken, _gaps)
    else:
        yield from _work(taken)


def _work(taken: Taken) -> Iterator[Column]:
    """How fast, and what a job costs."""
    yield _column("jobs/s", taken, lambda one: f"{of(one, 'rate'):,.0f}")
    yield _column("of the floor", taken, partial(_of_floor, taken, "rate"))
    for figure, who in PROCESSORS.items():
        yield _column(f"processor a job: {who} (of the floor's)", taken, partial(_processor, taken, figure))
    yield _column("Redis commands a job", taken, lambda one: f"{of(one, 'commands'):.1f}")


def _gaps(measured: Sequence[Measured]) -> str:
    return " / ".join(f"{of(measured, figure) * 1e3:.1f}" for figure in ("middle_gap", "long_gap", "longest_gap"))


def _processor(taken: Taken, figure: str, measured: Sequence[Measured]) -> str:
    return f"{of(measured, figure) * 1e6:,.0f} µs ({_of_floor(taken, figure, measured)})"


def _of_floor(taken: Taken, figure: str, measured: Sequence[Measured]) -> str:
    return _ratio(of(measured, figure), of(taken[Floor], figure) if taken.get(Floor) else 0)


def _ratio(value: float, yardstick: float) -> str:
    return f"{value / yardstick:.2f}" if yardstick else NOTHING


def _best_peers(taken: Taken) -> float:
    """The rate of the fastest other one that hands results on."""
    peers = [measured for kind, measured in taken.items() if measured and kind.hands_on and kind is not Clutches]
    return max((of(measured, "rate") for measured in peers), default=0)
