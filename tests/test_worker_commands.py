"""Runs in worker processes of each kind that the command `dramatiq` starts, and signals in the middle."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from sysconfig import get_path

import pytest

from dramatiq_clutch import Clutch
from tests.support import actors
from tests.support.actors import EVERYTHING, Actors, Setting
from tests.support.awaiting import wait_until
from tests.support.server import Server
from tests.support.workers import Worker

pytestmark = pytest.mark.process

WAYS: dict[str, Sequence[str]] = {
    "two processes of one thread": ("-p", "2", "-t", "1"),
    "a spawned process": ("--use-spawn",),
    "one thread": ("-t", "1"),
    "a short time to shut down": ("--worker-shutdown-timeout", "1000"),
}


@pytest.fixture
def jobs(own_server: Server) -> Iterator[Actors]:
    with own_server.client() as client:
        client.flushall()
    jobs = Actors(Setting(own_server.url))
    with closing(jobs.broker):
        yield jobs


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    with Server() as server:
        yield server


def worker(
    server: Server, *options: str, setting: Setting | None = None, command: Sequence[str] = ("-m", "dramatiq")
) -> Worker:
    scripts = os.pathsep.join([get_path("scripts"), os.environ["PATH"]])  # a reload starts `python` anew
    env = {**(setting or Setting(server.url)).to_env(), "PATH": scripts}
    return Worker(actors.__name__, env=env, threads=2, options=options, command=command)


def everything_works(jobs: Actors) -> None:
    runs = {shape: jobs.clutch(shape).run() for shape in ("everything", "numbers", "nested")}
    results = {shape: run.get_result(block=True, timeout=60_000) for shape, run in runs.items()}
    assert results == {"everything": EVERYTHING, "numbers": [7], "nested": [["a"], "b"]}
    wait_until("the callbacks", lambda: len(jobs.heard_by("root")) == 2)


@pytest.mark.parametrize("way", WAYS)
def test_runs_work_in_worker_processes_of_each_kind(own_server: Server, jobs: Actors, way: str) -> None:
    with worker(own_server, *WAYS[way]):
        everything_works(jobs)


def test_runs_work_in_greenlets(own_server: Server, jobs: Actors) -> None:
    if importlib.util.find_spec("gevent") is None:
        pytest.skip("gevent isn't installed; the matrix has an environment with it")
    command = [str(Path(get_path("scripts"), "dramatiq-gevent"))]
    with worker(own_server, "-t", "50", command=command):
        everything_works(jobs)


def test_a_queue_that_no_worker_listens_on_is_waited_for(own_server: Server, jobs: Actors) -> None:
    clutch = (
        jobs.called("waits").then(jobs.see.message("a")).then(jobs.see_elsewhere.message("b"), jobs.see.message("c"))
    )
    with worker(own_server, "--queues", "default"):
        run = clutch.run()
        wait_until("the first job", lambda: jobs.began().get("a") == 1)
        wait_until("the next stage", lambda: run.status().stages[0].state == "succeeded")
        assert run.status().state == "running"
        with worker(own_server, "--queues", "own"):
            assert run.get_result(block=True, timeout=60_000) == "c"


def test_workers_that_are_reloaded_in_the_middle_lose_no_run(own_server: Server, jobs: Actors) -> None:
    setting = Setting(own_server.url, heartbeat=4_000)
    with worker(own_server, "-p", "2", setting=setting) as process:
        runs = [Clutch(broker=jobs.broker).then(*[jobs.work] * 3).run() for _ in range(20)]
        wait_until("some to be over", lambda: any(run.status().state == "succeeded" for run in runs))
        process.reload()
        assert [run.get_result(block=True, timeout=60_000) for run in runs] == [1] * 20


def test_workers_that_watch_their_sources_are_reloaded_in_the_middle_and_lose_no_run(
    own_server: Server, jobs: Actors, tmp_path: Path
) -> None:
    """By `--watch` of the command `dramatiq`. From version 7 on, watchdog compares a pattern with the whole path, so
    that Dramatiq's own `*.py` fits no file in a folder, with or without this library: it has to be given another."""
    if importlib.util.find_spec("watchdog") is None:
        pytest.skip("watchdog isn't installed; the matrix has an environment with it")
    source = tmp_path / "sources" / "some.py"
    source.parent.mkdir()
    source.write_text("")
    setting = Setting(own_server.url, heartbeat=4_000)
    options = ("--watch", str(tmp_path), "--watch-include", "**/*.py", "--watch-use-polling")
    with worker(own_server, *options, "--worker-shutdown-timeout", "1000", setting=setting) as process:
        run = jobs.clutch("nesting").run()
        wait_until("a job to be at work", lambda: jobs.began().get("n's own") == 1)
        wait_until("it to be noticed that a source has changed", partial(changed, source, process))
        process.wait_anew()
        assert run.status().state == "running"
        jobs.open(actors.GATE)
        assert run.get_result(block=True, timeout=60_000) == [["n's own"], "b"]
        assert jobs.began()["n's own"] == 2


def changed(source: Path, process: Worker) -> bool:
    """Change a source once more: what happens before the watcher has looked for the first time, it doesn't notice."""
    with source.open("a") as file:
        file.write("# changed\n")
    return "Detected changes" in process.log


def test_a_worker_that_is_told_to_stop_in_the_middle_leaves_its_runs_to_the_next_one(
    own_server: Server, jobs: Actors
) -> None:
    setting = Setting(own_server.url, heartbeat=4_000)
    with worker(own_server, "--worker-shutdown-timeout", "1000", setting=setting) as process:
        run = jobs.clutch("nesting").run()
        wait_until("a job to be at work", lambda: jobs.began().get("n's own") == 1)
        process.stop()
        assert run.status().state == "running"
        jobs.open(actors.GATE)
        process.start().wait_ready()
        assert run.get_result(block=True, timeout=60_000)
