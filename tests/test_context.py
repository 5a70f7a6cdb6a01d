"""What a user says about a run: its context, its tags and its args; on each broker, in one process, and on workers."""

from __future__ import annotations

import json
import pickle
from collections import defaultdict
from functools import partial
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import group, pipeline
from dramatiq.brokers.redis import RedisBroker

from dramatiq_clutch import Clutch, Run, RunStatus, current_run, previous_results
from dramatiq_clutch.about import MOST_BYTES
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.errors import DamagedState, RunFailed, RunIdTaken, RunNotFound
from tests.conftest import result, running_worker
from tests.support import actors
from tests.support.actors import Actors, Setting
from tests.support.awaiting import wait_until
from tests.support.jobs import Jobs
from tests.support.server import Server
from tests.support.workers import Worker


class Readers:
    """A job and a callback that write down, by their names, which contexts they have found."""

    def __init__(self, broker: dramatiq.Broker) -> None:
        self.found: dict[str, list[dict[str, Any]]] = defaultdict(list)

        def read(name: str) -> None:
            run = current_run()
            assert run is not None
            self.found[name].append(dict(run.context))

        @dramatiq.actor(broker=broker, min_backoff=1, max_backoff=1)
        def reads(name: str, *items: Any) -> str:
            read(name)
            return name

        @dramatiq.actor(broker=broker)
        def hears(who: str, status: dict[str, Any]) -> None:
            read(f"{who} {status['event']}")

        @dramatiq.actor(broker=broker)
        def nests(name: str) -> Run:
            read(name)
            told: Any = partial(hears, name)
            return Clutch(context={"by": name}, on_success=told).then(reads.message(f"in {name}")).nest()

        self.job, self.heard, self.nests = reads, hears, nests


@pytest.fixture
def readers(broker: dramatiq.Broker) -> Readers:
    return Readers(broker)


# Context


def test_every_job_nested_run_and_callback_has_the_context(broker: dramatiq.Broker, readers: Readers) -> None:
    job, context = readers.job.message, {"tenant": 7, "trace": {"ids": [1, None, 2.5, True]}}
    heard: Any = readers.heard
    clutch = (
        Clutch(on_success=heard.message("root"), on_finish=heard.message("root"))
        .then(job("series"), job("series"))
        .parallel(job("parallel"), job("parallel"))
        .map(job("map"))
        .parallel(Clutch(on_finish=heard.message("child")).then(Clutch().then(job("nested"))))
        .map(Clutch().parallel([job("mapped run")]))
        .then(group([pipeline([job("composition"), job("composition")])]))
    )
    run = clutch.run(context=context)
    with running_worker(broker):
        run.get_result(block=True)
        wait_until("the callbacks", lambda: {"root on_success", "root on_finish"} <= readers.found.keys())
    names = {"series", "parallel", "map", "nested", "mapped run", "composition"}
    assert set(readers.found) == names | {"root on_success", "root on_finish", "child on_finish"}
    assert [found for several in readers.found.values() for found in several if found != context] == []


def test_a_nested_clutchs_context_is_laid_over_the_one_around_it_key_by_key(
    broker: dramatiq.Broker, readers: Readers
) -> None:
    job = readers.job.message
    inner = Clutch(context={"c": 30, "d": 40}).then(job("inner"))
    middle = Clutch(context={"b": {"only": "this"}, "c": 3}).then(job("middle")).then(inner).then(job("after"))
    clutch = Clutch(context={"a": 0, "b": {"x": 2}, "own": True}).parallel(job("outer"), middle)
    run = clutch.run(context={"a": 1})
    with running_worker(broker):
        run.get_result(block=True)
    outer = {"a": 1, "b": {"x": 2}, "own": True}
    around = {**outer, "b": {"only": "this"}, "c": 3}
    assert {name: found for name, (found,) in readers.found.items()} == {
        "outer": outer,
        "middle": around,
        "after": around,
        "inner": {**around, "c": 30, "d": 40},
    }
    assert result(broker, clutch) == ["outer", "after"]  # a run's context is none of the clutch's
    assert readers.found["outer"][1] == {**outer, "a": 0}


def test_what_a_job_nests_has_the_context_of_its_run_below_its_own(broker: dramatiq.Broker, readers: Readers) -> None:
    run = Clutch().then(readers.nests.message("n")).run(context={"by": "run", "tenant": 7})
    with running_worker(broker):
        assert run.get_result(block=True) == "in n"
        wait_until("the callback", lambda: readers.found["n on_success"])
    nested = {"by": "n", "tenant": 7}
    assert readers.found == {"n": [dict(run.context)], "in n": [nested], "n on_success": [nested]}


def test_without_a_context_it_is_empty(broker: dramatiq.Broker, readers: Readers) -> None:
    result(broker, Clutch().then(readers.job.message("a")).then(readers.nests.message("n")))
    assert (readers.found["a"], readers.found["in n"]) == ([{}], [{"by": "n"}])
    run = Clutch(context={}).then(readers.job.message("b")).run(context={})
    assert run.context == {}


def test_a_context_is_there_for_as_long_as_its_run_is(broker: dramatiq.Broker, readers: Readers) -> None:
    backend: Any = engine_of(broker).backend
    run = Clutch(context={"a": 1}).then(readers.job.message("x")).run(run_id="mine")
    handles = [run, Run("mine"), pickle.loads(pickle.dumps(run))]
    assert [handle.context for handle in handles] == [{"a": 1}] * 3
    with running_worker(broker):
        run.get_result(block=True)
        wait_until("all is done", lambda: backend.spec("mine") is None)
    assert Run("mine").context == {"a": 1}
    with pytest.raises(RunNotFound):
        _ = Run("another").context


def test_a_job_finds_the_context_of_its_own_run_whoever_has_the_id_by_now(
    redis_broker: RedisBroker, redis_client: redis.Redis
) -> None:
    found: list[Any] = []

    @dramatiq.actor(broker=redis_broker)
    def job() -> None:
        run = current_run()
        assert run is not None
        redis_client.delete(f"dramatiq-clutch:{{{run.run_id}}}:head")
        found.append(Clutch().then(job).run(run_id="mine", context={"whose": "another's"}, delay=3_600_000).context)
        for handle in (run, run.__copy__()):
            with pytest.raises(RunNotFound):
                _ = handle.context
        found.append("and not the job's")

    Clutch().then(job).run(run_id="mine", context={"whose": "mine"})
    with running_worker(redis_broker):
        wait_until("the job has looked", lambda: len(found) == 2)
    assert found[0] == {"whose": "another's"}


def test_a_nested_run_that_begins_anew_has_its_context(redis_broker: RedisBroker, redis_client: redis.Redis) -> None:
    readers = Readers(redis_broker)
    child = Clutch(context={"b": 2}).then(readers.job.message("child"))
    run = Clutch().then(child).run(context={"a": 1})
    for key in redis_client.keys(f"dramatiq-clutch:{{{run.run_id}~0.0}}:*"):
        redis_client.delete(key)
    redis_broker.flush("default")
    run.resend()
    with running_worker(redis_broker):
        assert run.get_result(block=True) == "child"
    assert readers.found["child"] == [{"a": 1, "b": 2}]


def test_a_context_cannot_be_changed(broker: dramatiq.Broker, readers: Readers) -> None:
    given: dict[str, Any] = {"list": [1], "dict": {"a": [2]}}
    clutch = Clutch(context=given).then(readers.job.message("a"))
    given["list"].append(3)
    given["new"] = []
    context: Any = clutch.run().context
    with pytest.raises(TypeError):
        context["list"] = []
    with pytest.raises(TypeError):
        del context["list"]
    context["list"].append(4)
    context["dict"]["a"].append(5)
    assert context == {"list": [1], "dict": {"a": [2]}}
    assert dict(context) == {"list": [1], "dict": {"a": [2]}}
    assert repr(context) == "{'list': [1], 'dict': {'a': [2]}}"


def test_a_clutch_with_a_context_is_a_value_like_any_other(broker: dramatiq.Broker, readers: Readers) -> None:
    clutch = Clutch(context={"tenant": "secret", "b": [1, (2,)]}).then(readers.job.message("a"))
    same = Clutch(context={"b": [1, [2]], "tenant": "secret"}).then(readers.job.message("a"))
    assert clutch == same
    assert hash(clutch) == hash(same)
    assert clutch != Clutch(context={"tenant": "secret"}).then(readers.job.message("a"))
    copy = pickle.loads(pickle.dumps(clutch))
    assert copy.run().context == {"tenant": "secret", "b": [1, [2]]}
    assert copy.then(readers.job.message("b")).context == clutch.context
    assert repr(clutch) == "Clutch(context={tenant, b}, 1 stage: then(reads))"


NO_CONTEXT = [
    ([("a", 1)], r"context is \[\('a', 1\)\]; it takes a dict with strings as keys"),
    ("a", "context is 'a'; it takes a dict with strings as keys"),
    ({1: "a"}, "context has the key 1; all keys of a context are strings"),
    ({"a": {None: 1}}, r"context\['a'\] has the key None; all keys of a context are strings"),
    ({"a": [1, {"b": {2}}]}, r"context\['a'\]\[1\]\['b'\] is \{2\}; a context holds what JSON does: strings, numbers"),
    ({"a": b"bytes"}, r"context\['a'\] is b'bytes'; a context holds"),
    ({"a": float("nan")}, r"context\['a'\] is nan; a context holds"),
    ({"a": -float("inf")}, r"context\['a'\] is -inf; a context holds"),
]


@pytest.mark.parametrize(("wrong", "says"), NO_CONTEXT)
def test_what_is_no_context_is_an_error_at_once(broker: dramatiq.Broker, jobs: Jobs, wrong: Any, says: str) -> None:
    with pytest.raises(TypeError, match=f"^{says}"):
        Clutch(context=wrong)
    with pytest.raises(TypeError, match=f"^{says}"):
        Clutch().then(jobs.total).run(context=wrong)


def test_a_context_that_holds_itself_is_an_error(broker: dramatiq.Broker) -> None:
    endless: dict[str, Any] = {}
    endless["a"] = endless
    with pytest.raises(TypeError, match="nested more than 50 levels deep, or holds itself"):
        Clutch(context=endless)


def of_size(size: int, key: str = "k") -> dict[str, str]:
    """A context of so many bytes as JSON."""
    return {key: "x" * (size - len(json.dumps({key: ""}, separators=(",", ":"))))}


def test_a_context_has_at_most_8_kb(broker: dramatiq.Broker, jobs: Jobs) -> None:
    clutch = Clutch().then(jobs.total)
    assert clutch.run(context=of_size(MOST_BYTES)).context == of_size(MOST_BYTES)
    says = "^the context of the clutch has 8,193 bytes as JSON, and may have 8,192"
    with pytest.raises(ValueError, match=says):
        clutch.run(context=of_size(MOST_BYTES + 1))
    with pytest.raises(ValueError, match=says):
        Clutch(context=of_size(MOST_BYTES + 1)).then(jobs.total).run()
    with pytest.raises(ValueError, match="the context of the clutch has 8,1"):
        Clutch(context=of_size(5_000, "a")).then(jobs.total).run(context=of_size(3_194, "b"))
    assert Clutch(context=of_size(9_000, "a")).then(jobs.total).run(context={"a": 1}).context == {"a": 1}


def test_a_nested_clutchs_context_has_at_most_8_kb_with_the_one_around_it(broker: dramatiq.Broker, jobs: Jobs) -> None:
    child = Clutch(context=of_size(5_000, "child")).then(jobs.total)
    clutch = Clutch().then(jobs.total).parallel(jobs.total, Clutch().then(child))
    says = (
        "^the context of the clutch that is member 0 of stage 0 of member 1 of stage 1, with what is around it, has 9"
    )
    with pytest.raises(ValueError, match=says):
        clutch.run(context=of_size(5_000, "run"))
    clutch.run(context=of_size(3_000, "run"))
    refused: list[str] = []

    @dramatiq.actor
    def nests() -> None:
        with pytest.raises(ValueError, match="with what is around it, has 9,") as error:
            child.nest()
        refused.append(str(error.value))

    run = Clutch().then(nests).run(context=of_size(5_000, "run"))
    with running_worker(broker):
        run.get_result(block=True)
    assert refused


def test_a_context_that_gets_too_large_where_nobody_looked_fails_the_run(broker: dramatiq.Broker, jobs: Jobs) -> None:
    @dramatiq.actor
    def nests() -> Run:
        return Clutch().then(Clutch(context=of_size(5_000, "child")).then(jobs.total)).nest()

    run = Clutch().then(nests).run(context=of_size(5_000, "run"))
    with running_worker(broker), pytest.raises(RunFailed, match=r"the context of a run nested in '.*' has 9,"):
        run.get_result(block=True)


def test_a_context_that_cannot_be_read_is_an_error_that_says_so(
    redis_broker: RedisBroker, redis_client: redis.Redis
) -> None:
    run = Clutch().then(Jobs(redis_broker).total).run(context={"a": 1})
    for damaged in ("{", "[1]"):
        redis_client.hset(f"dramatiq-clutch:{{{run.run_id}}}:head", "context", damaged)
        with pytest.raises(DamagedState, match=f"the context of run '{run.run_id}' can't be read"):
            _ = run.context


def test_context_and_tags_are_no_part_of_what_a_run_id_stands_for(broker: dramatiq.Broker, jobs: Jobs) -> None:
    """Who asks again for the same work, with another trace, gets the same run, with what the first one said."""
    clutch = Clutch(context={"a": 1}).then(Clutch(context={"b": 1}).then(jobs.total))
    other = Clutch().then(Clutch(context={"c": 1}).then(jobs.total))
    run = clutch.run(run_id="one", tags=["first"])
    assert other.run(run_id="one", context={"d": 1}, tags=["second"]) == run
    assert (run.context, run.status().tags) == ({"a": 1}, ("first",))


def test_only_jobs_that_read_the_context_ask_for_it_and_it_travels_with_no_duty(
    broker: dramatiq.Broker, readers: Readers, jobs: Jobs
) -> None:
    backend: Any = engine_of(broker).backend
    asked, works = list[str](), backend.context

    def context(run_id: str, **more: Any) -> Any:
        asked.append(run_id)
        return works(run_id, **more)

    backend.context = context
    clutch = Clutch().then(jobs.job.message("a"), jobs.job.message("b")).parallel(jobs.job.message(n) for n in "cd")
    run = clutch.then(jobs.total).run(context={"a": "secret"})
    assert b"secret" not in backend.spec(run.run_id)
    with running_worker(broker):
        run.get_result(block=True)
        assert asked == []
        run = clutch.then(readers.job.message("reads")).then(jobs.total).run(context={"a": "secret"})
        run.get_result(block=True)
    assert asked == [run.run_id]


def test_runs_without_a_context_are_not_asked_for_it_when_they_start_nested_ones(
    broker: dramatiq.Broker, jobs: Jobs
) -> None:
    backend: Any = engine_of(broker).backend
    backend.context = None
    child = Clutch().then(jobs.total)
    assert result(broker, Clutch().then(jobs.job.message("a")).parallel(child, child)) == [["a"], ["a"]]


# Tags


def test_tags_are_shown_in_the_status_of_the_run_and_of_no_nested_one(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["child"] = ["wait"]
    clutch = Clutch(on_finish=jobs.heard.message("root")).then(Clutch().then(jobs.job.message("child")))
    tags = ["nightly", "eu, or “elsewhere”", "é" * 100, "nightly", "{} 🎈"]
    run = clutch.run(tags=tags)
    expected = ("nightly", "eu, or “elsewhere”", "é" * 100, "{} 🎈")
    assert run.status().tags == expected
    with running_worker(broker):
        wait_until("the child is at work", lambda: jobs.began)
        assert Run(f"{run.run_id}~0.0").status().tags == ()
        jobs.gates["child"].set()
        run.get_result(block=True)
        jobs.wait_fired("root", "E")
    assert run.status().tags == expected
    assert jobs.statuses[0]["tags"] == json.loads(json.dumps(run.status().to_dict()))["tags"] == list(expected)
    assert clutch.run().status().tags == ()


WRONG_TAGS: list[tuple[Any, type[Exception], str]] = [
    ("nightly", TypeError, "tags is 'nightly'; it takes a list of strings"),
    (3, TypeError, "tags is 3; it takes a list of strings"),
    (["a", 3], TypeError, "tags has 3 in it; each tag is a string"),
    (["a", ""], ValueError, "the tag '' has 0 characters; it takes 1 to 100"),
    (["a" * 101], ValueError, "has 101 characters; it takes 1 to 100"),
    (["a\nb"], ValueError, r"the tag 'a\\nb' has a control character"),
    (["a\ud800"], ValueError, "has a control character, or half of one"),
    (list(map(str, range(21))), ValueError, "a run takes 20 tags at most, and was given 21"),
]


@pytest.mark.parametrize(("wrong", "error", "says"), WRONG_TAGS)
def test_what_are_no_tags_is_an_error_at_run(
    broker: dramatiq.Broker, jobs: Jobs, wrong: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        Clutch().then(jobs.total).run(tags=wrong)


def test_twenty_tags_from_any_iterable_are_fine(broker: dramatiq.Broker, jobs: Jobs) -> None:
    run = Clutch().then(jobs.total).run(tags=(str(number % 20) for number in range(40)))
    assert len(run.status().tags) == 20


def test_a_status_without_tags_is_made_as_ever() -> None:
    assert RunStatus("r", None, "running", (), (), None, 0, 0).tags == ()


# Args


@pytest.fixture
def named(broker: dramatiq.Broker) -> Any:
    """An actor that returns its positional arguments and, if it has any, its keyword arguments."""

    @dramatiq.actor
    def named(*args: Any, **kwargs: Any) -> Any:
        return [*args, kwargs] if kwargs else list(args)

    return named


def with_args(broker: dramatiq.Broker, clutch: Clutch, args: Any) -> Any:
    run = clutch.run(args=args)
    with running_worker(broker):
        return run.get_result(block=True)


def test_the_first_stage_of_a_run_sees_its_args_as_its_previous_result(
    broker: dramatiq.Broker, jobs: Jobs, named: Any
) -> None:
    for args in ("2026-11-28", None, [1, 2], {"a": [None]}, 0):
        assert with_args(broker, Clutch().then(jobs.total), args) == [args]
        assert with_args(broker, Clutch().parallel(jobs.total), args) == [[args]]
        assert with_args(broker, Clutch().then(partial(named, "x"), pipe=True), args) == ["x", args]
        assert with_args(broker, Clutch().parallel([named], pipe="day").then(jobs.total), args) == [[{"day": args}]]
        assert with_args(broker, Clutch().then(Clutch().then(Clutch().then(jobs.total))), args) == [args]
    assert result(broker, Clutch().then(jobs.total)) == []


def test_only_the_first_stage_sees_the_args(broker: dramatiq.Broker, jobs: Jobs) -> None:
    assert with_args(broker, Clutch().then(jobs.job.message("a"), jobs.total), "args") == ["a"]


def test_map_maps_over_the_args(broker: dramatiq.Broker, named: Any, jobs: Jobs) -> None:
    assert with_args(broker, Clutch().map(partial(named, "x")).then(jobs.total), [1, None]) == [["x", 1], ["x", None]]
    assert with_args(broker, Clutch().map(named, into="page", limit=1), [1, 2]) == [[{"page": 1}], [{"page": 2}]]
    assert with_args(broker, Clutch().map(Clutch().then(named, pipe=True)), [1, 2]) == [[1], [2]]
    assert with_args(broker, Clutch().map(Clutch().map(named)), [[1], [2, 3]]) == [[[1]], [[2], [3]]]
    assert with_args(broker, Clutch().parallel(Clutch().map(named), jobs.total), [1, 2]) == [[[1], [2]], [[1, 2]]]
    assert with_args(broker, Clutch().map(named).then(jobs.total), []) == []


def test_a_composition_gets_the_args(broker: dramatiq.Broker, named: Any) -> None:
    pipe = pipeline([named.message("a"), named.message("b")])
    assert with_args(broker, Clutch().then(pipe, pipe=True), 1) == ["b", ["a", 1]]
    assert with_args(broker, Clutch().map(group([pipe, named.message("c")])), [1]) == [[["b", ["a", 1]], ["c", 1]]]


def test_a_clutch_is_a_template_for_its_args(broker: dramatiq.Broker, named: Any, jobs: Jobs) -> None:
    nightly = Clutch().then(partial(named, "extract"), pipe=True).then(partial(named, "load"), pipe=True)
    runs = [nightly.run(args=day, delay=1) for day in ("2026-11-27", "2026-11-28")]
    with running_worker(broker):
        assert [run.get_result(block=True) for run in runs] == [
            ["load", ["extract", "2026-11-27"]],
            ["load", ["extract", "2026-11-28"]],
        ]


@pytest.mark.parametrize("args", ["text", 3, None, {"a": 1}, (1, 2)])
def test_a_map_over_args_that_are_no_list_is_an_error_at_run(broker: dramatiq.Broker, jobs: Jobs, args: Any) -> None:
    kind = type(args).__name__
    with pytest.raises(ValueError, match=rf"^map\(job\) is the first stage of the clutch, .* a list; it is a {kind}"):
        Clutch().map(jobs.job).run(args=args)
    with pytest.raises(ValueError, match="of the clutch that is member 1 of stage 0, and maps over args, which"):
        Clutch().parallel(jobs.total, Clutch().map(jobs.job)).run(args=args)
    Clutch().then(jobs.total).then(Clutch().map(jobs.job)).run(args=args)


def test_args_that_cannot_be_encoded_are_an_error_at_run(broker: dramatiq.Broker, jobs: Jobs) -> None:
    with pytest.raises(TypeError, match=r"^args is \{1, 2\}, which JSONEncoder can't encode: .*set"):
        Clutch().then(jobs.total).run(args={1, 2})


def test_args_are_part_of_what_a_run_id_stands_for(broker: dramatiq.Broker, jobs: Jobs) -> None:
    clutch = Clutch().then(jobs.total)
    run = clutch.run(run_id="one", args={"a": 1, "b": 2})
    assert clutch.run(run_id="one", args={"b": 2, "a": 1}) == run
    for other in ({"args": {"a": 1}}, {"args": None}, {}):
        with pytest.raises(RunIdTaken):
            clutch.run(run_id="one", **other)


def test_a_job_of_the_first_stage_that_is_sent_again_sees_the_args(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["a"] = ["die"]
    run = Clutch().parallel(partial(jobs.job, "a"), pipe=True).run(args="value")
    with running_worker(broker):
        with pytest.raises(RunFailed):
            run.get_result(block=True)
        run.retry()
        assert run.get_result(block=True) == [["a", "value"]]
    assert jobs.sees["a"] == ["value"]


def test_what_a_job_nests_does_not_see_the_args(broker: dramatiq.Broker, jobs: Jobs) -> None:
    @dramatiq.actor
    def nests() -> Run:
        assert previous_results() == ["value"]
        return Clutch().then(jobs.total).nest()

    assert with_args(broker, Clutch().then(nests), "value") == []


# On real workers


@pytest.mark.process
def test_workers_hand_context_and_args_on(server: Server, redis_client: object) -> None:
    jobs = Actors(Setting(server.url))
    tells, pages = jobs.tells.message, Clutch(broker=jobs.broker, context={"level": "nested"})
    clutch = (
        Clutch(broker=jobs.broker, on_success=partial(jobs.tells_of, "end"))
        .parallel(tells("a"), pages.map(jobs.see))
        .then(tells("b"), pages.then(tells("c")))
    )
    env = Setting(server.url).to_env()
    with Worker(actors.__name__, env=env, threads=2), Worker(actors.__name__, env=env, threads=2):
        run = clutch.run(args=["x", "y"], context={"tenant": 7}, tags=["nightly"])
        assert run.get_result(block=True, timeout=60_000) == "c"
        wait_until("the callback", lambda: "end" in {entry["name"] for entry in jobs.log()})
    log = {entry["name"]: entry for entry in jobs.log()}
    contexts = {name: entry["context"] for name, entry in log.items() if "context" in entry}
    nested = {"tenant": 7, "level": "nested"}
    assert contexts == {"a": {"tenant": 7}, "b": {"tenant": 7}, "c": nested, "end": {"tenant": 7}}
    assert (log["a"]["sees"], log["b"]["sees"], log["c"]["sees"]) == ([["x", "y"]], ["a", ["x", "y"]], ["b"])
    assert (run.status().tags, Run(run.run_id, broker=jobs.broker).context) == (("nightly",), {"tenant": 7})
    jobs.broker.close()
