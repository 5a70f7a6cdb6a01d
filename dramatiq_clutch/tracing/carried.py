"""What messages carry of a trace, and the ids of spans, which are derived from what they are of."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from opentelemetry import trace
from opentelemetry.trace import SpanContext, TraceFlags

from ..stored.places import Tag

#: The option by which messages carry what trace they are part of.
OPTION = "clutch_trace"


class Carried(NamedTuple):
    """What the messages of a run say of its trace.

    `trace_id`, and whether it is `sampled`. `parent`: the id of the span that was current where the outermost run was
    started; 0 if there was none. `caller`: of what a job has nested, the id of the span that was current in the job,
    and `wrapper` the id of the run that stands in the job's place; 0 and `""` if no job has nested any of it. `state`:
    the tracestate.
    """

    trace_id: int
    sampled: bool
    parent: int = 0
    caller: int = 0
    wrapper: str = ""
    state: str = ""

    def to_option(self) -> dict[str, str]:
        option = {"traceparent": f"00-{self.trace_id:032x}-{self.parent:016x}-{self.sampled:02x}"}
        if self.wrapper:
            option |= {"caller": f"{self.caller:016x}", "wrapper": self.wrapper}
        return {**option, "tracestate": self.state} if self.state else option

    @classmethod
    def from_option(cls, option: Any) -> Carried | None:
        """The opposite of `to_option`; None for what that hasn't written, or where nothing is carried."""
        try:
            _, trace_id, parent, flags = option["traceparent"].split("-")
            caller, wrapper = int(option.get("caller", "0"), 16), option.get("wrapper", "")
            known = cls(int(trace_id, 16), bool(int(flags, 16) & 1), int(parent, 16), caller, str(wrapper))
            return known._replace(state=str(option.get("tracestate", ""))) if known.trace_id else None
        except (ValueError, TypeError, KeyError, AttributeError):
            return None

    def span(self, span_id: int) -> SpanContext:
        """A span of this trace, as its children refer to it."""
        flags = TraceFlags(TraceFlags.SAMPLED if self.sampled else TraceFlags.DEFAULT)
        return SpanContext(self.trace_id, span_id, True, flags, trace.TraceState.from_header([self.state]))


def span_id(generation: str, place: str) -> int:
    """The id of the span of a run, a stage or an attempt, made of the run's generation and the place."""
    digest = hashlib.sha256(f"{generation}/{place}".encode()).digest()
    return int.from_bytes(digest[:8], "big") or 1


def run_span(run_id: str, generation: str) -> int:
    return span_id(generation, run_id)


def stage_span(run_id: str, generation: str, stage: int) -> int:
    return span_id(generation, f"{run_id}/{stage}")


def attempt_span(tag: Tag, attempt: int) -> int:
    return span_id(tag.generation, f"{tag.run_id}/{tag.stage}.{tag.member}/{tag.epoch}.{attempt}")
