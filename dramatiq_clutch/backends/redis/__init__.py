"""The store of runs in Redis."""

from __future__ import annotations

from .courier import RedisCourier
from .store import RedisBackend

__all__ = ["RedisBackend", "RedisCourier"]
