"""The state stores. None of them imports redis-py before it needs it (see `redis.lazily`), and who keeps runs on a
server never imports the store in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .redis import RedisBackend

if TYPE_CHECKING:
    from .memory import StubBackend
    from .redis import RedisCourier

__all__ = ["RedisBackend", "RedisCourier", "StubBackend"]


def __getattr__(name: str) -> Any:
    if name == "RedisCourier":
        from .redis import RedisCourier

        return RedisCourier
    if name == "StubBackend":
        from .memory import StubBackend

        return StubBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
