"""Runs in Redis, or whatever speaks its protocol: keys, scripts, replies."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import resources
from typing import Any, TypeVar, cast

import redis
from dramatiq import Encoder
from redis.exceptions import NoScriptError, RedisError

from ..backend import Caller, ClutchBackend, Duty, GuardWord, Record, Reply, decode_snapshot
from ..errors import StateUnavailable
from ..plan import Plan, Tag
from ..status import Snapshot

T = TypeVar("T")

#: How long the rows of a plan that is being written live, in milliseconds, unless they are sealed.
DRAFT_TTL = 300_000

#: How many rows or results travel in one command.
CHUNK = 1_000

#: The longest a blocking call may block, in seconds: below the socket timeout (5 s) that redis-py gives a client.
LONGEST_BLOCK = 2.0

#: Of how many runs a process remembers when it put their expiry off.
MOST_TOUCHED = 10_000

#: What a server answers that waiting cures, and what its operator can do about it.
CURABLE = {
    "LOADING": "the server is still loading its data",
    "READONLY": "this server is a replica: point the URL at the primary, or wait for the failover to end",
    "OOM": "the server is out of memory: raise maxmemory or free some",
    "BUSY": "the server is running a script that doesn't end: SCRIPT KILL ends it",
    "MASTERDOWN": "the replica has lost its primary",
    "MISCONF": "the server can't save to disk: see its log",
    "CLUSTERDOWN": "the cluster is down",
    "TRYAGAIN": "the cluster is moving the slot",
    "NOREPLICAS": "the server has too few replicas to accept writes",
}


@cache
def script_text(name: str, *, bare: bool) -> str:
    """The text of a script: `bare` as it is, or after the prelude."""
    folder = resources.files(__package__) / "lua"
    text = (folder / f"{name}.lua").read_text()
    return text if bare else (folder / "prelude.lua").read_text() + text


@contextmanager
def translated() -> Iterator[None]:
    """Turn what waiting cures into StateUnavailable; leave everything else as it is."""
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError) as error:
        hint = "check user and password" if isinstance(error, redis.AuthenticationError) else "is it running?"
        raise StateUnavailable(f"the state store can't be reached ({hint}): {error}") from error
    except RedisError as error:
        for sign, hint in CURABLE.items():
            if sign in str(error).split(":")[0] or f"-{sign}" in str(error):
                raise StateUnavailable(f"the state store refuses to work for now ({hint}): {error}") from error
        raise


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
        if self.client.get_encoder().decode_responses:
            raise ValueError("RedisBackend needs a client that returns bytes: make it without decode_responses=True")
        self._touched: dict[str, int] = {}

    # Transitions

    def create(self, run_id: str, plan: Plan, caller: Caller, *, run_ttl: int, result_ttl: int) -> Reply:
        spec, lines = plan.spec, {f"s{index}": str(line) for index, line in enumerate(plan.lines)}
        head = {
            "spec": spec.to_bytes(),
            "name": spec.name or "",
            "stages": len(lines),
            "events": " ".join(sorted(spec.callbacks)),
            **lines,
        }
        fields = [part for pair in head.items() for part in pair]
        draft = self._key(run_id, f"draft:{secrets.token_hex(8)}")
        with translated():
            # The index entry comes first: whatever happens from here on, a sweeper finds the run.
            pipe = self.client.pipeline(transaction=False)
            pipe.zadd(self._index, {run_id: caller.now + caller.lease_ms})
            for at in range(0, len(plan.rows), CHUNK):
                pipe.rpush(draft, *plan.rows[at : at + CHUNK])
                pipe.pexpire(draft, DRAFT_TTL)
            pipe.pexpire(self._index, 2 * run_ttl)
            pipe.execute()
        return self._transition(
            "seal", run_id, 0, caller, run_ttl, result_ttl, caller.owner, *fields, extra_keys=(draft,)
        )

    def guard(self, tag: Tag) -> GuardWord:
        keys = [self._key(tag.run_id, part) for part in ("head", "mark", f"marks:{tag.stage}")]
        return cast(GuardWord, self._run("guard", keys, [tag.stage, tag.member], bare=True).decode())

    def record(self, record: Record, caller: Caller) -> Reply:
        tag = record.tag
        if record.ending == "succeeded" and tag.of > 1 and self._was_touched(tag.run_id, caller):
            marks = self._key(tag.run_id, f"marks:{tag.stage}")
            word = self._run("succeed", [marks], [tag.member, b"S" + record.payload, tag.of], bare=True)
            if word == b"counts":
                return Reply("counts")
        outcome = (tag.member, record.ending, tag.epoch, record.attempt, record.payload)
        return self._transition("record", tag.run_id, tag.stage, caller, *outcome)

    def owed(self, run_id: str, caller: Caller) -> Reply:
        return self._present("owed", run_id, lambda raw: self._reply(raw), caller)

    def open(self, run_id: str, duty: Duty, total: int, caller: Caller) -> Reply:
        return self._transition("open", run_id, duty.stage, caller, duty.id, total)

    def confirm(self, run_id: str, duty: Duty, caller: Caller, *, cursor: int | None = None) -> str:
        stage = self._stage(run_id)
        return self._transition("confirm", run_id, stage, caller, duty.id, "" if cursor is None else cursor).word

    def fail(self, run_id: str, duty: Duty, details: bytes, caller: Caller) -> Reply:
        return self._transition("fail", run_id, self._stage(run_id), caller, duty.id, details)

    # Looking

    def snapshot(self, run_id: str) -> Snapshot | None:
        caller = Caller(owner="", now=0, lease="", lease_ms=0)
        return self._present("snapshot", run_id, self._snapshot_from, caller)

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
        return [mark[1:] if mark and mark[:1] == b"S" else None for mark in found]

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

    def forget(self, run_id: str) -> None:
        self._ask(lambda: self.client.zrem(self._index, run_id))

    # Keys, scripts, replies

    def _was_touched(self, run_id: str, caller: Caller) -> bool:
        """Whether this process has put the expiry of the run's keys off lately. The common case leaves that out, so the
        whole transition is due now and then."""
        if caller.now - self._touched.get(run_id, 0) < caller.touch_every:
            return True
        if len(self._touched) >= MOST_TOUCHED:
            self._touched.clear()
        self._touched[run_id] = caller.now
        return False

    @property
    def _index(self) -> str:
        return f"{self.namespace}:index"

    def _key(self, run_id: str, part: str) -> str:
        return f"{self.namespace}:{{{run_id}}}:{part}"

    def _keys(self, run_id: str, stage: int) -> list[str]:
        parts = ["head", "plan", "outbox", "bell", "mark"]
        for index in (stage - 1, stage, stage + 1):
            parts += [f"marks:{index}", f"standing:{index}", f"details:{index}"]
        return [self._key(run_id, part) for part in parts]

    def _stage(self, run_id: str) -> int:
        """The present stage: a guess, which the script checks where it matters."""
        return int(self._ask(lambda: self.client.hget(self._key(run_id, "head"), "stage")) or 0)

    def _present(self, name: str, run_id: str, read: Callable[[Any], T], caller: Caller) -> T:
        while True:
            raw = self._call(name, run_id, self._stage(run_id), caller)
            if raw[0] != b"moved":
                return read(raw)

    def _transition(
        self, name: str, run_id: str, stage: int, caller: Caller, *args: Any, extra_keys: Sequence[str] = ()
    ) -> Reply:
        return self._reply(self._call(name, run_id, stage, caller, *args, extra_keys=extra_keys))

    def _call(
        self, name: str, run_id: str, stage: int, caller: Caller, *args: Any, extra_keys: Sequence[str] = ()
    ) -> Any:
        who = [stage, caller.now, caller.owner, caller.lease, caller.lease_ms]
        return self._run(name, [*self._keys(run_id, stage), *extra_keys], [*who, *args])

    def _run(self, name: str, keys: list[str], args: list[Any], *, bare: bool = False) -> Any:
        text = script_text(name, bare=bare)
        script = _registered(text)
        try:
            return self._ask(lambda: self.client.evalsha(script, len(keys), *keys, *args))
        except NoScriptError:
            return self._ask(lambda: self.client.eval(text, len(keys), *keys, *args))

    def _ask(self, call: Callable[[], Any]) -> Any:
        with translated():
            return call()

    def _reply(self, raw: Any) -> Reply:
        return Reply(raw[0].decode(), tuple(map(_duty_from, raw[1:])))

    def _snapshot_from(self, raw: Any) -> Snapshot | None:
        return decode_snapshot(json.loads(raw[1])) if raw[0] == b"there" else None


@cache
def _registered(text: str) -> str:
    """The name under which the server keeps a script."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _duty_from(raw: Any) -> Duty:
    name, lease, cursor, again, line, snapshot = raw
    return Duty(
        id=name.decode(),
        lease=lease.decode(),
        cursor=int(cursor),
        again=again == b"1",
        line=line.decode(),
        snapshot=decode_snapshot(json.loads(snapshot)) if snapshot else None,
    )
