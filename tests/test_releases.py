"""Two releases in one fleet: an old worker leaves to a newer one what only that can read, and loses nothing of it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import Message
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import StubBackend as StubResults

from dramatiq_clutch import Clutch, Run
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.errors import NewerRelease
from dramatiq_clutch.handover import sweep
from dramatiq_clutch.stored.formats import FORMAT, pack, unpack
from dramatiq_clutch.stored.places import Place, Tag
from dramatiq_clutch.stored.plan import Plan, Spec, StageLine
from tests.conftest import running_worker
from tests.support import actors
from tests.support.actors import GATE, RAN, Actors, Setting, mortal
from tests.support.awaiting import wait_until
from tests.support.jobs import Jobs
from tests.support.prepared import ROOT
from tests.support.server import Server
from tests.support.workers import Worker

#: Every test here starts several processes.
pytestmark = pytest.mark.timeout(600)

NEWER = FORMAT + 1
LONG = 90.0
LEFT = "is left to workers of a newer release"
SHAPES = {
    "series": ["b"],
    "parallel": ["a", "b"],
    "nested": [["a"], "b"],
    "mapped": ["a", "b"],
    "called": "a",
    "nesting": [["n's own"], "b"],
}


NAMESPACE = "fleet"


def setting(server: Server) -> Setting:
    return mortal(server.url, namespace=NAMESPACE)


@pytest.fixture(scope="session")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the package that writes, and reads, a format that this one has never heard of."""
    folder = tmp_path_factory.mktemp("newer")
    copy = folder / "dramatiq_clutch"
    shutil.copytree(ROOT / "dramatiq_clutch", copy, ignore=shutil.ignore_patterns("__pycache__"))
    formats = copy / "stored" / "formats.py"
    text = formats.read_text()
    assert text.count(f"\nFORMAT = {FORMAT}\n") == 1
    formats.write_text(text.replace(f"\nFORMAT = {FORMAT}\n", f"\nFORMAT = {NEWER}\n"))
    return folder


@dataclass
class Fleet:
    server: Server
    client: redis.Redis
    newer_folder: Path
    broker: RedisBroker
    jobs: Actors

    def old(self) -> Worker:
        return Worker(actors.__name__, env=self._env)

    def new(self) -> Worker:
        return Worker(actors.__name__, env=self._env, root=self.newer_folder)

    def newer(self, verb: str, run_id: str) -> Any:
        """What a process of the newer release answers."""
        command = [sys.executable, "-m", actors.__name__, verb, run_id]
        where: dict[str, Any] = {"cwd": self.newer_folder, "env": self._env}
        done = subprocess.run(command, **where, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        version, answer = json.loads(done.stdout)
        assert version == NEWER
        return answer

    def run(self, run_id: str) -> Run:
        return Run(run_id, broker=self.broker)

    def ran(self) -> set[str]:
        names: Any = self.client.smembers(RAN)
        return {name.decode() for name in names}

    @property
    def messages(self) -> int:
        return sum(self.client.hlen(f"{NAMESPACE}:{queue}.msgs") for queue in ("default", "default.DQ"))

    @property
    def dead_letters(self) -> int:
        return self.client.zcard(f"{NAMESPACE}:default.XQ")

    @property
    def _env(self) -> dict[str, str]:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        return {**os.environ, **setting(self.server).to_env(), "PYTHONPATH": path}


@pytest.fixture
def fleet(server: Server, redis_client: redis.Redis, newer: Path) -> Iterator[Fleet]:
    jobs = Actors(setting(server))
    yield Fleet(server, redis_client, newer, jobs.broker, jobs)
    jobs.broker.close()


def state_of(fleet: Fleet, run_id: str) -> Any:
    """Whatever release may read the run."""
    return fleet.client.hget(f"{NAMESPACE}-clutch:{{{run_id}}}:head", "state")


def is_running(fleet: Fleet, run_id: str) -> bool:
    return bool(state_of(fleet, run_id) == b"running")


# Real processes


@pytest.mark.process
def test_an_old_worker_leaves_newer_runs_and_they_go_on_when_a_newer_one_comes(fleet: Fleet) -> None:
    fleet.client.set(GATE, "open")
    for shape in SHAPES:
        assert fleet.newer(shape, shape) == shape
    before = fleet.messages
    with fleet.old() as old:
        wait_until("all to be left, several times", lambda: old.log.count("was skipped") >= 4 * before, timeout=LONG)
        for shape in SHAPES:
            assert is_running(fleet, shape)
            assert old.log.count(f"Run {shape} {LEFT}") == 1
        assert old.log.count(LEFT) == len({line for line in old.log.splitlines() if LEFT in line})
        old.stop()
        assert fleet.messages == before
        assert fleet.dead_letters == 0
        assert fleet.ran() == set()
    with fleet.old() as old, fleet.new():
        for shape, result in SHAPES.items():
            assert fleet.newer("result", shape) == result
        told = ["on_finish succeeded", "on_success succeeded"]
        wait_until("the callbacks to be heard", lambda: sorted(fleet.jobs.heard_by("called")) == told, timeout=LONG)
        assert "Traceback" not in old.log
    assert fleet.dead_letters == 0
    assert {name.split()[0] for name in fleet.ran()} == {str(NEWER)}


@pytest.mark.process
def test_old_runs_go_on_in_a_mixed_fleet(fleet: Fleet) -> None:
    fleet.client.set(GATE, "open")

    def runs_go_on(where: str) -> None:
        runs = {shape: fleet.jobs.clutch(shape).run(run_id=f"{shape}-{where}") for shape in SHAPES}
        for shape, result in SHAPES.items():
            assert runs[shape].get_result(block=True, timeout=90_000) == result

    with fleet.new() as new:
        with fleet.old() as old:
            for number in range(5):
                runs_go_on(f"mixed-{number}")
            assert "Traceback" not in old.log
        runs_go_on("newer-alone")
        assert "Traceback" not in new.log
    with fleet.old() as old:
        runs_go_on("old-alone")
        assert "Traceback" not in old.log
    assert fleet.dead_letters == 0
    assert {name.split()[0] for name in fleet.ran()} == {str(FORMAT), str(NEWER)}


@pytest.mark.process
def test_what_a_newer_worker_nests_in_an_old_run_is_left_to_newer_workers(fleet: Fleet) -> None:
    run = fleet.jobs.clutch("nesting").run(run_id="nesting")
    with fleet.new() as new:
        wait_until("the nested job to be at work", lambda: f"{NEWER} n's own" in fleet.ran(), timeout=LONG)
        new.kill()
    with fleet.old() as old:
        wait_until("it to be left", lambda: LEFT in old.log and old.log.count("was skipped") > 3, timeout=LONG)
        assert run.status().state == "running"
        assert "Traceback" not in old.log
        fleet.client.set(GATE, "open")
        with fleet.new():
            assert run.get_result(block=True, timeout=90_000) == [["n's own"], "b"]
    assert fleet.dead_letters == 0


@pytest.mark.process
@pytest.mark.parametrize("verb", ["cancel", "retry after cancel"])
def test_what_an_old_process_asks_of_an_old_run_reaches_what_is_nested_in_it_once_a_newer_worker_comes(
    fleet: Fleet, verb: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = fleet.jobs.clutch("nesting").run(run_id="nesting")
    child = "nesting~0.0~0.0"
    with fleet.new() as new:
        wait_until("the nested job to be at work", lambda: f"{NEWER} n's own" in fleet.ran(), timeout=LONG)
        new.kill()
    assert run.cancel()
    assert "A worker will finish the cancel of run nesting" in caplog.text
    assert "Traceback" not in caplog.text
    assert run.status().state == "cancelled"
    with fleet.old() as old:
        wait_until("it to be left", lambda: f"Run nesting {LEFT}" in old.log, timeout=LONG)
        with fleet.new():
            wait_until("the child to be cancelled", lambda: state_of(fleet, child) == b"cancelled", timeout=LONG)
        if verb != "cancel":
            assert run.retry()
            fleet.client.set(GATE, "open")
            with fleet.new():
                assert run.get_result(block=True, timeout=90_000) == [["n's own"], "b"]
        assert "Traceback" not in old.log
    assert fleet.dead_letters == 0


@pytest.mark.process
def test_an_old_process_changes_no_newer_run_and_says_so(fleet: Fleet) -> None:
    fleet.newer("series", "series")
    before = fleet.messages
    run = fleet.run("series")
    says = f"run 'series' has format {NEWER}, and this dramatiq-clutch reads {FORMAT}: a newer release has written it"
    for ask in (run.cancel, run.retry, run.resend, run.status, run.get_result, lambda: run.get_result(block=True)):
        with pytest.raises(NewerRelease, match=says):
            ask()
    assert fleet.jobs.clutch("series").run(run_id="series") == run  # an equal clutch: it is joined
    assert fleet.messages == before
    assert is_running(fleet, "series")


@pytest.mark.process
def test_an_old_sweeper_leaves_a_newer_run_to_a_newer_one(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    fleet.newer("abandon", "abandoned")
    engine = engine_of(fleet.broker)
    for _ in range(3):
        engine.look_again("abandoned", 1, known=True)
        assert sweep(engine, limit=1).looked_at >= 1
    assert caplog.text.count(f"Run abandoned {LEFT}") == 1
    assert [record for record in caplog.records if record.levelno > logging.WARNING] == []
    assert is_running(fleet, "abandoned")
    assert fleet.messages == 0
    with fleet.old(), fleet.new():
        assert fleet.newer("result", "abandoned") == "a"


# One message that only a newer release can read


class Rounds(dramatiq.Middleware):
    """Counts how often a message was skipped, and how often one was put back."""

    def __init__(self) -> None:
        self.skipped = 0
        self.back: list[Message[Any]] = []

    def after_skip_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        self.skipped += 1

    def after_enqueue(self, broker: dramatiq.Broker, message: Message[Any], delay: int | None) -> None:
        if delay is not None:
            self.back.append(message)


def newer_message(message: Message[Any], **options: Any) -> Message[Any]:
    option = {**Tag("r", 0, 0, 1, generation="00000000").to_option(), "v": NEWER, "later": [1]}
    return message.copy(options={"clutch": option, **options})


@contextmanager
def rounds_of(broker: RedisBroker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rounds]:
    monkeypatch.setattr("dramatiq_clutch.ending.LEFT_FOR", 20)
    rounds = Rounds()
    broker.add_middleware(rounds)
    with running_worker(broker):
        yield rounds
    queues = [f"{broker.namespace}:{queue}" for queue in ("default", "default.DQ")]
    assert sum(broker.client.hlen(f"{queue}.msgs") for queue in queues) == 1  # neither lost nor doubled
    assert broker.client.zcard(f"{broker.namespace}:default.XQ") == 0


def test_a_newer_message_is_put_back_as_it_came(redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    redis_broker.add_middleware(Results(backend=StubResults(), store_results=True))
    jobs = Jobs(redis_broker)
    message = newer_message(jobs.job.message("a"), retries=3)
    redis_broker.enqueue(message)
    with rounds_of(redis_broker, monkeypatch) as rounds:
        wait_until("several rounds", lambda: len(rounds.back) >= 8, timeout=LONG)
    given = {"clutch": message.options["clutch"], "retries": 3}
    for copy in rounds.back:
        kept = {name: value for name, value in copy.options.items() if name not in ("eta", "redis_message_id")}
        assert (copy.message_id, copy.args, kept) == (message.message_id, message.args, given)
    assert jobs.began == []


def test_a_newer_message_that_is_too_old_is_put_back_and_no_dead_letter(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = Jobs(redis_broker)
    message = newer_message(jobs.job.message("a"), max_age=1)
    redis_broker.enqueue(message.copy(message_timestamp=message.message_timestamp - 1_000))
    with rounds_of(redis_broker, monkeypatch) as rounds:
        wait_until("several rounds", lambda: len(rounds.back) >= 3, timeout=LONG)


def test_a_newer_message_for_an_actor_that_isnt_there_is_put_back_and_no_dead_letter(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dramatiq.worker.POST_PROCESS_MESSAGE_RETRY_DELAY_SECS", 0.05)
    Jobs(redis_broker)
    redis_broker.enqueue(newer_message(Message("default", "of_a_newer_release", (), {}, {})))
    with rounds_of(redis_broker, monkeypatch) as rounds:
        wait_until("several rounds", lambda: len(rounds.back) >= 3, timeout=LONG)
    assert rounds.skipped == 0  # no worker thread has seen it


# What a newer release of the same format has added


def test_unknown_fields_of_a_spec_are_kept() -> None:
    head, *blobs = unpack(Spec("name", callbacks={"on_finish": (b"mx",)}, item=b"1").to_bytes())
    later = {**json.loads(head), "later": {"a": [1]}}
    spec = Spec.from_bytes(pack([json.dumps(later).encode(), *blobs]))
    assert spec.unknown == {"later": {"a": [1]}}
    assert Spec.from_bytes(spec.to_bytes()) == spec
    nested = Plan(spec, (StageLine(0, 1),), (b"mx",)).at(Place("parent", 0, 1, generation="00000000"))
    assert Plan.from_bytes(nested.to_bytes()).spec.unknown == spec.unknown


@pytest.mark.parametrize("text", ["0 3 pz", "0 3 z", "0 ? pmz 10", "0 3 p 10 later 2", "0 3 - 0 later", "4 1 irz 0 x"])
def test_unknown_parts_of_a_stage_line_are_kept(text: str) -> None:
    line = StageLine.parse(text)
    assert str(line) == text
    assert StageLine.parse(str(line)) == line
    assert replace(line, unknown_flags="", unknown_words=()) != line


def test_a_run_with_unknown_fields_works_and_keeps_them(
    broker: dramatiq.Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = Jobs(broker)
    works = Spec.to_bytes

    def to_bytes(spec: Spec) -> bytes:
        return works(replace(spec, unknown={"later": 1}))

    with monkeypatch.context() as patch:
        patch.setattr(Spec, "to_bytes", to_bytes)
        patch.setattr("dramatiq_clutch.planning.StageLine", partial(StageLine, unknown_words=("later", "2")))
        run = Clutch().parallel(jobs.job.message("a"), jobs.job.message("b")).map(jobs.job).then(jobs.total).run()
    engine = engine_of(broker)
    generation = engine.backend.generation(run.run_id) or ""
    assert engine.reader.spec(run.run_id, generation).unknown == {"later": 1}
    with running_worker(broker):
        assert run.get_result(block=True, timeout=90_000) == ["a", "b"]
    for stage in range(3):
        assert engine.reader.line(run.run_id, stage, generation).unknown_words == ("later", "2")


def test_unknown_keys_of_a_tag_stay_in_a_retrys_message(broker: dramatiq.Broker) -> None:
    jobs, options = Jobs(broker), list[Any]()
    jobs.script["a"] = ["fail", "ok"]

    class Note(dramatiq.Middleware):
        def before_enqueue(self, broker: dramatiq.Broker, message: Message[Any], delay: int | None) -> None:
            if "retries" not in message.options:  # as a newer release would have written it
                message.options["clutch"]["later"] = [1]

        def before_process_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
            options.append(message.options["clutch"])

    broker.add_middleware(Note())
    run = Clutch().then(jobs.job.message("a")).run()
    with running_worker(broker):
        assert run.get_result(block=True, timeout=90_000) == "a"
    assert [option["later"] for option in options] == [[1], [1]]
