"""Reads what is known of a run's callbacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...stored.firings import Firing, Firings, calls_in
from ...stored.formats import refuse_newer
from ...stored.plan import EVENTS
from .calls import translated
from .reading import RedisReading

FIELDS = ("format", "gen", "calls", "events", "fired", *(f"fired_{event}" for event in EVENTS))


class RedisFirings(RedisReading):
    """The part of a `RedisBackend` that tells of callbacks."""

    def firings(self, run_id: str, *, generation: str = "") -> Firings | None:
        looked_at = owed = frozenset[tuple[str, Firing]]()
        while True:
            found = self._firings(run_id, generation)
            unsent = frozenset() if found is None else frozenset(found.last.items()) - _over(found.last)
            # What isn't owed any more was confirmed after the head was read, so that is read once more. If it still
            # says nothing of that, an older release has confirmed it.
            if found is None or unsent == looked_at:
                return found and replace(found, owed=frozenset(event for event, _ in owed))
            owed, looked_at = self._owed(run_id, unsent), unsent
            if owed == unsent:
                return replace(found, owed=frozenset(event for event, _ in owed))

    def _firings(self, run_id: str, generation: str) -> Firings | None:
        fields: Any = self.calls.ask(lambda: self.client.hmget(self._key(run_id, "head"), FIELDS))
        version, whose, calls, events, fired, *texts = ((field or b"").decode() for field in fields)
        if fields[0] is None:
            return None
        refuse_newer(int(version), f"run {run_id!r}")
        if generation not in ("", whose):
            return None
        last = {event: Firing.parse(text) for event, text in zip(EVENTS, texts, strict=True) if text}
        is_complete = int(fired or 0) <= sum(one.count for one in last.values())
        return Firings(calls_in(calls, events), last, is_complete=is_complete)

    def _owed(self, run_id: str, unsent: frozenset[tuple[str, Firing]]) -> frozenset[tuple[str, Firing]]:
        """Those of these firings whose duties are still in the outbox."""
        looked_for = list(unsent)
        with translated():
            pipe: Any = self.client.pipeline(transaction=False)
            for event, one in looked_for:
                pipe.execute_command("HEXISTS", self._key(run_id, "outbox", one.generation), one.duty(event))
            return frozenset(one for one, is_there in zip(looked_for, pipe.execute(), strict=True) if is_there)


def _over(last: Mapping[str, Firing]) -> frozenset[tuple[str, Firing]]:
    """The firings that nobody has to do anything for any more."""
    return frozenset((event, one) for event, one in last.items() if one.sent or one.failed)
