"""The state stores. None of them imports redis-py before it needs it (see `redis.lazily`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .memory import StubBackend
from .redis import RedisBackend

if TYPE_CHECKING:
    from .redis import RedisCourier

__all__ = ["RedisBackend", "RedisCourier", "StubBackend"]


def __getattr__(name: str) -> Any:
    if name == "RedisCourier":
        from .redis import RedisCourier

        return RedisCourier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
