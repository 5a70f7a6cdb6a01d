"""What previous_results() says where no job is known: in callbacks, and in threads that jobs start."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import dramatiq
import pytest
from dramatiq.middleware import AsyncIO

from dramatiq_clutch import Clutch, NestingError, NotInAJob, previous_failures, previous_results
from tests.conftest import running_worker
from tests.support.awaiting import PATIENCE, wait_until
from tests.support.jobs import Jobs


def both() -> list[list[Any]]:
    return [previous_results(), [failure.index for failure in previous_failures()]]


def said(ask: Callable[[], Any]) -> Any:
    """What is answered, or the error."""
    try:
        return ask()
    except NotInAJob as error:
        return error


def in_a_thread(work: Callable[[], Any]) -> Any:
    """What comes of work in a thread of its own, which has no context."""
    outcome: Future[Any] = Future()
    threading.Thread(target=lambda: outcome.set_result(work())).start()
    return outcome.result(PATIENCE)


@contextmanager
def a_job_at_work(broker: dramatiq.Broker, jobs: Jobs) -> Iterator[None]:
    """While this lasts, a worker of this process works on a job of a clutch."""
    jobs.script["works"] = ["wait"]
    with running_worker(broker):
        run = Clutch().then(jobs.job.message("works")).run()
        wait_until("it works", lambda: "works" in jobs.began)
        try:
            yield
        finally:
            jobs.gates["works"].set()
            assert run.get_result(block=True) == "works"


@pytest.mark.parametrize("ask", [previous_results, previous_failures])
def test_a_callback_is_told_where_results_are(broker: dramatiq.Broker, jobs: Jobs, ask: Callable[[], Any]) -> None:
    told: list[Any] = []

    @dramatiq.actor
    def callback(status: dict[str, Any]) -> None:
        told.append(said(ask))

    with running_worker(broker):
        Clutch(on_success=callback).then(jobs.job.message("a"), jobs.job.message("b")).run()
        wait_until("the callback", lambda: told)
    (error,) = told
    assert isinstance(error, NotInAJob)
    assert str(error).startswith(f"{ask.__name__}() was called in a callback")
    assert 'Run(status["run_id"]).get_result()' in str(error)
    assert "with_result(actor)" in str(error)


def test_a_thread_with_the_jobs_context_is_part_of_the_job(broker: dramatiq.Broker, jobs: Jobs) -> None:
    @dramatiq.actor
    def threads() -> Any:
        with ThreadPoolExecutor(3) as pool:
            asked = [pool.submit(contextvars.copy_context().run, both) for _ in range(3)]
        return [future.result() for future in asked]

    jobs.script["dies"] = ["die"]
    with running_worker(broker):
        members = [jobs.job.message("a"), jobs.job.message("dies")]
        run = Clutch().parallel(members, allow_failures=True).then(threads).run()
        found = run.get_result(block=True)
    assert found == [[["a", None], [1]]] * 3


@pytest.mark.parametrize("ask", [previous_results, previous_failures])
def test_a_thread_without_a_context_is_told_how_it_gets_the_jobs(
    broker: dramatiq.Broker, jobs: Jobs, ask: Callable[[], Any]
) -> None:
    @dramatiq.actor
    def threads() -> str:
        with ThreadPoolExecutor(1) as pool:
            return str(pool.submit(said, ask).result())

    with running_worker(broker):
        text = Clutch().then(jobs.job.message("a")).then(threads).run().get_result(block=True)
    assert text.startswith(f"{ask.__name__}() was called in a thread of which nothing tells")
    assert "threading.Thread(target=contextvars.copy_context().run" in text


def test_a_thread_that_nests_without_a_context_is_told_too(broker: dramatiq.Broker, jobs: Jobs) -> None:
    told: list[Any] = []
    clutch = Clutch().then(jobs.job.message("nested"))

    @dramatiq.actor
    def threads() -> Any:
        with ThreadPoolExecutor(2) as pool:
            told.append(pool.submit(clutch.nest).exception())
            return pool.submit(contextvars.copy_context().run, clutch.nest).result()

    with running_worker(broker):
        assert Clutch().then(threads).run().get_result(block=True) == "nested"
    (error,) = told
    assert isinstance(error, NestingError)
    assert str(error).endswith("in a copy of its own, as by pool.submit(contextvars.copy_context().run, work)")


def test_an_executor_of_an_async_job_is_told_too_and_to_thread_takes_the_context_along(
    broker: dramatiq.Broker, jobs: Jobs
) -> None:
    broker.add_middleware(AsyncIO())

    @dramatiq.actor
    async def waits() -> Any:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as pool:
            bare = await loop.run_in_executor(pool, said, previous_results)
        return [type(bare).__name__, await asyncio.to_thread(previous_results)]

    with running_worker(broker):
        run = Clutch().then(jobs.job.message("a")).then(waits).run()
        assert run.get_result(block=True) == ["NotInAJob", ["a"]]


def test_actors_that_are_called_directly_see_nothing_before_them(broker: dramatiq.Broker, jobs: Jobs) -> None:
    """In the main thread, as in most tests; and in a thread where no worker is, or no job of a clutch at work."""

    @dramatiq.actor
    def sees() -> list[Any]:
        return [previous_results(), previous_failures()]

    asked, answers = threading.Event(), list[Any]()

    def old() -> None:
        assert asked.wait(PATIENCE)
        answers.append(sees())

    older = threading.Thread(target=old)
    older.start()
    assert in_a_thread(sees) == [[], []]
    with running_worker(broker):
        assert in_a_thread(sees) == [[], []]
        jobs.job.send("no clutch")
        wait_until("it works", lambda: "no clutch" in jobs.began)
        assert in_a_thread(sees) == [[], []]
    with a_job_at_work(broker, jobs):
        assert sees() == [[], []]
        asked.set()
        older.join(PATIENCE)
        assert isinstance(in_a_thread(lambda: said(sees)), NotInAJob)
    assert answers == [[[], []]]
    wait_until("the job to be over", lambda: in_a_thread(lambda: said(sees)) == [[], []])


def test_a_message_that_is_of_no_clutch_sees_nothing_before_it(broker: dramatiq.Broker, jobs: Jobs) -> None:
    answers: list[Any] = []

    @dramatiq.actor
    def plain() -> None:
        answers.append(both())

    with a_job_at_work(broker, jobs):
        plain.send()
        wait_until("the answer", lambda: answers)
    assert answers == [[[], []]]


def test_other_middleware_of_a_workers_thread_sees_nothing(broker: dramatiq.Broker, jobs: Jobs) -> None:
    """Before an attempt has begun, a worker's thread has no context either."""
    answers: list[Any] = []

    class Asking(dramatiq.Middleware):
        def before_process_message(self, broker: Any, message: Any) -> None:
            answers.append(said(both))

        def after_ack(self, broker: Any, message: Any) -> None:
            answers.append(said(both))

    broker.add_middleware(Asking(), before=type(broker.middleware[0]))
    with a_job_at_work(broker, jobs):
        assert Clutch().then(jobs.job.message("a")).run().get_result(block=True) == "a"
        wait_until("all answers", lambda: len(answers) >= 3)
    assert all(answer == [[], []] for answer in answers), answers
