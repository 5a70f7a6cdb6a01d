"""Running the same thing again: what becomes of a run() whose id another run has, or had; and what is deleted."""

from __future__ import annotations

import asyncio
import copy
import itertools
import pickle
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.results import ResultMissing

from dramatiq_clutch import Clutch, ClutchMiddleware, Run, previous_failures, previous_results
from dramatiq_clutch.backend import ClutchBackend, Record
from dramatiq_clutch.backends import RedisBackend, StubBackend
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.errors import (
    BrokerUnavailable,
    ForeignRun,
    NestingError,
    ResultsGone,
    RunAtWork,
    RunIdTaken,
    RunNotFound,
    StateUnavailable,
)
from dramatiq_clutch.handover.deleting import ask
from dramatiq_clutch.settings import DEFAULT_RESULT_TTL
from dramatiq_clutch.stored.places import Tag
from dramatiq_clutch.testing import stubbed
from tests.conftest import running_worker
from tests.support.awaiting import PATIENCE, wait_until
from tests.support.jobs import Jobs, actor, state_is
from tests.support.keyspace import clutch_keys
from tests.support.messages import dead_letters, on_their_way
from tests.support.server import Server

#: Words of `if_exists`, those that start a new run where one is at rest.
NEW = ("restart", "replace")

ALL = ("join", "refuse", *NEW)


def clutch_of(jobs: Jobs, *names: str, **options: Any) -> Clutch:
    return Clutch(**options).parallel(jobs.job.message(name) for name in names)


def generation(broker: dramatiq.Broker, run_id: str) -> str | None:
    return engine_of(broker).backend.generation(run_id)


def expire(broker: dramatiq.Broker, run_id: str) -> None:
    """Have the result of a run that has succeeded expire: all that is left of it is the tombstone."""
    backend: Any = engine_of(broker).backend
    key = f"{backend.namespace}:{{{run_id}}}"
    wait_until("its tombstone", lambda: backend.client.execute_command("EXISTS", f"{key}:tombstone"))
    backend.client.execute_command("DEL", f"{key}:head")


def to_success(broker: dramatiq.Broker, jobs: Jobs) -> None:
    with running_worker(broker):
        state_is(Run("nightly"), "succeeded")


def to_failure(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["a"] = ["die"]
    with running_worker(broker):
        state_is(Run("nightly"), "failed")


def to_expiry(broker: dramatiq.Broker, jobs: Jobs) -> None:
    to_success(broker, jobs)
    expire(broker, "nightly")


#: How a run comes to rest.
RESTS: dict[str, Callable[[dramatiq.Broker, Jobs], Any]] = {
    "succeeded": to_success,
    "failed": to_failure,
    "cancelled": lambda broker, jobs: Run("nightly").cancel(),
    "expired": to_expiry,
}


@pytest.fixture(autouse=True)
def workers_always_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has just sent a job runs it without asking for a second, also if its run was cancelled then."""
    monkeypatch.setattr("dramatiq_clutch.remembered.REMEMBERED", 0.0)


# What becomes of a run() whose id is taken


@pytest.mark.parametrize("same", [True, False], ids=["the same clutch", "another clutch"])
@pytest.mark.parametrize("state", RESTS)
@pytest.mark.parametrize("if_exists", ALL)
def test_a_run_whose_id_another_one_at_rest_has(
    broker: dramatiq.Broker, jobs: Jobs, if_exists: Any, state: str, same: bool
) -> None:
    first = clutch_of(jobs, "a", "b").run(run_id="nightly", if_exists=if_exists)
    assert first.started is True
    RESTS[state](broker, jobs)
    before, again = generation(broker, "nightly"), clutch_of(jobs, *("ab" if same else "cd"))
    dead = dead_letters(broker)  # those of the run that has failed
    if if_exists == "refuse" or (if_exists == "join" and not same):
        with pytest.raises(RunIdTaken, match="'nightly'"):
            again.run(run_id="nightly", if_exists=if_exists)
    else:
        run = again.run(run_id="nightly", if_exists=if_exists)
        assert run == first
        assert run.started is (if_exists in NEW)
    if if_exists not in NEW:
        assert generation(broker, "nightly") == before
        return
    assert generation(broker, "nightly") != before
    with running_worker(broker):
        assert run.get_result(block=True) == list("ab" if same else "cd")
        wait_until("the queue is empty", lambda: on_their_way(broker) == 0)
    assert dead_letters(broker) == dead


def test_whoever_finds_an_id_taken_is_told_what_can_be_said_instead(stub_broker: StubBroker) -> None:
    clutch = Clutch().then(Jobs(stub_broker).job, pipe=True)
    clutch.run(run_id="nightly", args="monday")
    other = "another clutch, or this one with other args, "
    with pytest.raises(RunIdTaken, match=other + "was run as 'nightly'.* if_exists='restart'.* if_exists='replace'"):
        clutch.run(run_id="nightly", args="tuesday")
    with pytest.raises(RunIdTaken, match=other + "is at work as 'nightly': wait .* if_exists='replace'") as raised:
        clutch.run(run_id="nightly", args="tuesday", if_exists="restart")
    assert "if_exists='restart'" not in str(raised.value)
    assert clutch.run(run_id="nightly", args="tuesday", if_exists="replace").started


@pytest.mark.parametrize("same", [True, False], ids=["the same clutch", "another clutch"])
@pytest.mark.parametrize("if_exists", ALL)
def test_a_run_whose_id_another_one_at_work_has(
    broker: dramatiq.Broker, jobs: Jobs, if_exists: Any, same: bool
) -> None:
    jobs.script["a"] = ["wait"]
    first = clutch_of(jobs, "a", "b", on_finish=jobs.heard.message("first")).run(run_id="nightly")
    before = generation(broker, "nightly")
    again = clutch_of(jobs, *("ab" if same else "cd"), on_finish=jobs.heard.message("first" if same else "second"))
    with running_worker(broker):
        wait_until("it is at work", lambda: "a" in jobs.began)
        if if_exists == "refuse" or (if_exists != "replace" and not same):
            with pytest.raises(RunIdTaken, match="'nightly'"):
                again.run(run_id="nightly", if_exists=if_exists)
        else:
            run = again.run(run_id="nightly", if_exists=if_exists)
            assert run.started is (if_exists == "replace")
        assert (generation(broker, "nightly") != before) is (if_exists == "replace")
        jobs.gates["a"].set()
        assert first.get_result(block=True) == list("cd" if if_exists == "replace" and not same else "ab")
        told = "E E" if if_exists == "replace" and same else "E"
        wait_until("on_finish is heard of each", lambda: jobs.fired("first") == told)
        wait_until("the queue is empty", lambda: on_their_way(broker) == 0)
    if if_exists == "replace":
        assert jobs.statuses[0]["state"] == "cancelled"
        assert jobs.counts()["a"] == (2 if same else 1)
    assert dead_letters(broker) == 0


def test_what_replaces_a_run_cancels_its_nested_runs_too(broker: dramatiq.Broker, jobs: Jobs) -> None:
    @dramatiq.actor(broker=broker)
    def nests(name: str) -> Run:
        jobs.began.append(f"nests {name}")
        return Clutch(**jobs.callbacks("nested")).then(jobs.job.message(name)).nest()

    jobs.script["a"], jobs.script["b"] = ["wait"], ["wait"]
    inner = Clutch(**jobs.callbacks("written down")).then(jobs.job.message("a")).then(jobs.job.message("never"))
    clutch = Clutch(**jobs.callbacks("root")).parallel(inner, nests.message("b")).then(jobs.total)
    first = clutch.run(run_id="nightly")
    with running_worker(broker):
        wait_until("both are at work", lambda: {"a", "b"} <= set(jobs.began))
        second = clutch_of(jobs, "c").run(run_id="nightly", if_exists="replace")
        for who in ("nested", "written down", "root"):
            jobs.wait_fired(who, "E")
        for gate in "ab":
            jobs.gates[gate].set()
        assert second.get_result(block=True) == ["c"]
        wait_until("the queue is empty", lambda: on_their_way(broker) == 0)
    assert first == second
    assert second.started
    assert {status["state"] for status in jobs.statuses} == {"cancelled"}
    assert "never" not in jobs.began
    assert dead_letters(broker) == 0
    backend = engine_of(broker).backend
    assert backend.occupants(["nightly~0.0", "nightly~0.1", "nightly~0.1~0.0"]) == [None] * 3


def test_a_faulty_clutch_replaces_nothing(broker: dramatiq.Broker, jobs: Jobs) -> None:
    clutch_of(jobs, "a").run(run_id="nightly")
    for faulty in (Clutch(queue="nobody's"), Clutch(on_finish="nobody")):
        with pytest.raises((ValueError, dramatiq.ActorNotFound)):
            faulty.then(jobs.total).run(run_id="nightly", if_exists="replace")
    with pytest.raises(TypeError, match="takes a message"):
        Clutch().parallel(lambda: [42]).run(run_id="nightly", if_exists="replace")  # type: ignore[list-item]
    assert Run("nightly").status().state == "running"


@pytest.mark.parametrize("if_exists", ALL)
def test_an_id_that_is_unique_while_running_is_free_at_rest(
    broker: dramatiq.Broker, jobs: Jobs, if_exists: Any
) -> None:
    def run(*names: str) -> Run:
        return clutch_of(jobs, *names).run(run_id="import", unique="while_running", if_exists=if_exists)

    assert run("a").started is True
    if if_exists in ("join", "restart"):
        assert run("a").started is False
        with pytest.raises(RunIdTaken):
            run("b")
    with running_worker(broker):
        state_is(Run("import"), "succeeded")
    assert run("b").started is True  # of another clutch, too
    jobs.script["b"] = ["die"]
    with running_worker(broker):
        state_is(Run("import"), "failed")
    assert run("c").started is True
    with running_worker(broker):
        state_is(Run("import"), "succeeded")
    expire(broker, "import")
    assert run("d").started is True
    assert Run("import").cancel()
    # Which run is free says that run itself, and not the call that comes after it.
    assert clutch_of(jobs, "e").run(run_id="import").started is True
    with running_worker(broker):
        state_is(Run("import"), "succeeded")
    with pytest.raises(RunIdTaken):
        clutch_of(jobs, "f").run(run_id="import", unique="while_running")
    assert dead_letters(broker) == 1  # of the run that has failed
    assert jobs.began == list("abce")


def test_words_that_there_are_not_and_words_without_an_id_are_errors(broker: dramatiq.Broker, jobs: Jobs) -> None:
    clutch: Any = clutch_of(jobs, "a")
    with pytest.raises(ValueError, match="if_exists is 'rerun'; it is one of 'join', 'refuse', 'restart', 'replace'"):
        clutch.run(run_id="nightly", if_exists="rerun")
    with pytest.raises(ValueError, match="unique is True; it is one of 'always', 'while_running'"):
        clutch.run(run_id="nightly", unique=True)
    for options in ({"if_exists": "restart"}, {"if_exists": "join"}, {"unique": "while_running"}):
        with pytest.raises(ValueError, match="so it needs a run_id: without one, each run gets an id of its own"):
            clutch.run(**options)
    assert on_their_way(broker) == 0


def test_whether_a_call_has_started_the_run_is_no_part_of_the_handle(broker: dramatiq.Broker, jobs: Jobs) -> None:
    clutch = clutch_of(jobs, "a")
    first, second = clutch.run(run_id="nightly"), clutch.run(run_id="nightly")
    assert (first.started, second.started, Run("nightly").started) == (True, False, None)
    assert first == second == Run("nightly")
    assert hash(first) == hash(second)
    assert pickle.loads(pickle.dumps(first)).started is None
    assert copy.copy(first).started is copy.deepcopy(first).started is True
    assert clutch.run().started is True


@pytest.mark.parametrize("if_exists", ALL)
def test_another_applications_run_stays_whatever_is_said(if_exists: Any) -> None:
    backend, brokers = StubBackend(), [StubBroker() for _ in range(2)]
    for broker, name in zip(brokers, ("shop", "mail"), strict=True):
        broker.add_middleware(ClutchMiddleware(backend, application=name))
    shop, mail = map(Jobs, brokers)
    run = Clutch(broker=shop.broker).then(shop.job.message("a")).run(run_id="daily", unique="while_running")
    theirs = Clutch(broker=mail.broker).then(mail.job.message("a"))
    with pytest.raises(ForeignRun, match="'shop'"):
        theirs.run(run_id="daily", if_exists=if_exists)
    run.cancel()
    with pytest.raises(ForeignRun, match="'shop'"):
        theirs.run(run_id="daily", if_exists=if_exists)
    with pytest.raises(ForeignRun, match="'shop'"):
        Run("daily", broker=mail.broker).delete()
    assert run.status().state == "cancelled"


# Several at once, and who breaks off


class Together:
    """Makes several threads that call run() meet once after each of them has found what has the id."""

    def __init__(self, backend: ClutchBackend, many: int, patch: pytest.MonkeyPatch) -> None:
        barrier, met, works = threading.Barrier(many), threading.local(), backend.occupants

        def occupants(run_ids: Any) -> Any:
            found = works(run_ids)
            if run_ids == ["race"] and not getattr(met, "once", False):
                met.once = True
                barrier.wait(PATIENCE)
            return found

        patch.setattr(backend, "occupants", occupants)


@pytest.mark.parametrize("at_work", [False, True], ids=["at rest", "at work"])
@pytest.mark.parametrize("turn", range(3))
def test_callers_that_race_to_run_again_start_one_run(
    broker: dramatiq.Broker, jobs: Jobs, monkeypatch: pytest.MonkeyPatch, at_work: bool, turn: int
) -> None:
    clutch = clutch_of(jobs, *"abc", on_finish=jobs.heard.message("root"))
    clutch.run(run_id="race")
    if not at_work:
        with running_worker(broker):
            state_is(Run("race"), "succeeded")
            jobs.wait_fired("root", "E")
    rested = len(jobs.began)
    Together(engine_of(broker).backend, 8, monkeypatch)

    def race() -> Run:
        return clutch.run(run_id="race", if_exists="replace" if at_work else "restart")

    with ThreadPoolExecutor(8) as pool:
        runs = [future.result() for future in [pool.submit(race) for _ in range(8)]]
    assert sorted(run.started is True for run in runs) == [False] * 7 + [True]
    assert set(runs) == {Run("race")}
    with running_worker(broker):
        assert runs[0].get_result(block=True) == list("abc")
        jobs.wait_fired("root", "E E")
        wait_until("the queue is empty", lambda: on_their_way(broker) == 0)
    assert sorted(jobs.began[rested:]) == list("abc")
    assert dead_letters(broker) == 0


class Cut(Exception):
    """Stands for a kill: the process does nothing more."""


@contextmanager
def cut_after(broker: dramatiq.Broker, calls: int, *, of: str | None = None) -> Any:
    """Break off a process after so many calls of the store, or of one of its methods. Says whether it came to that."""
    backend, count, cut = engine_of(broker).backend, itertools.count(), list[str]()
    with pytest.MonkeyPatch.context() as patch:
        for name in ClutchBackend.__abstractmethods__:
            works = getattr(backend, name)

            def call(*args: Any, works: Any = works, name: str = name, **more: Any) -> Any:
                if cut or (of in (None, name) and next(count) == calls):
                    cut.append(name)
                    raise Cut(name)
                return works(*args, **more)

            patch.setattr(backend, name, call)
        yield cut


@pytest.mark.search
@pytest.mark.parametrize("if_exists", NEW)
def test_whoever_breaks_off_anywhere_can_call_again(make: Any, if_exists: Any) -> None:
    """The process that was to run it again is gone between any two calls of the store."""
    with make(lease=20) as app:
        jobs = Jobs(app.broker)
        inner = Clutch(on_finish=jobs.heard.message("inner")).then(jobs.job.message("x"), jobs.job.message("ends"))
        clutch = Clutch(on_finish=jobs.heard.message("root")).parallel(inner, jobs.job.message("a")).then(jobs.total)
        # Which call is the tenth may vary, for it is looked again and again whether a run has come to rest.
        wanted = {"delete", "occupants", "create", "draft", *(["cancel"] if if_exists == "replace" else [])}
        cuts, done = list[str](), False
        while not done or not wanted <= set(cuts):
            run_id = f"nightly-{len(cuts)}"
            of = min(wanted - set(cuts)) if done else None
            if if_exists == "restart":
                jobs.script["ends"] = ["die"] * 20  # second copies die, too
                clutch.run(run_id=run_id)
                with running_worker(app.broker):
                    state_is(Run(run_id), "failed")
                jobs.script["ends"].clear()
            else:
                clutch.run(run_id=run_id)
            dead = dead_letters(app.broker)
            with cut_after(app.broker, 0 if of else len(cuts), of=of) as cut, suppress(Cut):
                clutch.run(run_id=run_id, if_exists=if_exists)
            assert cut or not of, f"{of} wasn't called"
            run = clutch.run(run_id=run_id, if_exists=if_exists)
            with running_worker(app.broker):
                assert run.get_result(block=True) == ["ends", "a"]
                wait_until("the queue is empty", lambda: on_their_way(app.broker) == 0)
            assert dead_letters(app.broker) == dead
            cuts += cut[:1]
            done = done or not cut
        wait_until("what is owed is done", lambda: app.sweep() == 0)


def test_where_the_broker_is_away_nothing_is_deleted_whose_callback_is_unsent(
    broker: dramatiq.Broker, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(broker)
    clutch = clutch_of(jobs, "a", on_finish=jobs.heard.message("first"))
    clutch.run(run_id="nightly")
    with monkeypatch.context() as patch:
        broken: Any = engine.courier

        def away(*args: Any, **more: Any) -> Any:
            raise BrokerUnavailable("away")

        for method in ("send", "send_and_confirm"):
            patch.setattr(broken, method, away)
        with pytest.raises(BrokerUnavailable):
            clutch.run(run_id="nightly", if_exists="replace")
        assert Run("nightly").status().state == "cancelled"
    monkeypatch.setattr("dramatiq_clutch.handover.deleting.tries", lambda engine: [None])
    with pytest.raises(RunAtWork, match="is at rest, but what follows from that, such as a callback, isn't sent yet"):
        clutch.run(run_id="nightly", if_exists="replace")
    monkeypatch.undo()
    backend, now = engine.backend, engine.now()
    monkeypatch.setattr(backend, "now", lambda: now + engine.lease_ms)  # the lease of the one that broke off has lapsed
    assert clutch.run(run_id="nightly", if_exists="replace").started
    with running_worker(broker):
        jobs.wait_fired("first", "E E")


def test_a_run_that_is_retried_while_it_is_to_make_room_does_not(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["a"] = ["die"]
    clutch = clutch_of(jobs, "a")
    run = clutch.run(run_id="nightly")
    with running_worker(broker):
        state_is(run, "failed")
    backend = engine_of(broker).backend
    works = backend.delete

    def delete(*args: Any, **more: Any) -> Any:
        run.retry()
        return works(*args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "delete", delete)
        assert clutch.run(run_id="nightly", if_exists="restart").started is False
    with running_worker(broker):
        assert run.get_result(block=True) == ["a"]


# What is deleted


def left_of(broker: dramatiq.Broker, run_id: str) -> set[str]:
    """The parts of all keys that are left of a run and those nested in it."""
    backend: Any = engine_of(broker).backend
    names = (
        [name.decode() for name in backend.keyspace.values]
        if isinstance(backend, StubBackend)
        else clutch_keys(backend.client)
    )
    return {name.split("}:")[1].split(":")[0] for name in names if f":{{{run_id}" in name}


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_a_deleted_run_leaves_nothing_but_what_its_late_messages_are_known_by(
    broker: dramatiq.Broker, jobs: Jobs, state: str
) -> None:
    @dramatiq.actor(broker=broker)
    def nests() -> Run:
        inner = Clutch(on_finish=jobs.heard.message("nested")).then(jobs.job.message("b"))
        return Clutch().parallel(inner, jobs.job.message("c")).nest()

    child = Clutch().parallel(jobs.job.message("dead"), jobs.job.message("ok"))
    clutch = (
        Clutch()
        .parallel(child, jobs.job.message("x"), allow_failures=True)
        .parallel(nests.message(), Clutch().then(jobs.job.message("a")))
        .then(jobs.total)
    )
    jobs.script["dead"] = ["die"]
    jobs.script["b"] = ["die"] if state == "failed" else ["wait"] if state == "cancelled" else []
    run = clutch.run()
    with running_worker(broker):
        if state == "cancelled":
            wait_until("it is at work", lambda: "b" in jobs.began)
            with pytest.raises(RunAtWork, match=r"is at work, so it can't be deleted: cancel\(\) it first"):
                run.delete()
            run.cancel()
            jobs.gates["b"].set()
        state_is(run, state)
        wait_until("the queue is empty", lambda: on_their_way(broker) == 0)
        assert run.delete() is True
    assert left_of(broker, run.run_id) <= {"past", "tombstone"}
    for verb in (run.status, run.get_result, run.cancel, run.retry, run.delete):
        with pytest.raises(RunNotFound, match="it never was, or has expired"):
            verb()


def test_late_messages_of_a_run_that_made_room_are_skipped_quietly(
    broker: dramatiq.Broker, jobs: Jobs, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that wait in the queue, those at work, and attempts that come later."""
    jobs.script["a"], jobs.script["b"] = ["wait"], ["fail"]
    clutch = clutch_of(jobs, "a", "b", "c")
    backend, tombs = engine_of(broker).backend, list[str | None]()
    with running_worker(broker, threads=1):
        for number in range(3):
            run = clutch.run(run_id="nightly", if_exists="replace")
            tombs.append(generation(broker, "nightly"))
            if not number:
                wait_until("it is at work", lambda: "a" in jobs.began)
        jobs.gates["a"].set()
        assert run.get_result(block=True) == ["a", "b", "c"]
        wait_until("the queue is empty", lambda: on_their_way(broker) == 0)
    assert len(set(tombs)) == 3
    assert jobs.counts() == {"a": 2, "b": 2, "c": 1}
    assert dead_letters(broker) == 0
    said = [record.message for record in caplog.records]
    assert [text for text in said if "dead-letter" in text or "nothing" in text] == []
    assert backend.generation("nightly") == tombs[-1]


def test_a_late_message_is_not_given_what_the_present_run_owes(
    broker: dramatiq.Broker, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job at the same place of the present run has ended, and its worker hasn't yet sent what follows."""
    clutch = clutch_of(jobs, "a").then(jobs.job.message("next"))
    clutch.run(run_id="nightly")
    clutch.run(run_id="nightly", if_exists="replace")
    engine = engine_of(broker)
    present = engine.backend.generation("nightly") or ""
    tag = Tag("nightly", 0, 0, 1, generation=present)
    reply = engine.backend.record(Record(tag, 0, "succeeded", b'"a"'), engine.caller(tag.owner))
    assert [duty.id for duty in reply.duties] == ["send:1:0:1"]
    works, given = engine.backend.owed, list[list[str]]()

    def owed(*args: Any, **more: Any) -> Any:
        reply = works(*args, **more)
        given.append([duty.id for duty in reply.duties])
        return reply

    monkeypatch.setattr(engine.backend, "owed", owed)
    with running_worker(broker, threads=1):
        wait_until("what comes next", lambda: "next" in jobs.began)
    assert given == [[], ["send:1:0:1"]]  # the late message, then the one of the present run
    assert jobs.began == ["next"]


def test_only_the_id_of_an_expired_run_is_freed(broker: dramatiq.Broker, jobs: Jobs) -> None:
    run = clutch_of(jobs, "a").run(run_id="nightly")
    to_expiry(broker, jobs)
    with pytest.raises(RunIdTaken):
        clutch_of(jobs, "b").run(run_id="nightly")
    assert run.delete() is False
    with pytest.raises(RunNotFound):
        run.delete()
    assert clutch_of(jobs, "b").run(run_id="nightly").started


def test_a_nested_run_is_deleted_with_the_one_that_it_is_nested_in(broker: dramatiq.Broker, jobs: Jobs) -> None:
    run = Clutch().then(clutch_of(jobs, "a")).run()
    with pytest.raises(NestingError, match="is nested in another one, and is deleted with that"):
        Run(f"{run.run_id}~0.0").delete()


def test_a_run_without_stages_makes_room_like_any_other(stub_broker: dramatiq.Broker) -> None:
    clutch = Clutch()
    run = clutch.run(run_id="daily")
    assert clutch.run(run_id="daily", if_exists="restart").started
    assert clutch.run(run_id="daily", if_exists="replace").started
    assert run.delete()
    with pytest.raises(RunNotFound):
        run.status()


def test_a_run_of_many_members_is_deleted_in_steps_of_a_few(
    broker: dramatiq.Broker, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No call of the store is about more of them than a chunk has; and the shares of a cancel, which are for anybody,
    are done by the one who waits for them."""
    monkeypatch.setattr("dramatiq_clutch.handover.work.CHUNK", 10)
    backend, asked = engine_of(broker).backend, list[int]()
    run = Clutch().parallel([Clutch().then(jobs.job.message("x"))] * 30).run()
    run.cancel()
    works = backend.occupants

    def occupants(run_ids: Any) -> Any:
        asked.append(len(run_ids))
        return works(run_ids)

    monkeypatch.setattr(backend, "occupants", occupants)
    assert run.delete()
    assert max(asked) == 10
    assert sum(asked) >= 30
    assert left_of(broker, run.run_id) <= {"past", "tombstone"}


# What is kept


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_a_run_that_keeps_its_results_has_those_of_all_stages(broker: dramatiq.Broker, jobs: Jobs, state: str) -> None:
    jobs.script["d"] = {"failed": ["die"], "cancelled": ["wait"], "succeeded": []}[state]
    clutch = clutch_of(jobs, "a", "b", keep_results=True, on_finish=jobs.heard.message("root"))
    clutch = clutch.then(jobs.job.message("c")).then(Clutch(keep_results=True).then(jobs.job.message("x")))
    assert "keep_results=True" in repr(clutch)
    run = clutch.then(jobs.job.message("d")).run()
    with running_worker(broker):
        if state == "cancelled":
            wait_until("it is at work", lambda: "d" in jobs.began)
            run.cancel()
            jobs.gates["d"].set()
        state_is(run, state)
        jobs.wait_fired("root", "E")
        wait_until("the queue is empty", lambda: on_their_way(broker) == 0)
    engine, gen = engine_of(broker), generation(broker, run.run_id) or ""
    assert engine.backend.keeps(run.run_id, generation=gen)
    kept = [engine.reader.stage_results(run.run_id, stage, gen)[1] for stage in range(3)]
    assert kept == [["a", "b"], ["c"], ["x"]]
    run.delete()
    assert left_of(broker, run.run_id) <= {"past", "tombstone"}


def test_what_is_kept_goes_with_the_run(redis_broker: RedisBroker, redis_client: redis.Redis) -> None:
    jobs = Jobs(redis_broker)
    clutch = clutch_of(jobs, "a", "b", keep_results=True)
    run = clutch.then(jobs.job.message("c"), jobs.job.message("d"), jobs.job.message("e")).run()
    with running_worker(redis_broker):
        state_is(run, "succeeded")
        wait_until("the queue is empty", lambda: on_their_way(redis_broker) == 0)
    lives: Any = {name: redis_client.pttl(name) for name in clutch_keys(redis_client) if run.run_id in name}
    kept = {name: left for name, left in lives.items() if "tombstone" not in name}
    assert {name.split("}:")[1].split(":")[0] for name in kept} == {"head", "members", "plan"}
    assert len(kept) == 6
    assert all(left <= 600_000 for name, left in kept.items() if "head" not in name)  # the result_ttl


# What is told of a run that isn't there


def test_of_a_run_whose_result_has_expired_it_is_said_how_it_is_run_again() -> None:
    """By default, which keeps its status for longer."""
    with stubbed() as broker:
        jobs = Jobs(broker)
        clutch = clutch_of(jobs, "a", keep_results=True).then(jobs.total)
        run, other = clutch.run(run_id="nightly"), clutch.run()
        broker.work()
        broker.advance(DEFAULT_RESULT_TTL)
        assert run.status().state == other.status().state == "succeeded"
        reads: list[Callable[[Run], Any]] = [
            Run.get_result,
            lambda run: run.get_result(block=True),
            lambda run: list(run.iter_results()),
            Run.partial_results,
            lambda run: run.partial_results(stage=0),
        ]
        says = "has succeeded, and its result has expired: .* and the status for longer"
        for read in reads:
            with pytest.raises(
                ResultsGone, match=rf"'nightly' {says}; run\(run_id='nightly', if_exists='restart'\) runs"
            ):
                read(run)
            with pytest.raises(ResultsGone, match=f"{says}$"):
                read(other)
        assert not clutch.run(run_id="nightly").started
        assert clutch.run(run_id="nightly", if_exists="restart").started


def test_of_a_run_that_has_succeeded_and_expired_it_is_said_so(
    broker: dramatiq.Broker, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    clutch = clutch_of(jobs, "a")
    run, other = clutch.run(run_id="nightly"), Clutch().then(clutch).run()
    with running_worker(broker):
        state_is(other, "succeeded")
        state_is(run, "succeeded")
    expire(broker, "nightly")
    expire(broker, other.run_id)
    says = r"run 'nightly' has succeeded, and its result expired .*; run\(run_id='nightly', if_exists='restart'\)"
    with pytest.raises(RunNotFound, match=says):
        run.status()
    with pytest.raises(RunNotFound, match=r"has succeeded, and its result expired \(the middleware's result_ttl\)$"):
        other.get_result(block=True)
    with pytest.raises(RunNotFound, match="has succeeded, and what it had went to the run it was nested in"):
        Run(f"{other.run_id}~0.0").status()
    with pytest.raises(RunNotFound, match="never was, or has expired"):
        Run("nobody").status()

    def away(*args: Any, **more: Any) -> Any:
        raise StateUnavailable("away")

    monkeypatch.setattr(engine_of(broker).backend, "occupants", away)
    with pytest.raises(RunNotFound, match="never was, or has expired"):
        run.status()


def test_a_coroutine_that_waits_for_a_run_gets_the_result_of_the_one_that_replaces_it(
    broker: dramatiq.Broker, jobs: Jobs
) -> None:
    """A handle is one of an id."""
    jobs.script["a"] = ["wait"]
    first = clutch_of(jobs, "a").run(run_id="nightly")
    with running_worker(broker):
        wait_until("it is at work", lambda: "a" in jobs.began)
        clutch_of(jobs, "b").run(run_id="nightly", if_exists="replace")
        assert first.get_result(block=True) == ["b"]
        jobs.gates["a"].set()
        wait_until("the queue is empty", lambda: on_their_way(broker) == 0)


# Keys


def test_what_is_remembered_of_an_id_lives_a_day_longer_than_the_last_delayed_message(
    redis_broker: RedisBroker, redis_client: redis.Redis, server: Server
) -> None:
    jobs = Jobs(redis_broker)
    run = clutch_of(jobs, "a").run(run_id="nightly", delay=5 * 86_400_000)
    assert isinstance(engine_of(redis_broker).backend, RedisBackend)
    run.cancel()
    run.delete()
    (key,) = (name for name in clutch_keys(redis_client) if "{nightly}" in name)
    assert key.endswith(":past")
    assert 5.9 * 86_400_000 < redis_client.pttl(key) <= 6 * 86_400_000


# Stages are done again


class Stages:
    """A clutch of four stages: a job; a map over what it returns; a nested clutch and a job that nests one; and a job
    that returns what it sees. Job `x` is in the nested clutch."""

    def __init__(self, broker: dramatiq.Broker, jobs: Jobs) -> None:
        @actor(broker=broker, actor_name="sees")  # type: ignore[untyped-decorator]
        def sees() -> Any:
            jobs.began.append("sees")
            return [previous_results(stage=name) for name in ("list", "map", "nest")]

        @actor(broker=broker, actor_name="nests")  # type: ignore[untyped-decorator]
        def nests() -> Run:
            jobs.began.append("nests")
            return Clutch().then(jobs.job.message("y")).nest()

        self.jobs, self.nests, self.sees = jobs, nests, sees
        self.clutch = self.with_job("x")

    def with_job(self, name: str) -> Clutch:
        """The clutch with another job in the place of `x`."""
        jobs = self.jobs
        clutch = Clutch(keep_results=True, **jobs.callbacks("root")).then(jobs.several.message("a", 3), name="list")
        inner = Clutch().parallel(jobs.job.message(name), jobs.job.message("z"))
        clutch = clutch.map(jobs.job.message(), name="map").parallel(inner, self.nests.message(), name="nest")
        return clutch.then(self.sees, name="see")

    #: What the jobs of each stage are named.
    JOBS = (("a",), ("a0", "a1", "a2"), ("x", "z", "nests", "y"), ("sees",))
    RESULT: Any = ([["a0", "a1", "a2"]], ["a0", "a1", "a2"], [["x", "z"], "y"])

    def of(self, stage: int) -> list[str]:
        """The jobs of this stage and those after it."""
        return sorted(name for names in self.JOBS[stage:] for name in names)


def has_come_to(run: Run, stage: int) -> None:
    wait_until(f"it has come to stage {stage}", lambda: run.status().stages[stage].state != "waiting")


def owes_nothing(broker: dramatiq.Broker, run: Run) -> None:
    engine, whose = engine_of(broker), generation(broker, run.run_id) or ""
    wait_until("it owes nothing", lambda: ask(engine, run.run_id, whose, asks=True).word == "rests")


def is_quiet(broker: dramatiq.Broker) -> None:
    wait_until("the queue is empty", lambda: on_their_way(broker) == 0)


def nothing_is_left_but(broker: dramatiq.Broker, run: Run) -> None:
    """What is left of a deleted run: nothing of any of its passes."""
    run.delete()
    assert left_of(broker, run.run_id) <= {"past", "tombstone"}


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("stage", range(4))
def test_a_run_that_has_succeeded_is_done_again_from_a_stage(
    broker: dramatiq.Broker, jobs: Jobs, stage: int, by_name: bool
) -> None:
    stages = Stages(broker, jobs)
    run, before = stages.clutch.run(run_id="nightly"), 0
    with running_worker(broker):
        for turn in range(2):
            assert run.get_result(block=True) == [*stages.RESULT]
            jobs.wait_fired("root", " ".join(["S E"] * (turn + 1)))
            is_quiet(broker)
            if not turn:
                before = len(jobs.began)
                assert run.retry(from_stage=("list", "map", "nest", "see")[stage] if by_name else stage) is True
    assert sorted(jobs.began[before:]) == stages.of(stage)
    assert run.partial_results(stage=1) == {0: "a0", 1: "a1", 2: "a2"}
    assert dead_letters(broker) == 0
    nothing_is_left_but(broker, run)


def test_while_a_stage_is_done_again_the_status_shows_it_at_work(broker: dramatiq.Broker, jobs: Jobs) -> None:
    stages = Stages(broker, jobs)
    run = stages.clutch.run()
    with running_worker(broker):
        assert run.get_result(block=True) == [*stages.RESULT]
        jobs.wait_fired("root", "S E")
        is_quiet(broker)
        jobs.script["x"] = ["wait"]
        run.retry(from_stage="nest")
        wait_until("it is at work", lambda: jobs.counts()["x"] == 2)
        status = run.status()
        assert [one.state for one in status.stages] == ["succeeded", "succeeded", "running", "waiting"]
        assert 0.5 <= status.progress < 1.0
        with pytest.raises(ResultMissing):
            run.get_result()
        with pytest.raises(RunAtWork, match=r"is at work, so no stage of it can be done again: cancel\(\) it first"):
            run.retry(from_stage=0)
        jobs.gates["x"].set()
        assert run.get_result(block=True) == [*stages.RESULT]
    nothing_is_left_but(broker, run)


@pytest.mark.parametrize("stage", range(3))
@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_run_that_did_not_succeed_is_done_again_from_a_stage(
    broker: dramatiq.Broker, jobs: Jobs, state: str, stage: int
) -> None:
    stages = Stages(broker, jobs)
    jobs.script["x"] = ["die"] if state == "failed" else ["wait"]
    run = stages.clutch.run()
    with running_worker(broker):
        if state == "cancelled":
            wait_until("it is at work", lambda: "x" in jobs.began)
            assert run.cancel()
        state_is(run, state)
        wait_until("on_finish is heard of", lambda: jobs.fired("root").endswith("E"))
        if state == "failed":
            is_quiet(broker)
        with pytest.raises(ValueError, match=r"stage 'see' .* hasn't begun yet, .*: retry\(\) without from_stage"):
            run.retry(from_stage="see")
        before, dead = len(jobs.began), dead_letters(broker)
        run.retry(from_stage=stage)
        jobs.gates["x"].set()  # the job of the earlier pass ends late
        assert run.get_result(block=True) == [*stages.RESULT]
        is_quiet(broker)
    assert run.status().failures == ()
    counts = Counter(jobs.began[before:])
    late = {name for name in ("y", "z", "nests") if state == "cancelled"}  # may have begun while it was cancelled
    assert {name: count for name, count in counts.items() if name not in late} == {
        name: 1 for name in stages.of(stage) if name not in late
    }
    assert dead_letters(broker) == dead
    nothing_is_left_but(broker, run)


def test_failures_of_the_stages_before_stay_and_are_seen_by_those_done_again(
    broker: dramatiq.Broker, jobs: Jobs
) -> None:
    jobs.script["a"] = ["die"]
    clutch = Clutch(keep_results=True).parallel(
        jobs.job.message("a"), jobs.job.message("b"), allow_failures=True, name="first"
    )
    seen: list[Any] = []

    @dramatiq.actor(broker=broker)
    def look() -> None:
        seen.append((previous_results(stage="first"), [one.index for one in previous_failures(stage="first")]))

    clutch = clutch.then(jobs.job.message("c")).then(jobs.job.message("d")).then(look)
    run = clutch.run()
    with running_worker(broker):
        for turn, stage in enumerate((3, 2, 1)):
            state_is(run, "succeeded")
            assert len(seen) == turn + 1
            is_quiet(broker)
            assert [one.index for one in run.status().failures] == [0]
            run.retry(from_stage=stage)
        state_is(run, "succeeded")
    assert seen == [([None, "b"], [0])] * 4


def test_what_cannot_be_done_again_is_said(broker: dramatiq.Broker, jobs: Jobs) -> None:
    plain = clutch_of(jobs, "a").run()
    kept = Clutch(keep_results=True).then(clutch_of(jobs, "b"), name="one").run()
    with running_worker(broker):
        for run in (plain, kept):
            state_is(run, "succeeded")
        is_quiet(broker)
    with pytest.raises(ResultsGone, match=r"keeps no results .* say Clutch\(keep_results=True\)"):
        plain.retry(from_stage=0)
    for stage in (1, -1, True, "two"):
        with pytest.raises(ValueError, match=r"there is no stage .* here, but these: 0 \('one'\)"):
            kept.retry(from_stage=stage)
    with pytest.raises(NestingError, match="keeps no results, so no stage of it can be done again by itself"):
        Run(f"{kept.run_id}~0.0").retry(from_stage=0)
    with pytest.raises(RunNotFound, match="never was, or has expired"):
        Run("nobody").retry(from_stage=0)
    assert [plain.status().state, kept.status().state] == ["succeeded"] * 2
    assert asyncio.run(kept.retry_async(from_stage="one")) is True
    assert kept.cancel()
    assert kept.retry()
    with running_worker(broker):
        assert kept.get_result(block=True) == ["b"]


@pytest.mark.search
@pytest.mark.parametrize("stage", range(3))
@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_whoever_breaks_off_while_stages_are_to_be_done_again_loses_nothing(make: Any, state: str, stage: int) -> None:
    """The process is gone between any two calls of the store. Either nothing has happened, or a sweeper goes on."""
    with make(lease=20) as app:
        jobs = Jobs(app.broker)
        stages, cuts, done = Stages(app.broker, jobs), list[str](), False
        before, wanted = {"failed", "cancelled", "succeeded"}, {"snapshot", "delete", "spec", "rewind", "occupants"}
        while not done or not wanted <= set(cuts):
            of = min(wanted - set(cuts)) if done else None
            name = f"x{len(cuts)}"  # late copies of other runs' jobs don't take what this one's is to do
            jobs.script[name] = ["die"] * 20 if state == "failed" else []  # second copies die, too
            run = stages.with_job(name).run(run_id=f"nightly-{len(cuts)}")
            with running_worker(app.broker):
                if state == "failed":
                    state_is(run, state)
                else:
                    has_come_to(run, 2)
                    run.cancel()
                is_quiet(app.broker)
                owes_nothing(app.broker, run)
            jobs.script[name].clear()
            with cut_after(app.broker, 0 if of else len(cuts), of=of) as cut, suppress(Cut):
                run.retry(from_stage=stage)
            assert cut or not of, f"{of} wasn't called"
            with running_worker(app.broker):
                if run.status().state in before:
                    assert run.retry(from_stage=stage)
                assert run.get_result(block=True)[2] == [[name, "z"], "y"]
                is_quiet(app.broker)
            cuts += cut[:1]
            done = done or not cut
        wait_until("what is owed is done", lambda: app.sweep() == 0)


def test_of_several_callers_one_does_a_stage_again(broker: dramatiq.Broker, jobs: Jobs) -> None:
    run = Clutch(keep_results=True).then(jobs.job.message("a")).then(jobs.job.message("b")).run()
    with running_worker(broker):
        state_is(run, "succeeded")
        is_quiet(broker)
    barrier, backend = threading.Barrier(4), engine_of(broker).backend
    works = backend.rewind

    def rewind(*args: Any, **more: Any) -> Any:
        if not barrier.broken:
            with suppress(threading.BrokenBarrierError):
                barrier.wait(PATIENCE)
        return works(*args, **more)

    def again() -> str:
        try:
            return str(run.retry(from_stage=1))
        except RunAtWork:
            return "at work"

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(4) as pool:
        patch.setattr(backend, "rewind", rewind)
        said = [future.result() for future in [pool.submit(again) for _ in range(4)]]
    assert sorted(said) == ["True"] + ["at work"] * 3
    with running_worker(broker):
        assert run.get_result(block=True) == "b"
        is_quiet(broker)
    assert jobs.counts() == {"a": 1, "b": 2}
