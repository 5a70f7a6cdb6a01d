"""Duties are values: each has an id, by which it stands in its run's outbox, and the scripts write the same ones."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import dramatiq
import pytest
from dramatiq.brokers.redis import RedisBroker
from hypothesis import given
from hypothesis import strategies as st

import dramatiq_clutch
from dramatiq_clutch import Clutch
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.errors import DamagedState, NewerRelease
from dramatiq_clutch.handover import hand_over
from dramatiq_clutch.stored.duties import (
    KINDS,
    CallBack,
    Duty,
    Owed,
    SendAgain,
    SendMembers,
    StartNested,
    Tell,
    Unknown,
    parse,
)
from dramatiq_clutch.stored.owners import SWEEPER
from dramatiq_clutch.stored.plan import EVENTS
from tests.support.keyspace import key_of

NUMBERS = st.integers(0, 2**53)


def of_kind(kind: type[Owed]) -> st.SearchStrategy[Owed]:
    """Any duty of a kind, as far as its id tells."""
    told = [one.name for one in fields(kind) if not one.kw_only]
    return st.builds(kind, **{name: st.sampled_from(EVENTS) if name == "event" else NUMBERS for name in told})


@given(st.one_of(*map(of_kind, (*KINDS, CallBack))))
def test_a_duty_is_known_again_by_its_id(duty: Owed) -> None:
    assert parse(duty.id) == duty
    assert parse(duty.id).id == duty.id
    assert duty.id.startswith(f"{duty.kind}:")


@pytest.mark.parametrize(
    ("text", "duty"),
    [
        ("send:1:0:500:7", SendMembers(1, 0, 500, 7)),
        ("send:1:500:725", SendMembers(1, 500, 725)),
        ("start:0:3", StartNested(0, 3)),
        ("retry:0:1:3", SendAgain(0, 1, 3)),
        ("tell:3", Tell(3)),
        ("on_death:2:4", CallBack(2, "on_death", 4)),
    ],
)
def test_the_parts_of_an_id_have_names(text: str, duty: Duty) -> None:
    assert parse(text) == duty


def test_what_comes_along_with_a_duty_is_kept_and_a_line_is_only_a_stages() -> None:
    sent = parse("send:0:0:2", lease="mine", cursor=1, repeated=True, generation="0a", line="0 2 p", rows=(b"m", b"m"))
    assert sent == SendMembers(
        0, 0, 2, lease="mine", cursor=1, repeated=True, generation="0a", line="0 2 p", rows=(b"m", b"m")
    )
    assert parse("tell:1", lease="mine", line="the line of stage 1") == Tell(1, lease="mine")


@pytest.mark.parametrize(
    "text",
    [
        "send",
        "send:1:0",
        "send:1:0:5:2:9",
        "send:one:0:5",
        "send:-1:0:5",
        "send:01:0:5",
        "send:1:0:5 ",
        "send:1:0:1_000",
        "send:1:0:5:0",
        "open:",
        "open:1:2",
        "start:\uff11:0",
        "retry:0:1",
        "halt:0:0:20",
        "tell:1:2",
        "on_death:0",
    ],
)
def test_an_id_that_no_release_writes_is_an_error_that_names_it(text: str) -> None:
    with pytest.raises(DamagedState, match=re.escape(repr(text))):
        parse(text)


def test_every_kind_of_duty_is_among_those_that_are_handed_over() -> None:
    assert set(get_args(Duty)) == {*KINDS, CallBack, Unknown}


def test_the_scripts_owe_the_kinds_of_duties_that_have_a_class_and_no_others() -> None:
    files = (Path(dramatiq_clutch.__file__).parent / "backends").rglob("*.lua")
    text = "\n".join(re.sub(r"--.*", "", file.read_text()) for file in files)
    written = set(re.findall(r"'(\w+):'", text))  # the beginnings of ids
    written |= set(re.findall(r"\bowe_\w+\('(\w+)'", text))  # what is shared out, and callbacks
    written |= set(re.findall(r"\bring\('\w+', '(\w+)'", text))  # callbacks that a stage has once
    assert written == {kind.WORD for kind in KINDS} | set(EVENTS)


def test_a_duty_of_an_unknown_kind_is_left_to_a_newer_release(redis_broker: RedisBroker) -> None:
    @dramatiq.actor
    def job() -> None: ...

    engine, client = engine_of(redis_broker), redis_broker.client
    run = Clutch().then(job).run()
    outbox, entry = key_of(client, run.run_id, "outbox"), {"seq": 9, "owner": "", "due": 0, "lease": "", "cursor": 0}
    client.hset(outbox, "adorn:0:2", json.dumps(entry))
    client.pexpire(outbox, 60_000)

    caller = engine.caller(SWEEPER)
    reply = engine.backend.owed(run.run_id, caller)
    assert reply.duties == (Unknown("adorn:0:2", lease=caller.lease, generation=reply.duties[0].generation),)
    with pytest.raises(NewerRelease, match="adorn:0:2"):
        hand_over(engine, run.run_id, reply, caller)

    left: Any = client.hget(outbox, "adorn:0:2")
    assert json.loads(left)["due"] <= engine.caller(SWEEPER).now  # whoever is newer may have it at once
