"""Packages that Dramatiq's users have beside this one: each with the real thing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import MessageProxy
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import default_middleware

from dramatiq_clutch import Clutch, ClutchMiddleware, NotConfigured, RedisBackend, Run, RunFailed, previous_results
from tests.conftest import running_worker
from tests.support.awaiting import wait_until
from tests.support.jobs import Jobs
from tests.support.server import Server

# dramatiq-abort


@pytest.fixture
def abort(broker: dramatiq.Broker) -> Callable[[str], None]:
    """Aborts the message that was sent last to an actor. What is aborted is kept in memory."""
    package = pytest.importorskip("dramatiq_abort")
    backends = pytest.importorskip("dramatiq_abort.backends.stub")
    middleware = package.Abortable(backend=backends.StubBackend())
    sent: dict[str, str] = {}

    class Notes(dramatiq.Middleware):
        def after_enqueue(self, broker: dramatiq.Broker, message: Any, delay: int | None) -> None:
            sent[message.actor_name] = message.message_id

    broker.add_middleware(middleware)
    broker.add_middleware(Notes())
    return lambda actor: middleware.abort(sent[actor])


def test_a_job_that_is_aborted_while_it_works_is_dead_at_once_though_it_has_retries(
    broker: dramatiq.Broker, jobs: Jobs, abort: Callable[[str], None]
) -> None:
    @dramatiq.actor(broker=broker, max_retries=3, min_backoff=3_600_000)
    def endless() -> None:
        jobs.began.append("endless")
        while not jobs.gates["never"].wait(0.01):
            pass

    run = (
        Clutch(broker=broker, **jobs.callbacks("told"))
        .parallel(endless, jobs.job.message("beside"))
        .then(jobs.total)
        .run()
    )
    with running_worker(broker):
        wait_until("the job to be at work", lambda: "endless" in jobs.began)
        abort("endless")
        with pytest.raises(RunFailed, match="Abort"):
            run.get_result(block=True)
    (failure,) = run.status().failures
    assert (failure.actor, failure.exception_type, failure.attempts) == ("endless", "Abort", 1)
    assert run.status().stages[0].dead == 1
    assert "total" not in jobs.began


def test_a_job_that_is_aborted_before_it_began_is_dead_and_says_so(
    broker: dramatiq.Broker, jobs: Jobs, abort: Callable[[str], None]
) -> None:
    run = Clutch(broker=broker).then(jobs.job.message("first")).then(jobs.total).run()
    abort("job")
    with running_worker(broker), pytest.raises(RunFailed, match="was aborted before it began"):
        run.get_result(block=True)
    assert jobs.began == []
    assert run.status().failure_counts == {"Aborted": 1}


@pytest.mark.usefixtures("abort")
def test_a_skip_of_another_middleware_is_still_a_success(broker: dramatiq.Broker, jobs: Jobs) -> None:
    class Skips(dramatiq.Middleware):
        def before_process_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
            raise dramatiq.middleware.SkipMessage("not today")

    broker.add_middleware(Skips())
    run = Clutch(broker=broker).then(jobs.job.message("first")).run()
    with running_worker(broker):
        assert run.get_result(block=True) is None


# flask-dramatiq


def test_actors_of_flask_dramatiq_are_steps_and_callbacks_once_the_application_is_set_up(
    server: Server, redis_client: Any
) -> None:
    flask, package = pytest.importorskip("flask"), pytest.importorskip("flask_dramatiq")
    extension = package.Dramatiq(middleware=[*(one() for one in default_middleware), ClutchMiddleware()])
    told: list[dict[str, Any]] = []

    @extension.actor  # type: ignore[untyped-decorator]
    def text() -> str:
        return str(flask.current_app.name)

    @extension.actor  # type: ignore[untyped-decorator]
    def shout(text: str) -> str:
        return text.upper()

    @extension.actor  # type: ignore[untyped-decorator]
    def tell(status: dict[str, Any]) -> None:
        told.append(status)

    with pytest.raises(TypeError, match=r"then\(\) takes"):
        Clutch().then(text)  # nobody knows yet which broker it is for

    application = flask.Flask("shop")
    application.config |= {"DRAMATIQ_BROKER": "dramatiq.brokers.redis:RedisBroker", "DRAMATIQ_BROKER_URL": server.url}
    extension.init_app(application)
    broker = extension.broker
    with running_worker(broker):
        run = Clutch(broker=broker, on_success=tell).then(text).then(shout, pipe=True).run()
        assert run.get_result(block=True) == "SHOP"
        wait_until("the callback", lambda: [one["event"] for one in told] == ["on_success"])
    broker.close()


# Schedulers. What they do when the time has come is to send an actor's message, with options of their own.


def test_jobs_of_periodiq_start_runs_and_are_steps_of_clutches(broker: dramatiq.Broker, jobs: Jobs) -> None:
    periodiq = pytest.importorskip("periodiq")
    broker.add_middleware(periodiq.PeriodiqMiddleware())
    results: list[Any] = []

    @dramatiq.actor(broker=broker, periodic=periodiq.cron("0 3 * * *"))
    def nightly() -> None:
        results.append(Clutch(broker=broker).then(jobs.job.message("a")).then(jobs.total).run(run_id="nightly"))

    @dramatiq.actor(broker=broker, periodic=periodiq.cron("0 4 * * *"))
    def in_a_clutch() -> str:
        return "a step, too"

    with running_worker(broker):
        nightly.send_with_options(scheduled_at=datetime.now(timezone.utc).isoformat())
        wait_until("the run to be started", lambda: results)
        assert results[0].get_result(block=True) == ["a"]
        assert Clutch(broker=broker).then(in_a_clutch).run().get_result(block=True) == "a step, too"


def test_what_dramatiq_crontab_sends_starts_one_run_however_often_it_is_time(
    broker: dramatiq.Broker, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its scheduler, which can't be started twice in a process, is asked for what it would call."""
    monkeypatch.setattr("django.utils.timezone.get_default_timezone", lambda: timezone.utc)  # it has no settings here
    package = pytest.importorskip("dramatiq_crontab")
    started: list[bool | None] = []

    @package.cron("0 3 * * *")  # type: ignore[untyped-decorator]
    @dramatiq.actor(broker=broker)
    def nightly() -> None:
        clutch = Clutch(broker=broker).then(jobs.job.message("a")).then(jobs.total)
        started.append(clutch.run(run_id="nightly").started)

    (due,) = package.scheduler.get_jobs()
    due.remove()
    with running_worker(broker):
        for _ in range(2):
            due.func(*due.args, **due.kwargs)
        wait_until("it to have worked twice", lambda: len(started) == 2)
        assert Run("nightly", broker=broker).get_result(block=True) == ["a"]
    assert set(started) == {False, True}


# Brokers that can't carry runs


def test_an_eager_broker_is_refused_by_run() -> None:
    package = pytest.importorskip("dramatiq_eager_broker")
    broker = package.EagerBroker([one() for one in default_middleware])
    broker.add_middleware(ClutchMiddleware())

    @dramatiq.actor(broker=broker)
    def job() -> int:
        return 1

    with pytest.raises(NotConfigured, match=r"EagerBroker .* acks none.*stubbed"):
        Clutch(broker=broker).then(job).run()


class WorksInside(StubBroker):
    """A broker of one's own for tests that does the same, by calling hooks and actor itself."""

    swallows = False

    def enqueue(self, message: dramatiq.Message[Any], *, delay: int | None = None) -> dramatiq.Message[Any]:
        proxy = MessageProxy(message)
        try:
            self.emit_before("process_message", proxy)
            result = self.get_actor(message.actor_name)(*message.args)
            self.emit_after("process_message", proxy, result=result)
        except Exception:
            if not self.swallows:
                raise
        return message


@pytest.mark.parametrize("swallows", [False, True])
def test_a_run_on_a_broker_that_works_where_it_enqueues_fails_at_once_and_says_why(swallows: bool) -> None:
    broker = WorksInside()
    broker.swallows = swallows
    broker.add_middleware(ClutchMiddleware())
    worked: list[str] = []

    @dramatiq.actor(broker=broker)
    def job(name: str) -> None:
        worked.append(name)

    run = Clutch(broker=broker).then(job.message("in a clutch")).run()
    with pytest.raises(RunFailed, match=r"NotConfigured: WorksInside .* acks none.*stubbed"):
        run.get_result(block=True)
    job.send("by itself")
    assert worked == ["by itself"]


# Clients


def test_clients_that_are_not_redis_pys_are_refused_where_they_are_given() -> None:
    valkey = pytest.importorskip("valkey")
    with pytest.raises(TypeError, match=r"redis\.Redis.*not valkey\.client\.Valkey"):
        RedisBackend(client=valkey.Valkey())
    with pytest.raises(TypeError, match=r"isn't for coroutines.*redis\.asyncio"):
        RedisBackend(client=redis.asyncio.Redis())  # type: ignore[arg-type]


def test_clients_that_decode_what_is_stored_are_refused_where_they_are_given() -> None:
    with pytest.raises(ValueError, match="make it without decode_responses=True"):
        RedisBackend(client=redis.Redis(decode_responses=True))
    with pytest.raises(ValueError, match="make it without decode_responses=True"):
        RedisBackend(url="redis://127.0.0.1:6379?decode_responses=True")


def test_a_broker_with_a_client_of_valkey_py_works_with_a_backend_of_its_own(
    server: Server, redis_client: redis.Redis
) -> None:
    valkey = pytest.importorskip("valkey")
    broker = RedisBroker(client=valkey.Valkey.from_url(server.url))
    broker.add_middleware(ClutchMiddleware(RedisBackend(url=server.url)))

    @dramatiq.actor(broker=broker)
    def number(value: int) -> int:
        return value

    @dramatiq.actor(broker=broker)
    def total() -> int:
        return sum(previous_results())

    with running_worker(broker):
        run = Clutch(broker=broker).parallel(number.message(one) for one in range(5)).then(total).run()
        assert run.get_result(block=True) == 10
    broker.close()

    other = RedisBroker(client=valkey.Valkey.from_url(server.url))
    other.add_middleware(ClutchMiddleware())
    with pytest.raises(TypeError, match="or a client of redis-py to the RedisBroker"):
        Clutch(broker=other).then(number.message(1)).run()
    other.close()


def test_fakeredis_keeps_runs(stub_broker: StubBroker) -> None:
    """In one process, where it can run scripts (its extra `lua`)."""
    fakeredis = pytest.importorskip("fakeredis")
    broker = StubBroker()
    broker.add_middleware(ClutchMiddleware(RedisBackend(client=fakeredis.FakeRedis())))
    jobs = Jobs(broker)
    with running_worker(broker):
        run = Clutch(broker=broker).parallel(jobs.job.message(name) for name in "abc").then(jobs.total).run()
        assert run.get_result(block=True) == ["a", "b", "c"]
    broker.close()


class Old(redis.Redis):
    """A client whose server says that it is an old one."""

    def info(self, section: str | None = None, *args: str, **kwargs: Any) -> Any:
        return {"redis_version": "6.0.16"}


class Older(redis.Redis):
    """One whose server doesn't know what redis-py begins with from its release 8 on, as Redis 5."""

    def info(self, section: str | None = None, *args: str, **kwargs: Any) -> Any:
        raise redis.ResponseError("unknown command `HELLO`, with args beginning with: `3`, ")


@pytest.mark.parametrize(("kind", "told"), [(Old, r"version 6\.0\.16"), (Older, "doesn't know HELLO")])
def test_a_worker_does_not_boot_with_a_server_that_is_too_old(
    server: Server, redis_client: redis.Redis, kind: type[redis.Redis], told: str
) -> None:
    broker = StubBroker()
    broker.add_middleware(ClutchMiddleware(RedisBackend(client=kind.from_url(server.url))))
    with pytest.raises(NotConfigured, match=f"{told}.*Use Redis 6\\.2"), running_worker(broker):
        pass
    broker.close()
