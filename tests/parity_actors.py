"""Actors that write down what they see, for real worker processes."""

from __future__ import annotations

import json
import os
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import CurrentMessage

from dramatiq_clutch import Clutch, ClutchMiddleware, previous_results

LOG = "log"

CALLBACKS = ("on_failure", "on_death", "on_success", "on_finish")


def make_broker(url: str) -> RedisBroker:
    broker = RedisBroker(url=url)
    broker.add_middleware(ClutchMiddleware())
    if not any(isinstance(middleware, CurrentMessage) for middleware in broker.middleware):
        broker.add_middleware(CurrentMessage())  # not among the defaults of older releases
    broker.declare_queue("critical")
    return broker


class Actors:
    """What the jobs write goes to one list, in the order in which it happens."""

    def __init__(self, broker: RedisBroker) -> None:
        client = broker.client

        def log(**entry: Any) -> None:
            message: Any = CurrentMessage.get_current_message()
            client.rpush(LOG, json.dumps({**entry, "queue": message.queue_name}))

        def wait_for(key: str) -> None:
            client.blmove(key, key, 30)

        @dramatiq.actor(broker=broker)
        def see(name: str) -> str:
            log(name=name, sees=previous_results())
            return name

        @dramatiq.actor(broker=broker, queue_name="own")
        def see_elsewhere(name: str) -> str:
            log(name=name, sees=previous_results())
            return name

        @dramatiq.actor(broker=broker)
        def plain() -> str:
            """Any actor of an application, which has never heard of clutches."""
            log(name="plain")
            return "plain"

        @dramatiq.actor(broker=broker, min_backoff=10, max_backoff=10)
        def fail_times(name: str, times: int, gate: str | None = None) -> str:
            if gate is not None:
                wait_for(gate)
            tries = client.incr(f"tries:{name}")
            log(name=name, attempt=tries)
            if tries <= times:
                raise ValueError(f"{name} fails")
            return name

        @dramatiq.actor(broker=broker)
        def wait(name: str, for_key: str, then_key: str | None = None) -> str:
            wait_for(for_key)
            log(name=name)
            if then_key is not None:
                client.rpush(then_key, 1)
            return name

        @dramatiq.actor(broker=broker, max_retries=0)
        def die() -> None:
            raise ValueError("dies")

        @dramatiq.actor(broker=broker, queue_name="own")
        def alert(status: dict[str, Any]) -> None:
            log(name="alert", stage=status["stage"], failing=status["stages"][status["stage"]]["failing"])

        @dramatiq.actor(broker=broker, queue_name="own")
        def heard(who: str, status: dict[str, Any]) -> None:
            client.rpush(f"heard:{who}", f"{status['event']} {status['state']}")

        @dramatiq.actor(broker=broker)
        def nests(clutch: str, *args: Any) -> Any:
            """The child's callbacks are the parent's, under its own name."""
            listener: Any = heard
            callbacks: Any = {option: listener.message("child") for option in CALLBACKS}
            return Clutch(**callbacks).then(broker.get_actor(clutch).message(*args)).nest()

        @dramatiq.actor(broker=broker, max_retries=0)
        def dies_once(name: str) -> str:
            if client.incr(f"tries:{name}") == 1:
                raise LookupError(f"{name} dies")
            return name

        self.heard, self.nests, self.dies_once = heard, nests, dies_once
        self.see, self.see_elsewhere, self.plain, self.alert = see, see_elsewhere, plain, alert
        self.fail_times, self.wait, self.die = fail_times, wait, die


if "REDIS_URL" in os.environ:
    broker = make_broker(os.environ["REDIS_URL"])
    dramatiq.set_broker(broker)
    Actors(broker)
