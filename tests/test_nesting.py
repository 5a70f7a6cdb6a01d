"""Runs in runs: written down, Dramatiq's own compositions, mapped, piped, and started by a job."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import Any

import dramatiq
import pytest
from dramatiq import group, pipeline
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import AsyncIO, CurrentMessage
from dramatiq.results import ResultTimeout

from dramatiq_clutch import Clutch, Run, current_run, previous_failures, previous_results
from dramatiq_clutch.backend import Caller, Record, Reply
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.errors import NestingError, PayloadRefused, RunCancelled, RunFailed, RunIdTaken, RunNotFound
from dramatiq_clutch.stored import owners
from dramatiq_clutch.stored.places import Place
from tests.conftest import result, running_worker
from tests.support.awaiting import wait_until
from tests.support.jobs import Jobs
from tests.support.keyspace import part_of, run_keys

# Written down


def test_a_nested_clutch_is_a_member_like_any_other(broker: dramatiq.Broker, jobs: Jobs) -> None:
    job = jobs.job.message
    child = Clutch().then(job("b1"), job("b2"))
    clutch = Clutch().then(job("first")).parallel(job("a"), child, job("c")).then(job("end"))
    assert result(broker, clutch) == "end"
    assert jobs.sees["a"] == ["first"]
    assert jobs.sees["b1"] == ["first"]  # what the enclosing stage sees
    assert jobs.sees["b2"] == ["b1"]
    assert jobs.sees["end"] == ["a", "b2", "c"]


def test_a_nested_clutch_is_one_or_many_by_how_its_last_stage_was_written(broker: dramatiq.Broker, jobs: Jobs) -> None:
    job = jobs.job.message
    clutch = Clutch().parallel(
        Clutch().then(job("one")), Clutch().parallel(job("many")), Clutch(), Clutch().parallel([])
    )
    assert result(broker, clutch) == ["one", ["many"], None, []]


def test_nesting_goes_to_any_depth(broker: dramatiq.Broker, jobs: Jobs) -> None:
    clutch = Clutch().then(jobs.job.message("deep"))
    for _ in range(60):
        clutch = Clutch().then(clutch)
    assert result(broker, Clutch().then(jobs.job.message("first")).then(clutch)) == "deep"
    assert jobs.sees["deep"] == ["first"]


def test_a_nested_clutch_inherits_the_queue_unless_it_has_its_own(broker: dramatiq.Broker, jobs: Jobs) -> None:
    if not any(isinstance(known, CurrentMessage) for known in broker.middleware):
        broker.add_middleware(CurrentMessage())
    for queue in ("outer", "inner"):
        broker.declare_queue(queue)

    @dramatiq.actor
    def where() -> Any:
        message: Any = CurrentMessage.get_current_message()
        return message.queue_name

    child = Clutch().then(where)
    clutch = Clutch(queue="outer").parallel(where, child, Clutch(queue="inner").then(Clutch().then(where)))
    assert result(broker, clutch) == ["outer", "outer", "inner"]


def test_a_nested_clutch_with_an_undeclared_queue_is_an_error_at_run(broker: dramatiq.Broker, jobs: Jobs) -> None:
    with pytest.raises(ValueError, match="'nowhere'"):
        Clutch().then(Clutch(queue="nowhere").then(jobs.total)).run()


def test_nothing_is_left_of_nested_runs(redis_broker: RedisBroker) -> None:
    jobs = Jobs(redis_broker)
    child = Clutch().then(jobs.job.message("a"), jobs.job.message("b"))
    run = Clutch().parallel(child, child).then(jobs.total).run()
    with running_worker(redis_broker):
        assert run.get_result(block=True) == ["b", "b"]
        wait_until("the last duty is confirmed", lambda: any(key.endswith(":tombstone") for key in root_keys()))

    keys = [part_of(key) for key in run_keys(redis_broker.client)]
    of_root = {key.rsplit("}:")[1] for key in keys if "~" not in key}
    assert of_root == {"head", "tombstone", "members:1"}
    assert {key.rsplit("}:")[1] for key in keys if "~" in key} == {"tombstone"}


def root_keys() -> list[str]:
    broker: Any = dramatiq.get_broker()
    return [key for key in run_keys(broker.client) if "~" not in key]


# Dramatiq's own compositions


@pytest.fixture
def math(broker: dramatiq.Broker) -> Any:
    class Math:
        @staticmethod
        @dramatiq.actor(broker=broker)
        def add(*numbers: int) -> int:
            return sum(numbers)

        @staticmethod
        @dramatiq.actor(broker=broker)
        def double(number: int) -> int:
            return 2 * number

        @staticmethod
        @dramatiq.actor(broker=broker)
        def join(*parts: Any) -> list[Any]:
            return list(parts)

        @staticmethod
        @dramatiq.actor(broker=broker, pipe_ignore=True)
        def says_nothing(*parts: Any) -> str:
            return "ignored"

    return Math()


def test_a_pipeline_drops_in_unchanged(broker: dramatiq.Broker, math: Any) -> None:
    pipe = pipeline([math.add.message(1, 2), math.add.message(10), math.double.message()])
    assert result(broker, Clutch().then(pipe)) == 26
    assert result(broker, Clutch().parallel(pipe, math.add.message(5)).then(math.join, pipe=True)) == [[26, 5]]


def test_pipe_ignore_counts_on_the_step_and_on_the_actor_before_it(broker: dramatiq.Broker, math: Any) -> None:
    pipe = pipeline(
        [
            math.add.message(1),
            math.join.message_with_options(args=("a",), pipe_ignore=True),
            math.says_nothing.message(),
            math.join.message("b"),
            math.join.message("c"),
        ]
    )
    assert result(broker, Clutch().then(pipe)) == ["c", ["b"]]


def test_dramatiq_does_not_send_the_next_step_of_a_pipeline_as_well(broker: dramatiq.Broker, jobs: Jobs) -> None:
    pipe = jobs.job.message("a") | jobs.job.message("b")
    assert result(broker, Clutch().then(pipe).then(pipe.messages[0])) == "a"
    assert jobs.began == ["a", "b", "a"]


def test_a_group_drops_in_unchanged_also_inside_a_series(broker: dramatiq.Broker, math: Any) -> None:
    three = group([math.add.message(1), math.add.message(2), math.add.message(3) | math.double.message()])
    clutch = Clutch().then(math.add.message(0)).then(three).then(math.join, pipe=True)
    assert result(broker, clutch) == [[1, 2, 6]]


def test_a_group_of_groups_drops_in_unchanged(broker: dramatiq.Broker, math: Any) -> None:
    inner = group([math.add.message(1), math.add.message(2)])
    assert result(broker, Clutch().then(group([inner, math.add.message(3)]))) == [[1, 2], 3]


def test_a_groups_completion_callbacks_are_kept(broker: dramatiq.Broker, jobs: Jobs) -> None:
    both = group([jobs.job.message("a"), jobs.job.message("b")])
    both.add_completion_callback(jobs.job.message("called back"))
    both.add_completion_callback(jobs.job.message("and again"))
    with running_worker(broker):
        assert Clutch().then(both).run().get_result(block=True) == ["a", "b"]
        wait_until("both callbacks", lambda: {"called back", "and again"} <= set(jobs.began))
    assert sorted(jobs.began) == ["a", "and again", "b", "called back"]


def test_a_pipeline_that_is_mapped_or_piped_gets_the_value(broker: dramatiq.Broker, math: Any) -> None:
    pipe = pipeline([math.add.message(1), math.double.message()])
    three = Clutch().parallel(math.add.message(n) for n in range(3))
    assert result(broker, three.map(pipe)) == [2, 4, 6]
    assert result(broker, Clutch().then(math.add.message(4)).then(pipe, pipe=True)) == 10
    fan = group([math.add.message(100), pipe])
    assert result(broker, three.map(fan)) == [[100, 2], [101, 4], [102, 6]]


# pipe and map


def test_pipe_appends_the_value_after_a_stage_of_one_and_the_list_after_a_stage_of_many(
    broker: dramatiq.Broker, math: Any
) -> None:
    clutch = Clutch().then(math.add.message(1)).then(math.join.message("one"), pipe=True)
    assert result(broker, clutch) == ["one", 1]
    clutch = Clutch().parallel([math.add.message(1)]).parallel(math.join.message("a"), math.join, pipe=True)
    assert result(broker, clutch) == [["a", [1]], [[1]]]


@pytest.fixture
def named(broker: dramatiq.Broker) -> Any:
    """An actor that returns its positional arguments and, if it has any, its keyword arguments."""

    @dramatiq.actor
    def named(*args: Any, **kwargs: Any) -> Any:
        return [*args, kwargs] if kwargs else list(args)

    return named


def test_pipe_gives_the_value_by_a_name_instead_of_appending_it(broker: dramatiq.Broker, named: Any) -> None:
    one, two = Clutch().then(named.message(1)), Clutch().parallel(named.message(n) for n in range(2))
    assert result(broker, one.then(named.message("a"), pipe="page")) == ["a", {"page": [1]}]
    assert result(broker, two.then(partial(named, "a", b=2), pipe="pages")) == ["a", {"b": 2, "pages": [[0], [1]]}]
    ignoring = named.message_with_options(args=("c",), pipe_ignore=True)
    both = [[{"page": [1]}], ["c"]]
    assert result(broker, one.parallel(named, ignoring, pipe="page")) == both
    assert result(broker, one.parallel(lambda: [named, ignoring], pipe="page", limit=1)) == both
    chain = one.then(named, named, pipe="seite_ä")
    assert result(broker, chain) == [{"seite_ä": [{"seite_ä": [1]}]}]


def test_map_gives_the_item_by_a_name_instead_of_appending_it(broker: dramatiq.Broker, named: Any) -> None:
    clutch = Clutch().then(named.message(1, 2)).map(partial(named, "a"), into="page", limit=1)
    assert result(broker, clutch) == [["a", {"page": 1}], ["a", {"page": 2}]]
    clutch = Clutch().parallel(named.message(n) for n in range(2)).map(named, into="page")
    assert result(broker, clutch) == [[{"page": [0]}], [{"page": [1]}]]


def test_a_pipeline_or_group_gets_the_value_by_a_name_in_its_first_messages(
    broker: dramatiq.Broker, named: Any
) -> None:
    fan = group([pipeline([named.message("a"), named.message("b")]), named.message("c")])
    one = Clutch().then(named.message(1))
    assert result(broker, one.then(fan, pipe="page")) == [["b", ["a", {"page": [1]}]], ["c", {"page": [1]}]]
    assert result(broker, one.map(fan, into="page")) == [[["b", ["a", {"page": 1}]], ["c", {"page": 1}]]]


def test_what_a_value_cannot_go_into_is_an_error_at_the_call_that_says_so(broker: Any, named: Any) -> None:
    clutch = Clutch().then(named)
    for add in (clutch.then, clutch.parallel):
        with pytest.raises(ValueError, match="'named' has an argument 'page' already"):
            add(named.message(page=1), pipe="page")
        with pytest.raises(ValueError, match=r"a nested clutch takes no argument 'page': .* by previous_results\(\)"):
            add(clutch, pipe="page")
        for wrong in ("", "a page", "2nd"):
            with pytest.raises(ValueError, match=f"pipe is {wrong!r}; it is the name of the keyword argument"):
                add(named, pipe=wrong)
    with pytest.raises(ValueError, match="'named' has an argument 'page' already"):
        clutch.map(partial(named, page=1), into="page")
    with pytest.raises(ValueError, match="a nested clutch takes no argument 'page'"):
        clutch.map(clutch, into="page")
    with pytest.raises(ValueError, match="into is 'a page'"):
        clutch.map(named, into="a page")
    with pytest.raises(ValueError, match="'named' has an argument 'page' already"):
        clutch.parallel(lambda: [partial(named, page=1)], pipe="page").run()


def test_the_name_that_a_value_goes_into_is_part_of_what_a_run_id_stands_for(broker: Any, named: Any) -> None:
    clutch = Clutch().then(named)
    assert clutch.map(named, into="a").run(run_id="one") == clutch.map(named, into="a").run(run_id="one")
    with pytest.raises(RunIdTaken):
        clutch.map(named, into="b").run(run_id="one")


def test_a_clutch_that_is_piped_or_mapped_finds_the_value_as_its_previous_results(
    broker: dramatiq.Broker, jobs: Jobs
) -> None:
    child = Clutch().then(jobs.total)
    three = Clutch().then(jobs.several.message("x", 3))
    assert result(broker, three.map(child)) == [["x0"], ["x1"], ["x2"]]
    assert result(broker, three.then(child, pipe=True)) == [["x0", "x1", "x2"]]
    assert result(broker, three.map(Clutch().parallel(Clutch().then(jobs.total)))) == [[["x0"]], [["x1"]], [["x2"]]]


def test_map_fans_out_over_what_a_job_returned_or_a_stage_of_many(broker: dramatiq.Broker, jobs: Jobs) -> None:
    three = Clutch().then(jobs.several.message("x", 3))
    assert result(broker, three.map(jobs.job).map(jobs.job.message("y")).then(jobs.total)) == [
        ["y", "x0"],
        ["y", "x1"],
        ["y", "x2"],
    ]


def test_mapping_over_an_empty_list_completes_with_an_empty_list(broker: dramatiq.Broker, jobs: Jobs) -> None:
    clutch = Clutch().then(jobs.several.message("x", 0)).map(jobs.job).then(jobs.total)
    assert result(broker, clutch) == []


@pytest.mark.parametrize("value", ["text", 3, None, {"a": 1}])
def test_mapping_over_what_is_no_list_fails_the_run_and_says_what_it_was(broker: dramatiq.Broker, value: Any) -> None:
    @dramatiq.actor
    def returns() -> Any:
        return value

    @dramatiq.actor
    def fetch(item: Any) -> None: ...

    alerts: list[Any] = []

    @dramatiq.actor
    def alert(status: Any) -> None:
        alerts.append(status)

    run = Clutch(on_failure=alert).then(returns).map(fetch).run()
    with running_worker(broker):
        with pytest.raises(RunFailed, match=rf"must be a list; it is a {type(value).__name__}: {value!r}"):
            run.get_result(block=True)
        wait_until("the alert", lambda: alerts)


# A first stage that pipes or maps


@pytest.fixture
def sums(broker: dramatiq.Broker) -> Any:
    """What Celery's own tests of its canvas are made of."""

    class Sums:
        @staticmethod
        @dramatiq.actor(broker=broker)
        def identity(value: Any) -> Any:
            return value

        @staticmethod
        @dramatiq.actor(broker=broker)
        def plus(one: int, other: int) -> int:
            return one + other

        @staticmethod
        @dramatiq.actor(broker=broker)
        def total(numbers: list[int]) -> int:
            return sum(numbers)

        @staticmethod
        @dramatiq.actor(broker=broker)
        def count_to(number: int) -> list[int]:
            return list(range(1, number + 1))

    return Sums()


def test_the_first_stage_of_a_nested_clutch_pipes_what_the_enclosing_stage_sees(
    broker: dramatiq.Broker, sums: Any, named: Any
) -> None:
    one, two = Clutch().then(named.message(1)), Clutch().parallel(named.message(n) for n in range(2))
    child = Clutch().then(partial(named, "a"), pipe=True).then(partial(named, "b"), pipe=True)
    assert result(broker, one.then(child)) == ["b", ["a", [1]]]
    assert result(broker, two.then(child)) == ["b", ["a", [[0], [1]]]]
    assert result(broker, one.then(child, pipe=True)) == ["b", ["a", [1]]]  # it is given once
    by_name = Clutch().parallel(named, partial(named, "c"), pipe="page")
    assert result(broker, one.parallel(by_name, Clutch().then(named))) == [
        [[{"page": [1]}], ["c", {"page": [1]}]],
        [],
    ]


def test_the_first_stage_of_a_mapped_clutch_pipes_the_item(broker: dramatiq.Broker, sums: Any, named: Any) -> None:
    three = Clutch().then(sums.count_to.message(3))
    child = Clutch().then(partial(sums.plus, 10), pipe=True).then(partial(sums.plus, 100), pipe=True)
    assert result(broker, three.map(child)) == [111, 112, 113]
    fan = Clutch().parallel(partial(sums.plus, 10), partial(sums.plus, 20), pipe=True).then(sums.total, pipe=True)
    assert result(broker, three.map(fan, limit=1).then(sums.total, pipe=True)) == 102
    assert result(broker, three.map(Clutch().then(named, pipe="page"))) == [[{"page": n}] for n in (1, 2, 3)]


def test_the_first_stage_of_a_nested_clutch_maps_over_what_the_enclosing_stage_would_map_over(
    broker: dramatiq.Broker, sums: Any
) -> None:
    child = Clutch().map(partial(sums.plus, 10)).then(sums.total, pipe=True)
    assert result(broker, Clutch().then(sums.count_to.message(3)).then(child)) == 36  # over the list
    many = Clutch().parallel(sums.identity.message(n) for n in range(3))
    assert result(broker, many.then(child)) == 33  # over the results
    assert result(broker, many.parallel(child, sums.identity.message(0))) == [33, 0]
    lists = Clutch().parallel(sums.count_to.message(n) for n in (1, 0, 2))
    assert result(broker, lists.map(child)) == [11, 0, 23]  # over the item


def test_a_first_stage_sees_what_comes_from_several_levels_above(broker: dramatiq.Broker, sums: Any) -> None:
    maps, pipes = Clutch().map(partial(sums.plus, 10)), Clutch().then(partial(sums.plus, 10), pipe=True)
    for _ in range(3):
        maps, pipes = Clutch().then(maps), Clutch().parallel(pipes)
    many = Clutch().parallel(sums.identity.message(n) for n in range(2))
    assert result(broker, many.then(maps)) == [10, 11]
    assert result(broker, many.map(pipes)) == [[[[10]]], [[[11]]]]
    lists = Clutch().parallel(sums.count_to.message(n) for n in range(3))
    assert result(broker, lists.map(maps)) == [[], [11], [11, 12]]


def test_a_composition_in_a_first_stage_gets_the_value_too(broker: dramatiq.Broker, math: Any, sums: Any) -> None:
    three = Clutch().then(sums.count_to.message(3))
    pipe = pipeline([math.add.message(1), math.double.message()])
    assert result(broker, three.map(Clutch().then(pipe, pipe=True))) == [4, 6, 8]
    fan = group([pipe, math.add.message(100)])
    assert result(broker, three.map(Clutch().then(Clutch().then(fan, pipe=True)))) == [[4, 101], [6, 102], [8, 103]]
    assert result(broker, three.then(Clutch().map(pipe))) == [4, 6, 8]


def test_what_is_dead_is_none_where_a_first_stage_maps_or_pipes(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["b"] = ["die"]
    some = Clutch().parallel(jobs.job.message("a"), jobs.job.message("b"), allow_failures=True)
    assert result(broker, some.then(Clutch().map(partial(jobs.job, "m")))) == [["m", "a"], ["m", None]]
    assert result(broker, some.then(Clutch().then(partial(jobs.job, "p"), pipe=True))) == ["p", ["a", "b"]]


def test_a_first_stage_that_maps_over_no_list_is_a_dead_member_which_says_so(
    broker: dramatiq.Broker, jobs: Jobs
) -> None:
    clutch = Clutch().then(jobs.job.message("text")).then(Clutch().map(jobs.job))
    run = clutch.run()
    with running_worker(broker), pytest.raises(RunFailed, match=r"stage 0 maps over what the stage around it sees, .*"):
        run.get_result(block=True)
    run = Clutch().then(jobs.several.message("x", 1)).map(Clutch().map(jobs.job)).run()
    says = r"has failed at stage 1, a nested run \(member 0\): HandOverFailed: .* must be a list; it is a str: 'x0'"
    with running_worker(broker), pytest.raises(RunFailed, match=says):
        run.get_result(block=True)


def test_a_first_stage_that_maps_over_the_results_of_many_copies_none_of_them(redis_broker: RedisBroker) -> None:
    jobs = Jobs(redis_broker)
    jobs.script["m"] = ["wait"] * 2
    clutch = Clutch().parallel(jobs.job.message(n) for n in "ab").then(Clutch().map(partial(jobs.job, "m"), limit=1))
    run = clutch.run()
    with running_worker(redis_broker):
        wait_until("the nested run to be at work", lambda: "m" in jobs.began)
        assert not [key for key in run_keys(redis_broker.client) if ":items:" in key]
        jobs.gates["m"].set()
        assert run.get_result(block=True) == [["m", "a"], ["m", "b"]]


NOTHING_TO_SEE = [
    (lambda job: Clutch().map(job), r"^map\(job\) is the first stage of the clutch, and can't map over"),
    (lambda job: Clutch().then(job, pipe=True), r"^then\(job\) is the first stage of the clutch, and can't pipe in"),
    (lambda job: Clutch().parallel(job, pipe="name"), "can't pipe in"),
    (lambda job: Clutch().then(Clutch().map(job)), "of the clutch that is member 0 of stage 0, and"),
    (
        lambda job: Clutch().parallel(job.message("a"), Clutch().then(Clutch().then(job, pipe=True))),
        "of the clutch that is member 0 of stage 0 of member 1 of stage 0, and",
    ),
    (lambda job: Clutch().parallel(lambda: [Clutch().map(job)]), "member 0 of stage 0"),
    (lambda job: Clutch().then(group([job.message("a")]), pipe=True), "can't pipe in"),
]


@pytest.mark.parametrize(("build", "says"), NOTHING_TO_SEE)
def test_a_first_stage_that_has_nothing_to_see_is_an_error_at_run_and_at_nest(
    broker: dramatiq.Broker, jobs: Jobs, build: Any, says: str
) -> None:
    clutch, refused = build(jobs.job), list[str]()
    with pytest.raises(ValueError, match=says):
        clutch.run()

    @dramatiq.actor
    def nests() -> None:
        with pytest.raises(ValueError, match=says) as error:
            clutch.nest()
        refused.append(str(error.value))

    assert result(broker, Clutch().then(jobs.job.message("first")).then(nests)) is None  # also not what this job sees
    assert len(refused) == 1


# The shapes of Celery's canvas that have a group, or a chain, over what came before


def test_a_chain_in_the_header_of_a_chord(broker: dramatiq.Broker, sums: Any) -> None:
    chain = Clutch().then(partial(sums.plus, 1), pipe=True).then(partial(sums.plus, 10), pipe=True)
    header = Clutch().then(sums.identity.message(5)).parallel(chain, sums.identity, chain, pipe=True)
    assert result(broker, header.then(sums.total, pipe=True)) == 16 + 5 + 16


def test_a_group_of_chains_over_each_item(broker: dramatiq.Broker, sums: Any) -> None:
    chain = Clutch().then(partial(sums.plus, 1), pipe=True).then(partial(sums.plus, 10), pipe=True)
    clutch = Clutch().then(sums.count_to.message(3)).map(Clutch().parallel(chain, chain).then(sums.total, pipe=True))
    assert result(broker, clutch.then(sums.total, pipe=True)) == 2 * (12 + 13 + 14)


def test_a_chain_of_groups_in_a_group(broker: dramatiq.Broker, sums: Any) -> None:
    inner = Clutch().parallel(partial(sums.plus, 1), partial(sums.plus, 2), pipe=True)
    inner = inner.map(partial(sums.plus, 10)).then(sums.total, pipe=True)
    clutch = Clutch().then(sums.identity.message(0)).parallel(inner, inner)
    assert result(broker, clutch.then(sums.total, pipe=True)) == 2 * 23


def test_a_chord_in_the_header_of_a_chord_whose_group_is_made_of_what_came_before(
    broker: dramatiq.Broker, sums: Any
) -> None:
    inner = Clutch().map(partial(sums.plus, 1)).then(sums.total, pipe=True)
    outer = Clutch().then(sums.count_to.message(3)).parallel(inner, Clutch().then(inner), sums.identity.message(1))
    assert result(broker, outer.then(sums.total, pipe=True)) == 9 + 9 + 1


def test_a_map_in_a_map_and_a_map_in_that(broker: dramatiq.Broker, sums: Any) -> None:
    @dramatiq.actor
    def folders(depth: int) -> Any:
        return [folders.fn(depth - 1) for _ in range(2)] if depth else 1

    tree = Clutch().then(folders.message(2))
    level = Clutch().map(partial(sums.plus, 10))
    assert result(broker, tree.map(level)) == [[11, 11], [11, 11]]
    tree = Clutch().then(folders.message(3))
    assert result(broker, tree.map(Clutch().map(level))) == [[[11, 11]] * 2] * 2
    summed = Clutch().map(level.then(sums.total, pipe=True)).then(sums.total, pipe=True)
    assert result(broker, tree.map(summed).then(sums.total, pipe=True)) == 88


# Started by a job


def test_a_stage_waits_for_what_its_job_nests(broker: dramatiq.Broker, jobs: Jobs) -> None:
    @dramatiq.actor
    def crawl() -> str:
        Clutch().parallel(jobs.job.message("a"), jobs.job.message("b")).nest()
        Clutch().then(jobs.job.message("c")).nest()
        return "own"

    assert result(broker, Clutch().then(jobs.job.message("first")).then(crawl).then(jobs.total)) == ["own"]
    assert set(jobs.began[1:4]) == {"a", "b", "c"}
    assert jobs.began[4] == "total"
    assert jobs.sees["a"] == []


def test_returning_the_handle_makes_the_nested_result_the_jobs(broker: dramatiq.Broker, jobs: Jobs) -> None:
    @dramatiq.actor
    def one() -> Run:
        Clutch().then(jobs.job.message("x")).nest()
        return Clutch().then(jobs.job.message("a")).nest()

    @dramatiq.actor
    def both() -> list[Run]:
        runs = [Clutch().parallel(jobs.job.message(name)).nest() for name in "ab"]
        return runs[::-1]

    assert result(broker, Clutch().parallel(one, both).then(jobs.total)) == ["a", [["b"], ["a"]]]


def test_jobs_nest_to_any_depth(broker: dramatiq.Broker, jobs: Jobs) -> None:
    @dramatiq.actor
    def countdown(number: int) -> Any:
        return Clutch().then(countdown.message(number - 1)).nest() if number else "liftoff"

    assert result(broker, Clutch().then(countdown.message(12)).then(jobs.total)) == ["liftoff"]


def test_an_attempt_that_raises_starts_nothing(broker: dramatiq.Broker, jobs: Jobs) -> None:
    tries: list[int] = []

    @dramatiq.actor(min_backoff=1, max_backoff=1)
    def flaky() -> str:
        tries.append(1)
        Clutch().then(jobs.job.message(f"nested by {len(tries)}")).nest()
        if len(tries) < 3:
            raise ValueError("not yet")
        return "done"

    assert result(broker, Clutch().then(flaky)) == "done"
    assert jobs.began == ["nested by 3"]


def test_an_async_actor_nests_too(broker: dramatiq.Broker, jobs: Jobs) -> None:
    broker.add_middleware(AsyncIO())

    @dramatiq.actor
    async def crawl() -> Run:
        await asyncio.sleep(0)
        return Clutch().then(jobs.job.message("a")).nest()

    assert result(broker, Clutch().then(crawl)) == "a"


def test_waiting_for_a_nested_run_inside_its_job_is_an_error(broker: dramatiq.Broker, jobs: Jobs) -> None:
    @dramatiq.actor(max_retries=0)
    def waits() -> Any:
        return Clutch().then(jobs.total).nest().get_result(block=True)

    with pytest.raises(RunFailed, match=r"NestingError: nested run .* return the handle"):
        result(broker, Clutch().then(waits))


@pytest.mark.parametrize("awaits", [False, True])
def test_a_job_that_would_wait_for_its_own_run_or_a_relative_is_told_at_once(
    broker: dramatiq.Broker, jobs: Jobs, *, awaits: bool
) -> None:
    def wait(run: Run) -> str:
        try:
            asyncio.run(run.get_result_async(timeout=1_000)) if awaits else run.get_result(block=True, timeout=1_000)
        except NestingError as error:
            return str(error)
        raise AssertionError("it has waited")

    @dramatiq.actor(max_retries=0)
    def of_itself() -> Any:
        run: Any = current_run()
        with pytest.raises(ResultTimeout):
            run.get_result(block=True, timeout=0)
        return wait(run)

    @dramatiq.actor(max_retries=0)
    def of_its_parent() -> Any:
        run: Any = current_run()
        return wait(Run(run.run_id.rpartition("~")[0]))

    @dramatiq.actor(max_retries=0)
    def of_its_child() -> Any:
        run: Any = current_run()
        child = Run(f"{run.run_id}~0.1")
        wait_until("the nested run is there", lambda: is_there(child))
        try:
            return wait(child)
        finally:
            jobs.gates["child"].set()

    jobs.script["child"] = ["wait"]
    clutch = Clutch().parallel(of_itself, Clutch().parallel(jobs.job.message("child"), of_its_parent), of_its_child)
    own, (child, parent), nested = result(broker, clutch)
    assert child == "child"
    for text in (own, parent, nested):
        assert re.match(r"a job of run '.*', or of one .*, can't wait for it: .* previous_results\(\)", text)


def is_there(run: Run) -> bool:
    try:
        return run.status().state == "running"
    except RunNotFound:
        return False


def test_a_job_gets_the_result_of_a_relative_that_is_at_rest(broker: dramatiq.Broker, jobs: Jobs) -> None:
    @dramatiq.actor(max_retries=0)
    def looks() -> Any:
        run: Any = current_run()
        run.cancel()
        return run.get_result(block=True)

    run = Clutch().then(looks).run()
    with running_worker(broker), pytest.raises(RunCancelled):
        run.get_result(block=True)


def test_a_job_that_waits_for_another_run_is_warned_of_once(
    broker: dramatiq.Broker, jobs: Jobs, caplog: pytest.LogCaptureFixture
) -> None:
    @dramatiq.actor
    def waits() -> Any:
        return Clutch().then(jobs.job.message("other")).run().get_result(block=True)

    with caplog.at_level("WARNING", "dramatiq_clutch"):
        assert result(broker, Clutch().parallel(waits, waits)) == ["other"] * 2
        warnings = [record.getMessage() for record in caplog.records if "holds its worker's thread" in record.message]
        assert len(warnings) == 1
        engine_of(broker).remembered.renew()
        waits.send()  # a plain job holds a thread, too
        with running_worker(broker):
            wait_until("it is warned of", lambda: sum("holds its" in record.message for record in caplog.records) == 2)


def test_who_waits_outside_a_job_is_not_warned(
    broker: dramatiq.Broker, jobs: Jobs, caplog: pytest.LogCaptureFixture
) -> None:
    assert result(broker, Clutch().then(jobs.job.message("a"))) == "a"
    assert not any("holds its" in record.message for record in caplog.records)


def test_nesting_outside_a_clutch_job_is_an_error(broker: dramatiq.Broker, jobs: Jobs) -> None:
    with pytest.raises(NestingError, match=r"outside a clutch job use run\(\)"):
        Clutch().then(jobs.total).nest()


def test_run_inside_an_actor_starts_an_independent_run_at_once(broker: dramatiq.Broker, jobs: Jobs) -> None:
    @dramatiq.actor
    def starts() -> str:
        run = Clutch().then(jobs.job.message("independent")).run()
        wait_until("it has run", lambda: run.status().state == "succeeded")
        return run.run_id

    run_id = result(broker, Clutch().then(starts))
    assert "~" not in run_id
    assert Run(run_id).get_result() == "independent"


def test_the_current_run_of_a_nested_job_is_the_nested_run(broker: dramatiq.Broker) -> None:
    @dramatiq.actor
    def who() -> str:
        run = current_run()
        assert run is not None
        return run.run_id

    run = Clutch().then(Clutch().then(who)).run()
    with running_worker(broker):
        assert run.get_result(block=True) == f"{run.run_id}~0.0"


# Failures


def test_a_merging_job_can_tell_which_members_are_missing_and_why(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["b"] = ["die"]

    @dramatiq.actor
    def merge() -> Any:
        return previous_results(), [(one.index, one.exception_text) for one in previous_failures()]

    abc = [jobs.job.message(name) for name in "abc"]
    clutch = Clutch().parallel(abc, allow_failures=True).then(merge)
    assert result(broker, clutch) == [["a", None, "c"], [[1, "b dies"]]]
    nested = Clutch().parallel(abc, allow_failures=True).then(Clutch().then(merge))
    jobs.script["b"] = ["die"]
    assert result(broker, nested) == [["a", None, "c"], [[1, "b dies"]]]


def test_a_tolerant_stage_shows_its_dead_members_in_the_status(broker: dramatiq.Broker, jobs: Jobs) -> None:
    jobs.script["b"] = ["die"]
    run = Clutch().parallel((jobs.job.message(name) for name in "abc"), allow_failures=True).run()
    with running_worker(broker):
        assert run.get_result(block=True) == ["a", None, "c"]
    (stage,) = run.status().stages
    assert (stage.state, stage.succeeded, stage.dead) == ("succeeded", 2, 1)
    assert [failure.exception_text for failure in run.status().failures] == ["b dies"]


def test_without_allowed_failures_there_are_no_previous_failures(broker: dramatiq.Broker, jobs: Jobs) -> None:
    result(broker, Clutch().then(jobs.job.message("a"), jobs.job.message("b")))
    assert jobs.missing == {"a": [], "b": []}


def test_a_nested_run_whose_result_could_not_be_stored_is_dead_again_when_it_is_retried(
    stub_broker: StubBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has succeeded, so it doesn't work again; and nothing else would tell its parent, which would wait for it."""
    jobs, backend = Jobs(stub_broker), engine_of(stub_broker).backend
    works, refused = backend.record, list[Record]()

    def record(record: Record, caller: Caller, *along: Any) -> Reply:
        if record.of_run and record.ending == "succeeded":
            refused.append(record)
            raise PayloadRefused("the server refuses it")
        return works(record, caller, *along)

    monkeypatch.setattr(backend, "record", record)
    run = Clutch().parallel(Clutch().then(jobs.job.message("a")), jobs.job.message("b")).run()
    with running_worker(stub_broker):
        wait_until("it has failed", lambda: run.status().state == "failed")
        assert run.status().failures[0].exception_text == "the server refuses it"
        wait_until("nothing more is owed", lambda: backend.generation(f"{run.run_id}~0.0") is None)
        assert run.retry()
        assert run.status().state == "failed"
    assert "has succeeded, and its result isn't there any more" in run.status().failures[0].exception_text
    assert (len(refused), jobs.counts()["a"]) == (1, 1)


@pytest.mark.parametrize("comes", ["before it starts", "while it works"])
def test_a_late_cancel_of_before_a_retry_leaves_what_a_job_nests_alone(stub_broker: StubBroker, comes: str) -> None:
    """Who cancels the nested runs of a wide stage may still be at it when the run has been retried."""
    jobs, engine = Jobs(stub_broker), engine_of(stub_broker)
    jobs.script["inner"] = ["wait"]

    @dramatiq.actor
    def nests() -> Run:
        return Clutch().then(jobs.job.message("inner")).nest()

    run = Clutch().then(nests).run()
    assert run.cancel()
    assert run.retry()
    place = Place(run.run_id, 0, 0, generation=engine.backend.generation(run.run_id) or "")

    def cancel_late() -> str:
        caller = engine.caller(owners.parent("halt", 0))
        return engine.backend.cancel(place.child_id, caller, bury=0, generation=place.child_generation).word

    if comes == "before it starts":
        assert cancel_late() == "unknown"
    with running_worker(stub_broker):
        wait_until("it works", lambda: jobs.began == ["inner"])
        if comes == "while it works":
            assert cancel_late() == "over"
        jobs.gates["inner"].set()
        assert run.get_result(block=True) == "inner"


def test_a_nested_run_that_is_gone_is_a_dead_member_and_comes_back_with_a_retry(redis_broker: RedisBroker) -> None:
    jobs = Jobs(redis_broker)
    jobs.script["a"] = ["fail"]

    @dramatiq.actor(min_backoff=300, max_backoff=300)
    def slow() -> str:
        jobs.began.append("slow")
        if jobs.counts()["slow"] == 1:
            raise ValueError("the first time")
        return "slow"

    run = Clutch().parallel(Clutch().then(slow), jobs.job.message("b")).run()
    with running_worker(redis_broker):
        wait_until("it is failing", lambda: run.status().stages[0].failing == 1)
        redis_broker.client.delete(*redis_broker.client.keys(f"dramatiq-clutch:{{{run.run_id}~0.0}}:*"))
        wait_until("the run has failed", lambda: run.status().state == "failed")
        assert "is gone" in run.status().failures[0].exception_text
        assert run.retry()
        assert run.get_result(block=True) == ["slow", "b"]
