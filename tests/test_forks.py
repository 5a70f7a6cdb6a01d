"""Forks: a child of a process whose other threads are busy has what it needs."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.results import ResultTimeout

from dramatiq_clutch import Clutch
from dramatiq_clutch.backends import StubBackend
from dramatiq_clutch.backends.redis.combining import Combining
from dramatiq_clutch.backends.redis.resp import ask
from dramatiq_clutch.engine import engine_of
from tests.conftest import running_worker
from tests.support.awaiting import PATIENCE

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

#: How long a child may take, in seconds, before it counts as hanging.
DEADLINE = 60


def fork(work: Callable[[], Any], log: Path) -> int:
    """Do it in a child, which exits with 0 if it could; the child's id. It ends itself when it hangs, having said
    where."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with log.open("w") as file:
            faulthandler.dump_traceback_later(DEADLINE, exit=True, file=file)
            try:
                work()
                code = 0
            except BaseException as error:
                print(repr(error), file=file)
            faulthandler.cancel_dump_traceback_later()
    finally:
        os._exit(code)


def outcome(child: int) -> int:
    """The child's exit code, when it has ended."""
    deadline = time.monotonic() + 2 * DEADLINE
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        threading.Event().wait(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1


@pytest.fixture
def logs() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="clutch-forks-") as folder:
        yield Path(folder)


class Busy:
    """Other threads do something again and again whenever a process is about to be forked, and rest while the child is
    at work: all that it has of them is where they were."""

    def __init__(self, work: Callable[[], Any], threads: int = 3) -> None:
        self.work = work
        self.going, self.under_way, self.over = threading.Event(), threading.Event(), threading.Event()
        self.threads = [threading.Thread(target=self.go_on) for _ in range(threads)]

    def __enter__(self) -> Busy:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.going.set()
        for thread in self.threads:
            thread.join(30)

    def go_on(self) -> None:
        while self.going.wait() and not self.over.is_set():
            self.under_way.set()
            self.work()

    @contextlib.contextmanager
    def somewhere_in_it(self) -> Iterator[None]:
        """They have begun, and are at another place each time."""
        self.under_way.clear()
        self.going.set()
        assert self.under_way.wait(PATIENCE)
        threading.Event().wait(random.uniform(0, 0.01))
        yield
        self.going.clear()


def renew_queues(broker: dramatiq.Broker) -> None:
    """Give a broker in memory queues that nobody holds: those are the standard library's, whose locks nobody renews."""
    if isinstance(broker, StubBroker):
        broker.queues = {name: Queue() for name in broker.queues}


def check(work: Callable[[], Any], logs: Path, *, times: int, others: Busy | None = None) -> None:
    """No child hangs: one after the other, for each takes the place of a process at another moment."""
    for index in range(times):
        log = logs / f"{index}.log"
        with others.somewhere_in_it() if others else contextlib.nullcontext():
            child = fork(work, log)
        code = outcome(child)
        assert code == 0, f"child {index} ended with {code}:\n{log.read_text() if log.exists() else ''}"


def test_200_children_of_a_busy_process_run_clutches(broker: dramatiq.Broker, logs: Path) -> None:
    @dramatiq.actor
    def job() -> None: ...

    clutch = Clutch().then(job).parallel(job, job)

    def run_clutch() -> None:
        renew_queues(broker)
        clutch.run()

    with Busy(clutch.run) as others:
        check(run_clutch, logs, times=60 if isinstance(broker, StubBroker) else 200, others=others)


def test_a_child_waits_for_results_as_its_parent_does(broker: dramatiq.Broker, logs: Path) -> None:
    @dramatiq.actor
    def job() -> None: ...

    run = Clutch().then(job).run()

    def wait() -> None:
        with contextlib.suppress(ResultTimeout):
            run.get_result(block=True, timeout=20)

    with Busy(wait) as others:
        check(wait, logs, times=50, others=others)


def test_a_child_of_a_process_with_a_worker_sends_what_its_parent_does(broker: dramatiq.Broker, logs: Path) -> None:
    @dramatiq.actor
    def job() -> None: ...

    clutch = Clutch().parallel([job for _ in range(20)])

    def run_clutch() -> None:
        renew_queues(broker)
        clutch.run()

    with running_worker(broker), Busy(clutch.run, threads=1) as others:
        check(run_clutch, logs, times=50, others=others)


def test_calls_of_other_threads_are_not_made_in_the_child(logs: Path) -> None:
    under_way, go_on = threading.Event(), threading.Event()
    performed: list[int] = []

    def perform(items: Any) -> Any:
        if 0 in items:
            under_way.set()
            assert go_on.wait(PATIENCE)
        performed.extend(items)
        return items

    together: Combining[int, int] = Combining(perform)
    threads = [threading.Thread(target=together, args=(index,)) for index in range(3)]
    threads[0].start()
    assert under_way.wait(PATIENCE)
    for thread in threads[1:]:
        thread.start()

    def call() -> None:
        assert together(7) == 7
        assert performed == [7]

    try:
        check(call, logs, times=1)
    finally:
        go_on.set()
        for thread in threads:
            thread.join(10)
    assert sorted(performed) == [0, 1, 2]


def test_a_child_takes_no_answer_of_its_parent(redis_client: redis.Redis, logs: Path) -> None:
    redis_client.set("whose", "nobody's", px=60_000)

    def call() -> None:
        for index in range(50):
            assert ask(redis_client, ("ECHO", f"child {index}")) == f"child {index}".encode()

    with Busy(lambda: ask(redis_client, ("GET", "whose"))) as others:
        check(call, logs, times=20, others=others)


def test_a_child_of_a_store_in_memory_has_a_copy(stub_broker: StubBroker, logs: Path) -> None:
    @dramatiq.actor
    def job() -> str:
        return "done"

    run, backend = Clutch().then(job).run(), engine_of(stub_broker).backend
    held, go_on = threading.Event(), threading.Event()
    assert isinstance(backend, StubBackend)

    def hold(*_: bytes) -> int:
        held.set()
        assert go_on.wait(60)
        return 0

    backend.keyspace.publish = hold  # in the middle of a script, with the locks that it takes
    thread = threading.Thread(target=evaluate, args=(backend.client, "redis.call('PUBLISH', 'channel', '')"))
    thread.start()
    assert held.wait(PATIENCE)
    try:
        check(lambda: run.status().state == "running" or sys.exit(3), logs, times=1)
    finally:
        go_on.set()
        thread.join(10)


def evaluate(client: Any, script: str) -> None:
    client.execute_command("EVAL", script, 0)


def test_what_a_process_remembers_is_not_its_child_s(redis_broker: RedisBroker, logs: Path) -> None:
    engine = engine_of(redis_broker)
    engine.remembered.note_wanted("run", "0123abcd", 0, 3)
    engine.remembered.unlisted["run"] = True

    def look() -> None:
        assert not engine.remembered.wanted
        assert not engine.remembered.unlisted

    check(look, logs, times=1)
    assert engine.remembered.wanted
    assert engine.remembered.unlisted


def test_a_child_has_threads_of_its_own_for_coroutines(broker: dramatiq.Broker, logs: Path) -> None:
    @dramatiq.actor
    def job() -> None: ...

    run = Clutch().then(job).run()

    def look() -> None:
        assert asyncio.run(run.status_async()).state == "running"

    with Busy(look) as others:
        check(look, logs, times=20, others=others)
