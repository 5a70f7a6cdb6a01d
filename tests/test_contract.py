"""What a backend promises: one suite, which every backend runs. The tables have a test for every cell."""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import redis
from dramatiq import Message

from dramatiq_clutch.about import Context
from dramatiq_clutch.backend import LAST, Caller, ClutchBackend, Ending, Occupant, Record, Reply
from dramatiq_clutch.backends import RedisBackend, StubBackend
from dramatiq_clutch.backends.redis.along import Along
from dramatiq_clutch.backends.redis.firings import RedisFirings
from dramatiq_clutch.backends.redis.succeeding import Success
from dramatiq_clutch.errors import DamagedState, ForeignRun, NewerRelease
from dramatiq_clutch.failures import failure_details
from dramatiq_clutch.firings import CallbackStatus, callbacks_of
from dramatiq_clutch.news import News
from dramatiq_clutch.register import Enlisted, Keeping, StageGlance
from dramatiq_clutch.status import RunStatus, StageStatus, status_from
from dramatiq_clutch.stored.attendance import Attendance
from dramatiq_clutch.stored.duties import (
    CallBack,
    Duty,
    OfRange,
    OfStage,
    OpenStage,
    SendAgain,
    SendMembers,
    StartNested,
    Tell,
)
from dramatiq_clutch.stored.entries import label
from dramatiq_clutch.stored.firings import CallbackEnding, Firings
from dramatiq_clutch.stored.formats import Standing
from dramatiq_clutch.stored.messages import row_with_result, to_row
from dramatiq_clutch.stored.owners import SWEEPER
from dramatiq_clutch.stored.places import CallbackTag, Place, Tag
from dramatiq_clutch.stored.plan import COMPLETION, EVENTS, Plan, Spec, StageLine

LEASE = 1_000
TTL = 10_000_000


class Store:
    """A backend with one run in it, and a clock that the test moves.

    Without `touch`, its callers have no need to put the expiry of the run's keys off: then a job's success is recorded
    in the common way, wherever that can be.
    """

    def __init__(self, backend: ClutchBackend) -> None:
        self.backend = backend
        self.run_id = secrets.token_hex(4)
        self.now = 1_000_000
        self.tokens = itertools.count()
        self.touch = True
        self.batch = 0
        self.exact = False
        self.timed = False

    def caller(self, owner: str = "somebody") -> Caller:
        return Caller(owner, self.now, f"lease {next(self.tokens)}", LEASE, self.touch)

    def create(
        self,
        *totals: int | None,
        events: Sequence[str] = ("on_failure",),
        callbacks: int = 1,
        row: bytes = b"row",
        limit: int | None = None,
        waits: Sequence[int | None] = (),
        start_at: int | None = None,
        context: dict[str, Any] | None = None,
        carried: dict[str, Any] | None = None,
        tags: Sequence[str] = (),
        nested: bool = False,
        parent: Place | None = None,
        generation: str = "",
        claim: str = "",
        frees: bool = False,
        keeps: bool = False,
        owner: str = "run:x",
        deadline: int | None = None,
        within: int | None = None,
        timed: bool = False,
        history: int = 0,
        **said: Any,
    ) -> Reply:
        """A run with stages of these sizes (None: mapped), all written with `parallel`; each event has so many
        callbacks, each of them this row. `waits` are those before the first stages. `deadline` is the run's, `within`
        that of its first stage; `said` are other fields of that stage's line."""
        lines, rows = list[StageLine](), 0
        for total, wait in zip(totals, itertools.chain(waits, itertools.repeat(None)), strict=False):
            line = StageLine(rows, total, many=True, mapped=total is None, nested=nested, limit=limit, wait=wait)
            lines.append(line if lines else replace(line, deadline=within, **said))
            rows += 1 if total is None else total
        self.batch, self.exact = (lines[0].batch, lines[0].exact) if lines else (0, False)
        told = dict.fromkeys(events, (row,) * callbacks)
        spec = Spec("name", None, start_at, told, parent=parent, generation=generation, deadline=deadline)
        spec = replace(spec, context=None if context is None else Context(context))
        spec = replace(spec, carried=None if carried is None else Context(carried), timed=timed)
        self.timed = timed
        plan = Plan(spec, tuple(lines), (b"row",) * rows)
        more: dict[str, Any] = {"run_ttl": TTL, "result_ttl": TTL, "claim": claim, "tags": tags}
        more |= {"frees": frees, "keeps": keeps, "history_ttl": history}
        return self.backend.create(self.run_id, plan, self.caller(owner), **more)

    def delete(self, generation: str, *, bury: int | None = None, asks: bool = False) -> Reply:
        caller = self.caller("delete:x")
        return self.backend.delete(self.run_id, caller, generation=generation, bury=bury, asks=asks)

    def record_of(self, generation: str, ending: Ending) -> Reply:
        """How the only member of the first stage of a run of this generation has ended."""
        tag = Tag(self.run_id, 0, 0, 1, generation=generation)
        payload = b"result" if ending == "succeeded" else failure_details(ValueError(ending))
        return self.backend.record(Record(tag, 0, ending, payload), self.caller("delayed"))

    def guard_of(self, generation: str) -> str:
        return self.backend.guard(Tag(self.run_id, 0, 0, 1, generation=generation), self.now)

    def occupant(self) -> Occupant | None:
        (found,) = self.backend.occupants([self.run_id])
        return found

    def expire_head(self) -> None:
        assert isinstance(self.backend, RedisBackend)
        client: Any = self.backend.client
        client.execute_command("DEL", f"{self.backend.namespace}:{{{self.run_id}}}:head")

    def lives(self) -> dict[str, int]:
        """For how long the keys still live that have the plan, the head, and the members of all stages."""
        assert isinstance(self.backend, RedisBackend)
        client: Any = self.backend.client
        begin, found = f"{self.backend.namespace}:{{{self.run_id}}}:", dict[str, int]()
        for part in ("head", "plan", *(f"members:{stage}" for stage in range(5))):
            found[part] = client.execute_command("PTTL", begin + part)
        return found

    def names(self) -> list[str]:
        """The keys that are stored of the run, without what all of them begin with."""
        names: Any
        if isinstance(self.backend, StubBackend):
            names = self.backend.keyspace.values
        else:
            assert isinstance(self.backend, RedisBackend)
            names = self.backend.client.keys("*")
        found = (name.decode().partition(f"{{{self.run_id}}}:") for name in names)
        return [part for _, its, part in found if its]

    def parts(self) -> set[str]:
        """The parts of the keys that are stored of the run."""
        return {name.split(":")[0] for name in self.names()}

    def drop_fields(self, *fields: str) -> None:
        """Leave fields out of the head, as an older release does."""
        assert isinstance(self.backend, RedisBackend)
        client: Any = self.backend.client
        client.execute_command("HDEL", f"{self.backend.namespace}:{{{self.run_id}}}:head", *fields)

    def generations(self) -> dict[str, set[str]]:
        """The generations in which there are keys, by what the rest of the name is."""
        found = dict[str, set[str]]()
        for name in self.names():
            part, _, generation = name.rpartition(":")
            if part:
                found.setdefault(part, set()).add(generation)
        return found

    def lives_of_members(self, stages: Sequence[int]) -> list[int]:
        """For how long the members of these stages still live, in whichever generations they are."""
        assert isinstance(self.backend, RedisBackend)
        client: Any = self.backend.client
        begin = f"{self.backend.namespace}:{{{self.run_id}}}:"
        names = [name for name in self.names() if any(name.startswith(f"members:{stage}:") for stage in stages)]
        return [client.execute_command("PTTL", begin + name) for name in names]

    def record(
        self,
        member: int,
        ending: Ending,
        *,
        stage: int = 0,
        of: int = 3,
        order: tuple[int, int] = (0, 0),
        nested: bytes = b"",
        due: int = 0,
        began: int = 0,
        generation: str = "",
        worker: str = "",
        along: Along | None = None,
        error: Exception | None = None,
    ) -> Reply:
        epoch, attempt = order
        more: dict[str, Any] = {"batch": self.batch, "exact": self.exact, "generation": generation}
        more["timed"] = self.timed
        tag = Tag(self.run_id, stage, member, of, epoch, **more)
        payload = b"%d" % member if ending == "succeeded" else failure_details(error or ValueError(ending))
        record = Record(tag, attempt, ending, payload, nested, due=due, began=began, worker=worker)
        if along is not None:
            assert isinstance(self.backend, RedisBackend)
            return self.backend.record(record, self.caller(tag.owner), along)
        return self.backend.record(record, self.caller(tag.owner))

    def begin(
        self,
        member: int,
        *,
        stage: int = 0,
        of: int = 3,
        order: tuple[int, int] = (0, 0),
        at: int = 0,
        generation: str = "",
        worker: str = "w",
    ) -> str:
        tag = Tag(self.run_id, stage, member, of, order[0], generation=generation, timed=self.timed)
        return self.backend.guard(tag, at or self.now, attempt=order[1], worker=worker)

    def standing(self, members: int) -> list[Standing | None]:
        return list(self.backend.standing(self.run_id, 0, range(members)))

    def owed(self, owner: str) -> Reply:
        return self.backend.owed(self.run_id, self.caller(owner))

    def sweep(self, *, stalled_after: int = LEASE, waits_for_jobs: bool = False) -> str:
        caller = self.caller(SWEEPER)
        reply = self.backend.sweep(self.run_id, caller, stalled_after=stalled_after, waits_for_jobs=waits_for_jobs)
        return reply.word

    def status(self) -> RunStatus:
        snapshot = self.backend.snapshot(self.run_id)
        assert snapshot is not None
        return status_from(self.run_id, snapshot)

    def counts(self) -> tuple[int, int, int]:
        stage = self.status().stages[0]
        return stage.succeeded, stage.failing, stage.dead

    def confirm(self, *duties: Duty) -> list[str]:
        return [
            self.backend.confirm(self.run_id, duty, Caller("somebody", self.now, duty.lease, LEASE)) for duty in duties
        ]

    def holder(self, duty: Duty) -> Caller:
        return Caller("somebody", self.now, duty.lease, LEASE)

    def reopen(self, duty: Duty, done: int = 0) -> tuple[int, list[int]] | None:
        assert isinstance(duty, SendAgain)
        caller = Caller("somebody", self.now, duty.lease, LEASE)
        found = self.backend.reopen(self.run_id, duty, done, caller)
        return found and (found[0], sorted(found[1]))

    def open(self, duty: Duty, total: int) -> Reply:
        assert isinstance(duty, OpenStage)
        return self.backend.open(self.run_id, duty, total, Caller("somebody", self.now, duty.lease, LEASE))


@pytest.fixture(params=[pytest.param("redis", marks=pytest.mark.twice), "memory"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    if request.param == "redis":
        client: redis.Redis = request.getfixturevalue("redis_client")
        yield Store(RedisBackend(client=client))  # after every test, a fixture looks whether all keys expire
    else:
        backend = StubBackend()
        yield Store(backend)
        assert backend.keyspace.values.keys() <= backend.keyspace.expires.keys(), "there are keys without an expiry"


@pytest.fixture(
    params=[
        pytest.param(True, id="in full"),
        pytest.param(False, marks=pytest.mark.twice, id="in the common way"),
    ]
)
def either_way(request: pytest.FixtureRequest, store: Store) -> Store:
    """The store, twice: what a test says holds however a success is recorded."""
    store.touch = request.param
    return store


def kinds(reply: Reply) -> list[str]:
    return [duty.kind for duty in reply.duties]


def members_of(*duties: Duty) -> list[int]:
    """The members that these duties are to send, or to do something to."""
    found: list[int] = []
    for duty in duties:
        assert isinstance(duty, SendMembers | OfRange)
        found += range(duty.start, duty.end)
    return found


# One member: how it stands, and what is recorded of it

#: What was recorded of the member, its (epoch, attempt), and how the stage counts then: succeeded, failing, dead.
STATES: dict[str, tuple[Ending | None, tuple[int, int], tuple[int, int, int]]] = {
    "nothing": (None, (0, 0), (0, 0, 0)),
    "attempted": ("attempted", (1, 1), (0, 0, 0)),
    "failing": ("failing", (1, 1), (0, 1, 0)),
    "dead": ("dead", (1, 1), (0, 0, 1)),
    "succeeded": ("succeeded", (1, 1), (1, 0, 0)),
}
COUNTS = {"succeeded": (1, 0, 0), "attempted": (0, 0, 0), "failing": (0, 1, 0), "dead": (0, 0, 1)}
ORDERS = {
    "an earlier epoch": (0, 5),
    "an earlier attempt": (1, 0),
    "the same attempt": (1, 1),
    "a later attempt": (1, 2),
    "a later epoch": (2, 0),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("ending", COUNTS)
@pytest.mark.parametrize("state", STATES)
def test_a_member_that_stands_as(store: Store, state: str, ending: Ending, order: str) -> None:
    before, order_before, counts_before = STATES[state]
    store.create(3)
    if before is not None:
        store.record(0, before, order=order_before)
    assert store.counts() == counts_before

    reply = store.record(0, ending, order=ORDERS[order])

    if state == "succeeded":
        expected = "duplicate"
    elif ending == "succeeded" or state == "nothing" or ORDERS[order] > order_before:
        expected = "counts"
    else:
        expected = "stale"
    assert reply.word == expected
    assert store.counts() == (COUNTS[ending] if expected == "counts" else counts_before)


# One run: what a record finds


def test_a_record_of_a_run_that_is_not_there_is_unknown(either_way: Store) -> None:
    store = either_way
    assert store.record(0, "succeeded") == Reply("unknown")


@pytest.mark.parametrize("ending", COUNTS)
def test_a_record_of_a_stage_that_is_over_changes_nothing(either_way: Store, ending: Ending) -> None:
    store = either_way
    store.create(1, 2)
    store.record(0, "succeeded", of=1)
    before = store.status()
    assert store.record(0, ending, of=1, order=(5, 5)).word == "over"
    assert store.status() == before


@pytest.mark.parametrize("ending", COUNTS)
def test_a_record_of_a_run_that_has_succeeded_changes_nothing(either_way: Store, ending: Ending) -> None:
    store = either_way
    store.confirm(*store.create(1).duties)
    store.record(0, "succeeded", of=1)
    before = store.status()
    assert before.state == "succeeded"
    assert store.record(0, ending, of=1, order=(5, 5)).word == "over"
    assert store.status() == before


def test_a_record_of_a_stage_that_has_not_begun_is_unknown(store: Store) -> None:
    store.create(1, 1)
    assert store.record(0, "succeeded", stage=1, of=1).word == "unknown"
    assert store.status().stages[1].state == "waiting"


def test_a_place_beyond_the_end_of_the_stage_is_refused(store: Store) -> None:
    store.create(2)
    for member in (2, 7):
        assert store.record(member, "succeeded", of=99).word == "refused"
    assert store.counts() == (0, 0, 0)


# Release


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_stage_is_released_once_by_the_record_that_completes_it(either_way: Store, order: tuple[int, ...]) -> None:
    store = either_way
    store.confirm(*store.create(3, 2).duties)
    replies = [store.record(member, "succeeded") for member in order]
    assert [kinds(reply) for reply in replies] == [[], [], ["send"]]
    (duty,) = replies[-1].duties
    assert (duty.id, duty.repeated) == ("send:1:0:2", False)
    for member in order:
        again = store.record(member, "succeeded")
        assert again.word == "over"
        assert [(duty.kind, duty.repeated) for duty in again.duties] in (
            [],
            [("send", True)],
        )  # its owner may ask again


def test_results_stay_in_written_order_and_the_first_one_wins(either_way: Store) -> None:
    store = either_way
    store.create(3, 1)
    for member in (2, 0):
        store.record(member, "succeeded")
    tag = Tag(store.run_id, 0, 2, 3)
    store.backend.record(Record(tag, 1, "succeeded", b"second"), store.caller(tag.owner))
    store.record(1, "succeeded")
    assert list(store.backend.results(store.run_id, 0, 0, 3)) == [b"S0", b"S1", b"S2"]


def test_results_are_dropped_when_nothing_can_read_them_any_more(store: Store) -> None:
    store.create(1, 1, 1)
    store.record(0, "succeeded", of=1)
    assert list(store.backend.results(store.run_id, 0, 0, 1)) == [b"S0"]
    store.record(0, "succeeded", stage=1, of=1)
    assert list(store.backend.results(store.run_id, 0, 0, 1)) == [None]
    assert list(store.backend.results(store.run_id, 1, 0, 1)) == [b"S0"]


@pytest.mark.parametrize("ends_well", [True, False])
def test_a_run_that_keeps_its_results_has_those_of_all_stages_as_long_as_it_lives(
    either_way: Store, ends_well: bool
) -> None:
    store = either_way
    store.create(2, 1, None, 1, 2, events=("on_finish",), keeps=True)
    assert store.backend.keeps(store.run_id)
    assert not store.backend.keeps(store.run_id, generation="76543210")
    store.record(0, "dead", of=2)
    store.record(1, "succeeded", of=2)
    store.backend.retry(store.run_id, store.caller("retry:1"))
    for stage, of in enumerate((2, 1, 3, 1)):
        store.now += 1_000
        for duty in store.owed("run:x").duties + store.owed("0.0").duties:
            if isinstance(duty, OpenStage):
                store.open(duty, of)
        for member in range(of):
            store.record(member, "succeeded", stage=stage, of=of, order=(1, 0))
    store.now += 10 * LEASE
    for duty in store.owed(SWEEPER).duties:
        if isinstance(duty, OpenStage):
            store.open(duty, 3)
    for stage in (2, 3):
        for member in range(3 if stage == 2 else 1):
            store.record(member, "succeeded", stage=stage, of=3 if stage == 2 else 1, order=(1, 0))
    assert store.status().stages[3].state == "succeeded"
    for member in range(2):
        store.record(member, "succeeded" if ends_well else "dead", stage=4, of=2, order=(1, 0))
    for _ in range(3):
        store.now += 2 * LEASE
        for duty in store.owed(SWEEPER).duties:
            store.confirm(duty)
    assert store.status().state == ("succeeded" if ends_well else "failed")
    found = [list(store.backend.results(store.run_id, stage, 0, of)) for stage, of in enumerate((2, 1, 3, 1))]
    assert found == [[b"S0", b"S1"], [b"S0"], [b"S0", b"S1", b"S2"], [b"S0"]]
    assert len(store.backend.rows(store.run_id, 0, 9)) == 7
    assert store.backend.spec(store.run_id) is not None
    lives = store.lives()
    assert max(lives.values()) - min(lives.values()) < 60_000, lives
    assert store.delete("").word == "deleted"
    assert store.parts() <= {"past"}


def test_what_a_run_keeps_of_earlier_stages_is_put_off_with_the_run(store: Store) -> None:
    """No script has the keys of stages before the last two, so the store does that after the script."""
    assert isinstance(store.backend, RedisBackend)
    store.confirm(*store.create(1, 1, 1, 1, events=(), keeps=True).duties)
    for stage in range(3):
        store.confirm(*store.record(0, "succeeded", stage=stage, of=1).duties)
    client: Any = store.backend.client
    name = f"{store.backend.namespace}:{{{store.run_id}}}:members:0"
    assert client.execute_command("PEXPIRE", name, 5_000) == 1
    store.record(0, "failing", stage=3, of=1)
    assert client.execute_command("PTTL", name) > TTL // 2


def test_an_empty_stage_completes_at_once_and_a_mapped_one_waits_to_be_opened(store: Store) -> None:
    (first,) = store.create(0, None, 1).duties
    assert first.kind == "open"
    reply = store.open(first, 0)
    assert [duty.id for duty in reply.duties] == ["open:1"]
    assert store.status().stages[1].total is None
    reply = store.open(reply.duties[0], 2)
    assert [duty.id for duty in reply.duties] == ["send:1:0:2"]
    assert store.status().stages[1].total == 2


def test_an_empty_run_has_succeeded(store: Store) -> None:
    assert store.create().duties == ()
    assert store.status().state == "succeeded"


def test_creating_twice_makes_one_run(store: Store) -> None:
    plan = Plan(Spec(), (StageLine(0, 1),), (b"row",))
    mine, other = store.caller("run:mine"), store.caller("run:other")
    replies = [
        store.backend.create(store.run_id, plan, who, run_ttl=TTL, result_ttl=TTL) for who in (mine, mine, other)
    ]
    assert [reply.word for reply in replies] == ["created", "created", "exists"]
    assert [kinds(reply) for reply in replies] == [["send"], ["send"], []]


# What is said about a run


def test_the_context_of_a_run_is_kept_for_as_long_as_its_status(store: Store) -> None:
    backend = store.backend
    assert backend.context(store.run_id) is None
    store.create(1, context={"a": [1]}, generation="76543210")
    for generation in ("", "76543210"):
        assert backend.context(store.run_id, generation=generation) == b'{"a":[1]}'
    assert backend.context(store.run_id, generation="01234567") is None  # of another run that has had the id
    duties = store.owed("run:x").duties
    store.confirm(*duties)
    store.record(0, "succeeded", of=1, generation="76543210")
    assert store.status().state == "succeeded"
    assert backend.spec(store.run_id) is None or duties
    assert backend.context(store.run_id) == b'{"a":[1]}'


def test_a_snapshot_has_no_context_which_may_be_large(store: Store) -> None:
    store.create(1, context={"a": "secret"})
    snapshot = store.backend.snapshot(store.run_id)
    assert snapshot is not None
    assert "context" not in snapshot["head"]
    assert "secret" not in str(snapshot)


def test_a_run_without_a_context_has_an_empty_one(store: Store) -> None:
    store.create(1)
    assert store.backend.context(store.run_id) == b""


def test_the_spec_of_a_run_tells_whether_it_has_a_context(store: Store) -> None:
    found = []
    for context in (None, {"a": 1}):
        store.run_id = f"run-{context is None}"
        store.create(1, context=context)
        found.append(Spec.from_bytes(store.backend.spec(store.run_id) or b"").context)
    assert found == [None, Context()]


def test_what_a_runs_messages_carry_comes_along_with_the_duty_to_send_them(store: Store) -> None:
    for carried in (None, {"correlation_id": "f00", "more": [1, None]}):
        store.run_id = f"run-{carried is None}"
        reply = store.create(1, 1, carried=carried)
        (duty,) = [duty for duty in reply.duties if isinstance(duty, SendMembers)]
        assert Spec.from_bytes(duty.spec).carried == carried
        assert Spec.from_bytes(store.backend.spec(store.run_id) or b"").carried == carried


def test_tags_are_shown_in_a_status_and_in_what_callbacks_get(store: Store) -> None:
    store.create(1, tags=["a", "b c"], events=("on_finish",))
    assert store.status().tags == ("a", "b c")
    (duty,) = store.record(0, "succeeded", of=1).duties
    assert isinstance(duty, CallBack)
    assert duty.snapshot is not None
    assert status_from(store.run_id, duty.snapshot).tags == ("a", "b c")
    store.run_id = "without"
    store.create(1)
    assert "tags" not in (store.backend.snapshot(store.run_id) or {})["head"]  # as in runs of older releases
    assert store.status().tags == ()


# Waits


def begins(duty: Duty | OfStage) -> int | None:
    """When the stage of a duty begins, if that is later than now."""
    assert isinstance(duty, OfStage)
    return StageLine.parse(duty.line).start_at


def test_a_stage_with_a_wait_begins_so_long_after_the_record_that_releases_it(either_way: Store) -> None:
    store = either_way
    store.confirm(*store.create(2, 2, 1, waits=(None, 500)).duties)
    store.record(0, "succeeded", of=2)
    store.now += 100
    released = store.now
    (duty,) = store.record(1, "succeeded", of=2).duties
    assert (duty.id, begins(duty)) == ("send:1:0:2", released + 500)
    store.now += LEASE
    (again,) = store.owed("sweeper").duties
    assert (again.id, begins(again)) == ("send:1:0:2", released + 500)  # whoever sends it, and however late
    store.confirm(again)
    store.record(0, "succeeded", stage=1, of=2)
    (duty,) = store.record(1, "succeeded", stage=1, of=2).duties
    assert (duty.id, begins(duty)) == ("send:2:0:1", None)


def test_the_wait_of_a_first_stage_comes_on_top_of_the_delay_of_its_run(store: Store) -> None:
    start_at = store.now + 2_000
    (duty,) = store.create(1, waits=[500], start_at=start_at).duties
    assert begins(duty) == start_at + 500


def test_a_first_stage_without_a_wait_has_the_delay_of_its_run_and_no_more(store: Store) -> None:
    (duty,) = store.create(1, start_at=store.now + 2_000).duties
    assert begins(duty) is None


def test_a_mapped_stage_waits_once(store: Store) -> None:
    (opens,) = store.create(None, waits=[500]).duties
    began = store.now
    store.now += 100
    (sends,) = store.open(opens, 3).duties
    assert [begins(opens), begins(sends)] == [began + 500] * 2


def test_the_stage_behind_one_without_members_waits_in_its_place(store: Store) -> None:
    (first,) = store.create(None, 0, 1, 1, waits=(500, None, 300)).duties
    began = store.now
    (second,) = store.open(first, 0).duties
    assert (second.id, begins(second)) == ("open:1", began + 500)
    (third,) = store.open(second, 0).duties
    assert (third.id, begins(third)) == ("send:2:0:1", began + 800)
    store.confirm(third)
    (fourth,) = store.record(0, "succeeded", stage=2, of=1).duties
    assert begins(fourth) is None  # not where somebody's clock is ahead


def test_a_stage_does_not_wait_again_after_a_retry_or_a_cancel(store: Store) -> None:
    (duty,) = store.create(2, waits=[500]).duties
    began = store.now
    store.confirm(duty)
    store.now += 1_000
    for member in (0, 1):
        store.record(member, "dead", of=2)
    for verb in ("retry", "cancel", "retry", "resend"):
        reply = getattr(store.backend, verb)(store.run_id, store.caller(f"{verb}:x"))
        stages = [one for one in reply.duties if isinstance(one, OfStage) and not isinstance(one, CallBack)]
        assert stages or verb == "cancel"
        assert [begins(one) for one in stages] == [began + 500] * len(stages)
        store.confirm(*(one for one in reply.duties if not isinstance(one, SendAgain)))


def test_a_run_that_waits_is_not_stalled_and_lives_for_longer(either_way: Store) -> None:
    store = either_way
    store.confirm(*store.create(1, 1, events=(), waits=(None, 5 * TTL)).duties)
    (duty,) = store.record(0, "succeeded", of=1).duties
    due = store.now + 5 * TTL
    for part in ("members:1", "outbox"):
        assert 5.9 * TTL < time_left(store.backend, f"{store.backend.namespace}:{{{store.run_id}}}:{part}") <= 6 * TTL
    store.confirm(duty)
    assert store.sweep() == "works"
    store.now = due - 1
    assert store.sweep() == "works"
    store.now = due
    assert store.sweep() == "stalled"


def test_a_stage_that_waits_is_not_told_ahead(store: Store) -> None:
    """Whoever does the job before it could send it in the same step, and doesn't know yet when it begins."""
    ahead = []
    for wait in (None, 500):
        store.run_id = f"run-{wait}"
        store.confirm(*store.create(1, 1, 1, waits=(None, None, wait)).duties)
        (duty,) = store.record(0, "succeeded", of=1).duties
        assert isinstance(duty, SendMembers)
        ahead.append(duty.ahead and duty.ahead.id)
    assert ahead == ["send:2:0:1", None]


# The alarm


def test_the_alarm_rings_once_when_all_have_had_an_attempt_and_one_is_failing(either_way: Store) -> None:
    store = either_way
    store.confirm(*store.create(3, 1).duties)
    assert kinds(store.record(0, "failing")) == []
    assert kinds(store.record(1, "attempted")) == []
    reply = store.record(2, "succeeded")
    assert kinds(reply) == ["on_failure"]
    (duty,) = reply.duties
    assert isinstance(duty, CallBack)
    assert duty.snapshot is not None
    status = status_from(store.run_id, duty.snapshot)
    assert status.state == "failing"
    assert [(failure.index, failure.exception_text) for failure in status.failures] == [(0, "failing")]
    assert kinds(store.record(1, "failing", order=(0, 1))) == []


def test_the_alarm_does_not_ring_for_a_stage_that_was_healed_before(either_way: Store) -> None:
    store = either_way
    store.confirm(*store.create(2, 1).duties)
    store.record(0, "failing", of=2)
    store.record(0, "succeeded", of=2, order=(0, 1))
    assert kinds(store.record(1, "succeeded", of=2)) == ["send"]


def test_a_run_fails_when_all_are_settled_and_one_is_dead_and_heals_when_it_succeeds_after_all(
    either_way: Store,
) -> None:
    store = either_way
    store.confirm(*store.create(2).duties)
    store.confirm(*store.record(0, "dead", of=2).duties)
    assert store.status().state == "failing"
    store.confirm(*store.record(1, "succeeded", of=2).duties)
    assert store.status().state == "failed"
    store.record(0, "succeeded", of=2)
    assert store.status().state == "succeeded"


# Duties and leases


def test_a_duty_is_given_to_its_owner_at_once_and_to_others_when_its_lease_has_lapsed(store: Store) -> None:
    store.create(1)

    def given(owner: str) -> list[bool]:
        return [duty.repeated for duty in store.backend.owed(store.run_id, store.caller(owner)).duties]

    assert given("run:x") == [True]
    assert given("sweeper") == []
    store.now += LEASE
    assert given("sweeper") == [True]
    assert given("somebody else") == []


def test_confirming_names_the_lease_so_a_sleeper_confirms_nobody_elses(store: Store) -> None:
    (mine,) = store.create(1).duties
    store.now += LEASE
    (theirs,) = store.backend.owed(store.run_id, store.caller("sweeper")).duties
    assert store.confirm(mine) == ["lost"]
    assert store.confirm(theirs) == ["confirmed"]
    assert store.confirm(theirs) == ["lost"]


def test_a_cursor_is_kept_and_renews_the_lease(store: Store) -> None:
    (duty,) = store.create(500).duties
    store.now += LEASE - 1
    caller = Caller("x", store.now, duty.lease, LEASE)
    assert store.backend.confirm(store.run_id, duty, caller, cursor=400) == "confirmed"
    store.now += LEASE - 1
    assert store.backend.owed(store.run_id, store.caller("sweeper")).duties == ()
    store.now += 1
    (again,) = store.backend.owed(store.run_id, store.caller("sweeper")).duties
    assert (again.cursor, again.repeated) == (400, True)


def test_what_is_owed_survives_a_lost_reply(store: Store) -> None:
    store.confirm(*store.create(1, 1).duties)
    store.record(0, "succeeded", of=1)  # and its reply is lost
    assert kinds(store.record(0, "succeeded", of=1)) == ["send"]


@pytest.mark.parametrize("stages", [(3, 1), (3,)])
def test_a_duty_to_send_what_is_over_is_dropped(either_way: Store, stages: tuple[int, ...]) -> None:
    """Its messages were sent, or nothing could have come back; that was just never confirmed."""
    store = either_way
    (unconfirmed,) = store.create(*stages, events=()).duties
    for member in range(3):
        store.record(member, "succeeded")
    store.now += LEASE
    assert [duty.id for duty in store.backend.owed(store.run_id, store.caller()).duties] == ["send:1:0:1"][
        : len(stages) - 1
    ]
    caller = Caller("x", store.now, unconfirmed.lease, LEASE)
    assert store.backend.fail(store.run_id, unconfirmed, failure_details(LookupError("gone")), caller) == Reply("lost")
    assert store.confirm(unconfirmed) == ["lost"]
    assert store.status().state == ("running" if len(stages) == 2 else "succeeded")
    assert len(store.backend.rows(store.run_id, 0, 1)) == len(stages) - 1


def test_a_duty_that_cannot_be_done_fails_the_run(store: Store) -> None:
    (duty,) = store.create(1).duties
    caller = Caller("x", store.now, duty.lease, LEASE)
    reply = store.backend.fail(store.run_id, duty, failure_details(LookupError("nobody")), caller)
    assert reply.word == "failed"
    status = store.status()
    assert status.state == "failed"
    assert status.error is not None
    assert status.error.exception_text == "nobody"


# The index


def test_the_index_tells_each_run_that_is_due_and_puts_it_down_for_later(store: Store) -> None:
    store.create(1)
    assert store.backend.due(store.now, store.now + 99, 10) == []
    assert [store.backend.count_due(store.now + after) for after in (LEASE - 1, LEASE, LEASE)] == [0, 1, 1]
    assert store.backend.due(store.now + LEASE, store.now + 3 * LEASE, 10) == [store.run_id]
    assert store.backend.count_due(store.now + LEASE) == 0
    assert store.backend.due(store.now + LEASE, store.now + 3 * LEASE, 10) == []
    store.backend.look_again(store.run_id, None, run_ttl=TTL)
    assert store.backend.due(store.now + 9 * LEASE, store.now + 10 * LEASE, 10) == []


def test_workers_that_have_told_of_themselves_are_there_for_a_while(store: Store) -> None:
    one, two = Attendance("host:1", "id", ("a", "b")), Attendance("host:2", "", ())
    backend, whose = store.backend, "application"
    backend.attend(one, store.now + 100, store.now, application=whose)
    backend.attend(two, store.now + 200, store.now, application=whose)
    assert set(backend.attending(store.now + 99, application=whose)) == {one, two}
    assert list(backend.attending(store.now + 100, application=whose)) == [two]
    assert list(backend.attending(store.now, application="another")) == []
    backend.attend(two, store.now, store.now, application=whose)  # it leaves
    assert list(backend.attending(store.now, application=whose)) == [one]
    backend.attend(two, store.now + 300, store.now + 100, application=whose)  # which lets go of the other one
    assert list(backend.attending(store.now, application=whose)) == [two]


# Nested runs


def child(store: Store, ending: Ending, revision: int, *, member: int = 0, epoch: int = 0, began: int = 0) -> Reply:
    tag = Tag(store.run_id, 0, member, member + 1, epoch)
    payload = b"%d" % member if ending == "succeeded" else failure_details(ValueError(ending))
    record = Record(tag, revision, ending, payload, of_run=True, began=began)
    return store.backend.record(record, store.caller(f"told {revision}"))


@pytest.mark.parametrize("now", ["working", "attempted", "failing", "dead"])
@pytest.mark.parametrize("before", ["working", "attempted", "failing", "dead"])
def test_of_a_nested_runs_words_the_latest_revision_counts(store: Store, before: Ending, now: Ending) -> None:
    store.create(2)
    child(store, before, 5)
    assert child(store, now, 4).word == "stale"
    assert child(store, now, 5).word == "stale"
    assert child(store, now, 6).word == "counts"
    assert store.counts() == COUNTS.get(now, (0, 0, 0))
    assert child(store, "succeeded", 1).word == "counts"
    assert child(store, "dead", 9).word == "duplicate"


def test_a_run_that_is_gone_is_dead_until_the_next_epoch(store: Store) -> None:
    store.create(2)
    child(store, "failing", 5)
    assert child(store, "dead", LAST).word == "counts"
    assert child(store, "failing", 6).word == "stale"
    store.backend.retry(store.run_id, store.caller())
    assert child(store, "failing", 1, epoch=1).word == "counts"


def test_a_job_that_nests_is_replaced_by_its_runs(either_way: Store) -> None:
    store = either_way
    store.create(2)
    tag = Tag(store.run_id, 0, 0, 2)
    for attempt, word in ((0, "counts"), (1, "duplicate")):
        record = Record(tag, attempt, "succeeded", b"", nested=b"plan %d" % attempt)
        reply = store.backend.record(record, store.caller(tag.owner))
        assert reply.word == word
        assert [duty.id for duty in reply.duties] == ["start:0:0"]
    assert dict(store.backend.nested(store.run_id, 0, [0, 1])) == {0: b"plan 0"}
    assert store.backend.guard(tag, store.now) == "done"
    assert store.record(0, "dead", of=2, order=(9, 9)).word == "duplicate"
    assert store.counts() == (0, 0, 0)
    assert child(store, "succeeded", 1).word == "counts"
    assert store.counts() == (1, 0, 0)


def test_a_nested_run_tells_its_parent_whenever_it_stands_otherwise(either_way: Store) -> None:
    store = either_way
    lines = (StageLine(0, 2, many=True), StageLine(2, 1))
    spec = Spec(parent=Place("parent", 0, 0))
    store.backend.create(
        store.run_id, Plan(spec, lines, (b"row",) * 3), store.caller("start"), run_ttl=TTL, result_ttl=TTL
    )

    def told(reply: Reply) -> list[str]:
        found = [duty for duty in reply.duties if isinstance(duty, Tell)]
        store.confirm(*reply.duties)
        return [f"{duty.revision} {duty.snapshot['head']['told']}" for duty in found if duty.snapshot]

    assert told(store.record(0, "failing", of=2)) == []
    assert told(store.record(1, "failing", of=2)) == ["1 failing"]
    assert told(store.record(0, "succeeded", of=2)) == []
    assert told(store.record(1, "succeeded", of=2)) == ["2 attempted"]
    assert told(store.record(0, "dead", stage=1, of=1)) == ["3 dead"]
    assert told(store.backend.retry(store.run_id, store.caller())) == ["4 working"]
    assert told(store.record(0, "succeeded", stage=1, of=1)) == ["5 succeeded"]


@pytest.mark.parametrize("works_again", [False, True], ids=["nothing to retry", "another member is dead"])
def test_a_run_that_a_parent_revives_tells_it_again_how_it_stands(store: Store, works_again: bool) -> None:
    """A parent that was cancelled hasn't heard of it, and takes all that it revives for open."""
    plan = Plan(Spec(parent=Place("parent", 0, 0)), (StageLine(0, 2, many=True),), (b"row",) * 2)
    store.backend.create(store.run_id, plan, store.caller("start"), run_ttl=TTL, result_ttl=TTL)

    def told(since: int | None) -> tuple[str, list[str]]:
        reply = store.backend.retry(store.run_id, store.caller(f"retry:{since}"), since=since)
        store.confirm(*reply.duties)
        found = [duty.snapshot["head"]["told"] for duty in reply.duties if isinstance(duty, Tell) and duty.snapshot]
        return reply.word, found

    assert told(1) == ("nothing", [])  # it is open
    store.record(0, "failing", of=2)
    store.confirm(*store.record(1, "failing", of=2).duties)
    if works_again:
        store.record(1, "dead", of=2, order=(0, 1))
        assert told(2) == ("retried", ["attempted"])
    else:
        assert told(2) == ("nothing", ["failing"])
        assert told(None) == ("nothing", [])
    store.record(1, "attempted", of=2, order=(3, 0))
    store.confirm(*store.record(0, "attempted", of=2, order=(3, 0)).duties)
    assert told(3) == ("nothing", ["attempted"])


def test_a_newer_word_takes_the_place_of_one_that_is_not_yet_told(store: Store) -> None:
    plan = Plan(Spec(parent=Place("parent", 0, 0)), (StageLine(0, 1),), (b"row",))
    store.backend.create(store.run_id, plan, store.caller("start"), run_ttl=TTL, result_ttl=TTL)
    (older,) = store.record(0, "failing", of=1).duties
    (newer,) = store.record(0, "succeeded", of=1, order=(0, 1)).duties
    assert (older.id, newer.id) == ("tell:1", "tell:2")
    assert store.confirm(older) == ["lost"]
    assert store.confirm(newer) == ["ends"]


# Cancel and retry


def test_nothing_counts_in_a_cancelled_run_but_that_a_nested_run_has_succeeded(either_way: Store) -> None:
    store = either_way
    store.create(3, 1)
    store.record(0, "succeeded")
    assert store.backend.cancel(store.run_id, store.caller("cancel:1")).word == "cancelled"
    assert store.backend.cancel(store.run_id, store.caller("cancel:1")).word == "cancelled"  # its reply was lost
    assert store.backend.cancel(store.run_id, store.caller("cancel:2")).word == "over"
    for ending in COUNTS:
        assert store.record(1, ending, order=(3, 3)).word == "over"  # type: ignore[arg-type]
    assert child(store, "dead", 7, member=2).word == "over"
    assert child(store, "succeeded", 8, member=2).word == "counts"
    assert store.counts() == (2, 0, 0)
    assert store.status().state == "cancelled"


def test_a_late_record_of_a_cancelled_run_takes_what_nobody_does(store: Store) -> None:
    store.confirm(*store.create(1, events=("on_finish",)).duties)
    store.backend.cancel(store.run_id, store.caller("cancel"))
    store.now += LEASE
    reply = store.record(0, "succeeded", of=1)
    assert (reply.word, kinds(reply)) == ("over", ["on_finish"])


def test_a_cancelled_run_owes_nothing_that_would_send_or_start_anything(store: Store) -> None:
    (duty,) = store.create(3, events=("on_finish",)).duties
    reply = store.backend.cancel(store.run_id, store.caller("cancel:1"))
    assert kinds(reply) == ["on_finish"]
    assert store.confirm(duty) == ["lost"]


def test_a_retry_begins_an_epoch_for_the_dead_and_rearms_the_alarms(either_way: Store) -> None:
    store = either_way
    store.confirm(*store.create(3, events=("on_failure", "on_death", "on_failed", "on_finish")).duties)
    store.record(0, "succeeded")
    store.record(1, "attempted")
    store.record(1, "succeeded", order=(0, 1))
    died = store.record(2, "dead", order=(0, 4))
    assert kinds(died) == ["on_failure", "on_death", "on_failed", "on_finish"]
    store.confirm(*died.duties)
    reply = store.backend.retry(store.run_id, store.caller("retry:1"))
    assert (reply.word, [duty.id for duty in reply.duties]) == ("retried", ["retry:0:1:1"])
    assert store.backend.standing(store.run_id, 0, range(3)) == ["succeeded", "succeeded", "waiting"]
    assert store.reopen(reply.duties[0]) == (1, [2])
    assert store.backend.standing(store.run_id, 0, range(3)) == ["succeeded", "succeeded", "working"]
    assert store.record(2, "dead", order=(0, 4)).word == "stale"
    assert kinds(store.record(2, "dead", order=(1, 0))) == ["on_failure", "on_death", "on_failed", "on_finish"]


def test_a_retry_sends_what_there_is_room_for_and_nothing_twice(either_way: Store) -> None:
    store = either_way

    def sent(reply: Reply) -> list[str]:
        found = []
        for duty in reply.duties:
            if duty.kind == "retry":
                done = 0
                while some := store.reopen(duty, done):
                    found.append(f"again {some[1]}")
                    done += 1
            else:
                found.append(duty.id)
                store.confirm(duty)
        return found

    assert sent(store.create(5, limit=2)) == ["send:0:0:2"]
    assert sent(store.record(1, "dead", of=5)) == ["send:0:2:3"]
    assert sent(store.backend.retry(store.run_id, store.caller())) == []  # there is no room
    assert sent(store.record(2, "succeeded", of=5)) == ["again [1]"]
    assert sent(store.record(0, "failing", of=5)) == []  # it holds its place until it is settled
    assert sent(store.record(0, "dead", of=5, order=(0, 1))) == ["send:0:3:4"]
    assert sent(store.backend.retry(store.run_id, store.caller())) == []  # 1 and 3 are on their way
    assert sent(store.record(3, "succeeded", of=5)) == ["again [0]"]
    assert sent(store.record(1, "succeeded", of=5, order=(1, 0))) == ["send:0:4:5"]


def test_what_a_retry_was_given_it_gets_again_until_it_is_sent(store: Store) -> None:
    store.confirm(*store.create(3).duties)
    for member in range(3):
        store.confirm(*store.record(member, "dead").duties)
    (duty,) = store.backend.retry(store.run_id, store.caller("retry:1")).duties
    assert store.reopen(duty) == store.reopen(duty) == (1, [0, 1, 2])
    store.now += LEASE
    (taken,) = store.backend.owed(store.run_id, store.caller("sweeper")).duties
    assert store.reopen(duty) is None  # the lease has passed to somebody else
    assert store.reopen(taken) == (1, [0, 1, 2])
    store.record(1, "dead", order=(1, 0))
    assert store.backend.retry(store.run_id, store.caller("retry:2")).duties == ()  # the one at work takes it along
    assert store.reopen(taken, 1) == (2, [1])
    assert store.reopen(taken, 2) is None
    assert store.backend.owed(store.run_id, store.caller("sweeper")).word == "clear"


@pytest.mark.heavy
def test_a_retry_of_many_visits_some_at_a_time(store: Store) -> None:
    store.confirm(*store.create(1_100).duties)
    for member in range(1_100):
        store.record(member, "dead", of=1_100)
    (duty,) = store.backend.retry(store.run_id, store.caller("retry:1")).duties
    chunks = [store.reopen(duty, done) for done in range(3)]
    assert [len(chunk[1]) if chunk else 0 for chunk in chunks] == [1_000, 100, 0]
    assert sorted(member for chunk in chunks if chunk for member in chunk[1]) == list(range(1_100))


def test_a_retry_of_a_cancelled_run_takes_all_up_that_has_not_succeeded(either_way: Store) -> None:
    store = either_way
    store.confirm(*store.create(3).duties)
    store.record(0, "succeeded")
    store.record(1, "failing")
    store.backend.cancel(store.run_id, store.caller("cancel:1"))
    reply = store.backend.retry(store.run_id, store.caller("retry:1"))
    assert [duty.id for duty in reply.duties] == ["resume:0:0:3:1", "retry:0:1:1"]
    assert store.backend.standing(store.run_id, 0, range(3)) == ["succeeded", "waiting", None]
    assert store.status().state == "running"
    for member in (1, 2):
        reply = store.record(member, "succeeded", order=(1, 0))
    assert store.status().state == "succeeded"


def test_a_run_that_its_parent_has_cancelled_before_it_began_does_not_begin(store: Store) -> None:
    assert store.backend.cancel(store.run_id, store.caller(), bury=2).word == "unknown"
    for epoch, word in ((0, "exists"), (2, "exists"), (3, "created")):
        plan = Plan(Spec(parent=Place("parent", 0, 0, epoch)), (StageLine(0, 1),), (b"row",))
        reply = store.backend.create(store.run_id, plan, store.caller(f"{epoch}"), run_ttl=TTL, result_ttl=TTL)
        assert reply.word == word
        if word == "exists":  # in name only: nothing is owed, no callback either
            assert not reply.duties
            assert store.backend.snapshot(store.run_id) is None
    assert store.backend.cancel(store.run_id, store.caller(), bury=2).word == "over"  # it was revived since
    assert store.backend.cancel(store.run_id, store.caller("x"), bury=3).word == "cancelled"


def test_a_failed_duty_is_owed_again_by_a_retry(store: Store) -> None:
    (duty,) = store.create(1).duties
    caller = Caller("run:x", store.now, duty.lease, LEASE)
    store.confirm(*store.backend.fail(store.run_id, duty, failure_details(LookupError("nobody")), caller).duties)
    store.now += 10 * LEASE
    assert store.backend.owed(store.run_id, store.caller()) == Reply("clear", note="rests")
    reply = store.backend.retry(store.run_id, store.caller("retry:1"))
    assert [(duty.id, duty.repeated) for duty in reply.duties] == [("send:0:0:1", True)]
    assert store.status().state == "running"
    assert store.status().error is None


def test_a_tolerant_stage_is_complete_when_all_are_settled(either_way: Store) -> None:
    store = either_way
    lines = (StageLine(0, 2, many=True, tolerant=True), StageLine(2, 1))
    store.backend.create(store.run_id, Plan(Spec(), lines, (b"row",) * 3), store.caller(), run_ttl=TTL, result_ttl=TTL)
    store.record(1, "dead", of=2)
    assert kinds(store.record(0, "succeeded", of=2)) == ["send"]
    assert list(store.backend.results(store.run_id, 0, 0, 2)) == [b"S0", b""]
    assert [member for member, _ in store.backend.failures(store.run_id, 0)] == [1]
    assert store.status().stages[0].dead == 1


# A run that fails while members are unsettled

#: All that callbacks hear of.
ALL = ("on_failure", "on_death", "on_success", "on_finish")


def wanted(store: Store, members: int, *, stage: int = 0) -> list[str]:
    """What the guard says of each member's job."""
    return [store.backend.guard(Tag(store.run_id, stage, member, members), store.now) for member in range(members)]


def test_one_death_too_many_fails_a_run_that_fails_fast_and_nothing_of_it_is_wanted_any_more(
    either_way: Store,
) -> None:
    store = either_way
    (unconfirmed,) = store.create(4, 1, events=ALL, fail_fast=True).duties
    store.record(0, "succeeded", of=4)
    reply = store.record(1, "dead", of=4)
    assert kinds(reply) == ["on_failure", "on_death", "on_finish"]
    store.confirm(*reply.duties)
    assert (store.status().state, store.counts()) == ("failed", (1, 0, 1))
    assert wanted(store, 4) == ["over"] * 4
    assert store.confirm(unconfirmed) == ["lost"]  # whoever still sends members stops
    store.now += LEASE
    assert store.owed("sweeper") == Reply("clear", note="rests")
    assert store.sweep() == "rests"
    assert store.backend.resend(store.run_id, store.caller()).word == "nothing"
    assert store.backend.cancel(store.run_id, store.caller()).word == "over"


def test_what_is_at_work_when_a_run_breaks_off_counts_where_it_is_final(either_way: Store) -> None:
    store = either_way
    store.create(5, 1, events=ALL, fail_fast=True)
    store.record(0, "failing", of=5)
    store.confirm(*store.record(1, "dead", of=5).duties)
    for ending in ("working", "attempted", "failing"):
        assert store.record(2, ending, of=5).word == "over"
    for ending, word in (("succeeded", "counts"), ("dead", "counts"), ("dead", "stale")):
        reply = store.record(2 if ending == "succeeded" else 3, ending, of=5)  # type: ignore[arg-type]
        assert (reply.word, reply.duties) == (word, ())
    assert (store.status().state, store.counts()) == ("failed", (1, 1, 2))


def test_late_successes_take_a_run_up_that_broke_off_if_they_complete_its_stage(either_way: Store) -> None:
    store = either_way
    store.confirm(*store.create(3, 1, events=ALL, fail_fast=True).duties)
    store.confirm(*store.record(0, "dead").duties)
    for member in (1, 2):
        store.record(member, "succeeded")
    assert store.status().state == "failed"
    reply = store.record(0, "succeeded")
    assert (kinds(reply), reply.note) == (["send"], "wakes")
    assert store.status().state == "running"
    assert wanted(store, 1, stage=1) == ["go"]


def test_a_retry_of_a_run_that_broke_off_sends_all_that_has_not_succeeded(either_way: Store) -> None:
    store = either_way
    store.confirm(*store.create(4, events=ALL, fail_fast=True).duties)
    store.record(0, "failing", of=4)
    store.confirm(*store.record(1, "dead", of=4).duties)
    store.record(2, "succeeded", of=4)
    reply = store.backend.retry(store.run_id, store.caller("retry:1"))
    assert [duty.id for duty in reply.duties] == ["resume:0:0:4:1", "retry:0:1:1"]
    assert store.standing(4) == ["waiting", "waiting", "succeeded", None]
    assert store.reopen(reply.duties[1]) == (1, [0, 1])
    assert wanted(store, 4) == ["go", "go", "done", "go"]
    assert kinds(store.record(3, "dead", of=4, order=(1, 0))) == ["on_failure", "on_death", "on_finish"]
    assert store.status().state == "failed"
    assert store.backend.retry(store.run_id, store.caller("retry:2")).word == "retried"
    for member in (0, 1, 3):
        store.record(member, "succeeded", of=4, order=(2, 0))
    assert store.status().state == "succeeded"


def test_a_retry_of_a_run_that_broke_off_keeps_the_limit(either_way: Store) -> None:
    store = either_way
    store.confirm(*store.create(4, events=(), limit=2, fail_fast=True).duties)
    reply = store.record(0, "dead", of=4)
    assert reply.duties == ()  # no other member is sent in its place
    reply = store.backend.retry(store.run_id, store.caller("retry:1"))
    assert [duty.id for duty in reply.duties] == ["resume:0:0:2:1", "retry:0:1:1"]
    assert store.reopen(reply.duties[1]) == (1, [0])
    store.confirm(*reply.duties)
    assert [duty.id for duty in store.record(1, "succeeded", of=4).duties] == ["send:0:2:3"]


def test_a_run_that_breaks_off_cancels_its_nested_runs_and_hears_only_of_their_success(store: Store) -> None:
    store.confirm(*store.create(3, events=(), nested=True, fail_fast=True).duties)
    reply = child(store, "dead", 1, member=0)
    assert [duty.id for duty in reply.duties] == ["halt:0:0:3:0"]
    for ending in ("working", "attempted", "failing", "dead"):
        assert child(store, ending, 2, member=1).word == "over"
    assert child(store, "succeeded", 1, member=2).word == "counts"
    assert store.counts() == (1, 0, 1)
    reply = store.backend.retry(store.run_id, store.caller("retry:1"))
    assert [duty.id for duty in reply.duties] == ["resume:0:0:3:1", "retry:0:1:1"]
    assert store.confirm(*reply.duties[:1]) == ["confirmed"]  # what would cancel the runs was dropped


def test_what_a_job_nests_while_its_run_has_broken_off_begins_with_a_retry(store: Store) -> None:
    store.confirm(*store.create(2, events=(), fail_fast=True).duties)
    store.confirm(*store.record(0, "dead", of=2).duties)
    assert store.record(1, "succeeded", of=2, nested=b"plan") == Reply("counts", note="rests")
    reply = store.backend.retry(store.run_id, store.caller("retry:1"))
    assert [duty.id for duty in reply.duties] == ["resume:0:0:2:1", "retry:0:1:1"]
    assert store.standing(2) == ["waiting", "waiting"]
    assert dict(store.backend.nested(store.run_id, 0, [0, 1])) == {1: b"plan"}


@pytest.mark.parametrize("kind", ["a job", "a nested run"])
def test_what_a_member_came_to_before_the_retry_does_not_break_the_run_off_again(store: Store, kind: str) -> None:
    """Those that the retry sends again; and one that was never sent before may break it off."""
    limit = 2 if kind == "a job" else None
    store.confirm(*store.create(4, events=(), limit=limit, nested=kind != "a job", fail_fast=True).duties)

    def ends(member: int, ending: Ending, epoch: int) -> str:
        if kind == "a job":
            return store.record(member, ending, of=4, order=(epoch, 0)).word
        return child(store, ending, 1 + epoch, member=member, epoch=epoch).word

    ends(0, "dead", 0)
    store.backend.retry(store.run_id, store.caller("retry:1"))
    for ending in ("failing", "dead"):
        assert ends(1, ending, 0) == "stale"
    assert store.status().state == "running"
    assert ends(1, "succeeded", 0) == "counts"
    if kind == "a job":
        assert ends(2, "failing", 0) == "counts"  # the limit had no room for it before
    assert ends(0, "dead", 1) == "counts"
    assert store.status().state == "failed"


def test_a_run_that_its_parent_cancels_does_not_tell_it_so(store: Store) -> None:
    """The parent has cancelled it, and may have been retried before it would hear of that."""
    store.confirm(*store.create(1, events=(), parent=Place("parent", 0, 0)).duties)
    assert store.backend.cancel(store.run_id, store.caller("halt"), bury=0).duties == ()
    assert store.owed("sweeper") == Reply("clear", note="rests")
    reply = store.backend.retry(store.run_id, store.caller("revive"), since=1)
    assert kinds(reply) == ["resume", "tell"]


def test_a_nested_run_that_breaks_off_is_dead_for_its_parent(either_way: Store) -> None:
    store = either_way
    store.confirm(*store.create(3, events=(), parent=Place("parent", 0, 0), fail_fast=True).duties)
    (tell,) = store.record(0, "dead").duties
    assert isinstance(tell, Tell)
    assert tell.snapshot is not None
    assert tell.snapshot["head"]["told"] == "dead"


# How many may die, and how many are enough


@pytest.mark.parametrize("fail_fast", [False, True], ids=["waits for all", "fails fast"])
@pytest.mark.parametrize(
    ("total", "said", "may_die"),
    [
        (4, {}, 0),
        (4, {"tolerant": True}, 4),
        (4, {"allowed": 1}, 1),
        (4, {"allowed": 3}, 3),
        (4, {"allowed": 9}, 4),
        (4, {"allowed": 0.25}, 1),
        (4, {"allowed": 0.74}, 2),
        (4, {"allowed": 0.01}, 0),
        (10, {"allowed": 0.3}, 3),
        (100, {"allowed": 0.29}, 29),
        (4, {"enough": 4}, 0),
        (4, {"enough": 1}, 3),
        (4, {"enough": 9}, 0),  # as in a mapped stage of fewer items
    ],
)
def test_so_many_members_may_die(store: Store, total: int, said: dict[str, Any], may_die: int, fail_fast: bool) -> None:
    store.confirm(*store.create(total, 1, events=(), fail_fast=fail_fast, **said).duties)
    for member in range(may_die):
        assert store.status().stages[1].state == "waiting"
        store.record(member, "dead", of=total)
    assert store.status().state in ("running", "failing")
    if may_die < total:
        store.record(may_die, "dead", of=total)
        assert store.status().state == ("failed" if fail_fast or may_die + 1 == total else "failing")
        for member in range(may_die + 1, total):
            store.record(member, "succeeded", of=total)
        assert store.status().state == "failed"
        store.record(may_die, "succeeded", of=total, order=(0, 1))
    stages = store.status().stages
    assert [stage.state for stage in stages] == ["succeeded", "running"]
    assert (stages[0].succeeded, stages[0].dead, stages[0].skipped) == (total - may_die, may_die, 0)


def test_a_stage_is_complete_with_its_first_successes_and_stays_as_it_is(either_way: Store) -> None:
    store = either_way
    (unconfirmed,) = store.create(5, 1, events=(), enough=2).duties
    store.record(0, "dead", of=5)
    assert store.record(3, "succeeded", of=5).duties == ()
    store.record(2, "failing", of=5)
    assert kinds(store.record(1, "succeeded", of=5)) == ["send"]
    assert store.confirm(unconfirmed) == ["lost"]
    assert wanted(store, 5) == ["over"] * 5
    for ending in COUNTS:
        assert store.record(4, ending, of=5, order=(5, 5)).word == "over"  # type: ignore[arg-type]
    assert list(store.backend.results(store.run_id, 0, 0, 5)) == [b"", b"S1", b"", b"S3", None]
    stage = store.status().stages[0]
    assert (stage.succeeded, stage.dead, stage.skipped, stage.total) == (2, 1, 2, 5)


def test_a_run_has_succeeded_with_enough_of_its_last_stage(either_way: Store) -> None:
    store = either_way
    store.confirm(*store.create(3, events=ALL, enough=1).duties)
    reply = store.record(2, "succeeded")
    assert kinds(reply) == ["on_success", "on_finish"]
    assert store.confirm(*reply.duties) == ["confirmed", "ends"]
    assert store.record(0, "succeeded").word == "over"
    assert list(store.backend.results(store.run_id, 0, 0, 3)) == [None, None, b"S2"]
    assert store.status().stages[0].skipped == 2


def test_no_more_members_are_sent_when_enough_have_succeeded(either_way: Store) -> None:
    store = either_way
    store.confirm(*store.create(5, 1, events=(), limit=2, enough=2).duties)
    assert [duty.id for duty in store.record(0, "succeeded", of=5).duties] == ["send:0:2:3"]
    store.now += LEASE
    reply = store.record(1, "succeeded", of=5)
    assert [duty.id for duty in reply.duties] == ["send:1:0:1"]
    assert store.status().stages[0].skipped == 3


@pytest.mark.parametrize("stages", [(4,), (4, 1)], ids=["of the last stage", "of an earlier one"])
def test_nested_runs_that_are_skipped_are_cancelled_and_the_run_stays_until_they_are(
    store: Store, stages: tuple[int, ...]
) -> None:
    store.confirm(*store.create(*stages, events=(), nested=True, enough=1).duties)
    nests = store.backend.record(
        Record(Tag(store.run_id, 0, 1, 4, exact=True), 0, "succeeded", b"", nested=b"plan"), store.caller("0.1")
    )
    store.confirm(*nests.duties)
    reply = child(store, "succeeded", 1, member=2)
    (halt,) = (duty for duty in reply.duties if duty.kind == "halt")
    store.confirm(*(duty for duty in reply.duties if duty.kind == "send"))
    assert halt.id == "halt:0:0:4:0"
    if len(stages) == 2:
        tag = Tag(store.run_id, 1, 0, 1)
        store.confirm(*store.backend.cancel(store.run_id, store.caller("cancel:1")).duties)
        store.confirm(*store.backend.retry(store.run_id, store.caller("retry:1")).duties)
        store.confirm(*store.backend.record(Record(tag, 9, "succeeded", b"1"), store.caller("1.0")).duties)
    assert store.status().state == "succeeded"
    assert store.backend.spec(store.run_id) is not None  # who cancels them reads the plan
    assert dict(store.backend.nested(store.run_id, 0, range(4))) == {1: b"plan"}
    store.now += LEASE
    (again,) = store.owed("sweeper").duties
    assert again.id == halt.id
    assert store.confirm(again) == ["ends"]
    assert store.backend.spec(store.run_id) is None
    assert child(store, "dead", 2, member=0).word == "over"
    assert dict(store.backend.nested(store.run_id, 0, range(4))) == {}


def test_a_run_that_has_succeeded_owes_all_shares_of_a_cancel_though_a_callback_could_not_be_sent(store: Store) -> None:
    store.confirm(*store.create(200, nested=True, enough=1, events=("on_success",)).duties)
    reply = child(store, "succeeded", 1)
    duties = {duty.kind: duty for duty in reply.duties}
    callback, halt = duties["on_success"], duties["halt"]
    assert halt.id == "halt:0:0:20:0"
    store.backend.fail(store.run_id, callback, failure_details(LookupError("nobody")), store.holder(callback))
    store.confirm(halt)
    assert (store.status().state, store.status().error is None) == ("succeeded", False)
    notes = list[str]()
    for share in ("halt:0:20:120:0", "halt:0:120:200:0"):  # one at a time
        assert store.backend.spec(store.run_id) is not None
        caller = store.caller("sweeper")
        given = store.backend.sweep(store.run_id, caller, stalled_after=LEASE)
        assert [duty.id for duty in given.duties] == [share]
        notes.append(given.note)
        store.confirm(*given.duties)
    assert notes == ["more", ""]
    assert store.backend.spec(store.run_id) is None
    assert {part.split(":")[0] for part in store.names()} <= {"head", "tombstone", "members", "standing"}


def test_what_jobs_of_a_stage_have_nested_goes_with_the_next_stage_once_it_is_cancelled(store: Store) -> None:
    store.confirm(*store.create(2, 1, 1, events=(), enough=1).duties)
    store.confirm(*store.record(0, "succeeded", of=2, nested=b"plan").duties)
    store.confirm(*store.record(1, "succeeded", of=2).duties)  # also what cancels the nested run
    assert dict(store.backend.nested(store.run_id, 0, range(2))) == {0: b"plan"}
    store.record(0, "succeeded", stage=1, of=1)
    assert dict(store.backend.nested(store.run_id, 0, range(2))) == {}


# Failures stay


def raised(error: Exception) -> Exception:
    """The same, with a traceback."""
    try:
        raise error
    except Exception as caught:
        return caught


def tolerant(store: Store, *totals: int, parent: Place | None = None, events: Sequence[str] = ()) -> None:
    """A run of stages that all allow failures."""
    lines = [StageLine(sum(totals[:index]), total, many=True, tolerant=True) for index, total in enumerate(totals)]
    spec = Spec(parent=parent, callbacks=dict.fromkeys(events, (b"row",)))
    plan = Plan(spec, tuple(lines), (b"row",) * sum(totals))
    store.confirm(*store.backend.create(store.run_id, plan, store.caller(), run_ttl=TTL, result_ttl=TTL // 10).duties)


def where(status: RunStatus) -> list[tuple[int, int | None, str, bool]]:
    return [(one.stage, one.index, one.exception_type, one.allowed) for one in status.failures]


def test_failures_that_were_allowed_stay_when_their_stage_is_over_and_the_next_one_too(either_way: Store) -> None:
    store = either_way
    tolerant(store, 3, 2, 1)
    store.record(2, "dead", error=KeyError("a"))
    store.record(0, "dead", error=ValueError("b"))
    store.confirm(*store.record(1, "succeeded").duties)
    of_first = [(0, 0, "ValueError", True), (0, 2, "KeyError", True)]
    assert where(store.status()) == of_first
    store.record(1, "failing", stage=1, of=2, error=OSError("c"))
    assert where(store.status()) == [*of_first, (1, 1, "OSError", True)]
    store.record(1, "dead", stage=1, of=2, order=(0, 1), error=KeyError("d"))
    store.confirm(*store.record(0, "succeeded", stage=1, of=2).duties)
    of_both = [*of_first, (1, 1, "KeyError", True)]
    assert where(store.status()) == of_both
    assert [member for member, _ in store.backend.failures(store.run_id, 0)] == [0, 2]
    store.confirm(*store.record(0, "dead", stage=2, of=1, error=TypeError("e")).duties)
    assert store.status().state == "succeeded"
    assert where(store.status()) == [*of_both, (2, 0, "TypeError", True)]
    assert store.status().failure_counts == {"KeyError": 2, "TypeError": 1, "ValueError": 1}


def test_failures_are_allowed_as_long_as_there_are_not_too_many(store: Store) -> None:
    plan = Plan(Spec(), (StageLine(0, 4, many=True, allowed=2), StageLine(4, 1)), (b"row",) * 5)
    store.backend.create(store.run_id, plan, store.caller(), run_ttl=TTL, result_ttl=TTL)
    for member in range(3):
        store.record(member, "dead", of=4)
        assert {one.allowed for one in store.status().failures} == {member < 2}
    store.record(2, "succeeded", of=4)
    store.record(3, "succeeded", of=4)
    assert where(store.status()) == [(0, 0, "ValueError", True), (0, 1, "ValueError", True)]


def test_what_is_kept_lives_as_long_as_the_status(either_way: Store) -> None:
    store = either_way
    backend: Any = store.backend
    names = [f"{backend.namespace}:{{{store.run_id}}}:{part}" for part in ("head", "failures", "tally")]
    tolerant(store, 2, 1)
    store.record(0, "dead", of=2)
    store.record(1, "succeeded", of=2)

    def lives() -> list[int]:
        return [backend.client.execute_command("PTTL", name) for name in names]

    assert min(lives()) > TTL // 2
    store.confirm(*store.record(0, "succeeded", stage=1, of=1).duties)
    assert where(store.status()) == [(0, 0, "ValueError", True)]
    assert min(lives()) > 0
    assert max(lives()) <= TTL // 10


def test_of_a_nested_run_that_has_told_its_parent_no_failures_stay(store: Store) -> None:
    tolerant(store, 1, 1, parent=Place("parent", 0, 0))
    store.confirm(*store.record(0, "dead", of=1).duties)
    store.confirm(*store.record(0, "succeeded", stage=1, of=1).duties)
    backend: Any = store.backend
    for part in ("head", "failures", "tally"):
        assert backend.client.execute_command("EXISTS", f"{backend.namespace}:{{{store.run_id}}}:{part}") == 0


def test_who_succeeds_after_all_is_no_failure(either_way: Store) -> None:
    store = either_way
    store.confirm(*store.create(3, 1).duties)
    store.record(0, "dead", error=ValueError("a"))
    store.record(1, "dead", error=ValueError("b"))
    assert store.status().failure_counts == {"ValueError": 2}
    store.record(0, "dead", order=(0, 1), error=KeyError("c"))
    assert store.status().failure_counts == {"KeyError": 1, "ValueError": 1}
    store.record(0, "failing", order=(0, 2), error=KeyError("d"))
    assert store.status().failure_counts == {"ValueError": 1}
    store.record(1, "succeeded")
    assert store.status().failure_counts == {}
    assert where(store.status()) == [(0, 0, "KeyError", False)]


def test_a_retry_takes_all_that_were_dead_out_of_the_counts(either_way: Store) -> None:
    store = either_way
    tolerant(store, 1, 3)
    store.confirm(*store.record(0, "dead", of=1, error=OSError("a")).duties)
    store.record(0, "dead", stage=1, error=ValueError("b"))
    store.record(1, "dead", stage=1, error=KeyError("c"))
    assert store.status().failure_counts == {"KeyError": 1, "OSError": 1, "ValueError": 1}
    store.backend.retry(store.run_id, store.caller("retry:1"))
    assert store.status().failure_counts == {"OSError": 1}  # that stage is over
    assert where(store.status()) == [(0, 0, "OSError", True)]
    store.record(0, "dead", stage=1, order=(1, 0), error=ValueError("d"))
    store.record(1, "succeeded", stage=1, order=(0, 1))  # a late one, of before the retry
    assert store.status().failure_counts == {"OSError": 1, "ValueError": 1}


def test_a_job_that_was_dead_and_has_nested_runs_is_no_failure_until_these_are(store: Store) -> None:
    store.create(2)
    store.record(0, "dead", of=2)
    store.record(0, "succeeded", of=2, nested=b"plan")
    assert store.status().failure_counts == {}
    child(store, "dead", 1)
    assert store.status().failure_counts == {"ValueError": 1}
    child(store, "working", 2)
    assert store.status().failure_counts == {}


def test_a_hundred_failures_are_kept_and_all_are_counted(store: Store) -> None:
    tolerant(store, 70, 60, 60, 1)
    for stage, total in enumerate((70, 60, 60)):
        for member in reversed(range(total)):
            reply = store.record(member, "dead", stage=stage, of=total, error=KeyError(str(stage)))
        store.confirm(*reply.duties)
    status = store.status()
    assert [(one.stage, one.index) for one in status.failures] == [(0, n) for n in range(70)] + [
        (1, n) for n in range(30)
    ]
    assert status.failure_counts == {"KeyError": 190}
    snapshot = store.backend.snapshot(store.run_id)
    assert snapshot is not None
    assert len(snapshot["kept"]) == 100
    store.record(0, "failing", stage=3, of=1)
    assert [(one.stage, one.index) for one in store.status().failures][-2:] == [(1, 28), (3, 0)]


@pytest.mark.heavy
def test_beyond_a_thousand_types_the_others_count_together(store: Store) -> None:
    tolerant(store, 1_010)
    for member in range(1_003):
        store.record(member, "dead", of=1_010, error=type(f"Error{member}", (Exception,), {})())
    counts = store.status().failure_counts
    assert (counts["Error0"], counts["Error999"], counts["other"], len(counts)) == (1, 1, 3, 1_001)
    store.record(1_001, "succeeded", of=1_010)
    assert store.status().failure_counts["other"] == 2


@pytest.mark.parametrize("name", ['quoted "x"', "Fehl\u00e4", "back\\slash", "with space", ""])
def test_a_type_of_any_name_counts(store: Store, name: str) -> None:
    tolerant(store, 2)
    store.record(0, "dead", of=2, error=type(name, (Exception,), {})())
    assert sum(store.status().failure_counts.values()) == 1
    if '"' not in name:
        assert store.status().failure_counts == {name or "other": 1}
    store.record(0, "succeeded", of=2)
    assert store.status().failure_counts == {}


def test_a_callback_gets_few_tracebacks_and_a_status_all(store: Store) -> None:
    tolerant(store, 20, 12, events=("on_finish",))
    for stage, total in enumerate((20, 12)):
        for member in range(total):
            reply = store.record(member, "dead", stage=stage, of=total, error=raised(KeyError(', "traceback": "x"')))
    (finished,) = reply.duties
    assert isinstance(finished, CallBack)
    assert finished.snapshot is not None
    told = status_from(store.run_id, finished.snapshot)
    assert [bool(one.traceback) for one in told.failures] == [False] * 20 + [True] * 10 + [False] * 2
    assert {one.exception_text for one in told.failures} == {repr(', "traceback": "x"')}
    assert all(one.traceback for one in store.status().failures)


def test_a_run_of_an_older_release_has_no_counts_and_goes_on(store: Store) -> None:
    tolerant(store, 2, 1)
    store.record(0, "dead", of=2)
    backend: Any = store.backend
    key = f"{backend.namespace}:{{{store.run_id}}}:"
    backend.client.execute_command("HDEL", key + "head", "tallied")
    backend.client.execute_command("DEL", key + "tally")
    assert store.status().failure_counts == {}
    store.record(0, "succeeded", of=2)
    assert backend.client.execute_command("EXISTS", key + "tally") == 0
    store.record(1, "dead", of=2)
    assert where(store.status()) == [(0, 1, "ValueError", True)]
    assert store.status().failure_counts == {"ValueError": 1}


# How far a run is


def test_progress_weighs_stages_alike_and_never_goes_back(either_way: Store) -> None:
    store = either_way
    store.confirm(*store.create(2, None, 1).duties)
    seen = [store.status().progress]
    store.record(0, "failing", of=2)
    for member in (0, 1):
        opening = store.record(member, "succeeded", of=2, order=(0, 1)).duties
        seen.append(store.status().progress)
    store.confirm(*store.open(opening[0], 4).duties)
    seen.append(store.status().progress)
    for member in range(4):
        store.record(member, "succeeded", stage=1, of=4)
        seen.append(store.status().progress)
    store.record(0, "succeeded", stage=2, of=1)
    seen.append(store.status().progress)
    sixth, twelfth = 1 / 6, 1 / 12
    rising = [0, sixth, 2 * sixth, *(2 * sixth + twelfth * done for done in range(5)), 1]
    assert seen == [pytest.approx(far) for far in rising]
    assert seen[-1] == 1.0


@pytest.mark.parametrize("tolerant", [True, False], ids=["failures allowed", "none allowed"])
def test_what_is_dead_counts_as_done_where_failures_are_allowed(store: Store, tolerant: bool) -> None:
    plan = Plan(Spec(), (StageLine(0, 2, many=True, tolerant=tolerant),), (b"row",) * 2)
    store.backend.create(store.run_id, plan, store.caller(), run_ttl=TTL, result_ttl=TTL)
    store.record(0, "dead", of=2)
    status = store.status()
    assert status.progress == (1 / 2 if tolerant else 0)
    assert (status.stages[0].dead, status.stages[0].pending) == (1, 1)
    store.record(1, "dead", of=2)
    assert store.status().progress == (1 if tolerant else 0)


def test_of_a_stage_with_nested_runs_the_unsettled_are_told(store: Store) -> None:
    store.create(6, nested=True)

    def unsettled() -> list[int]:
        snapshot = store.backend.snapshot(store.run_id)
        assert snapshot is not None
        return sorted(snapshot["unsettled"])

    assert unsettled() == [0, 1, 2, 3, 4, 5]
    child(store, "succeeded", 1, member=0)
    child(store, "dead", 1, member=2)
    child(store, "failing", 1, member=3)
    assert unsettled() == [1, 3, 4, 5]
    store.backend.cancel(store.run_id, store.caller())
    assert unsettled() == [1, 3, 4, 5]
    store.backend.retry(store.run_id, store.caller())
    assert unsettled() == [1, 3, 4, 5]  # the dead one is to be sent again; it says so when it works


def test_of_a_stage_of_jobs_only_those_that_have_nested_runs_are_told(store: Store) -> None:
    store.create(3)
    store.record(0, "succeeded", nested=b"plan")
    snapshot = store.backend.snapshot(store.run_id)
    assert snapshot is not None
    assert snapshot["unsettled"] == [0]


def test_no_more_than_a_hundred_are_told_and_none_beyond_the_limit(store: Store) -> None:
    for limit, count in ((None, 100), (3, 3)):
        store.run_id = secrets.token_hex(4)
        store.create(300, nested=True, limit=limit)
        snapshot = store.backend.snapshot(store.run_id)
        assert snapshot is not None
        assert snapshot["unsettled"] == list(range(count))


def test_how_far_nested_runs_are(store: Store) -> None:
    store.create(4, nested=True, generation="76543210")
    parent, places = store.run_id, [Place(store.run_id, 0, member, generation="76543210") for member in range(4)]

    def far() -> list[float]:
        return [round(one, 3) for one in store.backend.how_far(places)]

    def start(place: Place) -> None:
        store.run_id = place.child_id
        store.confirm(*store.create(4, 1, events=(), parent=place, generation=place.child_generation).duties)

    assert far() == [0, 0, 0, 0]
    start(places[1])
    assert far() == [0, 0, 0, 0]
    for member, ending in enumerate[Ending](["succeeded", "succeeded", "failing", "dead"]):
        store.backend.record(
            Record(tag_in(places[1])._replace(member=member), 0, ending, b"{}"), store.caller(f"0.{member}")
        )
    assert far() == [0, 0.25, 0, 0]
    store.backend.cancel(store.run_id, store.caller(), generation=places[1].child_generation)
    assert far() == [0, 0.25, 0, 0]
    for stage, members in ((0, 4), (1, 1)):
        if not stage:
            start(places[2])
        for member in range(members):
            tag = tag_in(places[2])._replace(stage=stage, member=member, of=members)
            reply = store.backend.record(Record(tag, 0, "succeeded", b"1"), store.caller(tag.owner))
        assert far()[2] == (stage + 1) / 2
    assert store.backend.generation(store.run_id) is not None
    store.confirm(*reply.duties)
    assert store.backend.generation(store.run_id) is None  # it has told its parent
    assert far() == [0, 0.25, 1, 0]
    assert store.backend.how_far([replace(place, generation="another0") for place in places]) == [0, 0, 0, 0]
    store.run_id = parent


def tag_in(place: Place) -> Tag:
    """Of a job in the first stage of the run that is nested here."""
    return Tag(place.child_id, 0, 0, 4, generation=place.child_generation)


# Deadlines

#: In milliseconds.
SOON = 5 * LEASE

#: Who may find that a deadline is over: each is asked of a run of two members, of which one has succeeded.
FINDERS: dict[str, Callable[[Store], object]] = {
    "owed": lambda store: store.owed("somebody"),
    "sweep": lambda store: store.sweep(),
    "retell": lambda store: store.backend.retell(store.run_id, store.caller()),
    "a failure": lambda store: store.record(1, "failing", of=2),
    "a death": lambda store: store.record(1, "dead", of=2),
    "the success that would complete the stage": lambda store: store.record(1, "succeeded", of=2),
}


@pytest.mark.parametrize("whose", ["the run", "stage 0"])
@pytest.mark.parametrize("finder", FINDERS)
def test_a_run_fails_when_a_deadline_is_over_whoever_finds_that(either_way: Store, finder: str, whose: str) -> None:
    store = either_way
    of_run = SOON if whose == "the run" else None
    store.confirm(*store.create(2, 1, events=ALL, deadline=of_run, within=None if of_run else SOON).duties)
    store.record(0, "succeeded", of=2)
    store.now += SOON - 1
    assert wanted(store, 2) == ["done", "go"]
    assert store.owed("somebody").word == "clear"
    store.now += 1
    assert wanted(store, 2) == ["over", "over"]  # which changes nothing
    assert store.status().state == "running"
    FINDERS[finder](store)
    status = store.status()
    assert (status.state, status.stages[1].state) == ("failed", "waiting")
    assert status.error is not None
    assert (status.error.exception_type, status.error.stage, status.error.index) == ("DeadlineExceeded", 0, None)
    assert status.error.failed_at == store.now
    assert status.error.exception_text.startswith(f"the deadline of {whose} (5000 ms) was over before")
    store.now += LEASE
    told = store.owed("sweeper").duties
    assert [duty.kind for duty in told] == ["on_failure", "on_finish"]
    store.confirm(*told)
    for again in FINDERS.values():
        again(store)
        assert wanted(store, 2) == ["over", "over"]
    assert store.owed("sweeper") == Reply("clear", note="rests")


def test_a_success_after_the_deadline_is_kept_for_a_retry(either_way: Store) -> None:
    store = either_way
    store.confirm(*store.create(3, 1, events=(), deadline=SOON).duties)
    store.record(0, "succeeded")
    store.now += SOON
    store.owed("sweeper")
    for member in (1, 2):
        assert store.record(member, "succeeded").word == "counts"
    assert (store.status().state, store.counts()) == ("failed", (3, 0, 0))
    reply = store.backend.retry(store.run_id, store.caller("retry:1"))
    assert (reply.word, kinds(reply)) == ("retried", ["send"])
    assert store.status().error is None
    assert store.status().stages[1].state == "running"


@pytest.mark.parametrize("whose", ["the run's", "the stage's"])
def test_a_retry_begins_new_deadlines(store: Store, whose: str) -> None:
    of_run = SOON if whose == "the run's" else None
    store.confirm(*store.create(2, events=(), deadline=of_run, within=None if of_run else SOON).duties)
    store.now += SOON
    store.owed("sweeper")
    store.now += SOON
    reply = store.backend.retry(store.run_id, store.caller("retry:1"))
    assert (kinds(reply), reply.note, reply.by) == (["resume"], "wakes", store.now + SOON)
    store.confirm(*reply.duties)
    store.now += SOON - 1
    assert (store.sweep(), wanted(store, 2)) == ("works", ["go", "go"])
    store.now += 1
    assert (store.sweep(), wanted(store, 2)) == ("rests", ["over", "over"])
    assert store.backend.retry(store.run_id, store.caller("retry:2")).word == "retried"


@pytest.mark.parametrize(("rests", "late"), [("cancelled", "dead"), *(("failed", ending) for ending in COUNTS)])
def test_a_run_at_rest_fails_of_no_deadline(store: Store, rests: str, late: Ending) -> None:
    store.confirm(*store.create(2, 1, events=("on_finish",), deadline=SOON).duties)
    if rests == "cancelled":
        reply = store.backend.cancel(store.run_id, store.caller("cancel:1"))
    else:
        store.record(0, "succeeded", of=2)
        reply = store.record(1, "dead", of=2)
    assert kinds(reply) == ["on_finish"]
    store.confirm(*reply.duties)
    store.now += SOON
    assert store.owed("sweeper") == Reply("clear", note="rests")
    assert (store.status().state, store.status().error) == (rests, None)
    if rests == "failed":  # nor is it taken up: that would have to fail again at once
        assert store.record(1, late, of=2, order=(0, 1)).duties == ()
    assert store.status().state == rests
    assert store.backend.retry(store.run_id, store.caller("retry:1")).word == "retried"
    assert store.sweep() in ("owing", "works")
    assert store.status().stages[0].state in ("running", "succeeded")


def test_the_deadline_of_a_stage_counts_from_its_release(store: Store) -> None:
    lines = (StageLine(0, 1), StageLine(1, 1, deadline=SOON), StageLine(2, 1))
    plan = Plan(Spec(), lines, (b"row",) * 3)
    reply = store.backend.create(store.run_id, plan, store.caller("run:x"), run_ttl=TTL, result_ttl=TTL)
    store.confirm(*reply.duties)
    store.now += 2 * SOON
    store.confirm(*store.record(0, "succeeded", of=1).duties)
    store.now += SOON - 1
    assert wanted(store, 1, stage=1) == ["go"]
    store.now += 1
    assert wanted(store, 1, stage=1) == ["over"]
    store.record(0, "succeeded", stage=1, of=1)
    error = store.status().error
    assert error is not None
    assert error.exception_text == "the deadline of stage 1 (5000 ms) was over before it was complete"
    store.confirm(*store.backend.retry(store.run_id, store.caller("retry:1")).duties)
    store.now += 2 * SOON
    assert wanted(store, 1, stage=2) == ["go"]  # this stage has none


@pytest.mark.parametrize("whose", ["the run", "stage 0"])
@pytest.mark.parametrize("nested", [True, False])
def test_the_deadlines_of_a_nested_run_count_from_when_it_starts(store: Store, whose: str, *, nested: bool) -> None:
    """Its stage may wait, and the run around it may be delayed; those of an outermost run count from `run()`."""
    of_run = SOON if whose == "the run" else None
    parent = Place("parent", 0, 0) if nested else None
    said: dict[str, Any] = {"deadline": of_run, "within": None if of_run else SOON}
    store.confirm(*store.create(1, start_at=store.now + 2 * SOON, parent=parent, **said).duties)
    store.now += SOON
    assert wanted(store, 1) == ["go" if nested else "over"]
    store.now += 2 * SOON - 1
    assert wanted(store, 1) == ["go" if nested else "over"]
    store.now += 1
    assert wanted(store, 1) == ["over"]
    store.owed("somebody")
    assert store.status().state == "failed"


@pytest.mark.parametrize("when", ["before it is opened", "when it is opened"])
def test_a_stage_that_is_still_to_be_opened_when_the_deadline_is_over_is_opened_by_a_retry(
    store: Store, when: str
) -> None:
    (opens,) = store.create(None, events=(), deadline=SOON).duties
    store.now += SOON
    if when == "before it is opened":
        store.owed("somebody")
        assert store.open(opens, 2).word == "lost"
    else:
        assert store.open(opens, 2).duties == ()
    assert store.status().state == "failed"
    reply = store.backend.retry(store.run_id, store.caller("retry:1"))
    if when == "before it is opened":
        reply = store.open(reply.duties[0], 2)
    assert members_of(*reply.duties) == [0, 1]


def test_a_nested_run_whose_deadline_is_over_is_dead_for_its_parent_and_cancels_its_own(store: Store) -> None:
    parent = Place("parent", 0, 0)
    store.confirm(*store.create(2, events=(), nested=True, parent=parent, deadline=SOON).duties)
    store.now += SOON
    halt, tell = store.owed("somebody").duties
    assert halt.id == "halt:0:0:2:0"
    assert isinstance(tell, Tell)
    assert tell.snapshot is not None
    assert tell.snapshot["head"]["told"] == "dead"
    assert "DeadlineExceeded" in tell.snapshot["head"]["error"]


def test_whoever_puts_a_run_down_for_a_sweeper_knows_by_when_a_deadline_may_be_over(either_way: Store) -> None:
    """So nobody has to tell when a stage is released, by whomever, and a kill in between loses nothing."""
    store = either_way
    began = store.now
    lines = (StageLine(0, 2, many=True, deadline=9 * SOON), StageLine(2, 1, deadline=3 * SOON))
    plan = Plan(Spec(deadline=10 * SOON), lines, (b"row",) * 3)
    create: Any = store.backend.create
    reply = create(store.run_id, plan, store.caller("run:x"), run_ttl=TTL, result_ttl=TTL)
    assert reply.by == began + 3 * SOON  # the second stage may be released at once, and has the shortest
    store.confirm(*reply.duties)

    def look() -> int:
        caller = store.caller(SWEEPER)
        return int(store.backend.sweep(store.run_id, caller, stalled_after=LEASE).by)

    assert look() == began + 3 * SOON
    store.now += 7 * SOON
    assert look() == began + 9 * SOON
    assert store.record(0, "failing", of=2).by == 0  # it changes nothing in the index
    assert store.backend.resend(store.run_id, store.caller()).by == began + 9 * SOON
    for member in (0, 1):
        store.confirm(*store.record(member, "succeeded", of=2).duties)
    assert look() == began + 10 * SOON
    store.now += 2 * SOON
    assert look() == began + 10 * SOON
    store.now += SOON
    assert look() == 0
    assert store.status().state == "failed"


def test_a_run_without_deadlines_is_put_down_for_none(store: Store) -> None:
    assert store.create(1).by == 0
    assert store.backend.sweep(store.run_id, store.caller(SWEEPER), stalled_after=LEASE).by == 0
    assert store.backend.resend(store.run_id, store.caller()).by == 0


@pytest.mark.parametrize(("deadline", "at"), [(20 * LEASE, 10 * LEASE), (5 * LEASE, 5 * LEASE), (1, LEASE)])
def test_a_run_is_in_the_index_in_time_for_its_deadline_though_its_producer_dies(
    store: Store, deadline: int, at: int
) -> None:
    caller = store.caller("run:x")._replace(lease_ms=10 * LEASE, application=store.run_id)
    plan = Plan(Spec(deadline=deadline), (StageLine(0, 1),), (b"row",))
    assert store.backend.create(store.run_id, plan, caller, run_ttl=TTL, result_ttl=TTL).word == "created"
    assert store.backend.due(store.now + at - 1, 0, 10, application=store.run_id) == []
    assert store.backend.due(store.now + at, 0, 10, application=store.run_id) == [store.run_id]


# Two executions of one job at once: a redelivery while the first still works


@pytest.mark.parametrize("other", ["attempted", "failing", "dead"])
@pytest.mark.parametrize("success_comes", ["first", "second"])
def test_overlap_around_the_release(store: Store, other: Ending, success_comes: str) -> None:
    store.confirm(*store.create(1, 1).duties)
    endings: list[Ending] = ["succeeded", other] if success_comes == "first" else [other, "succeeded"]
    replies = [store.record(0, ending, of=1) for ending in endings]
    sent = [duty.id for reply in replies for duty in reply.duties if duty.kind == "send" and not duty.repeated]
    assert sent == ["send:1:0:1"]
    assert store.status().stages[0].state == "succeeded"
    assert store.status().state == "running"


@pytest.mark.parametrize("late", ["succeeded", "failing", "dead"])
def test_overlap_around_a_retry(either_way: Store, late: Ending) -> None:
    """The first epoch's second execution ends when the second epoch's works already."""
    store = either_way
    store.confirm(*store.create(2, 1).duties)
    store.record(0, "dead", of=2)
    store.backend.retry(store.run_id, store.caller("retry:1"))
    assert store.record(0, late, of=2).word == ("counts" if late == "succeeded" else "stale")
    assert store.record(0, "failing", of=2, order=(1, 0)).word == ("duplicate" if late == "succeeded" else "counts")
    assert store.record(0, "succeeded", of=2, order=(1, 1)).word == ("duplicate" if late == "succeeded" else "counts")
    assert kinds(store.record(1, "succeeded", of=2))[-1] == "send"


@pytest.mark.parametrize("late", ["succeeded", "attempted", "failing", "dead"])
def test_overlap_around_a_cancel(either_way: Store, late: Ending) -> None:
    store = either_way
    store.confirm(*store.create(2, 1).duties)
    store.record(0, "succeeded", of=2)
    store.backend.cancel(store.run_id, store.caller("cancel:1"))
    for member in (0, 1):
        assert store.record(member, late, of=2, order=(0, 1)).word == "over"
    assert store.counts() == (1, 0, 0)


def test_the_next_attempt_may_be_recorded_before_the_one_that_caused_it(store: Store) -> None:
    store.confirm(*store.create(2).duties)
    assert store.record(0, "dead", of=2, order=(0, 1)).word == "counts"
    assert store.record(0, "failing", of=2, order=(0, 0)).word == "stale"
    assert store.counts() == (0, 0, 1)


# The common way: the success of a job that works in parallel with others


@pytest.mark.parametrize("state", STATES)
def test_a_success_counts_in_the_common_way_whatever_stood_there(store: Store, state: str) -> None:
    before, order_before, _ = STATES[state]
    store.create(3)
    if before is not None:
        store.record(0, before, order=order_before)
    store.touch = False
    assert store.record(0, "succeeded").word == ("duplicate" if state == "succeeded" else "counts")
    assert store.counts() == (1, 0, 0)


def test_a_stage_with_a_limit_goes_on_however_its_successes_are_recorded(either_way: Store) -> None:
    store = either_way
    sent = store.create(30, limit=20, events=()).duties
    store.confirm(*sent)
    owed = [duty for member in range(30) for duty in store.record(member, "succeeded", of=30).duties]
    assert members_of(*sent, *owed) == list(range(30))
    assert store.status().state == "succeeded"


def test_a_success_is_activity_however_it_is_recorded(either_way: Store) -> None:
    store = either_way
    store.confirm(*store.create(2, events=()).duties)
    store.record(0, "failing", of=2)
    assert store.sweep() == "works"
    store.now += LEASE - 1
    store.record(0, "succeeded", of=2)
    assert [store.sweep(), store.sweep()] == ["works", "works"]
    store.now += LEASE - 1
    assert store.sweep() == "works"
    store.now += 1
    assert store.sweep() == "stalled"


# A run that has failed, and is taken up again


def test_a_failed_run_is_taken_up_by_a_newer_attempt_and_may_fail_again(store: Store) -> None:
    """Of two executions of one job, the one that was given up was recorded first."""
    store.confirm(*store.create(1, events=("on_failure", "on_death", "on_failed", "on_finish")).duties)
    for attempt, ending, told, state in (
        (0, "dead", ["on_failure", "on_death", "on_failed", "on_finish"], "failed"),
        (1, "failing", ["on_failure"], "failing"),
        (2, "dead", ["on_death", "on_failed", "on_finish"], "failed"),
    ):
        reply = store.record(0, ending, of=1, order=(0, attempt))  # type: ignore[arg-type]
        assert kinds(reply) == told
        assert store.status().state == state
        store.confirm(*reply.duties)


def test_who_was_dead_when_a_failed_run_was_taken_up_is_not_mourned_again(store: Store) -> None:
    store.confirm(*store.create(2, events=("on_death",)).duties)
    store.confirm(*store.record(0, "dead", of=2).duties)
    assert kinds(store.record(1, "dead", of=2)) == []
    assert kinds(store.record(1, "failing", of=2, order=(0, 1))) == []
    assert kinds(store.record(1, "dead", of=2, order=(0, 2))) == []


def test_a_failed_run_comes_to_rest_once_however_often_it_is_looked_at(store: Store) -> None:
    store.confirm(*store.create(2, events=("on_failed", "on_finish")).duties)
    store.record(0, "dead", of=2)
    reply = store.record(1, "dead", of=2)
    assert kinds(reply) == ["on_failed", "on_finish"]
    store.confirm(*reply.duties)
    store.now += LEASE
    for owner in ("sweeper", "0.1", "somebody"):
        assert store.owed(owner) == Reply("clear", note="rests")
    assert store.record(1, "dead", of=2).duties == ()


@pytest.mark.parametrize("state", ["succeeded", "cancelled"])
def test_only_a_run_that_comes_to_rest_as_failed_is_heard_of_as_failed(store: Store, state: str) -> None:
    """Neither one that has succeeded with a dead member after all, nor one that was cancelled."""
    store.confirm(*store.create(2, events=("on_failed",)).duties)
    assert kinds(store.record(0, "dead", of=2)) == []
    if state == "cancelled":
        assert kinds(store.backend.cancel(store.run_id, store.caller("cancel:1"))) == []
    else:
        store.record(0, "succeeded", of=2, order=(0, 1))
        assert kinds(store.record(1, "succeeded", of=2)) == []
    assert store.status().state == state


@pytest.mark.parametrize("duty", ["send", "on_failure"])
def test_a_run_that_fails_of_a_duty_is_heard_of_as_failed_and_finished(store: Store, duty: str) -> None:
    """Whatever the duty was, a callback's too: the run comes to rest, and that is told. A callback that can't be sent
    when the run is at rest already changes nothing of that."""
    reply = store.create(1, events=("on_failure", "on_failed", "on_finish"))
    if duty == "on_failure":
        store.confirm(*reply.duties)
        reply = store.record(0, "failing", of=1)
    (failed,) = reply.duties
    assert failed.kind == duty

    def fail(duty: Duty) -> Reply:
        caller = Caller("somebody", store.now, duty.lease, LEASE)
        return store.backend.fail(store.run_id, duty, failure_details(LookupError("nobody")), caller)

    told = fail(failed)
    alarms = ["on_failure"] if duty == "send" else []
    assert kinds(told) == [*alarms, "on_failed", "on_finish"]
    of_rest = next(one for one in told.duties if one.kind == "on_failed")
    assert isinstance(of_rest, CallBack)
    assert of_rest.snapshot is not None
    assert status_from(store.run_id, of_rest.snapshot).state == "failed"
    store.confirm(*(one for one in told.duties if one is not of_rest))
    assert kinds(fail(of_rest)) == []
    assert store.status().state == "failed"


# What can't be done, and what is sent again


@pytest.mark.parametrize("nested", [False, True], ids=["a run", "a nested run"])
def test_a_callback_that_cannot_be_sent_fails_the_run_and_nothing_else(store: Store, nested: bool) -> None:
    parent = Place("parent", 0, 0) if nested else None
    store.confirm(*store.create(2, events=("on_failure", "on_death"), parent=parent).duties)
    (callback,) = store.record(0, "dead", of=2).duties
    assert callback.kind == "on_death"
    caller = Caller("0.0", store.now, callback.lease, LEASE)
    reply = store.backend.fail(store.run_id, callback, failure_details(LookupError("nobody")), caller)
    assert (reply.word, kinds(reply)) == ("failed", ["tell"] if nested else [])
    store.confirm(*reply.duties)

    reply = store.backend.retry(store.run_id, store.caller("retry:1"))
    assert kinds(reply) == (["retry", "tell"] if nested else ["retry"])
    for duty in reply.duties:
        if duty.kind == "retry":
            assert store.reopen(duty) == (1, [0])
            assert store.reopen(duty, 1) is None
    store.confirm(*(duty for duty in reply.duties if duty.kind == "tell"))
    store.record(0, "succeeded", of=2, order=(1, 0))
    store.confirm(*store.record(1, "succeeded", of=2).duties)
    assert store.backend.spec(store.run_id) is None  # it doesn't wait for that callback to end
    assert (store.backend.snapshot(store.run_id) is None) == nested


def test_members_that_an_earlier_retry_has_not_sent_yet_are_sent_by_the_next_one(store: Store) -> None:
    store.confirm(*store.create(3, limit=1).duties)
    store.confirm(*store.record(0, "dead").duties)  # and 1 is sent
    assert store.backend.retry(store.run_id, store.caller("retry:1")).word == "retried"  # there is no room
    (first,) = (duty for duty in store.record(1, "dead").duties if duty.kind == "retry")
    assert store.backend.retry(store.run_id, store.caller("retry:2")).word == "retried"
    assert store.reopen(first) == (2, [0])
    assert store.reopen(first, 1) is None
    (second,) = (duty for duty in store.record(0, "succeeded", order=(2, 0)).duties if duty.kind == "retry")
    assert store.reopen(second) == (2, [1])


def test_a_member_that_dies_after_a_retry_is_sent_by_a_later_one(store: Store) -> None:
    store.confirm(*store.create(2).duties)
    for attempt in range(3):
        store.confirm(*store.record(0, "dead", of=2, order=(attempt, 0)).duties)
        assert store.counts() == (0, 0, 1)
        (duty,) = store.backend.retry(store.run_id, store.caller(f"retry:{attempt}")).duties
        assert store.counts() == (0, 0, 0)
        assert store.reopen(duty) == (attempt + 1, [0])
        assert store.counts() == (0, 0, 0)
        assert store.reopen(duty, 1) is None


def test_members_of_a_cancelled_run_that_was_retried_stand_as_any_others(store: Store) -> None:
    store.confirm(*store.create(2).duties)
    store.record(0, "failing", of=2)
    store.backend.cancel(store.run_id, store.caller("cancel:1"))
    (resume, again) = store.backend.retry(store.run_id, store.caller("retry:1")).duties
    assert store.standing(2) == ["waiting", None]
    assert store.reopen(again) == (1, [0])
    assert store.standing(2) == ["working", None]
    assert store.confirm(resume) == ["confirmed"]
    store.record(0, "attempted", of=2, order=(1, 0))
    assert kinds(store.record(1, "failing", of=2, order=(1, 0))) == ["on_failure"]
    assert store.standing(2) == ["attempted", "failing"]
    assert store.counts() == (0, 1, 0)


@pytest.mark.parametrize("limit", [None, 2])
def test_sending_again_by_hand_is_a_new_epoch_for_all_that_were_sent(store: Store, limit: int | None) -> None:
    store.confirm(*store.create(3, limit=limit).duties)
    store.record(0, "failing", order=(0, 5))
    reply = store.backend.resend(store.run_id, store.caller("resend:1"))
    assert (reply.word, [duty.id for duty in reply.duties]) == ("resent", [f"resend:0:0:{limit or 3}:1"])
    store.confirm(*reply.duties)
    assert store.record(0, "attempted", order=(1, 0)).word == "counts"
    assert store.record(0, "dead", order=(0, 9)).word == "stale"
    store.backend.cancel(store.run_id, store.caller("cancel:1"))
    assert store.backend.resend(store.run_id, store.caller("resend:2")).word == "nothing"


def test_a_stage_that_is_not_opened_yet_has_nothing_to_send_again(store: Store) -> None:
    store.create(0, 1)
    assert store.backend.resend(store.run_id, store.caller()).word == "nothing"


# Nested runs, once more


def test_a_nested_run_that_only_works_has_not_had_its_attempt(store: Store) -> None:
    store.confirm(*store.create(2).duties)
    assert kinds(store.record(0, "failing", of=2)) == []
    assert kinds(child(store, "working", 1, member=1)) == []
    assert kinds(child(store, "attempted", 2, member=1)) == ["on_failure"]


def test_what_a_jobs_nested_runs_tell_counts_from_their_first_word_on(store: Store) -> None:
    """Their revisions have nothing to do with the attempts that the job needed."""
    store.confirm(*store.create(1, events=()).duties)
    for attempt in range(4):
        store.record(0, "failing", of=1, order=(0, attempt))
    store.confirm(*store.record(0, "succeeded", of=1, order=(0, 4), nested=b"plan").duties)
    assert child(store, "dead", 1).word == "counts"
    assert store.status().state == "failed"


def test_a_run_that_is_gone_is_not_heard_of_again_whatever_its_parents_epoch(store: Store) -> None:
    store.create(2)
    store.backend.resend(store.run_id, store.caller())
    child(store, "failing", 5, epoch=1)
    assert child(store, "dead", LAST).word == "counts"
    assert child(store, "failing", 6, epoch=1).word == "stale"
    assert store.counts() == (0, 0, 1)


def test_the_last_attempt_of_a_job_is_one_of_its_own_epoch(store: Store) -> None:
    """No job has so many attempts, but its message says which one it is."""
    store.create(2)
    store.backend.resend(store.run_id, store.caller())
    store.record(0, "dead", of=2, order=(0, LAST))
    assert store.record(0, "failing", of=2, order=(1, 0)).word == "counts"


@pytest.mark.parametrize("ending", ["attempted", "failing"])
def test_a_late_attempt_of_a_dead_member_takes_no_place_from_the_limit(store: Store, ending: Ending) -> None:
    """Another copy of the message has died, which may be if a worker was killed once it had sent the next attempt."""
    store.confirm(*store.create(3, limit=1).duties)
    store.confirm(*store.record(0, "dead").duties)  # and 1 is sent
    assert store.record(0, ending, order=(0, 1)).word == "stale"
    assert store.standing(3) == ["dead", None, None]
    store.backend.retry(store.run_id, store.caller("retry:1"))  # there is no room
    assert store.record(0, ending, order=(0, 2)).word == "stale"
    assert store.standing(3) == ["waiting", None, None]
    (again,) = (duty for duty in store.record(1, "succeeded").duties if duty.kind == "retry")
    assert store.reopen(again) == (1, [0])
    assert store.record(0, ending, order=(0, 3)).word == "counts"
    assert store.standing(3) == [ending, "succeeded", None]


def test_a_late_attempt_of_before_a_cancel_takes_no_place_from_the_limit(store: Store) -> None:
    store.confirm(*store.create(3, limit=1).duties)
    store.confirm(*store.record(0, "dead").duties)
    store.record(1, "failing")
    store.backend.cancel(store.run_id, store.caller("cancel:1"))
    retried = store.backend.retry(store.run_id, store.caller("retry:1")).duties
    (again,) = (duty for duty in retried if duty.kind == "retry")
    assert store.record(1, "failing", order=(0, 1)).word == "stale"
    assert store.reopen(again) == (1, [0])
    assert store.standing(3) == ["working", "waiting", None]


@pytest.mark.parametrize("ending", ["attempted", "failing", "dead"])
def test_a_retry_after_a_cancel_sends_what_fails_late(store: Store, ending: Ending) -> None:
    """Its next attempt may have come while the run was cancelled, and wasn't wanted then."""
    store.confirm(*store.create(2).duties)
    store.backend.cancel(store.run_id, store.caller("cancel:1"))
    (resume,) = store.backend.retry(store.run_id, store.caller("retry:1")).duties
    assert resume.id == "resume:0:0:2:1"
    assert store.record(1, ending, of=2).word == "stale"
    assert store.standing(2) == [None, None]
    assert store.record(0, "succeeded", of=2).word == "counts"
    assert store.record(1, ending, of=2, order=(1, 0)).word == "counts"


def test_a_nested_run_that_is_retried_by_itself_works_beyond_the_limit(store: Store) -> None:
    store.confirm(*store.create(2, limit=1, nested=True).duties)
    store.confirm(*child(store, "dead", 1).duties)  # and 1 is started
    assert child(store, "working", 2).word == "counts"
    assert store.standing(2) == ["working", None]


def test_the_runs_that_a_job_has_nested_are_halted_with_its_run(store: Store) -> None:
    store.confirm(*store.create(2).duties)
    store.confirm(*store.record(0, "succeeded", of=2, nested=b"plan").duties)
    reply = store.backend.cancel(store.run_id, store.caller("cancel:1"))
    assert [duty.id for duty in reply.duties] == ["halt:0:0:2:0"]


def test_a_retry_halts_nothing_that_it_revives(store: Store) -> None:
    store.confirm(*store.create(2, nested=True).duties)
    assert kinds(store.backend.cancel(store.run_id, store.caller("cancel:1"))) == ["halt"]  # and its caller dies
    assert kinds(store.backend.retry(store.run_id, store.caller("retry:1"))) == ["resume"]
    store.now += LEASE
    assert "halt" not in kinds(store.owed("sweeper"))


@pytest.mark.parametrize("nested", [False, True])
def test_of_a_stage_that_was_not_opened_when_its_run_was_cancelled_nothing_was_sent(
    store: Store, *, nested: bool
) -> None:
    """How many members the limit of the stage before had let go says nothing of this one."""
    store.create(3, None, events=(), limit=2, nested=nested)
    for member in range(3):
        opened = store.record(member, "succeeded")
    assert kinds(opened) == ["open"]  # and its holder dies
    assert kinds(store.backend.cancel(store.run_id, store.caller())) == []
    (duty,) = store.backend.retry(store.run_id, store.caller()).duties
    assert members_of(*store.open(duty, 3).duties) == [0, 1]
    for member in range(3):
        assert store.record(member, "dead", stage=1).word == "counts"
    assert store.status().state == "failed"


def test_what_a_job_nests_after_a_retry_is_started_in_the_epoch_of_that(store: Store) -> None:
    store.create(2, events=())
    store.backend.cancel(store.run_id, store.caller())
    store.backend.retry(store.run_id, store.caller())
    (start,) = store.record(0, "succeeded", of=2, nested=b"plan").duties  # its first copy was at work meanwhile
    assert isinstance(start, StartNested)
    assert (start.id, start.epoch) == ("start:0:0", 1)


def test_what_a_job_has_nested_before_a_retry_does_not_break_the_run_off_again(store: Store) -> None:
    store.create(3, events=(), fail_fast=True)
    store.record(0, "succeeded", nested=b"plan")
    store.record(1, "dead")
    assert store.status().state == "failed"
    store.backend.retry(store.run_id, store.caller())
    for ending in ("failing", "dead"):  # told before, and heard now
        assert child(store, ending, 2).word == "stale"
    assert store.standing(1) == ["waiting"]
    assert child(store, "dead", 3, epoch=1).word == "counts"
    assert store.status().state == "failed"


def test_what_a_job_nests_after_a_retry_counts_whatever_its_epoch(store: Store) -> None:
    """A worker of an older release may have started it, in the first one."""
    store.create(2, events=())
    store.backend.cancel(store.run_id, store.caller())
    store.backend.retry(store.run_id, store.caller())
    store.record(0, "succeeded", of=2, nested=b"plan")
    assert child(store, "dead", 1).word == "counts"


def test_a_cancelled_run_keeps_no_standing_of_a_nested_run_that_has_succeeded(store: Store) -> None:
    store.confirm(*store.create(2, nested=True).duties)
    child(store, "dead", 1, member=1)
    store.backend.cancel(store.run_id, store.caller("cancel:1"))
    assert child(store, "succeeded", 2, member=1).word == "counts"
    assert store.counts() == (1, 0, 0)
    store.backend.retry(store.run_id, store.caller("retry:1"))
    assert store.counts() == (1, 0, 0)
    assert store.standing(2) == [None, "succeeded"]


def test_a_parents_retry_revives_a_run_once_however_many_duties_say_so(store: Store) -> None:
    store.confirm(*store.create(1, events=(), parent=Place("parent", 0, 0)).duties)

    def revived(since: int) -> str:
        reply = store.backend.retry(store.run_id, store.caller(f"revive {since}"), since=since)
        for duty in reply.duties:
            if duty.kind == "retry":
                store.reopen(duty)
                store.reopen(duty, 1)
        store.confirm(*(duty for duty in reply.duties if duty.kind != "retry"))
        return reply.word

    store.confirm(*store.record(0, "dead", of=1).duties)
    assert revived(1) == "retried"
    store.confirm(*store.record(0, "dead", of=1, order=(1, 0)).duties)
    assert revived(1) == "nothing"
    assert revived(2) == "retried"


def test_of_a_nested_run_that_has_told_its_parent_nothing_stays_but_a_tombstone(store: Store) -> None:
    store.confirm(*store.create(1, events=(), parent=Place("parent", 0, 0), generation="0123abcd").duties)
    tag = Tag(store.run_id, 0, 0, 1, generation="0123abcd")
    (tell,) = store.backend.record(Record(tag, 0, "succeeded", b"result"), store.caller(tag.owner)).duties
    assert store.backend.spec(store.run_id) is not None  # who tells it needs that
    assert list(store.backend.results(store.run_id, 0, 0, 1)) == [b"Sresult"]
    assert store.confirm(tell) == ["ends"]
    assert store.backend.snapshot(store.run_id) is None
    assert store.backend.guard(tag, store.now) == "over"
    assert store.backend.record(Record(tag, 0, "succeeded", b"late"), store.caller(tag.owner)).word == "over"
    assert store.create(1, parent=Place("parent", 0, 0), generation="0123abcd").word == "exists"


@pytest.mark.parametrize("callbacks", [1, 3])
def test_what_a_callback_may_read_of_a_nested_run_stays_until_the_callback_has_ended(
    store: Store, callbacks: int
) -> None:
    made: dict[str, Any] = {"events": ("on_success",), "callbacks": callbacks, "parent": Place("parent", 0, 0)}
    store.confirm(*store.create(1, **made, generation="0123abcd").duties)
    tag = Tag(store.run_id, 0, 0, 1, generation="0123abcd")
    owed = store.backend.record(Record(tag, 0, "succeeded", b"result"), store.caller(tag.owner)).duties
    assert [duty.kind for duty in owed] == ["on_success", "tell"]
    assert store.confirm(*owed) == ["confirmed", "ends"]
    assert store.status().state == "succeeded"
    assert list(store.backend.results(store.run_id, 0, 0, 1)) == [b"Sresult"]
    *others, last = (CallbackTag(store.run_id, "0123abcd", owed[0].id, index) for index in range(callbacks))
    for callback in (*others, *others):  # a call whose reply was lost is repeated
        assert store.backend.heard(callback, store.caller("heard")) == "heard"
        assert store.status().state == "succeeded"
    assert store.backend.heard(last, store.caller("heard")) == "heard"
    assert store.backend.snapshot(store.run_id) is None
    assert store.backend.heard(last, store.caller("heard")) == "unknown"


@pytest.mark.parametrize("state", ["working", "failing"])
def test_a_nested_run_is_told_of_again_if_it_has_something_to_tell(store: Store, state: str) -> None:
    store.confirm(*store.create(1, events=(), parent=Place("parent", 0, 0)).duties)
    if state == "failing":
        store.confirm(*store.record(0, "failing", of=1).duties)
    reply = store.backend.retell(store.run_id, store.caller())
    assert (reply.word, kinds(reply)) == ("told", ["tell"] if state == "failing" else [])


def test_an_empty_stage_is_complete_for_whoever_looks_though_nobody_has_opened_it(store: Store) -> None:
    assert kinds(store.create(0, 1)) == ["open"]
    store.now += LEASE
    assert kinds(store.owed("sweeper")) == ["send"]
    assert store.status().stages[0].state == "succeeded"


def test_a_status_is_of_one_moment_though_the_run_moves_on_meanwhile(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """These stores first ask at which stage the run is."""
    assert isinstance(store.backend, RedisBackend)
    ask, moves = store.backend._whereabouts, [(0, 1), (1, 2)]  # noqa: SLF001
    store.confirm(*store.create(1, 2).duties)

    def slow(*given: Any) -> Any:
        found = ask(*given)
        while moves:
            stage, of = moves.pop(0)
            store.record(0, "succeeded", stage=stage, of=of)
        return found

    monkeypatch.setattr(store.backend, "_whereabouts", slow)
    assert [stage.succeeded for stage in store.status().stages] == [1, 1]


def test_what_comes_along_with_a_duty_are_the_rows_of_its_own_members(store: Store) -> None:
    """A store may leave them to be read."""
    plan = Plan(Spec("name"), (StageLine(0, 2, many=True), StageLine(2, 1)), (b"first", b"second", b"third"))
    store.confirm(*store.backend.create(store.run_id, plan, store.caller("run:x"), run_ttl=TTL, result_ttl=TTL).duties)
    store.record(0, "succeeded", of=2)
    (duty,) = store.record(1, "succeeded", of=2).duties
    assert isinstance(duty, SendMembers)
    assert duty.rows in ((), (b"third",))
    assert list(store.backend.rows(store.run_id, 2, 3)) == [b"third"]


def test_a_run_that_was_put_down_for_another_look_meanwhile_is_not_forgotten(store: Store) -> None:
    index, whose = store.backend, f"the application of {store.run_id}"
    index.look_again(store.run_id, 5, run_ttl=TTL, application=whose)
    assert list(index.due(10, 20, 100, application=whose)) == [store.run_id]  # and is put down for 20
    index.look_again(store.run_id, 30, run_ttl=TTL, application=whose)
    index.look_again(store.run_id, None, run_ttl=TTL, application=whose, instead=20)
    assert list(index.due(30, 40, 100, application=whose)) == [store.run_id]
    index.look_again(store.run_id, None, run_ttl=TTL, application=whose, instead=40)
    assert list(index.due(50, 60, 100, application=whose)) == []


# Shares of work


def test_every_member_of_a_wide_stage_is_in_one_share(store: Store) -> None:
    (mine,) = store.create(2_000).duties
    assert isinstance(mine, SendMembers)
    assert mine.leaders > 0
    assert store.owed("sweeper").duties == ()  # they are the leaders'
    shares = [duty for member in range(mine.leaders) for duty in store.owed(f"0.{member}").duties]
    assert len(shares) == mine.leaders
    assert sorted(members_of(mine, *shares)) == list(range(2_000))


def test_the_nested_runs_of_a_wide_stage_are_many_sweepers_work(store: Store) -> None:
    store.confirm(*store.create(400, nested=True).duties)
    reply = store.backend.cancel(store.run_id, store.caller("cancel:1"))
    assert (kinds(reply), reply.note) == (["halt"], "more")
    assert store.owed("somebody").duties == ()  # who tells something has somebody waiting
    members = members_of(*reply.duties)
    store.confirm(*reply.duties)
    while reply.note == "more":
        reply = store.owed("sweeper")
        assert kinds(reply) == ["halt"]  # one at a time, for others may help
        members += members_of(*reply.duties)
        store.confirm(*reply.duties)
    assert members == list(range(400))
    assert store.owed("sweeper") == Reply("clear", note="rests")


# Onward: the next message, in the step that records the success before it


@pytest.mark.parametrize("ending", ["succeeded", "failing"])
def test_a_message_goes_onward_only_where_its_duty_would_be_owed(store: Store, ending: Ending) -> None:
    """Where it doesn't go, what the record causes is owed."""
    store.confirm(*store.create(1, 1).duties)
    duty = SendMembers(1, 0, 1)
    key = f"{store.backend.namespace}-queue"
    script = "redis.call('RPUSH', KEYS[1], ARGV[1]) redis.call('PEXPIRE', KEYS[1], 10000)"
    reply = store.record(0, ending, of=1, along=Along(script, key, duty=duty, enqueue=["message"]))
    owed = [*kinds(reply), *([reply.sent.kind] if reply.sent else [])]
    assert owed == (["send"] if ending == "succeeded" else ["on_failure"])
    assert store.status().stages[0].state == ("succeeded" if ending == "succeeded" else "failing")


# News: what a call has done to its run


def events(reply: Reply) -> list[tuple[str, int, int, int]]:
    return [(one.event, one.stage, one.succeeded, one.dead) for one in reply.news]


def test_each_transition_is_reported_once_however_often_it_is_asked_for(either_way: Store) -> None:
    store = either_way
    assert events(store.create(2, 1)) == [("started", 0, 0, 0)]
    assert events(store.create(2, 1)) == []
    assert events(store.record(0, "failing", of=2)) == []
    assert events(store.record(1, "dead", of=2)) == [("dead", 0, 0, 0), ("failing", 0, 0, 1)]
    assert events(store.record(1, "dead", of=2)) == []
    assert events(store.record(0, "dead", of=2, order=(0, 1))) == [("dead", 0, 0, 0), ("failed", 0, 0, 2)]
    assert events(store.owed("somebody")) == []
    assert events(store.record(0, "failing", of=2, order=(0, 2))) == [("healed", 0, 0, 1), ("failing", 0, 0, 1)]
    assert events(store.record(0, "dead", of=2, order=(0, 3))) == [("dead", 0, 0, 0), ("failed", 0, 0, 2)]
    assert events(store.backend.retry(store.run_id, store.caller())) == [("retried", 0, 0, 2)]
    assert events(store.backend.retry(store.run_id, store.caller())) == []
    assert events(store.backend.resend(store.run_id, store.caller())) == [("resent", 0, 0, 0)]
    assert events(store.record(0, "succeeded", of=2, order=(2, 0))) == []
    assert events(store.record(1, "succeeded", of=2, order=(2, 0))) == [("released", 0, 2, 0)]
    assert events(store.record(1, "succeeded", of=2, order=(2, 0))) == []
    caller = store.caller()
    assert events(store.backend.cancel(store.run_id, caller)) == [("cancelled", 1, 0, 0)]
    assert events(store.backend.cancel(store.run_id, caller)) == []
    assert events(store.backend.retry(store.run_id, store.caller())) == [("retried", 1, 0, 0)]
    assert events(store.record(0, "succeeded", stage=1, of=1, order=(3, 0))) == [("succeeded", 1, 1, 0)]


def test_a_late_success_heals_a_failed_run_and_releases_its_stage(either_way: Store) -> None:
    store = either_way
    store.create(2, 1)
    store.record(0, "succeeded", of=2)
    assert events(store.record(1, "dead", of=2)) == [("dead", 0, 0, 0), ("failed", 0, 1, 1)]
    assert events(store.record(1, "succeeded", of=2)) == [("healed", 0, 2, 0), ("released", 0, 2, 0)]


def test_what_is_reported_has_what_a_line_needs(store: Store) -> None:
    (started,) = store.create(3, 1).news
    assert started == News("started", "name", store.now, 2, 0, "0 3 p")
    (dead,) = store.record(2, "dead").news
    assert (dead.event, dead.member, json.loads(dead.failure)["text"]) == ("dead", 2, "dead")


def test_a_duty_that_fails_its_run_is_reported(store: Store) -> None:
    (duty,) = store.create(2).duties
    caller = store.caller()._replace(lease=duty.lease)
    reply = store.backend.fail(store.run_id, duty, failure_details(ValueError("no")), caller)
    assert events(reply) == [("failed", 0, 0, 0)]
    (failed,) = reply.news
    assert (failed.member, json.loads(failed.failure)["text"]) == (None, "no")


# Whose run it is


def test_a_message_of_another_generation_is_no_message_of_this_run(store: Store) -> None:
    store.create(2, generation="0123abcd")
    tag = Tag(store.run_id, 0, 0, 2, generation="76543210")
    assert store.backend.guard(tag, store.now) == "unknown"
    assert store.backend.record(Record(tag, 0, "failing", b"{}"), store.caller(tag.owner)).word == "unknown"
    assert store.counts() == (0, 0, 0)
    tag = Tag(store.run_id, 0, 0, 2, generation="0123abcd")
    assert store.backend.guard(tag, store.now) == "go"


def test_the_tombstone_of_a_run_that_is_gone_says_nothing_of_another_run_of_that_id(store: Store) -> None:
    store.confirm(*store.create(1, events=(), parent=Place("parent", 0, 0), generation="0123abcd").duties)
    tag, other = (Tag(store.run_id, 0, 0, 1, generation=name) for name in ("0123abcd", "76543210"))
    record = Record(tag, 0, "succeeded", b"result")
    assert store.confirm(*store.backend.record(record, store.caller(tag.owner)).duties) == ["ends"]
    for late, word in ((tag, "over"), (other, "unknown")):
        assert store.backend.guard(late, store.now) == word
        assert store.backend.record(record._replace(tag=late), store.caller(late.owner)).word == word


def test_what_was_meant_for_another_run_of_that_id_changes_nothing(store: Store) -> None:
    """A parent that has lost its nested run speaks of that one, and not of the one that has its id now."""
    store.create(1, parent=Place("parent", 0, 0), generation="0123abcd")
    backend, caller, before = store.backend, store.caller(), store.status()
    assert backend.cancel(store.run_id, caller, bury=0, generation="76543210").word == "unknown"
    assert backend.retry(store.run_id, caller, since=1, generation="76543210").word == "unknown"
    assert backend.resend(store.run_id, caller, generation="76543210").word == "unknown"
    assert backend.retell(store.run_id, caller, generation="76543210").word == "unknown"
    assert store.status() == before


def test_a_run_belongs_to_the_application_that_has_started_it(store: Store) -> None:
    plan = Plan(Spec(), (StageLine(0, 1),), (b"row",))
    theirs = Caller("run:x", store.now, "lease", LEASE, application="theirs")
    mine = Caller("run:y", store.now, "lease", LEASE, application="mine")
    assert store.backend.create(store.run_id, plan, theirs, run_ttl=TTL, result_ttl=TTL).word == "created"
    reply = store.backend.create(store.run_id, plan, mine, run_ttl=TTL, result_ttl=TTL)
    assert (reply.word, reply.note) == ("foreign", "theirs")
    with pytest.raises(ForeignRun):
        store.backend.cancel(store.run_id, mine)


# An id is freed, and had by other runs

EARLIER, LATER = "0123abcd", "76543210"

#: How a run of one member, with one event, comes to rest.
RESTS: dict[str, Callable[[Store], Reply]] = {
    "succeeded": lambda store: store.record_of(EARLIER, "succeeded"),
    "failed": lambda store: store.record_of(EARLIER, "dead"),
    "cancelled": lambda store: store.backend.cancel(store.run_id, store.caller("cancel:1")),
}


@pytest.mark.parametrize("state", RESTS)
def test_a_run_at_rest_is_deleted_and_its_late_messages_are_over(store: Store, state: str) -> None:
    store.create(1, events=(), generation=EARLIER)
    assert store.delete(EARLIER) == Reply("works")
    RESTS[state](store)
    assert store.status().state == state
    assert [store.delete(EARLIER, asks=True).word, store.delete(EARLIER).word] == ["rests", "deleted"]
    assert store.delete(EARLIER) == Reply("unknown")
    assert store.backend.snapshot(store.run_id) is None
    assert store.parts() == {"past"}
    for _ in range(2):  # the second time another run has the id
        assert store.guard_of(EARLIER) == "over"
        assert store.record_of(EARLIER, "succeeded").word == store.record_of(EARLIER, "dead").word == "over"
        assert store.guard_of("89abcdef") == "unknown"
        store.create(1, events=(), generation=LATER)
    assert store.counts() == (0, 0, 0)
    assert store.guard_of(LATER) == "go"


def test_of_a_run_that_has_expired_only_the_id_is_freed(store: Store) -> None:
    store.confirm(*store.create(1, events=(), generation=EARLIER, claim="claim").duties)
    store.confirm(*store.record_of(EARLIER, "succeeded").duties)
    store.expire_head()
    assert store.occupant() == Occupant(EARLIER, "gone", claimed=True)
    assert store.create(1, generation=LATER, claim="claim", owner="run:y").word == "exists"
    assert [store.delete(LATER).word, store.delete(EARLIER, asks=True).word] == ["unknown", "rests"]
    assert [store.delete(EARLIER).word, store.delete(EARLIER).word] == ["freed", "unknown"]
    assert store.occupant() is None
    assert store.create(1, generation=LATER, claim="other").word == "created"
    assert store.guard_of(EARLIER) == "over"


@pytest.mark.parametrize("state", RESTS)
def test_what_others_wait_for_is_done_before_a_run_is_deleted(store: Store, state: str) -> None:
    store.confirm(*store.create(1, events=("on_finish",), generation=EARLIER).duties)
    (duty,) = RESTS[state](store).duties
    for asks in (True, False):
        assert store.delete(EARLIER, asks=asks) == Reply("owing")  # somebody else holds it
    store.now += LEASE
    (mine,) = store.delete(EARLIER, asks=True).duties
    assert (mine.id, mine.repeated) == (duty.id, True)
    assert store.delete(EARLIER).word == "owing"
    store.confirm(mine)
    assert store.delete(EARLIER).word == "deleted"


def test_what_could_not_be_sent_or_sends_what_is_settled_keeps_nobody_from_deleting(store: Store) -> None:
    (duty,) = store.create(2, events=(), generation=EARLIER).duties
    store.backend.fail(store.run_id, duty, failure_details(LookupError("nobody")), store.holder(duty))
    assert store.delete(EARLIER).word == "deleted"
    store.create(1, events=(), generation=LATER)  # and its duty isn't confirmed
    store.record_of(LATER, "dead")
    assert store.delete(LATER).word == "deleted"


def test_a_run_that_may_make_room_is_never_taken_out_of_the_index_at_once(store: Store) -> None:
    """Who has heard that it is over may be late, and another run have the id by then. A sweeper takes it out, which can
    tell."""
    for claim, word in (("", "ends"), ("claim", "rests")):
        store.create(1, events=(), generation=EARLIER, claim=claim)
        assert store.record_of(EARLIER, "succeeded").note == word
        store.delete(EARLIER)
        store.create(1, events=("on_finish",), generation=EARLIER, claim=claim)
        assert store.confirm(*store.record_of(EARLIER, "succeeded").duties) == [word]
        store.delete(EARLIER)


def test_the_last_generations_of_an_id_are_known_and_each_once(store: Store) -> None:
    names = [f"{number:08x}" for number in range(10)]
    for name in (*names, names[-1]):
        store.create(1, events=(), generation=name)
        store.record_of(name, "dead")
        assert store.delete(name).word == "deleted"
    assert [store.guard_of(name) for name in names] == ["unknown"] * 2 + ["over"] * 8


def test_an_id_may_be_free_as_soon_as_its_run_is_at_rest(store: Store) -> None:
    store.confirm(*store.create(1, events=(), generation=EARLIER, claim="claim", frees=True).duties)
    assert store.occupant() == Occupant(EARLIER, "running", claimed=True, frees=True)
    assert store.create(1, generation=LATER, claim="other").word == "taken"
    store.confirm(*store.record_of(EARLIER, "succeeded").duties)
    assert store.create(1, generation=LATER, claim="other").word == "taken"  # as long as its result is there
    store.expire_head()
    assert store.occupant() == Occupant(EARLIER, "gone", claimed=True, frees=True)
    assert store.guard_of(EARLIER) == "over"
    assert store.create(1, generation=LATER, claim="other").word == "created"
    assert store.guard_of(EARLIER) == "over"
    assert store.occupant() == Occupant(LATER, "running", claimed=True)


# Stages are done again


def rewound(store: Store, stage: int, earlier: str, later: str) -> Reply:
    data = store.backend.spec(store.run_id)
    spec = replace(Spec("name") if data is None else Spec.from_bytes(data), generation=later)
    before = store.backend.snapshot(store.run_id)
    reply = store.backend.rewind(store.run_id, stage, spec, store.caller("retry:x"), generation=earlier)
    if reply.word == "rewound" and before is not None and before["head"]["gen"] == earlier:
        store.backend.drop_pass(store.run_id, before, stage)
    return reply


def succeed_all(store: Store, generation: str, *totals: int, first: int = 0) -> Reply:
    """All members of these stages succeed, from the stage `first` on."""
    for stage, of in enumerate(totals, first):
        for duty in store.owed("retry:x").duties:
            if isinstance(duty, OpenStage):
                store.open(duty, of)
        for member in range(of):
            reply = store.record(member, "succeeded", stage=stage, of=of, generation=generation)
        for duty in reply.duties:
            if isinstance(duty, OpenStage) and stage + 1 - first < len(totals):
                store.open(duty, totals[stage + 1 - first])
    return reply


def confirm_all(store: Store) -> None:
    for _ in range(3):
        store.now += LEASE
        store.confirm(*store.owed(SWEEPER).duties)


@pytest.mark.parametrize("stage", range(4))
def test_stages_are_done_again_and_those_before_keep_what_they_have(either_way: Store, stage: int) -> None:
    store, totals = either_way, (2, 1, 3, 1)
    store.create(2, 1, None, 1, events=("on_finish",), keeps=True, generation=EARLIER, tolerant=True, waits=(7,) * 4)
    store.record(0, "dead", of=2, generation=EARLIER)
    store.record(1, "succeeded", of=2, generation=EARLIER)
    succeed_all(store, EARLIER, *totals[1:], first=1)
    assert rewound(store, stage, EARLIER, LATER).word == "owing"
    confirm_all(store)
    before = store.status()
    assert before.state == "succeeded"
    store.now += 60_000
    reply = rewound(store, stage, EARLIER, LATER)
    assert (reply.word, reply.note) == ("rewound", "wakes")
    assert [one.event for one in reply.news] == ["rewound"]
    (duty,) = reply.duties
    assert (duty.kind, duty.generation) == ("open" if stage == 2 else "send", LATER)
    assert rewound(store, stage, EARLIER, LATER).word == "rewound"  # the same call, repeated
    assert rewound(store, stage, EARLIER, "89abcdef").word == "unknown"  # another one
    after = store.status()
    assert (after.state, after.progress, after.created) == ("running", stage / 4, before.created)
    assert [one.state for one in after.stages] == ["succeeded"] * stage + ["running"] + ["waiting"] * (3 - stage)
    assert after.stages[2].total == (3 if stage > 2 else None)
    assert [(one.stage, one.index) for one in after.failures] == ([(0, 0)] if stage else [])
    assert after.failure_counts == ({"ValueError": 1} if stage else {})
    line = StageLine.parse(store.backend.line(store.run_id, stage) or "")
    assert line.start_at is not None
    assert line.start_at < store.now  # it has waited before
    for later in range(stage + 1, 4):
        assert StageLine.parse(store.backend.line(store.run_id, later) or "").start_at is None
    for index, of in enumerate(totals):
        found = list(store.backend.results(store.run_id, index, 0, of, generation=LATER))
        fields = [b"S%d" % member for member in range(of)]
        assert found == ([b"", b"S1"] if index == 0 else fields) if index < stage else [None] * of
    assert [member for member, _ in store.backend.failures(store.run_id, 0)] == ([0] if stage else [])
    for tag in (Tag(store.run_id, stage, 0, totals[stage], generation=name) for name in (EARLIER, LATER)):
        assert store.backend.guard(tag, store.now) == (
            "over" if tag.generation == EARLIER else "unknown" if stage == 2 else "go"
        )
    assert store.record(0, "dead", stage=stage, of=totals[stage], generation=EARLIER).word == "over"
    assert store.status().stages == after.stages
    succeed_all(store, LATER, *totals[stage:], first=stage)
    confirm_all(store)
    assert store.status().state == "succeeded"
    assert store.sweep() == "rests"
    lives = store.backend.snapshot(store.run_id)
    assert lives is not None
    assert store.delete(LATER).word == "deleted"
    assert store.parts() == {"past"}


def test_what_is_kept_is_found_however_often_stages_are_done_again(store: Store) -> None:
    """The keys of stages are in up to four generations then."""
    totals, names = (1,) * 6, [f"{number:08x}" for number in range(8)]
    store.create(*totals, events=(), keeps=True, generation=names[0])
    succeed_all(store, names[0], *totals)
    confirm_all(store)
    for turn, stage in enumerate((5, 3, 5, 4, 2, 1, 0), 1):
        assert rewound(store, stage, names[turn - 1], names[turn]).word == "rewound"
        found = [list(store.backend.results(store.run_id, index, 0, 1)) for index in range(6)]
        assert found == [[b"S0"]] * stage + [[None]] * (6 - stage)
        confirm_all(store)
        succeed_all(store, names[turn], *totals[stage:], first=stage)
        confirm_all(store)
        assert store.status().state == "succeeded"
        assert [list(store.backend.results(store.run_id, index, 0, 1)) for index in range(6)] == [[b"S0"]] * 6
        assert [store.guard_of(name) for name in names[:turn]] == ["over"] * turn
    lives = store.lives_of_members(range(6))
    assert len(lives) == 6
    assert max(lives) - min(lives) < 60_000, lives
    store.delete(names[-1])
    assert store.parts() == {"past"}


@pytest.mark.parametrize("state", ["failed", "cancelled", "broken off", "failed of a duty"])
def test_whatever_a_run_came_to_is_forgotten_when_its_stage_is_done_again(store: Store, state: str) -> None:
    said: Any = {"fail_fast": True} if state == "broken off" else {}
    (duty,) = store.create(3, 1, events=("on_failure",), keeps=True, generation=EARLIER, **said).duties
    store.record(0, "dead", generation=EARLIER)
    if state == "failed of a duty":
        store.backend.fail(store.run_id, duty, failure_details(LookupError("nobody")), store.holder(duty))
    elif state == "cancelled":
        store.backend.cancel(store.run_id, store.caller("cancel:1"))
    elif state == "failed":
        for member in (1, 2):
            store.record(member, "dead" if member == 2 else "succeeded", generation=EARLIER)
    confirm_all(store)
    assert store.status().state == state.split()[0].replace("broken", "failed")
    reply = rewound(store, 0, EARLIER, LATER)
    assert members_of(*reply.duties) == [0, 1, 2]
    status = store.status()
    assert (status.state, status.failures, status.failure_counts, status.error) == ("running", (), {}, None)
    for member in range(3):
        assert store.record(member, "succeeded", generation=EARLIER).word == "over"
    assert store.counts() == (0, 0, 0)
    assert store.record(0, "failing", order=(0, 1), generation=LATER).word == "counts"
    reply = succeed_all(store, LATER, 3)
    assert kinds(reply) == ["send"]


def test_a_stage_that_is_done_again_while_it_waits_begins_at_once(store: Store) -> None:
    store.create(1, 1, events=(), keeps=True, generation=EARLIER, waits=(None, 60_000))
    store.record(0, "succeeded", of=1, generation=EARLIER)
    store.backend.cancel(store.run_id, store.caller())
    confirm_all(store)
    (duty,) = rewound(store, 1, EARLIER, LATER).duties
    assert isinstance(duty, SendMembers)
    assert StageLine.parse(duty.line).start_at == store.now


def test_what_cannot_be_done_again_stays_as_it_is(store: Store) -> None:
    store.create(1, 1, 1, events=(), keeps=True, generation=EARLIER)
    assert rewound(store, 0, EARLIER, LATER).word == "works"
    store.record(0, "succeeded", of=1, generation=EARLIER)
    store.record(0, "dead", stage=1, of=1, generation=EARLIER)
    confirm_all(store)
    before = store.backend.snapshot(store.run_id)
    assert [rewound(store, stage, EARLIER, LATER).word for stage in (2, 3)] == ["refused"] * 2
    assert rewound(store, 0, "89abcdef", LATER).word == "unknown"
    with pytest.raises(ForeignRun):
        store.backend.rewind(
            store.run_id, 0, Spec(generation=LATER), store.caller()._replace(application="mine"), generation=EARLIER
        )
    assert isinstance(store.backend, RedisBackend)
    client: Any = store.backend.client
    client.execute_command("DEL", f"{store.backend.namespace}:{{{store.run_id}}}:members:0:{EARLIER}")
    assert rewound(store, 1, EARLIER, LATER).word == "expired"
    assert store.backend.snapshot(store.run_id) == before
    assert rewound(store, 0, EARLIER, LATER).word == "rewound"


def test_the_keys_of_an_earlier_pass_that_nobody_reads_go(store: Store) -> None:
    store.create(1, 1, None, events=("on_failed",), keeps=True, generation=EARLIER)
    succeed_all(store, EARLIER, 1, 1)
    store.backend.cancel(store.run_id, store.caller("cancel:1"))
    confirm_all(store)
    store.confirm(*rewound(store, 1, EARLIER, LATER).duties)
    assert store.generations() == {"members:0": {LATER}, "members:1": {LATER}, "plan": {LATER}}


def test_a_nested_run_that_is_deleted_with_its_parent_is_not_started_late(store: Store) -> None:
    place = Place("parent", 0, 0, 2)
    store.create(1, parent=place, generation=EARLIER)
    store.backend.cancel(store.run_id, store.caller("halt 2"), bury=2, generation=EARLIER)
    store.now += LEASE
    for duty in store.backend.owed(store.run_id, store.caller(SWEEPER)).duties:
        store.confirm(duty)
    assert store.delete(EARLIER, bury=2).word == "deleted"
    assert store.create(1, parent=place, generation=EARLIER).word == "exists"
    assert store.create(1, parent=replace(place, epoch=3), generation=EARLIER).word == "created"  # of a retry
    # A later run of the parent's id nests a run there; then a process comes back that was to start the earlier one.
    assert store.create(1, parent=place, generation=LATER).word == "created"
    assert store.create(1, parent=replace(place, epoch=9), generation=EARLIER, owner="late").word == "exists"
    assert [store.guard_of(EARLIER), store.guard_of(LATER)] == ["over", "go"]


def test_who_has_an_id_is_told_of_many_at_once(store: Store) -> None:
    store.create(1, generation=EARLIER)
    store.backend.cancel("buried", store.caller(), bury=1, generation=LATER)
    found = store.backend.occupants([*(f"nobody {n}" for n in range(600)), store.run_id, "buried"])
    assert [*found[:600], found[-1]] == [None] * 601
    assert found[600] == Occupant(EARLIER, "running")
    assert store.backend.occupants([]) == []


def test_another_applications_run_is_not_deleted(store: Store) -> None:
    store.create(1, events=(), generation=EARLIER)
    store.record_of(EARLIER, "dead")
    with pytest.raises(ForeignRun):
        store.backend.delete(store.run_id, store.caller()._replace(application="mine"), generation=EARLIER)
    assert store.status().state == "failed"


def test_another_clutch_under_a_claimed_id_is_refused(store: Store) -> None:
    plan = Plan(Spec(), (StageLine(0, 1),), (b"row",))

    def create(owner: str, claim: str) -> str:
        caller = store.caller(owner)
        return store.backend.create(store.run_id, plan, caller, run_ttl=TTL, result_ttl=TTL, claim=claim).word

    assert [create("a", "one"), create("b", "one"), create("c", "other")] == ["created", "exists", "taken"]


def test_a_plan_is_written_once_however_often_its_chunks_are_and_never_sealed_without_one(store: Store) -> None:
    caller = store.caller("run:x")
    plan = Plan(Spec(), (StageLine(0, 4, many=True),), (b"row",) * 4)

    def create(draft: str) -> Reply:
        return store.backend.create(store.run_id, plan, caller, run_ttl=TTL, result_ttl=TTL, draft=draft)

    with pytest.raises(DamagedState):
        store.backend.draft(store.run_id, "gone", 2, [b"2", b"3"], caller, run_ttl=TTL)
    store.backend.draft(store.run_id, "half", 0, [b"0", b"1"], caller, run_ttl=TTL)
    with pytest.raises(DamagedState):
        create("half")
    for offset, rows in ((0, [b"0", b"1"]), (0, [b"0", b"1"]), (2, [b"2", b"3"]), (2, [b"2", b"3"])):
        store.backend.draft(store.run_id, "whole", offset, rows, caller, run_ttl=TTL)
    assert create("whole").word == "created"
    assert list(store.backend.rows(store.run_id, 0, 9)) == [b"0", b"1", b"2", b"3"]


# Looking whether anything happens


def test_a_run_to_which_nothing_happens_is_stalled_and_told_of_once(store: Store) -> None:
    assert store.sweep() == "unknown"
    (duty,) = store.create(2).duties
    assert store.sweep() == "owing"
    store.confirm(duty)
    store.now += LEASE
    assert [store.sweep(), store.sweep()] == ["stalled", "works"]
    store.record(0, "failing", of=2)
    assert store.sweep() == "works"
    store.now += LEASE
    assert [store.sweep(), store.sweep()] == ["stalled", "works"]
    store.backend.cancel(store.run_id, store.caller("cancel:1"))
    assert store.sweep() == "rests"


@pytest.mark.parametrize("who_says_so", ["the record", "a touch"])
def test_a_run_of_which_something_is_delayed_is_not_stalled(store: Store, who_says_so: str) -> None:
    store.confirm(*store.create(1, events=()).duties)
    due = store.now + 5 * LEASE
    store.record(0, "failing", of=1, due=due if who_says_so == "the record" else 0)
    if who_says_so == "a touch":
        assert store.backend.touch(store.run_id, store.caller(), due=due) == "touched"
    assert store.sweep() == "works"
    store.now = due - 1
    assert store.sweep() == "works"
    store.now = due
    assert store.sweep() == "stalled"


@pytest.mark.parametrize("who_says_so", ["the record", "a touch"])
def test_a_run_outlives_what_is_delayed_by_its_ttl(store: Store, who_says_so: str) -> None:
    store.create(2, 1)
    due = store.now + 5 * TTL
    store.record(0, "failing", of=2, due=due if who_says_so == "the record" else 0)
    assert who_says_so == "the record" or store.backend.touch(store.run_id, store.caller(), due=due) == "touched"
    store.record(1, "succeeded", of=2)
    for part in ("head", "plan", "members:0", "standing:0", "attempts:0", "outbox"):
        assert 5.9 * TTL < time_left(store.backend, f"{store.backend.namespace}:{{{store.run_id}}}:{part}") <= 6 * TTL


def time_left(backend: ClutchBackend, key: str) -> float:
    """How long a key lives, in milliseconds."""
    if isinstance(backend, StubBackend):
        return backend.keyspace.expires[key.encode()] - backend.clock.now()
    assert isinstance(backend, RedisBackend)
    return float(cast(Any, backend.client).pttl(key))


def test_of_a_run_with_nested_ones_only_its_caller_can_tell_whether_it_is_stalled(store: Store) -> None:
    store.confirm(*store.create(2, nested=True).duties)
    store.sweep()
    store.now += LEASE
    assert store.sweep() == "quiet"
    assert store.sweep(waits_for_jobs=True) == "stalled"


def test_a_run_that_is_not_there_is_unknown_whatever_is_asked_of_it(store: Store) -> None:
    backend, caller = store.backend, store.caller()
    assert backend.touch(store.run_id, caller) == "unknown"
    verbs = (backend.owed, backend.cancel, backend.retry, backend.resend, backend.retell)
    assert [verb(store.run_id, caller).word for verb in verbs] == ["unknown"] * 5


def test_a_queued_job_of_a_cancelled_run_is_not_wanted(store: Store) -> None:
    store.create(2)
    tag = Tag(store.run_id, 0, 0, 2)
    assert store.backend.guard(tag, store.now) == "go"
    store.backend.cancel(store.run_id, store.caller("cancel:1"))
    assert store.backend.guard(tag, store.now) == "over"


def test_a_sleeper_whose_duty_has_passed_on_can_neither_open_nor_fail_it(store: Store) -> None:
    (mine,) = store.create(None).duties
    store.now += LEASE
    (theirs,) = store.owed("sweeper").duties
    caller = Caller("run:x", store.now, mine.lease, LEASE)
    assert store.backend.fail(store.run_id, mine, failure_details(LookupError("gone")), caller).word == "lost"
    assert store.open(mine, 0).word == "lost"
    assert store.open(theirs, 0).word == "opened"


# The register (tests/test_listing.py has the rest)


def test_a_run_that_was_enlisted_is_found_and_leaves_when_there_are_newer_ones(store: Store) -> None:
    turn = store.create(1).turn
    assert turn is not None
    assert (turn.number, turn.state) == (1, "running")
    backend, keeping = store.backend, Keeping(0, TTL, TTL)
    backend.enlist([Enlisted(store.run_id, turn.entry())], store.now, keeping, application="")
    found = backend.look_through([label("state", "running")], 10, application="")
    assert found.runs == ((store.run_id, turn.entry()),)
    ended = store.record(0, "succeeded", of=1).turn
    assert ended is not None
    assert (ended.number, ended.state, ended.ended) == (2, "succeeded", store.now)
    left = backend.enlist([Enlisted(store.run_id, ended.entry())], store.now, keeping, application="")
    assert list(left) == [(store.run_id, turn.generation)]
    backend.shorten(left)
    assert store.status().state == "succeeded"
    assert backend.look_through([label("all")], 10, application="").runs == ()


# The members of a stage, each by itself (tests/test_members.py has the rest)

#: Under which state a member is shown of which this was recorded.
SHOWN = {"nothing": "sent", "attempted": "sent", "failing": "failing", "dead": "dead", "succeeded": "succeeded"}


def look_into(store: Store, stage: int | None = None, start: int = 0, most: int = 100, **wanted: Any) -> StageGlance:
    found = store.backend.look_into(store.run_id, stage, start, most, **wanted)
    assert found is not None
    return found


def shown(store: Store, stage: int | None = None, **wanted: Any) -> list[str]:
    return [member.state for member in look_into(store, stage, **wanted).members]


def indexes(found: StageGlance) -> list[int]:
    return [member.index for member in found.members]


@pytest.mark.parametrize("state", STATES)
def test_a_member_is_shown_as_it_stands(either_way: Store, state: str) -> None:
    store = either_way
    store.confirm(*store.create(3, 1).duties)
    ending, order, _ = STATES[state]
    if ending is not None:
        store.record(1, ending, order=order)
    assert shown(store) == ["sent", SHOWN[state], "sent"]
    assert shown(store, stage=1) == ["unsent"]
    (member,) = [one for one in look_into(store, 0).members if one.index == 1]
    assert ("ValueError" in member.failure) == (state in ("attempted", "failing", "dead"))
    assert look_into(store).dead == (state == "dead")


def test_what_is_not_sent_yet_is_shown_as_unsent(store: Store) -> None:
    (duty,) = store.create(5).duties
    assert shown(store) == ["unsent"] * 5
    store.backend.confirm(store.run_id, duty, store.holder(duty), cursor=2)
    assert shown(store) == ["sent"] * 2 + ["unsent"] * 3
    store.record(3, "succeeded", of=5)  # its message was sent, though that isn't confirmed
    assert shown(store) == ["sent"] * 2 + ["unsent", "succeeded", "unsent"]
    assert indexes(look_into(store, state="unsent")) == [2, 4]
    store.confirm(duty)
    assert shown(store) == ["sent"] * 3 + ["succeeded", "sent"]


def test_what_waits_to_be_sent_again_is_shown_as_unsent(store: Store) -> None:
    store.confirm(*store.create(4).duties)
    for member in (0, 2):
        store.record(member, "dead", of=4)
    assert shown(store) == ["dead", "sent", "dead", "sent"]
    (again,) = store.backend.retry(store.run_id, store.caller("retry:x")).duties
    assert shown(store) == ["unsent", "sent"] * 2
    assert indexes(look_into(store, state="unsent")) == [0, 2]
    assert shown(store, state="dead") == []
    assert store.reopen(again) == (1, [0, 2])
    assert shown(store) == ["sent"] * 4


def test_of_a_run_at_rest_with_unsettled_members_these_are_unsent(store: Store) -> None:
    store.confirm(*store.create(4).duties)
    for member, ending in enumerate(("succeeded", "failing", "attempted")):
        store.record(member, cast(Ending, ending), of=4)
    store.backend.cancel(store.run_id, store.caller("cancel:1"))
    assert shown(store) == ["succeeded", "failing", "unsent", "unsent"]
    duties = store.backend.retry(store.run_id, store.caller("retry:x")).duties
    assert shown(store) == ["succeeded"] + ["unsent"] * 3
    for duty in duties:
        if isinstance(duty, SendAgain):
            assert store.reopen(duty) == (1, [1, 2])
    assert shown(store) == ["succeeded", "sent", "sent", "unsent"]
    store.confirm(*(duty for duty in duties if not isinstance(duty, SendAgain)))
    assert shown(store) == ["succeeded", "sent", "sent", "sent"]


def test_nested_runs_are_shown_as_working_until_they_tell(store: Store) -> None:
    store.confirm(*store.create(3, nested=True).duties)  # the rows of these tests begin like those of nested runs
    assert shown(store) == ["working"] * 3
    assert {member.row for member in look_into(store).members} == {b"r"}  # and not the plan of a whole run
    tag = Tag(store.run_id, 0, 1, 3)
    store.backend.record(Record(tag, 1, "failing", b"", of_run=True), store.caller("child"))
    assert shown(store) == ["working", "failing", "working"]
    store.backend.record(Record(tag, 2, "attempted", b"", of_run=True), store.caller("child"))
    assert shown(store) == ["working"] * 3
    assert indexes(look_into(store, state="working", most=2)) == [0, 1]


def test_a_job_that_has_nested_runs_is_shown_as_working(store: Store) -> None:
    store.confirm(*store.create(2).duties)
    store.record(0, "succeeded", of=2, nested=b"plan")
    assert shown(store) == ["working", "sent"]
    assert [member.nests for member in look_into(store).members] == [True, False]
    assert indexes(look_into(store, state="working")) == [0]


@pytest.mark.parametrize("state", ["failing", "dead"])
def test_those_that_are_failing_or_dead_are_found_without_looking_at_others(store: Store, state: Any) -> None:
    store.confirm(*store.create(2_500).duties)
    for member in (3, 1_700, 2_400):
        store.record(member, state, of=2_500)
    first = look_into(store, most=2, state=state)
    assert (indexes(first), first.go_on) == ([3, 1_700], 2_400)
    second = look_into(store, start=2_400, most=2, state=state)
    assert (indexes(second), second.go_on) == ([2_400], None)


def test_a_page_looks_at_a_thousand_members_at_most(store: Store) -> None:
    store.confirm(*store.create(2_500).duties)
    store.record(2_400, "succeeded", of=2_500)
    found = look_into(store, state="succeeded")
    assert (found.members, found.go_on) == ((), 1_000)
    assert indexes(look_into(store, start=2_000, state="succeeded")) == [2_400]


def test_a_member_that_waits_when_its_stage_is_complete_without_it_is_skipped(store: Store) -> None:
    store.confirm(*store.create(4, 1, enough=1, keeps=True).duties)
    store.record(0, "dead", of=4)
    store.backend.retry(store.run_id, store.caller("retry:x"))
    store.record(1, "dead", of=4, order=(1, 0))
    store.record(3, "succeeded", of=4)
    assert store.status().stages[0].skipped == 2
    assert shown(store, stage=0) == ["skipped", "dead", "skipped", "succeeded"]
    assert indexes(look_into(store, 0, state="dead")) == [1]
    assert indexes(look_into(store, 0, state="skipped")) == [0, 2]


def test_the_members_of_a_stage_that_is_longer_over(store: Store) -> None:
    store.create(3, 1, 1, tolerant=True)
    for member, ending in enumerate(("succeeded", "dead", "succeeded")):
        store.record(member, cast(Ending, ending))
    store.record(0, "succeeded", stage=1, of=1)
    assert shown(store, stage=0) == ["succeeded", "dead", "succeeded"]
    (dead,) = look_into(store, 0, state="dead").members
    assert (dead.index, "ValueError" in dead.failure) == (1, True)
    assert (look_into(store, 0).over, look_into(store, 2).over) == (True, False)


def test_a_mapped_stage_has_no_members_before_it_is_opened(store: Store) -> None:
    (duty,) = store.create(None).duties
    assert look_into(store).members == ()
    store.open(duty, 2)
    assert shown(store) == ["unsent"] * 2


@pytest.mark.parametrize("stage", range(1, 3))
def test_the_members_of_stages_before_those_that_are_done_again(store: Store, stage: int) -> None:
    store.create(2, 1, 1, keeps=True, generation=EARLIER, tolerant=True)
    store.record(0, "dead", of=2, generation=EARLIER)
    store.record(1, "succeeded", of=2, generation=EARLIER)
    succeed_all(store, EARLIER, 1, 1, first=1)
    confirm_all(store)
    assert rewound(store, stage, EARLIER, LATER).word == "rewound"
    assert shown(store, stage=0) == ["dead", "succeeded"]
    assert shown(store, stage=stage) == ["unsent"]
    senders = [look_into(store, index).sender for index in range(3)]
    assert senders == [EARLIER] * stage + [LATER] * (3 - stage)
    succeed_all(store, LATER, *[1] * (3 - stage), first=stage)
    confirm_all(store)
    assert rewound(store, 2, LATER, "89abcdef").word == "rewound"
    assert [look_into(store, index).sender for index in range(3)] == [*senders[:2], "89abcdef"]


def test_nothing_is_shown_of_a_run_or_a_stage_that_is_not_there(store: Store) -> None:
    assert store.backend.look_into(store.run_id, None, 0, 10) is None
    store.create(1)
    assert look_into(store, 1).line is None
    assert look_into(store, 0, start=5).members == ()


def test_it_is_told_when_a_failing_member_is_attempted_again(either_way: Store) -> None:
    store, now = either_way, either_way.backend.now()
    store.confirm(*store.create(4, 1, events=("on_failure",)).duties)
    assert store.status().stages[0].next_attempt is None
    for member, due in ((0, now + 90_000), (1, now + 60_000), (2, now - 1)):
        reply = store.record(member, "failing", of=4, due=due)
    assert store.status().stages[0].next_attempt == now + 60_000  # the one of before is on its way, or at work
    assert [member.due for member in look_into(store).members] == [now + 90_000, now + 60_000, now - 1, None]
    reply = store.record(3, "dead", of=4)
    (alarm,) = [duty for duty in reply.duties if isinstance(duty, CallBack)]
    assert alarm.snapshot is not None
    assert status_from(store.run_id, alarm.snapshot).stages[0].next_attempt == now - 1  # as its caller's clock has it
    store.record(1, "succeeded", of=4)
    assert store.status().stages[0].next_attempt == now + 90_000
    store.record(0, "dead", of=4, order=(0, 1))
    assert store.status().stages[0].next_attempt is None
    assert [member.due for member in look_into(store).members] == [None, None, now - 1, None]


@pytest.mark.parametrize("then", ["attempted", "dead", "succeeded", "nests"])
def test_nothing_is_due_of_a_member_that_is_not_failing_any_more(store: Store, then: str) -> None:
    store.confirm(*store.create(2).duties)
    store.record(0, "failing", of=2, due=store.backend.now() + 60_000)
    assert "due" in store.parts()
    if then == "nests":
        store.record(0, "succeeded", of=2, order=(0, 1), nested=b"plan")
    else:
        store.record(0, cast(Ending, then), of=2, order=(0, 1))
    assert "due" not in store.parts()


def test_nothing_is_due_in_a_run_at_rest_or_of_what_a_retry_sends_again(store: Store) -> None:
    due = store.backend.now() + 60_000
    store.confirm(*store.create(2).duties)
    store.record(0, "failing", of=2, due=due)
    store.backend.cancel(store.run_id, store.caller("cancel:1"))
    assert store.status().stages[0].next_attempt is None
    assert look_into(store).members[0].due is None
    store.backend.retry(store.run_id, store.caller("retry:x"))
    assert store.status().stages[0].next_attempt is None
    assert "due" not in store.parts()
    store.record(0, "failing", of=2, due=due, order=(1, 0))
    assert store.status().stages[0].next_attempt == due


def test_nothing_is_due_of_a_stage_that_is_complete(store: Store) -> None:
    store.confirm(*store.create(2, 1, enough=1).duties)
    store.record(0, "failing", of=2, due=store.backend.now() + 60_000)
    store.record(1, "succeeded", of=2)
    assert "due" not in store.parts()


def test_what_the_limit_held_back_is_skipped_when_its_stage_is_complete_without_it(store: Store) -> None:
    store.confirm(*store.create(4, enough=1, limit=2).duties)
    store.record(1, "succeeded", of=4)
    assert store.status().state == "succeeded"
    assert indexes(look_into(store, state="skipped")) == [0, 2, 3]
    assert indexes(look_into(store, state="succeeded")) == [1]


# When a stage was released, began, and was settled


def times_of(status: RunStatus) -> list[tuple[int | None, int | None, int | None]]:
    return [(stage.released, stage.began, stage.settled) for stage in status.stages]


def test_a_stage_tells_when_it_was_released_began_and_was_settled(either_way: Store) -> None:
    store, start = either_way, either_way.now
    store.confirm(*store.create(3, 1, 1, events=("on_success",)).duties)
    assert times_of(store.status()) == [(start, None, None), (None, None, None), (None, None, None)]
    store.now += 100
    for member, began in ((2, start + 20), (1, start + 10)):  # the first record tells
        store.record(member, "succeeded", of=3, began=began)
        assert times_of(store.status())[0] == (start, start + 20, None)
    store.record(0, "succeeded", of=3, began=start + 5)
    first, second = (start, start + 20, start + 100), (start + 100, start + 150, start + 200)
    assert times_of(store.status()) == [first, (start + 100, None, None), (None, None, None)]
    store.now += 100
    store.record(0, "succeeded", stage=1, of=1, began=start + 150)
    assert times_of(store.status()) == [first, second, (start + 200, None, None)]
    assert (store.status().ended, store.status().duration) == (None, None)
    store.now += 50
    reply = store.record(0, "succeeded", stage=2, of=1, began=start + 240)
    (duty,) = [duty for duty in reply.duties if isinstance(duty, CallBack)]
    assert duty.snapshot is not None
    for status in (store.status(), status_from(store.run_id, duty.snapshot)):
        assert times_of(status) == [first, second, (start + 200, start + 240, start + 250)]
        assert (status.ended, status.duration) == (start + 250, 0.25)
        assert [(stage.waited, stage.duration) for stage in status.stages] == [(0.02, 0.08), (0.05, 0.05), (0.04, 0.01)]


def test_records_that_are_counted_together_tell_the_earliest_beginning(store: Store) -> None:
    store.confirm(*store.create(3).duties)
    assert isinstance(store.backend, RedisBackend)
    records = [Record(Tag(store.run_id, 0, member, 3), 0, "succeeded", b"1", began=9 - member) for member in (0, 2, 1)]
    words = store.backend.succeed_together([Success(record, None, "", "") for record in records])
    assert words == [b"counts", b"counts", b"look"]
    assert times_of(store.status())[0][1] == 7


@pytest.mark.parametrize("end", ["failed", "cancelled", "broken off"])
def test_a_run_that_rested_and_is_retried_has_ended_when_it_rests_again(either_way: Store, end: str) -> None:
    store, start = either_way, either_way.now
    store.confirm(*store.create(2, events=("on_failure", "on_failed"), fail_fast=end == "broken off").duties)
    store.record(0, "failing", of=2, began=start + 1)
    store.now += 10
    if end == "cancelled":
        reply = store.backend.cancel(store.run_id, store.caller("cancel:1"))
    else:
        if end == "failed":
            store.record(1, "succeeded", of=2, began=start + 2)
        reply = store.record(0, "dead", of=2, order=(0, 1), began=start + 3)
    rested = [(start, start + 1, start + 10)]
    assert (times_of(store.status()), store.status().ended) == (rested, start + 10)
    for duty in reply.duties:
        if isinstance(duty, CallBack) and duty.event == "on_failed":
            assert duty.snapshot is not None
            assert times_of(status_from(store.run_id, duty.snapshot)) == rested
    store.now += 10
    assert store.backend.retry(store.run_id, store.caller("retry:1")).word == "retried"
    assert (times_of(store.status()), store.status().ended) == ([(start, start + 1, None)], None)
    for member in (0, 1):
        store.record(member, "succeeded", of=2, order=(1, 2), began=start + 15)
    assert (times_of(store.status()), store.status().ended) == ([(start, start + 1, start + 20)], start + 20)


def test_a_nested_run_that_succeeds_after_a_cancel_tells_when_the_stage_began_if_it_is_the_first(store: Store) -> None:
    start = store.now
    store.confirm(*store.create(2, nested=True).duties)
    store.now += 10
    store.backend.cancel(store.run_id, store.caller("cancel:1"))
    assert times_of(store.status()) == [(start, None, start + 10)]
    for member, began in enumerate((start + 3, start + 2)):
        assert child(store, "succeeded", 1, member=member, began=began).word == "counts"
        assert times_of(store.status()) == [(start, start + 3, start + 10)]
    store.now += 10
    store.backend.retry(store.run_id, store.caller("retry:1"))
    assert times_of(store.status()) == [(start, start + 3, start + 20)]


def test_a_duty_that_can_not_be_done_settles_the_stage_before_the_alarm_tells(store: Store) -> None:
    (duty,) = store.create(2).duties
    store.now += 10
    reply = store.backend.fail(store.run_id, duty, failure_details(LookupError("nobody")), store.holder(duty))
    (alarm,) = [duty for duty in reply.duties if isinstance(duty, CallBack)]
    assert alarm.snapshot is not None
    for status in (store.status(), status_from(store.run_id, alarm.snapshot)):
        assert (times_of(status), status.ended) == ([(store.now - 10, None, store.now)], store.now)
        assert (status.stages[0].waited, status.stages[0].duration) == (None, 0.01)


def test_a_stage_without_members_never_begins_and_a_run_without_stages_has_ended(store: Store) -> None:
    (opening,) = store.create(None, 1).duties
    store.now += 10
    store.open(opening, 0)
    assert times_of(store.status()) == [(store.now - 10, None, store.now), (store.now, None, None)]
    other = Store(store.backend)
    other.create()
    assert (other.status().ended, other.status().duration) == (other.now, 0.0)


def test_a_skipped_member_leaves_the_times_of_its_stage(either_way: Store) -> None:
    store, start = either_way, either_way.now
    store.confirm(*store.create(3, 1, enough=1).duties)
    store.now += 10
    store.record(2, "succeeded", of=3, began=start + 4)
    assert times_of(store.status()) == [(start, start + 4, start + 10), (start + 10, None, None)]
    store.record(0, "succeeded", of=3, began=start + 1)
    assert times_of(store.status())[0] == (start, start + 4, start + 10)


def test_a_rewind_begins_the_times_of_its_stages_anew(store: Store) -> None:
    start = store.now
    store.confirm(*store.create(1, 1, 1, events=(), generation=EARLIER, keeps=True).duties)
    for stage in range(3):
        store.now += 10
        store.record(0, "succeeded", stage=stage, of=1, generation=EARLIER, began=store.now - 1)
    confirm_all(store)
    first, now = (start, start + 9, start + 10), store.now
    assert rewound(store, 1, EARLIER, LATER).word == "rewound"
    assert times_of(store.status()) == [first, (now, None, None), (None, None, None)]
    assert (store.status().ended, store.status().created) == (None, start)


@pytest.mark.parametrize("then", ["at work", "complete"])
def test_what_an_older_release_has_released_has_no_times_until_it_is_settled(store: Store, then: str) -> None:
    store.confirm(*store.create(1, 1, events=()).duties)
    store.drop_fields("t0", "ended")
    assert (times_of(store.status()), store.status().ended) == ([(None, None, None)] * 2, None)
    if then == "complete":
        store.record(0, "succeeded", of=1, began=7)
        assert times_of(store.status()) == [(None, 7, store.now), (store.now, None, None)]
        assert store.status().stages[0].waited is None
        store.record(0, "succeeded", stage=1, of=1)  # an older worker records
        store.drop_fields("t0", "t1", "ended")
        assert (times_of(store.status()), store.status().ended) == ([(None, None, None)] * 2, None)


def test_clocks_that_differ_make_no_time_less_than_nothing() -> None:
    stage = StageStatus("succeeded", 1, 1, released=2_000, began=1_000, settled=500)
    assert (stage.waited, stage.duration) == (0.0, 0.0)


# When and where members were at work


def timings(store: Store, stage: int | None = None) -> list[tuple[str, int | None, int | None, str | None]]:
    return [(one.state, one.began, one.ended, one.worker) for one in look_into(store, stage).members]


def timed(store: Store, *totals: int | None, **more: Any) -> int:
    """A run with timings, whose first stage is sent. Returns when it has begun."""
    store.confirm(*store.create(*totals, timed=True, **more).duties)
    return store.now


IDLE = ("sent", None, None, None)


def test_a_member_tells_when_and_where_it_was_at_work(either_way: Store) -> None:
    store, start = either_way, timed(either_way, 3, 1)
    assert timings(store) == [IDLE] * 3
    assert [store.begin(1, at=start + 5, worker="one"), store.begin(2, at=start + 6, worker="two")] == ["go"] * 2
    at_work = [IDLE, ("working", start + 5, None, "one"), ("working", start + 6, None, "two")]
    assert timings(store) == at_work
    assert [indexes(look_into(store, state=state)) for state in ("sent", "working")] == [[0], [1, 2]]
    store.now += 10
    for _ in range(2):  # the same call, repeated, says nothing else
        store.record(1, "succeeded", began=start + 5, worker="one")
        assert timings(store)[1] == ("succeeded", start + 5, start + 10, "one")
        store.now += 1
    store.record(2, "dead", began=start + 6, worker="two")
    assert timings(store)[2] == ("dead", start + 6, start + 12, "two")
    assert store.begin(1, at=start + 20, worker="three") == "done"
    assert timings(store)[1] == ("succeeded", start + 5, start + 10, "one")


@pytest.mark.parametrize("last", [True, False])
def test_the_record_that_completes_a_stage_tells_it_too(either_way: Store, last: bool) -> None:
    store, start = either_way, timed(either_way, *([2] if last else [2, 1]))
    for member in (0, 1):
        store.begin(member, of=2, at=start + member)
    for member in (0, 1):
        store.now += 10
        store.record(member, "succeeded", of=2, began=start + member, worker="w")
    assert timings(store, 0) == [("succeeded", start, start + 10, "w"), ("succeeded", start + 1, start + 20, "w")]
    if not last:
        assert timings(store) == [("unsent", None, None, None)]


def test_a_job_that_succeeds_though_a_nested_run_has_told_in_its_place_has_its_end(store: Store) -> None:
    """Of the same attempt, as it seems: what the run has told of isn't over yet, and what the job has done is."""
    start = timed(store, 3)
    tag, caller = Tag(store.run_id, 0, 1, 3), store.caller("job")._replace(touch=True)
    store.backend.record(Record(tag, 0, "failing", failure_details(ValueError()), of_run=True, began=start), caller)
    assert timings(store)[1][1:3] == (start, None)
    store.now += 10
    caller = store.caller("job")._replace(touch=True)
    store.backend.record(Record(tag, 0, "succeeded", b"1", began=start, worker="w"), caller)
    assert timings(store)[1] == ("succeeded", start, start + 10, "w")


def test_a_failing_member_whose_next_attempt_has_begun_is_at_work(store: Store) -> None:
    start = timed(store, 3)
    store.begin(1, at=start)
    store.now += 10
    store.record(1, "failing", began=start, worker="w", due=start + 50)
    assert timings(store)[1] == ("failing", start, start + 10, "w")
    assert (indexes(look_into(store, state="failing")), indexes(look_into(store, state="working"))) == ([1], [])
    store.begin(1, at=start + 50, order=(0, 1), worker="other")
    assert timings(store)[1] == ("working", start + 50, None, "other")
    assert (indexes(look_into(store, state="failing")), indexes(look_into(store, state="working"))) == ([], [1])
    assert "ValueError" in look_into(store).members[1].failure
    store.now += 50
    store.record(1, "attempted", order=(0, 1), began=start + 50, worker="other")
    assert timings(store)[1] == ("sent", start + 50, start + 60, "other")


#: What happens after the attempt 1 of epoch 0 has begun at 10, and perhaps ended as `failing` at 20; and whether the
#: member is at work then, by when it began and ended.
BEGINNINGS = {
    "nothing": (None, ("working", 10, None), ("failing", 10, 20)),
    "the same call": ((0, 1, 10), ("working", 10, None), ("failing", 10, 20)),
    "the same call, asked earlier": ((0, 1, 9), ("working", 10, None), ("failing", 10, 20)),
    "the same message, redelivered": ((0, 1, 12), ("working", 12, None), ("working", 12, None)),
    "an earlier attempt": ((0, 0, 30), ("working", 10, None), ("failing", 10, 20)),
    "a later attempt": ((0, 2, 30), ("working", 30, None), ("working", 30, None)),
    "a later attempt, by a clock that is behind": ((0, 2, 5), ("working", 5, None), ("working", 5, None)),
    "a later epoch": ((1, 0, 30), ("working", 30, None), ("working", 30, None)),
}


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("then", BEGINNINGS)
def test_only_a_later_attempt_begins(store: Store, then: str, ended: bool) -> None:
    start = timed(store, 3)
    store.begin(1, at=start + 10, order=(0, 1))
    store.now += 20
    if ended:
        store.record(1, "failing", began=start + 10, order=(0, 1), worker="w")
    beginning, *expected = BEGINNINGS[then]
    if beginning is not None:
        epoch, attempt, at = beginning
        assert store.begin(1, at=start + at, order=(epoch, attempt)) == "go"
    state, began, over = expected[ended]
    assert began is not None
    assert timings(store)[1] == (state, start + began, over and start + over, "w")


#: What is recorded (ending, epoch, attempt, began) at 30 when attempt 1 of epoch 0 has begun at 10; and what is shown.
ENDS = {
    "the same attempt fails": (("failing", 0, 1, 10), ("failing", 10, 30)),
    "an older attempt fails": (("failing", 0, 0, 2), ("working", 10, None)),
    "an older attempt is dead": (("dead", 0, 0, 2), ("dead", 10, None)),
    "a later attempt fails, of an older release": (("failing", 0, 2, 20), ("failing", 20, 30)),
    "an older attempt succeeds": (("succeeded", 0, 0, 2), ("succeeded", 2, 30)),
    "it succeeds": (("succeeded", 0, 1, 10), ("succeeded", 10, 30)),
    "it succeeds without having begun": (("succeeded", 0, 1, 0), ("succeeded", None, 30)),
}


@pytest.mark.parametrize("then", ENDS)
def test_an_older_attempts_end_is_not_the_members_unless_it_succeeds(either_way: Store, then: str) -> None:
    store, start = either_way, timed(either_way, 3)
    store.begin(1, at=start + 10, order=(0, 1))
    store.now += 30
    (ending, epoch, attempt, began), (state, since, until) = ENDS[then]
    for _ in range(2):
        store.record(1, cast(Ending, ending), order=(epoch, attempt), began=began and start + began, worker="w")
        assert timings(store)[1] == (state, since and start + since, until and start + until, "w")
        store.now += 1


def test_what_has_no_say_any_more_has_ended_all_the_same(store: Store) -> None:
    start = timed(store, 3)
    store.begin(1, at=start, worker="slow")
    store.record(1, "failing", began=start, worker="slow")
    store.begin(1, at=start + 5, worker="redelivered")
    assert timings(store)[1] == ("working", start + 5, None, "redelivered")
    store.now += 10
    assert store.record(1, "failing", began=start + 5, worker="redelivered").word == "stale"
    assert timings(store)[1] == ("failing", start + 5, start + 10, "redelivered")


def test_after_a_success_other_copies_change_nothing(either_way: Store) -> None:
    store, start = either_way, timed(either_way, 3)
    store.begin(1, at=start, worker="slow")
    store.begin(1, at=start + 5, order=(1, 0), worker="again")
    store.now += 10
    store.record(1, "succeeded", began=start, worker="slow")
    store.now += 10
    assert store.record(1, "succeeded", began=start + 5, order=(1, 0), worker="again").word == "duplicate"
    assert timings(store)[1] == ("succeeded", start, start + 10, "slow")


def test_a_job_that_has_nested_runs_ends_when_these_do(store: Store) -> None:
    start = timed(store, 2)
    store.begin(1, of=2, at=start + 1)
    store.now += 10
    for _ in range(2):
        store.record(1, "succeeded", of=2, nested=b"plan", began=start + 1, worker="w")
        assert timings(store)[1] == ("working", start + 1, None, "w")
        store.now += 5
    for revision, ending in enumerate(("failing", "dead"), 1):
        child(store, cast(Ending, ending), revision, member=1, began=start + 10)
    assert timings(store)[1] == ("dead", start + 1, start + 20, "w")
    store.backend.retry(store.run_id, store.caller())
    child(store, "working", 1, member=1, epoch=1, began=start + 10)
    assert timings(store)[1] == ("working", start + 1, None, "w")
    store.now += 5
    child(store, "succeeded", 2, member=1, epoch=1, began=start + 10)
    assert timings(store)[1] == ("succeeded", start + 1, start + 25, "w")


def test_a_nested_runs_times_are_its_own_once_it_has_told(store: Store) -> None:
    start = timed(store, 3, nested=True)
    child(store, "failing", 1, member=1, began=start + 3)
    assert timings(store)[1] == ("failing", start + 3, None, None)
    assert indexes(look_into(store, state="failing")) == [1]
    store.now += 10
    child(store, "succeeded", 2, member=1, began=start + 3)
    store.backend.cancel(store.run_id, store.caller())
    store.now += 10
    assert child(store, "succeeded", 1, member=2, began=start + 4).word == "counts"
    assert timings(store)[1:] == [
        ("succeeded", start + 3, start + 10, None),
        ("succeeded", start + 4, start + 20, None),
    ]


@pytest.mark.parametrize("end", ["cancelled", "broken off"])
def test_what_was_at_work_before_a_run_came_to_rest_is_not_after_its_retry(store: Store, end: str) -> None:
    start = timed(store, 4, events=(), fail_fast=True)
    for member in (0, 1, 2):
        store.begin(member, of=4, at=start)
    store.record(2, "failing", of=4, began=start, worker="w")
    store.begin(2, of=4, at=start + 1, order=(0, 1))
    if end == "cancelled":
        store.backend.cancel(store.run_id, store.caller())
    else:
        store.record(3, "dead", of=4)
    assert [state for state, *_ in timings(store)[:3]] == ["unsent", "unsent", "failing"]
    store.now += 10
    assert store.record(0, "failing", of=4, began=start, worker="w").word == "over"
    assert timings(store)[0] == ("unsent", start, start + 10, "w")
    (resume, *others) = store.backend.retry(store.run_id, store.caller()).duties
    store.confirm(resume)
    assert "working" not in [state for state, *_ in timings(store)]
    assert store.begin(1, of=4, at=store.now, order=(1, 0)) == "go"
    assert timings(store)[1] == ("working", store.now, None, "w")
    assert indexes(look_into(store, state="working")) == [1]
    assert others


def test_a_skipped_member_ends_when_its_worker_says_so(store: Store) -> None:
    start = timed(store, 3, 1, enough=1)
    for member in (0, 1):
        store.begin(member, at=start + member)
    store.now += 10
    store.record(1, "succeeded", began=start + 1, worker="w")
    skipped = ("skipped", None, None, None)
    assert timings(store, 0) == [("skipped", start, None, "w"), ("succeeded", start + 1, start + 10, "w"), skipped]
    store.now += 10
    assert store.record(0, "succeeded", began=start, worker="w").word == "over"
    assert timings(store, 0)[0] == ("skipped", start, start + 20, "w")


@pytest.mark.parametrize("keeps", [False, True])
def test_timings_are_kept_as_long_as_the_results(either_way: Store, keeps: bool) -> None:
    store, start = either_way, timed(either_way, 1, 1, 1, 1, events=(), generation=EARLIER, keeps=keeps)
    kept = ("succeeded", start, start, "w")
    for stage in range(4):
        assert store.begin(0, stage=stage, of=1, generation=EARLIER) == "go"
        store.record(0, "succeeded", stage=stage, of=1, generation=EARLIER, began=start, worker="w")
        if stage == 2:
            held = [one for one in range(3) if timings(store, one) == [kept]]
            assert held == ([0, 1, 2] if keeps else [2])  # the next stage reads the results of the last one
    confirm_all(store)
    held = [stage for stage in range(4) if timings(store, stage) == [kept]]
    assert held == ([0, 1, 2, 3] if keeps else [3])
    if keeps:
        assert rewound(store, 2, EARLIER, LATER).word == "rewound"
        found = [timings(store, stage) for stage in range(4)]
        assert found == [[kept], [kept], *[[("unsent", None, None, None)]] * 2]
        store.backend.cancel(store.run_id, store.caller())
        assert store.delete(LATER).word == "deleted"
        assert "times" not in {name.split(":")[0] for name in store.names() if name.endswith(LATER)}
        assert "times:0" not in store.generations()


def test_a_run_without_timings_keeps_none(either_way: Store) -> None:
    store = either_way
    store.confirm(*store.create(3).duties)
    assert store.begin(1, worker="w") == "go"
    store.record(1, "succeeded", began=store.now, worker="w")
    store.record(2, "dead", began=store.now, worker="w")
    assert [began for _, began, _, _ in timings(store)] == [None] * 3
    assert "times" not in store.parts()


@pytest.mark.parametrize("then", ["succeeds", "dies"])
def test_what_an_older_release_lets_go_is_known_once_it_has_ended(either_way: Store, then: str) -> None:
    store, start = either_way, timed(either_way, 3)
    store.now += 10
    store.record(1, "succeeded" if then == "succeeds" else "dead", began=start + 2)
    assert timings(store)[1][1:] == (start + 2, start + 10, None)


def test_what_begins_when_the_members_are_gone_leaves_nothing(store: Store) -> None:
    timed(store, 3)
    assert isinstance(store.backend, RedisBackend)
    client: Any = store.backend.client
    (members,) = [name for name in store.names() if name.startswith("members:0")]
    client.execute_command("DEL", f"{store.backend.namespace}:{{{store.run_id}}}:{members}")
    assert store.begin(1) == "go"
    assert "times" not in store.parts()


# Callbacks: whom they call, and when they fired


def row_of(actor: str, queue: str) -> bytes:
    return to_row(Message(queue, actor, (), {}, {}))


#: A callback that calls an actor whose name has whatever the stored text is made of.
TELL = row_of("tell @me, =100%\n", "low")


def callbacks_in(store: Store, event: str | None = None) -> list[CallbackStatus]:
    """How the callbacks of the run stand, or those of an event."""
    found = callbacks_of(cast(Any, SimpleNamespace(backend=store.backend)), store.run_id, "")
    assert found is not None
    return [one for one in found if event in (None, one.event)]


def stands(store: Store, event: str) -> list[tuple[str | None, int | None, int | None, int | None]]:
    """The state of each of an event's callbacks; since when it is owed, when it was sent, and when it has ended."""
    return [(one.state, one.owed, one.sent, one.ended) for one in callbacks_in(store, event)]


def hear(store: Store, duty: Duty, index: int, ending: CallbackEnding) -> str:
    tag = CallbackTag(store.run_id, duty.generation, duty.id, index)
    return store.backend.heard(tag, store.caller("heard"), ending)


def give_up(store: Store, duty: Duty) -> Reply:
    details = failure_details(LookupError("nobody"))
    return store.backend.fail(store.run_id, duty, details, store.holder(duty))


def test_a_run_tells_whom_its_callbacks_call_in_the_order_in_which_they_fire(store: Store) -> None:
    store.create(1, events=sorted(EVENTS), callbacks=2, row=TELL)
    found = callbacks_in(store)
    assert [one.event for one in found] == [event for event in EVENTS for _ in range(2)]
    assert {(one.actor, one.queue, one.state, one.count) for one in found} == {
        ("tell @me, =100%\n", "low", "unfired", 0)
    }
    assert {(one.stage, one.owed, one.sent, one.ended, one.message_id) for one in found} == {(None,) * 5}


@pytest.mark.parametrize("row", [row_of("tell", "default"), row_with_result(row_of("tell", "default")), b"row"])
def test_a_callback_on_the_usual_queue_with_a_result_or_unreadable(store: Store, row: bytes) -> None:
    store.create(1, events=("on_success",), row=row)
    (found,) = callbacks_in(store)
    assert (found.actor, found.queue) == ((None, None) if row == b"row" else ("tell", "default"))
    store.record(0, "succeeded", of=1)
    (found,) = callbacks_in(store)
    assert (found.state, found.message_id is None) == ("owed", row == b"row")


def test_a_run_without_callbacks_tells_of_none_and_one_that_is_not_there_of_nothing(store: Store) -> None:
    assert store.backend.firings(store.run_id) is None
    store.create(1, events=(), generation=EARLIER)
    assert store.backend.firings(store.run_id) == Firings({}, {})
    assert store.backend.firings(store.run_id, generation=EARLIER) == Firings({}, {})
    assert store.backend.firings(store.run_id, generation=LATER) is None


@pytest.mark.parametrize("event", ["on_failure", "on_death", "on_failed", "on_finish", "on_success", COMPLETION])
def test_a_callback_is_unfired_then_owed_then_sent_and_then_it_has_ended(either_way: Store, event: str) -> None:
    store = either_way
    store.confirm(*store.create(2, events=(event,), callbacks=2, row=TELL, generation=EARLIER).duties)
    store.record(1, "succeeded", of=2)
    assert stands(store, event) == [("unfired", None, None, None)] * 2
    store.now += 10
    (duty,) = store.record(0, "succeeded" if event in ("on_success", COMPLETION) else "dead", of=2).duties
    since = store.now
    store.now += 10
    assert stands(store, event) == [("owed", since, None, None)] * 2
    store.confirm(duty)
    sent = store.now
    assert stands(store, event) == [("sent", since, sent, None)] * 2
    for index, ending in enumerate[CallbackEnding](("dead", "succeeded")):
        store.now += 10
        assert hear(store, duty, index, ending) == "heard"
    ended = [("dead", since, sent, sent + 10), ("succeeded", since, sent, sent + 20)]
    assert stands(store, event) == ended
    first, second = callbacks_in(store, event)
    ids = [CallbackTag(store.run_id, EARLIER, duty.id, index, str(first.actor)).message_id for index in (0, 1)]
    assert [first.message_id, second.message_id] == ids
    assert (first.stage, first.count) == (0, 1)
    store.owed(SWEEPER)
    assert stands(store, event) == ended


def test_what_is_sent_by_two_because_the_first_was_killed_counts_once(store: Store) -> None:
    """Whoever was killed before it could confirm; and the same confirmation twice, whose reply was lost."""
    store.confirm(*store.create(1, events=("on_success",), row=TELL).duties)
    (held,) = store.record(0, "succeeded", of=1).duties
    store.record(0, "succeeded", of=1)
    since = store.now
    hear(store, held, 0, "succeeded")  # its message was sent, and has ended
    store.now += LEASE
    (again,) = store.owed(SWEEPER).duties
    assert stands(store, "on_success") == [("succeeded", since, None, since)]
    store.now += 10
    assert store.confirm(held, again, again) == ["lost", "ends", "lost"]
    assert stands(store, "on_success") == [("succeeded", since, store.now, since)]
    assert [one.count for one in callbacks_in(store)] == [1]


def test_of_an_event_that_fires_again_the_last_time_is_told_and_how_often_it_was(either_way: Store) -> None:
    store = either_way
    store.confirm(*store.create(1, 1, events=("on_death", "on_failed"), row=TELL).duties)
    first = {duty.kind: duty for duty in store.record(0, "dead", of=1).duties}
    store.confirm(*first.values())
    for duty in store.backend.retry(store.run_id, store.caller("retry:1")).duties:
        store.reopen(duty)
        store.reopen(duty, 1)
    store.confirm(*store.record(0, "succeeded", of=1, order=(1, 0)).duties)
    assert [(one.count, one.stage, one.state) for one in callbacks_in(store)] == [(1, 0, "sent")] * 2
    store.now += 10
    second = {duty.kind: duty for duty in store.record(0, "dead", stage=1, of=1, order=(1, 0)).duties}
    assert first.keys() == second.keys() == {"on_death", "on_failed"}
    hear(store, first["on_death"], 0, "dead")  # it has ended late, and isn't the one that is told of
    store.confirm(first["on_death"])
    assert [(one.count, one.stage, one.state) for one in callbacks_in(store)] == [(2, 1, "owed")] * 2
    assert stands(store, "on_failed") == [("owed", store.now, None, None)]
    store.confirm(second["on_death"])
    assert [one.state for one in callbacks_in(store)] == ["sent", "owed"]


def test_a_callback_that_ends_twice_has_succeeded_if_it_has_once(store: Store) -> None:
    """Its message may come twice; then there are two ends of it."""
    store.confirm(*store.create(1, events=("on_failed",), callbacks=12, row=TELL).duties)
    (duty,) = store.record(0, "dead", of=1).duties
    store.confirm(duty)
    for index in (1, 11):
        hear(store, duty, index, "dead")
    store.now += 10
    hear(store, duty, 1, "succeeded")
    hear(store, duty, 11, "dead")
    ended = store.now
    store.now += 10
    hear(store, duty, 1, "dead")
    found = callbacks_in(store)
    assert {index: one.state for index, one in enumerate(found) if one.ended} == {1: "succeeded", 11: "dead"}
    assert (found[1].ended, found[11].ended) == (ended, ended)


@pytest.mark.parametrize("unsent", [[], [1], [0, 1, 2]])
def test_a_callback_that_cannot_be_sent_is_dead_and_was_not_sent(store: Store, unsent: list[int]) -> None:
    """Where no message is to blame, as when the plan can't be read, none was sent."""
    store.confirm(*store.create(1, events=("on_success",), callbacks=3, row=TELL).duties)
    (duty,) = store.record(0, "succeeded", of=1).duties
    for index in unsent:
        hear(store, duty, index, "unsent")
    assert [one.state for one in callbacks_in(store)] == ["dead" if one in unsent else "owed" for one in range(3)]
    assert give_up(store, duty).word == "failed"
    dead, sent = ("dead", store.now, None, store.now), ("sent", store.now, store.now, None)
    assert stands(store, "on_success") == [dead if index in unsent or not unsent else sent for index in range(3)]
    for index in set(range(3)) - set(unsent):
        hear(store, duty, index, "succeeded")
    states = ["dead" if index in unsent else "succeeded" for index in range(3)]
    assert [one.state for one in callbacks_in(store)] == states


@pytest.mark.parametrize("history", [0, 10 * TTL])
def test_what_is_known_of_callbacks_stays_as_long_as_the_status(either_way: Store, history: int) -> None:
    store = either_way
    store.confirm(*store.create(1, events=("on_death", "on_success"), row=TELL, history=history).duties)
    (duty,) = store.record(0, "succeeded", of=1).duties
    store.confirm(duty)
    hear(store, duty, 0, "succeeded")
    assert store.backend.spec(store.run_id) is None
    assert stands(store, "on_success") == [("succeeded",) + (store.now,) * 3]
    assert stands(store, "on_death") == [("unfired", None, None, None)]
    assert {one.actor for one in callbacks_in(store)} == {"tell @me, =100%\n"}


def test_a_snapshot_does_not_say_whom_callbacks_call(store: Store) -> None:
    store.create(1, events=EVENTS, row=TELL)
    snapshot = store.backend.snapshot(store.run_id)
    assert snapshot is not None
    assert "calls" not in snapshot["head"]


def test_of_a_run_that_an_older_release_has_begun_the_times_are_not_known(store: Store) -> None:
    """What it hasn't noted can't be told, but for whom a run calls whose plan is still there."""
    store.confirm(*store.create(1, events=("on_death", "on_failed", "on_success"), callbacks=2, row=TELL).duties)
    store.confirm(*store.record(0, "dead", of=1).duties)
    store.drop_fields("calls", "fired_on_death", "fired_on_failed")
    found = callbacks_in(store)
    assert [one.event for one in found] == [*["on_death"] * 2, *["on_success"] * 2, *["on_failed"] * 2]
    assert {(one.actor, one.state, one.count, one.owed, one.sent) for one in found} == {
        ("tell @me, =100%\n", None, 0, None, None)
    }
    (duty,) = store.record(0, "succeeded", of=1, order=(0, 1)).duties
    assert stands(store, "on_success") == [("owed", store.now, None, None)] * 2
    store.confirm(duty)
    for index in range(2):
        hear(store, duty, index, "succeeded")
    assert {(one.actor, one.queue) for one in callbacks_in(store)} == {(None, None)}
    assert {one.event: one.state for one in callbacks_in(store)} == {
        "on_death": None,
        "on_success": "succeeded",
        "on_failed": None,
    }


def test_a_callback_that_an_older_release_has_sent_is_sent_at_a_time_that_is_not_known(store: Store) -> None:
    store.confirm(*store.create(1, events=("on_failed",), row=TELL).duties)
    (duty,) = store.record(0, "dead", of=1).duties
    backend: Any = store.backend
    (outbox,) = [name for name in store.names() if name.startswith("outbox")]
    backend.client.execute_command("HDEL", f"{backend.namespace}:{{{store.run_id}}}:{outbox}", duty.id)
    assert stands(store, "on_failed") == [("sent", store.now, None, None)]


def test_a_callback_that_is_confirmed_while_it_is_looked_at_is_sent(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.confirm(*store.create(1, events=("on_failed",), row=TELL).duties)
    (duty,) = store.record(0, "dead", of=1).duties
    look: Any = vars(RedisFirings)["_owed"]

    def confirm_first(*looked_for: Any) -> Any:
        store.confirm(duty)
        return look(*looked_for)

    monkeypatch.setattr(RedisFirings, "_owed", confirm_first)
    assert stands(store, "on_failed") == [("sent", store.now, store.now, None)]


def test_what_is_told_of_callbacks_is_of_a_pass_before_until_they_fire_again(store: Store) -> None:
    store.confirm(*store.create(1, 1, events=("on_finish",), row=TELL, generation=EARLIER, keeps=True).duties)
    store.confirm(*store.record(0, "succeeded", of=1, generation=EARLIER).duties)
    (duty,) = store.record(0, "succeeded", stage=1, of=1, generation=EARLIER).duties
    store.confirm(duty)
    before = callbacks_in(store)
    assert rewound(store, 1, EARLIER, LATER).word == "rewound"
    assert callbacks_in(store) == before
    assert hear(store, duty, 0, "dead") == "unknown"
    store.now += 10
    (again,) = store.record(0, "succeeded", stage=1, of=1, generation=LATER).duties
    (found,) = callbacks_in(store)
    assert (found.state, found.owed, found.count) == ("owed", store.now, 2)
    assert found.message_id == CallbackTag(store.run_id, LATER, again.id, 0, str(found.actor)).message_id


def test_callbacks_of_a_run_of_a_newer_release_are_left_to_it(store: Store) -> None:
    store.create(1, row=TELL)
    backend: Any = store.backend
    head = f"{backend.namespace}:{{{store.run_id}}}:head"
    backend.client.execute_command("HSET", head, "format", 99)
    with pytest.raises(NewerRelease, match="newer release"):
        store.backend.firings(store.run_id)
    backend.client.execute_command("HSET", head, "format", 1, "fired_on_failure", "nonsense")
    with pytest.raises(DamagedState, match="nonsense"):
        store.backend.firings(store.run_id)
