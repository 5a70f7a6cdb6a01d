"""What the tests stand on holds, tried with plain Dramatiq."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker

from dramatiq_clutch.backends.redis.scripts import script
from tests.benchmarks.workers import OtherWorker, WatchedWorker
from tests.conftest import WATCH, RunWorker
from tests.support.awaiting import PATIENCE, wait_until
from tests.support.keyspace import assert_all_expire, assert_only_left, clutch_keys, keys_without_expiry
from tests.support.messages import on_their_way
from tests.support.proxy import Proxy
from tests.support.server import Server, free_port
from tests.support.workers import Worker

# The names in tests.support.plain_actors, which only its worker processes import.
ACTORS = "tests.support.plain_actors"
NOTES = "notes"
GATE = "gate"


@pytest.fixture
def own_server() -> Iterator[Server]:
    with Server() as server:
        yield server


def send(server: Server, actor_name: str, text: str) -> None:
    message: dramatiq.Message[None] = dramatiq.Message(
        queue_name="default", actor_name=actor_name, args=(text,), kwargs={}, options={}
    )
    with server.client() as client:
        RedisBroker(client=client).enqueue(message)


def notes(server: Server) -> list[bytes]:
    with server.client() as client:
        texts: list[bytes] = client.lrange(NOTES, 0, -1)
    return texts


def worker_of(server: Server) -> Worker:
    return Worker(ACTORS, env={"REDIS_URL": server.url})


def test_waiting_returns_the_first_true_value() -> None:
    values = iter([0, None, "", "here"])

    assert wait_until("a value", lambda: next(values)) == "here"


def test_waiting_in_vain_names_what_it_waited_for_and_what_it_last_saw() -> None:
    with pytest.raises(AssertionError, match=r"waited 0\.01 s for a miracle; the last value was \[\]"):
        wait_until("a miracle", list, timeout=0.01)


def test_a_killed_server_comes_back_on_its_port_without_its_data(own_server: Server) -> None:
    url = own_server.url
    with own_server.client() as client:
        client.set("key", "value")

        own_server.restart()

        assert own_server.url == url
        assert client.get("key") is None


def test_a_durable_server_forgets_nothing_when_killed() -> None:
    with Server(durable=True) as server, server.client() as client:
        for number in range(100):
            client.rpush("numbers", number)

        server.restart()

        assert client.llen("numbers") == 100


def test_a_server_that_was_killed_is_gone_until_it_is_started(own_server: Server) -> None:
    own_server.kill()

    assert not own_server.running
    with own_server.client() as client, pytest.raises(redis.ConnectionError):
        client.ping()

    own_server.start()
    assert own_server.running


def test_a_paused_server_answers_nobody_until_it_is_resumed(own_server: Server) -> None:
    with redis.Redis.from_url(own_server.url, socket_timeout=0.1, retry=None) as client:
        client.ping()

        own_server.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()

        own_server.resume()
        assert client.ping()


def test_a_server_takes_lines_of_configuration() -> None:
    with (
        Server(config=["user guest on nopass ~open:* +get +ping"]) as server,
        redis.Redis.from_url(server.url, username="guest", password="any") as guest,
    ):
        assert guest.get("open:door") is None
        with pytest.raises(redis.exceptions.NoPermissionError):
            guest.get("shut:door")


def test_a_server_that_cannot_start_says_why() -> None:
    with pytest.raises(RuntimeError, match="no-such-directive"), Server(config=["no-such-directive yes"]):
        pass


@pytest.mark.process
def test_a_worker_does_plain_jobs_and_stops_by_itself(own_server: Server) -> None:
    with worker_of(own_server) as worker:
        send(own_server, "note", "hello")
        wait_until("the note", lambda: notes(own_server) == [b"hello"])

        worker.stop()

        assert not worker.running
        assert "Worker has been shut down" in worker.log


@pytest.mark.process
def test_a_killed_worker_is_dead_completely_and_can_be_started_again(own_server: Server) -> None:
    with worker_of(own_server) as worker, own_server.client() as client:
        # given a job in the middle of its work
        send(own_server, "note_twice", "one")
        wait_until("the job to begin", lambda: notes(own_server) == [b"one begun"])

        # when the worker is killed
        worker.kill()

        # then nobody is left to finish the job, or to hold a connection
        client.set(GATE, "open")
        wait_until("its connections to close", lambda: client.info("clients")["connected_clients"] == 1)
        assert notes(own_server) == [b"one begun"]

        # and a new one does new work
        worker.start().wait_ready()
        send(own_server, "note_twice", "two")
        wait_until("the second job", lambda: notes(own_server)[1:] == [b"two begun", b"two done"])


@pytest.mark.process
def test_a_paused_worker_does_nothing_until_it_is_resumed(own_server: Server) -> None:
    with worker_of(own_server) as worker, own_server.client() as client:
        send(own_server, "note_twice", "one")
        wait_until("the job to begin", lambda: notes(own_server) == [b"one begun"])

        worker.pause()
        client.set(GATE, "open")
        with pytest.raises(AssertionError):
            wait_until("a paused worker to move", lambda: len(notes(own_server)) > 1, timeout=0.5)

        worker.resume()
        wait_until("the job to end", lambda: notes(own_server) == [b"one begun", b"one done"])


@pytest.mark.process
def test_a_worker_that_cannot_start_says_why() -> None:
    with pytest.raises(RuntimeError, match="No module named 'no_such_module'"), Worker("no_such_module"):
        pass


@pytest.mark.process
def test_a_process_that_a_test_starts_is_noticed_and_a_server_is_not() -> None:
    with Server():
        assert WATCH.started == []

    subprocess.run([sys.executable, "-c", ""], check=True)

    (started,) = WATCH.started
    assert sys.executable in started


def test_keys_that_would_stay_for_ever_are_found(redis_client: redis.Redis) -> None:
    redis_client.set("other:key", "")
    redis_client.set("dramatiq-clutch:{a}:run", "", ex=60)
    redis_client.set("dramatiq-clutch:{b}:run", "")

    assert clutch_keys(redis_client) == ["dramatiq-clutch:{a}:run", "dramatiq-clutch:{b}:run"]
    assert keys_without_expiry(redis_client) == ["dramatiq-clutch:{b}:run"]
    with pytest.raises(AssertionError, match=r"without an expiry: \['dramatiq-clutch:\{b\}:run'\]"):
        assert_all_expire(redis_client)

    redis_client.delete("dramatiq-clutch:{b}:run")  # or it would be found after this test, too


def test_keys_left_over_are_found(redis_client: redis.Redis) -> None:
    redis_client.set("dramatiq-clutch:{a}:result", "", ex=60)
    assert_only_left(redis_client, allowed=[":result"])

    redis_client.set("dramatiq-clutch:{a}:stage:0", "", ex=60)
    with pytest.raises(AssertionError, match=r"keys left over: \['dramatiq-clutch:\{a\}:stage:0'\]"):
        assert_only_left(redis_client, allowed=[":result"])


def test_the_worker_in_this_process_runs_actors_on_both_brokers(broker: dramatiq.Broker, run_worker: RunWorker) -> None:
    seen: list[str] = []

    @dramatiq.actor
    def see(text: str) -> None:
        seen.append(text)

    with run_worker(broker):
        see.send("hello")
        wait_until("the job", lambda: seen == ["hello"])

    hooks = [type(hook).__name__ for hook in broker.middleware]
    assert "ClutchMiddleware" in hooks
    assert "_WorkerMiddleware" not in hooks


def test_what_a_stopped_worker_in_this_process_has_fetched_is_put_back(
    broker: dramatiq.Broker, run_worker: RunWorker
) -> None:
    began, gate = list[int](), threading.Event()

    @dramatiq.actor
    def wait(number: int) -> None:
        began.append(number)
        assert gate.wait(PATIENCE)

    with run_worker(broker, threads=1) as worker:
        for number in range(2):
            wait.send(number)
        wait_until("one is at work, and the other is fetched", lambda: began and worker.work_queue.qsize() == 1)
        worker.workers[0].stop()
        gate.set()
    assert began == [0]
    assert on_their_way(broker) == 1
    with run_worker(broker):
        wait_until("the queue is empty", lambda: on_their_way(broker) == 0)
    assert began == [0, 1]


def test_a_proxy_passes_everything_on(proxy: Proxy) -> None:
    with proxy.client() as client:
        client.hset("h", mapping={"a": b"\x00\r\n", "b": "x" * 3_000_000})
        client.zadd("z", {"one": 1.5})
        client.rpush("l", *range(1_000))
        pipe = client.pipeline(transaction=True)
        pipe.hget("h", "a").lrange("l", 0, -1).zrange("z", 0, -1, withscores=True).get("nothing")
        value, items, scores, nothing = pipe.execute()
        assert (value, len(items), nothing) == (b"\x00\r\n", 1_000, None)
        assert [(name, float(score)) for name, score in scores] == [(b"one", 1.5)]
        assert client.hget("h", "b") == b"x" * 3_000_000
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            client.get("h")
        client.flushall()


def test_a_proxy_passes_on_what_a_server_sends_without_being_asked(proxy: Proxy) -> None:
    with proxy.client() as client, client.pubsub() as ear:
        ear.subscribe("news")
        assert wait_until("the subscription", ear.get_message)["type"] == "subscribe"
        client.publish("news", "something")
        assert wait_until("the news", ear.get_message)["data"] == b"something"


def test_a_proxy_answers_one_call_of_many_as_it_is_told(proxy: Proxy) -> None:
    with proxy.client() as client:
        rule = proxy.answer("SET", "-ERR upstream failure", times=1)
        answers = client.pipeline(transaction=False).get("a").set("a", 1).set("a", 2).get("a").execute(False)
        assert [str(answer) for answer in answers] == ["None", str(answers[1]), "True", "b'2'"]
        assert "upstream failure" in str(answers[1])
        assert rule.met == 1
        client.flushall()


@pytest.mark.parametrize("applied", [True, False])
def test_a_proxy_closes_the_connection_before_or_after_the_server_has_done_it(proxy: Proxy, applied: bool) -> None:
    with proxy.client() as client:
        proxy.cut("INCRBY", times=1, applied=applied)
        with pytest.raises(redis.ConnectionError):
            client.incr("a")
        assert client.incr("a") == 1 + applied
        client.flushall()


def test_a_proxy_knows_scripts_by_name_whether_by_text_or_by_hash(proxy: Proxy) -> None:
    with proxy.client() as client:
        text = script("snapshot").text
        sha: str = client.script_load(text)
        proxy.answer("snapshot", "+here")
        assert client.evalsha(sha, 1, "k") == b"here"
        assert client.eval(text, 1, "k") == b"here"
        assert client.eval("return 3", 1, "k") == 3
        proxy.answer("enqueue", "-ERR no")
        broker = RedisBroker(client=client)
        with pytest.raises(redis.ResponseError, match="no"):
            broker.do_enqueue("default", "id", b"message")
        assert broker.do_qsize("default") == 0
        assert proxy.calls["snapshot"] == 2
        assert proxy.calls["enqueue"] == 1
        assert proxy.calls["qsize"] >= 1


def test_a_proxy_is_as_slow_as_it_is_told(proxy: Proxy) -> None:
    with proxy.client() as client:
        client.ping()
        proxy.latency = 0.1
        began = time.monotonic()
        pipe = client.pipeline(transaction=False)
        for _ in range(100):
            pipe.ping()
        pipe.execute()
        assert 0.1 <= time.monotonic() - began < 5  # once for all that is sent at a time: ten seconds would be one each
        proxy.lift()
        rule = proxy.delay("GET", 0.1, times=1)
        began = time.monotonic()
        client.get("a")
        assert time.monotonic() - began >= 0.1
        client.get("a")
        assert rule.met == 1


@pytest.mark.process
def test_what_benchmarks_measure_is_the_command_that_they_say(own_server: Server) -> None:
    """Neither a process that others have prepared for tests, nor one with as many threads as those have."""
    command = [sys.executable, "-c", "import time; print('mine', flush=True); time.sleep(600)"]
    with OtherWorker(command, env={}) as other:
        wait_until("it to say so", lambda: "mine" in other.log)
    watched = WatchedWorker(ACTORS, threads=5, processes=2, env={"REDIS_URL": own_server.url})
    with watched:
        watched.wait_ready()
        first, *others = watched.processes()
        assert first.cmdline()[1:] == ["-m", "dramatiq", ACTORS, "-p", "2", "-t", "5"]
        assert len(others) >= 2


def test_a_server_whose_port_is_taken_takes_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server() as first:
        ports = [first.port, first.port, free_port()]
        monkeypatch.setattr("tests.support.server.free_port", lambda: ports.pop(0))
        with Server() as server, server.client() as client:
            assert client.ping()
            assert server.port != first.port
    assert ports == []
