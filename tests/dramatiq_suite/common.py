"""What Dramatiq's tests import beside their fixtures. Its source distribution has the tests without it, and so this
file becomes their `common.py`."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dramatiq
import pytest

skip_in_ci = pytest.mark.skipif(False, reason="nothing is left out")
skip_on_windows = pytest.mark.skipif(platform.system() == "Windows", reason="it needs POSIX")
skip_on_pypy = pytest.mark.skipif(platform.python_implementation() == "PyPy", reason="it needs CPython")

RABBITMQ_USERNAME, RABBITMQ_PASSWORD, RABBITMQ_CREDENTIALS = "guest", "guest", None


@contextmanager
def worker(*args: Any, **options: Any) -> Iterator[dramatiq.Worker]:
    worker = dramatiq.Worker(*args, **options)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()
