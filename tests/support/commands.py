"""Counting what a server executes, whoever has asked for it."""

from __future__ import annotations

from collections import Counter
from typing import Any

#: What isn't counted. Threads that outlive their test for some seconds, as waiters do, connect, and begin and cease to
#: listen, whatever the present test does; and `config` and `info` are how one counts.
OTHERS = {"auth", "client", "config", "hello", "info", "ping", "publish", "select", "subscribe", "unsubscribe"}


def executed(client: Any) -> Counter[str]:
    """How often the server has executed which command so far, by scripts or otherwise, such as `{"hget": 3}`. The
    difference of two of these is what was executed in between."""
    stats: dict[str, Any] = client.info("commandstats")
    calls = Counter[str]()
    for name, one in stats.items():
        command = name.removeprefix("cmdstat_").partition("|")[0]
        if command not in OTHERS:
            calls[command] += one["calls"]
    return calls
