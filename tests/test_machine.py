"""Both backends, driven with the same calls by many actors in any order, give the same answers."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from dramatiq_clutch.backend import Caller, ClutchBackend, Duty, Record, Reply
from dramatiq_clutch.backends import RedisBackend, StubBackend
from dramatiq_clutch.plan import Plan, Spec, StageLine, Tag
from dramatiq_clutch.status import status_from
from tests.support.keyspace import assert_all_expire
from tests.support.server import Server

LEASE = 1_000
DETAILS = b'{"actor": "a", "message_id": "m", "type": "E", "text": "t", "attempts": 1}'
ENDINGS = st.sampled_from(["succeeded", "succeeded", "attempted", "failing", "dead"])

numbers = itertools.count()


class TwoBackends(RuleBasedStateMachine):
    """One run, on both backends at once. `server` is set by the test."""

    server: Server
    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.client = self.server.client()
        self.client.flushall()
        self.redis = RedisBackend(client=self.client)
        self.stub = StubBackend()
        self.run_id = f"run-{next(numbers)}"
        self.now = 1_000_000
        self.sizes: list[int | None] = []
        self.released: set[str] = set()
        self.alarms: dict[int, int] = {}
        self.heals = 0
        self.state = "running"

    def teardown(self) -> None:
        try:
            if self.sizes:
                self.finish()
        finally:
            self.client.close()

    def both(self, call: Any) -> Any:
        """Do it on both; the answers must be equal."""
        answers = [call(backend) for backend in (self.redis, self.stub)]
        assert comparable(answers[0]) == comparable(answers[1])
        if isinstance(answers[0], Reply):
            self.watch(answers[0])
        return answers[0]

    def caller(self, owner: str) -> Caller:
        return Caller(owner, self.now, lease=f"lease-{next(numbers)}", lease_ms=LEASE)

    def watch(self, reply: Reply) -> None:
        """A stage is released once, and a stage's alarm rings once, unless a failed run was healed in between."""
        for duty in reply.duties:
            if duty.again:
                continue
            assert duty.id not in self.released
            self.released.add(duty.id)
            if duty.kind == "on_failure":
                self.alarms[duty.stage] = self.alarms.get(duty.stage, 0) + 1
                assert self.alarms[duty.stage] <= 1 + self.heals

    # What happens

    @initialize(
        target=held,
        sizes=st.lists(st.one_of(st.none(), st.integers(0, 4)), min_size=1, max_size=4),
        alarm=st.booleans(),
    )
    def create(self, sizes: list[int | None], alarm: bool) -> Any:
        sizes[0] = sizes[0] or 0  # a first stage can't be mapped
        self.sizes = list(sizes)
        lines: list[StageLine] = []
        rows: list[bytes] = []
        for size in sizes:
            lines.append(StageLine(len(rows), size, many=True, mapped=size is None))
            rows += [b"row"] * (1 if size is None else size)
        spec = Spec(name="n", callbacks={"on_failure": b"row"} if alarm else {})
        plan, caller = Plan(spec, tuple(lines), tuple(rows)), self.caller("run:x")
        reply = self.both(lambda b: b.create(self.run_id, plan, caller, run_ttl=10**8, result_ttl=10**7))
        return multiple(*((duty, caller) for duty in reply.duties))

    @rule(ms=st.sampled_from([1, 10, LEASE, 3 * LEASE]))
    def time_passes(self, ms: int) -> None:
        self.now += ms

    @rule(
        target=held,
        stage=st.integers(-1, 1),
        member=st.integers(0, 4),
        ending=ENDINGS,
        epoch=st.integers(0, 1),
        attempt=st.integers(0, 2),
    )
    def record(self, stage: int, member: int, ending: Any, epoch: int, attempt: int) -> Any:
        stage = min(max(self.present_stage() + stage, 0), len(self.sizes) - 1)
        of = self.sizes[stage] or 4
        tag = Tag(self.run_id, stage, member, max(of, member + 1), epoch)
        payload = b"result \x00\xff" if ending == "succeeded" else DETAILS
        caller = self.caller(tag.owner)
        reply = self.both(lambda b: b.record(Record(tag, attempt, ending, payload), caller))
        return multiple(*((duty, caller) for duty in reply.duties))

    @rule(target=held, owner=st.sampled_from(["sweeper", "0.0", "1.1", "run:x"]))
    def ask(self, owner: str) -> Any:
        caller = self.caller(owner)
        reply = self.both(lambda b: b.owed(self.run_id, caller))
        return multiple(*((duty, caller) for duty in reply.duties))

    @rule(target=held, pair=held, total=st.integers(0, 3), cursor=st.one_of(st.none(), st.integers(0, 3)))
    def do(self, pair: tuple[Duty, Caller], total: int, cursor: int | None) -> Any:
        """Do a duty, perhaps long after its lease has lapsed."""
        duty, caller = pair
        caller = Caller(caller.owner, self.now, caller.lease, LEASE)
        if duty.kind != "open":
            self.both(lambda b: b.confirm(self.run_id, duty, caller, cursor=cursor))
            return multiple()
        size = self.sizes[duty.stage]
        total = total if size is None else size
        reply = self.both(lambda b: b.open(self.run_id, duty, total, caller))
        if reply.word == "opened":
            self.sizes[duty.stage] = total
        return multiple(*((new, caller) for new in reply.duties))

    @rule(target=held, pair=held, seldom=st.integers(0, 9))
    def fail(self, pair: tuple[Duty, Caller], seldom: int) -> Any:
        if seldom != 7:
            return multiple()
        duty, caller = pair
        reply = self.both(lambda b: b.fail(self.run_id, duty, DETAILS, caller))
        return multiple(*((new, caller) for new in reply.duties))

    @rule(stage=st.integers(0, 3), member=st.integers(0, 4))
    def guard(self, stage: int, member: int) -> None:
        self.both(lambda b: b.guard(Tag(self.run_id, stage, member, 5)))

    @rule()
    def look(self) -> None:
        self.both(lambda b: b.spec(self.run_id))
        self.both(lambda b: list(b.rows(self.run_id, 0, 20)))
        self.both(lambda b: b.line(self.run_id, 0))
        self.both(lambda b: list(b.results(self.run_id, self.present_stage(), 0, 5)))

    # What always holds

    @invariant()
    def both_show_the_same_run(self) -> None:
        if self.sizes:
            state = self.both(lambda b: status_of(b, self.run_id)).state
            if self.state == "failed" and state != "failed":
                self.heals += 1
            self.state = state

    @invariant()
    def every_key_has_an_expiry(self) -> None:
        assert_all_expire(self.client)

    def present_stage(self) -> int:
        snapshot = self.stub.snapshot(self.run_id)
        assert snapshot is not None
        return int(snapshot["head"]["stage"])

    def finish(self) -> None:
        """From any state: with all duties done and a success for every member, the run is at rest, and tidy."""
        for _ in range(20):
            self.now += 2 * LEASE
            caller = self.caller("sweeper")
            for duty in self.both(lambda b, who=caller: b.owed(self.run_id, who)).duties:
                self.do_at_the_end(duty, caller)
            status = self.both(lambda b: status_of(b, self.run_id))
            if status.error or (status.state == "succeeded" and self.stub.spec(self.run_id) is None):
                break
            stage = self.present_stage()
            for member in range(self.sizes[stage] or 0):
                tag, who = Tag(self.run_id, stage, member, self.sizes[stage] or 0), self.caller("again")
                for duty in self.both(lambda b, t=tag, w=who: b.record(Record(t, 9, "succeeded", b"end"), w)).duties:
                    self.do_at_the_end(duty, who)
        status = self.both(lambda b: status_of(b, self.run_id))
        assert status.error or status.state == "succeeded"
        if status.state == "succeeded":
            self.both(lambda b: b.spec(self.run_id))
            left = {str(key).rstrip("'").rsplit("}:")[1] for key in self.client.keys("*{*")}
            assert left <= {"head", "bell", "mark", f"marks:{len(self.sizes) - 1}"}

    def do_at_the_end(self, duty: Duty, caller: Caller) -> None:
        if duty.kind != "open":
            self.both(lambda b: b.confirm(self.run_id, duty, caller))
            return
        size = self.sizes[duty.stage] or 0
        self.sizes[duty.stage] = size
        for new in self.both(lambda b: b.open(self.run_id, duty, size, caller)).duties:
            self.do_at_the_end(new, caller)


def status_of(backend: ClutchBackend, run_id: str) -> Any:
    snapshot = backend.snapshot(run_id)
    assert snapshot is not None
    return status_from(run_id, snapshot)


def comparable(answer: Any) -> Any:
    """A reply with its snapshots as the statuses that they show."""
    if not isinstance(answer, Reply):
        return answer
    return answer.word, [
        (duty.id, duty.lease, duty.cursor, duty.again, duty.line, duty.snapshot and status_from("", duty.snapshot))
        for duty in answer.duties
    ]


def test_both_backends_give_the_same_answers(server: Server, redis_client: object) -> None:
    class Machine(TwoBackends):
        pass

    Machine.server = server
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=100,
            stateful_step_count=30,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.slow
def test_both_backends_give_the_same_answers_for_long(server: Server, redis_client: object) -> None:
    class Machine(TwoBackends):
        pass

    Machine.server = server
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=300, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
