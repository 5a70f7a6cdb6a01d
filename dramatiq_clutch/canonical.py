"""Writes the same text for equal values, whatever the order of a dict's keys or of a set's members, and whichever
encoder has encoded them. Fingerprints are made of it."""

from __future__ import annotations

import copyreg
import json
from collections.abc import Iterable
from types import BuiltinFunctionType, FunctionType
from typing import Any

from dramatiq import Encoder, JSONEncoder

#: How deeply values may be nested in each other. For a value that is deeper, its encoded bytes are taken.
DEEPEST = 100

#: How many values are looked at for each encoded byte, and how many in any case. Only values that contain themselves,
#: or contain others many times, have more; their encoded bytes are taken, too.
DENSEST, FEW = 10, 1_000

_text = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def canonical(data: bytes, encoder: Encoder) -> bytes:
    """A text for the value that was encoded as `data`, which is the same for equal values.

    A list and a tuple of the same items are equal here, since JSON has no tuples. For an object, what it would be
    pickled as is written. If a value can't be written in this way, the text is made of `data` itself: then different
    values still have different texts, but some equal values do, too. Raises what the encoder raises.
    """
    value = encoder.decode(data)
    if type(encoder) is JSONEncoder:  # JSON's own values can be written directly, to the same text
        return _text(value).encode()
    try:
        return _text(_Plain(DENSEST * len(data) + FEW).of(value)).encode()
    except (_Opaque, RecursionError):
        return b"bytes " + data


class _Opaque(Exception):
    """The value is too deep, holds itself, or can't be pickled."""


class _Plain:
    """Turns any value into one that JSON can write. A value that JSON doesn't know becomes a dict with one key that
    begins with NUL, and so does a dict that has such a key itself.

    Parameters:
      most: how many values it looks at.
    """

    def __init__(self, most: int) -> None:
        self._left = most

    def of(self, value: Any, depth: int = 0) -> Any:
        self._left -= 1
        kind = type(value)
        if value is None or kind in (str, bool, float):
            return value
        if kind is int:  # Python refuses to write an int of more than 4,300 digits in decimal
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
            if "<" in value.__qualname__:  # a lambda or a local function: others may have the same name
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
    """What `pickle` would be given for an object. Raises _Opaque if it can't be pickled."""
    reducer = copyreg.dispatch_table.get(type(value))
    try:
        return reducer(value) if reducer is not None else value.__reduce_ex__(4)
    except Exception as error:  # a user's class may raise anything; only a user's encoder gives such objects
        raise _Opaque from error
