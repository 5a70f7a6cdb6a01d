"""Whose a run is, and whose a message is: of one application, of one generation of a run, of one place in it."""

from __future__ import annotations

import importlib
import logging
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import Message
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import CurrentMessage
from dramatiq.results import Results
from dramatiq.results.backends import StubBackend as StubResults

from dramatiq_clutch import Clutch, ClutchMiddleware, Run, current_run
from dramatiq_clutch.backends import RedisBackend, StubBackend
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.errors import ForeignRun, RunFailed, RunIdTaken
from dramatiq_clutch.handover import report_gone
from dramatiq_clutch.handover.members import job_message
from dramatiq_clutch.stored.messages import to_row
from dramatiq_clutch.stored.places import Tag, tag_of
from dramatiq_clutch.stored.plan import Plan, Spec, StageLine
from tests.conftest import running_worker
from tests.support.awaiting import wait_until
from tests.support.jobs import Jobs
from tests.support.keyspace import clutch_keys, remove_keys
from tests.support.messages import dead_letters, on_their_way
from tests.support.server import Server

LONG = 60.0
LONG_MS = 60_000


def ours_of(broker: dramatiq.Broker) -> ClutchMiddleware:
    (ours,) = [known for known in broker.middleware if isinstance(known, ClutchMiddleware)]
    return ours


@contextmanager
def application(server: Server, namespace: str, middleware: ClutchMiddleware | None = None) -> Iterator[RedisBroker]:
    """A broker of its own on the shared server, as an application sets it up."""
    with server.client() as client:
        broker = RedisBroker(client=client, namespace=namespace)
        broker.add_middleware(middleware or ClutchMiddleware())
        broker.emit_after("process_boot")
        yield broker
        broker.close()


def greeter(broker: dramatiq.Broker, name: str) -> Any:
    """An actor that every application has under the same name, and that does something else in each."""

    @dramatiq.actor(broker=broker, actor_name="greet")
    def greet(who: str) -> str:
        return f"{name} greets {who}"

    return greet


def abandon(broker: dramatiq.Broker, message: Message[Any], run_id: str) -> Run:
    """A run whose producer died between the seal and the first message; its lease has lapsed."""
    engine = engine_of(broker)
    caller = engine.caller("run:dead")
    long_ago = caller._replace(now=caller.now - 10 * engine.lease_ms)
    plan = Plan(Spec(), (StageLine(0, 1),), (to_row(message),))
    engine.backend.create(run_id, plan, long_ago, run_ttl=60_000, result_ttl=60_000)
    return Run(run_id, broker=broker)


# Two applications in one Redis


def test_the_namespace_of_the_state_follows_the_brokers(redis_client: redis.Redis, server: Server) -> None:
    for namespace in ("shop", "mail", "dramatiq"):
        with application(server, namespace) as broker:
            Clutch(broker=broker).then(greeter(broker, namespace).message("you")).run(run_id="one")
        assert clutch_keys(redis_client, f"{namespace}-clutch")
    assert RedisBackend(client=redis_client).namespace == "dramatiq-clutch"


def test_two_applications_on_one_server_each_get_their_own_run(redis_client: redis.Redis, server: Server) -> None:
    with application(server, "shop") as shop, application(server, "mail") as mail:
        runs = [
            Clutch(broker=broker).then(greeter(broker, name).message("you")).run(run_id="daily")
            for broker, name in ((shop, "shop"), (mail, "mail"))
        ]
        with running_worker(shop), running_worker(mail):
            results = [run.get_result(block=True, timeout=LONG_MS) for run in runs]
    assert results == ["shop greets you", "mail greets you"]


def test_a_sweeper_sends_nothing_of_another_application(redis_client: redis.Redis, server: Server) -> None:
    with application(server, "shop") as shop, application(server, "mail") as mail:
        greet, other = greeter(shop, "shop"), greeter(mail, "mail")
        assert greet.actor_name == other.actor_name
        run = abandon(shop, greet.message("you"), "abandoned")
        assert ours_of(mail).sweep(mail) == 0
        assert redis_client.llen("mail:default") == redis_client.llen("shop:default") == 0
        assert ours_of(shop).sweep(shop) == 1
        assert (redis_client.llen("shop:default"), redis_client.llen("mail:default")) == (1, 0)
        with running_worker(shop):
            assert run.get_result(block=True, timeout=LONG_MS) == "shop greets you"


@contextmanager
def sharing(kind: str, server: Server) -> Iterator[tuple[dramatiq.Broker, dramatiq.Broker]]:
    """Two applications that share one explicit backend: by their brokers' namespaces, or by what they are given."""
    with ExitStack() as stack, server.client() as client:
        if kind == "namespaces":
            shop, mail = (
                stack.enter_context(
                    application(server, name, ClutchMiddleware(RedisBackend(client=client, namespace="shared-clutch")))
                )
                for name in ("shop", "mail")
            )
            yield shop, mail
            return
        backend = StubBackend() if kind == "memory" else RedisBackend(client=client, namespace="shared-clutch")
        brokers = StubBroker(), StubBroker()
        for broker, name in zip(brokers, ("shop", "mail"), strict=True):
            broker.add_middleware(ClutchMiddleware(backend, application=name))
            broker.emit_after("process_boot")
            stack.callback(broker.close)
            stack.callback(broker.flush_all)
        yield brokers


@pytest.fixture(params=["namespaces", "given", pytest.param("memory", marks=pytest.mark.twice)])
def shared(
    request: pytest.FixtureRequest, redis_client: redis.Redis, server: Server
) -> Iterator[tuple[dramatiq.Broker, dramatiq.Broker]]:
    with sharing(request.param, server) as brokers:
        yield brokers


Pair = tuple[dramatiq.Broker, dramatiq.Broker]


def test_a_run_of_another_application_is_neither_joined_nor_changed(shared: Pair) -> None:
    shop, mail = shared
    greet, other = greeter(shop, "shop"), greeter(mail, "mail")
    run = Clutch(broker=shop).then(greet.message("you")).run(run_id="daily")
    foreign = Run("daily", broker=mail)
    says = "run 'daily' belongs to the application 'shop', and this is the application 'mail'.*namespace=.*application="
    for change in (
        lambda: Clutch(broker=mail).then(other.message("you")).run(run_id="daily"),
        lambda: Clutch(broker=mail).then(other.message("somebody else")).run(run_id="daily"),
        foreign.retry,
        foreign.cancel,
        foreign.resend,
    ):
        with pytest.raises(ForeignRun, match=says):
            change()
    assert foreign.status().state == "running"
    with running_worker(mail), running_worker(shop):
        assert run.get_result(block=True, timeout=LONG_MS) == "shop greets you"
    assert foreign.status().state == "succeeded"


def test_the_id_of_a_finished_run_is_still_another_applications(shared: Pair) -> None:
    """Of a finished run only a tombstone is left in the end; that is the application's, too."""
    shop, mail = shared
    for broker in shared:  # such a short time to live that the status is gone at once
        ours_of(broker).result_ttl, ours_of(broker).history_ttl = 1, 0
    greet, other = greeter(shop, "shop"), greeter(mail, "mail")
    clutch = Clutch(broker=shop).then(greet.message("you"))
    clutch.run(run_id="daily")
    with running_worker(shop):
        wait_until("it to be over", lambda: engine_of(shop).backend.at_rest(["daily"]) == [True], timeout=LONG)
    wait_until("nothing more to be owed", lambda: ours_of(shop).sweep(shop) == 0, timeout=LONG)
    backend = engine_of(shop).backend
    wait_until("its status to expire", lambda: backend.snapshot("daily") is None, timeout=LONG)
    assert clutch.run(run_id="daily") == Run("daily")
    with pytest.raises(RunIdTaken):
        Clutch(broker=shop).then(greet.message("somebody else")).run(run_id="daily")
    with pytest.raises(ForeignRun, match="belongs to the application 'shop'"):
        Clutch(broker=mail).then(other.message("you")).run(run_id="daily")


def test_sweepers_leave_a_run_of_another_application_alone(shared: Pair, caplog: pytest.LogCaptureFixture) -> None:
    shop, mail = shared
    greet, other = greeter(shop, "shop"), greeter(mail, "mail")
    run = abandon(shop, greet.message("you"), "abandoned")
    with pytest.raises(ForeignRun):
        Run("abandoned", broker=mail).retry()
    with pytest.raises(ForeignRun):
        Clutch(broker=mail).then(other.message("you")).run(run_id="abandoned")
    engine, mails = engine_of(mail), ours_of(mail)
    with caplog.at_level(logging.WARNING):
        engine.look_again("abandoned", 1)  # as it is once the lease of that call has lapsed
        assert mails.sweep(mail) == 1  # it is put down here by the calls above
        engine.look_again("abandoned", 1, known=True)
        assert mails.sweep(mail) == 0  # and isn't any more
    assert not caplog.records
    assert run.status().stages[0].succeeded == 0
    assert ours_of(shop).sweep(shop) == 1  # it is put down for its own sweeper all the same
    with running_worker(mail), running_worker(shop):
        assert run.get_result(block=True, timeout=LONG_MS) == "shop greets you"


def test_where_applications_are_one_they_are_named_alike(redis_client: redis.Redis, server: Server) -> None:
    with ExitStack() as stack:
        shop, mail = (
            stack.enter_context(
                application(
                    server,
                    name,
                    ClutchMiddleware(RedisBackend(client=redis_client, namespace="shared-clutch"), application="both"),
                )
            )
            for name in ("shop", "mail")
        )
        run = Clutch(broker=shop).then(greeter(shop, "shop").message("you")).run(run_id="daily")
        assert Run("daily", broker=mail).cancel()
        assert run.status().state == "cancelled"


@pytest.mark.parametrize("nested", [False, True])
def test_an_application_with_a_new_name_finishes_what_it_has_begun(*, nested: bool) -> None:
    """Its workers get messages of runs that have the old name."""
    backend = StubBackend()
    old, new = StubBroker(), StubBroker()
    for broker, name in ((old, "shop"), (new, "mall")):
        broker.add_middleware(ClutchMiddleware(backend, application=name))
        greeter(broker, "somebody")
    job = old.get_actor("greet").message("you")
    inner = Clutch(broker=old).then(job) if nested else job
    over = Clutch(broker=old).then(inner).run()
    run = Clutch(broker=old).parallel(job, inner, enough=1).then(job).run()
    over.cancel()
    new.queues["default"] = old.queues["default"]
    with running_worker(new):
        assert run.get_result(block=True, timeout=LONG_MS) == "somebody greets you"
        wait_until("all are acked", lambda: on_their_way(new) == 0)
    if nested:
        assert Run(f"{over.run_id}~0.0", broker=old).status().state == "cancelled"


def test_an_application_without_a_name_is_called_so() -> None:
    backend = StubBackend()
    nameless, named = StubBroker(), StubBroker()
    nameless.add_middleware(ClutchMiddleware(backend))
    named.add_middleware(ClutchMiddleware(backend, application="shop"))
    Clutch(broker=nameless).then(greeter(nameless, "").message("you")).run(run_id="daily")
    with pytest.raises(
        ForeignRun, match="belongs to an application without a name, and this is the application 'shop'"
    ):
        Run("daily", broker=named).cancel()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"url": "amqp://guest:guest@127.0.0.1:1/shop"}, "shop"),
        ({"url": "amqp://guest:guest@127.0.0.1:1/a%2Fb"}, "a/b"),
        ({"url": "amqp://guest:guest@127.0.0.1:1"}, "/"),
        ({"url": "amqp://127.0.0.1:1/shop;amqp://127.0.0.1:2/shop"}, "shop"),
        ({"url": ["amqp://127.0.0.1:1/shop", "amqp://127.0.0.1:2/shop"]}, "shop"),
        ({"parameters": [{"host": "127.0.0.1", "virtual_host": "shop"}]}, "shop"),
        ({"parameters": [{"host": h, "virtual_host": "shop"} for h in ("127.0.0.1", "127.0.0.2")]}, "shop"),
        ({"host": "127.0.0.1", "virtual_host": "shop"}, "shop"),
        ({"host": "127.0.0.1"}, "/"),
        ({}, "/"),
    ],
)
def test_an_application_on_rabbitmq_goes_by_its_virtual_host(settings: dict[str, Any], expected: str) -> None:
    """No server is needed: the broker connects only when it is used."""
    pytest.importorskip("pika")
    from dramatiq.brokers.rabbitmq import RabbitmqBroker

    broker = RabbitmqBroker(**settings)
    broker.add_middleware(ClutchMiddleware(StubBackend()))
    assert engine_of(broker).application == expected
    given = RabbitmqBroker(**settings)
    given.add_middleware(ClutchMiddleware(StubBackend(), application="given"))
    assert engine_of(given).application == "given"


# Message ids are UUIDs


class Recorder(dramatiq.Middleware):
    """Keeps every message that is enqueued."""

    def __init__(self) -> None:
        self.messages: list[Message[Any]] = []

    def after_enqueue(self, broker: dramatiq.Broker, message: Message[Any], delay: int | None) -> None:
        self.messages.append(message)


def everything(jobs: Jobs) -> Clutch:
    """Jobs and callbacks in all places: a series, a wide stage, a mapped one, nested runs of both kinds."""

    @dramatiq.actor(broker=jobs.broker)
    def nests() -> Run:
        return Clutch(**jobs.callbacks("inner")).then(jobs.job.message("nested")).nest()

    child = Clutch(**jobs.callbacks("child")).then(jobs.job.message("in child"), jobs.job.message("in child, too"))
    return (
        Clutch(**jobs.callbacks("root"))
        .then(jobs.several.message("x", 2))
        .map(jobs.job)
        .parallel(child, nests, jobs.job.message("a"), jobs.job.message("b"))
        .then(jobs.total)
    )


def test_the_ids_of_jobs_and_callbacks_are_uuids_and_differ(broker: dramatiq.Broker) -> None:
    recorder, jobs = Recorder(), Jobs(broker)
    broker.add_middleware(recorder)
    with running_worker(broker):
        run = everything(jobs).run()
        run.get_result(block=True, timeout=LONG_MS)
        for who in ("root", "child", "inner"):
            wait_until(f"{who} to hear", lambda who=who: jobs.fired(who) == "S E", timeout=LONG)  # type: ignore[misc]
    messages = [message for message in recorder.messages if "eta" not in message.options]
    places = [str(tag_of(message.options["clutch"], message.actor_name)) for message in messages]
    assert len(set(places)) == len(places) == 1 + 2 + 2 + 1 + 1 + 2 + 1 + 6
    ids = [message.message_id for message in messages]
    assert len(set(ids)) == len(ids)
    assert {uuid.UUID(one).version for one in ids} == {5}
    assert ids == [str(uuid.UUID(one)) for one in ids]


def test_a_second_copy_has_the_id_of_the_first_and_another_run_has_others(broker: dramatiq.Broker) -> None:
    recorder, jobs = Recorder(), Jobs(broker)
    broker.add_middleware(recorder)
    clutch = Clutch().parallel(jobs.job.message("a"), jobs.job.message("b"))
    run, other = clutch.run(), clutch.run()
    assert run.resend()
    ids = [message.message_id for message in recorder.messages]
    assert len(ids) == 6
    assert ids[:2] == ids[4:]
    assert len(set(ids)) == 4
    assert {other.run_id} == {message.options["clutch"]["run"] for message in recorder.messages[2:4]}


def test_two_runs_under_one_id_have_messages_of_different_ids(redis_broker: RedisBroker) -> None:
    recorder, jobs = Recorder(), Jobs(redis_broker)
    redis_broker.add_middleware(recorder)
    for _ in range(2):
        Clutch().then(jobs.job.message("a")).run(run_id="daily")
        lose_the_state(redis_broker)
    first, second = recorder.messages
    assert first.message_id != second.message_id


def test_the_log_names_a_message_by_its_place(broker: dramatiq.Broker, caplog: pytest.LogCaptureFixture) -> None:
    @dramatiq.actor(broker=broker)
    def odd() -> Any:
        return object()

    with running_worker(broker):
        run = Clutch().parallel(odd, odd).run()
        wait_until("it to fail", lambda: run.status().state == "failed", timeout=LONG)
    for member in (0, 1):
        assert f"(job 0.{member} of run {run.run_id})" in caplog.text


class UuidBroker(StubBroker):
    """Keeps messages in a table with a column of type UUID, as the brokers on Postgres do."""

    def __init__(self) -> None:
        super().__init__()
        self.table: dict[uuid.UUID, Message[Any]] = {}

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        self.table[uuid.UUID(message.message_id)] = message
        return super().enqueue(message, delay=delay)


def test_a_broker_with_a_uuid_column_takes_every_message(caplog: pytest.LogCaptureFixture) -> None:
    broker = UuidBroker()
    broker.add_middleware(ClutchMiddleware())
    broker.emit_after("process_boot")
    with pytest.MonkeyPatch.context() as patch, running_worker(broker):
        patch.setattr("dramatiq.broker.global_broker", broker)
        jobs = Jobs(broker)
        jobs.script["a"] = ["fail", "ok"]
        run = everything(jobs).run()
        assert run.get_result(block=True, timeout=LONG_MS)[2:] == ["a", "b"]
        # Whether the stage is seen failing depends on whether the others have had their attempts before the retry.
        wait_until("the callbacks", lambda: jobs.fired("root") in ("F S E", "S E"))
    assert run.status().state == "succeeded"
    broker.close()


# With django_dramatiq


@pytest.fixture(scope="session")
def django_tasks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The `Task` model of django_dramatiq, on a database of its own."""
    django = pytest.importorskip("django")
    pytest.importorskip("django_dramatiq")
    from django.conf import settings

    encoder, broker = dramatiq.get_encoder(), dramatiq.broker.global_broker
    settings.configure(
        INSTALLED_APPS=["django_dramatiq"],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": str(tmp_path_factory.mktemp("django") / "tasks.sqlite3"),
                "OPTIONS": {"timeout": 60, "transaction_mode": "IMMEDIATE"},  # several threads write
            }
        },
        DRAMATIQ_BROKER={"BROKER": "dramatiq.brokers.stub.StubBroker", "OPTIONS": {}, "MIDDLEWARE": []},
        LOGGING_CONFIG=None,
        USE_TZ=True,
    )
    django.setup()  # which makes a broker and an encoder of its own the global ones
    dramatiq.set_encoder(encoder)
    dramatiq.broker.global_broker = broker
    importlib.import_module("django.core.management").call_command("migrate", verbosity=0)
    return importlib.import_module("django_dramatiq.models").Task


def test_djangos_admin_keeps_a_task_for_each_job_and_callback(
    django_tasks: Any, broker: dramatiq.Broker, caplog: pytest.LogCaptureFixture
) -> None:
    admin = importlib.import_module("django_dramatiq.middleware")
    django_tasks.tasks.all().delete()
    jobs = Jobs(broker)
    for middleware in (admin.AdminMiddleware(), admin.DbConnectionsMiddleware()):
        broker.add_middleware(middleware)
    with caplog.at_level(logging.INFO), running_worker(broker, threads=2):
        run = everything(jobs).run()
        run.get_result(block=True, timeout=LONG_MS)
        for who in ("root", "child", "inner"):
            wait_until(f"{who} to hear", lambda who=who: jobs.fired(who) == "S E", timeout=LONG)  # type: ignore[misc]
    # Middleware is told of a message once that is enqueued, so a task may be done, and noted as enqueued after that.
    assert {task.status for task in django_tasks.tasks.all()} <= {"done", "enqueued"}
    assert django_tasks.tasks.count() == 16
    names = sorted(task.actor_name for task in django_tasks.tasks.all())
    assert names == sorted(["several", *["job"] * 7, "nests", *["heard"] * 6, "total"])
    for task in django_tasks.tasks.all():
        assert str(task.id) == task.message.message_id
        assert str(tag_of(task.message.options["clutch"], task.actor_name))
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


# A message is of one run, not of one name


def lose_the_state(broker: dramatiq.Broker) -> None:
    """All that is known of any run, as after a server without persistence has been restarted."""
    remove_keys(engine_of(broker).backend)


def forget(broker: dramatiq.Broker) -> None:
    """Make this process one that has just been started."""
    engine_of(broker).remembered.renew()


def test_messages_of_a_lost_run_dont_count_for_the_next_one_of_its_id(
    broker: dramatiq.Broker, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = Jobs(broker)
    Clutch().parallel(jobs.job.message("old 0"), jobs.job.message("old 1")).then(jobs.total).run(run_id="daily")
    lose_the_state(broker)
    forget(broker)
    run = Clutch().parallel(jobs.job.message("new 0"), jobs.job.message("new 1")).then(jobs.total).run(run_id="daily")
    with running_worker(broker, threads=1):
        assert run.get_result(block=True, timeout=LONG_MS) == ["new 0", "new 1"]
        wait_until("the dead letters", lambda: dead_letters(broker) == 2, timeout=LONG)
    assert jobs.counts() == {"new 0": 1, "new 1": 1, "total": 1}
    for member in (0, 1):
        assert f"(job 0.{member} of run daily) goes to the dead-letter queue: its run isn't there" in caplog.text


def test_a_job_at_work_for_a_lost_run_doesnt_count_for_the_next_one_of_its_id(
    broker: dramatiq.Broker, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = Jobs(broker)
    jobs.script["old"] = ["wait"]
    with running_worker(broker):
        Clutch().then(jobs.job.message("old")).run(run_id="daily")
        wait_until("it is at work", lambda: jobs.began == ["old"], timeout=LONG)
        lose_the_state(broker)
        jobs.script["new"] = ["wait"]
        run = Clutch().then(jobs.job.message("new")).run(run_id="daily")
        wait_until("the other one is, too", lambda: jobs.began == ["old", "new"], timeout=LONG)
        jobs.gates["old"].set()
        wait_until("it to be told", lambda: "has worked for nothing" in caplog.text, timeout=LONG)
        assert run.status().stages[0].succeeded == 0
        jobs.gates["new"].set()
        assert run.get_result(block=True, timeout=LONG_MS) == "new"
    assert "(job 0.0 of run daily) has worked for nothing" in caplog.text


def nested(jobs: Jobs, name: str) -> Clutch:
    return Clutch(name=name).parallel(
        Clutch().then(jobs.job.message(f"{name} in child"), jobs.job.message(f"{name} at the end")),
        jobs.job.message(f"{name} beside"),
    )


def test_messages_of_a_lost_runs_child_dont_count_for_the_next_one(broker: dramatiq.Broker) -> None:
    jobs = Jobs(broker)
    nested(jobs, "old").run(run_id="daily")
    lose_the_state(broker)
    forget(broker)
    run = nested(jobs, "new").run(run_id="daily")
    with running_worker(broker, threads=1):
        assert run.get_result(block=True, timeout=LONG_MS) == ["new at the end", "new beside"]
        wait_until("the dead letters", lambda: dead_letters(broker) == 2, timeout=LONG)
    assert run.status().failures == ()
    assert set(jobs.began) == {"new in child", "new at the end", "new beside"}


def lose_the_parent(broker: dramatiq.Broker, run_id: str) -> None:
    """The parent's state alone, by hand: its child's head, or mark, stays."""
    remove_keys(engine_of(broker).backend, run_id)


def test_a_child_of_a_lost_parent_isnt_taken_for_the_next_ones(broker: dramatiq.Broker) -> None:
    jobs = Jobs(broker)
    jobs.script["old in child"] = ["wait"]
    with running_worker(broker):
        nested(jobs, "old").run(run_id="daily")
        wait_until("the child is at work", lambda: "old in child" in jobs.began, timeout=LONG)
        lose_the_parent(broker, "daily")
        jobs.script["new in child"] = ["wait"]
        run = nested(jobs, "new").run(run_id="daily")
        wait_until("the new one is, too", lambda: "new in child" in jobs.began, timeout=LONG)
        jobs.gates["old in child"].set()
        wait_until("the old one's job to be over", lambda: not at_work(broker, "old in child", jobs), timeout=LONG)
        status = Run("daily~0.0", broker=broker).status()
        assert (status.state, status.stages[0].succeeded) == ("running", 0)
        jobs.gates["new in child"].set()
        assert run.get_result(block=True, timeout=LONG_MS) == ["new at the end", "new beside"]
    assert "old at the end" not in jobs.began


def at_work(broker: dramatiq.Broker, name: str, jobs: Jobs) -> bool:
    """Whether more is at work in this process than the new one's job."""
    return len(engine_of(broker).remembered.at_work) > 1


def test_the_tombstone_of_a_lost_parents_child_doesnt_stop_the_next_one(broker: dramatiq.Broker) -> None:
    jobs = Jobs(broker)
    jobs.script["old beside"] = ["wait"]
    with running_worker(broker):
        old = nested(jobs, "old").run(run_id="daily")
        wait_until("the child to be over", lambda: old.status().stages[0].succeeded == 1, timeout=LONG)
        lose_the_parent(broker, "daily")
        jobs.gates["old beside"].set()
        run = nested(jobs, "new").run(run_id="daily")
        assert run.get_result(block=True, timeout=LONG_MS) == ["new at the end", "new beside"]
    assert jobs.counts()["new in child"] == jobs.counts()["new at the end"] == 1


def test_a_cancelled_child_of_a_lost_parent_doesnt_stop_the_next_one(broker: dramatiq.Broker) -> None:
    jobs = Jobs(broker)
    old = nested(jobs, "old").run(run_id="daily")
    assert old.cancel()
    assert Run("daily~0.0", broker=broker).status().state == "cancelled"
    lose_the_parent(broker, "daily")
    forget(broker)
    run = nested(jobs, "new").run(run_id="daily")
    with running_worker(broker):
        assert run.get_result(block=True, timeout=LONG_MS) == ["new at the end", "new beside"]


def test_a_lost_child_kills_no_member_of_another_parent(broker: dramatiq.Broker) -> None:
    jobs = Jobs(broker)
    nested(jobs, "old").run(run_id="daily")
    old = engine_of(broker).backend.generation("daily~0.0")
    assert old is not None
    lose_the_state(broker)
    run = nested(jobs, "new").run(run_id="daily")
    report_gone(engine_of(broker), "daily~0.0", old)
    assert run.status().failures == ()
    new = engine_of(broker).backend.generation("daily~0.0")
    assert new not in (None, old)
    assert new is not None
    report_gone(engine_of(broker), "daily~0.0", new)  # that one's word would count
    assert [failure.index for failure in run.status().failures] == [0]


def test_a_child_whose_store_has_forgotten_a_stage_is_not_called_gone(stub_broker: dramatiq.Broker) -> None:
    """After a failover a job may come of a stage that the child, as the store knows it, hasn't come to yet."""
    jobs = Jobs(stub_broker)
    jobs.script["it in child"] = ["wait"]
    run = nested(jobs, "it").run(run_id="daily")
    generation = engine_of(stub_broker).backend.generation("daily~0.0")
    assert generation is not None
    message, tag = jobs.job.message("it at the end"), Tag("daily~0.0", 1, 0, 1, generation=generation, actor="job")
    with running_worker(stub_broker):
        wait_until("the child is at work", lambda: "it in child" in jobs.began)
        stub_broker.enqueue(job_message(message, tag, Spec(), StageLine(0, 1)))
        wait_until("the dead letter", lambda: dead_letters(stub_broker) == 1)
        wait_until("all else is done", lambda: on_their_way(stub_broker) == 1)
        assert run.status().failures == ()
        jobs.gates["it in child"].set()
        assert run.get_result(block=True) == ["it at the end", "it beside"]


def test_messages_whose_child_alone_is_lost_kill_the_member_that_it_was(broker: dramatiq.Broker) -> None:
    jobs = Jobs(broker)
    run = nested(jobs, "it").run(run_id="daily")
    lose_the_parent(broker, "daily~0.0")
    forget(broker)
    with running_worker(broker):
        with pytest.raises(RunFailed, match=r"nested run daily~0\.0 is gone"):
            run.get_result(block=True, timeout=LONG_MS)
        assert run.retry()
        assert run.get_result(block=True, timeout=LONG_MS) == ["it at the end", "it beside"]


# Strangers


@pytest.mark.parametrize("how", ["options", "copy", "copy without an id"])
def test_a_stranger_that_gets_a_jobs_options_is_a_plain_message(broker: dramatiq.Broker, how: str) -> None:
    results, seen = StubResults(), threading.Event()
    broker.add_middleware(Results(backend=results))
    if not any(isinstance(known, CurrentMessage) for known in broker.middleware):
        broker.add_middleware(CurrentMessage())
    runs: list[Any] = []
    sent: list[Message[Any]] = []

    @dramatiq.actor(broker=broker, store_results=True)
    def stranger(text: str) -> str:
        runs.append(current_run())
        seen.set()
        return text.upper()

    @dramatiq.actor(broker=broker, max_retries=0)
    def forwards() -> str:
        message: Any = CurrentMessage.get_current_message()
        if how == "options":
            sent.append(stranger.send_with_options(args=("not a member",), **message.options))
        else:
            own = {"message_id": str(uuid.uuid4())} if how == "copy without an id" else {}
            copy = message.copy(actor_name="stranger", args=("not a member",), **own)
            sent.append(broker.enqueue(copy))
        assert seen.wait(LONG)
        return "the member's own"

    with running_worker(broker):
        run = Clutch().then(forwards).run()
        assert run.get_result(block=True, timeout=LONG_MS) == "the member's own"
        assert sent[0].get_result(backend=results, block=True, timeout=LONG_MS) == "NOT A MEMBER"
    assert runs == [None]
    assert dead_letters(broker) == 0


def test_a_stranger_that_fails_is_retried_by_dramatiq_alone(broker: dramatiq.Broker) -> None:
    attempts: list[int] = []
    over = threading.Event()

    @dramatiq.actor(broker=broker, min_backoff=1, max_backoff=1)
    def stranger() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError("not yet")
        over.set()

    @dramatiq.actor(broker=broker)
    def waits() -> str:
        assert over.wait(LONG)
        return "the member's own"

    with running_worker(broker):
        run = Clutch().then(waits).run()
        wait_until("its stage to be there", lambda: run.status().stages, timeout=LONG)
        option = Tag(run.run_id, 0, 0, 1, generation=engine_of(broker).backend.generation(run.run_id) or "").to_option()
        stranger.send_with_options(clutch=option)
        assert run.get_result(block=True, timeout=LONG_MS) == "the member's own"
    assert len(attempts) == 2
    assert run.status().failures == ()


# Copies by hand


def enqueue_copies(broker: dramatiq.Broker, messages: list[Message[Any]]) -> None:
    for message in messages:
        broker.enqueue(message.copy())


@pytest.mark.parametrize("where", ["the same process", "another process"])
def test_a_copy_of_a_finished_job_is_skipped_however_early_it_comes(
    broker: dramatiq.Broker, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dramatiq_clutch.remembered.REMEMBERED", 3_600.0)  # so that it is early on a busy machine, too
    recorder, jobs = Recorder(), Jobs(broker)
    broker.add_middleware(recorder)
    jobs.script["waits"] = ["wait"]
    with running_worker(broker):
        run = Clutch().parallel(jobs.job.message("a"), jobs.job.message("waits")).run()
        wait_until("a has succeeded", lambda: run.status().stages[0].succeeded == 1, timeout=LONG)
        engine = engine_of(broker)
        (first,) = [message for message in recorder.messages if message.args == ("a",)]
        tag = tag_of(first.options["clutch"], first.actor_name)
        assert isinstance(tag, Tag)
        if where == "another process":
            forget(broker)
        else:
            engine.remembered.note_wanted(tag.run_id, tag.generation, tag.stage, tag.of)
            assert engine.remembered.was_wanted(tag)  # the guard isn't asked for this stage's own messages now
        skipped = count_skipped(broker)
        enqueue_copies(broker, [first] * 3)
        wait_until("the copies to be skipped", lambda: len(skipped) == 3, timeout=LONG)
        jobs.gates["waits"].set()
        assert run.get_result(block=True, timeout=LONG_MS) == ["a", "waits"]
    assert jobs.counts() == {"a": 1, "waits": 1}


def count_skipped(broker: dramatiq.Broker) -> list[str]:
    skipped: list[str] = []

    class Count(dramatiq.Middleware):
        def after_skip_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
            skipped.append(message.message_id)

    broker.add_middleware(Count())
    return skipped


def test_a_copy_that_comes_while_the_job_is_at_work_works_too_and_counts_once(broker: dramatiq.Broker) -> None:
    recorder, jobs = Recorder(), Jobs(broker)
    broker.add_middleware(recorder)
    jobs.script["a"] = ["wait", "ok"]
    with running_worker(broker):
        run = Clutch().then(jobs.job.message("a")).then(jobs.total).run()
        wait_until("a is at work", lambda: jobs.began == ["a"], timeout=LONG)
        enqueue_copies(broker, recorder.messages[:1])
        assert run.get_result(block=True, timeout=LONG_MS) == ["a"]
        jobs.gates["a"].set()
        wait_until("the first to be over", lambda: not engine_of(broker).remembered.at_work, timeout=LONG)
    assert jobs.counts() == {"a": 2, "total": 1}
