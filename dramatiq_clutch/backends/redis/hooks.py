"""Which hooks the middlewares of a broker have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dramatiq import Broker, Middleware


class Hooks:
    """Hooks of these names that matter, of all middlewares of a broker; false if there are none.

    It is asked for each message, because calling ten empty methods for a message costs more than sending it. So the
    answer is kept for as long as the middlewares are the same.

    Parameters:
      broker: the broker.
      names: the names of the hooks.
      matters: whether a function that is such a hook does.
    """

    def __init__(self, broker: Broker, names: Sequence[str], matters: Callable[[Any], bool]) -> None:
        self._broker, self._names, self._matters = broker, names, matters
        self._seen: list[Middleware] = []
        self._are_there = False

    def __bool__(self) -> bool:
        if self._seen != self._broker.middleware:
            seen = list(self._broker.middleware)
            self._are_there = any(self._matters(getattr(type(one), name)) for one in seen for name in self._names)
            self._seen = seen
        return self._are_there


def awaits_enqueue(hook: Any) -> bool:
    """Whether a hook is one of a middleware, and not the empty one of `Middleware`, that is to see what this package
    sends."""
    is_empty = hook in (Middleware.before_enqueue, Middleware.after_enqueue)
    return not is_empty and not hasattr(hook, "of_others")
