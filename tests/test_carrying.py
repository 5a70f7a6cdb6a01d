"""Options that all messages of a run carry: where their values come from, and whom they reach; on each broker."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import partial
from typing import Any

import dramatiq
import pytest
from dramatiq import Message, MessageProxy, Middleware, group, pipeline
from dramatiq.middleware import CurrentMessage
from dramatiq.middleware.middleware import MiddlewareError

from dramatiq_clutch import Clutch, ClutchMiddleware, Run
from dramatiq_clutch.about import Context
from dramatiq_clutch.carrying import MOST_BYTES, captured, keep, laid
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.errors import HandOverFailed, HookFailed, RunFailed, RunIdTaken
from dramatiq_clutch.handover.members import Members
from dramatiq_clutch.stored.duties import StartNested
from dramatiq_clutch.stored.messages import to_row
from dramatiq_clutch.stored.plan import Plan, Spec
from tests.conftest import running_worker
from tests.support.application import Application
from tests.support.awaiting import wait_until

Make = Callable[..., AbstractContextManager[Application]]

#: What the request, or the message that is worked on, is known by; None in all other threads.
CORRELATION: ContextVar[str | None] = ContextVar("correlation", default=None)


class Correlation(Middleware):
    """As users write it: it puts what it knows at the moment into each message, even if that is nothing."""

    def __init__(self) -> None:
        self.shown: list[Message[Any]] = []
        self.seen: list[Any] = []

    def before_enqueue(self, broker: dramatiq.Broker, message: Message[Any], delay: int | None) -> None:
        self.shown.append(message)
        self.seen.append(message.options.get("correlation_id"))
        message.options["correlation_id"] = CORRELATION.get()

    def before_process_message(self, broker: dramatiq.Broker, message: MessageProxy) -> None:
        CORRELATION.set(message.options.get("correlation_id"))

    def after_process_message(self, broker: dramatiq.Broker, message: MessageProxy, **how: Any) -> None:
        CORRELATION.set(None)


class Readers:
    """A job, one that nests and a callback, which write down which options their messages had."""

    def __init__(self, broker: dramatiq.Broker) -> None:
        self.found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        broker.add_middleware(CurrentMessage())

        def read(name: str) -> None:
            message: Any = CurrentMessage.get_current_message()
            self.found[name].append(message.options)

        @dramatiq.actor(broker=broker, min_backoff=1, max_backoff=1)
        def reads(name: str, *items: Any) -> str:
            read(name)
            if name == "fails once" and len(self.found[name]) == 1:
                raise ValueError(name)
            return name

        @dramatiq.actor(broker=broker)
        def hears(who: str, status: dict[str, Any]) -> None:
            read(f"{who} {status['event']}")

        @dramatiq.actor(broker=broker)
        def nests(name: str) -> Run:
            read(name)
            told: Any = partial(hears, name)
            return Clutch(on_success=told).then(reads.message(f"in {name}")).nest()

        @dramatiq.actor(broker=broker, max_retries=0)
        def runs(name: str) -> None:
            read(name)
            Clutch().then(reads.message(f"run by {name}")).run()

        self.job, self.heard, self.nests, self.runs = reads, hears, nests, runs

    def values(self, option: str = "correlation_id") -> dict[str, list[Any]]:
        return {name: [options.get(option) for options in found] for name, found in self.found.items()}


@pytest.fixture
def request_id() -> Iterator[str]:
    """Where run() is called, a request of this id is handled."""
    token = CORRELATION.set("request-7")
    yield "request-7"
    CORRELATION.reset(token)


def test_what_a_middleware_puts_into_messages_reaches_all_messages_of_the_run(make: Make, request_id: str) -> None:
    with make(carry=["correlation_id"]) as app:
        app.broker.add_middleware(Correlation())
        readers = Readers(app.broker)
        job: Any = readers.job.message
        heard: Any = readers.heard.message
        clutch = (
            Clutch(on_success=heard("root"), on_finish=heard("root"))
            .then(job("series"), job("fails once"))
            .parallel(job("parallel"), job("parallel"))
            .map(job("map"))
            .parallel(Clutch(on_finish=heard("child")).then(Clutch().then(job("nested"))))
            .then(readers.nests.message("n"))
            .then(group([pipeline([job("composition"), job("composition")])]))
        )
        run = clutch.run()
        with running_worker(app.broker):
            run.get_result(block=True)
            wait_until("the callbacks", lambda: {"root on_finish", "n on_success"} <= readers.found.keys())
        found = readers.values()
        names = {"series", "fails once", "parallel", "map", "nested", "n", "in n", "composition", "n on_success"}
        assert set(found) == names | {"root on_success", "root on_finish", "child on_finish"}
        assert {name: values for name, values in found.items() if set(values) != {request_id}} == {}


def test_a_middleware_sees_what_is_carried_and_what_it_makes_of_it_is_not_sent(make: Make, request_id: str) -> None:
    with make(carry=["correlation_id"]) as app:
        first, last = Correlation(), Correlation()
        app.broker.add_middleware(first, before=ClutchMiddleware)
        readers = Readers(app.broker)
        run = Clutch().then(readers.job.message("a"), readers.job.message("b")).run()
        app.broker.add_middleware(last)
        CORRELATION.set("another request")
        with running_worker(app.broker):
            run.get_result(block=True)
        assert readers.values() == {"a": [request_id], "b": [request_id]}
        assert first.seen == [None, request_id, request_id]  # what is shown at run() comes first, and isn't sent
        assert [message.options["correlation_id"] for message in last.shown] == [request_id]  # also afterwards


def test_what_run_is_given_counts_and_needs_no_setting(make: Make, request_id: str) -> None:
    with make(carry=["correlation_id", "tenant"]) as app:
        app.broker.add_middleware(Correlation())
        readers = Readers(app.broker)
        run = (
            Clutch()
            .then(readers.job.message("a"), readers.job.message("b"))
            .run(carry={"correlation_id": "mine", "more": [1, None]})
        )
        with running_worker(app.broker):
            run.get_result(block=True)
        assert readers.values() == {"a": ["mine"], "b": ["mine"]}
        assert readers.values("more") == {"a": [[1, None]], "b": [[1, None]]}
        assert readers.values("tenant") == {"a": [None], "b": [None]}


def test_a_message_that_is_written_with_the_option_keeps_its_own_value(make: Make) -> None:
    with make() as app:
        readers = Readers(app.broker)
        own = readers.job.message_with_options(args=("own",), correlation_id="its own")
        run = Clutch().then(own, readers.job.message("other")).run(carry={"correlation_id": "the run's"})
        with running_worker(app.broker):
            run.get_result(block=True)
        assert readers.values() == {"own": ["its own"], "other": ["the run's"]}


def test_a_run_that_is_started_by_a_message_has_what_that_carries(make: Make) -> None:
    with make(carry=["correlation_id"]) as app:
        readers = Readers(app.broker)
        Clutch().then(readers.runs.message("a job")).run(carry={"correlation_id": "of a job"})
        readers.runs.send_with_options(args=("a message",), correlation_id="of a message")
        with running_worker(app.broker):
            wait_until("both runs", lambda: {"run by a job", "run by a message"} <= readers.found.keys())
        found = readers.values()
        assert (found["run by a job"], found["run by a message"]) == (["of a job"], ["of a message"])
        last = Clutch().then(readers.job.message("later")).run()
        with running_worker(app.broker):
            last.get_result(block=True)
        assert readers.values()["later"] == [None]  # what a worker's thread has worked on before is over


def test_what_a_sweeper_sends_carries_it_too(make: Make, request_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with make(carry=["correlation_id"], lease=1) as app:
        app.broker.add_middleware(Correlation())
        readers = Readers(app.broker)
        with monkeypatch.context() as patch:
            patch.setattr(app.engine.courier, "send_and_confirm", lambda *args: 1 / 0)
            run = Clutch().then(readers.job.message("a")).run()
        CORRELATION.set(None)
        app.engine.look_again(run.run_id, 0)
        assert app.sweep() == 1
        with running_worker(app.broker):
            run.get_result(block=True)
        assert set(readers.values()["a"]) == {request_id}  # the lease is so short that there may be a second copy


def test_what_a_retry_sends_carries_it_too(make: Make) -> None:
    with make(carry=["correlation_id"]) as app:
        readers = Readers(app.broker)
        token = CORRELATION.set("request-7")
        app.broker.add_middleware(Correlation())

        @dramatiq.actor(broker=app.broker, throws=LookupError)
        def dies(name: str) -> str:
            message: Any = CurrentMessage.get_current_message()
            readers.found[name].append(message.options)
            if len(readers.found[name]) == 1:
                raise LookupError(name)
            return name

        run = Clutch().then(dies.message("d")).then(readers.job.message("after")).run()
        CORRELATION.reset(token)
        with running_worker(app.broker):
            with pytest.raises(RunFailed):
                run.get_result(block=True)
            run.retry()
            run.get_result(block=True)
        assert readers.values() == {"d": ["request-7"] * 2, "after": ["request-7"]}


def test_a_message_that_is_delayed_carries_it_still_when_it_is_due(make: Make, request_id: str) -> None:
    with make(carry=["correlation_id"]) as app:
        app.broker.add_middleware(Correlation())
        readers = Readers(app.broker)
        run = Clutch().then(readers.job.message("a")).run(delay=1)
        with running_worker(app.broker):
            run.get_result(block=True)
        assert readers.values() == {"a": [request_id]}


def test_it_is_no_part_of_what_a_run_id_stands_for(make: Make) -> None:
    with make() as app:
        job = Readers(app.broker).job.message
        run = Clutch().then(job("a")).run(run_id="mine", carry={"correlation_id": "1"})
        assert Clutch().then(job("a")).run(run_id="mine", carry={"correlation_id": "2"}) == run
        with pytest.raises(RunIdTaken):
            Clutch().then(job("b")).run(run_id="mine", carry={"correlation_id": "1"})


def test_without_names_no_middleware_is_shown_anything(make: Make) -> None:
    with make() as app:
        correlation = Correlation()
        app.broker.add_middleware(correlation)
        readers = Readers(app.broker)
        Clutch().then(readers.job.message("a")).run()
        assert len(correlation.shown) == 1


# Values, without a worker


def actor_on(broker: dramatiq.Broker) -> Any:
    @dramatiq.actor(broker=broker)
    def quiet(*args: Any) -> None: ...

    return quiet


def with_names(broker: Any) -> Any:
    (middleware,) = (known for known in broker.middleware if isinstance(known, ClutchMiddleware))
    middleware.carry = ("correlation_id",)
    return broker


def test_a_middleware_may_say_by_itself_what_is_carried(stub_broker: Any) -> None:
    class Says(Correlation):
        def clutch_carried(self) -> dict[str, Any]:
            return {"correlation_id": "x"}

    says = Says()
    stub_broker.add_middleware(says)
    assert captured(stub_broker, (), to_row(actor_on(stub_broker).message())) == {"correlation_id": "x"}
    assert captured(stub_broker, (), None) == {"correlation_id": "x"}
    assert says.shown == []


def test_a_middleware_that_can_not_say_it_is_logged_and_the_run_begins(
    stub_broker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Fails(Middleware):
        def clutch_carried(self) -> dict[str, Any]:
            raise LookupError("broken")

    stub_broker.add_middleware(Fails())
    assert Clutch().run().status().state == "succeeded"
    assert "couldn't say what is to be carried" in caplog.text


def test_an_empty_run_or_one_whose_first_stage_is_empty_carries_what_it_is_given(stub_broker: Any) -> None:
    stub_broker.add_middleware(Correlation())
    assert captured(stub_broker, ["correlation_id"], None) == {}
    Clutch().run(carry={"correlation_id": "x"})
    Clutch().parallel().then(Clutch()).run(carry={"correlation_id": "x"})


def test_a_hook_that_refuses_the_message_refuses_the_run(stub_broker: Any) -> None:
    class Refuses(Middleware):
        def before_enqueue(self, broker: dramatiq.Broker, message: Message[Any], delay: int | None) -> None:
            raise MiddlewareError("not today")

    with_names(stub_broker).add_middleware(Refuses())
    with pytest.raises(HookFailed, match="not today"):
        Clutch().then(actor_on(stub_broker).message()).run()


def test_a_value_that_json_cannot_hold_is_an_error_at_run(stub_broker: Any) -> None:
    class Puts(Middleware):
        def before_enqueue(self, broker: dramatiq.Broker, message: Message[Any], delay: int | None) -> None:
            message.options["correlation_id"] = b"bytes"

    with_names(stub_broker).add_middleware(Puts())
    with pytest.raises(TypeError, match=r"what a message carries\['correlation_id'\] is b'bytes'"):
        Clutch().then(actor_on(stub_broker).message()).run()


@pytest.mark.parametrize(
    ("carry", "error", "text"),
    [
        ({"a": {1}}, TypeError, r"carry\['a'\] is \{1\}"),
        ("a", TypeError, "carry is 'a'; it takes a dict"),
        ({"eta": 1}, ValueError, "the option 'eta' can't be carried: it belongs to one message alone"),
        ({"clutch": 1}, ValueError, "'clutch' can't be carried"),
        ({"a": "x" * MOST_BYTES}, ValueError, r"options a, which .* have 4,104 bytes as JSON, and may have 4,096"),
    ],
)
def test_what_can_not_be_carried_is_told_at_run(
    stub_broker: Any, carry: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        Clutch().run(carry=carry)


@pytest.mark.parametrize(
    ("names", "error", "text"),
    [
        ("correlation_id", TypeError, "it takes a list of the names of options"),
        ([1], TypeError, "carry has 1 in it"),
        (["delay"], ValueError, "'delay' can't be carried"),
    ],
)
def test_what_is_no_option_is_told_by_the_middleware(names: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        ClutchMiddleware(carry=names)
    assert repr(ClutchMiddleware(carry=["a", "a"])) == "ClutchMiddleware(carry=('a',))"


def test_a_nested_runs_own_values_are_laid_over_those_around_it_and_count_together(stub_broker: Any) -> None:
    def starting(around: dict[str, Any], own: dict[str, Any]) -> Any:
        members = Members(engine_of(stub_broker), "r", StartNested(0, 0, line="0 1 -"))
        members.__dict__["spec"] = Spec(carried=Context(around))
        return members.starting(Plan(Spec(carried=Context(own)), (), ())).spec.carried

    assert starting({"a": 1, "b": 1}, {"b": 2}) == {"a": 1, "b": 2}
    assert starting({}, {"b": 2}) == {"b": 2}
    with pytest.raises(HandOverFailed, match="run nested in 'r': the options a, b, which"):
        starting({"a": "x" * 3_000}, {"b": "x" * 3_000})


def test_a_message_with_carried_options_is_sent_as_any_other(stub_broker: Any) -> None:
    message = actor_on(stub_broker).message(1)
    ready = laid(message, Context({"a": {"b": 1}}))
    ready.options["a"] = "another"
    delayed = ready.copy(queue_name="later", options={"eta": 1})
    sent = Message.decode(delayed.encode())
    assert (type(sent), sent.args, sent.queue_name, sent.options) == (
        Message,
        (1,),
        "later",
        {"a": {"b": 1}, "eta": 1, "clutch_carries": ["a"]},
    )
    assert laid(message, Context()) is laid(message, None) is message


@pytest.mark.parametrize("names", [None, "a", [["a"], 1, None], {"a": 1}])
def test_a_forged_list_of_what_is_carried_does_no_harm(stub_broker: Any, names: Any) -> None:
    message = MessageProxy(actor_on(stub_broker).message_with_options(args=(), a=1, clutch_carries=names))
    keep(message)
    message.options["a"] = 2
    assert Message.decode(message.encode()).options == {"a": 2, "clutch_carries": names}
