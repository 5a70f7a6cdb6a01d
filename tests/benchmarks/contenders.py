"""All contenders on Dramatiq. Their workers import this module, with BENCH_WHO and BENCH_URL set."""

from __future__ import annotations

import os

from tests.benchmarks.on_dramatiq import Clutches, Floor, OnDramatiq
from tests.benchmarks.peers import Groups, Workflows, WorkflowsWithResults

ON_DRAMATIQ: tuple[type[OnDramatiq], ...] = (Floor, Clutches, Groups, Workflows, WorkflowsWithResults)

if "BENCH_WHO" in os.environ:
    kinds = {kind.__name__: kind for kind in ON_DRAMATIQ}
    broker = kinds[os.environ["BENCH_WHO"]](os.environ["BENCH_URL"]).broker
