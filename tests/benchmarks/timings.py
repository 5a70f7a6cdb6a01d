"""What timings take: the bytes of a member whose job has succeeded, in a run with timings and in one without.

python -m tests.benchmarks.timings --members 1000
"""

from __future__ import annotations

import argparse
from typing import Any

from dramatiq_clutch.backend import Caller, Record
from dramatiq_clutch.backends import RedisBackend
from dramatiq_clutch.stored.places import Tag
from dramatiq_clutch.stored.plan import Plan, Spec, StageLine
from tests.support.server import Server

GENERATION, WORKER, TTL = "76543210", "worker-1.example:12345", 10_000_000


def taken(client: Any, members: int, *, timed: bool) -> int:
    """How many bytes all keys of a run take when so many members of its stage have succeeded, and one hasn't."""
    backend, run_id, line = RedisBackend(client=client), f"timed-{timed}", StageLine(0, members + 1, many=True)
    plan = Plan(Spec(generation=GENERATION, timed=timed), (line,), (b"m{}",) * (members + 1))

    def caller() -> Caller:
        return Caller("somebody", backend.now(), "lease", 1_000, touch=False)

    backend.create(run_id, plan, caller(), run_ttl=TTL, result_ttl=TTL)
    for member in range(members):
        tag, began = Tag(run_id, 0, member, members + 1, generation=GENERATION, timed=timed), backend.now()
        backend.guard(tag, began, worker=WORKER)
        backend.record(Record(tag, 0, "succeeded", b"1", began=began, worker=WORKER), caller())
    names = client.keys(f"*{{{run_id}}}*")
    return sum(client.execute_command("MEMORY", "USAGE", name, "SAMPLES", 0) for name in names)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.timings", description=__doc__)
    parser.add_argument("--members", type=int, default=1_000)
    members = parser.parse_args().members
    with Server() as server, server.client() as client:
        without, with_timings = taken(client, members, timed=False), taken(client, members, timed=True)
    print(f"{members:,} members: {without / members:.0f} bytes a member, with timings {with_timings / members:.0f}")
    print(f"so timings take {(with_timings - without) / members:.0f} bytes a member")


if __name__ == "__main__":
    main()
