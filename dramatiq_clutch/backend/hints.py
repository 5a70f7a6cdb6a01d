"""What is said without being stored: a hint that something has changed, for all who listen."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Sequence

#: The name under which sweepers listen for hints that there is work for them before their interval is over.
SWEEP = "!sweep"


class Listener(abc.ABC):
    """Listens for hints about names, which are ids of runs, or SWEEP. One thread uses it; any thread may call `wake`.

    `is_deaf` says that the store lets nobody listen, so that the caller has to look by itself now and then. It is valid
    after the first call of `hear`.
    """

    is_deaf = False

    @abc.abstractmethod
    def add(self, names: Iterable[str]) -> None:
        """Listen for these names as well. Raises StateUnavailable; the names are listened for all the same, once the
        store is back."""

    @abc.abstractmethod
    def remove(self, names: Iterable[str]) -> None:
        """Stop listening for these names. Raises StateUnavailable."""

    @abc.abstractmethod
    def hear(self, timeout: float) -> Sequence[str]:
        """Wait for hints, for `timeout` seconds at most.

        Returns the names about which there was a hint, and the names for which listening has just begun, for the first
        time or after an outage. Earlier hints about these weren't heard, so the caller looks at them once. Raises
        StateUnavailable.
        """

    @abc.abstractmethod
    def wake(self) -> None:
        """Make `hear` return soon, in whichever thread it waits. Like a hint, this may be lost."""

    @abc.abstractmethod
    def close(self) -> None:
        """Give back the connection."""


class Hints(abc.ABC):
    """The part of a store that gives hints, and lets listen for them."""

    @abc.abstractmethod
    def listen(self) -> Listener:
        """A new listener for the hints of all processes. It connects when its `hear` is first called."""

    @abc.abstractmethod
    def say(self, name: str) -> None:
        """Give a hint about a name to all who listen for it, so that they look at what it stands for. The transition
        that brings a run to rest gives a hint by itself. Hints may be lost, so this raises nothing if the store is
        away."""
