"""The Redis store without a server: the very same scripts, run in this process over dicts."""

from .keyspace import Clock
from .store import MemoryBackend

__all__ = ["Clock", "MemoryBackend"]
