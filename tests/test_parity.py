"""What sidekiq-clutch promises, and a little more, on real worker processes and a real server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from dramatiq.brokers.redis import RedisBroker

from dramatiq_clutch import Clutch, Run
from tests.support import actors
from tests.support.actors import BEGAN, HEARD, LOG, Actors, Setting
from tests.support.awaiting import wait_until
from tests.support.keyspace import assert_only_left
from tests.support.prepared import ROOT
from tests.support.server import Server
from tests.support.workers import Worker

#: Two workers do the jobs of all these tests.
pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    with Server() as server:
        env = Setting(server.url).to_env()
        with Worker(actors.__name__, env=env, threads=8), Worker(actors.__name__, env=env, threads=8):
            yield server


class World:
    def __init__(self, server: Server) -> None:
        self.jobs = Actors(Setting(server.url))
        self.broker: RedisBroker = self.jobs.broker
        self.client: redis.Redis = self.broker.client

    def clutch(self, **options: Any) -> Clutch:
        return Clutch(broker=self.broker, **options)

    def log(self) -> list[dict[str, Any]]:
        return self.jobs.log()

    def names(self) -> list[str]:
        return [entry["name"] for entry in self.log()]

    def sees(self) -> dict[str, Any]:
        return {entry["name"]: entry.get("sees") for entry in self.log()}

    def open(self, gate: str) -> None:
        self.jobs.open(gate)


@pytest.fixture
def world(own_server: Server) -> Iterator[World]:
    world = World(own_server)
    yield world
    world.client.delete(BEGAN, LOG, HEARD, *world.client.keys("gate*"))
    world.broker.close()


def result(run: Run) -> Any:
    return run.get_result(block=True, timeout=60_000)


def test_the_jobs_of_a_series_run_in_order_and_each_sees_the_results_of_the_one_before(world: World) -> None:
    see = world.jobs.see
    run = world.clutch().then(see.message("a"), see.message("b")).then(see.message("c")).run()
    assert result(run) == "c"
    assert world.names() == ["a", "b", "c"]
    assert world.sees() == {"a": [], "b": ["a"], "c": ["b"]}


def test_a_parallel_stage_hands_all_its_results_to_the_next_stage_always_as_a_list(world: World) -> None:
    see = world.jobs.see
    run = (
        world.clutch()
        .parallel(see.message("a"), see.message("b"), see.message("c"))
        .parallel(see.message("one"))
        .then(see.message("end"))
        .run()
    )
    result(run)
    assert world.sees()["one"] == ["a", "b", "c"]
    assert world.sees()["end"] == ["one"]


def test_each_parallel_is_a_stage_of_its_own_also_two_in_a_row(world: World) -> None:
    see = world.jobs.see
    run = world.clutch().parallel(see.message("a"), see.message("b")).parallel(see.message("c"), see.message("d")).run()
    assert result(run) == ["c", "d"]
    assert set(world.names()[:2]) == {"a", "b"}
    assert world.sees()["c"] == world.sees()["d"] == ["a", "b"]


def test_a_bare_actor_is_a_step_and_any_plain_actor_works(world: World) -> None:
    assert result(world.clutch().then(world.jobs.plain).parallel([world.jobs.plain]).run()) == ["plain"]


def test_an_empty_clutch_does_nothing_and_raises_nothing(world: World) -> None:
    assert result(world.clutch().run()) is None
    assert world.names() == []


def test_a_queue_overrides_the_actors_own_for_every_job_and_callback_of_every_stage(world: World) -> None:
    jobs = world.jobs
    run = (
        world.clutch(queue="critical", on_failure=jobs.alert)
        .then(jobs.see_elsewhere.message("a"))
        .parallel(jobs.see.message("b"), jobs.see_elsewhere.message("c"))
        .then(jobs.fail_times.message("d", 1, "gate"))
        .then(jobs.see_elsewhere.message("e"))
        .run()
    )
    wait_until("the alert", lambda: "alert" in world.names())
    world.open("gate")
    result(run)
    assert set(world.names()) == {"a", "b", "c", "d", "e", "alert"}
    assert {entry["queue"] for entry in world.log()} == {"critical"}


def test_without_a_queue_each_actors_own_holds(world: World) -> None:
    jobs = world.jobs
    run = (
        world.clutch(on_failure=jobs.alert)
        .then(jobs.see_elsewhere.message("a"))
        .parallel(jobs.see.message("b"), jobs.see_elsewhere.message("c"))
        .then(jobs.fail_times.message("d", 1, "gate"))
        .run()
    )
    wait_until("the alert", lambda: "alert" in world.names())
    world.open("gate")
    result(run)
    queues = {entry["name"]: entry["queue"] for entry in world.log()}
    assert queues == {"a": "own", "b": "default", "c": "own", "d": "default", "alert": "own"}


def test_the_next_stage_is_not_enqueued_while_a_job_is_failing_and_the_run_goes_on_when_it_is_healed(
    world: World,
) -> None:
    jobs = world.jobs
    heals = jobs.fail_times.message("a", 4, "gate")
    run = world.clutch(on_failure=jobs.alert).then(heals).then(jobs.see.message("b")).run()
    wait_until("the alert", lambda: "alert" in world.names())
    assert "b" not in world.names()
    world.open("gate")
    assert result(run) == "b"
    names = world.names()
    assert names.count("alert") == 1
    assert [name for name in names if name != "alert"] == ["a"] * 5 + ["b"]


@pytest.mark.parametrize("failing", [1, 3])
def test_on_failure_is_sent_once_however_many_of_a_stage_fail(world: World, failing: int) -> None:
    jobs = world.jobs
    run: Run = (
        world.clutch(on_failure=jobs.alert)
        .parallel(jobs.fail_times.message(f"bad {n}", 3, "gate 1") for n in range(failing))
        .run()
    )
    wait_until("the alert", lambda: "alert" in world.names())
    world.open("gate 1")
    result(run)
    run = (
        world.clutch(on_failure=jobs.alert)
        .parallel(
            *(jobs.fail_times.message(f"worse {n}", 2, "gate 2") for n in range(failing)),
            jobs.see.message("good"),
            jobs.see.message("fine"),
        )
        .then(jobs.see.message("end"))
        .run()
    )
    wait_until("both alerts", lambda: world.names().count("alert") >= 2)
    world.open("gate 2")
    assert result(run) == "end"
    assert world.names().count("alert") == 2


def test_on_failure_is_not_sent_when_a_retry_has_healed_the_stage_before_its_last_first_attempt(world: World) -> None:
    jobs = world.jobs
    run: Run = (
        world.clutch(on_failure=jobs.alert)
        .parallel(jobs.fail_times.message("a", 2), jobs.wait.message("late", "gate"))
        .then(jobs.see.message("end"))
        .run()
    )
    wait_until("a to be healed", lambda: run.status().stages[0].succeeded == 1)
    world.open("gate")
    assert result(run) == "end"
    assert "alert" not in world.names()


def test_the_alert_waits_until_every_member_has_had_an_attempt(world: World) -> None:
    jobs = world.jobs
    run = world.clutch(on_failure=jobs.alert).parallel(jobs.die, jobs.wait.message("late", "gate")).run()
    wait_until("one to be dead", lambda: run.status().stages[0].dead == 1)
    assert "alert" not in world.names()
    world.open("gate")
    wait_until("the alert", lambda: "alert" in world.names())
    assert world.names() == ["late", "alert"]


def test_results_come_in_written_order_though_the_members_finish_in_reverse(world: World) -> None:
    wait = world.jobs.wait
    run = (
        world.clutch()
        .parallel(wait.message(str(n), f"gate {n}", f"gate {n - 1}") for n in range(5))
        .then(world.jobs.see.message("end"))
        .run()
    )
    world.open("gate 4")
    result(run)
    assert world.names() == ["4", "3", "2", "1", "0", "end"]
    assert world.sees()["end"] == ["0", "1", "2", "3", "4"]


def test_all_options_hold_after_the_first_stage(world: World) -> None:
    jobs = world.jobs
    run = (
        world.clutch(on_failure=jobs.alert)
        .then(jobs.see.message("a"), jobs.see.message("b"))
        .then(jobs.fail_times.message("c", 1, "gate"))
        .run()
    )
    wait_until("the alert", lambda: "alert" in world.names())
    world.open("gate")
    result(run)
    assert [entry["stage"] for entry in world.log() if entry["name"] == "alert"] == [2]


def test_no_keys_are_left_behind(world: World) -> None:
    jobs = world.jobs
    run: Run = (
        world.clutch(on_failure=jobs.alert)
        .parallel(jobs.fail_times.message("a", 2), jobs.see.message("b"))
        .then(jobs.see.message("c"), jobs.see.message("d"))
        .run()
    )
    result(run)
    wait_until("the last duty is confirmed", lambda: world.client.exists(f"dramatiq-clutch:{{{run.run_id}}}:tombstone"))
    own = f"dramatiq-clutch:{{{run.run_id}}}"
    assert_only_left(world.client, allowed=(":head", ":tombstone", ":members:2", ":callbacks"), namespace=own)
    days = {f"{own}:tombstone": 1, f"{own}:head": 7}  # late duplicates; whoever looks at what has been
    keys: Any = world.client.keys(f"{own}:*")
    for key in keys:
        assert world.client.pttl(key) <= days.get(key.decode(), 0) * 86_400_000 or world.client.pttl(key) <= 600_000


# The callbacks' table, once on real workers: several processes, so each event is looked up by name, not by its turn.

F, D, S, X, E = "on_failure", "on_death", "on_success", "on_failed", "on_finish"


def heard(world: World, who: str, *events: str) -> None:
    wait_until(f"{who} to hear {events}", lambda: len(world.jobs.heard_by(who)) >= len(events))
    assert sorted(world.jobs.heard_by(who)) == sorted(events)


@pytest.mark.parametrize(("kind", "depth"), [("series", 0), ("written down", 1), ("while running", 2)])
def test_the_callbacks_on_real_workers(world: World, kind: str, depth: int) -> None:
    """`depth` is the child's: what a job nests is a run of its own, in the runs that the job has nested."""
    jobs, nested = world.jobs, depth > 0

    def clutch(step: Any) -> Clutch:
        name, args = step.actor_name, step.args
        if kind == "while running":
            step = jobs.nests.message(name, *args)
        elif kind == "written down":
            step = jobs.called("child").then(step)
        return jobs.called("root").then(step)

    def both_heard(*events: str, forget: bool = True) -> None:
        heard(world, "root", *events)
        if nested:
            heard(world, "child", *events)
        if forget:
            world.client.delete(HEARD)

    run = clutch(jobs.fail_times.message("heals", 1, "gate of the healed")).run()
    both_heard(f"{F} failing", forget=False)
    world.open("gate of the healed")
    result(run)
    both_heard(f"{F} failing", f"{S} succeeded", f"{E} succeeded")

    run = clutch(jobs.dies_once.message("dies")).run()
    wait_until("it has failed", lambda: run.status().state == "failed")
    both_heard(f"{F} failing", f"{D} failing", f"{X} failed", f"{E} failed")
    assert run.retry()
    assert result(run) == "dies"
    both_heard(f"{S} succeeded", f"{E} succeeded")

    run = clutch(jobs.wait.message("cancelled", "gate of the cancelled")).run()
    if nested:
        child = "~0.0" * depth  # cancelled before it is started it would call nobody
        wait_until("the child is there", lambda: world.client.exists(f"dramatiq-clutch:{{{run.run_id}{child}}}:head"))
    assert run.cancel()
    both_heard(f"{E} cancelled")
    world.open("gate of the cancelled")
    wait_until("its job is over", lambda: not world.client.hlen("dramatiq:default.msgs"))


def test_processes_that_race_for_an_id_start_one_run(world: World, own_server: Server) -> None:
    racer = (
        "import sys; from tests.support.actors import Actors, Setting; from dramatiq_clutch import Clutch; "
        "jobs = Actors(Setting(sys.argv[1])); sys.stdin.read(1); "
        "print(Clutch(broker=jobs.broker).then(jobs.see.message('raced')).run(run_id='race').run_id)"
    )
    command = [sys.executable, "-c", racer, own_server.url]
    racers = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    assert {process.communicate("x", timeout=60)[0] for process in racers} == {"race\n"}
    assert result(Run("race", broker=world.broker)) == "raced"
    assert world.names() == ["raced"]
