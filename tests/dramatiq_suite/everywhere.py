"""What holds in every process of Dramatiq's tests, also in those that they start: this file becomes the
`sitecustomize.py` that Python imports first.

Whoever connects to Redis's default port gets the server of these tests, for Dramatiq's tests use no other port. And
where a file is named for them, every broker has the middleware, and is counted by a byte in that file. So it would be
noticed if an import in here failed: Python only prints that, and goes on.
"""

from __future__ import annotations

import os
from functools import wraps
from pathlib import Path
from typing import Any

import redis.connection
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker

DEFAULT_PORT = 6379
PORT, BROKERS = "SUITE_PORT", "SUITE_BROKERS"


def redirect(port: int) -> None:
    """Whoever connects to the default port connects to this one instead."""
    connection: Any = redis.connection.Connection
    connect = connection.__init__

    @wraps(connect)
    def init(self: Any, *args: Any, **options: Any) -> None:
        options["port"] = port if options.get("port", DEFAULT_PORT) == DEFAULT_PORT else options["port"]
        connect(self, *args, **options)

    connection.__init__ = init


def add_to(kind: Any, counted: Path) -> None:
    """Every broker of a kind has the middleware as soon as it is made."""
    from dramatiq_clutch import ClutchMiddleware  # the other run mustn't know this package

    make = kind.__init__

    @wraps(make)
    def init(self: Any, *args: Any, **options: Any) -> None:
        make(self, *args, **options)
        self.add_middleware(ClutchMiddleware())
        with counted.open("a") as file:
            file.write(".")

    kind.__init__ = init


if PORT in os.environ:
    redirect(int(os.environ[PORT]))
if os.environ.get(BROKERS):
    for kind in (RedisBroker, StubBroker):
        add_to(kind, Path(os.environ[BROKERS]))
