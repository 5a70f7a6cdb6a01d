"""Looks at the members of a stage, each by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from ...backend import Caller
from ...errors import DamagedState
from ...register import MemberGlance, MemberState, StageGlance
from ...stored.formats import FORMAT, holder_of, refuse_newer, result_in, sender_of, timing_in
from .calling import At, RedisCalling
from .keys import OF_STAGE

#: The fields of a head that are read before the script is called.
FIELDS = ("gen", "stage", "stages", "format", "kept")

#: How often another run may take the place of the one that is looked at, while it is.
TRIES = 3

#: Who asks: somebody who takes no duties, and changes nothing.
READER = Caller(owner="", now=0, lease="", lease_ms=0)


class RedisLooking(RedisCalling):
    """The part of a `RedisBackend` that looks into stages."""

    def look_into(
        self, run_id: str, stage: int | None, start: int, most: int, *, state: MemberState | None = None
    ) -> StageGlance | None:
        for _ in range(TRIES):
            fields: Any = self.calls.ask(lambda: self.client.hmget(self._key(run_id, "head"), FIELDS))
            if fields[0] is None:
                return None
            head = dict(zip(FIELDS, ((field or b"").decode(errors="replace") for field in fields), strict=True))
            try:
                found = self._look_into(run_id, head, stage, {"wanted": state or "", "start": start, "most": most})
            except ValueError as error:
                raise DamagedState(f"run {run_id!r} can't be read: {error}") from error
            if found is not None:
                return found
        return None

    def _look_into(
        self, run_id: str, head: Mapping[str, str], stage: int | None, given: Mapping[str, Any]
    ) -> StageGlance | None:
        """The same of a run with this head; None if there is another one by now."""
        refuse_newer(int(head["format"] or FORMAT), f"run {run_id!r}")
        generation, kept, present, stages = head["gen"], head["kept"], int(head["stage"]), int(head["stages"])
        stage = present if stage is None else stage
        about: dict[str, Any] = {"stage": stage, "stages": stages, "generation": generation}
        if stage >= stages:
            return StageGlance(**about, line=None)
        about["sender"] = sender_of(stage, kept, generation) if stage < present else generation
        keys = self._where_kept(run_id, stage, kept, generation)
        raw = self._call("members", At(run_id, stage, generation), READER, given, keys=keys)
        return _stage_glance(raw[1:], about) if raw[0] == b"there" else None

    def _where_kept(self, run_id: str, stage: int, kept: str, generation: str) -> dict[str, str]:
        """The keys of a stage that a script may name, and of the one before, in whichever generation has them."""
        return {
            f"{table}.{part}": self._key(run_id, f"{part}:{stage + distance}", holder)
            for table, (distance, parts) in OF_STAGE.items()
            for holder in (holder_of(stage + distance, kept, generation),)
            for part in parts
        }


def _stage_glance(raw: Any, about: Mapping[str, Any]) -> StageGlance:
    go_on, over, line, dead, spec, value, row, *members = raw
    return StageGlance(
        line=line.decode(errors="replace"),
        members=tuple(map(_member_glance, members)),
        go_on=go_on if go_on >= 0 else None,
        dead=dead,
        over=bool(over),
        spec=spec,
        row=row,
        value=result_in(value),
        **about,
    )


def _member_glance(raw: Any) -> MemberGlance:
    index, state, failure, due, nests, row, item, entry = raw
    began, ended, worker = timing_in(entry.decode(errors="replace"))
    return MemberGlance(
        index=index,
        state=cast(MemberState, state.decode()),
        failure=failure.decode(errors="replace"),
        due=int(float(due)) if due else None,
        nests=bool(nests),
        row=row,
        item=result_in(item),
        began=began,
        ended=ended,
        worker=worker,
    )
