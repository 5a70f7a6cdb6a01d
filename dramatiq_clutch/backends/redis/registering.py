"""Keeps the register of runs in Redis. All keys of an application's register are in one slot of a cluster, and the runs
are in others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ...errors import DamagedState
from ...register import Enlisted, Found, Glance, Keeping
from ...stored.entries import Entry, time_of
from ...stored.plan import StageLine
from .calls import translated
from .glances import FIELDS, counting, glance_from, head_from
from .keys import keys_of, register
from .lazily import redis
from .reading import INDEX_TTL, MOST_LOOKED_AT, RedisReading
from .scripts import script

#: What is greater than any digit: a label and this come after all places under the label.
BEYOND = ":"


class RedisRegister(RedisReading):
    """The part of a `RedisBackend` that keeps the register."""

    def enlist(
        self, runs: Sequence[Enlisted], now: int, keeping: Keeping, *, application: str
    ) -> Sequence[tuple[str, str]]:
        called = script("enlist")
        given = {
            "most": keeping.most,
            "ended_before": now - keeping.succeeded,
            "stopped_before": now - keeping.stopped,
            "ttl": max(2 * keeping.stopped, INDEX_TTL),
        }
        rest = [part for run in runs for part in (run.run_id, str(run.entry), run.instead)]
        left = self.calls.run(called, called.call(register(self.namespace, application), given, rest))
        texts = [part.decode() for part in left]
        return list(zip(texts[::2], texts[1::2], strict=True))

    def look_through(
        self, labels: Sequence[str], enough: int, *, after: str = "", since: int = 0, application: str
    ) -> Found:
        called = script("page")
        given = {"enough": enough, "after": after, "since": time_of(since)}
        left_off, *found = self.calls.run(called, called.call(register(self.namespace, application), given, labels))
        texts = [part.decode() for part in found]
        entries = map(Entry.parse, texts[1::2])
        return Found(tuple(zip(texts[::2], entries, strict=True)), left_off.decode())

    def entries(self, run_ids: Sequence[str], *, application: str) -> Sequence[Entry | None]:
        known = register(self.namespace, application)["entries"]
        found: Any = self.calls.ask(lambda: self.client.hmget(known, list(run_ids)))
        return [Entry.parse(text.decode()) if text is not None else None for text in found]

    def count(self, labels: Sequence[str], *, application: str) -> Sequence[int]:
        places = register(self.namespace, application)["places"]
        with translated():
            pipe: Any = self.client.pipeline(transaction=False)
            for label in labels:
                pipe.execute_command("ZLEXCOUNT", places, f"[{label}", f"({label}{BEYOND}")
            return [int(count) for count in pipe.execute()]

    def look_at(self, run_ids: Sequence[str]) -> Sequence[Glance | DamagedState | None]:
        found: list[Glance | DamagedState | None] = []
        for at in range(0, len(run_ids), MOST_LOOKED_AT):
            found += self._look_at(run_ids[at : at + MOST_LOOKED_AT])
        return found

    def _look_at(self, run_ids: Sequence[str]) -> list[Glance | DamagedState | None]:
        heads = self._pipe(("HMGET", self._key(run_id, "head"), *FIELDS) for run_id in run_ids)
        known = [head_from(run_id, head) for run_id, head in zip(run_ids, heads, strict=True)]
        asked = [list(counting(self._key, one)) for one in known]
        answers = iter(self._pipe(command for commands in asked for command in commands))
        counts = [[next(answers) for _ in commands] for commands in asked]
        return [glance_from(head, of_it) for head, of_it in zip(known, counts, strict=True)]

    def _pipe(self, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
        """The answers to these commands, errors that are about one of them included."""
        with translated():
            pipe: Any = self.client.pipeline(transaction=False)
            for command in commands:
                pipe.execute_command(*command)
            answers = list(pipe.execute(raise_on_error=False))
            for answer in answers:
                if isinstance(answer, Exception) and not isinstance(answer, redis.exceptions.ResponseError):
                    raise answer
            return answers

    def nesting(self, run_id: str, stages: Sequence[int], *, generation: str) -> Sequence[int]:
        if not stages:
            return []
        fields = [f"s{stage}" for stage in stages]
        asked = (("EXISTS", self._key(run_id, f"nests:{stage}", generation)) for stage in stages)
        lines, *nests = self._pipe((("HMGET", self._key(run_id, "head"), *fields), *asked))
        known = [StageLine.parse(line.decode()) if line is not None else None for line in lines]
        return [
            one.total or 0 if one and (one.nested or has_nested) else 0
            for one, has_nested in zip(known, nests, strict=True)
        ]

    def shorten(self, runs: Sequence[tuple[str, str]]) -> None:
        called = script("shorten")
        with translated():
            pipe: Any = self.client.pipeline(transaction=False)
            for run_id, generation in runs:
                keys = keys_of(self.namespace, run_id, 0, generation)
                pipe.execute_command("EVAL", called.text, *called.call(keys, {"generation": generation}))
            pipe.execute()
