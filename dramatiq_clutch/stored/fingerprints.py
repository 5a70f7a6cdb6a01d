"""What tells apart two clutches that are run under one id."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from dramatiq import Encoder, get_encoder

from ..canonical import canonical
from .formats import NESTED
from .plan import Plan, Spec, StageLine


class Fingerprint:
    """Tells apart two clutches that are run under one id.

    It is made of what the messages say, and not of how that is encoded: the order of a dict's keys, or of a set's
    members, makes no difference. The delay of a run is left out, and so are its context, its tags and what its messages
    carry: they say who asks for the work and why, and may differ each time it is asked for. What makes it other work
    belongs into the messages, or into the run's `args`, which count.

    Parameters:
      args: the encoder of the run's args.
    """

    def __init__(self, args: Encoder | None = None) -> None:
        self._rows = hashlib.sha256()
        self._encoder = args

    def add(self, rows: Sequence[bytes]) -> None:
        """Add the next rows of the plan. Raises what the encoder raises."""
        for row in rows:
            self._rows.update(_meaning(row))

    def of(self, spec: Spec, lines: Sequence[StageLine]) -> str:
        return self.digest(spec, lines).hex()[:32]

    def digest(self, spec: Spec, lines: Sequence[StageLine]) -> bytes:
        callbacks = {event: [_meaning(row).hex() for row in rows] for event, rows in sorted(spec.callbacks.items())}
        deadline = [] if spec.deadline is None else [spec.deadline]
        about = json.dumps([spec.name, spec.queue, callbacks, spec.inherits, list(map(str, lines)), *deadline])
        args = b"" if spec.item is None else canonical(spec.item, self._encoder or get_encoder())
        return hashlib.sha256(about.encode() + self._rows.digest() + args).digest()


def _meaning(row: bytes) -> bytes:
    """The digest of what a row says, however it is encoded."""
    kind, data = row[:1], row[1:]
    if kind != NESTED:
        return hashlib.sha256(kind + canonical(data, get_encoder())).digest()
    plan, nested = Plan.from_bytes(data), Fingerprint()
    nested.add(plan.rows)
    return nested.digest(plan.spec, plan.lines)
