"""The state stores."""

from .memory import StubBackend
from .redis import RedisBackend, RedisCourier

__all__ = ["RedisBackend", "RedisCourier", "StubBackend"]
