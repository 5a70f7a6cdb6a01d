"""Runs in memory: for users' unit tests on `StubBroker`, and the model that the Redis scripts are compared with.

The methods say what the scripts in ``lua/`` say, in the same words. Nothing expires here, as nothing lives long.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from dramatiq import Encoder

from ..backend import Caller, ClutchBackend, Duty, Ending, GuardWord, Record, Reply
from ..plan import Plan, StageLine, Tag
from ..status import MOST_FAILURES, Snapshot


@dataclass(slots=True)
class Standing:
    """A member that has had an attempt and not succeeded."""

    kind: Ending
    order: tuple[int, int]
    details: bytes


@dataclass(slots=True)
class Owed:
    """A duty in the outbox, and who may do it until when."""

    duty: Duty
    owner: str
    due: int = 0


@dataclass(slots=True)
class StubRun:
    spec: bytes | None
    token: str
    lines: list[StageLine]
    rows: tuple[bytes, ...]
    events: tuple[str, ...]
    name: str
    created: int
    updated: int
    state: str = "running"
    stage: int = 0
    alarmed: bool = False
    error: str = ""
    seq: int = 0
    results: dict[int, dict[int, bytes]] = field(default_factory=lambda: defaultdict(dict))
    standing: dict[int, dict[int, Standing]] = field(default_factory=lambda: defaultdict(dict))
    outbox: dict[str, Owed] = field(default_factory=dict)

    def count(self, kind: Ending) -> int:
        return sum(stand.kind == kind for stand in self.standing[self.stage].values())

    def snapshot(self) -> Snapshot:
        results, standing = self.results[self.stage], self.standing[self.stage]
        troubled = [(stand.kind == "dead", member) for member, stand in standing.items() if stand.kind != "attempted"]
        head = {
            "state": self.state,
            "stage": str(self.stage),
            "stages": str(len(self.lines)),
            "name": self.name,
            "error": self.error,
            "created": str(self.created),
            "updated": str(self.updated),
        } | {f"s{index}": str(line) for index, line in enumerate(self.lines)}
        counts = {"marks": len(results) + len(standing)} | {
            kind: self.count(kind) for kind in ("attempted", "failing", "dead")
        }
        failures = [[str(member), standing[member].details.decode()] for _, member in sorted(troubled)]
        return {"head": head, "counts": counts, "failures": failures[:MOST_FAILURES]}

    def owe(self, owner: str, name: str, *, with_snapshot: bool = False) -> None:
        self.seq += 1
        duty = Duty(f"{name}:{self.seq}" if with_snapshot else name, lease="")
        self.outbox.setdefault(duty.id, Owed(replace(duty, snapshot=self.snapshot()) if with_snapshot else duty, owner))

    def owe_stage(self, owner: str) -> None:
        total = self.lines[self.stage].total
        self.owe(owner, f"send:{self.stage}:0:{total}" if total else f"open:{self.stage}")

    def alarm(self, owner: str) -> None:
        self.alarmed = True
        if "on_failure" in self.events:
            self.owe(owner, f"on_failure:{self.stage}", with_snapshot=True)

    def complete(self, owner: str) -> None:
        self.results.pop(self.stage - 1, None)
        self.standing.pop(self.stage - 1, None)
        if self.stage + 1 == len(self.lines):
            self.state = "succeeded"
            return
        self.stage += 1
        self.alarmed = False
        self.owe_stage(owner)

    def look(self, stage: int, owner: str) -> None:
        total = self.lines[self.stage].total if self.lines else None
        if self.state == "succeeded" or self.error or stage != self.stage or total is None:
            return
        succeeded, standing = len(self.results[stage]), self.standing[stage]
        failing, dead = self.count("failing"), self.count("dead")
        if succeeded == total:
            self.complete(owner)
            return
        if succeeded + dead == total:
            self.state = "failed"
        elif self.state == "failed":
            self.state, self.alarmed = "running", False
        if failing + dead and succeeded + len(standing) >= total and not self.alarmed:
            self.alarm(owner)

    def take(self, caller: Caller) -> tuple[Duty, ...]:
        duties = []
        for name, owed in self.outbox.items():
            if owed.owner == caller.owner or owed.due <= caller.now:
                line = str(self.lines[owed.duty.stage])
                again = owed.duty.lease != ""
                duty = replace(owed.duty, lease=caller.lease, line=line, again=again)
                self.outbox[name] = Owed(duty, owed.owner, caller.now + caller.lease_ms)
                duties.append(duty)
        return tuple(duties)

    def held(self, duty: Duty, caller: Caller) -> Owed | None:
        owed = self.outbox.get(duty.id)
        return owed if owed and owed.duty.lease == caller.lease else None

    def clean_up(self) -> None:
        if self.state == "succeeded" and not self.outbox:
            self.spec, self.rows = None, ()
            self.standing.clear()


class StubBackend(ClutchBackend):
    """Keeps runs in memory."""

    def __init__(self, *, namespace: str = "dramatiq-clutch", encoder: Encoder | None = None) -> None:
        super().__init__(namespace=namespace, encoder=encoder)
        self.runs: dict[str, StubRun] = {}
        self.index: dict[str, int] = {}
        self._changed = threading.Condition(threading.RLock())

    def create(self, run_id: str, plan: Plan, caller: Caller, *, run_ttl: int, result_ttl: int) -> Reply:
        with self._changed:
            if run := self.runs.get(run_id):
                return Reply("created" if run.token == caller.owner else "exists", run.take(caller))
            self.index[run_id] = caller.now + caller.lease_ms
            run = self.runs[run_id] = StubRun(
                spec=plan.spec.to_bytes(),
                token=caller.owner,
                lines=list(plan.lines),
                rows=plan.rows,
                events=tuple(plan.spec.callbacks),
                name=plan.spec.name or "",
                created=caller.now,
                updated=caller.now,
            )
            if not plan.lines:
                run.state = "succeeded"
                run.clean_up()
                return Reply("created")
            run.owe_stage(caller.owner)
            return Reply("created", run.take(caller))

    def guard(self, tag: Tag) -> GuardWord:
        with self._changed:
            run = self.runs.get(tag.run_id)
            if run is None:
                return "unknown"
            if run.state == "succeeded" or run.stage > tag.stage:
                return "over"
            if run.stage < tag.stage:
                return "unknown"
            return "done" if tag.member in run.results[tag.stage] else "go"

    def record(self, record: Record, caller: Caller) -> Reply:
        tag = record.tag
        with self._changed:
            run = self.runs.get(tag.run_id)
            if run is None:
                return Reply("unknown")
            if run.state == "succeeded" or run.stage > tag.stage:
                return Reply("over", run.take(caller))
            if run.stage < tag.stage:
                return Reply("unknown")
            total = run.lines[tag.stage].total
            if total is None or tag.member >= total:
                return Reply("refused")
            word = self._note(run, record)
            run.look(tag.stage, caller.owner)
            run.updated = caller.now
            duties = run.take(caller)
            run.clean_up()
            self._changed.notify_all()
            return Reply(word, duties)

    def _note(self, run: StubRun, record: Record) -> str:
        tag, order = record.tag, (record.tag.epoch, record.attempt)
        results, standing = run.results[tag.stage], run.standing[tag.stage]
        if tag.member in results:
            return "duplicate"
        if record.ending == "succeeded":
            results[tag.member] = record.payload
            standing.pop(tag.member, None)
            return "counts"
        if tag.member in standing and order <= standing[tag.member].order:
            return "stale"
        standing[tag.member] = Standing(record.ending, order, record.payload)
        return "counts"

    def owed(self, run_id: str, caller: Caller) -> Reply:
        with self._changed:
            run = self.runs.get(run_id)
            if run is None:
                return Reply("unknown")
            run.look(run.stage, caller.owner)
            run.clean_up()
            return Reply(run.state, run.take(caller))

    def open(self, run_id: str, duty: Duty, total: int, caller: Caller) -> Reply:
        with self._changed:
            run = self.runs.get(run_id)
            if run is None or not run.held(duty, caller):
                return Reply("lost")
            del run.outbox[duty.id]
            run.lines[duty.stage] = replace(run.lines[duty.stage], total=total)
            run.updated = caller.now
            if total == 0:
                run.look(duty.stage, caller.owner)
            else:
                run.owe_stage(caller.owner)
            run.clean_up()
            self._changed.notify_all()
            return Reply("opened", run.take(caller))

    def confirm(self, run_id: str, duty: Duty, caller: Caller, *, cursor: int | None = None) -> str:
        with self._changed:
            run = self.runs.get(run_id)
            owed = run.held(duty, caller) if run else None
            if run is None or owed is None:
                return "lost"
            if cursor is None:
                del run.outbox[duty.id]
            else:
                owed.duty, owed.due = replace(owed.duty, cursor=cursor), caller.now + caller.lease_ms
            run.clean_up()
            return "confirmed"

    def fail(self, run_id: str, duty: Duty, details: bytes, caller: Caller) -> Reply:
        with self._changed:
            run = self.runs.get(run_id)
            if run is None or not run.held(duty, caller):
                return Reply("lost")
            del run.outbox[duty.id]
            run.error, run.updated = details.decode(), caller.now
            if run.state != "succeeded":
                run.state = "failed"
                if not duty.kind.startswith("on_") and not run.alarmed:
                    run.alarm(caller.owner)
            run.clean_up()
            self._changed.notify_all()
            return Reply("failed", run.take(caller))

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
            known = run.results.get(stage, {}) if run else {}
            return [known.get(member) for member in range(start, end)]

    def wait(self, run_id: str, timeout: float) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: run_id not in self.runs or self.runs[run_id].state != "running", timeout=timeout
            )

    def due(self, now: int, look_again_at: int, limit: int) -> Sequence[str]:
        with self._changed:
            due = [run_id for run_id, at in self.index.items() if at <= now][:limit]
            self.index.update(dict.fromkeys(due, look_again_at))
            return due

    def forget(self, run_id: str) -> None:
        with self._changed:
            self.index.pop(run_id, None)
