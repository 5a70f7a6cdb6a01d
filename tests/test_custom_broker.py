"""The example of a broker of one's own delivers at least once, by itself. What holds of clutches on every broker is
shown on it, too, with `CLUTCH_TESTS_BROKERS=custom`."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from dramatiq.errors import ConnectionClosed, QueueNotFound

from tests.support.brokers import sqlite_broker

example = sqlite_broker()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the broker takes for the time, in milliseconds; a consumer that finds nothing doesn't wait."""
    times = [1_000_000]
    monkeypatch.setattr(example, "now", lambda: times[0])
    monkeypatch.setattr("time.sleep", lambda _: None)
    return times


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "queue.sqlite")


def process(path: str) -> Any:
    """A broker as another process would have it."""
    broker = example.SQLiteBroker(path, lease=60_000, middleware=[])
    broker.declare_queue("default")
    return broker


def message(**options: Any) -> dramatiq.Message[Any]:
    return dramatiq.Message(queue_name="default", actor_name="job", args=(), kwargs={}, options=options)


def test_what_is_acked_is_gone_and_what_is_rejected_stays_as_a_dead_letter(path: str) -> None:
    broker = process(path)
    good, bad = broker.enqueue(message()), broker.enqueue(message())
    consumer = broker.consume("default", prefetch=2)
    first, second = next(consumer), next(consumer)
    assert (first.message_id, second.message_id) == (good.message_id, bad.message_id)
    consumer.ack(first)
    consumer.nack(second)
    assert broker.execute("SELECT id, dead, holder FROM messages") == [(second.row, 1, None)]


def test_a_consumer_holds_no_more_than_it_may_and_gives_back_what_was_not_begun(path: str, clock: list[int]) -> None:
    broker = process(path)
    for _ in range(3):
        broker.enqueue(message())
    consumer = broker.consume("default", prefetch=2)
    first, second = next(consumer), next(consumer)
    assert next(consumer) is None
    consumer.ack(first)
    assert next(consumer) is not None
    consumer.requeue([second])
    assert next(process(path).consume("default")).row == second.row


def test_what_a_silent_worker_holds_comes_again_and_what_a_living_one_holds_does_not(
    path: str, clock: list[int]
) -> None:
    process(path).enqueue(message())
    alive = process(path).consume("default")
    fetched = next(alive)
    for _ in range(5):
        clock[0] += 20_000
        assert next(alive) is None
        assert next(process(path).consume("default")) is None
    clock[0] += 60_000
    again = process(path).consume("default")
    assert next(again).row == fetched.row
    alive.ack(fetched)  # it comes too late: another one holds the message now
    assert again.broker.execute("SELECT count(*) FROM messages") == [(1,)]


def test_an_error_of_the_consumers_loses_nothing_of_what_it_holds(path: str, clock: list[int]) -> None:
    broker = process(path)
    broker.enqueue(message())
    fetched = next(broker.consume("default"))
    anew = broker.consume("default")  # as the worker makes it after an error
    clock[0] += 50_000
    assert next(anew) is None
    clock[0] += 50_000
    assert next(process(path).consume("default")) is None
    anew.ack(fetched)
    assert broker.execute("SELECT count(*) FROM messages") == [(0,)]


def test_a_message_comes_when_its_delay_is_over(path: str, clock: list[int]) -> None:
    broker = process(path)
    broker.enqueue(message(), delay=5_000)
    clock[0] += 4_999
    assert next(broker.consume("default")) is None
    clock[0] += 1
    assert next(broker.consume("default")) is not None


def test_copies_of_a_message_are_all_delivered(path: str) -> None:
    broker, one = process(path), message()
    broker.enqueue(one)
    broker.enqueue(one.copy())
    consumer = broker.consume("default", prefetch=2)
    assert [next(consumer).message_id for _ in range(2)] == [one.message_id] * 2


def test_what_cannot_be_read_is_a_dead_letter(path: str, clock: list[int]) -> None:
    broker = process(path)
    broker.execute(example.PUT, "default", b"no message", 0)
    assert next(broker.consume("default")) is None
    assert broker.execute("SELECT dead FROM messages") == [(1,)]


def test_what_is_wrong_with_the_file_is_a_connection_error(path: str) -> None:
    broker = process(path)
    with sqlite3.connect(path) as other:
        other.execute("DROP TABLE messages")
    with pytest.raises(ConnectionClosed, match="no such table"):
        broker.enqueue(message())
    with pytest.raises(ConnectionClosed, match="no such table"):
        next(broker.consume("default"))


def test_a_queue_that_nobody_has_declared_is_none(path: str) -> None:
    with pytest.raises(QueueNotFound):
        example.SQLiteBroker(path, middleware=[]).enqueue(message())
