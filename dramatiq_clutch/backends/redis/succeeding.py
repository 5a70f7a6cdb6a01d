"""Records successes in the common case, in which they complete no stage: several in one call, for each stage."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from dramatiq import Encoder

from ...backend import Record
from ...errors import PayloadRefused
from ...stored.formats import success, timing
from .along import Along
from .calling import At, RedisCalling
from .combining import Combining
from .lazily import redis
from .outages import LARGE

#: What one success came to: `counts`, `last` or `look` (see `succeed.lua`).
Word = bytes


class Success(NamedTuple):
    """A record in the common case, what goes along with it, and when it was at work, or ''. `in_queue`: the id, in its
    queue, of the message that is acked; or ''."""

    record: Record
    along: Along | None
    in_queue: str
    times: str

    @classmethod
    def of(cls, record: Record, along: Along | None, in_queue: str, now: int) -> Success:
        """A success that is recorded at the time `now` (UNIX milliseconds)."""
        tag, times = record.tag, ""
        if tag.timed:
            times = timing(tag.epoch, record.attempt, record.began, now, record.worker)
        return cls(record, along, in_queue, times)


class RedisSucceeding(RedisCalling):
    """The part of a `RedisBackend` that records successes in the common case."""

    def __init__(self, *, client: redis.Redis, namespace: str, encoder: Encoder | None) -> None:
        super().__init__(client=client, namespace=namespace, encoder=encoder)
        self._succeed: Combining[Success, Word] = Combining(self.succeed_together)

    def _count(self, one: Success) -> Word:
        """One success, with others' unless the server refuses them together, or this one might be refused."""
        if len(one.record.payload) < LARGE:
            with suppress(PayloadRefused):  # which one it is shows when each is sent by itself
                return self._succeed(one)
        (word,) = self.succeed_together([one])
        return word

    def succeed_together(self, successes: Sequence[Success]) -> list[Word]:
        """Record these, with a call for each stage that they are of, and each way to ack their messages. Returns what
        each of them came to: ``[b"counts", b"look"]``. Raises StateUnavailable or PayloadRefused: then nobody knows
        which of them are recorded."""
        groups: dict[tuple[Any, ...], list[Success]] = defaultdict(list)
        for one in successes:
            tag, along = one.record.tag, one.along
            acks = (along.script, along.key, along.acked_in) if along else None
            groups[tag.run_id, tag.stage, tag.generation, one.times == "", acks].append(one)
        words: dict[int, Word] = {}
        for of_stage in groups.values():
            tag = of_stage[0].record.tag
            at = At(tag.run_id, tag.stage, self._known(tag))
            for batch in _batches(of_stage):
                words |= zip(map(id, batch), self._succeed_of_stage(at, batch), strict=True)
        return [words[id(one)] for one in successes]

    def _succeed_of_stage(self, at: At, successes: Sequence[Success]) -> Sequence[Word]:
        tag, along, timed = successes[0].record.tag, successes[0].along, successes[0].times
        fetching = next((one.along for one in successes if one.along and _fetches(one.along)), None)
        results: list[Any] = list(along.ack[:-1]) if along else []
        began = min((one.record.began for one in successes if one.record.began), default="")
        given = {"total": tag.of, "batch": tag.batch, "acks": len(results), "began": began}
        given |= {"timed": "1" if timed else "", "queue": "", "first": "", "fetches": 0, "looks": 0}
        bunch = fetching.bunch if fetching else None
        if fetching and bunch:
            given |= {"queue": fetching.queue, "first": " ".join(bunch.ids)}
            given |= {"fetches": len(fetching.fetch), "looks": bunch.looks}
            results += fetching.fetch
            bunch.asked = True
        for record, _, in_queue, times in successes:
            results += (record.tag.member, success(record.payload), in_queue)
            if timed:
                results.append(times)
        keys = self._of_stage(at, "members", "times") | ({"broker": along.key} if along else {})
        answer: bytes = self._run("succeed", keys, given, results, dispatch=along.script if along else "")
        words, _, told = answer.partition(b"\n")
        if bunch:
            bunch.answer(told)
        return words.split()

    def _of_stage(self, at: At, *parts: str) -> dict[str, str]:
        return {part: self._key(at.run_id, f"{part}:{at.stage}", at.generation) for part in parts}


def _fetches(along: Along) -> bool:
    return along.bunch is not None and not along.bunch.asked


def _batches(successes: Sequence[Success]) -> Iterator[Sequence[Success]]:
    """The successes in as many groups as it takes for each, unless it is a single one, to make a small call."""
    if sum(len(one.record.payload) for one in successes) <= LARGE // 2:
        yield successes
        return
    batch, size = list[Success](), 0
    for one in successes:
        length = len(one.record.payload)
        if batch and size + length > LARGE // 2:
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += length
    yield batch
