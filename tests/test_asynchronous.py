"""Nothing blocks an event loop: what blocks is called in a few threads, with the caller's context."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import AsyncIO
from redis.backoff import NoBackoff
from redis.retry import Retry

from dramatiq_clutch import Clutch, Run, RunNotFound, current_run
from dramatiq_clutch.asynchronous import MOST_THREADS, _threads, in_a_thread
from dramatiq_clutch.engine import engine_of
from tests.conftest import as_global_broker, running_worker
from tests.support.awaiting import PATIENCE, wait_until
from tests.support.jobs import Jobs, state_is
from tests.support.server import Server

#: What there is for coroutines, with what it stands for.
TWINS: list[tuple[type, str]] = [(Clutch, name) for name in dir(Clutch) if name.endswith("_async")]
TWINS += [(Run, name) for name in dir(Run) if name.endswith("_async") and name != "get_result_async"]

VERBS: dict[str, Callable[[Run, Clutch], Coroutine[Any, Any, Any]]] = {
    "run": lambda run, clutch: clutch.run_async(),
    "status": lambda run, clutch: run.status_async(),
    "cancel": lambda run, clutch: run.cancel_async(),
    "retry": lambda run, clutch: run.retry_async(),
    "resend": lambda run, clutch: run.resend_async(),
}


async def until(condition: Callable[[], Any]) -> None:
    """Wait for a condition in a coroutine: the loop goes on meanwhile, and has to."""

    async def ask() -> None:
        while not condition():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(ask(), PATIENCE)


@contextmanager
def own_store() -> Iterator[tuple[Server, RedisBroker]]:
    """A server that the test may pause, with the global broker and its runs on it. The client gives up long after the
    pause should be over, and at once; otherwise a test with a loop that stands still would take for ever to fail."""
    with Server() as server:
        client = redis.Redis.from_url(server.url, socket_timeout=PATIENCE / 3, retry=Retry(NoBackoff(), 0))
        broker = RedisBroker(client=client)
        with as_global_broker(broker):
            yield server, broker
        client.close()


@contextmanager
def paused(server: Server) -> Iterator[None]:
    server.pause()
    try:
        yield
    finally:
        server.resume()


def our_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("clutch-async")}


@pytest.fixture
def full() -> Iterator[Callable[[], None]]:
    """All threads for coroutines are busy, until the given function is called."""
    gate, began = threading.Event(), threading.Semaphore(0)

    def hold() -> None:
        began.release()
        assert gate.wait(PATIENCE)

    held = [_threads.pool.submit(hold) for _ in range(MOST_THREADS)]
    for _ in held:
        assert began.acquire(timeout=PATIENCE)
    yield gate.set
    gate.set()
    for future in held:
        future.result(PATIENCE)


# They do what they stand for


def test_each_of_them_does_what_it_stands_for(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["bad"] = ["die"]

    async def steer() -> None:
        run = await Clutch(name="awaited").then(jobs.job.message("bad")).run_async(run_id="mine")
        assert run == Run("mine")
        assert (await run.status_async()).name == "awaited"
        with running_worker(broker):
            await until(lambda: run.status().state == "failed")
            assert not await run.cancel_async()
            assert await run.retry_async()
            assert await run.get_result_async(timeout=int(PATIENCE * 1_000)) == "bad"
        assert not await run.retry_async()
        unsent = await Clutch().then(jobs.job.message("a")).run_async()
        assert await unsent.resend_async()
        assert await unsent.cancel_async()
        with pytest.raises(RunNotFound, match="'nobody'"):
            await Run("nobody").status_async()
        with pytest.raises(ValueError, match="run_id"):
            await Clutch().run_async(run_id="no id")

    asyncio.run(steer())


@pytest.mark.parametrize(("kind", "name"), TWINS, ids=[name for _, name in TWINS])
def test_each_of_them_has_the_parameters_of_what_it_stands_for(kind: type, name: str) -> None:
    twin, method = getattr(kind, name), getattr(kind, name.removesuffix("_async"))
    assert inspect.iscoroutinefunction(twin)
    assert inspect.signature(twin) == inspect.signature(method)
    assert twin.__qualname__ == f"{method.__qualname__}_async"
    assert f"`{method.__name__}` for coroutines, with the same parameters" in str(inspect.getdoc(twin))


def test_a_subclass_that_does_something_in_its_own_way_does_so_for_coroutines_too() -> None:
    class Own(Run):
        def cancel(self) -> bool:
            return True

    assert asyncio.run(Own("none").cancel_async())


# The loop goes on


@pytest.mark.parametrize("verb", VERBS)
def test_the_loop_ticks_while_the_store_is_paused(verb: str) -> None:
    """If the call were made on the loop, the loop would stand still until the client's timeout."""
    with own_store() as (server, broker):
        jobs = Jobs(broker)
        clutch = Clutch().then(jobs.job.message("a"))
        run = clutch.run()

        async def steer() -> Any:
            with paused(server):
                task = asyncio.create_task(VERBS[verb](run, clutch))
                for _ in range(100):
                    await asyncio.sleep(0.001)
                    assert not task.done()
            return await asyncio.wait_for(task, PATIENCE)

        outcome = asyncio.run(steer())
        assert outcome == {"cancel": True, "retry": False, "resend": True}.get(verb, outcome)


def test_200_that_wait_at_a_time_take_few_threads_and_connections() -> None:
    with own_store() as (server, broker):
        jobs = Jobs(broker)
        run = Clutch().then(jobs.job.message("a")).run()
        before = len(broker.client.client_list())

        async def steer() -> set[str]:
            with paused(server):
                tasks = [asyncio.create_task(run.status_async()) for _ in range(200)]
                for _ in range(100):
                    await asyncio.sleep(0.001)
                threads = our_threads()
                assert not any(task.done() for task in tasks)
            assert {status.state for status in await asyncio.gather(*tasks)} == {"running"}
            return threads | our_threads()

        assert 1 <= len(asyncio.run(steer())) <= MOST_THREADS
        assert len(broker.client.client_list()) <= before + MOST_THREADS


def test_a_full_default_executor_holds_nothing_up(broker: dramatiq.Broker, jobs: Jobs) -> None:
    gate = threading.Event()

    async def steer() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        held = [loop.run_in_executor(None, gate.wait, PATIENCE) for _ in range(3)]
        try:
            run = await asyncio.wait_for(Clutch().then(jobs.job.message("a")).run_async(), PATIENCE / 2)
            assert await asyncio.wait_for(run.cancel_async(), PATIENCE / 2)
        finally:
            gate.set()
        await asyncio.gather(*held)

    asyncio.run(steer())


# Context


def test_the_callers_context_goes_along(broker: dramatiq.Broker, jobs: Jobs) -> None:
    request: ContextVar[str] = ContextVar("request")
    broker.add_middleware(AsyncIO())
    seen: list[Any] = []

    class Noting(dramatiq.Middleware):
        def before_enqueue(self, broker: Any, message: Any, delay: Any) -> None:
            if message.actor_name == "job":
                seen.append((request.get(), threading.current_thread().name, current_run()))

    @dramatiq.actor
    async def starts() -> str:
        request.set("mine")
        run = await Clutch().then(jobs.job.message("a")).run_async()
        return run.run_id

    broker.add_middleware(Noting())
    with running_worker(broker):
        outer = Clutch().then(starts).run()
        state_is(Run(outer.get_result(block=True)), "succeeded")
    ((value, thread, run),) = seen
    assert (value, run) == ("mine", outer)
    assert thread.startswith("clutch-async")


# Cancelled


def test_a_call_that_no_thread_has_begun_is_left_out_when_its_task_is_cancelled(
    broker: dramatiq.Broker, jobs: Jobs, full: Callable[[], None]
) -> None:
    async def steer() -> None:
        task = asyncio.create_task(Clutch().then(jobs.job.message("a")).run_async(run_id="never"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        full()
        await in_a_thread(lambda: None)  # whatever has been queued before has had its turn

    asyncio.run(steer())
    with pytest.raises(RunNotFound):
        Run("never").status()


def test_a_call_that_has_begun_goes_on_when_its_task_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    with own_store() as (server, broker):
        jobs, begun = Jobs(broker), threading.Event()
        backend: Any = engine_of(broker).backend
        works = backend.draft

        def draft(*args: Any, **more: Any) -> Any:
            begun.set()
            return works(*args, **more)

        monkeypatch.setattr(backend, "draft", draft)

        async def steer() -> None:
            with paused(server):
                task = asyncio.create_task(Clutch().then(jobs.job.message("a")).run_async(run_id="begun"))
                await until(begun.is_set)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

        asyncio.run(steer())
        wait_until("the run", lambda: broker.client.exists("dramatiq-clutch:{begun}:head"))
