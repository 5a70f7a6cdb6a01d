"""How long something takes, as a user says it: a number of milliseconds, as in Dramatiq, or a `timedelta`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

#: Milliseconds or a timedelta: ``60_000`` and ``timedelta(minutes=1)`` say the same.
Duration = int | timedelta

MILLISECOND = timedelta(milliseconds=1)


#: The units of a duration in words, in milliseconds.
UNITS = {"d": 86_400_000, "h": 3_600_000, "min": 60_000, "s": 1_000, "ms": 1}


def in_words(number: int) -> str:
    """Milliseconds in words, by the largest unit of which they are a whole number: ``in_words(90_000)`` is ``90 s``."""
    unit, size = next((unit, size) for unit, size in UNITS.items() if number % size == 0)
    return f"{number // size:,} {unit}"


def milliseconds(duration: Duration, name: str, *, least: int = 0) -> int:
    """A duration in milliseconds, rounded up, so that none becomes 0. `name`, for an error's text, is what it was given
    as. Raises TypeError for anything else, also for a float, which may be meant as seconds; and ValueError for less
    than `least` milliseconds."""
    given: Any = duration
    if isinstance(given, timedelta):
        number = -(-given // MILLISECOND)
    elif isinstance(given, int) and not isinstance(given, bool):
        number = given
    else:
        raise TypeError(f"{name} is {duration!r}; it takes a whole number of milliseconds, or a datetime.timedelta")
    if number < least:
        raise ValueError(
            f"{name} is {duration!r}; it is a number of milliseconds, or a datetime.timedelta, "
            + (f"of at least {least} ms" if least else "and not negative")
        )
    return number
