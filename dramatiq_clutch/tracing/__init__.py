"""Traces by OpenTelemetry: one run is one trace, over all processes that work on it.

For example, where the broker is set up, in producers and workers alike::

    from dramatiq_clutch.tracing import ClutchTracing

    broker.add_middleware(ClutchMiddleware())
    broker.add_middleware(ClutchTracing())

A run has a span, which is a child of the one that is current where `run()` is called, or begins a trace of its own;
each stage has one in it, each attempt of a job one in its stage's, and each callback one in its run's. The run of a
clutch that is a step stands in the stage around it, and what a job nests in that job. A stage's span links the jobs of
the stage before, and an attempt the one before it.

The spans of runs and stages end in another process than they have begun in. So their ids are derived from the run,
jobs refer to them before they are there, and whoever completes a stage or a run makes its span as a whole. What they
are all part of is carried by the messages (see `dramatiq_clutch.carrying`), with the decision whether it is sampled.

Spans say which run, stage, member, actor, queue and message they are of, and why a job has failed; never what its
arguments are.
"""

from __future__ import annotations

try:
    from .observer import ClutchTracing
except ImportError as _error:
    if not str(_error.name).startswith("opentelemetry"):
        raise
    raise ImportError(
        "dramatiq_clutch.tracing needs OpenTelemetry: pip install 'dramatiq-clutch[otel]', and an SDK with an exporter"
    ) from _error

__all__ = ["ClutchTracing"]
