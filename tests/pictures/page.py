"""Pictures of the page of runs, of real runs that a real worker works on: `python -m tests.pictures.page FOLDER`.

Each is taken at 1,440 and 360 pixels, in both themes. Those of the guide are written with `--kept examples/pictures`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from dramatiq_clutch import Clutch, ClutchMiddleware, Run
from dramatiq_clutch.web import app
from tests.support.awaiting import wait_until
from tests.support.browser import browsing, served
from tests.support.server import Server

#: How wide the pictures are, in pixels, and in which themes.
WIDTHS, THEMES = (1440, 360), ("light", "dark")

#: Those of the guide: which picture, width and theme.
KEPT = {
    ("list", 1440, "light"): "runs.png",
    ("run", 1440, "light"): "run.png",
    ("run", 1440, "dark"): "run-dark.png",
    ("list", 360, "dark"): "runs-narrow.png",
}


@contextmanager
def played(url: str) -> Iterator[tuple[dramatiq.Broker, dict[str, str]]]:
    """A broker, and the ids of some runs that have got as far as is worth a picture."""
    broker = RedisBroker(url=url, namespace="shop")
    broker.add_middleware(ClutchMiddleware())
    dramatiq.set_broker(broker)

    @dramatiq.actor(min_backoff=3_600_000, max_backoff=3_600_000)
    def fetch(source: str, page: int) -> str:
        time.sleep(0.05 + page * 37 % 11 * 0.06)
        if page in (17, 41):
            raise TimeoutError(f"{source}: no answer within 30 s")
        return f"{source} {page}"

    @dramatiq.actor(throws=(ValueError,))
    def check(page: int) -> int:
        time.sleep(0.01)
        if page == 7:
            raise ValueError("page 7 has no column 'price'")
        return page

    @dramatiq.actor
    def load(name: str) -> str:
        time.sleep(0.15)
        return name

    @dramatiq.actor
    def report(*, to: str = "sales") -> None:
        time.sleep(0.05)

    @dramatiq.actor(queue_name="mail")
    def tell_sales(status: dict[str, Any]) -> None: ...

    @dramatiq.actor(throws=(ConnectionError,))
    def call_somebody(status: dict[str, Any]) -> None:
        raise ConnectionError("the telephone is away")

    @dramatiq.actor(min_backoff=3_600_000, max_backoff=3_600_000)
    def store_report(bucket: str, status: dict[str, Any]) -> None:
        raise TimeoutError(bucket)

    worker = dramatiq.Worker(broker, worker_threads=4, worker_timeout=100)
    worker.start()
    region = (
        Clutch(name="region")
        .parallel([check.message(page) for page in range(12)], name="check")
        .then(report.message(), name="sum")
    )
    nightly = (
        Clutch(name="nightly import", timings=True, context={"tenant": "acme", "day": "2026-11-28"})
        .then(load.message("catalogue"), name="catalogue")
        .parallel([fetch.message("warehouse", page) for page in range(60)], name="fetch pages")
        .parallel([region] * 3, name="regions")
        .then(report.message(to="board"), name="report")
    )
    try:
        for number in range(8):
            run = Clutch(name="invoices").parallel([load.message(str(one)) for one in range(4)]).then(report.message())
            run.run(run_id=f"invoices-{2031 + number}", tags=["billing", f"customer-{number % 3 + 4}"]).get_result(
                block=True, timeout=60_000
            )
        ids = {"run": nightly.run(run_id="nightly-2026-11-28", tags=["nightly", "acme"]).run_id}
        failed = (
            Clutch(
                name="price list",
                on_death=call_somebody,
                on_success=tell_sales,
                on_failed=tell_sales,
                on_finish=[partial(store_report, "reports"), tell_sales],
            )
            .then(load.message("prices"), name="load")
            .parallel([check.message(page) for page in range(40)], name="check")
            .then(report.message(), name="publish")
        )
        ids["failed"] = failed.run(run_id="prices-week-48", tags=["prices"]).run_id
        wait_until("its callbacks to be sent", lambda: Run(ids["failed"]).callbacks()[-1].state == "succeeded")
        nested = (
            Clutch(name="all regions").then(load.message("regions"), name="load").parallel([region] * 5, name="regions")
        )
        ids["nested"] = nested.then(report.message(), name="report").run(tags=["regions"]).run_id
        wait_until("the nested runs to fail", lambda: Run(ids["nested"]).status().state == "failed")
        wait_until("all pages but two to be there", lambda: Run(ids["run"]).status().stages[1].succeeded == 58)
        cancelled = Clutch(name="newsletter").then(report.message()).run(delay=3_600_000, tags=["mail"])
        cancelled.cancel()
        Clutch(name="newsletter").parallel([report.message()] * 900).run(delay=3_600_000, tags=["mail"])
        yield broker, ids
    finally:
        worker.stop()
        broker.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kept", type=Path, help="where those of the guide go")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    with Server() as server, played(server.url) as (broker, ids), served(app(broker, actions=True)) as address:
        pages = {"list": "/", **{name: f"/run?id={run_id}" for name, run_id in ids.items()}}
        for theme in THEMES:
            for width in WIDTHS:
                with browsing(width=width, height=900, theme=theme) as page:
                    for name, path in pages.items():
                        page.goto(address + path)
                        page.wait_for_selector("[data-state=live]")
                        file = given.folder / f"{name}-{width}-{theme}.png"
                        page.screenshot(path=file, full_page=True)
                        if given.kept and (kept := KEPT.get((name, width, theme))):
                            page.screenshot(path=given.kept / kept)  # what is seen at first
    return 0


if __name__ == "__main__":
    sys.exit(main())
