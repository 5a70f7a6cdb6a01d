"""Random trees of clutches, with anything happening to their jobs in any order: the real thing does what a simple
interpreter of the documentation does. Results, callbacks (which, in which order, how often) and states are equal."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.stub import StubBroker
from dramatiq.common import dq_name
from dramatiq.errors import QueueNotFound
from dramatiq.middleware import SkipMessage, TimeLimit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dramatiq_clutch import Clutch, ClutchMiddleware, Run
from dramatiq_clutch.backend import ClutchBackend
from dramatiq_clutch.backends import RedisBackend, StubBackend
from dramatiq_clutch.backends.memory import Clock
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.handover import sweep
from dramatiq_clutch.job import ATTRIBUTE
from dramatiq_clutch.stored.places import Tag
from dramatiq_clutch.stored.plan import StageLine
from dramatiq_clutch.working import begin
from tests.support.interpreter import Common, Leaf, Outcome, SimRun, Step, Tree
from tests.support.server import Server

MOST_FAILURES = 2  # of one job in a row: its retries then succeed or die, so that every example ends

DEADLINE = 5_000  # milliseconds

names = itertools.count()


def unique(letter: str) -> st.SearchStrategy[str]:
    return st.builds(lambda: f"{letter}{next(names)}")


def leaves(trees: st.SearchStrategy[Tree] | None) -> st.SearchStrategy[Leaf]:
    if trees is None:
        return st.builds(Leaf, unique("job "))
    nests = st.just(()) | st.lists(trees, max_size=2).map(tuple)
    return st.builds(Leaf, unique("job "), nests, st.booleans())


def steps(trees: st.SearchStrategy[Tree] | None) -> st.SearchStrategy[Step]:
    member = leaves(trees) if trees is None else leaves(trees) | trees
    one = st.builds(lambda only, deadline: Step((only,), deadline=deadline), member, st.booleans())
    many = st.builds(of_many, st.lists(member, max_size=6), TERMS, LIMITS)
    mapped = st.builds(of_mapped, member, TERMS, LIMITS)
    return one | many | mapped


LIMITS = st.none() | st.integers(1, 3)

#: What is said of a stage as a whole, but for its limit.
TERMS = st.fixed_dictionaries(
    {},
    optional={
        "fail_fast": st.booleans(),
        "deadline": st.booleans(),
        "terms": st.sampled_from(
            [{"tolerant": True}, {"allowed": 1}, {"allowed": 2}, {"allowed": 0.5}, {"enough": 1}, {"enough": 2}]
        ),
    },
).map(lambda said: flat(said))


def flat(said: Mapping[str, Any]) -> dict[str, Any]:
    terms: dict[str, Any] = said.get("terms", {})
    return {name: one for name, one in said.items() if name != "terms"} | terms


def of_many(members: list[Leaf | Tree], terms: dict[str, Any], limit: int | None) -> Step:
    if terms.get("enough", 0) > len(members):  # which is an error
        terms = {name: said for name, said in terms.items() if name != "enough"}
    given = members if "enough" not in terms else [with_a_job(member) for member in members]
    return Step(tuple(given), many=True, limit=limit_for(members, limit), **terms)


def of_mapped(only: Leaf | Tree, terms: dict[str, Any], limit: int | None) -> Step:
    given = only if "enough" not in terms else with_a_job(only)
    return Step((given,), many=True, mapped=True, limit=limit_for([only], limit), **terms)


def with_a_job(member: Leaf | Tree) -> Leaf | Tree:
    """The same member, which can't have succeeded as soon as it begins: of several that have, the first one may be
    enough, and it isn't said which of the others have begun."""
    if isinstance(member, Leaf):
        return member
    first = Step((Leaf(f"job {next(names)}"),), many=True)
    return replace(member, steps=(first, *member.steps))


def limit_for(members: list[Leaf | Tree], limit: int | None) -> int | None:
    """None if there are runs among them: the interpreter's are at work when ours wait for a place."""
    return None if any(isinstance(member, Tree) or member.nests for member in members) else limit


def of(step: st.SearchStrategy[Step]) -> st.SearchStrategy[Tree]:
    def tree(name: str, steps: list[Step], deadline: bool) -> Tree:
        kept: list[Step] = []
        for one in steps:
            if not (one.mapped and kept) or kept[-1].many:  # a stage of one would have to return a list
                kept.append(one)
        return Tree(name, tuple(kept), deadline)

    return st.builds(tree, unique("run "), st.lists(step, max_size=3), st.booleans())


def fitting(tree: Tree, *, sees_many: bool = False) -> Tree:
    """The same tree, without first stages that would map over nothing, or over what is no list."""
    kept: list[Step] = []
    for step in tree.steps:
        if step.mapped and not (kept or sees_many):
            continue
        many = not step.mapped and (kept[-1].many if kept else sees_many)
        members = tuple(fitting_member(member, sees_many=many) for member in step.members)
        kept.append(replace(step, members=members))
    return replace(tree, steps=tuple(kept))


def fitting_member(member: Leaf | Tree, *, sees_many: bool) -> Leaf | Tree:
    if isinstance(member, Tree):
        return fitting(member, sees_many=sees_many)
    return replace(member, nests=tuple(map(fitting, member.nests)))


TREES = of(steps(None))
for _ in range(2):
    TREES = of(steps(TREES))
TREES = TREES.map(fitting)


class World:
    """A run in the real thing, and in the interpreter; their jobs end as Hypothesis wants, in the order it wants."""

    def __init__(self, backend: Any, tree: Tree, draw: Any) -> None:
        self.draw, self.tree, self.backend = draw, tree, backend
        due = backend.due
        backend.due = lambda *args, **more: sorted(due(*args, **more))  # or the order would depend on milliseconds
        self.broker = broker = StubBroker()
        own = f"world {next(names)}"  # or it would sweep the runs of those before it
        broker.add_middleware(ClutchMiddleware(backend, application=own))
        # An example may be given up while a job is at work, whose time would be over in the middle of another test.
        broker.middleware[:] = [hook for hook in broker.middleware if not isinstance(hook, TimeLimit)]
        broker.emit_after("process_boot")
        self.share: int = draw(st.sampled_from([1, 1_000]))
        object.__setattr__(engine_of(broker), "share", self.share)
        self.events: dict[str, str] = {}
        self.waiting: list[dramatiq.Message[Any]] = []
        self.outcome: Outcome = "ok"
        self.nests: dict[str, Leaf] = {}
        self.at_work: list[dramatiq.MessageProxy] = []

        @dramatiq.actor(broker=broker, throws=LookupError, min_backoff=1, max_backoff=1)
        def job(name: str, *items: Any) -> Any:
            if self.outcome != "ok":
                raise ValueError("fails") if self.outcome == "fail" else LookupError("dies")
            leaf = self.nests.get(name)
            nested = [self.clutch(tree).nest() for tree in leaf.nests] if leaf else []
            return nested if leaf and leaf.yields and nested else name + "".join(f"({item!r})" for item in items)

        @dramatiq.actor(broker=broker)
        def heard(who: str, status: dict[str, Any]) -> None: ...

        self.job, self.heard = job, heard
        # The time of a server goes on, however slow the machine is.
        self.deadline = DEADLINE if isinstance(backend, StubBackend) else None
        self.late = set[str]()  # the ids of messages of an earlier pass
        self.keeps: bool = draw(st.booleans())
        self.run = self.clutch(tree, keep_results=self.keeps).run()
        self.common = Common()
        self.sim = SimRun(self.run.run_id, tree.name, tree, [], self.common)
        self.sim.settle()

    def clutch(self, tree: Tree, **more: Any) -> Clutch:
        heard: Any = self.heard
        options = ("on_failure", "on_death", "on_success", "on_failed", "on_finish")
        callbacks: dict[str, Any] = {option: heard.message(tree.name) for option in options}
        deadline = self.deadline if tree.deadline else None
        clutch = Clutch(broker=self.broker, name=tree.name, deadline=deadline, **callbacks, **more)
        for step in tree.steps:
            members = [self.member(member) for member in step.members]
            within = self.deadline if step.deadline else None
            terms: dict[str, Any] = {
                "allow_failures": True if step.tolerant else step.allowed or False,
                "enough": step.enough,
                "fail_fast": step.fail_fast,
                "deadline": within,
            }
            if step.mapped:
                clutch = clutch.map(members[0], limit=step.limit, **terms)
            elif step.many:
                clutch = clutch.parallel(members, limit=step.limit, **terms)
            else:
                clutch = clutch.then(*members, deadline=within)
        return clutch

    def member(self, what: Leaf | Tree) -> Any:
        if isinstance(what, Tree):
            return self.clutch(what)
        self.nests[what.name] = what
        return self.job.message(what.name)

    # Messages

    def collect(self) -> None:
        """Take what was enqueued: callbacks are noted in the order in which they were sent."""
        for queue in ("default", dq_name("default")):
            try:
                queued = self.broker.queues[queue]
            except (KeyError, QueueNotFound):
                continue
            while not queued.empty():
                message: Any = dramatiq.Message.decode(queued.get_nowait())
                queued.task_done()
                if message.actor_name == "heard":
                    who, status = message.args
                    letters = {
                        "on_failure": "F",
                        "on_death": "D",
                        "on_success": "S",
                        "on_failed": "X",
                        "on_finish": "E",
                    }
                    self.events[who] = self.events.get(who, "") + letters[status["event"]]
                else:
                    message.options.pop("eta", None)
                    tag = Tag.from_option(message.options["clutch"])
                    place = tag.run_id, tag.stage, tag.member
                    if message.message_id not in self.late:
                        seen = self.common.seen
                        seen[place] = max(tag.epoch, seen.get(place, 0))
                    self.waiting.append(message)

    def deliver(self, outcomes: list[Outcome], *, duplicates: bool) -> None:
        """One message is worked on, and perhaps comes again, or its job ends later."""
        message = self.waiting.pop(self.draw(st.integers(0, len(self.waiting) - 1)))
        if duplicates and self.draw(st.integers(0, 9)) == 9:
            self.waiting.append(message)
        tag = Tag.from_option(message.options["clutch"])
        is_late = message.message_id in self.late
        wanted = None if is_late else self.sim.find(tag.run_id, tag.stage, tag.member)
        stays_at_work = duplicates and self.draw(st.integers(0, 9)) == 9
        assert self.begin(message) == (wanted is not None)
        if wanted is not None and not stays_at_work:
            self.end(self.at_work[-1], outcomes)
        sweep_all(self)  # what is shared out to whoever comes, such as to cancel what is skipped
        self.sim.settle()
        self.collect()
        if not is_late:
            self.check_limit(tag)

    def end(self, proxy: dramatiq.MessageProxy, outcomes: list[Outcome]) -> None:
        """A job that is at work ends."""
        self.at_work[:] = [one for one in self.at_work if one is not proxy]  # copies are equal
        outcome, attempt = self.draw(st.sampled_from(outcomes)), proxy.options.get("retries", 0)
        self.outcome = "die" if outcome == "fail" and attempt >= MOST_FAILURES else outcome
        self.finish(proxy)
        tag = Tag.from_option(proxy.options["clutch"])
        is_late = proxy.message_id in self.late
        found = None if is_late else self.sim.find(tag.run_id, tag.stage, tag.member, at_work=True)
        if found is not None:
            run, member = found
            run.record(member, self.outcome, (tag.epoch, attempt))

    def check_limit(self, tag: Tag) -> None:
        """Of the stage that was just worked on, no more members are unsettled than its limit allows."""
        snapshot = self.backend.snapshot(tag.run_id)
        limit = StageLine.parse(snapshot["head"][f"s{tag.stage}"]).limit if snapshot else None
        head = snapshot["head"] if snapshot else {}
        if limit is not None and head["state"] == "running" and int(head["stage"]) == tag.stage:
            fresh = (one for one in self.waiting if one.message_id not in self.late)
            places = {Tag.from_option(one.options["clutch"]) for one in fresh}
            sent = {one.member for one in places if (one.run_id, one.stage) == (tag.run_id, tag.stage)}
            stands = self.backend.standing(tag.run_id, tag.stage, range(tag.of))
            assert sum(stands[member] in (None, "working", "attempted", "failing") for member in sent) <= limit

    def begin(self, message: dramatiq.Message[Any]) -> bool:
        """What Dramatiq's worker does before it calls the actor. Returns whether it is to be called."""
        proxy, broker = dramatiq.MessageProxy(message), self.broker
        try:
            broker.emit_before("process_message", proxy)
        except SkipMessage:
            broker.emit_after("skip_message", proxy)
            self.close(proxy)
            return False
        self.at_work.append(proxy)
        return True

    def finish(self, proxy: dramatiq.MessageProxy) -> None:
        """What it does then."""
        broker = self.broker
        begin(vars(proxy)[ATTRIBUTE])  # others may have begun since
        try:
            result = broker.get_actor(proxy.actor_name)(*proxy.args, **proxy.kwargs)
            broker.emit_after("process_message", proxy, result=result)
        except Exception as error:
            broker.emit_after("process_message", proxy, exception=error)
        self.close(proxy)

    def close(self, proxy: dramatiq.MessageProxy) -> None:
        how = "nack" if proxy.failed else "ack"
        self.broker.emit_before(how, proxy)
        self.broker.emit_after(how, proxy)

    # What must be equal

    def check(self) -> None:
        named = {name: events for name, events in self.common.events.items() if not name.startswith("in ")}
        assert self.events == named
        status = self.run.status()
        failing = any(member.view in ("failing", "dead") for member in self.sim.members)
        assert status.state == ("failing" if self.sim.state == "running" and failing else self.sim.state)
        if self.sim.state == "succeeded":
            assert self.run.get_result() == self.sim.result
        else:
            views = [member.view for member in self.sim.members]
            stage = status.stages[self.sim.stage]
            assert (stage.succeeded, stage.failing, stage.dead) == tuple(
                views.count(view) for view in ("ok", "failing", "dead")
            )


class Still(RedisBackend):
    """A store on a server for which the time stands still; but not for the server, which lets keys expire."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client=client)
        self.at = int(time.time() * 1000)

    def now(self) -> int:
        return self.at


def backend_of(store: str, client: redis.Redis) -> ClutchBackend:
    """The time stands still, so that an example does the same each time, however slow the machine is: a sweeper looks
    at runs in the order in which they are due."""
    return Still(client) if store == "redis" else StubBackend(clock=Clock(at=int(time.time() * 1000)))


@pytest.mark.parametrize(
    ("store", "examples"),
    [
        pytest.param("stub", 6, id="stub-short"),
        # In parts, so that several processes can share them; each begins at random.
        *(pytest.param("redis", 25, id=f"redis-long-{part}", marks=pytest.mark.search) for part in (1,)),
        *(pytest.param("stub", 30, id=f"stub-long-{part}", marks=pytest.mark.search) for part in (1, 2)),
    ],
)
@pytest.mark.timeout(400)  # a find is worth the time that it takes to shrink
def test_random_trees_do_what_the_interpreter_does(
    store: str, examples: int, server: Server, redis_client: redis.Redis
) -> None:
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
    @given(TREES, st.data())
    def trees(tree: Tree, data: st.DataObject) -> None:
        play(backend_of(store, redis_client), tree, data)

    trees()


@pytest.mark.parametrize("store", ["redis", "stub"])
def test_what_began_to_fail_while_its_parent_was_cancelled_is_heard_of_after_a_retry(
    store: str, redis_client: redis.Redis
) -> None:
    child = Tree("child", (Step((Leaf("job"),)),))
    tree = Tree("parent", (Step((Leaf("other"), child), many=True),))
    # First the share, and whether results are kept; then for each delivery, which message it is, whether it comes again
    # (9), whether its job stays at work (9), how that ends.
    script = iter([1_000, False, 1, 9, 0, "die", 1, 0, 0, "fail", 1, 0, 0, "fail", 0, 0, 0, "ok"])
    world = World(backend_of(store, redis_client), tree, lambda _: next(script))
    world.collect()
    for verb in (None, "cancel", None, None, "retry", None):
        if verb is None:
            world.deliver(["ok", "fail", "die"], duplicates=True)
        else:
            change(world, verb)
        world.check()
    assert world.events == {"child": "FDXEF", "parent": "DEF"}


def play(backend: Any, tree: Tree, data: st.DataObject) -> None:
    world = World(backend, tree, data.draw)
    world.collect()
    world.check()
    for _ in range(60):
        if not world.waiting and not world.at_work:
            break
        verb = data.draw(st.sampled_from(["deliver"] * 12 + ["end", "retry", "cancel", "rewind", "wait"]))
        if verb == "deliver" and world.waiting:
            world.deliver(["ok", "ok", "ok", "fail", "die"], duplicates=True)
        elif verb != "deliver":
            change(world, verb)
        world.check()
    while world.at_work:
        change(world, "end")
        world.check()
    if world.sim.state == "succeeded":
        change(world, "rewind")
        world.check()
    for _ in range(8):  # a retry brings the dead to work, a tree of them level by level
        while world.waiting:
            world.deliver(["ok"], duplicates=False)
        world.check()
        if world.sim.state == "succeeded":
            break
        change(world, "retry")
    assert world.run.status().state == "succeeded"


def change(world: World, verb: str) -> None:
    if verb == "cancel":
        Run.cancel(world.run)
        world.sim.cancel()
    elif verb == "rewind":
        rewind(world)
    elif verb == "wait":
        wait(world)
    elif verb == "end":
        if world.at_work:
            world.end(
                world.at_work[world.draw(st.integers(0, len(world.at_work) - 1))], ["ok", "ok", "ok", "fail", "die"]
            )
    else:
        Run.retry(world.run)
        world.sim.retry()
    sweep_all(world)
    world.sim.settle()
    world.collect()


def rewind(world: World) -> None:
    """Do stages again, if the run is at rest and keeps its results."""
    if not world.keeps or world.sim.state not in ("succeeded", "failed", "cancelled") or not world.tree.steps:
        return
    nested = [run for run in world.sim.all() if run is not world.sim and run.state == "succeeded"]
    if any(one.state != "succeeded" for run in nested for one in run.all()):
        return  # nothing is left of those that leads to what could be done without in them, and stays until it expires
    stage = world.draw(st.integers(0, min(world.sim.stage, len(world.tree.steps) - 1)))
    world.late |= {message.message_id for message in world.waiting}
    world.late |= {proxy.message_id for proxy in world.at_work}
    assert Run.retry(world.run, from_stage=stage)
    world.sim.rewind(stage)


def wait(world: World) -> None:
    """Let all deadlines pass that have begun. The sweeper looks at runs in the order of their ids."""
    if world.deadline is None or world.share == 1:
        return  # shares of cancels are for anybody, and it isn't said whether nested runs' own deadlines come first
    world.backend.clock.advance(2 * DEADLINE)
    world.common.now += 1
    for run in sorted(world.sim.all(), key=lambda run: run.run_id):
        run.expire()
        world.sim.settle()


def sweep_all(world: World) -> None:
    """Do what is shared out to whoever comes, level by level."""
    while sweep(engine_of(world.broker)).looked_at:
        pass
