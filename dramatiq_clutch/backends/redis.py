"""Runs in Redis, or whatever speaks its protocol: keys, scripts, replies."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib import resources
from typing import Any, cast

import redis
from dramatiq import Encoder
from redis.exceptions import NoScriptError, RedisError

from .. import wire
from ..backend import (
    SHARE,
    Caller,
    ClutchBackend,
    Confirmation,
    Duty,
    Ending,
    GuardWord,
    Onward,
    Record,
    Reply,
    Standing,
    decode_snapshot,
)
from ..errors import DamagedState, StateUnavailable
from ..outages import way_out
from ..plan import EVENTS, Plan, Tag, rows_of
from ..status import Snapshot
from ..together import Together

#: How long the rows of a plan that is being written live, in milliseconds, unless they are sealed.
DRAFT_TTL = 300_000

#: How many rows or results travel in one command.
CHUNK = 1_000

#: The longest a blocking call may block, in seconds: below the socket timeout (5 s) that redis-py gives a client.
LONGEST_BLOCK = 2.0

#: What is called for each job, by workers, who wait and repeat by themselves: without what a client does besides.
WORKERS = ("guard", "record", "succeed", "confirm")

#: The kinds of members that have had an attempt and not succeeded. A member's score is its kind * SPAN + its index.
KINDS: tuple[Ending, ...] = ("open", "attempted", "failing", "dead")
SPAN = 2**40


@cache
def script_text(name: str, *, bare: bool, enqueue: str = "") -> str:
    """The text of a script: `bare` as it is, or after the prelude, and after a broker's script that it may call."""
    folder = resources.files(__package__) / "lua"
    text = (folder / f"{name}.lua").read_text()
    if bare:
        return text
    between = f"local function enqueue(KEYS, ARGV)\n{enqueue}\nend\n" if enqueue else ""
    return (folder / "prelude.lua").read_text() + between + text


@contextmanager
def translated() -> Iterator[None]:
    """Turn what waiting cures into StateUnavailable; leave everything else as it is."""
    try:
        yield
    except RedisError as error:
        hint = way_out(error)
        if hint is None:
            raise
        raise StateUnavailable(f"the state store can't be used for now ({hint}): {error}") from error


class RedisBackend(ClutchBackend):
    """Keeps runs in Redis.

    Parameters:
      client: a ready client; all other connection parameters are then ignored.
      url: a connection URL, such as ``rediss://user:password@host:6379/0``.
      namespace: what all keys begin with.
      encoder: encodes results; default is Dramatiq's global encoder.
      **parameters: passed to ``redis.Redis``.
    """

    def __init__(
        self,
        *,
        client: redis.Redis | None = None,
        url: str | None = None,
        namespace: str = "dramatiq-clutch",
        encoder: Encoder | None = None,
        **parameters: Any,
    ) -> None:
        super().__init__(namespace=namespace, encoder=encoder)
        self.client = client or (redis.Redis.from_url(url, **parameters) if url else redis.Redis(**parameters))
        self._is_plain = isinstance(self.client, redis.Redis)  # not a RedisCluster
        self._succeed: Together[Record, bytes] = Together(self._succeed_together)
        if self.client.get_encoder().decode_responses:
            raise ValueError("RedisBackend needs a client that returns bytes: make it without decode_responses=True")

    def warnings(self) -> Sequence[str]:
        try:
            memory: dict[str, Any] = self._ask(lambda: self.client.info("memory"))
        except (StateUnavailable, RedisError):  # it is away, or INFO isn't allowed: then nothing can be said
            return ()
        policy, most = memory.get("maxmemory_policy", "noeviction"), memory.get("maxmemory", 0)
        if policy == "noeviction" or not most:
            return ()
        return [
            f"the server is set to evict keys when its memory ({most:,} bytes) is full (maxmemory-policy {policy}); "
            "a run whose keys are evicted is lost. Set maxmemory-policy noeviction, or give runs a server of their own"
        ]

    # Transitions

    def draft(
        self, run_id: str, draft: str, offset: int, rows: Sequence[bytes], caller: Caller, *, run_ttl: int
    ) -> None:
        with translated():
            # The index entry comes first: whatever happens from here on, a sweeper finds the run.
            pipe: Any = self.client.pipeline(transaction=False)
            pipe.zadd(self._index, {run_id: caller.now + caller.lease_ms})
            pipe.pexpire(self._index, 2 * run_ttl)
            # By its text, for a pipeline can't ask again when a server doesn't know a script's name.
            pipe.eval(script_text("draft", bare=True), 1, self._draft(run_id, draft), offset, DRAFT_TTL, *rows)
            if pipe.execute()[-1] == b"expired":
                raise _expired(run_id)

    def create(
        self,
        run_id: str,
        plan: Plan,
        caller: Caller,
        *,
        run_ttl: int,
        result_ttl: int,
        claim: str = "",
        draft: str = "",
        share: int = SHARE,
    ) -> Reply:
        spec, lines = plan.spec, {f"s{index}": str(line) for index, line in enumerate(plan.lines)}
        head = {
            "spec": spec.to_bytes(),
            "name": spec.name or "",
            "stages": len(lines),
            "events": " ".join(event for event in EVENTS if event in spec.callbacks),
            "told": "open" if spec.parent else "",
            "share": share,
            **lines,
        }
        fields = [part for pair in head.items() for part in pair]
        if not draft:
            draft = secrets.token_hex(8)
            for at in range(0, len(plan.rows) or 1, CHUNK):
                self.draft(run_id, draft, at, plan.rows[at : at + CHUNK], caller, run_ttl=run_ttl)
        epoch = spec.parent.epoch if spec.parent else 0
        args = (run_ttl, result_ttl, claim, epoch, rows_of(plan.lines), *fields)
        reply = self._transition("seal", run_id, 0, caller, *args, extra_keys=(self._draft(run_id, draft),))
        if reply.word == "expired":
            raise _expired(run_id)
        return reply

    def guard(self, tag: Tag) -> GuardWord:
        keys = [self._key(tag.run_id, part) for part in ("head", "mark", f"marks:{tag.stage}")]
        return cast(GuardWord, self._run("guard", keys, [tag.stage, tag.member, tag.of], bare=True).decode())

    def record(self, record: Record, caller: Caller, onward: Onward | None = None) -> Reply:
        if record.is_common and not caller.touch:
            word = self._succeed(record)
            if word == b"counts":
                return Reply("counts")
            if word == b"last":  # the whole transition finds it applied
                return replace(self._record(record, caller, None), word="counts")
        return self._record(record, caller, onward)

    def _succeed_together(self, records: Sequence[Record]) -> list[bytes]:
        """The common case for several records: one call for each stage that they are of."""
        stages: dict[tuple[str, int], list[Record]] = defaultdict(list)
        for record in records:
            stages[record.tag.run_id, record.tag.stage].append(record)
        words: dict[int, bytes] = {}
        for (run_id, stage), of_stage in stages.items():
            args: list[Any] = [of_stage[0].tag.of, of_stage[0].tag.batch]
            for record in of_stage:
                args += [record.tag.member, b"S" + record.payload]
            answers = self._run("succeed", [self._key(run_id, f"marks:{stage}")], args, bare=True)
            words |= {id(record): word for record, word in zip(of_stage, answers, strict=True)}
        return [words[id(record)] for record in records]

    def _record(self, record: Record, caller: Caller, onward: Onward | None) -> Reply:
        tag = record.tag
        args: list[Any] = [tag.member, record.ending, tag.epoch, record.attempt, record.payload]
        args += [record.nested, "1" if record.of_run else "", "1" if caller.touch else ""]
        if onward is None:
            reply = self._transition("record", tag.run_id, tag.stage, caller, *args)
        else:
            args += [onward.duty.id, onward.duty.birth, *onward.arguments]
            more: dict[str, Any] = {"extra_keys": (onward.key,), "enqueue": onward.script}
            reply = self._reply(self._call("record", tag.run_id, tag.stage, caller, *args, **more), onward.duty)
        return replace(self.owed(tag.run_id, caller), word="over") if reply.word == "over" else reply

    def owed(self, run_id: str, caller: Caller) -> Reply:
        return self._reply(self._present("owed", run_id, caller))

    def open(self, run_id: str, duty: Duty, total: int, caller: Caller) -> Reply:
        return self._transition("open", run_id, duty.stage, caller, duty.id, total)

    def confirm(self, run_id: str, duty: Duty, caller: Caller, *, cursor: int | None = None) -> str:
        keys = [self._key(run_id, part) for part in ("head", "outbox")]
        args = [duty.id, "" if cursor is None else cursor, caller.now, caller.lease, caller.lease_ms]
        word: str = self._run("confirm", keys, args, bare=True).decode()
        return self._reply(self._present("tidy", run_id, caller, duty.id)).word if word == "tidy" else word

    def shares(self, client: Any) -> bool:
        return client is self.client and self._is_plain

    def confirmation(self, run_id: str, duty: Duty, caller: Caller, client: Any) -> Confirmation | None:
        if not self.shares(client):
            return None
        script = _registered(script_text("confirm", bare=True))
        keys = [self._key(run_id, part) for part in ("head", "outbox")]
        args = [duty.id, "", caller.now, caller.lease, caller.lease_ms]
        return lambda queue, ids: ("EVALSHA", script, 3, *keys, queue, *args, *ids)

    def fail(self, run_id: str, duty: Duty, details: bytes, caller: Caller) -> Reply:
        return self._reply(self._present("fail", run_id, caller, duty.id, details))

    def cancel(self, run_id: str, caller: Caller, *, bury: int | None = None) -> Reply:
        return self._reply(self._present("cancel", run_id, caller, "" if bury is None else bury))

    def retry(self, run_id: str, caller: Caller, *, since: int | None = None) -> Reply:
        return self._reply(self._present("retry", run_id, caller, "" if since is None else since))

    def resend(self, run_id: str, caller: Caller) -> Reply:
        return self._reply(self._present("resend", run_id, caller))

    def touch(self, run_id: str, caller: Caller) -> str:
        return self._reply(self._present("touch", run_id, caller)).word

    # Looking

    def snapshot(self, run_id: str) -> Snapshot | None:
        raw = self._present("snapshot", run_id, Caller(owner="", now=0, lease="", lease_ms=0))
        return decode_snapshot(json.loads(raw[1])) if raw[0] == b"there" else None

    def spec(self, run_id: str) -> bytes | None:
        return cast("bytes | None", self._ask(lambda: self.client.hget(self._key(run_id, "head"), "spec")))

    def line(self, run_id: str, stage: int) -> str | None:
        line = self._ask(lambda: self.client.hget(self._key(run_id, "head"), f"s{stage}"))
        return line.decode() if line is not None else None

    def rows(self, run_id: str, start: int, end: int) -> Sequence[bytes]:
        return cast("list[bytes]", self._ask(lambda: self.client.lrange(self._key(run_id, "plan"), start, end - 1)))

    def results(self, run_id: str, stage: int, start: int, end: int) -> Sequence[bytes | None]:
        marks = self._key(run_id, f"marks:{stage}")
        found: list[bytes | None] = []
        with translated():
            for at in range(start, end, CHUNK):
                members = list(map(str, range(at, min(at + CHUNK, end))))
                found += cast("list[bytes | None]", self.client.hmget(marks, members))
        return found

    def standing(self, run_id: str, stage: int, start: int, end: int) -> Sequence[Standing | None]:
        if start >= end:
            return []
        members = list(map(str, range(start, end)))
        with translated():
            pipe = self.client.pipeline(transaction=True)
            pipe.hmget(self._key(run_id, f"marks:{stage}"), members)
            pipe.zmscore(self._key(run_id, f"standing:{stage}"), members)
            pipe.hmget(self._key(run_id, f"details:{stage}"), members)
            return [_standing_from(*found) for found in zip(*pipe.execute(), strict=True)]

    def failures(self, run_id: str, stage: int) -> Sequence[tuple[int, str]]:
        least = KINDS.index("dead") * SPAN
        standing, details = self._key(run_id, f"standing:{stage}"), self._key(run_id, f"details:{stage}")
        dead = self._ask(lambda: self.client.zrangebyscore(standing, least, "+inf"))
        stored = self._ask(lambda: self.client.hmget(details, dead)) if dead else []
        return [(int(member), _details_in(text).decode()) for member, text in zip(dead, stored, strict=True) if text]

    def nested(self, run_id: str, stage: int) -> Mapping[int, bytes]:
        nests = self._ask(lambda: self.client.hgetall(self._key(run_id, f"nests:{stage}")))
        return {int(member): plan for member, plan in nests.items()}

    def wait(self, run_id: str, timeout: float) -> None:
        # A list that rotates onto itself wakes every waiter, one after the other, and stays.
        bell = self._key(run_id, "bell")
        seconds = max(min(timeout, LONGEST_BLOCK), 0.001)  # 0 would be for ever
        client: Any = self.client  # its type wants whole seconds
        self._ask(lambda: client.blmove(bell, bell, seconds))

    # The index

    def due(self, now: int, look_again_at: int, limit: int) -> Sequence[str]:
        due = self._ask(lambda: self.client.zrangebyscore(self._index, 0, now, 0, limit))
        if due:
            self._ask(lambda: self.client.zadd(self._index, dict.fromkeys(due, look_again_at), xx=True))
        return [run_id.decode() for run_id in due]

    def look_again(self, run_id: str, at: int | None, *, run_ttl: int) -> None:
        with translated():
            if at is None:
                self.client.zrem(self._index, run_id)
                return
            pipe = self.client.pipeline(transaction=False)
            pipe.zadd(self._index, {run_id: at})
            pipe.pexpire(self._index, 2 * run_ttl)
            pipe.execute()

    # Keys, scripts, replies

    @property
    def _index(self) -> str:
        return f"{self.namespace}:index"

    def _key(self, run_id: str, part: str) -> str:
        return f"{self.namespace}:{{{run_id}}}:{part}"

    def _draft(self, run_id: str, draft: str) -> str:
        return self._key(run_id, f"draft:{draft}")

    def _keys(self, run_id: str, stage: int) -> list[str]:
        parts = ["head", "plan", "outbox", "bell", "mark"]
        parts += [f"{part}:{stage - 1}" for part in ("marks", "standing", "details", "nests")]
        parts += [f"{part}:{stage}" for part in ("marks", "standing", "details", "nests", "halted")]
        return [self._key(run_id, part) for part in (*parts, f"marks:{stage + 1}")]

    def _stage(self, run_id: str) -> int:
        """The present stage: a guess, which the script checks where it matters."""
        return int(self._ask(lambda: self.client.hget(self._key(run_id, "head"), "stage")) or 0)

    def _present(self, name: str, run_id: str, caller: Caller, *args: Any) -> Any:
        """Call a script with the keys of the present stage, which may be another one by then."""
        while True:
            raw = self._call(name, run_id, self._stage(run_id), caller, *args)
            if raw[0] != b"moved":
                return raw

    def _transition(
        self, name: str, run_id: str, stage: int, caller: Caller, *args: Any, extra_keys: Sequence[str] = ()
    ) -> Reply:
        return self._reply(self._call(name, run_id, stage, caller, *args, extra_keys=extra_keys))

    def _call(
        self,
        name: str,
        run_id: str,
        stage: int,
        caller: Caller,
        *args: Any,
        extra_keys: Sequence[str] = (),
        enqueue: str = "",
    ) -> Any:
        who = [stage, caller.now, caller.owner, caller.lease, caller.lease_ms]
        return self._run(name, [*self._keys(run_id, stage), *extra_keys], [*who, *args], enqueue=enqueue)

    def _run(self, name: str, keys: list[str], args: list[Any], *, bare: bool = False, enqueue: str = "") -> Any:
        text = script_text(name, bare=bare, enqueue=enqueue)
        arguments = (len(keys), *keys, *args)
        plain = self._is_plain and name in WORKERS
        with translated():
            try:
                return self._evaluate("EVALSHA", _registered(text), *arguments, plain=plain, alone=bool(enqueue))
            except NoScriptError:
                return self._evaluate("EVAL", text, *arguments, plain=plain, alone=bool(enqueue))

    def _evaluate(self, *command: Any, plain: bool, alone: bool) -> Any:
        # What enqueues goes alone: messages that come one by one reach an idle consumer sooner than all at once.
        client: Any = self.client
        return wire.ask(client, command, alone=alone) if plain else client.execute_command(*command)

    def _ask(self, call: Callable[[], Any]) -> Any:
        with translated():
            return call()

    def _reply(self, raw: Any, onward: Duty | None = None) -> Reply:
        word, *duties = raw
        if word != b"onward" or onward is None:
            return Reply(word.decode(), tuple(map(_duty_from, duties)))
        ahead, *duties = duties
        return Reply("counts", tuple(map(_duty_from, duties)), replace(onward, ahead=_ahead_from(onward, ahead)))


@cache
def _registered(text: str) -> str:
    """The name under which the server keeps a script."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _duty_from(raw: Any) -> Duty:
    name, lease, cursor, again, line, snapshot, *needs = raw
    spec, rows, previous, ahead = needs or (b"", (), (), ())
    duty = Duty(
        id=name.decode(),
        lease=lease.decode(),
        cursor=int(cursor),
        again=again == b"1",
        line=line.decode(),
        snapshot=decode_snapshot(json.loads(snapshot)) if snapshot else None,
        spec=spec or b"",
        rows=tuple(rows),
        previous=(previous[0].decode(), previous[1]) if previous else None,
    )
    return replace(duty, ahead=_ahead_from(duty, ahead)) if ahead else duty


def _ahead_from(duty: Duty, ahead: Any) -> Duty | None:
    """The duty that will follow this one; whoever is to do it adds the result to its line."""
    if not ahead:
        return None
    line, row, birth = ahead
    return Duty(
        id=f"send:{duty.stage + 1}:0:1",
        lease="",
        line=line.decode(),
        spec=duty.spec,
        rows=(row,),
        previous=(duty.line, b""),
        birth=birth,
    )


def _expired(run_id: str) -> DamagedState:
    return DamagedState(
        f"the plan of run {run_id!r} expired before it was complete, so nothing was started: reading its steps paused "
        f"for more than {DRAFT_TTL // 60_000} minutes"
    )


def _standing_from(mark: bytes | None, score: float | None, details: bytes | None) -> Standing | None:
    if mark is not None and mark[:1] == b"S":
        return Standing("succeeded")
    if score is None:
        return None
    kind = KINDS[int(score // SPAN)]
    retried = _details_in(details or b"")
    return Standing(kind, int(retried) if kind == "open" and retried else 0)


def _details_in(stored: bytes) -> bytes:
    """What follows the epoch and the attempt."""
    return stored.split(b" ", 2)[-1] if stored else b""
