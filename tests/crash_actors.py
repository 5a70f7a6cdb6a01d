"""A worker (or, run as a program, a producer) that kills itself at a given call: CRASH="method nth before|after"."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from dramatiq_clutch import Clutch, ClutchMiddleware, Run, previous_results
from dramatiq_clutch.courier import Courier
from dramatiq_clutch.engine import engine_of

BEGAN, HEARD, CRASHED = "began", "heard", "crashed"


def crash_at(client: Any, target: Any, methods: Sequence[str], nth: int, moment: str) -> None:
    """Kill this process before or after the nth call of one of these methods."""
    calls = itertools.count(1)
    for method in methods:
        _crash_at(client, target, method, nth, moment, calls)


def _crash_at(client: Any, target: Any, method: str, nth: int, moment: str, calls: Iterator[int]) -> None:
    works = getattr(target, method)

    def crash() -> None:
        client.set(CRASHED, method)  # Dramatiq's supervisor may wait for ever for one that dies while it boots
        os.kill(os.getpid(), signal.SIGKILL)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        is_the_one = next(calls) == nth  # other threads call it, too
        if is_the_one and moment == "before":
            crash()
        answer = works(*args, **kwargs)
        if is_the_one:
            crash()
        return answer

    setattr(target, method, wrapper)


class Jobs:
    def __init__(self, url: str) -> None:
        self.broker = broker = RedisBroker(url=url, heartbeat_timeout=1_500, maintenance_chance=1_000_000)
        broker.add_middleware(ClutchMiddleware(lease=1_000, sweep_interval=100))
        client = broker.client

        @dramatiq.actor(broker=broker)
        def numbers(name: str) -> list[int]:
            client.hincrby(BEGAN, name, 1)
            return [1, 2, 3]

        @dramatiq.actor(broker=broker)
        def double(name: str, number: int) -> int:
            client.hincrby(BEGAN, f"{name} {number}", 1)
            return 2 * number

        @dramatiq.actor(broker=broker)
        def nests() -> Run:
            client.hincrby(BEGAN, "nests", 1)
            return Clutch(broker=broker).parallel(double.message("nested", n) for n in (1, 2)).nest()

        @dramatiq.actor(broker=broker, min_backoff=10, max_backoff=10)
        def heals() -> str:
            if client.hincrby(BEGAN, "heals", 1) == 1:
                raise ValueError("the first time")
            return "healed"

        @dramatiq.actor(broker=broker)
        def total() -> list[Any]:
            client.hincrby(BEGAN, "total", 1)
            return previous_results()

        @dramatiq.actor(broker=broker)
        def heard(status: dict[str, Any]) -> None:
            client.hincrby(HEARD, status["event"], 1)

        @dramatiq.actor(broker=broker)
        def thousand() -> list[int]:
            return list(range(1_000))

        @dramatiq.actor(broker=broker)
        def count(number: int) -> int:
            client.hincrby(BEGAN, str(number), 1)
            return number

        @dramatiq.actor(broker=broker)
        def add() -> int:
            client.hincrby(BEGAN, "add", 1)
            total: int = sum(previous_results())
            return total

        self.thousand, self.count, self.add = thousand, count, add
        self.numbers, self.double, self.nests, self.heals, self.total, self.heard = (
            numbers,
            double,
            nests,
            heals,
            total,
            heard,
        )

    def clutch(self) -> Clutch:
        """A bit of everything. `RESULT` comes of it."""
        heard, double = self.heard, self.double
        map_double: Any = double
        child = Clutch(broker=self.broker).then(self.numbers.message("inner")).map(map_double.message("child"))
        return (
            Clutch(broker=self.broker, on_success=heard, on_finish=heard)
            .then(self.numbers.message("outer"))
            .map(map_double.message("mapped"))
            .parallel(child, self.nests, self.heals)
            .then(self.total)
        )

    def series(self) -> Clutch:
        """One job after another: each but the first is sent with the record of the one before."""
        return Clutch(broker=self.broker).then(*map(self.count.message, range(8))).parallel(self.add)

    def wide(self) -> Clutch:
        """A stage of a thousand, sent by the worker that has done the job before."""
        return Clutch(broker=self.broker).then(self.thousand).map(self.count).then(self.add)


RESULT = [[2, 4, 6], [2, 4], "healed"]

if "CRASH_URL" in os.environ:
    jobs = Jobs(os.environ["CRASH_URL"])
    broker = jobs.broker
    dramatiq.set_broker(broker)
    if os.environ.get("CRASH"):
        method, nth, moment = os.environ["CRASH"].split()
        backend: Any = engine_of(broker).backend
        courier: Any = engine_of(broker).courier
        target = courier if method == "_send" else backend
        if method == "confirm":  # as where runs are kept on a server of their own
            courier.send_and_confirm = partial(Courier.send_and_confirm, courier)
        methods = ("record", "record_and_send") if method == "record" else (method,)
        crash_at(broker.client, target, methods, int(nth), moment)

if __name__ == "__main__":
    verb = sys.argv[1]
    if verb == "run":
        jobs.clutch().run(run_id="crash")
    else:
        getattr(Run("crash", broker=jobs.broker), verb)()
