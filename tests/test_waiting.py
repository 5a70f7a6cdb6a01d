"""Waiting for results: one waiter a process serves all, and neither a crowd nor an outage harms it."""

from __future__ import annotations

import asyncio
import gc
import signal
import statistics
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import TimeLimitExceeded
from dramatiq.results import ResultMissing, ResultTimeout
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException
from redis.retry import Retry

from dramatiq_clutch import Clutch, ClutchMiddleware, Run
from dramatiq_clutch.backend import SWEEP
from dramatiq_clutch.backends import RedisBackend, StubBackend
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.errors import NestingError, RunCancelled, RunNotFound, StateUnavailable
from dramatiq_clutch.waiting import waiter_of
from tests.conftest import running_worker
from tests.support.awaiting import PATIENCE, wait_until
from tests.support.server import Server


@pytest.fixture(autouse=True)
def threads_that_nobody_needs_end_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once instead of after three seconds, which some tests wait for."""
    monkeypatch.setattr("dramatiq_clutch.waiting.IDLE", 0.1)


def waiting_run(broker: dramatiq.Broker) -> Run:
    """One whose job nobody works on."""
    if "job" not in broker.actors:
        dramatiq.actor(broker=broker, actor_name="job")(_job)
    return Clutch(broker=broker).then(broker.get_actor("job")).run()


def _job() -> str:
    return "done"


@contextmanager
def broker_on(client: redis.Redis) -> Iterator[RedisBroker]:
    """A broker on this client, with the middleware."""
    broker = RedisBroker(client=client)
    broker.add_middleware(ClutchMiddleware())
    yield broker
    broker.close()


def is_listened_for(run: Run, client: redis.Redis) -> bool:
    channel = f"dramatiq-clutch:{{{run.run_id}}}:bell"
    return dict(client.pubsub_numsub(channel))[channel.encode()] == 1


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()} & {"clutch-reader", "clutch-ear"}


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What the call returned or raised, and how many seconds it took."""
    began = time.monotonic()
    try:
        result = call()
    except (ResultTimeout, RunCancelled) as error:
        result = error
    return result, time.monotonic() - began


# Coroutines


def test_many_coroutines_wait_at_the_same_time_and_take_no_thread_of_their_loop(broker: dramatiq.Broker) -> None:
    run = waiting_run(broker)

    async def wait_for_all() -> None:
        waits = [asyncio.create_task(run.get_result_async(timeout=3_600_000)) for _ in range(40)]
        await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.to_thread(int), PATIENCE)
        assert not any(wait.done() for wait in waits)
        for wait in waits:
            wait.cancel()
        waits = [asyncio.create_task(run.get_result_async(timeout=300)) for _ in range(40)]
        outcomes = await asyncio.gather(*waits, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {ResultTimeout}

    _, took = timed(lambda: asyncio.run(wait_for_all()))
    assert took >= 0.3


def test_a_cancelled_wait_ends_at_once(broker: dramatiq.Broker) -> None:
    run = waiting_run(broker)

    async def wait_and_give_up() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(run.get_result_async(timeout=60_000), 0.2)

    _, took = timed(lambda: asyncio.run(wait_and_give_up()))
    assert took < PATIENCE / 2
    wait_until("nobody waits any more", lambda: not threads())


def test_the_loop_goes_on_while_the_store_does_not_answer() -> None:
    with Server() as server, server.client() as client, broker_on(client) as broker:
        run = waiting_run(broker)

        async def wait_beside_a_ticker() -> float:
            waits = [asyncio.create_task(run.get_result_async(timeout=1_000, block=True)) for _ in range(3)]
            longest = 0.0
            while not all(wait.done() for wait in waits):
                before = time.monotonic()
                await asyncio.sleep(0.01)
                longest = max(longest, time.monotonic() - before)
            assert {type(wait.exception()) for wait in waits} == {ResultTimeout}
            return longest

        server.pause()
        longest, took = timed(lambda: asyncio.run(wait_beside_a_ticker()))
        server.resume()
        assert longest < 0.9  # or a wait would have held the loop up
        assert took >= 1.0


def test_a_coroutine_gets_what_a_thread_gets(broker: dramatiq.Broker) -> None:
    run = waiting_run(broker)

    async def look_and_wait() -> Any:
        with pytest.raises(ResultMissing):
            await run.get_result_async(block=False)
        with pytest.raises(ResultTimeout, match="still running"):
            await run.get_result_async(timeout=0)
        with pytest.raises(RunNotFound):
            await Run("nobody").get_result_async()
        with running_worker(broker):
            result = await run.get_result_async(timeout=60_000)
        assert await run.get_result_async(block=False) == result == await run.get_result_async(timeout=0)
        return result

    assert asyncio.run(look_and_wait()) == "done"


def test_a_job_can_not_wait_in_a_coroutine_for_what_it_nests(stub_broker: StubBroker) -> None:
    refused: list[NestingError] = []

    @dramatiq.actor
    def nests() -> None:
        nested = Clutch().nest()
        try:
            asyncio.run(nested.get_result_async())
        except NestingError as error:
            refused.append(error)

    with running_worker(stub_broker):
        Clutch().then(nests).run().get_result(block=True)
    assert len(refused) == 1


# Threads


def test_a_finished_run_is_there_without_any_time_to_wait(broker: dramatiq.Broker) -> None:
    run = waiting_run(broker)
    with pytest.raises(ResultTimeout, match="still running"):
        run.get_result(block=True, timeout=0)
    run.cancel()
    with pytest.raises(RunCancelled):
        run.get_result(block=True, timeout=0)


def test_an_interrupted_wait_ends_at_once_and_leaves_nothing(
    broker: dramatiq.Broker, request: pytest.FixtureRequest
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started this may have it ignored
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    run = waiting_run(broker)
    this = threading.get_ident()
    timer = threading.Timer(0.3, lambda: signal.pthread_kill(this, signal.SIGINT))
    timer.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run.get_result(block=True, timeout=60_000)
    assert time.monotonic() - began < PATIENCE / 2
    timer.join()
    wait_until("nobody waits any more", lambda: not threads())


def test_a_time_limit_strikes_a_job_that_waits(stub_broker: StubBroker) -> None:
    struck = threading.Event()
    run = waiting_run(stub_broker)
    stub_broker.declare_queue("other")

    @dramatiq.actor(time_limit=300, max_retries=0, queue_name="other")
    def waits() -> None:
        try:
            run.get_result(block=True, timeout=60_000)
        except TimeLimitExceeded:
            struck.set()

    waits.send()
    worker = dramatiq.Worker(stub_broker, queues={"other"}, worker_timeout=20, worker_threads=1)
    worker.start()
    try:
        assert struck.wait(PATIENCE)
    finally:
        worker.stop()


def test_the_waiter_lets_go_when_nobody_waits(
    server: Server, redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = waiting_run(redis_broker)
    wait_until("nobody waits yet", lambda: not threads())
    monkeypatch.setattr("dramatiq_clutch.waiting.IDLE", 1.0)  # long enough to see that they are kept for a while
    with server.client() as client:
        before = len(client.client_list())
        with pytest.raises(ResultTimeout):
            run.get_result(block=True, timeout=200)
        assert threads()
        monkeypatch.setattr("dramatiq_clutch.waiting.IDLE", 0.1)
        wait_until("its threads to end", lambda: not threads())
        wait_until("its connection to be gone", lambda: len(client.client_list()) <= before)
        with pytest.raises(ResultTimeout):
            run.get_result(block=True, timeout=200)


# A crowd


@pytest.mark.heavy
def test_400_threads_share_a_client_of_4_connections(server: Server, redis_broker: RedisBroker) -> None:
    run = waiting_run(redis_broker)
    with redis.Redis.from_url(server.url, max_connections=4) as client, broker_on(client) as small:
        handle = Run(run.run_id, broker=small)
        with ThreadPoolExecutor(400) as pool:
            waits = [pool.submit(handle.get_result, block=True, timeout=60_000) for _ in range(400)]
            wait_until("it is waited for", lambda: is_listened_for(run, redis_broker.client))
            with running_worker(redis_broker):
                assert [wait.result(timeout=60) for wait in waits] == ["done"] * 400


def test_a_client_of_2_connections_has_none_to_spare_for_listening(
    server: Server, redis_broker: RedisBroker, caplog: pytest.LogCaptureFixture
) -> None:
    run = waiting_run(redis_broker)
    client = redis.Redis.from_url(server.url, max_connections=2)
    with client, broker_on(client) as small, ThreadPoolExecutor(1) as pool:
        wait = pool.submit(Run(run.run_id, broker=small).get_result, block=True, timeout=60_000)
        wait_until("it says so", lambda: "max_connections" in caplog.text)
        assert not is_listened_for(run, redis_broker.client)
        with running_worker(redis_broker):
            assert wait.result(timeout=60) == "done"


@pytest.mark.heavy
def test_5000_coroutines_need_two_connections(server: Server, redis_broker: RedisBroker) -> None:
    runs = [waiting_run(redis_broker) for _ in range(50)]
    with server.client() as client:
        base = len(client.client_list())

        async def wait_for_all() -> tuple[int, list[Any]]:
            waits = [asyncio.create_task(run.get_result_async(timeout=3_600_000)) for run in runs for _ in range(100)]
            while not all(is_listened_for(run, client) for run in runs):
                await asyncio.sleep(0.05)
            connections = len(client.client_list())
            for run in runs[:20]:
                run.cancel()
            outcomes = await asyncio.gather(*waits[:2_000], return_exceptions=True)
            for wait in waits[2_000:]:
                wait.cancel()
            return connections, outcomes

        connections, outcomes = asyncio.run(wait_for_all())
        assert connections <= base + 2
        assert [type(outcome) for outcome in outcomes] == [RunCancelled] * 2_000


def test_a_result_is_there_as_soon_as_the_run_has_ended(redis_broker: RedisBroker) -> None:
    latencies: list[float] = []
    with ThreadPoolExecutor(1) as pool:
        for _ in range(50):
            run = waiting_run(redis_broker)
            ended_at = pool.submit(lambda: (timed(lambda: run.get_result(block=True)), time.monotonic())[1])  # noqa: B023
            wait_until("it is waited for", lambda: is_listened_for(run, redis_broker.client))  # noqa: B023
            began = time.monotonic()
            run.cancel()
            latencies.append(ended_at.result(PATIENCE) - began)
    assert statistics.median(latencies) < 0.25  # a few milliseconds; where no hint came, half a second


def test_a_result_is_there_though_there_is_always_something_else_to_look_at(stub_broker: StubBroker) -> None:
    run, enough = waiting_run(stub_broker), threading.Event()
    waiter = waiter_of(engine_of(stub_broker).backend)

    def look() -> None:
        if not enough.is_set():
            waiter.ask("another run", look)  # as so many who watch runs do that a round of looks takes over a second

    run.cancel()
    look()
    try:
        with pytest.raises(RunCancelled):
            run.get_result(block=True, timeout=int(PATIENCE * 1_000))
    finally:
        enough.set()


# A store in trouble


@pytest.fixture
def impatient() -> Iterator[tuple[Server, RedisBroker]]:
    """A server of the test's own, and a client that tells of an outage at once."""
    with Server(durable=True) as server:
        client = redis.Redis.from_url(server.url, socket_timeout=0.5, retry=Retry(NoBackoff(), 0))
        with client, broker_on(client) as broker:
            yield server, broker


def test_a_client_with_a_short_socket_timeout_waits_for_longer_than_that(impatient: tuple[Server, RedisBroker]) -> None:
    _, broker = impatient
    run = waiting_run(broker)
    error, took = timed(lambda: run.get_result(block=True, timeout=1_500))
    assert isinstance(error, ResultTimeout)
    assert "still running" in str(error)
    assert took >= 1.5
    with running_worker(broker):
        assert run.get_result(block=True, timeout=60_000) == "done"


@pytest.mark.parametrize("by_default", [True, False])
def test_a_wait_survives_a_restart_of_the_server(by_default: bool, impatient: tuple[Server, RedisBroker]) -> None:
    server, broker = impatient
    run = waiting_run(broker)
    with server.client() as client, broker_on(client) as other, ThreadPoolExecutor(2) as pool:
        handle = Run(run.run_id, broker=other if by_default else broker)
        wait = pool.submit(handle.get_result, block=True, timeout=60_000)
        coroutine = pool.submit(lambda: asyncio.run(handle.get_result_async(timeout=60_000)))
        wait_until("it is waited for", lambda: is_listened_for(run, client))
        server.kill()
        with pytest.raises(StateUnavailable):
            run.status()
        server.start()
        with running_worker(broker):
            assert wait.result(PATIENCE) == coroutine.result(PATIENCE) == "done"


def test_an_outage_is_waited_through_until_the_timeout(impatient: tuple[Server, RedisBroker]) -> None:
    server, broker = impatient
    run = waiting_run(broker)
    server.kill()
    error, took = timed(lambda: run.get_result(block=True, timeout=1_000))
    assert isinstance(error, ResultTimeout)
    assert "the state store can't be reached" in str(error)
    assert isinstance(error.__cause__, StateUnavailable)
    assert 1.0 <= took < PATIENCE / 2
    error, took = timed(lambda: asyncio.run(run.get_result_async(timeout=500)))
    assert isinstance(error, ResultTimeout)
    assert isinstance(error.__cause__, StateUnavailable)
    with pytest.raises(StateUnavailable):
        run.get_result()
    server.start()
    error, _ = timed(lambda: run.get_result(block=True, timeout=1_500))
    assert "still running" in str(error)


def test_a_timeout_is_kept_while_the_client_tries_again_and_again_by_itself() -> None:
    with Server() as server, server.client() as client, broker_on(client) as broker:
        run = waiting_run(broker)
        server.pause()
        error, took = timed(lambda: run.get_result(block=True, timeout=1_000))
        server.resume()
        assert "the state store can't be reached" in str(error)
        assert 1.0 <= took < 20  # the client would try for far longer


@pytest.mark.parametrize("rights", ["resetchannels +@all", "allchannels +@all -publish"])
def test_a_user_who_may_not_listen_or_speak_waits_by_looking(rights: str, caplog: pytest.LogCaptureFixture) -> None:
    with Server(config=(f"user quiet on nopass ~* {rights}",)) as server:
        url = server.url.replace("redis://", "redis://quiet:@")
        with redis.Redis.from_url(url) as client, broker_on(client) as broker, ThreadPoolExecutor(1) as pool:
            took = list[float]()
            for _ in range(3):
                run = waiting_run(broker)
                wait = pool.submit(lambda: (timed(lambda: run.get_result(block=True)), time.monotonic()))  # noqa: B023
                wait_until("it says so", lambda: "by looking several times a second" in caplog.text)
                began = time.monotonic()
                run.cancel()
                (outcome, _), ended_at = wait.result(PATIENCE)
                assert isinstance(outcome, RunCancelled)
                took.append(ended_at - began)
            assert min(took) < 0.9
            assert caplog.text.count("by looking several times a second") == 1


def test_a_lost_hint_costs_about_a_second(broker: dramatiq.Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    run, begun = waiting_run(broker), threading.Event()
    listener = type(engine_of(broker).backend.listen())
    hear = listener.hear

    def hear_once(self: Any, timeout: float) -> list[str]:
        heard = [name for name in hear(self, timeout) if name == run.run_id and not begun.is_set()]
        if heard:
            begun.set()
        return heard

    monkeypatch.setattr(listener, "hear", hear_once)
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(lambda: (timed(lambda: run.get_result(block=True)), time.monotonic()))
        assert begun.wait(PATIENCE)
        began = time.monotonic()
        run.cancel()
        (outcome, _), ended_at = wait.result(PATIENCE)
    assert isinstance(outcome, RunCancelled)
    assert ended_at - began < PATIENCE / 2


# The contract


def test_whether_runs_are_at_rest_is_asked_in_bulk(broker: dramatiq.Broker) -> None:
    backend = engine_of(broker).backend
    working, cancelled = waiting_run(broker), waiting_run(broker)
    cancelled.cancel()
    ids = [working.run_id, cancelled.run_id, "nobody"] * 400
    assert list(backend.at_rest(ids)) == [False, True, True] * 400
    assert list(backend.at_rest([])) == []


def test_a_run_that_can_not_be_read_keeps_nobody_else_waiting(redis_broker: RedisBroker) -> None:
    run = waiting_run(redis_broker)
    redis_broker.client.set("dramatiq-clutch:{foreign}:head", "a string", px=60_000)
    with ThreadPoolExecutor(2) as pool:
        wait = pool.submit(run.get_result, block=True, timeout=60_000)
        foreign = pool.submit(Run("foreign").get_result, block=True, timeout=1_000)
        error = foreign.exception(timeout=60)
        assert isinstance(error, ResultTimeout)
        assert "another program has written to this key: remove it" in str(error)
        with running_worker(redis_broker):
            assert wait.result(timeout=60) == "done"


def test_a_listener_hears_what_is_said_once_it_has_begun(broker: dramatiq.Broker) -> None:
    backend = engine_of(broker).backend
    listener = backend.listen()

    found: set[str] = set()

    def all_heard() -> set[str]:
        found.update(listener.hear(0.1))
        return found

    try:
        listener.add(["one", SWEEP])
        wait_until("listening has begun", lambda: all_heard() == {"one", SWEEP})
        found.clear()
        backend.say("other")
        backend.say(SWEEP)
        assert wait_until("it is said", all_heard) == {SWEEP}
        found.clear()
        listener.remove(["one"])
        backend.say("one")
        backend.say(SWEEP)
        assert wait_until("the other is heard", all_heard) == {SWEEP}
        began = time.monotonic()
        timer = threading.Timer(0.2, listener.wake)
        timer.start()
        listener.hear(PATIENCE)
        assert time.monotonic() - began < PATIENCE / 2
        timer.join()
    finally:
        listener.close()


def test_hints_are_lost_while_a_whole_cluster_is_away_and_nothing_else_is(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its client raises then is no `RedisError`."""

    def away(*_: Any, **__: Any) -> None:
        raise RedisClusterException("Redis Cluster cannot be connected")

    backend = RedisBackend(client=redis_client)
    listener = backend.listen()
    try:
        listener.add(["one"])
        listener.hear(0)
        monkeypatch.setattr(redis_client, "publish", away)
        backend.say("one")
        listener.wake()
        monkeypatch.setattr(redis.client.PubSub, "get_message", away)
        with pytest.raises(StateUnavailable, match="cannot be connected"):
            listener.hear(0)
    finally:
        listener.close()


def test_who_closes_the_client_closes_no_connection_on_which_another_thread_listens(server: Server) -> None:
    """The number of such a socket may be given to another one, whose bytes the listening thread would take."""
    with server.client() as client:

        def listening() -> set[str]:
            return {one["id"] for one in client.client_list(_type="pubsub")}

        others = listening()  # of earlier tests, which the server may not have let go yet
        store = RedisBackend(url=server.url)
        listener = store.listen()
        try:
            listener.add(["one"])
            assert listener.hear(PATIENCE) == ["one"]  # it listens from now on
            own = listening() - others
            assert len(own) == 1
            store.client.close()
            store.say("one")
            assert listener.hear(PATIENCE) == ["one"]
            assert listening() - others == own
        finally:
            listener.close()
            store.client.close()


def test_a_waiter_does_not_keep_its_backend() -> None:
    backend = StubBackend()
    with pytest.raises(ResultTimeout):
        waiter_of(backend).result("nobody", _is_missing, 0.2)
    gone = weakref.ref(backend)
    del backend
    wait_until("it is collected", lambda: (gc.collect(), gone() is None)[1])


def _is_missing() -> Any:
    raise ResultMissing("not yet")
