"""What the READMEs say is so: their Python blocks run, in order, on real servers; their links lead somewhere."""

from __future__ import annotations

import builtins
import contextlib
import importlib.util
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import dramatiq
import dramatiq.brokers.redis
import dramatiq.results
import pytest
import redis
from dramatiq.brokers.stub import StubBroker
from redis.backoff import NoBackoff
from redis.retry import Retry

import dramatiq_clutch.testing
from dramatiq_clutch import Clutch, ClutchMiddleware, previous_results
from tests.conftest import running_worker
from tests.support.awaiting import PATIENCE, wait_until
from tests.support.server import Server, free_port, server_binary

ROOT = Path(__file__).parent.parent

README = ROOT / "README.md"
#: What users read after it, subject by subject.
GUIDE = ROOT / "examples" / "README.md"
#: What they read who know Dramatiq's own compositions, Celery, or others.
COMING_FROM = ROOT / "examples" / "coming_from" / "README.md"

OPERATIONS = ROOT / "dramatiq_clutch" / "backends" / "redis" / "README.md"
#: On what a clutch runs.
SERVERS = ROOT / "examples" / "servers" / "README.md"

#: Every README of the repository.
READMES = [
    README,
    *(page for top in ("dramatiq_clutch", "examples", "tests") for page in (ROOT / top).rglob("README.md")),
]
NAMES = [page.relative_to(ROOT).as_posix() for page in READMES]

#: A block, whatever its language; the Python ones are executed, and `text` and `mermaid` show what those print.
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [text for its, text in BLOCK.findall(page.read_text()) if its == language]


def code(page: Path, text: str) -> CodeType:
    """A block as code whose errors name the line of the page."""
    before = page.read_text().partition(text)[0].count("\n")
    return compile("\n" * before + text, page, "exec")


# The examples


@pytest.mark.parametrize(
    ("page", "shown"), [(README, 2), (GUIDE, 0), (COMING_FROM, 0)], ids=["README.md", "examples", "coming_from"]
)
def test_every_python_block_of_a_page_runs_and_prints_what_it_shows(
    page: Path, shown: int, server: Server, redis_client: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dramatiq.broker.global_broker", None)
    first, *others = blocks(page, "python")
    local = first.replace("RedisBroker()", f"RedisBroker(url={server.url!r})")
    assert local != first
    namespace: dict[str, Any] = {"__name__": "readme"}
    exec(compile(local, page, "exec"), namespace)

    found, printed = 0, ""
    with running_worker(dramatiq.get_broker()):
        for language, text in BLOCK.findall(page.read_text())[1:]:
            if language == "python" and text != first:
                with contextlib.redirect_stdout(io.StringIO()) as output:
                    exec(code(page, text), namespace)
                printed = output.getvalue()
            elif printed and language in ("text", "mermaid"):
                assert printed.rstrip("\n") == text.rstrip("\n")
                found += 1
    assert found == shown
    assert others


@pytest.mark.process
def test_the_logins_of_the_guide_let_only_those_see_and_change_runs_who_may(tmp_path: Path) -> None:
    pytest.importorskip("django")
    command = [sys.executable, "-m", "tests.support.logins", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=PATIENCE)
    refused, let_in = [401, 401, 401], [200, 200, 303]
    assert json.loads(done.stdout) == {
        "django": {"nobody": refused, "junk": refused, "guest": refused, "staff": let_in},
        "fastapi": {"nobody": refused, "staff": let_in},
        "flask": {"nobody": refused, "junk": refused, "staff": let_in},
    }


@contextlib.contextmanager
def cluster() -> Iterator[int]:
    """The port of a Redis Cluster of one node."""
    with Server(config=("cluster-enabled yes", f"cluster-port {free_port()}")) as server, server.client() as client:
        client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16_383)
        wait_until("the cluster to be up", lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
        yield server.port


@contextlib.contextmanager
def sentinel(server: Server, name: str, folder: Path) -> Iterator[int]:
    """The port of a Sentinel that watches the server under this name."""
    port, config = free_port(), folder / "sentinel.conf"
    lines = ["bind 127.0.0.1", f"port {port}", f"dir {folder}", f"sentinel monitor {name} 127.0.0.1 {server.port} 1"]
    config.write_text("\n".join(lines) + "\n")
    process = subprocess.Popen([server_binary(), config, "--sentinel"], stdout=subprocess.DEVNULL)

    def knows_the_primary() -> bool:
        with redis.Redis(port=port, retry=Retry(NoBackoff(), 0)) as client:
            try:
                return bool(client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", name))
            except redis.ConnectionError:
                return False

    try:
        wait_until("the Sentinel to know the primary", knows_the_primary)
        yield port
    finally:
        process.kill()
        process.wait()


def test_every_middleware_that_the_page_on_servers_makes_runs_clutches(
    server: Server, redis_client: object, tmp_path: Path
) -> None:
    with cluster() as cluster_port, sentinel(server, "clutches", tmp_path) as sentinel_port:
        ports = {"6379": server.port, "7000": cluster_port, "26379": sentinel_port}
        namespace: dict[str, Any] = {"__name__": "servers"}
        for block in blocks(SERVERS, "python"):
            local = re.sub(r"\b(6379|7000|26379)\b", lambda written: str(ports[written[0]]), block)
            exec(compile(local, SERVERS, "exec"), namespace)
        made = {name: value for name, value in namespace.items() if isinstance(value, ClutchMiddleware)}
        assert list(made) == ["elsewhere", "tuned", "with_sentinel", "on_a_cluster"]
        for middleware in made.values():
            run_a_clutch_with(middleware)
        for one in namespace["sentinel"].sentinels:
            one.close()


def run_a_clutch_with(middleware: Any) -> None:
    broker = StubBroker()
    broker.add_middleware(middleware)

    @dramatiq.actor(broker=broker)
    def job(number: int) -> int:
        return number

    @dramatiq.actor(broker=broker)
    def total() -> int:
        return sum(previous_results())

    nested = Clutch(broker=broker).parallel(job.message(1), job.message(2)).then(total)
    with running_worker(broker):
        run = Clutch(broker=broker).parallel(nested, job.message(3)).then(total).run()
        assert run.get_result(block=True) == 6
    broker.close()
    middleware.backend.client.close()


def test_python_blocks_are_where_they_are_executed() -> None:
    assert {page for page in READMES if blocks(page, "python")} == {README, GUIDE, COMING_FROM, SERVERS}


def test_every_name_of_readme_is_dramatiqs_or_imported_from_the_package() -> None:
    text = README.read_text()
    modules = re.findall(r"^(?:from|import) (dramatiq_clutch[\w.]*)", text, flags=re.MULTILINE)
    assert {"dramatiq_clutch"} <= set(modules) <= {"dramatiq_clutch", "dramatiq_clutch.testing"}
    code = [*blocks(README, "python"), *re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))]
    classes = {name for part in code for name in re.findall(r"\b[A-Z][a-z]\w*", part)}
    functions = {name for part in code for name in re.findall(r"(?<![\w.])((?:previous|current)_\w+)\(", part)}
    theirs = (builtins, dramatiq, dramatiq.results, dramatiq.brokers.redis, dramatiq.brokers.stub)
    ours = {name for name in classes | functions if not any(hasattr(module, name) for module in theirs)}
    assert {"Clutch", "RedisBackend", "RunFailed", "RunNotFound", "previous_failures"} <= ours
    assert ours - {*dramatiq_clutch.__all__, *dramatiq_clutch.testing.__all__} == set()


# The commands


@pytest.mark.parametrize("page", READMES, ids=NAMES)
def test_commands_of_a_readme_name_modules_and_options_that_are_there(page: Path) -> None:
    for name, arguments in re.findall(r"python -m (tests[\w.]*)([^\n#`]*)", page.read_text()):
        module = importlib.util.find_spec(f"{name}.__main__" if (ROOT / name.replace(".", "/")).is_dir() else name)
        assert module is not None, name
        assert module.origin is not None
        source = Path(module.origin).read_text()
        assert [option for option in re.findall(r"--\w+", arguments) if f'"{option}"' not in source] == []


def test_ci_runs_the_same_test_command_as_readme() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    (test_command,) = [line for block in blocks(README, "sh") for line in block.splitlines() if "pytest" in line]
    assert test_command in ci


# The text


def test_working_code_begins_by_line_15() -> None:
    lines = README.read_text().splitlines()
    assert any(line == "broker.add_middleware(ClutchMiddleware())" for line in lines[:15])


def test_readme_has_at_most_300_lines() -> None:
    assert len(README.read_text().splitlines()) <= 300


@pytest.mark.parametrize("page", READMES, ids=NAMES)
def test_lines_of_a_readme_have_at_most_120_columns_but_for_rows_of_tables(page: Path) -> None:
    """A row of a table can't be broken."""
    lines = enumerate(page.read_text().splitlines(), 1)
    assert [number for number, line in lines if len(line) > 120 and not line.startswith("|")] == []


def anchors(page: Path) -> set[str]:
    """What GitHub names the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", READMES, ids=NAMES)
def test_links_of_a_readme_lead_to_what_is_there(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", page.read_text())):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_readme_links_to_the_pages_that_go_on() -> None:
    links = set(re.findall(r"\]\(([\w/.]+)", README.read_text()))
    assert {OPERATIONS.relative_to(ROOT).as_posix(), "tests/benchmarks/README.md", "tests/chaos/README.md"} <= links


def test_each_promise_is_shown_by_a_test_that_is_there() -> None:
    tests = ROOT / "tests"
    pages = README.read_text() + (tests / "README.md").read_text()
    shown = re.findall(r"`(test_\w+\.py)::(test_\w+)`", pages)
    assert len(shown) > 20
    missing = [f"{file}::{name}" for file, name in shown if f"def {name}(" not in (tests / file).read_text()]
    assert missing == []
