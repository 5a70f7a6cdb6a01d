"""What users test their clutches with: a broker whose time a test moves, a fake of the job, a run to its end."""

from __future__ import annotations

import asyncio
import inspect
import re
import subprocess
import sys
import textwrap
import threading
import traceback
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.errors import QueueJoinTimeout, QueueNotFound
from dramatiq.middleware import AsyncIO, CurrentMessage, Middleware, Retries, SkipMessage
from dramatiq.results import ResultMissing, ResultTimeout

from dramatiq_clutch import (
    Clutch,
    ClutchMiddleware,
    ResultsGone,
    Run,
    RunCancelled,
    RunFailed,
    RunNotFound,
    current_run,
    previous_failures,
    previous_results,
    testing,
)
from dramatiq_clutch.testing import ClutchBroker, clutch_broker, job, run_to_end, stubbed
from tests.support.awaiting import PATIENCE

__all__ = ["clutch_broker"]  # a fixture

LONG = int(PATIENCE * 1_000)

#: The broker of an application, which no test connects to.
APPLICATION = RedisBroker(url="redis://127.0.0.1:1")
APPLICATION.add_middleware(ClutchMiddleware())

began = list[str]()
gate = threading.Event()


@pytest.fixture(autouse=True)
def application(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dramatiq.broker.global_broker", APPLICATION)
    began.clear()


@dramatiq.actor(broker=APPLICATION)
def fetch(page: int) -> str:
    began.append(f"fetch {page}")
    return f"text of page {page}"


@dramatiq.actor(broker=APPLICATION)
def flaky(times: int) -> int:
    began.append("flaky")
    if len(began) <= times:
        raise ConnectionError(f"failure {len(began)}")
    return len(began)


@dramatiq.actor(broker=APPLICATION, max_retries=1)
def broken() -> None:
    began.append("broken")
    raise LookupError("no such page")


@dramatiq.actor(broker=APPLICATION, queue_name="sums")
def total() -> Any:
    return sum(previous_results())


@dramatiq.actor(broker=APPLICATION)
def crawl(depth: int) -> Any:
    return Clutch().then(crawl.message(depth - 1)).nest() if depth else "the bottom"


@dramatiq.actor(broker=APPLICATION)
def told(status: dict[str, Any]) -> None:
    began.append(status["event"])


@dramatiq.actor(broker=APPLICATION)
def slow() -> None:
    gate.wait(PATIENCE)


# The broker


def test_nothing_works_unless_the_test_says_so(clutch_broker: ClutchBroker) -> None:
    run = Clutch().then(fetch.message(1)).run()
    assert began == []
    clutch_broker.work()
    assert began == ["fetch 1"]
    assert run.get_result() == "text of page 1"


def test_plain_messages_work_too(clutch_broker: ClutchBroker) -> None:
    fetch.send(1)
    fetch.send_with_options(args=(2,), delay=1_000)
    clutch_broker.work()
    assert began == ["fetch 1"]
    clutch_broker.advance(1_000)
    clutch_broker.work()
    assert began == ["fetch 1", "fetch 2"]


def test_time_stands_still_until_it_is_moved(clutch_broker: ClutchBroker) -> None:
    run = Clutch().then(fetch.message(1)).run(delay=timedelta(hours=1))
    clutch_broker.work()
    clutch_broker.advance(timedelta(hours=1) - timedelta(milliseconds=1))
    clutch_broker.work()
    assert began == []
    clutch_broker.advance(1)
    clutch_broker.work()
    assert run.get_result() == "text of page 1"
    assert run.status().created == clutch_broker.backend.now() - 3_600_000


def test_delayed_messages_come_in_the_order_of_their_times(clutch_broker: ClutchBroker) -> None:
    for page in (3, 1, 2):
        fetch.send_with_options(args=(page,), delay=page * 1_000)
    for _ in range(3):
        clutch_broker.advance(1_000)
        clutch_broker.work()
    assert began == ["fetch 1", "fetch 2", "fetch 3"]


def test_a_run_expires_when_its_time_has_come(clutch_broker: ClutchBroker) -> None:
    run = Clutch().then(fetch.message(1)).run()
    clutch_broker.work()
    clutch_broker.advance(timedelta(minutes=11))
    with pytest.raises(ResultsGone):
        run.get_result()
    clutch_broker.advance(timedelta(days=7))
    with pytest.raises(RunNotFound):
        run.status()


def test_code_that_waits_for_its_result_finds_a_worker(clutch_broker: ClutchBroker) -> None:
    with clutch_broker.working():
        assert Clutch().then(fetch.message(1)).run().get_result(block=True, timeout=LONG) == "text of page 1"
        assert run_to_end(Clutch().then(fetch.message(2))) == "text of page 2"  # by the same worker
    Clutch().then(fetch.message(3)).run()
    assert began == ["fetch 1", "fetch 2"]


def test_queues_that_are_declared_later_are_worked_too(clutch_broker: ClutchBroker) -> None:
    with clutch_broker.working():
        pass

    @dramatiq.actor(queue_name="late")
    def late() -> str:
        return "late"

    assert run_to_end(Clutch().then(late)) == "late"


def test_a_queue_that_nobody_has_declared_is_an_error(clutch_broker: ClutchBroker) -> None:
    message = fetch.message(1).copy(queue_name="nowhere")
    with pytest.raises(QueueNotFound):
        clutch_broker.enqueue(message)
    with pytest.raises(QueueNotFound):
        clutch_broker.enqueue(message, delay=1)


def test_a_reset_forgets_messages_runs_and_time(clutch_broker: ClutchBroker) -> None:
    now = clutch_broker.backend.now()
    run = Clutch().then(fetch.message(1)).run()
    fetch.send_with_options(args=(2,), delay=1)
    clutch_broker.advance(0)
    clutch_broker.backend.clock.advance(5)
    clutch_broker.reset()
    clutch_broker.advance(10)
    clutch_broker.work()
    assert began == []
    assert clutch_broker.backend.snapshot(run.run_id) is None
    assert clutch_broker.backend.now() == now + 10


def test_hooks_see_what_is_delayed_as_dramatiq_shows_it(clutch_broker: ClutchBroker) -> None:
    seen = list[Any]()

    class Watching(Middleware):
        def after_enqueue(self, broker: Any, message: Any, delay: Any) -> None:
            seen.append((message.queue_name, "eta" in message.options, delay))

    clutch_broker.add_middleware(Watching())
    fetch.send_with_options(args=(1,), delay=1_000)
    clutch_broker.advance(1_000)
    assert seen == [("default.DQ", True, 1_000), ("default", False, None)]


def test_a_job_that_hangs_is_an_error_that_says_so(
    clutch_broker: ClutchBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dramatiq_clutch.testing.broker.STOP", 1)
    gate.clear()
    try:
        run = Clutch().then(slow).run()
        with pytest.raises(ResultTimeout, match=r"is running, with jobs at work after 50 ms"):
            run_to_end(run, timeout=timedelta(milliseconds=50))
    finally:
        gate.set()


def test_work_that_hangs_is_an_error(clutch_broker: ClutchBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dramatiq_clutch.testing.broker.STOP", 1)
    gate.clear()
    slow.send()
    try:
        with pytest.raises(QueueJoinTimeout, match="still at work after 50 ms"):
            clutch_broker.work(timeout=50)
    finally:
        gate.set()


# To the end


def test_a_clutch_is_run_to_its_end() -> None:
    with stubbed():
        assert run_to_end(Clutch().parallel(fetch.message(1), fetch.message(2))) == ["text of page 1", "text of page 2"]


def test_attempts_that_fail_take_no_time(clutch_broker: ClutchBroker) -> None:
    assert run_to_end(Clutch().then(flaky.message(4))) == 5
    assert clutch_broker.backend.clock.ahead > 4 * 7_500  # Dramatiq's own backoff begins with 15 s, or half of it


def test_waits_and_delays_take_no_time(clutch_broker: ClutchBroker) -> None:
    late = fetch.message_with_options(args=(2,), delay=timedelta(hours=1) // timedelta(milliseconds=1))
    assert run_to_end(Clutch().then(fetch.message(1)).wait(timedelta(days=1)).then(late)) == "text of page 2"
    assert clutch_broker.backend.clock.ahead == 25 * 3_600_000


def test_coroutines_find_a_worker(clutch_broker: ClutchBroker) -> None:
    async def endpoint() -> Any:
        run = await Clutch().then(fetch.message(1)).run_async()
        return await run.get_result_async(timeout=LONG)

    with clutch_broker.working():
        assert asyncio.run(endpoint()) == "text of page 1"


def test_callbacks_have_been_called(clutch_broker: ClutchBroker) -> None:
    failing = Clutch(on_failure=told, on_death=told, on_success=told, on_finish=told).then(broken)
    with pytest.raises(RunFailed, match="LookupError: no such page") as failed:
        run_to_end(failing)
    assert sorted(began) == ["broken", "broken", "on_death", "on_failure", "on_finish"]
    assert isinstance(failed.value.__cause__, LookupError)
    assert "raise LookupError" in "".join(traceback.format_exception(failed.value.__cause__))


def test_a_run_that_fails_of_itself_has_no_cause(clutch_broker: ClutchBroker) -> None:
    with pytest.raises(RunFailed, match="must be a list") as failed:
        run_to_end(Clutch().then(fetch.message(1)).map(fetch))
    assert failed.value.__cause__ is None


def test_what_a_stage_has_allowed_is_not_the_cause(clutch_broker: ClutchBroker) -> None:
    with pytest.raises(RunFailed, match="LookupError: no such page") as failed:
        run_to_end(
            Clutch().parallel(flaky.message_with_options(args=(9,), max_retries=0), allow_failures=1).then(broken)
        )
    assert isinstance(failed.value.__cause__, LookupError)


def test_nested_runs_are_run_to_their_ends(clutch_broker: ClutchBroker) -> None:
    assert run_to_end(Clutch().then(crawl.message(3))) == "the bottom"


def test_a_run_is_taken_up_again(clutch_broker: ClutchBroker) -> None:
    run = Clutch().then(broken).run()
    for times in (2, 4):
        with pytest.raises(RunFailed):
            run_to_end(run)
        assert began == ["broken"] * times
        assert run.retry()


def test_a_cancelled_run_is_told(clutch_broker: ClutchBroker) -> None:
    run = Clutch().then(fetch.message(1)).run()
    run.cancel()
    with pytest.raises(RunCancelled):
        run_to_end(run)
    assert began == []


def test_what_is_delayed_for_others_stays_delayed(clutch_broker: ClutchBroker) -> None:
    fetch.send_with_options(args=(9,), delay=86_400_000)
    run_to_end(Clutch().then(fetch.message(1)))
    assert began == ["fetch 1"]


def test_a_run_whose_messages_are_gone_is_an_error_that_says_so(clutch_broker: ClutchBroker) -> None:
    run = Clutch().then(fetch.message(1)).run()
    clutch_broker.flush_all()
    with pytest.raises(ResultMissing, match="is running, though nothing is left to do"):
        run_to_end(run)


def test_another_broker_is_an_error_that_names_the_way_out() -> None:
    with pytest.raises(TypeError, match=r"this is a RedisBroker.*fixture clutch_broker"):
        run_to_end(Clutch().then(fetch.message(1)))
    with stubbed(), pytest.raises(TypeError, match="this is a StubBroker"):
        run_to_end(Clutch(broker=StubBroker()))


# Whose actors


def test_the_actors_of_the_application_come_and_go_back() -> None:
    with suppress(ZeroDivisionError), stubbed() as broker:
        assert dramatiq.get_broker() is broker is fetch.broker
        assert broker.get_declared_queues() >= {"default", "sums"}
        raise ZeroDivisionError
    assert dramatiq.get_broker() is APPLICATION is fetch.broker


def test_a_broker_that_is_not_the_global_one_is_named() -> None:
    other = StubBroker()

    @dramatiq.actor(broker=other)
    def theirs() -> str:
        return "theirs"

    with stubbed(other):
        assert run_to_end(Clutch().then(theirs)) == "theirs"
        assert "fetch" not in dramatiq.get_broker().actors
    assert theirs.broker is other


def test_without_any_broker_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dramatiq.broker.global_broker", None)
    with stubbed() as broker:
        assert {type(hook) for hook in broker.middleware} >= {Retries, AsyncIO, CurrentMessage, ClutchMiddleware}
    assert dramatiq.broker.global_broker is None


def test_the_settings_of_dramatiqs_middleware_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    class Foreign(Middleware):
        pass

    (retries,) = (hook for hook in APPLICATION.middleware if isinstance(hook, Retries))
    monkeypatch.setattr(retries, "max_retries", 2)
    monkeypatch.setattr(APPLICATION, "middleware", [*APPLICATION.middleware, Foreign()])
    with stubbed() as broker:
        with pytest.raises(RunFailed):
            run_to_end(Clutch().then(flaky.message(100)))
        assert not any(isinstance(hook, Foreign) for hook in broker.middleware)
        assert sum(isinstance(hook, ClutchMiddleware) for hook in broker.middleware) == 1
    assert began == ["flaky"] * 3


def test_the_callbacks_and_times_of_the_applications_middleware_stay() -> None:
    """So a test sees who is told of a run whose clutch says nothing of that."""
    known = RedisBroker(url="redis://127.0.0.1:1")
    known.add_middleware(ClutchMiddleware(on_failed="told", callback_queue="calls", result_ttl=1_000))
    known.declare_queue("calls")
    queues = list[str]()

    @dramatiq.actor(broker=known, max_retries=0)
    def fails(*, really: bool) -> str:
        if really:
            raise LookupError("no such page")
        return "fine"

    @dramatiq.actor(broker=known, actor_name="told")
    def its_told(status: dict[str, Any]) -> None:
        message = CurrentMessage.get_current_message()
        assert message is not None
        queues.append(message.queue_name)

    with stubbed(known) as broker:
        with pytest.raises(RunFailed, match="no such page"):
            run_to_end(Clutch().then(fails.message(really=True)))
        assert queues == ["calls"]
        run = Clutch().then(fails.message(really=False)).run()
        broker.work()
        broker.advance(1_000)
        with pytest.raises(ResultsGone):
            run.get_result()


def test_a_middleware_that_is_added_is_called(clutch_broker: ClutchBroker) -> None:
    class Skipping(Middleware):
        def before_process_message(self, broker: Any, message: Any) -> None:
            raise SkipMessage("not today")

    clutch_broker.add_middleware(Skipping())
    assert run_to_end(Clutch().then(fetch.message(1))) is None
    assert began == []


# The fake of a job


def test_a_job_finds_what_the_stage_before_has_come_to() -> None:
    with job(previous_results=[1, 2]):
        assert total() == 3


def test_results_are_what_a_worker_would_give() -> None:
    with job(previous_results=[(1, {2: "two"}), None]):
        assert previous_results() == [[1, {"2": "two"}], None]
        assert previous_failures() == []
    with pytest.raises(TypeError, match="not JSON serializable"), job(previous_results=[object()]):
        pass


def test_an_exception_stands_for_a_dead_member() -> None:
    with job(previous_results=["a", ValueError("no such page"), "c"]):
        assert previous_results() == ["a", None, "c"]
        (failure,) = previous_failures()
    assert (failure.index, failure.exception_type, failure.exception_text) == (1, "ValueError", "no such page")
    assert (failure.stage, failure.attempts) == (0, 1)


@pytest.mark.parametrize("given", [{}, {"previous_results": []}], ids=["first stage", "empty stage before"])
def test_without_results_there_are_none(given: dict[str, Any]) -> None:
    with job(**given):
        assert previous_results() == []
        assert previous_failures() == []


def test_results_of_several_stages_are_found_by_the_names_of_these() -> None:
    with job(previous_results={"list": ["a", ValueError("gone")], "none": [], "load": [1, KeyError("b")]}) as played:
        assert previous_results() == previous_results(stage="load") == previous_results(stage=2) == [1, None]
        assert [failure.exception_type for failure in previous_failures()] == ["KeyError"]
        assert (previous_results(stage="list"), previous_results(stage="none")) == (["a", None], [])
        assert [failure.exception_type for failure in previous_failures(stage="list")] == ["ValueError"]
        with pytest.raises(
            ValueError, match=r"no stage 'lost' here, but these: 0 \('list'\), 1 \('none'\), 2 \('load'\)"
        ):
            previous_results(stage="lost")
        assert [stage.name for stage in played.run.status().stages] == ["list", "none", "load", None]
    with job(previous_results={"none": []}):
        assert previous_results() == previous_results(stage="none") == []


def test_the_run_of_a_job_can_be_asked() -> None:
    with job(run_id="november", name="nightly", previous_results=[1]) as played:
        assert current_run() == played.run == Run("november")
        status = played.run.status()
    assert (status.name, status.state, len(status.stages)) == ("nightly", "running", 2)


def test_a_job_finds_the_context_that_the_test_gives_its_run() -> None:
    for context in ({"tenant": 7}, {}, None):
        with job(context=context) as played:
            run = current_run()
            assert run is not None
            assert run.context == played.run.context == (context or {})
    with pytest.raises(TypeError, match="all keys of a context are strings"), job(context={1: 2}):  # type: ignore[dict-item]
        pass


def test_an_id_that_is_in_use_is_an_error(clutch_broker: ClutchBroker) -> None:
    with job(run_id="november"):
        pass
    with pytest.raises(ValueError, match="there is a run 'november' already"), job(run_id="november"):
        pass
    clutch_broker.reset()
    with job(run_id="november"):
        pass


def test_what_is_nested_is_noted_and_not_started(clutch_broker: ClutchBroker) -> None:
    with job() as played:
        handle = crawl(3)
        Clutch(name="second").then(fetch.message(1)).nest()
    assert isinstance(handle, Run)
    assert played.nested == [Clutch().then(crawl.message(2)), Clutch(name="second").then(fetch.message(1))]
    clutch_broker.advance(timedelta(hours=2))
    clutch_broker.work()
    assert began == []


def test_outside_of_the_block_there_is_no_job() -> None:
    with job(previous_results=[1]):
        with job(previous_results=[2]):
            assert previous_results() == [2]
        assert previous_results() == [1]
    assert previous_results() == []
    assert current_run() is None


def test_async_actors_find_the_same() -> None:
    @dramatiq.actor
    async def gather() -> list[Any]:
        await asyncio.sleep(0)
        return await asyncio.to_thread(previous_results)

    function: Any = gather.fn
    with job(previous_results=[1, 2]):
        assert gather() == [1, 2]
        assert asyncio.run(function.__wrapped__()) == [1, 2]

    async def test() -> None:
        with job(previous_results=[3]):
            assert await function.__wrapped__() == [3]
        assert previous_results() == []

    asyncio.run(test())


def test_class_based_actors_find_the_same() -> None:
    class Listing(dramatiq.GenericActor):
        def perform(self) -> list[Any]:
            return previous_results()

    actor: Any = Listing
    with job(previous_results=[1, 2]):
        assert actor() == [1, 2]


def test_what_a_job_sends_reaches_no_server(clutch_broker: ClutchBroker) -> None:
    with job():
        fetch.send(1)
        Clutch().then(fetch.message(2)).run()
    clutch_broker.work()
    assert sorted(began) == ["fetch 1", "fetch 2"]


def test_without_the_fixture_what_a_job_sends_is_forgotten() -> None:
    with job():
        fetch.send(1)
    assert dramatiq.get_broker() is APPLICATION


# The module


@pytest.mark.process
def test_nothing_but_the_fixture_needs_pytest() -> None:
    program = "import sys; from dramatiq_clutch.testing import *; print('pytest' in sys.modules)"
    program = program.replace("*", "ClutchBroker, FakeJob, job, run_to_end, stubbed")
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "False"


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'clutch_borker'"):
        _ = testing.clutch_borker
    assert set(testing.__all__) <= set(dir(testing))


def documented() -> Iterator[tuple[str, str]]:
    """The literal blocks in the docstrings of the module's names, each with the name."""
    told = {"testing": testing.__doc__ or ""}
    for name in testing.__all__:
        value = getattr(testing, name)
        told[name] = inspect.getdoc(getattr(value, "__wrapped__", value)) or ""
        if isinstance(value, type):
            told |= {f"{name}.{own}": inspect.getdoc(made) or "" for own, made in vars(value).items() if callable(made)}
    for name, text in told.items():
        for block in re.findall(r"::\n\n((?: {4}.*\n|\n)+)", f"{text}\n"):
            if "import clutch_broker" not in block:
                yield name, textwrap.dedent(block)


def test_the_examples_in_docstrings_are_true(clutch_broker: ClutchBroker) -> None:
    @dramatiq.actor
    def count(word: str) -> int:
        return 3 if word == "a" else 4

    @dramatiq.actor
    def remind() -> str:
        return "reminded"

    @dramatiq.actor
    def report() -> Any:
        if all(isinstance(one, int) for one in previous_results()):
            return sum(previous_results())
        missing = [failure.exception_text for failure in previous_failures()]
        return {"sales": previous_results(), "missing": missing}

    names = list[str]()
    for name, block in documented():
        clutch_broker.reset()
        namespace = {**globals(), **locals(), "broker": clutch_broker}
        if "run." in block and "run = " not in block:
            namespace["run"] = Clutch().then(count.message("a")).run()
        exec(compile(block, name, "exec"), namespace)
        for known, value in list(namespace.items()):
            if known.startswith("test_") and known not in globals():
                value(clutch_broker)
        names.append(name)
    assert {"testing", "clutch_broker", "job", "stubbed", "ClutchBroker", "ClutchBroker.working"} <= set(names)
