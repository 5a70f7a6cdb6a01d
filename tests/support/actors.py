"""Actors for processes of their own, one set for all suites. What they do is written down in the server that they work
from, under the keys below.

A worker that imports this module (`Worker(actors.__name__, env=Setting(url).to_env())`) has the broker and the actors.
Run as a program, with the same environment, it is a producer (`python -m tests.support.actors VERB RUN_ID`), and prints
one line: the format of its release and what came of it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, cast

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import CurrentMessage

from dramatiq_clutch import Clutch, ClutchMiddleware, Run, current_run, previous_results, with_result
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.stored.formats import FORMAT
from dramatiq_clutch.stored.messages import to_row
from dramatiq_clutch.stored.plan import Plan, Spec, StageLine
from tests.support.crashing import crash_at

VARIABLE = "TESTS_ACTORS"

#: A hash: how often each job has begun, by its name.
BEGAN = "began"

#: A set: who has begun which job, as "format name".
RAN = "ran"

#: A list: what jobs have to tell, as JSON, in the order in which they did.
LOG = "log"

#: A list: what callbacks have heard, as "who event state".
HEARD = "heard"

#: The gate of the jobs in `clutch("nesting")`: a key that is set once it's open, as all gates are.
GATE = "gate"

#: How long `clutch("late")` waits, in milliseconds.
WAIT = 1_000

CALLBACKS = ("on_failure", "on_death", "on_success", "on_failed", "on_finish")


@dataclass(frozen=True)
class Setting:
    """What a process has to know of the application that it belongs to. It travels in the environment.

    Parameters:
      url: The server's.
      namespace: The broker's.
      heartbeat: How long a worker may be silent before its messages are given to others, in milliseconds. A worker
        that is looked for after each look for messages, and not after one of a thousand, if this isn't a minute.
      chance: How often Dramatiq looks for such workers, in a million, if not as `heartbeat` says.
      options: Of the `ClutchMiddleware`.
      crash: Where the process kills itself, as `crash_at` takes it; nowhere if it's empty.
    """

    url: str
    namespace: str = "dramatiq"
    heartbeat: int = 60_000
    chance: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    crash: str = ""

    def to_env(self) -> dict[str, str]:
        return {VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def from_env(cls) -> Setting:
        return cls(**json.loads(os.environ[VARIABLE]))


def mortal(url: str, **more: Any) -> Setting:
    """For workers that are killed: they, and what they leave, are found within seconds."""
    return Setting(url, heartbeat=2_000, options={"lease": 1_000, "sweep_interval": 100}, **more)


def make_broker(setting: Setting) -> RedisBroker:
    chance = setting.chance
    if chance is None:
        chance = 1_000 if setting.heartbeat == 60_000 else 1_000_000  # in a million, of a look for silent workers
    broker = RedisBroker(
        url=setting.url,
        namespace=setting.namespace,
        heartbeat_timeout=setting.heartbeat,
        maintenance_chance=chance,
    )
    broker.add_middleware(ClutchMiddleware(**setting.options))
    if not any(isinstance(middleware, CurrentMessage) for middleware in broker.middleware):
        broker.add_middleware(CurrentMessage())  # not among the defaults of older releases
    broker.declare_queue("critical")
    return broker


class Actors:
    """A broker with actors, which tests know by their names, and clutches of them."""

    def __init__(self, setting: Setting) -> None:
        self.broker = broker = make_broker(setting)
        self.client: Any = broker.client
        client = self.client

        def begins(name: str) -> int:
            """How often it has begun by now."""
            client.sadd(RAN, f"{FORMAT} {name}")
            return int(client.hincrby(BEGAN, name, 1))

        def log(name: str, **more: Any) -> None:
            message: Any = CurrentMessage.get_current_message()
            client.rpush(LOG, json.dumps({"name": name, "queue": message.queue_name, **more}))

        def wait_for(gate: str) -> None:
            while not client.exists(gate):
                time.sleep(0.02)

        @dramatiq.actor(broker=broker)
        def see(name: str) -> str:
            begins(name)
            log(name, sees=previous_results())
            return name

        @dramatiq.actor(broker=broker, queue_name="own")
        def see_elsewhere(name: str) -> str:
            begins(name)
            log(name, sees=previous_results())
            return name

        def context() -> dict[str, Any]:
            run = current_run()
            return {} if run is None else dict(run.context)

        @dramatiq.actor(broker=broker)
        def tells(name: str) -> str:
            log(name, sees=previous_results(), context=context())
            return name

        @dramatiq.actor(broker=broker)
        def tells_of(name: str, status: dict[str, Any]) -> None:
            log(name, context=context())

        @dramatiq.actor(broker=broker)
        def plain() -> str:
            """Any actor of an application, which has never heard of clutches."""
            log("plain")
            return "plain"

        @dramatiq.actor(broker=broker)
        def work() -> int:
            time.sleep(0.05)  # the work
            begins("work")
            return 1

        @dramatiq.actor(broker=broker)
        def numbers(name: str) -> list[int]:
            begins(name)
            return [1, 2, 3]

        @dramatiq.actor(broker=broker)
        def double(name: str, number: int) -> int:
            begins(f"{name} {number}")
            return 2 * number

        @dramatiq.actor(broker=broker)
        def thousand() -> list[int]:
            return list(range(1_000))

        @dramatiq.actor(broker=broker)
        def count(number: int) -> int:
            begins(str(number))
            return number

        @dramatiq.actor(broker=broker)
        def add() -> int:
            begins("add")
            return sum(previous_results())

        @dramatiq.actor(broker=broker)
        def first(items: list[Any]) -> Any:
            return items[0]

        @dramatiq.actor(broker=broker)
        def total() -> list[Any]:
            begins("total")
            log("total")
            return previous_results()

        @dramatiq.actor(broker=broker, min_backoff=10, max_backoff=10)
        def fail_times(name: str, times: int, gate: str | None = None) -> str:
            """Heal after so many failures; with a gate, once it is open. Whoever waits for an alarm wants one: a job
            that is healed by the time at which its failure is recorded, or told to a parent, raises none."""
            tries = begins(name)
            log(name, attempt=tries)
            if tries <= times:
                raise ValueError(f"{name} fails")
            if gate is not None:
                wait_for(gate)
            return name

        @dramatiq.actor(broker=broker)
        def wait(name: str, gate: str, then: str | None = None) -> str:
            """Wait for one gate, tell it, and open another."""
            begins(name)
            wait_for(gate)
            log(name)
            if then is not None:
                client.set(then, "open")
            return name

        @dramatiq.actor(broker=broker, max_retries=0)
        def die() -> None:
            raise ValueError("dies")

        @dramatiq.actor(broker=broker, max_retries=0)
        def dies_once(name: str) -> str:
            if begins(name) == 1:
                raise LookupError(f"{name} dies")
            return name

        @dramatiq.actor(broker=broker, queue_name="own")
        def alert(status: dict[str, Any]) -> None:
            log("alert", stage=status["stage"], failing=status["stages"][status["stage"]]["failing"])

        @dramatiq.actor(broker=broker, queue_name="own")
        def heard(who: str, status: dict[str, Any]) -> None:
            client.rpush(HEARD, f"{who} {status['event']} {status['state']}")

        @dramatiq.actor(broker=broker)
        def told(who: str, *given: Any) -> None:
            """A callback that notes its message's id and, if it is given that, the run's result."""
            message: Any = CurrentMessage.get_current_message()
            log(who, id=message.message_id, result=given[:-1], state=given[-1]["state"])

        @dramatiq.actor(broker=broker)
        def nests(actor: str, *args: Any) -> Any:
            """A run of one job. Its callbacks are the parent's, under its own name."""
            return self.called("child").then(broker.get_actor(actor).message(*args)).nest()

        @dramatiq.actor(broker=broker)
        def nests_two(name: str) -> Run:
            begins(name)
            return Clutch(broker=broker).parallel(double.message(f"{name}'s own", number) for number in (1, 2)).nest()

        @dramatiq.actor(broker=broker)
        def nests_waiting(name: str, gate: str) -> Run:
            begins(name)
            return Clutch(broker=broker).then(wait.message(f"{name}'s own", gate), total).nest()

        self.tells, self.tells_of, self.first = tells, tells_of, first
        self.see, self.see_elsewhere, self.plain, self.work = see, see_elsewhere, plain, work
        self.numbers, self.double, self.thousand, self.count = numbers, double, thousand, count
        self.add, self.total, self.fail_times, self.wait = add, total, fail_times, wait
        self.die, self.dies_once, self.alert, self.heard = die, dies_once, alert, heard
        self.nests, self.nests_two, self.nests_waiting, self.told = nests, nests_two, nests_waiting, told

    # What they have written

    def began(self) -> dict[str, int]:
        return {name.decode(): int(count) for name, count in self.client.hgetall(BEGAN).items()}

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(entry) for entry in self.client.lrange(LOG, 0, -1)]

    def heard_by(self, who: str) -> list[str]:
        """As "event state"."""
        entries = [entry.decode().split(" ", 1) for entry in self.client.lrange(HEARD, 0, -1)]
        return [what for name, what in entries if name == who]

    def open(self, gate: str) -> None:
        self.client.set(gate, "open")

    # Clutches

    def called(self, who: str, *options: str) -> Clutch:
        """A clutch whose callbacks (all of them by default) are heard under this name."""
        heard: Any = self.heard
        callbacks: Any = {option: heard.message(who) for option in options or CALLBACKS}
        return Clutch(broker=self.broker, **callbacks)

    def clutch(self, shape: str) -> Clutch:
        empty, see, total, told = Clutch(broker=self.broker), self.see, self.total, self.told
        both, map_double = (see.message("a"), see.message("b")), cast(Any, self.double)  # a mapped one lacks its number
        if shape == "everything":
            child = empty.then(self.numbers.message("inner")).map(map_double.message("child"))
            return (
                self.called("root", "on_success", "on_finish")
                .then(self.numbers.message("outer"))
                .map(map_double.message("mapped"))
                .parallel(child, self.nests_two.message("nested"), self.fail_times.message("heals", 1))
                .then(total)
            )
        return {
            "series": empty.then(*both, total),
            "parallel": empty.parallel(*both).then(total),
            "nested": empty.parallel(empty.then(see.message("a"), total), see.message("b")).then(total),
            "mapped": empty.parallel(*both).map(see).then(total),
            "called": self.called("called", "on_success", "on_finish").then(see.message("a")),
            "told": Clutch(
                broker=self.broker,
                on_success=[partial(told, "first"), with_result(partial(told, "second")), partial(told, "third")],
            ).then(see.message("a")),
            "nesting": empty.parallel(self.nests_waiting.message("n", GATE), see.message("b")).then(total),
            "numbers": empty.then(*map(self.count.message, range(8))).parallel(self.add),
            "late": empty.map(self.count)
            .wait(WAIT)
            .parallel(
                Clutch(broker=self.broker, context={"level": "nested"}).then(self.tells.message("told")),
                empty.map(self.count).parallel(self.add).then(self.first, pipe=True),
            ),
            "wide": empty.then(self.thousand).map(self.count).then(self.add),
        }[shape]

    def abandon(self, run_id: str) -> None:
        """A run whose producer has died between the seal and the first message; its lease has lapsed."""
        engine = engine_of(self.broker)
        caller = engine.caller("run:dead")
        long_ago = caller._replace(now=caller.now - 10 * engine.lease_ms)
        plan = Plan(Spec(), (StageLine(0, 1),), (to_row(self.see.message("a")),))
        engine.backend.create(run_id, plan, long_ago, run_ttl=600_000, result_ttl=600_000)


#: What comes of `clutch("everything")`.
EVERYTHING = [[2, 4, 6], [2, 4], "heals"]


def do(actors: Actors, verb: str, run_id: str) -> Any:
    """`abandon`, `result`, a method of a run, or else the shape of a clutch that is run. With, say, `replace:` before
    it, it is run with that `if_exists`, and what comes of it is whether this call has started it."""
    run = Run(run_id, broker=actors.broker)
    if verb == "abandon":
        return actors.abandon(run_id)
    if verb == "result":
        return run.get_result(block=True, timeout=90_000)
    if verb in ("cancel", "retry", "resend"):
        return getattr(run, verb)()
    if_exists, says_so, shape = verb.rpartition(":")
    if says_so:
        return actors.clutch(shape).run(run_id=run_id, if_exists=cast(Any, if_exists)).started
    return actors.clutch(verb).run(run_id=run_id).run_id


if VARIABLE in os.environ:
    actors = Actors(Setting.from_env())
    broker = actors.broker
    if Setting.from_env().crash:
        crash_at(broker, Setting.from_env().crash)
    if __name__ == "__main__":
        print(json.dumps([FORMAT, do(actors, *sys.argv[1:])]))
    else:
        dramatiq.set_broker(broker)
