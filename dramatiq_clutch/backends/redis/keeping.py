"""What a run keeps of stages that are over, and of which no script has the keys: how long it lives, and how it goes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ...stored.formats import holder_of
from .calls import translated
from .reading import MOST_LOOKED_AT, RedisReading

#: The parts of the keys of a stage that are kept.
KEPT = ("members", "standing", "dead", "attempts")

#: Those of a run with timings.
KEPT_TIMED = (*KEPT, "times")


class RedisKeeping(RedisReading):
    """The part of a `RedisBackend` that looks after kept stages. A script names the keys of three stages at most; those
    of the stages before them are given the same time to live as the last stage's results, right after the script that
    has changed that. If the process dies in between, they live as long as they would have otherwise."""

    def _keep(self, run_id: str, generation: str) -> None:
        """Have the kept stages of a run expire with the results of its present stage, or else with its head."""
        head = self._key(run_id, "head")
        with translated():
            pipe: Any = self.client.pipeline(transaction=False)
            pipe.hmget(head, "stage", "gen", "kept", "timed")
            pipe.pttl(head)
            (stage, found, kept, timed), left = pipe.execute()
            if found is None or found.decode() != generation:
                return
            results: Any = self.client.pttl(self._key(run_id, f"members:{int(stage)}", generation))
        left = results if results > 0 else left
        self._prolong(self._kept(run_id, generation, int(stage), (kept or b"").decode(), timed=bool(timed)), left)

    def _drop_kept(self, run_id: str, generation: str, stage: int, kept: str, *, timed: bool) -> None:
        """Delete the kept stages of a run whose present stage was `stage`."""
        self._unlink(self._kept(run_id, generation, stage, kept, timed=timed))

    def _kept(self, run_id: str, generation: str, stage: int, kept: str, *, timed: bool) -> Sequence[str]:
        """The names of the keys of all stages before the last two; `kept` is the field of the head."""
        return self._of_stages(run_id, range(stage - 1), KEPT_TIMED if timed else KEPT, generation, kept)

    def _of_stages(
        self, run_id: str, stages: Iterable[int], parts: Sequence[str], generation: str, kept: str
    ) -> Sequence[str]:
        """The names of these keys of stages, each in the generation that has it."""
        return [
            self._key(run_id, f"{part}:{stage}", holder_of(stage, kept, generation))
            for stage in stages
            for part in parts
        ]

    def _prolong(self, names: Sequence[str], ttl: int) -> None:
        """Have these keys live for `ttl` milliseconds from now."""
        with translated():
            for at in range(0, len(names), MOST_LOOKED_AT):
                pipe: Any = self.client.pipeline(transaction=False)
                for name in names[at : at + MOST_LOOKED_AT]:
                    pipe.pexpire(name, max(ttl, 1))
                pipe.execute()

    def _unlink(self, names: Sequence[str]) -> None:
        with translated():
            for at in range(0, len(names), MOST_LOOKED_AT):
                pipe: Any = self.client.pipeline(transaction=False)
                for name in names[at : at + MOST_LOOKED_AT]:
                    pipe.unlink(name)
                pipe.execute()
