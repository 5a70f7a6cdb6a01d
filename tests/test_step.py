"""The common step of a series, for which `lib/step.lua` has few lines of its own, comes to the same as without them:
the same reply, and the same keys with the same values and lives, whatever has happened to the run before."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from dramatiq_clutch.backend import Caller, Record, Reply
from dramatiq_clutch.backends import StubBackend
from dramatiq_clutch.backends.memory import Clock
from dramatiq_clutch.backends.memory.store import MemoryCalls
from dramatiq_clutch.backends.redis.along import Along
from dramatiq_clutch.backends.redis.scripts import Script
from dramatiq_clutch.stored.duties import Duty, SendMembers
from dramatiq_clutch.stored.places import Place, Tag
from dramatiq_clutch.stored.plan import EVENTS, Plan, Spec, StageLine

#: Where the step is taken, and where it has done all that it does.
IF, DONE = "if is_common() then", "return brief_reply('counts'"

#: What notes for this test that the step was taken.
TAKEN = b"taken"

#: What stands for the broker's own script: it notes what it is asked to do, and fails if it is asked to.
BROKER = """
if redis.call('EXISTS', 'refuses') == 1 and ARGV[1] == 'enqueue' then redis.call('HSET', 'refuses') end
redis.call('RPUSH', 'asked', table.concat(ARGV, ' '))
if ARGV[1] == 'enqueue' then redis.call('RPUSH', 'queue', ARGV[2]) end
return 1
"""

GENERATION, RUN, LEASE = "0123abcd", "run", 1_000
FAILURE = b'{"actor": "a", "message_id": "m", "type": "E", "text": "t", "attempts": 1}'


class WithStep(MemoryCalls):
    """Notes where the step was taken."""

    def run(self, script: Script, arguments: tuple[Any, ...], **more: Any) -> Any:
        return super().run(self.changed(script) if script.name == "record" else script, arguments, **more)

    def changed(self, script: Script) -> Script:
        return changed(script, DONE, f"redis.call('SET', '{TAKEN.decode()}', '1') {DONE}")


class WithoutStep(WithStep):
    def changed(self, script: Script) -> Script:
        return changed(script, IF, "if false then")


def changed(script: Script, old: str, new: str) -> Script:
    assert script.text.count(old) == 1
    text = script.text.replace(old, new)
    return replace(script, text=text, sha=hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class StoreWithStep(StubBackend):
    _made_by = WithStep


class StoreWithoutStep(StubBackend):
    _made_by = WithoutStep


# What is done


@dataclass(frozen=True)
class Op:
    """`what` is done to the run, with more that says how, which not every kind of it needs; and whether the run then
    still `owes` the duties that follow."""

    what: str
    ending: Any = "succeeded"
    onward: bool = True
    touch: bool = False
    of_run: bool = False
    nested: bytes = b""
    attempt: int = 0
    epoch: int = 0
    began: int = 0
    member: int = 0
    back: int = 0
    ms: int = 0
    is_first: bool = True
    acks: bool = True
    owes: bool = False


COMMON = st.builds(Op, st.just("record"), began=st.sampled_from([0, 5]), is_first=st.booleans(), acks=st.booleans())
OTHER = st.one_of(
    st.builds(
        Op,
        st.just("record"),
        ending=st.sampled_from(["succeeded", "failing", "attempted", "working", "dead"]),
        onward=st.booleans(),
        touch=st.booleans(),
        of_run=st.booleans(),
        nested=st.sampled_from([b"", b"plan"]),
        attempt=st.integers(0, 2),
        epoch=st.integers(0, 2),
        began=st.sampled_from([0, 5]),
        member=st.integers(0, 1),
        back=st.integers(0, 1),
        owes=st.booleans(),
    ),
    st.builds(Op, st.sampled_from(["retry", "cancel", "resend", "refuse", "allow", "guard"])),
    st.builds(Op, st.just("time"), ms=st.sampled_from([1, LEASE, 20 * LEASE])),
    st.builds(Op, st.just("sweep")),
)
OPS = st.lists(st.integers(0, 3).flatmap(lambda number: COMMON if number else OTHER), min_size=2, max_size=10)

#: What is said of a stage, of a run, and to `create()`: mostly nothing.
LINE = st.sampled_from(
    [
        *[dict[str, Any]()] * 40,
        *({"many": True}, {"piped": True}, {"name": "a name"}, {"name": "enough=1"}, {"nested": True}),
        *({"limit": 1}, {"limit": 20}, {"enough": 1}, {"allowed": 1}, {"allowed": 0.5}, {"tolerant": True}),
        *({"deadline": LEASE}, {"wait": 10}, {"fail_fast": True}, {"into": "value", "piped": True}),
        *({"total": 2}, {"total": 0}, {"total": None, "mapped": True, "many": True}, {"unknown_flags": "z"}),
    ]
)
SPEC = st.sampled_from(
    [
        *[dict[str, Any]()] * 8,
        *({"timed": True}, {"deadline": 5 * LEASE}, {"parent": Place("parent", 0, 1, 2)}, {"name": "n"}),
        *({"callbacks": {one: (b"row",)}} for one in EVENTS),
    ]
)
MORE = st.sampled_from([*[dict[str, Any]()] * 6, {"keeps": True}, {"claim": "c"}, {"share": 2}])


class Both:
    """Does the same on a store with the step and on one without it."""

    def __init__(self, lines: Sequence[dict[str, Any]], spec: dict[str, Any], more: dict[str, Any]) -> None:
        clock = Clock(at=1_000_000)
        self.stores = StoreWithStep(clock=clock), StoreWithoutStep(clock=clock)
        self.clock, self.numbers, self.held, self.taken = clock, itertools.count(), list[tuple[Duty, Caller]](), 0
        stages, rows = list[StageLine](), list[bytes]()
        for line in lines:
            known = StageLine(len(rows), **{"total": 1, **line})
            rows += [b"row \n\xff"] * (1 if known.mapped else known.total or 0)
            stages.append(known)
        self.plan = Plan(Spec(generation=GENERATION, **spec), tuple(stages), tuple(rows))
        times = {"run_ttl": 10**8, "result_ttl": 10**7, "share": 1_000, **more}
        self.do(lambda store, caller: store.create(RUN, self.plan, caller, **times))
        self.confirm()

    def do(self, call: Any, owner: str = "run:x", *, touch: bool = True) -> Any:
        caller = Caller(owner, self.clock.now(), f"lease-{next(self.numbers)}", LEASE, touch)
        ours, known = [call(store, caller) for store in self.stores]
        is_taken = self.stores[0].keyspace.values.pop(TAKEN, None) is not None
        self.taken += is_taken
        assert ours == known
        kept, expected = [store.keyspace for store in self.stores]
        assert kept.values == expected.values
        assert kept.expires == expected.expires
        if isinstance(ours, Reply):
            self.held += [(duty, caller) for duty in ours.duties]
        return ours

    def ask(self, command: Sequence[Any]) -> None:
        for store in self.stores:
            cast(Any, store.client).execute_command(*command)

    @property
    def present(self) -> int:
        head: Any = self.stores[0].keyspace.values.get(f"dramatiq-clutch:{{{RUN}}}:head".encode(), {})
        return int(head.get(b"stage", 0))

    def confirm(self) -> None:
        held, self.held = self.held, []
        for duty, caller in held:
            self.do(lambda store, _, duty=duty, caller=caller: store.confirm(RUN, duty, caller))

    def op(self, op: Op) -> None:
        match op.what:
            case "record":
                self.record(op)
            case "retry" | "cancel" | "resend":
                self.do(lambda store, caller: getattr(store, op.what)(RUN, caller, generation=GENERATION))
            case "sweep":
                self.do(lambda store, caller: store.sweep(RUN, caller, stalled_after=10 * LEASE), "sweeper")
            case "guard":
                tag = Tag(RUN, self.present, 0, 1, generation=GENERATION)
                self.do(lambda store, caller: store.guard(tag, caller.now, worker="w"))
            case "time":
                self.clock.advance(op.ms)
            case "forget":  # as if a release that counted no turns had stored the run
                self.ask(("HDEL", f"dramatiq-clutch:{{{RUN}}}:head", "turn"))
            case "lose":
                self.ask(("DEL", f"dramatiq-clutch:{{{RUN}}}:members:{self.present}:{GENERATION}"))
            case "refuse" | "allow":
                self.ask(("SET", "refuses", 1) if op.what == "refuse" else ("DEL", "refuses"))

    def record(self, op: Op) -> None:
        stage = max(self.present - op.back, 0)
        line = self.plan.lines[stage]
        place = (RUN, stage, op.member, line.total or 1, op.epoch)
        tag = Tag(*place, batch=line.batch, generation=GENERATION, exact=line.exact)
        tag = tag._replace(timed=self.plan.spec.timed)
        payload = b"result \x00\xff\n" if op.ending == "succeeded" else FAILURE
        began = self.clock.now() - op.began if op.began else 0
        record = Record(tag, op.attempt, op.ending, payload, op.nested, op.of_run, began=began, worker="w")
        along = Along(BROKER, "broker", ["ack", "id"] if op.acks else [], "queue")
        if op.onward:
            duty = SendMembers(stage + 1, 0, 1, generation=GENERATION, line="0 1 -")
            enqueue, fetch = ["enqueue", f"id-{stage + 1}"], ["fetch"]
            along = along._replace(duty=duty, enqueue=enqueue, fetch=fetch, queue="queue", in_queue=enqueue[-1])
        self.ask(("DEL", "queue") if op.is_first else ("RPUSH", "queue", "another"))
        self.do(lambda store, caller: store.record(record, caller, along), tag.owner, touch=op.touch)


def compared(examples: int) -> None:
    @given(lines=st.lists(LINE, min_size=2, max_size=5), spec=SPEC, more=MORE, ops=OPS)
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    def example(lines: list[dict[str, Any]], spec: dict[str, Any], more: dict[str, Any], ops: list[Op]) -> None:
        both = Both(lines, spec, more)
        for op in ops:
            both.op(op)
            if not op.owes:
                both.confirm()
        event(f"taken {both.taken} times")

    example()


IN_PARTS = [pytest.param(1_000, marks=pytest.mark.search, id=f"long, part {part}") for part in range(1, 4)]


@pytest.mark.parametrize("examples", [pytest.param(100, id="short"), *IN_PARTS])
@pytest.mark.timeout(400)  # a find is worth the time that it takes to shrink
def test_it_comes_to_the_same(examples: int) -> None:
    compared(examples)


@pytest.mark.parametrize("spec", [{}, {"parent": Place("parent", 0, 1, 2)}], ids=["a run", "nested"])
@pytest.mark.parametrize("line", [{}, {"piped": True}, {"many": True, "name": "a name"}])
def test_it_is_taken_by_a_series(line: dict[str, Any], spec: dict[str, Any]) -> None:
    both = Both([line] * 4, spec, {})
    for _ in range(3):
        both.op(Op("record"))
    assert both.taken == 3


@pytest.mark.parametrize(
    ("line", "before"),
    [
        ({}, [Op("record", ending="failing"), Op("record", attempt=1)]),
        ({"total": 2, "allowed": 1}, [Op("record", member=1, ending="dead"), Op("record")]),
        ({"total": 2, "allowed": 1}, [Op("record", member=1, ending="failing"), Op("record", member=1), Op("record")]),
    ],
    ids=["failed", "dead", "failed and dead"],
)
def test_what_is_kept_of_the_stage_before_goes_with_it(line: dict[str, Any], before: list[Op]) -> None:
    both = Both([line, {}, {}], {}, {})
    for op in [*before, Op("record")]:
        both.op(op)
        both.confirm()
    assert both.taken == 1
    assert not [key for key in both.stores[0].keyspace.values if b":0:" in key]


@pytest.mark.parametrize("timed", [False, True], ids=["the common step", "the whole transition"])
@pytest.mark.parametrize("is_first", [True, False])
def test_the_next_job_is_fetched_only_if_it_is_the_first_in_its_queue(is_first: bool, timed: bool) -> None:
    both = Both([{}, {}], {"timed": timed}, {})
    both.op(Op("record", is_first=is_first))
    asked: Any = both.stores[0].keyspace.values[b"asked"]
    assert list(asked) == [b"enqueue id-1", *([b"fetch"] if is_first else []), b"ack id"]
    assert both.taken != timed


#: Each makes a difference to the last record: what is said of the stages, of the run and to `create()`, and what was
#: done before.
DIFFERENCES: dict[str, tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any], list[Op]]] = {
    "timings": ([{}, {}], {"timed": True}, {}, []),
    "a deadline of the run": ([{}, {}], {"deadline": LEASE}, {}, []),
    "a deadline of the next stage": ([{}, {"deadline": LEASE}], {}, {}, []),
    "it keeps its results": ([{}, {}, {}], {}, {"keeps": True}, [Op("record")]),
    "the last stage": ([{}], {}, {}, []),
    "two jobs": ([{"total": 2}, {}], {}, {}, []),
    "two jobs follow": ([{}, {"total": 2}], {}, {}, []),
    "a limit": ([{"limit": 1}, {}], {}, {}, []),
    "the next stage waits": ([{}, {"wait": 10}], {}, {}, []),
    "the next stage has a nested run": ([{}, {"nested": True}], {}, {}, []),
    "what was skipped before has nested": (
        [{"total": 2, "enough": 1}, {}, {}],
        {},
        {},
        [Op("record", member=1, nested=b"plan", onward=False), Op("record")],
    ),
    "an earlier attempt": ([{}, {}], {}, {}, [Op("record", ending="attempted")]),
    "it has failed before": ([{}, {}], {}, {}, [Op("record", ending="failing")]),
    "it was dead": ([{}, {}], {}, {}, [Op("record", ending="dead"), Op("retry")]),
    "it was cancelled": ([{}, {}], {}, {}, [Op("cancel")]),
    "it was cancelled, and is back at work": ([{}, {}], {}, {}, [Op("cancel"), Op("retry")]),
    "it has stalled": ([{}, {}, {}], {}, {}, [Op("record"), Op("sweep"), Op("time", ms=20 * LEASE), Op("sweep")]),
    "something is owed": ([{}, {}, {}], {}, {}, [Op("record", onward=False, owes=True)]),
    "a failing run within a run": ([{}, {}], {"parent": Place("p", 0, 1, 2)}, {}, [Op("record", ending="failing")]),
    "it was failing within its parent": (
        [{}, {}, {}],
        {"parent": Place("p", 0, 1, 2)},
        {},
        [Op("record", ending="failing"), Op("record", attempt=1)],
    ),
    "nobody has counted its turns": ([{}, {}], {}, {}, [Op("forget")]),
    "the stage is lost": ([{}, {}], {}, {}, [Op("lose")]),
    "the broker refuses": ([{}, {}], {}, {}, [Op("refuse")]),
}

#: Or it is the last record itself that isn't a common one.
LAST: dict[str, Op] = {
    "an expiry is due": Op("record", touch=True),
    "a nested run tells": Op("record", of_run=True),
    "it has nested runs": Op("record", nested=b"plan"),
    "it is failing": Op("record", ending="failing"),
    "it knows of no next job": Op("record", onward=False),
    "another member": Op("record", member=1),
}


@pytest.mark.parametrize("name", [*DIFFERENCES, *LAST])
def test_it_is_not_taken_where_anything_makes_a_difference(name: str) -> None:
    lines, spec, more, ops = DIFFERENCES.get(name, ([{}, {}], {}, {}, []))
    both = Both(lines, spec, more)
    for op in ops:
        both.op(op)
        if not op.owes:
            both.confirm()
    taken = both.taken
    both.op(LAST.get(name, Op("record", attempt=2)))
    assert both.taken == taken
