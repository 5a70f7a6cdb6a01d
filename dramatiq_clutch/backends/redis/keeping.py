"""What a run keeps of stages that are over, and of which no script has the keys: how long it lives, and how it goes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .calls import translated
from .reading import MOST_LOOKED_AT, RedisReading

#: The parts of the keys of a stage that are kept.
KEPT = ("members", "standing", "dead", "attempts")


class RedisKeeping(RedisReading):
    """The part of a `RedisBackend` that looks after kept stages. A script names the keys of three stages at most; those
    of the stages before them are given the same time to live as the last stage's results, right after the script that
    has changed that.
    If the process dies in between, they live as long as they would have otherwise."""

    def _keep(self, run_id: str, generation: str) -> None:
        """Have the kept stages of a run expire with the results of its present stage, or else with its head."""
        head = self._key(run_id, "head")
        with translated():
            pipe: Any = self.client.pipeline(transaction=False)
            pipe.hmget(head, "stage", "gen")
            pipe.pttl(head)
            (stage, found), left = pipe.execute()
            if found is None or found.decode() != generation:
                return
            results: Any = self.client.pttl(self._key(run_id, f"members:{int(stage)}", generation))
            left = results if results > 0 else left
            for names in self._kept(run_id, generation, int(stage)):
                pipe = self.client.pipeline(transaction=False)
                for name in names:
                    pipe.pexpire(name, max(left, 1))
                pipe.execute()

    def _drop_kept(self, run_id: str, generation: str, stage: int) -> None:
        """Delete the kept stages of a run whose present stage was `stage`."""
        with translated():
            for names in self._kept(run_id, generation, stage):
                pipe: Any = self.client.pipeline(transaction=False)
                for name in names:
                    pipe.unlink(name)
                pipe.execute()

    def _kept(self, run_id: str, generation: str, stage: int) -> Iterator[list[str]]:
        """The names of the keys of all stages before the last two, some at a time."""
        names = [
            self._key(run_id, f"{part}:{index}", generation) for index in range(max(stage - 1, 0)) for part in KEPT
        ]
        for at in range(0, len(names), MOST_LOOKED_AT):
            yield names[at : at + MOST_LOOKED_AT]
