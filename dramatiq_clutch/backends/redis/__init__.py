"""The store of runs in Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .store import RedisBackend

if TYPE_CHECKING:
    from .courier import RedisCourier

__all__ = ["RedisBackend", "RedisCourier"]


def __getattr__(name: str) -> Any:
    if name == "RedisCourier":  # it imports Dramatiq's broker for Redis, and so redis-py (see `lazily`)
        from .courier import RedisCourier

        return RedisCourier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
