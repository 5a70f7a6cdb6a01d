"""Runs in Redis, or whatever speaks its protocol: each change of a run is one script."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from dramatiq import Encoder

from ...backend import Caller, GuardWord, Record, Reply
from ...errors import DamagedState, NotConfigured, PayloadRefused, StateUnavailable
from ...findings import Finding
from ...stored.duties import Duty, OpenStage, SendAgain
from ...stored.firings import LETTERS, CallbackEnding
from ...stored.formats import Snapshot, decode_snapshot
from ...stored.places import CallbackTag, Tag
from . import resp
from .along import Along
from .calling import At
from .firings import RedisFirings
from .fitness import OLDEST, findings, of_clock, of_eviction
from .lazily import redis
from .looking import RedisLooking
from .replies import reply_from
from .rewinding import RedisRewinding
from .scripts import script
from .sealing import RedisSealing
from .succeeding import RedisSucceeding, Success

#: The replies of the common case.
COUNTED, ACKED = Reply("counts"), Reply("counts", acked=True)


class RedisBackend(RedisSealing, RedisSucceeding, RedisRewinding, RedisLooking, RedisFirings):
    """Keeps runs in Redis, or in a server that speaks its protocol.

    For example: ``ClutchMiddleware(RedisBackend(url="redis://127.0.0.1:6379/1", namespace="shop"))``.

    Parameters:
      client: a ready client, of one server or of a cluster; all other connection parameters are then ignored.
      url: a connection URL, such as ``rediss://user:password@host:6379/0``. Without it and a client, the server is that
        of the `parameters`, or of ``redis.Redis()``: localhost, port 6379.
      namespace: what all keys begin with. Applications that share a server should each have their own.
      encoder: encodes results; default is Dramatiq's global encoder.
      **parameters: passed to ``redis.Redis``, or to its ``from_url`` beside the `url`.

    Raises TypeError for a client that isn't redis-py's own, or is one of `redis.asyncio`; and ValueError for one with
    ``decode_responses=True``, because stored values are bytes, and for a cluster's client that reads from replicas.
    """

    def __init__(
        self,
        *,
        client: redis.Redis | redis.RedisCluster | None = None,
        url: str | None = None,
        namespace: str = "dramatiq-clutch",
        encoder: Encoder | None = None,
        **parameters: Any,
    ) -> None:
        if client is not None and not self._takes(client):
            raise TypeError(_not_a_client(client))
        known = client or (redis.Redis.from_url(url, **parameters) if url else redis.Redis(**parameters))
        super().__init__(client=cast("redis.Redis", known), namespace=namespace, encoder=encoder)
        if self.client.get_encoder().decode_responses:
            raise ValueError("RedisBackend needs a client that returns bytes: make it without decode_responses=True")
        if any(getattr(known, option, None) for option in ("read_from_replicas", "load_balancing_strategy")):
            raise ValueError(
                "RedisBackend needs a client that reads from primaries, for a replica may lack what was just written: "
                "make it without read_from_replicas and load_balancing_strategy"
            )

    @staticmethod
    def _takes(client: object) -> bool:
        return isinstance(client, redis.Redis | redis.RedisCluster)

    def warnings(self) -> Sequence[str]:
        asked = time.time()
        try:
            server: dict[str, Any] = self.calls.ask(lambda: self.client.info())
        except StateUnavailable as error:  # the server is away, or doesn't allow INFO, so its settings aren't known
            if re.search("unknown command .?HELLO", str(error)):  # with which redis-py begins from its release 8 on
                raise NotConfigured(
                    "the server that should keep the state of runs doesn't know HELLO: it is older than Redis 6, and "
                    "lacks other commands that are needed. Use Redis 6.2, any Valkey, or newer"
                ) from error
            return ()
        version = str(server.get("redis_version", ""))
        if (found := re.match(r"(\d+)\.(\d+)", version)) and tuple(map(int, found.groups())) < OLDEST:
            raise NotConfigured(
                f"the server that should keep the state of runs is version {version}, which lacks commands that are "
                "needed. Use Redis 6.2, any Valkey, or newer"
            )
        told = [one for one in of_eviction(server) if one.severity == "error"]
        told += of_clock(server, asked, time.time())
        return [f"{one.text[:1].lower()}{one.text[1:]}. {one.way_out}" for one in told]

    def fitness(self) -> Iterable[Finding]:
        return findings(self.client, self.calls.ask)

    # A job

    def guard(self, tag: Tag, now: int, *, attempt: int = 0, worker: str = "") -> GuardWord:
        generation = self._known(tag)
        keys = {part: self._key(tag.run_id, part) for part in ("head", "tombstone", "past")}
        keys |= self._of_stage(At(tag.run_id, tag.stage, generation), "members", "times")
        given = {"stage": tag.stage, "member": tag.member, "of": tag.of, "now": now, "generation": generation}
        given |= {"epoch": tag.epoch, "attempt": attempt, "worker": worker if tag.timed else ""}
        return cast(GuardWord, self._run("guard", keys, given).decode())

    def record(
        self, record: Record, caller: Caller, along: Along | None = None, *, is_common: bool | None = None
    ) -> Reply:
        """Record an attempt. With `along`, the broker does something in the same step; the reply says what of it was
        done. A duty whose message wasn't sent is owed as ever. If it is known that the record is no common case, though
        it looks like one, `is_common` says so."""
        if (record.is_common and not caller.touch) if is_common is None else is_common:
            word = self._count(Success.of(record, along, along.ack[-1] if along and along.ack else "", caller.now))
            if word == b"counts":
                return ACKED if along is not None and along.ack else COUNTED
            if word == b"last":  # the whole transition finds it applied
                return replace(self._record(record, caller), word="counts")
        elif along is not None:
            try:
                return self._record(record, caller, along)
            except PayloadRefused:
                if along.duty is None:
                    raise
                # The next message may have been too much. If the result is it, the server says so once more.
        return self._record(record, caller)

    def _record(self, record: Record, caller: Caller, along: Along | None = None) -> Reply:
        tag, generation = record.tag, self._known(record.tag)
        given: dict[str, Any] = {
            "onward_duty": "",
            "onward_queue": "",
            "onward_id": "",
            "enqueues": 0,
            "fetches": 0,
            "member": tag.member,
            "ending": record.ending,
            "epoch": tag.epoch,
            "attempt": record.attempt,
            "payload": record.payload,
            "nested": record.nested,
            "of_run": "1" if record.of_run else "",
            "renew": "1" if caller.touch else "",
            "due": record.due,
            "began": record.began or "",
            "worker": record.worker,
        }
        at = At(tag.run_id, tag.stage, generation)
        if along is None:
            raw = self._call("record", at, caller, given)
        else:
            arguments: list[Any] = []
            if along.duty is not None:
                given |= {"onward_duty": along.duty.id, "onward_queue": along.queue, "onward_id": along.in_queue}
                given |= {"enqueues": len(along.enqueue), "fetches": len(along.fetch)}
                arguments = [*along.enqueue, *along.fetch]
            arguments, keys = [*arguments, *along.ack], {"broker": along.key}
            # What is sent goes alone: one by one it reaches an idle worker sooner than all at once.
            alone = along.duty is not None
            raw = self._call("record", at, caller, given, arguments, keys=keys, dispatch=along.script, alone=alone)
        reply = reply_from(raw, generation, along)
        if reply.word == "over" and len(raw) == 1:
            return replace(self.owed(tag.run_id, caller, generation=generation), word="over")
        return reply

    # Duties

    def owed(self, run_id: str, caller: Caller, *, generation: str = "") -> Reply:
        return self._present("owed", run_id, caller, generation=generation)

    def sweep(self, run_id: str, caller: Caller, *, stalled_after: int, waits_for_jobs: bool = False) -> Reply:
        given = {"stalled_after": stalled_after, "waits_for_jobs": "1" if waits_for_jobs else ""}
        reply = self._present("sweep", run_id, caller, given)
        if reply.word == "stalled" and reply.turn is not None:  # the script has made its reply before it found that out
            return replace(reply, turn=replace(reply.turn, stalled=True))
        return reply

    def open(self, run_id: str, duty: OpenStage, total: int, caller: Caller) -> Reply:
        raw = self._call("open", At(run_id, duty.stage, duty.generation), caller, {"id": duty.id, "total": total})
        return reply_from(raw, duty.generation)

    def reopen(self, run_id: str, duty: SendAgain, done: int, caller: Caller) -> tuple[int, Sequence[int]] | None:
        raw = self._call("reopen", At(run_id, duty.stage, duty.generation), caller, {"id": duty.id, "done": done})
        return (int(raw[1]), [int(member) for member in raw[2:]]) if raw[0] == b"some" else None

    def confirm(self, run_id: str, duty: Duty, caller: Caller, *, cursor: int | None = None) -> str:
        given = self._of_confirmation(duty, caller, "" if cursor is None else cursor)
        word: str = self._run("confirm", self._keys_of_confirmation(run_id, duty), given).decode()
        return self._present("tidy", run_id, caller, {"id": duty.id}).word if word == "tidy" else word

    def confirmation(self, run_id: str, duty: Duty, caller: Caller, queue: str, ids: Sequence[str]) -> resp.Command:
        """The command that confirms a duty, ``("EVALSHA", …)``, to be sent in one pipeline right behind the duty's
        messages. It confirms only if the messages with these ids are the last in the broker's `queue`, because the
        server carries on with a pipeline after an error."""
        confirm, keys = script("confirm"), {**self._keys_of_confirmation(run_id, duty), "queue": queue}
        return ("EVALSHA", confirm.sha, *confirm.call(keys, self._of_confirmation(duty, caller, ""), ids))

    def _keys_of_confirmation(self, run_id: str, duty: Duty) -> Mapping[str, str]:
        return {"head": self._key(run_id, "head"), "outbox": self._key(run_id, "outbox", duty.generation)}

    def _of_confirmation(self, duty: Duty, caller: Caller, cursor: int | str) -> Mapping[str, Any]:
        who = {"now": caller.now, "lease": caller.lease, "lease_ms": caller.lease_ms}
        return {"duty": duty.id, "cursor": cursor, **who}

    def fail(self, run_id: str, duty: Duty, details: bytes, caller: Caller) -> Reply:
        return self._present("fail", run_id, caller, {"id": duty.id, "details": details})

    def heard(self, tag: CallbackTag, caller: Caller, ending: CallbackEnding = "succeeded") -> str:
        given = {"duty": tag.duty, "index": tag.index, "ending": LETTERS[ending]}
        return self._present("heard", tag.run_id, caller, given, generation=tag.generation).word

    def write_items(self, run_id: str, duty: OpenStage, offset: int, items: Sequence[bytes], *, run_ttl: int) -> None:
        keys = {"list": self._key(run_id, f"items:{duty.stage}", duty.generation)}
        if self._run("draft", keys, {"offset": offset, "ttl": run_ttl}, items) == b"expired":
            raise DamagedState(f"the items of stage {duty.stage} of run {run_id!r} are gone: they have expired")

    # A run is steered

    def cancel(self, run_id: str, caller: Caller, *, bury: int | None = None, generation: str = "") -> Reply:
        given = {"bury": "" if bury is None else bury}
        return self._present("cancel", run_id, caller, given, generation=generation)

    def retry(self, run_id: str, caller: Caller, *, since: int | None = None, generation: str = "") -> Reply:
        given = {"revived_in": "" if since is None else since}
        return self._present("retry", run_id, caller, given, generation=generation)

    def resend(self, run_id: str, caller: Caller, *, generation: str = "") -> Reply:
        return self._present("resend", run_id, caller, generation=generation)

    def retell(self, run_id: str, caller: Caller, *, generation: str = "") -> Reply:
        return self._present("retell", run_id, caller, generation=generation)

    def delete(
        self, run_id: str, caller: Caller, *, generation: str, bury: int | None = None, asks: bool = False
    ) -> Reply:
        given = {"bury": "" if bury is None else bury, "asks": "1" if asks else ""}
        stage, kept, timed = b"", b"", False
        if not asks and self.keeps(run_id, generation=generation):
            stage, kept, has = self._fields_of_head(run_id, ("stage", "kept", "timed"), generation)
            timed = bool(has)
        reply = self._present("delete", run_id, caller, given, generation=generation)
        if reply.word == "deleted" and stage:
            self._drop_kept(run_id, generation, int(stage), kept.decode(), timed=timed)
        return reply

    def touch(self, run_id: str, caller: Caller, *, due: int = 0) -> str:
        return self._present("touch", run_id, caller, {"due": due}).word

    def snapshot(self, run_id: str) -> Snapshot | None:
        raw = self._ask_present("snapshot", run_id, Caller(owner="", now=self.now(), lease="", lease_ms=0), {})[0]
        return decode_snapshot(json.loads(raw[1]), raw[2:]) if raw[0] == b"there" else None


def _not_a_client(client: object) -> str:
    """Why something isn't taken as a client."""
    kind = f"{type(client).__module__}.{type(client).__qualname__}"
    if "asyncio" in kind:
        return f"RedisBackend takes a client that isn't for coroutines, such as redis.Redis(...), not {kind}"
    return (
        f"RedisBackend takes a client of redis-py, such as redis.Redis(...), which also speaks to Valkey; not {kind}. "
        "Pass url= instead, or a client of redis-py to the RedisBroker"
    )
