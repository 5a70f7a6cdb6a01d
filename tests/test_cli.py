"""The command: what it says, how it ends, and that nothing of a job's gets at the terminal."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree as ET

import click
import dramatiq
import httpx
import pytest
import redis
from click.testing import CliRunner, Result
from dramatiq.brokers.stub import StubBroker
from starlette.responses import PlainTextResponse

from dramatiq_clutch import (
    BrokerUnavailable,
    CallbackStatus,
    Clutch,
    JobFailure,
    Member,
    Run,
    RunPage,
    RunStatus,
    StageStatus,
    StateUnavailable,
)
from dramatiq_clutch.cli import main
from dramatiq_clutch.cli.callbacks import callback_lines, callback_row
from dramatiq_clutch.cli.command import VERBS, command
from dramatiq_clutch.cli.completing import ids
from dramatiq_clutch.cli.looking import MEMBER_HEADS, member_row, member_table
from dramatiq_clutch.cli.showing import shown
from dramatiq_clutch.cli.target import Code
from dramatiq_clutch.cli.text import ago, lasting, table
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.following import MOST_NESTED
from dramatiq_clutch.terminal import at, bar, cut, safe, width_of
from tests.conftest import running_worker
from tests.support.awaiting import wait_until
from tests.support.jobs import Jobs, state_is
from tests.support.server import Server, free_port

PAGE = Path(__file__).parent.parent / "examples" / "command" / "README.md"

#: What an enemy puts wherever a job can put anything: it clears the screen, sets the title, rings, turns the direction
#: of writing, moves the cursor, and is markup.
HOSTILE = "\x1b[2J\x1b]0;owned\x07\x08\r\nline\u202eevil\u2066\u200b\x9b31m[bold red]x[/] {0} %s \ud800 \x00"

#: What must never reach a terminal.
DANGEROUS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

Call = Callable[..., Result]


@pytest.fixture
def call(stub_broker: StubBroker, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Calls the command, for which `-b myapp.tasks` is this test's broker."""
    for name in ("BROKER", "URL", "NAMESPACE", "APPLICATION"):
        monkeypatch.delenv(f"DRAMATIQ_CLUTCH_{name}", raising=False)
    monkeypatch.setattr("dramatiq_clutch.cli.target._imported", lambda *_: stub_broker)

    def call(*args: str, code: int = 0, **more: Any) -> Result:
        result = CliRunner().invoke(command, ["-b", "myapp.tasks", *args], prog_name="dramatiq-clutch", **more)
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return call


def answer(result: Result) -> Any:
    assert result.stdout.isascii()
    return json.loads(result.stdout)


def lines(result: Result) -> list[Any]:
    assert result.stdout.isascii()
    return [json.loads(line) for line in result.stdout.splitlines()]


# Texts


@pytest.mark.parametrize(
    "text", ["plain", "naïve", "日本語", "👍", 'quotes " and \\ backslashes', "[bold]markup[/bold]"]
)
def test_what_is_printable_is_shown_as_it_is(text: str) -> None:
    assert safe(text) == text


def test_what_a_terminal_would_obey_is_written_out() -> None:
    shown = safe(HOSTILE)
    assert not DANGEROUS.search(shown)
    assert "\n" not in shown
    assert r"\x1b[2J\x1b]0;owned\x07" in shown
    assert r"\u202eevil" in shown


def test_a_long_text_is_shortened() -> None:
    assert safe("x" * 5_000) == "x" * 999 + "…"


def test_a_text_is_as_wide_as_a_terminal_has_it() -> None:
    assert [width_of(text) for text in ("ab", "日本", "e\u0301")] == [2, 4, 1]
    assert cut("日本語", 5) == "日本…"
    assert cut("abc", 3) == "abc"


def test_a_table_is_as_wide_as_it_may_be() -> None:
    rows = [("1", "running", "x" * 100), ("22", "failed", "y")]
    narrow = [click.unstyle(line) for line in table(("RUN", "STATE", "NAME"), rows, states=1, most=40)]
    assert [len(line) for line in narrow] == [18, 40, 15]
    assert "x" * 100 in table(("RUN", "STATE", "NAME"), rows, most=None)[1]


def test_wide_columns_are_cut_off_before_the_last_one_is_lost() -> None:
    rows = [("1", "running", "a" * 60, "b" * 30, "c" * 100), ("2", "failed", "", "", "")]
    heads = ("RUN", "STATE", "ACTOR", "QUEUE", "NAME")
    wide, narrow = (table(heads, rows, states=1, most=most)[1] for most in (100, 40))
    cells = click.unstyle(wide).split()
    assert [len(cell) for cell in cells] == [1, 7, 24, 24, 34]
    assert [cell[-1] for cell in cells[2:]] == ["…"] * 3
    assert [len(cell) for cell in click.unstyle(narrow).split()] == [1, 7, 8, 8, 8]


def test_a_bar_shows_whatever_there_is_any_of() -> None:
    drawn = click.unstyle(bar([("succeeded", 1), ("dead", 1), ("failing", 1)], 10_000, 16))
    assert len(drawn) == 16
    assert len(set(drawn)) == 2
    assert len(click.unstyle(bar([("succeeded", 10_000), ("dead", 1)], 10_001, 16))) == 16
    assert click.unstyle(bar([], 0, 4)) in ("────", "....")


def test_times_are_told_in_two_units_at_most() -> None:
    assert [lasting(seconds) for seconds in (0, 59, 61, 7_325, 90_061)] == ["0s", "59s", "1m1s", "2h2m", "1d1h"]
    assert ago(None) == "-"
    assert ago(1_000, now=61.0) == "1m"


# What is asked for


def test_without_a_broker_it_says_how_to_name_one(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(command, ["list"])
    assert result.exit_code == Code.USAGE
    assert "DRAMATIQ_CLUTCH_BROKER" in result.stderr


@pytest.mark.parametrize(
    ("version", "said"), [((3, 10), r"needs Python 3\.11"), ((3, 11), r"pip install \"dramatiq-clutch\[demo\]\"")]
)
def test_a_demonstration_without_its_server_says_how_to_get_one(
    version: tuple[int, int], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dramatiq_clutch.cli.demo.sys", SimpleNamespace(version_info=version, executable=""))
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    result = CliRunner().invoke(command, ["demo"])
    assert result.exit_code == Code.USAGE
    assert re.search(said, result.stderr)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module_at_all", "there is no module 'no_such_module_at_all'"),
        ("tests.support.awaiting:broker", "names no broker"),
        ("tests.support.awaiting:PATIENCE", "names no broker"),
        ("broken_module", "the module 'broken_module' can't be imported: ZeroDivisionError: division by zero"),
        (
            "lacking_module",
            "the module 'lacking_module' can't be imported: ModuleNotFoundError: No module named 'gone'",
        ),
    ],
)
def test_a_broker_that_cannot_be_found_is_told_in_words(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "broken_module.py").write_text("print('noise')\n1 / 0\n")
    (tmp_path / "lacking_module.py").write_text("import gone\n")
    result = CliRunner().invoke(command, ["list", "-b", name, "-P", str(tmp_path)])
    assert result.exit_code == Code.USAGE
    assert said in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.output


def test_a_broker_without_the_middleware_is_told_in_words(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dramatiq_clutch.cli.target._imported", lambda *_: StubBroker(middleware=[]))
    assert "ClutchMiddleware()" in call("list", code=Code.USAGE).stderr


def test_the_broker_and_the_store_are_not_both_named(call: Call) -> None:
    assert "either --broker or --url" in call("list", "--url", "redis://localhost", code=Code.USAGE).stderr


def test_an_address_that_is_none_is_not_shown() -> None:
    result = CliRunner().invoke(command, ["list", "--url", "http://user:secret@host"])
    assert result.exit_code == Code.USAGE
    assert "secret" not in result.output


def test_options_behind_the_verb_come_before_others(stub_broker: StubBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def imported(name: str, path: str) -> dramatiq.Broker:
        asked.append(name)
        return stub_broker

    monkeypatch.setattr("dramatiq_clutch.cli.target._imported", imported)
    for arguments in (["list"], ["-b", "front", "list"], ["-b", "front", "list", "-b", "behind"]):
        CliRunner().invoke(command, arguments, env={"DRAMATIQ_CLUTCH_BROKER": "environment"})
    assert asked == ["environment", "front", "behind"]


def test_an_address_on_the_command_line_comes_before_a_broker_in_the_environment(
    server: Server, redis_client: redis.Redis
) -> None:
    env = {"DRAMATIQ_CLUTCH_BROKER": "no_such_module_at_all"}
    result = CliRunner().invoke(command, ["list", "--url", server.url, "--json"], env=env)
    assert answer(result)["runs"] == []


def test_a_store_that_is_away_is_told_in_words() -> None:
    result = CliRunner().invoke(command, ["list", "--url", f"redis://127.0.0.1:{free_port()}/0"])
    assert result.exit_code == Code.AWAY
    assert "is it running?" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("list", "--cursor", "junk"), "no page has given the cursor 'junk'"),
        (("list", "--since", "99999999999d"), "neither how long ago"),
        (("show", ""), "the id of a run is empty"),  # as a variable of a script's may be
        (("cancel", "one", ""), "the id of a run is empty"),
    ],
)
def test_what_cannot_be_asked_is_told_in_words(call: Call, arguments: tuple[str, ...], said: str) -> None:
    assert said in call(*arguments, code=Code.USAGE).stderr


def test_the_page_of_runs_at_work_is_for_terminals(call: Call) -> None:
    assert "top needs a terminal" in call("top", code=Code.USAGE).stderr


def test_an_extra_that_is_not_installed_is_named(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert 'pip install "dramatiq-clutch[web]"' in call("web", code=Code.USAGE).stderr


def test_what_a_picture_needs_is_named(call: Call, failed: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mmdr", None)
    assert 'pip install "dramatiq-clutch[svg]"' in call("graph", "import-1", "--svg", code=Code.USAGE).stderr


def test_what_top_needs_is_named(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "dramatiq_clutch.cli.top", raising=False)
    monkeypatch.setitem(sys.modules, "textual.app", None)
    assert 'pip install "dramatiq-clutch[cli]"' in call("top", code=Code.USAGE).stderr


def test_the_command_itself_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "click", None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == Code.USAGE
    assert 'pip install "dramatiq-clutch[cli]"' in capsys.readouterr().err


# Looking


@pytest.fixture
def jobs(stub_broker: StubBroker) -> Jobs:
    return Jobs(stub_broker)


@pytest.fixture
def failed(jobs: Jobs) -> Run:
    jobs.script["a"] = ["die"]
    run = (
        Clutch(name="import").then(jobs.job.message("a")).then(jobs.job.message("b")).run(run_id="import-1", tags=["t"])
    )
    with running_worker(jobs.broker):
        state_is(run, "failed")
    return run


def test_runs_are_listed_newest_first_and_filtered(call: Call, jobs: Jobs, failed: Run) -> None:
    Clutch(name="other").then(jobs.job.message("b")).run(run_id="other-1")
    assert [row.split()[:2] for row in call("list").stdout.splitlines()[1:]] == [
        ["other-1", "running"],
        ["import-1", "failed"],
    ]
    for chosen in (("--state", "failed"), ("--name", "import"), ("--tag", "t")):
        assert call("list", "--ids", *chosen, "--since", "1h").stdout == "import-1\n"
    for since in ("2999-01-01", "2999-01-01T14:00", "2999-01-01T14:00Z"):
        assert call("list", "--ids", "--since", since).stdout == ""
    assert "No such runs of the application ''" in call("list", "--name", "none").stderr
    assert "neither how long ago" in call("list", "--since", "soon", code=Code.USAGE).stderr


def test_a_list_in_json_has_the_fields_of_a_summary(call: Call, failed: Run) -> None:
    given = answer(call("list", "--json"))
    assert given["schema"] == 1
    assert given["runs"][0]["run_id"] == "import-1"
    assert given["runs"][0]["tags"] == ["t"]
    assert given["cursor"] is None


def test_a_list_goes_on_at_its_cursor(call: Call, jobs: Jobs) -> None:
    for number in range(3):
        Clutch().then(jobs.job.message("a")).run(run_id=f"run-{number}")
    first = answer(call("list", "--json", "--limit", "2"))
    assert "--cursor" in call("list", "--limit", "2").stderr
    rest = answer(call("list", "--json", "--cursor", first["cursor"]))
    assert len(first["runs"]) + len(rest["runs"]) == 3


def test_a_list_is_watched_through_an_outage(call: Call, failed: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, waits = engine_of(dramatiq.get_broker()).backend, list[float]()

    def away(*_: Any, **__: Any) -> None:
        raise StateUnavailable("gone fishing")

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 1:
            monkeypatch.setattr(backend, "look_through", away)
        elif len(waits) == 2:
            monkeypatch.delattr(backend, "look_through")
        else:
            raise KeyboardInterrupt

    monkeypatch.setattr("dramatiq_clutch.cli.looking.time", SimpleNamespace(sleep=sleep))
    result = call("list", "--ids", "--watch", "--interval", "3")
    assert result.stdout == "import-1\nimport-1\n"
    assert "gone fishing" in result.stderr
    assert waits == [3.0] * 3


def test_a_run_is_shown(call: Call, failed: Run) -> None:
    text = call("show", "import-1", "-t").stdout
    assert "It has failed in stage 0 (1 of 2): 1 of 1 member dead." in text
    assert "LookupError in job\n  a dies\n" in text
    assert "Traceback" in text
    given = answer(call("show", "import-1", "--json"))
    assert given["waits_for"] == failed.status().waits_for()
    assert given["children"] == []
    assert given["schema"] == failed.status().to_dict()["schema"]


def test_callbacks_are_shown_with_when_they_were_sent(call: Call, jobs: Jobs) -> None:
    heard = jobs.heard.message
    run = Clutch(on_success=heard("a"), on_failed=heard("b")).then(jobs.job.message("a")).run(run_id="called")
    assert call("show", "called").stdout.splitlines()[-4:] == [
        "",
        "CALLBACK    STATE    ACTOR  WHEN",
        "on_success  unfired  heard",
        "on_failed   unfired  heard",
    ]
    with running_worker(jobs.broker):
        wait_until("it to have ended", lambda: run.callbacks()[0].state == "succeeded")
    sent, ended = (at(time or 0) for time in (run.callbacks()[0].sent, run.callbacks()[0].ended))
    assert call("show", "called").stdout.splitlines()[-2:] == [
        f"on_success  succeeded  heard  sent {sent}, ended {ended}",
        "on_failed   unfired    heard",
    ]
    assert answer(call("show", "called", "--json"))["callbacks"] == [one.to_dict() for one in run.callbacks()]


def test_what_is_told_of_a_callback_says_how_far_it_is() -> None:
    one = CallbackStatus("on_death", "notify", "default", "owed", 1, 3, 5_000)
    told = {
        "owed": one,
        "sent": replace(one, event="on_finish", state="sent", count=1, sent=6_000),
        "dead": replace(one, event="on_failed", state="dead", count=1, ended=7_000),
        "unknown": CallbackStatus("on_failed", None, None, None),
    }
    assert {state: callback_row(given)[1:] for state, given in told.items()} == {
        "owed": ("owed", "notify", f"since {at(5_000)}, 3 times so far, in stage 1"),
        "sent": ("sent", "notify", f"sent {at(6_000)}"),
        "dead": ("dead", "notify", f"couldn't be sent, ended {at(7_000)}"),
        "unknown": ("unknown", "?", ""),
    }
    assert list(callback_lines([], 80)) == []
    assert click.unstyle([*callback_lines([one] * 25, 80)][-1]) == "and 5 more callbacks: --json has them all"


def test_nested_runs_are_shown_below_their_stage(call: Call, jobs: Jobs) -> None:
    inner = Clutch(name="inner").then(jobs.job.message("a"))
    Clutch().parallel([Clutch(name="outer").then(inner)] * 2, name="two").run(run_id="tree")
    shown = call("show", "tree").stdout.splitlines()
    at = next(number for number, line in enumerate(shown) if "two" in line and "0/2" in line)
    assert [line.split()[0] for line in shown[at + 1 : at + 5]] == ["~0.0", "~0.0", "~0.1", "~0.0"]


def test_of_many_nested_runs_it_is_told_where_the_others_are(call: Call, jobs: Jobs) -> None:
    inner = Clutch().then(jobs.job.message("a"))
    Clutch().parallel([inner] * (MOST_NESTED + 1)).run(run_id="wide")
    given = answer(call("show", "wide", "--json"))
    assert len(given["children"]) == MOST_NESTED
    (other,) = answer(call("list", "--parent", "wide", "--cursor", given["children_cursor"], "--json"))["runs"]
    assert other["run_id"] == f"wide~0.{MOST_NESTED}"
    assert "there are more nested runs: list --parent wide" in call("show", "wide").stdout


def test_a_run_of_long_names_is_shown_in_80_columns() -> None:
    class Alone:
        run_id = "0" * 36

        def children(self, **_: Any) -> Any:
            return RunPage(())

        def callbacks(self) -> Any:
            return [CallbackStatus("on_death", "notify." * 6, "queue." * 6, "sent", 0, 2, 1, 2, 3, "id")]

    failure = JobFailure(0, 0, "resize." * 8, "id", "library.errors.ConnectionLost", "no answer", 3, "'photo'", 1)
    stages = StageStatus("failing", 10_000, 9_996, 1, 1, name="thumbnails of all photos"), StageStatus("waiting", 1)
    given: dict[str, Any] = {"name": "nightly " * 5, "tags": ("customer-7", "region-eu-west-1")}
    given |= {"stages": stages, "failures": (failure,), "error": None, "created": 0, "updated": 0}
    status = RunStatus("0" * 36, state="failing", **given)
    alone: Any = Alone()
    told = [click.unstyle(line) for line in shown(alone, status, most=80)]
    assert max(map(width_of, told)) <= 80
    assert "9,996/10,000 succeeded, 1 failing, 1 dead" in "\n".join(told)
    assert "sent 1970-01-01" in told[-1]
    member = Member(0, 1, "dead", "resize." * 8, "q", "id", "'photo'", 3, None, failure, None, 5_000, 17_000, "h" * 20)
    heads, rows = member_table([member], most=80)
    assert max(len(click.unstyle(line)) for line in table(heads, rows, states=1, most=80)) <= 80


def test_members_are_listed(call: Call, jobs: Jobs, failed: Run) -> None:
    (row,) = call("members", "import-1").stdout.splitlines()[1:]
    assert row.split() == ["0.0", "dead", "job", "1", "'a';", "LookupError:", "a", "dies"]
    assert answer(call("members", "import-1", "--json")) == failed.members().to_dict()
    assert "No such members" in call("members", "import-1", "--state", "skipped").stderr
    assert "unsent" in call("members", "import-1", "--stage", "1").stdout
    assert "no stage" in call("members", "import-1", "--stage", "nowhere", code=Code.USAGE).stderr
    Clutch().parallel([jobs.job.message("b")] * 3).run(run_id="three")
    assert "--cursor 0.2" in call("members", "three", "--limit", "2").stderr
    assert call("members", "three", "--cursor", "0.2").stdout.splitlines()[1].startswith("0.2")


def test_members_of_a_run_with_timings_tell_when_and_where_they_were_at_work() -> None:
    member = Member(0, 1, "succeeded", "job", "default", "id", "'a'", 0, None, None, None, 5_000, 17_000, "host:12")
    others = [
        replace(member, state="working", began=int(time.time() * 1_000) - 61_500, ended=None),
        replace(member, ended=None, worker=None),  # skipped, or its run rests
        replace(member, began=None, ended=None, worker=None),
        replace(member, worker="h" * 40 + ":12"),
    ]
    heads, rows = member_table([member, *others], most=80)
    assert heads == (*MEMBER_HEADS[:-1], "BEGAN", "TOOK", "WORKER", MEMBER_HEADS[-1])
    assert rows[0][4:] == (at(5_000), "12s", "host:12", "'a'")
    assert re.fullmatch(r"1m\d+s", rows[1][5])
    assert [row[4:7] for row in rows[2:4]] == [(at(5_000), "", ""), ("", "", "")]
    assert rows[4][6] == "…" + "h" * 16 + ":12"
    assert member_table([others[3]], most=None)[1][0][6] == "h" * 40 + ":12"
    assert member_table([others[2]], most=80) == (MEMBER_HEADS, [member_row(others[2])])


def test_a_run_that_is_not_there_is_told_in_words(call: Call) -> None:
    for verb in ("show", "members", "watch", "graph", "cancel", "retry", "resend"):
        assert "there is no run 'nobody'" in call(verb, "nobody", code=Code.NO_SUCH_RUN).stderr


def test_a_run_is_watched_line_by_line_in_a_pipe(call: Call, jobs: Jobs, failed: Run) -> None:
    told, line = call("watch", "import-1", code=Code.REFUSED).stdout.splitlines()
    assert told == "member 0.0, job('a'): LookupError: a dies"
    assert line.startswith("  0%  failed: It has")
    assert lines(call("watch", "import-1", "--json", code=Code.REFUSED))[-1]["state"] == "failed"
    run = Clutch().then(jobs.job.message("b")).run()
    assert "is still at work" in call("watch", run.run_id, "--timeout", "0.01", code=Code.AT_WORK).stderr
    run.cancel()
    call("watch", run.run_id, code=Code.CANCELLED)
    ended = Clutch().run()
    assert call("watch", ended.run_id).stdout == "100%  succeeded: It has succeeded.\n"


def test_a_run_is_drawn(call: Call, failed: Run) -> None:
    assert call("graph", "import-1").stdout == failed.to_mermaid()
    assert answer(call("graph", "import-1", "--json"))["mermaid"] == failed.to_mermaid()


def test_a_run_is_drawn_as_a_picture(call: Call, failed: Run) -> None:
    picture = call("graph", "import-1", "--svg").stdout
    assert words_of(picture) >= {"import", "0/1", "succeeded,", "dead", "done"}
    assert words_of(answer(call("graph", "import-1", "--svg", "--json"))["svg"]) == words_of(picture)


def words_of(picture: str) -> set[str]:
    texts = (one for one in ET.fromstring(picture).iter() if one.tag.endswith("}text"))
    return {word for one in texts for word in "".join(one.itertext()).split()}


def test_a_picture_of_a_hostile_run_has_texts_only(hostile: Run, call: Call) -> None:
    elements = list(ET.fromstring(call("graph", "enemy", "--svg").stdout).iter())
    kinds = {element.tag.rpartition("}")[2] for element in elements}
    assert kinds <= {
        "circle",
        "defs",
        "feDropShadow",
        "filter",
        "g",
        "marker",
        "path",
        "polygon",
        "rect",
        "style",
        "svg",
        "text",
    }
    assert not [
        name for element in elements for name in element.attrib if name.startswith("on") or name.endswith("href")
    ]


# Steering


def test_runs_are_steered_by_their_ids(call: Call, jobs: Jobs, failed: Run) -> None:
    assert call("retry", "import-1").stdout == "import-1  retried\n"
    assert call("retry", "import-1").stdout == "import-1  nothing to do\n"
    assert call("resend", "import-1").stdout == "import-1  sent again\n"
    assert call("cancel", "import-1", "import-1").stdout == "import-1  cancelled\n"
    assert call("delete", "import-1", "--yes").stdout == "import-1  deleted\n"
    call("show", "import-1", code=Code.NO_SUCH_RUN)


def test_runs_are_steered_by_filters(call: Call, jobs: Jobs, failed: Run) -> None:
    Clutch(name="other").then(jobs.job.message("b")).run(run_id="other-1")
    result = call("retry", "--state", "failed", "--since", "1h", "--yes")
    assert result.stdout == "import-1  retried\n"
    assert [one["run_id"] for one in lines(call("cancel", "--all", "--yes", "--json"))] == ["other-1", "import-1"]
    assert "2 deleted." in call("delete", "--state", "cancelled", "-y").stderr


def test_an_error_of_one_run_stops_no_other(call: Call, jobs: Jobs, failed: Run) -> None:
    result = call("retry", "nobody", "import-1", code=Code.NO_SUCH_RUN)
    assert result.stdout == "import-1  retried\n"
    at_work = Clutch().then(jobs.job.message("b")).run(run_id="at-work")
    result = call("delete", "at-work", "nobody", "-y", code=Code.REFUSED)
    assert "is at work" in result.stderr
    assert at_work.status().state == "running"
    (given, _) = lines(call("delete", "at-work", "nobody", "-y", "--json", code=Code.REFUSED))
    assert given["error"]["type"] == "RunAtWork"


def test_a_broker_that_is_away_is_told_and_stops_no_other(
    call: Call, jobs: Jobs, failed: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(run: Run) -> bool:
        if run.run_id == "import-1":
            raise BrokerUnavailable("gone fishing")
        return True

    monkeypatch.setattr(Run, "delete", away)
    result = call("delete", "import-1", "other", "--yes", code=Code.AWAY)
    assert "gone fishing" in result.stderr
    assert result.stdout == "other  deleted\n"


def test_nothing_is_done_to_many_runs_without_an_answer(
    call: Call, failed: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "say --yes" in call("retry", "--state", "failed", code=Code.USAGE).stderr
    assert "say --yes" in call("delete", "import-1", code=Code.USAGE).stderr
    monkeypatch.setattr("dramatiq_clutch.cli.steering.can_ask", lambda: True)
    asked = call("retry", "--state", "failed", input="n\n", code=Code.REFUSED)
    assert "Retry 1 run (state failed)? [y/N]" in asked.stderr
    assert failed.status().state == "failed"
    assert call("retry", "--state", "failed", input="y\n").stdout.endswith("import-1  retried\n")


def test_nothing_is_chosen_by_saying_nothing(call: Call) -> None:
    for arguments in ((), ("one", "--all"), ("one", "--state", "failed"), ("--all", "--name", "x")):
        assert "takes the ids of runs, or filters" in call("cancel", *arguments, code=Code.USAGE).stderr


def test_a_filter_that_finds_nothing_asks_nothing(call: Call) -> None:
    assert "No such runs" in call("delete", "--name", "none").stderr


def test_a_stage_is_done_again(call: Call, jobs: Jobs) -> None:
    run = Clutch(keep_results=True).then(jobs.job.message("a"), name="first").run(run_id="kept")
    with running_worker(jobs.broker):
        run.get_result(block=True)
    assert call("retry", "kept", "--from-stage", "first").stdout == "kept  retried\n"
    assert "no stage" in call("retry", "kept", "--from-stage", "nowhere", code=Code.REFUSED).stderr


def test_without_the_broker_the_workers_are_told(
    redis_broker: dramatiq.Broker, server: Server, redis_client: redis.Redis
) -> None:
    jobs = Jobs(redis_broker)
    run = Clutch().then(jobs.job.message("a")).run()
    whose = ["--url", server.url, "--application", engine_of(redis_broker).application]
    result = CliRunner().invoke(command, ["cancel", run.run_id, *whose])
    assert result.stdout == f"{run.run_id}  cancelled\n"
    assert "left to the workers" in result.stderr
    assert run.status().state == "cancelled"
    assert CliRunner().invoke(command, ["sweep", *whose]).stdout == "The sweepers of the workers were called.\n"
    listed = CliRunner().invoke(command, ["list", "--url", server.url])
    assert "No such runs of the application 'dramatiq'" in listed.stderr
    assert "--application" in listed.stderr
    foreign = CliRunner().invoke(command, ["cancel", run.run_id, "--url", server.url])
    assert foreign.exit_code == Code.REFUSED
    assert "belongs to the application" in foreign.stderr


# Operating


def test_a_sweep_says_what_it_has_looked_at(call: Call, failed: Run) -> None:
    failed.retry()
    engine = engine_of(dramatiq.get_broker())
    engine.look_again("import-1", engine.now())
    assert answer(call("sweep", "--json")) == {"looked_at": 1, "failed": 0, "left_to_workers": False}
    assert call("sweep").stdout == "Runs that were due: 0.\n"


def test_the_doctor_tells_what_it_finds(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    found = answer(call("doctor", "--json"))
    assert found["schema"] == 1
    assert [finding["severity"] for finding in found["findings"]] == ["warning", "info", "info"]

    def away(*_: Any, **__: Any) -> None:
        raise StateUnavailable("gone fishing")

    monkeypatch.setattr(engine_of(dramatiq.get_broker()).backend, "sweep", away)
    result = call("doctor", code=Code.REFUSED)
    assert result.stdout.startswith(
        "error    The state store can't be used: gone fishing\n         -> See that its server"
    )


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_the_page_is_served_where_it_is_told(
    call: Call, stub_broker: StubBroker, host: str, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    served: list[Any] = []

    class Served:
        def __init__(self, config: Any) -> None:
            self.config = config

        def run(self, sockets: list[socket.socket]) -> None:
            served.append((self.config, [one.getsockname() for one in sockets]))

    def app(*args: Any, **more: Any) -> str:
        made.append((args, more))
        return "the page"

    monkeypatch.setitem(sys.modules, "dramatiq_clutch.web", SimpleNamespace(app=app))
    fake = SimpleNamespace(Server=Served, Config=lambda app, **_: app)
    monkeypatch.setitem(sys.modules, "uvicorn", fake)
    told = call("web", "--host", host, "--port", "0", "--actions").stderr
    assert made == [((stub_broker,), {"actions": True})]
    ((page, [(at, port)]),) = served
    assert at == host
    assert (page == "the page") == warned  # on loopback it answers under its own names alone
    assert f"http://{host}:{port}/" in told
    assert ("listens for other machines" in told) == warned


def test_on_loopback_the_page_answers_under_its_own_names_alone(
    call: Call, stub_broker: StubBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Any] = []
    monkeypatch.setitem(
        sys.modules, "dramatiq_clutch.web", SimpleNamespace(app=lambda *_, **__: PlainTextResponse("the page"))
    )
    monkeypatch.setattr("uvicorn.Server.run", lambda server, sockets: served.append(server.config.app))
    call("web", "--port", "0")

    async def ask(host: str) -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(served[0]), base_url="http://page") as client:
            return (await client.get("/", headers={"host": host})).status_code

    for host, code in (("127.0.0.1:80", 200), ("localhost", 200), ("[::1]:80", 200), ("evil.example", 400)):
        assert asyncio.run(ask(host)) == code, host


def test_a_port_that_is_taken_is_told_in_words(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dramatiq_clutch.web", SimpleNamespace(app=lambda *_, **__: None))
    monkeypatch.setitem(sys.modules, "uvicorn", SimpleNamespace())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        assert f"can't listen on 127.0.0.1, port {port}" in call("web", "--port", port, code=Code.USAGE).stderr


@pytest.mark.parametrize("shell", [pytest.param("bash", marks=pytest.mark.process), "zsh", "fish"])
def test_a_shell_gets_its_script(shell: str, call: Call) -> None:
    """That for bash asks the bash that is there how old it is."""
    assert "_DRAMATIQ_CLUTCH_COMPLETE" in call("completion", shell).stdout


def test_ids_of_runs_are_completed(call: Call, failed: Run) -> None:
    assert Clutch(name=HOSTILE.replace("\ud800", "").replace("\x00", "")).run(run_id="enemy").run_id == "enemy"
    with command.make_context("dramatiq-clutch", ["-b", "myapp.tasks", "list"]) as context:
        offered = ids(context, click.Argument(["run_id"]), "imp")
        assert not DANGEROUS.search("".join(item.help or "" for item in ids(context, click.Argument(["run_id"]), "")))
    assert [item.value for item in offered] == ["import-1"]
    with command.make_context("dramatiq-clutch", ["list"]) as context:
        assert ids(context, click.Argument(["run_id"]), "") == []


# What jobs say


@pytest.fixture
def hostile(stub_broker: StubBroker) -> Run:
    """A run of an enemy's, whose name, tags and failure say what they shouldn't."""
    text = HOSTILE.replace("\ud800", "")

    @dramatiq.actor(max_retries=0, actor_name="evil")
    def evil(argument: str) -> None:
        raise type(text.replace("\x00", ""), (ValueError,), {})(text)

    @dramatiq.actor(max_retries=0, actor_name=text)
    def evil_callback(status: dict[str, Any]) -> None: ...

    name = text.replace("\x00", "")
    evils = Clutch(name=name, on_failed=evil_callback).parallel([evil.message(text)])
    run = evils.run(run_id="enemy", tags=["tag\u202eevil"])
    with running_worker(stub_broker):
        state_is(run, "failed")
    return run


@pytest.mark.parametrize(
    "arguments",
    [
        ("list",),
        ("show", "enemy", "-t"),
        ("watch", "enemy"),
        ("members", "enemy"),
        ("members", "enemy", "--json"),
        ("graph", "enemy"),
        ("graph", "enemy", "--svg"),
        ("cancel", "\x1b[2J\u202e"),
        ("retry", "--name", "\x1b[2J", "--yes"),
        ("list", "--name", "\x1b]0;x\x07"),
        ("list", "--json"),
        ("show", "enemy", "--json"),
        ("watch", "enemy", "--json"),
    ],
)
@pytest.mark.parametrize("colour", [False, True])
def test_nothing_of_a_jobs_gets_at_the_terminal(
    arguments: tuple[str, ...], colour: bool, hostile: Run, call: Call
) -> None:
    result = CliRunner().invoke(command, ["-b", "myapp.tasks", *arguments], color=colour)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    # What is left when our own colours are taken away, and line ends:
    shown = re.sub(r"\x1b\[(?:\d+m|0m)", "", result.output).replace("\n", "")
    assert not DANGEROUS.search(shown), repr(shown)


def test_a_hostile_status_is_shown_whatever_it_holds() -> None:
    """Each of the texts that a status has."""

    class NoChildren:
        run_id = HOSTILE

        def children(self, **_: Any) -> Any:
            return RunPage(())

        def callbacks(self) -> Any:
            return [CallbackStatus(HOSTILE, HOSTILE, HOSTILE, "sent", 0, 2, 1, 2, 3, HOSTILE)]

    failure = JobFailure(0, 0, HOSTILE, HOSTILE, HOSTILE, HOSTILE, 1, HOSTILE, 1, traceback=f"{HOSTILE}\n{HOSTILE}")
    own = JobFailure(0, None, HOSTILE, HOSTILE, HOSTILE, HOSTILE, 1)
    stage = StageStatus("failed", 1, dead=1, name=HOSTILE)
    status = RunStatus(HOSTILE, HOSTILE, "failed", (stage,), (failure, own), own, 0, 0, tags=(HOSTILE,))
    given: Any = NoChildren()
    text = "\n".join(shown(given, status, traceback=True, most=80))
    assert not DANGEROUS.search(click.unstyle(text).replace("\n", ""))


# The page


def console_blocks() -> list[str]:
    return re.findall(r"^```console\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_every_verb_and_option_is_on_the_page() -> None:
    text = PAGE.read_text()
    context = click.Context(command)
    for name in VERBS:
        verb = command.get_command(context, name)
        assert verb is not None
        assert f"`{name}" in text, name
        for parameter in verb.params:
            for option in parameter.opts if isinstance(parameter, click.Option) else ():
                assert re.search(rf"`[^`\n]*{option}\b", text), (name, option)


def test_every_verb_explains_itself_within_80_columns(call: Call) -> None:
    for name in [*VERBS, None]:
        text = call(*([name] if name else []), "--help").stdout
        assert max(map(len, text.splitlines())) <= 80, name
    for name, (_, told) in VERBS.items():
        verb = command.get_command(click.Context(command), name)
        assert verb is not None
        assert (verb.help or "").startswith(told.rstrip(".")), name


def test_the_exit_codes_are_those_on_the_page_and_in_the_help(call: Call) -> None:
    rows = re.findall(r"^\| (\d) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    assert [int(number) for number, _ in rows] == [code.value for code in Code]
    told = call("--help").stdout
    for number, text in rows:
        assert f"{number}  {text.replace('`', '')}" in told


def alike(text: str) -> list[str]:
    """A text without what differs from time to time."""
    text = re.sub(r"\d\d:\d\d:\d\d", "14:02:07", click.unstyle(text))
    text = re.sub(r"\b\d+[smh](?= +\S|$)", "12s", text, flags=re.MULTILINE)
    return [re.sub(r"[ ─━=.]{2,}", "  ", line).rstrip() for line in text.splitlines()]


def test_the_page_shows_what_is_printed(call: Call, stub_broker: StubBroker) -> None:
    @dramatiq.actor(max_retries=0)
    def load(source: str) -> str:
        if source == "prices":
            raise TimeoutError("prices: no answer")
        return source

    @dramatiq.actor(queue_name="later")
    def report() -> None: ...

    @dramatiq.actor(queue_name="low")
    def notify(status: dict[str, Any]) -> None: ...

    single = Clutch(name="import").then(load.message("all")).run(run_id="import-41")
    sources = [load.message(source) for source in ("orders", "customers", "prices")]
    called: dict[str, Any] = {"on_death": notify, "on_success": notify, "on_failed": notify}
    nightly = Clutch(name="nightly", **called).parallel(sources, name="load").then(report, name="report")
    run = nightly.run(run_id="nightly-2026-11-28", tags=["customer-7"])
    with running_worker(stub_broker):
        state_is(single, "succeeded")
        wait_until("who is called to have been", lambda: run.callbacks()[2].state == "succeeded")
    album = Clutch(name="album").then(report)
    Clutch(name="gallery").parallel([album, album], name="albums").then(report, name="report").run(run_id="gallery-7")

    found = 0
    for block in console_blocks():
        for entered, printed in re.findall(r"^\$ (.*)\n((?:[^$].*\n|\n)*)", block, re.MULTILINE):
            program, *arguments = shlex.split(entered)
            assert program == "dramatiq-clutch"
            result = CliRunner().invoke(command, arguments, prog_name=program)
            told = [line for line in result.stderr.splitlines() if line.startswith("Error")]
            assert alike(result.stdout + "\n".join(told)) == alike(printed), entered
            found += 1
    assert found >= 10
