"""The middleware that traces: the spans of attempts as they come, and those of stages and runs when they are over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dramatiq import Broker, MessageProxy
from dramatiq.errors import RateLimitExceeded, Retry
from dramatiq.middleware import Shutdown
from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanKind, StatusCode

from .. import carrying
from ..engine import engine_of
from ..errors import DamagedState
from ..job import ATTRIBUTE as ATTEMPT
from ..job import Attempt, attempt_of, current_job
from ..news import News
from ..observing import Observer
from ..status import RunStatus, first_failure, status_from
from ..stored.places import CallbackTag, Place, Tag
from ..stored.plan import StageLine
from .carried import OPTION, Carried, attempt_span, run_span, stage_span
from .runs import Traced, before, carried_by, epoch_here, generation_of, parent_of_root, root_of, sent_at, traced
from .spans import Spans

#: The attribute of a `MessageProxy` that holds the span of its attempt, and what makes it current.
ATTRIBUTE = "_clutch_span"

#: Of how many stages a process remembers when they were released.
MOST_REMEMBERED = 1_000

#: The events with which a run's span ends: it has come to rest, or is sent again.
ENDS = ("succeeded", "failed", "cancelled", "resent")

#: The events with which a stage, or what follows after a retry, begins.
BEGINNINGS = ("started", "released", "rewound", "retried", "resent")

#: Stands for a stage: what follows after a retry.
AGAIN = -1

#: Exceptions by which a job ends that has not failed: it asks to come again.
POLITE = (Retry, RateLimitExceeded, Shutdown)


class ClutchTracing(Observer):
    """Traces runs by OpenTelemetry: ``broker.add_middleware(ClutchTracing())``, in producers and workers alike, beside
    the `ClutchMiddleware`. A run that a process without it has started isn't traced.

    Parameters:
      tracer_provider: default is the global one, when it is first needed.

    With the SDK of OpenTelemetry, spans of runs and stages have the ids to which their jobs refer. Another SDK chooses
    ids by itself: then jobs are in the trace, and refer to spans that aren't there under these ids.
    """

    def __init__(self, tracer_provider: trace.TracerProvider | None = None) -> None:
        self._spans = Spans(tracer_provider)
        self._starts: dict[tuple[str, int], int] = {}

    # Where a run is started

    def clutch_carried(self) -> Mapping[str, Any]:
        """What the messages of a run carry that is started here and now."""
        message, job = carrying.present(), current_job()
        current, around = trace.get_current_span().get_span_context(), carried_by(message)
        if not current.is_valid:
            known = around or self._spans.new_trace()
        elif around is not None and around.trace_id == current.trace_id and job is not None:
            known = around._replace(caller=current.span_id)
        else:
            state = current.trace_state.to_header()
            known = Carried(
                current.trace_id, current.trace_flags.sampled, current.span_id, current.span_id, state=state
            )
        if known is not None and around is not None and job is not None:
            wrapper = Place(job.tag.run_id, job.tag.stage, job.tag.member).child_id
            known = known._replace(parent=parent_of_root(around, root_of(wrapper)), wrapper=wrapper)
        return {} if known is None else {OPTION: known.to_option()}

    # Attempts

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        carried = carried_by(message)
        if carried is None:
            return
        try:
            attempt = attempt_of(message, engine_of(broker))
        except DamagedState:
            return  # ClutchMiddleware tells of it
        if attempt is None or attempt.tag is None:
            return
        span = self._begin(message, attempt, attempt.tag, carried)
        message.__dict__[ATTRIBUTE] = span, contexts.attach(trace.set_span_in_context(span))

    def _begin(self, message: MessageProxy, attempt: Attempt, tag: Tag | CallbackTag, carried: Carried) -> Span:
        """Begin the span of an attempt. What another instrumentation has made current for the message is its parent, if
        that is of the same trace, and otherwise linked."""
        about: dict[str, Any] = {
            "messaging.system": "dramatiq",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": message.queue_name,
            "messaging.message.id": message.message_id,
            "dramatiq_clutch.run_id": tag.run_id,
            "dramatiq_clutch.actor": message.actor_name,
            "dramatiq_clutch.attempt": attempt.attempt,
        }
        links, own = list[Link](), 0
        if isinstance(tag, Tag):
            about |= {"dramatiq_clutch.stage": tag.stage, "dramatiq_clutch.member": tag.member}
            parent, own = stage_span(tag.run_id, tag.generation, tag.stage), attempt_span(tag, attempt.attempt)
            if attempt.attempt:
                links.append(Link(carried.span(attempt_span(tag, attempt.attempt - 1))))
        else:
            about["dramatiq_clutch.event"] = tag.event
            parent = run_span(tag.run_id, tag.generation)
        current, inside = trace.get_current_span().get_span_context(), carried.span(parent)
        if current.is_valid and current.trace_id == carried.trace_id:
            inside = current
        elif current.is_valid:
            links.append(Link(current))
        with self._spans.wants(carried, own):
            return self._spans.tracer.start_span(  # type: ignore[no-any-return]
                f"process {message.actor_name}",
                trace.set_span_in_context(NonRecordingSpan(inside)),
                SpanKind.CONSUMER,
                attributes=about,
                links=links,
            )

    def after_process_message(
        self, broker: Broker, message: MessageProxy, *, result: Any = None, exception: BaseException | None = None
    ) -> None:
        span = self._leave(message)
        if span is None:
            return
        if exception is not None:
            span.record_exception(exception)
            if not isinstance(exception, POLITE):
                span.set_status(StatusCode.ERROR, f"{type(exception).__name__}: {exception}")
        span.end()

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        span, attempt = self._leave(message), message.__dict__.get(ATTEMPT)
        # Of a copy that isn't wanted nothing is told: the span of the job has the same id.
        if span is not None and (attempt is None or attempt.exit in (None, "skipped")):
            span.set_attribute("dramatiq_clutch.skipped", True)
            span.end()

    def _leave(self, message: MessageProxy) -> Span | None:
        span: Span | None
        span, token = message.__dict__.pop(ATTRIBUTE, (None, None))
        if token is not None:
            contexts.detach(token)
        return span

    # Stages and runs

    def after_transition(self, broker: Broker, run_id: str, news: News, at: int) -> None:
        if news.event in BEGINNINGS:
            again = news.event in ("retried", "resent")
            self._note_start(run_id, AGAIN if again else news.stage + (news.event == "released"), at)
        if news.event not in (*ENDS, "released"):
            return
        engine = engine_of(broker)
        known = traced(engine, run_id)
        snapshot = engine.backend.snapshot(run_id) if known is not None and known.carried.sampled else None
        if known is None or snapshot is None:
            return
        self._tell(run_id, known, news, at, status_from(run_id, snapshot), snapshot["head"])
        place = Place.of_child(run_id)
        if place is not None and (place.run_id, place.stage) not in self._starts:
            self._note_start(place.run_id, place.stage, news.created)  # the stage around it may be told of next

    def _tell(
        self, run_id: str, traced: Traced, news: News, at: int, status: RunStatus, head: Mapping[str, str]
    ) -> None:
        """Make the span of the stage that is over, and that of the run if it has come to rest.

        What follows after a `retry()` or a `resend()` is in spans of its own, inside the first ones. (These are there:
        the run was at rest then, or they are made when it is sent again.)
        """
        carried, generation = traced.carried, generation_of(run_id, head)
        again = int(head.get("epoch", 0)) > (news.event == "resent")
        run, failure = run_span(run_id, generation), first_failure(status) if status.state == "failed" else None
        about: dict[str, Any] = {"dramatiq_clutch.run_id": run_id}
        about |= {"dramatiq_clutch.run_name": news.name} if news.name else {}
        if news.stages:
            stage, line = status.stages[news.stage], StageLine.parse(head[f"s{news.stage}"])
            own = stage_span(run_id, generation, news.stage)
            redone = again and epoch_here(run_id) > 0
            more: dict[str, Any] = {"dramatiq_clutch.stage": news.stage, "dramatiq_clutch.succeeded": news.succeeded}
            more |= {"dramatiq_clutch.dead": news.dead, "dramatiq_clutch.total": line.total or 0}
            more |= {"dramatiq_clutch.stage_name": line.name} if line.name else {}
            self._spans.whole(
                f"stage {line.name or news.stage}",
                carried,
                0 if redone else own,
                own if redone else run,
                self._start_of(run_id, news, getattr(stage, "released", None)),
                at,
                about | more,
                links=before(carried, run_id, generation, news.stage, head),
                failure=failure,
            )
        if news.event in ENDS:
            started = self._starts.pop((run_id, AGAIN), None) if again else None
            about |= {"dramatiq_clutch.state": status.state, "dramatiq_clutch.stages": news.stages}
            about |= {"dramatiq_clutch.tags": status.tags} if status.tags else {}
            self._spans.whole(
                f"run {news.name}" if news.name else "run",
                carried,
                0 if again else run,
                run if again else traced.parent,
                (started or sent_at(run_id) or at) if again else news.created,
                at,
                about,
                failure=failure,
            )

    def _note_start(self, run_id: str, stage: int, at: int) -> None:
        while len(self._starts) >= MOST_REMEMBERED:
            self._starts.pop(next(iter(self._starts), (run_id, stage)), None)
        self._starts[run_id, stage] = at

    def _start_of(self, run_id: str, news: News, released: int | None) -> int:
        """When a stage was released (UNIX milliseconds): as the store says, as this process remembers (by when a run
        that is nested in it began, if by nothing else), or when the message was sent that is worked on here; otherwise
        when the run began."""
        remembered = self._starts.pop((run_id, news.stage), None)
        return max(released or remembered or sent_at(run_id, news.stage) or 0, news.created)
