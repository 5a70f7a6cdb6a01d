"""A timeline of a run: when its stages began and ended, and the members of the one that is looked at."""

from __future__ import annotations

from dataclasses import dataclass

from ..status import StageStatus
from .views import RunView

#: How narrow a bar may be, in hundredths of the whole, so that it is seen.
LEAST = 0.4

#: How many stages are drawn, at most.
MOST = 60


@dataclass(frozen=True, slots=True)
class Row:
    """A row: in hundredths of the whole from where on it waited, from where on it worked, and up to where. `began` and
    `ended` are UNIX milliseconds."""

    label: str
    state: str
    waited: float
    worked: float
    until: float
    began: int
    ended: int | None
    is_member: bool = False
    worker: str | None = None

    @property
    def waiting(self) -> float:
        return max(self.worked - self.waited, 0)

    @property
    def working(self) -> float:
        return max(self.until - self.worked, LEAST)


def timeline(view: RunView, now: int) -> tuple[Row, ...]:
    """The rows of the stages whose times are known, each with its timed members if it is the one that is looked at."""
    status, rows = view.status, list[Row]()
    last = status.ended if status.ended is not None else now
    begins = [_began(stage) for stage in status.stages]
    start = min([status.created, *(began for began in begins if began is not None)])
    whole = max(last - start, 1)

    def place(at: int) -> float:
        return min(max(100 * (at - start) / whole, 0), 100 - LEAST)

    for index, stage in enumerate(status.stages[:MOST]):
        began = begins[index]
        if began is None:
            continue
        settled, worked = stage.settled, stage.began if stage.began is not None else began
        label = stage.name or f"stage {index}"
        until = place(settled if settled is not None else last)
        rows.append(Row(label, stage.state, place(began), place(worked), until, began, settled))
        if index == view.stage:
            for member in view.members:
                if member.began is not None:
                    until = place(member.ended if member.ended is not None else last)
                    at = place(member.began)
                    rows.append(
                        Row(
                            f"{member.index} {member.actor or ''}".strip(),
                            member.state,
                            at,
                            at,
                            until,
                            member.began,
                            member.ended,
                            is_member=True,
                            worker=member.worker,
                        )
                    )
    return tuple(rows)


def _began(stage: StageStatus) -> int | None:
    """When a stage was released, or its first attempt began; None if that isn't known."""
    return stage.released if stage.released is not None else stage.began
