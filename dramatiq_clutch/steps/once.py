"""Iterators of steps, each of which is read once."""

from __future__ import annotations

import reprlib
from collections import deque
from collections.abc import Iterable, Iterator
from types import GeneratorType
from typing import Any
from weakref import ref

#: How many iterators are remembered as read that don't allow weak references.
MOST_KEPT = 100


def read_once(steps: Iterable[Any], *, what: str) -> Iterator[Any]:
    """An iterator over the steps of an iterable. Raises ValueError if that is itself an iterator that was read before,
    here or elsewhere: it holds only a rest of the steps, and mostly none."""
    iterator = iter(steps)
    is_over = isinstance(iterator, GeneratorType) and iterator.gi_frame is None
    if is_over or (iterator is steps and not _begins(iterator)):
        raise ValueError(
            f"{what} an iterator that is used up, or has been read before: {reprlib.repr(steps)}. "
            "Give a list, or a new iterator each time"
        )
    return iterator


#: The iterators that have been read, by their ids. The value is a weak reference, whose callback removes the entry when
#: the iterator is gone; or a tuple with the iterator, if it allows no weak reference. It is changed only by single
#: operations of a dict, which need no lock: several threads may change it, and one of them may fork.
_begun: dict[int, Any] = {}

#: The tuples among these values, the oldest first.
_kept: deque[tuple[Any]] = deque()


def _begins(iterator: Iterator[Any]) -> bool:
    """Remember that an iterator is read. Returns whether this is the first time."""
    key, mark = id(iterator), (iterator,)
    try:
        reference: Any = ref(iterator, lambda _: _begun.pop(key, None))
    except TypeError:
        if _begun.setdefault(key, mark) is not mark:
            return False
        _kept.append(mark)
        if len(_kept) > MOST_KEPT:
            _begun.pop(id(_kept.popleft()[0]), None)
        return True
    return _begun.setdefault(key, reference) is reference
