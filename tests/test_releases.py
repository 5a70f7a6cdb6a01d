"""Workers of several releases in one fleet."""

from __future__ import annotations

from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.redis import RedisBroker
from dramatiq.common import dq_name

from dramatiq_clutch import plan
from dramatiq_clutch.plan import FORMAT, OPTION, Tag
from tests.conftest import running_worker
from tests.support.awaiting import wait_until
from tests.support.jobs import Jobs


class CountDelayed(dramatiq.Middleware):
    """Counts the messages that are sent with a delay."""

    def __init__(self) -> None:
        self.count = 0

    def after_enqueue(self, broker: dramatiq.Broker, message: dramatiq.Message[Any], delay: int | None) -> None:
        self.count += delay is not None


def test_a_message_that_is_left_to_a_newer_release_stays_one_message(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_back = CountDelayed()
    redis_broker.add_middleware(put_back)
    jobs = Jobs(redis_broker)
    tag = Tag("newer", 0, 0, 1, generation="12345678")
    with monkeypatch.context() as newer:
        newer.setattr(plan, "FORMAT", FORMAT + 1)
        option = tag.to_option()
    message = jobs.job.message("a").copy(options={OPTION: option})
    monkeypatch.setattr("dramatiq_clutch.middleware.LEFT_FOR", 10)
    redis_broker.enqueue(message)
    with running_worker(redis_broker):
        wait_until("it has been put back some times", lambda: put_back.count >= 4)
    assert jobs.began == []
    queues = (message.queue_name, dq_name(message.queue_name))
    assert sum(redis_broker.client.hlen(f"{redis_broker.namespace}:{queue}.msgs") for queue in queues) == 1
