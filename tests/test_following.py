"""`Run.follow()`: what a terminal, or a pipe, gets of a run's statuses."""

from __future__ import annotations

import dataclasses
import io
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker

from dramatiq_clutch import (
    Clutch,
    JobFailure,
    Run,
    RunNotFound,
    RunPage,
    RunStatus,
    RunSummary,
    StageStatus,
    StateUnavailable,
)
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.following import LEVELS, LOOKS, Lines, RichPicture, TqdmPicture, drawing_for, follow, tree
from dramatiq_clutch.lookout import LOOKOUTS
from dramatiq_clutch.terminal import plain, width_of
from dramatiq_clutch.waiting import waiter_of
from tests.conftest import running_worker
from tests.support.awaiting import PATIENCE, wait_until
from tests.support.jobs import Jobs

HOSTILE = "\x1b[2J\x1b]0;pwned\x07[red]m[/red][link=x]\r\n\x9b31m\u202e\ud800{desc}%s\x00"

HOWS = pytest.mark.parametrize("how", ["rich", "tqdm", "lines"])


class Terminal(io.StringIO):
    """A terminal of 80 columns, or a pipe."""

    def __init__(self, encoding: str = "utf-8", *, is_terminal: bool = True) -> None:
        super().__init__()
        self._encoding, self._is_terminal = encoding, is_terminal

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return self._is_terminal

    def write(self, text: str) -> int:
        text.encode(self._encoding)
        return super().write(text)


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("dramatiq_clutch.lookout.LOOK_AGAIN", 0.1)


def terminal(how: str, monkeypatch: pytest.MonkeyPatch, encoding: str = "utf-8") -> Terminal:
    """A terminal in which it is drawn so, because what would be better isn't installed."""
    for name in {"rich": (), "tqdm": ("rich",), "lines": ("rich", "tqdm")}[how]:
        for known in [known for known in sys.modules if known == name or known.startswith(f"{name}.")]:
            monkeypatch.delitem(sys.modules, known)
        monkeypatch.setitem(sys.modules, name, None)
    return Terminal(encoding)


def failure(number: int = 1, text: str = "disk full", **more: Any) -> JobFailure:
    return JobFailure(1, number, "resize", "id", "OSError", text, 2, failed_at=number, **more)


def status(state: Any = "running", *stages: StageStatus, failures: Any = (), **more: Any) -> RunStatus:
    given = {"run_id": "nightly", "name": None, "error": None, "created": 0, "updated": 0, **more}
    return RunStatus(state=state, stages=stages, failures=tuple(failures), **given)


def statuses(name: str = "load") -> Iterator[RunStatus]:
    done, last = StageStatus("succeeded", 1, 1), StageStatus("waiting", None, name="report")
    for succeeded in range(0, 500, 100):
        yield status("running", done, StageStatus("running", 500, succeeded, name=name), last)
    failing = StageStatus("failing", 500, 450, 1, 2, name=name)
    failures = [failure(1), failure(2, allowed=True)]
    yield status("failing", done, failing, last, failures=failures, progress=0.6)
    yield status("failed", done, failing, last, failures=[*failures, failure(3, "gone")], progress=0.6)


def test_a_pipe_gets_a_line_for_each_change_and_for_each_failure() -> None:
    pipe = Terminal(is_terminal=False)
    last = follow([*statuses(), *list(statuses())[-1:]], file=pipe)
    assert last is not None
    assert last.state == "failed"
    assert pipe.getvalue().splitlines() == [
        *(
            f"  0%  running: It waits for stage 1 ('load', 2 of 3): {count} of 500 members not done."
            for count in range(500, 0, -100)
        ),
        "member 1.1, resize(), attempt 2: OSError: disk full",
        "member 1.2, resize(), attempt 2: OSError: disk full (allowed)",
        " 60%  failing: It waits for stage 1 ('load', 2 of 3): 48 of 500 members not done and 2 dead, 1 of them to be "
        "attempted again.",
        "member 1.3, resize(), attempt 2: OSError: gone",
        " 60%  failed: It has failed in stage 1 ('load', 2 of 3): 48 of 500 members not done and 2 dead. It waits "
        "for a retry.",
        "nightly: failed",
    ]


def test_the_best_is_taken_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for how, kind in (("rich", RichPicture), ("tqdm", TqdmPicture), ("lines", Lines)):
        with monkeypatch.context() as patch, ExitStack() as stack:
            assert type(drawing_for(terminal(how, patch), stack)) is kind
    with ExitStack() as stack:
        assert type(drawing_for(Terminal(is_terminal=False), stack)) is Lines
        assert type(drawing_for(Terminal("cp1252"), stack)) is Lines
        monkeypatch.setenv("TERM", "dumb")
        assert type(drawing_for(Terminal(), stack)) is Lines


@HOWS
def test_there_is_a_bar_for_each_stage_and_each_failure_is_told_once(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(how, monkeypatch)
    follow(statuses(), file=screen)
    shown = screen.getvalue()
    texts = ["  60%", "! 1  load    ━━", "450/500 succeeded, 1 failing, 2 dead", "  2  report  ──", "48 of 500 members"]
    for text in texts if how != "lines" else texts[-1:]:
        assert text in plain(shown), text
    assert shown.count("disk full") == 2
    assert shown.count("gone") == 1
    assert shown.rstrip().endswith("nightly: failed")


@HOWS
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_nothing_of_the_applications_reaches_the_terminal_unescaped(
    how: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = terminal(how, monkeypatch, encoding)
    wrong = JobFailure(0, 0, HOSTILE, HOSTILE, HOSTILE, HOSTILE, 2, HOSTILE, 7)
    stages = StageStatus("failing", 2, 1, 1, name=HOSTILE), StageStatus("waiting", None, name="☃" * 50)
    follow([status("failed", *stages, failures=[wrong], error=wrong, run_id=HOSTILE)], file=screen)
    shown = screen.getvalue()
    for forged in ("\x1b[2J", "\x1b]", "\x07", "\x9b", "\u202e", "\ud800", "\x00"):
        assert forged not in shown
    flat = "".join(part.strip() for part in shown.splitlines())
    assert "[red]m[/red]" in flat
    assert "{desc}%s" in flat
    assert "\\x1b[2J" in flat


@HOWS
def test_it_fits_80_columns(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(how, monkeypatch)
    follow([*statuses("漢" * 60), status("running", failures=[failure(9, "漢 " * 200)])][-3:-1], file=screen)
    shown = screen.getvalue()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert max(width_of(line) for line in re.split(r"[\r\n]", plain)) <= 80
    assert "漢" in plain


def test_of_many_stages_those_around_the_present_one_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = [StageStatus("succeeded", 1, 1)] * 40 + [StageStatus("running", 3, 1)] + [StageStatus("waiting", 1)] * 20
    screen = Terminal()
    follow([status("running", *stages)], file=screen)
    shown = re.findall(r"^. (\d+)  [━─]", plain(screen.getvalue()), re.MULTILINE)
    assert set(shown) == {str(number) for number in range(34, 46)}


@HOWS
def test_a_run_without_stages_or_with_empty_ones_is_drawn(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(how, monkeypatch)
    assert follow([], file=screen) is None
    follow([status("succeeded"), status("succeeded", StageStatus("succeeded", 0), progress=1.0)], file=screen)
    assert screen.getvalue().rstrip().endswith("nightly: succeeded")


class Tree:
    """Two runs nested in each run of any level, and one more than is shown; each look for them is counted."""

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self, run_id: str) -> RunPage:
        self.looks += 1
        return RunPage(tuple(summary(f"{run_id}~1.{number}") for number in range(2)), cursor="more")


def summary(run_id: str, **more: Any) -> RunSummary:
    given: dict[str, Any] = {"name": "inner", "state": "running", "progress": 0.5, "stage": 0, "stages": 2, **more}
    fields = {field.name: None for field in dataclasses.fields(RunSummary)}
    return RunSummary(**{**fields, "run_id": run_id, "tags": (), **given})


@HOWS
def test_nested_runs_stand_below_their_stage_and_their_own_below_them(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = terminal(how, monkeypatch)
    follow(statuses(), children=Tree(), file=screen)
    shown = plain(screen.getvalue())
    for line in ("    ~1.0  running  50%  stage 1 of 2  inner", "        ~1.1  running  50%"):
        assert (line in shown) is (how != "lines")


def test_a_wide_tree_costs_no_more_than_a_few_looks() -> None:
    children = Tree()
    stages = StageStatus("succeeded", 1, 1), StageStatus("running", 2)
    lines = [plain(line) for line in tree(status("running", *stages), children)]
    assert children.looks == 1 + 2 + 4 + 8
    assert lines[-1] == "    there are more nested runs"
    wide = RunPage(tuple(summary(f"nightly~1.{number}") for number in range(100)))
    looks: list[str] = []

    def many(run_id: str) -> RunPage:
        looks.append(run_id)
        return wide if run_id == "nightly" else RunPage(())

    missing = "    not all of these were looked into for runs nested in them"
    lines = [plain(line) for line in tree(status("running", *stages), many)]
    assert [len(lines), lines[-1]] == [103, missing]
    assert len(looks) == LOOKS


def test_it_is_told_that_nested_runs_are_left_out_at_any_level() -> None:
    def tell(levels: int, cursor: str | None = None) -> str:
        def children(run_id: str) -> RunPage:
            level = run_id.count("~")
            return RunPage((summary(f"{run_id}~0.0"),) if level < levels else (), cursor if level == 1 else None)

        return plain(list(tree(status("running", StageStatus("running", 1)), children))[-1])

    assert "looked into" not in tell(LEVELS - 1)
    assert "looked into" in tell(LEVELS)  # so there may be others below
    assert "looked into" in tell(2, cursor="more")


@pytest.mark.parametrize("error", [RunNotFound("gone"), StateUnavailable("away")])
def test_while_nested_runs_cannot_be_found_the_stages_are_drawn(error: Exception) -> None:
    def children(run_id: str) -> RunPage:
        raise error

    screen = Terminal()
    follow(list(statuses())[:1], children=children, file=screen)
    assert "> 1  load" in plain(screen.getvalue())


# A real run


def test_a_run_is_followed_to_its_end(broker: dramatiq.Broker, jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    jobs.script["b"] = ["die"]
    run = Clutch().then(jobs.job.message("a")).then(jobs.job.message("b"), name="second").run()
    with running_worker(broker):
        last = run.follow()
    assert last == run.status()
    assert last.state == "failed"
    told = capsys.readouterr()
    assert told.out == ""
    assert "member 1.0, job('b'): LookupError: b dies" in told.err
    assert "\x1b" not in told.err


def test_a_run_that_is_not_there_cannot_be_followed(stub_broker: StubBroker) -> None:
    with pytest.raises(RunNotFound):
        Run("nobody").follow()


def test_an_interrupt_ends_the_drawing_and_leaves_the_run_alone(
    stub_broker: StubBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, screen = Jobs(stub_broker), Terminal()
    run = Clutch().then(jobs.job.message("a")).run()

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dramatiq_clutch.watching._wait", interrupted)
        with pytest.raises(KeyboardInterrupt) as caught:
            run.follow(file=screen)
    assert run.status().state == "running"
    assert screen.getvalue().count("\x1b[?25l") == screen.getvalue().count("\x1b[?25h")  # the cursor is shown again
    assert caught.value is not None
    assert not LOOKOUTS.of(waiter_of(engine_of(stub_broker).backend))


def test_a_thread_may_follow(stub_broker: StubBroker) -> None:
    jobs, pipe = Jobs(stub_broker), Terminal(is_terminal=False)
    run = Clutch().then(jobs.job.message("a")).run()
    with ThreadPoolExecutor() as pool:
        followed = pool.submit(run.follow, file=pipe)
        wait_until("it is drawn", lambda: "1 of 1 member not done" in pipe.getvalue())
        run.cancel()
        assert followed.result(PATIENCE).state == "cancelled"
