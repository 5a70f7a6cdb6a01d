"""What can't work is refused where it is written: calls that don't fit their actors, actors of other brokers, messages
that were sent."""

from __future__ import annotations

import functools
import inspect
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import dramatiq
import pytest
from dramatiq import Message, group, pipeline
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import AsyncIO

from dramatiq_clutch import Clutch, ClutchMiddleware
from tests.conftest import result

actor: Any = dramatiq.actor  # so that a test may write what a type checker refuses


@pytest.fixture
def fetch(stub_broker: StubBroker) -> Any:
    @actor  # type: ignore[untyped-decorator]
    def fetch(page: int, depth: int = 1) -> str:
        return f"{page} {depth}"

    return fetch


@pytest.fixture
def summarise(stub_broker: StubBroker) -> Any:
    @actor  # type: ignore[untyped-decorator]
    def summarise() -> None: ...

    return summarise


@pytest.fixture
def keyed(stub_broker: StubBroker) -> Any:
    @actor  # type: ignore[untyped-decorator]
    def keyed(page: int, /, url: str, *, depth: int) -> None: ...

    return keyed


WRONG: dict[str, tuple[Callable[[Any, Any, Any], Any], str]] = {
    "too few": (
        lambda fetch, summarise, keyed: Clutch().then(fetch),
        r"then\(\) takes no message to 'fetch' that its actor can't be called with\. fetch\(page, depth=1\) would be "
        r"called as fetch\(\): missing a required argument: 'page'\. Write fetch\.message\(\.\.\.\) or "
        r"functools\.partial\(fetch, \.\.\.\) with all arguments; or, if the previous .* pipe=True$",
    ),
    "too many": (
        lambda fetch, summarise, keyed: Clutch().parallel(summarise, fetch.message(1, 2, "x" * 1_000)),
        r"parallel\(\) .* called as fetch\(1, 2, 'xxx.{,40}xxx'\): too many positional arguments\. Write fetch",
    ),
    "an unknown name": (
        lambda fetch, summarise, keyed: Clutch().then(partial(fetch, 1, deep=2)),
        r"called as fetch\(1, deep=2\): got an unexpected keyword argument 'deep'",
    ),
    "twice": (
        lambda fetch, summarise, keyed: Clutch().parallel(fetch.message(n, page=n) for n in range(3)),
        r"called as fetch\(0, page=0\): multiple values for argument 'page'",
    ),
    "a piped value too many": (
        lambda fetch, summarise, keyed: Clutch().then(fetch.message(1)).then(summarise, pipe=True),
        r"summarise\(\) would be called as summarise\(<the previous result>\): too many positional arguments\. It fits "
        r"without <the previous result>: leave out pipe=, or give the actor a parameter for it",
    ),
    "a piped value too many by name": (
        lambda fetch, summarise, keyed: Clutch().then(fetch.message(1)).then(fetch.message(2), pipe="text"),
        r"called as fetch\(2, text=<the previous result>\): got an unexpected keyword .* leave out pipe=",
    ),
    "a piped value that isn't enough": (
        lambda fetch, summarise, keyed: Clutch().then(summarise).then(keyed, pipe="depth"),
        r"keyed\(page, /, url, \*, depth\) would be called as keyed\(depth=<.*>\): missing a required .*'page'"
        r".* with arguments that fit, but for depth=<the previous result>, which comes by itself",
    ),
    "an item too many": (
        lambda fetch, summarise, keyed: Clutch().then(summarise).map(fetch.message(1, 2)),
        r"map\(\) .* called as fetch\(1, 2, <an item of the previous result>\): too many .* give it with parallel\(\)",
    ),
    "an item by a name that isn't there": (
        lambda fetch, summarise, keyed: Clutch().then(summarise).map(fetch, into="url"),
        r"map\(\) .* called as fetch\(url=<an item of the previous result>\)",
    ),
    "an ignored value": (
        lambda fetch, summarise, keyed: (
            Clutch().then(summarise).then(fetch.message_with_options(pipe_ignore=True), pipe=True)
        ),
        r"called as fetch\(\): missing a required argument: 'page'",
    ),
    "in a pipeline": (
        lambda fetch, summarise, keyed: Clutch().then(pipeline([fetch.message(1), summarise.message()])),
        r"^a pipeline takes no message to 'summarise'",
    ),
    "the first in a pipeline": (
        lambda fetch, summarise, keyed: Clutch().then(pipeline([fetch.message(), fetch.message()])),
        r"^a pipeline .* called as fetch\(\)",
    ),
    "in a mapped group": (
        lambda fetch, summarise, keyed: Clutch().then(summarise).map(group([fetch.message(), summarise.message()])),
        r"^a group .* called as summarise\(<an item of the previous result>\)",
    ),
    "the callback of a group": (
        lambda fetch, summarise, keyed: Clutch().then(with_callback(group([summarise.message()]), fetch.message())),
        r"^a group .* called as fetch\(\)",
    ),
    "a callback without a parameter": (
        lambda fetch, summarise, keyed: Clutch(on_failure=summarise),
        r"^on_failure .* called as summarise\(<the run's status, a dict>\): too many .* A callback gets the run's "
        r"status as its last argument: give the actor a parameter for it, as in def summarise\(status\)$",
    ),
    "a callback whose parameters are taken": (
        lambda fetch, summarise, keyed: Clutch(on_finish=partial(fetch, 1, 2)),
        r"^on_finish .* called as fetch\(1, 2, <.*>\): too many .* give the actor a parameter for it$",
    ),
}


def with_callback(composition: group, message: Message[Any]) -> group:
    composition.completion_callbacks.append(message.asdict())
    return composition


@pytest.mark.parametrize("wrong", WRONG)
def test_a_call_that_does_not_fit_its_actor_is_refused_when_it_is_added(
    wrong: str, fetch: Any, summarise: Any, keyed: Any
) -> None:
    add, text = WRONG[wrong]
    with pytest.raises(TypeError, match=text):
        add(fetch, summarise, keyed)


@pytest.mark.parametrize("piped", [False, True])
def test_what_a_callable_returns_is_refused_at_run(fetch: Any, summarise: Any, *, piped: bool) -> None:
    clutch = Clutch().then(summarise).parallel(lambda: (fetch.message(n, n) for n in range(3)), pipe=piped)
    if not piped:
        clutch.run()
        return
    with pytest.raises(TypeError, match=r"parallel\(.*<lambda>\) takes no message to 'fetch'.* too many positional"):
        clutch.run()


def test_a_callback_by_name_is_refused_at_run(summarise: Any) -> None:
    with pytest.raises(TypeError, match="on_success takes no message to 'summarise'"):
        Clutch(on_success="summarise").then(summarise).run()


def test_what_fits_is_let_through(broker: dramatiq.Broker) -> None:
    @actor  # type: ignore[untyped-decorator]
    def fetch(page: Any, depth: Any = 1) -> Any:
        return [page, depth]

    @actor  # type: ignore[untyped-decorator]
    def nothing() -> str:
        return "nothing"

    one = Clutch().then(fetch.message(1))
    assert result(broker, one.then(fetch, pipe=True)) == [[1, 1], 1]
    assert result(broker, one.then(partial(fetch, 2), pipe="depth")) == [2, [1, 1]]
    assert result(broker, one.map(fetch, into="page")) == [[1, 1], [1, 1]]
    assert result(broker, one.then(nothing.message_with_options(pipe_ignore=True), pipe=True)) == "nothing"
    assert result(broker, one.map(Clutch().then(nothing)).then(Clutch().then(nothing), pipe=True)) == "nothing"
    ignoring = nothing.message_with_options(pipe_ignore=True)
    series = pipeline([fetch.message(), ignoring, fetch.message(depth=3)])
    assert result(broker, one.map(series)) == [["nothing", 3]] * 2
    assert result(broker, one.map(group([fetch.message(), ignoring]))) == [[[1, 1], "nothing"]] * 2


def test_of_an_actor_that_is_not_known_or_takes_anything_nothing_is_said(stub_broker: StubBroker) -> None:
    class Classy(dramatiq.GenericActor):
        def perform(self, page: int) -> None: ...

    class Own(dramatiq.Actor[..., Any]):
        def __call__(self, *args: Any) -> Any:
            return self.fn(*args, "one more")

    def with_session(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any) -> Any:
            return function("session", *args)

        return wrapper

    @actor  # type: ignore[untyped-decorator]
    @with_session
    def wrapped(session: Any, page: int) -> None: ...

    @actor  # type: ignore[untyped-decorator]
    def named(page: int, **others: Any) -> None: ...

    @actor(actor_class=Own)  # type: ignore[untyped-decorator]
    def owned(page: int, more: str) -> None: ...

    class Unhashable:
        __hash__ = None  # type: ignore[assignment]
        __name__ = "unhashable"

        def __call__(self, page: int) -> None: ...

    unhashable, classy = actor(Unhashable()), Classy
    stranger: Any = Message("default", "stranger", (), {}, {})
    Clutch(on_death=named).parallel(wrapped, named, owned, unhashable, classy, stranger, wrapped.message(1, 2, 3))


def test_a_coroutine_is_looked_at_as_it_was_written(stub_broker: StubBroker) -> None:
    stub_broker.add_middleware(AsyncIO())

    @actor  # type: ignore[untyped-decorator]
    async def fetch(page: int) -> None: ...

    Clutch().then(fetch.message(1))
    with pytest.raises(TypeError, match=r"fetch\(page\) would be called as fetch\(\)"):
        Clutch().then(fetch)


def test_the_broker_of_the_clutch_is_asked_and_none_is_made(fetch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    other = StubBroker()

    @actor(broker=other, actor_name="fetch")  # type: ignore[untyped-decorator]
    def its_fetch() -> None: ...

    Clutch(broker=other).then(its_fetch.message())
    with pytest.raises(TypeError, match="missing a required argument: 'page'"):
        Clutch().then(its_fetch.message())
    monkeypatch.setattr("dramatiq.broker.global_broker", None)
    Clutch().then(its_fetch.message())
    assert dramatiq.broker.global_broker is None


def test_a_signature_is_read_once_however_many_messages_there_are(fetch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million messages are added by a generator, so a check must cost next to nothing."""
    looks: list[Any] = []
    signature = inspect.signature

    def watched(*args: Any, **options: Any) -> Any:
        looks.append(args)
        return signature(*args, **options)

    monkeypatch.setattr("dramatiq_clutch.signatures.inspect.signature", watched)

    def messages() -> Iterator[Message[Any]]:
        for number in range(1_000):
            yield fetch.message(number)
            yield fetch.message(number, depth=number)

    Clutch().parallel(messages())
    assert 0 < len(looks) <= 3


# Brokers


def test_an_actor_of_another_broker_is_refused(fetch: Any) -> None:
    """At the call that adds it where the clutch has its own broker, otherwise at run(). No worker of that broker
    knows the actor, so the run would fail there, of ActorNotFound."""
    other = StubBroker()
    other.add_middleware(ClutchMiddleware())
    refused = r"takes no message to 'fetch', because .* another broker .* Clutch\(broker=\.\.\.\) with the actor's"
    given: list[Any] = [fetch.message(1), partial(fetch, 1), pipeline([fetch.message(1)]), group([fetch.message(1)])]
    for step in given:
        with pytest.raises(ValueError, match=refused):
            Clutch(broker=other).then(step)
    with pytest.raises(ValueError, match=refused):
        Clutch(broker=other, on_failure=fetch)
    with pytest.raises(ValueError, match=refused):
        Clutch(broker=other).parallel(lambda: [fetch.message(1)]).run()
    with pytest.raises(ValueError, match=f"^run.. {refused}"):
        Clutch(broker=other).then(Clutch().then(fetch.message(1))).run()

    @actor(broker=other)  # type: ignore[untyped-decorator]
    def its_own(page: int) -> None: ...

    for clutch in (Clutch().then(partial(its_own, 1)), Clutch().then(fetch.message(1)).then(its_own, pipe=True)):
        with pytest.raises(ValueError, match=r"^run\(\) takes no message to 'its_own'"):
            clutch.run()
    with pytest.raises(ValueError, match=r"^on_death takes no message to 'its_own'"):
        Clutch(on_death=its_own).run()
    Clutch(broker=other, on_death=its_own).then(its_own.message(1), partial(its_own, 1)).run()
    Clutch(broker=other).then(Clutch().then(partial(its_own, 1))).run()


def test_an_actor_that_both_brokers_know_or_nobody_is_sent_to_either(fetch: Any) -> None:
    other = StubBroker()
    other.add_middleware(ClutchMiddleware())
    stranger: Any = Message("default", "stranger", (), {}, {})

    @actor(broker=other, actor_name="fetch")  # type: ignore[untyped-decorator]
    def its_fetch(page: int, depth: int = 1) -> None: ...

    for broker in (other, None):
        Clutch(broker=broker).then(fetch.message(1), partial(its_fetch, 1), partial(fetch, 1), stranger).run()
    clutch = Clutch().then(fetch.message(1))
    assert pickle.loads(pickle.dumps(clutch)) == clutch


# Messages that were sent


def test_a_message_that_was_sent_is_refused(redis_broker: RedisBroker) -> None:
    @actor  # type: ignore[untyped-decorator]
    def charge(amount: int) -> None: ...

    refused = r"takes no message to 'charge' that was sent already.* charge\.message\(\.\.\.\) instead of \.send\("
    with pytest.raises(ValueError, match=refused):
        Clutch().parallel(charge.send(amount) for amount in range(3))
    with pytest.raises(ValueError, match=refused):
        Clutch().then(pipeline([charge.send(1)]))
    with pytest.raises(ValueError, match=refused):
        Clutch(on_failure=charge.send())


def test_of_other_brokers_one_that_was_sent_with_a_delay_is_refused(broker: dramatiq.Broker) -> None:
    @actor  # type: ignore[untyped-decorator]
    def charge(amount: int) -> None: ...

    with pytest.raises(ValueError, match=r"message_with_options\(\.\.\.\) instead of send_with_options\("):
        Clutch().then(charge.send_with_options(args=(1,), delay=1_000))
    Clutch().then(charge.message_with_options(args=(1,), delay=1_000))
