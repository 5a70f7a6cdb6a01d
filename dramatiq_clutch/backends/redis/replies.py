"""Turns the scripts' answers, and the fields of a head, into values."""

from __future__ import annotations

import json
from typing import Any, cast

from ...backend import Note, Reply
from ...news import News
from ...stored.duties import Duty, SendMembers, parse
from ...stored.entries import Turn, tags_in
from ...stored.formats import FORMAT, decode_snapshot
from .along import Along


def reply_from(raw: Any, generation: str, along: Along | None = None) -> Reply:
    """A transition's answer. `along` is what the broker was asked to do in the same step; the answer says what of that
    it has done. If it is one string, see `lib/along.lua`."""
    if along is not None and along.duty is not None and isinstance(raw, bytes):
        return _brief(raw, along.duty)
    word, note, *duties = raw if len(raw) > 1 else (*raw, b"")
    if word == b"foreign":
        return Reply("foreign", note=cast(Note, note.decode()))
    sent, did = None, b""
    if along is not None and duties:
        (did, ahead), *duties = duties
        if b"sent" in did and along.duty is not None:
            sent = along.duty.before(_ahead_from(along.duty, ahead))
    news = news_from(duties.pop()[1]) if duties and duties[-1][0] == b"news" else ()
    turn = turn_from(duties.pop(), generation) if duties and duties[-1][0] == b"turn" else None
    found = tuple(duty_from(duty, generation) for duty in duties)
    text, _, by = note.decode().partition(" ")
    more = {"kept": b"kept" in did, "acked": b"acked" in did}
    return Reply(word.decode(), found, sent, cast(Note, text), **more, news=news, by=int(by or 0), turn=turn)


def _brief(raw: bytes, duty: SendMembers) -> Reply:
    words, line, news, row = raw.split(b"\n", 3)
    word, *did = words.split()
    sent = duty.before(_ahead_from(duty, (line, row) if line else ()))
    return Reply(word.decode(), (), sent, "", b"kept" in did, b"acked" in did, news_from(news))


def news_from(raw: bytes) -> tuple[News, ...]:
    """What `lib/news.lua` has reported. Whatever it has from the head may be damaged, and is told all the same."""
    return tuple(_one_of_news(*parts) for parts in json.loads(raw.decode(errors="replace")))


def _one_of_news(event: str, name: str, created: str, *parts: Any) -> News:
    stages, stage, line, succeeded, dead, member, failure, released = parts
    began, whose = int(created) if created.isdecimal() else 0, None if member == "" else int(member)
    return News(event, name, began, stages, stage, line, succeeded, dead, whose, failure, released)


def turn_from(raw: Any, generation: str) -> Turn:
    """What `lib/turn.lua` tells of a run. It is for the register only, so what is damaged there is left out."""
    _, turn, created, ended, name, tags, stalled = raw
    number, state = turn.decode().split(" ")
    return Turn(
        generation,
        int(number),
        state,
        _number_in(created) or 0,
        _number_in(ended) if state not in ("running", "failing") else None,
        (name or b"").decode(errors="replace"),
        tags_in(tags),
        bool(stalled),
    )


def _number_in(text: Any) -> int | None:
    return int(text) if isinstance(text, int) or (text or b"").isdigit() else None


def duty_from(raw: Any, generation: str) -> Duty:
    name, lease, cursor, repeated, line, snapshot, *needs = raw
    more: dict[str, Any] = {}
    if snapshot:
        more["snapshot"] = decode_snapshot(json.loads(snapshot))
    ahead = None
    if len(needs) == 1:
        more["epoch"] = int(needs[0])
    elif needs:
        spec, rows, previous, ahead = needs
        more = {"spec": spec or b"", "rows": tuple(rows)}
        more["previous"] = (previous[0].decode(), previous[1]) if previous else None
    duty = parse(
        name.decode(),
        lease=lease.decode(),
        cursor=int(cursor),
        repeated=repeated == b"1",
        generation=generation,
        line=line.decode(),
        **more,
    )
    if isinstance(duty, SendMembers) and ahead:
        return duty.before(_ahead_from(duty, ahead))
    return duty


def _ahead_from(duty: SendMembers, ahead: Any) -> SendMembers | None:
    """The duty that will follow this one. Its `previous` has no result yet: the process that does the job adds it."""
    if not ahead:
        return None
    line, row = ahead
    return SendMembers(
        duty.stage + 1,
        0,
        1,
        line=line.decode(),
        spec=duty.spec,
        rows=(row,),
        previous=(duty.line, b""),
        generation=duty.generation,
    )


def is_rest(found: Any) -> bool:
    """Whether these fields of a head, state and format, are of a run at rest (or of no run).

    A newer format counts as rest, too, because whoever then reads the run gets the error that says so. Raises the error
    that a server gave instead of the fields.
    """
    if isinstance(found, Exception):
        raise found
    state, version = found
    return state != b"running" or int(version or FORMAT) > FORMAT
