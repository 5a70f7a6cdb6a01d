"""redis-py, which is imported when anything of it is first asked for.

Importing it takes longer than most that a small program does, and the store in memory, which is made of the modules
that know redis-py, needs of it no more than its errors. So these modules say ``from .lazily import redis``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import redis
else:

    class _Lazily:
        def __getattr__(self, name: str) -> Any:
            module = importlib.import_module("redis")
            vars(self).update(vars(module))  # so that this is called once
            return getattr(module, name)

    redis = _Lazily()

__all__ = ["redis"]
