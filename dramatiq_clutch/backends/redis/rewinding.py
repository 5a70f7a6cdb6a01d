"""Puts a run at rest back to work at one of its stages, under a new generation."""

from __future__ import annotations

from typing import Any

from ...backend import Caller, Reply
from ...stored.formats import Snapshot, holder_of, kept_below
from ...stored.plan import Spec
from .calling import At, RedisCalling
from .keeping import KEPT, KEPT_TIMED
from .replies import reply_from


class RedisRewinding(RedisCalling):
    """The part of a `RedisBackend` that does stages again. What the stages before them have kept stays: the script
    takes the keys of the last of these over into the new generation, because the scripts read them; all others stay
    where they are, and the head says in which generation that is (see `stored.formats.holder_of`)."""

    def rewind(self, run_id: str, stage: int, spec: Spec, caller: Caller, *, generation: str) -> Reply:
        self._whereabouts(run_id, "rewind", caller, generation)  # raises what is to be raised of another's run
        names = ("gen", "kept", "ttl", "until", "timed")
        fields: Any = self.calls.ask(lambda: self.client.hmget(self._key(run_id, "head"), names))
        whose, kept, ttl, until, timed = ((field or b"").decode() for field in fields)
        if whose == generation:
            # They live as long as the result until now; and if this process dies after the script, nobody else knows
            # that they have to live for longer.
            lives = int(ttl) + max(int(until or 0) - caller.now, 0)
            self._prolong(self._kept(run_id, generation, stage, kept, timed=bool(timed)), lives)
        keys = {f"old.{part}": self._key(run_id, part, generation) for part in ("plan", "outbox", "failures", "tally")}
        holder = holder_of(stage - 1, kept, generation)
        keys |= {f"old.{part}": self._key(run_id, f"{part}:{stage - 1}", holder) for part in KEPT_TIMED}
        given = {"earlier": generation, "spec": spec.to_bytes(), "kept": kept_below(stage - 1, kept, generation)}
        raw = self._call("rewind", At(run_id, stage, spec.generation), caller, given, keys=keys)
        return reply_from(raw, spec.generation)

    def drop_pass(self, run_id: str, snapshot: Snapshot, stage: int) -> None:
        head = snapshot["head"]
        generation, stages = head["gen"], range(stage, int(head["stage"]) + 1)
        parts = (*(KEPT_TIMED if head.get("timed") else KEPT), "halted", "items", "nests", "due")
        of_stages = self._of_stages(run_id, stages, parts, generation, head.get("kept", ""))
        self._unlink([*of_stages, *(self._key(run_id, part, generation) for part in ("outbox", "callbacks"))])
