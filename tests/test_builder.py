"""The builder: immutable, and every mistake is told where it is made."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import pickle
import re
import subprocess
import sys
from datetime import timedelta
from functools import partial
from types import ModuleType
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import group, pipeline
from dramatiq.brokers.stub import StubBroker
from dramatiq.errors import ActorNotFound
from dramatiq.middleware import AsyncIO
from dramatiq.results import ResultFailure, ResultTimeout

import dramatiq_clutch
from dramatiq_clutch import (
    Clutch,
    ClutchError,
    ClutchMiddleware,
    NotConfigured,
    Run,
    RunCancelled,
    RunFailed,
    RunIdTaken,
    RunNotFound,
    RunStatus,
    current_run,
    errors,
    previous_results,
)
from dramatiq_clutch.backends import RedisBackend, StubBackend
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.stored.messages import message_from
from tests.conftest import result, running_worker
from tests.support.awaiting import PATIENCE
from tests.support.jobs import Jobs


@pytest.fixture
def job(broker: dramatiq.Broker) -> dramatiq.Actor[..., Any]:
    @dramatiq.actor
    def job(*numbers: int) -> list[int]:
        return list(numbers)

    return job


def test_every_call_returns_a_new_clutch_and_both_can_be_run_more_than_once(
    broker: dramatiq.Broker, job: dramatiq.Actor[..., Any]
) -> None:
    short = Clutch().then(job.message(1))
    longer = short.parallel(job.message(2), job.message(3))
    assert len(short.stages) == 1
    assert len(longer.stages) == 2
    assert [result(broker, short) for _ in range(2)] == [[1], [1]]
    assert [result(broker, longer) for _ in range(2)] == [[[2], [3]]] * 2


def test_a_clutch_cannot_be_changed(job: dramatiq.Actor[..., Any]) -> None:
    clutch = Clutch().then(job)
    with pytest.raises(dataclasses.FrozenInstanceError):
        clutch.queue = "other"  # type: ignore[misc]


def test_messages_are_copied_when_they_are_added(broker: dramatiq.Broker, job: dramatiq.Actor[..., Any]) -> None:
    message = job.message(1)
    clutch = Clutch().then(message).then(message)
    message.options["max_retries"] = 5
    members: list[Any] = [member for stage in clutch.stages for member in stage.members]
    assert not any("max_retries" in message_from(member.row()).options for member in members)
    assert result(broker, clutch) == [1]


def test_the_type_of_the_result_is_for_type_checkers_alone(job: dramatiq.Actor[..., int]) -> None:
    plain, typed = Clutch(name="n").then(job), Clutch[int](name="n").then(job)
    assert type(typed) is type(plain) is Clutch
    assert typed == plain == pickle.loads(pickle.dumps(typed))
    assert copy.copy(typed) is typed is copy.deepcopy(typed)
    run = Run[int]("id")
    assert type(run) is Run
    assert run == Run("id") == pickle.loads(pickle.dumps(run)) == copy.copy(run) == copy.deepcopy(run)
    assert isinstance(run, Run)
    assert not hasattr(typed, "__dict__")


def test_options_are_keyword_only() -> None:
    with pytest.raises(TypeError):
        Clutch("critical")  # type: ignore[call-arg]


@pytest.mark.parametrize("add", ["then", "parallel", "map"])
@pytest.mark.parametrize("wrong", [None, 3, "actor", b"actor", {"a": 1}, ...], ids=repr)
def test_what_is_not_a_step_is_a_type_error_at_the_call_that_adds_it(
    job: dramatiq.Actor[..., Any], add: str, wrong: Any
) -> None:
    clutch = Clutch().then(job)
    with pytest.raises(TypeError, match=r"takes .*\bnot\b") as raised:
        getattr(clutch, add)(wrong)
    assert repr(wrong) in str(raised.value)
    assert "a message (actor.message(...)), an actor, functools.partial(actor, ...), a Clutch" in str(raised.value)


def test_a_wrong_member_of_an_iterable_is_named(job: dramatiq.Actor[..., Any]) -> None:
    with pytest.raises(TypeError, match="'third'"):
        Clutch().parallel(iter([job, job.message(), "third"]))  # type: ignore[arg-type]


# An actor with some of its arguments


def test_a_partial_of_an_actor_is_a_step_wherever_a_message_is(broker: dramatiq.Broker, job: Any) -> None:
    shown = partial(job, "given")
    assert result(broker, Clutch().then(shown)) == ["given"]
    assert result(broker, Clutch().then(job.message(1)).then(shown, pipe=True)) == ["given", [1]]
    assert result(broker, Clutch().then(job.message(1, 2)).map(shown)) == [["given", 1], ["given", 2]]
    assert result(broker, Clutch().parallel(partial(job, 1), partial(job, 2))) == [[1], [2]]
    assert result(broker, Clutch().parallel(partial(job, n) for n in range(2))) == [[0], [1]]
    assert result(broker, Clutch().parallel(lambda: [partial(job, 1)])) == [[1]]
    assert result(broker, Clutch().parallel(shown)) == [["given"]]


def test_a_partial_may_have_keyword_arguments_and_be_one_of_a_partial(broker: dramatiq.Broker) -> None:
    @dramatiq.actor
    def shown(*args: Any, **kwargs: Any) -> Any:
        return [list(args), kwargs]

    inner: Any = partial(shown, 1, page=2)
    inner.note = "with an attribute of its own, so that partial() keeps it as it is"
    step = partial(inner, 3, page=4, last=True)
    assert result(broker, Clutch().then(shown.message()).then(step, pipe=True)) == [
        [1, 3, [[], {}]],
        {"page": 4, "last": True},
    ]


def test_a_partial_may_be_of_a_class_based_actor_or_of_a_coroutine(broker: dramatiq.Broker) -> None:
    class Classy(dramatiq.GenericActor):
        def perform(self, *args: Any) -> Any:
            return list(args)

    @dramatiq.actor
    async def coroutine(*args: Any) -> Any:
        return list(args)

    broker.add_middleware(AsyncIO())
    classy: Any = Classy
    assert result(broker, Clutch().then(partial(classy, 1)).then(partial(coroutine, 2), pipe=True)) == [2, [1]]


def test_a_partial_may_be_a_callback(jobs: Jobs) -> None:
    callbacks: Any = {option: partial(jobs.heard, "ops") for option in ("on_success", "on_finish")}
    Clutch(**callbacks).then(partial(jobs.job, "job")).run()
    with running_worker(jobs.broker):  # one for all: a worker that stops at the result may have a callback in its hands
        jobs.wait_fired("ops", "S E")


def test_a_partial_is_encoded_when_it_is_added(broker: dramatiq.Broker, job: Any) -> None:
    pages = [1]
    clutch = Clutch().then(partial(job, pages))
    pages.append(2)
    assert result(broker, clutch) == [[1]]
    with pytest.raises(TypeError, match=r"args\[0\]"):
        Clutch().then(partial(job, object()))


def test_a_partial_of_what_is_no_actor_is_a_type_error_or_a_source(broker: dramatiq.Broker, job: Any) -> None:
    def pages(count: int) -> list[Any]:
        return [job.message(n) for n in range(count)]

    with pytest.raises(TypeError, match=r"then\(\) takes .*functools\.partial\(actor, \.\.\.\).*, not functools"):
        Clutch().then(partial(pages, 2))
    with pytest.raises(TypeError, match=r"on_failure takes an actor, functools\.partial\(actor, \.\.\.\)"):
        Clutch(on_failure=partial(pages, 2))
    assert result(broker, Clutch().parallel(partial(pages, 2))) == [[0], [1]]


def test_an_iterable_is_read_at_once(broker: dramatiq.Broker, job: dramatiq.Actor[..., Any]) -> None:
    clutch = Clutch().parallel(job.message(n) for n in range(3))
    assert result(broker, clutch) == [[0], [1], [2]]
    assert result(broker, clutch) == [[0], [1], [2]]


def test_a_broker_without_the_middleware_is_an_error_that_says_what_to_add() -> None:
    with pytest.raises(NotConfigured, match=r"add_middleware\(ClutchMiddleware\(\)\)"):
        Clutch(broker=StubBroker()).run()


def test_a_middleware_without_a_backend_on_any_other_broker_says_to_pass_one() -> None:
    class Other(dramatiq.Broker): ...

    broker = Other()
    broker.add_middleware(ClutchMiddleware())
    with pytest.raises(NotConfigured, match=r"Other has no Redis client\. Pass a backend"):
        Clutch(broker=broker).run()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ("redis://:password@localhost", "a value of type str"),
        (redis.Redis(), "a value of type Redis"),
        (StubBroker(), "a value of type StubBroker"),
        (RedisBackend, "the class RedisBackend"),
    ],
    ids=["an address", "a client", "a broker", "a class"],
)
def test_what_is_no_backend_is_an_error_that_says_how_one_is_made(wrong: Any, named: str) -> None:
    with pytest.raises(TypeError, match=rf"not {named}: say ClutchMiddleware\(RedisBackend\(url=\.\.\.\)\)") as raised:
        ClutchMiddleware(wrong)
    assert "password" not in str(raised.value)


def test_what_is_no_broker_is_a_type_error_at_once() -> None:
    wrong: Any = "redis://:password@localhost"
    with pytest.raises(TypeError, match=r"broker takes a broker of Dramatiq's, not a value of type str$"):
        Clutch(broker=wrong)


@pytest.mark.parametrize("wrong", [None, 5, b"id"], ids=repr)
def test_an_id_that_is_no_string_is_a_type_error(job: dramatiq.Actor[..., Any], wrong: Any) -> None:
    with pytest.raises(TypeError, match=f"a string like run.run_id, not {re.escape(repr(wrong))}"):
        Run(wrong)
    if wrong is not None:
        with pytest.raises(TypeError, match=f"run_id is {re.escape(repr(wrong))}; it takes a string"):
            Clutch().then(job).run(run_id=wrong)


def test_an_empty_id_is_a_value_error(job: dramatiq.Actor[..., Any]) -> None:
    with pytest.raises(ValueError, match="the given one is empty"):
        Run("")
    with pytest.raises(ValueError, match="run_id '' isn't one"):
        Clutch().then(job).run(run_id="")


def test_a_queue_that_nobody_declared_is_an_error_at_run(job: dramatiq.Actor[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"the queue 'nowhere'.*declare_queue\('nowhere'\)"):
        Clutch(queue="nowhere").then(job).run()


def test_a_callback_that_is_no_actor_is_an_error(job: dramatiq.Actor[..., Any]) -> None:
    with pytest.raises(TypeError, match="on_failure takes an actor"):
        Clutch(on_failure=3)  # type: ignore[arg-type]
    with pytest.raises(ActorNotFound, match="nobody"):
        Clutch(on_failure="nobody").then(job).run()


def test_a_callback_may_be_a_name(broker: dramatiq.Broker, job: dramatiq.Actor[..., Any]) -> None:
    assert result(broker, Clutch(on_failure="job").then(job.message(1))) == [1]


@pytest.mark.parametrize("look", [Run.status, Run.get_result, lambda run: run.get_result(block=True)])
def test_an_unknown_run_raises_at_once(broker: dramatiq.Broker, look: Any) -> None:
    with pytest.raises(RunNotFound, match="'no-such-run'"):
        look(Run("no-such-run"))


def test_outside_a_clutch_there_are_no_results_and_no_run() -> None:
    assert previous_results() == []
    assert current_run() is None


def test_the_public_names_are_all_there() -> None:
    assert all(hasattr(dramatiq_clutch, name) for name in dramatiq_clutch.__all__)
    assert {"Clutch", "ClutchMiddleware", "Run", "current_run", "previous_results"} <= set(dramatiq_clutch.__all__)
    assert dramatiq_clutch.__all__ == sorted(dramatiq_clutch.__all__)
    assert set(dramatiq_clutch.__all__) <= set(dir(dramatiq_clutch))
    assert dramatiq_clutch.StubBackend is StubBackend
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = dramatiq_clutch.Nothing


def classes_of(module: ModuleType) -> dict[str, type]:
    found = {name: value for name, value in vars(module).items() if isinstance(value, type)}
    return {name: value for name, value in found.items() if value.__module__ == module.__name__}


def test_every_error_is_imported_from_the_package_and_is_a_clutch_error() -> None:
    found = classes_of(errors)
    assert len(found) > 15
    assert {name for name, error in found.items() if getattr(dramatiq_clutch, name, None) is not error} == set()
    assert {name for name, error in found.items() if not issubclass(error, ClutchError)} == set()
    tree = re.findall(r"[├└]── (\w+)", str(errors.__doc__))
    assert sorted([*tree, "ClutchError"]) == sorted(found)


def test_a_failed_or_cancelled_run_is_also_dramatiqs_result_failure() -> None:
    status = RunStatus("run", None, "failed", (), (), None, 0, 0)
    failed = RunFailed("it failed", status, (), 1, "ValueError", "no such page")
    cancelled = RunCancelled("it was cancelled")
    assert isinstance(failed, ResultFailure)
    assert isinstance(cancelled, ResultFailure)
    assert (str(failed), failed.orig_exc_type, failed.orig_exc_msg) == ("it failed", "ValueError", "no such page")
    assert (str(cancelled), cancelled.orig_exc_type) == ("it was cancelled", "RunCancelled")
    again = pickle.loads(pickle.dumps(failed))
    assert (type(again), str(again), again.orig_exc_type) == (RunFailed, "it failed", "ValueError")
    assert (again.run_id, again.status, again.failures, again.failure_count) == ("run", status, (), 1)


#: Prints whose modules a program has imported beyond Dramatiq and the standard library. (Lupa's are Cython's, too.)
BEYOND_DRAMATIQ = """
import sys
import dramatiq.brokers.stub
before = set(sys.modules)
{program}
names = {{name.partition(".")[0] for name in set(sys.modules) - before}} - sys.stdlib_module_names
print(sorted(name for name in names if not name.lstrip("_").startswith("cython")))
"""


def outcome_of(program: str) -> str:
    program = BEYOND_DRAMATIQ.format(program=program)
    strict = ("-X", "warn_default_encoding", "-W", "error")  # also against files that are read by the locale's encoding
    command = [sys.executable, *strict, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return done.stdout


@pytest.mark.process
@pytest.mark.parametrize("use", ["ClutchMiddleware()", "Clutch().parallel([])", "RunNotFound", "RunStatus"])
def test_importing_the_package_imports_no_redis_and_no_optional_package(use: str) -> None:
    assert outcome_of(f"from dramatiq_clutch import {use.partition('(')[0]}; {use}") == "['dramatiq_clutch']\n"


#: A whole life in memory: jobs, one that fails and is retried, a nested run, a callback, a status.
IN_MEMORY = """
import dramatiq
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import default_middleware
from dramatiq_clutch import Clutch, ClutchMiddleware, previous_results

# without Dramatiq's own Prometheus, which older releases have by default
broker = StubBroker(middleware=[kind() for kind in default_middleware if kind.__name__ != "Prometheus"])
broker.add_middleware(ClutchMiddleware(sweep_interval=50))
broker.emit_after("process_boot")
dramatiq.set_broker(broker)
tries = []

@dramatiq.actor(min_backoff=1, max_backoff=1)
def job(number):
    tries.append(number)
    if number == 2 and tries.count(2) == 1:
        raise ValueError("the first time")
    return number

@dramatiq.actor
def total():
    return sum(previous_results())

@dramatiq.actor
def heard(status):
    print(status["state"])

worker = dramatiq.Worker(broker, worker_timeout=20)
worker.start()
clutch = Clutch(on_finish=heard).parallel(job.message(1), job.message(2), Clutch().then(job.message(3))).then(total)
run = clutch.run()
assert run.get_result(block=True, timeout=60_000) == 6
assert run.status().state == "succeeded"
broker.join("default")
worker.stop()
"""


@pytest.mark.process
def test_a_clutch_on_a_stub_broker_is_done_without_redis() -> None:
    assert outcome_of(IN_MEMORY) == "succeeded\n['dramatiq_clutch', 'lupa']\n"


def test_equal_handles_are_equal(broker: dramatiq.Broker) -> None:
    run = Clutch().run()
    assert run == Run(run.run_id)
    assert len({run, Run(run.run_id)}) == 1
    assert repr(run) == f"Run({run.run_id!r})"


# What is shown in a debugger or a log


def test_the_repr_of_a_clutch_says_how_many_of_what_it_is_made_of(broker: dramatiq.Broker, jobs: Jobs) -> None:
    job, total = jobs.job, jobs.total
    assert repr(Clutch()) == "Clutch(no stages)"
    assert repr(Clutch().then(job.message("secret"))) == "Clutch(1 stage: then(job))"
    clutch = Clutch(name="nightly", queue="critical", on_failure=job, on_finish="heard").then(total).map(job)
    assert repr(clutch) == (
        "Clutch(name='nightly', queue='critical', on_failure=job, on_finish=heard, 2 stages: then(total), map(job))"
    )
    child = Clutch(name="child").then(job)
    wide = Clutch().parallel([job] * 1_000 + [child, Clutch(), total, total], limit=20)
    stage = "parallel(1,000 of job, Clutch('child'), Clutch, 2 more, limit=20)"
    assert repr(wide) == f"Clutch(1 stage: {stage})"
    assert repr(wide.stages[0]) == f"<Stage {stage}>"
    assert re.fullmatch(
        r"Clutch\(2 stages: parallel\(2 of job\), parallel\([\w.<>]+<lambda>\(\)\)\)",
        repr(Clutch().parallel(job, job).parallel(lambda: [job])),
    )
    both = Clutch().parallel(group([job.message("a")]), pipeline([job.message("a")]))
    assert repr(both) == "Clutch(1 stage: parallel(group, pipeline))"


def test_a_repr_is_short_however_large_the_thing_is(broker: dramatiq.Broker, jobs: Jobs) -> None:
    named = [Clutch(name=f"{n}" * 1_000).then(jobs.job) for n in range(10)]
    long = Clutch(name="n" * 1_000, queue="q" * 1_000, on_failure="f" * 1_000, on_death="d" * 1_000, on_finish="e")
    large: list[Any] = [
        Clutch().parallel(jobs.job.message("x" * 1_000) for _ in range(1_000)),
        Clutch().then(*[jobs.job] * 1_000),
        Clutch().parallel(named),
        Clutch().parallel(named).stages[0],
        long.then(*named),
        Run("r" * 200),
        Run("~1.0" * 1_000),
        ClutchMiddleware(StubBackend(), lease=1, run_ttl=60_000, resend_stalled=True, application="a" * 1_000),
    ]
    assert [len(repr(one)) for one in large if len(repr(one)) > 200] == []
    assert "1,000 stages: then(job), then(job)" in repr(large[1])


def test_the_repr_of_the_middleware_says_what_differs_from_the_defaults() -> None:
    assert repr(ClutchMiddleware()) == "ClutchMiddleware()"
    shown = repr(ClutchMiddleware(StubBackend(), run_ttl=60_000, sweep_interval=None, application="shop"))
    assert shown == "ClutchMiddleware(StubBackend, run_ttl=60_000, sweep_interval=None, application='shop')"
    secret = ClutchMiddleware(RedisBackend(url="redis://:password@localhost"), resend_stalled=True)
    assert repr(secret) == "ClutchMiddleware(RedisBackend, resend_stalled=True)"


# Times

SETTINGS = ["run_ttl", "result_ttl", "lease", "sweep_interval", "stalled_after"]


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("wrong", [0, -1, timedelta(0), timedelta(seconds=-1)], ids=repr)
def test_a_time_that_is_none_is_an_error(name: str, wrong: Any) -> None:
    options: Any = {name: wrong}
    with pytest.raises(ValueError, match=f"{name} is {re.escape(repr(wrong))}; it is a number of milliseconds, or a"):
        ClutchMiddleware(**options)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("wrong", [60_000.0, "1 h", True, Ellipsis], ids=repr)
def test_what_is_not_a_time_is_a_type_error(name: str, wrong: Any) -> None:
    options: Any = {name: wrong}
    with pytest.raises(TypeError, match=f"{name} is {wrong!r}; it takes a whole number of milliseconds, or a datetime"):
        ClutchMiddleware(**options)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_time_is_milliseconds_or_a_timedelta(name: str) -> None:
    for given, number in ((90_000, 90_000), (timedelta(minutes=1.5), 90_000), (timedelta(days=50), 4_320_000_000)):
        options: Any = {name: given}
        assert getattr(ClutchMiddleware(**options), name) == number
    assert ClutchMiddleware(lease=timedelta(microseconds=1)).lease == 1
    assert ClutchMiddleware(sweep_interval=None).sweep_interval is None


def test_a_run_ttl_that_was_meant_as_seconds_is_an_error_that_says_so() -> None:
    meant = r"run_ttl is 3600, .* at least 60_000.* 3600 was meant as seconds, say run_ttl=3_600_000 or timedelta\("
    with pytest.raises(ValueError, match=meant):
        ClutchMiddleware(run_ttl=3600)
    with pytest.raises(ValueError, match=r"run_ttl is datetime\.timedelta\(seconds=59\), .*, or a timedelta$"):
        ClutchMiddleware(run_ttl=timedelta(seconds=59))
    with pytest.raises(ValueError, match="run_ttl is 59999"):
        ClutchMiddleware(run_ttl=59_999)
    assert ClutchMiddleware(run_ttl=timedelta(minutes=1)).run_ttl == 60_000


def test_a_delay_and_a_timeout_are_milliseconds_or_a_timedelta(
    broker: dramatiq.Broker, job: dramatiq.Actor[..., Any]
) -> None:
    clutch = Clutch().then(job.message(1))
    run = clutch.run(delay=timedelta(milliseconds=50))
    with running_worker(broker):
        assert run.get_result(block=True, timeout=timedelta(seconds=PATIENCE)) == [1]
        assert asyncio.run(run.get_result_async(timeout=timedelta(seconds=PATIENCE))) == [1]
    engine, before = engine_of(broker), engine_of(broker).now()
    late = clutch.run(delay=timedelta(days=3))
    start_at = engine.reader.spec(late.run_id, engine.backend.generation(late.run_id) or "").start_at
    assert start_at is not None
    assert start_at - before == pytest.approx(3 * 86_400_000, abs=PATIENCE * 1_000)
    with pytest.raises(ResultTimeout):
        late.get_result(block=True, timeout=timedelta(milliseconds=1))
    for wrong in (1.5, "1"):
        with pytest.raises(TypeError, match=f"timeout is {wrong!r}; it takes a whole number of milliseconds"):
            late.get_result(block=True, timeout=wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=f"delay is {wrong!r}; it takes a whole number of milliseconds"):
            clutch.run(delay=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"timeout is -1; .* and not negative"):
        late.get_result(block=True, timeout=-1)
    with pytest.raises(ValueError, match=r"delay is -1; .* and not negative"):
        clutch.run(delay=-1)


def test_a_stage_is_named_where_it_is_shown(broker: dramatiq.Broker) -> None:
    @dramatiq.actor
    def job(item: Any = None) -> list[int]:
        return []

    clutch = Clutch().then(job, name="load").parallel(job, job, name="two of them").map(job, name="each").then(job)
    assert "then(job, name='load'), parallel(2 of job, name='two of them'), map(job, name='each'), then(job)" in repr(
        clutch
    )
    assert [stage.name for stage in clutch.run().status().stages] == ["load", "two of them", "each", None]
    picture = clutch.to_mermaid()
    assert '|"load"|' in picture
    assert '|"each, map"|' in picture


@pytest.mark.parametrize(
    ("name", "error", "match"),
    [
        ("", ValueError, "1 to 100"),
        ("x" * 101, ValueError, "1 to 100"),
        ("a\nb", ValueError, "printable"),
        ("\ud800", ValueError, "printable"),
        ("load", ValueError, "already"),
        (3, TypeError, "a string"),
    ],
)
def test_a_name_that_cannot_be_a_stages_is_refused(
    broker: dramatiq.Broker, name: Any, error: type[Exception], match: str
) -> None:
    @dramatiq.actor
    def job(item: Any = None) -> None: ...

    begun = Clutch().then(job, name="load")
    for add in (begun.then, begun.parallel, begun.map):
        with pytest.raises(error, match=match):
            add(job, name=name)
    assert Clutch().then(begun).then(job, name="load").stages[-1].name == "load"  # a nested clutch has names of its own


def test_a_name_is_that_of_one_stage(broker: dramatiq.Broker) -> None:
    @dramatiq.actor
    def job() -> None: ...

    for steps in ((), (job, job)):
        with pytest.raises(ValueError, match="one step"):
            Clutch().then(*steps, name="load")


def test_clutches_whose_stages_are_named_otherwise_differ(broker: dramatiq.Broker) -> None:
    @dramatiq.actor
    def job() -> None: ...

    Clutch().then(job, name="load").run(run_id="mine")
    Clutch().then(job, name="load").run(run_id="mine")
    with pytest.raises(RunIdTaken):
        Clutch().then(job).run(run_id="mine")
