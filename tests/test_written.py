"""Messages of a stage are sent as bytes, without being decoded, where that can be done: they are what they would be."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import dramatiq
import pytest
from dramatiq import Encoder, JSONEncoder, Message, Middleware, PickleEncoder
from dramatiq.brokers.redis import RedisBroker

from dramatiq_clutch import Clutch
from dramatiq_clutch.backends.redis.courier import RedisCourier
from dramatiq_clutch.handover.sending import MANY
from dramatiq_clutch.stored.messages import plain, to_row
from tests.conftest import running_worker

#: What is random, or goes by the clock, in a message: the id of the copy, and when it was sent.
VARIES = re.compile(rb':[0-9a-f]{12}(?=")|(?<="message_timestamp":)\d+|(?<="eta":)\d+')

#: More jobs than it takes.
JOBS = MANY + 5


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many messages were sent as bytes, by each call."""
    found = list[int]()
    send = RedisCourier.send_written

    def noted(self: RedisCourier, messages: Any) -> None:
        found.append(len(messages))
        send(self, messages)

    monkeypatch.setattr(RedisCourier, "send_written", noted)
    return found


@pytest.fixture
def job(redis_broker: RedisBroker) -> Any:
    @dramatiq.actor
    def job(*args: Any, **kwargs: Any) -> Any:
        return [args, kwargs]

    for queue in ("other", "a queue \\ ü"):
        redis_broker.declare_queue(queue)
    return job


def sent(broker: RedisBroker) -> dict[str, list[bytes]]:
    """The messages of a run in each queue, in order, without what varies. Those of nested runs have random ids."""
    client: Any = broker.client
    found = dict[str, list[bytes]]()
    for queue in sorted(broker.get_declared_queues() | broker.get_declared_delay_queues()):
        name = f"{broker.namespace}:{queue}"
        ids = client.lrange(name, 0, -1)
        found[queue] = [VARIES.sub(b"0", client.hget(f"{name}.msgs", one)) for one in ids]
    own = {queue: [one for one in messages if b"~0.0" not in one] for queue, messages in found.items()}
    return {queue: messages for queue, messages in own.items() if messages}


def of(job: Any, number: int) -> Message[Any]:
    hostile = '","options":{},"message_id":"","message_timestamp":0}'
    values = [number, "ü\u2028", hostile, {"member": 2147483647}, [None, 1.5], '\\"', ""]
    kwargs = {"value": values[(number + 1) % len(values)]} if number % 3 else {}
    made: Message[Any] = job.message(values[number % len(values)], **kwargs)
    return made


CLUTCHES: dict[str, tuple[bool, Callable[[list[Message[Any]]], Clutch], dict[str, Any]]] = {
    "plain": (True, lambda jobs: Clutch().parallel(jobs), {}),
    "with a context, args and an id": (
        *(True, lambda jobs: Clutch().parallel(jobs)),
        {"context": {"tenant": 7}, "args": [1], "run_id": "member:2147483647"},
    ),
    "with a limit": (True, lambda jobs: Clutch().parallel(jobs, limit=MANY + 2), {}),
    "that needn't all succeed": (True, lambda jobs: Clutch().parallel(jobs, enough=3), {}),
    "that may die": (True, lambda jobs: Clutch().parallel(jobs, allow_failures=2), {}),
    "with a deadline": (True, lambda jobs: Clutch(deadline=timedelta(hours=1)).parallel(jobs), {}),
    "with timings": (True, lambda jobs: Clutch(timings=True).parallel(jobs), {}),
    "in another queue": (False, lambda jobs: Clutch(queue="other").parallel(jobs), {}),
    "with carried options": (False, lambda jobs: Clutch().parallel(jobs), {"carry": {"correlation_id": "f00"}}),
    "delayed": (False, lambda jobs: Clutch().parallel(jobs), {"delay": 60_000}),
    "one of which has an option": (
        False,
        lambda jobs: Clutch().parallel([*jobs[:-1], jobs[-1].copy(options={"max_retries": 3})]),
        {},
    ),
    "one of which is a nested run": (False, lambda jobs: Clutch().parallel([Clutch().then(jobs[0]), *jobs[1:]]), {}),
    "one of which has a name that is escaped": (
        *(False, lambda jobs: Clutch().parallel([*jobs[:-1], jobs[-1].copy(queue_name="a queue \\ ü")])),
        {},
    ),
    "of few": (False, lambda jobs: Clutch().parallel(jobs[: MANY - 1]), {}),
}


@pytest.mark.parametrize("name", CLUTCHES)
def test_messages_that_are_sent_as_bytes_are_the_same(
    redis_broker: RedisBroker, job: Any, written: list[int], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    is_written, clutch_of, options = CLUTCHES[name]
    monkeypatch.setattr("dramatiq_clutch.starting.new_generation", lambda: "0" * 16)
    found = list[Any]()
    for takes in (True, False):
        if not takes:
            monkeypatch.setattr(RedisCourier, "takes_written", False)
        run = clutch_of([of(job, number) for number in range(JOBS)]).run(**{"run_id": "same", **options})
        found.append(sent(redis_broker))
        run.cancel()
        run.delete()
        redis_broker.flush_all()
    assert sum(map(len, found[0].values())) >= MANY - 1
    assert found[0] == found[1]
    assert bool(written) == is_written


def test_a_wide_stage_is_written_but_for_its_leaders(redis_broker: RedisBroker, written: list[int]) -> None:
    @dramatiq.actor
    def number(value: int) -> int:
        return value

    @dramatiq.actor
    def add(values: list[int]) -> int:
        return sum(values)

    with running_worker(redis_broker, threads=4):
        run = Clutch().parallel(map(number.message, range(700))).then(add, pipe=True).run()
        assert run.get_result(block=True) == sum(range(700))
    assert sum(written) == 600


class Tagging(Middleware):
    """Puts an option into each message that is enqueued."""

    def before_enqueue(self, broker: dramatiq.Broker, message: Message[Any], delay: int | None) -> None:
        message.options["tagged"] = True


class Counting(Middleware):
    """Counts what is enqueued."""

    def __init__(self) -> None:
        self.seen = 0

    def after_enqueue(self, broker: dramatiq.Broker, message: Message[Any], delay: int | None) -> None:
        self.seen += 1


def test_a_hook_sees_every_message(redis_broker: RedisBroker, job: Any, written: list[int]) -> None:
    counting = Counting()
    redis_broker.add_middleware(counting)
    Clutch().parallel(of(job, number) for number in range(JOBS)).run()
    assert counting.seen == JOBS
    redis_broker.flush_all()
    redis_broker.add_middleware(Tagging())
    Clutch().parallel(of(job, number) for number in range(JOBS)).run()
    assert all(Message.decode(one).options["tagged"] for one in sent(redis_broker)["default"])
    assert not written


class Own(JSONEncoder):
    """Another one, though what it writes looks the same."""


@pytest.mark.parametrize("own", [Own(), PickleEncoder()])
def test_what_another_encoder_would_read_is_decoded(
    redis_broker: RedisBroker, job: Any, written: list[int], own: Encoder
) -> None:
    encoder = dramatiq.get_encoder()
    dramatiq.set_encoder(own)
    try:
        Clutch().parallel(of(job, number) for number in range(JOBS)).run()
    finally:
        dramatiq.set_encoder(encoder)
    assert not written


def test_what_is_known_of_a_row_is_its_names_and_its_bytes(job: Any) -> None:
    row = to_row(job.message(1, value="x"))
    found = plain(row)
    assert found is not None
    assert (found.queue, found.actor) == ("default", "job")
    assert found.body == b'{"queue_name":"default","actor_name":"job","args":[1],"kwargs":{"value":"x"}'
    assert plain(to_row(job.message_with_options(args=(1,), max_retries=1))) is None
    assert plain(b"p" + row[1:]) is None
    assert plain(row[:-1]) is None


def test_a_hook_of_a_middleware_that_is_added_later_sees_every_message(
    redis_broker: RedisBroker, job: Any, written: list[int]
) -> None:
    seen = list[str]()

    class Watching(Middleware):
        def before_enqueue(self, broker: dramatiq.Broker, message: Message[Any], delay: int | None) -> None:
            seen.append(message.message_id)

    clutch = Clutch().parallel(of(job, number) for number in range(JOBS))
    clutch.run()
    assert (written, seen) == ([JOBS], [])
    redis_broker.add_middleware(Watching())
    clutch.run()
    assert (written, len(seen)) == ([JOBS], JOBS)
