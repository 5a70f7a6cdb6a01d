"""What an operator meets: refusals of the server, least privilege, warnings at boot, the sweeper, many runs."""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dramatiq
import pytest
import redis
import trustme
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from redis.backoff import NoBackoff
from redis.retry import Retry

from dramatiq_clutch import Clutch, ClutchMiddleware, Run, count_runs, runs
from dramatiq_clutch.backend import Caller, Record
from dramatiq_clutch.backends import RedisBackend
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.errors import StateUnavailable
from dramatiq_clutch.register import Keeping
from dramatiq_clutch.stored.messages import to_row
from dramatiq_clutch.stored.plan import Plan, Spec, StageLine
from tests.conftest import running_worker
from tests.support.awaiting import PATIENCE, wait_until
from tests.support.cluster import cluster, cluster_client
from tests.support.commands import executed
from tests.support.jobs import Jobs
from tests.support.keyspace import NAMESPACE
from tests.support.server import Server, free_port
from tests.support.tags import tag_in
from tests.test_readme import OPERATIONS

IMPATIENT: dict[str, Any] = {"retry": Retry(NoBackoff(), 0)}


@contextmanager
def on(store: RedisBackend) -> Iterator[tuple[StubBroker, Jobs]]:
    broker = StubBroker()
    broker.add_middleware(ClutchMiddleware(store))
    broker.emit_after("process_boot")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dramatiq.broker.global_broker", broker)
        yield broker, Jobs(broker)
    broker.close()


# What the server may say


def test_a_read_only_replica_is_waited_for_and_named(caplog: pytest.LogCaptureFixture) -> None:
    with Server() as server, server.client() as client, on(RedisBackend(url=server.url, **IMPATIENT)) as (broker, jobs):
        run = Clutch().then(jobs.job.message("a")).run()
        client.replicaof("127.0.0.1", free_port())
        with pytest.raises(StateUnavailable, match="this server is a replica: point the URL at the primary"):
            run.cancel()
        with running_worker(broker), caplog.at_level(logging.WARNING):
            wait_until("the job to be done, and to wait", lambda: "waits, unacked" in caplog.text)
            client.replicaof("NO", "ONE")
            assert run.get_result(block=True) == "a"
        assert jobs.began == ["a"]
        assert caplog.text.count("waits, unacked") == 1


def test_a_server_out_of_memory_is_waited_for_and_named() -> None:
    config = ("maxmemory-policy noeviction",)
    with Server(config=config) as server, on(RedisBackend(url=server.url, **IMPATIENT)) as (broker, jobs):
        run = Clutch().then(jobs.job.message("a"), jobs.job.message("b")).run()
        with server.client() as client:
            client.config_set("maxmemory", 1)
            with pytest.raises(StateUnavailable, match="out of memory: raise maxmemory"):
                Clutch().then(jobs.total).run()
            with running_worker(broker):
                wait_until("a has run", lambda: jobs.began)
                client.config_set("maxmemory", 0)
                assert run.get_result(block=True) == "b"
    assert jobs.began == ["a", "b"]


def test_a_server_that_is_busy_with_a_script_is_waited_for_and_named() -> None:
    with Server(config=("busy-reply-threshold 50",)) as server, server.client() as client, server.client() as other:
        backend = RedisBackend(url=server.url, **IMPATIENT)

        def run_for_ever() -> None:
            with pytest.raises(redis.ResponseError):
                client.eval("while true do end", 0)

        endless = threading.Thread(target=run_for_ever)
        endless.start()

        def busy() -> str:
            try:
                backend.snapshot("x")
            except StateUnavailable as error:
                return str(error)
            return ""

        told = wait_until("the server to be busy", busy)
        assert "a script that doesn't end: SCRIPT KILL ends it" in told
        other.script_kill()
        endless.join(10)
        assert backend.snapshot("x") is None


def test_a_wrong_password_is_told(server: Server) -> None:
    with Server(config=("requirepass secret",)) as own:
        for url in (own.url, own.url.replace("redis://", "redis://:wrong@")):
            with pytest.raises(StateUnavailable, match="check user and password"):
                RedisBackend(url=url, **IMPATIENT).snapshot("x")
        right = RedisBackend(url=own.url.replace("redis://", "redis://:secret@"), **IMPATIENT)
        assert right.snapshot("x") is None


def test_the_store_away_for_a_while_changes_nothing_and_floods_no_log(caplog: pytest.LogCaptureFixture) -> None:
    with Server(durable=True) as server, on(RedisBackend(url=server.url, **IMPATIENT)) as (broker, jobs):
        run = Clutch().parallel(jobs.job.message(str(n)) for n in range(40)).then(jobs.total).run()
        jobs.script["20"], jobs.script["21"] = ["wait"], ["wait"]
        with running_worker(broker, threads=2), caplog.at_level(logging.WARNING):
            wait_until("both threads are at work", lambda: {"20", "21"} <= set(jobs.began))
            server.kill()
            jobs.gates["20"].set()
            jobs.gates["21"].set()
            wait_until("both threads wait", lambda: caplog.text.count("waits, unacked") == 2)
            began = time.monotonic()
            wait_until("a while to pass", lambda: time.monotonic() - began > 2)
            server.start()
            assert run.get_result(block=True, timeout=60_000) == [str(n) for n in range(40)]
        assert set(jobs.counts().values()) == {1}
        assert caplog.text.count("waits, unacked") == 2


# Least privilege


def acl_of_the_readme() -> str:
    """The commands that the README on operations lists under Least privilege."""
    text = OPERATIONS.read_text().split("ACL SETUSER clutch")[1].split("```")[0]
    return " ".join(text.replace("\\\n", " ").split())


def everything(broker: dramatiq.Broker, jobs: Jobs) -> None:
    """What runs come to, and what is done to them."""
    jobs.script["bad"], jobs.script["late"] = ["fail", "die"], ["wait", "wait"]

    @dramatiq.actor
    def nests() -> Run:
        return Clutch().then(jobs.job.message("nested")).nest()

    child = Clutch().then(jobs.several.message("x", 2)).map(jobs.job)
    clutch = Clutch(**jobs.callbacks("root")).parallel(child, nests, jobs.job.message("bad")).then(jobs.total)
    with running_worker(broker):
        run = clutch.run(run_id="mine")
        wait_until("it has failed", lambda: run.status().state == "failed")
        assert run.retry()
        assert run.get_result(block=True) == [["x0", "x1"], "nested", "bad"]
        other = Clutch().parallel(Clutch().then(jobs.job.message("late")), jobs.job.message("b")).run()
        wait_until("it works", lambda: "late" in jobs.began)
        assert other.resend()
        assert other.cancel()
        jobs.gates["late"].set()
        assert other.retry()
        other.get_result(block=True)
        tolerant = Clutch().parallel(jobs.job.message("bad"), allow_failures=True).then(jobs.total).run()
        assert tolerant.get_result(block=True) == ["bad"]
        series = Clutch().then(*map(jobs.job.message, ("x", "y", "z"))).run()
        assert series.get_result(block=True) == "z"
        # The register hears of a run after those who wait for its result.
        wait_until("all are listed", lambda: len(runs(state="succeeded")) == count_runs()["succeeded"] == 4)
        assert len(runs(parent=other.run_id)) == 0
        engine = engine_of(broker)
        few = Keeping(1, 10**9, 10**9)
        engine.backend.shorten(engine.backend.enlist([], engine.now(), few, application=engine.application))
        for middleware in broker.middleware:
            if isinstance(middleware, ClutchMiddleware):
                middleware.sweep(broker)


def test_a_user_with_just_the_rights_that_readme_lists_is_enough() -> None:
    rules = acl_of_the_readme()
    assert rules.startswith("on >secret ~dramatiq-clutch:* resetchannels &dramatiq-clutch:* -@all +")
    with Server(config=(f"user clutch {rules}",)) as server:
        url = server.url.replace("redis://", "redis://clutch:secret@").removesuffix("/0") + "/1"
        with on(RedisBackend(url=url)) as (broker, jobs):
            everything(broker, jobs)
        with server.client() as outsider:
            outsider.ping()
        with redis.Redis.from_url(url) as client, pytest.raises(redis.exceptions.NoPermissionError):
            client.get("dramatiq:something")


@pytest.mark.heavy
def test_a_user_of_a_cluster_needs_few_rights_more_and_readme_lists_them() -> None:
    (more,) = re.findall(r"cluster's client needs\s`(\+[^`]+)`", OPERATIONS.read_text())
    with cluster(3, config=(f"user clutch {acl_of_the_readme()} {more}",)) as nodes:
        urls = [node.url.replace("redis://", "redis://clutch:secret@") for node in nodes]
        with on(RedisBackend(client=cluster_client(urls[0]))) as (broker, jobs):
            everything(broker, jobs)
        for url in urls:
            with redis.Redis.from_url(url) as client:
                client.execute_command("ASKING")  # as a client does while a slot moves


@contextmanager
def behind_tls(server: Server, authority: trustme.CA) -> Iterator[int]:
    """A port that speaks TLS and hands on to the server, which doesn't."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    loop = asyncio.new_event_loop()

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError):
                while data := await source.read(65_536):
                    target.write(data)
                    await target.drain()
        finally:
            target.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    async def start() -> asyncio.Server:
        return await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)

    async def end(listener: asyncio.Server) -> None:
        listener.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        transports: Any = loop._transports  # type: ignore[attr-defined]  # noqa: SLF001
        for transport in list(transports.values()):  # also those of handshakes that nobody goes on with
            transport.abort()
        for _ in range(3):  # they are closed in the next turns
            await asyncio.sleep(0)

    listener = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield int(listener.sockets[0].getsockname()[1])
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.run_until_complete(end(listener))
        loop.close()


def test_tls_and_password_go_into_the_url(tmp_path: Path) -> None:
    authority, certificate = trustme.CA(), tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(certificate))
    with Server(config=("requirepass secret",)) as server, behind_tls(server, authority) as port:
        store = RedisBackend(url=f"rediss://:secret@127.0.0.1:{port}/0?ssl_ca_certs={certificate}")
        with on(store) as (broker, jobs), running_worker(broker):
            run = Clutch().then(jobs.job.message("a")).then(jobs.total).run()
            assert run.get_result(block=True) == ["a"]
        store.client.close()
        stranger = RedisBackend(url=f"rediss://:secret@127.0.0.1:{port}/0", **IMPATIENT)
        with pytest.raises(StateUnavailable, match="certificate"):
            stranger.snapshot("x")


# Warnings at boot


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl", "noeviction"])
def test_a_server_that_evicts_keys_is_warned_of_at_boot(policy: str, caplog: pytest.LogCaptureFixture) -> None:
    config = ("maxmemory 100mb", f"maxmemory-policy {policy}")
    with Server(config=config) as server, on(RedisBackend(url=server.url)) as (broker, _), running_worker(broker):
        pass
    assert (f"maxmemory-policy {policy}" in caplog.text) == (policy != "noeviction")


def test_a_broker_that_publishes_without_confirmation_is_warned_of_at_boot(
    stub_broker: StubBroker, caplog: pytest.LogCaptureFixture
) -> None:
    stub_broker.confirm_delivery = False  # type: ignore[attr-defined]
    with caplog.at_level(logging.WARNING), running_worker(stub_broker):
        pass
    assert "Create it with confirm_delivery=True" in caplog.text


@pytest.mark.parametrize("queue", ["default.XQ", "default.DQ", "default"])
def test_a_worker_that_would_work_on_dead_letters_is_warned_of_at_boot(
    stub_broker: StubBroker, caplog: pytest.LogCaptureFixture, queue: str
) -> None:
    stub_broker.declare_queue(queue)
    with caplog.at_level(logging.WARNING), running_worker(stub_broker):
        pass
    assert ("'default.XQ', which has dead letters" in caplog.text) == (queue == "default.XQ")


# The sweeper


def abandoned_run(redis_broker: RedisBroker) -> tuple[Run, ClutchMiddleware]:
    """A run whose producer died between the seal and the first message; its lease has lapsed."""
    jobs = Jobs(redis_broker)
    (ours,) = [one for one in redis_broker.middleware if isinstance(one, ClutchMiddleware)]
    engine = engine_of(redis_broker)
    long_ago = engine.caller("run:dead")._replace(now=int(time.time() * 1000) - 10 * engine.lease_ms)
    plan = Plan(Spec(), (StageLine(0, 1),), (to_row(jobs.job.message("a")),))
    engine.backend.create("abandoned", plan, long_ago, run_ttl=3_600_000, result_ttl=3_600_000)
    return Run("abandoned"), ours


def test_a_sweep_by_hand_finishes_what_was_abandoned(redis_broker: RedisBroker) -> None:
    run, ours = abandoned_run(redis_broker)
    assert ours.sweep(redis_broker) == 1
    assert ours.sweep(redis_broker) == 0
    with running_worker(redis_broker):
        assert run.get_result(block=True) == "a"


def test_many_sweepers_at_once_finish_what_was_abandoned_once(redis_broker: RedisBroker) -> None:
    _, ours = abandoned_run(redis_broker)
    start = threading.Barrier(8)

    def sweep() -> None:
        start.wait(PATIENCE)
        ours.sweep(redis_broker)

    threads = [threading.Thread(target=sweep) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert redis_broker.client.hlen(f"{redis_broker.namespace}:default.msgs") == 1


def test_the_sweeper_can_be_switched_off(redis_broker: RedisBroker) -> None:
    before = {thread.name for thread in threading.enumerate()}
    redis_broker.middleware[:] = [one for one in redis_broker.middleware if not isinstance(one, ClutchMiddleware)]
    redis_broker.add_middleware(ClutchMiddleware(sweep_interval=None))
    with running_worker(redis_broker):
        assert "clutch-sweeper" not in {thread.name for thread in threading.enumerate()} - before


@pytest.mark.heavy
def test_ten_thousand_runs_at_once_leave_the_sweeper_cheap(redis_broker: RedisBroker) -> None:
    engine = engine_of(redis_broker)
    row = Jobs(redis_broker).job.message("a").encode()
    plan = Plan(Spec(), (StageLine(0, 1),), (b"m" + row,))
    caller = engine.caller("run:many")._replace(lease_ms=3_600_000)  # longer than any machine takes for this
    for number in range(200):
        reply = engine.backend.create(f"many-{number}", plan, caller, run_ttl=3_600_000, result_ttl=3_600_000)
        engine.backend.confirm(f"many-{number}", reply.duties[0], caller)
    (ours,) = [one for one in redis_broker.middleware if isinstance(one, ClutchMiddleware)]
    # Of the others only what a sweep looks at: an entry of the index.
    index, client = f"{NAMESPACE}:index:{engine.application}", redis_broker.client
    due: Any = client.zscore(index, "many-0")
    client.zadd(index, {f"many-{number}": due for number in range(200, 10_000)})
    before = executed(redis_broker.client)
    assert ours.sweep(redis_broker) == 0  # none is due yet
    asked = executed(redis_broker.client) - before
    assert asked.total() <= 2, asked


# Long lives


def test_a_retry_weeks_later_still_counts(broker: dramatiq.Broker) -> None:
    engine, jobs = engine_of(broker), Jobs(broker)
    run = Clutch().parallel(jobs.job.message("a"), jobs.job.message("b")).run()
    tag, weeks = tag_in(broker, run, of=2), 46 * 86_400_000
    late = Caller(tag.owner, int(time.time() * 1000) + weeks, "lease", 1_000)
    assert engine.backend.record(Record(tag, 19, "failing", b"{}"), late).word == "counts"
    assert engine.backend.record(Record(tag, 20, "succeeded", b"1"), late).word == "counts"
    assert run.status().stages[0].succeeded == 1
