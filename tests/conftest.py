"""The tiers of the suite; one server for the session, brokers with the middleware on it; and what holds after every
test: every key expires, and nobody has started a process without saying so."""

from __future__ import annotations

import gc
import importlib.metadata
import importlib.util
import os
import sys
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache, partial
from pathlib import Path
from queue import Queue
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import time_limit

from dramatiq_clutch import Clutch, ClutchMiddleware, working
from dramatiq_clutch.backends import RedisBackend
from tests.support import workers
from tests.support.application import Application, application, close
from tests.support.awaiting import PATIENCE
from tests.support.brokers import CHOSEN, Brokers
from tests.support.jobs import Jobs
from tests.support.keyspace import assert_all_expire
from tests.support.processes import Watch
from tests.support.proxy import Proxy
from tests.support.server import Server, server_binary

#: What `pytest` alone leaves out, by its mark. `tests/README.md` tells of each.
OTHER_TIERS = ("twice", "process", "search", "heavy", "chaos")

#: The broker in memory, where tests are done on Redis first.
ONCE_MORE = pytest.param("stub", marks=pytest.mark.twice)

RunWorker = Callable[..., AbstractContextManager[dramatiq.Worker]]

#: A client of the session's server, for what is done before and after tests: a connection for each would cost more.
CARETAKER = pytest.StashKey[redis.Redis]()

WATCH = Watch()

#: Where compiled modules are kept if they mustn't be kept beside their sources. Otherwise each of the processes would
#: compile all tests and the library again each time, and so would each process that a test starts.
BYTECODE = Path(__file__).parents[1] / ".pytest_cache" / "bytecode"

if sys.dont_write_bytecode and sys.pycache_prefix is None:
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(BYTECODE)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(BYTECODE)


def pytest_addoption(parser: pytest.Parser) -> None:
    left_out = ", ".join(OTHER_TIERS)
    parser.addoption("--all", action="store_true", help=f"run every test, also those marked {left_out}")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Most of the quick tests wait, so they take more processes than there are cores. Others have their own workers."""
    return 4 if config.getoption("--all") else 8


def is_quick(config: pytest.Config) -> bool:
    """Whether this is the quick tier: nobody has chosen otherwise, by `--all`, by `-m`, or by naming a test."""
    named = any("::" in argument for argument in config.args)
    return not (config.getoption("--all") or config.getoption("-m") or named)


def pytest_configure(config: pytest.Config) -> None:
    """Have Hypothesis take its time, for no test may depend on a fast machine, and try a tenth of its usual examples in
    the quick tier, unless a test says how many; where files are named, it tries all. It chooses at random everywhere:
    where it sees that it runs in CI, it would make the same choices each time, and a search in parts, of which each is
    to begin elsewhere, would do the same part again and again. It takes long to import, and who only starts other
    processes to test in doesn't need it.

    Raises:
      UsageError: The whole suite is to be run, and there is no server for it.
    """
    if not hasattr(config, "workerinput") and config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        try:
            server_binary()
        except RuntimeError as error:
            raise pytest.UsageError(str(error)) from error
    if config.getoption("numprocesses", None):
        return
    from hypothesis import HealthCheck, settings

    whole = is_quick(config) and config.args_source is pytest.Config.ArgsSource.TESTPATHS
    patient = settings(deadline=None, derandomize=False, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("clutch", settings(patient, max_examples=10 if whole else patient.max_examples))
    settings.load_profile("clutch")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector away while modules and tests are made, all of which stay for the session."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out all but the quick tier, unless somebody has chosen."""
    if not is_quick(config):
        return
    quick = [item for item in items if not any(item.get_closest_marker(tier) for tier in OTHER_TIERS)]
    config.hook.pytest_deselected(items=list(set(items) - set(quick)))
    items[:] = quick


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Tell the order in which tests have failed, for the header that usually tells it isn't shown by `-q`."""
    if terminalreporter.stats.get("failed") or terminalreporter.stats.get("error"):
        terminalreporter.write_line(
            f"The order of these tests: --randomly-seed={config.getoption('randomly_seed', None)}"
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails shows what the worker processes of its fixtures have said."""
    report = yield
    if report.failed:
        report.sections += [("Log of a worker", worker.log) for worker in workers.OPEN]
    return report


@pytest.fixture(scope="session")
def server(pytestconfig: pytest.Config) -> Iterator[Server]:
    """The session's server. Whoever wants to kill one starts a `Server` of their own."""
    with Server() as server, server.client() as client:
        pytestconfig.stash[CARETAKER] = client
        yield server


@pytest.fixture
def redis_client(pytestconfig: pytest.Config, server: Server) -> Iterator[redis.Redis]:
    """A client of the session's server, which has been emptied."""
    pytestconfig.stash[CARETAKER].flushall()
    with server.client() as client:
        yield client


@pytest.fixture(autouse=True, scope="session")
def results_are_waited_for_with_patience() -> Iterator[None]:
    """Whoever asks for a result without a timeout waits as long as any other test, not the ten seconds of Dramatiq."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dramatiq_clutch.handle.results.DEFAULT_TIMEOUT", int(PATIENCE * 1_000))
        yield


@pytest.fixture(autouse=True, scope="session")
def versions_are_looked_up_once() -> Iterator[None]:
    """For each connection, redis-py looks its own version up in the files of its installation. With thousands of
    connections, that would be a twentieth of all that the tests cost."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("importlib.metadata.version", cache(importlib.metadata.version))
        yield


@pytest.fixture(autouse=True, scope="session")
def time_limits_are_watched_where_they_may_be_reached() -> Iterator[None]:
    """Dramatiq has a thread for each broker that looks for late jobs every second, for as long as the process lives.
    With thousands of brokers, it begins only with the first job that could be late before its test has ended."""

    def add_timeout(manager: Any, thread_id: int, limit: float) -> None:
        works(manager, thread_id, limit)
        if limit < PATIENCE * 1_000 and not manager.is_alive():
            manager.start()

    works: Any = time_limit._CtypesTimeoutManager.add_timeout  # noqa: SLF001
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time_limit.TimeLimit, "after_process_boot", lambda self, broker: None)
        patch.setattr(time_limit._CtypesTimeoutManager, "add_timeout", add_timeout)  # noqa: SLF001
        yield


@pytest.fixture(autouse=True, scope="session")
def gevent_is_looked_for_once() -> Iterator[None]:
    """Dramatiq looks for it among all modules whenever a broker, a consumer or a thread of a worker is made."""
    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec("gevent") is None:
            patch.setitem(sys.modules, "gevent", None)  # so an import fails at once
        yield


@pytest.fixture(autouse=True, scope="session")
def what_waits_tries_again_soon() -> Iterator[None]:
    """Where a test takes the store or the broker away, a worker tries ten times as often as it does by default."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dramatiq_clutch.patience.BACKOFF", 10)
        patch.setattr("dramatiq_clutch.patience.MAX_BACKOFF", 300)
        yield


@pytest.fixture(autouse=True)
def every_key_expires(pytestconfig: pytest.Config) -> Iterator[None]:
    """After every test: nothing that the library wrote would stay for ever."""
    yield
    caretaker = pytestconfig.stash.get(CARETAKER, None)
    if caretaker is not None:
        assert_all_expire(caretaker)


@pytest.fixture(autouse=True)
def no_attempt_is_left_begun() -> Iterator[None]:
    """A test that calls the hooks of the middleware itself may break off between two; its thread is the next one's."""
    yield
    working.end()


@pytest.fixture(autouse=True)
def processes_are_declared(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test: whoever has started a process has a mark that tells so. Servers may be started by all."""
    WATCH.started.clear()
    yield
    declared = any(request.node.get_closest_marker(tier) for tier in ("process", "chaos"))
    assert declared or not WATCH.started, f"mark this test `process`: it has started {WATCH.started}"


@contextmanager
def as_global_broker(broker: dramatiq.Broker, backend: RedisBackend | None = None) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dramatiq.broker.global_broker", broker)
        if isinstance(broker, RedisBroker):
            # In the namespace of Dramatiq's default broker, so that a test knows the names of keys.
            backend = RedisBackend(client=broker.client)
        broker.add_middleware(ClutchMiddleware(backend))
        broker.emit_after("process_boot")
        try:
            yield
        finally:
            close(broker)


@pytest.fixture
def redis_broker(server: Server, redis_client: redis.Redis) -> Iterator[RedisBroker]:
    """A real broker, the global one for this test, with queues that no other test's worker listens on."""
    with server.client() as client:
        broker = RedisBroker(client=client, namespace=f"dramatiq-{uuid.uuid4().hex[:8]}")
        with as_global_broker(broker):
            yield broker


@pytest.fixture
def stub_broker() -> Iterator[StubBroker]:
    """A broker in memory, the global one for this test."""
    broker = StubBroker()
    with as_global_broker(broker):
        yield broker
        broker.flush_all()


@pytest.fixture(scope="session")
def other_brokers() -> Iterator[Brokers]:
    """Brokers of other kinds, with their servers."""
    brokers = Brokers()
    yield brokers
    brokers.close()


@pytest.fixture(params=CHOSEN)
def broker(request: pytest.FixtureRequest) -> Iterator[dramatiq.Broker]:
    """Each of the brokers in turn: what a test says holds on both, and on every other that the environment names."""
    if request.param in ("redis", "stub"):
        yield request.getfixturevalue(f"{request.param}_broker")
        return
    client = request.getfixturevalue("redis_client")
    other: Brokers = request.getfixturevalue("other_brokers")
    with other.broker(request.param) as broker, as_global_broker(broker, RedisBackend(client=client)):
        WATCH.started.clear()  # its server
        yield broker
        started = list(WATCH.started)
    WATCH.started[:] = started


@pytest.fixture
def short_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs may live for less than a minute without activity, for a test that waits until they expire."""
    monkeypatch.setattr("dramatiq_clutch.settings.LEAST_RUN_TTL", 1)


@pytest.fixture
def jobs(broker: dramatiq.Broker) -> Jobs:
    """Actors that do what the test tells them, on each of the brokers in turn."""
    return Jobs(broker)


@pytest.fixture(params=["redis", ONCE_MORE])
def make(request: pytest.FixtureRequest) -> Callable[..., AbstractContextManager[Application]]:
    """`with make(stalled_after=...) as app: ...`, on each of the brokers in turn."""
    client = request.getfixturevalue("redis_client") if request.param == "redis" else None
    return lambda **settings: application(client, **settings)


@pytest.fixture
def proxy(server: Server, redis_client: redis.Redis) -> Iterator[Proxy]:
    """A network in front of the session's server."""
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def run_worker() -> RunWorker:
    """A real worker in this process: `with run_worker(broker): ...`.

    Its actors want a `min_backoff` of a few milliseconds, for Dramatiq's own default is 15 seconds.
    """
    return running_worker


def put_back(queue: Queue[bytes], messages: Iterable[dramatiq.Message[Any]]) -> None:
    """Do what a StubBroker doesn't when a worker stops, for it loses what the worker has fetched: put it back into its
    queue, which otherwise would count it as at work for ever."""
    for message in messages:
        queue.put(message.encode())
        queue.task_done()  # as for the copy that was fetched


@contextmanager
def running_worker(
    broker: dramatiq.Broker, *, threads: int = 4, timeout: int = 10, queues: set[str] | None = None
) -> Iterator[dramatiq.Worker]:
    """See `run_worker`. Where a queue is empty, its consumer looks again after the timeout, in milliseconds. The worker
    listens on all queues of the broker, unless some are named. What it has fetched and not begun when it stops is put
    back, on either broker."""
    worker = dramatiq.Worker(broker, queues=queues, worker_timeout=timeout, worker_threads=threads)
    worker.start()
    try:
        yield worker
    finally:
        if isinstance(broker, StubBroker):
            consumers: dict[str, Any] = worker.consumers
            for name, consumer in consumers.items():
                consumer.requeue_messages = partial(put_back, broker.queues[name])
        worker.stop()
        # Dramatiq leaves its hook on the broker, which would start a consumer of this worker for a new queue.
        broker.middleware[:] = [hook for hook in broker.middleware if getattr(hook, "worker", None) is not worker]


def result(broker: dramatiq.Broker, clutch: Clutch) -> Any:
    """What comes of a clutch, with a worker of its own."""
    run = clutch.run()
    with running_worker(broker):
        return run.get_result(block=True)
