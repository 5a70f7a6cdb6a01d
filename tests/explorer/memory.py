"""The store in memory, which can be put back to any state that it has been in."""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import replace
from typing import Any

from dramatiq_clutch.backends import StubBackend
from dramatiq_clutch.backends.memory import Clock

from .processes import NOW

#: Where the scripts keep until when a duty's lease lasts.
DUE = re.compile(rb'"due":(\d+)')

#: The fields of a head that say by when something has to be complete.
BY = (b"run_by", b"stage_by")


class Memory:
    """The real scripts over dicts. Its clock stands still: when time passes, what is stored grows older."""

    def __init__(self) -> None:
        self.backend = StubBackend(clock=Clock(NOW))
        self._empty = self.backend.save()

    def load(self, saved: Any) -> None:
        """Put the store back to what it was; None is a store with nothing in it."""
        self.backend.restore(self._empty if saved is None else saved)

    def save(self) -> Any:
        return self.backend.save()

    def age(self, by: int) -> None:
        """Have so many milliseconds pass: leases, deadlines, the times at which a sweeper is to look, and what is left
        of drafts. What is in the past is all the same."""
        saved = self.backend.save()
        values: dict[bytes, Any] = {}
        for key, value in saved.values.items():
            if b":index:" in key:
                older = {name: score - by if score - by > NOW else 0.0 for name, score in value.items()}
                values[key] = type(value)(older)
            elif key.endswith(b"}:head"):
                values[key] = type(value)({name: _sooner(at, by) if name in BY else at for name, at in value.items()})
            elif b"}:outbox" in key:
                values[key] = type(value)({name: _older(duty, by) for name, duty in value.items()})
            else:
                values[key] = value
        expires = {key: at - by if b"}:draft:" in key else at for key, at in saved.expires.items()}
        self.backend.restore(replace(saved, values=values, expires=expires))

    def key(self) -> Hashable:
        """What tells the store's state from others: its keys with their values, in no order, but for lists."""
        return frozenset((key, _frozen(value)) for key, value in self.backend.save().values.items())


def _sooner(at: bytes, by: int) -> bytes:
    return b"%d" % (int(at) - by if int(at) - by > NOW else 1) if at else at


def _older(duty: bytes, by: int) -> bytes:
    def due(found: re.Match[bytes]) -> bytes:
        left = int(found[1]) - by
        return b'"due":%d' % (left if left > NOW else 0)

    return DUE.sub(due, duty)


def _frozen(value: Any) -> Hashable:
    if isinstance(value, dict):
        return frozenset(value.items())
    if isinstance(value, set):
        return frozenset(value)
    return tuple(value) if isinstance(value, list) else value
