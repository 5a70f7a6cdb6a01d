"""What the scripts return, and what is read of their keys, as values."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, cast

from ...backend import Duty, Note, Reply, Standing, decode_snapshot
from ...stored.formats import FORMAT
from .constants import ERA, SPAN
from .outages import way_out

#: The kinds of members that stand in the sorted set `standing`.
KINDS: tuple[Standing, ...] = ("open", "attempted", "failing")


def reply_from(raw: Any, generation: str, onward: Duty | None = None) -> Reply:
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


def is_rest(found: Any) -> bool:
    """Whether these fields of a head, state and format, are of a run at rest.

    It is so, too, for an error that waiting doesn't cure, and for a newer format: whoever reads the run gets that."""
    if isinstance(found, Exception):
        if way_out(found) is not None:
            raise found
        return True
    state, version = found
    return state != b"running" or int(version or FORMAT) > FORMAT


def standing_from(mark: bytes | None, standing: Any, dead: Any, *, era: int, revival: int) -> Standing | None:
    """How a member stands, by its mark and its scores."""
    if mark is not None and mark[:1] == b"S":
        return "succeeded"
    if dead is not None:
        return "dead" if float(dead) >= revival * SPAN else "waiting"
    if standing is None:
        return None
    its_era, rest = divmod(int(float(standing)), ERA)
    return KINDS[rest // SPAN] if its_era == era else "waiting"


def details_in(stored: bytes) -> bytes:
    """What follows the epoch and the attempt."""
    return stored.split(b" ", 2)[-1] if stored else b""
