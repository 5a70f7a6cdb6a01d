"""What an earlier release has left in a server, this one finishes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import redis

from dramatiq_clutch import Run, runs
from dramatiq_clutch.stored.formats import FORMAT
from tests.releases import kept
from tests.support import actors
from tests.support.actors import Actors, mortal
from tests.support.awaiting import wait_until
from tests.support.keyspace import assert_all_expire
from tests.support.server import Server
from tests.support.workers import Worker


def test_what_this_format_leaves_is_kept_for_later_releases() -> None:
    assert FORMAT in {kept.read(path)["format"] for path in kept.files()}


def test_users_are_told_which_releases_write_each_format() -> None:
    page = (Path(__file__).parents[1] / "examples" / "upgrading" / "README.md").read_text()
    said = dict(re.findall(r"^\| (\d+) \| (\d+\.\d+\.\d+) \|", page, flags=re.MULTILINE))
    files = [kept.read(path) for path in kept.files()]
    assert said == {str(left["format"]): left["version"] for left in files}


@pytest.mark.process
@pytest.mark.parametrize("path", kept.files(), ids=lambda path: str(path.stem))
def test_every_run_that_an_earlier_release_has_left_comes_to_its_end(
    path: Path, server: Server, redis_client: redis.Redis
) -> None:
    left = kept.read(path)
    kept.put_back(redis_client, left["keys"])
    world = Actors(mortal(server.url))
    found = {one.run_id: one for one in runs(broker=world.broker, limit=100)}
    assert set(found) == set(left["expected"])
    assert {one.state for one in found.values()} >= {"succeeded", "failed", "cancelled", "running"}
    of_id = {run_id: Run(run_id, broker=world.broker) for run_id in found}
    before = {run_id: run.status() for run_id, run in of_id.items()}
    assert all(run.context == {"kept": True} for run_id, run in of_id.items() if run_id != "failed")
    assert all(status.tags == (run_id.partition("-")[0],) for run_id, status in before.items() if run_id != "failed")

    with Worker(actors.__name__, env=mortal(server.url).to_env()):
        for run_id, status in before.items():
            if status.state in ("failed", "cancelled"):
                assert of_id[run_id].retry()
        results: dict[str, Any] = {run_id: run.get_result(block=True, timeout=120_000) for run_id, run in of_id.items()}
        wait_until("callbacks to be heard", lambda: len(world.heard_by("called")) >= 6)
    assert results == left["expected"]
    assert_all_expire(redis_client)
    world.broker.close()
