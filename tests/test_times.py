"""Keys outlive what is still to come; of what is over, hardly anything stays; and a status never lies."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dramatiq
import pytest
import redis

from dramatiq_clutch import Clutch, Run
from dramatiq_clutch.backend import Record
from dramatiq_clutch.errors import RunNotFound
from tests.conftest import running_worker
from tests.support.application import Application, application
from tests.support.awaiting import PATIENCE, wait_until
from tests.support.jobs import Jobs
from tests.support.keyspace import NAMESPACE, key_of, part_of, run_keys
from tests.support.tags import tag_in

LONG = 60
MONTH = 30 * 86_400_000


@pytest.fixture
def app(redis_client: redis.Redis, short_lives: None) -> Iterator[Application]:
    """Runs live for ten seconds without activity."""
    with application(redis_client, run_ttl=10_000, sweep_interval=None) as app:
        yield app


#: What PTTL answers for a key that isn't there.
GONE = -2


def lives(app: Application, run_id: str) -> dict[str, int]:
    """For how many milliseconds each key of a run will be there."""
    keys = list(app.broker.client.scan_iter(match=f"{NAMESPACE}:{{{run_id}}}:*"))
    assert keys
    found = {part_of(key.decode()): app.broker.client.pttl(key) for key in keys}
    return {part: ttl for part, ttl in found.items() if ttl != GONE}  # an outbox goes with the last that it owes


def shortest(app: Application, run_id: str) -> int:
    return min(lives(app, run_id).values())


# What is still to come


def test_a_run_is_there_when_its_delay_is_over(app: Application) -> None:
    """Also where that is longer than a run lives without activity; and so are those that it is nested in."""
    job = Jobs(app.broker).job.message("a")
    run = Clutch().parallel(job, Clutch().then(Clutch().then(job))).run(delay=MONTH)
    for run_id in (run.run_id, f"{run.run_id}~0.1", f"{run.run_id}~0.1~0.0"):
        assert shortest(app, run_id) >= MONTH
    assert app.broker.client.pttl(app.index_key) >= app.engine.run_ttl


def delayed(jobs: Jobs, milliseconds: int) -> dramatiq.Message[Any]:
    message: dramatiq.Message[Any] = jobs.job.message_with_options(args=("delayed",), delay=milliseconds)
    return message


TO_COME = ["first stage", "later stage", "in a series", "of many", "nested", "nested while running", "again"]
AFTER_A_WAIT = ["after a wait", "after a wait, in a series", "after a wait, nested", "after a wait, mapped"]


@pytest.mark.parametrize("where", [*TO_COME, *AFTER_A_WAIT])
def test_a_run_is_there_when_the_delay_of_a_message_is_over(app: Application, where: str) -> None:
    """Six days: Dramatiq's own brokers take delays of up to a week."""
    days = 6 * 86_400_000
    jobs = Jobs(app.broker)

    @dramatiq.actor(broker=app.broker)
    def nests() -> Run:
        jobs.began.append("nests")
        return Clutch().then(Clutch().then(delayed(jobs, days))).nest()

    first, last = jobs.job.message("first"), jobs.job.message("last")
    waiting = Clutch().then(first).wait(days)
    clutch, below = {
        "after a wait": (waiting.then(last), ""),
        "after a wait, in a series": (Clutch().then(first, first).wait(days).then(last), ""),
        "after a wait, nested": (waiting.then(Clutch().then(Clutch().then(last))), "~1.0~0.0"),
        "after a wait, mapped": (Clutch().parallel(first).wait(days).map(jobs.job.message("last")), ""),
        "in a series": (Clutch().then(first, first, delayed(jobs, days)), ""),
        "first stage": (Clutch().then(delayed(jobs, days)), ""),
        "later stage": (Clutch().then(first, delayed(jobs, days)), ""),
        "of many": (Clutch().parallel(first, delayed(jobs, days)), ""),
        "nested": (Clutch().then(Clutch().then(Clutch().then(delayed(jobs, days)))), "~0.0~0.0"),
        "nested while running": (Clutch().parallel(nests), "~0.0~0.0~0.0"),
        "again": (Clutch().then(delayed(jobs, days)), ""),
    }[where]
    run = clutch.run()
    if where == "again":
        assert run.resend()
    with running_worker(app.broker):
        run_id = run.run_id + below
        wait_until("the message is delayed", lambda: is_delayed(app, run_id), LONG)
        while run_id:
            assert shortest(app, run_id) >= days
            run_id = run_id.rpartition("~")[0]


def is_delayed(app: Application, run_id: str) -> bool:
    """Whether it has a message that is delayed, and owes nothing more: then all has been told to its ancestors."""
    until = app.broker.client.hget(f"{NAMESPACE}:{{{run_id}}}:head", "until")
    outbox = key_of(app.broker.client, run_id, "outbox")
    return bool(until and int(until) > 0 and not app.broker.client.exists(outbox))


@pytest.mark.parametrize("below", ["", "~0.0", "~0.0~0.0"])
def test_a_run_is_there_when_the_backoff_of_a_retry_is_over(app: Application, below: str) -> None:
    days = 6 * 86_400_000  # of which Dramatiq waits for at least half

    @dramatiq.actor(broker=app.broker, min_backoff=days, max_backoff=days)
    def backs_off() -> None:
        raise ValueError("again in some days")

    clutch = Clutch().then(backs_off)
    for _ in range(below.count("~")):
        clutch = Clutch().then(clutch)
    run = clutch.run()
    with running_worker(app.broker):
        run_id = run.run_id + below
        wait_until("it has failed once", lambda: Run(run_id).status().state == "failing", LONG)
        while run_id:
            wait_until(f"{run_id} lives long", lambda run_id=run_id: shortest(app, run_id) > days * 0.49, LONG)  # type: ignore[misc]
            run_id = run_id.rpartition("~")[0]


def test_a_job_that_works_for_longer_than_a_run_lives_succeeds_and_so_do_its_ancestors(
    redis_client: redis.Redis, short_lives: None
) -> None:
    with application(redis_client, run_ttl=1_000) as app:
        jobs = Jobs(app.broker)
        jobs.script["long"] = ["wait", "wait"]
        long = jobs.job.message("long")
        runs = [Clutch().then(long).run(), Clutch().then(Clutch().then(Clutch().then(long))).run()]
        with running_worker(app.broker):
            wait_until("both work", lambda: jobs.began.count("long") == 2, LONG)
            began = time.monotonic()
            wait_until("three times as long", lambda: time.monotonic() - began > 3, LONG)
            jobs.gates["long"].set()
            for run in runs:
                assert run.get_result(block=True, timeout=60_000) == "long"


# Callbacks


@pytest.mark.parametrize("end", ["heard", "dead"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_callback_that_is_retried_later_finds_status_and_result_and_then_the_run_goes(
    redis_client: redis.Redis, end: str, nested: bool
) -> None:
    with application(redis_client, result_ttl=100, history_ttl=None, run_ttl=600_000) as app:
        jobs, found = Jobs(app.broker), list[Any]()
        first: list[float] = []

        @dramatiq.actor(broker=app.broker, min_backoff=1_000, max_backoff=1_000, throws=LookupError)
        def hears(run_id: str, status: dict[str, Any]) -> None:
            first.append(time.monotonic())
            run = Run(status["run_id"])
            found.append((run.status().state, run.get_result()))
            if len(first) == 1:
                raise ValueError("later")
            if end == "dead":
                raise LookupError("for good")

        callback: Any = hears
        inner = Clutch(on_success=callback.message("x")).then(jobs.job.message("a"))
        run = (Clutch().then(inner) if nested else inner).run()
        its_id = f"{run.run_id}~0.0" if nested else run.run_id
        with running_worker(app.broker):
            wait_until("both attempts", lambda: len(found) == 2, LONG)
            assert first[1] - first[0] > 0.3  # the result would be gone by then
            assert found == [("succeeded", "a")] * 2
            wait_until("the run is gone", lambda: is_gone(its_id), LONG)
        assert left(app) <= {
            f"{{{run.run_id}}}:tombstone",
            f"{{{its_id}}}:tombstone",
            f"{{{run.run_id}}}:head",
            f"{{{run.run_id}}}:members:0",
        }


def is_gone(run_id: str) -> bool:
    try:
        Run(run_id).status()
    except RunNotFound:
        return True
    return False


def test_without_callbacks_a_run_goes_after_its_result_ttl(redis_client: redis.Redis) -> None:
    with application(redis_client, result_ttl=200, history_ttl=None) as app:
        run = (
            Clutch(on_finish=Jobs(app.broker).heard.message("root"))
            .then(app.broker.get_actor("job").message("a"))
            .run()
        )
        with running_worker(app.broker):
            wait_until("the run is gone", lambda: is_gone(run.run_id), LONG)
        assert left(app) == {f"{{{run.run_id}}}:tombstone"}


# Leavings


def left(app: Application) -> set[str]:
    return {part_of(key).removeprefix(f"{NAMESPACE}:") for key in run_keys(app.broker.client)}


@pytest.mark.heavy
@pytest.mark.parametrize("heard", [False, True], ids=["without callbacks", "with callbacks"])
def test_of_80_nested_runs_only_their_tombstones_stay(redis_client: redis.Redis, heard: bool) -> None:
    with application(redis_client) as app:
        jobs = Jobs(app.broker)
        callbacks: dict[str, Any] = {"on_success": jobs.heard.message("nested")} if heard else {}
        run = Clutch().then(jobs.several.message("n", 80)).map(Clutch(**callbacks).then(jobs.job.message("a"))).run()
        with running_worker(app.broker, threads=8):
            run.get_result(block=True, timeout=60_000)
            marks = {f"{{{run.run_id}~1.{member}}}:tombstone" for member in range(80)}
            its = {f"{{{run.run_id}}}:{part}" for part in ("head", "tombstone", "members:1")}
            wait_until("nothing else is left", lambda: left(app) == marks | its, LONG)
        assert jobs.fired("nested").count("S") == (80 if heard else 0)


@pytest.mark.parametrize("heard", [False, True], ids=["without callbacks", "with callbacks"])
def test_of_runs_that_jobs_have_nested_only_their_tombstones_stay(redis_client: redis.Redis, heard: bool) -> None:
    with application(redis_client) as app:
        jobs = Jobs(app.broker)

        @dramatiq.actor(broker=app.broker)
        def nests(name: str) -> Run:
            callbacks: dict[str, Any] = {"on_finish": jobs.heard.message("nested")} if heard else {}
            return Clutch(**callbacks).then(jobs.job.message(name)).nest()

        run = Clutch().parallel(nests.message("a") for _ in range(20)).then(jobs.job.message("last")).run()
        with running_worker(app.broker, threads=8):
            run.get_result(block=True, timeout=60_000)
            marks = {f"{{{run.run_id}~0.{member}}}:tombstone" for member in range(20)}
            marks |= {f"{{{run.run_id}~0.{member}~0.0}}:tombstone" for member in range(20)}
            its = {f"{{{run.run_id}}}:{part}" for part in ("head", "tombstone", "members:1")}
            wait_until("nothing else is left", lambda: left(app) == marks | its, LONG)


# A status never lies


@pytest.mark.parametrize("rounds", [10, pytest.param(200, marks=pytest.mark.search)])
def test_a_status_never_says_running_with_all_members_succeeded(make: Callable[..., Any], rounds: int) -> None:
    """Two jobs of the last stage end at the same time, again and again, while others look."""
    with make(sweep_interval=None) as app:
        job, lies, looks = Jobs(app.broker).job.message("a"), list[Any](), list[int]()
        current: list[Run] = []
        done = threading.Event()

        def look() -> None:
            while not done.is_set():
                for run in current[-1:]:
                    status = run.status()
                    (stage,) = status.stages
                    looks.append(1)
                    if status.state != "succeeded" and stage.succeeded == stage.total:
                        lies.append(status)
                    if status.state == "succeeded" and stage.succeeded != stage.total:
                        lies.append(status)

        lookers = [threading.Thread(target=look) for _ in range(2)]
        for one in lookers:
            one.start()
        engine = app.engine
        with ThreadPoolExecutor(2) as pool:
            for _ in range(rounds):
                run = Clutch().parallel(job, job).run()
                current.append(run)
                both = threading.Barrier(2)

                def record(member: int, run: Run = run, both: threading.Barrier = both) -> str:
                    tag = tag_in(app.broker, run, member=member, of=2)
                    caller = engine.caller(tag.owner)._replace(touch=False)
                    both.wait(PATIENCE)
                    return str(engine.backend.record(Record(tag, 0, "succeeded", b"1"), caller).word)

                assert list(pool.map(record, range(2))) == ["counts", "counts"]
                assert run.status().state == "succeeded"
        done.set()
        for one in lookers:
            one.join(30)
        assert not lies
        assert len(looks) > rounds
