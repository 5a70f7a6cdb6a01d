"""What a server has executed is replayed in memory, over a kill; and what was changed in it is found, and told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from dramatiq.brokers.redis import RedisBroker

from dramatiq_clutch import Clutch, ClutchMiddleware
from dramatiq_clutch.backends.memory.keyspace import Hash
from tests.chaos.recorded import DISPATCH, Life, RecordedServer, Replayed
from tests.conftest import running_worker
from tests.explorer.history import Call, Difference, KeyDifference, Replay
from tests.explorer.listing import LIST
from tests.explorer.promises import Promises
from tests.support.jobs import Jobs


@dataclass(frozen=True)
class Recorded:
    """The server's two lives, the last of which was ended; and the calls of that."""

    server: RecordedServer
    calls: Sequence[Call]

    @property
    def last(self) -> Life:
        return self.server.lives[-1]

    def differences(self, calls: Sequence[Call], **listings: Any) -> list[Difference | KeyDifference]:
        """What is found in changed calls, or in changed listings."""
        replay = Replay(DISPATCH)
        replay.begin(self.last.begins)
        return list(replay.differences(calls, {**self.last.listings, **listings.get("listings", {})}))


@pytest.fixture(scope="module")
def recorded() -> Iterator[Recorded]:
    with RecordedServer() as server:
        run(server, "before")
        server.list_keys()
        server.restart()
        server.cut_connections()
        run(server, "after")
        server.list_keys()
        server.end()
        yield Recorded(server, list(server.lives[-1].watched.calls()))


def run(server: RecordedServer, run_id: str) -> None:
    """Three stages, one of which is wide, and a callback; each job's result is its name."""
    broker = RedisBroker(url=server.url)
    broker.add_middleware(ClutchMiddleware())
    broker.emit_after("process_boot")
    jobs = Jobs(broker)
    root = Clutch(broker=broker, on_success=jobs.heard.message(run_id))
    steps = [jobs.job.message(f"{run_id} {number}") for number in range(4)]
    try:
        with running_worker(broker):
            started = root.then(steps[0]).parallel(steps[1:3]).then(steps[3]).run(run_id=run_id)
            assert started.get_result(block=True) == f"{run_id} 3"
            jobs.wait_fired(run_id, "S")
    finally:
        broker.close()


def stores_a_result(call: Call) -> bool:
    """Whether it records that a job of the wide stage has succeeded."""
    return any(b'S"after 1"' in command for command in call.inner)


def test_a_history_is_replayed_over_a_kill_and_no_difference_is_found(recorded: Recorded) -> None:
    replayed = Replayed()

    recorded.server.replay(replayed)

    assert replayed.differences == []
    assert replayed.lives == 2
    assert replayed.transitions > 20
    assert replayed.compared > 4
    assert str(replayed).endswith("keys compared, no difference")


def test_a_changed_argument_of_one_call_is_found_where_it_was_changed(recorded: Recorded) -> None:
    at = next(index for index, call in enumerate(recorded.calls) if stores_a_result(call))
    call = recorded.calls[at]
    changed = tuple(word.replace(b"after 1", b"after X") for word in call.command)

    first = recorded.differences([*recorded.calls[:at], replace(call, command=changed), *recorded.calls[at + 1 :]])[0]

    assert isinstance(first, Difference)
    told = str(first)
    assert f"{first.script} of dramatiq-clutch:{{after}}" in told
    assert "the server: HSETNX dramatiq-clutch:{after}:members:1:" in told
    assert 'S"after 1"' in told
    assert 'S"after X"' in told


def test_a_call_of_which_nothing_is_known_is_told_with_what_it_has_written(recorded: Recorded) -> None:
    stranger = Call(recorded.calls[-1].time, (b"EVALSHA", b"0" * 40, b"0"))
    stranger.inner.append((b"HSET", b"dramatiq-clutch:{after}:head", b"state", b"running"))

    (found,) = recorded.differences([*recorded.calls, stranger])

    assert "the server: HSET dramatiq-clutch:{after}:head state running" in str(found)


def test_a_changed_key_is_told_with_the_calls_that_have_written_it(recorded: Recorded) -> None:
    key = next(key for key in recorded.last.begins.values if key.endswith(b"{before}:head"))
    told = next(call.command[-1] for call in recorded.calls if LIST in call.command)
    listing = recorded.last.listings[told]()
    head = b"dramatiq-clutch:{after}:head"
    values = {**listing.values, head: Hash({**listing.values[head], b"stage": b"7"})}
    del values[key]

    first, *others = recorded.differences(recorded.calls, listings={told: lambda: replace(listing, values=values)})

    assert isinstance(first, KeyDifference)
    assert (first.key, first.field, first.on_server, first.in_memory) == (head, b"stage", b"7", b"2")
    lines = str(first).splitlines()
    assert lines[0] == "dramatiq-clutch:{after}:head, stage: 7 on the server, 2 in memory"
    assert len(lines) == 4
    assert all("of dramatiq-clutch:{after}" in line for line in lines[1:])
    assert {other.key for other in others if isinstance(other, KeyDifference)} == {key}


def test_a_changed_expiry_is_found(recorded: Recorded) -> None:
    told = next(call.command[-1] for call in recorded.calls if LIST in call.command)
    listing = recorded.last.listings[told]()
    head = b"dramatiq-clutch:{after}:head"
    expires = {**listing.expires, head: listing.expires[head] - 5_000}

    (found,) = recorded.differences(recorded.calls, listings={told: lambda: replace(listing, expires=expires)})

    assert isinstance(found, KeyDifference)
    assert (found.key, found.field) == (head, "its expiry")


def test_promises_that_are_broken_on_both_sides_are_told() -> None:
    head, outbox = b"c:{r}:head", b"c:{r}:outbox:0a"
    promises = Promises.of({head: {b"gen": b"0a", b"state": b"running", b"stage": b"2"}, outbox: {b"open:2": b""}})

    def broken(*command: bytes, reply: int = 1) -> list[str]:
        return list(promises.broken_by([(command, reply)]))

    assert broken(b"HSET", head, b"stage", b"1") == ["a run goes back from stage 2 to stage 1"]
    assert broken(b"HSETNX", outbox, b"open:2", b"", reply=0) == []
    assert broken(b"HSETNX", outbox, b"open:2", b"") == ["the duty open:2 is owed a second time"]
    assert broken(b"HSETNX", outbox, b"on_success:2:3", b"") == []
    assert broken(b"HSETNX", outbox, b"on_success:2:4", b"") == ["a run tells of its success a second time"]
    assert broken(b"HSET", head, b"state", b"succeeded") == []
    assert broken(b"HSET", head, b"state", b"running") == ["a run that has succeeded becomes running"]
    assert broken(b"HSET", head, b"state", b"running", b"stage", b"0", b"gen", b"0b") == []
