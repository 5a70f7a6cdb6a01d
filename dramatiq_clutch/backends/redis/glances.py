"""Reads how many runs stand, each in brief, from fields of their heads and a few counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import DamagedState
from ...register import Glance
from ...stored.entries import tags_in
from ...stored.formats import dead_score, failing_scores
from ...stored.plan import StageLine

#: The fields of a head that are read.
FIELDS = (
    *("gen", "turn", "state", "stage", "stages", "created", "updated", "ended"),
    *("name", "tags", "stalled", "seen", "told", "era", "revival"),
)


@dataclass(frozen=True, slots=True)
class Head:
    """Some fields of a run's head, as texts; no field if there is no such run."""

    run_id: str
    fields: Mapping[str, str]

    def number(self, field: str) -> int:
        return int(self.fields.get(field) or 0)


def head_from(run_id: str, answer: Any) -> Head | DamagedState:
    """The head that the server's answer shows."""
    if isinstance(answer, Exception):
        return DamagedState(f"run {run_id!r} can't be read: {answer}")
    fields = {name: value.decode() for name, value in zip(FIELDS, answer, strict=True) if value is not None}
    return Head(run_id, fields if "state" in fields else {})


def counting(key: Callable[[str, str, str], str], head: Head | DamagedState) -> Iterator[tuple[Any, ...]]:
    """The commands that tell how the members of the present stage stand, as `lib/snapshot.lua` counts them; none for a
    run that has succeeded."""
    if isinstance(head, DamagedState) or head.fields.get("state", "succeeded") == "succeeded":
        return
    stage, generation = head.fields.get("stage", ""), head.fields.get("gen", "")
    recorded, standing, dead = (
        key(head.run_id, f"{part}:{stage}", generation)
        for part in ("halted" if head.fields["state"] == "cancelled" else "members", "standing", "dead")
    )
    low, high = failing_scores(head.number("era"))
    yield "HGET", key(head.run_id, "head", ""), f"s{stage}"
    yield "HLEN", recorded
    yield "ZCARD", standing
    yield "ZCARD", dead
    yield "ZCOUNT", standing, low, f"({high}"
    yield "ZCOUNT", dead, dead_score(head.number("revival")), "+inf"


def glance_from(head: Head | DamagedState, counts: Sequence[Any]) -> Glance | DamagedState | None:
    """How a run stands; None if there is no such run."""
    if isinstance(head, DamagedState) or not head.fields:
        return head if isinstance(head, DamagedState) else None
    try:
        return _glance(head.fields, head.number, counts)
    except (ValueError, KeyError, TypeError, AttributeError, DamagedState) as error:
        return DamagedState(f"run {head.run_id!r} can't be read: {error!r}")


def _glance(fields: Mapping[str, str], number: Callable[[str], int], counts: Sequence[Any]) -> Glance:
    state, recorded, total, succeeded, failing, dead = fields["state"], 0, None, 0, 0, 0
    if counts:
        line, recorded, standing, ever_dead, failing, dead = counts
        total = StageLine.parse(line.decode()).total if line is not None else None
        succeeded = max(recorded - 1 - standing - ever_dead, 0)
    seen = f"{fields['stage']} {recorded} {fields['updated']}"  # as `present` of `lib/snapshot.lua` has it
    return Glance(
        generation=fields["gen"],
        turns=int(fields.get("turn", "0").partition(" ")[0]),
        state="failing" if state == "running" and failing + dead else state,
        stage=number("stage"),
        stages=number("stages"),
        created=number("created"),
        updated=number("updated"),
        name=fields.get("name", ""),
        tags=tags_in(fields.get("tags")),
        ended=(number("ended") or number("updated")) if state != "running" else None,
        stalled=number("stalled")
        if state == "running" and fields.get("seen") == seen and "stalled" in fields
        else None,
        total=total,
        succeeded=succeeded,
        failing=failing,
        dead=dead,
        nested=bool(fields.get("told")),
    )
