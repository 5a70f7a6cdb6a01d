"""The state stores."""

from .redis import RedisBackend, RedisCourier
from .stub import StubBackend

__all__ = ["RedisBackend", "RedisCourier", "StubBackend"]
