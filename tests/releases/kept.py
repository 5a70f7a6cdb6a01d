"""The content of a server as a file, and a server's content made of one. Times to live are relative, so that runs go on
from where they stood however old the file is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import redis

FOLDER = Path(__file__).parent

#: The commands by which the content of a key of each type is read.
READ = {
    "string": ("GET",),
    "hash": ("HGETALL",),
    "list": ("LRANGE", 0, -1),
    "set": ("SMEMBERS",),
    "zset": ("ZRANGE", 0, -1, "WITHSCORES"),
}


def written(client: redis.Redis) -> dict[str, Any]:
    """All keys of a server, each with its type, its time to live in milliseconds (-1: none) and its content."""
    kept: dict[str, Any] = {}
    anything: Any = client
    for key in sorted(anything.scan_iter()):
        kind = anything.type(key).decode()
        command, *more = READ[kind]
        content = anything.execute_command(command, key, *more)
        kept[text(key)] = {"type": kind, "ttl": anything.pttl(key), "content": plain(kind, content)}
    return kept


def plain(kind: str, content: Any) -> Any:
    """What a key holds as JSON has it. Bytes are texts with one character for each."""
    if kind == "string":
        return text(content)
    if kind == "hash":
        return {text(name): text(value) for name, value in sorted(content.items())}
    if kind == "zset":
        return [[text(member), float(score)] for member, score in content]
    return [text(one) for one in (sorted(content) if kind == "set" else content)]


def put_back(client: redis.Redis, kept: dict[str, Any]) -> None:
    """Make a server's content what it was."""
    anything: Any = client
    for name, value in kept.items():
        key, content = data(name), value["content"]
        if value["type"] == "string":
            anything.set(key, data(content))
        elif value["type"] == "hash":
            anything.hset(key, mapping={data(one): data(other) for one, other in content.items()})
        elif value["type"] == "zset":
            anything.zadd(key, {data(member): score for member, score in content})
        else:
            push = anything.rpush if value["type"] == "list" else anything.sadd
            push(key, *map(data, content))
        if value["ttl"] >= 0:
            anything.pexpire(key, value["ttl"])


def text(data: bytes) -> str:
    return data.decode("latin-1")


def data(text: str) -> bytes:
    return text.encode("latin-1")


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def files() -> list[Path]:
    """What is kept of each release that is known."""
    return sorted(FOLDER.glob("*.json"))
