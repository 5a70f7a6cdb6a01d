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
def cluster(nodes: int, config: Sequence[str] = (), replicas: int = 0) -> Iterator[list[Server]]:
    """So many primaries, which share the slots alike, and behind them replicas, the first one of the first primary.
    Whatever knows one of them finds the others."""
    lines = ["cluster-enabled yes", "cluster-node-timeout 2000", *config]
    with ExitStack() as stack:
        ports = [f"cluster-port {free_port()}" for _ in range(nodes + replicas)]
        servers = [stack.enter_context(Server(config=[*lines, port])) for port in ports]
        clients: list[Any] = [stack.enter_context(server.client()) for server in servers]
        for number, client in enumerate(clients):
            if number < nodes:
                first, last = number * SLOTS // nodes, (number + 1) * SLOTS // nodes - 1
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", servers[0].port, ports[0].split()[1])
        wait_until("the cluster to be whole", lambda: all(_is_whole(client, nodes + replicas) for client in clients))
        for number, client in enumerate(clients[nodes:]):
            client.execute_command("CLUSTER", "REPLICATE", clients[number].execute_command("CLUSTER", "MYID"))
        wait_until("the replicas to be in sync", lambda: all(_is_in_sync(client) for client in clients[nodes:]))
        yield servers


def cluster_client(url: str) -> RedisCluster:
    return RedisCluster.from_url(url)


def _is_in_sync(client: Any) -> bool:
    return bool(client.info("replication").get("master_link_status") == "up")


def _is_whole(client: Any, nodes: int) -> bool:
    known = client.cluster("INFO")
    return bool(known["cluster_state"] == "ok" and int(known["cluster_known_nodes"]) == nodes)
