"""Which callbacks a run has, in which queue, and what they are given: the options of a clutch, and the middleware's."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, cast

import dramatiq
import pytest
from dramatiq import group
from dramatiq.errors import ActorNotFound
from dramatiq.middleware import CurrentMessage

from dramatiq_clutch import Clutch, ClutchMiddleware, Run, StubBackend, with_result
from dramatiq_clutch.engine import engine_of
from tests.conftest import running_worker
from tests.support.application import Application
from tests.support.awaiting import wait_until
from tests.support.jobs import Jobs, state_is

Make = Callable[..., AbstractContextManager[Application]]


class Notes:
    """What the actor `note` was called with, by whom; and its queues."""

    def __init__(self, broker: dramatiq.Broker) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.queues: dict[str, str] = {}
        if not any(isinstance(known, CurrentMessage) for known in broker.middleware):
            broker.add_middleware(CurrentMessage())

        @dramatiq.actor(broker=broker)
        def note(who: Any, *args: Any) -> None:  # `who` is the status, if it is a callback without arguments
            message: Any = CurrentMessage.get_current_message()
            self.queues[str(who)] = message.queue_name
            self.calls.append((who, *args))

        self.note: Any = note

    def of(self, who: str) -> list[Any]:
        """What was given to `who`; of a status only the event and the state."""
        given = [args for name, *args in self.calls if name == who]
        return [[brief(one) for one in args] for args in given]


def brief(given: Any) -> Any:
    return (given["event"], given["state"]) if isinstance(given, dict) and "event" in given else given


@pytest.fixture
def notes(broker: dramatiq.Broker) -> Notes:
    return Notes(broker)


def is_quiet(app: Application, *runs: Run) -> None:
    """Wait until these runs owe nothing, so that whatever was to be sent was sent. None may have an id of its own: such
    a run may stay in the index for a while."""
    wait_until("nothing to be owed", lambda: not app.index().keys() & {run.run_id for run in runs})


# What the middleware sets


def test_the_middlewares_callbacks_are_those_of_runs_whose_clutches_set_none(make: Make) -> None:
    with make(on_failed="note", on_success=["note", "note"]) as app:
        notes, jobs = Notes(app.broker), Jobs(app.broker)  # these actors are declared after the middleware was made
        jobs.script["bad"] = ["die", "die", "die"]
        bad = jobs.job.message("bad")
        with running_worker(app.broker):
            state_is(Clutch().then(bad).run(), "failed")
            state_is(Clutch(on_failed=partial(notes.note, "own")).then(bad).run(), "failed")
            silent = Clutch(on_failed=(), on_success=[]).then(bad).run()
            state_is(silent, "failed")
            state_is(Clutch(on_failed=None).then(jobs.job.message("good")).run(), "succeeded")
            wait_until("all to be called", lambda: len(notes.calls) >= 4)
            assert app.engine.reader.spec(silent.run_id, generation(app, silent)).callbacks == {}
    told = [(status[0]["event"] if status else who["event"], len(status)) for who, *status in notes.calls]
    assert sorted(told) == [("on_failed", 0), ("on_failed", 1), ("on_success", 0), ("on_success", 0)]


def generation(app: Application, run: Run) -> str:
    return app.engine.backend.generation(run.run_id) or ""


def test_the_middlewares_callbacks_tell_of_the_outermost_run_only(make: Make) -> None:
    with make(on_finish="note") as app:
        notes, jobs = Notes(app.broker), Jobs(app.broker)

        @dramatiq.actor
        def nests() -> Run:
            return Clutch(on_success=partial(notes.note, "nested")).then(jobs.job.message("b")).nest()

        @dramatiq.actor
        def starts() -> str:
            return Clutch().then(jobs.job.message("c")).run().run_id

        with running_worker(app.broker):
            run = Clutch().parallel(Clutch().then(jobs.job.message("a")), nests, starts).run()
            state_is(run, "succeeded")
            *_, started = run.get_result()
            state_is(Run(started), "succeeded")
            wait_until("all to be called", lambda: len(notes.calls) >= 3)
            is_quiet(app, run, Run(started))
    names = sorted(who if isinstance(who, str) else who["run_id"] for who, *_ in notes.calls)
    assert names == sorted(["nested", run.run_id, started])


def test_a_setting_of_the_middleware_makes_no_other_clutch_of_one_under_a_claimed_id(make: Make) -> None:
    """Say, a release that sets a callback is rolled out while another one still runs."""
    with make() as app:
        notes, jobs = Notes(app.broker), Jobs(app.broker)
        app.broker.declare_queue("alerts")
        clutch = Clutch(on_success=partial(notes.note, "own")).then(jobs.job.message("a"))
        first = clutch.run(run_id="one")
        settings: Any = {"on_failed": "note", "callback_queue": "alerts", "application": app.engine.application}
        later = ClutchMiddleware(app.engine.backend, **settings)
        place = app.broker.middleware.index(app.middleware)
        app.broker.middleware[place] = later
        assert engine_of(app.broker).defaults.queue == "alerts"
        assert clutch.run(run_id="one") == first


def test_a_callback_of_the_middleware_that_nobody_has_declared_is_an_error_that_names_the_option(make: Make) -> None:
    with make(on_death=["nobody"]) as app:
        jobs = Jobs(app.broker)
        Clutch(on_death=()).then(jobs.job.message("a")).run()
        with pytest.raises(
            ActorNotFound, match=r"^ClutchMiddleware\(on_death=\.\.\.\) names the actor 'nobody', which"
        ):
            Clutch().then(jobs.job.message("a")).run()


def test_what_is_no_callback_is_refused_where_the_middleware_is_made() -> None:
    with pytest.raises(TypeError, match=r"^ClutchMiddleware\(on_failed=\.\.\.\) takes an actor, .* not 3$"):
        ClutchMiddleware(on_failed=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^ClutchMiddleware\(on_finish=\.\.\.\) takes no with_result"):
        ClutchMiddleware(on_finish=with_result("note"))  # type: ignore[arg-type]


def test_the_middlewares_callbacks_are_shown() -> None:
    shown = repr(ClutchMiddleware(StubBackend(), on_failed="alert", on_success=["a", with_result("b")]))
    assert shown == "ClutchMiddleware(StubBackend, on_success=[a, with_result(b)], on_failed=alert)"
    assert repr(ClutchMiddleware(on_death=(), callback_queue="alerts")) == "ClutchMiddleware(callback_queue='alerts')"
    assert repr(Clutch(on_failed=[], callback_queue="q")) == "Clutch(callback_queue='q', on_failed=[], no stages)"


# Queues


def test_callbacks_have_a_queue_of_their_own(broker: dramatiq.Broker, jobs: Jobs, notes: Notes) -> None:
    for queue in ("work", "alerts", "other"):
        broker.declare_queue(queue)

    def tells(who: str, **options: Any) -> Clutch:
        return Clutch(on_finish=partial(notes.note, who), **options).then(notes.note.message(f"job of {who}"))

    completed = group([notes.note.message("in a group")])
    completed.completion_callbacks.append(notes.note.message("completed").asdict())
    with running_worker(broker):
        root = tells("root", queue="work", callback_queue="alerts")
        root = root.parallel(tells("child"), tells("own", callback_queue="other"), tells("both", queue="other"))
        root.then(completed).run()
        tells("alone", callback_queue="alerts").run()
        tells("plain", queue="work").run()
        wait_until("all", lambda: len(notes.queues) >= 14)
    assert notes.queues == {
        "root": "alerts",
        "child": "alerts",
        "own": "other",
        "both": "alerts",
        "alone": "alerts",
        "plain": "work",
        "job of root": "work",
        "job of child": "work",
        "job of own": "work",
        "job of both": "other",
        "job of alone": "default",
        "job of plain": "work",
        "in a group": "work",
        "completed": "work",
    }


def test_the_middleware_sets_the_queue_of_callbacks(make: Make) -> None:
    with make(callback_queue="alerts", on_success=["tell"]) as app:
        notes = Notes(app.broker)

        @dramatiq.actor
        def tell(status: dict[str, Any]) -> None:
            message: Any = CurrentMessage.get_current_message()
            notes.queues["default callback"] = message.queue_name

        for queue in ("work", "alerts", "other"):
            app.broker.declare_queue(queue)

        def tells(who: str, **options: Any) -> Clutch:
            return Clutch(on_finish=partial(notes.note, who), **options).then(notes.note.message("job"))

        with running_worker(app.broker):
            tells("root", queue="work").then(tells("child")).run()
            tells("own", callback_queue="other", on_success=()).run()
            wait_until("all", lambda: len(notes.queues) >= 5)
    assert notes.queues == {
        "root": "alerts",
        "child": "work",
        "own": "other",
        "default callback": "alerts",
        "job": notes.queues["job"],
    }


@pytest.mark.parametrize("who", ["clutch", "nested", "middleware"])
def test_a_queue_of_callbacks_that_nobody_has_declared_is_refused_at_run(make: Make, who: str) -> None:
    with make(callback_queue="nowhere" if who == "middleware" else None) as app:
        jobs = Jobs(app.broker)
        clutch = Clutch(callback_queue="nowhere" if who != "middleware" else None).then(jobs.job.message("a"))
        with pytest.raises(ValueError, match="declared the queue 'nowhere'"):
            (Clutch().then(clutch) if who == "nested" else clutch).run()


# What callbacks are given


@pytest.mark.parametrize("tolerant", [False, True])
def test_an_alarm_says_whether_its_stage_allows_the_failure(
    broker: dramatiq.Broker, jobs: Jobs, *, tolerant: bool
) -> None:
    jobs.script["bad"], jobs.script["worse"] = ["fail", "die"], ["die"]
    members = [jobs.job.message("bad"), jobs.job.message("good")]
    clutch = (
        Clutch(**jobs.callbacks("root")).parallel(*members, allow_failures=tolerant).then(jobs.job.message("worse"))
    )
    with running_worker(broker, threads=1):
        state_is(clutch.run(), "failed")
        jobs.wait_fired("root", "F D F D X E" if tolerant else "F D X E")
    allowed = [(status["event"], status["stage"], status.get("allowed")) for status in jobs.statuses]
    alarms = [("on_failure", 0, tolerant), ("on_death", 0, tolerant)]
    alarms += [("on_failure", 1, False), ("on_death", 1, False)] if tolerant else []
    assert [one for one in allowed if one[0] in ("on_failure", "on_death")] == alarms
    assert all("allowed" not in status for status in jobs.statuses if status["event"] in ("on_failed", "on_finish"))


@pytest.mark.parametrize(
    ("terms", "allowed"),
    [({"allow_failures": 1}, [True, False]), ({"allow_failures": 0.7}, [True, True]), ({"enough": 2}, [True, False])],
    ids=["a number", "a share", "enough"],
)
def test_an_alarm_says_whether_so_many_dead_are_allowed(
    broker: dramatiq.Broker, jobs: Jobs, terms: dict[str, Any], allowed: list[bool]
) -> None:
    """on_death comes with the first of two dead, and on_failure when the third member has had its attempt, too."""
    jobs.script["x"], jobs.script["y"], jobs.script["z"] = ["die"], ["die"], ["fail"]
    alarm = jobs.heard.message("root")
    with running_worker(broker, threads=1):
        run = (
            Clutch(on_death=alarm, on_failure=alarm, on_finish=jobs.heard.message("end"))
            .parallel([jobs.job.message(name) for name in "xyz"], **terms)
            .run()
        )
        jobs.wait_fired("end", "E")
        wait_until("both alarms", lambda: len(jobs.statuses) >= 3)
    told = {one["event"]: one["allowed"] for one in jobs.statuses if one["event"] != "on_finish"}  # in either order
    assert [told["on_death"], told["on_failure"]] == allowed
    assert run.status().state == ("succeeded" if all(allowed) else "failed")


def test_a_run_that_fails_of_an_error_of_its_own_is_not_allowed_to(broker: dramatiq.Broker, jobs: Jobs) -> None:
    clutch = Clutch(on_failure=jobs.heard.message("root")).then(jobs.job.message("no list"))
    with running_worker(broker):
        state_is(clutch.map(jobs.job, allow_failures=True).run(), "failed")
        jobs.wait_fired("root", "F")
    assert [(status["stage"], status["allowed"]) for status in jobs.statuses] == [(1, False)]


def test_a_callback_gets_the_result_before_the_status(broker: dramatiq.Broker, jobs: Jobs, notes: Notes) -> None:
    success = ("on_success", "succeeded")
    note = notes.note

    def tells(who: str) -> Clutch:
        return Clutch(on_success=[with_result(partial(note, who)), partial(note, f"{who}, without")])

    with running_worker(broker):
        tells("a value").then(jobs.job.message("a")).run()
        tells("a list").parallel(jobs.job.message(name) for name in "ab").run()
        tells("a list of one").parallel(jobs.job.message("a")).run()
        tells("nothing").run()
        tells("of allowed failures").parallel(jobs.job.message("a"), dies(jobs), allow_failures=True).run()
        Clutch().then(tells("nested").then(jobs.job.message("a"), jobs.job.message("b"))).run()
        pickle.loads(pickle.dumps(tells("pickled"))).then(jobs.job.message("p")).run()
        wait_until("all to be called", lambda: len(notes.calls) >= 14)
    results = {
        "a value": "a",
        "a list": ["a", "b"],
        "a list of one": ["a"],
        "nothing": None,
        "of allowed failures": ["a", None],
        "nested": "b",
        "pickled": "p",
    }
    assert {who: notes.of(who) for who in results} == {who: [[value, success]] for who, value in results.items()}
    assert {tuple(notes.of(f"{who}, without")[0]) for who in results} == {(success,)}


def dies(jobs: Jobs) -> Any:
    jobs.script["dies"] = ["die"]
    return jobs.job.message("dies")


def test_the_middlewares_callback_may_get_the_result_too(make: Make) -> None:
    with make(on_success=with_result("note")) as app:
        notes, jobs = Notes(app.broker), Jobs(app.broker)
        with running_worker(app.broker):
            run = Clutch().then(jobs.job.message("a")).run()
            wait_until("the call", lambda: notes.calls)
    ((result, status),) = notes.calls
    assert (result, status["run_id"]) == ("a", run.run_id)


def test_only_on_success_has_a_result(notes: Notes) -> None:
    for option in ("on_failure", "on_death", "on_failed", "on_finish"):
        with pytest.raises(ValueError, match=rf"^{option} takes no with_result\(\.\.\.\): there is a result only for"):
            Clutch(**cast(Any, {option: [notes.note, with_result(notes.note)]}))
    with pytest.raises(TypeError, match="on_success takes an actor"):
        Clutch(on_success=with_result(with_result(notes.note)))  # type: ignore[arg-type]


def test_a_callback_that_cant_take_what_it_would_get_is_refused(broker: dramatiq.Broker) -> None:
    @dramatiq.actor
    def alone(status: dict[str, Any]) -> None: ...

    @dramatiq.actor
    def both(result: Any, status: dict[str, Any]) -> None: ...

    Clutch(on_success=[alone, with_result(both)], on_failed=alone).run()
    text = r"alone\(<the run's result>, <the run's status, a dict>\): too many .* With with_result\(\) a callback gets"
    with pytest.raises(TypeError, match=rf"^on_success .*{text}"):
        Clutch(on_success=[alone, with_result(alone)])
    with pytest.raises(TypeError, match=rf"^on_success .*{text}"):
        Clutch(on_success=with_result("alone")).run()
    with pytest.raises(TypeError, match=r"^on_failed .* called as both\(<the run's status, a dict>\): missing"):
        Clutch(on_failed=[alone, both])
    with pytest.raises(TypeError, match=r"^on_failed .* called as both\(<the run's status, a dict>\): missing"):
        Clutch(on_failed=[alone, "both"]).run()
    with pytest.raises(TypeError, match="on_failed takes an actor"):
        Clutch(on_failed=[alone, None])  # type: ignore[list-item]
