"""Writes down what this release leaves in a server when its only worker is killed:

    python -m tests.releases

It is to be run once for each release that changes what is stored, and the file is never changed afterwards."""

from __future__ import annotations

import json
import sys
from typing import Any

from dramatiq_clutch import Clutch, Run, __version__
from dramatiq_clutch.stored.formats import FORMAT
from tests.releases.kept import FOLDER, written
from tests.support import actors
from tests.support.actors import EVERYTHING, Actors, mortal
from tests.support.awaiting import wait_until
from tests.support.crashing import CRASHED
from tests.support.server import Server
from tests.support.workers import Worker

#: The shapes of the runs that are left, and what has to come of each.
RUNS = {
    "everything": EVERYTHING,
    "series": ["b"],
    "nested": [["a"], "b"],
    "mapped": ["a", "b"],
    "numbers": [7],
    "called": "a",
    "told": "a",
}


def main() -> int:
    path = FOLDER / f"format-{FORMAT}-of-{__version__}.json"
    if path.exists():
        print(f"{path} is there already, and stays as it is")
        return 1
    with Server() as server:
        world = Actors(mortal(server.url))
        expected = prepare(server, world)
        with server.client() as client:
            keys = written(client)
        world.broker.close()
    kept = {"version": __version__, "format": FORMAT, "expected": expected, "keys": keys}
    path.write_text(json.dumps(kept, indent=1) + "\n")
    print(f"{path.name}: {len(expected)} runs, {len(keys)} keys")
    return 0


def prepare(server: Server, world: Actors) -> dict[str, Any]:
    """Leave runs that have ended in each way, runs of each shape in the middle of which a worker was killed, runs of
    each shape that were cancelled, and runs that nobody has begun. Returns what has to come of each once a worker of a
    later release has gone on, and those that are at rest were retried."""
    expected: dict[str, Any] = {}

    def begin(how: str, shape: str) -> Run:
        run_id = f"{shape}-{how}"
        expected[run_id] = RUNS[shape]
        return world.clutch(shape).run(run_id=run_id, context={"kept": True}, tags=[shape])

    ended = begin("ended", "series")
    failed = (
        Clutch(broker=world.broker).parallel(world.dies_once.message("d"), world.see.message("a")).then(world.total)
    )
    failing = failed.run(run_id="failed")
    expected["failed"] = ["d", "a"]
    with Worker(actors.__name__, env=mortal(server.url).to_env()):
        ended.get_result(block=True)
        wait_until("the run to fail", lambda: failing.status().state == "failed")
    for shape in RUNS:
        begin("halfway", shape)
        assert begin("cancelled", shape).cancel()
    worker = Worker(actors.__name__, env=mortal(server.url, crash="record 16 after").to_env(), threads=2).start()
    wait_until("the worker to be killed", lambda: world.client.exists(CRASHED))
    worker.close()
    world.client.delete(CRASHED)
    for shape in RUNS:
        begin("untouched", shape)
    return expected


if __name__ == "__main__":
    sys.exit(main())
