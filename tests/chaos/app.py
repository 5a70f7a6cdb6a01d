"""One application of a chaos run, as its workers, its producers and the verdict see it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any

VARIABLE = "CHAOS_APP"


@dataclass(frozen=True)
class App:
    """What a process has to know of the application that it belongs to. It travels in the environment.

    Parameters:
      name: Stands in front of the names of its jobs.
      broker: The URL of its broker.
      notes: The URL of the database in which its processes write down what happens, for the verdict. Nothing of the
        application's own is in there, and no proxy in front of it.
      namespace: The broker's.
      state: The URL of the state store; None for a plain `ClutchMiddleware()`, which takes the broker's client.
      unit: Its numbers are multiples of this, and so are its results.
      options: More options of its `ClutchMiddleware`.
    """

    name: str
    broker: str
    notes: str
    namespace: str = "dramatiq"
    state: str | None = None
    unit: int = 1
    options: dict[str, Any] = field(default_factory=dict)

    def to_env(self) -> dict[str, str]:
        return {VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def from_env(cls) -> App:
        return cls(**json.loads(os.environ[VARIABLE]))
