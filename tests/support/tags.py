"""What a job's message says of its place, as a run's own messages do."""

from __future__ import annotations

from typing import Any

import dramatiq

from dramatiq_clutch import Run
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.stored.places import Tag


def tag_in(broker: dramatiq.Broker, run: Run | str, stage: int = 0, member: int = 0, of: int = 1, **more: Any) -> Tag:
    """The tag of a member of a run, of the generation that the run has now."""
    run_id = run if isinstance(run, str) else run.run_id
    generation = engine_of(broker).backend.generation(run_id) or ""
    return Tag(run_id, stage, member, of, generation=generation, **more)
