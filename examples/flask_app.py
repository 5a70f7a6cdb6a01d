"""A report behind Flask: a request starts a run, others ask how it stands, and one cancels it.

    python examples/flask_app.py

It starts the application, two worker processes and, without a REDIS_URL, an embedded Valkey, all of them on the
loopback interface; then it plays a client, and stops everything. In an application of yours, what matters are the two
lines of the broker, and `Run(run_id)` wherever a request is about a run.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import urllib.error
import urllib.request
from contextlib import suppress
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from flask import Flask, jsonify, request
from running import REDIS_URL, interrupt_at_the_next_pause, pause, server_and_workers
from werkzeug.serving import make_server

from dramatiq_clutch import Clutch, ClutchMiddleware, ResultsGone, Run, RunNotFound, previous_results

broker = RedisBroker(url=REDIS_URL, namespace="flask-app")
broker.add_middleware(ClutchMiddleware())
dramatiq.set_broker(broker)


@dramatiq.actor(throws=ValueError)
def count(month: str) -> int:
    if not month.isdecimal():
        raise ValueError(f"there is no month {month!r}")
    return int(month) * 100


@dramatiq.actor
def summarise() -> dict[str, Any]:
    return {"months": len(previous_results()), "sold": sum(previous_results())}


app = Flask(__name__)


@app.post("/reports")
def start() -> Any:
    months = request.get_json()["months"]
    delay = request.args.get("delay", 0, int)
    run = Clutch(name="report").parallel(count.message(month) for month in months).then(summarise).run(delay=delay)
    return jsonify(id=run.run_id), 202


@app.get("/reports/<run_id>")
def show(run_id: str) -> Any:
    run = Run(run_id)
    status = run.status()
    told: dict[str, Any] = {
        "state": status.state,
        "failures": [failure.exception_text for failure in status.failures],
    }
    if status.state == "succeeded":
        with suppress(ResultsGone):  # a result is kept for ten minutes, a status for a week
            told["report"] = run.get_result()
    return jsonify(told)


@app.delete("/reports/<run_id>")
def cancel(run_id: str) -> Any:
    return jsonify(cancelled=Run(run_id).cancel())


@app.errorhandler(RunNotFound)
def unknown(_error: RunNotFound) -> Any:
    return jsonify(error="there is no such report"), 404


# A client.


def call(address: str, method: str = "GET", **body: Any) -> tuple[int, Any]:
    """The status of an answer, and what it says."""
    data = json.dumps(body).encode() if body else None
    asked = urllib.request.Request(address, data, {"Content-Type": "application/json"}, method=method)
    answer: Any  # an HTTPError has a status, too
    try:
        answer = urllib.request.urlopen(asked, timeout=30)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return int(answer.status or 0), json.load(answer)


def end_of(address: str) -> Any:
    """How a report has ended."""
    while (told := call(address)[1])["state"] in ("running", "failing"):
        pause(0.05)
    return told


def client(service: str) -> None:
    _, started = call(f"{service}/reports", "POST", months=["1", "2", "3"])
    print("1. A report:", end_of(f"{service}/reports/{started['id']}"))
    _, started = call(f"{service}/reports", "POST", months=["1", "<b>May</b>"])
    print("2. One of a month that there isn't:", end_of(f"{service}/reports/{started['id']}"))
    _, started = call(f"{service}/reports?delay=60000", "POST", months=["4"])
    print("3. One that is cancelled:", call(f"{service}/reports/{started['id']}", "DELETE")[1], end=", ")
    print(end_of(f"{service}/reports/{started['id']}"))
    print("4. One that nobody has asked for:", *call(f"{service}/reports/none"))


def main() -> int:
    interrupt_at_the_next_pause()
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # which has a line for each request
    with server_and_workers(__file__):
        service = make_server("127.0.0.1", 0, app, threaded=True)
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        try:
            client(f"http://127.0.0.1:{service.server_port}")
        finally:
            service.shutdown()
            thread.join()
            service.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
