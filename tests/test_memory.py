"""The store in memory: its commands and its Lua do what the server's do; its clock, and what it is for tests."""

from __future__ import annotations

import gc
import hashlib
import re
import subprocess
import sys
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from importlib import resources
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker

from dramatiq_clutch import Clutch, ClutchMiddleware
from dramatiq_clutch.backend import Caller, Record
from dramatiq_clutch.backends import StubBackend
from dramatiq_clutch.backends.memory import Clock
from dramatiq_clutch.backends.memory.commands import COMMANDS, UnknownCommand
from dramatiq_clutch.errors import NotConfigured
from dramatiq_clutch.stored.places import Tag
from dramatiq_clutch.stored.plan import Plan, Spec, StageLine
from tests.support.awaiting import wait_until

#: What the backend calls without a script, besides what scripts call, too.
BY_ITSELF = {"ZMSCORE", "ZRANGE"}

Call = Sequence[Any]

HASH: list[Call] = [("HSET", "key", "a", "1", "b", "", "c", "x")]
SCORES: list[Call] = [("ZADD", "key", 2, "b", 1, "a", 2, "a2", 2**53, "high", -1, "low")]
NAMES: list[Call] = [("ZADD", "key", 0, "b", 0, "a", 0, "a1", 0, b"\xff", 0, "B")]
LIST: list[Call] = [("RPUSH", "key", "0", "1", "2", "3")]

#: For each command some short stories. All that is asked in them, and what is there in the end, is compared.
CASES: dict[str, list[list[Call]]] = {
    "DEL": [[*HASH, ("DEL", "key", "key", "none"), ("EXISTS", "key")], [("DEL", "none")]],
    "UNLINK": [[*HASH, *[("SET", "other", "1")], ("UNLINK", "key", "other", "none")], [("UNLINK", "none")]],
    "EXISTS": [[*HASH, ("EXISTS", "key", "key", "none")], [("EXISTS", "none")]],
    "GET": [[("SET", "key", b"\x00\xff"), ("GET", "key")], [("GET", "none")]],
    "SET": [
        [("SET", "key", "1"), ("SET", "key", 1.5), ("GET", "key")],
        [("SET", "key", "1", "PX", 100_000)],
        [("SET", "key", "1", "PX", 100_000), ("SET", "key", "2")],
        [*HASH, ("SET", "key", "1"), ("GET", "key")],
        [("SET", "key", "1", "PX", 0)],
        [("SET", "key", "1", "PX", "soon")],
        [("SET", "key", "1", "NOW")],
    ],
    "PTTL": [
        [("PTTL", "none")],
        [*HASH, ("PTTL", "key")],
    ],
    "PEXPIRE": [
        [*HASH, ("PEXPIRE", "key", 100_000), ("HLEN", "key")],
        [*HASH, ("PEXPIRE", "key", 0), ("EXISTS", "key")],
        [*HASH, ("PEXPIRE", "key", -1), ("EXISTS", "key")],
        [*HASH, ("PEXPIRE", "key", "soon")],
        [*HASH, ("PEXPIRE", "key", "1.5")],
        [*HASH, ("PEXPIRE", "key", 100_000), ("HDEL", "key", "a", "b", "c"), *HASH],
        [("PEXPIRE", "none", 1)],
    ],
    "RENAME": [
        [*HASH, ("RENAME", "key", "new"), ("HGETALL", "new"), ("EXISTS", "key")],
        [*HASH, ("PEXPIRE", "key", 100_000), ("RENAME", "key", "new")],
        [*HASH, ("SET", "new", "1", "PX", 100_000), ("RENAME", "key", "new")],
        [*HASH, ("RENAME", "key", "key"), ("HLEN", "key")],
        [("RENAME", "none", "new")],
    ],
    "HDEL": [[*HASH, ("HDEL", "key", "a", "a", "none"), ("HKEYS", "key")], [*HASH, ("HDEL", "key", "a", "b", "c")]],
    "HEXISTS": [[*HASH, ("HEXISTS", "key", "b"), ("HEXISTS", "key", "none")], [("HEXISTS", "none", "a")]],
    "HGET": [[*HASH, ("HGET", "key", "b"), ("HGET", "key", "none")], [("HGET", "none", "a")]],
    "HGETALL": [[*HASH, ("HGETALL", "key")], [("HGETALL", "none")]],
    "HINCRBY": [
        [("HINCRBY", "key", "n", 1), ("HINCRBY", "key", "n", -3), ("HGET", "key", "n")],
        [*HASH, ("HINCRBY", "key", "c", 1)],
        [*HASH, ("HINCRBY", "key", "b", 1)],
        [("HINCRBY", "key", "n", "much"), ("EXISTS", "key")],
    ],
    "HKEYS": [[*HASH, ("HKEYS", "key")], [("HKEYS", "none")]],
    "HLEN": [[*HASH, ("HLEN", "key")], [("HLEN", "none")]],
    "HMGET": [[*HASH, ("HMGET", "key", "a", "none", "b", "a")], [("HMGET", "none", "a", "b")]],
    "HSET": [
        [("HSET", "key", "a", 1, "a", 2), ("HSET", "key", "a", 3, "b", 2**40), ("HGETALL", "key")],
        [*HASH, ("PEXPIRE", "key", 100_000), ("HSET", "key", "a", "2")],
    ],
    "HSETNX": [[("HSETNX", "key", "a", 1), ("HSETNX", "key", "a", 2), ("HGET", "key", "a")]],
    "HSTRLEN": [
        [("HSET", "key", "a", "äb"), ("HSTRLEN", "key", "a"), ("HSTRLEN", "key", "b")],
        [("HSTRLEN", "none", "a")],
    ],
    "LLEN": [[*LIST, ("LLEN", "key")], [("LLEN", "none")]],
    "LRANGE": [
        [*LIST, *[("LRANGE", "key", *ends) for ends in [(0, -1), (1, 2), (-2, -1), (2, 1), (-9, 1), (3, 9), (4, 9)]]],
        [*LIST, ("LRANGE", "key", 0, -9), ("LRANGE", "key", "a", 1)],
        [("LRANGE", "none", 0, -1)],
    ],
    "PUBLISH": [[("PUBLISH", "channel", "message")]],
    "RPUSH": [[("RPUSH", "key", "b", "a", "b"), ("RPUSH", "key", 1), ("LRANGE", "key", 0, -1)]],
    "SADD": [[("SADD", "key", "a", "b", "a"), ("SADD", "key", "b", "c")]],
    "SREM": [[("SADD", "key", "a", "b"), ("SREM", "key", "a", "none"), ("SREM", "key", "b")], [("SREM", "none", "a")]],
    "ZADD": [
        [("ZADD", "key", 1, "a", 1, "b"), ("ZADD", "key", 2, "a", 3, "c"), ("ZMSCORE", "key", "a", "b", "c")],
        [("ZADD", "key", "XX", 1, "a"), ("EXISTS", "key")],
        [("ZADD", "key", 1, "a"), ("ZADD", "key", "XX", 2, "a", 2, "b"), ("ZMSCORE", "key", "a", "b")],
        [("ZADD", "key", 2**33, "a", 1.5, "b", "+inf", "c", "1e3", "d"), ("ZMSCORE", "key", "a", "b", "c", "d")],
        [("ZADD", "key", "much", "a"), ("EXISTS", "key")],
        [("ZADD", "key", "nan", "a"), ("EXISTS", "key")],
        [("ZADD", "key", 1, "a", 2)],
    ],
    "ZCARD": [[*SCORES, ("ZCARD", "key")], [("ZCARD", "none")]],
    "ZCOUNT": [
        [*SCORES, *[("ZCOUNT", "key", *ends) for ends in [(1, 2), ("(1", 2), (1, "(2"), ("-inf", "+inf"), (3, 1)]]],
        [*SCORES, ("ZCOUNT", "key", "few", 1)],
        [("ZCOUNT", "none", 0, 1)],
    ],
    "ZSCORE": [[*SCORES, ("ZSCORE", "key", "a"), ("ZSCORE", "key", "none")], [("ZSCORE", "none", "a")]],
    "ZMSCORE": [[*SCORES, ("ZMSCORE", "key", "a", "none", "high")], [("ZMSCORE", "none", "a")]],
    "ZLEXCOUNT": [
        [*NAMES, *[("ZLEXCOUNT", "key", *ends) for ends in [("[b", "[a"), ("[a", "[b"), ("(a", "(b"), ("[", "(c")]]],
        [("ZLEXCOUNT", "none", "[a", "[b")],
    ],
    "ZREVRANGEBYLEX": [
        [*NAMES, *[("ZREVRANGEBYLEX", "key", *ends, "LIMIT", 0, 9) for ends in [("[a", "[b"), ("[b", "[a")]]],
        [*NAMES, ("ZREVRANGEBYLEX", "key", "(b", "(a", "LIMIT", 0, 9)],
        [*NAMES, *[("ZREVRANGEBYLEX", "key", "(z", "[a", "LIMIT", *some) for some in [(0, 2), (1, 2), (3, 9), (0, 0)]]],
        [("ZREVRANGEBYLEX", "none", "[b", "[a", "LIMIT", 0, 1)],
    ],
    "ZRANGE": [[*SCORES, ("ZRANGE", "key", 0, -1), ("ZRANGE", "key", 1, 2)], [("ZRANGE", "none", 0, -1)]],
    "ZRANGEBYSCORE": [
        [*SCORES, ("ZRANGEBYSCORE", "key", "-inf", "+inf"), ("ZRANGEBYSCORE", "key", "(1", f"({2**53}")],
        [*SCORES, *[("ZRANGEBYSCORE", "key", 0, 9, "LIMIT", *some) for some in [(0, 2), (1, 1), (0, 0)]]],
        [*SCORES, *[("ZRANGEBYSCORE", "key", 0, 9, "LIMIT", *some) for some in [(0, -1), (-1, 2)]]],
        [*SCORES, ("ZRANGEBYSCORE", "key", 0, 9, "LIMIT", 0)],
        [("ZRANGEBYSCORE", "none", 0, 1)],
    ],
    "ZREM": [
        [*SCORES, ("ZREM", "key", "a", "a", "none"), ("ZCARD", "key")],
        [("ZADD", "key", 1, "a"), ("ZREM", "key", "a")],
    ],
}  # fmt: skip

#: Values of each kind of key, and which kind each command is for.
KINDS: dict[str, Call] = {
    "string": ("SET", "key", "1"),
    "hash": HASH[0],
    "list": LIST[0],
    "set": ("SADD", "key", "a"),
    "zset": SCORES[0],
}
FOR_KIND = {"GET": "string", "LLEN": "list", "LRANGE": "list", "RPUSH": "list"}
FOR_KIND |= {name: "hash" for name in CASES if name.startswith("H")}
FOR_KIND |= {name: "set" for name in CASES if name.startswith("S") and name != "SET"}
FOR_KIND |= {name: "zset" for name in CASES if name.startswith("Z")}

#: What scripts may ask of Lua, of `redis` and of `cjson`; the answer is compared.
SNIPPETS = {
    "replies": "return {1, 2.7, 'text', true, false, {}, {a = 1}, 2 ^ 53, {{'deep'}}}",
    "an array ends before its first nil": "return {1, nil, 3}",
    "nothing": "",
    "a missing value is false": "return tostring(redis.call('HGET', 'none', 'field'))",
    "a status is a table": "return redis.call('SET', 'key', '1').ok",
    "keys and arguments": "return {#KEYS, KEYS[1], #ARGV, ARGV[1]}",
    "numbers as text": "return {tostring(1e15), tostring(2 ^ 53), '' .. 0.1, string.format('%.0f', 2 ^ 40)}",
    "numbers as arguments": "redis.call('RPUSH', 'key', 1e15, 2 ^ 53, 0.1, -1, 1e300)"
    " return redis.call('LRANGE', 'key', 0, -1)",
    "JSON of text": "return cjson.encode('a/b\"\\\\' .. string.char(0, 10, 31, 127, 255))",
    "JSON of a list": "return cjson.encode({1, 'two', {3}, true, 1.5, 2 ^ 40})",
    "JSON of what has no number": "return cjson.encode({one = {}})",
    "JSON of a list with a gap": "return cjson.encode({1, [3] = 3})",
    "JSON of a list and more": "return cjson.encode({[1] = 1, x = 1}) == '{\"1\":1,\"x\":1}' and 1",
    "JSON and back": "return cjson.encode(cjson.decode('[{\"a\":[]},[\"\\\\u00e9\\\\/\",1.25,-1e3,false]]'))",
    "numbers from JSON": "return tostring(cjson.decode('[1700000000000]')[1] + 1)",
    "an error is caught": "return redis.pcall('HGET', 'text', 'field').err",
    "an error's words": "return redis.error_reply('MY words')",
    "a status": "return redis.status_reply('fine')",
    "what was done before an error stays": "redis.call('SET', 'key', '1') error('oops')",
    "a command's error": "\nlocal found = redis.call('HGET', 'text', 'field')\nreturn found",
    "an error's line": "\n\nlocal nothing\nreturn nothing.field",
    "an error in a function": "local function inner()\nerror('oops')\nend\nlocal found = inner()\nreturn found",
    "an error without a place": "error('oops', 0)",
    "an error as a table": "error({err = 'MY words'})",
    "JSON that is none": "local found = cjson.decode('none')",
    "a global is made": "made = 1",
    "a global that isn't there": "return missing",
    "nothing of the system": "return io",
    "no Python": "return python",
    "arguments that are no text": "local reply = redis.call('SET', 'key', true)",
    "what doesn't compile": "return return",
}  # fmt: skip


@pytest.fixture
def memory() -> StubBackend:
    return StubBackend()


def both(client: redis.Redis, memory: StubBackend) -> tuple[Any, Any]:
    return client, client_of(memory)


def on_both(client: redis.Redis, memory: StubBackend, call: Callable[[Any], Any]) -> tuple[Any, Any]:
    """The answers of the server and of the store in memory; an error is an answer, too."""
    return answer(call, client), answer(call, client_of(memory))


def client_of(memory: StubBackend) -> Any:
    """Has the methods of `redis.Redis` that the backend uses."""
    return memory.client


def every_key(client: redis.Redis) -> list[bytes]:
    return list(client.scan_iter())


def answer(call: Callable[[Any], Any], client: Any) -> Any:
    try:
        return call(client)
    except redis.ResponseError as error:
        # The servers say in different ways which script it was.
        return re.sub(r" script: .*on (@user_script:\d+).", r" \1", str(error))


def evaluate(text: str, *args: Any) -> Callable[[Any], Any]:
    return lambda client: client.execute_command("EVAL", text, 1, "key", *args)


def called(call: Call) -> Callable[[Any], Any]:
    """In a script, for what a client makes of a reply differs with the command."""
    return evaluate("local reply = redis.call(unpack(ARGV)) return reply", *call)


# Its commands and its Lua are the server's


def test_it_has_the_commands_that_the_scripts_and_the_backend_call_and_no_others() -> None:
    assert {name.decode() for name in COMMANDS} == called_by_scripts() | BY_ITSELF


def test_every_command_is_compared_with_the_servers() -> None:
    assert set(CASES) == called_by_scripts() | BY_ITSELF


@pytest.mark.parametrize("name", CASES)
def test_a_command_does_what_the_servers_does(redis_client: redis.Redis, memory: StubBackend, name: str) -> None:
    for story in CASES[name]:
        redis_client.flushall()
        memory.reset()
        for call in story:
            there, here = on_both(redis_client, memory, called(call))
            assert here == there, call
        kept = {key: redis_client.pttl(key) >= 0 for key in every_key(redis_client)}
        redis_client.flushall()
        assert {key: key in memory.keyspace.expires for key in memory.keyspace.values} == kept, story


@pytest.mark.parametrize("name", FOR_KIND)
def test_a_command_refuses_a_key_of_another_kind(redis_client: redis.Redis, memory: StubBackend, name: str) -> None:
    call = next(call for call in CASES[name][0] if call[0] == name)
    for kind, make in KINDS.items():
        for client in both(redis_client, memory):
            client.execute_command("DEL", "key")
            client.execute_command(*make)
        there, here = on_both(redis_client, memory, called(call))
        assert here == there
        assert ("WRONGTYPE" in str(here)) == (kind != FOR_KIND[name])
    redis_client.flushall()


@pytest.mark.parametrize("what", SNIPPETS)
def test_lua_does_what_the_servers_does(redis_client: redis.Redis, memory: StubBackend, what: str) -> None:
    for client in both(redis_client, memory):
        client.execute_command("SET", "text", "1")
    there, here = on_both(redis_client, memory, evaluate(SNIPPETS[what], "argument"))
    there_after, here_after = on_both(redis_client, memory, called(("EXISTS", "key")))
    redis_client.flushall()
    assert (here, here_after) == (there, there_after)


def test_a_script_is_known_by_its_name_once_it_was_sent(redis_client: redis.Redis, memory: StubBackend) -> None:
    text = f"return 1 -- {uuid.uuid4()}"  # the server may know what other tests have sent
    name = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    for client in both(redis_client, memory):
        with pytest.raises(redis.exceptions.NoScriptError):
            client.execute_command("EVALSHA", name, 0)
        assert client.execute_command("EVAL", text, 0) == 1
        assert client.execute_command("EVALSHA", name, 0) == 1


@pytest.mark.parametrize("text", ["redis.call('BLMOVE', 'a', 'b')", "redis.pcall('BLMOVE', 'a', 'b')"])
def test_a_command_that_it_does_not_have_is_named_even_if_the_script_catches_errors(
    memory: StubBackend, text: str
) -> None:
    with pytest.raises(UnknownCommand, match="BLMOVE"):
        client_of(memory).execute_command("EVAL", text, 0)


def called_by_scripts() -> set[str]:
    folder = resources.files("dramatiq_clutch.backends.redis") / "lua"
    texts = [file.read_text() for file in files_in(folder)]
    return {name for text in texts for name in re.findall(r"\bp?call\('([A-Z]+)'", text)}


def files_in(folder: Any) -> Iterator[Any]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from files_in(entry)
        elif entry.name.endswith(".lua"):
            yield entry


# Its clock


def test_a_key_goes_when_its_time_has_come() -> None:
    memory = StubBackend(clock=Clock(at=1_000))
    client_of(memory).execute_command("SET", "key", "1", "PX", 500)
    memory.clock.advance(499)
    assert client_of(memory).exists("key")
    memory.clock.advance(1)
    assert not client_of(memory).exists("key")
    assert not memory.keyspace.values


def test_time_stands_still_while_a_script_works() -> None:
    class Impatient(Clock):
        """Every look at it takes a second."""

        def now(self) -> int:
            self.advance(1_000)
            return super().now()

    memory = StubBackend(clock=Impatient(at=0))
    text = "redis.call('SET', 'key', '1', 'PX', 500) return redis.call('GET', 'key')"
    assert client_of(memory).execute_command("EVAL", text, 0) == b"1"
    assert client_of(memory).get("key") is None


def test_a_clock_goes_as_real_time_does_and_ahead_of_it() -> None:
    clock, real = Clock(), dramatiq.common.current_millis()
    assert clock.now() >= real
    clock.advance(10_000_000)
    assert clock.now() >= real + 10_000_000
    clock.advance(timedelta(days=1))
    assert clock.now() >= real + 10_000_000 + 86_400_000
    clock.reset()
    assert clock.now() < real + 10_000_000


def test_a_clock_does_not_go_back() -> None:
    with pytest.raises(ValueError, match=r"what a clock is advanced by is -1; .* and not negative"):
        Clock().advance(-1)


def test_a_run_expires_like_on_a_server(memory: StubBackend) -> None:
    create(memory, "run", run_ttl=1_000_000)
    memory.clock.advance(999_000)
    assert memory.snapshot("run") is not None
    memory.clock.advance(1_000)
    assert memory.snapshot("run") is None


def test_what_a_producer_left_undone_is_done_when_its_lease_has_lapsed_by_the_clock() -> None:
    broker, memory = StubBroker(), StubBackend()
    ours = ClutchMiddleware(memory, lease=60_000, sweep_interval=None)
    broker.add_middleware(ours)

    @dramatiq.actor(broker=broker)
    def job() -> None: ...

    broker.emit_after("process_boot")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dramatiq_clutch.starting.hand_over", killed)
        with pytest.raises(KeyboardInterrupt):
            Clutch(broker=broker).then(job.message()).run()
    assert ours.sweep(broker) == 0
    assert broker.queues["default"].empty()
    memory.clock.advance(60_000)
    assert ours.sweep(broker) == 1
    assert broker.queues["default"].qsize() == 1
    broker.close()


def killed(*_: Any) -> None:
    raise KeyboardInterrupt


# The whole of it: saved, put back, emptied


def test_what_was_saved_can_be_put_back_more_than_once(memory: StubBackend) -> None:
    create(memory, "run")
    before = memory.snapshot("run")
    saved = memory.save()
    for _ in range(2):
        succeed(memory, "run", 0)
        create(memory, "other")
        memory.clock.advance(10**9)
        assert memory.snapshot("run") is None
        memory.restore(saved)
        assert memory.snapshot("run") == before
        assert memory.snapshot("other") is None
        assert memory.save() == saved


def test_a_reset_forgets_all_runs_and_how_far_the_clock_was_advanced(memory: StubBackend) -> None:
    create(memory, "run")
    memory.clock.advance(1_000)
    memory.reset()
    assert memory.snapshot("run") is None
    assert not memory.keyspace.expires
    assert memory.clock.ahead == 0
    assert create(memory, "run") == "created"


# What runs the scripts


@pytest.fixture
def without_lupa(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dramatiq_clutch.backends.memory.scripts.lua51", None)


HOW_TO_INSTALL = re.escape('pip install "dramatiq-clutch[testing]"')


@pytest.mark.process
def test_where_lupa_is_missing_the_package_is_imported_and_a_store_in_memory_says_how_to_install_it() -> None:
    program = (
        "import sys; sys.modules['lupa'] = None  # an import of it fails then\n"
        "from dramatiq_clutch import errors, backends\n"
        "try: backends.StubBackend()\n"
        "except errors.NotConfigured as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert re.search(HOW_TO_INSTALL, said.stdout)


def test_where_lupa_is_missing_a_broker_in_memory_without_a_backend_says_how_to_install_it(without_lupa: None) -> None:
    broker = StubBroker()
    broker.add_middleware(ClutchMiddleware())

    @dramatiq.actor(broker=broker)
    def job() -> None: ...

    with pytest.raises(NotConfigured, match=HOW_TO_INSTALL):
        Clutch(broker=broker).then(job.message()).run()
    with pytest.raises(NotConfigured, match=HOW_TO_INSTALL):
        broker.emit_before("worker_boot", dramatiq.Worker(broker))


def test_where_lupa_is_missing_everything_else_works(without_lupa: None, redis_broker: RedisBroker) -> None:
    @dramatiq.actor
    def job() -> None: ...

    assert Clutch().then(job.message()).run().status().state == "running"


def test_a_store_in_memory_that_nobody_uses_any_more_is_collected(memory: StubBackend) -> None:
    """Lua holds functions of Python's where the collector doesn't look."""
    store = StubBackend()
    create(store, "run")
    gone = weakref.ref(store.keyspace)
    del store
    wait_until("it is collected", lambda: (gc.collect(), gone() is None)[1])


# Threads


def test_of_many_threads_each_success_counts_once_and_one_of_them_releases_the_next_stage(
    memory: StubBackend,
) -> None:
    create(memory, "run", sizes=(40, 1))
    released: list[str] = []
    start = threading.Barrier(8)

    def work(first: int) -> None:
        start.wait()
        for member in range(first, 40, 4):  # two threads record each member
            released.extend(succeed(memory, "run", member, of=40))

    threads = [threading.Thread(target=work, args=(number % 4,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert released == ["send:1:0:1"]


def test_who_waits_for_a_run_is_woken_when_it_comes_to_rest() -> None:
    broker = StubBroker()
    memory = StubBackend()
    broker.add_middleware(ClutchMiddleware(memory))
    go_on = threading.Event()

    @dramatiq.actor(broker=broker)
    def wait() -> str:
        go_on.wait()
        return "done"

    broker.emit_after("process_boot")
    run = Clutch(broker=broker).then(wait.message()).run()
    found: list[Any] = []
    waiter = threading.Thread(target=lambda: found.append(run.get_result(block=True, timeout=60_000)))
    waiter.start()
    worker = dramatiq.Worker(broker, worker_timeout=20, worker_threads=1)
    worker.start()
    try:
        wait_until("the waiter to listen", lambda: list(client_of(memory).listeners))
        go_on.set()
        waiter.join()
    finally:
        worker.stop()
        broker.close()
    assert found == ["done"]


def test_what_is_said_is_heard_by_who_listens_for_it(memory: StubBackend) -> None:
    listener = memory.listen()
    listener.add(["run", "other"])
    assert sorted(listener.hear(10)) == ["other", "run"]  # listening has just begun
    memory.say("run")
    assert listener.hear(10) == ["run"]
    listener.remove(["run"])
    memory.say("run")
    memory.say("other")
    assert listener.hear(10) == ["other"]
    listener.close()
    assert not list(client_of(memory).listeners)


def create(memory: StubBackend, run_id: str, *, sizes: Sequence[int] = (1, 1), run_ttl: int = 10**8) -> str:
    lines, rows = [], 0
    for size in sizes:
        lines.append(StageLine(rows, size, many=True))
        rows += size
    plan = Plan(Spec("name", None, None, {}), tuple(lines), (b"row",) * rows)
    return memory.create(run_id, plan, caller("run:x"), run_ttl=run_ttl, result_ttl=run_ttl).word


def succeed(memory: StubBackend, run_id: str, member: int, of: int = 1) -> list[str]:
    tag = Tag(run_id, 0, member, of)
    reply = memory.record(Record(tag, 0, "succeeded", b"result"), caller(tag.owner))
    return [duty.id for duty in reply.duties if duty.id.split(":")[1] == "1" and not duty.repeated]


def caller(owner: str) -> Caller:
    return Caller(owner, 1_000_000, "lease", 1_000)
