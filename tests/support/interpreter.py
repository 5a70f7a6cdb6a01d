"""What the documentation says of runs, done in the simplest way: a tree in memory, no messages, no duties, no leases.

Each event is told at once and the whole tree is looked at again, from the bottom up.
"""

from __future__ import annotations

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


@dataclass(frozen=True)
class Tree:
    name: str
    steps: tuple[Step, ...]


@dataclass(eq=False)
class Member:
    """`view` is how the parent sees it: none (no attempt yet), open, failing, attempted, dead or ok.

    It was sent again when its run was last taken up after a cancel, so how an attempt of the epoch `void`, or of an
    earlier one, fails counts no more.
    """

    leaf: Leaf | None
    identity: str = ""
    view: str = "none"
    result: Any = None
    order: tuple[int, int] = (-1, -1)
    void: int = -1
    run: SimRun | None = None


@dataclass(eq=False)
class SimRun:
    """`seen` has the highest epoch of the messages of each place, which is a run, a stage and a member."""

    run_id: str
    name: str
    tree: Tree
    inherited: list[Any]
    events: dict[str, str]
    state: str = "running"
    stage: int = -1
    members: list[Member] = field(default_factory=list)
    previous: list[Any] = field(default_factory=list)
    alarmed: bool = False
    mourned: bool = False
    told: str = "none"
    past: list[SimRun] = field(default_factory=list)
    result: Any = None
    seen: dict[tuple[str, int, int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.previous = self.inherited
        self.release([])

    # What happens

    def release(self, results: list[Any]) -> None:
        self.past += self.runs()  # a failed run that its parent could do without may still be healed by hand
        self.stage += 1
        self.alarmed = self.mourned = False
        if self.stage == len(self.tree.steps):
            self.state = "succeeded"
            self.fire("SE")
            return
        if self.stage:
            self.previous = results
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
        return SimRun(f"{self.run_id}~{self.stage}.{index}", name, tree, sees, self.events, seen=self.seen)

    def fire(self, letters: str) -> None:
        self.events[self.name] = self.events.get(self.name, "") + letters

    def record(self, member: Member, outcome: Outcome, order: tuple[int, int]) -> None:
        if member.view == "ok" or member.run is not None:
            return
        assert member.leaf is not None
        if outcome == "ok" and member.leaf.nests:
            name = f"in {member.identity}"
            tree = Tree(name, (Step(member.leaf.nests, many=True),))
            member.run = self.child(self.members.index(member), name, tree, [])
            member.view = "open"
            self.judge()  # that the job has ended is one event, what becomes of its runs another
        elif outcome == "ok":
            member.view, member.result = "ok", member.identity
        elif order > member.order and order[0] > member.void and not self.has_no_place(member, outcome):
            member.order = order
            member.view = "failing" if outcome == "fail" else "dead"

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
                if member.view == "ok" or (self.state == "cancelled" and word != "ok"):
                    continue  # nothing counts any more, but that a nested run has succeeded
                member.view = word
                if member.view == "ok":
                    member.result = member.run.result
                    if member.leaf is not None and not member.leaf.yields:
                        member.result = member.identity
        if self.state in ("running", "failed") and self.stage < len(self.tree.steps):
            self.judge()

    def judge(self) -> None:
        step, views = self.tree.steps[self.stage], [member.view for member in self.members]
        dead, trouble = views.count("dead"), views.count("dead") + views.count("failing")
        settled = all(view in ("ok", "dead") for view in views)
        if self.state == "failed" and (not settled or not dead):
            self.state, self.alarmed, self.mourned = "running", False, dead > 0
        if trouble and not any(view in ("none", "open") for view in views) and not self.alarmed:
            self.alarmed = True
            self.fire("F")
        if dead and not self.mourned:
            self.mourned = True
            self.fire("D")
        if settled and (not dead or step.tolerant):
            results = [member.result if member.view == "ok" else None for member in self.members]
            self.result = results if step.many else results[0]
            self.release(results)
            self.settle()
        elif settled and self.state != "failed":
            self.state = "failed"
            self.fire("XE")

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
        for child in self.children():
            child.cancel()
            child.word()

    def retry(self) -> None:
        cancelled = self.state == "cancelled"
        again = [member for member in self.members if member.view == "dead" or (cancelled and member.view != "ok")]
        if self.state == "succeeded":
            return
        for member in again:
            if member.view != "none":
                member.view = "open"
        if again or cancelled:
            self.state, self.alarmed, self.mourned = "running", False, False
        if cancelled:
            for index, member in enumerate(self.members):
                member.void = self.seen.get((self.run_id, self.stage, index), -1)
        for child in self.children():
            child.retry()

    def children(self) -> Iterator[SimRun]:
        return (member.run for member in self.members if member.run is not None and member.view != "ok")

    def runs(self) -> Iterator[SimRun]:
        return (member.run for member in self.members if member.run is not None)

    # What is asked

    def find(self, run_id: str, stage: int, index: int) -> tuple[SimRun, Member] | None:
        """The job at this place, if it is still wanted."""
        if run_id == self.run_id:
            wanted = self.state in ("running", "failed") and stage == self.stage
            member = self.members[index] if wanted else None
            return (self, member) if member is not None and member.view != "ok" and member.run is None else None
        found = (run.find(run_id, stage, index) for run in (*self.runs(), *self.past))
        return next((place for place in found if place), None)
