"""The Redis store without a server: the very same scripts, run in this process over dicts."""

from .keyspace import Clock
from .store import StubBackend

__all__ = ["Clock", "StubBackend"]
