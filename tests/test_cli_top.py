"""The page `top` of the command, driven by its keys."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker
from textual.pilot import Pilot
from textual.widgets import Static

from dramatiq_clutch import Clutch, Run, RunPage, StateUnavailable, runs
from dramatiq_clutch.cli import top
from dramatiq_clutch.cli.top import Looking, Top
from tests.conftest import running_worker
from tests.support.awaiting import PATIENCE, wait_until
from tests.support.jobs import Jobs, state_is
from tests.test_cli import DANGEROUS, HOSTILE

#: It starts no process, but each test takes more than a second.
pytestmark = pytest.mark.process

NO_FILTERS: dict[str, Any] = {"state": None, "name": None, "tag": None, "since": None}

Play = Callable[[Pilot[None]], Awaitable[None]]


def played(broker: dramatiq.Broker, play: Play, **filters: Any) -> None:
    async def run() -> None:
        app = Top(broker, 0.1, {**NO_FILTERS, **filters})
        async with app.run_test(size=(100, 30)) as pilot:
            await play(pilot)

    asyncio.run(run())


def text_of(pilot: Pilot[None]) -> str:
    """All that the screen shows, or would show if it were larger."""
    screen = pilot.app.screen
    parts = [str(found.render()) for found in screen.query(Static)]
    if isinstance(screen, Looking):
        table = screen.table
        parts += ["  ".join(str(cell) for cell in table.get_row_at(row)) for row in range(table.row_count)]
    return "\n".join(parts)


async def sees(pilot: Pilot[None], text: str, *, none: bool = False) -> None:
    """Wait until something is shown, or none of it."""
    for _ in range(int(PATIENCE / 0.02)):
        await pilot.pause(0.02)
        if (text in text_of(pilot)) is not none:
            return
    raise AssertionError(f"{text!r} in {text_of(pilot)!r}")


@pytest.fixture
def jobs(stub_broker: StubBroker) -> Jobs:
    return Jobs(stub_broker)


def test_runs_at_work_are_listed_and_cancelled_after_a_question(jobs: Jobs) -> None:
    run = Clutch(name="mine").then(jobs.job.message("a")).run(run_id="mine-1")

    async def play(pilot: Pilot[None]) -> None:
        await sees(pilot, "mine-1  running")
        await pilot.press("c")
        await sees(pilot, "Cancel run mine-1? [y/N]")
        await pilot.press("n")
        await sees(pilot, "Cancel run mine-1?", none=True)  # or the next question is taken for there while this one is
        assert run.status().state == "running"
        await pilot.press("c")
        await sees(pilot, "Cancel run mine-1?")
        await pilot.press("y")
        await sees(pilot, "cancel: done")
        await sees(pilot, "at work: 0")
        for _ in range(3):
            await pilot.press("f")
        await sees(pilot, "mine-1  cancelled")
        await pilot.press("r", "y")
        await sees(pilot, "retry: done")
        assert run.status().state == "running"

    played(jobs.broker, play)


def test_a_look_at_the_same_moment_does_not_undo_what_a_key_has_begun(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Clutch().then(jobs.job.message("a")).run(run_id="mine-1")
    begin = Looking.run_worker

    def begin_and_look(self: Looking, work: Callable[[], None], **options: Any) -> Any:
        begun = begin(self, work, **options)
        if work != self._look:
            self.look_soon()
        return begun

    monkeypatch.setattr(Looking, "run_worker", begin_and_look)

    async def play(pilot: Pilot[None]) -> None:
        await sees(pilot, "mine-1  running")
        await pilot.press("c")
        await sees(pilot, "Cancel run mine-1? [y/N]")
        await pilot.press("y")
        await sees(pilot, "cancel: done")
        assert run.status().state == "cancelled"

    played(jobs.broker, play)


def test_a_run_and_the_runs_nested_in_it_are_gone_into(jobs: Jobs) -> None:
    inner = Clutch(name="inner").then(jobs.job.message("a"), name="innermost")
    Clutch(name="outer").parallel([inner], name="stage").run(run_id="outer-1")

    async def play(pilot: Pilot[None]) -> None:
        await sees(pilot, "outer-1")
        await pilot.press("enter")
        await sees(pilot, "It waits for stage 0 ('stage', 1 of 1)")
        await sees(pilot, "0.0  working")
        await pilot.press("enter")
        await sees(pilot, "It waits for stage 0 ('innermost', 1 of 1)")
        await pilot.press("escape", "escape")
        await sees(pilot, "at work: 1")
        await pilot.press("q")

    played(jobs.broker, play)


def test_a_run_with_timings_has_columns_for_them(jobs: Jobs) -> None:
    jobs.script["b"] = ["wait"]
    Clutch(timings=True).then(jobs.job.message("b")).run(run_id="timed-1")
    Clutch().then(jobs.job.message("a")).run(run_id="plain-1", delay=10**7)

    async def play(pilot: Pilot[None]) -> None:
        def heads() -> str:
            screen = pilot.app.screen
            assert isinstance(screen, Looking)
            return " ".join(str(column.label) for column in screen.table.columns.values())

        await sees(pilot, "plain-1")
        await pilot.press("enter")
        await sees(pilot, "0.0  sent")
        assert "WORKER" not in heads()
        await pilot.press("escape", "down", "enter")
        await sees(pilot, f":{os.getpid()}")
        assert "TRIED BEGAN TOOK WORKER CALLED" in heads()

    with running_worker(jobs.broker):
        wait_until("the job to have begun", lambda: Run("timed-1").members().members[0].began)
        played(jobs.broker, play)
        jobs.gates["b"].set()


def test_a_run_that_turns_between_two_looks_is_listed_once(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    Clutch().then(jobs.job.message("a")).run(run_id="turning")

    def found(*, state: Any, **more: Any) -> RunPage:
        running = runs(state="running", **more)
        return RunPage(tuple(replace(run, state=state) for run in running))  # also as if it were failing by then

    async def play(pilot: Pilot[None]) -> None:
        await sees(pilot, "at work: 1")
        assert "turning  failing" in text_of(pilot)

    monkeypatch.setattr(top, "runs", found)
    played(jobs.broker, play)


def test_it_goes_on_where_a_run_has_gone(jobs: Jobs) -> None:
    run = Clutch().then(jobs.job.message("a")).run(run_id="gone-1")

    async def play(pilot: Pilot[None]) -> None:
        await sees(pilot, "gone-1")
        await pilot.press("enter")
        await sees(pilot, "It waits")
        run.cancel()
        run.delete()
        await sees(pilot, "there is no run 'gone-1'")
        await pilot.press("c", "y")
        await sees(pilot, "it never was, or has expired")

    played(jobs.broker, play)


def test_a_filter_leaves_out_the_others(jobs: Jobs) -> None:
    for name in ("one", "two"):
        Clutch(name=name).then(jobs.job.message("a")).run(run_id=name)

    async def play(pilot: Pilot[None]) -> None:
        await sees(pilot, "at work: 1")
        assert "two  running" in text_of(pilot)
        assert "one  running" not in text_of(pilot)

    played(jobs.broker, play, name="two")


def test_nothing_of_a_jobs_gets_at_the_terminal(stub_broker: StubBroker) -> None:
    text = HOSTILE.replace("\ud800", "").replace("\x00", "")

    @dramatiq.actor(max_retries=0)
    def evil(argument: str) -> None:
        raise ValueError(argument)

    run = Clutch(name=text).then(evil.message(text)).run(run_id="enemy")
    with running_worker(stub_broker):
        state_is(run, "failed")

    async def play(pilot: Pilot[None]) -> None:
        await sees(pilot, "enemy")
        assert not DANGEROUS.search(text_of(pilot).replace("\n", ""))
        await pilot.press("enter")
        await sees(pilot, "0.0  dead")
        assert not DANGEROUS.search(text_of(pilot).replace("\n", ""))
        assert "[bold red]x[/]" in text_of(pilot)

    played(stub_broker, play, state="failed")


def test_a_store_that_goes_away_is_told_and_waited_for(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    Clutch().then(jobs.job.message("a")).run(run_id="there")

    def away(*_: Any) -> None:
        raise StateUnavailable("gone fishing")

    async def play(pilot: Pilot[None]) -> None:
        await sees(pilot, "there")
        with monkeypatch.context() as patch:
            patch.setattr(top, "count_runs", away)
            await sees(pilot, "gone fishing")
        await sees(pilot, "gone fishing", none=True)

    played(jobs.broker, play)
