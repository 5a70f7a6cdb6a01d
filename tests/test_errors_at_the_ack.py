"""Whatever isn't recorded isn't acked: an error is final only where it is known to be, all others are waited for."""

from __future__ import annotations

import dataclasses
import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import Message
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.errors import ActorNotFound, ConnectionFailed, QueueNotFound
from dramatiq.middleware import MiddlewareError
from dramatiq.middleware.time_limit import TimeLimitExceeded
from redis.exceptions import RedisClusterException

from dramatiq_clutch import Clutch, ClutchMiddleware, brokers, patience
from dramatiq_clutch.backends.redis import RedisCourier, resp
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.errors import (
    BrokerUnavailable,
    HandOverFailed,
    HookFailed,
    NotConfigured,
)
from dramatiq_clutch.patience import NotAcked
from tests.conftest import as_global_broker, running_worker
from tests.support.awaiting import wait_until
from tests.support.jobs import Jobs
from tests.support.proxy import Proxy, Rule, name_of

#: What a server answers, and what the log then tells the operator.
ANSWERS = {
    "NOPERM": ("-NOPERM User clutch has no permissions to run the 'evalsha' command", "README.md, Least privilege"),
    "upstream": ("-ERR upstream failure", "see the server's log"),
    "NOAUTH": ("-NOAUTH Authentication required.", "check user and password"),
    "WRONGTYPE": ("-WRONGTYPE Operation against a key holding the wrong kind of value", "remove it"),
    "unknown": ("-STRANGE things happen", "see the server's log"),
}

#: What it is waited through, by name, and what the log then tells.
ERRORS = {name: hint for name, (_, hint) in ANSWERS.items()} | {
    "closed": "is it running?",
    "ours": "a fault of ours",
    "cluster": "is the cluster up?",
}

#: Where a job's way to its ack leads it. `enqueue` is the broker's, all others are the state store's.
PLACES = ["guard", "record", "succeed", "confirm", "owed", "enqueue"]

#: One error of each kind: an answer of the server, a connection that is cut, what goes wrong before anything is sent.
KINDS = ("upstream", "closed", "ours")


def every_error_everywhere() -> Iterator[Any]:
    """Each place with each error. Of those, every error at one place and one kind of error at each place are quick:
    what an error is taken for doesn't depend on the place, nor what a place does on more than its kind."""
    for place in PLACES:
        for error in ERRORS:
            is_quick = place == "record" or error == KINDS[PLACES.index(place) % len(KINDS)]
            yield pytest.param(place, error, marks=() if is_quick else pytest.mark.search)


@pytest.fixture
def broker(proxy: Proxy, redis_client: redis.Redis) -> Iterator[RedisBroker]:
    """A broker, and the state of its runs, on the other side of the proxy."""
    with broker_on(proxy.client()) as broker:
        yield broker


@contextmanager
def broker_on(client: redis.Redis) -> Iterator[RedisBroker]:
    with client:
        broker = RedisBroker(client=client, namespace=f"dramatiq-{uuid.uuid4().hex[:8]}")
        with as_global_broker(broker):
            yield broker


def unacked(broker: RedisBroker, client: redis.Redis) -> set[Any]:
    """What the messages that the broker still has are called: their first argument, or their actor."""
    stored: Any = client.hvals(f"{broker.namespace}:default.msgs")
    messages = [Message.decode(data) for data in stored]
    return {message.args[0] if message.args else message.actor_name for message in messages}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """All that we have warned of, and what Dramatiq says of our hooks."""
    return [
        record.getMessage() + (record.exc_text or "")
        for record in caplog.records
        if record.levelno >= logging.WARNING
        and (record.name.startswith("dramatiq_clutch") or "ClutchMiddleware" in record.getMessage())
    ]


def fail_at(place: str, error: str, broker: RedisBroker, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Rule:
    """Have each call of this kind meet the error until the rule is lifted."""
    if error in ANSWERS:
        return proxy.answer(place, ANSWERS[error][0])
    if error == "closed":
        return proxy.cut(place)
    # What is met in this process itself: either goes wrong before anything is sent.
    rule = Rule(place)
    backend: Any = engine_of(broker).backend

    def broken(owner: Any, method: str, raised: Exception, *, names: Callable[[Any], str]) -> None:
        works = getattr(owner, method)

        def breaks(*args: Any, **options: Any) -> Any:
            if rule.holds and names(args) == place:
                rule.met += 1
                raise raised
            return works(*args, **options)

        monkeypatch.setattr(owner, method, breaks)

    if error == "ours":
        broken(backend, "_run", TypeError("a fault of ours"), names=lambda args: args[0])
        broken(RedisCourier, "_send", TypeError("a fault of ours"), names=lambda args: "enqueue")
    else:
        raised = RedisClusterException("Redis Cluster cannot be connected")
        broken(backend.calls, "_evaluate", raised, names=name_of)
        broken(RedisCourier, "_send", raised, names=lambda args: "enqueue")
    monkeypatch.setattr(resp, "FEW", 0)  # confirmations go by themselves, past what is broken here
    return rule


@pytest.mark.parametrize(("place", "error"), list(every_error_everywhere()))
def test_any_error_keeps_the_message_unacked_and_the_run_ends_right_once_it_is_over(
    place: str,
    error: str,
    broker: RedisBroker,
    proxy: Proxy,
    redis_client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs, engine = Jobs(broker), engine_of(broker)
    jobs.script["a"], jobs.script["b"], jobs.script["c"] = ["wait"], ["wait"], ["wait"] * 10
    both = place in ("succeed", "owed")
    members = [jobs.job.message(name) for name in ("a", "b")][: 2 if both else 1]
    run = Clutch().parallel(*members).then(jobs.several.message("c", 2)).run()
    stored: Any = redis_client.hvals(f"{broker.namespace}:default.msgs")
    copy = next(message for message in map(Message.decode, stored) if message.args == ("a",))

    engine.is_due(run.run_id)  # or the first record would put the run's expiry off, and not be a common one
    engine.remembered.wanted.clear()  # or the guard wouldn't be asked so soon
    rule = fail_at(place, error, broker, proxy, monkeypatch) if place == "guard" else Rule(place)
    with running_worker(broker):
        if place != "guard":
            wait_until("all are at work", lambda: len(jobs.began) == len(members))
            engine.remembered.ahead.clear()  # or what follows would be sent by the record itself
        if place == "owed":
            jobs.gates["a"].set()
            wait_until("a is acked", lambda: unacked(broker, redis_client) == {"b"})
            engine.remembered.wanted.clear()
        if place != "guard":
            rule = fail_at(place, error, broker, proxy, monkeypatch)
        jobs.gates["a"].set()
        if place == "owed":
            broker.enqueue(copy)  # of a job that is done
        wait_until(f"{place} has met it", lambda: rule.met >= 3)

        assert "a" in unacked(broker, redis_client)
        rule.lift()
        jobs.gates["b"].set()
        jobs.gates["c"].set()
        assert run.get_result(block=True) == ["c0", "c1"]
        wait_until("all are acked", lambda: unacked(broker, redis_client) == set())

    counts = jobs.counts()
    assert counts.pop("c") == 1 or place == "confirm"  # what isn't confirmed is sent again
    assert counts == ({"a": 1, "b": 1} if both else {"a": 1})
    (told,) = warnings(caplog)
    assert "waits, unacked, until this is over" in told
    assert ERRORS[error] in told


def test_what_goes_on_for_long_is_told_again(
    broker: RedisBroker, proxy: Proxy, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "TELL_AGAIN", 0.5)
    jobs = Jobs(broker)
    run = Clutch().then(jobs.job.message("a")).run()
    proxy.answer("record", "-ERR upstream failure")
    with running_worker(broker):
        wait_until("it is told again", lambda: "still waits, after" in caplog.text)
        proxy.lift()
        assert run.get_result(block=True) == "a"
    first, *others = warnings(caplog)
    assert "waits, unacked" in first
    assert all("still waits, after" in line for line in others)


def test_a_fault_of_ours_is_told_with_its_traceback(
    stub_broker: StubBroker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = Jobs(stub_broker)
    run = Clutch().then(jobs.job.message("a")).run()
    rule = break_for(monkeypatch, engine_of(stub_broker).backend, "record", TypeError("a fault of ours"), times=2)
    with running_worker(stub_broker):
        assert run.get_result(block=True) == "a"
    assert rule.met == 2
    (told,) = warnings(caplog)
    assert "Traceback" in told
    assert "a fault of ours" in told


def break_for(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: BaseException, *, times: int | None = None
) -> Rule:
    """Have a function raise so many times, or until the rule is lifted."""
    works, rule = getattr(owner, name), Rule(name, times=times)

    def breaks(*args: Any, **options: Any) -> Any:
        if rule.holds:
            rule.met += 1
            raise error
        return works(*args, **options)

    monkeypatch.setattr(owner, name, breaks)
    return rule


def test_a_fault_in_a_leaders_share_keeps_its_job_waiting_and_the_stage_is_sent(
    broker: RedisBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    jobs, (hook,) = Jobs(broker), [known for known in broker.middleware if isinstance(known, ClutchMiddleware)]
    engine = dataclasses.replace(engine_of(broker), share=2)
    hook._engines[broker] = engine  # noqa: SLF001
    names = [str(number) for number in range(20)]
    run = Clutch().parallel(jobs.job.message(name) for name in names).then(jobs.total).run()
    rule = break_for(monkeypatch, engine.backend, "owed", TypeError("a fault of ours"), times=3)
    with running_worker(broker, threads=1):
        assert run.get_result(block=True) == names
    assert rule.met == 3
    assert jobs.counts() == dict.fromkeys(names, 1) | {"total": 1}
    assert "waits, unacked" in warnings(caplog)[0]


def test_nothing_but_what_keeps_the_message_leaves_the_hook_before_the_ack(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch, redis_client: redis.Redis
) -> None:
    jobs = Jobs(redis_broker)
    run = Clutch().then(jobs.job.message("a")).run()
    break_for(monkeypatch, engine_of(redis_broker).backend, "record", TimeLimitExceeded(), times=1)
    with running_worker(redis_broker):
        wait_until("a has run", lambda: jobs.began)
        # Its thread goes on with other messages.
        assert Clutch().then(jobs.job.message("b")).run().get_result(block=True) == "b"
    assert unacked(redis_broker, redis_client) == {"a"}
    assert run.status().state == "running"
    (hook,) = [known for known in redis_broker.middleware if isinstance(known, ClutchMiddleware)]
    break_for(monkeypatch, hook, "_engine", RuntimeError("a fault of ours"))
    (data,) = redis_client.hvals(f"{redis_broker.namespace}:default.msgs")
    with pytest.raises(NotAcked, match="a fault of ours"):
        hook.before_ack(redis_broker, dramatiq.MessageProxy(Message.decode(data)))  # type: ignore[arg-type]


@pytest.mark.parametrize("verb", ["run", "retry"])
def test_a_producer_survives_a_fault_in_its_hand_over_and_a_worker_does_it(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, verb: str
) -> None:
    redis_broker.middleware[:] = [hook for hook in redis_broker.middleware if not isinstance(hook, ClutchMiddleware)]
    redis_broker.add_middleware(ClutchMiddleware(lease=100, sweep_interval=50))
    jobs = Jobs(redis_broker)
    run = None
    if verb == "retry":
        jobs.script["a"] = ["die"]
        run = Clutch().then(jobs.job.message("a")).run()
        with running_worker(redis_broker):
            wait_until("it is dead", lambda: run and run.status().state == "failed")
    caplog.clear()
    break_for(monkeypatch, RedisCourier, "_send", TypeError("a fault of ours"), times=1)
    if run is None:
        run = Clutch().then(jobs.job.message("a")).run()
    else:
        assert run.retry()
    (told,) = warnings(caplog)
    assert "a worker will" in told.lower()
    assert "Traceback" in told
    with running_worker(redis_broker):
        assert run.get_result(block=True) == "a"


# The broker's errors


class Odd(StubBroker):
    """A broker that raises what it is told to, for messages to this actor."""

    error: BaseException | None = None
    actor_name = "total"

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        if self.error is not None and message.actor_name == self.actor_name:
            raise self.error
        return super().enqueue(message, delay=delay)


@pytest.fixture
def odd_broker() -> Iterator[Odd]:
    broker = Odd()
    with as_global_broker(broker):
        yield broker
        broker.flush_all()


@pytest.mark.parametrize(
    "error",
    [
        ConnectionFailed.__mro__[1]("a connection error that is neither failed nor closed"),
        OSError("no route to host"),
        TimeoutError(),
        RuntimeError("nobody has seen this before"),
        redis.TimeoutError("Timeout reading from socket"),
    ],
    ids=repr,
)
def test_any_error_of_a_broker_is_waited_for(
    odd_broker: Odd, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    jobs = Jobs(odd_broker)
    run = Clutch().then(jobs.job.message("a")).then(jobs.total).run()
    odd_broker.error = error
    with running_worker(odd_broker):
        wait_until("the job waits", lambda: "the broker can't be used for now" in caplog.text)
        odd_broker.error = None
        assert run.get_result(block=True) == ["a"]
    assert len(warnings(caplog)) == 1
    assert jobs.counts() == {"a": 1, "total": 1}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ActorNotFound("total"), "ActorNotFound"),
        (QueueNotFound("default"), "QueueNotFound"),
        (MiddlewareError("not this one"), "HookFailed"),
        (RuntimeError("PRECONDITION_FAILED - message size 2 is larger than configured max size 1"), "PayloadRefused"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_known_to_be_final_fails_the_run(odd_broker: Odd, error: Exception, told: str) -> None:
    jobs = Jobs(odd_broker)
    run = Clutch().then(jobs.job.message("a")).then(jobs.total).run()
    odd_broker.error = error
    with running_worker(odd_broker):
        wait_until("the run has failed", lambda: run.status().state == "failed")
    failure = run.status().error
    assert failure is not None
    assert failure.exception_type == told
    assert str(error) in failure.exception_text


@pytest.mark.parametrize(
    ("error", "delay", "raised"),
    [
        (ValueError("delay must be below 7 days"), 10**9, HandOverFailed),
        (ValueError("anything"), None, BrokerUnavailable),
        (MiddlewareError("no"), None, HookFailed),
    ],
)
def test_a_broker_says_what_it_does_not_take(
    odd_broker: Odd, error: Exception, delay: int | None, raised: type[Exception]
) -> None:
    jobs = Jobs(odd_broker)
    odd_broker.error = error
    with pytest.raises(raised):
        engine_of(odd_broker).courier.send([(jobs.total.message(), delay)])


@pytest.mark.parametrize("kind", ["redis", "stub"])
def test_a_message_that_cannot_be_encoded_fails_the_run(
    request: pytest.FixtureRequest, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker: dramatiq.Broker = request.getfixturevalue(f"{kind}_broker")
    engine_of(broker).backend._encoder = dramatiq.PickleEncoder()  # noqa: SLF001
    jobs = Jobs(broker)

    @dramatiq.actor(broker=broker)
    def pickles() -> Any:
        return {1, 2, 3}  # a set, which messages, in JSON, can't have

    run = Clutch().then(pickles).then(jobs.job.message("a"), pipe=True).run()
    with running_worker(broker):
        wait_until("the run has failed", lambda: run.status().state == "failed")
    failure = run.status().error
    assert failure is not None
    assert failure.exception_type == "HandOverFailed"
    assert "can't be encoded" in failure.exception_text


def test_a_callback_whose_next_attempt_nobody_can_decide_on_is_a_dead_letter(
    redis_broker: RedisBroker, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dramatiq.worker.POST_PROCESS_MESSAGE_RETRY_DELAY_SECS", 0.01)

    def confused(retries: int, error: BaseException) -> bool:
        raise RuntimeError("retry_when is confused")

    @dramatiq.actor(retry_when=confused)
    def fragile(status: dict[str, Any]) -> None:
        raise ValueError("it fails")

    Clutch(on_success=fragile).run()
    with running_worker(redis_broker):
        wait_until("it is a dead letter", lambda: redis_client.zcard(f"{redis_broker.namespace}:default.XQ") == 1)


# A middleware that isn't set up


class Foreign(StubBroker):
    """To the middleware any other broker: one that has no Redis client, and isn't known to be in memory."""


def test_a_worker_without_a_backend_does_not_boot_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(brokers, "StubBroker", RedisBroker)  # so this isn't one whose state is kept in memory
    broker = Foreign()
    broker.add_middleware(ClutchMiddleware())
    worker = dramatiq.Worker(broker)
    with pytest.raises(NotConfigured, match=r"Foreign has no Redis client\. Pass a backend"):
        worker.start()
    assert warnings(caplog) == []


def test_a_middleware_without_a_backend_leaves_plain_messages_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(brokers, "StubBroker", RedisBroker)
    broker, ran = Foreign(), list[int]()
    hook = ClutchMiddleware()
    monkeypatch.setattr(hook, "before_worker_boot", lambda *_: None)  # as in a worker whose own code goes past it
    broker.add_middleware(hook)

    @dramatiq.actor(broker=broker)
    def plain(number: int) -> None:
        ran.append(number)

    plain.send(1)
    with running_worker(broker):
        broker.join("default", timeout=10_000)
    assert ran == [1]
    assert warnings(caplog) == []
