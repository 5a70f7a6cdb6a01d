"""What a user says about a run, beside its work: its context, and its tags."""

from __future__ import annotations

import json
import reprlib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

#: How many bytes a context may have at most, as JSON in ASCII.
MOST_BYTES = 8_192

#: How deeply values may be nested in a context.
DEEPEST = 50

#: How many tags a run may have, and how many characters each of them.
MOST_TAGS, LONGEST_TAG = 20, 100


class Context(Mapping[str, Any]):
    """A run's context: a mapping that can't be changed. What is read from it is a copy.

    Parameters:
      data: what JSON can hold. It is not copied, so it must be the context's own.
    """

    __slots__ = ("_data",)

    def __init__(self, data: dict[str, Any] | None = None) -> None:
        self._data = data or {}

    @classmethod
    def given(cls, context: Mapping[str, Any], what: str) -> Context:
        """The context that a user gives; `what`, for an error's text, says as what. Raises TypeError for what JSON
        can't hold as it is."""
        if isinstance(context, cls):
            return context
        if not isinstance(context, Mapping):
            raise TypeError(f"{what} is {reprlib.repr(context)}; it takes a dict with strings as keys")
        return cls(json.loads(json.dumps(_plain(context, what, 0))))

    @classmethod
    def from_json(cls, text: str | bytes) -> Context:
        """The opposite of `to_json`. Raises ValueError or TypeError for anything else."""
        return cls(dict(json.loads(text)))

    def to_json(self) -> str:
        return json.dumps(self._data, separators=(",", ":"))

    def overlaid(self, above: Context | None) -> Context:
        """This context with another one above it: where both have a key, the other's counts."""
        return Context({**self._data, **above}) if above else self

    def check_size(self, whose: str) -> None:
        """Raises ValueError if it is too large. `whose` begins the error's text."""
        size = len(self.to_json())
        if size > MOST_BYTES:
            raise ValueError(
                f"{whose} has {size:,} bytes as JSON, and may have {MOST_BYTES:,}: keep what is large elsewhere, and "
                "put its name or address into the context"
            )

    def __getitem__(self, key: str) -> Any:
        return _copied(self._data[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __hash__(self) -> int:
        return hash(frozenset(self._data))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._data,)

    def __repr__(self) -> str:
        return repr(self._data)


def _plain(value: Any, place: str, depth: int) -> Any:
    """The same value, if JSON can hold it as it is; tuples become lists. Raises TypeError, with the place in it."""
    if depth > DEEPEST:
        raise TypeError(f"{place} is nested more than {DEEPEST} levels deep, or holds itself")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{place} has the key {reprlib.repr(key)}; all keys of a context are strings")
        return {key: _plain(one, f"{place}[{key!r}]", depth + 1) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one, f"{place}[{index}]", depth + 1) for index, one in enumerate(value)]
    isnt_finite = isinstance(value, float) and (value != value or value in (float("inf"), -float("inf")))
    if isnt_finite or not (value is None or isinstance(value, str | int | float)):
        raise TypeError(
            f"{place} is {reprlib.repr(value)}; a context holds what JSON does: strings, numbers, True, False, None, "
            "lists and dicts of these"
        )
    return value


def _copied(value: Any) -> Any:
    if isinstance(value, list):
        return [_copied(one) for one in value]
    return {key: _copied(one) for key, one in value.items()} if isinstance(value, dict) else value


def valid_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """A run's tags, each of them once, in the order in which they are given. Raises TypeError for what isn't a
    collection of strings; and ValueError for too many of them, or for one that is empty, too long, or has a character
    that isn't to be shown."""
    given: Any = tags
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise TypeError(f"tags is {given!r}; it takes a list of strings, such as tags=['nightly']")
    found = tuple(dict.fromkeys(given))
    for tag in found:
        if not isinstance(tag, str):
            raise TypeError(f"tags has {reprlib.repr(tag)} in it; each tag is a string")
        if not 0 < len(tag) <= LONGEST_TAG:
            raise ValueError(f"the tag {reprlib.repr(tag)} has {len(tag)} characters; it takes 1 to {LONGEST_TAG}")
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in tag):
            raise ValueError(f"the tag {tag!r} has a control character, or half of one in it")
    if len(found) > MOST_TAGS:
        raise ValueError(f"a run takes {MOST_TAGS} tags at most, and was given {len(found)}")
    return found
