"""Which callbacks fire, in which order and how often: every cell of the table in the documentation."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.common import current_millis
from dramatiq.middleware import MiddlewareError

from dramatiq_clutch import BrokerUnavailable, CallbackStatus, Clutch, Run, RunNotFound
from dramatiq_clutch.backends.redis.keys import keys_of
from dramatiq_clutch.engine import engine_of
from tests.conftest import running_worker
from tests.support.awaiting import PATIENCE, wait_until
from tests.support.commands import executed
from tests.support.jobs import Jobs, state_is

Shape = Callable[[Jobs, bool], Clutch]

# The shapes: something happens to "bad", the last member, after all others have ended.


def series(jobs: Jobs, tolerant: bool) -> Clutch:
    root = Clutch(**jobs.callbacks("root"))
    return (
        root.parallel(jobs.job.message("bad"), allow_failures=True) if tolerant else root.then(jobs.job.message("bad"))
    )


def parallel(jobs: Jobs, tolerant: bool) -> Clutch:
    members = [jobs.job.message("good"), jobs.job.message("fine"), jobs.job.message("bad")]
    return Clutch(**jobs.callbacks("root")).parallel(members, allow_failures=tolerant)


def mapped(jobs: Jobs, tolerant: bool) -> Clutch:
    three = Clutch(**jobs.callbacks("root")).then(jobs.several.message("x", 3))
    return three.map(jobs.job, allow_failures=tolerant)


def written_down(jobs: Jobs, tolerant: bool) -> Clutch:
    child = Clutch(**jobs.callbacks("child")).then(jobs.job.message("bad"))
    members = [jobs.job.message("good"), child]
    return Clutch(**jobs.callbacks("root")).parallel(members, allow_failures=tolerant)


def nested_twice(jobs: Jobs, tolerant: bool) -> Clutch:
    child = Clutch(**jobs.callbacks("child")).then(jobs.job.message("first"), jobs.job.message("bad"))
    members = [jobs.job.message("good"), Clutch().then(child)]
    return Clutch(**jobs.callbacks("root")).parallel(members, allow_failures=tolerant)


def while_running(jobs: Jobs, tolerant: bool) -> Clutch:
    @dramatiq.actor
    def nests() -> Run:
        return Clutch(**jobs.callbacks("child")).then(jobs.job.message("bad")).nest()

    members = [jobs.job.message("good"), nests.message()]
    return Clutch(**jobs.callbacks("root")).parallel(members, allow_failures=tolerant)


SHAPES = [series, parallel, mapped, written_down, nested_twice, while_running]
NESTED = [written_down, nested_twice, while_running]


#: Those that the quick tier has.
QUICK = (parallel, while_running)


@pytest.fixture(
    params=[pytest.param(shape, marks=() if shape in QUICK else pytest.mark.search) for shape in SHAPES],
    ids=[shape.__name__.replace("_", " ") for shape in SHAPES],
)
def shape(request: pytest.FixtureRequest) -> Shape:
    chosen: Shape = request.param
    return chosen


def bad(jobs: Jobs, shape: Shape) -> str:
    return "bad" if shape is not mapped else "x2"


def script(jobs: Jobs, shape: Shape, *attempts: str) -> None:
    if shape is mapped:
        # an item is the last argument: the job's name is the item
        jobs.script["x2"] = list(attempts)
    else:
        jobs.script["bad"] = list(attempts)


def all_others_end(jobs: Jobs, shape: Shape, run: Run) -> None:
    """Let the bad member end once all others of its stage have, which fixes the order of what is heard: even one thread
    begins the members of a stage in any order."""
    name = bad(jobs, shape)
    wait_until("it works", lambda: name in jobs.began)

    def others_have_ended() -> bool:
        stage = run.status().stages[1 if shape is mapped else 0]
        return stage.total == stage.succeeded + 1

    wait_until("the others to have ended", others_have_ended)
    jobs.gates[name].set()


def check_child(jobs: Jobs, shape: Shape, letters: str) -> None:
    if shape in NESTED:
        jobs.wait_fired("child", letters)


def test_a_job_that_fails_once_then_succeeds_is_heard_of_as_failing_and_then_as_succeeded(
    broker: dramatiq.Broker, jobs: Jobs, shape: Shape
) -> None:
    script(jobs, shape, "wait and fail", "wait again")
    with running_worker(broker, threads=3):
        run = shape(jobs, False).run()
        all_others_end(jobs, shape, run)
        jobs.wait_fired("root", "F")
        check_child(jobs, shape, "F")
        jobs.gates[f"{bad(jobs, shape)} again"].set()  # one that is healed before its parent hears of it is never told
        state_is(run, "succeeded")
        jobs.wait_fired("root", "F S E")
        check_child(jobs, shape, "F S E")


def test_a_job_that_dies_is_heard_of_as_failing_dead_and_finished(
    broker: dramatiq.Broker, jobs: Jobs, shape: Shape
) -> None:
    script(jobs, shape, "wait and die")
    with running_worker(broker, threads=2):
        run = shape(jobs, False).run()
        all_others_end(jobs, shape, run)
        state_is(run, "failed")
        jobs.wait_fired("root", "F D X E")
        check_child(jobs, shape, "F D X E")


def test_a_job_that_dies_where_failures_are_allowed_lets_the_run_succeed(
    broker: dramatiq.Broker, jobs: Jobs, shape: Shape
) -> None:
    script(jobs, shape, "wait and die")
    with running_worker(broker, threads=2):
        run = shape(jobs, True).then(jobs.total).run()
        all_others_end(jobs, shape, run)
        state_is(run, "succeeded")
        assert None in run.get_result()
        jobs.wait_fired("root", "F D S E")
        check_child(jobs, shape, "F D X E")


def test_a_run_that_is_cancelled_while_working_is_heard_of_as_finished_only(
    broker: dramatiq.Broker, jobs: Jobs, shape: Shape
) -> None:
    script(jobs, shape, "wait")
    name = bad(jobs, shape)
    with running_worker(broker, threads=2):
        run = shape(jobs, False).run()
        wait_until("it works", lambda: name in jobs.began)
        assert run.cancel()
        jobs.gates[name].set()
        state_is(run, "cancelled")
        jobs.wait_fired("root", "E")
        check_child(jobs, shape, "E")


def test_a_job_that_dies_and_is_retried_is_heard_of_as_succeeded_after_all(
    broker: dramatiq.Broker, jobs: Jobs, shape: Shape
) -> None:
    script(jobs, shape, "wait and die")
    with running_worker(broker, threads=2):
        run = shape(jobs, False).run()
        all_others_end(jobs, shape, run)
        state_is(run, "failed")
        jobs.wait_fired("root", "F D X E")
        assert run.retry()
        state_is(run, "succeeded")
        jobs.wait_fired("root", "F D X E S E")
        check_child(jobs, shape, "F D X E S E")
    assert jobs.counts()[bad(jobs, shape)] == 2
    assert set(jobs.counts().values()) <= {1, 2}
    assert sum(jobs.counts().values()) == len(jobs.counts()) + 1


def test_a_failing_job_that_is_healed_before_anothers_first_attempt_ends_rings_no_alarm(
    broker: dramatiq.Broker, jobs: Jobs
) -> None:
    jobs.script["bad"], jobs.script["late"] = ["fail"], ["wait"]
    clutch = Clutch(**jobs.callbacks("root")).parallel(jobs.job.message("bad"), jobs.job.message("late"))
    with running_worker(broker):
        run = clutch.run()
        wait_until("it is healed", lambda: run.status().stages[0].succeeded == 1)
        jobs.gates["late"].set()
        jobs.wait_fired("root", "S E")


def test_an_empty_clutch_fires_its_success_and_finish(broker: dramatiq.Broker, jobs: Jobs) -> None:
    with running_worker(broker, threads=1):
        assert Clutch(**jobs.callbacks("root")).run().get_result() is None
        jobs.wait_fired("root", "S E")


def test_each_stage_has_its_own_alarms(broker: dramatiq.Broker, jobs: Jobs) -> None:
    for name in "abc":
        jobs.script[name] = ["fail"]
    with running_worker(broker, threads=1):
        run = Clutch(**jobs.callbacks("root")).then(*(jobs.job.message(name) for name in "abc")).run()
        state_is(run, "succeeded")
        jobs.wait_fired("root", "F F F S E")
    assert [status["stage"] for status in jobs.statuses] == [0, 1, 2, 2, 2]


def test_a_callback_gets_the_status_of_the_moment(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["bad"] = ["fail"]
    with running_worker(broker, threads=1):
        run = Clutch(name="nightly", **jobs.callbacks("root")).then(jobs.job.message("bad")).run()
        jobs.wait_fired("root", "F S E")
    first, *_, last = jobs.statuses
    assert (first["state"], last["state"]) == ("failing", "succeeded")
    assert first["run_id"] == run.run_id
    assert first["name"] == "nightly"
    (failure,) = first["failures"]
    assert (failure["actor"], failure["exception_type"], failure["exception_text"], failure["attempts"]) == (
        "job",
        "ValueError",
        "bad fails",
        1,
    )


def test_the_root_is_told_what_failed_deep_inside(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["bad"] = ["die"]
    deep = Clutch().then(jobs.job.message("bad"))
    for _ in range(5):
        deep = Clutch().then(jobs.job.message("good")).parallel(deep)
    with running_worker(broker, threads=2):
        run = deep.run()
        state_is(run, "failed")
    (failure,) = run.status().failures
    assert failure.exception_text == "bad dies"
    assert failure.actor == "job"
    assert failure.stage == 1
    with pytest.raises(dramatiq.results.ResultFailure, match="bad dies"):
        run.get_result()


def test_a_callbacks_queue_is_the_clutchs(broker: dramatiq.Broker, jobs: Jobs) -> None:
    seen: list[Any] = []

    @dramatiq.actor
    def where(status: dict[str, Any]) -> None:
        message: Any = dramatiq.middleware.CurrentMessage.get_current_message()
        seen.append(message.queue_name)

    if not any(isinstance(known, dramatiq.middleware.CurrentMessage) for known in broker.middleware):
        broker.add_middleware(dramatiq.middleware.CurrentMessage())
    broker.declare_queue("critical")
    child = Clutch(on_finish=where).then(jobs.job.message("a"))
    with running_worker(broker):
        Clutch(queue="critical", on_finish=where).then(child).run()
        wait_until("both", lambda: len(seen) == 2)
    assert seen == ["critical", "critical"]


def test_a_callback_that_cannot_be_sent_is_told_in_the_status(broker: dramatiq.Broker, jobs: Jobs) -> None:
    class Picky(dramatiq.Middleware):
        def before_enqueue(self, broker: Any, message: Any, delay: Any) -> None:
            if message.actor_name == "heard":
                raise MiddlewareError("nobody wants to hear it")

    broker.add_middleware(Picky())
    with running_worker(broker):
        run = Clutch(on_success=jobs.heard.message("root")).then(jobs.job.message("a")).run()
        wait_until("the error", lambda: run.status().error)
    error = run.status().error
    assert error is not None
    assert error.exception_type == "HookFailed"
    assert "nobody wants to hear it" in error.exception_text
    assert run.get_result() == "a"


# Several callbacks of an event


def test_all_callbacks_of_an_event_are_sent_in_order(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["bad"] = ["die"]
    sent = watch(broker)
    heard = jobs.heard
    several = [heard.message("first"), partial(heard, "second"), heard.message("third")]
    clutch = Clutch(on_failed=several, on_finish=(heard.message("fourth"), heard.message("first")), on_death=())
    with running_worker(broker):
        run = clutch.then(jobs.job.message("bad")).run()
        wait_until("all to be heard", lambda: len(jobs.events) >= 5)
    assert [message.args[0] for message in sent] == ["first", "second", "third", "fourth", "first"]
    assert len({message.message_id for message in sent}) == 5
    assert {status["run_id"] for status in jobs.statuses} == {run.run_id}
    assert [jobs.fired(who) for who in ("first", "second", "third", "fourth")] == ["X E", "X", "X", "E"]


def test_a_hand_over_that_breaks_off_among_callbacks_is_repeated_with_the_same_messages(
    broker: dramatiq.Broker, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, breaks = watch(broker), [True]
    courier: Any = engine_of(broker).courier
    works = courier.send

    def send(outgoing: Any) -> None:
        if breaks and outgoing[0][0].args[0] == "second":
            breaks.clear()
            raise BrokerUnavailable("the broker is away")
        works(outgoing)

    monkeypatch.setattr(courier, "send", send)
    several = [jobs.heard.message(who) for who in ("first", "second", "third")]
    with running_worker(broker):
        Clutch(on_success=several).then(jobs.job.message("a")).run()
        wait_until("all to be heard", lambda: {who for _, who, _ in jobs.events} == {"first", "second", "third"})
    assert Counter(message.args[0] for message in sent) == {"first": 2, "second": 1, "third": 1}
    assert len({(message.args[0], message.message_id) for message in sent}) == 3


def test_a_callback_that_cannot_be_sent_keeps_no_other_from_being_sent(broker: dramatiq.Broker, jobs: Jobs) -> None:
    """And what the others may read stays until they have ended, and no longer."""
    gate, seen = threading.Event(), list[Any]()

    @dramatiq.actor
    def late(status: dict[str, Any]) -> None:
        assert gate.wait(PATIENCE)
        seen.append(Run(status["run_id"]).get_result())

    def sending(message: Any) -> None:
        if message.args and message.args[0] == "refused":
            raise MiddlewareError("nobody wants to hear it")

    watch(broker, sending)
    refused = jobs.heard.message("refused")
    engine = engine_of(broker)
    with running_worker(broker):
        run = Clutch(on_success=[late, refused, jobs.heard.message("third"), refused]).then(jobs.job.message("a")).run()
        jobs.wait_fired("third", "S")
        wait_until("the error", lambda: run.status().error)
        assert has_callbacks(engine.backend, run.run_id)
        gate.set()
        wait_until("the last to have ended", lambda: not has_callbacks(engine.backend, run.run_id))
    assert seen == ["a"]
    error = run.status().error
    assert error is not None
    assert error.exception_type == "HookFailed"


def test_too_many_callbacks_of_an_event_are_refused(broker: dramatiq.Broker, jobs: Jobs) -> None:
    Clutch(on_finish=[jobs.heard.message("x")] * 100).run()
    with pytest.raises(ValueError, match=r"^on_finish takes at most 100 callbacks, not 101$"):
        Clutch(on_finish=[jobs.heard.message("x")] * 101)


def watch(broker: dramatiq.Broker, sending: Callable[[Any], None] = lambda _: None) -> list[Any]:
    """The messages to `heard` that are sent from now on; `sending` is called before each."""
    sent: list[Any] = []

    class Watching(dramatiq.Middleware):
        def before_enqueue(self, broker: Any, message: Any, delay: Any) -> None:
            if message.actor_name == "heard":
                sending(message)
                sent.append(message)

    broker.add_middleware(Watching())
    return sent


def has_callbacks(backend: Any, run_id: str) -> bool:
    """Whether callbacks of a run are noted that haven't ended."""
    generation = backend.generation(run_id)
    return bool(backend.client.exists(keys_of(backend.namespace, run_id, 0, generation)["callbacks"]))


# When they fired


def test_a_run_tells_when_its_callbacks_were_sent_and_what_came_of_them(stub_broker: dramatiq.Broker) -> None:
    jobs, gate, attempts = Jobs(stub_broker), threading.Event(), list[str]()
    actor: Any = dramatiq.actor

    @actor(queue_name="low", throws=LookupError, min_backoff=1, max_backoff=1)  # type: ignore[untyped-decorator]
    def notify(who: str, status: dict[str, Any]) -> None:
        attempts.append(who)
        if who == "dies":
            raise LookupError(who)
        if who == "retried" and attempts.count(who) == 1:
            assert gate.wait(PATIENCE)
            raise ValueError(who)

    several = [partial(notify, who) for who in ("dies", "retried", "fine")]
    jobs.script["a"] = ["die"]
    before = current_millis()
    run = Clutch(on_failed=several, on_success=jobs.heard.message("who")).then(jobs.job.message("a")).run()
    assert [(one.event, one.actor, one.queue, one.state) for one in run.callbacks()] == [
        ("on_success", "heard", "default", "unfired"),
        *[("on_failed", "notify", "low", "unfired")] * 3,
    ]
    with running_worker(stub_broker):
        wait_until("two to have ended", lambda: {one.state for one in run.callbacks()[1:]} >= {"dead", "succeeded"})
        dead, retried, fine = run.callbacks()[1:]
        assert (dead.state, retried.state, fine.state) == ("dead", "sent", "succeeded")
        assert retried.ended is None
        for one in (dead, fine):
            assert before <= (one.owed or 0) <= (one.sent or 0)
            assert (one.owed or 0) <= (one.ended or 0) <= current_millis()
        gate.set()
        wait_until("the last to have ended", lambda: run.callbacks()[2].state == "succeeded")
        assert attempts.count("retried") == 2
        run.retry()
        wait_until("the run to have succeeded", lambda: run.callbacks()[0].state == "succeeded")
    success, *others = asyncio.run(run.callbacks_async())
    assert [one.state for one in others] == ["dead", "succeeded", "succeeded"]
    assert {one.count for one in (success, *others)} == {1}
    told = json.loads(json.dumps(success.to_dict()))
    assert CallbackStatus(**told) == success
    with pytest.raises(RunNotFound):
        Run("nobody").callbacks()


def test_a_callback_that_could_not_be_sent_is_told_as_dead_beside_others(stub_broker: dramatiq.Broker) -> None:
    jobs = Jobs(stub_broker)

    def sending(message: Any) -> None:
        if message.args and message.args[0] == "refused":
            raise MiddlewareError("nobody wants to hear it")

    watch(stub_broker, sending)
    refused = jobs.heard.message("refused")
    run = Clutch(on_success=[refused, jobs.heard.message("heard")]).then(jobs.job.message("a")).run()
    with running_worker(stub_broker):
        wait_until("both to have ended", lambda: [one.state for one in run.callbacks()] == ["dead", "succeeded"])
        wait_until("the error", lambda: run.status().error)
    dead, heard = run.callbacks()
    assert (dead.sent, heard.sent is None) == (None, False)


def test_a_look_at_callbacks_is_one_command_and_two_while_one_is_owed(
    redis_broker: RedisBroker, redis_client: redis.Redis
) -> None:
    """However many there are; and a firing costs one field of the head."""
    jobs = Jobs(redis_broker)
    run = Clutch(on_success=jobs.heard.message("who"), on_finish=[jobs.heard.message("who")] * 9).run()

    def costs() -> dict[str, int]:
        before = executed(redis_client)
        assert len(run.callbacks()) == 10
        return dict(executed(redis_client) - before)

    assert {one.state for one in run.callbacks()} == {"sent"}
    assert costs() == {"hmget": 1}
    head = f"dramatiq-clutch:{{{run.run_id}}}:head"
    redis_client.hset(head, "fired_on_success", "1 0:1 0123abcd 1700000000000 -")
    redis_client.hset(f"dramatiq-clutch:{{{run.run_id}}}:outbox:0123abcd", "on_success:0:1", "{}")
    redis_client.expire(f"dramatiq-clutch:{{{run.run_id}}}:outbox:0123abcd", 60)
    assert run.callbacks()[0].state == "owed"
    assert costs() == {"hmget": 1, "hexists": 1}
