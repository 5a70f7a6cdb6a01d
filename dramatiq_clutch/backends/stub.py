"""Runs in memory: for users' unit tests on `StubBroker`, and the model that the Redis scripts are compared with.

The methods say what the scripts in ``lua/`` say, in the same words. Nothing expires here, as nothing lives long.
"""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple
from weakref import WeakSet

from dramatiq import Encoder

from ..backend import (
    LAST,
    SHARE,
    Caller,
    ClutchBackend,
    Ending,
    GuardWord,
    Listener,
    Note,
    Record,
    Reply,
)
from ..errors import DamagedState, foreign_run
from ..forks import renew_in_children
from ..status import MOST_FAILURES
from ..stored.duties import (
    CallBack,
    Duty,
    Halt,
    OfStage,
    OpenStage,
    Resend,
    Resume,
    Revive,
    SendAgain,
    SendMembers,
    StartNested,
    Tell,
)
from ..stored.formats import HAS_NESTED, IS_JOB, IS_RUN, Snapshot, Standing, success
from ..stored.owners import SWEEPER, job
from ..stored.places import CallbackTag, Tag
from ..stored.plan import COMPLETION, EVENTS, Plan, StageLine, rows_of

#: What a cancelled run doesn't do any more.
MOVES = (SendMembers, OpenStage, StartNested, SendAgain, Resume, Revive, Resend)

#: How many members come along with the duty to send them, and a result of how many bytes.
FEW, LITTLE = 10, 10_000

#: No step works on more members than that.
MANY = 1_000

KINDS: tuple[Ending, ...] = ("open", "attempted", "failing", "dead")


@dataclass(slots=True)
class Trouble:
    """A member that has had an attempt and not succeeded. It has an `era` lower than the present one while it waits to
    be sent again: of the revivals, if it is dead."""

    kind: Ending
    is_run: bool = False
    order: tuple[int, int] = (-1, -1)
    details: bytes = b""
    era: int = 0


@dataclass(slots=True)
class Owed:
    """A duty in the outbox, and who may do it until when; `anybody` may, for what has no owner. A parked one has
    failed. `members` are those that a retry was given last, in an `epoch`."""

    duty: Duty
    owner: str
    due: int = 0
    parked: bool = False
    fresh: bool = True
    members: tuple[int, ...] = ()
    epoch: int = 0


@dataclass(slots=True)
class StubRun:
    spec: bytes | None
    token: str
    claim: str
    lines: list[StageLine]
    rows: tuple[bytes, ...]
    events: tuple[str, ...]
    name: str
    created: int
    updated: int
    now: int
    lease_ms: int
    told: str
    generation: str = ""
    application: str = ""
    due: int = 0
    state: str = "running"
    stage: int = 0
    epoch: int = 0
    era: int = 0
    revival: int = 0
    alarmed: bool = False
    mourned: bool = False
    error: str = ""
    cancelled_by: str = ""
    since: int = 0
    seq: int = 0
    fired: int = 0
    revision: int = 0
    retries: int = 0
    retrying: str = ""
    share: int = SHARE
    sent: int = 0
    seen: tuple[int, int, int] | None = None
    seen_at: int = 0
    stalled: int | None = None
    woken: bool = False
    callbacks: set[str] = field(default_factory=set)
    results: dict[int, dict[int, bytes]] = field(default_factory=lambda: defaultdict(dict))
    trouble: dict[int, dict[int, Trouble]] = field(default_factory=lambda: defaultdict(dict))
    nests: dict[int, dict[int, bytes]] = field(default_factory=lambda: defaultdict(dict))
    items: dict[int, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    lost: dict[int, int] = field(default_factory=dict)
    outbox: dict[str, Owed] = field(default_factory=dict)

    @property
    def line(self) -> StageLine:
        return self.lines[self.stage]

    def waits(self, one: Trouble) -> bool:
        """Whether a member waits to be sent again."""
        return one.era < (self.revival if one.kind == "dead" else self.era)

    def count(self, *kinds: Ending) -> int:
        found = self.trouble[self.stage].values()
        return sum(one.kind in kinds and not self.waits(one) for one in found)

    def waiting(self) -> list[int]:
        """The members that wait to be sent again, in the order in which they will be."""
        found = [(member, one) for member, one in self.trouble[self.stage].items() if self.waits(one)]
        return [
            member
            for member, _ in sorted(found, key=lambda m: (m[1].kind != "dead", m[1].era, KINDS.index(m[1].kind), m[0]))
        ]

    def stand(self, member: int, trouble: Trouble) -> None:
        trouble.era = self.revival if trouble.kind == "dead" else self.era
        self.trouble[self.stage][member] = trouble

    def has_nested(self) -> bool:
        return bool(self.lines) and (self.line.nested or bool(self.nests[self.stage]))

    @property
    def present(self) -> tuple[int, int, int]:
        """What changes whenever anything happens to the run."""
        return self.stage, len(self.results[self.stage]) + len(self.trouble[self.stage]), self.updated

    def update(self) -> None:
        self.updated, self.stalled = self.now, None

    def snapshot(self) -> Snapshot:
        results, trouble = self.results[self.stage], self.trouble[self.stage]
        ranked = [
            (one.kind == "dead", member)
            for member, one in trouble.items()
            if one.kind in ("failing", "dead") and not self.waits(one)
        ]
        head = {
            "state": self.state,
            "stage": str(self.stage),
            "stages": str(len(self.lines)),
            "name": self.name,
            "error": self.error,
            "created": str(self.created),
            "updated": str(self.updated),
            "told": self.told,
            "gen": self.generation,
            "sent": str(self.sent),
        }
        if self.stalled is not None and self.seen == self.present:
            head["stalled"] = str(self.stalled)
        head |= {f"s{index}": str(line) for index, line in enumerate(self.lines)}
        head |= {f"d{index}": str(count) for index, count in self.lost.items()}
        counts = {"marks": len(results) + len(trouble)} | {kind: self.count(kind) for kind in KINDS}
        counts["open"] += len(self.waiting())
        failures = [[str(member), trouble[member].details.decode()] for _, member in sorted(ranked)]
        return {"head": head, "counts": counts, "failures": failures[:MOST_FAILURES]}

    def moment(self) -> Snapshot:
        self.update()
        return self.snapshot()

    # What is owed

    def owe(self, owner: str, duty: Duty, *, due: int = 0) -> None:
        self.seq += 1
        self.outbox.setdefault(duty.id, Owed(replace(duty, generation=self.generation), owner, due))

    def owe_callback(self, owner: str, event: str) -> None:
        if event in self.events:
            self.fired += 1
            duty = CallBack(self.stage, event, self.fired, snapshot=self.moment())
            if event != COMPLETION:
                self.callbacks.add(duty.id)
            self.owe(owner, duty)

    def owe_stage(self, owner: str) -> None:
        total, limit = self.line.total, self.line.limit
        if not total:
            self.owe(owner, OpenStage(self.stage))
            return
        if limit:
            self.sent = total = min(total, limit)
        self.owe_send(owner, 0, total)

    def owe_send(self, owner: str, start: int, end: int) -> None:
        lead = math.ceil(self.share * 2 / 5)
        if end - start <= 2 * self.share or self.line.nested:
            self.owe(owner, SendMembers(self.stage, start, end))
            return
        after, size = start + lead, max(self.share, math.ceil((end - start - lead) / lead))
        shares = range(after, end, size)
        self.owe(owner, SendMembers(self.stage, start, after, len(shares)))
        for leader, at in enumerate(shares, start):
            duty, due = SendMembers(self.stage, at, min(at + size, end)), self.now + self.lease_ms
            self.owe(job(self.stage, leader), duty, due=due)

    @property
    def few_runs(self) -> int:
        return math.ceil(self.share * 2 / 25)

    def owe_shares(self, owner: str, kind: type[Resume | Revive | Halt], end: int) -> None:
        if not end:
            return
        size = max(math.ceil(self.share * 2 / 5), math.ceil(end / 50))
        first = min(self.few_runs, end)
        self.owe(owner, kind(self.stage, 0, first, self.epoch))
        for at in range(first, end, size):
            self.owe("", kind(self.stage, at, min(at + size, end), self.epoch), due=self.now)

    def owe_retry(self, owner: str) -> None:
        self.retries += 1
        duty = SendAgain(self.stage, self.retries, self.epoch)
        self.retrying = duty.id
        self.owe(owner, duty, due=0 if owner else self.now)

    def room(self) -> int:
        unattempted = self.sent - len(self.results[self.stage]) - len(self.trouble[self.stage])
        return (self.line.limit or MANY) - unattempted - self.count("open", "attempted", "failing")

    def fill(self, owner: str, total: int) -> None:
        if not self.line.limit or (room := self.room()) <= 0:
            return
        waiting = len(self.waiting())
        if waiting and not self.retrying:
            self.owe_retry(owner)
        room -= waiting
        if room > 0 and self.sent < total:
            end = min(total, self.sent + room)
            self.owe_send(owner, self.sent, end)
            self.sent = end

    def alarm(self, owner: str) -> None:
        if not self.alarmed:
            self.alarmed = True
            self.owe_callback(owner, "on_failure")

    def mourn(self, owner: str) -> None:
        if not self.mourned:
            self.mourned = True
            self.owe_callback(owner, "on_death")

    def rest(self, owner: str, state: str) -> None:
        self.state = state
        if state == "succeeded":
            self.owe_callback(owner, COMPLETION)
            self.owe_callback(owner, "on_success")
        self.owe_callback(owner, "on_finish")

    def heal(self, dead: int) -> None:
        self.woken = self.woken or self.state != "running"
        self.state, self.alarmed, self.mourned = "running", False, dead > 0

    def complete(self, owner: str, dead: int) -> None:
        for kept in (self.results, self.trouble):
            kept.pop(self.stage - 1, None)
        self.nests.pop(self.stage, None)
        self.items.pop(self.stage, None)
        if dead:
            self.lost[self.stage] = dead
        if self.stage + 1 == len(self.lines):
            self.rest(owner, "succeeded")
            return
        if self.state == "failed":
            self.heal(0)
        self.stage += 1
        self.alarmed = self.mourned = False
        self.retrying, self.era, self.revival = "", 0, 0
        self.owe_stage(owner)

    def judge(self, owner: str) -> None:
        total = self.line.total
        if total is None:
            return
        succeeded, dead = len(self.results[self.stage]), self.count("dead")
        had = succeeded + self.count("attempted", "failing", "dead")
        settled = succeeded + dead == total
        if self.state == "failed" and not settled:
            self.heal(dead)
        if self.count("failing", "dead") and had >= total:
            self.alarm(owner)
        if dead:
            self.mourn(owner)
        if succeeded == total or (settled and self.line.tolerant):
            self.complete(owner, dead)
        elif settled and self.state != "failed":
            self.rest(owner, "failed")
        else:
            self.fill(owner, total)

    def tell(self, owner: str, *, again: bool = False) -> None:
        if not self.told:
            return
        if self.state != "running":
            word = "succeeded" if self.state == "succeeded" else "dead"
        elif self.alarmed and self.count("failing", "dead"):
            word = "failing"
        else:
            word = "attempted" if self.told in ("failing", "attempted") else "open"
        if word == self.told and not again:
            return
        self.outbox.pop(Tell(self.revision).id, None)
        self.told = word
        self.revision += 1
        self.owe(owner, Tell(self.revision, snapshot=self.moment()))

    def look(self, owner: str, stage: int, *, again: bool = False) -> None:
        if stage != self.stage:
            return
        if self.state in ("running", "failed") and not self.error and self.lines:
            self.judge(owner)
        self.tell(owner, again=again)

    def is_moot(self, duty: Duty) -> bool:
        return isinstance(duty, MOVES) and (duty.stage < self.stage or self.state == "succeeded")

    def answer(self, word: str, caller: Caller, *, owing: str = "") -> Reply:
        """The duties that are the caller's now, and what else there is to say."""
        duties: list[Duty] = []
        more = has_share = False
        self.outbox = {name: owed for name, owed in self.outbox.items() if not self.is_moot(owed.duty)}
        for owed in self.outbox.values():
            is_share, fresh, owed.fresh = owed.owner == "", owed.fresh, False
            if owed.parked or not (owed.owner == caller.owner or owed.due <= caller.now):
                continue
            if is_share and not fresh and caller.owner != SWEEPER:
                continue
            if is_share and (fresh or has_share):
                more = True
                continue
            has_share = has_share or is_share
            owed.duty = replace(owed.duty, lease=caller.lease, again=owed.duty.lease != "")
            if isinstance(owed.duty, OfStage):
                stage = owed.duty.stage
                owed.duty = replace(owed.duty, line=str(self.lines[stage]) if stage < len(self.lines) else "")
            if isinstance(owed.duty, SendMembers):
                owed.duty = self.with_needs(owed.duty)
            owed.due = caller.now + caller.lease_ms
            duties.append(owed.duty)
        is_owing = any(not owed.parked for owed in self.outbox.values())
        note: Note = "more" if more else "wakes" if self.woken else ""
        self.woken = False
        if self.state != "running" and not is_owing:
            note = "rests"
        return Reply(owing if is_owing and owing else word, tuple(duties), note=note)

    def with_needs(self, duty: SendMembers) -> SendMembers:
        line = self.lines[duty.stage]
        if line.mapped or duty.end - duty.start > FEW:
            return duty
        source = self.lines[duty.stage - 1] if line.piped and self.stage == duty.stage > 0 else None
        result = self.results[duty.stage - 1].get(0) if source and source.total == 1 else None
        previous = (str(source), success(result)) if result is not None and len(result) < LITTLE else None
        rows = self.rows[line.offset + duty.start : line.offset + duty.end]
        return replace(duty, spec=self.spec or b"", rows=rows, previous=previous)

    def held(self, duty: Duty, caller: Caller) -> Owed | None:
        owed = self.outbox.get(duty.id)
        return owed if owed and not owed.parked and owed.duty.lease == caller.lease else None

    @property
    def is_over(self) -> bool:
        """Whether it has succeeded and owes nothing."""
        return self.state == "succeeded" and not self.outbox


class StubListener(Listener):
    def __init__(self, changed: threading.Condition) -> None:
        self._changed = changed
        self._names: set[str] = set()
        self._heard: set[str] = set()
        self._is_woken = False

    def add(self, names: Iterable[str]) -> None:
        with self._changed:
            self._names.update(names)
            self._heard.update(names)

    def remove(self, names: Iterable[str]) -> None:
        with self._changed:
            self._names.difference_update(names)
            self._heard.difference_update(names)

    def hear(self, timeout: float) -> Sequence[str]:
        with self._changed:
            self._changed.wait_for(lambda: self._heard or self._is_woken, timeout)
            heard, self._heard, self._is_woken = list(self._heard), set(), False
            return heard

    def wake(self) -> None:
        with self._changed:
            self._is_woken = True
            self._changed.notify_all()

    def close(self) -> None:
        self.remove(list(self._names))

    def tell(self, name: str) -> None:
        if name in self._names:
            self._heard.add(name)
            self._changed.notify_all()


class Mark(NamedTuple):
    """What is left of a run: that it is done, with its claim and application, or in which epoch it was buried."""

    what: Literal["", "done", "buried"] = ""
    generation: str = ""
    claim: str = ""
    application: str = ""
    epoch: int = 0

    def is_buried(self, generation: str) -> bool:
        return self.what == "buried" and self.generation == generation


class StubBackend(ClutchBackend):
    """Keeps runs in memory."""

    def __init__(self, *, namespace: str = "dramatiq-clutch", encoder: Encoder | None = None) -> None:
        super().__init__(namespace=namespace, encoder=encoder)
        self.runs: dict[str, StubRun] = {}
        self.marks: dict[str, Mark] = {}
        self.index: dict[tuple[str, str], int] = {}  # application and run, when to look
        self.drafts: dict[tuple[str, str], list[bytes]] = {}
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """Begin anew in a forked child, with a copy of the parent's runs: nobody listens yet."""
        self._changed = threading.Condition(threading.RLock())
        self._listeners: WeakSet[StubListener] = WeakSet()

    # Transitions

    def draft(
        self, run_id: str, draft: str, offset: int, rows: Sequence[bytes], caller: Caller, *, run_ttl: int
    ) -> None:
        with self._changed:
            self.index[caller.application, run_id] = caller.now + caller.lease_ms
            written = self.drafts.setdefault((run_id, draft), [])
            if len(written) < offset:
                raise DamagedState(f"the plan of run {run_id!r} expired before it was complete")
            written[offset:] = rows

    def create(
        self,
        run_id: str,
        plan: Plan,
        caller: Caller,
        *,
        run_ttl: int,
        result_ttl: int,
        claim: str = "",
        draft: str = "",
        share: int = SHARE,
    ) -> Reply:
        with self._changed:
            rows = tuple(self.drafts.pop((run_id, draft), ())) if draft else plan.rows
            spec, run = plan.spec, self.runs.get(run_id)
            if run and (run.generation == spec.generation or not spec.parent):
                if run.application != caller.application:
                    return Reply("foreign", note=run.application)  # type: ignore[arg-type]
                if run.claim != claim:
                    return Reply("taken")
                if run.generation != spec.generation:
                    return Reply("exists")
                return run.answer("created" if run.token == caller.owner else "exists", caller)
            self.index[caller.application, run_id] = caller.now + caller.lease_ms
            mark = self.marks.get(run_id, Mark())
            if mark.what == "done" and (not spec.parent or mark.generation == spec.generation):
                if mark.application != caller.application:
                    return Reply("foreign", note=mark.application)  # type: ignore[arg-type]
                return Reply("exists" if spec.parent or mark.claim == claim else "taken")
            if mark.is_buried(spec.generation) and spec.parent and mark.epoch >= spec.parent.epoch:
                return Reply("exists")
            if len(rows) != rows_of(plan.lines):
                raise DamagedState(f"the plan of run {run_id!r} expired before it was complete")
            self.marks.pop(run_id, None)
            run = self.runs[run_id] = StubRun(
                spec=spec.to_bytes(),
                token=caller.owner,
                claim=claim,
                lines=list(plan.lines),
                rows=rows,
                events=tuple(event for event in EVENTS if event in spec.callbacks),
                name=spec.name or "",
                created=caller.now,
                updated=caller.now,
                now=caller.now,
                lease_ms=caller.lease_ms,
                share=share,
                told="open" if spec.parent else "",
                since=spec.parent.epoch if spec.parent else 0,
                generation=spec.generation,
                application=caller.application,
                due=spec.start_at or 0,
            )
            if run.lines:
                run.owe_stage(caller.owner)
            else:
                run.rest(caller.owner, "succeeded")
                run.tell(caller.owner)
            self._clean_up(run_id, run)
            return run.answer("created", caller)

    def guard(self, tag: Tag) -> GuardWord:
        with self._changed:
            run = self._find(tag.run_id, tag.generation)
            if run is None:
                return self._word_of_none(tag)
            if run.state in ("succeeded", "cancelled") or run.stage > tag.stage:
                return "over"
            if run.stage < tag.stage or run.line.total != tag.of:
                return "unknown"
            done = tag.member in run.results[tag.stage] or tag.member in run.nests[tag.stage]
            return "done" if done else "go"

    def record(self, record: Record, caller: Caller) -> Reply:
        tag = record.tag
        with self._transition(tag.run_id, caller, tag.generation) as run:
            if run is None:
                return Reply(self._word_of_none(tag))
            if run.state == "succeeded" or run.stage > tag.stage:
                run.look(caller.owner, run.stage)
                return run.answer("over", caller)
            if run.stage == tag.stage and (run.line.total is None or tag.member >= run.line.total):
                return Reply("refused")
            if run.state == "cancelled":
                if not (record.of_run and record.ending == "succeeded" and run.stage == tag.stage):
                    return run.answer("over", caller)
                run.results[tag.stage][tag.member] = record.payload
                run.trouble[tag.stage].pop(tag.member, None)
                run.update()
                return run.answer("counts", caller)
            if run.stage < tag.stage:
                return Reply("unknown")
            if record.is_common and not caller.touch and self._is_one_of_many(run, tag):
                run.results[tag.stage][tag.member] = record.payload
                return Reply("counts")
            word = self._note(run, record, caller.owner)
            run.look(caller.owner, tag.stage)
            run.update()
            return run.answer(word, caller)

    def _is_one_of_many(self, run: StubRun, tag: Tag) -> bool:
        """The common case: a member's first attempt, and others are still to come."""
        results, trouble = run.results[tag.stage], run.trouble[tag.stage]
        fresh = tag.member not in results and tag.member not in trouble
        marks = len(results) + len(trouble) + 1
        return fresh and marks < tag.of and not (tag.batch and marks % tag.batch == 0)

    def _note(self, run: StubRun, record: Record, owner: str) -> str:
        tag, member = record.tag, record.tag.member
        results, trouble, nests = run.results[tag.stage], run.trouble[tag.stage], run.nests[tag.stage]
        if member in results or (member in nests and not record.of_run):
            return "duplicate"
        if record.ending == "succeeded" and record.nested:
            nests[member] = record.nested
            run.stand(member, Trouble("open", is_run=True))
            run.owe(owner, StartNested(tag.stage, member))
            return "counts"
        if record.ending == "succeeded":
            results[member] = record.payload
            trouble.pop(member, None)
            return "counts"
        order = (run.epoch if record.attempt == LAST else tag.epoch, record.attempt)
        if member in trouble and order <= trouble[member].order:
            return "stale"
        is_run = record.of_run or (member in trouble and trouble[member].is_run)
        run.stand(member, Trouble(record.ending, is_run, order, record.payload))
        run.due = max(run.due, record.due)
        return "counts"

    def owed(self, run_id: str, caller: Caller) -> Reply:
        with self._transition(run_id, caller, private=True) as run:
            if run is None:
                return Reply("unknown")
            run.look(caller.owner, run.stage)
            return run.answer("clear", caller, owing="owing")

    def sweep(self, run_id: str, caller: Caller, *, stalled_after: int, waits_for_jobs: bool = False) -> Reply:
        with self._transition(run_id, caller, private=True) as run:
            if run is None:
                return Reply("unknown")
            stage = run.stage
            run.look(caller.owner, stage)
            if run.state != "running" or run.stage != stage:
                return run.answer("works" if run.state == "running" else "rests", caller, owing="owing")
            if run.present != run.seen:
                run.seen, run.seen_at, run.stalled = run.present, caller.now, None
            reply = run.answer("works", caller, owing="owing")
            is_quiet = run.stalled is None and run.due <= caller.now and caller.now - run.seen_at >= stalled_after
            if reply.word != "works" or not is_quiet:
                return reply
            if run.has_nested() and not waits_for_jobs:
                return replace(reply, word="quiet")
            run.stalled = run.seen_at
            return replace(reply, word="stalled")

    def open(self, run_id: str, duty: OpenStage, total: int, caller: Caller) -> Reply:
        with self._transition(run_id, caller, duty.generation) as run:
            if run is None or not run.held(duty, caller):
                return Reply("lost")
            del run.outbox[duty.id]
            run.lines[duty.stage] = replace(run.lines[duty.stage], total=total)
            if total == 0:
                run.look(caller.owner, duty.stage)
            else:
                run.owe_stage(caller.owner)
            run.update()
            return run.answer("opened", caller)

    def confirm(self, run_id: str, duty: Duty, caller: Caller, *, cursor: int | None = None) -> str:
        with self._transition(run_id, caller, duty.generation) as run:
            owed = run.held(duty, caller) if run else None
            if run is None or owed is None:
                return "lost"
            if cursor is not None:
                owed.duty = replace(owed.duty, cursor=max(cursor, owed.duty.cursor))
                owed.due = caller.now + caller.lease_ms
                return "confirmed"
            del run.outbox[duty.id]
            return "rests" if run.state != "running" and not run.outbox else "confirmed"

    def reopen(self, run_id: str, duty: SendAgain, done: int, caller: Caller) -> tuple[int, Sequence[int]] | None:
        with self._transition(run_id, caller, duty.generation) as run:
            owed = run.held(duty, caller) if run else None
            if run is None or owed is None:
                return None
            if done > owed.duty.cursor:
                owed.duty, owed.members = replace(owed.duty, cursor=done), ()
            if not owed.members:
                most = min(run.room(), MANY) if run.line.limit else MANY
                members = run.waiting()[: max(most, 0)] if run.state == "running" else []
                if not members:
                    del run.outbox[duty.id]
                    run.retrying = ""
                    run.update()
                    return None
                for member in members:
                    one = run.trouble[duty.stage][member]
                    run.stand(member, replace(one, kind="open"))
                owed.members, owed.epoch = tuple(members), run.epoch
            owed.due = caller.now + caller.lease_ms
            run.update()
            return owed.epoch, owed.members

    def fail(self, run_id: str, duty: Duty, details: bytes, caller: Caller) -> Reply:
        with self._transition(run_id, caller, duty.generation) as run:
            owed = run.held(duty, caller) if run else None
            if run is None or owed is None:
                return Reply("lost")
            if run.is_moot(duty):
                del run.outbox[duty.id]
                return Reply("lost")
            run.callbacks.discard(duty.id)
            if isinstance(duty, CallBack) or (run.state == "succeeded" and not isinstance(duty, Tell)):
                del run.outbox[duty.id]
            else:
                owed.parked = True
            run.error = details.decode()
            if run.state == "running":
                run.state = "failed"
                if not isinstance(duty, CallBack):
                    run.alarm(caller.owner)
                run.rest(caller.owner, "failed")
            run.tell(caller.owner)
            run.update()
            return run.answer("failed", caller)

    def heard(self, tag: CallbackTag, caller: Caller) -> str:
        with self._transition(tag.run_id, caller, tag.generation) as run:
            if run is None:
                return "unknown"
            run.callbacks.discard(tag.duty)
            return "heard"

    def cancel(self, run_id: str, caller: Caller, *, bury: int | None = None, generation: str = "") -> Reply:
        with self._transition(run_id, caller, generation, private=True) as run:
            if run is None:
                mark = self.marks.get(run_id, Mark())
                is_later = mark.what == "done" or mark.epoch >= (bury or 0)
                if bury is not None and not (mark.what and mark.generation == generation and is_later):
                    self.marks[run_id] = Mark("buried", generation, epoch=bury)
                return Reply("unknown")
            if bury is not None and run.since > bury:
                return run.answer("over", caller)
            if run.state != "running":
                mine = run.state == "cancelled" and run.cancelled_by == caller.owner
                return run.answer("cancelled" if mine else "over", caller)
            run.outbox = {name: owed for name, owed in run.outbox.items() if not isinstance(owed.duty, MOVES)}
            run.cancelled_by, run.retrying = caller.owner, ""
            run.rest(caller.owner, "cancelled")
            if run.has_nested():
                run.owe_shares(caller.owner, Halt, run.sent if run.line.limit else run.line.total or 0)
            run.tell(caller.owner)
            run.update()
            return run.answer("cancelled", caller)

    def retry(self, run_id: str, caller: Caller, *, since: int | None = None, generation: str = "") -> Reply:
        with self._transition(run_id, caller, generation, private=True) as run:
            if run is None:
                return Reply("unknown")
            if since is not None:
                if run.since >= since:  # once for each of the parent's epochs
                    return run.answer("nothing", caller)
                run.since = since
            cancelled, succeeded = run.state == "cancelled", run.state == "succeeded"
            dead = 0 if succeeded else run.count("dead")
            parked = [owed for owed in run.outbox.values() if owed.parked]
            nested = not succeeded and run.has_nested() and run.line.total is not None
            revived = bool(cancelled or dead or parked or (run.error and not succeeded))
            unheard = since is not None and run.told in ("failing", "attempted")  # by a parent that was cancelled
            if not (revived or nested):
                run.tell(caller.owner, again=unheard)
                return run.answer("nothing", caller)
            run.epoch += 1
            run.revival += bool(dead or cancelled)
            run.era += cancelled
            for owed in parked:
                owed.parked, owed.owner, owed.due = False, caller.owner, 0
            if cancelled:
                run.outbox = {name: owed for name, owed in run.outbox.items() if not isinstance(owed.duty, Halt)}
            if revived:
                run.error = ""
                if not succeeded:
                    run.heal(0)
            line = run.line if run.lines else None
            end = 0 if line is None else run.sent if line.limit else line.total or 0
            if line and cancelled and not line.total:
                run.owe_stage(caller.owner)
            elif line and cancelled and nested:
                run.owe_shares(caller.owner, Resume, end)
            elif line and cancelled:
                run.owe(caller.owner, Resume(run.stage, 0, end, run.epoch))
            if line and line.total is not None and not succeeded:
                if nested and not cancelled:
                    run.owe_shares(caller.owner, Revive, end)
                if not line.limit and not run.retrying and run.waiting():
                    run.owe_retry("" if nested and end > run.few_runs else caller.owner)
            run.look(caller.owner, run.stage, again=unheard)
            run.update()
            return run.answer("retried", caller)

    def resend(self, run_id: str, caller: Caller, *, generation: str = "") -> Reply:
        with self._transition(run_id, caller, generation, private=True) as run:
            if run is None:
                return Reply("unknown")
            if run.state != "running" or not run.line.total:
                return run.answer("nothing", caller)
            run.epoch += 1
            end = run.sent if run.line.limit else run.line.total
            run.owe(caller.owner, Resend(run.stage, 0, end, run.epoch))
            run.update()
            return run.answer("resent", caller)

    def retell(self, run_id: str, caller: Caller, *, generation: str = "") -> Reply:
        with self._transition(run_id, caller, generation) as run:
            if run is None:
                return Reply("unknown")
            run.look(caller.owner, run.stage, again=run.told not in ("", "open"))
            return run.answer("told", caller)

    def touch(self, run_id: str, caller: Caller, *, due: int = 0) -> str:
        with self._transition(run_id, caller) as run:
            if run is None:
                return "unknown"
            run.due = max(run.due, due)
            if run.state != "succeeded":
                run.update()
            return "touched"

    def write_items(self, run_id: str, duty: OpenStage, offset: int, items: Sequence[bytes], *, run_ttl: int) -> None:
        with self._changed:
            run = self._find(run_id, duty.generation)
            if run is None or len(run.items[duty.stage]) < offset:
                raise DamagedState(f"what stage {duty.stage} of run {run_id!r} is mapped over is gone")
            if len(run.items[duty.stage]) == offset:
                run.items[duty.stage] += items

    @contextmanager
    def _transition(
        self, run_id: str, caller: Caller, generation: str = "", *, private: bool = False
    ) -> Iterator[StubRun | None]:
        """One step: nobody sees it half done, and those who wait look when it is. Raises ForeignRun."""
        with self._changed:
            run = self._find(run_id, generation)
            if run and private and run.application != caller.application:
                raise foreign_run(run_id, run.application, caller.application)
            before = run and (run.state, run.updated)
            if run:
                run.now, run.lease_ms, run.woken = caller.now, caller.lease_ms, False
            yield run
            if run:
                self._clean_up(run_id, run)
            if run and before != (run.state, run.updated):
                self.say(run_id)

    def _clean_up(self, run_id: str, run: StubRun) -> None:
        """Of a run that has succeeded and owes nothing, keep the result; of a nested one no more than a mark."""
        if run.state == "succeeded":
            run.outbox = {name: owed for name, owed in run.outbox.items() if not run.is_moot(owed.duty)}
        if run.is_over:
            self.marks[run_id] = Mark("done", run.generation, run.claim, run.application)
            run.spec, run.rows = None, ()
            if run.told and not run.callbacks:
                self.runs.pop(run_id, None)

    def _find(self, run_id: str, generation: str) -> StubRun | None:
        run = self.runs.get(run_id)
        return run if run and (not generation or run.generation == generation) else None

    def _word_of_none(self, tag: Tag) -> GuardWord:
        mark = self.marks.get(tag.run_id, Mark())
        return "over" if mark.what and tag.generation in ("", mark.generation) else "unknown"

    # Looking

    def snapshot(self, run_id: str) -> Snapshot | None:
        with self._changed:
            run = self.runs.get(run_id)
            return run.snapshot() if run else None

    def generation(self, run_id: str) -> str | None:
        with self._changed:
            run = self.runs.get(run_id)
            return run.generation if run else None

    def spec(self, run_id: str, *, generation: str = "") -> bytes | None:
        with self._changed:
            run = self._find(run_id, generation)
            return run.spec if run else None

    def line(self, run_id: str, stage: int, *, generation: str = "") -> str | None:
        with self._changed:
            run = self._find(run_id, generation)
            return str(run.lines[stage]) if run and 0 <= stage < len(run.lines) else None

    def rows(self, run_id: str, start: int, end: int, *, generation: str = "") -> Sequence[bytes]:
        with self._changed:
            run = self._find(run_id, generation)
            return run.rows[start:end] if run else ()

    def items(self, run_id: str, stage: int, start: int, end: int, *, generation: str = "") -> Sequence[bytes]:
        with self._changed:
            run = self._find(run_id, generation)
            return run.items[stage][start:end] if run else ()

    def results(self, run_id: str, stage: int, start: int, end: int, *, generation: str = "") -> Sequence[bytes | None]:
        with self._changed:
            run = self._find(run_id, generation)
            if run is None or run.state == "cancelled":
                return [None] * (end - start)
            trouble, nests = run.trouble.get(stage, {}), run.nests.get(stage, {})
            known = {
                member: HAS_NESTED if member in nests else IS_RUN if one.is_run else IS_JOB
                for member, one in trouble.items()
            }
            known |= {member: success(result) for member, result in run.results.get(stage, {}).items()}
            return [known.get(member) for member in range(start, end)]

    def standing(
        self, run_id: str, stage: int, members: Sequence[int], *, generation: str = ""
    ) -> Sequence[Standing | None]:
        with self._changed:
            run = self._find(run_id, generation)
            known: dict[int, Standing] = {}
            if run:
                trouble = run.trouble.get(stage, {})
                known = {member: _standing(run, one) for member, one in trouble.items()}
                known |= dict.fromkeys(run.results.get(stage, {}), "succeeded")
            return [known.get(member) for member in members]

    def failures(self, run_id: str, stage: int, *, generation: str = "") -> Sequence[tuple[int, str]]:
        with self._changed:
            run = self._find(run_id, generation)
            trouble = run.trouble.get(stage, {}) if run else {}
            return sorted((member, one.details.decode()) for member, one in trouble.items() if one.kind == "dead")

    def nested(self, run_id: str, stage: int, members: Sequence[int], *, generation: str = "") -> Mapping[int, bytes]:
        with self._changed:
            run = self._find(run_id, generation)
            nests = run.nests.get(stage, {}) if run else {}
            return {member: nests[member] for member in members if member in nests}

    def at_rest(self, run_ids: Sequence[str]) -> Sequence[bool]:
        with self._changed:
            return [run_id not in self.runs or self.runs[run_id].state != "running" for run_id in run_ids]

    # Hints

    def listen(self) -> Listener:
        with self._changed:
            listener = StubListener(self._changed)
            self._listeners.add(listener)
            return listener

    def say(self, name: str) -> None:
        with self._changed:
            for listener in self._listeners:
                listener.tell(name)

    # The index

    def due(self, now: int, look_again_at: int, limit: int, *, application: str = "") -> Sequence[str]:
        with self._changed:
            due = [run_id for (whose, run_id), at in self.index.items() if at <= now and whose == application][:limit]
            self.index.update({(application, run_id): look_again_at for run_id in due})
            return due

    def look_again(
        self, run_id: str, at: int | None, *, run_ttl: int, application: str = "", known: bool = False
    ) -> None:
        with self._changed:
            if at is None:
                self.index.pop((application, run_id), None)
            elif (application, run_id) in self.index or not known:
                self.index[application, run_id] = at


def _standing(run: StubRun, one: Trouble) -> Standing:
    if run.waits(one):
        return "waiting"
    return one.kind
