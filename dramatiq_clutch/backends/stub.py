"""Runs in memory: for users' unit tests on `StubBroker`, and the model that the Redis scripts are compared with.

The methods say what the scripts in ``lua/`` say, in the same words. Nothing expires here, as nothing lives long.
"""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from dramatiq import Encoder

from ..backend import LAST, SHARE, Caller, ClutchBackend, Duty, Ending, GuardWord, Onward, Record, Reply, Standing
from ..errors import DamagedState
from ..plan import EVENTS, Plan, StageLine, Tag, rows_of
from ..status import MOST_FAILURES, Snapshot

#: What a cancelled run doesn't do any more.
MOVES = ("send", "open", "start", "retry", "resume", "resend")

#: How many members come along with the duty to send them, and a result of how many bytes.
FEW, LITTLE = 10, 10_000


@dataclass(slots=True)
class Trouble:
    """A member that has had an attempt and not succeeded. `retried` is the epoch in which it works again;
    `sent_before` says that it was sent by an earlier retry of a stage with a limit than the present one."""

    kind: Ending
    is_run: bool = False
    order: tuple[int, int] = (-1, -1)
    details: bytes = b""
    retried: int = 0
    sent_before: bool = False


@dataclass(slots=True)
class Owed:
    """A duty in the outbox, and who may do it until when. A parked one has failed."""

    duty: Duty
    owner: str
    due: int = 0
    parked: bool = False


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
    state: str = "running"
    stage: int = 0
    epoch: int = 0
    alarmed: bool = False
    mourned: bool = False
    error: str = ""
    cancelled_by: str = ""
    since: int = 0
    seq: int = 0
    fired: int = 0
    revision: int = 0
    share: int = SHARE
    sent: int = 0
    again: int | None = None
    results: dict[int, dict[int, bytes]] = field(default_factory=lambda: defaultdict(dict))
    trouble: dict[int, dict[int, Trouble]] = field(default_factory=lambda: defaultdict(dict))
    nests: dict[int, dict[int, bytes]] = field(default_factory=lambda: defaultdict(dict))
    lost: dict[int, int] = field(default_factory=dict)
    outbox: dict[str, Owed] = field(default_factory=dict)

    @property
    def line(self) -> StageLine:
        return self.lines[self.stage]

    def count(self, *kinds: Ending) -> int:
        return sum(trouble.kind in kinds for trouble in self.trouble[self.stage].values())

    def has_nested(self) -> bool:
        return bool(self.lines) and (self.line.nested or bool(self.nests[self.stage]))

    def snapshot(self) -> Snapshot:
        results, trouble = self.results[self.stage], self.trouble[self.stage]
        ranked = [(one.kind == "dead", member) for member, one in trouble.items() if one.kind in ("failing", "dead")]
        head = {
            "state": self.state,
            "stage": str(self.stage),
            "stages": str(len(self.lines)),
            "name": self.name,
            "error": self.error,
            "created": str(self.created),
            "updated": str(self.updated),
            "told": self.told,
        }
        head |= {f"s{index}": str(line) for index, line in enumerate(self.lines)}
        head |= {f"d{index}": str(count) for index, count in self.lost.items()}
        kinds: tuple[Ending, ...] = ("open", "attempted", "failing", "dead")
        counts = {"marks": len(results) + len(trouble)} | {kind: self.count(kind) for kind in kinds}
        failures = [[str(member), trouble[member].details.decode()] for _, member in sorted(ranked)]
        return {"head": head, "counts": counts, "failures": failures[:MOST_FAILURES]}

    def moment(self) -> Snapshot:
        self.updated = self.now
        return self.snapshot()

    # What is owed

    def owe(self, owner: str, name: str, moment: Snapshot | None = None, *, due: int = 0) -> None:
        self.seq += 1
        self.outbox.setdefault(name, Owed(Duty(name, lease="", snapshot=moment), owner, due))

    def owe_callback(self, owner: str, event: str) -> None:
        if event in self.events:
            self.fired += 1
            self.owe(owner, f"{event}:{self.stage}:{self.fired}", self.moment())

    def owe_stage(self, owner: str) -> None:
        total, limit = self.line.total, self.line.limit
        if not total:
            self.owe(owner, f"open:{self.stage}")
            return
        if limit:
            self.sent = total = min(total, limit)
            self.again = None
        self.owe_send(owner, 0, total)

    def owe_send(self, owner: str, start: int, end: int) -> None:
        lead = math.ceil(self.share * 2 / 5)
        if end - start <= 2 * self.share or self.line.nested:
            self.owe(owner, f"send:{self.stage}:{start}:{end}")
            return
        after, size = start + lead, max(self.share, math.ceil((end - start - lead) / lead))
        shares = range(after, end, size)
        self.owe(owner, f"send:{self.stage}:{start}:{after}:{len(shares)}")
        for leader, at in enumerate(shares, start):
            name, due = f"send:{self.stage}:{at}:{min(at + size, end)}", self.now + self.lease_ms
            self.owe(f"{self.stage}.{leader}", name, due=due)

    def owe_again(self, owner: str, kind: str) -> None:
        if self.line.limit:
            self.again = 0
        if not self.line.limit or kind == "resume":
            end = self.sent if self.line.limit else self.line.total
            self.owe(owner, f"{kind}:{self.stage}:0:{end}:{self.epoch}")

    def fill(self, owner: str, total: int) -> None:
        if not self.line.limit:
            return
        trouble = self.trouble[self.stage]
        open_ones = sorted(member for member, one in trouble.items() if one.kind == "open")
        start = total if self.again is None else self.again
        waiting = sum(member < start or trouble[member].sent_before for member in open_ones)
        runs = [one for one in trouble.values() if one.is_run] if self.has_nested() else []
        held = sum(one.kind in ("attempted", "failing") for one in runs)
        unmarked = self.sent - len(self.results[self.stage]) - len(trouble)
        room = self.line.limit - unmarked - waiting - held
        if self.again is not None:
            following = [one for one in open_ones if one >= start and not trouble[one].sent_before][: max(room, 0) + 1]
            end = following[-1] if len(following) > max(room, 0) else self.sent
            if end > start:
                self.owe(owner, f"retry:{self.stage}:{start}:{end}:{self.epoch}")
                self.again = end if end < self.sent else None
            room -= len(following)
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
            self.owe_callback(owner, "completion")
            self.owe_callback(owner, "on_success")
        self.owe_callback(owner, "on_finish")

    def heal(self, dead: int) -> None:
        self.state, self.alarmed, self.mourned = "running", False, dead > 0

    def complete(self, owner: str, dead: int) -> None:
        for kept in (self.results, self.trouble):
            kept.pop(self.stage - 1, None)
        self.nests.pop(self.stage, None)
        if dead:
            self.lost[self.stage] = dead
        if self.stage + 1 == len(self.lines):
            self.rest(owner, "succeeded")
            return
        if self.state == "failed":
            self.heal(0)
        self.stage += 1
        self.alarmed = self.mourned = False
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
        self.outbox.pop(f"tell:{self.revision}", None)
        self.told = word
        self.revision += 1
        self.owe(owner, f"tell:{self.revision}", self.moment())

    def look(self, owner: str, stage: int, *, again: bool = False) -> None:
        if stage != self.stage:
            return
        if self.state in ("running", "failed") and not self.error and self.lines:
            self.judge(owner)
        self.tell(owner, again=again)

    def is_moot(self, duty: Duty) -> bool:
        return duty.kind in MOVES and (duty.stage < self.stage or self.state == "succeeded")

    def take(self, caller: Caller) -> tuple[Duty, ...]:
        duties = []
        self.outbox = {name: owed for name, owed in self.outbox.items() if not self.is_moot(owed.duty)}
        for name, owed in self.outbox.items():
            if not owed.parked and (owed.owner == caller.owner or owed.due <= caller.now):
                stage = owed.duty.stage
                line = str(self.lines[stage]) if stage < len(self.lines) else ""
                duty = replace(owed.duty, lease=caller.lease, line=line, again=owed.duty.lease != "")
                if duty.kind == "send":
                    duty = self.with_needs(duty)
                owed.duty, owed.due = duty, caller.now + caller.lease_ms
                self.outbox[name] = owed
                duties.append(duty)
        return tuple(duties)

    def with_needs(self, duty: Duty) -> Duty:
        line = self.lines[duty.stage]
        if line.mapped or duty.end - duty.start > FEW:
            return duty
        source = self.lines[duty.stage - 1] if line.piped and self.stage == duty.stage > 0 else None
        result = self.results[duty.stage - 1].get(0) if source and source.total == 1 else None
        previous = (str(source), b"S" + result) if result is not None and len(result) < LITTLE else None
        rows = self.rows[line.offset + duty.start : line.offset + duty.end]
        return replace(duty, spec=self.spec or b"", rows=rows, previous=previous)

    def held(self, duty: Duty, caller: Caller) -> Owed | None:
        owed = self.outbox.get(duty.id)
        return owed if owed and not owed.parked and owed.duty.lease == caller.lease else None

    def clean_up(self) -> None:
        if self.state == "succeeded" and not self.outbox:
            self.spec, self.rows = None, ()


class StubBackend(ClutchBackend):
    """Keeps runs in memory."""

    def __init__(self, *, namespace: str = "dramatiq-clutch", encoder: Encoder | None = None) -> None:
        super().__init__(namespace=namespace, encoder=encoder)
        self.runs: dict[str, StubRun] = {}
        self.buried: dict[str, int] = {}
        self.index: dict[str, int] = {}
        self.drafts: dict[tuple[str, str], list[bytes]] = {}
        self._changed = threading.Condition(threading.RLock())

    # Transitions

    def draft(
        self, run_id: str, draft: str, offset: int, rows: Sequence[bytes], caller: Caller, *, run_ttl: int
    ) -> None:
        with self._changed:
            self.index[run_id] = caller.now + caller.lease_ms
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
            if run := self.runs.get(run_id):
                if run.claim != claim:
                    return Reply("taken")
                return Reply("created" if run.token == caller.owner else "exists", run.take(caller))
            self.index[run_id] = caller.now + caller.lease_ms
            if self.buried.get(run_id, -1) >= (plan.spec.parent.epoch if plan.spec.parent else 0):
                return Reply("exists")
            if len(rows) != rows_of(plan.lines):
                raise DamagedState(f"the plan of run {run_id!r} expired before it was complete")
            run = self.runs[run_id] = StubRun(
                spec=plan.spec.to_bytes(),
                token=caller.owner,
                claim=claim,
                lines=list(plan.lines),
                rows=rows,
                events=tuple(event for event in EVENTS if event in plan.spec.callbacks),
                name=plan.spec.name or "",
                created=caller.now,
                updated=caller.now,
                now=caller.now,
                lease_ms=caller.lease_ms,
                share=share,
                told="open" if plan.spec.parent else "",
                since=plan.spec.parent.epoch if plan.spec.parent else 0,
            )
            if run.lines:
                run.owe_stage(caller.owner)
            else:
                run.rest(caller.owner, "succeeded")
                run.tell(caller.owner)
            run.clean_up()
            return Reply("created", run.take(caller))

    def guard(self, tag: Tag) -> GuardWord:
        with self._changed:
            run = self.runs.get(tag.run_id)
            if run is None:
                return "over" if tag.run_id in self.buried else "unknown"
            if run.state in ("succeeded", "cancelled") or run.stage > tag.stage:
                return "over"
            if run.stage < tag.stage or run.line.total != tag.of:
                return "unknown"
            done = tag.member in run.results[tag.stage] or tag.member in run.nests[tag.stage]
            return "done" if done else "go"

    def record(self, record: Record, caller: Caller, onward: Onward | None = None) -> Reply:
        tag = record.tag
        with self._transition(tag.run_id, caller) as run:
            if run is None:
                return Reply("over" if tag.run_id in self.buried else "unknown")
            if run.state == "succeeded" or run.stage > tag.stage:
                run.look(caller.owner, run.stage)
                return Reply("over", run.take(caller))
            if run.stage == tag.stage and (run.line.total is None or tag.member >= run.line.total):
                return Reply("refused")
            if run.state == "cancelled":
                if not (record.of_run and record.ending == "succeeded" and run.stage == tag.stage):
                    return Reply("over", run.take(caller))
                run.results[tag.stage][tag.member] = record.payload
                run.trouble[tag.stage].pop(tag.member, None)
                run.updated = caller.now
                return Reply("counts", run.take(caller))
            if run.stage < tag.stage:
                return Reply("unknown")
            if record.is_common and not caller.touch and self._is_one_of_many(run, tag):
                run.results[tag.stage][tag.member] = record.payload
                return Reply("counts")
            word = self._note(run, record, caller.owner)
            run.updated = caller.now
            run.look(caller.owner, tag.stage)
            return Reply(word, run.take(caller))

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
            trouble[member] = Trouble("open", is_run=True)
            run.owe(owner, f"start:{tag.stage}:{member}")
            return "counts"
        if record.ending == "succeeded":
            results[member] = record.payload
            trouble.pop(member, None)
            return "counts"
        order = (run.epoch if record.attempt == LAST else tag.epoch, record.attempt)
        if member in trouble and order <= trouble[member].order:
            return "stale"
        is_run = record.of_run or (member in trouble and trouble[member].is_run)
        trouble[member] = Trouble(record.ending, is_run, order, record.payload)
        return "counts"

    def owed(self, run_id: str, caller: Caller) -> Reply:
        with self._transition(run_id, caller) as run:
            if run is None:
                return Reply("unknown")
            run.look(caller.owner, run.stage)
            duties = run.take(caller)
            owing = any(not owed.parked for owed in run.outbox.values())
            return Reply("owing" if owing else "clear", duties)

    def open(self, run_id: str, duty: Duty, total: int, caller: Caller) -> Reply:
        with self._transition(run_id, caller) as run:
            if run is None or not run.held(duty, caller):
                return Reply("lost")
            del run.outbox[duty.id]
            run.updated = caller.now
            run.lines[duty.stage] = replace(run.lines[duty.stage], total=total)
            if total == 0:
                run.look(caller.owner, duty.stage)
            else:
                run.owe_stage(caller.owner)
            return Reply("opened", run.take(caller))

    def confirm(self, run_id: str, duty: Duty, caller: Caller, *, cursor: int | None = None) -> str:
        with self._transition(run_id, caller) as run:
            owed = run.held(duty, caller) if run else None
            if run is None or owed is None:
                return "lost"
            if cursor is None:
                del run.outbox[duty.id]
            else:
                owed.duty, owed.due = replace(owed.duty, cursor=cursor), caller.now + caller.lease_ms
            return "confirmed"

    def fail(self, run_id: str, duty: Duty, details: bytes, caller: Caller) -> Reply:
        with self._transition(run_id, caller) as run:
            owed = run.held(duty, caller) if run else None
            if run is None or owed is None:
                return Reply("lost")
            if run.is_moot(duty):
                del run.outbox[duty.id]
                return Reply("lost")
            if duty.kind in EVENTS or (run.state == "succeeded" and duty.kind != "tell"):
                del run.outbox[duty.id]
            else:
                owed.parked = True
            run.error, run.updated = details.decode(), caller.now
            if run.state == "running":
                run.state = "failed"
                if duty.kind not in EVENTS:
                    run.alarm(caller.owner)
                run.rest(caller.owner, "failed")
            run.tell(caller.owner)
            return Reply("failed", run.take(caller))

    def cancel(self, run_id: str, caller: Caller, *, bury: int | None = None) -> Reply:
        with self._transition(run_id, caller) as run:
            if run is None:
                if bury is not None:
                    self.buried[run_id] = max(bury, self.buried.get(run_id, -1))
                return Reply("unknown")
            if bury is not None and run.since > bury:
                return Reply("over", run.take(caller))
            if run.state != "running":
                mine = run.state == "cancelled" and run.cancelled_by == caller.owner
                return Reply("cancelled" if mine else "over", run.take(caller))
            run.outbox = {name: owed for name, owed in run.outbox.items() if owed.duty.kind not in MOVES}
            run.cancelled_by, run.updated = caller.owner, caller.now
            run.rest(caller.owner, "cancelled")
            if run.has_nested():
                run.owe(caller.owner, f"halt:{run.stage}:{run.epoch}")
            run.tell(caller.owner)
            return Reply("cancelled", run.take(caller))

    def retry(self, run_id: str, caller: Caller, *, since: int | None = None) -> Reply:
        with self._transition(run_id, caller) as run:
            if run is None:
                return Reply("unknown")
            if since is not None:
                run.since = since
            cancelled, succeeded, trouble = run.state == "cancelled", run.state == "succeeded", run.trouble[run.stage]
            unsent = math.inf if run.again is None or succeeded else run.again
            again = [
                one
                for member, one in trouble.items()
                if not succeeded
                and (
                    cancelled or one.kind == "dead" or (one.kind == "open" and member >= unsent and not one.sent_before)
                )
            ]
            if cancelled:
                run.outbox = {name: owed for name, owed in run.outbox.items() if owed.duty.kind != "halt"}
            parked = [owed for owed in run.outbox.values() if owed.parked]
            nested = not succeeded and run.has_nested() and run.line.total is not None
            revived = bool(cancelled or again or parked or (run.error and not succeeded))
            unheard = since is not None and run.told in ("failing", "attempted")  # by a parent that was cancelled
            if not (revived or nested):
                run.tell(caller.owner, again=unheard)
                return Reply("nothing", run.take(caller))
            run.epoch, run.updated = run.epoch + 1, caller.now
            for one in trouble.values():
                one.sent_before = one.kind == "open" and bool(run.lines and run.line.limit)
            for one in again:
                one.sent_before = False
                one.kind, one.retried, one.details = "open", run.epoch, b""
            for owed in parked:
                owed.parked, owed.owner, owed.due = False, caller.owner, 0
            if revived:
                run.error = ""
                if not succeeded:
                    run.heal(0)
            if cancelled and not run.line.total:
                run.owe_stage(caller.owner)
            elif cancelled:
                run.owe_again(caller.owner, "resume")
            elif again or nested:
                run.owe_again(caller.owner, "retry")
            run.look(caller.owner, run.stage, again=unheard)
            return Reply("retried", run.take(caller))

    def resend(self, run_id: str, caller: Caller) -> Reply:
        with self._transition(run_id, caller) as run:
            if run is None:
                return Reply("unknown")
            if run.state != "running" or not run.line.total:
                return Reply("nothing", run.take(caller))
            run.epoch, run.updated = run.epoch + 1, caller.now
            end = run.sent if run.line.limit else run.line.total
            run.owe(caller.owner, f"resend:{run.stage}:0:{end}:{run.epoch}")
            return Reply("resent", run.take(caller))

    def touch(self, run_id: str, caller: Caller) -> str:
        with self._changed:
            run = self.runs.get(run_id)
            if run is None:
                return "unknown"
            if run.state != "succeeded":
                run.updated = caller.now
            return "touched"

    @contextmanager
    def _transition(self, run_id: str, caller: Caller) -> Iterator[StubRun | None]:
        """One step: nobody sees it half done, and those who wait look when it is."""
        with self._changed:
            run = self.runs.get(run_id)
            before = run and (run.state, run.updated)
            if run:
                run.now, run.lease_ms = caller.now, caller.lease_ms
            yield run
            if run:
                run.clean_up()
            if run and before != (run.state, run.updated):
                self._changed.notify_all()

    # Looking

    def snapshot(self, run_id: str) -> Snapshot | None:
        with self._changed:
            run = self.runs.get(run_id)
            return run.snapshot() if run else None

    def spec(self, run_id: str) -> bytes | None:
        with self._changed:
            run = self.runs.get(run_id)
            return run.spec if run else None

    def line(self, run_id: str, stage: int) -> str | None:
        with self._changed:
            run = self.runs.get(run_id)
            return str(run.lines[stage]) if run and 0 <= stage < len(run.lines) else None

    def rows(self, run_id: str, start: int, end: int) -> Sequence[bytes]:
        with self._changed:
            run = self.runs.get(run_id)
            return run.rows[start:end] if run else ()

    def results(self, run_id: str, stage: int, start: int, end: int) -> Sequence[bytes | None]:
        with self._changed:
            run = self.runs.get(run_id)
            if run is None or run.state == "cancelled":
                return [None] * (end - start)
            trouble, nests = run.trouble.get(stage, {}), run.nests.get(stage, {})
            known = {
                member: b"N" if member in nests else b"R" if one.is_run else b"" for member, one in trouble.items()
            }
            known |= {member: b"S" + result for member, result in run.results.get(stage, {}).items()}
            return [known.get(member) for member in range(start, end)]

    def standing(self, run_id: str, stage: int, start: int, end: int) -> Sequence[Standing | None]:
        with self._changed:
            run = self.runs.get(run_id)
            known: dict[int, Standing] = {}
            if run:
                known = {
                    member: Standing(one.kind, one.retried if one.kind == "open" else 0)
                    for member, one in run.trouble.get(stage, {}).items()
                } | {member: Standing("succeeded") for member in run.results.get(stage, {})}
            return [known.get(member) for member in range(start, end)]

    def failures(self, run_id: str, stage: int) -> Sequence[tuple[int, str]]:
        with self._changed:
            run = self.runs.get(run_id)
            trouble = run.trouble.get(stage, {}) if run else {}
            return sorted((member, one.details.decode()) for member, one in trouble.items() if one.kind == "dead")

    def nested(self, run_id: str, stage: int) -> Mapping[int, bytes]:
        with self._changed:
            run = self.runs.get(run_id)
            return dict(run.nests.get(stage, {})) if run else {}

    def wait(self, run_id: str, timeout: float) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: run_id not in self.runs or self.runs[run_id].state != "running", timeout=timeout
            )

    # The index

    def due(self, now: int, look_again_at: int, limit: int) -> Sequence[str]:
        with self._changed:
            due = [run_id for run_id, at in self.index.items() if at <= now][:limit]
            self.index.update(dict.fromkeys(due, look_again_at))
            return due

    def look_again(self, run_id: str, at: int | None, *, run_ttl: int) -> None:
        with self._changed:
            if at is None:
                self.index.pop(run_id, None)
            else:
                self.index[run_id] = at
