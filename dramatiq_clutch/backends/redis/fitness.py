"""Whether a server of Redis or Valkey is fit to keep runs, as far as it lets its user ask."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from ...errors import StateUnavailable
from ...findings import Finding

#: The oldest version of Redis that has all commands which are used. As Redis, every Valkey says it is 7.2.
OLDEST = (6, 2)

#: By how many seconds the clocks of a host and of the server may differ without a word.
MOST_APART = 5


def findings(client: Any, ask: Callable[[Callable[[], Any]], Any]) -> Iterator[Finding]:
    """What is to be said of the client's server. `ask` makes a call, and raises StateUnavailable."""
    asked = time.time()
    try:
        known = {section: of_one_server(ask(partial(client.info, section))) for section in SECTIONS}
    except StateUnavailable as error:
        yield Finding(
            "info",
            f"The server can't be asked about itself: {error}",
            "Allow its user INFO, so that eviction and persistence can be looked at",
        )
        return
    yield from of_version(known["server"])
    yield from of_clock(known["server"], asked, time.time())
    yield from of_eviction(known["memory"])
    yield from of_persistence(known["persistence"], _setting(client, ask, "save"), _setting(client, ask, "appendfsync"))


SECTIONS = ("server", "memory", "persistence")


def of_one_server(answer: dict[str, Any]) -> dict[str, Any]:
    """What one server has answered; a cluster's client has the answers of all, by their names."""
    first = next(iter(answer.values()), None)
    return first if isinstance(first, dict) and ":" in next(iter(answer)) else answer


def _setting(client: Any, ask: Callable[[Callable[[], Any]], Any], name: str) -> str | None:
    """A setting of the server; None if it can't be asked for, as by the user that the manual recommends."""
    try:
        found: dict[str, str] = of_one_server(ask(lambda: client.config_get(name)))
    except StateUnavailable:
        return None
    return next((str(value) for key, value in found.items() if str(key).endswith(name)), None)


def of_version(server: dict[str, Any]) -> Iterator[Finding]:
    is_valkey = "valkey_version" in server
    version = str(server.get("valkey_version") or server.get("redis_version", ""))
    name = f"{'Valkey' if is_valkey else 'Redis'} {version}"
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if not is_valkey and numbers and numbers < OLDEST:
        yield Finding("error", f"The server is {name}, which lacks commands", "Use Redis 6.2, any Valkey, or newer")
    else:
        yield Finding("info", f"The server is {name}")


def of_clock(server: dict[str, Any], asked: float, answered: float) -> Iterator[Finding]:
    """Whether this host's clock and the server's agree. The server was `asked` and has `answered` at these times, in
    UNIX seconds by this host's clock."""
    there = int(server.get("server_time_usec", 0)) / 1_000_000
    ahead = max(asked - there, 0) - max(there - answered, 0)
    if there and abs(ahead) > MOST_APART:
        how = "ahead of" if ahead > 0 else "behind"
        yield Finding(
            "warning",
            f"The clock of this host is {abs(ahead):,.0f} s {how} that of the state store's server; leases and "
            "deadlines go by the clocks of hosts, so what one does another may do, too, or let fail too early",
            "Have the clocks of all hosts set by NTP",
        )


def of_eviction(memory: dict[str, Any]) -> Iterator[Finding]:
    policy, most = memory.get("maxmemory_policy", "noeviction"), int(memory.get("maxmemory", 0))
    used = int(memory.get("used_memory", 0))
    if most and policy != "noeviction":
        yield Finding(
            "error",
            f"The server is set to evict keys when its memory ({most:,} bytes) is full (maxmemory-policy {policy}); a "
            "run whose keys are evicted is lost",
            "Set maxmemory-policy noeviction, or give runs a server of their own",
        )
    if most and used > 0.9 * most:
        yield Finding(
            "warning",
            f"The server has used {used:,} of the {most:,} bytes of memory that it may",
            "Give it more memory, or keep less: see run_ttl, result_ttl and history_ttl of ClutchMiddleware",
        )


def of_persistence(persistence: dict[str, Any], save: str | None, fsync: str | None) -> Iterator[Finding]:
    if int(persistence.get("aof_enabled", 0)):
        how = f" (appendfsync {fsync})" if fsync else ""
        yield Finding("info", f"The server keeps an append-only file{how}")
    elif save == "":
        yield Finding(
            "warning",
            "The server keeps nothing on disk, so a restart loses all runs",
            "Set appendonly yes where runs must survive that",
        )
    else:
        yield Finding(
            "warning",
            "The server keeps no append-only file, so a crash loses what was done since its last snapshot",
            "Set appendonly yes where runs must survive that",
        )
    if str(persistence.get("aof_last_write_status", "ok")) != "ok" or (
        str(persistence.get("rdb_last_bgsave_status", "ok")) != "ok"
    ):
        yield Finding("error", "The server can't write to its disk", "See its log, and whether the disk is full")
