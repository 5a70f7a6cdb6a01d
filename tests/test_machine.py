"""Both backends, driven with the same calls by many actors in any order, give the same answers.

The scripts are the same, so a difference is a fault of the store in memory. What the scripts do is held to what always
holds: the rules and invariants of the machine.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, Phase, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dramatiq_clutch.backend import LAST, Caller, ClutchBackend, Record, Reply
from dramatiq_clutch.backends import RedisBackend, StubBackend
from dramatiq_clutch.backends.redis.along import Along
from dramatiq_clutch.register import Glance, MemberState
from dramatiq_clutch.status import status_from
from dramatiq_clutch.stored.duties import CallBack, Duty, OpenStage, Resend, Resume, SendAgain, SendMembers, Tell
from dramatiq_clutch.stored.firings import CallbackEnding
from dramatiq_clutch.stored.places import CallbackTag, Place, Tag
from dramatiq_clutch.stored.plan import EVENTS, Plan, Spec, StageLine
from tests.support.keyspace import assert_all_expire, part_of
from tests.support.server import Server

LEASE = 1_000
#: Events that have several callbacks; any other has one.
SEVERAL = {"on_failed": 2, "on_finish": 3, "on_success": 2}
DETAILS = b'{"actor": "a", "message_id": "m", "type": "E", "text": "t", "attempts": 1}'
GENERATION = "0123abcd"
ENDINGS = st.sampled_from(["succeeded", "succeeded", "working", "attempted", "failing", "dead"])

#: What may be said of a stage as a whole: mostly nothing.
TERMS: Any = st.one_of(
    st.just({}),
    st.just({}),
    st.fixed_dictionaries(
        {"fail_fast": st.booleans()},
        optional={"allowed": st.sampled_from([1, 2, 0.5]), "deadline": st.sampled_from([LEASE, 9 * LEASE])},
    ),
    st.fixed_dictionaries({"fail_fast": st.booleans(), "enough": st.integers(1, 3)}),
)

numbers = itertools.count()

#: What stays of a stage as long as its results do.
OF_RESULTS = ("members", "standing", "dead", "attempts", "times")


class TwoBackends(RuleBasedStateMachine):
    """One run, on both backends at once; without a `server` on the one in memory alone, which then has to keep what
    always holds. `server` is set by the test, which is told in `reached` how many examples came to what.
    """

    server: Server | None
    reached: Counter[str]
    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.client = self.server.client() if self.server else None
        self.stub = StubBackend()
        self.stores: list[ClutchBackend] = [self.stub]
        if self.client is not None:
            self.client.flushall()
            self.redis = RedisBackend(client=self.client)
            self.stores = [self.redis, self.stub]
        self.comes_to: set[str] = set()
        self.run_id = f"run-{next(numbers)}"
        self.now = 1_000_000
        self.sizes: list[int | None] = []
        self.released: set[str] = set()
        self.given: dict[int, set[int]] = {}
        self.on_its_way: set[tuple[int, int]] = set()
        #: Nested runs that work beside the members that were sent in their places, so that there are more than the
        #: limit allows: a dead one was retried by itself, or a second copy of a dead job's message has nested it.
        self.beyond: set[tuple[int, int]] = set()
        self.alarms: dict[tuple[str, int], int] = {}
        self.told = 0
        self.heals = 0
        self.attempts = 10  # more than any single one is given
        self.state = "running"
        self.called: set[str] = set()
        self.fired: dict[str, list[str]] = {}
        self.done: dict[str, tuple[str, int]] = {}
        self.ended: dict[str, dict[int, tuple[CallbackEnding, int]]] = {}
        self.generation = GENERATION
        self.keeps = False
        self.wanted = itertools.cycle(get_args(MemberState))
        self.endings = itertools.cycle(get_args(CallbackEnding))

    def teardown(self) -> None:
        try:
            if self.sizes:
                self.finish()
        finally:
            self.reached.update(self.comes_to)
            for what in sorted(self.comes_to):
                event(f"comes to: {what}")
            if self.client is not None:
                self.client.close()

    def both(self, call: Any, *, watch: bool = True) -> Any:
        """Do it on both; the answers must be equal."""
        answers = [call(backend) for backend in self.stores]
        assert unnumbered(answers[0]) == unnumbered(answers[-1])
        if isinstance(answers[0], Reply) and watch:
            self.watch(answers[0])
        return answers[0]

    def caller(self, owner: str, *, touch: bool = True) -> Caller:
        return Caller(owner, self.now, f"lease-{next(numbers)}", LEASE, touch)

    def watch(self, reply: Reply) -> None:
        """A stage is released once, and a stage's alarm rings once, unless a failed run was healed in between."""
        for duty in reply.duties:
            if duty.repeated:
                continue
            assert duty.id not in self.released
            self.released.add(duty.id)
            if isinstance(duty, SendMembers):
                members = set(range(duty.start, duty.end))
                assert not members & self.given.setdefault(duty.stage, set())
                self.given[duty.stage] |= members
            if isinstance(duty, CallBack) and duty.event in ("on_failure", "on_death"):
                self.alarms[duty.event, duty.stage] = self.alarms.get((duty.event, duty.stage), 0) + 1
                assert self.alarms[duty.event, duty.stage] <= 1 + self.heals
            if duty.kind.startswith("on_"):
                self.called.add(duty.id)
            if isinstance(duty, CallBack):
                self.fired.setdefault(duty.event, []).append(duty.id)
            if isinstance(duty, Tell):
                assert duty.revision > self.told
                self.told = duty.revision

    # What happens

    @initialize(
        target=held,
        sizes=st.sampled_from([(1, 1, 1), (2, 1, 1, 1), (3, 2), (4,)])
        | st.lists(st.one_of(st.none(), st.integers(0, 6)), min_size=1, max_size=4),
        events=st.sets(st.sampled_from(EVENTS)),
        tolerant=st.just(0) | st.integers(0, 15),
        nested=st.integers(0, 15),
        piped=st.integers(0, 15),
        limits=st.lists(st.none() | st.integers(1, 3) | st.just(20), min_size=4, max_size=4),
        terms=st.lists(TERMS, min_size=4, max_size=4),
        deadline=st.none() | st.none() | st.sampled_from([5 * LEASE, 20 * LEASE]),
        waits=st.just([None] * 4) | st.lists(st.sampled_from([None, 10, 3 * LEASE]), min_size=4, max_size=4),
        share=st.sampled_from([1, 2, 1_000]),
        child=st.booleans(),
        claim=st.sampled_from(["", "claim"]),
        keeps=st.sampled_from([False, False, True]),
        timed=st.booleans(),
    )
    def create(
        self,
        sizes: Sequence[int | None],
        events: set[str],
        tolerant: int,
        nested: int,
        piped: int,
        limits: list[int | None],
        terms: list[dict[str, Any]],
        deadline: int | None,
        waits: list[int | None],
        share: int,
        child: bool,
        claim: str,
        keeps: bool,
        timed: bool,
    ) -> Any:
        self.sizes = list(sizes)
        lines: list[StageLine] = []
        rows: list[bytes] = []
        for index, size in enumerate(self.sizes):
            allows, runs, pipes = (bool(bits & 1 << index) for bits in (tolerant, nested, piped))
            limit = limits[index]
            allows, wait = allows and not terms[index], waits[index]
            more = {"wait": wait, **terms[index]}
            lines.append(StageLine(len(rows), size, True, size is None, allows, pipes, runs, limit, **more))
            rows += [b"row"] * (1 if size is None else size)
        parent = Place("parent", 0, 1, 2) if child else None
        callbacks = {event: (b"row",) * SEVERAL.get(event, 1) for event in events}
        spec = Spec(name="n", callbacks=callbacks, parent=parent, generation=GENERATION, deadline=deadline)
        spec = replace(spec, timed=timed)
        self.plan, self.claim, self.share = Plan(spec, tuple(lines), tuple(rows)), claim, share
        self.keeps = keeps and not child
        return self.create_it("run:x", claim)

    @rule(target=held, owner=st.sampled_from(["run:x", "run:y"]), claim=st.sampled_from(["", "claim"]))
    def create_it(self, owner: str, claim: str) -> Any:
        caller = self.caller(owner)
        times = {"run_ttl": 10**8, "result_ttl": 10**7, "share": self.share, "keeps": self.keeps}
        reply = self.both(lambda b: b.create(self.run_id, self.plan, caller, **times, claim=claim))
        return multiple(*((duty, caller) for duty in reply.duties))

    @rule(ms=st.sampled_from([1, 10, LEASE, 3 * LEASE]))
    def time_passes(self, ms: int) -> None:
        self.now += ms

    @rule(
        target=held,
        stage=st.integers(-1, 1),
        member=st.integers(0, 6),
        ending=ENDINGS,
        epoch=st.integers(0, 1),
        attempt=st.sampled_from([0, 1, 2, LAST]),
        touch=st.booleans(),
        of_run=st.booleans(),
        nests=st.integers(0, 5),
        goes=st.booleans(),
    )
    def record(
        self,
        stage: int,
        member: int,
        ending: Any,
        epoch: int,
        attempt: int,
        touch: bool,
        of_run: bool,
        nests: int,
        goes: bool,
    ) -> Any:
        present = self.present_stage()
        stage = min(max(present + stage, 0), len(self.sizes) - 1)
        line = self.plan.lines[stage]
        if stage == present and line.limit and member >= self.sent():
            return multiple()  # what nobody has sent can't have had an attempt
        of = self.sizes[stage] or 4
        place = (self.run_id, stage, member, max(of, member + 1), epoch)
        tag = Tag(*place, batch=line.batch, generation=self.generation, exact=line.exact)
        tag = tag._replace(timed=self.plan.spec.timed)
        payload = b"result \x00\xff" if ending == "succeeded" else DETAILS
        honest = member < (self.sizes[stage] or 0)  # the common case trusts a message that says how many there are
        caller = self.caller(tag.owner, touch=touch or not honest)
        nested = b"plan" if ending == "succeeded" and nests == 0 and not of_run else b""
        (before,) = self.stub.standing(self.run_id, stage, [member])
        if line.limit and before in ("dead", "waiting") and (of_run or nested):
            self.beyond.add((stage, member))
        record = Record(tag, attempt, ending, payload, nested, of_run, began=self.now - member, worker="w")
        onward = self.onward(stage + 1) if goes else None
        failed = self.has_failed()
        self.heals += failed  # a newer attempt takes a failed run up again, and may ring at once
        if onward is None:
            reply = self.both(lambda b: b.record(record, caller))
        else:
            reply = self.record_onward(record, caller, onward)
        self.heals -= failed and self.has_failed() and not reply.duties
        return multiple(*((duty, caller) for duty in reply.duties))

    @rule(target=held, member=st.integers(0, 6))
    def a_job_succeeds_at_once(self, member: int) -> Any:
        """Of a series: the most common thing that happens."""
        member = min(member, max((self.sizes[self.present_stage()] or 1) - 1, 0))
        return self.record(0, member, "succeeded", 0, 0, touch=False, of_run=False, nests=1, goes=True)

    @rule(target=held, nth=st.integers(0, 5), ending=ENDINGS, of_run=st.booleans())
    def a_late_copy_ends(self, nth: int, ending: Any, of_run: bool) -> Any:
        """A later attempt of a member that is dead already, or waits to be sent again."""
        stage = self.present_stage()
        standing = self.stub.standing(self.run_id, stage, range(self.sizes[stage] or 0))
        late = [member for member, stands in enumerate(standing) if stands in ("dead", "waiting")]
        if not late:
            return multiple()
        self.attempts += 1
        self.comes_to.add("a late copy has ended")
        member = late[nth % len(late)]
        return self.record(0, member, ending, 0, self.attempts, touch=True, of_run=of_run, nests=1, goes=False)

    @rule(
        target=held,
        ending=st.sampled_from(["dead", "dead", "dead", "failing", "attempted", "succeeded"]),
        spares=st.sampled_from([None, None, None, 0, 1]),
        epoch=st.integers(0, 2),
        touch=st.booleans(),
        retries=st.booleans(),
    )
    def all_end(self, ending: Any, spares: int | None, epoch: int, touch: bool, retries: bool) -> Any:
        """All members of the stage at work that haven't come to an end do, but perhaps for one; if the run fails of it,
        it is perhaps retried."""
        stage, found = self.present_stage(), list[Any]()
        if not self.sizes[stage]:  # it is still to be opened, which a sweeper does when the lease has lapsed
            self.now += LEASE
            found += self.ask("sweeper").values
            for pair in [pair for pair in found if pair[0].kind == "open"]:
                found += self.do(pair, 3, None).values
            stage = self.present_stage()
        standing = self.stub.standing(self.run_id, stage, range(self.sizes[stage] or 0))
        for member, stands in enumerate(standing):
            if stands in ("succeeded", "dead") or member == spares or self.present_stage() != stage:
                continue
            self.attempts += 1
            of_run = stands == "working"  # the runs that its job has nested, or those that stand there
            found += self.record(0, member, ending, epoch, self.attempts, touch, of_run, nests=1, goes=False).values
        self.both_show_the_same_run()
        if self.state == "failed" and retries:
            found += self.a_failed_run_is_retried().values
        return multiple(*found)

    @precondition(lambda self: self.is_at_work() and any(line.fail_fast for line in self.plan.lines))
    @rule(target=held, nth=st.integers(0, 5))
    def a_member_dies_too_many(self, nth: int) -> Any:
        """Of a stage that fails fast, so that the run breaks off unless some may be dead."""
        stage = self.present_stage()
        standing = self.stub.standing(self.run_id, stage, range(self.sizes[stage] or 0))
        alive = [member for member, stands in enumerate(standing) if stands not in ("succeeded", "dead")]
        if not alive or not self.plan.lines[stage].fail_fast:
            return multiple()
        self.attempts += 1
        member = alive[nth % len(alive)]
        of_run = standing[member] == "working"
        return self.record(0, member, "dead", 2, self.attempts, touch=True, of_run=of_run, nests=1, goes=False)

    @precondition(lambda self: self.is_at_work() and self.has_deadlines())
    @rule(target=held)
    def the_time_is_over(self) -> Any:
        self.now += 20 * LEASE
        return self.ask("sweeper")

    @precondition(lambda self: self.state == "failed")
    @rule(target=held)
    def a_failed_run_is_retried(self) -> Any:
        return self.change("retry", 0, None)

    def onward(self, stage: int) -> Along | None:
        """What is ready for a stage of one job."""
        if self.client is None or stage >= len(self.sizes) or self.sizes[stage] != 1 or self.plan.lines[stage].mapped:
            return None
        duty = SendMembers(stage, 0, 1, generation=self.generation)
        return Along("redis.call('RPUSH', KEYS[1], ARGV[1])", "sent", duty=duty, enqueue=[duty.id])

    def record_onward(self, record: Record, caller: Caller, along: Along) -> Reply:
        """What Redis has sent by itself, the stub owes; that is all the difference."""
        assert self.client is not None
        before = self.client.llen("sent")
        went, owed = self.redis.record(record, caller, along), self.stub.record(record, caller)
        self.watch(owed)
        assert self.client.llen("sent") == before + (went.sent is not None)
        if went.sent is not None:
            (duty,) = (duty for duty in owed.duties if duty.id == went.sent.id)
            assert self.stub.confirm(self.run_id, duty, caller) == "confirmed"
            self.send(duty)
            owed = replace(owed, duties=tuple(one for one in owed.duties if one is not duty))
        assert comparable(went) == comparable(owed)
        return owed

    @rule(target=held, owner=st.sampled_from(["sweeper", "0.0", "1.1", "run:x"]))
    def ask(self, owner: str) -> Any:
        caller = self.caller(owner)
        reply = self.both(lambda b: b.owed(self.run_id, caller))
        return multiple(*((duty, caller) for duty in reply.duties))

    @rule(
        target=held,
        verb=st.sampled_from(["cancel", "retry", "retry", "resend"]),
        seldom=st.integers(0, 3),
        since=st.none() | st.integers(3, 5),
    )
    def change(self, verb: str, seldom: int, since: int | None) -> Any:
        if seldom:
            return multiple()
        if verb == "cancel":
            self.drop()
        self.heals += verb == "retry"  # which may ring at once: a callback that couldn't be sent failed the run
        caller = self.caller(f"{verb}:x")
        as_parent = {"since": since} if verb == "retry" and self.plan.spec.parent else {}
        reply = self.both(lambda b: getattr(b, verb)(self.run_id, caller, **as_parent))
        if reply.word == "cancelled":
            self.on_its_way.clear()  # what arrives now is skipped
        if verb == "retry" and reply.word != "retried":
            self.heals -= 1
        elif verb == "retry":
            self.comes_to.add("retried")
        return multiple(*((duty, caller) for duty in reply.duties))

    @rule(bury=st.integers(0, 3), epoch=st.integers(0, 3))
    def bury(self, bury: int, epoch: int) -> None:
        """A run that isn't there yet is cancelled, then started by parents of several epochs."""
        name, spec = f"other-{next(numbers)}", Spec(parent=Place("parent", 0, 0, epoch))
        plan = Plan(spec, (StageLine(0, 1),), (b"row",))
        times = {"run_ttl": 10**8, "result_ttl": 10**7}
        for epoch_buried in (bury, bury - 1):
            caller = self.caller("halt")
            self.both(lambda b, c=caller, e=epoch_buried: b.cancel(name, c, bury=e))
        self.both(lambda b: b.guard(Tag(name, 0, 0, 1), self.now))
        caller = self.caller("start")
        reply = self.both(lambda b: b.create(name, plan, caller, **times), watch=False)
        assert reply.word == ("created" if epoch > bury else "exists")

    @rule(target=held, pair=held, total=st.integers(0, 3), cursor=st.one_of(st.none(), st.integers(0, 3)))
    def do(self, pair: tuple[Duty, Caller], total: int, cursor: int | None) -> Any:
        """Do a duty, perhaps long after its lease has lapsed."""
        duty, caller = pair
        caller = Caller(caller.owner, self.now, caller.lease, LEASE)
        if isinstance(duty, SendAgain):
            self.reopen(duty, caller, cursor or 0)
            return multiple()
        if not isinstance(duty, OpenStage):
            word = self.both(lambda b: b.confirm(self.run_id, duty, caller, cursor=cursor))
            if word in ("confirmed", "rests"):
                self.send(duty, cursor)
            if word != "lost" and cursor is None:
                self.done[duty.id] = "sent", caller.now
            return multiple()
        size = self.sizes[duty.stage]
        total = total if size is None else size
        reply = self.both(lambda b: b.open(self.run_id, duty, total, caller))
        if reply.word == "opened":
            self.sizes[duty.stage] = total
        return multiple(*((new, caller) for new in reply.duties))

    def reopen(self, duty: SendAgain, caller: Caller, done: int) -> bool:
        """Get the next members that a retry is to send again; they are on their way then."""
        found = self.both(lambda b: reopened(b, self.run_id, duty, done, caller))
        if found is not None:
            self.on_its_way |= {(duty.stage, member) for member in found[1]}
        return found is not None

    @rule(nth=st.integers(0, 5), index=st.integers(0, max(SEVERAL.values()) - 1))
    def a_callback_ends(self, nth: int, index: int) -> None:
        if self.called:
            self.hear_of(sorted(self.called)[nth % len(self.called)], index, next(self.endings))

    def hear_of(self, duty: str, index: int, ending: CallbackEnding) -> None:
        tag, caller = CallbackTag(self.run_id, self.generation, duty, index), self.caller("heard")
        word = self.both(lambda b: b.heard(tag, caller, ending))
        ended = self.ended.setdefault(duty, {})
        was, _ = ended.get(index, (None, 0))
        if word == "heard" and was != "succeeded":  # a success is final
            ended[index] = ending, caller.now

    @rule(target=held, after=st.sampled_from([1, LEASE, 10 * LEASE]), knows=st.booleans())
    def sweep(self, after: int, knows: bool) -> Any:
        caller = self.caller("sweeper")
        reply = self.both(lambda b: b.sweep(self.run_id, caller, stalled_after=after, waits_for_jobs=knows))
        return multiple(*((duty, caller) for duty in reply.duties))

    @rule(target=held, pair=held, seldom=st.integers(0, 9))
    def fail(self, pair: tuple[Duty, Caller], seldom: int) -> Any:
        if seldom != 7:
            return multiple()
        duty, caller = pair
        reply = self.both(lambda b: b.fail(self.run_id, duty, DETAILS, caller))
        if reply.word == "failed" and isinstance(duty, CallBack):
            self.done[duty.id] = "failed", caller.now
        return multiple(*((new, caller) for new in reply.duties))

    @rule(target=held, another=st.booleans())
    def it_could_be_deleted(self, another: bool) -> Any:
        """It is only asked: whether a run could be deleted says nothing new of it."""
        caller, generation = self.caller("delete:x"), "76543210" if another else self.generation
        reply = self.both(lambda b: b.delete(self.run_id, caller, generation=generation, asks=True))
        assert reply.word == "unknown" if another else reply.word in ("rests", "works", "owing", "unknown")
        assert another or (reply.word == "works") == (self.state in ("running", "failing"))
        return multiple(*((duty, caller) for duty in reply.duties))

    @precondition(lambda self: self.keeps and self.state in ("succeeded", "failed", "cancelled"))
    @rule(target=held, stage=st.integers(0, 3), waits=st.sampled_from([0, 3, 3]))
    def stages_are_done_again(self, stage: int, waits: int) -> Any:
        """Of a run at rest that keeps its results. If what it owes isn't waited for, that is perhaps refused."""
        present = self.present_stage()
        stage = min(stage, len(self.sizes) - 1)
        for _ in range(waits):
            self.now += 2 * LEASE
            for pair in self.ask("sweeper").values:
                self.do(pair, 0, None)
        before, caller, later = self.stub.snapshot(self.run_id), self.caller("retry:r"), f"{next(numbers):08x}"
        spec, whose = replace(self.plan.spec, generation=later), self.generation
        reply = self.both(lambda b: b.rewind(self.run_id, stage, spec, caller, generation=whose), watch=False)
        if reply.word != "rewound":
            assert reply.word == ("refused" if stage > present else "owing")
            return multiple()
        assert before is not None
        self.both(lambda b: b.drop_pass(self.run_id, before, stage))
        self.generation, self.state = later, "running"
        self.heals += 1
        self.released.clear()
        self.given.clear()
        self.on_its_way.clear()  # what arrives now is skipped
        self.called.clear()
        self.comes_to.add("done again")
        for index in range(stage, len(self.sizes)):
            self.sizes[index] = None if self.plan.lines[index].mapped else self.sizes[index]
        for index in range(stage):
            kept = self.both(lambda b, i=index: list(b.results(self.run_id, i, 0, self.sizes[i] or 0)))
            assert not kept or any(field is not None for field in kept)
        for index, total in enumerate(self.sizes):
            tag = Tag(self.run_id, index, 0, total or 1, generation=whose)
            assert self.both(lambda b, t=tag: b.guard(t, self.now)) == "over"
            assert self.both(lambda b, t=tag: b.record(Record(t, 0, "succeeded", b"late"), caller)).word == "over"
        self.watch(reply)
        assert self.present_stage() == stage
        return multiple(*((duty, caller) for duty in reply.duties))

    @rule(stage=st.integers(0, 3), member=st.integers(0, 4), attempt=st.integers(0, 2))
    def guard(self, stage: int, member: int, attempt: int) -> None:
        """In a run with timings a member that may begin has begun then. What is asked twice by the same clock says
        nothing new."""
        self.both(lambda b: b.guard(Tag(self.run_id, stage, member, 5, generation="76543210"), self.now))
        stage, timed = min(stage, len(self.sizes) - 1), self.plan.spec.timed
        tag = Tag(self.run_id, stage, member, self.sizes[stage] or 5, generation=self.generation, timed=timed)
        word = self.both(lambda b: b.guard(tag, self.now, attempt=attempt, worker="w"))
        found = self.both(lambda b: b.look_into(self.run_id, stage, member, 1))
        self.both(lambda b: b.guard(tag, self.now, attempt=attempt, worker="w"))
        assert self.both(lambda b: b.look_into(self.run_id, stage, member, 1)) == found
        if word == "go" and found is not None and found.members:
            assert (found.members[0].began is not None) == timed
            self.comes_to |= {"at work"} if timed and found.members[0].state == "working" else set()

    @rule()
    def look(self) -> None:
        self.both(lambda b: b.spec(self.run_id))
        self.both(lambda b: list(b.rows(self.run_id, 0, 20)))
        self.both(lambda b: b.line(self.run_id, 0))
        stage = self.present_stage()
        for index in (stage - 1, stage):
            if index >= 0:
                self.both(lambda b, i=index: list(b.failures(self.run_id, i)))
                self.both(lambda b, i=index: b.nested(self.run_id, i, range(5)))
                if self.state != "cancelled":
                    self.both(lambda b, i=index: list(b.results(self.run_id, i, 0, 5)))
                    self.both(lambda b, i=index: list(b.standing(self.run_id, i, range(5))))

    # What always holds

    @invariant()
    def both_show_the_same_run(self) -> None:
        if self.sizes:
            status = self.both(lambda b: status_of(b, self.run_id))
            state = status.state if status else "succeeded"  # a nested run that has told its parent is gone then
            if self.state == "failed" and state != "failed":
                self.heals += 1
            if self.state == "succeeded":
                assert state == "succeeded"
            if state == "failed" and self.is_broken():
                self.halt()
                self.comes_to.add("broken off" if status is None or status.error is None else "overdue")
            if status is not None:
                assert 0 <= status.progress <= 1
                assert (status.progress == 1) == (state == "succeeded")
                assert all(stage.pending >= 0 for stage in status.stages)
                dead = sum(stage.dead for stage in status.stages)
                assert sum(status.failure_counts.values()) == dead + (status.error is not None)
                self.comes_to |= {"a failure was kept"} if dead > status.stages[self.present_stage()].dead else set()
            self.state = state
            self.comes_to.add(state)
            if status is not None and state == "failed" and status.error is None:
                self.comes_to.add("settled, and failed")

    def drop(self) -> None:
        """What would send or start anything is dropped, and may be owed again when the run is taken up again."""
        self.released = {name for name in self.released if not name.startswith(("send", "open", "start"))}
        if not self.plan.lines[self.present_stage()].limit:
            self.given.pop(self.present_stage(), None)

    def halt(self) -> None:
        """A run that has broken off owes nothing that would send or start anything, and wants none of its jobs."""
        self.drop()
        self.on_its_way.clear()  # what arrives now is skipped
        stage = self.present_stage()
        for member in range(self.sizes[stage] or 0):
            assert self.stub.guard(Tag(self.run_id, stage, member, self.sizes[stage] or 0), self.now) == "over"
        duties = {name.decode().split(":")[0] for name in self.outbox()}
        assert not duties & {"send", "open", "start", "retry", "resume", "revive", "resend"}, duties

    def outbox(self) -> Any:
        """The ids of all that the run owes."""
        keys = self.stub.keyspace.values
        (outbox,) = [keys[key] for key in keys if b"{%s}:outbox" % self.run_id.encode() in key] or [{}]
        return outbox

    @invariant()
    def a_glance_shows_what_the_status_does_and_the_last_turn_led_there(self) -> None:
        snapshot = self.stub.snapshot(self.run_id) if self.sizes else None
        if snapshot is None:
            return
        status = status_from(self.run_id, snapshot)
        (glance,) = self.both(lambda b: b.look_at([self.run_id]))
        assert isinstance(glance, Glance)
        assert (glance.state, glance.created, glance.updated) == (status.state, status.created, status.updated)
        if status.state != "succeeded":
            stage = status.stages[glance.stage]
            shown = (glance.total, glance.succeeded, glance.failing, glance.dead)
            assert shown == (stage.total, stage.succeeded, stage.failing, stage.dead)
        if not glance.nested:
            assert snapshot["head"]["turn"] == f"{glance.turns} {status.state}"

    @invariant()
    def the_times_of_a_stage_say_how_far_it_is(self) -> None:
        snapshot = self.stub.snapshot(self.run_id) if self.sizes else None
        if snapshot is None:
            return
        status, present = status_from(self.run_id, snapshot), int(snapshot["head"]["stage"])
        rests = status.state not in ("running", "failing")
        assert (status.ended is not None) == rests
        for index, stage in enumerate(status.stages):
            assert (stage.released is not None) == (index <= present)
            assert (stage.settled is not None) == (index < present or (index == present and rests))
            if stage.succeeded + stage.failing + stage.dead:
                assert stage.began is not None
            if index and stage.released is not None:
                assert stage.released == status.stages[index - 1].settled or self.keeps

    @invariant()
    def each_member_is_shown_under_one_state_and_their_numbers_are_those_of_the_status(self) -> None:
        snapshot = self.stub.snapshot(self.run_id) if self.sizes else None
        if snapshot is None:
            return
        present, stages = int(snapshot["head"]["stage"]), status_from(self.run_id, snapshot).stages
        for index in {present - 1, present} - {-1}:
            shown = self.shown_in(index)
            assert [member for member, _ in shown] == list(range(stages[index].total or 0))
            by_state, stage = Counter(state for _, state in shown), stages[index]
            if snapshot["head"]["state"] in ("succeeded", "cancelled") or self.is_broken():
                assert not by_state["working"]
            is_over = index < present and snapshot["head"]["state"] == "succeeded"
            if self.keeps or not is_over:  # of a stage that is longer over, only some failures are known
                known = (by_state["succeeded"], by_state["dead"], by_state["skipped"])
                assert known == (stage.succeeded, stage.dead, stage.skipped)
                at_work = by_state["working"] if self.plan.spec.timed else 0  # in a later attempt, some of the failing
                assert by_state["failing"] <= stage.failing <= by_state["failing"] + at_work
            wanted: MemberState = next(self.wanted)
            found = self.shown_in(index, wanted, most=2)
            assert found == [one for one in shown if one[1] == wanted], (index, wanted, shown, found)

    def shown_in(self, stage: int, state: MemberState | None = None, *, most: int = 100) -> list[tuple[int, str]]:
        """The members of a stage, or those that are shown under a state, on pages of so many."""
        shown, start = list[tuple[int, str]](), 0
        while True:
            found = self.both(lambda b, at=start: b.look_into(self.run_id, stage, at, most, state=state))
            shown += [(member.index, member.state) for member in found.members]
            for member in found.members if self.plan.spec.timed else ():
                assert member.began is None or member.ended is None or member.began <= member.ended
                if member.state == "succeeded" and (self.keeps or not found.over):
                    assert None not in (member.began, member.ended)
            if found.go_on is None:
                return shown
            start = found.go_on

    @invariant()
    def each_callback_that_came_is_owed_or_was_sent_and_is_counted_once(self) -> None:
        found = self.both(lambda b: b.firings(self.run_id)) if self.sizes else None
        if found is None:
            return
        assert {name: one.count for name, one in found.last.items()} == {
            name: len(duties) for name, duties in self.fired.items()
        }
        for name, last in found.last.items():
            duty = self.fired[name][-1]
            assert last.duty(name) == duty
            assert (name in found.owed) == (duty not in self.done)
            assert {("sent", last.sent), ("failed", last.failed)} - {("sent", None), ("failed", None)} == (
                {self.done[duty]} if duty in self.done else set()
            )
            assert last.ended == self.ended.get(duty, {})
        assert found.is_complete
        registered = {name: len(rows) for name, rows in self.plan.spec.callbacks.items()}
        assert {name: len(calls) for name, calls in found.calls.items()} == registered

    @invariant()
    def every_key_has_an_expiry(self) -> None:
        if self.client is not None:
            assert_all_expire(self.client)
        assert self.stub.keyspace.values.keys() <= self.stub.keyspace.expires.keys()

    @invariant()
    def no_more_are_on_their_way_than_the_limit_allows(self) -> None:
        if not self.sizes or self.state not in ("running", "failing") or self.stub.snapshot(self.run_id) is None:
            return
        stage = self.present_stage()
        limit, total = self.plan.lines[stage].limit, self.sizes[stage]
        if limit is not None and total is not None:  # else nothing has been sent yet
            standing = self.stub.standing(self.run_id, stage, range(min(self.sent(), total)))
            unsettled = (None, "working", "attempted", "failing")
            holding = {(stage, member) for member, stands in enumerate(standing) if stands in unsettled}
            self.beyond &= holding
            assert len(holding - self.beyond) <= limit

    def send(self, duty: Duty, cursor: int | None = None) -> None:
        """The messages that a duty is for are on their way."""
        if isinstance(duty, SendMembers | Resume | Resend):
            start, end = max(duty.start, duty.cursor), duty.end if cursor is None else min(cursor, duty.end)
            self.on_its_way |= {(duty.stage, member) for member in range(start, end)}

    def is_at_work(self) -> bool:
        return bool(self.sizes) and self.state in ("running", "failing")

    def has_deadlines(self) -> bool:
        return bool(self.plan.spec.deadline) or any(line.deadline for line in self.plan.lines)

    def has_failed(self) -> bool:
        snapshot = self.stub.snapshot(self.run_id)
        return snapshot is not None and snapshot["head"]["state"] == "failed"

    def is_broken(self) -> bool:
        snapshot = self.stub.snapshot(self.run_id)
        return snapshot is not None and snapshot["head"].get("broken") == "1"

    def sent(self) -> int:
        """How many members of the present stage, which has a limit, are owed or sent."""
        snapshot = self.stub.snapshot(self.run_id)
        return int(snapshot["head"].get("sent", 0)) if snapshot else 0

    def present_stage(self) -> int:
        snapshot = self.stub.snapshot(self.run_id)
        return int(snapshot["head"]["stage"]) if snapshot else len(self.sizes) - 1

    def finish(self) -> None:
        """From any state: with all duties done and a success for whatever was sent, the run is at rest, and tidy; also
        if it is done again from a stage in its middle."""
        self.to_success()
        status = self.both(lambda b: status_of(b, self.run_id))
        if self.keeps and status.state in ("succeeded", "failed"):
            self.hear()
            # One that its deadline has broken off may have begun no later stage.
            self.stages_are_done_again(min(len(self.sizes) // 2, self.present_stage()), 3)
            assert self.state == "running"
            self.to_success()
        self.look_at_the_end()

    def to_success(self) -> None:
        """All duties are done, and whatever was sent succeeds."""
        caller = self.caller("retry:end")
        self.heals += 1
        self.hear()
        for duty in self.both(lambda b: b.retry(self.run_id, caller)).duties:
            self.do_at_the_end(duty, caller)
        for _ in range(80):
            self.now += 2 * LEASE
            caller = self.caller("sweeper")
            for duty in self.both(lambda b, who=caller: b.owed(self.run_id, who)).duties:
                self.do_at_the_end(duty, caller)
            status = self.both(lambda b: status_of(b, self.run_id))
            # A caller gets one share at a time, so the first look of many may leave something owed, whatever the state.
            if not status or (self.is_settled(status) and not self.owes()):
                break
            stage = self.present_stage()
            for member in range(self.sizes[stage] or 0):
                if (stage, member) not in self.on_its_way:
                    continue
                tag = Tag(self.run_id, stage, member, self.sizes[stage] or 0, generation=self.generation)
                who = self.caller("again")
                for duty in self.both(
                    lambda b, t=tag, w=who: b.record(Record(t, 9, "succeeded", b"end", of_run=True), w)
                ).duties:
                    self.do_at_the_end(duty, who)
        self.hear()

    def is_settled(self, status: Any) -> bool:
        """Whether nothing more comes of a run by itself: it has succeeded, or it has failed of what no job can mend."""
        return status.state == "succeeded" or (status.state == "failed" and status.error is not None)

    def owes(self) -> list[bytes]:
        """The ids of all that the run owes, but for what is parked until somebody retries the run."""
        return [name for name, duty in self.outbox().items() if not json.loads(duty).get("parked")]

    def look_at_the_end(self) -> None:
        status = self.both(lambda b: status_of(b, self.run_id))
        found: Any = self.keys()
        left = {part_of(key.decode()).rsplit("}:")[1] for key in found}
        if status is None:
            assert self.plan.spec.parent
            assert left <= {"tombstone", "past"}
            return
        assert self.is_settled(status)
        assert not self.owes()
        if status.state == "succeeded":
            self.both(lambda b: b.spec(self.run_id))
            last = len(self.sizes) - 1
            parts = {f"{part}:{last}" for part in OF_RESULTS}
            # What was nested in a stage that had enough stays, until it expires, if that wasn't cancelled in time.
            parts |= {f"nests:{stage}" for stage, line in enumerate(self.plan.lines) if line.enough}
            if self.keeps:
                kept = {f"{part}:{stage}" for part in OF_RESULTS for stage in range(last)}
                assert {f"members:{stage}" for stage in range(last)} <= left
                parts |= {"plan", *kept}
                self.what_is_kept_lives_as_long_as_the_run()
            assert left <= {"head", "tombstone", "past", "failures", "tally", *parts}
        self.delete(status)

    def what_is_kept_lives_as_long_as_the_run(self) -> None:
        expires = self.stub.keyspace.expires
        names = [key for key in self.keys() if b":members:" in key or b":head" in key or b":plan:" in key]
        lives = [expires[name] if self.client is None else self.client.pttl(name) for name in names]
        assert max(lives) - min(lives) < 60_000

    def delete(self, status: Any) -> None:
        """Nothing of a run at rest stays that doesn't have to, and its late messages are known."""
        at_rest = status.state in ("succeeded", "failed", "cancelled")
        for _ in range(3):
            self.now += 2 * LEASE
            caller = self.caller("delete:end")
            reply = self.both(lambda b, who=caller: b.delete(self.run_id, who, generation=self.generation))
            if reply.word != "owing":
                break
            for duty in reply.duties:
                self.do_at_the_end(duty, caller)
        if not at_rest:
            assert reply.word == "works"
        if reply.word != "deleted":
            return
        found: Any = self.keys()
        parts = {part_of(key.decode()).rsplit("}:")[1].split(":")[0] for key in found}
        assert parts - {"nests"} == {"past"}  # see above
        tag, caller = Tag(self.run_id, 0, 0, 5, generation=self.generation), self.caller("0.0")
        assert self.both(lambda b: b.guard(tag, self.now)) == "over"
        assert self.both(lambda b: b.record(Record(tag, 0, "succeeded", b"late"), caller)).word == "over"
        assert self.both(lambda b: b.delete(self.run_id, caller, generation=self.generation)).word == "unknown"

    def keys(self) -> Any:
        """The names of all that is stored of the run."""
        if self.client is not None:
            return self.client.keys(f"*{{{self.run_id}}}*")
        return [key for key in self.stub.keyspace.values if b"{%s}" % self.run_id.encode() in key]

    def hear(self) -> None:
        """All callbacks that were sent have ended."""
        for name, index in itertools.product(sorted(self.called), range(max(SEVERAL.values()))):
            self.hear_of(name, index, "succeeded")

    def do_at_the_end(self, duty: Duty, caller: Caller) -> None:
        if isinstance(duty, SendAgain):
            done = duty.cursor
            while self.reopen(duty, caller, done):
                done += 1
            return
        if not isinstance(duty, OpenStage):
            word = self.both(lambda b: b.confirm(self.run_id, duty, caller))
            if word in ("confirmed", "rests"):
                self.send(duty)
            if word != "lost":
                self.done[duty.id] = "sent", caller.now
            return
        size = self.sizes[duty.stage] or 0
        self.sizes[duty.stage] = size
        for new in self.both(lambda b: b.open(self.run_id, duty, size, caller)).duties:
            self.do_at_the_end(new, caller)


def reopened(backend: ClutchBackend, run_id: str, duty: SendAgain, done: int, caller: Caller) -> Any:
    found = backend.reopen(run_id, duty, done, caller)
    return found and (found[0], sorted(found[1]))


def status_of(backend: ClutchBackend, run_id: str) -> Any:
    snapshot = backend.snapshot(run_id)
    return snapshot and status_from(run_id, snapshot)


def unnumbered(answer: Any) -> Any:
    """An answer whose snapshots don't say how many duties the run has had: what has gone onward never was one. The
    failures of stages that are over come in no order from a server, and are put in order by who shows them."""
    if not isinstance(answer, Reply):
        return answer
    duties = list(answer.duties)
    for at, duty in enumerate(duties):
        if isinstance(duty, Tell | CallBack) and duty.snapshot:
            head = {name: value for name, value in duty.snapshot["head"].items() if name != "seq"}
            kept = sorted(duty.snapshot["kept"])
            duties[at] = replace(duty, snapshot={**duty.snapshot, "head": head, "kept": kept})
    return replace(answer, duties=tuple(duties))


def comparable(reply: Reply) -> Any:
    """A reply without what may come along to save reading it, which isn't the same when a message has gone onward."""
    return (
        reply.word,
        reply.note,
        [
            (duty.id, duty.lease, status_from("", duty.snapshot))
            if isinstance(duty, Tell | CallBack) and duty.snapshot
            else replace(duty, spec=b"", rows=(), previous=None, ahead=None)
            if isinstance(duty, SendMembers)
            else duty
            for duty in reply.duties
        ],
    )


def play(server: Server | None, examples: int, steps: int, **more: Any) -> Counter[str]:
    """Play so many examples. Returns how many of them came to what."""

    class Machine(TwoBackends):
        pass

    Machine.server, Machine.reached = server, Counter()
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
            **more,
        ),
    )
    return Machine.reached


#: Long searches are done in parts, so that several processes can share one. Each part begins at random: a longer search
#: is the same test several times.
IN_PARTS = [pytest.param(10, 60, marks=pytest.mark.search, id=f"long, part {part}") for part in range(1, 4)]


@pytest.mark.parametrize(("examples", "steps"), [pytest.param(3, 30, id="short"), *IN_PARTS])
@pytest.mark.timeout(400)  # a find is worth the time that it takes to shrink
def test_both_backends_give_the_same_answers(server: Server, redis_client: object, examples: int, steps: int) -> None:
    play(server, examples, steps)


@pytest.mark.parametrize(("examples", "steps"), IN_PARTS)
@pytest.mark.timeout(400)
def test_what_always_holds_does_on_one_store(examples: int, steps: int) -> None:
    play(None, examples, steps)


@pytest.mark.search
def test_the_search_often_comes_to_runs_that_have_failed_and_were_retried() -> None:
    """One that hardly ever gets there finds nothing there. Many short searches come to more than a long one, for most
    of its examples are made of earlier ones."""
    reached, wanted = Counter[str](), {"settled, and failed": 6, "retried": 6, "broken off": 4, "overdue": 4}
    for _ in range(20):
        reached += play(None, 20, 30, database=None, phases=[Phase.generate])
        if all(reached[what] >= often for what, often in wanted.items()):
            return
    raise AssertionError(f"400 examples came to no more than {reached}")
