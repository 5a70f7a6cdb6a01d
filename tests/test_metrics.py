"""What Prometheus is told of runs, and what the dashboard asks for."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from dramatiq.brokers.stub import StubBroker
from prometheus_client import CollectorRegistry

from dramatiq_clutch import Clutch, metrics, observing
from dramatiq_clutch.metrics import METRICS, ClutchPrometheus
from tests.conftest import running_worker
from tests.support.awaiting import wait_until
from tests.support.jobs import Jobs, state_is
from tests.support.server import Server, free_port
from tests.support.workers import Worker

DASHBOARD = Path(__file__).parent.parent / "examples" / "grafana" / "dramatiq-clutch.json"

#: What PromQL has of itself in the expressions.
WORDS = {"sum", "max", "by", "rate", "histogram_quantile", "le"}


@pytest.fixture
def registry(stub_broker: StubBroker) -> CollectorRegistry:
    registry, middleware = CollectorRegistry(), ClutchPrometheus()
    middleware.expose(registry)
    stub_broker.add_middleware(middleware)
    return registry


def value(registry: CollectorRegistry, name: str, **labels: str) -> float:
    return registry.get_sample_value(f"dramatiq_clutch_{name}", labels) or 0.0


def test_runs_stages_and_jobs_are_measured(
    stub_broker: StubBroker, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "COUNT_AGAIN", 0.02)
    jobs = Jobs(stub_broker)
    jobs.script["x"], jobs.script["z"] = ["fail"], ["die"]
    good = Clutch(name="good").then(jobs.job.message("x"), jobs.job.message("y")).run()
    bad = Clutch(name="bad").then(jobs.job.message("z")).run()
    gone = Clutch(name="gone").then(jobs.job.message("w")).run()
    gone.cancel()
    with running_worker(stub_broker):
        state_is(good, "succeeded")
        state_is(bad, "failed")
        # The retry may overtake the record of the attempt before it, which is then absorbed, too.
        wait_until("the cancelled job", lambda: value(registry, "absorbed_total", word="over") >= 1)
        wait_until(
            "the runs to be counted", lambda: registry.get_sample_value("dramatiq_clutch_runs", {"state": "failed"})
        )
    assert [value(registry, "runs_started_total", clutch=name) for name in ("good", "bad", "gone")] == [1, 1, 1]
    for name, state in (("good", "succeeded"), ("bad", "failed"), ("gone", "cancelled")):
        assert value(registry, "runs_ended_total", clutch=name, state=state) == 1
        assert value(registry, "run_duration_seconds_count", clutch=name, state=state) == 1
    assert value(registry, "stage_duration_seconds_count", clutch="good", stage="0") == 1
    assert value(registry, "stage_duration_seconds_count", clutch="good", stage="1") == 1
    assert value(registry, "transitions_total", clutch="bad", event="dead") == 1
    assert value(registry, "worker_wait_seconds_count", queue_name="default") == 4
    assert value(registry, "handover_seconds_count") == 4


def test_what_is_seldom_is_counted(stub_broker: StubBroker, registry: CollectorRegistry) -> None:
    observing.show(stub_broker, observing.DutyTakenOver(run_id="r", kind="send"))
    observing.show(stub_broker, observing.RunStalled(run_id="r", resent=False))
    observing.show(stub_broker, observing.WaitBegan(run_id="r", message_id="m", error=OSError()))
    observing.show(stub_broker, observing.WaitEnded(run_id="r", message_id="m", seconds=2.0, given_up=False))
    assert value(registry, "duties_taken_over_total", kind="send") == 1
    assert value(registry, "runs_stalled_total") == value(registry, "waits_total") == 1
    assert value(registry, "wait_seconds_sum") == 2


def test_a_label_has_few_values(stub_broker: StubBroker, registry: CollectorRegistry) -> None:
    jobs = Jobs(stub_broker)
    for number in range(metrics.MOST_VALUES + 2):
        Clutch(name=f"clutch {number}").then(jobs.job.message("x")).run()
    assert value(registry, "runs_started_total", clutch="clutch 99") == 1
    assert value(registry, "runs_started_total", clutch="other") == 2


def test_brokers_of_one_process_have_their_metrics_together(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = CollectorRegistry()
    monkeypatch.setattr("prometheus_client.REGISTRY", registry)
    monkeypatch.setattr(metrics, "OF_PROCESS", {})
    for _ in range(2):
        broker = StubBroker()
        broker.add_middleware(ClutchPrometheus())
        observing.show(broker, observing.RunStalled(run_id="r", resent=False))
    assert value(registry, "runs_stalled_total") == 2


def test_its_absence_is_told_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'dramatiq-clutch\[prometheus\]'"):
        ClutchPrometheus()


def expressions() -> list[str]:
    return [target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel["targets"]]


def test_the_panels_of_the_dashboard_have_ids_of_their_own() -> None:
    ids = [panel["id"] for panel in json.loads(DASHBOARD.read_text())["panels"]]
    assert len(ids) == len(set(ids))


def test_the_dashboard_asks_for_what_is_exported_and_for_all_of_it() -> None:
    shown: set[str] = set()
    for expression in expressions():
        words = re.findall(r"(?<![$\w.])[a-z_]+\b", expression)
        (name,) = {word for word in words if word.startswith("dramatiq_clutch_")}
        metric = name.removeprefix("dramatiq_clutch_").removesuffix("_bucket")
        kind, _, labels, _ = METRICS[metric]
        assert name.endswith("_bucket") == (kind == "Histogram")
        assert set(words) - {name} <= WORDS | set(labels)
        shown.add(metric)
    assert shown == set(METRICS)


@pytest.mark.process
def test_a_worker_shows_its_metrics_beside_dramatiqs(server: Server, redis_client: Any, tmp_path: Path) -> None:
    (tmp_path / "measured.py").write_text(MEASURED)
    (tmp_path / "prom").mkdir()
    port = free_port()
    env = {
        "REDIS_URL": server.url,
        "PYTHONPATH": str(Path(__file__).parent.parent),
        "dramatiq_prom_db": str(tmp_path / "prom"),
        "dramatiq_prom_port": str(port),
        "dramatiq_prom_host": "127.0.0.1",
    }

    def scraped() -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                return str(answer.read().decode())
        except urllib.error.URLError:
            return ""

    with Worker("measured", env=env, root=tmp_path):
        for text in (
            'dramatiq_clutch_runs_ended_total{clutch="good",state="succeeded"} 1.0',
            'dramatiq_clutch_runs_ended_total{clutch="bad",state="failed"} 1.0',
            'dramatiq_clutch_runs_ended_total{clutch="gone",state="cancelled"} 1.0',
            'dramatiq_clutch_runs_started_total{clutch="good"} 1.0',
            'dramatiq_clutch_stage_duration_seconds_count{clutch="good",stage="0"} 1.0',
            'dramatiq_clutch_runs{state="running"}',
            'dramatiq_message_errors_total{actor_name="job",queue_name="default"}',
        ):
            wait_until(text, lambda text=text: text in scraped())  # type: ignore[misc]


#: The worker itself starts the runs, by a job of their own.
MEASURED = """
import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware.prometheus import Prometheus

from dramatiq_clutch import Clutch, ClutchMiddleware
from dramatiq_clutch.metrics import ClutchPrometheus

broker = RedisBroker(url=os.environ["REDIS_URL"])
if not any(isinstance(known, Prometheus) for known in broker.middleware):
    broker.add_middleware(Prometheus())
broker.add_middleware(ClutchMiddleware())
broker.add_middleware(ClutchPrometheus())
dramatiq.set_broker(broker)
tries = []


@dramatiq.actor(min_backoff=1, max_backoff=1, throws=LookupError)
def job(what):
    if what == "die":
        raise LookupError(what)
    if what == "fail" and not tries:
        tries.append(1)
        raise ValueError(what)


@dramatiq.actor
def begin():
    Clutch(name="good").then(job.message("fail"), job.message("ok")).run()
    Clutch(name="bad").then(job.message("die")).run()
    Clutch(name="gone").then(job.message("ok")).run(delay=60_000).cancel()


class Begins(dramatiq.Middleware):
    def after_worker_boot(self, broker, worker):
        begin.send()


broker.add_middleware(Begins())
"""
