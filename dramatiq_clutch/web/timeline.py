"""A timeline of a run: when its stages began and ended, and the members of the one that is looked at."""

from __future__ import annotations

from dataclasses import dataclass

from ..members import Member
from ..status import StageStatus
from .texts import label_of
from .views import RunView

#: How narrow a bar may be, in hundredths of the whole, so that it is seen. The page's script knows it, too.
LEAST = 0.4


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the timeline. All times are UNIX milliseconds: from `since` on it was held off, which a thin line shows;
    from `began` on it was at work, up to `ended`, which is None where that isn't known. If it `grows`, it is at work.

    A row is that of a `stage` or of a `member`, of which it shows the last attempt.
    """

    index: int
    label: str
    state: str
    since: int
    began: int
    ended: int | None
    grows: bool
    member: Member | None = None

    @property
    def key(self) -> str:
        """Tells it from the other rows of a timeline."""
        return str(self.index) if self.member is None else f"{self.index}.{self.member.index}"

    @property
    def attempt(self) -> int:
        """Which attempt of a member it shows, from 1 on; 0 if that isn't known."""
        if self.member is None or self.state not in ("working", "failing", "dead"):
            return 0
        return self.member.attempts + (self.state == "working")


@dataclass(frozen=True, slots=True)
class Timeline:
    """The rows, and from when to when they go (UNIX milliseconds); `is_over` says that nothing grows any more."""

    rows: tuple[Row, ...]
    start: int
    last: int
    is_over: bool

    @property
    def members(self) -> int:
        """How many members are drawn."""
        return sum(row.member is not None for row in self.rows)

    def at(self, moment: int) -> float:
        """Where a moment is, in hundredths of the whole."""
        return min(max(100 * (moment - self.start) / max(self.last - self.start, 1), 0), 100 - LEAST)

    def wide(self, since: int, until: int | None, least: float) -> float:
        """How wide it is from one moment to another; or to the end, if there is no other."""
        return max(self.at(self.last if until is None else until) - self.at(since), least)


def timeline(view: RunView, now: int) -> Timeline:
    """The rows of the stages whose times are known, each with its timed members if it is the one that is looked at: no
    more than the page lists, so that nothing is read for them."""
    rows = list[Row]()
    for index in view.drawn:
        stage = view.status.stages[index]
        since = _since(stage)
        if since is None:
            continue
        began = since if stage.began is None else stage.began
        grows = stage.settled is None and not view.is_over
        rows.append(Row(index, label_of(index, stage), stage.state, since, began, stage.settled, grows))
        if index == view.stage:
            rows.extend(_member(view, since, member) for member in view.members if member.began is not None)
    known = [moment for row in rows for moment in (row.since, row.began, row.ended) if moment is not None]
    ended = view.status.ended if view.is_over and view.status.ended is not None else now
    return Timeline(
        rows=tuple(rows),
        start=min([view.status.created, *known]),
        last=max([ended, *known]) if view.is_over else ended,
        is_over=view.is_over,
    )


def _member(view: RunView, since: int, member: Member) -> Row:
    began = since if member.began is None else member.began
    label = f"{member.index} {member.actor or ('nested run' if member.run_id else '')}".strip()
    return Row(
        member.stage, label, member.state, min(since, began), began, member.ended, is_at_work(view, member), member
    )


def is_at_work(view: RunView, member: Member) -> bool:
    """Whether a member is at work for all that is known: also a nested run that is failing, for that goes on."""
    return member.ended is None and member.state in ("working", "failing") and not view.is_over


def _since(stage: StageStatus) -> int | None:
    """When a stage was released, or its first attempt began; None if that isn't known."""
    return stage.released if stage.released is not None else stage.began
