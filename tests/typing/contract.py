"""The public names, as a type checker sees them. Checked by mypy with the rest of the project, and never run: a line
marked with an ignored error must be one, or the ignore is unused, which is an error as well."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any

import dramatiq
import redis
from dramatiq import group, pipeline
from typing_extensions import assert_type

from dramatiq_clutch import (
    CallbackStatus,
    Clutch,
    ClutchError,
    ClutchMiddleware,
    JobFailure,
    Member,
    MemberPage,
    OutcomeUnknown,
    RedisBackend,
    Run,
    RunFailed,
    RunOutcome,
    RunPage,
    RunSelection,
    RunStatus,
    RunSummary,
    StageStatus,
    StubBackend,
    count_runs,
    current_run,
    iter_previous_results,
    previous_failures,
    previous_results,
    runs,
    select_runs,
    with_result,
)
from dramatiq_clutch.testing import ClutchBroker, FakeJob, job, run_to_end, stubbed


@dramatiq.actor
def plain(number: int) -> int:
    return number


@dramatiq.actor
async def coroutine() -> None: ...


class Generic(dramatiq.GenericActor):
    def perform(self) -> None: ...


@dramatiq.actor
def alert(status: dict[str, Any]) -> None: ...


@dramatiq.actor
def transform(what: str, text: str, *, language: str = "en") -> str:
    return what


@dramatiq.actor
async def notify(who: str, status: dict[str, Any]) -> None: ...


def what_gets_more_arguments_later() -> None:
    clutch = Clutch(on_failure=partial(notify, "ops"), on_death=notify.message("ops", {}))
    Clutch(on_failed=[alert, partial(notify, "ops"), "alert"], on_finish=(alert, Generic), on_death=[])
    alerts = [alert, alert]
    Clutch(on_failed=alerts)
    Clutch(on_failed=[alert, 3])  # type: ignore[list-item]
    Clutch(on_success=with_result(partial(notify, "ops")), callback_queue="alerts")
    Clutch(on_success=[alert, with_result("alert"), with_result(notify)])
    Clutch(on_finish=with_result(alert))  # type: ignore[arg-type]
    with_result(3)  # type: ignore[arg-type]
    assert_type(clutch.then(plain).then(partial(transform, "facts"), pipe=True), Clutch[str])
    assert_type(clutch.then(plain).map(partial(transform, "facts", language="de")), Clutch[list[str]])
    assert_type(clutch.parallel(partial(plain, 1), partial(plain, 2)), Clutch[list[int]])
    assert_type(clutch.parallel(partial(plain, number) for number in range(3)), Clutch[list[int]])
    assert_type(clutch.then(plain, partial(transform, "facts"), plain.message(1), pipe=True), Clutch)
    assert_type(clutch.then(plain).then(partial(transform, "facts"), pipe="text"), Clutch[str])
    assert_type(clutch.then(plain).parallel(partial(transform, "facts"), pipe="text"), Clutch[list[str]])
    assert_type(clutch.then(plain).map(partial(transform, "facts"), into="text"), Clutch[list[str]])
    assert_type(clutch.then(plain).map(Clutch().map(plain).then(plain, pipe=True)), Clutch[list[int]])
    clutch.map(plain, into=True)  # type: ignore[call-overload]
    clutch.then(transform.message("facts"), pipe=True)  # type: ignore[call-arg, arg-type]
    clutch.then(partial(transform, 3), pipe=True)  # type: ignore[arg-type]
    clutch.then(partial(transform, nowhere="facts"), pipe=True)  # type: ignore[call-arg, arg-type]


def the_builder() -> None:
    clutch = Clutch(
        queue="q", on_failure=alert, on_death="alert", on_success=Generic, on_failed="alert", on_finish=None, name="n"
    )
    assert_type(clutch, Clutch)
    assert_type(clutch.then(plain, plain.message(1), coroutine, Generic, clutch, pipe=True), Clutch)
    assert_type(clutch.then(pipeline([plain.message(1)]), group([plain.message(1)])), Clutch)
    assert_type(clutch.parallel(plain, clutch.then(plain), pipe=True, allow_failures=True), Clutch[list[int | None]])
    assert_type(clutch.parallel(plain.message(number) for number in range(3)), Clutch[list[int]])
    assert_type(clutch.parallel([clutch, plain]), Clutch[list[Any]])
    assert_type(clutch.map(plain, allow_failures=True), Clutch[list[int | None]])
    assert_type(Clutch(timings=True), Clutch)
    Clutch(timings="yes")  # type: ignore[arg-type]
    assert_type(Clutch(fail_fast=True, deadline=timedelta(hours=1)).then(plain, deadline=60_000), Clutch[int])
    assert_type(clutch.parallel(plain, allow_failures=0.1, fail_fast=True, deadline=60_000), Clutch[list[int | None]])
    assert_type(
        clutch.map(plain, enough=3, limit=5, fail_fast=False, deadline=timedelta(minutes=1)), Clutch[list[int | None]]
    )
    clutch.parallel(plain, allow_failures="all")  # type: ignore[call-overload]
    named = clutch.then(plain, name="a").parallel(plain, name="b").map(plain, name="c")
    assert_type(named, Clutch[list[int]])
    assert_type(clutch.run(delay=1_000, run_id="mine"), Run)
    assert_type(clutch.run(delay=timedelta(minutes=1)), Run)
    assert_type(clutch.then(plain).wait(1_000).wait(timedelta(hours=1)).then(plain), Clutch[int])
    assert_type(Clutch(context={"tenant": 7}).run(context={"a": [1]}, tags=["nightly"], args="2026-11-28"), Run)
    assert_type(clutch.nest(), Run)
    assert_type(clutch.to_mermaid(), str)


def what_is_not_a_step() -> None:
    clutch = Clutch()
    clutch.then("x")  # type: ignore[call-overload]
    clutch.then(3)  # type: ignore[call-overload]
    clutch.then(None)  # type: ignore[call-overload]
    clutch.then([plain])  # type: ignore[call-overload]
    clutch.map("x")  # type: ignore[call-overload]
    clutch.parallel([1, 2])  # type: ignore[list-item]
    Clutch("critical")  # type: ignore[call-arg]
    Clutch(on_failure=3)  # type: ignore[arg-type]
    Clutch(context=[1])  # type: ignore[arg-type]
    clutch.run(tags=3)  # type: ignore[arg-type]
    clutch.wait(0.5)  # type: ignore[arg-type]
    clutch.queue = "other"  # type: ignore[misc]
    clutch.run(1_000)  # type: ignore[call-arg]


async def the_run() -> None:
    run = Run("id", broker=None)
    assert_type(run.run_id, str)
    status = run.status()
    assert_type(status, RunStatus)
    assert_type(status.stages, tuple[StageStatus, ...])
    assert_type(status.failures, tuple[JobFailure, ...])
    assert_type(status.tags, tuple[str, ...])
    assert_type(run.context, Mapping[str, Any])
    assert_type(status.to_dict(), dict[str, Any])
    assert_type(status.progress, float)
    assert_type(status.parent, str | None)
    assert_type(status.root, str | None)
    assert_type(status.stages[0].skipped, int)
    assert_type(status.stages[0].pending, int)
    assert_type(run.get_result(block=True, timeout=60_000), Any)
    assert_type(await run.get_result_async(timeout=60_000), Any)
    assert_type(run.get_result(block=True, timeout=timedelta(minutes=1)), Any)
    assert_type(await run.get_result_async(timeout=timedelta(minutes=1)), Any)
    assert_type(await run.status_async(), RunStatus)
    assert_type(await run.partial_results_async(stage=0), dict[int, Any])
    assert_type(await run.cancel_async(), bool)
    assert_type(await run.retry_async(), bool)
    assert_type(await run.resend_async(), bool)
    assert_type(await Clutch().run_async(delay=1_000, run_id="mine"), Run)
    await Clutch().run_async(1_000)  # type: ignore[call-arg]
    await Clutch().run_async(nowhere=1)  # type: ignore[call-arg]
    assert_type(run.cancel(), bool)
    assert_type(run.retry(), bool)
    assert_type(run.resend(), bool)
    assert_type(current_run(), Run | None)
    assert_type(previous_results(), list[Any])
    assert_type(previous_failures(), list[JobFailure])
    assert_type(previous_failures(stage=0), list[JobFailure])
    assert_type(previous_results(stage="load"), list[Any])
    assert_type(iter_previous_results(stage=1), Iterator[Any])
    assert_type(run.iter_results(), Iterator[Any])
    assert_type(run.partial_results(stage="load"), dict[int, Any])
    assert_type(status.failure_counts, Mapping[str, int])
    assert_type(status.failures[0].failed_at, int | None)
    assert_type(status.failures[0].allowed, bool)
    assert_type(status.stages[0].name, str | None)
    assert_type(status.stages[0].next_attempt, int | None)
    assert_type(status.stages[0].released, int | None)
    assert_type(status.stages[0].began, int | None)
    assert_type(status.stages[0].settled, int | None)
    assert_type(status.stages[0].waited, float | None)
    assert_type(status.stages[0].duration, float | None)
    assert_type(status.ended, int | None)
    assert_type(status.duration, float | None)
    run.get_result(True)  # type: ignore[call-arg]


def looking_through_runs(broker: dramatiq.Broker) -> None:
    page = runs(state="failed", name="nightly", tag="eu", since=timedelta(days=1), limit=10)
    assert_type(page, RunPage)
    assert_type(page.cursor, str | None)
    for run in runs(broker=broker, since=datetime.now(timezone.utc), cursor=page.cursor):
        assert_type(run, RunSummary)
        assert_type(run.progress, float)
        assert_type(run.ended, int | None)
    assert_type(runs(parent="nightly").runs, tuple[RunSummary, ...])
    assert_type(count_runs(), dict[str, int])
    assert_type(Run("nightly").children(limit=10).cursor, str | None)
    assert_type(Run("nightly").parent, Run | None)
    for status in Run("nightly").watch():
        assert_type(status, RunStatus)
    assert_type(Run("nightly").follow(), RunStatus)
    callbacks = Run("nightly").callbacks()
    assert_type(callbacks, tuple[CallbackStatus, ...])
    assert_type(callbacks[0].sent, int | None)
    assert_type(callbacks[0].to_dict(), dict[str, Any])
    members = Run("nightly").members(stage="load", state="dead", limit=10)
    assert_type(members, MemberPage)
    assert_type(members.cursor, str | None)
    assert_type(members.to_dict(), dict[str, Any])
    for member in members:
        assert_type(member, Member)
        assert_type(member.error, JobFailure | None)
        assert_type(member.retry_at, int | None)
    assert_type(page.to_dict(), dict[str, Any])
    Run("nightly").members(state="lost")  # type: ignore[arg-type]
    runs(state="lost")  # type: ignore[arg-type]
    runs(status="failed")  # type: ignore[call-arg]
    ClutchMiddleware(history_ttl=timedelta(days=30), history_max=100_000)
    ClutchMiddleware(history_ttl=None)


def steering_many_runs(broker: dramatiq.Broker) -> None:
    found = select_runs(broker=broker, state="failed", tag="eu", before=timedelta(days=1))
    assert_type(found, RunSelection)
    assert_type(found.count(up_to=100), int)
    for outcome in found.retry(from_stage="load"):
        assert_type(outcome, RunOutcome)
        assert_type(outcome.error, Exception | None)
        found.delete(cursor=outcome.cursor)
    select_runs(state="lost")  # type: ignore[arg-type]
    select_runs(parent="nightly")  # type: ignore[call-arg]


async def steering_them_in_a_coroutine() -> None:
    async for outcome in select_runs(everything=True).cancel():
        assert_type(outcome.done, bool)


def the_errors(clutch: Clutch) -> None:
    try:
        clutch.run().get_result(block=True)
    except OutcomeUnknown as error:
        assert_type(error.run_id, str)
    except RunFailed as error:
        assert_type(error.args, tuple[Any, ...])
        assert_type(error.run_id, str)
        assert_type(error.status, RunStatus)
        assert_type(error.failures, tuple[JobFailure, ...])
        assert_type(error.failure_count, int)
        caught: list[ClutchError] = [error]
        assert_type(caught, list[ClutchError])


def the_tests(broker: ClutchBroker) -> None:
    with job(previous_results=[1, ValueError()], run_id="r", name="n") as played:
        assert_type(played, FakeJob)
        assert_type(played.run, Run)
        assert_type(played.nested, list[Clutch])
    with stubbed(broker) as stub:
        assert_type(stub, ClutchBroker)
        assert_type(stub.backend, StubBackend)
    assert_type(run_to_end(Clutch(), timeout=timedelta(minutes=1)), Any)
    assert_type(run_to_end(Run("id")), Any)
    broker.advance(timedelta(minutes=1))
    broker.work(timeout=1_000)
    job([1, 2])  # type: ignore[call-arg]


def the_middleware(client: redis.Redis) -> None:
    ClutchMiddleware()
    ClutchMiddleware(StubBackend(), run_ttl=60_000, result_ttl=1, lease=1, sweep_interval=None)
    hour = timedelta(hours=1)
    ClutchMiddleware(run_ttl=hour, result_ttl=hour, lease=hour, sweep_interval=hour, stalled_after=hour)
    ClutchMiddleware(run_ttl=0.5)  # type: ignore[arg-type]
    ClutchMiddleware(run_ttl="an hour")  # type: ignore[arg-type]
    StubBackend().clock.advance(hour)
    ClutchMiddleware(RedisBackend(client=client, namespace="n"))
    ClutchMiddleware(RedisBackend(url="redis://localhost", encoder=dramatiq.JSONEncoder(), max_connections=4))
    ClutchMiddleware(on_failed="alert", on_success=[alert, with_result(notify)], on_death=(), callback_queue="alerts")
    ClutchMiddleware(on_failed=3)  # type: ignore[arg-type]
    ClutchMiddleware("redis://localhost")  # type: ignore[arg-type]
