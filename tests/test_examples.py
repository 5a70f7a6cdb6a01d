"""The examples, run as a user runs them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import redis

from tests.support.awaiting import wait_until
from tests.support.server import Server

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
    name: str, *arguments: str | Path, env: Mapping[str, str] | None = None, before: Sequence[str] = ()
) -> Iterator[subprocess.Popen[str]]:
    """The example, started. It must have ended within the block, and leave nothing behind. What comes `before` its name
    says how it is started."""
    mark = uuid.uuid4().hex
    inherited = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    process = subprocess.Popen(
        [sys.executable, *before, f"examples/{name}.py", *map(str, arguments)],
        cwd=ROOT,
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


def test_the_tests_of_an_application_need_no_server() -> None:
    """They are run as in a project of their own, without this suite's settings and fixtures."""
    command = ["-m", "pytest", "-c", os.devnull, "--rootdir=examples", "-p", "no:cacheprovider", "-W", "error", "-v"]
    with example("test_your_clutches", before=command) as process:
        output = output_of(process)

    assert re.search(r"\b10 passed", output), output
    assert process.returncode == 0


def test_every_example_is_run() -> None:
    tests = Path(__file__).read_text()
    names = {path.stem for path in (ROOT / "examples").glob("*.py")} - {"running"}
    assert all(f'example("{name}"' in tests for name in names)
