"""Whatever is away, lost or killed, and whenever: the run ends as if nothing had happened."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.redis import RedisBroker
from dramatiq.errors import ConnectionClosed

from dramatiq_clutch import Clutch, ClutchMiddleware, Run, previous_results
from dramatiq_clutch.backend import Caller, ClutchBackend, Record
from dramatiq_clutch.backends import RedisBackend
from dramatiq_clutch.courier import Courier
from dramatiq_clutch.engine import Engine, engine_of
from dramatiq_clutch.errors import BrokerUnavailable, OutcomeUnknown, StateUnavailable
from dramatiq_clutch.handover import sweep
from dramatiq_clutch.register import Register
from dramatiq_clutch.stored.duties import Duty
from tests.conftest import running_worker
from tests.support import actors
from tests.support.actors import BEGAN, mortal
from tests.support.awaiting import PATIENCE, wait_until
from tests.support.commands import executed
from tests.support.server import Server
from tests.support.tags import tag_in
from tests.support.workers import Worker

#: Every method of the backend that a run of `work` goes through in the worker.
TRANSITIONS = ["guard", "record", "open", "confirm", "spec", "rows", "line", "results", "write_items", "items"]


class Jobs:
    """Actors, and how often each of their jobs has run."""

    def __init__(self, broker: dramatiq.Broker) -> None:
        self.runs: list[Any] = []
        self.alerts: list[Any] = []

        @dramatiq.actor(broker=broker)
        def numbers() -> list[int]:
            self.runs.append("numbers")
            return [1, 2, 3]

        @dramatiq.actor(broker=broker)
        def double(number: int) -> int:
            self.runs.append(number)
            return 2 * number

        @dramatiq.actor(broker=broker)
        def total() -> int:
            self.runs.append("total")
            return sum(previous_results())

        @dramatiq.actor(broker=broker, min_backoff=10, max_backoff=10)
        def heals() -> str:
            self.runs.append("heals")
            if self.runs.count("heals") == 1:
                raise ValueError("the first time")
            return "healed"

        @dramatiq.actor(broker=broker)
        def alert(status: dict[str, Any]) -> None:
            self.alerts.append(status)

        self.numbers, self.double, self.total, self.heals, self.alert = numbers, double, total, heals, alert

    def clutch(self) -> Clutch:
        return Clutch().then(self.numbers).parallel([]).then(self.numbers).map(self.double).then(self.total)


ONCE_EACH = [1, 2, 3, "numbers", "numbers", "total"]


@contextmanager
def ready(server: Server, backend: ClutchBackend | None = None) -> Iterator[tuple[RedisBroker, Engine, Jobs]]:
    with pytest.MonkeyPatch.context() as patch, server.client() as client:
        client.flushall()
        broker = RedisBroker(client=client)
        patch.setattr("dramatiq.broker.global_broker", broker)
        middleware = ClutchMiddleware(backend, lease=300, sweep_interval=100)
        broker.add_middleware(middleware)
        yield broker, engine_of(broker), Jobs(broker)


def break_once(target: object, method: str, error: Exception, *, applied: bool) -> list[bool]:
    """Have a method raise once: before it has done anything, or after (its reply is lost)."""
    works: Callable[..., Any] = getattr(target, method)
    broken: list[bool] = []

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if broken:
            return works(*args, **kwargs)
        broken.append(True)
        if applied:
            works(*args, **kwargs)
        raise error

    setattr(target, method, wrapper)
    return broken


def break_nth(target: object, method: str, nth: int, error: Exception, *, applied: bool) -> list[bool]:
    """Have a method raise once, at its nth call. Returns a list that grows with its calls."""
    works: Callable[..., Any] = getattr(target, method)
    calls: list[bool] = []

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        calls.append(True)
        if len(calls) != nth:
            return works(*args, **kwargs)
        if applied:
            works(*args, **kwargs)
        raise error

    setattr(target, method, wrapper)
    return calls


@pytest.mark.parametrize(
    "applied", [pytest.param(False, marks=pytest.mark.search, id="before"), pytest.param(True, id="reply lost")]
)
@pytest.mark.parametrize("method", TRANSITIONS)
def test_an_outage_at_any_call_of_the_worker_changes_nothing(server: Server, method: str, applied: bool) -> None:
    with ready(server) as (broker, engine, jobs):
        broken = break_once(engine.backend, method, StateUnavailable("away"), applied=applied)
        if method == "confirm":  # as where runs are kept on a server of their own
            alone = partial(Courier.send_and_confirm, engine.courier)
            setattr(engine.courier, "send_and_confirm", alone)  # noqa: B010

        run = jobs.clutch().run()
        engine.remembered.wanted.clear()  # as in a worker that hasn't sent them itself
        with running_worker(broker):
            assert run.get_result(block=True) == 12

        assert broken
        assert sorted(jobs.runs, key=str) == ONCE_EACH


#: Every method that a run of `nested_clutch` goes through besides.
NESTED_TRANSITIONS = [*TRANSITIONS, "nested", "create", "heard", "context"]


#: Those that it goes through several times, and at which call there is an outage besides the first.
LATER = {"record": 3, "confirm": 3, "spec": 3, "line": 3, "results": 3, "heard": 3, "create": 2}


@pytest.mark.search
@pytest.mark.parametrize("applied", [False, True], ids=["before", "reply lost"])
@pytest.mark.parametrize(("method", "nth"), [*((method, 1) for method in NESTED_TRANSITIONS), *LATER.items()])
def test_an_outage_at_any_call_changes_nothing_for_nested_runs(
    server: Server, method: str, applied: bool, nth: int
) -> None:
    with ready(server) as (broker, engine, jobs):

        @dramatiq.actor(broker=broker)
        def nests() -> Run:
            jobs.runs.append("nests")
            return Clutch(on_finish=jobs.alert).parallel(jobs.double.message(3), jobs.heals).nest()

        child = Clutch(on_success=jobs.alert).then(jobs.numbers).map(jobs.double)
        run = Clutch(on_finish=jobs.alert).parallel(child, nests).run(context={"tenant": 7})
        calls = break_nth(engine.backend, method, nth, StateUnavailable("away"), applied=applied)
        with running_worker(broker):
            assert run.get_result(block=True) == [[2, 4, 6], [6, "healed"]]
            wait_until("the callbacks", lambda: len(jobs.alerts) >= 3)

        assert len(calls) >= nth
        assert sorted(jobs.runs, key=str) == [1, 2, 3, 3, "heals", "heals", "nests", "numbers"]


#: Every method of the backend that a change goes through, until the run has come to its end.
CHANGES = {
    "cancel": ["cancel", "nested", "rows", "confirm"],
    "retry": ["standing", "retry", "reopen", "nested", "rows", "confirm"],
    "resend": ["standing", "resend", "nested", "rows", "confirm"],
}


@pytest.mark.search
@pytest.mark.parametrize("applied", [False, True], ids=["before", "reply lost"])
@pytest.mark.parametrize(
    ("verb", "method"), [(verb, method) for verb, methods in CHANGES.items() for method in methods]
)
def test_an_outage_while_a_run_is_changed_changes_nothing(
    server: Server, verb: str, method: str, applied: bool
) -> None:
    """The change is finished by the sweeper, or is repeated by who asked for it."""
    with ready(server) as (broker, engine, _jobs):
        fails = [True]

        @dramatiq.actor(broker=broker, max_retries=0)
        def fragile() -> str:
            if fails:
                raise ValueError("fragile")
            return "whole"

        @dramatiq.actor(broker=broker)
        def nests() -> Run:
            return Clutch().then(fragile).nest()

        run = Clutch().parallel(nests, Clutch().then(fragile), fragile).run()
        with running_worker(broker):
            wait_until("the run has failed", lambda: run.status().state == "failed")
        if verb != "retry":
            run = Clutch().parallel(Clutch().then(fragile), fragile).run()
        fails.clear()
        calls = break_nth(engine.backend, method, 1, StateUnavailable("away"), applied=applied)
        for _ in range(2):
            try:
                getattr(run, verb)()
                break
            except StateUnavailable:
                continue
        with running_worker(broker):
            end = "cancelled" if verb == "cancel" else "succeeded"
            wait_until(f"the run is {end}", lambda: run.status().state == end)
            if verb == "cancel":
                # its job may have worked before the sweeper came; then it has left no more than a tombstone
                child = f"{run.run_id}~0.0"
                wait_until("the nested run is at rest", lambda: engine.backend.at_rest([child]) == [True])
        assert calls


def test_the_boundaries_are_all_that_the_backend_has() -> None:
    """A method that is added to the backend has to be added here, too."""
    looked_at_elsewhere = {
        "create",
        "owed",
        "fail",
        "snapshot",
        "due",
        "look_again",
        "touch",
        "draft",
        "sweep",
        "heard",
        "context",
    }
    of_lives = {
        "rewind",
        "drop_pass",
        "cancel",
        "retry",
        "resend",
        "standing",
        "failures",
        "nested",
        "retell",
        "generation",
        "reopen",
    }
    of_lives |= {"delete", "occupants", "keeps"}  # see test_again.py
    of_waiting = {"at_rest", "listen", "say"}
    only_informing = {"count_due", "attend", "attending", "firings", "how_far", "lines"}
    others = {*looked_at_elsewhere, *of_lives, *of_waiting, *only_informing, *Register.__abstractmethods__}
    assert set(ClutchBackend.__abstractmethods__) == {*TRANSITIONS, *others}


@pytest.mark.parametrize("applied", [False, True], ids=["before", "reply lost"])
def test_an_outage_while_the_broker_takes_messages_changes_nothing(server: Server, applied: bool) -> None:
    with ready(server) as (broker, _, jobs):
        run = jobs.clutch().run()
        broken = break_once(engine_of(broker).courier, "_send", BrokerUnavailable("away"), applied=applied)

        with running_worker(broker):
            assert run.get_result(block=True) == 12

        assert broken
        assert set(jobs.runs) == set(ONCE_EACH)


def test_a_run_whose_producer_could_not_send_is_sent_by_a_worker(server: Server) -> None:
    with ready(server) as (broker, _, jobs):
        break_once(engine_of(broker).courier, "_send", BrokerUnavailable("away"), applied=False)

        run = jobs.clutch().run()  # returns its handle all the same

        with running_worker(broker):
            assert run.get_result(block=True) == 12


def test_a_run_that_could_not_be_sent_and_is_started_again_is_sent_by_a_worker(server: Server) -> None:
    with ready(server) as (broker, _, jobs):
        break_once(engine_of(broker).courier, "_send", BrokerUnavailable("away"), applied=False)
        jobs.clutch().run(run_id="twice")

        run = jobs.clutch().run(run_id="twice")  # there is nothing for it to do: the first call still holds the duty

        with running_worker(broker):
            assert run.get_result(block=True) == 12


@pytest.mark.parametrize("applied", [False, True], ids=["before", "reply lost"])
def test_an_error_of_unknown_outcome_names_the_run(server: Server, applied: bool) -> None:
    with ready(server) as (broker, engine, jobs):
        break_once(engine.backend, "create", StateUnavailable("away"), applied=applied)

        with pytest.raises(OutcomeUnknown) as caught:
            jobs.clutch().run()

        run = Run(caught.value.run_id, broker=broker)
        if applied:
            with running_worker(broker):
                assert run.get_result(block=True) == 12
        else:
            assert engine.backend.snapshot(run.run_id) is None


def test_the_attempt_that_retries_could_not_send_still_comes(server: Server) -> None:
    with ready(server) as (broker, _, jobs):
        run = Clutch(on_failure=jobs.alert).then(jobs.heals).run()
        broken = break_once(broker, "enqueue", ConnectionClosed("away"), applied=False)

        with running_worker(broker):
            assert run.get_result(block=True) == "healed"
            wait_until("the alert has come", lambda: len(jobs.alerts) == 1)

        assert broken
        assert jobs.runs == ["heals", "heals"]


def test_a_retry_when_that_raises_makes_the_job_dead_with_its_error(server: Server) -> None:
    with ready(server) as (broker, _, _jobs):

        def confused(retries: int, error: BaseException) -> bool:
            raise RuntimeError("retry_when is confused")

        @dramatiq.actor(retry_when=confused)
        def fails() -> None:
            raise ValueError("no")

        run = Clutch().then(fails).run()
        with running_worker(broker), pytest.raises(dramatiq.results.ResultFailure, match="retry_when is confused"):
            run.get_result(block=True)


def test_what_waiting_does_not_cure_fails_the_run_and_holds_no_worker(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with ready(server) as (broker, _, jobs):

        class Picky(dramatiq.Middleware):
            def before_enqueue(self, broker: dramatiq.Broker, message: dramatiq.Message[Any], delay: int) -> None:
                if message.actor_name == "total":
                    raise dramatiq.middleware.MiddlewareError("total is not welcome here")

        broker.add_middleware(Picky())
        run = jobs.clutch().run()
        with running_worker(broker):
            with pytest.raises(dramatiq.results.ResultFailure, match="total is not welcome here"):
                run.get_result(block=True)
            assert Clutch().then(jobs.numbers).run().get_result(block=True) == [1, 2, 3]
        error = run.status().error
        assert error is not None
        assert error.exception_type == "HookFailed"


def test_only_the_holder_of_a_lapsed_lease_is_replaced(server: Server) -> None:
    with ready(server) as (_, engine, jobs):
        backend = engine.backend
        run = jobs.clutch().run()
        owner = engine.caller("0.0")
        assert backend.owed(run.run_id, owner).duties == ()  # what run() owed is done
        assert sweep(engine).looked_at in (0, 1)
        assert run.status().state == "running"


def test_a_sweep_with_nothing_to_do_costs_one_command(server: Server) -> None:
    with ready(server) as (_, engine, _jobs), server.client() as client:
        before = executed(client)
        assert sweep(engine).looked_at == 0
        assert (executed(client) - before).total() <= 1


def test_a_worker_that_is_told_to_stop_stops_at_once_and_acks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with (
        Server() as store,
        Server() as queue,
        queue.client() as client,
        ready(queue, RedisBackend(url=store.url)) as (broker, _, jobs),
    ):
        run = jobs.clutch().run()
        store.kill()
        with running_worker(broker, threads=1):
            with caplog.at_level(logging.WARNING):
                wait_until("the worker waits", lambda: any("waits, unacked" in r.getMessage() for r in caplog.records))
            began = time.monotonic()
        assert time.monotonic() - began < PATIENCE / 2  # Dramatiq would wait for ten minutes
        assert sum("waits, unacked" in record.getMessage() for record in caplog.records) == 1
        assert client.hlen("dramatiq:default.msgs") == 1
        assert run.run_id


def have_run(client: Any) -> int:
    return int(client.hget(BEGAN, "work") or 0)


@pytest.mark.process
def test_a_server_that_is_killed_and_comes_back_loses_nothing() -> None:
    """Real processes. The worker is started anew as well: what a live one has fetched without getting the reply,
    Dramatiq never delivers again."""
    with Server(durable=True) as own:
        broker = actors.make_broker(mortal(own.url))
        job: dramatiq.Message[int] = dramatiq.Message("default", "work", (), {}, {})
        end: dramatiq.Message[int] = dramatiq.Message("default", "add", (), {}, {})
        run = Clutch(broker=broker).parallel(job for _ in range(60)).then(end).run()
        with own.client() as client, Worker(actors.__name__, env=mortal(own.url).to_env(), threads=2) as worker:
            wait_until("some have run", lambda: have_run(client) > 5)
            own.kill()
            own.start()
            worker.kill()
            worker.start()
            assert run.get_result(block=True, timeout=60_000) == 60
        broker.close()


@pytest.mark.process
def test_a_worker_that_is_killed_loses_nothing(server: Server) -> None:
    """Real processes: the first is killed in the middle of the stage, the second one finishes the run."""
    with ready(server) as (_broker, _, _jobs), server.client() as client:
        env = mortal(server.url).to_env()
        broker = actors.make_broker(mortal(server.url))
        job: dramatiq.Message[int] = dramatiq.Message("default", "work", (), {}, {})
        end: dramatiq.Message[int] = dramatiq.Message("default", "add", (), {}, {})
        run = Clutch(broker=broker).parallel(job for _ in range(60)).then(end).run()
        with Worker(actors.__name__, env=env, threads=2) as first:
            wait_until("some have run", lambda: have_run(client) > 5)
            first.kill()
        with Worker(actors.__name__, env=env, threads=2):
            assert run.get_result(block=True, timeout=60_000) == 60


def is_past(moment: float) -> bool:
    return time.monotonic() > moment


def test_a_run_outlives_its_ttl_as_long_as_its_jobs_come_in(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with ready(server) as (broker, engine, jobs):
        short = replace(engine, run_ttl=1_000)
        monkeypatch.setattr(ClutchMiddleware, "_engine", lambda self, broker: short)
        run = Clutch().parallel(jobs.double.message(n) for n in range(100)).run()
        began = time.monotonic()
        for member in range(99):
            tag = tag_in(broker, run, 0, member, 100)
            wait_until("a little later", partial(is_past, began + member * 0.02))
            assert short.backend.record(Record(tag, 0, "succeeded", b"1"), short.caller(tag.owner)).word == "counts"
        assert time.monotonic() - began > 1.5
        assert run.status().stages[0].succeeded == 99


def test_a_callback_whose_next_attempt_could_not_be_sent_comes_again(server: Server) -> None:
    """Retries sends the next attempt before the ack: if the broker is away just then, Dramatiq loses it."""
    with ready(server) as (broker, _, jobs):
        heard: list[Any] = []

        @dramatiq.actor(broker=broker, min_backoff=10, max_backoff=10)
        def fragile(status: dict[str, Any]) -> None:
            heard.append(status["event"])
            if len(heard) == 1:
                away.append(True)
                raise ValueError("the first time")

        away: list[bool] = []

        class Away(dramatiq.Middleware):
            def before_enqueue(self, broker: dramatiq.Broker, message: dramatiq.Message[Any], delay: int) -> None:
                if message.actor_name == "fragile" and away:
                    away.pop()
                    raise dramatiq.middleware.MiddlewareError("away")

        broker.add_middleware(Away())
        run = Clutch(on_success=fragile).then(jobs.numbers).run()
        with running_worker(broker):
            run.get_result(block=True)
            wait_until("it comes again", lambda: heard == ["on_success", "on_success"])


def test_a_nested_runs_activity_is_its_ancestors(server: Server, short_lives: None) -> None:
    with pytest.MonkeyPatch.context() as patch, server.client() as client:
        client.flushall()
        broker = RedisBroker(client=client)
        patch.setattr("dramatiq.broker.global_broker", broker)
        broker.add_middleware(ClutchMiddleware(run_ttl=1_000))

        @dramatiq.actor(broker=broker)
        def work(number: int) -> int:
            time.sleep(0.05)  # longer, all together, than a run lives without activity
            return number

        grandchild = Clutch().parallel(work.message(number) for number in range(40))
        run = Clutch().then(Clutch().then(grandchild)).run()
        with running_worker(broker, threads=1):
            assert run.get_result(block=True) == list(range(40))


def test_a_stage_is_over_before_its_sender_has_confirmed(
    broker: dramatiq.Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The results that a mapped stage was made of are gone by then: nobody may try to send it once more."""
    jobs, engine, late, acked = Jobs(broker), engine_of(broker), list[str](), threading.Event()
    confirm = engine.backend.confirm

    class Acked(dramatiq.Middleware):
        def after_ack(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
            if message.actor_name == "numbers":
                acked.set()

    @dramatiq.actor(broker=broker)
    def last() -> int:
        assert acked.wait(PATIENCE)
        return sum(previous_results())

    def slow(run_id: str, duty: Duty, caller: Caller, **rest: Any) -> str:
        if duty.id == "send:1:0:3" and not late:
            late.append(duty.id)
            wait_until("the stage is over", lambda: engine.backend.snapshot(run_id)["head"]["stage"] == "2")  # type: ignore[index]
            raise StateUnavailable("the connection is lost")
        return confirm(run_id, duty, caller, **rest)

    broker.add_middleware(Acked())
    monkeypatch.setattr(engine.backend, "confirm", slow)
    monkeypatch.setattr(engine.courier, "send_and_confirm", partial(Courier.send_and_confirm, engine.courier))
    with running_worker(broker):
        run = Clutch(broker=broker, on_failure=jobs.alert).then(jobs.numbers).map(jobs.double).then(last).run()
        assert run.get_result(block=True) == 12
    assert late == ["send:1:0:3"]
    assert not jobs.alerts
    assert sorted(map(str, jobs.runs)) == ["1", "2", "3", "numbers"]
