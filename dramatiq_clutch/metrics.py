"""Metrics for Prometheus, beside those of Dramatiq's own middleware and on the same page.

For example, where the broker is set up::

    from dramatiq.middleware.prometheus import Prometheus
    from dramatiq_clutch.metrics import ClutchPrometheus

    broker.add_middleware(Prometheus())
    broker.add_middleware(ClutchMiddleware())
    broker.add_middleware(ClutchPrometheus())

Workers write into the folder of Dramatiq's middleware (`dramatiq_prom_db`), whose server shows both. A process that
isn't a worker, such as a web application, shows its own: it keeps the middleware, ``metrics = ClutchPrometheus()``, and
says ``metrics.expose(registry)``.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
from typing import Any

from dramatiq import Broker, Worker
from dramatiq.logging import get_logger

from . import carrying
from .errors import Unavailable
from .listing import count_runs
from .news import News, stage_name
from .observing import (
    Absorbed,
    AttemptBegan,
    DutyTakenOver,
    MembersSent,
    Observer,
    RunStalled,
    Sighting,
    WaitBegan,
    WaitEnded,
)
from .stored.places import OPTION

#: How many values a label has in one process, at most; all others become `OTHER`.
MOST_VALUES = 100

OTHER = "other"

#: Of how many stages a process remembers when they were released.
MOST_REMEMBERED = 10_000

#: How often a worker process counts the runs of its application, in seconds.
COUNT_AGAIN = 15.0

#: The buckets of short times (hand-overs, waits) and of long ones (stages, runs), in seconds.
SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
LONG = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3_600, 4 * 3_600, 86_400, 7 * 86_400)

#: The metrics: kind, help, labels and buckets, by their names without the prefix `dramatiq_clutch_`.
METRICS: dict[str, tuple[str, str, tuple[str, ...], tuple[float, ...]]] = {
    "runs_started_total": ("Counter", "Runs that were started.", ("clutch",), ()),
    "runs_ended_total": ("Counter", "How often runs came to rest, and in which state.", ("clutch", "state"), ()),
    "transitions_total": ("Counter", "What the log of runs tells, by its events.", ("clutch", "event"), ()),
    "runs": ("Gauge", "Runs that the state store knows, of all processes, by their state.", ("state",), ()),
    "run_duration_seconds": ("Histogram", "From a run's start until it came to rest.", ("clutch", "state"), LONG),
    "stage_duration_seconds": (
        "Histogram",
        "From a stage's release, or a retry, until it was complete.",
        ("clutch", "stage"),
        LONG,
    ),
    "worker_wait_seconds": ("Histogram", "For how long messages waited for a worker.", ("queue_name",), SHORT),
    "handover_seconds": ("Histogram", "From a transition until the messages that it owed were sent.", (), SHORT),
    "duties_taken_over_total": ("Counter", "Duties that somebody else had left undone.", ("kind",), ()),
    "absorbed_total": ("Counter", "Messages and ends of attempts that changed nothing.", ("word",), ()),
    "runs_stalled_total": ("Counter", "How often a sweeper found a stalled run.", (), ()),
    "waits_total": ("Counter", "How often a message began to wait for the store or the broker.", (), ()),
    "wait_seconds": ("Histogram", "For how long messages waited for the store or the broker.", (), SHORT),
}

#: The metrics of this process, by their names without the prefix, once there are any. All middlewares have these that
#: weren't told to expose their own, because a registry takes each name once. Whoever makes them holds the lock.
OF_PROCESS: dict[str, Any] = {}

LOCK = threading.Lock()

logger: logging.Logger = get_logger(__name__)


class ClutchPrometheus(Observer):
    """Counts and measures runs for Prometheus: ``broker.add_middleware(ClutchPrometheus())``, in producers and workers
    alike, beside the `ClutchMiddleware`; see the module's docstring.

    Where it is neither in a process of the `dramatiq` command nor told to `expose` its metrics, they are in
    prometheus_client's own registry from the first event on, those of all brokers of the process together. No label has
    an id or a tag of a run. `runs` is counted by the store, once in 15 seconds in each worker process, and is the same
    in all; so take the maximum, not the sum.

    Raises ImportError if prometheus_client isn't installed.
    """

    def __init__(self) -> None:
        # It isn't imported: what it keeps is decided then, and in a worker the folder is known only after the boot.
        if importlib.util.find_spec("prometheus_client") is None:
            raise ImportError(
                "dramatiq_clutch.metrics needs prometheus_client: pip install 'dramatiq-clutch[prometheus]'"
            )
        self._lock = threading.RLock()
        self._metrics: dict[str, Any] = {}
        self._values: dict[str, set[str]] = {}
        self._starts: dict[str, tuple[int, int]] = {}
        self._stopping: dict[Worker, threading.Event] = {}

    def expose(self, registry: Any) -> None:
        """Make the metrics in this registry (a `prometheus_client.CollectorRegistry`), in a process that isn't a
        worker. Call it once, before the first run."""
        self._metrics = _made_in(registry)

    # The life of a process

    def after_process_boot(self, broker: Broker) -> None:
        from dramatiq.middleware.prometheus import DB_PATH

        os.environ["PROMETHEUS_MULTIPROC_DIR"] = os.environ["prometheus_multiproc_dir"] = DB_PATH  # noqa: SIM112
        import prometheus_client

        with LOCK:
            OF_PROCESS.update(_made_in(prometheus_client.CollectorRegistry()))
        self._metrics = OF_PROCESS

    def after_worker_boot(self, broker: Broker, worker: Worker) -> None:
        self._stopping[worker] = stopping = threading.Event()
        threading.Thread(target=self._count, args=(broker, stopping), name="clutch-count", daemon=True).start()

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        stopping = self._stopping.pop(worker, None)
        if stopping is not None:
            stopping.set()

    def _count(self, broker: Broker, stopping: threading.Event) -> None:
        while not stopping.is_set():
            try:
                for state, number in count_runs(broker).items():
                    self._metric("runs", state).set(number)
            except Unavailable as error:
                logger.debug("The runs can't be counted now: %s", error)
            except Exception:
                logger.exception("Counting the runs met an error; it is tried again.")
            stopping.wait(COUNT_AGAIN)

    # What happens

    def after_transition(self, broker: Broker, run_id: str, news: News, at: int) -> None:
        clutch = self._bounded("clutch", news.name)
        self._metric("transitions_total", clutch, news.event).inc()
        if news.event == "started":
            self._metric("runs_started_total", clutch).inc()
        if news.event in ("succeeded", "failed", "cancelled"):
            self._metric("runs_ended_total", clutch, news.event).inc()
            self._metric("run_duration_seconds", clutch, news.event).observe(max(at - news.created, 0) / 1000)
        if news.event in ("released", "succeeded") and news.stages:
            since = self._start_of(run_id, news.stage)
            if since is not None:
                stage = self._bounded("stage", stage_name(news.line) or str(news.stage))
                self._metric("stage_duration_seconds", clutch, stage).observe(max(at - since, 0) / 1000)
        self._remember(run_id, news, at)

    def observe(self, broker: Broker, sighting: Sighting) -> None:
        match sighting:
            case AttemptBegan():
                queue = self._bounded("queue_name", sighting.queue)
                self._metric("worker_wait_seconds", queue).observe(sighting.waited)
            case MembersSent():
                self._metric("handover_seconds").observe(sighting.seconds)
            case DutyTakenOver():
                self._metric("duties_taken_over_total", self._bounded("kind", sighting.kind)).inc()
            case Absorbed():
                self._metric("absorbed_total", sighting.word).inc()
            case RunStalled():
                self._metric("runs_stalled_total").inc()
            case WaitBegan():
                self._metric("waits_total").inc()
            case WaitEnded():
                self._metric("wait_seconds").observe(sighting.seconds)

    def _metric(self, name: str, *labels: str) -> Any:
        metric = (self._metrics or _of_process())[name]
        return metric.labels(*labels) if labels else metric

    def _bounded(self, label: str, value: str) -> str:
        """The value; or OTHER if the label has too many already."""
        with self._lock:
            known = self._values.setdefault(label, set())
            if value not in known and len(known) >= MOST_VALUES:
                return OTHER
            known.add(value)
            return value

    def _remember(self, run_id: str, news: News, at: int) -> None:
        """Remember when the present stage of a run began, or was retried."""
        with self._lock:
            if news.event in ("succeeded", "failed", "cancelled"):
                self._starts.pop(run_id, None)
            elif news.event in ("started", "released", "rewound", "retried", "resent"):
                while len(self._starts) >= MOST_REMEMBERED:
                    self._starts.pop(next(iter(self._starts)))
                self._starts[run_id] = news.stage + (news.event == "released"), at

    def _start_of(self, run_id: str, stage: int) -> int | None:
        """When a stage began (UNIX milliseconds): as this process remembers, or when the message was sent that is
        worked on here, whose end has completed it. None if neither is known."""
        with self._lock:
            known, at = self._starts.get(run_id, (None, 0))
        if known == stage:
            return at
        message = carrying.present()
        tag = None if message is None else message.options.get(OPTION)
        if message is None or not isinstance(tag, dict) or tag.get("run") != run_id or tag.get("stage") != stage:
            return None
        return int(message.message_timestamp)


def _made_in(registry: Any) -> dict[str, Any]:
    """All metrics, made in this registry, by their names without the prefix."""
    import prometheus_client

    made: dict[str, Any] = {}
    for name, (kind, about, labels, buckets) in METRICS.items():
        more: dict[str, Any] = {"buckets": buckets} if buckets else {}
        more |= {"multiprocess_mode": "livemostrecent"} if kind == "Gauge" else {}
        make = getattr(prometheus_client, kind)
        made[name] = make(f"dramatiq_clutch_{name}", about, labels, registry=registry, **more)
    return made


def _of_process() -> dict[str, Any]:
    """The metrics of this process; outside of a worker's they are in prometheus_client's own registry."""
    with LOCK:
        if not OF_PROCESS:
            import prometheus_client

            OF_PROCESS.update(_made_in(prometheus_client.REGISTRY))
        return OF_PROCESS
