"""Runs in Redis, or whatever speaks its protocol: keys, scripts, replies."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from importlib import resources
from typing import Any, cast

import redis
from dramatiq import Encoder
from dramatiq.logging import get_logger
from redis.exceptions import NoScriptError, RedisError

from .. import wire
from ..backend import (
    SHARE,
    Caller,
    ClutchBackend,
    Confirmation,
    Duty,
    GuardWord,
    Listener,
    Note,
    Onward,
    Record,
    Reply,
    Standing,
    decode_snapshot,
)
from ..errors import ClutchError, DamagedState, PayloadRefused, StateUnavailable, foreign_run
from ..forks import renew_in_children
from ..outages import LARGE, LIMITS, in_words, refuses, way_out
from ..plan import EVENTS, FORMAT, CallbackTag, Plan, Tag, refuse_newer, rows_of
from ..status import Snapshot
from ..together import Together
from ..tokens import new_token
from .pubsub import RedisListener, channel

#: How long the rows of a plan that is being written live, in milliseconds, unless they are sealed.
DRAFT_TTL = 300_000

#: How long the index lives after its last change, in milliseconds: longer than any run, for a run that is delayed for
#: long changes nothing. What is left in it of runs that are gone, a sweeper takes out.
INDEX_TTL = 400 * 86_400_000

#: How many rows or results travel in one command.
CHUNK = 1_000

#: How many runs are looked at in one round trip.
MOST_LOOKED_AT = 500

#: What is called for each job, by workers, who wait and repeat by themselves: without what a client does besides.
WORKERS = ("guard", "record", "succeed", "confirm")

#: The kinds of members that stand in the sorted set `standing`. A score there is era * ERA + kind * SPAN + index.
KINDS: tuple[Standing, ...] = ("open", "attempted", "failing")
SPAN = 2**32
ERA = 4 * SPAN

#: What is only for the application that the run belongs to.
PRIVATE = ("owed", "sweep", "cancel", "retry", "resend")

logger = get_logger(__name__)


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
    """Turn every error that isn't known to be final into StateUnavailable: it is waited for.

    Final are our own errors, and a payload that the server refuses or that isn't text in any encoding.
    """
    try:
        yield
    except ClutchError:
        raise
    except UnicodeEncodeError as error:
        raise PayloadRefused(f"what is to be stored is text that can't be encoded: {error}") from error
    except Exception as error:
        if refuses(error):
            raise PayloadRefused(f"the state store refuses a payload ({LIMITS}): {in_words(error)}") from error
        hint = way_out(error)
        raise StateUnavailable(f"the state store can't be used for now ({hint}): {in_words(error)}") from error


class RedisBackend(ClutchBackend):
    """Keeps runs in Redis.

    Parameters:
      client: a ready client; all other connection parameters are then ignored.
      url: a connection URL, such as ``rediss://user:password@host:6379/0``.
      namespace: what all keys begin with. Applications that share a server should each have their own.
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
        self._told: set[str] = set()
        if self.client.get_encoder().decode_responses:
            raise ValueError("RedisBackend needs a client that returns bytes: make it without decode_responses=True")
        renew_in_children(self)

    def renew(self) -> None:
        """Begin the client's pool anew in a forked child."""
        if self._is_plain:
            wire.renew_pool(self.client)

    def warnings(self) -> Sequence[str]:
        try:
            memory: dict[str, Any] = self._ask(lambda: self.client.info("memory"))
        except StateUnavailable:  # it is away, or INFO isn't allowed: then nothing can be said
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
            index = self._index(caller.application)
            pipe.zadd(index, {run_id: caller.now + caller.lease_ms})
            pipe.pexpire(index, max(2 * run_ttl, INDEX_TTL))
            # By its text, for a pipeline can't ask again when a server doesn't know a script's name.
            command = (script_text("draft", bare=True), 1, self._draft(run_id, draft), offset, DRAFT_TTL, *rows)
            if wire.size_of(rows) < LARGE:
                pipe.execute_command("EVAL", *command)
                answer = pipe.execute()[-1]
            else:
                pipe.execute()
                answer = self._evaluate("EVAL", *command, plain=False, alone=True)
            if answer == b"expired":
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
            "format": FORMAT,
            **lines,
        }
        fields = [part for pair in head.items() for part in pair]
        if not draft:
            draft = new_token()
            for at in range(0, len(plan.rows) or 1, CHUNK):
                self.draft(run_id, draft, at, plan.rows[at : at + CHUNK], caller, run_ttl=run_ttl)
        epoch = spec.parent.epoch if spec.parent else ""
        due = spec.start_at or 0
        args = (run_ttl, result_ttl, claim, epoch, rows_of(plan.lines), caller.application, due, *fields)
        keys = (self._draft(run_id, draft),)
        reply = self._transition("seal", run_id, 0, spec.generation, caller, *args, extra_keys=keys)
        if reply.word == "expired":
            raise _expired(run_id)
        return reply

    def guard(self, tag: Tag) -> GuardWord:
        generation = self._known(tag)
        keys = [self._key(tag.run_id, part) for part in ("head", "mark")]
        keys.append(self._key(tag.run_id, f"marks:{tag.stage}", generation))
        word = self._run("guard", keys, [tag.stage, tag.member, tag.of, generation], bare=True)
        return cast(GuardWord, word.decode())

    def record(self, record: Record, caller: Caller, onward: Onward | None = None) -> Reply:
        if record.is_common and not caller.touch:
            word = self._count(record)
            if word == b"counts":
                return Reply("counts")
            if word == b"last":  # the whole transition finds it applied
                return replace(self._record(record, caller, None), word="counts")
        try:
            return self._record(record, caller, onward)
        except PayloadRefused:
            if onward is None:
                raise
        return self._record(record, caller, None)  # the next message was too much; it may be so for the result as well

    def _count(self, record: Record) -> bytes:
        """The common case, with others' unless the server refuses them together, or this one might be refused."""
        if len(record.payload) < LARGE:
            with suppress(PayloadRefused):  # which one it is shows when each is sent by itself
                return self._succeed(record)
        (word,) = self._succeed_together([record])
        return word

    def _succeed_together(self, records: Sequence[Record]) -> list[bytes]:
        """The common case for several records: one call for each stage that they are of."""
        stages: dict[str, list[Record]] = defaultdict(list)
        for record in records:
            tag = record.tag
            stages[self._key(tag.run_id, f"marks:{tag.stage}", self._known(tag))].append(record)
        words: dict[int, bytes] = {}
        for marks, of_stage in stages.items():
            for batch in _batches(of_stage):
                words |= zip(map(id, batch), self._succeed_of_stage(marks, batch), strict=True)
        return [words[id(record)] for record in records]

    def _succeed_of_stage(self, marks: str, records: Sequence[Record]) -> Sequence[bytes]:
        tag = records[0].tag
        args: list[Any] = [tag.of, tag.batch]
        for record in records:
            args += [record.tag.member, b"S" + record.payload]
        return cast("list[bytes]", self._run("succeed", [marks], args, bare=True))

    def _record(self, record: Record, caller: Caller, onward: Onward | None) -> Reply:
        tag, generation = record.tag, self._known(record.tag)
        args: list[Any] = [tag.member, record.ending, tag.epoch, record.attempt, record.payload]
        args += [record.nested, "1" if record.of_run else "", "1" if caller.touch else "", record.due]
        more: dict[str, Any] = {}
        if onward is not None:
            args += [onward.duty.id, *onward.arguments]
            more = {"extra_keys": (onward.key,), "enqueue": onward.script}
        raw = self._call("record", tag.run_id, tag.stage, generation, caller, *args, **more)
        reply = self._reply(raw, generation, onward.duty if onward else None)
        return replace(self.owed(tag.run_id, caller), word="over") if reply.word == "over" and len(raw) == 1 else reply

    def owed(self, run_id: str, caller: Caller) -> Reply:
        return self._present("owed", run_id, caller)

    def sweep(self, run_id: str, caller: Caller, *, stalled_after: int, waits_for_jobs: bool = False) -> Reply:
        return self._present("sweep", run_id, caller, stalled_after, "1" if waits_for_jobs else "")

    def open(self, run_id: str, duty: Duty, total: int, caller: Caller) -> Reply:
        return self._transition("open", run_id, duty.stage, duty.generation, caller, duty.id, total)

    def confirm(self, run_id: str, duty: Duty, caller: Caller, *, cursor: int | None = None) -> str:
        args = [duty.id, "" if cursor is None else cursor, caller.now, caller.lease, caller.lease_ms]
        word: str = self._run("confirm", self._outbox(run_id, duty), args, bare=True).decode()
        return self._present("tidy", run_id, caller, duty.id).word if word == "tidy" else word

    def reopen(self, run_id: str, duty: Duty, done: int, caller: Caller) -> tuple[int, Sequence[int]] | None:
        raw = self._call("reopen", run_id, duty.stage, duty.generation, caller, duty.id, done)
        return (int(raw[1]), [int(member) for member in raw[2:]]) if raw[0] == b"open" else None

    def shares(self, client: Any) -> bool:
        return client is self.client and self._is_plain

    def confirmation(self, run_id: str, duty: Duty, caller: Caller, client: Any) -> Confirmation | None:
        if not self.shares(client):
            return None
        script = _registered(script_text("confirm", bare=True))
        keys = self._outbox(run_id, duty)
        args = [duty.id, "", caller.now, caller.lease, caller.lease_ms]
        return lambda queue, ids: ("EVALSHA", script, 3, *keys, queue, *args, *ids)

    def fail(self, run_id: str, duty: Duty, details: bytes, caller: Caller) -> Reply:
        return self._present("fail", run_id, caller, duty.id, details)

    def heard(self, tag: CallbackTag, caller: Caller) -> str:
        return self._present("heard", tag.run_id, caller, tag.duty, generation=tag.generation).word

    def cancel(self, run_id: str, caller: Caller, *, bury: int | None = None, generation: str = "") -> Reply:
        return self._present("cancel", run_id, caller, "" if bury is None else bury, generation=generation)

    def retry(self, run_id: str, caller: Caller, *, since: int | None = None, generation: str = "") -> Reply:
        return self._present("retry", run_id, caller, "" if since is None else since, generation=generation)

    def resend(self, run_id: str, caller: Caller, *, generation: str = "") -> Reply:
        return self._present("resend", run_id, caller, generation=generation)

    def retell(self, run_id: str, caller: Caller, *, generation: str = "") -> Reply:
        return self._present("retell", run_id, caller, generation=generation)

    def touch(self, run_id: str, caller: Caller, *, due: int = 0) -> str:
        return self._present("touch", run_id, caller, due).word

    def write_items(self, run_id: str, duty: Duty, offset: int, items: Sequence[bytes], *, run_ttl: int) -> None:
        key = self._key(run_id, f"items:{duty.stage}", duty.generation)
        if self._run("draft", [key], [offset, run_ttl, *items], bare=True) == b"expired":
            raise DamagedState(f"what stage {duty.stage} of run {run_id!r} is mapped over is gone: it has expired")

    # Looking

    def snapshot(self, run_id: str) -> Snapshot | None:
        raw = self._ask_present("snapshot", run_id, Caller(owner="", now=0, lease="", lease_ms=0))[0]
        return decode_snapshot(json.loads(raw[1])) if raw[0] == b"there" else None

    def generation(self, run_id: str) -> str | None:
        found = self._ask(lambda: self.client.hget(self._key(run_id, "head"), "gen"))
        return found.decode() if found is not None else None

    def spec(self, run_id: str, *, generation: str = "") -> bytes | None:
        return cast("bytes | None", self._of_head(run_id, "spec", generation))

    def line(self, run_id: str, stage: int, *, generation: str = "") -> str | None:
        line = self._of_head(run_id, f"s{stage}", generation)
        return line.decode() if line is not None else None

    def rows(self, run_id: str, start: int, end: int, *, generation: str = "") -> Sequence[bytes]:
        plan = self._key(run_id, "plan", generation or self._generation(run_id))
        return cast("list[bytes]", self._ask(lambda: self.client.lrange(plan, start, end - 1)))

    def items(self, run_id: str, stage: int, start: int, end: int, *, generation: str = "") -> Sequence[bytes]:
        items = self._key(run_id, f"items:{stage}", generation or self._generation(run_id))
        return cast("list[bytes]", self._ask(lambda: self.client.lrange(items, start, end - 1)))

    def results(self, run_id: str, stage: int, start: int, end: int, *, generation: str = "") -> Sequence[bytes | None]:
        marks = self._key(run_id, f"marks:{stage}", generation or self._generation(run_id))
        found: list[bytes | None] = []
        with translated():
            for at in range(start, end, CHUNK):
                members = list(map(str, range(at, min(at + CHUNK, end))))
                found += cast("list[bytes | None]", self.client.hmget(marks, members))
        return found

    def standing(
        self, run_id: str, stage: int, members: Sequence[int], *, generation: str = ""
    ) -> Sequence[Standing | None]:
        if not members:
            return []
        generation = generation or self._generation(run_id)
        marks, standing, dead = (
            self._key(run_id, f"{part}:{stage}", generation) for part in ("marks", "standing", "dead")
        )
        names = list(map(str, members))
        with translated():
            pipe: Any = self.client.pipeline(transaction=False)
            pipe.hmget(self._key(run_id, "head"), ["era", "revival"])
            pipe.hmget(marks, names)
            for key in (standing, dead):  # by name: what a pipeline makes of the answer differs with the client
                pipe.execute_command("ZMSCORE", key, *names)
            (era, revival), marked, *scores = pipe.execute()
        return [
            _standing_from(*found, era=int(era or 0), revival=int(revival or 0))
            for found in zip(marked, *scores, strict=True)
        ]

    def failures(self, run_id: str, stage: int, *, generation: str = "") -> Sequence[tuple[int, str]]:
        generation = generation or self._generation(run_id)
        dead, details = (self._key(run_id, f"{part}:{stage}", generation) for part in ("dead", "details"))
        found: list[tuple[int, str]] = []
        with translated():
            client: Any = self.client
            for at in itertools.count(0, CHUNK):
                some = client.zrange(dead, at, at + CHUNK - 1)
                stored = client.hmget(details, some) if some else []
                found += [
                    (int(one), _details_in(text).decode()) for one, text in zip(some, stored, strict=True) if text
                ]
                if len(some) < CHUNK:
                    break
        return sorted(found)

    def nested(self, run_id: str, stage: int, members: Sequence[int], *, generation: str = "") -> Mapping[int, bytes]:
        nests = self._key(run_id, f"nests:{stage}", generation or self._generation(run_id))
        if not members or not self._ask(lambda: self.client.exists(nests)):
            return {}
        plans = self._ask(lambda: self.client.hmget(nests, list(map(str, members))))
        return {member: plan for member, plan in zip(members, plans, strict=True) if plan is not None}

    def at_rest(self, run_ids: Sequence[str]) -> Sequence[bool]:
        found: list[bool] = []
        with translated():
            for at in range(0, len(run_ids), MOST_LOOKED_AT):
                pipe = self.client.pipeline(transaction=False)
                for run_id in run_ids[at : at + MOST_LOOKED_AT]:
                    pipe.hmget(self._key(run_id, "head"), "state", "format")
                found += map(_is_rest, pipe.execute(raise_on_error=False))
        return found

    # Hints

    def listen(self) -> Listener:
        return RedisListener(self.client, self.namespace, self._told)

    def say(self, name: str) -> None:
        try:
            self.client.publish(channel(self.namespace, name), "")
        except RedisError as error:
            logger.debug("Nobody hears of %s: %s", name, error)

    # The index

    def due(self, now: int, look_again_at: int, limit: int, *, application: str = "") -> Sequence[str]:
        index = self._index(application)
        due = self._ask(lambda: self.client.zrangebyscore(index, 0, now, 0, limit))
        if due:
            self._ask(lambda: self.client.zadd(index, dict.fromkeys(due, look_again_at), xx=True))
        return [run_id.decode() for run_id in due]

    def look_again(
        self, run_id: str, at: int | None, *, run_ttl: int, application: str = "", known: bool = False
    ) -> None:
        index = self._index(application)
        with translated():
            if at is None:
                self.client.zrem(index, run_id)
                return
            pipe = self.client.pipeline(transaction=False)
            pipe.zadd(index, {run_id: at}, xx=known)
            pipe.pexpire(index, max(2 * run_ttl, INDEX_TTL))
            pipe.execute()

    # Keys, scripts, replies

    def _index(self, application: str) -> str:
        return f"{self.namespace}:index:{application}"

    def _key(self, run_id: str, part: str, generation: str = "") -> str:
        """The name of a key. Only the head, the mark and the channel (bell) go by the run's id alone: all others are of
        one generation, so that nobody finds anything of another run that has had the id."""
        return f"{self.namespace}:{{{run_id}}}:{part}" + (f":{generation}" if generation else "")

    def _draft(self, run_id: str, draft: str) -> str:
        return self._key(run_id, f"draft:{draft}")

    def _outbox(self, run_id: str, duty: Duty) -> list[str]:
        """The keys of a confirmation."""
        return [self._key(run_id, "head"), self._key(run_id, "outbox", duty.generation)]

    def _keys(self, run_id: str, stage: int, generation: str) -> list[str]:
        before = [f"{part}:{stage - 1}" for part in ("marks", "standing", "dead", "details")]
        here = [f"{part}:{stage}" for part in ("marks", "standing", "dead", "details", "nests", "halted", "items")]
        parts = [*before, *here, f"marks:{stage + 1}"]
        begin, end = f"{self.namespace}:{{{run_id}}}:", f":{generation}" if generation else ""
        return [
            f"{begin}head",
            f"{begin}plan{end}",
            f"{begin}outbox{end}",
            f"{begin}bell",
            f"{begin}mark",
            f"{begin}callbacks{end}",
            *(f"{begin}{part}{end}" for part in parts),
        ]

    def _of_head(self, run_id: str, field: str, generation: str) -> Any:
        found, whose = self._ask(lambda: self.client.hmget(self._key(run_id, "head"), [field, "gen"]))
        return found if not generation or whose == generation.encode() else None

    def _known(self, tag: Tag) -> str:
        return tag.generation or self._generation(tag.run_id)

    def _generation(self, run_id: str) -> str:
        """The present generation of a run, or that of what is left of it."""
        found = self.generation(run_id)
        if found is None:
            mark: bytes = self._ask(lambda: self.client.get(self._key(run_id, "mark"))) or b""
            found = [*mark.decode().split(" "), "", ""][1]
        return found

    def _whereabouts(self, run_id: str, name: str, caller: Caller, generation: str) -> tuple[int, str]:
        """The present stage and the generation: a guess, which the script checks where it matters.

        Raises NewerRelease for a run of a newer format, and ForeignRun where it belongs to another application.
        """
        names = ("stage", "gen", "format", "app")
        stage, found, version, app = self._ask(lambda: self.client.hmget(self._key(run_id, "head"), names))
        if version is not None:
            refuse_newer(int(version), f"run {run_id!r}")
        if name in PRIVATE and app is not None and app.decode() != caller.application:
            raise foreign_run(run_id, app.decode(), caller.application)
        return int(stage or 0), generation or (found or b"").decode()

    def _present(self, name: str, run_id: str, caller: Caller, *args: Any, generation: str = "") -> Reply:
        """Call a script with the keys of the present stage, which may be another one by then."""
        return self._reply(*self._ask_present(name, run_id, caller, *args, generation=generation))

    def _ask_present(self, name: str, run_id: str, caller: Caller, *args: Any, generation: str = "") -> tuple[Any, str]:
        while True:
            stage, whose = self._whereabouts(run_id, name, caller, generation)
            raw = self._call(name, run_id, stage, whose, caller, *args)
            if raw[0] != b"moved":
                return raw, whose

    def _transition(
        self,
        name: str,
        run_id: str,
        stage: int,
        generation: str,
        caller: Caller,
        *args: Any,
        extra_keys: Sequence[str] = (),
    ) -> Reply:
        raw = self._call(name, run_id, stage, generation, caller, *args, extra_keys=extra_keys)
        return self._reply(raw, generation)

    def _call(
        self,
        name: str,
        run_id: str,
        stage: int,
        generation: str,
        caller: Caller,
        *args: Any,
        extra_keys: Sequence[str] = (),
        enqueue: str = "",
    ) -> Any:
        who = [stage, caller.now, caller.owner, caller.lease, caller.lease_ms, generation]
        keys = [*self._keys(run_id, stage, generation), *extra_keys]
        return self._run(name, keys, [*who, *args], enqueue=enqueue)

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
        if plain:
            return wire.ask(client, command, alone=alone)
        size = wire.size_of(command)
        if size < LARGE:
            return client.execute_command(*command)
        if self._is_plain:
            # Over the wire, for the client's own repeats would take a refusal for an outage, for many seconds.
            with suppress(redis.ConnectionError):
                return wire.ask(client, command, alone=True)
            return client.execute_command(*command)  # it is an outage, which the client waits through for a while
        call = wire.small_call(command)
        return wire.carry(size, lambda: client.execute_command(*command), lambda: self._works(call))

    def _works(self, call: wire.Command) -> bool:
        """Whether a cluster does this call."""
        try:
            return bool(cast(Any, self.client).execute_command(*call) == 1)
        except (redis.RedisError, redis.exceptions.RedisClusterException, OSError):
            return False

    def _ask(self, call: Callable[[], Any]) -> Any:
        with translated():
            return call()

    def _reply(self, raw: Any, generation: str, onward: Duty | None = None) -> Reply:
        word, note, *duties = raw if len(raw) > 1 else (*raw, b"")
        if word == b"foreign":
            return Reply("foreign", note=cast(Note, note.decode()))
        if word != b"onward" or onward is None:
            found = tuple(_duty_from(duty, generation) for duty in duties)
            return Reply(word.decode(), found, note=cast(Note, note.decode()))
        ahead, *duties = duties
        sent = replace(onward, ahead=_ahead_from(onward, ahead))
        return Reply("counts", tuple(_duty_from(duty, generation) for duty in duties), sent, cast(Note, note.decode()))


def _batches(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    """The records in as many groups as it takes for each, unless it is a single record, to make a small call."""
    batch, size = list[Record](), 0
    for record in records:
        if batch and size + len(record.payload) > LARGE // 2:
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += len(record.payload)
    yield batch


@cache
def _registered(text: str) -> str:
    """The name under which the server keeps a script."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _duty_from(raw: Any, generation: str) -> Duty:
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
        generation=generation,
    )
    return replace(duty, ahead=_ahead_from(duty, ahead)) if ahead else duty


def _ahead_from(duty: Duty, ahead: Any) -> Duty | None:
    """The duty that will follow this one; whoever is to do it adds the result to its line."""
    if not ahead:
        return None
    line, row = ahead
    return Duty(
        id=f"send:{duty.stage + 1}:0:1",
        lease="",
        line=line.decode(),
        spec=duty.spec,
        rows=(row,),
        previous=(duty.line, b""),
        generation=duty.generation,
    )


def _is_rest(found: Any) -> bool:
    """Also of an error that waiting doesn't cure, and of a newer format: whoever reads the run gets it."""
    if isinstance(found, Exception):
        if way_out(found) is not None:
            raise found
        return True
    state, version = found
    return state != b"running" or int(version or FORMAT) > FORMAT


def _expired(run_id: str) -> DamagedState:
    return DamagedState(
        f"the plan of run {run_id!r} expired before it was complete, so nothing was started: reading its steps paused "
        f"for more than {DRAFT_TTL // 60_000} minutes"
    )


def _standing_from(mark: bytes | None, standing: Any, dead: Any, *, era: int, revival: int) -> Standing | None:
    if mark is not None and mark[:1] == b"S":
        return "succeeded"
    if dead is not None:
        return "dead" if float(dead) >= revival * SPAN else "waiting"
    if standing is None:
        return None
    its_era, rest = divmod(int(float(standing)), ERA)
    return KINDS[rest // SPAN] if its_era == era else "waiting"


def _details_in(stored: bytes) -> bytes:
    """What follows the epoch and the attempt."""
    return stored.split(b" ", 2)[-1] if stored else b""
