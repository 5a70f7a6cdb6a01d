"""A clutch and a handle are values: they don't change, they travel, and equal ones are equal."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
import uuid
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from dramatiq import JSONEncoder, PickleEncoder, group, pipeline
from dramatiq.brokers.redis import RedisBroker
from dramatiq.errors import ActorNotFound
from dramatiq.middleware import Callbacks, CurrentMessage
from dramatiq.results import Results
from dramatiq.results.backends import StubBackend as ResultsInMemory
from hypothesis import given
from hypothesis import strategies as st

from dramatiq_clutch import Clutch, ClutchMiddleware, Run, previous_results
from dramatiq_clutch.canonical import canonical
from dramatiq_clutch.errors import RunIdTaken
from dramatiq_clutch.planning import plan_of
from dramatiq_clutch.run import NestedRun
from dramatiq_clutch.steps import MOST_LEVELS, once
from dramatiq_clutch.stored.messages import message_from
from tests.conftest import result, running_worker
from tests.support.awaiting import PATIENCE, wait_until
from tests.support.jobs import Jobs
from tests.support.server import Server

ROOT = Path(__file__).parent.parent


@pytest.fixture
def job(stub_broker: dramatiq.Broker) -> Any:
    @dramatiq.actor
    def job(*args: Any, **kwargs: Any) -> Any:
        return [list(args), kwargs] if kwargs else list(args)

    return job


@pytest.fixture
def set_encoder() -> Iterator[Callable[[dramatiq.Encoder], None]]:
    before = dramatiq.get_encoder()
    yield dramatiq.set_encoder
    dramatiq.set_encoder(before)


class MsgPack(dramatiq.Encoder):
    """Messages and results in another format than JSON, as an application may have it."""

    def __init__(self) -> None:
        self.package = pytest.importorskip("msgpack")

    def encode(self, data: Any) -> bytes:
        packed: bytes = self.package.packb(data)
        return packed

    def decode(self, data: bytes) -> Any:
        return self.package.unpackb(data)


@pytest.mark.parametrize("encoder", [PickleEncoder, MsgPack])
def test_messages_and_results_may_have_an_encoder_of_the_applications(
    broker: dramatiq.Broker, set_encoder: Callable[[dramatiq.Encoder], None], encoder: type[dramatiq.Encoder]
) -> None:
    set_encoder(encoder())
    heard: list[Any] = []

    @dramatiq.actor(max_retries=1, min_backoff=1, max_backoff=1)
    def job(value: bytes, attempts: list[int]) -> bytes:
        if CurrentMessage.get_current_message().options.get("retries", 0) < 1:  # type: ignore[union-attr]
            raise ValueError("a retry is a message, too")
        return value + b"\xff"

    @dramatiq.actor
    def nests() -> Run:
        return Clutch().then(keeps.message(b"\x00\xfe")).nest()

    @dramatiq.actor
    def keeps(value: bytes) -> bytes:
        return value

    @dramatiq.actor
    def total() -> list[bytes]:
        return previous_results()

    @dramatiq.actor
    def hears(status: dict[str, Any]) -> None:
        heard.append(status["state"])

    if not any(isinstance(known, CurrentMessage) for known in broker.middleware):
        broker.add_middleware(CurrentMessage())
    run = Clutch(on_success=hears).parallel(job.message(b"\xfe", [1]), nests).then(total).run(context={"of": "bytes"})
    with running_worker(broker):
        assert run.get_result(block=True) == [b"\xfe\xff", b"\x00\xfe"]
        wait_until("the callback", lambda: heard == ["succeeded"])


class Models(dramatiq.Encoder):
    """JSON with models of Pydantic's in it."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def encode(self, data: Any) -> bytes:
        return json.dumps(data, default=lambda value: {"a model": value.model_dump(mode="json")}).encode()

    def decode(self, data: bytes) -> Any:
        return json.loads(data, object_hook=lambda it: self.model(**it["a model"]) if "a model" in it else it)


def test_arguments_and_results_may_be_models_of_pydantic(
    broker: dramatiq.Broker, set_encoder: Callable[[dramatiq.Encoder], None]
) -> None:
    order: Any = pytest.importorskip("pydantic").create_model("Order", number=(int, ...), made=(dt.date, ...))
    set_encoder(Models(order))

    @dramatiq.actor
    def doubled(one: Any) -> Any:
        return one.model_copy(update={"number": 2 * one.number})

    @dramatiq.actor
    def seen() -> list[Any]:
        assert all(isinstance(one, order) for one in previous_results())
        return previous_results()

    made = dt.date(2026, 11, 28)
    first, second = (order(number=number, made=made) for number in (1, 2))
    clutch = Clutch().parallel(doubled.message(first), doubled.message(second)).then(seen).map(doubled)
    with running_worker(broker):
        run = clutch.run(run_id=f"orders-{uuid.uuid4()}")
        assert run.get_result(block=True) == [order(number=number, made=made) for number in (4, 8)]
    assert not clutch.run(run_id=run.run_id).started


# Beside Results and Callbacks

RETURNS: dict[str, Callable[[Any, Any], Any]] = {
    "a handle": lambda first, second: first,
    "a list of handles": lambda first, second: [first, second],
    "a tuple of handles": lambda first, second: (first, second),
    "handles among other values": lambda first, second: {"runs": [first, second], "best": first},
}


# With Pickle in memory only: what a broker does with bytes isn't up to who has made them.
@pytest.mark.parametrize(
    ("broker", "encoder"),
    [
        pytest.param("stub", JSONEncoder(), id="stub-json"),
        pytest.param("stub", PickleEncoder(), marks=pytest.mark.twice, id="stub-pickle"),
        pytest.param("redis", JSONEncoder(), marks=pytest.mark.twice, id="redis-json"),
    ],
    indirect=["broker"],
)
@pytest.mark.parametrize("returned", RETURNS)
@pytest.mark.parametrize("side", ["before", "after"])
def test_other_middleware_gets_the_ids_of_nested_runs_for_their_handles(
    broker: dramatiq.Broker,
    caplog: pytest.LogCaptureFixture,
    set_encoder: Callable[[dramatiq.Encoder], None],
    side: str,
    returned: str,
    encoder: dramatiq.Encoder,
) -> None:
    set_encoder(encoder)
    kept, make, handles, heard = ResultsInMemory(encoder=encoder), RETURNS[returned], list[Run](), list[Any]()
    callbacks = next(known for known in broker.middleware if isinstance(known, Callbacks))
    broker.middleware.remove(callbacks)
    for other in (Results(backend=kept), callbacks):
        place: Any = {side: ClutchMiddleware}
        broker.add_middleware(other, **place)

    @dramatiq.actor
    def hears(message: dict[str, Any], value: Any) -> None:
        heard.append(value)

    @dramatiq.actor
    def inner(name: str) -> str:
        return name

    @dramatiq.actor(store_results=True, on_success="hears")
    def nests() -> Any:
        handles[:] = [Clutch().then(inner.message(name)).nest() for name in ("first", "second")]
        return make(*handles)

    messages = list[dramatiq.Message[Any]]()
    broker.add_middleware(Seen("nests", messages))
    with running_worker(broker), caplog.at_level(logging.WARNING):
        outcome = Clutch().then(nests).run().get_result(block=True)
        wait_until("on_success", lambda: heard)
        stored = kept.get_result(messages[0], block=True)
    ids = make(*(handle.run_id for handle in handles))
    assert encoder.decode(encoder.encode({"value": ids})) == {"value": heard[0]} == {"value": stored}
    assert "NestedRun" not in str((type(heard[0]), type(stored)))
    assert outcome == (ids if isinstance(ids, dict) else as_result(make("first", "second")))
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def as_result(names: Any) -> Any:
    return list(names) if isinstance(names, tuple) else names


class Seen(dramatiq.Middleware):
    """Notes an actor's messages."""

    def __init__(self, actor: str, messages: list[dramatiq.Message[Any]]) -> None:
        self.actor, self.messages = actor, messages

    def before_process_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        if message.actor_name == self.actor:
            self.messages.append(message._message)  # noqa: SLF001


# What is changed after a clutch is built

ADDS: dict[str, Callable[[Any, Any], Clutch]] = {
    "then": lambda first, message: Clutch().then(message),
    "parallel": lambda first, message: Clutch().parallel([message]),
    "map": lambda first, message: Clutch().then(first).map(message),
    "pipeline": lambda first, message: Clutch().then(pipeline([first, message])),
    "group": lambda first, message: Clutch().then(group([message])),
    "completion": lambda first, message: Clutch().then(completed_by(message)),
    "callback": lambda first, message: Clutch(on_success=message),
    "nested callback": lambda first, message: Clutch().then(Clutch(on_finish=message).then(first)),
}


def completed_by(message: dramatiq.Message[Any]) -> group:
    several = group([])
    several.add_completion_callback(message)
    return several


@pytest.mark.parametrize("add", ADDS)
def test_what_is_changed_in_a_message_later_changes_nothing(stub_broker: dramatiq.Broker, job: Any, add: str) -> None:
    items, names, hints = [1, [2]], {"a": [1]}, [1]
    clutch = ADDS[add](job.message(), job.message(items, names=names).copy(options={"hints": hints}))
    before = plan_of(clutch, stub_broker, inherits=False)
    items[1].append(3)  # type: ignore[attr-defined]
    items.clear()
    names["a"].append(2)
    hints.clear()
    assert plan_of(clutch, stub_broker, inherits=False) == before
    assert b"[1,[2]]" in before.to_bytes()
    assert b'{"a":[1]}' in before.to_bytes()
    assert b'{"hints":[1]' in before.to_bytes()


def test_a_job_gets_what_its_message_said_when_it_was_added(broker: dramatiq.Broker, jobs: Jobs) -> None:
    numbers = [1, 2]
    clutch = Clutch().then(jobs.job.message("a", numbers))
    numbers.append(3)
    assert result(broker, clutch) == ["a", [1, 2]]
    assert result(broker, clutch) == ["a", [1, 2]]


class Counting(JSONEncoder):
    encoded = 0

    def encode(self, data: dict[str, Any]) -> bytes:
        self.encoded += 1
        return super().encode(data)


def test_a_message_is_encoded_once_for_all_runs(
    stub_broker: dramatiq.Broker, job: Any, set_encoder: Callable[[dramatiq.Encoder], None]
) -> None:
    encoder = Counting()
    set_encoder(encoder)
    clutch = Clutch().parallel(job.message(n) for n in range(5_000)).then(job)
    assert encoder.encoded == 5_001
    for _ in range(2):
        assert len(plan_of(clutch, stub_broker, inherits=False).rows) == 5_001
    assert encoder.encoded == 5_001


@pytest.mark.parametrize("encoders", [(JSONEncoder, PickleEncoder), (PickleEncoder, JSONEncoder)])
def test_an_encoder_that_is_set_between_building_and_running_writes_the_plan(
    broker: dramatiq.Broker, jobs: Jobs, set_encoder: Callable[[dramatiq.Encoder], None], encoders: Any
) -> None:
    first, second = encoders
    set_encoder(first())
    clutch = Clutch(on_success=jobs.heard.message("me")).then(jobs.job.message("a", {"b": [1]}))
    set_encoder(second())
    assert message_from(plan_of(clutch, broker, inherits=False).rows[0]).args == ("a", {"b": [1]})
    assert result(broker, clutch) == ["a", {"b": [1]}]


@pytest.mark.parametrize("add", ADDS)
@pytest.mark.parametrize("place", ["args[1]", "kwargs['second']", "options['hint']"])
def test_an_argument_that_cannot_be_encoded_is_a_type_error_at_the_call_that_adds_it(
    job: Any, add: str, place: str
) -> None:
    messages = {
        "args[1]": job.message("fine", {1, 2}),
        "kwargs['second']": job.message(first="fine", second={1, 2}),
        "options['hint']": job.message("fine").copy(options={"hint": {1, 2}}),
    }
    with pytest.raises(TypeError, match=r"'job'.*JSONEncoder.*set is not JSON serializable") as raised:
        ADDS[add](job.message(), messages[place])
    assert f"{place}, {{1, 2}}: " in str(raised.value)


# Iterators that are used up


@pytest.mark.parametrize("kind", ["a generator", "a map", "an iterator of a list", "an iterator of its own"])
@pytest.mark.parametrize("where", ["in a stage", "in a nested clutch", "in two stages"])
def test_a_callable_that_returns_the_same_iterator_again_is_an_error(job: Any, kind: str, where: str) -> None:
    class Own:
        left = 3

        def __iter__(self) -> Own:
            return self

        def __next__(self) -> Any:
            self.left -= 1
            if self.left < 0:
                raise StopIteration
            return job.message(self.left)

    messages = [job.message(n) for n in range(3)]
    iterators: dict[str, Callable[[], Any]] = {
        "a generator": lambda: (message for message in messages),
        "a map": lambda: map(job.message, range(3)),
        "an iterator of a list": lambda: iter(messages),
        "an iterator of its own": Own,
    }
    iterator = iterators[kind]()
    stage = Clutch().parallel(lambda: iterator)
    if where == "in two stages":
        with pytest.raises(ValueError, match=r"lambda.* used up"):
            stage.parallel(lambda: iterator).run()
        return
    clutch = stage if where == "in a stage" else Clutch().then(stage)
    clutch.run()
    with pytest.raises(ValueError, match=r"lambda.* used up, or has been read before.*a new iterator each"):
        clutch.run()


def test_a_callable_that_returns_a_new_iterator_each_time_is_read_at_each_run(
    broker: dramatiq.Broker, jobs: Jobs
) -> None:
    clutch = Clutch().parallel(lambda: iter([jobs.job.message("a"), jobs.job.message("b")]))
    shared = Clutch().parallel(lambda: map(jobs.job.message, "ab")).parallel(lambda: (jobs.job for _ in ()))
    assert [result(broker, clutch) for _ in range(3)] == [["a", "b"]] * 3
    assert [result(broker, shared) for _ in range(3)] == [[]] * 3


def test_what_was_left_of_an_iterator_by_a_run_that_failed_is_not_taken_for_the_whole(job: Any) -> None:
    iterator = iter([job.message(1), "no step", job.message(2)])
    clutch = Clutch().parallel(lambda: iterator)
    with pytest.raises(TypeError, match="no step"):
        clutch.run()
    with pytest.raises(ValueError, match="has been read before"):
        clutch.run()


def test_two_runs_at_once_do_not_share_an_iterator(job: Any) -> None:
    reading, go_on = threading.Event(), threading.Event()

    def messages() -> Iterator[Any]:
        reading.set()
        assert go_on.wait(PATIENCE)
        yield job.message(1)

    iterator, runs = messages(), list[Run]()
    clutch = Clutch().parallel(lambda: iterator)
    other = threading.Thread(target=lambda: runs.append(clutch.run()))
    other.start()
    try:
        assert reading.wait(PATIENCE)
        with pytest.raises(ValueError, match="has been read before"):
            clutch.run()
    finally:
        go_on.set()
        other.join()
    assert runs[0].status().stages[0].total == 1


def test_jobs_that_nest_do_not_share_an_iterator(broker: dramatiq.Broker, jobs: Jobs) -> None:
    iterator = map(jobs.job.message, "ab")

    @dramatiq.actor(max_retries=0)
    def nests() -> Run:
        return Clutch().parallel(lambda: iterator).nest()

    run = Clutch().parallel(nests, nests, allow_failures=True).run()
    with running_worker(broker, threads=1):
        assert run.get_result(block=True) in ([["a", "b"], None], [None, ["a", "b"]])
    (failure,) = run.status().failures
    assert "has been read before" in failure.exception_text


@pytest.mark.parametrize("spend", [list, lambda iterator: Clutch().parallel(iterator)], ids=["elsewhere", "by a stage"])
def test_an_iterator_that_is_used_up_is_an_error_at_the_call_that_adds_it(job: Any, spend: Any) -> None:
    iterator = (job.message(n) for n in range(3))
    spend(iterator)
    with pytest.raises(ValueError, match=r"parallel\(\) was given an iterator that is used up"):
        Clutch().parallel(iterator)


def test_iterators_are_not_remembered_for_ever(job: Any) -> None:
    before = len(once._begun)  # noqa: SLF001
    for _ in range(3 * once.MOST_KEPT):
        Clutch().parallel(message for message in [job.message()])
        Clutch().parallel(iter([job.message()]))
    assert len(once._kept) <= once.MOST_KEPT  # noqa: SLF001
    assert len(once._begun) <= before + once.MOST_KEPT  # noqa: SLF001


# Copies and pickles


def test_a_handle_is_pickled_as_its_id_and_finds_the_global_broker(broker: dramatiq.Broker, jobs: Jobs) -> None:
    run = Clutch(broker=broker).then(jobs.job.message("a")).run()
    data = pickle.dumps(run)
    assert len(data) < 120
    copies = [pickle.loads(data), copy.deepcopy(run), copy.copy(run)]
    assert copies == [run] * 3
    assert {type(handle) for handle in copies} == {Run}
    with running_worker(broker):
        assert [handle.get_result(block=True) for handle in copies] == ["a"] * 3


def test_a_copy_of_a_handle_keeps_its_broker(redis_broker: RedisBroker, stub_broker: dramatiq.Broker) -> None:
    run = Clutch(broker=redis_broker).run()
    assert dramatiq.get_broker() is stub_broker
    assert copy.deepcopy([run])[0].status().state == "succeeded"


def some_pages() -> Iterator[dramatiq.Message[Any]]:
    actor = dramatiq.get_broker().get_actor("job")
    return (actor.message(name) for name in ("x", "y"))


def test_a_clutch_is_pickled_and_copied_without_its_broker(broker: dramatiq.Broker, jobs: Jobs) -> None:
    job, heard = jobs.job, jobs.heard
    callbacks: dict[str, Any] = {"on_finish": heard.message("root"), "on_success": "job", "on_failure": job}
    clutch = (
        Clutch(broker=broker, name="whole", **callbacks)
        .then(pipeline([job.message("a"), job.message("b")]))
        .parallel(group([job.message("c")]), Clutch().then(job.message("d")), job.message("e"))
        .parallel(some_pages)
        .map(job.message("m"))
    )
    copies = [pickle.loads(pickle.dumps(clutch)), copy.deepcopy(clutch), copy.copy(clutch)]
    assert copies[0].broker is None
    assert copies[1].broker is broker
    assert len({clutch.to_mermaid(), *(one.to_mermaid() for one in copies)}) == 1
    assert {plan_of(one, broker, inherits=False).to_bytes() for one in (clutch, *copies)} == {
        plan_of(clutch, broker, inherits=False).to_bytes()
    }
    with running_worker(broker):
        assert copies[0].then(jobs.total).run().get_result(block=True) == [["m", "x"], ["m", "y"]]
        jobs.wait_fired("root", "E")


# A handle among a job's arguments


@pytest.mark.parametrize("hide", [lambda run: run, lambda run: [1, run], lambda run: (run,), lambda run: {"run": run}])
@pytest.mark.parametrize("encoder", [JSONEncoder(), PickleEncoder()], ids=lambda encoder: type(encoder).__name__)
@pytest.mark.parametrize("handle", [Run("x"), NestedRun("x")], ids=["run()", "nest()"])
def test_a_handle_as_an_argument_says_to_pass_its_id(
    job: Any, set_encoder: Callable[[dramatiq.Encoder], None], handle: Any, encoder: dramatiq.Encoder, hide: Any
) -> None:
    set_encoder(encoder)
    for message in (job.message("a", hide(handle)), job.message(other=hide(handle))):
        for add in (Clutch().then, Clutch().parallel, Clutch().then(job).map):
            with pytest.raises(TypeError, match=r"'job' with a run's handle in its .*pass run\.run_id"):
                add(message)
        with pytest.raises(TypeError, match=r"on_finish takes no .*pass run\.run_id"):
            Clutch(on_finish=message)
    Clutch().then(job.message("a", handle.run_id))


# What is run under an id

RUN_WITH_SETS = """
import dataclasses, datetime, sys, uuid
import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq_clutch import Clutch, ClutchMiddleware

@dataclasses.dataclass
class Filter:
    words: frozenset
    since: datetime.datetime

dramatiq.set_encoder(dramatiq.PickleEncoder())
broker = RedisBroker(url=sys.argv[1])
broker.add_middleware(ClutchMiddleware())
dramatiq.set_broker(broker)
job = dramatiq.actor(lambda *args: None, actor_name="job")
words = {"alpha", "beta", "gamma", "delta", "epsilon"}
message = job.message(words, {word: {word, "x", "y"} for word in words},
    Filter(frozenset(words), datetime.datetime(2026, 11, 1)), uuid.UUID(int=7), dict.fromkeys(words), b"1")
clutch = Clutch(on_finish=message).then(message).parallel(Clutch(on_death=message).then(message))
print(clutch.run(run_id="november").run_id)
"""


@pytest.mark.process
def test_an_equal_clutch_is_the_same_run_in_a_process_with_another_hash_seed(
    server: Server, redis_client: object
) -> None:
    for seed in range(4):
        env = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", RUN_WITH_SETS, server.url]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
        assert (done.stdout, done.stderr) == ("november\n", "")


@pytest.mark.parametrize("encoder", [JSONEncoder(), PickleEncoder()], ids=lambda encoder: type(encoder).__name__)
def test_an_equal_clutch_is_the_same_run_whatever_the_order_of_keys_and_the_delay(
    broker: dramatiq.Broker, jobs: Jobs, set_encoder: Callable[[dramatiq.Encoder], None], encoder: dramatiq.Encoder
) -> None:
    set_encoder(encoder)

    def clutch(names: str) -> Clutch:
        values = {name: dict.fromkeys(names, 1) for name in names}
        message = jobs.job.message("a", values, **values).copy(options=dict.fromkeys(names, 1))
        return Clutch(on_finish=message).then(message).parallel(Clutch(on_death=message).then(message), message)

    first = clutch("abc").run(run_id="mine")
    assert clutch("cba").run(run_id="mine") == first
    assert clutch("bca").run(run_id="mine", delay=60_000) == first


def test_an_equal_clutch_is_the_same_run_when_another_encoder_is_set(
    broker: dramatiq.Broker, jobs: Jobs, set_encoder: Callable[[dramatiq.Encoder], None]
) -> None:
    clutch = Clutch().then(jobs.job.message("a", [1, (2, 3)], {"b": None}))
    first = clutch.run(run_id="mine")
    set_encoder(PickleEncoder())
    assert clutch.run(run_id="mine") == first


@pytest.mark.parametrize("other", range(12))
def test_a_different_clutch_is_not_the_same_run(
    broker: dramatiq.Broker, jobs: Jobs, set_encoder: Callable[[dramatiq.Encoder], None], other: int
) -> None:
    set_encoder(PickleEncoder())
    broker.declare_queue("other")
    job = jobs.job.message
    clutches = [
        Clutch(name="a", on_finish=job("f", {1})).then(job({"x", "y"}), Clutch().then(job("b"))),
        Clutch(name="b", on_finish=job("f", {1})).then(job({"x", "y"}), Clutch().then(job("b"))),
        Clutch(name="a", on_finish=job("f", {2})).then(job({"x", "y"}), Clutch().then(job("b"))),
        Clutch(name="a", on_death=job("f", {1})).then(job({"x", "y"}), Clutch().then(job("b"))),
        Clutch(name="a", on_finish=job("f", {1}), queue="other").then(job({"x", "y"}), Clutch().then(job("b"))),
        Clutch(name="a", on_finish=job("f", {1})).then(job({"x", "z"}), Clutch().then(job("b"))),
        Clutch(name="a", on_finish=job("f", {1})).then(job(["x", "y"]), Clutch().then(job("b"))),
        Clutch(name="a", on_finish=job("f", {1})).then(job({"x", "y"}), Clutch().then(job("c"))),
        Clutch(name="a", on_finish=job("f", {1})).then(job({"x", "y"}), Clutch(name="n").then(job("b"))),
        Clutch(name="a", on_finish=job("f", {1})).then(job({"x", "y"}), job("b")),
        Clutch(name="a", on_finish=job("f", {1})).then(Clutch().then(job("b")), job({"x", "y"})),
        Clutch(name="a", on_finish=job("f", {1})).parallel(job({"x", "y"}), Clutch().then(job("b"))),
        Clutch(name="a", on_finish=job("f", {1})).then(job({"x": "y"}), Clutch().then(job("b"))),
    ]
    clutches[0].run(run_id="mine")
    with pytest.raises(RunIdTaken):
        clutches[other + 1].run(run_id="mine")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text().filter(lambda key: not key.startswith("\0")), inner),
)


def backwards(value: Any) -> Any:
    """The same, with all keys in the opposite order."""
    if isinstance(value, dict):
        return {key: backwards(value[key]) for key in reversed(value)}
    return [backwards(item) for item in value] if isinstance(value, list) else value


@given(JSON)
def test_a_value_has_one_canonical_form_whatever_encodes_it(value: Any) -> None:
    forms = set()
    for encoder in (JSONEncoder(), PickleEncoder()):
        for same in (value, backwards(value)):
            forms.add(canonical(encoder.encode({"value": same}), encoder))
    assert len(forms) == 1


@given(JSON, JSON)
def test_values_with_one_canonical_form_are_equal(one: Any, other: Any) -> None:
    encoder = PickleEncoder()
    forms = [canonical(encoder.encode({"value": value}), encoder) for value in (one, other)]
    if forms[0] == forms[1]:
        assert one == other


@dataclasses.dataclass
class Point:
    x: Any
    y: Any = None


class Words(set[str]):
    pass


DIFFERENT: list[Any] = [
    *(0, 1, 1.0, True, None, "1", b"1", "\0", 10**5000, -(10**5000), [1], [[1]], {1}, {"1"}, {1: 1}, {"1": 1}),
    *({"\0int": "0x1"}, {(1, 2): 3}, Point(1), Point(2), Point({1}), Words("ab"), Counter("ab"), Counter("abb")),
    *(dt.date(2026, 1, 1), dt.date(2026, 1, 2), dt.timedelta(1), uuid.UUID(int=1), 1j, 2j),
    *(Point, Words, len, canonical, OrderedDict(a=1), OrderedDict(a=2), range(3), range(4)),
]


def test_different_values_have_different_canonical_forms_and_equal_ones_one() -> None:
    encoder = PickleEncoder()

    def form(value: Any) -> bytes:
        return canonical(encoder.encode({"value": value}), encoder)

    assert len({form(value) for value in DIFFERENT}) == len(DIFFERENT)
    assert [form(copy.deepcopy(value)) for value in DIFFERENT] == [form(value) for value in DIFFERENT]
    assert form(OrderedDict(a=1, b=2)) == form(OrderedDict(b=2, a=1))
    assert form(Words("abcdef")) == form(Words("fedcba"))
    assert form((1, (2,))) == form([1, [2]])


def test_values_that_hold_themselves_or_share_all_they_hold_have_a_canonical_form_soon() -> None:
    encoder = PickleEncoder()
    ring: list[Any] = []
    ring += [ring, ring]
    shared: Any = 1
    for _ in range(60):
        shared = [shared, shared]
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    for value in (ring, shared, deep):
        data = encoder.encode({"value": value})
        assert canonical(data, encoder) == b"bytes " + data


# Callbacks whose actors are elsewhere


@pytest.mark.parametrize("nested", [False, True], ids=["at the top", "in a nested clutch"])
def test_a_callback_given_as_a_message_does_not_need_its_actor_in_the_producer(
    broker: dramatiq.Broker, jobs: Jobs, nested: bool
) -> None:
    elsewhere: dramatiq.Message[Any] = dramatiq.Message("default", "elsewhere", ("me",), {}, {})
    several = group([jobs.job.message("g")])
    several.add_completion_callback(elsewhere)
    clutch = Clutch(on_success=elsewhere).then(jobs.job.message("a"), several)
    run = (Clutch().then(clutch) if nested else clutch).run()
    heard = []

    @dramatiq.actor(actor_name="elsewhere")
    def hears(*args: Any) -> None:
        heard.append([args[0], *(status["event"] for status in args[1:])])

    with running_worker(broker):
        assert run.get_result(block=True) == ["g"]
        wait_until("both are heard", lambda: len(heard) == 2)
    assert sorted(heard) == [["me"], ["me", "on_success"]]


def test_a_callback_given_as_a_name_is_looked_up(broker: dramatiq.Broker, jobs: Jobs) -> None:
    with pytest.raises(ActorNotFound, match="elsewhere"):
        Clutch(on_success="elsewhere").then(jobs.job.message("a")).run()


# How deep clutches nest


def nested(step: Any, levels: int) -> Clutch:
    clutch = Clutch().then(step)
    for _ in range(levels):
        clutch = Clutch().then(clutch)
    return clutch


@pytest.mark.heavy
def test_clutches_nested_as_deep_as_can_be_work_everywhere(broker: dramatiq.Broker, jobs: Jobs) -> None:
    deepest = nested(jobs.job.message("deep"), MOST_LEVELS)
    assert deepest.to_mermaid().count("subgraph") == MOST_LEVELS
    assert pickle.loads(pickle.dumps(deepest)) == deepest
    assert "deep" not in repr(deepest)
    run = deepest.run(run_id="deepest")
    assert deepest.run(run_id="deepest") == run
    with running_worker(broker):
        assert run.get_result(block=True, timeout=60_000) == "deep"


@pytest.mark.parametrize("add", ["then", "parallel", "map"])
@pytest.mark.parametrize("what", ["a clutch", "a group", "a group of many more", "a group of clutches"])
def test_clutches_nested_too_deep_are_a_value_error_at_the_call_that_adds_them(job: Any, add: str, what: str) -> None:
    step: Any = nested(job, MOST_LEVELS) if what == "a clutch" else job.message()
    if what == "a group of clutches":
        step = nested(job, MOST_LEVELS // 2)
    for _ in range({"a clutch": 0, "a group": MOST_LEVELS + 1, "a group of many more": 1_000}.get(what, 51)):
        step = group([step])
    with pytest.raises(ValueError, match=f"more than {MOST_LEVELS} levels of clutches, pipelines and groups"):
        getattr(Clutch().then(job), add)(step)


def test_clutches_nested_too_deep_that_a_callable_returns_are_a_value_error_at_run(job: Any) -> None:
    half = nested(job, MOST_LEVELS // 2)
    fits = Clutch().parallel(lambda: [half])
    for _ in range(MOST_LEVELS // 2 - 1):
        fits = Clutch().then(fits)
    fits.run()
    with pytest.raises(ValueError, match=f"more than {MOST_LEVELS} levels"):
        Clutch().then(fits).run()


def test_readme_says_how_deep_clutches_nest() -> None:
    assert f"{MOST_LEVELS} levels" in (ROOT / "README.md").read_text()


def test_previous_results_are_seen_through_all_levels(broker: dramatiq.Broker) -> None:
    @dramatiq.actor
    def sees(*args: str) -> Any:
        return [*args, *previous_results()]

    assert result(broker, Clutch().then(sees.message("a")).then(nested(sees, MOST_LEVELS - 1))) == [["a"]]
