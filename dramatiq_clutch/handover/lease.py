"""Renews the lease of the duties that one hand-over holds."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from ..backend import Caller
from ..engine import Engine
from ..stored.duties import Duty


@dataclass(slots=True)
class Lease:
    """The duties that one hand-over holds and hasn't done yet. Doing them may take long, say, because they start
    hundreds of nested runs. Their lease is renewed meanwhile, so that nobody else does them a second time."""

    engine: Engine
    held: list[tuple[str, Duty, Caller]] = field(default_factory=list)
    renewed: float = field(default_factory=time.monotonic)

    def renew(self) -> None:
        """Renew the lease of all duties that are held, if a third of it has passed since the last time."""
        if time.monotonic() - self.renewed < self.engine.lease_ms / 3_000:
            return
        for run_id, duty, caller in self.held:
            self.engine.backend.confirm(run_id, duty, at_present(self.engine, caller), cursor=duty.cursor)
        self.renewed = time.monotonic()

    def give_back(self) -> None:
        """Let the lease of all duties that are held lapse at once, so that a sweeper of a newer release may do them."""
        for run_id, duty, caller in self.held:
            self.engine.backend.confirm(
                run_id, duty, at_present(self.engine, caller)._replace(lease_ms=0), cursor=duty.cursor
            )
            self.engine.look_again(run_id, self.engine.now())


def at_present(engine: Engine, caller: Caller) -> Caller:
    """The same caller at the present time."""
    return caller._replace(now=engine.now())
