"""Tells what an error of a Redis server means: what the operator can do about it, and whether the server only refuses
this payload."""

from __future__ import annotations

import re

from ... import outages
from .lazily import redis

#: From how many bytes on a server may refuse a request for its size. It is half of the smallest limit that a server can
#: be set to (1 MiB, by proto-max-bulk-len), so that everything smaller is certain to be taken.
LARGE = 512 * 1024

#: Which settings bound the size of a request, for the text of an error.
LIMITS = "see the server's proto-max-bulk-len and client-query-buffer-limit, and the limits of a proxy before it"

#: The codes with which a server refuses to work for now, and what the operator can do.
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
    "NOPERM": "grant the user the commands in backends/redis/README.md, Least privilege",
    "WRONGTYPE": "another program has written to this key: remove it",
}

#: The codes of errors for which redis-py has a class of this name, since it takes the code out of their text.
CLASSES = {
    "BusyLoadingError": "LOADING",
    "ReadOnlyError": "READONLY",
    "OutOfMemoryError": "OOM",
    "MasterDownError": "MASTERDOWN",
    "ClusterDownError": "CLUSTERDOWN",
    "TryAgainError": "TRYAGAIN",
    "NoPermissionError": "NOPERM",
}

#: Finds the code in the text of an error. It stands at the beginning, or behind what a pipeline of redis-py (`caused
#: error: `) or a script on the server (`: -`) puts before it.
CODE = re.compile(r"(?:^|caused error: |: -)([A-Z]+) ")

#: What a server, or a script on it, says of a command that it doesn't have.
UNKNOWN_COMMAND = re.compile(r"unknown (redis )?command", re.IGNORECASE)

#: Words in a server's or a proxy's answer to a command that it doesn't allow, or doesn't know.
REFUSALS = ("noperm", "no permissions", "has no permission", "unknown command", "unsupported command")

#: What a server says of a length that it doesn't take. It says the same of bytes that were garbled on the way, so it is
#: taken for a refusal of a large request only.
LENGTH = re.compile(r"Protocol error: (invalid (multi)?bulk length|too big (bulk|inline|mbulk))", re.IGNORECASE)


def way_out(error: BaseException) -> str:
    """What the operator can do about an error that workers wait for."""
    if isinstance(error, redis.AuthenticationError):
        return "check user and password, and grant the user the commands in backends/redis/README.md, Least privilege"
    for known, code in CLASSES.items():
        if isinstance(error, getattr(redis.exceptions, known)):
            return CURABLE[code]
    if isinstance(error, redis.ResponseError):
        if UNKNOWN_COMMAND.search(str(error)):
            return "the server is older than Redis 6.2, or doesn't allow this command: see backends/redis/README.md"
        codes = (CURABLE.get(code) for code in CODE.findall(str(error)))
        return next((hint for hint in codes if hint), "see the server's log")
    if isinstance(error, redis.ConnectionError | redis.TimeoutError):
        return "is it running?"
    if isinstance(error, redis.exceptions.RedisClusterException):
        return "is the cluster up? See its log"
    return "see the server's log" if isinstance(error, redis.RedisError) else outages.way_out(error)


def is_outage(error: BaseException) -> bool:
    """Whether an error is of a kind that servers or the network cause. Any other is taken for a fault in a program."""
    return isinstance(error, redis.RedisError | redis.exceptions.RedisClusterException) or outages.is_outage(error)


def in_words(error: BaseException) -> str:
    """The text of an error. Its type is added if the error has no text, or isn't known to be a server's."""
    return outages.in_words(error, is_known=is_outage(error))


def refuses_command(error: Exception) -> bool:
    """Whether a server, or a proxy before it, says that this user may not use the command, or that it doesn't know
    it."""
    said = str(error).lower()
    return isinstance(error, redis.ResponseError) and any(word in said for word in REFUSALS)


def refuses(error: BaseException, size: int = 0) -> bool:
    """Whether a server has said that it will never take this request, of `size` bytes."""
    return outages.refuses(error) or bool(size >= LARGE and LENGTH.search(str(error)))
