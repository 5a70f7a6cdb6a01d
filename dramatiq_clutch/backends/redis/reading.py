"""Reads what can be read of runs without a script, and keeps the index of the runs at work."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from dramatiq import Encoder
from dramatiq.logging import get_logger

from ...backend import ClutchBackend, Listener, Occupant
from ...status import part_done
from ...stored.attendance import Attendance
from ...stored.formats import Standing, done_in, failure_in, generation_in, holder_of, standing_of
from ...stored.places import Place
from ...stored.plan import StageLine
from .calls import Calls, translated
from .keys import index, key, workers
from .lazily import redis
from .pubsub import RedisListener, channel
from .replies import is_rest
from .scripts import script

#: How long the index lives after its last change, in milliseconds. That has to be longer than runs live, because a run
#: that is delayed for months changes nothing in the index. Sweepers take out runs that are gone.
INDEX_TTL = 400 * 86_400_000

#: How long it is known which workers there were, in milliseconds: a day after the last has told of itself.
ATTENDANCE_TTL = 86_400_000

#: How many rows or results travel in one command.
CHUNK = 1_000

#: How many runs are looked at in one round trip.
MOST_LOOKED_AT = 500

logger: logging.Logger = get_logger(__name__)


class RedisReading(ClutchBackend):
    """The part of a `RedisBackend` that changes no run. `_made_by`: what makes its calls of the server."""

    _made_by: type[Calls] = Calls

    def __init__(self, *, client: redis.Redis, namespace: str, encoder: Encoder | None) -> None:
        super().__init__(namespace=namespace, encoder=encoder)
        self.client = client
        self.calls: Calls = self._made_by(client)
        self._told: set[str] = set()

    # A run

    def generation(self, run_id: str) -> str | None:
        found = self.calls.ask(lambda: self.client.hget(self._key(run_id, "head"), "gen"))
        return cast(bytes, found).decode() if found is not None else None

    def spec(self, run_id: str, *, generation: str = "") -> bytes | None:
        return self._of_head(run_id, "spec", generation)

    def context(self, run_id: str, *, generation: str = "") -> bytes | None:
        fields: Any = self.calls.ask(lambda: self.client.hmget(self._key(run_id, "head"), ["context", "gen"]))
        found, whose = fields
        is_there = whose is not None and (not generation or whose == generation.encode())
        return (found or b"") if is_there else None

    def line(self, run_id: str, stage: int, *, generation: str = "") -> str | None:
        line = self._of_head(run_id, f"s{stage}", generation)
        return line.decode() if line is not None else None

    def lines(self, run_id: str, count: int, *, generation: str = "") -> Sequence[str]:
        fields = [*(f"s{stage}" for stage in range(count)), "gen"]
        found: Any = self.calls.ask(lambda: self.client.hmget(self._key(run_id, "head"), fields))
        *lines, whose = found
        is_it = whose is not None and generation in ("", whose.decode())
        return [line.decode() for line in lines if line is not None] if is_it else []

    def keeps(self, run_id: str, *, generation: str = "") -> bool:
        return self._of_head(run_id, "keeps", generation) == b"1"

    def rows(self, run_id: str, start: int, end: int, *, generation: str = "") -> Sequence[bytes]:
        return self._range(self._key(run_id, "plan", generation or self._generation(run_id)), start, end)

    # A stage

    def items(self, run_id: str, stage: int, start: int, end: int, *, generation: str = "") -> Sequence[bytes]:
        return self._range(self._key(run_id, f"items:{stage}", generation or self._generation(run_id)), start, end)

    def results(
        self, run_id: str, stage: int, start: int, end: int, *, generation: str = "", halted: bool = False
    ) -> Sequence[bytes | None]:
        generation = generation or self._generation(run_id)
        found = self._fields(self._key(run_id, f"{'halted' if halted else 'members'}:{stage}", generation), start, end)
        if halted or any(field is not None for field in found):
            return found
        holder = self._holder(run_id, stage, generation)
        if holder == generation:
            return found
        return self._fields(self._key(run_id, f"members:{stage}", holder), start, end)

    def _holder(self, run_id: str, stage: int, generation: str) -> str:
        """In which generation the keys of a stage that is over are: a run that was rewound has some in earlier ones."""
        kept = self._of_head(run_id, "kept", generation)
        return holder_of(stage, (kept or b"").decode(), generation)

    def _fields(self, members: str, start: int, end: int) -> list[bytes | None]:
        found: list[bytes | None] = []
        with translated():
            for at in range(start, end, CHUNK):
                names = list(map(str, range(at, min(at + CHUNK, end))))
                found += cast("list[bytes | None]", self.client.hmget(members, names))
        return found

    def standing(
        self, run_id: str, stage: int, members: Sequence[int], *, generation: str = ""
    ) -> Sequence[Standing | None]:
        if not members:
            return []
        generation = generation or self._generation(run_id)
        recorded, standing, dead = (
            self._key(run_id, f"{part}:{stage}", generation) for part in ("members", "standing", "dead")
        )
        names = list(map(str, members))
        with translated():
            pipe: Any = self.client.pipeline(transaction=False)
            pipe.hmget(self._key(run_id, "head"), ["era", "revival"])
            pipe.hmget(recorded, names)
            for scores in (standing, dead):  # not by `zmscore`: clients differ in how its answer is converted
                pipe.execute_command("ZMSCORE", scores, *names)
            (era, revival), marked, *scores_of = pipe.execute()
        return [
            standing_of(*found, era=int(era or 0), revival=int(revival or 0))
            for found in zip(marked, *scores_of, strict=True)
        ]

    def failures(self, run_id: str, stage: int, *, generation: str = "") -> Sequence[tuple[int, str]]:
        generation = generation or self._generation(run_id)
        found = self._failures_of_stage(run_id, stage, generation)
        if found:
            return found
        holder = self._holder(run_id, stage, generation)
        found = [] if holder == generation else self._failures_of_stage(run_id, stage, holder)
        if found:
            return found
        # It has none, or it is longer over.
        listed: Any = self.calls.ask(lambda: self.client.hgetall(self._key(run_id, "failures", generation)))
        places = ((name.decode().split("."), text.decode()) for name, text in listed.items())
        return sorted((int(member), text) for (its, member), text in places if int(its) == stage)

    def _failures_of_stage(self, run_id: str, stage: int, generation: str) -> list[tuple[int, str]]:
        dead, attempts = (self._key(run_id, f"{part}:{stage}", generation) for part in ("dead", "attempts"))
        found: list[tuple[int, str]] = []
        with translated():
            client: Any = self.client
            for at in itertools.count(0, CHUNK):
                some = client.zrange(dead, at, at + CHUNK - 1)
                stored = client.hmget(attempts, some) if some else []
                found += [(int(one), failure_in(text).decode()) for one, text in zip(some, stored, strict=True) if text]
                if len(some) < CHUNK:
                    break
        return sorted(found)

    def nested(self, run_id: str, stage: int, members: Sequence[int], *, generation: str = "") -> Mapping[int, bytes]:
        nests = self._key(run_id, f"nests:{stage}", generation or self._generation(run_id))
        if not members or not self.calls.ask(lambda: self.client.exists(nests)):
            return {}
        plans: Any = self.calls.ask(lambda: self.client.hmget(nests, list(map(str, members))))
        return {member: plan for member, plan in zip(members, plans, strict=True) if plan is not None}

    # Many runs

    def how_far(self, places: Sequence[Place]) -> Sequence[float]:
        """In two round trips: which stage each run is at, then how that stage stands."""
        with translated():
            pipe: Any = self.client.pipeline(transaction=False)
            for place in places:
                pipe.hmget(self._key(place.child_id, "head"), ["gen", "state", "stage", "stages"])
                pipe.get(self._key(place.child_id, "tombstone"))
            found = pipe.execute()
            far, at_work = [0.0] * len(places), dict[int, tuple[int, int]]()
            for index, (head, tombstone) in enumerate(zip(found[::2], found[1::2], strict=True)):
                generation = places[index].child_generation
                whose, state, stage, stages = head
                if whose != generation.encode():
                    far[index] = float((done_in(tombstone) or ("",))[0] == generation)
                elif state == b"succeeded":
                    far[index] = 1.0
                else:
                    at_work[index] = int(stage), int(stages)
            if at_work:
                stands = self._far_in_stage([(places[index], stage) for index, (stage, _) in at_work.items()])
                for (index, (stage, stages)), done in zip(at_work.items(), stands, strict=True):
                    far[index] = (stage + done) / stages
        return far

    def _far_in_stage(self, present: Sequence[tuple[Place, int]]) -> Iterator[float]:
        """How far the runs at these places are in their present stages."""
        pipe: Any = self.client.pipeline(transaction=False)
        for place, stage in present:
            child, generation = place.child_id, place.child_generation
            pipe.hget(self._key(child, "head"), f"s{stage}")
            pipe.hlen(self._key(child, f"members:{stage}", generation))
            pipe.hlen(self._key(child, f"halted:{stage}", generation))  # what a cancel makes of `members`
            pipe.zcard(self._key(child, f"standing:{stage}", generation))
            pipe.zcard(self._key(child, f"dead:{stage}", generation))
        found = iter(pipe.execute())
        for line, members, halted, standing, dead in zip(*[found] * 5, strict=True):
            succeeded = max(members, halted) - 1 - standing - dead
            yield part_done(StageLine.parse(line.decode()), max(succeeded, 0), dead) if line else 0.0

    def at_rest(self, run_ids: Sequence[str]) -> Sequence[bool]:
        found: list[bool] = []
        with translated():
            for at in range(0, len(run_ids), MOST_LOOKED_AT):
                pipe = self.client.pipeline(transaction=False)
                for run_id in run_ids[at : at + MOST_LOOKED_AT]:
                    pipe.hmget(self._key(run_id, "head"), "state", "format")
                found += map(is_rest, pipe.execute(raise_on_error=False))
        return found

    def occupants(self, run_ids: Sequence[str]) -> Sequence[Occupant | None]:
        found: list[Any] = []
        with translated():
            for at in range(0, len(run_ids), MOST_LOOKED_AT):
                pipe: Any = self.client.pipeline(transaction=False)
                for run_id in run_ids[at : at + MOST_LOOKED_AT]:
                    pipe.hmget(self._key(run_id, "head"), "gen", "state", "app", "claim", "frees")
                    pipe.get(self._key(run_id, "tombstone"))
                found += pipe.execute()
        return list(map(_occupant, found[::2], found[1::2]))

    def due(self, now: int, look_again_at: int, limit: int, *, application: str = "") -> Sequence[str]:
        runs = index(self.namespace, application)
        due: Any = self.calls.ask(lambda: self.client.zrangebyscore(runs, 0, now, 0, limit))
        if due:
            self.calls.ask(lambda: self.client.zadd(runs, dict.fromkeys(due, look_again_at), xx=True))
        return [run_id.decode() for run_id in due]

    def count_due(self, now: int, *, application: str = "") -> int:
        return int(self.calls.ask(lambda: self.client.zcount(index(self.namespace, application), 0, now)))

    def look_again(
        self,
        run_id: str,
        at: int | None,
        *,
        run_ttl: int,
        application: str = "",
        known: bool = False,
        instead: int | None = None,
    ) -> None:
        runs, ttl = index(self.namespace, application), max(2 * run_ttl, INDEX_TTL)
        if instead is not None:
            put_down = script("put_down")
            given = {"run_id": run_id, "instead": instead, "at": "" if at is None else at, "ttl": ttl}
            self.calls.run(put_down, put_down.call({"index": runs}, given))
            return
        with translated():
            if at is None:
                self.client.zrem(runs, run_id)
                return
            pipe = self.client.pipeline(transaction=False)
            pipe.zadd(runs, {run_id: at}, xx=known)
            pipe.pexpire(runs, ttl)
            pipe.execute()

    # Workers

    def attend(self, worker: Attendance, until: int, now: int, *, application: str = "") -> None:
        known = workers(self.namespace, application)
        with translated():
            pipe = self.client.pipeline(transaction=False)
            pipe.zadd(known, {str(worker): until})
            pipe.pexpire(known, ATTENDANCE_TTL)
            pipe.zrangebyscore(known, 0, now, 0, CHUNK)
            gone = pipe.execute()[-1]
            if gone:
                self.client.zrem(known, *gone)

    def attending(self, now: int, *, application: str = "") -> Sequence[Attendance]:
        known = workers(self.namespace, application)
        found: Any = self.calls.ask(lambda: self.client.zrangebyscore(known, now + 1, "+inf", 0, CHUNK))
        told = (Attendance.parse(text.decode()) for text in found)
        return [worker for worker in told if worker is not None]

    # Hints

    def listen(self) -> Listener:
        return RedisListener(self.client, self.namespace, self._told)

    def say(self, name: str) -> None:
        try:
            self.client.publish(channel(self.namespace, name), "")
        except (redis.RedisError, redis.exceptions.RedisClusterException) as error:
            logger.debug("Nobody hears of %s: %s", name, error)

    # Helpers

    def _key(self, run_id: str, part: str, generation: str = "") -> str:
        return key(self.namespace, run_id, part, generation)

    def _range(self, name: str, start: int, end: int) -> Sequence[bytes]:
        return cast("list[bytes]", self.calls.ask(lambda: self.client.lrange(name, start, end - 1)))

    def _fields_of_head(self, run_id: str, names: Sequence[str], generation: str) -> Sequence[bytes]:
        """Fields of the head of the run of this generation; b"" for each that isn't there."""
        found: Any = self.calls.ask(lambda: self.client.hmget(self._key(run_id, "head"), [*names, "gen"]))
        *fields, whose = found
        return [(field or b"") if whose == generation.encode() else b"" for field in fields]

    def _of_head(self, run_id: str, field: str, generation: str) -> bytes | None:
        fields: Any = self.calls.ask(lambda: self.client.hmget(self._key(run_id, "head"), [field, "gen"]))
        found, whose = fields
        return cast("bytes | None", found) if not generation or whose == generation.encode() else None

    def _generation(self, run_id: str) -> str:
        """The generation of the run that has this id, or else of its tombstone; an empty string if there is neither."""
        found = self.generation(run_id)
        if found is None:
            tombstone: Any = self.calls.ask(lambda: self.client.get(self._key(run_id, "tombstone")))
            found = generation_in(tombstone)
        return found


def _occupant(head: Sequence[bytes | None], tombstone: bytes | None) -> Occupant | None:
    """Who has an id, by these fields of the head and the tombstone under it."""
    generation, state, application, claim, frees = ((field or b"").decode() for field in head)
    if state:
        return Occupant(generation, cast(Any, state), application, bool(claim), frees == "1")
    done = done_in(tombstone)
    return done and Occupant(done[0], "gone", done[2], bool(done[1]), done[3])
