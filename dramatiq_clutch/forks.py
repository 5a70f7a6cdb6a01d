"""What a forked child makes anew.

Of a process's threads only the one that forks lives on in the child. A lock that another one held just then is held
there for ever, and what another one waited for is nobody's any more.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakValueDictionary

Value = TypeVar("Value")


class Renewable(Protocol):
    """Whoever has locks, or remembers what is of this process only."""

    def renew(self) -> None:
        """Begin anew, with locks of its own that nobody holds. Called in the child, where there is one thread yet."""


# By their ids, since not all of them can be hashed; weakly, since nothing lives longer for being here.
_renewables: WeakValueDictionary[int, Renewable] = WeakValueDictionary()


def renew_in_children(renewable: Renewable) -> None:
    """Have `renewable.renew()` called in every child that this process forks, as long as somebody holds it."""
    _renewables[id(renewable)] = renewable


class cached_property(Generic[Value]):  # noqa: N801
    """What functools has, without a lock. There, before Python 3.12, all instances share one while a value is computed,
    whatever that takes: threads wait for each other's, and a forked child for ever."""

    def __init__(self, compute: Callable[[Any], Value]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Value:
        value = instance.__dict__[self._name] = self._compute(instance)
        return value


def _renew_all() -> None:
    for renewable in list(_renewables.values()):
        renewable.renew()


if hasattr(os, "register_at_fork"):  # there is no fork on Windows
    os.register_at_fork(after_in_child=_renew_all)
