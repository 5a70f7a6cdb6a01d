"""`Run.members()`: how each member of a stage stands, a page at a time."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections import Counter
from functools import partial
from typing import Any, get_args

import dramatiq
import pytest
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import CurrentMessage

from dramatiq_clutch import Clutch, Member, MemberPage, Run, RunNotFound, runs
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.errors import DamagedState, NewerRelease
from dramatiq_clutch.members import MemberState
from dramatiq_clutch.stored.attendance import worker_name
from tests.conftest import running_worker
from tests.support.awaiting import wait_until
from tests.support.jobs import Jobs, state_is
from tests.support.keyspace import remove_keys
from tests.test_listing import ask, cost_of


def states(run: Run, **filters: Any) -> list[str]:
    return [member.state for member in run.members(**filters)]


def all_members(run: Run, **filters: Any) -> list[Member]:
    """Those on all pages, which are taken one after the other."""
    found, cursor = list[Member](), None
    while True:
        page = run.members(cursor=cursor, **filters)
        found += page
        cursor = page.cursor
        if cursor is None:
            return found


def head_of(run: Run) -> str:
    return f"{engine_of(dramatiq.get_broker()).backend.namespace}:{{{run.run_id}}}:head"


# The states


def test_each_member_is_shown_as_it_stands(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["works"], jobs.script["fails"], jobs.script["dies"] = ["wait"], ["fail", "wait"], ["die"]
    jobs.script["inner"] = ["wait"]
    nested = Clutch().then(jobs.job.message("inner"))
    steps = [*(jobs.job.message(name) for name in ("works", "fails", "dies", "fine")), nested]
    run = Clutch().parallel(steps).then(jobs.total).run()
    assert states(run) == ["sent"] * 4 + ["working"]
    assert states(run, stage=1) == ["unsent"]
    with running_worker(broker):
        wait_until("all have begun", lambda: jobs.counts()["inner"] == 1 and jobs.counts()["fails"] == 2)
        wait_until("two are settled", lambda: states(run) == ["sent", "failing", "dead", "succeeded", "working"])
        works, fails, dies, fine, inner = run.members()
        assert [works.index, fails.index, dies.index, fine.index, inner.index] == list(range(5))
        assert (works.actor, works.queue, works.arguments) == ("job", "default", "'works'")
        assert (works.error, works.attempts, works.run_id) == (None, 0, None)
        assert fails.error == run.status().failures[0]
        assert fails.attempts == 1
        assert dies.error is not None
        assert (dies.error.exception_type, dies.message_id) == ("LookupError", dies.error.message_id)
        assert (fine.error, fine.attempts) == (None, 0)
        assert (inner.actor, inner.message_id, inner.run_id) == (None, None, f"{run.run_id}~0.4")
        assert Run(inner.run_id or "").status().state == "running"
        for state in get_args(MemberState):
            assert states(run, state=state) == [one for one in states(run) if one == state]
        for name in ("works", "fails", "inner"):
            jobs.gates[name].set()
        state_is(run, "failed")
        assert states(run) == ["succeeded"] * 2 + ["dead"] + ["succeeded"] * 2


def test_a_messages_id_is_that_of_the_message_that_was_sent(broker: dramatiq.Broker, jobs: Jobs) -> None:
    sent = dict[str, int]()

    @dramatiq.actor
    def tells(number: int) -> None:
        message: Any = CurrentMessage.get_current_message()
        sent[message.message_id] = number

    run = Clutch().parallel(map(tells.message, range(3))).run()
    shown = {member.message_id: int(member.arguments) for member in run.members()}
    with running_worker(broker):
        run.get_result(block=True)
    assert sent == shown


def test_what_the_limit_holds_back_is_unsent(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["0"] = ["die"]
    run = Clutch().parallel((jobs.job.message(str(number)) for number in range(10)), limit=2).run()
    assert states(run) == ["sent"] * 2 + ["unsent"] * 8
    assert [member.index for member in run.members(state="unsent", limit=3)] == [2, 3, 4]
    assert [member.index for member in run.members(state="sent")] == [0, 1]
    with running_worker(broker):
        state_is(run, "failed")
    assert states(run) == ["dead"] + ["succeeded"] * 9


def test_a_job_that_nests_runs_works_until_they_are_done(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["inner"] = ["wait"]

    @dramatiq.actor
    def nests() -> Any:
        return Clutch().then(jobs.job.message("inner")).nest()

    run = Clutch().parallel(nests.message(), jobs.job.message("fine")).run()
    with running_worker(broker):
        wait_until("it works", lambda: jobs.counts()["inner"] == 1 and states(run) == ["working", "succeeded"])
        first, _ = run.members()
        assert (first.actor, first.run_id) == ("nests", f"{run.run_id}~0.0")
        (child,) = run.children()
        assert child.run_id == first.run_id
        assert states(run, state="working") == ["working"]
        jobs.gates["inner"].set()
        run.get_result(block=True)
    assert states(run) == ["succeeded"] * 2


def test_of_a_cancelled_run_what_is_not_settled_is_unsent(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["dies"], jobs.script["works"] = ["die"], ["wait"]
    run = Clutch().parallel(jobs.job.message(name) for name in ("dies", "works", "fine")).run()
    with running_worker(broker):
        wait_until("two are settled", lambda: states(run) == ["dead", "sent", "succeeded"])
        run.cancel()
        assert states(run) == ["dead", "unsent", "succeeded"]
        jobs.gates["works"].set()
    run.retry()
    assert set(states(run)[:2]) == {"sent"}
    assert states(run)[2] == "succeeded"
    assert run.members().members[0].error is not None  # why its last attempt has failed


def test_of_a_run_that_has_broken_off_what_is_not_settled_is_unsent(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["dies"], jobs.script["works"] = ["die"], ["wait"]
    run = Clutch(fail_fast=True).parallel(jobs.job.message(name) for name in ("dies", "works")).run()
    with running_worker(broker):
        state_is(run, "failed")
        assert states(run) == ["dead", "unsent"]
        jobs.gates["works"].set()


def test_members_that_a_stage_is_complete_without_are_skipped(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["works"], jobs.script["dies"] = ["wait"], ["die"]
    clutch = Clutch(keep_results=True).parallel((jobs.job.message(name) for name in ("dies", "works", "a")), enough=1)
    run = clutch.then(jobs.job.message("x")).then(jobs.job.message("y")).run()
    with running_worker(broker):
        run.get_result(block=True)
        jobs.gates["works"].set()
    shown = states(run, stage=0)
    stage = run.status().stages[0]
    counted = Counter(shown)
    assert (counted["succeeded"], counted["dead"], counted["skipped"]) == (stage.succeeded, stage.dead, stage.skipped)
    assert shown[1:] == ["skipped", "succeeded"]
    assert states(run, stage=0, state="skipped") == [state for state in shown if state == "skipped"]
    assert states(run, stage=2) == ["succeeded"]


def test_of_a_stage_that_is_longer_over_only_the_kept_failures_are_known(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["dies"] = ["die"]
    clutch = Clutch().parallel((jobs.job.message(name) for name in ("a", "dies", "b")), allow_failures=True)
    jobs.script["z"] = ["wait"]
    run = clutch.then(jobs.job.message("x")).then(jobs.job.message("y")).then(jobs.job.message("z")).run()
    with running_worker(broker):
        wait_until("the last stage works", lambda: jobs.counts()["z"] == 1)
        assert states(run, stage=0) == ["succeeded", "dead", "succeeded"]
        (dead,) = run.members(stage=0, state="dead")
        assert (dead.index, dead.actor, dead.arguments) == (1, "job", "'dies'")  # the plan is still there
        assert dead.error is not None
        assert dead.error.allowed
        assert states(run, stage=0, state="unsent") == []
        jobs.gates["z"].set()
        run.get_result(block=True)
    a, dead, _ = run.members(stage=0)
    assert (a.state, a.actor, a.queue, a.message_id, a.arguments) == ("succeeded", None, None, None, "")
    assert (dead.actor, dead.queue, dead.arguments) == ("job", None, "'dies'")  # what its failure says


# What they are called with


def test_arguments_have_what_is_mapped_or_piped(stub_broker: StubBroker) -> None:
    jobs = Jobs(stub_broker)
    jobs.script["x"], jobs.script["list0"] = ["wait"], ["wait"]
    clutch = Clutch().then(jobs.several.message("list", 3)).map(jobs.job, into="name").then(jobs.job.message("x"))
    run = clutch.run()
    assert [member.arguments for member in run.members()] == ["'list', 3"]
    assert run.members(stage=1) == MemberPage(())  # it isn't opened yet
    with running_worker(stub_broker):
        wait_until("the mapped stage works", lambda: jobs.counts()["list0"] == 1)
        assert [member.arguments for member in run.members()] == ["name='list0'", "name='list1'", "name='list2'"]
        jobs.gates["list0"].set()
        wait_until("the last stage works", lambda: jobs.counts()["x"] == 1)
        assert [member.arguments for member in run.members(stage=1)] == ["name=…"] * 3  # the items are gone
        jobs.gates["x"].set()


def test_arguments_have_the_value_of_a_single_job_and_not_of_many(stub_broker: StubBroker) -> None:
    jobs = Jobs(stub_broker)
    jobs.script["a"], jobs.script["z"] = ["wait"], ["wait"]
    run = Clutch().then(jobs.job.message("first")).parallel(jobs.job.message("a"), pipe=True).run()
    with running_worker(stub_broker):
        wait_until("the piped one works", lambda: jobs.counts()["a"] == 1)
        assert [member.arguments for member in run.members()] == ["'a', 'first'"]
        jobs.gates["a"].set()
        run.get_result(block=True)
    run = Clutch().parallel(map(jobs.job.message, "bc")).then(jobs.job.message("z"), pipe=True).run()
    with running_worker(stub_broker):
        wait_until("the last stage works", lambda: jobs.counts()["z"] == 1)
        assert [member.arguments for member in run.members()] == ["'z', …"]
        jobs.gates["z"].set()


def test_a_mapped_stage_of_nested_runs_tells_their_ids(stub_broker: StubBroker) -> None:
    jobs = Jobs(stub_broker)
    jobs.script["list1"] = ["wait"]
    run = Clutch().then(jobs.several.message("list", 2)).map(Clutch().then(jobs.job, pipe=True)).run()
    with running_worker(stub_broker):
        wait_until("one works", lambda: jobs.counts()["list1"] == 1)
        wait_until("the other is done", lambda: states(run) == ["succeeded", "working"])
        assert [member.run_id for member in run.members()] == [f"{run.run_id}~1.0", f"{run.run_id}~1.1"]
        jobs.gates["list1"].set()
        run.get_result(block=True)


def test_a_failing_job_is_told_when_it_is_attempted_again(broker: dramatiq.Broker) -> None:
    @dramatiq.actor(min_backoff=600_000, max_backoff=700_000)
    def fails() -> None:
        raise ValueError

    run = Clutch().then(fails).run()
    began = engine_of(broker).now()
    with running_worker(broker):
        wait_until("it has failed", lambda: states(run) == ["failing"])
    (member,) = run.members()
    assert member.retry_at is not None
    assert began + 200_000 < member.retry_at < engine_of(broker).now() + 800_000
    assert run.status().stages[0].next_attempt == member.retry_at
    assert run.status().to_dict()["stages"][0]["next_attempt"] == member.retry_at
    run.resend()
    assert states(run) == ["failing"]


# Pages


@pytest.mark.parametrize("many", [1_200, pytest.param(3_000, marks=pytest.mark.heavy)])
def test_pages_have_each_member_once_while_the_stage_is_worked_on(broker: dramatiq.Broker, many: int) -> None:
    @dramatiq.actor
    def nothing(number: int) -> None: ...

    run = Clutch().parallel(nothing.message(number) for number in range(many)).run()
    with running_worker(broker):
        found = all_members(run, limit=70)
    assert [member.index for member in found] == list(range(many))
    assert [member.arguments for member in found] == list(map(str, range(many)))


def test_a_page_goes_on_in_its_stage_though_the_run_has_moved_on(broker: dramatiq.Broker, jobs: Jobs) -> None:
    run = Clutch().parallel(map(jobs.job.message, "abcd")).then(jobs.total).run()
    page = run.members(limit=3)
    assert page.cursor == "0.3"
    with running_worker(broker):
        run.get_result(block=True)
    (last,) = run.members(cursor=page.cursor)
    assert (last.stage, last.index, last.state) == (0, 3, "succeeded")
    assert run.members(stage=0, cursor=page.cursor).members == (last,)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"limit": 0}, "limit is 0"),
        ({"limit": 1_001}, "limit is 1001"),
        ({"limit": True}, "limit is True"),
        ({"state": "lost"}, "state is 'lost'"),
        ({"cursor": "x"}, "no page of this stage"),
        ({"cursor": "1.0", "stage": 0}, "no page of this stage"),
        ({"cursor": 3}, "no page of this stage"),
        ({"stage": 3}, "there is no stage 3 here, but these: 0 \\('load'\\)"),
        ({"stage": -1}, "there is no stage -1"),
        ({"stage": "save"}, "there is no stage 'save'"),
        ({"cursor": "7.0"}, "no page of this stage"),
    ],
)
def test_what_is_asked_for_wrongly_is_an_error_that_says_so(
    stub_broker: StubBroker, wrong: dict[str, Any], error: str
) -> None:
    run = Clutch().then(Jobs(stub_broker).job.message("a"), name="load").run()
    with pytest.raises(ValueError, match=error):
        run.members(**wrong)


def test_a_run_that_is_not_there_is_not_found(jobs: Jobs) -> None:
    for stage in (None, 0, "load"):
        with pytest.raises(RunNotFound):
            Run("gone").members(stage=stage)
    run = Clutch().then(jobs.job.message("a")).run()
    remove_keys(engine_of(jobs.broker).backend, run.run_id)
    with pytest.raises(RunNotFound):
        run.members()


def test_a_clutch_without_stages_has_no_members(stub_broker: StubBroker) -> None:
    assert len(Clutch().run().members()) == 0


def test_coroutines_look_through_members_too(stub_broker: StubBroker) -> None:
    run = Clutch().parallel(map(Jobs(stub_broker).job.message, "abc")).run()
    assert asyncio.run(run.members_async(limit=2)) == run.members(limit=2)


def test_pages_of_members_and_of_runs_are_json(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["dies"] = ["die"]
    run = Clutch().parallel(map(jobs.job.message, ["dies", "a"])).run(tags=["eu"])
    with running_worker(broker):
        state_is(run, "failed")
    page = json.loads(json.dumps(run.members(limit=1).to_dict()))
    (first,) = page.pop("members")
    assert page == {"schema": 1, "cursor": "0.1"}
    assert first["error"]["exception_type"] == "LookupError"
    assert (first["index"], first["state"], first["actor"], first["retry_at"]) == (0, "dead", "job", None)
    found = json.loads(json.dumps(runs().to_dict()))
    assert found["schema"] == 1
    assert [(one["run_id"], one["tags"], one["state"]) for one in found["runs"]] == [(run.run_id, ["eu"], "failed")]


# Hostile and old data


def test_a_row_that_cannot_be_read_is_shown_as_such_and_hides_no_other(jobs: Jobs) -> None:
    run = Clutch().parallel(map(jobs.job.message, "abc")).run()
    backend = engine_of(jobs.broker).backend
    plan = head_of(run).replace(":head", f":plan:{backend.generation(run.run_id)}")
    rows = list(backend.rows(run.run_id, 0, 3))
    ask(backend, "DEL", plan)
    ask(backend, "RPUSH", plan, rows[0], b"m\xff{", rows[2])
    ask(backend, "PEXPIRE", plan, 60_000)
    first, damaged, last = run.members()
    assert (first.arguments, last.arguments) == ("'a'", "'c'")
    assert (damaged.state, damaged.actor, damaged.message_id) == ("sent", None, None)
    assert "can't be decoded" in damaged.arguments


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [("stage", "x", DamagedState), ("format", "99", NewerRelease), ("s0", "0 2", DamagedState)],
)
def test_a_damaged_or_a_newer_run_is_told_as_such(jobs: Jobs, field: str, value: str, error: type[Exception]) -> None:
    run = Clutch().parallel(map(jobs.job.message, "abc")).run()
    ask(engine_of(jobs.broker).backend, "HSET", head_of(run), field, value)
    with pytest.raises(error):
        run.members()


@pytest.mark.parametrize("name", ["a\x00b", "}{", "a\nb\r\n", "'\"\\", "☃" * 500])
def test_any_text_may_be_an_argument(jobs: Jobs, name: str) -> None:
    run = Clutch().then(jobs.job.message(name)).run()
    (member,) = run.members()
    assert member.arguments.startswith(repr(name)[:10])
    assert len(member.arguments) <= 200


# What it costs


def test_a_large_item_is_not_read(jobs: Jobs) -> None:
    @dramatiq.actor
    def items() -> list[str]:
        return ["x" * 20_000, "y"]

    jobs.script["y"] = ["wait"]
    run = Clutch().then(items).map(jobs.job).run()
    with running_worker(jobs.broker):
        wait_until("the mapped stage works", lambda: jobs.counts()["y"] == 1)
        assert [member.arguments for member in run.members()] == ["…", "'y'"]
        jobs.gates["y"].set()
        run.get_result(block=True)


def test_a_large_result_is_not_read(redis_broker: RedisBroker) -> None:
    @dramatiq.actor
    def large(number: int) -> str:
        return "x" * 1_000_000

    run = Clutch().parallel(map(large.message, range(3))).run()
    with running_worker(redis_broker):
        run.get_result(block=True)
    before = redis_broker.client.info("stats")["total_net_output_bytes"]
    assert states(run) == ["succeeded"] * 3
    assert redis_broker.client.info("stats")["total_net_output_bytes"] - before < 100_000


@pytest.mark.parametrize("many", [3_000, pytest.param(20_000, marks=pytest.mark.heavy)])
def test_a_page_costs_the_same_however_large_the_stage_is(redis_broker: RedisBroker, many: int) -> None:
    jobs, client, costs = Jobs(redis_broker), redis_broker.client, list[Any]()
    pages: list[dict[str, Any]] = [{}, {"state": "dead"}, {"state": "failing"}, {"state": "unsent"}]
    for number in (30, many):
        client.flushall()
        run = Clutch().parallel((jobs.job.message(str(one)) for one in range(number)), limit=10).run()
        costs.append([cost_of(client, partial(run.members, limit=20, **filters)) for filters in pages])
    assert costs[0] == costs[1]
    assert {trips for trips, _ in costs[0]} == {2}
    assert max(commands.total() for _, commands in costs[0]) < 200


# With timings


def here() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def test_with_timings_what_has_begun_is_told_from_what_waits(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["works"], jobs.script["fails"], jobs.script["dies"] = ["wait"], ["fail", "wait"], ["die"]
    names = ("works", "fails", "dies", "fine")
    run = Clutch(timings=True).parallel(map(jobs.job.message, names)).then(jobs.total).run()
    assert {(member.state, member.began, member.ended, member.worker) for member in run.members()} == {
        ("sent", None, None, None)
    }
    with running_worker(broker):
        wait_until("one is attempted again", lambda: jobs.counts()["fails"] == 2)
        wait_until("two work", lambda: states(run) == ["working", "working", "dead", "succeeded"])
        for state in get_args(MemberState):
            assert states(run, state=state) == [one for one in states(run) if one == state]
        works, fails, dies, fine = run.members()
        assert (works.attempts, fails.attempts) == (0, 1)
        assert {works.worker, fails.worker, dies.worker, fine.worker} == {here()}
        assert (works.ended, fails.ended) == (None, None)
        for member in (dies, fine):
            assert member.began is not None
            assert member.ended is not None
            assert member.began <= member.ended
        for name in ("works", "fails"):
            jobs.gates[name].set()
        state_is(run, "failed")
        after = list(run.members())
    assert [member.state for member in after] == ["succeeded", "succeeded", "dead", "succeeded"]
    assert (after[0].began, after[1].began) == (works.began, fails.began)
    assert None not in {member.ended for member in after}
    run.retry()
    assert (states(run)[2], after[2].ended) == ("sent", run.members().members[2].ended)


@pytest.mark.parametrize(("outer", "inner", "inherits"), [(True, None, True), (True, False, False), (None, True, True)])
@pytest.mark.parametrize("how", ["written", "mapped", "nested by a job"])
def test_what_is_nested_has_timings_unless_it_says_otherwise(
    stub_broker: StubBroker, how: str, outer: bool | None, inner: bool | None, inherits: bool
) -> None:
    jobs = Jobs(stub_broker)
    jobs.script["inner"] = ["wait"]
    child = Clutch(timings=inner, broker=stub_broker).parallel(jobs.job.message("inner"), jobs.job.message("other"))

    @dramatiq.actor(broker=stub_broker)
    def nests() -> Any:
        return child.nest()

    clutch = Clutch(timings=outer, broker=stub_broker)
    if how == "mapped":
        run = clutch.map(child).run(args=[1])
    else:
        run = clutch.parallel(child if how == "written" else nests).run()
    with running_worker(stub_broker):
        wait_until("it works", lambda: jobs.counts()["inner"] == 1)
        nested = Run(f"{run.run_id}~0.0" + ("~0.0" if how == "nested by a job" else ""), broker=stub_broker)
        wait_until("the other is done", lambda: states(nested)[1] == "succeeded")
        assert {(member.began is not None) for member in nested.members()} == {inherits}
        assert states(nested)[0] == ("working" if inherits else "sent")
        jobs.gates["inner"].set()
        run.get_result(block=True)
        (member,) = run.members()
    known = (member.began is not None, member.ended is not None)
    assert known == ((True, True) if outer else (False, False))
    assert member.worker == (here() if outer and how == "nested by a job" else None)


def test_timings_make_no_other_clutch(stub_broker: StubBroker) -> None:
    jobs = Jobs(stub_broker)
    plain, timed = (
        Clutch(timings=timings, broker=stub_broker).then(jobs.job.message("a"), Clutch().then(jobs.job.message("b")))
        for timings in (None, True)
    )
    plain.run(run_id="mine")
    assert timed.run(run_id="mine").started is False


def test_a_series_has_timings(broker: dramatiq.Broker, jobs: Jobs) -> None:
    """Where a job's record sends the next message in the same step."""
    run = Clutch(timings=True, keep_results=True).then(*(jobs.job.message(name) for name in "abc")).run()
    with running_worker(broker):
        run.get_result(block=True)
    found = [member for stage in range(3) for member in run.members(stage=stage)]
    assert [(member.state, member.worker) for member in found] == [("succeeded", here())] * 3
    moments = [moment for member in found for moment in (member.began, member.ended)]
    assert None not in moments
    assert moments == sorted(moments, key=lambda moment: moment or 0)


def test_a_workers_name_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "h" * 200)
    assert len(worker_name()) == 64
    assert worker_name().endswith(f":{os.getpid()}")
