"""What a real server was asked by real workers, one of which was killed, is replayed through the store in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.explorer.history import Call, Replay, Watched
from tests.support import actors
from tests.support.actors import EVERYTHING, Actors, mortal
from tests.support.awaiting import wait_until
from tests.support.crashing import CRASHED
from tests.support.server import Server
from tests.support.workers import Worker

pytestmark = [pytest.mark.process]


@pytest.fixture(scope="module")
def history() -> Iterator[tuple[list[Call], str]]:
    """A run with a map, nested runs of both kinds and a job that fails at first, whose worker is killed right after a
    record; and the broker's own script."""
    with Server() as server, Watched(server) as watched:
        world = Actors(mortal(server.url))
        try:
            with Worker(actors.__name__, env=mortal(server.url, crash="record 4 after").to_env(), threads=2):
                runs = world.clutch("everything").run(), world.clutch("numbers").run()
                wait_until("the worker's death", lambda: world.client.exists(CRASHED))
            with Worker(actors.__name__, env=mortal(server.url).to_env(), threads=2):
                assert runs[0].get_result(block=True, timeout=60_000) == EVERYTHING
                assert runs[1].get_result(block=True, timeout=60_000) == [7]
            script: Any = world.broker.scripts["dispatch"].script
            watched.end()
            yield list(watched.calls()), script if isinstance(script, str) else script.decode()
        finally:
            world.broker.close()


def test_the_store_in_memory_writes_what_the_server_has_written(history: tuple[list[Call], str]) -> None:
    calls, dispatch = history
    replay = Replay(dispatch)

    assert list(replay.differences(calls)) == []

    seen = {"draft", "seal", "record", "record, along", "succeed, along", "guard", "confirm", "open"}
    assert seen <= set(replay.counts)


def test_a_history_in_which_a_call_is_missing_is_refused(history: tuple[list[Call], str]) -> None:
    calls, dispatch = history
    seal = next(index for index, call in enumerate(calls) if (b"HSET" in {inner[0].upper() for inner in call.inner}))

    assert list(Replay(dispatch).differences([*calls[:seal], *calls[seal + 1 :]]))
