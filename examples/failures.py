"""What happens when jobs fail: who is told, what can go on without them, and how to bring them back.

python examples/failures.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from running import REDIS_URL, interrupt_at_the_next_pause, pause, server_and_workers

from dramatiq_clutch import Clutch, ClutchMiddleware, Run, RunFailed, previous_failures, previous_results

broker = RedisBroker(url=REDIS_URL, namespace="failures")
broker.add_middleware(ClutchMiddleware())
dramatiq.set_broker(broker)

REPAIRED = "failures:repaired"


@dramatiq.actor(max_retries=1, min_backoff=50, max_backoff=50)
def load(shop: str) -> str:
    if shop == "closed" and not broker.client.exists(REPAIRED):
        raise ConnectionError(f"shop {shop!r} doesn't answer")
    return f"sales of {shop}"


@dramatiq.actor
def report() -> dict[str, Any]:
    """A merging job can tell which members are missing, and why."""
    missing = [f"member {failure.index}: {failure.exception_text}" for failure in previous_failures()]
    return {"sales": previous_results(), "missing": missing}


@dramatiq.actor
def tell(status: dict[str, Any]) -> None:
    """A callback gets the run's status, with the event, as its last argument."""
    why = "; ".join(failure["exception_text"] for failure in status["failures"])
    broker.client.rpush("failures:told", f"{status['event']}: {status['state']}" + (f" ({why})" if why else ""))
    broker.client.expire("failures:told", 60)


SHOPS = ["north", "closed", "south"]
LOADS = [load.message(shop) for shop in SHOPS]


def show_told(count: int) -> None:
    """Print what the callbacks have told, when all of it is there."""
    wait_for(lambda: int(broker.client.llen("failures:told")) >= count)
    lines: list[Any] = broker.client.lrange("failures:told", 0, -1)
    for told in lines:
        print("   told", told.decode())
    broker.client.delete("failures:told")


def wait_for(condition: Callable[[], Any]) -> None:
    while not condition():
        pause(0.02)


def main() -> int:
    interrupt_at_the_next_pause()
    with server_and_workers(__file__):
        broker.client.delete(REPAIRED, "failures:told")

        print("1. Failures allowed: the report comes without the closed shop.")
        tolerant = Clutch(on_death=tell).parallel(LOADS, allow_failures=True).then(report)
        result = tolerant.run().get_result(block=True, timeout=30_000)
        print("  ", result)
        show_told(1)

        print("2. All needed: the run fails, everybody is told once, and nobody waits for ever.")
        strict = Clutch(on_failure=tell, on_death=tell, on_success=tell, on_finish=tell).parallel(LOADS).then(report)
        run = strict.run(run_id="sales-2026-11")
        try:
            run.get_result(block=True, timeout=30_000)
        except RunFailed as error:
            print("  ", error)
        show_told(3)

        print("3. The shop is open again: only the dead job is sent again, and the run goes on.")
        broker.client.set(REPAIRED, 1, ex=60)
        Run("sales-2026-11").retry()  # any process that knows the id can do it
        print("  ", run.get_result(block=True, timeout=30_000))
        show_told(2)
        broker.client.delete(REPAIRED)
    return 0


if __name__ == "__main__":
    sys.exit(main())
