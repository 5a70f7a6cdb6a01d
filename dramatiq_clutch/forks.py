"""Renews, in a forked child, what was only valid in the parent.

Of a process's threads only the one that forks exists in the child. So a lock that another thread held at that moment
would be held in the child for ever, and what another thread was waiting for would never be taken.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakValueDictionary

Value = TypeVar("Value")


class Renewable(Protocol):
    """An object that has locks, or remembers something that is only true of this process."""

    def renew(self) -> None:
        """Begin anew, with new locks and nothing remembered. It is called in the child, while that has one thread."""


# They are kept by their ids, because not all of them can be hashed; and weakly, so that being here keeps none alive.
_renewables: WeakValueDictionary[int, Renewable] = WeakValueDictionary()


def renew_in_children(renewable: Renewable) -> None:
    """Have `renewable.renew()` called in every child that this process forks, as long as `renewable` exists. It isn't
    kept alive by this."""
    _renewables[id(renewable)] = renewable


class cached_property(Generic[Value]):  # noqa: N801
    """Like `functools.cached_property`, but without a lock. That one, before Python 3.12, has one lock for all
    instances, and holds it while a value is computed. So threads would wait for each other, and a forked child for
    ever."""

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
