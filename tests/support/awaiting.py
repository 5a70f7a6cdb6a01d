"""Waiting for a described condition, instead of sleeping and hoping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: How long a test waits for what is to come, in seconds, before it says that it won't: a minute, also where it takes a
#: few milliseconds, for the machine may be busy with other things. Only a test that fails waits for so long.
PATIENCE = 60.0

SHORTEST = 0.002
LONGEST = 0.1


def wait_until(description: str, condition: Callable[[], T], timeout: float = PATIENCE) -> T:
    """Return the condition's first true value.

    The condition is asked again and again, at once to begin with and then ever less often; it's asked a last
    time when the time is up, so a test that was itself paused doesn't fail for that alone.

    Parameters:
      description: What is waited for, as it should read after "waited for".
      timeout: In seconds.

    Raises:
      AssertionError: Naming the description and the last value seen.
    """
    deadline = time.monotonic() + timeout
    pause = SHORTEST
    while True:
        late = time.monotonic() >= deadline
        if value := condition():
            return value
        if late:
            raise AssertionError(f"waited {timeout:g} s for {description}; the last value was {value!r}")
        time.sleep(pause)
        pause = min(pause * 1.5, LONGEST)
