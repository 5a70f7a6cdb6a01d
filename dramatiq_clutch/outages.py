"""Which of Redis's errors waiting cures, and what its operator can do about each."""

from __future__ import annotations

import re

import redis
from redis import exceptions

#: What a server answers that refuses to work for now.
CURABLE = {
    "LOADING": "the server is still loading its data",
    "READONLY": "this server is a replica: point the URL at the primary, or wait for the failover to end",
    "OOM": "the server is out of memory: raise maxmemory or free some",
    "BUSY": "the server is running a script that doesn't end: SCRIPT KILL ends it",
    "MASTERDOWN": "the replica has lost its primary",
    "MISCONF": "the server can't save to disk: see its log",
    "CLUSTERDOWN": "the cluster is down",
    "TRYAGAIN": "the cluster is moving the slot",
    "NOREPLICAS": "the server has too few replicas to accept writes",
}

#: redis-py takes the code out of the text of those that it has a class for.
CLASSES: dict[type[Exception], str] = {
    exceptions.BusyLoadingError: "LOADING",
    exceptions.ReadOnlyError: "READONLY",
    exceptions.OutOfMemoryError: "OOM",
    exceptions.MasterDownError: "MASTERDOWN",
    exceptions.ClusterDownError: "CLUSTERDOWN",
    exceptions.TryAgainError: "TRYAGAIN",
}

#: In the text of an error the code comes first, or after what redis-py (a pipeline) or the server (a script) put there.
CODE = re.compile(r"(?:^|caused error: |: -)([A-Z]+) ")


def way_out(error: Exception) -> str | None:
    """What helps against an error that waiting cures; None for any other error."""
    if isinstance(error, redis.AuthenticationError):
        return "check user and password"
    for known, code in CLASSES.items():
        if isinstance(error, known):
            return CURABLE[code]
    if isinstance(error, redis.ConnectionError | redis.TimeoutError):
        return "is it running?"
    if isinstance(error, redis.ResponseError):
        codes = (CURABLE.get(code) for code in CODE.findall(str(error)))
        return next((hint for hint in codes if hint), None)
    return None
