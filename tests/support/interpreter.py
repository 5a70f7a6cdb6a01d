"""What the documentation says of runs, done in the simplest way: a tree in memory, no messages, no duties, no leases.

Each event is told at once and the whole tree is looked at again, from the bottom up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

Outcome = Literal["ok", "fail", "die"]


@dataclass(frozen=True)
class Leaf:
    """A job. If it succeeds it nests `nests`, and returns its own name, or what they result in."""

    name: str
    nests: tuple[Tree, ...] = ()
    yields: bool = False


@dataclass(frozen=True)
class Step:
    members: tuple[Leaf | Tree, ...]
    many: bool = False
    mapped: bool = False
    tolerant: bool = False
    limit: int | None = None  # when a job's message is sent isn't known here
    allowed: float | None = None
    enough: int | None = None
    fail_fast: bool = False
    deadline: bool = False

    def terms(self, total: int) -> tuple[int, int]:
        """How many of so many members must succeed, and how many may be dead."""
        if self.enough is not None:
            return min(self.enough, total), max(total - self.enough, 0)
        if self.tolerant or self.allowed is None:
            return total, total if self.tolerant else 0
        return total, int(self.allowed) if self.allowed >= 1 else math.floor(self.allowed * total + 1e-9)


@dataclass(frozen=True)
class Tree:
    name: str
    steps: tuple[Step, ...]
    deadline: bool = False


@dataclass(eq=False)
class Common:
    """What all runs of a tree have in common. `events` are those of each run, by its name; `seen` has the highest epoch
    of the messages of each place, which is a run, a stage and a member; and `now` counts how often all deadlines have
    passed that had begun."""

    events: dict[str, str] = field(default_factory=dict)
    seen: dict[tuple[str, int, int], int] = field(default_factory=dict)
    now: int = 0


@dataclass(eq=False)
class Member:
    """`view` is how the parent sees it: none (no attempt yet), open, failing, attempted, dead or ok.

    `begins`: its run begins with a retry, because the one around it had broken off when the job ended.

    It was sent again when its run was last taken up after a cancel, or after it broke off, so how an attempt of the
    epoch `void`, or of an earlier one, fails counts no more.
    """

    leaf: Leaf | None
    identity: str = ""
    view: str = "none"
    result: Any = None
    order: tuple[int, int] = (-1, -1)
    void: int = -1
    run: SimRun | None = None
    begins: bool = False


@dataclass(eq=False)
class SimRun:
    """`broken`: it has failed while members were unsettled; `late`: because a deadline was over. `begun` and
    `stage_begun` say since when its deadline and that of its present stage count. `kept` has the results of each stage
    that is over."""

    run_id: str
    name: str
    tree: Tree
    inherited: list[Any]
    common: Common
    state: str = "running"
    stage: int = -1
    members: list[Member] = field(default_factory=list)
    previous: list[Any] = field(default_factory=list)
    alarmed: bool = False
    mourned: bool = False
    told: str = "none"
    past: list[SimRun] = field(default_factory=list)
    result: Any = None
    broken: bool = False
    late: bool = False
    begun: int = 0
    stage_begun: int = 0
    kept: dict[int, list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.previous = self.inherited
        self.begun = self.common.now
        self.release([])

    # What happens

    def release(self, results: list[Any]) -> None:
        self.past += self.runs()  # a failed run that its parent could do without may still be healed by hand
        self.kept[self.stage] = results
        self.stage += 1
        self.alarmed = self.mourned = False
        self.stage_begun = self.common.now
        if self.stage == len(self.tree.steps):
            self.state = "succeeded"
            self.fire("SE")
            return
        self.previous = results if self.stage else self.inherited
        step = self.tree.steps[self.stage]
        if step.mapped:
            (member,) = step.members
            self.members = [
                self.member(index, member, f"({item!r})", [item]) for index, item in enumerate(self.previous)
            ]
        else:
            self.members = [self.member(index, one, "", self.previous) for index, one in enumerate(step.members)]

    def member(self, index: int, what: Leaf | Tree, suffix: str, sees: list[Any]) -> Member:
        if isinstance(what, Leaf):
            return Member(what, what.name + suffix)
        return Member(None, run=self.child(index, what.name, what, sees))

    def child(self, index: int, name: str, tree: Tree, sees: list[Any]) -> SimRun:
        return SimRun(f"{self.run_id}~{self.stage}.{index}", name, tree, sees, self.common)

    def fire(self, letters: str) -> None:
        events = self.common.events
        events[self.name] = events.get(self.name, "") + letters

    def record(self, member: Member, outcome: Outcome, order: tuple[int, int]) -> None:
        if member.view == "ok" or member.run is not None or member.begins:
            return
        if self.broken and outcome == "fail":
            return
        assert member.leaf is not None
        if outcome == "ok" and member.leaf.nests:
            member.view, member.begins = "open", True
            if self.broken:
                return
            self.nest(member)
            self.judge()  # that the job has ended is one event, what becomes of its runs another
        elif outcome == "ok":
            member.view, member.result = "ok", member.identity
        elif order > member.order and order[0] > member.void and not self.has_no_place(member, outcome):
            member.order = order
            member.view = "failing" if outcome == "fail" else "dead"

    def nest(self, member: Member) -> None:
        assert member.leaf is not None
        name = f"in {member.identity}"
        tree = Tree(name, (Step(member.leaf.nests, many=True),))
        member.run, member.begins = self.child(self.members.index(member), name, tree, []), False

    def has_no_place(self, member: Member, outcome: Outcome) -> bool:
        """Whether a copy of a dead job's message would begin to fail again, beside those that the limit allows."""
        return outcome == "fail" and member.view == "dead" and self.tree.steps[self.stage].limit is not None

    def settle(self) -> None:
        """Look at everything, from the bottom up."""
        for run in self.past:
            run.settle()
        for member in self.members:
            if member.run is not None:
                member.run.settle()
                word = member.run.word()
                if member.view == "ok" or ((self.state == "cancelled" or self.broken) and word != "ok"):
                    continue  # nothing counts any more, but that a nested run has succeeded
                member.view = word
                if member.view == "ok":
                    member.result = member.run.result
                    if member.leaf is not None and not member.leaf.yields:
                        member.result = member.identity
        if self.state in ("running", "failed") and self.stage < len(self.tree.steps) and not self.is_over():
            self.judge()

    def is_over(self) -> bool:
        """Whether a deadline of the run is over, so that nothing completes its stage before a retry."""
        ends_run = self.tree.deadline and self.begun < self.common.now
        step = self.tree.steps[self.stage]
        return self.late or ends_run or (step.deadline and self.stage_begun < self.common.now)

    def expire(self) -> None:
        """Let the run fail if a deadline of it is over."""
        if self.state == "running" and self.is_over():
            if not self.alarmed:
                self.alarmed = True
                self.fire("F")
            self.state, self.broken, self.late = "failed", True, True
            self.fire("XE")
            self.halt()

    def judge(self) -> None:
        step, views = self.tree.steps[self.stage], [member.view for member in self.members]
        dead, trouble = views.count("dead"), views.count("dead") + views.count("failing")
        settled = all(view in ("ok", "dead") for view in views)
        goal, most = step.terms(len(views))
        breaks = step.fail_fast and dead > most
        if self.state == "failed" and not (settled or self.broken):
            self.state, self.alarmed, self.mourned = "running", False, dead > 0
        had_attempts = not any(view in ("none", "open") for view in views)
        if trouble and (breaks or had_attempts) and not self.alarmed:
            self.alarmed = True
            self.fire("F")
        if dead and not self.mourned:
            self.mourned = True
            self.fire("D")
        if views.count("ok") >= goal or (settled and dead <= most):
            results = [member.result if member.view == "ok" else None for member in self.members]
            self.result = results if step.many else results[0]
            self.halt()  # what is skipped
            self.state, self.broken = "running", False
            self.release(results)
            self.settle()
        elif (settled or breaks) and self.state != "failed":
            self.state, self.broken = "failed", breaks
            self.fire("XE")
            if breaks:
                self.halt()

    def halt(self) -> None:
        for child in self.children():
            child.cancel()
            child.word()

    def word(self) -> str:
        """How the parent sees this run."""
        trouble = any(member.view in ("failing", "dead") for member in self.members)
        if self.state == "succeeded":
            self.told = "ok"
        elif self.state != "running":
            self.told = "dead"
        elif self.alarmed and trouble:
            self.told = "failing"
        elif self.told in ("failing", "attempted"):
            self.told = "attempted"
        elif self.told == "dead":
            self.told = "open"
        return self.told

    def cancel(self) -> None:
        if self.state != "running":
            return
        self.state = "cancelled"
        self.fire("E")
        self.halt()

    def retry(self) -> None:
        if self.state == "succeeded":
            return
        halted = self.state == "cancelled" or self.broken or (self.state == "failed" and self.is_over())
        again = [member for member in self.members if member.view == "dead" or (halted and member.view != "ok")]
        for member in again:
            if member.view != "none":
                member.view = "open"
        if again or halted:
            self.state, self.alarmed, self.mourned = "running", False, False
            self.broken = self.late = False
            self.begun = self.stage_begun = self.common.now
        if halted:
            for index, member in enumerate(self.members):
                member.void = self.common.seen.get((self.run_id, self.stage, index), -1)
        for child in self.children():
            child.retry()
        for member in self.members:
            if member.begins:
                self.nest(member)

    def rewind(self, stage: int) -> None:
        """Do the stages from this one on again. What was nested in them until now goes."""
        for run in (*self.runs(), *self.past):
            if run.at >= stage:
                run.cancel()
        self.past = [run for run in (*self.runs(), *self.past) if run.at < stage]
        self.state, self.members, self.stage = "running", [], stage - 1
        self.broken = self.late = False
        self.begun = self.common.now
        self.common.seen.clear()
        self.release(self.kept[self.stage])

    @property
    def at(self) -> int:
        """The stage of the parent that this run is nested in."""
        return int(self.run_id.rpartition("~")[2].partition(".")[0])

    def children(self) -> Iterator[SimRun]:
        return (member.run for member in self.members if member.run is not None and member.view != "ok")

    def runs(self) -> Iterator[SimRun]:
        return (member.run for member in self.members if member.run is not None)

    def all(self) -> Iterator[SimRun]:
        """The run, and all that are nested in it."""
        yield self
        for run in (*self.runs(), *self.past):
            yield from run.all()

    # What is asked

    def find(self, run_id: str, stage: int, index: int, *, at_work: bool = False) -> tuple[SimRun, Member] | None:
        """The job at this place, if it is still wanted; or, if it is `at_work` already, may still count."""
        if run_id == self.run_id:
            wanted = self.state in ("running", "failed") and stage == self.stage and (at_work or not self.broken)
            member = self.members[index] if wanted else None
            return (self, member) if member is not None and member.view != "ok" and member.run is None else None
        found = (run.find(run_id, stage, index, at_work=at_work) for run in (*self.runs(), *self.past))
        return next((place for place in found if place), None)
