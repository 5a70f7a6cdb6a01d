"""What a worker tells of itself, once in a while, so that others know who is there.

attendance = JSON: {"worker": NAME, "broker": ID or "", "queues": [NAME, ...]}
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from typing import Any

#: How many queues a worker names at most.
MOST_QUEUES = 100

#: How many characters a worker's name has at most.
MOST_NAME = 64


def worker_name() -> str:
    """The name of the workers of this process: its host and its number, such as `host:12`."""
    number = f":{os.getpid()}"
    return socket.gethostname()[: MOST_NAME - len(number)] + number


@dataclass(frozen=True, slots=True)
class Attendance:
    """A worker with the middleware: its `name` (host and process), the id under which its broker is known to the
    broker's server, if it has one, and the `queues` that it listens to."""

    name: str
    broker: str
    queues: tuple[str, ...]

    def __str__(self) -> str:
        return json.dumps({"worker": self.name, "broker": self.broker, "queues": self.queues[:MOST_QUEUES]})

    @classmethod
    def parse(cls, text: str) -> Attendance | None:
        """None for what this release can't read: it only informs."""
        try:
            told: Any = json.loads(text)
            return cls(str(told["worker"]), str(told["broker"]), tuple(map(str, told["queues"])))
        except (ValueError, KeyError, TypeError):
            return None
