"""A duty is confirmed in the round trip that sends its messages, and only if they were sent."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.common import current_millis

from dramatiq_clutch import Clutch, ClutchMiddleware
from dramatiq_clutch.backend import Caller
from dramatiq_clutch.backends import RedisBackend, StubBackend
from dramatiq_clutch.backends.redis import RedisCourier, resp
from dramatiq_clutch.backends.redis.scripts import script
from dramatiq_clutch.courier import Courier
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.errors import StateUnavailable
from dramatiq_clutch.stored.duties import Duty
from tests.conftest import running_worker
from tests.support.awaiting import PATIENCE, wait_until
from tests.support.keyspace import key_of, part_of

QUEUE = "sent"


@dataclass
class Owed:
    """A run that owes the messages of its only stage, and whoever has taken that duty."""

    backend: RedisBackend
    run_id: str
    duty: Duty
    caller: Caller

    def confirm(self, *ids: str, lease: str | None = None) -> bytes:
        caller = Caller(self.caller.owner, self.caller.now, lease or self.caller.lease, self.caller.lease_ms)
        confirmation = self.backend.confirmation(self.run_id, self.duty, caller, QUEUE, ids)
        answer: bytes = resp.ask(self.backend.client, confirmation)
        return answer

    @property
    def is_owed(self) -> bool:
        return bool(self.backend.client.hexists(key_of(self.backend.client, self.run_id, "outbox"), self.duty.id))


@pytest.fixture
def owed(redis_broker: RedisBroker) -> Owed:
    """Of a run of two jobs, one after the other, whose first duty has just been taken once more."""

    @dramatiq.actor
    def job() -> None: ...

    engine = engine_of(redis_broker)
    backend = engine.backend
    assert isinstance(backend, RedisBackend)
    with pytest.MonkeyPatch.context() as patch:  # run() confirms by itself
        patch.setattr(RedisCourier, "send_and_confirm", Courier.send_and_confirm)
        patch.setattr(RedisBackend, "confirm", lambda *_, **__: "confirmed")
        run = Clutch().then(job).then(job).run()
    caller = engine.caller("somebody")._replace(now=current_millis() + 2 * engine.lease_ms)
    (duty,) = backend.owed(run.run_id, caller).duties
    backend.client.script_load(script("confirm").text)
    redis_broker.client.rpush(QUEUE, "an earlier one", "one", "other")
    redis_broker.client.expire(QUEUE, 60)
    return Owed(backend, run.run_id, duty, caller)


@pytest.mark.parametrize("ids", [("other",), ("one", "other"), ("an earlier one", "one", "other")])
def test_a_message_that_is_last_in_the_queue_was_sent(owed: Owed, ids: Sequence[str]) -> None:
    assert owed.confirm(*ids) == b"confirmed"
    assert not owed.is_owed
    assert owed.confirm(*ids) == b"lost"


@pytest.mark.parametrize("ids", [("one",), ("other", "one"), ("one", "lost"), ("lost", "other"), tuple("abcdef")])
def test_a_message_that_is_not_in_the_queue_was_not_sent(owed: Owed, ids: Sequence[str]) -> None:
    assert owed.confirm(*ids) == b"unseen"
    assert owed.is_owed


def test_a_sleeper_confirms_nobody_elses_duty(owed: Owed) -> None:
    assert owed.confirm("other", lease="an old one") == b"lost"
    assert owed.is_owed


def test_what_tidies_a_run_up_is_confirmed_by_itself(owed: Owed) -> None:
    owed.backend.client.hset(f"dramatiq-clutch:{{{owed.run_id}}}:head", "state", "succeeded")
    assert owed.confirm("other") == b"tidy"
    assert owed.is_owed


def test_the_last_confirmation_is_repeated_until_the_run_is_tidied_up(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker is cut off when it has been told that it confirms the last duty."""

    @dramatiq.actor
    def job() -> None: ...

    @dramatiq.actor
    def heard(status: dict[str, Any]) -> None: ...

    backend: Any = engine_of(redis_broker).backend
    works, cut_off = backend._present, list[str]()  # noqa: SLF001

    def present(name: str, *args: Any, **more: Any) -> Any:
        if name == "tidy" and not cut_off:
            cut_off.append(name)
            raise StateUnavailable("the connection is lost")
        return works(name, *args, **more)

    monkeypatch.setattr(backend, "_present", present)
    with running_worker(redis_broker):
        run = Clutch(on_finish=heard).then(job).run()
        run.get_result(block=True)
        key = f"dramatiq-clutch:{{{run.run_id}}}"
        wait_until("nothing is left but status and result", lambda: _keys(redis_broker.client, key) == LEFT)
    assert cut_off


LEFT = {"head", "tombstone", "members:0"}


def _keys(client: redis.Redis, key: str) -> set[str]:
    found = (name.decode() for name in client.scan_iter(f"{key}:*", count=1_000))
    return {part_of(name).removeprefix(f"{key}:") for name in found}


def test_nothing_goes_in_one_step_to_a_broker_and_a_store_that_have_not_one_client(
    redis_broker: RedisBroker, redis_client: redis.Redis
) -> None:
    assert RedisCourier(redis_broker, RedisBackend(client=redis_broker.client)).sends_onward
    assert not RedisCourier(redis_broker, RedisBackend(client=redis_client)).sends_onward
    assert not RedisCourier(redis_broker, StubBackend()).sends_onward


def test_an_enqueue_that_fails_takes_no_confirmation_with_it(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server goes on with the next command after an error."""
    broker, answers = redis_broker, list[list[Any]]()
    away, refused = threading.Event(), threading.Event()
    dispatch: Any = broker.scripts["dispatch"].script
    send, enqueue = resp.send, script("enqueue", dispatch.decode()).sha
    broken = broker.client.register_script("return redis.error_reply('OOM the memory is used up')")
    broker.client.script_load(broken.script)

    def watched(client: redis.Redis, commands: Sequence[resp.Command]) -> list[Any]:
        if away.is_set():
            commands = [[broken.sha if part == enqueue else part for part in command] for command in commands]
        found = send(client, commands)
        if away.is_set() and len(found) == 3:  # what fetches the message goes behind the confirmation
            answers.append(found)
            refused.set()
        return found

    monkeypatch.setattr(resp, "send", watched)
    runs: list[str] = []

    @dramatiq.actor
    def first() -> None:
        runs.append("first")
        away.set()

    @dramatiq.actor
    def last() -> None:
        runs.append("last")

    with running_worker(broker):
        run = Clutch().then(first).then(last).run()
        assert refused.wait(PATIENCE)
        away.clear()
        run.get_result(block=True)
    (enqueued, confirmed, kept), *_ = answers
    assert isinstance(enqueued, redis.ResponseError)
    assert confirmed == b"unseen"
    assert kept == 0 or isinstance(kept, redis.exceptions.NoScriptError)  # it is sent by its name first
    assert runs == ["first", "last"]


@pytest.mark.parametrize("store", ["the broker's", pytest.param("its own", marks=pytest.mark.twice)])
def test_nothing_stays_owed_of_runs_that_have_succeeded(redis_broker: RedisBroker, store: str) -> None:
    """Also where the confirmation can't go along, and where another message gets in between."""

    @dramatiq.actor
    def job() -> None: ...

    @dramatiq.actor(queue_name="elsewhere")
    def other() -> None: ...

    if store == "its own":
        redis_broker.middleware[:] = [one for one in redis_broker.middleware if not isinstance(one, ClutchMiddleware)]
        pool = redis_broker.client.connection_pool
        redis_broker.add_middleware(ClutchMiddleware(RedisBackend(client=redis.Redis(connection_pool=pool))))
    with running_worker(redis_broker):
        for run in [Clutch().then(job).parallel(job, other).then(job).run() for _ in range(20)]:
            run.get_result(block=True)
            wait_until("nothing is owed", partial(_owes_nothing, redis_broker.client, run.run_id))


def _owes_nothing(client: redis.Redis, run_id: str) -> bool:
    return not client.exists(key_of(client, run_id, "outbox"))
