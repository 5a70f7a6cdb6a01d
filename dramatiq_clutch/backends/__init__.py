"""The state stores."""

from .redis import RedisBackend
from .stub import StubBackend

__all__ = ["RedisBackend", "StubBackend"]
