"""One-line faults, each of which some small search must find: what finds nothing wrong in them proves nothing.

A fault of a script is a piece of its text and what takes its place. Any other one replaces a function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from dramatiq import Broker, MessageProxy

from dramatiq_clutch import ClutchMiddleware
from dramatiq_clutch.backends.redis import scripts
from dramatiq_clutch.engine import Engine
from dramatiq_clutch.handover import doing

from .processes import Unexpected
from .worlds import Bounds


@dataclass(frozen=True)
class Fault:
    """What is wrong in the library, and the world and the bounds in which that is found."""

    name: str
    world: str
    bounds: Bounds
    script: tuple[str, str] | None = None
    patch: Callable[[pytest.MonkeyPatch], None] | None = field(default=None, repr=False)

    @contextmanager
    def planted(self) -> Iterator[None]:
        """While this lasts, the fault is in the library. Raises Unexpected if there is no such text any more."""
        with pytest.MonkeyPatch.context() as monkeypatch:
            texts: list[str] = []
            if self.script is not None:
                old, new = self.script
                read = scripts.text_of

                def changed(name: str) -> str:
                    text = read(name)
                    texts.append(text if old in text else "")
                    return text.replace(old, new)

                monkeypatch.setattr(scripts, "text_of", changed)
                _forget()
            if self.patch is not None:
                self.patch(monkeypatch)
            try:
                yield
            finally:
                _forget()
        if self.script is not None and not any(texts):
            raise Unexpected(f"{self.name}: no script that ran has the text {self.script[0]!r}")


def _records_after_the_ack(monkeypatch: pytest.MonkeyPatch) -> None:
    close = ClutchMiddleware.before_ack

    def after_ack(self: ClutchMiddleware, broker: Broker, message: MessageProxy) -> None:
        close(self, broker, message)

    monkeypatch.setattr(ClutchMiddleware, "before_ack", lambda self, broker, message: None)
    monkeypatch.setattr(ClutchMiddleware, "after_ack", after_ack)


def _confirms_before_it_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    do = doing._do  # noqa: SLF001

    def confirmed_first(engine: Engine, run_id: str, duty: Any, caller: Any) -> Any:
        engine.backend.confirm(run_id, duty, caller)
        return do(engine, run_id, duty, caller)

    monkeypatch.setattr(doing, "_do", confirmed_first)


FAULTS = (
    Fault(
        "duties are given to whoever comes",
        "nested, written down",
        Bounds(),
        script=("if duty.owner == owner then return true end", "if true then return true end"),
    ),
    Fault(
        "whoever takes a duty over doesn't get a lease of its own",
        "series",
        Bounds(workers=1, kills=1),
        script=("duty.due, duty.lease = now + lease_ms, lease", "duty.due = now + lease_ms"),
    ),
    Fault(
        "a second success counts like the first",
        "two stages",
        Bounds(doubles=1),
        script=(
            """if first == 'S' or (first == 'N' and not of_run) then
  word = 'duplicate'""",
            """if false then
  word = 'duplicate'""",
        ),
    ),
    Fault(
        "the guard lets every job run",
        "two stages",
        Bounds(kills=1),
        script=("if first == 'S' or first == 'N' then return 'done' end", ""),
    ),
    Fault(
        "a member that is failing gives its place up",
        "limit",
        Bounds(workers=2),
        script=("- count(WORKING, FAILING)", ""),
    ),
    Fault(
        "an alarm isn't remembered",
        "allow_failures",
        Bounds(workers=1),
        script=("  run[flag] = true\n  owe_callback(event)\n  set(flag, true)", "  owe_callback(event)"),
    ),
    Fault(
        "a retry begins no new revival",
        "retry of a failed run",
        Bounds(workers=1),
        script=("    set('revival', run.revival + 1)\n", ""),
    ),
    Fault(
        "a nested run doesn't tell its parent",
        "nested, written down",
        Bounds(workers=1),
        script=("owe('tell:' .. revision, moment())", ""),
    ),
    Fault(
        "a cancel leaves the members where their successes count",
        "cancel",
        Bounds(),
        script=("if call('EXISTS', here.members) == 1 then call('RENAME', here.members, here.halted) end", ""),
    ),
    Fault(
        "a success in the common way has no end",
        "timings, cancel, then retry",
        Bounds(workers=1),
        script=("if words[index] ~= 'look' then write_entry", "if false then write_entry"),
    ),
    Fault(
        "a job ends with what it has nested, whatever becomes of that",
        "timings",
        Bounds(workers=1),
        script=("if ending ~= 'succeeded' and ending ~= 'dead' then ended = '+' end", "ended = '+'"),
    ),
    Fault("a job is recorded after its ack", "two stages", Bounds(kills=1), patch=_records_after_the_ack),
    Fault("a duty is confirmed before it is done", "two stages", Bounds(kills=1), patch=_confirms_before_it_sends),
)


def _forget() -> None:
    """Have all scripts put together anew, from what their files have then."""
    scripts.source_of.cache_clear()
    scripts.script.cache_clear()
