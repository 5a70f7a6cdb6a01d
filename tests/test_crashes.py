"""A process is killed (-9) at every boundary there is: before and after each call of the state store and of the broker.
Whatever worker comes next brings the run to the same end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from dramatiq_clutch import Run, runs
from dramatiq_clutch.backend import ClutchBackend
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.register import Register
from tests.support import actors
from tests.support.actors import EVERYTHING, WAIT, Actors, mortal
from tests.support.awaiting import wait_until
from tests.support.crashing import CRASHED
from tests.support.keyspace import NAMESPACE
from tests.support.prepared import ROOT, Prepared
from tests.support.server import Server
from tests.support.workers import Worker

pytestmark = pytest.mark.process

#: What a worker that works on the run never calls: it is for producers, for waiting, or another test's subject.
NOT_A_WORKERS = {
    "cancel",
    "retry",
    "resend",
    "reopen",
    "standing",
    "failures",
    "snapshot",
    "fail",
    "touch",
    "retell",
    "delete",
    "rewind",
    "drop_pass",
} | {
    "at_rest",
    "occupants",
    "keeps",
    "firings",
    "listen",
    "say",
    "generation",
    "lines",
    "how_far",
    "count_due",
    "attend",
    "attending",
}
NOT_A_WORKERS |= Register.__abstractmethods__ - {"enlist"}

#: What it may come to only when the run is over.
LATE = {"due", "owed", "sweep", "look_again", "heard"}

#: Every other method, and the broker's: derived, so that a new one can't be forgotten.
BOUNDARIES = [*sorted(ClutchBackend.__abstractmethods__ - NOT_A_WORKERS), "_send"]


@pytest.fixture
def world(server: Server, redis_client: redis.Redis) -> Iterator[Actors]:
    world = Actors(mortal(server.url))
    yield world
    world.broker.close()


def worker(server: Server, crash: str = "") -> Worker:
    return Worker(actors.__name__, env=mortal(server.url, crash=crash).to_env(), threads=2)


def producer(server: Server, verb: str, crash: str = "") -> int:
    env = {**os.environ, **mortal(server.url, crash=crash).to_env()}
    with tempfile.NamedTemporaryFile() as log:
        code = Prepared(actors.__name__, verb, "crash", env=env, log=Path(log.name)).wait()
        print(log.read().decode())
    return code


def assert_same_end(world: Actors, run: Run) -> None:
    assert run.get_result(block=True, timeout=60_000) == EVERYTHING
    (listed,) = runs(broker=world.broker)
    assert (listed.run_id, listed.state) == (run.run_id, "succeeded")
    both = {"on_success succeeded", "on_finish succeeded"}
    wait_until("the callbacks", lambda: set(world.heard_by("root")) == both)
    # A crash between sending and confirming may send one again, and both may have been at work when it came.
    assert len(world.heard_by("root")) <= 4
    told = dict.fromkeys(("on_success", "on_finish"), ("succeeded", 1))  # each counts once, all the same
    wait_until("both to be known to have ended", lambda: fired(run) == told)
    # One that was sent by a process that died before it could confirm that is sent once more.
    wait_until("it to be known when", lambda: all(one.sent and one.ended for one in run.callbacks() if one.count))
    began = world.began()
    jobs = 2 + 3 + 3 + 1 + 2 + 1 + 1
    assert len(began) == jobs
    # One heals; two may have been at work when their worker died; and if it died between sending a stage (of three at
    # most) and confirming, that is sent again: two copies of a job that are at work side by side are not known as such.
    assert sum(began.values()) <= jobs + 1 + 2 + 3


def fired(run: Run) -> dict[str, tuple[str | None, int]]:
    """The events that have come: how their callbacks stand, and how often they came."""
    return {one.event: (one.state, one.count) for one in run.callbacks() if one.count}


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_run_whose_worker_is_killed_comes_to_the_same_end(
    server: Server, world: Actors, boundary: str, moment: str
) -> None:
    run = world.clutch("everything").run(run_id="crash", context={"tenant": 7})
    nth = 2 if boundary in ("record", "confirm", "guard", "_send", "spec", "rows") else 1
    died = work_until_killed(server, world, run, f"{boundary} {nth} {moment}")
    assert died or boundary in LATE
    with worker(server):
        assert_same_end(world, run)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("boundary", ["record", "open", "create", "context", "_send", "confirm"])
def test_a_run_that_waits_has_args_and_maps_in_a_nested_clutch_comes_to_the_same_end_though_its_worker_is_killed(
    server: Server, world: Actors, boundary: str, moment: str
) -> None:
    began = world.client.time()
    run = world.clutch("late").run(run_id="crash", args=[1, 2], context={"tenant": 7}, tags=["late"])
    assert work_until_killed(server, world, run, f"{boundary} 1 {moment}")
    with worker(server):
        assert run.get_result(block=True, timeout=60_000) == ["told", 3]
    ended, (told,) = world.client.time(), {json.dumps(entry) for entry in world.log()}
    assert json.loads(told)["context"] == {"tenant": 7, "level": "nested"}
    assert json.loads(told)["sees"] == [1, 2]
    assert (ended[0] - began[0]) * 1_000 + (ended[1] - began[1]) / 1_000 >= WAIT
    assert run.status().tags == ("late",)


def work_until_killed(server: Server, world: Actors, run: Run, crash: str) -> bool:
    """A worker that kills itself, unless it never comes to that. Returns whether it has."""
    client = world.client
    first = worker(server, crash)
    try:
        first.start()
        wait_until("it dies, or has nothing more to do", lambda: client.exists(CRASHED) or is_over(world, run))
        return bool(client.exists(CRASHED))
    except AssertionError:
        print(first.log)
        raise
    finally:
        first.close()


def is_over(world: Actors, run: Run) -> bool:
    """Whether the run has succeeded and nothing is owed any more, neither by it nor by those nested in it: it owes its
    callbacks for a moment after it has come to rest."""
    index = f"{NAMESPACE}:index:{engine_of(world.broker).application}"
    return run.status().state == "succeeded" and not world.client.exists(index)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("boundary", ["create", "enlist", "_send", "confirm"])
def test_a_run_whose_producer_is_killed_comes_to_the_same_end(
    server: Server, world: Actors, boundary: str, moment: str
) -> None:
    assert producer(server, "everything", f"{boundary} 1 {moment}") == -9
    if boundary == "create" and moment == "before":
        assert producer(server, "everything") == 0  # nothing had begun
    with worker(server):
        assert_same_end(world, Run("crash", broker=world.broker))


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("boundary", ["cancel", "confirm", "nested", "rows"])
def test_a_run_whose_canceller_is_killed_is_cancelled_and_can_be_retried(
    server: Server, world: Actors, boundary: str, moment: str
) -> None:
    run = world.clutch("everything").run(run_id="crash")
    work_until_killed(server, world, run, "create 1 after")  # when the first nested run has just been started
    ended = producer(server, "cancel", f"{boundary} 1 {moment}")
    if boundary == "cancel" and moment == "before":
        assert ended == -9
        assert producer(server, "cancel") == 0
    with worker(server):
        wait_until("the run is cancelled", lambda: run.status().state == "cancelled")
        backend = engine_of(world.broker).backend
        wait_until("its nested run is at rest, too, or gone", lambda: backend.at_rest(["crash~2.0"]) == [True])
        assert run.retry()
        assert run.get_result(block=True, timeout=60_000) == EVERYTHING


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("boundary", ["retry", "reopen", "standing", "_send", "confirm"])
def test_a_run_is_retried_though_the_process_that_retries_it_is_killed(
    server: Server, world: Actors, boundary: str, moment: str
) -> None:
    run = world.clutch("everything").run(run_id="crash")
    work_until_killed(server, world, run, "create 1 after")
    assert producer(server, "cancel") == 0  # a retry of a cancelled run has the most to do
    ended = producer(server, "retry", f"{boundary} 1 {moment}")
    assert ended == -9 or boundary == "reopen"  # which it only comes to if a job has had an attempt before the cancel
    if boundary == "retry" and moment == "before":
        assert producer(server, "retry") == 0
    with worker(server):
        assert run.get_result(block=True, timeout=60_000) == EVERYTHING


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("boundary", ["draft", "occupants", "cancel", "delete", "create", "_send", "confirm"])
def test_a_run_is_replaced_though_the_process_that_replaces_it_is_killed(
    server: Server, world: Actors, boundary: str, moment: str
) -> None:
    """Whoever calls again finds a run at work, one at rest, a free id, or what is to be done only."""
    run = world.clutch("everything").run(run_id="crash")
    work_until_killed(server, world, run, "create 1 after")  # when the first nested run has just been started
    assert producer(server, "replace:everything", f"{boundary} 1 {moment}") == -9
    assert producer(server, "replace:everything") == 0
    with worker(server):
        assert run.get_result(block=True, timeout=60_000) == EVERYTHING
        wait_until("its callbacks", lambda: "on_finish succeeded" in world.heard_by("root"))
        wait_until("the queue is empty", lambda: world.client.hlen("dramatiq:default.msgs") == 0)
    heard = world.heard_by("root")
    assert "on_finish cancelled" in heard
    assert set(heard) == {"on_finish cancelled", "on_success succeeded", "on_finish succeeded"}
    assert world.client.zcard("dramatiq:default.XQ") == 0  # late messages are no dead letters


@pytest.mark.parametrize("if_exists", ["restart", "replace"])
def test_processes_that_race_to_run_it_again_start_one_run(server: Server, world: Actors, if_exists: str) -> None:
    """A nightly job, which is run again on purpose."""
    run = world.clutch("series").run(run_id="crash")
    with worker(server):
        first = run.get_result(block=True, timeout=60_000)
        wait_until("the queue is empty", lambda: world.client.hlen("dramatiq:default.msgs") == 0)
    env = {**os.environ, **mortal(server.url).to_env()}
    command = [sys.executable, "-m", actors.__name__, f"{if_exists}:series", "crash"]
    racing = [subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    started = [json.loads(one.communicate()[0])[1] for one in racing]
    assert [one.returncode for one in racing] == [0] * 4
    if if_exists == "restart":
        assert sorted(started) == [False] * 3 + [True]
    else:  # one that comes a moment later replaces what an earlier one has started
        assert True in started
    with worker(server):
        assert run.get_result(block=True, timeout=60_000) == first
        wait_until("the queue is empty", lambda: world.client.hlen("dramatiq:default.msgs") == 0)
    assert world.began() == {"a": 2, "b": 2, "total": 2}
    assert world.client.zcard("dramatiq:default.XQ") == 0


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_stage_of_a_thousand_is_sent_though_its_sender_is_killed_in_the_middle(
    server: Server, world: Actors, moment: str
) -> None:
    run = world.clutch("wide").run(run_id="crash")
    work_until_killed(server, world, run, f"_send 2 {moment}")  # the second chunk of the stage
    client = world.client
    assert 0 < client.hlen("dramatiq:default.msgs") <= 1_001
    with worker(server):
        assert run.get_result(block=True, timeout=60_000) == sum(range(1_000))
    began = world.began().values()
    assert len(began) == 1_001
    assert sum(began) <= 1_001 + 2


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("nth", [1, 2, 5, 8, 9])
def test_a_series_whose_worker_is_killed_repeats_only_what_was_not_recorded(
    server: Server, world: Actors, nth: int, moment: str
) -> None:
    """What a record sends along is sent if, and only if, the record counts."""
    run = world.clutch("numbers").run(run_id="crash")
    assert work_until_killed(server, world, run, f"record {nth} {moment}")
    with worker(server):
        assert run.get_result(block=True, timeout=60_000) == [7]
    began = world.began()
    assert sorted(began) == [*map(str, range(8)), "add"]
    order = [*map(str, range(8)), "add"]
    if moment == "before":
        assert [name for name in order if began[name] > 1] == [order[nth - 1]]  # what wasn't recorded runs again
    else:  # what was sent with the record may have begun before the process was gone
        assert [name for name in order if began[name] > 1] in ([], order[nth : nth + 1])
    assert max(began.values()) <= 2


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_of_several_callbacks_none_is_lost_and_each_keeps_its_id_though_their_sender_is_killed(
    server: Server, world: Actors, nth: int, moment: str
) -> None:
    run = world.clutch("told").run(run_id="crash")
    assert work_until_killed(server, world, run, f"_send {nth} {moment}")

    def told() -> list[dict[str, object]]:
        return [one for one in world.log() if one["name"] in ("first", "second", "third")]

    with worker(server):
        wait_until("all to be told", lambda: {one["name"] for one in told()} == {"first", "second", "third"})
    calls = told()
    assert {(one["name"], str(one["result"]), one["state"]) for one in calls} == {
        ("first", "[]", "succeeded"),
        ("second", "['a']", "succeeded"),
        ("third", "[]", "succeeded"),
    }
    assert len({one["id"] for one in calls}) == 3
