"""README's Python blocks do what it says: all of them, in order, on a real server, with a real worker."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import dramatiq
import pytest

from dramatiq_clutch import Clutch
from tests.conftest import running_worker
from tests.support.server import Server

README = Path(__file__).parent.parent / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), flags=re.MULTILINE | re.DOTALL)


def test_every_python_block_runs(server: Server, redis_client: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dramatiq.broker.global_broker", None)
    first, *others = blocks("python")
    assert "RedisBroker()" in first
    namespace: dict[str, Any] = {"__name__": "readme"}

    exec(compile(first.replace("RedisBroker()", f"RedisBroker(url={server.url!r})"), README.name, "exec"), namespace)

    with running_worker(dramatiq.get_broker()):
        for block in others:
            exec(compile(block, README.name, "exec"), namespace)


def test_working_code_begins_by_line_15() -> None:
    lines = README.read_text().splitlines()
    assert any(line == "broker.add_middleware(ClutchMiddleware())" for line in lines[:15])


def test_ci_runs_the_same_test_command_as_readme() -> None:
    ci = (README.parent / ".ci" / "run").read_text()
    (test_command,) = [line for block in blocks("sh") for line in block.splitlines() if "pytest" in line]
    assert test_command in ci


def test_the_picture_is_what_the_code_above_it_draws(stub_broker: object) -> None:
    (picture,) = blocks("mermaid")
    (code,) = [block for block in blocks("python") if "to_mermaid" in block]
    actors = {}
    for name in ("list_pages", "fetch", "shout", "summarise"):

        @dramatiq.actor(actor_name=name)
        def actor() -> None: ...

        actors[name] = actor
    namespace: dict[str, Any] = {"Clutch": Clutch, **actors}
    exec(code, namespace)
    assert namespace["picture"].to_mermaid() == picture


def test_each_promise_is_shown_by_a_test_that_is_there() -> None:
    shown = re.findall(r"`(test_\w+\.py)::(test_\w+)`", README.read_text())
    assert len(shown) > 20
    tests = README.parent / "tests"
    missing = [f"{file}::{name}" for file, name in shown if f"def {name}(" not in (tests / file).read_text()]
    assert missing == []
