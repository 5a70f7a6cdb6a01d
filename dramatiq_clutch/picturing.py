"""Draws a run as a Mermaid flowchart: its stages, and the runs that are nested in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .engine import Engine
from .listing import RunSummary, runs
from .mermaid import Drawing, quoted
from .status import RunStatus, StageStatus
from .stored.places import Place

#: How many nested runs of a stage are drawn, and how many levels of them, at most.
MOST_NESTED, LEVELS = 8, 3

#: The colours of states, as far as they are shown.
CLASSES = {
    "waiting": "fill:#f4f4f5,stroke:#a1a1aa,color:#3f3f46",
    "running": "fill:#dbeafe,stroke:#2563eb,color:#1e3a8a",
    "failing": "fill:#fef3c7,stroke:#d97706,color:#78350f",
    "failed": "fill:#fee2e2,stroke:#dc2626,color:#7f1d1d",
    "succeeded": "fill:#dcfce7,stroke:#16a34a,color:#14532d",
    "cancelled": "fill:#f3e8ff,stroke:#9333ea,color:#581c87",
}


def picture_of(engine: Engine, status: RunStatus) -> str:
    """The flowchart of a run with this status, as text."""
    picture = Picture(engine)
    start = picture.drawing.node("start", "(({}))", status.name or "start")
    end = picture.stages(status, start, 0)
    picture.drawing.arrows([end], [picture.drawing.node("end", "(({}))", "done")])
    return "\n".join(["flowchart LR", *picture.drawing.lines, *picture.classes()]) + "\n"


class Picture:
    """A drawing of runs, and the state of each of its nodes."""

    def __init__(self, engine: Engine) -> None:
        self.engine: Engine = engine
        self.drawing: Drawing = Drawing()
        self.states: dict[str, list[str]] = {}

    def stages(self, status: RunStatus, before: str, level: int) -> str:
        """Draw the stages of a run, behind a node. Returns the node that whatever follows waits for."""
        nested = self._nested(status) if level < LEVELS else {}
        for index, stage in enumerate(status.stages):
            box = self.drawing.node("n", "[{}]", _label(index, stage))
            self.states.setdefault(stage.state, []).append(box)
            self.drawing.arrows([before], [box])
            for child in nested.get(index, ())[:MOST_NESTED]:
                self._child(child, box, level)
            hidden = len(nested.get(index, ())) - MOST_NESTED
            if hidden > 0:
                self.drawing.arrows([box], [self.drawing.node("n", "[{}]", "and more nested runs")])
            before = box
        return before

    def _nested(self, status: RunStatus) -> dict[int, list[RunSummary]]:
        found: dict[int, list[RunSummary]] = {}
        for child in runs(broker=self.engine.broker, parent=status.run_id, limit=4 * MOST_NESTED):
            place = Place.of_child(child.run_id)
            if place is not None:
                found.setdefault(place.stage, []).append(child)
        return found

    def _child(self, child: RunSummary, box: str, level: int) -> None:
        status = self.engine.reader.status(child.run_id)
        if status is None:
            return  # it has succeeded meanwhile
        self.drawing.count += 1
        self.drawing.lines.append(
            "    " * self.drawing.depth + f"subgraph s{self.drawing.count}[{quoted(child.name or child.run_id)}]"
        )
        self.drawing.depth += 1
        first = self.drawing.node("n", "(({}))", " ")
        self.stages(status, first, level + 1)
        self.drawing.depth -= 1
        self.drawing.lines.append("    " * self.drawing.depth + "end")
        self.drawing.arrows([box], [first])

    def classes(self) -> Iterator[str]:
        for state, nodes in self.states.items():
            yield f"    classDef {state} {CLASSES[state]}"
            yield f"    class {','.join(nodes)} {state}"


def _label(index: int, stage: StageStatus) -> str:
    parts: Sequence[str] = [stage.name or f"stage {index}"]
    if stage.total is not None:
        parts = [
            *parts,
            f"{stage.succeeded}/{stage.total} succeeded" if stage.state != "waiting" else f"{stage.total} to do",
        ]
    parts = [
        *parts,
        *(f"{count} {word}" for word, count in (("failing", stage.failing), ("dead", stage.dead)) if count),
    ]
    return ", ".join(parts)
