"""A run that two worker processes work on, traced: its actors, and how its spans are collected.

A worker imports this module and writes its spans into a file of its own in the folder that the setting names.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from dramatiq_clutch import Clutch, ClutchMiddleware, previous_failures, previous_results
from dramatiq_clutch.tracing import ClutchTracing
from tests.support.awaiting import wait_until
from tests.support.server import Server
from tests.support.workers import Worker

#: In the environment of each of the processes: the server, the folder for spans, and the name of the process.
URL, FOLDER, NAME = "REDIS_URL", "TRACED_FOLDER", "TRACED_NAME"

#: How long jobs of each kind take, in seconds, so that there is something to be seen.
TAKES = {"orders": 0.12, "items": 0.22, "prices": 0.08, "north": 0.1, "south": 0.16, "ship": 0.06, "report": 0.08}


def as_line(span: ReadableSpan) -> str:
    return f"{span.to_json(indent=None)}\n"


def provider(out: TextIO, name: str) -> TracerProvider:
    """Writes each span, as a line of JSON, when it is over."""
    made = TracerProvider(resource=Resource({"service.name": name}), shutdown_on_exit=False)
    made.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=out, formatter=as_line)))
    return made


def broker_at(url: str, traces: TracerProvider) -> RedisBroker:
    broker = RedisBroker(url=url)
    broker.add_middleware(ClutchMiddleware())
    broker.add_middleware(ClutchTracing(traces))
    return broker


def actors(broker: dramatiq.Broker) -> Callable[[], Clutch]:
    """Declare the actors. Returns what makes the clutch of them."""

    def work(name: str) -> str:
        time.sleep(TAKES[name])
        return name

    @dramatiq.actor(broker=broker, min_backoff=40, max_backoff=40)
    def extract(source: str) -> str:
        client: Any = broker.client  # type: ignore[attr-defined]
        if source == "prices" and client.incr("attempts") == 1:
            time.sleep(TAKES[source] / 2)
            raise TimeoutError("prices: no answer")
        return work(source)

    @dramatiq.actor(broker=broker)
    def load(region: str) -> str:
        return work(region)

    @dramatiq.actor(broker=broker)
    def ship(region: str) -> str:
        return work("ship")

    @dramatiq.actor(broker=broker)
    def report() -> int:
        work("report")
        return len(previous_results()) + len(previous_failures())

    @dramatiq.actor(broker=broker)
    def tell(status: dict[str, Any]) -> None:
        work("ship")

    def clutch() -> Clutch:
        region = (Clutch(name=name).then(load.message(name)).then(ship.message(name)) for name in ("north", "south"))
        return (
            Clutch(name="nightly", on_success=tell, broker=broker)
            .parallel([extract.message(source) for source in ("orders", "items", "prices")], name="extract")
            .parallel(*region, name="load")
            .then(report.message(), name="report")
        )

    return clutch


def spans_in(folder: Path) -> Iterator[dict[str, Any]]:
    """What all processes have written so far."""
    for file in sorted(folder.glob("*.jsonl")):
        yield from (json.loads(line) for line in file.read_text().splitlines() if line.endswith("}"))


def record(folder: Path) -> list[dict[str, Any]]:
    """Have two worker processes do a run that this process starts, within a span of its own. Returns all spans."""
    with ExitStack() as stack:
        server = stack.enter_context(Server())
        for number in (1, 2):
            env = {URL: server.url, FOLDER: str(folder), NAME: f"worker {number}", "dramatiq_queue_prefetch": "1"}
            stack.enter_context(Worker(__name__, threads=2, env=env)).wait_ready()
        traces = provider(stack.enter_context((folder / "web.jsonl").open("a")), "web")
        broker = broker_at(server.url, traces)
        clutch = actors(broker)()
        with traces.get_tracer("web").start_as_current_span("POST /reports"):
            run = clutch.run()
        run.get_result(block=True, timeout=60_000)
        wait_until("the last span", lambda: any(span["name"] == "process tell" for span in spans_in(folder)))
        broker.close()
        return list(spans_in(folder))


if FOLDER in os.environ:
    name = os.environ[NAME]
    out = Path(os.environ[FOLDER], f"{name}.jsonl").open("a")  # noqa: SIM115 (as long as the process lives)
    broker = broker_at(os.environ[URL], provider(out, name))
    dramatiq.set_broker(broker)
    actors(broker)
