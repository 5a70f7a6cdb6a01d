"""What the scripts return, and what is read of their keys, as values."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, cast

from ...backend import Note, Reply
from ...stored.duties import Duty, SendMembers, parse
from ...stored.formats import FORMAT, decode_snapshot
from .outages import way_out


def reply_from(raw: Any, generation: str, onward: SendMembers | None = None) -> Reply:
    """A transition's answer. `onward` is the duty that the script could do by itself."""
    word, note, *duties = raw if len(raw) > 1 else (*raw, b"")
    if word == b"foreign":
        return Reply("foreign", note=cast(Note, note.decode()))
    if word != b"onward" or onward is None:
        found = tuple(duty_from(duty, generation) for duty in duties)
        return Reply(word.decode(), found, note=cast(Note, note.decode()))
    ahead, *duties = duties
    sent = replace(onward, ahead=_ahead_from(onward, ahead))
    return Reply("counts", tuple(duty_from(duty, generation) for duty in duties), sent, cast(Note, note.decode()))


def duty_from(raw: Any, generation: str) -> Duty:
    name, lease, cursor, repeated, line, snapshot, *needs = raw
    more: dict[str, Any] = {}
    if snapshot:
        more["snapshot"] = decode_snapshot(json.loads(snapshot))
    if needs:
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
    if isinstance(duty, SendMembers) and needs and ahead:
        return replace(duty, ahead=_ahead_from(duty, ahead))
    return duty


def _ahead_from(duty: SendMembers, ahead: Any) -> SendMembers | None:
    """The duty that will follow this one; whoever is to do it adds the result to its line."""
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
    """Whether these fields of a head, state and format, are of a run at rest.

    It is so, too, for an error that waiting doesn't cure, and for a newer format: whoever reads the run gets that."""
    if isinstance(found, Exception):
        if way_out(found) is not None:
            raise found
        return True
    state, version = found
    return state != b"running" or int(version or FORMAT) > FORMAT
