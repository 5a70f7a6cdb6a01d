"""Reads and writes numbers and ranges as the server does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from ..redis.lazily import redis
from .keyspace import SortedSet

NOT_AN_INTEGER = "ERR value is not an integer or out of range"
NOT_A_FLOAT = "ERR value is not a valid float"


def text_of(number: float) -> bytes:
    """A number as the server writes it."""
    return b"%d" % number if type(number) is int or (number.is_integer() and abs(number) < 2**63) else b"%r" % number


def integer_of(text: bytes, error: str = NOT_AN_INTEGER) -> int:
    """The integer that a text is. Raises ResponseError with the text `error` if it isn't one."""
    try:
        value = int(text)
    except ValueError:
        value = None
    # Unlike Python, the server takes no spaces, no underscores, no leading zeros and no plus sign.
    if value is None or b"%d" % value != text or not -(2**63) <= value < 2**63:
        raise redis.ResponseError(error)
    return value


def score_of(text: bytes, error: str = NOT_A_FLOAT) -> float:
    """The score that a text is. Raises ResponseError with the text `error` if it isn't one."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if value != value:
        raise redis.ResponseError(error)
    return value


def bound_of(text: bytes) -> tuple[float, bool]:
    """A bound of a range of scores, and whether it belongs to the range."""
    is_open = text.startswith(b"(")
    return score_of(text[is_open:], "ERR min or max is not a float"), not is_open


def between(scores: SortedSet | None, least: bytes, most: bytes) -> Iterable[tuple[bytes, float]]:
    """The members whose scores lie between two bounds, with their scores."""
    (low, with_low), (high, with_high) = bound_of(least), bound_of(most)
    return (
        pair
        for pair in (scores or {}).items()
        if (pair[1] > low or (with_low and pair[1] == low)) and (pair[1] < high or (with_high and pair[1] == high))
    )


def in_order(scores: Iterable[tuple[bytes, float]]) -> list[bytes]:
    """Members in the order of their scores; members with the same score in the order of their names."""
    return [member for member, _ in sorted(scores, key=lambda pair: (pair[1], pair[0]))]


def range_of(values: Sequence[bytes], start: bytes, stop: bytes) -> list[bytes]:
    """The values with indexes from `start` to `stop`, both included. A negative index counts from the end."""
    first, last = integer_of(start), integer_of(stop)
    first = max(first + len(values), 0) if first < 0 else first
    last = last + len(values) if last < 0 else last
    return list(islice(values, first, max(last + 1, first)))


def between_names(scores: SortedSet | None, least: bytes, most: bytes) -> list[bytes]:
    """The members whose names lie between two bounds, in order. All of them must have the same score."""
    (low, with_low), (high, with_high) = ((bound[1:], bound.startswith(b"[")) for bound in (least, most))
    return sorted(
        name
        for name in (scores or ())
        if (name > low or (with_low and name == low)) and (name < high or (with_high and name == high))
    )
