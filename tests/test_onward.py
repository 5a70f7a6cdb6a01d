"""Where one job follows another, its message goes in the very step that records the success before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import Message
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import MiddlewareError

from dramatiq_clutch import Clutch, ClutchMiddleware, Run, previous_results
from dramatiq_clutch.backend import Caller, Record, Reply
from dramatiq_clutch.backends import RedisBackend
from dramatiq_clutch.backends.redis.along import Along
from dramatiq_clutch.engine import Engine, engine_of
from dramatiq_clutch.errors import StateUnavailable
from dramatiq_clutch.handover import hand_over
from dramatiq_clutch.onward import record_onward
from tests.conftest import running_worker
from tests.support.awaiting import wait_until
from tests.support.keyspace import key_of
from tests.support.tags import tag_in


@dataclass
class Series:
    """A run of five jobs one after the other, which no worker does: the test records their ends."""

    broker: RedisBroker
    engine: Engine
    run: Run

    def record(self, stage: int, *, ending: Any = "succeeded", nested: bytes = b"") -> Reply:
        tag = tag_in(self.broker, self.run, stage)
        caller = self.engine.caller(tag.owner)
        record = Record(tag, 0, ending, b"1" if ending == "succeeded" else b"{}", nested)
        reply = record_onward(self.engine, record, caller)
        hand_over(self.engine, self.run.run_id, reply, caller)
        return reply

    @property
    def sent(self) -> list[str]:
        """The ids of the messages in the broker's queue, in order."""
        return [message.message_id for message in self.messages]

    @property
    def messages(self) -> list[Message[Any]]:
        client: Any = self.broker.client
        queue = f"{self.broker.namespace}:default"
        ids = client.lrange(queue, 0, -1)
        return [Message.decode(data) for data in client.hmget(f"{queue}.msgs", ids)]

    @property
    def owed(self) -> dict[bytes, bytes]:
        owed: Any = self.broker.client.hgetall(key_of(self.broker.client, self.run.run_id, "outbox"))
        return dict(owed)


@pytest.fixture
def series(redis_broker: RedisBroker) -> Series:
    """Its second job is at work; this process has sent it, and knows the third."""

    @dramatiq.actor
    def job() -> None: ...

    run = Clutch().then(job, job, job, job, job).run(run_id="series")
    found = Series(redis_broker, engine_of(redis_broker), run)
    assert found.record(0).sent is None
    assert len(found.sent) == 2
    return found


def test_the_next_message_goes_with_the_record(series: Series) -> None:
    for stage in (1, 2, 3):
        reply = series.record(stage)
        assert reply.sent is not None
        assert reply.sent.id == f"send:{stage + 1}:0:1"
        assert reply.duties == ()
        assert not series.owed
        assert len(series.sent) == len(set(series.sent)) == stage + 2
        assert [known.id for known in series.engine.remembered.ahead.values()] == [f"send:{stage + 2}:0:1"][: 3 - stage]
    # Its id is claimed, so it may make room for another run.
    assert replace(series.record(4), news=(), turn=None) == Reply("counts", note="rests")
    assert series.run.status().state == "succeeded"
    assert len(series.sent) == 5


def test_the_next_message_is_sent_once_however_often_the_end_of_a_job_is_recorded(series: Series) -> None:
    ahead = dict(series.engine.remembered.ahead)
    assert series.record(1).sent
    series.engine.remembered.ahead.update(ahead)  # as if another copy of the job ended in a process that knows as much
    reply = series.record(1)
    assert (reply.word, reply.sent, reply.duties) == ("over", None, ())
    assert len(series.sent) == 3


@pytest.mark.parametrize("ending", ["failing", "attempted", "dead"])
def test_the_record_of_a_job_that_has_not_succeeded_sends_nothing(series: Series, ending: str) -> None:
    assert series.record(1, ending=ending).sent is None
    assert len(series.sent) == 2


def test_the_record_of_a_dead_job_whose_failure_is_allowed_sends_nothing(redis_broker: RedisBroker) -> None:
    """Its stage is released, but the next one's argument is no result."""

    @dramatiq.actor
    def job(value: int = 0) -> None: ...

    clutch = Clutch().then(job).parallel([job.message()], allow_failures=True).then(job, pipe=True)
    series = Series(redis_broker, engine_of(redis_broker), clutch.run(run_id="series"))
    series.record(0)
    assert series.record(1, ending="dead").sent is None
    assert series.messages[-1].args == ([None],)


def test_the_record_of_a_job_that_has_nested_runs_sends_nothing(series: Series) -> None:
    nested: list[bytes] = []
    works: Any = series.engine.backend.record

    def record(record: Record, caller: Caller, along: Along | None = None) -> Reply:
        nested.append(record.nested)
        reply: Reply = works(record, caller, along)
        return replace(reply, duties=())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(series.engine.backend, "record", record)
        assert series.record(1, nested=b"a plan").sent is None
    assert nested == [b"a plan"]
    assert len(series.sent) == 2


def test_the_record_of_a_job_of_a_cancelled_run_sends_nothing(series: Series) -> None:
    assert series.run.cancel()
    assert series.record(1).word == "over"
    assert len(series.sent) == 2


def test_a_broker_that_enqueues_in_its_own_way_enqueues_the_next_message_so(
    series: Series, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueued: list[str] = []

    class Own(RedisBroker):
        def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
            enqueued.append(message.message_id)
            return super().enqueue(message, delay=delay)

    monkeypatch.setattr(series.broker, "__class__", Own)
    assert series.record(1).sent is None
    assert enqueued == [tag_in(series.broker, series.run, 2, actor="job").message_id]
    assert len(series.sent) == 3


def test_a_record_that_sends_the_next_message_leaves_other_duties_owed(redis_broker: RedisBroker) -> None:
    """A nested run tells its parent that it works again, when a retry of its second job succeeds."""

    @dramatiq.actor
    def job() -> None: ...

    Clutch().then(Clutch().then(job, job, job)).run(run_id="series")
    engine = engine_of(redis_broker)
    series = Series(redis_broker, engine, Run("series~0.0"))
    series.record(0)
    tag = tag_in(redis_broker, "series~0.0", 1)
    caller = engine.caller(tag.owner)
    failed = engine.backend.record(Record(tag, 0, "failing", b"{}"), caller)  # in another process
    hand_over(engine, tag.run_id, failed, caller)
    reply = record_onward(engine, Record(tag, 1, "succeeded", b"1"), caller)
    assert reply.sent is not None
    assert [duty.id for duty in reply.duties] == ["tell:2"]
    assert len(series.sent) == 3


@pytest.mark.parametrize("kind", ["a run", "mapped", "two jobs"])
def test_a_next_stage_that_is_not_one_job_is_not_remembered(redis_broker: RedisBroker, kind: str) -> None:
    @dramatiq.actor
    def job(value: int = 0) -> None: ...

    begun = Clutch().then(job, job)
    clutches = {"a run": begun.then(Clutch().then(job)), "mapped": begun.map(job), "two jobs": begun.parallel(job, job)}
    series = Series(redis_broker, engine_of(redis_broker), clutches[kind].run(run_id="series"))
    series.record(0)
    assert len(series.sent) == 2
    assert not series.engine.remembered.ahead
    series.record(1)


def test_a_next_stage_whose_enqueue_fails_within_the_record_is_owed(series: Series) -> None:
    (duty,) = series.engine.remembered.ahead.values()
    tag = tag_in(series.broker, "series", 1)
    caller = series.engine.caller(tag.owner)
    along = Along("redis.call('HSET', KEYS[1], ARGV[1])", "key", duty=duty, enqueue=["too few"])
    backend: Any = series.engine.backend
    reply = backend.record(Record(tag, 0, "succeeded", b"1"), caller, along)
    assert (reply.word, reply.sent) == ("counts", None)
    assert [one.id for one in reply.duties] == ["send:2:0:1"]
    assert list(series.owed) == [b"send:2:0:1"]
    hand_over(series.engine, "series", reply, caller)
    assert len(series.sent) == 3
    assert not series.owed


def test_what_a_process_knows_of_an_earlier_run_of_the_same_id_is_not_sent(series: Series) -> None:
    """The process that knows it didn't see the run go."""
    known = dict(series.engine.remembered.ahead)
    client: Any = series.broker.client
    for key in client.scan_iter("dramatiq-clutch:{series}:*", count=1_000):
        client.delete(key)

    @dramatiq.actor
    def other() -> None: ...

    Clutch().then(other, other, other).run(run_id="series")
    assert series.record(0).sent is None
    series.engine.remembered.ahead.clear()
    series.engine.remembered.ahead.update(known)
    assert series.record(1).sent is None
    assert series.messages[-1].actor_name == "other"


def test_a_record_whose_reply_is_lost_sends_nothing_twice(series: Series, monkeypatch: pytest.MonkeyPatch) -> None:
    backend: Any = series.engine.backend
    works = backend.record

    def record(record: Record, caller: Caller, along: Along) -> Reply:
        works(record, caller, along)
        raise StateUnavailable("the connection is lost")

    with monkeypatch.context() as patch:
        patch.setattr(backend, "record", record)
        with pytest.raises(StateUnavailable):
            series.record(1)
    assert series.record(1).word == "over"
    assert len(series.sent) == 3


def test_a_message_that_a_hook_kept_from_going_with_the_record_is_owed_and_meets_the_hook_again(series: Series) -> None:
    calls: list[str] = []

    class Strict(dramatiq.Middleware):
        def before_enqueue(self, broker: dramatiq.Broker, message: Message[Any], delay: int | None) -> None:
            calls.append(message.message_id)
            if len(calls) == 1:
                raise MiddlewareError("not now")

    series.broker.add_middleware(Strict())
    assert series.record(1).sent is None
    assert len(series.sent) == 3
    assert len(calls) == 2


def test_a_process_remembers_the_next_jobs_of_so_many_runs_only(series: Series) -> None:
    series.engine.remembered.ahead.most = 3
    (duty,) = series.engine.remembered.ahead.values()
    for number in range(10):
        series.engine.remembered.look_ahead(f"run {number}", duty)
        assert len(series.engine.remembered.ahead) <= 3


# On a worker


class Watch(dramatiq.Middleware):
    """What every hook for messages on their way to the broker has seen."""

    def __init__(self) -> None:
        self.before: list[str] = []
        self.after: list[str] = []
        self.messages: list[tuple[Any, ...]] = []

    def before_enqueue(self, broker: dramatiq.Broker, message: Message[Any], delay: int | None) -> None:
        self.before.append(message.message_id)
        options = sorted(set(message.options) - {"redis_message_id", "eta", "clutch"})
        self.messages.append((message.queue_name, message.args, message.kwargs, bool(delay), options))

    def after_enqueue(self, broker: dramatiq.Broker, message: Message[Any], delay: int | None) -> None:
        self.after.append(message.message_id)


def plain(job: Any) -> Clutch:
    return Clutch().then(job.message(0), *(job.message(number) for number in range(1, 6)))


def piped(job: Any) -> Clutch:
    ignoring = job.message_with_options(args=(9,), pipe_ignore=True)
    return Clutch().then(job.message(0)).then(job, job, ignoring, job, pipe=True)


def by_name(job: Any) -> Clutch:
    return Clutch().then(job.message(0)).then(job.message(1), partial(job, 2, also=3), pipe="pages")


def of_many_kinds(job: Any) -> Clutch:
    late, one = job.message_with_options(args=(1,), delay=60), job.message(2)
    series = Clutch(queue="other").then(job.message(0), job.message(1), late)
    return series.parallel([one]).then(job, pipe=True).parallel([one], allow_failures=True).then(one).then(one, one)


def nested(job: Any) -> Clutch:
    inner = Clutch().then(job.message(1), job.message(2), job.message(3))
    outer = Clutch().then(job.message(0), job.message(0), job.message(0)).then(inner)
    return outer.then(job.message(4), job.message(5))


@contextmanager
def counted(backend: RedisBackend) -> Iterator[list[str]]:
    """The duties that were done by the records before them."""
    works, onward = backend.record, list[str]()

    def record(record: Record, caller: Caller, along: Along | None = None) -> Reply:
        reply = works(record, caller, along)
        if reply.sent:
            onward.append(reply.sent.id)
        return reply

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "record", record)
        yield onward


def _is_gone(client: redis.Redis, key: str) -> bool:
    return not client.exists(key)


@pytest.mark.parametrize("clutch", [plain, piped, by_name, of_many_kinds, nested])
def test_messages_are_the_same_as_where_runs_have_a_server_of_their_own(
    redis_broker: RedisBroker, clutch: Callable[[Any], Clutch]
) -> None:
    broker, sent, went = redis_broker, list[list[tuple[Any, ...]]](), list[int]()
    own, results = redis.Redis(connection_pool=broker.client.connection_pool), list[Any]()
    for backend in (RedisBackend(client=broker.client), RedisBackend(client=own)):
        broker.middleware[:] = [one for one in broker.middleware if not isinstance(one, ClutchMiddleware | Watch)]
        broker.add_middleware(ClutchMiddleware(backend))
        broker.add_middleware(watch := Watch())
        broker.declare_queue("other")
        broker.actors.clear()

        @dramatiq.actor
        def job(value: Any, *more: Any, **named: Any) -> list[Any]:
            return [value, *more, *named.items(), len(previous_results())]

        with counted(backend) as onward, running_worker(broker):
            run = clutch(job).run()
            results.append(run.get_result(block=True))
            outbox = key_of(own, run.run_id, "outbox")
            wait_until("nothing is owed", partial(_is_gone, own, outbox))
        assert sorted(watch.before) == sorted(watch.after)
        sent.append(watch.messages)
        went.append(len(onward))
    assert sorted(map(str, sent[0])) == sorted(map(str, sent[1]))
    assert results[0] == results[1]
    assert went[0] > 0
    assert went[1] == 0
