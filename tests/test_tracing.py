"""Traces: one run is one trace, over all processes that work on it. With the real SDK, which keeps spans in memory."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import dramatiq
import pytest
from dramatiq import Middleware
from dramatiq.errors import Retry
from dramatiq.middleware import AsyncIO, SkipMessage
from opentelemetry import context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased

from dramatiq_clutch import Clutch, ClutchMiddleware, Run
from dramatiq_clutch.errors import RunFailed
from dramatiq_clutch.news import News
from dramatiq_clutch.observing import Observer
from dramatiq_clutch.tracing import ClutchTracing
from dramatiq_clutch.tracing.carried import Carried
from tests.conftest import running_worker
from tests.pictures.traced import record
from tests.pictures.waterfall import COLOURS, PICTURE, draw
from tests.support.awaiting import wait_until
from tests.support.jobs import Jobs


class Traces:
    """The spans that are over."""

    def __init__(self, **settings: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, **settings)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("test")

    @property
    def spans(self) -> list[ReadableSpan]:
        return sorted(self.exporter.get_finished_spans(), key=lambda span: (span.start_time or 0, span.name))

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> Any:
        (span,) = self.named(name)
        return span

    def wait_for(self, name: str, count: int = 1) -> None:
        wait_until(f"{count} spans {name!r}", lambda: len(self.named(name)) >= count)

    def tree(self, parent: int | None = None, depth: int = 0) -> list[str]:
        """The spans in order, each indented below its parent."""
        lines = list[str]()
        for span in self.spans:
            if (span.parent.span_id if span.parent else None) == parent:
                member = (span.attributes or {}).get("dramatiq_clutch.member", "")
                lines.append(f"{'  ' * depth}{span.name} {member}".rstrip())
                lines += self.tree(self.id_of(span), depth + 1)
        return lines

    def id_of(self, span: Any) -> int:
        return int(span.context.span_id)

    def links(self, span: Any) -> list[str]:
        known = {self.id_of(one): one for one in self.spans}
        found = [known.get(link.context.span_id) for link in span.links]
        return [one.name if one else "?" for one in found]


@pytest.fixture
def traces(broker: dramatiq.Broker) -> Traces:
    made = Traces()
    broker.add_middleware(ClutchTracing(made.provider))
    return made


@pytest.fixture
def nests(broker: dramatiq.Broker, jobs: Jobs) -> Any:
    @dramatiq.actor(broker=broker)
    def nests(name: str) -> Run:
        return Clutch(name=name).then(jobs.job.message(f"in {name}")).nest()

    return nests


def test_a_run_is_one_trace_however_it_is_made(broker: dramatiq.Broker, jobs: Jobs, traces: Traces, nests: Any) -> None:
    job = jobs.job.message
    jobs.script["b"] = ["fail"]
    inner = Clutch(name="inner").then(job("i"))
    clutch = (
        Clutch(name="nightly", on_finish=jobs.heard.message("x"))
        .then(job("first"), name="load")
        .parallel(job("a"), job("b"))
        .then(job("sum"))
        .parallel(inner, job("j"))
        .then(nests.message("nested"), name="nesting")
    )
    with traces.tracer.start_as_current_span("request"):
        run = clutch.run(tags=["eu"])
    with running_worker(broker):
        run.get_result(block=True)
        traces.wait_for("process heard")
    tree = traces.tree()
    a, b = "      process job 0", "      process job 1"
    assert sorted(tree[5:8]) == [a, b, b]
    assert tree[:5] == ["request", "  run nightly", "    stage load", "      process job 0", "    stage 1"]
    assert tree[8:10] == ["    stage 2", "      process job 0"]
    nested = ["      run inner", "        stage 0", "          process job 0", "      process job 1"]
    assert tree[10] == "    stage 3"
    assert sorted(tree[11:15]) == sorted(nested)
    assert tree[15:] == [
        "    stage nesting",
        "      process nests 0",
        "        run nested",
        "          stage 0",
        "            process job 0",
        "    process heard",
    ]
    assert len({span.context.trace_id for span in traces.spans if span.context}) == 1
    assert len({traces.id_of(span) for span in traces.spans}) == len(traces.spans)
    assert traces.links(traces.one("stage 2")) == ["process job", "process job"]  # a fan-in
    assert traces.links(traces.one("stage nesting")) == ["stage 3"]
    (again,) = [span for span in traces.named("process job") if span.attributes["dramatiq_clutch.attempt"] == 1]
    assert traces.links(again) == ["process job"]
    whole = traces.one("run nightly")
    for span in traces.spans:
        if span.name != "process heard" and span.name != "request":
            assert whole.start_time <= (span.start_time or 0) <= (span.end_time or 0) <= whole.end_time


def test_spans_say_what_they_are_of_and_not_what_the_arguments_are(
    broker: dramatiq.Broker, jobs: Jobs, traces: Traces
) -> None:
    run = Clutch(name="nightly").then(jobs.job.message("secret"), name="load").run(tags=["eu"])
    with running_worker(broker):
        run.get_result(block=True)
        traces.wait_for("run nightly")
    job, stage, whole = traces.one("process job"), traces.one("stage load"), traces.one("run nightly")
    assert dict(job.attributes) == {
        "messaging.system": "dramatiq",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "default",
        "messaging.message.id": job.attributes["messaging.message.id"],
        "dramatiq_clutch.run_id": run.run_id,
        "dramatiq_clutch.stage": 0,
        "dramatiq_clutch.member": 0,
        "dramatiq_clutch.actor": "job",
        "dramatiq_clutch.attempt": 0,
    }
    about = {"dramatiq_clutch.run_id": run.run_id, "dramatiq_clutch.run_name": "nightly"}
    assert dict(stage.attributes) == about | {
        "dramatiq_clutch.stage": 0,
        "dramatiq_clutch.stage_name": "load",
        "dramatiq_clutch.succeeded": 1,
        "dramatiq_clutch.dead": 0,
        "dramatiq_clutch.total": 1,
    }
    assert dict(whole.attributes) == about | {
        "dramatiq_clutch.state": "succeeded",
        "dramatiq_clutch.stages": 1,
        "dramatiq_clutch.tags": ("eu",),
    }
    assert (job.kind, stage.kind) == (trace.SpanKind.CONSUMER, trace.SpanKind.INTERNAL)
    assert whole.parent is None  # it begins a trace of its own
    assert not [span for span in traces.spans if "secret" in span.to_json()]


def test_a_run_that_fails_says_why_and_what_a_retry_does_is_inside_it(
    broker: dramatiq.Broker, jobs: Jobs, traces: Traces
) -> None:
    jobs.script["d"] = ["die"]
    run = Clutch(name="r").then(jobs.job.message("d")).then(jobs.job.message("after")).run()
    with running_worker(broker):
        with pytest.raises(RunFailed):
            run.get_result(block=True)
        traces.wait_for("run r")
        assert run.retry()
        run.get_result(block=True)
        traces.wait_for("run r", 2)
    failed = [traces.named("process job")[0], traces.named("stage 0")[0], traces.named("run r")[0]]
    for span in failed:
        (event,) = span.events
        assert (event.name, event.attributes["exception.message"]) == ("exception", "d dies")
        assert (span.status.status_code.name, span.status.description) == ("ERROR", "LookupError: d dies")
        assert "exception.stacktrace" in event.attributes
    tree = traces.tree()
    assert tree[:2] == ["run r", "  stage 0"]
    assert sorted(tree[2:5]) == ["    process job 0", "    process job 0", "    stage 0"]
    assert sorted(tree[5:]) == ["    process job 0", "  run r", "  stage 1"]
    assert [span.status.status_code.name for span in traces.spans if span not in failed] == ["UNSET"] * 5


def test_stages_that_are_done_again_have_spans_of_their_own(stub_broker: Any) -> None:
    traces, jobs = Traces(), Jobs(stub_broker)
    stub_broker.add_middleware(ClutchTracing(traces.provider))
    job = jobs.job.message
    run = Clutch(name="r", keep_results=True).then(job("a"), job("b")).run()
    with running_worker(stub_broker):
        run.get_result(block=True)
        traces.wait_for("run r", 1)
        assert run.retry(from_stage=1)
        run.get_result(block=True)
        traces.wait_for("run r", 2)
    first, again = ["run r", "  stage 0", "    process job 0", "  stage 1", "    process job 0"], "  stage 1"
    assert sorted(traces.tree()) == sorted([*first, "run r", again, "    process job 0"])
    assert len({traces.id_of(span) for span in traces.spans}) == len(traces.spans)


def test_a_run_that_is_taken_up_anew_before_its_end_is_told_has_its_own_spans_still(stub_broker: Any) -> None:
    traces, jobs, told, retried = Traces(), Jobs(stub_broker), list[str](), list[bool]()

    class Hasty(Observer):
        def after_transition(self, broker: dramatiq.Broker, run_id: str, news: News, at: int) -> None:
            if news.event == "succeeded" and not told:
                told.append(run_id)  # at once: the second success may come before `retry` has returned
                retried.append(Run(run_id, broker=broker).retry(from_stage=1))

    stub_broker.add_middleware(Hasty())
    stub_broker.add_middleware(ClutchTracing(traces.provider))
    Clutch(name="r", keep_results=True).then(jobs.job.message("a"), jobs.job.message("b")).run()
    with running_worker(stub_broker):
        traces.wait_for("run r", 2)
    assert retried == [True]
    assert len({traces.id_of(span) for span in traces.spans}) == len(traces.spans)
    assert {span.parent.span_id for span in traces.spans if span.parent} <= {traces.id_of(one) for one in traces.spans}


def test_a_job_that_asks_to_come_again_is_no_error(stub_broker: Any) -> None:
    traces = Traces()
    stub_broker.add_middleware(ClutchTracing(traces.provider))
    asked = list[int]()

    @dramatiq.actor(broker=stub_broker, min_backoff=1, max_backoff=1)
    def asks() -> None:
        asked.append(1)
        if len(asked) == 1:
            raise Retry("later", delay=1)

    run = Clutch().then(asks.message()).run()
    with running_worker(stub_broker):
        run.get_result(block=True)
    assert [span.status.status_code.name for span in traces.named("process asks")] == ["UNSET", "UNSET"]


def test_a_run_that_is_cancelled_ends_its_spans(broker: dramatiq.Broker, jobs: Jobs, traces: Traces) -> None:
    run = Clutch(name="r").parallel(Clutch(name="c").then(jobs.job.message("x"))).run()
    run.cancel()
    assert traces.tree() == ["run r", "  stage 0", "    run c", "      stage 0"]
    assert {span.attributes["dramatiq_clutch.state"] for span in traces.named("run r")} == {"cancelled"}


def test_what_is_sent_again_is_inside_what_was_sent_before(stub_broker: Any) -> None:
    traces, jobs = Traces(), Jobs(stub_broker)
    stub_broker.add_middleware(ClutchTracing(traces.provider))
    run = Clutch(name="r").then(jobs.job.message("x")).run()
    stub_broker.flush_all()  # it was lost
    assert run.resend()
    with running_worker(stub_broker):
        run.get_result(block=True)
        traces.wait_for("run r", 2)
    tree = traces.tree()
    assert (tree[0], sorted(tree)) == (
        "run r",
        sorted(["run r", "  stage 0", "    process job 0", "    stage 0", "  run r"]),
    )


def test_a_run_that_a_job_starts_is_inside_the_job(broker: dramatiq.Broker, jobs: Jobs, traces: Traces) -> None:
    @dramatiq.actor(broker=broker)
    def runs() -> None:
        Clutch(name="other").then(jobs.job.message("x")).then(nested.message()).run()

    @dramatiq.actor(broker=broker)
    def nested() -> Run:
        return Clutch(name="nested").then(jobs.job.message("y")).nest()

    run = Clutch(name="r").then(runs.message()).run()
    with running_worker(broker):
        run.get_result(block=True)
        traces.wait_for("run other")
    tree = traces.tree()
    assert tree[:4] == ["run r", "  stage 0", "    process runs 0", "      run other"]
    assert tree[-3:] == ["            run nested", "              stage 0", "                process job 0"]


def test_a_run_that_a_callback_starts_is_inside_the_callback(stub_broker: Any) -> None:
    traces, jobs = Traces(), Jobs(stub_broker)
    stub_broker.add_middleware(ClutchTracing(traces.provider))

    @dramatiq.actor(broker=stub_broker)
    def goes_on(status: dict[str, Any]) -> None:
        Clutch(name="next").then(jobs.job.message("x")).run()

    Clutch(name="r", on_success=goes_on).then(jobs.job.message("y")).run()
    with running_worker(stub_broker):
        traces.wait_for("run next")
    assert traces.tree()[3:5] == ["  process goes_on", "    run next"]


def test_what_the_sampler_leaves_out_is_left_out_whole(stub_broker: Any) -> None:
    for sampler in (ALWAYS_OFF, ParentBased(TraceIdRatioBased(0.0))):
        traces, jobs = Traces(sampler=sampler), Jobs(stub_broker)
        (*_, last) = stub_broker.middleware
        if isinstance(last, ClutchTracing):
            stub_broker.middleware.remove(last)
        stub_broker.add_middleware(ClutchTracing(traces.provider))
        run = Clutch().then(jobs.job.message("x"), jobs.job.message("y")).run()
        with running_worker(stub_broker):
            run.get_result(block=True)
        assert traces.spans == []
        stub_broker.actors.clear()


def test_a_new_trace_is_sampled_by_its_id_all_the_same_everywhere(stub_broker: Any) -> None:
    traces, jobs = Traces(sampler=ParentBased(TraceIdRatioBased(0.5))), Jobs(stub_broker)
    stub_broker.add_middleware(ClutchTracing(traces.provider))
    runs = [Clutch(name=f"{index}").then(jobs.job.message("x")).run() for index in range(20)]
    with running_worker(stub_broker):
        for run in runs:
            run.get_result(block=True)
    trees = {span.context.trace_id for span in traces.spans if span.context}
    assert len(traces.spans) == 3 * len(trees)


def test_what_else_makes_a_span_for_a_message_is_not_fought(stub_broker: Any) -> None:
    traces, jobs = Traces(), Jobs(stub_broker)

    class Instrumentation(Middleware):
        """As others do it: a span for each message, in a trace of its own, or in the one that the message is of."""

        same = True

        def before_process_message(self, broker: Any, message: Any) -> None:
            carried = Carried.from_option(message.options["clutch_trace"])
            assert carried is not None
            around = trace.set_span_in_context(trace.NonRecordingSpan(carried.span(7)))
            self.span = traces.tracer.start_span("theirs", around if self.same else context.Context())
            self.token = context.attach(trace.set_span_in_context(self.span))

        def after_process_message(self, broker: Any, message: Any, **how: Any) -> None:
            context.detach(self.token)
            self.span.end()

    theirs = Instrumentation()
    stub_broker.add_middleware(theirs)
    stub_broker.add_middleware(ClutchTracing(traces.provider))
    for same in (True, False):
        theirs.same = same
        run = Clutch().then(jobs.job.message("x")).run()
        with running_worker(stub_broker, threads=1):
            run.get_result(block=True)
        job = traces.named("process job")[-1]
        parent = job.parent.span_id == traces.id_of(traces.named("theirs")[-1])
        assert (parent, traces.links(job)) == ((True, []) if same else (False, ["theirs"]))


def test_the_span_of_an_attempt_is_current_in_its_actor(stub_broker: Any) -> None:
    traces, found = Traces(), list[Any]()
    stub_broker.add_middleware(AsyncIO())
    stub_broker.add_middleware(ClutchTracing(traces.provider))

    @dramatiq.actor(broker=stub_broker)
    def plain() -> None:
        found.append(trace.get_current_span())

    @dramatiq.actor(broker=stub_broker)
    async def waits() -> None:
        await asyncio.sleep(0)
        found.append(trace.get_current_span())

    run = Clutch().then(plain.message(), waits.message()).run()
    with running_worker(stub_broker):
        run.get_result(block=True)
    assert [span.name for span in found] == ["process plain", "process waits"]
    assert not trace.get_current_span().get_span_context().is_valid


def test_a_message_that_is_skipped_says_so_and_a_copy_of_one_that_is_done_says_nothing(stub_broker: Any) -> None:
    traces, jobs = Traces(), Jobs(stub_broker)
    stub_broker.add_middleware(ClutchTracing(traces.provider), before=ClutchMiddleware)

    class Skips(Middleware):
        def before_process_message(self, broker: Any, message: Any) -> None:
            if message.args == ("skip",):
                raise SkipMessage("not today")

    stub_broker.add_middleware(Skips())
    run = Clutch().parallel(jobs.job.message("skip"), jobs.job.message("x")).run()
    copy = stub_broker.queues["default"].queue[-1]
    with running_worker(stub_broker):
        run.get_result(block=True)
        stub_broker.queues["default"].put(copy)
        stub_broker.join("default")
    skipped = {span.attributes.get("dramatiq_clutch.skipped", False) for span in traces.named("process job")}
    assert (skipped, len(traces.named("process job"))) == ({True, False}, 2)


def test_a_run_that_a_process_without_traces_has_started_is_not_traced(stub_broker: Any) -> None:
    traces, jobs = Traces(), Jobs(stub_broker)
    run = Clutch(on_success=jobs.heard.message("x")).then(jobs.job.message("x")).run()
    stub_broker.add_middleware(ClutchTracing(traces.provider))
    with running_worker(stub_broker):
        run.get_result(block=True)
        jobs.wait_fired("x", "S")
    assert traces.spans == []


class Others(trace.TracerProvider):
    """As another SDK: a tracer that says nothing of how it chooses ids, or what it leaves out."""

    class Tracer(trace.NoOpTracer):
        def __init__(self, tracer: trace.Tracer) -> None:
            self._tracer = tracer

        def start_span(self, *args: Any, **how: Any) -> trace.Span:
            return self._tracer.start_span(*args, **how)

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider

    def get_tracer(self, *args: Any, **how: Any) -> trace.Tracer:
        return self.Tracer(self._provider.get_tracer("others"))


def test_with_an_sdk_that_chooses_ids_by_itself_a_run_is_one_trace_still(stub_broker: Any) -> None:
    traces, jobs = Traces(), Jobs(stub_broker)
    stub_broker.add_middleware(ClutchTracing(Others(traces.provider)))
    run = Clutch(name="r").then(jobs.job.message("x"), jobs.job.message("y")).run()
    with running_worker(stub_broker):
        run.get_result(block=True)
    names = sorted(span.name for span in traces.spans)
    assert names == ["process job", "process job", "run r", "stage 0", "stage 1"]
    assert len({span.context.trace_id for span in traces.spans if span.context}) == 1


def test_without_an_sdk_nothing_is_carried(stub_broker: Any) -> None:
    assert ClutchTracing(trace.NoOpTracerProvider()).clutch_carried() == {}


@pytest.mark.parametrize(
    "option", [None, 1, "x", {}, {"traceparent": "x"}, {"traceparent": "00-0-0-01"}, {"traceparent": "00-zz-1-01"}]
)
def test_what_is_no_trace_is_none(option: Any) -> None:
    assert Carried.from_option(option) is None


def test_what_is_carried_survives_the_way() -> None:
    for carried in (Carried(2**127, True), Carried(1, False, 2, 3, "r~0.1", "a=b")):
        assert Carried.from_option(json.loads(json.dumps(carried.to_option()))) == carried


def test_who_lacks_opentelemetry_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    for name in [name for name in sys.modules if name.startswith("dramatiq_clutch.tracing")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=r"pip install 'dramatiq-clutch\[otel\]'"):
        __import__("dramatiq_clutch.tracing")


@pytest.mark.process
def test_the_spans_of_several_processes_make_one_trace(tmp_path: Path) -> None:
    spans = record(tmp_path)
    known = {span["context"]["span_id"]: span for span in spans}
    assert len(known) == len(spans) == 21
    assert len({span["context"]["trace_id"] for span in spans}) == 1
    assert [span["name"] for span in spans if span["parent_id"] is None] == ["POST /reports"]
    assert [span["name"] for span in spans if span["parent_id"] and span["parent_id"] not in known] == []
    where = {span["resource"]["attributes"]["service.name"] for span in spans if span["name"] != "POST /reports"}
    assert where <= {"worker 1", "worker 2"}  # whoever completes a stage or the run tells of it
    (report,) = [span for span in spans if span["name"] == "stage load"]
    assert [known[link["context"]["span_id"]]["name"] for link in report["links"]] == ["process extract"] * 3
    root = ET.fromstring(draw(spans))
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"run nightly", "stage load", "run north", "report 0", "tell"} <= set(texts)


def test_the_picture_of_the_guide_is_one_of_such_a_trace() -> None:
    root = ET.parse(PICTURE).getroot()
    assert len(root.findall("{http://www.w3.org/2000/svg}rect")) == 1 + 21 + len(COLOURS)


# Observers


def test_an_observer_that_fails_is_logged_and_changes_nothing(
    stub_broker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    jobs, heard = Jobs(stub_broker), list[str]()

    class Fails(Observer):
        def after_transition(self, broker: dramatiq.Broker, run_id: str, news: News, at: int) -> None:
            raise LookupError("broken")

    class Hears(Observer):
        def after_transition(self, broker: dramatiq.Broker, run_id: str, news: News, at: int) -> None:
            assert broker is stub_broker
            heard.append(news.event)

    stub_broker.add_middleware(Fails())
    stub_broker.add_middleware(Hears())
    run = Clutch().then(jobs.job.message("x"), jobs.job.message("y")).run()
    with running_worker(stub_broker):
        assert run.get_result(block=True) == "y"
    assert heard == ["started", "released", "succeeded"]
    assert f"couldn't be told that run {run.run_id} started" in caplog.text
