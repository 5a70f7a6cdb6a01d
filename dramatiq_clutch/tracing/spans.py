"""Makes spans: with ids of our choice, where the SDK is OpenTelemetry's own."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.trace import Link, NonRecordingSpan, SpanKind, StatusCode

from ..failures import JobFailure
from .carried import Carried

#: Nanoseconds in a millisecond.
MS = 1_000_000


class Ids:
    """The id generator of one tracer: it hands out the ids that this thread wants, and otherwise the SDK's own."""

    def __init__(self, own: Any) -> None:
        self._own, self._wanted = own, threading.local()

    @contextmanager
    def wanted(self, trace_id: int, span: int) -> Iterator[None]:
        self._wanted.ids = trace_id, span
        try:
            yield
        finally:
            self._wanted.ids = None

    def generate_trace_id(self) -> int:
        ids = getattr(self._wanted, "ids", None)
        return ids[0] if ids else self._own.generate_trace_id()  # type: ignore[no-any-return]

    def generate_span_id(self) -> int:
        ids = getattr(self._wanted, "ids", None)
        return ids[1] if ids else self._own.generate_span_id()  # type: ignore[no-any-return]

    def is_trace_id_random(self) -> bool:
        return bool(getattr(self._own, "is_trace_id_random", bool)())  # older releases of the SDK don't ask


class Spans:
    """Makes spans by the tracer of a provider; that of the global one if it is None, when it is first needed."""

    def __init__(self, provider: trace.TracerProvider | None) -> None:
        self._provider = provider
        self._known_tracer: Any = None

    @property
    def tracer(self) -> Any:
        if self._known_tracer is not None:
            return self._known_tracer
        provider = self._provider or trace.get_tracer_provider()
        tracer: Any = provider.get_tracer("dramatiq_clutch")
        if hasattr(tracer, "id_generator"):  # it is the SDK's, and won't be replaced
            if not isinstance(tracer.id_generator, Ids):
                tracer.id_generator = Ids(tracer.id_generator)
            self._known_tracer = tracer
        return tracer

    def new_trace(self) -> Carried | None:
        """A trace that nothing else has begun; None if OpenTelemetry isn't set up. The sampler is asked once, here."""
        tracer = self.tracer
        sampler = getattr(tracer, "sampler", None)
        if sampler is None or not isinstance(tracer.id_generator, Ids):
            known = tracer.start_span("run").get_span_context()  # it isn't ended, and so never told
            return Carried(known.trace_id, known.trace_flags.sampled, known.span_id) if known.is_valid else None
        trace_id = tracer.id_generator.generate_trace_id()
        said = sampler.should_sample(None, trace_id, "run", SpanKind.INTERNAL, {}, ())
        state = said.trace_state.to_header() if said.trace_state else ""
        return Carried(trace_id, said.decision.is_sampled(), state=state)

    def whole(
        self,
        name: str,
        carried: Carried,
        own: int,
        parent: int,
        start: int,
        end: int,
        attributes: Mapping[str, Any],
        *,
        links: Sequence[Link] = (),
        failure: JobFailure | None = None,
    ) -> None:
        """Make a span that is over; times are UNIX milliseconds. Without an `own` id it gets any."""
        around = contexts.Context()
        if parent:
            around = trace.set_span_in_context(NonRecordingSpan(carried.span(parent)), around)
        with self.wants(carried, own):
            span = self.tracer.start_span(
                name, around, SpanKind.INTERNAL, attributes=attributes, links=links, start_time=min(start, end) * MS
            )
        end = (end + 1) * MS  # what it is made of has ended within this millisecond
        if failure is not None:
            said = {"exception.type": failure.exception_type, "exception.message": failure.exception_text}
            traceback = {"exception.stacktrace": failure.traceback} if failure.traceback else {}
            span.add_event("exception", said | traceback, end)
            span.set_status(StatusCode.ERROR, f"{failure.exception_type}: {failure.exception_text}")
        span.end(end)

    def wants(self, carried: Carried, span: int) -> AbstractContextManager[None]:
        ids = getattr(self.tracer, "id_generator", None)
        return ids.wanted(carried.trace_id, span) if span and isinstance(ids, Ids) else nullcontext()
