"""Writes runs down: their plans as drafts, which are then sealed in one step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...about import Context
from ...backend import SHARE, Caller, Reply
from ...errors import DamagedState
from ...stored.firings import calls_of
from ...stored.formats import FORMAT
from ...stored.plan import EVENTS, Plan, Spec, count_rows
from ...tokens import new_token
from . import resp
from .calling import At, RedisCalling
from .calls import translated
from .constants import DRAFT_TTL
from .keys import index
from .outages import LARGE
from .reading import CHUNK, INDEX_TTL
from .replies import reply_from
from .scripts import script

#: After how many milliseconds a sweeper looks for a run that is being written, at the earliest, even if a lease or a
#: deadline is shorter.
LEAST_LEASE = 1_000


class RedisSealing(RedisCalling):
    """The part of a `RedisBackend` that begins runs."""

    def draft(
        self,
        run_id: str,
        draft: str,
        offset: int,
        rows: Sequence[bytes],
        caller: Caller,
        *,
        run_ttl: int,
        soonest: int | None = None,
    ) -> int:
        write, at = script("draft"), caller.now + _first_look(caller, soonest)
        arguments = write.call({"list": self._draft(run_id, draft)}, {"offset": offset, "ttl": DRAFT_TTL}, rows)
        runs = index(self.namespace, caller.application)
        with translated():
            # The index entry comes first: whatever happens from here on, a sweeper finds the run.
            pipe: Any = self.client.pipeline(transaction=False)
            pipe.zadd(runs, {run_id: at})
            pipe.pexpire(runs, max(2 * run_ttl, INDEX_TTL))
            is_small = resp.size_of(rows) < LARGE
            if is_small:  # by the script's text: a pipeline can't send that later if the server doesn't know the SHA
                pipe.execute_command("EVAL", write.text, *arguments)
            answer = pipe.execute()[-1]
        if not is_small:
            answer = self.calls.evaluate(write, arguments)
        if answer == b"expired":
            raise _expired(run_id)
        return at

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
        tags: Sequence[str] = (),
        share: int = SHARE,
        frees: bool = False,
        keeps: bool = False,
        history_ttl: int = 0,
    ) -> Reply:
        times: dict[str, Any] = {"run_ttl": run_ttl, "soonest": plan.soonest}
        if not draft:
            draft = new_token()
            for at in range(0, len(plan.rows) or 1, CHUNK):
                self.draft(run_id, draft, at, plan.rows[at : at + CHUNK], caller, **times)
        spec, rows = plan.spec, count_rows(plan.lines)
        head = {**_head_of(plan, tags), "share": share, "frees": int(frees), "keeps": int(keeps)}
        if history_ttl:
            head["history"] = history_ttl
        given: dict[str, Any] = {
            "run_ttl": run_ttl,
            "result_ttl": result_ttl,
            "claim": claim,
            "parent_epoch": spec.parent.epoch if spec.parent else "",
            "rows": rows,
            "app": caller.application,
            "due": spec.start_at or 0,
            "fresh_for": _first_look(caller, plan.soonest) * 2 // 3,
        }
        at_first, keys = At(run_id, 0, spec.generation), {"draft": self._draft(run_id, draft)}
        fields = [part for pair in head.items() for part in pair]
        while True:
            reply = reply_from(self._call("seal", at_first, caller, given, fields, keys=keys), spec.generation)
            if reply.word == "expired":
                raise _expired(run_id)
            if reply.word != "late":
                return reply
            # This process was held up. A sweeper may have looked in vain, so it has to be told of the run again.
            self.draft(run_id, draft, rows, (), caller._replace(now=self.now()), **times)


def _head_of(plan: Plan, tags: Sequence[str]) -> dict[str, Any]:
    """The fields of a run's head that its plan and its tags say. What a run doesn't have has no field."""
    spec = plan.spec
    head: dict[str, Any] = {
        "spec": replace(spec, context=Context() if spec.context else None).to_bytes(),
        "name": spec.name or "",
        "stages": len(plan.lines),
        "events": " ".join(_word_of(event, spec) for event in EVENTS if event in spec.callbacks),
        "told": "working" if spec.parent else "",
        "format": FORMAT,
        **{f"s{index}": str(line) for index, line in enumerate(plan.lines)},
    }
    if spec.callbacks:
        head["calls"] = calls_of(spec)
    if plan.soonest is not None:
        head["soonest"] = plan.soonest
    if spec.deadline is not None:
        head["deadline"] = spec.deadline
    if spec.timed:
        head["timed"] = 1
    if spec.context:
        head["context"] = spec.context.to_json()
    if tags:
        head["tags"] = json.dumps(tags)
    return head


def _word_of(event: str, spec: Spec) -> str:
    """An event among the words of the head's field `events`: with how many callbacks it has, if they are several."""
    count = len(spec.callbacks[event])
    return event if count == 1 else f"{event}={count}"


def _first_look(caller: Caller, soonest: int | None) -> int:
    """After how many milliseconds a sweeper looks for a run that is being written: when a lease has lapsed, or a
    deadline may be over."""
    return max(min(caller.lease_ms, soonest or caller.lease_ms), LEAST_LEASE)


def _expired(run_id: str) -> DamagedState:
    return DamagedState(
        f"the plan of run {run_id!r} expired before it was complete, so nothing was started: reading its steps paused "
        f"for more than {DRAFT_TTL // 60_000} minutes"
    )
