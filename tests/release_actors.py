"""Actors for workers of several releases, and, run as a program, a producer of one: it says on one line what it did."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from dramatiq_clutch import Clutch, ClutchMiddleware, Run, previous_results
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.stored.formats import FORMAT
from dramatiq_clutch.stored.plan import Plan, Spec, StageLine, to_row

#: Who has done what, as `{format} {name}`; what callbacks have heard; and what opens the gate of a job that waits.
RAN, HEARD, GATE = "ran", "heard", "gate"

NAMESPACE = "fleet"


def make_broker(url: str) -> RedisBroker:
    broker = RedisBroker(url=url, namespace=NAMESPACE, heartbeat_timeout=2_000, maintenance_chance=1_000_000)
    broker.add_middleware(ClutchMiddleware(lease=1_000, sweep_interval=200))
    return broker


class Jobs:
    def __init__(self, broker: RedisBroker) -> None:
        client = broker.client

        @dramatiq.actor(broker=broker)
        def step(name: str) -> str:
            client.hincrby(RAN, f"{FORMAT} {name}", 1)
            return name

        @dramatiq.actor(broker=broker)
        def waits(name: str) -> str:
            client.hincrby(RAN, f"{FORMAT} {name}", 1)
            while not client.get(GATE):
                client.blpop(["nothing"], timeout=0.05)
            return name

        @dramatiq.actor(broker=broker)
        def total() -> list[Any]:
            client.hincrby(RAN, f"{FORMAT} total", 1)
            return previous_results()

        @dramatiq.actor(broker=broker)
        def nests(name: str) -> Run:
            client.hincrby(RAN, f"{FORMAT} {name}", 1)
            return Clutch(broker=broker).then(waits.message(f"{name}'s own"), total).nest()

        @dramatiq.actor(broker=broker)
        def heard(status: dict[str, Any]) -> None:
            client.hincrby(HEARD, f"{status['run_id']} {status['event']}", 1)

        self.broker, self.step, self.waits, self.total, self.nests, self.heard = (
            broker,
            step,
            waits,
            total,
            nests,
            heard,
        )

    def clutch(self, shape: str) -> Clutch:
        empty, step, total = Clutch(broker=self.broker), self.step, self.total
        return {
            "series": empty.then(step.message("a"), step.message("b"), total),
            "parallel": empty.parallel(step.message("a"), step.message("b")).then(total),
            "nested": empty.parallel(empty.then(step.message("a"), total), step.message("b")).then(total),
            "mapped": empty.parallel(step.message("a"), step.message("b")).map(step).then(total),
            "called": Clutch(broker=self.broker, on_success=self.heard, on_finish=self.heard).then(step.message("a")),
            "nesting": empty.parallel(self.nests.message("n"), step.message("b")).then(total),
        }[shape]

    def abandon(self, run_id: str) -> None:
        """A run whose producer has died between the seal and the first message; its lease has lapsed."""
        engine = engine_of(self.broker)
        caller = engine.caller("run:dead")
        long_ago = replace(caller, now=caller.now - 10 * engine.lease_ms)
        plan = Plan(Spec(), (StageLine(0, 1),), (to_row(self.step.message("a")),))
        engine.backend.create(run_id, plan, long_ago, run_ttl=600_000, result_ttl=600_000)


def main(verb: str, run_id: str) -> Any:
    jobs = Jobs(make_broker(os.environ["FLEET_URL"]))
    if verb == "abandon":
        return jobs.abandon(run_id)
    run = Run(run_id, broker=jobs.broker)
    if verb == "state":
        return run.status().state
    if verb == "result":
        return run.get_result(block=True, timeout=90_000)
    return jobs.clutch(verb).run(run_id=run_id).run_id


if __name__ == "__main__":
    print(json.dumps([FORMAT, main(*sys.argv[1:])]))
elif "FLEET_URL" in os.environ:
    dramatiq.set_broker(Jobs(make_broker(os.environ["FLEET_URL"])).broker)
