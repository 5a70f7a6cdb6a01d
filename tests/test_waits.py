"""Waits between stages: on each broker, in one process; on real workers; and what a store does with them."""

from __future__ import annotations

import math
import pickle
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import dramatiq
import pytest
from dramatiq import Message, group, pipeline

from dramatiq_clutch import Clutch, Run
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.errors import RunFailed, RunIdTaken
from tests.conftest import result, running_worker
from tests.support import actors
from tests.support.actors import Actors, Setting
from tests.support.awaiting import PATIENCE, wait_until
from tests.support.jobs import Jobs
from tests.support.server import Server
from tests.support.workers import Worker

#: In milliseconds: a wait that is over soon, and one that no test sees the end of.
SOON, LATER = 200, 3_600_000


class Clock:
    """A job that writes down when it began and when it ended, in seconds."""

    def __init__(self, broker: dramatiq.Broker) -> None:
        self.began: dict[str, float] = {}
        self.ended: dict[str, float] = {}

        @dramatiq.actor(broker=broker)
        def job(name: str, *items: Any) -> list[int]:
            self.began.setdefault(name, time.monotonic())
            self.ended[name] = time.monotonic()
            return [1, 2]

        self.job = job

    def between(self, one: str, other: str) -> int:
        """How many milliseconds have passed between the end of one job and the beginning of another, rounded up, for
        the library's clock rounds the end down."""
        return math.ceil((self.began[other] - self.ended[one]) * 1_000)


@pytest.fixture
def clock(broker: dramatiq.Broker) -> Clock:
    return Clock(broker)


AFTER_A: dict[str, Callable[[Clutch, Any], Clutch]] = {
    "then": lambda clutch, job: clutch.then(job.message("b")),
    "in a series, which is sent with the record before it": lambda clutch, job: clutch.then(
        job.message("b"), job.message("c")
    ),
    "parallel": lambda clutch, job: clutch.parallel(job.message("b"), job.message("c")),
    "parallel, limited": lambda clutch, job: clutch.parallel(job.message("b"), job.message("c"), limit=1),
    "parallel, from a callable": lambda clutch, job: clutch.parallel(lambda: [job.message("b")]),
    "piped": lambda clutch, job: clutch.then(job.message("b"), pipe=True),
    "map": lambda clutch, job: clutch.map(job.message("b")),
    "nested": lambda clutch, job: clutch.then(Clutch().then(job.message("b"))),
    "nested twice": lambda clutch, job: clutch.parallel(Clutch().parallel(Clutch().then(job.message("b")))),
    "nested, in its second stage": lambda clutch, job: clutch.then(Clutch().parallel([]).then(job.message("b"))),
    "nested, mapped": lambda clutch, job: clutch.map(Clutch().then(job.message("b"))),
    "nested, which maps": lambda clutch, job: clutch.then(Clutch().map(job.message("b"))),
    "a composition": lambda clutch, job: clutch.then(group([pipeline([job.message("b"), job.message("c")])])),
    "behind a stage without members": lambda clutch, job: clutch.parallel([]).then(job.message("b")),
    "behind two": lambda clutch, job: clutch.parallel([]).parallel([]).then(Clutch().then(job.message("b"))),
}


#: Those that the others are made of.
FEW = {"then", "map", "nested", "behind a stage without members"}


@pytest.mark.parametrize("how", [pytest.param(how, marks=() if how in FEW else pytest.mark.search) for how in AFTER_A])
def test_a_stage_begins_that_long_after_the_one_before_is_complete(
    broker: dramatiq.Broker, clock: Clock, how: str
) -> None:
    job: Any = clock.job
    result(broker, AFTER_A[how](Clutch().then(job.message("x"), job.message("a")).wait(SOON), job))
    assert clock.between("a", "b") >= SOON


def test_waits_add_up_and_so_do_a_messages_own_delay_and_that_of_the_run(broker: dramatiq.Broker, clock: Clock) -> None:
    job, began = clock.job, time.monotonic()
    own = job.message_with_options(args=("b",), delay=SOON)
    clutch = Clutch().wait(SOON).then(job.message("a")).wait(SOON).wait(timedelta(milliseconds=SOON)).then(own)
    with running_worker(broker):
        clutch.run(delay=SOON).get_result(block=True)
    assert math.ceil((clock.began["a"] - began) * 1_000) >= 2 * SOON
    assert clock.between("a", "b") >= 3 * SOON


def test_the_wait_that_a_nested_clutch_begins_with_is_its_delay(broker: dramatiq.Broker, clock: Clock) -> None:
    job = clock.job
    late = Clutch().wait(SOON).then(job.message("b"))
    assert len(result(broker, Clutch().then(job.message("a")).parallel(late, job.message("c")))) == 2
    assert clock.between("a", "b") >= SOON
    result(broker, Clutch().then(job.message("d")).wait(SOON).then(Clutch().wait(SOON).then(job.message("e"))))
    assert clock.between("d", "e") >= 2 * SOON

    @dramatiq.actor
    def nests() -> Run:
        return Clutch().wait(SOON).then(job.message("f")).nest()

    result(broker, Clutch().then(job.message("g")).then(nests))
    assert clock.between("g", "f") >= SOON


# What is sent, and when


class Delays(dramatiq.Middleware):
    """For how long the messages of each job were delayed when they were sent; 0 for one that wasn't."""

    def __init__(self) -> None:
        self.of: dict[str, list[int]] = defaultdict(list)
        self.stamps: dict[str, int] = {}
        self._ids: set[str] = set()

    def after_enqueue(self, broker: dramatiq.Broker, message: Message[Any], delay: int | None) -> None:
        if message.message_id in self._ids and not message.options["clutch"].get("repeated"):
            return  # it moves from the delay queue to its own
        self._ids.add(message.message_id)
        self.of[message.args[0]].append(delay or 0)
        self.stamps[message.args[0]] = message.message_timestamp


@pytest.fixture
def delays(broker: dramatiq.Broker) -> Delays:
    delays = Delays()
    broker.add_middleware(delays)
    return delays


def is_sent(delays: Delays, name: str, times: int = 1) -> Callable[[], bool]:
    return lambda: len(delays.of[name]) == times


def test_only_the_stage_behind_a_wait_is_delayed(broker: dramatiq.Broker, jobs: Jobs, delays: Delays) -> None:
    job = jobs.job.message
    clutch = Clutch().then(job("a"), job("b")).wait(SOON).then(job("c"), job("d")).then(Clutch().then(job("e")))
    result(broker, clutch)
    assert {name for name, several in delays.of.items() if any(several)} <= {"c"}
    assert {name: len(several) for name, several in delays.of.items()} == dict.fromkeys("abcde", 1)


def test_members_that_are_sent_when_others_are_settled_do_not_wait_again(
    broker: dramatiq.Broker, jobs: Jobs, delays: Delays
) -> None:
    result(broker, Clutch().wait(SOON).parallel([jobs.job.message(name) for name in "abc"], limit=1))
    assert delays.of["b"] == delays.of["c"] == [0]


def test_a_retry_does_not_wait_again(broker: dramatiq.Broker, jobs: Jobs, delays: Delays) -> None:
    jobs.script["b"] = ["die"]
    child = Clutch().wait(SOON).then(jobs.job.message("b"))
    run = Clutch().then(jobs.job.message("a")).wait(SOON).parallel(child, Clutch().then(jobs.job.message("c"))).run()
    with running_worker(broker):
        with pytest.raises(RunFailed):
            run.get_result(block=True)
        assert run.retry()
        assert run.get_result(block=True) == ["b", "c"]
    _, again = delays.of["b"]
    assert again == 0


def test_what_is_sent_again_while_its_stage_waits_is_delayed_for_the_rest(
    broker: dramatiq.Broker, jobs: Jobs, delays: Delays
) -> None:
    job = jobs.job.message
    child = Clutch().then(Clutch().wait(LATER).then(job("c")))
    run = Clutch().then(job("a")).wait(LATER).parallel(job("b"), child).run()
    with running_worker(broker):
        wait_until("both are delayed", lambda: is_sent(delays, "b")() and is_sent(delays, "c")())
        assert run.resend()
        wait_until("they are sent again", lambda: is_sent(delays, "b", 2)() and is_sent(delays, "c", 2)())
        assert run.cancel()
        assert run.retry()
        wait_until("and again", lambda: is_sent(delays, "b", 3)() and is_sent(delays, "c", 3)())
    for name, whole in (("b", LATER), ("c", 2 * LATER)):
        first, second, third = delays.of[name]
        assert whole - PATIENCE * 1_000 <= third <= second <= first <= whole
    assert run.status().state == "running"


def test_the_members_of_a_large_stage_are_all_delayed_and_sent_by_whom_it_is_released(
    broker: dramatiq.Broker, jobs: Jobs, delays: Delays
) -> None:
    """Its leaders would otherwise send their shares when they begin, which is when the wait is over."""
    object.__setattr__(engine_of(broker), "share", 2)
    names = [f"b{number}" for number in range(9)]
    Clutch().then(jobs.job.message("a")).wait(LATER).parallel(jobs.job.message(name) for name in names).run()
    with running_worker(broker):
        wait_until("all are sent", lambda: all(is_sent(delays, name)() for name in names))
    assert min(delays.of[name][0] for name in names) >= LATER - PATIENCE * 1_000


def test_a_job_is_not_too_old_for_having_waited(broker: dramatiq.Broker, jobs: Jobs, delays: Delays) -> None:
    """AgeLimit skips a message by its timestamp."""
    job, now = jobs.job.message, engine_of(broker).now()
    nested = Clutch().then(Clutch().then(job("c")))
    run = Clutch().then(job("a")).wait(LATER).parallel(job("b"), nested).run()
    Clutch().then(job("d")).run(delay=LATER)
    with running_worker(broker):
        wait_until("all are sent", lambda: all(is_sent(delays, name)() for name in "abcd"))
    assert delays.stamps["a"] < now + PATIENCE * 1_000
    assert min(delays.stamps[name] for name in "bcd") >= now + LATER
    assert run.status().state == "running"


# What is said of it


def test_a_wait_without_a_stage_after_it_is_an_error_at_run(broker: dramatiq.Broker, jobs: Jobs) -> None:
    clutch, refused = Clutch().then(jobs.total).wait(timedelta(minutes=5)).wait(60_000), list[str]()
    says = r"wait\(6 min\) is the last thing in the clutch: there is no stage after it"
    with pytest.raises(ValueError, match=says):
        clutch.run()
    with pytest.raises(ValueError, match=r"wait\(10 ms\) is the last thing in the clutch: there is no"):
        Clutch().wait(10).run()
    with pytest.raises(ValueError, match="the last thing in the clutch that is member 1 of stage 1: there is no"):
        Clutch().then(jobs.total).parallel(jobs.total, clutch).run()

    @dramatiq.actor
    def nests() -> None:
        with pytest.raises(ValueError, match=says) as error:
            clutch.nest()
        refused.append(str(error.value))

    result(broker, Clutch().then(nests))
    assert refused


@pytest.mark.parametrize("wrong", [1.5, "5", None, True])
def test_a_wait_that_is_no_time_is_an_error_at_once(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"a wait is .*; it takes a whole number of milliseconds, or a"):
        Clutch().wait(wrong)


def test_a_wait_that_is_negative_or_too_long_is_an_error_at_once() -> None:
    with pytest.raises(ValueError, match=r"a wait is -1; .* and not negative"):
        Clutch().wait(-1)
    with pytest.raises(ValueError, match=r"3,651 d in all; it is 3,650 d at most"):
        Clutch().wait(timedelta(days=3_650)).wait(timedelta(days=1))


def test_a_wait_is_part_of_what_a_run_id_stands_for(broker: dramatiq.Broker, jobs: Jobs) -> None:
    begun = Clutch().then(jobs.total)
    one = begun.wait(1_000).then(jobs.total).run(run_id="one")
    assert begun.wait(400).wait(600).then(jobs.total).run(run_id="one") == one
    assert begun.wait(0).then(jobs.total).run(run_id="two") == begun.then(jobs.total).run(run_id="two")
    with pytest.raises(RunIdTaken):
        begun.wait(1_001).then(jobs.total).run(run_id="one")


def test_a_wait_is_shown(broker: dramatiq.Broker, jobs: Jobs) -> None:
    clutch = Clutch().wait(90_000).then(jobs.total).wait(timedelta(hours=36)).parallel(jobs.total, jobs.total)
    assert repr(clutch) == "Clutch(2 stages: wait(90 s), then(total), wait(36 h), parallel(2 of total))"
    assert repr(Clutch().then(jobs.total).wait(1_500)) == "Clutch(1 stage: then(total), wait(1,500 ms))"
    picture = clutch.map(jobs.job).to_mermaid()
    assert '|"wait 90 s"|' in picture
    assert picture.count('|"wait 36 h"|') == 2
    assert picture.count("wait") == 3


def test_a_clutch_is_as_it_was_when_a_wait_is_added(jobs: Jobs) -> None:
    clutch = Clutch(name="n").wait(100)
    assert repr(clutch.wait(100).then(jobs.total)) == "Clutch(name='n', 1 stage: wait(200 ms), then(total))"
    assert repr(clutch.then(jobs.total)) == "Clutch(name='n', 1 stage: wait(100 ms), then(total))"
    assert repr(clutch.then()) == repr(clutch)
    assert repr(pickle.loads(pickle.dumps(clutch))) == repr(clutch)


# On real workers


@pytest.mark.process
@pytest.mark.parametrize("nested", [False, True])
def test_workers_wait_between_stages(server: Server, redis_client: object, nested: bool) -> None:
    jobs = Actors(Setting(server.url))
    see = jobs.see.message
    begun = Clutch(broker=jobs.broker).then(see("a"), see("b"), see("c")).wait(1_000)
    late = Clutch().then(see("d"), see("e")) if nested else see("d")
    with Worker(actors.__name__, env=Setting(server.url).to_env(), threads=4):
        run = begun.then(late).run()
        wait_until("the wait to begin", lambda: run.status().stages[2].state == "succeeded")
        began = run.status().updated
        run.get_result(block=True, timeout=60_000)
        assert run.status().updated - began >= 1_000
    assert [entry["name"] for entry in jobs.log()] == [*"abcd", *("e" if nested else "")]
    jobs.broker.close()
