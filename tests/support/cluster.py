"""A cluster of real Valkey servers on loopback."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from redis.cluster import RedisCluster

from tests.support.awaiting import wait_until
from tests.support.server import Server, free_port

SLOTS = 16_384


@contextmanager
def cluster(nodes: int, config: Sequence[str] = ()) -> Iterator[list[Server]]:
    """So many primaries, which share the slots alike. Whatever knows one of them finds the others."""
    lines = ["cluster-enabled yes", "cluster-node-timeout 2000", *config]
    with ExitStack() as stack:
        ports = [f"cluster-port {free_port()}" for _ in range(nodes)]
        servers = [stack.enter_context(Server(config=[*lines, port])) for port in ports]
        clients: list[Any] = [stack.enter_context(server.client()) for server in servers]
        for number, client in enumerate(clients):
            first, last = number * SLOTS // nodes, (number + 1) * SLOTS // nodes - 1
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", servers[0].port, ports[0].split()[1])
        wait_until("the cluster to be whole", lambda: all(_is_whole(client, nodes) for client in clients))
        yield servers


def cluster_client(url: str) -> RedisCluster:
    return RedisCluster.from_url(url)


def _is_whole(client: Any, nodes: int) -> bool:
    known = client.cluster("INFO")
    return bool(known["cluster_state"] == "ok" and int(known["cluster_known_nodes"]) == nodes)
