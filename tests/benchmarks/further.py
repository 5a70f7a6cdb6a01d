"""The peers on other queues. Each is measured if it is installed, and isn't imported before that is known."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tests.benchmarks.contender import Contender

#: Where packages for Node are looked for.
NODE_MODULES = Path(os.environ.get("BENCH_NODE_MODULES", Path(__file__).parent / "node_modules"))


@dataclass(frozen=True)
class Peer:
    """Where the contender of a peer is.

    Parameters:
      name: as people call it.
      module: in this folder.
      contender: its class.
      needs: packages that have to be there, of Python or of Node.
      install: how they come to be there.
      node: whether they are Node's.
    """

    name: str
    module: str
    contender: str
    needs: tuple[str, ...]
    install: str
    node: bool = False

    def is_there(self) -> bool:
        if self.node:
            return shutil.which("node") is not None and all((NODE_MODULES / name).is_dir() for name in self.needs)
        return all(find_spec(name) for name in self.needs)

    def kind(self) -> type[Contender]:
        found: type[Contender] = getattr(importlib.import_module(f"tests.benchmarks.{self.module}"), self.contender)
        return found


NPM = "npm install --no-save --prefix tests/benchmarks bullmq ioredis, with Node; or their folder in BENCH_NODE_MODULES"

PEERS = (
    Peer("BullMQ on Node", "bullmq_node_contender", "NodeFlows", ("bullmq", "ioredis"), NPM, node=True),
    Peer("BullMQ for Python", "bullmq_contender", "Flows", ("bullmq",), "pip install bullmq"),
    Peer("huey", "huey_contender", "HueyChords", ("huey",), "pip install 'huey>=3'"),
    Peer("streaQ", "streaq_contender", "Streaqs", ("streaq",), "pip install streaq, from Python 3.11"),
    Peer(
        "taskiq-pipelines",
        "taskiq_contender",
        "Pipelines",
        ("taskiq", "taskiq_redis", "taskiq_pipelines"),
        "pip install taskiq taskiq-redis taskiq-pipelines",
    ),
)


def installed(say: Callable[[str], None]) -> Iterator[type[Contender]]:
    """Those that are there; of each other one it is said how to get it."""
    for peer in PEERS:
        if peer.is_there():
            yield peer.kind()
        else:
            say(f"Left out, for it isn't installed: {peer.name} ({peer.install})")
