"""One text for equal values, whatever the order of a dict's keys or of a set's members, and whatever encoded them."""

from __future__ import annotations

import copyreg
import json
from collections.abc import Iterable
from types import BuiltinFunctionType, FunctionType
from typing import Any

from dramatiq import Encoder, JSONEncoder

#: How many values may stand in each other. What is deeper is told apart by its bytes.
DEEPEST = 100

#: How many values are looked at for each byte that they take. More come only of values that hold themselves, or that
#: share what they hold; those are told apart by their bytes, too.
DENSEST, FEW = 10, 1_000

_text = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def canonical(data: bytes, encoder: Encoder) -> bytes:
    """What stands for the value that was encoded as `data`: the same for equal values.

    Lists and tuples are alike, since JSON knows no tuples. An object is told by what it would be pickled as. Where that
    can't be looked into, `data` itself stands for it: different values are told apart even then, but some equal ones
    are, too. Raises what the encoder raises.
    """
    value = encoder.decode(data)
    if type(encoder) is JSONEncoder:  # a shorter way to the same text: these values are plain
        return _text(value).encode()
    try:
        return _text(_Plain(DENSEST * len(data) + FEW).of(value)).encode()
    except (_Opaque, RecursionError):
        return b"bytes " + data


class _Opaque(Exception):
    """The value is too deep, holds itself, or can't be pickled."""


class _Plain:
    """Turns any value into one that JSON can write. Whatever JSON doesn't know becomes a dict with a key that begins
    with NUL; a dict that has such a key itself becomes one, too."""

    def __init__(self, most: int) -> None:
        self._left = most

    def of(self, value: Any, depth: int = 0) -> Any:
        self._left -= 1
        kind = type(value)
        if value is None or kind in (str, bool, float):
            return value
        if kind is int:  # Python writes no number of many thousand digits
            return value if value.bit_length() < 10_000 else {"\0int": hex(value)}
        if depth > DEEPEST or self._left < 0:
            raise _Opaque
        depth += 1
        if kind in (list, tuple):
            return [self.of(item, depth) for item in value]
        if kind is dict:
            return self._dict(value, depth)
        if isinstance(value, set | frozenset):
            return {"\0set": sorted(_text(self.of(item, depth)) for item in value)}
        if kind in (bytes, bytearray):
            return {"\0bytes": value.hex()}
        if isinstance(value, type | FunctionType | BuiltinFunctionType):
            if "<" in value.__qualname__:  # a function in a function: the name isn't its own
                raise _Opaque
            return {"\0name": f"{value.__module__}.{value.__qualname__}"}
        return {"\0object": self._object(value, depth)}

    def _dict(self, value: dict[Any, Any], depth: int) -> Any:
        if all(type(key) is str and not key.startswith("\0") for key in value):
            return {key: self.of(item, depth) for key, item in value.items()}
        pairs = ((_text(self.of(key, depth)), self.of(item, depth)) for key, item in value.items())
        return {"\0dict": sorted(pairs, key=lambda pair: pair[0])}

    def _object(self, value: Any, depth: int) -> Any:
        reduced = _reduced(value)
        if isinstance(reduced, str):
            return [type(value).__module__, reduced]
        parts: tuple[Any, ...] = (*reduced, None, None, None)
        function, args, state, items, pairs = parts[:5]
        return [
            self.of(function, depth),
            self.of(args, depth),
            self.of(state, depth),
            self._all(items, depth),
            self._dict(dict(pairs or ()), depth),
        ]

    def _all(self, items: Iterable[Any] | None, depth: int) -> list[Any]:
        return [self.of(item, depth) for item in items or ()]


def _reduced(value: Any) -> Any:
    """What an object is pickled as."""
    reducer = copyreg.dispatch_table.get(type(value))
    try:
        return reducer(value) if reducer is not None else value.__reduce_ex__(4)
    except Exception as error:  # whatever a foreign object raises; nothing but a foreign encoder makes such a one
        raise _Opaque from error
