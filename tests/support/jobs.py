"""Actors for tests in one process, which do what the test tells them, and write down what happens."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from typing import Any

import dramatiq
from dramatiq.middleware import CurrentMessage

from dramatiq_clutch import Run, previous_failures, previous_results
from tests.support.awaiting import PATIENCE, wait_until

actor: Any = dramatiq.actor  # its overloads take no options by the dictionary

QUICK = {"min_backoff": 1, "max_backoff": 1}


class Gates(dict[str, threading.Event]):
    """A gate for each name. All threads that ask for one get the same: a defaultdict may give two threads two."""

    def __missing__(self, name: str) -> threading.Event:
        return self.setdefault(name, threading.Event())


class Jobs:
    """`script[name]` says what the attempts of job `name` do, one after the other: "ok" (the default), "fail", "die",
    or "wait" until `gates[name]` is opened, and perhaps "wait and fail" or "wait and die". A job that is to "wait
    again" has a second gate, `gates[f"{name} again"]`. A job that dies has no retries left."""

    def __init__(self, broker: dramatiq.Broker) -> None:
        self.broker = broker
        self.script: dict[str, list[str]] = defaultdict(list)
        self.gates = Gates()
        self.began: list[str] = []
        self.sees: dict[str, list[Any]] = {}
        self.missing: dict[str, list[Any]] = {}
        self.events: list[tuple[int, str, str]] = []
        if not any(isinstance(known, CurrentMessage) for known in broker.middleware):
            broker.add_middleware(CurrentMessage())  # not among the defaults of older releases
        self.told: list[tuple[int, dict[str, Any]]] = []

        def act(name: str, *args: Any) -> Any:
            self.began.append(name)
            self.sees[name], self.missing[name] = previous_results(), previous_failures()
            what = self.script[name].pop(0) if self.script[name] else "ok"
            if what.startswith("wait"):
                gate = f"{name} again" if what == "wait again" else name
                assert self.gates[gate].wait(PATIENCE)
            if what.endswith("fail"):
                raise ValueError(f"{name} fails")
            if what.endswith("die"):
                raise LookupError(f"{name} dies")
            return [name, *args] if args else name

        @actor(broker=broker, throws=LookupError, **QUICK)  # type: ignore[untyped-decorator]
        def job(name: str, *args: Any) -> Any:
            return act(name, *args)

        @actor(broker=broker, throws=LookupError, **QUICK)  # type: ignore[untyped-decorator]
        def several(name: str, count: int) -> Any:
            act(name)
            return [f"{name}{index}" for index in range(count)]

        @actor(broker=broker)  # type: ignore[untyped-decorator]
        def heard(who: str, status: dict[str, Any]) -> None:
            message: Any = CurrentMessage.get_current_message()
            turn = int(
                message.options["clutch"]["callback"].rpartition(":")[2]
            )  # several threads may hear them in another order
            self.told.append((turn, status))
            self.events.append((turn, who, status["event"]))

        @actor(broker=broker, throws=LookupError, **QUICK)  # type: ignore[untyped-decorator]
        def total() -> Any:
            self.began.append("total")
            return previous_results()

        self.job, self.several, self.heard, self.total = job, several, heard, total

    def callbacks(self, who: str) -> dict[str, Any]:
        """All of them, for `Clutch(**jobs.callbacks("root"))`."""
        return {
            option: self.heard.message(who)
            for option in ("on_failure", "on_death", "on_success", "on_failed", "on_finish")
        }

    def fired(self, who: str) -> str:
        """What `who` has heard so far: F, D, S, X (it has failed) and E."""
        letters = {"on_failure": "F", "on_death": "D", "on_success": "S", "on_failed": "X", "on_finish": "E"}
        return " ".join(letters[event] for _, name, event in sorted(self.events) if name == who)

    @property
    def statuses(self) -> list[dict[str, Any]]:
        """What callbacks were given, in the order in which they were sent."""
        return [status for _, status in sorted(self.told, key=lambda one: one[0])]

    def counts(self) -> Counter[str]:
        return Counter(self.began)

    def wait_fired(self, who: str, letters: str) -> None:
        wait_until(f"{who} to hear {letters}", lambda: len(self.fired(who)) >= len(letters))
        assert self.fired(who) == letters, f"{who} has heard {self.fired(who)}, not {letters}"


def state_is(run: Run, state: str) -> None:
    """Wait until a run is in this state."""
    wait_until(f"the run to be {state}", lambda: run.status().state == state)
