"""Looking at what the library keeps in the server, and at what it leaves there."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import redis

from dramatiq_clutch.backend import ClutchBackend
from dramatiq_clutch.backends import RedisBackend, StubBackend

NAMESPACE = "dramatiq-clutch"

NO_EXPIRY = -1  # what PTTL answers for a key that lives for ever; -2 is for one that has just gone


def key_of(client: redis.Redis, run_id: str, part: str, namespace: str = NAMESPACE) -> str:
    """The name of a run's key, which ends in the generation of the run that has the id now."""
    generation: Any = client.hget(f"{namespace}:{{{run_id}}}:head", "gen")
    return f"{namespace}:{{{run_id}}}:{part}" + (f":{generation.decode()}" if generation else "")


def part_of(key: str) -> str:
    """A key's name without the generation of its run."""
    return re.sub(r":[0-9a-f]{8}$", "", key)


def clutch_keys(client: redis.Redis, namespace: str = NAMESPACE) -> list[str]:
    """Every key of the namespace, sorted."""
    return sorted(key.decode() for key in client.scan_iter(match=f"{namespace}:*", count=1_000))


def run_keys(client: redis.Redis, namespace: str = NAMESPACE) -> list[str]:
    """Every key of the namespace that is of a run, sorted: neither the index nor the register."""
    return [key for key in clutch_keys(client, namespace) if key.startswith(f"{namespace}:{{")]


def keys_without_expiry(client: redis.Redis, namespace: str = NAMESPACE) -> list[str]:
    """The keys of the namespace that nothing would ever remove."""
    found, keys = list[str](), clutch_keys(client, namespace)
    for at in range(0, len(keys), 1_000):
        some = keys[at : at + 1_000]
        pipe = client.pipeline(transaction=False)
        for key in some:
            pipe.pttl(key)
        found += [key for key, left in zip(some, pipe.execute(), strict=True) if left == NO_EXPIRY]
    return found


def left_over(client: redis.Redis, *, allowed: Collection[str], namespace: str = NAMESPACE) -> list[str]:
    """The keys of the namespace that end in none of the allowed suffixes."""
    return [key for key in run_keys(client, namespace) if not part_of(key).endswith(tuple(allowed))]


def remove_keys(backend: ClutchBackend, run_id: str = "") -> None:
    """Remove every key that a backend has written, or those of one run, as no transition would."""
    assert isinstance(backend, RedisBackend)
    client: Any = backend.client
    names = list(backend.keyspace.values) if isinstance(backend, StubBackend) else client.keys(f"{backend.namespace}:*")
    found = [key for key in names if not run_id or f":{{{run_id}}}:".encode() in key]
    if found:
        client.execute_command("DEL", *found)


def assert_all_expire(client: redis.Redis, namespace: str = NAMESPACE) -> None:
    immortal = keys_without_expiry(client, namespace)
    assert not immortal, f"keys without an expiry: {immortal}"


def assert_only_left(client: redis.Redis, *, allowed: Collection[str], namespace: str = NAMESPACE) -> None:
    """Assert that nothing is left of finished runs but what may stay: the final result, the status, the mark.

    Parameters:
      allowed: The suffixes that such keys have, such as `":result"`.
    """
    extra = left_over(client, allowed=allowed, namespace=namespace)
    assert not extra, f"keys left over: {extra}"
