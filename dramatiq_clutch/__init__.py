"""Compose Dramatiq actors in series and in parallel, hand each stage's results to the next, lose nothing."""

from .clutch import Clutch
from .job import current_run, previous_failures, previous_results
from .middleware import ClutchMiddleware
from .run import Run

__all__ = ["Clutch", "ClutchMiddleware", "Run", "current_run", "previous_failures", "previous_results"]
