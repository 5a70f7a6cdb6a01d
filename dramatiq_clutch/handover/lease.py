"""The duties that one hand-over holds, and for how long they are its own."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from ..backend import Caller
from ..engine import Engine
from ..stored.duties import Duty


@dataclass(slots=True)
class Lease:
    """The duties that one hand-over holds and hasn't done yet. What holds them up, be it hundreds of nested runs, must
    not make them lapse, or others would do them once more: so their lease is renewed by time."""

    engine: Engine
    held: list[tuple[str, Duty, Caller]] = field(default_factory=list)
    renewed: float = field(default_factory=time.monotonic)

    def renew(self) -> None:
        """Do so, if a third of it has passed."""
        if time.monotonic() - self.renewed < self.engine.lease_ms / 3_000:
            return
        for run_id, duty, caller in self.held:
            self.engine.backend.confirm(run_id, duty, at_present(self.engine, caller), cursor=duty.cursor)
        self.renewed = time.monotonic()

    def give_back(self) -> None:
        """Leave all of them to others, at once: to sweepers of a newer release."""
        for run_id, duty, caller in self.held:
            self.engine.backend.confirm(
                run_id, duty, replace(at_present(self.engine, caller), lease_ms=0), cursor=duty.cursor
            )
            self.engine.look_again(run_id, self.engine.now())


def at_present(engine: Engine, caller: Caller) -> Caller:
    """The same caller, at the present time."""
    return replace(caller, now=engine.now())
