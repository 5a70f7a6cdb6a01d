"""The sweeper keeps up and is stopped by nobody; and a run that waits for nothing is noticed."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker

from dramatiq_clutch import Clutch, Run
from dramatiq_clutch.backend import Record
from dramatiq_clutch.errors import BrokerUnavailable, ForeignRun
from dramatiq_clutch.stored.messages import to_row
from dramatiq_clutch.stored.plan import Plan, Spec, StageLine
from tests.conftest import running_worker
from tests.support.application import Application, application
from tests.support.awaiting import wait_until
from tests.support.commands import executed
from tests.support.jobs import Jobs
from tests.support.keyspace import NAMESPACE, key_of, remove_keys
from tests.support.server import Server
from tests.support.tags import tag_in

QUICK = {"stalled_after": 300}
LONG = 60


@pytest.fixture
def app(redis_client: redis.Redis) -> Iterator[Application]:
    with application(redis_client) as app:
        yield app


def abandon(app: Application, *run_ids: str) -> None:
    """Runs whose producer died between the seal and the first message, and whose leases have lapsed."""
    job: dramatiq.Message[Any] = dramatiq.Message("default", "job", ("a",), {}, {})
    app.broker.declare_queue("default")
    engine, row = app.engine, to_row(job)
    long_ago = engine.caller("run:dead")._replace(now=int(time.time() * 1000) - 100 * engine.lease_ms)
    for run_id in run_ids:
        plan = Plan(Spec(generation="0123abcd"), (StageLine(0, 1),), (row,))
        engine.backend.create(run_id, plan, long_ago, run_ttl=600_000, result_ttl=600_000)


# Keeping up

PRODUCER = """
import os, signal, sys
import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq_clutch import Clutch, ClutchMiddleware, clutch
from dramatiq_clutch.backend import Record
from dramatiq_clutch.backends import RedisBackend, RedisCourier

url, namespace, where = sys.argv[1:]
broker = RedisBroker(url=url, namespace=namespace)
backend = RedisBackend(client=broker.client)
broker.add_middleware(ClutchMiddleware(backend, lease=300))
broker.declare_queue("default")
die = lambda *args, **more: os.kill(os.getpid(), signal.SIGKILL)
if where == "before the seal":
    backend.create = die
else:
    RedisCourier.send_and_confirm = die
Clutch(broker=broker).then(dramatiq.Message("default", "job", ("a",), {}, {})).run(run_id="orphan")
"""


def killed_producer(server: Server, app: Application, where: str) -> None:
    """A producer's process that is killed inside `run()`."""
    arguments = [sys.executable, "-c", PRODUCER, server.url, app.broker.namespace, where]
    done = subprocess.run(arguments, cwd=Path(__file__).parents[1], check=False, timeout=LONG)
    assert done.returncode == -9


@contextmanager
def finished_runs(client: redis.Redis, count: int) -> Iterator[None]:
    """What runs leave that have succeeded: a head and a tombstone; nothing in the index."""
    keys = [f"{NAMESPACE}:{{done-{number}}}" for number in range(count)]
    for at in range(0, count, 5_000):
        pipe = client.pipeline(transaction=False)
        for key in keys[at : at + 5_000]:
            pipe.hset(f"{key}:head", mapping={"state": "succeeded", "stage": 0, "stages": 1, "gen": "0123abcd"})
            pipe.pexpire(f"{key}:head", 600_000)
            pipe.psetex(f"{key}:tombstone", 600_000, "done 0123abcd ")
        pipe.execute()
    yield
    for at in range(0, count, 5_000):
        some = keys[at : at + 5_000]
        assert client.unlink(*(f"{key}:{part}" for key in some for part in ("head", "tombstone"))) == 2 * len(some)


@pytest.mark.heavy
@pytest.mark.process
@pytest.mark.parametrize("where", ["before the seal", "before the first message"])
def test_one_sweep_finds_a_producer_killed_in_run_after_10_000_other_runs(
    server: Server, redis_client: redis.Redis, app: Application, where: str
) -> None:
    with finished_runs(redis_client, 10_000):
        find_orphan(server, redis_client, app, where)


def find_orphan(server: Server, redis_client: redis.Redis, app: Application, where: str) -> None:
    at_work, later = Jobs(app.broker), int(time.time() * 1000) + 3_600_000
    redis_client.zadd(app.index_key, {f"at-work-{number}": later for number in range(10_000)})
    redis_client.pexpire(app.index_key, 600_000)

    killed_producer(server, app, where)
    wait_until("its lease to lapse", lambda: app.index()["orphan"] <= time.time() * 1000)

    before = executed(redis_client)
    assert app.sweep() == 1
    assert (executed(redis_client) - before).total() <= 60
    if where == "before the seal":
        assert "orphan" not in app.index()  # nothing was started, and nobody was told that it was
        return
    with running_worker(app.broker):
        assert Run("orphan").get_result(block=True, timeout=60_000) == "a"
    assert at_work.began == ["a"]


@pytest.mark.heavy
def test_a_sweep_goes_on_until_nothing_is_due(redis_client: redis.Redis) -> None:
    with application(redis_client, lease=30_000) as app:
        abandon(app, *(f"abandoned-{number}" for number in range(350)))
        assert app.sweep() == 350
        assert app.broker.client.hlen(f"{app.broker.namespace}:default.msgs") == 350
        assert app.sweep() == 0


@pytest.mark.parametrize("broken", [1, 120])
def test_runs_whose_state_cannot_be_read_stop_nobody(
    redis_client: redis.Redis, broken: int, caplog: pytest.LogCaptureFixture
) -> None:
    """However many they are, and though they come first."""
    with application(redis_client, lease=30_000) as app:
        sweep_beside(app, broken, caplog)


def sweep_beside(app: Application, broken: int, caplog: pytest.LogCaptureFixture) -> None:
    bad = [f"a-bad-{number}" for number in range(broken)]
    abandon(app, *bad, *(f"good-{number}" for number in range(20)))
    for run_id in bad:
        app.broker.client.set(f"{NAMESPACE}:{{{run_id}}}:head", "no hash", px=600_000)
    with caplog.at_level(logging.ERROR):
        assert app.sweep() == broken + 20
    assert app.broker.client.hlen(f"{app.broker.namespace}:default.msgs") == 20
    told = [record.getMessage() for record in caplog.records]
    assert len([text for text in told if "can't look at run a-bad-" in text and "WRONGTYPE" in text]) == broken


def test_runs_that_send_to_a_broken_queue_let_the_others_have_their_turn(redis_client: redis.Redis) -> None:
    """The sweeper can't tell that from a broker that is away, and stops; the next one begins with the others."""
    with application(redis_client, lease=30_000) as app:
        sweep_beside_a_broken_queue(app)


def sweep_beside_a_broken_queue(app: Application) -> None:
    abandon(app, *(f"a-bad-{number}" for number in range(20)), *(f"good-{number}" for number in range(20)))
    row = to_row(dramatiq.Message("broken", "job", ("a",), {}, {}))
    app.broker.declare_queue("broken")
    app.broker.client.set(f"{app.broker.namespace}:broken", "no list", px=600_000)
    for number in range(20):
        key = key_of(app.broker.client, f"a-bad-{number}", "plan")
        app.broker.client.lset(key, 0, row)

    for _ in range(8):
        try:
            app.sweep()
        except BrokerUnavailable:
            continue
    assert app.broker.client.llen(f"{app.broker.namespace}:default") == 20


def test_a_run_that_is_run_again_is_looked_at_as_soon_as_before(make: Callable[..., Any]) -> None:
    """Its first producer was killed, and the second one starts nothing."""
    with make(sweep_interval=None) as app:
        clutch = Clutch().then(Jobs(app.broker).job.message("a"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("dramatiq_clutch.starting.hand_over", lambda *args: None)
            run = clutch.run(run_id="twice")
        assert clutch.run(run_id="twice") == run
        assert app.index()["twice"] <= time.time() * 1000 + max(app.engine.lease_ms, 1_000)


def test_shares_of_leaders_that_never_come_are_looked_for(make: Callable[..., Any]) -> None:
    """Their owner's message may be in a queue that no worker listens to."""
    with make(sweep_interval=None) as app:
        job = Jobs(app.broker).job.message("a")
        run = Clutch().parallel(job for _ in range(1_000)).run()
        assert app.index()[run.run_id] <= time.time() * 1000 + app.engine.lease_ms
        assert app.index()[run.run_id] > 0


def test_another_applications_run_is_not_looked_at_for_ever(redis_client: redis.Redis) -> None:
    with application(redis_client, application="shop") as shop:
        run = Clutch().then(Jobs(shop.broker).job.message("a")).run(run_id="ours")
    with application(redis_client, application="mail", lease=1) as mail:
        Jobs(mail.broker)
        with pytest.raises(ForeignRun):
            Run(run.run_id).cancel()
        with pytest.raises(ForeignRun):
            Clutch().then(mail.broker.get_actor("job").message("a")).run(run_id="ours")
        wait_until("a look at it", lambda: mail.sweep() or not mail.index())
        assert not mail.index()


# The index


def puts_down_meanwhile(app: Application, monkeypatch: pytest.MonkeyPatch) -> int:
    """Have somebody else put a run down each time that one is to be put down in place of an earlier time, just before
    that. Returns for when."""
    backend: Any = app.engine.backend
    works, soon = backend.look_again, int(time.time() * 1000) + 77_777

    def late(run_id: str, at: int | None, *, instead: int | None = None, **more: Any) -> None:
        if instead is not None:
            works(run_id, soon, **more)
        works(run_id, at, instead=instead, **more)

    monkeypatch.setattr(backend, "look_again", late)
    return soon


def test_a_run_that_gets_into_the_index_while_a_strangers_leaves_it_stays_there(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    with application(redis_client, application="shop") as shop:
        run = Clutch().then(Jobs(shop.broker).job.message("a")).run(run_id="ours")
    with application(redis_client, application="mail", sweep_interval=None) as mail:
        mail.engine.look_again(run.run_id, 1)
        soon = puts_down_meanwhile(mail, monkeypatch)
        mail.sweep()
        assert mail.index() == {run.run_id: soon}


@pytest.mark.parametrize("who", ["sweeper", "producer"])
def test_who_puts_off_a_look_leaves_what_others_have_put_down(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """Somebody else may be about to cancel the run, and die before that is done: it has put the run down for this."""
    with make(sweep_interval=None) as app:
        clutch = Clutch().then(Jobs(app.broker).job.message("a"))
        if who == "producer":
            soon = puts_down_meanwhile(app, monkeypatch)
            run = clutch.run()
        else:
            run = clutch.run()
            app.engine.look_again(run.run_id, 1)
            soon = puts_down_meanwhile(app, monkeypatch)
            app.sweep()
        assert app.index() == {run.run_id: soon}


def finished(app: Application, jobs: Jobs, end: str) -> list[Run]:
    """Runs that come to this end while a worker works, with nested ones of both kinds."""

    @dramatiq.actor(broker=app.broker)
    def nests(name: str) -> Run:
        return Clutch(on_finish=jobs.heard.message("nested")).then(jobs.job.message(name)).nest()

    def clutch(name: str) -> Clutch:
        child = Clutch(on_finish=jobs.heard.message("child")).then(jobs.job.message("x"), jobs.job.message(name))
        return (
            Clutch(**jobs.callbacks("root"))
            .parallel(jobs.job.message("y"), child, nests.message(name))
            .then(jobs.job.message("z"))
        )

    jobs.script["ends"] = ["die"] * 10 if end == "failed" else []
    jobs.script["waits"] = ["wait"] * 10
    names = ["waits"] * 2 if end == "cancelled" else ["ends"] * 2
    return [clutch(name).run() for name in names]


def is_swept_clean(app: Application) -> bool:
    """Whether no run is in the index once a sweeper has looked at those that are due, of which it takes some out."""
    app.sweep()
    return not app.index()


@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled"])
def test_nothing_of_a_finished_run_is_in_the_index(make: Callable[..., Any], end: str) -> None:
    with make(sweep_interval=None) as app:
        jobs = Jobs(app.broker)
        with running_worker(app.broker):
            runs = finished(app, jobs, end)
            if end == "cancelled":
                wait_until("the nested jobs to work", lambda: jobs.began.count("waits") >= 4, LONG)
                assert set(app.index()) >= {run.run_id for run in runs}
                assert all(run.cancel() for run in runs)
                jobs.gates["waits"].set()
            for run in runs:
                wait_until(f"it has {end}", lambda run=run: run.status().state == end, LONG)  # type: ignore[misc]
            wait_until("an empty index", lambda: is_swept_clean(app), LONG)
            for run in runs:
                assert not run.cancel()
                assert run.retry() is (end != "succeeded")
                assert not run.resend() or end != "succeeded"


@pytest.mark.parametrize("nested", [False, True])
def test_a_failed_run_that_is_healed_by_hand_is_in_the_index_again(make: Callable[..., Any], nested: bool) -> None:
    with make(sweep_interval=None) as app:
        jobs = Jobs(app.broker)
        dead: list[Any] = []

        class Keeper(dramatiq.Middleware):
            def before_nack(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
                dead.append(message._message.copy())  # noqa: SLF001

        app.broker.add_middleware(Keeper())
        jobs.script |= {"heals": ["die", "ok"], "last": ["wait"]}
        inner = Clutch().then(jobs.job.message("heals"), jobs.job.message("last"))
        run = (Clutch().parallel(inner) if nested else inner).run()
        with running_worker(app.broker):
            wait_until("it has failed", lambda: run.status().state == "failed", LONG)
            wait_until("it is out of the index", lambda: is_swept_clean(app), LONG)

            wait_until("its dead letter", lambda: dead, LONG)
            app.broker.enqueue(dead[0])
            wait_until("it works again", lambda: "last" in jobs.began, LONG)
            ids = {run.run_id, f"{run.run_id}~0.0"} if nested else {run.run_id}
            wait_until("it is in the index again", lambda: set(app.index()) == ids, LONG)
            jobs.gates["last"].set()
            run.get_result(block=True, timeout=60_000)
            wait_until("it is out of the index", lambda: not app.index(), LONG)


# Runs that wait for nothing


def look_times(app: Application, run: Run, times: int) -> None:
    """Wait until a sweeper has looked at a run so often."""
    already = app.sweeps.count(run.run_id)
    wait_until(f"{times} looks", lambda: app.sweeps.count(run.run_id) >= already + times, LONG)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "is stalled" in record.getMessage()]


def without_middleware(app: Application, run: Run, seen: list[str]) -> None:
    """Have a worker that knows nothing of clutches swallow the messages that are queued."""
    other = RedisBroker(client=app.broker.client, namespace=app.broker.namespace)

    @dramatiq.actor(broker=other)
    def job(name: str) -> None:
        seen.append(name)

    with running_worker(other):
        wait_until("it has worked", lambda: seen, LONG)
        wait_until("it has acked", lambda: not app.broker.client.hlen(f"{app.broker.namespace}:default.msgs"), LONG)


def purge(app: Application, run: Run, seen: list[str]) -> None:
    app.broker.flush("default")


def roll_back(app: Application, run: Run, seen: list[str]) -> None:
    """The store fails over to a replica that is some time behind; the broker has gone on."""
    client = app.broker.client
    before = {key: client.dump(key) for key in client.scan_iter(match=f"{NAMESPACE}:*")}
    with running_worker(app.broker):
        run.get_result(block=True, timeout=60_000)
    for key in client.scan_iter(match=f"{NAMESPACE}:*"):
        client.unlink(key)
    for key, value in before.items():
        client.restore(key, 600_000, value)


LOSSES: dict[str, Callable[[Application, Run, list[str]], None]] = {
    "purged": purge,
    "a worker without the middleware": without_middleware,
    "rolled back": roll_back,
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_run_whose_messages_are_gone_is_noticed_told_once_and_cleared_when_something_happens(
    redis_client: redis.Redis, loss: str, caplog: pytest.LogCaptureFixture
) -> None:
    with application(redis_client, **QUICK) as app:
        jobs = Jobs(app.broker)
        began = int(time.time() * 1000)
        run = Clutch().then(jobs.job.message("a")).then(jobs.job.message("b")).run()
        LOSSES[loss](app, run, [])
        with caplog.at_level(logging.WARNING), running_worker(app.broker):
            since: Any = wait_until("it is stalled", lambda: run.status().stalled_since, LONG)
            assert began <= since <= time.time() * 1000
            assert run.status().state == "running"
            look_times(app, run, 3)
            (told,) = warnings(caplog)
            assert run.run_id in told
            assert f"Run({run.run_id!r}).resend()" in told

            jobs.script["b"] = ["wait"]
            assert run.resend()
            wait_until("it goes on", lambda: "b" in jobs.began[-1:], LONG)
            assert run.status().stalled_since is None
            jobs.gates["b"].set()
            assert run.get_result(block=True, timeout=60_000) == "b"


def test_a_run_in_memory_whose_messages_are_purged_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    with application(None, **QUICK) as app:
        run = Clutch().then(Jobs(app.broker).job.message("a")).run()
        app.broker.flush("default")
        with caplog.at_level(logging.WARNING), running_worker(app.broker):
            wait_until("it is stalled", lambda: run.status().stalled_since, LONG)
            look_times(app, run, 3)
            assert len(warnings(caplog)) == 1
            assert run.resend()
            assert run.get_result(block=True, timeout=60_000) == "a"


@pytest.mark.parametrize("loss", LOSSES)
def test_with_resend_stalled_a_run_whose_messages_are_gone_ends_by_itself(redis_client: redis.Redis, loss: str) -> None:
    with application(redis_client, resend_stalled=True, **QUICK) as app:
        jobs = Jobs(app.broker)
        run = Clutch().parallel(jobs.job.message("a"), jobs.job.message("b")).then(jobs.job.message("c")).run()
        LOSSES[loss](app, run, [])
        with running_worker(app.broker):
            assert run.get_result(block=True, timeout=60_000) == "c"


def test_a_stalled_run_whose_finder_died_before_it_sent_anything_ends_by_itself(make: Callable[..., Any]) -> None:
    with make(resend_stalled=True, **QUICK) as app:
        run = Clutch().then(Jobs(app.broker).job.message("a")).run()
        app.broker.flush("default")
        backend, caller = app.engine.backend, app.engine.caller("sweeper")
        found = lambda: backend.sweep(run.run_id, caller, stalled_after=0).word == "stalled"  # noqa: E731
        wait_until("it is found out", found)

        with running_worker(app.broker):
            assert run.get_result(block=True, timeout=60_000) == "a"


def test_a_stalled_run_of_which_one_member_succeeds_is_not_stalled_any_more(make: Callable[..., Any]) -> None:
    """The common case of a success changes nothing but its place: that is enough."""
    with make(**QUICK) as app:
        jobs = Jobs(app.broker)
        run = Clutch().parallel(jobs.job.message(name) for name in "abc").run()
        app.broker.flush("default")
        with running_worker(app.broker):
            wait_until("it is stalled", lambda: run.status().stalled_since, LONG)
        record = Record(tag_in(app.broker, run, of=3), 0, "succeeded", b"1")
        assert app.engine.backend.record(record, app.engine.caller("0.0", touch=False)).word == "counts"
        assert run.status().stalled_since is None


@pytest.mark.heavy
def test_a_delayed_message_a_backoff_and_a_long_job_are_not_stalled(
    make: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    with make(stalled_after=5_000) as app:
        jobs = Jobs(app.broker)

        @dramatiq.actor(broker=app.broker, min_backoff=11_000, max_backoff=11_000)
        def backs_off() -> str:
            jobs.began.append("backs off")
            if jobs.began.count("backs off") == 1:
                raise ValueError("the first time")
            return "done"

        jobs.script["long"] = ["wait", "wait"]
        delayed = jobs.job.message("delayed").copy(options={"delay": 11_000})
        runs = [
            Clutch().then(delayed).run(),
            Clutch().then(jobs.job.message("late")).run(delay=11_000),
            Clutch().then(Clutch().then(delayed)).run(),
            Clutch().then(jobs.job.message("early")).wait(11_000).then(jobs.job.message("later")).run(),
            Clutch().then(Clutch().wait(11_000).then(Clutch().then(jobs.job.message("latest")))).run(),
            Clutch().then(backs_off).run(),
            Clutch().then(jobs.job.message("long")).run(),
            Clutch().then(Clutch().then(jobs.job.message("long"))).run(),
        ]
        with caplog.at_level(logging.WARNING), running_worker(app.broker, threads=8):
            for run in runs[:6]:
                run.get_result(block=True, timeout=60_000)
            for run in runs[6:]:
                look_times(app, run, 6)
            jobs.gates["long"].set()
            for run in runs[6:]:
                run.get_result(block=True, timeout=60_000)
        assert not warnings(caplog)


@pytest.mark.parametrize("mixed", [pytest.param(False, marks=pytest.mark.search), True])
def test_a_parent_of_a_nested_run_that_works_is_not_stalled(
    make: Callable[..., Any], mixed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with make(stalled_after=1_000) as app:
        jobs = Jobs(app.broker)
        jobs.script["long"] = ["wait"]
        child = Clutch().then(jobs.job.message("long"))
        run = Clutch().parallel(child, *([jobs.job.message("a")] if mixed else [])).run()
        with caplog.at_level(logging.WARNING), running_worker(app.broker):
            look_times(app, run, 4)  # twice as long as it takes to be stalled
            jobs.gates["long"].set()
            run.get_result(block=True, timeout=60_000)
        assert not warnings(caplog)


def remove(app: Application, run_id: str) -> None:
    """A run whose keys were removed by hand, or evicted."""
    remove_keys(app.engine.backend, run_id)


@pytest.mark.parametrize("written", [True, False], ids=["written down", "while running"])
def test_a_parent_whose_nested_run_is_gone_is_told_of_it(make: Callable[..., Any], written: bool) -> None:
    with make(**QUICK) as app:
        jobs = Jobs(app.broker)

        @dramatiq.actor(broker=app.broker)
        def nests() -> Run:
            return Clutch().then(jobs.job.message("long")).nest()

        jobs.script["long"] = ["wait"]
        run = Clutch().parallel(Clutch().then(jobs.job.message("long")) if written else nests).run()
        with running_worker(app.broker):
            wait_until("the nested job works", lambda: "long" in jobs.began, LONG)
            remove(app, f"{run.run_id}~0.0")
            jobs.gates["long"].set()
            wait_until("it has failed", lambda: run.status().state == "failed", LONG)
        assert "is gone" in run.status().failures[0].exception_text


def test_in_a_stage_of_jobs_and_runs_what_is_gone_is_told_and_what_is_lost_is_stalled(
    make: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    with make(**QUICK) as app:
        jobs = Jobs(app.broker)
        gone, works = Clutch().then(jobs.job.message("gone")), Clutch().then(jobs.job.message("works"))
        run = Clutch().parallel(jobs.job.message("lost"), gone, works).run()
        app.broker.flush("default")
        remove(app, f"{run.run_id}~0.1")
        with caplog.at_level(logging.WARNING), running_worker(app.broker):
            wait_until("it is stalled", lambda: run.status().stalled_since, LONG)
            wait_until("it is told", lambda: run.status().stages[0].dead == 1, LONG)
            assert run.resend()
            wait_until("it has failed", lambda: run.status().state == "failed", LONG)
        assert run.status().stages[0].dead == 1
        assert "is gone" in run.status().failures[0].exception_text
