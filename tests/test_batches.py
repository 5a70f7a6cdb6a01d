"""Messages are sent to a `RedisBroker` many at a time, as if each had been enqueued by itself."""

from __future__ import annotations

from typing import Any

import pytest
from dramatiq import Message
from dramatiq.brokers.redis import MAINTENANCE_SCALE, RedisBroker

from dramatiq_clutch.backends.redis import batches
from dramatiq_clutch.backends.redis.batches import TOGETHER, TOGETHER_BYTES, Ready, groups, prepared
from dramatiq_clutch.courier import Courier
from dramatiq_clutch.engine import engine_of


def message(number: int, queue: str = "default", size: int = 0) -> Message[Any]:
    return Message(queue, "job", (number, "x" * size), {}, {}, f"m{number}", 0)


def waiting(broker: RedisBroker, queue: str = "default") -> list[int]:
    """The numbers of the messages in a queue, in their order."""
    client: Any = broker.client
    name = f"{broker.namespace}:{queue}"
    return [Message.decode(client.hget(f"{name}.msgs", one)).args[0] for one in client.lrange(name, 0, -1)]


@pytest.fixture
def courier(redis_broker: RedisBroker) -> Courier:
    for queue in ("default", "other"):
        redis_broker.declare_queue(queue)
    return engine_of(redis_broker).courier


def test_messages_that_go_to_one_queue_are_grouped_up_to_a_number_and_a_size() -> None:
    sizes = [0] * (TOGETHER + 1) + [TOGETHER_BYTES // 2] * 2 + [2 * TOGETHER_BYTES, 0]
    sent = [message(number, size=size) for number, size in enumerate(sizes)] + [message(len(sizes), "other")]
    ready = [Ready.of(*prepared(one, None)) for one in sent]
    found = [[Message.decode(one.data).args[0] for one in group] for group in groups(ready)]
    assert [number for group in found for number in group] == list(range(len(sent)))
    assert list(map(len, found)) == [TOGETHER, 2, 1, 1, 1, 1]


def test_messages_come_into_their_queues_in_order_however_they_are_grouped(
    redis_broker: RedisBroker, courier: Courier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "TOGETHER", 7)
    monkeypatch.setattr(batches, "CHUNK", 40)
    queues = ["other" if number % 30 in (3, 4) else "default" for number in range(100)]
    courier.send([(message(number, queue), 60_000 if number == 50 else None) for number, queue in enumerate(queues)])
    at_once = [number for number in range(100) if number != 50]
    assert waiting(redis_broker) == [number for number in at_once if queues[number] == "default"]
    assert waiting(redis_broker, "other") == [number for number in at_once if queues[number] == "other"]
    assert waiting(redis_broker, "default.DQ") == [50]


def test_messages_are_sent_once_though_the_server_has_forgotten_its_scripts(
    redis_broker: RedisBroker, courier: Courier
) -> None:
    courier.send([(message(number), None) for number in range(TOGETHER)])
    redis_broker.client.script_flush()
    courier.send([(message(TOGETHER + number), None) for number in range(3 * TOGETHER)])
    assert waiting(redis_broker) == list(range(4 * TOGETHER))


def test_a_queue_is_maintained_once_for_all_messages_of_a_call(redis_broker: RedisBroker, courier: Courier) -> None:
    """Dramatiq leaves it to chance for each message: with what a worker does, it's often enough."""

    def looks() -> int:
        found: Any = redis_broker.client.info("commandstats")
        return int(found.get("cmdstat_zrangebyscore", {}).get("calls", 0))

    redis_broker.maintenance_chance = MAINTENANCE_SCALE
    counts = [looks()]
    for jobs in (1, 50):
        courier.send([(message(number), None) for number in range(jobs)])
        counts.append(looks())
    assert counts[2] - counts[1] == counts[1] - counts[0] > 0


def test_a_copy_has_an_id_in_its_queue_that_tells_whose_copy_it_is() -> None:
    (first, _), (second, _) = prepared(message(1), None), prepared(message(1), None)
    ids = [one.options["redis_message_id"] for one in (first, second)]
    assert ids[0] != ids[1]
    assert {one.partition(":")[0] for one in ids} == {"m1"}
