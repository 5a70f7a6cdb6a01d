"""A payload that the server doesn't take fails what it belongs to, with the server's word, and nothing beside it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker

from dramatiq_clutch import Clutch, previous_failures, previous_results, with_result
from dramatiq_clutch.backend import Record
from dramatiq_clutch.backends.redis import resp
from dramatiq_clutch.backends.redis.outages import LARGE
from dramatiq_clutch.backends.redis.succeeding import Success
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.errors import PayloadRefused
from dramatiq_clutch.stored.places import Tag
from tests.conftest import as_global_broker, running_worker
from tests.support.awaiting import wait_until
from tests.support.jobs import Jobs, state_is
from tests.support.messages import dead_letters
from tests.support.proxy import Proxy
from tests.support.server import Server

#: The least that a server can be set to take.
MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module")
def small_server() -> Iterator[Server]:
    with Server(config=["proto-max-bulk-len 1mb"]) as server:
        yield server


@pytest.fixture
def client(small_server: Server) -> Iterator[redis.Redis]:
    with small_server.client() as client:
        client.flushall()
        yield client


@pytest.fixture
def broker(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisBroker]:
    """A broker and a state store on a server that takes no more than a megabyte at a time."""
    monkeypatch.setattr("dramatiq.worker.POST_PROCESS_MESSAGE_RETRY_DELAY_SECS", 0.01)
    broker = RedisBroker(client=client, namespace=f"dramatiq-{uuid.uuid4().hex[:8]}")
    with as_global_broker(broker):
        yield broker


def sized(size: int) -> dramatiq.Message[Any]:
    """A message to an actor that returns so many bytes."""
    broker = dramatiq.get_broker()
    if "large" not in broker.get_declared_actors():

        @dramatiq.actor(max_retries=0)
        def large(size: int) -> str:
            return "x" * size

    message: dramatiq.Message[Any] = broker.get_actor("large").message(size)
    return message


def test_a_result_that_the_server_refuses_makes_its_job_dead_and_its_neighbours_succeed(
    broker: RedisBroker, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = Jobs(broker)
    names = [str(number) for number in range(20)]
    run = Clutch().parallel(sized(2 * MEGABYTE), *(jobs.job.message(name) for name in names)).then(jobs.total).run()
    with running_worker(broker):
        state_is(run, "failed")
        wait_until("it is a dead letter", lambda: dead_letters(broker) == 1)
    status = run.status()
    (failure,) = status.failures
    assert (failure.index, failure.exception_type) == (0, "PayloadRefused")
    assert "the server refuses a payload of 2,09" in failure.exception_text
    assert "proto-max-bulk-len" in failure.exception_text
    assert status.stages[0].succeeded == len(names)
    assert jobs.counts() == dict.fromkeys(names, 1)
    ours = [one.getMessage() for one in caplog.records if one.name.startswith("dramatiq_clutch")]
    assert len([line for line in ours if "can't be stored" in line]) == 1
    assert not [line for line in ours if "waits" in line]


def test_with_allowed_failures_the_run_goes_on_without_a_result_that_is_refused(broker: RedisBroker) -> None:
    seen: list[Any] = []

    @dramatiq.actor
    def looks() -> list[Any]:
        seen.extend(previous_failures())
        return previous_results()

    jobs = Jobs(broker)
    run = Clutch().parallel(jobs.job.message("a"), sized(2 * MEGABYTE), allow_failures=True).then(looks).run()
    with running_worker(broker):
        assert run.get_result(block=True) == ["a", None]
    assert [failure.exception_type for failure in seen] == ["PayloadRefused"]


def test_a_single_job_s_result_is_refused_whether_or_not_the_next_message_goes_with_it(broker: RedisBroker) -> None:
    jobs = Jobs(broker)
    run = Clutch().then(jobs.job.message("a")).then(sized(2 * MEGABYTE)).then(jobs.total).run()
    with running_worker(broker):
        state_is(run, "failed")
    assert [failure.exception_type for failure in run.status().failures] == ["PayloadRefused"]


def test_run_raises_for_an_argument_that_is_refused_and_starts_nothing(
    broker: RedisBroker, client: redis.Redis
) -> None:
    jobs = Jobs(broker)
    with pytest.raises(PayloadRefused, match="the server refuses a payload of 2,"):
        Clutch().parallel(jobs.job.message("a"), jobs.job.message("x" * 2 * MEGABYTE)).run()
    assert client.keys("dramatiq-clutch:*{*") == []
    assert client.keys(f"{broker.namespace}:default*") == []


def test_text_that_no_encoding_has_is_refused(broker: RedisBroker) -> None:
    with pytest.raises(PayloadRefused, match="can't be encoded"):
        Clutch(name="\udc00").run()


def test_a_nested_plan_that_is_refused_makes_its_job_dead(broker: RedisBroker) -> None:
    jobs = Jobs(broker)

    @dramatiq.actor(max_retries=0)
    def nests() -> None:
        Clutch().then(jobs.job.message("x" * 2 * MEGABYTE)).nest()

    run = Clutch().parallel(nests, jobs.job.message("a")).run()
    with running_worker(broker):
        state_is(run, "failed")
    assert [failure.exception_type for failure in run.status().failures] == ["PayloadRefused"]
    assert jobs.began == ["a"]


def test_a_nested_result_that_its_parent_s_store_refuses_makes_that_member_dead(broker: RedisBroker) -> None:
    jobs = Jobs(broker)
    child = Clutch().parallel(sized(MEGABYTE // 2 - 1_000) for _ in range(3))
    run = Clutch().parallel(child, jobs.job.message("a"), allow_failures=True).then(jobs.total).run()
    with running_worker(broker):
        assert run.get_result(block=True) == [None, "a"]


def test_a_callback_that_a_result_makes_too_large_is_told_in_the_status_and_the_run_has_succeeded(
    broker: RedisBroker,
) -> None:
    jobs, told = Jobs(broker), list[Any]()

    @dramatiq.actor
    def store(result: Any, status: dict[str, Any]) -> None:
        told.append(result)

    run = (
        Clutch(on_success=[with_result(store), jobs.heard.message("root")])
        .parallel(sized(MEGABYTE // 2 - 1_000) for _ in range(3))
        .run()
    )
    with running_worker(broker):
        jobs.wait_fired("root", "S")
        wait_until("the error", lambda: run.status().error)
        assert len(run.get_result()) == 3
    error = run.status().error
    assert error is not None
    assert error.exception_type == "PayloadRefused"
    assert (run.status().state, told) == ("succeeded", [])


def test_a_message_that_the_broker_refuses_fails_the_run(broker: RedisBroker) -> None:
    jobs = Jobs(broker)
    argument = "y" * (600 * 1024)
    run = Clutch().then(sized(600 * 1024)).then(jobs.job.message(argument), pipe=True).run()
    with running_worker(broker):
        state_is(run, "failed")
    error = run.status().error
    assert error is not None
    assert error.exception_type == "PayloadRefused"
    assert run.status().stages[0].succeeded == 1
    assert argument not in jobs.began


def test_large_results_that_the_server_takes_go_through(broker: RedisBroker) -> None:
    @dramatiq.actor
    def measures() -> list[int]:
        return [len(result) for result in previous_results()]

    run = Clutch().parallel(sized(900 * 1024) for _ in range(6)).then(measures).run()
    with running_worker(broker):
        assert run.get_result(block=True) == [900 * 1024] * 6
    assert not run.status().failures


# Is it refused, or is the server away?


@pytest.fixture
def proxied(proxy: Proxy, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisBroker]:
    monkeypatch.setattr("dramatiq.worker.POST_PROCESS_MESSAGE_RETRY_DELAY_SECS", 0.01)
    monkeypatch.setattr(resp, "PAUSES", (0.01, 0.01))
    with proxy.client() as client:
        broker = RedisBroker(client=client, namespace=f"dramatiq-{uuid.uuid4().hex[:8]}")
        with as_global_broker(broker):
            yield broker


def test_a_connection_that_closes_on_the_payload_three_times_while_small_calls_work_is_a_refusal(
    proxied: RedisBroker, proxy: Proxy
) -> None:
    run = Clutch().then(sized(LARGE)).run()
    rule = proxy.cut("record", times=3)
    with running_worker(proxied):
        state_is(run, "failed")
    assert rule.met == 3
    (failure,) = run.status().failures
    assert failure.exception_type == "PayloadRefused"
    assert "the connection was closed 3 times, while a small call worked" in failure.exception_text


def test_a_connection_that_closes_twice_is_not_a_refusal(proxied: RedisBroker, proxy: Proxy) -> None:
    run = Clutch().then(sized(LARGE)).run()
    rule = proxy.cut("record", times=2)
    with running_worker(proxied):
        state_is(run, "succeeded")
    assert rule.met == 2


def test_a_server_that_does_no_small_call_either_is_away(
    proxied: RedisBroker, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    run = Clutch().then(sized(LARGE)).run()
    rule, small = proxy.cut("record"), proxy.answer("EVAL", "-ERR upstream failure")
    with running_worker(proxied):
        wait_until("it has been tried often", lambda: rule.met >= 4 and small.met >= 4)
        assert run.status().state == "running"
        proxy.lift()
        state_is(run, "succeeded")
    assert "waits, unacked" in caplog.text


def test_a_connection_that_closes_on_a_small_payload_is_no_refusal(proxied: RedisBroker, proxy: Proxy) -> None:
    run = Clutch().then(sized(LARGE - 10_000)).run()
    rule = proxy.cut("record", times=4)
    with running_worker(proxied):
        state_is(run, "succeeded")
    assert rule.met == 4


@pytest.mark.parametrize(
    ("size", "answer", "state"),
    [
        (LARGE, "-ERR Protocol error: invalid bulk length", "failed"),
        (LARGE, "-ERR Protocol error: too big mbulk count string", "failed"),
        (10, "-ERR string exceeds maximum allowed size (proto-max-bulk-len)", "failed"),
        (10, "-ERR max request size exceeded. Limit: 1048576 bytes, Actual: 2000000 bytes", "failed"),
        (10, "-ERR Protocol error: invalid bulk length", "succeeded"),  # something was garbled on the way
    ],
)
def test_a_server_s_own_word_is_a_refusal(
    proxied: RedisBroker, proxy: Proxy, size: int, answer: str, state: str
) -> None:
    run = Clutch().then(sized(size)).run()
    proxy.answer("record", answer, times=1)
    with running_worker(proxied):
        state_is(run, state)


def test_a_refused_result_is_not_its_neighbour_s_in_the_same_call(proxied: RedisBroker, proxy: Proxy) -> None:
    backend: Any = engine_of(proxied).backend
    jobs = Jobs(proxied)
    run = Clutch().parallel(jobs.job.message(name) for name in "abc").run()
    engine, tags = engine_of(proxied), [Tag(run.run_id, 0, member, 3, 0) for member in range(3)]
    proxy.answer("succeed", "-ERR string exceeds maximum allowed size (proto-max-bulk-len)", times=1)
    record = Record(tags[0], 0, "succeeded", b"1")
    assert backend.record(record, engine.caller("a", touch=False)).word == "counts"  # sent once more, by itself


def test_records_of_middling_size_share_a_call_only_as_long_as_it_is_small(proxied: RedisBroker) -> None:
    backend: Any = engine_of(proxied).backend
    jobs = Jobs(proxied)
    run = Clutch().parallel(jobs.job.message(str(number)) for number in range(9)).run()
    calls: list[int] = []
    works = backend._run  # noqa: SLF001

    def counted(name: str, keys: dict[str, str], given: dict[str, Any], results: list[Any], **options: Any) -> Any:
        calls.append(resp.size_of(results))
        return works(name, keys, given, results, **options)

    backend._run = counted  # noqa: SLF001
    tags = [Tag(run.run_id, 0, member, 9, 0) for member in range(8)]
    records = [Record(tag, 0, "succeeded", b"x" * (LARGE // 5)) for tag in tags]
    words = backend.succeed_together([Success(record, None, "", "") for record in records])
    assert words == [b"counts"] * 8
    assert len(calls) == 4
    assert max(calls) < LARGE
