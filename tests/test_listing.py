"""Looking through runs: `runs` and `count_runs`, and the register that they go by."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta, timezone
from functools import partial
from itertools import islice
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker

from dramatiq_clutch import (
    Clutch,
    ClutchMiddleware,
    ResultsGone,
    Run,
    RunIdTaken,
    RunNotFound,
    RunPage,
    count_runs,
    runs,
)
from dramatiq_clutch.backend import ClutchBackend
from dramatiq_clutch.backends import RedisBackend, StubBackend
from dramatiq_clutch.backends.redis.keys import register
from dramatiq_clutch.engine import Engine, engine_of
from dramatiq_clutch.errors import StateUnavailable
from dramatiq_clutch.register import Enlisted, Keeping
from dramatiq_clutch.stored.entries import Entry, Turn, label
from tests.conftest import running_worker
from tests.support.application import Application
from tests.support.awaiting import wait_until
from tests.support.commands import executed
from tests.support.jobs import Jobs, state_is
from tests.support.keyspace import remove_keys

Make = Callable[..., AbstractContextManager[Application]]

HOSTILE = ["a\x00b", "}{", "a\nb\r\n", "'\"\\", "☃" * 1_000, "all", "state:failed", " "]


def ids(page: RunPage) -> list[str]:
    return [run.run_id for run in page]


def all_ids(**filters: Any) -> list[str]:
    """The ids on all pages, which are taken one after the other."""
    found, cursor = list[str](), None
    while True:
        page = runs(cursor=cursor, **filters)
        found += ids(page)
        cursor = page.cursor
        if cursor is None:
            return found


def ask(backend: ClutchBackend, *command: Any) -> Any:
    assert isinstance(backend, RedisBackend)
    client: Any = backend.client
    return client.execute_command(*command)


def waiting(jobs: Jobs, **options: Any) -> Clutch:
    """A clutch that no worker takes up."""
    return Clutch(**options).then(jobs.job.message("waits"))


# What is listed


def test_a_run_is_listed_under_the_state_that_its_status_shows(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["fails"], jobs.script["dies"] = ["fail", "wait"], ["die"]
    started = {
        name: Clutch(name=name).then(jobs.job.message(name)).run() for name in ("fails", "dies", "works", "cancelled")
    }
    assert count_runs()["running"] == len(runs(state="running")) == 4
    started["cancelled"].cancel()
    with running_worker(broker):
        wait_until("it works again", lambda: jobs.counts()["fails"] == 2)
        started["works"].get_result(block=True)
        state_is(started["dies"], "failed")
        states = {"fails": "failing", "dies": "failed", "works": "succeeded", "cancelled": "cancelled"}
        wait_until("all are told", lambda: {run.name: run.state for run in runs()} == states)
        wait_until("the register has them", lambda: sum(count_runs().values()) == 4 and not count_runs()["running"])
        for name, state in states.items():
            (found,) = runs(state=state)  # type: ignore[arg-type]
            assert (found.run_id, found.state) == (started[name].run_id, state)
            assert (found.ended is None) == (state == "failing")
        jobs.gates["fails"].set()
        started["fails"].get_result(block=True)
        assert started["dies"].retry()
        started["dies"].get_result(block=True)
    wait_until("all but one have succeeded", lambda: count_runs()["succeeded"] == 3)
    assert count_runs() == {"running": 0, "failing": 0, "failed": 0, "succeeded": 3, "cancelled": 1, "stalled": 0}


def test_a_summary_says_how_far_a_run_is(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["b"] = ["wait"]
    run = Clutch(name="report").then(jobs.job.message("x")).parallel(*map(jobs.job.message, "abcd")).run()
    with running_worker(broker):
        wait_until("three have succeeded", lambda: run.status().stages[1].succeeded == 3)
        (found,) = runs()
        status = run.status()
        assert (found.name, found.created, found.updated) == ("report", status.created, status.updated)
        assert (found.stage, found.stages, found.total, found.succeeded) == (1, 2, 4, 3)
        assert found.progress == 0.875
        jobs.gates["b"].set()
        run.get_result(block=True)
    (found,) = runs()
    assert (found.progress, found.state) == (1.0, "succeeded")
    assert found.ended is not None
    assert found.created <= found.ended <= engine_of(broker).now()


def test_runs_are_listed_newest_first_on_pages_with_each_run_once(jobs: Jobs) -> None:
    there = [waiting(jobs).run().run_id for _ in range(25)]
    assert sorted(all_ids(limit=10)) == sorted(there)
    created = [run.created for run in runs()]
    assert created == sorted(created, reverse=True)
    assert runs(limit=25).cursor is None


def test_pages_are_stable_while_runs_come_and_go(jobs: Jobs) -> None:
    there = [waiting(jobs).run().run_id for _ in range(30)]
    found, cursor, gone, come = list[str](), None, set[str](), set[str]()
    while True:
        page = runs(limit=7, cursor=cursor)
        found += ids(page)
        come.add(waiting(jobs).run().run_id)
        for run_id in (ids(page)[-1], next(one for one in there if one not in {*found, *gone})) if page.cursor else ():
            remove_keys(engine_of(jobs.broker).backend, run_id)  # one that was seen, and one that wasn't
            gone.add(run_id)
        cursor = page.cursor
        if cursor is None:
            break
    assert len(found) == len(set(found))
    assert set(there) - gone <= set(found) <= set(there) | come


def test_runs_are_found_by_name_by_tag_and_by_state_and_by_all_of_them(jobs: Jobs) -> None:
    a = [waiting(jobs, name="a").run(tags=tags) for tags in (["eu", "nightly"], [], ["us"])]
    b = [waiting(jobs, name="b").run(tags=tags) for tags in (["eu"], [], [])]
    a[1].cancel()
    a[0].cancel()
    b[0].cancel()
    assert set(all_ids(name="a")) == {run.run_id for run in a}
    assert set(all_ids(name="a", state="cancelled")) == {a[0].run_id, a[1].run_id}
    assert set(all_ids(tag="eu")) == {a[0].run_id, b[0].run_id}
    assert all_ids(tag="eu", name="b", state="cancelled") == [b[0].run_id]
    assert all_ids(tag="eu", name="b", state="failed") == all_ids(name="c") == all_ids(tag="US") == []
    assert runs(tag="us").runs[0].tags == ("us",)


def tag(run: Run, *tags: str) -> None:
    """Give tags to a run that has begun; the register hears of them at its next turn."""
    backend = engine_of(dramatiq.get_broker()).backend
    ask(backend, "HSET", f"{backend.namespace}:{{{run.run_id}}}:head", "tags", json.dumps(tags))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_or_a_tag_may_be_any_text(jobs: Jobs, name: str) -> None:
    run = waiting(jobs, name=name).run()
    waiting(jobs, name="other").run()
    tag(run, name, "t")
    run.cancel()
    assert all_ids(name=name) == all_ids(tag=name) == all_ids(tag=name, name=name) == [run.run_id]
    assert runs(name=name).runs[0].name == name


@pytest.mark.parametrize("application", ["", "}", "{a}", "a b\x00", "☃"])
def test_applications_have_registers_of_their_own(make: Make, application: str) -> None:
    with make(application=application) as app:
        mine = waiting(Jobs(app.broker)).run().run_id
        assert ids(runs()) == [mine]
        other = dramatiq.brokers.stub.StubBroker()
        other.add_middleware(ClutchMiddleware(app.engine.backend, application="other"))
        assert ids(runs(broker=other)) == []
        other.close()


def test_runs_are_found_by_when_they_began(jobs: Jobs) -> None:
    early = waiting(jobs).run()
    began = early.status().created
    wait_until("a millisecond has passed", lambda: engine_of(jobs.broker).now() > began)
    late = waiting(jobs).run()
    assert set(all_ids(since=began)) == {early.run_id, late.run_id}
    assert all_ids(since=began + 1) == [late.run_id]
    assert all_ids(since=datetime.fromtimestamp((began + 1) / 1000, timezone.utc)) == [late.run_id]
    assert set(all_ids(since=timedelta(hours=1))) == {early.run_id, late.run_id}
    assert all_ids(since=datetime.now(timezone.utc) + timedelta(hours=1)) == []


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"limit": 0}, "limit is 0"),
        ({"limit": 1_001}, "limit is 1001"),
        ({"limit": True}, "limit is True"),
        ({"state": "waiting"}, "state is 'waiting'"),
        ({"cursor": "next"}, "cursor 'next'"),
        ({"cursor": "0.0"}, "cursor '0.0'"),
        ({"since": 1.5}, "since is 1.5"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(jobs: Jobs, wrong: dict[str, Any], error: str) -> None:
    with pytest.raises((ValueError, TypeError), match=error):
        runs(**wrong)


# Nested runs


def test_nested_runs_are_listed_by_their_parent_only(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["b"], jobs.script["d"] = ["wait"], ["wait"]
    child = {name: Clutch(name=name).then(jobs.job.message(name)) for name in "abcd"}
    run = Clutch().parallel(*child.values(), jobs.job.message("job")).then(jobs.total).run()
    with running_worker(broker):
        wait_until("three have succeeded", lambda: run.status().stages[0].succeeded == 3)
        assert ids(runs()) == [run.run_id]
        wait_until("two are left", lambda: [one.name for one in runs(parent=run.run_id)] == ["b", "d"])
        assert all_ids(parent=run.run_id, limit=1) == [f"{run.run_id}~0.1", f"{run.run_id}~0.3"]
        assert all_ids(parent=run.run_id, name="d") == [f"{run.run_id}~0.3"]
        assert all_ids(parent=run.run_id, state="failed") == []
        for name in "bd":
            jobs.gates[name].set()
        run.get_result(block=True)
    assert all_ids(parent=run.run_id) == []


def test_runs_that_jobs_have_nested_are_listed_too(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["x"] = ["wait"]

    @dramatiq.actor
    def nests() -> Run:
        return Clutch(name="inner").then(jobs.job.message("x")).nest()

    run = Clutch().parallel(jobs.job.message("a"), nests.message()).run()
    with running_worker(broker):
        wait_until("it works", lambda: "x" in jobs.began)
        (wrapper,) = runs(parent=run.run_id)
        assert wrapper.run_id == f"{run.run_id}~0.1"
        assert [one.name for one in runs(parent=wrapper.run_id)] == ["inner"]
        jobs.gates["x"].set()
        run.get_result(block=True)


def test_a_stage_of_many_jobs_is_not_looked_through_for_nested_runs(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Clutch().parallel(jobs.job.message("a") for _ in range(2_000)).run()
    backend, looked = engine_of(jobs.broker).backend, list[int]()
    works = backend.look_at

    def look_at(run_ids: Sequence[str]) -> Any:
        looked.append(len(run_ids))
        return works(run_ids)

    monkeypatch.setattr(backend, "look_at", look_at)
    assert runs(parent=run.run_id) == RunPage(())
    assert looked == [1]


def test_nested_runs_of_several_stages_are_looked_at_together(
    broker: dramatiq.Broker, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.script["x"], clutch = ["die"] * 12, Clutch()
    for _ in range(12):
        clutch = clutch.parallel([Clutch().then(jobs.job.message("x"))], allow_failures=True)
    run = clutch.run()
    with running_worker(broker):
        run.get_result(block=True)
    backend, asked = engine_of(broker).backend, list[str]()
    looks, nests = backend.look_at, backend.nesting

    def look_at(run_ids: Sequence[str]) -> Any:
        asked.append("look_at")
        return looks(run_ids)

    def nesting(*given: Any, **more: Any) -> Any:
        asked.append("nesting")
        return nests(*given, **more)

    monkeypatch.setattr(backend, "look_at", look_at)
    monkeypatch.setattr(backend, "nesting", nesting)
    there = [f"{run.run_id}~{stage}.0" for stage in range(12)]
    assert ids(run.children()) == there
    assert asked == ["look_at", "nesting", "look_at"]
    assert all_ids(parent=run.run_id, limit=5) == there


def test_a_page_of_nested_runs_looks_at_so_many_stages_and_members(
    stub_broker: StubBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dramatiq_clutch.listing.MOST", 10)
    monkeypatch.setattr("dramatiq_clutch.listing.CHUNK", 5)
    jobs, clutch = Jobs(stub_broker), Clutch()
    for _ in range(23):
        clutch = clutch.parallel([])
    run = clutch.parallel(Clutch().then(jobs.job.message("x")) for _ in range(12)).run()
    page, cursors = run.children(limit=10), list[str | None]()
    while page.cursor is not None and not page.runs:
        cursors.append(page.cursor)
        page = run.children(limit=10, cursor=page.cursor)
    assert cursors == ["10.0", "20.0"]
    assert (len(page), page.cursor) == (10, "23.10")
    assert ids(run.children(limit=10, cursor=page.cursor)) == [f"{run.run_id}~23.{member}" for member in (10, 11)]


def test_the_nested_runs_of_a_run_that_is_not_there_are_an_error(jobs: Jobs) -> None:
    with pytest.raises(RunNotFound):
        runs(parent="nobody")
    with pytest.raises(ValueError, match="cursor"):
        runs(parent="nobody", cursor="01764331937000run")


# The register is a hint


@pytest.fixture
def engine(jobs: Jobs) -> Engine:
    return engine_of(jobs.broker)


def lost(*_: Any, **__: Any) -> Sequence[tuple[str, str]]:
    """As if the process had been killed before it told the register."""
    return ()


def test_what_the_register_has_not_heard_is_shown_and_put_right(
    jobs: Jobs, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = waiting(jobs, name="a").run()
    with monkeypatch.context() as patch:
        patch.setattr(engine.backend, "enlist", lost)
        run.cancel()
    assert count_runs()["running"] == 1
    assert ids(runs(state="running")) == []
    assert (count_runs()["running"], count_runs()["cancelled"]) == (0, 1)
    assert ids(runs(state="cancelled")) == [run.run_id]


def test_a_run_that_is_gone_leaves_the_register_when_it_is_met(jobs: Jobs, engine: Engine) -> None:
    there, gone = waiting(jobs).run(), waiting(jobs).run()
    remove_keys(engine.backend, gone.run_id)
    assert count_runs()["running"] == 2
    assert ids(runs()) == [there.run_id]
    assert count_runs()["running"] == 1


def test_a_run_that_is_deleted_leaves_the_register(jobs: Jobs) -> None:
    run, other = waiting(jobs).run(), waiting(jobs).run()
    run.cancel()
    run.delete()
    assert count_runs()["cancelled"] == 0
    assert ids(runs()) == [other.run_id]


def test_a_sweeper_tells_the_register_of_a_run_whose_producer_was_killed(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make(lease=1) as app:
        with monkeypatch.context() as patch:
            patch.setattr("dramatiq_clutch.starting.hand_over", killed)
            with pytest.raises(KeyboardInterrupt):
                waiting(Jobs(app.broker)).run(run_id="mine")
        assert ids(runs()) == []
        wait_until("it is swept", lambda: app.sweep() > 0)
        assert ids(runs()) == ["mine"]


def killed(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_sweeper_tells_the_register_of_a_run_whose_end_nobody_has_told(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make(lease=1, sweep_interval=None) as app:
        run = waiting(Jobs(app.broker)).run()
        with monkeypatch.context() as patch:
            patch.setattr("dramatiq_clutch.run.hand_over", killed)
            with pytest.raises(KeyboardInterrupt):
                run.cancel()
        assert count_runs()["cancelled"] == 0
        wait_until("it is swept", lambda: app.sweep() > 0)
        assert count_runs()["cancelled"] == 1


def test_a_sweeper_takes_a_run_that_has_expired_out_of_the_register(make: Make) -> None:
    with make(lease=1, sweep_interval=None, stalled_after=1) as app:
        run = waiting(Jobs(app.broker)).run()
        remove_keys(app.engine.backend, run.run_id)
        app.engine.look_again(run.run_id, 1)
        wait_until("it is swept", lambda: app.sweep() > 0)
        assert count_runs()["running"] == 0


def test_nobody_waits_for_the_register_and_a_sweeper_tells_it_later(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make(lease=1, sweep_interval=None) as app:
        jobs, away = Jobs(app.broker), list[bool]()
        works = app.engine.backend.enlist

        def enlist(*given: Any, **more: Any) -> Any:
            if len(away) < 2:
                away.append(True)
                raise StateUnavailable("its slot is away")
            return works(*given, **more)

        monkeypatch.setattr(app.engine.backend, "enlist", enlist)
        run = Clutch().then(jobs.job.message("a")).run()
        with running_worker(app.broker):
            assert run.get_result(block=True) == "a"
            wait_until("its end can't be told", lambda: len(away) == 2)
        wait_until("a sweeper tells it", lambda: app.sweep() >= 0 and count_runs()["succeeded"] == 1)


def test_a_stalled_run_is_listed_as_such_until_something_happens_to_it(make: Make) -> None:
    with make(stalled_after=1, sweep_interval=None) as app:
        run = waiting(Jobs(app.broker)).run()

        def is_listed() -> bool:
            app.engine.look_again(run.run_id, 1)
            app.sweep()
            return ids(runs(state="stalled")) == [run.run_id]

        wait_until("it is found", is_listed)
        assert count_runs()["stalled"] == count_runs()["running"] == 1
        assert runs(state="running").runs[0].stalled_since is not None
        assert run.cancel()
        assert ids(runs(state="stalled")) == []
        assert count_runs()["stalled"] == 0


def test_a_run_that_cannot_be_read_stops_no_page(jobs: Jobs, engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    there, damaged, other = (waiting(jobs).run() for _ in range(3))
    ask(engine.backend, "HSET", f"{engine.backend.namespace}:{{{damaged.run_id}}}:head", "created", "yesterday")
    key = f"{engine.backend.namespace}:{{{other.run_id}}}:head"
    ask(engine.backend, "DEL", key)
    ask(engine.backend, "SET", key, "another program's", "PX", 60_000)
    assert ids(runs()) == [there.run_id]
    assert damaged.run_id in caplog.text
    assert other.run_id in caplog.text


# What the register takes


@pytest.fixture(params=["redis", pytest.param("memory", marks=pytest.mark.twice)])
def backend(request: pytest.FixtureRequest) -> Iterator[ClutchBackend]:
    if request.param == "redis":
        yield RedisBackend(client=request.getfixturevalue("redis_client"))
    else:
        yield StubBackend()


KEEPING = Keeping(most=1_000, succeeded=10_000, stopped=20_000)


def put(backend: ClutchBackend, turn: Turn, *, instead: str = "", now: int = 0, keeping: Keeping = KEEPING) -> Any:
    return backend.enlist([Enlisted("run", turn.entry(), instead)], now, keeping, application="app")


def found_under(backend: ClutchBackend, *labels: str) -> list[tuple[str, int]]:
    found = backend.look_through(labels, 100, application="app")
    return [(run_id, entry.turns) for run_id, entry in found.runs]


def test_a_turn_that_comes_late_changes_nothing(backend: ClutchBackend) -> None:
    put(backend, Turn("g", 2, "failed", 1_000, 2_000))
    put(backend, Turn("g", 1, "running", 1_000))
    assert found_under(backend, label("state", "failed")) == [("run", 2)]
    assert found_under(backend, label("state", "running")) == []
    put(backend, Turn("g", 3, "running", 1_000))
    assert found_under(backend, label("state", "failed")) == []
    assert backend.count([label("all"), label("state", "running")], application="app") == [1, 1]


@pytest.mark.parametrize(("created", "instead", "follows"), [(2_000, "", True), (500, "", False), (500, "old", True)])
def test_a_run_takes_the_place_of_an_earlier_one_of_its_id(
    backend: ClutchBackend, created: int, instead: str, follows: bool
) -> None:
    put(backend, Turn("old", 7, "failed", 1_000, 1_500))
    put(backend, Turn("new", 1, "running", created), instead=instead)
    assert found_under(backend, label("all")) == [("run", 1 if follows else 7)]


def test_a_run_is_taken_out_only_as_it_was_seen(backend: ClutchBackend) -> None:
    put(backend, Turn("new", 1, "running", 2_000))
    backend.enlist([Enlisted("run", Entry("old", 9, "0" * 14))], 0, KEEPING, application="app")
    assert found_under(backend, label("all")) == [("run", 1)]
    put(backend, Turn("new", 2, "failed", 2_000, 3_000))
    backend.enlist([Enlisted("run", Entry("new", 1, "0" * 14))], 0, KEEPING, application="app")
    assert found_under(backend, label("all")) == [("run", 2)]
    backend.enlist([Enlisted("run", Entry("new", 2, "0" * 14))], 0, KEEPING, application="app")
    assert found_under(backend, label("all")) == []
    for key in register(backend.namespace, "app").values():
        assert not ask(backend, "EXISTS", key)


def test_what_ended_too_long_ago_leaves_the_register(backend: ClutchBackend) -> None:
    ended = {"a": "succeeded", "b": "failed", "c": "cancelled", "d": "succeeded"}
    for number, (run_id, state) in enumerate(ended.items()):
        entry = Turn("g", 2, state, 1_000, 10_000 * number).entry()
        backend.enlist([Enlisted(run_id, entry)], 0, KEEPING, application="app")
    put(backend, Turn("g", 1, "running", 50_000), now=30_000)
    assert [run_id for run_id, _ in found_under(backend, label("all"))] == ["run", "d", "c"]


def test_of_too_many_runs_the_oldest_leave_a_hundred_at_a_time(backend: ClutchBackend) -> None:
    many = [
        Enlisted(f"run-{number:03}", Turn("g", 2, "failed" if number % 2 else "succeeded", 1_000, number).entry())
        for number in range(350)
    ]
    backend.enlist(many, 0, Keeping(350, 10_000, 10_000), application="app")
    few = Keeping(100, 10_000, 10_000)
    left = backend.enlist([], 0, few, application="app")
    assert list(left) == [(f"run-{number:03}", "g") for number in range(0, 100, 2)]
    assert backend.count([label("all")], application="app") == [250]
    for _ in range(3):
        backend.enlist([], 0, few, application="app")
    assert {run_id for run_id, _ in found_under(backend, label("all"))} == {f"run-{n:03}" for n in range(250, 350)}


def test_only_runs_that_have_all_labels_are_found(backend: ClutchBackend) -> None:
    for number in range(40):
        turn = Turn("g", 1, "running", number, name="n" if number % 2 else "m", tags=("t",) if number % 5 else ())
        backend.enlist([Enlisted(f"run-{number}", turn.entry())], 0, KEEPING, application="app")
    labels = [label("all"), label("name", "n"), label("tag", "t")]
    wanted = [f"run-{number}" for number in reversed(range(40)) if number % 2 and number % 5]
    found, after = list[str](), ""
    for _ in range(10):
        some = backend.look_through(labels, 3, after=after, since=7, application="app")
        assert len(some.runs) <= 3
        found += [run_id for run_id, _ in some.runs]
        after = some.left_off
        if not after:
            break
    assert found == [run_id for run_id in wanted if int(run_id[4:]) >= 7]


def test_a_turn_that_is_told_twice_changes_nothing(backend: ClutchBackend) -> None:
    for _ in range(2):
        put(backend, Turn("g", 1, "running", 1_000, name="n", tags=("a", "a", "b")))
    labels = [label("all"), label("name", "n"), label("tag", "a"), label("tag", "b"), label("state", "running")]
    assert backend.count(labels, application="app") == [1] * 5


# History


def test_the_status_of_a_run_outlives_its_result(make: Make) -> None:
    with make(result_ttl=50) as app:
        jobs = Jobs(app.broker)
        jobs.script["b"] = ["die"]
        run = Clutch().parallel(jobs.job.message("a"), jobs.job.message("b"), allow_failures=True).run()
        with running_worker(app.broker):
            wait_until("its result has expired", lambda: is_gone(run))
        status = run.status()
        assert (status.state, status.stages[0].succeeded, status.stages[0].dead) == ("succeeded", 1, 1)
        assert ids(runs(state="succeeded")) == [run.run_id]
        with pytest.raises(ResultsGone, match="has succeeded, and its result has expired"):
            run.get_result(block=True)


def test_a_status_that_is_kept_shows_what_it_showed_and_takes_little_room(redis_broker: RedisBroker) -> None:
    jobs = Jobs(redis_broker)
    backend = engine_of(redis_broker).backend
    run = Clutch(name="report").then(jobs.job.message("a")).parallel(*map(jobs.job.message, "bcd")).run(tags=["eu"])
    before = runs().runs[0]
    with running_worker(redis_broker):
        run.get_result(block=True)
        wait_until("it owes nothing", lambda: ask(backend, "HEXISTS", head_of(backend, run), "share") == 0)
    status, (after,) = run.status(), runs()
    assert [(stage.state, stage.total, stage.succeeded) for stage in status.stages] == [
        ("succeeded", 1, 1),
        ("succeeded", 3, 3),
    ]
    assert (status.name, status.created) == ("report", before.created)
    assert (after.name, after.tags, after.created) == (before.name, before.tags, before.created)
    assert ask(backend, "MEMORY", "USAGE", head_of(backend, run)) < 800
    assert run.get_result() == ["b", "c", "d"]
    with pytest.raises(RunIdTaken):
        waiting(jobs).run(run_id=run.run_id)


def is_gone(run: Run) -> bool:
    try:
        run.get_result()
    except ResultsGone:
        return True
    except dramatiq.results.ResultMissing:
        return False
    return False


@pytest.mark.parametrize("history_ttl", [None, 0])
def test_without_a_history_the_status_goes_with_the_result(make: Make, history_ttl: int | None) -> None:
    with make(result_ttl=50, history_ttl=history_ttl) as app:
        run = Clutch().then(Jobs(app.broker).job.message("a")).run()
        with running_worker(app.broker):
            wait_until("it is gone", lambda: app.engine.backend.generation(run.run_id) is None)
        assert ids(runs()) == []


def test_when_there_are_too_many_the_oldest_keep_only_their_results(make: Make) -> None:
    with make(history_max=5, result_ttl=3_600_000) as app:
        jobs = Jobs(app.broker)
        with running_worker(app.broker, threads=1):
            done: list[Run] = []
            for _ in range(12):
                done.append(Clutch().then(jobs.job.message("a")).run())
                done[-1].get_result(block=True)
                ended = app.engine.now()  # of two that end in one millisecond either counts as the older one
                wait_until("the next millisecond begins", partial(later, app, ended))
            wait_until("the last five are left", lambda: set(all_ids()) == {run.run_id for run in done[-5:]})
            lives = [False] * 7 + [True] * 5  # a status is shortened after its run has left the register
            wait_until("the first seven to be shortened", lambda: [is_long(app, run) for run in done] == lives)
        assert done[0].get_result() == "a"


def later(app: Application, than: int) -> bool:
    return app.engine.now() > than


def is_long(app: Application, run: Run) -> bool:
    """Whether a run's status is kept for longer than an hour."""
    return life(app.engine.backend, run) > 3_600_000


def life(backend: ClutchBackend, run: Run) -> int:
    """For how many milliseconds the status is kept."""
    return int(ask(backend, "PTTL", head_of(backend, run)))


def head_of(backend: ClutchBackend, run: Run) -> str:
    return f"{backend.namespace}:{{{run.run_id}}}:head"


# What it costs


def test_a_run_tells_the_register_twice_and_its_jobs_never(
    broker: dramatiq.Broker, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, told = engine_of(broker).backend, list[str]()
    works = backend.enlist

    def enlist(some: Sequence[Enlisted], *given: Any, **more: Any) -> Any:
        told.extend(one.entry.state for one in some)
        return works(some, *given, **more)

    monkeypatch.setattr(backend, "enlist", enlist)
    nested = Clutch().then(jobs.job.message("nested"))
    clutch = Clutch().parallel(*map(jobs.job.message, "abcdefgh"), nested).then(jobs.job.message("x"))
    run = clutch.then(jobs.job.message("y"), jobs.job.message("z")).run()
    with running_worker(broker):
        run.get_result(block=True)
        wait_until("it is told", lambda: len(told) >= 2)
    assert told == ["running", "succeeded"]


def enlisted(engine: Engine, turns: Iterable[Turn]) -> None:
    """Have the register tell of such runs, which aren't there."""
    those = (Enlisted(f"run-{number}", turn.entry()) for number, turn in enumerate(turns))
    while some := list(islice(those, 500)):
        engine.backend.enlist(some, 0, Keeping(10**6, 10**12, 10**12), application=engine.application)


def fill(jobs: Jobs, number: int) -> None:
    """Have the register tell of so many runs, a hundredth of them of another name. Only the newest are there."""
    names = ("rare" if one % 100 == 0 else "a" for one in range(number))
    enlisted(engine_of(jobs.broker), (Turn("g", 1, "running", one + 1, name=name) for one, name in enumerate(names)))
    for name in ("a", "rare") * 60:
        waiting(jobs, name=name).run()


def cost_of(client: Any, act: Callable[[], Any]) -> tuple[int, Counter[str]]:
    """How many round trips this takes, and how often which command is executed, by scripts or otherwise."""
    trips = list[str]()
    execute, pipeline = client.execute_command, client.pipeline

    def asked(*command: Any, **options: Any) -> Any:
        trips.append(str(command[0]))
        return execute(*command, **options)

    def piped(**options: Any) -> Any:
        trips.append("a pipeline")
        return pipeline(**options)

    act()  # the server gets to know the scripts
    before = executed(client)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "execute_command", asked)
        patch.setattr(client, "pipeline", piped)
        act()
    return len(trips), executed(client) - before


PAGES: list[tuple[dict[str, Any], int, int]] = [
    ({}, 50, 3),
    ({"name": "rare"}, 50, 3),
    ({"name": "rare", "state": "running"}, 50, 3),
    ({"name": "rare", "since": 1, "before": 10**13}, 50, 3),
    ({"tag": "none"}, 0, 1),
]


@pytest.mark.parametrize("many", [2_000, pytest.param(100_000, marks=pytest.mark.heavy)])
def test_a_page_costs_the_same_however_many_runs_there_are(redis_broker: RedisBroker, many: int) -> None:
    jobs, client, costs = Jobs(redis_broker), redis_broker.client, list[Any]()
    for number in (1_000, many):
        client.flushall()
        fill(jobs, number)
        costs.append([cost_of(client, partial(runs, **filters)) for filters, _, _ in PAGES])
        costs[-1].append(cost_of(client, partial(runs, cursor=runs().cursor)))
        for filters, found, _ in PAGES:
            assert len(runs(**filters)) == found
    assert costs[0] == costs[1]
    assert [trips for trips, _ in costs[0]] == [*(trips for _, _, trips in PAGES), 3]
    assert max(commands.total() for _, commands in costs[0]) < 600


def test_a_page_ends_when_the_register_was_asked_ten_times(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, asked = engine_of(jobs.broker), list[int]()
    enlisted(engine, (Turn("g", 1, "running", number + 1) for number in range(25)))
    works = engine.backend.look_through

    def look_through(labels: Sequence[str], enough: int, **more: Any) -> Any:
        asked.append(enough)
        return works(labels, enough, **more)

    monkeypatch.setattr(engine.backend, "look_through", look_through)
    page = runs(limit=2)
    assert (len(page), page.cursor is None, asked) == (0, False, [3] * 10)
    assert count_runs()["running"] == 5  # those that were met and are gone have left
    assert runs(limit=2, cursor=page.cursor) == RunPage(())


def test_where_no_run_has_all_labels_a_thousand_are_looked_through_at_a_time(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [
        Turn("g", 1, "running", number + 1, name="n" if number % 2 else "m", tags=() if number % 2 else ("t",))
        for number in range(2_400)
    ]
    enlisted(engine_of(redis_broker), turns)
    wanted: dict[str, Any] = {"name": "n", "tag": "t"}
    monkeypatch.setattr("dramatiq_clutch.listing.ROUNDS", 1)
    trips, commands = cost_of(redis_broker.client, partial(runs, **wanted))
    assert trips == 1
    assert 1_000 <= commands["zscore"] < 1_100
    page = runs(**wanted)
    assert (len(page), page.cursor is None) == (0, False)
    assert runs(cursor=page.cursor, **wanted) == RunPage(())


def test_the_counts_take_one_round_trip(redis_broker: RedisBroker) -> None:
    fill(Jobs(redis_broker), 1_000)
    assert cost_of(redis_broker.client, count_runs) == (1, {"zlexcount": 6})
    assert count_runs()["running"] == 1_120
